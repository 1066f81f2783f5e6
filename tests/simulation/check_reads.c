/* I4: a linearizable read returns the newest write acknowledged before it began, or a concurrent one; and no later read
 * returns an older one. Order is that of the shard's log, which I3 makes the same everywhere. */
#include "tests/simulation/sim.h"

/* Whoever leads a lower epoch has lost the right to answer before the first commit of a higher one (G1, G2, G4). */
void check_rights(struct sim_shard *sh)
{
    struct sim *s = sh->sim;

    for (int i = 1; i <= s->nodes_count; i++) {
        struct sim_shard *other = s->nodes[i].alive ? s->nodes[i].shards[sh->id] : NULL;
        struct sim_shard *low;

        if (other == NULL || other == sh || other->role != REPLICA_PRIMARY) {
            continue;
        }
        low = other->epoch < sh->epoch ? other : sh;
        if (replica_read_right(low->replica, node_now_ms(s, low->node)) == REPLICA_READ_OK) {
            sim_fail(s,
                     "I4: node %d still holds the right to read shard %u in epoch %" PRIu64
                     ", while node %d commits in a higher one",
                     low->node->id, sh->id, low->epoch, (low == sh ? other : sh)->node->id);
            return;
        }
    }
}

void check_read(struct sim_shard *sh, const struct sim_client *c, struct sim_value value)
{
    struct sim *s = sh->sim;
    uint64_t *floor = &s->check.shards[c->shard].floor[c->key];

    s->counts.reads++;
    if (value.index < c->floor) {
        sim_fail(s,
                 "I4: client %u reads shard %u key %u as of entry %" PRIu64 ", but entry %" PRIu64
                 " was known before it asked",
                 c->id, c->shard, c->key, value.index, c->floor);
        return;
    }
    if (value.index != 0 && check_dead(s, c->shard, check_position(sh, value.index))) {
        return; /* by the last right of a primary that was replaced in mode async: see check_rights */
    }
    if (value.index != 0) {
        const struct sim_committed *at = check_entry(s, c->shard, value.index);

        if (at == NULL || at->key != c->key || at->value != value.value) {
            sim_fail(s, "I4: client %u reads a value of shard %u key %u that entry %" PRIu64 " did not write", c->id,
                     c->shard, c->key, value.index);
        }
    }
    *floor = value.index > *floor ? value.index : *floor;
}
