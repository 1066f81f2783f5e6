#include "tests/conformance/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where there is no history: what existed when the watch began comes as a resync, by key. */
static void expect_counted_once(const struct watch *watch, int first, int last)
{
    static bool found[3000];
    uint64_t revision = 0;
    int count = 0;

    for (size_t i = 0; i < watch->seen_count; i++) {
        const struct seen *seen = &watch->seen[i];
        int n = seen->key[0] != '\0' ? atoi(seen->key + 2) : 0;

        cr_assert(seen->type != OTR_WATCH_DELETE && seen->revision >= revision);
        revision = seen->revision;
        if (seen->type == OTR_WATCH_PUT) {
            cr_assert(n >= first && n <= last && !found[n], "%s", seen->key);
            found[n] = true;
            count++;
        }
    }
    cr_assert(count == last - first + 1, "%d of %d", count, last - first + 1);
}

/* Fails unless the watch saw "w/<n>" put for n = first..last, each once, in order, and nothing else. */
static void expect_counted(const struct watch *watch, int first, int last)
{
    char key[16];
    uint64_t revision = 0;

    if (watch->w->driver->states) {
        expect_counted_once(watch, first, last);
        return;
    }
    cr_assert(watch->seen_count == (size_t)(last - first + 1), "%zu events for %d", watch->seen_count,
              last - first + 1);
    for (int i = first; i <= last; i++) {
        const struct seen *seen = &watch->seen[i - first];

        snprintf(key, sizeof key, "w/%d", i);
        cr_assert(seen->type == OTR_WATCH_PUT);
        cr_assert_str_eq(seen->key, key);
        cr_assert(seen->revision >= revision && seen->revision == seen->key_revision);
        revision = seen->revision;
    }
}

static void count(struct world *w, int first, int last)
{
    enum { PER_TXN = 8 };
    static char keys[PER_TXN][16];
    struct txn txn = {0};

    for (int i = first; i <= last; i++) {
        snprintf(keys[i % PER_TXN], sizeof keys[0], "w/%d", i);
        txn_put(&txn, keys[i % PER_TXN], keys[i % PER_TXN]);
        if (i % PER_TXN == PER_TXN - 1 || i == last) {
            cr_assert(txn_await(w, &txn) == 0, "%s", txn.text);
        }
    }
}

/* Only what comes after the revision, only below the prefix; deletions carry key and revision. */
CASE(watch_after_revision)
{
    struct watch watch = {0};
    uint64_t revision;

    put(w, "w/before", "1");
    revision = put(w, "w/a", "1");
    watch_start(w, &watch, w->b, "w/", revision);
    watch_settle(w);
    put(w, "v/outside", "1");
    put(w, "w0", "outside");
    put(w, "w/a", "2");
    if (w->driver->states) {
        AWAIT(w, watch.seen_count == 1);
    }
    revision = erase(w, "w/a");
    AWAIT(w, watch.seen_count >= 2);
    world_pass(w, 100);
    cr_assert(watch.seen_count == 2);
    cr_assert(watch.seen[0].type == OTR_WATCH_PUT);
    cr_assert_str_eq(watch.seen[0].value, "2");
    cr_assert(watch.seen[1].type == OTR_WATCH_DELETE);
    cr_assert_str_eq(watch.seen[1].key, "w/a");
    cr_assert_str_eq(watch.seen[1].value, "");
    cr_assert(watch.seen[1].revision == revision && watch.seen[1].key_revision == revision);
    watch_close(&watch);
}

/* 2,000 events, half of them before the watch begins: ordered, each once. */
CASE(watch_two_thousand_events)
{
    struct watch watch = {0};
    uint64_t revision = revision_now(w);

    count(w, 1, 1000);
    watch_start(w, &watch, w->b, "w/", revision);
    count(w, 1001, 2000);
    AWAIT(w, watch.seen_count >= 2000);
    world_pass(w, 100);
    expect_counted(&watch, 1, 2000);
    watch_close(&watch);
}

/* All changes of a transaction come, in any order, under one revision. */
CASE(watch_sees_whole_transactions)
{
    struct watch watch = {0};
    struct txn txn = {0};

    put(w, "w/c", "1");
    watch_start(w, &watch, w->b, "w/", revision_now(w));
    watch_settle(w);
    txn_put(&txn, "w/a", "1");
    txn_put(&txn, "w/b", "1");
    txn_delete(&txn, "w/c");
    cr_assert(txn_await(w, &txn) == 0);
    AWAIT(w, watch.seen_count == 3);
    for (int i = 0; i < 3; i++) {
        cr_assert(watch.seen[i].revision == txn.revision);
    }
    cr_assert(watch_holds(&watch, "w/a", "1") && watch_holds(&watch, "w/b", "1") && watch_dropped(&watch, "w/c"));
    watch_close(&watch);
}

/* The coordinator is killed and restarted again and again under the watch: nothing lost, nothing twice. */
CASE(watch_across_restarts)
{
    struct watch watch = {0};

    watch_start(w, &watch, w->b, "w/", revision_now(w));
    watch_settle(w);
    for (int round = 0; round < 4; round++) {
        count(w, round * 100 + 1, round * 100 + 100);
        w->driver->kill(w);
        world_pass(w, round * 40u);
        w->driver->start(w);
    }
    count(w, 401, 500);
    AWAIT(w, watch.seen_count >= 500);
    world_pass(w, 200);
    expect_counted(&watch, 1, 500);
    cr_assert(watch.resyncs_count == 0);
    watch_close(&watch);
}

/* History is compacted while the watch is away: it starts anew with everything that exists, and nothing else. */
CASE(watch_across_compaction)
{
    struct watch watch = {0};
    uint64_t revision;
    size_t i;

    put(w, "w/gone", "1");
    put(w, "w/kept", "1");
    watch_start(w, &watch, w->b, "w/", revision_now(w));
    watch_settle(w);
    put(w, "w/seen", "1");
    AWAIT(w, watch.seen_count == 1);
    revision = watch.seen[0].revision;
    watch_close(&watch);
    erase(w, "w/gone");
    put(w, "w/new", "2");
    put(w, "w/kept", "2");
    w->driver->compact(w);
    put(w, "w/after", "3");
    /* As after a long absence. */
    watch_start(w, &watch, w->b, "w/", revision);
    AWAIT(w, watch.resyncs_count == 1);
    cr_assert(watch.seen[0].type == OTR_WATCH_RESYNC);
    for (i = 1; watch.seen[i].type != OTR_WATCH_RESYNC_END; i++) {
        cr_assert(watch.seen[i].type == OTR_WATCH_PUT);
    }
    cr_assert(i == 5, "after, kept, new and seen between the two");
    cr_assert(watch_dropped(&watch, "w/gone"));
    cr_assert(watch_holds(&watch, "w/kept", "2") && watch_holds(&watch, "w/new", "2"));
    cr_assert(watch_holds(&watch, "w/seen", "1") && watch_holds(&watch, "w/after", "3"));
    put(w, "w/on", "4");
    erase(w, "w/new");
    AWAIT(w, watch_dropped(&watch, "w/new") && watch_holds(&watch, "w/on", "4"));
    cr_assert(watch.resyncs_count == 1);
    watch_close(&watch);
}

/* Frozen: SILENT after some seconds; afterwards ALIVE, and everything that happened comes, once. */
CASE(watch_while_coordinator_is_frozen)
{
    struct watch watch = {0};

    watch_start(w, &watch, w->b, "w/", revision_now(w));
    watch_settle(w);
    count(w, 1, 10);
    AWAIT(w, watch.seen_count == 10);
    w->driver->freeze(w);
    AWAIT(w, watch.silent_count == 1);
    world_pass(w, 500);
    cr_assert(watch.silent_count == 1 && watch.alive_count == 0);
    w->driver->thaw(w);
    count(w, 11, 20);
    AWAIT(w, watch.alive_count == 1 && watch.seen_count >= 20);
    world_pass(w, 2500); /* ALIVE is said once, not each time that it is confirmed. */
    expect_counted(&watch, 1, 20);
    watch_close(&watch);
}

/* Nobody there when it begins. */
CASE(watch_begun_before_coordinator_runs)
{
    struct watch watch = {0};

    w->driver->kill(w);
    watch_start(w, &watch, w->b, "w/", 0);
    AWAIT(w, watch.silent_count == 1);
    w->driver->start(w);
    count(w, 1, 10);
    AWAIT(w, watch.alive_count == 1 && watch_holds(&watch, "w/10", NULL));
    watch_close(&watch);
}

/* Several watches see the same things, also of overlapping prefixes. */
CASE(watch_several)
{
    struct watch watches[4] = {0};
    static const char *const prefixes[] = {"w/", "w/1", "w/1", ""};

    for (int i = 0; i < 4; i++) {
        watch_start(w, &watches[i], w->b, prefixes[i], revision_now(w));
    }
    watch_settle(w);
    count(w, 1, 19);
    AWAIT(w, watches[0].seen_count == 19 && watches[1].seen_count == 11 && watches[2].seen_count == 11 &&
                 watches[3].seen_count == 19);
    for (int i = 0; i < 4; i++) {
        watch_close(&watches[i]);
    }
}

/* Stopped from inside its own callback, in the middle of a batch of events, and at once after its start. */
CASE(watch_stopped_in_callback)
{
    struct watch watch = {.stop_after = 5};
    struct watch never = {0};
    uint64_t revision = revision_now(w);

    count(w, 1, 20);
    watch_start(w, &watch, w->b, "w/", revision);
    watch_start(w, &never, w->b, "w/", revision);
    watch_close(&never);
    AWAIT(w, watch.final_count == 1);
    world_pass(w, 200);
    cr_assert(watch.seen_count == 5);
    cr_assert(never.seen_count == 0);
    watch_close(&watch);
}

/* Large values come whole, in one event each. */
CASE(watch_large_values)
{
    static char big[300000];
    struct watch watch = {0};
    struct txn txn = {0};
    char key[16];

    memset(big, 'x', sizeof big - 1);
    watch_start(w, &watch, w->b, "w/", revision_now(w));
    watch_settle(w);
    for (int i = 0; i < 12; i++) {
        snprintf(key, sizeof key, "w/%d", i);
        txn_put(&txn, key, big);
        cr_assert(txn_await(w, &txn) == 0, "%s", txn.text);
    }
    AWAIT(w, watch.seen_count == 12);
    watch_close(&watch);
    watch_start(w, &watch, w->b, "w/", 1);
    AWAIT(w, watch.seen_count == 12);
    expect_counted(&watch, 0, 11);
    watch_close(&watch);
}
