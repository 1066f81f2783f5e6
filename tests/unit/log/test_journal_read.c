#include "tests/unit/log/lab.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

/* A journal of 100 entries of shards 1 and 2 in many segments, most of them no longer in memory. */
static void hundred(struct lab *l)
{
    lab_init(l, 5000);
    for (int i = 0; i < 100; i++) {
        lab_append(l, 1 + (otr_shard)i % 2, 1 + (uint64_t)i / 40, (size_t)(i * 37 % 600));
        if (i % 3 == 0) {
            cr_assert(eq(int, lab_flush(l), 0));
        }
    }
}

Test(journal_read, every_entry_comes_back_from_memory_or_from_files)
{
    struct lab l;

    hundred(&l);
    lab_read_all(&l, 1);
    lab_read_all(&l, 2);
    lab_kill(&l);
    lab_reopen(&l); /* nothing is in memory now */
    lab_read_all(&l, 1);
    lab_read_all(&l, 2);
    lab_close(&l);
}

Test(journal_read, what_is_not_retained_is_gone_and_what_never_was_is_invalid)
{
    struct journal_bytes bytes;
    struct journal_reader *r;
    struct lab l;

    lab_init(&l, 0);
    lab_seed_begin(&l, 1, 5);
    lab_seed_end(&l, 1, (struct otr_position){1, 10});
    lab_append(&l, 1, 1, 0);
    cr_assert(eq(int, journal_read(l.j, 1, 10, 11, 1000, &bytes), OTR_GONE));
    cr_assert(eq(int, journal_read(l.j, 1, 0, 11, 1000, &bytes), OTR_GONE));
    cr_assert(eq(int, journal_read(l.j, 1, 11, 12, 1000, &bytes), OTR_INVALID));
    cr_assert(eq(int, journal_read(l.j, 1, 12, 12, 1000, &bytes), OTR_INVALID));
    cr_assert(eq(int, journal_read(l.j, 1, UINT64_MAX, UINT64_MAX, 1000, &bytes), OTR_INVALID));
    cr_assert(eq(int, journal_read(l.j, 1, 11, 10, 1000, &bytes), OTR_INVALID));
    cr_assert(eq(int, journal_read(l.j, 2, 1, 1, 1000, &bytes), OTR_GONE));
    r = journal_reader_new(l.j);
    cr_assert(eq(int, journal_reader_entries(r, 1, 10, 11, 1000), OTR_GONE));
    journal_reader_free(r);
    lab_close(&l);
}

/* However little fits, at least one entry is handed out. */
Test(journal_read, the_limit_is_kept_but_for_the_first_entry)
{
    struct journal_bytes bytes;
    struct lab l;

    lab_init(&l, 0);
    for (int i = 0; i < 5; i++) {
        lab_append(&l, 1, 1, 1000);
    }
    cr_assert(eq(int, journal_read(l.j, 1, 2, 5, 1, &bytes), 0));
    cr_assert(eq(u64, bytes.last, 2));
    free(bytes.data);
    cr_assert(eq(int, journal_read(l.j, 1, 2, 5, 2 * bytes.bytes, &bytes), 0));
    cr_assert(eq(u64, bytes.last, 3));
    free(bytes.data);
    cr_assert(eq(int, journal_read(l.j, 1, 2, 5, 1 << 20, &bytes), 0));
    cr_assert(eq(u64, bytes.last, 5));
    free(bytes.data);
    lab_close(&l);
}

/* What was appended is sent to replicas at once: it is read before it is durable. */
Test(journal_read, entries_are_readable_before_they_are_flushed_and_gone_after_a_cut)
{
    struct journal_bytes bytes;
    struct lab l;

    lab_init(&l, 0);
    lab_append(&l, 1, 1, 0);
    lab_append(&l, 1, 1, 0);
    cr_assert(eq(int, journal_read(l.j, 1, 1, 2, 9999, &bytes), 0));
    free(bytes.data);
    lab_cut(&l, 1, 2);
    cr_assert(eq(int, journal_read(l.j, 1, 1, 2, 9999, &bytes), OTR_INVALID));
    lab_append(&l, 1, 2, 50);
    lab_read_all(&l, 1);
    lab_close(&l);
}

/* Damage that came after the start is noticed by whoever reads it. */
Test(journal_read, a_damaged_entry_is_reported)
{
    struct journal_reader *r;
    struct lab l;
    uint8_t byte = 0xFF;
    uint64_t at;

    lab_init(&l, 0);
    lab_append(&l, 1, 1, 10);
    lab_flush(&l);
    lab_kill(&l);
    lab_reopen(&l);
    at = (l.recovered[1].entries[0].place & ((1ULL << 40) - 1)) * 8;
    fake_disk_poke(l.disk, "00000001.log", at + 70, &byte, 1);
    r = journal_reader_new(l.j);
    cr_assert(eq(int, journal_reader_entries(r, 1, 1, 1, 1000), 0));
    cr_assert(eq(int, journal_reader_run(r, &l.msg), OTR_CORRUPT));
    cr_assert(strstr(l.msg.text, "shard 1") != NULL, "%s", l.msg.text);
    journal_reader_free(r);
    lab_close(&l);
}

/* Whole records at the wrong place are no better. */
Test(journal_read, an_entry_in_the_place_of_another_is_reported)
{
    struct journal_reader *r;
    uint8_t record[1024];
    uint64_t at[2];
    struct lab l;

    lab_init(&l, 0);
    lab_append(&l, 1, 1, 10);
    lab_append(&l, 1, 1, 10);
    lab_flush(&l);
    lab_kill(&l);
    lab_reopen(&l);
    for (int i = 0; i < 2; i++) {
        at[i] = (l.recovered[1].entries[i].place & ((1ULL << 40) - 1)) * 8;
    }
    cr_assert(lt(u64, at[1] - at[0], sizeof record));
    memcpy(record, fake_disk_bytes(l.disk, "00000001.log") + at[0], at[1] - at[0]);
    fake_disk_poke(l.disk, "00000001.log", at[1], record, at[1] - at[0]);
    r = journal_reader_new(l.j);
    cr_assert(eq(int, journal_reader_entries(r, 1, 1, 2, 1000), 0));
    cr_assert(eq(int, journal_reader_run(r, &l.msg), OTR_CORRUPT));
    journal_reader_free(r);
    lab_close(&l);
}

/* --- points ---------------------------------------------------------------------------------------------------------
 */

enum { POINTS = 300 };

struct points {
    journal_place places[POINTS];
    uint32_t bytes[POINTS];
};

/* One PUT per ten points; the point's vector tells its number, and every 50th is large. */
static void append_points(struct lab *l, struct points *points)
{
    uint8_t *body = malloc(100 << 10);
    char *metadata = malloc(50000);

    memset(metadata, 'x', 50000);
    for (size_t i = 0; i < POINTS; i += 10) {
        struct record_header h = {.shard = 1, .epoch = 1, .kind = RECORD_PUT, .index = i / 10 + 1};
        struct otr_point batch[10];
        float vectors[10];
        journal_place place;
        size_t at = PUT_HEADER_BYTES;

        for (size_t k = 0; k < 10; k++) {
            vectors[k] = (float)(i + k);
            batch[k] = (struct otr_point){.id = "id",
                                          .id_bytes = 2,
                                          .dimension = 1,
                                          .vector = &vectors[k],
                                          .metadata = metadata,
                                          .metadata_bytes = (i + k) % 50 == 19 ? 50000 : 30};
        }
        put_body_write(body, 1, batch, 10);
        h.body_bytes = (uint32_t)put_body_bytes(batch, 10);
        cr_assert(eq(int, journal_append(l->j, &h, body, &place), 0));
        for (size_t k = 0; k < 10; k++) {
            points->places[i + k] = place + (RECORD_HEADER_BYTES + at) / 8;
            points->bytes[i + k] = (uint32_t)point_bytes(1, 2, batch[k].metadata_bytes);
            at += points->bytes[i + k];
        }
        cr_assert(eq(int, lab_flush(l), 0));
    }
    free(body);
    free(metadata);
}

/* Points in any order, some twice, with a right hint, a wrong one or none. */
static void read_points(struct lab *l, const struct points *points, size_t count)
{
    struct journal_reader *r = journal_reader_new(l->j);
    size_t wanted[POINTS];
    struct otr_point p;

    for (size_t i = 0; i < count; i++) {
        uint64_t dice = fake_disk_random(&l->rng);
        uint32_t hint = dice >> 20 & 1 ? points->bytes[dice % POINTS] : (uint32_t)(dice >> 30 & 255);
        wanted[i] = dice % POINTS;
        cr_assert(eq(int, journal_reader_point(r, points->places[wanted[i]], hint), (int)i));
    }
    cr_assert(eq(int, journal_reader_run(r, &l->msg), 0), "%s", l->msg.text);
    for (size_t i = 0; i < count; i++) {
        cr_assert(eq(int, journal_reader_point_result(r, (int)i, &p), 0));
        cr_assert(eq(flt, p.vector[0], (float)wanted[i]));
        cr_assert(eq(u32, p.metadata_bytes, wanted[i] % 50 == 19 ? 50000 : 30));
    }
    journal_reader_free(r);
}

Test(journal_read, points_come_back_by_their_place)
{
    struct journal_reader *r;
    struct points points;
    struct otr_point p;
    struct lab l;

    lab_init(&l, 20000);
    append_points(&l, &points);
    for (size_t count = 1; count <= POINTS; count = count * 3 - 1) {
        read_points(&l, &points, count);
    }
    /* The newest one is in memory and needs no run. */
    r = journal_reader_new(l.j);
    cr_assert(eq(int, journal_reader_point(r, points.places[POINTS - 2], 0), 0));
    cr_assert(journal_reader_in_memory(r));
    cr_assert(eq(int, journal_reader_point_result(r, 0, &p), 0));
    cr_assert(eq(flt, p.vector[0], POINTS - 2));
    cr_assert(eq(int, journal_reader_point(r, points.places[0], 0), 1));
    cr_assert(not(journal_reader_in_memory(r)));
    journal_reader_free(r);
    lab_kill(&l);
    cr_assert(eq(int, journal_open(&l.j, &l.config, NULL, NULL, &l.msg), 0));
    read_points(&l, &points, POINTS);
    lab_close(&l);
}

Test(journal_read, a_place_without_a_point_is_corrupt)
{
    struct journal_reader *r;
    struct points points;
    struct otr_point p;
    struct lab l;
    uint8_t byte = 0x55;

    lab_init(&l, 0);
    append_points(&l, &points);
    fake_disk_poke(l.disk, "00000001.log", (points.places[3] & ((1ULL << 40) - 1)) * 8 + 30, &byte, 1);
    r = journal_reader_new(l.j);
    cr_assert(eq(int, journal_reader_point(r, points.places[3], 0), 0));              /* damaged on disk */
    cr_assert(eq(int, journal_reader_point(r, points.places[2] + 1, 0), 1));          /* no point begins here */
    cr_assert(eq(int, journal_reader_point(r, points.places[4], 0), 2));              /* fine */
    cr_assert(eq(int, journal_reader_point(r, (1ULL << 40) - 1, 0), 3));              /* no such segment */
    cr_assert(eq(int, journal_reader_point(r, (2ULL << 40) - 9, 0), 4));              /* behind the end of the file */
    cr_assert(eq(int, journal_reader_point(r, points.places[POINTS - 1] + 1, 0), 5)); /* in memory, no point */
    cr_assert(eq(int, journal_reader_run(r, &l.msg), 0));
    cr_assert(eq(int, journal_reader_point_result(r, 0, &p), OTR_CORRUPT));
    cr_assert(eq(int, journal_reader_point_result(r, 1, &p), OTR_CORRUPT));
    cr_assert(eq(int, journal_reader_point_result(r, 2, &p), 0));
    cr_assert(eq(flt, p.vector[0], 4));
    cr_assert(eq(int, journal_reader_point_result(r, 3, &p), OTR_CORRUPT));
    cr_assert(eq(int, journal_reader_point_result(r, 4, &p), OTR_CORRUPT));
    cr_assert(eq(int, journal_reader_point_result(r, 5, &p), OTR_CORRUPT));
    journal_reader_free(r);
    lab_close(&l);
}

Test(journal_read, a_failed_read_is_reported)
{
    struct journal_reader *r;
    struct points points;
    struct lab l;

    lab_init(&l, 0);
    append_points(&l, &points);
    r = journal_reader_new(l.j);
    cr_assert(eq(int, journal_reader_point(r, points.places[3], 0), 0));
    fake_disk_fail_call(l.disk, FAKE_DISK_READ, 1);
    cr_assert(eq(int, journal_reader_run(r, &l.msg), OTR_IO));
    journal_reader_free(r);
    lab_close(&l);
}
