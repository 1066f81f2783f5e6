#include "backends/consul/consul_plan.h"
#include "backends/consul/consul_watch.h"

#include <inttypes.h>
#include <string.h>

enum {
    PROBE_TIMEOUT_MS = 1500,
    PROBE_AGAIN_MS = 200, /* after a miss */
    PROBE_MISSES_MAX = 2,
};

/* --- probe ------------------------------------------------------------------------------------------------------ */

static void probe_answered(struct consul_watch *watch, const struct consul_reply *reply)
{
    bool caught_up = watch->index >= (watch->behind_index != 0 ? watch->behind_index : reply->index);

    watch->probe_misses = 0;
    if (!caught_up && watch->behind_index != 0) {
        otr_errmsg_set(&watch->why, "consul: %s: watch: index %" PRIu64 " delivered, but %" PRIu64 " exists",
                       watch->consul->endpoints.urls[watch->endpoint], watch->index, watch->behind_index);
        consul_watch_break(watch);
        return;
    }
    watch->behind_index = reply->index > watch->index ? reply->index : 0;
    if (caught_up) {
        consul_watch_confirmed(watch, reply->sent_ms);
    }
}

static void probe_done(void *data, const struct consul_reply *reply)
{
    struct consul_watch *watch = data;

    watch->probe = NULL;
    if (consul_watch_call_wanted(watch) && reply->status != OTR_CANCELED &&
        (watch->state == WATCH_QUERYING || watch->state == WATCH_RESTING || watch->state == WATCH_VERIFYING)) {
        if (reply->status == 0) {
            probe_answered(watch, reply);
        } else {
            watch->why = *reply->msg;
            watch->probe_misses++;
            if (watch->probe_misses >= PROBE_MISSES_MAX) {
                consul_watch_break(watch);
            } else {
                uv_timer_start(&watch->probe_timer, consul_watch_on_probe_timer, PROBE_AGAIN_MS, CONSUL_PROBE_MS);
                consul_watch_report_silence(watch);
            }
        }
    }
    consul_watch_release(watch);
}

void consul_watch_on_probe_timer(uv_timer_t *timer)
{
    struct consul_watch *watch = timer->data;
    struct consul_call_spec spec = {
        .method = "GET",
        .lane = CONSUL_LANE_REQUEST,
        .endpoint = (int)watch->endpoint,
        .timeout_ms = PROBE_TIMEOUT_MS,
        .accepted = 404,
        .done = probe_done,
        .data = watch,
    };
    struct json_text path = {0};

    if (watch->probe != NULL) {
        return;
    }
    json_text_add(&path, "/v1/kv/");
    consul_add_path(&path, watch->prefix);
    json_text_add(&path, "?keys&separator=/&consistent");
    if (consul_call_start(watch->consul, &spec, &path, NULL, &watch->probe) == 0) {
        watch->refs++;
    }
}

/* --- verifying -------------------------------------------------------------------------------------------------- */

static void verify_done(void *data, const struct consul_reply *reply)
{
    struct consul_watch *watch = data;

    watch->call = NULL;
    if (consul_watch_call_wanted(watch)) {
        if (reply->status != 0) {
            consul_watch_failed(watch, reply->status, reply->token_unknown, reply->msg);
        } else if (reply->http_status == 200) {
            consul_watch_take(watch, false);
        } else if (strstr(reply->body, "ermission denied") != NULL) {
            otr_errmsg_set(reply->msg, "consul: watch %s: keys are no longer shown to us: permission denied",
                           watch->prefix);
            consul_watch_failed(watch, OTR_DENIED, false, reply->msg);
        } else { /* There again: another look. */
            watch->index = 0;
            kv_list_close(&watch->now);
            consul_watch_query(watch);
        }
    }
    consul_watch_release(watch);
}

/* Asks about as many missing keys as fit; all have one permission, or nearly so. */
int consul_watch_verify(struct consul_watch *watch, const struct consul_changes *changes)
{
    struct consul_call_spec spec = {
        .method = "PUT",
        .lane = CONSUL_LANE_REQUEST,
        .endpoint = (int)watch->endpoint,
        .accepted = 409,
        .done = verify_done,
        .data = watch,
    };
    struct json_text path = {0};
    struct otr_compare compares[OTR_TXN_MAX];
    struct otr_txn txn = {.compares = compares};
    const char *holders[1] = {NULL};
    struct consul_plan plan;
    int rv;

    for (size_t i = 0; i < changes->count && txn.compares_count < OTR_TXN_MAX; i++) {
        const struct otr_watch_event *event = &changes->events[i];
        bool again = i + 1 < changes->count && changes->events[i + 1].type == OTR_WATCH_PUT &&
                     strcmp(changes->events[i + 1].kv.key, event->kv.key) == 0;

        if (event->type == OTR_WATCH_DELETE && !again) {
            compares[txn.compares_count++] = (struct otr_compare){.type = OTR_COMPARE_ABSENT, .key = event->kv.key};
        }
    }
    rv = consul_plan_make(&plan, &txn, holders, 0);
    if (rv == 0) {
        json_text_add(&path, "/v1/txn?consistent");
        rv = consul_call_start(watch->consul, &spec, &path, &plan.body, &watch->call);
    }
    consul_plan_close(&plan);
    if (rv == 0) {
        watch->refs++;
        watch->state = WATCH_VERIFYING;
    }
    return rv;
}
