/* Collections: keys in the coordinator, points in the shards.
 *
 * Making and deleting one is a transaction on collections/<name>. The points of a deleted one are dropped through the
 * log, so that all replicas do it at the same index: each primary writes a DROP entry for every collection that its
 * store holds and the coordinator does not know. It looks when it sees a deletion, when it becomes primary, and now and
 * then, for a DROP may have been refused. Its own view may merely lag behind a collection just made, so it first asks
 * the coordinator: what a read that began after the points were seen does not show, is deleted. */
#include "sidecar/node/node_internal.h"

#include "sidecar/coord/keys.h"
#include "sidecar/coord/values.h"
#include "sidecar/io/log.h"

#include <stdio.h>
#include <stdlib.h>

enum { GONE_MAX = 256, CHECK_EVERY_MS = 1000 };

struct collections {
    struct node *node;
    struct {
        uint64_t id;
        char name[OTR_NAME_MAX + 1];
    } gone[GONE_MAX]; /* a ring */
    size_t gone_count;
    struct topology_collection *forgotten; /* at the newest revision at which any were */
    size_t forgotten_count;
    uint64_t forgotten_revision;
    uint64_t asked, answered; /* numbers of full reads */
    bool reading;
    uint64_t reading_number;
    uint64_t reading_began; /* coordinator_revision then */
    uint64_t checked_ms;
    struct otr_get_req get;
    struct later later;
    bool check_queued;
};

int collections_make(struct node *n)
{
    n->collections = calloc(1, sizeof *n->collections);
    if (n->collections == NULL) {
        return OTR_NOMEM;
    }
    n->collections->node = n;
    n->collections->answered = 1;
    n->collections->asked = 1;
    return 0;
}

void collections_free(struct node *n)
{
    if (n->collections != NULL) {
        free(n->collections->forgotten);
    }
    free(n->collections);
    n->collections = NULL;
}

/* The topology is about to lose it: its name is remembered for the engines' sake, its id because it never comes back,
 * whatever an answer says that has been long under way. */
static void note_gone(struct node *n, const struct topology_collection *c)
{
    struct collections *cs = n->collections;
    size_t at = cs->gone_count++ % GONE_MAX;

    cs->gone[at].id = c->id;
    memcpy(cs->gone[at].name, c->name, sizeof c->name);
}

static const char *gone_name(struct node *n, uint64_t id)
{
    struct collections *cs = n->collections;
    size_t count = cs->gone_count < GONE_MAX ? cs->gone_count : GONE_MAX;

    for (size_t i = 0; i < count; i++) {
        if (cs->gone[i].id == id) {
            return cs->gone[i].name;
        }
    }
    return NULL;
}

const char *collections_name(struct node *n, uint64_t id)
{
    const struct topology_collection *c = topology_collection_by_id(n->topology, id);

    return c != NULL ? c->name : gone_name(n, id);
}

/* --- the view
 * ----------------------------------------------------------------------------------------------------------- */

void collections_take(struct node *n, const char *name, const struct otr_kv *kv)
{
    const struct topology_collection *old = topology_collection(n->topology, name);
    struct topology_collection c = {0};
    struct otr_errmsg msg = {0};
    int rv = value_collection_parse(kv->value, &c, &msg);

    if (rv == 0) {
        memset(c.name, 0, sizeof c.name);
        snprintf(c.name, sizeof c.name, "%s", name);
        c.revision = kv->revision;
        if ((old != NULL && old->revision > c.revision) || gone_name(n, c.id) != NULL) {
            return; /* something else was faster */
        }
        if (old != NULL && old->id != c.id) {
            note_gone(n, old);
        }
        rv = topology_collection_set(n->topology, &c);
    }
    if (rv == OTR_NOMEM) {
        node_fatal(n, "out of memory");
    } else if (rv != 0) {
        LOG_LIMITED(LOG_ERROR, "", "key %s: %s", kv->key, msg.text[0] != '\0' ? msg.text : otr_strerror(rv));
    }
}

/* Somebody may be deleting all the cluster's keys, collections first. */
static void keep_forgotten(struct node *n, const struct topology_collection *c, uint64_t revision)
{
    struct collections *cs = n->collections;
    struct topology_collection *grown;

    if (cs->forgotten_revision != revision) {
        cs->forgotten_count = 0;
        cs->forgotten_revision = revision;
    }
    grown = realloc(cs->forgotten, (cs->forgotten_count + 1) * sizeof *grown);
    if (grown == NULL) {
        node_fatal(n, "out of memory");
        return;
    }
    cs->forgotten = grown;
    cs->forgotten[cs->forgotten_count++] = *c;
}

void collections_forget(struct node *n, const char *name, uint64_t revision)
{
    const struct topology_collection *c = topology_collection(n->topology, name);

    if (c != NULL && c->revision <= revision) {
        note_gone(n, c);
        keep_forgotten(n, c, revision);
        topology_collection_forget(n->topology, name);
        collections_changed(n);
    }
}

void collections_restore(struct node *n, uint64_t revision)
{
    struct collections *cs = n->collections;

    for (size_t i = 0; i < cs->forgotten_count && cs->forgotten_revision == revision; i++) {
        for (size_t at = 0; at < GONE_MAX; at++) {
            if (cs->gone[at].id == cs->forgotten[i].id) {
                cs->gone[at].id = 0;
            }
        }
        if (topology_collection_set(n->topology, &cs->forgotten[i]) != 0) {
            node_fatal(n, "out of memory");
        }
    }
    cs->forgotten_count = 0;
}

/* --- asking for all
 * ---------------------------------------------------------------------------------------------------- */

static void ask(struct node *n);

/* Collections that the answer shows come into the view; the watch takes away what is gone. */
static void take(struct node *n, const struct otr_get_result *result)
{
    for (size_t i = 0; i < result->kvs_count; i++) {
        struct key key;

        key_parse(n->cluster, result->kvs[i].key, &key);
        if (key.kind == KEY_COLLECTION) {
            collections_take(n, key.name, &result->kvs[i]);
        }
    }
}

static void on_all(struct otr_get_req *req, int status, const struct otr_get_result *result,
                   const struct otr_errmsg *msg)
{
    struct collections *cs = req->data;
    struct node *n = cs->node;

    (void)msg;
    cs->reading = false;
    if (n->closing) {
        return;
    }
    if (status == 0 && coordinator_check_answer(n, result, cs->reading_began)) {
        take(n, result);
        cs->answered = cs->reading_number;
        for (otr_shard i = 0; i < n->shards_top; i++) {
            if (n->shards[i] != NULL && n->shards[i]->replica != NULL) {
                feeder_kick(n->shards[i]->feeder);
            }
        }
        collections_changed(n);
    }
    /* After a failure the next tick of whoever waits asks again. */
    if (status == 0 && cs->asked > cs->reading_number) {
        ask(n);
    }
}

static void ask(struct node *n)
{
    struct collections *cs = n->collections;
    char prefix[KEY_MAX];

    if (cs->reading || n->closing || coordinator_regressed(n)) {
        return;
    }
    key_collection(prefix, n->cluster, "");
    cs->reading_began = coordinator_revision(n);
    cs->get.data = cs;
    cs->reading_number = cs->asked;
    cs->reading = n->backend_ops->get(n->backend, &cs->get, prefix, on_all) == 0;
}

uint64_t collections_ask(struct node *n)
{
    struct collections *cs = n->collections;

    if (cs->asked == cs->answered || (cs->reading && cs->asked == cs->reading_number)) {
        cs->asked++;
    }
    ask(n);
    return cs->asked;
}

bool collections_answered(const struct node *n, uint64_t asked)
{
    struct collections *cs = n->collections;

    if (cs->answered < asked) {
        ask((struct node *)n);
        return false;
    }
    return true;
}

/* --- dropping
 * ---------------------------------------------------------------------------------------------------------- */

static void find_gone(uint64_t collection, uint64_t count, void *data)
{
    struct shard *s = data;

    (void)count;
    if (s->gone.count < sizeof s->gone.ids / sizeof s->gone.ids[0] &&
        topology_collection_by_id(s->node->topology, collection) == NULL) {
        s->gone.ids[s->gone.count++] = collection;
    }
}

static void drop_gone(struct shard *s)
{
    struct replica_status status;

    for (size_t i = 0; i < s->gone.count; i++) {
        if (topology_collection_by_id(s->node->topology, s->gone.ids[i]) == NULL) {
            log_info(s->subject, "collection %016llx is deleted: dropping its points",
                     (unsigned long long)s->gone.ids[i]);
            (void)write_internal(s, RECORD_DROP, (const uint8_t *)&s->gone.ids[i], sizeof s->gone.ids[i]);
        }
    }
    replica_status(s->replica, 0, &status);
    s->gone.count = 0;
    s->gone.epoch = s->epoch;
    s->gone.index = status.last.index;
}

static void check_shard(struct shard *s)
{
    if (s->role != REPLICA_PRIMARY) {
        s->gone.count = 0;
        return;
    }
    if (s->gone.epoch == s->epoch && s->stored < s->gone.index) {
        return; /* what was written is not in the store yet */
    }
    if (s->gone.count == 0) {
        store_collections(s->store, find_gone, s);
        if (s->gone.count > 0) {
            s->gone.asked = collections_ask(s->node);
        }
    } else if (collections_answered(s->node, s->gone.asked)) {
        drop_gone(s);
    }
}

static void check_all(struct node *n)
{
    for (otr_shard i = 0; i < n->shards_top && topology_config(n->topology)->known; i++) {
        struct shard *s = node_shard(n, i);
        if (s != NULL) {
            check_shard(s);
        }
    }
}

static void check_later(struct later *l)
{
    struct collections *cs = (struct collections *)((char *)l - offsetof(struct collections, later));

    cs->check_queued = false;
    if (!cs->node->closing) {
        check_all(cs->node);
    }
}

void collections_tick(struct node *n, uint64_t now_ms)
{
    struct collections *cs = n->collections;

    if (now_ms - cs->checked_ms >= CHECK_EVERY_MS) {
        cs->checked_ms = now_ms;
        check_all(n);
    }
}

void collections_changed(struct node *n)
{
    struct collections *cs = n->collections;

    if (!cs->check_queued) {
        cs->check_queued = true;
        later_run(n, &cs->later, check_later);
    }
    node_changed(n);
}

void collections_check(struct shard *s)
{
    collections_changed(s->node);
}

/* --- making, deleting, refreshing
 * -------------------------------------------------------------------------------------- */

struct collection_call {
    struct node *node;
    struct otr_get_req get;
    struct otr_txn_req txn;
    uint64_t began_revision; /* coordinator_revision when the read began */
    struct topology_collection collection;
    bool deleting;
    node_status_cb cb;
    void *data;
};

static void call_end(struct collection_call *call, int status, const struct otr_errmsg *msg)
{
    call->cb(call->data, status, msg);
    free(call);
}

static struct collection_call *call_new(struct node *n, const char *name, node_status_cb cb, void *data)
{
    struct collection_call *call = calloc(1, sizeof *call);

    if (call != NULL) {
        call->node = n;
        call->get.data = call;
        call->txn.data = call;
        call->cb = cb;
        call->data = data;
        snprintf(call->collection.name, sizeof call->collection.name, "%s", name);
    }
    return call;
}

/* The one key out of a prefix answer. */
static const struct otr_kv *pick(const struct otr_get_result *result, const char *key)
{
    for (size_t i = 0; i < result->kvs_count; i++) {
        if (strcmp(result->kvs[i].key, key) == 0) {
            return &result->kvs[i];
        }
    }
    return NULL;
}

/* What a read of the one key shows into the view; NULL: there is no such key. */
static const struct otr_kv *take_one(struct collection_call *call, const struct otr_get_result *result)
{
    struct node *n = call->node;
    const struct otr_kv *kv;
    char key[KEY_MAX];

    key_collection(key, n->cluster, call->collection.name);
    kv = pick(result, key);
    if (kv != NULL) {
        take(n, result);
    } else {
        collections_forget(n, call->collection.name, result->revision);
    }
    return kv;
}

/* PROTOCOL D4: an answer of a coordinator that is not the one it was is none. */
static int answer_status(struct collection_call *call, int status, const struct otr_get_result *result)
{
    return status == 0 && !coordinator_check_answer(call->node, result, call->began_revision) ? OTR_UNREACHABLE
                                                                                              : status;
}

static void on_refreshed(struct otr_get_req *req, int status, const struct otr_get_result *result,
                         const struct otr_errmsg *msg)
{
    struct collection_call *call = req->data;

    status = answer_status(call, status, result);
    if (status == 0) {
        status = take_one(call, result) != NULL ? 0 : OTR_NOTFOUND;
    }
    call_end(call, status, msg);
}

static int get_one(struct collection_call *call, otr_get_cb cb)
{
    struct node *n = call->node;
    char key[KEY_MAX];

    key_collection(key, n->cluster, call->collection.name);
    return n->backend_ops->get(n->backend, &call->get, key, cb);
}

/* A call that begins with a look. On failure `call` is gone. */
static int call_start(struct collection_call *call, otr_get_cb cb)
{
    int rv = get_one(call, cb);

    if (rv != 0) {
        free(call);
    }
    return rv;
}

int node_collection_refresh(struct node *n, const char *name, node_status_cb cb, void *data)
{
    struct collection_call *call = call_new(n, name, cb, data);

    return call == NULL ? OTR_NOMEM : call_start(call, on_refreshed);
}

/* An unknown outcome is looked up: the id in the value tells whose it is. */
static void on_looked_up(struct otr_get_req *req, int status, const struct otr_get_result *result,
                         const struct otr_errmsg *msg)
{
    struct collection_call *call = req->data;
    const struct topology_collection *c;
    const struct otr_kv *kv;

    if (answer_status(call, status, result) != 0) {
        call_end(call, OTR_UNKNOWN, msg);
        return;
    }
    kv = take_one(call, result);
    c = topology_collection(call->node->topology, call->collection.name);
    if (call->deleting) {
        call_end(call, kv == NULL ? 0 : OTR_UNKNOWN, msg);
    } else if (kv != NULL && c != NULL && c->id == call->collection.id) {
        call_end(call, 0, msg);
    } else {
        call_end(call, kv != NULL ? OTR_EXISTS : OTR_UNKNOWN, msg);
    }
}

/* Into the view, unless the watch has shown it and what became of it since. */
static void made(struct collection_call *call)
{
    struct node *n = call->node;
    const struct topology_collection *old = topology_collection(n->topology, call->collection.name);

    if ((old == NULL || old->revision < call->collection.revision) && gone_name(n, call->collection.id) == NULL) {
        if (old != NULL && old->id != call->collection.id) {
            note_gone(n, old);
        }
        (void)topology_collection_set(n->topology, &call->collection);
        node_changed(n);
    }
}

static void on_txn(struct otr_txn_req *req, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    struct collection_call *call = req->data;
    struct node *n = call->node;

    if (status == 0) {
        call->collection.revision = revision;
        if (call->deleting) {
            collections_forget(n, call->collection.name, revision);
        } else {
            made(call);
        }
    }
    if (status == OTR_UNKNOWN && get_one(call, on_looked_up) == 0) {
        return;
    }
    call_end(call, status == OTR_CONFLICT ? (call->deleting ? OTR_UNAVAIL : OTR_EXISTS) : status, msg);
}

int node_collection_create(struct node *n, const struct topology_collection *c, node_status_cb cb, void *data)
{
    struct collection_call *call = call_new(n, c->name, cb, data);
    char key[KEY_MAX];
    char *value;
    int rv;

    if (call == NULL) {
        return OTR_NOMEM;
    }
    call->collection = *c;
    value = value_collection_print(c);
    if (value == NULL) {
        free(call);
        return OTR_NOMEM;
    }
    key_collection(key, n->cluster, c->name);
    rv = n->backend_ops->txn(
        n->backend, &call->txn,
        &(struct otr_txn){
            .compares = &(struct otr_compare){.type = OTR_COMPARE_ABSENT, .key = key},
            .compares_count = 1,
            .ops = &(struct otr_op){.type = OTR_OP_PUT, .key = key, .value = value, .value_bytes = strlen(value)},
            .ops_count = 1,
        },
        on_txn);
    free(value);
    if (rv != 0) {
        free(call);
    }
    return rv;
}

static void on_delete_read(struct otr_get_req *req, int status, const struct otr_get_result *result,
                           const struct otr_errmsg *msg)
{
    struct collection_call *call = req->data;
    struct node *n = call->node;
    const struct otr_kv *kv;
    char key[KEY_MAX];
    int rv;

    status = answer_status(call, status, result);
    if (status != 0) {
        call_end(call, status, msg);
        return;
    }
    kv = take_one(call, result); /* its id is remembered when it is forgotten */
    if (kv == NULL) {
        call_end(call, OTR_NOTFOUND, msg);
        return;
    }
    key_collection(key, n->cluster, call->collection.name);
    rv = n->backend_ops->txn(
        n->backend, &call->txn,
        &(struct otr_txn){
            .compares = &(struct otr_compare){.type = OTR_COMPARE_UNMODIFIED, .key = key, .revision = kv->revision},
            .compares_count = 1,
            .ops = &(struct otr_op){.type = OTR_OP_DELETE, .key = key},
            .ops_count = 1,
        },
        on_txn);
    if (rv != 0) {
        call_end(call, rv, NULL);
    }
}

int node_collection_delete(struct node *n, const char *name, node_status_cb cb, void *data)
{
    struct collection_call *call = call_new(n, name, cb, data);

    if (call == NULL) {
        return OTR_NOMEM;
    }
    call->deleting = true;
    return call_start(call, on_delete_read);
}
