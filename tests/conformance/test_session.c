#include "tests/conformance/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Kept alive well beyond its TTL, without a word in between. */
CASE(session_keeps_itself_alive)
{
    struct session session;

    session_await(w, &session, 1000);
    put_bound(w, "s/a", "1", &session.s);
    world_pass(w, 3500);
    cr_assert_str_eq(value_now(w, "s/a"), "1");
    cr_assert(session.open_count == 1 && session.unreachable_count == 0 && session.lost_count == 0);
}

/* Its keys go when it is closed, and watchers see it. */
CASE(session_close_ends_its_keys)
{
    struct session session, again;
    struct watch watch = {0};

    watch_start(w, &watch, w->b, "s/", revision_now(w));
    session_await(w, &session, 3000);
    put_bound(w, "s/a", "1", &session.s);
    put_bound(w, "s/b", "2", &session.s);
    put(w, "s/c", "3");
    AWAIT(w, watch_holds(&watch, "s/a", "1") && watch_holds(&watch, "s/b", "2"));
    cr_assert(session_end(w, &session) == 0);
    cr_assert(value_now(w, "s/a") == NULL && value_now(w, "s/b") == NULL);
    cr_assert_str_eq(value_now(w, "s/c"), "3");
    AWAIT(w, watch_dropped(&watch, "s/a") && watch_dropped(&watch, "s/b"));
    cr_assert(session.lost_count == 0 && session.last == OTR_SESSION_OPEN, "no report after the close");
    /* Gone already is as good as ended. */
    cr_assert(session_end(w, &session) == 0);
    session_await(w, &again, 3000);
    cr_assert_str_neq(again.s.id, session.s.id);
    watch_close(&watch);
}

/* Its keys go when somebody else revokes it; the owner is told, once. */
CASE(session_revoked_by_another)
{
    struct otr_backend *other = world_open(w, w->endpoints);
    struct session session;

    session_start(w, &session, other, 1500);
    AWAIT(w, session.open_count == 1);
    put_bound(w, "s/a", "1", &session.s);
    cr_assert(session_revoke(w, session.s.id) == 0);
    cr_assert(value_now(w, "s/a") == NULL);
    AWAIT_MS(w, session.lost_count == 1, 3000);
    cr_assert(session_revoke(w, session.s.id) == OTR_NOTFOUND);
    /* The struct may be used again. */
    session_start(w, &session, other, 1500);
    AWAIT(w, session.open_count == 1);
    put_bound(w, "s/a", "2", &session.s);
    world_close_backend(w, other);
}

/* A process that is gone without a word: its keys go with the TTL, not before. */
CASE(session_expires_when_not_kept_alive)
{
    struct otr_backend *other = world_open(w, w->endpoints);
    struct session session;
    struct watch watch = {0};
    uint64_t opened_at;

    session_start(w, &session, other, 2000);
    AWAIT(w, session.open_count == 1);
    put_bound(w, "s/a", "1", &session.s);
    watch_start(w, &watch, w->b, "s/", revision_now(w));
    opened_at = uv_hrtime();
    world_close_backend(w, other);
    cr_assert(session.lost_count == 0 && session.unreachable_count == 0, "close does not report");
    cr_assert_str_eq(value_now(w, "s/a"), "1");
    AWAIT(w, watch_dropped(&watch, "s/a"));
    cr_assert(uv_hrtime() - opened_at > 1000 * 1000000ull, "not before its time");
    watch_close(&watch);
}

/* Killed and restarted: UNREACHABLE, then CONFIRMED; the keys stay. */
CASE(session_survives_restart_of_coordinator)
{
    struct session session;

    session_await(w, &session, 2000);
    put_bound(w, "s/a", "1", &session.s);
    w->driver->kill(w);
    AWAIT(w, session.unreachable_count == 1);
    cr_assert(session.text[0] != '\0');
    world_pass(w, 3000); /* Longer than the TTL: that the coordinator is away ends no session. */
    cr_assert(session.lost_count == 0 && session.unreachable_count == 1);
    w->driver->start(w);
    AWAIT(w, session.confirmed_count + session.lost_count == 1);
    if (w->driver->states && session.lost_count == 1) {
        cr_assert(value_now(w, "s/a") == NULL);
        session_await(w, &session, 2000);
        put_bound(w, "s/a", "1", &session.s);
        return;
    }
    cr_assert_str_eq(value_now(w, "s/a"), "1");
    put_bound(w, "s/a", "2", &session.s);
    world_pass(w, 2500);
    cr_assert(session.lost_count == 0);
}

/* Frozen for less than the TTL: UNREACHABLE in time, then CONFIRMED. */
CASE(session_while_coordinator_is_frozen)
{
    struct session session;

    session_await(w, &session, 6000);
    put_bound(w, "s/a", "1", &session.s);
    w->driver->freeze(w);
    AWAIT_MS(w, session.unreachable_count == 1, 5000);
    w->driver->thaw(w);
    AWAIT(w, session.confirmed_count == 1);
    cr_assert(session.lost_count == 0);
    cr_assert_str_eq(value_now(w, "s/a"), "1");
}

/* Frozen for longer than the TTL: it may be confirmed or lost afterwards, but what is reported is true, and a lost one
 * can be replaced. */
CASE(session_frozen_longer_than_ttl)
{
    struct session session;

    session_await(w, &session, 1000);
    put_bound(w, "s/a", "1", &session.s);
    w->driver->freeze(w);
    world_pass(w, 2500);
    cr_assert(session.unreachable_count == 1 && session.lost_count == 0);
    w->driver->thaw(w);
    AWAIT(w, session.confirmed_count + session.lost_count > 0);
    world_pass(w, 1500); /* etcd may end it now although it has just confirmed it. */
    if (session.lost_count == 1) {
        cr_assert(value_now(w, "s/a") == NULL);
        session_await(w, &session, 1000);
        put_bound(w, "s/a", "2", &session.s);
    } else {
        cr_assert_str_eq(value_now(w, "s/a"), "1");
    }
}

/* Nobody there at opening time: one report with a reason, then OPEN as soon as somebody is. */
CASE(session_opened_before_coordinator_runs)
{
    struct session session;

    w->driver->kill(w);
    session_start(w, &session, w->b, 2000);
    AWAIT(w, session.unreachable_count == 1);
    cr_assert(session.text[0] != '\0');
    world_pass(w, 500);
    cr_assert(session.open_count == 0 && session.unreachable_count == 1);
    w->driver->start(w);
    AWAIT(w, session.open_count == 1);
    cr_assert(session.confirmed_count == 0);
    put_bound(w, "s/a", "1", &session.s);
}

/* Frozen at opening time, so that the answer to the first grant is late or lost: one session all the same. */
CASE(session_opened_while_coordinator_is_frozen)
{
    struct session session;

    w->driver->freeze(w);
    session_start(w, &session, w->b, 2000);
    AWAIT(w, session.unreachable_count == 1);
    w->driver->thaw(w);
    AWAIT(w, session.open_count == 1);
    put_bound(w, "s/a", "1", &session.s);
    world_pass(w, 2500);
    cr_assert_str_eq(value_now(w, "s/a"), "1");
    cr_assert(session.lost_count == 0);
}

/* Closed while it was never open. */
CASE(session_closed_before_it_is_open)
{
    struct session session;
    struct simple simple = {.w = w, .req.data = &simple};
    int rv;

    session_start(w, &session, w->b, 2000);
    CALL(w, rv, w->ops->session_close(w->b, &session.s, &simple.req, simple_done));
    cr_assert(rv == 0);
    AWAIT(w, simple.calls_count == 1);
    cr_assert(simple.status == 0, "%s", otr_errname(simple.status));
    world_pass(w, 300);
    cr_assert(session.open_count == 0 && session.lost_count == 0);
    CALL(w, rv, w->ops->session_revoke(w->b, "no id", &simple.req, simple_done));
    cr_assert(rv == OTR_INVALID);
}

/* The coordinator was replaced by an empty one: the session is lost, watches start anew. */
CASE(session_lost_with_the_coordinator)
{
    struct session session;
    struct watch watch = {0};
    struct get get;
    uint64_t identity;

    session_await(w, &session, 1000);
    for (int i = 0; i < 20; i++) {
        put(w, "s/durable", "1");
    }
    put_bound(w, "s/a", "1", &session.s);
    get_await(w, &get, "s/");
    identity = get.identity;
    watch_start(w, &watch, w->b, "s/", get.revision);
    get_close(&get);
    watch_settle(w);
    w->driver->kill(w);
    w->driver->wipe(w);
    w->driver->start(w);
    AWAIT(w, session.lost_count == 1);
    AWAIT(w, watch.resyncs_count >= 1);
    get_await(w, &get, "s/");
    cr_assert(get.kvs_count == 0 && get.identity != identity);
    get_close(&get);
    put(w, "s/new", "1");
    AWAIT(w, watch_holds(&watch, "s/new", "1"));
    cr_assert(watch_dropped(&watch, "s/a") && watch_dropped(&watch, "s/durable"));
    watch_close(&watch);
}

/* The service entry says what was registered last, and goes with the session. */
CASE(service_is_bound_to_session)
{
    static const char *const tags[] = {"shard-1", "say \"hi\""};
    struct otr_service service = {.id = "node-1",
                                  .name = "outrigger",
                                  .address = "10.0.0.1",
                                  .port = 7700,
                                  .tags = tags,
                                  .tags_count = 2,
                                  .key = WORLD_PREFIX "services/node-1"};
    struct simple simple = {.w = w, .req.data = &simple};
    static const char *const healths[] = {"", "passing", "warning", "critical"};
    struct session session;
    struct get get;
    int rv;

    session_await(w, &session, 2000);
    for (enum otr_health health = OTR_HEALTH_PASSING; health <= OTR_HEALTH_CRITICAL; health++) {
        simple.calls_count = 0;
        CALL(w, rv, w->ops->service_register(w->b, &session.s, &service, health, &simple.req, simple_done));
        cr_assert(rv == 0);
        AWAIT(w, simple.calls_count == 1);
        cr_assert(simple.status == 0);
        AWAIT(w, strcmp(w->driver->service(w, "node-1"), healths[health]) == 0);
    }
    get_await(w, &get, "services/"); /* Where it is a key. */
    cr_assert(get.kvs_count == (w->driver->states ? 0 : 1));
    cr_assert(get.kvs_count == 0 || strcmp(get.kvs[0].session, session.s.id) == 0);
    get_close(&get);
    cr_assert(session.lost_count == 0, "ill health ends no session");
    cr_assert(session_end(w, &session) == 0);
    AWAIT(w, strcmp(w->driver->service(w, "node-1"), "") == 0);
}
