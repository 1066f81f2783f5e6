/* The JSON reader and printer: strict, exact, round trip. Texts are copied to the heap with exactly the slack that
 * json.h asks for, so that a look too far is seen by ASan and valgrind. */
#include "sidecar/api/json.h"
#include "sidecar/api/json_points.h"
#include "sidecar/api/json_print.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(json, .timeout = 60);

static char *copy(const char *text, size_t bytes)
{
    char *out = calloc(1, bytes + JSON_SLACK);

    memcpy(out, text, bytes);
    return out;
}

/* Any value, as json_skip sees it. */
static int check(const char *text, size_t bytes)
{
    char *own = copy(text, bytes);
    struct otr_errmsg msg = {0};
    struct json j;
    const char *value;
    size_t value_bytes;
    int rv;

    json_init(&j, own, bytes, &msg);
    rv = json_skip(&j, &value, &value_bytes);
    if (rv == 0) {
        rv = json_end(&j);
    }
    json_close(&j);
    cr_assert(rv == 0 || strlen(msg.text) > 0);
    cr_assert(eq(int, memcmp(own, text, bytes), 0)); /* Skipping leaves the text as it stands. */
    free(own);
    return rv;
}

static const char *const good[] = {
    "{}",
    "[]",
    " [ ] ",
    "null",
    "true",
    "false",
    "0",
    "-0",
    "-0.0e+10",
    "1E400",
    "\"\"",
    "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\\ud83d\\ude00\"",
    "\"\xC3\xA4\xF0\x9F\x98\x80\xEF\xBF\xBF\x7F\"",
    "{\"a\":{\"a\":[1,{\"a\":2}]},\"b\":\"a\"}",
    "[1,2 , 3\n,\t4]",
    "{\"\":1,\" \":2}",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", /* 32 */
};

static const char *const bad[] = {
    "",
    " ",
    "{",
    "[",
    "\"",
    "\"\\",
    "\"\\u12",
    "[1",
    "[1,",
    "{\"a\"",
    "{\"a\":",
    "{\"a\":1",
    "{\"a\":1,",
    "{\"a\":1,}",
    "[1,]",
    "[,1]",
    "[1 2]",
    "{\"a\" 1}",
    "{a:1}",
    "{'a':1}",
    "{1:1}",
    "{,}",
    "nul",
    "nullx",
    "True",
    "NaN",
    "Infinity",
    "-Infinity",
    "-",
    "+1",
    ".5",
    "1.",
    "1.e5",
    "01",
    "-01",
    "1e",
    "1e+",
    "0x1",
    "1_000",
    "1,2",
    "{} {}",
    "// comment\n1",
    "/* */1",
    "\"a\nb\"",
    "\"a\tb\"",
    "\"\\x41\"",
    "\"\\'\"",
    "\"\\u00g0\"",
    "\"\\ud800\"",
    "\"\\ud800\\u0041\"",
    "\"\\udc00\"",
    "\"\\ud800\\ud800\"",
    "\"\xC3\"",
    "\"\xC0\x80\"",
    "\"\xE0\x80\x80\"",
    "\"\xED\xA0\x80\"",
    "\"\xF4\x90\x80\x80\"",
    "\"\xF8\x88\x80\x80\x80\"",
    "\"\x80\"",
    "\xEF\xBB\xBF{}", /* a byte order mark */
    "{\"a\":1,\"a\":2}",
    "{\"a\":1,\"\\u0061\":2}",
    "{\"b\":{\"a\":1,\"c\":2,\"a\":3}}",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", /* 33 */
    "[}",
    "{]",
    "]",
    "1]",
};

Test(json, what_is_json)
{
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        cr_assert(eq(int, check(good[i], strlen(good[i])), 0), "%s", good[i]);
    }
}

Test(json, what_is_not)
{
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert(eq(int, check(bad[i], strlen(bad[i])), OTR_INVALID), "%s", bad[i]);
    }
    cr_assert(eq(int, check("1\0", 2), OTR_INVALID));
    cr_assert(eq(int, check("\"a\0b\"", 5), OTR_INVALID));
    cr_assert(eq(int, check("[1,\0]", 5), OTR_INVALID));
}

/* Every beginning of a good text is refused, and nothing is read beyond its end. */
Test(json, texts_cut_short)
{
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        for (size_t n = 0; n < strlen(good[i]); n++) {
            int rv = check(good[i], n);
            cr_assert(rv == 0 || rv == OTR_INVALID);
        }
    }
}

Test(json, nesting_without_end)
{
    size_t bytes = 1 << 20;
    char *text = malloc(bytes);

    memset(text, '[', bytes);
    cr_assert(eq(int, check(text, bytes), OTR_INVALID));
    for (size_t i = 0; i + 5 <= bytes; i += 5) {
        memcpy(text + i, "{\"a\":", 5);
    }
    cr_assert(eq(int, check(text, bytes), OTR_INVALID));
    free(text);
}

Test(json, many_keys_are_compared_in_time)
{
    size_t count = 200000;
    char *text = malloc(count * 12);
    size_t used = (size_t)sprintf(text, "{");

    for (size_t i = 0; i < count; i++) {
        used += (size_t)sprintf(text + used, "%s\"%zu\":0", i != 0 ? "," : "", i);
    }
    text[used] = '}';
    cr_assert(eq(int, check(text, used + 1), 0));
    used += (size_t)sprintf(text + used, ",\"777\":1}");
    cr_assert(eq(int, check(text, used), OTR_INVALID));
    free(text);
}

Test(json, strings_are_unescaped_in_place)
{
    static const char text[] = "\"a\\n\\u00e4b\\ud83d\\ude00cccccccccc\\\"dddddddddd\\u0000e\" ";
    static const char meant[] = "a\n\xC3\xA4"
                                "b\xF0\x9F\x98\x80"
                                "cccccccccc\"dddddddddd\0e";
    char *own = copy(text, sizeof text - 1);
    struct json j;
    char *string;
    size_t bytes;

    json_init(&j, own, sizeof text - 1, NULL);
    cr_assert(eq(int, json_string(&j, &string, &bytes), 0));
    cr_assert(eq(sz, bytes, sizeof meant - 1));
    cr_assert(eq(int, memcmp(string, meant, bytes), 0));
    cr_assert(eq(int, json_end(&j), 0));
    json_close(&j);
    free(own);
}

/* --- numbers
 * ------------------------------------------------------------------------------------------------------------ */

static int one_float(const char *number, float *out)
{
    char text[1300];
    char *own;
    struct json j;
    size_t count;
    int rv;

    snprintf(text, sizeof text, "[%s]", number);
    own = copy(text, strlen(text));
    json_init(&j, own, strlen(text), NULL);
    rv = json_floats(&j, out, 1, &count);
    json_close(&j);
    free(own);
    return rv;
}

static void same_as_strtod(const char *number)
{
    float got = 7;
    float want = (float)strtod(number, NULL);

    if (isfinite(want)) {
        cr_assert(eq(int, one_float(number, &got), 0), "%s", number);
        cr_assert(eq(int, memcmp(&got, &want, sizeof got), 0), "%s: %.9g, not %.9g", number, (double)got, (double)want);
    } else {
        cr_assert(eq(int, one_float(number, &got), OTR_INVALID), "%s", number);
    }
}

Test(json, numbers_become_the_float_of_the_exact_double)
{
    static const char *const numbers[] = {"0",
                                          "-0",
                                          "0.0",
                                          "-0.0",
                                          "0e5",
                                          "1",
                                          "-1",
                                          "0.1",
                                          "16777217",
                                          "16777219",
                                          "3.4028234663852886e38",
                                          "3.4028235e38",
                                          "3.4028235677973366e38",
                                          "3.4028236e38",
                                          "1e39",
                                          "-1e39",
                                          "1e308",
                                          "1e309",
                                          "1e-45",
                                          "7e-46",
                                          "1.1754943508222875e-38",
                                          "1.1754942e-38",
                                          "5.877471754111438e-39",
                                          "1e-400",
                                          "0.000000000000000000000000000001",
                                          "1000000000000000000000000000000",
                                          "9007199254740993",
                                          "9007199254740992.5",
                                          "12345678901234567890",
                                          "123456789012345678901234567890",
                                          "0.00000000000000000001234567890123456789",
                                          "1.00000005960464477539",
                                          "1.000000059604644775390625",
                                          "1.0000000596046448",
                                          "1.0000000596046447",
                                          "1.0000001788139343",
                                          "1.00000017881393432617187499",
                                          "1.00000017881393432617187500",
                                          "1.00000017881393432617187501",
                                          "8388608.5",
                                          "8388609.5",
                                          "8388608.500000001",
                                          "8388609.499999999",
                                          "1e22",
                                          "1e23",
                                          "1e-22",
                                          "1e-23",
                                          "123456789e-10",
                                          "123456789E+10",
                                          "123456789e0000000005",
                                          "1e00022",
                                          "99999999999999999999e-20"};

    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        same_as_strtod(numbers[i]);
    }
}

Test(json, random_numbers_become_the_float_of_the_exact_double)
{
    char text[64];

    srand(42);
    for (int i = 0; i < 200000; i++) {
        uint32_t bits = (uint32_t)rand() << 16 ^ (uint32_t)rand();
        float f;
        double d = (double)rand() / RAND_MAX * 2 - 1;

        memcpy(&f, &bits, sizeof f);
        switch (i % 5) {
        case 0: /* any float, as any printer would print it */
            snprintf(text, sizeof text, "%.*g", 1 + rand() % 17, isfinite(f) ? (double)f : 1.0);
            break;
        case 1: /* the middle between two floats, and close to it */
            f = (float)d;
            d = ((double)f + (double)nextafterf(f, 2)) / 2;
            snprintf(text, sizeof text, "%.*g", 15 + rand() % 10, d);
            break;
        case 2:
            snprintf(text, sizeof text, "%.17g", d);
            break;
        case 3:
            snprintf(text, sizeof text, "%.*f", rand() % 20, d * 1000);
            break;
        default:
            snprintf(text, sizeof text, "%.*e", rand() % 19, d * 1e3);
            break;
        }
        same_as_strtod(text);
    }
}

Test(json, a_number_has_a_longest_form)
{
    char text[1100];
    float f;

    memset(text, '1', sizeof text);
    text[0] = '0';
    text[1] = '.';
    text[1024] = '\0';
    cr_assert(eq(int, one_float(text, &f), 0));
    text[1024] = '1';
    text[1025] = '\0';
    cr_assert(eq(int, one_float(text, &f), OTR_INVALID));
}

Test(json, more_numbers_than_room_are_counted_not_kept)
{
    static const char text[] = "[1,2,3,4]";
    char *own = copy(text, sizeof text - 1);
    float out[3] = {0, 0, 99};
    struct json j;
    size_t count;

    json_init(&j, own, sizeof text - 1, NULL);
    cr_assert(eq(int, json_floats(&j, out, 2, &count), 0));
    cr_assert(eq(sz, count, 4));
    cr_assert(eq(flt, out[1], 2.0F));
    cr_assert(eq(flt, out[2], 99.0F));
    free(own);
}

Test(json, floats_are_printed_so_that_they_read_back)
{
    struct text t;

    text_init(&t, 1 << 20);
    srand(7);
    for (int i = 0; i < 200000; i++) {
        uint32_t bits = (uint32_t)rand() << 16 ^ (uint32_t)rand();
        float f;
        float back;

        memcpy(&f, &bits, sizeof f);
        if (i % 3 == 0) {
            f = (float)(rand() % 100000) / 1000.0F;
        } else if (i % 3 == 1) {
            f = (float)rand() / (float)RAND_MAX;
        }
        if (!isfinite(f)) {
            continue;
        }
        t.used = 0;
        json_print_float(&t, f);
        t.bytes[t.used] = '\0';
        cr_assert(eq(int, check(t.bytes, t.used), 0), "%s", t.bytes);
        cr_assert(eq(int, one_float(t.bytes, &back), 0));
        cr_assert(eq(int, memcmp(&back, &f, sizeof f), 0), "%s is not %.9g", t.bytes, (double)f);
    }
    text_close(&t);
}

Test(json, floats_are_printed_shortly)
{
    static const struct {
        float f;
        const char *text;
    } floats[] = {{0, "0"},
                  {-0.0F, "-0"},
                  {1, "1"},
                  {-1.5F, "-1.5"},
                  {0.1F, "0.1"},
                  {100, "100"},
                  {1e6F, "1000000"},
                  {0.001F, "0.001"},
                  {1e-7F, "1e-7"},
                  {1e20F, "1e20"},
                  {1.0F / 3, "0.33333334"},
                  {16777216, "16777216"},
                  {3.4028235e38F, "3.4028235e+38"},
                  {123456.7F, "123456.7"},
                  {0.00012345F, "0.00012345"}};
    struct text t;

    text_init(&t, 1000);
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++) {
        t.used = 0;
        json_print_float(&t, floats[i].f);
        text_put(&t, "", 1);
        cr_assert(eq(str, t.bytes, (char *)floats[i].text));
    }
    text_close(&t);
}

Test(json, strings_are_printed_as_json_whatever_they_hold)
{
    struct text t;

    text_init(&t, 1000);
    json_print_string(&t, "a\"\\\n\x01\x7F\xC3\xA4\xFF\xED\xA0\x80z", 13);
    cr_assert(eq(int, check(t.bytes, t.used), 0));
    text_put(&t, "", 1);
    cr_assert(
        eq(str, t.bytes, "\"a\\\"\\\\\\n\\u0001\\u007f\xC3\xA4\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz\""));
    t.used = 0;
    json_print_double(&t, 0.1);
    json_print_double(&t, (double)NAN);
    text_put(&t, "", 1);
    cr_assert(eq(str, t.bytes, "0.1null"));
    text_close(&t);
}

Test(json, a_text_has_its_limit)
{
    struct text t;

    text_init(&t, 300);
    for (int i = 0; i < 100; i++) {
        text_puts(&t, "0123456789");
    }
    cr_assert(eq(int, t.failed, OTR_TOOBIG));
    cr_assert(eq(sz, t.used, 300));
    text_close(&t);
}

/* --- bodies
 * ------------------------------------------------------------------------------------------------------------- */

Test(json, points_lie_where_they_should)
{
    static const char text[] =
        " { \"points\" : [ { \"vector\" : [ 1 , 2 ] , \"metadata\" : { \"a\" : \"\\u00e4\" } , \"id\" : "
        "\"x\\u00e4\" } , {\"vector\":[3,4.5],\"metadata\":null} ] } ";
    char *own = copy(text, sizeof text - 1);
    struct json_vector_rules rules = {.dimension = 2, .metric = OTR_METRIC_DOT};
    struct otr_request_id id = {{1}};
    struct json_points p;
    struct otr_errmsg msg = {0};

    cr_assert(eq(int, json_points_read(&p, &rules, &id, own, sizeof text - 1, &msg), 0), "%s", msg.text);
    cr_assert(eq(sz, p.count, 2));
    cr_assert(eq(uint, p.points[0].id_bytes, 3));
    cr_assert(eq(int, memcmp(p.points[0].id, "x\xC3\xA4", 3), 0));
    cr_assert(eq(uint, p.points[0].metadata_bytes, strlen("{ \"a\" : \"\\u00e4\" }")));
    cr_assert(eq(int, memcmp(p.points[0].metadata, "{ \"a\" : \"\\u00e4\" }", p.points[0].metadata_bytes), 0));
    cr_assert(eq(flt, p.points[0].vector[1], 2.0F));
    cr_assert(eq(flt, p.points[1].vector[1], 4.5F));
    cr_assert(eq(uint, p.points[1].metadata_bytes, 0));
    cr_assert(eq(uint, p.points[1].id_bytes, 36));
    json_points_close(&p);
    free(own);
}

Test(json, a_zero_vector_is_fine_where_it_has_a_meaning)
{
    static const char text[] = "{\"points\":[{\"id\":\"a\",\"vector\":[0,0]}]}";
    char *own = copy(text, sizeof text - 1);
    struct json_vector_rules rules = {.dimension = 2, .metric = OTR_METRIC_EUCLIDEAN};
    struct otr_request_id id = {{1}};
    struct json_points p;

    cr_assert(eq(int, json_points_read(&p, &rules, &id, own, sizeof text - 1, NULL), 0));
    json_points_close(&p);
    free(own);
}

/* Every beginning of a body is refused; nothing leaks and nothing is read beyond the end. */
Test(json, bodies_cut_short)
{
    static const char text[] =
        "{\"points\":[{\"id\":\"a\",\"vector\":[1.25,2e1],\"metadata\":{\"k\":[true,\"\\u00e4\"]}},"
        "{\"vector\":[3,4]}]}";
    struct json_vector_rules rules = {.dimension = 2, .metric = OTR_METRIC_COSINE};
    struct otr_request_id id = {{1}};

    for (size_t n = 0; n < sizeof text - 1; n++) {
        char *own = copy(text, n);
        struct json_points p;

        cr_assert(eq(int, json_points_read(&p, &rules, &id, own, n, NULL), OTR_INVALID), "%zu", n);
        free(own);
    }
}

/* Bodies damaged at random: whatever is accepted holds what the rules promise. */
Test(json, damaged_bodies)
{
    static const char text[] =
        "{\"points\":[{\"id\":\"a\",\"vector\":[1.25,-2e1],\"metadata\":{\"k\":[true,\"\\u00e4\"]}},"
        "{\"vector\":[3,4],\"id\":\"\\ud83d\\ude00\"}]}";
    struct json_vector_rules rules = {.dimension = 2, .metric = OTR_METRIC_COSINE};
    struct otr_request_id id = {{1}};
    unsigned accepted = 0;

    srand(3);
    for (int i = 0; i < 100000; i++) {
        char *own = copy(text, sizeof text - 1);
        struct json_points p;

        for (int k = rand() % 3; k >= 0; k--) {
            static const char bytes[] = "0123456789eE+-.,:[]{}\"\\ u\x01\x80\xC3\xA4\xFF tfnul";
            own[(size_t)rand() % (sizeof text - 1)] = bytes[(size_t)rand() % sizeof bytes];
        }
        if (json_points_read(&p, &rules, &id, own, sizeof text - 1, NULL) == 0) {
            accepted++;
            for (size_t n = 0; n < p.count; n++) {
                cr_assert(json_id_fault(p.points[n].id, p.points[n].id_bytes) == NULL);
                cr_assert(isfinite(p.points[n].vector[0]) && isfinite(p.points[n].vector[1]));
                cr_assert(p.points[n].vector[0] != 0 || p.points[n].vector[1] != 0);
                cr_assert(p.points[n].metadata_bytes == 0 || p.points[n].metadata[0] == '{');
            }
            json_points_close(&p);
        }
        free(own);
    }
    cr_assert(gt(uint, accepted, 1000));
}
