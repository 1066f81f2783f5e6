/* Recovery: see journal.c for what is decided and why. Runs before anything else, blocking. */
#include "sidecar/log/journal_internal.h"

#include "sidecar/log/segment_scan.h"

#include <assert.h>
#include <stdlib.h>

struct recovery {
    struct journal *j;
    journal_visit_cb visit;
    void *data;
    uint32_t *numbers; /* of the segment files, ascending */
    size_t numbers_count;
    size_t numbers_capacity;
    bool out_of_memory; /* met in a callback */
    bool failed_marker;
    bool id_known; /* a segment's head told the journal's id */

    /* The batch that is being read. */
    uint64_t batch_number;
    uint64_t batch_shards;
    uint64_t batch_end; /* offset in the segment; 0: outside of a batch */
    uint64_t batch_start;
    uint64_t batches_count; /* readable ones in this segment */

    /* Unreadable bytes since then, whose extent the next BATCH record tells. */
    bool lost;
    uint64_t lost_shards;

    /* Damages of this journal as far as it was read, and the set of shards (as in BATCH) that lost records by them. */
    journal_place *damages;
    size_t damages_count;
    size_t damages_capacity;
    uint64_t damaged_shards;
    bool unsettled; /* not all of them are listed by the newest segment's head */
    journal_place *listed;
    size_t listed_count;
};

/* --- damage ------------------------------------------------------------------------------------------------------- */

static void freeze(struct journal_shard *s)
{
    s->damaged = true;
    s->frozen = true;
}

static bool is_listed(const struct recovery *r, journal_place place)
{
    for (size_t i = 0; i < r->listed_count; i++) {
        if (r->listed[i] == place) {
            return true;
        }
    }
    return false;
}

static int damage_add(struct recovery *r, journal_place place)
{
    if (r->damages_count == r->damages_capacity) {
        journal_place *grown = realloc(r->damages, (r->damages_capacity * 2 + 8) * sizeof *grown);
        if (grown == NULL) {
            return OTR_NOMEM;
        }
        r->damages = grown;
        r->damages_capacity = r->damages_capacity * 2 + 8;
    }
    r->damages[r->damages_count++] = place;
    r->unsettled = true;
    return 0;
}

/* Something unreadable stands at `place`, in the batch that is being read or behind it. */
static int damage_lost(struct recovery *r, journal_place place)
{
    if (!r->lost) {
        r->lost = true;
        r->lost_shards = place_offset(place) < r->batch_end ? r->batch_shards : 0;
    }
    r->batch_end = 0;
    return damage_add(r, place);
}

/* The next readable batch is `number` (0: there is none): now it is known which shards have lost something. */
static void damage_evaluate(struct recovery *r, uint64_t number)
{
    uint64_t shards = number == r->batch_number + 1 ? r->lost_shards : UINT64_MAX;

    if (!r->lost) {
        return;
    }
    r->lost = false;
    r->damaged_shards |= shards;
    for (size_t i = 0; i < OTR_SHARDS_MAX; i++) {
        if (r->j->shards[i] != NULL && (shards >> i % 64 & 1) != 0) {
            freeze(r->j->shards[i]);
        }
    }
}

/* When the segment being read was begun after all damage found so far had been dealt with, its own records tell where
 * each shard was left, and count. */
static void damage_settle(struct recovery *r)
{
    if (!r->unsettled) {
        return;
    }
    for (size_t i = 0; i < r->damages_count; i++) {
        if (!is_listed(r, r->damages[i])) {
            return;
        }
    }
    r->unsettled = false;
    r->damaged_shards = 0;
    for (size_t i = 0; i < OTR_SHARDS_MAX; i++) {
        if (r->j->shards[i] != NULL) {
            r->j->shards[i]->frozen = false;
            r->j->shards[i]->damaged = false; /* Its META says so if it still is. */
        }
    }
}

/* --- records ------------------------------------------------------------------------------------------------------ */

static struct journal_shard *shard_of(struct recovery *r, otr_shard id)
{
    bool fresh = journal_shard_get(r->j, id) == NULL;
    struct journal_shard *s = journal_shard_make(r->j, id);

    if (s != NULL && fresh && (r->damaged_shards >> id % 64 & 1) != 0) {
        freeze(s); /* It may have lost what came before what is its first record now. */
    }
    return s;
}

/* Each of these returns OTR_CORRUPT, with nothing changed, when the record does not follow from the shard's state. */

static int recover_entry(struct journal_shard *s, const struct record_header *h, journal_place place)
{
    struct otr_position position = {h->epoch, h->index};

    if (!shard_log_follows(&s->log, position)) {
        return OTR_CORRUPT;
    }
    if (shard_log_reserve(&s->log, 1, 1) != 0) {
        return OTR_NOMEM;
    }
    shard_log_add(&s->log, position, place);
    return 0;
}

static int recover_meta(struct journal_shard *s, const struct record_header *h, const uint8_t *body)
{
    struct journal_meta meta;
    bool damaged;

    if (meta_read(body, h->body_bytes, &meta, &damaged) != 0) {
        return OTR_CORRUPT;
    }
    s->meta = meta;
    s->damaged = damaged || s->frozen;
    return 0;
}

static int recover_cut(struct journal_shard *s, const struct record_header *h)
{
    if (s->log.seed_unfinished || h->index <= s->log.base.index || h->index > shard_log_last(&s->log).index + 1) {
        return OTR_CORRUPT;
    }
    shard_log_cut(&s->log, h->index);
    return 0;
}

static int recover_seed_begin(struct journal_shard *s, const struct record_header *h, const uint8_t *body)
{
    if (recover_meta(s, h, body) != 0) {
        return OTR_CORRUPT;
    }
    s->frozen = false; /* Whatever was lost belonged to what is forgotten now. */
    s->damaged = false;
    shard_log_seed_begin(&s->log);
    return 0;
}

static int recover_seed_end(struct journal_shard *s, const struct record_header *h)
{
    if (!s->log.seed_unfinished) {
        return OTR_CORRUPT;
    }
    shard_log_seed_end(&s->log, (struct otr_position){h->epoch, h->index});
    return 0;
}

static int recover_record(struct recovery *r, struct journal_shard *s, const struct record_header *h,
                          const uint8_t *body, journal_place place)
{
    int rv;

    if (s->frozen && h->kind != RECORD_META && h->kind != RECORD_SEED_BEGIN) {
        return 0;
    }
    switch (h->kind) {
    case RECORD_META:
        return recover_meta(s, h, body);
    case RECORD_CUT:
        rv = recover_cut(s, h);
        break;
    case RECORD_SEED_BEGIN:
        rv = recover_seed_begin(s, h, body);
        break;
    case RECORD_SEED_POINTS:
        rv = s->log.seed_unfinished ? 0 : OTR_CORRUPT;
        break;
    case RECORD_SEED_END:
        rv = recover_seed_end(s, h);
        break;
    default:
        rv = recover_entry(s, h, place);
        break;
    }
    if (rv == 0 && r->visit != NULL) {
        r->visit(r->data, h, body, place);
    }
    return rv;
}

/* --- one segment -------------------------------------------------------------------------------------------------- */

static void batch_enter(struct recovery *r, const struct batch_head *head, uint64_t offset)
{
    damage_evaluate(r, head->number);
    damage_settle(r);
    r->batch_number = head->number;
    r->batch_shards = head->shards;
    r->batch_start = offset;
    r->batch_end = offset + head->bytes;
    r->batches_count++;
    if (!r->id_known) {
        r->j->id = head->journal_id;
        r->id_known = true;
    }
}

/* The record at `offset` does not read, or not here. Finds where reading goes on: *next, 0 when the segment ends here
 * (*torn: and is to be cut here). `s`: the record is whole and only does not follow from this shard's state. */
static int bad_record(struct recovery *r, struct segment_scan *scan, uint64_t offset, bool last,
                      struct journal_shard *s, uint64_t after, uint64_t *next, bool *torn, struct otr_errmsg *msg)
{
    uint64_t found = offset + 8;
    struct batch_head head;
    int rv;

    rv = segment_scan_find_batch(scan, &found, r->id_known ? r->j->id : 0, r->batch_number, &head, msg);
    if (rv != 0 && rv != OTR_NOTFOUND) {
        return rv;
    }
    *torn = rv == OTR_NOTFOUND && last;
    *next = 0;
    if (*torn) {
        return 0;
    }
    if (s != NULL) {
        freeze(s);
        *next = after;
        return damage_add(r, place_make(scan->number, offset));
    }
    *next = rv == 0 ? found : 0;
    return damage_lost(r, place_make(scan->number, offset));
}

/* Reads the record at *offset, which is not the segment's head, and steps over it. OTR_CORRUPT when it is bad; *s is
 * then the shard that alone is concerned, and *offset behind the record, or *s is NULL. */
static int read_record(struct recovery *r, struct segment_scan *scan, uint64_t *offset, struct journal_shard **s,
                       struct otr_errmsg *msg)
{
    journal_place place = place_make(scan->number, *offset);
    struct record_header h;
    struct batch_head head;
    const uint8_t *record;
    uint64_t after;
    int rv;

    *s = NULL;
    rv = segment_scan_record(scan, *offset, &h, &record, msg);
    if (rv != 0) {
        return rv;
    }
    after = *offset + record_bytes(h.body_bytes);
    if (h.kind == RECORD_BATCH) {
        if (batch_head_read(record, BATCH_BYTES, place, &head) != 0 || head.number <= r->batch_number ||
            (r->id_known && head.journal_id != r->j->id)) {
            return OTR_CORRUPT;
        }
        batch_enter(r, &head, *offset);
        *offset = after;
        return 0;
    }
    if (after > r->batch_end || h.kind == RECORD_SEGMENT || h.shard >= OTR_SHARDS_MAX) {
        return OTR_CORRUPT;
    }
    *s = shard_of(r, h.shard);
    if (*s == NULL) {
        otr_errmsg_set(msg, "out of memory");
        return OTR_NOMEM;
    }
    rv = recover_record(r, *s, &h, record + RECORD_HEADER_BYTES, place);
    if (rv == OTR_NOMEM) {
        otr_errmsg_set(msg, "out of memory");
    }
    *offset = after;
    return rv;
}

/* Takes over what the head says about damage, and about the segment before, of which `before` bytes are there. *offset
 * is behind the head, or 0 when it is unreadable. */
static int read_head(struct recovery *r, struct segment_scan *scan, uint64_t before, uint64_t *offset,
                     struct otr_errmsg *msg)
{
    struct segment_head head;
    struct record_header h;
    const uint8_t *record;
    journal_place *listed;
    int rv;

    *offset = 0;
    rv = segment_scan_record(scan, 0, &h, &record, msg);
    if (rv == 0 &&
        (h.kind != RECORD_SEGMENT || segment_head_read(record + RECORD_HEADER_BYTES, h.body_bytes, &head) != 0 ||
         head.journal_id != r->j->id || head.number != scan->number)) {
        rv = OTR_CORRUPT;
    }
    if (rv == 0 && scan->number > 1 && before < head.previous_bytes) {
        /* Whole records, or whole batches, are missing at the end of the segment before. */
        rv = damage_lost(r, place_make(scan->number - 1, before));
    }
    r->batch_end = 0;
    if (rv != 0) {
        return rv == OTR_CORRUPT ? 0 : rv;
    }
    listed = malloc(head.damages_count * sizeof *listed + 1);
    if (listed == NULL) {
        otr_errmsg_set(msg, "out of memory");
        return OTR_NOMEM;
    }
    memcpy(listed, head.damages, head.damages_count * sizeof *listed);
    free(r->listed);
    r->listed = listed;
    r->listed_count = head.damages_count;
    *offset = record_bytes(h.body_bytes);
    return 0;
}

/* Reads a segment. *end is where its readable records end. */
static int read_segment(struct recovery *r, struct segment_scan *scan, bool last, uint64_t *end, struct otr_errmsg *msg)
{
    uint64_t offset;
    bool torn = false;
    int rv;

    r->batches_count = 0;
    rv = read_head(r, scan, r->j->end_offset, &offset, msg);
    if (rv == 0 && offset == 0) {
        rv = bad_record(r, scan, 0, last, NULL, 0, &offset, &torn, msg);
    }
    while (rv == 0 && offset != 0 && offset < scan->bytes) {
        uint64_t bad = offset;
        struct journal_shard *s;

        rv = read_record(r, scan, &offset, &s, msg);
        if (rv == OTR_CORRUPT) {
            rv = bad_record(r, scan, bad, last, s, offset, &offset, &torn, msg);
            *end = bad;
        }
        if (offset == 0) {
            return rv;
        }
        *end = offset;
    }
    return rv;
}

/* --- the directory ------------------------------------------------------------------------------------------------ */

static void on_name(const char *name, void *data)
{
    struct recovery *r = data;
    uint32_t number = segment_number_of(name);

    if (strcmp(name, JOURNAL_FAILED_NAME) == 0) {
        r->failed_marker = true;
    }
    if (number == 0) {
        return;
    }
    if (r->numbers_count == r->numbers_capacity) {
        uint32_t *grown = realloc(r->numbers, (r->numbers_capacity * 2 + 8) * sizeof *grown);
        if (grown == NULL) {
            r->out_of_memory = true;
            return;
        }
        r->numbers = grown;
        r->numbers_capacity = r->numbers_capacity * 2 + 8;
    }
    r->numbers[r->numbers_count++] = number;
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

/* Whose journal is it? Asked of every head that can be read. */
static int check_head(struct recovery *r, const struct segment_head *head, uint32_t number, struct otr_errmsg *msg)
{
    if (head->format != JOURNAL_FORMAT) {
        otr_errmsg_set(msg, "segment %u has format %u, this program knows %d: start a newer version", number,
                       head->format, JOURNAL_FORMAT);
        return OTR_UNSUPPORTED;
    }
    if (head->identity_bytes != strlen(r->j->identity) ||
        memcmp(head->identity, r->j->identity, head->identity_bytes) != 0) {
        otr_errmsg_set(msg,
                       "the data directory belongs to \"%.*s\", but this is \"%s\": give this node its own data "
                       "directory, or correct the cluster's and node's names",
                       (int)head->identity_bytes, head->identity, r->j->identity);
        return OTR_INVALID;
    }
    if (!r->id_known) {
        r->j->id = head->journal_id;
        r->id_known = true;
    }
    return 0;
}

static int open_segment(struct recovery *r, uint32_t number, bool last, struct otr_errmsg *msg)
{
    struct file_system *fs = r->j->fs;
    struct segment *s = journal_segment_new(number);
    char name[SEGMENT_NAME_BYTES];
    struct segment_scan scan;
    struct segment_head head;
    struct record_header h;
    const uint8_t *record;
    int rv;

    if (s == NULL || journal_segments_reserve(r->j) != 0) {
        journal_segment_release(s);
        otr_errmsg_set(msg, "out of memory");
        return OTR_NOMEM;
    }
    segment_name(name, number);
    rv = fs->ops->open(fs, name, last ? FILE_READ_WRITE : FILE_READ, &s->file, msg);
    if (rv != 0) {
        s->file = NULL;
        journal_segment_release(s);
        otr_errmsg_wrap(msg, "open segment %s", name);
        return rv;
    }
    s->previous_bytes = UINT64_MAX;
    journal_segments_add(r->j, s);
    rv = segment_scan_init(&scan, s->file, number, msg);
    if (rv != 0) {
        return rv;
    }
    rv = segment_scan_record(&scan, 0, &h, &record, msg);
    if (rv == 0 && h.kind == RECORD_SEGMENT &&
        segment_head_read(record + RECORD_HEADER_BYTES, h.body_bytes, &head) == 0) {
        s->previous_bytes = head.previous_bytes;
        rv = check_head(r, &head, number, msg);
    }
    segment_scan_close(&scan);
    return rv == OTR_CORRUPT ? 0 : rv;
}

/* Opens all segment files, so that nothing is done to a directory that turns out to be somebody else's. */
static int open_segments(struct recovery *r, struct otr_errmsg *msg)
{
    int rv = r->j->fs->ops->list(r->j->fs, on_name, r, msg);

    if (rv == 0 && r->out_of_memory) {
        otr_errmsg_set(msg, "out of memory");
        rv = OTR_NOMEM;
    }
    if (rv == 0 && r->numbers_count > 0) {
        qsort(r->numbers, r->numbers_count, sizeof *r->numbers, compare_numbers);
    }
    for (size_t i = 0; i < r->numbers_count && rv == 0; i++) {
        rv = open_segment(r, r->numbers[i], i + 1 == r->numbers_count, msg);
    }
    return rv;
}

/* --- afterwards --------------------------------------------------------------------------------------------------- */

/* Removes what a crash left of a segment that was being begun. */
static int remove_last(struct recovery *r, struct otr_errmsg *msg)
{
    struct journal *j = r->j;
    struct segment *s = j->segments[--j->segments_count];
    char name[SEGMENT_NAME_BYTES];
    int rv;

    segment_name(name, s->number);
    journal_segment_release(s);
    rv = j->fs->ops->remove(j->fs, name, msg);
    if (rv != 0) {
        otr_errmsg_wrap(msg, "remove segment %s, which was begun and never written", name);
    }
    return rv;
}

/* Writes [from, end) of the last segment once more, cuts what stands behind, and syncs. */
static int make_durable(struct segment_scan *scan, uint64_t from, uint64_t end, struct otr_errmsg *msg)
{
    const struct file_ops *ops = scan->file->fs->ops;
    const uint8_t *bytes;
    size_t got;
    int rv;

    /* Also when the file ends there already: a sync that failed may have lost an earlier truncation. */
    rv = ops->truncate(scan->file, end, msg);
    scan->bytes = end;
    while (rv == 0 && from < end) {
        rv = segment_scan_bytes(scan, from, end - from < 1 << 20 ? (size_t)(end - from) : 1 << 20, &bytes, &got, msg);
        if (rv == 0 && got == 0) {
            otr_errmsg_set(msg, "the file became shorter");
            rv = OTR_IO;
        }
        if (rv == 0) {
            rv = ops->write(scan->file, from, bytes, got, msg);
            from += got;
        }
    }
    if (rv == 0) {
        rv = ops->sync(scan->file, msg);
    }
    return rv;
}

/* The journal ends with the last segment, at `end`. */
static int finish_last(struct recovery *r, struct segment_scan *scan, uint64_t end, struct otr_errmsg *msg)
{
    struct journal *j = r->j;

    if (r->batches_count == 0) {
        j->begin_segment = true;
        return remove_last(r, msg);
    }
    j->end_segment = scan->number;
    j->end_offset = end;
    /* A segment whose first batch was torn may lack some METAs of its head. */
    j->begin_segment = r->batches_count == 1 && end < r->batch_end;
    return make_durable(scan, r->batches_count == 1 ? 0 : r->batch_start, end, msg);
}

/* A sealed segment ends where the head of the next one says. What stands behind is a torn tail that was cut, and that a
 * failed sync brought back. */
static uint64_t bytes_that_count(const struct recovery *r, size_t i, uint64_t bytes)
{
    const struct journal *j = r->j;

    if (i + 1 < j->segments_count && j->segments[i + 1]->number == j->segments[i]->number + 1 &&
        j->segments[i + 1]->previous_bytes < bytes) {
        return j->segments[i + 1]->previous_bytes;
    }
    return bytes;
}

static int read_segments(struct recovery *r, struct otr_errmsg *msg)
{
    struct journal *j = r->j;
    size_t count = j->segments_count;

    for (size_t i = 0; i < count; i++) {
        uint32_t number = j->segments[i]->number;
        struct segment_scan scan;
        uint64_t end = 0;
        int rv;

        if (i > 0 && number != j->end_segment + 1) {
            rv = damage_lost(r, place_make(j->end_segment + 1, 0));
            if (rv != 0) {
                return rv;
            }
        }
        rv = segment_scan_init(&scan, j->segments[i]->file, number, msg);
        if (rv != 0) {
            return rv;
        }
        scan.bytes = bytes_that_count(r, i, scan.bytes);
        rv = read_segment(r, &scan, i + 1 == count, &end, msg);
        if (rv == 0 && i + 1 == count) {
            rv = finish_last(r, &scan, end, msg);
        } else {
            j->end_segment = number;
            j->end_offset = scan.bytes;
        }
        segment_scan_close(&scan);
        if (rv != 0) {
            otr_errmsg_wrap(msg, "read segment %u", number);
            return rv;
        }
    }
    return 0;
}

/* Makes what was found out about damage durable: a new segment whose head tells it. */
static int account(struct recovery *r, struct otr_errmsg *msg)
{
    struct journal *j = r->j;
    int rv;

    for (size_t i = 0; i < r->listed_count; i++) {
        j->damages[j->damages_count++] = r->listed[i];
    }
    /* More than fit are found again at the next start: too careful, but safe. */
    for (size_t i = 0; i < r->damages_count && j->damages_count < SEGMENT_DAMAGES_MAX; i++) {
        if (!is_listed(r, r->damages[i])) {
            j->damages[j->damages_count++] = r->damages[i];
        }
    }
    if (!r->unsettled && !r->failed_marker && j->end_segment != 0) {
        return 0;
    }
    j->begin_segment = true;
    rv = journal_batch_open(j);
    if (rv != 0) {
        otr_errmsg_set(msg, "begin a segment: %s", otr_strerror(rv));
        return rv;
    }
    j->open->worth_writing = true;
    rv = journal_flush_now(j, msg);
    if (rv == 0 && r->failed_marker) {
        rv = j->fs->ops->remove(j->fs, JOURNAL_FAILED_NAME, msg);
        if (rv == 0) {
            rv = j->fs->ops->sync_dir(j->fs, msg);
        }
    }
    return rv;
}

static void finish_shards(struct recovery *r)
{
    for (size_t i = 0; i < OTR_SHARDS_MAX; i++) {
        struct journal_shard *s = r->j->shards[i];
        if (s != NULL) {
            s->damaged = s->damaged || r->failed_marker;
            s->frozen = false;
            s->durable_index = shard_log_last(&s->log).index;
        }
    }
}

int journal_recover(struct journal *j, journal_visit_cb visit, void *data, struct otr_errmsg *msg)
{
    struct recovery r = {.j = j, .visit = visit, .data = data};
    int rv;

    rv = open_segments(&r, msg);
    if (rv == 0) {
        rv = read_segments(&r, msg);
    }
    if (rv == 0) {
        damage_evaluate(&r, 0);
        finish_shards(&r);
        j->batch_number = r.batch_number;
        rv = j->fs->ops->sync_dir(j->fs, msg);
    }
    if (rv == 0) {
        j->durable_segment = j->end_segment;
        j->durable_offset = j->end_offset;
        rv = account(&r, msg);
    }
    free(r.numbers);
    free(r.damages);
    free(r.listed);
    return rv;
}
