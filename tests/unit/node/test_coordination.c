/* What a node makes of its coordinator: of one that answers late, twice, from the past, or not at all. */
#include "lab.h"
#include "lab_backend.h"
#include "sidecar/coord/keys.h"
#include "sidecar/io/random.h"
#include "sidecar/node/coordinator.h"
#include "sidecar/node/node_internal.h"
#include "tests/lib/fake_backend.h"

#include <math.h>
#include <stdio.h>

TestSuite(coordination, .timeout = 60);

struct outcome {
    unsigned calls;
    int status;
};

static void on_status(void *data, int status, const struct otr_errmsg *msg)
{
    struct outcome *o = data;

    (void)msg;
    o->calls++;
    o->status = status;
}

static bool called(struct lab *lab, void *data)
{
    (void)lab;
    return ((struct outcome *)data)->calls > 0;
}

static bool a_get_is_held(struct lab *lab, void *data)
{
    (void)lab;
    (void)data;
    return lab_held_gets() > 0;
}

static bool a_txn_is_held(struct lab *lab, void *data)
{
    (void)lab;
    (void)data;
    return lab_held_txns() > 0;
}

static bool regressed(struct lab *lab, void *data)
{
    (void)data;
    for (int i = 0; i < LAB_NODES; i++) {
        if (lab->nodes[i] != NULL && !coordinator_regressed(lab->nodes[i])) {
            return false;
        }
    }
    return true;
}

static struct outcome delete (struct lab *lab, int i, const char *name)
{
    struct outcome o = {0};

    cr_assert(eq(int, node_collection_delete(lab->nodes[i], name, on_status, &o), 0));
    lab_until(lab, called, &o, "a deletion is answered");
    return o;
}

static struct topology_collection things(void)
{
    struct topology_collection c = {.id = random_u64(), .dimension = LAB_DIMENSION, .metric = OTR_METRIC_EUCLIDEAN};

    snprintf(c.name, sizeof c.name, "things");
    return c;
}

static void turn(struct lab *lab, unsigned ms)
{
    uint64_t until = uv_hrtime() + ms * 1000000ULL;

    while (uv_hrtime() < until) {
        uv_run(&lab->loop, UV_RUN_ONCE);
    }
}

/* PROTOCOL D4. An empty coordinator in the place of the old one: nothing is dropped, and what is served, is served on.
 */
Test(coordination, another_coordinator_makes_nobody_drop_collections)
{
    struct lab lab;
    uint64_t c;
    uint64_t count = 0;
    int p;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    lab_put(&lab, c, "a", 1);
    p = lab_primary(&lab, 0);
    fake_replace(lab.coordinator);
    lab_until(&lab, regressed, NULL, "every node notices");
    turn(&lab, 1500); /* the collections are looked after once a second */
    cr_assert(eq(int, lab_primary(&lab, 0), p));
    cr_assert(node_count(lab.nodes[p], 0, c, &count));
    cr_assert(eq(u64, count, 1));
    cr_assert(eq(int, lab_put(&lab, c, "b", 2).status, 0));
    cr_assert(eq(flt, lab_get(&lab, p, c, "a", NODE_LINEARIZABLE, NULL), 1));
    lab_close(&lab);
}

static bool revision_above(struct lab *lab, void *data)
{
    return coordinator_revision(lab->nodes[0]) > *(uint64_t *)data;
}

/* PROTOCOL D4. A coordinator that is restored to an older state may still be newer than anything that was ever read:
 * what counts is the newest that was seen, and that mostly comes by the watch. */
Test(coordination, an_event_tells_how_far_the_coordinator_has_come)
{
    struct lab lab;
    uint64_t before;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    turn(&lab, 300); /* reads that are under way */
    before = coordinator_revision(lab.nodes[0]);
    lab_collection(&lab, "things");
    lab_until(&lab, revision_above, &before, "the event's revision is known");
    lab_close(&lab);
}

static void on_shown(void *data, const struct descriptor *shown)
{
    struct outcome *o = data;

    o->calls++;
    o->status = shown != NULL ? 0 : OTR_UNREACHABLE;
}

/* Two reads under way: the later one's answer comes first. */
Test(coordination, an_answer_that_was_overtaken_is_no_alarm)
{
    struct lab lab;
    struct outcome slow = {0}, fast = {0};
    char key[KEY_MAX];

    lab_open(&lab, 2);
    key_shard(key, "lab", 0);
    lab_hold_gets(key);
    coordinator_show(node_shard(lab.nodes[0], 0), on_shown, &slow);
    lab_until(&lab, a_get_is_held, NULL, "its answer is held");
    lab_collection(&lab, "things"); /* the revision rises */
    coordinator_show(node_shard(lab.nodes[0], 1), on_shown, &fast);
    lab_until(&lab, called, &fast, "the later read is answered");
    lab_release_gets();
    cr_assert(eq(int, slow.status, 0));
    cr_assert(not(coordinator_regressed(lab.nodes[0])));
    lab_close(&lab);
}

/* Reads of the descriptor that wait for one under way are answered when the node closes. */
Test(coordination, closing_leaves_no_read_of_the_descriptor_waiting)
{
    struct lab lab;
    struct outcome first = {0}, second = {0};

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    fake_set_reach(lab.coordinator, FAKE_FROZEN);
    coordinator_show(node_shard(lab.nodes[0], 0), on_shown, &first);
    turn(&lab, 30);
    coordinator_show(node_shard(lab.nodes[0], 0), on_shown, &second);
    turn(&lab, 30);
    cr_assert(eq(uint, first.calls, 0));
    lab_stop(&lab, 0);
    cr_assert(eq(uint, first.calls, 1));
    cr_assert(eq(uint, second.calls, 1));
    fake_set_reach(lab.coordinator, FAKE_REACHABLE);
    lab_close(&lab);
}

/* A session that is lost while the announcement bound to it is under way: the next one is announced, too. */
Test(coordination, announced_anew_while_an_announcement_is_under_way)
{
    struct lab lab;
    struct topology_node *self;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    self = topology_node(node_topology(lab.nodes[1]), topology_intern(node_topology(lab.nodes[1]), "n1"));
    lab_hold_txns(true);
    cr_assert(fake_session_lose(lab.coordinator, self->session));
    lab_until(&lab, a_txn_is_held, NULL, "it announces itself");
    turn(&lab, 50); /* the other nodes' watches show the new session */
    cr_assert(fake_session_lose(lab.coordinator, self->session));
    turn(&lab, 1000); /* it is opened anew, and announced, or will be */
    lab_release_txns();
    turn(&lab, 1000);
    cr_assert(self->live, "n1 is not announced");
    lab_close(&lab);
}

/* The outcome of a transaction is not known, and the read that would tell cannot be made. */
Test(coordination, unknown_outcome_without_a_way_to_look_it_up)
{
    struct lab lab;
    struct topology_collection c = things();
    struct outcome o = {0};

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    fake_next_txn(lab.coordinator, FAKE_OUTCOME_LOST);
    cr_assert(eq(int, node_collection_create(lab.nodes[0], &c, on_status, &o), 0));
    lab_refuse_gets(1);
    lab_until(&lab, called, &o, "it is answered");
    cr_assert(eq(int, o.status, OTR_UNKNOWN));
    turn(&lab, 50);
    cr_assert(eq(uint, o.calls, 1));
    lab_refuse_gets(0);
    lab_close(&lab);
}

/* A deletion that found nothing is answered late: the collection made meanwhile stays. */
Test(coordination, stale_answers_take_no_collection_away)
{
    struct lab lab;
    struct outcome o = {0};
    char key[KEY_MAX];
    uint64_t c;

    lab_open(&lab, 1);
    key_collection(key, "lab", "things");
    lab_hold_gets(key);
    cr_assert(eq(int, node_collection_delete(lab.nodes[0], "things", on_status, &o), 0));
    lab_until(&lab, a_get_is_held, NULL, "its answer is held");
    c = lab_collection(&lab, "things");
    lab_release_gets();
    cr_assert(eq(int, o.status, OTR_NOTFOUND));
    cr_assert(topology_collection_by_id(node_topology(lab.nodes[0]), c) != NULL);
    lab_close(&lab);
}

/* And one that is deleted does not come back. */
Test(coordination, stale_answers_bring_no_collection_back)
{
    struct lab lab;
    struct outcome o = {0};
    char key[KEY_MAX];
    uint64_t c;

    lab_open(&lab, 1);
    c = lab_collection(&lab, "things");
    key_collection(key, "lab", "things");
    lab_hold_gets(key);
    cr_assert(eq(int, node_collection_refresh(lab.nodes[0], "things", on_status, &o), 0));
    lab_until(&lab, a_get_is_held, NULL, "its answer is held");
    lab_hold_gets("none");
    cr_assert(eq(int, delete (&lab, 1, "things").status, 0));
    turn(&lab, 50);
    lab_release_gets();
    cr_assert(topology_collection_by_id(node_topology(lab.nodes[0]), c) == NULL);
    lab_close(&lab);
}

struct dropped {
    uint64_t *ids;
    size_t count;
};

static bool all_dropped(struct lab *lab, void *data)
{
    const struct dropped *d = data;

    for (size_t i = 0; i < d->count; i++) {
        uint64_t count = 1;
        if (!node_count(lab->nodes[lab_primary(lab, 0)], 0, d->ids[i], &count) || count > 0) {
            return false;
        }
    }
    return true;
}

/* Many collections deleted at once: the points of all of them go. */
Test(coordination, more_deleted_collections_than_are_dropped_at_once)
{
    enum { COUNT = 70 };
    struct lab lab;
    uint64_t ids[COUNT];
    struct dropped dropped = {.ids = ids, .count = COUNT};
    char key[KEY_MAX];

    lab_open(&lab, 1);
    for (int i = 0; i < COUNT; i++) {
        char name[16];
        snprintf(name, sizeof name, "c%d", i);
        ids[i] = lab_collection(&lab, name);
        lab_put(&lab, ids[i], "a", 1);
    }
    key_collection(key, "lab", "");
    lab_hold_gets(key); /* no read of all of them is answered before all are gone */
    for (int i = 0; i < COUNT; i++) {
        char name[16];
        snprintf(name, sizeof name, "c%d", i);
        cr_assert(eq(int, delete (&lab, 0, name).status, 0));
    }
    turn(&lab, 50);
    lab_release_gets();
    lab_until(&lab, all_dropped, &dropped, "all points are dropped");
    lab_close(&lab);
}

static bool was_answered(struct lab *lab, void *data)
{
    return collections_answered(lab->nodes[0], *(uint64_t *)data);
}

/* The primary's view lags behind the making of a collection whose points it holds; an earlier read of all collections
 * does not know it either. */
Test(coordination, a_view_that_lags_drops_nothing)
{
    struct lab lab;
    uint64_t c;
    uint64_t asked;
    uint64_t count = 0;
    int p;

    lab_open(&lab, 1);
    for (int i = 0; i < LAB_NODES; i++) {
        asked = collections_ask(lab.nodes[i]);
    }
    turn(&lab, 50);
    asked = 2;
    lab_until(&lab, was_answered, &asked, "all collections were read");
    c = lab_collection(&lab, "things");
    lab_put(&lab, c, "a", 1);
    p = lab_primary(&lab, 0);
    topology_collection_forget(node_topology(lab.nodes[p]), "things");
    collections_check(node_shard(lab.nodes[p], 0));
    turn(&lab, 1500);
    cr_assert(node_count(lab.nodes[p], 0, c, &count));
    cr_assert(eq(u64, count, 1));
    lab_close(&lab);
}

struct lost_session {
    struct coordinator *coordinator;
    uint64_t sessions;
};

static bool opened_again(struct lab *lab, void *data)
{
    const struct lost_session *l = data;

    (void)lab;
    return l->coordinator->session_open && l->coordinator->sessions > l->sessions;
}

/* Without a session nobody is elected here: the next one is asked for when the end of the last is known, not by the
 * tick, which is stopped. */
Test(coordination, a_lost_session_is_opened_anew_at_once)
{
    struct lab lab;
    struct lost_session lost;

    lab_open(&lab, 1);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    turn(&lab, 300); /* it lasted for a while */
    lost.coordinator = lab.nodes[0]->coordinator;
    lost.sessions = lost.coordinator->sessions;
    uv_timer_stop(&lost.coordinator->timer);
    cr_assert(fake_session_lose(lab.coordinator, lost.coordinator->session.id));
    lab_until(&lab, opened_again, &lost, "another session");
    lab_close(&lab);
}
