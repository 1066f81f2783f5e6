/* The sums run in two groups of four doubles, written with the compiler's vector types: without -ffast-math it may not
 * reorder a plain loop's additions, and one running sum is bound by the latency of an addition. The order of the
 * additions is thereby fixed, so that every machine and both instruction sets give the same bits: fused
 * multiply-adds are not asked for. */
#include "sidecar/core/score.h"

#include <assert.h>
#include <math.h>
#include <strings.h>

typedef float float4 __attribute__((vector_size(16)));
typedef double double4 __attribute__((vector_size(32)));
typedef int64_t int4 __attribute__((vector_size(32)));

enum { STEP = 8 };

struct sums {
    double ab;
    double aa;
    double bb;
};

/* Four floats at p as doubles. A macro: a function that returned so wide a vector would have another calling convention
 * with AVX than without. */
#define LOAD(out, p)                                     \
    do {                                                 \
        float4 load_;                                    \
        memcpy(&load_, (p), sizeof load_);               \
        (out) = __builtin_convertvector(load_, double4); \
    } while (0)
#define SUM(v) (((v)[0] + (v)[1]) + ((v)[2] + (v)[3]))

#define INLINE static inline __attribute__((always_inline))

INLINE double sum_dot(const float *a, const float *b, uint32_t dimension)
{
    double4 sum0 = {0};
    double4 sum1 = {0};
    double4 x;
    double4 y;
    double4 total;
    double rest = 0;
    uint32_t i = 0;

    for (; i + STEP <= dimension; i += STEP) {
        LOAD(x, a + i);
        LOAD(y, b + i);
        sum0 += x * y;
        LOAD(x, a + i + 4);
        LOAD(y, b + i + 4);
        sum1 += x * y;
    }
    for (; i < dimension; i++) {
        rest += (double)a[i] * (double)b[i];
    }
    total = sum0 + sum1;
    return SUM(total) + rest;
}

INLINE double sum_squares(const float *a, const float *b, uint32_t dimension)
{
    double4 sum0 = {0};
    double4 sum1 = {0};
    double4 x;
    double4 y;
    double4 total;
    double rest = 0;
    uint32_t i = 0;

    for (; i + STEP <= dimension; i += STEP) {
        LOAD(x, a + i);
        LOAD(y, b + i);
        x -= y;
        sum0 += x * x;
        LOAD(x, a + i + 4);
        LOAD(y, b + i + 4);
        x -= y;
        sum1 += x * x;
    }
    for (; i < dimension; i++) {
        double d = (double)a[i] - (double)b[i];

        rest += d * d;
    }
    total = sum0 + sum1;
    return SUM(total) + rest;
}

INLINE double sum_absolute(const float *a, const float *b, uint32_t dimension)
{
    const int4 no_sign = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX};
    double4 sum0 = {0};
    double4 sum1 = {0};
    double4 x;
    double4 y;
    double4 total;
    double rest = 0;
    uint32_t i = 0;

    for (; i + STEP <= dimension; i += STEP) {
        LOAD(x, a + i);
        LOAD(y, b + i);
        sum0 += (double4)((int4)(x - y) & no_sign);
        LOAD(x, a + i + 4);
        LOAD(y, b + i + 4);
        sum1 += (double4)((int4)(x - y) & no_sign);
    }
    for (; i < dimension; i++) {
        rest += fabs((double)a[i] - (double)b[i]);
    }
    total = sum0 + sum1;
    return SUM(total) + rest;
}

INLINE struct sums sum_cosine(const float *a, const float *b, uint32_t dimension)
{
    double4 ab0 = {0};
    double4 ab1 = {0};
    double4 aa0 = {0};
    double4 aa1 = {0};
    double4 bb0 = {0};
    double4 bb1 = {0};
    double4 x;
    double4 y;
    struct sums rest = {0};
    uint32_t i = 0;

    for (; i + STEP <= dimension; i += STEP) {
        LOAD(x, a + i);
        LOAD(y, b + i);
        ab0 += x * y;
        aa0 += x * x;
        bb0 += y * y;
        LOAD(x, a + i + 4);
        LOAD(y, b + i + 4);
        ab1 += x * y;
        aa1 += x * x;
        bb1 += y * y;
    }
    for (; i < dimension; i++) {
        rest.ab += (double)a[i] * (double)b[i];
        rest.aa += (double)a[i] * (double)a[i];
        rest.bb += (double)b[i] * (double)b[i];
    }
    ab0 += ab1;
    aa0 += aa1;
    bb0 += bb1;
    return (struct sums){SUM(ab0) + rest.ab, SUM(aa0) + rest.aa, SUM(bb0) + rest.bb};
}

INLINE double distance(enum otr_metric metric, const float *a, const float *b, uint32_t dimension)
{
    struct sums s;
    double d;

    switch (metric) {
    case OTR_METRIC_COSINE:
        s = sum_cosine(a, b, dimension);
        if (!(s.aa > 0) || !(s.bb > 0)) {
            return 1;
        }
        /* One root of the product: for equal vectors it is exactly ab, hence the distance exactly 0. Squares of floats
         * neither overflow nor vanish in a double. */
        d = 1 - s.ab / sqrt(s.aa * s.bb);
        return d < 0 ? 0 : d > 2 ? 2 : d;
    case OTR_METRIC_EUCLIDEAN:
        return sqrt(sum_squares(a, b, dimension));
    case OTR_METRIC_DOT:
        d = sum_dot(a, b, dimension);
        return d == 0 ? 0 : -d; /* never -0, which JSON would show */
    case OTR_METRIC_MANHATTAN:
        return sum_absolute(a, b, dimension);
    }
    assert(false && "metric is one of the four");
    return 0;
}

static double distance_plain(enum otr_metric metric, const float *a, const float *b, uint32_t dimension)
{
    return distance(metric, a, b, dimension);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static double distance_avx2(enum otr_metric metric, const float *a, const float *b,
                                                            uint32_t dimension)
{
    return distance(metric, a, b, dimension);
}
#endif

double score_distance(enum otr_metric metric, const float *a, const float *b, uint32_t dimension)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        return distance_avx2(metric, a, b, dimension);
    }
#endif
    return distance_plain(metric, a, b, dimension);
}

static const struct {
    const char *text;
    enum otr_metric metric;
} metric_names[] = {
    {"cosine", OTR_METRIC_COSINE},  {"euclidean", OTR_METRIC_EUCLIDEAN}, {"dot", OTR_METRIC_DOT},
    {"dotproduct", OTR_METRIC_DOT}, {"manhattan", OTR_METRIC_MANHATTAN},
};

bool score_metric_parse(const char *text, enum otr_metric *metric)
{
    for (size_t i = 0; i < sizeof metric_names / sizeof metric_names[0]; i++) {
        if (strcasecmp(text, metric_names[i].text) == 0) {
            *metric = metric_names[i].metric;
            return true;
        }
    }
    return false;
}

const char *score_metric_name(enum otr_metric metric)
{
    switch (metric) {
    case OTR_METRIC_COSINE:
        return "Cosine";
    case OTR_METRIC_EUCLIDEAN:
        return "Euclidean";
    case OTR_METRIC_DOT:
        return "DotProduct";
    case OTR_METRIC_MANHATTAN:
        return "Manhattan";
    }
    return "?";
}
