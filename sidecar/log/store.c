/* A collection's table is open-addressed with linear probing. A slot's home is hash * capacity / 2^64, so that homes
 * ascend with hashes: the runs of occupied slots stand in hash order, and a page of a scroll is found by walking on
 * from its first home. (The routing of points to shards fixes low bits of the hash only.) Deletion moves later slots of
 * the run back, so that no tombstones pile up.
 *
 * Beside each slot stand 32 bits of another hash, the mark. Equal hashes with different marks are different ids; with
 * equal marks they are taken for the same id, unnoticed collisions being as likely as 96 random bits make them. So
 * overwriting and deleting read nothing from the disk. Only where ids are known to collide, because the hash is there
 * with several marks (somebody made them collide, or billions of points met by chance), the ids themselves are asked
 * for. The marks' seed differs from process to process: nobody outside can aim at both hashes. */
#include "sidecar/log/store_internal.h"

#include <assert.h>
#include <stdlib.h>

enum { TABLE_CAPACITY_MIN = 16, SLOT_BYTES = sizeof(struct store_slot) + 2 * sizeof(uint32_t) };

/* An id, as the tables know it. */
struct key {
    uint64_t hash;
    uint32_t mark;
};

/* --- one table ---------------------------------------------------------------------------------------------------- */

/* FNV-1a with a seed, mixed at the end so that each of the 32 bits depends on the whole id. */
static uint32_t mark_of(uint64_t seed, const char *id, size_t id_bytes)
{
    uint64_t h = seed;

    for (size_t i = 0; i < id_bytes; i++) {
        h = (h ^ (uint8_t)id[i]) * 0x100000001B3U;
    }
    h = (h ^ h >> 32) * 0xD6E8FEB86659FD93U;
    return (uint32_t)(h >> 32);
}

static struct key key_of(const struct store *s, const struct otr_point *p)
{
    return (struct key){s->hash(p->id, p->id_bytes), mark_of(s->mark_seed, p->id, p->id_bytes)};
}

/* Puts a slot behind the others of its run; there is room. */
static void table_insert(struct store_table *t, struct store_slot slot, uint32_t mark, uint32_t sum)
{
    size_t i = store_home(slot.hash, t->capacity);

    while (t->slots[i].place != 0) {
        i = store_next_slot(t, i);
    }
    t->slots[i] = slot;
    t->marks[i] = mark;
    t->sums[i] = sum;
    t->count++;
}

static int table_resize(struct store_table *t, size_t capacity)
{
    struct store_table grown = {.collection = t->collection, .capacity = capacity, .live = t->live};

    grown.slots = calloc(capacity, SLOT_BYTES);
    if (grown.slots == NULL) {
        return OTR_NOMEM;
    }
    grown.marks = (uint32_t *)(void *)(grown.slots + capacity);
    grown.sums = grown.marks + capacity;
    for (size_t i = 0; i < t->capacity; i++) {
        if (t->slots[i].place != 0) {
            table_insert(&grown, t->slots[i], t->marks[i], t->sums[i]);
        }
    }
    free(t->slots);
    *t = grown;
    return 0;
}

/* At most 5/6 full, growing by a quarter: between 29 and 36 bytes a point. */
static int table_reserve(struct store_table *t, size_t more)
{
    size_t need = (t->count + more) / 5 * 6 + 6;
    size_t capacity = t->capacity + t->capacity / 4;

    if (need <= t->capacity) {
        return 0;
    }
    capacity = capacity < TABLE_CAPACITY_MIN ? TABLE_CAPACITY_MIN : capacity;
    return table_resize(t, capacity < need ? need : capacity);
}

/* Memory that a great deletion left behind is given back; where there is none to do so, it stays. */
static void table_shrink(struct store_table *t)
{
    if (t->capacity > (size_t)4 * TABLE_CAPACITY_MIN && t->count < t->capacity / 8) {
        (void)table_resize(t, t->count * 2 + TABLE_CAPACITY_MIN);
    }
}

/* True when a slot with home `home`, found at `from`, may stand at `to` instead, which comes before it in its run: then
 * its home is not in (to, from], read around the end of the table. */
static bool may_move(size_t home, size_t from, size_t to)
{
    return to < from ? home <= to || home > from : home <= to && home > from;
}

static struct store_usage *live_at(struct store_table *t, journal_place place)
{
    struct store_usage *u = store_counts_get(&t->live, (uint32_t)(place >> 40));

    assert(u != NULL);
    return u;
}

static void live_less(struct store_table *t, journal_place place)
{
    struct store_usage *u = live_at(t, place);

    assert(u->live > 0);
    u->live--;
}

static void table_remove(struct store_table *t, size_t hole)
{
    live_less(t, t->slots[hole].place);
    for (size_t i = store_next_slot(t, hole); t->slots[i].place != 0; i = store_next_slot(t, i)) {
        if (may_move(store_home(t->slots[i].hash, t->capacity), i, hole)) {
            t->slots[hole] = t->slots[i];
            t->marks[hole] = t->marks[i];
            t->sums[hole] = t->sums[i];
            hole = i;
        }
    }
    t->slots[hole].place = 0;
    t->count--;
}

/* The slot of this very id among several with its hash, or NULL. */
static struct store_slot *table_find_asking(const struct store_table *t, struct key key, const struct otr_point *p,
                                            store_same_id_cb same_id, void *data)
{
    for (size_t i = store_home(key.hash, t->capacity); t->slots[i].place != 0; i = store_next_slot(t, i)) {
        if (t->slots[i].hash == key.hash && t->marks[i] == key.mark &&
            same_id(data, t->slots[i].place, p->id, p->id_bytes)) {
            return &t->slots[i];
        }
    }
    return NULL;
}

/* The slot of this very id, or NULL. */
static struct store_slot *table_find(const struct store_table *t, struct key key, const struct otr_point *p,
                                     store_same_id_cb same_id, void *data)
{
    struct store_slot *found = NULL;
    size_t equal = 0;

    for (size_t i = store_home(key.hash, t->capacity); t->slots[i].place != 0; i = store_next_slot(t, i)) {
        if (t->slots[i].hash == key.hash) {
            equal++;
            found = t->marks[i] == key.mark ? &t->slots[i] : found;
        }
    }
    return found == NULL || equal == 1 ? found : table_find_asking(t, key, p, same_id, data);
}

/* --- tables ------------------------------------------------------------------------------------------------------- */

/* Where the collection's table is, or would be. */
static size_t table_position(const struct store *s, uint64_t collection)
{
    size_t low = 0;
    size_t high = s->tables_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->tables[middle].collection < collection) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

struct store_table *store_table_get(const struct store *s, uint64_t collection)
{
    size_t at = table_position(s, collection);

    return at < s->tables_count && s->tables[at].collection == collection ? &s->tables[at] : NULL;
}

struct store_table *store_table_make(struct store *s, uint64_t collection, size_t more)
{
    struct store_table *t = store_table_get(s, collection);
    struct store_table fresh = {.collection = collection};
    size_t at;

    if (t != NULL) {
        return table_reserve(t, more) == 0 ? t : NULL;
    }
    if (s->tables_count == s->tables_capacity) {
        struct store_table *grown = realloc(s->tables, (s->tables_capacity * 2 + 4) * sizeof *grown);
        if (grown == NULL) {
            return NULL;
        }
        s->tables = grown;
        s->tables_capacity = s->tables_capacity * 2 + 4;
    }
    if (table_reserve(&fresh, more) != 0) {
        return NULL;
    }
    assert(fresh.slots != NULL);
    at = table_position(s, collection);
    memmove(s->tables + at + 1, s->tables + at, (s->tables_count - at) * sizeof *s->tables);
    s->tables[at] = fresh;
    s->tables_count++;
    return &s->tables[at];
}

static void table_drop(struct store *s, struct store_table *t)
{
    size_t at = (size_t)(t - s->tables);

    free(t->slots);
    free(t->live.list);
    s->tables_count--;
    memmove(s->tables + at, s->tables + at + 1, (s->tables_count - at) * sizeof *s->tables);
}

void store_table_insert(struct store *s, struct store_table *t, struct store_slot slot, uint32_t mark, uint32_t sum)
{
    table_insert(t, slot, mark, sum);
    live_at(t, slot.place)->live++;
    store_digest_add(s, t->collection, slot.hash, sum);
}

void store_table_remove(struct store *s, struct store_table *t, size_t hole)
{
    store_digest_take(s, t->collection, t->slots[hole].hash, t->sums[hole]);
    table_remove(t, hole);
}

void store_table_settle(struct store *s, struct store_table *t)
{
    if (t->count == 0) {
        table_drop(s, t);
    } else {
        table_shrink(t);
    }
}

struct store *store_new_with_hash(store_hash_fn hash)
{
    struct store *s = calloc(1, sizeof *s);

    if (s != NULL) {
        s->hash = hash;
        s->mark_seed = (uint64_t)(uintptr_t)s * 0x9E3779B97F4A7C15U; /* Where the heap lies is the system's secret. */
    }
    return s;
}

struct store *store_new(void)
{
    return store_new_with_hash(point_hash);
}

void store_clear(struct store *s)
{
    for (size_t i = 0; i < s->tables_count; i++) {
        free(s->tables[i].slots);
        free(s->tables[i].live.list);
    }
    s->tables_count = 0;
    s->usage.count = 0;
    memset(s->digests, 0, sizeof s->digests);
}

void store_free(struct store *s)
{
    if (s != NULL) {
        store_clear(s);
        free(s->tables);
        free(s->usage.list);
        free(s);
    }
}

/* --- applying ----------------------------------------------------------------------------------------------------- */

/* Walks the whole body before anything is done with it. */
static int body_check(uint16_t kind, const uint8_t *body, size_t bytes, struct body_iter *it)
{
    struct otr_point p;
    int rv = body_iter_init(it, kind, body, bytes);

    while (rv == 0) {
        rv = body_next(it, &p);
    }
    if (rv != OTR_NOTFOUND) {
        return rv;
    }
    return body_iter_init(it, kind, body, bytes);
}

/* The newest version of a point. */
static void put_point(struct store *s, struct store_table *t, const struct otr_point *p, journal_place place,
                      uint32_t sum, store_same_id_cb same_id, void *data)
{
    struct key key = key_of(s, p);
    struct store_slot slot = {.hash = key.hash, .place = place};
    struct store_slot *old = table_find(t, key, p, same_id, data);

    if (old == NULL) {
        store_table_insert(s, t, slot, key.mark, sum);
        return;
    }
    store_digest_take(s, t->collection, key.hash, t->sums[old - t->slots]);
    store_digest_add(s, t->collection, key.hash, sum);
    live_less(t, old->place);
    live_at(t, place)->live++;
    *old = slot;
    t->sums[old - t->slots] = sum;
}

static int apply_put(struct store *s, uint16_t kind, const uint8_t *body, size_t bytes, journal_place place,
                     store_same_id_cb same_id, void *data, uint32_t *outcome)
{
    struct body_iter it;
    struct otr_point p;
    struct store_table *t;
    uint32_t count;

    if (body_check(kind, body, bytes, &it) != 0) {
        return OTR_CORRUPT;
    }
    count = it.left;
    if (count > 0) {
        uint32_t segment = (uint32_t)(place >> 40); /* a record never straddles two */
        struct store_usage *usage = store_counts_make(&s->usage, segment);

        t = usage == NULL ? NULL : store_table_make(s, it.collection, count);
        if (t == NULL) {
            return OTR_NOMEM;
        }
        if (store_counts_make(&t->live, segment) == NULL) {
            store_table_settle(s, t);
            return OTR_NOMEM;
        }
        usage->points += count;
        while (body_next(&it, &p) == 0) {
            uint32_t sum; /* a point begins with the checksum of its content (codec.h) */

            usage->points_bytes += it.next - it.offset;
            memcpy(&sum, body + it.offset, sizeof sum);
            put_point(s, t, &p, place + (RECORD_HEADER_BYTES + it.offset) / 8, sum, same_id, data);
        }
    }
    *outcome = count;
    return 0;
}

static int apply_delete(struct store *s, const uint8_t *body, size_t bytes, store_same_id_cb same_id, void *data,
                        uint32_t *outcome)
{
    struct body_iter it;
    struct otr_point p;
    struct store_table *t;

    if (body_check(RECORD_DELETE, body, bytes, &it) != 0) {
        return OTR_CORRUPT;
    }
    *outcome = 0;
    t = store_table_get(s, it.collection);
    while (t != NULL && t->count > 0 && body_next(&it, &p) == 0) {
        struct store_slot *old = table_find(t, key_of(s, &p), &p, same_id, data);
        if (old != NULL) {
            store_table_remove(s, t, (size_t)(old - t->slots));
            *outcome += 1;
        }
    }
    if (t != NULL) {
        store_table_settle(s, t);
    }
    return 0;
}

static int apply_drop(struct store *s, const uint8_t *body, size_t bytes)
{
    struct body_iter it;
    struct store_table *t;

    if (body_iter_init(&it, RECORD_DROP, body, bytes) != 0) {
        return OTR_CORRUPT;
    }
    t = store_table_get(s, it.collection);
    if (t != NULL) {
        for (size_t i = 0; i < t->capacity; i++) {
            if (t->slots[i].place != 0) {
                store_digest_take(s, t->collection, t->slots[i].hash, t->sums[i]);
            }
        }
        table_drop(s, t);
    }
    return 0;
}

int store_apply(struct store *s, const struct record_header *h, const uint8_t *body, journal_place place,
                store_same_id_cb same_id, void *data, uint32_t *outcome)
{
    uint32_t count = 0;
    int rv = 0;

    switch (h->kind) {
    case RECORD_PUT:
        rv = apply_put(s, h->kind, body, h->body_bytes, place, same_id, data, &count);
        break;
    case RECORD_DELETE:
        rv = apply_delete(s, body, h->body_bytes, same_id, data, &count);
        store_usage_deletes(s, (uint32_t)(place >> 40), h->body_bytes);
        break;
    case RECORD_DROP:
        rv = apply_drop(s, body, h->body_bytes);
        store_usage_deletes(s, (uint32_t)(place >> 40), h->body_bytes);
        break;
    case RECORD_EPOCH:
        break;
    default:
        rv = OTR_CORRUPT;
        break;
    }
    if (rv == 0 && outcome != NULL) {
        *outcome = count;
    }
    return rv;
}

int store_apply_seed(struct store *s, const uint8_t *put_body, size_t bytes, journal_place place,
                     store_same_id_cb same_id, void *data)
{
    uint32_t count;

    return apply_put(s, RECORD_PUT, put_body, bytes, place, same_id, data, &count);
}

/* --- looking ------------------------------------------------------------------------------------------------------ */

size_t store_find(const struct store *s, uint64_t collection, const char *id, size_t id_bytes, journal_place *places,
                  size_t max)
{
    const struct store_table *t = store_table_get(s, collection);
    uint64_t hash = s->hash(id, id_bytes);
    size_t found = 0;

    if (t == NULL) {
        return 0;
    }
    for (size_t i = store_home(hash, t->capacity); t->slots[i].place != 0 && found < max; i = store_next_slot(t, i)) {
        if (t->slots[i].hash == hash) {
            places[found++] = t->slots[i].place;
        }
    }
    return found;
}

uint64_t store_count(const struct store *s, uint64_t collection)
{
    const struct store_table *t = store_table_get(s, collection);

    return t == NULL ? 0 : t->count;
}

uint64_t store_count_all(const struct store *s)
{
    uint64_t count = 0;

    for (size_t i = 0; i < s->tables_count; i++) {
        count += s->tables[i].count;
    }
    return count;
}

void store_collections(const struct store *s, void (*cb)(uint64_t collection, uint64_t count, void *data), void *data)
{
    for (size_t i = 0; i < s->tables_count; i++) {
        cb(s->tables[i].collection, s->tables[i].count, data);
    }
}

size_t store_memory_bytes(const struct store *s)
{
    size_t bytes = sizeof *s + s->tables_capacity * sizeof *s->tables;

    for (size_t i = 0; i < s->tables_count; i++) {
        bytes += s->tables[i].capacity * SLOT_BYTES;
    }
    return bytes;
}
