#include "sidecar/io/json_text.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

bool json_text_reserve(struct json_text *text, size_t bytes)
{
    size_t room = text->room != 0 ? text->room : 256;
    char *grown;

    if (text->failed) {
        return false;
    }
    while (room - text->bytes <= bytes) { /* one more for the NUL */
        room *= 2;
    }
    if (room != text->room) {
        grown = realloc(text->data, room);
        if (grown == NULL) {
            text->failed = true;
            return false;
        }
        text->data = grown;
        text->room = room;
    }
    return true;
}

void json_text_add_raw(struct json_text *text, const char *data, size_t bytes)
{
    if (!json_text_reserve(text, bytes)) {
        return;
    }
    memcpy(text->data + text->bytes, data, bytes);
    text->bytes += bytes;
    text->data[text->bytes] = '\0';
}

void json_text_add(struct json_text *text, const char *format, ...)
{
    char piece[256]; /* Long things are base64 or raw: what is formatted here are names and numbers. */
    va_list args;
    int bytes;

    va_start(args, format);
    bytes = vsnprintf(piece, sizeof piece, format, args);
    va_end(args);
    if (bytes < 0 || (size_t)bytes >= sizeof piece) {
        text->failed = true;
        return;
    }
    json_text_add_raw(text, piece, (size_t)bytes);
}

void json_text_add_base64(struct json_text *text, const void *data, size_t bytes)
{
    const uint8_t *in = data;
    char *out;

    if (!json_text_reserve(text, (bytes + 2) / 3 * 4)) {
        return;
    }
    out = text->data + text->bytes;
    for (size_t i = 0; i < bytes; i += 3) {
        uint32_t group = (uint32_t)in[i] << 16;

        group |= i + 1 < bytes ? (uint32_t)in[i + 1] << 8 : 0;
        group |= i + 2 < bytes ? in[i + 2] : 0;
        *out++ = base64_digits[group >> 18];
        *out++ = base64_digits[group >> 12 & 63];
        *out++ = i + 1 < bytes ? base64_digits[group >> 6 & 63] : '=';
        *out++ = i + 2 < bytes ? base64_digits[group & 63] : '=';
    }
    *out = '\0';
    text->bytes = (size_t)(out - text->data);
}

void json_text_add_string(struct json_text *text, const char *string)
{
    const char *plain = string;

    json_text_add_raw(text, "\"", 1);
    for (; *string != '\0'; string++) {
        if ((unsigned char)*string < ' ' || *string == '"' || *string == '\\') {
            json_text_add_raw(text, plain, (size_t)(string - plain));
            json_text_add(text, "\\u%04x", (unsigned)(unsigned char)*string);
            plain = string + 1;
        }
    }
    json_text_add_raw(text, plain, (size_t)(string - plain));
    json_text_add_raw(text, "\"", 1);
}

void json_text_close(struct json_text *text)
{
    free(text->data);
    *text = (struct json_text){0};
}

static int digit_value(char c)
{
    const char *found = c != '\0' ? strchr(base64_digits, c) : NULL;

    return found != NULL ? (int)(found - base64_digits) : -1;
}

bool json_text_base64_decode(const char *text, char *out, size_t *bytes)
{
    size_t length = strlen(text);
    size_t used = 0;

    if (length % 4 != 0) {
        return false;
    }
    for (size_t i = 0; i < length; i += 4) {
        bool last = i + 4 == length;
        int padding = last ? (text[i + 3] == '=') + (text[i + 3] == '=' && text[i + 2] == '=') : 0;
        uint32_t group = 0;

        for (int j = 0; j < 4; j++) {
            int value = j < 4 - padding ? digit_value(text[i + (size_t)j]) : 0;

            if (value < 0) {
                return false;
            }
            group = group << 6 | (uint32_t)value;
        }
        out[used++] = (char)(group >> 16);
        if (padding < 2) {
            out[used++] = (char)(group >> 8 & 0xFF);
        }
        if (padding < 1) {
            out[used++] = (char)(group & 0xFF);
        }
    }
    *bytes = used;
    return true;
}

bool json_text_u64(const char *text, uint64_t *value)
{
    char *end;

    if (!isdigit((unsigned char)text[0])) { /* strtoull would take signs and spaces. */
        return false;
    }
    errno = 0;
    *value = strtoull(text, &end, 10);
    return errno == 0 && *end == '\0';
}
