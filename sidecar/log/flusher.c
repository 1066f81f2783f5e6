#include "sidecar/log/flusher.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

struct flusher {
    pthread_t thread;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t wake;
    struct journal_batch *submitted;
    struct journal_batch *done;
    bool running; /* a batch was taken and is not done */
    bool stopping;
    uint64_t took_ns; /* of `done`, or of the one collected last */
    void (*notify)(void *data);
    void *data;
};

static uint64_t clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void *flusher_main(void *arg)
{
    struct flusher *f = arg;

    pthread_mutex_lock(&f->mutex);
    for (;;) {
        struct journal_batch *batch;
        uint64_t start_ns;
        uint64_t took_ns;

        while (f->submitted == NULL && !f->stopping) {
            pthread_cond_wait(&f->wake, &f->mutex);
        }
        if (f->submitted == NULL) {
            break;
        }
        batch = f->submitted;
        f->submitted = NULL;
        f->running = true;
        pthread_mutex_unlock(&f->mutex);
        start_ns = clock_ns();
        journal_flush_run(batch);
        took_ns = clock_ns() - start_ns;
        pthread_mutex_lock(&f->mutex);
        f->running = false;
        f->took_ns = took_ns;
        f->done = batch;
        pthread_mutex_unlock(&f->mutex);
        f->notify(f->data);
        pthread_mutex_lock(&f->mutex);
    }
    pthread_mutex_unlock(&f->mutex);
    return NULL;
}

int flusher_start(struct flusher **out, void (*notify)(void *data), void *data, struct otr_errmsg *msg)
{
    struct flusher *f = calloc(1, sizeof *f);
    sigset_t all;
    sigset_t before;
    int err;

    if (f == NULL) {
        otr_errmsg_set(msg, "start the flusher: out of memory");
        return OTR_NOMEM;
    }
    f->notify = notify;
    f->data = data;
    pthread_mutex_init(&f->mutex, NULL);
    pthread_cond_init(&f->wake, NULL);
    sigfillset(&all); /* Signals are the loop thread's. */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    err = pthread_create(&f->thread, NULL, flusher_main, f);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err != 0) {
        otr_errmsg_set(msg, "start the flusher: %s", strerror(err));
        pthread_cond_destroy(&f->wake);
        pthread_mutex_destroy(&f->mutex);
        free(f);
        return OTR_UNAVAIL;
    }
    *out = f;
    return 0;
}

void flusher_submit(struct flusher *f, struct journal_batch *batch)
{
    pthread_mutex_lock(&f->mutex);
    assert(f->submitted == NULL && f->done == NULL && !f->running && !f->stopping);
    f->submitted = batch;
    pthread_cond_signal(&f->wake);
    pthread_mutex_unlock(&f->mutex);
}

struct journal_batch *flusher_collect(struct flusher *f)
{
    struct journal_batch *batch;

    pthread_mutex_lock(&f->mutex);
    batch = f->done;
    f->done = NULL;
    pthread_mutex_unlock(&f->mutex);
    return batch;
}

uint64_t flusher_took_ns(struct flusher *f)
{
    uint64_t took_ns;

    pthread_mutex_lock(&f->mutex);
    took_ns = f->took_ns;
    pthread_mutex_unlock(&f->mutex);
    return took_ns;
}

struct journal_batch *flusher_stop(struct flusher *f)
{
    struct journal_batch *batch;

    pthread_mutex_lock(&f->mutex);
    f->stopping = true;
    pthread_cond_signal(&f->wake);
    pthread_mutex_unlock(&f->mutex);
    pthread_join(f->thread, NULL);
    batch = f->done;
    pthread_cond_destroy(&f->wake);
    pthread_mutex_destroy(&f->mutex);
    free(f);
    return batch;
}
