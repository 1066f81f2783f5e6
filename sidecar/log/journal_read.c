/* Reading again: from memory at once, from files through a reader that another thread runs. A reader holds references
 * to the segments that it needs, so that they stay open; it never touches the journal while it runs. */
#include "sidecar/log/journal_internal.h"

#include "sidecar/log/segment_scan.h"

#include <assert.h>
#include <stdlib.h>

enum {
    POINT_HINT_BYTES = 4096,  /* read for a point whose length is not known */
    POINT_GAP_BYTES = 16384,  /* points closer than this are read at once */
    POINT_RUN_BYTES = 1 << 20 /* as long as all of them together are not more than this */
};

/* Longest encoded point. */
static size_t point_bytes_max(void)
{
    return point_bytes(OTR_DIMENSION_MAX, OTR_POINT_ID_MAX, OTR_METADATA_MAX);
}

/* --- from memory -------------------------------------------------------------------------------------------------- */

/* 0 when [first, last] are entries of the shard. */
static int check_range(const struct journal_shard *s, uint64_t first, uint64_t last)
{
    if (s == NULL || shard_log_place(&s->log, first) == 0) {
        return s != NULL && first > shard_log_last(&s->log).index ? OTR_INVALID : OTR_GONE;
    }
    return last < first || shard_log_place(&s->log, last) == 0 ? OTR_INVALID : 0;
}

/* The record of an entry in memory, NULL when it is not there. */
static const uint8_t *entry_in_memory(const struct journal *j, const struct journal_shard *s, uint64_t index,
                                      size_t *bytes)
{
    const uint8_t *record = tail_find(&j->tail, shard_log_place(&s->log, index), bytes);
    struct record_header h;

    if (record != NULL) {
        int rv = record_header_read(record, &h);
        assert(rv == 0 && h.shard == s->id && h.index == index && record_bytes(h.body_bytes) <= *bytes);
        *bytes = record_bytes(h.body_bytes);
    }
    return record;
}

int journal_read(struct journal *j, otr_shard shard, uint64_t first, uint64_t last, size_t max_bytes,
                 struct journal_bytes *out)
{
    const struct journal_shard *s = journal_shard_get(j, shard);
    size_t total = 0;
    size_t bytes = 0;
    uint64_t end = first; /* behind the last entry that fits */
    int rv;

    rv = check_range(s, first, last);
    if (rv != 0) {
        return rv;
    }
    for (; end <= last; end++) {
        if (entry_in_memory(j, s, end, &bytes) == NULL) {
            return OTR_UNAVAIL; /* The tail holds the newest bytes: it can only be the first one that is missing. */
        }
        if (end > first && (bytes > max_bytes || total > max_bytes - bytes)) {
            break;
        }
        total += bytes;
    }
    out->data = malloc(total);
    if (out->data == NULL) {
        return OTR_NOMEM;
    }
    out->bytes = 0;
    out->last = end - 1;
    for (uint64_t index = first; index < end; index++) {
        const uint8_t *record = entry_in_memory(j, s, index, &bytes);
        memcpy(out->data + out->bytes, record, bytes);
        out->bytes += bytes;
    }
    return 0;
}

/* --- readers ------------------------------------------------------------------------------------------------------ */

struct reader_block { /* memory that lives as long as the reader */
    struct reader_block *next;
    size_t used;
    size_t capacity;
    _Alignas(8) uint8_t data[];
};

struct reader_point {
    journal_place place;
    uint32_t hint;
    const uint8_t *bytes; /* NULL: not read */
    size_t available;
};

struct journal_reader {
    struct journal *j;         /* loop thread only */
    struct segment **segments; /* referenced */
    size_t segments_count;
    size_t segments_capacity;
    struct reader_block *blocks;

    otr_shard shard;
    uint64_t entries_first;
    journal_place *entries; /* to be read from files, ascending */
    size_t entries_count;
    size_t entries_bytes_max;
    struct journal_bytes result;

    struct reader_point *points;
    size_t points_count;
    size_t points_capacity;
    size_t points_in_files;
};

struct journal_reader *journal_reader_new(struct journal *j)
{
    struct journal_reader *r = calloc(1, sizeof *r);

    if (r != NULL) {
        r->j = j;
    }
    return r;
}

void journal_reader_free(struct journal_reader *r)
{
    if (r == NULL) {
        return;
    }
    for (size_t i = 0; i < r->segments_count; i++) {
        journal_segment_release(r->segments[i]);
    }
    while (r->blocks != NULL) {
        struct reader_block *b = r->blocks;
        r->blocks = b->next;
        free(b);
    }
    free(r->segments);
    free(r->entries);
    free(r->result.data);
    free(r->points);
    free(r);
}

static uint8_t *block_take(struct journal_reader *r, size_t bytes)
{
    struct reader_block *b = r->blocks;

    bytes = (bytes + 7) & ~(size_t)7;
    if (b == NULL || b->capacity - b->used < bytes) {
        size_t capacity = bytes < POINT_GAP_BYTES ? POINT_GAP_BYTES : bytes;
        b = malloc(sizeof *b + capacity);
        if (b == NULL) {
            return NULL;
        }
        *b = (struct reader_block){.next = r->blocks, .capacity = capacity};
        r->blocks = b;
    }
    b->used += bytes;
    return b->data + b->used - bytes;
}

static struct segment *reader_segment(const struct journal_reader *r, uint32_t number)
{
    for (size_t i = r->segments_count; i > 0; i--) { /* The newest are asked for most. */
        if (r->segments[i - 1]->number == number) {
            return r->segments[i - 1];
        }
    }
    return NULL;
}

/* The file of a segment that the reader holds a reference to. */
static struct file *acquired_file(const struct journal_reader *r, uint32_t number)
{
    struct segment *s = reader_segment(r, number);

    assert(s != NULL);
    return s->file;
}

/* References the segment. OTR_GONE when the journal has no such segment. */
static int reader_acquire(struct journal_reader *r, uint32_t number)
{
    struct segment *s;

    if (reader_segment(r, number) != NULL) {
        return 0;
    }
    s = journal_segment_find(r->j, number);
    if (s == NULL) {
        return OTR_GONE;
    }
    if (r->segments_count == r->segments_capacity) {
        struct segment **grown = realloc(r->segments, (r->segments_capacity * 2 + 4) * sizeof(struct segment *));
        if (grown == NULL) {
            return OTR_NOMEM;
        }
        r->segments = grown;
        r->segments_capacity = r->segments_capacity * 2 + 4;
    }
    s->refs++;
    r->segments[r->segments_count++] = s;
    return 0;
}

int journal_reader_entries(struct journal_reader *r, otr_shard shard, uint64_t first, uint64_t last, size_t max_bytes)
{
    const struct journal_shard *s = journal_shard_get(r->j, shard);
    size_t count_max = max_bytes / RECORD_HEADER_BYTES + 1;
    size_t bytes;
    int rv;

    assert(r->entries == NULL && r->result.data == NULL);
    rv = journal_read(r->j, shard, first, last, max_bytes, &r->result);
    if (rv != OTR_UNAVAIL) {
        return rv;
    }
    if (last - first < count_max) {
        count_max = (size_t)(last - first + 1);
    }
    r->entries = malloc(count_max * sizeof *r->entries);
    if (r->entries == NULL) {
        return OTR_NOMEM;
    }
    r->shard = shard;
    r->entries_first = first;
    r->entries_bytes_max = max_bytes;
    for (; r->entries_count < count_max; r->entries_count++) {
        journal_place place = shard_log_place(&s->log, first + r->entries_count);
        if (tail_find(&r->j->tail, place, &bytes) != NULL) {
            break; /* From here on it is in memory, some of it perhaps not on disk: for the next reader. */
        }
        rv = reader_acquire(r, place_segment(place));
        if (rv != 0) {
            return rv;
        }
        r->entries[r->entries_count] = place;
    }
    return 0;
}

/* Copies the point at `bytes`, which is in memory and was written by ourselves. */
static int copy_point(struct journal_reader *r, const uint8_t *bytes, size_t available, struct reader_point *p)
{
    uint32_t length;
    uint8_t *copy;

    memcpy(&length, bytes + 4, sizeof length);
    length = length > available ? (uint32_t)available : length; /* A wrong place: point_read() will tell. */
    copy = block_take(r, length);
    if (copy == NULL) {
        return OTR_NOMEM;
    }
    memcpy(copy, bytes, length);
    p->bytes = copy;
    p->available = length;
    return 0;
}

int journal_reader_point(struct journal_reader *r, journal_place place, uint32_t bytes_hint)
{
    struct reader_point p = {.place = place, .hint = bytes_hint != 0 ? bytes_hint : POINT_HINT_BYTES};
    const uint8_t *bytes;
    size_t available;
    int rv;

    if (p.hint < POINT_HEADER_BYTES) {
        p.hint = POINT_HEADER_BYTES; /* Tells the length, at least. */
    } else if (p.hint > point_bytes_max()) {
        p.hint = (uint32_t)point_bytes_max();
    }
    if (r->points_count == r->points_capacity) {
        struct reader_point *grown = realloc(r->points, (r->points_capacity * 2 + 16) * sizeof *grown);
        if (grown == NULL) {
            return -OTR_NOMEM;
        }
        r->points = grown;
        r->points_capacity = r->points_capacity * 2 + 16;
    }
    bytes = tail_find(&r->j->tail, place, &available);
    if (bytes != NULL && available >= POINT_HEADER_BYTES) {
        rv = copy_point(r, bytes, available, &p);
    } else {
        rv = reader_acquire(r, place_segment(place));
        r->points_in_files += rv == 0;
    }
    if (rv == OTR_NOMEM) {
        return -OTR_NOMEM;
    }
    r->points[r->points_count] = p; /* One whose segment is gone stays unread: OTR_CORRUPT. */
    return (int)r->points_count++;
}

bool journal_reader_in_memory(const struct journal_reader *r)
{
    return r->points_in_files == 0 && r->entries_count == 0;
}

/* --- any thread --------------------------------------------------------------------------------------------------- */

/* Room for `bytes` more in the result. */
static int result_reserve(struct journal_bytes *result, size_t *capacity, size_t bytes)
{
    size_t want = *capacity * 2 < result->bytes + bytes ? result->bytes + bytes : *capacity * 2;
    uint8_t *grown;

    if (*capacity - result->bytes >= bytes) {
        return 0;
    }
    assert(want > *capacity);
    grown = realloc(result->data, want);
    if (grown == NULL) {
        return OTR_NOMEM;
    }
    result->data = grown;
    *capacity = want;
    return 0;
}

static int read_entry(struct journal_reader *r, struct segment_scan *scan, size_t i, size_t *capacity, bool *full,
                      struct otr_errmsg *msg)
{
    uint64_t index = r->entries_first + i;
    struct record_header h;
    const uint8_t *record;
    size_t bytes;
    int rv;

    rv = segment_scan_record(scan, place_offset(r->entries[i]), &h, &record, msg);
    if (rv == OTR_CORRUPT || (rv == 0 && (h.shard != r->shard || h.index != index))) {
        otr_errmsg_set(msg, "segment %u at %llu: not the entry %llu of shard %u", scan->number,
                       (unsigned long long)place_offset(r->entries[i]), (unsigned long long)index, r->shard);
        return OTR_CORRUPT;
    }
    if (rv != 0) {
        return rv;
    }
    bytes = record_bytes(h.body_bytes);
    *full = i > 0 && (bytes > r->entries_bytes_max || r->result.bytes > r->entries_bytes_max - bytes);
    if (*full) {
        return 0;
    }
    rv = result_reserve(&r->result, capacity, bytes);
    if (rv != 0) {
        otr_errmsg_set(msg, "out of memory");
        return rv;
    }
    memcpy(r->result.data + r->result.bytes, record, bytes);
    r->result.bytes += bytes;
    r->result.last = index;
    return 0;
}

static int run_entries(struct journal_reader *r, struct otr_errmsg *msg)
{
    struct segment_scan scan = {0};
    size_t capacity = 0;
    bool full = false;
    int rv = 0;

    for (size_t i = 0; i < r->entries_count && rv == 0 && !full; i++) {
        uint32_t number = place_segment(r->entries[i]);
        if (scan.number != number) {
            segment_scan_close(&scan);
            rv = segment_scan_init(&scan, acquired_file(r, number), number, msg);
        }
        if (rv == 0) {
            rv = read_entry(r, &scan, i, &capacity, &full, msg);
        }
    }
    segment_scan_close(&scan);
    return rv;
}

static int compare_points(const void *a, const void *b)
{
    const struct reader_point *x = *(const struct reader_point *const *)a;
    const struct reader_point *y = *(const struct reader_point *const *)b;

    return x->place < y->place ? -1 : x->place > y->place;
}

/* Reads [offset, offset + bytes) of a segment into a block of the reader's. */
static int read_block(struct journal_reader *r, uint32_t number, uint64_t offset, size_t bytes, const uint8_t **out,
                      size_t *got, struct otr_errmsg *msg)
{
    struct file *f = acquired_file(r, number);
    uint8_t *block = block_take(r, bytes);

    if (block == NULL) {
        otr_errmsg_set(msg, "out of memory");
        return OTR_NOMEM;
    }
    *out = block;
    return f->fs->ops->read(f, offset, block, bytes, got, msg);
}

/* The point's length was not what was hoped for: reads it alone. */
static int complete_point(struct journal_reader *r, struct reader_point *p, struct otr_errmsg *msg)
{
    uint32_t length;

    if (p->available < POINT_HEADER_BYTES) {
        return 0; /* The file ends here; point_read() will tell. */
    }
    memcpy(&length, p->bytes + 4, sizeof length);
    if (length <= p->available || length > point_bytes_max()) {
        return 0;
    }
    return read_block(r, place_segment(p->place), place_offset(p->place), length, &p->bytes, &p->available, msg);
}

/* Reads the points sorted[0..count), which stand close to each other in one segment. */
static int read_run(struct journal_reader *r, struct reader_point **sorted, size_t count, uint64_t end,
                    struct otr_errmsg *msg)
{
    uint64_t start = place_offset(sorted[0]->place);
    const uint8_t *bytes;
    size_t got;
    int rv;

    rv = read_block(r, place_segment(sorted[0]->place), start, (size_t)(end - start), &bytes, &got, msg);
    for (size_t i = 0; i < count && rv == 0; i++) {
        uint64_t within = place_offset(sorted[i]->place) - start;
        sorted[i]->bytes = bytes + (within < got ? within : got);
        sorted[i]->available = within < got ? got - (size_t)within : 0;
        rv = complete_point(r, sorted[i], msg);
    }
    return rv;
}

static int run_points(struct journal_reader *r, struct reader_point **sorted, size_t count, struct otr_errmsg *msg)
{
    int rv = 0;

    for (size_t i = 0, next; i < count && rv == 0; i = next) {
        uint64_t start = place_offset(sorted[i]->place);
        uint64_t end = start + sorted[i]->hint;

        for (next = i + 1; next < count; next++) {
            uint64_t offset = place_offset(sorted[next]->place);
            uint64_t wanted = offset + sorted[next]->hint;
            if (place_segment(sorted[next]->place) != place_segment(sorted[i]->place) ||
                offset > end + POINT_GAP_BYTES || wanted > start + POINT_RUN_BYTES) {
                break;
            }
            end = wanted > end ? wanted : end;
        }
        rv = read_run(r, sorted + i, next - i, end, msg);
    }
    return rv;
}

int journal_reader_run(struct journal_reader *r, struct otr_errmsg *msg)
{
    struct reader_point **sorted;
    size_t count = 0;
    int rv;

    rv = run_entries(r, msg);
    if (rv != 0 || r->points_in_files == 0) {
        return rv;
    }
    sorted = malloc(r->points_in_files * sizeof(struct reader_point *));
    if (sorted == NULL) {
        otr_errmsg_set(msg, "out of memory");
        return OTR_NOMEM;
    }
    for (size_t i = 0; i < r->points_count; i++) {
        if (r->points[i].bytes == NULL && reader_segment(r, place_segment(r->points[i].place)) != NULL) {
            sorted[count++] = &r->points[i];
        }
    }
    qsort(sorted, count, sizeof(struct reader_point *), compare_points);
    rv = run_points(r, sorted, count, msg);
    free(sorted);
    return rv;
}

/* --- results ------------------------------------------------------------------------------------------------------ */

const struct journal_bytes *journal_reader_result(const struct journal_reader *r)
{
    return &r->result;
}

int journal_reader_point_result(const struct journal_reader *r, int number, struct otr_point *p)
{
    const struct reader_point *point = &r->points[number];
    size_t used;

    assert(number >= 0 && (size_t)number < r->points_count);
    return point->bytes == NULL ? OTR_CORRUPT : point_read(point->bytes, point->available, p, &used);
}
