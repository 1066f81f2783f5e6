/* Engines that do not hold, or do not take, what the log holds: built anew, never skipped over (DESIGN 5). */
#include "lab.h"
#include "sidecar/io/clock.h"
#include "sidecar/node/feeder.h"
#include "sidecar/node/node_internal.h"
#include "tests/lib/fake_engine.h"

#include <stdio.h>

enum { POINTS = 60 };

static const char *const urls[] = {"fake:1", "fake:2", "fake:3"};
static const char name[] = "things__0";

struct scene {
    struct lab lab;
    uint64_t collection;
    int p; /* the primary */
    const char *url;
    size_t count; /* points that the engine is to have */
    uint64_t rebuilds;
};

static bool engine_has(struct lab *lab, void *data)
{
    const struct scene *s = data;

    (void)lab;
    return fake_engine_count(s->url, name) == s->count;
}

static bool was_rebuilt(struct lab *lab, void *data)
{
    const struct scene *s = data;

    return lab->nodes[s->p]->metrics.node.engine_rebuilds_total >= s->rebuilds;
}

static bool is_fed(struct lab *lab, void *data)
{
    const struct scene *s = data;
    const struct shard *shard = node_shard(lab->nodes[s->p], 0);

    return feeder_current(shard->feeder) && feeder_applied(shard->feeder) == shard->stored;
}

/* p00 ... at 0, 1, ...; all of them in the primary's engine. */
static void scene_open(struct scene *s)
{
    *s = (struct scene){.count = POINTS};
    lab_open(&s->lab, 1);
    lab_until(&s->lab, lab_in_sync, NULL, "all in sync");
    s->collection = lab_collection(&s->lab, "things");
    for (int i = 0; i < POINTS; i++) {
        char id[16];

        snprintf(id, sizeof id, "p%02d", i);
        lab_put(&s->lab, s->collection, id, (float)i);
    }
    s->p = lab_primary(&s->lab, 0);
    s->url = urls[s->p];
    lab_until(&s->lab, engine_has, s, "the engine has everything");
}

static void finds(struct scene *s, float x, const char *expected)
{
    char ids[256];

    lab_search(&s->lab, s->p, 0, s->collection, x, 3, NODE_LINEARIZABLE, ids, sizeof ids);
    cr_assert(eq(str, ids, (char *)expected));
}

/* A refused entry: the engine's collection is dropped and built anew, with everything; meanwhile searches are right. */
Test(feeder, a_refusal_has_the_engine_built_anew)
{
    struct scene s;

    scene_open(&s);
    fake_engine_ghost(s.url, name, "ghost", (const float[LAB_DIMENSION]){7, 1, 0, 0}, LAB_DIMENSION);
    fake_engine_damage(s.url, name, false);
    cr_assert(eq(int, lab_put(&s.lab, s.collection, "new", 10.4F).status, 0));
    finds(&s, 10.4F, "new p10 p11");
    s.count = POINTS + 1; /* and so without the ghost */
    lab_until(&s.lab, engine_has, &s, "the engine is built anew");
    lab_until(&s.lab, is_fed, &s, "the engine is in use again");
    cr_assert(eq(u64, s.lab.nodes[s.p]->metrics.node.engine_rebuilds_total, 1));
    finds(&s, 10.4F, "new p10 p11");
    lab_delete(&s.lab, s.collection, "new");
    s.count = POINTS;
    lab_until(&s.lab, engine_has, &s, "and takes what comes next");
    cr_assert(eq(u64, s.lab.nodes[s.p]->metrics.node.engine_rebuilds_total, 1));
    lab_close(&s.lab);
}

/* An engine that goes on refusing is tried again less and less often; it serves no search, and nothing is skipped. */
Test(feeder, an_engine_that_goes_on_refusing_is_left_alone)
{
    struct scene s;
    uint64_t began;

    scene_open(&s);
    fake_engine_damage(s.url, name, true);
    began = clock_now_ms();
    lab_put(&s.lab, s.collection, "new", 10.4F);
    s.rebuilds = 4;
    lab_until(&s.lab, was_rebuilt, &s, "it is tried again");
    cr_assert(ge(u64, clock_now_ms() - began, 200 + 400 + 800), "the pauses grow");
    cr_assert(not(is_fed(&s.lab, &s)));
    cr_assert(eq(sz, fake_engine_count(s.url, name), 0));
    finds(&s, 10.4F, "new p10 p11");
    fake_engine_mend(s.url);
    s.count = POINTS + 1;
    lab_until(&s.lab, engine_has, &s, "once it takes them, it gets all");
    lab_until(&s.lab, is_fed, &s, "and is in use again");
    lab_close(&s.lab);
}

/* A collection that is gone is not made anew and left empty. */
Test(feeder, a_collection_that_vanished_is_filled_again)
{
    struct scene s;

    scene_open(&s);
    fake_engine_drop(s.url, name);
    lab_put(&s.lab, s.collection, "new", 10.4F);
    s.count = POINTS + 1;
    lab_until(&s.lab, engine_has, &s, "all points are there, not the new one alone");
    lab_until(&s.lab, is_fed, &s, "the engine is in use again");
    finds(&s, 10.4F, "new p10 p11");
    lab_close(&s.lab);
}

static bool was_dropped(struct lab *lab, void *data)
{
    const struct scene *s = data;

    (void)lab;
    return fake_engine_count(s->url, name) == 0;
}

/* Killed between the drop and the replay: the next start knows that the engine holds nothing. */
Test(feeder, a_crash_amid_the_rebuild_forgets_nothing)
{
    struct scene s;

    scene_open(&s);
    lab_stop(&s.lab, s.p); /* Its note of progress is durable: the engine holds everything. */
    lab_start(&s.lab, s.p);
    lab_until(&s.lab, lab_in_sync, NULL, "all in sync");
    fake_engine_damage(s.url, name, true);
    lab_put(&s.lab, s.collection, "new", 10.4F);
    lab_until(&s.lab, was_dropped, &s, "the collection is dropped");
    lab_crash(&s.lab, s.p);
    fake_engine_mend(s.url);
    lab_start(&s.lab, s.p);
    s.count = POINTS + 1;
    lab_until(&s.lab, engine_has, &s, "the engine gets everything");
    lab_close(&s.lab);
}

static bool applied_one_more(struct lab *lab, void *data)
{
    const struct scene *s = data;

    return feeder_applied(node_shard(lab->nodes[s->p], 0)->feeder) > s->count;
}

/* An engine that moves, and yet is behind by more than a bounded read may be: it is asked, and what it lacks is read
 * from the log: what is new, what was overwritten, what was deleted. */
Test(feeder, an_engine_far_behind_hides_nothing)
{
    struct scene s;
    const struct shard *shard;
    uint64_t scans;
    char ids[256];

    scene_open(&s);
    shard = node_shard(s.lab.nodes[s.p], 0);
    s.count = feeder_applied(shard->feeder);
    fake_engine_hold_writes(s.url);
    lab_put(&s.lab, s.collection, "first", 500);
    lab_put(&s.lab, s.collection, "new", 300.5F); /* each waits a second for the engine */
    lab_put(&s.lab, s.collection, "p10", 301);
    lab_delete(&s.lab, s.collection, "p20");
    fake_engine_let_writes(s.url, 1);
    lab_until(&s.lab, applied_one_more, &s, "the engine has moved");
    fake_engine_lose(s.url, name, "new");
    scans = s.lab.nodes[s.p]->metrics.node.exact_scans_total;
    cr_assert(lt(u64, feeder_applied(shard->feeder), shard->stored));

    lab_search(&s.lab, s.p, 0, s.collection, 300, 3, NODE_BOUNDED, ids, sizeof ids);
    cr_assert(eq(str, ids, "new p10 first"));
    lab_search(&s.lab, s.p, 0, s.collection, 10, 3, NODE_BOUNDED, ids, sizeof ids);
    cr_assert(eq(str, ids, "p09 p11 p08"));
    lab_search(&s.lab, s.p, 0, s.collection, 20.1F, 3, NODE_LINEARIZABLE, ids, sizeof ids);
    cr_assert(eq(str, ids, "p21 p19 p22"));
    cr_assert(eq(u64, s.lab.nodes[s.p]->metrics.node.exact_scans_total, scans));
    fake_engine_let_writes(s.url, 1000);
    lab_until(&s.lab, is_fed, &s, "the engine is level");
    lab_close(&s.lab);
}
