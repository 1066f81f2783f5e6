/* What is wrong with a cluster: where, what, and what to do about it. Decided from the view and from what each sidecar
 * says of itself; nothing is asked here. */
#ifndef OUTRIGGER_CLI_CLUSTER_HEALTH_H
#define OUTRIGGER_CLI_CLUSTER_HEALTH_H

#include "sidecar/cli/cluster_nodes.h"

struct health_problem {
    int node;  /* number in the view; -1: not about a node */
    int shard; /* id; -1: not about a shard. Neither: the whole cluster */
    char what[OTR_ERRMSG_MAX];
    const char *action; /* what to do */
};

struct health {
    struct health_problem *problems; /* the worst first: cluster, shards that cannot be written, nodes, other shards */
    uint32_t count, capacity;
    bool writable; /* every shard can be written */
};

/* figures: by number in the view; `order`: in which nodes are named. OTR_NOMEM. */
int cluster_health_find(struct health *h, const struct cluster_view *v, const struct node_figures *figures,
                        const uint32_t *order);
void cluster_health_close(struct health *h);

#endif
