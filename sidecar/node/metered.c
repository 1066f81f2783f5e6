/* Sessions and watches are the inner backend's own; gets, transactions and the simple requests go by a request of ours
 * that remembers whose it is and since when. */
#include "sidecar/node/metered.h"

#include "sidecar/io/clock.h"

#include <assert.h>
#include <stdlib.h>

struct metered {
    struct otr_backend base;
    struct otr_backend *inner;
    struct coordinator_metrics *metrics;
    otr_close_cb close_cb;
};

struct metered_req {
    struct coordinator_metrics *metrics; /* of the call's kind */
    uint64_t start_ns;
    union {
        struct otr_get_req get;
        struct otr_txn_req txn;
        struct otr_simple_req simple;
    } inner;
    void *req; /* the caller's */
    void **internal;
    union {
        otr_get_cb get;
        otr_txn_cb txn;
        otr_simple_cb simple;
    } cb;
};

static struct metered *metered_of(struct otr_backend *b)
{
    return (struct metered *)(void *)b;
}

/* `internal`: the caller's request's; it marks a request that is under way, for using one twice is a bug. */
static struct metered_req *req_new(struct metered *m, enum node_call call, void *req, void **internal)
{
    struct metered_req *r = calloc(1, sizeof *r);

    assert(*internal == NULL);
    if (r != NULL) {
        r->metrics = &m->metrics[call];
        r->start_ns = clock_now_ns();
        r->req = req;
        r->internal = internal;
        *internal = r;
    }
    return r;
}

/* What the call itself returned: on failure there will be no callback. */
static int req_started(struct metered_req *r, int rv)
{
    if (rv != 0) {
        r->metrics->failures_total++;
        *r->internal = NULL;
        free(r);
    }
    return rv;
}

static void req_ended(struct metered_req *r, int status)
{
    metrics_observe_since_ns(&r->metrics->call_seconds, r->start_ns);
    if (status != 0 && status != OTR_CONFLICT && status != OTR_NOTFOUND && status != OTR_CANCELED) {
        r->metrics->failures_total++;
    }
    *r->internal = NULL;
    free(r);
}

/* --- calls -------------------------------------------------------------------------------------------------------- */

static void on_got(struct otr_get_req *inner, int status, const struct otr_get_result *result,
                   const struct otr_errmsg *msg)
{
    struct metered_req *r = inner->data;
    struct otr_get_req *req = r->req;
    otr_get_cb cb = r->cb.get;

    req_ended(r, status);
    cb(req, status, result, msg);
}

static int metered_get(struct otr_backend *b, struct otr_get_req *req, const char *prefix, otr_get_cb cb)
{
    struct metered *m = metered_of(b);
    struct metered_req *r = req_new(m, NODE_CALL_GET, req, &req->internal);

    if (r == NULL) {
        return OTR_NOMEM;
    }
    r->cb.get = cb;
    r->inner.get.data = r;
    return req_started(r, m->inner->ops->get(m->inner, &r->inner.get, prefix, on_got));
}

static void on_txn(struct otr_txn_req *inner, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    struct metered_req *r = inner->data;
    struct otr_txn_req *req = r->req;
    otr_txn_cb cb = r->cb.txn;

    req_ended(r, status);
    cb(req, status, revision, msg);
}

static int metered_txn(struct otr_backend *b, struct otr_txn_req *req, const struct otr_txn *txn, otr_txn_cb cb)
{
    struct metered *m = metered_of(b);
    struct metered_req *r = req_new(m, NODE_CALL_TXN, req, &req->internal);

    if (r == NULL) {
        return OTR_NOMEM;
    }
    r->cb.txn = cb;
    r->inner.txn.data = r;
    return req_started(r, m->inner->ops->txn(m->inner, &r->inner.txn, txn, on_txn));
}

static void on_simple(struct otr_simple_req *inner, int status, const struct otr_errmsg *msg)
{
    struct metered_req *r = inner->data;
    struct otr_simple_req *req = r->req;
    otr_simple_cb cb = r->cb.simple;

    req_ended(r, status);
    cb(req, status, msg);
}

static struct metered_req *simple_new(struct metered *m, enum node_call call, struct otr_simple_req *req,
                                      otr_simple_cb cb)
{
    struct metered_req *r = req_new(m, call, req, &req->internal);

    if (r != NULL) {
        r->cb.simple = cb;
        r->inner.simple.data = r;
    }
    return r;
}

static int metered_session_open(struct otr_backend *b, struct otr_session *s, uint32_t ttl_ms, otr_session_cb cb)
{
    struct metered *m = metered_of(b);

    return m->inner->ops->session_open(m->inner, s, ttl_ms, cb);
}

static int metered_session_close(struct otr_backend *b, struct otr_session *s, struct otr_simple_req *req,
                                 otr_simple_cb cb)
{
    struct metered *m = metered_of(b);
    struct metered_req *r = simple_new(m, NODE_CALL_SESSION, req, cb);

    return r == NULL ? OTR_NOMEM
                     : req_started(r, m->inner->ops->session_close(m->inner, s, &r->inner.simple, on_simple));
}

static int metered_session_revoke(struct otr_backend *b, const char *id, struct otr_simple_req *req, otr_simple_cb cb)
{
    struct metered *m = metered_of(b);
    struct metered_req *r = simple_new(m, NODE_CALL_SESSION, req, cb);

    return r == NULL ? OTR_NOMEM
                     : req_started(r, m->inner->ops->session_revoke(m->inner, id, &r->inner.simple, on_simple));
}

static int metered_service_register(struct otr_backend *b, struct otr_session *s, const struct otr_service *service,
                                    enum otr_health health, struct otr_simple_req *req, otr_simple_cb cb)
{
    struct metered *m = metered_of(b);
    struct metered_req *r = simple_new(m, NODE_CALL_SERVICE, req, cb);

    return r == NULL ? OTR_NOMEM
                     : req_started(r, m->inner->ops->service_register(m->inner, s, service, health, &r->inner.simple,
                                                                      on_simple));
}

static int metered_watch(struct otr_backend *b, struct otr_watch *w, const char *prefix, uint64_t revision,
                         otr_watch_cb cb)
{
    struct metered *m = metered_of(b);

    return m->inner->ops->watch(m->inner, w, prefix, revision, cb);
}

static void metered_watch_stop(struct otr_backend *b, struct otr_watch *w)
{
    struct metered *m = metered_of(b);

    m->inner->ops->watch_stop(m->inner, w);
}

/* --- opening and closing ------------------------------------------------------------------------------------------ */

static void on_closed(struct otr_backend *inner)
{
    struct metered *m = inner->data;

    m->inner = NULL;
    m->close_cb(&m->base);
    free(m);
}

static void metered_close(struct otr_backend *b, otr_close_cb cb, void *data)
{
    struct metered *m = metered_of(b);

    m->base.data = data;
    m->close_cb = cb;
    m->inner->ops->close(m->inner, on_closed, m);
}

/* Without `open`: it is wrapped open. */
static const struct otr_backend_ops metered_ops = {
    .name = "metered",
    .session_open = metered_session_open,
    .session_close = metered_session_close,
    .session_revoke = metered_session_revoke,
    .get = metered_get,
    .watch = metered_watch,
    .watch_stop = metered_watch_stop,
    .txn = metered_txn,
    .service_register = metered_service_register,
    .close = metered_close,
};

int metered_open(struct otr_backend **out, const struct otr_backend_ops *ops, const struct otr_backend_config *config,
                 struct coordinator_metrics metrics[NODE_CALLS], struct otr_errmsg *msg)
{
    struct metered *m = calloc(1, sizeof *m);
    int rv;

    if (m == NULL) {
        return OTR_NOMEM;
    }
    m->base.ops = &metered_ops;
    m->metrics = metrics;
    rv = ops->open(&m->inner, config, msg);
    if (rv != 0) {
        free(m);
        return rv;
    }
    *out = &m->base;
    return 0;
}
