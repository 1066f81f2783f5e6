/* Records, as they stand in journals and come from peers, and the bodies in them. A record that is accepted seals to
 * the same bytes again, and so do its points and ids.
 *
 * Covers: sidecar/core/codec.c */
#include "sidecar/core/codec.h"
#include "tests/fuzz/fuzz.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Points with the body that they came from. */
static void check_body(const struct record_header *h, const uint8_t *body)
{
    struct otr_point *points;
    struct otr_point p;
    struct body_iter it;
    size_t count = 0;
    uint8_t *again;
    int rv;

    if (body_iter_init(&it, h->kind, body, h->body_bytes) != 0) {
        return;
    }
    points = calloc(h->body_bytes / 2 + 1, sizeof *points);
    FUZZ_CHECK(points != NULL);
    while ((rv = body_next(&it, &p)) == 0) {
        FUZZ_CHECK(p.id_bytes >= 1 && p.id_bytes <= OTR_POINT_ID_MAX && it.next <= h->body_bytes);
        points[count++] = p;
    }
    FUZZ_CHECK(rv == OTR_NOTFOUND || rv == OTR_CORRUPT);
    if (rv == OTR_NOTFOUND && h->kind != RECORD_DROP) {
        bool erase = h->kind == RECORD_DELETE;
        size_t bytes = erase ? delete_body_bytes(points, count) : put_body_bytes(points, count);

        FUZZ_CHECK(bytes == h->body_bytes);
        again = (uint8_t *)fuzz_copy("", 0, bytes);
        if (erase) {
            delete_body_write(again, it.collection, points, count);
        } else {
            put_body_write(again, it.collection, points, count);
        }
        FUZZ_CHECK(memcmp(again, body, bytes) == 0);
        free(again);
    }
    free(points);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    uint8_t *record = (uint8_t *)fuzz_copy(data, bytes, 0);
    struct record_header h;
    int rv = record_read(record, bytes, &h);

    FUZZ_CHECK(rv == 0 || rv == OTR_CORRUPT || rv == OTR_GONE);
    if (rv == 0) {
        size_t whole = record_bytes(h.body_bytes);
        uint8_t *again = (uint8_t *)fuzz_copy(record, whole, 0);

        memset(again, 0xA5, RECORD_HEADER_BYTES);
        record_seal(again, &h);
        FUZZ_CHECK(whole <= bytes && memcmp(again, record, whole) == 0);
        free(again);
        check_body(&h, record + RECORD_HEADER_BYTES);
    }
    free(record);
    return 0;
}

/* --- mutations that keep lengths and checksums right ----------------------------------------------------------------
 */

static void fix_points(uint8_t *body, size_t bytes)
{
    for (size_t at = PUT_HEADER_BYTES; at + POINT_HEADER_BYTES <= bytes;) {
        uint32_t dimension, metadata_bytes, whole;
        uint16_t id_bytes;
        size_t used;

        memcpy(&dimension, body + at + 8, 4);
        memcpy(&metadata_bytes, body + at + 12, 4);
        memcpy(&id_bytes, body + at + 16, 2);
        whole = (uint32_t)point_bytes(dimension, id_bytes, metadata_bytes);
        used = POINT_HEADER_BYTES + (size_t)dimension * 4 + id_bytes + metadata_bytes;
        if (dimension > OTR_DIMENSION_MAX || metadata_bytes > OTR_METADATA_MAX || whole > bytes - at) {
            return;
        }
        memcpy(body + at + 4, &whole, 4);
        memset(body + at + used, 0, whole - used);
        *(uint32_t *)(void *)(body + at) = (uint32_t)XXH3_64bits(body + at + 4, used - 4);
        at += whole;
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t bytes_max, unsigned seed)
{
    struct record_header h;
    uint8_t *copy;

    bytes = LLVMFuzzerMutate(data, bytes, bytes_max) & ~(size_t)7;
    if (bytes < RECORD_HEADER_BYTES || seed % 8 == 0) {
        return bytes;
    }
    copy = (uint8_t *)fuzz_copy(data, bytes, 0);
    if (record_header_read(copy, &h) != 0) {
        h.kind = (uint16_t)(RECORD_PUT + seed % 4);
        h.body_bytes = (uint32_t)bytes;
    }
    if (record_bytes(h.body_bytes) > bytes) {
        h.body_bytes = (uint32_t)(bytes - RECORD_HEADER_BYTES);
    }
    if (h.kind == RECORD_PUT || h.kind == RECORD_SEED_POINTS) {
        fix_points(copy + RECORD_HEADER_BYTES, h.body_bytes);
    }
    record_seal(copy, &h);
    memcpy(data, copy, bytes);
    free(copy);
    return bytes;
}
