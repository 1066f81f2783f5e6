#include "sidecar/api/url.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes text[0..bytes) to *out, which moves on behind the NUL that ends it. */
static int decode(struct url_text *to, const char *text, size_t bytes, char **out, struct otr_errmsg *msg)
{
    to->text = *out;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];

        if (c == '%') {
            int high = bytes - i > 2 ? hex_digit(text[i + 1]) : -1;
            int low = bytes - i > 2 ? hex_digit(text[i + 2]) : -1;

            if (high < 0 || low < 0) {
                otr_errmsg_set(msg, "'%%' without two hex digits in the path or query");
                return OTR_INVALID;
            }
            c = (char)(high << 4 | low);
            i += 2;
        }
        *(*out)++ = c;
    }
    to->bytes = (size_t)(*out - to->text);
    *(*out)++ = '\0';
    return 0;
}

static int parse_path(struct url *u, const char *path, size_t bytes, char **out, struct otr_errmsg *msg)
{
    const char *end = path + bytes;
    const char *at = path + 1; /* behind the first slash */

    for (;;) {
        const char *slash = memchr(at, '/', (size_t)(end - at));
        const char *stop = slash != NULL ? slash : end;
        int rv;

        if (u->segments_count == URL_SEGMENTS_MAX) {
            u->segments_count++;
            return 0;
        }
        rv = decode(&u->segments[u->segments_count], at, (size_t)(stop - at), out, msg);
        if (rv != 0) {
            return rv;
        }
        u->segments_count++;
        if (slash == NULL) {
            return 0;
        }
        at = slash + 1;
    }
}

static int parse_query(struct url *u, const char *query, size_t bytes, char **out, struct otr_errmsg *msg)
{
    const char *end = query + bytes;

    while (query < end) {
        const char *ampersand = memchr(query, '&', (size_t)(end - query));
        const char *stop = ampersand != NULL ? ampersand : end;
        const char *equals = memchr(query, '=', (size_t)(stop - query));
        const char *name_end = equals != NULL ? equals : stop;
        int rv;

        if (u->params_count == URL_PARAMS_MAX) {
            otr_errmsg_set(msg, "too many query parameters");
            return OTR_INVALID;
        }
        rv = decode(&u->params[u->params_count].name, query, (size_t)(name_end - query), out, msg);
        if (rv == 0) {
            const char *value = equals != NULL ? equals + 1 : stop;
            rv = decode(&u->params[u->params_count].value, value, (size_t)(stop - value), out, msg);
        }
        if (rv != 0) {
            return rv;
        }
        u->params_count++;
        query = ampersand != NULL ? ampersand + 1 : end;
    }
    return 0;
}

int url_parse(struct url *u, const char *target, size_t bytes, struct otr_errmsg *msg)
{
    const char *query;
    size_t path_bytes;
    char *out;
    int rv;

    *u = (struct url){0};
    if (bytes > 7 && strncasecmp(target, "http://", 7) == 0) {
        /* The absolute form, which servers must understand: the authority is of no interest. */
        const char *slash = memchr(target + 7, '/', bytes - 7);

        bytes = slash != NULL ? bytes - (size_t)(slash - target) : 0;
        target = slash;
    }
    if (bytes == 0 || target[0] != '/') {
        otr_errmsg_set(msg, "the target of a request must start with '/'");
        return OTR_INVALID;
    }
    /* Decoding never grows; each piece gets a NUL. */
    u->memory = malloc(bytes + URL_SEGMENTS_MAX + (size_t)2 * URL_PARAMS_MAX + 2);
    if (u->memory == NULL) {
        return OTR_NOMEM;
    }
    out = u->memory;
    query = memchr(target, '?', bytes);
    path_bytes = query != NULL ? (size_t)(query - target) : bytes;
    rv = parse_path(u, target, path_bytes, &out, msg);
    if (rv == 0 && query != NULL) {
        rv = parse_query(u, query + 1, bytes - path_bytes - 1, &out, msg);
    }
    if (rv != 0) {
        url_close(u);
    }
    return rv;
}

void url_close(struct url *u)
{
    free(u->memory);
    *u = (struct url){0};
}
