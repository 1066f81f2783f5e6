/* The journal: how it is laid out, written and recovered. (Files: journal_append.c fills batches, journal_flush.c
 * writes them, journal_recover.c and recovery.c read them all at start, journal_read.c reads again what is asked for.)
 *
 * LAYOUT. A directory holds segment files "%08u.log", numbered from 1 without gaps, but for those that compaction has
 * replaced: a file "%08u.kept" stands for a row of them (compactor.c). A segment is a sequence of records
 * (sidecar/core/codec.h), all in one byte stream that goes on in the next segment:
 *
 *   segment = SEGMENT batch batch ...        batch = BATCH record record ...
 *
 * Bodies of the local records, little-endian; fields of the record's header that are not named are 0:
 *
 *   SEGMENT  h.index: the segment's number.
 *            u32 format (1), u32 number of the segment, u64 journal id (random), u64 length of the segment before,
 *            u32 length of the identity, u32 count of damages, that many u64 places of damages accounted for (see
 *            below), the identity ("<cluster>/<node>").
 *   BATCH    h.index: number of the batch, previous + 1.
 *            u64 journal id, u64 place of this very record, u64 number of the batch, u64 length of the batch in bytes
 *            with this record, u64 set of shards with records in it (bit shard % 64), u64 place up to which the
 *            journal was known to be durable when it was written. One batch is in flight at a time, so a BATCH record
 *            says by its existence that everything before it was durable.
 *   META     u64 log_id, promised, seen_generation, seen_epoch, seen_version, grant_ms_max, committed_index,
 *            applied_index; 64 bytes engine_data_id; u64 flags: 1 = the log with this log_id is damaged.
 *   CUT      h.index: the shard's entries from this index on are gone. Empty.
 *   SEED_BEGIN   a META's body. The shard holds nothing from here on.
 *   SEED_POINTS  a PUT's body: live points of the seed.
 *   REPAIR_POINTS  a PUT's body: what the range h.epoch of hashes held at entry h.index, or a part of it while h.time
 * is not 0. SEED_END     h.epoch, h.index: the base, after which the log goes on. Body: the request ids, opaque.
 *
 * A place is segment << 40 | offset / 8. A batch belongs to one segment; a segment is left once it has reached
 * segment_bytes. The first batch of a segment begins with a META of every shard, a copy, so that old segments may be
 * replaced without losing any; for a damaged shard a CUT behind its last entry follows.
 *
 * HAPPY PATH. Appends write into the open batch (tail.h), whose position was fixed when it was begun, so that places
 * are known at once. journal_flush_begin() seals its BATCH record and hands it out; the next batch is begun behind it.
 * journal_flush_run() writes and syncs (a new segment: and syncs the directory); journal_flush_end() raises durable
 * indexes. Chunks of memory stay in the tail until it has more than tail_bytes and they are durable.
 *
 * FAILURES WHILE RUNNING. A full disk, found by a write, harms nothing: the file is cut back to its last good length,
 * the batch is kept and written again by the next flush, unchanged, at the same place. Any other failure of a write,
 * and every failure of a sync, is final (PROTOCOL E4): Linux drops the dirty pages of a failed sync, so a second one
 * would report success for data that is not there. A file FAILED is left for the next start.
 *
 * RECOVERY reads all segments in order. A batch ends after its length, or where a BATCH record with a higher number
 * stands (a torn batch was cut there, and its length not corrected); behind it only a BATCH record may follow. So bytes
 * of a torn batch that a lost truncation brings back cannot be taken for records of a later one. A record is bad when
 * it does not read, is not of this batch, or does not follow from the shard's state (an index skipped). At a bad
 * record:
 *
 * - If the segment is the last one and no BATCH record of this journal stands behind (looked for at every multiple of
 *   8): nobody was told that this batch is durable. It is a torn tail, or damage that looks the same, hence candidates
 *   compare their logs before one stands (PROTOCOL V6). The file is cut there.
 * - Else it was durable once: damage (PROTOCOL E3, E4). Reading goes on at the next BATCH record. If its number is the
 *   next one, what was lost belongs to one batch, and the shards named in its BATCH record are damaged; else to batches
 *   whose shards nobody knows, and all shards are. If nothing but padding between batches was hit, none is. A whole
 *   record that does not follow damages its own shard only.
 *   A damaged shard keeps what stands before the damage; what stands behind is passed over up to a SEED_BEGIN, since a
 *   CUT may be among what was lost, and then it would not belong to what is kept. Its META records still count.
 *
 * - A last segment without a readable BATCH record is what a crash left while it was begun, and is removed. (The one
 *   before it was durable as a whole, or it would not have been begun: bad records there are damage.)
 *
 * Then the last batch is written once more in place, with the very same bytes, and synced, and so is the directory: it
 * may stand in the page cache only, after the process died or a sync failed, and nobody must acknowledge it from there.
 *
 * A shard stays damaged until a META or SEED_BEGIN with another log id is written. So that this is known at the next
 * start too, recovery that met damage begins a new segment whose head lists the damage's place ("accounted for") and
 * whose METAs and CUTs say where the shards were left; from there on their records count again. Damage that no later
 * head lists is new. FAILED is handled alike: all shards are damaged, and the file is removed when that is on disk. */
#include "sidecar/log/journal.h"

#include "sidecar/log/journal_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

/* --- shards ------------------------------------------------------------------------------------------------------- */

struct journal_shard *journal_shard_get(const struct journal *j, otr_shard shard)
{
    return shard < OTR_SHARDS_MAX ? j->shards[shard] : NULL;
}

struct journal_shard *journal_shard_make(struct journal *j, otr_shard shard)
{
    struct journal_shard *s = journal_shard_get(j, shard);

    assert(shard < OTR_SHARDS_MAX);
    if (s == NULL) {
        s = calloc(1, sizeof *s);
        if (s == NULL) {
            return NULL;
        }
        s->id = shard;
        s->since = place_make(j->end_segment, j->end_offset);
        j->shards[shard] = s;
    }
    return s;
}

int journal_shard(const struct journal *j, otr_shard shard, struct journal_shard_state *state)
{
    const struct journal_shard *s = journal_shard_get(j, shard);

    if (s == NULL) {
        *state = (struct journal_shard_state){0};
        return 0;
    }
    *state = (struct journal_shard_state){
        .meta = s->meta,
        .first = shard_log_first(&s->log),
        .last = shard_log_last(&s->log),
        .base = s->log.base,
        .durable_index = s->durable_index,
        .seed_unfinished = s->log.seed_unfinished,
        .damaged = s->damaged,
    };
    return 1;
}

void journal_shards(const struct journal *j, void (*cb)(otr_shard shard, void *data), void *data)
{
    for (otr_shard i = 0; i < OTR_SHARDS_MAX; i++) {
        if (j->shards[i] != NULL && j->shards[i]->meta.log_id != 0) {
            cb(i, data);
        }
    }
}

journal_place journal_place_of(const struct journal *j, otr_shard shard, uint64_t index)
{
    const struct journal_shard *s = journal_shard_get(j, shard);

    return s != NULL ? shard_log_place(&s->log, index) : 0;
}

uint64_t journal_epoch_at(const struct journal *j, otr_shard shard, uint64_t index)
{
    const struct journal_shard *s = journal_shard_get(j, shard);

    return s == NULL ? 0 : shard_log_epoch_at(&s->log, index);
}

uint64_t journal_metas_written(const struct journal *j, otr_shard shard)
{
    const struct journal_shard *s = journal_shard_get(j, shard);

    return s == NULL ? 0 : s->metas_written;
}

bool journal_failed(const struct journal *j)
{
    return j->failed;
}

size_t journal_pending_bytes(const struct journal *j)
{
    return j->pending_bytes;
}

void journal_stats(const struct journal *j, struct journal_stats *stats)
{
    stats->pending_bytes = j->pending_bytes;
    stats->tail_bytes = j->tail.bytes;
    stats->segments = j->segments.count;
    stats->bytes = 0;
    for (size_t i = 0; i < j->segments.count; i++) {
        stats->bytes += j->segments.list[i]->bytes;
    }
    for (size_t i = 0; i < j->gone.count; i++) {
        stats->bytes += j->gone.list[i]->bytes;
    }
}

/* --- opening and closing ------------------------------------------------------------------------------------------ */

int journal_open(struct journal **out, const struct journal_config *config, journal_visit_cb visit, void *data,
                 struct otr_errmsg *msg)
{
    struct journal *j;
    int rv;

    if (strlen(config->identity) > IDENTITY_BYTES_MAX) {
        otr_errmsg_set(msg, "open journal: the identity \"%s\" is longer than %d bytes", config->identity,
                       IDENTITY_BYTES_MAX);
        return OTR_INVALID;
    }
    j = calloc(1, sizeof *j);
    if (j == NULL) {
        otr_errmsg_set(msg, "open journal: out of memory");
        return OTR_NOMEM;
    }
    j->fs = config->fs;
    j->id = config->journal_id != 0 ? config->journal_id : point_hash(config->identity, strlen(config->identity));
    j->segment_bytes = config->segment_bytes != 0 ? config->segment_bytes : SEGMENT_BYTES_DEFAULT;
    snprintf(j->identity, sizeof j->identity, "%s", config->identity);
    tail_init(&j->tail, config->tail_bytes != 0 ? config->tail_bytes : TAIL_BYTES_DEFAULT);
    j->kept_number = KEPT_NUMBER_FIRST - 1;
    rv = journal_recover(j, config, visit, data, msg);
    if (rv != 0) {
        otr_errmsg_wrap(msg, "open journal");
        journal_close(j);
        return rv;
    }
    *out = j;
    return 0;
}

void journal_close(struct journal *j)
{
    assert(!j->flush_running);
    journal_batch_free(j->open);
    journal_batch_free(j->flushing);
    for (size_t i = 0; i < j->segments.count; i++) {
        journal_segment_release(j->segments.list[i]);
    }
    for (size_t i = 0; i < j->gone.count; i++) {
        journal_segment_release(j->gone.list[i]);
    }
    journal_segment_release(j->staged);
    free(j->segments.list);
    free(j->gone.list);
    for (size_t i = 0; i < OTR_SHARDS_MAX; i++) {
        if (j->shards[i] != NULL) {
            shard_log_close(&j->shards[i]->log);
            free(j->shards[i]);
        }
    }
    tail_close(&j->tail);
    free(j);
}
