/* etcd only: three members, and what becomes of one of them. The backend knows all three and starts with the first. */
#include "tests/conformance/world.h"
#include "tests/lib/etcd_server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const struct world_driver world_etcd_cluster;

struct load {
    struct watch watch;
    struct session session;
    int next;
};

/* One put of "w/<next>", tried until it certainly worked. Unknown outcomes are found out by reading. */
static void put_next(struct world *w, struct load *load)
{
    struct txn txn = {0};
    char key[16];

    snprintf(key, sizeof key, "w/%d", ++load->next);
    for (;;) {
        txn_absent(&txn, key);
        txn_put(&txn, key, "1");
        if (txn_await(w, &txn) == 0 || txn.status == OTR_CONFLICT) {
            return;
        }
        cr_assert(txn.status == OTR_UNKNOWN || txn.status == OTR_UNREACHABLE, "%s", txn.text);
    }
}

static void load_start(struct world *w, struct load *load)
{
    struct get get;

    get_await(w, &get, "w/");
    watch_start(w, &load->watch, w->b, "w/", get.revision);
    get_close(&get);
    session_await(w, &load->session, 3000);
    put_bound(w, "s/a", "1", &load->session.s);
    for (int i = 0; i < 20; i++) {
        put_next(w, load);
    }
    AWAIT(w, load->watch.seen_count == 20);
}

/* Everything came, once and in order, and the session stands. */
static void load_check(struct world *w, struct load *load)
{
    char key[16];

    for (int i = 0; i < 20; i++) {
        put_next(w, load);
    }
    AWAIT_MS(w, load->watch.seen_count >= (size_t)load->next, 15000);
    world_pass(w, 200);
    cr_assert(load->watch.seen_count == (size_t)load->next && load->watch.resyncs_count == 0);
    for (int i = 0; i < load->next; i++) {
        snprintf(key, sizeof key, "w/%d", i + 1);
        cr_assert_str_eq(load->watch.seen[i].key, key);
    }
    AWAIT(w, load->session.unreachable_count == load->session.confirmed_count);
    cr_assert(load->session.lost_count == 0);
    cr_assert_str_eq(value_now(w, "s/a"), "1");
    watch_close(&load->watch);
}

static void case_member_killed(struct world *w)
{
    struct etcd_server *server = w->coordinator;
    struct load load = {0};

    load_start(w, &load);
    for (unsigned i = 0; i < 3; i++) {
        etcd_server_kill(server, i);
        for (int j = 0; j < 10; j++) {
            put_next(w, &load);
        }
        etcd_server_start(server);
    }
    load_check(w, &load);
}

/* Each member in turn dies and comes back: two thirds of the time not the one that the backend talks to, once the
 * leader. */
Test(etcd_cluster, member_killed, .timeout = 60)
{
    world_run(&world_etcd_cluster, case_member_killed);
}

static void case_member_frozen(struct world *w)
{
    struct etcd_server *server = w->coordinator;
    struct load load = {0};
    uint64_t begin;

    load_start(w, &load);
    etcd_server_freeze(server, 0);
    begin = uv_hrtime();
    put_next(w, &load);
    AWAIT(w, load.watch.seen_count == (size_t)load.next);
    cr_assert(uv_hrtime() - begin < 8 * 1000000000ull, "watch and writes go on elsewhere within seconds");
    load_check(w, &load);
    etcd_server_thaw(server, 0);
}

/* The member that the backend talks to freezes: its connections stay open and say nothing. */
Test(etcd_cluster, member_frozen, .timeout = 60)
{
    world_run(&world_etcd_cluster, case_member_frozen);
}

static void case_quorum_lost(struct world *w)
{
    struct etcd_server *server = w->coordinator;
    struct load load = {0};
    struct txn txn = {0};
    struct get get;

    load_start(w, &load);
    etcd_server_kill(server, 1);
    etcd_server_kill(server, 2);
    AWAIT(w, load.session.unreachable_count == 1);
    AWAIT_MS(w, load.watch.silent_count == 1, 15000);
    txn_put(&txn, "q/a", "1");
    cr_assert(txn_await(w, &txn) == OTR_UNKNOWN, "%s", txn.text);
    get_start(w, &get, w->b, "w/");
    AWAIT(w, get.calls_count == 1);
    cr_assert(get.status == OTR_UNREACHABLE || get.status == OTR_TIMEOUT, "a stale answer is no answer");
    etcd_server_start(server);
    AWAIT_MS(w, load.watch.alive_count == 1, 15000);
    load_check(w, &load);
}

/* One of three is left: nothing is decided, nothing ends. */
Test(etcd_cluster, quorum_lost, .timeout = 60)
{
    world_run(&world_etcd_cluster, case_quorum_lost);
}
