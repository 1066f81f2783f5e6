/* A cluster as a document: what is printed is read back, byte for byte; what is wrong is refused with words that name
 * it. */
#include "sidecar/coord/document.h"
#include "tests/lib/fail_calls.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(document, .timeout = 60);

#define CONFIG(shards, generation)                                                                     \
    "{\"shards\":" #shards ",\"replication_factor\":1,\"min_in_sync\":1,\"generation\":\"" #generation \
    "\",\"later\":[1,{\"a\":null}]}"
#define SHARD(id, first, last, generation)                                                                     \
    "{\"id\":" #id ",\"range\":[" #first "," #last "],\"generation\":\"" #generation                           \
    "\",\"version\":\"3\",\"epoch\":\"2\",\"primary\":{\"node\":\"n1\",\"incarnation\":\"00000000000000aa\"}," \
    "\"in_sync\":[{\"node\":\"n1\",\"log\":\"00000000000000bb\"}],\"replicas\":[\"n1\"],\"learners\":[],"      \
    "\"state\":\"active\",\"position\":{\"epoch\":\"2\",\"index\":\"9\"},\"mode\":\"sync\",\"min_in_sync\":1," \
    "\"grant_ms\":120}"
#define COLLECTION(id) "{\"id\":\"" id "\",\"dimension\":3,\"metric\":\"cosine\",\"partition\":\"xxh3\"}"
#define NODE           "{\"zone\":\"\",\"state\":\"active\"}"
#define HEAD           "{\n  \"format\": \"outrigger cluster export\",\n  \"version\": 1,\n  \"cluster\": \"c\",\n  \"keys\": {\n"

static const char *const whole[][2] = {
    {"collections/docs", COLLECTION("00000000000000c1")},
    {"config", CONFIG(2, 4)},
    {"jobs/7", "{\"kind\":\"move\"}"},
    {"nodes/n1", NODE},
    {"shards/0", SHARD(0, 0, 2147483647, 4)},
    {"shards/1", SHARD(1, 2147483648, 4294967295, 4)},
};
enum { WHOLE = sizeof whole / sizeof whole[0] };

static const char whole_text[] = HEAD "    \"collections/docs\": " COLLECTION(
    "00000000000000c1") ",\n"
                        "    \"config\": " CONFIG(2, 4) ",\n"
                                                        "    \"jobs/7\": {\"kind\":\"move\"},\n"
                                                        "    \"nodes/n1\": " NODE ",\n"
                                                        "    \"shards/0\": " SHARD(0, 0, 2147483647,
                                                                                   4) ",\n"
                                                                                      "    \"shards/1\": " SHARD(
                                                                                          1, 2147483648, 4294967295,
                                                                                          4) "\n  }\n}\n";

static void open_whole(struct document *d)
{
    struct otr_errmsg msg = {0};

    *d = (struct document){.cluster = "c"};
    for (size_t i = WHOLE; i > 0; i--) { /* in another order than it prints them */
        cr_assert(zero(int, document_add(d, whole[i - 1][0], whole[i - 1][1], &msg)), "%s", msg.text);
    }
    cr_assert(zero(int, document_sort(d, &msg)));
}

Test(document, printed_one_line_a_key_and_read_back)
{
    struct document d;
    struct document back = {.count = 0};
    struct otr_errmsg msg = {0};
    char *text, *again;

    open_whole(&d);
    cr_assert(zero(int, document_check(&d, &msg)), "%s", msg.text);
    text = document_print(&d);
    cr_assert(eq(str, text, (char *)whole_text));
    cr_assert(zero(int, document_parse(text, &back, &msg)), "%s", msg.text);
    cr_assert(zero(int, document_check(&back, &msg)), "%s", msg.text);
    again = document_print(&back);
    cr_assert(eq(str, again, text));
    cr_assert(eq(str, (char *)document_find(&back, "jobs/7"), "{\"kind\":\"move\"}"));
    cr_assert(zero(ptr, (void *)document_find(&back, "jobs/8")));
    free(again);
    free(text);
    document_close(&back);
    document_close(&d);
}

/* White space and the order of keys, which an editor may have changed, make no difference. */
Test(document, other_layout_is_the_same)
{
    struct document d = {.count = 0};
    struct otr_errmsg msg = {0};
    char *text;

    cr_assert(zero(int, document_parse("{\"keys\":{\"shards/10\":{ \"a\" :1 },\"shards/9\":{}},\"cluster\":\"c\",\r\n"
                                       "\"version\":1,\"format\":\"outrigger cluster export\"}",
                                       &d, &msg)),
              "%s", msg.text);
    text = document_print(&d);
    cr_assert(eq(str, text, (char *)(HEAD "    \"shards/9\": {},\n    \"shards/10\": {\"a\":1}\n  }\n}\n")));
    free(text);
    document_close(&d);
}

Test(document, keys_that_it_has)
{
    static const char *const good[] = {"config",          "nodes/node-1", "shards/0",  "shards/4095",
                                       "collections/a.b", "jobs/j-1",     "history/12"};
    static const char *const bad[] = {
        "",      "config/",     "import",    "live/n1",     "leases/0", "leases/controller", "shards/",    "shards/01",
        "jobs/", "services/n1", "jobs/a__b", "history/a/b", "other",    "/config",           "../x/config"};
    char longest[2 * OTR_NAME_MAX + 10];

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        cr_assert(document_key_valid(good[i]), "%s", good[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert(not(document_key_valid(bad[i])), "%s", bad[i]);
    }
    memset(longest, 'a', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    cr_assert(not(document_key_valid(longest)));
}

Test(document, bad_documents_are_refused)
{
    static const struct {
        const char *text;
        int rv;
        const char *words;
    } cases[] = {
        {"", OTR_PROTO, "not JSON"},
        {"[]", OTR_PROTO, "not a JSON object"},
        {"{}", OTR_PROTO, "\"format\""},
        {"{\"format\":\"another\"}", OTR_PROTO, "\"format\""},
        {"{\"format\":\"outrigger cluster export\",\"cluster\":\"c\",\"keys\":{}}", OTR_PROTO, "\"version\""},
        {"{\"format\":\"outrigger cluster export\",\"version\":2}", OTR_UNSUPPORTED, "of version 2"},
        {"{\"format\":\"outrigger cluster export\",\"version\":1,\"keys\":{}}", OTR_PROTO, "\"cluster\""},
        {"{\"format\":\"outrigger cluster export\",\"version\":1,\"cluster\":\"a/b\",\"keys\":{}}", OTR_PROTO,
         "not a cluster's name"},
        {"{\"format\":\"outrigger cluster export\",\"version\":1,\"cluster\":\"c\"}", OTR_PROTO, "\"keys\""},
        {"{\"format\":\"outrigger cluster export\",\"version\":1,\"cluster\":\"c\",\"keys\":[]}", OTR_PROTO,
         "\"keys\""},
        {"{\"format\":\"outrigger cluster export\",\"version\":1,\"cluster\":\"c\",\"keys\":{},\"key\":1}", OTR_PROTO,
         "\"key\" is not known"},
        {"{\"format\":\"outrigger cluster export\",\"version\":1,\"cluster\":\"c\",\"keys\":{},\"keys\":{}}", OTR_PROTO,
         "\"keys\" is there twice"},
        {HEAD "\"config\":{}}} {}", OTR_PROTO, "not JSON"},
        {HEAD "\"config\":1}}", OTR_PROTO, "\"config\": its value is not a JSON object"},
        {HEAD "\"live/n1\":{}}}", OTR_PROTO, "\"live/n1\": none"},
        {HEAD "\"config\":{},\"nodes/a\":{},\"config\":{}}}", OTR_PROTO, "\"config\" is there twice"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct document d = {.count = 0};
        struct otr_errmsg msg = {0};

        cr_assert(eq(int, document_parse(cases[i].text, &d, &msg), cases[i].rv), "%s: %s", cases[i].text, msg.text);
        cr_assert(ne(ptr, strstr(msg.text, cases[i].words), NULL), "%s: %s", cases[i].text, msg.text);
        cr_assert(zero(ptr, d.entries));
    }
}

/* What a document of whole keys is without some of them, or with others. */
Test(document, what_is_not_one_whole_cluster_is_refused)
{
    static const struct {
        const char *key, *value; /* put in the place of the whole's, or added; NULL: taken away */
        const char *words;
    } cases[] = {
        {"config", NULL, "\"config\" is missing"},
        {"config", "{}", "key \"config\""},
        {"config", CONFIG(3, 4), "\"shards/2\" is missing"},
        {"config", CONFIG(1, 4), "the settings name 1 shards"},
        {"config", CONFIG(2, 3), "its generation is 4, above the settings' 3"},
        {"shards/0", NULL, "\"shards/0\" is missing"},
        {"shards/0", SHARD(1, 0, 2147483647, 4), "its value is that of shard 1"},
        {"shards/0", SHARD(0, 1, 2147483647, 4), "\"shards/0\": no shard has the hashes just below its range"},
        {"shards/0", SHARD(0, 0, 2147483646, 4), "\"shards/1\": no shard has the hashes just below its range"},
        {"shards/0", SHARD(0, 0, 2147483648, 4), "\"shards/1\": its range overlaps"},
        {"shards/1", SHARD(1, 2147483648, 4294967294, 4), "no shard has the hashes above its range"},
        {"shards/1", "{\"id\":1}", "key \"shards/1\""},
        {"nodes/n1", "{\"state\":\"odd\"}", "key \"nodes/n1\""},
        {"collections/docs", "{}", "key \"collections/docs\""},
        {"collections/more", COLLECTION("00000000000000c1"),
         "key \"collections/more\": it has the id of collection docs"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct document d = {.cluster = "c"};
        struct otr_errmsg msg = {0};
        bool there = false;

        for (size_t k = 0; k < WHOLE; k++) {
            bool this = strcmp(whole[k][0], cases[i].key) == 0;

            there = there || this;
            if (!this || cases[i].value != NULL) {
                cr_assert(zero(int, document_add(&d, whole[k][0], this ? cases[i].value : whole[k][1], &msg)));
            }
        }
        if (!there) {
            cr_assert(zero(int, document_add(&d, cases[i].key, cases[i].value, &msg)));
        }
        cr_assert(eq(int, document_check(&d, &msg), OTR_PROTO), "%s", cases[i].words);
        cr_assert(ne(ptr, strstr(msg.text, cases[i].words), NULL), "%s instead of: %s", msg.text, cases[i].words);
        document_close(&d);
    }
}

Test(document, more_nodes_than_there_may_be)
{
    struct otr_errmsg msg = {0};
    struct document d;
    char key[32];

    open_whole(&d);
    for (int i = 0; i < OTR_NODES_MAX; i++) {
        snprintf(key, sizeof key, "nodes/m%d", i);
        cr_assert(zero(int, document_add(&d, key, NODE, &msg)));
    }
    cr_assert(eq(int, document_check(&d, &msg), OTR_PROTO));
    cr_assert(ne(ptr, strstr(msg.text, "more than"), NULL), "%s", msg.text);
    document_close(&d);
}

Test(document, values_that_do_not_fit)
{
    struct document d = {.cluster = "c"};
    struct otr_errmsg msg = {0};
    char *large = malloc(DOCUMENT_VALUE_MAX + 10);

    cr_assert(eq(int, document_add(&d, "jobs/1", "{", &msg), OTR_PROTO));
    cr_assert(eq(int, document_add(&d, "jobs/1/2", "{}", &msg), OTR_INVALID));
    memset(large, 'a', DOCUMENT_VALUE_MAX + 10);
    memcpy(large, "{\"a\":\"", 6);
    strcpy(large + DOCUMENT_VALUE_MAX - 2, "\"}");
    cr_assert(zero(int, document_add(&d, "jobs/1", large, &msg)));
    strcpy(large + DOCUMENT_VALUE_MAX - 1, "\"}");
    large[DOCUMENT_VALUE_MAX - 2] = 'a';
    cr_assert(eq(int, document_add(&d, "jobs/2", large, &msg), OTR_TOOBIG));
    cr_assert(ne(ptr, strstr(msg.text, "jobs/2"), NULL));
    free(large);
    document_close(&d);
}

/* Want of memory is told, and changes nothing. */
static void every_call(void *data)
{
    struct document d = {.count = 0};
    struct otr_errmsg msg = {0};
    char *text = NULL;
    int rv = document_parse(whole_text, &d, &msg);

    (void)data;
    if (rv == 0) {
        rv = document_check(&d, &msg);
        text = document_print(&d);
        cr_assert(text != NULL || fail_calls_name()[0] != '\0');
        cr_assert(text == NULL || strcmp(text, whole_text) == 0);
    } else {
        cr_assert(zero(ptr, d.entries));
    }
    cr_assert(eq(int, rv != 0, msg.text[0] != '\0'), "%s without words after %s failed", otr_errname(rv),
              fail_calls_name());
    cr_assert(rv == 0 || fail_calls_name()[0] != '\0', "%s: %s", otr_errname(rv), msg.text);
    free(text);
    document_close(&d);
}

Test(document, failing)
{
    cr_assert(gt(uint, fail_each(every_call, NULL), 20));
}
