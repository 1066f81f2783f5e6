/* The cluster as `outrigger cluster status` and its like show it: read from the coordinator or from any sidecar, then
 * completed by what each live sidecar says of its own logs. */
#ifndef OUTRIGGER_CLI_CLUSTER_VIEW_H
#define OUTRIGGER_CLI_CLUSTER_VIEW_H

#include "sidecar/cli/coord_client.h"
#include "sidecar/cli/credentials.h"
#include "sidecar/cli/options.h"

enum { CLUSTER_VIEW_TEXT_MAX = TOPOLOGY_HOST_MAX + 24 };

struct cluster_view_shard {
    otr_shard id;
    uint32_t hash_first, hash_last;
    uint64_t epoch;
    int primary; /* number in nodes; -1: nobody leads it now */
    int in_sync[OTR_REPLICAS_MAX];
    uint32_t in_sync_count;
    int replicas[OTR_REPLICAS_MAX];
    uint32_t replicas_count;
    uint32_t min_in_sync;
    bool index_known;
    uint64_t index; /* committed: the primary's, or the highest that anybody says */
};

struct cluster_view_own { /* what a sidecar says of its replica of one shard */
    bool known;
    bool leads;
    uint64_t committed;
    bool damaged;        /* does not read as it was written, and is being copied anew */
    bool eligible;       /* in sync, its log whole: may be elected without loss */
    uint64_t last_epoch; /* where its log ends */
    uint64_t last;
    uint64_t seen; /* so much it knows to be committed somewhere */
    uint64_t kept; /* so much of that is in its log */
};

struct cluster_view_node {
    char name[OTR_NAME_MAX + 1];
    bool known; /* registered or live; others only stand in descriptors */
    bool draining;
    bool live;
    bool answered; /* its sidecar was asked and answered */
    char client[CLUSTER_VIEW_TEXT_MAX],
        peer[CLUSTER_VIEW_TEXT_MAX]; /* "host:port", "https://host:port", "" when unknown */
    uint32_t shards, primaries;
    struct cluster_view_own *own; /* by place in the view's shards */
};

struct cluster_view {
    char cluster[OTR_NAME_MAX + 1];
    struct cluster_view_shard *shards; /* by id */
    uint32_t shards_count;
    struct cluster_view_node *nodes; /* by name */
    uint32_t nodes_count;
    struct otr_errmsg note; /* why some live sidecar's own word is missing, if one refused it; "": no such thing */
};

struct cluster_view_settings {
    struct coord_client_settings coordinator;
    struct credentials_settings credentials;
    const char *sidecar; /* URL; NULL: asks the coordinator */
};

/* NOLINTBEGIN(bugprone-macro-parentheses): offsetof takes none. */
#define CLUSTER_VIEW_OPTIONS(type, member)                                                         \
    COORD_CLIENT_OPTIONS(type, member.coordinator), CREDENTIALS_OPTIONS(type, member.credentials), \
    {                                                                                              \
        "sidecar", OPTION_TEXT, offsetof(type, member.sidecar), "URL", NULL, false, 0, 0,          \
            "ask this sidecar instead of the coordinator"                                          \
    }
/* NOLINTEND(bugprone-macro-parentheses) */

/* `v` is zeroed; to be closed in every case. Errors with words. */
int cluster_view_read(struct cluster_view *v, struct loop *loop, const struct cluster_view_settings *settings,
                      struct otr_errmsg *msg);
void cluster_view_close(struct cluster_view *v);

/* Why a shard cannot be written now, or NULL. */
const char *cluster_view_problem(const struct cluster_view_shard *shard);

/* --- for the two sources ------------------------------------------------------------------------------------------ */

/* Number of the node of this name, made if it is new; -1: out of memory. */
int cluster_view_node(struct cluster_view *v, const char *name);
int cluster_view_from_topology(struct cluster_view *v, struct topology *t);
/* The JSON of GET /cluster. */
int cluster_view_from_json(struct cluster_view *v, const char *text, struct otr_errmsg *msg);
/* The part "self" of a node's GET /cluster; what cannot be read is left out. */
void cluster_view_take_own(struct cluster_view *v, uint32_t node, const char *text);
/* After everything was taken: sorts, counts, decides who leads. */
void cluster_view_settle(struct cluster_view *v);

#endif
