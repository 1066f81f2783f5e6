/* What `outrigger dev` runs: processes with their commands and ports, decided before anything is started, and dev.json,
 * which tells others (DESIGN 6.5). */
#ifndef OUTRIGGER_CLI_DEV_PLAN_H
#define OUTRIGGER_CLI_DEV_PLAN_H

#include "sidecar/cli/dev_files.h"
#include "sidecar/cli/dev_process.h"

#define DEV_PLAN_CLUSTER "outrigger" /* the default of every command */

enum { DEV_PLAN_NODES_MAX = 32, DEV_PLAN_PROCESSES_MAX = 2 * DEV_PLAN_NODES_MAX + 1 };

struct dev_plan_settings {
    struct dev_shape shape; /* 0: not asked for */
    const char *backend;
    const char *engine;
    const char *dir;
    uint32_t port;
    uint32_t session_ttl_ms;
    const char *etcd;     /* NULL: where it usually is */
    const char *consul;   /* the same */
    const char *ruvector; /* the same */
};

struct dev_plan_node {
    char name[OTR_NAME_MAX + 1];
    uint16_t client, peer, engine_port;
    struct dev_process sidecar, engine;
};

struct dev_plan {
    const struct dev_plan_settings *settings;
    char path[PATH_MAX];
    struct dev_programs programs;
    struct dev_shape shape;
    bool existed; /* the directory held a cluster */
    int lock;
    uint16_t coordinator_port, coordinator_peer_port, coordinator_gossip_port; /* the last is Consul's */
    char coordinator_url[64];
    struct dev_process coordinator; /* of all processes the caller sets loop, on_exit and data */
    struct dev_plan_node nodes[DEV_PLAN_NODES_MAX];
};

/* Finds programs, opens and locks the directory, chooses ports, writes the commands. `d` is zeroed; `settings` must
 * outlive it. On success it needs closing. */
int dev_plan_open(struct dev_plan *d, const struct dev_plan_settings *settings, struct otr_errmsg *msg);
/* No process may run any more. */
void dev_plan_close(struct dev_plan *d);

/* All processes: sidecars, engines, the coordinator. */
size_t dev_plan_processes(struct dev_plan *d, struct dev_process *out[DEV_PLAN_PROCESSES_MAX]);

/* Writes dev.json with the processes as they are now, whole or not at all. */
int dev_plan_write_json(struct dev_plan *d, struct otr_errmsg *msg);

#endif
