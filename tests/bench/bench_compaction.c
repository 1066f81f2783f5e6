/* What a journal of many points costs: bench_compaction DIR [POINTS]. Points of 256 dimensions are put, half of them
 * once more; then the time that a start takes and the memory per point, puts (append, write, fdatasync, apply) alone
 * and beside a throttled compaction, and an unthrottled compaction's speed. The directory decides which disk is
 * measured; its journal is removed again. Prints one line per figure. */
#include "sidecar/log/compactor.h"

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { DIMENSION = 256, SHARDS = 4, GROUP = 200, SAMPLES = 3000 };

struct bench {
    const char *path;
    struct journal_config config;
    struct journal *j;
    struct store *stores[SHARDS];
    uint64_t stored[SHARDS];
    struct compactor *c;
    pthread_t thread;
    pthread_mutex_t mutex;
    bool running; /* compactor_run() on the thread */
    bool done;
};

static uint64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void must(int rv, const struct otr_errmsg *msg, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "%s: %s: %s\n", what, otr_strerror(rv), msg->text);
        exit(1);
    }
}

static void remove_journal(const char *path)
{
    DIR *dir = opendir(path);
    const struct dirent *entry;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (strstr(entry->d_name, ".log") != NULL || strstr(entry->d_name, ".kept") != NULL) {
            unlinkat(dirfd(dir), entry->d_name, 0);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
}

static double memory_mb(void)
{
    unsigned long pages = 0;
    unsigned long resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");

    if (f != NULL) {
        if (fscanf(f, "%lu %lu", &pages, &resident) != 2) {
            resident = 0;
        }
        fclose(f);
    }
    return (double)resident * (double)sysconf(_SC_PAGESIZE) / 1e6;
}

/* --- the journal and its stores ----------------------------------------------------------------------------------- */

static bool same_id(void *data, journal_place place, const char *id, size_t id_bytes)
{
    (void)data, (void)place, (void)id, (void)id_bytes;
    return true;
}

static void settled(void *data, const struct record_header *h, const uint8_t *body, journal_place place)
{
    struct bench *b = data;

    if (h->index > b->stored[h->shard]) {
        must(store_apply(b->stores[h->shard], h, body, place, same_id, NULL, NULL), &(struct otr_errmsg){0}, "apply");
        b->stored[h->shard] = h->index;
    }
}

static void visit(void *data, const struct record_header *h, const uint8_t *body, journal_place place)
{
    struct bench *b = data;

    if (h->kind == RECORD_KEPT_POINTS) {
        must(store_apply_seed(b->stores[h->shard], body, h->body_bytes, place, same_id, NULL), &(struct otr_errmsg){0},
             "apply");
    } else if (h->kind == RECORD_KEPT_HEAD) {
        b->stored[h->shard] = h->index;
    }
}

static void apply_all(struct bench *b, otr_shard shard)
{
    struct journal_shard_state state;
    struct otr_errmsg msg = {0};

    (void)journal_shard(b->j, shard, &state);
    while (b->stored[shard] < state.last.index) {
        struct journal_reader *r = journal_reader_new(b->j);
        const struct journal_bytes *got;
        struct record_header h;

        must(journal_reader_entries(r, shard, b->stored[shard] + 1, state.last.index, 16 << 20), &msg, "entries");
        must(journal_reader_run(r, &msg), &msg, "read");
        got = journal_reader_result(r);
        for (size_t at = 0; at < got->bytes; at += record_bytes(h.body_bytes)) {
            must(record_read(got->data + at, got->bytes - at, &h), &msg, "record");
            settled(b, &h, got->data + at + RECORD_HEADER_BYTES, journal_place_of(b->j, shard, h.index));
        }
        journal_reader_free(r);
    }
}

static double open_all(struct bench *b)
{
    struct otr_errmsg msg = {0};
    uint64_t began = now_us();

    for (otr_shard i = 0; i < SHARDS; i++) {
        b->stores[i] = store_new();
        b->stored[i] = 0;
    }
    must(journal_open(&b->j, &b->config, visit, b, &msg), &msg, "open");
    for (otr_shard i = 0; i < SHARDS; i++) {
        apply_all(b, i);
    }
    return (double)(now_us() - began) / 1e6;
}

static void close_all(struct bench *b)
{
    compactor_free(b->c);
    b->c = NULL;
    journal_close(b->j);
    for (otr_shard i = 0; i < SHARDS; i++) {
        store_free(b->stores[i]);
    }
}

/* Appends a version of a point. */
static void put(struct bench *b, unsigned number)
{
    static uint8_t body[2 * DIMENSION * sizeof(float)];
    static float vector[DIMENSION];
    struct otr_errmsg msg = {0};
    struct journal_shard_state state;
    char id[24];
    struct otr_point p = {.id = id, .dimension = DIMENSION, .vector = vector};
    struct record_header h = {.shard = number % SHARDS, .epoch = 1, .kind = RECORD_PUT};

    p.id_bytes = (uint32_t)snprintf(id, sizeof id, "point-%08u", number);
    (void)journal_shard(b->j, h.shard, &state);
    h.index = state.last.index + 1;
    h.body_bytes = (uint32_t)put_body_bytes(&p, 1);
    put_body_write(body, 1, &p, 1);
    must(journal_append(b->j, &h, body, NULL), &msg, "append");
}

static void flush(struct bench *b)
{
    struct otr_errmsg msg = {0};
    struct journal_batch *batch = journal_flush_begin(b->j);

    if (batch != NULL) {
        journal_flush_run(batch);
        must(journal_flush_end(b->j, batch, NULL, NULL, &msg), &msg, "flush");
    }
    for (otr_shard i = 0; i < SHARDS; i++) {
        apply_all(b, i);
    }
}

/* --- compaction --------------------------------------------------------------------------------------------------- */

static struct store *store_of(void *data, otr_shard shard)
{
    return ((struct bench *)data)->stores[shard];
}

static uint64_t keep(void *data, otr_shard shard)
{
    return ((struct bench *)data)->stored[shard];
}

static int ids(void *data, otr_shard shard, uint64_t *from, uint64_t to, uint8_t **bytes, size_t *count)
{
    (void)data, (void)shard;
    *from = to;
    *bytes = NULL;
    *count = 0;
    return 0;
}

static void compact_with(struct bench *b, uint64_t bytes_per_s)
{
    struct compactor_config config = {.j = b->j,
                                      .live_percent = 80,
                                      .bytes_per_s = bytes_per_s,
                                      .store = store_of,
                                      .keep = keep,
                                      .ids = ids,
                                      .data = b};

    compactor_free(b->c);
    must(compactor_new(&b->c, &config), &(struct otr_errmsg){0}, "compactor");
}

static void *run_piece(void *data)
{
    struct bench *b = data;

    compactor_run(b->c);
    pthread_mutex_lock(&b->mutex);
    b->done = true;
    pthread_mutex_unlock(&b->mutex);
    return NULL;
}

/* What the loop of a sidecar does with every tick. */
static void tick(struct bench *b)
{
    struct otr_errmsg msg = {0};
    bool done;

    if (b->running) {
        pthread_mutex_lock(&b->mutex);
        done = b->done;
        pthread_mutex_unlock(&b->mutex);
        if (!done) {
            return;
        }
        pthread_join(b->thread, NULL);
        b->running = false;
        must(compactor_ran(b->c, now_us() / 1000, &msg), &msg, "compact");
    }
    if (b->c != NULL && compactor_turn(b->c, now_us() / 1000, false)) {
        b->done = false;
        b->running = pthread_create(&b->thread, NULL, run_piece, b) == 0;
    }
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void measure_puts(struct bench *b, unsigned points, const char *what)
{
    static uint64_t took[SAMPLES];

    for (unsigned i = 0; i < SAMPLES; i++) {
        uint64_t began = now_us();
        put(b, (unsigned)rand() % points);
        flush(b);
        took[i] = now_us() - began;
        tick(b);
    }
    qsort(took, SAMPLES, sizeof took[0], compare);
    printf("puts %-28s p50 %7.3f ms  p99 %7.3f ms  max %7.3f ms\n", what, (double)took[SAMPLES / 2] / 1000,
           (double)took[SAMPLES * 99 / 100] / 1000, (double)took[SAMPLES - 1] / 1000);
}

static void compact_all(struct bench *b)
{
    struct compactor_stats stats;
    struct journal_stats before;
    struct journal_stats after;
    uint64_t began = now_us();
    uint64_t last = began;

    journal_stats(b->j, &before);
    compact_with(b, 0);
    while (b->running || now_us() - last < 1500000) {
        tick(b);
        last = b->running ? now_us() : last;
    }
    compactor_stats(b->c, &stats);
    journal_stats(b->j, &after);
    printf("compaction:   %.0f MB read, %.0f MB written in %.2f s: %.1f MB/s; journal from %.0f to %.0f MB\n",
           (double)stats.read_bytes_total / 1e6, (double)stats.copied_bytes_total / 1e6, (double)(last - began) / 1e6,
           (double)(stats.read_bytes_total + stats.copied_bytes_total) / (double)(last - began),
           (double)before.bytes / 1e6, (double)after.bytes / 1e6);
}

int main(int argc, char **argv)
{
    struct bench b = {.mutex = PTHREAD_MUTEX_INITIALIZER,
                      .config = {.identity = "bench/node-1", .journal_id = 1, .settled = settled}};
    unsigned points = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 1000000;
    struct otr_errmsg msg = {0};
    double empty_mb;
    size_t stores = 0;

    if (argc < 2) {
        fprintf(stderr, "usage: bench_compaction DIR [POINTS]\n");
        return 2;
    }
    b.path = argv[1];
    remove_journal(b.path);
    must(file_posix_new(&b.config.fs, b.path, &msg), &msg, "directory");
    open_all(&b);
    for (unsigned i = 0; i < points + points / 2; i++) {
        put(&b, i < points ? i : (unsigned)rand() % points);
        if (i % GROUP == GROUP - 1) {
            flush(&b);
        }
    }
    flush(&b);
    close_all(&b);
    empty_mb = memory_mb();
    printf("start:        %.2f s with %u points in %u entries\n", open_all(&b), points, points + points / 2);
    for (otr_shard i = 0; i < SHARDS; i++) {
        stores += store_memory_bytes(b.stores[i]);
    }
    printf("memory:       %.1f bytes a point in the stores; %.1f all in all\n", (double)stores / points,
           (memory_mb() - empty_mb) * 1e6 / points);
    measure_puts(&b, points, "alone:");
    compact_with(&b, 32 << 20);
    measure_puts(&b, points, "beside compaction, 32 MB/s:");
    while (b.running) {
        tick(&b);
    }
    close_all(&b);
    open_all(&b);
    compact_all(&b);
    close_all(&b);
    printf("start:        %.2f s after compaction\n", open_all(&b));
    close_all(&b);
    file_posix_free(b.config.fs);
    remove_journal(b.path);
    return 0;
}
