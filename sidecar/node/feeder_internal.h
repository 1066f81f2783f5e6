/* What the feeder's files share: feeder.c (the way in, committed entries), feeder_replay.c (everything again, from the
 * log's live points), feeder_engine.c (calls of the engine and their failures). Nobody else includes this. */
#ifndef OUTRIGGER_NODE_FEEDER_INTERNAL_H
#define OUTRIGGER_NODE_FEEDER_INTERNAL_H

#include "sidecar/node/feeder.h"
#include "sidecar/node/node_internal.h"

struct feeder_read {
    struct node_work work;
    struct feeder *feeder; /* NULL: it was freed or reset meanwhile */
    struct journal_reader *reader;
    uint64_t log_id;
    int status;
    size_t points; /* of a replay batch; 0: entries */
};

struct feeder {
    struct shard *s;
    uint64_t applied;
    char data_id[OTR_ENGINE_ID_MAX]; /* "": what the engine holds is worthless */
    struct otr_engine_req req;
    bool calling;
    uint64_t called_ns;
    bool free_when_done;
    struct feeder_read *reading;
    uint64_t pause_until_ms;
    unsigned refusals;   /* in a row: the engine would not take what the log holds */
    uint64_t refused_ms; /* the last of them */

    /* entries being fed: `offset` is the next record's, `it` walks the present one */
    struct journal_bytes chunk;
    size_t offset;
    bool in_record;
    struct record_header h;
    struct body_iter it;
    uint64_t done_index; /* applied becomes this when the call under way succeeds */
    bool carried_valid;  /* a point that did not fit into the last batch */
    struct otr_point carried;

    /* replay */
    bool replaying;
    char (*clear)[OTR_NAME_MAX + 1]; /* collections to drop first */
    size_t clear_count, clear_next;
    uint64_t clear_after; /* so many metas are durable: that the engine holds nothing is among them */
    struct store_snapshot *snapshot;
    struct journal_pin *pin; /* of what the snapshot's places are in */
    size_t snapshot_next, snapshot_sent;
    uint64_t snapshot_index;
    struct journal_reader *replay_reader;
    size_t replay_points, replay_at;
    uint64_t replay_log_id;

    uint64_t *made; /* collections that exist in the engine as far as we know */
    size_t made_count, made_capacity;
    uint64_t making;
    uint64_t asked_collections; /* number of the collections' full read we wait for; 0: none */
    uint64_t deleted[16];       /* a ring: what such reads did not show, and never will */
    size_t deleted_count;
    struct otr_point batch[OTR_ENGINE_BATCH];
};

/* feeder.c */
void feeder_advance(struct feeder *f);
void feeder_moved(struct feeder *f);
void feeder_forget_chunk(struct feeder *f);
/* Runs the reader off the loop; takes it over. */
void feeder_read_start(struct feeder *f, struct journal_reader *reader, size_t points);

/* feeder_replay.c */
/* Begins to feed everything into the engine's present data. */
void feeder_replay_start(struct feeder *f);
void feeder_replay_forget(struct feeder *f);
/* As far as it goes without waiting. */
void feeder_replay(struct feeder *f);
/* The batch under way is in the engine; the collection asked for is dropped. */
void feeder_replay_written(struct feeder *f);
void feeder_replay_dropped(struct feeder *f);

/* feeder_engine.c */
/* Nothing is tried for a while. */
void feeder_pause(struct feeder *f, const char *what, int status, const struct otr_errmsg *msg);
/* After any failure what was read is dropped and read again: `applied` says from where. */
void feeder_read_again(struct feeder *f);
/* Upserts or erases the first `count` points of the batch. */
void feeder_write(struct feeder *f, uint64_t collection, bool put, size_t count);
void feeder_drop_name(struct feeder *f, const char *collection);
/* The collection is deleted: drops it unless its name is another's by now. */
void feeder_drop(struct feeder *f, uint64_t collection);

/* What to do with points of a collection now. LATER: a call is under way, or the coordinator was asked. */
enum verdict { FEED = 1, SKIP, LATER };
enum verdict feeder_judge(struct feeder *f, uint64_t collection);

#endif
