/* An operator makes a replica of ours primary although it is not in sync (PROTOCOL V7): node_force -> EV_FORCE -> the
 * core checks, stands, takes over -> DO_FORCED. Asked of this node itself, which must be the one that shall lead. */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"

#include <stdio.h>
#include <stdlib.h>

struct force {
    struct node *node;
    struct later later;
    node_force_cb cb;
    void *data;
    struct node_force_result result;
};

static void finish(struct later *l)
{
    struct force *f = (struct force *)((char *)l - offsetof(struct force, later));

    f->cb(f->data, &f->result);
    free(f);
}

static void finish_soon(struct shard *s)
{
    struct force *f = s->force;

    s->force = NULL;
    later_run(f->node, &f->later, finish);
}

void force_forced(struct shard *s, const struct replica_action *a)
{
    struct force *f = s->force;
    const char *other =
        a->forced.other != OTR_NODE_NONE ? topology_name(s->node->topology, a->forced.other) : s->node->name;

    log_warn(s->subject, "forced election: %s %s", a->forced.status == 0 ? s->node->name : other, a->forced.why);
    if (f == NULL) {
        return;
    }
    f->result.status = a->forced.status;
    f->result.epoch = a->forced.epoch;
    snprintf(f->result.message, sizeof f->result.message, "shard %u: %s%s%s", s->id,
             a->forced.other != OTR_NODE_NONE ? other : "", a->forced.other != OTR_NODE_NONE ? " " : "", a->forced.why);
    finish_soon(s);
}

static bool connected(struct node *n, otr_node node)
{
    const struct peer_link *link = node_link(n, node);

    return link != NULL && peer_link_up(link);
}

/* A session of a member's process says that it lives, whether or not it can be reached from here. */
static int check_sessions(const struct shard *s, const struct descriptor *d, struct otr_errmsg *msg)
{
    struct topology *t = s->node->topology;

    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        const struct topology_node *member = topology_node(t, d->in_sync[i].node);

        if (d->in_sync[i].node != s->node->self && member != NULL && member->live &&
            !connected(s->node, d->in_sync[i].node)) {
            otr_errmsg_set(
                msg,
                "shard %u: %s is in sync and has a session in the coordinator: it lives, cut off from %s, or "
                "died less than session_ttl ago",
                s->id, member->name, s->node->name);
            return OTR_CONFLICT;
        }
    }
    return 0;
}

int node_force(struct node *n, otr_shard shard, uint64_t accepted, uint32_t timeout_ms, node_force_cb cb, void *data,
               struct otr_errmsg *msg)
{
    struct shard *s = node_shard(n, shard);
    struct replica_status status;
    struct force *f;
    int rv;

    if (s == NULL || n->closing) {
        otr_errmsg_set(msg, "%s has no replica of shard %u", n->name, shard);
        return OTR_NOTFOUND;
    }
    if (s->force != NULL) {
        otr_errmsg_set(msg, "a forced election of shard %u is under way", shard);
        return OTR_BUSY;
    }
    replica_status(s->replica, clock_now_ms(), &status);
    rv = status.descriptor != NULL ? check_sessions(s, status.descriptor, msg) : 0;
    if (rv == 0 && status.known_index > status.kept_index && status.known_index - status.kept_index > accepted) {
        otr_errmsg_set(msg, "shard %u: %llu entries may be lost, not %llu: ask again", shard,
                       (unsigned long long)(status.known_index - status.kept_index), (unsigned long long)accepted);
        rv = OTR_CONFLICT;
    }
    f = rv == 0 ? calloc(1, sizeof *f) : NULL;
    if (f == NULL) {
        return rv != 0 ? rv : OTR_NOMEM;
    }
    *f = (struct force){.node = n, .cb = cb, .data = data};
    s->force = f;
    shard_feed(s, &(struct replica_event){.type = REPLICA_EV_FORCE,
                                          .force = {.accepted = accepted, .timeout_ms = timeout_ms}});
    return 0;
}

bool node_survivor(struct node *n, otr_shard shard, struct node_survivor *out)
{
    struct shard *s = node_shard(n, shard);
    struct journal_shard_state state;
    struct replica_status status;

    if (journal_shard(n->journal, shard, &state) == 0 || state.meta.log_id == 0) {
        return false;
    }
    *out = (struct node_survivor){.promised =
                                      state.meta.promised > state.last.epoch ? state.meta.promised : state.last.epoch,
                                  .log_id = state.damaged || state.seed_unfinished ? 0 : state.meta.log_id,
                                  .seen_generation = state.meta.seen_generation,
                                  .seen_epoch = state.meta.seen_epoch,
                                  .seen_version = state.meta.seen_version,
                                  .last = state.last};
    if (s != NULL) {
        replica_status(s->replica, clock_now_ms(), &status);
        out->leads = status.role == REPLICA_PRIMARY || status.role == REPLICA_TAKEOVER;
        out->promised = status.promised;
        out->log_id = status.log_id;
        out->last = status.last;
    }
    return true;
}

void force_end(struct shard *s)
{
    if (s->force != NULL) {
        s->force->result.status = OTR_UNKNOWN;
        snprintf(s->force->result.message, sizeof s->force->result.message, "node %s is stopping", s->node->name);
        finish_soon(s);
    }
}
