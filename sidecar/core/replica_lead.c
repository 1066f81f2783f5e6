#include "sidecar/core/replica_internal.h"

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* --- who counts (A4) ---------------------------------------------------------------------------------------------- */

static bool set_changing(const struct replica *r)
{
    return r->change.kind == REPLICA_CHANGE_SET;
}

bool lead_counted(const struct replica *r, const struct replica_peer *p)
{
    return p->joining || descriptor_in_sync(&r->descriptor, p->node) >= 0 ||
           (set_changing(r) && descriptor_in_sync(&r->change.descriptor, p->node) >= 0);
}

uint32_t lead_members_min(const struct replica *r)
{
    uint32_t published = r->descriptor.in_sync_count;

    if (set_changing(r) && r->change.descriptor.in_sync_count < published) {
        return r->change.descriptor.in_sync_count;
    }
    return published;
}

/* How much of our log a member holds durably; an acknowledgement under another log id is worth nothing (E3). */
static uint64_t member_index(struct replica *r, const struct member *m)
{
    const struct replica_peer *p;

    if (m->node == r->config.self) {
        return m->log_id == r->meta.log_id ? r->durable_index : 0;
    }
    p = replica_peer_find(r, m->node);
    return p != NULL && p->log_id == m->log_id ? p->acked : 0;
}

static uint64_t counted_index(struct replica *r)
{
    uint64_t index = r->durable_index; /* A3 */

    for (uint32_t i = 0; i < r->descriptor.in_sync_count; i++) {
        index = min_u64(index, member_index(r, &r->descriptor.in_sync[i]));
    }
    if (set_changing(r)) {
        for (uint32_t i = 0; i < r->change.descriptor.in_sync_count; i++) {
            index = min_u64(index, member_index(r, &r->change.descriptor.in_sync[i]));
        }
    }
    for (uint32_t i = 0; i < r->peers_count; i++) {
        if (r->peers[i].joining) { /* J2 */
            index = min_u64(index, r->peers[i].acked);
        }
    }
    return index;
}

/* --- mode async (A7) ---------------------------------------------------------------------------------------------- */

bool lead_async(const struct replica *r)
{
    return r->descriptor.mode == REPLICA_ASYNC && r->config.settings.mode != REPLICA_SYNC &&
           !(set_changing(r) && r->change.descriptor.mode == REPLICA_SYNC);
}

uint64_t lead_held(struct replica *r, const struct descriptor *d)
{
    uint64_t index = r->committed_index;

    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        index = min_u64(index, member_index(r, &d->in_sync[i]));
    }
    return index;
}

uint64_t lead_lag_ms(const struct replica *r, const struct replica_peer *p)
{
    return lag_clock_age(&r->lag, r->now_ms, p->acked);
}

/* What may be answered as far as these members are concerned. */
static uint64_t answerable(struct replica *r, const struct descriptor *d, uint64_t index)
{
    const struct replica_settings *s = &r->config.settings;

    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        uint64_t held = member_index(r, &d->in_sync[i]);

        if (d->in_sync[i].node != r->config.self && held < index) {
            bool late = lag_clock_age(&r->lag, r->now_ms, held) > s->max_lag_ms;

            index = late ? held : min_u64(index, held + s->max_lag_entries);
        }
    }
    return index;
}

/* Whoever replaces us need not have asked anybody who holds our entries: so an answer takes what a read takes, too. */
static uint64_t async_answerable(struct replica *r)
{
    uint64_t index = r->committed_index;

    if (replica_read_right(r, r->now_ms) != REPLICA_READ_OK) {
        return r->answered_index;
    }
    index = answerable(r, &r->descriptor, index);
    return set_changing(r) ? answerable(r, &r->change.descriptor, index) : index;
}

static bool member_grants(const struct replica *r, const struct member *m, uint64_t now_ms)
{
    if (m->node == r->config.self) {
        return true;
    }
    for (uint32_t i = 0; i < r->peers_count; i++) {
        const struct replica_peer *p = &r->peers[i];

        if (p->node == m->node) {
            return p->granted && p->grant_log_id == m->log_id && now_ms < p->grant_sent_ms + p->grant_ms;
        }
    }
    return false;
}

enum replica_right replica_read_right(const struct replica *r, uint64_t now_ms)
{
    bool granted = true;

    if (!replica_leads(r)) {
        return REPLICA_READ_NOT_PRIMARY;
    }
    if (r->role == REPLICA_TAKEOVER) { /* G2: the epoch-start entry first */
        return REPLICA_READ_WAIT;
    }
    for (uint32_t i = 0; i < r->descriptor.in_sync_count; i++) {
        granted = granted && member_grants(r, &r->descriptor.in_sync[i], now_ms);
    }
    for (uint32_t i = 0; set_changing(r) && i < r->change.descriptor.in_sync_count; i++) {
        granted = granted && member_grants(r, &r->change.descriptor.in_sync[i], now_ms);
    }
    for (uint32_t i = 0; i < r->peers_count; i++) {
        const struct replica_peer *p = &r->peers[i];

        if (p->joining) {
            granted = granted && member_grants(r, &(struct member){p->node, p->log_id}, now_ms);
        }
    }
    return granted ? REPLICA_READ_OK : REPLICA_READ_NEED_DESCRIPTOR;
}

bool replica_read_confirmed(const struct replica *r, const struct descriptor *shown)
{
    return r->role == REPLICA_PRIMARY && shown->generation == r->descriptor.generation && shown->epoch == r->epoch &&
           shown->incarnation == r->config.incarnation;
}

static uint64_t member_fresh_ms(const struct replica *r, const struct member *m, uint64_t now_ms)
{
    if (m->node == r->config.self) {
        return now_ms;
    }
    for (uint32_t i = 0; i < r->peers_count; i++) {
        const struct replica_peer *p = &r->peers[i];

        if (p->node == m->node) {
            return p->granted && p->grant_log_id == m->log_id ? p->grant_sent_ms : 0;
        }
    }
    return 0;
}

uint64_t lead_fresh_ms(const struct replica *r, uint64_t now_ms)
{
    uint64_t ms = now_ms;

    for (uint32_t i = 0; i < r->descriptor.in_sync_count; i++) {
        ms = min_u64(ms, member_fresh_ms(r, &r->descriptor.in_sync[i], now_ms));
    }
    for (uint32_t i = 0; set_changing(r) && i < r->change.descriptor.in_sync_count; i++) {
        ms = min_u64(ms, member_fresh_ms(r, &r->change.descriptor.in_sync[i], now_ms));
    }
    for (uint32_t i = 0; i < r->peers_count; i++) {
        const struct replica_peer *p = &r->peers[i];

        if (p->joining) {
            ms = min_u64(ms, member_fresh_ms(r, &(struct member){p->node, p->log_id}, now_ms));
        }
    }
    return ms;
}

/* --- what peers tell ---------------------------------------------------------------------------------------------- */

static struct replica_peer *speaker(struct replica *r, otr_node from, uint64_t epoch)
{
    return replica_leads(r) && epoch == r->epoch ? replica_peer_find(r, from) : NULL; /* A2 */
}

static void heard(struct replica *r, struct replica_peer *p)
{
    p->heard_ms = r->now_ms;
    replica_heard(r, p->node);
}

static void probe(struct replica *r, struct replica_peer *p, uint64_t next)
{
    p->next = max_u64(next, p->acked + 1);
    p->next = min_u64(p->next, r->last.index + 1);
    p->probing = true;
    p->probe_now = true;
    p->commit_sent = 0;
    p->sending_void = p->sending;
}

/* The peer's log may be another than before: then nothing that it said counts any more (E3). */
static bool named_log(struct replica *r, struct replica_peer *p, uint64_t log_id)
{
    if (log_id == 0) {
        return false;
    }
    if (p->log_id != log_id) {
        bool first = p->log_id == 0;

        p->log_id = log_id;
        p->acked = 0;
        p->joining = false;
        if (!first) {
            p->granted = false;
            p->needs_seed = false;
            probe(r, p, r->last.index + 1);
        }
    }
    return true;
}

void lead_on_ack(struct replica *r, otr_node from, const struct replica_msg *msg)
{
    struct replica_peer *p = speaker(r, from, msg->epoch);
    struct otr_position at = msg->ack.verified;

    if (p == NULL || at.index > r->last.index ||
        (at.index > 0 && at.index >= r->base.index && epochs_at(&r->epochs, at.index) != at.epoch)) {
        return;
    }
    if (!named_log(r, p, msg->ack.log_id)) {
        return;
    }
    heard(r, p);
    if (at.index > p->acked) {
        p->acked = at.index;
        p->progress_ms = r->now_ms;
    }
    if (p->probing) {
        p->probing = false;
        p->probe_now = false;
    }
    p->next = max_u64(p->next, p->acked + 1);
}

void lead_on_refuse(struct replica *r, otr_node from, const struct replica_msg *msg, struct replica_actions *out)
{
    struct replica_peer *p = speaker(r, from, msg->epoch);
    uint64_t floor;

    if (p == NULL) {
        return;
    }
    if (msg->refuse.reason == REPLICA_REFUSE_FENCED) {
        if (msg->refuse.promised > r->epoch) { /* somebody won it (E2) */
            replica_abdicate(r, out, "a replica follows a higher epoch");
            change_want_read(r);
        }
        return; /* V4: a candidate has no epoch yet, and is no follower: it is as good as silent */
    }
    if (!named_log(r, p, msg->refuse.log_id)) {
        return;
    }
    heard(r, p);
    if (msg->refuse.reason == REPLICA_REFUSE_SEED) {
        p->needs_seed = true;
        return;
    }
    floor = epochs_floor(&r->epochs, msg->refuse.position, r->last.index);
    if (floor < r->base.index || (msg->refuse.position.index == 0 && !lead_counted(r, p) &&
                                  r->committed_index >= r->config.timings.seed_entries)) {
        p->needs_seed = true;
    }
    probe(r, p, floor + 1);
}

void lead_on_grant(struct replica *r, otr_node from, const struct replica_msg *msg)
{
    struct replica_peer *p = speaker(r, from, msg->epoch);

    if (p == NULL || msg->grant.incarnation != r->config.incarnation || !msg->grant.granted ||
        msg->grant.sent_ms > r->now_ms || !named_log(r, p, msg->grant.log_id)) {
        return;
    }
    heard(r, p);
    if (!p->granted || p->grant_log_id != msg->grant.log_id || p->grant_sent_ms < msg->grant.sent_ms) {
        p->granted = true;
        p->grant_log_id = msg->grant.log_id;
        p->grant_sent_ms = msg->grant.sent_ms; /* G1: of exactly the beacon that it answers */
        p->grant_ms = msg->grant.grant_ms; /* ... and for as long as that one asked: settings may change meanwhile */
    }
}

void lead_on_link(struct replica *r, const struct replica_link *link, bool another)
{
    struct replica_peer *p = replica_peer_find(r, link->node);

    if (p == NULL) {
        return;
    }
    p->answered = false;
    if (another) {
        /* E3, J2: what its former process acknowledged counts again when this one did. Its disk may be another one, or
         * an older copy under the same log id, or recovery cut what it took for a torn tail. */
        p->log_id = 0;
        p->acked = 0;
        p->joining = false;
    }
    if (link->state == REPLICA_PEER_UP && link->incarnation != p->leaving) {
        p->leaving = 0; /* another process */
    }
    probe(r, p, p->acked > 0 ? p->acked + 1 : r->last.index + 1); /* what was under way may be lost */
}

/* --- sending ------------------------------------------------------------------------------------------------------ */

static void send_append(struct replica *r, struct replica_peer *p, uint64_t last_index, struct replica_actions *out)
{
    struct replica_action *a = replica_emit(out, REPLICA_DO_SEND_APPEND);

    p->sending = true;
    p->sending_void = false;
    p->probe_now = false;
    p->token = ++r->token;
    p->sent_ms = r->now_ms;
    p->commit_sent = r->committed_index;
    a->send.to = p->node;
    a->send.token = p->token;
    a->send.msg =
        (struct replica_msg){.type = REPLICA_MSG_APPEND, .generation = replica_generation(r), .epoch = r->epoch};
    a->send.msg.append.incarnation = r->config.incarnation;
    a->send.msg.append.prev = replica_position(r, p->next - 1);
    a->send.msg.append.last_index = last_index;
    a->send.msg.append.commit = r->committed_index;
    a->send.msg.append.lossy_epoch = descriptor_lossy_epoch(&r->descriptor);
}

/* A pull: one append at a time per peer, the next one when the connection has taken the last. */
static void pump(struct replica *r, struct replica_peer *p, struct replica_actions *out)
{
    bool idle = r->now_ms - p->sent_ms >= r->config.timings.heartbeat_ms;

    /* E2: an append of our epoch lets its receiver cut what it acknowledged in an earlier one. Were our promise lost in
     * a crash, we might acknowledge the same entries to the old primary then, who would take them for held by all. */
    if (p->sending || p->seeding || p->needs_seed || !replica_connected(r, p->node) || !replica_meta_settled(r)) {
        return;
    }
    if (p->next <= r->base.index) {
        p->needs_seed = true; /* what it lacks came to us as a seed */
        return;
    }
    if (p->probing) {
        if (p->probe_now || idle) {
            send_append(r, p, p->next - 1, out);
        }
        return;
    }
    if (p->next <= r->last.index || idle || (r->tick && p->commit_sent < r->committed_index)) {
        send_append(r, p, r->last.index, out);
    }
}

void lead_on_sent(struct replica *r, const struct replica_event *ev)
{
    struct replica_peer *p = replica_peer_find(r, ev->sent.to);

    if (p == NULL || !p->sending || p->token != ev->sent.token) {
        return;
    }
    p->sending = false;
    if (!replica_leads(r) || p->sending_void) {
        return;
    }
    if (ev->sent.status == OTR_GONE) {
        p->needs_seed = true;
    } else if (ev->sent.status != 0) {
        probe(r, p, p->acked > 0 ? p->acked + 1 : p->next);
        p->probe_now = false; /* with the next heartbeat or connection */
    } else if (!p->probing && ev->sent.last_index <= r->last.index) {
        p->next = max_u64(p->next, ev->sent.last_index + 1); /* pipelined: the acknowledgement comes later */
    }
}

static void send_beacons(struct replica *r, struct replica_actions *out)
{
    struct replica_msg msg = {.type = REPLICA_MSG_BEACON, .epoch = r->epoch};

    if (r->beacon_ms != 0 && r->now_ms - r->beacon_ms < r->config.timings.beacon_ms) {
        return;
    }
    r->beacon_ms = r->now_ms;
    msg.beacon.incarnation = r->config.incarnation;
    msg.beacon.sent_ms = r->now_ms; /* G3: not later than it really goes out */
    msg.beacon.grant_ms = r->descriptor.grant_ms;
    for (uint32_t i = 0; i < r->peers_count; i++) {
        replica_send(r, out, r->peers[i].node, &msg);
    }
}

/* --- seeding ------------------------------------------------------------------------------------------------------ */

static void seed(struct replica *r, struct replica_peer *p, struct replica_actions *out)
{
    /* J1: not before the epoch-start entry is committed; never a member, which has to be taken out first (E3). */
    if (r->role != REPLICA_PRIMARY || !p->needs_seed || p->seeding || p->sending || lead_counted(r, p) ||
        p->leaving != 0 || !replica_connected(r, p->node) || r->now_ms < p->seed_retry_ms) {
        return;
    }
    p->seeding = true;
    replica_emit(out, REPLICA_DO_SEED)->seed.to = p->node;
}

void lead_on_seed_sent(struct replica *r, const struct replica_event *ev)
{
    struct replica_peer *p = replica_peer_find(r, ev->seed_sent.to);

    if (p == NULL || !p->seeding) {
        return;
    }
    p->seeding = false;
    if (!replica_leads(r)) {
        return;
    }
    if (!ev->seed_sent.ok) {
        p->seed_retry_ms = r->now_ms + (r->damaged ? REPLICA_SEED_RETRY_DAMAGED_MS : REPLICA_SEED_RETRY_MS);
        return;
    }
    p->needs_seed = false;
    (void)named_log(r, p, ev->seed_sent.log_id);
    probe(r, p, ev->seed_sent.position.index + 1);
}

/* --- writes ------------------------------------------------------------------------------------------------------- */

static struct otr_position append(struct replica *r, uint64_t ticket, uint64_t time_ms, const struct otr_request_id *id,
                                  struct replica_actions *out)
{
    struct replica_action *a = replica_emit(out, REPLICA_DO_APPEND);

    r->last = (struct otr_position){.epoch = r->epoch, .index = r->last.index + 1};
    r->newest_time_ms = max_u64(r->newest_time_ms, time_ms);
    epochs_append(&r->epochs, r->last.epoch, r->last.index);
    dedup_add(&r->dedup, &(struct dedup_entry){.request_id = *id, .position = r->last, .time_ms = time_ms});
    a->append.ticket = ticket;
    a->append.position = r->last;
    a->append.time_ms = time_ms;
    a->append.request_id = *id;
    return r->last;
}

static void reply_refused(uint64_t ticket, int status, struct replica_actions *out)
{
    struct replica_action *a = replica_emit(out, REPLICA_DO_REPLY);

    a->reply.ticket = ticket;
    a->reply.reply = REPLICA_REPLY_REFUSED;
    a->reply.status = status;
}

static void reply_known(struct replica *r, uint64_t ticket, const struct dedup_entry *known,
                        struct replica_actions *out)
{
    struct replica_action *a = replica_emit(out, REPLICA_DO_REPLY);

    /* A7: to say once more that it took effect takes what it took the first time: it may be lost by now. */
    if (r->descriptor.mode == REPLICA_ASYNC && known->position.index <= r->answered_index &&
        replica_read_right(r, r->now_ms) != REPLICA_READ_OK) {
        r->answered_index = known->position.index - 1;
    }
    a->reply.ticket = ticket;
    a->reply.reply =
        known->position.index <= r->answered_index && known->has_outcome ? REPLICA_REPLY_DUPLICATE : REPLICA_REPLY_JOIN;
    a->reply.index = known->position.index;
    a->reply.epoch = known->position.epoch;
    a->reply.outcome = known->outcome;
}

void lead_on_write(struct replica *r, const struct replica_event *ev, struct replica_actions *out)
{
    const struct dedup_entry *known;

    if (!replica_leads(r)) {
        reply_refused(ev->write.ticket, OTR_NOTPRIMARY, out);
        return;
    }
    /* Q1, Q2. First of all: an id that stands in the log may have taken effect, whatever the state of things now. */
    known = dedup_find(&r->dedup, &ev->write.request_id);
    if (known != NULL) {
        reply_known(r, ev->write.ticket, known, out);
    } else if (r->role == REPLICA_TAKEOVER || handoff_frozen(r)) {
        reply_refused(ev->write.ticket, OTR_UNAVAIL, out);
    } else if (lead_members_min(r) < r->descriptor.min_in_sync) { /* A6 */
        reply_refused(ev->write.ticket, OTR_FEW, out);
    } else {
        (void)append(r, ev->write.ticket, ev->write.time_ms, &ev->write.request_id, out);
    }
}

/* --- the epoch ---------------------------------------------------------------------------------------------------- */

void lead_start(struct replica *r, struct replica_actions *out)
{
    static const struct otr_request_id none;

    for (uint32_t i = 0; i < r->peers_count; i++) {
        struct replica_peer *p = &r->peers[i];

        /* Optimistic: most peers are level, and then the epoch-start entry commits after one round. */
        *p = (struct replica_peer){.node = p->node,
                                   .next = r->last.index + 1,
                                   .sending = p->sending,
                                   .sending_void = p->sending,
                                   .token = p->token,
                                   .heard_ms = r->now_ms,
                                   .progress_ms = r->now_ms,
                                   .seeding = p->seeding};
    }
    r->answered_index = r->committed_index;
    if (r->descriptor.mode == REPLICA_ASYNC) { /* A7: committed was what one disk held; this all members did */
        r->answered_index = min_u64(r->committed_index, r->descriptor.position.index);
    }
    r->lag.count = 0;
    lag_clock_note(&r->lag, r->now_ms, 0); /* what is inherited counts from now on */
    r->beacon_ms = 0;
    r->start_index = append(r, 0, r->newest_time_ms, &none, out).index;
}

/* Committed, and to be answered as far as the mode is concerned. While mode sync is wanted and the descriptor does not
 * say so yet, entries may be committed that some member lacks: they wait for all members like those that follow. */
static uint64_t mode_answerable(struct replica *r)
{
    if (lead_async(r)) {
        return async_answerable(r);
    }
    return r->descriptor.mode == REPLICA_ASYNC ? min_u64(r->committed_index, counted_index(r)) : r->committed_index;
}

/* A3, A6, G4. */
static void advance(struct replica *r, struct replica_actions *out)
{
    uint64_t index;

    if (r->now_ms < r->commit_from_ms) {
        return;
    }
    index = lead_async(r) ? r->durable_index : counted_index(r);
    if (index > r->committed_index) {
        r->committed_index = index;
        replica_emit(out, REPLICA_DO_COMMIT)->commit.index = index;
        dedup_prune(&r->dedup, index, r->newest_time_ms, r->config.timings.dedup_window_ms,
                    r->config.timings.dedup_ids_min);
    }
    if (r->role == REPLICA_TAKEOVER && r->committed_index >= r->start_index) {
        replica_become(r, REPLICA_PRIMARY, "the epoch-start entry is committed");
    }
    index = mode_answerable(r);
    if (lead_members_min(r) < r->descriptor.min_in_sync) {
        index = min_u64(index, r->start_index); /* the inherited tail is exempt */
    }
    if (index > r->answered_index) {
        r->answered_index = index;
        replica_emit(out, REPLICA_DO_ANSWER)->answer.index = index;
    }
}

void lead_progress(struct replica *r, struct replica_actions *out)
{
    if (!replica_leads(r)) {
        return;
    }
    if (r->role == REPLICA_TAKEOVER && r->disk_full) {
        /* Our epoch-start entry would commit when there is room again, which may be never. */
        replica_abdicate(r, out, "the disk is full: no epoch can begin here");
        return;
    }
    if (r->tick) {
        lag_clock_note(&r->lag, r->now_ms, r->last.index);
    }
    advance(r, out);
    for (uint32_t i = 0; i < r->peers_count; i++) {
        struct replica_peer *p = &r->peers[i];

        if (p->acked >= r->last.index) {
            p->progress_ms = r->now_ms;
        }
        pump(r, p, out);
        seed(r, p, out);
    }
    send_beacons(r, out);
}
