/* Elections that give up acknowledged entries (PROTOCOL V7), and what becomes of those entries (A7). */
#include "tests/unit/core/replica_fixture.h"

enum { TIMEOUT_MS = 3000 };

/* Nodes 2 and 3 were in sync, we are not; of what was committed we lack entries 6 to 9. Nobody is connected, and the
 * primary's lease is gone. */
static struct fixture fixture_left_behind(void)
{
    struct fixture f = fixture_follower(5);

    step_append(&f, 2, 1, (struct otr_position){1, 5}, 5, NULL);
    f.d.in_sync[0] = f.d.in_sync[1];
    f.d.in_sync[1] = f.d.in_sync[2];
    f.d.in_sync_count = 2;
    f.d.version++;
    f.d.position = (struct otr_position){1, 9};
    step_descriptor(&f);
    step_peer(&f, 2, REPLICA_PEER_DEAD, 21);
    step_peer(&f, 3, REPLICA_PEER_DEAD, 31);
    step_lease(&f, false, OTR_NODE_NONE, 0);
    step_synced(&f, 5);
    return f;
}

static void force(struct fixture *f, uint64_t accepted)
{
    step(f,
         (struct replica_event){.type = REPLICA_EV_FORCE, .force = {.accepted = accepted, .timeout_ms = TIMEOUT_MS}});
}

/* The answer to the read that the last step asked for. */
static void step_read(struct fixture *f)
{
    const struct replica_action *read = action(f, REPLICA_DO_READ, 0);

    cr_assert(read != NULL);
    step(f,
         (struct replica_event){.type = REPLICA_EV_DESCRIPTOR,
                                .descriptor = {.descriptor = &f->d, .revision = f->revision, .read = read->read.read}});
}

static int outcome(const struct fixture *f)
{
    const struct replica_action *forced = action(f, REPLICA_DO_FORCED, 0);

    cr_assert(forced != NULL);
    return forced->forced.status;
}

Test(replica_force, what_is_lost_is_what_the_log_lacks)
{
    struct fixture f = fixture_left_behind();

    cr_assert(eq(u64, status(&f).known_index, 9));
    cr_assert(eq(u64, status(&f).kept_index, 5));
    cr_assert(not(status(&f).eligible));
    fixture_close(&f);
}

/* A log of an older epoch may differ wherever it was not told that an entry is committed. */
Test(replica_force, only_what_is_committed_counts_of_an_older_epoch)
{
    cr_assert(eq(u64, descriptor_kept((struct otr_position){2, 9}, (struct otr_position){1, 8}, 5), 5));
    cr_assert(eq(u64, descriptor_kept((struct otr_position){2, 9}, (struct otr_position){2, 8}, 5), 8));
}

Test(replica_force, leads_alone_in_a_higher_epoch)
{
    struct fixture f = fixture_left_behind();
    const struct replica_action *txn;

    force(&f, 4);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0), "not before the coordinator was read");
    step_read(&f);
    txn = action(&f, REPLICA_DO_TXN, 0);
    cr_assert(txn != NULL);
    cr_assert(eq(u64, txn->txn.compare_revision, f.revision));
    cr_assert(eq(int, txn->txn.lease, REPLICA_LEASE_IF_ABSENT));
    cr_assert(eq(u64, txn->txn.descriptor.epoch, 2));
    cr_assert(eq(u32, txn->txn.descriptor.primary, NODE_SELF));
    cr_assert(eq(u32, txn->txn.descriptor.in_sync_count, 1));
    cr_assert(eq(u64, txn->txn.descriptor.in_sync[0].log_id, LOG_SELF));
    cr_assert(eq(u32, txn->txn.descriptor.lossy_count, 1));
    cr_assert(eq(u64, txn->txn.descriptor.lossy[0].epoch, 2));
    cr_assert(eq(u64, txn->txn.descriptor.lossy[0].ended.index, 5));
    f.d = txn->txn.descriptor;
    step_txn_done(&f, 0);
    cr_assert(eq(int, status(&f).role, REPLICA_TAKEOVER));
    step_synced(&f, 6);
    step_tick(&f, 1000); /* its own grant to the old primary has run out (G4) */
    cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY));
    cr_assert(eq(int, outcome(&f), 0));
    fixture_close(&f);
}

Test(replica_force, no_more_than_was_accepted)
{
    struct fixture f = fixture_left_behind();

    force(&f, 3);
    cr_assert(eq(int, outcome(&f), OTR_CONFLICT));
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    fixture_close(&f);
}

Test(replica_force, not_while_a_member_answers)
{
    struct fixture f = fixture_left_behind();
    const struct replica_msg *ask;

    step_peer(&f, 3, REPLICA_PEER_UP, 31);
    force(&f, 4);
    step_read(&f);
    ask = sent(&f, 3, REPLICA_MSG_ASK);
    cr_assert(ask != NULL);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    step_answer(&f, 3, ask->ask.nonce, (struct otr_position){1, 9}, false, true);
    cr_assert(eq(int, outcome(&f), OTR_CONFLICT));
    cr_assert(eq(u32, action(&f, REPLICA_DO_FORCED, 0)->forced.other, 3));
    fixture_close(&f);
}

/* One whose log ends before what was committed has lost something itself (E4). */
Test(replica_force, a_member_that_lost_entries_is_no_member)
{
    struct fixture f = fixture_left_behind();

    step_peer(&f, 3, REPLICA_PEER_UP, 31);
    force(&f, 4);
    step_read(&f);
    step_answer(&f, 3, sent(&f, 3, REPLICA_MSG_ASK)->ask.nonce, (struct otr_position){1, 8}, false, true);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_FORCED), 0));
    step_tick(&f, 200);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    for (int i = 0; i < 10; i++) {
        step_tick(&f, 100);
        if (actions(&f, REPLICA_DO_TXN) > 0) {
            break;
        }
    }
    cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 1));
    fixture_close(&f);
}

Test(replica_force, not_while_the_primarys_session_lives)
{
    struct fixture f = fixture_left_behind();

    step_lease(&f, true, 2, 21);
    force(&f, 4);
    cr_assert(eq(int, outcome(&f), OTR_CONFLICT));
    cr_assert(eq(u32, action(&f, REPLICA_DO_FORCED, 0)->forced.other, 2));
    fixture_close(&f);
}

Test(replica_force, not_by_a_member_nor_by_one_that_leads)
{
    struct fixture f = fixture_follower(3);

    step_lease(&f, false, OTR_NODE_NONE, 0);
    force(&f, 100);
    cr_assert(eq(int, outcome(&f), OTR_CONFLICT));
    fixture_close(&f);
    f = fixture_primary(3);
    force(&f, 100);
    cr_assert(eq(int, outcome(&f), OTR_EXISTS));
    fixture_close(&f);
}

/* Somebody else's change came first: nothing was done. */
Test(replica_force, a_conflict_ends_it)
{
    struct fixture f = fixture_left_behind();

    force(&f, 4);
    step_read(&f);
    step_txn_done(&f, OTR_CONFLICT);
    cr_assert(eq(int, outcome(&f), OTR_CONFLICT));
    cr_assert(eq(int, status(&f).role, REPLICA_FOLLOWER));
    fixture_close(&f);
}

Test(replica_force, an_outcome_that_stays_unknown_is_said_to_be)
{
    struct fixture f = fixture_left_behind();

    force(&f, 4);
    step_read(&f);
    step_txn_done(&f, OTR_UNKNOWN);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_FORCED), 0));
    step_tick(&f, TIMEOUT_MS);
    cr_assert(eq(int, outcome(&f), OTR_UNKNOWN));
    fixture_close(&f);
}

Test(replica_force, whoever_asks_is_told_that_the_log_failed)
{
    struct fixture f = fixture_left_behind();

    force(&f, 4);
    step(&f, (struct replica_event){.type = REPLICA_EV_LOG_FAILED});
    cr_assert(eq(int, outcome(&f), OTR_UNAVAIL));
    force(&f, 4);
    cr_assert(eq(int, outcome(&f), OTR_UNAVAIL));
    fixture_close(&f);
}

/* --- what becomes of the entries (A7) ----------------------------------------------------------------------------- */

/* Node 3 leads epoch 2, which began after entry 3; we hold 5 entries of epoch 1, `committed` of them known to be. */
static struct fixture fixture_ahead(uint64_t committed)
{
    struct fixture f = fixture_follower(5);

    step_append(&f, 2, 1, (struct otr_position){1, 5}, committed, NULL);
    cr_assert(eq(u64, status(&f).committed_index, committed));
    return f;
}

static void append_lossy(struct fixture *f, struct otr_position prev, uint64_t last_index)
{
    struct replica_entry entry = {.position = {2, prev.index + 1}};
    struct replica_msg msg = {.type = REPLICA_MSG_APPEND, .generation = 1, .epoch = 2};

    msg.append.incarnation = 31;
    msg.append.prev = prev;
    msg.append.last_index = last_index;
    msg.append.lossy_epoch = 2;
    msg.append.entries = &entry;
    step(f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = 3, .msg = &msg}});
}

static void noted(struct fixture *f, uint64_t first, bool ok)
{
    step(f, (struct replica_event){.type = REPLICA_EV_LOSS_NOTED, .loss_noted = {.first = first, .ok = ok}});
}

/* From this index on what a log holds is lost, that had entries of `early` up to 60, of `late` from there on. */
static uint64_t lost_from(const struct descriptor *d, uint64_t early, uint64_t late, uint64_t last)
{
    struct epochs_start items[2] = {{early, 1}, {late, 61}};

    return descriptor_lost_from(d, &(struct epochs){.items = items, .count = 2}, (struct otr_position){late, last});
}

/* What a log holds is lost from where the first log ended that went on without it; of an epoch, what comes later. */
Test(replica_loss, the_descriptor_tells_what_is_lost)
{
    struct descriptor d = {.epoch = 9};

    cr_assert(eq(u64, lost_from(&d, 1, 2, 500), UINT64_MAX));
    descriptor_mark_lossy(&d, 3, (struct otr_position){2, 100});
    descriptor_mark_lossy(&d, 5, (struct otr_position){4, 80});
    descriptor_mark_lossy(&d, 7, (struct otr_position){6, 120});
    cr_assert(eq(u64, descriptor_lossy_epoch(&d), 7));
    cr_assert(eq(u64, lost_from(&d, 1, 2, 500), 81));
    cr_assert(eq(u64, lost_from(&d, 1, 4, 500), 81));
    cr_assert(eq(u64, lost_from(&d, 1, 5, 500), 121));
    cr_assert(eq(u64, lost_from(&d, 1, 5, 120), UINT64_MAX));
    cr_assert(eq(u64, lost_from(&d, 1, 7, 500), UINT64_MAX));
    for (uint64_t epoch = 8; epoch < 20; epoch++) {
        descriptor_mark_lossy(&d, epoch, (struct otr_position){epoch - 1, 200});
    }
    cr_assert(eq(u32, d.lossy_count, DESCRIPTOR_LOSSY_MAX));
    cr_assert(eq(u64, lost_from(&d, 1, 2, 500), 81), "not forgotten");
    cr_assert(eq(u64, lost_from(&d, 1, 18, 500), 201));
}

/* A leader that was deposed, with a tail that nobody took, leads again in a later epoch: its log is long enough, and
 * yet has nothing of what came between. */
Test(replica_loss, a_tail_of_an_earlier_epoch_holds_nothing_of_a_later_one)
{
    struct descriptor d = {.epoch = 6};

    descriptor_mark_lossy(&d, 6, (struct otr_position){4, 80});
    cr_assert(eq(u64, lost_from(&d, 4, 5, 90), 61));
    cr_assert(eq(u64, lost_from(&d, 4, 5, 70), 61));
    cr_assert(eq(u64, lost_from(&d, 3, 4, 90), 81));
}

Test(replica_loss, what_is_cut_is_noted_before)
{
    struct fixture f = fixture_ahead(3);
    const struct replica_action *note;

    append_lossy(&f, (struct otr_position){1, 3}, 4);
    note = action(&f, REPLICA_DO_NOTE_LOSS, 0);
    cr_assert(note != NULL);
    cr_assert(eq(u64, note->note_loss.first, 4));
    cr_assert(eq(u64, note->note_loss.last, 5));
    cr_assert(eq(u64, note->note_loss.epoch, 2));
    cr_assert(eq(sz, actions(&f, REPLICA_DO_CUT), 0));
    append_lossy(&f, (struct otr_position){1, 3}, 4);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_NOTE_LOSS), 0), "one is under way");
    cr_assert(eq(sz, actions(&f, REPLICA_DO_CUT), 0));
    noted(&f, 4, true);
    append_lossy(&f, (struct otr_position){1, 3}, 4);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_CUT), 1));
    cr_assert(eq(sz, actions(&f, REPLICA_DO_APPEND_RAW), 1));
    cr_assert(eq(u64, status(&f).last.index, 4));
    fixture_close(&f);
}

/* Store and engine have what is committed: the replica is seeded. */
Test(replica_loss, below_the_commit_index_a_seed_is_asked_for)
{
    struct fixture f = fixture_ahead(5);
    const struct replica_msg *refusal;

    append_lossy(&f, (struct otr_position){1, 3}, 4);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_NOTE_LOSS), 1));
    cr_assert(eq(sz, actions(&f, REPLICA_DO_FATAL), 0));
    noted(&f, 4, true);
    append_lossy(&f, (struct otr_position){1, 3}, 4);
    refusal = sent(&f, 3, REPLICA_MSG_REFUSE);
    cr_assert(refusal != NULL);
    cr_assert(eq(int, refusal->refuse.reason, REPLICA_REFUSE_SEED));
    cr_assert(eq(u64, status(&f).last.index, 5), "nothing is given up before the seed");
    fixture_close(&f);
}

Test(replica_loss, what_cannot_be_noted_is_kept)
{
    struct fixture f = fixture_ahead(5);

    append_lossy(&f, (struct otr_position){1, 3}, 4);
    noted(&f, 4, false);
    append_lossy(&f, (struct otr_position){1, 3}, 4);
    cr_assert(eq(sz, f.out.count, 0), "it is tried again after a while");
    step_tick(&f, 1000);
    append_lossy(&f, (struct otr_position){1, 3}, 4);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_NOTE_LOSS), 1));
    fixture_close(&f);
}

/* The primary was seeded itself, and begins with a seed: what the descriptor says counts. */
Test(replica_loss, no_seed_is_taken_before_it_is_noted)
{
    struct fixture f = fixture_ahead(5);
    struct replica_event begin = {
        .type = REPLICA_EV_SEED_BEGIN,
        .seed_begin = {.from = 3, .epoch = 2, .incarnation = 31, .new_log_id = 999},
    };

    f.d.epoch = 2;
    f.d.version++;
    f.d.primary = 3;
    f.d.incarnation = 31;
    f.d.in_sync[0] = f.d.in_sync[2];
    f.d.in_sync_count = 1;
    descriptor_mark_lossy(&f.d, 2, (struct otr_position){1, 3});
    step_descriptor(&f);
    step(&f, begin);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_SEED_ACCEPT), 0));
    cr_assert(eq(sz, actions(&f, REPLICA_DO_NOTE_LOSS), 1));
    cr_assert(eq(u64, action(&f, REPLICA_DO_NOTE_LOSS, 0)->note_loss.first, 4));
    noted(&f, 4, true);
    step(&f, begin);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_SEED_ACCEPT), 1));
    fixture_close(&f);
}

/* Its log will not be kept: whoever counted on it would bring back what was reported as lost. */
Test(replica_loss, whoever_gives_up_entries_stands_for_nothing)
{
    struct fixture f = fixture_ahead(5);

    f.d.epoch = 2;
    f.d.version++;
    f.d.primary = 3;
    f.d.incarnation = 31;
    descriptor_mark_lossy(&f.d, 2, (struct otr_position){1, 3});
    step_descriptor(&f);
    cr_assert(status(&f).eligible);
    append_lossy(&f, (struct otr_position){1, 3}, 4);
    cr_assert(not(status(&f).eligible));
    step_lease(&f, false, OTR_NODE_NONE, 0);
    step_peer(&f, 3, REPLICA_PEER_DEAD, 31);
    for (int i = 0; i < 30; i++) {
        step_tick(&f, 100);
        cr_assert(eq(sz, actions(&f, REPLICA_DO_TXN), 0));
    }
    fixture_close(&f);
}

/* A log that began with a seed, or that compaction has shortened, cannot be compared below its base. A leader whose log
 * ended there would otherwise be told for ever what it cannot believe. */
Test(replica_loss, below_the_base_a_seed_is_asked_for)
{
    struct fixture f = fixture_new();

    f.d.epoch = 1;
    f.d.primary = 2;
    f.d.incarnation = 21;
    f.d.in_sync[0] = (struct member){.node = 2, .log_id = 201};
    f.d.in_sync_count = 1;
    step_descriptor(&f);
    step(&f, (struct replica_event){.type = REPLICA_EV_SEED_BEGIN,
                                    .seed_begin = {.from = 2, .epoch = 1, .incarnation = 21, .new_log_id = 111}});
    cr_assert(eq(sz, actions(&f, REPLICA_DO_SEED_ACCEPT), 1));
    step(&f, (struct replica_event){.type = REPLICA_EV_SEED_DONE, .seed_done = {.ok = true, .position = {1, 9}}});
    step_synced(&f, 0);
    append_lossy(&f, (struct otr_position){1, 3}, 4);
    cr_assert(sent(&f, 3, REPLICA_MSG_ACK) == NULL);
    cr_assert(sent(&f, 3, REPLICA_MSG_REFUSE) != NULL);
    cr_assert(eq(int, sent(&f, 3, REPLICA_MSG_REFUSE)->refuse.reason, REPLICA_REFUSE_SEED));
    cr_assert(eq(u64, status(&f).last.index, 9));
    fixture_close(&f);
}

/* ... as long as there is somebody who wants its entries gone: he may have lost his own log, and ours is the last. */
Test(replica_loss, whoever_gave_nothing_up_yet_counts_again_after_long_silence)
{
    struct fixture f = fixture_ahead(5);

    f.d.epoch = 2;
    f.d.version++;
    f.d.primary = 3;
    f.d.incarnation = 31;
    descriptor_mark_lossy(&f.d, 2, (struct otr_position){1, 3});
    step_descriptor(&f);
    append_lossy(&f, (struct otr_position){1, 3}, 4);
    noted(&f, 4, true);
    for (int i = 0; i < 29; i++) {
        step_tick(&f, 100);
        cr_assert(not(status(&f).eligible));
    }
    step_tick(&f, 100);
    cr_assert(status(&f).eligible);
    append_lossy(&f, (struct otr_position){1, 3}, 4);
    cr_assert(eq(sz, actions(&f, REPLICA_DO_NOTE_LOSS), 1), "and is noted anew");
    cr_assert(not(status(&f).eligible));
    fixture_close(&f);
}
