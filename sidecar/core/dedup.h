/* Request ids of one shard's recent entries (PROTOCOL Q1): a write that is tried again takes effect once. The table
 * follows the log: entries are added in index order, cut with its tail, and leave at the old end when they are both
 * beyond the window's time and beyond its count. About 72 bytes an id. Pure; not thread-safe. */
#ifndef OUTRIGGER_CORE_DEDUP_H
#define OUTRIGGER_CORE_DEDUP_H

#include "outrigger/err.h"
#include "outrigger/types.h"

struct dedup_entry {
    struct otr_request_id request_id;
    struct otr_position position;
    uint64_t time_ms; /* wall clock, of the primary that accepted the write */
    uint32_t outcome; /* as computed when the entry was applied; counts when has_outcome */
    bool has_outcome;
};

/* Caller-owned; {0} is empty. A ring in index order, and a hash table of places in it. */
struct dedup {
    struct dedup_entry *ring;
    size_t ring_capacity; /* power of two */
    size_t head;          /* place of the oldest */
    size_t count;
    uint32_t *slots; /* place + 1, 0 free; twice as many as the ring has places */
};

void dedup_close(struct dedup *d);
/* Forgets everything, keeps the memory. */
void dedup_clear(struct dedup *d);
/* Room for `extra` more ids: dedup_add cannot fail that often. OTR_NOMEM, and then nothing has changed. */
OTR_MUST_CHECK int dedup_reserve(struct dedup *d, size_t extra);
/* Takes the id of an entry; its index is above those of all before. An id without bytes is not kept. An id that is
 * there already stands for the newer entry from now on. Needs room. */
void dedup_add(struct dedup *d, const struct dedup_entry *entry);
/* NULL when unknown; lent until the next change. */
const struct dedup_entry *dedup_find(const struct dedup *d, const struct otr_request_id *id);
/* The entries from `index` on are gone. */
void dedup_cut(struct dedup *d, uint64_t index);
/* Notes the outcome of the entry at `index`; nothing happens when its id is not kept. */
void dedup_outcome(struct dedup *d, uint64_t index, uint32_t outcome);
/* Drops the oldest committed ids while more than ids_min are kept and the oldest is older than window_ms before now_ms
 * (both wall clock, of entries). */
void dedup_prune(struct dedup *d, uint64_t committed_index, uint64_t now_ms, uint64_t window_ms, size_t ids_min);
/* The i-th oldest, i < count. */
const struct dedup_entry *dedup_at(const struct dedup *d, size_t i);

#endif
