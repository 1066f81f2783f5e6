/* One character of UTF-8, strictly (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF). Pure. */
#ifndef OUTRIGGER_API_UTF8_H
#define OUTRIGGER_API_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the character at s[0..available), 0 when there is none that is valid. */
static inline size_t utf8_length(const unsigned char *s, size_t available)
{
    if (available == 0) {
        return 0;
    }
    if (s[0] < 0x80) {
        return 1;
    }
    if (s[0] < 0xC2 || s[0] > 0xF4) {
        return 0;
    }
    if (s[0] < 0xE0) {
        return available >= 2 && (s[1] & 0xC0) == 0x80 ? 2 : 0;
    }
    if (s[0] < 0xF0) {
        if (available < 3 || (s[1] & 0xC0) != 0x80 || (s[2] & 0xC0) != 0x80 || (s[0] == 0xE0 && s[1] < 0xA0) ||
            (s[0] == 0xED && s[1] > 0x9F)) {
            return 0;
        }
        return 3;
    }
    if (available < 4 || (s[1] & 0xC0) != 0x80 || (s[2] & 0xC0) != 0x80 || (s[3] & 0xC0) != 0x80 ||
        (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F)) {
        return 0;
    }
    return 4;
}

static inline bool utf8_valid(const char *text, size_t bytes)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t at = 0;

    while (at < bytes) {
        size_t n = utf8_length(s + at, bytes - at);
        if (n == 0) {
            return false;
        }
        at += n;
    }
    return true;
}

#endif
