/* A coordinator's memory for tests: keys with revisions, their history, sessions. No I/O, no clock: time is an
 * argument. struct fake_coordinator (fake_backend.h) puts it on a loop. */
#ifndef OUTRIGGER_TESTS_FAKE_STORE_H
#define OUTRIGGER_TESTS_FAKE_STORE_H

#include "outrigger/backend.h"

/* One change, and at the same time what a key looks like: all memory is the store's. */
struct fake_change {
    bool deleted;
    char *key;
    char *value;
    size_t value_bytes;
    uint64_t revision;
    uint64_t create_revision;
    uint64_t session; /* 0: durable */
};

struct fake_session {
    uint64_t id;
    uint32_t ttl_ms;
    uint64_t ends_ms;
};

struct fake_store {
    struct fake_change *history; /* by revision; of all time */
    size_t history_count;
    size_t history_room;
    size_t *keys; /* what exists: places in history, sorted by key */
    size_t keys_count;
    size_t keys_room;
    struct fake_session *sessions;
    size_t sessions_count;
    size_t sessions_room;
    uint64_t revision;
    uint64_t compacted; /* changes up to here may no longer be asked for */
    uint64_t identity;
    uint64_t session_last;
};

void fake_store_init(struct fake_store *store, uint64_t identity);
void fake_store_close(struct fake_store *store);

/* A copy that owns its memory: a transaction can be carried out long after its caller has forgotten it. */
struct otr_txn *fake_txn_copy(const struct otr_txn *txn);
void fake_txn_free(struct otr_txn *txn);

/* 0, OTR_CONFLICT or OTR_SESSION. */
int fake_store_txn(struct fake_store *store, const struct otr_txn *txn);

uint64_t fake_store_session_open(struct fake_store *store, uint32_t ttl_ms, uint64_t now_ms);
/* False when there is no such session. */
bool fake_store_session_keep(struct fake_store *store, uint64_t id, uint64_t now_ms);
bool fake_store_session_end(struct fake_store *store, uint64_t id);
/* Ends the sessions whose time is over. */
void fake_store_expire(struct fake_store *store, uint64_t now_ms);
/* As a coordinator that comes back does: every session has its whole TTL again. */
void fake_store_sessions_renew(struct fake_store *store, uint64_t now_ms);

/* What a change looks like to a client; `session` must have room for OTR_SESSION_ID_MAX bytes. */
struct otr_kv fake_change_kv(const struct fake_change *change, char *session);

#endif
