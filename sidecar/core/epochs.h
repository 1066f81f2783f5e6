/* Epoch boundaries of one shard's log: which epoch the entry at an index belongs to. A log has few of them (one per
 * election), so they answer in a few steps what would otherwise need the entries themselves. Pure; not thread-safe. */
#ifndef OUTRIGGER_CORE_EPOCHS_H
#define OUTRIGGER_CORE_EPOCHS_H

#include "outrigger/err.h"
#include "outrigger/types.h"

struct epochs_start {
    uint64_t epoch;
    uint64_t first_index;
};

/* Caller-owned; {0} is empty. Ascending in both members. */
struct epochs {
    struct epochs_start *items;
    size_t count;
    size_t capacity;
};

void epochs_close(struct epochs *e);
/* Room for `extra` more boundaries: epochs_append cannot fail that often. OTR_NOMEM, and then nothing has changed. */
OTR_MUST_CHECK int epochs_reserve(struct epochs *e, size_t extra);
/* The log goes on with an entry of `epoch` at `index`. Needs room when the epoch is a new one. */
void epochs_append(struct epochs *e, uint64_t epoch, uint64_t index);
/* Entries from `index` on are gone. */
void epochs_cut(struct epochs *e, uint64_t index);
/* Epoch of the entry at `index` (at most the last one); 0 for index 0 and below the first boundary. */
uint64_t epochs_at(const struct epochs *e, uint64_t index);
/* The largest index that is at most p.index and whose entry's epoch is at most p.epoch; 0 when there is none. `last` is
 * the log's last index. */
uint64_t epochs_floor(const struct epochs *e, struct otr_position p, uint64_t last);

#endif
