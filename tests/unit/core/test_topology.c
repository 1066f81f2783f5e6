#include "sidecar/core/topology.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>

static struct descriptor range(otr_shard shard, uint32_t first, uint32_t last)
{
    return (struct descriptor){.shard = shard, .hash_first = first, .hash_last = last, .replicas_count = 1};
}

static void set(struct topology *t, otr_shard shard, uint32_t first, uint32_t last)
{
    struct descriptor d = range(shard, first, last);

    cr_assert(zero(int, topology_shard_set(t, &d, 1)));
}

/* The shard of a hash, or -1. */
static int route(const struct topology *t, uint64_t hash)
{
    otr_shard shard;

    return topology_route(t, hash, &shard) ? (int)shard : -1;
}

Test(topology, a_name_keeps_its_number)
{
    struct topology *t = topology_new();

    cr_assert(eq(u32, topology_intern(t, "node-1"), 1));
    cr_assert(eq(u32, topology_intern(t, "node-2"), 2));
    cr_assert(eq(u32, topology_intern(t, "node-1"), 1));
    cr_assert(eq(u32, topology_nodes_count(t), 2));
    cr_assert(eq(str, (char *)topology_name(t, 2), "node-2"));
    cr_assert(eq(str, (char *)topology_name(t, 3), "?"));
    cr_assert(eq(str, (char *)topology_name(t, OTR_NODE_NONE), "?"));
    cr_assert(zero(ptr, topology_node(t, 3)));
    cr_assert(zero(ptr, topology_node(t, OTR_NODE_NONE)));
    topology_free(t);
}

Test(topology, numbers_end_without_losing_the_names_given)
{
    struct topology *t = topology_new();
    char name[16];

    for (int i = 1; i <= OTR_NODES_MAX; i++) {
        snprintf(name, sizeof name, "n%d", i);
        cr_assert(eq(u32, topology_intern(t, name), (uint32_t)i));
    }
    cr_assert(eq(u32, topology_intern(t, "one-more"), OTR_NODE_NONE));
    for (int i = 1; i <= OTR_NODES_MAX; i++) {
        snprintf(name, sizeof name, "n%d", i);
        cr_assert(eq(u32, topology_intern(t, name), (uint32_t)i));
    }
    topology_free(t);
}

Test(topology, a_node_stays_where_it_is_when_others_come)
{
    struct topology *t = topology_new();
    struct topology_node *first = topology_node(t, topology_intern(t, "first"));
    char name[16];

    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "n%d", i);
        topology_intern(t, name);
    }
    cr_assert(eq(ptr, topology_node(t, 1), first));
    topology_free(t);
}

Test(topology, route_finds_the_shard_of_both_ends_of_a_range)
{
    struct topology *t = topology_new();

    set(t, 2, 0x80000000, 0xBFFFFFFF);
    set(t, 0, 0, 0x3FFFFFFF);
    set(t, 3, 0xC0000000, 0xFFFFFFFF);
    cr_assert(eq(int, route(t, 0), 0));
    cr_assert(eq(int, route(t, 0x3FFFFFFF), 0));
    cr_assert(eq(int, route(t, 0x40000000), -1));
    cr_assert(eq(int, route(t, 0x7FFFFFFF), -1));
    cr_assert(eq(int, route(t, 0x80000000), 2));
    cr_assert(eq(int, route(t, 0xFFFFFFFF), 3));
    /* Only the low half of a point's hash routes. */
    cr_assert(eq(int, route(t, UINT64_C(0x1234567800000000)), 0));
    topology_free(t);
}

Test(topology, route_follows_changed_ranges)
{
    struct topology *t = topology_new();

    set(t, 0, 0, UINT32_MAX);
    cr_assert(eq(int, route(t, 0xF0000000), 0));
    /* A split: for a moment both ranges cover the upper half, and the new shard has it. */
    set(t, 1, 0x80000000, UINT32_MAX);
    cr_assert(eq(int, route(t, 0xF0000000), 1));
    cr_assert(eq(int, route(t, 0x70000000), 0));
    set(t, 0, 0, 0x7FFFFFFF);
    cr_assert(eq(int, route(t, 0xF0000000), 1));
    topology_shard_forget(t, 1);
    cr_assert(eq(int, route(t, 0xF0000000), -1));
    cr_assert(eq(int, route(t, 0x70000000), 0));
    topology_free(t);
}

/* The range that covers may begin before others that do not. */
Test(topology, route_looks_past_a_range_inside_another)
{
    struct topology *t = topology_new();

    set(t, 0, 0, UINT32_MAX);
    set(t, 1, 100, 200);
    cr_assert(eq(int, route(t, 150), 1));
    cr_assert(eq(int, route(t, 201), 0));
    topology_free(t);
}

Test(topology, shards_count_is_that_of_the_known_ones)
{
    struct topology *t = topology_new();

    cr_assert(eq(u32, topology_shards_count(t), 0));
    cr_assert(zero(ptr, topology_shard(t, 5)));
    set(t, 5, 0, 1);
    set(t, 2, 2, 3);
    cr_assert(eq(u32, topology_shards_count(t), 6));
    topology_shard_forget(t, 5);
    topology_shard_forget(t, 5);
    cr_assert(eq(u32, topology_shards_count(t), 3));
    cr_assert(not(topology_shard(t, 5)->known));
    topology_free(t);
}

Test(topology, a_lease_needs_no_descriptor)
{
    struct topology *t = topology_new();
    struct topology_lease lease = {.present = true, .node = 1, .epoch = 9};
    struct descriptor too_far = range(OTR_SHARDS_MAX, 0, 1);

    cr_assert(zero(int, topology_lease_set(t, 4, &lease)));
    cr_assert(not(topology_shard(t, 4)->known));
    cr_assert(eq(u32, topology_shards_count(t), 0));
    set(t, 4, 0, 1);
    cr_assert(eq(u64, topology_shard(t, 4)->lease.epoch, 9));
    cr_assert(eq(int, topology_lease_set(t, OTR_SHARDS_MAX, &lease), OTR_INVALID));
    cr_assert(eq(int, topology_shard_set(t, &too_far, 1), OTR_INVALID));
    topology_free(t);
}

static struct topology_collection collection(const char *name, uint64_t id)
{
    struct topology_collection c = {.id = id, .dimension = 3, .metric = OTR_METRIC_COSINE};

    strcpy(c.name, name);
    return c;
}

Test(topology, collections_are_found_by_name_and_id_and_listed_by_name)
{
    struct topology *t = topology_new();
    char name[16];

    for (unsigned i = 0; i < 50; i++) {
        struct topology_collection c;

        snprintf(name, sizeof name, "c%02u", (i * 37) % 50);
        c = collection(name, UINT64_C(1) << 63 | (i * 11) % 50);
        cr_assert(zero(int, topology_collection_set(t, &c)));
    }
    cr_assert(eq(u32, topology_collections_count(t), 50));
    for (uint32_t i = 0; i < 50; i++) {
        const struct topology_collection *c = topology_collection_at(t, i);

        snprintf(name, sizeof name, "c%02u", i);
        cr_assert(eq(str, (char *)c->name, name));
        cr_assert(eq(ptr, (void *)topology_collection(t, name), (void *)c));
        cr_assert(eq(ptr, (void *)topology_collection_by_id(t, c->id), (void *)c));
    }
    cr_assert(zero(ptr, (void *)topology_collection_at(t, 50)));
    cr_assert(zero(ptr, (void *)topology_collection(t, "c")));
    cr_assert(zero(ptr, (void *)topology_collection_by_id(t, 50)));
    topology_free(t);
}

/* A name that was dropped and made again is another collection (codec.h). */
Test(topology, a_collection_made_again_has_only_its_new_id)
{
    struct topology *t = topology_new();
    struct topology_collection c = collection("c", 7);

    cr_assert(zero(int, topology_collection_set(t, &c)));
    c.dimension = 5;
    cr_assert(zero(int, topology_collection_set(t, &c)));
    cr_assert(eq(u32, topology_collection_by_id(t, 7)->dimension, 5));
    c.id = 3;
    cr_assert(zero(int, topology_collection_set(t, &c)));
    cr_assert(eq(u32, topology_collections_count(t), 1));
    cr_assert(zero(ptr, (void *)topology_collection_by_id(t, 7)));
    cr_assert(eq(u64, topology_collection(t, "c")->id, 3));
    c = collection("other", 3);
    cr_assert(eq(int, topology_collection_set(t, &c), OTR_EXISTS));
    topology_collection_forget(t, "other");
    topology_collection_forget(t, "c");
    cr_assert(eq(u32, topology_collections_count(t), 0));
    cr_assert(zero(ptr, (void *)topology_collection_by_id(t, 3)));
    topology_free(t);
}
