#include "sidecar/core/replica_internal.h"

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Whether the sender's epoch is the one we follow; begins to follow it when it is a higher one. E1: within an epoch
 * only one incarnation of one node is listened to. */
static bool follows(struct replica *r, otr_node from, uint64_t incarnation, uint64_t epoch, struct replica_actions *out)
{
    if (epoch < r->meta.promised) {
        return false;
    }
    if (epoch > r->meta.promised) {
        if (replica_leads(r)) {
            replica_abdicate(r, out, "another leads a higher epoch");
        }
        /* Whoever won that epoch changed the descriptor that a candidacy of ours compared with: it has failed (D3). */
        r->change.kind = REPLICA_CHANGE_NONE;
        replica_promise(r, epoch);
        replica_become(r, REPLICA_FOLLOWER, "another leads a higher epoch");
    }
    if (r->role != REPLICA_FOLLOWER) {
        return false;
    }
    if (r->leader.epoch < epoch) {
        replica_set_leader(r, from, incarnation, epoch);
    }
    if (r->leader.node != from || r->leader.incarnation != incarnation) {
        return false;
    }
    r->leader.heard = true;
    r->leader.heard_ms = r->now_ms;
    replica_heard(r, from);
    return true;
}

static void refuse(struct replica *r, otr_node to, uint64_t epoch, enum replica_refusal reason,
                   struct otr_position position, struct replica_actions *out)
{
    struct replica_msg msg = {.type = REPLICA_MSG_REFUSE, .epoch = epoch};

    msg.refuse.log_id = r->meta.log_id;
    msg.refuse.reason = reason;
    msg.refuse.position = position;
    /* V4: a candidate names no epoch, for it has none yet. */
    msg.refuse.promised = r->role == REPLICA_CANDIDATE && epoch >= r->meta.promised ? 0 : r->meta.promised;
    replica_send(r, out, to, &msg);
}

/* --- appending ---------------------------------------------------------------------------------------------------- */

/* Peers can send anything: entries are consecutive, their epochs never fall and never exceed the sender's. */
static bool append_well_formed(const struct replica_msg *msg)
{
    struct otr_position before = msg->append.prev;

    if (msg->append.last_index < before.index || before.epoch > msg->epoch) {
        return false;
    }
    for (uint64_t i = 0; i < msg->append.last_index - msg->append.prev.index; i++) {
        struct otr_position at = msg->append.entries[i].position;

        if (at.index != before.index + 1 || at.epoch < before.epoch || at.epoch == 0 || at.epoch > msg->epoch) {
            return false;
        }
        before = at;
    }
    return true;
}

/* What lies at or below the base is committed, and therefore the same everywhere (I3), as far as none was given up. */
static bool has_predecessor(const struct replica *r, struct otr_position prev)
{
    return prev.index < r->base.index ||
           (prev.index <= r->last.index && epochs_at(&r->epochs, prev.index) == prev.epoch);
}

static void cut(struct replica *r, uint64_t index, struct replica_actions *out)
{
    replica_emit(out, REPLICA_DO_CUT)->cut.index = index;
    epochs_cut(&r->epochs, index);
    dedup_cut(&r->dedup, index); /* Q1 */
    r->last = replica_position(r, index - 1);
    r->durable_index = min_u64(r->durable_index, index - 1);
}

static void take(struct replica *r, const struct replica_entry *entry)
{
    epochs_append(&r->epochs, entry->position.epoch, entry->position.index);
    dedup_add(&r->dedup, &(struct dedup_entry){
                             .request_id = entry->request_id, .position = entry->position, .time_ms = entry->time_ms});
    r->last = entry->position;
    r->newest_time_ms = max_u64(r->newest_time_ms, entry->time_ms);
}

enum appending { APPEND_DONE, APPEND_LATER, APPEND_RESEED, APPEND_IMPOSSIBLE };

/* From index on the primary has other entries. A7: what may have been acknowledged is noted before it is given up, and
 * what is committed here is not merely cut, for store and engine have it. */
static enum appending conflict(struct replica *r, uint64_t index, uint64_t lossy_epoch, struct replica_actions *out)
{
    if (index <= r->verified || (index <= r->committed_index && !loss_possible(r, lossy_epoch))) {
        return APPEND_IMPOSSIBLE;
    }
    if (loss_possible(r, lossy_epoch) && !loss_noted(r, index, lossy_epoch, out)) {
        return APPEND_LATER;
    }
    if (index <= r->committed_index) {
        return APPEND_RESEED;
    }
    cut(r, index, out);
    r->loss.phase = LOSS_NONE;
    return APPEND_DONE;
}

/* Entries that we lack go into the log; a real conflict (same index, other epoch) cuts it first (A1). Impossible: the
 * log would be cut below the commit index, or the primary contradicts itself. */
static enum appending append_entries(struct replica *r, const struct replica_msg *msg, bool *appended,
                                     struct replica_actions *out)
{
    enum appending result;
    uint64_t first = 0;

    for (uint64_t index = msg->append.prev.index + 1; index <= msg->append.last_index; index++) {
        const struct replica_entry *entry = &msg->append.entries[index - msg->append.prev.index - 1];

        if (index < r->base.index ||
            (index <= r->last.index && epochs_at(&r->epochs, index) == entry->position.epoch)) {
            continue; /* a duplicate never shortens the log */
        }
        if (index <= r->last.index) {
            result = conflict(r, index, msg->append.lossy_epoch, out);
            if (result != APPEND_DONE) {
                return result;
            }
        }
        take(r, entry);
        if (first == 0) {
            first = index;
        }
    }
    *appended = first != 0;
    if (*appended) {
        struct replica_action *a = replica_emit(out, REPLICA_DO_APPEND_RAW);

        a->append_raw.first = first;
        a->append_raw.last = msg->append.last_index;
    }
    return APPEND_DONE;
}

void follow_on_append(struct replica *r, otr_node from, const struct replica_msg *msg, struct replica_actions *out)
{
    bool appended = false;

    if (!append_well_formed(msg)) {
        return;
    }
    if (msg->epoch < r->meta.promised || r->role == REPLICA_CANDIDATE) {
        if (msg->epoch <= r->meta.promised) { /* A1, V4 */
            refuse(r, from, msg->epoch, REPLICA_REFUSE_FENCED, (struct otr_position){0}, out);
            return;
        }
    }
    if (!follows(r, from, msg->append.incarnation, msg->epoch, out) || r->seeding) {
        return;
    }
    if (r->untrusted) {
        refuse(r, from, msg->epoch, REPLICA_REFUSE_SEED, (struct otr_position){0}, out);
        return;
    }
    if (msg->append.prev.index < r->base.index && loss_possible(r, msg->append.lossy_epoch)) {
        /* Below the base there is nothing to compare with, and here it need not be the same: what is lost is noted when
         * the seed begins. */
        refuse(r, from, msg->epoch, REPLICA_REFUSE_SEED, (struct otr_position){0}, out);
        return;
    }
    if (!has_predecessor(r, msg->append.prev)) { /* A1; the hint drops at least one epoch per round */
        uint64_t floor = epochs_floor(&r->epochs, msg->append.prev, r->last.index);

        if (msg->append.prev.index <= r->committed_index && !loss_possible(r, msg->append.lossy_epoch)) {
            replica_fatal(r, out, "the primary's log differs from ours below our commit index (PROTOCOL A7)");
            return;
        }
        refuse(r, from, msg->epoch, REPLICA_REFUSE_GAP, replica_position(r, max_u64(floor, r->base.index)), out);
        return;
    }
    switch (append_entries(r, msg, &appended, out)) {
    case APPEND_DONE:
        break;
    case APPEND_LATER:
        return; /* it comes again */
    case APPEND_RESEED:
        refuse(r, from, msg->epoch, REPLICA_REFUSE_SEED, (struct otr_position){0}, out);
        return;
    case APPEND_IMPOSSIBLE:
        replica_fatal(r, out, "an append would cut the log below our commit index (PROTOCOL A7)");
        return;
    }
    r->verified = max_u64(r->verified, msg->append.last_index); /* A2 */
    r->ack_due = r->ack_due || !appended;
    r->commit_told = max_u64(r->commit_told, msg->append.commit);
    r->commit_heard = max_u64(r->commit_heard, msg->append.commit);
    if (r->fresh_pending_ms == 0) {
        r->fresh_pending_ms = r->now_ms;
        r->fresh_pending_commit = msg->append.commit;
    }
}

/* --- grants (G1) -------------------------------------------------------------------------------------------------- */

static void answer_beacon(struct replica *r, otr_node to, uint64_t epoch, uint64_t incarnation, uint64_t sent_ms,
                          uint32_t grant_ms, struct replica_actions *out)
{
    struct replica_msg msg = {.type = REPLICA_MSG_GRANT, .epoch = epoch};

    msg.grant.incarnation = incarnation;
    msg.grant.sent_ms = sent_ms;
    msg.grant.log_id = r->meta.log_id;
    msg.grant.granted = grant_ms > 0;
    msg.grant.grant_ms = grant_ms;
    replica_send(r, out, to, &msg);
}

static void grant(struct replica *r, struct replica_actions *out)
{
    uint64_t until = r->now_ms + elect_grant_ms(r) * (100 + REPLICA_DRIFT_PERCENT) / 100 + 1;

    r->beacon_due = false;
    r->granted_until_ms = max_u64(r->granted_until_ms, until); /* G4 */
    r->granted_sent_ms = max_u64(r->granted_sent_ms, r->beacon_sent_ms);
    answer_beacon(r, r->leader.node, r->leader.epoch, r->leader.incarnation, r->beacon_sent_ms, r->beacon_grant_ms,
                  out);
}

void follow_on_beacon(struct replica *r, otr_node from, const struct replica_msg *msg, struct replica_actions *out)
{
    /* G5: what was sent before the grants were returned and arrives after it renews nothing. */
    if (!follows(r, from, msg->beacon.incarnation, msg->epoch, out) || r->seeding || r->untrusted ||
        handoff_received(r) || msg->beacon.grant_ms > REPLICA_GRANT_MS_MAX) {
        answer_beacon(r, from, msg->epoch, msg->beacon.incarnation, msg->beacon.sent_ms, 0, out);
        return;
    }
    /* G4: the primary's setting may be newer than ours, and is what it goes by. */
    if (msg->beacon.grant_ms > r->meta.grant_ms_max) {
        r->meta.grant_ms_max = msg->beacon.grant_ms;
        replica_meta_changed(r, true);
    }
    r->beacon_due = true; /* granted as soon as what it rests on is durable (E2) */
    r->beacon_sent_ms = msg->beacon.sent_ms;
    r->beacon_grant_ms = msg->beacon.grant_ms;
}

/* --- being seeded ------------------------------------------------------------------------------------------------- */

/* E3: a log that the published set counts on is never given up, nor one of which we cannot know. */
static bool may_be_discarded(const struct replica *r)
{
    int at;

    if (r->untrusted || r->last.index == 0) {
        return true;
    }
    if (!r->descriptor_known || r->descriptor.epoch != r->meta.promised) {
        return false;
    }
    at = descriptor_in_sync(&r->descriptor, r->config.self);
    return at < 0 || r->descriptor.in_sync[at].log_id != r->meta.log_id;
}

/* A primary that was seeded itself may have no entry that conflicts with ours: then the descriptor tells what was given
 * up. */
static bool losses_noted(struct replica *r, struct replica_actions *out)
{
    uint64_t from = r->descriptor_known ? descriptor_lost_from(&r->descriptor, &r->epochs, r->last) : UINT64_MAX;

    if (r->untrusted || r->last.index < from) {
        return true;
    }
    return loss_noted(r, max_u64(from, r->base.index + 1), descriptor_lossy_epoch(&r->descriptor), out);
}

void follow_on_seed_begin(struct replica *r, const struct replica_event *ev, struct replica_actions *out)
{
    struct replica_action *a;

    if (r->role == REPLICA_IDLE ||
        !follows(r, ev->seed_begin.from, ev->seed_begin.incarnation, ev->seed_begin.epoch, out) || r->seeding ||
        !may_be_discarded(r) || !losses_noted(r, out)) {
        return;
    }
    r->loss.phase = LOSS_NONE;
    r->meta.log_id = ev->seed_begin.new_log_id;
    r->untrusted = true;
    r->damaged = false; /* it goes with the rest */
    r->seeding = true;
    replica_log_clear(r, (struct otr_position){0});
    /* The seed begins with the meta, so that the old log id is gone before anything of the log is (E3). */
    r->meta_seq++;
    r->meta_needed = r->meta_seq;
    r->meta_dirty = false;
    r->meta_binding = false;
    r->seed_meta_seq = r->meta_seq;
    a = replica_emit(out, REPLICA_DO_SEED_ACCEPT);
    a->seed_accept.meta = r->meta;
}

void follow_on_seed_done(struct replica *r, const struct replica_event *ev)
{
    struct otr_position base = ev->seed_done.position;

    if (!r->seeding) {
        return;
    }
    r->seeding = false;
    if (!ev->seed_done.ok) {
        dedup_clear(&r->dedup);
        replica_meta_changed(r, true); /* of the broken seed nothing may be durable, its meta included */
        return;
    }
    r->meta_synced = max_u64(r->meta_synced, r->seed_meta_seq);
    if (base.epoch > r->meta.promised) {
        replica_promise(r, base.epoch);
    }
    r->untrusted = false;
    r->base = base;
    r->last = base;
    r->epochs.count = 0;
    if (base.index > 0) {
        epochs_append(&r->epochs, base.epoch, base.index);
    }
    r->durable_index = base.index;
    r->committed_index = base.index;
    r->answered_index = base.index;
}

/* --- after every event -------------------------------------------------------------------------------------------- */

static void commit_progress(struct replica *r, struct replica_actions *out)
{
    uint64_t index = min_u64(min_u64(r->commit_told, r->verified), r->durable_index); /* A5 */

    if (index > r->committed_index) {
        r->committed_index = index;
        replica_emit(out, REPLICA_DO_COMMIT)->commit.index = index;
        dedup_prune(&r->dedup, index, r->newest_time_ms, r->config.timings.dedup_window_ms,
                    r->config.timings.dedup_ids_min);
    }
    if (r->fresh_pending_ms != 0 && r->committed_index >= r->fresh_pending_commit) {
        r->fresh_ms = r->fresh_pending_ms;
        r->fresh_pending_ms = 0;
    }
}

void follow_progress(struct replica *r, struct replica_actions *out)
{
    struct replica_msg msg = {.type = REPLICA_MSG_ACK, .epoch = r->leader.epoch};
    uint64_t index = min_u64(r->verified, r->durable_index);

    if (r->role != REPLICA_FOLLOWER || r->seeding || r->untrusted) {
        return;
    }
    commit_progress(r, out);
    if (!r->leader.heard || r->leader.epoch != r->meta.promised || !replica_meta_settled(r)) {
        return; /* E2: promised and log id first */
    }
    if (index > r->ack_sent || r->ack_due) {
        msg.ack.log_id = r->meta.log_id;
        msg.ack.verified = replica_position(r, index);
        replica_send(r, out, r->leader.node, &msg);
        r->ack_sent = max_u64(r->ack_sent, index);
        r->ack_due = false;
    }
    if (r->beacon_due) {
        grant(r, out);
    }
}
