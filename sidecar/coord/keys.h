/* Names of the keys in the coordinator (DESIGN 3.2): /outrigger/<cluster>/..., and reading them back. Pure. */
#ifndef OUTRIGGER_COORD_KEYS_H
#define OUTRIGGER_COORD_KEYS_H

#include "outrigger/err.h"
#include "outrigger/types.h"

enum { KEY_MAX = 256 };

enum key_kind {
    KEY_OTHER = 0,
    KEY_CONFIG,
    KEY_NODE,       /* nodes/<node> */
    KEY_LIVE,       /* live/<node> */
    KEY_SHARD,      /* shards/<shard> */
    KEY_LEASE,      /* leases/<shard> */
    KEY_CONTROLLER, /* leases/controller */
    KEY_COLLECTION, /* collections/<name> */
    KEY_SERVICE,    /* services/<node> */
    KEY_IMPORT,     /* import: an import is under way, or was interrupted (cli/cluster_import.h) */
};

struct key {
    enum key_kind kind;
    otr_shard shard;
    char name[OTR_NAME_MAX + 1]; /* node or collection */
};

/* "/outrigger/<cluster>/" */
void key_prefix(char out[KEY_MAX], const char *cluster);
void key_config(char out[KEY_MAX], const char *cluster);
void key_node(char out[KEY_MAX], const char *cluster, const char *node);
void key_live(char out[KEY_MAX], const char *cluster, const char *node);
void key_shard(char out[KEY_MAX], const char *cluster, otr_shard shard); /* numbers are decimal, without padding */
void key_lease(char out[KEY_MAX], const char *cluster, otr_shard shard);
void key_collection(char out[KEY_MAX], const char *cluster, const char *name);
void key_import(char out[KEY_MAX], const char *cluster);
void key_service(char out[KEY_MAX], const char *cluster, const char *node);

/* What a key below the cluster's prefix stands for; KEY_OTHER when it is none of ours. */
void key_parse(const char *cluster, const char *text, struct key *out);

/* A legal name of a cluster, node or collection: [A-Za-z0-9][A-Za-z0-9_.-]*, at most OTR_NAME_MAX bytes, no "__". */
bool key_name_valid(const char *name);

#endif
