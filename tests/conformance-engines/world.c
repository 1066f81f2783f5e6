#include "tests/conformance-engines/world.h"

#include <stdlib.h>

enum { TICK_MS = 5 };

static void on_status(struct otr_engine *engine, const struct otr_engine_status *status, const struct otr_errmsg *msg,
                      void *data)
{
    struct world *w = data;

    (void)msg;
    cr_assert(!w->in_call, "a status was reported from inside a call");
    cr_assert(!w->closed && (w->e == NULL || w->e == engine));
    cr_assert_lt(w->statuses_count, STATUSES_MAX);
    if (w->statuses_count > 0) {
        cr_assert(memcmp(last_status(w), status, sizeof *status) != 0, "nothing changed, yet it was reported");
    }
    w->statuses[w->statuses_count++] = *status;
}

static void on_closed(struct otr_engine *engine, void *data)
{
    struct world *w = data;

    cr_assert(!w->in_call && !w->closed && engine == w->e);
    w->closed = true;
}

/* Keeps the loop turning while something is awaited that no handle announces. */
static void on_tick(uv_timer_t *ticker)
{
    (void)ticker;
}

void world_open(struct world *w)
{
    struct otr_errmsg msg = {0};
    struct otr_engine_config config = {.loop = &w->loop,
                                       .url = w->url,
                                       .request_timeout_ms = TIMEOUT_MS,
                                       .options = w->driver->options,
                                       .on_status = on_status,
                                       .data = w};

    w->closed = false;
    w->statuses_count = 0;
    w->in_call = true;
    cr_assert(w->ops->open(&w->e, &config, &msg) == 0, "%s", msg.text);
    w->in_call = false;
    w->ops->caps(w->e, &w->caps);
}

void world_close_engine(struct world *w)
{
    w->in_call = true;
    w->ops->close(w->e, on_closed, w);
    w->in_call = false;
    AWAIT(w, w->closed);
    w->e = NULL;
}

void world_run(const struct world_driver *driver, void (*body)(struct world *w))
{
    struct world *w = calloc(1, sizeof *w);

    w->driver = driver;
    w->ops = driver->ops;
    cr_assert(uv_loop_init(&w->loop) == 0);
    uv_timer_init(&w->loop, &w->ticker);
    uv_timer_start(&w->ticker, on_tick, TICK_MS, TICK_MS);
    driver->init(w);
    driver->start(w);
    world_open(w);
    AWAIT(w, is_up(w));
    body(w);
    if (w->e != NULL) {
        world_close_engine(w);
    }
    driver->close(w);
    uv_close((uv_handle_t *)&w->ticker, NULL);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    cr_assert(uv_loop_close(&w->loop) == 0, "the driver left handles open");
    free(w);
}

void world_pass(struct world *w, unsigned ms)
{
    uint64_t end = uv_hrtime() + (uint64_t)ms * 1000000;

    while (uv_hrtime() < end) {
        uv_run(&w->loop, UV_RUN_ONCE);
    }
}

const struct otr_engine_status *last_status(const struct world *w)
{
    cr_assert_gt(w->statuses_count, 0);
    return &w->statuses[w->statuses_count - 1];
}

bool is_up(const struct world *w)
{
    return w->statuses_count > 0 && last_status(w)->up;
}

bool is_dead(const struct world *w)
{
    return w->statuses_count > 0 && !last_status(w)->up && last_status(w)->evidently_dead;
}

/* --- calls -------------------------------------------------------------------------------------------------------- */

static struct result *ended(struct otr_engine_req *req, int status, const struct otr_errmsg *msg)
{
    struct result *r = req->data;

    cr_assert(!r->w->in_call, "a callback fired from inside a call");
    cr_assert(!r->w->closed, "a callback fired after close");
    cr_assert_eq(r->calls_count, 0, "a callback fired twice");
    cr_assert(status == 0 || status == OTR_UNREACHABLE || status == OTR_TIMEOUT || status == OTR_NOTFOUND ||
                  status == OTR_INVALID || status == OTR_CANCELED || status == OTR_EXISTS,
              "status %s", otr_errname(status));
    cr_assert(status == 0 || (msg != NULL && msg->text[0] != '\0'), "%s without words", otr_errname(status));
    r->calls_count = 1;
    r->status = status;
    snprintf(r->text, sizeof r->text, "%s", msg != NULL ? msg->text : "");
    return r;
}

static void on_done(struct otr_engine_req *req, int status, const struct otr_errmsg *msg)
{
    ended(req, status, msg);
}

static void on_search(struct otr_engine_req *req, int status, const struct otr_engine_hit *hits, size_t hits_count,
                      const struct otr_errmsg *msg)
{
    struct result *r = ended(req, status, msg);

    cr_assert(status == 0 || hits_count == 0, "a failed search has no hits");
    cr_assert_leq(hits_count, HITS_MAX);
    r->hits_count = hits_count;
    for (size_t i = 0; i < hits_count; i++) {
        cr_assert_leq(hits[i].id_bytes, OTR_POINT_ID_MAX);
        memcpy(r->ids[i], hits[i].id, hits[i].id_bytes);
        r->scores[i] = hits[i].score;
        cr_assert(i == 0 || r->w->lies || r->scores[i - 1] <= r->scores[i], "the best come first");
    }
}

static void on_count(struct otr_engine_req *req, int status, uint64_t points, const struct otr_errmsg *msg)
{
    ended(req, status, msg)->count = points;
}

static struct result spare;

static struct otr_engine_req *begin(struct world *w, struct result *r)
{
    memset(r, 0, sizeof *r);
    r->w = w;
    r->req.data = r;
    w->in_call = true;
    return &r->req;
}

static int begun(struct world *w, int rv)
{
    w->in_call = false;
    return rv;
}

int start_make(struct world *w, struct result *r, const char *name, uint32_t dimension, enum otr_metric metric)
{
    return begun(w, w->ops->collection_make(w->e, begin(w, r), name, dimension, metric, NULL, on_done));
}

int start_drop(struct world *w, struct result *r, const char *name)
{
    return begun(w, w->ops->collection_drop(w->e, begin(w, r), name, on_done));
}

/* Everything that is passed in is copied before the call returns: so it is overwritten right afterwards. */
static int start_write(struct world *w, struct result *r, const char *name, const struct otr_point *points,
                       size_t points_count, bool put)
{
    struct otr_point *copies = calloc(points_count + 1, sizeof *copies);
    char lent_name[256];
    int rv;

    snprintf(lent_name, sizeof lent_name, "%s", name);
    for (size_t i = 0; i < points_count; i++) {
        char *id = malloc(points[i].id_bytes + 1);
        float *vector = malloc(points[i].dimension * sizeof(float) + 1);

        copies[i] = points[i];
        memcpy(id, points[i].id, points[i].id_bytes);
        if (points[i].vector != NULL) {
            memcpy(vector, points[i].vector, points[i].dimension * sizeof(float));
        }
        copies[i].id = id;
        copies[i].vector = vector;
    }
    rv = put ? w->ops->upsert(w->e, begin(w, r), lent_name, copies, points_count, on_done)
             : w->ops->erase(w->e, begin(w, r), lent_name, copies, points_count, on_done);
    for (size_t i = 0; i < points_count; i++) {
        memset((char *)copies[i].id, 'x', copies[i].id_bytes);
        memset((float *)copies[i].vector, 'x', copies[i].dimension * sizeof(float));
        free((char *)copies[i].id);
        free((float *)copies[i].vector);
    }
    memset(lent_name, 'x', sizeof lent_name);
    free(copies);
    return begun(w, rv);
}

int start_upsert(struct world *w, struct result *r, const char *name, const struct otr_point *points,
                 size_t points_count)
{
    return start_write(w, r, name, points, points_count, true);
}

int start_erase(struct world *w, struct result *r, const char *name, const struct otr_point *points,
                size_t points_count)
{
    return start_write(w, r, name, points, points_count, false);
}

int start_search(struct world *w, struct result *r, const char *name, const float *vector, uint32_t dimension,
                 uint32_t k)
{
    return begun(w, w->ops->search(w->e, begin(w, r), name, vector, dimension, k, on_search));
}

int start_count(struct world *w, struct result *r, const char *name)
{
    return begun(w, w->ops->count(w->e, begin(w, r), name, on_count));
}

static int finish(struct world *w, struct result *r, int rv)
{
    if (rv == 0) {
        AWAIT(w, r->calls_count == 1);
        rv = r->status;
    }
    return rv;
}

int make(struct world *w, const char *name, uint32_t dimension, enum otr_metric metric)
{
    return finish(w, &spare, start_make(w, &spare, name, dimension, metric));
}

int drop(struct world *w, const char *name)
{
    return finish(w, &spare, start_drop(w, &spare, name));
}

int upsert(struct world *w, const char *name, const struct otr_point *points, size_t points_count, struct result *r)
{
    r = r != NULL ? r : &spare;
    return finish(w, r, start_upsert(w, r, name, points, points_count));
}

int erase(struct world *w, const char *name, const struct otr_point *points, size_t points_count, struct result *r)
{
    r = r != NULL ? r : &spare;
    return finish(w, r, start_erase(w, r, name, points, points_count));
}

int search(struct world *w, const char *name, const float *vector, uint32_t dimension, uint32_t k, struct result *r)
{
    return finish(w, r, start_search(w, r, name, vector, dimension, k));
}

uint64_t count(struct world *w, const char *name)
{
    int rv = finish(w, &spare, start_count(w, &spare, name));

    cr_assert(rv == 0, "count of %s: %s", name, spare.text);
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
