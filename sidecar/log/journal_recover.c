/* Starting: opens what the directory holds, has it read (recovery.c), and makes durable what was found. See journal.c
 * for the rules. Runs before anything else, blocking. */
#include "sidecar/log/journal_internal.h"
#include "sidecar/log/recovery.h"

#include <stdlib.h>

/* --- the directory ------------------------------------------------------------------------------------------------ */

struct numbers {
    uint32_t *list;
    size_t count;
    size_t capacity;
};

struct directory {
    struct numbers segments;
    struct numbers kept;  /* newest last */
    struct numbers begun; /* kept files that were never finished */
    struct numbers stale; /* files of all kinds that a kept file stands for */
    bool failed_marker;
    bool out_of_memory;
};

static void directory_close(struct directory *d)
{
    free(d->segments.list);
    free(d->kept.list);
    free(d->begun.list);
    free(d->stale.list);
}

static void numbers_add(struct directory *d, struct numbers *n, uint32_t number)
{
    if (n->count == n->capacity) {
        uint32_t *grown = realloc(n->list, (n->capacity * 2 + 8) * sizeof *grown);
        if (grown == NULL) {
            d->out_of_memory = true;
            return;
        }
        n->list = grown;
        n->capacity = n->capacity * 2 + 8;
    }
    n->list[n->count++] = number;
}

struct listing {
    struct directory *d;
    struct journal *j;
};

static void on_name(const char *name, void *data)
{
    const struct listing *l = data;
    uint32_t number = segment_number_of(name);
    bool finished;

    if (strcmp(name, JOURNAL_FAILED_NAME) == 0) {
        l->d->failed_marker = true;
    } else if (strcmp(name, JOURNAL_RESERVE_NAME) == 0) {
        l->j->reserve = true;
    } else if (number != 0) {
        numbers_add(l->d, &l->d->segments, number);
    } else if ((number = kept_number_of(name, &finished)) != 0) {
        numbers_add(l->d, finished ? &l->d->kept : &l->d->begun, number);
        if (number > l->j->kept_number) {
            l->j->kept_number = number; /* No number is used twice, not even that of a file that came to nothing. */
        }
    }
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

/* Whose journal is it? Asked of every head that can be read. */
static int check_head(struct recovery *r, uint32_t format, const char *identity, uint32_t identity_bytes,
                      uint64_t journal_id, uint32_t number, struct otr_errmsg *msg)
{
    if (format != JOURNAL_FORMAT) {
        otr_errmsg_set(msg, "segment %u has format %u, this program knows %d: start a newer version", number, format,
                       JOURNAL_FORMAT);
        return OTR_UNSUPPORTED;
    }
    if (identity_bytes != strlen(r->j->identity) || memcmp(identity, r->j->identity, identity_bytes) != 0) {
        otr_errmsg_set(msg,
                       "the data directory belongs to \"%.*s\", but this is \"%s\": give this node its own data "
                       "directory, or correct the cluster's and node's names",
                       (int)identity_bytes, identity, r->j->identity);
        return OTR_INVALID;
    }
    if (!r->id_known) {
        r->j->id = journal_id;
        r->id_known = true;
    }
    return 0;
}

/* The list's segments are in the order of the journal. */
static void insert_segment(struct journal *j, struct segment *s)
{
    struct segment_list *l = &j->segments;
    size_t at = l->count;

    while (at > 0 && l->list[at - 1]->first > s->first) {
        at--;
    }
    memmove(l->list + at + 1, l->list + at, (l->count - at) * sizeof(struct segment *));
    l->list[at] = s;
    l->count++;
}

static bool is_covered(const struct journal *j, uint32_t first, uint32_t last)
{
    for (size_t i = 0; i < j->segments.count; i++) {
        const struct segment *s = j->segments.list[i];
        if (s->kept && s->first <= first && last <= s->last) {
            return true;
        }
    }
    return false;
}

/* Reads the head of a kept file into *s. OTR_CORRUPT when there is none. */
static int read_kept_head(struct recovery *r, struct segment *s, struct otr_errmsg *msg)
{
    struct segment_scan scan;
    struct kept_head head;
    struct record_header h;
    const uint8_t *record;
    int rv;

    rv = segment_scan_init(&scan, s->file, s->number, msg);
    if (rv != 0) {
        return rv;
    }
    rv = segment_scan_record(&scan, 0, &h, &record, msg);
    if (rv == 0 &&
        (h.kind != RECORD_KEPT_HEAD || kept_head_read(record + RECORD_HEADER_BYTES, h.body_bytes, &head) != 0 ||
         head.number != s->number)) {
        rv = OTR_CORRUPT;
    }
    if (rv == 0) {
        rv = check_head(r, head.format, head.identity, head.identity_bytes, head.journal_id, s->number, msg);
    }
    if (rv == 0) {
        s->lines = malloc(head.lines_count * sizeof *s->lines + 1);
        rv = s->lines == NULL ? OTR_NOMEM : 0;
    }
    if (rv == 0) {
        s->kept = true;
        s->first = head.first;
        s->last = head.last;
        s->previous_bytes = head.previous_bytes;
        s->batch_first = head.batch_first;
        s->batch_number = head.batch_number;
        s->bytes = head.bytes;
        s->records = head.records;
        s->lines_count = head.lines_count;
        for (uint32_t i = 0; i < head.lines_count; i++) {
            kept_line_read(record + RECORD_HEADER_BYTES, i, &s->lines[i]);
        }
    }
    segment_scan_close(&scan);
    return rv;
}

/* A file that compaction wrote. One whose head is unreadable is passed over: what it stood for is missing then, which
 * is damage. */
static int open_kept(struct recovery *r, struct directory *d, uint32_t number, struct otr_errmsg *msg)
{
    struct file_system *fs = r->j->fs;
    struct segment *s = journal_segment_new(r->j, number);
    char name[KEPT_NAME_BYTES];
    int rv;

    if (s == NULL || journal_segments_reserve(r->j) != 0) {
        journal_segment_release(s);
        otr_errmsg_set(msg, "out of memory");
        return OTR_NOMEM;
    }
    kept_name(name, number, true);
    rv = fs->ops->open(fs, name, FILE_READ, &s->file, msg);
    if (rv != 0) {
        s->file = NULL;
    } else {
        rv = read_kept_head(r, s, msg);
    }
    if (rv == 0 && !is_covered(r->j, s->first, s->last)) {
        insert_segment(r->j, s);
        return 0;
    }
    if (rv == 0) {
        numbers_add(d, &d->stale, number);
    } else if (rv != OTR_CORRUPT) {
        otr_errmsg_wrap(msg, "open %s", name);
    }
    journal_segment_release(s);
    return rv == OTR_CORRUPT ? 0 : rv;
}

static int open_segment(struct recovery *r, uint32_t number, bool last, struct otr_errmsg *msg)
{
    struct file_system *fs = r->j->fs;
    struct segment *s = journal_segment_new(r->j, number);
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
    insert_segment(r->j, s);
    rv = segment_scan_init(&scan, s->file, number, msg);
    if (rv != 0) {
        return rv;
    }
    rv = segment_scan_record(&scan, 0, &h, &record, msg);
    if (rv == 0 && h.kind == RECORD_SEGMENT &&
        segment_head_read(record + RECORD_HEADER_BYTES, h.body_bytes, &head) == 0) {
        s->previous_bytes = head.previous_bytes;
        rv = check_head(r, head.format, head.identity, head.identity_bytes, head.journal_id, number, msg);
    }
    segment_scan_close(&scan);
    return rv == OTR_CORRUPT ? 0 : rv;
}

/* Opens all segment files before anything is done to a directory that may turn out to be somebody else's. Kept files
 * first, the newest before those that it may stand for. */
static int open_segments(struct recovery *r, struct directory *d, struct otr_errmsg *msg)
{
    struct listing listing = {.d = d, .j = r->j};
    int rv = r->j->fs->ops->list(r->j->fs, on_name, &listing, msg);

    if (rv == 0 && d->segments.count > 0) {
        qsort(d->segments.list, d->segments.count, sizeof(uint32_t), compare_numbers);
    }
    if (rv == 0 && d->kept.count > 0) {
        qsort(d->kept.list, d->kept.count, sizeof(uint32_t), compare_numbers);
    }
    for (size_t i = d->kept.count; i > 0 && rv == 0; i--) {
        rv = open_kept(r, d, d->kept.list[i - 1], msg);
    }
    for (size_t i = 0; i < d->segments.count && rv == 0; i++) {
        uint32_t number = d->segments.list[i];
        if (is_covered(r->j, number, number)) {
            numbers_add(d, &d->stale, number);
        } else {
            rv = open_segment(r, number, i + 1 == d->segments.count, msg);
        }
    }
    if (rv == 0 && d->out_of_memory) {
        otr_errmsg_set(msg, "out of memory");
        rv = OTR_NOMEM;
    }
    return rv;
}

/* --- afterwards --------------------------------------------------------------------------------------------------- */

/* Removes what a crash left of a segment that was being begun. */
static int remove_last(struct recovery *r, struct otr_errmsg *msg)
{
    struct journal *j = r->j;
    struct segment *s = j->segments.list[--j->segments.count];
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
    const struct segment_list *l = &r->j->segments;

    if (i + 1 < l->count && l->list[i + 1]->first == l->list[i]->number + 1 && l->list[i + 1]->previous_bytes < bytes) {
        return l->list[i + 1]->previous_bytes;
    }
    return bytes;
}

static int read_segment(struct recovery *r, size_t i, uint64_t before, struct otr_errmsg *msg)
{
    struct journal *j = r->j;
    struct segment *s = j->segments.list[i];
    bool last = i + 1 == j->segments.count;
    struct segment_scan scan;
    uint64_t end = 0;
    int rv;

    rv = segment_scan_init(&scan, s->file, s->number, msg);
    if (rv != 0) {
        return rv;
    }
    scan.bytes = bytes_that_count(r, i, scan.bytes);
    s->bytes = scan.bytes;
    rv = recovery_segment(r, &scan, before, last, &end, msg);
    s->batch_number = r->batch_number;
    if (rv == 0 && last) {
        s->bytes = end;
        rv = finish_last(r, &scan, end, msg);
    } else {
        j->end_segment = s->number;
        j->end_offset = scan.bytes;
    }
    segment_scan_close(&scan);
    return rv;
}

static int read_segments(struct recovery *r, struct otr_errmsg *msg)
{
    struct journal *j = r->j;
    size_t count = j->segments.count;

    for (size_t i = 0; i < count; i++) {
        struct segment *s = j->segments.list[i];
        uint64_t before = i > 0 && !j->segments.list[i - 1]->kept ? j->end_offset : UINT64_MAX;
        uint32_t number = s->number;
        int rv = 0;

        if (s->first != j->end_segment + 1) {
            rv = recovery_lost(r, place_make(j->end_segment + 1, 0));
            before = UINT64_MAX;
        }
        if (rv != 0) {
            otr_errmsg_set(msg, "out of memory");
            return rv;
        }
        if (s->kept) {
            rv = recovery_kept(r, s, msg);
            j->end_segment = s->last;
            j->end_offset = 0;
            j->begin_segment = true; /* should it be the last */
        } else {
            j->begin_segment = false;
            rv = read_segment(r, i, before, msg);
        }
        if (rv != 0) {
            otr_errmsg_wrap(msg, "read segment %u", number);
            return rv;
        }
    }
    return 0;
}

/* Makes what was found out about damage durable: a new segment whose head tells it. */
static int account(struct recovery *r, bool failed_marker, struct otr_errmsg *msg)
{
    struct journal *j = r->j;
    int rv;

    /* More than fit are found again at the next start: too careful, but safe. */
    j->damages_count = recovery_damages(r, j->damages, SEGMENT_DAMAGES_MAX);
    if (!recovery_unsettled(r) && !failed_marker && j->end_segment != 0) {
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
    if (rv == 0 && failed_marker) {
        rv = j->fs->ops->remove(j->fs, JOURNAL_FAILED_NAME, msg);
        if (rv == 0) {
            rv = j->fs->ops->sync_dir(j->fs, msg);
        }
    }
    return rv;
}

static void finish_shards(struct journal *j, bool failed_marker)
{
    for (size_t i = 0; i < OTR_SHARDS_MAX; i++) {
        struct journal_shard *s = j->shards[i];
        if (s != NULL) {
            s->damaged = s->damaged || failed_marker;
            s->frozen = false;
            s->loose = false;
            s->durable_index = shard_log_last(&s->log).index;
        }
    }
}

/* What a kept file stands for, and kept files that were never finished. Only once the names that stand for them are
 * durable. What cannot be removed is found again at the next start. */
static void remove_stale(struct journal *j, const struct directory *d)
{
    char name[SEGMENT_NAME_BYTES];

    for (size_t i = 0; i < d->stale.count; i++) {
        if (d->stale.list[i] >= KEPT_NUMBER_FIRST) {
            kept_name(name, d->stale.list[i], true);
        } else {
            segment_name(name, d->stale.list[i]);
        }
        (void)j->fs->ops->remove(j->fs, name, NULL);
    }
    for (size_t i = 0; i < d->begun.count; i++) {
        kept_name(name, d->begun.list[i], false);
        (void)j->fs->ops->remove(j->fs, name, NULL);
    }
}

int journal_recover(struct journal *j, const struct journal_config *config, journal_visit_cb visit, void *data,
                    struct otr_errmsg *msg)
{
    struct recovery r = {.j = j, .visit = visit, .settled = config->settled, .data = data};
    struct directory d = {0};
    int rv;

    rv = open_segments(&r, &d, msg);
    if (rv == 0) {
        rv = read_segments(&r, msg);
    }
    if (rv == 0) {
        recovery_end(&r);
        finish_shards(j, d.failed_marker);
        j->batch_number = r.batch_number;
        rv = j->fs->ops->sync_dir(j->fs, msg);
    }
    if (rv == 0) {
        remove_stale(j, &d);
        j->durable_segment = j->end_segment;
        j->durable_offset = j->end_offset;
        rv = account(&r, d.failed_marker, msg);
    }
    directory_close(&d);
    recovery_close(&r);
    return rv;
}
