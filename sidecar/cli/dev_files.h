/* What `outrigger dev` finds and keeps on disk: programs, free ports, the directory with its lock, the settings that a
 * cluster was made with, dev.json. */
#ifndef OUTRIGGER_CLI_DEV_FILES_H
#define OUTRIGGER_CLI_DEV_FILES_H

#include "outrigger/err.h"
#include "outrigger/types.h"

#include <limits.h>

struct dev_programs {
    char self[PATH_MAX];
    char coordinator[PATH_MAX]; /* etcd or Consul */
    char node[PATH_MAX];        /* Node.js */
    char server[PATH_MAX];      /* the engine's server.js */
};
/* Given paths (or NULL) go before the places where they usually are. OTR_NOTFOUND with words that say what to do. */
int dev_files_programs(struct dev_programs *p, const char *backend, const char *coordinator, const char *server,
                       struct otr_errmsg *msg);

/* What a directory's cluster was made with. */
struct dev_shape {
    uint32_t nodes, shards, replicas;
};
/* Makes the directory if need be, locks it for this process's life, makes `path` absolute (PATH_MAX bytes), removes a
 * dev.json that an earlier run left. Members of `shape` that are 0 take what the directory's cluster has, or else the
 * defaults 3, 4, 3; others must agree with it (OTR_EXISTS). *existed says whether there was a cluster. */
int dev_files_open(const char *directory, char *path, struct dev_shape *shape, bool *existed, int *lock,
                   struct otr_errmsg *msg);

/* Whether somebody listens on this port of 127.0.0.1, or could not. */
bool dev_files_port_free(uint16_t port);
/* `preferred` if it is free, else another that is, below the range from which the kernel takes ports for outgoing
 * connections: a process that is started again must find its port free. 0: none. `taken` are left out. */
uint16_t dev_files_port(uint16_t preferred, const uint16_t *taken, size_t taken_count);

/* Writes a file whole or not at all. */
int dev_files_write(const char *path, const char *text, struct otr_errmsg *msg);

#endif
