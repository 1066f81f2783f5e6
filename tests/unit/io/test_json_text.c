#include "sidecar/io/json_text.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

/* What a JSON parser reads is what was written, whatever the characters. */
Test(json_text, strings_are_escaped)
{
    static const char *const strings[] = {
        "", "plain", "\"", "\\", "a\"b\\c", "\n\t\x01\x1f", "\xc3\xa4\xe2\x82\xac", "/'<>&"};

    for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++) {
        struct json_text text = {0};
        cJSON *json;

        json_text_add_string(&text, strings[i]);
        json = cJSON_Parse(text.data);
        cr_assert_str_eq(cJSON_GetStringValue(json), strings[i]);
        cJSON_Delete(json);
        json_text_close(&text);
    }
}

Test(json_text, grows)
{
    struct json_text text = {0};

    for (int i = 0; i < 10000; i++) {
        json_text_add(&text, "%d,", i % 10);
    }
    cr_assert(!text.failed && text.bytes == 20000 && strlen(text.data) == 20000);
    json_text_add_raw(&text, "x\0y", 3);
    cr_assert(text.bytes == 20003 && memcmp(text.data + 20000, "x\0y", 4) == 0);
    json_text_close(&text);
    cr_assert(text.data == NULL && text.bytes == 0);
}

/* What is too long to be a name or a number makes it fail, and it stays so. */
Test(json_text, a_piece_too_long)
{
    static char name[300];
    struct json_text text = {0};

    memset(name, 'n', sizeof name - 1);
    json_text_add(&text, "a");
    json_text_add(&text, "%s", name);
    cr_assert(text.failed);
    json_text_add(&text, "b");
    json_text_add_raw(&text, "b", 1);
    json_text_add_base64(&text, "b", 1);
    json_text_add_string(&text, "b");
    cr_assert_str_eq(text.data, "a");
    json_text_close(&text);
}

Test(json_text, base64_there_and_back)
{
    unsigned char bytes[100];
    char back[100];
    size_t count;

    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(i * 41);
    }
    for (size_t i = 0; i <= sizeof bytes; i++) {
        struct json_text text = {0};

        json_text_add_base64(&text, bytes, i);
        cr_assert(json_text_base64_decode(text.data, back, &count) && count == i && memcmp(back, bytes, i) == 0);
        json_text_close(&text);
    }
    cr_assert(!json_text_base64_decode("YQ=", back, &count) && !json_text_base64_decode("Y===", back, &count));
    cr_assert(!json_text_base64_decode("Y Q=", back, &count) && !json_text_base64_decode("YQ==YQ==", back, &count));
}

Test(json_text, numbers)
{
    uint64_t value;

    cr_assert(json_text_u64("0", &value) && value == 0);
    cr_assert(json_text_u64("18446744073709551615", &value) && value == UINT64_MAX);
    cr_assert(!json_text_u64("18446744073709551616", &value) && !json_text_u64("", &value));
    cr_assert(!json_text_u64("+1", &value) && !json_text_u64(" 1", &value) && !json_text_u64("1 ", &value));
}
