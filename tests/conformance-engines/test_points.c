/* Points: what is written is found, as far as caps() promises; limits; refusals. */
#include "sidecar/core/score.h"
#include "tests/conformance-engines/world.h"

#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>

static const float X[3] = {1, 0, 0};
static const float Y[3] = {0, 1, 0};
static const float Z[3] = {0, 0, 1};

static struct result r;

CASE(points_come_change_and_go)
{
    struct otr_point all[] = {point("x", X, 3, NULL), point("y", Y, 3, "{\"a\":1}"), point("z", Z, 3, NULL)};
    struct otr_point again = point("x", X, 3, "{\"b\":[1,2]}");
    struct otr_point gone[] = {point("y", NULL, 0, NULL), point("never was", NULL, 0, NULL)};

    cr_assert(zero(int, make(w, "c", 3, OTR_METRIC_EUCLIDEAN)));
    cr_assert(zero(int, search(w, "c", X, 3, 2, &r)));
    cr_assert(eq(sz, r.hits_count, 0));
    cr_assert(zero(int, upsert(w, "c", all, 3, NULL)));
    cr_assert(eq(u64, count(w, "c"), 3));
    cr_assert(zero(int, search(w, "c", X, 3, 2, &r)));
    cr_assert(eq(sz, r.hits_count, 2));
    cr_assert(eq(str, r.ids[0], "x"));
    cr_assert(epsilon_eq(dbl, r.scores[0], 0, 1e-6));
    cr_assert(epsilon_eq(dbl, r.scores[1], sqrt(2), 1e-6));
    cr_assert(zero(int, upsert(w, "c", &again, 1, NULL)));
    cr_assert(eq(u64, count(w, "c"), 3));
    cr_assert(zero(int, erase(w, "c", gone, 2, NULL)));
    cr_assert(zero(int, erase(w, "c", gone, 2, NULL)));
    cr_assert(eq(u64, count(w, "c"), 2));
}

/* Scores mean the same as the sidecar's: a distance, smaller is better, for every metric of caps(). */
CASE(every_metric_scores_as_a_distance)
{
    static const enum otr_metric metrics[] = {OTR_METRIC_COSINE, OTR_METRIC_EUCLIDEAN, OTR_METRIC_DOT,
                                              OTR_METRIC_MANHATTAN};
    static const float a[2] = {3, 4}, b[2] = {1, 0};
    struct otr_point both[] = {point("a", a, 2, NULL), point("b", b, 2, NULL)};

    for (size_t i = 0; i < 4; i++) {
        char name[8];

        if ((w->caps.metrics & 1U << metrics[i]) == 0) {
            continue;
        }
        snprintf(name, sizeof name, "m%zu", i);
        cr_assert(zero(int, make(w, name, 2, metrics[i])));
        cr_assert(zero(int, upsert(w, name, both, 2, NULL)));
        cr_assert(zero(int, search(w, name, b, 2, 5, &r)));
        cr_assert(eq(sz, r.hits_count, 2));
        for (size_t h = 0; h < 2; h++) {
            double expected = score_distance(metrics[i], b, r.ids[h][0] == 'a' ? a : b, 2);

            cr_assert(epsilon_eq(dbl, r.scores[h], expected, 1e-5), "metric %d", (int)metrics[i]);
        }
    }
}

/* Ids are bytes of UTF-8: whatever they look like, they come back as they went in, and only they go when erased. */
CASE(odd_ids_survive)
{
    static char longest[OTR_POINT_ID_MAX + 1];
    const char *ids[] = {"a/b",
                         "..",
                         ".",
                         "/",
                         "a b",
                         "a%2Fb",
                         "A",
                         "a",
                         "\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\x98",
                         "a\xcc\x88",
                         "\xc3\xa4", /* the same letter, twice: other bytes, another id */
                         "\"\\",
                         "\xef\xbb\xbf"
                         "bom",
                         "\xef\xbf\xbd",
                         "?q=1#f",
                         "search",
                         "__proto__",
                         "constructor",
                         "0",
                         "00",
                         "-0",
                         "1e3",
                         "null",
                         "\x01\x1f\x7f",
                         "\n",
                         "\t",
                         " ",
                         longest};
    enum { COUNT = sizeof ids / sizeof ids[0] };
    struct otr_point points[COUNT];
    float vectors[COUNT][2];

    memset(longest, 'i', OTR_POINT_ID_MAX);
    for (size_t i = 0; i < COUNT; i++) {
        vectors[i][0] = (float)i;
        vectors[i][1] = 1;
        points[i] = point(ids[i], vectors[i], 2, NULL);
    }
    cr_assert(zero(int, make(w, "c", 2, OTR_METRIC_EUCLIDEAN)));
    cr_assert(zero(int, upsert(w, "c", points, COUNT, &r)), "%s", r.text);
    cr_assert(eq(u64, count(w, "c"), COUNT));
    for (size_t i = 0; i < COUNT; i++) {
        cr_assert(zero(int, search(w, "c", vectors[i], 2, 1, &r)));
        cr_assert(eq(str, r.ids[0], (char *)ids[i]));
    }
    for (size_t i = 0; i < COUNT; i++) {
        cr_assert(zero(int, erase(w, "c", &points[i], 1, NULL)));
        cr_assert(eq(u64, count(w, "c"), COUNT - 1 - i), "%s", ids[i]);
    }
}

/* Of an id that comes twice in a batch the last one counts. */
CASE(the_last_of_an_id_in_a_batch_counts)
{
    struct otr_point twice[] = {point("a", X, 3, NULL), point("b", Z, 3, NULL), point("a", Y, 3, NULL)};

    cr_assert(zero(int, make(w, "c", 3, OTR_METRIC_EUCLIDEAN)));
    cr_assert(zero(int, upsert(w, "c", twice, 3, NULL)));
    cr_assert(eq(u64, count(w, "c"), 2));
    cr_assert(zero(int, search(w, "c", Y, 3, 1, &r)));
    cr_assert(eq(str, r.ids[0], "a"));
    cr_assert(epsilon_eq(dbl, r.scores[0], 0, 1e-6));
}

/* The sizes that the caller sends: none, one, a full batch, a batch of a megabyte, the largest point that the door lets
 * in. */
CASE(batches_of_every_size)
{
    enum { LARGE = OTR_ENGINE_BATCH_BYTES / 4 / OTR_ENGINE_BATCH };
    static char ids[OTR_ENGINE_BATCH][16];
    static char metadata[OTR_METADATA_MAX + 1];
    static struct otr_point points[OTR_ENGINE_BATCH];
    float *vector = malloc(OTR_DIMENSION_MAX * sizeof(float));
    struct otr_point largest;

    for (size_t i = 0; i < OTR_DIMENSION_MAX; i++) {
        vector[i] = (float)(i % 7) + 1;
    }
    for (size_t i = 0; i < OTR_ENGINE_BATCH; i++) {
        snprintf(ids[i], sizeof ids[i], "p%zu", i);
        points[i] = point(ids[i], vector, LARGE, NULL);
    }
    cr_assert(zero(int, make(w, "c", LARGE, OTR_METRIC_EUCLIDEAN)));
    cr_assert(zero(int, upsert(w, "c", points, 0, &r)), "%s", r.text);
    cr_assert(zero(int, erase(w, "c", points, 0, &r)), "%s", r.text);
    cr_assert(zero(int, upsert(w, "c", points, 1, &r)), "%s", r.text);
    cr_assert(eq(u64, count(w, "c"), 1));
    cr_assert(zero(int, upsert(w, "c", points, OTR_ENGINE_BATCH, &r)), "%s", r.text);
    cr_assert(eq(u64, count(w, "c"), OTR_ENGINE_BATCH));
    cr_assert(zero(int, search(w, "c", vector, LARGE, OTR_ENGINE_BATCH, &r)), "%s", r.text);
    /* All points at one place: a graph whose nodes link to their nearest only falls apart, and RuVector's finds 32. */
    cr_assert(zero(int, w->caps.exact &&r.hits_count != OTR_ENGINE_BATCH));
    cr_assert(ge(sz, r.hits_count, 1));
    cr_assert(zero(int, search(w, "c", vector, LARGE, 400, &r)), "more than there are: all of them");
    cr_assert(zero(int, w->caps.exact &&r.hits_count != OTR_ENGINE_BATCH));
    cr_assert(zero(int, erase(w, "c", points, OTR_ENGINE_BATCH, &r)), "%s", r.text);
    cr_assert(eq(u64, count(w, "c"), 0));

    memset(metadata, 'm', OTR_METADATA_MAX);
    memcpy(metadata, "{\"a\":\"", 6);
    memcpy(metadata + OTR_METADATA_MAX - 2, "\"}", 2);
    largest = point("largest", vector, OTR_DIMENSION_MAX, metadata);
    cr_assert(zero(int, make(w, "d", OTR_DIMENSION_MAX, OTR_METRIC_COSINE)));
    cr_assert(zero(int, upsert(w, "d", &largest, 1, &r)), "%s", r.text);
    cr_assert(zero(int, search(w, "d", vector, OTR_DIMENSION_MAX, 1, &r)), "%s", r.text);
    cr_assert(eq(str, r.ids[0], "largest"));
    free(vector);
}

/* What the engine refuses comes back as OTR_INVALID, and nothing of the batch is stored. */
CASE(refusals_change_nothing)
{
    static const float two[2] = {1, 2};
    static const float nan_vector[3] = {1, NAN, 2};
    static const float inf_vector[3] = {1, INFINITY, 2};
    struct otr_point wrong[] = {point("w", two, 2, NULL)};
    struct otr_point with_nan[] = {point("ok", X, 3, NULL), point("nan", nan_vector, 3, NULL)};
    struct otr_point with_inf[] = {point("ok", X, 3, NULL), point("inf", inf_vector, 3, NULL)};

    cr_assert(zero(int, make(w, "c", 3, OTR_METRIC_EUCLIDEAN)));
    cr_assert(eq(int, upsert(w, "c", wrong, 1, &r), OTR_INVALID));
    cr_assert(eq(int, upsert(w, "c", with_nan, 2, &r), OTR_INVALID));
    cr_assert(eq(int, upsert(w, "c", with_inf, 2, &r), OTR_INVALID));
    cr_assert(eq(int, search(w, "c", two, 2, 1, &r), OTR_INVALID));
    cr_assert(eq(u64, count(w, "c"), 0));
    cr_assert(zero(int, upsert(w, "c", with_nan, 1, NULL)));
    cr_assert(eq(u64, count(w, "c"), 1));
}

/* One write after the other: the last one stands. */
CASE(writes_take_effect_in_their_order)
{
    cr_assert(zero(int, make(w, "c", 2, OTR_METRIC_EUCLIDEAN)));
    for (int i = 0; i < 60; i++) {
        float vector[2] = {(float)i, 1};
        struct otr_point p = point("same", vector, 2, NULL);

        cr_assert(zero(int, upsert(w, "c", &p, 1, NULL)));
        if (i % 20 == 19) {
            cr_assert(zero(int, search(w, "c", vector, 2, 1, &r)));
            cr_assert(eq(str, r.ids[0], "same"));
            cr_assert(zero(int, w->caps.exact &&fabs(r.scores[0]) > 1e-6));
            cr_assert(zero(int, erase(w, "c", &p, 1, NULL)));
            cr_assert(eq(u64, count(w, "c"), 0));
        }
    }
}

/* --- against a model ---------------------------------------------------------------------------------------------- */

enum { MODEL_IDS = 300, MODEL_DIMENSION = 8, MODEL_K = 10 };

struct model {
    char ids[MODEL_IDS][16];
    float vectors[MODEL_IDS][MODEL_DIMENSION];
    bool live[MODEL_IDS];
    unsigned seed;
};

static void model_draw(struct model *m, float *vector)
{
    for (size_t i = 0; i < MODEL_DIMENSION; i++) {
        vector[i] = (float)(rand_r(&m->seed) % 2000) / 1000.0F - 1.0F;
    }
}

/* Puts or erases `n` random points in one batch, in the engine and in the model. */
static void model_write(struct world *w, struct model *m, size_t n, bool put)
{
    struct otr_point batch[MODEL_IDS];
    bool taken[MODEL_IDS] = {false};
    size_t points_count = 0;

    for (size_t i = 0; i < n; i++) {
        size_t id = (size_t)rand_r(&m->seed) % MODEL_IDS;

        if (taken[id]) {
            continue;
        }
        taken[id] = true;
        m->live[id] = put;
        if (put) {
            model_draw(m, m->vectors[id]);
        }
        batch[points_count++] = point(m->ids[id], m->vectors[id], MODEL_DIMENSION, NULL);
    }
    cr_assert(zero(int, put ? upsert(w, "c", batch, points_count, &r) : erase(w, "c", batch, points_count, &r)), "%s",
              r.text);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* Searches as the sidecar does: hits that are dead or come twice are dropped, the others scored anew. Gives back how
 * many of the true k nearest were among them; with an exact engine the hits themselves are the truth. */
static size_t model_search(struct world *w, struct model *m, const float *query, uint32_t k)
{
    double truth[MODEL_IDS];
    bool seen[MODEL_IDS] = {false};
    size_t live = 0;
    size_t found = 0;

    for (size_t i = 0; i < MODEL_IDS; i++) {
        if (m->live[i]) {
            truth[live++] = score_distance(OTR_METRIC_EUCLIDEAN, query, m->vectors[i], MODEL_DIMENSION);
        }
    }
    qsort(truth, live, sizeof truth[0], by_value);
    cr_assert(zero(int, search(w, "c", query, MODEL_DIMENSION, k, &r)), "%s", r.text);
    cr_assert(le(sz, r.hits_count, k));
    cr_assert(zero(int, w->caps.exact &&r.hits_count != (live < k ? live : k)));
    for (size_t h = 0; h < r.hits_count; h++) {
        size_t id = (size_t)atoi(r.ids[h] + 1);
        double exact = score_distance(OTR_METRIC_EUCLIDEAN, query, m->vectors[id], MODEL_DIMENSION);

        cr_assert(eq(str, r.ids[h], m->ids[id]), "an id that was never written");
        if (w->caps.exact) {
            cr_assert(m->live[id] && !seen[id], "%s is dead or comes twice", r.ids[h]);
            cr_assert(epsilon_eq(dbl, r.scores[h], truth[h], 1e-5));
            cr_assert(epsilon_eq(dbl, r.scores[h], exact, 1e-5));
        }
        if (m->live[id] && !seen[id]) {
            found += exact <= truth[(live < MODEL_K ? live : MODEL_K) - 1] + 1e-6;
            seen[id] = true;
        }
    }
    return found;
}

static struct model *model_new(struct world *w)
{
    struct model *m = calloc(1, sizeof *m);

    m->seed = 7;
    for (int i = 0; i < MODEL_IDS; i++) {
        snprintf(m->ids[i], sizeof m->ids[i], "p%d", i);
    }
    cr_assert(zero(int, make(w, "c", MODEL_DIMENSION, OTR_METRIC_EUCLIDEAN)));
    return m;
}

/* Points written once: an exact engine finds exactly the nearest, any other nearly all of them. */
CASE(fresh_points_are_found)
{
    enum { QUERIES = 30 };
    struct model *m = model_new(w);
    size_t found = 0;

    for (int i = 0; i < 12; i++) {
        model_write(w, m, 50, true);
    }
    for (int q = 0; q < QUERIES; q++) {
        float query[MODEL_DIMENSION];

        model_draw(m, query);
        found += model_search(w, m, query, 3 * MODEL_K);
    }
    cr_assert(ge(sz, found, QUERIES * MODEL_K * 9 / 10), "%zu of %d", found, QUERIES * MODEL_K);
    free(m);
}

/* Points written, overwritten and erased at random. Ghosts and holes are an inexact engine's right; but verified hits
 * are the truth, the count is right, and with some more than k asked for most of the nearest are among them. */
CASE(random_writes_against_a_model)
{
    enum { ROUNDS = 30 };
    struct model *m = model_new(w);
    size_t found = 0;
    size_t possible = 0;

    for (int i = 0; i < ROUNDS; i++) {
        float query[MODEL_DIMENSION];
        size_t live = 0;

        model_write(w, m, 1 + (size_t)rand_r(&m->seed) % 60, true);
        model_write(w, m, (size_t)rand_r(&m->seed) % 20, false);
        for (size_t id = 0; id < MODEL_IDS; id++) {
            live += m->live[id];
        }
        cr_assert(eq(u64, count(w, "c"), live));
        model_draw(m, query);
        found += live > 0 ? model_search(w, m, query, 4 * MODEL_K) : 0;
        possible += live < MODEL_K ? live : MODEL_K;
    }
    cr_assert(ge(sz, found, possible * 3 / 4), "%zu of %zu", found, possible);
    free(m);
}

/* Searches run beside a write; each callback fires once, whatever the order. */
CASE(searches_run_beside_writes)
{
    enum { SEARCHES = 40 };
    static struct result searches[SEARCHES], writes;
    struct model *m = model_new(w);

    model_write(w, m, 100, true);
    for (int i = 0; i < SEARCHES; i++) {
        if (i % 10 == 0) {
            struct otr_point p = point(m->ids[0], m->vectors[i], MODEL_DIMENSION, NULL);

            AWAIT(w, i == 0 || writes.calls_count == 1);
            cr_assert(zero(int, start_upsert(w, &writes, "c", &p, 1)));
        }
        cr_assert(zero(int, start_search(w, &searches[i], "c", m->vectors[i], MODEL_DIMENSION, 5)));
    }
    for (int i = 0; i < SEARCHES; i++) {
        AWAIT(w, searches[i].calls_count == 1);
        cr_assert(zero(int, searches[i].status), "%s", searches[i].text);
    }
    AWAIT(w, writes.calls_count == 1);
    cr_assert(zero(int, writes.status), "%s", writes.text);
    free(m);
}
