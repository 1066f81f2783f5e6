#include "sidecar/api/json_internal.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POWERS_EXACT = 22, DIGITS_MAX = 19 };

/* Powers of ten that a double holds exactly. */
static const double powers[POWERS_EXACT + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                                1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

int json_scan_number(struct json *j, const char **after)
{
    const char *p = j->p;

    *after = p;
    if (*p == '-') {
        p++;
    }
    if (!json_is_digit(*p)) {
        return json_fail_expected(j, "a number");
    }
    if (*p == '0' && json_is_digit(p[1])) {
        return json_fail(j, "a number with a leading zero");
    }
    while (json_is_digit(*p)) {
        p++;
    }
    if (*p == '.') {
        p++;
        if (!json_is_digit(*p)) {
            return json_fail(j, "a number without digits behind its point");
        }
        while (json_is_digit(*p)) {
            p++;
        }
    }
    if (*p == 'e' || *p == 'E') {
        p++;
        if (*p == '+' || *p == '-') {
            p++;
        }
        if (!json_is_digit(*p)) {
            return json_fail(j, "a number without digits in its exponent");
        }
        while (json_is_digit(*p)) {
            p++;
        }
    }
    if (p - j->p > JSON_NUMBER_MAX) {
        return json_fail(j, "a number of more than 1024 characters");
    }
    *after = p;
    return 0;
}

int json_double(struct json *j, double *value)
{
    const char *after;
    int rv;

    json_skip_white(j);
    rv = json_scan_number(j, &after);
    if (rv != 0) {
        return rv;
    }
    *value = strtod(j->p, NULL); /* The program never leaves the C locale. */
    if (!isfinite(*value)) {
        return json_fail(j, "a number too large for a double");
    }
    j->p += after - j->p;
    return 0;
}

int json_integer(struct json *j, int64_t *value)
{
    const char *after;
    int rv;

    json_skip_white(j);
    rv = json_scan_number(j, &after);
    if (rv != 0) {
        return rv;
    }
    for (const char *p = j->p; p < after; p++) {
        if (!json_is_digit(*p) && *p != '-') {
            return json_fail(j, "expected an integer");
        }
    }
    if (after - j->p > 18) {
        return json_fail(j, "an integer out of range");
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

    rv = json_scan_number(j, &after);
    if (rv != 0) {
        return rv;
    }
    d = strtod(j->p, NULL);
    *out = (float)d;
    if (!isfinite(*out)) {
        return json_fail(j, "not finite in float32");
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
    while (json_is_digit(*p) && digits < 4) {
        value = value * 10 + (*p - '0');
        p++;
        digits++;
    }
    if (digits == 0 || json_is_digit(*p)) {
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
    if (!json_is_digit(*p) || (*p == '0' && json_is_digit(p[1]))) {
        return NULL;
    }
    while (json_is_digit(*p)) {
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
        while (json_is_digit(*p)) {
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

    json_skip_white(j);
    if (*j->p != '[') {
        return json_fail_expected(j, "an array of numbers");
    }
    j->p++;
    json_skip_white(j);
    if (*j->p == ']') {
        j->p++;
        *count = 0;
        return 0;
    }
    do {
        const char *after;
        float value;

        json_skip_white(j);
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
        json_skip_white(j);
        c = *j->p;
        j->p++;
    } while (c == ',');
    if (c != ']') {
        j->p--;
        j->element = n - 1;
        return json_fail_expected(j, "',' or ']'");
    }
    *count = n;
    return 0;
}
