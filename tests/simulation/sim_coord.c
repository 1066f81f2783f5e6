/* A linearizable key-value store with sessions and watches, as sidecar/node/coordinator.c presents it to the replicas:
 * requests take time, answers get lost, a transaction whose answer is lost takes effect now, much later or never. */
#include "tests/simulation/sim.h"

#include <stdio.h>
#include <stdlib.h>

enum { COORD_KEEPALIVE_US = 1000 * SIM_MS, COORD_LATE_US = 5000 * SIM_MS };

static void tell_coordinator(struct sim *s, struct sim_node *n);

static uint64_t latency(struct sim *s)
{
    return s->coord.flaky && sim_chance(s, 20) ? sim_between(s, SIM_MS, 600 * SIM_MS) : sim_between(s, 300, 4 * SIM_MS);
}

static bool reaches(const struct sim *s, const struct sim_node *n)
{
    return !s->coord.down && !n->coord_blocked && !n->coord_reset;
}

static bool hears(const struct sim *s, const struct sim_node *n)
{
    return reaches(s, n) && !n->coord_deaf;
}

/* An answer shows the coordinator at this revision; `began`: the highest that had been shown when it was asked. False:
 * it went back in time, and nothing that it says counts any more (PROTOCOL D4; sidecar/node/coordinator.c). */
static bool answer_counts(struct sim *s, struct sim_node *n, uint64_t revision, uint64_t began)
{
    if (!n->regressed && revision < began) {
        sim_trace(s, "node %d: the coordinator went back from %" PRIu64 " to %" PRIu64, n->id, began, revision);
        sim_reached(s, SIM_PAST_NOTICED);
        n->regressed = true;
        tell_coordinator(s, n);
    }
    n->revision = revision > n->revision && !n->regressed ? revision : n->revision;
    return !n->regressed;
}

/* --- history and watches ------------------------------------------------------------------------------------------ */

static void watch_kick(struct sim *s, struct sim_node *n);

static void tell_lease(struct sim_shard *sh, const struct sim_lease *l, uint64_t revision)
{
    shard_step(sh, &(struct replica_event){
                       .type = REPLICA_EV_LEASE,
                       .lease = {.present = l->present,
                                 .node = (otr_node)l->node,
                                 .incarnation = l->incarnation,
                                 .epoch = l->epoch,
                                 .revision = revision,
                                 .mine = l->present && sh->node->session != 0 && l->session == sh->node->session},
                   });
}

static void tell_descriptor(struct sim_shard *sh, const struct descriptor *d, uint64_t revision, uint64_t read)
{
    shard_step(sh, &(struct replica_event){
                       .type = REPLICA_EV_DESCRIPTOR,
                       .descriptor = {.descriptor = d, .revision = revision, .read = read},
                   });
}

static void deliver_change(struct sim *s, struct sim_node *n, const struct sim_change *c)
{
    struct sim_shard *sh = n->shards[c->shard];

    if (sh == NULL && !c->is_lease && descriptor_has_replica(&c->descriptor, (otr_node)n->id)) {
        sh = node_shard_make(s, n, c->shard);
    }
    if (sh == NULL) {
        return;
    }
    if (c->is_lease) {
        tell_lease(sh, &c->lease, c->revision);
    } else {
        tell_descriptor(sh, &c->descriptor, c->revision, 0);
    }
}

static void watch_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = &s->nodes[e->node];

    n->watch_scheduled = false;
    if (s->now_us < n->watch_held_us) {
        n->watch_scheduled = true;
        sim_after(s, n->watch_held_us - s->now_us, n->id, watch_fire);
        return;
    }
    if (!n->watching || !hears(s, n)) {
        return; /* goes on when it can be reached again: see keepalive */
    }
    if (n->watch_cursor > n->watch_begin && faults_rate(s, FAULT_DOUBLE_WATCH, 100)) {
        faults_hit(s, FAULT_DOUBLE_WATCH, n->id);
        n->watch_cursor -=
            1 + sim_below(s, n->watch_cursor - n->watch_begin < 4 ? n->watch_cursor - n->watch_begin : 4);
    }
    while (n->watch_cursor < s->coord.history_count && n->alive) {
        struct sim_change c = s->coord.history[n->watch_cursor++];

        n->revision = c.revision > n->revision ? c.revision : n->revision;
        deliver_change(s, n, &c);
    }
}

static void watch_kick(struct sim *s, struct sim_node *n)
{
    uint64_t delay_us = latency(s);

    if (!n->alive || !n->watching || n->watch_scheduled || n->watch_cursor >= s->coord.history_count || !hears(s, n)) {
        return;
    }
    if (faults_rate(s, FAULT_SLOW_WATCH, 100)) {
        faults_hit(s, FAULT_SLOW_WATCH, n->id);
        delay_us += sim_between(s, 0, 2000 * SIM_MS);
    }
    n->watch_scheduled = true;
    sim_after(s, delay_us, n->id, watch_fire);
}

static void record(struct sim *s, const struct sim_change *c)
{
    s->coord.history =
        sim_grow(s->coord.history, &s->coord.history_capacity, s->coord.history_count, sizeof *s->coord.history);
    s->coord.history[s->coord.history_count++] = *c;
    for (int i = 1; i <= s->nodes_count; i++) {
        watch_kick(s, &s->nodes[i]);
    }
}

static void put_lease(struct sim *s, otr_shard shard, const struct sim_lease *l)
{
    s->coord.shards[shard].lease = *l;
    record(s, &(struct sim_change){.shard = shard, .is_lease = true, .revision = l->revision, .lease = *l});
}

static void put_descriptor(struct sim *s, otr_shard shard, const struct descriptor *d, uint64_t revision)
{
    struct descriptor before = s->coord.shards[shard].descriptor;
    char set[4 * OTR_REPLICAS_MAX + 1] = "";

    for (uint32_t i = 0, at = 0; i < d->in_sync_count; i++) {
        at += (uint32_t)snprintf(set + at, sizeof set - at, "%s%u", i == 0 ? "" : ",", d->in_sync[i].node);
    }
    s->coord.shards[shard].exists = true;
    s->coord.shards[shard].descriptor = *d;
    s->coord.shards[shard].revision = revision;
    sim_trace(s, "coordinator: shard %u: epoch %" PRIu64 " version %" PRIu64 " primary %u in_sync (%s) at %" PRIu64,
              shard, d->epoch, d->version, d->primary, set, revision);
    record(s, &(struct sim_change){.shard = shard, .revision = revision, .descriptor = *d});
    check_past(s, shard, d);
    if (d->in_sync_count < d->min_in_sync || before.in_sync_count < before.min_in_sync) {
        s->few_us[shard] = d->in_sync_count < d->min_in_sync ? UINT64_MAX : s->now_us;
    }
    check_published(s, shard);
    check_election(s, shard, &before, d);
    check_lossy_published(s, shard, &before, d);
    observe_published(s, shard, &before, d);
    faults_ambush_published(s, &before, d);
}

void coord_put(struct sim *s, otr_shard shard, const struct descriptor *d)
{
    put_descriptor(s, shard, d, ++s->coord.revision);
}

/* --- sessions ----------------------------------------------------------------------------------------------------- */

static struct sim_session *session_find(struct sim *s, uint64_t id)
{
    return id == 0 || id > s->coord.sessions_count ? NULL : &s->coord.sessions[id - 1];
}

static void session_end(struct sim *s, struct sim_session *session)
{
    if (!session->alive) {
        return;
    }
    session->alive = false;
    sim_trace(s, "coordinator: session %" PRIu64 " of node %d ends", session->id, session->node);
    for (uint32_t i = 0; i < s->shards_count; i++) {
        if (s->coord.shards[i].lease.present && s->coord.shards[i].lease.session == session->id) {
            put_lease(s, i, &(struct sim_lease){.revision = ++s->coord.revision});
        }
    }
}

void coord_session_kill(struct sim *s, int node)
{
    for (size_t i = 0; i < s->coord.sessions_count; i++) {
        if (s->coord.sessions[i].node == node) {
            session_end(s, &s->coord.sessions[i]);
        }
    }
}

static void expire_fire(struct sim *s, struct sim_event *e)
{
    struct sim_session *session = session_find(s, e->a);

    (void)e;
    if (!session->alive) {
        return;
    }
    if (session->expires_us > s->now_us || s->coord.down) {
        uint64_t left_us = session->expires_us > s->now_us ? session->expires_us - s->now_us : 100 * SIM_MS;

        sim_after(s, left_us, 0, expire_fire)->a = session->id;
        return;
    }
    sim_reached(s, SIM_SESSION_EXPIRED);
    session_end(s, session);
}

static void tell_coordinator(struct sim *s, struct sim_node *n)
{
    for (uint32_t i = 0; i < s->shards_count && n->alive; i++) {
        if (n->shards[i] != NULL) {
            coord_brief(n->shards[i]);
        }
    }
}

void coord_brief(struct sim_shard *sh)
{
    shard_step(sh, &(struct replica_event){
                       .type = REPLICA_EV_COORDINATOR,
                       .coordinator = {.session_open = sh->node->session != 0,
                                       .reachable = sh->node->reachable,
                                       .regressed = sh->node->regressed},
                   });
}

static void open_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = &s->nodes[e->node];
    struct sim_session *session;

    n->session_opening = false;
    if (!hears(s, n)) {
        return; /* the next keepalive tries again */
    }
    s->coord.sessions =
        sim_grow(s->coord.sessions, &s->coord.sessions_capacity, s->coord.sessions_count, sizeof *s->coord.sessions);
    session = &s->coord.sessions[s->coord.sessions_count++];
    *session = (struct sim_session){
        .id = s->coord.sessions_count, .node = n->id, .expires_us = s->now_us + SIM_SESSION_TTL, .alive = true};
    sim_after(s, SIM_SESSION_TTL, 0, expire_fire)->a = session->id;
    n->session = session->id;
    n->reachable = true;
    tell_coordinator(s, n);
}

static void snapshot_fire(struct sim *s, struct sim_event *e);

static void keepalive_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = &s->nodes[e->node];
    bool reachable = hears(s, n);
    struct sim_session *session = session_find(s, n->session);

    sim_after(s, COORD_KEEPALIVE_US, n->id, keepalive_fire);
    if (reachable && session != NULL && !session->alive) {
        sim_trace(s, "node %d: session lost", n->id);
        n->session = 0;
        tell_coordinator(s, n);
    } else if (reaches(s, n) && session != NULL && session->alive) {
        session->expires_us = s->now_us + SIM_SESSION_TTL;
    }
    if (n->reachable != reachable && n->alive) {
        n->reachable = reachable;
        tell_coordinator(s, n);
    }
    if (!reachable || !n->alive) {
        return;
    }
    if (n->session == 0 && !n->session_opening) {
        n->session_opening = true;
        sim_after(s, latency(s), n->id, open_fire);
    }
    if (!n->watching && !n->regressed) {
        sim_after(s, latency(s), n->id, snapshot_fire);
    }
    watch_kick(s, n);
}

void coord_watch_anew(struct sim *s, struct sim_node *n)
{
    n->watching = false;
    sim_after(s, latency(s) + sim_below(s, 20 * SIM_MS), n->id, snapshot_fire);
}

void coord_compact(struct sim *s, struct sim_node *n)
{
    sim_trace(s, "node %d: its watch has to begin anew", n->id);
    n->watching = false;
    sim_after(s, latency(s) + sim_below(s, 500 * SIM_MS), n->id, snapshot_fire);
}

/* The first look at everything; the watch goes on from there. */
static void snapshot_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = &s->nodes[e->node];

    if (n->watching || !hears(s, n) || !answer_counts(s, n, s->coord.revision, n->revision)) {
        return;
    }
    if (n->watch_cursor != 0) {
        sim_reached(s, SIM_WATCH_RESYNC);
    }
    n->watching = true;
    n->reachable = true;
    n->watch_cursor = n->watch_begin = s->coord.history_count;
    tell_coordinator(s, n);
    for (uint32_t i = 0; i < s->shards_count && n->alive; i++) {
        struct sim_shard *sh = n->shards[i];

        if (!s->coord.shards[i].exists) {
            continue;
        }
        if (sh == NULL && descriptor_has_replica(&s->coord.shards[i].descriptor, (otr_node)n->id)) {
            sh = node_shard_make(s, n, i);
        }
        if (sh != NULL) {
            tell_lease(sh, &s->coord.shards[i].lease, s->coord.shards[i].lease.revision);
            if (n->alive) {
                tell_descriptor(sh, &s->coord.shards[i].descriptor, s->coord.shards[i].revision, 0);
            }
        }
    }
}

void coord_node_started(struct sim *s, struct sim_node *n)
{
    n->session = 0;
    n->session_opening = true;
    n->reachable = false;
    n->watching = false;
    n->watch_scheduled = false;
    n->watch_cursor = 0;
    sim_after(s, sim_between(s, SIM_MS, 20 * SIM_MS), n->id, snapshot_fire);
    sim_after(s, sim_between(s, SIM_MS, 20 * SIM_MS), n->id, open_fire);
    sim_after(s, COORD_KEEPALIVE_US, n->id, keepalive_fire);
}

/* --- transactions ------------------------------------------------------------------------------------------------- */

struct txn {
    uint64_t restored; /* of the coordinator that it was sent to */
    struct descriptor before;
    otr_shard shard;
    uint64_t number; /* the replica's */
    int node;
    uint64_t incarnation, session;
    bool change_descriptor;
    uint64_t compare_revision;
    struct descriptor descriptor;
    enum replica_lease_op lease;
    uint64_t lease_revision;
};

static int txn_apply(struct sim *s, const struct txn *t, uint64_t *revision)
{
    const struct sim_lease *lease = &s->coord.shards[t->shard].lease;
    struct sim_session *session = session_find(s, t->session);

    if (t->restored != s->coord.restored || s->coord.shards[t->shard].revision != t->compare_revision ||
        (t->lease == REPLICA_LEASE_IF_ABSENT && lease->present) ||
        (t->lease == REPLICA_LEASE_IF_REVISION && (!lease->present || lease->revision != t->lease_revision))) {
        return OTR_CONFLICT;
    }
    if (t->lease != REPLICA_LEASE_KEEP && (session == NULL || !session->alive)) {
        return OTR_SESSION;
    }
    *revision = ++s->coord.revision;
    if (t->lease != REPLICA_LEASE_KEEP) {
        put_lease(s, t->shard,
                  &(struct sim_lease){.present = true,
                                      .node = t->node,
                                      .incarnation = t->incarnation,
                                      .epoch = t->descriptor.epoch,
                                      .revision = *revision,
                                      .session = t->session});
    }
    if (t->change_descriptor) {
        put_descriptor(s, t->shard, &t->descriptor, *revision);
    }
    return 0;
}

static void txn_drop(struct sim *s, struct sim_event *e)
{
    (void)s;
    free(e->p);
    e->p = NULL;
}

static void txn_answer_fire(struct sim *s, struct sim_event *e)
{
    struct sim_shard *sh = s->nodes[e->node].shards[e->c >> 32];

    if ((int)(e->c & 0xffffffff) != OTR_UNKNOWN && s->nodes[e->node].coord_blocked) {
        struct sim_event *late = sim_after(s, SIM_REQUEST_TIMEOUT, e->node, txn_answer_fire); /* it did not arrive */

        late->a = e->a;
        late->c = (e->c & ~0xffffffffULL) | OTR_UNKNOWN;
        return;
    }
    if (sh != NULL) {
        shard_step(sh, &(struct replica_event){
                           .type = REPLICA_EV_TXN_DONE,
                           .txn_done = {.txn = e->a, .status = (int)(e->c & 0xffffffff), .revision = e->b},
                       });
    }
}

static void txn_answer(struct sim *s, const struct txn *t, int status, uint64_t revision, uint64_t delay_us)
{
    struct sim_event *e;

    if (!s->nodes[t->node].alive || s->nodes[t->node].incarnation != t->incarnation) {
        return;
    }
    e = sim_after(s, delay_us, t->node, txn_answer_fire);
    e->a = t->number;
    e->b = revision;
    e->c = (uint64_t)t->shard << 32 | (uint32_t)status;
}

/* Long after everybody has forgotten it. */
static void txn_late_fire(struct sim *s, struct sim_event *e)
{
    const struct txn *t = e->p;
    uint64_t revision = 0;
    int status = txn_apply(s, t, &revision);

    sim_trace(s, "coordinator: shard %u: late transaction of node %d: %s", t->shard, t->node, otr_strerror(status));
    observe_txn(s, &t->before, &t->descriptor, status, true);
}

static void txn_late(struct sim *s, const struct txn *t)
{
    struct sim_event *e = sim_after(s, sim_between(s, SIM_MS, COORD_LATE_US), 0, txn_late_fire);

    e->p = sim_alloc(sizeof *t);
    memcpy(e->p, t, sizeof *t);
    e->drop = txn_drop;
}

static void txn_unknown(struct sim *s, const struct txn *t)
{
    s->counts.txns_unknown++;
    observe_txn(s, &t->before, &t->descriptor, OTR_UNKNOWN, false);
    faults_ambush_unknown(s, &t->descriptor);
}

static void txn_fire(struct sim *s, struct sim_event *e)
{
    const struct txn *t = e->p;
    const struct sim_node *n = &s->nodes[t->node];
    bool lost = s->faults && s->coord.flaky && sim_chance(s, 40);
    uint64_t revision = 0;
    int status;

    if (n->coord_deaf && reaches(s, n)) {
        txn_unknown(s, t);
        (void)txn_apply(s, t, &revision);
        txn_answer(s, t, OTR_UNKNOWN, 0, SIM_REQUEST_TIMEOUT);
        return;
    }
    if (!reaches(s, n)) {
        /* Never sent, or sent and not heard of again. */
        if (n->coord_reset || sim_chance(s, 50)) {
            txn_answer(s, t, OTR_UNREACHABLE, 0, latency(s));
        } else {
            txn_unknown(s, t);
            txn_answer(s, t, OTR_UNKNOWN, 0, SIM_REQUEST_TIMEOUT);
            if (s->faults && sim_chance(s, 50)) {
                txn_late(s, t);
            }
        }
        return;
    }
    if (lost) {
        txn_unknown(s, t);
        txn_answer(s, t, OTR_UNKNOWN, 0, sim_between(s, SIM_MS, SIM_REQUEST_TIMEOUT));
        switch (sim_below(s, 3)) {
        case 0:
            break;
        case 1:
            (void)txn_apply(s, t, &revision);
            break;
        default:
            txn_late(s, t);
            break;
        }
        return;
    }
    status = txn_apply(s, t, &revision);
    observe_txn(s, &t->before, &t->descriptor, status, false);
    txn_answer(s, t, status, revision, latency(s));
}

void coord_txn(struct sim_shard *sh, const struct replica_action *a)
{
    struct sim *s = sh->sim;
    struct txn *t = sim_alloc(sizeof *t);
    struct sim_event *e = sim_after(s, latency(s), 0, txn_fire);

    *t = (struct txn){.restored = s->coord.restored,
                      .before = s->coord.shards[sh->id].descriptor,
                      .shard = sh->id,
                      .number = a->txn.txn,
                      .node = sh->node->id,
                      .incarnation = sh->node->incarnation,
                      .session = sh->node->session,
                      .change_descriptor = a->txn.change_descriptor,
                      .compare_revision = a->txn.compare_revision,
                      .descriptor = a->txn.descriptor,
                      .lease = a->txn.lease,
                      .lease_revision = a->txn.lease_revision};
    e->p = t;
    e->drop = txn_drop;
}

/* --- reads -------------------------------------------------------------------------------------------------------- */

struct shown {
    struct sim_lease lease;
    struct descriptor descriptor;
    uint64_t revision, read, began_us;
    uint64_t coord_revision, began_revision;
    otr_shard shard;
    uint32_t client; /* with attempt != 0: for a client's read */
    uint64_t attempt;
};

static void shown_fire(struct sim *s, struct sim_event *e)
{
    const struct shown *shown = e->p;
    struct sim_node *n = &s->nodes[e->node];
    struct sim_shard *sh = n->shards[shown->shard];

    if (sh == NULL) {
        return;
    }
    if (shown->revision != 0 && !answer_counts(s, n, shown->coord_revision, shown->began_revision)) {
        if (shown->attempt == 0) {
            shard_step(sh,
                       &(struct replica_event){.type = REPLICA_EV_READ_FAILED, .read_failed = {.read = shown->read}});
        }
        return;
    }
    if (shown->attempt != 0) {
        clients_read_confirmed(sh, shown->client, shown->attempt, &shown->descriptor);
        return;
    }
    if (shown->revision == 0) {
        shard_step(sh, &(struct replica_event){.type = REPLICA_EV_READ_FAILED, .read_failed = {.read = shown->read}});
        return;
    }
    sh->read_us = shown->began_us;
    tell_lease(sh, &shown->lease, shown->lease.revision);
    if (n->alive) {
        tell_descriptor(sh, &shown->descriptor, shown->revision, shown->read);
    }
}

static void read_fire(struct sim *s, struct sim_event *e)
{
    struct shown *shown = e->p;
    struct sim_event *answer;
    struct sim_node *n = &s->nodes[e->node];
    bool answered = hears(s, n) && !(s->faults && s->coord.flaky && sim_chance(s, 20));

    if (answered) {
        shown->lease = s->coord.shards[shown->shard].lease;
        shown->descriptor = s->coord.shards[shown->shard].descriptor;
        shown->revision = s->coord.shards[shown->shard].revision;
        shown->coord_revision = s->coord.revision;
    } else if (shown->attempt != 0) {
        return; /* the client's patience ends */
    }
    answer = sim_after(s, answered ? latency(s) : SIM_REQUEST_TIMEOUT, e->node, shown_fire);
    answer->p = shown;
    answer->drop = txn_drop;
    e->p = NULL;
}

static void read_start(struct sim_shard *sh, const struct shown *what)
{
    struct sim_event *e = sim_after(sh->sim, latency(sh->sim), sh->node->id, read_fire);

    e->p = sim_alloc(sizeof *what);
    memcpy(e->p, what, sizeof *what);
    ((struct shown *)e->p)->began_revision = sh->node->revision;
    e->drop = txn_drop;
}

void coord_read(struct sim_shard *sh, uint64_t read)
{
    read_start(sh, &(struct shown){.shard = sh->id, .read = read, .began_us = sh->sim->now_us});
}

void coord_read_for_client(struct sim_shard *sh, uint32_t client, uint64_t attempt)
{
    read_start(sh, &(struct shown){.shard = sh->id, .client = client, .attempt = attempt});
}

/* --- beginning, outages, end -------------------------------------------------------------------------------------- */

static void init_fire(struct sim *s, struct sim_event *e)
{
    (void)e;
    for (uint32_t i = 0; i < s->shards_count; i++) {
        struct descriptor d = {.shard = i,
                               .generation = 1,
                               .version = 1,
                               .replicas_count = s->replicas_count,
                               .mode = s->modes ? s->settings.mode : REPLICA_SYNC,
                               .min_in_sync = 2,
                               .grant_ms = 120};

        for (uint32_t k = 0; k < s->replicas_count; k++) {
            d.replicas[k] = (otr_node)((i + k) % (uint32_t)s->nodes_count + 1);
        }
        put_descriptor(s, i, &d, ++s->coord.revision);
    }
}

void coord_start(struct sim *s)
{
    s->coord.revision = 100;
    sim_after(s, sim_between(s, SIM_MS, 100 * SIM_MS), 0, init_fire);
}

void coord_set_down(struct sim *s, bool down)
{
    s->coord.down = down;
    sim_trace(s, "coordinator is %s", down ? "down" : "up");
    for (size_t i = 0; !down && i < s->coord.sessions_count; i++) {
        /* etcd extends leases when a leader is elected; sometimes it does not help. */
        if (s->coord.sessions[i].alive && sim_chance(s, 80)) {
            s->coord.sessions[i].expires_us = s->now_us + SIM_SESSION_TTL;
        }
    }
    for (int i = 1; i <= s->nodes_count; i++) {
        watch_kick(s, &s->nodes[i]);
    }
}

void coord_free(struct sim *s)
{
    free(s->coord.history);
    free(s->coord.sessions);
}
