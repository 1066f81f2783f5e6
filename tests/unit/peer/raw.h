/* A client that writes HTTP/2 by hand: for what a well-behaved one never sends. */
#ifndef TESTS_UNIT_PEER_RAW_H
#define TESTS_UNIT_PEER_RAW_H

#include "fixture.h"

#include <nghttp2/nghttp2.h>

struct bytes {
    uint8_t data[1 << 16];
    size_t count;
};

struct raw_header {
    const char *name;
    const char *value;
};

void bytes_add(struct bytes *out, const void *data, size_t count);
/* The client's preface and empty SETTINGS. */
void raw_preface(struct bytes *out);
void raw_frame(struct bytes *out, uint8_t type, uint8_t flags, uint32_t stream, const void *payload, size_t count);
/* HEADERS of stream 1; the list ends with a NULL name. */
void raw_headers(struct bytes *out, const struct raw_header *headers, bool end);
/* The headers of a well-formed call; `method` is the last part of the path. */
enum { RAW_HEADERS_MAX = 16 };
void raw_call_headers(struct raw_header out[RAW_HEADERS_MAX], const char *path);
/* DATA of stream 1 with one message. */
void raw_message(struct bytes *out, uint8_t flag, const void *data, size_t count, bool end);
/* A Hello that would be answered. */
void raw_hello(struct bytes *out);

/* A connected, non-blocking socket. */
int raw_connect(uint16_t port);
/* Sends all (running the loop), then runs until the server closes, or answers stream 1 with a status: returned. -1:
 * closed, -2: neither within `ms`. */
int raw_exchange(uint16_t port, const struct bytes *out, unsigned ms, char *text, size_t text_room);
/* The same under TLS, as a client; NULL: plain. When closed the text is OpenSSL's reason. */
int raw_exchange_tls(uint16_t port, SSL *ssl, const struct bytes *out, unsigned ms, char *text, size_t text_room);

#endif
