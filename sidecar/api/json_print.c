#include "sidecar/api/json_print.h"

#include "sidecar/api/utf8.h"

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBER_BYTES_MAX = 32, FLOAT_DIGITS_MIN = 1, FLOAT_DIGITS_MAX = 9, POWERS_EXACT = 22 };

/* Powers of ten that a double holds exactly. */
static const double powers[POWERS_EXACT + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                                1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

static void put_escaped(struct text *t, unsigned char c)
{
    static const char shorts[] = {['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};
    char out[8];

    if (c == '"' || c == '\\') {
        out[0] = '\\';
        out[1] = (char)c;
        text_put(t, out, 2);
    } else if (c < sizeof shorts && shorts[c] != 0) {
        out[0] = '\\';
        out[1] = shorts[c];
        text_put(t, out, 2);
    } else {
        snprintf(out, sizeof out, "\\u%04x", c);
        text_put(t, out, 6);
    }
}

void json_print_string(struct text *t, const char *string, size_t bytes)
{
    const unsigned char *s = (const unsigned char *)string;
    size_t plain = 0; /* start of what can go out as it is */
    size_t at = 0;

    text_put(t, "\"", 1);
    while (at < bytes) {
        size_t n = utf8_length(s + at, bytes - at);

        if (n == 0) {
            text_put(t, s + plain, at - plain);
            text_put(t, "\xEF\xBF\xBD", 3);
            plain = ++at;
        } else if (s[at] < 0x20 || s[at] == '"' || s[at] == '\\' || s[at] == 0x7F) {
            text_put(t, s + plain, at - plain);
            put_escaped(t, s[at]);
            plain = ++at;
        } else {
            at += n;
        }
    }
    text_put(t, s + plain, at - plain);
    text_put(t, "\"", 1);
}

/* digits * 10^exponent as a reader would take it: double, then float32. A double exactly between two floats is not
 * trusted: a reader that goes to float32 directly could end at the other one. */
static bool reads_back(uint32_t digits, int exponent, float f)
{
    double d;
    uint64_t bits;

    if (exponent > POWERS_EXACT || exponent < -POWERS_EXACT) {
        return false;
    }
    d = exponent < 0 ? digits / powers[-exponent] : digits * powers[exponent];
    memcpy(&bits, &d, sizeof bits);
    return (bits & 0x1FFFFFFF) != 0x10000000 && (float)d == f;
}

/* Shortest digits and exponent of a positive float; false when the quick way does not reach (very large, very small).
 */
static bool shortest(float f, uint32_t *digits, int *exponent)
{
    int binary;
    int scale; /* f * 10^scale has nine digits before the point */
    double scaled;

    frexpf(f, &binary);
    scale = FLOAT_DIGITS_MAX - 1 - (int)floor((binary - 1) * 0.30102999566398120);
    if (scale > POWERS_EXACT || scale < -POWERS_EXACT) {
        return false;
    }
    scaled = scale < 0 ? f / powers[-scale] : f * powers[scale];
    if (scaled >= 1e9) {
        scale--;
        if (scale < -POWERS_EXACT) {
            return false;
        }
        scaled = scale < 0 ? f / powers[-scale] : f * powers[scale];
    }
    for (int count = FLOAT_DIGITS_MIN; count <= FLOAT_DIGITS_MAX; count++) {
        double unit = powers[FLOAT_DIGITS_MAX - count];
        uint32_t candidate = (uint32_t)(scaled / unit + 0.5);

        /* A float's neighbours are at most 120 of these units away: what is further off needs no division. */
        if (fabs(candidate * unit - scaled) <= 120 && reads_back(candidate, FLOAT_DIGITS_MAX - count - scale, f)) {
            *digits = candidate;
            *exponent = FLOAT_DIGITS_MAX - count - scale;
            return true;
        }
    }
    return false;
}

/* Writes digits * 10^exponent: plainly when that is short, else as d.ddde-xx. */
static size_t put_decimal(char *out, uint32_t digits, int exponent)
{
    char text[16];
    int count = 0;
    size_t used = 0;
    int point; /* digits before the decimal point */

    while (digits % 10 == 0) {
        digits /= 10;
        exponent++;
    }
    for (uint32_t rest = digits; rest != 0; rest /= 10) {
        count++;
    }
    assert(count > 0 && count <= (int)sizeof text);
    for (int i = count - 1; i >= 0; i--) {
        text[i] = (char)('0' + digits % 10);
        digits /= 10;
    }
    point = count + exponent;
    if (point < -4 || point > 15) {
        out[used++] = text[0];
        if (count > 1) {
            out[used++] = '.';
            memcpy(out + used, text + 1, (size_t)(count - 1));
            used += (size_t)(count - 1);
        }
        return used + (size_t)snprintf(out + used, 6, "e%d", point - 1);
    }
    if (point <= 0) {
        out[used++] = '0';
        out[used++] = '.';
        memset(out + used, '0', (size_t)-point);
        used += (size_t)-point;
        memcpy(out + used, text, (size_t)count);
        return used + (size_t)count;
    }
    for (int i = 0; i < point || i < count; i++) {
        if (i == point) {
            out[used++] = '.';
        }
        out[used++] = i < count ? text[i] : '0';
    }
    return used;
}

void json_print_float(struct text *t, float f)
{
    char *out = text_room(t, NUMBER_BYTES_MAX);
    uint32_t digits;
    int exponent;
    size_t used = 0;

    if (out == NULL) {
        return;
    }
    if (signbit(f)) {
        out[used++] = '-';
        f = -f;
    }
    if (f == 0) {
        out[used++] = '0';
    } else if (shortest(f, &digits, &exponent)) {
        used += put_decimal(out + used, digits, exponent);
    } else {
        int count = 5;
        int wanted;
        do { /* Nine digits always do. */
            count++;
            wanted = snprintf(out + used, NUMBER_BYTES_MAX - used, "%.*g", count, (double)f);
        } while (count < FLOAT_DIGITS_MAX && (float)strtod(out + used, NULL) != f);
        used += (size_t)wanted;
    }
    t->used += used;
}

void json_print_floats(struct text *t, const float *f, size_t count)
{
    text_put(t, "[", 1);
    for (size_t i = 0; i < count; i++) {
        if (i != 0) {
            text_put(t, ",", 1);
        }
        json_print_float(t, f[i]);
    }
    text_put(t, "]", 1);
}

void json_print_double(struct text *t, double d)
{
    char *out;
    int wanted;

    if (!isfinite(d)) {
        text_puts(t, "null");
        return;
    }
    out = text_room(t, NUMBER_BYTES_MAX);
    if (out == NULL) {
        return;
    }
    for (int count = 15;; count++) {
        wanted = snprintf(out, NUMBER_BYTES_MAX, "%.*g", count, d);
        if (count == 17 || strtod(out, NULL) == d) {
            break;
        }
    }
    t->used += (size_t)wanted;
}
