/* Compaction on a disk that loses what was not synced, beside a model: per shard the list of its entries. Whatever is
 * compacted, and wherever it is interrupted, the recovered stores must be what the entries up to some index make of it,
 * and that index is at least what was acknowledged. */
#ifndef OUTRIGGER_TESTS_UNIT_LOG_WORLD_H
#define OUTRIGGER_TESTS_UNIT_LOG_WORLD_H

#include "sidecar/log/compactor.h"
#include "tests/lib/fake_disk.h"

enum { WORLD_SHARDS = 3, WORLD_IDS = 24, WORLD_COLLECTIONS = 2, WORLD_OPS_MAX = 3000, WORLD_WINDOW = 12 };

struct world_op {
    uint64_t epoch;
    uint16_t kind;
    uint8_t collection;
    uint8_t id;
    uint32_t value;
};

struct world_state {
    uint32_t values[WORLD_COLLECTIONS][WORLD_IDS]; /* 0: no such point */
};

struct world_history {
    struct world_state base; /* the seed that the log began with */
    uint64_t base_index;
    uint64_t base_epoch;
    struct world_op ops[WORLD_OPS_MAX]; /* [i] has index base_index + 1 + i */
    uint64_t last;
};

struct world_shard {
    struct world_history h;
    struct world_history *before; /* what recovery may show as well: the last change of history is not durable yet */
    struct store *store;
    uint64_t stored;             /* entries up to it are in the store */
    uint64_t acked;              /* and these were reported to be durable */
    uint64_t ids[WORLD_OPS_MAX]; /* recovered request ids: indexes, ascending */
    size_t ids_count;
};

struct world {
    struct fake_disk *disk;
    struct journal_config config;
    struct compactor_config compaction;
    struct journal *j;
    struct compactor *c;
    struct world_shard shards[WORLD_SHARDS];
    uint64_t now_ms;
    uint64_t rng;
    uint32_t value;
    uint64_t epoch; /* of new entries, at least */
    bool held;      /* nothing is committed */
    bool failed;    /* a call failed on purpose: reads may fail, and shards may be damaged */
    struct otr_errmsg msg;
};

/* An empty directory, opened; small segments. Change `compaction` between world_close and world_reopen. */
struct world *world_new(uint64_t rng);
/* Asserts that no file was left open. */
void world_free(struct world *w);

/* Opens the journal with empty stores; on an error w->j is NULL and w->msg says why. */
int world_open(struct world *w);
/* What was opened is checked against the model: nothing that was acknowledged is missing. */
void world_recovered(struct world *w);
/* Both. */
void world_reopen(struct world *w);
/* The process ends; what the page cache has stays. */
void world_close(struct world *w);
/* The machine stops. */
void world_crash(struct world *w, enum fake_disk_loss loss);

/* As journal_append(), of the shard's next entry. */
int world_append(struct world *w, otr_shard shard, uint16_t kind, unsigned collection, unsigned id);
/* Flushes; what is durable is acknowledged, and applied unless w->held. 0 or what the journal said. */
int world_flush(struct world *w);
/* So many entries of any kind, flushed now and then. */
void world_work(struct world *w, unsigned count);
/* Entries that were never committed go, others take their place. */
void world_cut(struct world *w, otr_shard shard);
/* The shard is seeded with what it is now, and half of it changed, as of a later index. */
void world_seed(struct world *w, otr_shard shard);
/* Compacts as long as there is something to do, at most `steps` pieces; returns how many it were. */
unsigned world_compact(struct world *w, unsigned steps);

/* Entries up to `index` are committed: they go into the store. */
void world_apply(struct world *w, otr_shard shard, uint64_t index);
/* The shard's store is what the model says. */
void world_check(struct world *w, otr_shard shard);
/* Whether a recovered log may be one of this history. */
bool world_same_log(const struct world_history *h, const struct journal_shard_state *state);
/* compactor_config.ids, a few at a time. */
int world_ids(void *data, otr_shard shard, uint64_t *from, uint64_t to, uint8_t **bytes, size_t *count);
/* Bytes on the disk. */
uint64_t world_used(const struct world *w);

#endif
