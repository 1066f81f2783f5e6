/* The node's side of the coordinator: session, announcement, and one watch that keeps the topology up to date.
 *
 * Start: session_open and get(prefix) go out at once; the answer fills the topology, a watch goes on from its revision.
 * While the coordinator is away both keep trying; nothing that serves data waits for them (DESIGN 3.3). Session open:
 * live/<node> is put, bound to it; lost: a new one is opened, the leases are taken again by the core in the same epoch.
 * Our own live key is watched like any other: coordinators lose healthy leases. Transactions and reads of the shards'
 * descriptors are in coordinator_shard.c. */
#include "sidecar/node/coordinator.h"

#include "sidecar/coord/keys.h"
#include "sidecar/coord/values.h"
#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"

#include <stdio.h>
#include <stdlib.h>

enum { RETRY_MS = 250 };

/* --- shards
 * ------------------------------------------------------------------------------------------------------------ */

static void tell_coordinator(struct coordinator *c, struct shard *s)
{
    shard_feed(
        s, &(struct replica_event){
               .type = REPLICA_EV_COORDINATOR,
               .coordinator = {.session_open = c->session_open, .reachable = c->reachable, .regressed = c->regressed},
           });
}

static void tell_all(struct coordinator *c)
{
    struct node *n = c->node;

    for (otr_shard i = 0; i < n->shards_top; i++) {
        if (n->shards[i] != NULL && n->shards[i]->replica != NULL) {
            tell_coordinator(c, n->shards[i]);
        }
    }
    node_changed(n);
}

void coordinator_feed_lease(struct shard *s, const struct topology_lease *l)
{
    const struct coordinator *c = s->node->coordinator;

    shard_feed(s, &(struct replica_event){
                      .type = REPLICA_EV_LEASE,
                      .lease = {.present = l->present,
                                .node = l->node,
                                .incarnation = l->incarnation,
                                .epoch = l->epoch,
                                .revision = l->revision,
                                .mine = l->present && c->session_open && strcmp(l->session, c->session.id) == 0},
                  });
}

void coordinator_brief(struct shard *s)
{
    struct topology_shard *t = topology_shard(s->node->topology, s->id);

    tell_coordinator(s->node->coordinator, s);
    if (t == NULL || !t->known) {
        return;
    }
    coordinator_feed_lease(s, &t->lease);
    shard_feed(s, &(struct replica_event){
                      .type = REPLICA_EV_DESCRIPTOR,
                      .descriptor = {.descriptor = &t->descriptor, .revision = t->revision},
                  });
}

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
    if (topology_shard_set(n->topology, &d, kv->revision) != 0) {
        node_fatal(n, "out of memory");
        return;
    }
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

static void take_collection(struct node *n, const char *name, const struct otr_kv *kv)
{
    struct topology_collection c = {0};
    const struct topology_collection *old = topology_collection(n->topology, name);
    struct otr_errmsg msg = {0};

    if (value_collection_parse(kv->value, &c, &msg) != 0) {
        bad_value(kv, &msg);
        return;
    }
    memset(c.name, 0, sizeof c.name);
    snprintf(c.name, sizeof c.name, "%s", name);
    c.revision = kv->revision;
    if (old != NULL && old->revision > kv->revision) {
        return; /* a direct read was faster than the watch */
    }
    if (old != NULL && old->id != c.id) {
        collections_gone(n, old);
    }
    if (topology_collection_set(n->topology, &c) != 0) {
        node_fatal(n, "out of memory");
    }
    collections_changed(n);
}

static void take_put(struct coordinator *c, const struct otr_kv *kv)
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
        take_collection(n, key.name, kv);
        break;
    case KEY_CONTROLLER:
    case KEY_SERVICE:
    case KEY_OTHER:
        break;
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

static void take_delete(struct coordinator *c, const char *text, uint64_t revision)
{
    struct node *n = c->node;
    const struct topology_collection *old;
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
        old = topology_collection(n->topology, key.name);
        if (old != NULL && old->revision <= revision) {
            collections_gone(n, old);
            topology_collection_forget(n->topology, key.name);
            collections_changed(n);
        }
        break;
    case KEY_CONFIG:
    case KEY_SHARD:
        log_error("", "key %s was deleted from the coordinator: restore it; topology cannot change until then", text);
        break;
    default:
        break;
    }
}

/* --- resync: what is not named any more is gone
 * ------------------------------------------------------------------------ */

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void resync_forget(struct coordinator *c)
{
    for (size_t i = 0; i < c->named_count; i++) {
        free(c->named[i]);
    }
    free(c->named);
    c->named = NULL;
    c->named_count = 0;
}

static void resync_note(struct coordinator *c, const char *key)
{
    char **grown = realloc(c->named, (c->named_count + 1) * sizeof *grown);

    if (grown != NULL) {
        c->named = grown;
        grown[c->named_count] = strdup(key);
    }
    if (grown == NULL || grown[c->named_count] == NULL) {
        node_fatal(c->node, "out of memory");
        return;
    }
    c->named_count++;
}

static bool resync_named(const struct coordinator *c, const char *key)
{
    return c->named_count > 0 && bsearch(&key, c->named, c->named_count, sizeof *c->named, compare_text) != NULL;
}

static void resync_end(struct coordinator *c, uint64_t revision)
{
    struct node *n = c->node;
    char key[KEY_MAX];

    if (c->named_count > 0) {
        qsort(c->named, c->named_count, sizeof *c->named, compare_text);
    }
    for (otr_node i = 1; i <= topology_nodes_count(n->topology); i++) {
        key_live(key, n->cluster, topology_name(n->topology, i));
        if (topology_node(n->topology, i)->live && !resync_named(c, key)) {
            take_delete(c, key, revision);
        }
    }
    for (otr_shard i = 0; i < topology_shards_count(n->topology); i++) {
        struct topology_shard *t = topology_shard(n->topology, i);
        key_lease(key, n->cluster, i);
        if (t != NULL && t->lease.present && !resync_named(c, key)) {
            take_delete(c, key, revision);
        }
    }
    for (uint32_t i = topology_collections_count(n->topology); i > 0; i--) {
        key_collection(key, n->cluster, topology_collection_at(n->topology, i - 1)->name);
        if (!resync_named(c, key)) {
            take_delete(c, key, revision);
        }
    }
    resync_forget(c);
    c->resyncing = false;
}

/* --- watch
 * ------------------------------------------------------------------------------------------------------------- */

static void on_watch(struct otr_watch *watch, int status, const struct otr_watch_event *event,
                     const struct otr_errmsg *msg)
{
    struct coordinator *c = watch->data;
    struct node *n = c->node;

    if (n->closing || n->dying) {
        return;
    }
    if (status != 0) {
        log_error("", "coordinator: the watch ended: %s", msg != NULL ? msg->text : otr_strerror(status));
        c->watching = false;
        return;
    }
    switch (event->type) {
    case OTR_WATCH_PUT:
        if (c->resyncing) {
            resync_note(c, event->kv.key);
        }
        take_put(c, &event->kv);
        break;
    case OTR_WATCH_DELETE:
        take_delete(c, event->kv.key, event->kv.revision);
        break;
    case OTR_WATCH_RESYNC:
        log_warn("", "coordinator: history is gone: reading everything again");
        resync_forget(c);
        c->resyncing = true;
        break;
    case OTR_WATCH_RESYNC_END:
        resync_end(c, event->revision);
        break;
    case OTR_WATCH_SILENT:
        log_warn("", "coordinator: the watch is silent");
        break;
    case OTR_WATCH_ALIVE:
        log_info("", "coordinator: the watch is alive again");
        break;
    }
    node_changed(n);
}

void coordinator_check_answer(struct node *n, const struct otr_get_result *result)
{
    struct coordinator *c = n->coordinator;
    bool regressed = (c->identity != 0 && result->identity != c->identity) || result->revision < c->revision;

    /* PROTOCOL D4. */
    if (regressed && !c->regressed) {
        log_error(
            "",
            "the coordinator is not what it was (identity %016llx, was %016llx; revision %llu, was %llu): restored "
            "or replaced. Topology cannot change until it is set up again from the survivors",
            (unsigned long long)result->identity, (unsigned long long)c->identity, (unsigned long long)result->revision,
            (unsigned long long)c->revision);
        c->regressed = true;
        tell_all(c);
    }
    if (c->identity == 0) {
        c->identity = result->identity;
    }
    if (result->revision > c->revision) {
        c->revision = result->revision;
    }
}

static void read_all(struct coordinator *c);

static void on_all(struct otr_get_req *req, int status, const struct otr_get_result *result,
                   const struct otr_errmsg *msg)
{
    struct coordinator *c = req->data;
    struct node *n = c->node;
    char prefix[KEY_MAX];

    c->reading_all = false;
    if (n->closing || n->dying) {
        return;
    }
    if (status != 0) {
        LOG_LIMITED(LOG_WARN, "", "coordinator: cannot read the cluster's state: %s; trying on",
                    msg != NULL && msg->text[0] != '\0' ? msg->text : otr_strerror(status));
        return; /* the tick tries again */
    }
    coordinator_check_answer(n, result);
    for (size_t i = 0; i < result->kvs_count; i++) {
        take_put(c, &result->kvs[i]);
    }
    c->loaded = true;
    key_prefix(prefix, n->cluster);
    c->watch.data = c;
    c->watching = n->backend_ops->watch(n->backend, &c->watch, prefix, result->revision, on_watch) == 0;
    if (!topology_config(n->topology)->known) {
        log_info("", "cluster %s is not initialised yet: waiting for `outrigger cluster init`", n->cluster);
    }
    node_changed(n);
}

static void read_all(struct coordinator *c)
{
    struct node *n = c->node;
    char prefix[KEY_MAX];

    key_prefix(prefix, n->cluster);
    c->get.data = c;
    c->reading_all = n->backend_ops->get(n->backend, &c->get, prefix, on_all) == 0;
}

/* --- announcing ourselves
 * ---------------------------------------------------------------------------------------------- */

static void on_registered(struct otr_simple_req *req, int status, const struct otr_errmsg *msg)
{
    struct coordinator *c = req->data;

    (void)msg;
    c->registering = false;
    c->registered = status == 0;
}

static void register_service(struct coordinator *c)
{
    struct node *n = c->node;
    char key[KEY_MAX];
    struct otr_service service = {
        .id = n->name, .name = "outrigger", .address = n->client.host, .port = n->client.port, .key = key};

    key_service(key, n->cluster, n->name);
    c->service_req.data = c;
    c->registering = n->backend_ops->service_register(n->backend, &c->session, &service, OTR_HEALTH_PASSING,
                                                      &c->service_req, on_registered) == 0;
}

static void on_node_put(struct otr_txn_req *req, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    (void)req;
    (void)status; /* CONFLICT: it is there already; the rest is tried again with the next session */
    (void)revision;
    (void)msg;
}

static void put_node(struct coordinator *c)
{
    struct node *n = c->node;
    struct topology_node self = {.registered = true};
    char key[KEY_MAX];
    char *value;

    snprintf(self.name, sizeof self.name, "%s", n->name);
    snprintf(self.zone, sizeof self.zone, "%s", n->zone);
    value = value_node_print(&self);
    if (value == NULL) {
        return;
    }
    key_node(key, n->cluster, n->name);
    (void)n->backend_ops->txn(
        n->backend, &c->node_req,
        &(struct otr_txn){
            .compares = &(struct otr_compare){.type = OTR_COMPARE_ABSENT, .key = key},
            .compares_count = 1,
            .ops = &(struct otr_op){.type = OTR_OP_PUT, .key = key, .value = value, .value_bytes = strlen(value)},
            .ops_count = 1,
        },
        on_node_put);
    free(value);
}

static void on_announced(struct otr_txn_req *req, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    struct coordinator *c = req->data;

    (void)revision;
    c->announcing = false;
    if (c->node->closing) {
        return;
    }
    if (status != 0) {
        LOG_LIMITED(LOG_WARN, "", "coordinator: cannot announce this node: %s; trying on",
                    msg != NULL && msg->text[0] != '\0' ? msg->text : otr_strerror(status));
        return;
    }
    c->announced = true;
    put_node(c);
    register_service(c);
}

static void announce(struct coordinator *c)
{
    struct node *n = c->node;
    struct topology_node self = {.live = true, .incarnation = n->incarnation, .client = n->client, .peer = n->peer};
    char key[KEY_MAX];
    char *value;

    snprintf(self.name, sizeof self.name, "%s", n->name);
    snprintf(self.session, sizeof self.session, "%s", c->session.id);
    snprintf(self.version, sizeof self.version, "1");
    value = value_live_print(&self);
    if (value == NULL) {
        return;
    }
    key_live(key, n->cluster, n->name);
    c->live_req.data = c;
    c->announcing = n->backend_ops->txn(n->backend, &c->live_req,
                                        &(struct otr_txn){
                                            .ops =
                                                &(struct otr_op){
                                                    .type = OTR_OP_PUT_BOUND,
                                                    .key = key,
                                                    .value = value,
                                                    .value_bytes = strlen(value),
                                                    .session = &c->session,
                                                },
                                            .ops_count = 1,
                                        },
                                        on_announced) == 0;
    free(value);
}

/* --- session
 * ----------------------------------------------------------------------------------------------------------- */

static void open_session(struct coordinator *c);

static void on_session(struct otr_session *session, enum otr_session_state state, const struct otr_errmsg *msg)
{
    struct coordinator *c = session->data;
    struct node *n = c->node;
    const char *why = msg != NULL ? msg->text : "";

    if (n->closing) {
        return;
    }
    switch (state) {
    case OTR_SESSION_OPEN:
        log_info("", "coordinator: session %s open, ttl %u ms", session->id, session->ttl_ms);
        c->session_open = true;
        c->reachable = true;
        c->announced = false;
        announce(c);
        break;
    case OTR_SESSION_UNREACHABLE:
        log_warn("", "coordinator: cannot be reached: %s; serving goes on, topology stands still", why);
        c->reachable = false;
        break;
    case OTR_SESSION_CONFIRMED:
        log_info("", "coordinator: reachable again");
        c->reachable = true;
        break;
    case OTR_SESSION_LOST:
        log_warn("", "coordinator: session %s is lost: %s; opening another", session->id, why);
        c->session_open = false;
        c->announced = false;
        c->session_wanted = true; /* by the tick: not from inside its own report */
        break;
    }
    tell_all(c);
}

static void open_session(struct coordinator *c)
{
    struct node *n = c->node;

    c->session = (struct otr_session){.data = c};
    c->session_wanted = n->backend_ops->session_open(n->backend, &c->session, c->session_ttl_ms, on_session) != 0;
}

static void on_tick(uv_timer_t *timer)
{
    struct coordinator *c = timer->data;

    if (c->node->closing || c->node->dying) {
        return;
    }
    if (c->session_wanted) {
        open_session(c);
    }
    if (c->session_open && c->reachable && !c->announced && !c->announcing) {
        announce(c);
    }
    if (!c->watching && !c->reading_all) {
        read_all(c);
    }
}

bool coordinator_reachable(const struct node *n)
{
    return n->coordinator->reachable;
}

int coordinator_start(struct node *n, const struct otr_backend_config *config, uint32_t session_ttl_ms,
                      struct otr_errmsg *msg)
{
    struct otr_backend_config own = *config;
    struct coordinator *c = calloc(1, sizeof *c);
    int rv;

    if (c == NULL) {
        return OTR_NOMEM;
    }
    own.loop = n->loop;
    rv = n->backend_ops->open(&n->backend, &own, msg);
    if (rv != 0) {
        free(c);
        return rv;
    }
    c->node = n;
    c->session_ttl_ms = session_ttl_ms;
    n->coordinator = c;
    uv_timer_init(n->loop, &c->timer);
    n->handles_open++;
    c->timer.data = c;
    uv_timer_start(&c->timer, on_tick, RETRY_MS, RETRY_MS);
    open_session(c);
    read_all(c);
    return 0;
}

/* --- closing
 * ----------------------------------------------------------------------------------------------------------- */

static void on_backend_closed(struct otr_backend *backend)
{
    struct node *n = backend->data;
    struct coordinator *c = n->coordinator;

    resync_forget(c);
    n->backend = NULL;
    c->closed(n);
}

static void on_session_closed(struct otr_simple_req *req, int status, const struct otr_errmsg *msg)
{
    struct coordinator *c = req->data;

    (void)status;
    (void)msg;
    c->node->backend_ops->close(c->node->backend, on_backend_closed, c->node);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct coordinator *c = handle->data;

    node_handle_closed(c->node);
}

void coordinator_close(struct node *n, void (*cb)(struct node *n))
{
    struct coordinator *c = n->coordinator;

    c->closed = cb;
    uv_close((uv_handle_t *)&c->timer, on_timer_closed);
    c->service_req.data = c;
    /* Our keys go at once: nobody has to wait for the session to run out. */
    if (!c->session_open ||
        n->backend_ops->session_close(n->backend, &c->session, &c->close_req, on_session_closed) != 0) {
        n->backend_ops->close(n->backend, on_backend_closed, n);
        return;
    }
    c->close_req.data = c;
}
