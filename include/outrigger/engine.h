/* Engine driver: what Outrigger needs of a single-node vector engine. The engine is a view of the log (DESIGN 5): it
 * may lose data, return points that are deleted or overwritten, or fewer than asked for; the sidecar verifies and
 * repairs.
 *
 * The same asynchronous contract as backend.h: 0 and `cb` exactly once, later, on the loop thread; or an error and no
 * callback. Everything passed in is copied (serialised) before the call returns. Results are lent for the callback.
 *
 * The caller sends at most one write per collection at a time, about OTR_ENGINE_BATCH points each; searches may run
 * beside it. All writes are idempotent: after a doubt the caller repeats them.
 */
#ifndef OUTRIGGER_ENGINE_H
#define OUTRIGGER_ENGINE_H

#include "outrigger/err.h"
#include "outrigger/types.h"

struct uv_loop_s;
struct otr_engine;

enum {
    OTR_ENGINE_BATCH = 100,           /* points of one upsert or erase */
    OTR_ENGINE_BATCH_BYTES = 1 << 20, /* about as many bytes */
    OTR_ENGINE_COLLECTION_MAX = 96,   /* bytes of an engine collection's name: "<collection>__<shard>" */
    OTR_ENGINE_ID_MAX = 64            /* bytes of data_id with its NUL */
};

struct otr_engine_caps {
    uint32_t metrics; /* bit 1 << enum otr_metric */
    bool exact;       /* search returns the true nearest points of what it holds */
    bool lists;       /* can name all ids that it holds */
};

struct otr_engine_hit {
    const char *id;
    uint32_t id_bytes;
    double score; /* already in our meaning: distance, smaller is better */
};

struct otr_engine_req {
    void *data;
    void *internal;
};

/* status: 0; OTR_UNREACHABLE or OTR_TIMEOUT (may have been done; repeat when it is up again); OTR_NOTFOUND (no such
 * collection); OTR_INVALID (the engine refused it: a bug or a damaged engine); OTR_CANCELED. */
typedef void (*otr_engine_cb)(struct otr_engine_req *req, int status, const struct otr_errmsg *msg);
typedef void (*otr_engine_search_cb)(struct otr_engine_req *req, int status, const struct otr_engine_hit *hits,
                                     size_t hits_count, const struct otr_errmsg *msg);
typedef void (*otr_engine_count_cb)(struct otr_engine_req *req, int status, uint64_t count,
                                    const struct otr_errmsg *msg);

/* The engine's health, watched by the driver itself (connections, a light probe a few times per second).
 * data_id names the engine's stored data: it is drawn when its data directory is made new, and kept as long as the data
 * are. Another data_id than before means: everything is lost, replay. boot_id changes with every start of the process.
 */
struct otr_engine_status {
    bool up;
    bool evidently_dead; /* its port refuses connections */
    char data_id[OTR_ENGINE_ID_MAX];
    char boot_id[OTR_ENGINE_ID_MAX];
};
/* Fires on every change of any member, first when the first probe has ended. */
typedef void (*otr_engine_status_cb)(struct otr_engine *engine, const struct otr_engine_status *status,
                                     const struct otr_errmsg *msg, void *data);

struct otr_engine_config {
    struct uv_loop_s *loop;
    const char *url;
    uint32_t request_timeout_ms; /* 0: 10000 */
    const char *options;         /* engine options of the configuration as JSON object, or NULL */
    otr_engine_status_cb on_status;
    void *data;
};

typedef void (*otr_engine_close_cb)(struct otr_engine *engine, void *data);

struct otr_engine_ops {
    const char *name; /* "ruvector", "redis", "fake" */
    int (*open)(struct otr_engine **engine, const struct otr_engine_config *config, struct otr_errmsg *msg);
    void (*caps)(const struct otr_engine *e, struct otr_engine_caps *caps);
    /* Makes the collection; 0 also when it exists with the same dimension and metric, OTR_EXISTS when it differs.
     * options: the collection's engine options as JSON object, or NULL. */
    int (*collection_make)(struct otr_engine *e, struct otr_engine_req *req, const char *name, uint32_t dimension,
                           enum otr_metric metric, const char *options, otr_engine_cb cb);
    /* 0 also when it does not exist. */
    int (*collection_drop)(struct otr_engine *e, struct otr_engine_req *req, const char *name, otr_engine_cb cb);
    int (*upsert)(struct otr_engine *e, struct otr_engine_req *req, const char *name, const struct otr_point *points,
                  size_t count, otr_engine_cb cb);
    /* points: only the ids are read. Absent ids are no error. */
    int (*erase)(struct otr_engine *e, struct otr_engine_req *req, const char *name, const struct otr_point *points,
                 size_t count, otr_engine_cb cb);
    /* The k nearest it finds, best first. Ids may repeat and may be dead; the caller verifies. */
    int (*search)(struct otr_engine *e, struct otr_engine_req *req, const char *name, const float *vector,
                  uint32_t dimension, uint32_t k, otr_engine_search_cb cb);
    int (*count)(struct otr_engine *e, struct otr_engine_req *req, const char *name, otr_engine_count_cb cb);
    void (*close)(struct otr_engine *e, otr_engine_close_cb cb, void *data);
};

/* Every implementation starts with this. */
struct otr_engine {
    const struct otr_engine_ops *ops;
};

extern const struct otr_engine_ops otr_engine_ruvector;

/* The one table of engines, NULL when unknown. In sidecar/cli/engines.c. */
const struct otr_engine_ops *otr_engine_find(const char *name);

#endif
