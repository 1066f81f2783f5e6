/* What the `outrigger cluster` commands share with `outrigger dev`. */
#ifndef OUTRIGGER_CLI_CLUSTER_H
#define OUTRIGGER_CLI_CLUSTER_H

#include "sidecar/cli/coord_client.h"
#include "sidecar/cli/options.h"

struct cluster_plan {
    uint32_t nodes;              /* so many must be live before anything is placed */
    uint32_t replication_factor; /* 0: not asked for; else an existing cluster must have the same. So the next two */
    uint32_t shards;
    uint32_t min_in_sync;
    uint32_t timeout_ms; /* 0: waits for ever */
};

struct cluster_made {
    bool created; /* false: it existed before */
    uint32_t shards;
    uint32_t replication_factor;
    uint32_t min_in_sync;
};

/* Creates settings and shards, once: waits until the nodes are live, then puts the shards' descriptors, the key
 * `config` with the last of them: its presence means that everything is there. Each transaction demands that its keys
 * and `config` are absent, so that runs at the same time, interrupted runs and repeats come to one result.
 * `progress` (may be NULL) is told what is waited for, once per change.
 * OTR_EXISTS: exists with other settings; OTR_TIMEOUT, OTR_CANCELED (interrupted), others as coord_client_. */
int cluster_init(struct coord_client *c, const struct cluster_plan *plan, struct cluster_made *made,
                 void (*progress)(void *data, const char *text), void *data, struct otr_errmsg *msg);

/* Changes the setting `compression`, unless it is so already; *before is what it was. OTR_NOTFOUND: no such cluster;
 * OTR_CONFLICT: others keep changing the settings; OTR_UNKNOWN; others as coord_client_. */
int cluster_compression_set(struct coord_client *c, enum topology_compression wanted, enum topology_compression *before,
                            struct otr_errmsg *msg);

struct cluster_mode {
    enum replica_mode mode;
    uint32_t max_lag_entries, max_lag_ms; /* 0: as they are; then what they are */
    /* what came of it */
    enum replica_mode before;
    bool changed;
};
/* Changes the settings `mode`, `max_lag_entries` and `max_lag_ms`, unless they are so already. Errors as
 * cluster_compression_set. */
int cluster_mode_set(struct coord_client *c, struct cluster_mode *m, struct otr_errmsg *msg);

/* The subcommands of `outrigger cluster`. */
extern const struct command cluster_init_command;
extern const struct command cluster_status_command;
extern const struct command cluster_list_nodes_command;
extern const struct command cluster_health_command;
extern const struct command cluster_etcd_role_command;
extern const struct command cluster_failover_command;
extern const struct command cluster_loss_report_command;
extern const struct command cluster_set_mode_command;
extern const struct command cluster_bootstrap_command;
extern const struct command cluster_enable_compression_command;
extern const struct command cluster_export_command;
extern const struct command cluster_import_command;

#endif
