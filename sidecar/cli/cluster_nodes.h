/* Nodes as commands show them. */
#ifndef OUTRIGGER_CLI_CLUSTER_NODES_H
#define OUTRIGGER_CLI_CLUSTER_NODES_H

#include "sidecar/cli/cluster_view.h"

#include <cjson/cJSON.h>

struct node_figures;

/* The nodes' numbers in the order in which they are shown; malloc'd, NULL: out of memory. */
uint32_t *cluster_nodes_order(const struct cluster_view *v);
/* A JSON list of the known nodes; figures: by number, NULL: without. */
cJSON *cluster_nodes_json(const struct cluster_view *v, const uint32_t *order, const struct node_figures *figures);

#endif
