/* One request and its repetitions.
 *
 * An attempt that certainly sent nothing (no connection) goes on at the next agent at once, each agent once. An attempt
 * with an unknown outcome is repeated, after a pause and within CONSUL_BUDGET_MS, only if the caller says that
 * repeating does no harm: a write that was answered with 500 was seen applied later. An answer that is certain, good or
 * bad, ends the call. One that is refused for its token is sent again, once, when the token's file has another. */
#include "backends/consul/consul.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/secret_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_BYTES = SECRET_FILE_BYTES_MAX + 24 };

struct consul_call {
    struct consul_call *prev, *next; /* in consul->calls */
    struct consul *consul;
    struct consul_call_spec spec;
    struct json_text path;
    struct json_text body;
    struct http_request http;
    uv_timer_t timer; /* the pause before the next attempt */
    bool sending;     /* http is the client's */
    bool finished;
    bool canceled;
    bool token_renewed;
    int broken; /* why no attempt could be started, or 0 */
    unsigned endpoint;
    unsigned unsent_count; /* attempts in a row that sent nothing */
    bool sent_before;
    uint64_t deadline_ms;
    uint64_t sent_ms;
    uint32_t backoff_ms;
};

static void call_attempt(struct consul_call *call);

static void on_call_closed(uv_handle_t *handle)
{
    struct consul_call *call = handle->data;
    struct consul *consul = call->consul;

    json_text_close(&call->path);
    json_text_close(&call->body);
    free(call);
    consul_object_gone(consul);
}

static void call_finish(struct consul_call *call, struct consul_reply *reply)
{
    reply->sent_before = call->sent_before;
    reply->sent_ms = call->sent_ms;
    reply->endpoint = call->endpoint;
    call->finished = true;
    if (call->prev != NULL) {
        call->prev->next = call->next;
    } else {
        call->consul->calls = call->next;
    }
    if (call->next != NULL) {
        call->next->prev = call->prev;
    }
    call->spec.done(call->spec.data, reply);
    uv_close((uv_handle_t *)&call->timer, on_call_closed);
}

static void call_finish_status(struct consul_call *call, int status)
{
    struct otr_errmsg msg = {0};

    if (status != 0) {
        otr_errmsg_set(&msg, "consul: %s", otr_strerror(status));
    }
    call_finish(call, &(struct consul_reply){
                          .status = status,
                          .certain = status != OTR_CANCELED && !call->sent_before,
                          .body = "",
                          .msg = &msg,
                      });
}

static void on_call_timer(uv_timer_t *timer)
{
    struct consul_call *call = timer->data;

    if (call->canceled) {
        call_finish_status(call, OTR_CANCELED);
    } else if (call->spec.method == NULL || call->broken != 0) {
        call_finish_status(call, call->broken);
    } else {
        call_attempt(call);
    }
}

/* Whether to try again, and then does so. */
static bool call_again(struct consul_call *call, const struct consul_reply *reply, bool sent)
{
    struct endpoints *endpoints = &call->consul->endpoints;
    uint32_t pause_ms;

    call->unsent_count = sent ? 0 : call->unsent_count + 1;
    call->sent_before = call->sent_before || (sent && !reply->certain);
    endpoints_failed(endpoints, call->endpoint);
    if (call->spec.endpoint != CONSUL_ENDPOINT_ANY || (sent && !call->spec.repeat) ||
        call->unsent_count >= endpoints->count) {
        return false;
    }
    pause_ms = sent ? endpoints_backoff_next(&call->backoff_ms) : 0;
    if (clock_now_ms() + pause_ms >= call->deadline_ms) {
        return false;
    }
    call->endpoint = endpoints_next(endpoints, call->endpoint);
    uv_timer_start(&call->timer, on_call_timer, pause_ms, 0);
    return true;
}

static int http_error_status(long http_status, const char *body, bool *certain)
{
    *certain = true;
    if (http_status == 403 || strstr(body, "ermission denied") != NULL || strstr(body, "ACL not found") != NULL) {
        return OTR_DENIED;
    }
    switch (http_status) {
    case 400:
        return OTR_INVALID;
    case 404:
        return OTR_NOTFOUND;
    case 413:
        return OTR_TOOBIG;
    case 429:
        return OTR_UNAVAIL;
    default:
        if (http_status >= 300 && http_status < 500) {
            return OTR_UNSUPPORTED;
        }
        *certain = false; /* "leadership lost while committing log" was seen applied. */
        return OTR_UNAVAIL;
    }
}

/* Turns an HTTP answer into reply->status and so on. The parsed body, if any, is the caller's to delete. */
static cJSON *call_read(const struct consul_call *call, const struct http_response *response,
                        struct consul_reply *reply)
{
    reply->http_status = response->status;
    reply->body = response->body;
    reply->index = consul_index_parse(response->header);
    if (response->status != 200 && (call->spec.accepted == 0 || response->status != call->spec.accepted)) {
        reply->status = http_error_status(response->status, response->body, &reply->certain);
        reply->token_unknown = strstr(response->body, "ACL not found") != NULL;
        otr_errmsg_set(reply->msg, "HTTP %ld %.200s", response->status, response->body);
        return NULL;
    }
    if (response->body[0] == '[' || response->body[0] == '{') {
        reply->json = cJSON_ParseWithLength(response->body, response->body_bytes);
    }
    return (cJSON *)(uintptr_t)reply->json;
}

static void call_attempt_done(struct http_request *req, int status, const struct http_response *response,
                              const struct otr_errmsg *http_msg)
{
    struct consul_call *call = req->data;
    struct consul *consul = call->consul;
    struct otr_errmsg msg = *http_msg;
    struct consul_reply reply = {.status = status, .certain = !response->sent, .body = "", .msg = &msg};
    cJSON *json = NULL;

    call->sending = false;
    if (call->canceled) {
        call_finish_status(call, OTR_CANCELED);
        return;
    }
    if (status == 0) {
        json = call_read(call, response, &reply);
    }
    if (reply.status != 0) {
        if (reply.status == OTR_DENIED && !call->token_renewed && consul_token_renew(consul)) {
            call->token_renewed = true;
            call_attempt(call);
            return;
        }
        if (status == 0) {
            otr_errmsg_wrap(&msg, "%s", consul->endpoints.urls[call->endpoint]);
        }
        otr_errmsg_wrap(&msg, "consul");
        if ((!reply.certain || !response->sent) && status != OTR_TOOBIG && call_again(call, &reply, response->sent)) {
            return;
        }
        reply.certain = reply.certain && !call->sent_before;
    }
    call_finish(call, &reply);
    cJSON_Delete(json);
}

/* Within a budget of its own: the first attempt leaves half of it for another agent, if there is one. */
static uint32_t attempt_timeout_ms(const struct consul_call *call)
{
    uint32_t timeout_ms = call->spec.timeout_ms != 0 ? call->spec.timeout_ms : call->consul->request_timeout_ms;
    uint32_t half_ms = call->spec.budget_ms / 2;
    uint64_t now_ms = clock_now_ms();
    uint64_t left_ms = call->deadline_ms > now_ms ? call->deadline_ms - now_ms : 1;

    if (call->spec.budget_ms == 0) {
        return timeout_ms;
    }
    left_ms = call->consul->endpoints.count > 1 && left_ms > half_ms ? half_ms : left_ms;
    return left_ms < timeout_ms ? (uint32_t)left_ms : timeout_ms;
}

static void call_attempt(struct consul_call *call)
{
    struct consul *consul = call->consul;
    char token[HEADER_BYTES];
    const char *headers[] = {"Content-Type: application/json", NULL, NULL};
    struct json_text url = {0};
    int rv;

    if (consul->token != NULL) {
        snprintf(token, sizeof token, "X-Consul-Token: %s", consul->token);
        headers[1] = token;
    }
    json_text_add_raw(&url, consul->endpoints.urls[call->endpoint], strlen(consul->endpoints.urls[call->endpoint]));
    json_text_add_raw(&url, call->path.data, call->path.bytes);
    rv = url.failed ? OTR_NOMEM : 0;
    if (rv == 0) {
        call->http = (struct http_request){
            .method = call->spec.method,
            .url = url.data,
            .headers = headers,
            .body = call->body.data,
            .body_bytes = call->body.bytes,
            .body_borrowed = call->body.bytes > 0,
            .timeout_ms = attempt_timeout_ms(call),
            .lane = call->spec.lane,
            .header_wanted = "X-Consul-Index",
            .data = call,
        };
        call->sent_ms = clock_now_ms();
        rv = http_client_start(consul->http, &call->http, call_attempt_done);
    }
    json_text_close(&url);
    explicit_bzero(token, sizeof token);
    call->sending = rv == 0;
    if (rv != 0) { /* Maybe inside consul_call_start: the caller hears of it later. */
        call->broken = rv;
        uv_timer_start(&call->timer, on_call_timer, 0, 0);
    }
}

int consul_call_start(struct consul *consul, const struct consul_call_spec *spec, struct json_text *path,
                      struct json_text *body, struct consul_call **call)
{
    bool failed = (path != NULL && path->failed) || (body != NULL && body->failed);
    struct consul_call *c = consul->closing || failed ? NULL : calloc(1, sizeof *c);

    if (c == NULL) {
        if (path != NULL) {
            json_text_close(path);
        }
        if (body != NULL) {
            json_text_close(body);
        }
        return consul->closing ? OTR_CANCELED : OTR_NOMEM;
    }
    c->consul = consul;
    c->spec = *spec;
    if (path != NULL) {
        c->path = *path;
        *path = (struct json_text){0};
    }
    if (body != NULL) {
        c->body = *body;
        *body = (struct json_text){0};
    }
    c->endpoint = spec->endpoint == CONSUL_ENDPOINT_ANY ? consul->endpoints.now : (unsigned)spec->endpoint;
    c->deadline_ms = clock_now_ms() + (spec->budget_ms != 0 ? spec->budget_ms : CONSUL_BUDGET_MS);
    uv_timer_init(consul->loop, &c->timer);
    c->timer.data = c;
    c->next = consul->calls;
    if (c->next != NULL) {
        c->next->prev = c;
    }
    consul->calls = c;
    consul_object_made(consul);
    if (call != NULL) {
        *call = c;
    }
    if (spec->method == NULL) {
        uv_timer_start(&c->timer, on_call_timer, 0, 0);
    } else {
        call_attempt(c);
    }
    return 0;
}

void consul_call_cancel(struct consul_call *call)
{
    call->canceled = true;
    if (call->sending) {
        http_client_cancel(call->consul->http, &call->http);
    } else if (!call->finished) {
        uv_timer_start(&call->timer, on_call_timer, 0, 0);
    }
}

void consul_call_cancel_all(struct consul *consul)
{
    for (struct consul_call *call = consul->calls; call != NULL; call = call->next) {
        consul_call_cancel(call);
    }
}
