/* How much of each segment a store still needs, and points that move from one segment to another. */
#include "sidecar/log/store_internal.h"

#include <assert.h>
#include <stdlib.h>

/* --- counts ------------------------------------------------------------------------------------------------------- */

static size_t counts_position(const struct store_counts *c, uint32_t segment)
{
    size_t low = 0;
    size_t high = c->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c->list[middle].segment < segment) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

struct store_usage *store_counts_get(const struct store_counts *c, uint32_t segment)
{
    size_t at = counts_position(c, segment);

    return at < c->count && c->list[at].segment == segment ? &c->list[at] : NULL;
}

struct store_usage *store_counts_make(struct store_counts *c, uint32_t segment)
{
    size_t at = counts_position(c, segment);

    if (at < c->count && c->list[at].segment == segment) {
        return &c->list[at];
    }
    if (c->count == c->capacity) {
        struct store_usage *grown = realloc(c->list, (c->capacity * 2 + 4) * sizeof *grown);
        if (grown == NULL) {
            return NULL;
        }
        c->list = grown;
        c->capacity = c->capacity * 2 + 4;
    }
    memmove(c->list + at + 1, c->list + at, (c->count - at) * sizeof *c->list);
    c->list[at] = (struct store_usage){.segment = segment};
    c->count++;
    return &c->list[at];
}

static void counts_forget(struct store_counts *c, uint32_t segment)
{
    size_t at = counts_position(c, segment);

    if (at < c->count && c->list[at].segment == segment) {
        c->count--;
        memmove(c->list + at, c->list + at + 1, (c->count - at) * sizeof *c->list);
    }
}

void store_usage(const struct store *s, uint32_t segment, struct store_usage *usage)
{
    const struct store_usage *u = store_counts_get(&s->usage, segment);

    *usage = u != NULL ? *u : (struct store_usage){.segment = segment};
    for (size_t i = 0; i < s->tables_count; i++) {
        u = store_counts_get(&s->tables[i].live, segment);
        usage->live += u != NULL ? u->live : 0;
    }
}

void store_usage_forget(struct store *s, uint32_t segment)
{
    counts_forget(&s->usage, segment);
    for (size_t i = 0; i < s->tables_count; i++) {
        const struct store_usage *u = store_counts_get(&s->tables[i].live, segment);
        assert(u == NULL || u->live == 0);
        counts_forget(&s->tables[i].live, segment);
    }
}

void store_usage_deletes(struct store *s, uint32_t segment, uint64_t bytes)
{
    struct store_usage *u = store_counts_make(&s->usage, segment);

    if (u != NULL) {
        u->deletes_bytes += bytes;
    }
}

int store_usage_merge(struct store *s, const struct store *from)
{
    for (size_t i = 0; i < from->tables_count; i++) {
        const struct store_table *f = &from->tables[i];
        for (size_t k = 0; k < f->live.count; k++) {
            if (store_counts_make(&store_table_get(s, f->collection)->live, f->live.list[k].segment) == NULL) {
                return OTR_NOMEM;
            }
        }
    }
    for (size_t i = 0; i < from->usage.count; i++) {
        const struct store_usage *u = &from->usage.list[i];
        struct store_usage *own = store_counts_make(&s->usage, u->segment);
        if (own == NULL) {
            return OTR_NOMEM;
        }
        own->points += u->points;
        own->points_bytes += u->points_bytes;
    }
    return 0;
}

/* --- moving ------------------------------------------------------------------------------------------------------- */

static struct store_slot *slot_at(const struct store_table *t, uint64_t hash, journal_place place)
{
    for (size_t i = store_home(hash, t->capacity); t->slots[i].place != 0; i = store_next_slot(t, i)) {
        if (t->slots[i].hash == hash && t->slots[i].place == place) {
            return &t->slots[i];
        }
    }
    return NULL;
}

bool store_is_live(const struct store *s, uint64_t collection, uint64_t hash, journal_place place)
{
    const struct store_table *t = store_table_get(s, collection);

    return t != NULL && slot_at(t, hash, place) != NULL;
}

int store_move(struct store *s, uint64_t collection, uint64_t hash, journal_place from, journal_place to,
               uint32_t bytes)
{
    struct store_usage *usage = store_counts_make(&s->usage, (uint32_t)(to >> 40));
    struct store_table *t = store_table_get(s, collection);
    struct store_slot *slot = t != NULL ? slot_at(t, hash, from) : NULL;
    struct store_usage *live;

    if (usage == NULL) {
        return OTR_NOMEM;
    }
    if (slot != NULL) {
        live = store_counts_make(&t->live, (uint32_t)(to >> 40));
        if (live == NULL) {
            return OTR_NOMEM;
        }
        live->live++;
        live = store_counts_get(&t->live, (uint32_t)(from >> 40));
        assert(live != NULL && live->live > 0);
        live->live--;
        slot->place = to;
    }
    usage->points++;
    usage->points_bytes += bytes;
    return 0;
}
