/* Metrics: what Prometheus reads. */
#include "sidecar/io/metrics.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/process.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* clang-format off */
#define DOOR_METRICS(X, S)                                  \
    X(S, opened_total, COUNTER, "Times it was \\opened\nor broken") \
    X(S, width_bytes, GAUGE, "How wide")                    \
    X(S, open_seconds, GAUGE_MS, "Open for so long")        \
    X(S, creak_seconds_total, COUNTER_MS, "Creaking")       \
    X(S, ajar_ratio, GAUGE_RATIO, "How far open")
#define STEP_METRICS(X, S) X(S, step_seconds, HISTOGRAM, "A step")
/* clang-format on */

METRICS_STRUCT(door_metrics, DOOR_METRICS);
METRICS_STRUCT(step_metrics, STEP_METRICS);
static const struct metrics_family door_families[] = METRICS_FAMILIES(door_metrics, DOOR_METRICS);
static const struct metrics_family step_families[] = METRICS_FAMILIES(step_metrics, STEP_METRICS);

static char printed[1 << 16];
static size_t printed_bytes;

static void put(void *data, const char *bytes, size_t count)
{
    (void)data;
    cr_assert(lt(sz, printed_bytes + count, sizeof printed));
    memcpy(printed + printed_bytes, bytes, count);
    printed_bytes += count;
    printed[printed_bytes] = '\0';
}

static const struct metrics_out out = {.put = put};

static bool has(const char *line)
{
    return strstr(printed, line) != NULL;
}

TestSuite(metrics, .timeout = 10);

/* The samples of a family stand together under one HELP and one TYPE. */
Test(metrics, one_header_a_family)
{
    struct door_metrics front = {
        .opened_total = 3, .width_bytes = 80, .open_seconds = 1250, .creak_seconds_total = 7, .ajar_ratio = 333};
    struct door_metrics back = {.opened_total = UINT64_MAX};
    struct metrics_object objects[2] = {{.values = &front}, {.values = &back}};

    metrics_label(&objects[0].labels, "door", "front");
    metrics_label_number(&objects[0].labels, "floor", 2);
    metrics_label(&objects[1].labels, "door", "back");
    metrics_print(&out, "house_", door_families, 5, objects, 2);
    cr_assert(eq(str, printed,
                 "# HELP house_opened_total Times it was \\\\opened\\nor broken\n"
                 "# TYPE house_opened_total counter\n"
                 "house_opened_total{door=\"front\",floor=\"2\"} 3\n"
                 "house_opened_total{door=\"back\"} 18446744073709551615\n"
                 "# HELP house_width_bytes How wide\n"
                 "# TYPE house_width_bytes gauge\n"
                 "house_width_bytes{door=\"front\",floor=\"2\"} 80\n"
                 "house_width_bytes{door=\"back\"} 0\n"
                 "# HELP house_open_seconds Open for so long\n"
                 "# TYPE house_open_seconds gauge\n"
                 "house_open_seconds{door=\"front\",floor=\"2\"} 1.250\n"
                 "house_open_seconds{door=\"back\"} 0.000\n"
                 "# HELP house_creak_seconds_total Creaking\n"
                 "# TYPE house_creak_seconds_total counter\n"
                 "house_creak_seconds_total{door=\"front\",floor=\"2\"} 0.007\n"
                 "house_creak_seconds_total{door=\"back\"} 0.000\n"
                 "# HELP house_ajar_ratio How far open\n"
                 "# TYPE house_ajar_ratio gauge\n"
                 "house_ajar_ratio{door=\"front\",floor=\"2\"} 0.333\n"
                 "house_ajar_ratio{door=\"back\"} 0.000\n"));
}

Test(metrics, nothing_without_objects)
{
    metrics_print(&out, "house_", door_families, 4, NULL, 0);
    cr_assert(zero(sz, printed_bytes));
}

Test(metrics, no_braces_without_labels)
{
    struct door_metrics door = {.opened_total = 3};
    struct metrics_object object = {.values = &door};

    metrics_print(&out, "", door_families, 1, &object, 1);
    cr_assert(has("\nopened_total 3\n"));
}

Test(metrics, label_values_are_escaped)
{
    struct metrics_labels l = {.used = 0};

    metrics_label(&l, "peer", "a\\b\"c\nd");
    cr_assert(eq(str, l.text, "peer=\"a\\\\b\\\"c\\nd\""));
}

Test(metrics, a_label_that_does_not_fit_is_our_bug, .signal = SIGABRT)
{
    struct metrics_labels l = {.used = 0};
    char value[METRICS_LABELS_BYTES];

    memset(value, 'x', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    metrics_label(&l, "peer", value);
}

/* --- histograms --------------------------------------------------------------------------------------------------- */

Test(metrics, a_bound_belongs_to_its_bucket)
{
    for (size_t i = 0; i < METRICS_BUCKETS; i++) {
        struct metrics_histogram h = {.sum_us = 0};

        metrics_observe_us(&h, metrics_bounds_us[i]);
        metrics_observe_us(&h, metrics_bounds_us[i] + 1);
        cr_assert(eq(u64, h.counts[i], 1), "bucket %zu", i);
        cr_assert(eq(u64, h.counts[i + 1], 1), "bucket %zu", i);
        cr_assert(i == 0 || metrics_bounds_us[i] > metrics_bounds_us[i - 1]);
    }
}

/* Buckets count what is at most their bound, and the last one everything. */
Test(metrics, buckets_are_cumulative)
{
    struct step_metrics step = {.step_seconds.sum_us = 0};
    struct metrics_object object = {.values = &step};

    metrics_label(&object.labels, "leg", "left");
    metrics_observe_us(&step.step_seconds, 0);
    metrics_observe_us(&step.step_seconds, 60);
    metrics_observe_us(&step.step_seconds, 70);
    metrics_observe_us(&step.step_seconds, 999999);
    metrics_observe_us(&step.step_seconds, 20000000);
    metrics_print(&out, "", step_families, 1, &object, 1);
    cr_assert(has("# TYPE step_seconds histogram\n"));
    cr_assert(has("step_seconds_bucket{leg=\"left\",le=\"5e-05\"} 1\n"));
    cr_assert(has("step_seconds_bucket{leg=\"left\",le=\"0.0001\"} 3\n"));
    cr_assert(has("step_seconds_bucket{leg=\"left\",le=\"0.5\"} 3\n"));
    cr_assert(has("step_seconds_bucket{leg=\"left\",le=\"1\"} 4\n"));
    cr_assert(has("step_seconds_bucket{leg=\"left\",le=\"10\"} 4\n"));
    cr_assert(has("step_seconds_bucket{leg=\"left\",le=\"+Inf\"} 5\n"));
    cr_assert(has("step_seconds_count{leg=\"left\"} 5\n"));
    cr_assert(has("step_seconds_sum{leg=\"left\"} 21.000129\n"));
    cr_assert(eq(u64, metrics_count(&step.step_seconds), 5));
}

Test(metrics, a_histogram_without_labels_has_le_alone)
{
    struct step_metrics step = {.step_seconds.sum_us = 0};
    struct metrics_object object = {.values = &step};

    metrics_print(&out, "", step_families, 1, &object, 1);
    cr_assert(has("step_seconds_bucket{le=\"+Inf\"} 0\n"));
    cr_assert(has("step_seconds_sum 0.000000\n"));
    cr_assert(has("step_seconds_count 0\n"));
}

Test(metrics, time_since_is_observed)
{
    struct metrics_histogram h = {.sum_us = 0};

    metrics_observe_since_ns(&h, clock_now_ns() - 3000000000);
    cr_assert(ge(u64, h.sum_us, 3000000));
    cr_assert(lt(u64, h.sum_us, 60000000));
}

/* --- the process -------------------------------------------------------------------------------------------------- */

Test(metrics, the_process_is_read)
{
    struct process_metrics m;
    struct process_metrics more;
    int fd;

    process_metrics_read(&m);
    cr_assert(gt(u64, m.resident_memory_bytes, 100 << 10));
    cr_assert(ge(u64, m.max_fds, m.open_fds));
    cr_assert(le(u64, m.start_time_seconds, clock_wall_ms() + 1000));
    cr_assert(gt(u64, m.start_time_seconds, clock_wall_ms() - 600000));
    fd = dup(1);
    process_metrics_read(&more);
    cr_assert(eq(u64, more.open_fds, m.open_fds + 1));
    cr_assert(eq(u64, more.start_time_seconds, m.start_time_seconds));
    close(fd);
    process_metrics_print(&out);
    cr_assert(has("# TYPE process_cpu_seconds_total counter\n"));
    cr_assert(has("\nprocess_start_time_seconds 1"));
}
