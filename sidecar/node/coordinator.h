/* What coordinator.c and coordinator_shard.c share. */
#ifndef OUTRIGGER_NODE_COORDINATOR_H
#define OUTRIGGER_NODE_COORDINATOR_H

#include "sidecar/node/node_internal.h"

struct coordinator {
    struct node *node;
    uint32_t session_ttl_ms;
    struct otr_session session;
    bool session_wanted;
    bool session_open;
    bool reachable;
    bool announced, announcing; /* live/<node> stands, bound to the session */
    bool registered, registering;
    bool loaded; /* the cluster's state was read once */
    bool reading_all, watching, resyncing;
    bool regressed;    /* PROTOCOL D4 */
    uint64_t identity; /* of the coordinator cluster, 0: not known yet */
    uint64_t revision; /* the highest shown */
    struct otr_get_req get;
    struct otr_watch watch;
    struct otr_txn_req live_req, node_req;
    struct otr_simple_req service_req, close_req;
    uv_timer_t timer;
    char **named; /* keys named by a resync */
    size_t named_count;
    void (*closed)(struct node *n);
};

/* Notes identity and revision of an answer (D4). */
void coordinator_check_answer(struct node *n, const struct otr_get_result *result);
void coordinator_feed_lease(struct shard *s, const struct topology_lease *l);

#endif
