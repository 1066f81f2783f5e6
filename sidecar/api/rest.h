/* What the files of the REST calls share. Nobody outside this room includes it.
 *
 *   api.c               opening and closing
 *   rest.c              a request's life: routing, headers, deadlines, errors
 *   rest_access.c       who may call what
 *   rest_admission.c    how many requests at the same time
 *   rest_collections.c  collections made, listed, described, deleted
 *   rest_points.c       put, get, delete, search
 *   rest_status.c       /healthz, /readyz, /cluster, /cluster/stats
 *   rest_admin.c        what operators do to the cluster
 *   rest_metrics.c      /metrics
 *
 * A request is answered exactly once; what was started for it (door, coordinator, thread pool) may end later, so it
 * lives until `pending` is zero as well. */
#ifndef OUTRIGGER_API_REST_H
#define OUTRIGGER_API_REST_H

#include "sidecar/api/api.h"
#include "sidecar/api/http.h"
#include "sidecar/api/json_points.h"
#include "sidecar/api/tokens_file.h"
#include "sidecar/api/url.h"

enum {
    REST_ANSWER_MAX = 64 << 20,
    REST_TIMEOUT_DEFAULT_MS = 10000,
    REST_GRACE_MS = 1000,          /* the door keeps the deadline itself; this long it may be late */
    REST_INLINE_BYTES = 128 << 10, /* larger bodies are parsed on the thread pool */
    REST_VECTORS_MAX = 1 << 20,    /* floats of one search answer */
    REST_TICK_MS = 50,
    REST_ROUTES_MAX = 32,
    REST_CLASSES = 4, /* of status codes: 2xx to 5xx */
};

/* Kinds of requests, each with bounds of its own: those of enum node_operation, and what is asked of the cluster. */
enum { REST_ADMIN = NODE_OPS, REST_KINDS };

struct rest_request;

/* clang-format off */
/* outrigger_http_..., by method and route; the second also by class of status code */
#define ROUTE_METRICS(X, S) X(S, request_duration_seconds, HISTOGRAM, "From a request's last byte to its answer")
#define CODE_METRICS(X, S) X(S, requests_total, COUNTER, "Requests answered")
/* outrigger_http_... */
#define REST_METRICS(X, S)                                                                                              \
    X(S, requests_in_flight, GAUGE, "Requests not yet answered")                                                        \
    X(S, denied_total, COUNTER, "Requests refused with 401 or 403: no token, an unknown one, or one of too weak a role") \
    /* read when asked */                                                                                               \
    X(S, tokens, GAUGE, "Tokens in force; 0: none are configured")                                                      \
    X(S, tokens_file_bad, GAUGE, "1 while the file of tokens cannot be used and the tokens read before stay in force")
/* outrigger_admission_..., of the door and of the shards here, by operation */
#define ADMISSION_METRICS(X, S)                                                                                         \
    X(S, under_way, GAUGE, "Requests under way")                                                                        \
    X(S, bytes, GAUGE, "Bytes of their bodies")                                                                         \
    X(S, limit, GAUGE, "So many may be under way now; falls below the setting while even the quickest take too long")   \
    X(S, delay_seconds, GAUGE_MS, "How long the quickest request of the newest tenth of a second took")
/* clang-format on */
METRICS_STRUCT(admission_metrics, ADMISSION_METRICS);
METRICS_STRUCT(route_metrics, ROUTE_METRICS);
METRICS_STRUCT(code_metrics, CODE_METRICS);
METRICS_STRUCT(rest_metrics, REST_METRICS);

struct api {
    struct node *node;
    uv_loop_t *loop;
    struct door *door;
    struct http_server *http;
    struct tokens_file *tokens; /* NULL: none are configured */
    struct tls *tls;            /* NULL: plain HTTP */
    bool metrics_open;
    uv_timer_t timer;
    uint32_t request_timeout_ms;
    struct rest_request *requests; /* not yet answered */
    struct rest_metrics metrics;
    struct admission admissions[REST_KINDS];
    struct route_metrics routes[REST_ROUTES_MAX + 1]; /* the last: what has no route */
    struct code_metrics codes[REST_ROUTES_MAX + 1][REST_CLASSES];
    uint64_t finish_ms; /* until then what is under way may be answered */
    bool closing;
    int handles_open;
    void (*close_cb)(void *data);
    void *close_data;
};

typedef void (*rest_step)(struct rest_request *r);

struct rest_request {
    struct api *api;         /* NULL once answered with something pending */
    struct http_exchange *x; /* NULL once answered */
    struct rest_request *next, **link;
    uint32_t pending;
    size_t route; /* its number */
    uint64_t started_ns;
    uint64_t give_up_ms;         /* answered with OTR_TIMEOUT then, when whoever should answer does not */
    bool writes;                 /* an answer that is lost may hide an effect */
    bool gone;                   /* nobody will read the answer */
    bool unsampled;              /* its time says nothing about the load */
    struct admission *admission; /* where it is counted; NULL: nowhere */
    uint64_t admission_bytes;
    struct door_ticket ticket;
    struct url url;
    char *body; /* taken from the exchange */
    size_t body_bytes;
    uint32_t timeout_ms;
    uint64_t deadline_ms;
    struct otr_request_id request_id;
    enum node_consistency consistency;
    struct door_positions after;
    struct {
        uint64_t id;
        uint32_t dimension;
        enum otr_metric metric;
    } collection;
    rest_step found; /* goes on once the collection is known */
    rest_step after_parsing;
    uv_work_t work;
    int parsed; /* of the parser on the thread pool */
    struct otr_errmsg msg;
    struct json_points points;
    struct json_search search;
    struct topology_collection *made; /* being created */
};

void rest_on_request(void *data, struct http_exchange *x);
/* Answers what is still under way with 503; door and server must have been told before. */
void rest_cancel_all(struct api *a);
void rest_tick(struct api *a);

/* --- for the handlers ------------------------------------------------------------------------------------------------
 */

/* Something was started whose callback will call rest_returned: false there when the request is over (and maybe gone).
 */
void rest_pending(struct rest_request *r);
bool rest_returned(struct rest_request *r);
uint32_t rest_left_ms(const struct rest_request *r);

/* Answers. `headers`: further lines, or NULL. */
void rest_reply(struct rest_request *r, int status, const char *headers, struct text *body);
void rest_error(struct rest_request *r, int err, const char *message);
void rest_error_more(struct rest_request *r, int err, const char *message, const char *applied, const char *headers,
                     const char *more);
/* The collection that the path names: then calls `found`; or answers 404 (only after the coordinator was asked), 503.
 */
void rest_with_collection(struct rest_request *r, rest_step found);

void rest_collection_create(struct rest_request *r);
void rest_collection_list(struct rest_request *r);
void rest_collection_get(struct rest_request *r);
void rest_collection_delete(struct rest_request *r);
void rest_points_put(struct rest_request *r);
void rest_points_delete(struct rest_request *r);
void rest_points_search(struct rest_request *r);
void rest_point_get(struct rest_request *r);
void rest_point_delete(struct rest_request *r);
void rest_healthz(struct rest_request *r);
void rest_readyz(struct rest_request *r);
void rest_cluster(struct rest_request *r);
void rest_stats(struct rest_request *r);
void rest_failover(struct rest_request *r);
void rest_losses(struct rest_request *r);
void rest_survivor(struct rest_request *r);
void rest_metrics(struct rest_request *r);

/* The method and path of a route, "*" for what a client chooses; false: there is none of that number. */
bool rest_route(size_t number, const char **method, char *path, size_t path_bytes);
/* The role it needs, TOKEN_NONE: open to all; that of what has no route is TOKEN_READ. */
enum token_role rest_route_role(size_t number);
/* Changes the cluster itself, not what is stored in it: POST, PUT, DELETE below /cluster. */
bool rest_route_changes_cluster(size_t number);
bool rest_route_is_metrics(size_t number);

/* --- rest_access.c --- */

/* False: the request was refused, and answered. */
bool rest_allowed(struct rest_request *r);
/* http_head_cb: without a token that is known, or with too much to do, no body is read. */
bool rest_on_head(void *data, const struct http_exchange *x);

/* --- rest_admission.c --- */

void rest_admission_init(struct api *a, const struct api_config *config);
/* False: there is too much to do; it was answered. */
bool rest_admit(struct rest_request *r, rest_step handler);
/* It is being answered. */
void rest_admission_end(struct rest_request *r, int status);
/* Whether the body of that request is worth reading. */
bool rest_admission_head(struct api *a, const struct http_exchange *x);
void rest_on_gone(void *data, struct http_exchange *x); /* http_gone_cb */
/* Somebody waits for it, and its time is not over. */
bool rest_still_wanted(const struct rest_request *r);

#endif
