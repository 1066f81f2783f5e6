#include "sidecar/cli/cluster_force.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>

/* Shard 0: a led, a and b were in sync, x and y are replicas, too. */
static const char answer[] =
    "{\"cluster\":\"c\",\"node\":\"x\",\"shards\":["
    "{\"id\":0,\"range\":[0,4294967295],\"epoch\":7,\"primary\":\"a\",\"in_sync\":[\"a\",\"b\"],"
    "\"replicas\":[\"a\",\"b\",\"x\",\"y\"],\"learners\":[\"x\",\"y\"],\"min_in_sync\":2,\"index\":9}],"
    "\"nodes\":[{\"id\":\"a\",\"live\":false},{\"id\":\"b\",\"live\":false},{\"id\":\"x\",\"live\":true},"
    "{\"id\":\"y\",\"live\":true}]}";

static struct cluster_view v;
static struct cluster_force_candidate candidates[OTR_REPLICAS_MAX];
static uint32_t count;
static struct otr_errmsg msg;

static void init(void)
{
    cr_assert(zero(int, cluster_view_from_json(&v, answer, &msg)), "%s", msg.text);
}

static void fini(void)
{
    cluster_view_close(&v);
}

static void own(const char *node, const char *state, unsigned last_epoch, unsigned last, unsigned known, unsigned kept)
{
    char text[512];

    snprintf(text, sizeof text,
             "{\"node\":\"%s\",\"self\":{\"shards\":[{\"id\":0,%s,\"committed\":1,\"last_epoch\":%u,\"last\":%u,"
             "\"known\":%u,\"kept\":%u}]}}",
             node, state, last_epoch, last, known, kept);
    cluster_view_take_own(&v, (uint32_t)cluster_view_node(&v, node), text);
}

static int look(void)
{
    cluster_view_settle(&v);
    return cluster_force_candidates(&v, 0, candidates, &count, &msg);
}

TestSuite(cluster_force, .init = init, .fini = fini);

/* What anybody knows to be committed counts for all; who loses least comes first. */
Test(cluster_force, the_best_candidate_comes_first)
{
    own("x", "\"role\":\"follower\",\"eligible\":false", 6, 40, 60, 40);
    own("y", "\"role\":\"follower\",\"eligible\":false", 6, 90, 70, 50);
    cr_assert(zero(int, look()), "%s", msg.text);
    cr_assert(eq(u32, count, 2));
    cr_assert(eq(str, v.nodes[candidates[0].node].name, "y"));
    cr_assert(eq(u64, candidates[0].loss, 20));
    cr_assert(eq(u64, candidates[1].loss, 30));
}

Test(cluster_force, of_equal_losses_the_longer_log)
{
    own("x", "\"role\":\"follower\",\"eligible\":false", 6, 40, 60, 60);
    own("y", "\"role\":\"follower\",\"eligible\":false", 7, 30, 60, 61);
    cr_assert(zero(int, look()), "%s", msg.text);
    cr_assert(eq(str, v.nodes[candidates[0].node].name, "y"));
    cr_assert(zero(u64, candidates[0].loss));
}

Test(cluster_force, nobody_while_a_member_lives)
{
    own("x", "\"role\":\"follower\",\"eligible\":false", 6, 40, 60, 40);
    own("b", "\"role\":\"follower\",\"eligible\":true", 7, 90, 60, 60);
    cr_assert(eq(int, look(), OTR_CONFLICT));
    cr_assert(zero(u32, count));
    cr_assert(eq(str, msg.text, "shard 0: b is in sync and lives: nothing needs to be lost"));
}

Test(cluster_force, nobody_while_somebody_leads)
{
    own("y", "\"role\":\"primary\",\"eligible\":true", 7, 90, 60, 60);
    cr_assert(eq(int, look(), OTR_CONFLICT));
}

/* It may be cut off from us, and take writes. */
Test(cluster_force, nobody_while_a_members_session_lives)
{
    own("x", "\"role\":\"follower\",\"eligible\":false", 6, 40, 60, 40);
    v.nodes[cluster_view_node(&v, "a")].live = true;
    cr_assert(eq(int, look(), OTR_CONFLICT));
    cr_assert(strstr(msg.text, "a is in sync and does not answer") != NULL, "%s", msg.text);
}

Test(cluster_force, without_an_answer_there_is_no_candidate)
{
    cr_assert(eq(int, look(), OTR_UNAVAIL));
    cr_assert(eq(int, cluster_force_candidates(&v, 5, candidates, &count, &msg), OTR_NOTFOUND));
}
