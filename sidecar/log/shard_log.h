/* What the journal keeps of one shard in memory: the place of every retained entry by its index (8 bytes each), and
 * where each epoch begins. Pure bookkeeping, no I/O; loop thread only.
 *
 * Entries stand at base.index + 1 .. last. The base is the position of the seed that the log starts from, or of the
 * last entry that compaction has taken out of it; {0, 0} when it starts at index 1. */
#ifndef OUTRIGGER_LOG_SHARD_LOG_H
#define OUTRIGGER_LOG_SHARD_LOG_H

#include "sidecar/log/journal.h"

struct shard_log {
    journal_place *places; /* [i] is of index base.index + 1 + i */
    size_t count;
    size_t capacity;
    struct otr_position *epochs; /* first entry of each epoch, ascending in both */
    size_t epochs_count;
    size_t epochs_capacity;
    struct otr_position base;
    bool seed_unfinished; /* between seed_begin and seed_end: holds nothing */
};

void shard_log_close(struct shard_log *l);

/* Makes room, so that this many shard_log_add() cannot fail. OTR_NOMEM, and then nothing has changed. */
OTR_MUST_CHECK int shard_log_reserve(struct shard_log *l, size_t entries, size_t epochs);
/* True when an entry at this position may follow the last one. */
bool shard_log_follows(const struct shard_log *l, struct otr_position position);
/* Adds the entry after the last one (asserted). Room must have been made. */
void shard_log_add(struct shard_log *l, struct otr_position position, journal_place place);
/* Drops the entries from `index` on; asserts that the base stays. */
void shard_log_cut(struct shard_log *l, uint64_t index);
/* The entries up to `index`, which is in the log or its base, leave it at its old end: the log goes on after it, as
 * after a seed. */
void shard_log_settle(struct shard_log *l, uint64_t index);
/* Forgets everything; a seed has begun. */
void shard_log_seed_begin(struct shard_log *l);
/* The seed is complete: the log starts after `base`. */
void shard_log_seed_end(struct shard_log *l, struct otr_position base);

/* Of the oldest retained entry; {0, 0} when there is none. */
struct otr_position shard_log_first(const struct shard_log *l);
/* Of the newest entry, the base when there is none. */
struct otr_position shard_log_last(const struct shard_log *l);
/* 0 when the entry is not retained; the base counts as retained. */
uint64_t shard_log_epoch_at(const struct shard_log *l, uint64_t index);
/* 0 when the entry is not retained. */
journal_place shard_log_place(const struct shard_log *l, uint64_t index);

#endif
