#include "sidecar/core/epochs.h"

#include <assert.h>
#include <stdlib.h>

void epochs_close(struct epochs *e)
{
    free(e->items);
    *e = (struct epochs){0};
}

int epochs_reserve(struct epochs *e, size_t extra)
{
    size_t capacity = e->capacity == 0 ? 8 : e->capacity;
    struct epochs_start *items;

    while (capacity - e->count < extra) {
        capacity *= 2;
    }
    if (capacity == e->capacity) {
        return 0;
    }
    items = realloc(e->items, capacity * sizeof *items);
    if (items == NULL) {
        return OTR_NOMEM;
    }
    e->items = items;
    e->capacity = capacity;
    return 0;
}

void epochs_append(struct epochs *e, uint64_t epoch, uint64_t index)
{
    const struct epochs_start *newest = e->count == 0 ? NULL : &e->items[e->count - 1];

    if (newest != NULL && newest->epoch == epoch) {
        return;
    }
    assert(newest == NULL || newest->epoch < epoch);
    assert(newest == NULL || newest->first_index < index);
    assert(e->items != NULL && e->count < e->capacity);
    e->items[e->count++] = (struct epochs_start){.epoch = epoch, .first_index = index};
}

void epochs_cut(struct epochs *e, uint64_t index)
{
    while (e->count > 0 && e->items[e->count - 1].first_index >= index) {
        e->count--;
    }
}

uint64_t epochs_at(const struct epochs *e, uint64_t index)
{
    /* From the newest: almost every question is about the log's end. */
    for (size_t i = e->count; i > 0; i--) {
        if (e->items[i - 1].first_index <= index) {
            return e->items[i - 1].epoch;
        }
    }
    return 0;
}

uint64_t epochs_floor(const struct epochs *e, struct otr_position p, uint64_t last)
{
    uint64_t end = last; /* last index of the boundary looked at */

    for (size_t i = e->count; i > 0; i--) {
        const struct epochs_start *start = &e->items[i - 1];

        if (start->epoch <= p.epoch && start->first_index <= p.index) {
            return end < p.index ? end : p.index;
        }
        end = start->first_index - 1;
    }
    return 0;
}
