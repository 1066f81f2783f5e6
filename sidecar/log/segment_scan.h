/* Reading one segment from front to back through a window, and looking for batches in what is unreadable. Blocking;
 * private to sidecar/log. */
#ifndef OUTRIGGER_LOG_SEGMENT_SCAN_H
#define OUTRIGGER_LOG_SEGMENT_SCAN_H

#include "sidecar/log/journal_format.h"

struct segment_scan {
    struct file *file; /* lent */
    uint32_t number;
    uint64_t bytes; /* of the file */
    uint8_t *window;
    size_t window_capacity;
    uint64_t window_start;
    size_t window_bytes;
};

/* OTR_IO. close is needed after success only. */
OTR_MUST_CHECK int segment_scan_init(struct segment_scan *s, struct file *file, uint32_t number,
                                     struct otr_errmsg *msg);
void segment_scan_close(struct segment_scan *s);

/* The file's bytes at offset, *got of them: all that were asked for but at the end of the file. Lent until the next
 * call, aligned to 8 when offset is. OTR_NOMEM, OTR_IO. */
OTR_MUST_CHECK int segment_scan_bytes(struct segment_scan *s, uint64_t offset, size_t bytes, const uint8_t **out,
                                      size_t *got, struct otr_errmsg *msg);
/* The verified record at offset: *record is its header's bytes, lent until the next call. OTR_CORRUPT (cut off by the
 * end of the file included), OTR_NOMEM, OTR_IO. */
OTR_MUST_CHECK int segment_scan_record(struct segment_scan *s, uint64_t offset, struct record_header *h,
                                       const uint8_t **record, struct otr_errmsg *msg);
/* The next BATCH record of this journal with a number above `number`, at or behind *offset. journal_id 0: of any
 * journal. OTR_NOTFOUND, OTR_NOMEM, OTR_IO. */
OTR_MUST_CHECK int segment_scan_find_batch(struct segment_scan *s, uint64_t *offset, uint64_t journal_id,
                                           uint64_t number, struct batch_head *head, struct otr_errmsg *msg);

#endif
