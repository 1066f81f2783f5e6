/* See journal.c for what is decided and why. */
#include "sidecar/log/recovery.h"

#include <stdlib.h>

/* --- damage ------------------------------------------------------------------------------------------------------- */

void recovery_freeze(struct journal_shard *s)
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

int recovery_damage(struct recovery *r, journal_place place)
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

/* Something unreadable stands at `place`: in the batch that is being read, or behind it. */
int recovery_lost(struct recovery *r, journal_place place)
{
    if (!r->lost) {
        r->lost = true;
        r->lost_shards = place_offset(place) < r->batch_end ? r->batch_shards : 0;
    }
    r->batch_end = 0;
    return recovery_damage(r, place);
}

/* The next readable batch is `number` (0: there is none): now it is known which shards have lost something. */
void recovery_evaluate(struct recovery *r, uint64_t number)
{
    uint64_t shards = number == r->batch_number + 1 ? r->lost_shards : UINT64_MAX;

    if (!r->lost) {
        return;
    }
    r->lost = false;
    r->damaged_shards |= shards;
    for (size_t i = 0; i < OTR_SHARDS_MAX; i++) {
        if (r->j->shards[i] != NULL && (shards >> i % 64 & 1) != 0) {
            recovery_freeze(r->j->shards[i]);
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

struct journal_shard *recovery_shard(struct recovery *r, otr_shard id)
{
    bool fresh = journal_shard_get(r->j, id) == NULL;
    struct journal_shard *s = journal_shard_make(r->j, id);

    if (s != NULL && fresh && (r->damaged_shards >> id % 64 & 1) != 0) {
        recovery_freeze(s); /* It may have lost what came before what is its first record now. */
    }
    return s;
}

/* Each of these returns OTR_CORRUPT, with nothing changed, when the record does not follow from the shard's state. */

static int recover_entry(struct journal_shard *s, const struct record_header *h, journal_place place)
{
    struct otr_position position = {h->epoch, h->index};

    if (!shard_log_follows(&s->log, position)) {
        return s->loose && !s->log.seed_unfinished && h->index > shard_log_last(&s->log).index ? OTR_GONE : OTR_CORRUPT;
    }
    s->loose = false;
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
    if (s->loose && h->index > shard_log_last(&s->log).index + 1) {
        return OTR_GONE;
    }
    if (s->log.seed_unfinished || h->index <= s->log.base.index || h->index > shard_log_last(&s->log).index + 1) {
        return OTR_CORRUPT;
    }
    shard_log_cut(&s->log, h->index);
    return 0;
}

static int recover_seed_begin(struct journal_shard *s, const struct record_header *h, const uint8_t *body,
                              journal_place place)
{
    if (recover_meta(s, h, body) != 0) {
        return OTR_CORRUPT;
    }
    s->loose = false;
    s->frozen = false; /* Whatever was lost belonged to what is forgotten now. */
    s->damaged = false;
    s->since = place;
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
        rv = recover_seed_begin(s, h, body, place);
        break;
    case RECORD_SEED_POINTS:
        rv = s->log.seed_unfinished ? 0 : OTR_CORRUPT;
        break;
    case RECORD_REPAIR_POINTS:
        rv = s->log.seed_unfinished ? OTR_CORRUPT : 0;
        break;
    case RECORD_SEED_END:
        rv = recover_seed_end(s, h);
        break;
    default:
        rv = h->kind < RECORD_LOCAL_FIRST ? recover_entry(s, h, place) : OTR_CORRUPT;
        break;
    }
    if (rv == 0 && r->visit != NULL) {
        r->visit(r->data, h, body, place);
    }
    return rv == OTR_GONE ? 0 : rv; /* GONE: of entries that were cut, of which compaction has removed the first. */
}

/* --- one segment -------------------------------------------------------------------------------------------------- */

static void batch_enter(struct recovery *r, const struct batch_head *head, uint64_t offset)
{
    recovery_evaluate(r, head->number);
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
        recovery_freeze(s);
        *next = after;
        return recovery_damage(r, place_make(scan->number, offset));
    }
    *next = rv == 0 ? found : 0;
    return recovery_lost(r, place_make(scan->number, offset));
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
    *s = recovery_shard(r, h.shard);
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
        rv = recovery_lost(r, place_make(scan->number - 1, before));
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

int recovery_segment(struct recovery *r, struct segment_scan *scan, uint64_t before, bool last, uint64_t *end,
                     struct otr_errmsg *msg)
{
    uint64_t offset;
    bool torn = false;
    int rv;

    r->batches_count = 0;
    rv = read_head(r, scan, before, &offset, msg);
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

void recovery_end(struct recovery *r)
{
    recovery_evaluate(r, 0);
}

bool recovery_unsettled(const struct recovery *r)
{
    return r->unsettled;
}

uint32_t recovery_damages(const struct recovery *r, journal_place *places, uint32_t max)
{
    uint32_t count = 0;

    for (size_t i = 0; i < r->listed_count && count < max; i++) {
        places[count++] = r->listed[i];
    }
    for (size_t i = 0; i < r->damages_count && count < max; i++) {
        if (!is_listed(r, r->damages[i])) {
            places[count++] = r->damages[i];
        }
    }
    return count;
}

void recovery_close(struct recovery *r)
{
    free(r->damages);
    free(r->listed);
}
