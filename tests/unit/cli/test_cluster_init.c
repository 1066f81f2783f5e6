#include "sidecar/cli/cluster.h"
#include "sidecar/coord/keys.h"
#include "sidecar/coord/values.h"
#include "tests/lib/fake_backend.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdlib.h>

TestSuite(cluster_init, .timeout = 60);

struct fixture {
    struct loop loop;
    struct fake_coordinator *fake;
    struct coord_client c;
    struct otr_errmsg msg;
    char progress[2048]; /* all texts */
    void (*on_progress)(struct fixture *f);
};

static void put(struct fixture *f, const char *key, char *value)
{
    const struct otr_op op = {.type = OTR_OP_PUT, .key = key, .value = value, .value_bytes = strlen(value)};
    const struct otr_txn txn = {.ops = &op, .ops_count = 1};

    cr_assert(zero(int, coord_client_txn(&f->c, &txn, &f->msg)), "%s", f->msg.text);
    free(value);
}

/* A node as its sidecar registers it. */
static void put_live(struct fixture *f, const char *name)
{
    struct topology_node node = {.client = {"127.0.0.1", 1}, .peer = {"127.0.0.1", 2}, .incarnation = 1};
    char key[KEY_MAX];

    key_live(key, "c", name);
    put(f, key, value_live_print(&node));
}

static void open_fixture(struct fixture *f, unsigned live)
{
    char name[16];
    struct otr_backend_config config = {.loop = &f->loop.uv};

    memset(f, 0, sizeof *f);
    cr_assert(zero(int, loop_init(&f->loop, &f->msg)));
    f->fake = fake_coordinator_new(&f->loop.uv);
    f->c = (struct coord_client){.loop = &f->loop, .ops = &otr_backend_fake, .cluster = "c"};
    config.endpoints = fake_coordinator_endpoint(f->fake);
    cr_assert(zero(int, otr_backend_fake.open(&f->c.backend, &config, &f->msg)));
    for (unsigned i = 1; i <= live; i++) {
        snprintf(name, sizeof name, "node-%u", i);
        put_live(f, name);
    }
}

static void close_fixture(struct fixture *f)
{
    coord_client_close(&f->c);
    fake_coordinator_close(f->fake);
    loop_close(&f->loop);
}

static void on_progress(void *data, const char *text)
{
    struct fixture *f = data;

    strncat(f->progress, text, sizeof f->progress - strlen(f->progress) - 1);
    strncat(f->progress, "\n", sizeof f->progress - strlen(f->progress) - 1);
    if (f->on_progress != NULL) {
        f->on_progress(f);
    }
}

static int init(struct fixture *f, struct cluster_plan plan, struct cluster_made *made)
{
    f->msg.text[0] = '\0';
    *made = (struct cluster_made){.shards = 0};
    return cluster_init(&f->c, &plan, made, on_progress, f, &f->msg);
}

/* What the coordinator holds in the end: every shard once, in even ranges, and `config`. */
static void assert_complete(struct fixture *f, uint32_t shards, uint32_t replicas)
{
    struct topology *t;

    cr_assert(zero(int, coord_client_read(&f->c, &t, &f->msg)), "%s", f->msg.text);
    cr_assert(topology_config(t)->known);
    cr_assert(eq(u32, topology_config(t)->shards_count, shards));
    cr_assert(eq(u32, topology_config(t)->replication_factor, replicas));
    cr_assert(eq(u64, topology_config(t)->generation, 1));
    cr_assert(eq(u32, topology_shards_count(t), shards));
    for (uint32_t s = 0; s < shards; s++) {
        const struct topology_shard *shard = topology_shard(t, s);

        cr_assert(shard->known);
        cr_assert(eq(u32, shard->descriptor.hash_first, (uint32_t)(((uint64_t)s << 32) / shards)));
        cr_assert(eq(u32, shard->descriptor.replicas_count, replicas));
        cr_assert(eq(u64, shard->descriptor.epoch, 0));
        cr_assert(eq(u64, shard->descriptor.generation, 1));
    }
    topology_free(t);
}

Test(cluster_init, creates_everything_once)
{
    struct fixture f;
    struct cluster_made made;
    struct topology *before, *after;

    open_fixture(&f, 3);
    cr_assert(zero(int, init(&f, (struct cluster_plan){.nodes = 3}, &made)), "%s", f.msg.text);
    cr_assert(made.created);
    cr_assert(eq(u32, made.shards, 16));
    cr_assert(eq(u32, made.min_in_sync, 2));
    assert_complete(&f, 16, 3);
    cr_assert(zero(int, coord_client_read(&f.c, &before, &f.msg)));
    cr_assert(zero(int, init(&f, (struct cluster_plan){.nodes = 3, .shards = 16, .replication_factor = 3}, &made)));
    cr_assert(not(made.created));
    cr_assert(zero(int, coord_client_read(&f.c, &after, &f.msg)));
    for (otr_shard s = 0; s < 16; s++) {
        cr_assert(eq(u64, topology_shard(before, s)->revision, topology_shard(after, s)->revision));
    }
    topology_free(before);
    topology_free(after);
    close_fixture(&f);
}

Test(cluster_init, refuses_another_shape_than_there_is)
{
    struct fixture f;
    struct cluster_made made;

    open_fixture(&f, 4);
    cr_assert(zero(int, init(&f, (struct cluster_plan){.nodes = 4, .shards = 8}, &made)));
    cr_assert(eq(int, init(&f, (struct cluster_plan){.nodes = 4, .shards = 9}, &made), OTR_EXISTS));
    cr_assert(strstr(f.msg.text, "shards 8 instead of 9") != NULL, "%s", f.msg.text);
    cr_assert(eq(int, init(&f, (struct cluster_plan){.nodes = 4, .replication_factor = 2}, &made), OTR_EXISTS));
    cr_assert(eq(int, init(&f, (struct cluster_plan){.nodes = 4, .min_in_sync = 3}, &made), OTR_EXISTS));
    assert_complete(&f, 8, 3);
    close_fixture(&f);
}

Test(cluster_init, shards_of_many_transactions)
{
    struct fixture f;
    struct cluster_made made;

    open_fixture(&f, 3);
    cr_assert(zero(int, init(&f, (struct cluster_plan){.nodes = 3, .shards = 200}, &made)), "%s", f.msg.text);
    assert_complete(&f, 200, 3);
    close_fixture(&f);
}

static void third_node_comes(struct fixture *f)
{
    f->on_progress = NULL;
    put_live(f, "node-3");
}

Test(cluster_init, waits_for_the_nodes)
{
    struct fixture f;
    struct cluster_made made;

    open_fixture(&f, 2);
    f.on_progress = third_node_comes;
    cr_assert(zero(int, init(&f, (struct cluster_plan){.nodes = 3}, &made)), "%s", f.msg.text);
    cr_assert(eq(str, f.progress, "waiting for 3 nodes, 2 live: node-1, node-2\n"));
    assert_complete(&f, 16, 3);
    close_fixture(&f);
}

Test(cluster_init, gives_up_when_told_so)
{
    struct fixture f;
    struct cluster_made made;

    open_fixture(&f, 2);
    cr_assert(eq(int, init(&f, (struct cluster_plan){.nodes = 3, .timeout_ms = 100}, &made), OTR_TIMEOUT));
    cr_assert(strstr(f.msg.text, "2 live") != NULL, "%s", f.msg.text);
    close_fixture(&f);
}

static void interrupt(struct fixture *f)
{
    (void)f;
    raise(SIGINT);
}

Test(cluster_init, can_be_interrupted)
{
    struct fixture f;
    struct cluster_made made;

    open_fixture(&f, 2);
    f.on_progress = interrupt;
    cr_assert(eq(int, init(&f, (struct cluster_plan){.nodes = 3}, &made), OTR_CANCELED));
    close_fixture(&f);
}

static void coordinator_returns(struct fixture *f)
{
    f->on_progress = NULL;
    fake_set_reach(f->fake, FAKE_REACHABLE);
}

Test(cluster_init, waits_for_the_coordinator)
{
    struct fixture f;
    struct cluster_made made;

    open_fixture(&f, 3);
    fake_set_reach(f.fake, FAKE_DOWN);
    f.on_progress = coordinator_returns;
    cr_assert(zero(int, init(&f, (struct cluster_plan){.nodes = 3}, &made)), "%s", f.msg.text);
    cr_assert(strstr(f.progress, "waiting for the coordinator") == f.progress, "%s", f.progress);
    assert_complete(&f, 16, 3);
    close_fixture(&f);
}

/* An answer that never came says nothing (PROTOCOL D3): whatever became of the transaction, the run comes to its end,
 * and what is carried out late changes nothing. */
Test(cluster_init, unknown_outcomes)
{
    static const enum fake_outcome outcomes[] = {FAKE_OUTCOME_LOST, FAKE_OUTCOME_APPLIED, FAKE_OUTCOME_LATE};

    for (size_t i = 0; i < sizeof outcomes / sizeof outcomes[0]; i++) {
        struct fixture f;
        struct cluster_made made;

        open_fixture(&f, 3);
        fake_next_txn(f.fake, outcomes[i]);
        cr_assert(zero(int, init(&f, (struct cluster_plan){.nodes = 3, .shards = 40}, &made)), "%s", f.msg.text);
        cr_assert(zero(uint, fake_release_late(f.fake)));
        assert_complete(&f, 40, 3);
        close_fixture(&f);
    }
}

/* The first of two transactions got through, then the run was cut off. */
static void leave_half_a_cluster(struct fixture *f, uint32_t shards)
{
    struct topology *t = topology_new();
    char key[KEY_MAX];

    for (otr_shard s = 0; s < shards / 2; s++) {
        struct descriptor d = {.shard = s,
                               .hash_first = (uint32_t)(((uint64_t)s << 32) / shards),
                               .hash_last = (uint32_t)(((uint64_t)(s + 1) << 32) / shards - 1),
                               .generation = 1,
                               .version = 1,
                               .replicas_count = 3,
                               .mode = REPLICA_SYNC,
                               .min_in_sync = 2,
                               .grant_ms = 120};

        d.replicas[0] = topology_intern(t, "node-3");
        d.replicas[1] = topology_intern(t, "node-2");
        d.replicas[2] = topology_intern(t, "node-1");
        key_shard(key, "c", s);
        put(f, key, value_descriptor_print(t, &d));
    }
    topology_free(t);
}

Test(cluster_init, goes_on_where_an_interrupted_run_stopped)
{
    struct fixture f;
    struct cluster_made made;
    struct topology *t;

    open_fixture(&f, 3);
    leave_half_a_cluster(&f, 64);
    cr_assert(zero(int, init(&f, (struct cluster_plan){.nodes = 3, .shards = 64}, &made)), "%s", f.msg.text);
    cr_assert(made.created);
    assert_complete(&f, 64, 3);
    cr_assert(zero(int, coord_client_read(&f.c, &t, &f.msg)));
    cr_assert(eq(str, (char *)topology_name(t, topology_shard(t, 1)->descriptor.replicas[0]), "node-3"));
    topology_free(t);
    close_fixture(&f);
}

Test(cluster_init, does_not_mix_two_shapes)
{
    struct fixture f;
    struct cluster_made made;
    struct topology *t;

    open_fixture(&f, 3);
    leave_half_a_cluster(&f, 64);
    cr_assert(eq(int, init(&f, (struct cluster_plan){.nodes = 3, .shards = 32}, &made), OTR_EXISTS));
    cr_assert(strstr(f.msg.text, "about 64 shards") != NULL, "%s", f.msg.text);
    cr_assert(zero(int, coord_client_read(&f.c, &t, &f.msg)));
    cr_assert(not(topology_config(t)->known));
    topology_free(t);
    close_fixture(&f);
}

static void give_up(struct fixture *f)
{
    f->loop.interrupted = SIGINT;
}

/* One attempt, whose transaction the coordinator carries out some time later. */
static void init_whose_transaction_is_late(struct fixture *f, uint32_t shards)
{
    struct cluster_made made;

    fake_next_txn(f->fake, FAKE_OUTCOME_LATE);
    f->on_progress = give_up;
    cr_assert(eq(int, init(f, (struct cluster_plan){.nodes = 3, .shards = shards}, &made), OTR_CANCELED));
    f->loop.interrupted = 0;
}

/* By then somebody may lead a shard: its descriptor must not be reset. */
Test(cluster_init, a_late_transaction_overwrites_no_shard)
{
    struct fixture f;

    open_fixture(&f, 3);
    init_whose_transaction_is_late(&f, 64);
    leave_half_a_cluster(&f, 64);
    cr_assert(zero(uint, fake_release_late(f.fake)));
    close_fixture(&f);
}

Test(cluster_init, a_late_transaction_adds_no_shard_to_a_finished_cluster)
{
    struct fixture f;
    struct topology_config config = {.shards_count = 32, .replication_factor = 3, .min_in_sync = 2, .generation = 1};
    char key[KEY_MAX];

    open_fixture(&f, 3);
    leave_half_a_cluster(&f, 64);
    init_whose_transaction_is_late(&f, 64);
    key_config(key, "c");
    put(&f, key, value_config_print(&config));
    cr_assert(zero(uint, fake_release_late(f.fake)));
    close_fixture(&f);
}

/* Two at once, as compose files that start it twice would. */
static void another_run_finishes_first(struct fixture *f)
{
    struct cluster_made made;
    struct otr_errmsg msg = {0};
    const struct cluster_plan plan = {.nodes = 2, .shards = 4, .replication_factor = 2};

    f->on_progress = NULL;
    cr_assert(zero(int, cluster_init(&f->c, &plan, &made, NULL, NULL, &msg)), "%s", msg.text);
    put_live(f, "node-3");
}

Test(cluster_init, who_comes_second_changes_nothing)
{
    struct fixture f;
    struct cluster_made made;

    open_fixture(&f, 2);
    f.on_progress = another_run_finishes_first;
    cr_assert(zero(int, init(&f, (struct cluster_plan){.nodes = 3}, &made)), "%s", f.msg.text);
    cr_assert(not(made.created));
    assert_complete(&f, 4, 2);
    close_fixture(&f);
}

Test(cluster_init, a_key_that_cannot_be_read_stops_it)
{
    struct fixture f;
    struct cluster_made made;

    open_fixture(&f, 3);
    put(&f, "/outrigger/c/shards/0", strdup("{\"id\":1}"));
    cr_assert(eq(int, init(&f, (struct cluster_plan){.nodes = 3}, &made), OTR_PROTO));
    cr_assert(strstr(f.msg.text, "/outrigger/c/shards/0") != NULL, "%s", f.msg.text);
    close_fixture(&f);
}

Test(cluster_init, impossible_wishes_are_refused)
{
    struct fixture f;
    struct cluster_made made;

    open_fixture(&f, 2);
    cr_assert(eq(int, init(&f, (struct cluster_plan){.nodes = 2, .replication_factor = 3}, &made), OTR_INVALID));
    cr_assert(eq(int, init(&f, (struct cluster_plan){.nodes = 2, .min_in_sync = 3}, &made), OTR_INVALID));
    close_fixture(&f);
}
