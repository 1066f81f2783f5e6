/* The coordination backend, metered: the same calls, counted and timed by kind in the node's metrics. */
#ifndef OUTRIGGER_NODE_METERED_H
#define OUTRIGGER_NODE_METERED_H

#include "outrigger/backend.h"
#include "sidecar/node/node_metrics.h"

/* Opens a backend of `ops` and wraps it: *out is used with (*out)->ops. `m` is lent until close's callback. */
int metered_open(struct otr_backend **out, const struct otr_backend_ops *ops, const struct otr_backend_config *config,
                 struct coordinator_metrics m[NODE_CALLS], struct otr_errmsg *msg);

#endif
