#define XXH_INLINE_ALL
#include "sidecar/core/dedup.h"

#include <assert.h>
#include <stdlib.h>
#include <xxhash.h>

enum { DEDUP_RING_FIRST = 64 };

static size_t place_at(const struct dedup *d, size_t i)
{
    return (d->head + i) & (d->ring_capacity - 1);
}

static size_t slots_mask(const struct dedup *d)
{
    return d->ring_capacity * 2 - 1;
}

static size_t slot_home(const struct dedup *d, const struct otr_request_id *id)
{
    return (size_t)XXH3_64bits(id->bytes, sizeof id->bytes) & slots_mask(d);
}

/* The slot that holds the id, or the free one where it belongs. The table is at most half full. */
static size_t slot_find(const struct dedup *d, const struct otr_request_id *id)
{
    size_t slot = slot_home(d, id);

    while (d->slots[slot] != 0 && memcmp(&d->ring[d->slots[slot] - 1].request_id, id, sizeof *id) != 0) {
        slot = (slot + 1) & slots_mask(d);
    }
    return slot;
}

/* Frees a slot and moves up those behind it that would no longer be found. */
static void slot_free(struct dedup *d, size_t slot)
{
    size_t next = slot;

    for (;;) {
        size_t home;

        next = (next + 1) & slots_mask(d);
        if (d->slots[next] == 0) {
            break;
        }
        home = slot_home(d, &d->ring[d->slots[next] - 1].request_id);
        if (((next - home) & slots_mask(d)) >= ((next - slot) & slots_mask(d))) {
            d->slots[slot] = d->slots[next];
            slot = next;
        }
    }
    d->slots[slot] = 0;
}

/* Takes the entry at `place` out of the table, unless its id stands for a newer entry. */
static void forget(struct dedup *d, size_t place)
{
    size_t slot = slot_find(d, &d->ring[place].request_id);

    if (d->slots[slot] == place + 1) {
        slot_free(d, slot);
    }
}

void dedup_close(struct dedup *d)
{
    free(d->ring);
    free(d->slots);
    *d = (struct dedup){0};
}

void dedup_clear(struct dedup *d)
{
    d->head = 0;
    d->count = 0;
    if (d->slots != NULL) {
        memset(d->slots, 0, d->ring_capacity * 2 * sizeof *d->slots);
    }
}

int dedup_reserve(struct dedup *d, size_t extra)
{
    struct dedup bigger = {.ring_capacity = d->ring_capacity == 0 ? DEDUP_RING_FIRST : d->ring_capacity};

    if (d->ring_capacity - d->count >= extra) {
        return 0;
    }
    while (bigger.ring_capacity - d->count < extra) {
        bigger.ring_capacity *= 2;
    }
    if (bigger.ring_capacity > UINT32_MAX / 2) {
        return OTR_NOMEM;
    }
    bigger.ring = malloc(bigger.ring_capacity * sizeof *bigger.ring);
    bigger.slots = calloc(bigger.ring_capacity * 2, sizeof *bigger.slots);
    if (bigger.ring == NULL || bigger.slots == NULL) {
        dedup_close(&bigger);
        return OTR_NOMEM;
    }
    for (size_t i = 0; i < d->count; i++) {
        dedup_add(&bigger, dedup_at(d, i));
    }
    dedup_close(d);
    *d = bigger;
    return 0;
}

void dedup_add(struct dedup *d, const struct dedup_entry *entry)
{
    size_t place;

    if (otr_request_id_is_none(&entry->request_id)) {
        return;
    }
    assert(d->count < d->ring_capacity);
    assert(d->count == 0 || dedup_at(d, d->count - 1)->position.index < entry->position.index);
    place = place_at(d, d->count);
    d->ring[place] = *entry;
    d->count++;
    d->slots[slot_find(d, &entry->request_id)] = (uint32_t)place + 1;
}

const struct dedup_entry *dedup_find(const struct dedup *d, const struct otr_request_id *id)
{
    size_t slot;

    if (d->count == 0 || otr_request_id_is_none(id)) {
        return NULL;
    }
    slot = slot_find(d, id);
    return d->slots[slot] == 0 ? NULL : &d->ring[d->slots[slot] - 1];
}

void dedup_cut(struct dedup *d, uint64_t index)
{
    while (d->count > 0 && dedup_at(d, d->count - 1)->position.index >= index) {
        forget(d, place_at(d, d->count - 1));
        d->count--;
    }
}

void dedup_outcome(struct dedup *d, uint64_t index, uint32_t outcome)
{
    size_t low = 0;
    size_t high = d->count;
    struct dedup_entry *entry;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (dedup_at(d, middle)->position.index < index) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == d->count || dedup_at(d, low)->position.index != index) {
        return;
    }
    entry = &d->ring[place_at(d, low)];
    entry->outcome = outcome;
    entry->has_outcome = true;
}

void dedup_prune(struct dedup *d, uint64_t committed_index, uint64_t now_ms, uint64_t window_ms, size_t ids_min)
{
    while (d->count > ids_min) {
        const struct dedup_entry *oldest = dedup_at(d, 0);

        if (oldest->position.index > committed_index || oldest->time_ms + window_ms >= now_ms) {
            break;
        }
        forget(d, d->head);
        d->head = place_at(d, 1);
        d->count--;
    }
}

const struct dedup_entry *dedup_at(const struct dedup *d, size_t i)
{
    return &d->ring[place_at(d, i)];
}
