/* Clients: one operation at a time each, tried again elsewhere with the same request id until it succeeds or patience
 * ends. A write whose outcome stayed unknown may or may not have taken effect; the checkers ask only for what was
 * acknowledged. */
#include "tests/simulation/sim.h"

enum {
    CLIENT_PATIENCE_US = 6000 * SIM_MS,
    CLIENT_CALM_US = 1500 * SIM_MS,      /* no write takes longer when only the coordinator is in trouble... */
    CLIENT_CALM_FROM_US = 4000 * SIM_MS, /* ...once all have heard of their shards */
};

static void attempt_start(struct sim *s, struct sim_client *c, uint64_t delay_us);

static void rest_fire(struct sim *s, struct sim_event *e);

static void op_end(struct sim *s, struct sim_client *c)
{
    if (s->calm && c->op == SIM_OP_WRITE && c->began_us > CLIENT_CALM_FROM_US && !s->excused[c->shard] &&
        s->excused_us[c->shard] < c->began_us && s->now_us - c->began_us > CLIENT_CALM_US) {
        sim_fail(s, "I7: a write to shard %u took %" PRIu64 " ms although only the coordinator was in trouble",
                 c->shard, (s->now_us - c->began_us) / SIM_MS);
    }
    c->op = SIM_OP_NONE;
    c->ops++;
    c->attempt++; /* what still comes is late */
    sim_after(s, sim_between(s, 100, s->rest_us), 0, rest_fire)->a = c->id;
}

/* --- at the node -------------------------------------------------------------------------------------------------- */

static void read_value(struct sim_shard *sh, struct sim_client *c)
{
    check_read(sh->sim, c, sh->values[c->key]);
    op_end(sh->sim, c);
}

static void try_read(struct sim_shard *sh, struct sim_client *c)
{
    switch (replica_read_right(sh->replica, node_now_ms(sh->sim, sh->node))) {
    case REPLICA_READ_OK:
        read_value(sh, c);
        break;
    case REPLICA_READ_NEED_DESCRIPTOR:
        coord_read_for_client(sh, c->id, c->attempt);
        break;
    case REPLICA_READ_WAIT:
    case REPLICA_READ_NOT_PRIMARY:
        clients_reply(sh->sim, c->id, c->attempt, OTR_NOTPRIMARY, 0, sh->node->id);
        break;
    }
}

void clients_read_confirmed(struct sim_shard *sh, uint32_t client, uint64_t attempt, const struct descriptor *shown)
{
    struct sim_client *c = &sh->sim->clients[client];

    if (c->attempt != attempt || c->op != SIM_OP_READ) {
        return;
    }
    if (replica_read_confirmed(sh->replica, shown)) {
        sh->sim->check.reads_by_descriptor++;
        read_value(sh, c);
    } else {
        clients_reply(sh->sim, client, attempt, OTR_NOTPRIMARY, 0, sh->node->id);
    }
}

static void arrive_fire(struct sim *s, struct sim_event *e)
{
    struct sim_client *c = &s->clients[e->a];
    struct sim_shard *sh = s->nodes[e->node].shards[c->shard];

    if (c->attempt != e->b || c->op == SIM_OP_NONE) {
        return;
    }
    if (sh == NULL) {
        clients_reply(s, c->id, c->attempt, OTR_NOTPRIMARY, 0, e->node);
    } else if (c->op == SIM_OP_READ) {
        try_read(sh, c);
    } else {
        sh->write_key = c->key;
        sh->write_value = c->value;
        shard_step(sh, &(struct replica_event){
                           .type = REPLICA_EV_WRITE,
                           .write = {.ticket = c->attempt << 8 | c->id,
                                     .time_ms = 1600000000000 + s->now_us / SIM_MS,
                                     .request_id = c->request_id},
                       });
    }
}

/* --- at the client ------------------------------------------------------------------------------------------------ */

static void reply_fire(struct sim *s, struct sim_event *e)
{
    struct sim_client *c = &s->clients[e->a];

    if (c->attempt != e->b || c->op == SIM_OP_NONE) {
        return;
    }
    if ((int)(e->c & 0xff) == 0) {
        op_end(s, c);
        return;
    }
    if ((int)(e->c & 0xff) == OTR_NOTPRIMARY) {
        c->target = 0;
    }
    attempt_start(s, c, sim_between(s, SIM_MS, 30 * SIM_MS));
}

void clients_reply(struct sim *s, uint32_t client, uint64_t attempt, int status, uint64_t index, int node)
{
    struct sim_client *c = &s->clients[client];
    struct sim_event *e;

    if (status == 0 && c->op == SIM_OP_WRITE && c->attempt == attempt) {
        uint64_t *floor = &s->check.shards[c->shard].floor[c->key];
        const struct sim_committed *at = &s->check.shards[c->shard].committed[index];

        s->check.acks++;
        if (clients_request_number(&at->id) != clients_request_number(&c->request_id)) {
            sim_fail(s, "I2: node %d acknowledges entry %" PRIu64 " of shard %u, which is not the write asked for",
                     node, index, c->shard);
        }
        *floor = index > *floor ? index : *floor;
    }
    e = sim_after(s, sim_between(s, 100, 2 * SIM_MS), 0, reply_fire);
    e->a = client;
    e->b = attempt;
    e->c = (uint64_t)(uint32_t)status;
}

static void timeout_fire(struct sim *s, struct sim_event *e)
{
    struct sim_client *c = &s->clients[e->a];

    if (c->attempt != e->b || c->op == SIM_OP_NONE) {
        return;
    }
    if (s->faults && s->now_us - c->began_us > CLIENT_PATIENCE_US) {
        op_end(s, c);
        return;
    }
    c->target = 0;
    attempt_start(s, c, 0);
}

static void attempt_fire(struct sim *s, struct sim_event *e)
{
    struct sim_client *c = &s->clients[e->a];
    struct sim_event *arrival;

    if (c->attempt != e->b || c->op == SIM_OP_NONE) {
        return;
    }
    if (c->target == 0 || sim_chance(s, s->wander_percent)) {
        c->target = (int)sim_between(s, 1, (uint64_t)s->nodes_count);
    }
    e = sim_after(s, sim_between(s, 200 * SIM_MS, 800 * SIM_MS), 0, timeout_fire);
    e->a = c->id;
    e->b = c->attempt;
    if (s->nodes[c->target].alive) {
        arrival = sim_after(s, sim_between(s, 100, 3 * SIM_MS), c->target, arrive_fire);
        arrival->a = c->id;
        arrival->b = c->attempt;
    }
}

static void attempt_start(struct sim *s, struct sim_client *c, uint64_t delay_us)
{
    struct sim_event *e;

    c->attempt++;
    e = sim_after(s, delay_us, 0, attempt_fire);
    e->a = c->id;
    e->b = c->attempt;
}

uint64_t clients_request_number(const struct otr_request_id *id)
{
    uint64_t number;

    memcpy(&number, id->bytes, sizeof number);
    return number;
}

static void rest_fire(struct sim *s, struct sim_event *e)
{
    struct sim_client *c = &s->clients[e->a];
    uint64_t number;

    if (!s->faults) {
        return; /* everything is to come to rest */
    }
    c->shard = (otr_shard)sim_below(s, s->shards_count);
    c->key = (uint32_t)sim_below(s, s->keys);
    c->op = sim_chance(s, s->read_percent) ? SIM_OP_READ : SIM_OP_WRITE;
    c->began_us = s->now_us;
    c->floor = s->check.shards[c->shard].floor[c->key];
    if (c->op == SIM_OP_WRITE) {
        c->value = ++s->values;
        number = ++s->request_ids;
        memcpy(c->request_id.bytes, &number, sizeof number);
    }
    attempt_start(s, c, 0);
}

void clients_start(struct sim *s)
{
    s->keys = sim_chance(s, 50) ? 1 : (uint32_t)sim_between(s, 1, SIM_KEYS);
    s->read_percent = (uint32_t)sim_between(s, 20, 70);
    s->wander_percent = sim_chance(s, 50) ? 5 : (uint32_t)sim_between(s, 5, 60);
    s->rest_us = sim_chance(s, 50) ? 30 * SIM_MS : sim_between(s, SIM_MS, 30 * SIM_MS);
    for (uint32_t i = 0; i < s->clients_count; i++) {
        s->clients[i].id = i;
        sim_after(s, sim_between(s, 0, 300 * SIM_MS), 0, rest_fire)->a = i;
    }
}

bool clients_idle(const struct sim *s)
{
    for (uint32_t i = 0; i < s->clients_count; i++) {
        if (s->clients[i].op != SIM_OP_NONE) {
            return false;
        }
    }
    return true;
}
