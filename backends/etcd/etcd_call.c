/* One request and its repetitions.
 *
 * With a user, an attempt first waits for the endpoint's token (etcd_auth.c); one whose token is refused, which etcd
 * does before anything else, is sent again with another, once.
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

enum { LOGIN_SLACK_MS = 50 };

struct etcd_call {
    struct etcd_call *prev, *next; /* in etcd->calls */
    struct etcd *etcd;
    struct etcd_call_spec spec;
    struct json_text body;
    struct http_request http;
    uv_timer_t timer; /* the pause before the next attempt, or the longest wait for a token */
    bool sending;     /* http is the client's */
    struct etcd_auth_wait wait;
    bool waiting;          /* for a token */
    bool token_wanted;     /* whatever spec.token says: the request was refused without */
    bool token_refused;    /* once at this endpoint: not again */
    uint64_t token_number; /* of the token sent, 0: none */
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
    int bytes = snprintf(url, ETCD_URL_MAX, "%s%s", etcd->endpoints.urls[endpoint], path);

    return bytes > 0 && bytes < ETCD_URL_MAX ? 0 : OTR_INVALID;
}

void etcd_headers_init(struct etcd_headers *headers, uint32_t timeout_ms, const char *token)
{
    unsigned count = 0;

    headers->list[count++] = "Content-Type: application/json";
    /* A member without leader says so at once instead of hanging for 7 s. */
    headers->list[count++] = "Grpc-Metadata-hasleader: true";
    if (timeout_ms != 0) {
        /* The server gives up first, so that its answer, which tells more than silence, still arrives. */
        snprintf(headers->timeout, sizeof headers->timeout, "Grpc-Timeout: %" PRIu32 "m", timeout_ms - timeout_ms / 4);
        headers->list[count++] = headers->timeout;
    }
    if (token != NULL && token[0] != '\0') { /* An empty one would be refused even where none is needed. */
        snprintf(headers->authorization, sizeof headers->authorization, "Authorization: %s", token);
        headers->list[count++] = headers->authorization;
    }
    headers->list[count] = NULL;
}

static void on_call_closed(uv_handle_t *handle)
{
    struct etcd_call *call = handle->data;
    struct etcd *etcd = call->etcd;

    json_text_close(&call->body);
    free(call);
    etcd_object_gone(etcd);
}

static void call_finish(struct etcd_call *call, struct etcd_reply *reply)
{
    struct etcd *etcd = call->etcd;

    reply->sent_before = call->sent_before;
    reply->sent_ms = call->sent_ms;
    call->finished = true;
    etcd_auth_wait_stop(&call->wait);
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
                          .code = ETCD_CODE_NONE,
                          .certain = status != OTR_CANCELED && !call->sent_before,
                          .msg = &msg,
                      });
}

static void call_not_identified(struct etcd_call *call, int status, struct otr_errmsg *msg);

static void on_call_timer(uv_timer_t *timer)
{
    struct etcd_call *call = timer->data;
    struct otr_errmsg msg;

    if (call->canceled) {
        call_finish_status(call, OTR_CANCELED);
    } else if (call->waiting) {
        otr_errmsg_set(&msg, "etcd: %s: no answer to the login", call->etcd->endpoints.urls[call->endpoint]);
        call_not_identified(call, OTR_UNREACHABLE, &msg);
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
    endpoints_failed(&etcd->endpoints, call->endpoint);
    if (call->spec.endpoint != ETCD_ENDPOINT_ANY || (sent && !call->spec.repeat) ||
        call->unsent_count >= etcd->endpoints.count) {
        return false;
    }
    pause_ms = sent ? endpoints_backoff_next(&call->backoff_ms) : 0;
    if (clock_now_ms() + pause_ms >= call->deadline_ms) {
        return false;
    }
    call->endpoint = endpoints_next(&etcd->endpoints, call->endpoint);
    call->token_refused = false;
    uv_timer_start(&call->timer, on_call_timer, pause_ms, 0);
    return true;
}

/* Turns an HTTP answer into reply->status and so on. On success the parsed body, the caller's to delete. */
static cJSON *call_read(const struct http_response *response, struct etcd_reply *reply)
{
    cJSON *json = cJSON_ParseWithLength(response->body, response->body_bytes);
    const char *text;

    reply->code = etcd_error_code(json, &text);
    if (reply->code != ETCD_CODE_NONE) {
        reply->status = etcd_code_status(reply->code, &reply->certain);
        otr_errmsg_set(reply->msg, "%s (code %d, HTTP %ld)", text, reply->code, response->status);
        if (etcd_error_wants_user(reply->code, text)) {
            reply->status = OTR_DENIED;
        }
    } else if (response->status == 200 && cJSON_IsObject(json)) {
        reply->json = json;
        reply->header = etcd_json_object(json, "header");
        return json;
    } else if (strstr(response->body, "CommonName of client") != NULL) { /* Text/plain, also for a login. */
        reply->status = OTR_DENIED;
        reply->certain = true;
        otr_errmsg_set(reply->msg, "etcd's JSON gateway refuses client certificates with a common name (CN) while "
                                   "authentication is on: use one whose subject has none");
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

/* --- who we are ------------------------------------------------------------------------------------------------- */

/* No token: nothing was sent. */
static void call_not_identified(struct etcd_call *call, int status, struct otr_errmsg *msg)
{
    struct etcd_reply reply = {.status = status, .code = ETCD_CODE_NONE, .certain = true, .msg = msg};

    call->waiting = false;
    etcd_auth_wait_stop(&call->wait);
    if (call->canceled) {
        call_finish_status(call, OTR_CANCELED);
    } else if (!call_again(call, &reply, false)) {
        reply.certain = !call->sent_before;
        call_finish(call, &reply);
    }
}

static void on_call_identified(void *data, int status, struct otr_errmsg *msg)
{
    struct etcd_call *call = data;

    uv_timer_stop(&call->timer);
    if (status != 0 || call->canceled) {
        call_not_identified(call, status, msg);
        return;
    }
    call->waiting = false;
    call_attempt(call);
}

/* Whether the request was refused for its token, and then sends it with another. */
static bool call_identify_anew(struct etcd_call *call, const struct etcd_reply *reply)
{
    struct etcd *etcd = call->etcd;

    if (etcd->user == NULL || call->spec.token == ETCD_TOKEN_NONE || !etcd_auth_is_refusal(reply->code) ||
        call->token_refused || clock_now_ms() >= call->deadline_ms) {
        return false;
    }
    etcd_auth_refused(etcd, call->endpoint, call->token_number);
    call->token_refused = true;
    call->token_wanted = true;
    call_attempt(call);
    return true;
}

/* Returns whether it waits for a token. On an error nothing else happens: *rv. */
static bool call_waits(struct etcd_call *call, uint32_t timeout_ms, int *rv)
{
    struct etcd *etcd = call->etcd;

    *rv = 0;
    if (!etcd_auth_missing(etcd, call->endpoint) || call->spec.token == ETCD_TOKEN_NONE ||
        (call->spec.token == ETCD_TOKEN_OPTIONAL && !call->token_wanted)) {
        return false;
    }
    call->wait.done = on_call_identified;
    call->wait.data = call;
    *rv = etcd_auth_wait_start(etcd, call->endpoint, &call->wait);
    call->waiting = *rv == 0;
    if (call->waiting) {
        /* A login gives up by itself after the same time, and knows better why. */
        uv_timer_start(&call->timer, on_call_timer, timeout_ms + LOGIN_SLACK_MS, 0);
    }
    return call->waiting;
}

/* --- attempts --------------------------------------------------------------------------------------------------- */

static void call_attempt_done(struct http_request *req, int status, const struct http_response *response,
                              const struct otr_errmsg *http_msg)
{
    struct etcd_call *call = req->data;
    struct etcd *etcd = call->etcd;
    struct otr_errmsg msg = *http_msg;
    struct etcd_reply reply = {.status = status, .code = ETCD_CODE_NONE, .certain = !response->sent, .msg = &msg};
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
        if (call_identify_anew(call, &reply)) {
            return;
        }
        if (reply.status == OTR_TIMEOUT) {
            etcd_auth_refused(etcd, call->endpoint, call->token_number);
        }
        if (status == 0) {
            otr_errmsg_wrap(&msg, "%s", etcd->endpoints.urls[call->endpoint]);
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

/* Within a budget of its own: the first attempt leaves half of it for another endpoint, if there is one. */
static uint32_t attempt_timeout_ms(const struct etcd_call *call)
{
    uint32_t timeout_ms = call->spec.timeout_ms != 0 ? call->spec.timeout_ms : call->etcd->request_timeout_ms;
    uint32_t half_ms = call->spec.budget_ms / 2;
    uint64_t now_ms = clock_now_ms();
    uint64_t left_ms = call->deadline_ms > now_ms ? call->deadline_ms - now_ms : 1;

    if (call->spec.budget_ms == 0) {
        return timeout_ms;
    }
    left_ms = call->etcd->endpoints.count > 1 && left_ms > half_ms ? half_ms : left_ms;
    return left_ms < timeout_ms ? (uint32_t)left_ms : timeout_ms;
}

static void call_attempt(struct etcd_call *call)
{
    struct etcd *etcd = call->etcd;
    uint32_t timeout_ms = attempt_timeout_ms(call);
    const struct etcd_token *token = &etcd->tokens[call->endpoint];
    struct etcd_headers headers;
    char url[ETCD_URL_MAX];
    int rv;

    if (call_waits(call, timeout_ms, &rv)) {
        return;
    }
    call->token_number = token->text != NULL ? token->number : 0;
    etcd_headers_init(&headers, timeout_ms, call->spec.token != ETCD_TOKEN_NONE ? token->text : NULL);
    rv = rv != 0 ? rv : etcd_url(etcd, call->endpoint, call->spec.path, url);
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

int etcd_call_start(struct etcd *etcd, const struct etcd_call_spec *spec, struct json_text *body,
                    struct etcd_call **call)
{
    struct etcd_call *c = etcd->closing || body->failed ? NULL : calloc(1, sizeof *c);

    if (c == NULL) {
        json_text_close(body);
        return etcd->closing ? OTR_CANCELED : OTR_NOMEM;
    }
    c->etcd = etcd;
    c->spec = *spec;
    c->body = *body;
    *body = (struct json_text){0};
    c->endpoint = spec->endpoint == ETCD_ENDPOINT_ANY ? etcd->endpoints.now : (unsigned)spec->endpoint;
    c->deadline_ms = clock_now_ms() + (spec->budget_ms != 0 ? spec->budget_ms : ETCD_BUDGET_MS);
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
