#include "sidecar/log/journal_format.h"
#include "tests/unit/log/lab.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

struct found {
    bool shards[LAB_SHARDS];
    journal_place place; /* of the last one */
    unsigned count;
    uint64_t bytes;
    unsigned pieces;
};

static void on_damage(void *data, otr_shard shard, journal_place place)
{
    struct found *f = data;

    cr_assert(lt(u32, shard, LAB_SHARDS));
    f->shards[shard] = true;
    f->place = place;
    f->count++;
}

/* One pass. */
static struct found scrub(struct lab *l, size_t piece_bytes)
{
    struct journal_scrub *s = journal_scrub_new(l->j);
    struct found f = {0};

    while (journal_scrub_begin(s, piece_bytes)) {
        uint64_t bytes;
        journal_scrub_run(s);
        bytes = journal_scrub_end(s, on_damage, &f);
        cr_assert(gt(u64, bytes, 0));
        f.bytes += bytes;
        f.pieces++;
    }
    journal_scrub_free(s);
    return f;
}

static void flip(struct lab *l, const char *name, uint64_t offset, unsigned bit)
{
    uint8_t byte = fake_disk_bytes(l->disk, name)[offset];

    byte ^= (uint8_t)(1 << bit % 8);
    fake_disk_poke(l->disk, name, offset, &byte, 1);
}

/* Five segments; shards 1 and 2 have an entry in every batch, shard 3 in every other. */
static void some_segments(struct lab *l)
{
    lab_init(l, 2000);
    for (otr_shard s = 1; s < LAB_SHARDS; s++) {
        lab_meta(l, s, 10 + s, 1);
    }
    for (unsigned i = 0; i < 40; i++) {
        for (otr_shard s = 1; s < LAB_SHARDS; s++) {
            if (s != 3 || i % 2 == 0) {
                lab_append(l, s, 1, 20);
            }
        }
        cr_assert(eq(int, lab_flush(l), 0));
    }
}

static uint64_t sealed_bytes(struct lab *l)
{
    char name[16];
    unsigned last = lab_last_segment(l, name);
    uint64_t sum = 0;

    for (unsigned i = 1; i < last; i++) {
        snprintf(name, sizeof name, "%08u.log", i);
        sum += fake_disk_size(l->disk, name);
    }
    return sum;
}

Test(journal_scrub, reads_every_sealed_segment_once_a_pass_and_finds_nothing_in_a_sound_one)
{
    struct lab l;

    some_segments(&l);
    for (size_t piece = 1; piece < 1 << 20; piece *= 37) {
        struct found f = scrub(&l, piece);
        cr_assert(eq(u32, f.count, 0));
        cr_assert(eq(u64, f.bytes, sealed_bytes(&l)));
        cr_assert(ge(u32, f.pieces, (unsigned)(f.bytes / (piece + 4096))));
    }
    lab_kill(&l);
    lab_reopen(&l);
    cr_assert(eq(u64, scrub(&l, 1 << 20).bytes, sealed_bytes(&l))); /* the same after a start */
    lab_close(&l);
}

/* The segment that is being written has no end yet; it is read when it is sealed. */
Test(journal_scrub, leaves_the_open_segment_alone)
{
    struct lab l;

    lab_init(&l, 1 << 20);
    lab_meta(&l, 1, 11, 1);
    lab_append(&l, 1, 1, 50);
    lab_flush(&l);
    cr_assert(eq(u32, scrub(&l, 1 << 20).pieces, 0));
    lab_close(&l);
}

Test(journal_scrub, tells_the_shards_of_a_damaged_batch_and_where_it_is)
{
    struct lab l;
    struct found f;
    journal_place place;
    char name[16];

    some_segments(&l);
    place = journal_place_of(l.j, 1, 18); /* the 18th batch, where shard 3 has nothing */
    snprintf(name, sizeof name, "%08u.log", place_segment(place));
    flip(&l, name, place_offset(place) + 100, 3);
    f = scrub(&l, 500);
    cr_assert(f.shards[1] && f.shards[2] && !f.shards[3]);
    cr_assert(eq(u64, f.place, place));
    cr_assert(eq(u64, f.bytes, sealed_bytes(&l))); /* it went on behind the damage */
    l.maybe_damaged = true;
    lab_close(&l);
}

/* What a seed replaced later is nobody's any more; neither is what recovery has dealt with. */
Test(journal_scrub, damage_that_no_longer_counts_is_not_told)
{
    struct lab l;
    journal_place place;
    char name[16];

    some_segments(&l);
    place = journal_place_of(l.j, 1, 18);
    snprintf(name, sizeof name, "%08u.log", place_segment(place));
    flip(&l, name, place_offset(place) + 100, 3);
    l.maybe_damaged = true;
    lab_seed_begin(&l, 1, 77);
    lab_seed_end(&l, 1, (struct otr_position){1, 40});
    lab_flush(&l);
    cr_assert(scrub(&l, 500).shards[2] && !scrub(&l, 500).shards[1]);
    lab_kill(&l);
    cr_assert(eq(int, lab_open(&l), 0));
    cr_assert(lab_state(&l, 2).damaged && !lab_state(&l, 1).damaged);
    cr_assert(eq(u32, scrub(&l, 500).count, 0));
    lab_close(&l);
}

/* A file that has become shorter has lost records, too. */
Test(journal_scrub, a_shortened_segment_is_damage)
{
    struct lab l;
    struct found f;
    char name[] = "00000002.log";

    some_segments(&l);
    fake_disk_cut(l.disk, name, fake_disk_size(l.disk, name) - 200);
    l.maybe_damaged = true;
    f = scrub(&l, 500);
    cr_assert(f.shards[1] && f.shards[2]);
    lab_close(&l);
}

/* Whatever recovery would find at the next start, scrubbing finds before; and nothing where there is nothing. */
Test(journal_scrub, finds_all_that_recovery_would, .timeout = 60)
{
    unsigned damaged = 0;

    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct lab l;
        struct found f;
        char last[16];
        char name[16];
        unsigned number;

        lab_init(&l, 1500);
        l.rng = seed;
        for (unsigned i = 0; i < 150; i++) {
            (void)lab_step(&l);
            if (i % 3 == 2) {
                lab_flush(&l);
            }
        }
        cr_assert(eq(u32, scrub(&l, 700).count, 0));
        number = lab_last_segment(&l, last);
        cr_assert(ge(u32, number, 3));
        snprintf(name, sizeof name, "%08u.log", 1 + (unsigned)(seed * 7919 % (number - 1)));
        flip(&l, name, seed * 104729 % fake_disk_size(l.disk, name), (unsigned)seed);
        l.maybe_damaged = true;
        f = scrub(&l, 700);
        lab_kill(&l);
        cr_assert(eq(int, lab_open(&l), 0), "%s", l.msg.text);
        for (otr_shard s = 0; s < LAB_SHARDS; s++) {
            damaged += lab_state(&l, s).damaged;
            cr_assert(f.shards[s] || !lab_state(&l, s).damaged, "seed %llu: shard %u", (unsigned long long)seed, s);
        }
        lab_close(&l);
    }
    cr_assert(gt(u32, damaged, 50));
}
