/* Store: which points a shard holds, and where in the journal each one's newest committed version stands.
 *
 * Per shard and collection an open-addressing table of 16-byte slots {64-bit hash of the id, place}, 4 bytes of a
 * second hash and 4 bytes of checksum of the content: 29 to 36 bytes a point. Ids are not kept: a look-up yields
 * candidate places (almost always one) whose points are read and compared. Entries are applied in index order,
 * committed ones only; deletions leave no slot behind.
 *
 * Beside that it counts, for every segment of the journal, how many points were applied from it and how many of them
 * are live still: what compaction goes by.
 *
 * Loop thread only, but for a snapshot, which may be walked on any thread. */
#ifndef OUTRIGGER_LOG_STORE_H
#define OUTRIGGER_LOG_STORE_H

#include "sidecar/log/journal.h"

struct store; /* one shard's */

struct store *store_new(void);
void store_free(struct store *s);
/* Forgets everything (a seed begins). */
void store_clear(struct store *s);

/* Applies a committed entry whose record stands at `place`. Points of different ids with equal hashes are told apart by
 * the second hash, and once there are such by reading: `same_id` is asked only then (very rarely) and may block.
 * *outcome (may be NULL): for a DELETE the number of points that existed, for a PUT the number of points. Errors:
 * OTR_NOMEM, OTR_CORRUPT; then nothing has changed. */
typedef bool (*store_same_id_cb)(void *data, journal_place place, const char *id, size_t id_bytes);
int store_apply(struct store *s, const struct record_header *h, const uint8_t *body, journal_place place,
                store_same_id_cb same_id, void *data, uint32_t *outcome);
/* Points of a seed: a PUT body of a SEED_POINTS record. */
int store_apply_seed(struct store *s, const uint8_t *put_body, size_t bytes, journal_place place,
                     store_same_id_cb same_id, void *data);

/* Places where id's newest version may stand: up to max; returns how many. 0: the point does not exist. */
size_t store_find(const struct store *s, uint64_t collection, const char *id, size_t id_bytes, journal_place *places,
                  size_t max);
/* Live points of a collection; of all collections. */
uint64_t store_count(const struct store *s, uint64_t collection);
uint64_t store_count_all(const struct store *s);
/* Calls cb for each collection that has points. */
void store_collections(const struct store *s, void (*cb)(uint64_t collection, uint64_t count, void *data), void *data);
size_t store_memory_bytes(const struct store *s);

/* --- for compaction: what of a segment is still needed --- */

struct store_usage {
    uint32_t segment;
    uint64_t points; /* that were applied from there */
    uint64_t live;   /* of them: the newest version of their id */
    uint64_t points_bytes;
    uint64_t deletes_bytes; /* of the bodies of DELETE and DROP entries */
};
/* All zero when the store knows nothing of the segment. */
void store_usage(const struct store *s, uint32_t segment, struct store_usage *usage);
/* The segment is gone. */
void store_usage_forget(struct store *s, uint32_t segment);
/* Whether the newest version of a point with this hash stands at `place`. */
bool store_is_live(const struct store *s, uint64_t collection, uint64_t hash, journal_place place);
/* A copy of the point at `from`, `bytes` long, stands at `to`: if it is live, it is found there from now on. The copy
 * counts for its segment in either case. OTR_NOMEM: nothing has changed. */
OTR_MUST_CHECK int store_move(struct store *s, uint64_t collection, uint64_t hash, journal_place from, journal_place to,
                              uint32_t bytes);
/* Deletions kept in a segment by compaction, as recovery meets them. Never fails: what cannot be noted is estimated too
 * low. */
void store_usage_deletes(struct store *s, uint32_t segment, uint64_t bytes);

/* A copy of the places of all live points of a collection (or of all: collection 0), sorted by place (sequential
 * reading) or by hash (scroll: hashes >= from, at most max; equal hashes are not parted unless more than max points
 * share one, so that the next page begins at the last hash + 1). NULL when out of memory. Free anywhere. */
struct store_snapshot {
    size_t count;
    struct store_slot {
        uint64_t hash;
        journal_place place;
    } * slots;
    uint64_t *collections; /* per slot, only for collection 0 */
};
struct store_snapshot *store_snapshot_by_place(const struct store *s, uint64_t collection);
/* Of one collection, only points whose newest version stands at `place`, which is of an entry, or behind it. Points
 * that compaction has moved are none of them: their entries had left the log. Walks the whole table. */
struct store_snapshot *store_snapshot_since(const struct store *s, uint64_t collection, journal_place place);
struct store_snapshot *store_snapshot_by_hash(const struct store *s, uint64_t collection, uint64_t from, size_t max);
void store_snapshot_free(struct store_snapshot *snap);

/* --- digests --------------------------------------------------------------------------------------------------------
 *
 * A range is the set of points whose hash begins with the same 8 bits. Its digest is the sum, modulo 2^64, of one
 * 64-bit hash of each live point's collection, id hash and checksum of content: the same for equal contents, whatever
 * order they came in and wherever they stand, hence equal on all replicas at equal index, through overwriting,
 * seeding, compaction and recovery. Maintained with every change; 2 KiB a shard. */
enum { STORE_RANGES = 256 };
/* A set of ranges: bit (r % 8) of byte r / 8. */
struct store_ranges {
    uint8_t bits[STORE_RANGES / 8];
};
static inline void store_ranges_add(struct store_ranges *r, size_t range)
{
    r->bits[range / 8] = (uint8_t)(r->bits[range / 8] | 1U << range % 8);
}
static inline bool store_ranges_has(const struct store_ranges *r, size_t range)
{
    return (r->bits[range / 8] >> range % 8 & 1) != 0;
}
static inline size_t store_range_of(uint64_t hash)
{
    return (size_t)(hash >> 56);
}

/* One digest per range; lent until the next change. */
const uint64_t *store_digests(const struct store *s);
/* Of all: their sum. */
uint64_t store_digest(const struct store *s);
/* As store_snapshot_by_place of all collections, but only points of these ranges. */
struct store_snapshot *store_snapshot_ranges(const struct store *s, const struct store_ranges *ranges);
/* An empty store which may be given to store_replace. */
struct store *store_new_like(const struct store *s);
/* What s holds in these ranges becomes what `from` holds, which has points of these ranges only. OTR_NOMEM: nothing has
 * changed. */
OTR_MUST_CHECK int store_replace(struct store *s, const struct store_ranges *ranges, const struct store *from);

#endif
