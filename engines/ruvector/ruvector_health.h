/* Watches one engine: asks GET /health several times a second, one probe at a time, and reports every change. An answer
 * that takes too long means "not up" (the engine blocks while it builds an index), a refused connection "evidently
 * dead". Loop thread only. */
#ifndef OUTRIGGER_RUVECTOR_HEALTH_H
#define OUTRIGGER_RUVECTOR_HEALTH_H

#include "outrigger/engine.h"
#include "sidecar/io/http_client.h"

struct ruvector_health;
typedef void (*ruvector_health_cb)(struct ruvector_health *health, const struct otr_engine_status *status,
                                   const struct otr_errmsg *msg);
typedef void (*ruvector_health_close_cb)(struct ruvector_health *health);

struct ruvector_health {
    struct http_client *client; /* the caller's */
    struct http_request probe;
    char *url;
    uv_timer_t timer;
    struct otr_engine_status status; /* as last reported */
    bool reported;
    bool probing;
    bool again; /* somebody asked for a probe while one was under way */
    bool closing;
    ruvector_health_cb changed;
    ruvector_health_close_cb closed;
    void *data; /* the caller's */
};

/* Starts probing. `changed` fires when the first probe has ended, and from then on at every change. 0 or OTR_NOMEM. */
int ruvector_health_start(struct ruvector_health *health, uv_loop_t *loop, struct http_client *client, const char *base,
                          unsigned lane, ruvector_health_cb changed);

/* Something looked wrong: probe at once. */
void ruvector_health_look(struct ruvector_health *health);

/* No more reports. The client must have been told to close already, or close soon: a probe under way ends with it.
 * `closed` fires when the timer is gone. */
void ruvector_health_close(struct ruvector_health *health, ruvector_health_close_cb closed);

#endif
