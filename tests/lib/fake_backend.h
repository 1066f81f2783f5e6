/* The fake coordination backend: a coordinator in memory on a libuv loop, under the same contract as the real ones
 * (tests/conformance runs the same cases on it), which in addition does what a test tells it to. Any number of
 * backends, one per simulated node, may be opened on one coordinator, all on its loop.
 *
 * Nothing happens inside a call: requests are carried out, and callbacks fire, in a later turn of the loop. Time is
 * real (CLOCK_BOOTTIME), but the limits are short: FAKE_SILENT_MS, and request_timeout_ms, default FAKE_TIMEOUT_MS. */
#ifndef OUTRIGGER_TESTS_FAKE_BACKEND_H
#define OUTRIGGER_TESTS_FAKE_BACKEND_H

#include "outrigger/backend.h"

enum {
    FAKE_TICK_MS = 2,
    FAKE_TIMEOUT_MS = 500, /* a request that nobody answers */
    FAKE_SILENT_MS = 300,  /* a watch that is not confirmed */
};

struct fake_coordinator;

struct fake_coordinator *fake_coordinator_new(struct uv_loop_s *loop);
/* After all its backends are closed. The memory is freed by the loop: run it to its end. */
void fake_coordinator_close(struct fake_coordinator *c);

extern const struct otr_backend_ops otr_backend_fake;
/* For otr_backend_config.endpoints. Several, "a,b", may be given: the first counts. */
const char *fake_coordinator_endpoint(const struct fake_coordinator *c);

enum fake_reach {
    FAKE_REACHABLE = 1,
    FAKE_DOWN,   /* refuses connections: nothing is sent. Requests under way break: OTR_UNKNOWN, not carried out */
    FAKE_FROZEN, /* takes requests and says nothing; carries out what it took when it is reachable again */
};
/* While not reachable no session expires; afterwards each has its whole TTL again. */
void fake_set_reach(struct fake_coordinator *c, enum fake_reach reach);
enum fake_link {
    FAKE_LINK_WHOLE = 0,
    FAKE_LINK_REFUSED,    /* as FAKE_DOWN */
    FAKE_LINK_SILENT,     /* requests get lost, and callers wait */
    FAKE_LINK_NO_ANSWERS, /* requests arrive, answers get lost; sessions are kept alive but not confirmed */
};
/* For one backend only: a node that is cut off from a coordinator that runs. Its sessions do expire. */
void fake_set_link(struct otr_backend *b, enum fake_link link);

enum fake_outcome {
    FAKE_OUTCOME_NORMAL,
    FAKE_OUTCOME_LOST,    /* answered OTR_UNKNOWN, not carried out */
    FAKE_OUTCOME_APPLIED, /* answered OTR_UNKNOWN, carried out if its compares hold */
    FAKE_OUTCOME_LATE,    /* answered OTR_UNKNOWN, carried out by fake_release_late if its compares hold then */
};
/* What happens to the next transaction of any backend; then NORMAL again. */
void fake_next_txn(struct fake_coordinator *c, enum fake_outcome outcome);
/* Carries out the LATE ones, in order. Returns how many took effect. */
unsigned fake_release_late(struct fake_coordinator *c);

/* Ends a session as etcd sometimes does: although it was kept alive. False when there is none with that id. */
bool fake_session_lose(struct fake_coordinator *c, const char *id);
/* Every watch starts anew. */
void fake_force_resync(struct fake_coordinator *c);
/* History is forgotten: watches that are behind start anew. */
void fake_compact(struct fake_coordinator *c);
/* Another, empty coordinator with another identity. */
void fake_replace(struct fake_coordinator *c);

#endif
