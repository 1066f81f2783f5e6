#include "sidecar/core/replica_internal.h"

enum { ELECT_LEAVING_TIMEOUTS = 5 /* times handoff_timeout: should it live on all the same, it counts again */ };

uint64_t elect_grant_ms(const struct replica *r)
{
    uint64_t grant_ms = r->meta.grant_ms_max;

    return r->descriptor_known && r->descriptor.grant_ms > grant_ms ? r->descriptor.grant_ms : grant_ms;
}

bool elect_evidence(const struct replica *r)
{
    const struct replica_link *link;

    if (r->leader.node == r->config.self) {
        return true; /* an earlier incarnation of ours, or a reign that we gave up (E1) */
    }
    link = replica_link_find(r, r->leader.node);
    if (link == NULL || link->contradicted) {
        return false;
    }
    return (link->state == REPLICA_PEER_DEAD && link->incarnation == r->leader.incarnation) ||
           (link->state == REPLICA_PEER_UP && link->incarnation != r->leader.incarnation);
}

/* --- questions and answers (V3) ----------------------------------------------------------------------------------- */

/* Who asks does not hear the primary itself: what it answered a moment ago no longer holds. Saves a round when two
 * members see the same process die one after the other. */
static void note_doubt(struct replica *r, otr_node from, bool meant)
{
    struct replica_peer *p = replica_peer_find(r, from);

    if (p != NULL && meant && p->answered && r->suspect_since_ms != 0) {
        p->answer_hears = false;
    }
}

void elect_on_ask(struct replica *r, otr_node from, const struct replica_msg *msg, struct replica_actions *out)
{
    struct replica_msg answer = {.type = REPLICA_MSG_ANSWER, .epoch = r->meta.promised};
    bool meant = r->leader.node == msg->ask.primary && r->leader.incarnation == msg->ask.incarnation;
    uint64_t silence_ms = r->now_ms - (meant ? r->leader.heard_ms : r->config.process_start_ms);

    note_doubt(r, from, meant);
    answer.answer.nonce = msg->ask.nonce;
    answer.answer.log_id = r->untrusted || r->seeding || r->loss.phase != LOSS_NONE ? 0 : r->meta.log_id;
    answer.answer.last = replica_position(r, r->durable_index);
    answer.answer.commit = r->committed_index;
    if (replica_leads(r)) {
        answer.answer.hears_primary = meant; /* it is us */
        answer.answer.silent = !meant;
    } else {
        answer.answer.hears_primary = meant && r->role == REPLICA_FOLLOWER && r->leader.heard &&
                                      silence_ms < elect_grant_ms(r) && !elect_evidence(r) && !handoff_received(r);
        answer.answer.silent = silence_ms >= r->config.timings.suspect_timeout_ms;
    }
    replica_send(r, out, from, &answer);
}

void elect_on_answer(struct replica *r, otr_node from, const struct replica_msg *msg)
{
    struct replica_peer *p = replica_peer_find(r, from);

    if (p == NULL || r->suspect_since_ms == 0 || msg->answer.nonce != r->ask_nonce) {
        return;
    }
    p->answered = true;
    p->answer_ms = r->now_ms;
    p->answer_log_id = msg->answer.log_id;
    p->answer_last = msg->answer.last;
    p->answer_commit = msg->answer.commit;
    p->answer_hears = msg->answer.hears_primary;
    p->answer_silent = msg->answer.silent;
    if (msg->epoch > r->meta.promised) { /* somebody already leads on */
        p->answer_hears = true;
        change_want_read(r);
    }
}

static void ask(struct replica *r, struct replica_actions *out)
{
    struct replica_msg msg = {.type = REPLICA_MSG_ASK, .epoch = r->meta.promised};

    if (r->now_ms - r->ask_ms < r->config.timings.patience_ms / 5) {
        return;
    }
    r->ask_ms = r->now_ms;
    msg.ask.nonce = r->ask_nonce;
    msg.ask.primary = r->leader.node;
    msg.ask.incarnation = r->leader.incarnation;
    for (uint32_t i = 0; i < r->descriptor.in_sync_count; i++) {
        if (r->descriptor.in_sync[i].node != r->config.self) {
            replica_send(r, out, r->descriptor.in_sync[i].node, &msg);
        }
    }
    for (uint32_t i = 0; i < r->descriptor.replicas_count; i++) {
        if (descriptor_in_sync(&r->descriptor, r->descriptor.replicas[i]) < 0) { /* see poll_others */
            replica_send(r, out, r->descriptor.replicas[i], &msg);
        }
    }
}

static void suspect(struct replica *r)
{
    r->suspect_since_ms = r->now_ms;
    r->ask_nonce++;
    r->ask_ms = 0;
    for (uint32_t i = 0; i < r->peers_count; i++) {
        r->peers[i].answered = false;
    }
}

/* --- standing ----------------------------------------------------------------------------------------------------- */

/* What the other members said, counted. */
struct poll {
    uint32_t answered; /* self included */
    uint32_t ready;    /* replicas outside the set that have lost the primary, too, and would join us at once */
    uint32_t hear;     /* still hear the primary */
    uint32_t restless; /* heard it within suspect_timeout, or could be asked and did not say yet */
    uint32_t missed;   /* did not answer; the primary itself is not missed */
    uint32_t better;   /* V6 */
    uint32_t ahead;    /* know entries to be committed that our log lacks */
};

uint32_t elect_preference(const struct replica *r, otr_node node)
{
    uint32_t i = 0;

    while (i < r->descriptor.replicas_count && r->descriptor.replicas[i] != node) {
        i++;
    }
    return i;
}

static bool better(const struct replica *r, const struct replica_peer *p) /* V6 */
{
    int order = otr_position_compare(p->answer_last, replica_position(r, r->durable_index));

    return order > 0 || (order == 0 && elect_preference(r, p->node) < elect_preference(r, r->config.self));
}

static bool answered_lately(const struct replica *r, const struct replica_peer *p)
{
    return p->answered && r->now_ms - p->answer_ms <= 2 * (uint64_t)r->config.timings.patience_ms;
}

/* A primary that is cut off from all replicas finds them silent one after the other, and takes the first of them out:
 * the last member would never find min_in_sync members that answer, although the two could go on. */
static void poll_others(struct replica *r, bool evidence, struct poll *poll)
{
    for (uint32_t i = 0; i < r->descriptor.replicas_count; i++) {
        const struct replica_peer *p = replica_peer_find(r, r->descriptor.replicas[i]);

        if (p != NULL && descriptor_in_sync(&r->descriptor, p->node) < 0 && answered_lately(r, p) &&
            p->answer_log_id != 0 && !p->answer_hears && (evidence || p->answer_silent)) {
            poll->ready++;
        }
    }
}

static struct poll poll_members(struct replica *r)
{
    struct poll poll = {.answered = 1};

    for (uint32_t i = 0; i < r->descriptor.in_sync_count; i++) {
        const struct member *m = &r->descriptor.in_sync[i];
        const struct replica_peer *p = replica_peer_find(r, m->node);

        if (m->node == r->config.self || p == NULL) {
            continue;
        }
        if (answered_lately(r, p) && p->answer_log_id == m->log_id) {
            poll.answered++;
            poll.hear += p->answer_hears;
            poll.restless += !p->answer_silent;
            poll.better += better(r, p);
            poll.ahead += r->descriptor.mode == REPLICA_SYNC && p->answer_commit > r->durable_index;
        } else if (m->node != r->leader.node) {
            poll.missed++;
            poll.restless += replica_connected(r, m->node);
        }
    }
    return poll;
}

/* The descriptor of our reign (V5). */
static void stand(struct replica *r, struct replica_actions *out)
{
    struct descriptor d = r->descriptor;
    struct otr_position committed = replica_position(r, r->committed_index);
    const uint32_t count = d.in_sync_count;
    uint32_t kept = 0;

    if (d.epoch == 0) {
        d.in_sync[0] = (struct member){.node = r->config.self, .log_id = r->meta.log_id};
        kept = 1;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (d.in_sync[i].node == r->config.self || d.in_sync[i].node != d.primary) {
            d.in_sync[kept++] = d.in_sync[i];
        }
    }
    d.in_sync_count = kept;
    d.epoch = (d.epoch > r->meta.promised ? d.epoch : r->meta.promised) + 1; /* E2 */
    d.version++;
    d.primary = r->config.self;
    d.incarnation = r->config.incarnation;
    if (d.mode == REPLICA_ASYNC) {
        loss_mark(r, &d); /* what is committed here need not be in the other members' logs, nor the other way round */
    } else if (otr_position_compare(committed, d.position) > 0) {
        d.position = committed;
    }
    /* From here on nothing of the old epoch is acknowledged or granted: see replica_follow.c. */
    replica_become(r, REPLICA_CANDIDATE,
                   handoff_received(r) ? "the primary handed over: stands for a new epoch" : "stands for a new epoch");
    change_start(r, REPLICA_CHANGE_ELECT, &d, out);
}

bool elect_eligible(const struct replica *r)
{
    int at = descriptor_in_sync(&r->descriptor, r->config.self);

    if (r->untrusted || r->seeding || r->meta.log_id == 0 || r->loss.phase != LOSS_NONE) {
        return false;
    }
    if (r->descriptor.epoch == 0) {
        return descriptor_has_replica(&r->descriptor, r->config.self);
    }
    /* E3; E4: a log that ends before what was committed at the last change has lost something. */
    return at >= 0 && r->descriptor.in_sync[at].log_id == r->meta.log_id &&
           otr_position_compare(replica_position(r, r->durable_index), r->descriptor.position) >= 0;
}

static bool ready_to_stand(const struct replica *r)
{
    return change_possible(r) && r->session_open && r->lease.known && replica_meta_settled(r);
}

/* A shard that nobody ever led: the first of the list at once, the others in their turn. */
static void stand_first(struct replica *r, struct replica_actions *out)
{
    uint64_t wait_ms = (uint64_t)elect_preference(r, r->config.self) * r->config.timings.patience_ms;

    if (r->now_ms - r->descriptor_seen_ms >= wait_ms && ready_to_stand(r)) {
        stand(r, out);
    }
}

static void consider(struct replica *r, bool evidence, bool lease_gone, uint64_t silence_ms,
                     struct replica_actions *out)
{
    struct poll poll = poll_members(r);
    uint64_t patience_ms = r->config.timings.patience_ms;
    uint64_t waited_ms = r->now_ms - r->suspect_since_ms;
    uint32_t needed = r->descriptor.min_in_sync < r->descriptor.in_sync_count ? r->descriptor.min_in_sync
                                                                              : r->descriptor.in_sync_count;
    bool enough;

    /* E4: no member of the set lacks what is committed, unless its disk shows the past, as after a restore from an old
     * copy: the set and the log id do not tell. Who has the entries leads on, and sends them. */
    if (poll.ahead > 0) {
        replica_alarm(r, out,
                      "another member has committed entries that this log lost: no candidate before it has them again");
        return;
    }
    poll_others(r, evidence, &poll);
    enough = poll.answered + poll.ready >= needed && poll.hear == 0;
    if (!evidence && !(lease_gone && silence_ms >= elect_grant_ms(r))) {
        enough = enough && poll.restless == 0; /* silence alone convinces only when it is everybody's */
    }
    /* NOLINTNEXTLINE(bugprone-branch-clone): two reasons for one step. */
    if (enough && waited_ms >= poll.better * patience_ms) {
        stand(r, out);
    } else if (lease_gone && waited_ms >= (1 + poll.missed + poll.hear + poll.better) * patience_ms) {
        stand(r, out);
    }
}

/* V5: whoever led gave it up, so nobody is to be asked (V3), and nothing has to be proved. */
static void stand_as_successor(struct replica *r, struct replica_actions *out)
{
    if (r->descriptor.epoch != r->leader.epoch) {
        change_want_read(r);
    } else if (ready_to_stand(r)) {
        stand(r, out);
    }
}

/* One that gave its reign away gives the successor time; one whose disk is full, or that is about to stop, leaves it to
 * the others. */
static bool holds_back(const struct replica *r)
{
    return handoff_waits(r) || r->disk_full ||
           (r->leaving &&
            r->now_ms - r->leaving_ms < ELECT_LEAVING_TIMEOUTS * (uint64_t)r->config.timings.handoff_timeout_ms);
}

/* The key that the primary's reign rests on is gone, or is our own although we gave that reign up. */
static bool lease_is_gone(const struct replica *r)
{
    if (r->leader.node == r->config.self && r->leader.incarnation == r->config.incarnation) {
        return true;
    }
    return r->lease.known &&
           !(r->lease.present && r->lease.node == r->leader.node && r->lease.incarnation == r->leader.incarnation);
}

void elect_progress(struct replica *r, struct replica_actions *out)
{
    uint64_t silence_ms = r->now_ms - r->leader.heard_ms;
    bool evidence, lease_gone;

    if (r->role != REPLICA_FOLLOWER || !r->descriptor_known || !elect_eligible(r)) {
        r->suspect_since_ms = 0;
        return;
    }
    if (!r->lease.known && r->session_open) {
        change_want_read(r);
    }
    if (handoff_received(r) && !r->disk_full) {
        stand_as_successor(r, out);
        return;
    }
    if (holds_back(r)) {
        r->suspect_since_ms = 0;
        return;
    }
    if (r->descriptor.epoch == 0) {
        stand_first(r, out);
        return;
    }
    evidence = elect_evidence(r);
    lease_gone = lease_is_gone(r);
    if (!evidence && !(lease_gone && silence_ms >= elect_grant_ms(r)) &&
        silence_ms < r->config.timings.suspect_timeout_ms) {
        r->suspect_since_ms = 0;
        return;
    }
    if (r->suspect_since_ms == 0) {
        suspect(r);
    }
    if (r->descriptor.epoch != r->leader.epoch) {
        change_want_read(r); /* we know of a later epoch than the descriptor that we have */
        return;
    }
    ask(r, out);
    if (ready_to_stand(r)) {
        consider(r, evidence, lease_gone, silence_ms, out);
    }
}

/* --- winning ------------------------------------------------------------------------------------------------------ */

void elect_takeover(struct replica *r, struct replica_actions *out)
{
    /* G4: grants are not durable, so a fresh process waits out what an earlier one may have given. */
    uint64_t start_ms = r->config.process_start_ms + elect_grant_ms(r) * (100 + REPLICA_DRIFT_PERCENT) / 100 + 1;

    replica_promise(r, r->descriptor.epoch);
    r->epoch = r->descriptor.epoch;
    /* What the primary that handed over returned was forgotten (G5); the rest is among the earlier ones by now. */
    r->commit_from_ms = r->granted_before_ms > start_ms ? r->granted_before_ms : start_ms;
    replica_set_leader(r, r->config.self, r->config.incarnation, r->epoch);
    replica_become(r, REPLICA_TAKEOVER, "elected");
    lead_start(r, out);
}
