/* An operator's wish that a shard's primary change: asked of whoever is primary, here or over its link. Asked again
 * while nobody knows who that is, or when the one asked was not it. An attempt whose answer was lost may have worked:
 * then the shard has another primary. Whoever wished for a certain node has it when that one leads; else the one that
 * leads now is asked. */
#include "sidecar/node/door_internal.h"

#include "sidecar/io/clock.h"

#include <stdio.h>
#include <stdlib.h>

struct handoff_op {
    struct door_op op;
    struct door_handoff h;
    otr_node to;
    door_handoff_cb cb;
    void *data;
    bool asking;
    bool uncertain; /* an answer was lost */
    otr_node asked;
    struct door_handoff_result result;
};

static void take_name(struct handoff_op *o, char out[OTR_NAME_MAX + 1], otr_node node)
{
    out[0] = '\0';
    if (node != OTR_NODE_NONE) {
        snprintf(out, OTR_NAME_MAX + 1, "%s", topology_name(node_topology(o->op.node), node));
    }
}

static bool may_work_elsewhere(int status)
{
    return status == OTR_NOTPRIMARY || status == OTR_UNREACHABLE || status == OTR_FENCED || status == OTR_NOMEM;
}

static void ended(struct handoff_op *o, int status, const char *message)
{
    o->asking = false;
    o->result.status = status;
    snprintf(o->result.message, sizeof o->result.message, "%s",
             message != NULL && message[0] != '\0' ? message : otr_strerror(status));
    if (status == OTR_UNKNOWN) {
        o->uncertain = true;
    } else if (!may_work_elsewhere(status)) {
        door_op_settle(&o->op);
        return;
    }
    door_op_wait(&o->op, clock_now_ms());
}

static void local_done(void *data, const struct node_handoff_result *r)
{
    struct handoff_op *o = data;

    if (!door_op_returned(&o->op)) {
        return;
    }
    o->result.epoch = r->epoch;
    o->result.pause_us = r->pause_us;
    take_name(o, o->result.to, r->to);
    ended(o, r->status, r->message);
}

static void remote_done(void *data, int status, const ProtobufCMessage *message, const struct otr_errmsg *msg)
{
    const Outrigger__V1__HandoffReply *reply = (const Outrigger__V1__HandoffReply *)(const void *)message;
    struct handoff_op *o = data;

    if (!door_op_returned(&o->op)) {
        return;
    }
    if (status != 0) {
        ended(o, status, msg != NULL ? msg->text : NULL);
        return;
    }
    o->result.epoch = reply->epoch;
    o->result.pause_us = reply->pause_us;
    snprintf(o->result.to, sizeof o->result.to, "%s", reply->to);
    ended(o, door_wire_status(reply->status), reply->message);
}

static int ask_remote(struct handoff_op *o, otr_node target, uint32_t timeout_ms)
{
    struct peer_link *link = node_link(o->op.node, target);
    Outrigger__V1__HandoffRequest request = OUTRIGGER__V1__HANDOFF_REQUEST__INIT;

    if (link == NULL || !peer_link_up(link)) {
        return OTR_UNREACHABLE;
    }
    request.shard = o->h.shard;
    request.timeout_ms = timeout_ms;
    if (o->to != OTR_NODE_NONE) {
        request.to = (char *)(uintptr_t)topology_name(node_topology(o->op.node), o->to);
    }
    return peer_link_call(link, PEER_HANDOFF, &request.base, door_op_left_ms(&o->op, clock_now_ms()), remote_done, o);
}

static void ask(struct handoff_op *o, otr_node target, uint64_t now_ms)
{
    uint32_t left_ms = door_op_left_ms(&o->op, now_ms);
    uint32_t timeout_ms = left_ms < o->h.timeout_ms ? left_ms : o->h.timeout_ms;
    struct otr_errmsg msg = {0};
    int rv;

    o->asked = target;
    take_name(o, o->result.from, target);
    if (target == node_self(o->op.node)) {
        rv = node_handoff(o->op.node, o->h.shard, o->to, timeout_ms, local_done, o, &msg);
    } else {
        rv = ask_remote(o, target, timeout_ms);
    }
    if (rv == 0) {
        o->asking = true;
        o->op.attempts_open++;
        return;
    }
    take_name(o, o->result.to, o->to);
    ended(o, rv, msg.text);
}

static void handoff_look(struct door_op *op, uint64_t now_ms)
{
    struct handoff_op *o = (struct handoff_op *)op;
    const struct topology_shard *known = topology_shard(node_topology(op->node), o->h.shard);
    otr_node primary = node_primary(op->node, o->h.shard);

    if (o->asking) {
        return;
    }
    door_op_wait(op, now_ms);
    /* An answer was lost, and the shard has another primary than the one asked. */
    if (o->uncertain && primary != OTR_NODE_NONE && primary != o->asked) {
        if (o->to != OTR_NODE_NONE && primary != o->to) { /* not the one wished for: the wish stands */
            o->uncertain = false;
            ask(o, primary, now_ms);
            return;
        }
        take_name(o, o->result.to, primary);
        o->result.epoch = known != NULL ? known->descriptor.epoch : 0;
        o->result.status = 0;
        o->result.message[0] = '\0';
        door_op_settle(&o->op);
    } else if (primary == OTR_NODE_NONE) {
        snprintf(o->result.message, sizeof o->result.message, "shard %u has no primary now", o->h.shard);
        o->result.status = OTR_UNAVAIL;
    } else if (!o->uncertain) {
        ask(o, primary, now_ms);
    }
}

static void handoff_finish(struct door_op *op, int status)
{
    struct handoff_op *o = (struct handoff_op *)op;

    if (status != 0) { /* the deadline, or shut down */
        o->result.status = o->uncertain || o->asking ? OTR_UNKNOWN : o->result.status != 0 ? o->result.status : status;
        if (o->result.message[0] == '\0') {
            snprintf(o->result.message, sizeof o->result.message, "no answer from the shard's primary in time");
        }
    }
    o->cb(o->data, &o->result);
}

static void handoff_free(struct door_op *op)
{
    free(op);
}

static const struct door_op_kind handoff_kind = {.look = handoff_look, .finish = handoff_finish, .free = handoff_free};

/* What the topology knows to be impossible is said at once. */
static int check(struct node *n, const struct door_handoff *h, otr_node *to, struct otr_errmsg *msg)
{
    struct topology *t = node_topology(n);
    const struct topology_shard *known = topology_shard(t, h->shard);

    *to = OTR_NODE_NONE;
    if (known == NULL || !known->known) {
        uint32_t count = topology_shards_count(t);
        if (count == 0) {
            otr_errmsg_set(msg, "there is no shard %u: the cluster is not initialised", h->shard);
        } else {
            otr_errmsg_set(msg, "there is no shard %u: they are numbered 0 to %u", h->shard, count - 1);
        }
        return OTR_NOTFOUND;
    }
    for (otr_node i = 1; h->to[0] != '\0' && i <= topology_nodes_count(t); i++) {
        if (strcmp(topology_name(t, i), h->to) == 0) {
            *to = i;
        }
    }
    if (h->to[0] != '\0' && *to == OTR_NODE_NONE) {
        otr_errmsg_set(msg, "there is no node \"%s\"", h->to);
        return OTR_NOTFOUND;
    }
    return 0;
}

int door_handoff(struct door *d, const struct door_handoff *h, door_handoff_cb cb, void *data, struct otr_errmsg *msg)
{
    struct handoff_op *o;
    otr_node to;
    int rv = check(door_node(d), h, &to, msg);

    if (rv != 0) {
        return rv;
    }
    o = calloc(1, sizeof *o);
    if (o == NULL) {
        return OTR_NOMEM;
    }
    o->h = *h;
    o->to = to;
    o->cb = cb;
    o->data = data;
    o->result.shard = h->shard;
    door_op_start(d, &o->op, &handoff_kind, 2 * h->timeout_ms + DOOR_RETRY_MAX_MS);
    return 0;
}
