/* JSON that is written piece by piece into a growing string, and what travels inside of JSON: base64, numbers as text.
 * The bodies of requests to coordinators are made of it. Any thread. */
#ifndef OUTRIGGER_IO_JSON_TEXT_H
#define OUTRIGGER_IO_JSON_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* {0} is empty. After a failed allocation it stays failed and takes nothing more. */
struct json_text {
    char *data; /* NUL-terminated once something was added */
    size_t bytes;
    size_t room;
    bool failed;
};
/* For names and numbers: what is longer than 255 bytes makes it fail. */
void json_text_add(struct json_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void json_text_add_raw(struct json_text *text, const char *data, size_t bytes);
/* `data` as base64, without quotes. */
void json_text_add_base64(struct json_text *text, const void *data, size_t bytes);
/* `string`, which is UTF-8, in quotes and escaped. */
void json_text_add_string(struct json_text *text, const char *string);
/* Room for so many bytes more and a NUL; false: failed. */
bool json_text_reserve(struct json_text *text, size_t bytes);
void json_text_close(struct json_text *text);

/* Writes at most strlen(text) / 4 * 3 bytes. False when it is not base64. */
bool json_text_base64_decode(const char *text, char *out, size_t *bytes);
/* Decimal digits and nothing else, up to UINT64_MAX. */
bool json_text_u64(const char *text, uint64_t *value);

#endif
