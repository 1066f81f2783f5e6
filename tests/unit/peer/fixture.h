/* Two or more hubs in one process, on one loop, and a record of all that they report. With PEER_TLS=1 in the
 * environment all of them use TLS. */
#ifndef TESTS_UNIT_PEER_FIXTURE_H
#define TESTS_UNIT_PEER_FIXTURE_H

#include "sidecar/peer/peer.h"

#include "tests/lib/temp_dir.h"
#include "tests/lib/test_certs.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

enum { EVENTS_MAX = 256 };

struct link_event {
    enum peer_link_state state;
    uint64_t incarnation;
    uint64_t at_ns; /* uv_hrtime */
    char why[200];
};

struct node {
    struct peer_hub *hub;
    uint64_t incarnation;
    bool closed;

    struct link_event events[EVENTS_MAX];
    unsigned events_count;

    uint64_t replicate_count;
    uint64_t replicate_bytes;
    uint64_t beacon_count;
    uint64_t out_of_order;
    uint64_t beacon_behind; /* replicate_count when the last one came */
    uint64_t beacon_ns_max; /* from sent_ms, in fact ns, to arrival */
    unsigned drained;
    char from_node[64];
    uint64_t from_incarnation;

    struct peer_call *held; /* the last call, while `hold` */
    struct peer_call *held_all[16];
    unsigned calls_count;
    bool hold;
    size_t reply_bytes;

    uint64_t seed_frames;
    uint64_t seed_bytes;
    unsigned seed_broken;
    bool seed_stall;
    struct peer_call *seed_call;

    unsigned intruders;
    char intruder_cluster[64];
};

extern uv_loop_t *loop;
/* All hubs opened from now on have good certificates of this CA, from files in this directory. Until loop_end. */
extern struct test_cert ca;
extern struct temp_dir dir;
extern bool secure;
void secure_begin(void);

/* `node` is filled; port 0 takes any. */
void node_open(struct node *n, const char *name, const char *cluster, uint64_t incarnation, uint16_t port);
/* The same, and it may fail. */
int node_try(struct node *n, const char *name, const char *cluster, uint64_t incarnation, uint16_t port,
             struct otr_errmsg *msg);
/* Runs the loop until closed. */
void node_close(struct node *n);
struct peer_link *node_dial(struct node *from, const char *to_name, const struct node *to);
/* Two nodes "a" and "b", a link from a to b that is UP. */
struct peer_link *pair_open(struct node *a, struct node *b);
void loop_begin(void);
/* Asserts that nothing is left on the loop. */
void loop_end(void);

/* Runs the loop until `condition`, at most ten seconds. */
#define RUN_UNTIL(condition)                                                          \
    do {                                                                              \
        uint64_t until_ = uv_hrtime() + 10000000000ULL;                               \
        while (!(condition)) {                                                        \
            cr_assert(uv_hrtime() < until_, "timed out waiting for: %s", #condition); \
            run_once();                                                               \
        }                                                                             \
    } while (0)
/* One turn, at most 20 ms of waiting. */
void run_once(void);
void run_for_ms(unsigned ms);

const struct link_event *last_event(const struct node *n);
/* An append that carries a number and so many bytes. */
int send_append(struct peer_link *link, uint64_t number, size_t bytes);
int send_beacon(struct peer_link *link, uint64_t number);

struct reply {
    unsigned count;
    int status;
    char text[OTR_ERRMSG_MAX];
    size_t body_bytes;
    uint32_t value;
};
void on_reply(void *data, int status, const ProtobufCMessage *message, const struct otr_errmsg *msg);
int call_forward(struct peer_link *link, size_t bytes, uint32_t timeout_ms, struct reply *reply);

#endif
