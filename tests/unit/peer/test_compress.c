/* What is compressed comes back byte for byte, and what could not have been compressed so is refused. */
#include "sidecar/peer/compress.h"

#include "sidecar/core/codec.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <zstd.h>

static struct compress_pool *pool;

static void begin(void)
{
    pool = compress_pool_new();
    cr_assert(ne(ptr, pool, NULL));
}

static void end(void)
{
    compress_pool_free(pool);
}

TestSuite(compress, .init = begin, .fini = end, .timeout = 120);

static uint64_t seed = 42;

static uint32_t next_random(void)
{
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(seed >> 33);
}

static float next_float(void)
{
    return (float)((next_random() % 2000001 / 1e6 - 1) / 16);
}

/* A record of up to `points_max` points of one dimension, at out; returns its bytes. */
static size_t add_put(uint8_t *out, uint32_t dimension, size_t points_max, uint64_t index)
{
    static float vectors[8][4096];
    static char ids[8][40], metadata[8][200];
    struct otr_point points[8];
    size_t count = 1 + next_random() % points_max;
    struct record_header h = {.kind = RECORD_PUT, .shard = 1, .epoch = 2, .index = index, .time_ms = index * 7};

    for (size_t i = 0; i < count; i++) {
        for (uint32_t d = 0; d < dimension; d++) {
            vectors[i][d] = next_float();
        }
        points[i] =
            (struct otr_point){.vector = vectors[i], .dimension = dimension, .id = ids[i], .metadata = metadata[i]};
        points[i].id_bytes = (uint16_t)(1 + next_random() % 39);
        points[i].metadata_bytes = next_random() % 200;
        memset(ids[i], 'a' + (int)i, sizeof ids[i]);
        memset(metadata[i], 'm', sizeof metadata[i]);
    }
    h.body_bytes = (uint32_t)put_body_bytes(points, count);
    put_body_write(out + RECORD_HEADER_BYTES, 99, points, count);
    record_seal(out, &h);
    return record_bytes(h.body_bytes);
}

static size_t add_other(uint8_t *out, uint64_t index)
{
    struct record_header h = {.kind = RECORD_EPOCH, .shard = 1, .epoch = 2, .index = index};
    struct otr_point points[3] = {
        {.id = "gone", .id_bytes = 4}, {.id = "x", .id_bytes = 1}, {.id = "lost", .id_bytes = 4}};

    if (next_random() % 2 == 0) {
        h.kind = RECORD_DELETE;
        h.body_bytes = (uint32_t)delete_body_bytes(points, 3);
        delete_body_write(out + RECORD_HEADER_BYTES, 99, points, 3);
    }
    record_seal(out, &h);
    return record_bytes(h.body_bytes);
}

static void check_restored(const struct compressed *packed, const uint8_t *data, size_t bytes, const char *what)
{
    uint8_t *back = NULL;
    size_t back_bytes = 0;
    int rv = compress_restore(pool, packed->encoding, packed->data, packed->bytes, &back, &back_bytes);

    cr_assert(zero(int, rv), "%s: %s", what, otr_strerror(rv));
    cr_assert(eq(sz, back_bytes, bytes), "%s", what);
    cr_assert(zero(int, memcmp(back, data, bytes)), "%s", what);
    cr_assert(lt(sz, packed->bytes, bytes), "%s", what);
    free(back);
}

/* Compresses both ways that there are, and compares what comes back. */
static void round_trip(const uint8_t *data, size_t bytes, uint32_t allowed, bool records, int encoding)
{
    struct compressed packed;
    char what[120];

    snprintf(what, sizeof what, "%zu bytes, allowed %u, %s", bytes, allowed, records ? "records" : "points");
    cr_assert(zero(int, records ? compress_records(pool, allowed, data, bytes, &packed)
                                : compress_points(pool, allowed, data, bytes, &packed)));
    if (encoding >= 0) {
        cr_assert(eq(int, (int)packed.encoding, encoding), "%s", what);
    }
    if (packed.encoding == COMPRESS_PLAIN) {
        cr_assert(eq(ptr, packed.data, NULL));
        return;
    }
    cr_assert(ne(int, (int)(allowed & 1U << packed.encoding), 0), "%s", what);
    check_restored(&packed, data, bytes, what);
    free(packed.data);
}

/* Records of all kinds, odd dimensions, whole and cut anywhere, alone and many. */
Test(compress, records_come_back)
{
    static const uint32_t dimensions[] = {1, 2, 3, 4, 5, 7, 8, 31, 128, 256, 1000, 4096};
    uint8_t *data = malloc(4 << 20);

    for (unsigned round = 0; round < 400; round++) {
        uint32_t dimension = dimensions[next_random() % (sizeof dimensions / sizeof dimensions[0])];
        unsigned records = 1 + next_random() % 20;
        size_t bytes = 0, cut;

        for (unsigned i = 0; i < records; i++) {
            bytes +=
                next_random() % 5 == 0 ? add_other(data + bytes, i + 1) : add_put(data + bytes, dimension, 8, i + 1);
        }
        round_trip(data, bytes, COMPRESS_UNDERSTOOD, true, -1);
        round_trip(data, bytes, 1 << COMPRESS_ZSTD, true, -1);
        round_trip(data, bytes, 1 << COMPRESS_SHUFFLED, true, -1);
        cut = next_random() % bytes;
        round_trip(data, cut, COMPRESS_UNDERSTOOD, true, -1);
        data[cut] ^= 0x55;
        round_trip(data, bytes, COMPRESS_UNDERSTOOD, true, -1);
        round_trip(data + cut, bytes - cut, COMPRESS_UNDERSTOOD, true, -1);
    }
    free(data);
}

/* The body of a PUT, as seeds carry it; and bytes that are none. */
Test(compress, points_come_back)
{
    uint8_t *data = malloc(1 << 20);
    struct record_header h;

    for (unsigned round = 0; round < 200; round++) {
        (void)add_put(data, 1 + next_random() % 700, 8, 5);
        cr_assert(zero(int, record_header_read(data, &h)));
        round_trip(data + RECORD_HEADER_BYTES, h.body_bytes, COMPRESS_UNDERSTOOD, false, -1);
    }
    for (size_t i = 0; i < 1000; i++) {
        data[i] = (uint8_t)next_random();
    }
    memset(data + 1000, 'x', 9000);
    round_trip(data, 10000, COMPRESS_UNDERSTOOD, false, COMPRESS_ZSTD);
    free(data);
}

/* Vectors shuffle, other records do not; noise, nothing, too much and a peer that understands nothing stay plain. */
Test(compress, the_encoding_follows_what_there_is)
{
    uint8_t *data = calloc(1, COMPRESS_BYTES_MAX + 1);
    size_t bytes = 0;

    for (uint64_t i = 1; i <= 50; i++) {
        bytes += add_put(data + bytes, 256, 1, i);
    }
    round_trip(data, bytes, COMPRESS_UNDERSTOOD, true, COMPRESS_SHUFFLED);
    round_trip(data, bytes, 1 << COMPRESS_ZSTD, true, COMPRESS_ZSTD);
    round_trip(data, bytes, 0, true, COMPRESS_PLAIN);
    round_trip(data, bytes, 1, true, COMPRESS_PLAIN);
    round_trip(data, 0, COMPRESS_UNDERSTOOD, true, COMPRESS_PLAIN);
    bytes = 0;
    for (uint64_t i = 1; i <= 50; i++) {
        bytes += add_other(data + bytes, i);
    }
    round_trip(data, bytes, COMPRESS_UNDERSTOOD, true, COMPRESS_ZSTD);
    memset(data, 0, COMPRESS_BYTES_MAX + 1);
    round_trip(data, COMPRESS_BYTES_MAX, COMPRESS_UNDERSTOOD, true, COMPRESS_ZSTD);
    round_trip(data, COMPRESS_BYTES_MAX + 1, COMPRESS_UNDERSTOOD, true, COMPRESS_PLAIN);
    for (size_t i = 0; i < 100000; i++) {
        data[i] = (uint8_t)next_random();
    }
    round_trip(data, 100000, COMPRESS_UNDERSTOOD, true, COMPRESS_PLAIN);
    free(data);
}

/* Shuffling is there for something. */
Test(compress, shuffled_vectors_are_smaller)
{
    uint8_t *data = malloc(1 << 20);
    struct compressed shuffled, plain;
    size_t bytes = 0;

    for (uint64_t i = 1; i <= 400; i++) {
        bytes += add_put(data + bytes, 256, 1, i);
    }
    cr_assert(zero(int, compress_records(pool, COMPRESS_UNDERSTOOD, data, bytes, &shuffled)));
    cr_assert(zero(int, compress_records(pool, 1 << COMPRESS_ZSTD, data, bytes, &plain)));
    cr_assert(ne(ptr, plain.data, NULL));
    cr_assert(lt(sz, shuffled.bytes * 21 / 20, plain.bytes));
    free(shuffled.data);
    free(plain.data);
    free(data);
}

/* --- what is refused ---------------------------------------------------------------------------------------------- */

static int restored(uint32_t encoding, const uint8_t *data, size_t bytes)
{
    uint8_t *back = NULL;
    size_t back_bytes = 0;
    int rv = compress_restore(pool, encoding, data, bytes, &back, &back_bytes);

    cr_assert(eq(int, rv != 0, back == NULL));
    free(back);
    return rv;
}

/* A frame of this content behind this size. */
static size_t frame(uint8_t *out, size_t room, uint32_t size, const void *content, size_t bytes)
{
    size_t packed = ZSTD_compress(out + 4, room - 4, content, bytes, 1);

    cr_assert(not(ZSTD_isError(packed)));
    memcpy(out, &size, 4);
    return 4 + packed;
}

Test(compress, sizes_that_lie_are_refused)
{
    size_t zeros_bytes = 64 << 20, room = 1 << 20, bytes;
    uint8_t *zeros = calloc(1, zeros_bytes);
    uint8_t *out = malloc(room);

    bytes = frame(out, room, 1000, zeros, 1000);
    cr_assert(zero(int, restored(COMPRESS_ZSTD, out, bytes)));
    cr_assert(eq(int, restored(COMPRESS_PLAIN, out, bytes), OTR_UNSUPPORTED));
    cr_assert(eq(int, restored(3, out, bytes), OTR_UNSUPPORTED));
    cr_assert(eq(int, restored(UINT32_MAX, out, bytes), OTR_UNSUPPORTED));
    for (size_t cut = 0; cut < bytes; cut++) {
        cr_assert(eq(int, restored(COMPRESS_ZSTD, out, cut), OTR_PROTO), "cut at %zu", cut);
        cr_assert(eq(int, restored(COMPRESS_SHUFFLED, out, cut), OTR_PROTO), "cut at %zu", cut);
    }
    out[bytes] = 0; /* something behind the frame */
    cr_assert(eq(int, restored(COMPRESS_ZSTD, out, bytes + 1), OTR_PROTO));
    bytes = frame(out, room, 1001, zeros, 1000);
    cr_assert(eq(int, restored(COMPRESS_ZSTD, out, bytes), OTR_PROTO));
    bytes = frame(out, room, 999, zeros, 1000);
    cr_assert(eq(int, restored(COMPRESS_ZSTD, out, bytes), OTR_PROTO));
    bytes = frame(out, room, 0, zeros, 0);
    cr_assert(eq(int, restored(COMPRESS_ZSTD, out, bytes), OTR_PROTO));
    /* Bombs: 64 MiB in some KB, said openly and not. */
    bytes = frame(out, room, (uint32_t)zeros_bytes, zeros, zeros_bytes);
    cr_assert(lt(sz, bytes, 10000));
    cr_assert(eq(int, restored(COMPRESS_ZSTD, out, bytes), OTR_TOOBIG));
    cr_assert(eq(int, restored(COMPRESS_SHUFFLED, out, bytes), OTR_TOOBIG));
    bytes = frame(out, room, 1000, zeros, zeros_bytes);
    cr_assert(eq(int, restored(COMPRESS_ZSTD, out, bytes), OTR_PROTO));
    cr_assert(eq(int, restored(COMPRESS_SHUFFLED, out, bytes), OTR_PROTO));
    free(out);
    free(zeros);
}

/* A frame that does not say how large it gets. */
Test(compress, unknown_content_size_is_refused)
{
    static uint8_t content[1000], out[2000];
    ZSTD_CCtx *c = ZSTD_createCCtx();
    uint32_t size = sizeof content;
    size_t packed;

    ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 0);
    packed = ZSTD_compress2(c, out + 4, sizeof out - 4, content, sizeof content);
    memcpy(out, &size, 4);
    cr_assert(eq(int, restored(COMPRESS_ZSTD, out, 4 + packed), OTR_PROTO));
    ZSTD_freeCCtx(c);
}

/* Descriptions of pieces that do not fit the original. */
Test(compress, pieces_that_lie_are_refused)
{
    static uint8_t out[4096];
    uint32_t content[16] = {1, 4, 8};
    size_t bytes = frame(out, sizeof out, 20, content, 4 + 8 + 20);

    cr_assert(zero(int, restored(COMPRESS_SHUFFLED, out, bytes)));
    static const struct {
        uint32_t count, before, vector;
    } wrong[] = {
        {0, 4, 8},  {2, 4, 8},          {UINT32_MAX, 4, 8},          {1, 4, 7},  {1, 4, 20},
        {1, 21, 4}, {1, UINT32_MAX, 8}, {1, 4, UINT32_MAX / 4 * 4U}, {1, 17, 4}, {1, 4, 0},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        content[0] = wrong[i].count;
        content[1] = wrong[i].before;
        content[2] = wrong[i].vector;
        bytes = frame(out, sizeof out, 20, content, 4 + 8 + 20);
        cr_assert(eq(int, restored(COMPRESS_SHUFFLED, out, bytes), OTR_PROTO), "number %zu", i);
    }
}

/* Any byte changed: refused, or other bytes of the same size, which the records' checksums are for. */
Test(compress, damage_is_harmless)
{
    uint8_t *data = malloc(1 << 20);
    struct compressed packed;
    size_t bytes = 0;

    for (uint64_t i = 1; i <= 4; i++) {
        bytes += add_put(data + bytes, 64, 1, i);
    }
    cr_assert(zero(int, compress_records(pool, COMPRESS_UNDERSTOOD, data, bytes, &packed)));
    cr_assert(eq(int, (int)packed.encoding, (int)COMPRESS_SHUFFLED));
    for (size_t at = 0; at < packed.bytes; at++) {
        for (unsigned change = 1; change < 256; change <<= 1) {
            packed.data[at] ^= (uint8_t)change;
            (void)restored(packed.encoding, packed.data, packed.bytes);
            packed.data[at] ^= (uint8_t)change;
        }
        (void)restored(packed.encoding, packed.data, at);
    }
    check_restored(&packed, data, bytes, "undamaged");
    free(packed.data);
    free(data);
}
