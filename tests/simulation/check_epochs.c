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
        if (s->calm && i > 0 && s->check.shards[sh->id].returned_epoch != s->check.shards[sh->id].reigns[i - 1].epoch) {
            sim_fail(
                s,
                "V3: node %d takes shard %u although nobody gave it up and nothing but the coordinator was in trouble",
                n->id, sh->id);
        }
        return;
    }
    if (s->check.shards[sh->id].reigns[i].incarnation != n->incarnation) {
        sim_fail(s,
                 "I1: shard %u epoch %" PRIu64 " is led by node %d (incarnation %" PRIu64
                 ") and by node %d (incarnation %" PRIu64 ")",
                 sh->id, sh->epoch, s->check.shards[sh->id].reigns[i].node,
                 s->check.shards[sh->id].reigns[i].incarnation, n->id, n->incarnation);
    }
}

void check_free(struct sim *s)
{
    for (uint32_t i = 0; i < SIM_SHARDS_MAX; i++) {
        free(s->check.shards[i].reigns);
        free(s->check.shards[i].committed);
        free(s->check.shards[i].digests);
    }
    free(s->check.effects);
    free(s->check.history);
}
