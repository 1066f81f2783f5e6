#include "sidecar/log/tail.h"

#include "sidecar/log/journal_format.h"

#include <assert.h>
#include <stdlib.h>

enum { CHUNK_BYTES_MIN = 4096, CHUNK_BYTES_MAX = 1 << 20 };

void tail_init(struct tail *t, size_t bytes_max)
{
    size_t chunk_bytes = bytes_max / 8;

    chunk_bytes = chunk_bytes < CHUNK_BYTES_MIN ? CHUNK_BYTES_MIN : chunk_bytes;
    chunk_bytes = chunk_bytes > CHUNK_BYTES_MAX ? CHUNK_BYTES_MAX : chunk_bytes;
    *t = (struct tail){.bytes_max = bytes_max, .chunk_bytes = chunk_bytes};
}

void tail_close(struct tail *t)
{
    for (size_t i = 0; i < t->count; i++) {
        free(t->chunks[t->first + i].data);
    }
    free(t->chunks);
    *t = (struct tail){0};
}

static struct tail_chunk *newest(const struct tail *t)
{
    return t->count == 0 ? NULL : &t->chunks[t->first + t->count - 1];
}

/* A free place behind the newest chunk; false: out of memory. */
static bool make_room(struct tail *t)
{
    struct tail_chunk *grown;

    assert(t->chunks != NULL || (t->first == 0 && t->count == 0 && t->capacity == 0));
    if (t->first + t->count < t->capacity) {
        return true;
    }
    if (t->first > t->count) { /* Amortized: moves fewer chunks than were evicted since the last time. */
        memmove(t->chunks, t->chunks + t->first, t->count * sizeof *t->chunks);
        t->first = 0;
        return true;
    }
    grown = realloc(t->chunks, (t->capacity * 2 + 8) * sizeof *grown);
    if (grown == NULL) {
        return false;
    }
    t->chunks = grown;
    t->capacity = t->capacity * 2 + 8;
    return true;
}

uint8_t *tail_reserve(struct tail *t, uint32_t segment, uint64_t offset, size_t bytes)
{
    struct tail_chunk *c = newest(t);
    struct tail_chunk fresh = {.segment = segment, .offset = offset, .capacity = t->chunk_bytes};

    assert(bytes % 8 == 0 && offset % 8 == 0);
    if (c != NULL && c->segment == segment) {
        assert(c->offset + c->used == offset);
        if (c->capacity - c->used >= bytes) {
            return c->data + c->used;
        }
    }
    fresh.capacity = fresh.capacity < bytes ? bytes : fresh.capacity;
    if (!make_room(t)) {
        return NULL;
    }
    fresh.data = malloc(fresh.capacity);
    if (fresh.data == NULL) {
        return NULL;
    }
    c = newest(t);
    if (c != NULL && c->used == 0) { /* Reserved and never used. */
        t->bytes -= c->capacity;
        free(c->data);
        t->count--;
    }
    t->chunks[t->first + t->count++] = fresh;
    t->bytes += fresh.capacity;
    return fresh.data;
}

void tail_commit(struct tail *t, size_t bytes)
{
    struct tail_chunk *c = newest(t);

    assert(c != NULL && c->capacity - c->used >= bytes);
    c->used += bytes;
}

const uint8_t *tail_find(const struct tail *t, journal_place place, size_t *available)
{
    size_t low = t->first;
    size_t high = t->first + t->count;
    const struct tail_chunk *c;
    uint64_t within;

    while (low < high) { /* low: the first chunk that begins behind `place` */
        size_t middle = low + (high - low) / 2;
        if (place_make(t->chunks[middle].segment, t->chunks[middle].offset) <= place) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == t->first) {
        return NULL;
    }
    c = &t->chunks[low - 1];
    within = place_offset(place) - c->offset;
    if (place_segment(place) != c->segment || within >= c->used) {
        return NULL;
    }
    *available = c->used - (size_t)within;
    return c->data + within;
}

void tail_evict(struct tail *t, uint32_t segment, uint64_t offset)
{
    while (t->bytes > t->bytes_max && t->count > 0) {
        struct tail_chunk *c = &t->chunks[t->first];
        if (c->segment > segment || (c->segment == segment && c->offset + c->used > offset) || c->used == 0) {
            return;
        }
        t->bytes -= c->capacity;
        free(c->data);
        t->first++;
        t->count--;
    }
}
