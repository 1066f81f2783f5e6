/* How fast bodies of points are read and vectors printed: bench_json. The best of several runs of each form that
 * clients print numbers in; one line per case. */
#include "sidecar/api/json.h"
#include "sidecar/api/json_points.h"
#include "sidecar/api/json_print.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RUNS = 9, DIMENSION = 256, POINTS = 4000 };

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* format NULL: shortest. */
static void print_body(struct text *t, const char *format)
{
    text_puts(t, "{\"points\":[");
    for (int i = 0; i < POINTS; i++) {
        text_printf(t, "%s{\"id\":\"package-%d\",\"vector\":[", i != 0 ? "," : "", i);
        for (int d = 0; d < DIMENSION; d++) {
            double v = (double)rand() / RAND_MAX * 2 - 1;

            text_puts(t, d != 0 ? "," : "");
            if (format == NULL) {
                json_print_float(t, (float)v);
            } else {
                char number[32];
                snprintf(number, sizeof number, format, v);
                text_puts(t, number);
            }
        }
        text_puts(t,
                  "],\"metadata\":{\"name\":\"a package\",\"tags\":[\"one\",\"two\"],\"text\":\"some more words\"}}");
    }
    text_puts(t, "]}");
}

static int read_case(const char *name, const char *format)
{
    struct json_vector_rules rules = {.dimension = DIMENSION, .metric = OTR_METRIC_COSINE};
    struct otr_request_id id = {{1}};
    double best_s = 1e9;
    struct text t;
    char *body;

    text_init(&t, 1 << 30);
    print_body(&t, format);
    body = t.failed == 0 ? malloc(t.used + JSON_SLACK) : NULL;
    if (body == NULL) {
        fprintf(stderr, "bench_json: out of memory\n");
        return 1;
    }
    for (int i = 0; i < RUNS; i++) {
        struct otr_errmsg msg;
        struct json_points p;
        double start_s;

        memcpy(body, t.bytes, t.used);
        memset(body + t.used, 0, JSON_SLACK);
        start_s = now_s();
        if (json_points_read(&p, &rules, &id, body, t.used, &msg) != 0) {
            fprintf(stderr, "bench_json: %s\n", msg.text);
            return 1;
        }
        best_s = now_s() - start_s < best_s ? now_s() - start_s : best_s;
        json_points_close(&p);
    }
    printf("read   %-24s %5.1f MB  %6.0f MB/s  %7.0f points/s of %d dimensions\n", name, (double)t.used / 1e6,
           (double)t.used / 1e6 / best_s, POINTS / best_s, DIMENSION);
    free(body);
    text_close(&t);
    return 0;
}

static void print_case(void)
{
    enum { COUNT = 1 << 20 };
    float *f = malloc(COUNT * sizeof *f);
    double best_s = 1e9;
    struct text t;

    text_init(&t, 1 << 30);
    for (int i = 0; f != NULL && i < COUNT; i++) {
        f[i] = (float)rand() / (float)RAND_MAX * 2 - 1;
    }
    for (int i = 0; f != NULL && i < RUNS; i++) {
        double start_s = now_s();

        t.used = 0;
        json_print_floats(&t, f, COUNT);
        best_s = now_s() - start_s < best_s ? now_s() - start_s : best_s;
    }
    printf("print  %-24s %5.1f MB  %6.0f MB/s  %4.1f million floats/s\n", "shortest float32", (double)t.used / 1e6,
           (double)t.used / 1e6 / best_s, COUNT / 1e6 / best_s);
    text_close(&t);
    free(f);
}

int main(void)
{
    if (read_case("shortest float32", NULL) != 0 || read_case("17 digits (JavaScript)", "%.17g") != 0 ||
        read_case("6 decimals", "%.6f") != 0 || read_case("3 decimals", "%.3f") != 0) {
        return 1;
    }
    print_case();
    return 0;
}
