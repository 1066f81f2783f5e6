/* What lies between a backend and a coordinator that runs: links that refuse, that swallow everything, that swallow one
 * way only. The backend behind such a link is w->far; w->b sees meanwhile what the coordinator holds. */
#include "tests/conformance/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void link_set(struct world *w, enum world_link link)
{
    w->driver->far_link(w, link);
}

static int far_txn(struct world *w, struct txn *txn)
{
    cr_assert(txn_start(w, txn, w->far) == 0);
    AWAIT(w, txn->calls_count > 0);
    return txn->status;
}

static int far_put(struct world *w, const char *key, const char *value)
{
    struct txn txn = {0};

    txn_put(&txn, key, value);
    return far_txn(w, &txn);
}

static void far_session(struct world *w, struct session *session, unsigned ttl_ms, const char *key)
{
    struct txn txn = {0};

    session_start(w, session, w->far, ttl_ms);
    AWAIT(w, session->open_count == 1);
    txn_put_bound(&txn, key, "1", &session->s);
    cr_assert(far_txn(w, &txn) == 0, "%s", txn.text);
}

static bool is(const char *value, const char *wanted)
{
    return value != NULL ? wanted != NULL && strcmp(value, wanted) == 0 : wanted == NULL;
}

/* --- outcomes --------------------------------------------------------------------------------------------------- */

/* Refused: nothing was sent, which is certain, and said so. */
CASE(link_refused_is_unreachable)
{
    struct session session;
    struct txn txn = {0};
    struct get get;

    w->driver->far_open(w);
    cr_assert(far_put(w, "l/a", "0") == 0);
    far_session(w, &session, 10000, "l/bound");
    link_set(w, LINK_REFUSED);
    world_pass(w, 50); /* Kept connections are found broken. */
    txn_put(&txn, "l/a", "1");
    cr_assert(far_txn(w, &txn) == OTR_UNREACHABLE, "%s: %s", otr_errname(txn.status), txn.text);
    get_start(w, &get, w->far, "l/");
    AWAIT(w, get.calls_count == 1);
    cr_assert(get.status == OTR_UNREACHABLE, "%s", otr_errname(get.status));
    AWAIT(w, session.unreachable_count == 1);
    link_set(w, LINK_WHOLE);
    AWAIT(w, session.confirmed_count == 1);
    cr_assert_str_eq(value_now(w, "l/a"), "0");
    cr_assert_str_eq(value_now(w, "l/bound"), "1");
    cr_assert(session.lost_count == 0 && far_put(w, "l/a", "2") == 0);
}

/* What is sent gets lost: unknown, and the coordinator never heard of it while the link was so. */
CASE(link_without_requests_is_unknown)
{
    static const enum world_link links[] = {LINK_SILENT, LINK_NO_REQUESTS};
    struct txn txn = {0};
    struct get get;

    w->driver->far_open(w);
    for (int i = 0; i < 2; i++) {
        cr_assert(far_put(w, "l/a", "0") == 0);
        link_set(w, links[i]);
        txn_put(&txn, "l/a", "1");
        cr_assert(far_txn(w, &txn) == OTR_UNKNOWN, "%s: %s", otr_errname(txn.status), txn.text);
        get_start(w, &get, w->far, "l/");
        AWAIT(w, get.calls_count == 1);
        cr_assert(get.status == OTR_TIMEOUT || get.status == OTR_UNREACHABLE, "%s", otr_errname(get.status));
        cr_assert_str_eq(value_now(w, "l/a"), "0");
        link_set(w, LINK_WHOLE);
        AWAIT(w, far_put(w, "l/b", "1") == 0);
        cr_assert(txn.calls_count == 1 && get.calls_count == 1);
    }
}

/* The transaction is carried out and its answer lost. It is UNKNOWN: not CONFLICT, which a repetition would have found,
 * nor a failure. */
CASE(link_without_answers_is_unknown)
{
    struct txn txn = {0};

    w->driver->far_open(w);
    cr_assert(far_put(w, "l/a", "0") == 0);
    link_set(w, LINK_NO_ANSWERS);
    txn_absent(&txn, "l/b");
    txn_put(&txn, "l/b", "1");
    cr_assert(far_txn(w, &txn) == OTR_UNKNOWN, "%s: %s", otr_errname(txn.status), txn.text);
    cr_assert_str_eq(value_now(w, "l/b"), "1");
    link_set(w, LINK_WHOLE);
    world_pass(w, 200);
    cr_assert(txn.calls_count == 1, "the answer that comes after all is nobody's");
    txn_absent(&txn, "l/b");
    txn_put(&txn, "l/b", "2");
    AWAIT(w, far_txn(w, &txn) != OTR_UNREACHABLE);
    cr_assert(txn.status == OTR_CONFLICT || txn.status == OTR_INVALID, "%s", otr_errname(txn.status));
    cr_assert_str_eq(value_now(w, "l/b"), "1");
}

/* The same with the connection cut before the answer, at once and not by a time-out. */
CASE(link_cut_before_the_answer)
{
    char key[16];
    struct txn txn = {0};

    w->driver->far_open(w);
    for (int i = 0; i < 5; i++) {
        AWAIT(w, far_put(w, "l/warm", "0") == 0);
        link_set(w, LINK_NO_ANSWERS);
        snprintf(key, sizeof key, "l/%d", i);
        txn_absent(&txn, key);
        txn_put(&txn, key, "1");
        cr_assert(txn_start(w, &txn, w->far) == 0);
        AWAIT(w, value_now(w, key) != NULL);
        cr_assert(txn.calls_count == 0, "not yet");
        link_set(w, LINK_REFUSED);
        if (i % 2 == 0) { /* Whoever tried again would reach it, and say that there was a conflict. */
            world_pass(w, 10);
            link_set(w, LINK_WHOLE);
        }
        AWAIT_MS(w, txn.calls_count == 1, 1000);
        cr_assert(txn.status == OTR_UNKNOWN, "%s: %s", otr_errname(txn.status), txn.text);
        link_set(w, LINK_WHOLE);
    }
}

/* --- sessions --------------------------------------------------------------------------------------------------- */

/* However long nothing is heard, that is UNREACHABLE. The coordinator ends the session meanwhile; LOST is said once,
 * and only when the coordinator has said so. */
static void expect_lost_afterwards(struct world *w, enum world_link link)
{
    struct session session;

    far_session(w, &session, 1000, "l/bound");
    link_set(w, link);
    AWAIT(w, session.unreachable_count == 1);
    AWAIT(w, value_now(w, "l/bound") == NULL);
    world_pass(w, 1500);
    cr_assert(session.lost_count == 0 && session.unreachable_count == 1 && session.confirmed_count == 0);
    link_set(w, LINK_WHOLE);
    AWAIT(w, session.lost_count == 1);
    cr_assert(session.confirmed_count == 0, "a dead session was confirmed");
}

CASE(link_outlasts_the_session)
{
    w->driver->far_open(w);
    expect_lost_afterwards(w, LINK_REFUSED);
    expect_lost_afterwards(w, LINK_SILENT);
    expect_lost_afterwards(w, LINK_NO_REQUESTS);
}

/* Shorter than the TTL: UNREACHABLE, CONFIRMED, the same session. */
CASE(link_shorter_than_the_session)
{
    struct session session;

    w->driver->far_open(w);
    far_session(w, &session, 6000, "l/bound");
    link_set(w, LINK_SILENT);
    AWAIT(w, session.unreachable_count == 1);
    link_set(w, LINK_WHOLE);
    AWAIT(w, session.confirmed_count == 1);
    cr_assert_str_eq(value_now(w, "l/bound"), "1");
    cr_assert(session.lost_count == 0 && session.open_count == 1);
}

/* Keep-alives may arrive while their answers do not: whichever way it ends, what is reported is true. */
CASE(link_without_answers_and_the_session)
{
    struct session session;

    w->driver->far_open(w);
    far_session(w, &session, 1000, "l/bound");
    link_set(w, LINK_NO_ANSWERS);
    AWAIT(w, session.unreachable_count == 1);
    world_pass(w, 3000);
    cr_assert(session.lost_count == 0 && session.confirmed_count == 0, "nobody answered");
    link_set(w, LINK_WHOLE);
    AWAIT(w, session.lost_count + session.confirmed_count == 1);
    cr_assert(is(value_now(w, "l/bound"), session.lost_count == 1 ? NULL : "1"));
}

/* The answer to the first grant is lost: one session all the same, and it can be used. */
CASE(link_without_answers_while_opening)
{
    struct session session;
    struct txn txn = {0};

    w->driver->far_open(w);
    cr_assert(far_put(w, "l/a", "0") == 0);
    link_set(w, LINK_NO_ANSWERS);
    session_start(w, &session, w->far, 2000);
    AWAIT(w, session.unreachable_count == 1);
    cr_assert(session.open_count == 0);
    link_set(w, LINK_WHOLE);
    AWAIT(w, session.open_count == 1);
    txn_put_bound(&txn, "l/bound", "1", &session.s);
    cr_assert(far_txn(w, &txn) == 0, "%s", txn.text);
    world_pass(w, 2500);
    cr_assert(session.lost_count == 0);
    cr_assert_str_eq(value_now(w, "l/bound"), "1");
}

/* A session that stops must not keep its process waiting: within about a second, and then no report any more. */
CASE(session_close_is_bounded)
{
    static const enum world_link links[] = {LINK_SILENT, LINK_NO_REQUESTS, LINK_NO_ANSWERS, LINK_REFUSED};
    struct session session;
    struct simple simple;
    int rv;

    w->driver->far_open(w);
    for (int i = 0; i < 4; i++) {
        far_session(w, &session, 2000, "l/bound");
        link_set(w, links[i]);
        simple = (struct simple){.w = w, .req.data = &simple};
        CALL(w, rv, w->ops->session_close(w->far, &session.s, &simple.req, simple_done));
        cr_assert(rv == 0);
        AWAIT_MS(w, simple.calls_count == 1, 1400);
        cr_assert(simple.status == OTR_UNKNOWN || (links[i] == LINK_REFUSED && simple.status == OTR_UNREACHABLE), "%s",
                  otr_errname(simple.status));
        AWAIT(w, value_now(w, "l/bound") == NULL);
        cr_assert(session.last == OTR_SESSION_OPEN, "no report after the close");
        link_set(w, LINK_WHOLE);
        AWAIT(w, far_put(w, "l/a", "0") == 0);
    }
}

/* --- watches ---------------------------------------------------------------------------------------------------- */

static void count_to(struct world *w, int *next, int last)
{
    enum { PER_TXN = 20 };
    static char keys[PER_TXN][16], values[PER_TXN][16];
    struct txn txn = {0};

    while (*next < last) {
        for (int i = 0; i < PER_TXN; i++) {
            snprintf(keys[i], sizeof keys[0], "w/%03d", *next % 500);
            snprintf(values[i], sizeof values[0], "%d", *next);
            txn_put(&txn, keys[i], values[i]);
            ++*next;
        }
        cr_assert(txn_await(w, &txn) == 0, "%s", txn.text);
    }
}

/* Where states are all there is: the last one of each key has come, and none after a later one. */
static void expect_states(const struct watch *watch, int events)
{
    static int values[500];
    uint64_t revision = 0;

    for (size_t i = 0; i < watch->seen_count; i++) {
        int key = atoi(watch->seen[i].key + 2);
        int value = atoi(watch->seen[i].value);

        cr_assert(watch->seen[i].type == OTR_WATCH_PUT && value % 500 == key);
        cr_assert((value == 0 || value > values[key]) && watch->seen[i].revision >= revision);
        revision = watch->seen[i].revision;
        values[key] = value;
    }
    for (int key = 0; key < 500; key++) {
        cr_assert(values[key] == events - 500 + key, "%d holds %d", key, values[key]);
    }
}

/* 10,000 events past a link that fails in every way meanwhile: all of them, in order, each once. */
CASE(link_and_ten_thousand_events)
{
    static const enum world_link links[] = {LINK_SILENT,  LINK_WHOLE, LINK_REFUSED,    LINK_WHOLE,   LINK_NO_REQUESTS,
                                            LINK_REFUSED, LINK_WHOLE, LINK_NO_ANSWERS, LINK_REFUSED, LINK_WHOLE};
    enum { EVENTS = 10000, ROUNDS = sizeof links / sizeof links[0] };
    struct watch watch = {0};
    uint64_t revision = 0;
    int next = 0;

    w->driver->far_open(w);
    watch_start(w, &watch, w->far, "w/", revision_now(w));
    watch_settle(w);
    for (int i = 0; i < ROUNDS; i++) {
        count_to(w, &next, EVENTS / ROUNDS * (i + 1));
        link_set(w, links[i]);
        if (links[i] == LINK_WHOLE) {
            AWAIT_MS(w, watch.seen_count > 0 && watch_holds(&watch, "w/000", NULL), 15000);
        }
    }
    if (w->driver->states) {
        AWAIT_MS(w, watch_holds(&watch, "w/499", "9999"), 20000);
        cr_assert(watch.resyncs_count == 0);
        expect_states(&watch, EVENTS);
        watch_close(&watch);
        return;
    }
    AWAIT_MS(w, watch.seen_count >= EVENTS, 20000);
    world_pass(w, 100);
    cr_assert(watch.seen_count == EVENTS && watch.resyncs_count == 0);
    for (int i = 0; i < EVENTS; i++) {
        cr_assert(atoi(watch.seen[i].value) / 20 == i / 20, "event %d is %s", i, watch.seen[i].value);
        cr_assert(watch.seen[i].revision >= revision);
        revision = watch.seen[i].revision;
    }
    watch_close(&watch);
}

/* SILENT while nothing can be confirmed, ALIVE afterwards, and what others did meanwhile comes once. */
CASE(link_silent_and_the_watch)
{
    static const enum world_link links[] = {LINK_SILENT, LINK_REFUSED, LINK_NO_ANSWERS};
    struct watch watch = {0};

    w->driver->far_open(w);
    watch_start(w, &watch, w->far, "w/", revision_now(w));
    watch_settle(w);
    for (unsigned i = 0; i < 3; i++) {
        link_set(w, links[i]);
        put(w, "w/a", "1");
        erase(w, "w/a");
        AWAIT(w, watch.silent_count == i + 1);
        put(w, "w/b", "2");
        link_set(w, LINK_WHOLE);
        AWAIT(w, watch.alive_count == i + 1);
        if (w->driver->states) { /* Nobody looked while w/a was there. */
            AWAIT(w, watch.seen_count == i + 1 && watch_holds(&watch, "w/b", "2"));
        } else {
            AWAIT(w, watch.seen_count == 3 * (i + 1));
        }
    }
    world_pass(w, 200);
    cr_assert(watch.seen_count == (w->driver->states ? 3 : 9) && watch.resyncs_count == 0);
    watch_close(&watch);
}

/* History is forgotten while the watch is disconnected: it is told all that exists, more than a page of it, and that
 * what is not named is gone. */
CASE(link_down_during_compaction)
{
    enum { KEYS = 1200, PER_TXN = 60 };
    static char keys[PER_TXN][16];
    struct watch watch = {0};
    struct txn txn = {0};
    size_t begin, i;

    w->driver->far_open(w);
    put(w, "w/gone", "1");
    watch_start(w, &watch, w->far, "w/", revision_now(w) - (w->driver->states ? 0 : 1));
    watch_settle(w);
    AWAIT(w, watch.seen_count == (w->driver->states ? 0 : 1));
    link_set(w, LINK_REFUSED);
    for (i = 0; i < KEYS; i++) {
        snprintf(keys[i % PER_TXN], sizeof keys[0], "w/%04zu", i);
        txn_put(&txn, keys[i % PER_TXN], "1");
        if (i % PER_TXN == PER_TXN - 1) {
            cr_assert(txn_await(w, &txn) == 0, "%s", txn.text);
        }
    }
    erase(w, "w/gone");
    put(w, "w/0000", "2");
    w->driver->compact(w);
    put(w, "w/after", "1");
    cr_assert(watch.seen_count == (w->driver->states ? 0 : 1));
    link_set(w, LINK_WHOLE);
    AWAIT(w, watch_holds(&watch, "w/after", "1"));
    if (w->driver->states) { /* What was there before is remembered: the difference is whole. */
        cr_assert(watch.resyncs_count == 0 && watch.seen_count == KEYS + 2, "%zu", watch.seen_count);
        cr_assert(watch_dropped(&watch, "w/gone") && watch_holds(&watch, "w/0000", "2"));
        watch_close(&watch);
        return;
    }
    AWAIT(w, watch.resyncs_count == 1);
    for (begin = 0; watch.seen[begin].type != OTR_WATCH_RESYNC; begin++) {
    }
    for (i = begin + 1; watch.seen[i].type != OTR_WATCH_RESYNC_END; i++) {
        cr_assert(watch.seen[i].type == OTR_WATCH_PUT);
        cr_assert(i == begin + 1 || strcmp(watch.seen[i - 1].key, watch.seen[i].key) < 0, "each key once");
    }
    cr_assert(i - begin - 1 == KEYS + 1, "%zu keys", i - begin - 1);
    cr_assert(watch_dropped(&watch, "w/gone") && watch_holds(&watch, "w/0000", "2"));
    erase(w, "w/0001");
    AWAIT(w, watch_dropped(&watch, "w/0001"));
    cr_assert(watch.resyncs_count == 1);
    watch_close(&watch);
}

/* Another coordinator comes up while the watch is disconnected, and its revisions are already beyond those of the
 * first: what is missing in it is told to be gone, all the same. */
CASE(link_down_while_coordinator_is_replaced)
{
    struct watch watch = {0};
    struct get get;
    char key[16];
    uint64_t revision;
    unsigned before;

    w->driver->far_open(w);
    put(w, "w/gone", "1");
    put(w, "w/gone", "2");
    watch_start(w, &watch, w->far, "w/", revision_now(w) - 1);
    AWAIT(w, watch.seen_count >= 1);
    watch_settle(w);
    before = watch.resyncs_count; /* Without history it begins with one. */
    revision = watch.seen[0].revision;
    link_set(w, LINK_REFUSED);
    w->driver->kill(w);
    w->driver->wipe(w);
    w->driver->start(w);
    do { /* Until the new one knows who we are. */
        get_start(w, &get, w->b, "w/");
        AWAIT(w, get.calls_count == 1);
        get_close(&get);
    } while (get.status != 0);
    for (int i = 0; revision_now(w) <= revision + 5; i++) {
        snprintf(key, sizeof key, "w/%d", i);
        put(w, key, "new");
    }
    cr_assert(watch.resyncs_count == before);
    link_set(w, LINK_WHOLE);
    AWAIT_MS(w, watch.resyncs_count == before + 1 && watch_holds(&watch, "w/0", "new"), 15000);
    cr_assert(watch_dropped(&watch, "w/gone"));
    watch_close(&watch);
}

/* --- callbacks -------------------------------------------------------------------------------------------------- */

enum { EACH = 8 };

struct many {
    struct get gets[EACH];
    struct txn txns[EACH];
    struct simple revokes[EACH];
};

static void many_start(struct world *w, struct many *many)
{
    char key[16];
    int rv;

    for (int i = 0; i < EACH; i++) {
        snprintf(key, sizeof key, "m/%d", i);
        get_start(w, &many->gets[i], w->far, "m/");
        txn_put(&many->txns[i], key, "1");
        cr_assert(txn_start(w, &many->txns[i], w->far) == 0);
        many->revokes[i] = (struct simple){.w = w, .req.data = &many->revokes[i]};
        CALL(w, rv, w->ops->session_revoke(w->far, w->driver->no_session, &many->revokes[i].req, simple_done));
        cr_assert(rv == 0);
    }
}

static bool many_done(const struct many *many)
{
    for (int i = 0; i < EACH; i++) {
        if (many->gets[i].calls_count == 0 || many->txns[i].calls_count == 0 || many->revokes[i].calls_count == 0) {
            return false;
        }
    }
    return true;
}

/* Whatever happens while calls are under way, and in whatever moment: each is answered once (simple_done, get_done and
 * txn_done fail at a second time). */
CASE(link_fails_under_calls)
{
    static const enum world_link links[] = {LINK_REFUSED, LINK_NO_ANSWERS, LINK_NO_REQUESTS, LINK_SILENT};
    static struct many many[12];

    w->driver->far_open(w);
    for (unsigned i = 0; i < 12; i++) {
        many_start(w, &many[i]);
        world_pass(w, i % 3);
        link_set(w, links[i % 4]);
        many_start(w, &many[++i]);
        world_pass(w, 20);
        link_set(w, i % 2 == 0 ? LINK_REFUSED : LINK_WHOLE);
        world_pass(w, 100);
        link_set(w, LINK_WHOLE);
    }
    for (unsigned i = 0; i < 12; i++) {
        AWAIT(w, many_done(&many[i]));
        for (int j = 0; j < EACH; j++) {
            get_close(&many[i].gets[j]);
        }
    }
    world_pass(w, 500);
    cr_assert(far_put(w, "m/a", "2") == 0);
}

/* Cut off, and closed: everything ends at once, nothing waits for the network. */
CASE(link_silent_and_closed)
{
    static struct many many;
    struct session session;
    struct watch watch = {0};
    uint64_t begin;

    w->driver->far_open(w);
    far_session(w, &session, 10000, "l/bound");
    watch_start(w, &watch, w->far, "m/", revision_now(w));
    link_set(w, LINK_SILENT);
    many_start(w, &many);
    world_pass(w, 100);
    begin = uv_hrtime();
    world_close_backend(w, w->far);
    w->far = NULL;
    cr_assert(uv_hrtime() - begin < 500 * 1000000ull);
    for (int i = 0; i < EACH; i++) {
        cr_assert(many.gets[i].calls_count == 1 && many.gets[i].status == OTR_CANCELED);
        cr_assert(many.txns[i].calls_count == 1 && many.txns[i].status == OTR_CANCELED);
        cr_assert(many.revokes[i].calls_count == 1 && many.revokes[i].status == OTR_CANCELED);
    }
    cr_assert(watch.final_count == 1 && watch.final_status == OTR_CANCELED);
    cr_assert(session.lost_count == 0);
    world_pass(w, 300);
    cr_assert_str_eq(value_now(w, "l/bound"), "1");
    watch_close(&watch);
}
