#include "tests/unit/log/lab.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

static void flip(struct lab *l, const char *name, uint64_t offset, unsigned bit)
{
    uint8_t byte = fake_disk_bytes(l->disk, name)[offset];

    byte ^= (uint8_t)(1 << bit % 8);
    fake_disk_poke(l->disk, name, offset, &byte, 1);
}

static unsigned segments_count(const struct lab *l)
{
    char name[16];

    return lab_last_segment(l, name);
}

/* Segment and offset of the record at a place. */
static uint64_t locate(journal_place place, char name[16])
{
    snprintf(name, 16, "%08u.log", (unsigned)(place >> 40));
    return (place & ((1ULL << 40) - 1)) * 8;
}

/* Shards 1 and 2 have an entry in each of three batches, shard 3 in the first and the last one. */
static void three_batches(struct lab *l, uint64_t segment_bytes)
{
    lab_init(l, segment_bytes);
    for (otr_shard s = 1; s < LAB_SHARDS; s++) {
        lab_meta(l, s, 10 + s, 1);
        lab_append(l, s, 1, 50);
    }
    lab_flush(l);
    lab_append(l, 1, 1, 50);
    lab_append(l, 2, 1, 50);
    lab_flush(l);
    for (otr_shard s = 1; s < LAB_SHARDS; s++) {
        lab_append(l, s, 1, 50);
    }
    cr_assert(eq(int, lab_flush(l), 0));
    lab_kill(l);
    l->maybe_damaged = true;
}

/* Below a durable mark a bad record is no torn tail. The shards of its batch are damaged and keep what stands before
 * it; others have nothing to do with it. */
Test(journal_damage, a_flipped_bit_below_the_durable_mark_damages_the_shards_of_its_batch)
{
    for (uint64_t segment_bytes = 0; segment_bytes <= 200; segment_bytes += 200) {
        struct lab l;
        char name[16];
        uint64_t at;

        three_batches(&l, segment_bytes);
        cr_assert(eq(int, lab_open(&l), 0));
        at = locate(l.recovered[1].entries[1].place, name);
        journal_close(l.j);
        flip(&l, name, at + 100, 3);
        cr_assert(eq(int, lab_open(&l), 0));
        cr_assert(lab_state(&l, 1).damaged);
        cr_assert(lab_state(&l, 2).damaged);
        cr_assert(eq(u64, lab_state(&l, 1).last.index, 1));
        cr_assert(eq(u64, lab_state(&l, 2).last.index, 1));
        /* With tiny segments the batch holds a copy of every shard's META. */
        cr_assert(eq(int, lab_state(&l, 3).damaged, segment_bytes != 0));
        if (segment_bytes == 0) {
            cr_assert(lab_matches(&l, 3, l.count));
        }
        lab_close(&l);
    }
}

/* When the record that names a batch's shards is lost, any shard may have had records in it. */
Test(journal_damage, a_lost_batch_record_damages_all_shards)
{
    struct lab l;
    char name[16];
    uint64_t at;

    three_batches(&l, 0);
    cr_assert(eq(int, lab_open(&l), 0));
    at = locate(l.recovered[1].entries[1].place, name);
    journal_close(l.j);
    flip(&l, name, at - 20, 0);
    cr_assert(eq(int, lab_open(&l), 0));
    for (otr_shard s = 1; s < LAB_SHARDS; s++) {
        cr_assert(lab_state(&l, s).damaged);
        cr_assert(eq(u64, lab_state(&l, s).last.index, 1));
    }
    lab_close(&l);
}

/* Damage is known until the shard has a new log id, whatever happens in between, and no longer. */
Test(journal_damage, damage_is_remembered_until_a_new_log_id)
{
    struct lab l;
    char name[16];
    uint64_t at;

    three_batches(&l, 0);
    cr_assert(eq(int, lab_open(&l), 0));
    at = locate(l.recovered[1].entries[1].place, name);
    journal_close(l.j);
    flip(&l, name, at + 100, 3);
    for (int i = 0; i < 3; i++) {
        cr_assert(eq(int, lab_open(&l), 0));
        cr_assert(lab_state(&l, 1).damaged && lab_state(&l, 2).damaged && !lab_state(&l, 3).damaged);
        cr_assert(eq(u64, lab_state(&l, 1).last.index, 1));
        lab_crash(&l, FAKE_DISK_LOSE_ALL);
    }
    cr_assert(eq(u32, segments_count(&l), 2)); /* Accounted for once. */
    cr_assert(eq(int, lab_open(&l), 0));
    /* Shard 1 goes on from what it has, under a new id; shard 2 is seeded. */
    lab_meta(&l, 1, 100, 1);
    lab_append(&l, 1, 2, 0);
    lab_append(&l, 1, 2, 0);
    lab_seed_begin(&l, 2, 200);
    lab_seed_points(&l, 2);
    lab_seed_end(&l, 2, (struct otr_position){2, 50});
    lab_append(&l, 2, 2, 0);
    cr_assert(eq(int, lab_flush(&l), 0));
    lab_crash(&l, FAKE_DISK_LOSE_ALL);
    cr_assert(eq(int, lab_open(&l), 0));
    cr_assert(not(lab_state(&l, 1).damaged));
    cr_assert(not(lab_state(&l, 2).damaged));
    cr_assert(eq(u64, lab_state(&l, 1).last.index, 3));
    cr_assert(eq(u64, lab_state(&l, 1).last.epoch, 2));
    cr_assert(eq(u64, l.recovered[1].entries[0].epoch, 1));
    cr_assert(eq(u64, lab_state(&l, 2).last.index, 51));
    cr_assert(eq(u64, lab_state(&l, 3).last.index, 2));
    cr_assert(eq(u32, segments_count(&l), 2));
    lab_close(&l);
}

/* Damage may come and go with the disk's moods. What was decided once stands. */
Test(journal_damage, bytes_that_become_readable_again_do_not_return)
{
    struct lab l;
    char name[16];
    uint64_t at;

    three_batches(&l, 0);
    cr_assert(eq(int, lab_open(&l), 0));
    at = locate(l.recovered[1].entries[1].place, name);
    journal_close(l.j);
    flip(&l, name, at + 100, 3);
    cr_assert(eq(int, lab_open(&l), 0));
    lab_kill(&l);
    flip(&l, name, at + 100, 3);
    cr_assert(eq(int, lab_open(&l), 0));
    cr_assert(lab_state(&l, 1).damaged);
    cr_assert(eq(u64, lab_state(&l, 1).last.index, 1));
    cr_assert(eq(sz, l.recovered[1].count, 1));
    lab_close(&l);
}

/* A shard that was seeded after the damage had nothing in what was lost. */
Test(journal_damage, a_seed_behind_the_damage_is_whole)
{
    struct lab l;
    char name[16];
    uint64_t at;

    three_batches(&l, 0);
    lab_reopen(&l);
    at = locate(l.recovered[1].entries[1].place, name);
    lab_seed_begin(&l, 1, 77);
    lab_seed_end(&l, 1, (struct otr_position){1, 9});
    lab_append(&l, 1, 2, 0);
    lab_flush(&l);
    lab_kill(&l);
    flip(&l, name, at + 9, 1);
    cr_assert(eq(int, lab_open(&l), 0));
    cr_assert(not(lab_state(&l, 1).damaged));
    cr_assert(lab_matches(&l, 1, l.count));
    cr_assert(lab_state(&l, 2).damaged);
    lab_close(&l);
}

Test(journal_damage, a_missing_segment_is_damage)
{
    struct lab l;

    three_batches(&l, 200);
    cr_assert(eq(u32, segments_count(&l), 4)); /* the first one only says whose journal it is */
    cr_assert(eq(int, l.config.fs->ops->remove(l.config.fs, "00000003.log", NULL), 0));
    cr_assert(eq(int, lab_open(&l), 0));
    for (otr_shard s = 1; s < LAB_SHARDS; s++) {
        cr_assert(lab_state(&l, s).damaged);
        cr_assert(eq(u64, lab_state(&l, s).last.index, 1));
    }
    lab_close(&l);
}

/* Even when it ends between two records, a sealed segment that is too short is noticed. */
Test(journal_damage, a_sealed_segment_cut_between_records_is_damage)
{
    struct lab l;
    char name[16];
    uint64_t at;

    three_batches(&l, 200);
    cr_assert(eq(int, lab_open(&l), 0));
    at = locate(l.recovered[2].entries[1].place, name);
    journal_close(l.j);
    fake_disk_cut(l.disk, name, at);
    cr_assert(eq(int, lab_open(&l), 0));
    cr_assert(lab_state(&l, 2).damaged);
    cr_assert(eq(u64, lab_state(&l, 2).last.index, 1));
    lab_close(&l);
}

/* A segment's head is needed for nothing but itself. */
Test(journal_damage, a_damaged_segment_head_damages_no_shard)
{
    struct lab l;

    for (unsigned n = 1; n <= 4; n++) {
        char name[16];
        snprintf(name, sizeof name, "%08u.log", n);
        three_batches(&l, 200);
        flip(&l, name, 70, 1);
        cr_assert(eq(int, lab_open(&l), 0), "%s", l.msg.text);
        for (otr_shard s = 1; s < LAB_SHARDS; s++) {
            cr_assert(lab_matches(&l, s, l.count));
            cr_assert(not(lab_state(&l, s).damaged));
        }
        lab_close(&l);
    }
}

/* A client may choose the floats of a vector so that they are a BATCH record, but it does not know the journal's id. */
Test(journal_damage, bytes_of_a_client_do_not_pass_for_a_batch)
{
    struct record_header forged = {.kind = RECORD_BATCH, .index = 99, .body_bytes = 48};
    struct record_header h = {.shard = 1, .epoch = 1, .kind = RECORD_PUT, .index = 1, .body_bytes = 600};
    _Alignas(8) uint8_t body[600] = {0};
    uint64_t fields[6] = {0, 0, 99, 112, 0, 0};
    journal_place place;
    char name[16];
    struct lab l;

    lab_init(&l, 0);
    lab_meta(&l, 1, 1, 1);
    lab_flush(&l);
    cr_assert(eq(int, journal_append(l.j, &h, body, &place), 0));
    fields[1] = place + (RECORD_HEADER_BYTES + 400) / 8; /* it even knows where its bytes will stand */
    fields[0] = 78;
    memcpy(body + 400 + RECORD_HEADER_BYTES, fields, sizeof fields);
    record_seal(body + 400, &forged);
    journal_close(l.j);
    cr_assert(eq(int, lab_open(&l), 0));
    cr_assert(eq(int, journal_append(l.j, &h, body, NULL), 0));
    cr_assert(eq(int, lab_flush(&l), 0));
    journal_close(l.j);
    lab_last_segment(&l, name);
    flip(&l, name, locate(place, name) + 70, 1);
    cr_assert(eq(int, lab_open(&l), 0));
    cr_assert(not(lab_state(&l, 1).damaged)); /* a torn tail, cut */
    cr_assert(eq(u64, lab_state(&l, 1).last.index, 0));
    lab_close(&l);
}

/* --- what a truncation that was lost may bring back -----------------------------------------------------------------
 */

Test(journal_damage, records_behind_the_end_of_a_batch_are_no_part_of_it)
{
    struct record_header h = {.shard = 3, .epoch = 1, .kind = RECORD_EPOCH, .index = 3};
    uint8_t record[RECORD_HEADER_BYTES];
    struct lab l;

    three_batches(&l, 0);
    record_seal(record, &h); /* It would follow. */
    lab_extend(&l, "00000001.log", record, sizeof record);
    lab_reopen(&l);
    cr_assert(eq(u64, lab_state(&l, 3).last.index, 2));
    lab_close(&l);
}

Test(journal_damage, bytes_behind_the_end_of_a_sealed_segment_do_not_count)
{
    struct lab l;

    three_batches(&l, 200);
    lab_extend(&l, "00000003.log", "some torn tail that was cut", 27);
    lab_reopen(&l);
    for (otr_shard s = 1; s < LAB_SHARDS; s++) {
        cr_assert(not(lab_state(&l, s).damaged));
        cr_assert(lab_matches(&l, s, l.count));
    }
    cr_assert(eq(u32, segments_count(&l), 4)); /* Nothing to account for. */
    lab_close(&l);
}

/* --- any damage at all ----------------------------------------------------------------------------------------------
 */

/* True when no more than the last batch can look like a torn tail. */
static bool damage(struct lab *l)
{
    uint64_t count = 1 + fake_disk_random(&l->rng) % 4;
    bool one_record = count == 1;
    char name[16];

    for (uint64_t i = 0; i < count; i++) {
        uint8_t garbage[64];
        uint64_t bytes;
        uint64_t at;

        snprintf(name, sizeof name, "%08u.log", (unsigned)(1 + fake_disk_random(&l->rng) % segments_count(l)));
        bytes = fake_disk_size(l->disk, name);
        at = fake_disk_random(&l->rng) % bytes;
        switch (fake_disk_random(&l->rng) % 8) {
        case 0:
            fake_disk_cut(l->disk, name, at);
            return false;
        case 1:
            for (size_t k = 0; k < sizeof garbage; k++) {
                garbage[k] = (uint8_t)fake_disk_random(&l->rng);
            }
            fake_disk_poke(l->disk, name, at, garbage, bytes - at < sizeof garbage ? bytes - at : sizeof garbage);
            one_record = false; /* The end of one batch and the head of the last one, perhaps. */
            break;
        default:
            flip(l, name, at, (unsigned)fake_disk_random(&l->rng));
        }
    }
    return one_record;
}

/* Whatever a shard shows was appended to it once, at that index. */
static void check_bytes_are_ours(const struct lab *l, otr_shard shard)
{
    const struct lab_shard *r = &l->recovered[shard];

    for (size_t i = 0; i < r->count; i++) {
        bool found = false;
        for (size_t n = 0; n < l->count && !found; n++) {
            found = l->ops[n].kind == LAB_ENTRY && l->ops[n].shard == shard &&
                    l->ops[n].position.index == r->entries[i].index && l->ops[n].checksum == r->entries[i].checksum;
        }
        cr_assert(found);
    }
}

/* Recovery never crashes, never shows bytes that were not written, and a shard that it does not call damaged is whole
 * up to the last batch. What it found stays found. */
Test(journal_damage, random_damage_is_never_taken_for_data, .timeout = 120)
{
    struct lab_shard *before = malloc(LAB_SHARDS * sizeof *before);
    bool damaged[LAB_SHARDS];
    size_t met = 0;
    size_t whole = 0;

    for (uint64_t seed = 1; seed <= 1000; seed++) {
        size_t safe = 0; /* acknowledged, and not in the last batch */
        struct lab l;

        lab_init(&l, seed % 2 == 0 ? 0 : 2500);
        l.rng = seed;
        for (int i = 0; i < 40; i++) {
            lab_step(&l);
            if (i % 5 == 4) {
                safe = l.acked;
                lab_flush(&l);
            }
        }
        lab_kill(&l);
        safe = damage(&l) ? safe : 0;
        cr_assert(eq(int, lab_open(&l), 0), "seed %lu: %s", (unsigned long)seed, l.msg.text);
        for (otr_shard s = 0; s < LAB_SHARDS; s++) {
            damaged[s] = lab_state(&l, s).damaged;
            check_bytes_are_ours(&l, s);
            met += damaged[s];
            whole += !damaged[s];
            if (!damaged[s]) {
                size_t count = l.count;
                while (count > safe && !lab_matches(&l, s, count)) {
                    count--;
                }
                cr_assert(lab_matches(&l, s, count), "seed %lu shard %u", (unsigned long)seed, s);
            }
        }
        memcpy(before, l.recovered, LAB_SHARDS * sizeof *before);
        lab_crash(&l, FAKE_DISK_LOSE_ALL);
        cr_assert(eq(int, lab_open(&l), 0));
        for (otr_shard s = 0; s < LAB_SHARDS; s++) {
            cr_assert(eq(int, lab_state(&l, s).damaged, damaged[s]), "seed %lu shard %u", (unsigned long)seed, s);
            cr_assert(eq(sz, l.recovered[s].count, before[s].count), "seed %lu shard %u", (unsigned long)seed, s);
        }
        lab_close(&l);
    }
    cr_assert(gt(sz, met, 500)); /* The test meets both. */
    cr_assert(gt(sz, whole, 500));
    free(before);
}
