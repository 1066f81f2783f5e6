/* Shards that change their primary on purpose, in a whole cluster in one process: asked to, because a process stops,
 * because an engine died, because one node cannot reach the coordinator. */
#include "lab.h"
#include "lab_backend.h"
#include "sidecar/coord/keys.h"
#include "sidecar/io/clock.h"
#include "sidecar/io/random.h"
#include "sidecar/node/node_internal.h"
#include "tests/lib/fake_backend.h"
#include "tests/lib/fake_engine.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

TestSuite(handoff, .timeout = 60);

static const char *const urls[LAB_NODES] = {"fake:1", "fake:2", "fake:3"};

struct asked {
    unsigned answered;
    int status;
    struct node_handoff_result result;
};

static bool was_answered(struct lab *lab, void *data)
{
    (void)lab;
    return ((struct asked *)data)->answered > 0;
}

static void on_handed(void *data, const struct node_handoff_result *result)
{
    struct asked *a = data;

    a->answered++;
    a->status = result->status;
    a->result = *result;
}

static void on_written(void *data, const struct node_write_result *result)
{
    struct asked *a = data;

    a->answered++;
    a->status = result->status;
}

static void on_left(void *data)
{
    ((struct asked *)data)->answered++;
}

static otr_node number_of(struct lab *lab, int from, int node)
{
    return topology_intern(node_topology(lab->nodes[from]), node_name(lab->nodes[node]));
}

static int hand_to(struct lab *lab, int from, int to, struct asked *a, struct otr_errmsg *msg)
{
    *a = (struct asked){0};
    return node_handoff(lab->nodes[from], 0, to >= 0 ? number_of(lab, from, to) : OTR_NODE_NONE, 2000, on_handed, a,
                        msg);
}

static uint64_t epoch_of(struct lab *lab, int i, otr_shard shard)
{
    struct replica_status status;

    cr_assert(node_shard_status(lab->nodes[i], shard, &status));
    return status.epoch;
}

struct primary_is {
    otr_shard shard;
    int node;
    bool elsewhere;
};

static bool primary_is(struct lab *lab, void *data)
{
    struct primary_is *p = data;
    int primary = lab_primary(lab, p->shard);

    return primary >= 0 && (primary == p->node) != p->elsewhere;
}

static void turn(struct lab *lab, unsigned ms)
{
    uint64_t until = uv_hrtime() + ms * 1000000ULL;

    while (uv_hrtime() < until) {
        uv_run(&lab->loop, UV_RUN_ONCE);
    }
}

static void put_at(struct lab *lab, int node, uint64_t collection, const char *id, struct asked *a)
{
    float vector[LAB_DIMENSION] = {1, 1, 0, 0};
    struct otr_point p = {.id = id, .id_bytes = (uint32_t)strlen(id), .dimension = LAB_DIMENSION, .vector = vector};
    _Alignas(8) uint8_t body[512];
    struct otr_request_id request;

    *a = (struct asked){0};
    random_bytes(request.bytes, sizeof request.bytes);
    put_body_write(body, collection, &p, 1);
    cr_assert(
        eq(int, node_write(lab->nodes[node], 0, &request, RECORD_PUT, body, put_body_bytes(&p, 1), on_written, a), 0));
    memset(body, 0xAA, sizeof body); /* lent for the call only */
}

/* --- asked to ----------------------------------------------------------------------------------------------------- */

/* Back and forth, with what was written before each time; the pause is told. */
Test(handoff, by_an_operator)
{
    struct otr_errmsg msg = {0};
    struct asked a;
    struct lab lab;
    uint64_t c;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    for (int i = 0; i < 4; i++) {
        int from = lab_primary(&lab, 0);
        int to = (from + 1 + i % 2) % LAB_NODES;
        uint64_t epoch = epoch_of(&lab, from, 0);
        int status;

        lab_put(&lab, c, "a", (float)i);
        cr_assert(eq(int, hand_to(&lab, from, to, &a, &msg), 0), "%s", msg.text);
        lab_until(&lab, was_answered, &a, "the handoff is answered");
        cr_assert(eq(int, a.status, 0), "%s", a.result.message);
        cr_assert(eq(u32, a.result.to, number_of(&lab, from, to)));
        cr_assert(gt(u64, a.result.epoch, epoch));
        cr_assert(gt(u64, a.result.pause_us, 0));
        lab_until(&lab, primary_is, &(struct primary_is){0, to, false}, "it leads");
        cr_assert(eq(flt, lab_get(&lab, to, c, "a", NODE_LINEARIZABLE, &status), (float)i));
        lab_until(&lab, lab_in_sync, NULL, "all in sync");
    }
    lab_close(&lab);
}

Test(handoff, wishes_that_make_no_sense)
{
    struct otr_errmsg msg = {0};
    struct asked a;
    struct asked second;
    struct lab lab;
    int p;
    int away;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    p = lab_primary(&lab, 0);
    away = (p + 1) % LAB_NODES;
    cr_assert(eq(int, hand_to(&lab, away, p, &a, &msg), OTR_NOTPRIMARY));
    cr_assert(eq(int, hand_to(&lab, p, p, &a, &msg), OTR_EXISTS));
    cr_assert(eq(int, hand_to(&lab, p, -1, &a, &msg), 0));
    cr_assert(eq(int, hand_to(&lab, p, -1, &second, &msg), OTR_BUSY));
    lab_until(&lab, was_answered, &a, "the first is answered");
    cr_assert(eq(int, a.status, 0));
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    p = lab_primary(&lab, 0);
    away = (p + 1) % LAB_NODES;
    {
        otr_node gone = number_of(&lab, p, away);
        lab_crash(&lab, away);
        lab_until(&lab, lab_in_sync, NULL, "it is out of the set");
        cr_assert(eq(int, node_handoff(lab.nodes[p], 0, gone, 2000, on_handed, &a, &msg), OTR_CONFLICT));
        cr_assert(strstr(msg.text, "is not in sync with shard 0; in sync are: ") != NULL, "%s", msg.text);
    }
    cr_assert(eq(uint, a.answered, 1));
    lab_close(&lab);
}

static bool gets_are_held(struct lab *lab, void *data)
{
    (void)lab;
    (void)data;
    return lab_held_gets() >= 2;
}

/* Whoever asked is told when the node closes in the middle of it. */
Test(handoff, the_node_closes_meanwhile)
{
    struct otr_errmsg msg = {0};
    struct asked a;
    struct lab lab;
    char key[KEY_MAX];
    int p;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    p = lab_primary(&lab, 0);
    key_shard(key, "lab", 0);
    lab_hold_gets(key); /* nobody who is asked knows whether it is able */
    cr_assert(eq(int, hand_to(&lab, p, -1, &a, &msg), 0));
    lab_until(&lab, gets_are_held, NULL, "both others ask the coordinator");
    cr_assert(eq(uint, a.answered, 0));
    lab_stop(&lab, p);
    cr_assert(eq(uint, a.answered, 1));
    cr_assert(eq(int, a.status, OTR_CANCELED));
    lab_release_gets();
    lab_close(&lab);
}

/* --- a disk that does as it is told, below one node --------------------------------------------------------------- */

static struct file_ops bad_disk;
static const struct file_ops *good_disk;
static atomic_bool full;

static int bad_write(struct file *f, uint64_t offset, const void *data, size_t bytes, struct otr_errmsg *msg)
{
    return full ? OTR_NOSPACE : good_disk->write(f, offset, data, bytes, msg);
}

static bool takes_over(struct lab *lab, void *data)
{
    struct replica_status status;

    return node_shard_status(lab->nodes[*(int *)data], 0, &status) && status.role == REPLICA_TAKEOVER;
}

/* A write that comes while the new primary takes over waits there, and goes on when it leads. */
Test(handoff, writes_wait_for_a_takeover)
{
    struct asked handoff, written, late;
    struct otr_errmsg msg = {0};
    struct lab lab;
    uint64_t c;
    int p;
    int to;
    int slow;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    p = lab_primary(&lab, 0);
    to = (p + 1) % LAB_NODES;
    slow = (p + 2) % LAB_NODES;
    good_disk = lab.nodes[slow]->fs->ops;
    bad_disk = *good_disk;
    bad_disk.write = bad_write;
    lab.nodes[slow]->fs->ops = &bad_disk;
    full = true;
    cr_assert(eq(int, hand_to(&lab, p, to, &handoff, &msg), 0));
    lab_until(&lab, takes_over, &to, "it takes over, and cannot commit");
    put_at(&lab, to, c, "a", &written);
    put_at(&lab, p, c, "b", &late); /* the old primary knows already, or will soon, that it leads no longer */
    turn(&lab, 50);
    cr_assert(eq(uint, written.answered, 0));
    cr_assert(gt(sz, lab.nodes[to]->held_bytes, 0));
    full = false;
    lab_until(&lab, was_answered, &written, "the write is answered");
    cr_assert(eq(int, written.status, 0));
    lab_until(&lab, was_answered, &late, "so is the other");
    cr_assert(eq(int, late.status, OTR_NOTPRIMARY));
    cr_assert(eq(sz, lab.nodes[to]->held_bytes, 0));
    lab_until(&lab, was_answered, &handoff, "and the handoff");
    lab_close(&lab);
}

static bool has_no_room(struct lab *lab, void *data)
{
    return lab->nodes[*(int *)data]->disk_full;
}

/* A member whose disk is full says so when it is asked, and the primary leads on. */
Test(handoff, not_to_a_full_disk)
{
    struct asked handoff, written;
    struct otr_errmsg msg = {0};
    struct lab lab;
    uint64_t c;
    int p;
    int to;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    p = lab_primary(&lab, 0);
    to = (p + 1) % LAB_NODES;
    good_disk = lab.nodes[to]->fs->ops;
    bad_disk = *good_disk;
    bad_disk.write = bad_write;
    lab.nodes[to]->fs->ops = &bad_disk;
    full = true;
    put_at(&lab, p, c, "a", &written);
    lab_until(&lab, has_no_room, &to, "its disk is full");
    cr_assert(eq(int, hand_to(&lab, p, to, &handoff, &msg), 0), "%s", msg.text);
    lab_until(&lab, was_answered, &handoff, "the handoff is answered");
    cr_assert(eq(int, handoff.status, OTR_UNAVAIL));
    cr_assert(strstr(handoff.result.message, "was asked for: it is not able to lead") != NULL, "%s",
              handoff.result.message);
    cr_assert(eq(int, lab_primary(&lab, 0), p));
    full = false;
    lab_until(&lab, was_answered, &written, "the write is answered");
    cr_assert(eq(int, written.status, 0));
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    lab_close(&lab);
}

/* A node that closes refuses what it held. */
Test(handoff, held_writes_when_the_node_closes)
{
    struct asked handoff, written;
    struct otr_errmsg msg = {0};
    struct lab lab;
    uint64_t c;
    int p;
    int to;
    int slow;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    p = lab_primary(&lab, 0);
    to = (p + 1) % LAB_NODES;
    slow = (p + 2) % LAB_NODES;
    good_disk = lab.nodes[slow]->fs->ops;
    bad_disk = *good_disk;
    bad_disk.write = bad_write;
    lab.nodes[slow]->fs->ops = &bad_disk;
    full = true;
    cr_assert(eq(int, hand_to(&lab, p, to, &handoff, &msg), 0));
    lab_until(&lab, takes_over, &to, "it takes over, and cannot commit");
    put_at(&lab, to, c, "a", &written);
    lab_stop(&lab, to);
    cr_assert(eq(uint, written.answered, 1));
    cr_assert(eq(int, written.status, OTR_UNAVAIL));
    full = false;
    lab_close(&lab);
}

/* --- the process stops -------------------------------------------------------------------------------------------- */

/* It leads nothing and counts nowhere when it is done, and its process goes on serving until it is closed. */
Test(handoff, a_node_leaves)
{
    struct otr_errmsg why = {0};
    struct asked left = {0};
    struct lab lab;
    uint64_t c;
    int p;

    lab_open(&lab, 4);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    lab_put(&lab, c, "a", 1);
    p = lab_primary(&lab, 0);
    cr_assert(node_ready(lab.nodes[p], &why), "%s", why.text);
    node_leave(lab.nodes[p], 5000, on_left, &left);
    cr_assert(not(node_ready(lab.nodes[p], &why)));
    cr_assert(eq(str, why.text, "stopping"));
    cr_assert(eq(uint, left.answered, 0)); /* never from inside */
    lab_until(&lab, was_answered, &left, "it has left");
    for (otr_shard s = 0; s < lab.shards; s++) {
        struct replica_status status;
        cr_assert(node_shard_status(lab.nodes[p], s, &status));
        cr_assert(not(status.in_sync || status.role == REPLICA_PRIMARY), "shard %u", s);
    }
    lab_put(&lab, c, "a", 2);
    lab_stop(&lab, p);
    lab_put(&lab, c, "a", 3);
    lab_start(&lab, p);
    lab_until(&lab, lab_in_sync, NULL, "it is back");
    cr_assert(eq(uint, left.answered, 1));
    lab_close(&lab);
}

/* The third node is all that is left of every set: fewer than min_in_sync. */
static bool is_alone(struct lab *lab, void *data)
{
    (void)data;
    for (otr_shard s = 0; s < lab->shards; s++) {
        struct replica_status status;

        if (!node_shard_status(lab->nodes[2], s, &status) || status.role != REPLICA_PRIMARY ||
            status.descriptor->in_sync_count != 1) {
            return false;
        }
    }
    return true;
}

/* Nobody else can serve: there is nothing to wait for. */
Test(handoff, the_last_one_leaves_at_once)
{
    struct asked left = {0};
    struct lab lab;
    uint64_t began;

    lab_open(&lab, 2);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    lab_stop(&lab, 0);
    lab_stop(&lab, 1);
    lab_until(&lab, is_alone, NULL, "the others are out of the sets"); /* by evidence of death */
    began = clock_now_ms();
    node_leave(lab.nodes[2], 9000, on_left, &left);
    lab_until(&lab, was_answered, &left, "it has left");
    cr_assert(lt(u64, clock_now_ms() - began, 5000));
    lab_close(&lab);
}

/* A coordinator that does not answer does not hold the exit. */
Test(handoff, leaving_is_bounded)
{
    struct asked left = {0};
    struct lab lab;
    int p;

    lab_open(&lab, 2);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    p = lab_primary(&lab, 0);
    lab_hold_txns(true);
    node_leave(lab.nodes[p], 300, on_left, &left);
    lab_until(&lab, was_answered, &left, "it gives up waiting");
    lab_release_txns();
    lab_stop(&lab, p);
    lab_until(&lab, lab_writable, NULL, "the others go on");
    lab_close(&lab);
}

/* --- the engine died ---------------------------------------------------------------------------------------------- */

Test(handoff, a_dead_engine)
{
    struct lab lab;
    uint64_t epochs[3];
    uint64_t c;
    int p;

    lab_open(&lab, 3);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    lab_put(&lab, c, "a", 1);
    p = lab_primary(&lab, 0);
    fake_engine_down(urls[p]);
    for (otr_shard s = 0; s < 3; s++) {
        lab_until(&lab, primary_is, &(struct primary_is){s, p, true}, "its shards are with others");
    }
    lab_put(&lab, c, "a", 2);
    fake_engine_up(urls[p], true);
    for (otr_shard s = 0; s < 3; s++) {
        epochs[s] = epoch_of(&lab, lab_primary(&lab, s), s);
    }
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    turn(&lab, 600);
    for (otr_shard s = 0; s < 3; s++) { /* it does not take them back */
        cr_assert(eq(u64, epoch_of(&lab, lab_primary(&lab, s), s), epochs[s]), "shard %u", s);
    }
    lab_close(&lab);
}

/* Nobody is able: everybody leads on. */
Test(handoff, all_engines_dead)
{
    struct lab lab;
    uint64_t epoch;
    uint64_t c;
    int p;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    for (int i = 0; i < LAB_NODES; i++) {
        fake_engine_down(urls[i]);
    }
    turn(&lab, 300); /* until all sidecars have noticed and any handoff has come to its end */
    p = lab_primary(&lab, 0);
    epoch = epoch_of(&lab, p, 0);
    turn(&lab, 600);
    cr_assert(eq(int, lab_primary(&lab, 0), p));
    cr_assert(eq(u64, epoch_of(&lab, p, 0), epoch));
    cr_assert(lab_put(&lab, c, "a", 1).applied_pending);
    fake_engine_up(urls[p], true);
    cr_assert(not(lab_put(&lab, c, "b", 1).applied_pending));
    for (int i = 0; i < LAB_NODES; i++) {
        fake_engine_up(urls[i], true);
    }
    lab_close(&lab);
}

/* --- the coordinator ---------------------------------------------------------------------------------------------- */

/* Out of reach for one: its shards go to those who reach it. For all: nothing changes. */
Test(handoff, the_coordinator_out_of_reach)
{
    struct lab lab;
    uint64_t epoch;
    uint64_t c;
    int p;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    p = lab_primary(&lab, 0);
    epoch = epoch_of(&lab, p, 0);
    fake_set_reach(lab.coordinator, FAKE_DOWN);
    turn(&lab, 1500);
    cr_assert(eq(int, lab_primary(&lab, 0), p));
    cr_assert(eq(u64, epoch_of(&lab, p, 0), epoch));
    lab_put(&lab, c, "a", 1);
    fake_set_reach(lab.coordinator, FAKE_REACHABLE);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    for (enum fake_link link = FAKE_LINK_REFUSED; link <= FAKE_LINK_NO_ANSWERS; link++) {
        p = lab_primary(&lab, 0);
        lab_link((unsigned)p, link);
        lab_until(&lab, primary_is, &(struct primary_is){0, p, true}, "another one leads");
        lab_put(&lab, c, "a", 2);
        lab_link((unsigned)p, FAKE_LINK_WHOLE);
        lab_until(&lab, lab_in_sync, NULL, "all in sync");
    }
    lab_close(&lab);
}

/* --- writes behind a dead engine ---------------------------------------------------------------------------------- */

/* Each of them waits apply_wait for the engine, not one after the other, and is answered as pending. */
Test(handoff, writes_queue_behind_dead_engines)
{
    enum { WRITES = 20 };
    struct asked written[WRITES];
    struct lab lab;
    uint64_t began;
    uint64_t c;
    int p;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    for (int i = 0; i < LAB_NODES; i++) {
        fake_engine_down(urls[i]);
    }
    turn(&lab, 300);
    p = lab_primary(&lab, 0);
    began = clock_now_ms();
    for (int i = 0; i < WRITES; i++) {
        char id[16];
        snprintf(id, sizeof id, "p%d", i);
        put_at(&lab, p, c, id, &written[i]);
        turn(&lab, 10);
    }
    cr_assert(eq(uint, written[0].answered, 0)); /* it waits for its engine a while */
    for (int i = 0; i < WRITES; i++) {
        lab_until(&lab, was_answered, &written[i], "a write is answered");
        cr_assert(eq(int, written[i].status, 0));
    }
    cr_assert(lt(u64, clock_now_ms() - began, 5000)); /* apply_wait is 1 s; twenty in a row would be 20 */
    lab_close(&lab);
}
