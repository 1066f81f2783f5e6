/* Tail: the newest bytes of the journal in memory, from which batches are written and recent entries are read again.
 *
 * The journal's byte stream is kept in chunks; a record never straddles two of them. A chunk's bytes never move and
 * never change once they were handed to a flush, so the flusher's thread may write them while the loop thread fills the
 * rest of the chunk. Everything here is called on the loop thread. */
#ifndef OUTRIGGER_LOG_TAIL_H
#define OUTRIGGER_LOG_TAIL_H

#include "sidecar/log/journal.h"

struct tail_chunk {
    uint32_t segment;
    uint64_t offset; /* of the first byte in the segment */
    size_t used;
    size_t capacity;
    uint8_t *data;
};

struct tail {
    struct tail_chunk *chunks; /* [first .. first + count), ascending by (segment, offset) */
    size_t first;
    size_t count;
    size_t capacity;
    size_t bytes;       /* of all chunks' memory */
    size_t bytes_max;   /* above which durable chunks are evicted */
    size_t chunk_bytes; /* usual size */
};

void tail_init(struct tail *t, size_t bytes_max);
void tail_close(struct tail *t);

/* Room for `bytes` (a multiple of 8) at (segment, offset), which is the end of what the tail holds or the start of a
 * new segment; aligned to 8. NULL: out of memory. Nothing counts as held before tail_commit. */
uint8_t *tail_reserve(struct tail *t, uint32_t segment, uint64_t offset, size_t bytes);
/* What was reserved last now is held. */
void tail_commit(struct tail *t, size_t bytes);
/* The bytes at a place and how many follow in memory; NULL when they are not held. */
const uint8_t *tail_find(const struct tail *t, journal_place place, size_t *available);
/* Frees the oldest chunks, as long as there is too much and they end at or before (segment, offset), up to which the
 * journal is durable. */
void tail_evict(struct tail *t, uint32_t segment, uint64_t offset);

#endif
