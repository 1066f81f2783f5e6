/* The door's part in changing a primary on purpose: whom it asks, when again, what it may say. */
#include "sidecar/io/clock.h"
#include "tests/unit/api/client.h"
#include "tests/unit/api/fake_node.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>

struct fixture {
    uv_loop_t loop;
    struct fake_world *w;
    struct door *door; /* of node-1, which leads shards 0 and 3; node-2 leads 1, node-3 leads 2 */
    bool done;
    struct door_handoff_result result;
};

static struct fixture f;

static void open_world(void)
{
    uv_loop_init(&f.loop);
    f.w = fake_world_new(&f.loop);
    f.door = door_new(fake_node(f.w, 1));
}

static void close_world(void)
{
    if (f.door != NULL) {
        door_close(f.door);
    }
    fake_release(f.w, OTR_CANCELED);
    run_for(&f.loop, 5);
    fake_world_free(f.w);
    uv_run(&f.loop, UV_RUN_DEFAULT);
    cr_assert(eq(int, uv_loop_close(&f.loop), 0));
}

TestSuite(door_handoff, .init = open_world, .fini = close_world, .timeout = 30);

static void handed(void *data, const struct door_handoff_result *result)
{
    cr_assert(not(f.done), "answered twice");
    cr_assert(eq(ptr, data, &f));
    f.done = true;
    f.result = *result;
}

static void start(otr_shard shard, const char *to, uint32_t timeout_ms)
{
    struct door_handoff h = {.shard = shard, .timeout_ms = timeout_ms};
    struct otr_errmsg msg = {0};

    snprintf(h.to, sizeof h.to, "%s", to);
    f.done = false;
    cr_assert(eq(int, door_handoff(f.door, &h, handed, &f, &msg), 0), "%s", msg.text);
}

static void ask(otr_shard shard, const char *to, uint32_t timeout_ms)
{
    uint64_t end_ms = clock_now_ms() + 10000;

    start(shard, to, timeout_ms);
    while (!f.done && clock_now_ms() < end_ms) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    cr_assert(f.done);
}

static bool went(const char *from, const char *to)
{
    return f.result.status == 0 && strcmp(f.result.from, from) == 0 && strcmp(f.result.to, to) == 0;
}

Test(door_handoff, the_primary_is_asked_wherever_it_is)
{
    ask(0, "", 1000);
    cr_assert(went("node-1", "node-2"), "%s", f.result.message);
    cr_assert(eq(u64, f.result.epoch, 8));
    cr_assert(eq(u64, f.result.pause_us, 12345));
    ask(1, "node-1", 1000);
    cr_assert(went("node-2", "node-1"), "%s", f.result.message);
    cr_assert(eq(uint, fake_calls(f.w, 2), 1));
    ask(2, "", 1000);
    cr_assert(went("node-3", "node-1"), "%s", f.result.message);
}

Test(door_handoff, what_does_not_exist_is_refused_at_once)
{
    struct door_handoff h = {.shard = FAKE_SHARDS, .timeout_ms = 100};
    struct otr_errmsg msg = {0};

    cr_assert(eq(int, door_handoff(f.door, &h, handed, &f, &msg), OTR_NOTFOUND));
    cr_assert(eq(str, msg.text, "there is no shard 4: they are numbered 0 to 3"));
    h = (struct door_handoff){.shard = 0, .to = "node-9", .timeout_ms = 100};
    cr_assert(eq(int, door_handoff(f.door, &h, handed, &f, &msg), OTR_NOTFOUND));
    cr_assert(eq(str, msg.text, "there is no node \"node-9\""));
}

/* What asking somebody else would not change. */
Test(door_handoff, refusals_are_passed_on)
{
    static const int statuses[] = {OTR_CONFLICT, OTR_UNAVAIL, OTR_BUSY, OTR_TIMEOUT};

    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        fake_plan(f.w, 1, 0, FAKE_REFUSE, statuses[i]);
        ask(0, "node-2", 1000);
        cr_assert(eq(int, f.result.status, statuses[i]));
        cr_assert(eq(str, f.result.message, "fake node-1"));
        fake_plan(f.w, 2, 1, FAKE_REFUSE, statuses[i]);
        ask(1, "node-3", 1000);
        cr_assert(eq(int, f.result.status, statuses[i]));
        cr_assert(eq(str, f.result.message, "fake node-2"));
    }
    ask(0, "node-1", 1000);
    cr_assert(eq(int, f.result.status, OTR_EXISTS));
}

Test(door_handoff, asked_again_when_it_was_not_the_primary)
{
    fake_plan(f.w, 1, 0, FAKE_REFUSE, OTR_NOTPRIMARY);
    ask(0, "", 1000);
    cr_assert(went("node-1", "node-2"));
    fake_link_up(f.w, 3, false);
    start(2, "", 1000);
    run_for(&f.loop, 50);
    cr_assert(not(f.done));
    fake_link_up(f.w, 3, true);
    run_for(&f.loop, 600);
    cr_assert(f.done);
    cr_assert(went("node-3", "node-1"));
}

/* It took effect, and the answer was lost on the way. */
Test(door_handoff, a_lost_answer_and_a_new_primary)
{
    fake_plan_link(f.w, 2, OTR_UNKNOWN);
    ask(1, "", 1000);
    cr_assert(went("node-2", "node-3"), "%d %s %s", f.result.status, f.result.from, f.result.to);
    cr_assert(eq(u64, f.result.pause_us, 0));
    fake_plan_link(f.w, 3, OTR_UNKNOWN);
    ask(1, "node-2", 1000);
    cr_assert(went("node-3", "node-2"), "%d %s %s", f.result.status, f.result.from, f.result.to);
    cr_assert(eq(uint, fake_calls(f.w, 3), 1));
}

/* The primary died before it answered, and another one than the wished for took over: the wish stands. */
Test(door_handoff, a_lost_answer_and_the_wrong_primary)
{
    fake_plan(f.w, 2, 1, FAKE_LOSE, OTR_UNKNOWN);
    start(1, "node-1", 1000);
    run_for(&f.loop, 50);
    cr_assert(not(f.done));
    fake_primary(f.w, 1, 3);
    fake_change(f.w);
    run_for(&f.loop, 600);
    cr_assert(f.done);
    cr_assert(went("node-3", "node-1"), "%d %s %s", f.result.status, f.result.from, f.result.to);
}

/* Nobody can say what became of it. */
Test(door_handoff, a_lost_answer_and_no_sign)
{
    fake_plan(f.w, 2, 1, FAKE_LOSE, OTR_UNKNOWN);
    ask(1, "", 100);
    cr_assert(eq(int, f.result.status, OTR_UNKNOWN));
    cr_assert(ne(str, f.result.message, ""));
}

Test(door_handoff, nobody_leads)
{
    fake_primary(f.w, 1, 0);
    ask(1, "", 100);
    cr_assert(eq(int, f.result.status, OTR_UNAVAIL));
    cr_assert(eq(str, f.result.message, "shard 1 has no primary now"));
}

/* Whoever asked is told when the door closes. */
Test(door_handoff, the_door_closes)
{
    fake_primary(f.w, 1, 0);
    start(1, "", 1000);
    door_close(f.door);
    f.door = NULL;
    run_for(&f.loop, 20);
    cr_assert(f.done);
    cr_assert(ne(int, f.result.status, 0));
}
