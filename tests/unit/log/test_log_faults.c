/* Everything that the log does in one life, and every call to the disk fails once: each call of ours ends in success or
 * in an error with words, no file stays open, and nothing that was acknowledged is lost. */
#include "sidecar/log/journal_format.h"
#include "sidecar/log/journal_internal.h"
#include "tests/unit/log/world.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

enum { RESERVE_BYTES = 100000, TURNS = 300 };

/* Under AddressSanitizer a life takes twenty times as long: there every sixth call fails, another sixth in each test.
 */
#ifdef __SANITIZE_ADDRESS__
enum { STEP = 6 };
#else
enum { STEP = 1 };
#endif

/* What a life has got done, if it lasted. */
struct deeds {
    unsigned entries, sealed, replaced, reserves_made, reserves_used, scrubbed, damages, seeded, cut, recovered;
};

static void check_words(struct world *w, int rv)
{
    cr_assert(eq(int, rv != 0, w->msg.text[0] != '\0'), "%s: %s", otr_errname(rv), w->msg.text);
}

static bool flush(struct world *w, struct deeds *deeds)
{
    int rv;

    w->msg.text[0] = '\0';
    rv = world_flush(w);
    if (journal_failed(w->j)) {
        return false;
    }
    check_words(w, rv);
    deeds->entries += rv == 0;
    return rv == 0;
}

/* Turns of the compactor, each with an end that says so. */
static void compact(struct world *w, bool pressed, struct deeds *deeds)
{
    struct compactor_stats before;
    struct compactor_stats after;

    compactor_stats(w->c, &before);
    for (unsigned i = 0; i < TURNS; i++) {
        bool had = w->j->reserve;

        w->now_ms += 1100;
        if (compactor_turn(w->c, w->now_ms, pressed)) {
            compactor_run(w->c);
            w->msg.text[0] = '\0';
            check_words(w, compactor_ran(w->c, w->now_ms, &w->msg));
        }
        deeds->reserves_made += !had && w->j->reserve;
        deeds->reserves_used += had && !w->j->reserve;
    }
    compactor_stats(w->c, &after);
    deeds->replaced += (unsigned)(after.segments_total - before.segments_total);
}

static void on_damage(void *data, otr_shard shard, journal_place place)
{
    (void)place;
    cr_assert(lt(u32, shard, WORLD_SHARDS));
    ((struct deeds *)data)->damages++;
}

static void scrub(struct world *w, struct deeds *deeds)
{
    struct journal_scrub *s = journal_scrub_new(w->j);

    while (journal_scrub_begin(s, 2000)) {
        journal_scrub_run(s);
        deeds->scrubbed += journal_scrub_end(s, on_damage, deeds) > 0;
    }
    journal_scrub_free(s);
}

static void write_some(struct world *w, unsigned count, struct deeds *deeds)
{
    world_work(w, count);
    (void)flush(w, deeds);
    deeds->sealed = (unsigned)w->j->segments.count;
}

/* The disk fills up; compaction makes room out of its reserve, or whoever runs the machine does. */
static void fill_up(struct world *w, struct deeds *deeds)
{
    fake_disk_set_capacity(w->disk, world_used(w) + 100);
    (void)world_append(w, 1, RECORD_PUT, 0, 1);
    (void)flush(w, deeds);
    compact(w, true, deeds);
    (void)flush(w, deeds);
    fake_disk_set_capacity(w->disk, UINT64_MAX);
    (void)flush(w, deeds);
}

/* False: the journal cannot be opened while that call fails, and says why. */
static bool start(struct world *w, struct deeds *deeds)
{
    w->msg.text[0] = '\0';
    if (world_open(w) != 0) {
        cr_assert(w->j == NULL && w->msg.text[0] != '\0');
        return false;
    }
    world_recovered(w);
    deeds->recovered++;
    return true;
}

static void replace(struct world *w, struct deeds *deeds)
{
    w->held = true; /* what is cut was not committed */
    write_some(w, 12, deeds);
    world_cut(w, 2);
    w->held = false;
    deeds->cut += flush(w, deeds);
    if (journal_failed(w->j)) {
        return;
    }
    world_seed(w, 0);
    deeds->seeded += flush(w, deeds);
}

static void write_much(struct world *w, struct deeds *deeds)
{
    write_some(w, 150, deeds);
}

static void compact_all(struct world *w, struct deeds *deeds)
{
    compact(w, false, deeds);
}

/* A log that has failed is used no more: the process ends and starts again (PROTOCOL E4). */
static void live(struct world *w, struct deeds *deeds)
{
    static void (*const steps[])(struct world * w, struct deeds * deeds) = {
        write_much, compact_all, scrub, replace, write_much, fill_up, compact_all, scrub, write_much};

    if (!start(w, deeds)) {
        return;
    }
    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && !journal_failed(w->j); i++) {
        steps[i](w, deeds);
    }
    world_close(w);
    if (start(w, deeds)) {
        write_some(w, 20, deeds);
    }
}

/* Returns whether a call failed. */
static bool live_and_die(uint64_t n, enum fake_disk_loss loss, struct deeds *deeds)
{
    struct world *w = world_new(19);
    bool met;

    world_close(w);
    w->failed = true;
    w->compaction.reserve_bytes = RESERVE_BYTES;
    fake_disk_fail_call(w->disk, FAKE_DISK_ANY, n);
    live(w, deeds);
    met = !fake_disk_fail_pending(w->disk);
    fake_disk_set_capacity(w->disk, UINT64_MAX);
    fake_disk_crash_as(w->disk, loss, &w->rng);
    world_close(w);
    world_reopen(w);
    world_work(w, 20); /* and it goes on */
    cr_assert(zero(int, world_flush(w)), "%s", w->msg.text);
    world_crash(w, FAKE_DISK_LOSE_ALL);
    world_reopen(w);
    world_free(w);
    return met;
}

static void any_call_fails(enum fake_disk_loss loss, uint64_t first)
{
    struct deeds whole = {0};
    bool met = true;

    for (uint64_t n = first % STEP + 1; met; n += STEP) {
        whole = (struct deeds){0};
        met = live_and_die(n, loss, &whole);
        cr_assert(lt(u64, n, 10000));
    }
    /* The last life met no failure: it has done everything that is to be tested. */
    cr_assert(whole.sealed > 3 && whole.replaced > 5 && whole.reserves_made > 1 && whole.reserves_used > 0);
    cr_assert(whole.scrubbed > 5 && whole.damages == 0 && whole.seeded > 0 && whole.cut > 0);
    cr_assert(eq(u32, whole.recovered, 2));
}

Test(log_faults, any_call_of_a_whole_life_may_fail_and_the_machine_stop, .timeout = 300)
{
    any_call_fails(FAKE_DISK_LOSE_ALL, 0);
}

Test(log_faults, any_call_of_a_whole_life_may_fail_and_the_process_end, .timeout = 300)
{
    any_call_fails(FAKE_DISK_KEEP_ALL, 2);
}

Test(log_faults, any_call_of_a_whole_life_may_fail_and_leave_garbage, .timeout = 300)
{
    any_call_fails(FAKE_DISK_GARBAGE, 4);
}
