/* Journal: append-only segment files that hold every shard's log of this node; the log is the store (DESIGN 5).
 * The record format is in sidecar/core/codec.h; the local records' bodies, segment names and recovery are described at
 * the head of journal.c, complete enough for a second implementation.
 *
 * Threads: everything is called on the loop thread, but for journal_flush_run() (a thread of its own, one at a time)
 * and journal_reader_run() (any thread). No libuv here: the shell decides which thread runs what.
 *
 * Happy path: append records to the open batch (memory) -> flush_begin takes the batch -> flush_run writes and syncs it
 * -> flush_end tells what is durable. The next batch fills meanwhile: one fdatasync commits everything in flight.
 * Failures: a failed write or sync is final for this journal (PROTOCOL E4): journal_failed() is true from then on,
 * appends are refused with OTR_IO, nothing more becomes durable, and a file FAILED beside the segments makes the next
 * start draw new log ids. A full disk found at write time with nothing lost is OTR_NOSPACE and may be tried again.
 *
 * What the journal keeps of a shard in memory: its retained entries' places by index, its epoch boundaries, its meta.
 */
#ifndef OUTRIGGER_LOG_JOURNAL_H
#define OUTRIGGER_LOG_JOURNAL_H

#include "outrigger/err.h"
#include "outrigger/types.h"
#include "sidecar/core/codec.h"
#include "sidecar/log/file.h"

struct journal;
struct journal_batch;

/* Place of a record or of a point within one: segment in the upper 24 bits, offset / 8 in the lower 40. 0: none (offset
 * 0 of a segment is its header, never an entry). Compaction moves points to files whose numbers have the highest bit
 * set: they are older than whatever stands in a segment that does not. No two files ever have the same number, so a
 * place that is out of date finds nothing, and never something else. */
typedef uint64_t journal_place;
static inline bool journal_place_before(journal_place a, journal_place b)
{
    return (int64_t)a < (int64_t)b;
}

/* Durable facts about one replica that are no log entries (PROTOCOL D4, E2, E3, G4). Written whole, newest wins. */
struct journal_meta {
    uint64_t log_id;          /* 0: this node has no replica of the shard */
    uint64_t promised;        /* highest epoch it follows */
    uint64_t seen_generation; /* newest descriptor seen */
    uint64_t seen_epoch;
    uint64_t seen_version;
    uint64_t grant_ms_max;    /* largest grant ever in force */
    uint64_t committed_index; /* a lower bound, written now and then; entries up to it were committed */
    uint64_t applied_index;   /* entries up to it are in the engine's data below */
    char engine_data_id[64];  /* otr_engine_status.data_id they were applied to */
};

struct journal_config {
    struct file_system *fs; /* lent until close */
    uint64_t segment_bytes; /* a segment is sealed at about this size; 0: 256 MiB */
    size_t tail_bytes;      /* how much of the newest records stays in memory for journal_read; 0: 64 MiB */
    const char *identity;   /* "<cluster>/<node>": written on first use; another one refuses to open (OTR_INVALID) */
    uint64_t journal_id;    /* random bits, used when the journal is created; 0: derived from the identity */
    /* As journal_visit_cb, with the same data: entries that leave the log while it is recovered. NULL: not told. */
    void (*settled)(void *data, const struct record_header *h, const uint8_t *body, journal_place place);
};

/* Recovery's and appends' report about a shard. */
struct journal_shard_state {
    struct journal_meta meta;
    struct otr_position first; /* of the oldest retained entry; {0,0} when none */
    struct otr_position last;  /* of the newest entry, durable or not; the seed's base when there is none after it */
    struct otr_position base;  /* the log starts behind it: a seed's, or the last entry that compaction took out of
                                  the log; {0,0}: it starts at index 1 */
    uint64_t durable_index;
    bool seed_unfinished; /* a seed was begun and never ended: holds nothing that counts */
    bool damaged;         /* recovery met a bad entry below a known durable mark (PROTOCOL E3) */
};

/* Recovery reads all segments (blocking: before the loop runs). For each surviving record of interest `visit` is called
 * in journal order, so that the store can be rebuilt: entries (kinds below RECORD_LOCAL_FIRST), SEED_BEGIN (forget all
 * the shard holds), SEED_POINTS (a PUT's body: live points as of the seed), SEED_END, CUT (entries from h->index on are
 * gone). `place` is the record's.
 *
 * Of files that compaction wrote: what begins like a seed is told as SEED_BEGIN, where the shard's log was cut as CUT;
 * then KEPT_DELETES (a DELETE's body), KEPT_DROP (a DROP's) and KEPT_POINTS (a PUT's) are to be applied at once, and
 * KEPT_IDS has what journal_seed_end() would have of the entries that are no longer there. KEPT_HEAD with h->index > 0
 * says that the log goes on behind (h->epoch, h->index); all that stands before it has been told. Before that, entries
 * that are visited a second time, with `settled` of the configuration, are known to be committed: they are applied at
 * once, in their order. */
typedef void (*journal_visit_cb)(void *data, const struct record_header *h, const uint8_t *body, journal_place place);
int journal_open(struct journal **out, const struct journal_config *config, journal_visit_cb visit, void *data,
                 struct otr_errmsg *msg);
/* Batches that were not flushed are dropped. No flush may be running. */
void journal_close(struct journal *j);

bool journal_failed(const struct journal *j);
/* 0 when the shard is unknown. */
int journal_shard(const struct journal *j, otr_shard shard, struct journal_shard_state *state);
/* Calls cb for each shard that has a log id, ascending. */
void journal_shards(const struct journal *j, void (*cb)(otr_shard shard, void *data), void *data);
/* Epoch of the entry at index; 0 when it is not retained (the seed's base counts as retained). */
uint64_t journal_epoch_at(const struct journal *j, otr_shard shard, uint64_t index);
/* Place of the entry at index; 0 when it is not retained. */
journal_place journal_place_of(const struct journal *j, otr_shard shard, uint64_t index);

/* --- appending ----------------------------------------------------------------------------------------------------
 *
 * Into the open batch. Errors: OTR_NOMEM, OTR_IO (failed), OTR_BUSY (too much not yet flushed; OTR_NOSPACE while the
 * disk is full), and then nothing has changed. Metas, cuts, entries that begin an epoch, and the begin and end of a
 * seed are never refused as too much. */

/* A new entry. Asserts that h->index is last + 1. h->checksum is set. *place may be NULL. */
int journal_append(struct journal *j, struct record_header *h, const uint8_t *body, journal_place *place);
/* Sealed entries as they came from a peer (verified by record_read before), consecutive, of one shard; the first one's
 * index is last + 1; OTR_CORRUPT when they are not that. */
int journal_append_raw(struct journal *j, otr_shard shard, const uint8_t *records, size_t bytes);
/* The shard's entries from `index` on are gone. Asserts index > committed. Crash-safe: a CUT record, then what follows.
 */
int journal_cut(struct journal *j, otr_shard shard, uint64_t index);
int journal_meta_write(struct journal *j, otr_shard shard, const struct journal_meta *meta);
/* Seeding (PROTOCOL E3): begin writes the new meta (with its new log id) and forgets everything; points are appended as
 * PUT bodies; end makes `base` the start of the log, with the request ids of the window as an opaque blob. */
int journal_seed_begin(struct journal *j, otr_shard shard, const struct journal_meta *meta);
int journal_seed_points(struct journal *j, otr_shard shard, const uint8_t *put_body, size_t bytes,
                        journal_place *place);
int journal_seed_end(struct journal *j, otr_shard shard, struct otr_position base, const uint8_t *request_ids,
                     size_t bytes);
/* Points of a repair (sidecar/node/digest.c): what one range of hashes holds at entry `index`, `more` to follow. */
int journal_repair_points(struct journal *j, otr_shard shard, uint64_t index, uint32_t range, bool more,
                          const uint8_t *put_body, size_t bytes, journal_place *place);
/* Bytes appended and not yet durable: for flow control. */
size_t journal_pending_bytes(const struct journal *j);

/* For metrics. */
struct journal_stats {
    size_t pending_bytes;
    size_t tail_bytes; /* memory that holds the newest records */
    size_t segments;
    uint64_t bytes; /* of the segments, also of those that are about to be removed */
};
void journal_stats(const struct journal *j, struct journal_stats *stats);

/* --- flushing ----------------------------------------------------------------------------------------------------- */

/* Takes what has been appended; NULL when there is nothing or a flush is under way. */
struct journal_batch *journal_flush_begin(struct journal *j);
/* On the flusher's thread: write and fdatasync. Touches nothing that the loop thread uses. */
void journal_flush_run(struct journal_batch *batch);
/* What running it writes. */
uint64_t journal_batch_bytes(const struct journal_batch *batch);
/* Back on the loop thread; frees the batch. For every shard with records in it `cb` tells the durable index (as of now,
 * less what was cut since) and whether the newest journal_meta_write (or seed) of the shard is durable: metas_durable
 * counts the meta records of that shard made durable so far. Returns 0 or the failure. OTR_NOSPACE: the journal keeps
 * the batch, and the next journal_flush_begin hands it out again: try after a while. */
typedef void (*journal_durable_cb)(void *data, otr_shard shard, uint64_t durable_index, uint64_t metas_durable);
int journal_flush_end(struct journal *j, struct journal_batch *batch, journal_durable_cb cb, void *data,
                      struct otr_errmsg *msg);
/* Meta records of the shard written so far (durable or not), counting the begin and the end of a seed: the number that
 * metas_durable will reach. */
uint64_t journal_metas_written(const struct journal *j, otr_shard shard);

/* --- reading ------------------------------------------------------------------------------------------------------ */

/* Entries [first, last] of a shard. In memory when they are in the tail: copied at once into buf (up to max_bytes, at
 * least one entry). Otherwise OTR_UNAVAIL: use a reader, which may read files on another thread; OTR_GONE when `first`
 * is not retained; OTR_INVALID when there are no such entries (yet). */
struct journal_bytes {
    uint8_t *data; /* malloc'd; the caller's */
    size_t bytes;
    uint64_t last; /* index of the last entry in data */
};
int journal_read(struct journal *j, otr_shard shard, uint64_t first, uint64_t last, size_t max_bytes,
                 struct journal_bytes *out);

/* A reader: what another thread needs to read places while the journal lives. Entries [first, last] are resolved on the
 * loop thread by journal_reader_entries, single records or points by their place. Freed on the loop thread, at the
 * latest before the file system. What is cut after it was resolved is read all the same: whoever uses entries checks
 * that the log still has them. A reader that has to read files stops before what is in memory: result.last tells how
 * far it is.
 */
struct journal_reader;
struct journal_reader *journal_reader_new(struct journal *j);
void journal_reader_free(struct journal_reader *r);
int journal_reader_entries(struct journal_reader *r, otr_shard shard, uint64_t first, uint64_t last, size_t max_bytes);
/* Adds a point at `place` (a point within a PUT or SEED_POINTS record). Returns its number, from 0; negative:
 * OTR_NOMEM. */
int journal_reader_point(struct journal_reader *r, journal_place place, uint32_t bytes_hint);
/* Any thread, once: does all the reading. Points that are in the tail were copied when they were added. */
int journal_reader_run(struct journal_reader *r, struct otr_errmsg *msg);
/* After run: the entries read (lent), and the points (verified; status OTR_CORRUPT per point). */
const struct journal_bytes *journal_reader_result(const struct journal_reader *r);
int journal_reader_point_result(const struct journal_reader *r, int number, struct otr_point *p);
/* Places that are kept for longer than a turn of the loop (a store's snapshot) need a pin: as long as it lives, all
 * that the journal holds now can be read. It keeps compaction from giving disk space back. Loop thread only. NULL: out
 * of memory. */
struct journal_pin;
struct journal_pin *journal_pin_new(struct journal *j);
void journal_pin_free(struct journal_pin *pin);
/* True when every point added is in memory: run would not touch a file and may be called on the loop thread. */
bool journal_reader_in_memory(const struct journal_reader *r);

/* --- scrubbing ----------------------------------------------------------------------------------------------------
 *
 * Reads sealed segments again, from the disk, in pieces of about `bytes`: begin and end on the loop thread, run between
 * them on any thread. begin returns false when a pass is over, or there is nothing to read: the next call begins
 * another. end tells for each shard that lost something which counts (not: what a later seed replaced, or what recovery
 * has dealt with already) where the damage begins, and returns the bytes read. Freed while nothing runs, before the
 * journal is closed. */
struct journal_scrub;
struct journal_scrub *journal_scrub_new(struct journal *j);
void journal_scrub_free(struct journal_scrub *s);
bool journal_scrub_begin(struct journal_scrub *s, size_t bytes);
void journal_scrub_run(struct journal_scrub *s);
typedef void (*journal_damage_cb)(void *data, otr_shard shard, journal_place place);
uint64_t journal_scrub_end(struct journal_scrub *s, journal_damage_cb cb, void *data);

#endif
