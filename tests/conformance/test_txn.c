#include "tests/conformance/world.h"

#include <stdlib.h>
#include <string.h>

/* "Absent" succeeds once; the second time it fails and changes nothing. */
CASE(txn_absent)
{
    struct txn txn = {0};

    txn_absent(&txn, "t/a");
    txn_put(&txn, "t/a", "first");
    cr_assert(txn_await(w, &txn) == 0);
    cr_assert(txn.revision > 0);
    txn_absent(&txn, "t/a");
    txn_put(&txn, "t/a", "second");
    txn_put(&txn, "t/b", "second");
    cr_assert(txn_await(w, &txn) == OTR_CONFLICT);
    cr_assert_str_eq(value_now(w, "t/a"), "first");
    cr_assert(value_now(w, "t/b") == NULL);
}

/* "Unmodified" holds for the revision of the last change only. */
CASE(txn_unmodified)
{
    struct txn txn = {0};
    uint64_t first = put(w, "t/a", "1");
    uint64_t second;

    txn_unmodified(&txn, "t/a", first);
    txn_put(&txn, "t/a", "2");
    cr_assert(txn_await(w, &txn) == 0);
    second = txn.revision;
    cr_assert(second > first);
    txn_unmodified(&txn, "t/a", first);
    txn_put(&txn, "t/a", "3");
    cr_assert(txn_await(w, &txn) == OTR_CONFLICT);
    txn_unmodified(&txn, "t/a", second);
    txn_delete(&txn, "t/a");
    cr_assert(txn_await(w, &txn) == 0);
    cr_assert(value_now(w, "t/a") == NULL);
}

/* All operations of a transaction share its revision, and a deletion of nothing is no error. */
CASE(txn_is_one_revision)
{
    struct txn txn = {0};
    struct get get;

    txn_put(&txn, "t/a", "1");
    txn_put(&txn, "t/b", "");
    txn_delete(&txn, "t/never-was");
    cr_assert(txn_await(w, &txn) == 0);
    get_await(w, &get, "t/");
    cr_assert(get.kvs_count == 2);
    cr_assert(get.kvs[0].revision == txn.revision && get.kvs[1].revision == txn.revision);
    cr_assert(get.kvs[1].value_bytes == 0);
    cr_assert(get.revision == txn.revision);
    get_close(&get);
}

/* Compare on the session that a key is bound to; a durable key is bound to none. */
CASE(txn_compares_session)
{
    struct session mine, other;
    struct txn txn = {0};

    session_await(w, &mine, 3000);
    session_await(w, &other, 3000);
    put_bound(w, "t/a", "1", &mine.s);
    txn_session(&txn, "t/a", other.s.id);
    txn_put(&txn, "t/b", "no");
    cr_assert(txn_await(w, &txn) == OTR_CONFLICT);
    txn_session(&txn, "t/a", mine.s.id);
    txn_put_bound(&txn, "t/a", "2", &other.s);
    cr_assert(txn_await(w, &txn) == 0);
    /* The key has moved: the end of its first session leaves it alone. */
    cr_assert(session_end(w, &mine) == 0);
    cr_assert_str_eq(value_now(w, "t/a"), "2");
    cr_assert(session_end(w, &other) == 0);
    cr_assert(value_now(w, "t/a") == NULL);
    put(w, "t/c", "durable");
    txn_session(&txn, "t/c", other.s.id);
    txn_put(&txn, "t/c", "no");
    cr_assert(txn_await(w, &txn) == OTR_CONFLICT);
}

/* A durable put makes a bound key durable. */
CASE(txn_put_detaches_from_session)
{
    struct session session;
    struct get get;

    session_await(w, &session, 3000);
    put_bound(w, "t/a", "1", &session.s);
    get_await(w, &get, "t/");
    cr_assert_str_eq(get.kvs[0].session, session.s.id);
    get_close(&get);
    put(w, "t/a", "2");
    get_await(w, &get, "t/");
    cr_assert_str_eq(get.kvs[0].session, "");
    get_close(&get);
    cr_assert(session_end(w, &session) == 0);
    cr_assert_str_eq(value_now(w, "t/a"), "2");
}

/* A put bound to a dead session fails whole, and the session's owner soon hears that it is dead. */
CASE(txn_with_dead_session)
{
    struct session session;
    struct session closed;
    struct txn txn = {0};

    session_await(w, &session, 60000);
    cr_assert(session_revoke(w, session.s.id) == 0);
    txn_put(&txn, "t/a", "no");
    txn_put_bound(&txn, "t/b", "no", &session.s);
    cr_assert(txn_await(w, &txn) == OTR_SESSION, "%s", otr_errname(txn.status));
    cr_assert(value_now(w, "t/a") == NULL && value_now(w, "t/b") == NULL);
    /* Long before the next keep-alive is due. */
    AWAIT_MS(w, session.lost_count == 1, 3000);
    session_await(w, &closed, 3000);
    cr_assert(session_end(w, &closed) == 0);
    txn_put_bound(&txn, "t/b", "no", &closed.s);
    cr_assert(txn_await(w, &txn) == OTR_SESSION);
}

/* A session that is not open yet has no id: nothing can be bound to it. */
CASE(txn_with_unopened_session)
{
    struct otr_session session = {0};
    struct txn txn = {0};

    txn_put_bound(&txn, "t/a", "no", &session);
    cr_assert(txn_start(w, &txn, w->b) == OTR_SESSION);
}

/* What is too big or malformed is refused by the call itself. */
CASE(txn_limits)
{
    static char keys[70][16];
    static char big[OTR_TXN_BYTES_MAX + 2];
    const size_t limit = OTR_TXN_BYTES_MAX - strlen(WORLD_PREFIX "t/ab");
    struct txn txn = {0};
    struct get get;

    for (int i = 0; i < 70; i++) {
        snprintf(keys[i], sizeof keys[i], "t/%02d", i);
    }
    for (int i = 0; i < OTR_TXN_MAX / 2; i++) {
        txn_absent(&txn, keys[i]);
        txn_put(&txn, keys[i], "x");
    }
    cr_assert(txn_await(w, &txn) == 0, "%s", txn.text);
    for (int i = 0; i < OTR_TXN_MAX; i++) {
        txn_put(&txn, keys[i], "x");
    }
    cr_assert(txn_await(w, &txn) == 0, "%s", txn.text);
    for (int i = 0; i < OTR_TXN_MAX + 1; i++) {
        txn_put(&txn, keys[i], "x");
    }
    cr_assert(txn_start(w, &txn, w->b) == OTR_TOOBIG);
    for (int i = 0; i < OTR_TXN_MAX; i++) {
        txn_absent(&txn, keys[i]);
    }
    txn_put(&txn, "t/z", "x");
    cr_assert(txn_start(w, &txn, w->b) == OTR_TOOBIG);

    memset(big, 'x', sizeof big - 1);
    big[limit] = '\0';
    txn_put(&txn, "t/ab", big);
    cr_assert(txn_await(w, &txn) == 0, "%s", txn.text);
    get_await(w, &get, "t/ab");
    cr_assert(get.kvs_count == 1 && get.kvs[0].value_bytes == limit && strcmp(get.kvs[0].value, big) == 0);
    get_close(&get);
    big[limit] = 'x';
    big[limit + 1] = '\0';
    txn_put(&txn, "t/ab", big);
    cr_assert(txn_start(w, &txn, w->b) == OTR_TOOBIG);

    txn_put(&txn, "t/a", "1");
    txn_delete(&txn, "t/a");
    cr_assert(txn_start(w, &txn, w->b) == OTR_INVALID, "a key twice");
    txn_put(&txn, "", "1");
    cr_assert(txn_start(w, &txn, w->b) == OTR_INVALID, "an empty key");
    txn_session(&txn, "t/a", "");
    txn_put(&txn, "t/a", "1");
    cr_assert(txn_start(w, &txn, w->b) == OTR_INVALID, "no session to compare with");
}

/* Frozen in the middle: the outcome is unknown, and stays so although the coordinator comes back; reading tells. */
CASE(txn_unknown_when_frozen)
{
    struct txn txn = {0};
    const char *value;

    put(w, "t/a", "0");
    w->driver->freeze(w);
    txn_put(&txn, "t/a", "1");
    cr_assert(txn_start(w, &txn, w->b) == 0);
    AWAIT(w, txn.calls_count > 0);
    cr_assert(txn.status == OTR_UNKNOWN, "%s", otr_errname(txn.status));
    w->driver->thaw(w);
    world_pass(w, 300);
    cr_assert(txn.calls_count == 1);
    value = value_now(w, "t/a");
    cr_assert(strcmp(value, "0") == 0 || strcmp(value, "1") == 0);
}

/* Killed after the request has left. */
CASE(txn_unknown_when_killed)
{
    struct txn txn = {0};

    put(w, "t/a", "0");
    w->driver->freeze(w);
    txn_put(&txn, "t/a", "1");
    cr_assert(txn_start(w, &txn, w->b) == 0);
    world_pass(w, 200);
    cr_assert(txn.calls_count == 0);
    w->driver->kill(w);
    AWAIT_MS(w, txn.calls_count > 0, 1500); /* Told by the broken connection, not by the time-out. */
    cr_assert(txn.status == OTR_UNKNOWN, "%s", otr_errname(txn.status));
    w->driver->start(w);
    cr_assert_str_eq(value_now(w, "t/a"), "0");
}

/* Nobody there: certainly nothing was done. */
CASE(txn_unreachable)
{
    struct txn txn = {0};

    put(w, "t/a", "0");
    w->driver->kill(w);
    txn_put(&txn, "t/a", "1");
    cr_assert(txn_start(w, &txn, w->b) == 0);
    AWAIT_MS(w, txn.calls_count > 0, 2000);
    cr_assert(txn.status == OTR_UNREACHABLE, "%s", otr_errname(txn.status));
    w->driver->start(w);
    cr_assert_str_eq(value_now(w, "t/a"), "0");
}
