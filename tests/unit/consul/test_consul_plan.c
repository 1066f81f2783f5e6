/* Transactions in Consul's verbs. What Consul does with them is the conformance suite's matter (test_txn.c). */
#include "backends/consul/consul_plan.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#define MINE  "11111111-1111-1111-1111-111111111111"
#define OTHER "22222222-2222-2222-2222-222222222222"

static struct otr_session mine = {.id = MINE};

/* "verb key [Index] [Session]; ..." of a plan, for one compare (its type 0: none) and one operation. */
static const char *plan_of(struct otr_compare compare, struct otr_op op, const char *holder)
{
    static char text[1024];
    const char *holders[1] = {holder};
    struct otr_txn txn = {
        .compares = &compare, .compares_count = compare.type != 0, .ops = &op, .ops_count = op.type != 0};
    struct consul_plan plan;
    cJSON *json;
    const cJSON *item;

    text[0] = '\0';
    cr_assert(consul_plan_make(&plan, &txn, holders, 5) == 0);
    json = cJSON_Parse(plan.body.data);
    cr_assert((size_t)cJSON_GetArraySize(json) == plan.steps_count);
    cJSON_ArrayForEach(item, json)
    {
        const cJSON *kv = cJSON_GetObjectItem(item, "KV");
        const cJSON *index = cJSON_GetObjectItem(kv, "Index");
        const cJSON *session = cJSON_GetObjectItem(kv, "Session");
        const char *value = cJSON_GetStringValue(cJSON_GetObjectItem(kv, "Value"));
        size_t used = strlen(text);

        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s %s", used > 0 ? "; " : "",
                                 cJSON_GetStringValue(cJSON_GetObjectItem(kv, "Verb")),
                                 cJSON_GetStringValue(cJSON_GetObjectItem(kv, "Key")));
        if (index != NULL) {
            used += (size_t)snprintf(text + used, sizeof text - used, " %.0f", index->valuedouble);
        }
        if (session != NULL) {
            used += (size_t)snprintf(text + used, sizeof text - used, " %.1s", session->valuestring);
        }
        if (value != NULL) {
            cr_assert(cJSON_GetObjectItem(kv, "Flags")->valueint == 5, "every write differs from the one before");
            snprintf(text + used, sizeof text - used, " =%s", value);
        }
    }
    cJSON_Delete(json);
    consul_plan_close(&plan);
    return text;
}

/* Every compare with every operation, with what is known of who holds the key. */
Test(consul_plan, verbs)
{
    const struct otr_compare none = {0}, absent = {.type = OTR_COMPARE_ABSENT, .key = "/k"},
                             unmodified = {.type = OTR_COMPARE_UNMODIFIED, .key = "/k", .revision = 9},
                             session = {.type = OTR_COMPARE_SESSION, .key = "/k", .session = OTHER},
                             own = {.type = OTR_COMPARE_SESSION, .key = "/k", .session = MINE},
                             elsewhere = {.type = OTR_COMPARE_UNMODIFIED, .key = "/a", .revision = 9};
    const struct otr_op no_op = {0}, put = {.type = OTR_OP_PUT, .key = "/k", .value = "a", .value_bytes = 1},
                        bound = {.type = OTR_OP_PUT_BOUND,
                                 .key = "/k",
                                 .value = "a",
                                 .value_bytes = 1,
                                 .session = &mine},
                        erase = {.type = OTR_OP_DELETE, .key = "/k"};
    const struct {
        struct otr_compare compare;
        struct otr_op op;
        const char *holder, *plan;
    } rows[] = {
        {none, put, NULL, "set k =YQ=="},
        {none, put, "", "set k =YQ=="},
        {none, put, OTHER, "unlock k 2 =YQ=="},
        {absent, put, NULL, "cas k 0 =YQ=="},
        {unmodified, put, NULL, "check-session k ; cas k 9 =YQ=="},
        {unmodified, put, OTHER, "check-index k 9; unlock k 2 =YQ=="},
        {session, put, NULL, "unlock k 2 =YQ=="},
        {elsewhere, put, NULL, "check-index a 9; set k =YQ=="},
        {none, bound, NULL, "lock k 1 =YQ=="},
        {none, bound, OTHER, "unlock k 2 =; lock k 1 =YQ=="},
        {none, bound, MINE, "lock k 1 =YQ=="},
        {absent, bound, NULL, "check-not-exists k; lock k 1 =YQ=="},
        {unmodified, bound, NULL, "check-index k 9; lock k 1 =YQ=="},
        {unmodified, bound, OTHER, "check-index k 9; unlock k 2 =; lock k 1 =YQ=="},
        {session, bound, NULL, "unlock k 2 =; lock k 1 =YQ=="},
        {own, bound, NULL, "check-session k 1; lock k 1 =YQ=="},
        {none, erase, NULL, "set k =; delete k"},
        {absent, erase, NULL, "check-not-exists k; set k =; delete k"},
        {unmodified, erase, NULL, "check-index k 9; set k =; delete k"},
        {session, erase, NULL, "check-session k 2; set k =; delete k"},
        {unmodified, no_op, NULL, "check-index k 9"},
        {none, no_op, NULL, ""},
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cr_assert_str_eq(plan_of(rows[i].compare, rows[i].op, rows[i].holder), rows[i].plan, "row %zu", i);
    }
}

static struct otr_op ops[OTR_TXN_MAX];
static struct otr_compare compares[OTR_TXN_MAX];
static char keys[OTR_TXN_MAX][8];

static struct otr_txn many(enum otr_op_type type, size_t compares_count, size_t ops_count)
{
    for (size_t i = 0; i < OTR_TXN_MAX; i++) {
        snprintf(keys[i], sizeof keys[i], "k%02zu", i);
        ops[i] = (struct otr_op){.type = type, .key = keys[i], .session = &mine};
        compares[i] = (struct otr_compare){.type = OTR_COMPARE_UNMODIFIED, .key = keys[i], .revision = 1};
    }
    return (struct otr_txn){compares, compares_count, ops, ops_count};
}

/* What a portable transaction may contain fits into Consul's 64 operations, unless keys are held by others. */
Test(consul_plan, limits)
{
    const char *holders[OTR_TXN_MAX] = {0};
    const enum otr_op_type types[] = {OTR_OP_PUT, OTR_OP_PUT_BOUND, OTR_OP_DELETE};
    struct consul_plan plan;
    struct otr_txn txn;

    for (size_t i = 0; i < 3; i++) {
        txn = many(types[i], OTR_TXN_MAX / 2, OTR_TXN_MAX / 2);
        cr_assert(consul_plan_make(&plan, &txn, holders, 1) == 0, "%zu", i);
        cr_assert(plan.steps_count == OTR_TXN_MAX && plan.writes);
        consul_plan_close(&plan);
        txn = many(types[i], 0, OTR_TXN_MAX);
        cr_assert(consul_plan_make(&plan, &txn, holders, 1) == 0);
        cr_assert(plan.steps_count == OTR_TXN_MAX && plan.writes && plan.blind == (types[i] == OTR_OP_DELETE));
        consul_plan_close(&plan);
    }
    txn = many(OTR_OP_DELETE, 0, OTR_TXN_MAX - 1);
    cr_assert(consul_plan_make(&plan, &txn, holders, 1) == 0 && !plan.blind && plan.steps_count == OTR_TXN_MAX);
    consul_plan_close(&plan);
    holders[3] = OTHER;
    txn = many(OTR_OP_PUT_BOUND, 0, OTR_TXN_MAX);
    cr_assert(consul_plan_make(&plan, &txn, holders, 1) == OTR_TOOBIG);
    consul_plan_close(&plan);
    txn = many(OTR_OP_PUT, OTR_TXN_MAX, 0);
    cr_assert(consul_plan_make(&plan, &txn, holders, 1) == 0 && !plan.writes, "only compares");
    consul_plan_close(&plan);
}

/* --- answers ---------------------------------------------------------------------------------------------------- */

/* Steps 0: check-index a; 1: check-session k0 ""; 2: cas k0; 3: lock k1; 4: set k2; 5: delete k3. */
static void sample(struct consul_plan *plan)
{
    static const struct otr_compare c[] = {{.type = OTR_COMPARE_UNMODIFIED, .key = "a", .revision = 1},
                                           {.type = OTR_COMPARE_UNMODIFIED, .key = "k0", .revision = 1}};
    static struct otr_op o[] = {{.type = OTR_OP_PUT, .key = "k0"},
                                {.type = OTR_OP_PUT_BOUND, .key = "k1"},
                                {.type = OTR_OP_PUT, .key = "k2"},
                                {.type = OTR_OP_DELETE, .key = "k3"}};
    const char *holders[OTR_TXN_MAX] = {0};

    o[1].session = &mine;
    cr_assert(consul_plan_make(plan, &(struct otr_txn){c, 2, o, 4}, holders, 1) == 0 && plan->steps_count == 6);
}

static int refusal(const char *errors, bool held[OTR_TXN_MAX], const char *expected_what)
{
    struct consul_plan plan;
    const char *what;
    cJSON *json = cJSON_Parse(errors);
    int status;

    sample(&plan);
    status = consul_plan_refusal(&plan, json, held, &what);
    cr_assert_str_eq(what, expected_what);
    cJSON_Delete(json);
    consul_plan_close(&plan);
    return status;
}

#define ERRORS(list)       "{\"Results\":null,\"Errors\":[" list "]}"
#define ERROR(index, what) "{\"OpIndex\":" index ",\"What\":\"" what "\"}"

Test(consul_plan, refusals)
{
    bool held[OTR_TXN_MAX];

    cr_assert(refusal(ERRORS(ERROR("0", "failed index check")), held, "failed index check") == OTR_CONFLICT);
    cr_assert(refusal(ERRORS(ERROR("2", "index is stale")), held, "index is stale") == OTR_CONFLICT);
    cr_assert(refusal(ERRORS(ERROR("3", "invalid session x")), held, "invalid session x") == OTR_SESSION);
    cr_assert(refusal(ERRORS(ERROR("3", "due to lock delay")), held, "due to lock delay") == OTR_CONFLICT);
    cr_assert(refusal(ERRORS(ERROR("4", "what?")), held, "what?") == OTR_INVALID);
    cr_assert(refusal(ERRORS(ERROR("4", "Permission denied")), held, "Permission denied") == OTR_DENIED);
    /* Held by others than we thought: to be learnt, each of them. */
    cr_assert(refusal(ERRORS(ERROR("1", "failed session check") "," ERROR("3", "lock is already held")), held,
                      "failed session check") == OTR_INUSE);
    cr_assert(held[0] && held[1] && !held[2] && !held[3]);
    /* But not when something else stands in the way. */
    cr_assert(refusal(ERRORS(ERROR("1", "failed session check") "," ERROR("0", "stale")), held, "stale") ==
              OTR_CONFLICT);
    cr_assert(refusal(ERRORS(ERROR("3", "invalid session") "," ERROR("0", "stale")), held, "stale") == OTR_CONFLICT);
    cr_assert(refusal(ERRORS(ERROR("1", "held") "," ERROR("3", "invalid session")), held, "invalid session") ==
              OTR_SESSION);
    cr_assert(refusal(ERRORS(ERROR("0", "stale") "," ERROR("4", "Permission denied")), held, "Permission denied") ==
              OTR_DENIED);
    cr_assert(refusal(ERRORS(), held, "") == OTR_PROTO);
    cr_assert(refusal("{}", held, "") == OTR_PROTO);
    cr_assert(refusal(ERRORS(ERROR("99", "where?")), held, "") == OTR_PROTO);
}

static int result(const char *text, uint64_t *revision, bool held[OTR_TXN_MAX])
{
    struct consul_plan plan;
    const char *holders[OTR_TXN_MAX];
    cJSON *json = cJSON_Parse(text);
    int status;

    sample(&plan);
    status = consul_plan_result(&plan, json, revision, holders);
    for (size_t i = 0; i < OTR_TXN_MAX; i++) {
        held[i] = status == 0 && holders[i] != NULL;
    }
    cJSON_Delete(json);
    consul_plan_close(&plan);
    return status;
}

#define KV(more) "{\"KV\":{\"Key\":\"k\"" more "}}"

Test(consul_plan, results)
{
    bool held[OTR_TXN_MAX];
    uint64_t revision;

    cr_assert(
        result("{\"Results\":[" KV(",\"ModifyIndex\":1") "," KV("") "," KV(",\"ModifyIndex\":9") "," KV(
                   ",\"Session\":\"" MINE "\",\"ModifyIndex\":9") "," KV(",\"ModifyIndex\":9") "],\"Errors\":null}",
               &revision, held) == 0);
    cr_assert(revision == 9 && !held[0] && !held[1] && !held[2],
              "a lock leaves its session on the key, which is its purpose");
    cr_assert(result("{\"Results\":[" KV("") "," KV("") "," KV("") "," KV("") "," KV(",\"Session\":\"" OTHER
                                                                                     "\",\"ModifyIndex\":9") "]}",
                     &revision, held) == 0);
    cr_assert(held[2], "a plain set does not detach");
    cr_assert(result("{\"Results\":[]}", &revision, held) == OTR_PROTO);
    cr_assert(result("{\"Results\":null}", &revision, held) == OTR_PROTO);
    cr_assert(result("{}", &revision, held) == OTR_PROTO);
    cr_assert(result("{\"Results\":[" KV(",\"ModifyIndex\":9") "],\"Errors\":[{}]}", &revision, held) == OTR_PROTO);
}
