/* Recovery, as far as it reads: one segment after the other, deciding what is torn, what is damaged and what each shard
 * holds. See journal.c for the rules. Private to sidecar/log; blocking. */
#ifndef OUTRIGGER_LOG_RECOVERY_H
#define OUTRIGGER_LOG_RECOVERY_H

#include "sidecar/log/journal_internal.h"
#include "sidecar/log/segment_scan.h"

struct recovery {
    struct journal *j;
    journal_visit_cb visit;
    journal_visit_cb settled;
    void *data;
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

void recovery_close(struct recovery *r);

/* A whole segment file, which should stand at `place`, is missing. OTR_NOMEM. */
OTR_MUST_CHECK int recovery_lost(struct recovery *r, journal_place place);
/* Reads a segment; *end is where its readable records end. `before`: bytes of the segment before that are there.
 * `last`: there is no later one. Errors of the file and OTR_NOMEM; damage is none. */
OTR_MUST_CHECK int recovery_segment(struct recovery *r, struct segment_scan *scan, uint64_t before, bool last,
                                    uint64_t *end, struct otr_errmsg *msg);
/* Reads a file that compaction wrote (recovery_kept.c). */
OTR_MUST_CHECK int recovery_kept(struct recovery *r, struct segment *s, struct otr_errmsg *msg);
/* What recovery_kept.c needs of recovery.c: the shard, made if it is new (NULL: out of memory); the shard's records are
 * passed over from here on; damage at a place, that concerns no shard but those that were frozen. */
struct journal_shard *recovery_shard(struct recovery *r, otr_shard id);
void recovery_freeze(struct journal_shard *s);
OTR_MUST_CHECK int recovery_damage(struct recovery *r, journal_place place);
/* All damage found so far is judged, the next readable batch being `number`. */
void recovery_evaluate(struct recovery *r, uint64_t number);
/* All segments were read. */
void recovery_end(struct recovery *r);
/* True when the newest segment's head does not tell all the damage that was found. */
bool recovery_unsettled(const struct recovery *r);
/* Writes the places of all damage, at most `max`; returns how many. */
uint32_t recovery_damages(const struct recovery *r, journal_place *places, uint32_t max);

#endif
