/* What coordinator.c, coordinator_view.c and coordinator_shard.c share. */
#ifndef OUTRIGGER_NODE_COORDINATOR_H
#define OUTRIGGER_NODE_COORDINATOR_H

#include "sidecar/node/node_internal.h"

struct coordinator {
    struct node *node;
    uint32_t session_ttl_ms;
    struct otr_session session;
    bool session_wanted;
    bool session_queued; /* open_later is queued */
    struct later open_later;
    uint64_t session_opened_ms;
    bool session_open;
    bool reachable;
    uint64_t sessions;          /* opened so far */
    bool announced, announcing; /* live/<node> stands, bound to the session */
    bool registered, registering;
    bool node_known, node_putting;                    /* nodes/<node> exists */
    uint64_t announcing_session, registering_session; /* which one it was */
    bool reading_all, watching;
    bool closing_backend;
    bool known;             /* the cluster's state was read since the start */
    struct otr_errmsg why;  /* what went wrong last; "" once something worked again */
    bool regressed;         /* PROTOCOL D4 */
    bool adopting;          /* ... and what is being read may be one set up anew */
    uint64_t looked_ms;     /* when that was looked for last */
    uint64_t identity;      /* of the coordinator cluster, 0: not known yet */
    uint64_t revision;      /* the highest shown */
    uint64_t reading_began; /* `revision` when the read of everything began */
    struct otr_get_req get;
    struct otr_watch watch;
    struct otr_txn_req live_req, node_req;
    struct otr_simple_req service_req, close_req;
    uv_timer_t timer;
    void (*closed)(struct node *n);
};

/* One key, put or deleted. */
void coordinator_take_put(struct coordinator *c, const struct otr_kv *kv);
void coordinator_take_delete(struct coordinator *c, const char *text, uint64_t revision);
/* All there is: what is not named no longer exists. */
void coordinator_take_all(struct coordinator *c, const struct otr_get_result *result);
/* The settings were deleted, at this revision: it is not obeyed any more. */
void coordinator_emptied(struct coordinator *c, uint64_t revision);
/* The coordinator was set up anew: nothing that the topology has of the old one's revisions, leases or sessions counts.
 */
void coordinator_forget_revisions(struct node *n);
/* The generation of the settings that a read of everything shows; 0: it shows none. */
uint64_t coordinator_shown_generation(struct node *n, const struct otr_get_result *result);
/* Into the topology, unless that shows a newer one. */
void coordinator_descriptor(struct node *n, const struct descriptor *d, uint64_t revision);
void coordinator_feed_lease(struct shard *s, const struct topology_lease *l);

#endif
