/* The bodies of the REST calls, read in one pass: vectors go straight into float32 arrays, ids and metadata stay where
 * they stand in the body. What an engine could refuse is refused here, before anything is logged (DESIGN 5).
 *
 * Unknown keys are refused: a misspelt "metdata" would else be lost silently. null counts as absent where a member is
 * optional. Metadata is kept as the client's bytes. Errors name the place: "points[3].vector[17]: not finite in
 * float32".
 *
 * Text as json.h wants it: writable, JSON_SLACK bytes behind. It must live as long as the result, which points into it.
 * Every function returns 0, OTR_INVALID, OTR_TOOBIG or OTR_NOMEM with words. Any thread. */
#ifndef OUTRIGGER_API_JSON_POINTS_H
#define OUTRIGGER_API_JSON_POINTS_H

#include "outrigger/err.h"
#include "outrigger/types.h"
#include "sidecar/core/arena.h"

enum {
    JSON_POINTS_MAX = 100000,  /* points or ids of one request */
    JSON_SEARCH_K_MAX = 10000, /* hits of one search */
    JSON_SEARCH_K_DEFAULT = 10,
};

/* What the collection demands of a vector. */
struct json_vector_rules {
    uint32_t dimension;
    enum otr_metric metric;
};

struct json_points {
    struct otr_point *points;
    size_t count;
    struct arena arena;
};
void json_points_close(struct json_points *p);

/* {"points":[{"id"?,"vector","metadata"?}]}. A point without id gets a UUID (version 4 in form) that is drawn from the
 * request's id and the point's number, so that a client's retry of the same request names the same points. */
OTR_MUST_CHECK int json_points_read(struct json_points *out, const struct json_vector_rules *rules,
                                    const struct otr_request_id *request_id, char *text, size_t bytes,
                                    struct otr_errmsg *msg);

/* {"ids":["a","b"]}: points with nothing but an id. */
OTR_MUST_CHECK int json_ids_read(struct json_points *out, char *text, size_t bytes, struct otr_errmsg *msg);

struct json_search {
    float *vector; /* in the arena */
    uint32_t k;
    bool with_threshold;
    double threshold;
    const char *filter; /* NUL-terminated copy in the arena; NULL: none */
    bool with_vector;
    struct arena arena;
};
void json_search_close(struct json_search *s);
/* {"vector", "k"?, "score_threshold"?, "filter"?, "with_vector"?} */
OTR_MUST_CHECK int json_search_read(struct json_search *out, const struct json_vector_rules *rules, char *text,
                                    size_t bytes, struct otr_errmsg *msg);

struct json_collection {
    char name[OTR_NAME_MAX + 1];
    uint32_t dimension;
    enum otr_metric metric;
};
/* {"name", "dimension", "metric"?}; the metric is cosine when none is given. Whether the name is legal is not checked.
 */
OTR_MUST_CHECK int json_collection_read(struct json_collection *out, char *text, size_t bytes, struct otr_errmsg *msg);

/* Why this is no id of a point, NULL when it is one. Also for ids out of a path. */
const char *json_id_fault(const char *id, size_t bytes);

#endif
