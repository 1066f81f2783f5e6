/* Digests depend on what a store holds and on nothing else. */
#include "sidecar/log/store_internal.h"
#include "tests/lib/fail_calls.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

enum { IDS = 900 };

static bool never_asked(void *data, journal_place place, const char *id, size_t id_bytes)
{
    (void)data, (void)place, (void)id, (void)id_bytes;
    cr_assert(false, "ids of different hashes were to be read");
    return false;
}

static int put_at(struct store *s, uint64_t collection, unsigned number, float x, journal_place place, bool seed)
{
    char id[16];
    struct otr_point p = {.id = id, .dimension = 1, .vector = &x};
    struct record_header h = {.kind = RECORD_PUT};
    _Alignas(8) uint8_t body[128];

    p.id_bytes = (uint16_t)snprintf(id, sizeof id, "p%u", number);
    h.body_bytes = (uint32_t)put_body_bytes(&p, 1);
    put_body_write(body, collection, &p, 1);
    return seed ? store_apply_seed(s, body, h.body_bytes, place, never_asked, NULL)
                : store_apply(s, &h, body, place, never_asked, NULL, NULL);
}

static void put(struct store *s, uint64_t collection, unsigned number, float x)
{
    static journal_place next = 1;

    next += 16;
    cr_assert(eq(int, put_at(s, collection, number, x, next, next % 5 == 0), 0));
}

static void delete (struct store *s, uint64_t collection, unsigned number)
{
    char id[16];
    struct otr_point p = {.id = id};
    struct record_header h = {.kind = RECORD_DELETE};
    _Alignas(8) uint8_t body[64];

    p.id_bytes = (uint16_t)snprintf(id, sizeof id, "p%u", number);
    h.body_bytes = (uint32_t)delete_body_bytes(&p, 1);
    delete_body_write(body, collection, &p, 1);
    cr_assert(eq(int, store_apply(s, &h, body, 1, never_asked, NULL, NULL), 0));
}

static void drop(struct store *s, uint64_t collection)
{
    struct record_header h = {.kind = RECORD_DROP, .body_bytes = 8};

    cr_assert(eq(int, store_apply(s, &h, (const uint8_t *)&collection, 1, never_asked, NULL, NULL), 0));
}

static bool equal(const struct store *a, const struct store *b)
{
    return memcmp(store_digests(a), store_digests(b), STORE_RANGES * sizeof(uint64_t)) == 0;
}

static unsigned dice(uint64_t *rng)
{
    *rng = *rng * 6364136223846793005U + 1442695040888963407U;
    return (unsigned)(*rng >> 33);
}

/* Whatever happened before: the digest is that of what is left, put in any order, anywhere, once. */
Test(digest, follows_from_the_contents_alone)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        float model[3][IDS] = {{0}}; /* 0: not there */
        struct store *a = store_new();
        struct store *b = store_new();
        uint64_t rng = seed;

        for (unsigned i = 0; i < 6000; i++) {
            unsigned c = dice(&rng) % 3;
            unsigned n = dice(&rng) % IDS;
            unsigned what = dice(&rng) % 100;
            if (what < 70) {
                model[c][n] = (float)(1 + dice(&rng) % 5);
                put(a, c + 1, n, model[c][n]);
            } else if (what < 99 || dice(&rng) % 10 != 0) {
                model[c][n] = 0;
                delete (a, c + 1, n);
            } else {
                memset(model[c], 0, sizeof model[c]);
                drop(a, c + 1);
            }
        }
        for (unsigned i = 3 * IDS; i-- > 0;) {
            if (model[i % 3][i / 3] != 0) {
                put(b, i % 3 + 1, i / 3, model[i % 3][i / 3]);
            }
        }
        cr_assert(equal(a, b));
        cr_assert(eq(u64, store_digest(a), store_digest(b)));
        for (unsigned i = 0; i < 3 * IDS; i++) {
            delete (a, i % 3 + 1, i / 3);
        }
        cr_assert(eq(u64, store_digest(a), 0));
        store_clear(b);
        cr_assert(eq(u64, store_digest(b), 0));
        store_free(a);
        store_free(b);
    }
}

/* One other value, id or collection, one more or less: another digest, in that range alone. */
Test(digest, tells_every_difference_and_where_it_is)
{
    struct store *a = store_new();
    struct store *b = store_new();

    for (unsigned i = 0; i < IDS; i++) {
        put(a, 1, i, 1);
        put(b, 1, i, 1);
    }
    cr_assert(equal(a, b));
    for (unsigned i = 0; i < IDS; i++) {
        char id[16];
        size_t range = store_range_of(point_hash(id, (size_t)snprintf(id, sizeof id, "p%u", i)));

        for (unsigned change = 0; change < 3; change++) {
            if (change == 0) {
                put(b, 1, i, 2);
            } else if (change == 1) {
                delete (b, 1, i);
            } else {
                delete (b, 1, i);
                put(b, 2, i, 1);
            }
            for (size_t r = 0; r < STORE_RANGES; r++) {
                cr_assert(eq(int, store_digests(a)[r] == store_digests(b)[r], r != range));
            }
            cr_assert(ne(u64, store_digest(a), store_digest(b)));
            delete (b, 2, i);
            put(b, 1, i, 1);
            cr_assert(equal(a, b));
        }
    }
    store_free(a);
    store_free(b);
}

/* Fills `part` with what `s` holds in the ranges in which they differ; returns how many points. */
static size_t differing(const struct store *s, const struct store *other, struct store_ranges *ranges)
{
    struct store_snapshot *snap;
    size_t count;

    *ranges = (struct store_ranges){{0}};
    for (size_t r = 0; r < STORE_RANGES; r++) {
        if (store_digests(s)[r] != store_digests(other)[r]) {
            store_ranges_add(ranges, r);
        }
    }
    snap = store_snapshot_ranges(s, ranges);
    count = snap->count;
    for (size_t i = 0; i < count; i++) {
        cr_assert(store_ranges_has(ranges, store_range_of(snap->slots[i].hash)));
        cr_assert(i == 0 || snap->slots[i].place > snap->slots[i - 1].place);
    }
    store_snapshot_free(snap);
    return count;
}

/* Replacing the differing ranges makes two stores equal, and leaves the others' places alone. */
Test(digest, replacing_ranges_makes_stores_equal)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct store *right = store_new();
        struct store *wrong = store_new();
        struct store *part = store_new_like(wrong);
        struct store_ranges ranges;
        uint64_t rng = seed;
        journal_place place;
        bool changed[IDS] = {false};
        unsigned total = 5 + dice(&rng) % (IDS - 5);

        for (unsigned i = 0; i < total; i++) {
            cr_assert(eq(int, put_at(right, 1 + i % 2, i, 1, 100 + 16 * i, false), 0));
            cr_assert(eq(int, put_at(wrong, 1 + i % 2, i, 1, 100 + 16 * i, false), 0));
        }
        for (unsigned k = 0; k < 4; k++) {
            unsigned i = dice(&rng) % total;
            changed[i] = true;
            if (k % 2 == 0) {
                delete (wrong, 1 + i % 2, i);
            } else {
                put(wrong, 1 + i % 2, i, 7);
            }
            put(wrong, 3 + k, IDS + k, 1); /* too much, some of it in collections of its own */
        }
        cr_assert(lt(sz, differing(right, wrong, &ranges), total + 1));
        for (unsigned i = 0; i < total; i++) {
            char id[16];
            uint32_t bytes = (uint32_t)snprintf(id, sizeof id, "p%u", i);
            if (store_ranges_has(&ranges, store_range_of(point_hash(id, bytes)))) {
                cr_assert(eq(int, put_at(part, 1 + i % 2, i, 1, 100000 + 16 * i, true), 0));
            }
        }
        for (uint64_t n = 1;; n++) { /* out of memory anywhere changes nothing */
            uint64_t before = store_digest(wrong);
            int rv;
            fail_calls_at(FAIL_MEMORY, n);
            rv = store_replace(wrong, &ranges, part);
            if (rv == 0) {
                fail_calls_at(FAIL_MEMORY, 0);
                break;
            }
            cr_assert(eq(int, rv, OTR_NOMEM));
            cr_assert(eq(u64, store_digest(wrong), before));
        }
        cr_assert(equal(right, wrong));
        cr_assert(eq(u64, store_count_all(wrong), total));
        for (unsigned i = 0; i < total; i++) {
            char id[16];
            uint32_t bytes = (uint32_t)snprintf(id, sizeof id, "p%u", i);
            bool taken = store_ranges_has(&ranges, store_range_of(point_hash(id, bytes)));
            cr_assert(eq(sz, store_find(wrong, 1 + i % 2, id, bytes, &place, 1), 1));
            cr_assert(taken || !changed[i]);
            cr_assert(eq(int, place >= 100000 && place < 10000000, taken));
        }
        store_free(right);
        store_free(wrong);
        store_free(part);
    }
}
