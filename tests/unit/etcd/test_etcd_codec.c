#include "backends/etcd/etcd_codec.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *base64(const void *data, size_t bytes)
{
    struct json_text text = {0};

    json_text_add_base64(&text, data, bytes);
    return text.data;
}

Test(etcd_codec, base64_as_in_the_standard)
{
    static const char *const pairs[][2] = {
        {"", ""},
        {"f", "Zg=="},
        {"fo", "Zm8="},
        {"foo", "Zm9v"},
        {"foob", "Zm9vYg=="},
        {"fooba", "Zm9vYmE="},
        {"foobar", "Zm9vYmFy"},
        {"\xfb\xff\xbf", "+/+/"},
    };

    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        char *text = base64(pairs[i][0], strlen(pairs[i][0]));

        cr_assert_str_eq(text, pairs[i][1]);
        free(text);
    }
}

static int decode(const char *json_text, struct otr_kv *kv)
{
    cJSON *json = cJSON_Parse(json_text);
    int rv = etcd_kv_decode(json, kv);

    cJSON_Delete(json);
    return rv;
}

/* What comes back is what went out, whatever the bytes. */
Test(etcd_codec, values_survive_the_way_there_and_back)
{
    unsigned char bytes[300];
    char json[1024];
    struct otr_kv kv;

    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(i * 37);
    }
    for (size_t count = 0; count <= sizeof bytes; count++) {
        char *value = base64(bytes, count);

        snprintf(json, sizeof json, "{\"key\":\"YQ==\",\"value\":\"%s\"}", value);
        cr_assert(decode(json, &kv) == 0);
        cr_assert(kv.value_bytes == count && memcmp(kv.value, bytes, count) == 0 && kv.value[count] == '\0');
        kv_close(&kv);
        free(value);
    }
}

Test(etcd_codec, kv_fields)
{
    struct otr_kv kv;

    cr_assert(decode("{\"key\":\"YS9i\",\"create_revision\":\"9223372036854775807\",\"mod_revision\":\"12\","
                     "\"lease\":\"9223372036854775807\",\"unknown\":{}}",
                     &kv) == 0);
    cr_assert_str_eq(kv.key, "a/b");
    cr_assert_str_eq(kv.value, "", "default values are left out");
    cr_assert(kv.create_revision == INT64_MAX && kv.revision == 12);
    cr_assert_str_eq(kv.session, "9223372036854775807");
    kv_close(&kv);
    cr_assert(decode("{\"key\":\"YQ==\",\"mod_revision\":12}", &kv) == 0, "numbers are accepted too");
    cr_assert(kv.revision == 12);
    cr_assert_str_eq(kv.session, "");
    kv_close(&kv);
}

Test(etcd_codec, garbage_is_refused)
{
    static const char *const bad[] = {
        "{}",
        "[]",
        "7",
        "{\"key\":7}",
        "{\"key\":\"\"}",
        "{\"key\":\"YQ=\"}",
        "{\"key\":\"YQ\"}",
        "{\"key\":\"Y===\"}",
        "{\"key\":\"====\"}",
        "{\"key\":\"Y=Q=\"}",
        "{\"key\":\"YQ==YQ==\"}",
        "{\"key\":\"Y Q=\"}",
        "{\"key\":\"YQ==\",\"value\":\"!\"}",
        "{\"key\":\"YQ==\",\"value\":\"\xc3\xa4\xc3\xa4\"}",
    };
    struct otr_kv kv;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert(decode(bad[i], &kv) == OTR_PROTO, "%s", bad[i]);
    }
    cr_assert(decode("{\"key\":\"YQBi\"}", &kv) == OTR_UNSUPPORTED, "a NUL in a key: none of ours");
    cr_assert(etcd_kv_decode(NULL, &kv) == OTR_PROTO);
}

Test(etcd_codec, numbers)
{
    cJSON *json = cJSON_Parse("{\"max\":\"18446744073709551615\",\"over\":\"18446744073709551616\",\"minus\":\"-1\","
                              "\"plus\":\"+1\",\"space\":\" 1\",\"tail\":\"1x\",\"empty\":\"\",\"null\":null,"
                              "\"big\":1e300,\"negative\":-5,\"one\":1,\"list\":[1]}");
    static const char *const zeros[] = {"over", "minus", "plus",     "space", "tail",  "empty",
                                        "null", "big",   "negative", "list",  "absent"};

    cr_assert(etcd_json_u64(json, "max") == UINT64_MAX);
    cr_assert(etcd_json_u64(json, "one") == 1);
    for (size_t i = 0; i < sizeof zeros / sizeof zeros[0]; i++) {
        cr_assert(etcd_json_u64(json, zeros[i]) == 0, "%s", zeros[i]);
    }
    cr_assert(etcd_json_u64(NULL, "x") == 0);
    cJSON_Delete(json);
    cr_assert(etcd_lease_parse("9223372036854775807") == INT64_MAX);
    cr_assert(etcd_lease_parse("9223372036854775808") == 0 && etcd_lease_parse("x") == 0 && etcd_lease_parse("") == 0);
}

static void expect_range(const char *prefix, const char *after, const char *expected)
{
    struct json_text text = {0}, last = {0};

    if (after != NULL) {
        json_text_add_raw(&last, after, strlen(after));
    }
    etcd_add_range(&text, prefix, &last);
    cr_assert_str_eq(text.data, expected);
    json_text_close(&text);
    json_text_close(&last);
}

Test(etcd_codec, ranges)
{
    expect_range("a/", NULL, "\"key\":\"YS8=\",\"range_end\":\"YTA=\"");
    expect_range("a/", "a/x", "\"key\":\"YS94AA==\",\"range_end\":\"YTA=\"");
    expect_range("a\xff\xff", NULL, "\"key\":\"Yf//\",\"range_end\":\"Yg==\"");
    expect_range("", NULL, "\"key\":\"AA==\",\"range_end\":\"AA==\"");
    expect_range("\xff", NULL, "\"key\":\"/w==\",\"range_end\":\"AA==\"");
}

static int code_of(const char *text, const char *expected)
{
    cJSON *json = cJSON_Parse(text);
    const char *message;
    int code = etcd_error_code(json, &message);

    cr_assert_str_eq(message, expected);
    cJSON_Delete(json);
    return code;
}

/* Both dialects of the gateway, unary and inside a stream. */
Test(etcd_codec, errors_of_both_dialects)
{
    cr_assert(code_of("{\"error\":\"lost\",\"message\":\"lost\",\"code\":5}", "lost") == ETCD_CODE_NOT_FOUND);
    cr_assert(code_of("{\"code\":5, \"message\":\"lost\"}", "lost") == ETCD_CODE_NOT_FOUND);
    cr_assert(
        code_of("{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":\"no leader\",\"http_status\":\"x\"}}",
                "no leader") == ETCD_CODE_UNAVAILABLE);
    cr_assert(code_of("{\"error\":{\"code\":14, \"message\":\"no leader\"}}", "no leader") == ETCD_CODE_UNAVAILABLE);
    cr_assert(code_of("{\"error\":{}}", "") == ETCD_CODE_UNAVAILABLE, "an error all the same");
    cr_assert(code_of("{\"error\":\"text only\"}", "text only") == ETCD_CODE_UNAVAILABLE);
    cr_assert(code_of("{\"error\":{\"code\":\"5\"}}", "") == ETCD_CODE_UNAVAILABLE);
    cr_assert(code_of("{\"header\":{\"revision\":\"1\"},\"error\":\"\"}", "") == ETCD_CODE_NONE);
    cr_assert(code_of("{}", "") == ETCD_CODE_NONE);
    cr_assert(code_of("not json", "") == ETCD_CODE_NONE);
}

Test(etcd_codec, what_an_error_says_about_the_outcome)
{
    bool certain;

    cr_assert(etcd_code_status(ETCD_CODE_NOT_FOUND, &certain) == OTR_NOTFOUND && certain);
    cr_assert(etcd_code_status(ETCD_CODE_FAILED_PRECONDITION, &certain) == OTR_EXISTS && certain);
    cr_assert(etcd_code_status(ETCD_CODE_RESOURCE_EXHAUSTED, &certain) == OTR_NOSPACE && certain);
    cr_assert(etcd_code_status(ETCD_CODE_UNAUTHENTICATED, &certain) == OTR_DENIED && certain);
    cr_assert(etcd_code_status(ETCD_CODE_DEADLINE_EXCEEDED, &certain) == OTR_TIMEOUT && !certain);
    cr_assert(etcd_code_status(ETCD_CODE_UNAVAILABLE, &certain) == OTR_UNAVAIL && !certain);
    cr_assert(etcd_code_status(2, &certain) == OTR_UNAVAIL && !certain);
    cr_assert(etcd_code_status(99, &certain) == OTR_UNAVAIL && !certain);
}
