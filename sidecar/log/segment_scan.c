#include "sidecar/log/segment_scan.h"

#include <stdlib.h>

enum { WINDOW_BYTES = 1 << 20 };

int segment_scan_init(struct segment_scan *s, struct file *file, uint32_t number, struct otr_errmsg *msg)
{
    *s = (struct segment_scan){.file = file, .number = number};
    return file->fs->ops->size(file, &s->bytes, msg);
}

void segment_scan_close(struct segment_scan *s)
{
    free(s->window);
    *s = (struct segment_scan){0};
}

/* Reads the window anew, from offset. */
static int fill(struct segment_scan *s, uint64_t offset, size_t bytes, struct otr_errmsg *msg)
{
    size_t want = bytes < WINDOW_BYTES ? WINDOW_BYTES : bytes;

    if (want > s->window_capacity) {
        uint8_t *grown = malloc(want); /* Not realloc: the old bytes are of no use. */
        if (grown == NULL) {
            otr_errmsg_set(msg, "out of memory");
            return OTR_NOMEM;
        }
        free(s->window);
        s->window = grown;
        s->window_capacity = want;
    }
    s->window_start = offset;
    s->window_bytes = 0;
    return s->file->fs->ops->read(s->file, offset, s->window, want, &s->window_bytes, msg);
}

int segment_scan_bytes(struct segment_scan *s, uint64_t offset, size_t bytes, const uint8_t **out, size_t *got,
                       struct otr_errmsg *msg)
{
    size_t within;

    if (offset >= s->bytes) {
        *got = 0;
        return 0;
    }
    bytes = s->bytes - offset < bytes ? (size_t)(s->bytes - offset) : bytes;
    if (offset < s->window_start || offset + bytes > s->window_start + s->window_bytes) {
        int rv = fill(s, offset, bytes, msg);
        if (rv != 0) {
            return rv;
        }
    }
    within = (size_t)(offset - s->window_start);
    *out = s->window + within;
    *got = s->window_bytes - within < bytes ? s->window_bytes - within : bytes;
    return 0;
}

int segment_scan_record(struct segment_scan *s, uint64_t offset, struct record_header *h, const uint8_t **record,
                        struct otr_errmsg *msg)
{
    size_t got;
    int rv;

    rv = segment_scan_bytes(s, offset, RECORD_HEADER_BYTES, record, &got, msg);
    if (rv != 0) {
        return rv;
    }
    if (got < RECORD_HEADER_BYTES || record_header_read(*record, h) != 0) {
        return OTR_CORRUPT;
    }
    /* What the length says is believed only as far as there is file, before memory is made for it. */
    if (s->bytes - offset < record_bytes(h->body_bytes)) {
        return OTR_CORRUPT;
    }
    rv = segment_scan_bytes(s, offset, record_bytes(h->body_bytes), record, &got, msg);
    if (rv != 0) {
        return rv;
    }
    return record_read(*record, got, h) == 0 ? 0 : OTR_CORRUPT;
}

int segment_scan_find_batch(struct segment_scan *s, uint64_t *offset, uint64_t journal_id, uint64_t number,
                            struct batch_head *head, struct otr_errmsg *msg)
{
    uint64_t at = (*offset + 7) & ~7ULL;
    const uint8_t *bytes;
    size_t got;

    for (;; at += 8) {
        int rv = segment_scan_bytes(s, at, BATCH_BYTES, &bytes, &got, msg);
        if (rv != 0) {
            return rv;
        }
        if (got < BATCH_BYTES) {
            return OTR_NOTFOUND;
        }
        if (batch_head_read(bytes, got, place_make(s->number, at), head) == 0 && head->number > number &&
            (journal_id == 0 || head->journal_id == journal_id)) {
            *offset = at;
            return 0;
        }
    }
}
