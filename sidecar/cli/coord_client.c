#include "sidecar/cli/coord_client.h"

#include "sidecar/coord/keys.h"
#include "sidecar/coord/values.h"

#include <stdio.h>
#include <stdlib.h>

int coord_client_open(struct coord_client *c, struct loop *loop, const struct coord_client_settings *settings,
                      struct otr_errmsg *msg)
{
    struct otr_backend_config config = {.loop = &loop->uv, .endpoints = settings->endpoints};
    int rv;

    *c = (struct coord_client){.loop = loop, .ops = otr_backend_find(settings->backend), .cluster = settings->cluster};
    if (c->ops == NULL) {
        otr_errmsg_set(msg, "there is no backend \"%s\"; this version has: etcd, consul", settings->backend);
        return OTR_INVALID;
    }
    rv = coord_access_apply(&settings->access, &config, msg);
    if (rv != 0) {
        return rv;
    }
    rv = c->ops->open(&c->backend, &config, msg);
    if (rv != 0) {
        otr_errmsg_wrap(msg, "--endpoints %s", settings->endpoints);
    }
    return rv;
}

static void close_done(struct otr_backend *backend)
{
    *(bool *)backend->data = true;
}

void coord_client_close(struct coord_client *c)
{
    bool done = false;

    c->ops->close(c->backend, close_done, &done);
    loop_finish(c->loop, &done, 0);
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

static int take_shard(struct topology *t, const struct key *key, const struct otr_kv *kv, struct otr_errmsg *msg)
{
    struct descriptor d;
    int rv;

    rv = value_descriptor_parse(t, kv->value, &d, msg);
    if (rv == 0 && d.shard != key->shard) {
        otr_errmsg_set(msg, "its value is that of shard %u", d.shard);
        rv = OTR_PROTO;
    }
    return rv != 0 ? rv : topology_shard_set(t, &d, kv->revision);
}

static int take_lease(struct topology *t, const struct key *key, const struct otr_kv *kv, struct otr_errmsg *msg)
{
    struct topology_lease lease = {.revision = kv->revision};
    int rv;

    rv = value_lease_parse(t, kv->value, &lease, msg);
    snprintf(lease.session, sizeof lease.session, "%s", kv->session);
    return rv != 0 ? rv : topology_lease_set(t, key->shard, &lease);
}

static int take_collection(struct topology *t, const struct key *key, const struct otr_kv *kv, struct otr_errmsg *msg)
{
    struct topology_collection c = {.revision = kv->revision};
    int rv;

    snprintf(c.name, sizeof c.name, "%s", key->name);
    rv = value_collection_parse(kv->value, &c, msg);
    return rv != 0 ? rv : topology_collection_set(t, &c);
}

static int take_node(struct topology *t, const struct key *key, const struct otr_kv *kv, struct otr_errmsg *msg)
{
    struct topology_node *node = topology_node(t, topology_intern(t, key->name));

    if (node == NULL) {
        otr_errmsg_set(msg, "more than %d nodes", OTR_NODES_MAX);
        return OTR_NOMEM;
    }
    return key->kind == KEY_NODE ? value_node_parse(kv->value, node, msg) : value_live_parse(kv->value, node, msg);
}

static int take(struct topology *t, const struct key *key, const struct otr_kv *kv, struct otr_errmsg *msg)
{
    switch (key->kind) {
    case KEY_CONFIG:
        return value_config_parse(kv->value, topology_config(t), msg);
    case KEY_NODE:
    case KEY_LIVE:
        return take_node(t, key, kv, msg);
    case KEY_SHARD:
        return take_shard(t, key, kv, msg);
    case KEY_LEASE:
        return take_lease(t, key, kv, msg);
    case KEY_COLLECTION:
        return take_collection(t, key, kv, msg);
    default:
        return 0;
    }
}

struct reading {
    struct otr_get_req req;
    struct coord_client *c;
    struct otr_errmsg *msg;
    int status;
    bool done;
    /* coord_client_read */
    struct topology *t;
    /* coord_client_get */
    const char *key;
    char *value;
    uint64_t revision;
    /* coord_client_visit */
    coord_client_visit_cb visit;
    void *data;
};

static bool reading_ended(struct reading *r, int status, const struct otr_errmsg *msg)
{
    r->done = true;
    r->status = status;
    if (status != 0) {
        otr_errmsg_set(r->msg, "%s", msg != NULL && msg->text[0] != '\0' ? msg->text : otr_strerror(status));
    }
    return status == 0;
}

static int reading_run(struct reading *r, const char *prefix, otr_get_cb cb)
{
    int rv;

    r->req.data = r;
    rv = r->c->ops->get(r->c->backend, &r->req, prefix, cb);
    if (rv != 0) {
        otr_errmsg_set(r->msg, "%s", otr_strerror(rv));
        return rv;
    }
    /* The request lives here: it is waited for, also when the user interrupts. The backend's own time-out bounds it. */
    loop_finish(r->c->loop, &r->done, 0);
    return r->status == 0 && r->c->loop->interrupted != 0 ? OTR_CANCELED : r->status;
}

static void read_done(struct otr_get_req *req, int status, const struct otr_get_result *result,
                      const struct otr_errmsg *msg)
{
    struct reading *r = req->data;

    if (!reading_ended(r, status, msg)) {
        return;
    }
    for (size_t i = 0; r->status == 0 && i < result->kvs_count; i++) {
        struct key key;

        key_parse(r->c->cluster, result->kvs[i].key, &key);
        r->status = take(r->t, &key, &result->kvs[i], r->msg);
        if (r->status != 0) {
            otr_errmsg_wrap(r->msg, "key %s", result->kvs[i].key);
        }
    }
}

int coord_client_read(struct coord_client *c, struct topology **t, struct otr_errmsg *msg)
{
    struct reading r = {.c = c, .msg = msg, .t = topology_new()};
    char prefix[KEY_MAX];
    int rv;

    if (r.t == NULL) {
        otr_errmsg_set(msg, "%s", otr_strerror(OTR_NOMEM));
        return OTR_NOMEM;
    }
    key_prefix(prefix, c->cluster);
    rv = reading_run(&r, prefix, read_done);
    if (rv != 0) {
        topology_free(r.t);
        return rv;
    }
    *t = r.t;
    return 0;
}

static void get_done(struct otr_get_req *req, int status, const struct otr_get_result *result,
                     const struct otr_errmsg *msg)
{
    struct reading *r = req->data;

    if (!reading_ended(r, status, msg)) {
        return;
    }
    r->status = OTR_NOTFOUND;
    for (size_t i = 0; i < result->kvs_count; i++) {
        if (strcmp(result->kvs[i].key, r->key) == 0) { /* Not those that only begin like it. */
            r->value = strdup(result->kvs[i].value);
            r->revision = result->kvs[i].revision;
            r->status = r->value != NULL ? 0 : OTR_NOMEM;
        }
    }
    if (r->status != 0) {
        otr_errmsg_set(r->msg, "key %s: %s", r->key, otr_strerror(r->status));
    }
}

int coord_client_get(struct coord_client *c, const char *key, char **value, uint64_t *revision, struct otr_errmsg *msg)
{
    struct reading r = {.c = c, .msg = msg, .key = key};
    int rv = reading_run(&r, key, get_done);

    if (rv != 0) {
        free(r.value);
        return rv;
    }
    *value = r.value;
    *revision = r.revision;
    return 0;
}

static void visit_done(struct otr_get_req *req, int status, const struct otr_get_result *result,
                       const struct otr_errmsg *msg)
{
    struct reading *r = req->data;

    if (!reading_ended(r, status, msg)) {
        return;
    }
    for (size_t i = 0; r->status == 0 && i < result->kvs_count; i++) {
        r->status = r->visit(r->data, &result->kvs[i], r->msg);
    }
}

int coord_client_visit(struct coord_client *c, coord_client_visit_cb visit, void *data, struct otr_errmsg *msg)
{
    struct reading r = {.c = c, .msg = msg, .visit = visit, .data = data};
    char prefix[KEY_MAX];

    key_prefix(prefix, c->cluster);
    return reading_run(&r, prefix, visit_done);
}

/* --- transactions ------------------------------------------------------------------------------------------------- */

struct changing {
    struct otr_txn_req req;
    struct otr_errmsg *msg;
    int status;
    bool done;
};

static void txn_done(struct otr_txn_req *req, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    struct changing *c = req->data;

    (void)revision;
    c->done = true;
    c->status = status;
    if (status != 0) {
        otr_errmsg_set(c->msg, "%s", msg != NULL && msg->text[0] != '\0' ? msg->text : otr_strerror(status));
    }
}

int coord_client_txn(struct coord_client *c, const struct otr_txn *txn, struct otr_errmsg *msg)
{
    struct changing change = {.msg = msg};
    int rv;

    change.req.data = &change;
    rv = c->ops->txn(c->backend, &change.req, txn, txn_done);
    if (rv != 0) {
        otr_errmsg_set(msg, "%s", otr_strerror(rv));
        return rv;
    }
    loop_finish(c->loop, &change.done, 0);
    return change.status;
}
