#include "fake_engine.h"

#include "sidecar/core/score.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

enum { PROCESSES = 8, COLLECTIONS = 96, POINTS = 4096, CALLS = 256 };

struct stored {
    char id[64];
    uint32_t id_bytes;
    float *vector;
};

struct collection {
    char name[OTR_ENGINE_COLLECTION_MAX];
    uint32_t dimension;
    enum otr_metric metric;
    struct stored *points;
    size_t count;
};

struct process {
    char url[32];
    bool up;
    unsigned life;
    struct collection collections[COLLECTIONS];
    size_t count;
    struct engine *engine;
};

struct call {
    struct otr_engine_req *req;
    otr_engine_cb cb;
    otr_engine_search_cb search_cb;
    int status;
    struct otr_engine_hit *hits;
    size_t hits_count;
    struct call *next;
};

struct engine {
    struct otr_engine base;
    struct otr_engine_config config;
    struct process *process;
    uv_timer_t timer;
    struct call *head, **tail;
    bool told, told_up;
    unsigned told_life;
    otr_engine_close_cb close_cb;
    void *close_data;
};

static struct process processes[PROCESSES];

static struct process *process_of(const char *url)
{
    for (size_t i = 0; i < PROCESSES; i++) {
        if (strcmp(processes[i].url, url) == 0) {
            return &processes[i];
        }
        if (processes[i].url[0] == '\0') {
            snprintf(processes[i].url, sizeof processes[i].url, "%s", url);
            processes[i].up = true;
            processes[i].life = 1;
            return &processes[i];
        }
    }
    abort();
}

static void forget(struct process *p)
{
    for (size_t i = 0; i < p->count; i++) {
        for (size_t k = 0; k < p->collections[i].count; k++) {
            free(p->collections[i].points[k].vector);
        }
        free(p->collections[i].points);
    }
    p->count = 0;
}

static struct collection *find(struct process *p, const char *name)
{
    for (size_t i = 0; i < p->count; i++) {
        if (strcmp(p->collections[i].name, name) == 0) {
            return &p->collections[i];
        }
    }
    return NULL;
}

static void put(struct collection *c, const char *id, uint32_t id_bytes, const float *vector)
{
    struct stored *s = NULL;

    for (size_t i = 0; i < c->count; i++) {
        if (c->points[i].id_bytes == id_bytes && memcmp(c->points[i].id, id, id_bytes) == 0) {
            s = &c->points[i];
        }
    }
    if (s == NULL) {
        assert(c->count < POINTS && id_bytes < sizeof s->id);
        s = &c->points[c->count++];
        memcpy(s->id, id, id_bytes);
        s->id_bytes = id_bytes;
        s->vector = malloc(c->dimension * sizeof(float));
    }
    memcpy(s->vector, vector, c->dimension * sizeof(float));
}

static void take(struct collection *c, const char *id, uint32_t id_bytes)
{
    for (size_t i = 0; i < c->count; i++) {
        if (c->points[i].id_bytes == id_bytes && memcmp(c->points[i].id, id, id_bytes) == 0) {
            free(c->points[i].vector);
            c->points[i] = c->points[--c->count];
            return;
        }
    }
}

/* --- the loop -------------------------------------------------------------------------------------------------------
 */

static void tell(struct engine *e)
{
    struct otr_engine_status status = {.up = e->process->up, .evidently_dead = !e->process->up};

    if (e->told && e->told_up == e->process->up && e->told_life == e->process->life) {
        return;
    }
    e->told = true;
    e->told_up = e->process->up;
    e->told_life = e->process->life;
    snprintf(status.data_id, sizeof status.data_id, "%s-%u", e->process->url, e->process->life);
    snprintf(status.boot_id, sizeof status.boot_id, "boot");
    e->config.on_status(&e->base, &status, NULL, e->config.data);
}

static void answer(struct call *c, int status)
{
    if (c->search_cb != NULL) {
        c->search_cb(c->req, status, status == 0 ? c->hits : NULL, status == 0 ? c->hits_count : 0, NULL);
    } else {
        c->cb(c->req, status, NULL);
    }
    free(c->hits);
    free(c);
}

static void on_timer(uv_timer_t *timer)
{
    struct engine *e = timer->data;
    struct call *c = e->head;

    e->head = NULL;
    e->tail = &e->head;
    while (c != NULL) {
        struct call *next = c->next;
        answer(c, e->process->up ? c->status : OTR_UNREACHABLE);
        c = next;
    }
    tell(e);
}

static struct call *add(struct otr_engine *base, struct otr_engine_req *req)
{
    struct engine *e = (struct engine *)base;
    struct call *c = calloc(1, sizeof *c);

    c->req = req;
    *e->tail = c;
    e->tail = &c->next;
    return c;
}

static int fake_open(struct otr_engine **out, const struct otr_engine_config *config, struct otr_errmsg *msg)
{
    struct engine *e = calloc(1, sizeof *e);

    (void)msg;
    e->base.ops = &otr_engine_fake;
    e->config = *config;
    e->process = process_of(config->url);
    e->tail = &e->head;
    uv_timer_init(config->loop, &e->timer);
    e->timer.data = e;
    uv_timer_start(&e->timer, on_timer, 1, 1);
    *out = &e->base;
    return 0;
}

static void fake_caps(const struct otr_engine *base, struct otr_engine_caps *caps)
{
    (void)base;
    *caps = (struct otr_engine_caps){.metrics = 0x1e, .exact = true};
}

static int fake_make(struct otr_engine *base, struct otr_engine_req *req, const char *name, uint32_t dimension,
                     enum otr_metric metric, const char *options, otr_engine_cb cb)
{
    struct process *p = ((struct engine *)base)->process;
    struct call *c = add(base, req);
    struct collection *have = find(p, name);

    (void)options;
    c->cb = cb;
    if (have != NULL) {
        c->status = have->dimension == dimension && have->metric == metric ? 0 : OTR_EXISTS;
    } else if (p->up) {
        struct collection *made = &p->collections[p->count++];
        *made = (struct collection){.dimension = dimension, .metric = metric};
        made->points = calloc(POINTS, sizeof *made->points);
        snprintf(made->name, sizeof made->name, "%s", name);
    }
    return 0;
}

static int fake_drop(struct otr_engine *base, struct otr_engine_req *req, const char *name, otr_engine_cb cb)
{
    struct process *p = ((struct engine *)base)->process;
    struct collection *have = find(p, name);

    add(base, req)->cb = cb;
    if (have != NULL && p->up) {
        for (size_t k = 0; k < have->count; k++) {
            free(have->points[k].vector);
        }
        free(have->points);
        *have = p->collections[--p->count];
    }
    return 0;
}

static int fake_write(struct otr_engine *base, struct otr_engine_req *req, const char *name,
                      const struct otr_point *points, size_t count, otr_engine_cb cb, bool erase)
{
    struct process *p = ((struct engine *)base)->process;
    struct call *c = add(base, req);
    struct collection *have = find(p, name);

    c->cb = cb;
    c->status = have == NULL ? OTR_NOTFOUND : 0;
    for (size_t i = 0; i < count && have != NULL && p->up; i++) {
        if (erase) {
            take(have, points[i].id, points[i].id_bytes);
        } else {
            put(have, points[i].id, points[i].id_bytes, points[i].vector);
        }
    }
    return 0;
}

static int fake_upsert(struct otr_engine *base, struct otr_engine_req *req, const char *name,
                       const struct otr_point *points, size_t count, otr_engine_cb cb)
{
    return fake_write(base, req, name, points, count, cb, false);
}

static int fake_erase(struct otr_engine *base, struct otr_engine_req *req, const char *name,
                      const struct otr_point *points, size_t count, otr_engine_cb cb)
{
    return fake_write(base, req, name, points, count, cb, true);
}

static int by_score(const void *a, const void *b)
{
    const struct otr_engine_hit *x = a, *y = b;

    return x->score < y->score ? -1 : x->score > y->score;
}

static int fake_search(struct otr_engine *base, struct otr_engine_req *req, const char *name, const float *vector,
                       uint32_t dimension, uint32_t k, otr_engine_search_cb cb)
{
    struct process *p = ((struct engine *)base)->process;
    struct call *c = add(base, req);
    struct collection *have = find(p, name);

    c->search_cb = cb;
    c->status = have == NULL ? OTR_NOTFOUND : 0;
    if (have != NULL) {
        c->hits = calloc(have->count + 1, sizeof *c->hits);
        for (size_t i = 0; i < have->count; i++) {
            c->hits[i] = (struct otr_engine_hit){
                .id = have->points[i].id,
                .id_bytes = have->points[i].id_bytes,
                .score = score_distance(have->metric, vector, have->points[i].vector, dimension)};
        }
        qsort(c->hits, have->count, sizeof *c->hits, by_score);
        c->hits_count = have->count < k ? have->count : k;
    }
    return 0;
}

static int fake_count(struct otr_engine *base, struct otr_engine_req *req, const char *name, otr_engine_count_cb cb)
{
    (void)base;
    (void)req;
    (void)name;
    (void)cb;
    return OTR_UNSUPPORTED;
}

static void on_closed(uv_handle_t *handle)
{
    struct engine *e = handle->data;
    struct call *c = e->head;

    while (c != NULL) {
        struct call *next = c->next;
        answer(c, OTR_CANCELED);
        c = next;
    }
    e->close_cb(&e->base, e->close_data);
    free(e);
}

static void fake_close(struct otr_engine *base, otr_engine_close_cb cb, void *data)
{
    struct engine *e = (struct engine *)base;

    e->close_cb = cb;
    e->close_data = data;
    uv_close((uv_handle_t *)&e->timer, on_closed);
}

const struct otr_engine_ops otr_engine_fake = {
    .name = "fake",
    .open = fake_open,
    .caps = fake_caps,
    .collection_make = fake_make,
    .collection_drop = fake_drop,
    .upsert = fake_upsert,
    .erase = fake_erase,
    .search = fake_search,
    .count = fake_count,
    .close = fake_close,
};

/* --- what tests do to it
 * ---------------------------------------------------------------------------------------------- */

void fake_engine_down(const char *url)
{
    process_of(url)->up = false;
}

void fake_engine_up(const char *url, bool keep_data)
{
    struct process *p = process_of(url);

    if (!keep_data) {
        forget(p);
        p->life++;
    }
    p->up = true;
}

size_t fake_engine_count(const char *url, const char *collection)
{
    const struct collection *c = find(process_of(url), collection);

    return c != NULL ? c->count : 0;
}

void fake_engine_ghost(const char *url, const char *collection, const char *id, const float *vector, uint32_t dimension)
{
    struct collection *c = find(process_of(url), collection);

    assert(c != NULL && c->dimension == dimension);
    put(c, id, (uint32_t)strlen(id), vector);
}

void fake_engine_reset(void)
{
    for (size_t i = 0; i < PROCESSES; i++) {
        forget(&processes[i]);
        processes[i] = (struct process){0};
    }
}

void fake_engine_stranger(const char *url, const char *collection)
{
    struct process *p = process_of(url);
    struct collection *c = &p->collections[p->count++];

    *c = (struct collection){.dimension = 99, .metric = OTR_METRIC_DOT};
    c->points = calloc(POINTS, sizeof *c->points);
    snprintf(c->name, sizeof c->name, "%s", collection);
}
