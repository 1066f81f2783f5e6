#include "sidecar/log/shard_log.h"

#include <assert.h>
#include <stdlib.h>

void shard_log_close(struct shard_log *l)
{
    free(l->places);
    free(l->epochs);
    *l = (struct shard_log){0};
}

/* Room for `want` items in *array. Grows by a quarter: an index of millions of entries must not waste half as much
 * again as it holds, and large blocks are moved by the kernel without copying. */
static int grow(void **array, size_t *capacity, size_t item_bytes, size_t want)
{
    size_t target = *capacity + *capacity / 4 + 16;
    void *grown;

    if (want <= *capacity) {
        return 0;
    }
    target = target < want ? want : target;
    if (target > SIZE_MAX / item_bytes) {
        return OTR_NOMEM;
    }
    grown = realloc(*array, target * item_bytes);
    if (grown == NULL) {
        return OTR_NOMEM;
    }
    *array = grown;
    *capacity = target;
    return 0;
}

int shard_log_reserve(struct shard_log *l, size_t entries, size_t epochs)
{
    void *places = l->places;
    void *starts = l->epochs;
    int rv;

    rv = grow(&places, &l->capacity, sizeof *l->places, l->count + entries);
    l->places = places;
    if (rv != 0) {
        return rv;
    }
    rv = grow(&starts, &l->epochs_capacity, sizeof *l->epochs, l->epochs_count + epochs);
    l->epochs = starts;
    return rv;
}

struct otr_position shard_log_first(const struct shard_log *l)
{
    return l->count == 0 ? (struct otr_position){0, 0} : l->epochs[0];
}

struct otr_position shard_log_last(const struct shard_log *l)
{
    if (l->count == 0) {
        return l->base;
    }
    return (struct otr_position){l->epochs[l->epochs_count - 1].epoch, l->base.index + l->count};
}

bool shard_log_follows(const struct shard_log *l, struct otr_position position)
{
    struct otr_position last = shard_log_last(l);

    return !l->seed_unfinished && position.index == last.index + 1 && position.epoch >= last.epoch &&
           position.epoch > 0;
}

void shard_log_add(struct shard_log *l, struct otr_position position, journal_place place)
{
    assert(shard_log_follows(l, position));
    assert(l->count < l->capacity);
    if (l->epochs_count == 0 || l->epochs[l->epochs_count - 1].epoch != position.epoch) {
        assert(l->epochs_count < l->epochs_capacity);
        l->epochs[l->epochs_count++] = position;
    }
    l->places[l->count++] = place;
}

void shard_log_cut(struct shard_log *l, uint64_t index)
{
    assert(index > l->base.index);
    if (index - l->base.index > l->count) {
        return;
    }
    l->count = (size_t)(index - l->base.index - 1);
    while (l->epochs_count > 0 && l->epochs[l->epochs_count - 1].index >= index) {
        l->epochs_count--;
    }
}

void shard_log_settle(struct shard_log *l, uint64_t index)
{
    size_t gone = (size_t)(index - l->base.index);
    size_t epochs_gone = 0;
    journal_place *smaller;

    assert(!l->seed_unfinished && index >= l->base.index && gone <= l->count);
    if (gone == 0) {
        return;
    }
    l->base = (struct otr_position){shard_log_epoch_at(l, index), index};
    l->count -= gone;
    memmove(l->places, l->places + gone, l->count * sizeof *l->places);
    while (epochs_gone < l->epochs_count &&
           (l->count == 0 || (epochs_gone + 1 < l->epochs_count && l->epochs[epochs_gone + 1].index <= index + 1))) {
        epochs_gone++;
    }
    l->epochs_count -= epochs_gone;
    memmove(l->epochs, l->epochs + epochs_gone, l->epochs_count * sizeof *l->epochs);
    if (l->epochs_count > 0 && l->epochs[0].index <= index) {
        l->epochs[0].index = index + 1; /* the epoch goes on behind the base */
    }
    if (l->capacity > 2 * l->count + 1024) {
        smaller = realloc(l->places, (l->count + l->count / 4 + 16) * sizeof *smaller);
        if (smaller != NULL) {
            l->places = smaller;
            l->capacity = l->count + l->count / 4 + 16;
        }
    }
}

void shard_log_seed_begin(struct shard_log *l)
{
    shard_log_close(l); /* Gives the memory back too: what is seeded may be much smaller. */
    l->seed_unfinished = true;
}

void shard_log_seed_end(struct shard_log *l, struct otr_position base)
{
    assert(l->seed_unfinished && l->count == 0);
    l->base = base;
    l->seed_unfinished = false;
}

uint64_t shard_log_epoch_at(const struct shard_log *l, uint64_t index)
{
    size_t low = 0;
    size_t high = l->epochs_count;

    if (index == l->base.index) {
        return l->base.epoch;
    }
    if (index < l->base.index || index - l->base.index > l->count) {
        return 0;
    }
    while (high - low > 1) { /* epochs[low].index <= index < epochs[high].index */
        size_t middle = low + (high - low) / 2;
        if (l->epochs[middle].index <= index) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return l->epochs[low].epoch;
}

journal_place shard_log_place(const struct shard_log *l, uint64_t index)
{
    if (index <= l->base.index || index - l->base.index > l->count) {
        return 0;
    }
    return l->places[index - l->base.index - 1];
}
