/* The simulator: a cluster of replicas and journals on virtual time, out of one seed.
 *
 * A node is what the daemon is around the core (sidecar/node), reduced to what matters: the real replicas
 * (sidecar/core), the real journal (sidecar/log) on a fake disk, and a shell that turns events into steps and actions
 * into messages, journal records and transactions. Network, coordinator, clocks and clients are simulated and fail as
 * the seed says. Nothing depends on real time, addresses or the order of a hash table: equal seeds give equal traces.
 *
 *   sim.c          chance, virtual time, trace, one seed from beginning to end
 *   sim_main.c     command line, totals, several processes
 *   sim_counts.c   named situations, and whom each fault struck
 *   sim_observe.c  which situation is it?
 *   sim_faults.c   what goes wrong, and when
 *   sim_strike_*.c ... carried out: on nodes and disks, on the network, on the coordinator
 *   sim_node.c     a node's process: start, crash, timers, flushing, recovery
 *   sim_shard.c    one replica's shell: actions performed
 *   sim_seed.c     ... and its seeds, given and taken
 *   sim_handoff.c  handoffs asked for, processes that stop in good order, engines that fail
 *   sim_disk.c     a file system that stops changing at a chosen call (the moment of a crash)
 *   sim_net.c      connections: in order, late, frozen, cut, refused
 *   sim_coord.c    coordinator: transactions, reads, sessions, watches
 *   sim_alter.c    ... others that change descriptors, and a coordinator that goes back in time
 *   sim_mode.c     mode async: settings, and notes of what is lost
 *   sim_clients.c  writes with retries, linearizable reads
 *   check_*.c      one invariant of DESIGN 4.6 each (numbers I1..I7)
 */
#ifndef OUTRIGGER_TESTS_SIMULATION_SIM_H
#define OUTRIGGER_TESTS_SIMULATION_SIM_H

#include "sidecar/core/codec.h"
#include "sidecar/core/replica.h"
#include "sidecar/log/journal.h"
#include "tests/lib/fake_disk.h"
#include "tests/simulation/sim_counts.h"

#include <inttypes.h>

enum {
    SIM_NODES_MAX = 7,
    SIM_SHARDS_MAX = 8,
    SIM_CLIENTS_MAX = 8,
    SIM_KEYS = 6, /* per shard */
    SIM_TRACE_LINES = 100,
    SIM_TRACE_LINE_BYTES = 240,
    SIM_METAS_MAX = 64,
    SIM_MS = 1000, /* virtual time is counted in microseconds */
    SIM_SESSION_TTL = 3000 * SIM_MS,
    SIM_REQUEST_TIMEOUT = 500 * SIM_MS, /* of a coordinator request */
    SIM_DEDUP_WINDOW_MS = 8000,         /* no attempt of a request is taken when it began earlier */
    SIM_PATIENCE_US = 4000 * SIM_MS,    /* of a client */
    SIM_STALE_US = 6000 * SIM_MS,       /* an attempt that arrives so late is not looked at */
};
#define SIM_WALL_CLOCK_MS 1600000000000ULL /* when it begins */

struct sim;

/* --- events ------------------------------------------------------------------------------------------------------- */

struct sim_event;
typedef void (*sim_event_cb)(struct sim *s, struct sim_event *e);
struct sim_event {
    uint64_t at_us, seq;
    sim_event_cb fire;
    sim_event_cb drop;    /* frees what the event owns, whether it fired or not; may be NULL */
    int node;             /* 0: nobody's; otherwise fires only while that process lives and runs */
    uint64_t incarnation; /* ... this one */
    uint64_t a, b, c;
    void *p;
    struct sim_event *next; /* while it waits for a paused process */
};

/* --- a replica's shell -------------------------------------------------------------------------------------------- */

struct sim_entry {
    struct otr_position position;
    uint64_t time_ms;
    struct otr_request_id id;
    uint64_t hash; /* the record's checksum */
    uint16_t kind;
    uint32_t key;
    uint64_t value;
};

struct sim_value {
    uint64_t value;
    uint64_t index; /* of the write; 0: none */
};

struct sim_id {
    struct replica_entry entry;
    uint32_t outcome;
};

struct sim_pending {
    uint64_t ticket;
    uint64_t index;
    uint32_t client, attempt;
    struct sim_pending *next;
};

/* A seed on its way. */
struct sim_seed {
    otr_shard shard;
    uint64_t generation, epoch, incarnation;
    struct otr_position position;
    struct sim_value values[SIM_KEYS];
    struct sim_id *ids;
    size_t ids_count;
};

struct sim_shard {
    struct sim *sim;
    struct sim_node *node;
    otr_shard id;
    struct replica *replica;
    struct replica_actions actions;
    struct journal_meta meta;
    struct {
        uint64_t seq, number;
    } metas[SIM_METAS_MAX];
    uint32_t metas_count;

    struct otr_position base;  /* of entries[0]: the one before it */
    struct sim_entry *entries; /* what the journal holds, newest last */
    size_t entries_count, entries_capacity;
    uint64_t durable_index;
    uint64_t commit; /* applied, too: the simulator's engine is instant */
    struct sim_value values[SIM_KEYS];
    struct sim_id *seed_ids; /* of the seed that the log starts from */
    size_t seed_ids_count;

    enum replica_role role;
    uint64_t epoch;
    uint64_t answerable;
    uint64_t flush_covers;         /* what the batch holds that is being flushed */
    bool flush_kept;               /* ... waits for space */
    uint64_t truly_durable;        /* what has been flushed, less what was cut since */
    uint64_t untrusted_log;        /* the log that the process found and must not trust */
    uint64_t inherited;            /* end of the log when the takeover began */
    uint64_t gap_epoch, gap_index; /* of the last refusal for want of a predecessor */
    enum replica_event_type stepping;
    uint64_t inherited_commit;
    struct sim_pending *pending;
    /* while a WRITE is stepped */
    uint64_t write_key, write_value;
    /* while an APPEND is stepped */
    const struct sim_msg *incoming;

    uint64_t seeds;                       /* numbers seeds, given and taken */
    uint64_t seed_out[SIM_NODES_MAX + 1]; /* under way to that node; 0: none */
    uint64_t seed_in;                     /* being taken; 0: none */
    int seed_from;
    bool seed_accepted, seed_ending;
    uint64_t seed_number; /* journal meta to wait for */
    struct otr_position seed_position;

    /* handoffs */
    uint32_t handing;               /* asked for so many times, not yet answered */
    uint64_t handing_number;        /* grows */
    uint64_t returned_epoch;        /* we gave its grants back */
    uint64_t offer_nonce, offer_us; /* the newest offer that arrived, first copy */
    uint64_t read_us;               /* when the newest read began that was answered */
};

/* --- a node ------------------------------------------------------------------------------------------------------- */

struct sim_node {
    int id; /* also its otr_node, everywhere */
    bool alive;
    bool host_down; /* the machine is off: nothing refuses, nothing answers */
    bool starting;
    bool coord_blocked;               /* nothing passes */
    bool coord_deaf;                  /* what it says passes, answers do not */
    bool coord_reset;                 /* it is refused at once */
    uint64_t revision;                /* the highest that the coordinator has shown */
    bool regressed;                   /* it has shown a lower one since */
    struct replica_settings settings; /* as this node knows them */
    bool engine_down;
    bool stopping; /* in good order */
    uint64_t incarnation;
    uint64_t process_start_ms, started_us;
    uint64_t paused_until_us; /* 0: runs */
    struct sim_event *waiting, **waiting_tail;
    uint64_t clock_us, clock_at_us; /* what the clock showed, and when */
    int64_t clock_ppm;              /* how much faster than real time it has run since */
    struct fake_disk *disk;
    struct sim_disk *fs;
    struct journal *journal;
    struct journal_batch *batch; /* being flushed */
    bool sync_fails, disk_full, space_waited;
    bool sync_relapse;     /* the machine fails as well when an fdatasync has failed */
    uint32_t safe_segment; /* behind `safe_bytes` of it stands a batch that was synced */
    uint64_t safe_bytes;
    bool distrusted;                   /* it started with the mark of a failed sync */
    bool flipped;                      /* a bit of the disk was, and it has not started since */
    uint64_t appended[SIM_SHARDS_MAX]; /* end of the log when the process died */
    uint64_t flush_not_before_us;
    struct sim_shard *shards[SIM_SHARDS_MAX];
    uint64_t session; /* 0: none */
    bool session_opening;
    bool reachable;
    uint64_t watch_cursor; /* events of the coordinator's history delivered */
    uint64_t watch_begin;  /* ... of this watch, from here on */
    bool watching, watch_scheduled;
    uint64_t watch_held_us; /* nothing comes before */
    uint64_t log_ids;       /* drawn so far, for unique ones */
};

/* --- messages between nodes --------------------------------------------------------------------------------------- */

enum sim_msg_kind { SIM_MSG_REPLICA = 1, SIM_MSG_SEED_BEGIN, SIM_MSG_SEED_REST, SIM_MSG_SEED_REPLY };

struct sim_msg {
    enum sim_msg_kind kind;
    otr_shard shard;
    struct replica_msg msg;
    uint8_t *bytes; /* records of an APPEND */
    size_t bytes_count;
    struct sim_seed *seed;
    bool ok; /* SEED_REPLY */
    uint64_t log_id;
    struct otr_position position;
};

/* One node's way to another: the connection that `from` dialled. */
struct sim_conn {
    bool up;          /* as `from` believes */
    bool blocked;     /* silence: what is sent waits, or is lost when the connection ends */
    bool refused;     /* a middlebox resets: looks like death */
    uint64_t number;  /* of the connection; grows */
    uint64_t peer;    /* incarnation that answered */
    uint64_t lost;    /* messages of connections up to this number do not arrive */
    uint64_t last_us; /* delivery of the newest message: later ones come after it */
    uint64_t slow_us, slow_until_us;
    bool told_dead;
    struct sim_event **held; /* messages waiting for the block to end */
    size_t held_count, held_capacity;
    bool dialling;
};

/* --- the coordinator ---------------------------------------------------------------------------------------------- */

struct sim_lease {
    bool present;
    int node;
    uint64_t incarnation, epoch, revision, session;
};

struct sim_change { /* one event of the history */
    otr_shard shard;
    bool is_lease;
    uint64_t revision;
    struct descriptor descriptor;
    struct sim_lease lease;
};

struct sim_session {
    uint64_t id;
    int node;
    uint64_t expires_us;
    bool alive;
};

struct sim_coord_shard {
    bool exists;
    struct descriptor descriptor;
    uint64_t revision;
    struct sim_lease lease;
};

struct sim_coord_state {
    uint64_t revision;
    struct sim_coord_shard shards[SIM_SHARDS_MAX];
};

struct sim_coord {
    uint64_t revision;
    bool down;
    bool flaky;        /* answers get lost; transactions are applied late */
    uint64_t restored; /* times; requests that are under way then are lost */
    struct sim_coord_shard shards[SIM_SHARDS_MAX];
    struct sim_coord_state backup;
    bool rolled_back;
    bool past[SIM_SHARDS_MAX]; /* the shard shows the past; the truth: */
    struct sim_coord_state truth;
    uint64_t min_revision[SIM_SHARDS_MAX]; /* when min_in_sync last changed */
    struct sim_change *history;
    size_t history_count, history_capacity;
    struct sim_session *sessions;
    size_t sessions_count, sessions_capacity;
};

/* --- clients ------------------------------------------------------------------------------------------------------ */

enum sim_op { SIM_OP_NONE = 0, SIM_OP_WRITE, SIM_OP_READ };

struct sim_client {
    uint32_t id;
    enum sim_op op;
    otr_shard shard;
    uint32_t key;
    uint64_t value;
    struct otr_request_id request_id;
    uint64_t attempt;
    uint64_t attempt_began_us;
    uint64_t began_us;
    uint64_t floor; /* READ: the result may not be older than this index */
    int target;
    bool uncertain; /* WRITE: some attempt may have taken effect */
    /* until when nothing reaches that node, nothing comes from it, connections to it are reset */
    uint64_t no_way_to[SIM_NODES_MAX + 1], no_way_from[SIM_NODES_MAX + 1], reset[SIM_NODES_MAX + 1];
};

/* What a client saw: one operation. */
struct sim_seen {
    otr_shard shard;
    uint32_t key;
    bool write;
    uint64_t value;            /* 0 of a READ: nothing was ever written */
    uint64_t begin_us, end_us; /* end UINT64_MAX: it never learned */
};

/* --- what the checkers know --------------------------------------------------------------------------------------- */

struct sim_committed {
    uint64_t epoch, hash;
    struct otr_request_id id;
    uint32_t key;
    uint64_t value;
    uint32_t outcome;
    bool known, outcome_known;
};

/* The log of a leader whose epoch may have begun without acknowledged entries, at that moment. */
struct sim_reign_log {
    uint64_t epoch;
    uint64_t base, count;
    uint64_t *epochs; /* of entries base + 1 on */
};

/* An entry that was committed by its leader, or noted, and that the shard no longer has (check_loss.c). */
struct sim_dead {
    struct otr_position position;
    struct sim_committed entry; /* not known: nobody committed it yet, it was noted as lost before */
    bool acked;
    uint32_t noted; /* by whom: a bit for each node */
};

struct sim_check {
    struct {
        /* I1 */
        struct {
            uint64_t epoch;
            int node;
            uint64_t incarnation;
            bool served; /* its primary was more than elected */
        } * reigns;
        size_t reigns_count, reigns_capacity;
        /* I3, I6: what was ever committed anywhere, by index */
        struct sim_committed *committed;
        size_t committed_count, committed_capacity;
        uint64_t returned_epoch; /* the highest that was given back */
        /* digest of what a replica holds that has applied up to the index; 0: not known */
        uint64_t *digests;
        size_t digests_capacity;
        uint64_t acked; /* I2: the highest acknowledged index */
        /* A7, V7: epochs published that may begin without acknowledged entries; those of them that somebody took over,
         * in order of their epochs; what was lost */
        uint64_t *flags;
        size_t flags_count, flags_capacity;
        struct sim_reign_log *lossy;
        size_t lossy_count, lossy_capacity;
        struct sim_dead *dead;
        size_t dead_count, dead_capacity;
        bool key_lost[SIM_KEYS];  /* something of it was */
        uint64_t serving_epoch;   /* the highest whose primary was more than elected */
        uint64_t floor[SIM_KEYS]; /* I4: index of the newest acknowledged or read write */
    } shards[SIM_SHARDS_MAX];
    /* I6: where each request id took effect; ids are counted from 1 */
    struct {
        otr_shard shard;
        uint64_t index;
        bool refused; /* for good: it may not take effect */
    } * effects;
    size_t effects_capacity;
    struct sim_seen *history;
    size_t history_count, history_capacity;
    /* I7: what may not change any more */
    uint64_t quiet_revision, quiet_roles, quiet_messages, quiet_us;
};

/* --- everything --------------------------------------------------------------------------------------------------- */

struct sim {
    uint64_t seed, rng;
    uint64_t now_us, seq;
    bool verbose;
    bool failed;
    char failure[512];

    struct sim_event **heap;
    size_t heap_count, heap_capacity;

    int nodes_count;
    uint32_t shards_count, clients_count, replicas_count;
    struct sim_node nodes[SIM_NODES_MAX + 1];
    struct sim_conn conns[SIM_NODES_MAX + 1][SIM_NODES_MAX + 1];
    struct sim_coord coord;
    struct sim_client clients[SIM_CLIENTS_MAX];
    uint64_t values, incarnations, request_ids;
    struct sim_check check;

    bool faults; /* still happen */
    bool calm;   /* nothing but the coordinator fails: nobody may be replaced, nobody may wait long */
    bool last;   /* after healing: a write and a read of each shard */
    uint32_t last_next, last_left;
    uint32_t keys, read_percent, wander_percent, ghost_percent;
    uint64_t rest_us; /* of a client between operations */
    uint32_t weights[FAULTS_COUNT];
    bool modes; /* mode async, or changes of the mode */
    struct replica_settings settings;
    uint64_t settings_number; /* grows */
    uint32_t ambush_permille; /* of the changes of role are met by a fault */
    int64_t clock_ppm_min, clock_ppm_max;
    uint64_t fault_interval_us, log_lost_us;
    uint32_t logs_lost;
    uint64_t delay_us; /* usual one-way delay of the network */
    uint64_t sync_us;  /* usual time of a flush */
    uint64_t roles_told, messages;
    uint64_t set_log[SIM_SHARDS_MAX][SIM_NODES_MAX + 1]; /* under which log id the node was in the set last */
    struct sim_counts counts;
    /* Handed over, and nobody can take over for the coordinator is away just now. */
    uint64_t coup_until_us; /* whoever takes over until then is killed */
    int absent;             /* 0, or a node that is not there when the faults end */
    bool excused[SIM_SHARDS_MAX];
    uint64_t excused_us[SIM_SHARDS_MAX];
    uint64_t few_us[SIM_SHARDS_MAX]; /* when the published set last was below min_in_sync */

    char trace[SIM_TRACE_LINES][SIM_TRACE_LINE_BYTES];
    uint64_t trace_count, trace_hash;
};

/* sim.c */
struct sim *sim_new(uint64_t seed, bool verbose);
/* Runs it to its end, with faults for so many seconds at least; false: s->failure says why. s->counts is complete. */
bool sim_run(struct sim *s, uint64_t seconds);
/* The last lines of the trace (unless all were printed already), the failure, the command that replays it. */
void sim_report(const struct sim *s);
void sim_free(struct sim *s);
uint64_t sim_random(struct sim *s);
uint64_t sim_below(struct sim *s, uint64_t n); /* 0 <= result < n */
uint64_t sim_between(struct sim *s, uint64_t low, uint64_t high);
bool sim_chance(struct sim *s, uint32_t percent);
void sim_trace(struct sim *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The first failure counts: the run ends. */
void sim_fail(struct sim *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
void *sim_alloc(size_t bytes); /* zeroed; out of memory aborts */
void *sim_grow(void *items, size_t *capacity, size_t count, size_t item_bytes);
/* The event is the queue's. `node`: see struct sim_event. */
struct sim_event *sim_after(struct sim *s, uint64_t delay_us, int node, sim_event_cb fire);
void sim_event_free(struct sim *s, struct sim_event *e);
void sim_fire(struct sim *s, struct sim_event *e);
static inline void sim_reached(struct sim *s, enum sim_situation situation)
{
    s->counts.situations[situation]++;
}

/* sim_faults.c */
void faults_start(struct sim *s);
void faults_end(struct sim *s); /* everything heals */
/* How long a fault lasts. */
uint64_t faults_time(struct sim *s);
/* A rate of the seed: does it happen now, `of` so many? */
bool faults_rate(struct sim *s, enum fault f, uint32_t of);
/* Counts that the fault struck a node in all its roles; one replica; somebody else. */
void faults_hit(struct sim *s, enum fault f, int node);
void faults_hit_shard(struct sim *s, enum fault f, const struct sim_shard *sh);
void faults_hit_role(struct sim *s, enum fault f, enum sim_role role);
/* A replica has changed its role: a good moment for a fault. */
void faults_ambush(struct sim_shard *sh);
/* The coordinator has taken a change of the set, or has not answered one: a good moment, too. */
void faults_ambush_published(struct sim *s, const struct descriptor *before, const struct descriptor *d);
void faults_ambush_unknown(struct sim *s, const struct descriptor *d);
void faults_ambush_settings(struct sim *s, otr_shard shard, bool longer_grants);

/* sim_strike_node.c, sim_strike_net.c, sim_strike_coord.c: strike `node`; false: it could not be. */
bool strike_node(struct sim *s, enum fault f, int node);
bool strike_net(struct sim *s, enum fault f, int node);
bool strike_coord(struct sim *s, enum fault f, int node);
bool strike_client(struct sim *s, enum fault f);
/* Kills it, or fails its machine, and starts it again after a while. */
void strike_crash(struct sim *s, int node, bool power);
void strike_resume(struct sim *s, struct sim_node *n);
void strike_isolate(struct sim *s, int node, bool with_resets);
/* Which of the other members begin anew: 0 `node` or another one, 1 all, 2 none. */
bool strike_coup(struct sim *s, int node, otr_shard shard, unsigned anew);
/* A process has just started. */
void strike_started(struct sim *s, struct sim_node *n);
/* A replica of a process that has just started counts again. */
void strike_rejoined(struct sim *s, struct sim_node *n);
void strike_sync_failed(struct sim *s, struct sim_node *n);
void strike_disk_heal(struct sim_node *n);

/* sim_observe.c: what is worth counting. */
void observe_message(struct sim_shard *sh, int from, const struct replica_msg *msg);
void observe_step(struct sim_shard *sh, const struct replica_event *ev);
void observe_action(struct sim_shard *sh, const struct replica_action *a);
void observe_txn(struct sim *s, const struct descriptor *before, const struct descriptor *d, int status, bool late);
void observe_published(struct sim *s, otr_shard shard, const struct descriptor *before, const struct descriptor *d);

/* sim_disk.c: a file system over a fake disk that lets `calls` more changes through after power_cut, then pretends. */
struct sim_disk *sim_disk_new(struct fake_disk *disk);
void sim_disk_free(struct sim_disk *d);
struct file_system *sim_disk_fs(struct sim_disk *d);
void sim_disk_power_cut(struct sim_disk *d, uint64_t calls);

/* sim_node.c */
uint64_t node_now_ms(const struct sim *s, const struct sim_node *n);
/* The clock goes on at another rate. */
void node_clock_change(struct sim *s, struct sim_node *n);
/* Tried again later when the disk does not let it. */
void node_start(struct sim *s, struct sim_node *n);
/* power: the machine fails, unsynced bytes with it; otherwise only the process dies. */
void node_crash(struct sim *s, struct sim_node *n, bool power);
void node_wipe(struct sim *s, struct sim_node *n); /* an empty disk; not while it is alive */
void node_turn_end(struct sim *s, struct sim_node *n);
void node_free(struct sim *s, struct sim_node *n);
struct sim_shard *node_shard_make(struct sim *s, struct sim_node *n, otr_shard id);
void node_fatal(struct sim *s, struct sim_node *n, const char *why);
uint64_t node_log_id(struct sim_node *n);

/* sim_shard.c */
void shard_step(struct sim_shard *sh, struct replica_event *ev);
void shard_free(struct sim_shard *sh);
void shard_durable(struct sim_shard *sh, uint64_t durable_index, uint64_t metas_durable);
void shard_take_entry(struct sim_shard *sh, const struct record_header *h, const uint8_t *body);
void shard_apply_to(struct sim_shard *sh, uint64_t index);
void shard_clear(struct sim_shard *sh, struct otr_position base);
const struct sim_entry *shard_entry(const struct sim_shard *sh, uint64_t index);
void shard_deliver(struct sim_shard *sh, int from, const struct sim_msg *msg);
void shard_seed_read(struct sim_shard *sh, const uint8_t *body, size_t bytes);
/* The body of a PUT of one key; returns its length. */
size_t shard_value_body(uint8_t *out, uint32_t key, const char *metadata);

/* sim_seed.c */
void seed_start(struct sim_shard *sh, otr_node to);
void seed_reply(struct sim_shard *sh, int to, bool ok);
void seed_out_end(struct sim_shard *sh, int to, bool ok, uint64_t log_id, struct otr_position position);
void seed_take_begin(struct sim_shard *sh, int from, const struct sim_msg *msg);
void seed_take_rest(struct sim_shard *sh, int from, const struct sim_msg *msg);

/* sim_handoff.c */
/* An operator, or a process that stops; false: nobody there to be asked. */
bool handoff_ask(struct sim *s, int node, bool stopping);
void handoff_engine(struct sim *s, int node, uint64_t for_us);
void handoff_heal(struct sim *s);
void handoff_brief(struct sim_shard *sh);                  /* a replica was made */
void handoff_brief_all(struct sim *s, struct sim_node *n); /* its engine or its disk fails, or works again */
void handoff_done(struct sim_shard *sh, const struct replica_action *a);

/* sim_mode.c */
void mode_start(struct sim *s);
bool mode_strike(struct sim *s); /* the settings change; false: not in this seed */
void mode_note_loss(struct sim_shard *sh, const struct replica_action *a);

/* sim_net.c */
void net_start(struct sim *s);
/* False: not connected. Takes over msg in any case. */
bool net_send(struct sim *s, int from, int to, struct sim_msg *msg);
bool net_up(const struct sim *s, int from, int to);
void net_block(struct sim *s, int from, int to, bool blocked);
void net_refuse(struct sim *s, int from, int to, bool refused);
bool net_break(struct sim *s, int from, int to); /* false: there is no connection */
void net_process_died(struct sim *s, int node);
void net_process_started(struct sim *s, int node);
void net_brief(struct sim *s, struct sim_shard *sh);
void net_msg_free(struct sim_msg *msg);
void net_free(struct sim *s);

/* sim_coord.c */
void coord_start(struct sim *s);
void coord_node_started(struct sim *s, struct sim_node *n);
void coord_txn(struct sim_shard *sh, const struct replica_action *a);
void coord_read(struct sim_shard *sh, uint64_t read);
void coord_read_for_client(struct sim_shard *sh, uint32_t client, uint64_t attempt);
void coord_session_kill(struct sim *s, int node);
void coord_set_down(struct sim *s, bool down);
/* All of the coordinator's history that a watch has not told yet is forgotten: it begins anew. */
void coord_compact(struct sim *s, struct sim_node *n);
void coord_watch_anew(struct sim *s, struct sim_node *n);
void coord_put(struct sim *s, otr_shard shard, const struct descriptor *d);
void coord_brief(struct sim_shard *sh);
void coord_free(struct sim *s);

/* sim_alter.c */
void alter_touch(struct sim *s, otr_shard shard);  /* somebody else changes the descriptor */
bool alter_move(struct sim *s, otr_shard shard);   /* ... and one of the replicas is to be elsewhere */
bool alter_resize(struct sim *s, otr_shard shard); /* ... or there are to be more or fewer */
bool alter_settings(struct sim *s, otr_shard shard);
void alter_start(struct sim *s);
bool alter_roll_back(struct sim *s);
void alter_restore(struct sim *s); /* the truth is back */
/* What the coordinator would show had it never gone back in time. */
const struct sim_coord_shard *alter_truth(const struct sim *s, otr_shard shard);

/* sim_clients.c */
void clients_start(struct sim *s);
void clients_reply(struct sim *s, uint32_t client, uint64_t attempt, int status, uint64_t index, int node);
void clients_read_confirmed(struct sim_shard *sh, uint32_t client, uint64_t attempt, const struct descriptor *shown);
bool clients_idle(const struct sim *s);
void clients_last(struct sim *s); /* a write and a read of each shard */
bool clients_last_done(struct sim *s);
void clients_end(struct sim *s); /* what still waits was never answered */
uint64_t clients_request_number(const struct otr_request_id *id);

/* check_*.c: each invariant of DESIGN 4.6 has a file, and each other promise. */
void check_role(struct sim_shard *sh);                                 /* check_epochs.c: I1 */
void check_published(struct sim *s, otr_shard shard);                  /* check_durable.c: I2 */
void check_acked(struct sim_shard *sh, struct otr_position at);        /* I2 */
void check_recovered(struct sim_shard *sh);                            /* I2 */
bool check_committed(struct sim_shard *sh, const struct sim_entry *e); /* check_prefix.c: I3; false: it failed */
struct sim_committed *check_entry(struct sim *s, otr_shard shard, uint64_t index); /* NULL: never committed */
void check_rights(struct sim_shard *sh); /* check_reads.c: I4: after each step of a primary */
void check_read(struct sim_shard *sh, const struct sim_client *c, struct sim_value value); /* I4 */
void check_linear(struct sim *s); /* check_linear.c: I4, over what the clients saw */
/* The same of any history; 0: fine, else 1 + the number of the operation that cannot be. */
size_t check_linear_history(const struct sim_seen *seen, size_t count);
/* check_apply.c: I5; false: it failed */
bool check_apply(struct sim_shard *sh, uint64_t index, const struct replica_status *status);
void check_effect(struct sim_shard *sh, const struct sim_entry *e); /* check_requests.c: I6 */
void check_effect_undone(struct sim *s, const struct otr_request_id *id, uint64_t index);
void check_outcome(struct sim_shard *sh, struct otr_position at, uint32_t outcome, const char *where); /* I6 */
void check_refused(struct sim *s, const struct otr_request_id *id);                                    /* Q3 */
void check_end(struct sim *s); /* check_end.c: I7 */
bool check_converged(struct sim *s, char *why, size_t why_bytes);
bool check_writable_without(struct sim *s, int absent, char *why, size_t why_bytes);
void check_election(struct sim *s, otr_shard shard, const struct descriptor *before,
                    const struct descriptor *d); /* V5 */
bool check_any_lost(struct sim *s);              /* a shard that only an operator can help */
void check_quiet_begin(struct sim *s);
bool check_quiet_end(struct sim *s, bool must); /* was it? false with `must` is a failure */
void check_digest(struct sim_shard *sh);        /* check_digest.c: equal at equal index; after each entry applied */
void check_members_enough(struct sim_shard *sh, uint64_t index);             /* check_enough.c: A6 */
void check_past(struct sim *s, otr_shard shard, const struct descriptor *d); /* check_past.c: D4 */
void check_flush_begin(struct sim_node *n);                                  /* check_flush.c: a batch is handed out */
void check_flush_waits(struct sim_node *n);                                  /* ... and waits for space */
void check_flush_end(struct sim_node *n);                                    /* ... and is on disk */
void check_flush_cut(struct sim_shard *sh, uint64_t index);
void check_flush_reported(struct sim_shard *sh, uint64_t durable_index);
void check_log_replaced(struct sim_shard *sh, uint64_t log_id); /* check_logs.c: E3 */
void check_log_id(struct sim_shard *sh, uint64_t log_id);
void check_action(struct sim_shard *sh, const struct replica_action *a); /* check_handoff.c: G5, before each action */
void check_offer(struct sim_shard *sh, const struct replica_msg *msg);
/* check_loss.c: A7, V7. A dead entry is one that its leader committed and that the shard no longer has. */
bool check_dead(const struct sim *s, otr_shard shard, struct otr_position at);
struct sim_dead *check_dead_find(struct sim *s, otr_shard shard, struct otr_position at); /* NULL: none */
struct otr_position check_position(const struct sim_shard *sh, uint64_t index);           /* epoch 0: not known */
void check_dead_committed(struct sim_shard *sh, const struct sim_entry *e);
void check_lossy_published(struct sim *s, otr_shard shard, const struct descriptor *before, const struct descriptor *d);
void check_loss_taken_over(struct sim_shard *sh);
bool check_acked_dead(struct sim_shard *sh, struct otr_position at); /* false: it is not dead */
void check_lag(struct sim_shard *sh, uint64_t index);
void check_noting(struct sim_shard *sh, uint64_t first, uint64_t last, uint64_t epoch);
void check_noted(struct sim_shard *sh, uint64_t first, uint64_t last);
void check_given_up(struct sim_shard *sh, uint64_t first);
void check_loss_free(struct sim *s);
void check_free(struct sim *s);

/* sim_selftest.c: check_linear against a search. */
bool selftest(void);

#endif
