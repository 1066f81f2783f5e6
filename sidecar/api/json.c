#define XXH_INLINE_ALL
#include "sidecar/api/json_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct json_key {
    uint64_t hash;
    const char *at; /* for the message */
};

enum { KEYS_COMPARED_MAX = 16, SHOWN_MAX = 40 };

int json_fail(struct json *j, const char *what)
{
    otr_errmsg_set(j->msg, "%s (at byte %zu)", what, (size_t)(j->p - j->start));
    return OTR_INVALID;
}

int json_fail_expected(struct json *j, const char *what)
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

static int enter(struct json *j)
{
    if (j->depth == JSON_DEPTH_MAX) {
        return json_fail(j, "nested too deeply: more than 32 levels");
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
    json_skip_white(j);
    return j->p == j->end ? 0 : json_fail_expected(j, "nothing behind the JSON value");
}

char json_peek(struct json *j)
{
    json_skip_white(j);
    switch (*j->p) {
    case '{':
    case '[':
    case '"':
    case 't':
    case 'f':
    case 'n':
        return *j->p;
    default:
        return *j->p == '-' || json_is_digit(*j->p) ? '0' : 0;
    }
}

/* --- structure ---------------------------------------------------------------------------------------------------- */

int json_object_begin(struct json *j)
{
    json_skip_white(j);
    if (*j->p != '{') {
        return json_fail_expected(j, "an object");
    }
    j->p++;
    return enter(j);
}

/* The comma or the closing bracket; *more says which. */
static int next_item(struct json *j, bool first, char closing, const char *expected, bool *more)
{
    json_skip_white(j);
    if (*j->p == closing) {
        j->p++;
        j->depth--;
        *more = false;
        return 0;
    }
    if (!first) {
        if (*j->p != ',') {
            return json_fail_expected(j, expected);
        }
        j->p++;
        json_skip_white(j);
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
        return json_fail_expected(j, first ? "a key or '}'" : "a key");
    }
    rv = json_scan_string(j, unescape, key, key_bytes, escaped);
    if (rv != 0) {
        return rv;
    }
    json_skip_white(j);
    if (*j->p != ':') {
        return json_fail_expected(j, "':'");
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
    json_skip_white(j);
    if (*j->p != '[') {
        return json_fail_expected(j, "an array");
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
        return json_fail_expected(j, "a value");
    }
    j->p += bytes;
    return 0;
}

int json_bool(struct json *j, bool *value)
{
    json_skip_white(j);
    if (*j->p != 't' && *j->p != 'f') {
        return json_fail_expected(j, "true or false");
    }
    *value = *j->p == 't';
    return literal(j, *value ? "true" : "false");
}

int json_null(struct json *j)
{
    json_skip_white(j);
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
    rv = json_scan_string(&inner, true, &key, &bytes, &again);
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
    struct json_key *keys = j->keys != NULL ? j->keys + from : NULL; /* NULL: no object had a key so far. */
    size_t count = j->keys_count - from;

    assert(keys != NULL || count == 0);
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
        char *key = NULL;
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
        bool more = false;

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
        return json_scan_string(j, false, &string, &bytes, &flag);
    case 't':
    case 'f':
        return json_bool(j, &flag);
    case 'n':
        return json_null(j);
    case '0':
        rv = json_scan_number(j, &after);
        if (rv == 0) {
            j->p += after - j->p;
        }
        return rv;
    default:
        return json_fail_expected(j, "a value");
    }
}

int json_skip(struct json *j, const char **text, size_t *bytes)
{
    int rv;

    json_skip_white(j);
    *text = j->p;
    rv = skip_value(j);
    *bytes = (size_t)(j->p - *text);
    return rv;
}
