/* HTTP/1.1 server on libuv: connections, framing, time limits; what requests mean is the caller's.
 *
 * A connection reads a head (at most HTTP_HEAD_MAX bytes), then a body straight into one growing buffer, hands the
 * request over, and reads on when it was answered: pipelined requests are answered in order, and a client that does not
 * read its answers is not read from either. While it waits for a request it holds no buffer. Every error has a JSON
 * body
 *
 *     {"error":{"code":"...","message":"..."},"applied":false}
 *
 * Bounds: connections, the bytes of unfinished requests and of unread answers. When there are too many connections, the
 * one that has waited longest for a request (or its first byte) is closed for the new one; only when none waits is the
 * new one refused. When the unread answers are too many, the connection that has not moved for longest is closed.
 *
 * Time limits: a head must be complete 10 s after its first byte (or after connecting); a body and an answer may rest
 * for 10 s and must move at 16 KiB/s on average, after the first 20 s; a kept connection may be idle for 75 s.
 * Loop thread only. */
#ifndef OUTRIGGER_API_HTTP_H
#define OUTRIGGER_API_HTTP_H

#include "outrigger/err.h"
#include "sidecar/api/text.h"
#include "sidecar/io/metrics.h"
#include "sidecar/io/tls.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

enum {
    HTTP_HEAD_MAX = 16 << 10,
    HTTP_FIELDS_MAX = 100,
    HTTP_BODY_SLACK = 16, /* readable zero bytes behind a body */
    HTTP_PEER_BYTES = 64,
    HTTP_LARGE_BYTES = 64 << 10, /* of a body */
};

struct http_server;

struct http_field {
    const char *name;
    size_t name_bytes;
    const char *value;
    size_t value_bytes;
};

/* One request, from on_request until http_reply. */
struct http_exchange {
    const char *method; /* "GET"; a HEAD shows as GET, the body of its answer is left out */
    const char *target; /* path and query as they came; not NUL-terminated */
    size_t target_bytes;
    const struct http_field *fields;
    size_t fields_count;
    char *body; /* NULL when there is none; writable, HTTP_BODY_SLACK zeros behind */
    size_t body_bytes;
    void *data; /* the caller's */
};

/* Must answer with http_reply, now or later, exactly once, also when the client has gone away meanwhile. */
typedef void (*http_request_cb)(void *data, struct http_exchange *x);
/* Whether the body of a request is to be read, when its head is there and a body comes. False: on_request is called at
 * once, without the body, and the connection ends after the answer; so strangers cannot make us hold their bodies. */
typedef bool (*http_head_cb)(void *data, const struct http_exchange *x);
/* The connection of a request that was handed over and not yet answered has broken: nobody will read the answer (which
 * must come all the same, now or later). A client that merely ended its side may still read. */
typedef void (*http_gone_cb)(void *data, struct http_exchange *x);

struct http_server_config {
    uv_loop_t *loop;
    const char *host; /* numeric address */
    uint16_t port;    /* 0: any */
    http_request_cb on_request;
    http_head_cb on_head; /* NULL: every body is read */
    http_gone_cb on_gone; /* NULL: none */
    void *data;
    struct tls *tls; /* NULL: plain HTTP. Must outlive the server */
    /* 0: the default. */
    uint32_t connections_max;   /* 10000, or three quarters of the file descriptors that the process may have */
    uint64_t body_max;          /* 64 MiB */
    uint64_t bodies_total_max;  /* 512 MiB for all connections (large ones: three quarters of it); more: 503 */
    uint64_t answers_total_max; /* 256 MiB of answers that wait to be read */
    uint32_t head_timeout_ms;   /* 10000 */
    uint32_t idle_timeout_ms;   /* 75000 */
    uint32_t rest_timeout_ms;   /* 10000 without any byte of a body or an answer */
    uint32_t grace_ms;          /* 20000 before rate_bytes counts */
    uint32_t rate_bytes;        /* 16384 bytes a second at least */
};

/* OTR_INUSE, OTR_INVALID, OTR_DENIED with words that name the address. */
int http_server_new(struct http_server **out, const struct http_server_config *config, struct otr_errmsg *msg);
uint16_t http_server_port(const struct http_server *s);
/* Connections that are open. */
uint32_t http_server_connections(const struct http_server *s);

/* clang-format off */
/* outrigger_http_... */
#define HTTP_METRICS(X, S)                                                                                   \
    X(S, connections_total, COUNTER, "Connections accepted")                                                 \
    X(S, refused_total, COUNTER, "Connections and requests refused before they meant anything: malformed, too large, too slow, too many") \
    X(S, idle_closed_total, COUNTER, "Waiting connections closed to make room for new ones")                 \
    X(S, unread_closed_total, COUNTER, "Connections closed because too many answers waited to be read")      \
    X(S, received_bytes_total, COUNTER, "Bytes received")                                                    \
    X(S, sent_bytes_total, COUNTER, "Bytes of answers")                                                      \
    /* read when asked */                                                                                    \
    X(S, connections, GAUGE, "Open connections")                                                             \
    X(S, connections_max, GAUGE, "Most that are let in")                                                     \
    X(S, answer_bytes, GAUGE, "Answers that wait to be read")                                                \
    X(S, body_bytes, GAUGE, "Memory that holds bodies of requests")                                          \
    X(S, tls_handshakes_total, COUNTER, "TLS handshakes completed on the clients' port")                     \
    X(S, tls_handshakes_failed_total, COUNTER, "TLS handshakes failed there")                                \
    X(S, tls_reloads_total, COUNTER, "Times that a changed certificate came in force there")                 \
    X(S, tls_reloads_failed_total, COUNTER, "Times that changed files could not be used there")              \
    X(S, tls_certificate_expires_time_seconds, GAUGE, "When the certificate there ends, in seconds since 1970; 0: no TLS")
/* clang-format on */
METRICS_STRUCT(http_metrics, HTTP_METRICS);
const struct http_metrics *http_server_metrics(struct http_server *s);
/* The way out, in order of patience. leave: every answer from now on ends its connection, so that whoever comes again
 * looks for another server; everything else goes on. */
void http_server_leave(struct http_server *s);
/* leave, and no new connections; idle ones are closed. What has begun, or has only just connected, goes on. */
void http_server_retire(struct http_server *s);
/* Whether some request is on its way in, under way, or on its way out; of a server that retires. */
bool http_server_busy(const struct http_server *s);
/* No new connections or requests; connections that wait for a request are closed. */
void http_server_stop(struct http_server *s);
/* stop, then waits until what is under way has been answered, frees and calls cb. Writing gets a second. */
void http_server_close(struct http_server *s, void (*cb)(void *data), void *data);

/* The field of that name, NULL when there is none. *twice (if not NULL): it comes more than once. */
const struct http_field *http_field_find(const struct http_exchange *x, const char *name, bool *twice);

/* Whether the connection comes from this host: by its socket's address, 127.0.0.0/8 or ::1. */
bool http_peer_is_loopback(const struct http_exchange *x);
/* That address as text, for the log; "?" when the connection is gone. */
void http_peer_text(const struct http_exchange *x, char out[HTTP_PEER_BYTES]);

/* The body becomes the caller's, to be given back with http_body_free. A detached one no longer counts as the server's:
 * it may outlive it, and is freed with s NULL. */
char *http_body_take(struct http_exchange *x);
void http_body_detach(struct http_server *s, char *body);
void http_body_free(struct http_server *s, char *body);

/* `headers`: further header lines, each ended by CRLF, or NULL; when they begin with Content-Type, the body is of that
 * type and not JSON. `body`: taken over (emptied), or NULL. A body that
 * failed (text_failed) becomes a 500. */
void http_reply(struct http_exchange *x, int status, const char *headers, struct text *body);

/* Writes the error object into an empty text: what http_reply sends for errors. `more`: further members, each starting
 * with a comma, or NULL. */
void http_error_text(struct text *t, const char *code, const char *message, const char *applied, const char *more);

#endif
