/* Handing over (PROTOCOL G5, V5), and leaving the set before the process stops. The picture is in replica.h.
 *
 * Happy path of the primary: begin, offer to the members, choose one that is able, freeze, return the grants, see a
 * newer epoch. Failures up to the return: unfreeze, serve on. After it our reign is over for good: replica_abdicate is
 * what makes G5 hold, for whoever does not lead neither serves nor commits, and never again leads that epoch (E1).
 *
 * Why the successor need not wait for its own grant to us: the wait (G4) covers reads that we might still answer, and
 * we answer none. What it gave to others in lower epochs, or before its process started, it waits out as ever. */
#include "sidecar/core/replica_internal.h"

enum {
    HANDOFF_OFFER_REPEAT_MS = 50,      /* to those that have not answered */
    HANDOFF_OFFER_WAIT_MS = 50,        /* for a better member than the first able one */
    HANDOFF_REPEAT_MS = 20,            /* HANDOFF, until a newer epoch is seen */
    HANDOFF_COORDINATOR_LOST_MS = 500, /* without it for so long a primary looks for one that has it */
    HANDOFF_COORDINATOR_BACK_MS = 500, /* ...and, once one is found, tries for so long to reach it after all */
    HANDOFF_PAUSE_MIN_MS = 1000,       /* between rounds of offers that nobody asked for... */
    HANDOFF_PAUSE_MAX_MS = 5000,       /* ...doubling up to this */
};

/* What a member must have to answer that it is able, for whoever asked in vain. */
#define HANDOFF_ABLE_NEEDS "that takes a working engine, room on the disk, and the coordinator in reach"

/* --- outcome ------------------------------------------------------------------------------------------------------ */

static void handed(struct replica *r, int status, otr_node to, const char *why, struct replica_actions *out)
{
    struct replica_action *a = replica_emit(out, REPLICA_DO_HANDED);

    a->handed.status = status;
    a->handed.to = to;
    a->handed.epoch = replica_leads(r) ? r->epoch : r->leader.epoch;
    a->handed.why = why;
}

static void finish(struct replica *r, int status, otr_node to, const char *why, struct replica_actions *out)
{
    if (r->handoff.asked) {
        handed(r, status, to, why, out);
    }
    r->handoff.phase = HANDOFF_NONE;
    r->handoff.asked = false;
}

void handoff_on_failure(struct replica *r, struct replica_actions *out)
{
    if (r->handoff.phase != HANDOFF_NONE) {
        finish(r, OTR_UNAVAIL, OTR_NODE_NONE, "the log failed", out);
    }
}

/* --- the primary: beginning --------------------------------------------------------------------------------------- */

static void offer_anew(struct replica *r)
{
    r->handoff.phase = HANDOFF_OFFERING;
    r->handoff.to = OTR_NODE_NONE;
    r->handoff.nonce++;
    r->handoff.sent_ms = 0;
    r->handoff.able_ms = 0;
    for (uint32_t i = 0; i < r->peers_count; i++) {
        r->peers[i].ready_answered = false;
        r->peers[i].ready_able = false;
    }
}

static void begin(struct replica *r, otr_node wanted, uint32_t timeout_ms, bool asked)
{
    r->handoff.asked = asked;
    r->handoff.alone = false;
    r->handoff.wanted = wanted;
    r->handoff.timeout_ms = timeout_ms != 0 ? timeout_ms : r->config.timings.handoff_timeout_ms;
    r->handoff.deadline_ms = r->now_ms + r->handoff.timeout_ms;
    r->handoff.epoch = r->epoch;
    offer_anew(r);
}

void handoff_leave(struct replica *r)
{
    if (!r->leaving) {
        r->leaving = true;
        r->leaving_ms = r->now_ms;
    }
}

void handoff_on_event(struct replica *r, const struct replica_event *ev, struct replica_actions *out)
{
    struct replica_handoff *h = &r->handoff;
    otr_node wanted = ev->handoff.to;

    if (ev->handoff.stopping) {
        handoff_leave(r);
    }
    if (h->phase == HANDOFF_NONE && !replica_leads(r)) {
        handed(r, OTR_NOTPRIMARY, r->leader.node == r->config.self ? OTR_NODE_NONE : r->leader.node,
               "this replica does not lead", out);
    } else if (wanted == r->config.self && replica_leads(r)) {
        handed(r, OTR_UNAVAIL, wanted, "it leads already", out);
    } else if (h->phase == HANDOFF_NONE || (h->phase == HANDOFF_OFFERING && !h->asked)) {
        begin(r, wanted, ev->handoff.timeout_ms, true);
    } else if (!h->asked && (wanted == OTR_NODE_NONE || wanted == h->to)) {
        h->asked = true; /* of one that began by itself somebody now wants to know the outcome */
    } else {
        handed(r, OTR_BUSY, h->to, "a handoff is under way", out);
    }
}

/* --- the primary: offers ------------------------------------------------------------------------------------------ */

/* May lead on as far as we know. A change of the set with unknown outcome may have taken it out (A4). */
static struct replica_peer *may_succeed(struct replica *r, const struct member *m)
{
    struct replica_peer *p = replica_peer_find(r, m->node);

    if (p == NULL || p->leaving != 0 || !replica_connected(r, m->node) ||
        !descriptor_has_replica(&r->descriptor, m->node) ||
        (r->handoff.wanted != OTR_NODE_NONE && r->handoff.wanted != m->node) ||
        (r->change.kind == REPLICA_CHANGE_SET && descriptor_in_sync(&r->change.descriptor, m->node) < 0)) {
        return NULL;
    }
    return p;
}

static bool prefer(const struct replica *r, const struct replica_peer *a, const struct replica_peer *b)
{
    int order = otr_position_compare(a->ready_last, b->ready_last);

    return order > 0 || (order == 0 && elect_preference(r, a->node) < elect_preference(r, b->node));
}

struct offers {
    uint32_t possible, unanswered;
    struct replica_peer *best; /* able; NULL: none */
};

static struct offers offers_count(struct replica *r)
{
    struct offers o = {0};

    for (uint32_t i = 0; i < r->descriptor.in_sync_count; i++) {
        const struct member *m = &r->descriptor.in_sync[i];
        struct replica_peer *p = may_succeed(r, m);

        if (p == NULL) {
            continue;
        }
        o.possible++;
        o.unanswered += !p->ready_answered;
        if (p->ready_able && p->ready_log_id == m->log_id && (o.best == NULL || prefer(r, p, o.best))) {
            o.best = p;
        }
    }
    return o;
}

static void send_offers(struct replica *r, struct replica_actions *out)
{
    struct replica_msg msg = {.type = REPLICA_MSG_OFFER, .epoch = r->epoch};

    if (r->handoff.sent_ms != 0 && r->now_ms - r->handoff.sent_ms < HANDOFF_OFFER_REPEAT_MS) {
        return;
    }
    r->handoff.sent_ms = r->now_ms;
    msg.offer.nonce = r->handoff.nonce;
    msg.offer.incarnation = r->config.incarnation;
    for (uint32_t i = 0; i < r->descriptor.in_sync_count; i++) {
        const struct replica_peer *p = may_succeed(r, &r->descriptor.in_sync[i]);

        if (p != NULL && !p->ready_answered) {
            replica_send(r, out, p->node, &msg);
        }
    }
}

void handoff_on_ready(struct replica *r, otr_node from, const struct replica_msg *msg)
{
    struct replica_peer *p = replica_peer_find(r, from);

    if (p == NULL || r->handoff.phase != HANDOFF_OFFERING || !replica_leads(r) || msg->epoch != r->epoch ||
        msg->ready.nonce != r->handoff.nonce) {
        return;
    }
    p->ready_answered = true;
    p->ready_able = msg->ready.able;
    p->ready_log_id = msg->ready.log_id;
    p->ready_last = msg->ready.last;
    if (p->ready_able && r->handoff.able_ms == 0) {
        r->handoff.able_ms = r->now_ms;
        r->handoff.read_answered = r->read_answered;
    }
}

/* Somebody else would lead better, whatever the coordinator does. */
static bool unfit(const struct replica *r)
{
    return r->engine_down || r->disk_full || r->damaged || r->leaving ||
           !descriptor_has_replica(&r->descriptor, r->config.self);
}

/* A member that is able shows that the coordinator answers. If its absence alone makes us go, it may be back for us
 * too: members see that at once, for an offer makes them read; we, without this, with our session's next sign of life.
 * A shard would change hands after each outage for nothing. */
static bool must_go(struct replica *r)
{
    if (r->handoff.asked || r->handoff.alone || unfit(r)) {
        return true;
    }
    if (r->session_open && r->read_answered > r->handoff.read_answered) {
        r->handoff.phase = HANDOFF_NONE;
    } else if (r->now_ms - r->handoff.able_ms < HANDOFF_COORDINATOR_BACK_MS) {
        change_want_read(r);
    } else {
        r->handoff.alone = true;
        offer_anew(r); /* what a member said then may have ceased to be so */
    }
    return false;
}

static const char *why_nobody(const struct replica *r)
{
    if (r->handoff.wanted == OTR_NODE_NONE) {
        return "no other member is in sync and connected";
    }
    return descriptor_in_sync(&r->descriptor, r->handoff.wanted) < 0 ? "it is not in sync"
                                                                     : "it cannot be reached, or is about to stop";
}

static void offering(struct replica *r, struct replica_actions *out)
{
    struct replica_handoff *h = &r->handoff;
    struct offers o;

    if (r->role == REPLICA_PRIMARY) { /* members follow, and a successor has all that was inherited */
        o = offers_count(r);
        if (o.possible == 0) {
            finish(r, OTR_UNAVAIL, h->wanted, why_nobody(r), out);
            return;
        }
        if (o.best != NULL && (o.unanswered == 0 || r->now_ms - h->able_ms >= HANDOFF_OFFER_WAIT_MS)) {
            if (must_go(r)) {
                h->phase = HANDOFF_FROZEN;
                h->to = o.best->node;
                h->frozen_ms = r->now_ms;
            }
            return;
        }
        if (o.unanswered == 0) {
            finish(r, OTR_UNAVAIL, h->wanted,
                   h->wanted != OTR_NODE_NONE ? "it is not able to lead: " HANDOFF_ABLE_NEEDS
                                              : "no other member is able to lead: " HANDOFF_ABLE_NEEDS,
                   out);
            return;
        }
        send_offers(r, out);
    }
    if (r->now_ms >= h->deadline_ms) {
        finish(r, OTR_UNAVAIL, h->wanted, "no member that is able answered in time", out);
    }
}

/* --- the primary: giving back ------------------------------------------------------------------------------------- */

static void send_handoff(struct replica *r, struct replica_actions *out)
{
    struct replica_msg msg = {.type = REPLICA_MSG_HANDOFF, .epoch = r->handoff.epoch};

    r->handoff.sent_ms = r->now_ms;
    msg.handoff.incarnation = r->config.incarnation;
    msg.handoff.sent_ms = r->handoff.beacon_ms;
    msg.handoff.commit = r->committed_index;
    replica_send(r, out, r->handoff.to, &msg);
}

/* The successor has all that we have, and nothing that we wait for would be cut short.
 *
 * A change of the set whose answer is on its way is awaited, for it would only make the successor's transaction fail;
 * one with unknown outcome is not (without the coordinator that could last), and is safe to leave: the successor is in
 * both sets, and of the two transactions one fails (D3). Likewise a tail that does not commit, because a member that
 * went silent cannot be taken out, is inherited like any other (A3): whoever waits for it is told that its outcome is
 * unknown, and finds it when asking again (Q2). */
static bool level(struct replica *r)
{
    const struct replica_peer *p = replica_peer_find(r, r->handoff.to);

    if (p->acked < r->last.index || (r->txn_outstanding && !r->change.unknown)) {
        return false;
    }
    return r->committed_index == r->last.index ||
           r->now_ms - r->handoff.frozen_ms >= r->config.timings.replica_timeout_ms;
}

static void frozen(struct replica *r, struct replica_actions *out)
{
    struct replica_handoff *h = &r->handoff;
    int at = descriptor_in_sync(&r->descriptor, h->to);
    const struct replica_peer *p = at < 0 ? NULL : may_succeed(r, &r->descriptor.in_sync[at]);

    if (p == NULL || p->log_id != r->descriptor.in_sync[at].log_id) {
        offer_anew(r); /* lost it: serve on, and look for another */
        return;
    }
    if (level(r)) {
        h->phase = HANDOFF_RETURNED;
        h->deadline_ms = r->now_ms + h->timeout_ms;
        h->beacon_ms = r->beacon_ms;
        replica_abdicate(r, out, "handed over");
        send_handoff(r, out);
    } else if (r->now_ms >= h->deadline_ms) {
        finish(r, OTR_TIMEOUT, h->to, "the successor did not catch up in time", out);
    }
}

/* Our reign is over. */
static void returned(struct replica *r, struct replica_actions *out)
{
    struct replica_handoff *h = &r->handoff;

    if (replica_leads(r)) {
        finish(r, OTR_TIMEOUT, h->to, "nobody took over: this replica was elected anew", out);
    } else if (r->leader.epoch > h->epoch && r->leader.node != r->config.self) {
        finish(r, 0, r->leader.node, "handed over", out);
    } else if (r->now_ms >= h->deadline_ms) {
        finish(r, OTR_TIMEOUT, h->to, "nobody took over in time", out);
    } else if (h->to != OTR_NODE_NONE && !replica_connected(r, h->to)) {
        h->to = OTR_NODE_NONE; /* no longer waited for: we stand, too */
    } else if (h->to != OTR_NODE_NONE && r->now_ms - h->sent_ms >= HANDOFF_REPEAT_MS) {
        send_handoff(r, out);
    }
}

/* --- the primary: by itself --------------------------------------------------------------------------------------- */

static bool without_coordinator(const struct replica *r)
{
    return r->coordinator_lost_ms != 0 && r->now_ms - r->coordinator_lost_ms >= HANDOFF_COORDINATOR_LOST_MS;
}

static void begin_by_itself(struct replica *r)
{
    if (r->role != REPLICA_PRIMARY) {
        return;
    }
    if (!unfit(r) && !without_coordinator(r)) {
        r->handoff_pause_ms = 0;
        r->handoff_not_before_ms = 0;
        if (r->handoff.phase == HANDOFF_OFFERING && !r->handoff.asked) {
            r->handoff.phase = HANDOFF_NONE;
        }
        return;
    }
    if (r->handoff.phase == HANDOFF_NONE && r->now_ms >= r->handoff_not_before_ms) {
        uint32_t pause_ms = r->handoff_pause_ms < HANDOFF_PAUSE_MIN_MS ? HANDOFF_PAUSE_MIN_MS : r->handoff_pause_ms;

        begin(r, OTR_NODE_NONE, 0, false);
        r->handoff_not_before_ms = r->now_ms + pause_ms;
        r->handoff_pause_ms = pause_ms * 2 > HANDOFF_PAUSE_MAX_MS ? HANDOFF_PAUSE_MAX_MS : pause_ms * 2;
    }
}

void handoff_progress(struct replica *r, struct replica_actions *out)
{
    struct replica_handoff *h = &r->handoff;

    begin_by_itself(r);
    if ((h->phase == HANDOFF_OFFERING || h->phase == HANDOFF_FROZEN) && (!replica_leads(r) || r->epoch != h->epoch)) {
        /* Fenced meanwhile. Who leads is known soon. */
        h->phase = HANDOFF_RETURNED;
        h->to = OTR_NODE_NONE;
        h->deadline_ms = r->now_ms + h->timeout_ms;
    }
    if (h->phase == HANDOFF_OFFERING) {
        offering(r, out);
    }
    if (h->phase == HANDOFF_FROZEN) {
        frozen(r, out);
    }
    if (h->phase == HANDOFF_RETURNED) {
        returned(r, out);
    }
}

/* --- the member --------------------------------------------------------------------------------------------------- */

/* Could lead on, as far as can be said without asking the coordinator. */
static bool able(const struct replica *r, const struct replica_offer *o)
{
    return r->role == REPLICA_FOLLOWER && o->epoch == r->meta.promised && r->leader.epoch == o->epoch &&
           r->leader.node == o->from && r->leader.incarnation == o->incarnation && r->descriptor_known &&
           r->descriptor.epoch == o->epoch && descriptor_has_replica(&r->descriptor, r->config.self) &&
           elect_eligible(r) && !replica_regressed(r) && r->session_open && r->reachable && !r->engine_down &&
           !r->disk_full && !r->disk_low && !r->damaged && !r->leaving;
}

static void ready(struct replica *r, bool is_able, struct replica_actions *out)
{
    struct replica_msg msg = {.type = REPLICA_MSG_READY, .epoch = r->offer.epoch};

    r->offer.pending = false;
    r->offer.confirmed = is_able;
    msg.ready.nonce = r->offer.nonce;
    msg.ready.log_id = r->meta.log_id;
    msg.ready.last = replica_position(r, r->durable_index);
    msg.ready.able = is_able;
    replica_send(r, out, r->offer.from, &msg);
}

void handoff_on_offer(struct replica *r, otr_node from, const struct replica_msg *msg, struct replica_actions *out)
{
    struct replica_offer o = {.pending = true,
                              .from = from,
                              .epoch = msg->epoch,
                              .incarnation = msg->offer.incarnation,
                              .nonce = msg->offer.nonce,
                              .read = r->read + 1};
    bool repeated = r->offer.from == from && r->offer.epoch == o.epoch && r->offer.incarnation == o.incarnation &&
                    r->offer.nonce == o.nonce;

    if (repeated && r->offer.pending) {
        return;
    }
    if (!repeated || !r->offer.confirmed) {
        r->offer = o;
    }
    if (r->offer.confirmed || !able(r, &r->offer)) {
        ready(r, able(r, &r->offer), out); /* what was read for this very offer need not be read again */
    }
}

/* Only one read that begins now tells whether we could complete an election: were the coordinator away for everybody,
 * then handing over would leave the shard without a primary, where staying serves it on (DESIGN 3.3). */
static void answer_offer(struct replica *r, struct replica_actions *out)
{
    if (!r->offer.pending) {
        return;
    }
    if (!able(r, &r->offer) || r->read_failed >= r->offer.read) {
        ready(r, false, out);
    } else if (r->read_answered >= r->offer.read) {
        ready(r, true, out);
    } else if (!r->read_outstanding) {
        change_want_read(r);
    }
}

void handoff_on_handoff(struct replica *r, otr_node from, const struct replica_msg *msg)
{
    /* E1: whoever is not the incarnation that leads the epoch has nothing to return in it. */
    if (msg->epoch != r->meta.promised || (r->role != REPLICA_FOLLOWER && r->role != REPLICA_CANDIDATE) ||
        r->leader.epoch != msg->epoch || r->leader.node != from || r->leader.incarnation != msg->handoff.incarnation) {
        return;
    }
    r->returned_epoch = msg->epoch;
    r->beacon_due = false;
    if (r->granted_sent_ms <= msg->handoff.sent_ms) {
        r->granted_until_ms = 0; /* G5 */
    }
    if (msg->handoff.commit > r->commit_told) {
        r->commit_told = msg->handoff.commit; /* A5 holds it to what was verified */
    }
}

/* --- leaving ------------------------------------------------------------------------------------------------------ */

void handoff_on_leave(struct replica *r, otr_node from, const struct replica_msg *msg)
{
    const struct replica_link *link = replica_link_find(r, from);
    struct replica_peer *p = replica_peer_find(r, from);
    int at = descriptor_in_sync(&r->descriptor, from);

    /* A late one of an earlier process says nothing of the one that is there now. */
    if (p != NULL && replica_leads(r) && msg->epoch == r->epoch &&
        (at < 0 || r->descriptor.in_sync[at].log_id == msg->leave.log_id) &&
        (link == NULL || link->state != REPLICA_PEER_UP || link->incarnation == msg->leave.incarnation)) {
        p->leaving = msg->leave.incarnation;
    }
}

/* Before the first acknowledgement that a new primary gets, so that it never counts on us; then again and again, for
 * messages are lost. */
static void say_leaving(struct replica *r, struct replica_actions *out)
{
    struct replica_msg msg = {.type = REPLICA_MSG_LEAVE, .epoch = r->leader.epoch};

    if (!r->leaving || r->role != REPLICA_FOLLOWER || r->leader.node == OTR_NODE_NONE ||
        r->leader.node == r->config.self || r->leader.epoch != r->meta.promised ||
        (r->leave_epoch == r->leader.epoch && r->now_ms - r->leave_ms < r->config.timings.beacon_ms)) {
        return;
    }
    r->leave_epoch = r->leader.epoch;
    r->leave_ms = r->now_ms;
    msg.leave.incarnation = r->config.incarnation;
    msg.leave.log_id = r->meta.log_id;
    replica_send(r, out, r->leader.node, &msg);
}

void handoff_progress_member(struct replica *r, struct replica_actions *out)
{
    answer_offer(r, out);
    say_leaving(r, out);
}
