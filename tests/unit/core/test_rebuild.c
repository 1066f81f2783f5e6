/* A shard's descriptor out of what survivors know (PROTOCOL D4). */
#include "sidecar/core/rebuild.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

static struct topology *t;
static struct descriptor shown[4], out;
static struct rebuild_replica replicas[3];
static struct otr_errmsg msg;

/* Nodes 1 to 3 have replicas, 1 and 2 are in sync, 1 leads epoch 5. */
static void init(void)
{
    struct descriptor d = {.shard = 3,
                           .generation = 1,
                           .version = 9,
                           .epoch = 5,
                           .primary = 1,
                           .incarnation = 11,
                           .in_sync = {{1, 101}, {2, 201}},
                           .in_sync_count = 2,
                           .replicas = {1, 2, 3},
                           .replicas_count = 3,
                           .position = {5, 40},
                           .mode = REPLICA_SYNC,
                           .min_in_sync = 2};

    t = topology_new();
    for (otr_node n = 1; n <= 3; n++) {
        topology_intern(t, (const char *[]){"a", "b", "c"}[n - 1]);
        replicas[n - 1] = (struct rebuild_replica){.node = n,
                                                   .incarnation = 10 * n + 1,
                                                   .leads = n == 1,
                                                   .promised = 5,
                                                   .log_id = 100 * n + 1,
                                                   .seen_generation = 1,
                                                   .seen_epoch = 5,
                                                   .seen_version = 9,
                                                   .last = {5, 44}};
    }
    for (size_t i = 0; i < 4; i++) {
        shown[i] = d;
    }
}

static void fini(void)
{
    topology_free(t);
}

static int rebuild(size_t shown_count, size_t count, bool accept_loss)
{
    return rebuild_descriptor(t, shown, shown_count, replicas, count, 7, accept_loss, &out, &msg);
}

TestSuite(rebuild, .init = init, .fini = fini);

Test(rebuild, the_primary_that_leads_goes_on_in_a_higher_epoch)
{
    cr_assert(zero(int, rebuild(3, 3, false)), "%s", msg.text);
    cr_assert(eq(u64, out.generation, 7));
    cr_assert(eq(u64, out.epoch, 6));
    cr_assert(eq(u64, out.version, 10));
    cr_assert(eq(u32, out.primary, 1));
    cr_assert(eq(u64, out.incarnation, 11));
    cr_assert(eq(u32, out.in_sync_count, 2));
}

Test(rebuild, the_epoch_is_above_everything_promised)
{
    replicas[2].promised = 8;
    cr_assert(zero(int, rebuild(3, 3, false)), "%s", msg.text);
    cr_assert(eq(u64, out.epoch, 9));
}

Test(rebuild, the_newest_counts)
{
    shown[1].version = 10;
    shown[1].in_sync_count = 1;
    cr_assert(zero(int, rebuild(3, 3, false)), "%s", msg.text);
    cr_assert(eq(u32, out.in_sync_count, 1));
    cr_assert(eq(u64, out.version, 11));
}

/* It may know of a later set, and have acknowledged writes in it. */
Test(rebuild, a_replica_that_is_missing_is_a_danger)
{
    cr_assert(eq(int, rebuild(3, 2, false), OTR_CONFLICT));
    cr_assert(eq(str, msg.text, "shard 3: c has a replica and does not answer: it may know of a later primary"));
    cr_assert(zero(int, rebuild(3, 2, true)));
}

Test(rebuild, a_newer_descriptor_that_nobody_can_show_is_a_danger)
{
    replicas[1].seen_version = 10;
    cr_assert(eq(int, rebuild(3, 3, false), OTR_CONFLICT));
    cr_assert(eq(str, msg.text, "shard 3: b has seen a newer descriptor than anybody can show"));
    cr_assert(zero(int, rebuild(3, 3, true)));
    replicas[1].seen_version = 9;
    replicas[0].promised = 6; /* ... and leads it */
    cr_assert(eq(int, rebuild(3, 3, false), OTR_CONFLICT));
}

Test(rebuild, some_member_has_a_whole_log)
{
    replicas[0].log_id = 999;
    cr_assert(zero(int, rebuild(3, 3, false)), "%s", msg.text);
    replicas[1].last.index = 39;
    cr_assert(eq(int, rebuild(3, 3, false), OTR_CONFLICT));
    cr_assert(eq(str, msg.text, "shard 3: no replica that was in sync is left with a whole log"));
}

Test(rebuild, equal_numbers_with_different_sets_are_no_basis)
{
    shown[2].in_sync[1].log_id = 202;
    cr_assert(eq(int, rebuild(3, 3, true), OTR_CORRUPT));
}

Test(rebuild, a_shard_that_nobody_led_stays_one)
{
    for (size_t i = 0; i < 3; i++) {
        shown[i].epoch = 0;
        shown[i].primary = OTR_NODE_NONE;
        shown[i].in_sync_count = 0;
        replicas[i] = (struct rebuild_replica){.node = (otr_node)i + 1};
    }
    cr_assert(zero(int, rebuild(3, 3, false)), "%s", msg.text);
    cr_assert(zero(u64, out.epoch));
}

Test(rebuild, of_a_shard_that_nobody_knows_nothing_is_made)
{
    cr_assert(eq(int, rebuild(0, 3, true), OTR_NOTFOUND));
}
