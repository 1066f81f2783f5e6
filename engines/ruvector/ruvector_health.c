#include "engines/ruvector/ruvector_health.h"

#include "engines/ruvector/ruvector_codec.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    PROBE_EVERY_MS = 250,
    PROBE_TIMEOUT_MS = 1500,
    PROBE_ANSWER_BYTES_MAX = 64 * 1024,
};

static void report(struct ruvector_health *h, const struct otr_engine_status *now, const struct otr_errmsg *msg)
{
    bool same = h->status.up == now->up && h->status.evidently_dead == now->evidently_dead &&
                strcmp(h->status.data_id, now->data_id) == 0 && strcmp(h->status.boot_id, now->boot_id) == 0;

    if (h->reported && same) {
        return;
    }
    h->reported = true;
    h->status = *now;
    h->changed(h, &h->status, msg);
}

static void probe_done(struct http_request *req, int status, const struct http_response *response,
                       const struct otr_errmsg *cause)
{
    struct ruvector_health *h = req->data;
    struct otr_engine_status now = h->status; /* The ids stay as last seen while it is down. */
    struct otr_errmsg msg = {0};

    h->probing = false;
    if (h->closing) {
        return;
    }
    now.up = false;
    now.evidently_dead = false;
    if (status != 0) {
        now.evidently_dead = response->connection_refused;
        msg = *cause;
    } else if (ruvector_codec_health(response->body, response->body_bytes, &now, &msg) == 0) {
        now.up = response->status == 200;
        if (!now.up) {
            otr_errmsg_set(&msg, "/health answers HTTP status %ld", response->status);
        }
    }
    if (h->again) {
        ruvector_health_look(h);
    }
    report(h, &now, &msg);
}

static void on_timer(uv_timer_t *timer)
{
    struct ruvector_health *h = timer->data;

    if (h->probing) {
        return;
    }
    h->again = false;
    h->probing = http_client_start(h->client, &h->probe, probe_done) == 0;
}

int ruvector_health_start(struct ruvector_health *h, uv_loop_t *loop, struct http_client *client, const char *base,
                          unsigned lane, ruvector_health_cb changed)
{
    size_t room = strlen(base) + sizeof "/health";
    void *data = h->data;
    int rv;

    *h = (struct ruvector_health){.client = client, .changed = changed, .data = data};
    h->url = malloc(room);
    if (h->url == NULL) {
        return OTR_NOMEM;
    }
    snprintf(h->url, room, "%s/health", base);
    h->probe = (struct http_request){
        .method = "GET",
        .url = h->url,
        .timeout_ms = PROBE_TIMEOUT_MS,
        .response_bytes_max = PROBE_ANSWER_BYTES_MAX,
        .lane = lane,
        .data = h,
    };
    rv = uv_timer_init(loop, &h->timer);
    assert(rv == 0);
    h->timer.data = h;
    rv = uv_timer_start(&h->timer, on_timer, 0, PROBE_EVERY_MS);
    assert(rv == 0);
    return 0;
}

void ruvector_health_look(struct ruvector_health *h)
{
    if (h->closing) {
        return;
    }
    if (h->probing) {
        h->again = true;
        return;
    }
    uv_timer_start(&h->timer, on_timer, 0, PROBE_EVERY_MS);
}

static void timer_closed(uv_handle_t *handle)
{
    struct ruvector_health *h = handle->data;

    free(h->url);
    h->url = NULL;
    h->closed(h);
}

void ruvector_health_close(struct ruvector_health *h, ruvector_health_close_cb closed)
{
    h->closing = true;
    h->closed = closed;
    uv_close((uv_handle_t *)&h->timer, timer_closed);
}
