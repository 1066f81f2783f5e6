#include "tests/unit/core/replica_fixture.h"

static const struct replica_timings timings = {
    .beacon_ms = 30,
    .replica_timeout_ms = 400,
    .suspect_timeout_ms = 1000,
    .patience_ms = 50,
    .heartbeat_ms = 100,
    .dedup_window_ms = 600000,
    .dedup_ids_min = 100000,
    .seed_entries = 1000,
};

void step(struct fixture *f, struct replica_event ev)
{
    ev.now_ms = f->now_ms;
    cr_assert(eq(int, replica_step(f->r, &ev, &f->out), 0));
}

const struct replica_action *action(const struct fixture *f, enum replica_action_type type, size_t i)
{
    for (size_t k = 0; k < f->out.count; k++) {
        if (f->out.items[k].type == type && i-- == 0) {
            return &f->out.items[k];
        }
    }
    return NULL;
}

size_t actions(const struct fixture *f, enum replica_action_type type)
{
    size_t count = 0;

    while (action(f, type, count) != NULL) {
        count++;
    }
    return count;
}

const struct replica_msg *sent(const struct fixture *f, otr_node to, enum replica_msg_type type)
{
    for (size_t k = 0; k < f->out.count; k++) {
        const struct replica_action *a = &f->out.items[k];

        if ((a->type == REPLICA_DO_SEND || a->type == REPLICA_DO_SEND_APPEND) && a->send.to == to &&
            a->send.msg.type == type) {
            return &a->send.msg;
        }
    }
    return NULL;
}

struct replica_status status(const struct fixture *f)
{
    struct replica_status s;

    replica_status(f->r, f->now_ms, &s);
    return s;
}

void step_tick(struct fixture *f, uint64_t ms)
{
    f->now_ms += ms;
    step(f, (struct replica_event){.type = REPLICA_EV_TICK});
}

void step_write(struct fixture *f, uint8_t request)
{
    step(f, (struct replica_event){
                .type = REPLICA_EV_WRITE,
                .write = {.ticket = ++f->ticket, .time_ms = 1000, .request_id = {.bytes = {request}}},
            });
}

void step_synced(struct fixture *f, uint64_t index)
{
    struct replica_actions none = {0};

    /* Numbers above the last one are ignored, so every meta so far is named one by one. */
    for (uint64_t seq = 1; seq <= 64; seq++) {
        struct replica_event ev = {.type = REPLICA_EV_META_SYNCED, .now_ms = f->now_ms, .meta_synced = {.seq = seq}};

        cr_assert(eq(int, replica_step(f->r, &ev, &none), 0));
        if (none.count > 0) {
            struct replica_actions swapped = f->out; /* the test looks at the last step that did something */

            f->out = none;
            none = swapped;
        }
    }
    replica_actions_close(&none);
    if (index > 0) {
        step(f, (struct replica_event){.type = REPLICA_EV_LOG_SYNCED, .log_synced = {.index = index}});
    }
}

static void step_msg(struct fixture *f, otr_node from, struct replica_msg *msg)
{
    msg->generation = f->d.generation;
    step(f, (struct replica_event){.type = REPLICA_EV_MSG, .msg = {.from = from, .msg = msg}});
}

void step_ack(struct fixture *f, otr_node from, uint64_t epoch, uint64_t index)
{
    struct replica_msg msg = {.type = REPLICA_MSG_ACK, .epoch = epoch};

    msg.ack.log_id = 100 * from + 1;
    msg.ack.verified = (struct otr_position){.epoch = index == 0 ? 0 : 1, .index = index};
    step_msg(f, from, &msg);
}

void step_grant(struct fixture *f, otr_node from, uint64_t sent_ms)
{
    struct replica_msg msg = {.type = REPLICA_MSG_GRANT, .epoch = 1};

    msg.grant.incarnation = INCARNATION_SELF;
    msg.grant.sent_ms = sent_ms;
    msg.grant.log_id = 100 * from + 1;
    msg.grant.granted = true;
    msg.grant.grant_ms = GRANT_MS;
    step_msg(f, from, &msg);
}

void step_beacon(struct fixture *f, otr_node from, uint64_t epoch)
{
    step_beacon_for(f, from, epoch, GRANT_MS);
}

void step_beacon_for(struct fixture *f, otr_node from, uint64_t epoch, uint32_t grant_ms)
{
    struct replica_msg msg = {.type = REPLICA_MSG_BEACON, .epoch = epoch};

    msg.beacon.incarnation = 10 * from + 1;
    msg.beacon.sent_ms = 5;
    msg.beacon.grant_ms = grant_ms;
    step_msg(f, from, &msg);
}

void step_append(struct fixture *f, otr_node from, uint64_t epoch, struct otr_position prev, uint64_t commit,
                 const uint64_t *epochs)
{
    struct replica_entry entries[32];
    struct replica_msg msg = {.type = REPLICA_MSG_APPEND, .epoch = epoch};
    uint64_t last = prev.index;

    for (size_t i = 0; epochs != NULL && epochs[i] != 0; i++) {
        last++;
        entries[i] = (struct replica_entry){.position = {.epoch = epochs[i], .index = last},
                                            .time_ms = 1000,
                                            .request_id = {.bytes = {(uint8_t)last, (uint8_t)epochs[i]}}};
    }
    msg.append.incarnation = 10 * from + 1;
    msg.append.prev = prev;
    msg.append.last_index = last;
    msg.append.commit = commit;
    msg.append.entries = entries;
    step_msg(f, from, &msg);
}

void step_answer(struct fixture *f, otr_node from, uint64_t nonce, struct otr_position last, bool hears, bool silent)
{
    struct replica_msg msg = {.type = REPLICA_MSG_ANSWER, .epoch = 1};

    msg.answer.nonce = nonce;
    msg.answer.log_id = 100 * from + 1;
    msg.answer.last = last;
    msg.answer.hears_primary = hears;
    msg.answer.silent = silent;
    step_msg(f, from, &msg);
}

void step_descriptor(struct fixture *f)
{
    f->revision++;
    step(f, (struct replica_event){
                .type = REPLICA_EV_DESCRIPTOR,
                .descriptor = {.descriptor = &f->d, .revision = f->revision},
            });
}

/* Answers the transaction that the last step asked for; on success the coordinator holds it. */
void step_txn_done(struct fixture *f, int txn_status)
{
    const struct replica_action *a = action(f, REPLICA_DO_TXN, 0);
    uint64_t txn;

    cr_assert(a != NULL, "a transaction");
    txn = a->txn.txn;
    if (txn_status == 0) {
        f->revision++;
        if (a->txn.change_descriptor) {
            f->d = a->txn.descriptor;
        }
    }
    step(f, (struct replica_event){
                .type = REPLICA_EV_TXN_DONE,
                .txn_done = {.txn = txn, .status = txn_status, .revision = f->revision},
            });
}

void step_peer(struct fixture *f, otr_node node, enum replica_peer_state state, uint64_t incarnation)
{
    step(f, (struct replica_event){
                .type = REPLICA_EV_PEER,
                .peer = {.node = node, .state = state, .incarnation = incarnation},
            });
}

void step_lease(struct fixture *f, bool present, otr_node node, uint64_t incarnation)
{
    f->revision++;
    step(f, (struct replica_event){
                .type = REPLICA_EV_LEASE,
                .lease = {.present = present,
                          .node = node,
                          .incarnation = incarnation,
                          .epoch = 1,
                          .revision = f->revision,
                          .mine = present && node == NODE_SELF && incarnation == INCARNATION_SELF},
            });
}

static struct fixture open_at(const struct replica_durable *durable, uint64_t process_start_ms)
{
    struct replica_config config = {.shard = 7,
                                    .self = NODE_SELF,
                                    .incarnation = INCARNATION_SELF,
                                    .process_start_ms = process_start_ms,
                                    .timings = timings};
    struct fixture f = {.now_ms = START_MS, .revision = 10};

    f.d = (struct descriptor){.shard = 7,
                              .hash_last = UINT32_MAX,
                              .generation = 1,
                              .version = 1,
                              .replicas = {1, 2, 3},
                              .replicas_count = 3,
                              .mode = REPLICA_SYNC,
                              .min_in_sync = 2,
                              .grant_ms = GRANT_MS};
    cr_assert(eq(int, replica_new(&f.r, &config, durable), 0));
    return f;
}

static struct fixture open_with(const struct replica_durable *durable)
{
    return open_at(durable, START_MS - 10000);
}

static void connect(struct fixture *f)
{
    step(f, (struct replica_event){
                .type = REPLICA_EV_COORDINATOR,
                .coordinator = {.session_open = true, .reachable = true},
            });
    step_peer(f, 2, REPLICA_PEER_UP, 21);
    step_peer(f, 3, REPLICA_PEER_UP, 31);
}

static void add_members(struct fixture *f, uint32_t members)
{
    for (uint32_t i = 0; i < members; i++) {
        f->d.in_sync[i] = (struct member){.node = i + 1, .log_id = 100 * (i + 1) + 1};
    }
    f->d.in_sync_count = members;
}

struct fixture fixture_new(void)
{
    struct replica_durable durable = {.fresh_log_id = LOG_SELF};
    struct fixture f = open_with(&durable);

    connect(&f);
    return f;
}

struct fixture fixture_primary(uint32_t members)
{
    struct replica_durable durable = {.meta = {.log_id = LOG_SELF, .seen_generation = 1}, .fresh_log_id = LOG_SELF};
    struct fixture f = open_with(&durable);

    connect(&f);
    f.d.epoch = 1;
    f.d.primary = NODE_SELF;
    f.d.incarnation = INCARNATION_SELF;
    add_members(&f, members);
    step_lease(&f, true, NODE_SELF, INCARNATION_SELF);
    step_descriptor(&f); /* its own late-applied victory (E1) */
    step_synced(&f, 1);
    for (otr_node node = 2; node <= members; node++) {
        step_ack(&f, node, 1, 1);
    }
    cr_assert(eq(int, status(&f).role, REPLICA_PRIMARY));
    return f;
}

static struct fixture follow(uint64_t last, uint64_t promised, uint64_t process_start_ms)
{
    struct replica_durable durable = {.meta = {.log_id = LOG_SELF, .promised = promised, .seen_generation = 1},
                                      .last = {.epoch = last == 0 ? 0 : 1, .index = last},
                                      .fresh_log_id = LOG_SELF};
    struct fixture f = open_at(&durable, process_start_ms);

    if (last > 0) {
        cr_assert(eq(int, replica_restore_epoch(f.r, 1, 1), 0));
    }
    connect(&f);
    f.d.epoch = 1;
    f.d.primary = 2;
    f.d.incarnation = 21;
    add_members(&f, 3);
    step_lease(&f, true, 2, 21);
    step_descriptor(&f);
    step_synced(&f, 0);
    cr_assert(eq(int, status(&f).role, REPLICA_FOLLOWER));
    return f;
}

struct fixture fixture_follower(uint64_t last)
{
    return follow(last, 1, START_MS - 10000);
}

struct fixture fixture_restarted(uint64_t last, uint64_t promised)
{
    return follow(last, promised, START_MS);
}

void fixture_close(struct fixture *f)
{
    replica_free(f->r);
    replica_actions_close(&f->out);
}
