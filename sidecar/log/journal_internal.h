/* What the journal's source files share. Private to sidecar/log/journal*.c; journal.c tells how it all works. */
#ifndef OUTRIGGER_LOG_JOURNAL_INTERNAL_H
#define OUTRIGGER_LOG_JOURNAL_INTERNAL_H

#include "sidecar/log/journal_format.h"
#include "sidecar/log/shard_log.h"
#include "sidecar/log/tail.h"

enum {
    SEGMENT_BYTES_DEFAULT = 256 << 20,
    TAIL_BYTES_DEFAULT = 64 << 20,
    PENDING_BYTES_MAX = 128 << 20,         /* appended and not durable, before appends are refused */
    PENDING_BYTES_MAX_NO_SPACE = 16 << 20, /* the same while the disk is full */
};

#define JOURNAL_FAILED_NAME  "FAILED"
#define JOURNAL_RESERVE_NAME "RESERVE"
#define JOURNAL_RESERVE_PART "RESERVE.part" /* not yet complete */

/* Entries of a shard that stand in a segment and have left the log: those that were not cut, first to last. */
struct segment_run {
    otr_shard shard;
    uint64_t epoch;
    uint64_t first, last;
};

/* A segment file, or a file of what compaction kept of some. Referenced by the journal, by readers and by pins;
 * references change on the loop thread only. */
struct segment {
    struct journal *j;
    uint32_t number;
    uint32_t first, last; /* the segments that it stands for: itself, or more when it is a kept file */
    unsigned refs;
    struct file *file;       /* NULL until the batch that begins the segment is durable */
    uint64_t bytes;          /* of the file, as far as they count */
    uint64_t batch_number;   /* of the last batch in it, or in what it stands for */
    uint64_t batch_first;    /* of a kept file: of the first one */
    uint64_t previous_bytes; /* the length of the segment before, by this one's head; UINT64_MAX: unknown */
    uint64_t began_ms;       /* when it was begun, as far as compaction has noticed; 0: before this process */
    bool kept;
    bool left;   /* not kept, and its entries have left the log */
    bool gone;   /* replaced: the file goes once nobody holds it */
    bool spoilt; /* compaction could not read all of it */
    struct segment_run *runs;
    size_t runs_count;
    size_t runs_capacity;
    uint64_t records;        /* of a kept file: offset of the first record behind the head */
    struct kept_line *lines; /* of a kept file */
    uint32_t lines_count;
};

struct segment_list {
    struct segment **list;
    size_t count;
    size_t capacity;
};

struct journal_shard {
    otr_shard id;
    struct journal_meta meta;
    struct shard_log log;
    uint64_t durable_index; /* entries of the log as it is now, up to here, are on disk */
    bool damaged;
    bool frozen;         /* recovery only: what follows the damage cannot be told to belong to what stands before it */
    bool loose;          /* recovery only: see the head of compactor.c */
    journal_place since; /* nothing before it counts for this shard: where it began, or was seeded last */
    uint64_t metas_written;
    uint64_t metas_durable;
    uint64_t slot_batch; /* number of the batch that `slot` belongs to */
    size_t slot;         /* place in that batch's list of shards */
};

/* What a batch has of one shard. */
struct batch_shard {
    struct journal_shard *shard;
    uint64_t index_last; /* durable index that the batch will bring, less what was cut since */
    uint64_t metas;
};

struct batch_piece {
    uint8_t *data;
    size_t bytes;
};

/* A run of the journal's bytes that is written and synced at once. Filled on the loop thread; journal_flush_run() reads
 * the fields of the first group and writes those of the second. */
struct journal_batch {
    struct file_system *fs;
    uint32_t segment_number;
    uint64_t offset;            /* in the segment, of the first byte */
    struct batch_piece *pieces; /* room is made when a record is appended, so that beginning a flush cannot fail */
    size_t pieces_count;
    size_t pieces_capacity;

    struct file *file; /* NULL: the segment is begun by this batch and not created yet */
    int status;
    struct otr_errmsg msg;

    struct segment *segment; /* owned as long as the batch has not been added to the journal's segments */
    bool begins_segment;
    bool worth_writing;   /* it has more than its head */
    uint8_t *head;        /* the BATCH record, in the first piece */
    uint64_t head_offset; /* of the BATCH record in the segment */
    uint64_t number;
    uint64_t bytes; /* of all pieces */
    uint64_t shards_mask;
    struct batch_shard *shards;
    size_t shards_count;
    size_t shards_capacity;
};

struct journal {
    struct file_system *fs;
    char identity[IDENTITY_BYTES_MAX + 1];
    uint64_t id;
    uint64_t segment_bytes;
    struct segment_list segments; /* in the order of the journal */
    struct segment_list gone;     /* replaced, and still held by somebody, or to be removed */
    struct segment *staged;       /* a kept file that is about to replace some; NULL: none */
    uint32_t kept_number;         /* of the newest kept file */
    bool reserve;                 /* there is a file RESERVE */
    struct journal_shard *shards[OTR_SHARDS_MAX];
    struct tail tail;
    uint32_t end_segment; /* where the next record goes; 0: there is no segment yet */
    uint64_t end_offset;
    uint32_t durable_segment; /* up to where all is on disk */
    uint64_t durable_offset;
    uint64_t batch_number; /* of the newest batch */
    bool begin_segment;    /* the next batch begins a segment, whatever the size of the last */
    journal_place damages[SEGMENT_DAMAGES_MAX];
    uint32_t damages_count;
    struct journal_batch *open;     /* being filled; NULL: nothing appended */
    struct journal_batch *flushing; /* handed out, or waiting for space to be tried again */
    bool flush_running;
    size_t pending_bytes;
    bool no_space;
    bool failed;
};

/* journal.c */
struct journal_shard *journal_shard_get(const struct journal *j, otr_shard shard); /* NULL when unknown */
struct journal_shard *journal_shard_make(struct journal *j, otr_shard shard);      /* NULL when out of memory */

/* journal_segments.c */
OTR_MUST_CHECK int segment_list_reserve(struct segment_list *l, size_t more);
void segment_list_remove(struct segment_list *l, size_t at, size_t count);
OTR_MUST_CHECK int journal_segments_reserve(struct journal *j);
void journal_segments_add(struct journal *j, struct segment *s); /* takes over `s`; room must have been made */
/* By the number that is in places; also what is staged or gone. NULL: there is none. */
struct segment *journal_segment_find(const struct journal *j, uint32_t number);
struct segment *journal_segment_new(struct journal *j, uint32_t number);
/* The last one closes the file. What is gone keeps the journal's own reference until compaction removes it. */
void journal_segment_release(struct segment *s);
/* The shard's entries up to `index` leave the log; the segments that they stand in note them. OTR_NOMEM: nothing has
 * changed. */
OTR_MUST_CHECK int journal_settle(struct journal *j, struct journal_shard *s, uint64_t index);

/* journal_append.c */
/* Makes the open batch if there is none; OTR_NOMEM, OTR_NOSPACE (segment numbers used up). */
OTR_MUST_CHECK int journal_batch_open(struct journal *j);
void journal_batch_free(struct journal_batch *b);

/* journal_flush.c */
/* begin, run and end at once, for the blocking part of the start. */
OTR_MUST_CHECK int journal_flush_now(struct journal *j, struct otr_errmsg *msg);

/* journal_recover.c */
OTR_MUST_CHECK int journal_recover(struct journal *j, const struct journal_config *config, journal_visit_cb visit,
                                   void *data, struct otr_errmsg *msg);

#endif
