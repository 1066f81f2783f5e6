/* One request and its repetitions.
 *
 * An attempt that certainly sent nothing (no connection) goes on at the next endpoint at once, each endpoint once.
 * An attempt with an unknown outcome is repeated, after a pause and within ETCD_BUDGET_MS, only if the caller says that
 * repeating does no harm. An answer that is certain, good or bad, ends the call. */
#include "backends/etcd/etcd.h"

#include "sidecar/io/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct etcd_call {
    struct etcd_call *prev, *next; /* in etcd->calls */
    struct etcd *etcd;
    struct etcd_call_spec spec;
    struct etcd_text body;
    struct http_request http;
    uv_timer_t timer; /* the pause before the next attempt */
    bool sending;     /* http is the client's */
    bool finished;
    bool canceled;
    int broken; /* why no attempt could be started, or 0 */
    unsigned endpoint;
    unsigned unsent_count; /* attempts in a row that sent nothing */
    bool sent_before;
    uint64_t deadline_ms;
    uint64_t sent_ms;
    uint32_t backoff_ms;
};

static void call_attempt(struct etcd_call *call);

int etcd_url(const struct etcd *etcd, unsigned endpoint, const char *path, char *url)
{
    int bytes = snprintf(url, ETCD_URL_MAX, "%s%s", etcd->endpoints[endpoint], path);

    return bytes > 0 && bytes < ETCD_URL_MAX ? 0 : OTR_INVALID;
}

void etcd_headers_init(struct etcd_headers *headers, uint32_t timeout_ms)
{
    *headers = (struct etcd_headers){.list = {
                                         "Content-Type: application/json",
                                         /* A member without leader says so at once instead of hanging for 7 s. */
                                         "Grpc-Metadata-hasleader: true",
                                     }};
    if (timeout_ms != 0) {
        /* The server gives up first, so that its answer, which tells more than silence, still arrives. */
        snprintf(headers->timeout, sizeof headers->timeout, "Grpc-Timeout: %" PRIu32 "m", timeout_ms - timeout_ms / 4);
        headers->list[2] = headers->timeout;
    }
}

static void on_call_closed(uv_handle_t *handle)
{
    struct etcd_call *call = handle->data;
    struct etcd *etcd = call->etcd;

    etcd_text_close(&call->body);
    free(call);
    etcd_object_gone(etcd);
}

static void call_finish(struct etcd_call *call, struct etcd_reply *reply)
{
    struct etcd *etcd = call->etcd;

    reply->sent_before = call->sent_before;
    reply->sent_ms = call->sent_ms;
    call->finished = true;
    if (call->prev != NULL) {
        call->prev->next = call->next;
    } else {
        etcd->calls = call->next;
    }
    if (call->next != NULL) {
        call->next->prev = call->prev;
    }
    call->spec.done(call->spec.data, reply);
    uv_close((uv_handle_t *)&call->timer, on_call_closed);
}

static void call_finish_status(struct etcd_call *call, int status)
{
    struct otr_errmsg msg = {0};

    if (status != 0) {
        otr_errmsg_set(&msg, "etcd: %s", otr_strerror(status));
    }
    call_finish(call, &(struct etcd_reply){
                          .status = status,
                          .certain = status != OTR_CANCELED && !call->sent_before,
                          .msg = &msg,
                      });
}

static void on_call_timer(uv_timer_t *timer)
{
    struct etcd_call *call = timer->data;

    if (call->canceled) {
        call_finish_status(call, OTR_CANCELED);
    } else if (call->spec.path == NULL || call->broken != 0) {
        call_finish_status(call, call->broken);
    } else {
        call_attempt(call);
    }
}

/* Whether to try again, and then does so. */
static bool call_again(struct etcd_call *call, const struct etcd_reply *reply, bool sent)
{
    struct etcd *etcd = call->etcd;
    uint32_t pause_ms;

    call->unsent_count = sent ? 0 : call->unsent_count + 1;
    call->sent_before = call->sent_before || (sent && !reply->certain);
    etcd_endpoint_failed(etcd, call->endpoint);
    if (call->spec.endpoint != ETCD_ENDPOINT_ANY || (sent && !call->spec.repeat) ||
        call->unsent_count >= etcd->endpoints_count) {
        return false;
    }
    pause_ms = sent ? etcd_backoff_next(&call->backoff_ms) : 0;
    if (clock_now_ms() + pause_ms >= call->deadline_ms) {
        return false;
    }
    call->endpoint = etcd_endpoint_next(etcd, call->endpoint);
    uv_timer_start(&call->timer, on_call_timer, pause_ms, 0);
    return true;
}

/* Turns an HTTP answer into reply->status and so on. On success the parsed body, the caller's to delete. */
static cJSON *call_read(const struct http_response *response, struct etcd_reply *reply)
{
    cJSON *json = cJSON_ParseWithLength(response->body, response->body_bytes);
    const char *text;
    int code = etcd_error_code(json, &text);

    if (code != ETCD_CODE_NONE) {
        reply->status = etcd_code_status(code, &reply->certain);
        otr_errmsg_set(reply->msg, "%s (code %d, HTTP %ld)", text, code, response->status);
    } else if (response->status == 200 && cJSON_IsObject(json)) {
        reply->json = json;
        reply->header = etcd_json_object(json, "header");
        return json;
    } else if (response->status >= 400 && response->status < 500) {
        reply->status = OTR_UNSUPPORTED;
        reply->certain = true;
        otr_errmsg_set(reply->msg, "not etcd's v3 JSON gateway, or refused by it: HTTP %ld %.200s", response->status,
                       response->body);
    } else {
        reply->status = response->status == 200 ? OTR_PROTO : OTR_UNAVAIL;
        otr_errmsg_set(reply->msg, "unusable answer: HTTP %ld %.200s", response->status, response->body);
    }
    cJSON_Delete(json);
    return NULL;
}

static void call_attempt_done(struct http_request *req, int status, const struct http_response *response,
                              const struct otr_errmsg *http_msg)
{
    struct etcd_call *call = req->data;
    struct etcd *etcd = call->etcd;
    struct otr_errmsg msg = *http_msg;
    struct etcd_reply reply = {.status = status, .certain = !response->sent, .msg = &msg};
    cJSON *json = NULL;

    call->sending = false;
    if (call->canceled) {
        call_finish_status(call, OTR_CANCELED);
        return;
    }
    if (status == 0) {
        json = call_read(response, &reply);
    }
    if (reply.status != 0) {
        if (status == 0) {
            otr_errmsg_wrap(&msg, "%s", etcd->endpoints[call->endpoint]);
        }
        otr_errmsg_wrap(&msg, "etcd");
        if ((!reply.certain || !response->sent) && status != OTR_TOOBIG && call_again(call, &reply, response->sent)) {
            return;
        }
        reply.certain = reply.certain && !call->sent_before;
    } else {
        etcd_identity_seen(etcd, etcd_json_u64(reply.header, "cluster_id"));
    }
    call_finish(call, &reply);
    cJSON_Delete(json);
}

static void call_attempt(struct etcd_call *call)
{
    struct etcd *etcd = call->etcd;
    uint32_t timeout_ms = call->spec.timeout_ms != 0 ? call->spec.timeout_ms : etcd->request_timeout_ms;
    struct etcd_headers headers;
    char url[ETCD_URL_MAX];
    int rv;

    etcd_headers_init(&headers, timeout_ms);
    rv = etcd_url(etcd, call->endpoint, call->spec.path, url);
    if (rv == 0) {
        call->http = (struct http_request){
            .method = "POST",
            .url = url,
            .headers = headers.list,
            .body = call->body.data,
            .body_bytes = call->body.bytes,
            .body_borrowed = true,
            .timeout_ms = timeout_ms,
            .lane = call->spec.lane,
            .data = call,
        };
        call->sent_ms = clock_now_ms();
        rv = http_client_start(etcd->http, &call->http, call_attempt_done);
    }
    call->sending = rv == 0;
    if (rv != 0) { /* Maybe inside etcd_call_start: the caller hears of it later. */
        call->broken = rv;
        uv_timer_start(&call->timer, on_call_timer, 0, 0);
    }
}

int etcd_call_start(struct etcd *etcd, const struct etcd_call_spec *spec, struct etcd_text *body,
                    struct etcd_call **call)
{
    struct etcd_call *c = etcd->closing || body->failed ? NULL : calloc(1, sizeof *c);

    if (c == NULL) {
        etcd_text_close(body);
        return etcd->closing ? OTR_CANCELED : OTR_NOMEM;
    }
    c->etcd = etcd;
    c->spec = *spec;
    c->body = *body;
    *body = (struct etcd_text){0};
    c->endpoint = spec->endpoint == ETCD_ENDPOINT_ANY ? etcd->endpoint : (unsigned)spec->endpoint;
    c->deadline_ms = clock_now_ms() + ETCD_BUDGET_MS;
    uv_timer_init(etcd->loop, &c->timer);
    c->timer.data = c;
    c->next = etcd->calls;
    if (c->next != NULL) {
        c->next->prev = c;
    }
    etcd->calls = c;
    etcd_object_made(etcd);
    if (call != NULL) {
        *call = c;
    }
    if (spec->path == NULL) {
        uv_timer_start(&c->timer, on_call_timer, 0, 0);
    } else {
        call_attempt(c);
    }
    return 0;
}

void etcd_call_cancel(struct etcd_call *call)
{
    call->canceled = true;
    if (call->sending) {
        http_client_cancel(call->etcd->http, &call->http);
    } else if (!call->finished) {
        uv_timer_start(&call->timer, on_call_timer, 0, 0);
    }
}

void etcd_call_cancel_all(struct etcd *etcd)
{
    for (struct etcd_call *call = etcd->calls; call != NULL; call = call->next) {
        etcd_call_cancel(call);
    }
}
