/* Nodes as commands show them. */
#ifndef OUTRIGGER_CLI_CLUSTER_NODES_H
#define OUTRIGGER_CLI_CLUSTER_NODES_H

#include "sidecar/cli/cluster_view.h"

#include <cjson/cJSON.h>

/* What one sidecar said of itself (GET /cluster/stats). */
struct node_figures {
    cJSON *json; /* NULL: no answer */
    struct otr_errmsg why;
    long http_status; /* of a refusal; 0: none */
    uint32_t primaries, in_sync, shards;
    double lag, engine_lag; /* entries: of the replica that is furthest behind */
    double points;
};

/* Asks every live node, and the sidecar that the settings name, which may be none of them (then it is added to the
 * view). By number in the view; NULL with words. */
struct node_figures *cluster_nodes_ask(struct cluster_view *v, struct loop *loop,
                                       const struct cluster_view_settings *settings, struct otr_errmsg *msg);
void cluster_nodes_forget(struct node_figures *all, uint32_t count);

/* The nodes' numbers in the order in which they are shown; malloc'd, NULL: out of memory. */
uint32_t *cluster_nodes_order(const struct cluster_view *v);
/* A JSON list of the known nodes; figures: by number, NULL: without. */
cJSON *cluster_nodes_json(const struct cluster_view *v, const uint32_t *order, const struct node_figures *figures);

#endif
