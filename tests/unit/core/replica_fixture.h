/* A replica of shard 7 on node 1, with nodes 2 and 3 as peers, stepped event by event. The test is its shell: nothing
 * happens that the test does not say. Every fixture starts connected, with an open session. */
#ifndef OUTRIGGER_TESTS_UNIT_CORE_REPLICA_FIXTURE_H
#define OUTRIGGER_TESTS_UNIT_CORE_REPLICA_FIXTURE_H

#include "sidecar/core/replica.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

enum {
    NODE_SELF = 1,
    INCARNATION_SELF = 11, /* node n's process is 10 n + 1 */
    LOG_SELF = 101,        /* and its log 100 n + 1 */
    GRANT_MS = 120,
    START_MS = 100000,
};

struct fixture {
    struct replica *r;
    struct replica_actions out; /* of the last step */
    struct descriptor d;        /* what the coordinator holds */
    uint64_t revision;
    uint64_t now_ms;
    uint64_t ticket;
};

/* Just started on an empty disk; no descriptor yet. */
struct fixture fixture_new(void);
/* Primary of epoch 1 with nodes 1..members in sync, the epoch-start entry (index 1) committed. */
struct fixture fixture_primary(uint32_t members);
/* In-sync follower of node 2 in epoch 1, with entries 1..last of epoch 1, all durable, none known to be committed. */
struct fixture fixture_follower(uint64_t last);
/* The same, of a process that started just now on a log that has promised to follow an epoch. */
struct fixture fixture_restarted(uint64_t last, uint64_t promised);
void fixture_close(struct fixture *f);

/* Steps; actions are in f->out afterwards. */
void step(struct fixture *f, struct replica_event ev);
void step_tick(struct fixture *f, uint64_t ms); /* ms later */
void step_write(struct fixture *f, uint8_t request);
void step_synced(struct fixture *f, uint64_t index); /* the log, and every meta so far */
void step_ack(struct fixture *f, otr_node from, uint64_t epoch, uint64_t index);
void step_grant(struct fixture *f, otr_node from, uint64_t sent_ms);
void step_descriptor(struct fixture *f); /* f->d is shown at the next revision */
void step_txn_done(struct fixture *f, int status);
void step_peer(struct fixture *f, otr_node node, enum replica_peer_state state, uint64_t incarnation);
void step_lease(struct fixture *f, bool present, otr_node node, uint64_t incarnation);
void step_beacon(struct fixture *f, otr_node from, uint64_t epoch);
void step_beacon_for(struct fixture *f, otr_node from, uint64_t epoch, uint32_t grant_ms);
/* Entries after prev, of the given epochs (0 ends the list). */
void step_append(struct fixture *f, otr_node from, uint64_t epoch, struct otr_position prev, uint64_t commit,
                 const uint64_t *epochs);
void step_answer(struct fixture *f, otr_node from, uint64_t nonce, struct otr_position last, bool hears, bool silent);

/* The i-th action of the type in the last step, NULL when there are fewer. */
const struct replica_action *action(const struct fixture *f, enum replica_action_type type, size_t i);
size_t actions(const struct fixture *f, enum replica_action_type type);
/* The message of the type sent to the node in the last step, NULL: none. */
const struct replica_msg *sent(const struct fixture *f, otr_node to, enum replica_msg_type type);
struct replica_status status(const struct fixture *f);

#endif
