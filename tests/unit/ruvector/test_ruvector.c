/* The driver against the real server: collections and points. */
#include "tests/unit/ruvector/fixture.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static struct fixture f;

static void setup(void)
{
    fixture_open(&f);
}

static void teardown(void)
{
    fixture_close(&f);
}

TestSuite(ruvector, .init = setup, .fini = teardown, .timeout = 60);

static const float X[3] = {1, 0, 0};
static const float Y[3] = {0, 1, 0};
static const float Z[3] = {0, 0, 1};

static struct result r;

/* Points are found by distance, replaced by id, gone when erased. */
Test(ruvector, points_come_change_and_go)
{
    struct otr_point all[] = {point("x", X, 3, NULL), point("y", Y, 3, "{\"a\":1}"), point("z", Z, 3, NULL)};
    struct otr_point moved = point("x", Y, 3, NULL);
    struct otr_point gone[] = {point("y", NULL, 0, NULL), point("never was", NULL, 0, NULL)};

    cr_assert(zero(int, make(&f, "c", 3, OTR_METRIC_EUCLIDEAN)));
    cr_assert(zero(int, upsert(&f, "c", all, 3, NULL)));
    cr_assert(eq(u64, count(&f, "c"), 3));

    cr_assert(zero(int, search(&f, "c", X, 3, 2, &r)));
    cr_assert(eq(sz, r.hits_count, 2));
    cr_assert(eq(str, r.ids[0], "x"));
    cr_assert(epsilon_eq(dbl, r.scores[0], 0, 1e-6));
    cr_assert(epsilon_eq(dbl, r.scores[1], sqrt(2), 1e-6));

    cr_assert(zero(int, upsert(&f, "c", &moved, 1, NULL)));
    cr_assert(eq(u64, count(&f, "c"), 3));
    cr_assert(zero(int, search(&f, "c", X, 3, 1, &r)));
    cr_assert(epsilon_eq(dbl, r.scores[0], sqrt(2), 1e-6));

    cr_assert(zero(int, erase(&f, "c", gone, 2, NULL)));
    cr_assert(eq(u64, count(&f, "c"), 2));
    cr_assert(zero(int, search(&f, "c", Y, 3, 10, &r)));
    cr_assert(eq(sz, r.hits_count, 2));
    cr_assert(eq(str, r.ids[0], "x"));
    cr_assert(eq(str, r.ids[1], "z"));
}

/* Scores mean the same as the sidecar's: a distance, smaller is better, for every metric. */
Test(ruvector, every_metric_scores_as_a_distance)
{
    static const float a[2] = {3, 4};
    static const float b[2] = {1, 0};
    static const struct {
        const char *name;
        enum otr_metric metric;
        double to_a, to_b; /* from b */
    } cases[] = {
        {"cosine", OTR_METRIC_COSINE, 0.4, 0},
        {"euclidean", OTR_METRIC_EUCLIDEAN, 4.47213595, 0},
        {"dot", OTR_METRIC_DOT, -3, -1},
        {"manhattan", OTR_METRIC_MANHATTAN, 6, 0},
    };
    struct otr_point both[] = {point("a", a, 2, NULL), point("b", b, 2, NULL)};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t at_a;

        cr_assert(zero(int, make(&f, cases[i].name, 2, cases[i].metric)));
        cr_assert(zero(int, upsert(&f, cases[i].name, both, 2, NULL)));
        cr_assert(zero(int, search(&f, cases[i].name, b, 2, 5, &r)));
        cr_assert(eq(sz, r.hits_count, 2));
        cr_assert(le(dbl, r.scores[0], r.scores[1]));
        at_a = strcmp(r.ids[0], "a") == 0 ? 0 : 1;
        cr_assert(epsilon_eq(dbl, r.scores[at_a], cases[i].to_a, 1e-5), "%s", cases[i].name);
        cr_assert(epsilon_eq(dbl, r.scores[1 - at_a], cases[i].to_b, 1e-5), "%s", cases[i].name);
    }
}

/* Ids are bytes of UTF-8: whatever they look like, they come back as they went in, and only they go when erased. */
Test(ruvector, odd_ids_survive)
{
    static char longest[OTR_POINT_ID_MAX + 1];
    const char *ids[] = {"a/b",
                         "..",
                         ".",
                         "/",
                         "a b",
                         "a%2Fb",
                         "\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\x98",
                         "\"\\",
                         "\xef\xbb\xbf"
                         "bom",
                         "\xef\xbf\xbd",
                         "?q=1#f",
                         "search",
                         " ",
                         longest};
    enum { COUNT = sizeof ids / sizeof ids[0] };
    struct otr_point points[COUNT];
    float vectors[COUNT][2];

    for (size_t i = 0; i < OTR_POINT_ID_MAX / 2; i++) {
        memcpy(longest + 2 * i, "\xc3\xa4", 2);
    }
    for (size_t i = 0; i < COUNT; i++) {
        vectors[i][0] = (float)i;
        vectors[i][1] = 1;
        points[i] = point(ids[i], vectors[i], 2, NULL);
    }
    cr_assert(zero(int, make(&f, "c", 2, OTR_METRIC_EUCLIDEAN)));
    cr_assert(zero(int, upsert(&f, "c", points, COUNT, &r)), "%s", r.msg.text);
    cr_assert(eq(u64, count(&f, "c"), COUNT));
    for (size_t i = 0; i < COUNT; i++) {
        cr_assert(zero(int, search(&f, "c", vectors[i], 2, 1, &r)));
        cr_assert(eq(str, r.ids[0], (char *)ids[i]));
    }
    for (size_t i = 0; i < COUNT; i++) {
        cr_assert(zero(int, erase(&f, "c", &points[i], 1, NULL)));
        cr_assert(eq(u64, count(&f, "c"), COUNT - 1 - i));
    }
}

/* Names go into paths: they may hold anything, too. */
Test(ruvector, odd_collection_names_survive)
{
    const char *names[] = {"products__3", "a/b", "..", ".", "%41", "\xc3\xa4?#", "points"};
    struct otr_point p = point("x", X, 3, NULL);

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        cr_assert(zero(int, make(&f, names[i], 3, OTR_METRIC_COSINE)));
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        cr_assert(eq(u64, count(&f, names[i]), 0));
        cr_assert(zero(int, upsert(&f, names[i], &p, 1, NULL)));
        cr_assert(eq(u64, count(&f, names[i]), 1));
        cr_assert(zero(int, drop(&f, names[i])));
    }
}

/* Of an id that comes twice in a batch the last one counts. */
Test(ruvector, the_last_of_an_id_in_a_batch_counts)
{
    struct otr_point twice[] = {point("a", X, 3, NULL), point("b", Z, 3, NULL), point("a", Y, 3, NULL)};

    cr_assert(zero(int, make(&f, "c", 3, OTR_METRIC_EUCLIDEAN)));
    cr_assert(zero(int, upsert(&f, "c", twice, 3, NULL)));
    cr_assert(eq(u64, count(&f, "c"), 2));
    cr_assert(zero(int, search(&f, "c", Y, 3, 1, &r)));
    cr_assert(eq(str, r.ids[0], "a"));
    cr_assert(epsilon_eq(dbl, r.scores[0], 0, 1e-6));
}

/* A point written without metadata has none, whatever it had before. */
Test(ruvector, metadata_do_not_outlive_their_point)
{
    struct otr_point with = point("a", X, 3, "{\"color\":\"red\"}");
    struct otr_point without = point("a", X, 3, NULL);
    char answer[1024];

    cr_assert(zero(int, make(&f, "c", 3, OTR_METRIC_COSINE)));
    cr_assert(zero(int, upsert(&f, "c", &with, 1, NULL)));
    cr_assert(eq(int, http_get(&f.server, "/collections/c/points/a", answer, sizeof answer), 200));
    cr_assert_not_null(strstr(answer, "\"metadata\":{\"color\":\"red\"}"), "%s", answer);
    cr_assert(zero(int, upsert(&f, "c", &without, 1, NULL)));
    cr_assert(eq(int, http_get(&f.server, "/collections/c/points/a", answer, sizeof answer), 200));
    cr_assert_not_null(strstr(answer, "\"metadata\":{}"), "%s", answer);
}

/* Finite vectors whose products overflow float32 would make the engine's searches panic: the server stores them
 * shortened, and everything else is still found. */
Test(ruvector, huge_and_tiny_vectors_poison_nothing)
{
    static const float huge[3] = {3e38f, -3e38f, 3e38f};
    static const float tiny[3] = {0, 1e-38f, 0};
    static const enum otr_metric metrics[] = {OTR_METRIC_COSINE, OTR_METRIC_EUCLIDEAN, OTR_METRIC_DOT,
                                              OTR_METRIC_MANHATTAN};
    struct otr_point all[] = {point("huge", huge, 3, NULL), point("x", X, 3, NULL), point("tiny", tiny, 3, NULL)};

    for (size_t i = 0; i < 4; i++) {
        char name[8];

        snprintf(name, sizeof name, "m%zu", i);
        cr_assert(zero(int, make(&f, name, 3, metrics[i])));
        cr_assert(zero(int, upsert(&f, name, all, 3, &r)), "%s", r.msg.text);
        cr_assert(zero(int, search(&f, name, huge, 3, 5, &r)), "%s", r.msg.text);
        cr_assert(eq(sz, r.hits_count, 3));
        cr_assert(zero(int, search(&f, name, X, 3, 5, &r)), "%s", r.msg.text);
        cr_assert(eq(sz, r.hits_count, 3));
    }
    /* A direction is a direction, however short the vector. */
    cr_assert(zero(int, search(&f, "m0", X, 3, 5, &r)));
    for (size_t i = 0; i < 3; i++) {
        double expected = strcmp(r.ids[i], "x") == 0 ? 0 : strcmp(r.ids[i], "tiny") == 0 ? 1 : 1 - 1 / sqrt(3);

        cr_assert(epsilon_eq(dbl, r.scores[i], expected, 1e-5), "%s", r.ids[i]);
    }
}

/* What the engine refuses comes back as OTR_INVALID with its own words, and nothing of the batch is stored. */
Test(ruvector, refusals_say_why_and_change_nothing)
{
    static const float two[2] = {1, 2};
    static const float bad[3] = {1, NAN, 2};
    static const float zeros[3] = {0, 0, 0};
    struct otr_point wrong[] = {point("w", two, 2, NULL)};
    struct otr_point mixed[] = {point("ok", X, 3, NULL), point("nan", bad, 3, NULL)};
    struct otr_point zero_point = point("zero", zeros, 3, NULL);
    struct otr_point not_json = point("j", X, 3, "{\"a\":");

    cr_assert(zero(int, make(&f, "c", 3, OTR_METRIC_COSINE)));
    cr_assert(eq(int, upsert(&f, "c", wrong, 1, &r), OTR_INVALID));
    cr_assert_not_null(strstr(r.msg.text, "expected 3, got 2"), "%s", r.msg.text);
    cr_assert(eq(int, upsert(&f, "c", mixed, 2, &r), OTR_INVALID));
    cr_assert_not_null(strstr(r.msg.text, "finite"), "%s", r.msg.text);
    cr_assert(eq(int, upsert(&f, "c", &zero_point, 1, &r), OTR_INVALID));
    cr_assert(eq(int, upsert(&f, "c", &not_json, 1, &r), OTR_INVALID));
    cr_assert(eq(u64, count(&f, "c"), 0));
    cr_assert(eq(int, search(&f, "c", two, 2, 1, &r), OTR_INVALID));
    cr_assert(eq(int, search(&f, "c", X, 3, 0, &r), OTR_INVALID));
    cr_assert(zero(int, search(&f, "c", X, 3, UINT32_MAX, &r)), "more than the server's limit is everything");
    cr_assert(eq(sz, r.hits_count, 0));
}

/* Calls that can be seen to be wrong fail at once and never call back. */
Test(ruvector, impossible_calls_are_refused_at_once)
{
    static const float two[2] = {1, 2};
    struct otr_point mixed[] = {point("a", X, 3, NULL), point("b", two, 2, NULL)};
    struct otr_point empty_id = point("", X, 3, NULL);
    static char long_name[OTR_ENGINE_COLLECTION_MAX + 2];

    memset(long_name, 'n', OTR_ENGINE_COLLECTION_MAX + 1);
    cr_assert(zero(int, make(&f, "c", 3, OTR_METRIC_COSINE)));
    cr_assert(eq(int, upsert(&f, "c", mixed, 2, NULL), OTR_INVALID));
    cr_assert(eq(int, upsert(&f, "c", &empty_id, 1, NULL), OTR_INVALID));
    cr_assert(eq(int, erase(&f, "c", &empty_id, 1, NULL), OTR_INVALID));
    cr_assert(eq(int, make(&f, long_name, 3, OTR_METRIC_COSINE), OTR_INVALID));
    cr_assert(eq(int, make(&f, "", 3, OTR_METRIC_COSINE), OTR_INVALID));
    cr_assert(eq(int, make(&f, "d", 3, (enum otr_metric)99), OTR_INVALID));
}

Test(ruvector, a_missing_collection_is_not_found)
{
    struct otr_point p = point("x", X, 3, NULL);

    cr_assert(eq(int, upsert(&f, "none", &p, 1, &r), OTR_NOTFOUND));
    cr_assert(eq(int, erase(&f, "none", &p, 1, &r), OTR_NOTFOUND));
    cr_assert(eq(int, search(&f, "none", X, 3, 1, &r), OTR_NOTFOUND));
    cr_assert_not_null(strstr(r.msg.text, "none"), "%s", r.msg.text);
    otr_engine_ruvector.count(f.engine, result_begin(&f, &r), "none", result_count_cb);
    await(&f, &r.done);
    cr_assert(eq(int, r.status, OTR_NOTFOUND));
    cr_assert(zero(int, drop(&f, "none")));
}

/* Making twice is fine as long as the wish is the same; a dropped collection comes back empty, with any dimension. */
Test(ruvector, collections_are_made_once_and_anew)
{
    static const float five[5] = {1, 2, 3, 4, 5};
    struct otr_point p3 = point("x", X, 3, NULL);
    struct otr_point p5 = point("y", five, 5, NULL);

    cr_assert(zero(int, make(&f, "c", 3, OTR_METRIC_COSINE)));
    cr_assert(zero(int, upsert(&f, "c", &p3, 1, NULL)));
    cr_assert(zero(int, make(&f, "c", 3, OTR_METRIC_COSINE)));
    cr_assert(eq(u64, count(&f, "c"), 1));
    cr_assert(eq(int, make(&f, "c", 4, OTR_METRIC_COSINE), OTR_EXISTS));
    cr_assert(eq(int, make(&f, "c", 3, OTR_METRIC_EUCLIDEAN), OTR_EXISTS));

    cr_assert(zero(int, drop(&f, "c")));
    cr_assert(zero(int, make(&f, "c", 5, OTR_METRIC_EUCLIDEAN)));
    cr_assert(eq(u64, count(&f, "c"), 0));
    cr_assert(zero(int, upsert(&f, "c", &p5, 1, NULL)));
    cr_assert(zero(int, search(&f, "c", five, 5, 5, &r)));
    cr_assert(eq(sz, r.hits_count, 1));
    cr_assert(eq(str, r.ids[0], "y"));
}

/* One write after the other: the last one stands. */
Test(ruvector, writes_take_effect_in_their_order)
{
    cr_assert(zero(int, make(&f, "c", 2, OTR_METRIC_EUCLIDEAN)));
    for (int i = 0; i < 100; i++) {
        float vector[2] = {(float)i, 1};
        struct otr_point p = point("same", vector, 2, NULL);

        cr_assert(zero(int, upsert(&f, "c", &p, 1, NULL)));
        if (i % 10 == 9) {
            cr_assert(zero(int, search(&f, "c", vector, 2, 5, &r)));
            cr_assert(eq(sz, r.hits_count, 1));
            cr_assert(epsilon_eq(dbl, r.scores[0], 0, 1e-6));
        }
    }
}

/* Writes that overlap may come in any order, but one of them wins everywhere: left to itself the engine ends up with
 * another vector in its index than in its storage. */
Test(ruvector, overlapping_writes_leave_index_and_storage_agreed)
{
    enum { ROUNDS = 30, WRITES = 8 };
    static struct result results[WRITES];
    static const float origin[2] = {0, 0};

    cr_assert(zero(int, make(&f, "c", 2, OTR_METRIC_EUCLIDEAN)));
    for (int round = 0; round < ROUNDS; round++) {
        char answer[1024];
        char expected[64];

        for (int i = 0; i < WRITES; i++) {
            float vector[2] = {(float)(round * WRITES + i + 1), 0};
            struct otr_point p = point("same", vector, 2, NULL);

            cr_assert(
                zero(int, otr_engine_ruvector.upsert(f.engine, result_begin(&f, &results[i]), "c", &p, 1, result_cb)));
        }
        for (int i = 0; i < WRITES; i++) {
            await(&f, &results[i].done);
            cr_assert(zero(int, results[i].status));
        }
        cr_assert(zero(int, search(&f, "c", origin, 2, 5, &r)));
        cr_assert(eq(sz, r.hits_count, 1));
        cr_assert(eq(int, http_get(&f.server, "/collections/c/points/same", answer, sizeof answer), 200));
        snprintf(expected, sizeof expected, "\"vector\":[%.0f,0]", r.scores[0]);
        cr_assert_not_null(strstr(answer, expected), "the index has %s, the storage answers %s", expected, answer);
    }
}

/* The graph index may miss points, but what it returns is alive, stands where it is said to stand, and comes once. */
Test(ruvector, hnsw_returns_no_ghosts)
{
    enum { COUNT = 200 };
    static float vectors[COUNT][4];
    static char ids[COUNT][8];
    static struct otr_point points[COUNT];
    static const float far[4] = {1000, 1000, 1000, 1000};
    struct otr_point moved;

    for (int i = 0; i < COUNT; i++) {
        snprintf(ids[i], sizeof ids[i], "p%d", i);
        vectors[i][0] = (float)i;
        points[i] = point(ids[i], vectors[i], 4, NULL);
    }
    moved = point("p0", far, 4, NULL);
    cr_assert(zero(int, otr_engine_ruvector.collection_make(f.engine, result_begin(&f, &r), "c", 4,
                                                            OTR_METRIC_EUCLIDEAN, "{\"hnsw\":{\"m\":16}}", result_cb)));
    await(&f, &r.done);
    cr_assert(zero(int, r.status), "%s", r.msg.text);
    for (int i = 0; i < COUNT; i += 50) {
        cr_assert(zero(int, upsert(&f, "c", points + i, 50, NULL)));
    }
    cr_assert(zero(int, upsert(&f, "c", &moved, 1, NULL)));
    cr_assert(zero(int, erase(&f, "c", points + 1, 20, NULL)));
    cr_assert(zero(int, search(&f, "c", vectors[0], 4, 50, &r)));
    for (size_t i = 0; i < r.hits_count; i++) {
        int n = atoi(r.ids[i] + 1);
        double expected = n == 0 ? 2000 : n;

        cr_assert(n == 0 || n > 20, "%s was erased", r.ids[i]);
        cr_assert(epsilon_eq(dbl, r.scores[i], expected, 1e-6), "%s stands elsewhere", r.ids[i]);
        for (size_t before = 0; before < i; before++) {
            cr_assert(ne(str, r.ids[before], r.ids[i]), "an id comes twice");
        }
    }
}

Test(ruvector, capabilities)
{
    struct otr_engine_caps caps;

    otr_engine_ruvector.caps(f.engine, &caps);
    cr_assert(eq(u32, caps.metrics, 0x1e));
    cr_assert(caps.exact);
    cr_assert(caps.lists);
}
