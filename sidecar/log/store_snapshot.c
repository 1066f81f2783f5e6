/* Copies of a store's places, in the order of reading or of scrolling. */
#include "sidecar/log/store_internal.h"

#include <stdlib.h>

struct item {
    struct store_slot slot;
    uint64_t collection;
};

struct items {
    struct item *list;
    size_t count;
};

static uint64_t key_place(const struct item *i)
{
    return i->slot.place;
}

static uint64_t key_hash(const struct item *i)
{
    return i->slot.hash;
}

/* Sorts by radix, byte by byte from the lowest: a snapshot of a large shard is taken on the loop thread, where qsort's
 * time is not to be had. Bytes that are equal in all keys (most of them, in places) cost one pass of counting. */
static int items_sort(struct items *items, uint64_t (*key)(const struct item *))
{
    struct item *from = items->list;
    struct item *to = malloc(items->count * sizeof *to + 1);
    struct item *sorted;

    if (to == NULL) {
        return OTR_NOMEM;
    }
    for (unsigned shift = 0; shift < 64; shift += 8) {
        size_t starts[257] = {0};

        for (size_t i = 0; i < items->count; i++) {
            starts[(key(&from[i]) >> shift & 0xFF) + 1]++;
        }
        if (items->count == 0 || starts[(key(&from[0]) >> shift & 0xFF) + 1] == items->count) {
            continue;
        }
        for (size_t b = 1; b < 256; b++) {
            starts[b] += starts[b - 1];
        }
        for (size_t i = 0; i < items->count; i++) {
            to[starts[key(&from[i]) >> shift & 0xFF]++] = from[i];
        }
        sorted = to;
        to = from;
        from = sorted;
    }
    items->list = from;
    free(to);
    return 0;
}

static void items_add(struct items *items, const struct store_table *t, size_t i)
{
    items->list[items->count++] = (struct item){.slot = t->slots[i], .collection = t->collection};
}

/* Adds the table's points with hashes of at least `from`: all of them, or in the order of runs until there are `max`.
 */
static void items_collect(struct items *items, const struct store_table *t, uint64_t from, size_t max)
{
    size_t before = items->count;
    size_t i = store_home(from, t->capacity);

    for (; i < t->capacity; i++) {
        if (t->slots[i].place == 0) {
            if (items->count - before >= max) {
                return; /* What follows has higher hashes than all of this run. */
            }
        } else if (t->slots[i].hash >= from && store_home(t->slots[i].hash, t->capacity) <= i) {
            items_add(items, t, i);
        }
    }
    /* The last run may go on at the start of the table. */
    for (i = 0; i < t->capacity && t->slots[i].place != 0; i++) {
        if (t->slots[i].hash >= from && store_home(t->slots[i].hash, t->capacity) > i) {
            items_add(items, t, i);
        }
    }
}

static struct store_snapshot *snapshot_of(const struct items *items, size_t count, bool with_collections)
{
    struct store_snapshot *snap = calloc(1, sizeof *snap);

    if (snap == NULL) {
        return NULL;
    }
    snap->count = count;
    snap->slots = malloc(count * sizeof *snap->slots + 1);
    if (with_collections) {
        snap->collections = malloc(count * sizeof *snap->collections + 1);
    }
    if (snap->slots == NULL || (with_collections && snap->collections == NULL)) {
        store_snapshot_free(snap);
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        snap->slots[i] = items->list[i].slot;
        if (with_collections) {
            snap->collections[i] = items->list[i].collection;
        }
    }
    return snap;
}

/* At most `max`, but equal hashes stay together where they can: the next page begins above the last hash. */
static size_t page_count(const struct items *items, size_t max)
{
    size_t count = max;

    if (items->count <= max) {
        return items->count;
    }
    while (count > 0 && items->list[count - 1].slot.hash == items->list[count].slot.hash) {
        count--;
    }
    return count == 0 ? max : count;
}

static struct store_snapshot *snapshot(const struct store *s, uint64_t collection, uint64_t from, size_t max,
                                       uint64_t (*key)(const struct item *))
{
    size_t room = (size_t)(collection == 0 ? store_count_all(s) : store_count(s, collection));
    struct items items = {.list = malloc(room * sizeof *items.list + 1)};
    struct store_snapshot *snap = NULL;

    if (items.list == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < s->tables_count; i++) {
        if (collection == 0 || s->tables[i].collection == collection) {
            items_collect(&items, &s->tables[i], from, max);
        }
    }
    if (items_sort(&items, key) == 0) {
        snap = snapshot_of(&items, page_count(&items, max), collection == 0);
    }
    free(items.list);
    return snap;
}

struct store_snapshot *store_snapshot_by_place(const struct store *s, uint64_t collection)
{
    return snapshot(s, collection, 0, SIZE_MAX, key_place);
}

struct store_snapshot *store_snapshot_by_hash(const struct store *s, uint64_t collection, uint64_t from, size_t max)
{
    return snapshot(s, collection, from, max, key_hash);
}

/* Points at `place` and behind it: how many; the first `room` of them are added. */
static size_t items_since(struct items *items, size_t room, const struct store_table *t, journal_place place)
{
    size_t found = 0;

    for (size_t i = 0; i < t->capacity; i++) {
        if (t->slots[i].place != 0 && !journal_place_before(t->slots[i].place, place)) {
            if (found++ < room) {
                items_add(items, t, i);
            }
        }
    }
    return found;
}

struct store_snapshot *store_snapshot_since(const struct store *s, uint64_t collection, journal_place place)
{
    struct store_snapshot *snap = NULL;
    struct items items = {0};
    size_t room = 0;

    for (size_t i = 0; i < s->tables_count; i++) {
        if (s->tables[i].collection == collection) {
            room = items_since(&items, 0, &s->tables[i], place);
        }
    }
    items.list = malloc(room * sizeof *items.list + 1);
    if (items.list == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < s->tables_count; i++) {
        if (s->tables[i].collection == collection) {
            items_since(&items, room, &s->tables[i], place);
        }
    }
    if (items_sort(&items, key_place) == 0) {
        snap = snapshot_of(&items, items.count, false);
    }
    free(items.list);
    return snap;
}

/* Snapshots of a few ranges are rare and small: all points are looked at. */
struct store_snapshot *store_snapshot_ranges(const struct store *s, const struct store_ranges *ranges)
{
    struct store_snapshot *snap = store_snapshot_by_place(s, 0);
    size_t kept = 0;

    for (size_t i = 0; snap != NULL && i < snap->count; i++) {
        if (store_ranges_has(ranges, store_range_of(snap->slots[i].hash))) {
            snap->slots[kept] = snap->slots[i];
            snap->collections[kept++] = snap->collections[i];
        }
    }
    if (snap != NULL) {
        snap->count = kept;
    }
    return snap;
}

void store_snapshot_free(struct store_snapshot *snap)
{
    if (snap != NULL) {
        free(snap->slots);
        free(snap->collections);
        free(snap);
    }
}
