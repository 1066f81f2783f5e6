/* Consul's answers. A first byte 't': to a transaction. Else two lists of a prefix, split by a newline: what decodes
 * makes events that lead from one to the other.
 *
 * Covers: backends/consul/consul_codec.c */
#include "backends/consul/consul_diff.h"
#include "backends/consul/consul_plan.h"
#include "tests/fuzz/fuzz.h"

/* --- transactions ------------------------------------------------------------------------------------------------- */

static void answer(const char *data, size_t bytes)
{
    static const char mine[] = "11111111-1111-1111-1111-111111111111";
    struct otr_session session = {0};
    const struct otr_compare compares[] = {{.type = OTR_COMPARE_UNMODIFIED, .key = "/a", .revision = 1},
                                           {.type = OTR_COMPARE_UNMODIFIED, .key = "/b", .revision = 1}};
    const struct otr_op ops[] = {{.type = OTR_OP_PUT, .key = "/b"},
                                 {.type = OTR_OP_PUT_BOUND, .key = "/c", .session = &session},
                                 {.type = OTR_OP_PUT, .key = "/d"},
                                 {.type = OTR_OP_DELETE, .key = "/e"}};
    const struct otr_txn txn = {compares, 2, ops, 4};
    const char *holders[OTR_TXN_MAX] = {NULL};
    bool held[OTR_TXN_MAX];
    struct consul_plan plan;
    const char *what = NULL;
    uint64_t revision;
    cJSON *json = cJSON_ParseWithLength(data, bytes);
    int status;

    memcpy(session.id, mine, sizeof mine);
    FUZZ_CHECK(consul_plan_make(&plan, &txn, holders, 1) == 0);
    status = consul_plan_refusal(&plan, json, held, &what);
    FUZZ_CHECK(status != 0 && what != NULL);
    FUZZ_CHECK(status != OTR_INUSE || held[0] || held[1]);
    FUZZ_CHECK(!held[2] && !held[3]);
    if (consul_plan_result(&plan, json, &revision, holders) == 0) {
        FUZZ_CHECK(revision != 0 && holders[0] == NULL && holders[1] == NULL && holders[3] == NULL);
    }
    consul_plan_close(&plan);
    cJSON_Delete(json);
}

/* --- lists -------------------------------------------------------------------------------------------------------- */

static bool list(const char *data, size_t bytes, struct kv_list *kvs)
{
    cJSON *json = cJSON_ParseWithLength(data, bytes);
    int rv = consul_kvs_decode(json, true, kvs);

    cJSON_Delete(json);
    for (size_t i = 0; i < kvs->count; i++) {
        const struct otr_kv *kv = &kvs->list[i];

        FUZZ_CHECK(kv->key[0] == '/' && kv->value[kv->value_bytes] == '\0' && kv->revision != 0);
        FUZZ_CHECK(strlen(kv->session) < OTR_SESSION_ID_MAX);
        (void)consul_key_valid(kv->key);
    }
    return rv == 0;
}

static const struct otr_watch_event *last_word(const struct consul_changes *changes, const char *key)
{
    for (size_t i = changes->count; i > 0; i--) {
        if (strcmp(changes->events[i - 1].kv.key, key) == 0) {
            return &changes->events[i - 1];
        }
    }
    return NULL;
}

static void check_diff(const struct kv_list *before, const struct kv_list *now)
{
    struct consul_state state = {0};
    struct consul_changes changes;
    const struct otr_watch_event *event;

    FUZZ_CHECK(consul_state_set(&state, before->list, before->count) == 0);
    FUZZ_CHECK(consul_diff(&state, now, UINT64_MAX, &changes) == 0);
    for (size_t i = 1; i < changes.count; i++) {
        FUZZ_CHECK(changes.events[i].revision >= changes.events[i - 1].revision);
    }
    for (size_t i = 0; i < now->count && !changes.regressed; i++) {
        event = last_word(&changes, now->list[i].key);
        /* A key that claims to be younger than its last change makes an event out of order: no Consul says so. */
        FUZZ_CHECK(event == NULL || event->type == OTR_WATCH_PUT ||
                   now->list[i].create_revision > now->list[i].revision);
    }
    consul_changes_close(&changes);
    consul_state_close(&state);
}

static void lists(const char *data, size_t bytes)
{
    const char *newline = memchr(data, '\n', bytes);
    size_t first = newline != NULL ? (size_t)(newline - data) : bytes;
    struct kv_list before = {0}, now = {0};

    if (list(data, first, &before) && newline != NULL && list(newline + 1, bytes - first - 1, &now)) {
        check_diff(&before, &now);
    }
    kv_list_close(&before);
    kv_list_close(&now);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char *copy;

    if (bytes == 0) {
        return 0;
    }
    copy = fuzz_copy(data + 1, bytes - 1, 1); /* A NUL behind: headers are text. */
    if (data[0] == 't') {
        answer(copy, bytes - 1);
    } else {
        lists(copy, bytes - 1);
        (void)consul_index_parse(copy);
        (void)consul_session_id_valid(copy);
        (void)consul_key_valid(copy);
    }
    free(copy);
    return 0;
}
