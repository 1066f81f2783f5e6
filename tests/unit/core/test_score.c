#include "sidecar/core/score.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

static const enum otr_metric metrics[] = {OTR_METRIC_COSINE, OTR_METRIC_EUCLIDEAN, OTR_METRIC_DOT,
                                          OTR_METRIC_MANHATTAN};

/* The definition, one number after the other. */
static double reference(enum otr_metric metric, const float *a, const float *b, uint32_t dimension)
{
    long double ab = 0, aa = 0, bb = 0, squares = 0, absolute = 0;

    for (uint32_t i = 0; i < dimension; i++) {
        ab += (long double)a[i] * b[i];
        aa += (long double)a[i] * a[i];
        bb += (long double)b[i] * b[i];
        squares += ((long double)a[i] - b[i]) * ((long double)a[i] - b[i]);
        absolute += fabsl((long double)a[i] - b[i]);
    }
    switch (metric) {
    case OTR_METRIC_COSINE:
        return (double)(1 - ab / sqrtl(aa * bb));
    case OTR_METRIC_EUCLIDEAN:
        return (double)sqrtl(squares);
    case OTR_METRIC_DOT:
        return (double)-ab;
    default:
        return (double)absolute;
    }
}

static float noise(uint32_t *state)
{
    *state = *state * 1664525U + 1013904223U;
    return (float)(*state >> 8) / 8388608.0F - 1.0F;
}

/* Every dimension up to a few steps of the wide loop, so that each length of the rest comes up. */
Test(score, agrees_with_the_definition_in_every_dimension)
{
    float a[300], b[300];
    uint32_t state = 1;

    for (uint32_t dimension = 1; dimension <= 300; dimension++) {
        for (uint32_t i = 0; i < dimension; i++) {
            a[i] = noise(&state);
            b[i] = noise(&state);
        }
        for (size_t m = 0; m < 4; m++) {
            double got = score_distance(metrics[m], a, b, dimension);
            double want = reference(metrics[m], a, b, dimension);

            cr_assert(fabs(got - want) <= 1e-12 * (1 + fabs(want)), "metric %zu, dimension %u: %.17g, not %.17g", m,
                      dimension, got, want);
        }
    }
}

Test(score, equal_vectors_are_at_distance_0)
{
    float a[257];
    uint32_t state = 7;

    for (int round = 0; round < 1000; round++) {
        for (int i = 0; i < 257; i++) {
            a[i] = noise(&state);
        }
        cr_assert(score_distance(OTR_METRIC_COSINE, a, a, 257) == 0);
        cr_assert(score_distance(OTR_METRIC_EUCLIDEAN, a, a, 257) == 0);
        cr_assert(score_distance(OTR_METRIC_MANHATTAN, a, a, 257) == 0);
    }
}

Test(score, cosine_stays_within_0_and_2_and_knows_zero_vectors)
{
    const float zero[3] = {0, 0, 0};
    const float one[3] = {1, 1, 1};
    const float minus[3] = {-3, -3, -3};

    cr_assert(score_distance(OTR_METRIC_COSINE, zero, one, 3) == 1);
    cr_assert(score_distance(OTR_METRIC_COSINE, one, zero, 3) == 1);
    cr_assert(score_distance(OTR_METRIC_COSINE, zero, zero, 3) == 1);
    cr_assert(score_distance(OTR_METRIC_COSINE, one, minus, 3) == 2);
}

/* The largest and the smallest floats: the squares must neither overflow nor vanish. */
Test(score, extreme_floats_keep_their_distance)
{
    const float large[9] = {3e38F, 3e38F, 3e38F, 3e38F, 3e38F, 3e38F, 3e38F, 3e38F, 3e38F};
    const float opposite[9] = {-3e38F, -3e38F, -3e38F, -3e38F, -3e38F, -3e38F, -3e38F, -3e38F, -3e38F};
    const float tiny[9] = {1e-45F, 0, 0, 0, 0, 0, 0, 0, 0};
    const float other[9] = {0, 1e-45F, 0, 0, 0, 0, 0, 0, 0};

    for (size_t m = 0; m < 4; m++) {
        cr_assert(isfinite(score_distance(metrics[m], large, opposite, 9)));
    }
    cr_assert(score_distance(OTR_METRIC_COSINE, large, large, 9) == 0);
    cr_assert(score_distance(OTR_METRIC_COSINE, tiny, tiny, 9) == 0);
    cr_assert(score_distance(OTR_METRIC_COSINE, tiny, other, 9) == 1);
}

Test(score, dot_of_orthogonal_vectors_is_not_minus_zero)
{
    const float a[2] = {1, 0};
    const float b[2] = {0, 1};

    cr_assert(zero(int, signbit(score_distance(OTR_METRIC_DOT, a, b, 2))));
}

Test(score, metric_names)
{
    static const struct {
        const char *text;
        int metric; /* 0: none */
    } cases[] = {
        {"cosine", OTR_METRIC_COSINE},
        {"Cosine", OTR_METRIC_COSINE},
        {"EUCLIDEAN", OTR_METRIC_EUCLIDEAN},
        {"dot", OTR_METRIC_DOT},
        {"DotProduct", OTR_METRIC_DOT},
        {"dotproduct", OTR_METRIC_DOT},
        {"Manhattan", OTR_METRIC_MANHATTAN},
        {"manhattan ", 0},
        {"", 0},
        {"cos", 0},
        {"l2", 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        enum otr_metric metric = (enum otr_metric)0;
        bool known = score_metric_parse(cases[i].text, &metric);

        cr_assert(eq(int, known, cases[i].metric != 0), "%s", cases[i].text);
        cr_assert(eq(int, (int)metric, cases[i].metric), "%s", cases[i].text);
    }
    for (size_t m = 0; m < 4; m++) {
        enum otr_metric metric;

        cr_assert(score_metric_parse(score_metric_name(metrics[m]), &metric));
        cr_assert(eq(int, (int)metric, (int)metrics[m]));
    }
    cr_assert(eq(str, (char *)score_metric_name((enum otr_metric)99), "?")); /* of a newer program, in a log */
}
