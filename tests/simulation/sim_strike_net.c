/* Faults of the network, between nodes and between clients and nodes. */
#include "tests/simulation/sim.h"

/* Another node than `node`. */
static int peer_of(struct sim *s, int node)
{
    int peer = (int)sim_between(s, 1, (uint64_t)s->nodes_count - 1);

    return peer >= node ? peer + 1 : peer;
}

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

void strike_isolate(struct sim *s, int node, bool with_resets)
{
    uint64_t for_us = faults_time(s);

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

static void quick_start_fire(struct sim *s, struct sim_event *e)
{
    if (!s->nodes[e->a].alive) {
        node_start(s, &s->nodes[e->a]);
    }
}

static void coord_reach_fire(struct sim *s, struct sim_event *e)
{
    s->nodes[e->a].coord_blocked = false;
}

/* A primary that lives but looks dead to all, while another member has just begun anew: who may serve when? */
bool strike_coup(struct sim *s, int node, otr_shard shard, unsigned anew)
{
    struct descriptor now = alter_truth(s, shard)->descriptor;
    const struct descriptor *d = &now;
    int primary = (int)d->primary;
    int member = descriptor_in_sync(d, (otr_node)node) >= 0 ? node : 0;

    if (member == 0 && d->in_sync_count > 0) {
        member = (int)d->in_sync[sim_below(s, d->in_sync_count)].node;
    }
    if (primary == 0 || member == 0 || member == primary || !s->nodes[member].alive) {
        return false;
    }
    faults_hit(s, FAULT_COUP, primary);
    for (uint32_t i = 0; i < d->in_sync_count && anew != 2; i++) {
        int other = (int)d->in_sync[i].node;

        if (other != member && (other == primary || anew == 0 || !s->nodes[other].alive)) {
            continue;
        }
        faults_hit(s, FAULT_COUP, other);
        node_crash(s, &s->nodes[other], false);
        s->nodes[other].host_down = false;
        sim_after(s, sim_between(s, SIM_MS, 10 * SIM_MS), 0, quick_start_fire)->a = (uint64_t)other;
    }
    if (sim_chance(s, anew == 2 ? 80 : 50)) {
        s->coup_until_us = s->now_us + 400 * SIM_MS;
    }
    if (sim_chance(s, anew == 2 ? 80 : 50)) {
        s->nodes[primary].coord_blocked = true;
        sim_after(s, faults_time(s), 0, coord_reach_fire)->a = (uint64_t)primary;
    }
    strike_isolate(s, primary, true);
    return true;
}

static bool slow_down(struct sim *s, int node)
{
    uint64_t for_us = faults_time(s), by_us = sim_between(s, 10 * SIM_MS, 500 * SIM_MS);

    sim_trace(s, "what node %d says takes %" PRIu64 " ms longer for %" PRIu64 " ms", node, by_us / SIM_MS,
              for_us / SIM_MS);
    for (int other = 1; other <= s->nodes_count; other++) {
        s->conns[node][other].slow_us = by_us;
        s->conns[node][other].slow_until_us = s->now_us + for_us;
    }
    return true;
}

bool strike_net(struct sim *s, enum fault f, int node)
{
    int peer = peer_of(s, node);
    uint64_t for_us = faults_time(s);

    if (f == FAULT_COUP) {
        return strike_coup(s, node, (otr_shard)sim_below(s, s->shards_count), (unsigned)sim_below(s, 3));
    }
    if (f == FAULT_BREAK) {
        if (!net_break(s, node, peer)) {
            return false;
        }
        faults_hit(s, f, node);
        return true;
    }
    faults_hit(s, f, node);
    switch (f) {
    case FAULT_ONE_WAY:
        if (sim_chance(s, 50)) {
            sim_trace(s, "nothing from node %d reaches node %d for %" PRIu64 " ms", node, peer, for_us / SIM_MS);
            block(s, node, peer, for_us);
        } else {
            sim_trace(s, "nothing from node %d reaches node %d for %" PRIu64 " ms", peer, node, for_us / SIM_MS);
            block(s, peer, node, for_us);
        }
        break;
    case FAULT_PAIR:
        sim_trace(s, "nodes %d and %d do not hear each other for %" PRIu64 " ms", node, peer, for_us / SIM_MS);
        block(s, node, peer, for_us);
        block(s, peer, node, for_us);
        break;
    case FAULT_ISOLATE:
        strike_isolate(s, node, false);
        break;
    case FAULT_ISOLATE_PRIMARY:
        strike_isolate(s, node, sim_chance(s, 30));
        break;
    case FAULT_REFUSE:
        sim_trace(s, "node %d is refused by node %d for %" PRIu64 " ms", node, peer, for_us / SIM_MS);
        refuse(s, node, peer, for_us);
        break;
    case FAULT_REFUSE_NODE:
        strike_isolate(s, node, true);
        break;
    default: /* FAULT_DELAY */
        (void)slow_down(s, node);
        break;
    }
    return true;
}

/* --- clients ------------------------------------------------------------------------------------------------------ */

bool strike_client(struct sim *s, enum fault f)
{
    struct sim_client *c = &s->clients[sim_below(s, s->clients_count)];
    uint64_t until_us = s->now_us + faults_time(s);
    bool all = sim_chance(s, 20);

    for (int node = 1; node <= s->nodes_count; node++) {
        if (!all && node != 1 + (int)(until_us % (uint64_t)s->nodes_count)) {
            continue;
        }
        if (f == FAULT_CLIENT_RESET) {
            c->reset[node] = until_us;
        }
        if (f == FAULT_CLIENT_CUT) {
            c->no_way_to[node] = until_us;
        }
        if (f == FAULT_CLIENT_CUT || f == FAULT_CLIENT_DEAF) {
            c->no_way_from[node] = until_us;
        }
    }
    sim_trace(s, "client %u: %s with %s for %" PRIu64 " ms", c->id, counts_fault_name(f), all ? "all" : "one",
              (until_us - s->now_us) / SIM_MS);
    return true;
}
