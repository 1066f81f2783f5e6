/* Out of memory: the step says so, nothing has changed, and the same event succeeds afterwards. */
#include "tests/lib/fail_malloc.h"
#include "tests/unit/core/replica_fixture.h"

/* Steps with every allocation failing once, first the first, then the second. Returns how many failed. */
static unsigned step_twice(struct fixture *f, struct replica_event ev)
{
    unsigned failed = 0;
    int rv;

    ev.now_ms = f->now_ms;
    for (uint64_t nth = 1;; nth++) {
        struct replica_status before = status(f), after;

        fail_malloc_at(nth);
        rv = replica_step(f->r, &ev, &f->out);
        fail_malloc_at(0);
        if (rv == 0) {
            return failed;
        }
        failed++;
        cr_assert(eq(int, rv, OTR_NOMEM));
        after = status(f);
        cr_assert(eq(u64, after.last.index, before.last.index));
        cr_assert(eq(u64, after.last.epoch, before.last.epoch));
        cr_assert(eq(u64, after.promised, before.promised));
        cr_assert(eq(int, after.role, before.role));
        cr_assert(eq(u64, after.committed_index, before.committed_index));
    }
}

Test(replica_nomem, writes)
{
    struct fixture f = fixture_primary(2);
    unsigned failed = 0;

    for (uint32_t i = 1; i <= 1000; i++) {
        struct replica_event ev = {.type = REPLICA_EV_WRITE, .write = {.ticket = i, .time_ms = 1000}};

        memcpy(ev.write.request_id.bytes, &i, sizeof i);
        failed += step_twice(&f, ev);
        cr_assert(eq(u64, status(&f).last.index, i + 1));
    }
    cr_assert(ge(u32, failed, 8), "the table of request ids grew four times, by two allocations each");
    fixture_close(&f);
}

Test(replica_nomem, appends_of_many_epochs)
{
    struct fixture f = fixture_follower(0);
    struct replica_entry entries[40];
    struct replica_msg msg = {.type = REPLICA_MSG_APPEND, .generation = 1, .epoch = 100};

    for (uint64_t i = 0; i < 40; i++) {
        entries[i] = (struct replica_entry){.position = {.epoch = i + 1, .index = i + 1},
                                            .request_id = {.bytes = {(uint8_t)(i + 1)}}};
    }
    msg.append.incarnation = 31;
    msg.append.last_index = 40;
    msg.append.entries = entries;
    cr_assert(
        gt(u32, step_twice(&f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = 3, .msg = &msg}}), 0));
    cr_assert(eq(u64, status(&f).last.index, 40));
    cr_assert(eq(u64, status(&f).promised, 100));
    fixture_close(&f);
}

Test(replica_nomem, nodes)
{
    struct fixture f = fixture_primary(2);
    unsigned failed = 0;

    for (otr_node node = 4; node < 200; node++) {
        failed += step_twice(&f, (struct replica_event){
                                     .type = REPLICA_EV_PEER,
                                     .peer = {.node = node, .state = REPLICA_PEER_UP, .incarnation = node},
                                 });
    }
    cr_assert(ge(u32, failed, 4));
    fixture_close(&f);
}

Test(replica_nomem, making_and_restoring)
{
    struct replica_config config = {.shard = 1, .self = 1, .incarnation = 1};
    struct replica_durable durable = {.meta = {.log_id = 1}, .last = {200, 200}};
    struct replica *r = NULL;
    unsigned failed = 0;
    int rv;

    for (uint64_t nth = 1;; nth++) {
        fail_malloc_at(nth);
        rv = replica_new(&r, &config, &durable);
        fail_malloc_at(0);
        if (rv == 0) {
            break;
        }
        cr_assert(eq(int, rv, OTR_NOMEM));
        failed++;
    }
    cr_assert(ge(u32, failed, 2));
    for (uint64_t i = 1; i <= 200; i++) {
        struct replica_entry entry = {.position = {i, i}, .request_id = {.bytes = {(uint8_t)i}}};

        fail_malloc_at(1);
        rv = replica_restore_epoch(r, i, i);
        fail_malloc_at(0);
        if (rv == OTR_NOMEM) {
            rv = replica_restore_epoch(r, i, i);
        }
        cr_assert(eq(int, rv, 0));
        fail_malloc_at(1);
        rv = replica_restore_request(r, &entry, 0, false);
        fail_malloc_at(0);
        if (rv == OTR_NOMEM) {
            rv = replica_restore_request(r, &entry, 0, false);
        }
        cr_assert(eq(int, rv, 0));
    }
    replica_free(r);
}
