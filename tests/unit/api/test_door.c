/* The door over a fake world of three nodes: whom it asks, when it asks again, what it may promise. */
#include "sidecar/io/clock.h"
#include "sidecar/node/door_internal.h"
#include "tests/unit/api/client.h"
#include "tests/unit/api/fake_node.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

struct fixture {
    uv_loop_t loop;
    struct fake_world *w;
    struct door *door;
    /* Of the last operation. */
    bool done;
    int status;
    struct door_write_part parts[FAKE_SHARDS];
    size_t parts_count;
    uint32_t part_of_point[8];
    uint32_t retries;
    bool found;
    float vector[3];
    char ids[64][16];
    double scores[64];
    size_t hits;
    uint64_t count;
    char words[OTR_ERRMSG_MAX];
};

static struct fixture f;
static const float unit[3] = {1, 0, 0};

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

TestSuite(door, .init = open_world, .fini = close_world, .timeout = 30);

static void wait_done(void)
{
    uint64_t end_ms = clock_now_ms() + 20000;

    while (!f.done && clock_now_ms() < end_ms) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    cr_assert(f.done);
}

static void write_done(void *data, const struct door_write_result *r)
{
    cr_assert(not(f.done), "answered twice");
    cr_assert(eq(ptr, data, &f));
    f.done = true;
    f.status = r->status;
    f.parts_count = r->parts_count;
    f.retries = r->retries;
    memcpy(f.parts, r->parts, r->parts_count * sizeof r->parts[0]);
    memcpy(f.part_of_point, r->part_of_point, sizeof(uint32_t)); /* at least one point */
}

static struct otr_request_id request = {{1, 2, 3}};

/* Starts a write of one point in each of the given shards. */
static void start_write(enum record_kind kind, const otr_shard *shards, size_t count, uint32_t timeout_ms)
{
    static char ids[FAKE_SHARDS][16];
    static struct otr_point points[FAKE_SHARDS]; /* lent until cb */
    struct door_write w = {.collection = 77,
                           .kind = kind,
                           .points = points,
                           .points_count = count,
                           .request_id = request,
                           .timeout_ms = timeout_ms};

    for (size_t i = 0; i < count; i++) {
        unsigned n = 0;
        fake_id_in(f.w, shards[i], &n, ids[i]);
        points[i] =
            (struct otr_point){.id = ids[i], .id_bytes = (uint32_t)strlen(ids[i]), .dimension = 3, .vector = unit};
    }
    f.done = false;
    cr_assert(eq(int, door_write(f.door, &w, write_done, &f), 0));
    cr_assert(not(f.done), "answered from inside the call");
}

static void put(otr_shard shard, uint32_t timeout_ms)
{
    start_write(RECORD_PUT, &shard, 1, timeout_ms);
    wait_done();
}

/* --- writes ---------------------------------------------------------------------------------------------------------
 */

Test(door, points_go_to_the_primaries_of_their_shards)
{
    const otr_shard shards[] = {2, 0, 1, 3};

    start_write(RECORD_PUT, shards, 4, 1000);
    wait_done();
    cr_assert(eq(int, f.status, 0));
    cr_assert(eq(sz, f.parts_count, 4));
    cr_assert(eq(uint, f.parts[f.part_of_point[0]].shard, 2));
    for (int i = 0; i < 4; i++) {
        cr_assert(eq(int, f.parts[i].applied, DOOR_APPLIED));
        cr_assert(eq(u64, f.parts[i].position.epoch, 7));
        cr_assert(eq(u64, f.parts[i].position.index, 1));
        cr_assert(eq(uint, f.parts[i].outcome, 1));
    }
    cr_assert(eq(uint, fake_calls(f.w, 2), 1)); /* Shard 1 over the link, shards 0 and 3 here. */
    cr_assert(eq(uint, fake_calls(f.w, 3), 1));
    cr_assert(eq(uint, fake_writes(f.w), 4));
    cr_assert(eq(uint, f.retries, 0));
}

Test(door, a_write_follows_a_failover)
{
    otr_shard shard = 1;
    uint64_t start_ms;

    fake_primary(f.w, 1, 0); /* Nobody leads. */
    start_write(RECORD_PUT, &shard, 1, 5000);
    run_for(&f.loop, 90); /* The fallback timer looks after about 20, 60 and 140 ms. */
    cr_assert(not(f.done));
    fake_primary(f.w, 1, 3);
    fake_change(f.w);
    start_ms = clock_now_ms();
    wait_done();
    cr_assert(lt(u64, clock_now_ms() - start_ms, 20)); /* At once, not by the fallback timer. */
    cr_assert(eq(int, f.status, 0));
    cr_assert(eq(uint, fake_calls(f.w, 3), 1));
}

Test(door, a_failover_without_news_is_found_by_asking_again)
{
    otr_shard shard = 1;

    fake_primary(f.w, 1, 0);
    start_write(RECORD_PUT, &shard, 1, 5000);
    run_for(&f.loop, 60);
    fake_primary(f.w, 1, 3); /* No fake_change. */
    wait_done();
    cr_assert(eq(int, f.status, 0));
}

Test(door, a_primary_that_hangs_is_left_for_its_successor)
{
    otr_shard shard = 1;

    fake_plan(f.w, 2, 1, FAKE_HANG, 0); /* Frozen with the write in its hands. */
    start_write(RECORD_PUT, &shard, 1, 5000);
    run_for(&f.loop, 30);
    cr_assert(eq(uint, fake_calls(f.w, 2), 1));
    fake_primary(f.w, 1, 1);
    fake_change(f.w);
    wait_done();
    cr_assert(eq(int, f.status, 0));
    cr_assert(eq(uint, fake_entries(f.w), 1));
    fake_release(f.w, OTR_UNKNOWN); /* Its late answer changes nothing. */
    run_for(&f.loop, 20);
}

/* The successor is known before it has taken over: its first refusals must not end the asking. */
Test(door, a_successor_that_refuses_at_first_is_asked_again)
{
    otr_shard shard = 1;
    uint64_t start_ms;

    fake_plan(f.w, 2, 1, FAKE_HANG, 0);
    start_write(RECORD_PUT, &shard, 1, 5000);
    run_for(&f.loop, 30);
    for (int i = 0; i < 3; i++) {
        fake_plan(f.w, 3, 1, FAKE_REFUSE, OTR_UNAVAIL);
    }
    fake_primary(f.w, 1, 3);
    fake_change(f.w);
    start_ms = clock_now_ms();
    wait_done();
    cr_assert(eq(int, f.status, 0));
    cr_assert(lt(u64, clock_now_ms() - start_ms, 1000));
    fake_release(f.w, OTR_UNKNOWN);
    run_for(&f.loop, 20);
}

Test(door, a_lost_answer_is_asked_for_again_and_applied_once)
{
    fake_plan(f.w, 1, 0, FAKE_LOSE, OTR_UNKNOWN);
    put(0, 5000);
    cr_assert(eq(int, f.status, 0));
    cr_assert(eq(uint, fake_writes(f.w), 2));
    cr_assert(eq(uint, fake_entries(f.w), 1)); /* Same request id. */
    cr_assert(eq(uint, f.retries, 1));
    fake_plan_link(f.w, 2, OTR_UNKNOWN); /* The same over a link. */
    put(1, 5000);
    cr_assert(eq(int, f.status, 0));
    cr_assert(eq(uint, fake_calls(f.w, 2), 2));
    cr_assert(eq(uint, fake_entries(f.w), 2));
}

Test(door, passing_refusals_are_retried)
{
    static const int statuses[] = {OTR_NOTPRIMARY, OTR_UNAVAIL, OTR_FEW, OTR_FENCED, OTR_NOTFOUND};

    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        fake_plan(f.w, 1, 0, FAKE_REFUSE, statuses[i]);
        fake_plan(f.w, 2, 1, FAKE_REFUSE, statuses[i]);
    }
    put(0, 5000);
    cr_assert(eq(int, f.status, 0));
    put(1, 5000);
    cr_assert(eq(int, f.status, 0));
    fake_link_up(f.w, 3, false);
    fake_plan(f.w, 3, 2, FAKE_REFUSE, OTR_UNAVAIL);
    f.done = false;
    start_write(RECORD_PUT, &(otr_shard){2}, 1, 5000);
    run_for(&f.loop, 50);
    cr_assert(not(f.done));
    fake_link_up(f.w, 3, true);
    wait_done();
    cr_assert(eq(int, f.status, 0));
}

/* Trying again inside would only add to the load. */
Test(door, a_primary_with_too_much_to_do_ends_a_write_at_once)
{
    fake_plan(f.w, 1, 0, FAKE_REFUSE, OTR_BUSY);
    put(0, 5000);
    cr_assert(eq(int, f.status, OTR_BUSY));
    cr_assert(eq(int, f.parts[0].applied, DOOR_NOT_APPLIED));
    fake_plan(f.w, 2, 1, FAKE_REFUSE, OTR_BUSY); /* over the link */
    put(1, 5000);
    cr_assert(eq(int, f.status, OTR_BUSY));
    cr_assert(eq(int, f.parts[0].applied, DOOR_NOT_APPLIED));
    cr_assert(eq(uint, fake_writes(f.w), 2));
    cr_assert(eq(uint, fake_entries(f.w), 0));
}

/* "applied":false is a promise (PROTOCOL Q3): a write of which something happened, or may have, is finished. */
Test(door, a_write_that_has_begun_goes_on_when_a_primary_is_busy)
{
    fake_plan(f.w, 2, 1, FAKE_REFUSE, OTR_BUSY);
    start_write(RECORD_PUT, (otr_shard[]){0, 1}, 2, 5000); /* 0 is here, and answers first */
    wait_done();
    cr_assert(eq(int, f.status, 0));
    cr_assert(eq(uint, fake_entries(f.w), 2));
    fake_plan(f.w, 1, 3, FAKE_LOSE, OTR_UNKNOWN);
    fake_plan(f.w, 1, 3, FAKE_REFUSE, OTR_BUSY);
    request.bytes[0]++;
    put(3, 5000);
    cr_assert(eq(int, f.status, 0));
    cr_assert(eq(uint, fake_entries(f.w), 3));
}

Test(door, the_deadline_is_kept_and_certain_when_every_attempt_was)
{
    uint64_t start_ms = clock_now_ms();

    fake_plan_always(f.w, 1, 0, FAKE_REFUSE, OTR_FEW);
    put(0, 200);
    cr_assert(ge(u64, clock_now_ms() - start_ms, 200));
    cr_assert(lt(u64, clock_now_ms() - start_ms, 400));
    cr_assert(eq(int, f.status, OTR_FEW));
    cr_assert(eq(int, f.parts[0].applied, DOOR_NOT_APPLIED));
    fake_primary(f.w, 0, 0);
    put(0, 100);
    cr_assert(eq(int, f.status, OTR_UNAVAIL));
    cr_assert(eq(int, f.parts[0].applied, DOOR_NOT_APPLIED));
    fake_link_up(f.w, 2, false);
    put(1, 100);
    cr_assert(eq(int, f.status, OTR_UNREACHABLE));
    cr_assert(eq(int, f.parts[0].applied, DOOR_NOT_APPLIED));
    cr_assert(eq(uint, fake_entries(f.w), 0));
}

/* PROTOCOL Q3. */
Test(door, one_uncertain_attempt_makes_the_whole_uncertain)
{
    fake_plan(f.w, 1, 0, FAKE_LOSE, OTR_UNKNOWN);
    fake_plan_always(f.w, 1, 0, FAKE_REFUSE, OTR_FEW); /* Certain refusals afterwards do not help. */
    put(0, 150);
    cr_assert(eq(int, f.status, OTR_UNKNOWN));
    cr_assert(eq(int, f.parts[0].applied, DOOR_APPLIED_UNKNOWN));
    fake_plan_always(f.w, 1, 0, 0, 0);
    /* Also when the last word is a refusal for good. */
    fake_plan(f.w, 1, 3, FAKE_LOSE, OTR_UNKNOWN);
    fake_plan(f.w, 1, 3, FAKE_REFUSE, OTR_NOSPACE);
    put(3, 1000);
    cr_assert(eq(int, f.status, OTR_NOSPACE));
    cr_assert(eq(int, f.parts[0].applied, DOOR_APPLIED_UNKNOWN));
}

Test(door, an_attempt_still_open_at_the_deadline_is_uncertain)
{
    fake_plan(f.w, 1, 0, FAKE_HANG, 0);
    put(0, 100);
    cr_assert(eq(int, f.status, OTR_UNKNOWN));
    cr_assert(eq(int, f.parts[0].applied, DOOR_APPLIED_UNKNOWN));
    fake_plan(f.w, 2, 1, FAKE_HANG, 0);
    put(1, 100);
    cr_assert(eq(int, f.parts[0].applied, DOOR_APPLIED_UNKNOWN));
    fake_release(f.w, 0);
    run_for(&f.loop, 10);
}

Test(door, refusals_for_good_end_at_once)
{
    static const int statuses[] = {OTR_INVALID, OTR_NOSPACE};

    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        uint64_t start_ms = clock_now_ms();

        fake_plan(f.w, 2, 1, FAKE_REFUSE, statuses[i]);
        put(1, 5000);
        cr_assert(eq(int, f.status, statuses[i]));
        cr_assert(eq(int, f.parts[0].applied, DOOR_NOT_APPLIED));
        cr_assert(lt(u64, clock_now_ms() - start_ms, 500));
    }
    /* A collection that the other end does not know: news may be on its way, but not for ever. */
    fake_plan_always(f.w, 2, 1, FAKE_REFUSE, OTR_NOTFOUND);
    put(1, 5000);
    cr_assert(eq(int, f.status, OTR_NOTFOUND));
}

Test(door, parts_end_differently)
{
    const otr_shard shards[] = {0, 1, 2, 3};

    fake_plan(f.w, 2, 1, FAKE_REFUSE, OTR_NOSPACE);
    fake_plan_always(f.w, 3, 2, FAKE_LOSE, OTR_UNKNOWN);
    fake_plan(f.w, 1, 3, FAKE_PENDING, 0);
    start_write(RECORD_PUT, shards, 4, 200);
    wait_done();
    cr_assert(eq(int, f.status, OTR_UNKNOWN)); /* The weightiest. */
    cr_assert(eq(int, f.parts[0].applied, DOOR_APPLIED));
    cr_assert(not(f.parts[0].pending));
    cr_assert(eq(int, f.parts[1].applied, DOOR_NOT_APPLIED));
    cr_assert(eq(int, f.parts[1].status, OTR_NOSPACE));
    cr_assert(eq(int, f.parts[2].applied, DOOR_APPLIED_UNKNOWN));
    cr_assert(f.parts[3].pending);
    cr_assert(eq(int, f.parts[3].applied, DOOR_APPLIED));
}

static struct otr_request_id next_request(void)
{
    static uint8_t n = 100;

    return (struct otr_request_id){{n++}};
}

Test(door, deletes_report_how_many_points_existed)
{
    const otr_shard shards[] = {0, 1};

    put(0, 1000);
    request = next_request();
    start_write(RECORD_DELETE, shards, 2, 1000);
    wait_done();
    cr_assert(eq(int, f.status, 0));
    cr_assert(eq(uint, f.parts[0].outcome, 1));
    cr_assert(eq(uint, f.parts[1].outcome, 0));
    cr_assert(eq(uint, fake_points(f.w), 0));
}

Test(door, writes_wait_for_the_topology)
{
    otr_shard shard = 1;

    fake_shard_known(f.w, 1, false);
    start_write(RECORD_PUT, &shard, 1, 5000);
    run_for(&f.loop, 30);
    cr_assert(not(f.done));
    fake_shard_known(f.w, 1, true);
    fake_change(f.w);
    wait_done();
    cr_assert(eq(int, f.status, 0));
    fake_shard_known(f.w, 1, false);
    put(1, 50);
    cr_assert(eq(int, f.status, OTR_UNAVAIL));
    cr_assert(eq(int, f.parts[0].applied, DOOR_NOT_APPLIED));
}

Test(door, what_nobody_waits_for_ends_soon)
{
    struct otr_point point = {.id = "p0", .id_bytes = 2, .dimension = 3, .vector = unit};
    struct door_ticket ticket = {0};
    struct door_write w = {.collection = 77,
                           .kind = RECORD_PUT,
                           .points = &point,
                           .points_count = 1,
                           .request_id = request,
                           .timeout_ms = 20000,
                           .ticket = &ticket};
    uint64_t start_ms = clock_now_ms();

    for (unsigned n = 1; n <= FAKE_NODES; n++) {
        for (otr_shard s = 0; s < FAKE_SHARDS; s++) {
            fake_plan_always(f.w, n, s, FAKE_REFUSE, OTR_FEW);
        }
    }
    cr_assert(eq(int, door_write(f.door, &w, write_done, &f), 0));
    run_for(&f.loop, 50);
    cr_assert(not(f.done));
    door_cancel(&ticket);
    wait_done();
    cr_assert(lt(u64, clock_now_ms() - start_ms, 5000));
    cr_assert(eq(int, f.parts[0].applied, DOOR_NOT_APPLIED));
    door_cancel(&ticket); /* It is over: nothing happens. */
}

static unsigned waiting, busy;

static void count_write(void *data, const struct door_write_result *r)
{
    (void)data;
    waiting--;
    busy += r->status == OTR_BUSY;
    cr_assert(eq(int, r->parts[0].applied, DOOR_NOT_APPLIED));
}

static void count_begun(void *data, const struct door_write_result *r)
{
    (void)data;
    waiting--;
    busy += r->status == OTR_BUSY;
}

static void count_get(void *data, int status, const struct otr_point *p, const struct otr_errmsg *msg)
{
    (void)data;
    (void)p;
    (void)msg;
    waiting--;
    busy += status == OTR_BUSY;
}

/* A shard without a primary fills its share of the room, not all of it. */
Test(door, a_shard_that_stands_still_leaves_room_to_the_others)
{
    static const struct admission_limits limits = {
        .count_min = 100, .count_max = 100, .bytes_max = UINT64_MAX, .delay_max_ms = 500};
    static struct door_ticket tickets[100];
    static struct otr_point points[100];
    static char ids[100][16];
    struct admission room[2]; /* writes, gets */
    unsigned n = 0;

    fake_primary(f.w, 0, 0);
    for (int kind = 0; kind < 2; kind++) {
        unsigned before = busy;

        admission_init(&room[kind], &limits, clock_now_ms());
        for (int i = 0; i < 90; i++) {
            struct door_write w = {.collection = 77,
                                   .kind = RECORD_PUT,
                                   .points = &points[i],
                                   .points_count = 1,
                                   .request_id = {{7, (uint8_t)i}},
                                   .timeout_ms = 20000,
                                   .ticket = &tickets[i]};
            struct door_get g = {
                .collection = 77, .consistency = NODE_LINEARIZABLE, .timeout_ms = 20000, .ticket = &tickets[i]};

            fake_id_in(f.w, 0, &n, ids[i]);
            g.id = ids[i];
            g.id_bytes = strlen(ids[i]);
            points[i] =
                (struct otr_point){.id = ids[i], .id_bytes = (uint32_t)g.id_bytes, .dimension = 3, .vector = unit};
            tickets[i] = (struct door_ticket){.room = &room[kind]};
            cr_assert(eq(int, admission_begin(&room[kind], 0, clock_now_ms()), ADMISSION_OK));
            waiting++;
            cr_assert(zero(int, kind == 0 ? door_write(f.door, &w, count_write, NULL)
                                          : door_get(f.door, &g, count_get, NULL)));
        }
        run_for(&f.loop, 50);
        cr_assert(ge(uint, busy - before, 8)); /* of 90: at 80 it has four fifths */
        cr_assert(le(uint, busy - before, 20));
        cr_assert(eq(ulong, room[kind].refused[ADMISSION_SHARE], busy - before));
        cr_assert(eq(uint, waiting, 90 - (busy - before)));
        for (int i = 0; i < 90; i++) {
            door_cancel(&tickets[i]);
        }
        run_for(&f.loop, 50);
        cr_assert(zero(uint, waiting));
        /* Its place is free again, and was never taken from others. */
        cr_assert(admission_share(&room[kind], 0, 0));
    }
    put(1, 5000);
    cr_assert(eq(int, f.status, 0));
}

/* Nor do a few large writes to it fill the room by their bytes. */
Test(door, a_shard_that_stands_still_leaves_bytes_to_the_others)
{
    enum { MB = 1 << 20, WRITES = 32 };
    static const struct admission_limits limits = {
        .count_min = 1000, .count_max = 1000, .bytes_max = 64 * MB, .delay_max_ms = 500};
    static struct door_ticket tickets[WRITES];
    static char ids[2][16];
    struct otr_point points[2]; /* of the shard that stands still, and of one that does not */
    struct admission room;
    unsigned n = 0;

    fake_primary(f.w, 0, 0);
    busy = 0;
    for (otr_shard s = 0; s < 2; s++) {
        fake_id_in(f.w, s, &n, ids[s]);
        points[s] =
            (struct otr_point){.id = ids[s], .id_bytes = (uint32_t)strlen(ids[s]), .dimension = 3, .vector = unit};
    }
    admission_init(&room, &limits, clock_now_ms());
    for (int i = 0; i < WRITES; i++) {
        struct door_write w = {.collection = 77,
                               .kind = RECORD_PUT,
                               .points = points,
                               .points_count = 1,
                               .request_id = {{9, (uint8_t)i}},
                               .timeout_ms = 20000,
                               .ticket = &tickets[i]};

        tickets[i] = (struct door_ticket){.room = &room, .room_bytes = 2 * MB};
        cr_assert(eq(int, admission_begin(&room, 2 * MB, clock_now_ms()), ADMISSION_OK));
        waiting++;
        cr_assert(zero(int, door_write(f.door, &w, count_write, NULL)));
    }
    run_for(&f.loop, 50);
    cr_assert(ge(uint, busy, 4)); /* of 32 that fill the room */
    cr_assert(le(uint, busy, 10));
    cr_assert(eq(uint, waiting, WRITES - busy));
    for (int i = 0; i < WRITES; i++) {
        door_cancel(&tickets[i]);
    }
    run_for(&f.loop, 50);
    cr_assert(zero(uint, waiting));
    /* What they had is free again: of a write to both, each has the half that is its own. */
    admission_init(&room, &limits, clock_now_ms());
    cr_assert(eq(int, admission_begin(&room, 64 * MB, clock_now_ms()), ADMISSION_OK));
    for (int i = 0; i < 2; i++) {
        struct door_write w = {.collection = 77,
                               .kind = RECORD_PUT,
                               .points = points,
                               .points_count = 2,
                               .request_id = {{10, (uint8_t)i}},
                               .timeout_ms = 20000,
                               .ticket = &tickets[i]};

        tickets[i] = (struct door_ticket){.room = &room, .room_bytes = i == 0 ? 2 * MB - 2 : 2};
        waiting++;
        cr_assert(zero(int, door_write(f.door, &w, count_begun, NULL)));
    }
    run_for(&f.loop, 50);
    cr_assert(eq(uint, waiting, 2));
    for (int i = 0; i < 2; i++) {
        door_cancel(&tickets[i]);
    }
    run_for(&f.loop, 50);
    cr_assert(zero(uint, waiting));
}

Test(door, closing_ends_what_is_under_way)
{
    otr_shard shard = 0;

    fake_plan(f.w, 1, 0, FAKE_HANG, 0);
    start_write(RECORD_PUT, &shard, 1, 5000);
    run_for(&f.loop, 5);
    door_close(f.door);
    f.door = NULL;
    cr_assert(f.done);
    cr_assert(eq(int, f.parts[0].applied, DOOR_APPLIED_UNKNOWN));
    fake_release(f.w, 0); /* Comes when the door is gone. */
    run_for(&f.loop, 10);
}

Test(door, impossible_writes_are_refused_by_return)
{
    struct otr_point p = {.id = "a", .id_bytes = 1, .dimension = 3, .vector = unit};
    struct door_write w = {.collection = 77, .kind = RECORD_PUT, .points = &p, .points_count = 1, .timeout_ms = 9000};
    size_t count = 900;
    struct otr_point *many = calloc(count, sizeof *many);
    float *large = calloc(16384, sizeof *large);
    char(*ids)[8] = calloc(count, sizeof *ids);

    cr_assert(eq(int, door_write(f.door, &w, write_done, &f), OTR_INVALID)); /* no request id */
    w.request_id = request;
    w.points_count = 0;
    cr_assert(eq(int, door_write(f.door, &w, write_done, &f), OTR_INVALID));
    for (size_t i = 0; i < count * 2; i++) {
        size_t at = i % count;
        snprintf(ids[at], sizeof ids[at], "%zu", at);
        many[at] = (struct otr_point){
            .id = ids[at], .id_bytes = (uint32_t)strlen(ids[at]), .dimension = 16384, .vector = large};
    }
    w.points = many;
    w.points_count = count; /* 900 * 64 KiB < 64 MiB */
    f.done = false;
    cr_assert(eq(int, door_write(f.door, &w, write_done, &f), 0));
    wait_done();
    cr_assert(eq(int, f.status, 0));
    many = realloc(many, 1100 * sizeof *many);
    for (size_t i = count; i < 1100; i++) {
        many[i] = many[0];
    }
    w.points = many;
    w.points_count = 1100;
    cr_assert(eq(int, door_write(f.door, &w, write_done, &f), OTR_TOOBIG));
    free(many);
    free(large);
    free(ids);
}

/* --- get ------------------------------------------------------------------------------------------------------------
 */

static void get_done(void *data, int status, const struct otr_point *p, const struct otr_errmsg *msg)
{
    cr_assert(not(f.done), "answered twice");
    (void)data;
    f.done = true;
    f.status = status;
    f.found = p != NULL;
    snprintf(f.words, sizeof f.words, "%s", msg != NULL ? msg->text : "");
    if (p != NULL) {
        cr_assert(eq(uint, p->dimension, 3));
        memcpy(f.vector, p->vector, sizeof f.vector);
    }
}

static void start_get(otr_shard shard, enum node_consistency c, uint32_t timeout_ms)
{
    static char id[16];
    unsigned n = 0;
    struct door_get g = {.collection = 77, .id = id, .consistency = c, .timeout_ms = timeout_ms};

    fake_id_in(f.w, shard, &n, id);
    g.id_bytes = strlen(id);
    f.done = false;
    cr_assert(eq(int, door_get(f.door, &g, get_done, &f), 0));
    cr_assert(not(f.done));
}

static void get(otr_shard shard, enum node_consistency c, uint32_t timeout_ms)
{
    start_get(shard, c, timeout_ms);
    wait_done();
}

Test(door, linearizable_gets_ask_the_primary_others_this_node_first)
{
    put(1, 1000);
    cr_assert(eq(uint, fake_calls(f.w, 2), 1));
    get(1, NODE_LINEARIZABLE, 1000);
    cr_assert(eq(int, f.status, 0));
    cr_assert(f.found);
    cr_assert(eq(flt, f.vector[0], 1.0F));
    cr_assert(eq(uint, fake_calls(f.w, 2), 2));
    get(1, NODE_BOUNDED, 1000);
    cr_assert(f.found);
    get(1, NODE_EVENTUAL, 1000);
    cr_assert(f.found);
    cr_assert(eq(uint, fake_calls(f.w, 2), 2)); /* Both out of our own replica. */
    get(3, NODE_LINEARIZABLE, 1000);
    cr_assert(eq(int, f.status, 0));
    cr_assert(not(f.found)); /* Does not exist: no error. */
}

Test(door, a_stale_replica_is_passed_over_at_once)
{
    uint64_t start_ms = clock_now_ms();

    put(1, 1000);
    fake_plan(f.w, 1, 1, FAKE_REFUSE, OTR_NOTPRIMARY); /* Ours is too stale, */
    fake_plan(f.w, 2, 1, FAKE_REFUSE, OTR_CORRUPT);    /* the primary's disk is bad, */
    get(1, NODE_BOUNDED, 2000);                        /* and the third answers. */
    cr_assert(eq(int, f.status, 0));
    cr_assert(f.found);
    cr_assert(eq(uint, fake_calls(f.w, 3), 1));
    cr_assert(lt(u64, clock_now_ms() - start_ms, 40)); /* The fallback timer would take 60 ms. */
}

Test(door, a_get_follows_a_failover)
{
    uint64_t start_ms;

    put(1, 1000);
    fake_primary(f.w, 1, 0);
    start_get(1, NODE_LINEARIZABLE, 5000);
    run_for(&f.loop, 40);
    cr_assert(not(f.done));
    fake_primary(f.w, 1, 3);
    fake_change(f.w);
    wait_done();
    cr_assert(f.found);
    /* And leaves a primary that hangs. */
    fake_plan(f.w, 3, 1, FAKE_HANG, 0);
    start_get(1, NODE_LINEARIZABLE, 5000);
    run_for(&f.loop, 20);
    fake_plan(f.w, 1, 1, FAKE_REFUSE, OTR_NOTPRIMARY); /* Not yet. */
    fake_plan(f.w, 1, 1, FAKE_REFUSE, OTR_UNAVAIL);
    fake_primary(f.w, 1, 1);
    fake_change(f.w);
    start_ms = clock_now_ms();
    wait_done();
    cr_assert(f.found);
    cr_assert(lt(u64, clock_now_ms() - start_ms, 1000));
    fake_release(f.w, OTR_CANCELED);
    run_for(&f.loop, 10);
}

/* A primary that hangs, a second one that refuses again and again meanwhile, and then a third one that cannot be
 * reached: it is asked once a look, not for ever within one. */
Test(door, a_get_survives_many_refusals_and_a_primary_out_of_reach)
{
    put(1, 1000);
    fake_plan(f.w, 2, 1, FAKE_HANG, 0);
    start_get(1, NODE_LINEARIZABLE, 20000);
    run_for(&f.loop, 10);
    fake_plan_always(f.w, 1, 1, FAKE_REFUSE, OTR_NOTPRIMARY);
    fake_primary(f.w, 1, 1);
    for (unsigned before = fake_gets(f.w); fake_gets(f.w) < before + 12;) {
        fake_change(f.w);
        run_for(&f.loop, 5);
    }
    fake_link_up(f.w, 3, false);
    fake_primary(f.w, 1, 3);
    fake_release(f.w, OTR_UNAVAIL); /* The first one ends: now nobody is being asked. */
    run_for(&f.loop, 50);
    cr_assert(not(f.done));
    fake_link_up(f.w, 3, true);
    wait_done();
    cr_assert(eq(int, f.status, 0));
    cr_assert(f.found);
}

Test(door, a_bounded_get_hedges_a_replica_that_hangs)
{
    put(1, 1000);
    fake_plan(f.w, 1, 1, FAKE_HANG, 0);
    fake_plan(f.w, 2, 1, FAKE_REFUSE, OTR_UNAVAIL); /* The second does not answer for the first; the third does. */
    get(1, NODE_BOUNDED, 5000);
    cr_assert(f.found);
    cr_assert(eq(uint, fake_calls(f.w, 3), 1));
}

Test(door, a_get_ends_at_its_deadline_with_words)
{
    fake_primary(f.w, 1, 0);
    get(1, NODE_LINEARIZABLE, 80);
    cr_assert(eq(int, f.status, OTR_UNAVAIL));
    cr_assert(strlen(f.words) > 0);
    fake_primary(f.w, 1, 2);
    fake_plan(f.w, 2, 1, FAKE_HANG, 0);
    get(1, NODE_LINEARIZABLE, 80);
    cr_assert(eq(int, f.status, OTR_TIMEOUT));
    fake_shard_known(f.w, 1, false);
    get(1, NODE_EVENTUAL, 80);
    cr_assert(eq(int, f.status, OTR_UNAVAIL));
}

/* --- search and count
 * ------------------------------------------------------------------------------------------------- */

static void search_done(void *data, int status, const struct node_hit *hits, size_t count, const struct otr_errmsg *msg)
{
    cr_assert(not(f.done), "answered twice");
    (void)data;
    f.done = true;
    f.status = status;
    f.hits = count;
    snprintf(f.words, sizeof f.words, "%s", msg != NULL ? msg->text : "");
    for (size_t i = 0; i < count && i < 64; i++) {
        snprintf(f.ids[i], sizeof f.ids[i], "%.*s", (int)hits[i].point.id_bytes, hits[i].point.id);
        f.scores[i] = hits[i].score;
    }
}

static void start_search(uint32_t k, enum node_consistency c, uint32_t timeout_ms)
{
    struct door_search s = {
        .collection = 77, .vector = unit, .dimension = 3, .k = k, .consistency = c, .timeout_ms = timeout_ms};

    f.done = false;
    cr_assert(eq(int, door_search(f.door, &s, search_done, &f), 0));
    cr_assert(not(f.done));
}

/* Forty points "v0".."v39" over all shards; four of each score, so that ids break ties. */
static void fill(void)
{
    static struct otr_point points[40];
    static char ids[40][8];
    static float vectors[40][3];
    struct door_write w = {.collection = 77,
                           .kind = RECORD_PUT,
                           .points = points,
                           .points_count = 40,
                           .request_id = {{5}},
                           .timeout_ms = 1000};

    for (int i = 0; i < 40; i++) {
        snprintf(ids[i], sizeof ids[i], "v%d", i);
        vectors[i][0] = 10;
        vectors[i][1] = (float)(i / 4);
        points[i] = (struct otr_point){
            .id = ids[i], .id_bytes = (uint32_t)strlen(ids[i]), .dimension = 3, .vector = vectors[i]};
    }
    f.done = false;
    cr_assert(eq(int, door_write(f.door, &w, write_done, &f), 0));
    wait_done();
    cr_assert(eq(int, f.status, 0));
}

static int compare_ids(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void check_page(size_t count)
{
    static char expected[40][16];

    for (int i = 0; i < 40; i++) {
        snprintf(expected[i], sizeof expected[i], "v%d", i);
    }
    for (int i = 0; i < 40; i += 4) {
        qsort(expected[i], 4, sizeof expected[i], compare_ids); /* (score, id as bytes) */
    }
    cr_assert(eq(int, f.status, 0), "%s", f.words);
    cr_assert(eq(sz, f.hits, count));
    for (size_t i = 0; i < count; i++) {
        cr_assert(eq(str, f.ids[i], expected[i]));
    }
}

Test(door, hits_of_all_shards_are_merged_by_score_and_id)
{
    fill();
    start_search(10, NODE_BOUNDED, 2000);
    wait_done();
    check_page(10);
    start_search(100, NODE_LINEARIZABLE, 2000); /* Shards 1 and 2 over links. */
    wait_done();
    check_page(40);
    cr_assert(eq(uint, fake_calls(f.w, 2), 2)); /* One for the write, one for the search. */
}

Test(door, shards_of_one_peer_travel_together)
{
    fill();
    for (otr_shard s = 0; s < FAKE_SHARDS; s++) {
        fake_primary(f.w, s, 3);
    }
    start_search(10, NODE_LINEARIZABLE, 2000);
    wait_done();
    check_page(10);
    cr_assert(eq(uint, fake_calls(f.w, 3), 2)); /* The write's and this one. */
}

Test(door, a_shard_that_fails_is_asked_elsewhere)
{
    fill();
    fake_plan(f.w, 1, 2, FAKE_REFUSE, OTR_NOTPRIMARY);
    fake_plan(f.w, 3, 2, FAKE_REFUSE, OTR_UNAVAIL);
    start_search(10, NODE_BOUNDED, 2000);
    wait_done();
    check_page(10);
    fake_plan_link(f.w, 2, OTR_UNKNOWN);
    start_search(10, NODE_LINEARIZABLE, 2000);
    wait_done();
    check_page(10);
}

Test(door, no_page_lacks_a_shard)
{
    fill();
    fake_plan_always(f.w, 1, 2, FAKE_REFUSE, OTR_UNAVAIL);
    fake_plan_always(f.w, 2, 2, FAKE_REFUSE, OTR_UNAVAIL);
    fake_plan_always(f.w, 3, 2, FAKE_REFUSE, OTR_UNAVAIL);
    start_search(10, NODE_BOUNDED, 150);
    wait_done();
    cr_assert(eq(int, f.status, OTR_UNAVAIL));
    cr_assert(eq(sz, f.hits, 0));
    cr_assert(strstr(f.words, "shard 2") != NULL, "%s", f.words);
    fake_plan_always(f.w, 1, 2, 0, 0);
    fake_shard_known(f.w, 1, false); /* Part of the hash space is unknown. */
    start_search(10, NODE_BOUNDED, 100);
    wait_done();
    cr_assert(eq(int, f.status, OTR_UNAVAIL));
    fake_shard_known(f.w, 1, true);
    start_search(10, NODE_BOUNDED, 1000);
    wait_done();
    check_page(10);
}

static void first_done(void *data, int status, const struct node_hit *hits, size_t count, const struct otr_errmsg *msg)
{
    (void)hits;
    (void)msg;
    cr_assert(zero(int, status));
    cr_assert(eq(sz, count, 40));
    *(bool *)data = true;
}

/* What all searches of a door hold together is bounded; one that alone would hold more than that is told so. */
Test(door, searches_hold_so_many_bytes_and_no_more)
{
    struct door_search s = {.collection = 77, .vector = unit, .dimension = 3, .k = 100, .timeout_ms = 10000};
    bool first = false;

    fill();
    door_room_limit(f.door, 40 * sizeof(struct node_hit));
    start_search(100, NODE_EVENTUAL, 5000);
    wait_done();
    cr_assert(eq(int, f.status, OTR_TOOBIG), "%s", f.words);
    door_room_limit(f.door, 60 * sizeof(struct node_hit)); /* for one, and not for a second one */
    s.consistency = NODE_LINEARIZABLE;
    fake_plan(f.w, 2, 1, FAKE_HANG, 0);
    cr_assert(zero(int, door_search(f.door, &s, first_done, &first)));
    run_for(&f.loop, 30); /* It has what the other shards found. */
    start_search(100, NODE_EVENTUAL, 5000);
    wait_done();
    cr_assert(eq(int, f.status, OTR_BUSY), "%s", f.words);
    cr_assert(not(first));
    fake_release(f.w, 0);
    run_for(&f.loop, 30);
    cr_assert(first);
    start_search(100, NODE_EVENTUAL, 5000);
    wait_done();
    check_page(40);
}

Test(door, a_search_hedges_a_replica_that_hangs)
{
    fill();
    fake_plan(f.w, 1, 2, FAKE_HANG, 0);
    start_search(10, NODE_BOUNDED, 5000);
    wait_done();
    check_page(10);
    fake_release(f.w, 0);
    run_for(&f.loop, 10);
}

Test(door, reads_that_everybody_refuses_as_too_much_end_at_once)
{
    uint64_t start_ms = clock_now_ms();

    fake_plan(f.w, 1, 0, FAKE_REFUSE, OTR_BUSY); /* another replica has time */
    get(0, NODE_BOUNDED, 5000);
    cr_assert(eq(int, f.status, 0));
    for (unsigned n = 1; n <= FAKE_NODES; n++) {
        fake_plan_always(f.w, n, 0, FAKE_REFUSE, OTR_BUSY);
    }
    get(0, NODE_BOUNDED, 5000);
    cr_assert(eq(int, f.status, OTR_BUSY));
    get(0, NODE_LINEARIZABLE, 5000);
    cr_assert(eq(int, f.status, OTR_BUSY));
    start_search(3, NODE_BOUNDED, 5000);
    wait_done();
    cr_assert(eq(int, f.status, OTR_BUSY));
    cr_assert(lt(u64, clock_now_ms() - start_ms, 2000));
}

Test(door, a_search_follows_a_failover)
{
    uint64_t start_ms = clock_now_ms();

    fill();
    fake_plan(f.w, 2, 1, FAKE_HANG, 0);
    start_search(10, NODE_LINEARIZABLE, 5000);
    run_for(&f.loop, 20);
    fake_plan(f.w, 3, 1, FAKE_REFUSE, OTR_UNAVAIL);
    fake_plan(f.w, 3, 1, FAKE_REFUSE, OTR_NOTPRIMARY);
    fake_primary(f.w, 1, 3);
    fake_change(f.w);
    wait_done();
    check_page(10);
    cr_assert(lt(u64, clock_now_ms() - start_ms, 1000));
    fake_release(f.w, 0);
    run_for(&f.loop, 10);
}

static void count_done(void *data, int status, uint64_t count, const struct otr_errmsg *msg)
{
    cr_assert(not(f.done), "answered twice");
    (void)data;
    (void)msg;
    f.done = true;
    f.status = status;
    f.count = count;
}

Test(door, counts_are_summed_over_the_primaries)
{
    fill();
    for (int i = 0; i < 3; i++) {
        if (i == 1) {
            fake_link_up(f.w, 2, false); /* Then our own replica must do. */
        } else if (i == 2) {
            fake_link_up(f.w, 2, true);
            fake_plan(f.w, 2, 1, FAKE_REFUSE, 0);
        }
        f.done = false;
        cr_assert(eq(int, door_count(f.door, 77, 2000, count_done, &f), 0));
        cr_assert(not(f.done));
        wait_done();
        cr_assert(eq(int, f.status, 0));
        cr_assert(eq(u64, f.count, 40));
    }
}

/* --- the other end
 * ------------------------------------------------------------------------------------------------------ */

struct call_result {
    bool done;
    int status;
    uint32_t reply_status;
};

static void call_done(void *data, int status, const ProtobufCMessage *reply, const struct otr_errmsg *msg)
{
    struct call_result *r = data;

    (void)msg;
    r->done = true;
    r->status = status;
    if (status == 0) {
        r->reply_status = ((const Outrigger__V1__ForwardReply *)(const void *)reply)->status;
    }
}

static struct call_result call(enum peer_method method, const ProtobufCMessage *request_message)
{
    struct call_result r = {0};

    cr_assert(
        eq(int, peer_link_call(node_link(fake_node(f.w, 1), 2), method, request_message, 1000, call_done, &r), 0));
    while (!r.done) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    return r;
}

Test(door, forwarded_bodies_are_checked)
{
    Outrigger__V1__ForwardRequest request_message = OUTRIGGER__V1__FORWARD_REQUEST__INIT;
    struct otr_point p = {.dimension = 3, .vector = unit};
    _Alignas(8) uint8_t body[256];
    char id[16];
    unsigned n = 0;

    p.id = fake_id_in(f.w, 1, &n, id);
    p.id_bytes = (uint32_t)strlen(id);
    put_body_write(body, 77, &p, 1);
    request_message.shard = 1;
    request_message.kind = RECORD_PUT;
    request_message.body.data = body;
    request_message.body.len = put_body_bytes(&p, 1);
    request_message.request_id.data = request.bytes;
    request_message.request_id.len = 15;
    cr_assert(eq(uint, call(PEER_FORWARD, &request_message.base).reply_status, OTR_INVALID));
    request_message.request_id.len = 16;
    request_message.shard = 2; /* a point of another shard */
    cr_assert(eq(uint, call(PEER_FORWARD, &request_message.base).reply_status, OTR_INVALID));
    request_message.shard = 1;
    request_message.kind = RECORD_DROP;
    cr_assert(eq(uint, call(PEER_FORWARD, &request_message.base).reply_status, OTR_INVALID));
    request_message.kind = RECORD_DELETE; /* a PUT's bytes are no DELETE */
    cr_assert(eq(uint, call(PEER_FORWARD, &request_message.base).reply_status, OTR_INVALID));
    request_message.kind = RECORD_PUT;
    body[40] ^= 1; /* inside the vector: the point's checksum tells */
    cr_assert(eq(uint, call(PEER_FORWARD, &request_message.base).reply_status, OTR_INVALID));
    body[40] ^= 1;
    request_message.body.len--;
    cr_assert(eq(uint, call(PEER_FORWARD, &request_message.base).reply_status, OTR_INVALID));
    request_message.body.len++;
    cr_assert(eq(uint, fake_writes(f.w), 0));
    cr_assert(eq(uint, call(PEER_FORWARD, &request_message.base).reply_status, 0));
    cr_assert(eq(uint, fake_points(f.w), 1));
}

/* A small message must not make large work. */
Test(door, forwarded_lists_are_bounded)
{
    enum { MANY = 1001 };
    Outrigger__V1__GetRequest g = OUTRIGGER__V1__GET_REQUEST__INIT;
    Outrigger__V1__CountRequest c = OUTRIGGER__V1__COUNT_REQUEST__INIT;
    static char *ids[MANY];
    static uint32_t shards[OTR_SHARDS_MAX + 1];

    for (size_t i = 0; i < MANY; i++) {
        ids[i] = (char *)(uintptr_t) "x";
    }
    g.shard = 1;
    g.collection = 77;
    g.ids = ids;
    g.n_ids = MANY;
    cr_assert(zero(int, call(PEER_GET, &g.base).status));
    cr_assert(zero(uint, fake_gets(f.w)));
    g.n_ids--;
    cr_assert(zero(int, call(PEER_GET, &g.base).status));
    cr_assert(eq(uint, fake_gets(f.w), 1));
    c.collection = 77;
    c.shards = shards;
    c.n_shards = OTR_SHARDS_MAX + 1;
    cr_assert(eq(int, call(PEER_COUNT, &c.base).status, OTR_PROTO));
    c.n_shards--;
    cr_assert(zero(int, call(PEER_COUNT, &c.base).status));
}

Test(door, forwarded_searches_are_checked)
{
    Outrigger__V1__SearchRequest s = OUTRIGGER__V1__SEARCH_REQUEST__INIT;
    uint32_t shards[1] = {1};
    float bad[3] = {1, 0, 0};

    s.n_shards = 1;
    s.shards = shards;
    s.collection = 77;
    s.k = 3;
    s.vector.data = (uint8_t *)bad;
    s.vector.len = 11;
    cr_assert(eq(int, call(PEER_SEARCH, &s.base).status, OTR_PROTO));
    s.vector.len = 12;
    s.k = 0;
    cr_assert(eq(int, call(PEER_SEARCH, &s.base).status, OTR_PROTO));
    s.k = 3;
    s.n_shards = 0;
    cr_assert(eq(int, call(PEER_SEARCH, &s.base).status, OTR_PROTO));
    s.n_shards = 1;
    memcpy(&bad[1], &(uint32_t){0x7FC00000}, 4);
    cr_assert(eq(int, call(PEER_SEARCH, &s.base).status, OTR_PROTO));
    bad[1] = 0;
    cr_assert(eq(int, call(PEER_SEARCH, &s.base).status, 0));
    cr_assert(eq(uint, fake_searches(f.w), 1));
}
