/* Nodes put together: what one shard's replicas do over real connections, journals and loops. */
#include "lab.h"
#include "sidecar/core/replica.h"
#include "sidecar/io/clock.h"
#include "sidecar/node/node_internal.h"
#include "tests/lib/fake_backend.h"
#include "tests/lib/fake_engine.h"

#include <math.h>
#include <stdio.h>

TestSuite(node, .timeout = 60);

/* What is answered can be read at the primary at once, and at the others soon. */
Test(node, writes_and_reads)
{
    struct lab lab;
    uint64_t c;
    int p;

    lab_open(&lab, 1);
    c = lab_collection(&lab, "things");
    for (int i = 0; i < 100; i++) {
        char id[16];
        snprintf(id, sizeof id, "p%d", i);
        cr_assert(eq(int, lab_put(&lab, c, id, (float)i).status, 0));
    }
    p = lab_primary(&lab, 0);
    cr_assert(eq(flt, lab_get(&lab, p, c, "p42", NODE_LINEARIZABLE, NULL), 42));
    cr_assert(isnan(lab_get(&lab, p, c, "nothing", NODE_LINEARIZABLE, NULL)));
    cr_assert(eq(u32, lab_delete(&lab, c, "p42").outcome, 1));
    cr_assert(eq(u32, lab_delete(&lab, c, "p42").outcome, 0));
    cr_assert(isnan(lab_get(&lab, p, c, "p42", NODE_LINEARIZABLE, NULL)));
    lab_close(&lab);
}

/* A point of an unknown collection or of a wrong dimension is refused with nothing applied. */
Test(node, refuses_what_does_not_fit)
{
    struct lab lab;
    struct node_write_result r;

    lab_open(&lab, 1);
    r = lab_put(&lab, 12345, "a", 1);
    cr_assert(eq(int, r.status, OTR_NOTFOUND));
    cr_assert(
        gt(u64, lab.nodes[lab_primary(&lab, 0)]->metrics.refused[NODE_REFUSED_NOT_FOUND].writes_refused_total, 0));
    lab_close(&lab);
}

struct fed {
    uint64_t upto;
    const char *url;
    size_t count;
};

static bool engine_has(struct lab *lab, void *data)
{
    struct fed *f = data;

    (void)lab;
    return fake_engine_count(f->url, "things__0") == f->count;
}

/* Searches are verified: ghosts in the engine do not show, overwritten points have their new place. */
Test(node, search_shows_only_what_the_log_holds)
{
    struct lab lab;
    char ids[256];
    const float near[LAB_DIMENSION] = {5, 1, 0, 0};
    static const char *const urls[] = {"fake:1", "fake:2", "fake:3"};
    uint64_t c;
    int p;

    lab_open(&lab, 1);
    c = lab_collection(&lab, "things");
    for (int i = 0; i < 20; i++) {
        char id[16];
        snprintf(id, sizeof id, "p%02d", i);
        lab_put(&lab, c, id, (float)i);
    }
    p = lab_primary(&lab, 0);
    fake_engine_ghost(urls[p], "things__0", "ghost", near, LAB_DIMENSION);
    lab_search(&lab, p, 0, c, 5, 3, NODE_LINEARIZABLE, ids, sizeof ids);
    cr_assert(eq(str, ids, "p05 p04 p06"));
    cr_assert(gt(u64, lab.nodes[p]->metrics.node.engine_hits_dropped_total, 0)); /* the ghost */
    lab_put(&lab, c, "p05", 1000);
    lab_search(&lab, p, 0, c, 5, 3, NODE_LINEARIZABLE, ids, sizeof ids);
    cr_assert(eq(str, ids, "p04 p06 p03"));
    lab_close(&lab);
}

struct searched {
    int status; /* -1: not yet */
    size_t count;
    bool vectors;
};

static void on_searched(void *data, int status, const struct node_hit *hits, size_t count, const struct otr_errmsg *msg)
{
    struct searched *s = data;

    s->status = status;
    s->count = count;
    s->vectors = count > 0 && hits[0].point.vector != NULL;
    cr_assert(status == 0 || msg->text[0] != '\0');
}

static bool searched(struct lab *lab, void *data)
{
    (void)lab;
    return ((struct searched *)data)->status >= 0;
}

static struct searched search_all(struct lab *lab, int i, uint64_t collection, bool with_vector)
{
    static const float vector[LAB_DIMENSION] = {5, 1, 0, 0};
    struct node_search ask = {.collection = collection,
                              .vector = vector,
                              .dimension = LAB_DIMENSION,
                              .k = 100,
                              .with_vector = with_vector,
                              .consistency = NODE_LINEARIZABLE,
                              .timeout_ms = 5000};
    struct searched s = {.status = -1};

    cr_assert(zero(int, node_search(lab->nodes[i], &ask, on_searched, &s)));
    lab_until(lab, searched, &s, "the search has ended");
    return s;
}

/* What searches hold is bounded, for each and for all together, and given back. */
Test(node, searches_hold_so_many_bytes_and_no_more)
{
    struct lab lab;
    struct searched s;
    struct node *n;
    uint64_t c;
    int p;

    lab_open(&lab, 1);
    c = lab_collection(&lab, "fruit");
    for (int i = 0; i < 20; i++) {
        char id[16];

        snprintf(id, sizeof id, "point-%d", i);
        cr_assert(zero(int, lab_put(&lab, c, id, (float)i).status));
    }
    p = lab_primary(&lab, 0);
    n = lab.nodes[p];
    s = search_all(&lab, p, c, true);
    cr_assert(s.status == 0 && s.count == 20 && s.vectors);
    s = search_all(&lab, p, c, false);
    cr_assert(s.status == 0 && s.count == 20 && !s.vectors);
    cr_assert(zero(sz, atomic_load(&n->hits.bytes)));
    n->hits.one_max = 500;
    cr_assert(eq(int, search_all(&lab, p, c, true).status, OTR_TOOBIG));
    n->hits.one_max = 1 << 20;
    atomic_fetch_add(&n->hits.bytes, n->hits.all_max - 500); /* others' */
    cr_assert(eq(int, search_all(&lab, p, c, true).status, OTR_BUSY));
    atomic_fetch_sub(&n->hits.bytes, n->hits.all_max - 500);
    cr_assert(zero(sz, atomic_load(&n->hits.bytes)));
    s = search_all(&lab, p, c, true);
    cr_assert(s.status == 0 && s.count == 20);
    lab_close(&lab);
}

/* An engine that is down costs no search: the log has everything. One that comes back empty gets everything again. */
Test(node, engine_lost_its_data)
{
    static const char *const urls[] = {"fake:1", "fake:2", "fake:3"};
    struct lab lab;
    char ids[256];
    struct fed fed;
    uint64_t c;
    int p;

    lab_open(&lab, 1);
    c = lab_collection(&lab, "things");
    for (int i = 0; i < 250; i++) {
        char id[16];
        snprintf(id, sizeof id, "p%03d", i);
        lab_put(&lab, c, id, (float)i);
    }
    p = lab_primary(&lab, 0);
    fake_engine_down(urls[p]);
    lab_search(&lab, p, 0, c, 100, 2, NODE_EVENTUAL, ids, sizeof ids);
    cr_assert(eq(str, ids, "p100 p099"));
    fake_engine_up(urls[p], false);
    fed = (struct fed){.url = urls[p], .count = 250};
    lab_until(&lab, engine_has, &fed, "the engine is replayed");
    lab_close(&lab);
}

/* The primary stops: another serves, nothing is lost; it comes back and follows. */
Test(node, failover_and_return)
{
    struct lab lab;
    uint64_t c;
    int p;

    lab_open(&lab, 4);
    c = lab_collection(&lab, "things");
    for (int i = 0; i < 50; i++) {
        char id[16];
        snprintf(id, sizeof id, "a%d", i);
        lab_put(&lab, c, id, (float)i);
    }
    p = lab_primary(&lab, lab_shard_of(&lab, "a7"));
    lab_stop(&lab, p);
    lab_until(&lab, lab_writable, NULL, "the others take over");
    for (int i = 0; i < 50; i++) {
        char id[16];
        snprintf(id, sizeof id, "b%d", i);
        cr_assert(eq(int, lab_put(&lab, c, id, (float)i).status, 0));
    }
    lab_start(&lab, p);
    lab_until(&lab, lab_in_sync, NULL, "it is in sync again");
    for (int i = 0; i < 50; i++) {
        char id[16];
        int q;
        snprintf(id, sizeof id, "a%d", i);
        q = lab_primary(&lab, lab_shard_of(&lab, id));
        cr_assert(eq(flt, lab_get(&lab, q, c, id, NODE_LINEARIZABLE, NULL), (float)i));
        snprintf(id, sizeof id, "b%d", i);
        cr_assert(eq(flt, lab_get(&lab, p, c, id, NODE_EVENTUAL, NULL), (float)i));
    }
    lab_close(&lab);
}

/* Everything stops and starts: everything is there. */
Test(node, appends_of_an_old_epoch_are_counted)
{
    struct lab lab;
    struct replica_status status;
    struct incoming in = {.msg = {.type = REPLICA_MSG_APPEND}};
    struct shard *s;
    int p;

    lab_open(&lab, 1);
    p = lab_primary(&lab, 0);
    s = lab.nodes[(p + 1) % LAB_NODES]->shards[0];
    replica_status(s->replica, clock_now_ms(), &status);
    in.msg.generation = status.descriptor->generation;
    in.msg.epoch = status.epoch - 1;
    cr_assert(zero(u64, s->metrics.fenced_appends_total));
    s->incoming = &in;
    shard_feed(s, &(struct replica_event){
                      .type = REPLICA_EV_MSG,
                      .msg = {.from = topology_intern(s->node->topology, node_name(lab.nodes[p])), .msg = &in.msg}});
    s->incoming = NULL;
    cr_assert(eq(u64, s->metrics.fenced_appends_total, 1));
    lab_close(&lab);
}

Test(node, restart_of_all)
{
    struct lab lab;
    uint64_t c;

    lab_open(&lab, 2);
    c = lab_collection(&lab, "things");
    for (int i = 0; i < 60; i++) {
        char id[16];
        snprintf(id, sizeof id, "a%d", i);
        lab_put(&lab, c, id, (float)i);
    }
    lab_delete(&lab, c, "a30");
    for (int i = 0; i < LAB_NODES; i++) {
        lab_stop(&lab, i);
    }
    for (int i = 0; i < LAB_NODES; i++) {
        lab_start(&lab, i);
    }
    lab_until(&lab, lab_writable, NULL, "writable again");
    for (int i = 0; i < 60; i++) {
        char id[16];
        float x;
        snprintf(id, sizeof id, "a%d", i);
        x = lab_get(&lab, lab_primary(&lab, lab_shard_of(&lab, id)), c, id, NODE_LINEARIZABLE, NULL);
        cr_assert(i == 30 ? isnan(x) : x == (float)i, "a%d is %g", i, x);
    }
    lab_close(&lab);
}

/* A node whose disk was emptied holds nothing that counts: it is seeded and then in sync under another log id. */
Test(node, emptied_disk_is_seeded)
{
    struct lab lab;
    struct replica_status before, after;
    uint64_t c;
    int q;

    lab_open(&lab, 1);
    c = lab_collection(&lab, "things");
    for (int i = 0; i < 1500; i++) { /* more than replica_timings.seed_entries */
        char id[16];
        snprintf(id, sizeof id, "a%d", i);
        lab_put(&lab, c, id, (float)i);
    }
    q = (lab_primary(&lab, 0) + 1) % LAB_NODES;
    cr_assert(node_shard_status(lab.nodes[q], 0, &before));
    lab_stop(&lab, q);
    lab_wipe(&lab, q);
    lab_start(&lab, q);
    lab_put(&lab, c, "while away", 7);
    lab_until(&lab, lab_in_sync, NULL, "it is seeded and in sync");
    cr_assert(node_shard_status(lab.nodes[q], 0, &after));
    cr_assert(ne(u64, before.log_id, after.log_id));
    lab_put(&lab, c, "afterwards", 8);
    cr_assert(eq(flt, lab_get(&lab, q, c, "a1499", NODE_EVENTUAL, NULL), 1499));
    cr_assert(eq(flt, lab_get(&lab, q, c, "a0", NODE_EVENTUAL, NULL), 0));
    cr_assert(eq(flt, lab_get(&lab, q, c, "while away", NODE_EVENTUAL, NULL), 7));
    lab_close(&lab);
}

/* The coordinator away: reads and writes go on. */
Test(node, coordinator_away)
{
    struct lab lab;
    uint64_t c;

    lab_open(&lab, 2);
    lab_until(&lab, lab_in_sync, NULL, "all in sync");
    c = lab_collection(&lab, "things");
    fake_set_reach(lab.coordinator, FAKE_DOWN);
    for (int i = 0; i < 200; i++) {
        char id[16];
        int status;
        snprintf(id, sizeof id, "a%d", i);
        cr_assert(eq(int, lab_put(&lab, c, id, (float)i).status, 0));
        cr_assert(eq(flt, lab_get(&lab, lab_primary(&lab, lab_shard_of(&lab, id)), c, id, NODE_LINEARIZABLE, &status),
                     (float)i));
    }
    fake_set_reach(lab.coordinator, FAKE_REACHABLE);
    lab_put(&lab, c, "after", 1);
    lab_close(&lab);
}

/* After a crash the store is behind what is committed; a read that waits for the takeover must not answer out of it. */
Test(node, reads_wait_for_inherited_entries)
{
    struct lab lab;
    uint64_t c;
    int answered = 0;

    lab_open(&lab, 1);
    c = lab_collection(&lab, "things");
    for (int i = 0; i < 300; i++) {
        char id[16];
        snprintf(id, sizeof id, "a%d", i);
        lab_put(&lab, c, id, (float)i);
    }
    for (int i = 0; i < LAB_NODES; i++) {
        lab_crash(&lab, i);
    }
    for (int i = 0; i < LAB_NODES; i++) {
        lab_start(&lab, i);
    }
    lab_until(&lab, lab_opened, NULL, "the replicas are open");
    while (answered == 0) {
        for (int i = 0; i < LAB_NODES; i++) {
            int status;
            float x = lab_get(&lab, i, c, "a299", NODE_LINEARIZABLE, &status);
            if (status == 0) {
                cr_assert(eq(flt, x, 299), "node %d answers %g", i, x);
                answered++;
            }
        }
    }
    lab_close(&lab);
}

struct points {
    int node;
    uint64_t collection;
    otr_shard shards;
};

static bool no_points(struct lab *lab, void *data)
{
    struct points *p = data;

    for (int i = 0; i < LAB_NODES; i++) {
        for (otr_shard s = 0; s < lab->shards; s++) {
            uint64_t count = 1;
            if (node_count(lab->nodes[i], s, p->collection, &count) && count > 0) {
                return false;
            }
        }
    }
    return true;
}

/* A deleted collection's points go from every replica; the same name made again starts empty. */
Test(node, deleted_collection)
{
    struct lab lab;
    struct points p = {0};
    uint64_t again;

    lab_open(&lab, 2);
    p.collection = lab_collection(&lab, "things");
    for (int i = 0; i < 20; i++) {
        char id[16];
        snprintf(id, sizeof id, "a%d", i);
        lab_put(&lab, p.collection, id, (float)i);
    }
    lab_drop(&lab, "things");
    lab_until(&lab, no_points, &p, "the points are dropped everywhere");
    again = lab_collection(&lab, "things");
    cr_assert(isnan(lab_get(&lab, lab_primary(&lab, lab_shard_of(&lab, "a1")), again, "a1", NODE_LINEARIZABLE, NULL)));
    lab_put(&lab, again, "a1", 5);
    cr_assert(
        eq(flt, lab_get(&lab, lab_primary(&lab, lab_shard_of(&lab, "a1")), again, "a1", NODE_LINEARIZABLE, NULL), 5));
    lab_close(&lab);
}

static bool engine_is_fed(struct lab *lab, void *data)
{
    (void)data;
    return fake_engine_count("fake:1", "things__0") == 1 && fake_engine_count("fake:2", "things__0") == 1 &&
           fake_engine_count("fake:3", "things__0") == 1 && lab != NULL;
}

/* A collection of that name with another shape was left in the engines: it goes, and feeding goes on. */
Test(node, engine_holds_a_stranger_of_the_same_name)
{
    struct lab lab;
    uint64_t c;

    lab_open(&lab, 1);
    fake_engine_stranger("fake:1", "things__0");
    fake_engine_stranger("fake:2", "things__0");
    fake_engine_stranger("fake:3", "things__0");
    c = lab_collection(&lab, "things");
    lab_put(&lab, c, "a", 1);
    lab_until(&lab, engine_is_fed, NULL, "the engines hold the point");
    lab_close(&lab);
}
