/* What the files of this room share. Nobody else includes it.
 *
 *   node.c         assembly: opening, closing, ticks, waiters
 *   shard.c        one replica's shell: events in, actions performed
 *   write.c        client writes: from node_write to the answer; held.c keeps those that come while nobody leads
 *   handoff.c      shards handed over, the node leaving
 *   force.c        an election that gives up entries, on an operator's word
 *   loss.c         files that say which entries were given up
 *   apply.c        committed entries into the store, in order
 *   feeder.c       the store's changes into the engine (feeder_engine.c: its calls, and what it refuses)
 *   feeder_replay.c  everything again, after the engine lost or refused something
 *   flush.c        group commit: the journal's batches through the flusher's thread
 *   coordinator.c  session, announcement, watch; coordinator_view.c takes what it shows into the topology,
 *                  coordinator_shard.c has the shards' transactions and reads
 *   collections.c  collections made, deleted, refreshed; points of deleted ones dropped
 *   links.c        peers: links opened, evidence of death, frames that come in (wire.c translates)
 *   outbox.c       frames that go out; appends read, compressed, sent
 *   compression.c  whether entries and points are compressed for a peer, and counting it
 *   seed_send.c, seed_receive.c  a shard's live points to or from another node
 *   read.c         get: the right to answer, waiting, reading off the loop
 *   search.c       the engine's hits verified against the log; the exact scan
 *   digest.c       replicas compared with their primary, and repaired
 *   scrub.c        damage: found in the background or met by reads, and what follows from it
 *   recover.c      the data directory at start
 *   node_metrics.c, metered.c  what is counted, printed; the coordinator's calls counted
 *   later.c        callbacks at the end of the loop turn
 */
#ifndef OUTRIGGER_NODE_NODE_INTERNAL_H
#define OUTRIGGER_NODE_NODE_INTERNAL_H

#include "sidecar/core/compress_gate.h"
#include "sidecar/core/lag_clock.h"
#include "sidecar/core/replica.h"
#include "sidecar/log/flusher.h"
#include "sidecar/log/journal.h"
#include "sidecar/log/store.h"
#include "sidecar/node/feeder.h"
#include "sidecar/node/handoff.h"
#include "sidecar/node/node.h"
#include "sidecar/node/node_metrics.h"
#include "sidecar/peer/compress.h"

#include <stdatomic.h>

enum {
    NODE_TICK_MS = 10,
    NODE_RESERVE_BYTES = 64 << 20,     /* kept on disk for compaction on a full disk */
    NODE_ROOM_BYTES = 64 << 20,        /* free, below which a node does not offer to take over */
    NODE_APPEND_BYTES_MAX = 1 << 20,   /* of entries in one message to a peer (one entry may be larger) */
    NODE_PENDING_BYTES_MAX = 60 << 20, /* appended and not yet durable: what primaries send waits then. Below the
                                        * journal's own bound by more than the largest entry. */
    NODE_PENDING_OWN_BYTES = 32 << 20, /* the same for clients' writes: OTR_BUSY. Less, so that they do not keep out
                                        * what other primaries wait for */
    NODE_HELD_BYTES_MAX = 16 << 20,    /* of writes held while nobody leads: more is refused */
    NODE_HITS_ONE_BYTES = 64 << 20,    /* of what one search has found so far in one shard, */
    NODE_HITS_ALL_BYTES = 512 << 20,   /* and all searches here together */
    NODE_HELD_MS = 1000,               /* so long: then whoever asked looks for the primary anew */
    NODE_FULL_RETRY_MS = 100,          /* a full disk is tried again this often */
    NODE_META_EVERY_MS = 1000,         /* committed and applied indexes are noted this often */
    NODE_HEALTH_EVERY_MS = 100,        /* health checkers are told this often, at most */
};

/* --- callbacks at the end of the turn ----------------------------------------------------------------------------- */

struct later {
    void (*cb)(struct later *l);
    struct later *next;
};

/* --- one replica ---------------------------------------------------------------------------------------------------
 */

struct write {
    struct write *next;
    node_write_cb cb; /* NULL: nobody waits (DROP) */
    void *data;
    struct otr_request_id id;
    enum record_kind kind;
    const uint8_t *body; /* lent while it is fed; our own copy while it is held */
    size_t body_bytes;
    bool body_own;
    struct otr_position position;
    uint32_t outcome;
    bool outcome_known;
    bool admitted; /* counted in node->admissions */
    uint64_t started_ns;
    uint64_t committed_ns; /* when it became answerable, were it not for the engine; 0: not yet */
    struct later later;
    struct node_write_result result;
    char message[160];
};

/* A DO_SEND_APPEND that waits for room on its link or for the disk. */
struct append_job {
    bool active;
    bool reading;
    bool waiting; /* for on_drain */
    otr_node to;
    uint64_t token;
    struct replica_msg msg;
};

struct held {
    struct write *head, **tail; /* tail NULL: none yet */
    struct later later;
    bool queued;
};

struct read_wait; /* read.c, search.c: waits until enough is visible */

struct shard {
    struct node *node;
    otr_shard id;
    struct replica *replica;
    struct store *store;
    char subject[64]; /* for the log */
    enum replica_role role;
    uint64_t epoch;
    uint64_t candidate_ns; /* when it stood for election; 0: it does not */
    struct shard_metrics metrics;

    /* feeding */
    bool stepping;
    struct replica_actions actions;
    struct replica_event *queued;
    size_t queued_count, queued_capacity;
    uint32_t under_way[NODE_OPS]; /* let in by admit_begin */
    uint64_t bytes_under_way[NODE_OPS];
    struct write *current_write;     /* while EV_WRITE is stepped */
    const struct incoming *incoming; /* while an APPEND is stepped */

    /* metas under way: the seq of the newest and its number in the journal */
    struct journal_meta meta; /* as written last */
    struct {
        uint64_t seq, number;
    } metas[32];
    uint32_t metas_count;
    uint64_t meta_noted_ms;

    /* writes */
    struct write *pending_head, **pending_tail; /* in index order */
    struct write **pending_uncommitted;         /* where the first stands whose commit was not noted yet */
    struct write *joined;                       /* retries of pending ones */

    /* request ids as recovered, until the replica is made */
    struct recovered_id *recovered;
    size_t recovered_count, recovered_capacity;

    struct held held; /* writes that wait for the end of a takeover or a handoff */

    struct handoff *handoff; /* an operator's, under way */
    struct force *force;     /* likewise */
    bool leave_feeding;      /* the event being stepped is the leaving node's own */

    struct append_job appends[OTR_REPLICAS_MAX];

    /* progress: durable >= commit >= stored >= applied */
    uint64_t commit;      /* may be applied to the store */
    uint64_t answerable;  /* may be answered */
    uint64_t stored;      /* is in the store */
    struct lag_clock lag; /* of the log's end */
    bool apply_reading;
    uint64_t apply_again_ms; /* when a read that failed is tried again; 0: none has */
    bool apply_stuck;        /* an entry cannot be read: until the replica is seeded */
    struct feeder *feeder;   /* the engine's side */
    uint64_t metas_durable;  /* how many of the metas written */

    struct {
        uint64_t told_ms;                 /* primary: the replicas, last */
        struct digest_expected *expected; /* to be compared at its index; NULL: nothing */
        struct digest_repair *repairs;    /* to come into force at their indexes */
        struct store_ranges differing;
        uint32_t range;  /* being repaired */
        bool holding;    /* nothing is applied behind `hold` */
        bool installing; /* all of the range is here, as of `hold` */
        uint64_t hold;
        uint64_t patience_ms;
        otr_node primary;
    } digest;
    uint32_t read_failures;  /* of the log's files, lately */
    uint64_t read_failed_ms; /* the first of them */
    bool damaged;            /* something of what is held here does not read any more; until it was seeded */
    uint32_t search_extra;   /* how many more than k the engine is asked for */
    struct read_wait *waits;
    struct later waits_later;
    bool waits_queued;
    struct seed_out *seeds_out;
    struct seed_in *seed_in;

    /* linearizable reads of the descriptor, one under way */
    struct show *show_waiting, *show_flying;
    struct later show_later;
    bool show_queued;
    struct otr_get_req show_get;
    uint64_t show_began;

    /* collections.c: what the store holds of collections that the view does not know */
    struct {
        uint64_t ids[64];
        size_t count;
        uint64_t asked;        /* number of the full read, begun after they were seen, that is to confirm it */
        uint64_t epoch, index; /* of the last DROP: looked for again when it is in the store */
    } gone;
};

/* An APPEND from a peer, taken apart. */
struct incoming {
    struct replica_msg msg;
    const uint8_t *bytes;
    uint8_t *restored; /* what was compressed; bytes points there. Else NULL */
    size_t *offsets;   /* of entry i; offsets[count] is the end */
    size_t count;
};

struct node_peer {
    struct peer_link *link;
    bool up;
    bool refused;         /* its address refused connections when it was tried last: evidence of death */
    uint64_t incarnation; /* that answered last */
    struct topology_address address;
    struct compress_gate gate;
    struct peer_metrics metrics;
};

struct node {
    uv_loop_t *loop;
    char cluster[OTR_NAME_MAX + 1];
    char name[OTR_NAME_MAX + 1];
    char zone[OTR_NAME_MAX + 1];
    char data_dir[512];
    struct topology_address client, peer;
    otr_node self;
    uint64_t incarnation;
    uint64_t started_ms;
    uint64_t health_told_ms;
    struct topology *topology;
    void (*on_fatal)(void *data, const char *why);
    void *on_fatal_data;
    node_call_cb on_call; /* the door's */
    bool dying;           /* on_fatal was called */
    struct {
        bool leaving, ended;
        uint64_t began_ms, deadline_ms;
        void (*cb)(void *data);
        void *data;
        struct later later;
    } leave;
    bool closing;
    bool shutting_down; /* closed before the loop's handles are */
    unsigned handles_open;
    unsigned parts_open; /* while closing: coordinator, peers, engine */
    struct later closing_later;
    void (*close_cb)(void *data);
    void *close_data;
    uint64_t work_outstanding; /* uv_work requests under way */

    uv_timer_t tick;
    uv_prepare_t prepare;
    uv_async_t flushed;
    uv_idle_t idle;
    struct later *later_head, **later_tail;
    struct node_wait *waits;
    struct later changed;
    bool changed_queued;

    struct file_system *fs;
    int lock; /* on the data directory, -1: none */
    struct journal *journal;
    struct compaction *compaction;
    struct flusher *flusher;
    bool flushing;
    bool disk_full;
    bool disk_low; /* as of the last look, at most a second ago: less than NODE_ROOM_BYTES are free */
    uint64_t disk_free_bytes;
    uint64_t flush_not_before_ms;

    struct shard *shards[OTR_SHARDS_MAX];
    uint32_t shards_top; /* highest used number + 1 */
    struct node_peer peers[OTR_NODES_MAX + 1];
    struct peer_hub *hub;

    const struct otr_backend_ops *backend_ops;
    struct otr_backend *backend;
    struct coordinator *coordinator;

    const struct otr_engine_ops *engine_ops;
    struct otr_engine *engine;
    struct otr_engine_caps engine_caps;
    struct otr_engine_status engine_status;
    bool engine_known; /* the first probe has ended */

    uint32_t apply_wait_ms, read_lag_ms; /* of the cluster's configuration */
    struct {
        atomic_size_t bytes;     /* of the hits that searches hold; counted on the thread pool, too */
        size_t one_max, all_max; /* constants, but for tests */
    } hits;
    struct collections *collections;
    struct {
        enum node_compression mode;
        struct compress_pool *pool;                /* made when first needed */
        uint64_t looked_ns, waited_ns, starved_ns; /* when the loop was looked at last, and what it showed */
        uint32_t loop_busy_permille;
        uint64_t cpu_ns, restore_cpu_ns; /* spent so far */
    } compression;
    struct scrub *scrub; /* NULL: none */
    uint64_t scrub_bytes_per_s, scrub_every_ms;
    size_t held_bytes; /* of writes held, all shards */
    struct admission admissions[NODE_OPS];
    struct node_metrics_all metrics;
};

/* later.c: cb runs once, soon, from the loop. */
void later_start(struct node *n);
void later_run(struct node *n, struct later *l, void (*cb)(struct later *l));

/* node.c */
void node_fatal(struct node *n, const char *format, ...) __attribute__((format(printf, 2, 3)));
void node_changed(struct node *n); /* wakes node_wait_change */
struct shard *node_shard(struct node *n, otr_shard id);
/* Work off the loop that keeps the node open until it is done. */
struct node_work {
    uv_work_t req;
    struct node *node;
    void (*run)(struct node_work *w);  /* another thread */
    void (*done)(struct node_work *w); /* the loop; may free w */
};
void node_work_start(struct node *n, struct node_work *w, void (*run)(struct node_work *),
                     void (*done)(struct node_work *));
void node_handle_closed(struct node *n);
/* While closing: goes on once nothing is under way any more. */
void node_closing_step(struct node *n);

/* shard.c */
int shard_new(struct node *n, otr_shard id, struct shard **out);
void shard_free(struct shard *s);
/* Feeds an event. Inside a step only events without lent pointers may be fed: they are queued. */
void shard_feed(struct shard *s, struct replica_event *ev);
/* The journal's report after a flush. */
void shard_durable(struct shard *s, uint64_t durable_index, uint64_t metas_durable);
/* Notes committed and applied indexes in the journal when they moved; `force` disregards the pace. */
void shard_note_progress(struct shard *s, uint64_t now_ms, bool force);
uint64_t shard_fresh_log_id(void);
/* What the cluster's configuration says to every replica. */
struct replica_settings shard_settings(const struct shard *s);

/* write.c */
void write_appended(struct shard *s, struct write *w, struct otr_position position);
void write_replied(struct shard *s, const struct replica_action *a, struct write *w);
void write_abandon(struct shard *s, uint64_t from_index);
void write_cut(struct shard *s, uint64_t index);
void write_outcome(struct shard *s, uint64_t index, uint32_t outcome);
/* Answers what may be answered: committed, stored, and in the engine or waited for long enough. */
void write_answer(struct shard *s, uint64_t now_ms);
void write_free_all(struct shard *s);
/* A write without a client. */
int write_internal(struct shard *s, enum record_kind kind, const uint8_t *body, size_t body_bytes);

/* For held.c: once more from the start. */
void write_again(struct shard *s, struct write *w);
void write_refuse(struct shard *s, struct write *w, int status, const char *message);
void write_drop_body(struct shard *s, struct write *w);

/* held.c */
/* Keeps a write that nobody can take just now; false: it is to be refused. */
bool held_keep(struct shard *s, struct write *w, uint64_t now_ms);
/* Whether the shard leads again, or nobody here will: looks when the loop's turn is over. */
void held_look(struct shard *s);
void held_tick(struct shard *s, uint64_t now_ms);
/* The node closes: all are refused. */
void held_end(struct shard *s);
void held_free(struct shard *s);

/* apply.c */
void apply_advance(struct shard *s);
void apply_tick(struct shard *s, uint64_t now_ms);
/* At start, blocking: entries up to `committed` into the store. */
int apply_recover(struct shard *s, uint64_t committed, struct otr_errmsg *msg);
bool apply_same_id(void *data, journal_place place, const char *id, size_t id_bytes);

/* flush.c */
int flush_start(struct node *n, struct otr_errmsg *msg);
void flush_turn(struct node *n); /* at the end of each loop turn */
void flush_stop(struct node *n);

/* compaction.c */
int compaction_start(struct node *n, const struct node_compaction *config); /* after recovery; OTR_NOMEM */
void compaction_tick(struct node *n, uint64_t now_ms);
void compaction_metrics(struct node *n);
void compaction_stop(struct node *n);

/* coordinator.c */
int coordinator_start(struct node *n, const struct otr_backend_config *config, uint32_t session_ttl_ms,
                      struct otr_errmsg *msg);
void coordinator_close(struct node *n, void (*cb)(struct node *n));
void coordinator_txn(struct shard *s, const struct replica_action *a);
void coordinator_read(struct shard *s, uint64_t read);
/* One linearizable read of the descriptor that begins now or later in this turn (batched): cb with NULL on failure. */
typedef void (*coordinator_shown_cb)(void *data, const struct descriptor *shown);
void coordinator_show(struct shard *s, coordinator_shown_cb cb, void *data);
/* The highest revision shown so far: noted when a read begins, and compared with what the read shows. */
uint64_t coordinator_revision(const struct node *n);
/* Whether the coordinator that answered is the one it was, and not back in time (PROTOCOL D4); it is not believed from
 * then on. Answers may overtake each other, so what counts is what had been shown when the read began. */
bool coordinator_check_answer(struct node *n, const struct otr_get_result *result, uint64_t began_revision);
bool coordinator_regressed(const struct node *n);
bool coordinator_reachable(const struct node *n);
/* Whether the cluster's state was read since the start. */
bool coordinator_known(const struct node *n);
/* What keeps us from the coordinator, in its own words; "": nothing. */
const char *coordinator_why(const struct node *n);
/* State for a replica that was just made. */
void coordinator_brief(struct shard *s);

/* collections.c */
void collections_changed(struct node *n);
void collections_check(struct shard *s); /* a new primary: drops points of collections that are gone */
void collections_tick(struct node *n, uint64_t now_ms);
/* A collection's key as the coordinator showed it, or its absence as of a revision; what is older than what the view
 * has changes nothing. */
void collections_take(struct node *n, const char *name, const struct otr_kv *kv);
void collections_forget(struct node *n, const char *name, uint64_t revision);
/* Everything was deleted, at this revision: so collections that went with it were not meant. */
void collections_restore(struct node *n, uint64_t revision);
const char *collections_name(struct node *n, uint64_t id); /* also of recently deleted ones; NULL: never heard of */
/* A read of all collections that begins after this call; its number for collections_answered. */
uint64_t collections_ask(struct node *n);
bool collections_answered(const struct node *n, uint64_t asked);
int collections_make(struct node *n); /* OTR_NOMEM */
void collections_free(struct node *n);

/* links.c */
int links_start(struct node *n, const struct node_config *config, struct otr_errmsg *msg);
void links_update(struct node *n, otr_node peer); /* its address may have changed */
void links_tick(struct node *n);                  /* links for which there was no memory */
void links_brief(struct shard *s);

/* outbox.c */
void outbox_send(struct shard *s, otr_node to, const struct replica_msg *msg);
/* REPLICA_EV_SENT says how it ended. */
void outbox_append(struct shard *s, const struct replica_action *a);
void outbox_drop(struct shard *s, otr_node to);     /* the append under way, if there is one */
void outbox_drained(struct node *n, otr_node peer); /* its link takes appends again */

/* wire.c */
void wire_pack(const struct node *n, otr_shard shard, const struct replica_msg *msg, Outrigger__V1__ReplicaMessage *out,
               Outrigger__V1__Position *position);
/* OTR_PROTO with words; entries of an APPEND are verified (record_read). */
int wire_unpack(struct node *n, const Outrigger__V1__ReplicaMessage *in, struct incoming *out, struct otr_errmsg *msg);
void wire_free(struct incoming *in);

/* compression.c */
struct compression_job { /* one batch for one peer */
    struct compress_pool *pool;
    uint32_t allowed;
    size_t plain_bytes;
    struct compressed out; /* the caller's to free */
    uint64_t ns;
    uint64_t cpu_ns;
};
/* Is it to be compressed? If so, the job is filled for compression_run_. */
bool compression_wanted(struct node *n, otr_node to, size_t bytes, struct compression_job *job);
/* Any thread. Out of memory counts as not smaller. */
void compression_run_records(struct compression_job *job, const uint8_t *data, size_t bytes);
void compression_run_points(struct compression_job *job, const uint8_t *data, size_t bytes);
/* Counts, and learns. */
void compression_ran(struct node *n, otr_node to, const struct compression_job *job);
/* As compress_restore, with words; *out is the caller's. */
int compression_restore(struct node *n, uint32_t encoding, const uint8_t *data, size_t bytes, uint8_t **out,
                        size_t *out_bytes, struct otr_errmsg *msg);
bool compression_on(struct node *n, const struct node_peer *p);
void compression_start(struct node *n, enum node_compression mode);
void compression_tick(struct node *n);
void compression_stop(struct node *n);

/* seed_send.c, seed_receive.c */
void seed_send_start(struct shard *s, otr_node to);
void seed_send_stop(struct shard *s);
void seed_receive_frame(struct node *n, struct peer_call *call, const struct peer_from *from,
                        const Outrigger__V1__SeedFrame *frame);
void seed_receive_accepted(struct shard *s, const struct replica_meta *meta);
void seed_receive_durable(struct shard *s, uint64_t metas_durable);
void seed_receive_tick(struct shard *s);
void seed_receive_stop(struct shard *s); /* the hub is closed */

/* force.c */
void force_forced(struct shard *s, const struct replica_action *a);
/* The node closes: whoever waits is told so. */
void force_end(struct shard *s);

/* loss.c */
/* DO_NOTE_LOSS; REPLICA_EV_LOSS_NOTED says how it ended. */
void loss_note(struct shard *s, const struct replica_action *a);

/* digest.c */
void digest_tick(struct shard *s, uint64_t now_ms);
void digest_receive(struct node *n, otr_node from, const Outrigger__V1__Digest *m);
/* An entry has come into the store: what was waiting for its index. OTR_NOMEM. */
int digest_applied(struct shard *s);
/* No more may be applied for now. */
bool digest_holds(const struct shard *s);
/* A part of a repair, as received or recovered. OTR_NOMEM, OTR_CORRUPT. */
int digest_take_part(struct shard *s, uint64_t index, uint32_t range, bool more, const uint8_t *body, size_t bytes,
                     journal_place place);
void digest_forget(struct shard *s);

/* scrub.c */
int scrub_start(struct node *n, const struct node_config *config);
void scrub_tick(struct node *n, uint64_t now_ms);
void scrub_stop(struct node *n);
/* Whether a status of reading what was durable once means damage; who is told that it does not tries again. */
bool damage_is(struct shard *s, int status);
/* A read of the log with this id met damage: `where` is for the log lines. May be called while the shard is stepped. */
void damage_met(struct shard *s, uint64_t log_id, const char *where);
/* Everything that was held is given up. */
void damage_gone(struct shard *s);

/* read.c */
/* Waits until `ready` says 0 (or an error) and calls done from the loop, not from inside. OTR_TIMEOUT after timeout_ms.
 */
struct read_wait {
    struct read_wait *next;
    struct shard *shard;
    int status;
    uint64_t deadline_ms;
    int (*ready)(struct read_wait *w, uint64_t now_ms); /* OTR_UNAVAIL: not yet */
    void (*done)(struct read_wait *w, int status);
};
void read_wait_start(struct shard *s, struct read_wait *w);
void read_wait_check(struct shard *s, uint64_t now_ms);
void read_wait_end(struct shard *s, int status);
void read_wait_later(struct later *l);
/* Whether a read with this consistency may be answered out of this replica now. 0; OTR_UNAVAIL with *need_descriptor.
 */
void read_anchor(struct shard *s, enum node_consistency c, bool *anchored, uint64_t *need_index);
int read_right(struct shard *s, enum node_consistency c, uint64_t now_ms, bool *need_descriptor);

/* --- admit.c --- */

void admit_init(struct node *n, uint32_t delay_max_ms);
/* 0 or OTR_BUSY; 0: it is under way until admit_end, with the same bytes. */
int admit_begin(struct shard *s, enum node_operation op, size_t bytes);
void admit_end(struct shard *s, enum node_operation op, size_t bytes);
/* It was answered; times of clock_now_ns. */
void admit_sample(struct shard *s, enum node_operation op, uint64_t started_ns, uint64_t end_ns);

#endif
