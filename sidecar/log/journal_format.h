/* The journal's own records, in bytes: places, segment names, and the bodies of SEGMENT, BATCH and META records. The
 * head of journal.c tells what they are for. Pure functions; private to sidecar/log. */
#ifndef OUTRIGGER_LOG_JOURNAL_FORMAT_H
#define OUTRIGGER_LOG_JOURNAL_FORMAT_H

#include "sidecar/log/journal.h"

enum {
    JOURNAL_FORMAT = 1,
    SEGMENT_NUMBER_MAX = (1 << 24) - 1,
    SEGMENT_NAME_BYTES = 16, /* "%08u.log" and the NUL */
    SEGMENT_BODY_BYTES = 32, /* without the damages and the identity */
    SEGMENT_DAMAGES_MAX = 1024,
    IDENTITY_BYTES_MAX = 2 * OTR_NAME_MAX + 1,
    BATCH_BODY_BYTES = 48,
    BATCH_BYTES = RECORD_HEADER_BYTES + BATCH_BODY_BYTES,
    META_BODY_BYTES = 8 * 8 + 64 + 8,
    META_BYTES = RECORD_HEADER_BYTES + META_BODY_BYTES,
};

static inline journal_place place_make(uint32_t segment, uint64_t offset)
{
    return (uint64_t)segment << 40 | offset >> 3;
}

static inline uint32_t place_segment(journal_place place)
{
    return (uint32_t)(place >> 40);
}

static inline uint64_t place_offset(journal_place place)
{
    return (place & ((1ULL << 40) - 1)) << 3;
}

void segment_name(char name[SEGMENT_NAME_BYTES], uint32_t number);
/* 0 when the name is not a segment's. */
uint32_t segment_number_of(const char *name);

struct segment_head {
    uint32_t format;
    uint32_t number;
    uint64_t journal_id;
    uint64_t previous_bytes;      /* length of the segment before, which this one seals */
    const journal_place *damages; /* accounted for: see journal.c */
    uint32_t damages_count;
    const char *identity; /* not NUL-terminated */
    uint32_t identity_bytes;
};
/* Bytes of the whole record. */
size_t segment_head_bytes(const struct segment_head *head);
void segment_head_write(uint8_t *out, const struct segment_head *head);
/* OTR_CORRUPT when the body does not add up. The format is not checked. Lends from body. */
OTR_MUST_CHECK int segment_head_read(const uint8_t *body, size_t bytes, struct segment_head *head);

struct batch_head {
    uint64_t journal_id;
    uint64_t number;  /* previous + 1 */
    uint64_t bytes;   /* of the batch, this record included */
    uint64_t shards;  /* bit (shard % 64) is set for every shard with records in the batch */
    uint64_t durable; /* place up to which the journal was known to be durable when the batch was written */
};
/* Writes the whole record, for the place that it stands at. */
void batch_head_write(uint8_t *out, const struct batch_head *head, journal_place place);
/* Reads and verifies the whole record. OTR_CORRUPT also when it was written for another place: bytes that a client
 * chose (vectors are arbitrary floats) or that another life of the file left must not pass for a batch. */
OTR_MUST_CHECK int batch_head_read(const uint8_t *bytes, size_t available, journal_place place,
                                   struct batch_head *head);

void meta_write(uint8_t *body, const struct journal_meta *meta, bool damaged);
OTR_MUST_CHECK int meta_read(const uint8_t *body, size_t bytes, struct journal_meta *meta, bool *damaged);

#endif
