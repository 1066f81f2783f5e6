/* Chance, trace, virtual time, and one seed from its beginning to its end. */
#include "tests/simulation/sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    SIM_ABSENT_SECONDS = 20,  /* by then all shards are writable that can be without one node */
    SIM_HEAL_SECONDS = 40,    /* by then everything is well again */
    SIM_WRITABLE_SECONDS = 5, /* ... and every shard takes a write and a read */
    SIM_QUIET_SECONDS = 2,    /* ... and nothing changes any more for so long, */
    SIM_QUIET_TRIES = 5,      /* once what is left of lost sessions has expired */
    SIM_LONGER_SECONDS = 120, /* faults go on for longer when there was too little of something, until then */
    SIM_OPERATIONS_MIN = 150, /* of a seed */
    SIM_FAULTS_MIN = 8,
    SIM_EVENTS_MAX = 20000000, /* of a seed: it runs away */
};

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
        s->trace_hash = (s->trace_hash ^ e->at_us) * 0x100000001b3;
        s->trace_hash = (s->trace_hash ^ (e->seq << 8 | (uint64_t)e->node)) * 0x100000001b3;
        if (++s->counts.events > SIM_EVENTS_MAX) {
            sim_fail(s, "I7: more than %d events: it runs away", SIM_EVENTS_MAX);
        }
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
    int64_t slowest_ppm;

    *s = (struct sim){.seed = seed, .rng = seed * 0x9e3779b97f4a7c15 + 1, .verbose = verbose};
    s->trace_hash = 0xcbf29ce484222325;
    s->faults = true;
    s->nodes_count = sim_chance(s, 75) ? (int)sim_between(s, 3, 5) : (int)sim_between(s, 3, SIM_NODES_MAX);
    s->shards_count = (uint32_t)(sim_chance(s, 75) ? sim_between(s, 1, 3) : sim_between(s, 1, SIM_SHARDS_MAX));
    s->clients_count = (uint32_t)sim_between(s, 2, SIM_CLIENTS_MAX);
    s->replicas_count = s->nodes_count >= 5 && sim_chance(s, 30) ? 5 : 3;
    s->delay_us = sim_chance(s, 20) ? 20 * SIM_MS : sim_between(s, 100, 2 * SIM_MS);
    s->sync_us = sim_chance(s, 20) ? 30 * SIM_MS : sim_between(s, 200, 4 * SIM_MS);
    /* Up to 5 % fast or slow, and no two by more than the drift that the protocol allows for (G4). */
    slowest_ppm = -(int64_t)sim_below(s, 50001);
    s->clock_ppm_min = slowest_ppm;
    s->clock_ppm_max = slowest_ppm + (1000000 + slowest_ppm) / 20;
    for (int i = 1; i <= s->nodes_count; i++) {
        struct sim_node *n = &s->nodes[i];

        n->id = i;
        n->disk = fake_disk_new();
        n->waiting_tail = &n->waiting;
        n->clock_us = sim_between(s, 1000, 1000000000) * SIM_MS;
        node_clock_change(s, n);
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
    mode_start(s);
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

void sim_report(const struct sim *s)
{
    uint64_t first = s->trace_count > SIM_TRACE_LINES ? s->trace_count - SIM_TRACE_LINES : 0;

    for (uint64_t i = s->verbose ? s->trace_count : first; i < s->trace_count; i++) {
        puts(s->trace[i % SIM_TRACE_LINES]);
    }
    printf("seed %" PRIu64 " failed: %s\nreplay: make simulate SEED=%" PRIu64 "\n", s->seed, s->failure, s->seed);
    fflush(stdout);
}

static bool busy_enough(struct sim *s)
{
    return s->counts.operations >= SIM_OPERATIONS_MIN && s->counts.faults >= SIM_FAULTS_MIN;
}

static void with_faults(struct sim *s, uint64_t seconds)
{
    run(s, seconds * 1000 * SIM_MS, NULL);
    while (!s->failed && !busy_enough(s) && !check_any_lost(s)) {
        if (s->now_us >= (uint64_t)SIM_LONGER_SECONDS * 1000 * SIM_MS) {
            sim_fail(s, "I7: too little happened: %" PRIu64 " operations, %" PRIu64 " faults", s->counts.operations,
                     s->counts.faults);
            return;
        }
        if (s->counts.operations < SIM_OPERATIONS_MIN) { /* more of them, and better chances */
            s->rest_us = 10 * SIM_MS;
            s->fault_interval_us += s->fault_interval_us / 4;
        }
        s->weights[s->calm ? FAULT_COMPACT : FAULT_KILL] +=
            s->counts.faults < SIM_FAULTS_MIN; /* the others cannot strike */
        run(s, s->now_us + 1000 * SIM_MS, NULL);
    }
}

static bool writable_without(struct sim *s)
{
    char why[256];

    return s->seq % 64 == 0 && check_writable_without(s, s->absent, why, sizeof why);
}

/* One node stays away: the others go on without it. Then it comes back. */
static void without_one(struct sim *s)
{
    char why[256] = "";

    run(s, s->now_us + (uint64_t)SIM_ABSENT_SECONDS * 1000 * SIM_MS, writable_without);
    if (!s->failed && !check_writable_without(s, s->absent, why, sizeof why)) {
        sim_fail(s, "I7: with node %d away: %s", s->absent, why);
    }
    if (!s->failed) {
        struct sim_node *n = &s->nodes[s->absent];

        s->absent = 0;
        node_start(s, n);
    }
}

/* Healed in bounded time, writable in bounded time, then quiet. */
static void without_faults(struct sim *s)
{
    s->faults = false;
    faults_end(s);
    if (s->absent != 0) {
        without_one(s);
    }
    run(s, s->now_us + (uint64_t)SIM_HEAL_SECONDS * 1000 * SIM_MS, healed);
    if (!s->failed) {
        check_end(s);
    }
    if (s->failed || check_any_lost(s)) {
        return;
    }
    clients_last(s);
    run(s, s->now_us + (uint64_t)SIM_WRITABLE_SECONDS * 1000 * SIM_MS, clients_last_done);
    if (!s->failed && !clients_last_done(s)) {
        sim_fail(s, "I7: a shard takes no write or no read, although all is well");
    }
    for (int i = 1; !s->failed; i++) {
        check_quiet_begin(s);
        run(s, s->now_us + (uint64_t)SIM_QUIET_SECONDS * 1000 * SIM_MS, NULL);
        if (s->failed || check_quiet_end(s, i == SIM_QUIET_TRIES)) {
            break;
        }
    }
    if (!s->failed) {
        check_end(s);
    }
}

struct sim *sim_new(uint64_t seed, bool verbose)
{
    struct sim *s = sim_alloc(sizeof *s);

    setup(s, seed, verbose);
    return s;
}

bool sim_run(struct sim *s, uint64_t seconds)
{
    with_faults(s, seconds);
    if (!s->failed) {
        without_faults(s);
    }
    if (!s->failed) {
        clients_end(s);
        check_linear(s);
    }
    s->counts.seeds = 1;
    s->counts.failed = s->failed;
    s->counts.virtual_ms = s->now_us / SIM_MS;
    s->counts.hash = s->trace_hash;
    return !s->failed;
}

void sim_free(struct sim *s)
{
    teardown(s);
    free(s);
}
