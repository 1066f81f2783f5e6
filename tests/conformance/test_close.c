#include "tests/conformance/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EACH = 5 };

/* One of each member of the vtable that answers with a status alone; `open` is an open session. */
static struct simple simples[3 * EACH];

static void start_simples(struct world *w, struct session *open)
{
    static struct session closed[EACH];
    static struct otr_service service = {
        .id = "n", .name = "outrigger", .address = "h", .key = WORLD_PREFIX "c/service"};
    int rv;

    for (int i = 0; i < 3 * EACH; i++) {
        simples[i] = (struct simple){.w = w, .req.data = &simples[i]};
        if (i % 3 == 0) {
            session_start(w, &closed[i / 3], w->b, 2000);
            CALL(w, rv, w->ops->session_close(w->b, &closed[i / 3].s, &simples[i].req, simple_done));
        } else if (i % 3 == 1) {
            CALL(w, rv, w->ops->session_revoke(w->b, w->driver->no_session, &simples[i].req, simple_done));
        } else {
            CALL(w, rv,
                 w->ops->service_register(w->b, &open->s, &service, OTR_HEALTH_PASSING, &simples[i].req, simple_done));
        }
        cr_assert(rv == 0);
    }
}

static void expect_simples_canceled(void)
{
    for (int i = 0; i < 3 * EACH; i++) {
        /* A session of which nobody has heard may be closed without asking anybody; and who is asked about one that
         * does not exist may have answered before we close. */
        cr_assert(simples[i].calls_count == 1 &&
                      (simples[i].status == OTR_CANCELED || (i % 3 == 0 && simples[i].status == 0) ||
                       (i % 3 == 1 && simples[i].status == OTR_NOTFOUND)),
                  "%d: %u times, %s", i % 3, simples[i].calls_count, otr_errname(simples[i].status));
    }
}

static void start_everything(struct world *w, struct get *gets, struct txn *txns, struct watch *watches,
                             struct session *sessions)
{
    for (int i = 0; i < EACH; i++) {
        char key[16];

        snprintf(key, sizeof key, "c/%d", i);
        get_start(w, &gets[i], w->b, "c/");
        txn_put(&txns[i], key, "1");
        cr_assert(txn_start(w, &txns[i], w->b) == 0);
        watch_start(w, &watches[i], w->b, "c/", 1);
        session_start(w, &sessions[i], w->b, 2000);
    }
}

static void expect_canceled_once(struct world *w, struct get *gets, struct txn *txns, struct watch *watches)
{
    world_pass(w, 100);
    for (int i = 0; i < EACH; i++) {
        cr_assert(gets[i].calls_count == 1 && gets[i].status == OTR_CANCELED);
        cr_assert(txns[i].calls_count == 1 && txns[i].status == OTR_CANCELED);
        cr_assert(watches[i].final_count == 1 && watches[i].final_status == OTR_CANCELED);
        watch_close(&watches[i]);
    }
}

/* close ends everything that is under way with OTR_CANCELED, once, and then nothing more comes. */
CASE(close_cancels_everything_once)
{
    static struct get gets[EACH];
    static struct txn txns[EACH];
    static struct watch watches[EACH];
    static struct session sessions[EACH];
    struct session open;

    session_await(w, &open, 10000);
    w->driver->freeze(w);
    start_everything(w, gets, txns, watches, sessions);
    start_simples(w, &open);
    world_pass(w, 200);
    world_close_backend(w, w->b);
    w->b = NULL;
    expect_canceled_once(w, gets, txns, watches);
    expect_simples_canceled();
    cr_assert(open.unreachable_count == 0 && open.lost_count == 0);
    for (int i = 0; i < EACH; i++) {
        cr_assert(sessions[i].open_count == 0 && sessions[i].lost_count == 0);
    }
    w->driver->thaw(w);
}

/* The same in the turn in which everything was started. */
CASE(close_at_once)
{
    static struct get gets[EACH];
    static struct txn txns[EACH];
    static struct watch watches[EACH];
    static struct session sessions[EACH];
    struct session open;

    session_await(w, &open, 10000);
    start_everything(w, gets, txns, watches, sessions);
    start_simples(w, &open);
    world_close_backend(w, w->b);
    w->b = NULL;
    expect_canceled_once(w, gets, txns, watches);
    expect_simples_canceled();
}

/* And while nobody is there and everything waits for its next attempt. */
CASE(close_while_coordinator_is_down)
{
    struct watch watch = {0};
    struct session session;

    w->driver->kill(w);
    watch_start(w, &watch, w->b, "c/", 1);
    session_start(w, &session, w->b, 2000);
    AWAIT(w, session.unreachable_count == 1);
    world_close_backend(w, w->b);
    w->b = NULL;
    cr_assert(watch.final_count == 1 && watch.final_status == OTR_CANCELED);
    cr_assert(session.unreachable_count == 1 && session.lost_count == 0);
    watch_close(&watch);
}

struct chain {
    struct world *w;
    struct otr_get_req req;
    unsigned closed_count;
    unsigned refused_count;
};

static void chain_closed(struct otr_backend *b)
{
    struct chain *chain = b->data;

    chain->closed_count++;
}

static void chain_got(struct otr_get_req *req, int status, const struct otr_get_result *result,
                      const struct otr_errmsg *msg)
{
    struct chain *chain = req->data;
    struct world *w = chain->w;

    (void)status;
    (void)result;
    (void)msg;
    w->ops->close(w->b, chain_closed, chain);
    chain->refused_count += w->ops->get(w->b, &chain->req, "c/", chain_got) != 0;
}

/* Closed from inside a callback; what is asked after that is refused. */
CASE(close_inside_a_callback)
{
    struct chain chain = {.w = w, .req.data = &chain};

    cr_assert(w->ops->get(w->b, &chain.req, "c/", chain_got) == 0);
    AWAIT(w, chain.closed_count == 1);
    cr_assert(chain.refused_count == 1);
    w->b = NULL;
}
