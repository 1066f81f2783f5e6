#include "tests/unit/core/replica_fixture.h"

/* PROTOCOL A3: all members, and one's own disk. */
Test(replica_lead, commit_waits_for_the_whole_in_sync_set)
{
    struct fixture f = fixture_primary(3);

    step_write(&f, 1);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_APPEND), 1));
    cr_assert(eq(u64, action(&f, REPLICA_DO_APPEND, 0)->append.position.index, 2));
    step_synced(&f, 2);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_COMMIT), 0));
    step_ack(&f, 2, 1, 2);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_COMMIT), 0));
    step_ack(&f, 3, 1, 2);
    cr_assert(eq(u64, action(&f, REPLICA_DO_COMMIT, 0)->commit.index, 2));
    cr_assert(eq(u64, action(&f, REPLICA_DO_ANSWER, 0)->answer.index, 2));
    fixture_close(&f);
}

Test(replica_lead, commit_waits_for_the_own_disk)
{
    struct fixture f = fixture_primary(2);

    step_write(&f, 1);
    step_ack(&f, 2, 1, 2);
    cr_assert(eq(u64, status(&f).committed_index, 1));
    step_synced(&f, 2);
    cr_assert(eq(u64, status(&f).committed_index, 2));
    fixture_close(&f);
}

/* PROTOCOL A2. */
Test(replica_lead, acknowledgements_of_another_epoch_log_or_future_do_not_count)
{
    struct fixture f = fixture_primary(2);
    struct replica_msg other_log = {.type = REPLICA_MSG_ACK, .epoch = 1, .generation = 1};

    step_write(&f, 1);
    step_synced(&f, 2);
    step_ack(&f, 2, 9, 2);
    step_ack(&f, 2, 1, 99);
    other_log.ack.log_id = 777;
    other_log.ack.verified = (struct otr_position){1, 2};
    step(&f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = 2, .msg = &other_log}});
    cr_assert(eq(u64, status(&f).committed_index, 1));
    fixture_close(&f);
}

/* PROTOCOL A4: the removed member counts until its removal is known, and the answer that never comes is no answer. */
Test(replica_lead, a_leaving_member_counts_until_its_removal_is_known)
{
    struct fixture f = fixture_primary(3);

    step_peer(&f, 3, REPLICA_PEER_DEAD, 31);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1));
    cr_assert(eq(u32, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.in_sync_count, 2));
    cr_assert(eq(u64, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.version, f.d.version + 1));
    step_txn_done(&f, OTR_UNKNOWN);
    step_write(&f, 1);
    step_synced(&f, 2);
    step_ack(&f, 2, 1, 2);
    cr_assert(eq(u64, status(&f).committed_index, 1));
    step_tick(&f, 60); /* repeats the same */
    cr_assert(eq(u64, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.version, f.d.version + 1));
    step_txn_done(&f, 0);
    cr_assert(eq(u64, status(&f).committed_index, 2));
    fixture_close(&f);
}

/* PROTOCOL D3: a conflict after an unknown outcome may be one's own success. */
Test(replica_lead, conflict_after_unknown_is_settled_by_a_read)
{
    struct fixture f = fixture_primary(3);
    struct descriptor removed;

    step_peer(&f, 3, REPLICA_PEER_DEAD, 31);
    removed = action(&f, REPLICA_DO_TXN, 0)->txn.descriptor;
    step_txn_done(&f, OTR_UNKNOWN);
    step_tick(&f, 60);
    step_txn_done(&f, OTR_CONFLICT);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_READ), 1));
    step_write(&f, 1);
    step_synced(&f, 2);
    step_ack(&f, 2, 1, 2);
    cr_assert(eq(u64, status(&f).committed_index, 1), "still the union");
    f.d = removed;
    step_descriptor(&f);
    cr_assert(eq(u64, status(&f).committed_index, 2));
    fixture_close(&f);
}

/* PROTOCOL J2: counted first, published when it holds what was committed then. */
Test(replica_lead, a_learner_is_counted_before_it_is_published)
{
    struct fixture f = fixture_primary(2);

    step_write(&f, 1);
    step_synced(&f, 2);
    step_ack(&f, 2, 1, 2);
    cr_assert(eq(u64, status(&f).committed_index, 2));
    step_ack(&f, 3, 1, 1); /* near enough, not level */
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    step_write(&f, 2);
    step_synced(&f, 3);
    step_ack(&f, 2, 1, 3);
    cr_assert(eq(u64, status(&f).committed_index, 2), "the joining replica holds it up");
    step_ack(&f, 3, 1, 2);
    cr_assert(eq(u32, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.in_sync_count, 3));
    cr_assert(eq(u64, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.in_sync[2].log_id, 301));
    cr_assert(eq(u64, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.position.index, 2));
    step_ack(&f, 3, 1, 3);
    cr_assert(eq(u64, status(&f).committed_index, 3));
    fixture_close(&f);
}

/* A learner whose disk hangs goes on to grant: counted, it would hold up every write. */
Test(replica_lead, a_learner_that_does_not_write_stops_being_counted)
{
    struct fixture f = fixture_primary(2);

    step_ack(&f, 3, 1, 0); /* near enough to be counted from now on */
    step_write(&f, 1);
    step_synced(&f, 2);
    step_ack(&f, 2, 1, 2);
    for (int i = 0; i < 50; i++) {
        step_grant(&f, 2, f.now_ms);
        step_grant(&f, 3, f.now_ms);
        step_tick(&f, 10);
    }
    cr_assert(eq(u64, status(&f).committed_index, 2));
    fixture_close(&f);
}

/* PROTOCOL J3: silence alone takes replica_timeout. */
Test(replica_lead, a_silent_member_leaves_after_replica_timeout)
{
    struct fixture f = fixture_primary(3);

    for (int i = 0; i < 39; i++) {
        step_ack(&f, 2, 1, 1);
        step_tick(&f, 10);
        cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    }
    step_ack(&f, 2, 1, 1);
    step_tick(&f, 20);
    cr_assert(eq(u32, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.in_sync_count, 2));
    fixture_close(&f);
}

/* All at once silent: likelier that we are cut off, and the set would fall below min_in_sync. */
Test(replica_lead, members_that_fall_silent_together_are_waited_for_longer)
{
    struct fixture f = fixture_primary(3);
    int i;

    for (i = 0; i < 290; i++) {
        step_tick(&f, 10);
        cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0), "after %d ms", i * 10);
    }
    for (; i < 310 && actions(&f, REPLICA_DO_TXN) == 0; i++) {
        step_tick(&f, 10);
    }
    cr_assert(eq(u32, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.in_sync_count, 1));
    fixture_close(&f);
}

/* A process that was stopped blames nobody for the silence. */
Test(replica_lead, own_pause_is_not_the_others_silence)
{
    struct fixture f = fixture_primary(3);

    step_tick(&f, 5000);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    fixture_close(&f);
}

/* PROTOCOL A6. */
Test(replica_lead, below_min_in_sync_writes_are_refused_and_held)
{
    struct fixture f = fixture_primary(2);

    step_write(&f, 1); /* accepted while there are two */
    step_synced(&f, 2);
    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    for (int i = 0; i < 120 && actions(&f, REPLICA_DO_TXN) == 0; i++) {
        step_tick(&f, 10);
    }
    step_txn_done(&f, 0);
    cr_assert(eq(u64, action(&f, REPLICA_DO_COMMIT, 0)->commit.index, 2));
    cr_assert(eq(sz, actions(&f, REPLICA_DO_ANSWER), 0));
    step_write(&f, 2);
    cr_assert(eq(int, action(&f, REPLICA_DO_REPLY, 0)->reply.status, OTR_FEW));
    step_peer(&f, 3, REPLICA_PEER_UP, 31);
    step_ack(&f, 3, 1, 2);
    step_txn_done(&f, 0);
    cr_assert(eq(u64, action(&f, REPLICA_DO_ANSWER, 0)->answer.index, 2));
    fixture_close(&f);
}

/* PROTOCOL Q1, Q2. */
Test(replica_lead, a_retry_joins_then_learns_the_outcome)
{
    struct fixture f = fixture_primary(2);

    step_write(&f, 1);
    step_write(&f, 1);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_APPEND), 0));
    cr_assert(eq(int, action(&f, REPLICA_DO_REPLY, 0)->reply.reply, REPLICA_REPLY_JOIN));
    cr_assert(eq(u64, action(&f, REPLICA_DO_REPLY, 0)->reply.index, 2));
    step_synced(&f, 2);
    step_ack(&f, 2, 1, 2);
    replica_outcome(f.r, 2, 42);
    step_write(&f, 1);
    cr_assert(eq(int, action(&f, REPLICA_DO_REPLY, 0)->reply.reply, REPLICA_REPLY_DUPLICATE));
    cr_assert(eq(u32, action(&f, REPLICA_DO_REPLY, 0)->reply.outcome, 42));
    fixture_close(&f);
}

Test(replica_lead, others_than_the_primary_refuse_writes)
{
    struct fixture f = fixture_follower(3);

    step_write(&f, 1);
    cr_assert(eq(int, action(&f, REPLICA_DO_REPLY, 0)->reply.status, OTR_NOTPRIMARY));
    fixture_close(&f);
}

/* --- sending ------------------------------------------------------------------------------------------------------ */

static void step_sent(struct fixture *f, otr_node to, uint64_t token, uint64_t last, int sent_status)
{
    step(f, (struct replica_event){
                .type = REPLICA_EV_SENT,
                .sent = {.to = to, .token = token, .last_index = last, .status = sent_status},
            });
}

static const struct replica_action *append_to(const struct fixture *f, otr_node to)
{
    const struct replica_action *a;

    for (size_t i = 0; (a = action(f, REPLICA_DO_SEND_APPEND, i)) != NULL; i++) {
        if (a->send.to == to) {
            return a;
        }
    }
    return NULL;
}

/* Runs until the pull for the node is answered and nothing is left to send. */
static void drain(struct fixture *f, otr_node to)
{
    uint64_t last = status(f).last.index;

    for (uint64_t token = 1; token < 50; token++) {
        step_sent(f, to, token, last, 0);
    }
}

Test(replica_lead, one_append_at_a_time_and_peer)
{
    struct fixture f = fixture_primary(2);
    uint64_t token;

    drain(&f, 2);
    step_write(&f, 1);
    cr_assert(append_to(&f, 2) != NULL);
    token = append_to(&f, 2)->send.token;
    cr_assert(eq(u64, append_to(&f, 2)->send.msg.append.prev.index, 1));
    step_write(&f, 2);
    cr_assert(append_to(&f, 2) == NULL);
    step_sent(&f, 2, token, 2, 0);
    cr_assert(eq(u64, append_to(&f, 2)->send.msg.append.prev.index, 2));
    cr_assert(eq(u64, append_to(&f, 2)->send.msg.append.last_index, 3));
    fixture_close(&f);
}

/* PROTOCOL A1: the primary looks below the hint for its own last entry of that epoch or a lower one. */
Test(replica_lead, a_gap_is_probed_backwards)
{
    struct fixture f = fixture_primary(2);
    struct replica_msg gap = {.type = REPLICA_MSG_REFUSE, .epoch = 1, .generation = 1};

    for (uint8_t i = 1; i <= 9; i++) {
        step_write(&f, i);
    }
    drain(&f, 3);
    gap.refuse.log_id = 301;
    gap.refuse.reason = REPLICA_REFUSE_GAP;
    gap.refuse.position = (struct otr_position){1, 4};
    step(&f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = 3, .msg = &gap}});
    drain(&f, 3);
    step(&f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = 3, .msg = &gap}});
    cr_assert(append_to(&f, 3) != NULL);
    cr_assert(eq(u64, append_to(&f, 3)->send.msg.append.prev.index, 4));
    cr_assert(eq(u64, append_to(&f, 3)->send.msg.append.last_index, 4), "empty until the predecessor is confirmed");
    drain(&f, 3);
    step_ack(&f, 3, 1, 4);
    cr_assert(eq(u64, append_to(&f, 3)->send.msg.append.prev.index, 4));
    cr_assert(eq(u64, append_to(&f, 3)->send.msg.append.last_index, 10));
    fixture_close(&f);
}

Test(replica_lead, a_learner_whose_history_is_gone_is_seeded)
{
    struct fixture f = fixture_primary(2);
    uint64_t token;

    drain(&f, 3);
    step_write(&f, 1);
    cr_assert(append_to(&f, 3) != NULL);
    token = append_to(&f, 3)->send.token;
    step_sent(&f, 3, token, 0, OTR_GONE);
    cr_assert(eq(u32, action(&f, REPLICA_DO_SEED, 0)->seed.to, 3));
    step_tick(&f, 110);
    cr_assert(append_to(&f, 3) == NULL, "no appends while seeding");
    step(&f, (struct replica_event){
                 .type = REPLICA_EV_SEED_SENT,
                 .seed_sent = {.to = 3, .ok = true, .log_id = 302, .position = {1, 1}},
             });
    cr_assert(eq(u64, append_to(&f, 3)->send.msg.append.prev.index, 1));
    fixture_close(&f);
}

/* --- the right to serve (G2) -------------------------------------------------------------------------------------- */

Test(replica_lead, reads_need_a_fresh_grant_of_every_member)
{
    struct fixture f = fixture_primary(3);

    cr_assert(eq(int, replica_read_right(f.r, f.now_ms), REPLICA_READ_NEED_DESCRIPTOR));
    step_grant(&f, 2, f.now_ms);
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms), REPLICA_READ_NEED_DESCRIPTOR));
    step_grant(&f, 3, f.now_ms);
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms), REPLICA_READ_OK));
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms + GRANT_MS - 1), REPLICA_READ_OK));
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms + GRANT_MS), REPLICA_READ_NEED_DESCRIPTOR));
    fixture_close(&f);
}

Test(replica_lead, a_grant_counts_from_the_beacon_it_answers)
{
    struct fixture f = fixture_primary(2);

    step_tick(&f, 100);
    step_grant(&f, 2, f.now_ms - 100);
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms + 20), REPLICA_READ_NEED_DESCRIPTOR));
    step_grant(&f, 2, f.now_ms + 1000); /* a beacon that was never sent */
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms + 20), REPLICA_READ_NEED_DESCRIPTOR));
    fixture_close(&f);
}

static void step_grant_under(struct fixture *f, otr_node from, uint64_t log_id)
{
    struct replica_msg msg = {.type = REPLICA_MSG_GRANT, .epoch = 1, .generation = 1};

    msg.grant.incarnation = INCARNATION_SELF;
    msg.grant.sent_ms = f->now_ms;
    msg.grant.log_id = log_id;
    msg.grant.granted = true;
    msg.grant.grant_ms = GRANT_MS;
    step(f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = from, .msg = &msg}});
}

/* PROTOCOL G1, G4: longer grants count from the beacon on that asked for them; what was granted before, by somebody who
 * did not know of them, does not become longer. */
Test(replica_lead, a_grant_lasts_as_long_as_its_beacon_asked)
{
    struct fixture f = fixture_primary(2);
    struct replica_msg msg = {.type = REPLICA_MSG_GRANT, .epoch = 1, .generation = 1};

    step_tick(&f, 100);
    cr_assert(eq(u32, sent(&f, 2, REPLICA_MSG_BEACON)->beacon.grant_ms, GRANT_MS));
    step_grant(&f, 2, f.now_ms);
    f.d.grant_ms = 4 * GRANT_MS;
    f.d.version++;
    step_descriptor(&f);
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms + GRANT_MS - 1), REPLICA_READ_OK));
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms + GRANT_MS), REPLICA_READ_NEED_DESCRIPTOR));
    step_tick(&f, 100);
    cr_assert(eq(u32, sent(&f, 2, REPLICA_MSG_BEACON)->beacon.grant_ms, 4 * GRANT_MS));
    msg.grant.incarnation = INCARNATION_SELF;
    msg.grant.sent_ms = f.now_ms;
    msg.grant.log_id = 201;
    msg.grant.granted = true;
    msg.grant.grant_ms = 4 * GRANT_MS;
    step(&f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = 2, .msg = &msg}});
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms + 4 * GRANT_MS - 1), REPLICA_READ_OK));
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms + 4 * GRANT_MS), REPLICA_READ_NEED_DESCRIPTOR));
    fixture_close(&f);
}

/* PROTOCOL E3: a swapped disk grants nothing for the log that is in the set. */
Test(replica_lead, a_grant_under_another_log_id_does_not_count)
{
    struct fixture f = fixture_primary(2);

    step_grant_under(&f, 2, 202);
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms), REPLICA_READ_NEED_DESCRIPTOR));
    step_grant_under(&f, 2, 201);
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms), REPLICA_READ_OK));
    fixture_close(&f);
}

/* PROTOCOL A4, J2. */
Test(replica_lead, a_joining_replica_must_grant_too)
{
    struct fixture f = fixture_primary(2);

    step_grant(&f, 2, f.now_ms);
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms), REPLICA_READ_OK));
    step_ack(&f, 3, 1, 0); /* near enough to be counted, not level */
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms), REPLICA_READ_NEED_DESCRIPTOR));
    step_grant(&f, 3, f.now_ms);
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms), REPLICA_READ_OK));
    fixture_close(&f);
}

Test(replica_lead, the_descriptor_confirms_only_this_reign)
{
    struct fixture f = fixture_primary(2);
    struct descriptor other = f.d;

    cr_assert(replica_read_confirmed(f.r, &f.d));
    other.epoch = 2;
    cr_assert(not(replica_read_confirmed(f.r, &other)));
    other = f.d;
    other.generation = 2;
    cr_assert(not(replica_read_confirmed(f.r, &other)));
    fixture_close(&f);
}

/* --- the end of a reign ------------------------------------------------------------------------------------------- */

Test(replica_lead, a_higher_epoch_ends_the_reign_for_good)
{
    struct fixture f = fixture_primary(3);

    step_write(&f, 1);
    f.d.epoch = 2;
    f.d.version++;
    f.d.primary = 2;
    f.d.incarnation = 21;
    step_descriptor(&f);
    cr_assert(eq(int, status(&f).role, REPLICA_FOLLOWER));
    cr_assert(eq(u64, action(&f, REPLICA_DO_ABANDON, 0)->abandon.index, 2));
    cr_assert(eq(int, replica_read_right(f.r, f.now_ms), REPLICA_READ_NOT_PRIMARY));
    fixture_close(&f);
}

Test(replica_lead, a_replica_that_follows_a_higher_epoch_ends_the_reign)
{
    struct fixture f = fixture_primary(3);
    struct replica_msg fenced = {.type = REPLICA_MSG_REFUSE, .epoch = 1, .generation = 1};

    fenced.refuse.log_id = 201;
    fenced.refuse.reason = REPLICA_REFUSE_FENCED;
    step(&f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = 2, .msg = &fenced}});
    cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY), "a candidate names no epoch (V4)");
    fenced.refuse.promised = 2;
    step(&f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = 2, .msg = &fenced}});
    cr_assert(eq(int, status(&f).role, REPLICA_FOLLOWER));
    cr_assert(eq(sz, actions(&f, REPLICA_DO_READ), 1));
    /* The old descriptor again does not bring it back (E1). */
    step_descriptor(&f);
    cr_assert(eq(int, status(&f).role, REPLICA_FOLLOWER));
    fixture_close(&f);
}

/* PROTOCOL A2: what a replica held in one reign says nothing about the next. */
Test(replica_lead, acknowledgements_of_an_earlier_reign_do_not_count)
{
    struct fixture f = fixture_primary(2);

    for (uint8_t i = 1; i <= 9; i++) {
        step_write(&f, i);
    }
    step_ack(&f, 2, 1, 10);
    f.d.epoch = 2;
    f.d.version++;
    f.d.primary = 2;
    f.d.incarnation = 21;
    step_descriptor(&f);
    f.d.epoch = 3;
    f.d.version++;
    f.d.primary = NODE_SELF;
    f.d.incarnation = INCARNATION_SELF;
    step_descriptor(&f);
    cr_assert(eq(int, status(&f).role, REPLICA_TAKEOVER));
    step_synced(&f, 11);
    step_tick(&f, 200);
    cr_assert(eq(u64, status(&f).committed_index, 1));
    fixture_close(&f);
}

/* PROTOCOL E4. */
Test(replica_lead, a_failed_log_ends_everything)
{
    struct fixture f = fixture_primary(2);

    step(&f, (struct replica_event){.type = REPLICA_EV_LOG_FAILED});
    cr_assert(eq(sz, actions(&f, REPLICA_DO_ABANDON), 1));
    cr_assert(eq(sz, actions(&f, REPLICA_DO_ALARM), 1));
    step_write(&f, 1);
    step_tick(&f, 200);
    cr_assert(eq(sz, f.out.count, 0));
    fixture_close(&f);
}

/* --- the lease ---------------------------------------------------------------------------------------------------- */

Test(replica_lead, a_lost_lease_is_taken_again_in_the_same_epoch)
{
    struct fixture f = fixture_primary(2);

    step_lease(&f, false, 0, 0);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1));
    cr_assert(not(action(&f, REPLICA_DO_TXN, 0)->txn.change_descriptor));
    cr_assert(eq(int, action(&f, REPLICA_DO_TXN, 0)->txn.lease, REPLICA_LEASE_IF_ABSENT));
    step_txn_done(&f, 0);
    step_tick(&f, 10);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY));
    fixture_close(&f);
}

/* --- the coordinator set up anew (D4) ------------------------------------------------------------------------------
 */

/* Revisions begin anew; the primary goes on in the epoch that it finds itself named in. */
Test(replica_lead, goes_on_in_a_new_generation)
{
    struct fixture f = fixture_primary(3);
    uint64_t read;

    step(&f, (struct replica_event){.type = REPLICA_EV_COORDINATOR,
                                    .coordinator = {.session_open = true, .reachable = true, .regressed = true}});
    f.d.generation = 2;
    f.d.epoch = 2;
    f.d.version++;
    f.revision = 1;
    step_descriptor(&f);
    cr_assert(eq(int, status(&f).role, REPLICA_TAKEOVER));
    cr_assert(eq(u64, status(&f).epoch, 2));
    cr_assert(eq(u64, status(&f).descriptor_revision, 2));
    read = action(&f, REPLICA_DO_READ, 0)->read.read;
    step_lease(&f, false, OTR_NODE_NONE, 0);
    step(&f, (struct replica_event){.type = REPLICA_EV_COORDINATOR,
                                    .coordinator = {.session_open = true, .reachable = true}});
    step(&f, (struct replica_event){.type = REPLICA_EV_DESCRIPTOR,
                                    .descriptor = {.descriptor = &f.d, .revision = 2, .read = read}});
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1), "its lease");
    cr_assert(eq(u64, action(&f, REPLICA_DO_TXN, 0)->txn.compare_revision, 2));
    fixture_close(&f);
}

/* An older generation is the past, whatever its revision. */
Test(replica_lead, an_older_generation_is_not_obeyed)
{
    struct fixture f = fixture_primary(3);

    f.d.generation = 2;
    f.d.version++;
    step_descriptor(&f);
    f.d.generation = 1;
    f.d.epoch = 9;
    f.d.primary = 2;
    step_descriptor(&f);
    cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY));
    fixture_close(&f);
}

static void refuse_gap(struct fixture *f, otr_node from, uint64_t index)
{
    struct replica_msg msg = {.type = REPLICA_MSG_REFUSE, .epoch = 1, .generation = 1};

    msg.refuse.log_id = 100 * from + 1;
    msg.refuse.reason = REPLICA_REFUSE_GAP;
    msg.refuse.position = (struct otr_position){.epoch = 1, .index = index};
    msg.refuse.promised = 1;
    step(f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = from, .msg = &msg}});
}

static void step_taken(struct fixture *f, uint64_t token, uint64_t last)
{
    step(f, (struct replica_event){.type = REPLICA_EV_SENT, .sent = {.to = 3, .token = token, .last_index = last}});
}

/* The append that the last step sent to node 3, its predecessor and its end; taken at once. */
static void expect_append(struct fixture *f, uint64_t prev, uint64_t last)
{
    for (size_t i = 0; i < actions(f, REPLICA_DO_SEND_APPEND); i++) {
        const struct replica_action *a = action(f, REPLICA_DO_SEND_APPEND, i);

        if (a->send.to == 3) {
            cr_assert(eq(u64, a->send.msg.append.prev.index, prev));
            cr_assert(eq(u64, a->send.msg.append.last_index, last));
            step_taken(f, a->send.token, last);
            return;
        }
    }
    cr_assert(false, "an append to node 3");
}

/* PROTOCOL E3, J2: a process that died acknowledged entries 1 to 5; the next one comes with an older copy of the disk,
 * under the same log id (a restored snapshot, a last batch that was taken for torn). It is neither believed to hold
 * them nor asked for ever to go on behind them. */
Test(replica_lead, what_a_former_process_acknowledged_counts_no_more)
{
    struct fixture f = fixture_primary(3);

    for (uint64_t t = 1; t < 20; t++) { /* whatever was under way */
        step_taken(&f, t, 1);
    }
    for (uint8_t i = 1; i <= 4; i++) {
        step_write(&f, i);
    }
    step_synced(&f, 5);
    step_ack(&f, 2, 1, 5);
    step_ack(&f, 3, 1, 5);
    cr_assert(eq(u64, status(&f).committed_index, 5));
    for (uint64_t t = 1; t < 40; t++) {
        step_taken(&f, t, 5);
    }
    step_peer(&f, 3, REPLICA_PEER_DEAD, 31);
    step_txn_done(&f, 0);
    cr_assert(eq(u32, f.d.in_sync_count, 2));
    step_peer(&f, 3, REPLICA_PEER_UP, 32);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0), "it has said nothing yet");
    expect_append(&f, 5, 5);
    refuse_gap(&f, 3, 2);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0), "it lacks what is committed");
    expect_append(&f, 2, 2);
    step_ack(&f, 3, 1, 2);
    expect_append(&f, 2, 5);
    step_ack(&f, 3, 1, 5);
    cr_assert(eq(u32, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.in_sync_count, 3));
    fixture_close(&f);
}

/* The same of a member that stays in the set, which would fall below min_in_sync without it: nothing commits before it
 * has spoken. */
Test(replica_lead, a_member_started_anew_acknowledges_anew)
{
    struct fixture f = fixture_primary(2);

    step_ack(&f, 2, 1, 1);
    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    step_peer(&f, 2, REPLICA_PEER_UP, 22);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    step_write(&f, 1);
    step_synced(&f, 2);
    cr_assert(eq(u64, status(&f).peers[0].acked_index, 0));
    cr_assert(eq(u64, status(&f).committed_index, 1));
    step_ack(&f, 2, 1, 2);
    cr_assert(eq(u64, status(&f).committed_index, 2));
    fixture_close(&f);
}

/* PROTOCOL D1, E4: the recorded position never falls, although who takes over knows of less than was committed. */
Test(replica_lead, the_recorded_position_does_not_fall)
{
    struct fixture f = fixture_follower(5);

    f.d.position = (struct otr_position){.epoch = 1, .index = 5};
    step_append(&f, 2, 1, (struct otr_position){1, 5}, 3, NULL);
    cr_assert(eq(u64, status(&f).committed_index, 3));
    f.d.version++;
    f.d.epoch = 2;
    f.d.primary = NODE_SELF;
    f.d.incarnation = INCARNATION_SELF;
    f.d.in_sync[1] = f.d.in_sync[2];
    f.d.in_sync_count = 2;
    f.d.min_in_sync = 1;
    step_lease(&f, true, NODE_SELF, INCARNATION_SELF); /* it won */
    step_descriptor(&f);
    cr_assert(eq(int, status(&f).role, REPLICA_TAKEOVER));
    step_peer(&f, 3, REPLICA_PEER_DEAD, 31);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1));
    cr_assert(eq(u32, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.in_sync_count, 1));
    cr_assert(eq(u64, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.position.index, 5));
    fixture_close(&f);
}

/* A primary that nobody grants anything may have been replaced: what it shows is as old as its grants. */
Test(replica_lead, a_primary_is_as_fresh_as_its_grants)
{
    struct fixture f = fixture_primary(2);
    uint64_t asked_ms = f.now_ms;

    step_grant(&f, 2, asked_ms);
    cr_assert(eq(u64, status(&f).fresh_ms, asked_ms));
    f.now_ms += 300;
    cr_assert(eq(u64, status(&f).fresh_ms, asked_ms));
    step_grant(&f, 2, f.now_ms - 10);
    cr_assert(eq(u64, status(&f).fresh_ms, f.now_ms - 10));
    fixture_close(&f);
    f = fixture_primary(1);
    f.now_ms += 5000;
    cr_assert(eq(u64, status(&f).fresh_ms, f.now_ms), "nobody else may be elected");
    fixture_close(&f);
}
