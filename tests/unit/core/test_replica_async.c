/* Mode async (PROTOCOL A7): a write is answered with the primary's own disk, within bounds. */
#include "tests/unit/core/replica_fixture.h"

enum { MAX_LAG_ENTRIES = 3, MAX_LAG_MS = 300 };

static void set_mode(struct fixture *f, enum replica_mode mode)
{
    step(f, (struct replica_event){
                .type = REPLICA_EV_SETTINGS,
                .settings = {.mode = mode, .max_lag_entries = MAX_LAG_ENTRIES, .max_lag_ms = MAX_LAG_MS}});
}

/* Grants of both members, good for GRANT_MS from now. */
static void grants(struct fixture *f)
{
    step_grant(f, 2, f->now_ms);
    step_grant(f, 3, f->now_ms);
}

/* Primary of three members in mode async, grants fresh. */
static struct fixture fixture_async(void)
{
    struct fixture f = fixture_primary(3);

    set_mode(&f, REPLICA_ASYNC);
    cr_assert(eq(int, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.mode, REPLICA_ASYNC));
    step_txn_done(&f, 0);
    grants(&f);
    return f;
}

static void write_durable(struct fixture *f, uint8_t request)
{
    step_write(f, request);
    step_synced(f, status(f).last.index);
}

Test(replica_async, a_write_is_answered_with_the_primarys_own_disk)
{
    struct fixture f = fixture_async();

    step_write(&f, 1);
    cr_assert(eq(u64, status(&f).committed_index, 1));
    step_synced(&f, 2);
    cr_assert(eq(u64, status(&f).committed_index, 2));
    cr_assert(eq(u64, action(&f, REPLICA_DO_ANSWER, 0)->answer.index, 2));
    fixture_close(&f);
}

/* While the change is under way the stricter rule holds. */
Test(replica_async, not_before_the_descriptor_says_so)
{
    struct fixture f = fixture_primary(3);

    grants(&f);
    set_mode(&f, REPLICA_ASYNC);
    step_synced(&f, 0);
    step_write(&f, 1);
    step_synced(&f, 2);
    cr_assert(eq(u64, status(&f).committed_index, 1));
    fixture_close(&f);
}

/* Somebody else may lead by now, who holds nothing of it. */
Test(replica_async, nothing_is_answered_without_grants)
{
    struct fixture f = fixture_async();

    step_tick(&f, GRANT_MS);
    write_durable(&f, 1);
    cr_assert(eq(u64, status(&f).committed_index, 2));
    cr_assert(eq(u64, status(&f).answered_index, 1));
    grants(&f);
    cr_assert(eq(u64, status(&f).answered_index, 2));
    fixture_close(&f);
}

Test(replica_async, no_member_lacks_more_than_max_lag)
{
    struct fixture f = fixture_async();

    for (uint8_t i = 1; i <= 5; i++) {
        write_durable(&f, i);
    }
    cr_assert(eq(u64, status(&f).committed_index, 6));
    cr_assert(eq(u64, status(&f).answered_index, 1 + MAX_LAG_ENTRIES));
    step_ack(&f, 2, 1, 6);
    cr_assert(eq(u64, status(&f).answered_index, 1 + MAX_LAG_ENTRIES), "of the slowest");
    step_ack(&f, 3, 1, 2);
    cr_assert(eq(u64, status(&f).answered_index, 2 + MAX_LAG_ENTRIES));
    step_ack(&f, 3, 1, 3);
    cr_assert(eq(u64, status(&f).answered_index, 6));
    fixture_close(&f);
}

/* One that lacks an entry for too long: nothing is answered until it is known to be out. */
Test(replica_async, who_lags_too_long_is_taken_out_first)
{
    struct fixture f = fixture_async();
    const struct replica_action *txn = NULL;
    uint64_t began = f.now_ms;

    write_durable(&f, 1);
    cr_assert(eq(u64, status(&f).answered_index, 2));
    for (int i = 0; i < 40 && txn == NULL; i++) {
        step_tick(&f, 10);
        txn = action(&f, REPLICA_DO_TXN, 0);
        if (txn == NULL) {
            cr_assert(lt(int, i, 32), "in time");
            grants(&f);
            step_ack(&f, 2, 1, 2);
            cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
        }
    }
    cr_assert(ge(u64, f.now_ms - began, MAX_LAG_MS));
    cr_assert(txn != NULL);
    cr_assert(eq(int, descriptor_in_sync(&txn->txn.descriptor, 3), -1));
    cr_assert(eq(u32, txn->txn.descriptor.in_sync_count, 2));
    cr_assert(eq(u64, txn->txn.descriptor.position.index, 2), "what every member holds (E4)");
    step_write(&f, 2);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_ANSWER), 0));
    fixture_close(&f);
}

Test(replica_async, the_position_is_what_every_member_holds)
{
    struct fixture f = fixture_async();
    const struct replica_action *txn = NULL;

    write_durable(&f, 1);
    write_durable(&f, 2);
    step_ack(&f, 2, 1, 2);
    step_peer(&f, 3, REPLICA_PEER_DEAD, 31);
    txn = action(&f, REPLICA_DO_TXN, 0);
    cr_assert(txn != NULL);
    cr_assert(eq(u64, txn->txn.descriptor.position.index, 2));
    fixture_close(&f);
}

/* Everything that was answered is held by all before the descriptor says sync, and from the wish on nothing is that is
 * not. */
Test(replica_async, back_to_sync_once_all_members_are_level)
{
    struct fixture f = fixture_async();

    write_durable(&f, 1);
    set_mode(&f, REPLICA_SYNC);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    write_durable(&f, 2);
    cr_assert(eq(u64, status(&f).committed_index, 2), "strict already");
    step_ack(&f, 2, 1, 3);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    step_ack(&f, 3, 1, 2);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1));
    cr_assert(eq(int, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.mode, REPLICA_SYNC));
    step_txn_done(&f, 0);
    step_ack(&f, 3, 1, 3);
    cr_assert(eq(u64, status(&f).committed_index, 3));
    cr_assert(eq(u64, status(&f).answered_index, 3));
    fixture_close(&f);
}

/* What the winner lacks, others may have been told is safe. */
Test(replica_async, an_election_says_where_it_began)
{
    struct fixture f = fixture_follower(3);
    const struct replica_action *txn;

    f.d.mode = REPLICA_ASYNC;
    f.d.version++;
    step_descriptor(&f);
    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    step_answer(&f, 3, sent(&f, 3, REPLICA_MSG_ASK)->ask.nonce, (struct otr_position){1, 3}, false, false);
    txn = action(&f, REPLICA_DO_TXN, 0);
    cr_assert(txn != NULL);
    cr_assert(eq(int, txn->txn.descriptor.mode, REPLICA_ASYNC));
    cr_assert(eq(u32, txn->txn.descriptor.lossy_count, 1));
    cr_assert(eq(u64, txn->txn.descriptor.lossy[0].epoch, 2));
    cr_assert(eq(u64, txn->txn.descriptor.lossy[0].ended.index, 3));
    fixture_close(&f);
}

Test(replica_async, in_mode_sync_an_election_loses_nothing)
{
    struct fixture f = fixture_follower(3);

    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    step_answer(&f, 3, sent(&f, 3, REPLICA_MSG_ASK)->ask.nonce, (struct otr_position){1, 3}, false, false);
    cr_assert(zero(u32, action(&f, REPLICA_DO_TXN, 0)->txn.descriptor.lossy_count));
    fixture_close(&f);
}

/* What waits for a grant, or for a member that lags, waits for all members from then on. Found by the simulator. */
Test(replica_async, the_wish_for_sync_answers_nothing_that_a_member_lacks)
{
    struct fixture f = fixture_async();

    step_tick(&f, GRANT_MS);
    write_durable(&f, 1);
    cr_assert(eq(u64, status(&f).committed_index, 2));
    cr_assert(eq(u64, status(&f).answered_index, 1));
    set_mode(&f, REPLICA_SYNC);
    cr_assert(eq(u64, status(&f).answered_index, 1));
    grants(&f);
    cr_assert(eq(u64, status(&f).answered_index, 1));
    step_ack(&f, 2, 1, 2);
    step_ack(&f, 3, 1, 2);
    cr_assert(eq(u64, status(&f).answered_index, 2));
    fixture_close(&f);
}

/* A write that was answered may be lost by now: that it took effect is told once more under the same terms only. */
Test(replica_async, a_retry_is_answered_with_grants_only)
{
    struct fixture f = fixture_async();

    write_durable(&f, 1);
    replica_outcome(f.r, 2, 0);
    cr_assert(eq(u64, status(&f).answered_index, 2));
    step_write(&f, 1);
    cr_assert(eq(int, action(&f, REPLICA_DO_REPLY, 0)->reply.reply, REPLICA_REPLY_DUPLICATE));
    step_tick(&f, GRANT_MS);
    step_write(&f, 1);
    cr_assert(eq(int, action(&f, REPLICA_DO_REPLY, 0)->reply.reply, REPLICA_REPLY_JOIN));
    cr_assert(eq(sz, actions(&f, REPLICA_DO_ANSWER), 0));
    step_grant(&f, 2, f.now_ms);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_ANSWER), 0));
    step_grant(&f, 3, f.now_ms);
    cr_assert(eq(u64, action(&f, REPLICA_DO_ANSWER, 0)->answer.index, 2));
    fixture_close(&f);
}
