/* Handoffs: asked for by an operator, by a process that stops in good order, or begun by the primary itself because its
 * engine failed or the coordinator is out of its reach. */
#include "tests/simulation/sim.h"

enum {
    HANDOFF_TIMEOUT_MS = 2000,
    HANDOFF_SLACK_US = 1500 * SIM_MS, /* pauses of the process come on top */
    HANDOFF_STOP_US = 4500 * SIM_MS,  /* a process that stops waits no longer */
    HANDOFF_POLL_US = 10 * SIM_MS,
};

/* --- asking ------------------------------------------------------------------------------------------------------- */

static void late_fire(struct sim *s, struct sim_event *e)
{
    struct sim_shard *sh = s->nodes[e->node].shards[e->a];

    if (sh != NULL && sh->handing > 0 && sh->handing_number == e->b) {
        sim_fail(s, "handoff: node %d shard %u: nobody tells what became of a handoff", e->node, sh->id);
    }
}

static void ask(struct sim_shard *sh, otr_node to, bool stopping)
{
    struct sim *s = sh->sim;
    uint32_t timeout_ms = sim_chance(s, 70) ? 0 : (uint32_t)sim_between(s, 20, HANDOFF_TIMEOUT_MS);
    struct sim_event *e;

    sim_trace(s, "node %d shard %u: shall hand over to node %u%s", sh->node->id, sh->id, to,
              stopping ? ", the process stops" : "");
    sh->handing++;
    sh->handing_number++;
    e = sim_after(s, (uint64_t)2 * HANDOFF_TIMEOUT_MS * SIM_MS + HANDOFF_SLACK_US, sh->node->id, late_fire);
    e->a = sh->id;
    e->b = sh->handing_number;
    shard_step(sh, &(struct replica_event){
                       .type = REPLICA_EV_HANDOFF,
                       .handoff = {.to = to, .stopping = stopping, .timeout_ms = timeout_ms},
                   });
}

void handoff_done(struct sim_shard *sh, const struct replica_action *a)
{
    struct sim *s = sh->sim;
    const struct descriptor *d = &alter_truth(s, sh->id)->descriptor;

    sim_trace(s, "node %d shard %u: handoff: %s, node %u, epoch %" PRIu64 ": %s", sh->node->id, sh->id,
              otr_strerror(a->handed.status), a->handed.to, a->handed.epoch, a->handed.why);
    if (sh->handing == 0) {
        sim_fail(s, "handoff: node %d shard %u: the outcome of a handoff that nobody waits for", sh->node->id, sh->id);
        return;
    }
    sh->handing--;
    switch (a->handed.status) {
    case 0:
        sim_reached(s, SIM_HANDED_OVER);
        if (a->handed.to == (otr_node)sh->node->id || a->handed.epoch > d->epoch ||
            (a->handed.epoch == d->epoch && a->handed.to != d->primary)) {
            sim_fail(
                s, "handoff: node %d shard %u: handed over to node %u in epoch %" PRIu64 ", but node %u leads %" PRIu64,
                sh->node->id, sh->id, a->handed.to, a->handed.epoch, d->primary, d->epoch);
        }
        break;
    case OTR_UNAVAIL:
        sim_reached(s, SIM_HANDOFF_UNAVAILABLE);
        break;
    case OTR_TIMEOUT:
        sim_reached(s, SIM_HANDOFF_LATE);
        break;
    case OTR_BUSY:
        sim_reached(s, SIM_HANDOFF_BUSY);
        break;
    case OTR_NOTPRIMARY:
        sim_reached(s, SIM_HANDOFF_NOT_PRIMARY);
        break;
    default:
        sim_fail(s, "handoff: node %d shard %u: a handoff ends with %d", sh->node->id, sh->id, a->handed.status);
        break;
    }
}

/* --- stopping ----------------------------------------------------------------------------------------------------- */

static bool may_go(struct sim *s, struct sim_node *n)
{
    for (uint32_t i = 0; i < s->shards_count; i++) {
        struct replica_status status;

        if (n->shards[i] == NULL) {
            continue;
        }
        replica_status(n->shards[i]->replica, node_now_ms(s, n), &status);
        if (!status.leaving) {
            sim_fail(s, "handoff: node %d shard %u: forgot that its process stops", n->id, i);
        }
        if (status.in_sync || status.handing || status.role == REPLICA_PRIMARY || status.role == REPLICA_TAKEOVER) {
            return false;
        }
    }
    return true;
}

static void start_fire(struct sim *s, struct sim_event *e)
{
    if (!s->nodes[e->a].alive) {
        node_start(s, &s->nodes[e->a]);
    }
}

static void stop_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = &s->nodes[e->node];
    bool done = may_go(s, n);

    if (!done && s->now_us < e->a) {
        sim_after(s, HANDOFF_POLL_US, n->id, stop_fire)->a = e->a;
        return;
    }
    if (done) {
        sim_reached(s, SIM_LEFT_IN_ORDER);
    }
    sim_trace(s, "node %d stops%s", n->id, done ? " in good order" : ", out of patience");
    node_crash(s, n, false);
    if (!n->starting) {
        n->starting = true;
        sim_after(s, sim_between(s, 20 * SIM_MS, 2000 * SIM_MS), 0, start_fire)->a = (uint64_t)n->id;
    }
}

static void stop(struct sim *s, struct sim_node *n)
{
    if (n->stopping) {
        return;
    }
    n->stopping = true;
    for (uint32_t i = 0; i < s->shards_count && n->alive; i++) {
        struct sim_shard *sh = n->shards[i];

        if (sh != NULL && sh->handing == 0 && sim_chance(s, 80)) {
            ask(sh, OTR_NODE_NONE, true);
        } else if (sh != NULL) {
            shard_step(sh, &(struct replica_event){.type = REPLICA_EV_LEAVE});
        }
    }
    sim_after(s, HANDOFF_POLL_US, n->id, stop_fire)->a = s->now_us + HANDOFF_STOP_US;
}

bool handoff_ask(struct sim *s, int node, bool stopping)
{
    otr_shard shard = (otr_shard)sim_below(s, s->shards_count);
    otr_node to = sim_chance(s, 50) ? OTR_NODE_NONE : (otr_node)sim_between(s, 1, (uint64_t)s->nodes_count);
    int primary = (int)alter_truth(s, shard)->descriptor.primary;
    struct sim_node *n;

    if (primary != 0 && sim_chance(s, stopping ? 40 : 70)) {
        node = primary;
    }
    n = &s->nodes[node];
    if (!n->alive || n->paused_until_us > s->now_us) {
        return false;
    }
    faults_hit(s, stopping ? FAULT_STOP : FAULT_HANDOFF, node);
    if (stopping && sim_chance(s, 10)) {
        for (int i = 1; i <= s->nodes_count; i++) {
            if (s->nodes[i].alive && s->nodes[i].paused_until_us <= s->now_us) {
                stop(s, &s->nodes[i]);
            }
        }
    } else if (stopping) {
        stop(s, n);
    } else if (n->shards[shard] != NULL && (n->shards[shard]->handing == 0 || sim_chance(s, 30))) {
        ask(n->shards[shard], to, false);
        /* Somebody else asks at the same time. */
        if (n->alive && n->shards[shard] != NULL && sim_chance(s, 10)) {
            ask(n->shards[shard], to, false);
        }
    }
    return true;
}

/* --- engines ------------------------------------------------------------------------------------------------------ */

void handoff_brief_all(struct sim *s, struct sim_node *n)
{
    for (uint32_t i = 0; i < s->shards_count && n->alive; i++) {
        if (n->shards[i] != NULL) {
            handoff_brief(n->shards[i]);
        }
    }
}

void handoff_brief(struct sim_shard *sh)
{
    if (sh->node->stopping) {
        shard_step(sh, &(struct replica_event){.type = REPLICA_EV_LEAVE});
    }
    shard_step(sh, &(struct replica_event){
                       .type = REPLICA_EV_FITNESS,
                       .fitness = {.engine_up = !sh->node->engine_down,
                                   .disk_full = sh->node->space_waited,
                                   .disk_low = sh->node->disk_full},
                   });
}

static void engine_up_fire(struct sim *s, struct sim_event *e)
{
    s->nodes[e->a].engine_down = false;
    handoff_brief_all(s, &s->nodes[e->a]);
}

void handoff_engine(struct sim *s, int node, uint64_t for_us)
{
    sim_trace(s, "node %d: the engine fails for %" PRIu64 " ms", node, for_us / SIM_MS);
    s->nodes[node].engine_down = true;
    handoff_brief_all(s, &s->nodes[node]);
    sim_after(s, for_us, 0, engine_up_fire)->a = (uint64_t)node;
}

/* --- end ---------------------------------------------------------------------------------------------------------- */

void handoff_heal(struct sim *s)
{
    for (int i = 1; i <= s->nodes_count; i++) {
        struct sim_node *n = &s->nodes[i];

        /* A process that was told to stop is of no use any more; damage has to be found; who does not trust the
         * coordinator has to begin anew. */
        if (n->alive && (n->stopping || n->flipped || n->regressed)) {
            node_crash(s, n, false);
        }
        if (n->engine_down) {
            n->engine_down = false;
            handoff_brief_all(s, n);
        }
    }
}
