/* Digests of what a store holds, and the exchange of single ranges. */
#include "sidecar/log/store_internal.h"

#include <stdlib.h>

/* --- digests ------------------------------------------------------------------------------------------------------ */

static uint64_t contribution(uint64_t collection, uint64_t hash, uint32_t sum)
{
    uint64_t words[3] = {collection, hash, sum};

    return point_hash((const char *)words, sizeof words);
}

void store_digest_add(struct store *s, uint64_t collection, uint64_t hash, uint32_t sum)
{
    s->digests[store_range_of(hash)] += contribution(collection, hash, sum);
}

void store_digest_take(struct store *s, uint64_t collection, uint64_t hash, uint32_t sum)
{
    s->digests[store_range_of(hash)] -= contribution(collection, hash, sum);
}

const uint64_t *store_digests(const struct store *s)
{
    return s->digests;
}

uint64_t store_digest(const struct store *s)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < STORE_RANGES; i++) {
        sum += s->digests[i];
    }
    return sum;
}

/* --- ranges ------------------------------------------------------------------------------------------------------- */

struct store *store_new_like(const struct store *s)
{
    struct store *like = store_new_with_hash(s->hash);

    if (like != NULL) {
        like->mark_seed = s->mark_seed;
    }
    return like;
}

/* Calls for every point of one range: its slots stand from the range's first home on, in runs. */
static void range_walk(const struct store_table *t, size_t range, void (*cb)(size_t slot, void *data), void *data)
{
    size_t first = store_home((uint64_t)range << 56, t->capacity);
    size_t last = store_home((uint64_t)range << 56 | UINT64_MAX >> 8, t->capacity);
    size_t i = first;

    for (size_t n = 0; n < t->capacity; n++, i = store_next_slot(t, i)) {
        if (t->slots[i].place == 0 && (i >= last || i < first)) {
            return; /* the run that the last home belongs to has ended */
        }
        if (t->slots[i].place != 0 && store_range_of(t->slots[i].hash) == range) {
            cb(i, data);
        }
    }
}

struct picked {
    const struct store_table *t;
    struct store_slot *slots; /* NULL: only counted */
    size_t count;
};

static void pick(size_t slot, void *data)
{
    struct picked *p = data;

    if (p->slots != NULL) {
        p->slots[p->count] = p->t->slots[slot];
    }
    p->count++;
}

static void pick_ranges(struct picked *p, const struct store_ranges *ranges)
{
    for (size_t range = 0; range < STORE_RANGES; range++) {
        if (store_ranges_has(ranges, range)) {
            range_walk(p->t, range, pick, p);
        }
    }
}

static void remove_slot(struct store *s, struct store_table *t, const struct store_slot *slot)
{
    size_t i = store_home(slot->hash, t->capacity);

    while (t->slots[i].place != slot->place) {
        i = store_next_slot(t, i);
    }
    store_table_remove(s, t, i);
}

/* All of a table's points in these ranges, in memory of our own. */
static int pick_all(struct picked *p, const struct store_ranges *ranges)
{
    pick_ranges(p, ranges);
    p->slots = malloc(p->count * sizeof *p->slots + 1);
    if (p->slots == NULL) {
        return OTR_NOMEM;
    }
    p->count = 0;
    pick_ranges(p, ranges);
    return 0;
}

int store_replace(struct store *s, const struct store_ranges *ranges, const struct store *from)
{
    struct picked *old = calloc(s->tables_count + 1, sizeof *old);
    uint64_t *collections = calloc(s->tables_count + 1, sizeof *collections);
    size_t count = s->tables_count;
    int rv = old == NULL || collections == NULL ? OTR_NOMEM : 0;

    for (size_t i = 0; i < count && rv == 0; i++) {
        collections[i] = s->tables[i].collection;
        old[i].t = &s->tables[i];
        rv = pick_all(&old[i], ranges);
    }
    for (size_t i = 0; i < from->tables_count && rv == 0; i++) { /* room first, so that nothing fails halfway */
        rv = store_table_make(s, from->tables[i].collection, from->tables[i].count) == NULL ? OTR_NOMEM : 0;
    }
    if (rv == 0) {
        rv = store_usage_merge(s, from);
    }
    for (size_t i = 0; i < count && rv == 0; i++) {
        for (size_t k = 0; k < old[i].count; k++) {
            remove_slot(s, store_table_get(s, collections[i]), &old[i].slots[k]);
        }
    }
    for (size_t i = 0; i < from->tables_count && rv == 0; i++) {
        const struct store_table *f = &from->tables[i];
        for (size_t k = 0; k < f->capacity; k++) {
            if (f->slots[k].place != 0) {
                store_table_insert(s, store_table_get(s, f->collection), f->slots[k], f->marks[k], f->sums[k]);
            }
        }
    }
    for (size_t i = s->tables_count; i > 0; i--) { /* also those made in vain */
        store_table_settle(s, &s->tables[i - 1]);
    }
    for (size_t i = 0; old != NULL && i < count; i++) {
        free(old[i].slots);
    }
    free(old);
    free(collections);
    return rv;
}
