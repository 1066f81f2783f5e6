/* Sessions are etcd leases.
 *
 * Happy path: grant a lease under an id that we drew, report OPEN, send a keep-alive every third of the TTL.
 *
 * Failures: a grant whose answer got lost is repeated under the same id, and "already exists" then is success; the TTL
 * comes from the first keep-alive. A keep-alive that fails is repeated at the next endpoint; UNREACHABLE is reported
 * once no endpoint confirmed the lease. LOST is reported only when etcd says that the lease is gone: an answer to a
 * keep-alive without TTL. Our own clock proves nothing about it: without quorum no lease ends, and after a change of
 * leader all have their full TTL again.
 *
 * An answer counts from before its request was sent, on CLOCK_BOOTTIME (as PROTOCOL G3 does for grants): one that is
 * older than the TTL less 10 % confirms nothing, since the lease may be gone again by now.
 *
 *   GRANTING --granted--> CONFIRMING --confirmed--> OPEN --dead--> (LOST, freed)
 *       ^------- dead -------'  (before OPEN nobody knows the id: draw another) */
#include "backends/etcd/etcd.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/random.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum state { GRANTING = 1, CONFIRMING, OPEN };

struct etcd_session {
    struct etcd_session *prev, *next; /* in etcd->sessions */
    struct etcd *etcd;
    struct otr_session *s;
    otr_session_cb cb;
    enum state state;
    uint64_t lease;
    bool grant_sent; /* a grant of this id may have been carried out */
    bool reported_unreachable;
    bool dropped; /* no more reports; only waits for its call and its timer */
    uint32_t ttl_s_wanted;
    uint32_t ttl_ms;
    uint64_t confirmed_ms;   /* the lease stood when this time had come */
    unsigned failures_count; /* attempts in a row */
    uint32_t backoff_ms;
    unsigned endpoint;
    struct etcd_call *call;
    bool check_again; /* asked for while a call was under way */
    uv_timer_t timer;
};

static void session_attempt(struct etcd_session *session);

static void session_draw_id(struct etcd_session *session)
{
    session->lease = 0;
    while (session->lease == 0) {
        session->lease = random_u64() & INT64_MAX;
    }
    session->state = GRANTING;
    session->grant_sent = false;
}

/* --- the end ---------------------------------------------------------------------------------------------------- */

static void session_free_if_unused(struct etcd_session *session)
{
    struct etcd *etcd = session->etcd;

    if (session->call == NULL && session->timer.data == NULL) {
        free(session);
        etcd_object_gone(etcd);
    }
}

static void on_session_timer_closed(uv_handle_t *handle)
{
    struct etcd_session *session = handle->data;

    handle->data = NULL;
    session_free_if_unused(session);
}

/* The struct otr_session is the caller's from here on. */
static void session_drop(struct etcd_session *session)
{
    session->dropped = true;
    session->s->internal = NULL;
    if (session->prev != NULL) {
        session->prev->next = session->next;
    } else {
        session->etcd->sessions = session->next;
    }
    if (session->next != NULL) {
        session->next->prev = session->prev;
    }
    if (session->call != NULL) {
        etcd_call_cancel(session->call);
    }
    uv_close((uv_handle_t *)&session->timer, on_session_timer_closed);
}

static void session_lose(struct etcd_session *session, struct otr_errmsg *msg)
{
    struct otr_session *s = session->s;
    otr_session_cb cb = session->cb;

    otr_errmsg_set(msg, "etcd: lease %s is gone", s->id);
    session_drop(session);
    cb(s, OTR_SESSION_LOST, msg);
}

/* --- attempts --------------------------------------------------------------------------------------------------- */

static void on_session_timer(uv_timer_t *timer)
{
    session_attempt(timer->data);
}

static uint32_t third_ms(const struct etcd_session *session)
{
    return session->ttl_ms / 3;
}

/* Longest time one attempt may take. */
static uint32_t attempt_ms(const struct etcd_session *session)
{
    uint32_t limit_ms = session->etcd->request_timeout_ms;

    return session->state == GRANTING || third_ms(session) > limit_ms ? limit_ms : third_ms(session);
}

static void session_failed(struct etcd_session *session, const struct otr_errmsg *msg)
{
    struct etcd *etcd = session->etcd;
    uint32_t pause_ms = endpoints_backoff_round(&etcd->endpoints, ++session->failures_count, &session->backoff_ms);
    bool late;

    session->endpoint = endpoints_next(&etcd->endpoints, session->endpoint);
    if (session->state != GRANTING && pause_ms > third_ms(session)) {
        pause_ms = third_ms(session);
    }
    uv_timer_start(&session->timer, on_session_timer, pause_ms, 0);
    late = session->state == OPEN && clock_now_ms() - session->confirmed_ms >= 2 * (uint64_t)third_ms(session);
    if (!session->reported_unreachable && (late || session->failures_count >= etcd->endpoints.count)) {
        session->reported_unreachable = true;
        session->cb(session->s, OTR_SESSION_UNREACHABLE, msg);
    }
}

static void session_confirmed(struct etcd_session *session, uint64_t sent_ms, const struct otr_errmsg *msg)
{
    enum otr_session_state report = session->state == OPEN ? OTR_SESSION_CONFIRMED : OTR_SESSION_OPEN;
    bool silent = session->state == OPEN && !session->reported_unreachable;

    session->confirmed_ms = sent_ms;
    session->failures_count = 0;
    session->backoff_ms = 0;
    session->reported_unreachable = false;
    uv_timer_start(&session->timer, on_session_timer, third_ms(session), 0);
    if (silent) {
        return;
    }
    session->state = OPEN;
    snprintf(session->s->id, sizeof session->s->id, "%" PRIu64, session->lease);
    session->s->ttl_ms = session->ttl_ms;
    session->cb(session->s, report, msg);
}

/* An answer that grants or prolongs the lease. */
static void session_granted(struct etcd_session *session, uint64_t ttl_s, const struct etcd_reply *reply)
{
    uint64_t age_ms = clock_now_ms() - reply->sent_ms;

    session->ttl_ms = ttl_s < UINT32_MAX / 1000 ? (uint32_t)ttl_s * 1000 : UINT32_MAX;
    if (session->state == GRANTING) {
        session->state = CONFIRMING;
    }
    if (age_ms >= session->ttl_ms - session->ttl_ms / 10) {
        otr_errmsg_set(reply->msg, "etcd: confirmed only after %" PRIu64 " ms, which the lease may not have outlived",
                       age_ms);
        session_failed(session, reply->msg);
        return;
    }
    session_confirmed(session, reply->sent_ms, reply->msg);
}

static void grant_done(struct etcd_session *session, const struct etcd_reply *reply)
{
    uint64_t ttl_s;

    if (reply->status == 0) {
        ttl_s = etcd_json_u64(reply->json, "TTL");
        if (ttl_s > 0) {
            session_granted(session, ttl_s, reply);
            return;
        }
        otr_errmsg_set(reply->msg, "etcd: unusable answer to a lease grant");
    } else if (reply->status == OTR_EXISTS) {
        if (session->grant_sent) {
            session->state = CONFIRMING; /* Our own earlier grant. */
            session_attempt(session);
            return;
        }
        session_draw_id(session);
    } else {
        session->grant_sent = session->grant_sent || !reply->certain;
    }
    session_failed(session, reply->msg);
}

static void keepalive_done(struct etcd_session *session, const struct etcd_reply *reply)
{
    const cJSON *result;
    uint64_t ttl_s;

    if (reply->status != 0) {
        session_failed(session, reply->msg);
        return;
    }
    result = etcd_json_object(reply->json, "result");
    ttl_s = etcd_json_u64(result, "TTL");
    if (ttl_s > 0) {
        session_granted(session, ttl_s, reply);
    } else if (result == NULL || etcd_json_object(result, "header") == NULL) {
        otr_errmsg_set(reply->msg, "etcd: unusable answer to a keep-alive");
        session_failed(session, reply->msg);
    } else if (session->state == OPEN) {
        session_lose(session, reply->msg);
    } else {
        otr_errmsg_set(reply->msg, "etcd: lease gone before it was confirmed");
        session_draw_id(session);
        session_failed(session, reply->msg);
    }
}

static void session_call_done(void *data, const struct etcd_reply *reply)
{
    struct etcd_session *session = data;

    session->call = NULL;
    if (session->dropped) {
        session_free_if_unused(session);
        return;
    }
    if (session->check_again) {
        session->check_again = false;
        session_attempt(session); /* This answer may be older than the reason to ask. */
        return;
    }
    if (session->state == GRANTING) {
        grant_done(session, reply);
    } else {
        keepalive_done(session, reply);
    }
}

static void session_attempt(struct etcd_session *session)
{
    bool granting = session->state == GRANTING;
    struct etcd_call_spec spec = {
        .path = granting ? "/v3/lease/grant" : "/v3/lease/keepalive",
        .lane = ETCD_LANE_SESSION,
        .endpoint = (int)session->endpoint,
        .timeout_ms = attempt_ms(session),
        .token = granting ? ETCD_TOKEN_REQUIRED : ETCD_TOKEN_OPTIONAL,
        .done = session_call_done,
        .data = session,
    };
    struct json_text body = {0};
    struct otr_errmsg msg = {0};
    int rv;

    json_text_add(&body, "{\"ID\":\"%" PRIu64 "\"", session->lease);
    if (granting) {
        json_text_add(&body, ",\"TTL\":\"%" PRIu32 "\"", session->ttl_s_wanted);
    }
    json_text_add(&body, "}");
    rv = etcd_call_start(session->etcd, &spec, &body, &session->call);
    if (rv != 0 && rv != OTR_CANCELED) {
        otr_errmsg_set(&msg, "etcd: lease: %s", otr_strerror(rv));
        session_failed(session, &msg);
    }
}

/* --- the vtable's members --------------------------------------------------------------------------------------- */

int etcd_session_open(struct otr_backend *b, struct otr_session *s, uint32_t ttl_ms, otr_session_cb cb)
{
    struct etcd *etcd = etcd_of(b);
    struct etcd_session *session = etcd->closing ? NULL : calloc(1, sizeof *session);

    if (session == NULL) {
        return etcd->closing ? OTR_CANCELED : OTR_NOMEM;
    }
    session->etcd = etcd;
    session->s = s;
    session->cb = cb;
    session->ttl_s_wanted = ttl_ms > 1000 ? (uint32_t)(((uint64_t)ttl_ms + 999) / 1000) : 1;
    session->ttl_ms = session->ttl_s_wanted * 1000;
    session->endpoint = etcd->endpoints.now;
    session_draw_id(session);
    uv_timer_init(etcd->loop, &session->timer);
    session->timer.data = session;
    uv_timer_start(&session->timer, on_session_timer, 0, 0);
    session->next = etcd->sessions;
    if (session->next != NULL) {
        session->next->prev = session;
    }
    etcd->sessions = session;
    etcd_object_made(etcd);
    s->id[0] = '\0';
    s->ttl_ms = 0;
    s->internal = session;
    return 0;
}

void etcd_session_check_all(struct etcd *etcd)
{
    for (struct etcd_session *session = etcd->sessions; session != NULL; session = session->next) {
        if (session->state != OPEN) {
            continue;
        }
        if (session->call != NULL) {
            session->check_again = true;
        } else {
            uv_timer_start(&session->timer, on_session_timer, 0, 0);
        }
    }
}

void etcd_session_drop_all(struct etcd *etcd)
{
    while (etcd->sessions != NULL) {
        session_drop(etcd->sessions);
    }
}

struct revoke {
    struct otr_simple_req *req;
    otr_simple_cb cb;
    bool mine; /* gone already is as good as ended */
};

static void revoke_done(void *data, const struct etcd_reply *reply)
{
    struct revoke *revoke = data;
    int status = reply->status;

    if (status == OTR_NOTFOUND) {
        /* After an attempt with unknown outcome it may have been us who ended it. */
        status = revoke->mine || reply->sent_before ? 0 : OTR_NOTFOUND;
    } else if (status != 0 && status != OTR_CANCELED && status != OTR_DENIED && status != OTR_NOMEM) {
        status = reply->certain ? OTR_UNREACHABLE : OTR_UNKNOWN;
    }
    if (status != 0) {
        otr_errmsg_wrap(reply->msg, "revoke");
    }
    revoke->req->internal = NULL;
    revoke->cb(revoke->req, status, reply->msg);
    free(revoke);
}

/* lease 0: there is nothing to revoke, only to report. */
static int revoke_start(struct etcd *etcd, uint64_t lease, bool mine, struct otr_simple_req *req, otr_simple_cb cb)
{
    struct etcd_call_spec spec = {
        .path = lease != 0 ? "/v3/lease/revoke" : NULL,
        .lane = ETCD_LANE_SESSION,
        .endpoint = ETCD_ENDPOINT_ANY,
        .repeat = true,
        .done = revoke_done,
    };
    struct revoke *revoke = malloc(sizeof *revoke);
    struct json_text body = {0};
    int rv;

    if (revoke == NULL) {
        return OTR_NOMEM;
    }
    if (mine) { /* Somebody is stopping: one frozen member, and one more try elsewhere; else the TTL ends it. */
        spec.budget_ms = ETCD_CLOSE_MS;
    }
    *revoke = (struct revoke){.req = req, .cb = cb, .mine = mine};
    spec.data = revoke;
    json_text_add(&body, "{\"ID\":\"%" PRIu64 "\"}", lease);
    rv = etcd_call_start(etcd, &spec, &body, NULL);
    if (rv != 0) {
        free(revoke);
    }
    return rv;
}

int etcd_session_close(struct otr_backend *b, struct otr_session *s, struct otr_simple_req *req, otr_simple_cb cb)
{
    struct etcd_session *session = s->internal;
    /* A lease whose grant is still under way is named too: etcd may be about to make it. */
    int rv = revoke_start(etcd_of(b), session != NULL ? session->lease : 0, true, req, cb);

    if (rv == 0 && session != NULL) {
        session_drop(session);
    }
    return rv;
}

int etcd_session_revoke(struct otr_backend *b, const char *id, struct otr_simple_req *req, otr_simple_cb cb)
{
    uint64_t lease = etcd_lease_parse(id);

    return lease != 0 ? revoke_start(etcd_of(b), lease, false, req, cb) : OTR_INVALID;
}
