/* Driver for RuVector behind the server in node/. One call is one HTTP request (making a collection that exists is
 * two); a struct call lives from there to the caller's callback.
 *
 * Writes, searches and probes go over connections of their own, so that a slow batch holds up no search and no probe.
 * Any call that finds no engine makes the watch (ruvector_health) look at once: a death is noticed by whoever meets it
 * first. */
#include "engines/ruvector/ruvector_codec.h"
#include "engines/ruvector/ruvector_health.h"

#include <assert.h>
#include <stdlib.h>

enum {
    REQUEST_TIMEOUT_MS = 10000,
    K_MAX = 100000, /* the server's limit; asking for more is asking for everything near */
    LANE_HEALTH = 0,
    LANE_WRITE = 1,
    LANE_READ = 2,
    CONNECTIONS_MAX = 64, /* of a lane. The engine works on one request at a time; more of them only cost descriptors */
};

struct ruvector {
    struct otr_engine engine; /* first: the caller's handle */
    struct http_client *client;
    struct ruvector_health health;
    char *base; /* URL without a slash at its end */
    char *hnsw; /* default index options of collections, or NULL: flat */
    uint32_t request_timeout_ms;
    otr_engine_status_cb on_status;
    void *data;
    bool closing;
    int parts_open; /* of client and health */
    otr_engine_close_cb close_cb;
    void *close_data;
};

struct call {
    struct ruvector *e;
    struct otr_engine_req *req;
    otr_engine_cb cb; /* one of the three */
    otr_engine_search_cb search_cb;
    otr_engine_count_cb count_cb;
    struct http_request http;
    char *url;
    struct ruvector_body body;
    const char *what;                         /* for messages: "upsert into" */
    char name[OTR_ENGINE_COLLECTION_MAX + 1]; /* the collection's */
    uint32_t dimension;                       /* collection_make: what is wanted */
    enum otr_metric metric;
};

static struct ruvector *ruvector_of(struct otr_engine *engine)
{
    return (struct ruvector *)engine;
}

/* --- one call
 * --------------------------------------------------------------------------------------------------------- */

static int call_new(struct call **call, struct otr_engine *engine, struct otr_engine_req *req, const char *what,
                    const char *name)
{
    size_t name_bytes = strlen(name);
    struct call *c;

    if (ruvector_of(engine)->closing) {
        return OTR_CANCELED;
    }
    if (name_bytes == 0 || name_bytes > OTR_ENGINE_COLLECTION_MAX) {
        return OTR_INVALID;
    }
    c = calloc(1, sizeof *c);
    if (c == NULL) {
        return OTR_NOMEM;
    }
    c->e = ruvector_of(engine);
    c->req = req;
    c->what = what;
    memcpy(c->name, name, name_bytes + 1);
    *call = c;
    return 0;
}

static void call_free(struct call *c)
{
    free(c->url);
    free(c->body.data);
    free(c);
}

/* Sends the call to `url` (malloc'd, NULL: out of memory), which it takes over; c->body is the body, if there is any.
 * On failure the call is freed. */
static int call_start(struct call *c, const char *method, char *url, const char *const *headers, unsigned lane,
                      http_done_cb done)
{
    int rv = OTR_NOMEM;

    c->url = url;
    if (url == NULL) {
        goto err;
    }
    c->http = (struct http_request){
        .method = method,
        .url = c->url,
        .headers = headers,
        .body = c->body.data,
        .body_bytes = c->body.bytes,
        .body_borrowed = true,
        .timeout_ms = c->e->request_timeout_ms,
        .lane = lane,
        .data = c,
    };
    rv = http_client_start(c->e->client, &c->http, done);
    if (rv != 0) {
        goto err;
    }
    return 0;
err:
    call_free(c);
    return rv;
}

/* Ends the call: the caller's callback runs, with `hits` or `count` where it takes them. */
static void call_finish(struct call *c, int status, const struct otr_engine_hit *hits, size_t hits_count,
                        uint64_t count, const struct otr_errmsg *msg)
{
    struct otr_engine_req *req = c->req;

    if (status == OTR_UNREACHABLE) {
        ruvector_health_look(&c->e->health);
    }
    if (c->search_cb != NULL) {
        c->search_cb(req, status, hits, hits_count, msg);
    } else if (c->count_cb != NULL) {
        c->count_cb(req, status, count, msg);
    } else {
        c->cb(req, status, msg);
    }
    call_free(c);
}

static void call_fail(struct call *c, int status, struct otr_errmsg *msg)
{
    otr_errmsg_wrap(msg, "%s %s", c->what, c->name);
    call_finish(c, status, NULL, 0, 0, msg);
}

/* What an answer means in engine.h's words, but for its body. A refusal says so with the engine's text; what may go
 * better the next time (starting, disk full, overloaded, cut off) is OTR_UNREACHABLE: the caller repeats it. */
static int outcome(int status, const struct http_response *response, const struct otr_errmsg *cause,
                   struct otr_errmsg *msg)
{
    char text[300];

    if (status != 0) {
        *msg = *cause;
        return status == OTR_CANCELED || status == OTR_TIMEOUT ? status
               : status == OTR_TOOBIG                          ? OTR_INVALID
                                                               : OTR_UNREACHABLE;
    }
    if (response->status >= 200 && response->status < 300) {
        return 0;
    }
    ruvector_codec_error_text(response->body, response->body_bytes, text, sizeof text);
    otr_errmsg_set(msg, "the engine answers %ld: %s", response->status, text);
    switch (response->status) {
    case 404:
        return OTR_NOTFOUND;
    case 409:
        return OTR_EXISTS;
    case 408:
    case 429:
    case 502:
    case 503:
    case 504:
    case 507:
        return OTR_UNREACHABLE;
    default:
        return OTR_INVALID;
    }
}

/* --- collections
 * ------------------------------------------------------------------------------------------------------ */

static const char *const headers_json[] = {"Content-Type: application/json", NULL};
static const char *const headers_binary[] = {"Content-Type: application/octet-stream", NULL};

static void make_compare_done(struct http_request *http, int status, const struct http_response *response,
                              const struct otr_errmsg *cause)
{
    struct call *c = http->data;
    struct ruvector_collection_info info = {0};
    struct otr_errmsg msg = {0};
    int rv = outcome(status, response, cause, &msg);

    if (rv == 0) {
        rv = ruvector_codec_info(response->body, response->body_bytes, &info, &msg);
    }
    if (rv == OTR_NOTFOUND) {
        rv = OTR_UNREACHABLE; /* Dropped between our two requests: once more will make it. */
    }
    if (rv == 0 && (info.dimension != c->dimension || info.metric != c->metric)) {
        otr_errmsg_set(&msg, "it exists with dimension %u and metric %d, wanted %u and %d", info.dimension,
                       (int)info.metric, c->dimension, (int)c->metric);
        rv = OTR_EXISTS;
    }
    if (rv != 0) {
        call_fail(c, rv, &msg);
        return;
    }
    call_finish(c, 0, NULL, 0, 0, &msg);
}

static void make_done(struct http_request *http, int status, const struct http_response *response,
                      const struct otr_errmsg *cause)
{
    struct call *c = http->data;
    struct otr_errmsg msg = {0};
    int rv = outcome(status, response, cause, &msg);

    if (rv != OTR_EXISTS) {
        if (rv != 0) {
            call_fail(c, rv, &msg);
        } else {
            call_finish(c, 0, NULL, 0, 0, &msg);
        }
        return;
    }
    /* It exists: as wanted? The same call asks. */
    free(c->url);
    free(c->body.data);
    c->body = (struct ruvector_body){0};
    c->url = ruvector_codec_url(c->e->base, c->name, "");
    c->http = (struct http_request){
        .method = "GET",
        .url = c->url,
        .timeout_ms = c->e->request_timeout_ms,
        .lane = LANE_WRITE,
        .data = c,
    };
    if (c->e->closing || c->url == NULL || http_client_start(c->e->client, &c->http, make_compare_done) != 0) {
        rv = c->e->closing ? OTR_CANCELED : OTR_UNREACHABLE;
        otr_errmsg_set(&msg, "%s", c->e->closing ? otr_strerror(OTR_CANCELED) : otr_strerror(OTR_NOMEM));
        call_fail(c, rv, &msg);
    }
}

static int collection_make(struct otr_engine *engine, struct otr_engine_req *req, const char *name, uint32_t dimension,
                           enum otr_metric metric, const char *options, otr_engine_cb cb)
{
    struct ruvector *e = ruvector_of(engine);
    const char *hnsw;
    char *own = NULL;
    struct call *c;
    int rv = call_new(&c, engine, req, "make collection", name);

    if (rv != 0) {
        return rv;
    }
    c->cb = cb;
    c->dimension = dimension;
    c->metric = metric;
    rv = ruvector_codec_options(options, &own, NULL);
    if (rv != 0) {
        goto err_after_call;
    }
    /* The default gives way where the engine's graph orders wrongly; asked for by name it is refused. */
    hnsw = own != NULL ? own : metric != OTR_METRIC_DOT ? e->hnsw : NULL;
    rv = ruvector_codec_make(name, dimension, metric, hnsw, &c->body);
    free(own);
    if (rv != 0) {
        goto err_after_call;
    }
    return call_start(c, "POST", ruvector_codec_url(e->base, NULL, ""), headers_json, LANE_WRITE, make_done);

err_after_call:
    call_free(c);
    return rv;
}

/* For calls whose success has no body worth reading: an absent collection counts as dropped. */
static void drop_done(struct http_request *http, int status, const struct http_response *response,
                      const struct otr_errmsg *cause)
{
    struct call *c = http->data;
    struct otr_errmsg msg = {0};
    int rv = outcome(status, response, cause, &msg);

    if (rv != 0 && rv != OTR_NOTFOUND) {
        call_fail(c, rv, &msg);
        return;
    }
    call_finish(c, 0, NULL, 0, 0, &msg);
}

static int collection_drop(struct otr_engine *engine, struct otr_engine_req *req, const char *name, otr_engine_cb cb)
{
    struct call *c;
    int rv = call_new(&c, engine, req, "drop collection", name);

    if (rv != 0) {
        return rv;
    }
    c->cb = cb;
    return call_start(c, "DELETE", ruvector_codec_url(c->e->base, name, ""), NULL, LANE_WRITE, drop_done);
}

/* --- points
 * ----------------------------------------------------------------------------------------------------------- */

static void write_done(struct http_request *http, int status, const struct http_response *response,
                       const struct otr_errmsg *cause)
{
    struct call *c = http->data;
    struct otr_errmsg msg = {0};
    int rv = outcome(status, response, cause, &msg);

    if (rv == 0) {
        rv = ruvector_codec_done(response->body, response->body_bytes, &msg);
    }
    if (rv != 0) {
        call_fail(c, rv, &msg);
        return;
    }
    call_finish(c, 0, NULL, 0, 0, &msg);
}

static int upsert(struct otr_engine *engine, struct otr_engine_req *req, const char *name,
                  const struct otr_point *points, size_t count, otr_engine_cb cb)
{
    struct call *c;
    int rv = call_new(&c, engine, req, "upsert into", name);

    if (rv != 0) {
        return rv;
    }
    c->cb = cb;
    rv = ruvector_codec_upsert(points, count, &c->body);
    if (rv != 0) {
        call_free(c);
        return rv;
    }
    return call_start(c, "PUT", ruvector_codec_url(c->e->base, name, "/points"), headers_binary, LANE_WRITE,
                      write_done);
}

static int erase(struct otr_engine *engine, struct otr_engine_req *req, const char *name,
                 const struct otr_point *points, size_t count, otr_engine_cb cb)
{
    struct call *c;
    int rv = call_new(&c, engine, req, "erase from", name);

    if (rv != 0) {
        return rv;
    }
    c->cb = cb;
    rv = ruvector_codec_erase(points, count, &c->body);
    if (rv != 0) {
        call_free(c);
        return rv;
    }
    return call_start(c, "POST", ruvector_codec_url(c->e->base, name, "/points/delete"), headers_binary, LANE_WRITE,
                      write_done);
}

static void search_done(struct http_request *http, int status, const struct http_response *response,
                        const struct otr_errmsg *cause)
{
    struct call *c = http->data;
    struct otr_engine_hit *hits = NULL;
    struct otr_errmsg msg = {0};
    size_t hits_count = 0;
    int rv = outcome(status, response, cause, &msg);

    if (rv == 0) {
        rv = ruvector_codec_hits(response->body, response->body_bytes, &hits, &hits_count, &msg);
    }
    if (rv != 0) {
        call_fail(c, rv, &msg);
        return;
    }
    call_finish(c, 0, hits, hits_count, 0, &msg);
    free(hits);
}

static int search(struct otr_engine *engine, struct otr_engine_req *req, const char *name, const float *vector,
                  uint32_t dimension, uint32_t k, otr_engine_search_cb cb)
{
    struct call *c;
    int rv = call_new(&c, engine, req, "search in", name);

    if (rv != 0) {
        return rv;
    }
    c->search_cb = cb;
    rv = k == 0 ? OTR_INVALID : ruvector_codec_search(vector, dimension, k < K_MAX ? k : K_MAX, &c->body);
    if (rv != 0) {
        call_free(c);
        return rv;
    }
    return call_start(c, "POST", ruvector_codec_url(c->e->base, name, "/points/search"), headers_binary, LANE_READ,
                      search_done);
}

static void count_done(struct http_request *http, int status, const struct http_response *response,
                       const struct otr_errmsg *cause)
{
    struct call *c = http->data;
    struct ruvector_collection_info info;
    struct otr_errmsg msg = {0};
    int rv = outcome(status, response, cause, &msg);

    if (rv == 0) {
        rv = ruvector_codec_info(response->body, response->body_bytes, &info, &msg);
    }
    if (rv != 0) {
        call_fail(c, rv, &msg);
        return;
    }
    call_finish(c, 0, NULL, 0, info.count, &msg);
}

static int count(struct otr_engine *engine, struct otr_engine_req *req, const char *name, otr_engine_count_cb cb)
{
    struct call *c;
    int rv = call_new(&c, engine, req, "count in", name);

    if (rv != 0) {
        return rv;
    }
    c->count_cb = cb;
    return call_start(c, "GET", ruvector_codec_url(c->e->base, name, ""), NULL, LANE_READ, count_done);
}

/* --- the engine
 * ------------------------------------------------------------------------------------------------------- */

static void health_changed(struct ruvector_health *health, const struct otr_engine_status *status,
                           const struct otr_errmsg *msg)
{
    struct ruvector *e = health->data;

    if (e->on_status != NULL) {
        e->on_status(&e->engine, status, msg, e->data);
    }
}

/* "http://host:port" with or without a slash behind it. */
static int base_new(const char *url, char **base, struct otr_errmsg *msg)
{
    size_t bytes = url != NULL ? strlen(url) : 0;

    if (bytes == 0 || (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)) {
        otr_errmsg_set(msg, "engine URL \"%.200s\" must start with http:// or https://", url != NULL ? url : "");
        return OTR_INVALID;
    }
    while (url[bytes - 1] == '/') {
        bytes--;
    }
    *base = strndup(url, bytes);
    return *base != NULL ? 0 : OTR_NOMEM;
}

static int ruvector_open(struct otr_engine **engine, const struct otr_engine_config *config, struct otr_errmsg *msg)
{
    struct ruvector *e = calloc(1, sizeof *e);
    int rv = OTR_NOMEM;

    if (e == NULL) {
        goto err;
    }
    e->engine.ops = &otr_engine_ruvector;
    e->on_status = config->on_status;
    e->data = config->data;
    e->request_timeout_ms = config->request_timeout_ms != 0 ? config->request_timeout_ms : REQUEST_TIMEOUT_MS;
    rv = ruvector_codec_options(config->options, &e->hnsw, msg);
    if (rv != 0) {
        goto err_after_alloc;
    }
    rv = base_new(config->url, &e->base, msg);
    if (rv != 0) {
        goto err_after_options;
    }
    rv = http_client_new(&e->client, config->loop, &(struct http_client_config){.connections_max = CONNECTIONS_MAX},
                         msg);
    if (rv != 0) {
        goto err_after_base;
    }
    e->health.data = e;
    rv = ruvector_health_start(&e->health, config->loop, e->client, e->base, LANE_HEALTH, health_changed);
    if (rv != 0) {
        goto err_after_client;
    }
    *engine = &e->engine;
    return 0;

err_after_client:
    http_client_close(e->client, NULL, NULL);
err_after_base:
    free(e->base);
err_after_options:
    free(e->hnsw);
err_after_alloc:
    free(e);
err:
    otr_errmsg_wrap(msg, "open engine ruvector");
    return rv;
}

static void caps(const struct otr_engine *engine, struct otr_engine_caps *caps_out)
{
    const struct ruvector *e = (const struct ruvector *)engine;

    *caps_out = (struct otr_engine_caps){
        .metrics =
            1U << OTR_METRIC_COSINE | 1U << OTR_METRIC_EUCLIDEAN | 1U << OTR_METRIC_DOT | 1U << OTR_METRIC_MANHATTAN,
        .exact = e->hnsw == NULL,
        .lists = true,
    };
}

static void part_closed(struct ruvector *e)
{
    if (--e->parts_open > 0) {
        return;
    }
    e->close_cb(&e->engine, e->close_data);
    free(e->base);
    free(e->hnsw);
    free(e);
}

static void client_closed(void *data)
{
    part_closed(data);
}

static void health_closed(struct ruvector_health *health)
{
    part_closed(health->data);
}

static void ruvector_close(struct otr_engine *engine, otr_engine_close_cb cb, void *data)
{
    struct ruvector *e = ruvector_of(engine);

    assert(!e->closing);
    e->closing = true;
    e->close_cb = cb;
    e->close_data = data;
    e->parts_open = 2;
    ruvector_health_close(&e->health, health_closed);
    http_client_close(e->client, client_closed, e);
}

const struct otr_engine_ops otr_engine_ruvector = {
    .name = "ruvector",
    .open = ruvector_open,
    .caps = caps,
    .collection_make = collection_make,
    .collection_drop = collection_drop,
    .upsert = upsert,
    .erase = erase,
    .search = search,
    .count = count,
    .close = ruvector_close,
};
