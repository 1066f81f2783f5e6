#include "tests/lib/fake_engine.h"

#include "sidecar/core/score.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

enum { PROCESSES = 8, COLLECTIONS = 96, POINTS = 4096, TIMEOUT_MS = 10000 };

struct stored {
    char *id;
    uint32_t id_bytes;
    float *vector;
};

struct collection {
    char name[OTR_ENGINE_COLLECTION_MAX + 1];
    uint32_t dimension;
    enum otr_metric metric;
    struct stored *points;
    size_t count;
    bool damaged;
};

struct process {
    char url[32];
    bool up;
    bool frozen;
    bool held;     /* writes */
    unsigned let;  /* ... but for so many */
    unsigned life; /* of its data */
    unsigned boot;
    char
        damaged[OTR_ENGINE_COLLECTION_MAX + 1]; /* a collection of this name is damaged however often it is made anew */
    struct collection collections[COLLECTIONS];
    size_t count;
    struct engine *engine;
};

struct call {
    struct otr_engine_req *req;
    otr_engine_cb cb;
    otr_engine_search_cb search_cb;
    otr_engine_count_cb count_cb;
    int status;
    struct otr_engine_hit *hits;
    char *ids; /* what the hits point into */
    size_t hits_count;
    uint64_t count;
    uint64_t deadline_ms; /* of the loop's time */
    unsigned boot;        /* of the process that it was sent to */
    struct call *next;
};

struct engine {
    struct otr_engine base;
    struct otr_engine_config config;
    struct process *process;
    uv_timer_t timer;
    struct call *head, **tail;
    bool closing;
    bool told;
    struct otr_engine_status status; /* as told */
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

static void empty(struct collection *c)
{
    for (size_t k = 0; k < c->count; k++) {
        free(c->points[k].vector);
        free(c->points[k].id);
    }
    free(c->points);
}

static void forget(struct process *p)
{
    for (size_t i = 0; i < p->count; i++) {
        empty(&p->collections[i]);
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
        assert(c->count < POINTS);
        s = &c->points[c->count++];
        s->id = malloc(id_bytes);
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
            free(c->points[i].id);
            c->points[i] = c->points[--c->count];
            return;
        }
    }
}

static struct collection *add_collection(struct process *p, const char *name, uint32_t dimension,
                                         enum otr_metric metric)
{
    struct collection *c;

    assert(p->count < COLLECTIONS);
    c = &p->collections[p->count++];
    *c = (struct collection){
        .dimension = dimension, .metric = metric, .damaged = p->damaged[0] != '\0' && strcmp(p->damaged, name) == 0};
    c->points = calloc(POINTS, sizeof *c->points);
    snprintf(c->name, sizeof c->name, "%s", name);
    return c;
}

/* --- the loop ----------------------------------------------------------------------------------------------------- */

static void tell(struct engine *e)
{
    const struct process *p = e->process;
    struct otr_engine_status now = e->status; /* the ids stay as last seen while it is down */

    now.up = p->up && !p->frozen;
    now.evidently_dead = !p->up;
    if (now.up) {
        snprintf(now.data_id, sizeof now.data_id, "%s-%u", p->url, p->life);
        snprintf(now.boot_id, sizeof now.boot_id, "boot-%u", p->boot);
    }
    if (!e->told || memcmp(&now, &e->status, sizeof now) != 0) {
        e->told = true;
        e->status = now;
        if (e->config.on_status != NULL) {
            e->config.on_status(&e->base, &now, NULL, e->config.data);
        }
    }
}

static void answer(struct call *c, int status)
{
    struct otr_errmsg msg = {0};

    if (status != 0) {
        otr_errmsg_set(&msg, "fake engine: %s", otr_strerror(status));
    }
    if (c->search_cb != NULL) {
        c->search_cb(c->req, status, status == 0 ? c->hits : NULL, status == 0 ? c->hits_count : 0, &msg);
    } else if (c->count_cb != NULL) {
        c->count_cb(c->req, status, c->count, &msg);
    } else {
        c->cb(c->req, status, &msg);
    }
    free(c->hits);
    free(c->ids);
    free(c);
}

static bool is_held(struct process *p, const struct call *c)
{
    if (p->frozen) {
        return true;
    }
    if (!p->held || c->search_cb != NULL || c->count_cb != NULL) {
        return false;
    }
    if (p->let == 0) {
        return true;
    }
    p->let--;
    return false;
}

static void on_timer(uv_timer_t *timer)
{
    struct engine *e = timer->data;
    struct process *p = e->process;
    struct call *c = e->head;

    e->head = NULL;
    e->tail = &e->head;
    while (c != NULL) {
        struct call *next = c->next;

        if (p->up && p->boot == c->boot && uv_now(timer->loop) < c->deadline_ms && is_held(p, c)) {
            c->next = NULL;
            *e->tail = c;
            e->tail = &c->next;
        } else {
            answer(c, !p->up || p->boot != c->boot ? OTR_UNREACHABLE : p->frozen ? OTR_TIMEOUT : c->status);
        }
        c = next;
    }
    tell(e);
}

/* What a call is refused for at once. */
static int check_call(const struct engine *e, const char *name)
{
    size_t bytes = strlen(name);

    return e->closing ? OTR_CANCELED : bytes == 0 || bytes > OTR_ENGINE_COLLECTION_MAX ? OTR_INVALID : 0;
}

static struct call *add(struct engine *e, struct otr_engine_req *req)
{
    struct call *c = calloc(1, sizeof *c);

    c->req = req;
    c->boot = e->process->boot;
    c->status = e->process->up ? 0 : OTR_UNREACHABLE;
    c->deadline_ms =
        uv_now(e->timer.loop) + (e->config.request_timeout_ms != 0 ? e->config.request_timeout_ms : TIMEOUT_MS);
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
    struct engine *e = (struct engine *)base;
    const struct collection *have = find(e->process, name);
    int rv = check_call(e, name);
    struct call *c;

    (void)options;
    if (rv == 0 && (metric < OTR_METRIC_COSINE || metric > OTR_METRIC_MANHATTAN || dimension == 0)) {
        rv = OTR_INVALID;
    }
    if (rv != 0) {
        return rv;
    }
    c = add(e, req);
    c->cb = cb;
    if (c->status == 0 && have != NULL) {
        c->status = have->dimension == dimension && have->metric == metric ? 0 : OTR_EXISTS;
    } else if (c->status == 0) {
        add_collection(e->process, name, dimension, metric);
    }
    return 0;
}

static int fake_drop(struct otr_engine *base, struct otr_engine_req *req, const char *name, otr_engine_cb cb)
{
    struct engine *e = (struct engine *)base;
    struct process *p = e->process;
    struct collection *have = find(p, name);
    int rv = check_call(e, name);
    struct call *c;

    if (rv != 0) {
        return rv;
    }
    c = add(e, req);
    c->cb = cb;
    if (have != NULL && c->status == 0) {
        empty(have);
        *have = p->collections[--p->count];
    }
    return 0;
}

static bool is_finite(const struct otr_point *p)
{
    for (uint32_t i = 0; i < p->dimension; i++) {
        if (!isfinite(p->vector[i])) {
            return false;
        }
    }
    return true;
}

/* A batch is all or nothing. */
static int check_batch(const struct collection *c, const struct otr_point *points, size_t count, bool erase)
{
    if (c == NULL) {
        return OTR_NOTFOUND;
    }
    if (c->damaged) {
        return OTR_INVALID;
    }
    for (size_t i = 0; i < count && !erase; i++) {
        if (points[i].dimension != c->dimension || !is_finite(&points[i])) {
            return OTR_INVALID;
        }
    }
    return 0;
}

static int fake_write(struct otr_engine *base, struct otr_engine_req *req, const char *name,
                      const struct otr_point *points, size_t count, otr_engine_cb cb, bool erase)
{
    struct engine *e = (struct engine *)base;
    struct collection *have = find(e->process, name);
    int rv = check_call(e, name);
    struct call *c;

    for (size_t i = 0; i < count && rv == 0; i++) {
        if (points[i].id_bytes == 0 || points[i].id_bytes > OTR_POINT_ID_MAX ||
            (!erase && points[i].dimension != points[0].dimension)) {
            rv = OTR_INVALID;
        }
    }
    if (rv != 0) {
        return rv;
    }
    c = add(e, req);
    c->cb = cb;
    c->status = c->status == 0 ? check_batch(have, points, count, erase) : c->status;
    for (size_t i = 0; i < count && c->status == 0; i++) {
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

/* The hits with copies of their ids: the points may be gone when the answer leaves. */
static void find_hits(struct call *c, const struct collection *have, const float *vector, uint32_t k)
{
    size_t used = 0;

    c->hits = calloc(have->count + 1, sizeof *c->hits);
    for (size_t i = 0; i < have->count; i++) {
        c->hits[i] = (struct otr_engine_hit){
            .id = have->points[i].id,
            .id_bytes = have->points[i].id_bytes,
            .score = score_distance(have->metric, vector, have->points[i].vector, have->dimension)};
    }
    qsort(c->hits, have->count, sizeof *c->hits, by_score);
    c->hits_count = have->count < k ? have->count : k;
    c->ids = malloc(c->hits_count * OTR_POINT_ID_MAX + 1);
    for (size_t i = 0; i < c->hits_count; i++) {
        memcpy(c->ids + used, c->hits[i].id, c->hits[i].id_bytes);
        c->hits[i].id = c->ids + used;
        used += c->hits[i].id_bytes;
    }
}

static int fake_search(struct otr_engine *base, struct otr_engine_req *req, const char *name, const float *vector,
                       uint32_t dimension, uint32_t k, otr_engine_search_cb cb)
{
    struct engine *e = (struct engine *)base;
    const struct collection *have = find(e->process, name);
    int rv = k == 0 ? OTR_INVALID : check_call(e, name);
    struct call *c;

    if (rv != 0) {
        return rv;
    }
    c = add(e, req);
    c->search_cb = cb;
    if (c->status == 0) {
        c->status = have == NULL ? OTR_NOTFOUND : have->dimension != dimension ? OTR_INVALID : 0;
    }
    if (c->status == 0) {
        find_hits(c, have, vector, k);
    }
    return 0;
}

static int fake_count(struct otr_engine *base, struct otr_engine_req *req, const char *name, otr_engine_count_cb cb)
{
    struct engine *e = (struct engine *)base;
    const struct collection *have = find(e->process, name);
    int rv = check_call(e, name);
    struct call *c;

    if (rv != 0) {
        return rv;
    }
    c = add(e, req);
    c->count_cb = cb;
    c->status = c->status == 0 && have == NULL ? OTR_NOTFOUND : c->status;
    c->count = have != NULL ? have->count : 0;
    return 0;
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

    e->closing = true;
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

/* --- what tests do to it ------------------------------------------------------------------------------------------ */

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
    p->frozen = false;
    p->boot++;
}

void fake_engine_freeze(const char *url)
{
    process_of(url)->frozen = true;
}

void fake_engine_hold_writes(const char *url)
{
    process_of(url)->held = true;
    process_of(url)->let = 0;
}

void fake_engine_let_writes(const char *url, unsigned count)
{
    process_of(url)->let += count;
}

void fake_engine_thaw(const char *url)
{
    process_of(url)->frozen = false;
}

void fake_engine_damage(const char *url, const char *collection, bool also_anew)
{
    struct process *p = process_of(url);
    struct collection *c = find(p, collection);

    if (c != NULL) {
        c->damaged = true;
    }
    if (also_anew) {
        snprintf(p->damaged, sizeof p->damaged, "%s", collection);
    }
}

void fake_engine_mend(const char *url)
{
    struct process *p = process_of(url);

    p->damaged[0] = '\0';
    for (size_t i = 0; i < p->count; i++) {
        p->collections[i].damaged = false;
    }
}

size_t fake_engine_count(const char *url, const char *collection)
{
    const struct collection *c = find(process_of(url), collection);

    return c != NULL ? c->count : 0;
}

void fake_engine_lose(const char *url, const char *collection, const char *id)
{
    struct collection *c = find(process_of(url), collection);

    assert(c != NULL);
    take(c, id, (uint32_t)strlen(id));
}

void fake_engine_ghost(const char *url, const char *collection, const char *id, const float *vector, uint32_t dimension)
{
    struct collection *c = find(process_of(url), collection);

    assert(c != NULL && c->dimension == dimension);
    put(c, id, (uint32_t)strlen(id), vector);
}

void fake_engine_stranger(const char *url, const char *collection)
{
    add_collection(process_of(url), collection, 99, OTR_METRIC_DOT);
}

void fake_engine_reset(void)
{
    for (size_t i = 0; i < PROCESSES; i++) {
        forget(&processes[i]);
        processes[i] = (struct process){0};
    }
}

void fake_engine_drop(const char *url, const char *collection)
{
    struct process *p = process_of(url);
    struct collection *c = find(p, collection);

    assert(c != NULL);
    empty(c);
    *c = p->collections[--p->count];
}
