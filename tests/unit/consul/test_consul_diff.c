#include "backends/consul/consul_diff.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct key {
    const char *key;
    uint64_t created, changed;
};

enum { KEYS_MAX = 8 };

static struct kv_list list_of(const struct key *keys)
{
    static struct otr_kv kvs[2][KEYS_MAX];
    static unsigned turn;
    struct kv_list list = {.list = kvs[turn++ % 2]};

    for (; keys[list.count].key != NULL; list.count++) {
        list.list[list.count] = (struct otr_kv){.key = keys[list.count].key,
                                                .value = "v",
                                                .session = "",
                                                .revision = keys[list.count].changed,
                                                .create_revision = keys[list.count].created};
    }
    return list;
}

/* "+key@revision -key@revision ..." from one state to the other. */
static const char *diff(const struct key *before, const struct key *now, uint64_t revision, bool *regressed)
{
    static char text[512];
    struct consul_state state = {0};
    struct consul_changes changes;
    struct kv_list first = list_of(before), second = list_of(now);

    cr_assert(consul_state_set(&state, first.list, first.count) == 0);
    cr_assert(consul_diff(&state, &second, revision, &changes) == 0);
    text[0] = '\0';
    for (size_t i = 0; i < changes.count; i++) {
        const struct otr_watch_event *event = &changes.events[i];

        cr_assert(event->revision == event->kv.revision);
        cr_assert_str_eq(event->kv.value, event->type == OTR_WATCH_PUT ? "v" : "");
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s%s@%llu", i > 0 ? " " : "",
                 event->type == OTR_WATCH_PUT ? "+" : "-", event->kv.key, (unsigned long long)event->revision);
    }
    if (regressed != NULL) {
        *regressed = changes.regressed;
    }
    consul_changes_close(&changes);
    consul_state_close(&state);
    return text;
}

#define KEYS(...) ((const struct key[]){__VA_ARGS__ __VA_OPT__(, ){NULL, 0, 0}})

Test(consul_diff, changes_in_the_order_of_their_revisions)
{
    cr_assert_str_eq(diff(KEYS(), KEYS(), 9, NULL), "");
    cr_assert_str_eq(diff(KEYS({"a", 1, 5}), KEYS({"a", 1, 5}), 9, NULL), "");
    cr_assert_str_eq(diff(KEYS(), KEYS({"a", 3, 7}, {"b", 2, 2}, {"c", 5, 5}), 9, NULL), "+b@2 +c@5 +a@7");
    cr_assert_str_eq(diff(KEYS({"a", 1, 1}, {"b", 1, 1}), KEYS({"a", 1, 8}, {"b", 1, 6}), 9, NULL), "+b@6 +a@8");
    cr_assert_str_eq(diff(KEYS({"a", 1, 1}, {"b", 1, 1}, {"d", 1, 1}), KEYS({"c", 7, 7}, {"d", 1, 1}), 9, NULL),
                     "+c@7 -a@9 -b@9");
    cr_assert_str_eq(diff(KEYS({"a", 1, 1}, {"b", 1, 1}), KEYS(), 9, NULL), "-a@9 -b@9");
}

/* Deleted and made again between two looks: both are told, and the key exists afterwards. */
Test(consul_diff, a_key_made_again)
{
    cr_assert_str_eq(diff(KEYS({"a", 1, 1}), KEYS({"a", 5, 7}), 9, NULL), "-a@5 +a@7");
    cr_assert_str_eq(diff(KEYS({"a", 1, 1}), KEYS({"a", 5, 5}), 9, NULL), "-a@5 +a@5", "in one transaction");
    cr_assert_str_eq(diff(KEYS({"a", 1, 1}, {"b", 1, 1}), KEYS({"a", 5, 5}, {"b", 1, 5}), 5, NULL), "-a@5 +a@5 +b@5");
}

Test(consul_diff, what_is_older_than_before_is_a_regress)
{
    bool regressed;

    diff(KEYS({"a", 1, 5}), KEYS({"a", 1, 6}), 9, &regressed);
    cr_assert(!regressed);
    diff(KEYS({"a", 1, 5}), KEYS({"a", 1, 4}), 9, &regressed);
    cr_assert(regressed);
    diff(KEYS({"a", 3, 5}), KEYS({"a", 2, 6}), 9, &regressed);
    cr_assert(regressed);
}

static size_t random_state(struct key *keys, unsigned *seed, uint64_t from)
{
    static const char *const names[] = {"a", "b", "c", "d", "e", "f"};
    size_t count = 0;

    for (size_t i = 0; i < 6; i++) {
        *seed = *seed * 1103515245 + 12345;
        if ((*seed >> 16) % 3 != 0) {
            keys[count++] = (struct key){names[i], 1 + (*seed >> 20) % 2 * from, 1 + from * ((*seed >> 18) % 4)};
            keys[count - 1].changed += keys[count - 1].created;
        }
    }
    keys[count] = (struct key){0};
    return count;
}

/* Applied to the first state, the events give the second, whatever the two are. */
Test(consul_diff, events_lead_from_one_state_to_the_other)
{
    struct key before[KEYS_MAX], now[KEYS_MAX];
    unsigned seed = 1;

    for (int round = 0; round < 2000; round++) {
        size_t before_count = random_state(before, &seed, 0);
        size_t now_count = random_state(now, &seed, 10);
        struct kv_list first = list_of(before), second = list_of(now);
        struct consul_state state = {0};
        struct consul_changes changes;
        uint64_t there[6] = {0}, revision = 0, deleted = 0;

        cr_assert(consul_state_set(&state, first.list, first.count) == 0);
        cr_assert(consul_diff(&state, &second, 100, &changes) == 0);
        for (size_t i = 0; i < before_count; i++) {
            there[before[i].key[0] - 'a'] = before[i].changed;
        }
        for (size_t i = 0; i < changes.count; i++) {
            const struct otr_watch_event *event = &changes.events[i];

            cr_assert(event->revision >= revision);
            revision = event->revision;
            cr_assert(event->type == OTR_WATCH_PUT || there[event->kv.key[0] - 'a'] != 0,
                      "only what is there is deleted");
            there[event->kv.key[0] - 'a'] = event->type == OTR_WATCH_PUT ? event->kv.revision : 0;
        }
        for (size_t i = 0; i < now_count; i++) {
            cr_assert(there[now[i].key[0] - 'a'] == now[i].changed);
            there[now[i].key[0] - 'a'] = 0;
        }
        for (size_t i = 0; i < 6; i++) {
            cr_assert(there[i] == 0);
        }
        for (size_t i = 0, j = 0; i < before_count; i++) {
            for (j = 0; j < now_count && strcmp(now[j].key, before[i].key) != 0; j++) {
            }
            deleted += j == now_count;
        }
        cr_assert(changes.deleted_count == deleted);
        consul_changes_close(&changes);
        consul_state_close(&state);
    }
}
