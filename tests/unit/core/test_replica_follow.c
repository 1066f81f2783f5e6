#include "tests/unit/core/replica_fixture.h"

static const struct otr_position start = {0, 0};
static const struct otr_position at3 = {1, 3};

/* --- appending (A1, A2, A5) --------------------------------------------------------------------------------------- */

Test(replica_follow, acknowledges_what_is_verified_and_durable)
{
    struct fixture f = fixture_follower(0);

    step_append(&f, 2, 1, start, 0, (uint64_t[]){1, 1, 1, 0});
    cr_assert(eq(u64, action(&f, REPLICA_DO_APPEND_RAW, 0)->append_raw.first, 1));
    cr_assert(eq(u64, action(&f, REPLICA_DO_APPEND_RAW, 0)->append_raw.last, 3));
    cr_assert(sent(&f, 2, REPLICA_MSG_ACK) == NULL || sent(&f, 2, REPLICA_MSG_ACK)->ack.verified.index == 0);
    step_synced(&f, 2);
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_ACK)->ack.verified.index, 2));
    step_synced(&f, 3);
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_ACK)->ack.verified.index, 3));
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_ACK)->ack.log_id, LOG_SELF));
    fixture_close(&f);
}

/* A long log proves nothing: only what this primary's appends have confirmed counts. */
Test(replica_follow, its_own_last_position_is_not_acknowledged)
{
    struct fixture f = fixture_follower(9);

    step_append(&f, 2, 1, (struct otr_position){1, 4}, 9, NULL);
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_ACK)->ack.verified.index, 4));
    cr_assert(eq(u64, action(&f, REPLICA_DO_COMMIT, 0)->commit.index, 4));
    cr_assert(eq(u64, status(&f).last.index, 9), "an empty append never shortens a log");
    fixture_close(&f);
}

Test(replica_follow, duplicates_are_acknowledged_at_once_and_change_nothing)
{
    struct fixture f = fixture_follower(5);

    step_append(&f, 2, 1, (struct otr_position){1, 2}, 0, (uint64_t[]){1, 1, 0});
    cr_assert(eq(sz, actions(&f, REPLICA_DO_APPEND_RAW), 0));
    cr_assert(eq(sz, actions(&f, REPLICA_DO_CUT), 0));
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_ACK)->ack.verified.index, 4));
    fixture_close(&f);
}

Test(replica_follow, a_conflict_cuts_and_what_was_durable_there_no_longer_is)
{
    struct fixture f = fixture_follower(9);

    f.d.epoch = 2;
    step_append(&f, 3, 2, (struct otr_position){1, 6}, 6, (uint64_t[]){2, 2, 0});
    cr_assert(eq(u64, action(&f, REPLICA_DO_CUT, 0)->cut.index, 7));
    cr_assert(eq(u64, action(&f, REPLICA_DO_APPEND_RAW, 0)->append_raw.first, 7));
    cr_assert(eq(u64, status(&f).durable_index, 6));
    cr_assert(eq(u64, status(&f).last.epoch, 2));
    step_synced(&f, 8);
    cr_assert(eq(u64, sent(&f, 3, REPLICA_MSG_ACK)->ack.verified.index, 8));
    fixture_close(&f);
}

Test(replica_follow, a_gap_is_refused_with_the_last_entry_of_that_epoch_or_a_lower_one)
{
    struct fixture f = fixture_follower(5);

    step_append(&f, 3, 4, (struct otr_position){2, 8}, 0, (uint64_t[]){3, 0});
    cr_assert(eq(int, sent(&f, 3, REPLICA_MSG_REFUSE)->refuse.reason, REPLICA_REFUSE_GAP));
    cr_assert(eq(u64, sent(&f, 3, REPLICA_MSG_REFUSE)->refuse.position.index, 5));
    cr_assert(eq(u64, sent(&f, 3, REPLICA_MSG_REFUSE)->refuse.position.epoch, 1));
    step_append(&f, 3, 4, (struct otr_position){2, 3}, 0, (uint64_t[]){3, 0});
    cr_assert(eq(u64, sent(&f, 3, REPLICA_MSG_REFUSE)->refuse.position.index, 3));
    cr_assert(eq(sz, actions(&f, REPLICA_DO_CUT), 0));
    fixture_close(&f);
}

Test(replica_follow, epochs_below_promised_are_fenced)
{
    struct fixture f = fixture_follower(5);

    step_append(&f, 3, 3, (struct otr_position){1, 5}, 0, NULL);
    step_append(&f, 2, 1, (struct otr_position){1, 5}, 5, NULL);
    cr_assert(eq(int, sent(&f, 2, REPLICA_MSG_REFUSE)->refuse.reason, REPLICA_REFUSE_FENCED));
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_REFUSE)->refuse.promised, 3));
    cr_assert(eq(u64, status(&f).committed_index, 0));
    fixture_close(&f);
}

/* PROTOCOL E2: promised before acknowledgement. */
Test(replica_follow, a_new_epoch_is_acknowledged_only_when_the_promise_is_durable)
{
    struct fixture f = fixture_follower(5);
    const struct replica_action *meta;

    step_append(&f, 3, 2, (struct otr_position){1, 5}, 0, NULL);
    meta = action(&f, REPLICA_DO_META, 0);
    cr_assert(eq(u64, meta->meta.meta.promised, 2));
    cr_assert(sent(&f, 3, REPLICA_MSG_ACK) == NULL);
    step(&f, (struct replica_event){.type = REPLICA_EV_META_SYNCED, .meta_synced = {.seq = meta->meta.seq}});
    cr_assert(eq(u64, sent(&f, 3, REPLICA_MSG_ACK)->ack.verified.index, 5));
    fixture_close(&f);
}

/* PROTOCOL E2: a promise outlives the process. */
Test(replica_follow, a_promise_holds_after_a_restart)
{
    struct fixture f = fixture_restarted(3, 5);

    step_append(&f, 2, 4, at3, 3, NULL);
    cr_assert(eq(int, sent(&f, 2, REPLICA_MSG_REFUSE)->refuse.reason, REPLICA_REFUSE_FENCED));
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_REFUSE)->refuse.promised, 5));
    fixture_close(&f);
}

/* PROTOCOL E1: one incarnation an epoch. */
Test(replica_follow, another_incarnation_of_the_primary_is_not_listened_to)
{
    struct fixture f = fixture_follower(3);

    step_append(&f, 3, 1, (struct otr_position){1, 3}, 3, NULL);
    cr_assert(eq(sz, f.out.count, 0));
    cr_assert(eq(u64, status(&f).committed_index, 0));
    fixture_close(&f);
}

Test(replica_follow, malformed_appends_are_dropped)
{
    struct fixture f = fixture_follower(3);

    step_append(&f, 2, 1, (struct otr_position){1, 3}, 0, (uint64_t[]){2, 0}); /* an epoch above the sender's */
    cr_assert(eq(u64, status(&f).last.index, 3));
    step_append(&f, 2, 1, (struct otr_position){2, 3}, 0, NULL);
    cr_assert(eq(sz, f.out.count, 0));
    fixture_close(&f);
}

/* PROTOCOL A7. */
Test(replica_follow, a_cut_below_the_commit_index_stops_the_process)
{
    struct fixture f = fixture_follower(5);

    step_append(&f, 2, 1, (struct otr_position){1, 5}, 5, NULL);
    cr_assert(eq(u64, status(&f).committed_index, 5));
    step_append(&f, 3, 2, (struct otr_position){1, 3}, 0, (uint64_t[]){2, 0});
    cr_assert(eq(sz, actions(&f, REPLICA_DO_FATAL), 1));
    cr_assert(eq(sz, actions(&f, REPLICA_DO_CUT), 0));
    fixture_close(&f);
}

Test(replica_follow, messages_of_another_generation_are_ignored)
{
    struct fixture f = fixture_follower(3);

    f.d.generation = 2;
    step_append(&f, 2, 5, (struct otr_position){1, 3}, 3, NULL);
    cr_assert(eq(sz, f.out.count, 0));
    cr_assert(eq(u64, status(&f).promised, 1));
    fixture_close(&f);
}

/* --- grants (G1) -------------------------------------------------------------------------------------------------- */

Test(replica_follow, a_beacon_of_the_followed_epoch_is_granted)
{
    struct fixture f = fixture_follower(3);

    step_beacon(&f, 2, 1);
    cr_assert(sent(&f, 2, REPLICA_MSG_GRANT)->grant.granted);
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_GRANT)->grant.sent_ms, 5));
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_GRANT)->grant.log_id, LOG_SELF));
    fixture_close(&f);
}

/* PROTOCOL G4: the primary knows of longer grants before we do; they are kept in mind durably before one is given. */
Test(replica_follow, a_longer_grant_is_durable_before_it_is_given)
{
    struct fixture f = fixture_follower(3);

    step_beacon_for(&f, 2, 1, 3 * GRANT_MS);
    cr_assert(sent(&f, 2, REPLICA_MSG_GRANT) == NULL);
    cr_assert(eq(u64, action(&f, REPLICA_DO_META, 0)->meta.meta.grant_ms_max, 3 * GRANT_MS));
    step_synced(&f, 0);
    cr_assert(sent(&f, 2, REPLICA_MSG_GRANT)->grant.granted);
    cr_assert(eq(u32, sent(&f, 2, REPLICA_MSG_GRANT)->grant.grant_ms, 3 * GRANT_MS));
    fixture_close(&f);
}

Test(replica_follow, a_grant_without_end_is_not_given)
{
    struct fixture f = fixture_follower(3);

    step_beacon_for(&f, 2, 1, UINT32_MAX);
    cr_assert(not(sent(&f, 2, REPLICA_MSG_GRANT)->grant.granted));
    step_beacon_for(&f, 2, 1, 0);
    cr_assert(not(sent(&f, 2, REPLICA_MSG_GRANT)->grant.granted));
    fixture_close(&f);
}

Test(replica_follow, a_lower_epoch_is_not_granted_and_a_new_one_only_after_the_promise)
{
    struct fixture f = fixture_follower(3);

    step_beacon(&f, 3, 2);
    cr_assert(sent(&f, 3, REPLICA_MSG_GRANT) == NULL);
    step_synced(&f, 0);
    cr_assert(sent(&f, 3, REPLICA_MSG_GRANT)->grant.granted);
    step_beacon(&f, 2, 1);
    cr_assert(not(sent(&f, 2, REPLICA_MSG_GRANT)->grant.granted));
    fixture_close(&f);
}

/* --- logs that do not count (E3) ---------------------------------------------------------------------------------- */

Test(replica_follow, a_fresh_replica_names_its_log_before_it_acknowledges)
{
    struct fixture f = fixture_new();
    const struct replica_action *meta;

    f.d.epoch = 1;
    f.d.primary = 2;
    f.d.incarnation = 21;
    f.d.in_sync[0] = (struct member){2, 201};
    f.d.in_sync_count = 1;
    step_descriptor(&f);
    meta = action(&f, REPLICA_DO_META, 0);
    cr_assert(eq(u64, meta->meta.meta.log_id, LOG_SELF));
    step_append(&f, 2, 1, start, 0, NULL);
    cr_assert(sent(&f, 2, REPLICA_MSG_ACK) == NULL);
    step_synced(&f, 0);
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_ACK)->ack.log_id, LOG_SELF));
    fixture_close(&f);
}

static void step_seed_begin(struct fixture *f)
{
    step(f, (struct replica_event){
                .type = REPLICA_EV_SEED_BEGIN,
                .seed_begin = {.from = 2, .epoch = 1, .incarnation = 21, .new_log_id = 999},
            });
}

Test(replica_follow, a_member_does_not_give_up_its_log_for_a_seed)
{
    struct fixture f = fixture_follower(3);

    step_seed_begin(&f);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_SEED_ACCEPT), 0));
    cr_assert(eq(u64, status(&f).last.index, 3));
    fixture_close(&f);
}

Test(replica_follow, a_learner_takes_a_seed_under_a_new_log_id)
{
    struct fixture f = fixture_follower(3);

    f.d.in_sync_count = 0;
    f.d.version++;
    f.d.in_sync[f.d.in_sync_count++] = (struct member){2, 201};
    step_descriptor(&f);
    step_seed_begin(&f);
    cr_assert(eq(u64, action(&f, REPLICA_DO_SEED_ACCEPT, 0)->seed_accept.meta.log_id, 999));
    step_append(&f, 2, 1, (struct otr_position){1, 3}, 0, NULL);
    cr_assert(sent(&f, 2, REPLICA_MSG_ACK) == NULL, "nothing counts while the seed comes in");
    step(&f, (struct replica_event){.type = REPLICA_EV_SEED_DONE, .seed_done = {.ok = true, .position = {1, 70}}});
    cr_assert(eq(u64, status(&f).last.index, 70));
    cr_assert(eq(u64, status(&f).committed_index, 70));
    step_append(&f, 2, 1, (struct otr_position){1, 70}, 70, NULL);
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_ACK)->ack.verified.index, 70));
    cr_assert(eq(u64, sent(&f, 2, REPLICA_MSG_ACK)->ack.log_id, 999));
    fixture_close(&f);
}

Test(replica_follow, a_broken_seed_leaves_a_log_that_asks_for_another)
{
    struct fixture f = fixture_follower(0);

    step_seed_begin(&f);
    step(&f, (struct replica_event){.type = REPLICA_EV_SEED_DONE, .seed_done = {.ok = false}});
    step_append(&f, 2, 1, start, 0, NULL);
    cr_assert(eq(int, sent(&f, 2, REPLICA_MSG_REFUSE)->refuse.reason, REPLICA_REFUSE_SEED));
    fixture_close(&f);
}

/* --- the coordinator's past (D4) ---------------------------------------------------------------------------------- */

Test(replica_follow, a_lagging_watch_is_no_regression)
{
    struct fixture f = fixture_follower(3);
    struct descriptor old = f.d;

    f.d.version++;
    f.revision += 10;
    step_descriptor(&f);
    step(&f, (struct replica_event){
                 .type = REPLICA_EV_DESCRIPTOR,
                 .descriptor = {.descriptor = &old, .revision = f.revision - 5},
             });
    cr_assert(eq(sz, actions(&f, REPLICA_DO_ALARM), 0));
    cr_assert(eq(u64, status(&f).descriptor->version, f.d.version));
    fixture_close(&f);
}

Test(replica_follow, an_older_descriptor_at_a_later_revision_raises_an_alarm)
{
    struct fixture f = fixture_follower(3);

    f.d.version += 2;
    step_descriptor(&f);
    f.d.version--;
    step_descriptor(&f);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_ALARM), 1));
    cr_assert(eq(u64, status(&f).descriptor->version, f.d.version + 1));
    fixture_close(&f);
}
