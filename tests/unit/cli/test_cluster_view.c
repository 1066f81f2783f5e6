#include "sidecar/cli/cluster_view.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

static const char answer[] =
    "{\"cluster\":\"c\",\"node\":\"a\",\"shards\":["
    "{\"id\":0,\"range\":[0,2147483647],\"epoch\":7,\"primary\":\"a\",\"in_sync\":[\"a\",\"b\"],"
    "\"replicas\":[\"a\",\"b\",\"x\"],\"learners\":[\"x\"],\"min_in_sync\":2,\"index\":9},"
    "{\"id\":3,\"range\":[2147483648,4294967295],\"epoch\":0,\"primary\":null,\"in_sync\":[],"
    "\"replicas\":[\"b\"],\"learners\":[],\"index\":null}],"
    "\"nodes\":[{\"id\":\"a\",\"state\":\"active\",\"live\":true,\"client\":\"127.0.0.1:1\",\"peer\":null},"
    "{\"id\":\"b\",\"state\":\"draining\",\"live\":true,\"client\":\"127.0.0.1:2\",\"peer\":\"127.0.0.1:3\"}]}";

/* "self" of a node that has replicas of shards 0 and 3. */
static void own(struct cluster_view *v, uint32_t node, const char *role, unsigned committed)
{
    char text[512];

    snprintf(text, sizeof text,
             "{\"node\":\"%s\",\"self\":{\"shards\":[{\"id\":0,\"role\":\"%s\",\"committed\":%u,\"damaged\":true},"
             "{\"id\":99,\"role\":\"primary\",\"committed\":1},{\"id\":0},7]}}",
             v->nodes[node].name, role, committed);
    cluster_view_take_own(v, node, text);
}

static void read_answer(struct cluster_view *v)
{
    struct otr_errmsg msg = {0};

    *v = (struct cluster_view){.shards = NULL};
    cr_assert(zero(int, cluster_view_from_json(v, answer, &msg)), "%s", msg.text);
}

Test(cluster_view, of_a_sidecars_answer)
{
    struct cluster_view v;

    read_answer(&v);
    cluster_view_settle(&v);
    cr_assert(eq(str, v.cluster, "c"));
    cr_assert(eq(u32, v.shards_count, 2));
    cr_assert(eq(u32, v.shards[1].id, 3));
    cr_assert(eq(u32, v.shards[1].hash_first, 0x80000000));
    cr_assert(eq(u64, v.shards[0].epoch, 7));
    cr_assert(eq(str, v.nodes[v.shards[0].primary].name, "a"));
    cr_assert(eq(int, v.shards[1].primary, -1));
    cr_assert(eq(u32, v.shards[0].min_in_sync, 2));
    cr_assert(eq(u32, v.shards[1].min_in_sync, 1)); /* not said: the default of one replica */
    cr_assert(eq(u32, v.nodes_count, 3));
    cr_assert(v.nodes[cluster_view_node(&v, "b")].draining);
    cr_assert(not(v.nodes[cluster_view_node(&v, "x")].known)); /* only the descriptor names it */
    cr_assert(eq(u32, v.nodes[cluster_view_node(&v, "b")].shards, 2));
    cr_assert(eq(u32, v.nodes[cluster_view_node(&v, "a")].primaries, 1));
    cr_assert(eq(str, v.nodes[0].peer, ""));
    cluster_view_close(&v);
}

/* The highest committed index that anybody says counts; of others nothing is known. */
Test(cluster_view, positions_come_from_the_nodes_themselves)
{
    struct cluster_view v;

    read_answer(&v);
    own(&v, (uint32_t)cluster_view_node(&v, "a"), "primary", 120);
    own(&v, (uint32_t)cluster_view_node(&v, "b"), "follower", 100);
    cluster_view_settle(&v);
    cr_assert(v.shards[0].index_known);
    cr_assert(eq(u64, v.shards[0].index, 120));
    cr_assert(not(v.shards[1].index_known));
    cr_assert(eq(u64, v.nodes[cluster_view_node(&v, "b")].own[0].committed, 100));
    cr_assert(v.nodes[cluster_view_node(&v, "b")].own[0].damaged);
    cr_assert(not(v.nodes[cluster_view_node(&v, "b")].own[1].damaged));
    cr_assert(zero(ptr, (void *)cluster_view_problem(&v.shards[0])));
    cluster_view_close(&v);
}

/* The descriptor still names a primary, but that node's process says that it does not lead: it is a new one. */
Test(cluster_view, a_primary_that_does_not_lead_is_none)
{
    struct cluster_view v;

    read_answer(&v);
    own(&v, (uint32_t)cluster_view_node(&v, "a"), "follower", 120);
    cluster_view_settle(&v);
    cr_assert(eq(int, v.shards[0].primary, -1));
    cr_assert(eq(str, (char *)cluster_view_problem(&v.shards[0]), "no primary"));
    cluster_view_close(&v);
}

Test(cluster_view, a_silent_primary_counts_as_long_as_its_session)
{
    struct cluster_view v;

    read_answer(&v);
    v.nodes[cluster_view_node(&v, "a")].live = false;
    cluster_view_settle(&v);
    cr_assert(eq(int, v.shards[0].primary, -1));
    cluster_view_close(&v);
}

Test(cluster_view, too_few_in_sync_is_a_problem)
{
    struct cluster_view v;

    read_answer(&v);
    v.shards[0].in_sync_count = 1;
    cluster_view_settle(&v);
    cr_assert(eq(str, (char *)cluster_view_problem(&v.shards[0]), "too few in sync"));
    cluster_view_close(&v);
}

/* An address that another node has taken over meanwhile. */
Test(cluster_view, an_answer_of_somebody_else_is_left_out)
{
    struct cluster_view v;

    read_answer(&v);
    cluster_view_take_own(&v, (uint32_t)cluster_view_node(&v, "a"), "{\"node\":\"b\",\"self\":{\"shards\":[]}}");
    cr_assert(not(v.nodes[cluster_view_node(&v, "a")].answered));
    cluster_view_take_own(&v, (uint32_t)cluster_view_node(&v, "a"), "nonsense");
    cr_assert(not(v.nodes[cluster_view_node(&v, "a")].answered));
    cluster_view_close(&v);
}

Test(cluster_view, garbage_is_refused)
{
    static const char *const garbage[] = {
        "",
        "[]",
        "{}",
        "{\"cluster\":7}",
        "{\"cluster\":\"c\",\"shards\":[7]}",
        "{\"cluster\":\"c\",\"shards\":[{\"id\":-1}]}",
        "{\"cluster\":\"c\",\"shards\":[{\"id\":0,\"epoch\":1,\"range\":[0],\"in_sync\":[],\"replicas\":[]}]}",
        "{\"cluster\":\"c\",\"shards\":[{\"id\":0,\"epoch\":1,\"range\":[0,1],\"in_sync\":[7],\"replicas\":[]}]}",
        "{\"cluster\":\"c\",\"shards\":[{\"id\":0,\"epoch\":1,\"range\":[0,1],\"in_sync\":[],\"replicas\":"
        "[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\"]}]}",
        "{\"cluster\":\"c\",\"shards\":[],\"nodes\":[{\"id\":\"a b\"}]}",
    };

    for (size_t i = 0; i < sizeof garbage / sizeof garbage[0]; i++) {
        struct cluster_view v = {.shards = NULL};
        struct otr_errmsg msg = {0};

        cr_assert(eq(int, cluster_view_from_json(&v, garbage[i], &msg), OTR_PROTO), "%s", garbage[i]);
        cr_assert(strlen(msg.text) > 0);
        cluster_view_close(&v);
    }
}

Test(cluster_view, of_the_coordinators_keys)
{
    struct topology *t = topology_new();
    struct cluster_view v = {.shards = NULL};
    struct descriptor d = {.shard = 0,
                           .hash_last = UINT32_MAX,
                           .epoch = 4,
                           .incarnation = 11,
                           .in_sync_count = 2,
                           .replicas_count = 2,
                           .min_in_sync = 2};
    struct topology_node *b;

    d.replicas[0] = topology_intern(t, "a");
    d.replicas[1] = topology_intern(t, "b");
    d.in_sync[0].node = d.replicas[0];
    d.in_sync[1].node = d.replicas[1];
    d.primary = d.replicas[1];
    b = topology_node(t, d.primary);
    b->live = true;
    b->incarnation = 11;
    b->client = (struct topology_address){"::1", 7700, .tls = false};
    cr_assert(zero(int, topology_shard_set(t, &d, 1)));
    cr_assert(zero(int, cluster_view_from_topology(&v, t)));
    cluster_view_settle(&v);
    cr_assert(eq(str, v.nodes[v.shards[0].primary].name, "b"));
    cr_assert(eq(str, v.nodes[v.shards[0].primary].client, "[::1]:7700"));
    cluster_view_close(&v);
    b->client.tls = true;
    cr_assert(zero(int, cluster_view_from_topology(&v, t)));
    cr_assert(eq(str, v.nodes[1].client, "https://[::1]:7700"));
    cluster_view_close(&v);
    /* Restarted: the node lives, but its process is not the one that leads (PROTOCOL E1). */
    b->incarnation = 12;
    cr_assert(zero(int, cluster_view_from_topology(&v, t)));
    cluster_view_settle(&v);
    cr_assert(eq(int, v.shards[0].primary, -1));
    cluster_view_close(&v);
    topology_free(t);
}
