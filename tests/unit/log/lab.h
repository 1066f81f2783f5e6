/* A journal on a fake disk, and beside it a model of what it must hold: the list of everything that was appended. After
 * a crash the journal must show the state after some prefix of that list that contains all that was reported durable:
 * nothing acknowledged is lost, nothing is invented, doubled or out of order. */
#ifndef OUTRIGGER_TESTS_UNIT_LOG_LAB_H
#define OUTRIGGER_TESTS_UNIT_LOG_LAB_H

#include "sidecar/log/journal.h"
#include "tests/lib/fake_disk.h"

enum { LAB_SHARDS = 4, LAB_ENTRIES_MAX = 4096 };

enum lab_op_kind { LAB_ENTRY = 1, LAB_CUT, LAB_META, LAB_SEED_BEGIN, LAB_SEED_POINTS, LAB_SEED_END };

struct lab_op {
    enum lab_op_kind kind;
    otr_shard shard;
    struct otr_position position; /* of the entry, the cut (index), the seed's base */
    uint64_t checksum;            /* of the entry's record, of the body otherwise */
    uint64_t log_id;
    uint64_t promised;
};

/* What one shard holds, by the model or by recovery's visits. */
struct lab_shard {
    size_t count;
    struct lab_entry {
        uint64_t epoch;
        uint64_t index;
        uint64_t checksum;
        journal_place place;
    } entries[LAB_ENTRIES_MAX];
    struct otr_position base;
    bool seed_unfinished;
    uint64_t seed_sum; /* of the seed's bodies and request ids */
    uint64_t log_id;
    uint64_t promised;
};

struct lab {
    struct fake_disk *disk;
    struct journal_config config;
    struct journal *j;
    struct lab_op *ops;
    size_t count;
    size_t capacity;
    size_t acked;       /* ops[0..acked) were reported durable */
    bool maybe_damaged; /* a write failed or bytes were damaged: shards may be reported as damaged */
    uint64_t rng;
    struct lab_shard *recovered; /* [LAB_SHARDS] */
    struct otr_errmsg msg;
};

/* A journal in a new directory; segment_bytes small makes many segments. */
void lab_init(struct lab *l, uint64_t segment_bytes);
void lab_close(struct lab *l);

/* Opens the journal; on success `recovered` is what the visits told. */
int lab_open(struct lab *l);
/* Opens and checks that it holds a prefix of the list, of at least what was acknowledged; goes on from there. */
void lab_reopen(struct lab *l);
/* The machine stops; the journal is closed. */
void lab_crash(struct lab *l, enum fake_disk_loss loss);
/* The process stops without a word; the journal is closed, the disk's page cache stays. */
void lab_kill(struct lab *l);

/* Appends; each returns what the journal returned and notes the operation when that was 0. */
int lab_append(struct lab *l, otr_shard shard, uint64_t epoch, size_t metadata_bytes);
int lab_append_raw(struct lab *l, otr_shard shard, uint64_t epoch, size_t entries);
int lab_cut(struct lab *l, otr_shard shard, uint64_t index);
int lab_meta(struct lab *l, otr_shard shard, uint64_t log_id, uint64_t promised);
int lab_seed_begin(struct lab *l, otr_shard shard, uint64_t log_id);
int lab_seed_points(struct lab *l, otr_shard shard);
int lab_seed_end(struct lab *l, otr_shard shard, struct otr_position base);
/* Flushes once; what was appended before is acknowledged when it returns 0. */
int lab_flush(struct lab *l);
/* A random operation that is allowed now; 0 or the journal's error. */
int lab_step(struct lab *l);

struct journal_shard_state lab_state(const struct lab *l, otr_shard shard);
/* True when the recovered shard is what the model says after `count` operations. */
bool lab_matches(const struct lab *l, otr_shard shard, size_t count);
/* Reads every retained entry of the shard again, through memory or a reader, and checks its bytes. */
void lab_read_all(struct lab *l, otr_shard shard);
/* Name of the segment that was begun last; returns its number. */
unsigned lab_last_segment(const struct lab *l, char name[16]);
/* Writes bytes behind the end of a file, durably, behind the journal's back. */
void lab_extend(struct lab *l, const char *name, const void *data, size_t bytes);

#endif
