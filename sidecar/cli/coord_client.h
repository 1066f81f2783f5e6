/* The coordinator as commands use it: one call after the other, each waited for. Everything of one cluster is read in
 * one linearizable answer. */
#ifndef OUTRIGGER_CLI_COORD_CLIENT_H
#define OUTRIGGER_CLI_COORD_CLIENT_H

#include "outrigger/backend.h"
#include "sidecar/cli/coord_access.h"
#include "sidecar/cli/loop.h"
#include "sidecar/core/topology.h"

struct coord_client {
    struct loop *loop;
    const struct otr_backend_ops *ops;
    struct otr_backend *backend;
    const char *cluster; /* lent */
};

/* The settings that every command which asks the coordinator has; `endpoints` as in backend.h. */
struct coord_client_settings {
    const char *cluster;
    const char *backend;
    const char *endpoints;
    struct coord_access access;
};

/* Their entries in a command's table of options. NOLINTBEGIN(bugprone-macro-parentheses): offsetof takes none. */
#define COORD_CLIENT_OPTIONS(type, member)                                                                            \
    {"cluster", OPTION_NAME, offsetof(type, member.cluster), "NAME", "outrigger", false, 0, 0, "the cluster's name"}, \
        {"backend", OPTION_TEXT, offsetof(type, member.backend),   "NAME", "etcd", false,                             \
         0,         0,           "the coordinator: etcd or consul"},                                                  \
        {"endpoints", OPTION_TEXT, offsetof(type, member.endpoints), "URL,URL", "http://127.0.0.1:2379", false,       \
         0,           0,           "where the coordinator is"},                                                       \
        COORD_ACCESS_OPTIONS(type, member.access)
/* NOLINTEND(bugprone-macro-parentheses) */

int coord_client_open(struct coord_client *c, struct loop *loop, const struct coord_client_settings *settings,
                      struct otr_errmsg *msg);
void coord_client_close(struct coord_client *c);

/* Reads all keys of the cluster into a new topology, the caller's to free. Keys that cannot be read are errors
 * (OTR_PROTO), for whoever goes on without them might decide wrongly. Else as otr_get_cb, OTR_CANCELED when the user
 * interrupts. */
int coord_client_read(struct coord_client *c, struct topology **t, struct otr_errmsg *msg);

/* One key's value, malloc'd, and its revision. OTR_NOTFOUND: there is none. Else as coord_client_read. */
int coord_client_get(struct coord_client *c, const char *key, char **value, uint64_t *revision, struct otr_errmsg *msg);

/* Shows `visit` all keys below /outrigger/<cluster>/ as they are in one linearizable answer, in order; an error of its
 * own ends that and is returned. Else as coord_client_read. */
typedef int (*coord_client_visit_cb)(void *data, const struct otr_kv *kv, struct otr_errmsg *msg);
int coord_client_visit(struct coord_client *c, coord_client_visit_cb visit, void *data, struct otr_errmsg *msg);

/* As otr_txn_cb. */
int coord_client_txn(struct coord_client *c, const struct otr_txn *txn, struct otr_errmsg *msg);

#endif
