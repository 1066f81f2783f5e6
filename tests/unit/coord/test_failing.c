/* Every allocation fails once, cJSON's included: what is printed is whole or NULL, what is good is not taken for bad,
 * and an error changes nothing. */
#include "sidecar/coord/values.h"
#include "tests/lib/fail_calls.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

static void config(void *data)
{
    struct topology_config in = {.shards_count = 4, .replication_factor = 3, .min_in_sync = 2};
    struct topology_config out = {.shards_count = 99};
    struct otr_errmsg msg = {0};
    char *text;
    char *changed;

    (void)data;
    topology_config_defaults(&in);
    in.shards_count = 4;
    in.replication_factor = 3;
    in.min_in_sync = 2;
    in.grant_ms = 500;
    text = value_config_print(&in);
    if (text == NULL) {
        return;
    }
    changed = value_config_with_compression(text, TOPOLOGY_COMPRESSION_ZSTD, &msg);
    cr_assert(changed != NULL || fail_calls_name()[0] != '\0');
    cr_assert(eq(int, value_config_parse(changed != NULL ? changed : text, &out, &msg), 0), "%s", msg.text);
    cr_assert(eq(u32, out.grant_ms, 500));
    cr_assert(changed == NULL || out.compression == TOPOLOGY_COMPRESSION_ZSTD);
    free(changed);
    free(text);
}

Test(failing, config)
{
    cr_assert(gt(uint, fail_each(config, NULL), 10));
}

static void live(void *data)
{
    struct topology_node in = {.incarnation = 5, .session = "s", .version = "1"};
    struct topology_node out = {0};
    struct otr_errmsg msg = {0};
    char *text;

    (void)data;
    strcpy(in.client.host, "10.0.0.1");
    strcpy(in.peer.host, "10.0.0.1");
    in.client.port = in.peer.port = 7700;
    text = value_live_print(&in);
    if (text != NULL) {
        cr_assert(eq(int, value_live_parse(text, &out, &msg), 0), "%s", msg.text);
        cr_assert(out.client.port == 7700 && out.peer.port == 7700 && out.incarnation == 5);
    }
    free(text);
    text = value_node_print(&in);
    if (text != NULL) {
        cr_assert(eq(int, value_node_parse(text, &out, &msg), 0), "%s", msg.text);
    }
    free(text);
}

Test(failing, nodes)
{
    cr_assert(gt(uint, fail_each(live, NULL), 10));
}

/* Into a topology that meets all names for the first time. */
static void descriptor(void *data)
{
    static const char good[] =
        "{\"id\":3,\"range\":[0,4294967295],\"generation\":\"1\",\"version\":\"2\",\"epoch\":\"7\","
        "\"primary\":{\"node\":\"a\",\"incarnation\":\"00000000000000ff\"},"
        "\"in_sync\":[{\"node\":\"a\",\"log\":\"0000000000000001\"},{\"node\":\"b\",\"log\":\"0000000000000002\"}],"
        "\"replicas\":[\"a\",\"b\",\"c\"],\"learners\":[\"c\"],\"state\":\"active\","
        "\"position\":{\"epoch\":\"7\",\"index\":\"9\"},\"mode\":\"sync\",\"min_in_sync\":2,\"grant_ms\":120}";
    struct topology *t = topology_new();
    struct descriptor d = {.shard = 77};
    struct otr_errmsg msg = {0};
    char *text;
    int rv;

    (void)data;
    if (t == NULL) {
        return;
    }
    rv = value_descriptor_parse(t, good, &d, &msg);
    if (rv != 0) {
        cr_assert(topology_starved(t), "refused what is good after %s failed: %s", fail_calls_name(), msg.text);
        cr_assert(eq(u32, d.shard, 77));
    } else {
        cr_assert(d.shard == 3 && d.epoch == 7 && d.in_sync_count == 2 && d.replicas_count == 3);
        text = value_descriptor_print(t, &d);
        cr_assert(text == NULL || strcmp(text, good) == 0, "%s", text);
        free(text);
    }
    topology_free(t);
}

Test(failing, descriptors)
{
    cr_assert(gt(uint, fail_each(descriptor, NULL), 60));
}

static void collection(void *data)
{
    struct topology_collection in = {.id = 9, .dimension = 3, .metric = OTR_METRIC_DOT};
    struct topology_collection out = {0};
    struct otr_errmsg msg = {0};
    char *text = value_collection_print(&in);

    (void)data;
    if (text != NULL) {
        cr_assert(eq(int, value_collection_parse(text, &out, &msg), 0), "%s", msg.text);
        cr_assert(eq(u64, out.id, 9));
    }
    free(text);
}

Test(failing, collections)
{
    cr_assert(gt(uint, fail_each(collection, NULL), 10));
}
