/* Compactor: gives the disk space of old segments back, by writing what is still needed of some of them into one new
 * file that takes their place (DESIGN 5, "Compaction"). How it works, and why a crash at any moment loses nothing, is
 * told at the head of compactor.c.
 *
 * Threads: everything on the loop thread but compactor_run(), which does the reading and writing, a piece at a time, on
 * any thread. No clock here: time comes as an argument.
 *
 * Happy path, again and again: compactor_turn() -> true -> compactor_run() on a thread -> compactor_ran(). */
#ifndef OUTRIGGER_LOG_COMPACTOR_H
#define OUTRIGGER_LOG_COMPACTOR_H

#include "sidecar/log/store.h"

struct compactor;

struct compactor_config {
    struct journal *j;      /* lent until free */
    uint64_t retain_bytes;  /* so much of the newest segments stays in the log for replicas that lag */
    uint64_t retain_ms;     /* and as long as this, whatever its size */
    uint32_t live_percent;  /* segments are rewritten when no more than this share of them is needed */
    uint64_t bytes_per_s;   /* read and written together; 0: as fast as it goes */
    uint64_t bytes_max;     /* of one new file, about; 0: 256 MiB */
    uint64_t piece_bytes;   /* read by one compactor_run(), about; 0: 1 MiB */
    uint64_t reserve_bytes; /* kept on disk, so that there is room to compact when the disk is full; 0: none */
    /* The shard's store, NULL: there is none, and nothing of the shard is needed but its records of state. */
    struct store *(*store)(void *data, otr_shard shard);
    /* Entries up to this index may leave the log: committed, in the store, and acknowledged by every in-sync replica.
     * UINT64_MAX: nobody cares. */
    uint64_t (*keep)(void *data, otr_shard shard);
    /* Request ids still to be remembered of entries (*from, to], the oldest first, as journal_seed_end() takes them, as
     * many as make about a megabyte. *from moves to the last entry that was looked at. *bytes is malloc'd, NULL when
     * there are none. OTR_BUSY: not known yet; OTR_NOMEM. */
    int (*ids)(void *data, otr_shard shard, uint64_t *from, uint64_t to, uint8_t **bytes, size_t *count);
    void *data;
};

struct compactor_stats {
    uint64_t segments_total;     /* files replaced */
    uint64_t read_bytes_total;   /* of them */
    uint64_t copied_bytes_total; /* into new ones */
    uint64_t failed_total;       /* attempts that came to nothing */
    uint64_t busy_ms_total;
    uint64_t live_bytes; /* of the files whose entries have left the log: needed, by estimate */
    uint64_t dead_bytes; /* and not */
    bool halted;         /* something went wrong that only a restart can put right; nothing is lost */
};

/* OTR_NOMEM. */
OTR_MUST_CHECK int compactor_new(struct compactor **c, const struct compactor_config *config);
/* Not while compactor_run() runs. What was under way is dropped; its file is removed at the next start. */
void compactor_free(struct compactor *c);
/* What is to be done now? True: compactor_run() is to be called, then compactor_ran(). `pressed`: the disk is (almost)
 * full: the log retains only what it must, and nothing is written but into the reserve. Never blocks; takes at most
 * about a millisecond. */
bool compactor_turn(struct compactor *c, uint64_t now_ms, bool pressed);
/* Any thread. */
void compactor_run(struct compactor *c);
/* 0, or why an attempt came to nothing, with words; it is tried again later. */
int compactor_ran(struct compactor *c, uint64_t now_ms, struct otr_errmsg *msg);
void compactor_stats(const struct compactor *c, struct compactor_stats *stats);

#endif
