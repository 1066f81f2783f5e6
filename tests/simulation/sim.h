/* The simulator: a cluster of replicas and journals on virtual time, out of one seed.
 *
 * A node is what the daemon is around the core (sidecar/node), reduced to what matters: the real replicas
 * (sidecar/core), the real journal (sidecar/log) on a fake disk, and a shell that turns events into steps and actions
 * into messages, journal records and transactions. Network, coordinator, clocks and clients are simulated and fail as
 * the seed says. Nothing depends on real time, addresses or the order of a hash table: equal seeds give equal traces.
 *
 *   sim.c          command line, virtual time, trace
 *   sim_faults.c   what goes wrong, and when
 *   sim_node.c     a node's process: start, crash, timers, flushing, recovery
 *   sim_shard.c    one replica's shell: actions performed
 *   sim_seed.c     ... and its seeds, given and taken
 *   sim_handoff.c  handoffs asked for, processes that stop in good order, engines that fail
 *   sim_disk.c     a file system that stops changing at a chosen call (the moment of a crash)
 *   sim_net.c      connections: in order, late, frozen, cut, refused
 *   sim_coord.c    coordinator: transactions, reads, sessions, watches
 *   sim_clients.c  writes with retries, linearizable reads
 *   check_*.c      one invariant of DESIGN 4.6 each (numbers I1..I7)
 */
#ifndef OUTRIGGER_TESTS_SIMULATION_SIM_H
#define OUTRIGGER_TESTS_SIMULATION_SIM_H

#include "sidecar/core/codec.h"
#include "sidecar/core/replica.h"
#include "sidecar/log/journal.h"
#include "tests/lib/fake_disk.h"

#include <inttypes.h>

enum {
    SIM_NODES_MAX = 5,
    SIM_SHARDS_MAX = 4,
    SIM_CLIENTS_MAX = 8,
    SIM_KEYS = 6, /* per shard */
    SIM_TRACE_LINES = 60,
    SIM_TRACE_LINE_BYTES = 240,
    SIM_METAS_MAX = 64,
    SIM_MS = 1000, /* virtual time is counted in microseconds */
    SIM_SESSION_TTL = 3000 * SIM_MS,
    SIM_REQUEST_TIMEOUT = 500 * SIM_MS, /* of a coordinator request */
};

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
    bool handing;                   /* asked for, not yet answered */
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
    bool coord_blocked;
    bool engine_down;
    bool stopping; /* in good order */
    uint64_t incarnation;
    uint64_t process_start_ms;
    uint64_t paused_until_us; /* 0: runs */
    struct sim_event *waiting, **waiting_tail;
    uint64_t clock_offset_ms;
    int64_t clock_drift_ppm;
    struct fake_disk *disk;
    struct sim_disk *fs;
    struct journal *journal;
    struct journal_batch *batch; /* being flushed */
    bool sync_fails;
    struct sim_shard *shards[SIM_SHARDS_MAX];
    uint64_t session; /* 0: none */
    bool session_opening;
    bool reachable;
    uint64_t watch_cursor; /* events of the coordinator's history delivered */
    bool watching, watch_scheduled;
    uint64_t log_ids; /* drawn so far, for unique ones */
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

struct sim_coord {
    uint64_t revision;
    bool down;
    bool flaky; /* answers get lost; transactions are applied late */
    struct {
        bool exists;
        struct descriptor descriptor;
        uint64_t revision;
        struct sim_lease lease;
    } shards[SIM_SHARDS_MAX];
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
    uint64_t began_us;
    uint64_t floor; /* READ: the result may not be older than this index */
    int target;
    uint64_t ops;
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

struct sim_check {
    struct {
        /* I1 */
        struct {
            uint64_t epoch;
            int node;
            uint64_t incarnation;
        } * reigns;
        size_t reigns_count, reigns_capacity;
        /* I3, I6: what was ever committed anywhere, by index */
        struct sim_committed *committed;
        size_t committed_count, committed_capacity;
        uint64_t returned_epoch;  /* the highest that was given back */
        uint64_t acked;           /* I2: the highest acknowledged index */
        uint64_t floor[SIM_KEYS]; /* I4: index of the newest acknowledged or read write */
    } shards[SIM_SHARDS_MAX];
    /* I6: where each request id took effect; ids are counted from 1 */
    struct {
        otr_shard shard;
        uint64_t index;
    } * effects;
    size_t effects_capacity;
    uint64_t acks, reads, reads_by_descriptor, duplicates, lost_shards;
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
    uint32_t keys, read_percent, wander_percent;
    uint64_t rest_us; /* of a client between operations */
    uint32_t weights[40];
    uint64_t fault_interval_us, log_lost_us;
    uint32_t logs_lost;
    uint64_t delay_us; /* usual one-way delay of the network */
    uint64_t sync_us;  /* usual time of a flush */
    uint64_t elections, crashes, seeds, txns_unknown;
    struct {
        uint64_t handed, unavail, late, not_primary, busy, fell_back, left, returned;
    } handoffs;
    /* Handed over, and nobody can take over for the coordinator is away just now. */
    bool excused[SIM_SHARDS_MAX];
    uint64_t excused_us[SIM_SHARDS_MAX];

    char trace[SIM_TRACE_LINES][SIM_TRACE_LINE_BYTES];
    uint64_t trace_count, trace_hash;
};

/* sim.c */
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

/* sim_faults.c */
void faults_start(struct sim *s);
void faults_end(struct sim *s); /* everything heals */

/* sim_disk.c: a file system over a fake disk that lets `calls` more changes through after power_cut, then pretends. */
struct sim_disk *sim_disk_new(struct fake_disk *disk);
void sim_disk_free(struct sim_disk *d);
struct file_system *sim_disk_fs(struct sim_disk *d);
void sim_disk_power_cut(struct sim_disk *d, uint64_t calls);

/* sim_node.c */
uint64_t node_now_ms(const struct sim *s, const struct sim_node *n);
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
void handoff_ask(struct sim *s, bool stopping); /* an operator, or a process that stops */
void handoff_engine(struct sim *s, int node, uint64_t for_us);
void handoff_heal(struct sim *s);
void handoff_brief(struct sim_shard *sh); /* a replica was made */
void handoff_done(struct sim_shard *sh, const struct replica_action *a);

/* sim_net.c */
void net_start(struct sim *s);
/* False: not connected. Takes over msg in any case. */
bool net_send(struct sim *s, int from, int to, struct sim_msg *msg);
bool net_up(const struct sim *s, int from, int to);
void net_block(struct sim *s, int from, int to, bool blocked);
void net_refuse(struct sim *s, int from, int to, bool refused);
void net_break(struct sim *s, int from, int to);
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
void coord_touch(struct sim *s, otr_shard shard); /* somebody else changes the descriptor */
void coord_move(struct sim *s, otr_shard shard);  /* ... and one of the replicas is to be elsewhere */
void coord_brief(struct sim_shard *sh);
void coord_free(struct sim *s);

/* sim_clients.c */
void clients_start(struct sim *s);
void clients_reply(struct sim *s, uint32_t client, uint64_t attempt, int status, uint64_t index, int node);
void clients_read_confirmed(struct sim_shard *sh, uint32_t client, uint64_t attempt, const struct descriptor *shown);
bool clients_idle(const struct sim *s);
uint64_t clients_request_number(const struct otr_request_id *id);

/* check_*.c */
void check_action(struct sim_shard *sh, const struct replica_action *a);   /* G5 and READY: before each action */
void check_offer(struct sim_shard *sh, const struct replica_msg *msg);     /* one arrives */
void check_role(struct sim_shard *sh);                                     /* I1 */
void check_published(struct sim *s, otr_shard shard);                      /* I1, I2: a descriptor was changed */
void check_acked(struct sim *s, otr_shard shard, uint64_t index);          /* I2, A6 */
void check_recovered(struct sim_shard *sh);                                /* I2 */
void check_committed(struct sim_shard *sh, uint64_t from, uint64_t index); /* I3, I5, I6 */
void check_outcome(struct sim_shard *sh, uint64_t index, uint32_t outcome, const char *where); /* I6 */
void check_rights(struct sim_shard *sh); /* I4: after each step of a primary */
void check_read(struct sim *s, const struct sim_client *c, struct sim_value value); /* I4 */
void check_end(struct sim *s);                                                      /* I7 */
bool check_converged(struct sim *s, char *why, size_t why_bytes);
void check_free(struct sim *s);

#endif
