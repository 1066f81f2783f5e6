/* simulate [--seed N | --seeds A-B] [--verbose] [--seconds N]
 *
 * Runs each seed; prints one line per hundred seeds, and of a failing seed the reason, the last lines of its trace and
 * the command that replays it. Exit 0: all passed; 1: one failed; 2: usage. */
#include "tests/simulation/sim.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { SIM_FAULT_SECONDS = 12, SIM_HEAL_SECONDS = 40 };

/* --- chance, memory ----------------------------------------------------------------------------------------------- */

uint64_t sim_random(struct sim *s)
{
    return fake_disk_random(&s->rng);
}

uint64_t sim_below(struct sim *s, uint64_t n)
{
    return n == 0 ? 0 : sim_random(s) % n;
}

uint64_t sim_between(struct sim *s, uint64_t low, uint64_t high)
{
    return low + sim_below(s, high - low + 1);
}

bool sim_chance(struct sim *s, uint32_t percent)
{
    return sim_below(s, 100) < percent;
}

void *sim_alloc(size_t bytes)
{
    void *p = calloc(1, bytes == 0 ? 1 : bytes);

    if (p == NULL) {
        abort();
    }
    return p;
}

void *sim_grow(void *items, size_t *capacity, size_t count, size_t item_bytes)
{
    if (count < *capacity) {
        return items;
    }
    *capacity = *capacity == 0 ? 16 : *capacity * 2;
    items = realloc(items, *capacity * item_bytes);
    if (items == NULL) {
        abort();
    }
    return items;
}

/* --- trace and failure -------------------------------------------------------------------------------------------- */

void sim_trace(struct sim *s, const char *format, ...)
{
    char *line = s->trace[s->trace_count % SIM_TRACE_LINES];
    va_list args;
    int used;

    used = snprintf(line, SIM_TRACE_LINE_BYTES, "[%6" PRIu64 ".%03u] ", s->now_us / SIM_MS,
                    (unsigned)(s->now_us % SIM_MS));
    va_start(args, format);
    (void)vsnprintf(line + used, SIM_TRACE_LINE_BYTES - (size_t)used, format, args);
    va_end(args);
    s->trace_count++;
    for (const char *c = line; *c != '\0'; c++) { /* FNV-1a: equal seeds, equal traces */
        s->trace_hash = (s->trace_hash ^ (uint8_t)*c) * 0x100000001b3;
    }
    if (s->verbose) {
        puts(line);
    }
}

void sim_fail(struct sim *s, const char *format, ...)
{
    va_list args;

    if (s->failed) {
        return;
    }
    s->failed = true;
    va_start(args, format);
    (void)vsnprintf(s->failure, sizeof s->failure, format, args);
    va_end(args);
    sim_trace(s, "FAILED: %s", s->failure);
}

/* --- virtual time ------------------------------------------------------------------------------------------------- */

static bool earlier(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->seq < b->seq;
}

static void heap_push(struct sim *s, struct sim_event *e)
{
    size_t i = s->heap_count;

    s->heap = sim_grow(s->heap, &s->heap_capacity, s->heap_count, sizeof(struct sim_event *));
    s->heap_count++;
    while (i > 0 && earlier(e, s->heap[(i - 1) / 2])) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = e;
}

static struct sim_event *heap_pop(struct sim *s)
{
    struct sim_event *top = s->heap[0];
    struct sim_event *last = s->heap[--s->heap_count];
    size_t i = 0;

    for (;;) {
        size_t child = 2 * i + 1;

        if (child >= s->heap_count) {
            break;
        }
        if (child + 1 < s->heap_count && earlier(s->heap[child + 1], s->heap[child])) {
            child++;
        }
        if (!earlier(s->heap[child], last)) {
            break;
        }
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return top;
}

struct sim_event *sim_after(struct sim *s, uint64_t delay_us, int node, sim_event_cb fire)
{
    struct sim_event *e = sim_alloc(sizeof *e);

    e->at_us = s->now_us + delay_us;
    e->seq = ++s->seq;
    e->fire = fire;
    e->node = node;
    e->incarnation = node != 0 ? s->nodes[node].incarnation : 0;
    heap_push(s, e);
    return e;
}

void sim_event_free(struct sim *s, struct sim_event *e)
{
    if (e->drop != NULL) {
        e->drop(s, e);
    }
    free(e);
}

void sim_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = e->node != 0 ? &s->nodes[e->node] : NULL;

    if (n != NULL && (!n->alive || n->incarnation != e->incarnation)) {
        sim_event_free(s, e);
        return;
    }
    if (n != NULL && n->paused_until_us > s->now_us) {
        e->next = NULL;
        *n->waiting_tail = e;
        n->waiting_tail = &e->next;
        return;
    }
    e->fire(s, e);
    if (n != NULL && n->alive && n->incarnation == e->incarnation) {
        node_turn_end(s, n);
    }
    sim_event_free(s, e);
}

/* Runs until the time has come, or until `stop` says so. */
static void run(struct sim *s, uint64_t until_us, bool (*stop)(struct sim *s))
{
    while (!s->failed && s->heap_count > 0 && s->heap[0]->at_us <= until_us) {
        struct sim_event *e = heap_pop(s);

        s->now_us = e->at_us;
        sim_fire(s, e);
        if (stop != NULL && stop(s)) {
            return;
        }
    }
    if (!s->failed) {
        s->now_us = until_us;
    }
}

static bool healed(struct sim *s)
{
    char why[256];

    /* Looked at every few events only: it costs more than a step. */
    return s->seq % 64 == 0 && clients_idle(s) && check_converged(s, why, sizeof why);
}

/* --- one seed ----------------------------------------------------------------------------------------------------- */

static void setup(struct sim *s, uint64_t seed, bool verbose)
{
    *s = (struct sim){.seed = seed, .rng = seed * 0x9e3779b97f4a7c15 + 1, .verbose = verbose};
    s->trace_hash = 0xcbf29ce484222325;
    s->faults = true;
    s->nodes_count = (int)sim_between(s, 3, SIM_NODES_MAX);
    s->shards_count = (uint32_t)sim_between(s, 1, SIM_SHARDS_MAX);
    s->clients_count = (uint32_t)sim_between(s, 2, SIM_CLIENTS_MAX);
    s->replicas_count = s->nodes_count == 5 && sim_chance(s, 30) ? 5 : 3;
    s->delay_us = sim_chance(s, 20) ? 20 * SIM_MS : sim_between(s, 100, 2 * SIM_MS);
    s->sync_us = sim_chance(s, 20) ? 30 * SIM_MS : sim_between(s, 200, 4 * SIM_MS);
    for (int i = 1; i <= s->nodes_count; i++) {
        struct sim_node *n = &s->nodes[i];

        n->id = i;
        n->disk = fake_disk_new();
        n->waiting_tail = &n->waiting;
        n->clock_offset_ms = sim_between(s, 1000, 1000000000);
        n->clock_drift_ppm = (int64_t)sim_below(s, 40000) - 20000; /* two per cent either way: pairs stay within 5 */
    }
    sim_trace(
        s, "seed %" PRIu64 ": %d nodes, %u shards, %u replicas, %u clients, delay %" PRIu64 " us, sync %" PRIu64 " us",
        seed, s->nodes_count, s->shards_count, s->replicas_count, s->clients_count, s->delay_us, s->sync_us);
    coord_start(s);
    net_start(s);
    for (int i = 1; i <= s->nodes_count; i++) {
        node_start(s, &s->nodes[i]);
    }
    clients_start(s);
    faults_start(s);
}

static void teardown(struct sim *s)
{
    while (s->heap_count > 0) {
        sim_event_free(s, heap_pop(s));
    }
    net_free(s);
    for (int i = 1; i <= s->nodes_count; i++) {
        node_free(s, &s->nodes[i]);
    }
    coord_free(s);
    check_free(s);
    free(s->heap);
}

static void report_failure(const struct sim *s)
{
    uint64_t first = s->trace_count > SIM_TRACE_LINES ? s->trace_count - SIM_TRACE_LINES : 0;

    for (uint64_t i = first; i < s->trace_count; i++) {
        puts(s->trace[i % SIM_TRACE_LINES]);
    }
    printf("seed %" PRIu64 " failed: %s\nreplay: make simulate SEED=%" PRIu64 "\n", s->seed, s->failure, s->seed);
    fflush(stdout);
}

/* An assert in core or journal is a failure like any other: which seed was it? */
static struct sim *running;

static void on_abort(int signal_number)
{
    (void)signal_number;
    if (running != NULL) {
        (void)snprintf(running->failure, sizeof running->failure, "aborted");
        report_failure(running);
    }
}

struct totals {
    uint64_t acks, reads, reads_by_descriptor, duplicates, elections, crashes, seeds, unknown, hash;
    uint64_t handed, returned, unavail, late, fell_back, left;
};

static bool simulate(uint64_t seed, bool verbose, uint64_t seconds, struct totals *t)
{
    struct sim *s = sim_alloc(sizeof *s);
    bool passed;

    running = s;
    setup(s, seed, verbose);
    run(s, seconds * 1000 * SIM_MS, NULL);
    if (!s->failed) {
        s->faults = false;
        faults_end(s);
        run(s, s->now_us + (uint64_t)SIM_HEAL_SECONDS * 1000 * SIM_MS, healed);
    }
    if (!s->failed) {
        check_end(s);
    }
    passed = !s->failed;
    if (!passed && !verbose) {
        report_failure(s);
    } else if (!passed) {
        printf("seed %" PRIu64 " failed: %s\n", seed, s->failure);
    }
    t->acks += s->check.acks;
    t->reads += s->check.reads;
    t->reads_by_descriptor += s->check.reads_by_descriptor;
    t->duplicates += s->check.duplicates;
    t->elections += s->elections;
    t->crashes += s->crashes;
    t->seeds += s->seeds;
    t->unknown += s->txns_unknown;
    t->handed += s->handoffs.handed;
    t->returned += s->handoffs.returned;
    t->unavail += s->handoffs.unavail;
    t->late += s->handoffs.late;
    t->fell_back += s->handoffs.fell_back;
    t->left += s->handoffs.left;
    t->hash ^= s->trace_hash;
    teardown(s);
    running = NULL;
    free(s);
    return passed;
}

/* --- command line ------------------------------------------------------------------------------------------------- */

static bool parse_range(const char *text, uint64_t *first, uint64_t *last)
{
    char *end;

    *first = strtoull(text, &end, 10);
    *last = *first;
    if (end == text) {
        return false;
    }
    if (*end == '-') {
        const char *second = end + 1;

        *last = strtoull(second, &end, 10);
        if (end == second) {
            return false;
        }
    }
    return *end == '\0' && *first <= *last;
}

static int usage(void)
{
    fprintf(stderr, "usage: simulate [--seeds N|A-B] [--verbose] [--keep-going] [--seconds N]\n"
                    "  --seeds       which seeds to run (1-200)\n"
                    "  --verbose     print the whole trace\n"
                    "  --keep-going  go on after a failing seed, print only its reason\n"
                    "  --seconds     of virtual time with faults (12)\n");
    return 2;
}

int main(int argc, char **argv)
{
    uint64_t first = 1, last = 200, seconds = SIM_FAULT_SECONDS, failed = 0;
    bool verbose = false, keep_going = false;
    struct totals t = {0};

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--verbose") == 0) {
            verbose = true;
        } else if (strcmp(argv[i], "--keep-going") == 0) {
            keep_going = true;
        } else if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc && parse_range(argv[i + 1], &first, &last)) {
            i++;
        } else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc && parse_range(argv[i + 1], &seconds, &seconds)) {
            i++;
        } else {
            return usage();
        }
    }
    (void)signal(SIGABRT, on_abort);
    for (uint64_t seed = first; seed <= last; seed++) {
        if (!simulate(seed, verbose, seconds, &t)) {
            failed++;
            if (!keep_going) {
                break;
            }
        }
        if ((seed - first + 1) % 100 == 0 || seed == last) {
            printf("seeds %" PRIu64 "-%" PRIu64 ": %" PRIu64 " failed; %" PRIu64 " writes acknowledged (%" PRIu64
                   " as duplicates), %" PRIu64 " reads (%" PRIu64 " by the descriptor), %" PRIu64 " elections, %" PRIu64
                   " crashes, %" PRIu64 " seeds, %" PRIu64 " unknown transactions, %" PRIu64
                   " handoffs asked for and done (%" PRIu64 " refused, %" PRIu64 " out of time), %" PRIu64
                   " reigns returned (%" PRIu64 " taken up again), %" PRIu64 " left in good order; trace %016" PRIx64
                   "\n",
                   first, seed, failed, t.acks, t.duplicates, t.reads, t.reads_by_descriptor, t.elections, t.crashes,
                   t.seeds, t.unknown, t.handed, t.unavail, t.late, t.returned, t.fell_back, t.left, t.hash);
            fflush(stdout);
        }
    }
    return failed == 0 ? 0 : 1;
}
