/* Clients: one operation at a time each, tried again elsewhere with the same request id until it succeeds or patience
 * ends. What a client saw of each operation is its history, which check_linear.c judges. A write that was never
 * answered may or may not have taken effect; one of which every attempt was certainly refused may not (PROTOCOL Q3).
 * Now and then a request that was answered long ago arrives once more. */
#include "tests/simulation/sim.h"

#include <stdlib.h>

enum {
    CLIENT_CALM_US = 1500 * SIM_MS,      /* no write takes longer when only the coordinator is in trouble... */
    CLIENT_CALM_FROM_US = 4000 * SIM_MS, /* ...once all have heard of their shards */
    CLIENT_GHOST_US = 1500 * SIM_MS,     /* how late a request arrives once more, at most */
};
#define CLIENT_GHOST 0xFFFFFFFFULL /* an attempt that nobody waits for */

static void attempt_start(struct sim *s, struct sim_client *c, uint64_t delay_us);
static void rest_fire(struct sim *s, struct sim_event *e);

/* --- what was seen ------------------------------------------------------------------------------------------------ */

static void note_seen(struct sim *s, const struct sim_client *c, uint64_t value, uint64_t end_us)
{
    s->check.history =
        sim_grow(s->check.history, &s->check.history_capacity, s->check.history_count, sizeof *s->check.history);
    s->check.history[s->check.history_count++] = (struct sim_seen){.shard = c->shard,
                                                                   .key = c->key,
                                                                   .write = c->op == SIM_OP_WRITE,
                                                                   .value = value,
                                                                   .begin_us = c->began_us,
                                                                   .end_us = end_us};
}

static void check_calm(struct sim *s, const struct sim_client *c)
{
    if (s->calm && c->op == SIM_OP_WRITE && c->began_us > CLIENT_CALM_FROM_US && !s->excused[c->shard] &&
        s->excused_us[c->shard] < c->began_us && s->few_us[c->shard] < c->began_us &&
        s->now_us - c->began_us > CLIENT_CALM_US) {
        sim_fail(s, "I7: a write to shard %u took %" PRIu64 " ms although only the coordinator was in trouble",
                 c->shard, (s->now_us - c->began_us) / SIM_MS);
    }
}

static void op_end(struct sim *s, struct sim_client *c)
{
    c->op = SIM_OP_NONE;
    c->attempt++; /* what still comes is late */
    s->counts.operations++;
    if (s->last) {
        s->last_left--;
    }
    sim_after(s, sim_between(s, 100, s->rest_us), 0, rest_fire)->a = c->id;
}

static void ghost_later(struct sim *s, const struct sim_client *c);

static void op_done(struct sim *s, struct sim_client *c, uint64_t value)
{
    note_seen(s, c, value, s->now_us);
    check_calm(s, c);
    if (c->op == SIM_OP_WRITE && s->faults && sim_chance(s, s->ghost_percent)) {
        ghost_later(s, c);
    }
    op_end(s, c);
}

static void op_given_up(struct sim *s, struct sim_client *c)
{
    check_calm(s, c);
    if (c->op == SIM_OP_WRITE && c->uncertain) {
        sim_reached(s, SIM_WRITE_UNANSWERED);
        note_seen(s, c, c->value, UINT64_MAX);
    } else if (c->op == SIM_OP_WRITE) {
        sim_reached(s, SIM_WRITE_REFUSED_FOR_GOOD);
        check_refused(s, &c->request_id);
    }
    op_end(s, c);
}

/* --- at the node -------------------------------------------------------------------------------------------------- */

/* The answer to a read leaves at once: when it arrives the right to give it may be gone, which does no harm. */
static void read_value(struct sim_shard *sh, struct sim_client *c)
{
    struct sim *s = sh->sim;

    if (s->now_us < c->no_way_from[sh->node->id] || s->now_us < c->reset[sh->node->id]) {
        return;
    }
    check_read(sh, c, sh->values[c->key]);
    if (sh->node->disk_full) {
        sim_reached(s, SIM_SERVED_WITH_FULL_DISK);
    }
    op_done(s, c, sh->values[c->key].value);
}

static void try_read(struct sim_shard *sh, struct sim_client *c)
{
    switch (replica_read_right(sh->replica, node_now_ms(sh->sim, sh->node))) {
    case REPLICA_READ_OK:
        sim_reached(sh->sim, SIM_READ_BY_GRANTS);
        read_value(sh, c);
        break;
    case REPLICA_READ_NEED_DESCRIPTOR:
        coord_read_for_client(sh, c->id, c->attempt);
        break;
    case REPLICA_READ_WAIT:
        sim_reached(sh->sim, SIM_READ_WAITS);
        clients_reply(sh->sim, c->id, c->attempt, OTR_NOTPRIMARY, 0, sh->node->id);
        break;
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
        sim_reached(sh->sim, SIM_READ_BY_DESCRIPTOR);
        read_value(sh, c);
    } else {
        sim_reached(sh->sim, SIM_READ_DENIED);
        clients_reply(sh->sim, client, attempt, OTR_NOTPRIMARY, 0, sh->node->id);
    }
}

static void write_step(struct sim_shard *sh, uint32_t client, uint64_t attempt, uint32_t key, uint64_t value,
                       const struct otr_request_id *id)
{
    sh->write_key = key;
    sh->write_value = value;
    shard_step(sh, &(struct replica_event){
                       .type = REPLICA_EV_WRITE,
                       .write = {.ticket = attempt << 8 | client,
                                 .time_ms = SIM_WALL_CLOCK_MS + sh->sim->now_us / SIM_MS,
                                 .request_id = *id},
                   });
}

static void arrive_fire(struct sim *s, struct sim_event *e)
{
    struct sim_client *c = &s->clients[e->a];
    struct sim_shard *sh = s->nodes[e->node].shards[c->shard];

    if (c->attempt != e->b || c->op == SIM_OP_NONE || s->now_us - c->attempt_began_us > SIM_STALE_US) {
        return;
    }
    if (sh == NULL) {
        clients_reply(s, c->id, c->attempt, OTR_NOTPRIMARY, 0, e->node);
    } else if (c->op == SIM_OP_READ) {
        try_read(sh, c);
    } else {
        write_step(sh, c->id, c->attempt, c->key, c->value, &c->request_id);
    }
}

/* --- once more ---------------------------------------------------------------------------------------------------- */

struct ghost {
    otr_shard shard;
    uint32_t client, key;
    uint64_t value, sent_us;
    struct otr_request_id id;
};

static void ghost_drop(struct sim *s, struct sim_event *e)
{
    (void)s;
    free(e->p);
    e->p = NULL;
}

static void ghost_fire(struct sim *s, struct sim_event *e)
{
    const struct ghost *g = e->p;
    struct sim_node *n = &s->nodes[e->a]; /* whatever process there is now */
    struct sim_shard *sh = n->alive && n->paused_until_us == 0 ? n->shards[g->shard] : NULL;
    uint64_t duplicates = s->counts.duplicates;

    if (sh == NULL || s->now_us - g->sent_us > SIM_STALE_US) {
        return;
    }
    write_step(sh, g->client, CLIENT_GHOST, g->key, g->value, &g->id);
    if (s->counts.duplicates != duplicates) {
        sim_reached(s, SIM_WRITE_DUPLICATE_GHOST);
    }
}

static void ghost_later(struct sim *s, const struct sim_client *c)
{
    int target = sim_chance(s, 50) ? c->target : (int)alter_truth(s, c->shard)->descriptor.primary;
    struct ghost *g;
    struct sim_event *e;

    if (target == 0 || !s->nodes[target].alive) {
        return;
    }
    g = sim_alloc(sizeof *g);
    *g = (struct ghost){.shard = c->shard,
                        .client = c->id,
                        .key = c->key,
                        .value = c->value,
                        .sent_us = c->began_us,
                        .id = c->request_id};
    e = sim_after(s, sim_below(s, CLIENT_GHOST_US), 0, ghost_fire);
    e->a = (uint64_t)target;
    e->p = g;
    e->drop = ghost_drop;
}

/* --- at the client ------------------------------------------------------------------------------------------------ */

static void reply_fire(struct sim *s, struct sim_event *e)
{
    struct sim_client *c = &s->clients[e->a];
    int status = (int)(e->c & 0xff);

    if (c->attempt != e->b || c->op == SIM_OP_NONE) {
        return;
    }
    if (status == 0) {
        op_done(s, c, c->value);
        return;
    }
    c->uncertain = c->uncertain || status == OTR_UNKNOWN;
    if (s->faults && s->now_us - c->began_us > SIM_PATIENCE_US) {
        op_given_up(s, c);
        return;
    }
    if (status == OTR_NOTPRIMARY || status == OTR_UNREACHABLE) {
        c->target = 0;
    }
    attempt_start(s, c, sim_between(s, SIM_MS, 30 * SIM_MS));
}

static void note_acked(struct sim *s, const struct sim_client *c, uint64_t index, int node)
{
    uint64_t *floor = &s->check.shards[c->shard].floor[c->key];
    const struct sim_committed *at = check_entry(s, c->shard, index);
    const struct sim_shard *sh = s->nodes[node].shards[c->shard];

    s->counts.acks++;
    if (s->coord.down) {
        sim_reached(s, SIM_SERVED_WITHOUT_COORDINATOR);
    }
    if (s->coord.past[c->shard]) {
        sim_reached(s, SIM_SERVED_WHILE_ROLLED_BACK);
    }
    if (sh != NULL && check_dead(s, c->shard, check_position(sh, index))) {
        return; /* mode async: lost already, and nobody knows it yet */
    }
    if (at == NULL || clients_request_number(&at->id) != clients_request_number(&c->request_id)) {
        sim_fail(s, "I2: node %d acknowledges entry %" PRIu64 " of shard %u, which is not the write asked for", node,
                 index, c->shard);
    }
    *floor = index > *floor ? index : *floor;
}

void clients_reply(struct sim *s, uint32_t client, uint64_t attempt, int status, uint64_t index, int node)
{
    struct sim_client *c = &s->clients[client];
    struct sim_event *e;

    if (status == 0 && c->op == SIM_OP_WRITE && c->attempt == attempt) {
        note_acked(s, c, index, node);
    }
    if (s->now_us < c->no_way_from[node]) {
        return;
    }
    e = sim_after(s, sim_between(s, 100, 2 * SIM_MS), 0, reply_fire);
    e->a = client;
    e->b = attempt;
    e->c = (uint64_t)(uint32_t)(s->now_us < c->reset[node] ? OTR_UNKNOWN : status);
}

static void timeout_fire(struct sim *s, struct sim_event *e)
{
    struct sim_client *c = &s->clients[e->a];

    if (c->attempt != e->b || c->op == SIM_OP_NONE) {
        return;
    }
    c->uncertain = true;
    if (s->faults && s->now_us - c->began_us > SIM_PATIENCE_US) {
        op_given_up(s, c);
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
    c->attempt_began_us = s->now_us;
    if (!s->nodes[c->target].alive || s->now_us < c->reset[c->target]) {
        clients_reply(s, c->id, c->attempt, OTR_UNREACHABLE, 0, 0); /* refused: certain */
        return;
    }
    e = sim_after(s, sim_between(s, 200 * SIM_MS, 800 * SIM_MS), 0, timeout_fire);
    e->a = c->id;
    e->b = c->attempt;
    if (s->now_us >= c->no_way_to[c->target]) {
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

static void op_start(struct sim *s, struct sim_client *c, enum sim_op op, otr_shard shard, uint32_t key)
{
    c->shard = shard;
    c->key = key;
    c->op = op;
    c->began_us = s->now_us;
    c->uncertain = false;
    c->floor = s->check.shards[shard].floor[key];
    if (op == SIM_OP_WRITE) {
        uint64_t number = ++s->request_ids;

        c->value = ++s->values;
        memcpy(c->request_id.bytes, &number, sizeof number);
    }
    attempt_start(s, c, 0);
}

static void rest_fire(struct sim *s, struct sim_event *e)
{
    struct sim_client *c = &s->clients[e->a];

    if (c->op != SIM_OP_NONE) {
        return;
    }
    if (s->last && s->last_next < 2 * s->shards_count) {
        uint32_t next = s->last_next++;

        op_start(s, c, next % 2 == 0 ? SIM_OP_WRITE : SIM_OP_READ, next / 2, 0);
    } else if (s->faults) { /* else everything is to come to rest */
        enum sim_op op = sim_chance(s, s->read_percent) ? SIM_OP_READ : SIM_OP_WRITE;
        otr_shard shard = (otr_shard)sim_below(s, s->shards_count);

        op_start(s, c, op, shard, (uint32_t)sim_below(s, s->keys));
    }
}

/* --- beginning and end -------------------------------------------------------------------------------------------- */

void clients_start(struct sim *s)
{
    s->keys = sim_chance(s, 50) ? 1 : (uint32_t)sim_between(s, 1, SIM_KEYS);
    s->read_percent = (uint32_t)sim_between(s, 20, 70);
    s->wander_percent = sim_chance(s, 50) ? 5 : (uint32_t)sim_between(s, 5, 60);
    s->ghost_percent = sim_chance(s, 50) ? 0 : (uint32_t)sim_between(s, 1, 30);
    s->rest_us = sim_chance(s, 50) ? 30 * SIM_MS : sim_between(s, SIM_MS, 30 * SIM_MS);
    if (sim_chance(s, 10)) { /* hardly ever anything to write: what else makes things durable? */
        s->rest_us = 500 * SIM_MS;
    }
    for (uint32_t i = 0; i < s->clients_count; i++) {
        s->clients[i].id = i;
        sim_after(s, sim_between(s, 0, 300 * SIM_MS), 0, rest_fire)->a = i;
    }
}

void clients_last(struct sim *s)
{
    s->last = true;
    s->last_left = 2 * s->shards_count;
    for (uint32_t i = 0; i < s->clients_count; i++) {
        sim_after(s, SIM_MS, 0, rest_fire)->a = i;
    }
}

bool clients_last_done(struct sim *s)
{
    return s->last_left == 0;
}

void clients_end(struct sim *s)
{
    for (uint32_t i = 0; i < s->clients_count; i++) {
        if (s->clients[i].op == SIM_OP_WRITE) {
            note_seen(s, &s->clients[i], s->clients[i].value, UINT64_MAX);
        }
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
