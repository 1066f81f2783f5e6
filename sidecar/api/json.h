/* JSON in: a strict reader (RFC 8259) that is pulled through a text once, left to right, without building a tree.
 *
 * Refused: anything but JSON (comments, NaN, leading zeros, trailing commas), bytes behind the value, bytes that are
 * not UTF-8, lone surrogates, duplicate keys, nesting beyond JSON_DEPTH_MAX, numbers of more than JSON_NUMBER_MAX
 * bytes.
 *
 * The text is the caller's, writable, and has JSON_SLACK readable bytes behind its end, the first of them NUL: the
 * reader looks a few bytes ahead, and strings are unescaped where they stand. Every function returns 0 or OTR_INVALID
 * (OTR_NOMEM) with words in `msg`; after an error the reader is of no more use. Any thread, one at a time. */
#ifndef OUTRIGGER_API_JSON_H
#define OUTRIGGER_API_JSON_H

#include "outrigger/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_SLACK = 16, JSON_DEPTH_MAX = 32, JSON_NUMBER_MAX = 1024 };
/* No element of an array is to blame. */
#define JSON_NO_ELEMENT SIZE_MAX

struct json_key;

struct json {
    char *start;
    char *p;
    const char *end;
    unsigned depth;
    struct otr_errmsg *msg;
    size_t element; /* after an error in json_floats: the element to blame */
    /* Keys of the objects that json_skip is inside of. */
    struct json_key *keys;
    size_t keys_count, keys_capacity;
};

void json_init(struct json *j, char *text, size_t bytes, struct otr_errmsg *msg);
void json_close(struct json *j);
/* Nothing but white space may follow. */
OTR_MUST_CHECK int json_end(struct json *j);

/* What comes next, white space skipped: '{' '[' '"' 't' 'f' 'n', '0' for a number, 0 for anything else. */
char json_peek(struct json *j);

/* Objects: begin, then next until *key is NULL. The value must be read between two nexts. Keys are unescaped; whether
 * one comes twice is the caller's to see (json_skip sees for itself). */
OTR_MUST_CHECK int json_object_begin(struct json *j);
OTR_MUST_CHECK int json_object_next(struct json *j, bool first, char **key, size_t *key_bytes);
/* Arrays: begin, then next until !*more. */
OTR_MUST_CHECK int json_array_begin(struct json *j);
OTR_MUST_CHECK int json_array_next(struct json *j, bool first, bool *more);

/* Unescaped in place: it lies in the text and may contain NUL (from \u0000). */
OTR_MUST_CHECK int json_string(struct json *j, char **string, size_t *bytes);
OTR_MUST_CHECK int json_bool(struct json *j, bool *value);
OTR_MUST_CHECK int json_null(struct json *j);
OTR_MUST_CHECK int json_double(struct json *j, double *value); /* finite */
/* An integer without fraction or exponent, of at most 18 digits. */
OTR_MUST_CHECK int json_integer(struct json *j, int64_t *value);
/* An array of numbers into out[0..room): parsed as double, rounded to float32; what is not finite then is refused.
 * *count is how many there were, those beyond `room` included (they are checked, not kept). */
OTR_MUST_CHECK int json_floats(struct json *j, float *out, size_t room, size_t *count);
/* Any value: checked, kept as it stands (start and length of the text without white space around it). */
OTR_MUST_CHECK int json_skip(struct json *j, const char **text, size_t *bytes);

#endif
