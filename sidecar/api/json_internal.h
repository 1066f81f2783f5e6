/* What the files of the JSON reader share. Nobody else includes it.
 *
 *   json.c          structure: objects, arrays, literals, any value
 *   json_string.c   strings
 *   json_number.c   numbers */
#ifndef OUTRIGGER_API_JSON_INTERNAL_H
#define OUTRIGGER_API_JSON_INTERNAL_H

#include "sidecar/api/json.h"

/* Say what is wrong, and where; OTR_INVALID. */
int json_fail(struct json *j, const char *what);
int json_fail_expected(struct json *j, const char *what);

static inline bool json_is_digit(char c)
{
    return (unsigned char)(c - '0') < 10;
}

static inline void json_skip_white(struct json *j)
{
    while (*j->p == ' ' || *j->p == '\n' || *j->p == '\t' || *j->p == '\r') {
        j->p++;
    }
}

/* The string at j->p. With `unescape` it is rewritten where it stands, else left alone and *escaped tells. */
OTR_MUST_CHECK int json_scan_string(struct json *j, bool unescape, char **string, size_t *bytes, bool *escaped);
/* Checks the grammar of the number at j->p; *after is where it ends. */
OTR_MUST_CHECK int json_scan_number(struct json *j, const char **after);

#endif
