#include "sidecar/core/placement.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

enum { NODES_MAX = 16 };

TestSuite(placement, .timeout = 60);

struct spread {
    uint32_t replicas_least, replicas_most;
    uint32_t firsts_least, firsts_most;
};

static struct descriptor shards[OTR_SHARDS_MAX];

/* Nodes 1.., zones by turns out of zones_count; 0: unknown. */
static void place(uint32_t nodes_count, uint32_t zones_count, uint32_t replicas, uint32_t shards_count)
{
    struct placement_node nodes[NODES_MAX];
    static const char *const zones[] = {"a", "b", "c", "d"};
    struct otr_errmsg msg = {0};

    for (uint32_t i = 0; i < nodes_count; i++) {
        nodes[i] = (struct placement_node){.node = i + 1, .zone = zones_count == 0 ? "" : zones[i % zones_count]};
    }
    cr_assert(zero(int, placement_initial(nodes, nodes_count, replicas, shards_count, 1, 120, 5, shards, &msg)), "%s",
              msg.text);
}

static struct spread spread_of(uint32_t nodes_count, uint32_t shards_count)
{
    uint32_t replicas[NODES_MAX + 1] = {0};
    uint32_t firsts[NODES_MAX + 1] = {0};
    struct spread s = {UINT32_MAX, 0, UINT32_MAX, 0};

    for (uint32_t i = 0; i < shards_count; i++) {
        firsts[shards[i].replicas[0]]++;
        for (uint32_t j = 0; j < shards[i].replicas_count; j++) {
            replicas[shards[i].replicas[j]]++;
        }
    }
    for (uint32_t n = 1; n <= nodes_count; n++) {
        s.replicas_least = replicas[n] < s.replicas_least ? replicas[n] : s.replicas_least;
        s.replicas_most = replicas[n] > s.replicas_most ? replicas[n] : s.replicas_most;
        s.firsts_least = firsts[n] < s.firsts_least ? firsts[n] : s.firsts_least;
        s.firsts_most = firsts[n] > s.firsts_most ? firsts[n] : s.firsts_most;
    }
    return s;
}

/* However many nodes, replicas and shards: nobody has two more than another, neither replicas nor primaries. */
Test(placement, replicas_and_first_replicas_are_spread_evenly)
{
    static const uint32_t shard_counts[] = {1, 2, 3, 4, 7, 16, 64, 100};

    for (uint32_t nodes = 1; nodes <= 12; nodes++) {
        for (uint32_t replicas = 1; replicas <= nodes && replicas <= OTR_REPLICAS_MAX; replicas++) {
            for (size_t i = 0; i < sizeof shard_counts / sizeof shard_counts[0]; i++) {
                struct spread s;

                place(nodes, 0, replicas, shard_counts[i]);
                s = spread_of(nodes, shard_counts[i]);
                cr_assert(s.replicas_most - s.replicas_least <= 1 && s.firsts_most - s.firsts_least <= 1,
                          "%u nodes, %u replicas, %u shards: replicas %u..%u, firsts %u..%u", nodes, replicas,
                          shard_counts[i], s.replicas_least, s.replicas_most, s.firsts_least, s.firsts_most);
            }
        }
    }
}

Test(placement, a_shard_has_different_nodes)
{
    place(5, 0, 3, 16);
    for (int i = 0; i < 16; i++) {
        const otr_node *r = shards[i].replicas;

        cr_assert(r[0] != r[1] && r[0] != r[2] && r[1] != r[2]);
    }
}

/* Ranges follow each other without gap from the first hash to the last, and differ by one hash at most. */
Test(placement, ranges_cover_the_hash_space)
{
    static const uint32_t counts[] = {1, 2, 3, 7, 16, 1000, OTR_SHARDS_MAX};

    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        uint32_t n = counts[c];

        place(3, 0, 3, n);
        cr_assert(eq(u32, shards[0].hash_first, 0));
        cr_assert(eq(u32, shards[n - 1].hash_last, UINT32_MAX));
        for (uint32_t i = 0; i < n; i++) {
            uint64_t bytes = (uint64_t)shards[i].hash_last - shards[i].hash_first + 1;

            cr_assert(eq(u32, shards[i].shard, i));
            cr_assert(i == 0 || shards[i].hash_first == shards[i - 1].hash_last + 1);
            cr_assert(bytes == (UINT64_C(1) << 32) / n || bytes == (UINT64_C(1) << 32) / n + 1);
        }
    }
}

/* As far as there are zones, a zone that is lost takes one replica of a shard with it. */
Test(placement, zones_are_kept_apart)
{
    struct spread s;

    place(6, 3, 3, 16);
    for (int i = 0; i < 16; i++) {
        bool seen[3] = {false};

        for (int j = 0; j < 3; j++) {
            uint32_t zone = (shards[i].replicas[j] - 1) % 3;

            cr_assert(not(seen[zone]));
            seen[zone] = true;
        }
    }
    s = spread_of(6, 16);
    cr_assert(le(u32, s.replicas_most - s.replicas_least, 1));
    /* More replicas than zones: both are used. */
    place(4, 2, 3, 8);
    for (int i = 0; i < 8; i++) {
        uint32_t in_first = 0;

        for (int j = 0; j < 3; j++) {
            in_first += (shards[i].replicas[j] - 1) % 2 == 0;
        }
        cr_assert(in_first == 1 || in_first == 2);
    }
}

/* The shards of a dead node have their other replicas on many nodes, not on one. */
Test(placement, partners_are_mixed)
{
    bool partner[NODES_MAX + 1] = {false};
    uint32_t partners = 0;

    place(6, 0, 2, 60);
    for (int i = 0; i < 60; i++) {
        const otr_node *r = shards[i].replicas;

        if (r[0] == 1 || r[1] == 1) {
            partner[r[0] == 1 ? r[1] : r[0]] = true;
        }
    }
    for (int n = 2; n <= 6; n++) {
        partners += partner[n];
    }
    cr_assert(eq(u32, partners, 5));
}

Test(placement, descriptors_are_those_of_a_shard_that_nobody_led)
{
    const struct descriptor *d = &shards[3];

    place(3, 0, 3, 4);
    cr_assert(eq(u64, d->epoch, 0));
    cr_assert(eq(u64, d->version, 1));
    cr_assert(eq(u64, d->generation, 5));
    cr_assert(eq(u32, d->in_sync_count, 0));
    cr_assert(eq(u32, d->primary, OTR_NODE_NONE));
    cr_assert(eq(u32, d->replicas_count, 3));
    cr_assert(eq(int, (int)d->mode, REPLICA_SYNC));
    cr_assert(eq(u32, d->min_in_sync, 1));
    cr_assert(eq(u32, d->grant_ms, 120));
}

Test(placement, impossible_counts_are_refused_with_words)
{
    static const struct {
        uint32_t nodes, replicas, shards, min_in_sync, grant_ms;
        const char *words;
    } cases[] = {
        {3, 0, 4, 1, 120, "replication factor is 0"},
        {12, 8, 4, 1, 120, "replication factor is 8"},
        {3, 3, 0, 1, 120, "number of shards is 0"},
        {3, 3, OTR_SHARDS_MAX + 1, 1, 120, "number of shards is 4097"},
        {3, 3, 4, 0, 120, "min_in_sync is 0"},
        {3, 3, 4, 4, 120, "min_in_sync is 4"},
        {2, 3, 4, 2, 120, "there are 2"},
        {3, 3, 4, 2, 0, "grant_ms"},
    };
    struct placement_node nodes[NODES_MAX];

    for (uint32_t i = 0; i < NODES_MAX; i++) {
        nodes[i] = (struct placement_node){.node = i + 1, .zone = ""};
    }
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct otr_errmsg msg = {0};
        int rv = placement_initial(nodes, cases[i].nodes, cases[i].replicas, cases[i].shards, cases[i].min_in_sync,
                                   cases[i].grant_ms, 1, shards, &msg);

        cr_assert(eq(int, rv, OTR_INVALID));
        cr_assert(strstr(msg.text, cases[i].words) != NULL, "%s", msg.text);
    }
}

Test(placement, the_largest_cluster_is_placed_in_time)
{
    struct placement_node *nodes = calloc(OTR_NODES_MAX, sizeof *nodes);

    for (uint32_t i = 0; i < OTR_NODES_MAX; i++) {
        nodes[i] = (struct placement_node){.node = i + 1, .zone = i % 2 != 0 ? "a" : "b"};
    }
    cr_assert(zero(int, placement_initial(nodes, OTR_NODES_MAX, 3, OTR_SHARDS_MAX, 2, 120, 1, shards, NULL)));
    free(nodes);
}

Test(placement, a_node_given_twice_is_our_bug, .signal = SIGABRT)
{
    const struct placement_node nodes[2] = {{1, ""}, {1, ""}};

    (void)placement_initial(nodes, 2, 1, 1, 1, 120, 1, shards, NULL);
}
