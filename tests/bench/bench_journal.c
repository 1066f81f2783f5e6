/* How fast the journal appends and flushes: bench_journal DIR [MB]. Entries of one 256-dimensional point (about 1.2
 * KB), appended on this thread, flushed by a flusher, for several sizes of what is appended while a flush runs. The
 * directory decides which disk is measured; its journal is removed again. Prints one line per case. */
#include "sidecar/log/flusher.h"

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { DIMENSION = 256 };

struct bench {
    struct journal *j;
    struct flusher *flusher;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool done;
};

static void notify(void *data)
{
    struct bench *b = data;

    pthread_mutex_lock(&b->mutex);
    b->done = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->mutex);
}

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
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
        size_t length = strlen(entry->d_name);
        if (length == 12 && strcmp(entry->d_name + 8, ".log") == 0) {
            unlinkat(dirfd(dir), entry->d_name, 0);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
}

/* Waits for the flush that runs, and ends it. */
static void finish_flush(struct bench *b)
{
    struct otr_errmsg msg = {0};

    pthread_mutex_lock(&b->mutex);
    while (!b->done) {
        pthread_cond_wait(&b->wake, &b->mutex);
    }
    b->done = false;
    pthread_mutex_unlock(&b->mutex);
    must(journal_flush_end(b->j, flusher_collect(b->flusher), NULL, NULL, &msg), &msg, "flush");
}

/* Appends `total` records, handing `group` at a time to the flusher. */
static void append_all(struct bench *b, const uint8_t *body, size_t body_bytes, size_t total, size_t group)
{
    struct otr_errmsg msg = {0};
    bool running = false;

    for (size_t i = 0; i < total; i++) {
        struct record_header h = {.shard = (otr_shard)(i % 4),
                                  .epoch = 1,
                                  .kind = RECORD_PUT,
                                  .index = i / 4 + 1,
                                  .body_bytes = (uint32_t)body_bytes};
        must(journal_append(b->j, &h, body, NULL), &msg, "append");
        if ((i + 1) % group == 0 || i + 1 == total) {
            if (running) {
                finish_flush(b);
            }
            flusher_submit(b->flusher, journal_flush_begin(b->j));
            running = true;
        }
    }
    if (running) {
        finish_flush(b);
    }
}

static void run(const char *path, size_t bytes, size_t group)
{
    struct bench b = {.mutex = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};
    struct journal_config config = {.identity = "bench/node-1", .journal_id = 1};
    static float vector[DIMENSION];
    struct otr_point p = {.id = "point-00000001",
                          .id_bytes = 14,
                          .dimension = DIMENSION,
                          .vector = vector,
                          .metadata = "{\"name\":\"something\"}",
                          .metadata_bytes = 20};
    size_t body_bytes = put_body_bytes(&p, 1);
    size_t total = bytes / record_bytes(body_bytes);
    uint8_t *body = malloc(body_bytes);
    struct otr_errmsg msg = {0};
    double start;
    double seconds;

    total = total / group < 20 ? total : group <= 4 ? total / 100 : total; /* small groups: the disk's latency */
    put_body_write(body, 1, &p, 1);
    remove_journal(path);
    must(file_posix_new(&config.fs, path, &msg), &msg, "directory");
    must(journal_open(&b.j, &config, NULL, NULL, &msg), &msg, "open");
    must(flusher_start(&b.flusher, notify, &b, &msg), &msg, "start");
    start = now_s();
    append_all(&b, body, body_bytes, total, group);
    seconds = now_s() - start;
    printf("append+flush: %5zu records a flush, %7zu records in %6.2f s: %9.0f records/s %7.1f MB/s\n", group, total,
           seconds, (double)total / seconds, (double)(total * record_bytes(body_bytes)) / seconds / 1e6);
    (void)flusher_stop(b.flusher);
    journal_close(b.j);
    start = now_s();
    must(journal_open(&b.j, &config, NULL, NULL, &msg), &msg, "open again");
    seconds = now_s() - start;
    printf("recovery:     %7zu records in %6.2f s: %7.1f MB/s\n", total, seconds,
           (double)(total * record_bytes(body_bytes)) / seconds / 1e6);
    journal_close(b.j);
    file_posix_free(config.fs);
    remove_journal(path);
    free(body);
}

int main(int argc, char **argv)
{
    static const size_t groups[] = {1, 16, 100, 1000, 10000};
    size_t bytes = (argc > 2 ? strtoull(argv[2], NULL, 10) : 512) << 20;

    if (argc < 2) {
        fprintf(stderr, "usage: bench_journal DIR [MB]: DIR is an empty directory on the disk to measure\n");
        return 2;
    }
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) {
        run(argv[1], bytes, groups[i]);
    }
    return 0;
}
