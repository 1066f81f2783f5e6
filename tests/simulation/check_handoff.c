/* G5: from the moment a primary gives its grants back it neither serves nor commits in that epoch again. And who says
 * that it could lead on has read the descriptor since it was asked. */
#include "tests/simulation/sim.h"

static void check_ready(struct sim_shard *sh, const struct replica_msg *msg)
{
    struct sim *s = sh->sim;

    if (!msg->ready.able) {
        return;
    }
    if (msg->ready.nonce != sh->offer_nonce || sh->read_us < sh->offer_us) {
        sim_fail(s, "V5: node %d shard %u: says that it could lead on without having asked the coordinator",
                 sh->node->id, sh->id);
    }
    if (sh->node->engine_down || sh->node->space_waited || sh->node->stopping) {
        sim_fail(s, "V5: node %d shard %u: says that it could lead on, but is unfit", sh->node->id, sh->id);
    }
}

static void check_returning(struct sim_shard *sh, const struct replica_action *a)
{
    struct sim *s = sh->sim;
    const struct sim_coord *c = &s->coord;

    if (sh->returned_epoch != a->send.msg.epoch) {
        sh->returned_epoch = a->send.msg.epoch;
        sim_reached(s, SIM_REIGN_RETURNED);
        if (sh->node->space_waited) {
            sim_reached(s, SIM_REIGN_RETURNED_FULL);
        }
        s->check.shards[sh->id].returned_epoch = sh->returned_epoch;
    }
    if (c->down || c->flaky || c->rolled_back || s->nodes[a->send.to].coord_blocked ||
        s->nodes[a->send.to].coord_deaf || s->nodes[a->send.to].coord_reset) {
        s->excused[sh->id] = true;
    }
}

void check_offer(struct sim_shard *sh, const struct replica_msg *msg)
{
    if (msg->offer.nonce != sh->offer_nonce) {
        sh->offer_nonce = msg->offer.nonce;
        sh->offer_us = sh->sim->now_us;
    }
}

static bool leads_on(const struct sim_shard *sh)
{
    struct replica_status status;

    replica_status(sh->replica, node_now_ms(sh->sim, sh->node), &status);
    return status.epoch == sh->returned_epoch &&
           (status.role == REPLICA_PRIMARY || status.role == REPLICA_TAKEOVER ||
            replica_read_right(sh->replica, node_now_ms(sh->sim, sh->node)) != REPLICA_READ_NOT_PRIMARY);
}

void check_action(struct sim_shard *sh, const struct replica_action *a)
{
    bool ours = false; /* what only a primary of the returned epoch does */

    switch (a->type) {
    case REPLICA_DO_SEND:
        if (a->send.msg.type == REPLICA_MSG_READY) {
            check_ready(sh, &a->send.msg);
        } else if (a->send.msg.type == REPLICA_MSG_HANDOFF) {
            check_returning(sh, a);
        }
        ours = a->send.msg.type == REPLICA_MSG_BEACON && a->send.msg.epoch == sh->returned_epoch;
        break;
    case REPLICA_DO_SEND_APPEND:
        ours = a->send.msg.epoch == sh->returned_epoch;
        break;
    case REPLICA_DO_APPEND:
        ours = a->append.position.epoch == sh->returned_epoch;
        break;
    default:
        break;
    }
    if (sh->returned_epoch != 0 && (ours || leads_on(sh))) {
        sim_fail(sh->sim, "G5: node %d shard %u gave epoch %" PRIu64 " back and goes on in it", sh->node->id, sh->id,
                 sh->returned_epoch);
    }
}
