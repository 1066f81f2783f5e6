#include "sidecar/core/replica_internal.h"

#include <stdlib.h>

/* --- small things ------------------------------------------------------------------------------------------------- */

void replica_actions_close(struct replica_actions *out)
{
    free(out->items);
    *out = (struct replica_actions){0};
}

static int actions_reserve(struct replica_actions *out)
{
    struct replica_action *items;

    if (out->capacity >= REPLICA_ACTIONS_MAX) {
        return 0;
    }
    items = realloc(out->items, REPLICA_ACTIONS_MAX * sizeof *items);
    if (items == NULL) {
        return OTR_NOMEM;
    }
    out->items = items;
    out->capacity = REPLICA_ACTIONS_MAX;
    return 0;
}

struct replica_action *replica_emit(struct replica_actions *out, enum replica_action_type type)
{
    struct replica_action *a;

    assert(out->count < out->capacity);
    a = &out->items[out->count++];
    *a = (struct replica_action){.type = type};
    return a;
}

void replica_send(struct replica *r, struct replica_actions *out, otr_node to, const struct replica_msg *msg)
{
    struct replica_action *a;

    if (!replica_connected(r, to)) {
        return;
    }
    a = replica_emit(out, REPLICA_DO_SEND);
    a->send.to = to;
    a->send.msg = *msg;
    a->send.msg.generation = replica_generation(r);
}

/* Repeats are left out: what is wrong stays wrong for a while, and one line in the log is enough. */
void replica_alarm(struct replica *r, struct replica_actions *out, const char *text)
{
    if (r->alarm != text) {
        r->alarm = text;
        replica_emit(out, REPLICA_DO_ALARM)->alarm.text = text;
    }
}

void replica_fatal(struct replica *r, struct replica_actions *out, const char *text)
{
    r->failed = true;
    replica_emit(out, REPLICA_DO_FATAL)->fatal.text = text;
}

struct otr_position replica_position(const struct replica *r, uint64_t index)
{
    return (struct otr_position){.epoch = epochs_at(&r->epochs, index), .index = index};
}

struct replica_peer *replica_peer_find(struct replica *r, otr_node node)
{
    for (uint32_t i = 0; i < r->peers_count; i++) {
        if (r->peers[i].node == node) {
            return &r->peers[i];
        }
    }
    return NULL;
}

const struct replica_link *replica_link_find(const struct replica *r, otr_node node)
{
    for (size_t i = 0; i < r->links_count; i++) {
        if (r->links[i].node == node) {
            return &r->links[i];
        }
    }
    return NULL;
}

void replica_heard(struct replica *r, otr_node node)
{
    for (size_t i = 0; i < r->links_count; i++) {
        /* What was under way when the process died still arrives for a moment. */
        if (r->links[i].node == node && r->now_ms > r->links[i].since_ms + r->config.timings.beacon_ms) {
            r->links[i].contradicted = true;
        }
    }
}

bool replica_connected(const struct replica *r, otr_node node)
{
    const struct replica_link *link = replica_link_find(r, node);

    return link != NULL && link->state == REPLICA_PEER_UP;
}

/* --- lifetime ----------------------------------------------------------------------------------------------------- */

void replica_free(struct replica *r)
{
    if (r == NULL) {
        return;
    }
    epochs_close(&r->epochs);
    dedup_close(&r->dedup);
    free(r->links);
    free(r);
}

int replica_new(struct replica **out, const struct replica_config *config, const struct replica_durable *durable)
{
    struct replica *r = calloc(1, sizeof *r);

    if (r == NULL) {
        return OTR_NOMEM;
    }
    if (epochs_reserve(&r->epochs, 1) != 0) {
        replica_free(r);
        return OTR_NOMEM;
    }
    r->config = *config;
    if (r->config.timings.handoff_timeout_ms == 0) {
        r->config.timings.handoff_timeout_ms = REPLICA_HANDOFF_TIMEOUT_MS;
    }
    r->fresh_log_id = durable->fresh_log_id;
    r->now_ms = config->process_start_ms;
    r->meta = durable->meta;
    r->untrusted = durable->untrusted;
    r->pause_ms = REPLICA_PAUSE_MIN_MS;
    r->why = "started";
    /* A replica that has followed before goes on following whoever proves to lead, coordinator or not (DESIGN 3.3). */
    r->role = durable->meta.log_id != 0 ? REPLICA_FOLLOWER : REPLICA_IDLE;
    r->told.role = REPLICA_IDLE;
    if (durable->untrusted) {
        /* E3, E4: another log from here on; fresh_log_id takes its place before anything is acknowledged. */
        r->meta.log_id = 0;
        replica_log_clear(r, (struct otr_position){0});
    } else {
        replica_log_clear(r, durable->base);
        r->last = durable->last;
        r->durable_index = durable->last.index;
        r->committed_index =
            durable->committed_index < durable->base.index ? durable->base.index : durable->committed_index;
        if (r->committed_index > r->last.index) {
            r->committed_index = r->last.index;
        }
    }
    r->answered_index = r->committed_index;
    if (r->meta.promised < r->last.epoch) { /* E2 */
        r->meta.promised = r->last.epoch;
    }
    *out = r;
    return 0;
}

int replica_restore_epoch(struct replica *r, uint64_t epoch, uint64_t first_index)
{
    int rv;

    if (r->untrusted) {
        return 0;
    }
    rv = epochs_reserve(&r->epochs, 1);
    if (rv != 0) {
        return rv;
    }
    if (r->epochs.count > 0) {
        const struct epochs_start *newest = &r->epochs.items[r->epochs.count - 1];

        if (epoch < newest->epoch || (epoch > newest->epoch && first_index <= newest->first_index)) {
            return OTR_INVALID;
        }
    }
    if (first_index > r->last.index || epoch > r->last.epoch) {
        return OTR_INVALID;
    }
    epochs_append(&r->epochs, epoch, first_index);
    return 0;
}

int replica_restore_request(struct replica *r, const struct replica_entry *entry, uint32_t outcome, bool has_outcome)
{
    int rv;

    if (r->untrusted && !r->seeding) {
        return 0;
    }
    if (r->dedup.count > 0 && dedup_at(&r->dedup, r->dedup.count - 1)->position.index >= entry->position.index) {
        return OTR_INVALID;
    }
    rv = dedup_reserve(&r->dedup, 1);
    if (rv != 0) {
        return rv;
    }
    dedup_add(&r->dedup, &(struct dedup_entry){.request_id = entry->request_id,
                                               .position = entry->position,
                                               .time_ms = entry->time_ms,
                                               .outcome = outcome,
                                               .has_outcome = has_outcome});
    if (entry->time_ms > r->newest_time_ms) {
        r->newest_time_ms = entry->time_ms;
    }
    return 0;
}

void replica_log_clear(struct replica *r, struct otr_position base)
{
    r->epochs.count = 0;
    dedup_clear(&r->dedup);
    if (base.index > 0) {
        epochs_append(&r->epochs, base.epoch, base.index);
    }
    r->base = base;
    r->last = base;
    r->durable_index = base.index;
    r->committed_index = base.index;
    r->answered_index = base.index;
    r->verified = 0;
    r->ack_sent = 0;
    r->fresh_ms = 0;
    r->fresh_pending_ms = 0;
}

/* --- roles and metas ---------------------------------------------------------------------------------------------- */

void replica_become(struct replica *r, enum replica_role role, const char *why)
{
    r->role = role;
    r->why = why;
}

void replica_meta_changed(struct replica *r, bool binding)
{
    r->meta_dirty = true;
    r->meta_binding = r->meta_binding || binding;
}

void replica_take_log_id(struct replica *r, uint64_t log_id)
{
    r->meta.log_id = log_id;
    replica_meta_changed(r, true);
}

void replica_promise(struct replica *r, uint64_t epoch)
{
    assert(epoch > r->meta.promised);
    r->meta.promised = epoch;
    replica_meta_changed(r, true);
    /* A2: what was verified, was verified against another primary's log. */
    r->verified = 0;
    r->commit_told = 0;
    r->ack_sent = 0;
    r->ack_due = false;
    r->beacon_due = false;
    r->fresh_pending_ms = 0;
    r->granted_before_ms =
        r->granted_before_ms > r->granted_until_ms ? r->granted_before_ms : r->granted_until_ms; /* G4 */
    r->granted_until_ms = 0;
    r->granted_sent_ms = 0;
}

void replica_set_leader(struct replica *r, otr_node node, uint64_t incarnation, uint64_t epoch)
{
    r->leader = (struct replica_leader){
        .node = node, .incarnation = incarnation, .epoch = epoch, .heard_ms = r->now_ms, .heard = false};
    r->suspect_since_ms = 0;
}

void replica_abdicate(struct replica *r, struct replica_actions *out, const char *why)
{
    assert(replica_leads(r));
    replica_emit(out, REPLICA_DO_ABANDON)->abandon.index = r->answered_index + 1;
    r->abdicated_epoch = r->epoch;
    for (uint32_t i = 0; i < r->peers_count; i++) {
        r->peers[i].joining = false;
        r->peers[i].granted = false;
        r->peers[i].needs_seed = false;
    }
    r->change.kind = REPLICA_CHANGE_NONE;
    replica_set_leader(r, r->config.self, r->config.incarnation, r->epoch);
    replica_become(r, REPLICA_FOLLOWER, why);
}

/* Puts the meta before everything else of this step: what must be durable comes before what relies on it. */
static void meta_emit(struct replica *r, struct replica_actions *out)
{
    if (!r->meta_dirty) {
        return;
    }
    r->meta_seq++;
    if (r->meta_binding) {
        r->meta_needed = r->meta_seq;
    }
    r->meta_dirty = false;
    r->meta_binding = false;
    (void)replica_emit(out, REPLICA_DO_META);
    memmove(&out->items[1], &out->items[0], (out->count - 1) * sizeof out->items[0]);
    out->items[0] = (struct replica_action){.type = REPLICA_DO_META, .meta = {.seq = r->meta_seq, .meta = r->meta}};
}

static void role_emit(struct replica *r, struct replica_actions *out)
{
    uint64_t epoch = replica_leads(r) ? r->epoch : r->leader.epoch;
    otr_node primary = replica_leads(r) ? r->config.self : r->leader.node;
    struct replica_action *a;

    if (!replica_leads(r) && primary == r->config.self) {
        primary = OTR_NODE_NONE; /* we led it once and do no longer */
    }
    if (r->told.role == r->role && r->told.epoch == epoch && r->told.primary == primary) {
        return;
    }
    r->told.role = r->role;
    r->told.epoch = epoch;
    r->told.primary = primary;
    a = replica_emit(out, REPLICA_DO_ROLE);
    a->role.role = r->role;
    a->role.epoch = epoch;
    a->role.primary = primary;
    a->role.why = r->why;
}

/* --- events ------------------------------------------------------------------------------------------------------- */

static void on_msg(struct replica *r, const struct replica_event *ev, struct replica_actions *out)
{
    const struct replica_msg *msg = ev->msg.msg;
    otr_node from = ev->msg.from;

    if (from == r->config.self || r->role == REPLICA_IDLE || msg->generation != replica_generation(r)) {
        return;
    }
    switch (msg->type) {
    case REPLICA_MSG_APPEND:
        follow_on_append(r, from, msg, out);
        break;
    case REPLICA_MSG_BEACON:
        follow_on_beacon(r, from, msg, out);
        break;
    case REPLICA_MSG_ACK:
        lead_on_ack(r, from, msg);
        break;
    case REPLICA_MSG_REFUSE:
        lead_on_refuse(r, from, msg, out);
        break;
    case REPLICA_MSG_GRANT:
        lead_on_grant(r, from, msg);
        break;
    case REPLICA_MSG_ASK:
        elect_on_ask(r, from, msg, out);
        break;
    case REPLICA_MSG_ANSWER:
        if (!force_on_answer(r, from, msg, out)) {
            elect_on_answer(r, from, msg);
        }
        break;
    case REPLICA_MSG_OFFER:
        handoff_on_offer(r, from, msg, out);
        break;
    case REPLICA_MSG_READY:
        handoff_on_ready(r, from, msg);
        break;
    case REPLICA_MSG_HANDOFF:
        handoff_on_handoff(r, from, msg);
        break;
    case REPLICA_MSG_LEAVE:
        handoff_on_leave(r, from, msg);
        break;
    }
}

static void on_peer(struct replica *r, const struct replica_event *ev)
{
    struct replica_link *link = NULL;
    bool another;

    for (size_t i = 0; i < r->links_count; i++) {
        if (r->links[i].node == ev->peer.node) {
            link = &r->links[i];
        }
    }
    if (link == NULL) {
        link = &r->links[r->links_count++]; /* reserved by the step */
        *link = (struct replica_link){.node = ev->peer.node};
    }
    another = ev->peer.state == REPLICA_PEER_UP && link->incarnation != ev->peer.incarnation;
    link->state = ev->peer.state;
    link->since_ms = r->now_ms;
    link->contradicted = false;
    if (ev->peer.state != REPLICA_PEER_DOWN) {
        link->incarnation = ev->peer.incarnation;
    }
    lead_on_link(r, link, another);
}

static void on_log_failed(struct replica *r, struct replica_actions *out)
{
    /* E4: nothing that this log holds can be vouched for. The next start draws a new log id. */
    r->failed = true;
    if (replica_leads(r)) {
        replica_abdicate(r, out, "the log failed");
    }
    replica_become(r, REPLICA_IDLE, "the log failed");
    handoff_on_failure(r, out);
    force_on_failure(r, out);
    replica_alarm(r, out, "the log failed: the replica takes part in nothing until the process is started again");
}

/* E3, while running: a copy of which something cannot be read any more is not the log that the set counts on. A
 * follower holds nothing that counts from now on: it refuses appends until it was seeded, so the primary takes it out
 * of the set first. A primary hands over before (replica_handoff.c: it is unfit). The last copy goes on with what can
 * be read, for there is nothing to replace it with: nobody seeds it, nothing of it is dropped. */
static void damage_progress(struct replica *r, struct replica_actions *out)
{
    int at = descriptor_in_sync(&r->descriptor, r->config.self);

    if (!r->damaged || r->untrusted || r->role != REPLICA_FOLLOWER || !r->descriptor_known) {
        return;
    }
    if (r->descriptor.in_sync_count == 1 && at == 0) {
        replica_alarm(r, out, "the only copy in sync is damaged: it serves what can be read; find another copy");
        return;
    }
    r->untrusted = true;
    replica_alarm(r, out, "this copy is damaged: it leaves the in-sync set until it was seeded anew");
}

static void on_log_damaged(struct replica *r, struct replica_actions *out)
{
    r->damaged = true;
    if (replica_leads(r)) {
        replica_alarm(r, out, "the primary's copy is damaged: it hands over if another replica is in sync");
    }
}

static void on_log_synced(struct replica *r, uint64_t index)
{
    if (index > r->last.index) {
        index = r->last.index;
    }
    if (!r->seeding && index > r->durable_index) {
        r->durable_index = index;
    }
}

static void dispatch(struct replica *r, const struct replica_event *ev, struct replica_actions *out)
{
    switch (ev->type) {
    case REPLICA_EV_TICK:
        r->tick = true;
        break;
    case REPLICA_EV_WRITE:
        lead_on_write(r, ev, out);
        break;
    case REPLICA_EV_LOG_SYNCED:
        on_log_synced(r, ev->log_synced.index);
        break;
    case REPLICA_EV_META_SYNCED:
        if (ev->meta_synced.seq > r->meta_synced && ev->meta_synced.seq <= r->meta_seq) {
            r->meta_synced = ev->meta_synced.seq;
        }
        break;
    case REPLICA_EV_LOG_DAMAGED:
        on_log_damaged(r, out);
        break;
    case REPLICA_EV_LOG_FAILED:
        on_log_failed(r, out);
        break;
    case REPLICA_EV_MSG:
        on_msg(r, ev, out);
        break;
    case REPLICA_EV_SENT:
        lead_on_sent(r, ev);
        break;
    case REPLICA_EV_PEER:
        on_peer(r, ev);
        break;
    case REPLICA_EV_DESCRIPTOR:
        view_shown(r, ev->descriptor.descriptor, ev->descriptor.revision, out);
        change_on_read(r, ev->descriptor.read, true);
        break;
    case REPLICA_EV_LEASE:
        view_on_lease(r, ev);
        break;
    case REPLICA_EV_READ_FAILED:
        change_on_read(r, ev->read_failed.read, false);
        break;
    case REPLICA_EV_COORDINATOR:
        view_on_coordinator(r, ev, out);
        break;
    case REPLICA_EV_TXN_DONE:
        change_on_txn_done(r, ev, out);
        break;
    case REPLICA_EV_SEED_SENT:
        lead_on_seed_sent(r, ev);
        break;
    case REPLICA_EV_SEED_BEGIN:
        follow_on_seed_begin(r, ev, out);
        break;
    case REPLICA_EV_SEED_DONE:
        follow_on_seed_done(r, ev);
        break;
    case REPLICA_EV_HANDOFF:
        handoff_on_event(r, ev, out);
        break;
    case REPLICA_EV_FITNESS:
        r->engine_down = !ev->fitness.engine_up;
        r->disk_full = ev->fitness.disk_full;
        r->disk_low = ev->fitness.disk_low;
        break;
    case REPLICA_EV_LEAVE:
        handoff_leave(r);
        break;
    case REPLICA_EV_FORCE:
        force_on_event(r, ev, out);
        break;
    case REPLICA_EV_LOSS_NOTED:
        loss_on_noted(r, ev);
        break;
    case REPLICA_EV_SETTINGS:
        r->config.settings = ev->settings;
        break;
    }
}

/* A process that was stopped for a while heard nobody, which says nothing about the others. Only patience is measured
 * by these clocks; grants are not touched. */
static void forgive_own_pause(struct replica *r, uint64_t gap_ms)
{
    if (gap_ms <= r->config.timings.replica_timeout_ms / 2) {
        return;
    }
    r->leader.heard_ms += gap_ms;
    if (r->suspect_since_ms != 0) {
        r->suspect_since_ms += gap_ms;
    }
    for (uint32_t i = 0; i < r->peers_count; i++) {
        r->peers[i].heard_ms += gap_ms;
        r->peers[i].progress_ms += gap_ms;
    }
}

/* Everything that this event can need: afterwards the step cannot fail. */
static int step_reserve(struct replica *r, const struct replica_event *ev, struct replica_actions *out)
{
    size_t entries = 1;
    int rv;

    if (ev->type == REPLICA_EV_MSG && ev->msg.msg->type == REPLICA_MSG_APPEND &&
        ev->msg.msg->append.last_index > ev->msg.msg->append.prev.index) {
        entries += ev->msg.msg->append.last_index - ev->msg.msg->append.prev.index;
    }
    rv = actions_reserve(out);
    if (rv == 0) {
        rv = dedup_reserve(&r->dedup, entries);
    }
    if (rv == 0) {
        rv = epochs_reserve(&r->epochs, entries);
    }
    if (rv == 0 && ev->type == REPLICA_EV_PEER && r->links_count == r->links_capacity) {
        size_t capacity = r->links_capacity == 0 ? 8 : r->links_capacity * 2;
        struct replica_link *links = realloc(r->links, capacity * sizeof *links);

        if (links == NULL) {
            return OTR_NOMEM;
        }
        r->links = links;
        r->links_capacity = capacity;
    }
    return rv;
}

/* Ends every step. One fact per line; each is ours alone to break. */
static void replica_check(const struct replica *r)
{
    assert(r->committed_index <= r->last.index);
    assert(r->committed_index <= r->durable_index);
    assert(r->durable_index <= r->last.index);
    assert(r->base.index <= r->committed_index);
    assert(r->last.index == 0 || epochs_at(&r->epochs, r->last.index) == r->last.epoch);
    assert(r->last.epoch <= r->meta.promised);
    assert(!replica_leads(r) || r->epoch == r->meta.promised);
    assert(!replica_leads(r) || r->epoch > r->abdicated_epoch);
    assert(r->verified <= r->last.index);
}

int replica_step(struct replica *r, const struct replica_event *ev, struct replica_actions *out)
{
    int rv = step_reserve(r, ev, out);

    if (rv != 0) {
        return rv;
    }
    out->count = 0;
    if (r->failed) {
        if (ev->type == REPLICA_EV_HANDOFF || ev->type == REPLICA_EV_LEAVE || ev->type == REPLICA_EV_FORCE) {
            dispatch(r, ev, out); /* who asks is owed an answer all the same */
        }
        return 0;
    }
    if (ev->now_ms > r->now_ms) {
        forgive_own_pause(r, ev->now_ms - r->now_ms);
        r->now_ms = ev->now_ms;
    }
    r->tick = false;
    dispatch(r, ev, out);
    if (!r->failed) {
        if (r->role != REPLICA_IDLE && r->meta.log_id == 0) {
            replica_take_log_id(r, r->fresh_log_id);
        }
        damage_progress(r, out);
        loss_progress(r);
        handoff_progress_member(r, out);
        force_progress(r, out);
        change_progress(r, out);
        elect_progress(r, out);
        lead_progress(r, out);
        handoff_progress(r, out);
        set_progress(r, out);
        follow_progress(r, out);
        meta_emit(r, out);
    }
    role_emit(r, out);
    replica_check(r);
    return 0;
}
