#include "tests/lib/fake_store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *grow(void *list, size_t count, size_t *room, size_t size)
{
    if (count < *room) {
        return list;
    }
    *room = *room != 0 ? *room * 2 : 64;
    list = realloc(list, *room * size);
    if (list == NULL) {
        abort();
    }
    return list;
}

static char *copy_bytes(const char *bytes, size_t count)
{
    char *copy = malloc(count + 1);

    if (copy == NULL) {
        abort();
    }
    if (count > 0) {
        memcpy(copy, bytes, count);
    }
    copy[count] = '\0';
    return copy;
}

void fake_store_init(struct fake_store *store, uint64_t identity)
{
    *store = (struct fake_store){.revision = 1, .identity = identity};
}

void fake_store_close(struct fake_store *store)
{
    for (size_t i = 0; i < store->history_count; i++) {
        free(store->history[i].key);
        free(store->history[i].value);
    }
    free(store->history);
    free(store->keys);
    free(store->sessions);
    *store = (struct fake_store){0};
}

/* --- keys ------------------------------------------------------------------------------------------------------- */

/* Place of the key in `keys`, or where it would be. */
static size_t key_place(const struct fake_store *store, const char *key)
{
    size_t low = 0, high = store->keys_count;

    while (low < high) {
        size_t middle = (low + high) / 2;

        if (strcmp(store->history[store->keys[middle]].key, key) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static const struct fake_change *key_find(const struct fake_store *store, const char *key)
{
    size_t place = key_place(store, key);

    if (place == store->keys_count || strcmp(store->history[store->keys[place]].key, key) != 0) {
        return NULL;
    }
    return &store->history[store->keys[place]];
}

/* Notes a change of store->revision, and makes it what exists. */
static void change_note(struct fake_store *store, const char *key, const char *value, size_t value_bytes,
                        uint64_t session, bool deleted)
{
    const struct fake_change *old = key_find(store, key);
    size_t place = key_place(store, key);
    struct fake_change change = {
        .deleted = deleted,
        .key = copy_bytes(key, strlen(key)),
        .value = copy_bytes(value, value_bytes),
        .value_bytes = value_bytes,
        .revision = store->revision,
        .create_revision = deleted       ? 0
                           : old != NULL ? old->create_revision
                                         : store->revision,
        .session = session,
    };

    store->history = grow(store->history, store->history_count, &store->history_room, sizeof *store->history);
    store->keys = grow(store->keys, store->keys_count, &store->keys_room, sizeof *store->keys);
    store->history[store->history_count] = change;
    if (deleted) {
        memmove(&store->keys[place], &store->keys[place + 1], (store->keys_count - place - 1) * sizeof *store->keys);
        store->keys_count--;
    } else {
        if (old == NULL) {
            memmove(&store->keys[place + 1], &store->keys[place], (store->keys_count - place) * sizeof *store->keys);
            store->keys_count++;
        }
        store->keys[place] = store->history_count;
    }
    store->history_count++;
}

/* --- sessions --------------------------------------------------------------------------------------------------- */

static struct fake_session *session_find(struct fake_store *store, uint64_t id)
{
    for (size_t i = 0; i < store->sessions_count; i++) {
        if (store->sessions[i].id == id) {
            return &store->sessions[i];
        }
    }
    return NULL;
}

uint64_t fake_store_session_open(struct fake_store *store, uint32_t ttl_ms, uint64_t now_ms)
{
    store->sessions = grow(store->sessions, store->sessions_count, &store->sessions_room, sizeof *store->sessions);
    store->sessions[store->sessions_count++] = (struct fake_session){
        .id = ++store->session_last,
        .ttl_ms = ttl_ms,
        .ends_ms = now_ms + ttl_ms,
    };
    return store->session_last;
}

bool fake_store_session_keep(struct fake_store *store, uint64_t id, uint64_t now_ms)
{
    struct fake_session *session = session_find(store, id);

    if (session != NULL) {
        session->ends_ms = now_ms + session->ttl_ms;
    }
    return session != NULL;
}

bool fake_store_session_end(struct fake_store *store, uint64_t id)
{
    struct fake_session *session = session_find(store, id);
    bool any = false;

    if (session == NULL) {
        return false;
    }
    *session = store->sessions[--store->sessions_count];
    for (size_t i = store->keys_count; i > 0; i--) {
        const struct fake_change *held = &store->history[store->keys[i - 1]];

        if (held->session == id) {
            /* All keys of a session go in one revision. */
            store->revision += any ? 0 : 1;
            any = true;
            change_note(store, held->key, "", 0, 0, true);
        }
    }
    return true;
}

void fake_store_expire(struct fake_store *store, uint64_t now_ms)
{
    for (size_t i = store->sessions_count; i > 0; i--) {
        if (now_ms >= store->sessions[i - 1].ends_ms) {
            fake_store_session_end(store, store->sessions[i - 1].id);
        }
    }
}

void fake_store_sessions_renew(struct fake_store *store, uint64_t now_ms)
{
    for (size_t i = 0; i < store->sessions_count; i++) {
        store->sessions[i].ends_ms = now_ms + store->sessions[i].ttl_ms;
    }
}

/* --- transactions ----------------------------------------------------------------------------------------------- */

struct otr_txn *fake_txn_copy(const struct otr_txn *txn)
{
    struct otr_txn *copy = calloc(1, sizeof *copy);
    struct otr_compare *compares = calloc(txn->compares_count + 1, sizeof *compares);
    struct otr_op *ops = calloc(txn->ops_count + 1, sizeof *ops);

    if (copy == NULL || compares == NULL || ops == NULL) {
        abort();
    }
    for (size_t i = 0; i < txn->compares_count; i++) {
        compares[i] = txn->compares[i];
        compares[i].key = copy_bytes(txn->compares[i].key, strlen(txn->compares[i].key));
        if (compares[i].type == OTR_COMPARE_SESSION) {
            compares[i].session = copy_bytes(txn->compares[i].session, strlen(txn->compares[i].session));
        } else {
            compares[i].session = NULL;
        }
    }
    for (size_t i = 0; i < txn->ops_count; i++) {
        ops[i] = txn->ops[i];
        ops[i].key = copy_bytes(txn->ops[i].key, strlen(txn->ops[i].key));
        ops[i].value = copy_bytes(txn->ops[i].value, ops[i].type != OTR_OP_DELETE ? ops[i].value_bytes : 0);
        ops[i].session = NULL;
        if (ops[i].type == OTR_OP_PUT_BOUND) {
            struct otr_session *session = calloc(1, sizeof *session);

            if (session == NULL) {
                abort();
            }
            memcpy(session->id, txn->ops[i].session->id, sizeof session->id);
            ops[i].session = session;
        }
    }
    *copy = (struct otr_txn){compares, txn->compares_count, ops, txn->ops_count};
    return copy;
}

void fake_txn_free(struct otr_txn *txn)
{
    for (size_t i = 0; i < txn->compares_count; i++) {
        free((char *)txn->compares[i].key);
        free((char *)txn->compares[i].session);
    }
    for (size_t i = 0; i < txn->ops_count; i++) {
        free((char *)txn->ops[i].key);
        free((char *)txn->ops[i].value);
        free((struct otr_session *)txn->ops[i].session);
    }
    free((struct otr_compare *)txn->compares);
    free((struct otr_op *)txn->ops);
    free(txn);
}

static bool compare_holds(const struct fake_store *store, const struct otr_compare *compare)
{
    const struct fake_change *held = key_find(store, compare->key);

    switch (compare->type) {
    case OTR_COMPARE_ABSENT:
        return held == NULL;
    case OTR_COMPARE_UNMODIFIED:
        return (held != NULL ? held->revision : 0) == compare->revision;
    case OTR_COMPARE_SESSION:
        return held != NULL && held->session != 0 && held->session == strtoull(compare->session, NULL, 10);
    }
    return false;
}

int fake_store_txn(struct fake_store *store, const struct otr_txn *txn)
{
    for (size_t i = 0; i < txn->compares_count; i++) {
        if (!compare_holds(store, &txn->compares[i])) {
            return OTR_CONFLICT;
        }
    }
    for (size_t i = 0; i < txn->ops_count; i++) {
        if (txn->ops[i].type == OTR_OP_PUT_BOUND &&
            session_find(store, strtoull(txn->ops[i].session->id, NULL, 10)) == NULL) {
            return OTR_SESSION;
        }
    }
    store->revision++;
    for (size_t i = 0; i < txn->ops_count; i++) {
        const struct otr_op *op = &txn->ops[i];

        if (op->type != OTR_OP_DELETE) {
            uint64_t session = op->session != NULL ? strtoull(op->session->id, NULL, 10) : 0;

            change_note(store, op->key, op->value, op->value_bytes, session, false);
        } else if (key_find(store, op->key) != NULL) {
            change_note(store, op->key, "", 0, 0, true);
        }
    }
    return 0;
}

struct otr_kv fake_change_kv(const struct fake_change *change, char *session)
{
    session[0] = '\0';
    if (change->session != 0) {
        snprintf(session, OTR_SESSION_ID_MAX, "%" PRIu64, change->session);
    }
    return (struct otr_kv){
        .key = change->key,
        .value = change->value,
        .value_bytes = change->value_bytes,
        .revision = change->revision,
        .create_revision = change->create_revision,
        .session = session,
    };
}
