/* I2: an acknowledged write is in the log of every member of every later in-sync set.
 * I3: committed prefixes never differ. I5: nothing is applied before it is committed, nor out of order.
 * A6: an acknowledged write is held by at least min_in_sync members. */
#include "tests/simulation/sim.h"

#include <stdlib.h>

/* --- I3, I5 ------------------------------------------------------------------------------------------------------- */

static struct sim_committed *committed_at(struct sim *s, otr_shard shard, uint64_t index)
{
    size_t old = s->check.shards[shard].committed_capacity;

    while (index >= s->check.shards[shard].committed_capacity) {
        s->check.shards[shard].committed =
            sim_grow(s->check.shards[shard].committed, &s->check.shards[shard].committed_capacity,
                     s->check.shards[shard].committed_capacity, sizeof *s->check.shards[shard].committed);
    }
    if (s->check.shards[shard].committed_capacity > old) {
        memset(&s->check.shards[shard].committed[old], 0,
               (s->check.shards[shard].committed_capacity - old) * sizeof *s->check.shards[shard].committed);
    }
    return &s->check.shards[shard].committed[index];
}

/* I6: a request id takes effect once. */
static void check_effect(struct sim_shard *sh, const struct sim_entry *e)
{
    struct sim *s = sh->sim;
    uint64_t number = clients_request_number(&e->id);
    size_t old = s->check.effects_capacity;

    if (number == 0) {
        return;
    }
    while (number >= s->check.effects_capacity) {
        s->check.effects =
            sim_grow(s->check.effects, &s->check.effects_capacity, s->check.effects_capacity, sizeof *s->check.effects);
    }
    if (s->check.effects_capacity > old) {
        memset(&s->check.effects[old], 0, (s->check.effects_capacity - old) * sizeof *s->check.effects);
    }
    if (s->check.effects[number].index != 0 && s->check.effects[number].index != e->position.index) {
        sim_fail(s, "I6: request %" PRIu64 " took effect in shard %u as entry %" PRIu64 " and as entry %" PRIu64,
                 number, sh->id, s->check.effects[number].index, e->position.index);
    }
    s->check.effects[number].shard = sh->id;
    s->check.effects[number].index = e->position.index;
}

void check_committed(struct sim_shard *sh, uint64_t from, uint64_t index)
{
    struct sim *s = sh->sim;

    for (uint64_t i = from; i <= index; i++) {
        const struct sim_entry *e = shard_entry(sh, i);
        struct sim_committed *c = committed_at(s, sh->id, i);

        if (e == NULL || e->position.index != i) {
            sim_fail(s, "I5: node %d shard %u applies entry %" PRIu64 ", which its log does not hold", sh->node->id,
                     sh->id, i);
            return;
        }
        if (!c->known) {
            *c = (struct sim_committed){.epoch = e->position.epoch,
                                        .hash = e->hash,
                                        .id = e->id,
                                        .key = e->key,
                                        .value = e->value,
                                        .known = true};
            check_effect(sh, e);
        } else if (c->epoch != e->position.epoch || c->hash != e->hash) {
            sim_fail(s,
                     "I3: node %d shard %u commits entry %" PRIu64 " of epoch %" PRIu64
                     "; another committed it in epoch %" PRIu64,
                     sh->node->id, sh->id, i, e->position.epoch, c->epoch);
            return;
        }
    }
}

/* --- I2 ----------------------------------------------------------------------------------------------------------- */

/* The log holds everything acknowledged, durably; false with the first index that it does not. */
static bool holds_acked(struct sim_shard *sh, uint64_t *missing)
{
    struct sim *s = sh->sim;
    uint64_t acked = s->check.shards[sh->id].acked;

    for (uint64_t i = sh->base.index + 1; i <= acked; i++) {
        const struct sim_entry *e = shard_entry(sh, i);
        const struct sim_committed *c = committed_at(s, sh->id, i);

        *missing = i;
        if (e == NULL || i > sh->durable_index || e->position.epoch != c->epoch || e->hash != c->hash) {
            return false;
        }
    }
    return true;
}

/* Members that live hold it; those that are down are looked at when they are back. A member whose log is another by now
 * has none to look at. */
static void check_members(struct sim *s, otr_shard shard, const char *when)
{
    const struct descriptor *d = &s->coord.shards[shard].descriptor;
    uint64_t missing;

    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        struct sim_node *n = &s->nodes[d->in_sync[i].node];
        struct sim_shard *sh = n->alive ? n->shards[shard] : NULL;

        if (sh != NULL && sh->seed_in == 0 && sh->meta.log_id == d->in_sync[i].log_id && !holds_acked(sh, &missing)) {
            sim_fail(s,
                     "I2: %s: node %d is in sync for shard %u and lacks acknowledged entry %" PRIu64
                     " (acknowledged up to %" PRIu64 ", its log ends at %" PRIu64 ", durable %" PRIu64 ")",
                     when, n->id, shard, missing, s->check.shards[shard].acked, sh->base.index + sh->entries_count,
                     sh->durable_index);
            return;
        }
    }
}

void check_acked(struct sim *s, otr_shard shard, uint64_t index)
{
    const struct descriptor *d = &s->coord.shards[shard].descriptor;
    const struct sim_committed *c = committed_at(s, shard, index);

    if (!c->known) {
        sim_fail(s, "I2: shard %u: entry %" PRIu64 " is acknowledged and was never committed", shard, index);
        return;
    }
    if (index <= s->check.shards[shard].acked) {
        return; /* a retry is told what was told before */
    }
    if (c->epoch == d->epoch && d->in_sync_count < d->min_in_sync) {
        sim_fail(s, "A6: shard %u: entry %" PRIu64 " is acknowledged by %u members, min_in_sync is %u", shard, index,
                 d->in_sync_count, d->min_in_sync);
        return;
    }
    s->check.shards[shard].acked = index;
    check_members(s, shard, "when acknowledged");
}

void check_published(struct sim *s, otr_shard shard)
{
    const struct descriptor *d = &s->coord.shards[shard].descriptor;

    if (d->epoch > 0 && descriptor_in_sync(d, d->primary) < 0) {
        sim_fail(s, "I2: shard %u: the published primary %u is not in sync", shard, d->primary);
        return;
    }
    check_members(s, shard, "when published");
}

void check_recovered(struct sim_shard *sh)
{
    const struct descriptor *d = &sh->sim->coord.shards[sh->id].descriptor;
    int at = descriptor_in_sync(d, (otr_node)sh->node->id);
    uint64_t missing;

    if (at >= 0 && d->in_sync[at].log_id == sh->meta.log_id && !holds_acked(sh, &missing)) {
        sim_fail(sh->sim, "I2: after its restart node %d is in sync for shard %u and lacks acknowledged entry %" PRIu64,
                 sh->node->id, sh->id, missing);
    }
}

/* --- I6: outcomes ------------------------------------------------------------------------------------------------- */

void check_outcome(struct sim_shard *sh, uint64_t index, uint32_t outcome, const char *where)
{
    struct sim_committed *c = committed_at(sh->sim, sh->id, index);

    if (c->outcome_known && c->outcome != outcome) {
        sim_fail(sh->sim, "I6: node %d shard %u: outcome of entry %" PRIu64 " %s is %u, elsewhere it was %u",
                 sh->node->id, sh->id, index, where, outcome, c->outcome);
    }
    c->outcome = outcome;
    c->outcome_known = true;
}
