/* Seeds: all live points of a shard as of its commit index, from a primary to a learner, in two messages: what comes
 * between them is where it breaks off. */
#include "tests/simulation/sim.h"

#include <stdio.h>
#include <stdlib.h>

enum { SEED_PATIENCE_US = 2000 * SIM_MS };

struct ids {
    struct sim_id *items;
    size_t count, capacity;
};

static void ids_add(const struct replica_entry *e, uint32_t outcome, void *data)
{
    struct ids *ids = data;

    ids->items = sim_grow(ids->items, &ids->capacity, ids->count, sizeof *ids->items);
    memset(&ids->items[ids->count], 0, sizeof ids->items[0]); /* padding goes to the disk, too */
    ids->items[ids->count].entry = *e;
    ids->items[ids->count].outcome = outcome;
    ids->count++;
}

static void seed_send(struct sim_shard *sh, int to, enum sim_msg_kind kind, uint64_t number, struct sim_seed *seed)
{
    struct sim_msg *msg = sim_alloc(sizeof *msg);

    msg->kind = kind;
    msg->shard = sh->id;
    msg->log_id = number;
    msg->seed = seed;
    (void)net_send(sh->sim, sh->node->id, to, msg);
}

static void seed_drop(struct sim *s, struct sim_event *e)
{
    struct sim_seed *seed = e->p;

    (void)s;
    if (seed != NULL) {
        free(seed->ids);
        free(seed);
        e->p = NULL;
    }
}

static void seed_rest_fire(struct sim *s, struct sim_event *e)
{
    struct sim_seed *seed = e->p;
    struct sim_shard *sh = s->nodes[e->node].shards[seed->shard];

    if (sh != NULL && sh->seed_out[e->a] == e->b) {
        seed_send(sh, (int)e->a, SIM_MSG_SEED_REST, e->b, seed);
        e->p = NULL;
    }
}

void seed_out_end(struct sim_shard *sh, int to, bool ok, uint64_t log_id, struct otr_position position)
{
    sh->seed_out[to] = 0;
    shard_step(sh, &(struct replica_event){
                       .type = REPLICA_EV_SEED_SENT,
                       .seed_sent = {.to = (otr_node)to, .ok = ok, .log_id = log_id, .position = position},
                   });
}

static void seed_out_timeout(struct sim *s, struct sim_event *e)
{
    struct sim_shard *sh = s->nodes[e->node].shards[e->c];

    if (sh != NULL && sh->seed_out[e->a] == e->b) {
        seed_out_end(sh, (int)e->a, false, 0, (struct otr_position){0});
    }
}

void seed_start(struct sim_shard *sh, otr_node to)
{
    struct sim *s = sh->sim;
    struct sim_seed *seed = sim_alloc(sizeof *seed);
    struct sim_seed *head = sim_alloc(sizeof *head);
    struct replica_status status;
    struct ids ids = {0};
    struct sim_event *e;
    const struct sim_entry *last = shard_entry(sh, sh->commit);

    replica_status(sh->replica, node_now_ms(s, sh->node), &status);
    replica_requests(sh->replica, ids_add, &ids);
    *seed = (struct sim_seed){.shard = sh->id,
                              .generation = status.descriptor->generation,
                              .epoch = status.epoch,
                              .incarnation = sh->node->incarnation,
                              .position = last != NULL ? last->position : sh->base,
                              .ids = ids.items,
                              .ids_count = ids.count};
    memcpy(seed->values, sh->values, sizeof seed->values);
    *head = *seed;
    head->ids = NULL;
    head->ids_count = 0;
    sh->seed_out[to] = ++sh->seeds;
    s->counts.seeds_sent++;
    if (sh->base.index > 0) {
        sim_reached(s, SIM_SEED_ON);
    }
    sim_trace(s, "node %d shard %u: seeds node %u with all up to %" PRIu64, sh->node->id, sh->id, to,
              seed->position.index);
    seed_send(sh, (int)to, SIM_MSG_SEED_BEGIN, sh->seeds, head);
    e = sim_after(s, sim_between(s, 100, 60 * SIM_MS), sh->node->id, seed_rest_fire);
    e->a = to;
    e->b = sh->seeds;
    e->p = seed;
    e->drop = seed_drop;
    e = sim_after(s, SEED_PATIENCE_US, sh->node->id, seed_out_timeout);
    e->a = to;
    e->b = sh->seeds;
    e->c = sh->id;
}

void seed_reply(struct sim_shard *sh, int to, bool ok)
{
    struct sim_msg *msg = sim_alloc(sizeof *msg);

    msg->kind = SIM_MSG_SEED_REPLY;
    msg->shard = sh->id;
    msg->ok = ok;
    msg->log_id = ok ? sh->meta.log_id : 0;
    msg->position = sh->seed_position;
    (void)net_send(sh->sim, sh->node->id, to, msg);
}

static void seed_in_timeout(struct sim *s, struct sim_event *e)
{
    struct sim_shard *sh = s->nodes[e->node].shards[e->c];

    if (sh == NULL || sh->seed_in != e->a || sh->seed_from != (int)e->b || sh->seed_ending) {
        return;
    }
    sim_trace(s, "node %d shard %u: the seed broke off", sh->node->id, sh->id);
    sim_reached(s, SIM_SEED_BROKEN);
    sh->seed_in = 0;
    shard_step(sh, &(struct replica_event){.type = REPLICA_EV_SEED_DONE, .seed_done = {.ok = false}});
}

void seed_take_begin(struct sim_shard *sh, int from, const struct sim_msg *msg)
{
    struct sim_event *e;

    if (sh->seed_in != 0) {
        seed_reply(sh, from, false);
        return;
    }
    sh->seed_in = msg->log_id;
    sh->seed_from = from;
    sh->seed_accepted = false;
    sh->seed_ending = false;
    shard_step(sh, &(struct replica_event){
                       .type = REPLICA_EV_SEED_BEGIN,
                       .seed_begin = {.from = (otr_node)from,
                                      .epoch = msg->seed->epoch,
                                      .incarnation = msg->seed->incarnation,
                                      .new_log_id = node_log_id(sh->node)},
                   });
    if (!sh->seed_accepted) {
        sim_reached(sh->sim, SIM_SEED_REFUSED);
        sh->seed_in = 0;
        seed_reply(sh, from, false);
        return;
    }
    e = sim_after(sh->sim, SEED_PATIENCE_US * 3 / 4, sh->node->id, seed_in_timeout);
    e->a = sh->seed_in;
    e->b = (uint64_t)from;
    e->c = sh->id;
}

void seed_take_rest(struct sim_shard *sh, int from, const struct sim_msg *msg)
{
    const struct sim_seed *seed = msg->seed;
    struct journal *j = sh->node->journal;
    uint8_t body[256] __attribute__((aligned(8)));
    char metadata[64];
    int rv = 0;

    if (sh->seed_in != msg->log_id || sh->seed_from != from || !sh->seed_accepted || sh->seed_ending) {
        return;
    }
    for (uint32_t k = 0; k < SIM_KEYS && rv == 0; k++) {
        if (seed->values[k].index != 0) {
            snprintf(metadata, sizeof metadata, "%" PRIu64 ":%" PRIu64, seed->values[k].value, seed->values[k].index);
            rv = journal_seed_points(j, sh->id, body, shard_value_body(body, k, metadata), NULL);
        }
    }
    for (size_t i = 0; i < seed->ids_count && rv == 0; i++) {
        rv = replica_restore_request(sh->replica, &seed->ids[i].entry, seed->ids[i].outcome, true);
        if (rv != 0) {
            sim_fail(sh->sim, "Q1: node %d shard %u: the core refuses a seed's request id", sh->node->id, sh->id);
        }
    }
    if (rv == 0) {
        rv = journal_seed_end(j, sh->id, seed->position, (const uint8_t *)seed->ids,
                              seed->ids_count * sizeof *seed->ids);
    }
    if (rv == 0) {
        shard_clear(sh, seed->position);
        memcpy(sh->values, seed->values, sizeof sh->values);
        sh->meta.committed_index = seed->position.index;
        rv = journal_meta_write(j, sh->id, &sh->meta);
    }
    if (rv != 0) {
        return; /* the disk has failed */
    }
    sh->seed_position = seed->position;
    sh->seed_ending = true;
    sh->seed_number = journal_metas_written(j, sh->id);
}
