/* Watches: one streaming request each, whatever happens to connections every event once and in order.
 *
 * Happy path: POST /v3/watch with start_revision = the last revision that was delivered; events up to it are dropped.
 * (One later would lose a deletion at the compaction revision.) A revision counts as delivered when all of it was.
 *
 * A silent stream proves nothing: a frozen member and lost quorum look like a quiet one. Hence the probe, a
 * linearizable read of the newest key below the prefix through the same endpoint, after each connect and every
 * PROBE_MS. It finds out that the endpoint is dead or cut off, that the stream lags or has lost something, and that
 * revisions fell.
 *
 * Failures: the stream ends, is not `created` within CREATED_MS, PROBE_MISSES_MAX probes fail, or a probe sees that
 * the stream has not reached what the probe before it saw: close it, connect to the next endpoint after a pause.
 * History compacted, another cluster, or a fallen revision (PROTOCOL D4): resync, which reads the prefix and delivers
 * all of it.
 *
 * With a user, CONNECTING begins with waiting for a token. One that the stream refuses is replaced; so is, once, one
 * with which it says "permission denied", for older versions (before 3.4.14 or so) say that of an expired one.
 *
 *   CONNECTING --created--> STREAMING
 *   CONNECTING, STREAMING --failure--> BREAKING --transfer ended--> PAUSED
 *   PAUSED --pause over--> CONNECTING, or READING when a resync is wanted
 *   READING --delivered--> CONNECTING,  READING --failure--> PAUSED */
#include "backends/etcd/etcd.h"
#include "backends/etcd/etcd_stream.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    CREATED_MS = 2000,
    PROBE_MS = 2000,
    PROBE_TIMEOUT_MS = 1500,
    PROBE_AGAIN_MS = 200, /* after a miss */
    PROBE_MISSES_MAX = 2,
    SILENT_MS = 4000, /* not confirmed for so long: reported as SILENT */
};

enum state { CONNECTING = 1, STREAMING, BREAKING, PAUSED, READING };

struct etcd_watch {
    struct etcd_watch *prev, *next; /* in etcd->watches */
    struct etcd *etcd;
    struct otr_watch *w;
    otr_watch_cb cb;
    char *prefix;
    enum state state;
    unsigned refs; /* timers, transfer, probe and read that still point here */
    bool stopped;  /* no more callbacks; only waits for them */
    bool resync_wanted;
    bool silent;       /* SILENT was the last word */
    uint64_t revision; /* delivered up to and including */
    unsigned endpoint;
    unsigned failures_count; /* since it was confirmed */
    uint32_t backoff_ms;
    struct http_request http; /* the transfer */
    struct etcd_auth_wait wait;
    uint64_t token_number; /* of the token sent, 0: none */
    bool denied;           /* with the token before this one */
    bool at_once;          /* the next attempt needs no pause */
    struct etcd_stream stream;
    uv_timer_t timer; /* CONNECTING: created too late; PAUSED: the pause */
    uv_timer_t probe_timer;
    struct etcd_call *probe;
    uint64_t probe_revision; /* delivered when it was sent */
    unsigned probe_misses;
    uint64_t behind_revision; /* what the last probe saw beyond us, or 0 */
    uint64_t confirmed_ms;
    struct etcd_get *get;
    struct otr_errmsg why; /* the last failure */
};

static void watch_go(struct etcd_watch *watch);

/* --- memory ----------------------------------------------------------------------------------------------------- */

static void watch_release(struct etcd_watch *watch)
{
    struct etcd *etcd = watch->etcd;

    assert(watch->refs > 0);
    watch->refs--;
    if (watch->refs == 0) {
        etcd_stream_close(&watch->stream);
        free(watch->prefix);
        free(watch);
        etcd_object_gone(etcd);
    }
}

static void on_watch_timer_closed(uv_handle_t *handle)
{
    watch_release(handle->data);
}

static void transfer_stop(struct etcd_watch *watch)
{
    uv_timer_stop(&watch->probe_timer);
    if (watch->probe != NULL) {
        etcd_call_cancel(watch->probe);
    }
    etcd_auth_wait_stop(&watch->wait);
    if (watch->http.internal != NULL) {
        http_client_cancel(watch->etcd->http, &watch->http);
    }
}

/* The struct otr_watch is the caller's from here on. */
static void watch_drop(struct etcd_watch *watch)
{
    watch->stopped = true;
    watch->w->internal = NULL;
    if (watch->prev != NULL) {
        watch->prev->next = watch->next;
    } else {
        watch->etcd->watches = watch->next;
    }
    if (watch->next != NULL) {
        watch->next->prev = watch->prev;
    }
    transfer_stop(watch);
    if (watch->get != NULL) {
        etcd_get_cancel(watch->get);
    }
    uv_close((uv_handle_t *)&watch->timer, on_watch_timer_closed);
    uv_close((uv_handle_t *)&watch->probe_timer, on_watch_timer_closed);
}

static void watch_final(struct etcd_watch *watch, int status, const struct otr_errmsg *msg)
{
    struct otr_watch *w = watch->w;
    otr_watch_cb cb = watch->cb;

    watch_drop(watch);
    cb(w, status, NULL, msg);
}

/* --- reports ---------------------------------------------------------------------------------------------------- */

/* False when the callback stopped the watch: then touch nothing. */
static bool deliver(struct etcd_watch *watch, const struct otr_watch_event *event)
{
    watch->cb(watch->w, 0, event, &watch->why);
    return !watch->stopped;
}

static bool deliver_state(struct etcd_watch *watch, enum otr_watch_event_type type)
{
    return deliver(watch, &(struct otr_watch_event){
                              .type = type,
                              .kv = {.key = "", .value = "", .session = ""},
                              .revision = watch->revision,
                          });
}

static bool report_silence(struct etcd_watch *watch)
{
    if (watch->silent || clock_now_ms() - watch->confirmed_ms < SILENT_MS) {
        return true;
    }
    watch->silent = true;
    return deliver_state(watch, OTR_WATCH_SILENT);
}

static void watch_confirmed(struct etcd_watch *watch, uint64_t sent_ms)
{
    watch->confirmed_ms = sent_ms;
    watch->failures_count = 0;
    watch->backoff_ms = 0;
    watch->why.text[0] = '\0';
    if (watch->silent) {
        watch->silent = false;
        deliver_state(watch, OTR_WATCH_ALIVE);
    }
}

/* --- failures --------------------------------------------------------------------------------------------------- */

static void on_watch_timer(uv_timer_t *timer);

static void watch_pause(struct etcd_watch *watch, uint32_t pause_ms)
{
    watch->state = PAUSED;
    uv_timer_start(&watch->timer, on_watch_timer, pause_ms, 0);
}

/* For after a failure; a resync whose reason was seen on a living stream starts at once and where it is. */
static void watch_retry(struct etcd_watch *watch)
{
    watch->endpoint = endpoints_next(&watch->etcd->endpoints, watch->endpoint);
    watch_pause(watch, endpoints_backoff_round(&watch->etcd->endpoints, ++watch->failures_count, &watch->backoff_ms));
    report_silence(watch);
}

/* Ends the transfer for watch->why; stream_done goes on from there, or we do when it waits for a token still. */
static void watch_break(struct etcd_watch *watch)
{
    bool waiting = watch->wait.token != NULL;

    if (watch->state == CONNECTING || watch->state == STREAMING) {
        watch->state = BREAKING;
        uv_timer_stop(&watch->timer);
        transfer_stop(watch);
        if (waiting && watch->resync_wanted) {
            watch_pause(watch, 0);
        } else if (waiting) {
            watch_retry(watch);
        }
    }
}

static void on_watch_timer(uv_timer_t *timer)
{
    struct etcd_watch *watch = timer->data;

    if (watch->state == CONNECTING) {
        otr_errmsg_set(&watch->why, "etcd: %s: watch: not established within %d ms",
                       watch->etcd->endpoints.urls[watch->endpoint], CREATED_MS);
        endpoints_failed(&watch->etcd->endpoints, watch->endpoint);
        etcd_auth_refused(watch->etcd, watch->endpoint, watch->token_number);
        watch_break(watch);
    } else if (watch->state == PAUSED) {
        watch_go(watch);
    }
}

/* --- probe ------------------------------------------------------------------------------------------------------ */

static uint64_t newest_revision(const cJSON *json)
{
    const cJSON *kvs = cJSON_GetObjectItemCaseSensitive(json, "kvs");

    return etcd_json_u64(cJSON_GetArrayItem(kvs, 0), "mod_revision");
}

static void probe_answered(struct etcd_watch *watch, const struct etcd_reply *reply)
{
    uint64_t newest = newest_revision(reply->json);
    bool caught_up = watch->revision >= (watch->behind_revision != 0 ? watch->behind_revision : newest);

    watch->probe_misses = 0;
    /* The stream may have gone on meanwhile: what counts is what was there before. */
    if (etcd_json_u64(reply->header, "revision") < watch->probe_revision) {
        otr_errmsg_set(&watch->why, "etcd: revision was %" PRIu64 ", now is %" PRIu64 ": restored from a backup?",
                       watch->probe_revision, etcd_json_u64(reply->header, "revision"));
        log_error("etcd", "watch %s: %s -> resync", watch->prefix, watch->why.text);
        watch->resync_wanted = true;
        watch_break(watch);
        return;
    }
    if (!caught_up && watch->behind_revision != 0) {
        otr_errmsg_set(&watch->why, "etcd: %s: watch: delivered up to %" PRIu64 ", but %" PRIu64 " exists",
                       watch->etcd->endpoints.urls[watch->endpoint], watch->revision, watch->behind_revision);
        watch_break(watch);
        return;
    }
    watch->behind_revision = newest > watch->revision ? newest : 0;
    if (caught_up) {
        watch_confirmed(watch, reply->sent_ms);
    }
}

static void on_probe_timer(uv_timer_t *timer);

static void probe_done(void *data, const struct etcd_reply *reply)
{
    struct etcd_watch *watch = data;

    watch->probe = NULL;
    if (!watch->stopped && watch->state == STREAMING && reply->status != OTR_CANCELED) {
        if (reply->status == 0) {
            probe_answered(watch, reply);
        } else {
            watch->why = *reply->msg;
            watch->probe_misses++;
            if (watch->probe_misses >= PROBE_MISSES_MAX) {
                watch_break(watch);
            } else {
                uv_timer_start(&watch->probe_timer, on_probe_timer, PROBE_AGAIN_MS, PROBE_MS);
            }
            report_silence(watch);
        }
    }
    watch_release(watch);
}

static void on_probe_timer(uv_timer_t *timer)
{
    struct etcd_watch *watch = timer->data;
    struct etcd_call_spec spec = {
        .path = "/v3/kv/range",
        .lane = ETCD_LANE_REQUEST,
        .endpoint = (int)watch->endpoint,
        .timeout_ms = PROBE_TIMEOUT_MS,
        .done = probe_done,
        .data = watch,
    };
    const struct json_text from_start = {0};
    struct json_text body = {0};

    if (watch->probe != NULL) {
        return;
    }
    watch->probe_revision = watch->revision;
    json_text_add(&body, "{");
    etcd_add_range(&body, watch->prefix, &from_start);
    json_text_add(&body, ",\"limit\":\"1\",\"keys_only\":true,\"sort_target\":\"MOD\",\"sort_order\":\"DESCEND\"}");
    if (etcd_call_start(watch->etcd, &spec, &body, &watch->probe) == 0) {
        watch->refs++;
    }
}

/* --- stream ----------------------------------------------------------------------------------------------------- */

static int on_events(struct etcd_watch *watch, const struct etcd_stream_item *item)
{
    uint64_t delivered = watch->revision;

    for (size_t i = 0; i < item->events_count; i++) {
        if (item->events[i].revision > delivered && !deliver(watch, &item->events[i])) {
            return 1;
        }
    }
    if (item->revision > watch->revision) {
        watch->revision = item->revision;
    }
    return 0;
}

static int on_denied(struct etcd_watch *watch, const struct etcd_stream_item *item)
{
    bool refused = item->type == ETCD_STREAM_REFUSED;

    otr_errmsg_set(&watch->why, "etcd: watch %s: %s", watch->prefix, item->text);
    if (watch->etcd->user == NULL || (!refused && watch->denied)) {
        watch_final(watch, OTR_DENIED, &watch->why);
        return 1;
    }
    etcd_auth_refused(watch->etcd, watch->endpoint, watch->token_number);
    watch->at_once = !watch->denied; /* A second refusal in a row waits. */
    watch->denied = true;
    watch_break(watch);
    return 1;
}

static int on_stream_item(void *data, const struct etcd_stream_item *item)
{
    struct etcd_watch *watch = data;

    etcd_identity_seen(watch->etcd, item->identity);
    if (watch->state == BREAKING) {
        return 1;
    }
    switch (item->type) {
    case ETCD_STREAM_CREATED:
        watch->state = STREAMING;
        watch->denied = false;
        watch->probe_misses = 0;
        watch->behind_revision = 0;
        uv_timer_stop(&watch->timer);
        uv_timer_start(&watch->probe_timer, on_probe_timer, 0, PROBE_MS);
        return 0;
    case ETCD_STREAM_EVENTS:
        return on_events(watch, item);
    case ETCD_STREAM_PROGRESS:
        if (item->revision > watch->revision && watch->state == STREAMING) {
            watch->revision = item->revision;
        }
        return 0;
    case ETCD_STREAM_GONE:
        watch->resync_wanted = true;
        break;
    case ETCD_STREAM_DENIED:
    case ETCD_STREAM_REFUSED:
        return on_denied(watch, item);
    case ETCD_STREAM_BROKEN:
        break;
    }
    otr_errmsg_set(&watch->why, "etcd: %s: watch: %s", watch->etcd->endpoints.urls[watch->endpoint], item->text);
    watch_break(watch);
    return 1;
}

static int on_stream_data(struct http_request *req, const char *data, size_t bytes)
{
    struct etcd_watch *watch = req->data;

    return watch->stopped || watch->state == BREAKING ? 1 : etcd_stream_feed(&watch->stream, data, bytes);
}

static void stream_done(struct http_request *req, int status, const struct http_response *response,
                        const struct otr_errmsg *msg)
{
    struct etcd_watch *watch = req->data;
    bool broken_by_us = watch->state == BREAKING;

    (void)response;
    if (!watch->stopped && !broken_by_us) {
        otr_errmsg_set(&watch->why, "etcd: %s", status != 0 ? msg->text : "watch: the server ended the stream");
        etcd_stream_end(&watch->stream);
    }
    if (!watch->stopped) {
        watch->state = BREAKING;
        uv_timer_stop(&watch->timer);
        transfer_stop(watch);
        if (watch->resync_wanted || watch->at_once) {
            watch->at_once = false;
            watch_pause(watch, 0);
        } else {
            watch_retry(watch);
        }
    }
    watch_release(watch);
}

static void watch_connect(struct etcd_watch *watch);

static void on_watch_identified(void *data, int status, struct otr_errmsg *msg)
{
    struct etcd_watch *watch = data;

    if (status == 0) {
        watch_connect(watch);
        return;
    }
    watch->why = *msg;
    uv_timer_stop(&watch->timer);
    watch_retry(watch);
}

/* Returns whether it has to wait for a token. */
static bool watch_waits(struct etcd_watch *watch)
{
    if (!etcd_auth_missing(watch->etcd, watch->endpoint)) {
        return false;
    }
    watch->wait.done = on_watch_identified;
    watch->wait.data = watch;
    if (etcd_auth_wait_start(watch->etcd, watch->endpoint, &watch->wait) != 0) {
        otr_errmsg_set(&watch->why, "etcd: watch: %s", otr_strerror(OTR_NOMEM));
        watch_retry(watch);
        return true;
    }
    watch->state = CONNECTING;
    uv_timer_start(&watch->timer, on_watch_timer, CREATED_MS, 0);
    return true;
}

static void watch_connect(struct etcd_watch *watch)
{
    const struct etcd_token *token = &watch->etcd->tokens[watch->endpoint];
    struct json_text body = {0};
    const struct json_text from_start = {0};
    struct etcd_headers headers;
    char url[ETCD_URL_MAX];
    int rv;

    if (watch_waits(watch)) {
        return;
    }
    etcd_stream_close(&watch->stream);
    etcd_stream_init(&watch->stream, on_stream_item, watch);
    watch->token_number = token->text != NULL ? token->number : 0;
    etcd_headers_init(&headers, 0, token->text);
    json_text_add(&body, "{\"create_request\":{");
    etcd_add_range(&body, watch->prefix, &from_start);
    /* 0 would mean "from now". */
    json_text_add(&body, ",\"start_revision\":\"%" PRIu64 "\",\"progress_notify\":true,\"fragment\":true}}",
                  watch->revision != 0 ? watch->revision : 1);
    rv = body.failed ? OTR_NOMEM : etcd_url(watch->etcd, watch->endpoint, "/v3/watch", url);
    if (rv == 0) {
        watch->http = (struct http_request){
            .method = "POST",
            .url = url,
            .headers = headers.list,
            .body = body.data,
            .body_bytes = body.bytes,
            .lane = ETCD_LANE_WATCH,
            .on_data = on_stream_data,
            .data = watch,
        };
        rv = http_client_start(watch->etcd->http, &watch->http, stream_done);
    }
    json_text_close(&body);
    if (rv != 0) {
        otr_errmsg_set(&watch->why, "etcd: watch: %s", otr_strerror(rv));
        watch_retry(watch);
        return;
    }
    watch->refs++;
    watch->state = CONNECTING;
    uv_timer_start(&watch->timer, on_watch_timer, CREATED_MS, 0);
}

/* --- resync ----------------------------------------------------------------------------------------------------- */

static void resync_deliver(struct etcd_watch *watch, const struct otr_get_result *result)
{
    watch->revision = result->revision;
    if (!deliver_state(watch, OTR_WATCH_RESYNC)) {
        return;
    }
    for (size_t i = 0; i < result->kvs_count; i++) {
        struct otr_watch_event put = {.type = OTR_WATCH_PUT, .kv = result->kvs[i], .revision = result->revision};

        if (!deliver(watch, &put)) {
            return;
        }
    }
    if (deliver_state(watch, OTR_WATCH_RESYNC_END)) {
        watch_connect(watch);
    }
}

static void read_done(void *data, int status, const struct otr_get_result *result, struct otr_errmsg *msg)
{
    struct etcd_watch *watch = data;

    watch->get = NULL;
    if (!watch->stopped) {
        if (status == OTR_DENIED && !etcd_auth_missing(watch->etcd, watch->etcd->endpoints.now)) {
            watch_final(watch, OTR_DENIED, msg);
        } else if (status != 0) { /* Also a password that was refused. */
            watch->why = *msg;
            watch->resync_wanted = true;
            watch_retry(watch);
        } else if (watch->resync_wanted) {
            watch_pause(watch, 0); /* The cluster became another one while we read. */
        } else {
            resync_deliver(watch, result);
        }
    }
    watch_release(watch);
}

static void watch_go(struct etcd_watch *watch)
{
    int rv;

    if (!watch->resync_wanted) {
        watch_connect(watch);
        return;
    }
    watch->state = READING;
    watch->resync_wanted = false;
    rv = etcd_get_start(watch->etcd, watch->prefix, read_done, watch, &watch->get);
    if (rv == 0) {
        watch->refs++;
        return;
    }
    otr_errmsg_set(&watch->why, "etcd: watch: %s", otr_strerror(rv));
    watch->resync_wanted = true;
    watch_retry(watch);
}

void etcd_watch_resync_all(struct etcd *etcd)
{
    for (struct etcd_watch *watch = etcd->watches; watch != NULL; watch = watch->next) {
        otr_errmsg_set(&watch->why, "etcd: another cluster");
        watch->resync_wanted = true;
        watch_break(watch);
    }
}

/* --- the vtable's members --------------------------------------------------------------------------------------- */

int etcd_watch_op(struct otr_backend *b, struct otr_watch *w, const char *prefix, uint64_t revision, otr_watch_cb cb)
{
    struct etcd *etcd = etcd_of(b);
    struct etcd_watch *watch = etcd->closing ? NULL : calloc(1, sizeof *watch);

    if (watch == NULL) {
        return etcd->closing ? OTR_CANCELED : OTR_NOMEM;
    }
    watch->prefix = strdup(prefix);
    if (watch->prefix == NULL) {
        free(watch);
        return OTR_NOMEM;
    }
    watch->etcd = etcd;
    watch->w = w;
    watch->cb = cb;
    watch->revision = revision;
    watch->endpoint = etcd->endpoints.now;
    watch->confirmed_ms = clock_now_ms();
    watch->refs = 2;
    uv_timer_init(etcd->loop, &watch->timer);
    uv_timer_init(etcd->loop, &watch->probe_timer);
    watch->timer.data = watch;
    watch->probe_timer.data = watch;
    watch->next = etcd->watches;
    if (watch->next != NULL) {
        watch->next->prev = watch;
    }
    etcd->watches = watch;
    etcd_object_made(etcd);
    w->internal = watch;
    watch_pause(watch, 0);
    return 0;
}

void etcd_watch_stop(struct otr_backend *b, struct otr_watch *w)
{
    (void)b;
    if (w->internal != NULL) {
        watch_drop(w->internal);
    }
}

void etcd_watch_cancel_all(struct etcd *etcd)
{
    struct otr_errmsg msg = {0};

    otr_errmsg_set(&msg, "etcd: watch: %s", otr_strerror(OTR_CANCELED));
    while (etcd->watches != NULL) {
        watch_final(etcd->watches, OTR_CANCELED, &msg);
    }
}
