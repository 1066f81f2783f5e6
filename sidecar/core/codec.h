/* The journal's record format, which is also what travels between peers. Frozen: changing it needs a new format number
 * in the segment header (sidecar/log/journal.h).
 *
 * A record is a header of 64 bytes, a body, and zeros up to the next multiple of 8. Little-endian:
 *
 *   offset 0  8 bytes  XXH3 (64 bits) of bytes 8..63 and the body
 *          8  4        length of the body, without the padding
 *         12  4        shard
 *         16  8        epoch of the writing primary
 *         24  2        kind
 *         26  2        flags, 0
 *         28  4        reserved, 0
 *         32  8        index in the shard, previous + 1
 *         40  8        time, ms since 1970, set by the primary that accepted the write
 *         48  16       request id, zeros when none
 *         64  ...      body
 *
 * Entries (kinds below RECORD_LOCAL_FIRST) are replicated byte for byte, checksum included: an entry inherited by a
 * later primary keeps its epoch, so its bytes never change. Local records stay in one node's journal.
 *
 *   PUT      u64 collection, u32 count, u32 0, then `count` points, each aligned to 8:
 *              offset 0  4  low 32 bits of XXH3 of bytes 4..end-of-metadata
 *                     4  4  length of the point with its padding
 *                     8  4  dimension
 *                    12  4  length of the metadata
 *                    16  2  length of the id
 *                    18  6  0
 *                    24  .. vector (float32), id, metadata, zeros up to a multiple of 8
 *            so that one point can be read and verified alone.
 *   DELETE   u64 collection, u32 count, u32 0, then `count` times: u16 length, id
 *   DROP     u64 collection: all its points are gone
 *   EPOCH    empty: the first entry of an epoch (PROTOCOL J1)
 *
 * Ids of collections are random 64-bit numbers drawn when the collection is created, so that a dropped and re-created
 * name is another collection. Pure functions; any thread. */
#ifndef OUTRIGGER_CORE_CODEC_H
#define OUTRIGGER_CORE_CODEC_H

#include "outrigger/err.h"
#include "outrigger/types.h"

enum {
    RECORD_HEADER_BYTES = 64,
    POINT_HEADER_BYTES = 24,
    PUT_HEADER_BYTES = 16,
    DELETE_HEADER_BYTES = 16,
};

enum record_kind {
    RECORD_PUT = 1,
    RECORD_DELETE = 2,
    RECORD_DROP = 3,
    RECORD_EPOCH = 4,
    RECORD_LOCAL_FIRST = 32, /* from here on: sidecar/log only */
    RECORD_SEGMENT = 32,
    RECORD_BATCH = 33,
    RECORD_META = 34,
    RECORD_CUT = 35,
    RECORD_SEED_BEGIN = 36,
    RECORD_SEED_POINTS = 37,
    RECORD_SEED_END = 38,
    RECORD_KEPT_HEAD = 39,
    RECORD_KEPT_POINTS = 40,
    RECORD_KEPT_DELETES = 41,
    RECORD_KEPT_DROP = 42,
    RECORD_KEPT_IDS = 43,
    RECORD_REPAIR_POINTS = 44,
};

struct record_header {
    uint64_t checksum;
    uint32_t body_bytes;
    otr_shard shard;
    uint64_t epoch;
    uint16_t kind;
    uint64_t index;
    uint64_t time_ms;
    struct otr_request_id request_id;
};

/* Bytes a record takes, padding included. */
static inline size_t record_bytes(size_t body_bytes)
{
    return RECORD_HEADER_BYTES + ((body_bytes + 7) & ~(size_t)7);
}

/* Writes header, checksum and padding around a body that already stands at out + RECORD_HEADER_BYTES. out has
 * record_bytes(h->body_bytes) bytes. h->checksum is ignored and set. */
void record_seal(uint8_t *out, struct record_header *h);

/* Reads a header of RECORD_HEADER_BYTES bytes without verifying the checksum; OTR_CORRUPT when lengths, flags or kind
 * are impossible. */
OTR_MUST_CHECK int record_header_read(const uint8_t *bytes, struct record_header *h);

/* Reads and verifies the record at bytes[0..available): OTR_CORRUPT, or OTR_GONE when it does not end within available.
 */
OTR_MUST_CHECK int record_read(const uint8_t *bytes, size_t available, struct record_header *h);

/* --- points ------------------------------------------------------------------------------------------------------- */

/* Bytes of one encoded point. */
size_t point_bytes(uint32_t dimension, uint32_t id_bytes, uint32_t metadata_bytes);
/* Encodes; out is aligned to 8 and has point_bytes() bytes. */
void point_write(uint8_t *out, const struct otr_point *p);
/* Decodes and verifies a point at bytes[0..available); p points into bytes. *used is its length with padding. */
OTR_MUST_CHECK int point_read(const uint8_t *bytes, size_t available, struct otr_point *p, size_t *used);

/* Bytes of the body of a PUT with these points; of a DELETE with these ids. */
size_t put_body_bytes(const struct otr_point *points, size_t count);
size_t delete_body_bytes(const struct otr_point *points, size_t count);
/* Write the body; out is aligned to 8. */
void put_body_write(uint8_t *out, uint64_t collection, const struct otr_point *points, size_t count);
void delete_body_write(uint8_t *out, uint64_t collection, const struct otr_point *points, size_t count);

/* Walks the points of a PUT, the ids of a DELETE (only id and id_bytes are set), the collection of a DROP (no points).
 */
struct body_iter {
    const uint8_t *bytes;
    size_t available;
    size_t offset; /* of the point that body_next returned last: from the start of the body */
    size_t next;
    uint64_t collection;
    uint32_t left;
    uint16_t kind;
};
/* OTR_CORRUPT when the body is shorter than its header or of another kind. */
OTR_MUST_CHECK int body_iter_init(struct body_iter *it, uint16_t kind, const uint8_t *body, size_t body_bytes);
/* 0 and *p; OTR_NOTFOUND at the end; OTR_CORRUPT. */
OTR_MUST_CHECK int body_next(struct body_iter *it, struct otr_point *p);

/* Place of a point id in the hash space and in the tables: the low 32 bits route (DESIGN 2), all 64 index. */
uint64_t point_hash(const char *id, size_t id_bytes);

#endif
