#include "sidecar/cli/loop.h"

#include <assert.h>
#include <signal.h>
#include <string.h>

static void on_signal(uv_signal_t *handle, int number)
{
    ((struct loop *)handle->data)->interrupted = number;
}

static void on_timer(uv_timer_t *timer)
{
    ((struct loop *)timer->data)->timer_fired = true;
}

/* What is waited for may come true by a timer: the loop must then not go on to wait for sockets. */
static void on_prepare(uv_prepare_t *prepare)
{
    const struct loop *l = prepare->data;

    if (l->timer_fired || (l->done != NULL && *l->done)) {
        uv_stop(prepare->loop);
    }
}

static int start_signal(struct loop *l, uv_signal_t *handle, int number)
{
    int rv = uv_signal_init(&l->uv, handle);

    handle->data = l;
    return rv != 0 ? rv : uv_signal_start(handle, on_signal, number);
}

int loop_init(struct loop *l, struct otr_errmsg *msg)
{
    int rv;

    memset(l, 0, sizeof *l);
    signal(SIGPIPE, SIG_IGN);
    rv = uv_loop_init(&l->uv);
    rv = rv != 0 ? rv : uv_timer_init(&l->uv, &l->timer);
    rv = rv != 0 ? rv : uv_prepare_init(&l->uv, &l->prepare);
    rv = rv != 0 ? rv : start_signal(l, &l->sigint, SIGINT);
    rv = rv != 0 ? rv : start_signal(l, &l->sigterm, SIGTERM);
    rv = rv != 0 ? rv : start_signal(l, &l->sighup, SIGHUP);
    if (rv != 0) {
        otr_errmsg_set(msg, "cannot start an event loop: %s", uv_strerror(rv));
        return OTR_IO;
    }
    l->timer.data = l;
    l->prepare.data = l;
    return 0;
}

static int turn(struct loop *l, const bool *done, uint64_t timeout_ms, bool heed_signals)
{
    int rv = 0;

    l->timer_fired = false;
    l->done = done;
    uv_prepare_start(&l->prepare, on_prepare);
    if (timeout_ms > 0) {
        uv_update_time(&l->uv);
        uv_timer_start(&l->timer, on_timer, timeout_ms, 0);
    }
    for (;;) {
        if (done != NULL && *done) {
            break;
        }
        if (heed_signals && l->interrupted != 0) {
            rv = OTR_CANCELED;
            break;
        }
        if (l->timer_fired) {
            rv = OTR_TIMEOUT;
            break;
        }
        uv_run(&l->uv, UV_RUN_ONCE);
    }
    uv_timer_stop(&l->timer);
    uv_prepare_stop(&l->prepare);
    l->done = NULL;
    return rv;
}

int loop_wait(struct loop *l, const bool *done, uint64_t timeout_ms)
{
    return turn(l, done, timeout_ms, true);
}

int loop_finish(struct loop *l, const bool *done, uint64_t timeout_ms)
{
    return turn(l, done, timeout_ms, false);
}

void loop_close(struct loop *l)
{
    int rv;

    uv_close((uv_handle_t *)&l->sigint, NULL);
    uv_close((uv_handle_t *)&l->sigterm, NULL);
    uv_close((uv_handle_t *)&l->sighup, NULL);
    uv_close((uv_handle_t *)&l->timer, NULL);
    uv_close((uv_handle_t *)&l->prepare, NULL);
    uv_run(&l->uv, UV_RUN_DEFAULT);
    rv = uv_loop_close(&l->uv);
    assert(rv == 0);
}
