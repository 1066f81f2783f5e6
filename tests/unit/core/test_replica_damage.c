/* A copy of which something does not read any more (PROTOCOL E3), while the process runs. */
#include "tests/unit/core/replica_fixture.h"

static void damaged(struct fixture *f)
{
    step(f, (struct replica_event){.type = REPLICA_EV_LOG_DAMAGED});
}

static void seed_begin(struct fixture *f)
{
    step(f, (struct replica_event){
                .type = REPLICA_EV_SEED_BEGIN,
                .seed_begin = {.from = 2, .epoch = 1, .incarnation = 21, .new_log_id = 777},
            });
}

/* It acknowledges and grants nothing any more, asks for a seed, and says that it could not lead. */
Test(replica_damage, a_follower_holds_nothing_that_counts_until_it_was_seeded)
{
    static const uint64_t one[] = {1, 0};
    struct fixture f = fixture_follower(5);

    damaged(&f);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_ALARM), 1));
    cr_assert(status(&f).damaged && !status(&f).trusted);
    step_append(&f, 2, 1, (struct otr_position){1, 5}, 5, one);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_APPEND_RAW), 0));
    cr_assert(sent(&f, 2, REPLICA_MSG_ACK) == NULL);
    cr_assert(eq(int, sent(&f, 2, REPLICA_MSG_REFUSE)->refuse.reason, REPLICA_REFUSE_SEED));
    step_beacon(&f, 2, 1);
    cr_assert(sent(&f, 2, REPLICA_MSG_GRANT) == NULL || !sent(&f, 2, REPLICA_MSG_GRANT)->grant.granted);
    seed_begin(&f);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_SEED_ACCEPT), 1));
    cr_assert(eq(u64, action(&f, REPLICA_DO_SEED_ACCEPT, 0)->seed_accept.meta.log_id, 777));
    step(&f, (struct replica_event){.type = REPLICA_EV_SEED_DONE, .seed_done = {.ok = true, .position = {1, 9}}});
    cr_assert(status(&f).trusted && !status(&f).damaged);
    step_append(&f, 2, 1, (struct otr_position){1, 9}, 9, one);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_APPEND_RAW), 1));
    fixture_close(&f);
}

/* Nothing brings it to stand, whoever is dead: what it lacks may have been acknowledged. */
Test(replica_damage, a_damaged_follower_does_not_stand)
{
    struct fixture f = fixture_follower(5);

    damaged(&f);
    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    step_lease(&f, false, 0, 0);
    for (unsigned i = 0; i < 300; i++) {
        step_tick(&f, 20);
        cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    }
    fixture_close(&f);
}

/* A damaged primary serves on until another can. */
Test(replica_damage, a_primary_hands_over_first)
{
    struct fixture f = fixture_primary(3);

    damaged(&f);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_ALARM), 1));
    cr_assert(sent(&f, 2, REPLICA_MSG_OFFER) != NULL && sent(&f, 3, REPLICA_MSG_OFFER) != NULL);
    cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY));
    cr_assert(status(&f).trusted);
    step_write(&f, 1);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_APPEND), 1));
    for (otr_node n = 2; n <= 3; n++) {
        struct replica_msg msg = {.type = REPLICA_MSG_READY, .epoch = 1, .generation = 1};
        msg.ready.nonce = 1;
        msg.ready.log_id = 100 * n + 1;
        msg.ready.last = (struct otr_position){1, 1};
        msg.ready.able = true;
        step(&f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = n, .msg = &msg}});
    }
    step_synced(&f, 2);
    step_ack(&f, 2, 1, 2);
    step_ack(&f, 3, 1, 2);
    cr_assert(eq(int, status(&f).role, REPLICA_FOLLOWER));
    step_tick(&f, 10);
    cr_assert(eq(int, status(&f).trusted, false));
    fixture_close(&f);
}

/* There is nothing to replace the last copy with. */
Test(replica_damage, the_last_copy_serves_on)
{
    struct fixture f = fixture_primary(1);

    damaged(&f);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_ALARM), 1));
    for (unsigned i = 0; i < 1000; i++) {
        step_tick(&f, 20);
        cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY));
        cr_assert(status(&f).trusted && status(&f).damaged);
        cr_assert(eq(sz, actions(&f, REPLICA_DO_ALARM), 0));
    }
    fixture_close(&f);
}

/* A follower that is the only member left, because nobody has stood yet, stays one that may. */
Test(replica_damage, the_last_member_may_still_stand)
{
    struct fixture f = fixture_restarted(5, 1);

    f.d.in_sync[0] = (struct member){.node = NODE_SELF, .log_id = LOG_SELF};
    f.d.in_sync_count = 1;
    f.d.version++;
    step_descriptor(&f);
    damaged(&f);
    cr_assert(status(&f).trusted);
    fixture_close(&f);
}
