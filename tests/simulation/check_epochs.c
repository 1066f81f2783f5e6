/* I1: one incarnation leads an epoch, and epochs of a shard only grow. */
#include "tests/simulation/sim.h"

#include <stdlib.h>

void check_role(struct sim_shard *sh)
{
    struct sim *s = sh->sim;
    struct sim_node *n = sh->node;
    size_t i;

    if (sh->role != REPLICA_TAKEOVER && sh->role != REPLICA_PRIMARY) {
        return;
    }
    for (i = 0; i < s->check.shards[sh->id].reigns_count; i++) {
        if (s->check.shards[sh->id].reigns[i].epoch == sh->epoch) {
            break;
        }
    }
    if (i == s->check.shards[sh->id].reigns_count) {
        s->check.shards[sh->id].reigns =
            sim_grow(s->check.shards[sh->id].reigns, &s->check.shards[sh->id].reigns_capacity, i,
                     sizeof *s->check.shards[sh->id].reigns);
        s->check.shards[sh->id].reigns[i].epoch = sh->epoch;
        s->check.shards[sh->id].reigns[i].node = n->id;
        s->check.shards[sh->id].reigns[i].incarnation = n->incarnation;
        s->check.shards[sh->id].reigns_count++;
        s->counts.elections++;
        s->check.shards[sh->id].reigns[i].served = false;
        check_loss_taken_over(sh);
        if (s->calm && i > 0 && s->check.shards[sh->id].reigns[i - 1].served &&
            s->check.shards[sh->id].returned_epoch != s->check.shards[sh->id].reigns[i - 1].epoch) {
            sim_fail(
                s,
                "V3: node %d takes shard %u although nobody gave it up and nothing but the coordinator was in trouble",
                n->id, sh->id);
        }
        return;
    }
    if (sh->role == REPLICA_PRIMARY && sh->epoch > s->check.shards[sh->id].serving_epoch) {
        s->check.shards[sh->id].serving_epoch = sh->epoch;
    }
    s->check.shards[sh->id].reigns[i].served = s->check.shards[sh->id].reigns[i].served || sh->role == REPLICA_PRIMARY;
    if (s->check.shards[sh->id].reigns[i].incarnation != n->incarnation) {
        sim_fail(s,
                 "I1: shard %u epoch %" PRIu64 " is led by node %d (incarnation %" PRIu64
                 ") and by node %d (incarnation %" PRIu64 ")",
                 sh->id, sh->epoch, s->check.shards[sh->id].reigns[i].node,
                 s->check.shards[sh->id].reigns[i].incarnation, n->id, n->incarnation);
    }
}

/* V5: an election raises the epoch, and takes the old primary out of the set unless it is the new one. */
void check_election(struct sim *s, otr_shard shard, const struct descriptor *before, const struct descriptor *d)
{
    if (d->epoch < before->epoch || (d->epoch == before->epoch && d->version <= before->version)) {
        sim_fail(s,
                 "I1: shard %u: epoch %" PRIu64 " version %" PRIu64 " is published after epoch %" PRIu64
                 " version %" PRIu64,
                 shard, d->epoch, d->version, before->epoch, before->version);
    } else if (d->epoch == before->epoch && (d->primary != before->primary || d->incarnation != before->incarnation)) {
        sim_fail(s, "I1: shard %u: epoch %" PRIu64 " changes its primary", shard, d->epoch);
    } else if (d->epoch > before->epoch && before->epoch > 0 && d->primary != before->primary &&
               descriptor_in_sync(d, before->primary) >= 0) {
        sim_fail(s, "V5: shard %u: node %u is elected, and the old primary %u stays in the set", shard, d->primary,
                 before->primary);
    }
}

void check_free(struct sim *s)
{
    for (uint32_t i = 0; i < SIM_SHARDS_MAX; i++) {
        free(s->check.shards[i].reigns);
        free(s->check.shards[i].committed);
        free(s->check.shards[i].digests);
    }
    check_loss_free(s);
    free(s->check.effects);
    free(s->check.history);
}
