/* Recovery of files that compaction wrote; see compactor.c for what they say. */
#include "sidecar/log/recovery.h"

#include <assert.h>
#include <stdlib.h>

/* Visits the shard's entries up to `index` once more, as settled: they are committed, and about to leave the log. */
static int visit_settled(struct recovery *r, struct journal_shard *s, uint64_t index, struct otr_errmsg *msg)
{
    struct segment_scan scan = {0};
    int rv = 0;

    for (uint64_t i = s->log.base.index + 1; i <= index && rv == 0 && r->settled != NULL; i++) {
        journal_place place = shard_log_place(&s->log, i);
        struct record_header h;
        const uint8_t *record;

        if (scan.number != place_segment(place)) {
            segment_scan_close(&scan);
            rv = segment_scan_init(&scan, journal_segment_find(r->j, place_segment(place))->file, place_segment(place),
                                   msg);
        }
        if (rv == 0) {
            rv = segment_scan_record(&scan, place_offset(place), &h, &record, msg);
        }
        if (rv == 0) {
            r->settled(r->data, &h, record + RECORD_HEADER_BYTES, place);
        }
    }
    segment_scan_close(&scan);
    return rv;
}

static void visit_line(struct recovery *r, const struct kept_line *line, enum record_kind kind, uint64_t index)
{
    struct record_header h = {.kind = (uint16_t)kind, .shard = line->shard, .index = index};

    h.epoch = kind == RECORD_KEPT_HEAD ? line->after.epoch : 0;
    if (r->visit != NULL) {
        r->visit(r->data, &h, NULL, 0);
    }
}

/* What stands before the file, of one shard: is cut to what counts of it, and settled. OTR_CORRUPT when it is not
 * there.
 */
static int line_begin(struct recovery *r, struct journal_shard *s, const struct segment *file,
                      const struct kept_line *line, struct otr_errmsg *msg)
{
    int rv;

    if (line->reset) {
        shard_log_seed_begin(&s->log);
        s->frozen = false;
        s->damaged = false;
        s->since = place_make(file->first, 0);
        visit_line(r, line, RECORD_SEED_BEGIN, 0);
        return 0;
    }
    if (s->frozen || s->log.seed_unfinished) {
        return 0;
    }
    if (line->before < s->log.base.index || line->before > shard_log_last(&s->log).index) {
        /* Entries that were cut in the end may be missing before the cut, and nothing else. */
        return line->cut_only && s->loose ? 0 : OTR_CORRUPT;
    }
    if (line->before < shard_log_last(&s->log).index) {
        shard_log_cut(&s->log, line->before + 1);
        visit_line(r, line, RECORD_CUT, line->before + 1);
    }
    if (line->cut_only) {
        return 0;
    }
    rv = visit_settled(r, s, line->before, msg);
    if (rv == 0) {
        rv = journal_settle(r->j, s, line->before);
    }
    return rv;
}

static void line_end(struct recovery *r, struct journal_shard *s, const struct kept_line *line)
{
    if (s->frozen || line->unfinished || line->cut_only) {
        return;
    }
    s->log.seed_unfinished = false;
    assert(s->log.count == 0);
    s->log.base = line->after;
    s->log.epochs_count = 0;
    s->loose = true;
    visit_line(r, line, RECORD_KEPT_HEAD, line->after.index);
}

/* The shards of the file have lost something at `place`. */
static int damaged(struct recovery *r, const struct segment *s, journal_place place)
{
    for (uint32_t i = 0; i < s->lines_count; i++) {
        struct journal_shard *shard = journal_shard_get(r->j, s->lines[i].shard);
        r->damaged_shards |= 1ULL << s->lines[i].shard % 64;
        if (shard != NULL) {
            recovery_freeze(shard);
        }
    }
    return recovery_damage(r, place);
}

static int lines(struct recovery *r, const struct segment *s, bool end, struct otr_errmsg *msg)
{
    for (uint32_t i = 0; i < s->lines_count; i++) {
        struct journal_shard *shard = recovery_shard(r, s->lines[i].shard);
        int rv;

        if (shard == NULL) {
            return OTR_NOMEM;
        }
        if (end) {
            line_end(r, shard, &s->lines[i]);
            continue;
        }
        rv = line_begin(r, shard, s, &s->lines[i], msg);
        if (rv == OTR_CORRUPT) {
            recovery_freeze(shard);
            rv = recovery_damage(r, place_make(s->number, 0));
        }
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

static int records(struct recovery *r, const struct segment *s, struct segment_scan *scan, struct otr_errmsg *msg)
{
    uint64_t offset = s->records;

    while (offset < s->bytes) {
        const struct journal_shard *shard;
        struct record_header h;
        const uint8_t *record;
        int rv = segment_scan_record(scan, offset, &h, &record, msg);

        if (rv == 0 && (h.kind <= RECORD_KEPT_HEAD || h.shard >= OTR_SHARDS_MAX)) {
            rv = OTR_CORRUPT;
        }
        if (rv != 0) {
            return rv == OTR_CORRUPT ? damaged(r, s, place_make(s->number, offset)) : rv;
        }
        shard = journal_shard_get(r->j, h.shard);
        if (r->visit != NULL && shard != NULL && !shard->frozen) {
            r->visit(r->data, &h, record + RECORD_HEADER_BYTES, place_make(s->number, offset));
        }
        offset += record_bytes(h.body_bytes);
    }
    return 0;
}

int recovery_kept(struct recovery *r, struct segment *s, struct otr_errmsg *msg)
{
    struct segment_scan scan;
    int rv;

    recovery_evaluate(r, s->batch_first);
    r->batch_number = s->batch_number;
    r->batch_end = 0;
    rv = lines(r, s, false, msg);
    if (rv != 0) {
        return rv;
    }
    rv = segment_scan_init(&scan, s->file, s->number, msg);
    if (rv != 0) {
        return rv;
    }
    rv = records(r, s, &scan, msg);
    segment_scan_close(&scan);
    if (rv != 0) {
        return rv;
    }
    return lines(r, s, true, msg);
}
