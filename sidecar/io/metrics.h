/* Metrics: counters, gauges and histograms of latency as plain members of a struct, and their printing in Prometheus'
 * text format (version 0.0.4).
 *
 * One table a kind of object gives both the struct and the families; the family's name is the prefix given when
 * printing and the member's name:
 *
 *     #define LINK_METRICS(X, S) X(S, up, GAUGE, "1 while connected") X(S, lost_total, COUNTER, "Connections that
 * ended") METRICS_STRUCT(link_metrics, LINK_METRICS); static const struct metrics_family families[] =
 * METRICS_FAMILIES(link_metrics, LINK_METRICS);
 *
 * Whoever sees an event increments a member: no lock, no memory, no call but for histograms. One thread (the loop's).
 */
#ifndef OUTRIGGER_IO_METRICS_H
#define OUTRIGGER_IO_METRICS_H

#include <stddef.h>
#include <stdint.h>

enum {
    METRICS_BUCKETS = 17, /* 50 us to 10 s, three a decade; metrics_bounds_us */
    METRICS_LABELS_BYTES = 256,
};

struct metrics_histogram {
    uint64_t counts[METRICS_BUCKETS + 1]; /* of each bucket alone; the last: above all bounds */
    uint64_t sum_us;
};

enum metrics_type {
    METRICS_COUNTER,     /* uint64_t */
    METRICS_GAUGE,       /* uint64_t */
    METRICS_COUNTER_MS,  /* uint64_t milliseconds, printed as seconds */
    METRICS_GAUGE_MS,    /* the same */
    METRICS_GAUGE_RATIO, /* uint64_t thousandths, printed as a fraction */
    METRICS_HISTOGRAM,   /* struct metrics_histogram, printed in seconds */
};

struct metrics_family {
    const char *name; /* without the prefix */
    enum metrics_type type;
    const char *help;
    size_t offset; /* of the member */
};

typedef uint64_t metrics_member_COUNTER;
typedef uint64_t metrics_member_GAUGE;
typedef uint64_t metrics_member_COUNTER_MS;
typedef uint64_t metrics_member_GAUGE_MS;
typedef uint64_t metrics_member_GAUGE_RATIO;
typedef struct metrics_histogram metrics_member_HISTOGRAM;

#define METRICS_MEMBER(S, member, type, help) metrics_member_##type member;
#define METRICS_FAMILY(S, member, type, help) {#member, METRICS_##type, help, offsetof(struct S, member)},
#define METRICS_STRUCT(S, TABLE) \
    struct S {                   \
        TABLE(METRICS_MEMBER, S) \
    }
#define METRICS_FAMILIES(S, TABLE) \
    {                              \
        TABLE(METRICS_FAMILY, S)   \
    }

/* Upper bounds of the buckets, ascending; a value equal to a bound is in its bucket. */
extern const uint64_t metrics_bounds_us[METRICS_BUCKETS];

/* Something took that long. */
void metrics_observe_us(struct metrics_histogram *h, uint64_t us);
/* The same, since a reading of clock_now_ns(). */
void metrics_observe_since_ns(struct metrics_histogram *h, uint64_t start_ns);
uint64_t metrics_count(const struct metrics_histogram *h);

/* --- printing ----------------------------------------------------------------------------------------------------- */

/* Zero-initialise. */
struct metrics_labels {
    char text[METRICS_LABELS_BYTES]; /* name="value",... */
    size_t used;
};
/* Adds one; `value` is escaped. Asserts that there is room: labels are names of bounded length. */
void metrics_label(struct metrics_labels *l, const char *name, const char *value);
void metrics_label_number(struct metrics_labels *l, const char *name, uint64_t value);

/* Something that has the metrics of a table, told from others of its kind by its labels. */
struct metrics_object {
    struct metrics_labels labels;
    const void *values; /* the table's struct */
};

/* Where text goes, piece by piece. */
struct metrics_out {
    void (*put)(void *data, const char *bytes, size_t count);
    void *data;
};

/* Every family with HELP, TYPE and the samples of all objects; nothing at all without objects. */
void metrics_print(const struct metrics_out *out, const char *prefix, const struct metrics_family *families,
                   size_t families_count, const struct metrics_object *objects, size_t objects_count);

#endif
