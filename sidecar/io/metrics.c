#include "sidecar/io/metrics.h"

#include "sidecar/io/clock.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const uint64_t metrics_bounds_us[METRICS_BUCKETS] = {50,     100,     250,     500,     1000,    2500,
                                                     5000,   10000,   25000,   50000,   100000,  250000,
                                                     500000, 1000000, 2500000, 5000000, 10000000};

void metrics_observe_us(struct metrics_histogram *h, uint64_t us)
{
    size_t bucket = 0;

    while (bucket < METRICS_BUCKETS && us > metrics_bounds_us[bucket]) {
        bucket++;
    }
    h->counts[bucket]++;
    h->sum_us += us;
}

void metrics_observe_since_ns(struct metrics_histogram *h, uint64_t start_ns)
{
    metrics_observe_us(h, (clock_now_ns() - start_ns) / 1000);
}

uint64_t metrics_count(const struct metrics_histogram *h)
{
    uint64_t count = 0;

    for (size_t i = 0; i <= METRICS_BUCKETS; i++) {
        count += h->counts[i];
    }
    return count;
}

/* --- labels ------------------------------------------------------------------------------------------------------- */

static void label_put(struct metrics_labels *l, const char *bytes, size_t count)
{
    assert(count < sizeof l->text - l->used);
    memcpy(l->text + l->used, bytes, count);
    l->used += count;
    l->text[l->used] = '\0';
}

void metrics_label(struct metrics_labels *l, const char *name, const char *value)
{
    if (l->used != 0) {
        label_put(l, ",", 1);
    }
    label_put(l, name, strlen(name));
    label_put(l, "=\"", 2);
    for (; *value != '\0'; value++) {
        if (*value == '\n') {
            label_put(l, "\\n", 2);
            continue;
        }
        if (*value == '\\' || *value == '"') {
            label_put(l, "\\", 1);
        }
        label_put(l, value, 1);
    }
    label_put(l, "\"", 1);
}

void metrics_label_number(struct metrics_labels *l, const char *name, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof text, "%" PRIu64, value);
    metrics_label(l, name, text);
}

/* --- printing ----------------------------------------------------------------------------------------------------- */

static void put_text(const struct metrics_out *out, const char *text)
{
    out->put(out->data, text, strlen(text));
}

static void put_format(const struct metrics_out *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put_format(const struct metrics_out *out, const char *format, ...)
{
    char text[128];
    va_list args;
    int wanted;

    va_start(args, format);
    wanted = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    assert(wanted >= 0 && (size_t)wanted < sizeof text); /* numbers only */
    out->put(out->data, text, (size_t)wanted);
}

/* A help text is one line. */
static void put_help(const struct metrics_out *out, const char *help)
{
    for (; *help != '\0'; help++) {
        if (*help == '\n') {
            put_text(out, "\\n");
        } else if (*help == '\\') {
            put_text(out, "\\\\");
        } else {
            out->put(out->data, help, 1);
        }
    }
}

static void put_header(const struct metrics_out *out, const char *prefix, const struct metrics_family *f)
{
    const char *type = f->type == METRICS_HISTOGRAM                                  ? "histogram"
                       : f->type == METRICS_COUNTER || f->type == METRICS_COUNTER_MS ? "counter"
                                                                                     : "gauge";

    put_text(out, "# HELP ");
    put_text(out, prefix);
    put_text(out, f->name);
    put_text(out, " ");
    put_help(out, f->help);
    put_text(out, "\n# TYPE ");
    put_text(out, prefix);
    put_text(out, f->name);
    put_text(out, " ");
    put_text(out, type);
    put_text(out, "\n");
}

/* `le`: the bucket's bound, NULL without. */
static void put_name(const struct metrics_out *out, const char *prefix, const char *name, const char *suffix,
                     const struct metrics_labels *labels, const char *le)
{
    put_text(out, prefix);
    put_text(out, name);
    put_text(out, suffix);
    if (labels->used != 0 || le != NULL) {
        put_text(out, "{");
        out->put(out->data, labels->text, labels->used);
        if (le != NULL) {
            put_text(out, labels->used != 0 ? ",le=\"" : "le=\"");
            put_text(out, le);
            put_text(out, "\"");
        }
        put_text(out, "}");
    }
    put_text(out, " ");
}

static void put_histogram(const struct metrics_out *out, const char *prefix, const char *name,
                          const struct metrics_labels *labels, const struct metrics_histogram *h)
{
    uint64_t below = 0;
    char le[32];

    for (size_t i = 0; i < METRICS_BUCKETS; i++) {
        below += h->counts[i];
        snprintf(le, sizeof le, "%g", (double)metrics_bounds_us[i] / 1e6);
        put_name(out, prefix, name, "_bucket", labels, le);
        put_format(out, "%" PRIu64 "\n", below);
    }
    below += h->counts[METRICS_BUCKETS];
    put_name(out, prefix, name, "_bucket", labels, "+Inf");
    put_format(out, "%" PRIu64 "\n", below);
    put_name(out, prefix, name, "_sum", labels, NULL);
    put_format(out, "%" PRIu64 ".%06" PRIu64 "\n", h->sum_us / 1000000, h->sum_us % 1000000);
    put_name(out, prefix, name, "_count", labels, NULL);
    put_format(out, "%" PRIu64 "\n", below);
}

static void put_sample(const struct metrics_out *out, const char *prefix, const struct metrics_family *f,
                       const struct metrics_object *object)
{
    const void *value = (const char *)object->values + f->offset;
    uint64_t number;

    if (f->type == METRICS_HISTOGRAM) {
        put_histogram(out, prefix, f->name, &object->labels, value);
        return;
    }
    memcpy(&number, value, sizeof number);
    put_name(out, prefix, f->name, "", &object->labels, NULL);
    if (f->type == METRICS_COUNTER_MS || f->type == METRICS_GAUGE_MS || f->type == METRICS_GAUGE_RATIO) {
        put_format(out, "%" PRIu64 ".%03" PRIu64 "\n", number / 1000, number % 1000);
    } else {
        put_format(out, "%" PRIu64 "\n", number);
    }
}

void metrics_print(const struct metrics_out *out, const char *prefix, const struct metrics_family *families,
                   size_t families_count, const struct metrics_object *objects, size_t objects_count)
{
    for (size_t i = 0; i < families_count && objects_count != 0; i++) {
        put_header(out, prefix, &families[i]);
        for (size_t k = 0; k < objects_count; k++) {
            put_sample(out, prefix, &families[i], &objects[k]);
        }
    }
}
