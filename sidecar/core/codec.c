#define XXH_INLINE_ALL
#include "sidecar/core/codec.h"

#include <assert.h>
#include <xxhash.h>

/* Vectors are used where they stand in a record, so the machine's byte order must be the format's. */
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the record format is little-endian");
static_assert(sizeof(float) == 4, "vectors are stored as float32");
static_assert(RECORD_HEADER_BYTES == 8 + 4 + 4 + 8 + 2 + 2 + 4 + 8 + 8 + 16, "this is the record format");
static_assert(POINT_HEADER_BYTES == 4 + 4 + 4 + 4 + 2 + 6, "this is the record format");

enum {
    RECORD_OFFSET_BODY_BYTES = 8,
    RECORD_OFFSET_SHARD = 12,
    RECORD_OFFSET_EPOCH = 16,
    RECORD_OFFSET_KIND = 24,
    RECORD_OFFSET_FLAGS = 26,
    RECORD_OFFSET_RESERVED = 28,
    RECORD_OFFSET_INDEX = 32,
    RECORD_OFFSET_TIME = 40,
    RECORD_OFFSET_REQUEST_ID = 48,
    DROP_BODY_BYTES = 8,
};

static uint16_t load16(const uint8_t *bytes)
{
    uint16_t v;
    memcpy(&v, bytes, sizeof v);
    return v;
}

static uint32_t load32(const uint8_t *bytes)
{
    uint32_t v;
    memcpy(&v, bytes, sizeof v);
    return v;
}

static uint64_t load64(const uint8_t *bytes)
{
    uint64_t v;
    memcpy(&v, bytes, sizeof v);
    return v;
}

static void store16(uint8_t *bytes, uint16_t v)
{
    memcpy(bytes, &v, sizeof v);
}

static void store32(uint8_t *bytes, uint32_t v)
{
    memcpy(bytes, &v, sizeof v);
}

static void store64(uint8_t *bytes, uint64_t v)
{
    memcpy(bytes, &v, sizeof v);
}

static bool all_zero(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

static size_t round_up_8(size_t bytes)
{
    return (bytes + 7) & ~(size_t)7;
}

/* --- records ------------------------------------------------------------------------------------------------------ */

static bool kind_known(uint16_t kind)
{
    return (kind >= RECORD_PUT && kind <= RECORD_EPOCH) || (kind >= RECORD_LOCAL_FIRST && kind <= RECORD_REPAIR_POINTS);
}

void record_seal(uint8_t *out, struct record_header *h)
{
    size_t used = RECORD_HEADER_BYTES + (size_t)h->body_bytes;

    assert(kind_known(h->kind));
    assert(h->body_bytes <= OTR_BODY_MAX);
    store32(out + RECORD_OFFSET_BODY_BYTES, h->body_bytes);
    store32(out + RECORD_OFFSET_SHARD, h->shard);
    store64(out + RECORD_OFFSET_EPOCH, h->epoch);
    store16(out + RECORD_OFFSET_KIND, h->kind);
    store16(out + RECORD_OFFSET_FLAGS, 0);
    store32(out + RECORD_OFFSET_RESERVED, 0);
    store64(out + RECORD_OFFSET_INDEX, h->index);
    store64(out + RECORD_OFFSET_TIME, h->time_ms);
    memcpy(out + RECORD_OFFSET_REQUEST_ID, h->request_id.bytes, sizeof h->request_id.bytes);
    memset(out + used, 0, record_bytes(h->body_bytes) - used);
    h->checksum = XXH3_64bits(out + RECORD_OFFSET_BODY_BYTES, used - RECORD_OFFSET_BODY_BYTES);
    store64(out, h->checksum);
}

int record_header_read(const uint8_t *bytes, struct record_header *h)
{
    h->checksum = load64(bytes);
    h->body_bytes = load32(bytes + RECORD_OFFSET_BODY_BYTES);
    h->shard = load32(bytes + RECORD_OFFSET_SHARD);
    h->epoch = load64(bytes + RECORD_OFFSET_EPOCH);
    h->kind = load16(bytes + RECORD_OFFSET_KIND);
    h->index = load64(bytes + RECORD_OFFSET_INDEX);
    h->time_ms = load64(bytes + RECORD_OFFSET_TIME);
    memcpy(h->request_id.bytes, bytes + RECORD_OFFSET_REQUEST_ID, sizeof h->request_id.bytes);
    if (h->body_bytes > OTR_BODY_MAX || !kind_known(h->kind) || load16(bytes + RECORD_OFFSET_FLAGS) != 0 ||
        load32(bytes + RECORD_OFFSET_RESERVED) != 0) {
        return OTR_CORRUPT;
    }
    return 0;
}

int record_read(const uint8_t *bytes, size_t available, struct record_header *h)
{
    size_t used;
    size_t whole;

    if (available < RECORD_HEADER_BYTES) {
        return OTR_GONE;
    }
    if (record_header_read(bytes, h) != 0) {
        return OTR_CORRUPT;
    }
    used = RECORD_HEADER_BYTES + (size_t)h->body_bytes;
    whole = record_bytes(h->body_bytes);
    if (available < whole) {
        return OTR_GONE;
    }
    /* The padding is outside the checksum, but replicas must agree on every byte (DESIGN 4.6, invariant 3). */
    if (XXH3_64bits(bytes + RECORD_OFFSET_BODY_BYTES, used - RECORD_OFFSET_BODY_BYTES) != h->checksum ||
        !all_zero(bytes + used, whole - used)) {
        return OTR_CORRUPT;
    }
    return 0;
}

/* --- points ------------------------------------------------------------------------------------------------------- */

size_t point_bytes(uint32_t dimension, uint32_t id_bytes, uint32_t metadata_bytes)
{
    return round_up_8(POINT_HEADER_BYTES + (size_t)dimension * sizeof(float) + id_bytes + metadata_bytes);
}

void point_write(uint8_t *out, const struct otr_point *p)
{
    size_t vector_bytes = (size_t)p->dimension * sizeof(float);
    size_t used = POINT_HEADER_BYTES + vector_bytes + p->id_bytes + p->metadata_bytes;
    size_t whole = point_bytes(p->dimension, p->id_bytes, p->metadata_bytes);

    assert(p->dimension >= 1 && p->dimension <= OTR_DIMENSION_MAX);
    assert(p->id_bytes >= 1 && p->id_bytes <= OTR_POINT_ID_MAX);
    assert(p->metadata_bytes <= OTR_METADATA_MAX);
    store32(out + 4, (uint32_t)whole);
    store32(out + 8, p->dimension);
    store32(out + 12, p->metadata_bytes);
    store16(out + 16, (uint16_t)p->id_bytes);
    memset(out + 18, 0, 6);
    memcpy(out + POINT_HEADER_BYTES, p->vector, vector_bytes);
    memcpy(out + POINT_HEADER_BYTES + vector_bytes, p->id, p->id_bytes);
    if (p->metadata_bytes != 0) {
        memcpy(out + POINT_HEADER_BYTES + vector_bytes + p->id_bytes, p->metadata, p->metadata_bytes);
    }
    memset(out + used, 0, whole - used);
    store32(out, (uint32_t)XXH3_64bits(out + 4, used - 4));
}

int point_read(const uint8_t *bytes, size_t available, struct otr_point *p, size_t *used)
{
    size_t vector_bytes;
    size_t end;
    size_t whole;

    assert((uintptr_t)bytes % sizeof(float) == 0); /* The vector is used where it stands. */
    if (available < POINT_HEADER_BYTES) {
        return OTR_CORRUPT;
    }
    p->dimension = load32(bytes + 8);
    p->metadata_bytes = load32(bytes + 12);
    p->id_bytes = load16(bytes + 16);
    if (p->dimension < 1 || p->dimension > OTR_DIMENSION_MAX || p->metadata_bytes > OTR_METADATA_MAX ||
        p->id_bytes < 1 || p->id_bytes > OTR_POINT_ID_MAX || !all_zero(bytes + 18, 6)) {
        return OTR_CORRUPT;
    }
    vector_bytes = (size_t)p->dimension * sizeof(float);
    end = POINT_HEADER_BYTES + vector_bytes + p->id_bytes + p->metadata_bytes;
    whole = point_bytes(p->dimension, p->id_bytes, p->metadata_bytes);
    if (load32(bytes + 4) != whole || available < whole || (uint32_t)XXH3_64bits(bytes + 4, end - 4) != load32(bytes) ||
        !all_zero(bytes + end, whole - end)) {
        return OTR_CORRUPT;
    }
    p->vector = (const float *)(const void *)(bytes + POINT_HEADER_BYTES);
    p->id = (const char *)bytes + POINT_HEADER_BYTES + vector_bytes;
    p->metadata = p->metadata_bytes == 0 ? NULL : p->id + p->id_bytes;
    *used = whole;
    return 0;
}

/* --- bodies ------------------------------------------------------------------------------------------------------- */

size_t put_body_bytes(const struct otr_point *points, size_t count)
{
    size_t bytes = PUT_HEADER_BYTES;

    for (size_t i = 0; i < count; i++) {
        bytes += point_bytes(points[i].dimension, points[i].id_bytes, points[i].metadata_bytes);
    }
    return bytes;
}

size_t delete_body_bytes(const struct otr_point *points, size_t count)
{
    size_t bytes = DELETE_HEADER_BYTES;

    for (size_t i = 0; i < count; i++) {
        bytes += sizeof(uint16_t) + points[i].id_bytes;
    }
    return bytes;
}

static void body_header_write(uint8_t *out, uint64_t collection, size_t count)
{
    assert(count <= UINT32_MAX);
    store64(out, collection);
    store32(out + 8, (uint32_t)count);
    store32(out + 12, 0);
}

void put_body_write(uint8_t *out, uint64_t collection, const struct otr_point *points, size_t count)
{
    body_header_write(out, collection, count);
    out += PUT_HEADER_BYTES;
    for (size_t i = 0; i < count; i++) {
        point_write(out, &points[i]);
        out += point_bytes(points[i].dimension, points[i].id_bytes, points[i].metadata_bytes);
    }
}

void delete_body_write(uint8_t *out, uint64_t collection, const struct otr_point *points, size_t count)
{
    body_header_write(out, collection, count);
    out += DELETE_HEADER_BYTES;
    for (size_t i = 0; i < count; i++) {
        assert(points[i].id_bytes >= 1 && points[i].id_bytes <= OTR_POINT_ID_MAX);
        store16(out, (uint16_t)points[i].id_bytes);
        memcpy(out + sizeof(uint16_t), points[i].id, points[i].id_bytes);
        out += sizeof(uint16_t) + points[i].id_bytes;
    }
}

int body_iter_init(struct body_iter *it, uint16_t kind, const uint8_t *body, size_t body_bytes)
{
    *it = (struct body_iter){.bytes = body, .available = body_bytes};
    switch (kind) {
    case RECORD_DROP:
        if (body_bytes != DROP_BODY_BYTES) {
            return OTR_CORRUPT;
        }
        it->next = DROP_BODY_BYTES;
        break;
    case RECORD_PUT:
    case RECORD_SEED_POINTS: /* has a PUT's body */
    case RECORD_DELETE:
        if (body_bytes < PUT_HEADER_BYTES || load32(body + 12) != 0) {
            return OTR_CORRUPT;
        }
        it->left = load32(body + 8);
        it->next = PUT_HEADER_BYTES;
        break;
    default:
        return OTR_CORRUPT;
    }
    it->kind = kind;
    it->collection = load64(body);
    return 0;
}

static int body_next_id(struct body_iter *it, struct otr_point *p, size_t *used)
{
    const uint8_t *bytes = it->bytes + it->next;
    size_t available = it->available - it->next;

    if (available < sizeof(uint16_t)) {
        return OTR_CORRUPT;
    }
    *p = (struct otr_point){.id = (const char *)bytes + sizeof(uint16_t), .id_bytes = load16(bytes)};
    *used = sizeof(uint16_t) + p->id_bytes;
    return p->id_bytes < 1 || p->id_bytes > OTR_POINT_ID_MAX || *used > available ? OTR_CORRUPT : 0;
}

int body_next(struct body_iter *it, struct otr_point *p)
{
    size_t used = 0;
    int rv;

    if (it->left == 0) {
        return it->next == it->available ? OTR_NOTFOUND : OTR_CORRUPT;
    }
    rv = it->kind == RECORD_DELETE ? body_next_id(it, p, &used)
                                   : point_read(it->bytes + it->next, it->available - it->next, p, &used);
    if (rv != 0) {
        return rv;
    }
    it->offset = it->next;
    it->next += used;
    it->left--;
    return 0;
}

uint64_t point_hash(const char *id, size_t id_bytes)
{
    return XXH3_64bits(id, id_bytes);
}
