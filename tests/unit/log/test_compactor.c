/* Compaction: what it keeps, what it gives back and at which pace. World.h has the model that it is held against. */
#include "sidecar/log/compactor_internal.h"
#include "sidecar/log/journal_format.h"
#include "tests/unit/log/world.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

Test(compactor, overwriting_the_same_points_takes_bounded_space)
{
    struct world *w = world_new(1);
    struct compactor_stats stats;
    uint64_t most = 0;

    for (int round = 0; round < 12; round++) {
        world_work(w, 200);
        cr_assert(zero(int, world_flush(w)));
        world_compact(w, 1000);
        most = world_used(w) > most ? world_used(w) : most;
        for (otr_shard i = 0; i < WORLD_SHARDS; i++) {
            world_check(w, i);
        }
    }
    compactor_stats(w->c, &stats);
    cr_assert(zero(u64, stats.failed_total + stats.halted));
    cr_assert(gt(u64, stats.segments_total, 30));
    cr_assert(lt(u64, most, 60000)); /* of more than 400,000 that were appended */
    world_crash(w, FAKE_DISK_LOSE_ALL);
    world_reopen(w);
    world_free(w);
}

/* Anything, in any order, with crashes. */
Test(compactor, a_random_life_loses_nothing, .timeout = 300)
{
    for (uint64_t seed_number = 1; seed_number <= 60; seed_number++) {
        struct world *w = world_new(seed_number);

        for (int round = 0; round < 12; round++) {
            for (int i = 0; i < 30; i++) {
                uint64_t dice = fake_disk_random(&w->rng) % 100;
                otr_shard shard = (otr_shard)(fake_disk_random(&w->rng) % WORLD_SHARDS);

                if (dice < 60) {
                    world_work(w, 8);
                } else if (dice < 85) {
                    world_compact(w, 1 + (unsigned)(fake_disk_random(&w->rng) % 12));
                } else if (dice < 89) {
                    w->held = !w->held;
                } else if (dice < 96) {
                    world_cut(w, shard);
                } else if (dice < 97 && world_flush(w) == 0) {
                    world_seed(w, shard);
                } else {
                    (void)world_flush(w);
                }
            }
            w->held = false;
            fake_disk_crash(w->disk, &w->rng);
            world_close(w);
            world_reopen(w);
        }
        world_free(w);
    }
}

/* What a replica that lags asks for: by log as long as retention keeps it, then it is told that it is gone. */
Test(compactor, entries_leave_the_log_in_their_order_and_not_before_their_time)
{
    struct world *w = world_new(3);
    struct journal_shard_state state;
    struct journal_bytes bytes;

    world_close(w);
    w->compaction.retain_bytes = 1 << 20;
    world_reopen(w);
    for (int i = 0; i < 200; i++) {
        world_append(w, 1, RECORD_PUT, 0, 1);
    }
    cr_assert(zero(int, world_flush(w)));
    world_compact(w, 1000);
    (void)journal_shard(w->j, 1, &state);
    cr_assert(eq(u64, state.first.index, 1));
    world_close(w);

    w->compaction.retain_bytes = 0;
    w->compaction.retain_ms = 60000;
    world_reopen(w);
    world_append(w, 1, RECORD_PUT, 0, 2); /* its segment is begun now */
    cr_assert(zero(int, world_flush(w)));
    world_compact(w, 1000);
    (void)journal_shard(w->j, 1, &state);
    cr_assert(eq(u64, state.first.index, 1));
    w->now_ms += 61000;
    w->held = true;
    for (int i = 0; i < 40; i++) {
        world_append(w, 1, RECORD_PUT, 0, 3); /* not committed: stay, whatever retention says */
        world_flush(w);
    }
    w->now_ms += 61000;
    world_compact(w, 1000);
    (void)journal_shard(w->j, 1, &state);
    cr_assert(gt(u64, state.base.index, 0));
    cr_assert(le(u64, state.base.index, w->shards[1].stored));
    cr_assert(eq(int, journal_read(w->j, 1, state.base.index, state.last.index, 100, &bytes), OTR_GONE));
    cr_assert(eq(u64, journal_epoch_at(w->j, 1, state.base.index), state.base.epoch));
    world_apply(w, 1, state.last.index);
    world_check(w, 1);
    world_crash(w, FAKE_DISK_LOSE_ALL);
    world_reopen(w);
    world_free(w);
}

/* A snapshot's places are good as long as its pin lives, and the files go when nobody needs them any more. */
Test(compactor, what_is_pinned_can_be_read)
{
    struct world *w = world_new(4);
    struct store_snapshot *snap;
    struct journal_reader *r;
    struct journal_pin *pin;
    struct otr_point p;
    uint64_t pinned;

    world_work(w, 300);
    cr_assert(zero(int, world_flush(w)));
    snap = store_snapshot_by_place(w->shards[1].store, 0);
    pin = journal_pin_new(w->j);
    world_compact(w, 1000);
    world_work(w, 300);
    cr_assert(zero(int, world_flush(w)));
    world_compact(w, 1000);
    r = journal_reader_new(w->j);
    for (size_t i = 0; i < snap->count; i++) {
        cr_assert(eq(int, journal_reader_point(r, snap->slots[i].place, 0), (int)i));
    }
    cr_assert(zero(int, journal_reader_run(r, &w->msg)), "%s", w->msg.text);
    for (size_t i = 0; i < snap->count; i++) {
        cr_assert(zero(int, journal_reader_point_result(r, (int)i, &p)));
    }
    pinned = world_used(w);
    journal_pin_free(pin);
    world_compact(w, 1000);
    cr_assert(lt(u64, world_used(w), pinned));
    pinned = world_used(w); /* the reader holds some */
    journal_reader_free(r);
    world_compact(w, 1000);
    cr_assert(lt(u64, world_used(w), pinned));
    cr_assert(lt(u64, world_used(w), 30000));
    store_snapshot_free(snap);
    world_free(w);
}

/* Points that were moved are older than any entry, wherever their new file stands. */
Test(compactor, moved_points_are_not_taken_for_new_ones)
{
    struct world *w = world_new(4);
    struct store_snapshot *snap;

    for (unsigned i = 0; i < WORLD_IDS; i++) {
        world_append(w, 1, RECORD_PUT, 0, i);
    }
    for (int i = 0; i < 200; i++) {
        world_append(w, 1, RECORD_PUT, 0, 5);
        world_flush(w);
    }
    world_compact(w, 1000);
    world_append(w, 1, RECORD_PUT, 0, 7);
    world_append(w, 1, RECORD_PUT, 0, 8);
    cr_assert(zero(int, world_flush(w)));
    snap = store_snapshot_since(w->shards[1].store, 1, journal_place_of(w->j, 1, w->shards[1].h.last - 1));
    cr_assert(eq(sz, snap->count, 2));
    store_snapshot_free(snap);
    snap = store_snapshot_by_place(w->shards[1].store, 1);
    cr_assert(eq(sz, snap->count, WORLD_IDS));
    cr_assert(ge(u32, place_segment(snap->slots[WORLD_IDS - 1].place), KEPT_NUMBER_FIRST)); /* some were moved */
    store_snapshot_free(snap);
    world_free(w);
}

/* On a full disk compaction makes room out of its reserve. */
Test(compactor, a_full_disk_gets_room_again)
{
    struct world *w = world_new(8);
    struct compactor_stats stats;
    int rv;

    world_close(w);
    w->compaction.reserve_bytes = 1 << 20;
    world_reopen(w);
    world_work(w, 100);
    cr_assert(zero(int, world_flush(w)));
    world_compact(w, 1000);
    cr_assert(fake_disk_exists(w->disk, "RESERVE"));
    world_work(w, 400);
    cr_assert(zero(int, world_flush(w)));
    fake_disk_set_capacity(w->disk, world_used(w) + 100);
    (void)world_append(w, 1, RECORD_PUT, 0, 1);
    cr_assert(eq(int, world_flush(w), OTR_NOSPACE));
    for (int i = 0; i < 2000; i++) {
        w->now_ms += 1100;
        if (compactor_turn(w->c, w->now_ms, true)) {
            compactor_run(w->c);
            rv = compactor_ran(w->c, w->now_ms, &w->msg);
            cr_assert(zero(int, rv), "%s", w->msg.text);
        }
    }
    compactor_stats(w->c, &stats);
    cr_assert(gt(u64, stats.segments_total, 0));
    cr_assert(zero(int, world_flush(w)), "%s", w->msg.text);
    world_work(w, 50);
    cr_assert(zero(int, world_flush(w)));
    world_crash(w, FAKE_DISK_LOSE_ALL);
    world_reopen(w);
    world_free(w);
}

/* Deletions of points that are no longer anywhere are no longer kept. */
Test(compactor, deletions_do_not_pile_up)
{
    struct world *w = world_new(6);

    world_close(w);
    w->compaction.bytes_max = 1 << 20;
    world_reopen(w);
    for (unsigned i = 0; i < WORLD_IDS; i++) {
        world_append(w, 1, RECORD_PUT, 0, i); /* live for ever */
    }
    for (int i = 0; i < 1200; i++) {
        world_append(w, 1, RECORD_PUT, 1, (unsigned)i % WORLD_IDS);
        world_append(w, 1, RECORD_DELETE, 1, (unsigned)i % WORLD_IDS);
        if (i % 50 == 0) {
            world_flush(w);
            world_compact(w, 100);
        }
    }
    cr_assert(zero(int, world_flush(w)));
    world_compact(w, 1000);
    cr_assert(lt(u64, world_used(w), 40000));
    world_crash(w, FAKE_DISK_LOSE_ALL);
    world_reopen(w);
    world_free(w);
}

/* Entries that were cut, over more than one segment: the first of them go with a segment that has left, and those that
 * stand in the next one follow nothing. */
Test(compactor, the_rest_of_what_was_cut_is_passed_over)
{
    struct world *w = world_new(7);
    struct world_shard *s = &w->shards[1];
    struct journal_shard_state state;

    for (unsigned i = 0; i < 5; i++) {
        world_append(w, 1, RECORD_PUT, 0, i);
    }
    cr_assert(zero(int, world_flush(w)));
    w->held = true;
    for (unsigned i = 0; i < 80; i++) { /* will be cut: several segments */
        world_append(w, 1, RECORD_PUT, 0, i % WORLD_IDS);
        cr_assert(zero(int, world_flush(w)));
    }
    (void)journal_shard(w->j, 1, &state);
    cr_assert(zero(int, journal_cut(w->j, 1, 6)));
    s->h.last = 5;
    s->acked = 5;
    cr_assert(zero(int, world_flush(w)));
    w->epoch = state.last.epoch + 1; /* another primary's */
    world_append(w, 1, RECORD_PUT, 0, 9);
    w->held = false;
    cr_assert(zero(int, world_flush(w)));
    for (uint64_t bytes = world_used(w); bytes > 2000; bytes -= 2000) { /* they leave one after the other */
        w->compaction.retain_bytes = bytes - 2000;
        world_close(w);
        world_reopen(w);
        world_compact(w, 1000);
        world_crash(w, FAKE_DISK_LOSE_ALL);
        world_reopen(w);
        world_check(w, 1);
    }
    world_free(w);
}

/* --- pace --------------------------------------------------------------------------------------------------------- */

static uint64_t reserve_bytes(const struct world *w)
{
    const char *name = fake_disk_exists(w->disk, JOURNAL_RESERVE_NAME) ? JOURNAL_RESERVE_NAME : JOURNAL_RESERVE_PART;

    return fake_disk_exists(w->disk, name) ? fake_disk_size(w->disk, name) : 0;
}

/* So many turns, 100 ms apart. */
static void turns(struct world *w, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        w->now_ms += 100;
        if (compactor_turn(w->c, w->now_ms, false)) {
            compactor_run(w->c);
            (void)compactor_ran(w->c, w->now_ms, &w->msg);
        }
    }
}

/* What the disk is to be spared is: here by the reserve, which is the largest single thing that is written. One that
 * was not finished is begun anew, and one that could not be written is tried again later. */
Test(compactor, the_reserve_is_written_at_the_pace_that_was_asked_for)
{
    struct world *w = world_new(21);
    uint64_t before;

    world_work(w, 300);
    cr_assert(zero(int, world_flush(w)));
    world_compact(w, 1000);
    world_close(w);
    w->compaction.bytes_per_s = 1 << 20;
    w->compaction.reserve_bytes = 16 << 20;
    world_reopen(w);
    turns(w, 50);
    before = reserve_bytes(w);
    cr_assert(gt(u64, before, 0));
    turns(w, 50); /* 5 s at 1 MiB/s, give or take what may be saved up */
    cr_assert(ge(u64, reserve_bytes(w), before + (4 << 20)), "%llu", (unsigned long long)(reserve_bytes(w) - before));
    cr_assert(le(u64, reserve_bytes(w), before + (6 << 20)), "%llu", (unsigned long long)(reserve_bytes(w) - before));
    cr_assert(not(fake_disk_exists(w->disk, JOURNAL_RESERVE_NAME)));
    world_close(w); /* ... nor is it when the process ends before it is whole */
    world_reopen(w);
    cr_assert(not(w->j->reserve));
    turns(w, 20);
    fake_disk_fail_call(w->disk, FAKE_DISK_WRITE, 2);
    turns(w, 40);
    cr_assert(not(fake_disk_fail_pending(w->disk)));
    cr_assert(zero(u64, reserve_bytes(w))); /* Half a reserve is none. */
    turns(w, 300);
    cr_assert(eq(u64, reserve_bytes(w), 16 << 20));
    cr_assert(fake_disk_exists(w->disk, JOURNAL_RESERVE_NAME));
    turns(w, 50); /* and that is all */
    cr_assert(eq(u64, reserve_bytes(w), 16 << 20));
    world_crash(w, FAKE_DISK_LOSE_ALL);
    cr_assert(zero(sz, fake_disk_open_files(w->disk)));
    world_reopen(w);
    cr_assert(eq(u64, reserve_bytes(w), 16 << 20));
    world_free(w);
}

static unsigned busy_left;

static int ids_later(void *data, otr_shard shard, uint64_t *from, uint64_t to, uint8_t **bytes, size_t *count)
{
    if (busy_left > 0) {
        busy_left--;
        return OTR_BUSY;
    }
    return world_ids(data, shard, from, to, bytes, count);
}

/* Request ids that are not known yet are waited for: nothing is replaced before, no error is told, and then it is done.
 */
Test(compactor, request_ids_that_are_not_known_yet_are_waited_for)
{
    struct world *w = world_new(22);
    struct compactor_stats stats;

    world_close(w);
    w->compaction.ids = ids_later;
    world_reopen(w);
    busy_left = 2;
    world_work(w, 300);
    cr_assert(zero(int, world_flush(w)));
    for (unsigned i = 0; i < 2000 && busy_left > 0; i++) {
        w->now_ms += 100;
        if (compactor_turn(w->c, w->now_ms, false)) {
            compactor_run(w->c);
            cr_assert(zero(int, compactor_ran(w->c, w->now_ms, &w->msg)), "%s", w->msg.text);
        }
        compactor_stats(w->c, &stats);
        cr_assert(zero(u64, stats.segments_total));
    }
    cr_assert(zero(u32, busy_left));
    turns(w, 3000);
    compactor_stats(w->c, &stats);
    cr_assert(gt(u64, stats.segments_total, 0));
    cr_assert(eq(u64, stats.failed_total, 2));
    world_crash(w, FAKE_DISK_LOSE_ALL);
    world_reopen(w);
    world_free(w);
}

/* --- others go first ---------------------------------------------------------------------------------------------- */

/* One step of what compaction does; false: it does not want to now. */
static bool step(struct world *w)
{
    if (!compactor_turn(w->c, w->now_ms, false)) {
        return false;
    }
    compactor_run(w->c);
    (void)compactor_ran(w->c, w->now_ms, &w->msg);
    return true;
}

/* A job has begun, and its first piece is read. */
static struct world *world_compacting(void)
{
    struct world *w = world_new(23);

    world_work(w, 400);
    cr_assert(zero(int, world_flush(w)));
    w->now_ms += 1100;
    cr_assert(step(w));
    return w;
}

/* As much as makes compaction wait, appended and not flushed: it is never seen again. */
static void append_much(struct world *w)
{
    static const uint8_t body[1 << 20];
    struct journal_shard_state state;

    (void)journal_shard(w->j, 1, &state);
    for (uint64_t i = 1; i <= 5; i++) {
        struct record_header h = {.shard = 1,
                                  .kind = RECORD_PUT,
                                  .epoch = state.last.epoch,
                                  .index = state.last.index + i,
                                  .body_bytes = sizeof body};
        cr_assert(zero(int, journal_append(w->j, &h, body, NULL)));
    }
}

/* While much waits for the disk compaction stays off it, for half a second at most each time. */
Test(compactor, appends_go_first_but_not_for_ever)
{
    struct world *w = world_compacting();

    cr_assert(step(w)); /* the disk is idle: at once */
    append_much(w);
    for (unsigned i = 0; i < 4; i++) {
        cr_assert(not(step(w)), "after %u ms", i * 100);
        w->now_ms += 100;
    }
    w->now_ms += 100;
    cr_assert(step(w));
    cr_assert(not(step(w)));
    w->now_ms += 499;
    cr_assert(not(step(w)));
    w->now_ms += 1;
    cr_assert(step(w));
    world_crash(w, FAKE_DISK_LOSE_ALL);
    world_reopen(w);
    world_free(w);
}

/* Entries are appended, made durable and applied while a piece is being read or written, and what they replace is not
 * taken for live. */
Test(compactor, nobody_waits_for_a_piece)
{
    struct world *w = world_new(24);
    struct compactor_stats stats;
    unsigned between = 0;

    world_work(w, 400);
    cr_assert(zero(int, world_flush(w)));
    for (unsigned i = 0; i < 1500 && between < 300; i++) {
        bool runs;

        w->now_ms += 1100;
        runs = compactor_turn(w->c, w->now_ms, false);
        if (runs) {
            cr_assert(zero(int, world_append(w, i % WORLD_SHARDS, RECORD_PUT, 0, i % WORLD_IDS)));
            cr_assert(zero(int, world_flush(w)));
            between++;
            cr_assert(not(compactor_turn(w->c, w->now_ms, false)), "one piece at a time");
            compactor_run(w->c);
            cr_assert(zero(int, compactor_ran(w->c, w->now_ms, &w->msg)), "%s", w->msg.text);
        }
    }
    compactor_stats(w->c, &stats);
    cr_assert(gt(u64, stats.segments_total, 5));
    cr_assert(zero(u64, stats.failed_total));
    for (otr_shard i = 0; i < WORLD_SHARDS; i++) {
        world_check(w, i);
    }
    world_crash(w, FAKE_DISK_LOSE_ALL);
    world_reopen(w);
    world_free(w);
}

/* What was given to the stores and could not be given its name: nothing more is compacted before the next start, all
 * can be read and written, and then it goes on. */
Test(compactor, halts_when_there_is_no_way_back)
{
    struct world *w = world_compacting();
    struct compactor_stats stats;
    uint64_t replaced;

    for (unsigned i = 0; i < 1000 && w->c->phase != COMPACTOR_COMMIT; i++) {
        w->now_ms += 1100;
        if (compactor_turn(w->c, w->now_ms, false) && w->c->phase != COMPACTOR_COMMIT) {
            compactor_run(w->c);
            cr_assert(zero(int, compactor_ran(w->c, w->now_ms, &w->msg)));
        }
    }
    cr_assert(eq(int, w->c->phase, COMPACTOR_COMMIT));
    fake_disk_fail_call(w->disk, FAKE_DISK_RENAME, 1);
    compactor_run(w->c);
    cr_assert(eq(int, compactor_ran(w->c, w->now_ms, &w->msg), OTR_IO));
    cr_assert(strstr(w->msg.text, "before the next start") != NULL, "%s", w->msg.text);
    compactor_stats(w->c, &stats);
    cr_assert(stats.halted);
    replaced = stats.segments_total;
    world_work(w, 200);
    cr_assert(zero(int, world_flush(w)));
    cr_assert(zero(u32, world_compact(w, 1000)));
    for (otr_shard i = 0; i < WORLD_SHARDS; i++) {
        world_check(w, i);
    }
    world_close(w);
    world_reopen(w);
    cr_assert(gt(u32, world_compact(w, 1000), 0));
    compactor_stats(w->c, &stats);
    cr_assert(not(stats.halted));
    cr_assert(gt(u64, stats.segments_total, replaced));
    world_crash(w, FAKE_DISK_LOSE_ALL);
    world_reopen(w);
    world_free(w);
}
