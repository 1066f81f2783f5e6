/* What this process knows of its cluster: node names as numbers, who is alive at which address, the shards' descriptors
 * and leases, the collections. A view: filled from the coordinator's watch (sidecar/coord decodes), from a file at
 * start, and corrected by what peers say. Pure data; loop thread only. Pointers returned stay valid until the next
 * topology_ call that changes something. */
#ifndef OUTRIGGER_CORE_TOPOLOGY_H
#define OUTRIGGER_CORE_TOPOLOGY_H

#include "sidecar/core/replica.h"

enum { TOPOLOGY_HOST_MAX = 255, TOPOLOGY_VERSION_MAX = 31, TOPOLOGY_SESSION_MAX = 64, TOPOLOGY_OPTIONS_MAX = 1024 };

struct topology_address {
    char host[TOPOLOGY_HOST_MAX + 1];
    uint16_t port; /* 0: unknown */
    bool tls;      /* it is to be spoken to in TLS */
};

struct topology_node {
    char name[OTR_NAME_MAX + 1];
    bool registered; /* nodes/<node> exists */
    bool draining;
    char zone[OTR_NAME_MAX + 1];
    bool live; /* live/<node> exists */
    uint64_t incarnation;
    struct topology_address client, peer; /* last known, kept when live goes away */
    char session[TOPOLOGY_SESSION_MAX];
    char version[TOPOLOGY_VERSION_MAX + 1];
};

struct topology_lease {
    bool present;
    otr_node node;
    uint64_t incarnation;
    uint64_t epoch;
    uint64_t revision;
    char session[TOPOLOGY_SESSION_MAX];
};

struct topology_shard {
    bool known;
    struct descriptor descriptor;
    uint64_t revision;
    struct topology_lease lease;
};

struct topology_collection {
    char name[OTR_NAME_MAX + 1];
    uint64_t id;
    uint32_t dimension;
    enum otr_metric metric;
    char options[TOPOLOGY_OPTIONS_MAX + 1]; /* engine options as JSON object, "" without */
    uint64_t revision;
};

/* How sidecars may compress what they send each other; each decides whether it pays (compress_gate.h). */
enum topology_compression { TOPOLOGY_COMPRESSION_NONE, TOPOLOGY_COMPRESSION_ZSTD };

struct topology_config { /* the key `config` */
    bool known;
    uint32_t shards_count;
    uint32_t replication_factor;
    uint32_t min_in_sync;
    uint64_t generation;
    uint32_t beacon_ms, grant_ms, replica_timeout_ms, suspect_timeout_ms, session_ttl_ms, read_lag_ms, apply_wait_ms,
        request_timeout_ms;
    enum replica_mode mode;
    uint32_t max_lag_entries, max_lag_ms; /* of mode async */
    enum topology_compression compression;
};

/* The timings of DESIGN 4.7 and generation 1; the counts stay 0. */
void topology_config_defaults(struct topology_config *c);

struct topology;
struct topology *topology_new(void); /* NULL: out of memory */
void topology_free(struct topology *t);

/* The number of a name, a new one if it was never met; OTR_NODE_NONE when out of memory or of numbers. */
otr_node topology_intern(struct topology *t, const char *name);
/* A name found no memory: what the topology shows is not all that it was told. */
bool topology_starved(const struct topology *t);
/* "?" for numbers never given. */
const char *topology_name(const struct topology *t, otr_node node);
/* Numbers given so far are 1..count. NULL for others. */
uint32_t topology_nodes_count(const struct topology *t);
struct topology_node *topology_node(struct topology *t, otr_node node);

struct topology_config *topology_config(struct topology *t);

/* Shards by number; known ones only count. */
uint32_t topology_shards_count(const struct topology *t);                   /* highest known number + 1 */
struct topology_shard *topology_shard(struct topology *t, otr_shard shard); /* NULL: never set */
int topology_shard_set(struct topology *t, const struct descriptor *d, uint64_t revision);
void topology_shard_forget(struct topology *t, otr_shard shard);
int topology_lease_set(struct topology *t, otr_shard shard, const struct topology_lease *lease); /* also to absent */
/* Which shard holds a point of this hash (its low 32 bits); false when the ranges known do not cover it. */
bool topology_route(const struct topology *t, uint64_t point_hash, otr_shard *shard);

const struct topology_collection *topology_collection(const struct topology *t, const char *name);
const struct topology_collection *topology_collection_by_id(const struct topology *t, uint64_t id);
uint32_t topology_collections_count(const struct topology *t);
const struct topology_collection *topology_collection_at(const struct topology *t,
                                                         uint32_t number); /* sorted by name */
int topology_collection_set(struct topology *t, const struct topology_collection *c);
void topology_collection_forget(struct topology *t, const char *name);

#endif
