/* A watch, for the two files that it is made of: consul_watch.c (reads, queries, what is delivered) and
 * consul_watch_checks.c (what is asked besides: whether the agent is well, whether missing keys are gone). */
#ifndef OUTRIGGER_BACKENDS_CONSUL_WATCH_H
#define OUTRIGGER_BACKENDS_CONSUL_WATCH_H

#include "backends/consul/consul.h"

enum { CONSUL_PROBE_MS = 2000 };

/* The picture is in consul_watch.c. */
enum consul_watch_state {
    WATCH_READING = 1,
    WATCH_QUERYING,
    WATCH_RESTING,
    WATCH_VERIFYING,
    WATCH_BREAKING,
    WATCH_PAUSED
};

struct consul_watch {
    struct consul_watch *prev, *next; /* in consul->watches */
    struct consul *consul;
    struct otr_watch *w;
    otr_watch_cb cb;
    char *prefix;
    enum consul_watch_state state;
    unsigned refs;     /* timers, calls and reads that still point here */
    bool stopped;      /* no more callbacks; only waits for them */
    bool based;        /* `before` is what was delivered up to `revision`; otherwise the first answer decides */
    bool silent;       /* SILENT was the last word */
    uint64_t revision; /* delivered up to and including */
    uint64_t identity; /* 0: not known yet */
    struct consul_state before;
    uint64_t index;     /* of the last answer: where the next query blocks */
    struct kv_list now; /* an answer that is not delivered yet */
    uint64_t now_index;
    unsigned endpoint;
    unsigned failures_count; /* since it was confirmed */
    uint32_t backoff_ms;
    uint64_t queried_ms;
    struct consul_get *get;
    struct consul_call *call; /* the query, or the verification */
    struct consul_call *probe;
    unsigned probe_misses;
    uint64_t behind_index; /* what the last probe saw beyond us, or 0 */
    uint64_t confirmed_ms;
    uv_timer_t timer; /* PAUSED, RESTING */
    uv_timer_t probe_timer;
    struct otr_errmsg why; /* the last failure */
};

/* --- consul_watch.c --------------------------------------------------------------------------------------------- */

/* Of a timer, call or read that pointed here. */
void consul_watch_release(struct consul_watch *watch);
/* At the end of a call, whichever: whether its answer is still wanted. */
bool consul_watch_call_wanted(struct consul_watch *watch);
/* The prefix was as we know it when this time had come. Its callback may stop the watch. */
void consul_watch_confirmed(struct consul_watch *watch, uint64_t sent_ms);
void consul_watch_report_silence(struct consul_watch *watch);
/* Ends what is under way for watch->why; reads anew after a pause. */
void consul_watch_break(struct consul_watch *watch);
/* The same for an answer; final when it is a refusal for good. */
void consul_watch_failed(struct consul_watch *watch, int status, bool token_unknown, const struct otr_errmsg *msg);
/* Delivers watch->now, in which deletions are certain; then queries on. */
void consul_watch_take(struct consul_watch *watch, bool resync);
void consul_watch_query(struct consul_watch *watch);

/* --- consul_watch_checks.c -------------------------------------------------------------------------------------- */

void consul_watch_on_probe_timer(uv_timer_t *timer);
/* Asks whether the keys that `changes` delete are gone, then goes on with watch->now. OTR_NOMEM, OTR_CANCELED. */
int consul_watch_verify(struct consul_watch *watch, const struct consul_changes *changes);

#endif
