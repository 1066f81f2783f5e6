/* Handing over as the members see it (PROTOCOL G4, G5, V5): offers answered, a reign taken up; and leaving the set
 * before a process stops. */
#include "tests/unit/core/replica_fixture.h"

static void step_message(struct fixture *f, otr_node from, struct replica_msg msg)
{
    msg.generation = 1;
    step(f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = from, .msg = &msg}});
}

static void offer(struct fixture *f, otr_node from, uint64_t epoch, uint64_t incarnation, uint64_t nonce)
{
    struct replica_msg msg = {.type = REPLICA_MSG_OFFER, .epoch = epoch};

    msg.offer.incarnation = incarnation;
    msg.offer.nonce = nonce;
    step_message(f, from, msg);
}

static void handoff(struct fixture *f, otr_node from, uint64_t epoch, uint64_t incarnation, uint64_t sent_ms)
{
    struct replica_msg msg = {.type = REPLICA_MSG_HANDOFF, .epoch = epoch};

    msg.handoff.incarnation = incarnation;
    msg.handoff.sent_ms = sent_ms;
    msg.handoff.commit = 3;
    step_message(f, from, msg);
}

static void leave(struct fixture *f, otr_node from, uint64_t incarnation)
{
    struct replica_msg msg = {.type = REPLICA_MSG_LEAVE, .epoch = 1};

    msg.leave.incarnation = incarnation;
    msg.leave.log_id = 100 * from + 1;
    step_message(f, from, msg);
}

/* DO_READ number `read` shows what the coordinator holds. */
static void shown(struct fixture *f, uint64_t read)
{
    step(f, (struct replica_event){
                .type = REPLICA_EV_DESCRIPTOR,
                .descriptor = {.descriptor = &f->d, .revision = f->revision, .read = read},
            });
}

static uint64_t read_asked(const struct fixture *f)
{
    const struct replica_action *a = action(f, REPLICA_DO_READ, 0);

    cr_assert(a != NULL, "a read");
    return a->read.read;
}

static bool ready(const struct fixture *f, bool able)
{
    const struct replica_msg *msg = sent(f, 2, REPLICA_MSG_READY);

    return msg != NULL && msg->ready.able == able;
}

static void coordinator(struct fixture *f, bool session_open, bool reachable)
{
    step(f, (struct replica_event){.type = REPLICA_EV_COORDINATOR,
                                   .coordinator = {.session_open = session_open, .reachable = reachable}});
}

/* A follower of node 2 in epoch 1 that heard it: three entries, all verified. */
static struct fixture fixture_heard(void)
{
    struct fixture f = fixture_follower(3);

    step_append(&f, 2, 1, (struct otr_position){1, 3}, 2, NULL);
    cr_assert(sent(&f, 2, REPLICA_MSG_ACK) != NULL);
    return f;
}

/* --- offers ------------------------------------------------------------------------------------------------------- */

Test(replica_succeed, able_after_a_read_of_its_own)
{
    struct fixture f = fixture_heard();

    offer(&f, 2, 1, 21, 7);
    cr_assert(sent(&f, 2, REPLICA_MSG_READY) == NULL);
    shown(&f, read_asked(&f));
    cr_assert(ready(&f, true));
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_READY)->ready.nonce, 7));
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_READY)->ready.log_id, LOG_SELF));
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_READY)->ready.last.index, 3));
    fixture_close(&f);
}

/* What a read that was under way shows may be older than the offer: the coordinator may be gone since. */
Test(replica_succeed, a_read_that_began_before_does_not_count)
{
    struct fixture f = fixture_heard();
    uint64_t old;

    offer(&f, 2, 1, 21, 7);
    old = read_asked(&f);
    step_tick(&f, 10);
    offer(&f, 2, 1, 21, 8);
    shown(&f, old);
    cr_assert(sent(&f, 2, REPLICA_MSG_READY) == NULL);
    step_tick(&f, 100);
    shown(&f, read_asked(&f));
    cr_assert(ready(&f, true));
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_READY)->ready.nonce, 8));
    fixture_close(&f);
}

/* What the watch shows says nothing about the coordinator being there now. */
Test(replica_succeed, a_watch_is_no_read)
{
    struct fixture f = fixture_heard();

    offer(&f, 2, 1, 21, 7);
    f.d.version++;
    step_descriptor(&f);
    cr_assert(sent(&f, 2, REPLICA_MSG_READY) == NULL);
    fixture_close(&f);
}

Test(replica_succeed, not_able_when_the_read_fails)
{
    struct fixture f = fixture_heard();

    offer(&f, 2, 1, 21, 7);
    step(&f, (struct replica_event){.type = REPLICA_EV_READ_FAILED, .read_failed = {.read = read_asked(&f)}});
    cr_assert(ready(&f, false));
    fixture_close(&f);
}

Test(replica_succeed, not_able_when_the_read_shows_another_epoch)
{
    struct fixture f = fixture_heard();

    offer(&f, 2, 1, 21, 7);
    f.d.epoch = 2;
    f.d.version++;
    f.d.primary = 3;
    f.d.incarnation = 31;
    f.revision++;
    shown(&f, read_asked(&f));
    cr_assert(ready(&f, false));
    fixture_close(&f);
}

/* The answer was lost, the offer comes again: what was read for it still stands. */
Test(replica_succeed, a_repeated_offer_needs_no_other_read)
{
    struct fixture f = fixture_heard();

    offer(&f, 2, 1, 21, 7);
    shown(&f, read_asked(&f));
    offer(&f, 2, 1, 21, 7);
    cr_assert(ready(&f, true));
    step(&f, (struct replica_event){.type = REPLICA_EV_FITNESS, .fitness = {.engine_up = false}});
    offer(&f, 2, 1, 21, 7);
    cr_assert(ready(&f, false));
    fixture_close(&f);
}

Test(replica_succeed, the_unfit_say_so_at_once)
{
    struct fixture f = fixture_heard();

    offer(&f, 2, 2, 21, 1); /* an epoch that it does not follow */
    cr_assert(ready(&f, false));
    offer(&f, 2, 1, 22, 2); /* another incarnation */
    cr_assert(ready(&f, false));
    offer(&f, 3, 1, 21, 3); /* not the primary */
    cr_assert(sent(&f, 3, REPLICA_MSG_READY) != NULL && !sent(&f, 3, REPLICA_MSG_READY)->ready.able);
    coordinator(&f, false, true);
    offer(&f, 2, 1, 21, 4);
    cr_assert(ready(&f, false));
    coordinator(&f, true, false);
    offer(&f, 2, 1, 21, 5);
    cr_assert(ready(&f, false));
    coordinator(&f, true, true);
    step(&f, (struct replica_event){.type = REPLICA_EV_FITNESS, .fitness = {.engine_up = false}});
    offer(&f, 2, 1, 21, 6);
    cr_assert(ready(&f, false));
    step(&f, (struct replica_event){.type = REPLICA_EV_FITNESS, .fitness = {.engine_up = true}});
    step(&f, (struct replica_event){.type = REPLICA_EV_FITNESS, .fitness = {.engine_up = true, .disk_full = true}});
    offer(&f, 2, 1, 21, 8);
    cr_assert(ready(&f, false));
    step(&f, (struct replica_event){.type = REPLICA_EV_FITNESS, .fitness = {.engine_up = true, .disk_low = true}});
    offer(&f, 2, 1, 21, 9);
    cr_assert(ready(&f, false));
    step(&f, (struct replica_event){.type = REPLICA_EV_FITNESS, .fitness = {.engine_up = true}});
    step(&f, (struct replica_event){.type = REPLICA_EV_LEAVE});
    offer(&f, 2, 1, 21, 7);
    cr_assert(ready(&f, false));
    fixture_close(&f);
}

Test(replica_succeed, only_a_member_of_the_set_is_able)
{
    struct fixture f = fixture_heard();

    f.d.in_sync[0].log_id = 999;
    f.d.version++;
    step_descriptor(&f);
    offer(&f, 2, 1, 21, 1);
    cr_assert(ready(&f, false));
    f.d.in_sync[0].log_id = LOG_SELF;
    f.d.replicas[0] = 4; /* the shard moves away from here */
    f.d.version++;
    step_descriptor(&f);
    offer(&f, 2, 1, 21, 2);
    cr_assert(ready(&f, false));
    fixture_close(&f);
}

/* --- taking up ---------------------------------------------------------------------------------------------------- */

/* V5: at once, nobody is asked; the old primary's lease is taken over, and it leaves the set. */
Test(replica_succeed, stands_at_once)
{
    struct fixture f = fixture_heard();
    const struct replica_action *txn;

    handoff(&f, 2, 1, 21, 5);
    txn = action(&f, REPLICA_DO_TXN, 0);
    cr_assert(txn != NULL);
    cr_assert(eq(u64, txn->txn.descriptor.epoch, 2));
    cr_assert(eq(u32, txn->txn.descriptor.primary, NODE_SELF));
    cr_assert(eq(u32, txn->txn.descriptor.in_sync_count, 2));
    cr_assert(lt(int, descriptor_in_sync(&txn->txn.descriptor, 2), 0));
    cr_assert(eq(int, txn->txn.lease, REPLICA_LEASE_IF_REVISION));
    cr_assert(sent(&f, 3, REPLICA_MSG_ASK) == NULL);
    cr_assert(eq(int, status(&f).role, REPLICA_CANDIDATE));
    fixture_close(&f);
}

/* E1: whoever does not lead the epoch returns nothing. Late ones of an earlier epoch, and those of another process. */
Test(replica_succeed, only_of_the_primary_that_it_follows)
{
    struct fixture f = fixture_heard();

    handoff(&f, 2, 1, 22, 5);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    handoff(&f, 3, 1, 21, 5);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    handoff(&f, 2, 0, 21, 5);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    handoff(&f, 2, 2, 21, 5);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    cr_assert(eq(int, status(&f).role, REPLICA_FOLLOWER));
    fixture_close(&f);
}

/* Its disk filled up since it said that it is able: the giver waits in vain, and stands itself. */
Test(replica_succeed, does_not_take_up_what_it_has_no_room_for)
{
    struct fixture f = fixture_heard();

    step(&f, (struct replica_event){.type = REPLICA_EV_FITNESS, .fitness = {.engine_up = true, .disk_full = true}});
    handoff(&f, 2, 1, 21, 5);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    step(&f, (struct replica_event){.type = REPLICA_EV_FITNESS, .fitness = {.engine_up = true}});
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1));
    fixture_close(&f);
}

/* Its transaction certainly failed: the reign is still to be taken up. */
Test(replica_succeed, tries_again)
{
    struct fixture f = fixture_heard();

    handoff(&f, 2, 1, 21, 5);
    step_txn_done(&f, OTR_UNREACHABLE);
    cr_assert(eq(int, status(&f).role, REPLICA_FOLLOWER));
    step_tick(&f, 60);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1));
    fixture_close(&f);
}

/* Wins epoch 2 after the old primary's handoff, and has node 3's acknowledgement of the epoch-start entry. */
static void win(struct fixture *f)
{
    struct replica_msg msg = {.type = REPLICA_MSG_ACK, .epoch = 2};

    step_txn_done(f, 0);
    cr_assert(eq(int, status(f).role, REPLICA_TAKEOVER));
    msg.ack.log_id = 301;
    msg.ack.verified = (struct otr_position){2, 4};
    step_message(f, 3, msg);
    step_synced(f, 4);
}

/* G4, G5: nobody answers reads on the strength of what was returned. */
Test(replica_succeed, waits_for_no_returned_grant)
{
    struct fixture f = fixture_heard();

    step_beacon(&f, 2, 1);
    cr_assert(sent(&f, 2, REPLICA_MSG_GRANT)->grant.granted);
    f.now_ms += 10;
    handoff(&f, 2, 1, 21, 5);
    win(&f);
    cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY));
    fixture_close(&f);
}

/* A return covers the beacons that it names. */
Test(replica_succeed, waits_for_a_grant_that_was_not_returned)
{
    struct fixture f = fixture_heard();

    step_beacon(&f, 2, 1); /* sent at 5 */
    f.now_ms += 10;
    handoff(&f, 2, 1, 21, 4);
    win(&f);
    cr_assert(eq(int, status(&f).role, REPLICA_TAKEOVER));
    step_tick(&f, 110);
    cr_assert(eq(int, status(&f).role, REPLICA_TAKEOVER));
    step_tick(&f, 20);
    cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY));
    fixture_close(&f);
}

/* G4: a primary that knew of longer grants than we reads for as long as it asked for. */
Test(replica_succeed, waits_as_long_as_the_beacon_asked)
{
    struct fixture f = fixture_heard();

    step_beacon_for(&f, 2, 1, 3 * GRANT_MS); /* sent at 5 */
    step_synced(&f, 0);
    cr_assert(sent(&f, 2, REPLICA_MSG_GRANT)->grant.granted);
    f.now_ms += 10;
    handoff(&f, 2, 1, 21, 4);
    win(&f);
    step_tick(&f, 3 * GRANT_MS - 11);
    cr_assert(eq(int, status(&f).role, REPLICA_TAKEOVER));
    step_tick(&f, GRANT_MS);
    cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY));
    fixture_close(&f);
}

/* Node 2 returns what it was given in epoch 2; what node 3 was given in epoch 1 is still good for node 3's reads. */
Test(replica_succeed, waits_for_grants_of_earlier_epochs)
{
    struct fixture f = fixture_follower(3);

    f.d.primary = 3;
    f.d.incarnation = 31;
    f.d.epoch = 2;
    f.d.version++;
    step_descriptor(&f);
    step_synced(&f, 0);
    step_beacon(&f, 3, 2);
    cr_assert(sent(&f, 3, REPLICA_MSG_GRANT)->grant.granted);
    f.now_ms += 10;
    f.d.primary = 2;
    f.d.incarnation = 21;
    f.d.epoch = 3;
    f.d.version++;
    step_descriptor(&f);
    step_synced(&f, 0);
    step_beacon(&f, 2, 3);
    cr_assert(sent(&f, 2, REPLICA_MSG_GRANT)->grant.granted);
    handoff(&f, 2, 3, 21, 5);
    step_txn_done(&f, 0);
    cr_assert(eq(u64, status(&f).epoch, 4));
    step_synced(&f, 4);
    step_message(&f, 3, (struct replica_msg){.type = REPLICA_MSG_ACK, .epoch = 4, .ack = {301, {4, 4}}});
    step_tick(&f, 110);
    cr_assert(eq(int, status(&f).role, REPLICA_TAKEOVER));
    step_tick(&f, 20);
    cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY));
    fixture_close(&f);
}

/* An earlier process of ours may have granted anything to anybody. */
Test(replica_succeed, waits_from_its_own_start)
{
    struct fixture f = fixture_restarted(3, 1);

    step_append(&f, 2, 1, (struct otr_position){1, 3}, 2, NULL);
    handoff(&f, 2, 1, 21, 5);
    win(&f);
    cr_assert(eq(int, status(&f).role, REPLICA_TAKEOVER));
    step_tick(&f, 130);
    cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY));
    fixture_close(&f);
}

/* A beacon that left before the return and arrives after it. */
Test(replica_succeed, a_late_beacon_renews_nothing)
{
    struct fixture f = fixture_heard();

    coordinator(&f, false, true); /* so that it cannot stand yet */
    handoff(&f, 2, 1, 21, 5);
    cr_assert(eq(int, status(&f).role, REPLICA_FOLLOWER));
    step_beacon(&f, 2, 1);
    cr_assert(not(sent(&f, 2, REPLICA_MSG_GRANT)->grant.granted));
    coordinator(&f, true, true);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1));
    win(&f);
    cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY));
    fixture_close(&f);
}

/* A grant that waits for the disk when the return arrives is not given any more. */
Test(replica_succeed, nor_does_one_that_waits_for_the_disk)
{
    struct fixture f = fixture_heard();
    struct replica_msg msg = {.type = REPLICA_MSG_BEACON, .epoch = 2};

    msg.beacon.incarnation = 31;
    msg.beacon.sent_ms = 5;
    msg.beacon.grant_ms = GRANT_MS;
    step_message(&f, 3, msg); /* promises epoch 2, which is not durable yet */
    cr_assert(sent(&f, 3, REPLICA_MSG_GRANT) == NULL);
    handoff(&f, 3, 2, 31, 5);
    step_synced(&f, 0);
    cr_assert(sent(&f, 3, REPLICA_MSG_GRANT) == NULL);
    fixture_close(&f);
}

/* Its commit index rides along, held to what was verified (A5). */
Test(replica_succeed, learns_what_is_committed)
{
    struct fixture f = fixture_heard();

    handoff(&f, 2, 1, 21, 5);
    win(&f);
    cr_assert(ge(u64, status(&f).committed_index, 3));
    fixture_close(&f);
}

/* V3: others that ask are told that the reign has ended. */
Test(replica_succeed, no_longer_hears_the_old_primary)
{
    struct fixture f = fixture_heard();
    struct replica_msg ask = {.type = REPLICA_MSG_ASK, .epoch = 1};

    coordinator(&f, false, true);
    ask.ask.primary = 2;
    ask.ask.incarnation = 21;
    step_message(&f, 3, ask);
    cr_assert(sent(&f, 3, REPLICA_MSG_ANSWER)->answer.hears_primary);
    handoff(&f, 2, 1, 21, 5);
    step_message(&f, 3, ask);
    cr_assert(not(sent(&f, 3, REPLICA_MSG_ANSWER)->answer.hears_primary));
    fixture_close(&f);
}

/* --- leaving ------------------------------------------------------------------------------------------------------ */

/* Again and again, for messages are lost; and a new primary hears it before its first acknowledgement. */
Test(replica_succeed, says_that_it_leaves)
{
    struct fixture f = fixture_heard();
    size_t said = 0;

    step(&f, (struct replica_event){.type = REPLICA_EV_LEAVE});
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_LEAVE)->leave.incarnation, INCARNATION_SELF));
    for (int i = 0; i < 30; i++) {
        step_tick(&f, 10);
        said += sent(&f, 2, REPLICA_MSG_LEAVE) != NULL;
    }
    cr_assert(eq(sz, said, 10));
    cr_assert(status(&f).leaving && status(&f).in_sync);
    f.d.epoch = 2;
    f.d.version++;
    f.d.primary = 3;
    f.d.incarnation = 31;
    step_descriptor(&f);
    cr_assert(sent(&f, 3, REPLICA_MSG_LEAVE) != NULL);
    cr_assert(sent(&f, 3, REPLICA_MSG_ACK) == NULL);
    fixture_close(&f);
}

/* The primary takes it out whatever is left, and does not take that process back. */
Test(replica_succeed, who_leaves_is_taken_out_and_stays_out)
{
    struct fixture f = fixture_primary(2);

    leave(&f, 2, 21);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1));
    cr_assert(eq(u32, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.in_sync_count, 1));
    step_txn_done(&f, 0);
    step_ack(&f, 2, 1, 1);
    for (int i = 0; i < 30; i++) {
        step_tick(&f, 10);
        step_ack(&f, 2, 1, 1);
        cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    }
    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    step_peer(&f, 2, REPLICA_PEER_UP, 22);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0), "what the former process said is not said by this one");
    step_ack(&f, 2, 1, 1);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1), "another process may join, with what is durable there");
    fixture_close(&f);
}

/* Everything is stopped at once: the set does not dwindle to the one that happened to lead. */
Test(replica_succeed, those_who_stop_together_keep_the_set)
{
    struct fixture f = fixture_primary(3);

    step(&f, (struct replica_event){.type = REPLICA_EV_LEAVE});
    leave(&f, 2, 21);
    cr_assert(eq(u32, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.in_sync_count, 2));
    step_txn_done(&f, 0);
    leave(&f, 3, 31);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    for (int i = 0; i < 30; i++) {
        step_tick(&f, 10);
        step_ack(&f, 3, 1, 1);
        cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    }
    fixture_close(&f);
}

Test(replica_succeed, a_late_farewell_of_an_earlier_process)
{
    struct fixture f = fixture_primary(3);

    step_peer(&f, 2, REPLICA_PEER_UP, 22);
    leave(&f, 2, 21);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    step_tick(&f, 10);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    fixture_close(&f);
}

/* Nor is it chosen to lead on. */
Test(replica_succeed, who_leaves_is_not_offered_anything)
{
    struct fixture f = fixture_primary(3);

    leave(&f, 2, 21);
    step_txn_done(&f, OTR_UNREACHABLE);
    step(&f, (struct replica_event){.type = REPLICA_EV_HANDOFF});
    cr_assert(sent(&f, 2, REPLICA_MSG_OFFER) == NULL && sent(&f, 3, REPLICA_MSG_OFFER) != NULL);
    fixture_close(&f);
}

/* A process that is about to stop leaves elections to the others, unless it lives on. */
Test(replica_succeed, who_leaves_stands_only_long_after)
{
    struct fixture f = fixture_heard();
    uint64_t from_ms = f.now_ms;

    step(&f, (struct replica_event){.type = REPLICA_EV_LEAVE});
    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    step_peer(&f, 3, REPLICA_PEER_DEAD, 31);
    step_lease(&f, false, 0, 0);
    while (actions(&f, REPLICA_DO_TXN) == 0 && f.now_ms < from_ms + 60000) {
        step_tick(&f, 10);
    }
    cr_assert(f.now_ms - from_ms >= 10000 && f.now_ms - from_ms < 12000);
    fixture_close(&f);
}

/* --- moved away --------------------------------------------------------------------------------------------------- */

/* A node that `replicas` no longer names leaves the set, too, unless the rest were too few. */
Test(replica_succeed, who_is_no_longer_listed_leaves_the_set)
{
    struct fixture f = fixture_primary(3);

    f.d.replicas[2] = 4;
    f.d.version++;
    step_descriptor(&f);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1));
    cr_assert(lt(int, descriptor_in_sync(&action(&f, REPLICA_DO_TXN, 0)->txn.descriptor, 3), 0));
    fixture_close(&f);

    f = fixture_primary(2);
    f.d.replicas[1] = 4;
    f.d.version++;
    step_descriptor(&f);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    fixture_close(&f);
}
