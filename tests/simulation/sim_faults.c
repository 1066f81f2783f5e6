/* What goes wrong. Each seed draws which kinds of faults it has and how often: runs with few kinds find what a mixture
 * of everything hides. Every fault ends by itself; faults_end ends them all. */
#include "tests/simulation/sim.h"

enum fault {
    FAULT_LOSS = 0,    /* per thousand messages: sent again, late */
    FAULT_DOUBLE,      /* per thousand messages: a second copy, later */
    FAULT_SLOW_WATCH,  /* per cent of the coordinator's events */
    FAULT_SLOW_SYNC,   /* per thousand flushes */
    FAULT_FIRST_EVENT, /* from here on: things that happen, with their weights */
    FAULT_KILL = FAULT_FIRST_EVENT,
    FAULT_POWER,
    FAULT_PAUSE,
    FAULT_ONE_WAY,
    FAULT_ISOLATE,
    FAULT_REFUSE,
    FAULT_REFUSE_NODE,
    FAULT_BREAK,
    FAULT_COORD_DOWN,
    FAULT_COORD_FLAKY,
    FAULT_COORD_CUT_OFF,
    FAULT_SESSION,
    FAULT_WIPE,
    FAULT_DISK,
    FAULT_TOUCH,
    FAULT_RESTART_ALL,
    FAULT_ISOLATE_PRIMARY,
    FAULT_KILL_PRIMARY,
    FAULT_COUP,
    FAULT_HANDOFF,
    FAULT_STOP,
    FAULT_ENGINE,
    FAULT_COORD_CUT_PRIMARY,
    FAULT_MOVE,
    FAULTS,
};

static int some_node(struct sim *s)
{
    return (int)sim_between(s, 1, (uint64_t)s->nodes_count);
}

/* Another node than `node`. */
static int peer_of(struct sim *s, int node)
{
    int peer = (int)sim_between(s, 1, (uint64_t)s->nodes_count - 1);

    return peer >= node ? peer + 1 : peer;
}

static int some_primary(struct sim *s)
{
    otr_shard shard = (otr_shard)sim_below(s, s->shards_count);
    int node = (int)s->coord.shards[shard].descriptor.primary;

    return node == 0 ? some_node(s) : node;
}

static uint64_t fault_time(struct sim *s)
{
    return sim_chance(s, 50) ? sim_between(s, 5 * SIM_MS, 300 * SIM_MS) : sim_between(s, 300 * SIM_MS, 5000 * SIM_MS);
}

/* --- processes ---------------------------------------------------------------------------------------------------- */

static void start_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = &s->nodes[e->a];

    if (!n->alive) {
        node_start(s, n);
    }
}

static void start_later(struct sim *s, struct sim_node *n)
{
    if (!n->starting) {
        n->starting = true;
        sim_after(s, fault_time(s), 0, start_fire)->a = (uint64_t)n->id;
    }
}

static void crash(struct sim *s, int node, bool power)
{
    if (s->nodes[node].alive) {
        node_crash(s, &s->nodes[node], power);
    }
    start_later(s, &s->nodes[node]);
}

static void resume(struct sim *s, struct sim_node *n)
{
    struct sim_event *e;

    n->paused_until_us = 0;
    while ((e = n->waiting) != NULL && n->paused_until_us == 0) {
        n->waiting = e->next;
        if (n->waiting == NULL) {
            n->waiting_tail = &n->waiting;
        }
        sim_fire(s, e);
    }
}

static void resume_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = &s->nodes[e->a];

    if (n->alive && n->paused_until_us != 0 && n->paused_until_us <= s->now_us && n->incarnation == e->b) {
        sim_trace(s, "node %d goes on", n->id);
        resume(s, n);
    }
}

static void pause(struct sim *s, int node)
{
    struct sim_node *n = &s->nodes[node];
    uint64_t for_us = fault_time(s);
    struct sim_event *e;

    if (!n->alive || n->paused_until_us != 0) {
        return;
    }
    sim_trace(s, "node %d is paused for %" PRIu64 " ms", node, for_us / SIM_MS);
    n->paused_until_us = s->now_us + for_us;
    e = sim_after(s, for_us, 0, resume_fire);
    e->a = (uint64_t)node;
    e->b = n->incarnation;
}

/* Faults that destroy logs come seldom enough that the set can recover: otherwise only an operator could help. */
static bool may_lose_log(struct sim *s, int node)
{
    if (s->logs_lost >= 3 || s->now_us < s->log_lost_us + 6000 * SIM_MS) {
        return false;
    }
    for (uint32_t i = 0; i < s->shards_count; i++) {
        const struct descriptor *d = &s->coord.shards[i].descriptor;

        if (descriptor_in_sync(d, (otr_node)node) >= 0 && d->in_sync_count < 2) {
            return false;
        }
    }
    s->logs_lost++;
    s->log_lost_us = s->now_us;
    return true;
}

/* --- network ------------------------------------------------------------------------------------------------------ */

static void unblock_fire(struct sim *s, struct sim_event *e)
{
    net_block(s, (int)e->a, (int)e->b, false);
}

static void block(struct sim *s, int from, int to, uint64_t for_us)
{
    struct sim_event *e;

    net_block(s, from, to, true);
    e = sim_after(s, for_us, 0, unblock_fire);
    e->a = (uint64_t)from;
    e->b = (uint64_t)to;
}

static void allow_fire(struct sim *s, struct sim_event *e)
{
    net_refuse(s, (int)e->a, (int)e->b, false);
}

static void refuse(struct sim *s, int from, int to, uint64_t for_us)
{
    struct sim_event *e;

    net_refuse(s, from, to, true);
    e = sim_after(s, for_us, 0, allow_fire);
    e->a = (uint64_t)from;
    e->b = (uint64_t)to;
}

static void isolate(struct sim *s, int node, bool with_resets)
{
    uint64_t for_us = fault_time(s);

    sim_trace(s, "node %d is cut off%s for %" PRIu64 " ms", node, with_resets ? " by resets" : "", for_us / SIM_MS);
    for (int other = 1; other <= s->nodes_count; other++) {
        if (other != node && with_resets) {
            refuse(s, node, other, for_us);
            refuse(s, other, node, for_us);
        } else if (other != node) {
            block(s, node, other, for_us);
            block(s, other, node, for_us);
        }
    }
}

/* --- coordinator -------------------------------------------------------------------------------------------------- */

static void coord_up_fire(struct sim *s, struct sim_event *e)
{
    (void)e;
    if (s->coord.down) {
        coord_set_down(s, false);
    }
}

static void coord_steady_fire(struct sim *s, struct sim_event *e)
{
    (void)e;
    s->coord.flaky = false;
}

static void coord_reach_fire(struct sim *s, struct sim_event *e)
{
    s->nodes[e->a].coord_blocked = false;
}

static void coord_fault(struct sim *s, enum fault f)
{
    int node = some_node(s);

    switch (f) {
    case FAULT_COORD_DOWN:
        if (!s->coord.down) {
            coord_set_down(s, true);
            sim_after(s, fault_time(s), 0, coord_up_fire);
        }
        break;
    case FAULT_COORD_FLAKY:
        sim_trace(s, "coordinator becomes flaky");
        s->coord.flaky = true;
        sim_after(s, fault_time(s), 0, coord_steady_fire);
        break;
    case FAULT_COORD_CUT_OFF:
        sim_trace(s, "node %d is cut off from the coordinator", node);
        s->nodes[node].coord_blocked = true;
        sim_after(s, fault_time(s), 0, coord_reach_fire)->a = (uint64_t)node;
        break;
    case FAULT_SESSION:
        coord_session_kill(s, node);
        break;
    case FAULT_COORD_CUT_PRIMARY:
        node = some_primary(s);
        sim_trace(s, "node %d is cut off from the coordinator", node);
        s->nodes[node].coord_blocked = true;
        sim_after(s, fault_time(s), 0, coord_reach_fire)->a = (uint64_t)node;
        break;
    case FAULT_MOVE:
        coord_move(s, (otr_shard)sim_below(s, s->shards_count));
        break;
    default:
        coord_touch(s, (otr_shard)sim_below(s, s->shards_count));
        break;
    }
}

/* --- choosing ----------------------------------------------------------------------------------------------------- */

static void node_fault(struct sim *s, enum fault f)
{
    int node = some_node(s);

    switch (f) {
    case FAULT_KILL:
        crash(s, node, false);
        break;
    case FAULT_KILL_PRIMARY:
        crash(s, some_primary(s), false);
        break;
    case FAULT_POWER:
        crash(s, node, true);
        break;
    case FAULT_RESTART_ALL:
        for (int i = 1; i <= s->nodes_count; i++) {
            crash(s, i, sim_chance(s, 50));
        }
        break;
    case FAULT_PAUSE:
        pause(s, sim_chance(s, 50) ? node : some_primary(s));
        break;
    case FAULT_WIPE:
        if (s->nodes[node].alive && may_lose_log(s, node)) {
            crash(s, node, true);
            node_wipe(s, &s->nodes[node]);
        }
        break;
    default: /* FAULT_DISK */
        if (s->nodes[node].alive && may_lose_log(s, node)) {
            s->nodes[node].sync_fails = true;
        }
        break;
    }
}

static void quick_start_fire(struct sim *s, struct sim_event *e)
{
    if (!s->nodes[e->a].alive) {
        node_start(s, &s->nodes[e->a]);
    }
}

/* A primary that lives but looks dead to all, while another member has just begun anew: who may serve when? */
static void coup(struct sim *s)
{
    const struct descriptor *d = &s->coord.shards[sim_below(s, s->shards_count)].descriptor;
    int primary = (int)d->primary;
    int member = d->in_sync_count == 0 ? 0 : (int)d->in_sync[sim_below(s, d->in_sync_count)].node;

    if (primary == 0 || member == primary || !s->nodes[member].alive) {
        return;
    }
    node_crash(s, &s->nodes[member], false);
    sim_after(s, sim_between(s, SIM_MS, 10 * SIM_MS), 0, quick_start_fire)->a = (uint64_t)member;
    if (sim_chance(s, 50)) {
        s->nodes[primary].coord_blocked = true;
        sim_after(s, fault_time(s), 0, coord_reach_fire)->a = (uint64_t)primary;
    }
    isolate(s, primary, true);
}

static void net_fault(struct sim *s, enum fault f)
{
    int node = some_node(s);
    int peer = peer_of(s, node);
    uint64_t for_us = fault_time(s);

    switch (f) {
    case FAULT_ONE_WAY:
        sim_trace(s, "nothing from node %d reaches node %d for %" PRIu64 " ms", node, peer, for_us / SIM_MS);
        block(s, node, peer, for_us);
        break;
    case FAULT_ISOLATE:
        isolate(s, node, false);
        break;
    case FAULT_ISOLATE_PRIMARY:
        isolate(s, some_primary(s), sim_chance(s, 30));
        break;
    case FAULT_REFUSE:
        sim_trace(s, "node %d is refused by node %d for %" PRIu64 " ms", node, peer, for_us / SIM_MS);
        refuse(s, node, peer, for_us);
        break;
    case FAULT_REFUSE_NODE:
        isolate(s, node, true);
        break;
    case FAULT_COUP:
        coup(s);
        break;
    default: /* FAULT_BREAK */
        net_break(s, node, peer);
        break;
    }
}

static void fault(struct sim *s, enum fault f)
{
    switch (f) {
    case FAULT_KILL:
    case FAULT_KILL_PRIMARY:
    case FAULT_POWER:
    case FAULT_PAUSE:
    case FAULT_WIPE:
    case FAULT_DISK:
    case FAULT_RESTART_ALL:
        node_fault(s, f);
        break;
    case FAULT_ONE_WAY:
    case FAULT_ISOLATE:
    case FAULT_ISOLATE_PRIMARY:
    case FAULT_REFUSE:
    case FAULT_REFUSE_NODE:
    case FAULT_BREAK:
    case FAULT_COUP:
        net_fault(s, f);
        break;
    case FAULT_HANDOFF:
    case FAULT_STOP:
        handoff_ask(s, f == FAULT_STOP);
        break;
    case FAULT_ENGINE:
        handoff_engine(s, sim_chance(s, 60) ? some_primary(s) : some_node(s), fault_time(s));
        break;
    default:
        coord_fault(s, f);
        break;
    }
}

static void choose_fire(struct sim *s, struct sim_event *e)
{
    uint64_t sum = 0, drawn;

    (void)e;
    if (!s->faults) {
        return;
    }
    for (int i = FAULT_FIRST_EVENT; i < FAULTS; i++) {
        sum += s->weights[i];
    }
    sim_after(s, sim_between(s, SIM_MS, 2 * s->fault_interval_us), 0, choose_fire);
    drawn = sim_below(s, sum);
    for (int i = FAULT_FIRST_EVENT; i < FAULTS; i++) {
        if (drawn < s->weights[i]) {
            fault(s, (enum fault)i);
            return;
        }
        drawn -= s->weights[i];
    }
}

/* Nothing that serves data depends on reaching the coordinator (DESIGN 3.3). */
static void calm_down(struct sim *s)
{
    static const enum fault kept[] = {FAULT_COORD_DOWN, FAULT_COORD_FLAKY, FAULT_COORD_CUT_OFF,
                                      FAULT_SESSION,    FAULT_TOUCH,       FAULT_COORD_CUT_PRIMARY};

    for (int i = 0; i < FAULTS; i++) {
        s->weights[i] = i == FAULT_SLOW_WATCH ? s->weights[i] : 0;
    }
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        s->weights[kept[i]] = (uint32_t)sim_between(s, 1, 10);
    }
}

void faults_start(struct sim *s)
{
    uint32_t percent = (uint32_t)sim_between(s, 10, 80); /* of the kinds happen in this run */

    s->calm = sim_chance(s, 5);

    for (int i = FAULT_FIRST_EVENT; i < FAULTS; i++) {
        s->weights[i] = sim_chance(s, percent) ? (uint32_t)sim_between(s, 1, 10) : 0;
    }
    s->weights[FAULT_RESTART_ALL] = (s->weights[FAULT_RESTART_ALL] + 3) / 4;
    s->weights[FAULT_LOSS] = sim_chance(s, percent) ? (uint32_t)sim_between(s, 1, 50) : 0;
    s->weights[FAULT_DOUBLE] = sim_chance(s, percent) ? (uint32_t)sim_between(s, 1, 50) : 0;
    s->weights[FAULT_SLOW_WATCH] = sim_chance(s, percent) ? (uint32_t)sim_between(s, 1, 60) : 0;
    s->weights[FAULT_SLOW_SYNC] = sim_chance(s, percent) ? (uint32_t)sim_between(s, 1, 30) : 0;
    if (s->calm) {
        calm_down(s);
    }
    s->fault_interval_us =
        sim_chance(s, 30) ? sim_between(s, 40 * SIM_MS, 200 * SIM_MS) : sim_between(s, 200 * SIM_MS, 2000 * SIM_MS);
    /* In a calm run everybody is in sync before the first fault. */
    sim_after(s, s->calm ? 2000 * SIM_MS : sim_between(s, 0, 1500 * SIM_MS), 0, choose_fire);
}

void faults_end(struct sim *s)
{
    sim_trace(s, "faults end");
    s->calm = false;
    s->coord.flaky = false;
    if (s->coord.down) {
        coord_set_down(s, false);
    }
    for (int i = 1; i <= s->nodes_count; i++) {
        struct sim_node *n = &s->nodes[i];

        n->coord_blocked = false;
        n->sync_fails = false;
        if (n->alive && n->paused_until_us != 0) {
            resume(s, n);
        }
        for (int k = 1; k <= s->nodes_count; k++) {
            if (k != i) {
                net_block(s, i, k, false);
                net_refuse(s, i, k, false);
            }
        }
    }
    handoff_heal(s);
    for (int i = 1; i <= s->nodes_count; i++) {
        if (!s->nodes[i].alive) {
            node_start(s, &s->nodes[i]);
        }
    }
}
