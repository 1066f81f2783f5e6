#include "tests/unit/ruvector/fixture.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int http_get(const struct ruvector_server *s, const char *path, char *answer, size_t answer_bytes)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)s->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    size_t used = 0;
    ssize_t got;

    cr_assert(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    dprintf(fd, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
    while (used + 1 < answer_bytes && (got = read(fd, answer + used, answer_bytes - used - 1)) > 0) {
        used += (size_t)got;
    }
    answer[used] = '\0';
    close(fd);
    return used > 12 ? atoi(answer + 9) : 0;
}

/* --- the driver
 * ------------------------------------------------------------------------------------------------------- */

static void on_status(struct otr_engine *engine, const struct otr_engine_status *status, const struct otr_errmsg *msg,
                      void *data)
{
    struct fixture *f = data;

    (void)engine;
    cr_assert_lt(f->statuses_count, STATUSES_MAX);
    f->statuses[f->statuses_count++] = *status;
    f->status_msg = *msg;
}

static void on_closed(struct otr_engine *engine, void *data)
{
    struct fixture *f = data;

    (void)engine;
    f->closed = true;
}

void fixture_open_url(struct fixture *f, const char *url, const char *options)
{
    struct otr_errmsg msg = {0};

    cr_assert(uv_loop_init(&f->loop) == 0);
    f->loop.data = f;
    cr_assert(otr_engine_ruvector.open(&f->engine,
                                       &(struct otr_engine_config){
                                           .loop = &f->loop,
                                           .url = url,
                                           .options = options,
                                           .on_status = on_status,
                                           .data = f,
                                       },
                                       &msg) == 0,
              "%s", msg.text);
}

void fixture_open(struct fixture *f)
{
    char url[64];

    ruvector_server_dir(&f->server);
    ruvector_server_start(&f->server, 0);
    snprintf(url, sizeof url, "http://127.0.0.1:%d", f->server.port);
    fixture_open_url(f, url, NULL);
    await_up(f);
}

void fixture_close(struct fixture *f)
{
    if (!f->closed) {
        otr_engine_ruvector.close(f->engine, on_closed, f);
        await(f, &f->closed);
    }
    uv_run(&f->loop, UV_RUN_DEFAULT);
    cr_assert(uv_loop_close(&f->loop) == 0, "the driver left handles open");
    if (f->server.pid != 0) {
        ruvector_server_kill(&f->server);
    }
    if (f->server.dir[0] != '\0') {
        ruvector_server_dir_empty(&f->server);
        rmdir(f->server.dir);
    }
}

static void on_late(uv_timer_t *timer)
{
    *(bool *)timer->data = true;
}

/* Runs the loop until done(f, arg). */
static void await_until(struct fixture *f, bool (*done)(const struct fixture *f, const void *arg), const void *arg)
{
    uv_timer_t guard;
    bool late = false;

    uv_timer_init(&f->loop, &guard);
    guard.data = &late;
    uv_timer_start(&guard, on_late, AWAIT_MS, 0);
    while (!done(f, arg)) {
        cr_assert(!late, "what was awaited did not happen");
        uv_run(&f->loop, UV_RUN_ONCE);
    }
    uv_close((uv_handle_t *)&guard, NULL);
    uv_run(&f->loop, UV_RUN_NOWAIT);
}

static bool flag_is_set(const struct fixture *f, const void *flag)
{
    (void)f;
    return *(const bool *)flag;
}

void await(struct fixture *f, const bool *flag)
{
    await_until(f, flag_is_set, flag);
}

const struct otr_engine_status *last_status(const struct fixture *f)
{
    cr_assert_gt(f->statuses_count, 0);
    return &f->statuses[f->statuses_count - 1];
}

static bool is_up(const struct fixture *f, const void *arg)
{
    (void)arg;
    return f->statuses_count > 0 && last_status(f)->up;
}

static bool is_dead(const struct fixture *f, const void *arg)
{
    (void)arg;
    return f->statuses_count > 0 && !last_status(f)->up && last_status(f)->evidently_dead;
}

void await_up(struct fixture *f)
{
    await_until(f, is_up, NULL);
}

void await_dead(struct fixture *f)
{
    await_until(f, is_dead, NULL);
}

/* --- calls
 * ------------------------------------------------------------------------------------------------------------ */

struct otr_engine_req *result_begin(struct fixture *f, struct result *r)
{
    memset(r, 0, sizeof *r);
    r->req.data = f;
    return &r->req;
}

static struct result *result_end(struct otr_engine_req *req, int status, const struct otr_errmsg *msg)
{
    struct result *r = (struct result *)req;
    struct fixture *f = req->data;

    cr_assert(!r->done, "a callback fired twice");
    r->done = true;
    r->status = status;
    r->order = ++f->callbacks;
    if (msg != NULL) {
        r->msg = *msg;
    }
    return r;
}

void result_cb(struct otr_engine_req *req, int status, const struct otr_errmsg *msg)
{
    result_end(req, status, msg);
}

void result_search_cb(struct otr_engine_req *req, int status, const struct otr_engine_hit *hits, size_t hits_count,
                      const struct otr_errmsg *msg)
{
    struct result *r = result_end(req, status, msg);

    cr_assert_leq(hits_count, HITS_MAX);
    r->hits_count = hits_count;
    for (size_t i = 0; i < hits_count; i++) {
        memcpy(r->ids[i], hits[i].id, hits[i].id_bytes);
        r->scores[i] = hits[i].score;
    }
}

void result_count_cb(struct otr_engine_req *req, int status, uint64_t points_count, const struct otr_errmsg *msg)
{
    result_end(req, status, msg)->count = points_count;
}

static struct result spare;

/* Waits for a call that was begun on r with `rv`. */
static int finish(struct fixture *f, struct result *r, int rv)
{
    if (rv != 0) {
        return rv;
    }
    await(f, &r->done);
    return r->status;
}

int make(struct fixture *f, const char *name, uint32_t dimension, enum otr_metric metric)
{
    return finish(f, &spare,
                  otr_engine_ruvector.collection_make(f->engine, result_begin(f, &spare), name, dimension, metric, NULL,
                                                      result_cb));
}

int drop(struct fixture *f, const char *name)
{
    return finish(f, &spare, otr_engine_ruvector.collection_drop(f->engine, result_begin(f, &spare), name, result_cb));
}

int upsert(struct fixture *f, const char *name, const struct otr_point *points, size_t points_count, struct result *r)
{
    r = r != NULL ? r : &spare;
    return finish(f, r,
                  otr_engine_ruvector.upsert(f->engine, result_begin(f, r), name, points, points_count, result_cb));
}

int erase(struct fixture *f, const char *name, const struct otr_point *points, size_t points_count, struct result *r)
{
    r = r != NULL ? r : &spare;
    return finish(f, r,
                  otr_engine_ruvector.erase(f->engine, result_begin(f, r), name, points, points_count, result_cb));
}

int search(struct fixture *f, const char *name, const float *vector, uint32_t dimension, uint32_t k, struct result *r)
{
    return finish(
        f, r, otr_engine_ruvector.search(f->engine, result_begin(f, r), name, vector, dimension, k, result_search_cb));
}

uint64_t count(struct fixture *f, const char *name)
{
    int rv = finish(f, &spare, otr_engine_ruvector.count(f->engine, result_begin(f, &spare), name, result_count_cb));

    cr_assert(rv == 0, "count of %s: %s", name, spare.msg.text);
    return spare.count;
}

struct otr_point point(const char *id, const float *vector, uint32_t dimension, const char *metadata)
{
    return (struct otr_point){
        .id = id,
        .id_bytes = (uint32_t)strlen(id),
        .dimension = dimension,
        .vector = vector,
        .metadata = metadata,
        .metadata_bytes = metadata != NULL ? (uint32_t)strlen(metadata) : 0,
    };
}
