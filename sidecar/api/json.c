#define XXH_INLINE_ALL
#include "sidecar/api/json.h"

#include "sidecar/api/utf8.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct json_key {
    uint64_t hash;
    const char *at; /* for the message */
};

enum { KEYS_COMPARED_MAX = 16, POWERS_EXACT = 22, DIGITS_MAX = 19, SHOWN_MAX = 40 };

static int fail(struct json *j, const char *what)
{
    otr_errmsg_set(j->msg, "%s (at byte %zu)", what, (size_t)(j->p - j->start));
    return OTR_INVALID;
}

static int fail_expected(struct json *j, const char *what)
{
    unsigned char c = (unsigned char)*j->p;
    size_t at = (size_t)(j->p - j->start);

    if (j->p >= j->end) {
        otr_errmsg_set(j->msg, "the body ends where %s was expected (at byte %zu)", what, at);
    } else if (c > 0x20 && c < 0x7F) {
        otr_errmsg_set(j->msg, "expected %s, found '%c' (at byte %zu)", what, c, at);
    } else {
        otr_errmsg_set(j->msg, "expected %s, found byte 0x%02x (at byte %zu)", what, c, at);
    }
    return OTR_INVALID;
}

static inline bool is_digit(char c)
{
    return (unsigned char)(c - '0') < 10;
}

static inline void skip_white(struct json *j)
{
    while (*j->p == ' ' || *j->p == '\n' || *j->p == '\t' || *j->p == '\r') {
        j->p++;
    }
}

static int enter(struct json *j)
{
    if (j->depth == JSON_DEPTH_MAX) {
        return fail(j, "nested too deeply: more than 32 levels");
    }
    j->depth++;
    return 0;
}

void json_init(struct json *j, char *text, size_t bytes, struct otr_errmsg *msg)
{
    *j = (struct json){.start = text, .p = text, .end = text + bytes, .msg = msg, .element = JSON_NO_ELEMENT};
}

void json_close(struct json *j)
{
    free(j->keys);
    j->keys = NULL;
}

int json_end(struct json *j)
{
    skip_white(j);
    return j->p == j->end ? 0 : fail_expected(j, "nothing behind the JSON value");
}

char json_peek(struct json *j)
{
    skip_white(j);
    switch (*j->p) {
    case '{':
    case '[':
    case '"':
    case 't':
    case 'f':
    case 'n':
        return *j->p;
    default:
        return *j->p == '-' || is_digit(*j->p) ? '0' : 0;
    }
}

/* --- strings ------------------------------------------------------------------------------------------------------ */

static int hex4(const char *s, uint32_t *out)
{
    uint32_t v = 0;

    for (int i = 0; i < 4; i++) {
        char c = s[i];
        char lower = (char)(c | 0x20);

        if (is_digit(c)) {
            v = v << 4 | (uint32_t)(c - '0');
        } else if (lower >= 'a' && lower <= 'f') {
            v = v << 4 | (uint32_t)(lower - 'a' + 10);
        } else {
            return OTR_INVALID;
        }
    }
    *out = v;
    return 0;
}

/* Behind the "\u" at j->p - 2. */
static int scan_unicode(struct json *j, uint32_t *code)
{
    uint32_t low;

    if (j->end - j->p < 4 || hex4(j->p, code) != 0) {
        return fail(j, "expected four hex digits behind \\u");
    }
    j->p += 4;
    if (*code >= 0xDC00 && *code <= 0xDFFF) {
        return fail(j, "a low surrogate without its high one");
    }
    if (*code < 0xD800 || *code > 0xDBFF) {
        return 0;
    }
    if (j->end - j->p < 6 || j->p[0] != '\\' || j->p[1] != 'u' || hex4(j->p + 2, &low) != 0 || low < 0xDC00 ||
        low > 0xDFFF) {
        return fail(j, "a high surrogate without its low one");
    }
    j->p += 6;
    *code = 0x10000 + ((*code - 0xD800) << 10) + (low - 0xDC00);
    return 0;
}

static size_t put_utf8(char *out, uint32_t code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}

/* One escape at j->p (behind the backslash), to out (NULL: only checked). Returns 0 or an error. */
static int scan_escape(struct json *j, char *out, size_t *used)
{
    uint32_t code;
    int rv;

    *used = 1;
    switch (*j->p) {
    case '"':
    case '\\':
    case '/':
        code = (unsigned char)*j->p;
        break;
    case 'b':
        code = '\b';
        break;
    case 'f':
        code = '\f';
        break;
    case 'n':
        code = '\n';
        break;
    case 'r':
        code = '\r';
        break;
    case 't':
        code = '\t';
        break;
    case 'u':
        j->p++;
        rv = scan_unicode(j, &code);
        if (rv == 0 && out != NULL) {
            *used = put_utf8(out, code);
        }
        return rv;
    default:
        return fail_expected(j, "a known escape");
    }
    j->p++;
    if (out != NULL) {
        *out = (char)code;
    }
    return 0;
}

/* Passes plain ASCII eight bytes at a time: stops at the first byte that is special, or at fewer than eight. */
static inline char *pass_plain(char *p, const char *end)
{
    const uint64_t ones = 0x0101010101010101;
    const uint64_t tops = 0x8080808080808080;

    while (end - p >= 8) {
        uint64_t v;
        uint64_t quote;
        uint64_t back;

        memcpy(&v, p, sizeof v);
        quote = v ^ (ones * '"');
        back = v ^ (ones * '\\');
        if (((v | (v - ones * 0x20) | (quote - ones) | (back - ones)) & tops) != 0) {
            break;
        }
        p += 8;
    }
    return p;
}

/* A string at j->p == '"'. With `unescape` it is rewritten where it stands, else left alone. */
static int scan_string(struct json *j, bool unescape, char **string, size_t *bytes, bool *escaped)
{
    char *out;
    int rv;

    if (*j->p != '"') {
        return fail_expected(j, "a string");
    }
    j->p++;
    *string = j->p;
    out = NULL; /* set from the first escape on */
    *escaped = false;
    for (;;) {
        char *from = j->p;
        unsigned char c;
        size_t used;

        j->p = pass_plain(j->p, j->end);
        while (j->p < j->end && (c = (unsigned char)*j->p) != '"' && c != '\\') {
            size_t n = c < 0x20 ? 0 : utf8_length((const unsigned char *)j->p, (size_t)(j->end - j->p));
            if (n == 0) {
                return fail(j, c < 0x20 ? "a control character in a string" : "a string that is not UTF-8");
            }
            j->p += n;
        }
        if (j->p >= j->end) {
            return fail(j, "the body ends inside a string");
        }
        if (out != NULL) {
            memmove(out, from, (size_t)(j->p - from));
            out += j->p - from;
        }
        if (*j->p == '"') {
            break;
        }
        if (unescape && out == NULL) {
            out = j->p;
        }
        *escaped = true;
        j->p++;
        rv = scan_escape(j, out, &used);
        if (rv != 0) {
            return rv;
        }
        if (out != NULL) {
            out += used;
        }
    }
    *bytes = (size_t)((out != NULL ? out : j->p) - *string);
    j->p++;
    return 0;
}

int json_string(struct json *j, char **string, size_t *bytes)
{
    bool escaped;

    skip_white(j);
    return scan_string(j, true, string, bytes, &escaped);
}

/* --- numbers ------------------------------------------------------------------------------------------------------ */

/* Powers of ten that a double holds exactly. */
static const double powers[POWERS_EXACT + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                                1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

/* Checks the grammar of the number at j->p; *after is where it ends. */
static int scan_number(struct json *j, const char **after)
{
    const char *p = j->p;

    if (*p == '-') {
        p++;
    }
    if (!is_digit(*p)) {
        return fail_expected(j, "a number");
    }
    if (*p == '0' && is_digit(p[1])) {
        return fail(j, "a number with a leading zero");
    }
    while (is_digit(*p)) {
        p++;
    }
    if (*p == '.') {
        p++;
        if (!is_digit(*p)) {
            return fail(j, "a number without digits behind its point");
        }
        while (is_digit(*p)) {
            p++;
        }
    }
    if (*p == 'e' || *p == 'E') {
        p++;
        if (*p == '+' || *p == '-') {
            p++;
        }
        if (!is_digit(*p)) {
            return fail(j, "a number without digits in its exponent");
        }
        while (is_digit(*p)) {
            p++;
        }
    }
    if (p - j->p > JSON_NUMBER_MAX) {
        return fail(j, "a number of more than 1024 characters");
    }
    *after = p;
    return 0;
}

int json_double(struct json *j, double *value)
{
    const char *after;
    int rv;

    skip_white(j);
    rv = scan_number(j, &after);
    if (rv != 0) {
        return rv;
    }
    *value = strtod(j->p, NULL); /* The program never leaves the C locale. */
    if (!isfinite(*value)) {
        return fail(j, "a number too large for a double");
    }
    j->p += after - j->p;
    return 0;
}

int json_integer(struct json *j, int64_t *value)
{
    const char *after;
    int rv;

    skip_white(j);
    rv = scan_number(j, &after);
    if (rv != 0) {
        return rv;
    }
    for (const char *p = j->p; p < after; p++) {
        if (!is_digit(*p) && *p != '-') {
            return fail(j, "expected an integer");
        }
    }
    if (after - j->p > 18) {
        return fail(j, "an integer out of range");
    }
    *value = strtoll(j->p, NULL, 10);
    j->p += after - j->p;
    return 0;
}

/* The slow, exact way for everything that float_quick does not take. */
static int float_slow(struct json *j, float *out)
{
    const char *after;
    double d;
    int rv;

    rv = scan_number(j, &after);
    if (rv != 0) {
        return rv;
    }
    d = strtod(j->p, NULL);
    *out = (float)d;
    if (!isfinite(*out)) {
        return fail(j, "not finite in float32");
    }
    j->p += after - j->p;
    return 0;
}

static inline bool eight_digits(uint64_t v)
{
    return ((v & 0xF0F0F0F0F0F0F0F0) | (((v + 0x0606060606060606) & 0xF0F0F0F0F0F0F0F0) >> 4)) == 0x3333333333333333;
}

static inline uint32_t eight_value(uint64_t v)
{
    v -= 0x3030303030303030;
    v = v * 10 + (v >> 8);
    v = (((v & 0x000000FF000000FF) * 0x000F424000000064) + (((v >> 16) & 0x000000FF000000FF) * 0x0000271000000001)) >>
        32;
    return (uint32_t)v;
}

/* An exponent at p == 'e': false when it is not one of a few digits. */
static bool exponent_quick(const char **at, int *exponent)
{
    const char *p = *at + 1;
    bool negative = *p == '-';
    int value = 0;
    int digits = 0;

    if (*p == '-' || *p == '+') {
        p++;
    }
    while (is_digit(*p) && digits < 4) {
        value = value * 10 + (*p - '0');
        p++;
        digits++;
    }
    if (digits == 0 || is_digit(*p)) {
        return false;
    }
    *exponent += negative ? -value : value;
    *at = p;
    return true;
}

/* A number of at most 19 digits and a small exponent, as float32 of the correctly rounded double: the same as strtod
 * gives, about five times as fast. NULL: not of that form (malformed, large, or too close to call); nothing is changed
 * then. The error of `d` is below 2 ulp, so the rounding to float32 can only go wrong when d is within 16 ulp of the
 * middle between two floats: those few go the slow way. */
static inline const char *float_quick(const char *p, float *out)
{
    bool negative = *p == '-';
    uint64_t m = 0;
    const char *digits;
    ptrdiff_t digits_count;
    int exponent = 0;
    uint64_t bits;
    double d;

    p += negative;
    digits = p;
    if (!is_digit(*p) || (*p == '0' && is_digit(p[1]))) {
        return NULL;
    }
    while (is_digit(*p)) {
        m = m * 10 + (uint64_t)(*p++ - '0');
    }
    digits_count = p - digits;
    if (*p == '.') {
        const char *fraction = ++p;
        uint64_t v;

        memcpy(&v, p, sizeof v);
        while (eight_digits(v)) {
            m = m * 100000000 + eight_value(v);
            p += 8;
            memcpy(&v, p, sizeof v);
        }
        while (is_digit(*p)) {
            m = m * 10 + (uint64_t)(*p++ - '0');
        }
        if (p == fraction) {
            return NULL;
        }
        digits_count += p - fraction;
        exponent = (int)(fraction - p);
    }
    if (digits_count > DIGITS_MAX) {
        const char *zero = digits;

        while (*zero == '0' || *zero == '.') {
            digits_count -= *zero == '0';
            zero++;
        }
        if (digits_count > DIGITS_MAX) {
            return NULL; /* `m` may have run over. */
        }
    }
    if ((*p == 'e' || *p == 'E') && !exponent_quick(&p, &exponent)) {
        return NULL;
    }
    if (m == 0) {
        *out = negative ? -0.0F : 0.0F;
        return p;
    }
    if (exponent < -POWERS_EXACT || exponent > POWERS_EXACT) {
        return NULL;
    }
    d = (double)m;
    d = exponent < 0 ? d / powers[-exponent] : d * powers[exponent];
    memcpy(&bits, &d, sizeof bits);
    if ((bits & 0x1FFFFFFF) - (0x10000000 - 16) <= 32 || d < (double)FLT_MIN * 2 || d > (double)FLT_MAX / 2) {
        return NULL;
    }
    *out = negative ? -(float)d : (float)d;
    return p;
}

int json_floats(struct json *j, float *out, size_t room, size_t *count)
{
    size_t n = 0;
    char c;
    int rv;

    skip_white(j);
    if (*j->p != '[') {
        return fail_expected(j, "an array of numbers");
    }
    j->p++;
    skip_white(j);
    if (*j->p == ']') {
        j->p++;
        *count = 0;
        return 0;
    }
    do {
        const char *after;
        float value;

        skip_white(j);
        after = float_quick(j->p, &value);
        if (after != NULL) {
            j->p += after - j->p;
        } else {
            rv = float_slow(j, &value);
            if (rv != 0) {
                j->element = n;
                return rv;
            }
        }
        if (n < room) {
            out[n] = value;
        }
        n++;
        skip_white(j);
        c = *j->p;
        j->p++;
    } while (c == ',');
    if (c != ']') {
        j->p--;
        j->element = n - 1;
        return fail_expected(j, "',' or ']'");
    }
    *count = n;
    return 0;
}

/* --- structure ---------------------------------------------------------------------------------------------------- */

int json_object_begin(struct json *j)
{
    skip_white(j);
    if (*j->p != '{') {
        return fail_expected(j, "an object");
    }
    j->p++;
    return enter(j);
}

/* The comma or the closing bracket; *more says which. */
static int next_item(struct json *j, bool first, char closing, const char *expected, bool *more)
{
    skip_white(j);
    if (*j->p == closing) {
        j->p++;
        j->depth--;
        *more = false;
        return 0;
    }
    if (!first) {
        if (*j->p != ',') {
            return fail_expected(j, expected);
        }
        j->p++;
        skip_white(j);
    }
    *more = true;
    return 0;
}

static int next_key(struct json *j, bool first, bool unescape, char **key, size_t *key_bytes, bool *escaped)
{
    bool more;
    int rv;

    rv = next_item(j, first, '}', "',' or '}'", &more);
    if (rv != 0) {
        return rv;
    }
    if (!more) {
        *key = NULL;
        return 0;
    }
    if (*j->p != '"') {
        return fail_expected(j, first ? "a key or '}'" : "a key");
    }
    rv = scan_string(j, unescape, key, key_bytes, escaped);
    if (rv != 0) {
        return rv;
    }
    skip_white(j);
    if (*j->p != ':') {
        return fail_expected(j, "':'");
    }
    j->p++;
    return 0;
}

int json_object_next(struct json *j, bool first, char **key, size_t *key_bytes)
{
    bool escaped;

    return next_key(j, first, true, key, key_bytes, &escaped);
}

int json_array_begin(struct json *j)
{
    skip_white(j);
    if (*j->p != '[') {
        return fail_expected(j, "an array");
    }
    j->p++;
    return enter(j);
}

int json_array_next(struct json *j, bool first, bool *more)
{
    return next_item(j, first, ']', "',' or ']'", more);
}

static int literal(struct json *j, const char *word)
{
    size_t bytes = strlen(word);

    if ((size_t)(j->end - j->p) < bytes || memcmp(j->p, word, bytes) != 0) {
        return fail_expected(j, "a value");
    }
    j->p += bytes;
    return 0;
}

int json_bool(struct json *j, bool *value)
{
    skip_white(j);
    if (*j->p != 't' && *j->p != 'f') {
        return fail_expected(j, "true or false");
    }
    *value = *j->p == 't';
    return literal(j, *value ? "true" : "false");
}

int json_null(struct json *j)
{
    skip_white(j);
    return literal(j, "null");
}

/* --- any value ---------------------------------------------------------------------------------------------------- */

static int key_hash(struct json *j, char *key, size_t bytes, bool escaped, uint64_t *hash)
{
    struct json inner;
    char *copy;
    bool again;
    int rv;

    if (!escaped) {
        *hash = XXH3_64bits(key, bytes);
        return 0;
    }
    /* "\u0061" is the same key as "a": compare what they mean, on a copy, for the text is kept as it stands. */
    copy = malloc(bytes + 2 + JSON_SLACK);
    if (copy == NULL) {
        return OTR_NOMEM;
    }
    memcpy(copy, key - 1, bytes + 2);
    memset(copy + bytes + 2, 0, JSON_SLACK);
    json_init(&inner, copy, bytes + 2, j->msg);
    rv = scan_string(&inner, true, &key, &bytes, &again);
    if (rv == 0) {
        *hash = XXH3_64bits(key, bytes);
    }
    free(copy);
    return rv;
}

static int push_key(struct json *j, uint64_t hash, const char *at)
{
    if (j->keys_count == j->keys_capacity) {
        size_t capacity = j->keys_capacity == 0 ? 64 : j->keys_capacity * 2;
        struct json_key *keys = realloc(j->keys, capacity * sizeof *keys);

        if (keys == NULL) {
            return OTR_NOMEM;
        }
        j->keys = keys;
        j->keys_capacity = capacity;
    }
    j->keys[j->keys_count++] = (struct json_key){.hash = hash, .at = at};
    return 0;
}

static int compare_keys(const void *a, const void *b)
{
    const struct json_key *x = a;
    const struct json_key *y = b;

    return x->hash < y->hash ? -1 : x->hash > y->hash;
}

static int fail_duplicate(struct json *j, const char *at)
{
    size_t shown = 0;

    while (shown < SHOWN_MAX && at[shown] != '"' && (unsigned char)at[shown] >= 0x20 &&
           (unsigned char)at[shown] < 0x80) {
        shown++;
    }
    otr_errmsg_set(j->msg, "the key \"%.*s\" comes twice (at byte %zu)", (int)shown, at, (size_t)(at - j->start));
    return OTR_INVALID;
}

/* The object's keys are keys[from..]: none may come twice. Many are sorted, for a body can hold millions. */
static int check_keys(struct json *j, size_t from)
{
    struct json_key *keys = j->keys + from;
    size_t count = j->keys_count - from;

    if (count <= KEYS_COMPARED_MAX) {
        for (size_t i = 1; i < count; i++) {
            for (size_t k = 0; k < i; k++) {
                if (keys[i].hash == keys[k].hash) {
                    return fail_duplicate(j, keys[i].at);
                }
            }
        }
    } else {
        qsort(keys, count, sizeof *keys, compare_keys);
        for (size_t i = 1; i < count; i++) {
            if (keys[i].hash == keys[i - 1].hash) {
                return fail_duplicate(j, keys[i].at);
            }
        }
    }
    j->keys_count = from;
    return 0;
}

static int skip_value(struct json *j);

static int skip_object(struct json *j)
{
    size_t from = j->keys_count;
    int rv;

    rv = json_object_begin(j);
    for (bool first = true; rv == 0; first = false) {
        char *key;
        size_t bytes;
        bool escaped;
        uint64_t hash = 0;

        rv = next_key(j, first, false, &key, &bytes, &escaped);
        if (rv == 0 && key == NULL) {
            return check_keys(j, from);
        }
        if (rv == 0) {
            rv = key_hash(j, key, bytes, escaped, &hash);
        }
        if (rv == 0) {
            rv = push_key(j, hash, key);
        }
        if (rv == 0) {
            rv = skip_value(j);
        }
    }
    return rv;
}

static int skip_array(struct json *j)
{
    int rv;

    rv = json_array_begin(j);
    for (bool first = true; rv == 0; first = false) {
        bool more;

        rv = json_array_next(j, first, &more);
        if (rv == 0 && !more) {
            return 0;
        }
        if (rv == 0) {
            rv = skip_value(j);
        }
    }
    return rv;
}

static int skip_value(struct json *j)
{
    const char *after;
    char *string;
    size_t bytes;
    bool flag;
    int rv;

    switch (json_peek(j)) {
    case '{':
        return skip_object(j); /* JSON_DEPTH_MAX bounds the recursion. */
    case '[':
        return skip_array(j);
    case '"':
        return scan_string(j, false, &string, &bytes, &flag);
    case 't':
    case 'f':
        return json_bool(j, &flag);
    case 'n':
        return json_null(j);
    case '0':
        rv = scan_number(j, &after);
        if (rv == 0) {
            j->p += after - j->p;
        }
        return rv;
    default:
        return fail_expected(j, "a value");
    }
}

int json_skip(struct json *j, const char **text, size_t *bytes)
{
    int rv;

    skip_white(j);
    *text = j->p;
    rv = skip_value(j);
    *bytes = (size_t)(j->p - *text);
    return rv;
}
