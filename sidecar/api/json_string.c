#include "sidecar/api/json_internal.h"
#include "sidecar/api/utf8.h"

#include <string.h>

static int hex4(const char *s, uint32_t *out)
{
    uint32_t v = 0;

    for (int i = 0; i < 4; i++) {
        char c = s[i];
        char lower = (char)(c | 0x20);

        if (json_is_digit(c)) {
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
        return json_fail(j, "expected four hex digits behind \\u");
    }
    j->p += 4;
    if (*code >= 0xDC00 && *code <= 0xDFFF) {
        return json_fail(j, "a low surrogate without its high one");
    }
    if (*code < 0xD800 || *code > 0xDBFF) {
        return 0;
    }
    if (j->end - j->p < 6 || j->p[0] != '\\' || j->p[1] != 'u' || hex4(j->p + 2, &low) != 0 || low < 0xDC00 ||
        low > 0xDFFF) {
        return json_fail(j, "a high surrogate without its low one");
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
    uint32_t code = 0;
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
        return json_fail_expected(j, "a known escape");
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

int json_scan_string(struct json *j, bool unescape, char **string, size_t *bytes, bool *escaped)
{
    char *out;
    int rv;

    if (*j->p != '"') {
        return json_fail_expected(j, "a string");
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
                return json_fail(j, c < 0x20 ? "a control character in a string" : "a string that is not UTF-8");
            }
            j->p += n;
        }
        if (j->p >= j->end) {
            return json_fail(j, "the body ends inside a string");
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

    json_skip_white(j);
    return json_scan_string(j, true, string, bytes, &escaped);
}
