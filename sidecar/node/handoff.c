/* Handing over, as the node sees it.
 *
 * An operator's wish: node_handoff -> EV_HANDOFF -> (the core asks the members, returns its grants) -> DO_HANDED. The
 * pause that it tells is measured: from the step after which the core refused writes until the new primary answered a
 * linearizable read, which it does not before it serves.
 *
 * A process about to stop: node_leave tells every replica at once; a primary hands over, a follower asks to be taken
 * out of its set. It is done when none of our replicas leads or is counted any more, or when the time is over. A
 * shard that nobody else could serve is not waited for. */
#include "sidecar/node/handoff.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"
#include "sidecar/node/node_internal.h"

#include <stdio.h>
#include <stdlib.h>

enum { ASKED_MAX = 100 };

struct handoff {
    struct shard *shard; /* NULL: the node closes */
    struct node *node;
    struct later later;
    node_handoff_cb cb;
    void *data;
    otr_node wanted; /* OTR_NODE_NONE: the best */
    uint32_t timeout_ms;
    unsigned asked;       /* times the new primary was asked whether it serves */
    uint64_t refusing_ns; /* since when writes are refused; 0: they are not */
    struct node_handoff_result result;
};

/* --- an operator's wish ------------------------------------------------------------------------------------------- */

static void finish(struct later *l)
{
    struct handoff *h = (struct handoff *)((char *)l - offsetof(struct handoff, later));

    h->cb(h->data, &h->result);
    free(h);
}

static void finish_soon(struct handoff *h)
{
    if (h->shard != NULL) {
        h->shard->handoff = NULL;
    }
    later_run(h->node, &h->later, finish);
}

static int ask_served(struct handoff *h);

static void on_served(void *data, int status, const ProtobufCMessage *message, const struct otr_errmsg *msg)
{
    const Outrigger__V1__GetReply *reply = (const Outrigger__V1__GetReply *)(const void *)message;
    struct handoff *h = data;

    (void)msg;
    if (status == 0 && reply->status == 0) {
        h->result.pause_us = (clock_now_ns() - h->refusing_ns) / 1000;
    } else if (status == 0 && h->shard != NULL && ++h->asked < ASKED_MAX && ask_served(h) == 0) {
        return; /* it won, and does not know it yet: the coordinator told us first */
    }
    finish_soon(h);
}

/* A read of nothing, answered as soon as the new primary may answer reads. */
static int ask_served(struct handoff *h)
{
    struct peer_link *link = node_link(h->node, h->result.to);
    Outrigger__V1__GetRequest request = OUTRIGGER__V1__GET_REQUEST__INIT;

    if (link == NULL) {
        return OTR_UNREACHABLE;
    }
    request.shard = h->shard->id;
    request.consistency = OUTRIGGER__V1__CONSISTENCY__LINEARIZABLE;
    request.timeout_ms = h->timeout_ms;
    return peer_link_call(link, PEER_GET, &request.base, h->timeout_ms, on_served, h);
}

/* Who still leads, of whom was asked, and why. */
static void explain(struct handoff *h, const char *why)
{
    const struct shard *s = h->shard;
    const struct topology *t = s->node->topology;
    int used = 0;

    if (h->result.status != 0 && s->role == REPLICA_PRIMARY) {
        used = snprintf(h->result.message, sizeof h->result.message, "shard %u stays with %s: ", s->id, s->node->name);
        if (h->wanted != OTR_NODE_NONE) {
            used += snprintf(h->result.message + used, sizeof h->result.message - (size_t)used,
                             "%s was asked for: ", topology_name(t, h->wanted));
        }
    }
    snprintf(h->result.message + used, sizeof h->result.message - (size_t)used, "%s", why != NULL ? why : "");
}

void handoff_handed(struct shard *s, const struct replica_action *a)
{
    struct handoff *h = s->handoff;

    log_info(s->subject, "handoff: %s%s%s", a->handed.status == 0 ? "done" : a->handed.why,
             a->handed.to != OTR_NODE_NONE ? "; to " : "",
             a->handed.to != OTR_NODE_NONE ? topology_name(s->node->topology, a->handed.to) : "");
    if (h == NULL || s->leave_feeding) {
        return; /* of the leaving process itself, which looks at what came of it */
    }
    h->result.status = a->handed.status;
    h->result.to = a->handed.to;
    h->result.epoch = a->handed.epoch;
    explain(h, a->handed.why);
    if (a->handed.status == 0 && h->refusing_ns != 0 && !s->node->closing && ask_served(h) == 0) {
        h->asked = 1;
        return;
    }
    finish_soon(h);
}

/* Whether the wish makes sense, as far as the descriptor says. */
static int check_target(struct shard *s, const struct replica_status *status, otr_node to, struct otr_errmsg *msg)
{
    const struct topology *t = s->node->topology;
    const struct descriptor *d = status->descriptor;
    char in_sync[OTR_REPLICAS_MAX * (OTR_NAME_MAX + 2)] = "";
    size_t used = 0;

    if (to == s->node->self) {
        otr_errmsg_set(msg, "%s is the primary of shard %u already", s->node->name, s->id);
        return OTR_EXISTS;
    }
    if (to == OTR_NODE_NONE || d == NULL || descriptor_in_sync(d, to) >= 0) {
        return 0;
    }
    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        used += (size_t)snprintf(in_sync + used, sizeof in_sync - used, "%s%s", i > 0 ? ", " : "",
                                 topology_name(t, d->in_sync[i].node));
    }
    otr_errmsg_set(msg, "%s %s shard %u; in sync are: %s", topology_name(t, to),
                   descriptor_has_replica(d, to) ? "is not in sync with" : "has no replica of", s->id, in_sync);
    return OTR_CONFLICT;
}

int node_handoff(struct node *n, otr_shard shard, otr_node to, uint32_t timeout_ms, node_handoff_cb cb, void *data,
                 struct otr_errmsg *msg)
{
    struct shard *s = node_shard(n, shard);
    struct replica_status status;
    struct handoff *h;
    int rv;

    if (s == NULL || s->role != REPLICA_PRIMARY || n->closing) {
        otr_errmsg_set(msg, "%s is not the primary of shard %u", n->name, shard);
        return OTR_NOTPRIMARY;
    }
    if (s->handoff != NULL) {
        otr_errmsg_set(msg, "a handoff of shard %u is under way", shard);
        return OTR_BUSY;
    }
    replica_status(s->replica, clock_now_ms(), &status);
    rv = check_target(s, &status, to, msg);
    if (rv != 0) {
        return rv;
    }
    h = calloc(1, sizeof *h);
    if (h == NULL) {
        return OTR_NOMEM;
    }
    *h = (struct handoff){.shard = s,
                          .node = n,
                          .cb = cb,
                          .data = data,
                          .wanted = to,
                          .timeout_ms = timeout_ms,
                          .result = {.from = n->self}};
    s->handoff = h;
    shard_feed(s, &(struct replica_event){.type = REPLICA_EV_HANDOFF, .handoff = {.to = to, .timeout_ms = timeout_ms}});
    return 0;
}

void handoff_end(struct shard *s)
{
    struct handoff *h = s->handoff;

    if (h != NULL) {
        s->handoff = NULL;
        h->shard = NULL;
        if (h->asked > 0) {
            return; /* the call under way ends it */
        }
        h->result.status = OTR_CANCELED;
        snprintf(h->result.message, sizeof h->result.message, "node %s is stopping", s->node->name);
        finish_soon(h);
    }
}

/* --- engine and disk ---------------------------------------------------------------------------------------------- */

void handoff_brief(struct shard *s)
{
    const struct node *n = s->node;

    shard_feed(s, &(struct replica_event){.type = REPLICA_EV_FITNESS,
                                          .fitness = {.engine_up = !n->engine_known || n->engine_status.up,
                                                      .disk_full = n->disk_full,
                                                      .disk_low = n->disk_low}});
}

void handoff_brief_all(struct node *n)
{
    for (otr_shard i = 0; i < n->shards_top; i++) {
        struct shard *s = node_shard(n, i);

        if (s != NULL) {
            handoff_brief(s);
        }
    }
}

/* --- leaving ------------------------------------------------------------------------------------------------------ */

static void leave(struct shard *s, uint32_t timeout_ms)
{
    s->leave_feeding = true;
    if (s->role == REPLICA_PRIMARY || s->role == REPLICA_TAKEOVER || s->role == REPLICA_CANDIDATE) {
        shard_feed(s, &(struct replica_event){.type = REPLICA_EV_HANDOFF,
                                              .handoff = {.stopping = true, .timeout_ms = timeout_ms}});
    } else {
        shard_feed(s, &(struct replica_event){.type = REPLICA_EV_LEAVE});
    }
    s->leave_feeding = false;
}

static bool leads(enum replica_role role)
{
    return role == REPLICA_PRIMARY || role == REPLICA_TAKEOVER || role == REPLICA_CANDIDATE;
}

/* Nobody waits for this replica, or nobody could take its place. */
static bool gone(struct shard *s, uint64_t now_ms)
{
    struct replica_status status;

    replica_status(s->replica, now_ms, &status);
    return (!leads(status.role) && !status.in_sync) || status.descriptor == NULL ||
           status.descriptor->in_sync_count < 2;
}

static void left(struct later *l)
{
    struct node *n = (struct node *)((char *)l - offsetof(struct node, leave.later));

    n->leave.cb(n->leave.data);
}

static void leave_check(struct node *n, uint64_t now_ms)
{
    unsigned remaining = 0;

    if (n->leave.cb == NULL || n->leave.ended) {
        return;
    }
    for (otr_shard i = 0; i < n->shards_top; i++) {
        struct shard *s = node_shard(n, i);
        remaining += s != NULL && !gone(s, now_ms);
    }
    if (remaining > 0 && now_ms < n->leave.deadline_ms && !n->dying) {
        return;
    }
    if (remaining > 0) {
        log_warn("", "stop: %u shards still count on this node; going all the same", remaining);
    } else {
        log_info("", "stop: no shard counts on this node any more, after %llu ms",
                 (unsigned long long)(now_ms - n->leave.began_ms));
    }
    n->leave.ended = true;
    later_run(n, &n->leave.later, left);
}

void node_leave(struct node *n, uint32_t timeout_ms, void (*cb)(void *data), void *data)
{
    uint64_t now_ms = clock_now_ms();

    n->leave.leaving = true;
    n->leave.began_ms = now_ms;
    n->leave.deadline_ms = now_ms + timeout_ms;
    for (otr_shard i = 0; i < n->shards_top; i++) {
        struct shard *s = node_shard(n, i);
        if (s != NULL) {
            leave(s, timeout_ms);
        }
    }
    n->leave.cb = cb;
    n->leave.data = data;
    leave_check(n, now_ms);
}

void handoff_tick(struct node *n, uint64_t now_ms)
{
    leave_check(n, now_ms);
}

void handoff_stepped(struct shard *s)
{
    struct handoff *h = s->handoff;
    struct replica_status status;

    if (h != NULL && h->refusing_ns == 0) {
        replica_status(s->replica, clock_now_ms(), &status);
        if (!status.writable) {
            h->refusing_ns = clock_now_ns();
        }
    }
    if (s->node->leave.leaving) {
        leave_check(s->node, clock_now_ms());
    }
}
