/* The framing of HTTP/1.1 messages, strictly. http-parser is lenient where leniency lets two readers see two different
 * messages in the same bytes (request smuggling); so every byte passes this guard before http-parser sees it.
 *
 * Refused: bare LF and bare CR, control characters, folded header lines, white space before the colon, a name that is
 * no token, Content-Length twice (even equal) or as a list or not only digits, Transfer-Encoding other than exactly
 * "chunked" or twice or in HTTP/1.0, both of them together, no or several Host in HTTP/1.1, Authorization twice (a
 * proxy may have looked at the other one), Expect other than 100-continue, malformed chunk sizes, trailers. Pure; any
 * thread. */
#ifndef OUTRIGGER_API_HTTP_GUARD_H
#define OUTRIGGER_API_HTTP_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HTTP_GUARD_MORE = 0, /* so far so good */
    HTTP_GUARD_DONE = 1,
    /* From 400 on: refused, the HTTP status to answer with; `why` says why. */
};

struct http_guard {
    const char *why; /* static text */
    /* Head. */
    size_t line; /* start of the line being looked at */
    size_t seen; /* no LF before */
    unsigned lines;
    bool version_1_1;
    bool has_length, has_encoding, has_host, has_authorization;
    bool expect_continue;
    uint64_t length; /* of Content-Length */
    /* Chunked body. */
    int state;
    unsigned digits;
    unsigned extension;
    uint64_t chunk_left;
    uint64_t body_bytes; /* sum of the chunk sizes so far */
};

/* For the next message. */
void http_guard_init(struct http_guard *g);

/* head[0..available) is what is there of the head; called again with more of it. DONE: it ends at *head_bytes. */
int http_guard_head(struct http_guard *g, const char *head, size_t available, size_t *head_bytes);

/* The next bytes of a chunked body (has_encoding). *used of them belong to the message: all, unless DONE. */
int http_guard_chunks(struct http_guard *g, const char *bytes, size_t available, uint64_t limit, size_t *used);

#endif
