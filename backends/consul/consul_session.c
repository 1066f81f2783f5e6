/* Sessions, each bound to three things at once: a TTL check that we keep passing (its lapse ends the session at once,
 * for any TTL, while Consul's own session TTL is at least 10 s and counts double), serfHealth (an agent that is gone
 * turns no check critical), and the session's own TTL (the last resort). LockDelay 0: epochs fence.
 *
 * Happy path: register a service with the check, create the session, report OPEN; then every third of the TTL pass the
 * check and renew the session.
 *
 * Checks belong to the agent that has them, sessions to that agent's node. So a session stays with one agent, and what
 * another can do is to say that the session is gone: renewals go to the next one when the first does not answer. LOST
 * is reported only when Consul says so. Our own clock proves nothing about it. A new session may be at another agent.
 *
 * An answer counts from before its request was sent, on CLOCK_BOOTTIME: one that is older than the TTL less 10 %
 * confirms nothing. An agent that was restarted and forgot the check (500) is told again.
 *
 *   REGISTER --> PASS --> CREATE --> (OPEN reported) --pause--> PASS --> RENEW --pause--> ...
 *   any of the first three failed: REGISTER again, after a pause, at the next agent
 *   RENEW: 404 --> (LOST, freed) */
#include "backends/consul/consul.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/random.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TTL_MS_MIN = 500,
    OWN_TTL_MS_MIN = 10000, /* Consul's limits of a session's own TTL */
    OWN_TTL_MS_MAX = 86400000,
    SYNC_MS = 20, /* the agent tells the catalog of a new check a moment after it has answered */
    SYNCS_MAX = 50,
};

enum step { REGISTER = 1, PASS, CREATE, RENEW };

struct consul_session {
    struct consul_session *prev, *next; /* in consul->sessions */
    struct consul *consul;
    struct otr_session *s;
    otr_session_cb cb;
    enum step step;
    bool open;
    bool reported_unreachable;
    bool dropped;     /* no more reports; only waits for its call and its timer */
    bool pass_failed; /* in this round */
    struct consul_service service;
    unsigned endpoint;       /* the agent that has the check */
    unsigned renew_endpoint; /* who is asked for the session */
    uint64_t passed_ms;      /* the check passed when this time had come */
    uint64_t confirmed_ms;
    unsigned failures_count; /* rounds in a row */
    unsigned syncs_count;
    uint32_t backoff_ms;
    struct consul_call *call;
    bool check_again; /* asked for while a call was under way */
    struct otr_errmsg why;
    uv_timer_t timer;
};

static void session_attempt(struct consul_session *session, enum step step);

/* --- the end ---------------------------------------------------------------------------------------------------- */

static void session_free_if_unused(struct consul_session *session)
{
    struct consul *consul = session->consul;

    if (session->call == NULL && session->timer.data == NULL) {
        free(session->service.definition);
        free(session);
        consul_object_gone(consul);
    }
}

static void on_session_timer_closed(uv_handle_t *handle)
{
    struct consul_session *session = handle->data;

    handle->data = NULL;
    session_free_if_unused(session);
}

/* The struct otr_session is the caller's from here on. */
static void session_drop(struct consul_session *session)
{
    session->dropped = true;
    session->s->internal = NULL;
    if (session->prev != NULL) {
        session->prev->next = session->next;
    } else {
        session->consul->sessions = session->next;
    }
    if (session->next != NULL) {
        session->next->prev = session->prev;
    }
    if (session->call != NULL) {
        consul_call_cancel(session->call);
    }
    uv_close((uv_handle_t *)&session->timer, on_session_timer_closed);
}

static void session_lose(struct consul_session *session, struct otr_errmsg *msg)
{
    struct otr_session *s = session->s;
    otr_session_cb cb = session->cb;

    otr_errmsg_set(msg, "consul: session %s is gone", s->id);
    consul_service_forget(session->consul, &session->service, session->endpoint);
    session_drop(session);
    cb(s, OTR_SESSION_LOST, msg);
}

/* --- rounds ----------------------------------------------------------------------------------------------------- */

static void on_session_timer(uv_timer_t *timer)
{
    struct consul_session *session = timer->data;

    session_attempt(session, session->step);
}

static void session_pause(struct consul_session *session, enum step step, uint32_t pause_ms)
{
    session->step = step;
    uv_timer_start(&session->timer, on_session_timer, pause_ms, 0);
}

static uint32_t third_ms(const struct consul_session *session)
{
    return session->service.ttl_ms / 3;
}

/* Longest time one attempt may take: both of a round fit into a third of the TTL. */
static uint32_t attempt_ms(const struct consul_session *session)
{
    uint32_t limit_ms = session->consul->request_timeout_ms;
    uint32_t share_ms = third_ms(session) / 2;

    return !session->open || share_ms > limit_ms ? limit_ms : share_ms;
}

static void session_failed(struct consul_session *session)
{
    const struct endpoints *endpoints = &session->consul->endpoints;
    uint32_t pause_ms = endpoints_backoff_round(endpoints, ++session->failures_count, &session->backoff_ms);
    bool late;

    session->renew_endpoint = endpoints_next(endpoints, session->renew_endpoint);
    if (!session->open) {
        session->endpoint = endpoints_next(endpoints, session->endpoint);
        session->renew_endpoint = session->endpoint;
        session->syncs_count = 0;
    } else if (pause_ms > third_ms(session)) {
        pause_ms = third_ms(session);
    }
    session_pause(session, session->open ? PASS : REGISTER, pause_ms);
    late = session->open && clock_now_ms() - session->confirmed_ms >= 2 * (uint64_t)third_ms(session);
    if (!session->reported_unreachable && (late || session->failures_count >= endpoints->count)) {
        session->reported_unreachable = true;
        session->cb(session->s, OTR_SESSION_UNREACHABLE, &session->why);
    }
}

static void session_confirmed(struct consul_session *session)
{
    enum otr_session_state report = session->open ? OTR_SESSION_CONFIRMED : OTR_SESSION_OPEN;
    bool silent = session->open && !session->reported_unreachable;
    uint64_t age_ms = clock_now_ms() - session->passed_ms;

    if (session->open && age_ms >= session->service.ttl_ms - session->service.ttl_ms / 10) {
        otr_errmsg_set(&session->why, "consul: confirmed only after %" PRIu64 " ms, which the check may not outlive",
                       age_ms);
        session_failed(session);
        return;
    }
    session->confirmed_ms = session->passed_ms;
    session->failures_count = 0;
    session->backoff_ms = 0;
    session->reported_unreachable = false;
    session->renew_endpoint = session->endpoint;
    session_pause(session, PASS, third_ms(session));
    if (silent) {
        return;
    }
    session->open = true;
    session->s->ttl_ms = session->service.ttl_ms;
    session->cb(session->s, report, &session->why);
}

/* --- answers ---------------------------------------------------------------------------------------------------- */

static void created(struct consul_session *session, const struct consul_reply *reply)
{
    const char *id = consul_json_text(reply->json, "ID");
    bool early =
        strstr(reply->msg->text, "Missing check") != NULL || strstr(reply->msg->text, "critical state") != NULL;

    if (reply->status == 0 && consul_session_id_valid(id)) {
        snprintf(session->s->id, sizeof session->s->id, "%s", id);
        session_confirmed(session);
    } else if (early && session->syncs_count < SYNCS_MAX) {
        session->syncs_count++;
        session_pause(session, PASS, SYNC_MS);
    } else {
        if (reply->status == 0) {
            otr_errmsg_set(reply->msg, "consul: unusable answer to the creation of a session");
        }
        session->why = *reply->msg;
        session_failed(session);
    }
}

static void passed(struct consul_session *session, const struct consul_reply *reply)
{
    if (reply->status == 0) {
        session->passed_ms = reply->sent_ms;
    } else {
        session->pass_failed = true;
        session->why = *reply->msg;
    }
    if (!session->open && reply->status != 0) {
        session_failed(session);
    } else if (!session->open) {
        session_attempt(session, CREATE);
    } else if (reply->http_status >= 400 && reply->status != OTR_DENIED) { /* An agent that does not know the check. */
        session_attempt(session, REGISTER);
    } else {
        session_attempt(session, RENEW);
    }
}

static void renewed(struct consul_session *session, const struct consul_reply *reply)
{
    if (reply->status == OTR_NOTFOUND) {
        session_lose(session, reply->msg);
        return;
    }
    if (reply->status != 0) {
        session->why = *reply->msg;
    }
    if (reply->status != 0 || session->pass_failed) {
        session_failed(session);
    } else {
        session_confirmed(session);
    }
}

static void session_call_done(void *data, const struct consul_reply *reply)
{
    struct consul_session *session = data;

    session->call = NULL;
    if (session->dropped) {
        session_free_if_unused(session);
        return;
    }
    if (session->check_again) {
        session->check_again = false;
        session_attempt(session, PASS); /* This answer may be older than the reason to ask. */
        return;
    }
    switch (session->step) {
    case REGISTER:
        if (reply->status != 0) {
            session->why = *reply->msg;
            session->pass_failed = true;
        }
        if (session->open) {
            session_attempt(session, RENEW);
        } else if (reply->status != 0) {
            session_failed(session);
        } else {
            session_attempt(session, PASS);
        }
        break;
    case PASS:
        passed(session, reply);
        break;
    case CREATE:
        created(session, reply);
        break;
    case RENEW:
        renewed(session, reply);
        break;
    }
}

/* --- requests --------------------------------------------------------------------------------------------------- */

static void add_create(struct json_text *body, const struct consul_session *session)
{
    uint32_t ttl_ms = session->service.ttl_ms;

    ttl_ms = ttl_ms < OWN_TTL_MS_MIN ? OWN_TTL_MS_MIN : ttl_ms > OWN_TTL_MS_MAX ? OWN_TTL_MS_MAX : ttl_ms;
    json_text_add(body, "{\"Name\":\"%s\",\"NodeChecks\":[\"serfHealth\"],", session->service.id);
    json_text_add(body, "\"ServiceChecks\":[{\"ID\":\"%s:alive\"}],", session->service.id);
    json_text_add(body, "\"TTL\":\"%" PRIu32 "ms\",\"LockDelay\":\"0s\",\"Behavior\":\"delete\"}", ttl_ms);
}

static void session_attempt(struct consul_session *session, enum step step)
{
    struct consul_call_spec spec = {
        .method = "PUT",
        .lane = CONSUL_LANE_SESSION,
        .endpoint = (int)(step == RENEW ? session->renew_endpoint : session->endpoint),
        .timeout_ms = attempt_ms(session),
        .done = session_call_done,
        .data = session,
    };
    struct json_text path = {0};
    struct json_text body = {0};
    int rv;

    session->step = step;
    if (step == PASS) {
        session->pass_failed = false;
    }
    switch (step) {
    case REGISTER:
        json_text_add(&path, "/v1/agent/service/register");
        consul_service_add(&body, &session->service);
        break;
    case PASS:
        consul_service_add_path(&path, "/v1/agent/check/pass/", &session->service, ":alive");
        break;
    case CREATE:
        json_text_add(&path, "/v1/session/create");
        add_create(&body, session);
        break;
    case RENEW:
        json_text_add(&path, "/v1/session/renew/%s", session->s->id);
        break;
    }
    rv = consul_call_start(session->consul, &spec, &path, &body, &session->call);
    if (rv != 0 && rv != OTR_CANCELED) {
        otr_errmsg_set(&session->why, "consul: session: %s", otr_strerror(rv));
        session_failed(session);
    }
}

/* --- the vtable's members --------------------------------------------------------------------------------------- */

int consul_session_open(struct otr_backend *b, struct otr_session *s, uint32_t ttl_ms, otr_session_cb cb)
{
    struct consul *consul = consul_of(b);
    struct consul_session *session = consul->closing ? NULL : calloc(1, sizeof *session);

    if (session == NULL) {
        return consul->closing ? OTR_CANCELED : OTR_NOMEM;
    }
    session->consul = consul;
    session->s = s;
    session->cb = cb;
    session->service.ttl_ms = ttl_ms > TTL_MS_MIN ? ttl_ms : TTL_MS_MIN;
    snprintf(session->service.id, sizeof session->service.id, "outrigger-%016" PRIx64, random_u64());
    session->endpoint = consul->endpoints.now;
    session->renew_endpoint = session->endpoint;
    uv_timer_init(consul->loop, &session->timer);
    session->timer.data = session;
    session_pause(session, REGISTER, 0);
    session->next = consul->sessions;
    if (session->next != NULL) {
        session->next->prev = session;
    }
    consul->sessions = session;
    consul_object_made(consul);
    s->id[0] = '\0';
    s->ttl_ms = 0;
    s->internal = session;
    return 0;
}

struct consul_service *consul_session_registration(struct otr_session *s, unsigned *endpoint)
{
    struct consul_session *session = s->internal;

    if (session == NULL) {
        return NULL;
    }
    *endpoint = session->endpoint;
    return &session->service;
}

void consul_session_drop(struct otr_session *s)
{
    session_drop(s->internal);
}

void consul_session_check_all(struct consul *consul)
{
    for (struct consul_session *session = consul->sessions; session != NULL; session = session->next) {
        if (!session->open) {
            continue;
        }
        if (session->call != NULL) {
            session->check_again = true;
        } else {
            session_pause(session, PASS, 0);
        }
    }
}

void consul_session_drop_all(struct consul *consul)
{
    while (consul->sessions != NULL) {
        session_drop(consul->sessions);
    }
}
