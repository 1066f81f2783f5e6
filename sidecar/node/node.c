/* Assembly of a node: opening and closing, the tick, waiters.
 *
 * Opening: data directory locked, journal recovered (visit below rebuilds what seeds left; apply_recover the rest),
 * peers' port opened, then coordinator and engine are reached for. A replica is made when its descriptor is seen
 * (coordinator.c). Closing: the coordinator's session first, so that others need not wait; then peers, engine, flusher,
 * journal. Whatever waits is ended with OTR_UNAVAIL, work off the loop is waited for. */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"
#include "sidecar/io/random.h"
#include "sidecar/node/recover.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* --- small things
 * ------------------------------------------------------------------------------------------------------ */

void node_fatal(struct node *n, const char *format, ...)
{
    char why[OTR_ERRMSG_MAX];
    va_list args;

    if (n->dying) {
        return;
    }
    n->dying = true;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    log_error("", "%s", why);
    n->on_fatal(n->on_fatal_data, why);
}

struct shard *node_shard(struct node *n, otr_shard id)
{
    struct shard *s = id < OTR_SHARDS_MAX ? n->shards[id] : NULL;

    return s != NULL && s->replica != NULL ? s : NULL;
}

const char *node_name(const struct node *n)
{
    return n->name;
}

const char *node_cluster(const struct node *n)
{
    return n->cluster;
}

otr_node node_self(const struct node *n)
{
    return n->self;
}

uint64_t node_incarnation(const struct node *n)
{
    return n->incarnation;
}

struct topology *node_topology(struct node *n)
{
    return n->topology;
}

struct uv_loop_s *node_loop(struct node *n)
{
    return n->loop;
}

struct otr_backend *node_backend(struct node *n)
{
    return n->backend;
}

bool node_shard_status(struct node *n, otr_shard shard, struct replica_status *status)
{
    struct shard *s = node_shard(n, shard);

    if (s == NULL) {
        return false;
    }
    replica_status(s->replica, clock_now_ms(), status);
    return true;
}

uint64_t node_shard_applied(struct node *n, otr_shard shard)
{
    struct shard *s = node_shard(n, shard);

    return s != NULL ? feeder_applied(s->feeder) : 0;
}

bool node_shard_damaged(struct node *n, otr_shard shard)
{
    const struct shard *s = node_shard(n, shard);

    return s != NULL && s->damaged;
}

static uint32_t damaged_shards(struct node *n)
{
    uint32_t count = 0;

    for (otr_shard i = 0; i < n->shards_top; i++) {
        count += node_shard_damaged(n, i);
    }
    return count;
}

void node_stats(struct node *n, struct node_stats *stats)
{
    struct journal_stats journal;

    journal_stats(n->journal, &journal);
    *stats = (struct node_stats){
        .uptime_ms = clock_now_ms() - n->started_ms,
        .leaving = n->leave.leaving,
        .engine_up = n->engine_status.up,
        .coordinator_reachable = coordinator_reachable(n),
        .coordinator_why = coordinator_why(n),
        .disk_full = n->disk_full,
        .damaged_shards = damaged_shards(n),
        .journal_bytes = journal.bytes,
    };
}

bool node_shard_stored(struct node *n, otr_shard shard, uint64_t *stored, uint64_t *points)
{
    struct shard *s = node_shard(n, shard);

    if (s == NULL) {
        return false;
    }
    *stored = s->stored;
    *points = store_count_all(s->store);
    return true;
}

/* Our own replica may know of a newer primary than the coordinator's watch has shown. */
otr_node node_primary(struct node *n, otr_shard shard)
{
    const struct topology_shard *t = topology_shard(n->topology, shard);
    struct replica_status status;

    if (node_shard_status(n, shard, &status) && status.primary != OTR_NODE_NONE &&
        (t == NULL || !t->known || status.epoch >= t->descriptor.epoch)) {
        return status.primary;
    }
    return t != NULL && t->known ? t->descriptor.primary : OTR_NODE_NONE;
}

/* Every replica of ours follows a primary or is one. */
static bool replicas_follow(struct node *n, struct otr_errmsg *why)
{
    if (n->leave.leaving || n->closing) {
        otr_errmsg_set(why, "stopping");
        return false;
    }
    if (!coordinator_known(n) && !topology_config(n->topology)->known) {
        otr_errmsg_set(why, "waiting for the coordinator, which alone knows the cluster's state: %s",
                       coordinator_why(n));
        return false;
    }
    if (!topology_config(n->topology)->known) {
        otr_errmsg_set(why, "cluster %s is not initialised: run `outrigger cluster init`", n->cluster);
        return false;
    }
    for (otr_shard i = 0; i < n->shards_top; i++) {
        struct replica_status status;
        if (node_shard_status(n, i, &status) && status.primary == OTR_NODE_NONE) {
            otr_errmsg_set(why, "shard %u: no primary known", i);
            return false;
        }
    }
    return true;
}

bool node_ready(struct node *n, struct otr_errmsg *why)
{
    if (topology_config(n->topology)->known && !n->engine_status.up) {
        otr_errmsg_set(why, "the engine is not up");
        return false;
    }
    return replicas_follow(n, why);
}

/* What health checkers on the peers' port are told. The whole node serves when it is ready as /readyz says; peers are
 * served without an engine, too. */
static void tell_health(struct node *n)
{
    struct otr_errmsg why;
    bool ready = node_ready(n, &why);

    peer_hub_serving(n->hub, PEER_SERVICE_NODE, ready);
    peer_hub_serving(n->hub, PEER_SERVICE_PEER, ready || replicas_follow(n, &why));
}

/* --- waiters
 * ----------------------------------------------------------------------------------------------------------- */

static void wake(struct later *l)
{
    struct node *n = (struct node *)((char *)l - offsetof(struct node, changed));
    struct node_wait *woken = n->waits;

    n->changed_queued = false;
    n->waits = NULL;
    if (woken != NULL) {
        woken->link = &woken;
    }
    while (woken != NULL) { /* a callback may cancel others of the list */
        struct node_wait *w = woken;
        woken = w->next;
        if (woken != NULL) {
            woken->link = &woken;
        }
        w->link = NULL;
        w->cb(w);
    }
}

void node_changed(struct node *n)
{
    if (!n->changed_queued && n->waits != NULL) {
        n->changed_queued = true;
        later_run(n, &n->changed, wake);
    }
}

void node_wait_change(struct node *n, struct node_wait *w)
{
    w->next = n->waits;
    w->link = &n->waits;
    if (w->next != NULL) {
        w->next->link = &w->next;
    }
    n->waits = w;
}

void node_wait_cancel(struct node_wait *w)
{
    if (w->link == NULL) {
        return;
    }
    *w->link = w->next;
    if (w->next != NULL) {
        w->next->link = w->link;
    }
    w->link = NULL;
}

/* --- work off the loop
 * -------------------------------------------------------------------------------------------------- */

static void work_run(uv_work_t *req)
{
    struct node_work *w = req->data;

    w->run(w);
}

static void work_done(uv_work_t *req, int status)
{
    struct node_work *w = req->data;
    struct node *n = w->node;

    (void)status;
    n->work_outstanding--;
    w->done(w);
    if (n->closing) {
        node_closing_step(n);
    }
}

void node_work_start(struct node *n, struct node_work *w, void (*run)(struct node_work *),
                     void (*done)(struct node_work *))
{
    int rv;

    w->node = n;
    w->run = run;
    w->done = done;
    w->req.data = w;
    n->work_outstanding++;
    rv = uv_queue_work(n->loop, &w->req, work_run, work_done);
    assert(rv == 0); /* fails on NULL arguments only */
    (void)rv;
}

/* --- tick
 * -------------------------------------------------------------------------------------------------------------- */

static void on_tick(uv_timer_t *timer)
{
    struct node *n = timer->data;
    uint64_t now = clock_now_ms();

    for (otr_shard i = 0; i < n->shards_top && !n->dying && !n->closing; i++) {
        struct shard *s = node_shard(n, i);
        if (s == NULL) {
            continue;
        }
        shard_feed(s, &(struct replica_event){.type = REPLICA_EV_TICK});
        lag_clock_note(&s->lag, now, replica_last_index(s->replica));
        write_answer(s, now);
        held_tick(s, now);
        read_wait_check(s, now);
        feeder_kick(s->feeder);
        seed_receive_tick(s);
        apply_tick(s, now);
        digest_tick(s, now);
        shard_note_progress(s, now, false);
    }
    handoff_tick(n, now);
    compaction_tick(n, now);
    if (!n->dying) {
        collections_tick(n, now);
        scrub_tick(n, now);
    }
    if (now - n->health_told_ms >= NODE_HEALTH_EVERY_MS) {
        n->health_told_ms = now;
        tell_health(n);
        compression_tick(n);
    }
}

static void on_prepare(uv_prepare_t *prepare)
{
    flush_turn(prepare->data);
}

static void on_engine_status(struct otr_engine *engine, const struct otr_engine_status *status,
                             const struct otr_errmsg *msg, void *data)
{
    struct node *n = data;
    bool was_up = n->engine_status.up;

    (void)engine;
    if (n->closing) {
        return;
    }
    n->engine_status = *status;
    if (status->up != was_up) {
        if (status->up) {
            log_info("", "engine is up: data %s", status->data_id);
        } else {
            log_warn("", "engine is down: %s; writes go on, searches read the log",
                     msg != NULL && msg->text[0] != '\0' ? msg->text : "no answer");
        }
    }
    n->engine_known = true;
    for (otr_shard i = 0; i < n->shards_top; i++) {
        struct shard *s = node_shard(n, i);
        if (s != NULL) {
            feeder_engine(s->feeder);
            handoff_brief(s);
        }
    }
    node_changed(n);
}

/* --- closing
 * ----------------------------------------------------------------------------------------------------------- */

static void free_all(struct node *n)
{
    compaction_stop(n);
    for (otr_shard i = 0; i < n->shards_top; i++) {
        shard_free(n->shards[i]);
    }
    scrub_stop(n);
    if (n->journal != NULL) {
        journal_close(n->journal);
    }
    if (n->fs != NULL) {
        file_posix_free(n->fs);
    }
    if (n->lock >= 0) {
        file_posix_unlock(n->lock);
    }
    collections_free(n);
    compression_stop(n);
    free(n->coordinator);
    topology_free(n->topology);
    free(n);
}

void node_handle_closed(struct node *n)
{
    n->handles_open--;
    node_closing_step(n);
}

static void on_own_handle_closed(uv_handle_t *handle)
{
    node_handle_closed(handle->data);
}

/* Peers, engine and coordinator are gone and no work is under way: the loop's handles follow, then memory. */
void node_closing_step(struct node *n)
{
    void (*cb)(void *data) = n->close_cb;
    void *data = n->close_data;

    if (n->parts_open > 0 || n->work_outstanding > 0 || n->later_head != NULL) {
        return;
    }
    if (!n->shutting_down) {
        n->shutting_down = true;
        flush_stop(n);
        uv_close((uv_handle_t *)&n->tick, on_own_handle_closed);
        uv_close((uv_handle_t *)&n->prepare, on_own_handle_closed);
        if (n->flushed.data != NULL) {
            uv_close((uv_handle_t *)&n->flushed, on_own_handle_closed);
        }
        uv_close((uv_handle_t *)&n->idle, on_own_handle_closed);
        return;
    }
    if (n->handles_open == 0) {
        free_all(n);
        cb(data);
    }
}

static void part_closed(struct node *n)
{
    n->parts_open--;
    node_closing_step(n);
}

static void on_hub_closed(void *data)
{
    part_closed(data);
}

static void on_engine_closed(struct otr_engine *engine, void *data)
{
    (void)engine;
    part_closed(data);
}

static void on_coordinator_closed(struct node *n)
{
    part_closed(n);
}

/* Runs while closing, until all that was queued for later has run. */
static void on_closing_idle(struct later *l)
{
    struct node *n = (struct node *)((char *)l - offsetof(struct node, closing_later));

    n->parts_open--;
    node_closing_step(n);
}

static void end_waits(struct node *n)
{
    for (otr_shard i = 0; i < n->shards_top; i++) {
        struct shard *s = node_shard(n, i);
        if (s == NULL) {
            continue;
        }
        read_wait_end(s, OTR_UNAVAIL);
        write_abandon(s, 0);
        held_end(s);
        handoff_end(s);
        force_end(s);
        seed_send_stop(s);
    }
}

void node_close(struct node *n, void (*cb)(void *data), void *data)
{
    uint64_t now = clock_now_ms();

    assert(!n->closing);
    for (otr_shard i = 0; i < n->shards_top; i++) {
        struct shard *s = node_shard(n, i);
        if (s != NULL && !n->dying && !journal_failed(n->journal)) {
            shard_note_progress(s, now, true); /* spares the next start some work; flushed as far as it goes */
        }
    }
    flush_turn(n);
    n->closing = true;
    n->close_cb = cb;
    n->close_data = data;
    uv_timer_stop(&n->tick);
    end_waits(n);
    n->parts_open = 1; /* held until everything below is under way, and what is queued for later has run */
    if (n->coordinator != NULL) {
        n->parts_open++;
        coordinator_close(n, on_coordinator_closed);
    }
    if (n->hub != NULL) {
        n->parts_open++;
        peer_hub_close(n->hub, on_hub_closed, n);
    }
    if (n->engine != NULL) {
        n->parts_open++;
        n->engine_ops->close(n->engine, on_engine_closed, n);
    }
    later_run(n, &n->closing_later, on_closing_idle);
}

/* --- opening
 * ----------------------------------------------------------------------------------------------------------- */

static void start_handles(struct node *n)
{
    uv_timer_init(n->loop, &n->tick);
    n->tick.data = n;
    uv_timer_start(&n->tick, on_tick, NODE_TICK_MS, NODE_TICK_MS);
    uv_prepare_init(n->loop, &n->prepare);
    n->prepare.data = n;
    uv_prepare_start(&n->prepare, on_prepare);
    n->handles_open += 2;
    later_start(n);
}

static struct node *make(const struct node_config *config)
{
    struct node *n = calloc(1, sizeof *n);

    if (n == NULL || (n->topology = topology_new()) == NULL || collections_make(n) != 0) {
        goto err;
    }
    n->loop = config->loop;
    n->lock = -1;
    snprintf(n->cluster, sizeof n->cluster, "%s", config->cluster);
    snprintf(n->name, sizeof n->name, "%s", config->node);
    snprintf(n->zone, sizeof n->zone, "%s", config->zone != NULL ? config->zone : "");
    snprintf(n->data_dir, sizeof n->data_dir, "%s", config->data_dir);
    n->client = config->client;
    n->peer = config->peer;
    n->on_fatal = config->on_fatal;
    n->on_fatal_data = config->data;
    n->on_call = config->on_call;
    n->backend_ops = config->backend;
    n->engine_ops = config->engine;
    n->incarnation = random_u64();
    n->started_ms = clock_now_ms();
    compression_start(n, config->compression);
    n->apply_wait_ms = 1000;
    n->hits.one_max = NODE_HITS_ONE_BYTES;
    n->hits.all_max = NODE_HITS_ALL_BYTES;
    n->read_lag_ms = 500;
    admit_init(n, config->delay_max_ms);
    n->self = topology_intern(n->topology, n->name);
    if (n->self == OTR_NODE_NONE) {
        goto err;
    }
    return n;

err:
    if (n != NULL) {
        collections_free(n);
        topology_free(n->topology);
    }
    free(n);
    return NULL;
}

struct close_wait {
    bool closed;
};

static void on_failed_open_closed(void *data)
{
    struct close_wait *w = data;

    w->closed = true;
}

/* Opening failed with handles open: the loop is turned until they are closed. */
static void unmake(struct node *n)
{
    struct close_wait w = {false};
    uv_loop_t *loop = n->loop;

    node_close(n, on_failed_open_closed, &w);
    while (!w.closed) {
        uv_run(loop, UV_RUN_ONCE);
    }
}

int node_new(struct node **out, const struct node_config *config, struct otr_errmsg *msg)
{
    struct otr_engine_config engine = config->engine_config;
    struct node *n = make(config);
    int rv;

    if (n == NULL) {
        return OTR_NOMEM;
    }
    rv = recover_node(n, config->compaction.segment_bytes, msg);
    n->started_ms = clock_now_ms(); /* G4: the process before may have lived, and granted, until it gave up the lock */
    if (rv == 0) {
        rv = compaction_start(n, &config->compaction);
    }
    if (rv == 0) {
        rv = scrub_start(n, config);
    }
    if (rv != 0) {
        free_all(n);
        return rv;
    }
    start_handles(n);
    rv = flush_start(n, msg);
    if (rv == 0) {
        rv = links_start(n, config, msg);
    }
    if (rv == 0) {
        engine.loop = n->loop;
        engine.on_status = on_engine_status;
        engine.data = n;
        rv = n->engine_ops->open(&n->engine, &engine, msg);
    }
    if (rv == 0) {
        n->engine_ops->caps(n->engine, &n->engine_caps);
        rv = coordinator_start(n, &config->backend_config, config->session_ttl_ms, msg);
    }
    if (rv != 0) {
        unmake(n);
        return rv;
    }
    *out = n;
    return 0;
}
