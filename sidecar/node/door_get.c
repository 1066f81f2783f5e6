/* One point: asked of one replica after the other until one answers. */
#include "sidecar/node/door_internal.h"

#include "sidecar/io/clock.h"

#include <stdlib.h>

struct get_op;

struct attempt {
    struct get_op *op;
    otr_node target;
};

struct get_op {
    struct door_op op;
    struct door_get g;
    door_get_cb cb;
    void *data;
    struct otr_point id; /* a copy, for attempts that outlive the operation */
    otr_shard shard;
    struct door_share share;
    bool routed;
    struct door_tried tried;
    struct door_open open;
    uint64_t asked_ms; /* 0: the newest attempt failed */
    int status;        /* of the newest failure */
    struct otr_errmsg msg;
};

static void get_answer(struct get_op *o, const struct otr_point *point)
{
    door_get_cb cb = o->cb;

    o->cb = NULL; /* get_finish has nothing to say any more. */
    if (o->op.ticket != NULL) {
        o->op.ticket->op = NULL; /* It is the caller's again, who may free it. */
        o->op.ticket = NULL;
    }
    cb(o->data, 0, point, NULL);
    door_op_settle(&o->op);
}

static void get_look(struct door_op *op, uint64_t now_ms);

static bool somebody_left(const struct get_op *o)
{
    return door_read_target(o->op.node, o->shard, o->g.consistency, false, &o->tried) != OTR_NODE_NONE;
}

static void get_failed(struct get_op *o, int status, const char *message)
{
    uint64_t now_ms = clock_now_ms();
    bool final = status == OTR_INVALID || (status == OTR_NOTFOUND && now_ms - o->op.started_ms >= DOOR_NOTFOUND_MS);

    o->status = status;
    o->asked_ms = 0;
    otr_errmsg_set(&o->msg, "%s", message != NULL && message[0] != '\0' ? message : otr_strerror(status));
    if (!final && o->routed && o->open.count == 0 && somebody_left(o)) {
        get_look(&o->op, now_ms);
    } else if (final || (status == OTR_BUSY && o->open.count == 0)) {
        /* No other replica will say anything else; or all have too much to do, and asking again makes it more. */
        o->op.deadline_ms = now_ms;
    }
    door_op_wait(&o->op, now_ms);
}

static bool get_returned(struct attempt *a)
{
    if (!door_op_returned(&a->op->op)) {
        return false;
    }
    door_open_remove(&a->op->open, a->target);
    return true;
}

static void get_done(void *data, int status, const struct otr_point *points, size_t count, const struct otr_errmsg *msg)
{
    struct attempt *a = data;
    struct get_op *o = a->op;

    if (!get_returned(a)) {
        return;
    }
    if (status != 0) {
        get_failed(o, status, msg != NULL ? msg->text : NULL);
    } else {
        get_answer(o, count != 0 ? &points[0] : NULL);
    }
}

/* The point of a reply; OTR_PROTO when it is not the one asked for. */
static int read_reply(struct get_op *o, const Outrigger__V1__GetReply *reply, struct otr_point *point)
{
    const Outrigger__V1__Point *p = reply->points[0];

    *point = o->id;
    if (strlen(p->id) != o->id.id_bytes || memcmp(p->id, o->id.id, o->id.id_bytes) != 0 ||
        p->metadata.len > OTR_METADATA_MAX || !door_wire_vector(&p->vector, &point->vector, &point->dimension) ||
        point->dimension == 0) {
        return OTR_PROTO;
    }
    point->metadata = p->metadata.len != 0 ? (const char *)p->metadata.data : NULL;
    point->metadata_bytes = (uint32_t)p->metadata.len;
    return 0;
}

static void get_remote_done(void *data, int status, const ProtobufCMessage *message, const struct otr_errmsg *msg)
{
    const Outrigger__V1__GetReply *reply = (const Outrigger__V1__GetReply *)(const void *)message;
    struct attempt *a = data;
    struct get_op *o = a->op;
    struct otr_point point;

    if (!get_returned(a)) {
        return;
    }
    if (status != 0) {
        get_failed(o, status, msg != NULL ? msg->text : NULL);
    } else if (reply->status != 0) {
        get_failed(o, door_wire_status(reply->status), reply->message);
    } else if (reply->n_points == 0) {
        get_answer(o, NULL);
    } else if (read_reply(o, reply, &point) != 0) {
        get_failed(o, OTR_PROTO, NULL);
    } else {
        get_answer(o, &point);
    }
}

static int get_remote(struct get_op *o, struct attempt *a, uint32_t timeout_ms)
{
    struct peer_link *link = node_link(o->op.node, a->target);
    struct otr_position position = door_after(o->g.after, o->shard);
    Outrigger__V1__GetRequest request = OUTRIGGER__V1__GET_REQUEST__INIT;
    Outrigger__V1__Position after = OUTRIGGER__V1__POSITION__INIT;
    Outrigger__V1__Position *afters[1] = {&after};
    char *ids[1] = {(char *)(uintptr_t)o->id.id}; /* arena_copy put a NUL behind */

    if (link == NULL || !peer_link_up(link)) {
        return OTR_UNREACHABLE;
    }
    request.shard = o->shard;
    request.collection = o->g.collection;
    request.n_ids = 1;
    request.ids = ids;
    request.consistency = (Outrigger__V1__Consistency)o->g.consistency;
    request.timeout_ms = timeout_ms;
    if (position.index != 0) {
        after.epoch = position.epoch;
        after.index = position.index;
        request.n_after = 1;
        request.after = afters;
    }
    return peer_link_call(link, PEER_GET, &request.base, timeout_ms, get_remote_done, a);
}

static int get_local(struct get_op *o, struct attempt *a, uint32_t timeout_ms)
{
    struct node_get get = {
        .shard = o->shard,
        .collection = o->g.collection,
        .ids = &o->id,
        .ids_count = 1,
        .consistency = o->g.consistency,
        .after = door_after(o->g.after, o->shard),
        .timeout_ms = timeout_ms,
    };

    return node_get(o->op.node, &get, get_done, a);
}

/* Whom to ask now, OTR_NODE_NONE: nobody. While attempts are under way: a primary that is not among those asked; or,
 * for the other reads, one more replica when nothing came for long. */
static otr_node next_target(struct get_op *o, uint64_t now_ms)
{
    otr_node primary = node_primary(o->op.node, o->shard);
    otr_node target;

    if (o->open.count == DOOR_OPEN_MAX) {
        return OTR_NODE_NONE;
    }
    if (o->open.count != 0 && o->g.consistency == NODE_LINEARIZABLE) {
        return door_open_has(&o->open, primary) ? OTR_NODE_NONE : primary;
    }
    if (o->open.count != 0 && now_ms < o->asked_ms + DOOR_HEDGE_MS) {
        return OTR_NODE_NONE;
    }
    target = door_read_target(o->op.node, o->shard, o->g.consistency, false, &o->tried);
    if (target == OTR_NODE_NONE && o->open.count == 0) {
        o->tried.count = 0; /* From the start again; failures and looks are DOOR_RETRY_MIN_MS apart then. */
        target = door_read_target(o->op.node, o->shard, o->g.consistency, false, &o->tried);
    }
    return target;
}

static void attempt_start(struct get_op *o, otr_node target, uint64_t now_ms)
{
    struct attempt *a = arena_alloc(&o->op.arena, sizeof *a);
    int rv = OTR_NOMEM;

    door_tried_add(&o->tried, target);
    if (a != NULL) {
        *a = (struct attempt){.op = o, .target = target};
        rv = target == node_self(o->op.node) ? get_local(o, a, door_op_left_ms(&o->op, now_ms))
                                             : get_remote(o, a, door_op_left_ms(&o->op, now_ms));
    }
    if (rv != 0) {
        get_failed(o, rv, NULL);
        return;
    }
    o->asked_ms = now_ms;
    door_open_add(&o->open, target);
    o->op.attempts_open++;
}

static void get_look(struct door_op *op, uint64_t now_ms)
{
    struct get_op *o = (struct get_op *)op;
    otr_node target;

    if (!o->routed) {
        o->routed = topology_route(node_topology(op->node), point_hash(o->id.id, o->id.id_bytes), &o->shard);
        if (!o->routed) {
            get_failed(o, OTR_UNAVAIL, "the cluster's shards are not known here yet");
            return;
        }
        o->share.shard = o->shard;
        if (!door_op_share(op, &o->share, 1)) {
            o->status = OTR_BUSY;
            otr_errmsg_set(&o->msg, "the shard has too much under way already: try again");
            op->deadline_ms = now_ms; /* Nobody is asked. */
            return;
        }
    }
    door_op_wait(op, now_ms);
    target = next_target(o, now_ms);
    if (target != OTR_NODE_NONE) {
        attempt_start(o, target, now_ms);
    } else if (o->open.count == 0) {
        get_failed(o, OTR_UNAVAIL, "no replica of the shard can be asked now");
    }
}

static void get_finish(struct door_op *op, int status)
{
    struct get_op *o = (struct get_op *)op;

    if (o->cb == NULL) {
        return;
    }
    if (status == OTR_TIMEOUT && o->status != 0 && o->status != OTR_UNREACHABLE && o->open.count == 0) {
        status = o->status;
    }
    if (o->msg.text[0] == '\0') {
        otr_errmsg_set(&o->msg, "no replica of the shard answered in time");
    }
    o->cb(o->data, status, NULL, &o->msg);
}

static void get_free(struct door_op *op)
{
    free(op);
}

static const struct door_op_kind get_kind = {
    .look = get_look, .finish = get_finish, .free = get_free, .operation = NODE_OP_GET};

int door_get(struct door *d, const struct door_get *g, door_get_cb cb, void *data)
{
    struct get_op *o;

    if (g->id_bytes == 0 || g->id_bytes > OTR_POINT_ID_MAX) {
        return OTR_INVALID;
    }
    o = calloc(1, sizeof *o);
    if (o == NULL) {
        return OTR_NOMEM;
    }
    o->id.id = arena_copy(&o->op.arena, g->id, g->id_bytes);
    o->id.id_bytes = (uint32_t)g->id_bytes;
    if (o->id.id == NULL) {
        free(o);
        return OTR_NOMEM;
    }
    o->g = *g;
    o->cb = cb;
    o->data = data;
    o->op.ticket = g->ticket;
    door_op_start(d, &o->op, &get_kind, g->timeout_ms);
    return 0;
}
