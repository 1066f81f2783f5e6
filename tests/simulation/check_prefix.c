/* I3: two replicas' committed prefixes never differ: same index, same epoch, same bytes. */
#include "tests/simulation/sim.h"

static struct sim_committed *place(struct sim *s, otr_shard shard, uint64_t index)
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

struct sim_committed *check_entry(struct sim *s, otr_shard shard, uint64_t index)
{
    struct sim_committed *c = place(s, shard, index);

    return c->known ? c : NULL;
}

bool check_committed(struct sim_shard *sh, const struct sim_entry *e)
{
    struct sim *s = sh->sim;
    struct sim_committed *c = place(s, sh->id, e->position.index);

    if (check_dead(s, sh->id, e->position)) {
        check_dead_committed(sh, e);
        return !s->failed;
    }
    if (!c->known) {
        *c = (struct sim_committed){
            .epoch = e->position.epoch, .hash = e->hash, .id = e->id, .key = e->key, .value = e->value, .known = true};
        check_effect(sh, e);
    } else if (c->epoch != e->position.epoch || c->hash != e->hash) {
        sim_fail(s,
                 "I3: node %d shard %u commits entry %" PRIu64 " of epoch %" PRIu64
                 "; another committed it in epoch %" PRIu64,
                 sh->node->id, sh->id, e->position.index, e->position.epoch, c->epoch);
        return false;
    }
    return true;
}
