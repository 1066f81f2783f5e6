/* Collections: keys in the coordinator, points in the shards.
 *
 * Making and deleting one is a transaction on collections/<name>. The points of a deleted one are dropped through the
 * log, so that all replicas do it at the same index: each primary writes a DROP entry for every collection that its
 * store holds and the coordinator does not know, when it sees the deletion, and when it becomes primary. It first asks
 * the coordinator, for its own view may merely lag behind a collection just made. */
#include "sidecar/node/node_internal.h"

#include "sidecar/coord/keys.h"
#include "sidecar/coord/values.h"
#include "sidecar/io/log.h"

#include <stdio.h>
#include <stdlib.h>

enum { GONE_MAX = 256 };

struct collections {
    struct node *node;
    struct {
        uint64_t id;
        char name[OTR_NAME_MAX + 1];
    } gone[GONE_MAX]; /* a ring */
    size_t gone_count;
    uint64_t asked, answered; /* numbers of full reads */
    bool reading;
    uint64_t reading_number;
    struct otr_get_req get;
    struct later later;
    bool check_queued;
};

static struct collections *state(struct node *n)
{
    if (n->collections == NULL) {
        n->collections = calloc(1, sizeof *n->collections);
        if (n->collections == NULL) {
            node_fatal(n, "out of memory");
            abort();
        }
        n->collections->node = n;
        n->collections->answered = 1;
        n->collections->asked = 1;
    }
    return n->collections;
}

void collections_free(struct node *n)
{
    free(n->collections);
    n->collections = NULL;
}

void collections_gone(struct node *n, const struct topology_collection *c)
{
    struct collections *cs = state(n);
    size_t at = cs->gone_count++ % GONE_MAX;

    cs->gone[at].id = c->id;
    memcpy(cs->gone[at].name, c->name, sizeof c->name);
}

const char *collections_name(struct node *n, uint64_t id)
{
    struct collections *cs = state(n);
    const struct topology_collection *c = topology_collection_by_id(n->topology, id);
    size_t count = cs->gone_count < GONE_MAX ? cs->gone_count : GONE_MAX;

    if (c != NULL) {
        return c->name;
    }
    for (size_t i = 0; i < count; i++) {
        if (cs->gone[i].id == id) {
            return cs->gone[i].name;
        }
    }
    return NULL;
}

/* --- asking for all
 * ---------------------------------------------------------------------------------------------------- */

static void ask(struct node *n);

/* Collections that the answer shows come into the view; the watch takes away what is gone. */
static void take(struct node *n, const struct otr_get_result *result)
{
    for (size_t i = 0; i < result->kvs_count; i++) {
        const struct otr_kv *kv = &result->kvs[i];
        struct topology_collection c = {0};
        struct key key;
        struct otr_errmsg msg;

        key_parse(n->cluster, kv->key, &key);
        if (key.kind != KEY_COLLECTION) {
            continue;
        }
        if (value_collection_parse(kv->value, &c, &msg) != 0) {
            LOG_LIMITED(LOG_WARN, "", "collection %s: %s", key.name, msg.text);
            continue;
        }
        memcpy(c.name, key.name, sizeof c.name);
        c.revision = kv->revision;
        (void)topology_collection_set(n->topology, &c);
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
    if (status == 0) {
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
    struct collections *cs = state(n);
    char prefix[KEY_MAX];

    if (cs->reading || n->closing) {
        return;
    }
    key_collection(prefix, n->cluster, "");
    cs->get.data = cs;
    cs->reading_number = cs->asked;
    cs->reading = n->backend_ops->get(n->backend, &cs->get, prefix, on_all) == 0;
}

uint64_t collections_ask(struct node *n)
{
    struct collections *cs = state(n);

    if (cs->asked == cs->answered || (cs->reading && cs->asked == cs->reading_number)) {
        cs->asked++;
    }
    ask(n);
    return cs->asked;
}

bool collections_answered(const struct node *n, uint64_t asked)
{
    struct collections *cs = n->collections;

    if (cs == NULL || cs->answered < asked) {
        ask((struct node *)n);
        return false;
    }
    return true;
}

/* --- dropping
 * ---------------------------------------------------------------------------------------------------------- */

struct drop_scan {
    struct shard *shard;
    uint64_t ids[64];
    size_t count;
};

static void find_gone(uint64_t collection, uint64_t count, void *data)
{
    struct drop_scan *scan = data;

    (void)count;
    if (scan->count < sizeof scan->ids / sizeof scan->ids[0] &&
        topology_collection_by_id(scan->shard->node->topology, collection) == NULL) {
        scan->ids[scan->count++] = collection;
    }
}

static void drop_gone(struct shard *s)
{
    struct drop_scan scan = {.shard = s};

    store_collections(s->store, find_gone, &scan);
    for (size_t i = 0; i < scan.count; i++) {
        log_info(s->subject, "collection %016llx is deleted: dropping its points", (unsigned long long)scan.ids[i]);
        (void)write_internal(s, RECORD_DROP, (const uint8_t *)&scan.ids[i], sizeof scan.ids[i]);
    }
}

static bool any_gone(struct shard *s)
{
    struct drop_scan scan = {.shard = s};

    store_collections(s->store, find_gone, &scan);
    return scan.count > 0;
}

static void check_all(struct later *l)
{
    struct collections *cs = (struct collections *)((char *)l - offsetof(struct collections, later));
    struct node *n = cs->node;
    bool asked = false;

    cs->check_queued = false;
    if (n->closing || !topology_config(n->topology)->known) {
        return;
    }
    for (otr_shard i = 0; i < n->shards_top; i++) {
        struct shard *s = n->shards[i];
        if (s == NULL || s->replica == NULL || s->role != REPLICA_PRIMARY || !any_gone(s)) {
            continue;
        }
        /* Nothing is dropped on the word of a view that may lag: a full read must have answered since the last
         * question. */
        if (cs->asked == cs->answered && cs->asked > 1) {
            drop_gone(s);
            asked = true;
        } else {
            (void)collections_ask(n);
            return;
        }
    }
    if (asked) {
        cs->asked++; /* the next decision needs a read of its own */
    }
}

void collections_changed(struct node *n)
{
    struct collections *cs = state(n);

    if (!cs->check_queued) {
        cs->check_queued = true;
        later_run(n, &cs->later, check_all);
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

static void forget(struct node *n, const char *name)
{
    const struct topology_collection *c = topology_collection(n->topology, name);

    if (c != NULL) {
        collections_gone(n, c);
        topology_collection_forget(n->topology, name);
        collections_changed(n);
    }
}

static void on_refreshed(struct otr_get_req *req, int status, const struct otr_get_result *result,
                         const struct otr_errmsg *msg)
{
    struct collection_call *call = req->data;
    struct node *n = call->node;
    const struct otr_kv *kv;
    char key[KEY_MAX];

    if (status != 0) {
        call_end(call, status, msg);
        return;
    }
    key_collection(key, n->cluster, call->collection.name);
    kv = pick(result, key);
    if (kv != NULL) {
        take(n, result);
    }
    call_end(call, kv != NULL ? 0 : OTR_NOTFOUND, msg);
}

static int get_one(struct collection_call *call, otr_get_cb cb)
{
    struct node *n = call->node;
    char key[KEY_MAX];
    int rv;

    key_collection(key, n->cluster, call->collection.name);
    rv = n->backend_ops->get(n->backend, &call->get, key, cb);
    if (rv != 0) {
        free(call);
    }
    return rv;
}

int node_collection_refresh(struct node *n, const char *name, node_status_cb cb, void *data)
{
    struct collection_call *call = call_new(n, name, cb, data);

    return call == NULL ? OTR_NOMEM : get_one(call, on_refreshed);
}

/* An unknown outcome is looked up: the id in the value tells whose it is. */
static void on_looked_up(struct otr_get_req *req, int status, const struct otr_get_result *result,
                         const struct otr_errmsg *msg)
{
    struct collection_call *call = req->data;
    struct node *n = call->node;
    const struct topology_collection *c;
    const struct otr_kv *kv;
    char key[KEY_MAX];

    if (status != 0) {
        call_end(call, OTR_UNKNOWN, msg);
        return;
    }
    key_collection(key, n->cluster, call->collection.name);
    kv = pick(result, key);
    take(n, result);
    c = topology_collection(n->topology, call->collection.name);
    if (call->deleting) {
        call_end(call, kv == NULL ? 0 : OTR_UNKNOWN, msg);
    } else if (kv != NULL && c != NULL && c->id == call->collection.id) {
        call_end(call, 0, msg);
    } else {
        call_end(call, kv != NULL ? OTR_EXISTS : OTR_UNKNOWN, msg);
    }
}

static void on_txn(struct otr_txn_req *req, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    struct collection_call *call = req->data;
    struct node *n = call->node;

    if (status == 0) {
        call->collection.revision = revision;
        if (call->deleting) {
            forget(n, call->collection.name);
        } else {
            (void)topology_collection_set(n->topology, &call->collection);
            node_changed(n);
        }
    }
    if (status == OTR_UNKNOWN && n->backend_ops->get != NULL) {
        if (get_one(call, on_looked_up) == 0) {
            return;
        }
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

    if (status != 0) {
        call_end(call, status, msg);
        return;
    }
    key_collection(key, n->cluster, call->collection.name);
    kv = pick(result, key);
    if (kv == NULL) {
        forget(n, call->collection.name);
        call_end(call, OTR_NOTFOUND, msg);
        return;
    }
    take(n, result); /* its id is remembered when it is forgotten */
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
    return get_one(call, on_delete_read);
}
