#include "sidecar/log/store_internal.h"
#include "tests/lib/fail_calls.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

enum { MODEL_IDS = 600, COLLECTIONS = 3 };

/* A store, and beside it what it must hold: per collection and id the place of the newest version. Records are not
 * kept: place n belongs to point `owner[n]`, which is how ids are read again. */
struct bench {
    struct store *store;
    journal_place places[COLLECTIONS][MODEL_IDS]; /* 0: does not exist */
    unsigned *owner;                              /* by place */
    size_t owner_count;
    journal_place next;
    uint64_t asked;
    uint64_t rng;
};

static uint64_t dice(struct bench *b)
{
    b->rng = b->rng * 6364136223846793005U + 1442695040888963407U;
    return b->rng >> 33;
}

/* Seven hashes for all ids, at both ends of the table and in its middle. */
static uint64_t weak_hash(const char *id, size_t id_bytes)
{
    static const uint64_t hashes[] = {0, 1, UINT64_MAX / 2, UINT64_MAX / 3, UINT64_MAX - 1, UINT64_MAX, UINT64_MAX};

    return hashes[point_hash(id, id_bytes) % 7];
}

static void bench_init(struct bench *b, store_hash_fn hash)
{
    *b = (struct bench){.store = hash != NULL ? store_new_with_hash(hash) : store_new(), .next = 1, .rng = 9};
}

static void bench_close(struct bench *b)
{
    store_free(b->store);
    free(b->owner);
}

static uint32_t id_of(unsigned number, char id[16])
{
    return (uint32_t)snprintf(id, 16, "id-%u", number);
}

static bool same_id(void *data, journal_place place, const char *id, size_t id_bytes)
{
    struct bench *b = data;
    char stored[16];
    uint32_t bytes = id_of(b->owner[place], stored);

    b->asked++;
    return bytes == id_bytes && memcmp(stored, id, bytes) == 0;
}

/* Puts points of consecutive numbers. */
static int put(struct bench *b, unsigned collection, unsigned first, unsigned count, bool seed)
{
    struct otr_point *points = calloc(count + 1, sizeof *points);
    char(*ids)[16] = calloc(count + 1, sizeof *ids);
    struct record_header h = {.kind = RECORD_PUT};
    journal_place place = b->next;
    float vector = 1;
    uint32_t outcome = 0;
    struct body_iter it;
    struct otr_point p;
    uint8_t *body;
    int rv;

    for (unsigned i = 0; i < count; i++) {
        points[i] =
            (struct otr_point){.id = ids[i], .id_bytes = id_of(first + i, ids[i]), .dimension = 1, .vector = &vector};
    }
    h.body_bytes = (uint32_t)put_body_bytes(points, count);
    body = malloc(h.body_bytes);
    put_body_write(body, collection + 1, points, count);
    b->next += record_bytes(h.body_bytes) / 8;
    if (b->next > b->owner_count) {
        b->owner_count = b->next * 2;
        b->owner = realloc(b->owner, b->owner_count * sizeof *b->owner);
    }
    cr_assert(eq(int, body_iter_init(&it, RECORD_PUT, body, h.body_bytes), 0));
    for (unsigned i = 0; body_next(&it, &p) == 0; i++) {
        b->owner[place + (RECORD_HEADER_BYTES + it.offset) / 8] = first + i;
    }
    rv = seed ? store_apply_seed(b->store, body, h.body_bytes, place, same_id, b)
              : store_apply(b->store, &h, body, place, same_id, b, &outcome);
    if (rv == 0) {
        cr_assert(eq(u32, outcome, seed ? 0 : count));
        cr_assert(eq(int, body_iter_init(&it, RECORD_PUT, body, h.body_bytes), 0));
        for (unsigned i = 0; body_next(&it, &p) == 0; i++) {
            b->places[collection][first + i] = place + (RECORD_HEADER_BYTES + it.offset) / 8;
        }
    }
    free(body);
    free(points);
    free(ids);
    return rv;
}

static uint32_t delete (struct bench *b, unsigned collection, unsigned first, unsigned count)
{
    struct otr_point points[MODEL_IDS];
    char ids[MODEL_IDS][16];
    struct record_header h = {.kind = RECORD_DELETE};
    uint32_t expected = 0;
    uint32_t outcome = 77;
    uint8_t *body;

    for (unsigned i = 0; i < count; i++) {
        points[i] = (struct otr_point){.id = ids[i], .id_bytes = id_of(first + i, ids[i])};
        expected += b->places[collection][first + i] != 0;
        b->places[collection][first + i] = 0;
    }
    h.body_bytes = (uint32_t)delete_body_bytes(points, count);
    body = malloc(h.body_bytes);
    delete_body_write(body, collection + 1, points, count);
    cr_assert(eq(int, store_apply(b->store, &h, body, 1, same_id, b, &outcome), 0));
    cr_assert(eq(u32, outcome, expected));
    free(body);
    return outcome;
}

static void drop(struct bench *b, unsigned collection)
{
    struct record_header h = {.kind = RECORD_DROP, .body_bytes = 8};
    uint64_t body = collection + 1;

    cr_assert(eq(int, store_apply(b->store, &h, (const uint8_t *)&body, 1, same_id, b, NULL), 0));
    memset(b->places[collection], 0, sizeof b->places[collection]);
}

static void sum_collections(uint64_t collection, uint64_t count, void *data)
{
    uint64_t *counts = data;

    cr_assert(gt(u64, count, 0));
    counts[collection] += count;
}

/* The store holds exactly what the model does. */
static void check(struct bench *b)
{
    uint64_t counts[COLLECTIONS + 1] = {0};
    uint64_t all = 0;

    store_collections(b->store, sum_collections, counts);
    for (unsigned c = 0; c < COLLECTIONS; c++) {
        uint64_t count = 0;
        for (unsigned i = 0; i < MODEL_IDS; i++) {
            journal_place found[MODEL_IDS];
            char id[16];
            uint32_t bytes = id_of(i, id);
            size_t n = store_find(b->store, c + 1, id, bytes, found, MODEL_IDS);
            size_t own = 0;
            for (size_t k = 0; k < n; k++) {
                own += same_id(b, found[k], id, bytes);
                cr_assert(found[k] == b->places[c][i] || !same_id(b, found[k], id, bytes));
            }
            cr_assert(eq(sz, own, b->places[c][i] != 0));
            count += own;
        }
        cr_assert(eq(u64, store_count(b->store, c + 1), count));
        cr_assert(eq(u64, counts[c + 1], count));
        all += count;
    }
    cr_assert(eq(u64, store_count_all(b->store), all));
}

static void random_history(store_hash_fn hash, unsigned steps)
{
    struct bench b;

    bench_init(&b, hash);
    for (unsigned i = 0; i < steps; i++) {
        unsigned collection = (unsigned)(dice(&b) % COLLECTIONS);
        unsigned count = 1 + (unsigned)(dice(&b) % 30);
        unsigned first = (unsigned)(dice(&b) % (MODEL_IDS - count));
        switch (dice(&b) % 12) {
        case 0:
            if (dice(&b) % 8 == 0) {
                drop(&b, collection);
            }
            break;
        case 1:
        case 2:
        case 3:
        case 4:
            delete (&b, collection, first, count);
            break;
        case 5:
            cr_assert(eq(int, put(&b, collection, first, count, true), 0));
            break;
        default:
            cr_assert(eq(int, put(&b, collection, first, count, false), 0));
        }
        if (i % 50 == 0) {
            check(&b);
        }
    }
    check(&b);
    store_clear(b.store);
    memset(b.places, 0, sizeof b.places);
    check(&b);
    bench_close(&b);
}

Test(store, holds_the_newest_version_of_every_point)
{
    random_history(NULL, 3000);
}

/* Ids with equal hashes are told apart, and no deletion loses a neighbour. */
Test(store, holds_when_all_hashes_collide)
{
    random_history(weak_hash, 600);
}

/* Neither a new point nor a new version of one costs any reading. */
Test(store, ids_are_read_only_where_hashes_collide)
{
    struct bench b;

    bench_init(&b, NULL);
    put(&b, 0, 0, 500, false);
    cr_assert(eq(u64, b.asked, 0));
    put(&b, 0, 0, 10, false);
    delete (&b, 0, 20, 10);
    cr_assert(eq(u64, b.asked, 0));
    bench_close(&b);
    bench_init(&b, weak_hash);
    put(&b, 0, 0, 500, false);
    cr_assert(lt(u64, b.asked, 20)); /* New ids: told apart by their marks. */
    put(&b, 0, 0, 10, false);
    cr_assert(ge(u64, b.asked, 10)); /* To be sure that it is them. */
    bench_close(&b);
}

Test(store, costs_between_29_and_36_bytes_a_point)
{
    struct bench b;
    uint8_t body[256];
    double each;

    bench_init(&b, NULL);
    for (unsigned i = 0; i < 200000; i++) {
        char id[16];
        float vector = 1;
        struct otr_point p = {.id = id, .id_bytes = id_of(i, id), .dimension = 1, .vector = &vector};
        put_body_write(body, 1, &p, 1);
        cr_assert(eq(int, store_apply_seed(b.store, body, put_body_bytes(&p, 1), 8 + i, NULL, NULL), 0));
        each = (double)store_memory_bytes(b.store) / (i + 1);
        cr_assert(i < 10000 || (each >= 28 && each <= 37), "%.1f bytes a point at %u", each, i);
    }
    cr_assert(eq(u64, store_count(b.store, 1), 200000));
    bench_close(&b);
}

Test(store, a_body_that_is_wrong_anywhere_changes_nothing)
{
    struct record_header h = {.kind = RECORD_PUT};
    struct otr_point points[3];
    float vector = 1;
    uint8_t body[256];
    struct bench b;
    char ids[3][16];

    bench_init(&b, NULL);
    for (unsigned i = 0; i < 3; i++) {
        points[i] = (struct otr_point){.id = ids[i], .id_bytes = id_of(i, ids[i]), .dimension = 1, .vector = &vector};
    }
    put_body_write(body, 1, points, 3);
    h.body_bytes = (uint32_t)put_body_bytes(points, 3);
    body[h.body_bytes - 20] ^= 1; /* in the last point */
    cr_assert(eq(int, store_apply(b.store, &h, body, 1, same_id, &b, NULL), OTR_CORRUPT));
    cr_assert(eq(int, store_apply_seed(b.store, body, h.body_bytes, 1, same_id, &b), OTR_CORRUPT));
    cr_assert(eq(u64, store_count_all(b.store), 0));
    h.kind = RECORD_META;
    cr_assert(eq(int, store_apply(b.store, &h, body, 1, same_id, &b, NULL), OTR_CORRUPT));
    h.kind = RECORD_EPOCH;
    cr_assert(eq(int, store_apply(b.store, &h, NULL, 1, same_id, &b, NULL), 0));
    bench_close(&b);
}

Test(store, out_of_memory_changes_nothing)
{
    bool met = true;

    /* In the first PUT, which makes a table, and in a later one, which may find it too small. */
    for (uint64_t n = 1; met || n < 40; n++) {
        unsigned failing = n < 20 ? 0 : 570;
        struct store_snapshot *snap;
        struct bench b;
        int rv = 0;
        bench_init(&b, NULL);
        for (unsigned i = 0; i < MODEL_IDS; i += 30) {
            fail_calls_at(FAIL_MEMORY, i == failing ? 1 + n % 20 : 0);
            rv = put(&b, i % COLLECTIONS, i, 30, false);
            met = !fail_calls_pending();
            fail_calls_at(FAIL_MEMORY, 0);
            cr_assert(rv == 0 || rv == OTR_NOMEM);
            if (i == failing) {
                break;
            }
        }
        check(&b);
        for (uint64_t k = 1; k < 8; k++) {
            fail_calls_at(FAIL_MEMORY, k);
            snap = store_snapshot_by_hash(b.store, 0, 0, 100);
            cr_assert(eq(int, snap == NULL, !fail_calls_pending()));
            fail_calls_at(FAIL_MEMORY, 0);
            store_snapshot_free(snap);
        }
        bench_close(&b);
    }
}

/* --- snapshots ------------------------------------------------------------------------------------------------------
 */

Test(store, a_snapshot_by_place_has_every_point_once_in_order)
{
    struct store_snapshot *snap;
    struct bench b;
    size_t at = 0;

    bench_init(&b, NULL);
    put(&b, 0, 0, 500, false);
    put(&b, 1, 100, 200, false);
    put(&b, 0, 50, 100, false); /* newer versions: they move to the end */
    delete (&b, 1, 150, 10);
    snap = store_snapshot_by_place(b.store, 1);
    cr_assert(eq(sz, snap->count, 500));
    cr_assert(snap->collections == NULL);
    for (size_t i = 0; i < snap->count; i++) {
        cr_assert(gt(u64, snap->slots[i].place, at));
        at = snap->slots[i].place;
        cr_assert(eq(u64, b.places[0][b.owner[at]], at));
    }
    store_snapshot_free(snap);
    snap = store_snapshot_by_place(b.store, 0);
    cr_assert(eq(sz, snap->count, 690));
    at = 0;
    for (size_t i = 0; i < snap->count; i++) {
        cr_assert(gt(u64, snap->slots[i].place, at));
        at = snap->slots[i].place;
        cr_assert(eq(u64, b.places[snap->collections[i] - 1][b.owner[at]], at));
    }
    store_snapshot_free(snap);
    snap = store_snapshot_by_place(b.store, 9);
    cr_assert(eq(sz, snap->count, 0));
    store_snapshot_free(snap);
    bench_close(&b);
}

Test(store, a_snapshot_since_a_place_has_what_is_newer)
{
    struct store_snapshot *snap;
    struct bench b;
    journal_place since = 0;
    size_t newer = 0;

    bench_init(&b, NULL);
    put(&b, 0, 0, 500, false);
    put(&b, 1, 100, 200, false);
    put(&b, 0, 50, 100, false);
    since = b.places[0][50];
    delete (&b, 0, 60, 10);
    put(&b, 0, 500, 30, false);
    put(&b, 1, 0, 10, false);
    for (size_t i = 0; i < 530; i++) {
        newer += b.places[0][i] >= since;
    }
    snap = store_snapshot_since(b.store, 1, since);
    cr_assert(eq(sz, snap->count, newer));
    for (size_t i = 0; i < snap->count; i++) {
        cr_assert(ge(u64, snap->slots[i].place, i == 0 ? since : snap->slots[i - 1].place + 1));
        cr_assert(eq(u64, b.places[0][b.owner[snap->slots[i].place]], snap->slots[i].place));
    }
    store_snapshot_free(snap);
    snap = store_snapshot_since(b.store, 9, 0);
    cr_assert(eq(sz, snap->count, 0));
    store_snapshot_free(snap);
    bench_close(&b);
}

/* Pages by hash, each begun above the last hash of the one before, have every point exactly once. */
static void scroll(store_hash_fn hash, uint64_t collection, size_t expected, size_t max)
{
    struct bench b;
    uint64_t from = 0;
    size_t seen = 0;
    bool more = true;

    bench_init(&b, hash);
    put(&b, 0, 0, 500, false);
    put(&b, 1, 0, 100, false);
    while (more) {
        struct store_snapshot *snap = store_snapshot_by_hash(b.store, collection, from, max);
        cr_assert(le(sz, snap->count, max));
        for (size_t i = 0; i < snap->count; i++) {
            char id[16];
            unsigned owner = b.owner[snap->slots[i].place];
            uint32_t bytes = id_of(owner, id);
            uint64_t c = collection != 0 ? collection : snap->collections[i];
            cr_assert(eq(u64, snap->slots[i].hash, (hash != NULL ? hash : point_hash)(id, bytes)));
            cr_assert(ge(u64, snap->slots[i].hash, from));
            cr_assert(i == 0 || snap->slots[i].hash >= snap->slots[i - 1].hash);
            cr_assert(eq(u64, b.places[c - 1][owner], snap->slots[i].place));
        }
        seen += snap->count;
        more = snap->count > 0 && snap->slots[snap->count - 1].hash != UINT64_MAX;
        from = more ? snap->slots[snap->count - 1].hash + 1 : 0;
        store_snapshot_free(snap);
    }
    cr_assert(eq(sz, seen, expected));
    bench_close(&b);
}

Test(store, pages_by_hash_have_every_point_once)
{
    scroll(NULL, 1, 500, 7);
    scroll(NULL, 1, 500, 1);
    scroll(NULL, 1, 500, 10000);
    scroll(NULL, 0, 600, 13);
}

/* Equal hashes stay on one page, as far as they fit. */
Test(store, pages_by_hash_do_not_part_equal_hashes)
{
    scroll(weak_hash, 1, 500, 200);
    scroll(weak_hash, 0, 600, 300);
}
