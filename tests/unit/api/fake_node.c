#include "tests/unit/api/fake_node.h"

#include "sidecar/core/score.h"
#include "sidecar/io/clock.h"
#include "sidecar/node/node_metrics.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { PLANS_MAX = 64, STORE_MAX = 200000, REQUESTS_MAX = 4096, HUNG_MAX = 64 };

struct node {
    struct fake_world *w;
    unsigned number;
};

struct peer_link {
    struct fake_world *w;
    unsigned number;
    unsigned from;
    bool up;
};

struct plan {
    unsigned number;
    otr_shard shard;
    enum fake_fate fate;
    int status;
};

struct stored {
    uint64_t collection;
    otr_shard shard;
    struct otr_point point;
};

struct seen_request {
    otr_shard shard;
    struct otr_request_id id;
    uint32_t outcome;
    struct otr_position position;
};

/* Something to be called from the loop. */
struct job {
    struct job *next;
    void (*run)(struct job *j);
};

struct fake_world {
    uv_loop_t *loop;
    uv_idle_t idle;
    struct job *jobs, **jobs_tail;
    struct topology *topology;
    struct node nodes[FAKE_NODES + 1];
    struct peer_link links[FAKE_NODES + 1][FAKE_NODES + 1];
    unsigned primary[FAKE_SHARDS];
    uint64_t index[FAKE_SHARDS];
    struct node_wait *waits;
    struct plan plans[PLANS_MAX];
    unsigned plans_count;
    struct plan always[PLANS_MAX];
    unsigned always_count;
    int link_plan[FAKE_NODES + 1];
    struct job *hung[HUNG_MAX];
    unsigned hung_count;
    int coordinator;
    bool ready;
    struct otr_position after[FAKE_SHARDS];
    char filter[256];
    double threshold;
    unsigned writes, gets, searches, calls[FAKE_NODES + 1], entries;
    struct stored *store;
    size_t store_count;
    struct seen_request *requests;
    size_t requests_count;
    struct admission admission; /* of nothing: the fake plans its refusals */
};

/* --- the loop ----------------------------------------------------------------------------------------------------- */

static void on_idle(uv_idle_t *idle)
{
    struct fake_world *w = idle->data;
    struct job *jobs = w->jobs;

    w->jobs = NULL;
    w->jobs_tail = &w->jobs;
    uv_idle_stop(idle);
    while (jobs != NULL) {
        struct job *next = jobs->next;
        jobs->run(jobs);
        jobs = next;
    }
}

static void later(struct fake_world *w, struct job *j)
{
    j->next = NULL;
    *w->jobs_tail = j;
    w->jobs_tail = &j->next;
    uv_idle_start(&w->idle, on_idle);
}

/* --- the world ---------------------------------------------------------------------------------------------------- */

static void set_shard(struct fake_world *w, otr_shard shard)
{
    struct descriptor d = {.shard = shard,
                           .hash_first = shard << 30,
                           .hash_last = (shard << 30) + 0x3FFFFFFF,
                           .generation = 1,
                           .version = 1,
                           .epoch = 7,
                           .primary = w->primary[shard],
                           .in_sync_count = FAKE_NODES,
                           .replicas_count = FAKE_NODES,
                           .mode = REPLICA_SYNC,
                           .min_in_sync = 2};

    for (unsigned i = 0; i < FAKE_NODES; i++) {
        d.in_sync[i] = (struct member){.node = i + 1, .log_id = 1};
        d.replicas[i] = i + 1;
    }
    assert(topology_shard_set(w->topology, &d, 1) == 0);
}

struct fake_world *fake_world_new(uv_loop_t *loop)
{
    struct fake_world *w = calloc(1, sizeof *w);
    struct topology_collection c = {.name = "c", .id = 77, .dimension = 3, .metric = OTR_METRIC_COSINE};

    assert(w != NULL);
    w->loop = loop;
    w->jobs_tail = &w->jobs;
    uv_idle_init(loop, &w->idle);
    w->idle.data = w;
    w->topology = topology_new();
    w->store = calloc(STORE_MAX, sizeof *w->store);
    w->requests = calloc(REQUESTS_MAX, sizeof *w->requests);
    w->ready = true;
    assert(w->topology != NULL && w->store != NULL && w->requests != NULL);
    for (unsigned i = 1; i <= FAKE_NODES; i++) {
        char name[16];

        snprintf(name, sizeof name, "node-%u", i);
        assert(topology_intern(w->topology, name) == i);
        w->nodes[i] = (struct node){.w = w, .number = i};
        topology_node(w->topology, i)->registered = true;
        topology_node(w->topology, i)->live = true;
        for (unsigned from = 1; from <= FAKE_NODES; from++) {
            w->links[from][i] = (struct peer_link){.w = w, .number = i, .from = from, .up = true};
        }
    }
    for (otr_shard s = 0; s < FAKE_SHARDS; s++) {
        w->primary[s] = s % FAKE_NODES + 1;
        set_shard(w, s);
    }
    assert(topology_collection_set(w->topology, &c) == 0);
    return w;
}

static void on_idle_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void fake_world_free(struct fake_world *w)
{
    assert(w->jobs == NULL);
    for (size_t i = 0; i < w->store_count; i++) {
        free((void *)(uintptr_t)w->store[i].point.id);
    }
    free(w->store);
    free(w->requests);
    topology_free(w->topology);
    uv_close((uv_handle_t *)&w->idle, on_idle_closed);
}

struct node *fake_node(struct fake_world *w, unsigned number)
{
    return &w->nodes[number];
}

void fake_primary(struct fake_world *w, otr_shard shard, unsigned number)
{
    w->primary[shard] = number;
}

struct change_job {
    struct job job;
    struct node_wait *wait;
};

void fake_change(struct fake_world *w)
{
    struct node_wait *waits = w->waits;

    w->waits = NULL;
    while (waits != NULL) {
        struct node_wait *next = waits->next;
        waits->link = NULL;
        waits->cb(waits);
        waits = next;
    }
}

void fake_shard_known(struct fake_world *w, otr_shard shard, bool known)
{
    if (known) {
        set_shard(w, shard);
    } else {
        topology_shard_forget(w->topology, shard);
    }
}

void fake_link_up(struct fake_world *w, unsigned number, bool up)
{
    for (unsigned from = 1; from <= FAKE_NODES; from++) {
        w->links[from][number].up = up;
    }
}

void fake_plan(struct fake_world *w, unsigned number, otr_shard shard, enum fake_fate fate, int status)
{
    assert(w->plans_count < PLANS_MAX);
    w->plans[w->plans_count++] = (struct plan){number, shard, fate, status};
}

void fake_plan_always(struct fake_world *w, unsigned number, otr_shard shard, enum fake_fate fate, int status)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < w->always_count; i++) {
        if (w->always[i].number != number || w->always[i].shard != shard) {
            w->always[kept++] = w->always[i];
        }
    }
    w->always_count = kept;
    if (fate != 0) {
        w->always[w->always_count++] = (struct plan){number, shard, fate, status};
    }
}

static struct plan take_plan(struct fake_world *w, unsigned number, otr_shard shard)
{
    struct plan none = {0};

    for (unsigned i = 0; i < w->plans_count; i++) {
        if (w->plans[i].number == number && w->plans[i].shard == shard) {
            struct plan p = w->plans[i];
            memmove(&w->plans[i], &w->plans[i + 1], (w->plans_count - i - 1) * sizeof p);
            w->plans_count--;
            return p;
        }
    }
    for (unsigned i = 0; i < w->always_count; i++) {
        if (w->always[i].number == number && w->always[i].shard == shard) {
            return w->always[i];
        }
    }
    return none;
}

void fake_plan_link(struct fake_world *w, unsigned number, int status)
{
    w->link_plan[number] = status;
}

void fake_coordinator(struct fake_world *w, int status)
{
    w->coordinator = status;
}

void fake_ready(struct fake_world *w, bool ready)
{
    w->ready = ready;
}

unsigned fake_writes(const struct fake_world *w)
{
    return w->writes;
}

unsigned fake_gets(const struct fake_world *w)
{
    return w->gets;
}

unsigned fake_searches(const struct fake_world *w)
{
    return w->searches;
}

unsigned fake_calls(const struct fake_world *w, unsigned number)
{
    return w->calls[number];
}

struct otr_position fake_after(const struct fake_world *w, otr_shard shard)
{
    return w->after[shard];
}

const char *fake_filter(const struct fake_world *w)
{
    return w->filter;
}

double fake_threshold(const struct fake_world *w)
{
    return w->threshold;
}

unsigned fake_entries(const struct fake_world *w)
{
    return w->entries;
}

unsigned fake_points(const struct fake_world *w)
{
    return (unsigned)w->store_count;
}

static struct stored *find(const struct fake_world *w, uint64_t collection, const char *id, size_t bytes)
{
    for (size_t i = 0; i < w->store_count; i++) {
        struct stored *s = &w->store[i];
        if ((collection == 0 || s->collection == collection) && s->point.id_bytes == bytes &&
            memcmp(s->point.id, id, bytes) == 0) {
            return s;
        }
    }
    return NULL;
}

const struct otr_point *fake_find(const struct fake_world *w, const char *id)
{
    struct stored *s = find(w, 0, id, strlen(id));

    return s != NULL ? &s->point : NULL;
}

const char *fake_id_in(struct fake_world *w, otr_shard shard, unsigned *n, char out[16])
{
    otr_shard at;

    do {
        int bytes = snprintf(out, 16, "p%u", (*n)++);
        at = (otr_shard)((uint32_t)point_hash(out, (size_t)bytes) >> 30);
    } while (at != shard);
    (void)w;
    return out;
}

/* --- node.h: the rest --------------------------------------------------------------------------------------------- */

const char *node_name(const struct node *n)
{
    return topology_name(n->w->topology, n->number);
}

const char *node_cluster(const struct node *n)
{
    (void)n;
    return "test";
}

otr_node node_self(const struct node *n)
{
    return n->number;
}

const struct admission *node_admission(const struct node *n, enum node_operation op)
{
    (void)op;
    return &n->w->admission;
}

uint64_t node_incarnation(const struct node *n)
{
    return 0xABC0 + n->number;
}

struct topology *node_topology(struct node *n)
{
    return n->w->topology;
}

struct uv_loop_s *node_loop(struct node *n)
{
    return n->w->loop;
}

bool node_ready(struct node *n, struct otr_errmsg *why)
{
    otr_errmsg_set(why, n->w->ready ? "" : "shard 3 follows nobody");
    return n->w->ready;
}

int node_metrics_print(struct node *n, const struct metrics_out *out)
{
    static const char text[] = "fake_node 1\n";

    if (!n->w->ready) {
        return OTR_NOMEM;
    }
    out->put(out->data, text, strlen(text));
    return 0;
}

bool node_shard_status(struct node *n, otr_shard shard, struct replica_status *status)
{
    if (shard >= FAKE_SHARDS) {
        return false;
    }
    *status = (struct replica_status){.role = n->w->primary[shard] == n->number ? REPLICA_PRIMARY : REPLICA_FOLLOWER,
                                      .in_sync = true,
                                      .epoch = 7,
                                      .last = {7, n->w->index[shard]},
                                      .durable_index = n->w->index[shard],
                                      .committed_index = n->w->index[shard]};
    return true;
}

uint64_t node_shard_applied(struct node *n, otr_shard shard)
{
    return n->w->index[shard];
}

bool node_shard_damaged(struct node *n, otr_shard shard)
{
    (void)n;
    return shard == 3;
}

void node_stats(struct node *n, struct node_stats *stats)
{
    *stats =
        (struct node_stats){.uptime_ms = 1500, .engine_up = n->w->ready, .coordinator_why = "", .journal_bytes = 4096};
}

bool node_shard_stored(struct node *n, otr_shard shard, uint64_t *stored, uint64_t *points)
{
    *stored = n->w->index[shard];
    *points = n->w->store_count;
    return shard < FAKE_SHARDS;
}

struct peer_link *node_link(struct node *n, otr_node peer)
{
    return peer == n->number || peer > FAKE_NODES || peer == 0 ? NULL : &n->w->links[n->number][peer];
}

void node_wait_change(struct node *n, struct node_wait *wait)
{
    wait->next = n->w->waits;
    wait->link = &n->w->waits;
    if (wait->next != NULL) {
        wait->next->link = &wait->next;
    }
    n->w->waits = wait;
}

void node_wait_cancel(struct node_wait *wait)
{
    if (wait->link != NULL) {
        *wait->link = wait->next;
        if (wait->next != NULL) {
            wait->next->link = wait->link;
        }
    }
}

otr_node node_primary(struct node *n, otr_shard shard)
{
    return n->w->primary[shard];
}

struct collection_job {
    struct job job;
    struct fake_world *w;
    int status;
    node_status_cb cb;
    void *data;
};

static void run_collection(struct job *j)
{
    struct collection_job *c = (struct collection_job *)j;
    struct otr_errmsg msg;

    otr_errmsg_set(&msg, "%s", otr_strerror(c->status));
    c->cb(c->data, c->status, &msg);
    free(c);
}

static void hang(struct fake_world *w, struct job *j)
{
    assert(w->hung_count < HUNG_MAX);
    w->hung[w->hung_count++] = j;
}

static int answer_collection(struct node *n, int status, node_status_cb cb, void *data)
{
    struct collection_job *c = calloc(1, sizeof *c);

    *c = (struct collection_job){.job.run = run_collection, .w = n->w, .status = status, .cb = cb, .data = data};
    if (n->w->coordinator == -1) {
        hang(n->w, &c->job);
    } else {
        later(n->w, &c->job);
    }
    return 0;
}

int node_collection_refresh(struct node *n, const char *name, node_status_cb cb, void *data)
{
    struct topology_collection far = {.name = "far", .id = 78, .dimension = 3, .metric = OTR_METRIC_EUCLIDEAN};
    int status = n->w->coordinator;

    if (status == 0 && strcmp(name, "far") == 0) {
        assert(topology_collection_set(n->w->topology, &far) == 0);
    } else if (status == 0) {
        status = OTR_NOTFOUND;
    }
    return answer_collection(n, status, cb, data);
}

int node_collection_create(struct node *n, const struct topology_collection *c, node_status_cb cb, void *data)
{
    int status = n->w->coordinator;

    if (status == 0) {
        status = topology_collection(n->w->topology, c->name) != NULL ? OTR_EXISTS
                                                                      : topology_collection_set(n->w->topology, c);
    }
    return answer_collection(n, status, cb, data);
}

int node_collection_delete(struct node *n, const char *name, node_status_cb cb, void *data)
{
    int status = n->w->coordinator;

    if (status == 0) {
        topology_collection_forget(n->w->topology, name);
    }
    return answer_collection(n, status, cb, data);
}

/* --- writes ------------------------------------------------------------------------------------------------------- */

static void store_put(struct fake_world *w, uint64_t collection, otr_shard shard, const struct otr_point *p)
{
    struct stored *s = find(w, collection, p->id, p->id_bytes);
    size_t vector = p->dimension * sizeof(float);
    char *memory = malloc(p->id_bytes + 8 + vector + p->metadata_bytes + 1);
    char *at = memory + ((p->id_bytes + 7) & ~7U);

    if (s == NULL) {
        assert(w->store_count < STORE_MAX);
        s = &w->store[w->store_count++];
    } else {
        free((void *)(uintptr_t)s->point.id);
    }
    memcpy(memory, p->id, p->id_bytes);
    memcpy(at, p->vector, vector);
    if (p->metadata_bytes != 0) {
        memcpy(at + vector, p->metadata, p->metadata_bytes);
    }
    *s = (struct stored){.collection = collection, .shard = shard, .point = *p};
    s->point.id = memory;
    s->point.vector = (const float *)(const void *)at;
    s->point.metadata = p->metadata_bytes != 0 ? at + vector : NULL;
}

static uint32_t apply(struct fake_world *w, otr_shard shard, enum record_kind kind, const uint8_t *body, size_t bytes)
{
    struct body_iter it;
    struct otr_point p;
    uint32_t outcome = 0;
    int rv;

    assert(body_iter_init(&it, (uint16_t)kind, body, bytes) == 0);
    while ((rv = body_next(&it, &p)) == 0) {
        struct stored *s = find(w, it.collection, p.id, p.id_bytes);

        assert(topology_collection_by_id(w->topology, it.collection) != NULL);
        if (kind == RECORD_PUT) {
            store_put(w, it.collection, shard, &p);
            outcome++;
        } else if (s != NULL) {
            free((void *)(uintptr_t)s->point.id);
            *s = w->store[--w->store_count];
            outcome++;
        }
    }
    assert(rv == OTR_NOTFOUND);
    w->entries++;
    w->index[shard]++;
    return outcome;
}

struct write_job {
    struct job job;
    node_write_cb cb;
    void *data;
    struct node_write_result result;
};

static void run_write(struct job *j)
{
    struct write_job *wj = (struct write_job *)j;

    wj->result.message = otr_strerror(wj->result.status);
    wj->cb(wj->data, &wj->result);
    free(wj);
}

/* Once per request id, as the real one (PROTOCOL Q1). */
static void perform(struct fake_world *w, otr_shard shard, const struct otr_request_id *id, enum record_kind kind,
                    const uint8_t *body, size_t bytes, struct node_write_result *result)
{
    for (size_t i = 0; i < w->requests_count; i++) {
        struct seen_request *r = &w->requests[i];
        if (r->shard == shard && memcmp(&r->id, id, sizeof *id) == 0) {
            result->outcome = r->outcome;
            result->position = r->position;
            return;
        }
    }
    assert(w->requests_count < REQUESTS_MAX);
    result->outcome = apply(w, shard, kind, body, bytes);
    result->position = (struct otr_position){7, w->index[shard]};
    w->requests[w->requests_count++] = (struct seen_request){shard, *id, result->outcome, result->position};
}

int node_write(struct node *n, otr_shard shard, const struct otr_request_id *id, enum record_kind kind,
               const uint8_t *body, size_t body_bytes, node_write_cb cb, void *data)
{
    struct plan plan = take_plan(n->w, n->number, shard);
    struct write_job *j = calloc(1, sizeof *j);

    n->w->writes++;
    *j = (struct write_job){.job.run = run_write, .cb = cb, .data = data};
    if (plan.fate == FAKE_HANG) {
        hang(n->w, &j->job);
        return 0;
    }
    if (plan.fate == FAKE_REFUSE) {
        j->result.status = plan.status;
    } else if (n->w->primary[shard] != n->number) {
        j->result.status = OTR_NOTPRIMARY;
    } else {
        perform(n->w, shard, id, kind, body, body_bytes, &j->result);
        j->result.applied_pending = plan.fate == FAKE_PENDING;
        j->result.status = plan.fate == FAKE_LOSE ? plan.status : 0;
    }
    later(n->w, &j->job);
    return 0;
}

/* --- handoff ------------------------------------------------------------------------------------------------------ */

struct handoff_job {
    struct job job;
    node_handoff_cb cb;
    void *data;
    struct node_handoff_result result;
};

static void run_handoff(struct job *j)
{
    struct handoff_job *h = (struct handoff_job *)j;

    h->cb(h->data, &h->result);
    free(h);
}

int node_handoff(struct node *n, otr_shard shard, otr_node to, uint32_t timeout_ms, node_handoff_cb cb, void *data,
                 struct otr_errmsg *msg)
{
    struct plan plan;
    struct handoff_job *h;

    (void)timeout_ms;
    otr_errmsg_set(msg, "fake node-%u", n->number);
    if (n->w->primary[shard] != n->number) {
        return OTR_NOTPRIMARY;
    }
    if (to == n->number) {
        return OTR_EXISTS;
    }
    plan = take_plan(n->w, n->number, shard);
    if (plan.fate == FAKE_REFUSE) {
        return plan.status;
    }
    h = calloc(1, sizeof *h);
    *h = (struct handoff_job){.job.run = run_handoff, .cb = cb, .data = data};
    h->result = (struct node_handoff_result){
        .status = plan.fate == FAKE_LOSE ? plan.status : 0, .from = n->number, .epoch = 8, .pause_us = 12345};
    h->result.to = to != OTR_NODE_NONE ? to : n->number % FAKE_NODES + 1;
    if (plan.fate != FAKE_LOSE) {
        n->w->primary[shard] = h->result.to;
    }
    later(n->w, &h->job);
    return 0;
}

/* --- forced elections, losses ------------------------------------------------------------------------------------- */

struct force_job {
    struct job job;
    node_force_cb cb;
    void *data;
    struct node_force_result result;
};

static void run_force(struct job *j)
{
    struct force_job *f = (struct force_job *)j;

    f->cb(f->data, &f->result);
    free(f);
}

/* Up to 5 entries are in danger. */
int node_force(struct node *n, otr_shard shard, uint64_t accepted, uint32_t timeout_ms, node_force_cb cb, void *data,
               struct otr_errmsg *msg)
{
    struct plan plan;
    struct force_job *f;

    (void)timeout_ms;
    if (accepted < 5) {
        otr_errmsg_set(msg, "5 entries may be lost");
        return OTR_CONFLICT;
    }
    plan = take_plan(n->w, n->number, shard);
    f = calloc(1, sizeof *f);
    *f = (struct force_job){.job.run = run_force, .cb = cb, .data = data};
    f->result.status = plan.fate == FAKE_LOSE ? plan.status : 0;
    f->result.epoch = 9;
    snprintf(f->result.message, sizeof f->result.message, "fake node-%u", n->number);
    later(n->w, &f->job);
    return 0;
}

bool node_survivor(struct node *n, otr_shard shard, struct node_survivor *out)
{
    if (shard >= FAKE_SHARDS) {
        return false;
    }
    *out = (struct node_survivor){.leads = n->w->primary[shard] == n->number,
                                  .promised = 7,
                                  .log_id = 1,
                                  .seen_generation = 1,
                                  .seen_epoch = 7,
                                  .seen_version = 2,
                                  .last = {7, n->w->index[shard]}};
    return true;
}

struct losses_job {
    struct job job;
    node_losses_cb cb;
    void *data;
};

static void run_losses(struct job *j)
{
    struct losses_job *l = (struct losses_job *)j;

    l->cb(l->data, 0, "{\"shard\":1},{\"shard\":2}");
    free(l);
}

int node_losses(struct node *n, node_losses_cb cb, void *data)
{
    struct losses_job *l = calloc(1, sizeof *l);

    *l = (struct losses_job){.job.run = run_losses, .cb = cb, .data = data};
    later(n->w, &l->job);
    return 0;
}

/* --- reads -------------------------------------------------------------------------------------------------------- */

struct get_job {
    struct job job;
    struct fake_world *w;
    struct node_get get;
    int status;
    node_get_cb cb;
    void *data;
};

static void run_get(struct job *j)
{
    struct get_job *g = (struct get_job *)j;
    struct otr_point found[8];
    struct otr_errmsg msg = {0};
    size_t count = 0;

    for (size_t i = 0; i < g->get.ids_count && g->status == 0; i++) {
        struct stored *s = find(g->w, g->get.collection, g->get.ids[i].id, g->get.ids[i].id_bytes);
        if (s != NULL) {
            found[count++] = s->point;
        }
    }
    g->cb(g->data, g->status, g->status == 0 ? found : NULL, count, &msg);
    free(g);
}

static void start(struct node *n, struct job *j, struct plan plan, int *status, bool linearizable, otr_shard shard)
{
    j->next = NULL;
    if (plan.fate == FAKE_REFUSE) {
        *status = plan.status;
    } else if (linearizable && n->w->primary[shard] != n->number) {
        *status = OTR_NOTPRIMARY;
    }
    if (plan.fate == FAKE_HANG) {
        hang(n->w, j);
    } else {
        later(n->w, j);
    }
}

int node_get(struct node *n, const struct node_get *get, node_get_cb cb, void *data)
{
    struct get_job *g = calloc(1, sizeof *g);

    n->w->gets++;
    n->w->after[get->shard] = get->after;
    *g = (struct get_job){.job.run = run_get, .w = n->w, .get = *get, .cb = cb, .data = data};
    start(n, &g->job, take_plan(n->w, n->number, get->shard), &g->status, get->consistency == NODE_LINEARIZABLE,
          get->shard);
    return 0;
}

struct search_job {
    struct job job;
    struct fake_world *w;
    struct node_search search;
    int status;
    node_search_cb cb;
    void *data;
};

static int compare_hits(const void *a, const void *b)
{
    const struct node_hit *x = a;
    const struct node_hit *y = b;
    uint32_t common = x->point.id_bytes < y->point.id_bytes ? x->point.id_bytes : y->point.id_bytes;
    int order;

    if (x->score != y->score) {
        return x->score < y->score ? -1 : 1;
    }
    order = memcmp(x->point.id, y->point.id, common);
    return order != 0 ? order : (int)x->point.id_bytes - (int)y->point.id_bytes;
}

static void run_search(struct job *j)
{
    struct search_job *s = (struct search_job *)j;
    struct node_hit *hits = calloc(s->w->store_count + 1, sizeof *hits);
    const struct topology_collection *c = topology_collection_by_id(s->w->topology, s->search.collection);
    struct otr_errmsg msg = {0};
    size_t count = 0;

    for (size_t i = 0; i < s->w->store_count && s->status == 0; i++) {
        struct stored *at = &s->w->store[i];

        if (at->collection == s->search.collection && at->shard == s->search.shard) {
            hits[count].point = at->point;
            hits[count].score = score_distance(c->metric, s->search.vector, at->point.vector, at->point.dimension);
            if (s->search.with_threshold && hits[count].score > s->search.threshold) {
                continue;
            }
            if (!s->search.with_vector) {
                hits[count].point.vector = NULL;
                hits[count].point.dimension = 0;
            }
            count++;
        }
    }
    qsort(hits, count, sizeof *hits, compare_hits);
    s->cb(s->data, s->status, hits, count < s->search.k ? count : s->search.k, &msg);
    free(hits);
    free(s);
}

int node_search(struct node *n, const struct node_search *search, node_search_cb cb, void *data)
{
    struct search_job *s = calloc(1, sizeof *s);

    n->w->searches++;
    n->w->after[search->shard] = search->after;
    n->w->threshold = search->with_threshold ? search->threshold : (double)NAN;
    snprintf(n->w->filter, sizeof n->w->filter, "%s", search->filter != NULL ? search->filter : "");
    *s = (struct search_job){.job.run = run_search, .w = n->w, .search = *search, .cb = cb, .data = data};
    start(n, &s->job, take_plan(n->w, n->number, search->shard), &s->status, search->consistency == NODE_LINEARIZABLE,
          search->shard);
    return 0;
}

bool node_count(struct node *n, otr_shard shard, uint64_t collection, uint64_t *count)
{
    struct plan plan = take_plan(n->w, n->number, shard);

    *count = 0;
    for (size_t i = 0; i < n->w->store_count; i++) {
        *count += n->w->store[i].collection == collection && n->w->store[i].shard == shard;
    }
    return plan.fate != FAKE_REFUSE;
}

void fake_release(struct fake_world *w, int status)
{
    for (unsigned i = 0; i < w->hung_count; i++) {
        struct job *j = w->hung[i];

        if (j->run == run_write) {
            ((struct write_job *)j)->result.status = status;
        } else if (j->run == run_get) {
            ((struct get_job *)j)->status = status;
        } else if (j->run == run_search) {
            ((struct search_job *)j)->status = status;
        } else {
            ((struct collection_job *)j)->status = status;
        }
        later(w, j);
    }
    w->hung_count = 0;
}

/* --- peer.h ------------------------------------------------------------------------------------------------------- */

struct peer_call {
    struct job job;
    struct fake_world *w;
    struct peer_link *link;
    enum peer_method method;
    ProtobufCMessage *request;
    uint8_t *reply;
    size_t reply_bytes;
    int status;
    int lost; /* what the caller is told instead of the reply */
    peer_reply_cb cb;
    void *data;
};

static const ProtobufCMessageDescriptor *request_type(enum peer_method m)
{
    switch (m) {
    case PEER_FORWARD:
        return &outrigger__v1__forward_request__descriptor;
    case PEER_GET:
        return &outrigger__v1__get_request__descriptor;
    case PEER_SEARCH:
        return &outrigger__v1__search_request__descriptor;
    case PEER_HANDOFF:
        return &outrigger__v1__handoff_request__descriptor;
    default:
        return &outrigger__v1__count_request__descriptor;
    }
}

static const ProtobufCMessageDescriptor *reply_type(enum peer_method m)
{
    switch (m) {
    case PEER_FORWARD:
        return &outrigger__v1__forward_reply__descriptor;
    case PEER_GET:
        return &outrigger__v1__get_reply__descriptor;
    case PEER_SEARCH:
        return &outrigger__v1__search_reply__descriptor;
    case PEER_HANDOFF:
        return &outrigger__v1__handoff_reply__descriptor;
    default:
        return &outrigger__v1__count_reply__descriptor;
    }
}

static void run_reply(struct job *j)
{
    struct peer_call *c = (struct peer_call *)j;
    ProtobufCMessage *reply = NULL;
    struct otr_errmsg msg;
    int status = c->lost != 0 ? c->lost : c->status;

    otr_errmsg_set(&msg, "link to node-%u: %s", c->link->number, otr_strerror(status));
    if (status == 0) {
        reply = protobuf_c_message_unpack(reply_type(c->method), NULL, c->reply_bytes, c->reply);
        assert(reply != NULL);
    }
    c->cb(c->data, status, reply, &msg);
    if (reply != NULL) {
        protobuf_c_message_free_unpacked(reply, NULL);
    }
    protobuf_c_message_free_unpacked(c->request, NULL);
    free(c->reply);
    free(c);
}

static void run_call(struct job *j)
{
    struct peer_call *c = (struct peer_call *)j;
    struct peer_from from = {.node = topology_name(c->w->topology, c->link->from), .incarnation = 1};

    door_on_call(&c->w->nodes[c->link->number], c, c->method, &from, c->request);
}

bool peer_link_up(const struct peer_link *link)
{
    return link->up;
}

int peer_link_call(struct peer_link *link, enum peer_method method, const ProtobufCMessage *request,
                   uint32_t timeout_ms, peer_reply_cb cb, void *data)
{
    struct peer_call *c;
    size_t bytes = protobuf_c_message_get_packed_size(request);
    uint8_t *packed = malloc(bytes + 1);

    (void)timeout_ms;
    if (!link->up) {
        free(packed);
        return OTR_UNREACHABLE;
    }
    c = calloc(1, sizeof *c);
    protobuf_c_message_pack(request, packed);
    *c = (struct peer_call){.job.run = run_call, .w = link->w, .link = link, .method = method, .cb = cb, .data = data};
    c->request = protobuf_c_message_unpack(request_type(method), NULL, bytes, packed);
    assert(c->request != NULL);
    free(packed);
    c->lost = link->w->link_plan[link->number];
    link->w->link_plan[link->number] = 0;
    link->w->calls[link->number]++;
    later(link->w, &c->job);
    return 0;
}

void peer_call_reply(struct peer_call *c, const ProtobufCMessage *reply)
{
    c->reply_bytes = protobuf_c_message_get_packed_size(reply);
    c->reply = malloc(c->reply_bytes + 1);
    protobuf_c_message_pack(reply, c->reply);
    c->job.run = run_reply;
    later(c->w, &c->job);
}

void peer_call_fail(struct peer_call *c, int grpc_status, const char *message)
{
    (void)grpc_status;
    (void)message;
    c->status = OTR_PROTO;
    c->job.run = run_reply;
    later(c->w, &c->job);
}
