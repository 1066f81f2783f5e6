/* An election outside the in-sync set, on an operator's word (PROTOCOL V7): no member of it is left alive, and what it
 * alone had is given up.
 *
 * The operator vouches that the members which cannot be reached are stopped; everything else is checked. A member that
 * answers refutes him, and so does a lease: its session lives. What the coordinator shows is read anew, and the
 * transaction compares with exactly that, so nobody was elected meanwhile, no set has changed, and no change of the old
 * epoch can be published later (D2): its primary, should it still run, learns of the higher epoch from the coordinator
 * and from us, and leads no more. The new set is this replica alone; the others join it as learners do. */
#include "sidecar/core/replica_internal.h"

#define FORCE_NONCE (1ULL << 63) /* set in all of ours */

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

uint64_t force_known(const struct replica *r)
{
    uint64_t known = max_u64(r->committed_index, r->commit_heard);

    return r->descriptor_known ? max_u64(known, r->descriptor.position.index) : known;
}

uint64_t force_kept(const struct replica *r)
{
    struct otr_position position = r->descriptor_known ? r->descriptor.position : (struct otr_position){0};

    return descriptor_kept(position, replica_position(r, r->durable_index), r->committed_index);
}

/* --- outcome ------------------------------------------------------------------------------------------------------ */

static void forced(struct replica *r, int status, otr_node other, const char *why, struct replica_actions *out)
{
    struct replica_action *a = replica_emit(out, REPLICA_DO_FORCED);

    a->forced.status = status;
    a->forced.other = other;
    a->forced.epoch = replica_leads(r) ? r->epoch : r->leader.epoch;
    a->forced.why = why;
}

static void finish(struct replica *r, int status, otr_node other, const char *why, struct replica_actions *out)
{
    r->force.active = false;
    forced(r, status, other, why, out);
}

void force_on_failure(struct replica *r, struct replica_actions *out)
{
    if (r->force.active) {
        finish(r, r->force.standing ? OTR_UNKNOWN : OTR_UNAVAIL, OTR_NODE_NONE, "the log failed", out);
    }
}

/* --- beginning ---------------------------------------------------------------------------------------------------- */

/* Why this replica must not, or cannot, stand. NULL: it may. */
static const char *refusal(const struct replica *r, int *status, otr_node *other)
{
    *other = OTR_NODE_NONE;
    *status = OTR_CONFLICT;
    if (replica_leads(r)) {
        *status = OTR_EXISTS;
        return "it leads already";
    }
    if (r->role == REPLICA_IDLE || r->untrusted || r->seeding || r->meta.log_id == 0 || r->loss.phase != LOSS_NONE) {
        return "its log holds nothing that counts";
    }
    if (r->descriptor_known && r->descriptor.epoch == 0) {
        return "nobody ever led the shard: there is nothing to lose";
    }
    if (r->descriptor_known && elect_eligible(r)) {
        *other = r->config.self;
        return "is in sync and lives";
    }
    if (!r->descriptor_known || replica_regressed(r) || !r->session_open || !r->reachable) {
        *status = OTR_UNAVAIL;
        return "the coordinator cannot be reached, or is not the one it was";
    }
    if (!descriptor_has_replica(&r->descriptor, r->config.self)) {
        return "the shard has no replica here";
    }
    if (r->disk_full || r->leaving) {
        *status = OTR_UNAVAIL;
        return r->disk_full ? "its disk is full" : "it is about to stop";
    }
    if (r->lease.known && r->lease.present) {
        *other = r->lease.node;
        return "has a session in the coordinator: it lives, or died less than session_ttl ago";
    }
    return NULL;
}

void force_on_event(struct replica *r, const struct replica_event *ev, struct replica_actions *out)
{
    otr_node other;
    int status;
    const char *why = r->failed ? "the log failed" : refusal(r, &status, &other);

    if (r->failed) {
        forced(r, OTR_UNAVAIL, OTR_NODE_NONE, why, out);
    } else if (r->force.active) {
        forced(r, OTR_BUSY, OTR_NODE_NONE, "a forced election is under way", out);
    } else if (why != NULL) {
        forced(r, status, other, why, out);
    } else {
        r->force = (struct replica_force){.active = true,
                                          .since_ms = r->now_ms,
                                          .deadline_ms = r->now_ms + ev->force.timeout_ms,
                                          .nonce = (r->force.nonce + 1) | FORCE_NONCE,
                                          .read = r->read + 1,
                                          .accepted = ev->force.accepted};
        change_want_read(r);
    }
}

/* --- the members of the set --------------------------------------------------------------------------------------- */

static void ask_members(struct replica *r, struct replica_actions *out)
{
    struct replica_msg msg = {.type = REPLICA_MSG_ASK, .epoch = r->meta.promised};

    if (r->force.asked_ms != 0 && r->now_ms - r->force.asked_ms < r->config.timings.patience_ms) {
        return;
    }
    r->force.asked_ms = r->now_ms;
    msg.ask.nonce = r->force.nonce;
    msg.ask.primary = r->descriptor.primary;
    msg.ask.incarnation = r->descriptor.incarnation;
    for (uint32_t i = 0; i < r->descriptor.in_sync_count; i++) {
        replica_send(r, out, r->descriptor.in_sync[i].node, &msg);
    }
}

bool force_on_answer(struct replica *r, otr_node from, const struct replica_msg *msg, struct replica_actions *out)
{
    int at = descriptor_in_sync(&r->descriptor, from);

    if ((msg->answer.nonce & FORCE_NONCE) == 0) {
        return false;
    }
    if (!r->force.active || r->force.standing || msg->answer.nonce != r->force.nonce) {
        return true;
    }
    if (msg->epoch > r->meta.promised) {
        change_want_read(r);
        finish(r, OTR_CONFLICT, from, "follows a later epoch: somebody leads the shard", out);
    } else if (at >= 0 && msg->answer.log_id == r->descriptor.in_sync[at].log_id &&
               otr_position_compare(msg->answer.last, r->descriptor.position) >= 0) {
        finish(r, OTR_CONFLICT, from, "is in sync and lives", out);
    }
    return true;
}

/* Somebody in the set is connected, and may yet say that he lives. */
static bool may_answer(const struct replica *r)
{
    for (uint32_t i = 0; i < r->descriptor.in_sync_count; i++) {
        if (replica_connected(r, r->descriptor.in_sync[i].node)) {
            return r->now_ms - r->force.since_ms < r->config.timings.suspect_timeout_ms;
        }
    }
    return false;
}

/* --- standing ----------------------------------------------------------------------------------------------------- */

static void stand(struct replica *r, struct replica_actions *out)
{
    struct descriptor d = r->descriptor;

    d.in_sync[0] = (struct member){.node = r->config.self, .log_id = r->meta.log_id};
    d.in_sync_count = 1;
    d.epoch = max_u64(d.epoch, r->meta.promised) + 1; /* E2 */
    d.version++;
    d.primary = r->config.self;
    d.incarnation = r->config.incarnation;
    d.position = replica_position(r, r->committed_index); /* what was committed beyond it is given up */
    loss_mark(r, &d);
    r->force.standing = true;
    replica_become(r, REPLICA_CANDIDATE, "stands for a new epoch: an operator accepts what is lost");
    change_start(r, REPLICA_CHANGE_ELECT, &d, out);
}

static void prepare(struct replica *r, struct replica_actions *out)
{
    otr_node other;
    int status;
    const char *why = refusal(r, &status, &other);

    if (why != NULL) {
        finish(r, status, other, why, out);
    } else if (force_known(r) > force_kept(r) && force_known(r) - force_kept(r) > r->force.accepted) {
        finish(r, OTR_CONFLICT, OTR_NODE_NONE, "more entries may be lost than were accepted", out);
    } else if (r->now_ms >= r->force.deadline_ms) {
        finish(r, OTR_TIMEOUT, OTR_NODE_NONE, "the coordinator did not answer in time", out);
    } else if (r->read_failed >= r->force.read) {
        finish(r, OTR_UNAVAIL, OTR_NODE_NONE, "the coordinator did not answer", out);
    } else if (r->read_answered < r->force.read) {
        if (!r->read_outstanding) {
            change_want_read(r);
        }
    } else if (may_answer(r)) {
        ask_members(r, out);
    } else if (r->role == REPLICA_FOLLOWER && change_possible(r) && r->lease.known && replica_meta_settled(r) &&
               r->durable_index == r->last.index) {
        stand(r, out);
    }
}

void force_progress(struct replica *r, struct replica_actions *out)
{
    if (!r->force.active) {
        return;
    }
    if (!r->force.standing) {
        prepare(r, out);
    } else if (r->role == REPLICA_PRIMARY) {
        finish(r, 0, r->config.self, "it leads", out);
    } else if (r->role == REPLICA_FOLLOWER) {
        finish(r, OTR_CONFLICT, OTR_NODE_NONE, "the shard changed meanwhile", out);
    } else if (r->now_ms >= r->force.deadline_ms) {
        finish(r, OTR_UNKNOWN, OTR_NODE_NONE, "the coordinator does not say whether the election took effect", out);
    }
}
