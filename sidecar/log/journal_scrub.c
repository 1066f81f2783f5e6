/* Scrubbing: sealed segments are read again, one after the other and piece by piece, for records that do not read any
 * more. What recovery would find at the next start is found while other replicas can still help.
 *
 * A segment's records follow each other without gaps, so a bad one ends what can be read, as far as the next batch: its
 * place is known from the intact BATCH record before, or looked for (journal.c). Everything in the batch behind the bad
 * record counts as lost, for the shards that the batch names; where no BATCH record tells, for all. */
#include "sidecar/log/journal_internal.h"
#include "sidecar/log/segment_scan.h"

#include <assert.h>
#include <stdlib.h>

enum { SCRUB_DAMAGES_MAX = 64 }; /* told per piece; a disk that has more is found out by the first of them */

struct scrub_damage {
    journal_place place; /* of the first bad record */
    journal_place end;   /* where reading goes on: what stands between is lost, a SEED_BEGIN among it, too */
    uint64_t shards;     /* as in BATCH */
};

struct journal_scrub {
    struct journal *j;       /* loop thread only */
    struct segment *segment; /* being read, referenced; NULL: none */
    uint32_t last;           /* number of the segment read before it; 0: a pass begins */
    struct segment_scan scan;
    uint64_t sealed_bytes; /* that the segment was sealed with */
    uint64_t journal_id;
    uint64_t offset;       /* of the next record */
    uint64_t batch_number; /* of the newest batch read; 0: none in this pass */
    uint64_t batch_end;    /* offset */
    uint64_t batch_shards;
    uint64_t kept_shards; /* of a file that compaction wrote: all that it holds something of */

    size_t piece_bytes; /* asked for */
    uint64_t read_bytes;
    struct scrub_damage damages[SCRUB_DAMAGES_MAX];
    size_t damages_count;
};

struct journal_scrub *journal_scrub_new(struct journal *j)
{
    struct journal_scrub *s = calloc(1, sizeof *s);

    if (s != NULL) {
        s->j = j;
        s->journal_id = j->id;
    }
    return s;
}

static void leave_segment(struct journal_scrub *s)
{
    if (s->segment != NULL) {
        segment_scan_close(&s->scan);
        s->last = s->segment->last;
        journal_segment_release(s->segment);
        s->segment = NULL;
    }
}

void journal_scrub_free(struct journal_scrub *s)
{
    if (s != NULL) {
        leave_segment(s);
        free(s);
    }
}

/* The next sealed segment: another one follows it, whose head says how long it is. */
static int enter_segment(struct journal_scrub *s)
{
    const struct segment_list *l = &s->j->segments;
    struct segment *next;
    size_t i = 0;
    int rv;

    while (i + 1 < l->count && l->list[i]->first <= s->last) {
        i++;
    }
    if (i + 1 >= l->count) {
        return OTR_NOTFOUND;
    }
    next = l->list[i];
    rv = segment_scan_init(&s->scan, next->file, next->number, NULL);
    if (rv != 0) {
        return rv;
    }
    s->sealed_bytes = next->bytes;
    if (s->sealed_bytes < s->scan.bytes) {
        s->scan.bytes = s->sealed_bytes;
    }
    s->segment = next;
    s->segment->refs++;
    s->offset = 0;
    s->batch_end = 0;
    s->kept_shards = 0;
    for (uint32_t k = 0; k < next->lines_count; k++) {
        s->kept_shards |= 1ULL << next->lines[k].shard % 64;
    }
    return 0;
}

bool journal_scrub_begin(struct journal_scrub *s, size_t bytes)
{
    s->piece_bytes = bytes;
    s->read_bytes = 0;
    s->damages_count = 0;
    if (s->segment != NULL || enter_segment(s) == 0) {
        return true;
    }
    s->last = 0;
    s->batch_number = 0;
    return false;
}

/* --- any thread --------------------------------------------------------------------------------------------------- */

/* From here on the piece is to come from the disk, not from the page cache, which would hide what the disk lost. */
static void forget_cached(struct journal_scrub *s)
{
    const struct file_ops *ops = s->scan.file->fs->ops;

    s->scan.window_bytes = 0;
    if (ops->forget != NULL) {
        ops->forget(s->scan.file, s->offset, s->piece_bytes);
    }
}

/* Reading goes on at `next`. */
static void damage_add(struct journal_scrub *s, uint64_t next, uint64_t shards)
{
    if (s->damages_count < SCRUB_DAMAGES_MAX) {
        s->damages[s->damages_count++] = (struct scrub_damage){
            .place = place_make(s->scan.number, s->offset), .end = place_make(s->scan.number, next), .shards = shards};
    }
    s->offset = next;
}

/* The record at s->offset does not read, or not as it should. */
static int step_over(struct journal_scrub *s)
{
    uint64_t found = s->offset + 8;
    struct batch_head head;
    int rv;

    if (s->segment->kept) { /* it has no batches */
        damage_add(s, s->scan.bytes, s->kept_shards);
        return 0;
    }
    rv = segment_scan_find_batch(&s->scan, &found, s->journal_id, s->batch_number, &head, NULL);

    if (rv == OTR_NOMEM) {
        return rv;
    }
    if (rv != 0) {
        found = s->scan.bytes;
    }
    if (s->offset < s->batch_end) {
        damage_add(s, found < s->batch_end ? found : s->batch_end, s->batch_shards);
    } else {
        /* A segment's head and what stands between batches hold nothing of any shard; a batch that is missing may hold
         * something of all. */
        damage_add(s, found, rv == 0 && s->batch_number != 0 && head.number == s->batch_number + 1 ? 0 : UINT64_MAX);
    }
    return 0;
}

static int scrub_record(struct journal_scrub *s)
{
    struct record_header h;
    struct batch_head head;
    const uint8_t *record;
    int rv = segment_scan_record(&s->scan, s->offset, &h, &record, NULL);

    if (rv == OTR_NOMEM) {
        return rv;
    }
    if (rv == 0 && h.kind == RECORD_BATCH) {
        rv = batch_head_read(record, BATCH_BYTES, place_make(s->scan.number, s->offset), &head);
        if (rv == 0) {
            s->batch_number = head.number;
            s->batch_end = s->offset + head.bytes;
            s->batch_shards = head.shards;
        }
    }
    if (rv != 0) {
        return step_over(s);
    }
    s->offset += record_bytes(h.body_bytes);
    if (h.kind == RECORD_KEPT_HEAD) {
        s->offset = s->segment->records;
        s->batch_number = s->segment->batch_number;
    }
    return 0;
}

void journal_scrub_run(struct journal_scrub *s)
{
    uint64_t from = s->offset;
    int rv = 0;

    forget_cached(s);
    while (rv == 0 && s->offset < s->scan.bytes && s->offset - from < s->piece_bytes) {
        rv = scrub_record(s); /* out of memory: the piece goes on later */
    }
    if (s->offset >= s->scan.bytes && s->scan.bytes < s->sealed_bytes) { /* the file has become shorter */
        damage_add(s, s->sealed_bytes,
                   s->segment->kept                                              ? s->kept_shards
                   : s->offset < s->batch_end && s->batch_end == s->sealed_bytes ? s->batch_shards
                                                                                 : UINT64_MAX);
    }
    s->read_bytes = s->offset - from;
}

/* --- back on the loop thread -------------------------------------------------------------------------------------- */

static bool accounted_for(const struct journal *j, journal_place place)
{
    for (uint32_t i = 0; i < j->damages_count; i++) {
        if (j->damages[i] == place) {
            return true;
        }
    }
    return journal_segment_find(j, place_segment(place)) == NULL; /* it is gone, and nothing in it counts any more */
}

uint64_t journal_scrub_end(struct journal_scrub *s, journal_damage_cb cb, void *data)
{
    for (size_t i = 0; i < s->damages_count; i++) {
        const struct scrub_damage *d = &s->damages[i];
        if (s->segment->gone || accounted_for(s->j, d->place)) {
            continue;
        }
        for (otr_shard shard = 0; shard < OTR_SHARDS_MAX; shard++) {
            const struct journal_shard *js = s->j->shards[shard];
            /* What compaction wrote stands where the segments stood that it stands for. */
            journal_place end = s->segment->kept ? place_make(s->segment->last + 1, 0) : d->end;
            if (js != NULL && (d->shards >> shard % 64 & 1) != 0 && end > js->since) {
                cb(data, shard, d->place);
            }
        }
    }
    if (s->segment != NULL && s->offset >= s->scan.bytes) {
        leave_segment(s);
    }
    return s->read_bytes;
}
