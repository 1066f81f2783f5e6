#include "tests/unit/log/lab.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>

/* --- appending, flushing, opening again ----------------------------------------------------------------------------
 */

Test(journal, a_new_one_is_empty_and_stays_so)
{
    struct lab l;

    lab_init(&l, 0);
    cr_assert(journal_flush_begin(l.j) == NULL);
    cr_assert(eq(u64, lab_state(&l, 0).last.index, 0));
    lab_crash(&l, FAKE_DISK_LOSE_ALL);
    lab_reopen(&l);
    cr_assert(journal_flush_begin(l.j) == NULL);
    lab_close(&l);
}

Test(journal, what_was_flushed_is_there_after_a_crash)
{
    struct lab l;

    lab_init(&l, 0);
    lab_meta(&l, 1, 11, 1);
    for (int i = 0; i < 10; i++) {
        cr_assert(eq(int, lab_append(&l, 1, 1, 10), 0));
        cr_assert(eq(int, lab_append(&l, 2, 4, 2000), 0));
    }
    cr_assert(eq(int, lab_append_raw(&l, 1, 2, 5), 0));
    cr_assert(eq(u64, lab_state(&l, 1).durable_index, 0));
    cr_assert(eq(int, lab_flush(&l), 0));
    cr_assert(eq(u64, lab_state(&l, 1).durable_index, 15));
    cr_assert(eq(sz, journal_pending_bytes(l.j), 0));
    lab_append(&l, 1, 2, 10);
    cr_assert(gt(sz, journal_pending_bytes(l.j), 0));
    lab_crash(&l, FAKE_DISK_LOSE_ALL);
    lab_reopen(&l);
    cr_assert(eq(u64, lab_state(&l, 1).last.index, 15));
    cr_assert(eq(u64, lab_state(&l, 1).last.epoch, 2));
    cr_assert(eq(u64, lab_state(&l, 2).last.index, 10));
    lab_close(&l);
}

struct durable {
    otr_shard shard[8];
    uint64_t index[8];
    uint64_t metas[8];
    size_t count;
};

static void on_durable(void *data, otr_shard shard, uint64_t durable_index, uint64_t metas_durable)
{
    struct durable *d = data;

    d->shard[d->count] = shard;
    d->index[d->count] = durable_index;
    d->metas[d->count++] = metas_durable;
}

Test(journal, a_flush_tells_each_shard_what_is_durable)
{
    struct durable d = {0};
    struct journal_batch *b;
    struct lab l;

    lab_init(&l, 0);
    lab_append(&l, 3, 1, 0);
    lab_meta(&l, 3, 1, 1);
    lab_meta(&l, 3, 1, 2);
    lab_meta(&l, 0, 1, 1);
    b = journal_flush_begin(l.j);
    cr_assert(journal_flush_begin(l.j) == NULL);
    lab_append(&l, 3, 1, 0); /* in the next batch */
    lab_meta(&l, 3, 1, 3);
    journal_flush_run(b);
    cr_assert(eq(int, journal_flush_end(l.j, b, on_durable, &d, NULL), 0));
    cr_assert(eq(sz, d.count, 2));
    cr_assert(eq(u32, d.shard[0], 3));
    cr_assert(eq(u64, d.index[0], 1));
    cr_assert(eq(u64, d.metas[0], 2));
    cr_assert(eq(u64, journal_metas_written(l.j, 3), 3));
    cr_assert(eq(u32, d.shard[1], 0));
    cr_assert(eq(u64, d.index[1], 0));
    cr_assert(eq(u64, d.metas[1], 1));
    lab_close(&l);
}

/* An entry that was cut while it was on its way to the disk does not become durable there. */
Test(journal, a_cut_during_a_flush_limits_what_it_makes_durable)
{
    struct durable d = {0};
    struct journal_batch *b;
    struct lab l;

    lab_init(&l, 0);
    for (int i = 0; i < 5; i++) {
        lab_append(&l, 1, 1, 0);
    }
    b = journal_flush_begin(l.j);
    lab_cut(&l, 1, 3);
    lab_append(&l, 1, 2, 0); /* index 3 again */
    journal_flush_run(b);
    cr_assert(eq(int, journal_flush_end(l.j, b, on_durable, &d, NULL), 0));
    cr_assert(eq(u64, d.index[0], 2));
    cr_assert(eq(u64, lab_state(&l, 1).durable_index, 2));
    cr_assert(eq(int, lab_flush(&l), 0));
    cr_assert(eq(u64, lab_state(&l, 1).durable_index, 3));
    cr_assert(eq(u64, journal_epoch_at(l.j, 1, 3), 2));
    cr_assert(eq(u64, journal_epoch_at(l.j, 1, 2), 1));
    lab_crash(&l, FAKE_DISK_LOSE_ALL);
    lab_reopen(&l);
    cr_assert(eq(u64, lab_state(&l, 1).last.index, 3));
    lab_close(&l);
}

/* The batch that is on its way and the one that is being filled may both begin a segment. */
Test(journal, segments_begin_while_others_are_flushed)
{
    struct lab l;

    lab_init(&l, 100);
    for (int i = 0; i < 20; i++) {
        struct journal_batch *b;
        lab_append(&l, 1, 1, 400);
        b = journal_flush_begin(l.j);
        lab_append(&l, 1, 1, 400);
        journal_flush_run(b);
        cr_assert(eq(int, journal_flush_end(l.j, b, NULL, NULL, NULL), 0));
        cr_assert(eq(int, lab_flush(&l), 0));
    }
    lab_crash(&l, FAKE_DISK_LOSE_ALL);
    lab_reopen(&l);
    cr_assert(eq(u64, lab_state(&l, 1).last.index, 40));
    lab_close(&l);
}

Test(journal, a_cut_of_what_was_never_flushed)
{
    struct lab l;

    lab_init(&l, 0);
    lab_append(&l, 1, 1, 0);
    lab_append(&l, 1, 1, 0);
    cr_assert(eq(int, journal_cut(l.j, 1, 3), 0)); /* nothing there: nothing done */
    lab_cut(&l, 1, 1);
    cr_assert(eq(u64, lab_state(&l, 1).last.index, 0));
    cr_assert(eq(u64, lab_state(&l, 1).first.index, 0));
    lab_append(&l, 1, 2, 0);
    cr_assert(eq(int, lab_flush(&l), 0));
    cr_assert(eq(u64, lab_state(&l, 1).durable_index, 1));
    lab_crash(&l, FAKE_DISK_LOSE_ALL);
    lab_reopen(&l);
    cr_assert(eq(u64, lab_state(&l, 1).last.epoch, 2));
    lab_close(&l);
}

Test(journal, a_durable_entry_that_is_cut_is_durable_no_more)
{
    struct lab l;

    lab_init(&l, 0);
    lab_append(&l, 1, 1, 0);
    lab_append(&l, 1, 1, 0);
    lab_flush(&l);
    lab_cut(&l, 1, 2);
    cr_assert(eq(u64, lab_state(&l, 1).durable_index, 1));
    lab_append(&l, 1, 2, 0);
    cr_assert(eq(u64, lab_state(&l, 1).durable_index, 1));
    lab_close(&l);
}

Test(journal, the_newest_meta_wins_and_survives_segments)
{
    struct journal_meta meta = {.log_id = 5,
                                .promised = 6,
                                .seen_generation = 7,
                                .seen_epoch = 8,
                                .seen_version = 9,
                                .grant_ms_max = 120,
                                .committed_index = 1,
                                .applied_index = 2,
                                .engine_data_id = "data"};
    struct journal_shard_state s;
    struct lab l;

    lab_init(&l, 4096);
    lab_meta(&l, 2, 1, 1);
    lab_flush(&l);
    cr_assert(eq(int, journal_meta_write(l.j, 2, &meta), 0));
    lab_flush(&l);
    for (int i = 0; i < 20; i++) { /* many segments */
        lab_append(&l, 1, 1, 1000);
        lab_flush(&l);
    }
    lab_kill(&l);
    cr_assert(eq(int, lab_open(&l), 0));
    s = lab_state(&l, 2);
    cr_assert(eq(u64, s.meta.log_id, 5));
    cr_assert(eq(u64, s.meta.promised, 6));
    cr_assert(eq(u64, s.meta.seen_generation, 7));
    cr_assert(eq(u64, s.meta.seen_epoch, 8));
    cr_assert(eq(u64, s.meta.seen_version, 9));
    cr_assert(eq(u64, s.meta.grant_ms_max, 120));
    cr_assert(eq(u64, s.meta.committed_index, 1));
    cr_assert(eq(u64, s.meta.applied_index, 2));
    cr_assert(eq(str, s.meta.engine_data_id, "data"));
    lab_close(&l);
}

static void count_shard(otr_shard shard, void *data)
{
    otr_shard *seen = data;

    seen[++seen[0]] = shard;
}

Test(journal, shards_with_a_log_id_are_listed)
{
    otr_shard seen[8] = {0};
    struct lab l;

    lab_init(&l, 0);
    lab_append(&l, 0, 1, 0);
    lab_meta(&l, 3, 1, 1);
    lab_meta(&l, 1, 1, 1);
    journal_shards(l.j, count_shard, seen);
    cr_assert(eq(u32, seen[0], 2));
    cr_assert(eq(u32, seen[1], 1));
    cr_assert(eq(u32, seen[2], 3));
    lab_close(&l);
}

/* --- seeds ----------------------------------------------------------------------------------------------------------
 */

Test(journal, a_seed_without_its_end_holds_nothing)
{
    struct lab l;

    lab_init(&l, 0);
    for (int i = 0; i < 5; i++) {
        lab_append(&l, 1, 1, 0);
    }
    lab_flush(&l);
    lab_seed_begin(&l, 1, 99);
    cr_assert(eq(u64, lab_state(&l, 1).durable_index, 0));
    lab_seed_points(&l, 1);
    lab_flush(&l);
    lab_crash(&l, FAKE_DISK_LOSE_ALL);
    lab_reopen(&l);
    cr_assert(lab_state(&l, 1).seed_unfinished);
    cr_assert(eq(u64, lab_state(&l, 1).last.index, 0));
    cr_assert(eq(u64, lab_state(&l, 1).meta.log_id, 99));
    lab_close(&l);
}

Test(journal, after_a_seed_the_log_goes_on_behind_its_base)
{
    struct durable d = {0};
    struct journal_batch *b;
    struct lab l;

    lab_init(&l, 0);
    for (int i = 0; i < 5; i++) {
        lab_append(&l, 1, 1, 0);
    }
    b = journal_flush_begin(l.j);
    lab_seed_begin(&l, 1, 99);
    lab_seed_points(&l, 1);
    journal_flush_run(b);
    cr_assert(eq(int, journal_flush_end(l.j, b, on_durable, &d, NULL), 0));
    cr_assert(eq(u64, d.index[0], 0)); /* what it wrote is forgotten */
    lab_seed_end(&l, 1, (struct otr_position){7, 1000});
    cr_assert(eq(u64, lab_state(&l, 1).last.index, 1000));
    cr_assert(eq(u64, lab_state(&l, 1).durable_index, 0));
    lab_append(&l, 1, 8, 0);
    cr_assert(eq(int, lab_flush(&l), 0));
    cr_assert(eq(u64, lab_state(&l, 1).durable_index, 1001));
    lab_crash(&l, FAKE_DISK_LOSE_ALL);
    lab_reopen(&l);
    cr_assert(eq(u64, lab_state(&l, 1).base.index, 1000));
    cr_assert(eq(u64, lab_state(&l, 1).first.index, 1001));
    cr_assert(eq(u64, journal_epoch_at(l.j, 1, 1000), 7));
    cr_assert(eq(u64, journal_epoch_at(l.j, 1, 999), 0));
    lab_close(&l);
}

/* --- refusals -------------------------------------------------------------------------------------------------------
 */

Test(journal, another_nodes_directory_is_refused)
{
    struct lab l;

    lab_init(&l, 0);
    lab_kill(&l);
    l.config.identity = "test/node-2";
    cr_assert(eq(int, lab_open(&l), OTR_INVALID));
    cr_assert(strstr(l.msg.text, "\"test/node-1\"") != NULL, "%s", l.msg.text);
    cr_assert(strstr(l.msg.text, "\"test/node-2\"") != NULL, "%s", l.msg.text);
    l.config.identity = "test/node-1";
    cr_assert(eq(int, lab_open(&l), 0));
    lab_close(&l);
}

Test(journal, raw_entries_that_do_not_follow_are_refused)
{
    uint8_t records[2 * RECORD_HEADER_BYTES];
    struct record_header h = {.shard = 1, .epoch = 1, .kind = RECORD_EPOCH, .index = 1};
    struct lab l;

    lab_init(&l, 0);
    record_seal(records, &h);
    h.index = 3;
    record_seal(records + RECORD_HEADER_BYTES, &h);
    cr_assert(eq(int, journal_append_raw(l.j, 1, records, sizeof records), OTR_CORRUPT)); /* a gap */
    cr_assert(eq(int, journal_append_raw(l.j, 2, records, RECORD_HEADER_BYTES), OTR_CORRUPT));
    cr_assert(eq(int, journal_append_raw(l.j, 1, records, RECORD_HEADER_BYTES - 1), OTR_CORRUPT));
    h.index = 2;
    h.kind = RECORD_CUT; /* local: no peer may send it */
    record_seal(records + RECORD_HEADER_BYTES, &h);
    cr_assert(eq(int, journal_append_raw(l.j, 1, records, sizeof records), OTR_CORRUPT));
    cr_assert(eq(u64, lab_state(&l, 1).last.index, 0));
    cr_assert(eq(int, journal_append_raw(l.j, 1, records, RECORD_HEADER_BYTES), 0));
    cr_assert(eq(u64, lab_state(&l, 1).last.index, 1));
    lab_close(&l);
}

Test(journal, an_entry_out_of_order_stops_the_process, .signal = SIGABRT)
{
    struct record_header h = {.shard = 1, .epoch = 1, .kind = RECORD_EPOCH, .index = 2};
    struct lab l;

    lab_init(&l, 0);
    (void)journal_append(l.j, &h, NULL, NULL);
}

Test(journal, too_much_pending_is_refused_but_for_small_local_records)
{
    struct record_header h = {.shard = 1, .epoch = 1, .kind = RECORD_PUT, .body_bytes = OTR_BODY_MAX};
    uint8_t *body = calloc(1, OTR_BODY_MAX);
    int rv = 0;
    struct lab l;

    lab_init(&l, 0);
    h.index = 1;
    for (uint32_t bytes = OTR_BODY_MAX; bytes > 0; bytes /= 1000) { /* fills it to the brim */
        h.body_bytes = bytes;
        for (rv = 0; rv == 0; h.index += rv == 0) {
            rv = journal_append(l.j, &h, body, NULL);
            cr_assert(lt(u64, h.index, 10000));
        }
        cr_assert(eq(int, rv, OTR_BUSY));
        cr_assert(eq(u64, lab_state(&l, 1).last.index, h.index - 1));
    }
    cr_assert(eq(int, lab_meta(&l, 1, 1, 1), 0));
    cr_assert(eq(int, journal_cut(l.j, 1, 1), 0));
    cr_assert(eq(int, lab_flush(&l), 0));
    h.index = 1;
    cr_assert(eq(int, journal_append(l.j, &h, body, NULL), 0));
    free(body);
    lab_close(&l);
}

/* --- figures --------------------------------------------------------------------------------------------------------
 */

Test(journal, its_figures_are_those_of_the_disk)
{
    struct journal_stats stats;
    struct lab l;
    size_t segments = 0;

    lab_init(&l, 4096);
    for (int i = 0; i < 100; i++) {
        cr_assert(eq(int, lab_append(&l, 1, 1, 300), 0));
        if (i < 80 && i % 10 == 9) {
            cr_assert(eq(int, lab_flush(&l), 0));
        }
    }
    journal_stats(l.j, &stats);
    cr_assert(eq(sz, stats.pending_bytes, journal_pending_bytes(l.j)));
    cr_assert(gt(sz, stats.pending_bytes, 20 * 300));
    cr_assert(lt(sz, stats.pending_bytes, 40 * 300));
    cr_assert(ge(sz, stats.tail_bytes, stats.pending_bytes)); /* What is not durable is in memory. */
    while (journal_pending_bytes(l.j) > 0) {
        cr_assert(eq(int, lab_flush(&l), 0));
    }
    journal_stats(l.j, &stats);
    for (unsigned i = 0; i < 100; i++) {
        char name[16];

        snprintf(name, sizeof name, "%08u.log", i);
        segments += fake_disk_exists(l.disk, name);
    }
    cr_assert(zero(sz, stats.pending_bytes));
    cr_assert(eq(u64, stats.bytes, fake_disk_used(l.disk)));
    cr_assert(gt(sz, stats.segments, 5));
    cr_assert(eq(sz, stats.segments, segments));
    /* And after a start, too. */
    lab_kill(&l);
    lab_reopen(&l);
    journal_stats(l.j, &stats);
    cr_assert(eq(u64, stats.bytes, fake_disk_used(l.disk)));
    lab_close(&l);
}

/* The number of a meta is that of which a flush later says that it is durable. */
Test(journal, metas_are_counted_as_they_are_written)
{
    struct lab l;

    lab_init(&l, 0);
    cr_assert(eq(u64, journal_metas_written(l.j, 1), 0)); /* a shard that it does not know */
    cr_assert(eq(int, lab_meta(&l, 1, 7, 1), 0));
    cr_assert(eq(int, lab_meta(&l, 1, 7, 2), 0));
    cr_assert(eq(u64, journal_metas_written(l.j, 1), 2));
    cr_assert(eq(int, lab_seed_begin(&l, 1, 8), 0));
    cr_assert(eq(int, lab_seed_end(&l, 1, (struct otr_position){.epoch = 1, .index = 5}), 0));
    cr_assert(eq(u64, journal_metas_written(l.j, 1), 4));
    cr_assert(eq(u64, journal_metas_written(l.j, 2), 0));
    lab_close(&l);
}

Test(journal, an_identity_that_does_not_fit_is_refused)
{
    char identity[5000];
    struct journal_config config;
    struct journal *j = NULL;
    struct lab l;

    lab_init(&l, 0);
    config = l.config;
    memset(identity, 'i', sizeof identity - 1);
    identity[sizeof identity - 1] = '\0';
    config.identity = identity;
    cr_assert(eq(int, journal_open(&j, &config, NULL, NULL, &l.msg), OTR_INVALID));
    cr_assert(strstr(l.msg.text, "open journal: the identity \"iii") == l.msg.text, "%s", l.msg.text);
    cr_assert(zero(ptr, j));
    lab_close(&l);
}

/* --- memory ---------------------------------------------------------------------------------------------------------
 */

/* An entry costs its place and little more; the bytes themselves leave memory once they are durable. */
Test(journal, a_hundred_thousand_entries_cost_little_memory)
{
    struct record_header h = {.shard = 1, .epoch = 1, .kind = RECORD_EPOCH};
    struct lab l;
    size_t used;
    double each;

    lab_init(&l, 0);
    for (h.index = 1; h.index <= 100000; h.index++) {
        cr_assert(eq(int, journal_append(l.j, &h, NULL, NULL), 0));
        if (h.index % 1000 == 0) {
            cr_assert(eq(int, lab_flush(&l), 0));
        }
    }
    used = mallinfo2().uordblks + mallinfo2().hblkhd;
    journal_close(l.j);
    each = (double)(used - mallinfo2().uordblks - mallinfo2().hblkhd) / 100000;
    cr_assert(lt(dbl, each, 12.0), "%.1f bytes an entry", each);
    /* The same after a restart. */
    cr_assert(eq(int, journal_open(&l.j, &l.config, NULL, NULL, &l.msg), 0));
    cr_assert(eq(u64, lab_state(&l, 1).last.index, 100000));
    used = mallinfo2().uordblks + mallinfo2().hblkhd;
    journal_close(l.j);
    each = (double)(used - mallinfo2().uordblks - mallinfo2().hblkhd) / 100000;
    cr_assert(lt(dbl, each, 12.0), "%.1f bytes an entry", each);
    l.j = NULL;
    lab_close(&l);
}
