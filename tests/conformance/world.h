/* One suite of cases for every coordination backend: CASE(name) { ... } becomes a test per backend. What the backends
 * do differently under faults is behind struct world_driver; a case never asks which one it has. */
#ifndef OUTRIGGER_TESTS_CONFORMANCE_WORLD_H
#define OUTRIGGER_TESTS_CONFORMANCE_WORLD_H

#include "outrigger/backend.h"

#include <criterion/criterion.h>
#include <uv.h>

struct world;

/* The network between one backend and a coordinator that runs, as in tests/lib/relay.h. */
enum world_link { LINK_WHOLE = 1, LINK_REFUSED, LINK_SILENT, LINK_NO_REQUESTS, LINK_NO_ANSWERS };

struct world_driver {
    const struct otr_backend_ops *ops;
    void (*init)(struct world *w); /* sets w->endpoints; nothing runs yet */
    void (*start)(struct world *w);
    void (*kill)(struct world *w);   /* nobody answers, connections break; start brings it back with its data */
    void (*freeze)(struct world *w); /* nobody answers, connections stay */
    void (*thaw)(struct world *w);
    void (*compact)(struct world *w);  /* history is gone */
    void (*wipe)(struct world *w);     /* after kill: another, empty coordinator starts */
    void (*far_open)(struct world *w); /* w->far: another backend, behind a link of its own */
    void (*far_link)(struct world *w, enum world_link link);
    void (*close)(struct world *w);
    const char *(*service)(struct world *w, const char *id); /* its health as others see it; "": it is not there */
    const char *no_session;                                  /* an id that is well-formed and nobody's */
    /* What backend.h allows a coordinator that shows states and has no history: changes between two looks are one or
     * none; keys are printable text; when it was away for longer than a session's TTL, the session may have ended. */
    bool states;
};
extern const struct world_driver world_etcd;
/* TLS with client certificates, and a user who has the shipped role and no more; tokens last one second. */
extern const struct world_driver world_etcd_secure;
/* Three members. The driver's faults concern them all; other ones are for a test to choose. */
extern const struct world_driver world_etcd_cluster;
extern const struct world_driver world_fake;
/* One server, three of them, and one with TLS and tokens. */
extern const struct world_driver world_consul;
extern const struct world_driver world_consul_three;
extern const struct world_driver world_consul_secure;

struct world {
    uv_loop_t loop;
    const struct world_driver *driver;
    const struct otr_backend_ops *ops;
    struct otr_backend *b;   /* the usual one */
    struct otr_backend *far; /* NULL before far_open */
    struct relay *relay;     /* the driver's */
    char endpoints[256];
    struct otr_backend_config access; /* who we are, and TLS files; for world_open */
    void *coordinator;                /* the driver's */
    uv_timer_t ticker;
    bool in_call;                /* a member of the vtable runs: no callback may fire */
    struct otr_backend *closing; /* the last one that was closed: its sessions report nothing any more */
};

/* All keys of the suite are below this, which is what a user of the shipped role may touch; cases write and see them
 * without it. An empty key stays empty. */
#define WORLD_PREFIX "/outrigger/suite/"

#define CASE(name)                                    \
    static void case_##name(struct world *w);         \
    Test(etcd, name, .timeout = 60)                   \
    {                                                 \
        world_run(&world_etcd, case_##name);          \
    }                                                 \
    Test(etcd_three, name, .timeout = 60)             \
    {                                                 \
        world_run(&world_etcd_cluster, case_##name);  \
    }                                                 \
    Test(etcd_secure, name, .timeout = 60)            \
    {                                                 \
        world_run(&world_etcd_secure, case_##name);   \
    }                                                 \
    Test(consul, name, .timeout = 90)                 \
    {                                                 \
        world_run(&world_consul, case_##name);        \
    }                                                 \
    Test(consul_three, name, .timeout = 90)           \
    {                                                 \
        world_run(&world_consul_three, case_##name);  \
    }                                                 \
    Test(consul_secure, name, .timeout = 90)          \
    {                                                 \
        world_run(&world_consul_secure, case_##name); \
    }                                                 \
    Test(fake, name, .timeout = 60)                   \
    {                                                 \
        world_run(&world_fake, case_##name);          \
    }                                                 \
    static void case_##name(struct world *w)

/* Runs a case in a world whose coordinator runs and whose backend is open; afterwards everything is closed and nothing
 * is left on the loop. */
void world_run(const struct world_driver *driver, void (*body)(struct world *w));

/* Runs the loop until `condition` holds; fails after `ms`. */
#define AWAIT_MS(w, condition, ms)                                                        \
    do {                                                                                  \
        uint64_t end_ = uv_hrtime() + (uint64_t)(ms)*1000000;                             \
        while (!(condition)) {                                                            \
            cr_assert(uv_hrtime() < end_, "not within %d ms: %s", (int)(ms), #condition); \
            uv_run(&(w)->loop, UV_RUN_ONCE);                                              \
        }                                                                                 \
    } while (0)
#define AWAIT(w, condition) AWAIT_MS(w, condition, 10000)

/* Lets that much time pass, for what must not happen, or must have happened meanwhile. */
void world_pass(struct world *w, unsigned ms);

/* Calls a member of the vtable and notes that it runs. */
#define CALL(w, result, call) \
    do {                      \
        (w)->in_call = true;  \
        (result) = (call);    \
        (w)->in_call = false; \
    } while (0)

struct otr_backend *world_open(struct world *w, const char *endpoints);
/* What drivers have in common: a link that is w->relay; a service whose entry is a key. */
void world_relay_link(struct world *w, enum world_link link);
const char *world_service_in_key(struct world *w, const char *id);
void world_close_backend(struct world *w, struct otr_backend *b);

/* --- gets ------------------------------------------------------------------------------------------------------- */

struct get {
    struct otr_get_req req;
    struct world *w;
    unsigned calls_count;
    int status;
    struct otr_kv *kvs; /* a copy */
    size_t kvs_count;
    uint64_t revision;
    uint64_t identity;
};
void get_start(struct world *w, struct get *get, struct otr_backend *b, const char *prefix);
/* Waits for the answer too. */
void get_await(struct world *w, struct get *get, const char *prefix);
void get_close(struct get *get);
/* The key's value (first bytes), NULL when absent; reads it from the coordinator. */
const char *value_now(struct world *w, const char *key);
uint64_t revision_now(struct world *w);

/* --- transactions ----------------------------------------------------------------------------------------------- */

struct txn {
    struct otr_txn_req req;
    struct world *w;
    struct otr_compare compares[80];
    struct otr_op ops[80];
    size_t compares_count;
    size_t ops_count;
    unsigned calls_count;
    int status;
    uint64_t revision;
    char text[OTR_ERRMSG_MAX];
};
void txn_absent(struct txn *txn, const char *key);
void txn_unmodified(struct txn *txn, const char *key, uint64_t revision);
void txn_session(struct txn *txn, const char *key, const char *session);
void txn_put(struct txn *txn, const char *key, const char *value);
void txn_put_bound(struct txn *txn, const char *key, const char *value, const struct otr_session *session);
void txn_delete(struct txn *txn, const char *key);
/* What the call itself returns. */
int txn_start(struct world *w, struct txn *txn, struct otr_backend *b);
/* Starts it, waits, returns the status; txn may be filled anew. */
int txn_await(struct world *w, struct txn *txn);
/* Short forms that must succeed; they return the revision. */
uint64_t put(struct world *w, const char *key, const char *value);
uint64_t put_bound(struct world *w, const char *key, const char *value, const struct otr_session *session);
uint64_t erase(struct world *w, const char *key);

/* --- sessions --------------------------------------------------------------------------------------------------- */

struct session {
    struct otr_session s;
    struct world *w;
    struct otr_backend *b;
    unsigned open_count;
    unsigned unreachable_count;
    unsigned confirmed_count;
    unsigned lost_count;
    enum otr_session_state last;
    char text[OTR_ERRMSG_MAX]; /* of the last UNREACHABLE or LOST */
};
void session_start(struct world *w, struct session *session, struct otr_backend *b, unsigned ttl_ms);
/* Waits until it is open. */
void session_await(struct world *w, struct session *session, unsigned ttl_ms);

struct simple {
    struct otr_simple_req req;
    struct world *w;
    unsigned calls_count;
    int status;
};
int session_end(struct world *w, struct session *session); /* session_close, waited for */
int session_revoke(struct world *w, const char *id);
void simple_done(struct otr_simple_req *req, int status, const struct otr_errmsg *msg);

/* --- watches ---------------------------------------------------------------------------------------------------- */

struct seen {
    enum otr_watch_event_type type;
    char key[64];
    char value[64];
    uint64_t revision;     /* of the event */
    uint64_t key_revision; /* of the kv */
};
struct watch {
    struct otr_watch watch;
    struct world *w;
    struct otr_backend *b;
    struct seen *seen; /* PUT, DELETE, RESYNC, RESYNC_END */
    size_t seen_count;
    size_t seen_room;
    unsigned silent_count;
    unsigned alive_count;
    unsigned resyncs_count; /* complete ones */
    unsigned final_count;
    int final_status;
    size_t stop_after; /* calls watch_stop from inside the callback of that event; 0: never */
};
void watch_start(struct world *w, struct watch *watch, struct otr_backend *b, const char *prefix, uint64_t revision);
/* Without history a watch has to have looked once before it can tell what changed. */
void watch_settle(struct world *w);
void watch_close(struct watch *watch); /* also stops it when it runs */
/* True when the last thing said about key is that it exists (with that value, unless NULL). */
bool watch_holds(const struct watch *watch, const char *key, const char *value);
bool watch_dropped(const struct watch *watch, const char *key); /* the last thing said is that it does not */

#endif
