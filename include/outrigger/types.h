/* Ids and the vocabulary that several rooms share (DESIGN: "Words"). No functions with side effects. */
#ifndef OUTRIGGER_TYPES_H
#define OUTRIGGER_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define OTR_VERSION "0.1.0"

enum {
    OTR_NAME_MAX = 63,            /* bytes of a node's, cluster's or collection's name; [A-Za-z0-9][A-Za-z0-9_.-]* */
    OTR_REPLICAS_MAX = 7,         /* replicas of a shard, learners included */
    OTR_SHARDS_MAX = 4096,        /* shards of a cluster */
    OTR_NODES_MAX = 1024,         /* nodes a process may meet in its life */
    OTR_POINT_ID_MAX = 512,       /* bytes of a point's id, UTF-8 without NUL, at least 1 */
    OTR_DIMENSION_MAX = 16384,    /* floats of a vector */
    OTR_METADATA_MAX = 64 * 1024, /* bytes of a point's metadata, JSON text of an object */
    OTR_BODY_MAX = 64 << 20,      /* bytes of a request's body and of a log entry */
};

/* A node as small number, private to one process: the topology gives each name that it meets the next number, from 1.
 * 0 is no node. Between processes nodes go by name. */
typedef uint32_t otr_node;
#define OTR_NODE_NONE ((otr_node)0)

/* Number of a shard in its cluster, from 0. */
typedef uint32_t otr_shard;

/* Position in a shard's log. Ordered by epoch, then index. {0, 0} is before the first entry; indexes start at 1. */
struct otr_position {
    uint64_t epoch;
    uint64_t index;
};

static inline int otr_position_compare(struct otr_position a, struct otr_position b)
{
    if (a.epoch != b.epoch) {
        return a.epoch < b.epoch ? -1 : 1;
    }
    return a.index < b.index ? -1 : a.index > b.index;
}

/* Identifies one client write across retries (DESIGN 4.2). All zero: none. */
struct otr_request_id {
    uint8_t bytes[16];
};

static inline bool otr_request_id_is_none(const struct otr_request_id *id)
{
    static const struct otr_request_id none;
    return memcmp(id, &none, sizeof none) == 0;
}

enum otr_metric {
    OTR_METRIC_COSINE = 1, /* 1 - cos */
    OTR_METRIC_EUCLIDEAN,  /* L2, with the root */
    OTR_METRIC_DOT,        /* -dot */
    OTR_METRIC_MANHATTAN,  /* L1 */
};

/* A point as everything behind the door sees it. Memory is lent by whoever hands it over. */
struct otr_point {
    const char *id; /* not NUL-terminated */
    uint32_t id_bytes;
    uint32_t dimension;
    const float *vector;  /* finite; aligned to 4 */
    const char *metadata; /* JSON text of an object; NULL when metadata_bytes is 0 */
    uint32_t metadata_bytes;
};

#endif
