/* Which of the named situations (sim_counts.h) is it? Only looks. */
#include "tests/simulation/sim.h"

/* --- messages that arrive ----------------------------------------------------------------------------------------- */

void observe_message(struct sim_shard *sh, int from, const struct replica_msg *msg)
{
    struct replica_status status;

    (void)from;
    switch (msg->type) {
    case REPLICA_MSG_ACK:
    case REPLICA_MSG_GRANT:
        replica_status(sh->replica, node_now_ms(sh->sim, sh->node), &status);
        if (msg->epoch != status.epoch || (status.role != REPLICA_PRIMARY && status.role != REPLICA_TAKEOVER)) {
            sim_reached(sh->sim, msg->type == REPLICA_MSG_ACK ? SIM_ACK_STALE : SIM_GRANT_STALE);
        }
        break;
    default:
        break;
    }
}

/* --- actions ------------------------------------------------------------------------------------------------------ */

static void observe_refusal(struct sim_shard *sh, const struct replica_msg *msg)
{
    struct sim *s = sh->sim;

    switch (msg->refuse.reason) {
    case REPLICA_REFUSE_FENCED:
        sim_reached(s, msg->refuse.promised == 0 ? SIM_APPEND_TO_CANDIDATE : SIM_APPEND_FENCED);
        break;
    case REPLICA_REFUSE_GAP:
        sim_reached(s, SIM_APPEND_GAP);
        if (sh->gap_epoch == msg->epoch && sh->gap_index > msg->refuse.position.index) {
            sim_reached(s, SIM_APPEND_GAP_AGAIN);
        }
        sh->gap_epoch = msg->epoch;
        sh->gap_index = msg->refuse.position.index;
        break;
    case REPLICA_REFUSE_SEED:
        sim_reached(s, SIM_APPEND_NEEDS_SEED);
        break;
    }
}

static void observe_reply(struct sim_shard *sh, const struct replica_action *a)
{
    struct sim *s = sh->sim;

    switch (a->reply.reply) {
    case REPLICA_REPLY_REFUSED:
        if (a->reply.status == OTR_NOTPRIMARY) {
            sim_reached(s, SIM_WRITE_NOT_PRIMARY);
        } else if (a->reply.status == OTR_FEW) {
            sim_reached(s, SIM_WRITE_FEW);
        } else if (a->reply.status == OTR_UNAVAIL) {
            sim_reached(s, sh->role == REPLICA_TAKEOVER ? SIM_WRITE_TAKING_OVER : SIM_WRITE_HANDING_OVER);
        }
        break;
    case REPLICA_REPLY_DUPLICATE:
        sim_reached(s, SIM_WRITE_DUPLICATE);
        if (a->reply.epoch != sh->epoch) {
            sim_reached(s, SIM_WRITE_DUPLICATE_NEW_REIGN);
        }
        if (a->reply.index <= sh->base.index) {
            sim_reached(s, SIM_WRITE_DUPLICATE_SEEDED);
        }
        break;
    case REPLICA_REPLY_JOIN:
        sim_reached(s, SIM_WRITE_JOINS);
        break;
    }
}

/* A reign ends, in one of four ways. */
static void observe_deposed(struct sim_shard *sh, const char *why)
{
    static const struct {
        const char *why;
        enum sim_situation situation;
    } ways[] = {{"a replica follows a higher epoch", SIM_DEPOSED_BY_FOLLOWER},
                {"another leads a higher epoch", SIM_DEPOSED_BY_PRIMARY},
                {"a higher epoch is published", SIM_DEPOSED_BY_DESCRIPTOR},
                {"the log failed", SIM_DEPOSED_BY_DISK}};

    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        if (strcmp(why, ways[i].why) == 0) {
            sim_reached(sh->sim, ways[i].situation);
        }
    }
}

static void observe_role(struct sim_shard *sh, const struct replica_action *a)
{
    struct sim *s = sh->sim;
    bool led = sh->role == REPLICA_PRIMARY || sh->role == REPLICA_TAKEOVER;
    bool leads = a->role.role == REPLICA_PRIMARY || a->role.role == REPLICA_TAKEOVER;

    if (led && !leads) {
        observe_deposed(sh, a->role.why);
    }
    if (a->role.role == REPLICA_CANDIDATE && strcmp(a->role.why, "stands for a new epoch") != 0) {
        sim_reached(s, SIM_ELECT_SUCCESSOR);
    }
    if (sh->role == REPLICA_CANDIDATE && a->role.role == REPLICA_FOLLOWER) {
        sim_reached(s, SIM_ELECT_OVERTAKEN);
    }
    if (!led && leads) {
        if (sh->stepping != REPLICA_EV_TXN_DONE) {
            sim_reached(s, SIM_ELECT_LATE);
        }
        if (sh->returned_epoch != 0 && a->role.epoch == sh->returned_epoch + 1) {
            sim_reached(s, SIM_REIGN_TAKEN_UP);
        }
        sh->inherited = sh->base.index + sh->entries_count - 1; /* behind it stands the epoch-start entry */
        sh->inherited_commit = sh->commit;
    }
    if (a->role.role == REPLICA_PRIMARY && sh->role != REPLICA_PRIMARY && sh->inherited > sh->inherited_commit) {
        sim_reached(s, SIM_TAIL_INHERITED);
    }
    if (a->role.role == REPLICA_IDLE && sh->role == REPLICA_FOLLOWER) {
        sim_reached(s, SIM_REPLICA_LEFT);
    }
}

static void observe_txn_sent(struct sim_shard *sh, const struct replica_action *a)
{
    if (a->txn.change_descriptor && a->txn.lease == REPLICA_LEASE_IF_ABSENT) {
        sim_reached(sh->sim, SIM_ELECT_LEASE_GONE);
    } else if (a->txn.change_descriptor && a->txn.lease == REPLICA_LEASE_IF_REVISION) {
        sim_reached(sh->sim, SIM_ELECT_LEASE_TAKEN);
    }
}

void observe_action(struct sim_shard *sh, const struct replica_action *a)
{
    struct sim *s = sh->sim;

    switch (a->type) {
    case REPLICA_DO_SEND:
        if (a->send.msg.type == REPLICA_MSG_REFUSE) {
            observe_refusal(sh, &a->send.msg);
        } else if (a->send.msg.type == REPLICA_MSG_GRANT && !a->send.msg.grant.granted) {
            sim_reached(s, SIM_GRANT_REFUSED);
        }
        break;
    case REPLICA_DO_APPEND_RAW:
        if (sh->incoming != NULL && a->append_raw.first > sh->incoming->msg.append.prev.index + 1) {
            sim_reached(s, SIM_APPEND_OVERLAPS);
        }
        break;
    case REPLICA_DO_REPLY:
        observe_reply(sh, a);
        break;
    case REPLICA_DO_ABANDON:
        if (sh->pending != NULL) {
            sim_reached(s, SIM_WRITE_ABANDONED);
        }
        break;
    case REPLICA_DO_ROLE:
        observe_role(sh, a);
        break;
    case REPLICA_DO_TXN:
        observe_txn_sent(sh, a);
        break;
    case REPLICA_DO_ALARM:
        if (strstr(a->alarm.text, "shows an older state") != NULL) {
            sim_reached(s, SIM_PAST_REFUSED);
        }
        break;
    default:
        break;
    }
}

/* --- whole steps -------------------------------------------------------------------------------------------------- */

void observe_step(struct sim_shard *sh, const struct replica_event *ev)
{
    struct sim *s = sh->sim;
    bool appended = false, refused = false, committed = false, answered = false;

    for (size_t i = 0; i < sh->actions.count; i++) {
        const struct replica_action *a = &sh->actions.items[i];

        appended = appended || a->type == REPLICA_DO_APPEND_RAW;
        refused = refused || (a->type == REPLICA_DO_SEND && a->send.msg.type == REPLICA_MSG_REFUSE);
        committed = committed || a->type == REPLICA_DO_COMMIT;
        answered = answered || a->type == REPLICA_DO_ANSWER;
    }
    if (ev->type == REPLICA_EV_MSG && ev->msg.msg->type == REPLICA_MSG_APPEND && !appended && !refused &&
        ev->msg.msg->append.last_index > ev->msg.msg->append.prev.index) {
        sim_reached(s, SIM_APPEND_KNOWN);
    }
    if (sh->role == REPLICA_PRIMARY && committed && !answered) {
        sim_reached(s, alter_truth(s, sh->id)->descriptor.mode == REPLICA_ASYNC ? SIM_ASYNC_HELD : SIM_COMMIT_HELD);
    }
    if (sh->role == REPLICA_PRIMARY && answered && !committed) {
        sim_reached(s, SIM_COMMIT_RELEASED);
    }
    if (ev->type == REPLICA_EV_SEED_DONE && ev->seed_done.ok) {
        sim_reached(s, SIM_SEED_DONE);
    }
}

/* --- the coordinator ---------------------------------------------------------------------------------------------- */

void observe_txn(struct sim *s, const struct descriptor *before, const struct descriptor *d, int status, bool late)
{
    bool elects = d->epoch != before->epoch;

    if (late) {
        sim_reached(s, status != 0 ? SIM_LATE_FAILED : elects ? SIM_ELECT_FORGOTTEN : SIM_SET_LATE);
    } else if (status == OTR_CONFLICT) {
        sim_reached(s, elects ? SIM_ELECT_CONFLICT : SIM_SET_CONFLICT);
    }
    if (status == OTR_UNKNOWN) {
        sim_reached(s, elects ? SIM_ELECT_UNKNOWN : SIM_SET_UNKNOWN);
    }
    if (status == 0 && descriptor_compare(before, d) == 0) {
        sim_reached(s, SIM_LEASE_RETAKEN);
    }
}

static void observe_election(struct sim *s, otr_shard shard, const struct descriptor *before,
                             const struct descriptor *d)
{
    const struct sim_node *old = before->primary == OTR_NODE_NONE ? NULL : &s->nodes[before->primary];
    struct replica_status status;

    if (before->epoch == 0) {
        sim_reached(s, SIM_ELECT_FIRST);
    }
    if (before->primary == d->primary) {
        sim_reached(s, SIM_ELECT_SELF);
    }
    if (old == NULL || !old->alive || old->shards[shard] == NULL) {
        return;
    }
    replica_status(old->shards[shard]->replica, node_now_ms(s, old), &status);
    for (uint32_t i = 0; i < status.peers_count; i++) {
        if (status.peers[i].counted && descriptor_in_sync(before, status.peers[i].node) < 0) {
            sim_reached(s, SIM_ELECT_UNPUBLISHED);
            return;
        }
    }
}

void observe_published(struct sim *s, otr_shard shard, const struct descriptor *before, const struct descriptor *d)
{
    if (d->epoch != before->epoch && d->epoch != 0) {
        observe_election(s, shard, before, d);
        return;
    }
    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        const struct member *m = &d->in_sync[i];

        if (descriptor_in_sync(before, m->node) < 0) {
            sim_reached(s, SIM_SET_JOINED);
            if (s->set_log[shard][m->node] != 0 && s->set_log[shard][m->node] != m->log_id) {
                sim_reached(s, SIM_SET_SWAPPED);
            }
        }
        s->set_log[shard][m->node] = m->log_id;
    }
    for (uint32_t i = 0; i < before->in_sync_count; i++) {
        if (descriptor_in_sync(d, before->in_sync[i].node) < 0) {
            sim_reached(s, SIM_SET_REMOVED);
        }
    }
    if (d->mode != before->mode && before->epoch > 0) {
        sim_reached(s, d->mode == REPLICA_ASYNC ? SIM_MODE_ASYNC : SIM_MODE_SYNC);
    }
    if (d->in_sync_count == 1 && before->in_sync_count > 1) {
        sim_reached(s, SIM_SET_SINGLE);
    }
    if (d->in_sync_count < d->min_in_sync && before->in_sync_count >= before->min_in_sync) {
        sim_reached(s, SIM_SET_BELOW_MIN);
    }
}
