#include "sidecar/api/http_guard.h"

#include <string.h>
#include <strings.h>

enum {
    LENGTH_DIGITS_MAX = 18,
    CHUNK_DIGITS_MAX = 8,
    CHUNK_EXTENSION_MAX = 256,
};

enum chunk_state {
    CHUNK_SIZE = 0,
    CHUNK_EXTENSION,
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    CHUNK_LAST_CR,
    CHUNK_LAST_LF,
};

void http_guard_init(struct http_guard *g)
{
    *g = (struct http_guard){0};
}

static int refuse(struct http_guard *g, int status, const char *why)
{
    g->why = why;
    return status;
}

static bool is_token(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Method SP target SP HTTP/1.x */
static int check_request_line(struct http_guard *g, const char *line, size_t bytes)
{
    const char *end = line + bytes;
    const char *target = memchr(line, ' ', bytes);
    const char *version;

    if (target == NULL || target == line) {
        return refuse(g, 400, "malformed request line");
    }
    for (const char *p = line; p < target; p++) {
        if (!is_token((unsigned char)*p)) {
            return refuse(g, 400, "malformed method");
        }
    }
    target++;
    version = memchr(target, ' ', (size_t)(end - target));
    if (version == NULL || version == target) {
        return refuse(g, 400, "malformed request line");
    }
    for (const char *p = target; p < version; p++) {
        if ((unsigned char)*p <= 0x20 || *p == 0x7F) {
            return refuse(g, 400, "control character in the request line");
        }
    }
    version++;
    if (end - version != 8 || memcmp(version, "HTTP/", 5) != 0 || !is_digit(version[5]) || version[6] != '.' ||
        !is_digit(version[7])) {
        return refuse(g, 400, "malformed HTTP version");
    }
    if (version[5] != '1' || (version[7] != '0' && version[7] != '1')) {
        return refuse(g, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    }
    g->version_1_1 = version[7] == '1';
    return HTTP_GUARD_MORE;
}

static bool name_is(const char *name, size_t bytes, const char *wanted)
{
    return strlen(wanted) == bytes && strncasecmp(name, wanted, bytes) == 0;
}

static int take_length(struct http_guard *g, const char *value, size_t bytes)
{
    if (g->has_length) {
        return refuse(g, 400, "Content-Length comes twice");
    }
    if (bytes == 0 || bytes > LENGTH_DIGITS_MAX) {
        return refuse(g, 400, "Content-Length is no number");
    }
    g->has_length = true;
    for (size_t i = 0; i < bytes; i++) {
        if (!is_digit(value[i])) {
            return refuse(g, 400, "Content-Length is no number");
        }
        g->length = g->length * 10 + (uint64_t)(value[i] - '0');
    }
    return HTTP_GUARD_MORE;
}

/* The header lines that decide about framing. */
static int check_field(struct http_guard *g, const char *name, size_t name_bytes, const char *value, size_t value_bytes)
{
    if (name_is(name, name_bytes, "content-length")) {
        return take_length(g, value, value_bytes);
    }
    if (name_is(name, name_bytes, "transfer-encoding")) {
        if (g->has_encoding) {
            return refuse(g, 400, "Transfer-Encoding comes twice");
        }
        if (!name_is(value, value_bytes, "chunked")) {
            return refuse(g, 501, "Transfer-Encoding other than chunked");
        }
        g->has_encoding = true;
    } else if (name_is(name, name_bytes, "host")) {
        if (g->has_host) {
            return refuse(g, 400, "Host comes twice");
        }
        g->has_host = true;
    } else if (name_is(name, name_bytes, "authorization")) {
        if (g->has_authorization) {
            return refuse(g, 400, "Authorization comes twice");
        }
        g->has_authorization = true;
    } else if (name_is(name, name_bytes, "expect")) {
        if (!name_is(value, value_bytes, "100-continue")) {
            return refuse(g, 417, "Expect other than 100-continue");
        }
        g->expect_continue = true;
    }
    return HTTP_GUARD_MORE;
}

static int check_header_line(struct http_guard *g, const char *line, size_t bytes)
{
    const char *colon = memchr(line, ':', bytes);
    const char *value;
    const char *end = line + bytes;

    if (line[0] == ' ' || line[0] == '\t') {
        return refuse(g, 400, "folded header line");
    }
    if (colon == NULL || colon == line) {
        return refuse(g, 400, "header line without a name");
    }
    for (const char *p = line; p < colon; p++) {
        if (*p == ' ' || *p == '\t') {
            return refuse(g, 400, "white space before a header's colon");
        }
        if (!is_token((unsigned char)*p)) {
            return refuse(g, 400, "malformed header name");
        }
    }
    for (const char *p = colon + 1; p < end; p++) {
        if (((unsigned char)*p < 0x20 && *p != '\t') || *p == 0x7F) {
            return refuse(g, 400, "control character in a header");
        }
    }
    value = colon + 1;
    while (value < end && (*value == ' ' || *value == '\t')) {
        value++;
    }
    while (end > value && (end[-1] == ' ' || end[-1] == '\t')) {
        end--;
    }
    return check_field(g, line, (size_t)(colon - line), value, (size_t)(end - value));
}

static int check_head(struct http_guard *g)
{
    if (g->has_length && g->has_encoding) {
        return refuse(g, 400, "both Content-Length and Transfer-Encoding");
    }
    if (g->has_encoding && !g->version_1_1) {
        return refuse(g, 400, "Transfer-Encoding in HTTP/1.0");
    }
    if (g->version_1_1 && !g->has_host) {
        return refuse(g, 400, "no Host");
    }
    return HTTP_GUARD_DONE;
}

int http_guard_head(struct http_guard *g, const char *head, size_t available, size_t *head_bytes)
{
    const char *lf;

    while ((lf = memchr(head + g->seen, '\n', available - g->seen)) != NULL) {
        const char *line = head + g->line;
        size_t bytes = (size_t)(lf - line);
        int rv = HTTP_GUARD_MORE;

        if (bytes == 0 || line[bytes - 1] != '\r') {
            return refuse(g, 400, "a line ends with a bare LF");
        }
        bytes--;
        g->seen = (size_t)(lf - head) + 1;
        g->line = g->seen;
        if (bytes == 0) {
            *head_bytes = g->seen;
            return g->lines == 0 ? refuse(g, 400, "empty request line") : check_head(g);
        }
        rv = g->lines == 0 ? check_request_line(g, line, bytes) : check_header_line(g, line, bytes);
        if (rv != HTTP_GUARD_MORE) {
            return rv;
        }
        g->lines++;
    }
    g->seen = available;
    return HTTP_GUARD_MORE;
}

/* One byte of a chunk's first line. */
static int size_byte(struct http_guard *g, char c)
{
    char lower = (char)(c | 0x20);
    uint64_t digit;

    if (is_digit(c)) {
        digit = (uint64_t)(c - '0');
    } else if (lower >= 'a' && lower <= 'f') {
        digit = (uint64_t)(lower - 'a') + 10;
    } else if (g->digits != 0 && (c == '\r' || c == ';')) {
        g->state = c == '\r' ? CHUNK_SIZE_LF : CHUNK_EXTENSION;
        return HTTP_GUARD_MORE;
    } else {
        return refuse(g, 400, "malformed chunk size");
    }
    if (++g->digits > CHUNK_DIGITS_MAX) {
        return refuse(g, 400, "chunk size out of range");
    }
    g->chunk_left = g->chunk_left << 4 | digit;
    return HTTP_GUARD_MORE;
}

static int frame_byte(struct http_guard *g, char c, uint64_t limit)
{
    switch ((enum chunk_state)g->state) {
    case CHUNK_SIZE:
        return size_byte(g, c);
    case CHUNK_EXTENSION:
        if (c == '\r') {
            g->state = CHUNK_SIZE_LF;
        } else if (((unsigned char)c < 0x20 && c != '\t') || c == 0x7F || ++g->extension > CHUNK_EXTENSION_MAX) {
            return refuse(g, 400, "malformed chunk extension");
        }
        return HTTP_GUARD_MORE;
    case CHUNK_SIZE_LF:
        if (c != '\n') {
            return refuse(g, 400, "malformed chunk size");
        }
        g->body_bytes += g->chunk_left;
        if (g->body_bytes > limit) {
            return refuse(g, 413, "the body is larger than the limit");
        }
        g->state = g->chunk_left != 0 ? CHUNK_DATA : CHUNK_LAST_CR;
        g->digits = 0;
        g->extension = 0;
        return HTTP_GUARD_MORE;
    case CHUNK_DATA_CR:
    case CHUNK_LAST_CR:
        if (c != '\r') {
            return refuse(g, 400, g->state == CHUNK_LAST_CR ? "trailers are not accepted" : "malformed end of a chunk");
        }
        g->state++;
        return HTTP_GUARD_MORE;
    case CHUNK_DATA_LF:
    case CHUNK_LAST_LF:
    case CHUNK_DATA: /* handled by the caller */
    default:
        if (c != '\n') {
            return refuse(g, 400, "malformed end of a chunk");
        }
        if (g->state == CHUNK_LAST_LF) {
            return HTTP_GUARD_DONE;
        }
        g->state = CHUNK_SIZE;
        return HTTP_GUARD_MORE;
    }
}

int http_guard_chunks(struct http_guard *g, const char *bytes, size_t available, uint64_t limit, size_t *used)
{
    size_t at = 0;
    int rv = HTTP_GUARD_MORE;

    while (at < available && rv == HTTP_GUARD_MORE) {
        if (g->state == CHUNK_DATA) {
            size_t n = available - at < g->chunk_left ? available - at : (size_t)g->chunk_left;
            at += n;
            g->chunk_left -= n;
            if (g->chunk_left == 0) {
                g->state = CHUNK_DATA_CR;
            }
        } else {
            rv = frame_byte(g, bytes[at], limit);
            at++;
        }
    }
    *used = at;
    return rv;
}
