#include "tests/unit/log/lab.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

/* The lab goes on with a copy of `disk`, and the list of operations, as they were. */
static void use_copy(struct lab *l, const struct fake_disk *disk, const struct lab_op *ops, size_t count)
{
    fake_disk_free(l->disk);
    l->disk = fake_disk_clone(disk);
    memcpy(l->ops, ops, count * sizeof *ops);
    l->count = count;
}

/* A journal whose last batch has several records of several shards; closed. *start is where that batch begins. */
static void two_batches(struct lab *l, char name[16], uint64_t *start)
{
    lab_init(l, 0);
    lab_last_segment(l, name);
    lab_meta(l, 1, 5, 1);
    lab_append(l, 1, 1, 20);
    lab_append(l, 2, 1, 100);
    cr_assert(eq(int, lab_flush(l), 0));
    *start = fake_disk_size(l->disk, name);
    lab_append(l, 1, 1, 33);
    lab_cut(l, 2, 1);
    lab_append_raw(l, 2, 2, 3);
    lab_meta(l, 1, 5, 2);
    lab_append(l, 3, 7, 300);
    cr_assert(eq(int, lab_flush(l), 0));
    lab_kill(l);
}

/* What nobody was told of may be cut anywhere: what stands before is whole, and the journal goes on from there. */
Test(journal_crash, a_tail_torn_at_any_byte_is_cut)
{
    struct fake_disk *disk;
    uint64_t start;
    uint64_t end;
    char name[16];
    struct lab_op ops[16];
    struct lab l;
    size_t count;

    two_batches(&l, name, &start);
    disk = fake_disk_clone(l.disk);
    end = fake_disk_size(disk, name);
    count = l.count;
    memcpy(ops, l.ops, count * sizeof *ops);
    for (uint64_t at = start; at <= end; at++) {
        use_copy(&l, disk, ops, count);
        l.acked = at == end ? count : 3;
        fake_disk_cut(l.disk, name, at);
        lab_reopen(&l);
        lab_append(&l, 3, 9, 5);
        cr_assert(eq(int, lab_flush(&l), 0));
        lab_crash(&l, FAKE_DISK_LOSE_ALL);
        lab_reopen(&l);
        journal_close(l.j);
        l.j = NULL;
    }
    fake_disk_free(disk);
    lab_close(&l);
}

/* The file has its length, but from some byte on not its bytes. */
Test(journal_crash, a_tail_of_garbage_is_cut)
{
    struct fake_disk *disk;
    uint8_t garbage[4096];
    uint64_t start;
    uint64_t end;
    uint64_t rng = 4;
    char name[16];
    struct lab_op ops[16];
    struct lab l;
    size_t count;

    two_batches(&l, name, &start);
    disk = fake_disk_clone(l.disk);
    end = fake_disk_size(disk, name);
    cr_assert(lt(u64, end - start, sizeof garbage));
    count = l.count;
    memcpy(ops, l.ops, count * sizeof *ops);
    for (uint64_t at = start; at < end; at++) {
        for (size_t i = 0; i < sizeof garbage; i++) {
            garbage[i] = at % 2 == 0 ? 0 : (uint8_t)fake_disk_random(&rng);
        }
        use_copy(&l, disk, ops, count);
        l.acked = 3;
        fake_disk_poke(l.disk, name, at, garbage, end - at);
        lab_reopen(&l);
        lab_kill(&l);
    }
    fake_disk_free(disk);
    lab_close(&l);
}

/* Crash in every stage of a flush that carries a cut and what follows it. */
Test(journal_crash, a_cut_is_crash_safe_at_every_stage)
{
    static const enum fake_disk_loss losses[] = {FAKE_DISK_LOSE_ALL, FAKE_DISK_KEEP_ALL, FAKE_DISK_PREFIX,
                                                 FAKE_DISK_SECTORS, FAKE_DISK_GARBAGE};

    for (unsigned run = 0; run < 300; run++) {
        struct lab l;
        lab_init(&l, run % 2 == 0 ? 0 : 2048);
        l.rng = run;
        for (int i = 0; i < 6; i++) {
            lab_append(&l, 1, 1, 200);
        }
        lab_flush(&l);
        lab_cut(&l, 1, 3);
        lab_append_raw(&l, 1, 2, 4);
        if (run % 3 > 0) {
            struct journal_batch *b = journal_flush_begin(l.j);
            journal_flush_run(b);
            if (run % 3 == 1) {
                /* Durable, but nobody was told. */
                cr_assert(eq(int, journal_flush_end(l.j, b, NULL, NULL, NULL), 0));
            } else {
                cr_assert(eq(int, journal_flush_end(l.j, b, NULL, NULL, NULL), 0));
                l.acked = l.count;
            }
        }
        lab_crash(&l, losses[run / 3 % 5]);
        lab_reopen(&l);
        lab_append(&l, 1, 3, 0);
        cr_assert(eq(int, lab_flush(&l), 0));
        lab_crash(&l, FAKE_DISK_LOSE_ALL);
        lab_reopen(&l);
        lab_close(&l);
    }
}

/* Flushes; with some luck the machine stops on the way. False: it did. */
static bool flush_or_die(struct lab *l, unsigned die)
{
    struct journal_batch *b;
    size_t count = l->count;
    int rv;

    if (die == 0) {
        return lab_flush(l) == 0;
    }
    b = journal_flush_begin(l->j);
    if (b == NULL) {
        return true;
    }
    /* A call fails because the machine stops there. */
    fake_disk_fail_call(l->disk, FAKE_DISK_ANY, die);
    journal_flush_run(b);
    fake_disk_crash(l->disk, &l->rng);
    rv = journal_flush_end(l->j, b, NULL, NULL, NULL);
    if (rv == 0) {
        l->acked = count;
    }
    return false;
}

/* Random histories: appends, cuts, seeds, metas over several shards and many small segments, with crashes anywhere,
 * machine or process, and more of them while recovering. */
Test(journal_crash, random_histories_never_lose_what_was_acknowledged, .timeout = 120)
{
    for (uint64_t seed = 1; seed <= 250; seed++) {
        struct lab l;
        lab_init(&l, seed % 3 == 0 ? 0 : 3000);
        l.rng = seed;
        for (int life = 0; life < 8; life++) {
            unsigned steps = (unsigned)(fake_disk_random(&l.rng) % 40);
            bool alive = true;
            for (unsigned i = 0; i < steps && alive; i++) {
                cr_assert(eq(int, lab_step(&l), 0));
                if (fake_disk_random(&l.rng) % 4 == 0) {
                    alive = flush_or_die(&l, fake_disk_random(&l.rng) % 8 == 0 ? 1 + l.rng % 5 : 0);
                }
            }
            for (otr_shard i = 0; i < LAB_SHARDS && alive; i++) {
                lab_read_all(&l, i);
            }
            if (alive) {
                fake_disk_crash(l.disk, &l.rng);
            }
            journal_close(l.j);
            l.maybe_damaged = true; /* a call that failed may have left FAILED behind */
            while (fake_disk_random(&l.rng) % 3 == 0) {
                fake_disk_fail_call(l.disk, FAKE_DISK_ANY, 1 + fake_disk_random(&l.rng) % 20);
                if (lab_open(&l) == 0) {
                    journal_close(l.j);
                }
                l.j = NULL;
                fake_disk_crash(l.disk, &l.rng);
            }
            lab_reopen(&l);
        }
        lab_close(&l);
    }
}

/* Between process and machine: what the page cache showed after a kill must be on the disk once the journal is open, or
 * it would be acknowledged and then lost. */
Test(journal_crash, what_recovery_shows_survives_the_next_crash)
{
    for (uint64_t segment_bytes = 0; segment_bytes <= 600; segment_bytes += 600) {
        struct journal_batch *b;
        unsigned segments;
        char name[16];
        struct lab l;
        lab_init(&l, segment_bytes);
        for (int i = 0; i < 3; i++) {
            lab_append(&l, 1, 1, 400);
            lab_flush(&l);
        }
        lab_append(&l, 1, 1, 10);
        b = journal_flush_begin(l.j);
        fake_disk_fail_call(l.disk, FAKE_DISK_SYNC, 1);
        journal_flush_run(b);
        cr_assert(eq(int, journal_flush_end(l.j, b, NULL, NULL, NULL), OTR_IO));
        lab_kill(&l);
        l.maybe_damaged = true;
        lab_reopen(&l);
        cr_assert(eq(u64, lab_state(&l, 1).last.index, 4)); /* The cache had it. */
        segments = lab_last_segment(&l, name);
        lab_crash(&l, FAKE_DISK_LOSE_ALL);
        lab_reopen(&l);
        cr_assert(eq(u64, lab_state(&l, 1).last.index, 4));
        cr_assert(eq(u32, lab_last_segment(&l, name), segments)); /* No new damage was found. */
        lab_close(&l);
    }
}

/* The same for a new segment's name: its bytes were synced, its directory was not. */
Test(journal_crash, a_segment_that_recovery_shows_keeps_its_name)
{
    struct journal_batch *b;
    struct file *f;
    struct lab l;

    lab_init(&l, 100);
    lab_append(&l, 1, 1, 400);
    lab_flush(&l);
    lab_append(&l, 1, 1, 400);
    b = journal_flush_begin(l.j);
    /* A marker that is there already: leaving it would sync the directory. */
    cr_assert(eq(int, l.config.fs->ops->open(l.config.fs, "FAILED", FILE_CREATE, &f, NULL), 0));
    l.config.fs->ops->close(f);
    fake_disk_fail_call(l.disk, FAKE_DISK_SYNC_DIR, 1);
    journal_flush_run(b);
    cr_assert(eq(int, journal_flush_end(l.j, b, NULL, NULL, NULL), OTR_IO));
    lab_kill(&l);
    cr_assert(eq(int, l.config.fs->ops->remove(l.config.fs, "FAILED", NULL), 0)); /* or a new segment is begun */
    lab_reopen(&l);
    cr_assert(eq(u64, lab_state(&l, 1).last.index, 2));
    lab_crash(&l, FAKE_DISK_LOSE_ALL);
    lab_reopen(&l);
    cr_assert(eq(u64, lab_state(&l, 1).last.index, 2));
    lab_close(&l);
}

/* A sync that fails while recovering may lose the truncation, and the next start must not believe in it. */
Test(journal_crash, a_torn_tail_is_cut_for_good)
{
    uint64_t start;
    char name[16];
    struct lab l;

    two_batches(&l, name, &start);
    l.acked = 3;
    fake_disk_cut(l.disk, name, fake_disk_size(l.disk, name) - 9);
    fake_disk_fail_call(l.disk, FAKE_DISK_SYNC, 1);
    cr_assert(eq(int, lab_open(&l), OTR_IO));
    fake_disk_crash_as(l.disk, FAKE_DISK_KEEP_ALL, &l.rng);
    lab_reopen(&l);
    start = fake_disk_size(l.disk, name);
    lab_crash(&l, FAKE_DISK_LOSE_ALL);
    cr_assert(eq(u64, fake_disk_size(l.disk, name), start));
    lab_close(&l);
}

/* The METAs at the start of a segment must all be there: where they were torn, the next batch begins another one. */
Test(journal_crash, a_segment_whose_first_batch_was_torn_is_left)
{
    char name[16];
    unsigned segments;
    struct lab l;

    lab_init(&l, 100);
    lab_meta(&l, 1, 1, 1);
    lab_meta(&l, 2, 1, 1);
    lab_flush(&l);
    l.config.segment_bytes = 1 << 20;
    lab_append(&l, 1, 1, 0);
    lab_flush(&l);
    lab_kill(&l);
    segments = lab_last_segment(&l, name);
    l.acked = 2;
    fake_disk_cut(l.disk, name, fake_disk_size(l.disk, name) - 9);
    lab_reopen(&l);
    lab_append(&l, 1, 1, 0);
    lab_flush(&l);
    cr_assert(eq(u32, lab_last_segment(&l, name), segments + 1));
    lab_append(&l, 1, 1, 0);
    lab_flush(&l);
    cr_assert(eq(u32, lab_last_segment(&l, name), segments + 1));
    lab_close(&l);
}

/* --- calls that fail
 * -------------------------------------------------------------------------------------------------- */

/* What a process does in its life, as far as it gets. */
static void live(struct lab *l)
{
    if (lab_open(l) != 0) {
        return;
    }
    for (int i = 0; i < 12; i++) {
        otr_shard shard = (otr_shard)i % 3;
        int rv = lab_append(l, shard, 1 + lab_state(l, shard).last.epoch, 300);
        cr_assert(rv == 0 || rv == OTR_IO);
        if (i % 3 == 2) {
            rv = lab_flush(l);
            cr_assert(eq(int, journal_failed(l->j), rv != 0));
        }
    }
}

/* Every call fails once, of every kind: the journal says so, leaks nothing (fake_disk_free checks), and what it had
 * acknowledged is there afterwards. */
Test(journal_crash, any_call_may_fail)
{
    static const enum fake_disk_loss losses[] = {FAKE_DISK_LOSE_ALL, FAKE_DISK_KEEP_ALL, FAKE_DISK_GARBAGE};

    for (unsigned mode = 0; mode < 3; mode++) {
        bool met = true;
        for (uint64_t n = 1; met; n++) {
            struct lab l;
            lab_init(&l, 2000);
            lab_append(&l, 1, 1, 100);
            lab_flush(&l);
            lab_kill(&l);
            l.maybe_damaged = true;
            fake_disk_fail_call(l.disk, FAKE_DISK_ANY, n);
            live(&l);
            met = !fake_disk_fail_pending(l.disk);
            fake_disk_crash_as(l.disk, losses[mode], &l.rng);
            if (l.j != NULL) {
                journal_close(l.j);
            }
            lab_reopen(&l);
            lab_close(&l);
            cr_assert(lt(u64, n, 1000));
        }
    }
}

Test(journal_crash, after_a_failed_sync_nothing_becomes_durable_and_the_next_start_knows)
{
    struct journal_meta meta = {.log_id = 6};
    struct journal_batch *b;
    struct lab l;

    lab_init(&l, 0);
    lab_meta(&l, 1, 5, 1);
    lab_meta(&l, 2, 5, 1);
    lab_append(&l, 1, 1, 0);
    lab_flush(&l);
    lab_append(&l, 1, 1, 0);
    b = journal_flush_begin(l.j);
    fake_disk_fail_call(l.disk, FAKE_DISK_SYNC, 1);
    journal_flush_run(b);
    cr_assert(eq(int, journal_flush_end(l.j, b, NULL, NULL, &l.msg), OTR_IO));
    cr_assert(journal_failed(l.j));
    cr_assert(eq(u64, lab_state(&l, 1).durable_index, 1));
    cr_assert(eq(int, lab_append(&l, 1, 1, 0), OTR_IO));
    cr_assert(eq(int, lab_meta(&l, 1, 1, 1), OTR_IO));
    cr_assert(journal_flush_begin(l.j) == NULL);
    cr_assert(fake_disk_exists(l.disk, "FAILED"));
    lab_crash(&l, FAKE_DISK_LOSE_ALL);

    l.maybe_damaged = true;
    lab_reopen(&l);
    cr_assert(lab_state(&l, 1).damaged && lab_state(&l, 2).damaged);
    cr_assert(not(fake_disk_exists(l.disk, "FAILED")));
    /* Only a new log id ends it, for its own shard, for good. */
    lab_meta(&l, 2, 5, 9);
    cr_assert(lab_state(&l, 2).damaged);
    cr_assert(eq(int, journal_meta_write(l.j, 1, &meta), 0));
    cr_assert(not(lab_state(&l, 1).damaged));
    lab_flush(&l);
    lab_crash(&l, FAKE_DISK_LOSE_ALL);
    cr_assert(eq(int, lab_open(&l), 0));
    cr_assert(not(lab_state(&l, 1).damaged));
    cr_assert(lab_state(&l, 2).damaged);
    lab_close(&l);
}

/* --- a full disk
 * -------------------------------------------------------------------------------------------------------- */

Test(journal_crash, a_full_disk_loses_and_doubles_nothing)
{
    for (uint64_t room = 0; room < 3000; room += 40) {
        struct lab l;
        int rv;
        lab_init(&l, 1500);
        lab_append(&l, 1, 1, 500);
        lab_flush(&l);
        fake_disk_set_capacity(l.disk, fake_disk_used(l.disk) + room);
        for (int i = 0; i < 10; i++) {
            cr_assert(eq(int, lab_append(&l, (otr_shard)i % 3, 1, 300), 0));
            rv = lab_flush(&l);
            cr_assert(rv == 0 || rv == OTR_NOSPACE);
            if (i == 6) {
                lab_cut(&l, 1, 2); /* while batches wait for space */
            }
        }
        cr_assert(eq(int, rv, OTR_NOSPACE));
        cr_assert(eq(int, lab_flush(&l), OTR_NOSPACE));
        cr_assert(not(journal_failed(l.j)));
        if (room % 80 == 0) { /* Space returns. */
            fake_disk_set_capacity(l.disk, UINT64_MAX);
            cr_assert(eq(int, lab_flush(&l), 0)); /* the batch that waited */
            cr_assert(eq(int, lab_flush(&l), 0)); /* what was appended since */
            cr_assert(eq(sz, l.acked, l.count));
            cr_assert(eq(u64, lab_state(&l, 2).durable_index, lab_state(&l, 2).last.index));
        }
        lab_crash(&l, room % 3 == 0 ? FAKE_DISK_LOSE_ALL : FAKE_DISK_KEEP_ALL);
        fake_disk_set_capacity(l.disk, UINT64_MAX);
        lab_reopen(&l);
        lab_close(&l);
    }
}

Test(journal_crash, while_the_disk_is_full_appends_are_refused_at_last)
{
    struct record_header epoch = {.kind = RECORD_EPOCH, .shard = 2};
    uint64_t used;
    int rv = 0;
    struct lab l;

    lab_init(&l, 0);
    used = fake_disk_used(l.disk);
    fake_disk_set_capacity(l.disk, used + 5000);
    lab_append(&l, 1, 1, 60000);
    cr_assert(eq(int, lab_flush(&l), OTR_NOSPACE));
    cr_assert(eq(u64, fake_disk_used(l.disk), used)); /* nothing half written is left */
    for (int i = 0; i < 1000 && rv == 0; i++) {
        rv = lab_append(&l, 1, 1, 60000);
    }
    cr_assert(eq(int, rv, OTR_NOSPACE));
    cr_assert(lt(sz, journal_pending_bytes(l.j), 17 << 20));
    cr_assert(eq(int, lab_meta(&l, 1, 1, 1), 0)); /* small and needed: still taken */
    epoch.epoch = lab_state(&l, 2).last.epoch + 1;
    epoch.index = lab_state(&l, 2).last.index + 1;
    cr_assert(eq(int, journal_append(l.j, &epoch, NULL, NULL), 0)); /* likewise */
    fake_disk_set_capacity(l.disk, UINT64_MAX);
    cr_assert(eq(int, lab_flush(&l), 0));
    cr_assert(eq(int, lab_append(&l, 1, 1, 60000), 0));
    lab_close(&l);
}
