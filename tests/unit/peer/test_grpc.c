/* gRPC's formats in headers and the framing of messages. */
#include "sidecar/peer/grpc.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

Test(grpc, every_method_is_found_by_its_whole_path)
{
    for (int i = 0; i < GRPC_METHODS; i++) {
        const char *path = grpc_methods[i].path;

        cr_assert(eq(int, grpc_method_find(path, strlen(path)), i), "%s", path);
        cr_assert(eq(int, grpc_method_find(path, strlen(path) - 1), -1), "%s", path);
    }
    cr_assert(eq(int, grpc_method_find("", 0), -1));
}

Test(grpc, timeouts_have_six_units)
{
    static const struct {
        const char *text;
        uint64_t ms;
    } good[] = {
        {"2H", 7200000}, {"3M", 180000},      {"4S", 4000},
        {"250m", 250},   {"1u", 1},           {"1000u", 1},
        {"1001u", 2},    {"1n", 1},           {"0n", 0},
        {"0S", 0},       {"00000001S", 1000}, {"99999999H", 366ULL * 24 * 3600 * 1000}, /* a year is the most */
    };
    static const char *const bad[] = {"",    "1",  "S",   "1s",  "1 S",        "-1S", "+1S", "0x1S",
                                      "1SS", "1h", "1.S", "1,S", "100000000S", "S1",  " 1S", "1\x80"};
    uint64_t ms = 77;

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        cr_assert(grpc_timeout_parse(good[i].text, strlen(good[i].text), &ms), "%s", good[i].text);
        cr_assert(eq(u64, ms, good[i].ms), "%s", good[i].text);
    }
    ms = 77;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert(not(grpc_timeout_parse(bad[i], strlen(bad[i]), &ms)), "%s", bad[i]);
    }
    cr_assert(eq(u64, ms, 77)); /* What is refused sets nothing. */
}

/* What we say we understand, and it is no more than what was meant. */
Test(grpc, timeouts_survive_being_written)
{
    static const uint32_t values[] = {0, 1, 250, 99999999, 100000000, UINT32_MAX};
    char text[GRPC_TIMEOUT_TEXT_MAX];
    uint64_t ms;

    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        cr_assert(grpc_timeout_parse(text, grpc_timeout_format(text, values[i]), &ms), "%u", values[i]);
        cr_assert(le(u64, ms, values[i]));
        cr_assert(gt(u64, ms + 1000, values[i]));
    }
}

Test(grpc, status_texts_survive_headers)
{
    static const char text[] = "100 % of n\xC3\xB6"
                               "des\nare\tgone";
    char header[128];
    char back[128];
    size_t bytes;

    bytes = grpc_text_encode(header, sizeof header, text);
    cr_assert(eq(str, header, "100 %25 of n%C3%B6des%0Aare%09gone"));
    cr_assert(eq(sz, grpc_text_decode(back, sizeof back, header, bytes), sizeof text - 1));
    cr_assert(eq(str, back, (char *)text));
    /* What is no escape stays; what does not fit is cut, and both end with a NUL. */
    cr_assert(eq(sz, grpc_text_decode(back, sizeof back, "%", 1), 1));
    cr_assert(eq(str, back, "%"));
    grpc_text_decode(back, sizeof back, "%4%zz%41", 8);
    cr_assert(eq(str, back, "%4%zzA"));
    cr_assert(eq(sz, grpc_text_decode(back, 4, "abcdef", 6), 3));
    cr_assert(eq(str, back, "abc"));
    bytes = grpc_text_encode(header, 8, "%%%%%%");
    cr_assert(lt(sz, bytes, 8));
    cr_assert(eq(sz, strlen(header), bytes));
}
