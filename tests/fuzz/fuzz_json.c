/* Any JSON: json_skip checks it as it stands, a walk with the other functions takes it apart. What json_skip accepts,
 * the walk accepts and can print; and the print is accepted again and prints the same.
 *
 * Covers: sidecar/api/json.c sidecar/api/json_number.c sidecar/api/json_string.c sidecar/api/json_print.c
 * sidecar/api/utf8.h */
#include "sidecar/api/json.h"
#include "sidecar/api/json_print.h"
#include "sidecar/api/utf8.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>

static bool number_refused; /* by the last walk */

static int walk(struct json *j, struct text *out);

static int walk_object(struct json *j, struct text *out)
{
    char *key;
    size_t bytes;
    int rv = json_object_begin(j);

    text_puts(out, "{");
    for (bool first = true; rv == 0; first = false) {
        rv = json_object_next(j, first, &key, &bytes);
        if (rv != 0 || key == NULL) {
            break;
        }
        FUZZ_CHECK(utf8_valid(key, bytes));
        text_puts(out, first ? "" : ",");
        json_print_string(out, key, bytes);
        text_puts(out, ":");
        rv = walk(j, out);
    }
    text_puts(out, "}");
    return rv;
}

static int walk_array(struct json *j, struct text *out)
{
    bool more;
    int rv = json_array_begin(j);

    text_puts(out, "[");
    for (bool first = true; rv == 0; first = false) {
        rv = json_array_next(j, first, &more);
        if (rv != 0 || !more) {
            break;
        }
        text_puts(out, first ? "" : ",");
        rv = walk(j, out);
    }
    text_puts(out, "]");
    return rv;
}

static int walk_string(struct json *j, struct text *out)
{
    char *string;
    size_t bytes;
    int rv = json_string(j, &string, &bytes);

    if (rv == 0) {
        FUZZ_CHECK(utf8_valid(string, bytes));
        json_print_string(out, string, bytes);
    }
    return rv;
}

static int walk_number(struct json *j, struct text *out)
{
    double number;
    int rv = json_double(j, &number);

    if (rv == 0) {
        FUZZ_CHECK(isfinite(number));
        json_print_double(out, number);
    }
    number_refused = rv != 0;
    return rv;
}

static int walk(struct json *j, struct text *out)
{
    bool truth;
    int rv;

    switch (json_peek(j)) {
    case '{':
        return walk_object(j, out);
    case '[':
        return walk_array(j, out);
    case '"':
        return walk_string(j, out);
    case '0':
        return walk_number(j, out);
    case 'n':
        text_puts(out, "null");
        return json_null(j);
    default:
        rv = json_bool(j, &truth);
        text_puts(out, rv == 0 && truth ? "true" : "false");
        return rv;
    }
}

static int whole_walk(const char *data, size_t bytes, struct text *out)
{
    struct otr_errmsg msg = {0};
    char *text = fuzz_copy(data, bytes, JSON_SLACK);
    struct json j;
    int rv;

    number_refused = false;
    text_init(out, 64 << 20);
    json_init(&j, text, bytes, &msg);
    rv = walk(&j, out);
    rv = rv == 0 ? json_end(&j) : rv;
    FUZZ_CHECK(rv == 0 || msg.text[0] != '\0');
    json_close(&j);
    free(text);
    return rv;
}

static int whole_skip(const char *data, size_t bytes)
{
    struct otr_errmsg msg = {0};
    char *text = fuzz_copy(data, bytes, JSON_SLACK);
    const char *value;
    size_t value_bytes;
    struct json j;
    int rv;

    json_init(&j, text, bytes, &msg);
    rv = json_skip(&j, &value, &value_bytes);
    rv = rv == 0 ? json_end(&j) : rv;
    FUZZ_CHECK(rv == 0 || msg.text[0] != '\0');
    FUZZ_CHECK(memcmp(text, data, bytes) == 0 || rv != 0); /* "kept as it stands" */
    json_close(&j);
    free(text);
    return rv;
}

/* An array of numbers, as vectors are read. */
static void floats(const char *data, size_t bytes)
{
    struct otr_errmsg msg = {0};
    char *text = fuzz_copy(data, bytes, JSON_SLACK);
    float out[4];
    size_t count = 0;
    struct json j;

    json_init(&j, text, bytes, &msg);
    if (json_floats(&j, out, 4, &count) == 0) {
        for (size_t i = 0; i < count && i < 4; i++) {
            FUZZ_CHECK(isfinite(out[i]));
        }
    } else {
        FUZZ_CHECK(msg.text[0] != '\0');
    }
    json_close(&j);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct text once, twice;
    int walked = whole_walk((const char *)data, bytes, &once);

    floats((const char *)data, bytes);
    if (whole_skip((const char *)data, bytes) == 0) {
        /* A number may be too large for a double: json_skip keeps it, json_double refuses it. */
        FUZZ_CHECK(walked == 0 || number_refused);
    }
    if (walked == 0) {
        FUZZ_CHECK(once.failed == 0);
        FUZZ_CHECK(whole_walk(once.bytes, once.used, &twice) == 0);
        FUZZ_CHECK(twice.used == once.used && memcmp(once.bytes, twice.bytes, once.used) == 0);
        text_close(&twice);
    }
    text_close(&once);
    return 0;
}
