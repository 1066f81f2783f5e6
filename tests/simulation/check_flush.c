/* E4, A3: what the journal reports durable was written and synced: it stood in a batch that has been flushed since, and
 * has not been cut. Kept beside the journal, from outside: where each log ended when a batch was handed out. */
#include "tests/simulation/sim.h"

void check_flush_begin(struct sim_node *n)
{
    for (uint32_t i = 0; i < SIM_SHARDS_MAX; i++) {
        struct sim_shard *sh = n->shards[i];

        if (sh != NULL && !sh->flush_kept) { /* a batch that waited for space is handed out again as it was */
            sh->flush_covers = sh->base.index + sh->entries_count;
        }
    }
}

void check_flush_waits(struct sim_node *n)
{
    for (uint32_t i = 0; i < SIM_SHARDS_MAX; i++) {
        if (n->shards[i] != NULL) {
            n->shards[i]->flush_kept = true;
        }
    }
}

void check_flush_end(struct sim_node *n)
{
    for (uint32_t i = 0; i < SIM_SHARDS_MAX; i++) {
        struct sim_shard *sh = n->shards[i];

        if (sh != NULL) {
            sh->flush_kept = false;
            sh->truly_durable = sh->flush_covers > sh->truly_durable ? sh->flush_covers : sh->truly_durable;
        }
    }
}

void check_flush_cut(struct sim_shard *sh, uint64_t index)
{
    sh->flush_covers = sh->flush_covers >= index ? index - 1 : sh->flush_covers;
    sh->truly_durable = sh->truly_durable >= index ? index - 1 : sh->truly_durable;
}

void check_flush_reported(struct sim_shard *sh, uint64_t durable_index)
{
    if (durable_index > sh->truly_durable) {
        sim_fail(sh->sim,
                 "flush: node %d shard %u: entries up to %" PRIu64 " are reported durable, up to %" PRIu64
                 " were synced",
                 sh->node->id, sh->id, durable_index, sh->truly_durable);
    }
}
