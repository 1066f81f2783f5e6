#include "tests/unit/core/replica_fixture.h"

/* The nonce of the question that the last step asked of the node; 0: none. */
static uint64_t asked(const struct fixture *f, otr_node node)
{
    const struct replica_msg *ask = sent(f, node, REPLICA_MSG_ASK);

    return ask == NULL ? 0 : ask->ask.nonce;
}

static const struct otr_position at3 = {1, 3};

/* --- standing (V2, V3, V6) ---------------------------------------------------------------------------------------- */

/* SIGKILL of the primary: one round of questions, then the transaction. */
Test(replica_elect, evidence_and_min_in_sync_answers_are_enough)
{
    struct fixture f = fixture_follower(3);
    uint64_t nonce;
    const struct replica_action *txn;

    step_peer(&f, 2, REPLICA_PEER_DOWN, 21);
    cr_assert(eq(u64, asked(&f, 3), 0), "a lost connection is no evidence");
    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    nonce = asked(&f, 3);
    cr_assert(ne(u64, nonce, 0));
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    step_answer(&f, 3, nonce, at3, false, false);
    txn = action(&f, REPLICA_DO_TXN, 0);
    cr_assert(txn != NULL);
    cr_assert(eq(u64, txn->txn.descriptor.epoch, 2));
    cr_assert(eq(u32, txn->txn.descriptor.primary, NODE_SELF));
    cr_assert(eq(u64, txn->txn.descriptor.incarnation, INCARNATION_SELF));
    cr_assert(eq(u32, txn->txn.descriptor.in_sync_count, 2), "without the old primary (V5)");
    cr_assert(eq(int, descriptor_in_sync(&txn->txn.descriptor, 2), -1));
    cr_assert(eq(int, txn->txn.lease, REPLICA_LEASE_IF_REVISION));
    cr_assert(eq(int, status(&f).role, REPLICA_CANDIDATE));
    fixture_close(&f);
}

static void disk(struct fixture *f, bool full)
{
    step(f, (struct replica_event){.type = REPLICA_EV_FITNESS, .fitness = {.engine_up = true, .disk_full = full}});
}

/* What it would have to write first could not become durable. */
Test(replica_elect, who_has_no_room_leaves_it_to_the_others)
{
    struct fixture f = fixture_follower(3);

    disk(&f, true);
    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    for (int i = 0; i < 30; i++) {
        cr_assert(eq(u64, asked(&f, 3), 0));
        cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
        step_tick(&f, 100);
    }
    disk(&f, false);
    step_answer(&f, 3, asked(&f, 3), at3, false, true);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1));
    fixture_close(&f);
}

/* It won, and its epoch-start entry does not become durable. */
Test(replica_elect, a_winner_without_room_steps_down)
{
    struct fixture f = fixture_follower(3);
    uint64_t nonce;

    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    nonce = asked(&f, 3);
    step_answer(&f, 3, nonce, at3, false, false);
    step_txn_done(&f, 0);
    cr_assert(eq(int, status(&f).role, REPLICA_TAKEOVER));
    disk(&f, true);
    cr_assert(eq(int, status(&f).role, REPLICA_FOLLOWER));
    cr_assert(eq(u32, status(&f).primary, OTR_NODE_NONE));
    step_tick(&f, 5000);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms), REPLICA_READ_NOT_PRIMARY));
    fixture_close(&f);
}

Test(replica_elect, another_incarnation_under_the_primarys_name_is_evidence)
{
    struct fixture f = fixture_follower(3);

    step_peer(&f, 2, REPLICA_PEER_UP, 22);
    cr_assert(ne(u64, asked(&f, 3), 0));
    fixture_close(&f);
}

Test(replica_elect, the_death_of_an_earlier_incarnation_is_no_evidence)
{
    struct fixture f = fixture_follower(3);

    step_peer(&f, 2, REPLICA_PEER_DEAD, 20);
    cr_assert(eq(u64, asked(&f, 3), 0));
    fixture_close(&f);
}

Test(replica_elect, a_primary_that_is_heard_after_its_death_lives)
{
    struct fixture f = fixture_follower(3);
    uint64_t nonce;

    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    nonce = asked(&f, 3);
    f.now_ms += 40;
    step_beacon(&f, 2, 1);
    step_answer(&f, 3, nonce, at3, false, false);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    fixture_close(&f);
}

/* Whoever asks about the primary does not hear it any more: no need to ask back. */
Test(replica_elect, a_question_from_a_member_takes_back_its_answer)
{
    struct fixture f = fixture_follower(3);
    struct replica_msg ask = {.type = REPLICA_MSG_ASK, .epoch = 1, .generation = 1};

    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    step_answer(&f, 3, asked(&f, 3), at3, true, false);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    ask.ask.nonce = 1;
    ask.ask.primary = 2;
    ask.ask.incarnation = 21;
    step(&f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = 3, .msg = &ask}});
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1));
    fixture_close(&f);
}

Test(replica_elect, nobody_stands_while_another_member_hears_the_primary)
{
    struct fixture f = fixture_follower(3);

    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    for (int i = 0; i < 100; i++) {
        if (asked(&f, 3) != 0) {
            step_answer(&f, 3, asked(&f, 3), at3, true, false);
        }
        cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
        step_tick(&f, 10);
    }
    fixture_close(&f);
}

/* V3: alone, a member may be the one that is cut off: only the lease tells. */
Test(replica_elect, alone_it_waits_for_the_lease)
{
    struct fixture f = fixture_follower(3);
    int i;

    step_peer(&f, 3, REPLICA_PEER_DOWN, 31);
    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    for (i = 0; i < 300; i++) {
        step_tick(&f, 10);
        cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    }
    step_lease(&f, false, 0, 0);
    for (i = 0; i < 20 && actions(&f, REPLICA_DO_TXN) == 0; i++) {
        step_tick(&f, 10);
    }
    cr_assert(eq(int, action(&f, REPLICA_DO_TXN, 0)->txn.lease, REPLICA_LEASE_IF_ABSENT));
    fixture_close(&f);
}

Test(replica_elect, a_vanished_key_alone_is_no_reason)
{
    struct fixture f = fixture_follower(3);

    step_lease(&f, false, 0, 0);
    for (int i = 0; i < 200; i++) {
        step_beacon(&f, 2, 1);
        step_tick(&f, 10);
        cr_assert(eq(u64, asked(&f, 3), 0));
        cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    }
    fixture_close(&f);
}

Test(replica_elect, silence_convinces_only_when_it_is_everybodys)
{
    struct fixture f = fixture_follower(3);
    int i;

    for (i = 0; i < 99; i++) {
        step_tick(&f, 10);
        cr_assert(eq(u64, asked(&f, 3), 0));
    }
    step_tick(&f, 20);
    cr_assert(ne(u64, asked(&f, 3), 0));
    step_answer(&f, 3, asked(&f, 3), at3, false, false);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0), "it heard the primary within suspect_timeout");
    for (i = 0; i < 10 && asked(&f, 3) == 0; i++) {
        step_tick(&f, 10);
    }
    step_answer(&f, 3, asked(&f, 3), at3, false, true);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1));
    fixture_close(&f);
}

static void only_members_2_and_self(struct fixture *f)
{
    f->d.in_sync[0] = (struct member){.node = 2, .log_id = 201};
    f->d.in_sync[1] = (struct member){.node = NODE_SELF, .log_id = LOG_SELF};
    f->d.in_sync_count = 2;
    f->d.version++;
    step_descriptor(f);
}

/* A primary that was cut off from all replicas has just taken one of them out: the last member asks that one, too, for
 * the two can go on. */
Test(replica_elect, a_replica_outside_the_set_helps_to_be_enough)
{
    struct fixture f = fixture_follower(3);

    only_members_2_and_self(&f);
    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    cr_assert(ne(u64, asked(&f, 3), 0));
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    step_answer(&f, 3, asked(&f, 3), (struct otr_position){1, 9}, false, false);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1), "its log is of no account");
    cr_assert(eq(int, descriptor_in_sync(&action(&f, REPLICA_DO_TXN, 0)->txn.descriptor, 3), -1),
              "it does not join so");
    fixture_close(&f);
}

/* It does not when it hears the primary, or heard it lately and there is no other evidence. */
Test(replica_elect, a_replica_outside_the_set_that_hears_the_primary_does_not_help)
{
    struct fixture f = fixture_follower(3);

    only_members_2_and_self(&f);
    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    step_answer(&f, 3, asked(&f, 3), at3, true, false);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    fixture_close(&f);

    f = fixture_follower(3);
    only_members_2_and_self(&f);
    for (int i = 0; i < 101; i++) {
        step_tick(&f, 10);
    }
    cr_assert(ne(u64, asked(&f, 3), 0));
    step_answer(&f, 3, asked(&f, 3), at3, false, false);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    for (int i = 0; i < 10 && asked(&f, 3) == 0; i++) {
        step_tick(&f, 10);
    }
    step_answer(&f, 3, asked(&f, 3), at3, false, true);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1));
    fixture_close(&f);
}

/* V6: the longer log first; the other one waits, then stands all the same. */
Test(replica_elect, a_better_candidate_is_given_time)
{
    struct fixture f = fixture_follower(3);
    int i;

    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    step_answer(&f, 3, asked(&f, 3), (struct otr_position){1, 4}, false, false);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    for (i = 0; i < 10 && actions(&f, REPLICA_DO_TXN) == 0; i++) {
        step_tick(&f, 10);
    }
    cr_assert(eq(int, i, 5), "one patience");
    fixture_close(&f);
}

Test(replica_elect, an_answer_under_another_log_id_is_no_members_answer)
{
    struct fixture f = fixture_follower(3);
    struct replica_msg msg = {.type = REPLICA_MSG_ANSWER, .epoch = 1, .generation = 1};

    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    msg.answer.nonce = asked(&f, 3);
    msg.answer.log_id = 302;
    step(&f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = 3, .msg = &msg}});
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    fixture_close(&f);
}

/* --- who may not (E3, E4, D4) ------------------------------------------------------------------------------------- */

static bool stands(struct fixture *f)
{
    step_peer(f, 2, REPLICA_PEER_DEAD, 21);
    if (asked(f, 3) != 0) {
        step_answer(f, 3, asked(f, 3), (struct otr_position){1, 0}, false, true);
    }
    return actions(f, REPLICA_DO_TXN) > 0;
}

Test(replica_elect, a_healthy_member_stands)
{
    struct fixture f = fixture_follower(3);

    cr_assert(stands(&f));
    fixture_close(&f);
}

Test(replica_elect, a_log_that_ends_before_the_published_position_does_not_stand)
{
    struct fixture f = fixture_follower(3);

    f.d.version++;
    f.d.position = (struct otr_position){1, 4};
    step_descriptor(&f);
    cr_assert(not(stands(&f)));
    fixture_close(&f);
}

static void step_answer_with_commit(struct fixture *f, uint64_t commit)
{
    struct replica_msg msg = {.type = REPLICA_MSG_ANSWER, .epoch = 1, .generation = 1};

    msg.answer.nonce = asked(f, 3);
    msg.answer.log_id = 301;
    msg.answer.last = (struct otr_position){1, commit};
    msg.answer.commit = commit;
    step(f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = 3, .msg = &msg}});
}

/* Its disk shows the past, although set and log id name it; the other member stands instead. */
Test(replica_elect, a_log_that_lacks_what_another_member_knows_committed_does_not_stand)
{
    struct fixture f = fixture_follower(3);

    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    step_answer_with_commit(&f, 4);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_ALARM), 1));
    for (int i = 0; i < 100; i++) {
        step_tick(&f, 10);
        cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
        if (sent(&f, 3, REPLICA_MSG_ASK) != NULL) {
            step_answer_with_commit(&f, 4);
        }
    }
    cr_assert(eq(int, status(&f).role, REPLICA_FOLLOWER));
    fixture_close(&f);
}

Test(replica_elect, a_log_with_all_that_another_member_knows_committed_stands)
{
    struct fixture f = fixture_follower(3);

    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    step_answer_with_commit(&f, 3);
    for (int i = 0; i < 10 && actions(&f, REPLICA_DO_TXN) == 0; i++) {
        step_tick(&f, 10);
    }
    cr_assert(eq(int, status(&f).role, REPLICA_CANDIDATE));
    fixture_close(&f);
}

Test(replica_elect, another_log_id_does_not_stand)
{
    struct fixture f = fixture_follower(3);

    f.d.version++;
    f.d.in_sync[0].log_id = 999;
    step_descriptor(&f);
    cr_assert(not(stands(&f)));
    fixture_close(&f);
}

Test(replica_elect, nobody_stands_on_the_coordinators_past)
{
    struct fixture f = fixture_follower(3);

    step(&f, (struct replica_event){
                 .type = REPLICA_EV_COORDINATOR,
                 .coordinator = {.session_open = true, .reachable = true, .regressed = true},
             });
    cr_assert(eq(sz, actions(&f, REPLICA_DO_ALARM), 1));
    cr_assert(not(stands(&f)));
    fixture_close(&f);
}

Test(replica_elect, without_a_session_nobody_stands)
{
    struct fixture f = fixture_follower(3);

    step(&f, (struct replica_event){.type = REPLICA_EV_COORDINATOR, .coordinator = {.reachable = true}});
    cr_assert(not(stands(&f)));
    fixture_close(&f);
}

/* --- candidates (V4, D3) ------------------------------------------------------------------------------------------ */

Test(replica_elect, a_candidate_neither_acknowledges_nor_grants)
{
    struct fixture f = fixture_follower(3);

    cr_assert(stands(&f));
    f.now_ms += 5;
    step_append(&f, 2, 1, at3, 3, NULL);
    cr_assert(eq(int, sent(&f, 2, REPLICA_MSG_ACK) != NULL, 0));
    step_peer(&f, 2, REPLICA_PEER_UP, 21);
    step_append(&f, 2, 1, at3, 3, NULL);
    cr_assert(eq(int, sent(&f, 2, REPLICA_MSG_REFUSE)->refuse.reason, REPLICA_REFUSE_FENCED));
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_REFUSE)->refuse.promised, 0));
    step_beacon(&f, 2, 1);
    cr_assert(not(sent(&f, 2, REPLICA_MSG_GRANT)->grant.granted));
    fixture_close(&f);
}

Test(replica_elect, a_certain_failure_makes_it_follow_again)
{
    struct fixture f = fixture_follower(3);

    cr_assert(stands(&f));
    step_txn_done(&f, OTR_CONFLICT);
    cr_assert(eq(int, status(&f).role, REPLICA_FOLLOWER));
    cr_assert(eq(sz, actions(&f, REPLICA_DO_READ), 1));
    fixture_close(&f);
}

Test(replica_elect, an_unknown_outcome_is_repeated_and_keeps_it_candidate)
{
    struct fixture f = fixture_follower(3);
    struct descriptor first;

    cr_assert(stands(&f));
    first = action(&f, REPLICA_DO_TXN, 0)->txn.descriptor;
    step_txn_done(&f, OTR_UNKNOWN);
    cr_assert(eq(int, status(&f).role, REPLICA_CANDIDATE));
    step_tick(&f, 60);
    cr_assert(eq(int, memcmp(&action(&f, REPLICA_DO_TXN, 0)->txn.descriptor, &first, sizeof first), 0));
    step_txn_done(&f, OTR_CONFLICT);
    cr_assert(eq(int, status(&f).role, REPLICA_CANDIDATE), "it may be its own first success");
    f.d = first;
    step_descriptor(&f);
    cr_assert(eq(int, status(&f).role, REPLICA_TAKEOVER));
    fixture_close(&f);
}

/* V4: the primary changed the set: it lives. */
Test(replica_elect, a_change_by_the_primary_settles_the_candidacy)
{
    struct fixture f = fixture_follower(3);

    cr_assert(stands(&f));
    step_txn_done(&f, OTR_UNKNOWN);
    f.d.version++;
    step_descriptor(&f);
    cr_assert(ne(int, status(&f).role, REPLICA_CANDIDATE));
    fixture_close(&f);
}

/* --- taking over (G4) --------------------------------------------------------------------------------------------- */

Test(replica_elect, a_winner_waits_out_its_own_grants)
{
    struct fixture f = fixture_follower(3);

    step_beacon(&f, 2, 1);
    f.now_ms += 5;
    cr_assert(stands(&f));
    step_txn_done(&f, 0);
    cr_assert(eq(int, status(&f).role, REPLICA_TAKEOVER));
    cr_assert(eq(u64, action(&f, REPLICA_DO_META, 0)->meta.meta.promised, 2));
    cr_assert(eq(u64, action(&f, REPLICA_DO_APPEND, 0)->append.position.index, 4));
    cr_assert(eq(u64, action(&f, REPLICA_DO_APPEND, 0)->append.ticket, 0));
    step_synced(&f, 4);
    {
        struct replica_msg ack = {.type = REPLICA_MSG_ACK, .epoch = 2, .generation = 1};

        ack.ack.log_id = 301;
        ack.ack.verified = (struct otr_position){2, 4};
        step(&f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = 3, .msg = &ack}});
    }
    cr_assert(eq(u64, status(&f).committed_index, 0));
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms), REPLICA_READ_WAIT));
    step_tick(&f, 110);
    cr_assert(eq(int, status(&f).role, REPLICA_TAKEOVER), "grant and drift allowance");
    step_tick(&f, 15);
    cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY));
    cr_assert(eq(u64, status(&f).committed_index, 4));
    fixture_close(&f);
}

/* Grants are not durable: an earlier process may have given one just before it died. */
Test(replica_elect, a_fresh_process_waits_as_if_it_had_granted)
{
    struct fixture f = fixture_restarted(3, 1);
    struct replica_msg ack = {.type = REPLICA_MSG_ACK, .epoch = 2, .generation = 1};

    cr_assert(stands(&f));
    step_txn_done(&f, 0);
    step_synced(&f, 4);
    ack.ack.log_id = 301;
    ack.ack.verified = (struct otr_position){2, 4};
    step(&f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = 3, .msg = &ack}});
    step_tick(&f, GRANT_MS);
    cr_assert(eq(int, status(&f).role, REPLICA_TAKEOVER));
    step_tick(&f, 10);
    cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY));
    fixture_close(&f);
}

/* --- restarts and new shards (E1, D1) ----------------------------------------------------------------------------- */

Test(replica_elect, a_restarted_primary_stands_anew)
{
    struct fixture f = fixture_follower(3);

    f.d.version++;
    f.d.epoch = 2;
    f.d.primary = NODE_SELF;
    f.d.incarnation = 10; /* an earlier process */
    step_lease(&f, true, NODE_SELF, 10);
    step_descriptor(&f);
    cr_assert(eq(int, status(&f).role, REPLICA_FOLLOWER));
    step_synced(&f, 0);
    step_tick(&f, 30);
    step_answer(&f, 2, asked(&f, 2) != 0 ? asked(&f, 2) : 1, (struct otr_position){1, 3}, false, false);
    cr_assert(eq(u64, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.epoch, 3));
    cr_assert(eq(u32, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.in_sync_count, 3), "it stays in the set");
    fixture_close(&f);
}

Test(replica_elect, the_first_of_a_new_shards_replicas_stands_at_once)
{
    struct fixture f = fixture_new();

    step_lease(&f, false, 0, 0);
    step_descriptor(&f);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0), "its log id is not durable yet (E3)");
    step_synced(&f, 0);
    cr_assert(eq(u64, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.epoch, 1));
    cr_assert(eq(u32, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.in_sync_count, 1));
    cr_assert(eq(u64, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.in_sync[0].log_id, LOG_SELF));
    cr_assert(eq(int, action(&f, REPLICA_DO_TXN, 0)->txn.lease, REPLICA_LEASE_IF_ABSENT));
    fixture_close(&f);
}

Test(replica_elect, the_others_of_a_new_shard_wait_their_turn)
{
    struct fixture f = fixture_new();
    int i;

    f.d.replicas[0] = 2;
    f.d.replicas[1] = 3;
    f.d.replicas[2] = 1;
    step_lease(&f, false, 0, 0);
    step_descriptor(&f);
    step_synced(&f, 0);
    for (i = 0; i < 20 && actions(&f, REPLICA_DO_TXN) == 0; i++) {
        step_tick(&f, 10);
    }
    cr_assert(eq(int, i, 10), "two patiences");
    fixture_close(&f);
}

/* --- answers ------------------------------------------------------------------------------------------------------ */

static const struct replica_msg *ask_about(struct fixture *f, otr_node primary, uint64_t incarnation)
{
    struct replica_msg msg = {.type = REPLICA_MSG_ASK, .epoch = 1, .generation = 1};

    msg.ask.nonce = 77;
    msg.ask.primary = primary;
    msg.ask.incarnation = incarnation;
    step(f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = 3, .msg = &msg}});
    return sent(f, 3, REPLICA_MSG_ANSWER);
}

Test(replica_elect, answers_say_whether_the_primary_is_heard)
{
    struct fixture f = fixture_follower(3);
    const struct replica_msg *answer;

    step_beacon(&f, 2, 1);
    answer = ask_about(&f, 2, 21);
    cr_assert(eq(u64, answer->answer.nonce, 77));
    cr_assert(eq(u64, answer->answer.log_id, LOG_SELF));
    cr_assert(eq(u64, answer->answer.last.index, 3));
    cr_assert(answer->answer.hears_primary);
    cr_assert(not(answer->answer.silent));
    cr_assert(not(ask_about(&f, 2, 20)->answer.hears_primary));
    step_tick(&f, 130);
    cr_assert(not(ask_about(&f, 2, 21)->answer.hears_primary), "not within a grant");
    step_beacon(&f, 2, 1);
    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    cr_assert(not(ask_about(&f, 2, 21)->answer.hears_primary), "evidently dead");
    fixture_close(&f);
}

Test(replica_elect, a_doubted_primary_says_that_it_lives)
{
    struct fixture f = fixture_primary(3);

    cr_assert(ask_about(&f, NODE_SELF, INCARNATION_SELF)->answer.hears_primary);
    fixture_close(&f);
}
