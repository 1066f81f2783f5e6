/* The coordinator's values and keys, which anybody with access to it may have written. The first byte chooses the kind.
 * What parses prints, and the print parses to something that prints the same; what is refused changes nothing.
 *
 * Covers: sidecar/coord/values.c sidecar/coord/fields.c sidecar/coord/keys.c sidecar/coord/document.c */
#include "sidecar/coord/document.h"
#include "sidecar/coord/keys.h"
#include "sidecar/coord/values.h"
#include "tests/fuzz/fuzz.h"

union value {
    struct topology_config config;
    struct topology_node node;
    struct descriptor descriptor;
    struct topology_lease lease;
    struct topology_collection collection;
};

static int parse(char kind, struct topology *t, const char *text, union value *v, struct otr_errmsg *msg)
{
    switch (kind) {
    case 'c':
        return value_config_parse(text, &v->config, msg);
    case 'n':
        return value_node_parse(text, &v->node, msg);
    case 'v':
        return value_live_parse(text, &v->node, msg);
    case 'd':
        return value_descriptor_parse(t, text, &v->descriptor, msg);
    case 'l':
        return value_lease_parse(t, text, &v->lease, msg);
    default:
        return value_collection_parse(text, &v->collection, msg);
    }
}

static char *print(char kind, const struct topology *t, const union value *v)
{
    switch (kind) {
    case 'c':
        return value_config_print(&v->config);
    case 'n':
        return value_node_print(&v->node);
    case 'v':
        return value_live_print(&v->node);
    case 'd':
        return value_descriptor_print(t, &v->descriptor);
    case 'l':
        return value_lease_print(t, &v->lease);
    default:
        return value_collection_print(&v->collection);
    }
}

static void value(char kind, const char *text)
{
    struct topology *t = topology_new();
    struct otr_errmsg msg = {0};
    union value v, before, again = {0};
    char *once, *twice;

    memset(&v, 0, sizeof v);
    memset(&before, 0, sizeof before);
    if (parse(kind, t, text, &v, &msg) != 0) {
        FUZZ_CHECK(msg.text[0] != '\0');
        FUZZ_CHECK(memcmp(&v, &before, sizeof v) == 0);
        FUZZ_CHECK(topology_nodes_count(t) == 0);
    } else {
        once = print(kind, t, &v);
        FUZZ_CHECK(once != NULL);
        if (parse(kind, t, once, &again, &msg) != 0) {
            fprintf(stderr, "%s\nprints as %s\nwhich is refused: %s\n", text, once, msg.text);
            abort();
        }
        twice = print(kind, t, &again);
        FUZZ_CHECK(twice != NULL && strcmp(once, twice) == 0);
        free(twice);
        free(once);
    }
    topology_free(t);
}

static void key(const char *text)
{
    char again[KEY_MAX];
    struct key k;

    key_parse("c1", text, &k);
    switch (k.kind) {
    case KEY_NODE:
        key_node(again, "c1", k.name);
        break;
    case KEY_LIVE:
        key_live(again, "c1", k.name);
        break;
    case KEY_SHARD:
        key_shard(again, "c1", k.shard);
        break;
    case KEY_LEASE:
        key_lease(again, "c1", k.shard);
        break;
    case KEY_COLLECTION:
        key_collection(again, "c1", k.name);
        break;
    case KEY_SERVICE:
        key_service(again, "c1", k.name);
        break;
    default:
        return;
    }
    FUZZ_CHECK(strcmp(again, text) == 0);
    FUZZ_CHECK(k.shard < OTR_SHARDS_MAX);
}

/* A whole cluster. */
static void document(const char *text)
{
    struct document d = {.count = 0}, again = {.count = 0};
    struct otr_errmsg msg = {0};
    char *once, *twice;

    if (document_parse(text, &d, &msg) != 0) {
        FUZZ_CHECK(msg.text[0] != '\0' && d.entries == NULL);
        return;
    }
    once = document_print(&d);
    FUZZ_CHECK(once != NULL && document_parse(once, &again, &msg) == 0);
    twice = document_print(&again);
    FUZZ_CHECK(twice != NULL && strcmp(once, twice) == 0);
    FUZZ_CHECK(document_check(&d, &msg) == 0 || msg.text[0] != '\0');
    free(once);
    free(twice);
    document_close(&d);
    document_close(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char *text;

    if (bytes == 0) {
        return 0;
    }
    text = fuzz_copy(data + 1, bytes - 1, 1);
    if (data[0] == 'k') {
        key(text);
    } else if (data[0] == 'D') {
        document(text);
    } else {
        value((char)data[0], text);
    }
    free(text);
    return 0;
}
