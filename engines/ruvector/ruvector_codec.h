/* What travels between the driver and engines/ruvector/node: binary bodies (node/lib/codec.js has the layout), paths
 * and the few JSON answers. Pure: no I/O. Bodies are malloc'd, the caller frees them. Answers come from outside:
 * whatever they hold, the worst is an error. Any thread. */
#ifndef OUTRIGGER_RUVECTOR_CODEC_H
#define OUTRIGGER_RUVECTOR_CODEC_H

#include "outrigger/engine.h"

struct ruvector_body {
    void *data;
    size_t bytes;
};

/* 0; OTR_NOMEM; OTR_INVALID (points of different dimensions, an id that is empty or too long); OTR_TOOBIG (more than
 * the server takes, OTR_BODY_MAX). */
int ruvector_codec_upsert(const struct otr_point *points, size_t count, struct ruvector_body *body);
int ruvector_codec_erase(const struct otr_point *points, size_t count, struct ruvector_body *body);
int ruvector_codec_search(const float *vector, uint32_t dimension, uint32_t k, struct ruvector_body *body);

/* The body of POST /collections. `hnsw`: JSON text of the index options, NULL: the flat index. */
int ruvector_codec_make(const char *name, uint32_t dimension, enum otr_metric metric, const char *hnsw,
                        struct ruvector_body *body);

/* Takes the "hnsw" member out of engine or collection options (a JSON object or NULL). *hnsw is malloc'd JSON text,
 * NULL when there is none. OTR_INVALID with text when the options are not an object or hold anything else. */
int ruvector_codec_options(const char *options, char **hnsw, struct otr_errmsg *msg);

/* "<base>/collections/<name, percent-encoded><suffix>", malloc'd; NULL when out of memory. Without a name (NULL) the
 * slash before it is left out too. */
char *ruvector_codec_url(const char *base, const char *name, const char *suffix);

/* The hits of an answer, malloc'd; their ids point into `data`. Hits that cannot be ours are left out: scores that are
 * no numbers, ids that are empty or longer than OTR_POINT_ID_MAX. OTR_INVALID with text, OTR_NOMEM. */
int ruvector_codec_hits(const void *data, size_t bytes, struct otr_engine_hit **hits, size_t *hits_count,
                        struct otr_errmsg *msg);

/* The answer to a binary upsert or delete. OTR_INVALID with text. */
int ruvector_codec_done(const void *data, size_t bytes, struct otr_errmsg *msg);

struct ruvector_collection_info {
    uint32_t dimension;
    enum otr_metric metric;
    uint64_t count;
};

/* GET /collections/:c. OTR_INVALID with text. */
int ruvector_codec_info(const char *data, size_t bytes, struct ruvector_collection_info *info, struct otr_errmsg *msg);

/* GET /health: fills the ids of a healthy server. OTR_INVALID with text when it is anything else. */
int ruvector_codec_health(const char *data, size_t bytes, struct otr_engine_status *status, struct otr_errmsg *msg);

/* The engine's own words of an error answer, or the start of whatever it sent; printable, cut to `text_bytes`. */
void ruvector_codec_error_text(const char *data, size_t bytes, char *text, size_t text_bytes);

#endif
