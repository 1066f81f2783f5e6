/* Every node dials every other; what it says travels on the connection that it dialled, in order. A blocked direction
 * keeps messages back until it is open again or the connection ends. When a connection ends, what was under way is lost
 * or arrives late, behind messages of the next connection even: that is where reordering comes from in a world of TCP.
 */
#include "tests/simulation/sim.h"

#include <stdlib.h>

enum {
    NET_DIAL_US = 50 * SIM_MS,
    NET_SILENCE_US = 3000 * SIM_MS, /* then a connection is given up */
};

void net_msg_free(struct sim_msg *msg)
{
    if (msg->seed != NULL) {
        free(msg->seed->ids);
        free(msg->seed);
    }
    free(msg->bytes);
    free(msg);
}

static struct sim_msg *msg_copy(const struct sim_msg *msg)
{
    struct sim_msg *copy = sim_alloc(sizeof *copy);

    *copy = *msg;
    if (msg->bytes != NULL) {
        copy->bytes = sim_alloc(msg->bytes_count);
        memcpy(copy->bytes, msg->bytes, msg->bytes_count);
    }
    return copy;
}

/* --- what the owner of a connection is told ----------------------------------------------------------------------- */

static void tell_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = &s->nodes[e->node];

    for (uint32_t i = 0; i < s->shards_count && n->alive; i++) {
        if (n->shards[i] != NULL) {
            shard_step(
                n->shards[i],
                &(struct replica_event){
                    .type = REPLICA_EV_PEER,
                    .peer = {.node = (otr_node)e->a, .state = (enum replica_peer_state)e->b, .incarnation = e->c},
                });
        }
    }
}

static void tell(struct sim *s, int from, int to, enum replica_peer_state state, uint64_t incarnation)
{
    struct sim_event *e;

    if (!s->nodes[from].alive) {
        return;
    }
    e = sim_after(s, 0, from, tell_fire);
    e->a = (uint64_t)to;
    e->b = state;
    e->c = incarnation;
}

void net_brief(struct sim *s, struct sim_shard *sh)
{
    for (int to = 1; to <= s->nodes_count; to++) {
        const struct sim_conn *c = &s->conns[sh->node->id][to];

        if (c->up) {
            shard_step(sh, &(struct replica_event){
                               .type = REPLICA_EV_PEER,
                               .peer = {.node = (otr_node)to, .state = REPLICA_PEER_UP, .incarnation = c->peer},
                           });
        }
    }
}

/* --- dialling ----------------------------------------------------------------------------------------------------- */

static void dial(struct sim *s, int from, int to, uint64_t delay_us);

static void dial_fire(struct sim *s, struct sim_event *e)
{
    int from = e->node, to = (int)e->a;
    struct sim_conn *c = &s->conns[from][to];
    const struct sim_node *peer = &s->nodes[to];
    bool silent = c->blocked || s->conns[to][from].blocked || peer->host_down;

    c->dialling = false;
    if (c->up) {
        return;
    }
    if (silent || (peer->alive && !c->refused && peer->paused_until_us > s->now_us)) {
        dial(s, from, to, 4 * NET_DIAL_US);
    } else if (peer->alive && !c->refused) {
        c->up = true;
        c->number++;
        c->peer = peer->incarnation;
        c->last_us = s->now_us;
        c->told_dead = false;
        tell(s, from, to, REPLICA_PEER_UP, c->peer);
    } else {
        if (c->peer != 0 && !c->told_dead) {
            c->told_dead = true;
            sim_trace(s, "node %d: node %d refuses connections", from, to);
            tell(s, from, to, REPLICA_PEER_DEAD, c->peer);
        }
        dial(s, from, to, NET_DIAL_US);
    }
}

static void dial(struct sim *s, int from, int to, uint64_t delay_us)
{
    struct sim_conn *c = &s->conns[from][to];

    if (c->dialling || !s->nodes[from].alive) {
        return;
    }
    c->dialling = true;
    sim_after(s, delay_us, from, dial_fire)->a = (uint64_t)to;
}

bool net_break(struct sim *s, int from, int to)
{
    struct sim_conn *c = &s->conns[from][to];

    if (!c->up) {
        return false;
    }
    c->up = false;
    c->told_dead = false;
    if (sim_chance(s, 50)) {
        c->lost = c->number;
    }
    tell(s, from, to, REPLICA_PEER_DOWN, c->peer);
    dial(s, from, to, sim_between(s, 100, 2 * SIM_MS));
    return true;
}

/* --- messages ----------------------------------------------------------------------------------------------------- */

static void msg_drop(struct sim *s, struct sim_event *e)
{
    (void)s;
    if (e->p != NULL) {
        net_msg_free(e->p);
        e->p = NULL;
    }
}

static void msg_fire(struct sim *s, struct sim_event *e)
{
    int from = (int)e->a, to = e->node;
    struct sim_conn *c = &s->conns[from][to];
    struct sim_msg *msg = e->p;

    if (e->b <= c->lost) {
        return;
    }
    if (c->blocked) {
        struct sim_event *held = sim_alloc(sizeof *held);

        *held = *e;
        e->p = NULL;
        c->held = sim_grow(c->held, &c->held_capacity, c->held_count, sizeof(struct sim_event *));
        c->held[c->held_count++] = held;
        return;
    }
    if (s->nodes[to].shards[msg->shard] != NULL) {
        shard_deliver(s->nodes[to].shards[msg->shard], from, msg);
    }
}

static void post(struct sim *s, int from, int to, struct sim_msg *msg, uint64_t at_us)
{
    const struct sim_conn *c = &s->conns[from][to];
    struct sim_event *e = sim_after(s, at_us - s->now_us, to, msg_fire);

    e->incarnation = c->peer; /* the process that we are connected to */
    e->drop = msg_drop;
    e->a = (uint64_t)from;
    e->b = c->number;
    e->p = msg;
}

bool net_up(const struct sim *s, int from, int to)
{
    return s->conns[from][to].up;
}

bool net_send(struct sim *s, int from, int to, struct sim_msg *msg)
{
    struct sim_conn *c = &s->conns[from][to];
    uint64_t at_us = s->now_us + sim_between(s, s->delay_us / 2, s->delay_us + s->delay_us / 2);

    if (!c->up) {
        net_msg_free(msg);
        return false;
    }
    s->messages++;
    if (s->nodes[from].shards[msg->shard] != NULL && faults_rate(s, FAULT_LOSS, 1000)) {
        faults_hit_shard(s, FAULT_LOSS, s->nodes[from].shards[msg->shard]);
        at_us += sim_between(s, 0, 200 * SIM_MS); /* a lost packet, sent again */
    }
    if (s->now_us < c->slow_until_us) {
        at_us += c->slow_us;
    }
    if (at_us < c->last_us) {
        at_us = c->last_us;
    }
    c->last_us = at_us;
    if (msg->kind == SIM_MSG_REPLICA && s->nodes[from].shards[msg->shard] != NULL &&
        faults_rate(s, FAULT_DOUBLE, 1000)) {
        faults_hit_shard(s, FAULT_DOUBLE, s->nodes[from].shards[msg->shard]);
        post(s, from, to, msg_copy(msg), at_us + sim_between(s, 0, sim_chance(s, 90) ? 300 * SIM_MS : 5000 * SIM_MS));
    }
    post(s, from, to, msg, at_us);
    return true;
}

/* --- faults ------------------------------------------------------------------------------------------------------- */

static void silence_fire(struct sim *s, struct sim_event *e)
{
    int from = e->node, to = (int)e->a;
    const struct sim_conn *c = &s->conns[from][to];

    if (c->up && c->blocked && c->number == e->b) {
        (void)net_break(s, from, to);
    }
}

void net_block(struct sim *s, int from, int to, bool blocked)
{
    struct sim_conn *c = &s->conns[from][to];

    if (c->blocked == blocked) {
        return;
    }
    c->blocked = blocked;
    if (blocked && s->nodes[from].alive) {
        struct sim_event *e = sim_after(s, NET_SILENCE_US, from, silence_fire);

        e->a = (uint64_t)to;
        e->b = c->number;
    }
    if (blocked) {
        return;
    }
    for (size_t i = 0; i < c->held_count; i++) {
        struct sim_event *held = c->held[i];
        struct sim_event *e = sim_after(s, sim_below(s, SIM_MS), to, msg_fire);

        if (c->last_us > e->at_us) {
            c->last_us = e->at_us;
        }
        e->at_us = s->now_us; /* in order: equal times keep the order of their making */
        e->incarnation = held->incarnation;
        e->drop = msg_drop;
        e->a = held->a;
        e->b = held->b;
        e->p = held->p;
        free(held);
    }
    c->held_count = 0;
}

void net_refuse(struct sim *s, int from, int to, bool refused)
{
    s->conns[from][to].refused = refused;
    if (refused) {
        (void)net_break(s, from, to);
    }
}

static void break_fire(struct sim *s, struct sim_event *e)
{
    int from = e->node, to = (int)e->a;

    if (s->conns[from][to].number == e->b) {
        (void)net_break(s, from, to);
    }
}

static void break_soon(struct sim *s, int from, int to, uint64_t delay_us)
{
    struct sim_event *e = sim_after(s, delay_us, from, break_fire);

    e->a = (uint64_t)to;
    e->b = s->conns[from][to].number;
}

void net_process_died(struct sim *s, int node)
{
    for (int other = 1; other <= s->nodes_count; other++) {
        struct sim_conn *out = &s->conns[node][other];
        struct sim_conn *in = &s->conns[other][node];

        if (other == node) {
            continue;
        }
        out->up = false;
        out->dialling = false;
        out->peer = 0;
        if (s->nodes[node].host_down || sim_chance(s, 30)) {
            out->lost = out->number;
        }
        if (in->up && s->nodes[other].alive) {
            break_soon(s, other, node, s->nodes[node].host_down ? NET_SILENCE_US : sim_between(s, 100, SIM_MS));
        }
    }
}

void net_process_started(struct sim *s, int node)
{
    for (int other = 1; other <= s->nodes_count; other++) {
        struct sim_conn *in = &s->conns[other][node];

        if (other == node) {
            continue;
        }
        dial(s, node, other, sim_between(s, SIM_MS, 10 * SIM_MS));
        if (in->up && in->peer != s->nodes[node].incarnation && s->nodes[other].alive) {
            break_soon(s, other, node, sim_between(s, 100, 5 * SIM_MS)); /* what it sends meets a reset */
        }
    }
}

void net_start(struct sim *s)
{
    (void)s; /* processes dial when they start */
}

void net_free(struct sim *s)
{
    for (int from = 1; from <= s->nodes_count; from++) {
        for (int to = 1; to <= s->nodes_count; to++) {
            struct sim_conn *c = &s->conns[from][to];

            for (size_t i = 0; i < c->held_count; i++) {
                net_msg_free(c->held[i]->p);
                free(c->held[i]);
            }
            free(c->held);
        }
    }
}
