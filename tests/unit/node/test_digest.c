/* Replicas that differ from their primary are found out and repaired, with no more than what differs. */
#include "lab.h"
#include "sidecar/io/clock.h"
#include "sidecar/node/node_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { POINTS = 400 };

static uint64_t fill(struct lab *lab)
{
    uint64_t c = lab_collection(lab, "things");

    for (int i = 0; i < POINTS; i++) {
        char id[32];
        snprintf(id, sizeof id, "p%d", i);
        cr_assert(eq(int, lab_put(lab, c, id, (float)i).status, 0));
    }
    lab_until(lab, lab_in_sync, NULL, "all are in sync");
    return c;
}

struct victim {
    int node;
    uint64_t compared;
    size_t before; /* ranges that differed */
};

static size_t ranges_differing(struct lab *lab, int node)
{
    struct store *ours = lab->nodes[node]->shards[0]->store;
    struct store *right = lab->nodes[lab_primary(lab, 0)]->shards[0]->store;
    size_t count = 0;

    for (size_t i = 0; i < STORE_RANGES; i++) {
        count += store_digests(ours)[i] != store_digests(right)[i];
    }
    return count;
}

static bool level(struct lab *lab, void *data)
{
    int p = lab_primary(lab, 0);

    return p >= 0 && lab_in_sync(lab, NULL) &&
           lab->nodes[*(int *)data]->shards[0]->stored == lab->nodes[p]->shards[0]->stored;
}

static bool compared(struct lab *lab, void *data)
{
    struct victim *v = data;
    return lab->nodes[v->node]->shards[0]->metrics.digests_compared_total > v->compared;
}

static bool equal(struct lab *lab, void *data)
{
    struct victim *v = data;
    return lab_primary(lab, 0) >= 0 && level(lab, &v->node) && ranges_differing(lab, v->node) == 0 &&
           !lab->nodes[v->node]->shards[0]->digest.holding;
}

/* Nobody waits for repairs to be durable: what a stop comes too early for is found and repaired once more. */
static bool on_disk(struct lab *lab, void *data)
{
    return journal_pending_bytes(lab->nodes[*(int *)data]->journal) == 0;
}

static bool repairing(struct lab *lab, void *data)
{
    struct victim *v = data;
    return lab->nodes[v->node]->shards[0]->metrics.ranges_repaired_total >= 3;
}

/* What the range holds, durably, is nothing from now on: as a bug might have it. */
static void lose_range(struct lab *lab, int node, const char *id)
{
    struct shard *s = lab->nodes[node]->shards[0];
    uint32_t range = (uint32_t)store_range_of(point_hash(id, strlen(id)));
    _Alignas(8) uint8_t nothing[PUT_HEADER_BYTES];
    journal_place place;

    put_body_write(nothing, 0, NULL, 0);
    cr_assert(eq(
        int, journal_repair_points(s->node->journal, 0, s->stored, range, false, nothing, sizeof nothing, &place), 0));
    cr_assert(eq(int, digest_take_part(s, s->stored, range, false, nothing, sizeof nothing, place), 0));
    cr_assert(eq(int, digest_applied(s), 0));
}

static void delete_from_store(struct lab *lab, int node, uint64_t collection, const char *id)
{
    struct otr_point p = {.id = id, .id_bytes = (uint16_t)strlen(id)};
    struct record_header h = {.kind = RECORD_DELETE};
    _Alignas(8) uint8_t body[64];

    h.body_bytes = (uint32_t)delete_body_bytes(&p, 1);
    delete_body_write(body, collection, &p, 1);
    cr_assert(eq(
        int,
        store_apply(lab->nodes[node]->shards[0]->store, &h, body, 8, apply_same_id, lab->nodes[node]->shards[0], NULL),
        0));
}

static void put_into_store(struct lab *lab, int node, uint64_t collection, const char *id, journal_place place)
{
    static const float vector[LAB_DIMENSION] = {9, 9, 9, 9};
    struct otr_point p = {.id = id, .id_bytes = (uint16_t)strlen(id), .vector = vector, .dimension = LAB_DIMENSION};
    _Alignas(8) uint8_t body[256];

    put_body_write(body, collection, &p, 1);
    cr_assert(eq(int,
                 store_apply_seed(lab->nodes[node]->shards[0]->store, body, put_body_bytes(&p, 1), place, apply_same_id,
                                  lab->nodes[node]->shards[0]),
                 0));
}

static struct victim follower(struct lab *lab)
{
    struct victim v = {.node = (lab_primary(lab, 0) + 1) % LAB_NODES};

    lab_until(lab, level, &v.node, "the follower has applied all");
    return v;
}

static void check_all(struct lab *lab, int node, uint64_t c)
{
    for (int i = 0; i < POINTS; i++) {
        char id[32];
        int status;
        snprintf(id, sizeof id, "p%d", i);
        cr_assert(epsilon_eq(flt, lab_get(lab, node, c, id, NODE_EVENTUAL, &status), (float)i, 0), "%s", id);
    }
}

/* Equal replicas are compared again and again, and nothing is exchanged. */
Test(digest, equal_replicas_are_compared_and_left_alone)
{
    struct lab lab;
    struct victim v;

    lab_open(&lab, 1);
    fill(&lab);
    v = follower(&lab);
    for (int i = 0; i < 2; i++) {
        v.compared = lab.nodes[v.node]->shards[0]->metrics.digests_compared_total;
        lab_until(&lab, compared, &v, "a comparison");
    }
    cr_assert(eq(u64, lab.nodes[v.node]->shards[0]->metrics.digest_mismatches_total, 0));
    cr_assert(eq(u64, lab.nodes[v.node]->shards[0]->metrics.repair_bytes_total, 0));
    lab_close(&lab);
}

/* One point missing, one too much: two ranges are sent, and these alone. */
Test(digest, only_the_ranges_that_differ_are_sent)
{
    struct lab lab;
    struct victim v;
    struct shard *s;
    struct store_snapshot *snap;
    struct store_ranges ranges = {{0}};
    uint64_t c;
    float x;
    int status;

    lab_open(&lab, 1);
    c = fill(&lab);
    v = follower(&lab);
    s = lab.nodes[v.node]->shards[0];
    delete_from_store(&lab, v.node, c, "p7");
    put_into_store(&lab, v.node, c, "nobody", journal_place_of(s->node->journal, 0, s->stored));
    v.before = ranges_differing(&lab, v.node);
    cr_assert(eq(sz, v.before, 2));
    for (size_t i = 0; i < 2; i++) {
        const char *id = i == 0 ? "p7" : "nobody";
        store_ranges_add(&ranges, store_range_of(point_hash(id, strlen(id))));
    }
    snap = store_snapshot_ranges(lab.nodes[lab_primary(&lab, 0)]->shards[0]->store, &ranges);
    lab_until(&lab, equal, &v, "the replica is repaired");
    cr_assert(eq(u64, s->metrics.digest_mismatches_total, 1));
    cr_assert(eq(u64, s->metrics.ranges_repaired_total, 2));
    /* Points of "p123" take 24 + 16 + 8 bytes; each of the two messages has its head. */
    cr_assert(le(u64, s->metrics.repair_bytes_total, snap->count * 56 + 2 * PUT_HEADER_BYTES));
    cr_assert(lt(u64, s->metrics.repair_bytes_total, POINTS * 48 / 20));
    store_snapshot_free(snap);
    x = lab_get(&lab, v.node, c, "nobody", NODE_EVENTUAL, &status);
    cr_assert(isnan(x));
    check_all(&lab, v.node, c);
    lab_close(&lab);
}

static void at_each_turn(uv_prepare_t *turn)
{
    const struct shard *s = turn->data;

    cr_assert(not(s->digest.holding && s->stored > s->digest.hold));
}

/* The primary's range is as of some entry: while ranges are repaired nothing is applied behind it, and then all that
 * came meanwhile is. */
Test(digest, nothing_is_applied_while_ranges_are_repaired)
{
    struct lab lab;
    struct victim v;
    struct shard *s;
    uv_prepare_t turn;
    uint64_t c;

    lab_open(&lab, 1);
    c = fill(&lab);
    v = follower(&lab);
    s = lab.nodes[v.node]->shards[0];
    for (int i = 0; i < POINTS; i++) {
        char id[32];
        snprintf(id, sizeof id, "p%d", i);
        lose_range(&lab, v.node, id);
    }
    lab_until(&lab, repairing, &v, "the repair is in its midst");
    cr_assert(eq(int, uv_prepare_init(&lab.loop, &turn), 0));
    turn.data = s;
    cr_assert(eq(int, uv_prepare_start(&turn, at_each_turn), 0));
    for (int i = 0; i < 1000 && s->digest.holding; i++) {
        cr_assert(eq(int, lab_put(&lab, c, "later", (float)i).status, 0));
    }
    uv_close((uv_handle_t *)&turn, NULL);
    cr_assert(not(s->digest.holding));
    lab_until(&lab, level, &v.node, "the follower has applied all");
    lab_until(&lab, equal, &v, "the replica is repaired");
    check_all(&lab, v.node, c);
    lab_close(&lab);
}

/* What a repair made of a range, right or wrong, is there after a restart; and while writes go on it ends all the same.
 */
Test(digest, repairs_are_durable_and_survive_a_crash_in_their_midst)
{
    struct lab lab;
    struct victim v;
    uint64_t c;

    lab_open(&lab, 1);
    c = fill(&lab);
    v = follower(&lab);
    for (int i = 0; i < 40; i++) {
        char id[32];
        snprintf(id, sizeof id, "p%d", i);
        lose_range(&lab, v.node, id);
    }
    cr_assert(eq(int, lab_put(&lab, c, "after", 1).status, 0)); /* durable now */
    lab_until(&lab, level, &v.node, "the follower has applied all");
    v.before = ranges_differing(&lab, v.node);
    cr_assert(gt(sz, v.before, 20));
    lab_crash(&lab, v.node);
    lab_start(&lab, v.node);
    lab_until(&lab, lab_opened, NULL, "the follower is back");
    lab_until(&lab, level, &v.node, "the follower is level");
    cr_assert(eq(sz, ranges_differing(&lab, v.node), v.before)); /* recovered as it was */
    lab_until(&lab, repairing, &v, "the repair is in its midst");
    cr_assert(gt(sz, ranges_differing(&lab, v.node), 0));
    lab_crash(&lab, v.node);
    for (int i = 0; i < 30; i++) {
        char id[32];
        snprintf(id, sizeof id, "later%d", i);
        cr_assert(eq(int, lab_put(&lab, c, id, 1).status, 0));
    }
    lab_start(&lab, v.node);
    lab_until(&lab, lab_opened, NULL, "the follower is back");
    lab_until(&lab, lab_in_sync, NULL, "the follower is in sync");
    for (int i = 0; i < 30; i++) {
        char id[32];
        snprintf(id, sizeof id, "latest%d", i);
        cr_assert(eq(int, lab_put(&lab, c, id, 1).status, 0));
    }
    lab_until(&lab, equal, &v, "the replica is repaired");
    check_all(&lab, v.node, c);
    lab_until(&lab, on_disk, &v.node, "the repair is on disk");
    lab_stop(&lab, v.node);
    lab_start(&lab, v.node);
    lab_until(&lab, lab_opened, NULL, "the follower is back");
    lab_until(&lab, level, &v.node, "the follower is level");
    cr_assert(eq(sz, ranges_differing(&lab, v.node), 0));
    check_all(&lab, v.node, c);
    lab_close(&lab);
}
