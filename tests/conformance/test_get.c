#include "tests/conformance/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sorted by key, only keys with the prefix, with their revisions. */
CASE(get_sorted_below_prefix)
{
    uint64_t revision_b = put(w, "g/b", "2");
    uint64_t revision_a = put(w, "g/a", "1");
    uint64_t revision_last;
    struct get get;

    put(w, "g", "outside");
    put(w, "g0", "outside");
    put(w, "f/z", "outside");
    revision_last = put(w, "g/b", "3");
    get_await(w, &get, "g/");
    cr_assert(get.kvs_count == 2);
    cr_assert_str_eq(get.kvs[0].key, "g/a");
    cr_assert_str_eq(get.kvs[1].key, "g/b");
    cr_assert_str_eq(get.kvs[1].value, "3");
    cr_assert(get.kvs[0].revision == revision_a && get.kvs[0].create_revision == revision_a);
    cr_assert(get.kvs[1].revision == revision_last && get.kvs[1].create_revision == revision_b);
    cr_assert_str_eq(get.kvs[0].session, "");
    cr_assert(get.revision == revision_last);
    cr_assert(get.identity != 0);
    get_close(&get);
    get_await(w, &get, "none/");
    cr_assert(get.kvs_count == 0 && get.revision == revision_last);
    get_close(&get);
}

/* A key that is deleted and made again is another one. */
CASE(get_shows_that_a_key_was_made_again)
{
    uint64_t first = put(w, "g/a", "1");
    uint64_t second;
    struct get get;

    erase(w, "g/a");
    second = put(w, "g/a", "1");
    get_await(w, &get, "g/");
    cr_assert(get.kvs[0].create_revision == second && second > first);
    get_close(&get);
}

/* Values and keys are bytes: NUL in values, bytes above 127 and 0xff in keys. */
CASE(get_returns_any_bytes)
{
    static const char bytes[] = {'a', '\0', '\xff', '\x80', '"', '\\', '\n', '\0'};
    static const char *const any[] = {"g/\xc3\xa4", "g/\xff", "g/\xff\xff", "g/ \"\\\n"};
    static const char *const printable[] = {"g/\xc3\xa4", "g/~", "g/~~", "g/ \"\\%2f?a=b&c#"};
    const char *const *keys = w->driver->states ? printable : any;
    struct otr_op op = {.type = OTR_OP_PUT, .value = bytes};
    struct txn txn = {0};
    struct get get;

    for (size_t bytes_count = 0; bytes_count <= sizeof bytes; bytes_count++) {
        op.key = keys[bytes_count % 4];
        op.value_bytes = bytes_count;
        txn.ops[txn.ops_count++] = op;
        cr_assert(txn_await(w, &txn) == 0);
        get_await(w, &get, op.key);
        cr_assert(get.kvs_count >= 1);
        cr_assert_str_eq(get.kvs[0].key, op.key);
        cr_assert(get.kvs[0].value_bytes == bytes_count);
        cr_assert(memcmp(get.kvs[0].value, bytes, bytes_count) == 0);
        get_close(&get);
    }
    for (int i = 0; w->driver->states && i < 4; i++) {
        if (strcmp(any[i], printable[i]) != 0) {
            txn_put(&txn, any[i], "no");
            cr_assert(txn_start(w, &txn, w->b) == OTR_INVALID);
        }
    }
    get_await(w, &get, keys[1]);
    cr_assert(get.kvs_count == 2);
    get_close(&get);
    get_await(w, &get, "");
    cr_assert(get.kvs_count == 4);
    get_close(&get);
}

/* More keys than fit into one page: all of them, once, at one revision although others write meanwhile. */
CASE(get_thousands_of_keys_at_one_revision)
{
    enum { KEYS = 1300, PER_TXN = 50 };
    static char keys[PER_TXN][16];
    struct txn txn = {0}, noise = {0};
    struct get get;
    uint64_t revision;

    for (int i = 0; i < KEYS; i++) {
        snprintf(keys[i % PER_TXN], sizeof keys[0], "g/%05d", i);
        txn_put(&txn, keys[i % PER_TXN], "value");
        if (i % PER_TXN == PER_TXN - 1) {
            cr_assert(txn_await(w, &txn) == 0);
        }
    }
    revision = txn.revision;
    get_start(w, &get, w->b, "g/");
    while (get.calls_count == 0) {
        txn_put(&noise, "g/99999", "new");
        cr_assert(txn_await(w, &noise) == 0);
    }
    cr_assert(get.status == 0);
    cr_assert(get.revision >= revision);
    cr_assert(get.kvs_count == KEYS + (get.revision > revision ? 1 : 0));
    for (size_t i = 0; i < KEYS; i++) {
        snprintf(keys[0], sizeof keys[0], "g/%05zu", i);
        cr_assert_str_eq(get.kvs[i].key, keys[0]);
        cr_assert(get.kvs[i].revision <= get.revision);
    }
    get_close(&get);
}

/* Every change that was complete when the read began is in it. */
CASE(get_sees_what_was_written_before)
{
    char value[16];

    for (int i = 0; i < 50; i++) {
        snprintf(value, sizeof value, "%d", i);
        put(w, "g/a", value);
        cr_assert_str_eq(value_now(w, "g/a"), value);
    }
}

/* Nobody there, and nobody answering: an error, once, and the next read works again. */
CASE(get_while_coordinator_is_away)
{
    struct get get;

    put(w, "g/a", "1");
    w->driver->kill(w);
    get_start(w, &get, w->b, "g/");
    AWAIT(w, get.calls_count > 0);
    cr_assert(get.status == OTR_UNREACHABLE, "%s", otr_errname(get.status));
    w->driver->start(w);
    cr_assert_str_eq(value_now(w, "g/a"), "1");
    w->driver->freeze(w);
    get_start(w, &get, w->b, "g/");
    AWAIT(w, get.calls_count > 0);
    cr_assert(get.status == OTR_TIMEOUT || get.status == OTR_UNREACHABLE, "%s", otr_errname(get.status));
    w->driver->thaw(w);
    cr_assert_str_eq(value_now(w, "g/a"), "1");
    cr_assert(get.calls_count == 1);
}
