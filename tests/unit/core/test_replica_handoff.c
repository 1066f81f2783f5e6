/* Handing over as the primary does it (PROTOCOL G5). The member's half: test_replica_succeed.c. */
#include "tests/unit/core/replica_fixture.h"

static void hand_over(struct fixture *f, otr_node to, bool stopping)
{
    step(f, (struct replica_event){.type = REPLICA_EV_HANDOFF,
                                   .handoff = {.to = to, .stopping = stopping, .timeout_ms = 1000}});
}

static void answer(struct fixture *f, otr_node from, uint64_t nonce, bool able, struct otr_position last)
{
    struct replica_msg msg = {.type = REPLICA_MSG_READY, .epoch = 1, .generation = 1};

    msg.ready.nonce = nonce;
    msg.ready.log_id = 100 * from + 1;
    msg.ready.last = last;
    msg.ready.able = able;
    step(f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = from, .msg = &msg}});
}

static uint64_t nonce_of(const struct fixture *f, otr_node to)
{
    const struct replica_msg *msg = sent(f, to, REPLICA_MSG_OFFER);

    cr_assert(msg != NULL, "an offer to node %u", to);
    return msg->offer.nonce;
}

/* Asks and lets nodes 2 and 3 answer; on return the primary has chosen, if it could. */
static void offer_round(struct fixture *f, otr_node to, bool able2, bool able3)
{
    uint64_t nonce;

    hand_over(f, to, false);
    nonce = nonce_of(f, to == OTR_NODE_NONE ? 2 : to);
    if (to == OTR_NODE_NONE || to == 2) {
        answer(f, 2, nonce, able2, (struct otr_position){1, 1});
    }
    if (to == OTR_NODE_NONE || to == 3) {
        answer(f, 3, nonce, able3, (struct otr_position){1, 1});
    }
}

static void engine(struct fixture *f, bool up)
{
    step(f, (struct replica_event){.type = REPLICA_EV_FITNESS, .fitness = {.engine_up = up}});
}

static void coordinator(struct fixture *f, bool session_open, bool reachable)
{
    step(f, (struct replica_event){.type = REPLICA_EV_COORDINATOR,
                                   .coordinator = {.session_open = session_open, .reachable = reachable}});
}

static void newer_epoch(struct fixture *f, otr_node primary)
{
    f->d.epoch = 2;
    f->d.version++;
    f->d.primary = primary;
    f->d.incarnation = 10 * primary + 1;
    f->d.in_sync[0] = (struct member){.node = 2, .log_id = 201};
    f->d.in_sync[1] = (struct member){.node = 3, .log_id = 301};
    f->d.in_sync_count = 2;
    step_descriptor(f);
}

static enum replica_right right(const struct fixture *f)
{
    return replica_read_right(f->r, f->now_ms);
}

/* --- offers ------------------------------------------------------------------------------------------------------- */

Test(replica_handoff, an_offer_changes_nothing)
{
    struct fixture f = fixture_primary(3);

    step_grant(&f, 2, f.now_ms);
    step_grant(&f, 3, f.now_ms);
    hand_over(&f, OTR_NODE_NONE, false);
    cr_assert(sent(&f, 2, REPLICA_MSG_OFFER) != NULL && sent(&f, 3, REPLICA_MSG_OFFER) != NULL);
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_OFFER)->offer.incarnation, INCARNATION_SELF));
    cr_assert(status(&f).handing && status(&f).writable);
    cr_assert(eq(int, right(&f), REPLICA_READ_OK));
    step_write(&f, 1);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_APPEND), 1));
    fixture_close(&f);
}

/* Lost offers are repeated, to those that have not answered. */
Test(replica_handoff, offers_are_repeated)
{
    struct fixture f = fixture_primary(3);
    uint64_t nonce;

    hand_over(&f, OTR_NODE_NONE, false);
    nonce = nonce_of(&f, 2);
    answer(&f, 2, nonce, false, (struct otr_position){1, 1});
    step_tick(&f, 50);
    cr_assert(sent(&f, 2, REPLICA_MSG_OFFER) == NULL);
    cr_assert(eq(u64, nonce_of(&f, 3), nonce));
    fixture_close(&f);
}

Test(replica_handoff, a_wanted_member_alone_is_asked)
{
    struct fixture f = fixture_primary(3);

    hand_over(&f, 3, false);
    cr_assert(sent(&f, 2, REPLICA_MSG_OFFER) == NULL);
    answer(&f, 3, nonce_of(&f, 3), true, (struct otr_position){1, 1});
    cr_assert(sent(&f, 3, REPLICA_MSG_HANDOFF) != NULL);
    fixture_close(&f);
}

/* Nobody can complete an election: the primary goes on. */
Test(replica_handoff, refused_when_nobody_is_able)
{
    struct fixture f = fixture_primary(3);

    offer_round(&f, OTR_NODE_NONE, false, false);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_HANDED), 1));
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, OTR_UNAVAIL));
    cr_assert(not(status(&f).handing));
    step_write(&f, 1);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_APPEND), 1));
    fixture_close(&f);
}

Test(replica_handoff, refused_when_nobody_answers_in_time)
{
    struct fixture f = fixture_primary(3);

    hand_over(&f, OTR_NODE_NONE, false);
    step_tick(&f, 390);
    step_ack(&f, 2, 1, 1);
    step_ack(&f, 3, 1, 1);
    step_tick(&f, 390);
    step_ack(&f, 2, 1, 1);
    step_ack(&f, 3, 1, 1);
    cr_assert(status(&f).handing);
    step_tick(&f, 390);
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, OTR_UNAVAIL));
    fixture_close(&f);
}

Test(replica_handoff, refused_at_once_when_there_is_nobody)
{
    struct fixture f = fixture_primary(2);

    hand_over(&f, 3, false); /* a learner */
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, OTR_UNAVAIL));
    hand_over(&f, NODE_SELF, false);
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, OTR_UNAVAIL));
    step_peer(&f, 2, REPLICA_PEER_DOWN, 21);
    hand_over(&f, OTR_NODE_NONE, false);
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, OTR_UNAVAIL));
    fixture_close(&f);
}

Test(replica_handoff, only_a_primary_hands_over)
{
    struct fixture f = fixture_follower(3);

    hand_over(&f, OTR_NODE_NONE, false);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_HANDED), 1));
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, OTR_NOTPRIMARY));
    cr_assert(eq(u32, action(&f, REPLICA_DO_HANDED, 0)->handed.to, 2));
    fixture_close(&f);
}

Test(replica_handoff, one_at_a_time)
{
    struct fixture f = fixture_primary(3);

    hand_over(&f, OTR_NODE_NONE, false);
    hand_over(&f, OTR_NODE_NONE, false);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_HANDED), 1));
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, OTR_BUSY));
    fixture_close(&f);
}

/* A late answer of an earlier round, under another log id, or of another epoch is none. */
Test(replica_handoff, only_answers_to_this_offer_count)
{
    struct fixture f = fixture_primary(3);
    struct replica_msg msg = {.type = REPLICA_MSG_READY, .epoch = 1, .generation = 1};
    uint64_t nonce;

    offer_round(&f, 2, false, false);
    hand_over(&f, 2, false);
    nonce = nonce_of(&f, 2);
    answer(&f, 2, nonce - 1, true, (struct otr_position){1, 1});
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) == NULL && status(&f).handing);
    msg.ready.nonce = nonce;
    msg.ready.log_id = 999;
    msg.ready.able = true;
    step(&f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = 2, .msg = &msg}});
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) == NULL);
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, OTR_UNAVAIL));
    hand_over(&f, 2, false);
    msg.epoch = 2;
    msg.ready.nonce = nonce_of(&f, 2);
    msg.ready.log_id = 201;
    step(&f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = 2, .msg = &msg}});
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) == NULL && status(&f).handing);
    fixture_close(&f);
}

Test(replica_handoff, the_longest_log_then_the_order_of_the_list)
{
    struct fixture f = fixture_primary(3);
    uint64_t nonce;

    step_write(&f, 1);
    step_synced(&f, 2);
    step_ack(&f, 2, 1, 2);
    step_ack(&f, 3, 1, 2);
    hand_over(&f, OTR_NODE_NONE, false);
    nonce = nonce_of(&f, 2);
    answer(&f, 2, nonce, true, (struct otr_position){1, 1});
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) == NULL, "node 3 may be better");
    answer(&f, 3, nonce, true, (struct otr_position){1, 2});
    cr_assert(sent(&f, 3, REPLICA_MSG_HANDOFF) != NULL && sent(&f, 2, REPLICA_MSG_HANDOFF) == NULL);
    fixture_close(&f);

    f = fixture_primary(3);
    offer_round(&f, OTR_NODE_NONE, true, true);
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) != NULL && sent(&f, 3, REPLICA_MSG_HANDOFF) == NULL);
    fixture_close(&f);
}

/* A member that does not answer holds up nobody for long. */
Test(replica_handoff, the_silent_are_not_awaited)
{
    struct fixture f = fixture_primary(3);

    hand_over(&f, OTR_NODE_NONE, false);
    answer(&f, 3, nonce_of(&f, 2), true, (struct otr_position){1, 1});
    cr_assert(sent(&f, 3, REPLICA_MSG_HANDOFF) == NULL);
    step_tick(&f, 60);
    cr_assert(sent(&f, 3, REPLICA_MSG_HANDOFF) != NULL);
    fixture_close(&f);
}

/* --- the freeze --------------------------------------------------------------------------------------------------- */

/* New writes wait at the doors; known ones are answered; reads go on. */
Test(replica_handoff, frozen_until_all_is_committed)
{
    struct fixture f = fixture_primary(3);

    step_grant(&f, 2, f.now_ms);
    step_grant(&f, 3, f.now_ms);
    step_write(&f, 1);
    offer_round(&f, OTR_NODE_NONE, true, false);
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) == NULL, "entry 2 is not committed");
    step_write(&f, 2);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_APPEND), 0));
    cr_assert(eq(int, action(&f, REPLICA_DO_REPLY, 0)->reply.reply, REPLICA_REPLY_REFUSED));
    cr_assert(eq(int, action(&f, REPLICA_DO_REPLY, 0)->reply.status, OTR_UNAVAIL));
    step_write(&f, 1);
    cr_assert(eq(int, action(&f, REPLICA_DO_REPLY, 0)->reply.reply, REPLICA_REPLY_JOIN));
    cr_assert(not(status(&f).writable));
    cr_assert(eq(int, right(&f), REPLICA_READ_OK));
    step_synced(&f, 2);
    step_ack(&f, 2, 1, 2);
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) == NULL, "node 3 lacks it");
    step_ack(&f, 3, 1, 2);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_ANSWER), 1));
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) != NULL);
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_HANDOFF)->handoff.commit, 2));
    fixture_close(&f);
}

/* Nothing was given back yet: it goes on. */
Test(replica_handoff, thaws_when_the_successor_does_not_catch_up)
{
    struct fixture f = fixture_primary(2);

    step_write(&f, 1);
    step_synced(&f, 2);
    hand_over(&f, 2, false);
    answer(&f, 2, nonce_of(&f, 2), true, (struct otr_position){1, 1});
    for (int i = 0; i < 5; i++) {
        step_tick(&f, 190);
        step_ack(&f, 2, 1, 1);
        cr_assert(eq(sz, actions(&f, REPLICA_DO_HANDED), 0));
    }
    step_tick(&f, 60);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_HANDED), 1));
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, OTR_TIMEOUT));
    cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY));
    step_write(&f, 2);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_APPEND), 1));
    fixture_close(&f);
}

Test(replica_handoff, looks_for_another_when_the_successor_is_lost)
{
    struct fixture f = fixture_primary(3);

    step_write(&f, 1);
    step_synced(&f, 2);
    offer_round(&f, OTR_NODE_NONE, true, true);
    cr_assert(not(status(&f).writable));
    step_peer(&f, 2, REPLICA_PEER_DOWN, 21);
    cr_assert(status(&f).writable && status(&f).handing);
    step_tick(&f, 10);
    answer(&f, 3, nonce_of(&f, 3), true, (struct otr_position){1, 1});
    step_ack(&f, 2, 1, 2);
    step_ack(&f, 3, 1, 2);
    cr_assert(sent(&f, 3, REPLICA_MSG_HANDOFF) != NULL);
    fixture_close(&f);
}

/* A member that went silent, and cannot be taken out for the coordinator is away, does not keep the shard from going to
 * one that reaches it. What waits for its commit is inherited (A3); its outcome is unknown. */
Test(replica_handoff, an_uncommitted_tail_is_inherited)
{
    struct fixture f = fixture_primary(3);

    step_write(&f, 1);
    step_synced(&f, 2);
    coordinator(&f, true, false);
    offer_round(&f, 2, true, false);
    step_ack(&f, 2, 1, 2);
    step_tick(&f, 200);
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) == NULL);
    step_ack(&f, 2, 1, 2);
    step_tick(&f, 200);
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) != NULL);
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_HANDOFF)->handoff.commit, 1));
    cr_assert(eq(u64, action(&f, REPLICA_DO_ABANDON, 0)->abandon.index, 2));
    fixture_close(&f);
}

/* --- changes of the set (D2, D3) ---------------------------------------------------------------------------------- */

/* Node 3 is found dead; its removal is on its way. */
static struct fixture fixture_changing(void)
{
    struct fixture f = fixture_primary(3);

    step_peer(&f, 3, REPLICA_PEER_DEAD, 31);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1));
    return f;
}

Test(replica_handoff, a_change_on_its_way_is_awaited)
{
    struct fixture f = fixture_changing();
    uint64_t txn = action(&f, REPLICA_DO_TXN, 0)->txn.txn;

    hand_over(&f, 2, false);
    answer(&f, 2, nonce_of(&f, 2), true, (struct otr_position){1, 1});
    cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY));
    f.d.version++;
    f.d.in_sync_count = 2;
    f.revision++;
    step(&f, (struct replica_event){.type = REPLICA_EV_TXN_DONE, .txn_done = {.txn = txn, .revision = f.revision}});
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) != NULL);
    fixture_close(&f);
}

Test(replica_handoff, a_change_with_unknown_outcome_is_left_behind)
{
    struct fixture f = fixture_changing();
    uint64_t nonce;

    step_txn_done(&f, OTR_UNKNOWN);
    hand_over(&f, OTR_NODE_NONE, false);
    nonce = nonce_of(&f, 2);
    cr_assert(sent(&f, 3, REPLICA_MSG_OFFER) == NULL);
    answer(&f, 2, nonce, true, (struct otr_position){1, 1});
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) != NULL);
    fixture_close(&f);
}

/* It may be out of the set already, and then it could not be elected. */
Test(replica_handoff, never_to_one_that_a_change_may_have_taken_out)
{
    struct fixture f = fixture_changing();

    step_txn_done(&f, OTR_UNKNOWN);
    step_peer(&f, 3, REPLICA_PEER_UP, 31);
    hand_over(&f, 3, false);
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, OTR_UNAVAIL));
    fixture_close(&f);
}

/* A replica that begins to count while writes are held back would only prolong it. */
Test(replica_handoff, nobody_joins_a_frozen_set)
{
    struct fixture f = fixture_primary(2);

    step_write(&f, 1);
    step_synced(&f, 2);
    hand_over(&f, 2, false);
    answer(&f, 2, nonce_of(&f, 2), true, (struct otr_position){1, 1});
    step_ack(&f, 3, 1, 2); /* a learner that is level */
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    step_ack(&f, 2, 1, 2);
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) != NULL);
    fixture_close(&f);
}

/* --- after the return (G5) ---------------------------------------------------------------------------------------- */

/* Grants of others may be fresh for long yet: they are worth nothing any more. */
Test(replica_handoff, neither_serves_nor_commits_again)
{
    struct fixture f = fixture_primary(3);

    step_grant(&f, 2, f.now_ms);
    step_grant(&f, 3, f.now_ms);
    offer_round(&f, OTR_NODE_NONE, true, true);
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) != NULL);
    cr_assert(eq(int, right(&f), REPLICA_READ_NOT_PRIMARY));
    cr_assert(not(replica_read_confirmed(f.r, &f.d)));
    step_write(&f, 1);
    cr_assert(eq(int, action(&f, REPLICA_DO_REPLY, 0)->reply.status, OTR_NOTPRIMARY));
    step_ack(&f, 2, 1, 1);
    step_grant(&f, 2, f.now_ms);
    step_grant(&f, 3, f.now_ms);
    cr_assert(eq(int, right(&f), REPLICA_READ_NOT_PRIMARY));
    step_descriptor(&f); /* its own epoch, shown again */
    step_tick(&f, 100);
    cr_assert(sent(&f, 2, REPLICA_MSG_BEACON) == NULL && sent(&f, 2, REPLICA_MSG_APPEND) == NULL);
    cr_assert(eq(int, status(&f).role, REPLICA_FOLLOWER));
    fixture_close(&f);
}

/* The return names the last beacon that it covers. */
Test(replica_handoff, the_return_covers_the_last_beacon)
{
    struct fixture f = fixture_primary(2);

    step_tick(&f, 40);
    cr_assert(sent(&f, 2, REPLICA_MSG_BEACON) != NULL);
    f.now_ms += 5;
    offer_round(&f, 2, true, false);
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_HANDOFF)->handoff.sent_ms, f.now_ms - 5));
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_HANDOFF)->epoch, 1));
    fixture_close(&f);
}

Test(replica_handoff, repeated_until_a_newer_epoch_is_known)
{
    struct fixture f = fixture_primary(3);

    offer_round(&f, OTR_NODE_NONE, true, true);
    step_tick(&f, 10);
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) == NULL);
    step_tick(&f, 10);
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) != NULL);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_HANDED), 0));
    newer_epoch(&f, 2);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_HANDED), 1));
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, 0));
    cr_assert(eq(u32, action(&f, REPLICA_DO_HANDED, 0)->handed.to, 2));
    cr_assert(eq(u64, action(&f, REPLICA_DO_HANDED, 0)->handed.epoch, 2));
    for (int i = 0; i < 10; i++) {
        step_tick(&f, 30);
        cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) == NULL && actions(&f, REPLICA_DO_HANDED) == 0);
    }
    cr_assert(not(status(&f).handing));
    fixture_close(&f);
}

/* Whoever it is that took over. */
Test(replica_handoff, another_may_have_taken_over)
{
    struct fixture f = fixture_primary(3);

    offer_round(&f, OTR_NODE_NONE, true, true);
    newer_epoch(&f, 3);
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, 0));
    cr_assert(eq(u32, action(&f, REPLICA_DO_HANDED, 0)->handed.to, 3));
    fixture_close(&f);
}

Test(replica_handoff, stands_itself_when_nobody_took_over)
{
    struct fixture f = fixture_primary(2);
    bool stood = false;

    offer_round(&f, 2, true, false);
    for (int i = 0; i < 99; i++) {
        step_tick(&f, 10);
        cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
        cr_assert(eq(sz, actions(&f, REPLICA_DO_HANDED), 0));
    }
    step_tick(&f, 10);
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, OTR_TIMEOUT));
    for (int i = 0; i < 100 && !stood; i++) {
        step_tick(&f, 10);
        stood = actions(&f, REPLICA_DO_TXN) == 1;
    }
    cr_assert(stood);
    cr_assert(eq(u64, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.epoch, 2));
    fixture_close(&f);
}

/* A successor whose connection ends is not waited for. */
Test(replica_handoff, stands_itself_when_the_successor_is_lost)
{
    struct fixture f = fixture_primary(2);
    bool stood = false;

    offer_round(&f, 2, true, false);
    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    for (int i = 0; i < 30 && !stood; i++) {
        step_tick(&f, 10);
        stood = actions(&f, REPLICA_DO_TXN) == 1;
    }
    cr_assert(stood);
    step_txn_done(&f, 0);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_HANDED), 1));
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, OTR_TIMEOUT));
    fixture_close(&f);
}

/* A process that stops leaves the shard to the others, unless it lives on. */
Test(replica_handoff, one_that_stops_stands_only_long_after)
{
    struct fixture f = fixture_primary(2);
    uint64_t nonce, began_ms = f.now_ms;

    hand_over(&f, OTR_NODE_NONE, true);
    nonce = nonce_of(&f, 2);
    answer(&f, 2, nonce, true, (struct otr_position){1, 1});
    while (actions(&f, REPLICA_DO_TXN) == 0 && f.now_ms < began_ms + 60000) {
        step_tick(&f, 10);
    }
    cr_assert(f.now_ms - began_ms > 8000 && f.now_ms - began_ms < 20000);
    fixture_close(&f);
}

Test(replica_handoff, a_failed_log_ends_it)
{
    struct fixture f = fixture_primary(3);

    hand_over(&f, OTR_NODE_NONE, false);
    step(&f, (struct replica_event){.type = REPLICA_EV_LOG_FAILED});
    cr_assert(eq(sz, actions(&f, REPLICA_DO_HANDED), 1));
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, OTR_UNAVAIL));
    hand_over(&f, OTR_NODE_NONE, true);
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, OTR_NOTPRIMARY));
    cr_assert(status(&f).leaving);
    fixture_close(&f);
}

Test(replica_handoff, fenced_meanwhile)
{
    struct fixture f = fixture_primary(3);

    hand_over(&f, OTR_NODE_NONE, false);
    newer_epoch(&f, 3);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_HANDED), 1));
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, 0));
    cr_assert(eq(u32, action(&f, REPLICA_DO_HANDED, 0)->handed.to, 3));
    fixture_close(&f);
}

/* --- by itself ---------------------------------------------------------------------------------------------------- */

static void both_answer(struct fixture *f, bool able)
{
    uint64_t nonce = nonce_of(f, 2);

    answer(f, 2, nonce, able, (struct otr_position){1, 1});
    answer(f, 3, nonce, able, (struct otr_position){1, 1});
}

/* Milliseconds until the next offer, with members that go on acknowledging. */
static uint64_t next_offer(struct fixture *f)
{
    uint64_t from_ms = f->now_ms;

    do {
        step_ack(f, 2, 1, 1);
        step_ack(f, 3, 1, 1);
        step_tick(f, 10);
    } while (sent(f, 2, REPLICA_MSG_OFFER) == NULL && f->now_ms < from_ms + 20000);
    return f->now_ms - from_ms;
}

Test(replica_handoff, a_dead_engine_is_reason_enough)
{
    struct fixture f = fixture_primary(3);

    engine(&f, false);
    both_answer(&f, true);
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) != NULL);
    newer_epoch(&f, 2);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_HANDED), 0), "nobody asked");
    fixture_close(&f);
}

/* Tried again and again, ever more seldom, until the reason is gone. */
Test(replica_handoff, tried_again_while_the_engine_is_dead)
{
    struct fixture f = fixture_primary(3);
    uint64_t expected[] = {1000, 2000, 4000, 5000, 5000};

    engine(&f, false);
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        both_answer(&f, false);
        cr_assert(not(status(&f).handing));
        cr_assert(eq(u64, next_offer(&f), expected[i]));
    }
    engine(&f, true);
    cr_assert(not(status(&f).handing));
    cr_assert(gt(u64, next_offer(&f), 10000));
    engine(&f, false);
    cr_assert(sent(&f, 2, REPLICA_MSG_OFFER) != NULL, "and at once when it dies again");
    fixture_close(&f);
}

static void disk(struct fixture *f, bool full)
{
    step(f, (struct replica_event){.type = REPLICA_EV_FITNESS, .fitness = {.engine_up = true, .disk_full = full}});
}

/* What it could not make durable itself is not awaited for longer than a member is: the successor has it, and inherits
 * it. */
Test(replica_handoff, a_full_disk_is_reason_enough)
{
    struct fixture f = fixture_primary(3);

    step_write(&f, 1);
    disk(&f, true);
    both_answer(&f, true);
    for (unsigned i = 0; i < 4; i++) {
        cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) == NULL);
        step_ack(&f, 2, 1, 2);
        step_ack(&f, 3, 1, 2);
        step_tick(&f, 100);
    }
    cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) != NULL);
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_HANDOFF)->handoff.commit, 1));
    newer_epoch(&f, 2);
    fixture_close(&f);
}

/* Where nobody has room the primary stays, for reads, and asks again now and then. */
Test(replica_handoff, disks_that_are_all_full)
{
    struct fixture f = fixture_primary(3);

    disk(&f, true);
    both_answer(&f, false);
    cr_assert(not(status(&f).handing));
    cr_assert(ne(int, right(&f), REPLICA_READ_NOT_PRIMARY));
    cr_assert(eq(u64, next_offer(&f), 1000));
    disk(&f, false);
    cr_assert(not(status(&f).handing));
    cr_assert(gt(u64, next_offer(&f), 10000));
    fixture_close(&f);
}

Test(replica_handoff, a_primary_without_coordinator_looks_for_one_that_has_it)
{
    struct fixture f = fixture_primary(3);

    coordinator(&f, true, false);
    cr_assert(eq(u64, next_offer(&f), 500));
    fixture_close(&f);

    f = fixture_primary(3);
    coordinator(&f, false, true);
    step_tick(&f, 300);
    coordinator(&f, true, true);
    cr_assert(gt(u64, next_offer(&f), 10000));
    fixture_close(&f);
}

/* A primary whose coordinator is away, while both members are able: they reached it a moment ago. */
static struct fixture fixture_alone(void)
{
    struct fixture f = fixture_primary(3);

    coordinator(&f, true, false);
    next_offer(&f);
    both_answer(&f, true);
    step_tick(&f, 10);
    cr_assert(status(&f).writable && status(&f).handing);
    cr_assert(action(&f, REPLICA_DO_READ, 0) != NULL);
    return f;
}

/* Whether HANDOFF is sent meanwhile, while members acknowledge and, if so wished, each of our reads fails. */
static bool goes_within(struct fixture *f, uint64_t for_ms, bool reads_fail)
{
    for (uint64_t until_ms = f->now_ms + for_ms; f->now_ms < until_ms;) {
        const struct replica_action *read = action(f, REPLICA_DO_READ, 0);

        if (reads_fail && read != NULL) {
            step(f, (struct replica_event){.type = REPLICA_EV_READ_FAILED, .read_failed = {.read = read->read.read}});
        }
        step_ack(f, 2, 1, 1);
        step_tick(f, 10);
        if (sent(f, 2, REPLICA_MSG_HANDOFF) != NULL || sent(f, 3, REPLICA_MSG_HANDOFF) != NULL) {
            return true;
        }
    }
    return false;
}

/* After an outage for everybody members notice first, by the read that an offer makes them do. */
Test(replica_handoff, a_coordinator_that_is_back_is_no_reason)
{
    struct fixture f = fixture_alone();

    step(&f, (struct replica_event){.type = REPLICA_EV_DESCRIPTOR,
                                    .descriptor = {.descriptor = &f.d,
                                                   .revision = f.revision,
                                                   .read = action(&f, REPLICA_DO_READ, 0)->read.read}});
    cr_assert(not(status(&f).handing));
    cr_assert(not(goes_within(&f, 900, false)));
    fixture_close(&f);
}

/* Members are asked once more, for the coordinator may have gone for them, too, meanwhile. */
Test(replica_handoff, a_coordinator_that_others_alone_reach_is_one)
{
    for (int reads_fail = 0; reads_fail < 2; reads_fail++) { /* or hang */
        struct fixture f = fixture_alone();

        cr_assert(not(goes_within(&f, 480, reads_fail == 1)));
        cr_assert(le(u64, next_offer(&f), 100));
        both_answer(&f, true);
        cr_assert(sent(&f, 2, REPLICA_MSG_HANDOFF) != NULL);
        fixture_close(&f);
    }
}

Test(replica_handoff, a_coordinator_that_went_for_others_too_is_none)
{
    struct fixture f = fixture_alone();

    cr_assert(not(goes_within(&f, 480, true)));
    next_offer(&f);
    both_answer(&f, false);
    cr_assert(not(status(&f).handing));
    cr_assert(status(&f).writable);
    fixture_close(&f);
}

Test(replica_handoff, who_is_unfit_besides_does_not_wait_for_the_coordinator)
{
    struct fixture f = fixture_alone();

    engine(&f, false);
    cr_assert(goes_within(&f, 20, false));
    fixture_close(&f);
}

/* Who asks while the primary tries by itself takes over its attempt. */
Test(replica_handoff, an_operator_joins_what_goes_on)
{
    struct fixture f = fixture_primary(3);

    engine(&f, false);
    hand_over(&f, 3, false);
    cr_assert(sent(&f, 3, REPLICA_MSG_OFFER) != NULL && sent(&f, 2, REPLICA_MSG_OFFER) == NULL);
    answer(&f, 3, nonce_of(&f, 3), true, (struct otr_position){1, 1});
    newer_epoch(&f, 3);
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, 0));
    fixture_close(&f);

    f = fixture_primary(3);
    engine(&f, false);
    both_answer(&f, true);
    hand_over(&f, 3, false);
    cr_assert(eq(int, action(&f, REPLICA_DO_HANDED, 0)->handed.status, OTR_BUSY));
    hand_over(&f, OTR_NODE_NONE, false);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_HANDED), 0));
    newer_epoch(&f, 2);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_HANDED), 1));
    fixture_close(&f);
}

/* A shard that moved away from its primary's node is led on elsewhere. */
Test(replica_handoff, a_primary_that_is_no_longer_listed_hands_over)
{
    struct fixture f = fixture_primary(3);

    f.d.replicas[0] = 4;
    f.d.version++;
    step_descriptor(&f);
    cr_assert(sent(&f, 2, REPLICA_MSG_OFFER) != NULL);
    fixture_close(&f);
}
