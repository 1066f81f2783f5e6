/* What the compactor's source files share. Private to sidecar/log/compactor*.c. */
#ifndef OUTRIGGER_LOG_COMPACTOR_INTERNAL_H
#define OUTRIGGER_LOG_COMPACTOR_INTERNAL_H

#include "sidecar/log/compactor.h"
#include "sidecar/log/journal_internal.h"
#include "sidecar/log/segment_scan.h"

enum {
    COMPACTOR_PIECE_BYTES = 1 << 20, /* read by one compactor_run() */
    COMPACTOR_SYNC_BYTES = 16 << 20, /* written between two syncs, so that appends never wait for a large one */
    COMPACTOR_MOVES = 4000,          /* points moved, or ids gathered, in one turn */
    COMPACTOR_FILES_MIN = 8,         /* so many small files are merged, whatever their share of live points */
};

/* Something read that may be kept: a point, or a record of deletions. */
struct compactor_item {
    otr_shard shard;
    uint16_t kind; /* RECORD_KEPT_POINTS: a point; RECORD_KEPT_DELETES, RECORD_KEPT_DROP: the record's body */
    bool keep;
    uint64_t collection;
    uint64_t hash;
    journal_place place;
    size_t at; /* in piece.bytes */
    uint32_t bytes;
};

struct compactor_piece {
    uint8_t *bytes;
    size_t used;
    size_t capacity;
    struct compactor_item *items;
    size_t count;
    size_t items_capacity;
};

/* A point that was copied. Its shard and collection are those of its group. */
struct compactor_move {
    uint64_t hash;
    journal_place from;
    uint32_t to; /* offset / 8 in the new file */
    uint32_t bytes;
    uint32_t group;
};

struct compactor_group {
    otr_shard shard;
    uint64_t collection;
};

/* One shard of a job. */
struct compactor_shard {
    struct kept_line line;
    bool seen;            /* line.before is known */
    bool entries;         /* line.after is known */
    bool in_seed;         /* a seed's points are being read */
    bool tombs;           /* deletions are needed: there are older points in front */
    uint64_t tombs_bytes; /* kept of them */
    uint64_t ids_from;
};

enum compactor_phase {
    COMPACTOR_IDLE = 1,
    COMPACTOR_COPY,   /* pieces are read, judged and written */
    COMPACTOR_IDS,    /* the shards' request ids are written */
    COMPACTOR_FINISH, /* the head is written, and all is synced */
    COMPACTOR_MOVE,   /* stores learn the new places */
    COMPACTOR_COMMIT, /* the file gets its name */
    COMPACTOR_ABORT,  /* and this one loses it */
    COMPACTOR_REAP,   /* files that nobody holds any more are removed */
    COMPACTOR_FILL,   /* the reserve is written */
};

struct compactor {
    struct compactor_config config;
    struct compactor_stats stats;
    enum compactor_phase phase;
    bool running;
    uint64_t now_ms;
    uint64_t looked_ms;     /* when it last looked for something to do */
    uint64_t not_before_ms; /* after a failure */
    uint64_t yielded_ms;    /* since when it has made way for appends; 0: it does not */
    uint64_t budget_ms;
    int64_t budget; /* bytes it may move now */
    uint64_t began_ms;
    bool use_reserve;
    uint32_t
        sweep; /* deletions pile up: files from this segment number on are rewritten in their order; 0: they do not */

    uint64_t sweep_left;

    /* the job */
    struct segment **victims; /* referenced */
    size_t victims_count;
    uint64_t previous_bytes;
    uint64_t batch_first;
    struct segment *made; /* journal.staged from COMPACTOR_MOVE on */
    bool from_reserve;
    struct compactor_shard *shards; /* ascending */
    size_t shards_count;
    size_t shards_capacity;
    size_t victim; /* being read */
    uint64_t offset;
    struct segment_scan scan;
    bool scanning;
    struct compactor_piece piece;
    bool read_all;
    uint8_t *out; /* records to be written */
    size_t out_used;
    size_t out_capacity;
    uint64_t written; /* of the new file */
    uint64_t synced;
    struct compactor_move *moves;
    size_t moves_count;
    size_t moves_capacity;
    size_t moved;
    struct compactor_group *groups;
    size_t groups_count;
    size_t groups_capacity;
    size_t ids_shard; /* whose ids come next */
    uint8_t *ids;
    size_t ids_bytes;
    otr_shard ids_of;

    /* of one compactor_run() */
    uint64_t run_bytes;
    int status;
    struct otr_errmsg msg;
    struct segment *reaped;
    struct file *reserve; /* being filled */
};

/* compactor_pick.c */
/* Lets entries leave the log, and picks the segments of a job. True: c->victims are set. */
bool compactor_pick(struct compactor *c, bool pressed);

/* compactor_copy.c: any thread, while no one else touches the job */
int compactor_copy(struct compactor *c); /* writes what was judged, reads the next piece */
int compactor_write_ids(struct compactor *c);
int compactor_finish(struct compactor *c);
int compactor_begin(struct compactor *c); /* makes the new file */
/* All is read: what the file will say of each shard. Loop thread. */
void compactor_lines_settle(struct compactor *c);
/* The shard's line of the job, made when it is missing; NULL: out of memory. */
struct compactor_shard *compactor_shard(struct compactor *c, otr_shard shard);

#endif
