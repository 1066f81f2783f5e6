/* The node's side of the coordinator: session, announcement, and one watch that keeps the topology up to date.
 *
 * Start: session_open and get(prefix) go out at once; the answer fills the topology, a watch goes on from its revision.
 * While the coordinator is away both keep trying; nothing that serves data waits for them (DESIGN 3.3). Session open:
 * live/<node> is put, bound to it; lost: a new one is opened, the leases are taken again by the core in the same epoch.
 * Our own live key is watched like any other: coordinators lose healthy leases. */
#include "sidecar/node/coordinator.h"

#include "sidecar/coord/keys.h"
#include "sidecar/coord/values.h"
#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"
#include "sidecar/node/metered.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    RETRY_MS = 250,
    LOOK_MS = 500,           /* a coordinator that is not believed is asked this often whether it was set up anew */
    SESSION_CLOSE_MS = 1000, /* a coordinator that does not answer must not hold the exit: the session runs out */
};

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

/* --- watch
 * ------------------------------------------------------------------------------------------------------------- */

static void read_all(struct coordinator *c);

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
    /* D4: a coordinator that later shows less than this has gone back, whichever way this became known. */
    if ((event->type == OTR_WATCH_PUT || event->type == OTR_WATCH_DELETE) && event->kv.revision > c->revision) {
        c->revision = event->kv.revision;
    }
    switch (event->type) {
    case OTR_WATCH_PUT:
        coordinator_take_put(c, &event->kv);
        break;
    case OTR_WATCH_DELETE:
        coordinator_take_delete(c, event->kv.key, event->kv.revision);
        break;
    case OTR_WATCH_RESYNC:
        /* Only a read tells whether this is still the coordinator that it was (PROTOCOL D4): nothing of the state that
         * would follow is believed before. */
        log_warn("", "coordinator: history is gone: reading everything again");
        n->backend_ops->watch_stop(n->backend, watch);
        c->watching = false;
        read_all(c);
        return;
    case OTR_WATCH_RESYNC_END:
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

uint64_t coordinator_revision(const struct node *n)
{
    return n->coordinator->revision;
}

bool coordinator_regressed(const struct node *n)
{
    return n->coordinator->regressed;
}

bool coordinator_check_answer(struct node *n, const struct otr_get_result *result, uint64_t began_revision)
{
    struct coordinator *c = n->coordinator;

    if (!c->regressed && ((c->identity != 0 && result->identity != c->identity) || result->revision < began_revision)) {
        log_error(
            "",
            "the coordinator is not what it was (identity %016llx, was %016llx; revision %llu, was %llu): restored "
            "or replaced. Topology cannot change until it is set up again from the survivors",
            (unsigned long long)result->identity, (unsigned long long)c->identity, (unsigned long long)result->revision,
            (unsigned long long)began_revision);
        c->regressed = true;
        tell_all(c);
    }
    if (c->regressed) {
        return false;
    }
    c->identity = result->identity;
    if (result->revision > c->revision) {
        c->revision = result->revision;
    }
    return true;
}

void coordinator_emptied(struct coordinator *c, uint64_t revision)
{
    if (!c->regressed) {
        log_error(
            "", "the coordinator no longer has the cluster's settings: emptied. Topology cannot change until it is set "
                "up again from the survivors (outrigger cluster bootstrap --from-survivors)");
        c->regressed = true;
        tell_all(c);
    }
    collections_restore(c->node, revision);
}

/* Not believed, but set up anew from survivors (`cluster bootstrap --from-survivors`)? Only that gives a generation
 * above every one seen. */
static bool adopt(struct coordinator *c, const struct otr_get_result *result)
{
    struct node *n = c->node;
    uint64_t generation = coordinator_shown_generation(n, result);

    if (generation <= topology_config(n->topology)->generation) {
        c->adopting = false;
        return false;
    }
    log_warn("", "the coordinator was set up anew from the survivors, in generation %llu: it is believed again",
             (unsigned long long)generation);
    if (c->watching) {
        n->backend_ops->watch_stop(n->backend, &c->watch);
        c->watching = false;
    }
    coordinator_forget_revisions(n);
    c->identity = 0;
    c->revision = 0;
    c->reading_began = 0;
    c->regressed = false;
    c->node_known = false;
    c->announced = false;
    return true;
}

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
        c->adopting = false;
        otr_errmsg_set(&c->why, "%s", msg != NULL && msg->text[0] != '\0' ? msg->text : otr_strerror(status));
        LOG_LIMITED(LOG_WARN, "", "coordinator: cannot read the cluster's state: %s; trying on",
                    msg != NULL && msg->text[0] != '\0' ? msg->text : otr_strerror(status));
        return; /* the tick tries again */
    }
    if (c->adopting && !adopt(c, result)) {
        return;
    }
    if (!coordinator_check_answer(n, result, c->reading_began)) {
        return; /* what is known stays: primaries serve on with it (D4) */
    }
    if (topology_config(n->topology)->known && coordinator_shown_generation(n, result) == 0) {
        coordinator_emptied(c, result->revision);
        return;
    }
    c->known = true;
    c->why.text[0] = '\0';
    coordinator_take_all(c, result);
    if (c->adopting) {
        c->adopting = false;
        tell_all(c); /* only now: what the replicas know is of the new one */
    }
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
    c->reading_began = c->revision;
    c->reading_all = n->backend_ops->get(n->backend, &c->get, prefix, on_all) == 0;
}

/* --- announcing ourselves
 * ---------------------------------------------------------------------------------------------- */

static void announce_step(struct coordinator *c);

static void complain(const char *what, int status, const struct otr_errmsg *msg)
{
    LOG_LIMITED(LOG_WARN, "", "coordinator: cannot %s: %s; trying on", what,
                msg != NULL && msg->text[0] != '\0' ? msg->text : otr_strerror(status));
}

static void on_registered(struct otr_simple_req *req, int status, const struct otr_errmsg *msg)
{
    struct coordinator *c = req->data;

    c->registering = false;
    if (c->node->closing) {
        return;
    }
    if (status != 0) {
        complain("register the service", status, msg);
    }
    c->registered = status == 0 && c->registering_session == c->sessions;
}

static void register_service(struct coordinator *c)
{
    struct node *n = c->node;
    char key[KEY_MAX];
    struct otr_service service = {
        .id = n->name, .name = "outrigger", .address = n->client.host, .port = n->client.port, .key = key};

    key_service(key, n->cluster, n->name);
    c->service_req.data = c;
    c->registering_session = c->sessions;
    c->registering = n->backend_ops->service_register(n->backend, &c->session, &service, OTR_HEALTH_PASSING,
                                                      &c->service_req, on_registered) == 0;
}

static void on_node_put(struct otr_txn_req *req, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    struct coordinator *c = req->data;

    (void)revision;
    (void)msg;
    c->node_putting = false;
    c->node_known = status == 0 || status == OTR_CONFLICT; /* conflict: it is there already */
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
    c->node_req.data = c;
    c->node_putting =
        n->backend_ops->txn(
            n->backend, &c->node_req,
            &(struct otr_txn){
                .compares = &(struct otr_compare){.type = OTR_COMPARE_ABSENT, .key = key},
                .compares_count = 1,
                .ops = &(struct otr_op){.type = OTR_OP_PUT, .key = key, .value = value, .value_bytes = strlen(value)},
                .ops_count = 1,
            },
            on_node_put) == 0;
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
        complain("announce this node", status, msg);
        return; /* the tick tries again */
    }
    /* A key bound to a session that was lost meanwhile went with it. */
    c->announced = c->announcing_session == c->sessions && c->session_open;
    announce_step(c);
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
    c->announcing_session = c->sessions;
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

/* Whatever of our announcement is missing and not under way. */
static void announce_step(struct coordinator *c)
{
    if (!c->session_open || !c->reachable) {
        return;
    }
    if (!c->announced) {
        if (!c->announcing) {
            announce(c);
        }
        return;
    }
    if (!c->node_known && !c->node_putting) {
        put_node(c);
    }
    if (!c->registered && !c->registering) {
        register_service(c);
    }
}

/* --- session
 * ----------------------------------------------------------------------------------------------------------- */

static void open_session(struct coordinator *c);

static void on_open_later(struct later *l)
{
    struct coordinator *c = (struct coordinator *)((char *)l - offsetof(struct coordinator, open_later));

    c->session_queued = false;
    if (c->session_wanted && !c->node->closing && !c->node->dying) {
        open_session(c);
    }
}

/* Without a session nobody here can be elected: a backend that a transaction told of its session's end (OTR_SESSION)
 * reports it lost at once, and the next one is asked for at once. Not from inside the report; and one that did not last
 * is left to the tick, so that a coordinator which drops every session is not asked as fast as it answers. */
static void open_soon(struct coordinator *c)
{
    c->session_wanted = true;
    if (!c->session_queued && clock_now_ms() - c->session_opened_ms >= RETRY_MS) {
        c->session_queued = true;
        later_run(c->node, &c->open_later, on_open_later);
    }
}

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
        c->why.text[0] = '\0';
        c->session_opened_ms = clock_now_ms();
        c->sessions++;
        c->announced = false;
        c->registered = false;
        announce_step(c);
        break;
    case OTR_SESSION_UNREACHABLE:
        log_warn("", "coordinator: cannot be reached: %s; serving goes on, topology stands still", why);
        c->reachable = false;
        otr_errmsg_set(&c->why, "%s", why);
        break;
    case OTR_SESSION_CONFIRMED:
        log_info("", "coordinator: reachable again");
        c->reachable = true;
        c->why.text[0] = '\0';
        break;
    case OTR_SESSION_LOST:
        log_warn("", "coordinator: session %s is lost: %s; opening another", session->id, why);
        n->metrics.node.coordinator_sessions_lost_total++;
        c->session_open = false;
        c->announced = false;
        open_soon(c);
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
    announce_step(c);
    links_tick(c->node);
    if (!c->watching && !c->reading_all && !c->regressed) {
        read_all(c);
    } else if (c->regressed && !c->reading_all && clock_now_ms() - c->looked_ms >= LOOK_MS) {
        c->looked_ms = clock_now_ms();
        c->adopting = true;
        read_all(c);
    }
}

bool coordinator_reachable(const struct node *n)
{
    return n->coordinator->reachable;
}

bool coordinator_known(const struct node *n)
{
    return n->coordinator->known;
}

const char *coordinator_why(const struct node *n)
{
    const struct coordinator *c = n->coordinator;

    return c->why.text[0] != '\0' || c->reachable ? c->why.text : "no answer yet";
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
    rv = metered_open(&n->backend, n->backend_ops, &own, n->metrics.coordinator, msg);
    if (rv != 0) {
        free(c);
        return rv;
    }
    n->backend_ops = n->backend->ops;
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

    n->backend = NULL;
    c->closed(n);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct coordinator *c = handle->data;

    node_handle_closed(c->node);
}

/* Once: closing the backend ends a session_close that is still under way, whose callback comes here again. */
static void close_backend(struct coordinator *c)
{
    struct node *n = c->node;

    if (c->closing_backend) {
        return;
    }
    c->closing_backend = true;
    uv_close((uv_handle_t *)&c->timer, on_timer_closed);
    n->backend_ops->close(n->backend, on_backend_closed, n);
}

static void on_session_closed(struct otr_simple_req *req, int status, const struct otr_errmsg *msg)
{
    struct coordinator *c = req->data;

    if (status != 0 && !c->closing_backend) {
        log_warn("", "coordinator: the session could not be ended: %s", msg != NULL ? msg->text : otr_strerror(status));
    }
    close_backend(c);
}

static void on_session_close_late(uv_timer_t *timer)
{
    log_warn("", "coordinator: no answer: the session will run out by itself");
    close_backend(timer->data);
}

void coordinator_close(struct node *n, void (*cb)(struct node *n))
{
    struct coordinator *c = n->coordinator;

    c->closed = cb;
    c->close_req.data = c;
    uv_timer_start(&c->timer, on_session_close_late, SESSION_CLOSE_MS, 0);
    /* Our keys go at once: nobody has to wait for the session to run out. */
    if (!c->session_open ||
        n->backend_ops->session_close(n->backend, &c->session, &c->close_req, on_session_closed) != 0) {
        close_backend(c);
    }
}
