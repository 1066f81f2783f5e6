/* The segments that a journal has, who holds them, and entries that leave the log. Loop thread only. */
#include "sidecar/log/journal_internal.h"

#include <assert.h>
#include <stdlib.h>

/* --- lists -------------------------------------------------------------------------------------------------------- */

int segment_list_reserve(struct segment_list *l, size_t more)
{
    struct segment **grown;

    if (l->capacity - l->count >= more) {
        return 0;
    }
    grown = realloc(l->list, (l->capacity * 2 + 8 + more) * sizeof(struct segment *));
    if (grown == NULL) {
        return OTR_NOMEM;
    }
    l->list = grown;
    l->capacity = l->capacity * 2 + 8 + more;
    return 0;
}

void segment_list_remove(struct segment_list *l, size_t at, size_t count)
{
    memmove(l->list + at, l->list + at + count, (l->count - at - count) * sizeof(struct segment *));
    l->count -= count;
}

/* --- the journal's ------------------------------------------------------------------------------------------------ */

struct segment *journal_segment_new(struct journal *j, uint32_t number)
{
    struct segment *s = calloc(1, sizeof *s);

    if (s != NULL) {
        s->j = j;
        s->number = number;
        s->first = number;
        s->last = number;
        s->refs = 1;
        s->previous_bytes = UINT64_MAX;
    }
    return s;
}

static void journal_segment_free(struct segment *s)
{
    if (s->file != NULL) {
        s->file->fs->ops->close(s->file);
    }
    free(s->runs);
    free(s->lines);
    free(s);
}

void journal_segment_release(struct segment *s)
{
    if (s != NULL && --s->refs == 0) {
        journal_segment_free(s);
    }
}

int journal_segments_reserve(struct journal *j)
{
    /* Room for two: the batch being flushed and the open one may each begin a segment. */
    return segment_list_reserve(&j->segments, 2);
}

void journal_segments_add(struct journal *j, struct segment *s)
{
    assert(j->segments.count < j->segments.capacity);
    assert(j->segments.count == 0 || j->segments.list[j->segments.count - 1]->last < s->first);
    j->segments.list[j->segments.count++] = s;
}

static struct segment *list_find(const struct segment_list *l, uint32_t number)
{
    for (size_t i = l->count; i > 0; i--) {
        if (l->list[i - 1]->number == number) {
            return l->list[i - 1];
        }
    }
    return NULL;
}

struct segment *journal_segment_find(const struct journal *j, uint32_t number)
{
    struct segment *s;
    size_t low = 0;
    size_t high = j->segments.count;

    if (j->staged != NULL && j->staged->number == number) {
        return j->staged;
    }
    if (number >= KEPT_NUMBER_FIRST) {
        s = list_find(&j->segments, number);
        return s != NULL ? s : list_find(&j->gone, number);
    }
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (j->segments.list[middle]->last < number) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low < j->segments.count && j->segments.list[low]->number == number) {
        return j->segments.list[low];
    }
    return list_find(&j->gone, number);
}

/* --- pins --------------------------------------------------------------------------------------------------------- */

struct journal_pin {
    size_t count;
    struct segment *segments[];
};

static void pin_add(struct journal_pin *pin, struct segment *s)
{
    s->refs++;
    pin->segments[pin->count++] = s;
}

struct journal_pin *journal_pin_new(struct journal *j)
{
    struct journal_pin *pin = malloc(sizeof *pin + (j->segments.count + 1) * sizeof(struct segment *));

    if (pin == NULL) {
        return NULL;
    }
    pin->count = 0;
    for (size_t i = 0; i < j->segments.count; i++) {
        pin_add(pin, j->segments.list[i]);
    }
    if (j->staged != NULL) {
        pin_add(pin, j->staged);
    }
    return pin;
}

void journal_pin_free(struct journal_pin *pin)
{
    for (size_t i = 0; pin != NULL && i < pin->count; i++) {
        journal_segment_release(pin->segments[i]);
    }
    free(pin);
}

/* --- entries that leave the log ----------------------------------------------------------------------------------- */

static struct segment_run *run_make(struct segment *s)
{
    if (s->runs_count == s->runs_capacity) {
        struct segment_run *grown = realloc(s->runs, (s->runs_capacity * 2 + 4) * sizeof *grown);
        if (grown == NULL) {
            return NULL;
        }
        s->runs = grown;
        s->runs_capacity = s->runs_capacity * 2 + 4;
    }
    return &s->runs[s->runs_count++];
}

/* The last entry that stands in the same segment as `first`, and is of the same epoch, at most `index`. */
static uint64_t run_end(const struct shard_log *l, uint64_t first, uint64_t index)
{
    uint32_t segment = place_segment(shard_log_place(l, first));
    uint64_t epoch = shard_log_epoch_at(l, first);
    uint64_t low = first;

    while (low < index) {
        uint64_t middle = low + (index - low + 1) / 2;
        if (place_segment(shard_log_place(l, middle)) == segment && shard_log_epoch_at(l, middle) == epoch) {
            low = middle;
        } else {
            index = middle - 1;
        }
    }
    return low;
}

int journal_settle(struct journal *j, struct journal_shard *s, uint64_t index)
{
    uint64_t last;

    for (uint64_t first = s->log.base.index + 1; first <= index; first = last + 1) {
        struct segment *segment = journal_segment_find(j, place_segment(shard_log_place(&s->log, first)));
        struct segment_run *run;

        last = run_end(&s->log, first, index);
        assert(segment != NULL);
        run = run_make(segment);
        if (run == NULL) {
            return OTR_NOMEM; /* Runs that were noted already are noted once more another time: harmless. */
        }
        *run = (struct segment_run){
            .shard = s->id, .epoch = shard_log_epoch_at(&s->log, first), .first = first, .last = last};
    }
    shard_log_settle(&s->log, index);
    return 0;
}
