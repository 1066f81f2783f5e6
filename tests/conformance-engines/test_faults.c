/* Engines that die, come back, lose their data, stand still, are slow; drivers that are closed meanwhile. */
#include "tests/conformance-engines/world.h"

#include <criterion/new/assert.h>

static const float X[3] = {1, 0, 0};

static struct result r;

CASE(the_status_names_data_and_start)
{
    cr_assert(eq(sz, w->statuses_count, 1));
    cr_assert(last_status(w)->up);
    cr_assert(not(last_status(w)->evidently_dead));
    cr_assert(ne(int, last_status(w)->data_id[0], 0));
    cr_assert(ne(int, last_status(w)->boot_id[0], 0));
    world_pass(w, 600);
    cr_assert(eq(sz, w->statuses_count, 1), "nothing changed");
}

/* SIGKILL loses nothing that was acknowledged: the data id stays, the boot id is another one. */
CASE(a_killed_engine_keeps_its_data)
{
    struct otr_point p[] = {point("a", X, 3, "{\"n\":1}"), point("b", X, 3, NULL)};
    struct otr_engine_status before = *last_status(w);

    cr_assert(zero(int, make(w, "c", 3, OTR_METRIC_COSINE)));
    cr_assert(zero(int, upsert(w, "c", p, 2, NULL)));
    cr_assert(zero(int, erase(w, "c", p + 1, 1, NULL)));
    w->driver->kill(w);
    AWAIT(w, is_dead(w));
    cr_assert(eq(str, (char *)last_status(w)->data_id, before.data_id), "what it was is remembered");
    w->driver->start(w);
    AWAIT(w, is_up(w));
    cr_assert(eq(str, (char *)last_status(w)->data_id, before.data_id));
    cr_assert(ne(str, (char *)last_status(w)->boot_id, before.boot_id));
    cr_assert(eq(u64, count(w, "c"), 1));
    cr_assert(zero(int, make(w, "c", 3, OTR_METRIC_COSINE)));
    cr_assert(zero(int, search(w, "c", X, 3, 5, &r)));
    cr_assert(eq(sz, r.hits_count, 1));
    cr_assert(eq(str, r.ids[0], "a"));
}

CASE(an_engine_that_starts_empty_says_so)
{
    struct otr_point p = point("a", X, 3, NULL);
    struct otr_engine_status before = *last_status(w);

    cr_assert(zero(int, make(w, "c", 3, OTR_METRIC_COSINE)));
    cr_assert(zero(int, upsert(w, "c", &p, 1, NULL)));
    w->driver->kill(w);
    w->driver->wipe(w);
    AWAIT(w, is_dead(w));
    w->driver->start(w);
    AWAIT(w, is_up(w));
    cr_assert(ne(str, (char *)last_status(w)->data_id, before.data_id));
    cr_assert(ne(str, (char *)last_status(w)->boot_id, before.boot_id));
    cr_assert(eq(int, upsert(w, "c", &p, 1, NULL), OTR_NOTFOUND));
    cr_assert(zero(int, make(w, "c", 4, OTR_METRIC_COSINE)), "and any dimension is free again");
}

/* Killed in the middle of writing: each call ends once, what was acknowledged is there, the rest can be repeated. */
CASE(killed_in_the_middle_of_a_batch)
{
    enum { ROUNDS = 3, BATCHES = 12, BATCH = 20 };
    static char ids[BATCHES][BATCH][32];
    static struct otr_point points[BATCHES][BATCH];
    static struct result writes[BATCHES];

    cr_assert(zero(int, make(w, "c", 3, OTR_METRIC_EUCLIDEAN)));
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t acknowledged = 0;

        for (int b = 0; b < BATCHES; b++) {
            for (int i = 0; i < BATCH; i++) {
                snprintf(ids[b][i], sizeof ids[b][i], "%d-%d-%d", round, b, i);
                points[b][i] = point(ids[b][i], X, 3, NULL);
            }
            cr_assert(zero(int, start_upsert(w, &writes[b], "c", points[b], BATCH)));
        }
        AWAIT(w, writes[0].calls_count == 1 || round == 0);
        w->driver->kill(w);
        for (int b = 0; b < BATCHES; b++) {
            AWAIT(w, writes[b].calls_count == 1);
            cr_assert(writes[b].status == 0 || writes[b].status == OTR_UNREACHABLE, "%s", writes[b].text);
            acknowledged += writes[b].status == 0 ? BATCH : 0;
        }
        AWAIT(w, is_dead(w));
        w->driver->start(w);
        AWAIT(w, is_up(w));
        cr_assert(ge(u64, count(w, "c"), (uint64_t)round * BATCHES * BATCH + acknowledged));
        for (int b = 0; b < BATCHES; b++) {
            cr_assert(zero(int, upsert(w, "c", points[b], BATCH, NULL)), "a doubtful write is repeated");
        }
        cr_assert(eq(u64, count(w, "c"), (uint64_t)(round + 1) * BATCHES * BATCH));
    }
}

/* A dead engine is no secret: calls end soon, and say so. */
CASE(a_dead_engine_refuses_every_call)
{
    struct otr_point p = point("a", X, 3, NULL);

    cr_assert(zero(int, make(w, "c", 3, OTR_METRIC_COSINE)));
    w->driver->kill(w);
    cr_assert(eq(int, upsert(w, "c", &p, 1, &r), OTR_UNREACHABLE));
    cr_assert(eq(int, erase(w, "c", &p, 1, &r), OTR_UNREACHABLE));
    cr_assert(eq(int, search(w, "c", X, 3, 1, &r), OTR_UNREACHABLE));
    cr_assert(eq(int, make(w, "d", 3, OTR_METRIC_COSINE), OTR_UNREACHABLE));
    cr_assert(eq(int, drop(w, "c"), OTR_UNREACHABLE));
    cr_assert(zero(int, start_count(w, &r, "c")));
    AWAIT(w, r.calls_count == 1);
    cr_assert(eq(int, r.status, OTR_UNREACHABLE));
    AWAIT(w, is_dead(w));
}

/* Opened before the engine runs: evidently dead first, up once it starts. */
CASE(a_driver_may_start_first)
{
    world_close_engine(w);
    w->driver->kill(w);
    world_open(w);
    AWAIT(w, w->statuses_count > 0);
    cr_assert(is_dead(w));
    cr_assert(eq(str, (char *)last_status(w)->data_id, ""));
    w->driver->start(w);
    AWAIT(w, is_up(w));
    cr_assert(zero(int, make(w, "c", 3, OTR_METRIC_COSINE)));
}

/* A frozen engine accepts connections and never answers: not up, but no evidence of death. Calls end by their timeout,
 * and after the thaw they can be repeated. */
CASE(a_frozen_engine_is_not_dead)
{
    static struct result calls[4];
    struct otr_point p = point("a", X, 3, NULL);
    struct otr_engine_status before = *last_status(w);
    uint64_t began;

    cr_assert(zero(int, make(w, "c", 3, OTR_METRIC_COSINE)));
    w->driver->freeze(w);
    began = uv_hrtime();
    cr_assert(zero(int, start_upsert(w, &calls[0], "c", &p, 1)));
    cr_assert(zero(int, start_search(w, &calls[1], "c", X, 3, 1)));
    cr_assert(zero(int, start_count(w, &calls[2], "c")));
    cr_assert(zero(int, start_make(w, &calls[3], "d", 3, OTR_METRIC_COSINE)));
    AWAIT(w, !is_up(w));
    cr_assert(not(last_status(w)->evidently_dead));
    for (int i = 0; i < 4; i++) {
        AWAIT(w, calls[i].calls_count == 1);
        cr_assert(eq(int, calls[i].status, OTR_TIMEOUT), "call %d: %s", i, calls[i].text);
    }
    cr_assert(ge(u64, uv_hrtime() - began, (uint64_t)TIMEOUT_MS * 900000), "not before their time");
    w->driver->thaw(w);
    AWAIT(w, is_up(w));
    cr_assert(eq(str, (char *)last_status(w)->boot_id, before.boot_id), "it is the same process");
    cr_assert(zero(int, upsert(w, "c", &p, 1, &r)), "%s", r.text);
    cr_assert(zero(int, make(w, "d", 3, OTR_METRIC_COSINE)));
    cr_assert(eq(u64, count(w, "c"), 1));
}

/* A pause shorter than the timeout is slowness and no failure. */
CASE(a_slow_engine_is_waited_for)
{
    static struct result calls[3];
    struct otr_point p = point("a", X, 3, NULL);

    cr_assert(zero(int, make(w, "c", 3, OTR_METRIC_COSINE)));
    w->driver->freeze(w);
    cr_assert(zero(int, start_upsert(w, &calls[0], "c", &p, 1)));
    cr_assert(zero(int, start_search(w, &calls[1], "c", X, 3, 1)));
    cr_assert(zero(int, start_count(w, &calls[2], "c")));
    world_pass(w, 300);
    for (int i = 0; i < 3; i++) {
        cr_assert(eq(u32, calls[i].calls_count, 0), "nobody could answer call %d", i);
    }
    w->driver->thaw(w);
    for (int i = 0; i < 3; i++) {
        AWAIT(w, calls[i].calls_count == 1);
        cr_assert(zero(int, calls[i].status), "call %d: %s", i, calls[i].text);
    }
    cr_assert(eq(u64, count(w, "c"), 1));
}

/* Closing ends what is outstanding, each call once, with OTR_CANCELED, before the close callback; the world checks that
 * nothing comes after it. */
CASE(closing_ends_what_is_outstanding)
{
    static struct result calls[6];
    struct otr_point p = point("a", X, 3, NULL);

    cr_assert(zero(int, make(w, "c", 3, OTR_METRIC_COSINE)));
    w->driver->freeze(w);
    cr_assert(zero(int, start_upsert(w, &calls[0], "c", &p, 1)));
    cr_assert(zero(int, start_erase(w, &calls[1], "c", &p, 1)));
    cr_assert(zero(int, start_search(w, &calls[2], "c", X, 3, 1)));
    cr_assert(zero(int, start_count(w, &calls[3], "c")));
    cr_assert(zero(int, start_make(w, &calls[4], "d", 3, OTR_METRIC_COSINE)));
    cr_assert(zero(int, start_drop(w, &calls[5], "c")));
    world_pass(w, 300);
    world_close_engine(w);
    for (int i = 0; i < 6; i++) {
        cr_assert(eq(u32, calls[i].calls_count, 1), "call %d", i);
        cr_assert(eq(int, calls[i].status, OTR_CANCELED), "call %d: %s", i, calls[i].text);
    }
    w->driver->thaw(w);
    world_pass(w, 50);
}

/* Calls that had just been sent are no different, and a new driver on the same engine finds everything in order. */
CASE(closing_at_once_and_opening_again)
{
    enum { ROUNDS = 10 };
    static struct result calls[ROUNDS];
    struct otr_point p = point("a", X, 3, NULL);

    cr_assert(zero(int, make(w, "c", 3, OTR_METRIC_COSINE)));
    for (int i = 0; i < ROUNDS; i++) {
        cr_assert(zero(int, start_upsert(w, &calls[i], "c", &p, 1)));
        world_close_engine(w);
        cr_assert(eq(u32, calls[i].calls_count, 1));
        cr_assert(calls[i].status == OTR_CANCELED || calls[i].status == 0, "%s", calls[i].text);
        world_open(w);
    }
    AWAIT(w, is_up(w));
    cr_assert(zero(int, upsert(w, "c", &p, 1, &r)), "%s", r.text);
    cr_assert(eq(u64, count(w, "c"), 1));
}

static void nothing(struct otr_engine *engine, void *data)
{
    (void)engine;
    *(bool *)data = true;
}

CASE(after_close_nothing_starts)
{
    struct otr_point p = point("a", X, 3, NULL);
    bool gone = false;

    w->ops->close(w->e, nothing, &gone);
    cr_assert(eq(int, start_search(w, &r, "c", X, 3, 1), OTR_CANCELED));
    cr_assert(eq(int, start_upsert(w, &r, "c", &p, 1), OTR_CANCELED));
    cr_assert(eq(int, start_make(w, &r, "c", 3, OTR_METRIC_COSINE), OTR_CANCELED));
    AWAIT(w, gone);
    w->e = NULL;
    cr_assert(eq(u32, r.calls_count, 0));
}
