/* What the coordinator shows, key by key, into the topology and to our replicas. */
#include "sidecar/node/coordinator.h"

#include "sidecar/coord/keys.h"
#include "sidecar/coord/values.h"
#include "sidecar/io/log.h"

#include <stdio.h>
#include <stdlib.h>

/* Makes our replica when the descriptor names us. Not before the settings are known: they come with the first timings.
 */
static void ensure_replica(struct node *n, otr_shard id)
{
    struct topology_shard *t = topology_shard(n->topology, id);
    struct shard *s;
    int rv;

    if (t == NULL || !t->known || !topology_config(n->topology)->known || node_shard(n, id) != NULL ||
        !descriptor_has_replica(&t->descriptor, n->self)) {
        return;
    }
    rv = shard_new(n, id, &s);
    if (rv != 0) {
        node_fatal(n, "shard %u: cannot make the replica: %s", id, otr_strerror(rv));
        return;
    }
    log_info(s->subject, "replica opened: %llu entries stored", (unsigned long long)s->stored);
    links_brief(s);
    coordinator_brief(s);
    handoff_brief(s);
}

/* --- one key into the topology
 * ----------------------------------------------------------------------------------------- */

static void bad_value(const struct otr_kv *kv, const struct otr_errmsg *msg)
{
    LOG_LIMITED(LOG_ERROR, "", "key %s: %s", kv->key, msg->text);
}

static void take_config(struct node *n, const struct otr_kv *kv)
{
    struct topology_config config = {0};
    struct otr_errmsg msg = {0};

    if (value_config_parse(kv->value, &config, &msg) != 0) {
        bad_value(kv, &msg);
        return;
    }
    config.known = true;
    *topology_config(n->topology) = config;
    n->apply_wait_ms = config.apply_wait_ms != 0 ? config.apply_wait_ms : n->apply_wait_ms;
    n->read_lag_ms = config.read_lag_ms != 0 ? config.read_lag_ms : n->read_lag_ms;
    for (otr_shard i = 0; i < n->shards_top; i++) {
        if (node_shard(n, i) != NULL) {
            shard_feed(n->shards[i],
                       &(struct replica_event){.type = REPLICA_EV_SETTINGS, .settings = shard_settings(n->shards[i])});
        }
    }
    for (otr_shard i = 0; i < topology_shards_count(n->topology); i++) {
        ensure_replica(n, i);
    }
}

static void take_node(struct node *n, const char *name, const struct otr_kv *kv)
{
    struct topology_node *t = topology_node(n->topology, topology_intern(n->topology, name));
    struct otr_errmsg msg = {0};

    if (t != NULL && value_node_parse(kv->value, t, &msg) != 0) {
        bad_value(kv, &msg);
    } else if (t != NULL) {
        t->registered = true;
    }
}

static void take_live(struct coordinator *c, const char *name, const struct otr_kv *kv)
{
    struct node *n = c->node;
    otr_node node = topology_intern(n->topology, name);
    struct topology_node *t = topology_node(n->topology, node);
    struct otr_errmsg msg = {0};

    if (t == NULL) {
        return;
    }
    if (value_live_parse(kv->value, t, &msg) != 0) {
        bad_value(kv, &msg);
        return;
    }
    t->live = true;
    snprintf(t->session, sizeof t->session, "%s", kv->session);
    links_update(n, node);
    if (node == n->self && c->announced && t->incarnation != n->incarnation) {
        log_error("", "another process calls itself %s: its incarnation %016llx stands in the coordinator", n->name,
                  (unsigned long long)t->incarnation);
    }
}

void coordinator_descriptor(struct node *n, const struct descriptor *d, uint64_t revision)
{
    const struct topology_shard *known = topology_shard(n->topology, d->shard);

    if (known != NULL && known->known && known->revision > revision) {
        return;
    }
    if (topology_shard_set(n->topology, d, revision) != 0) {
        node_fatal(n, "out of memory");
    }
}

static void take_shard(struct node *n, otr_shard id, const struct otr_kv *kv)
{
    struct descriptor d;
    const struct topology_shard *known = topology_shard(n->topology, id);
    struct otr_errmsg msg = {0};
    struct shard *s;

    if (known != NULL && known->known && known->revision > kv->revision) {
        return; /* a transaction's answer or a direct read was faster than the watch */
    }
    if (value_descriptor_parse(n->topology, kv->value, &d, &msg) != 0 || d.shard != id) {
        bad_value(kv, &msg);
        return;
    }
    coordinator_descriptor(n, &d, kv->revision);
    s = node_shard(n, id);
    if (s == NULL) {
        ensure_replica(n, id);
        return;
    }
    shard_feed(s, &(struct replica_event){
                      .type = REPLICA_EV_DESCRIPTOR,
                      .descriptor = {.descriptor = &d, .revision = kv->revision},
                  });
}

static void take_lease(struct node *n, otr_shard id, const struct otr_kv *kv)
{
    const struct topology_shard *known = topology_shard(n->topology, id);
    struct topology_lease lease = {0};
    struct otr_errmsg msg = {0};
    struct shard *s = node_shard(n, id);

    if (kv != NULL && known != NULL && known->lease.present && known->lease.revision > kv->revision) {
        return;
    }
    if (kv != NULL && value_lease_parse(n->topology, kv->value, &lease, &msg) != 0) {
        bad_value(kv, &msg);
        return;
    }
    if (kv != NULL) {
        lease.present = true;
        lease.revision = kv->revision;
        snprintf(lease.session, sizeof lease.session, "%s", kv->session);
    }
    if (topology_lease_set(n->topology, id, &lease) != 0) {
        node_fatal(n, "out of memory");
        return;
    }
    if (s != NULL) {
        coordinator_feed_lease(s, &lease);
    }
}

void coordinator_take_put(struct coordinator *c, const struct otr_kv *kv)
{
    struct node *n = c->node;
    struct key key;

    key_parse(n->cluster, kv->key, &key);
    switch (key.kind) {
    case KEY_CONFIG:
        take_config(n, kv);
        break;
    case KEY_NODE:
        take_node(n, key.name, kv);
        break;
    case KEY_LIVE:
        take_live(c, key.name, kv);
        break;
    case KEY_SHARD:
        take_shard(n, key.shard, kv);
        break;
    case KEY_LEASE:
        take_lease(n, key.shard, kv);
        break;
    case KEY_COLLECTION:
        collections_take(n, key.name, kv);
        collections_changed(n);
        break;
    case KEY_CONTROLLER:
    case KEY_SERVICE:
    case KEY_IMPORT:
    case KEY_OTHER:
        break;
    }
    if (topology_starved(n->topology)) {
        node_fatal(n, "out of memory: key %s could not be taken in", kv->key);
    }
}

static void lose_live(struct coordinator *c, const char *name)
{
    struct node *n = c->node;
    otr_node node = topology_intern(n->topology, name);
    struct topology_node *t = topology_node(n->topology, node);

    if (t == NULL) {
        return;
    }
    t->live = false;
    if (node == n->self && c->announced) {
        log_warn("", "our live key is gone although the session stands: announcing again");
        c->announced = false; /* the tick announces */
    }
}

void coordinator_take_delete(struct coordinator *c, const char *text, uint64_t revision)
{
    struct node *n = c->node;
    struct key key;

    key_parse(n->cluster, text, &key);
    switch (key.kind) {
    case KEY_LIVE:
        lose_live(c, key.name);
        break;
    case KEY_LEASE:
        take_lease(n, key.shard, NULL);
        break;
    case KEY_COLLECTION:
        collections_forget(n, key.name, revision);
        break;
    case KEY_CONFIG:
        coordinator_emptied(c, revision);
        break;
    case KEY_SHARD:
        log_error("", "key %s was deleted from the coordinator: restore it; topology cannot change until then", text);
        break;
    default:
        break;
    }
}

/* --- all keys
 * ----------------------------------------------------------------------------------------------------------- */

static int compare_key(const void *key, const void *kv)
{
    return strcmp(key, ((const struct otr_kv *)kv)->key);
}

static bool shows(const struct otr_get_result *result, const char *key)
{
    return result->kvs_count > 0 &&
           bsearch(key, result->kvs, result->kvs_count, sizeof *result->kvs, compare_key) != NULL;
}

void coordinator_forget_revisions(struct node *n)
{
    struct topology *t = n->topology;

    for (otr_shard i = 0; i < topology_shards_count(t); i++) {
        struct topology_shard *shard = topology_shard(t, i);

        if (shard != NULL) {
            shard->revision = 0;
            shard->lease = (struct topology_lease){.present = false};
        }
    }
    for (uint32_t i = 0; i < topology_collections_count(t); i++) {
        struct topology_collection c = *topology_collection_at(t, i);

        c.revision = 0;
        if (topology_collection_set(t, &c) != 0) {
            node_fatal(n, "out of memory");
            return;
        }
    }
}

uint64_t coordinator_shown_generation(struct node *n, const struct otr_get_result *result)
{
    struct topology_config config;
    const struct otr_kv *kv;
    char key[KEY_MAX];

    key_config(key, n->cluster);
    kv = result->kvs_count == 0 ? NULL : bsearch(key, result->kvs, result->kvs_count, sizeof *result->kvs, compare_key);
    return kv != NULL && value_config_parse(kv->value, &config, NULL) == 0 ? config.generation : 0;
}

void coordinator_take_all(struct coordinator *c, const struct otr_get_result *result)
{
    struct node *n = c->node;
    char key[KEY_MAX];

    for (size_t i = 0; i < result->kvs_count; i++) {
        coordinator_take_put(c, &result->kvs[i]);
    }
    for (otr_node i = 1; i <= topology_nodes_count(n->topology); i++) {
        key_live(key, n->cluster, topology_name(n->topology, i));
        if (topology_node(n->topology, i)->live && !shows(result, key)) {
            coordinator_take_delete(c, key, result->revision);
        }
    }
    for (otr_shard i = 0; i < topology_shards_count(n->topology); i++) {
        struct topology_shard *t = topology_shard(n->topology, i);
        key_lease(key, n->cluster, i);
        if (t != NULL && t->lease.present && !shows(result, key)) {
            coordinator_take_delete(c, key, result->revision);
        }
    }
    for (uint32_t i = topology_collections_count(n->topology); i > 0; i--) {
        key_collection(key, n->cluster, topology_collection_at(n->topology, i - 1)->name);
        if (!shows(result, key)) {
            coordinator_take_delete(c, key, result->revision);
        }
    }
}
