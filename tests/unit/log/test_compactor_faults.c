/* Compaction beside crashes, failed calls, no memory and damaged files. */
#include "sidecar/log/journal_format.h"
#include "sidecar/log/journal_internal.h"
#include "tests/lib/fail_calls.h"
#include "tests/unit/log/world.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

/* After every single step of a compaction the machine may stop, in any way. */
Test(compactor_faults, a_crash_at_any_step_loses_nothing, .timeout = 300)
{
    static const enum fake_disk_loss losses[] = {FAKE_DISK_LOSE_ALL, FAKE_DISK_KEEP_ALL, FAKE_DISK_PREFIX,
                                                 FAKE_DISK_SECTORS, FAKE_DISK_GARBAGE};

    for (unsigned mode = 0; mode < sizeof losses / sizeof losses[0]; mode++) {
        unsigned done = 1;
        for (unsigned steps = 1; done > 0; steps++) {
            struct world *w = world_new(5);
            unsigned limit = steps;

            world_work(w, 300);
            cr_assert(zero(int, world_flush(w)));
            done = world_compact(w, limit) == limit;
            world_crash(w, losses[mode]);
            world_reopen(w);
            world_compact(w, 3);
            world_work(w, 20);
            world_compact(w, 1000);
            world_crash(w, losses[mode]);
            world_reopen(w);
            world_free(w);
            cr_assert(lt(u32, steps, 2000));
        }
    }
}

/* Every call to the disk fails once: an attempt comes to nothing, or the journal says that it failed. */
Test(compactor_faults, any_call_may_fail, .timeout = 300)
{
    static const enum fake_disk_loss losses[] = {FAKE_DISK_LOSE_ALL, FAKE_DISK_KEEP_ALL, FAKE_DISK_GARBAGE};

    for (unsigned mode = 0; mode < 3; mode++) {
        bool met = true;
        for (uint64_t n = 1; met; n++) {
            struct world *w = world_new(9);

            w->failed = true;
            w->compaction.reserve_bytes = 1;
            world_work(w, 200);
            cr_assert(zero(int, world_flush(w)));
            fake_disk_fail_call(w->disk, FAKE_DISK_ANY, n);
            world_compact(w, 1000);
            world_work(w, 30);
            w->now_ms += 10000;
            world_compact(w, 1000);
            met = !fake_disk_fail_pending(w->disk);
            world_crash(w, losses[mode]);
            while (world_open(w) != 0) {
                world_close(w);
            }
            world_close(w);
            world_reopen(w);
            world_free(w);
            cr_assert(lt(u64, n, 3000));
        }
    }
}

/* ... and while recovery clears up what a crash left of a compaction. */
Test(compactor_faults, recovery_may_fail_too, .timeout = 300)
{
    bool met = true;

    for (uint64_t n = 1; met; n++) {
        struct world *w = world_new(11);

        world_work(w, 200);
        cr_assert(zero(int, world_flush(w)));
        world_compact(w, 1000);
        world_work(w, 200);
        cr_assert(zero(int, world_flush(w)));
        world_compact(w, 19);
        world_crash(w, FAKE_DISK_KEEP_ALL);
        fake_disk_fail_call(w->disk, FAKE_DISK_ANY, n);
        if (world_open(w) != 0) {
            cr_assert(w->j == NULL);
        } else {
            world_close(w);
        }
        met = !fake_disk_fail_pending(w->disk);
        fake_disk_crash_as(w->disk, FAKE_DISK_LOSE_ALL, &w->rng);
        world_reopen(w);
        world_free(w);
        cr_assert(lt(u64, n, 2000));
    }
}

/* Bits that flip in a file that compaction wrote: the shards that it holds something of are damaged, scrubbing says so
 * while the journal is open, and so does the next start, once and for all. */
static void note_damage(void *data, otr_shard shard, journal_place place)
{
    (void)place;
    *(uint64_t *)data |= 1ULL << shard;
}

Test(compactor_faults, a_damaged_file_of_its_own_is_found)
{
    for (uint64_t at = 0; at < 2; at++) {
        struct world *w = world_new(21);
        struct journal_shard_state state;
        struct journal_scrub *scrub;
        uint64_t damaged = 0;
        char name[KEPT_NAME_BYTES];
        uint32_t number = KEPT_NUMBER_MAX;

        world_work(w, 300);
        cr_assert(zero(int, world_flush(w)));
        world_compact(w, 1000);
        for (uint32_t i = KEPT_NUMBER_FIRST; i < KEPT_NUMBER_FIRST + 200; i++) {
            kept_name(name, i, true);
            number = fake_disk_exists(w->disk, name) && fake_disk_size(w->disk, name) > 1000 ? i : number;
        }
        cr_assert(ne(u32, number, KEPT_NUMBER_MAX));
        kept_name(name, number, true);
        fake_disk_poke(w->disk, name, at == 0 ? fake_disk_size(w->disk, name) - 200 : 70, "damage", 6);
        scrub = journal_scrub_new(w->j);
        for (int i = 0; i < 200; i++) {
            if (journal_scrub_begin(scrub, 500)) {
                journal_scrub_run(scrub);
                (void)journal_scrub_end(scrub, note_damage, &damaged);
            }
        }
        journal_scrub_free(scrub);
        cr_assert(ne(u64, damaged, 0));
        world_crash(w, FAKE_DISK_KEEP_ALL);
        for (int starts = 0; starts < 2; starts++) {
            cr_assert(zero(int, world_open(w)), "%s", w->msg.text);
            (void)journal_shard(w->j, 1, &state);
            cr_assert(eq(int, state.damaged, 1));
            cr_assert(eq(u32, world_compact(w, 10), 0)); /* nothing is touched before it has been seeded */
            world_crash(w, FAKE_DISK_LOSE_ALL);
        }
        world_free(w);
    }
}

static void flip(struct world *w, const char *name, uint64_t offset)
{
    uint8_t byte = fake_disk_bytes(w->disk, name)[offset] ^ (uint8_t)(1 << offset % 8);

    fake_disk_poke(w->disk, name, offset, &byte, 1);
}

struct largest {
    const struct fake_disk *disk;
    char *name;
};

static void find_kept(const char *name, void *data)
{
    struct largest *l = data;
    bool finished;

    if (kept_number_of(name, &finished) != 0 && finished &&
        (l->name[0] == '\0' || fake_disk_size(l->disk, name) > fake_disk_size(l->disk, l->name))) {
        snprintf(l->name, KEPT_NAME_BYTES, "%s", name);
    }
}

/* A life with files that compaction made; the name of the largest of them. */
static struct world *kept_world(char name[KEPT_NAME_BYTES])
{
    struct world *w = world_new(13);
    struct largest largest = {.disk = w->disk, .name = name};

    for (int i = 0; i < 3; i++) {
        world_work(w, 150);
        cr_assert(zero(int, world_flush(w)));
        world_compact(w, 1000);
    }
    world_work(w, 40);
    cr_assert(zero(int, world_flush(w)));
    name[0] = '\0';
    cr_assert(zero(int, w->config.fs->ops->list(w->config.fs, find_kept, &largest, &w->msg)));
    cr_assert(gt(u64, fake_disk_size(w->disk, name), 2000));
    return w;
}

/* One bit of a file that compaction made is wrong when it is read again: the journal refuses to open, or says which
 * shards have lost something. Those that it calls sound are what they were. */
Test(compactor_faults, damage_in_what_was_kept_is_told, .timeout = 300)
{
    char name[KEPT_NAME_BYTES];
    struct world *w = kept_world(name);
    struct fake_disk *sound;

    world_crash(w, FAKE_DISK_KEEP_ALL);
    sound = w->disk;
    for (uint64_t offset = 0; offset < fake_disk_size(sound, name); offset += 7) {
        unsigned damaged = 0;
        int rv;

        w->disk = fake_disk_clone(sound);
        flip(w, name, offset);
        w->msg.text[0] = '\0';
        rv = world_open(w);
        cr_assert(rv == 0 || w->msg.text[0] != '\0', "offset %llu", (unsigned long long)offset);
        for (otr_shard i = 0; rv == 0 && i < WORLD_SHARDS; i++) {
            struct journal_shard_state state;

            (void)journal_shard(w->j, i, &state);
            damaged += state.damaged;
            if (!state.damaged) {
                cr_assert(world_same_log(&w->shards[i].h, &state), "offset %llu: shard %u", (unsigned long long)offset,
                          i);
                world_apply(w, i, state.last.index);
                world_check(w, i);
            }
        }
        cr_assert(rv != 0 || damaged > 0, "offset %llu of %s: nobody noticed", (unsigned long long)offset, name);
        world_close(w);
        fake_disk_free(w->disk);
    }
    w->disk = sound;
    world_reopen(w);
    world_free(w);
}

static size_t kept_body_of(const uint8_t *record)
{
    struct record_header h;

    cr_assert(zero(int, record_header_read(record, &h)));
    return h.body_bytes;
}

/* A sound file that goes on behind entries which do not stand before it: its shards are told to be damaged. */
Test(compactor_faults, a_file_that_goes_on_behind_what_is_not_there)
{
    char name[KEPT_NAME_BYTES];
    struct world *w = kept_world(name);
    struct kept_head head;
    struct kept_line lines[WORLD_SHARDS];
    uint8_t record[4096];
    const uint8_t *bytes;
    unsigned claims = 0;

    world_crash(w, FAKE_DISK_KEEP_ALL);
    bytes = fake_disk_bytes(w->disk, name);
    cr_assert(zero(int, kept_head_read(bytes + RECORD_HEADER_BYTES, kept_body_of(bytes), &head)));
    cr_assert(le(u32, head.lines_count, WORLD_SHARDS));
    for (uint32_t i = 0; i < head.lines_count; i++) {
        kept_line_read(bytes + RECORD_HEADER_BYTES, i, &lines[i]);
        if (!lines[i].reset && !lines[i].cut_only) {
            lines[i].before += 100000;
            claims++;
        }
    }
    cr_assert(gt(u32, claims, 0));
    kept_head_write(record, &head, lines);
    fake_disk_poke(w->disk, name, 0, record, kept_head_bytes(head.lines_count, head.identity_bytes));
    cr_assert(zero(int, world_open(w)));
    for (uint32_t i = 0; i < head.lines_count; i++) {
        struct journal_shard_state state;

        (void)journal_shard(w->j, lines[i].shard, &state);
        cr_assert(eq(int, state.damaged, lines[i].before >= 100000 && !lines[i].reset), "shard %u", lines[i].shard);
    }
    world_free(w);
}

struct names {
    char list[200][KEPT_NAME_BYTES];
    size_t count;
};

static void add_name(const char *name, void *data)
{
    struct names *names = data;

    cr_assert(lt(sz, names->count, 200));
    snprintf(names->list[names->count++], KEPT_NAME_BYTES, "%s", name);
}

/* A whole file is gone. What was in the last segment could as well never have been written; all others are missed. */
Test(compactor_faults, a_file_that_is_gone_is_missed)
{
    static struct names names;
    char largest[KEPT_NAME_BYTES];
    struct world *w = kept_world(largest);
    struct fake_disk *sound;
    uint32_t newest = 0;

    world_crash(w, FAKE_DISK_KEEP_ALL);
    sound = w->disk;
    cr_assert(zero(int, w->config.fs->ops->list(w->config.fs, add_name, &names, &w->msg)));
    for (size_t i = 0; i < names.count; i++) {
        uint32_t number = segment_number_of(names.list[i]);
        newest = number > newest ? number : newest;
    }
    cr_assert(gt(sz, names.count, 4));
    for (size_t k = 0; k < names.count; k++) {
        unsigned damaged = 0;
        int rv;

        w->disk = fake_disk_clone(sound);
        w->config.fs = fake_disk_fs(w->disk);
        cr_assert(zero(int, w->config.fs->ops->remove(w->config.fs, names.list[k], &w->msg)));
        rv = world_open(w);
        for (otr_shard i = 0; rv == 0 && i < WORLD_SHARDS; i++) {
            struct journal_shard_state state;

            (void)journal_shard(w->j, i, &state);
            damaged += state.damaged;
            if (!state.damaged) {
                cr_assert(world_same_log(&w->shards[i].h, &state), "without %s: shard %u", names.list[k], i);
                world_apply(w, i, state.last.index);
                world_check(w, i);
            }
        }
        cr_assert(rv != 0 || damaged > 0 || segment_number_of(names.list[k]) == newest, "%s is not missed",
                  names.list[k]);
        world_close(w);
        fake_disk_free(w->disk);
    }
    w->disk = sound;
    world_reopen(w);
    world_free(w);
}

struct told {
    uint32_t segment;
    unsigned count;
};

static void on_damage(void *data, otr_shard shard, journal_place place)
{
    struct told *told = data;

    cr_assert(lt(u32, shard, WORLD_SHARDS));
    told->segment = place_segment(place);
    told->count++;
}

static unsigned scrub(struct world *w)
{
    struct journal_scrub *s = journal_scrub_new(w->j);
    struct told told = {0};

    while (journal_scrub_begin(s, 700)) {
        journal_scrub_run(s);
        cr_assert(gt(u64, journal_scrub_end(s, on_damage, &told), 0));
    }
    journal_scrub_free(s);
    return told.count;
}

/* The same bit is found while the journal is in use, before anybody needs what it spoilt. */
Test(compactor_faults, damage_in_what_was_kept_is_found_by_the_scrub, .timeout = 300)
{
    char name[KEPT_NAME_BYTES];
    struct world *w = kept_world(name);
    uint64_t bytes = fake_disk_size(w->disk, name);

    cr_assert(zero(u32, scrub(w)));
    for (uint64_t offset = 0; offset < bytes; offset += 13) {
        flip(w, name, offset);
        cr_assert(gt(u32, scrub(w), 0), "offset %llu of %llu", (unsigned long long)offset, (unsigned long long)bytes);
        flip(w, name, offset);
        cr_assert(zero(u32, scrub(w)), "offset %llu of %llu", (unsigned long long)offset, (unsigned long long)bytes);
    }
    fake_disk_cut(w->disk, name, bytes - 8); /* ... and a file that has lost its end */
    cr_assert(gt(u32, scrub(w), 0));
    world_free(w);
}

/* --- memory ------------------------------------------------------------------------------------------------------- */

/* Every allocation fails once, in a compaction and in the recovery behind it: an attempt comes to nothing, is made
 * again later, and nothing is lost. */
static void without_memory(void *data)
{
    struct otr_errmsg msg = {0};
    struct world *w;
    int rv;

    (void)data;
    fail_calls_pause(true);
    w = world_new(17);
    world_work(w, 200);
    cr_assert(zero(int, world_flush(w)));
    fail_calls_pause(false);
    for (unsigned i = 0; i < 150; i++) {
        w->now_ms += 600;
        if (compactor_turn(w->c, w->now_ms, false)) {
            compactor_run(w->c);
            msg.text[0] = '\0';
            rv = compactor_ran(w->c, w->now_ms, &msg);
            cr_assert(rv == 0 || msg.text[0] != '\0', "no words after %s failed", fail_calls_name());
        }
    }
    fail_calls_pause(true);
    world_crash(w, FAKE_DISK_LOSE_ALL);
    fail_calls_pause(false);
    rv = journal_open(&w->j, &w->config, NULL, NULL, &w->msg);
    cr_assert(rv == 0 || rv == OTR_NOMEM, "%s: %s", otr_errname(rv), w->msg.text);
    fail_calls_pause(true);
    if (rv == 0) {
        journal_close(w->j);
    }
    w->j = NULL;
    world_reopen(w);
    world_free(w);
    fail_calls_pause(false);
}

Test(compactor_faults, any_allocation_may_fail, .timeout = 300)
{
    cr_assert(gt(u32, fail_each(without_memory, NULL), 20));
}
