/* Journal records and points made smaller for the wire, and back, byte for byte. What ReplicaMessage.entries and
 * SeedFrame.Points.body hold in each encoding, little-endian:
 *
 *   0 plain
 *   1 zstd      u32 bytes of the original, then one zstd frame of it
 *   2 shuffled  the same, but what is in the frame is the original taken apart:
 *                 u32 count of pieces
 *                 per piece: u32 bytes before a vector, u32 bytes of the vector, a multiple of 4
 *                 all that stands outside of vectors, in order
 *                 byte 0 of all floats of all vectors, then bytes 1, 2 and 3 of them
 *
 * A float's sign and exponent vary little among the numbers of an embedding and its low bits are noise: one after the
 * other they hide each other, side by side the former compress and zstd skips the latter. The description of the pieces
 * makes whoever reads it independent of the records' format, and costs next to nothing, for pieces are mostly alike.
 *
 * Reading trusts nothing: sizes are checked before memory is taken and before anything is unpacked, a frame must be
 * exactly what its header says, and COMPRESS_BYTES_MAX bounds both. Whether the records are right is for their
 * checksums to say. docs/architecture.md says why level 1 and why so.
 *
 * Any thread: each call takes a context of the pool for itself. */
#ifndef OUTRIGGER_PEER_COMPRESS_H
#define OUTRIGGER_PEER_COMPRESS_H

#include "outrigger/err.h"

#include <stddef.h>
#include <stdint.h>

enum compress_encoding { COMPRESS_PLAIN = 0, COMPRESS_ZSTD = 1, COMPRESS_SHUFFLED = 2 };

enum {
    COMPRESS_BYTES_MAX = 4 << 20, /* of an original: reading one takes the loop some 5 ms */
    COMPRESS_LEVEL = 1,
    /* What HelloRequest and HelloReply say: bit n stands for encoding n. */
    COMPRESS_UNDERSTOOD = 1 << COMPRESS_ZSTD | 1 << COMPRESS_SHUFFLED,
};

struct compress_pool;
struct compress_pool *compress_pool_new(void); /* NULL: out of memory */
void compress_pool_free(struct compress_pool *pool);

struct compressed {
    enum compress_encoding encoding;
    uint8_t *data; /* malloc'd, the caller's; NULL with COMPRESS_PLAIN */
    size_t bytes;
};

/* Records as an APPEND carries them; the body of one PUT record. `allowed`: encodings that the receiver understands, as
 * COMPRESS_UNDERSTOOD. What is too large, or hardly gets smaller, stays COMPRESS_PLAIN: send the original. OTR_NOMEM.
 */
int compress_records(struct compress_pool *pool, uint32_t allowed, const uint8_t *data, size_t bytes,
                     struct compressed *out);
int compress_points(struct compress_pool *pool, uint32_t allowed, const uint8_t *data, size_t bytes,
                    struct compressed *out);

/* The original, malloc'd. OTR_UNSUPPORTED: no such encoding; OTR_TOOBIG: larger than COMPRESS_BYTES_MAX; OTR_PROTO: not
 * what it should be; OTR_NOMEM. */
int compress_restore(struct compress_pool *pool, uint32_t encoding, const uint8_t *data, size_t bytes, uint8_t **out,
                     size_t *out_bytes);

#endif
