/* The door: operations on the whole cluster as any sidecar offers them. Splits a request by shard, finds each shard's
 * primary (or, for reads that allow it, any fresh replica: the own one first), calls it here or over its link, waits
 * and retries inside while a shard fails over, and puts the answers together.
 *
 * A write is retried with its request id until it is certain or the deadline is over; the outcome of several attempts
 * is the weakest one (PROTOCOL Q3). Loop thread only; callbacks later, exactly once; everything passed in is copied
 * unless it says lent. */
#ifndef OUTRIGGER_NODE_DOOR_H
#define OUTRIGGER_NODE_DOOR_H

#include "sidecar/node/node.h"

struct door;
struct door *door_new(struct node *n); /* NULL: out of memory */
/* Outstanding requests end with OTR_CANCELED first. */
void door_close(struct door *d);

/* An operation under way; the caller's, `op` NULL before and after. */
struct door_ticket {
    struct door_op *op;     /* for door_cancel */
    struct admission *room; /* where the caller counts it: no shard gets more than its share (OTR_BUSY); NULL: any */
    uint64_t room_bytes;    /* counted there */
};
/* Nobody waits for it any more: it ends soon, as if its time were over. */
void door_cancel(struct door_ticket *ticket);

struct door_positions { /* Outrigger-Position */
    struct {
        otr_shard shard;
        struct otr_position position;
    } * items;
    size_t count;
};

struct door_write {
    uint64_t collection;
    enum record_kind kind;          /* RECORD_PUT or RECORD_DELETE */
    const struct otr_point *points; /* validated; lent until cb */
    size_t points_count;
    struct otr_request_id request_id; /* each shard's part uses it as it is: ids are per shard */
    uint32_t timeout_ms;
    struct door_ticket *ticket; /* lent until cb; NULL: none */
};
enum door_applied { DOOR_APPLIED = 1, DOOR_NOT_APPLIED, DOOR_APPLIED_UNKNOWN };
struct door_write_part {
    otr_shard shard;
    int status; /* 0 or why not */
    enum door_applied applied;
    bool pending; /* committed, engine not yet */
    struct otr_position position;
    uint32_t outcome;
    char message[160];
};
struct door_write_result {
    int status; /* 0: all parts committed; else the weightiest part's */
    const struct door_write_part *parts;
    size_t parts_count;
    const uint32_t *part_of_point; /* parts[part_of_point[i]] holds points[i] */
    uint32_t retries;
};
typedef void (*door_write_cb)(void *data, const struct door_write_result *result);
int door_write(struct door *d, const struct door_write *w, door_write_cb cb, void *data);

struct door_get {
    uint64_t collection;
    const char *id; /* lent until cb */
    size_t id_bytes;
    enum node_consistency consistency;
    const struct door_positions *after; /* lent until cb; NULL: none */
    uint32_t timeout_ms;
    struct door_ticket *ticket; /* lent until cb; NULL: none */
};
/* point NULL: does not exist. */
typedef void (*door_get_cb)(void *data, int status, const struct otr_point *point, const struct otr_errmsg *msg);
int door_get(struct door *d, const struct door_get *g, door_get_cb cb, void *data);

struct door_search {
    uint64_t collection;
    const float *vector; /* lent until cb */
    uint32_t dimension;
    uint32_t k;
    bool with_threshold;
    double threshold;
    const char *filter; /* lent until cb; NULL: none */
    bool with_vector;
    enum node_consistency consistency;
    const struct door_positions *after;
    uint32_t timeout_ms;
    struct door_ticket *ticket; /* lent until cb; NULL: none */
};
/* hits merged over all shards, by (score, id). All shards answered or it is an error: never a page that lacks a shard.
 */
typedef void (*door_search_cb)(void *data, int status, const struct node_hit *hits, size_t count,
                               const struct otr_errmsg *msg);
int door_search(struct door *d, const struct door_search *s, door_search_cb cb, void *data);

typedef void (*door_count_cb)(void *data, int status, uint64_t count, const struct otr_errmsg *msg);
int door_count(struct door *d, uint64_t collection, uint32_t timeout_ms, door_count_cb cb, void *data);

struct door_handoff {
    otr_shard shard;
    char to[OTR_NAME_MAX + 1]; /* "": whoever is best */
    uint32_t timeout_ms;       /* of the handoff itself; the answer comes within twice this and a moment */
};
struct door_handoff_result {
    int status; /* 0; OTR_EXISTS: `to` leads already; OTR_CONFLICT: it is not in sync; OTR_UNAVAIL: nobody is able;
                 * OTR_BUSY; OTR_TIMEOUT; OTR_UNKNOWN */
    otr_shard shard;
    char from[OTR_NAME_MAX + 1], to[OTR_NAME_MAX + 1]; /* "": unknown */
    uint64_t epoch;
    uint64_t pause_us; /* how long the shard took no writes; 0: unknown */
    char message[NODE_HANDOFF_MESSAGE_MAX];
};
typedef void (*door_handoff_cb)(void *data, const struct door_handoff_result *result);
/* The shard's primary, wherever it is, hands over. OTR_NOTFOUND with words: no such shard or node. */
int door_handoff(struct door *d, const struct door_handoff *h, door_handoff_cb cb, void *data, struct otr_errmsg *msg);

/* Answers FORWARD, GET, SEARCH, COUNT and HANDOFF of peers out of this node's own shards: the node hands incoming calls
 * here. */
void door_on_call(struct node *n, struct peer_call *call, enum peer_method method, const struct peer_from *from,
                  const ProtobufCMessage *request);

#endif
