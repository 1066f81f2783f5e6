/* What the files of the door share: operations that wait, retry and end by a deadline. Nobody else includes it.
 *
 *   door.c         the operations' life: deadlines, retries, changes of topology; whom to ask
 *   door_write.c   writes
 *   door_get.c     one point
 *   door_handoff.c an operator's wish for another primary
 *   door_fan.c     what asks every shard: search and count
 *   door_call.c    the other end: calls of peers
 *
 * An operation is a set of parts (one a shard), each of which is asked of some node by attempts. An attempt ends in
 * exactly one callback, maybe long after the operation was answered: the operation's memory lives until the last one.
 */
#ifndef OUTRIGGER_NODE_DOOR_INTERNAL_H
#define OUTRIGGER_NODE_DOOR_INTERNAL_H

#include "sidecar/core/arena.h"
#include "sidecar/node/door.h"

enum {
    DOOR_TICK_MS = 10,
    DOOR_RETRY_MIN_MS = 20, /* between attempts when nothing tells of a change; doubles up to the maximum */
    DOOR_RETRY_MAX_MS = 100,
    DOOR_NOTFOUND_MS = 1000, /* a collection that we know and the other end does not yet: news travels */
    DOOR_HEDGE_MS = 1000,    /* a read without answer is asked of one more replica */
    DOOR_OPEN_MAX = 4,       /* attempts of one part at the same time */
    DOOR_TRIED_MAX = OTR_REPLICAS_MAX + 2,
    DOOR_MESSAGE_MAX = 160,
    DOOR_ROOM_BYTES_MAX = 512 << 20,
};

struct door_op;

struct door_op_kind {
    /* Start what can be started; parts that cannot call door_op_wait. */
    void (*look)(struct door_op *op, uint64_t now_ms);
    /* Answer now: with the results when everything is resolved, else with `status` (the deadline, or shut down). */
    void (*finish)(struct door_op *op, int status);
    void (*free)(struct door_op *op);
    enum node_operation operation;
};

struct door_share {
    otr_shard shard;
    uint64_t bytes;
};

struct door_op { /* first member of every operation */
    struct door *door;
    struct node *node;
    const struct door_op_kind *kind;
    struct door_op *next, **link;
    struct door_ticket *ticket;      /* NULL: none */
    const struct door_share *shares; /* counted by door_op_share */
    size_t shares_count;
    size_t room_bytes; /* counted by door_op_take_room */
    uint64_t started_ms;
    uint64_t deadline_ms;
    uint64_t retry_ms; /* look again then; 0: no need */
    uint32_t backoff_ms;
    uint32_t attempts_open;
    bool starting; /* door_* is still on the stack: no callback from there */
    bool settled;
    bool ended; /* answered */
    struct arena arena;
};

struct node *door_node(const struct door *d);
/* Links the operation in, looks for the first time. */
void door_op_start(struct door *d, struct door_op *op, const struct door_op_kind *kind, uint32_t timeout_ms);
void door_op_wait(struct door_op *op, uint64_t now_ms);
/* Counts the operation for its shards (lent until it ends); false: one of them has more than its share of the room. */
bool door_op_share(struct door_op *op, const struct door_share *shares, size_t count);
/* Everything is resolved: answers, now or (while starting) soon. */
void door_op_settle(struct door_op *op);
/* An attempt's callback has come; false: the operation was answered already and may be gone now. */
bool door_op_returned(struct door_op *op);
uint32_t door_op_left_ms(const struct door_op *op, uint64_t now_ms);

/* Nodes already asked for a part, in this round. */
struct door_tried {
    otr_node nodes[DOOR_TRIED_MAX];
    uint32_t count;
};
/* Whom to ask next: for linearizable reads the primary; else this node's own in-sync replica, the primary, then other
 * in-sync replicas that are connected (primary_first: the primary before this node). OTR_NODE_NONE: nobody (left). */
otr_node door_read_target(struct node *n, otr_shard shard, enum node_consistency c, bool primary_first,
                          const struct door_tried *tried);
void door_tried_add(struct door_tried *tried, otr_node node); /* again: no effect */

/* Nodes whose answer for a part is still to come. One that never comes (a frozen process) must not keep others from
 * being asked, however often those fail at first: a new primary refuses until it has taken over. */
struct door_open {
    otr_node nodes[DOOR_OPEN_MAX];
    uint32_t count;
};
bool door_open_has(const struct door_open *open, otr_node node);
void door_open_add(struct door_open *open, otr_node node); /* not more than DOOR_OPEN_MAX */
void door_open_remove(struct door_open *open, otr_node node);

/* Room in memory for what answers brought, until the operation ends. OTR_TOOBIG: it alone would take more than all
 * operations of a door may; OTR_BUSY: all of them together. */
int door_op_take_room(struct door_op *op, size_t bytes);
/* Instead of DOOR_ROOM_BYTES_MAX, for tests. */
void door_room_limit(struct door *d, size_t bytes);

/* The shards that make up the whole hash space, ascending, in the arena; OTR_UNAVAIL while they are not all known. */
int door_shards(struct node *n, struct arena *arena, otr_shard **shards, size_t *count);

/* A status out of a message: what is no code of ours is OTR_PROTO. */
int door_wire_status(uint32_t status);
/* The position asked for of that shard, {0,0}: none. */
struct otr_position door_after(const struct door_positions *after, otr_shard shard);
/* A vector out of a message: false when it is none. */
bool door_wire_vector(const ProtobufCBinaryData *bytes, const float **vector, uint32_t *dimension);

#endif
