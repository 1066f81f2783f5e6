#include "backends/consul/consul_codec.h"

#include <criterion/criterion.h>
#include <string.h>

Test(consul_codec, keys_that_consul_can_hold)
{
    static const char *const good[] = {
        "",       "a",       "/",           "/a",     "a/b",  "/a/b/",        "a b",
        "a.b/.c", "..a/b..", "\xc3\xa4/~x", "%2f?&#", "\"\\", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
    static const char *const bad[] = {"a//b",
                                      "//a",
                                      "a/./b",
                                      ".",
                                      "..",
                                      "/../a",
                                      "a/..",
                                      "a\nb",
                                      "\x7f",
                                      "\xff",
                                      "\xc3",
                                      "\xc0\xaf",
                                      "\xe0\x80\xaf",
                                      "\xed\xa0\x80",
                                      "\xf4\x90\x80\x80",
                                      "\xc2\x85",
                                      "\xe2\x82",
                                      "a/."};

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        cr_assert(consul_key_valid(good[i]), "%s", good[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert(!consul_key_valid(bad[i]), "%s", bad[i]);
    }
}

Test(consul_codec, keys_in_urls)
{
    struct json_text url = {0};

    consul_add_path(&url, "/outrigger/a b/\xc3\xa4?#%&\"~-_.x");
    cr_assert_str_eq(url.data, "outrigger/a%20b/%C3%A4%3F%23%25%26%22~-_.x");
    json_text_close(&url);
}

static int decode(const char *text, bool slash, struct kv_list *kvs)
{
    cJSON *json = cJSON_Parse(text);
    int rv;

    *kvs = (struct kv_list){0};
    rv = consul_kvs_decode(json, slash, kvs);
    cJSON_Delete(json);
    return rv;
}

Test(consul_codec, lists)
{
    struct kv_list kvs;

    cr_assert(
        decode(
            "[{\"LockIndex\":1,\"Key\":\"a/b\",\"Flags\":7,\"Value\":\"AAE=\",\"Session\":\"s-1\",\"CreateIndex\":3,"
            "\"ModifyIndex\":9007199254740992},{\"Key\":\"a/c\",\"Value\":null,\"CreateIndex\":4,\"ModifyIndex\":4}]",
            true, &kvs) == 0);
    cr_assert(kvs.count == 2);
    cr_assert_str_eq(kvs.list[0].key, "/a/b");
    cr_assert(kvs.list[0].value_bytes == 2 && memcmp(kvs.list[0].value, "\0\1", 3) == 0);
    cr_assert_str_eq(kvs.list[0].session, "s-1");
    cr_assert(kvs.list[0].create_revision == 3 && kvs.list[0].revision == 9007199254740992);
    cr_assert_str_eq(kvs.list[1].value, "", "null is empty");
    cr_assert_str_eq(kvs.list[1].session, "");
    kv_list_close(&kvs);
    cr_assert(decode("[{\"Key\":\"k\",\"CreateIndex\":4,\"ModifyIndex\":4}]", false, &kvs) == 0);
    cr_assert_str_eq(kvs.list[0].key, "k", "a prefix without slash gives keys without");
    kv_list_close(&kvs);
    cr_assert(decode("[]", true, &kvs) == 0 && kvs.count == 0);
    kv_list_close(&kvs);
}

Test(consul_codec, garbage_is_refused)
{
    static const char *const bad[] = {
        "{}",
        "null",
        "7",
        "[7]",
        "[{\"CreateIndex\":4,\"ModifyIndex\":4}]",
        "[{\"Key\":\"\",\"CreateIndex\":4,\"ModifyIndex\":4}]",
        "[{\"Key\":7,\"CreateIndex\":4,\"ModifyIndex\":4}]",
        "[{\"Key\":\"k\",\"CreateIndex\":4}]",
        "[{\"Key\":\"k\",\"ModifyIndex\":4}]",
        "[{\"Key\":\"k\",\"CreateIndex\":-1,\"ModifyIndex\":4}]",
        "[{\"Key\":\"k\",\"CreateIndex\":4,\"ModifyIndex\":1e300}]",
        "[{\"Key\":\"k\",\"CreateIndex\":4,\"ModifyIndex\":\"4\"}]",
        "[{\"Key\":\"k\",\"Value\":\"!\",\"CreateIndex\":4,\"ModifyIndex\":4}]",
        "[{\"Key\":\"k\",\"Value\":\"YQ=\",\"CreateIndex\":4,\"ModifyIndex\":4}]",
        "[{\"Key\":\"k\",\"CreateIndex\":4,\"ModifyIndex\":4,"
        "\"Session\":\"0123456789012345678901234567890123456789012345678901234567890123456789\"}]",
        "[{\"Key\":\"b\",\"CreateIndex\":4,\"ModifyIndex\":4},{\"Key\":\"a\",\"CreateIndex\":4,\"ModifyIndex\":4}]",
        "[{\"Key\":\"a\",\"CreateIndex\":4,\"ModifyIndex\":4},{\"Key\":\"a\",\"CreateIndex\":4,\"ModifyIndex\":4}]",
    };
    struct kv_list kvs;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert(decode(bad[i], true, &kvs) == OTR_PROTO, "%s", bad[i]);
        kv_list_close(&kvs);
    }
}

Test(consul_codec, numbers_and_ids)
{
    cr_assert(consul_index_parse("17") == 17 && consul_index_parse("18446744073709551615") == UINT64_MAX);
    cr_assert(consul_index_parse("") == 0 && consul_index_parse("-1") == 0 && consul_index_parse("1x") == 0);
    cr_assert(consul_index_parse("18446744073709551616") == 0 && consul_index_parse("000000000000000000001") == 0);
    cr_assert(consul_session_id_valid("394bbd60-62ae-3881-d76f-71c6dc70745e"));
    cr_assert(!consul_session_id_valid("") && !consul_session_id_valid("4711"));
    cr_assert(!consul_session_id_valid("394bbd60-62ae-3881-d76f-71c6dc70745e0"));
    cr_assert(!consul_session_id_valid("394bbd60-62ae-3881-d76f-71c6dc70745/"));
    cr_assert(!consul_session_id_valid("394bbd60 62ae-3881-d76f-71c6dc70745e"));
}
