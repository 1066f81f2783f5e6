#include "sidecar/coord/values.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

static struct topology *t;

static void setup(void)
{
    t = topology_new();
}

static void teardown(void)
{
    topology_free(t);
}

TestSuite(values, .init = setup, .fini = teardown);

/* `text` with the member `name` of its object replaced by JSON; deleted when json is NULL. malloc'd. */
static char *with(const char *text, const char *name, const char *json)
{
    cJSON *object = cJSON_Parse(text);
    char *out;

    cJSON_DeleteItemFromObjectCaseSensitive(object, name);
    if (json != NULL) {
        cJSON_AddItemToObject(object, name, cJSON_Parse(json));
    }
    out = cJSON_PrintUnformatted(object);
    cJSON_Delete(object);
    return out;
}

/* --- config ------------------------------------------------------------------------------------------------------- */

Test(values, config_tells_the_mode_and_what_a_failover_may_lose)
{
    struct topology_config in;
    struct topology_config out = {0};
    struct otr_errmsg msg = {0};
    enum replica_mode mode;
    char *text;

    topology_config_defaults(&in);
    in.shards_count = 16;
    in.replication_factor = 3;
    in.min_in_sync = 2;
    in.mode = REPLICA_ASYNC;
    in.max_lag_entries = 7;
    in.max_lag_ms = 250;
    text = value_config_print(&in);
    cr_assert(zero(int, value_config_parse(text, &out, &msg)), "%s", msg.text);
    cr_assert(eq(int, (int)out.mode, REPLICA_ASYNC));
    cr_assert(eq(u32, out.max_lag_entries, 7));
    cr_assert(eq(u32, out.max_lag_ms, 250));
    free(text);
    cr_assert(value_mode_find(value_mode_name(REPLICA_ASYNC), &mode) && mode == REPLICA_ASYNC);
    cr_assert(value_mode_find(value_mode_name(REPLICA_SYNC), &mode) && mode == REPLICA_SYNC);
    cr_assert(not(value_mode_find("Async", &mode)));
    cr_assert(not(value_mode_find("", &mode)));
}

/* Only the mode changes; what a later version put there stays; and back again gives what there was. */
Test(values, config_is_switched_to_another_mode)
{
    struct topology_config async;
    struct topology_config sync;
    struct topology_config out = {0};
    struct otr_errmsg msg = {0};
    char *text;
    char *before;
    char *to;
    char *back;

    topology_config_defaults(&sync);
    sync.shards_count = 16;
    sync.replication_factor = 3;
    sync.min_in_sync = 2;
    sync.grant_ms = 777;
    async = sync;
    async.mode = REPLICA_ASYNC;
    async.max_lag_entries = 5;
    async.max_lag_ms = 60;
    text = value_config_print(&sync);
    before = with(text, "of_later", "[1]");
    to = value_config_with_mode(before, &async, &msg);
    cr_assert(ne(ptr, to, NULL), "%s", msg.text);
    cr_assert(zero(int, value_config_parse(to, &out, &msg)), "%s", msg.text);
    cr_assert(eq(int, (int)out.mode, REPLICA_ASYNC));
    cr_assert(eq(u32, out.max_lag_entries, 5));
    cr_assert(eq(u32, out.max_lag_ms, 60));
    cr_assert(eq(u32, out.grant_ms, 777));
    cr_assert(strstr(to, "\"of_later\":[1]") != NULL, "%s", to);
    back = value_config_with_mode(to, &sync, &msg);
    cr_assert(eq(str, back, before));
    cr_assert(eq(ptr, value_config_with_mode("[]", &async, &msg), NULL));
    cr_assert(ne(chr, msg.text[0], '\0'));
    free(text);
    free(before);
    free(to);
    free(back);
}

Test(values, config_with_a_mode_that_is_none_is_refused)
{
    static const char *const members[][2] = {{"mode", "\"quorum\""},
                                             {"mode", "7"},
                                             {"mode", "\"synchronous\""},
                                             {"max_lag_entries", "0"},
                                             {"max_lag_entries", "4294967296"}};
    struct topology_config c;
    char *text;

    topology_config_defaults(&c);
    c.shards_count = 16;
    c.replication_factor = 3;
    c.min_in_sync = 2;
    text = value_config_print(&c);
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        struct topology_config out = {.shards_count = 99};
        struct otr_errmsg msg = {0};
        char *wrong = with(text, members[i][0], members[i][1]);

        cr_assert(ne(int, value_config_parse(wrong, &out, &msg), 0), "%s", wrong);
        cr_assert(strstr(msg.text, members[i][0]) != NULL, "%s: %s", wrong, msg.text);
        cr_assert(eq(u32, out.shards_count, 99)); /* Nothing of it was taken over. */
        free(wrong);
    }
    free(text);
}

Test(values, config_comes_back)
{
    struct topology_config in;
    struct topology_config out = {0};
    char *text;

    topology_config_defaults(&in);
    in.known = true;
    in.shards_count = 16;
    in.replication_factor = 3;
    in.min_in_sync = 2;
    in.generation = UINT64_MAX;
    in.grant_ms = 500;
    in.request_timeout_ms = 1;
    in.compression = TOPOLOGY_COMPRESSION_ZSTD;
    text = value_config_print(&in);
    cr_assert(zero(int, value_config_parse(text, &out, NULL)));
    cr_assert(eq(u32, out.shards_count, 16));
    cr_assert(eq(u32, out.replication_factor, 3));
    cr_assert(eq(u32, out.min_in_sync, 2));
    cr_assert(eq(u64, out.generation, UINT64_MAX));
    cr_assert(eq(u32, out.grant_ms, 500));
    cr_assert(eq(u32, out.beacon_ms, 30));
    cr_assert(eq(u32, out.request_timeout_ms, 1));
    cr_assert(eq(int, (int)out.compression, (int)TOPOLOGY_COMPRESSION_ZSTD));
    cr_assert(out.known);
    free(text);
}

/* Changing one setting leaves alone what other versions wrote. */
Test(values, compression_is_changed_alone)
{
    static const char text[] = "{\"shards\":4,\"replication_factor\":3,\"min_in_sync\":2,\"generation\":\"1\","
                               "\"later\":{\"a\":[1]},\"grant_ms\":7}";
    struct topology_config out = {0};
    struct otr_errmsg msg = {0};
    char *on = value_config_with_compression(text, TOPOLOGY_COMPRESSION_ZSTD, &msg);
    char *off = value_config_with_compression(on, TOPOLOGY_COMPRESSION_NONE, &msg);
    char *later;

    cr_assert(eq(str, off, (char *)text));
    cr_assert(zero(int, value_config_parse(on, &out, &msg)));
    cr_assert(eq(int, (int)out.compression, (int)TOPOLOGY_COMPRESSION_ZSTD));
    cr_assert(eq(u32, out.grant_ms, 7));
    later = with(on, "compression", "\"brotli\"");
    cr_assert(zero(int, value_config_parse(later, &out, &msg)));
    cr_assert(eq(int, (int)out.compression, (int)TOPOLOGY_COMPRESSION_NONE));
    free(later);
    later = with(on, "compression", "1");
    cr_assert(eq(int, value_config_parse(later, &out, &msg), OTR_PROTO));
    cr_assert(eq(ptr, value_config_with_compression("[]", TOPOLOGY_COMPRESSION_NONE, &msg), NULL));
    free(later);
    free(on);
    free(off);
}

static const char good_config[] = "{\"shards\":4,\"replication_factor\":3,\"min_in_sync\":2,\"generation\":\"1\"}";

Test(values, config_that_is_wrong_changes_nothing)
{
    static const struct {
        const char *field;
        const char *json; /* NULL: missing */
    } cases[] = {
        {"shards", NULL},         {"shards", "0"},
        {"shards", "4097"},       {"shards", "1.5"},
        {"shards", "\"4\""},      {"shards", "-1"},
        {"shards", "1e99"},       {"min_in_sync", "4"},
        {"min_in_sync", "0"},     {"replication_factor", "8"},
        {"generation", "1"},      {"generation", "\"\""},
        {"generation", "\"-1\""}, {"generation", "\"18446744073709551616\""},
        {"generation", "\"1 \""}, {"grant_ms", "0"},
        {"grant_ms", "86400001"}, {"beacon_ms", "\"30\""},
    };
    struct topology_config c = {.shards_count = 77};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *text = with(good_config, cases[i].field, cases[i].json);
        struct otr_errmsg msg = {0};

        cr_assert(eq(int, value_config_parse(text, &c, &msg), OTR_PROTO), "%s", text);
        cr_assert(strstr(msg.text, cases[i].field) != NULL, "%s: %s", text, msg.text);
        cr_assert(eq(u32, c.shards_count, 77));
        cr_assert(not(c.known));
        free(text);
    }
    cr_assert(zero(int, value_config_parse(good_config, &c, NULL)));
}

/* --- any value ---------------------------------------------------------------------------------------------------- */

Test(values, garbage_is_refused_everywhere)
{
    static const char *const garbage[] = {"",     "x",       "null", "[]",       "1",          "\"a\"", "{",
                                          "{} x", "{\"a\"}", "{}",   "{\"id\":", "\xFF\xFE{}", "[{}]"};
    char *deep = malloc(20001);

    for (size_t i = 0; i <= sizeof garbage / sizeof garbage[0]; i++) {
        struct topology_config config;
        struct topology_node node = {0};
        struct topology_lease lease = {0};
        struct topology_collection collection = {0};
        struct descriptor descriptor;
        const char *text;

        if (i < sizeof garbage / sizeof garbage[0]) {
            text = garbage[i];
        } else {
            memset(deep, '[', 20000);
            deep[20000] = '\0';
            text = deep;
        }
        cr_assert(eq(int, value_config_parse(text, &config, NULL), OTR_PROTO));
        cr_assert(eq(int, value_node_parse(text, &node, NULL), OTR_PROTO));
        cr_assert(eq(int, value_live_parse(text, &node, NULL), OTR_PROTO));
        cr_assert(eq(int, value_descriptor_parse(t, text, &descriptor, NULL), OTR_PROTO));
        cr_assert(eq(int, value_lease_parse(t, text, &lease, NULL), OTR_PROTO));
        cr_assert(eq(int, value_collection_parse(text, &collection, NULL), OTR_PROTO));
    }
    cr_assert(eq(u32, topology_nodes_count(t), 0));
    free(deep);
}

/* --- nodes -------------------------------------------------------------------------------------------------------- */

Test(values, node_comes_back)
{
    struct topology_node in = {.zone = "eu-1", .draining = true};
    struct topology_node out = {.live = true};
    char *text = value_node_print(&in);

    cr_assert(zero(int, value_node_parse(text, &out, NULL)));
    cr_assert(eq(str, out.zone, "eu-1"));
    cr_assert(out.draining && out.registered && out.live);
    cr_assert(eq(int, value_node_parse("{\"state\":\"gone\"}", &out, NULL), OTR_PROTO));
    cr_assert(out.draining);
    cr_assert(zero(int, value_node_parse("{\"state\":\"active\",\"weight\":3}", &out, NULL)));
    cr_assert(eq(str, out.zone, ""));
    cr_assert(not(out.draining));
    free(text);
}

Test(values, live_comes_back)
{
    struct topology_node in = {.name = "n",
                               .client = {"10.0.0.1", 7700, .tls = true},
                               .peer = {"host \"quoted\"", 65535, .tls = false},
                               .incarnation = UINT64_C(0xFEDCBA9876543210),
                               .session = "7587862",
                               .version = "0.1"};
    struct topology_node out = {.name = "kept", .registered = true};
    char *text = value_live_print(&in);
    char *bad;

    cr_assert(zero(int, value_live_parse(text, &out, NULL)));
    cr_assert(eq(str, out.client.host, "10.0.0.1"));
    cr_assert(eq(int, out.client.port, 7700));
    cr_assert(eq(str, out.peer.host, "host \"quoted\""));
    cr_assert(eq(int, out.peer.port, 65535));
    cr_assert(out.client.tls && !out.peer.tls);
    cr_assert(zero(ptr, strstr(strstr(text, "\"peer\""), "tls"))); /* As versions without TLS wrote it. */
    cr_assert(eq(u64, out.incarnation, in.incarnation));
    cr_assert(eq(str, out.session, "7587862"));
    cr_assert(eq(str, out.version, "0.1"));
    cr_assert(eq(str, out.name, "kept"));
    cr_assert(out.live && out.registered);
    bad = with(text, "peer", "{\"host\":\"h\",\"port\":65536}");
    cr_assert(eq(int, value_live_parse(bad, &out, NULL), OTR_PROTO));
    cr_assert(eq(str, out.peer.host, "host \"quoted\""));
    free(bad);
    bad = with(text, "incarnation", "\"FEDCBA987654321\"");
    cr_assert(eq(int, value_live_parse(bad, &out, NULL), OTR_PROTO));
    free(bad);
    bad = with(text, "version", "\"12345678901234567890123456789012\"");
    cr_assert(eq(int, value_live_parse(bad, &out, NULL), OTR_PROTO));
    free(bad);
    free(text);
}

/* --- descriptors -------------------------------------------------------------------------------------------------- */

static struct descriptor sample(void)
{
    struct descriptor d = {
        .shard = 3,
        .hash_first = 0xC0000000,
        .hash_last = 0xFFFFFFFF,
        .generation = 2,
        .version = (UINT64_C(1) << 53) + 1, /* a JSON number would be rounded */
        .epoch = UINT64_MAX - 1,
        .incarnation = 0xABCDEF,
        .in_sync_count = 2,
        .replicas_count = 3,
        .position = {(UINT64_C(1) << 53) + 1, 99},
        .mode = REPLICA_ASYNC,
        .min_in_sync = 2,
        .grant_ms = 120,
    };

    d.replicas[0] = topology_intern(t, "a");
    d.replicas[1] = topology_intern(t, "b");
    d.replicas[2] = topology_intern(t, "c");
    d.primary = d.replicas[2];
    d.in_sync[0] = (struct member){d.replicas[2], UINT64_MAX};
    d.in_sync[1] = (struct member){d.replicas[0], 1};
    return d;
}

static void assert_same(const struct descriptor *a, const struct descriptor *b)
{
    cr_assert(eq(u32, a->shard, b->shard));
    cr_assert(eq(u32, a->hash_first, b->hash_first));
    cr_assert(eq(u32, a->hash_last, b->hash_last));
    cr_assert(zero(int, descriptor_compare(a, b)));
    cr_assert(eq(u64, a->incarnation, b->incarnation));
    cr_assert(eq(u32, a->primary, b->primary));
    cr_assert(eq(u32, a->in_sync_count, b->in_sync_count));
    for (uint32_t i = 0; i < a->in_sync_count; i++) {
        cr_assert(eq(u32, a->in_sync[i].node, b->in_sync[i].node));
        cr_assert(eq(u64, a->in_sync[i].log_id, b->in_sync[i].log_id));
    }
    cr_assert(eq(u32, a->replicas_count, b->replicas_count));
    cr_assert(zero(int, memcmp(a->replicas, b->replicas, a->replicas_count * sizeof a->replicas[0])));
    cr_assert(zero(int, otr_position_compare(a->position, b->position)));
    cr_assert(eq(u32, a->lossy_count, b->lossy_count));
    cr_assert(zero(int, memcmp(a->lossy, b->lossy, a->lossy_count * sizeof a->lossy[0])));
    cr_assert(eq(int, (int)a->mode, (int)b->mode));
    cr_assert(eq(u32, a->min_in_sync, b->min_in_sync));
    cr_assert(eq(u32, a->grant_ms, b->grant_ms));
}

Test(values, descriptor_comes_back)
{
    struct descriptor in = sample();
    struct descriptor out;
    char *text = value_descriptor_print(t, &in);

    cr_assert(zero(int, value_descriptor_parse(t, text, &out, NULL)), "%s", text);
    assert_same(&in, &out);
    cr_assert(strstr(text, "\"learners\":[\"b\"]") != NULL, "%s", text);
    free(text);
}

/* Epochs that began without acknowledged entries are rare: without one the value is what it always was. */
Test(values, descriptor_tells_of_losses)
{
    struct descriptor in = sample();
    struct descriptor out;
    char *text = value_descriptor_print(t, &in);

    cr_assert(strstr(text, "lossy") == NULL, "%s", text);
    free(text);
    descriptor_mark_lossy(&in, 7, (struct otr_position){6, 1});
    descriptor_mark_lossy(&in, UINT64_MAX - 1, (struct otr_position){UINT64_MAX - 2, (UINT64_C(1) << 53) + 1});
    text = value_descriptor_print(t, &in);
    cr_assert(zero(int, value_descriptor_parse(t, text, &out, NULL)), "%s", text);
    assert_same(&in, &out);
    free(text);
    in.lossy[1].ended.epoch = in.lossy[1].epoch;
    text = value_descriptor_print(t, &in);
    cr_assert(eq(int, value_descriptor_parse(t, text, &out, NULL), OTR_PROTO), "%s", text);
    free(text);
    in.lossy[1].ended.epoch = 7;
    in.lossy[1].epoch = UINT64_MAX;
    text = value_descriptor_print(t, &in);
    cr_assert(eq(int, value_descriptor_parse(t, text, &out, NULL), OTR_PROTO), "%s", text);
    free(text);
}

/* Numbers of nodes are private to a process: another one gives them in another order. */
Test(values, descriptor_goes_by_names)
{
    struct descriptor in = sample();
    struct descriptor out;
    struct topology *other = topology_new();
    char *text = value_descriptor_print(t, &in);

    topology_intern(other, "x");
    topology_intern(other, "c");
    cr_assert(zero(int, value_descriptor_parse(other, text, &out, NULL)));
    cr_assert(eq(u32, out.primary, 2));
    cr_assert(eq(str, (char *)topology_name(other, out.replicas[0]), "a"));
    cr_assert(eq(str, (char *)topology_name(other, out.in_sync[1].node), "a"));
    topology_free(other);
    free(text);
}

Test(values, descriptor_of_epoch_0_has_no_primary)
{
    struct descriptor in = sample();
    struct descriptor out;
    char *text;

    in.epoch = 0;
    in.primary = OTR_NODE_NONE;
    in.incarnation = 0;
    in.in_sync_count = 0;
    text = value_descriptor_print(t, &in);
    cr_assert(zero(int, value_descriptor_parse(t, text, &out, NULL)), "%s", text);
    assert_same(&in, &out);
    free(text);
}

Test(values, descriptor_that_is_wrong_changes_nothing)
{
    static const struct {
        const char *field;
        const char *json;
    } cases[] = {
        {"id", NULL},
        {"id", "4096"},
        {"range", "[5,4]"},
        {"range", "[0]"},
        {"range", "[0,4294967296]"},
        {"range", "[0,\"1\"]"},
        {"range", "[-1,1]"},
        {"range", "[0.5,1]"},
        {"generation", NULL},
        {"version", "7"},
        {"epoch", "\"0\""}, /* with a primary */
        {"primary", "null"},
        {"primary", NULL},
        {"primary", "{\"node\":\"b\",\"incarnation\":\"0000000000000001\"}"}, /* not in sync */
        {"primary", "{\"node\":\"new\",\"incarnation\":\"0000000000000001\"}"},
        {"primary", "{\"node\":\"c\"}"},
        {"in_sync", "[{\"node\":\"new\",\"log\":\"0000000000000001\"}]"},
        {"in_sync", "[{\"node\":\"c\",\"log\":\"1\"}]"},
        {"in_sync", "[{\"node\":\"c\",\"log\":\"0000000000000001\"},{\"node\":\"c\",\"log\":\"0000000000000001\"}]"},
        {"in_sync", "[\"c\"]"},
        {"in_sync", "[]"}, /* with a primary */
        {"replicas", "[]"},
        {"replicas", "[\"a\",\"b\",\"c\",\"a\"]"},
        {"replicas", "[\"a\",\"c\",\"new node\"]"},
        {"replicas", "[\"a\",\"c\",3]"},
        {"replicas", "[\"a\",\"c\",\"1\",\"2\",\"3\",\"4\",\"5\",\"6\"]"},
        {"replicas", "[\"new\"]"},
        {"position", NULL},
        {"position", "{\"epoch\":\"1\"}"},
        {"mode", "\"quorum\""},
        {"mode", "\"synchronous\""},
        {"state", "\"splitting\""},
        {"min_in_sync", "0"},
        {"grant_ms", "0"},
    };
    struct descriptor in = sample();
    struct descriptor out = sample();
    char *text = value_descriptor_print(t, &in);

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *bad = with(text, cases[i].field, cases[i].json);
        struct otr_errmsg msg = {0};

        cr_assert(eq(int, value_descriptor_parse(t, bad, &out, &msg), OTR_PROTO), "%s", bad);
        cr_assert(strlen(msg.text) > 0);
        assert_same(&in, &out);
        cr_assert(eq(u32, topology_nodes_count(t), 3), "%s used up a node number", bad);
        free(bad);
    }
    free(text);
}

Test(values, unknown_fields_are_ignored)
{
    struct descriptor in = sample();
    struct descriptor out;
    char *text = value_descriptor_print(t, &in);
    char *more = with(text, "colour", "{\"a\":[1,2,{}]}");

    cr_assert(zero(int, value_descriptor_parse(t, more, &out, NULL)));
    free(more);
    free(text);
}

/* --- leases and collections --------------------------------------------------------------------------------------- */

Test(values, lease_comes_back)
{
    struct topology_lease in = {.node = topology_intern(t, "a"), .incarnation = UINT64_MAX, .epoch = UINT64_MAX};
    struct topology_lease out = {.revision = 5, .session = "s"};
    char *text = value_lease_print(t, &in);

    cr_assert(zero(int, value_lease_parse(t, text, &out, NULL)));
    cr_assert(eq(u32, out.node, in.node));
    cr_assert(eq(u64, out.incarnation, UINT64_MAX));
    cr_assert(eq(u64, out.epoch, UINT64_MAX));
    cr_assert(out.present);
    cr_assert(eq(u64, out.revision, 5));
    cr_assert(eq(str, out.session, "s"));
    cr_assert(eq(int, value_lease_parse(t, "{\"node\":\"new\",\"epoch\":\"1\"}", &out, NULL), OTR_PROTO));
    cr_assert(eq(u32, topology_nodes_count(t), 1));
    free(text);
}

Test(values, collection_comes_back)
{
    struct topology_collection in = {
        .id = UINT64_C(1) << 63, .dimension = OTR_DIMENSION_MAX, .metric = OTR_METRIC_DOT, .options = "{\"m\":16}"};
    struct topology_collection out = {.name = "kept", .revision = 8};
    char *text = value_collection_print(&in);

    cr_assert(zero(int, value_collection_parse(text, &out, NULL)));
    cr_assert(eq(u64, out.id, in.id));
    cr_assert(eq(u32, out.dimension, OTR_DIMENSION_MAX));
    cr_assert(eq(int, (int)out.metric, OTR_METRIC_DOT));
    cr_assert(eq(str, out.options, "{\"m\":16}"));
    cr_assert(eq(str, out.name, "kept"));
    cr_assert(eq(u64, out.revision, 8));
    free(text);
    in.options[0] = '\0';
    text = value_collection_print(&in);
    cr_assert(zero(int, value_collection_parse(text, &out, NULL)));
    cr_assert(eq(str, out.options, ""));
    free(text);
}

Test(values, collection_that_is_wrong_changes_nothing)
{
    char longest[TOPOLOGY_OPTIONS_MAX + 16];
    static const struct {
        const char *field;
        const char *json;
    } cases[] = {
        {"id", NULL},
        {"id", "7"},
        {"dimension", "0"},
        {"dimension", "16385"},
        {"metric", "\"hamming\""},
        {"metric", NULL},
        {"partition", "\"crc32\""},
        {"options", "[]"},
        {"options", "7"},
    };
    struct topology_collection in = {.id = 1, .dimension = 3, .metric = OTR_METRIC_COSINE};
    struct topology_collection out = {.dimension = 9};
    char *text = value_collection_print(&in);
    char *bad;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bad = with(text, cases[i].field, cases[i].json);
        cr_assert(eq(int, value_collection_parse(bad, &out, NULL), OTR_PROTO), "%s", bad);
        cr_assert(eq(u32, out.dimension, 9));
        free(bad);
    }
    /* {"aaa...":1} of exactly the limit, and of one byte more. */
    for (size_t bytes = TOPOLOGY_OPTIONS_MAX; bytes <= TOPOLOGY_OPTIONS_MAX + 1; bytes++) {
        memset(longest, 'a', sizeof longest);
        memcpy(longest, "{\"", 2);
        strcpy(longest + bytes - 4, "\":1}");
        bad = with(text, "options", longest);
        cr_assert(eq(int, value_collection_parse(bad, &out, NULL), bytes <= TOPOLOGY_OPTIONS_MAX ? 0 : OTR_PROTO),
                  "%zu bytes", bytes);
        free(bad);
    }
    free(text);
}
