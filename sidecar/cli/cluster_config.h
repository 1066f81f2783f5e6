/* Settings of the whole cluster, in the coordinator's key `config`, changed by compare-and-set. */
#ifndef OUTRIGGER_CLI_CLUSTER_CONFIG_H
#define OUTRIGGER_CLI_CLUSTER_CONFIG_H

#include "sidecar/cli/coord_client.h"

/* Makes *changed (malloc'd) of the value `text`, which says `now`; leaves it NULL when there is nothing to change.
 * Errors with words. Called again when somebody else came first. */
typedef int (*cluster_config_cb)(void *data, const char *text, const struct topology_config *now, char **changed,
                                 struct otr_errmsg *msg);

/* OTR_NOTFOUND: no such cluster; OTR_CONFLICT: others keep changing the settings; OTR_UNKNOWN; what cb says; others as
 * coord_client_. */
int cluster_config_change(struct coord_client *c, cluster_config_cb cb, void *data, struct otr_errmsg *msg);

#endif
