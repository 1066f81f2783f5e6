/* Starting: opens what the directory holds, has it read (recovery.c), and makes durable what was found. See journal.c
 * for the rules. Runs before anything else, blocking. */
#include "sidecar/log/journal_internal.h"
#include "sidecar/log/recovery.h"

#include <stdlib.h>

/* --- the directory ------------------------------------------------------------------------------------------------ */

struct directory {
    uint32_t *numbers; /* of the segment files */
    size_t count;
    size_t capacity;
    bool failed_marker;
    bool out_of_memory;
};

static void on_name(const char *name, void *data)
{
    struct directory *d = data;
    uint32_t number = segment_number_of(name);

    if (strcmp(name, JOURNAL_FAILED_NAME) == 0) {
        d->failed_marker = true;
    }
    if (number == 0) {
        return;
    }
    if (d->count == d->capacity) {
        uint32_t *grown = realloc(d->numbers, (d->capacity * 2 + 8) * sizeof *grown);
        if (grown == NULL) {
            d->out_of_memory = true;
            return;
        }
        d->numbers = grown;
        d->capacity = d->capacity * 2 + 8;
    }
    d->numbers[d->count++] = number;
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

/* Whose journal is it? Asked of every head that can be read. */
static int check_head(struct recovery *r, const struct segment_head *head, uint32_t number, struct otr_errmsg *msg)
{
    if (head->format != JOURNAL_FORMAT) {
        otr_errmsg_set(msg, "segment %u has format %u, this program knows %d: start a newer version", number,
                       head->format, JOURNAL_FORMAT);
        return OTR_UNSUPPORTED;
    }
    if (head->identity_bytes != strlen(r->j->identity) ||
        memcmp(head->identity, r->j->identity, head->identity_bytes) != 0) {
        otr_errmsg_set(msg,
                       "the data directory belongs to \"%.*s\", but this is \"%s\": give this node its own data "
                       "directory, or correct the cluster's and node's names",
                       (int)head->identity_bytes, head->identity, r->j->identity);
        return OTR_INVALID;
    }
    if (!r->id_known) {
        r->j->id = head->journal_id;
        r->id_known = true;
    }
    return 0;
}

static int open_segment(struct recovery *r, uint32_t number, bool last, struct otr_errmsg *msg)
{
    struct file_system *fs = r->j->fs;
    struct segment *s = journal_segment_new(number);
    char name[SEGMENT_NAME_BYTES];
    struct segment_scan scan;
    struct segment_head head;
    struct record_header h;
    const uint8_t *record;
    int rv;

    if (s == NULL || journal_segments_reserve(r->j) != 0) {
        journal_segment_release(s);
        otr_errmsg_set(msg, "out of memory");
        return OTR_NOMEM;
    }
    segment_name(name, number);
    rv = fs->ops->open(fs, name, last ? FILE_READ_WRITE : FILE_READ, &s->file, msg);
    if (rv != 0) {
        s->file = NULL;
        journal_segment_release(s);
        otr_errmsg_wrap(msg, "open segment %s", name);
        return rv;
    }
    s->previous_bytes = UINT64_MAX;
    journal_segments_add(r->j, s);
    rv = segment_scan_init(&scan, s->file, number, msg);
    if (rv != 0) {
        return rv;
    }
    rv = segment_scan_record(&scan, 0, &h, &record, msg);
    if (rv == 0 && h.kind == RECORD_SEGMENT &&
        segment_head_read(record + RECORD_HEADER_BYTES, h.body_bytes, &head) == 0) {
        s->previous_bytes = head.previous_bytes;
        rv = check_head(r, &head, number, msg);
    }
    segment_scan_close(&scan);
    return rv == OTR_CORRUPT ? 0 : rv;
}

/* Opens all segment files before anything is done to a directory that may turn out to be somebody else's. */
static int open_segments(struct recovery *r, struct directory *d, struct otr_errmsg *msg)
{
    int rv = r->j->fs->ops->list(r->j->fs, on_name, d, msg);

    if (rv == 0 && d->out_of_memory) {
        otr_errmsg_set(msg, "out of memory");
        rv = OTR_NOMEM;
    }
    if (rv == 0 && d->count > 0) {
        qsort(d->numbers, d->count, sizeof *d->numbers, compare_numbers);
    }
    for (size_t i = 0; i < d->count && rv == 0; i++) {
        rv = open_segment(r, d->numbers[i], i + 1 == d->count, msg);
    }
    return rv;
}

/* --- afterwards --------------------------------------------------------------------------------------------------- */

/* Removes what a crash left of a segment that was being begun. */
static int remove_last(struct recovery *r, struct otr_errmsg *msg)
{
    struct journal *j = r->j;
    struct segment *s = j->segments[--j->segments_count];
    char name[SEGMENT_NAME_BYTES];
    int rv;

    segment_name(name, s->number);
    journal_segment_release(s);
    rv = j->fs->ops->remove(j->fs, name, msg);
    if (rv != 0) {
        otr_errmsg_wrap(msg, "remove segment %s, which was begun and never written", name);
    }
    return rv;
}

/* Writes [from, end) of the last segment once more, cuts what stands behind, and syncs. */
static int make_durable(struct segment_scan *scan, uint64_t from, uint64_t end, struct otr_errmsg *msg)
{
    const struct file_ops *ops = scan->file->fs->ops;
    const uint8_t *bytes;
    size_t got;
    int rv;

    /* Also when the file ends there already: a sync that failed may have lost an earlier truncation. */
    rv = ops->truncate(scan->file, end, msg);
    scan->bytes = end;
    while (rv == 0 && from < end) {
        rv = segment_scan_bytes(scan, from, end - from < 1 << 20 ? (size_t)(end - from) : 1 << 20, &bytes, &got, msg);
        if (rv == 0 && got == 0) {
            otr_errmsg_set(msg, "the file became shorter");
            rv = OTR_IO;
        }
        if (rv == 0) {
            rv = ops->write(scan->file, from, bytes, got, msg);
            from += got;
        }
    }
    if (rv == 0) {
        rv = ops->sync(scan->file, msg);
    }
    return rv;
}

/* The journal ends with the last segment, at `end`. */
static int finish_last(struct recovery *r, struct segment_scan *scan, uint64_t end, struct otr_errmsg *msg)
{
    struct journal *j = r->j;

    if (r->batches_count == 0) {
        j->begin_segment = true;
        return remove_last(r, msg);
    }
    j->end_segment = scan->number;
    j->end_offset = end;
    /* A segment whose first batch was torn may lack some METAs of its head. */
    j->begin_segment = r->batches_count == 1 && end < r->batch_end;
    return make_durable(scan, r->batches_count == 1 ? 0 : r->batch_start, end, msg);
}

/* A sealed segment ends where the head of the next one says. What stands behind is a torn tail that was cut, and that a
 * failed sync brought back. */
static uint64_t bytes_that_count(const struct recovery *r, size_t i, uint64_t bytes)
{
    const struct journal *j = r->j;

    if (i + 1 < j->segments_count && j->segments[i + 1]->number == j->segments[i]->number + 1 &&
        j->segments[i + 1]->previous_bytes < bytes) {
        return j->segments[i + 1]->previous_bytes;
    }
    return bytes;
}

static int read_segments(struct recovery *r, struct otr_errmsg *msg)
{
    struct journal *j = r->j;
    size_t count = j->segments_count;

    for (size_t i = 0; i < count; i++) {
        uint32_t number = j->segments[i]->number;
        struct segment_scan scan;
        uint64_t end = 0;
        int rv;

        if (i > 0 && number != j->end_segment + 1) {
            rv = recovery_lost(r, place_make(j->end_segment + 1, 0));
            if (rv != 0) {
                otr_errmsg_set(msg, "out of memory");
                return rv;
            }
        }
        rv = segment_scan_init(&scan, j->segments[i]->file, number, msg);
        if (rv != 0) {
            return rv;
        }
        scan.bytes = bytes_that_count(r, i, scan.bytes);
        rv = recovery_segment(r, &scan, j->end_offset, i + 1 == count, &end, msg);
        if (rv == 0 && i + 1 == count) {
            rv = finish_last(r, &scan, end, msg);
        } else {
            j->end_segment = number;
            j->end_offset = scan.bytes;
        }
        segment_scan_close(&scan);
        if (rv != 0) {
            otr_errmsg_wrap(msg, "read segment %u", number);
            return rv;
        }
    }
    return 0;
}

/* Makes what was found out about damage durable: a new segment whose head tells it. */
static int account(struct recovery *r, bool failed_marker, struct otr_errmsg *msg)
{
    struct journal *j = r->j;
    int rv;

    /* More than fit are found again at the next start: too careful, but safe. */
    j->damages_count = recovery_damages(r, j->damages, SEGMENT_DAMAGES_MAX);
    if (!recovery_unsettled(r) && !failed_marker && j->end_segment != 0) {
        return 0;
    }
    j->begin_segment = true;
    rv = journal_batch_open(j);
    if (rv != 0) {
        otr_errmsg_set(msg, "begin a segment: %s", otr_strerror(rv));
        return rv;
    }
    j->open->worth_writing = true;
    rv = journal_flush_now(j, msg);
    if (rv == 0 && failed_marker) {
        rv = j->fs->ops->remove(j->fs, JOURNAL_FAILED_NAME, msg);
        if (rv == 0) {
            rv = j->fs->ops->sync_dir(j->fs, msg);
        }
    }
    return rv;
}

static void finish_shards(struct journal *j, bool failed_marker)
{
    for (size_t i = 0; i < OTR_SHARDS_MAX; i++) {
        struct journal_shard *s = j->shards[i];
        if (s != NULL) {
            s->damaged = s->damaged || failed_marker;
            s->frozen = false;
            s->durable_index = shard_log_last(&s->log).index;
        }
    }
}

int journal_recover(struct journal *j, journal_visit_cb visit, void *data, struct otr_errmsg *msg)
{
    struct recovery r = {.j = j, .visit = visit, .data = data};
    struct directory d = {0};
    int rv;

    rv = open_segments(&r, &d, msg);
    if (rv == 0) {
        rv = read_segments(&r, msg);
    }
    if (rv == 0) {
        recovery_end(&r);
        finish_shards(j, d.failed_marker);
        j->batch_number = r.batch_number;
        rv = j->fs->ops->sync_dir(j->fs, msg);
    }
    if (rv == 0) {
        j->durable_segment = j->end_segment;
        j->durable_offset = j->end_offset;
        rv = account(&r, d.failed_marker, msg);
    }
    free(d.numbers);
    recovery_close(&r);
    return rv;
}
