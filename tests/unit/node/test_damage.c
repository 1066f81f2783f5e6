/* What the disk loses while the nodes run: found, left out of the in-sync set, seeded anew; nobody misses a point. */
#include "lab.h"
#include "sidecar/io/clock.h"
#include "sidecar/node/node_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { POINTS = 120 };

static uint64_t fill(struct lab *lab)
{
    uint64_t c = lab_collection(lab, "things");

    for (int i = 0; i < POINTS; i++) {
        char id[32];
        snprintf(id, sizeof id, "the-point-%03d", i);
        cr_assert(eq(int, lab_put(lab, c, id, (float)i).status, 0));
    }
    lab_until(lab, lab_in_sync, NULL, "all are in sync");
    return c;
}

static void check(struct lab *lab, int i, uint64_t c)
{
    for (int k = 0; k < POINTS; k++) {
        char id[32];
        int status;
        snprintf(id, sizeof id, "the-point-%03d", k);
        cr_assert(epsilon_eq(flt, lab_get(lab, i, c, id, NODE_EVENTUAL, &status), (float)k, 0));
        cr_assert(eq(int, status, 0));
    }
}

struct victim {
    int node;
    uint64_t log_id;
    bool out; /* seen out of the in-sync set */
};

static struct victim victim(struct lab *lab, int i)
{
    return (struct victim){.node = i, .log_id = lab->nodes[i]->shards[0]->meta.log_id};
}

/* It was seeded, and is back; when it led, another does now. */
static bool healed(struct lab *lab, void *data)
{
    struct victim *v = data;
    struct shard *s = lab->nodes[v->node]->shards[0];
    struct replica_status status;
    int p = lab_primary(lab, 0);

    node_shard_status(lab->nodes[v->node], 0, &status);
    v->out = v->out || (s->damaged && !status.in_sync);
    return s->meta.log_id != v->log_id && !s->damaged && status.in_sync && p >= 0 && p != v->node &&
           lab_in_sync(lab, NULL) && s->stored >= lab->nodes[p]->shards[0]->stored;
}

static int follower(struct lab *lab)
{
    return (lab_primary(lab, 0) + 1) % LAB_NODES;
}

Test(damage, a_replica_whose_disk_lost_something_is_seeded_anew)
{
    struct lab lab;
    struct victim v;
    uint64_t c;

    lab_open_small(&lab, 1, true);
    c = fill(&lab);
    v = victim(&lab, follower(&lab));
    cr_assert(lab_damage(&lab, v.node, "the-point-007", false));
    lab_until(&lab, healed, &v, "the replica is found damaged, leaves, and is back");
    cr_assert(v.out);
    cr_assert(eq(u64, lab.nodes[v.node]->shards[0]->metrics.damage_found_total, 1));
    cr_assert(gt(u64, lab.nodes[v.node]->metrics.node.scrubbed_bytes_total, 8192));
    check(&lab, v.node, c);
    cr_assert(eq(int, lab_put(&lab, c, "more", 1).status, 0));
    lab_close(&lab);
}

Test(damage, a_damaged_primary_hands_over_and_is_seeded_anew)
{
    struct lab lab;
    struct victim v;
    uint64_t c;

    lab_open_small(&lab, 1, true);
    c = fill(&lab);
    v = victim(&lab, lab_primary(&lab, 0));
    cr_assert(lab_damage(&lab, v.node, "the-point-007", false));
    lab_until(&lab, healed, &v, "the primary hands over, leaves, and is back");
    check(&lab, v.node, c);
    lab_close(&lab);
}

static bool damage_known(struct lab *lab, void *data)
{
    return lab->nodes[((struct victim *)data)->node]->shards[0]->damaged;
}

static void on_searched(void *data, int status, const struct node_hit *hits, size_t count, const struct otr_errmsg *msg)
{
    (void)hits, (void)count, (void)msg;
    *(int *)data = status;
}

static bool answered(struct lab *lab, void *data)
{
    (void)lab;
    return *(int *)data >= 0;
}

/* Without scrubbing it is found by whoever reads it. */
Test(damage, a_read_that_meets_damage_has_the_replica_seeded_anew)
{
    for (int search = 0; search < 2; search++) {
        struct lab lab;
        struct victim v;
        int status;
        uint64_t c;

        lab_open_small(&lab, 1, false);
        c = fill(&lab);
        v.node = follower(&lab);
        lab_stop(&lab, v.node);
        lab_start(&lab, v.node); /* nothing of it is in memory any more */
        lab_until(&lab, lab_opened, NULL, "it is back");
        lab_until(&lab, lab_in_sync, NULL, "it is back in sync");
        v = victim(&lab, v.node);
        cr_assert(lab_damage(&lab, v.node, "the-point-007", false));
        if (search == 0) {
            cr_assert(isnan(lab_get(&lab, v.node, c, "the-point-007", NODE_EVENTUAL, &status)));
            cr_assert(eq(int, status, OTR_CORRUPT));
            cr_assert(epsilon_eq(flt, lab_get(&lab, v.node, c, "the-point-100", NODE_EVENTUAL, &status), 100, 0));
        } else {
            static const float vector[LAB_DIMENSION] = {7, 1, 0, 0};
            struct node_search ask = {.collection = c,
                                      .vector = vector,
                                      .dimension = LAB_DIMENSION,
                                      .k = 3,
                                      .consistency = NODE_EVENTUAL,
                                      .timeout_ms = 5000};
            cr_assert(eq(int, node_search(lab.nodes[v.node], &ask, on_searched, &status), 0));
            status = -1;
            lab_until(&lab, damage_known, &v, "the damage is met");
            lab_until(&lab, answered, &status, "the search has ended");
            cr_assert(eq(int, status, OTR_CORRUPT));
        }
        lab_until(&lab, healed, &v, "the replica leaves, and is back");
        check(&lab, v.node, c);
        lab_close(&lab);
    }
}

static bool alone(struct lab *lab, void *data)
{
    int p = lab_primary(lab, 0);
    struct replica_status status;

    (void)data;
    for (int i = 0; i < LAB_NODES; i++) {
        if (lab->nodes[i] != NULL && node_shard_status(lab->nodes[i], 0, &status) && status.role == REPLICA_PRIMARY &&
            status.in_sync && status.descriptor->in_sync_count == 1) {
            return true;
        }
    }
    return p >= 0 && false;
}

static bool late(struct lab *lab, void *data)
{
    (void)lab;
    return clock_now_ms() >= *(uint64_t *)data;
}

/* The last copy of all serves what can be read; and those that are to be seeded from it keep what they have until it is
 * clear that all of it can be read. */
Test(damage, the_last_copy_serves_on_and_nothing_is_given_up_for_it)
{
    struct lab lab;
    struct victim v;
    int other;
    int third;
    int status;
    uint64_t until;
    uint64_t c;

    lab_open_small(&lab, 1, false);
    c = fill(&lab);
    for (int i = 0; i < LAB_NODES; i++) {
        lab_stop(&lab, i);
    }
    for (int i = 0; i < LAB_NODES; i++) {
        lab_start(&lab, i); /* nothing of it is in memory any more */
    }
    lab_until(&lab, lab_opened, NULL, "all are back");
    lab_until(&lab, lab_in_sync, NULL, "all are in sync");
    v = victim(&lab, lab_primary(&lab, 0));
    other = (v.node + 1) % LAB_NODES;
    third = (v.node + 2) % LAB_NODES;
    lab_crash(&lab, third);
    cr_assert(lab_damage(&lab, other, "the-point-009", false));
    cr_assert(lab_damage(&lab, v.node, "the-point-007", false));
    /* Both are told at once: each of them has lost another point. */
    damage_met(lab.nodes[v.node]->shards[0], v.log_id, "a test");
    damage_met(lab.nodes[other]->shards[0], lab.nodes[other]->shards[0]->meta.log_id, "a test");
    lab_until(&lab, alone, NULL, "the primary is alone");
    until = clock_now_ms() + 300;
    lab_until(&lab, late, &until, "a while has passed");
    cr_assert(alone(&lab, NULL));
    cr_assert(eq(u64, store_count_all(lab.nodes[other]->shards[0]->store), POINTS));
    cr_assert(lab.nodes[v.node]->shards[0]->damaged);
    cr_assert(epsilon_eq(flt, lab_get(&lab, v.node, c, "the-point-100", NODE_LINEARIZABLE, &status), 100, 0));
    cr_assert(eq(int, status, 0));
    lab_close(&lab);
}
