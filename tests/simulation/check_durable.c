/* I2: an acknowledged write is in the log, durably, of every member of every later in-sync set. */
#include "tests/simulation/sim.h"

/* The log holds everything acknowledged; false with the first index that it does not. */
static bool holds_acked(struct sim_shard *sh, uint64_t *missing)
{
    struct sim *s = sh->sim;
    uint64_t acked = s->check.shards[sh->id].acked;

    for (uint64_t i = sh->base.index + 1; i <= acked; i++) {
        const struct sim_entry *e = shard_entry(sh, i);
        const struct sim_committed *c = check_entry(s, sh->id, i);

        *missing = i;
        if (e == NULL || c == NULL || i > sh->durable_index || e->position.epoch != c->epoch || e->hash != c->hash) {
            return false;
        }
    }
    return true;
}

/* Members that live hold it; those that are down are looked at when they are back. A member whose log is another by now
 * has none to look at. */
static void check_members(struct sim *s, otr_shard shard, const char *when)
{
    const struct descriptor *d = &alter_truth(s, shard)->descriptor;
    uint64_t missing;

    if (d->mode == REPLICA_ASYNC) {
        return; /* A7: see check_loss.c */
    }
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

void check_acked(struct sim_shard *sh, struct otr_position at)
{
    struct sim *s = sh->sim;
    uint64_t index = at.index;

    if (check_acked_dead(sh, at)) {
        return;
    }
    if (check_entry(s, sh->id, index) == NULL) {
        sim_fail(s, "I2: shard %u: entry %" PRIu64 " is acknowledged and was never committed", sh->id, index);
        return;
    }
    if (index <= s->check.shards[sh->id].acked) {
        return; /* a retry is told what was told before */
    }
    check_members_enough(sh, index);
    s->check.shards[sh->id].acked = index;
    check_members(s, sh->id, "when acknowledged");
    check_lag(sh, index);
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
    const struct descriptor *d = &alter_truth(sh->sim, sh->id)->descriptor;
    int at = descriptor_in_sync(d, (otr_node)sh->node->id);
    uint64_t missing;

    if (d->mode != REPLICA_ASYNC && at >= 0 && d->in_sync[at].log_id == sh->meta.log_id && !holds_acked(sh, &missing)) {
        sim_fail(sh->sim, "I2: after its restart node %d is in sync for shard %u and lacks acknowledged entry %" PRIu64,
                 sh->node->id, sh->id, missing);
    }
}
