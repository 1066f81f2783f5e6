/* The journal's own records, in bytes: places, segment names, and the bodies of SEGMENT, BATCH and META records. The
 * head of journal.c tells what they are for. Pure functions; private to sidecar/log. */
#ifndef OUTRIGGER_LOG_JOURNAL_FORMAT_H
#define OUTRIGGER_LOG_JOURNAL_FORMAT_H

#include "sidecar/log/journal.h"

enum {
    JOURNAL_FORMAT = 1,
    SEGMENT_NUMBER_MAX = (1 << 23) - 1,
    KEPT_NUMBER_FIRST = 1 << 23, /* and up to 2^24 - 1: of files that compaction wrote */
    KEPT_NUMBER_MAX = (1 << 24) - 1,
    KEPT_BODY_BYTES = 72, /* without the lines and the identity */
    KEPT_LINE_BYTES = 40,
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
/* "%08u.new" while such a file is being written, "%08u.kept" from then on. */
enum { KEPT_NAME_BYTES = 16 };
void kept_name(char name[KEPT_NAME_BYTES], uint32_t number, bool finished);
/* 0 when the name is no such file's. */
uint32_t kept_number_of(const char *name, bool *finished);

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

/* What a file that compaction wrote says of one shard. */
struct kept_line {
    otr_shard shard;
    bool reset;                /* nothing of what stands before counts: a seed was begun here */
    bool unfinished;           /* at the end of the file the seed was not complete */
    bool cut_only;             /* no entries: those above `before` were cut, and that is all */
    uint64_t before;           /* entries that stand before the file count up to this index */
    struct otr_position after; /* the log goes on behind this one */
    uint64_t clean;            /* no point in the file is dead by an entry up to here */
};

struct kept_head {
    uint32_t format;
    uint32_t number;
    uint64_t journal_id;
    uint32_t first, last; /* the segments that it stands for */
    uint64_t
        previous_bytes;    /* length of the segment before `first`, when it is not a kept file; UINT64_MAX: not told */
    uint64_t batch_first;  /* number of the first batch in `first` */
    uint64_t batch_number; /* of the last batch in `last` */
    uint64_t bytes;        /* of the file */
    uint64_t records;      /* offset of the first record behind the head */
    const char *identity;  /* not NUL-terminated */
    uint32_t identity_bytes;
    uint32_t lines_count;
};
size_t kept_head_bytes(uint32_t lines_count, uint32_t identity_bytes);
void kept_head_write(uint8_t *out, const struct kept_head *head, const struct kept_line *lines);
/* OTR_CORRUPT when the body does not add up. Lends the identity; the lines are read by the second function. */
OTR_MUST_CHECK int kept_head_read(const uint8_t *body, size_t bytes, struct kept_head *head);
void kept_line_read(const uint8_t *body, uint32_t number, struct kept_line *line);

void meta_write(uint8_t *body, const struct journal_meta *meta, bool damaged);
OTR_MUST_CHECK int meta_read(const uint8_t *body, size_t bytes, struct journal_meta *meta, bool *damaged);

#endif
