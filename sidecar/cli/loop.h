/* A loop for commands that do one thing after the other: they start something asynchronous and turn the loop until it
 * is done, a time has passed, or the user interrupts. */
#ifndef OUTRIGGER_CLI_LOOP_H
#define OUTRIGGER_CLI_LOOP_H

#include "outrigger/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct loop {
    uv_loop_t uv;
    uv_signal_t sigint, sigterm, sighup;
    uv_timer_t timer;
    uv_prepare_t prepare;
    const bool *done; /* what is waited for now */
    bool timer_fired;
    int interrupted; /* the signal that came, 0: none */
};

/* Catches SIGINT, SIGTERM and SIGHUP from now on, ignores SIGPIPE. */
int loop_init(struct loop *l, struct otr_errmsg *msg);
/* Turns the loop until *done (NULL: never). 0; OTR_TIMEOUT after timeout_ms (0: none); OTR_CANCELED when a signal came,
 * now or before. */
int loop_wait(struct loop *l, const bool *done, uint64_t timeout_ms);
/* The same without looking at signals: for putting things away. */
int loop_finish(struct loop *l, const bool *done, uint64_t timeout_ms);
/* Everything else on the loop must be closed, or closing. */
void loop_close(struct loop *l);

#endif
