#include "sidecar/coord/keys.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

Test(keys, printed_as_the_design_says)
{
    char key[KEY_MAX];

    key_prefix(key, "c1");
    cr_assert(eq(str, key, "/outrigger/c1/"));
    key_config(key, "c1");
    cr_assert(eq(str, key, "/outrigger/c1/config"));
    key_node(key, "c1", "node-1");
    cr_assert(eq(str, key, "/outrigger/c1/nodes/node-1"));
    key_live(key, "c1", "node-1");
    cr_assert(eq(str, key, "/outrigger/c1/live/node-1"));
    key_shard(key, "c1", 4095);
    cr_assert(eq(str, key, "/outrigger/c1/shards/4095"));
    key_lease(key, "c1", 0);
    cr_assert(eq(str, key, "/outrigger/c1/leases/0"));
    key_collection(key, "c1", "docs");
    cr_assert(eq(str, key, "/outrigger/c1/collections/docs"));
    key_import(key, "c1");
    cr_assert(eq(str, key, "/outrigger/c1/import"));
    key_service(key, "c1", "node-1");
    cr_assert(eq(str, key, "/outrigger/c1/services/node-1"));
}

Test(keys, read_back_as_what_they_are)
{
    static const struct {
        const char *text;
        enum key_kind kind;
        otr_shard shard;
        const char *name;
    } cases[] = {
        {"/outrigger/c1/config", KEY_CONFIG, 0, ""},
        {"/outrigger/c1/import", KEY_IMPORT, 0, ""},
        {"/outrigger/c1/imports", KEY_OTHER, 0, ""},
        {"/outrigger/c1/nodes/node-1", KEY_NODE, 0, "node-1"},
        {"/outrigger/c1/live/a.b_c", KEY_LIVE, 0, "a.b_c"},
        {"/outrigger/c1/shards/0", KEY_SHARD, 0, ""},
        {"/outrigger/c1/shards/4095", KEY_SHARD, 4095, ""},
        {"/outrigger/c1/leases/17", KEY_LEASE, 17, ""},
        {"/outrigger/c1/leases/controller", KEY_CONTROLLER, 0, ""},
        {"/outrigger/c1/collections/docs", KEY_COLLECTION, 0, "docs"},
        {"/outrigger/c1/services/node-1", KEY_SERVICE, 0, "node-1"},
        /* Whatever else stands in the coordinator is none of ours. */
        {"/outrigger/c1/", KEY_OTHER, 0, ""},
        {"/outrigger/c1", KEY_OTHER, 0, ""},
        {"", KEY_OTHER, 0, ""},
        {"/outrigger/c11/config", KEY_OTHER, 0, ""},
        {"/outrigger/c2/config", KEY_OTHER, 0, ""},
        {"/outrigger/c1/config/x", KEY_OTHER, 0, ""},
        {"/outrigger/c1/shards/", KEY_OTHER, 0, ""},
        {"/outrigger/c1/shards/4096", KEY_OTHER, 0, ""},
        {"/outrigger/c1/shards/01", KEY_OTHER, 0, ""},
        {"/outrigger/c1/shards/-1", KEY_OTHER, 0, ""},
        {"/outrigger/c1/shards/1x", KEY_OTHER, 0, ""},
        {"/outrigger/c1/shards/99999999999999999999", KEY_OTHER, 0, ""},
        {"/outrigger/c1/leases/x", KEY_OTHER, 0, ""},
        {"/outrigger/c1/nodes/", KEY_OTHER, 0, ""},
        {"/outrigger/c1/nodes/a/b", KEY_OTHER, 0, ""},
        {"/outrigger/c1/nodes/a__b", KEY_OTHER, 0, ""},
        {"/outrigger/c1/jobs/1", KEY_OTHER, 0, ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct key key;

        key_parse("c1", cases[i].text, &key);
        cr_assert(eq(int, (int)key.kind, (int)cases[i].kind), "%s", cases[i].text);
        if (key.kind != KEY_OTHER) {
            cr_assert(eq(u32, key.shard, cases[i].shard), "%s", cases[i].text);
            cr_assert(eq(str, key.name, (char *)cases[i].name), "%s", cases[i].text);
        }
    }
}

Test(keys, names)
{
    char longest[OTR_NAME_MAX + 2];
    static const char *const good[] = {"a", "0", "node-1", "A.b_c-9", "a_", "a..b"};
    static const char *const bad[] = {"", "-a", ".a", "_a", "a b", "a/b", "a__b", "\xC3\xA4", "a\n", "a:b", "a*"};

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        cr_assert(key_name_valid(good[i]), "%s", good[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert(not(key_name_valid(bad[i])), "%s", bad[i]);
    }
    memset(longest, 'x', sizeof longest);
    longest[OTR_NAME_MAX] = '\0';
    cr_assert(key_name_valid(longest));
    longest[OTR_NAME_MAX] = 'x';
    longest[OTR_NAME_MAX + 1] = '\0';
    cr_assert(not(key_name_valid(longest)));
}

/* The longest names still make a key. */
Test(keys, longest_names_fit)
{
    char name[OTR_NAME_MAX + 1];
    char text[KEY_MAX];
    struct key key;

    memset(name, 'x', OTR_NAME_MAX);
    name[OTR_NAME_MAX] = '\0';
    key_collection(text, name, name);
    key_parse(name, text, &key);
    cr_assert(eq(int, (int)key.kind, KEY_COLLECTION));
    cr_assert(eq(str, key.name, name));
}
