/* I4 as the clients see it: the history of each key is linearizable, with writes whose outcome nobody learned.
 *
 * Every written value is written once, so the polynomial test of Gibbons and Korach ("Testing Shared Memories", SIAM
 * Journal on Computing 26(4), 1997) is exact; what Wing and Gong's and Lowe's searches find, it finds without searching
 * (the self-test compares it with such a search on small histories). A value's cluster is its write and the reads that
 * returned it; its zone reaches from the earliest end in it to the latest beginning. Where that is forward in time, the
 * value was certainly there all the while. A history is linearizable if and only if
 *
 *   - no read ends before the write of its value begins,
 *   - no two forward zones overlap,
 *   - no backward zone lies within a forward one.
 *
 * What nothing is known of, a write that was never answered and never read, may be left out. */
#include "tests/simulation/sim.h"

#include <stdlib.h>

struct cluster {
    otr_shard shard;
    uint32_t key;
    uint64_t value;
    uint64_t write_begin;        /* UINT64_MAX: nobody wrote it */
    uint64_t end_min, begin_max; /* the zone: forward if end_min < begin_max */
    size_t example;              /* number of an operation in it */
};

struct item { /* an operation, to be sorted */
    struct sim_seen seen;
    size_t number;
};

static int by_value(const void *a, const void *b)
{
    const struct sim_seen *x = &((const struct item *)a)->seen;
    const struct sim_seen *y = &((const struct item *)b)->seen;

    if (x->shard != y->shard) {
        return x->shard < y->shard ? -1 : 1;
    }
    if (x->key != y->key) {
        return x->key < y->key ? -1 : 1;
    }
    if (x->value != y->value) {
        return x->value < y->value ? -1 : 1;
    }
    return 0;
}

static bool same_key(const struct cluster *a, const struct cluster *b)
{
    return a->shard == b->shard && a->key == b->key;
}

static bool forward(const struct cluster *c)
{
    return c->end_min < c->begin_max;
}

static uint64_t low_of(const struct cluster *c)
{
    return forward(c) ? c->end_min : c->begin_max;
}

static uint64_t high_of(const struct cluster *c)
{
    return forward(c) ? c->begin_max : c->end_min;
}

static int by_time(const void *a, const void *b)
{
    const struct cluster *x = a, *y = b;

    if (x->shard != y->shard) {
        return x->shard < y->shard ? -1 : 1;
    }
    if (x->key != y->key) {
        return x->key < y->key ? -1 : 1;
    }
    if (low_of(x) != low_of(y)) {
        return low_of(x) < low_of(y) ? -1 : 1;
    }
    return 0;
}

/* One cluster of items[0..count). Returns the number of an impossible read + 1, else 0. */
static size_t make_cluster(const struct item *items, size_t count, struct cluster *c)
{
    const struct sim_seen *first = &items[0].seen;

    *c = (struct cluster){.shard = first->shard,
                          .key = first->key,
                          .value = first->value,
                          .write_begin = first->value == 0 ? 0 : UINT64_MAX,
                          .end_min = first->value == 0 ? 0 : UINT64_MAX, /* the beginning of all writes nothing */
                          .example = items[0].number};
    for (size_t i = 0; i < count; i++) {
        const struct sim_seen *seen = &items[i].seen;

        if (seen->write) {
            c->write_begin = seen->begin_us;
        }
        c->end_min = seen->end_us < c->end_min ? seen->end_us : c->end_min;
        c->begin_max = seen->begin_us > c->begin_max ? seen->begin_us : c->begin_max;
    }
    for (size_t i = 0; i < count; i++) {
        if (!items[i].seen.write && (c->write_begin == UINT64_MAX || items[i].seen.end_us < c->write_begin)) {
            return items[i].number + 1;
        }
    }
    return 0;
}

/* Zones of one key, by where they begin. */
static size_t check_zones(const struct cluster *c, size_t count)
{
    const struct cluster *open = NULL; /* the forward zone that reaches furthest */

    for (size_t i = 0; i < count; i++) {
        if (open != NULL && !same_key(open, &c[i])) {
            open = NULL;
        }
        if (open != NULL && low_of(&c[i]) < high_of(open) &&
            (forward(&c[i]) || (low_of(&c[i]) > low_of(open) && high_of(&c[i]) < high_of(open)))) {
            return c[i].example + 1;
        }
        if (forward(&c[i]) && (open == NULL || high_of(&c[i]) > high_of(open))) {
            open = &c[i];
        }
    }
    return 0;
}

size_t check_linear_history(const struct sim_seen *seen, size_t count)
{
    struct item *items = sim_alloc(count * sizeof *items);
    struct cluster *clusters = sim_alloc(count * sizeof *clusters);
    size_t clusters_count = 0, end, bad = 0;

    for (size_t i = 0; i < count; i++) {
        items[i] = (struct item){.seen = seen[i], .number = i};
        items[i].seen.begin_us++; /* the first value was there before anything began */
        items[i].seen.end_us += items[i].seen.end_us != UINT64_MAX;
    }
    qsort(items, count, sizeof *items, by_value);
    for (size_t i = 0; i < count && bad == 0; i = end) {
        for (end = i + 1; end < count && by_value(&items[i], &items[end]) == 0; end++) {
        }
        if (end == i + 1 && items[i].seen.write && items[i].seen.end_us == UINT64_MAX) {
            continue;
        }
        bad = make_cluster(&items[i], end - i, &clusters[clusters_count++]);
    }
    if (bad == 0) {
        qsort(clusters, clusters_count, sizeof *clusters, by_time);
        bad = check_zones(clusters, clusters_count);
    }
    free(items);
    free(clusters);
    return bad;
}

/* What was lost (A7, V7) was seen all the same: histories of such keys are no longer linearizable. Reads of them are
 * judged one by one (check_reads.c). */
static void leave_out_lost(struct sim *s)
{
    size_t kept = 0;

    for (size_t i = 0; i < s->check.history_count; i++) {
        const struct sim_seen seen = s->check.history[i];

        if (!s->check.shards[seen.shard].key_lost[seen.key]) {
            s->check.history[kept++] = seen;
        }
    }
    s->check.history_count = kept;
}

void check_linear(struct sim *s)
{
    const struct sim_seen *seen;
    size_t bad;

    leave_out_lost(s);
    bad = check_linear_history(s->check.history, s->check.history_count);
    if (bad == 0) {
        return;
    }
    seen = &s->check.history[bad - 1];
    sim_fail(s,
             "I4: the history of shard %u key %u is not linearizable: see the %s of value %" PRIu64 " from %" PRIu64
             ".%03u to %" PRIu64 ".%03u ms",
             seen->shard, seen->key, seen->write ? "write" : "read", seen->value, seen->begin_us / SIM_MS,
             (unsigned)(seen->begin_us % SIM_MS), seen->end_us / SIM_MS, (unsigned)(seen->end_us % SIM_MS));
}
