/* Digests are equal at equal index: what replicas hold that have applied the same entries is the same. The digest does
 * not depend on the order of points. */
#define XXH_INLINE_ALL
#include "tests/simulation/sim.h"

#include <xxhash.h>

static uint64_t digest_of(const struct sim_value *values)
{
    uint64_t digest = 1;

    for (uint32_t k = 0; k < SIM_KEYS; k++) {
        const uint64_t point[] = {k, values[k].value, values[k].index};

        digest ^= values[k].index == 0 ? 0 : XXH3_64bits(point, sizeof point);
    }
    return digest;
}

void check_digest(struct sim_shard *sh)
{
    struct sim *s = sh->sim;
    uint64_t digest = digest_of(sh->values);
    size_t old = s->check.shards[sh->id].digests_capacity;

    if (check_dead(s, sh->id, check_position(sh, sh->commit))) {
        return; /* it has yet to learn that this is lost */
    }
    while (sh->commit >= s->check.shards[sh->id].digests_capacity) {
        s->check.shards[sh->id].digests =
            sim_grow(s->check.shards[sh->id].digests, &s->check.shards[sh->id].digests_capacity,
                     s->check.shards[sh->id].digests_capacity, sizeof *s->check.shards[sh->id].digests);
    }
    if (s->check.shards[sh->id].digests_capacity > old) {
        memset(&s->check.shards[sh->id].digests[old], 0,
               (s->check.shards[sh->id].digests_capacity - old) * sizeof *s->check.shards[sh->id].digests);
    }
    if (s->check.shards[sh->id].digests[sh->commit] == 0) {
        s->check.shards[sh->id].digests[sh->commit] = digest;
    } else if (s->check.shards[sh->id].digests[sh->commit] != digest) {
        sim_fail(s, "digest: node %d shard %u holds something else at entry %" PRIu64 " than another replica did",
                 sh->node->id, sh->id, sh->commit);
    }
}
