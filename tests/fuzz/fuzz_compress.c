/* Compressed entries: the first byte is the encoding, the rest what a peer sent. What can be restored compresses to
 * something that restores to the same; and any bytes at all, taken as records and as points, come back byte for byte.
 *
 * Covers: sidecar/peer/compress.c */
#include "sidecar/peer/compress.h"
#include "tests/fuzz/fuzz.h"

static struct compress_pool *pool;

static void check_back(const struct compressed *packed, const uint8_t *data, size_t bytes)
{
    uint8_t *back;
    size_t back_bytes;

    if (packed->encoding == COMPRESS_PLAIN) {
        FUZZ_CHECK(packed->data == NULL);
        return;
    }
    FUZZ_CHECK(packed->bytes < bytes);
    FUZZ_CHECK(compress_restore(pool, packed->encoding, packed->data, packed->bytes, &back, &back_bytes) == 0);
    FUZZ_CHECK(back_bytes == bytes && memcmp(back, data, bytes) == 0);
    free(back);
    free(packed->data);
}

static void there_and_back(const uint8_t *data, size_t bytes)
{
    struct compressed packed;

    FUZZ_CHECK(compress_records(pool, COMPRESS_UNDERSTOOD, data, bytes, &packed) == 0);
    check_back(&packed, data, bytes);
    FUZZ_CHECK(compress_points(pool, COMPRESS_UNDERSTOOD, data, bytes, &packed) == 0);
    check_back(&packed, data, bytes);
    FUZZ_CHECK(compress_records(pool, 1 << COMPRESS_ZSTD, data, bytes, &packed) == 0);
    FUZZ_CHECK(packed.encoding != COMPRESS_SHUFFLED);
    check_back(&packed, data, bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    uint8_t *copy, *out = NULL;
    size_t out_bytes;
    int rv;

    if (bytes == 0) {
        return 0;
    }
    if (pool == NULL) {
        pool = compress_pool_new();
        FUZZ_CHECK(pool != NULL);
    }
    copy = (uint8_t *)fuzz_copy(data + 1, bytes - 1, 0);
    rv = compress_restore(pool, data[0] % 4, copy, bytes - 1, &out, &out_bytes);
    if (rv == 0) {
        FUZZ_CHECK(out_bytes > 0 && out_bytes <= COMPRESS_BYTES_MAX);
        there_and_back(out, out_bytes);
        free(out);
    } else {
        FUZZ_CHECK(rv == OTR_PROTO || rv == OTR_TOOBIG || rv == OTR_UNSUPPORTED);
        FUZZ_CHECK(out == NULL);
    }
    there_and_back(copy, bytes - 1);
    free(copy);
    return 0;
}
