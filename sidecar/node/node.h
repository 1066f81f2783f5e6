/* A node's daemon without its outside: replicas of shards, journal, peers, coordinator and engine put together. The
 * client API (sidecar/api) and the command line (sidecar/cli) sit on it. Loop thread only; callbacks never come from
 * inside the call that caused them, and exactly once.
 *
 * The operations below are this node's own part: on a shard of which it has a replica. Whoever wants "the cluster" asks
 * door.h, which finds the right node and retries. */
#ifndef OUTRIGGER_NODE_NODE_H
#define OUTRIGGER_NODE_NODE_H

#include "outrigger/backend.h"
#include "outrigger/engine.h"
#include "sidecar/core/admission.h"
#include "sidecar/core/codec.h"
#include "sidecar/core/topology.h"
#include "sidecar/peer/peer.h"

struct node;

/* Unary calls of peers (FORWARD, GET, SEARCH, COUNT): door_on_call. */
typedef void (*node_call_cb)(struct node *n, struct peer_call *call, enum peer_method method,
                             const struct peer_from *from, const ProtobufCMessage *request);

/* What this node does of the cluster's setting `compression`. */
enum node_compression {
    NODE_COMPRESSION_AUTO,   /* when it pays */
    NODE_COMPRESSION_ALWAYS, /* where each byte costs */
    NODE_COMPRESSION_NEVER,  /* and nobody is to send us compressed entries either: as a version that knows none */
};

/* Compaction of the journal (sidecar/log/compactor.h). */
struct node_compaction {
    uint64_t retain_bytes;  /* of the log, for replicas that lag */
    uint64_t retain_ms;     /* likewise */
    uint32_t live_percent;  /* 0: 50 */
    uint64_t bytes_per_s;   /* 0: as fast as it goes */
    uint64_t segment_bytes; /* of the journal's files; 0: 256 MiB */
};

struct node_config {
    uv_loop_t *loop;
    const char *cluster;
    const char *node;
    const char *zone;
    const char *data_dir;
    struct topology_address client, peer; /* as announced to others */
    const char *peer_listen_host;
    uint16_t peer_listen_port;
    const char *peer_ca, *peer_cert, *peer_key; /* files for TLS between peers: all or none (NULL) */
    const struct otr_backend_ops *backend;
    struct otr_backend_config backend_config; /* loop is filled in */
    const struct otr_engine_ops *engine;
    struct otr_engine_config engine_config; /* loop and on_status are filled in */
    uint32_t session_ttl_ms;
    enum node_compression compression;
    struct node_compaction compaction;
    uint64_t scrub_bytes_per_s; /* sealed segments are read again at this rate; 0: never */
    uint64_t scrub_every_ms;    /* all of them at most so often */
    uint32_t delay_max_ms;      /* of the shards' work, sidecar/core/admission.h; 0: NODE_DELAY_MAX_MS */
    /* Something that only stopping can answer (a data directory used by another, our name used elsewhere, a failed
     * disk): the process prints `why` and ends. */
    void (*on_fatal)(void *data, const char *why);
    void *data;
    node_call_cb on_call; /* door_on_call */
};

/* Opens the data directory (blocking: recovery), listens for peers, starts to reach the coordinator and the engine.
 * Neither needs to be there: the node waits for them. Errors with words: OTR_INUSE, OTR_INVALID (another cluster's or
 * node's data), OTR_DENIED, OTR_IO, OTR_CORRUPT. */
int node_new(struct node **out, const struct node_config *config, struct otr_errmsg *msg);
/* Before node_close, while everything still serves: from now on node_ready says "stopping", the shards led here are
 * handed over, and our replicas leave their in-sync sets; cb, later, when that is done or timeout_ms over. */
void node_leave(struct node *n, uint32_t timeout_ms, void (*cb)(void *data), void *data);
/* Work on the shards here, whoever asks for it, is bounded: what is too much ends with OTR_BUSY. Lent, for its figures.
 */
enum node_operation { NODE_OP_WRITE, NODE_OP_GET, NODE_OP_SEARCH, NODE_OPS };
enum { NODE_DELAY_MAX_MS = 500 };
const struct admission *node_admission(const struct node *n, enum node_operation op);

/* Ends the session so that others need not wait, closes everything, then cb. */
void node_close(struct node *n, void (*cb)(void *data), void *data);

const char *node_name(const struct node *n);
const char *node_cluster(const struct node *n);
otr_node node_self(const struct node *n);
uint64_t node_incarnation(const struct node *n);
struct topology *node_topology(struct node *n);
struct uv_loop_s *node_loop(struct node *n);

/* Ready: the cluster is initialised, every replica of ours follows a primary or is one, the engine is up. `why` says
 * what is missing. */
bool node_ready(struct node *n, struct otr_errmsg *why);
/* Of one of our shards; false when we have no replica. */
bool node_shard_status(struct node *n, otr_shard shard, struct replica_status *status);
/* Entries up to it are in the engine. */
uint64_t node_shard_applied(struct node *n, otr_shard shard);
/* Something of this replica does not read as it was written; until it was seeded anew. */
bool node_shard_damaged(struct node *n, otr_shard shard);
/* What operators look at first. */
struct node_stats {
    uint64_t uptime_ms;
    bool leaving;
    bool engine_up;
    bool coordinator_reachable;
    const char *coordinator_why; /* what keeps us from it; "": nothing. Lent until the next turn of the loop */
    bool disk_full;
    uint32_t damaged_shards; /* replicas here of which something does not read any more */
    uint64_t journal_bytes;
};
void node_stats(struct node *n, struct node_stats *stats);
/* Entries stored here, live points among them; false when we have no replica. */
bool node_shard_stored(struct node *n, otr_shard shard, uint64_t *stored, uint64_t *points);
/* The link to a peer, NULL when there is none (or it is ourselves). */
struct peer_link *node_link(struct node *n, otr_node peer);
/* Fires (later) when topology, roles or links changed: whoever waits for a primary looks again. One call, one callback.
 */
struct node_wait {
    void (*cb)(struct node_wait *w);
    void *data;
    struct node_wait *next, **link;
};
void node_wait_change(struct node *n, struct node_wait *w);
void node_wait_cancel(struct node_wait *w);
/* Whom to ask as primary of the shard: the newest knowledge of descriptor, leases and peers. OTR_NODE_NONE: nobody now.
 */
otr_node node_primary(struct node *n, otr_shard shard);

/* The coordinator, for collections: txns and reads through the node's own backend. */
struct otr_backend *node_backend(struct node *n);
/* Reads a collection's key linearizably and brings the topology up to date; cb status: 0, OTR_NOTFOUND,
 * OTR_UNREACHABLE... */
typedef void (*node_status_cb)(void *data, int status, const struct otr_errmsg *msg);
int node_collection_refresh(struct node *n, const char *name, node_status_cb cb, void *data);
/* collections/<name> made or deleted; OTR_EXISTS, OTR_NOTFOUND, OTR_UNREACHABLE, OTR_UNKNOWN. On success the view shows
 * it. */
int node_collection_create(struct node *n, const struct topology_collection *c, node_status_cb cb, void *data);
int node_collection_delete(struct node *n, const char *name, node_status_cb cb, void *data);

/* --- one shard, this node -------------------------------------------------------------------------------------------
 */

struct node_write_result {
    int status; /* 0: committed. OTR_NOTPRIMARY, OTR_UNAVAIL, OTR_FEW, OTR_FENCED, OTR_BUSY, OTR_NOSPACE, OTR_NOTFOUND
                 * (no such collection), OTR_INVALID: not and never applied. OTR_UNKNOWN: may be */
    struct otr_position position;
    uint32_t outcome;     /* DELETE: points that existed */
    bool applied_pending; /* committed, but the engine had not applied it within apply_wait */
    const char *message;
};
typedef void (*node_write_cb)(void *data, const struct node_write_result *result);
/* A write to a shard whose primary we are. `body` is that of a PUT or DELETE record (codec.h), all its points of this
 * shard; copied. */
int node_write(struct node *n, otr_shard shard, const struct otr_request_id *id, enum record_kind kind,
               const uint8_t *body, size_t body_bytes, node_write_cb cb, void *data);

enum { NODE_HANDOFF_MESSAGE_MAX = 400 };
struct node_handoff_result {
    int status; /* 0: `to` leads in `epoch`. OTR_UNAVAIL: nobody is able, we lead on; OTR_TIMEOUT; OTR_BUSY;
                 * OTR_CANCELED
                 */
    otr_node from, to;
    uint64_t epoch;
    uint64_t pause_us; /* from the last moment in which we took writes until the new primary served; 0: unknown */
    char message[NODE_HANDOFF_MESSAGE_MAX];
};
typedef void (*node_handoff_cb)(void *data, const struct node_handoff_result *result);
/* A shard whose primary we are goes to `to` (OTR_NODE_NONE: whoever is best). Errors with words, cb then never comes:
 * OTR_NOTPRIMARY, OTR_EXISTS (`to` is us), OTR_CONFLICT (not in sync), OTR_BUSY, OTR_NOMEM. */
int node_handoff(struct node *n, otr_shard shard, otr_node to, uint32_t timeout_ms, node_handoff_cb cb, void *data,
                 struct otr_errmsg *msg);

struct node_force_result {
    int status; /* 0: we lead the shard, in `epoch`. OTR_UNKNOWN; else nothing was done, and words say why */
    uint64_t epoch;
    char message[NODE_HANDOFF_MESSAGE_MAX];
};
typedef void (*node_force_cb)(void *data, const struct node_force_result *result);
/* Our replica, not in sync, shall lead although `accepted` entries may be lost (PROTOCOL V7). Whoever asks vouches that
 * members of the in-sync set which cannot be reached are stopped. Errors with words, cb then never comes: OTR_NOTFOUND,
 * OTR_BUSY, OTR_CONFLICT (a member lives, or more may be lost), OTR_NOMEM. */
int node_force(struct node *n, otr_shard shard, uint64_t accepted, uint32_t timeout_ms, node_force_cb cb, void *data,
               struct otr_errmsg *msg);

/* What this node knows of its replica of a shard, whether or not the replica is at work: for a coordinator that is to
 * be set up anew. False: it has none. */
struct node_survivor {
    bool leads;
    uint64_t promised, log_id;
    uint64_t seen_generation, seen_epoch, seen_version;
    struct otr_position last;
};
bool node_survivor(struct node *n, otr_shard shard, struct node_survivor *out);

/* What this node noted of entries that it gave up: JSON objects (loss.c), separated by commas; "" when there are none.
 * status: 0, OTR_IO, OTR_NOMEM, OTR_TOOBIG. */
typedef void (*node_losses_cb)(void *data, int status, const char *records);
int node_losses(struct node *n, node_losses_cb cb, void *data);

enum node_consistency { NODE_EVENTUAL = 0, NODE_BOUNDED, NODE_LINEARIZABLE };

struct node_get {
    otr_shard shard;
    uint64_t collection;
    const struct otr_point *ids; /* only ids are read; lent until cb */
    size_t ids_count;
    enum node_consistency consistency;
    struct otr_position after; /* wait until so much is visible; {0,0}: nothing */
    uint32_t timeout_ms;
};
/* points: those found, lent. status 0, OTR_NOTPRIMARY, OTR_UNAVAIL, OTR_TIMEOUT, OTR_CORRUPT. */
typedef void (*node_get_cb)(void *data, int status, const struct otr_point *points, size_t count,
                            const struct otr_errmsg *msg);
int node_get(struct node *n, const struct node_get *get, node_get_cb cb, void *data);

struct node_search {
    otr_shard shard;
    uint64_t collection;
    const float *vector; /* lent until cb */
    uint32_t dimension;
    uint32_t k;
    bool with_threshold;
    double threshold;
    const char *filter; /* JSON object or NULL; lent until cb */
    bool with_vector;
    enum node_consistency consistency;
    struct otr_position after;
    uint32_t timeout_ms;
};
struct node_hit {
    struct otr_point point; /* vector set only with_vector */
    double score;
};
typedef void (*node_search_cb)(void *data, int status, const struct node_hit *hits, size_t count,
                               const struct otr_errmsg *msg);
int node_search(struct node *n, const struct node_search *search, node_search_cb cb, void *data);

/* Live points of a collection in our replica; false: no replica of the shard, or one that does not know yet how far its
 * log is committed. */
bool node_count(struct node *n, otr_shard shard, uint64_t collection, uint64_t *count);

#endif
