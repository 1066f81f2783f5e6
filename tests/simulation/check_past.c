/* D4: while the coordinator shows the past, nobody who has seen the present leads by it or changes a set. */
#include "tests/simulation/sim.h"

void check_past(struct sim *s, otr_shard shard, const struct descriptor *d)
{
    if (s->coord.past[shard]) {
        sim_fail(s,
                 "D4: node %u changes shard %u (epoch %" PRIu64 " version %" PRIu64
                 ") although the coordinator shows the past (it was at epoch %" PRIu64 " version %" PRIu64 ")",
                 d->primary, shard, d->epoch, d->version, s->coord.truth.shards[shard].descriptor.epoch,
                 s->coord.truth.shards[shard].descriptor.version);
    }
}
