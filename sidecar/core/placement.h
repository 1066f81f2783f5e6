/* Initial placement: which nodes hold which shards. Pure; deterministic in its input. */
#ifndef OUTRIGGER_CORE_PLACEMENT_H
#define OUTRIGGER_CORE_PLACEMENT_H

#include "sidecar/core/topology.h"

struct placement_node {
    otr_node node;
    const char *zone; /* "" when unknown; replicas of a shard go to different zones as far as there are some */
};

/* Fills `count` descriptors of epoch 0 with even hash ranges, replicas spread evenly over the nodes, and first replicas
 * (the first primaries) spread evenly too. OTR_INVALID with words: fewer nodes than replicas, counts out of range. */
int placement_initial(const struct placement_node *nodes, size_t nodes_count, uint32_t replication_factor,
                      uint32_t shards_count, uint32_t min_in_sync, uint32_t grant_ms, uint64_t generation,
                      struct descriptor *out, struct otr_errmsg *msg);

#endif
