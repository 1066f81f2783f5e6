/* The journal as the daemon uses it: real files, a thread that flushes, readers on another thread, all at once. */
#include "sidecar/log/flusher.h"
#include "tests/lib/fail_calls.h"
#include "tests/lib/temp_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct rig {
    struct temp_dir dir;
    struct journal_config config;
    struct journal *j;
    struct flusher *flusher;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    unsigned notified;
    struct journal_reader *work; /* for the reader's thread */
    struct journal_reader *done;
    bool stopping;
    pthread_t thread;
};

static void notify(void *data)
{
    struct rig *r = data;

    pthread_mutex_lock(&r->mutex);
    r->notified++;
    pthread_cond_broadcast(&r->wake);
    pthread_mutex_unlock(&r->mutex);
}

static void *reader_main(void *data)
{
    struct rig *r = data;

    pthread_mutex_lock(&r->mutex);
    while (!r->stopping) {
        struct journal_reader *work = r->work;
        if (work == NULL) {
            pthread_cond_wait(&r->wake, &r->mutex);
            continue;
        }
        r->work = NULL;
        pthread_mutex_unlock(&r->mutex);
        cr_assert(eq(int, journal_reader_run(work, NULL), 0));
        pthread_mutex_lock(&r->mutex);
        r->done = work;
        pthread_cond_broadcast(&r->wake);
    }
    pthread_mutex_unlock(&r->mutex);
    return NULL;
}

static void rig_init(struct rig *r)
{
    struct otr_errmsg msg;

    *r = (struct rig){.config = {.segment_bytes = 50000, .tail_bytes = 30000, .identity = "test/node-1"}};
    temp_dir_init(&r->dir);
    pthread_mutex_init(&r->mutex, NULL);
    pthread_cond_init(&r->wake, NULL);
    cr_assert(eq(int, file_posix_new(&r->config.fs, r->dir.path, &msg), 0));
    cr_assert(eq(int, journal_open(&r->j, &r->config, NULL, NULL, &msg), 0), "%s", msg.text);
    cr_assert(eq(int, flusher_start(&r->flusher, notify, r, &msg), 0));
    cr_assert(eq(int, pthread_create(&r->thread, NULL, reader_main, r), 0));
}

static void rig_close(struct rig *r)
{
    pthread_mutex_lock(&r->mutex);
    r->stopping = true;
    pthread_cond_broadcast(&r->wake);
    pthread_mutex_unlock(&r->mutex);
    pthread_join(r->thread, NULL);
    journal_close(r->j);
    file_posix_free(r->config.fs);
    temp_dir_close(&r->dir);
}

static void append(struct journal *j, uint64_t index)
{
    static const uint8_t body[2000];
    struct record_header h = {.shard = 1,
                              .epoch = 1,
                              .kind = RECORD_PUT,
                              .index = index,
                              .time_ms = index,
                              .body_bytes = (uint32_t)(index * 97 % 2000)};

    cr_assert(eq(int, journal_append(j, &h, body, NULL), 0));
}

/* Hands a reader of some earlier entries to the other thread. */
static void read_some(struct rig *r, uint64_t index)
{
    uint64_t first = 1 + index * 31 % index;
    struct journal_reader *reader = journal_reader_new(r->j);

    cr_assert(eq(int, journal_reader_entries(reader, 1, first, index, 20000), 0));
    pthread_mutex_lock(&r->mutex);
    r->work = reader;
    pthread_cond_broadcast(&r->wake);
    pthread_mutex_unlock(&r->mutex);
}

/* Looks at what the other thread read, waiting for it. */
static void check_read(struct rig *r)
{
    const struct journal_bytes *bytes;
    struct journal_reader *reader;
    struct record_header h;
    size_t at = 0;

    pthread_mutex_lock(&r->mutex);
    while (r->done == NULL) {
        pthread_cond_wait(&r->wake, &r->mutex);
    }
    reader = r->done;
    r->done = NULL;
    pthread_mutex_unlock(&r->mutex);
    bytes = journal_reader_result(reader);
    cr_assert(gt(sz, bytes->bytes, 0));
    for (; at < bytes->bytes; at += record_bytes(h.body_bytes)) {
        cr_assert(eq(int, record_read(bytes->data + at, bytes->bytes - at, &h), 0));
        cr_assert(eq(u64, h.index, h.time_ms));
    }
    cr_assert(eq(u64, h.index, bytes->last));
    journal_reader_free(reader);
}

/* Ends a flush that is done, and begins another one. */
static void pump(struct rig *r)
{
    struct journal_batch *batch = flusher_collect(r->flusher);

    if (batch != NULL) {
        cr_assert(eq(int, journal_flush_end(r->j, batch, NULL, NULL, NULL), 0));
    }
    batch = journal_flush_begin(r->j);
    if (batch != NULL) {
        flusher_submit(r->flusher, batch);
    }
}

static uint64_t durable(const struct rig *r)
{
    struct journal_shard_state state;

    (void)journal_shard(r->j, 1, &state);
    return state.durable_index;
}

Test(flusher, appends_flushes_and_reads_go_on_side_by_side)
{
    enum { ENTRIES = 3000 };
    struct rig r;

    rig_init(&r);
    for (uint64_t i = 1; i <= ENTRIES; i++) {
        append(r.j, i);
        if (i % 10 == 0) {
            pump(&r);
        }
        if (i % 50 == 0) {
            read_some(&r, i);
        }
        if (i % 50 == 49 && i > 50) {
            check_read(&r);
        }
    }
    check_read(&r);
    while (durable(&r) < ENTRIES) {
        unsigned before;
        pthread_mutex_lock(&r.mutex);
        before = r.notified;
        pthread_mutex_unlock(&r.mutex);
        pump(&r);
        pthread_mutex_lock(&r.mutex);
        while (r.notified == before && durable(&r) < ENTRIES) {
            pthread_cond_wait(&r.wake, &r.mutex);
        }
        pthread_mutex_unlock(&r.mutex);
    }
    cr_assert(flusher_stop(r.flusher) == NULL);
    journal_close(r.j);
    cr_assert(eq(int, journal_open(&r.j, &r.config, NULL, NULL, NULL), 0));
    cr_assert(eq(u64, durable(&r), ENTRIES));
    rig_close(&r);
}

/* What was submitted is finished before the flusher stops, and can still be ended. */
Test(flusher, stopping_finishes_what_was_submitted)
{
    struct journal_batch *batch;
    struct rig r;

    rig_init(&r);
    append(r.j, 1);
    flusher_submit(r.flusher, journal_flush_begin(r.j));
    batch = flusher_stop(r.flusher);
    cr_assert(batch != NULL);
    cr_assert(eq(int, journal_flush_end(r.j, batch, NULL, NULL, NULL), 0));
    cr_assert(eq(u64, durable(&r), 1));
    cr_assert(eq(u32, r.notified, 1));
    rig_close(&r);
}

/* Without memory or a thread there is no flusher, and the caller gets its signals as before. */
Test(flusher, one_that_cannot_start_says_so)
{
    struct otr_errmsg msg = {0};
    struct flusher *f = NULL;
    sigset_t blocked;

    fail_calls_at(FAIL_MEMORY, 1);
    cr_assert(eq(int, flusher_start(&f, notify, NULL, &msg), OTR_NOMEM));
    cr_assert(eq(str, msg.text, "start the flusher: out of memory"));
    fail_calls_one("pthread_create", 1, EAGAIN);
    cr_assert(eq(int, flusher_start(&f, notify, NULL, &msg), OTR_UNAVAIL));
    cr_assert(eq(str, msg.text, "start the flusher: Resource temporarily unavailable"));
    cr_assert(zero(ptr, f));
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    cr_assert(not(sigismember(&blocked, SIGTERM)));
    cr_assert(eq(int, flusher_start(&f, notify, NULL, &msg), 0));
    cr_assert(zero(ptr, flusher_stop(f)));
}
