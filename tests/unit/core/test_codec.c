#include "sidecar/core/codec.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdlib.h>

static const float vector[] = {1.0F, -2.5F, 0.0F};

static const struct otr_point points[] = {
    {.id = "a", .id_bytes = 1, .dimension = 3, .vector = vector, .metadata = "{\"k\":1}", .metadata_bytes = 7},
    {.id = "bcdefgh", .id_bytes = 7, .dimension = 1, .vector = vector + 1},
    {.id = "x\xC3\xA4", .id_bytes = 3, .dimension = 2, .vector = vector, .metadata = "{}", .metadata_bytes = 2},
};
enum { POINTS_COUNT = sizeof points / sizeof points[0] };

/* A sealed PUT of the three points. malloc'd, so that a byte read beyond it is seen by ASan and valgrind. */
static uint8_t *put_record(struct record_header *h, size_t *bytes)
{
    size_t body_bytes = put_body_bytes(points, POINTS_COUNT);
    uint8_t *out;

    *h = (struct record_header){.body_bytes = (uint32_t)body_bytes,
                                .shard = 7,
                                .epoch = 8,
                                .kind = RECORD_PUT,
                                .index = 9,
                                .time_ms = 10,
                                .request_id = {{1, 2, 3}}};
    *bytes = record_bytes(body_bytes);
    out = malloc(*bytes);
    cr_assert(out != NULL);
    memset(out, 0xEE, *bytes);
    put_body_write(out + RECORD_HEADER_BYTES, 0x1122334455667788, points, POINTS_COUNT);
    record_seal(out, h);
    return out;
}

static void assert_same_point(const struct otr_point *got, const struct otr_point *want)
{
    cr_assert(eq(u32, got->id_bytes, want->id_bytes));
    cr_assert(memcmp(got->id, want->id, want->id_bytes) == 0);
    cr_assert(eq(u32, got->dimension, want->dimension));
    cr_assert(memcmp(got->vector, want->vector, want->dimension * sizeof(float)) == 0);
    cr_assert(eq(u32, got->metadata_bytes, want->metadata_bytes));
    cr_assert(eq(int, got->metadata == NULL, want->metadata_bytes == 0));
    if (want->metadata_bytes != 0) {
        cr_assert(memcmp(got->metadata, want->metadata, want->metadata_bytes) == 0);
    }
}

Test(codec, record_comes_back_as_written)
{
    struct record_header in;
    struct record_header h;
    size_t bytes;
    uint8_t *record = put_record(&in, &bytes);

    cr_assert(eq(int, record_read(record, bytes, &h), 0));
    cr_assert(eq(u64, h.checksum, in.checksum));
    cr_assert(eq(u32, h.body_bytes, in.body_bytes));
    cr_assert(eq(u32, h.shard, 7));
    cr_assert(eq(u64, h.epoch, 8));
    cr_assert(eq(u16, h.kind, RECORD_PUT));
    cr_assert(eq(u64, h.index, 9));
    cr_assert(eq(u64, h.time_ms, 10));
    cr_assert(memcmp(&h.request_id, &in.request_id, sizeof h.request_id) == 0);
    free(record);
}

/* The format is frozen: journals on disk and peers of another version rely on every byte. */
Test(codec, bytes_on_disk_never_change)
{
    /* clang-format off */
    static const uint8_t golden[] = {
        0x47, 0xde, 0xc4, 0x53, 0x16, 0x83, 0xae, 0xba, 0x38, 0x00, 0x00, 0x00, 0x04, 0x03, 0x02, 0x01,
        0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x09, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x01, 0x02, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    };
    static const uint8_t golden_point[] = {
        0x41, 0x97, 0xa7, 0x8c, 0x28, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00,
        0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x80, 0x3f, 0x00, 0x00, 0x20, 0xc0,
        'x',  0xC3, 0xA4, '{',  '}',  0x00, 0x00, 0x00,
    };
    /* clang-format on */
    _Alignas(8) uint8_t out[RECORD_HEADER_BYTES + 56];
    struct record_header h = {.body_bytes = 56,
                              .shard = 0x01020304,
                              .epoch = 8,
                              .kind = RECORD_PUT,
                              .index = 9,
                              .time_ms = 10,
                              .request_id = {{1, 2, 3}}};

    cr_assert(eq(sz, put_body_bytes(&points[2], 1), 56));
    put_body_write(out + RECORD_HEADER_BYTES, 0x1122334455667788, &points[2], 1);
    record_seal(out, &h);
    cr_assert(memcmp(out, golden, sizeof golden) == 0);
    cr_assert(memcmp(out + sizeof golden, golden_point, sizeof golden_point) == 0);
}

Test(codec, a_cut_record_does_not_end)
{
    struct record_header h;
    size_t bytes;
    uint8_t *record = put_record(&h, &bytes);

    for (size_t n = 0; n < bytes; n++) {
        uint8_t *part = malloc(n + 1);
        memcpy(part, record, n);
        cr_assert(eq(int, record_read(part, n, &h), OTR_GONE), "at %zu", n);
        free(part);
    }
    free(record);
}

/* Any flipped bit, padding included, is seen. (In the length it may look like a record that does not end.) */
Test(codec, every_flipped_bit_is_seen)
{
    struct record_header h;
    size_t bytes;
    uint8_t *record = put_record(&h, &bytes);

    for (size_t bit = 0; bit < bytes * 8; bit++) {
        int rv;
        record[bit / 8] ^= (uint8_t)(1 << bit % 8);
        rv = record_read(record, bytes, &h);
        cr_assert(rv == OTR_CORRUPT || (rv == OTR_GONE && bit / 64 == 1), "bit %zu", bit);
        record[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    cr_assert(eq(int, record_read(record, bytes, &h), 0));
    free(record);
}

static int seal_and_read_header(uint32_t body_bytes, uint16_t kind, uint16_t flags, uint32_t reserved)
{
    uint8_t bytes[RECORD_HEADER_BYTES] = {0};
    struct record_header h;

    memcpy(bytes + 8, &body_bytes, sizeof body_bytes);
    memcpy(bytes + 24, &kind, sizeof kind);
    memcpy(bytes + 26, &flags, sizeof flags);
    memcpy(bytes + 28, &reserved, sizeof reserved);
    return record_header_read(bytes, &h);
}

Test(codec, impossible_headers_are_refused)
{
    cr_assert(eq(int, seal_and_read_header(0, RECORD_EPOCH, 0, 0), 0));
    cr_assert(eq(int, seal_and_read_header(OTR_BODY_MAX, RECORD_SEED_END, 0, 0), 0));
    cr_assert(eq(int, seal_and_read_header(OTR_BODY_MAX + 1, RECORD_PUT, 0, 0), OTR_CORRUPT));
    cr_assert(eq(int, seal_and_read_header(UINT32_MAX, RECORD_PUT, 0, 0), OTR_CORRUPT));
    cr_assert(eq(int, seal_and_read_header(0, 0, 0, 0), OTR_CORRUPT));
    cr_assert(eq(int, seal_and_read_header(0, RECORD_EPOCH + 1, 0, 0), OTR_CORRUPT));
    cr_assert(eq(int, seal_and_read_header(0, RECORD_REPAIR_POINTS + 1, 0, 0), OTR_CORRUPT));
    cr_assert(eq(int, seal_and_read_header(0, RECORD_PUT, 1, 0), OTR_CORRUPT));
    cr_assert(eq(int, seal_and_read_header(0, RECORD_PUT, 0, 1), OTR_CORRUPT));
}

Test(codec, points_of_a_put_are_walked_in_order)
{
    struct record_header h;
    size_t bytes;
    uint8_t *record = put_record(&h, &bytes);
    struct body_iter it;
    struct otr_point p;

    cr_assert(eq(int, body_iter_init(&it, RECORD_PUT, record + RECORD_HEADER_BYTES, h.body_bytes), 0));
    cr_assert(eq(u64, it.collection, 0x1122334455667788));
    for (size_t i = 0; i < POINTS_COUNT; i++) {
        struct otr_point again;
        size_t used;
        cr_assert(eq(int, body_next(&it, &p), 0));
        assert_same_point(&p, &points[i]);
        /* One point can be read alone, by its offset. */
        cr_assert(eq(int, point_read(it.bytes + it.offset, it.available - it.offset, &again, &used), 0));
        assert_same_point(&again, &points[i]);
    }
    cr_assert(eq(int, body_next(&it, &p), OTR_NOTFOUND));
    cr_assert(eq(int, body_next(&it, &p), OTR_NOTFOUND));
    free(record);
}

Test(codec, a_point_alone_shows_every_flipped_bit_and_every_cut)
{
    size_t bytes = point_bytes(3, 1, 7);
    uint8_t *out = malloc(bytes);
    struct otr_point p;
    size_t used;

    point_write(out, &points[0]);
    cr_assert(eq(int, point_read(out, bytes, &p, &used), 0));
    cr_assert(eq(sz, used, bytes));
    for (size_t bit = 0; bit < bytes * 8; bit++) {
        out[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cr_assert(eq(int, point_read(out, bytes, &p, &used), OTR_CORRUPT), "bit %zu", bit);
        out[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t n = 0; n < bytes; n++) {
        cr_assert(eq(int, point_read(out, n, &p, &used), OTR_CORRUPT), "at %zu", n);
    }
    free(out);
}

Test(codec, ids_of_a_delete_are_walked_in_order)
{
    size_t bytes = delete_body_bytes(points, POINTS_COUNT);
    uint8_t *body = malloc(bytes);
    struct body_iter it;
    struct otr_point p;

    delete_body_write(body, 5, points, POINTS_COUNT);
    cr_assert(eq(int, body_iter_init(&it, RECORD_DELETE, body, bytes), 0));
    cr_assert(eq(u64, it.collection, 5));
    for (size_t i = 0; i < POINTS_COUNT; i++) {
        cr_assert(eq(int, body_next(&it, &p), 0));
        cr_assert(eq(u32, p.id_bytes, points[i].id_bytes));
        cr_assert(memcmp(p.id, points[i].id, p.id_bytes) == 0);
    }
    cr_assert(eq(int, body_next(&it, &p), OTR_NOTFOUND));
    for (size_t n = 0; n < bytes; n++) {
        int rv = body_iter_init(&it, RECORD_DELETE, body, n);
        while (rv == 0) {
            rv = body_next(&it, &p);
        }
        cr_assert(eq(int, rv, OTR_CORRUPT), "cut at %zu", n);
    }
    free(body);
}

Test(codec, bodies_that_do_not_add_up_are_refused)
{
    _Alignas(8) uint8_t body[256];
    size_t bytes = put_body_bytes(points, 2);
    struct body_iter it;
    struct otr_point p;

    /* Bytes behind the last point. */
    put_body_write(body, 1, points, 2);
    memset(body + bytes, 0, 8);
    cr_assert(eq(int, body_iter_init(&it, RECORD_PUT, body, bytes + 8), 0));
    cr_assert(eq(int, body_next(&it, &p), 0));
    cr_assert(eq(int, body_next(&it, &p), 0));
    cr_assert(eq(int, body_next(&it, &p), OTR_CORRUPT));
    /* More points announced than there are. */
    body[8] = 3;
    cr_assert(eq(int, body_iter_init(&it, RECORD_PUT, body, bytes), 0));
    cr_assert(eq(int, body_next(&it, &p), 0));
    cr_assert(eq(int, body_next(&it, &p), 0));
    cr_assert(eq(int, body_next(&it, &p), OTR_CORRUPT));
    /* A reserved field, a kind without a body, a DROP of another length. */
    body[12] = 1;
    cr_assert(eq(int, body_iter_init(&it, RECORD_PUT, body, bytes), OTR_CORRUPT));
    cr_assert(eq(int, body_iter_init(&it, RECORD_EPOCH, body, 0), OTR_CORRUPT));
    cr_assert(eq(int, body_iter_init(&it, RECORD_DROP, body, 7), OTR_CORRUPT));
    cr_assert(eq(int, body_iter_init(&it, RECORD_DROP, body, 9), OTR_CORRUPT));
    cr_assert(eq(int, body_iter_init(&it, RECORD_DROP, body, 8), 0));
    cr_assert(eq(u64, it.collection, 1));
    cr_assert(eq(int, body_next(&it, &p), OTR_NOTFOUND));
}

Test(codec, the_place_of_an_id_never_changes)
{
    cr_assert(eq(u64, point_hash("", 0), 0x2d06800538d394c2)); /* XXH3's published value */
    cr_assert(eq(u64, point_hash("a", 1), 0xe6c632b61e964e1f));
}

Test(codec, sealing_an_unknown_kind_stops_the_process, .signal = SIGABRT)
{
    uint8_t out[RECORD_HEADER_BYTES];
    struct record_header h = {.kind = 5};

    record_seal(out, &h);
}
