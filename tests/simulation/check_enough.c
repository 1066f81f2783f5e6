/* A6: an acknowledged write is held by at least min_in_sync members. */
#include "tests/simulation/sim.h"

void check_members_enough(struct sim_shard *sh, uint64_t index)
{
    struct sim *s = sh->sim;
    const struct descriptor *d = &alter_truth(s, sh->id)->descriptor;
    const struct sim_committed *c = check_entry(s, sh->id, index);
    struct replica_status status;

    replica_status(sh->replica, node_now_ms(s, sh->node), &status);
    if (c == NULL || c->epoch != d->epoch || status.descriptor_revision < s->coord.min_revision[sh->id]) {
        return; /* inherited, by a later primary; or another min_in_sync has just been set */
    }
    if (d->in_sync_count < d->min_in_sync) {
        sim_fail(s, "A6: shard %u: entry %" PRIu64 " is acknowledged by %u members, min_in_sync is %u", sh->id, index,
                 d->in_sync_count, d->min_in_sync);
    }
}
