/* How sessions are ended.
 *
 * Mine: destroy, then tell the agent to forget the service, all within CONSUL_CLOSE_MS. Another's: Consul says `true`
 * to the destruction of what it does not know, so it is asked first. */
#include "backends/consul/consul.h"

#include "sidecar/io/clock.h"

#include <stdlib.h>
#include <string.h>

struct ending {
    struct consul *consul;
    struct otr_simple_req *req;
    otr_simple_cb cb;
    bool mine;
    bool asked;     /* another's session is there */
    bool destroyed; /* mine is; what follows decides nothing */
    int status;
    uint64_t deadline_ms;
    char id[OTR_SESSION_ID_MAX]; /* "": mine was never open */
    struct consul_service service;
    unsigned endpoint;
};

static void ending_done(void *data, const struct consul_reply *reply);

static int ending_step(struct ending *e)
{
    struct consul_call_spec spec = {
        .method = "PUT",
        .lane = CONSUL_LANE_SESSION,
        .endpoint = CONSUL_ENDPOINT_ANY,
        .repeat = true,
        .done = ending_done,
        .data = e,
    };
    struct json_text path = {0};
    uint64_t now_ms = clock_now_ms();

    if (e->mine) {
        spec.budget_ms = e->deadline_ms > now_ms ? (uint32_t)(e->deadline_ms - now_ms) : 1;
    }
    if (e->destroyed || (e->mine && e->id[0] == '\0')) {
        e->destroyed = true;
        spec.endpoint = (int)e->endpoint;
        consul_service_add_path(&path, "/v1/agent/service/deregister/", &e->service, "");
    } else if (!e->mine && !e->asked) {
        spec.method = "GET";
        json_text_add(&path, "/v1/session/info/%s?consistent", e->id);
    } else {
        json_text_add(&path, "/v1/session/destroy/%s", e->id);
    }
    if (e->mine && e->service.id[0] == '\0') {
        spec.method = NULL; /* Gone already: nothing to end, only to report. */
    }
    return consul_call_start(e->consul, &spec, &path, NULL, NULL);
}

static void ending_finish(struct ending *e, int status, struct otr_errmsg *msg)
{
    struct consul *consul = e->consul;

    if (status != 0) {
        if (msg->text[0] == '\0') {
            otr_errmsg_set(msg, "consul: session %s: %s", e->id, otr_strerror(status));
        }
        otr_errmsg_wrap(msg, "end a session");
    }
    e->req->internal = NULL;
    e->cb(e->req, status, msg);
    free(e);
    consul_object_gone(consul);
}

static int ending_status(const struct consul_reply *reply)
{
    if (reply->status == 0 || reply->status == OTR_CANCELED || reply->status == OTR_DENIED ||
        reply->status == OTR_NOMEM) {
        return reply->status;
    }
    return reply->certain ? OTR_UNREACHABLE : OTR_UNKNOWN;
}

static void ending_done(void *data, const struct consul_reply *reply)
{
    struct ending *e = data;
    int status = ending_status(reply);
    bool more = false;

    if (e->destroyed || (e->mine && e->service.id[0] == '\0')) {
        /* Without a service there is no check and with it no session: whatever the agent says to that is fine. */
        status = reply->status == OTR_CANCELED ? OTR_CANCELED : e->id[0] == '\0' ? 0 : e->status;
    } else if (status == 0 && !e->mine && !e->asked) {
        e->asked = cJSON_GetArraySize(reply->json) > 0;
        status = e->asked ? 0 : OTR_NOTFOUND;
        more = e->asked;
    } else if (e->mine && status != OTR_CANCELED) {
        e->status = status;
        e->destroyed = true;
        more = status == 0;
    }
    if (more) {
        status = ending_step(e);
        if (status == 0) {
            return;
        }
    }
    ending_finish(e, status, reply->msg);
}

static int ending_start(struct consul *consul, const struct ending *like)
{
    struct ending *e = consul->closing ? NULL : malloc(sizeof *e);
    int rv;

    if (e == NULL) {
        return consul->closing ? OTR_CANCELED : OTR_NOMEM;
    }
    *e = *like;
    e->consul = consul;
    e->deadline_ms = clock_now_ms() + CONSUL_CLOSE_MS;
    rv = ending_step(e);
    if (rv != 0) {
        free(e);
        return rv;
    }
    consul_object_made(consul);
    return 0;
}

int consul_session_close(struct otr_backend *b, struct otr_session *s, struct otr_simple_req *req, otr_simple_cb cb)
{
    struct ending e = {.req = req, .cb = cb, .mine = true};
    const struct consul_service *service = consul_session_registration(s, &e.endpoint);
    int rv;

    if (service != NULL) {
        e.service = *service;
        e.service.definition = NULL;
        memcpy(e.id, s->id, sizeof e.id);
    }
    rv = ending_start(consul_of(b), &e);
    if (rv == 0 && service != NULL) {
        consul_session_drop(s);
    }
    return rv;
}

int consul_session_revoke(struct otr_backend *b, const char *id, struct otr_simple_req *req, otr_simple_cb cb)
{
    struct ending e = {.req = req, .cb = cb};

    if (!consul_session_id_valid(id)) {
        return OTR_INVALID;
    }
    memcpy(e.id, id, strlen(id) + 1);
    return ending_start(consul_of(b), &e);
}
