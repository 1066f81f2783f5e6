/* The feeder's calls of the engine, and what becomes of their failures.
 *
 *   cannot be reached, too slow     the call is repeated after a pause
 *   refused, collection not there   the engine does not hold what it should, or will not: it counts for nothing any
 * more (searches read the log), and after a pause that grows with each refusal every collection of the shard is dropped
 * and fed anew from the log's live points a collection cannot be made     repeated after a pause; nothing is skipped
 * over */
#include "sidecar/node/feeder_internal.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    PAUSE_MS = 200,
    REBUILD_PAUSE_MS_MAX = 30000,
    REBUILD_FORGIVEN_MS = 120000, /* a refusal after so long without is a first one */
};

static bool is_made(const struct feeder *f, uint64_t id)
{
    for (size_t i = 0; i < f->made_count; i++) {
        if (f->made[i] == id) {
            return true;
        }
    }
    return false;
}

static void set_made(struct feeder *f, uint64_t id)
{
    if (f->made_count == f->made_capacity) {
        size_t capacity = f->made_capacity == 0 ? 8 : f->made_capacity * 2;
        uint64_t *grown = realloc(f->made, capacity * sizeof *grown);
        if (grown == NULL) {
            return; /* it is made once more: harmless */
        }
        f->made = grown;
        f->made_capacity = capacity;
    }
    f->made[f->made_count++] = id;
}

static void unset_made(struct feeder *f, uint64_t id)
{
    for (size_t i = 0; i < f->made_count; i++) {
        if (f->made[i] == id) {
            f->made[i] = f->made[--f->made_count];
            return;
        }
    }
}

void feeder_pause(struct feeder *f, const char *what, int status, const struct otr_errmsg *msg)
{
    f->pause_until_ms = clock_now_ms() + PAUSE_MS;
    LOG_LIMITED(status == OTR_INVALID || status == OTR_EXISTS ? LOG_ERROR : LOG_WARN, f->s->subject,
                "engine: %s: %s; trying again after %d ms", what,
                msg != NULL && msg->text[0] != '\0' ? msg->text : otr_strerror(status), PAUSE_MS);
}

void feeder_read_again(struct feeder *f)
{
    feeder_forget_chunk(f);
    f->snapshot_next = f->snapshot_sent;
    f->replay_points = 0;
}

/* The log is right, so the engine is not: what it has counts for nothing, and it is built anew. */
static void rebuild(struct feeder *f, int status, const struct otr_errmsg *msg)
{
    uint64_t now = clock_now_ms();
    uint64_t pause = PAUSE_MS;

    f->refusals = f->refused_ms == 0 || now - f->refused_ms > REBUILD_FORGIVEN_MS ? 1 : f->refusals + 1;
    f->refused_ms = now;
    for (unsigned i = 1; i < f->refusals && pause < REBUILD_PAUSE_MS_MAX; i++) {
        pause *= 2;
    }
    pause = pause < REBUILD_PAUSE_MS_MAX ? pause : REBUILD_PAUSE_MS_MAX;
    f->s->node->metrics.node.engine_rebuilds_total++;
    log_error(f->s->subject,
              "engine refuses what is committed (after entry %llu): %s; its collections are built anew from the log in "
              "%llu ms, searches read the log",
              (unsigned long long)f->applied, msg != NULL && msg->text[0] != '\0' ? msg->text : otr_strerror(status),
              (unsigned long long)pause);
    feeder_reset(f);
    f->pause_until_ms = now + pause;
}

static bool is_refusal(int status)
{
    return status == OTR_INVALID || status == OTR_NOTFOUND;
}

/* `writes`: a refusal of this call says that the engine's collections are not what they should be. True: go on. */
static bool call_ended(struct feeder *f, const char *what, bool writes, int status, const struct otr_errmsg *msg)
{
    struct node_metrics *m = &f->s->node->metrics.node;

    f->calling = false;
    if (f->free_when_done) {
        feeder_free(f);
        return false;
    }
    metrics_observe_since_ns(&m->engine_write_seconds, f->called_ns);
    if (f->s->node->closing) {
        return false;
    }
    if (status != 0) {
        m->engine_errors_total++;
        if (writes && is_refusal(status)) {
            rebuild(f, status, msg);
        } else {
            feeder_read_again(f);
            feeder_pause(f, what, status, msg);
        }
        return false;
    }
    return true;
}

static void on_written(struct otr_engine_req *req, int status, const struct otr_errmsg *msg)
{
    struct feeder *f = req->data;

    if (!call_ended(f, "write", true, status, msg)) {
        return;
    }
    if (f->replaying) {
        feeder_replay_written(f);
    } else if (f->done_index > f->applied) {
        f->applied = f->done_index;
        feeder_moved(f);
    }
    feeder_advance(f);
}

static void on_dropped(struct otr_engine_req *req, int status, const struct otr_errmsg *msg)
{
    struct feeder *f = req->data;

    if (!call_ended(f, "drop a collection", false, status, msg)) {
        return;
    }
    if (f->replaying) {
        feeder_replay_dropped(f);
    } else if (f->done_index > f->applied) {
        f->applied = f->done_index;
        feeder_moved(f);
    }
    feeder_advance(f);
}

static void on_made(struct otr_engine_req *req, int status, const struct otr_errmsg *msg)
{
    struct feeder *f = req->data;
    const char *name = collections_name(f->s->node, f->making);

    if (status == OTR_EXISTS && name != NULL && !f->free_when_done && !f->s->node->closing) {
        /* A deleted collection of the same name, with another dimension or metric, was left in the engine. */
        f->calling = false;
        feeder_drop_name(f, name);
        return;
    }
    if (call_ended(f, "make a collection", false, status, msg)) {
        set_made(f, f->making);
        feeder_advance(f);
    }
}

static void started(struct feeder *f, bool writes, int rv)
{
    if (writes && is_refusal(rv)) {
        f->s->node->metrics.node.engine_errors_total++;
        rebuild(f, rv, NULL);
    } else if (rv == 0) {
        f->calling = true;
        f->called_ns = clock_now_ns();
    } else {
        feeder_read_again(f);
        feeder_pause(f, "call", rv, NULL);
    }
}

static void make_collection(struct feeder *f, const struct topology_collection *c)
{
    struct node *n = f->s->node;
    char name[OTR_ENGINE_COLLECTION_MAX];

    feeder_collection_name(name, sizeof name, c->name, f->s->id);
    f->making = c->id;
    started(f, false,
            n->engine_ops->collection_make(n->engine, &f->req, name, c->dimension, c->metric,
                                           c->options[0] != '\0' ? c->options : NULL, on_made));
}

void feeder_drop_name(struct feeder *f, const char *collection)
{
    struct node *n = f->s->node;
    char name[OTR_ENGINE_COLLECTION_MAX];

    feeder_collection_name(name, sizeof name, collection, f->s->id);
    started(f, false, n->engine_ops->collection_drop(n->engine, &f->req, name, on_dropped));
}

void feeder_drop(struct feeder *f, uint64_t collection)
{
    const char *name = collections_name(f->s->node, collection);
    const struct topology_collection *now;

    unset_made(f, collection);
    if (name == NULL) {
        return; /* nobody knows any more what it was called; what is left in the engine never passes verification */
    }
    now = topology_collection(f->s->node->topology, name);
    if (now != NULL && now->id != collection && is_made(f, now->id)) {
        return; /* the name is another collection's by now, and its points are already there */
    }
    feeder_drop_name(f, name);
}

void feeder_write(struct feeder *f, uint64_t collection, bool put, size_t count)
{
    struct node *n = f->s->node;
    const struct topology_collection *c = topology_collection_by_id(n->topology, collection);
    char name[OTR_ENGINE_COLLECTION_MAX];

    assert(c != NULL && count > 0);
    feeder_collection_name(name, sizeof name, c->name, f->s->id);
    started(f, true,
            put ? n->engine_ops->upsert(n->engine, &f->req, name, f->batch, count, on_written)
                : n->engine_ops->erase(n->engine, &f->req, name, f->batch, count, on_written));
}

static bool is_deleted(const struct feeder *f, uint64_t id)
{
    size_t ring = sizeof f->deleted / sizeof f->deleted[0];

    for (size_t i = 0; i < ring && i < f->deleted_count; i++) {
        if (f->deleted[i] == id) {
            return true;
        }
    }
    return false;
}

enum verdict feeder_judge(struct feeder *f, uint64_t collection)
{
    struct node *n = f->s->node;
    const struct topology_collection *c = topology_collection_by_id(n->topology, collection);

    if (c == NULL) {
        if (is_deleted(f, collection)) {
            return SKIP;
        }
        if (f->asked_collections == 0) {
            f->asked_collections = collections_ask(n);
        }
        if (!collections_answered(n, f->asked_collections)) {
            return LATER;
        }
        f->asked_collections = 0;
        f->deleted[f->deleted_count++ % (sizeof f->deleted / sizeof f->deleted[0])] = collection;
        return SKIP; /* its DROP entry follows */
    }
    f->asked_collections = 0;
    if (!is_made(f, collection)) {
        make_collection(f, c);
        return LATER;
    }
    return FEED;
}
