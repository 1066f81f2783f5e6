/* HTTP client: a curl multi handle driven by a libuv loop. Coordination backends and engine drivers sit on it.
 *
 * Happy path: http_client_start() adds an easy handle; curl tells which sockets to poll and which timer to set; when
 * the transfer ends, `done` fires from the loop, never from inside start or cancel. Connections are kept and reused per
 * `lane`: requests of different lanes never share a connection, so that a stuck watch delays no keep-alive.
 *
 * TLS: the files are looked at again once a second; when one has changed, requests go over connections made since then
 * (streams that run stay on theirs), so a rotated certificate is used within a second and an old CA trusted no longer.
 *
 * Loop thread only. */
#ifndef OUTRIGGER_IO_HTTP_CLIENT_H
#define OUTRIGGER_IO_HTTP_CLIENT_H

#include "outrigger/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct http_client;
struct http_request;

struct http_client_config {
    const char *ca_file; /* NULL: plain HTTP or the system's CAs */
    const char *cert_file;
    const char *key_file;        /* NULL: in cert_file */
    uint32_t connect_timeout_ms; /* 0: 500 */
    uint32_t connections_max;    /* of a lane; further requests wait for one, within their timeout. 0: no bound */
};

struct http_response {
    long status;      /* HTTP status; 0 when none arrived */
    const char *body; /* NUL-terminated; empty when on_data took it */
    size_t body_bytes;
    bool sent; /* some byte of the request may have reached the server: a failure's outcome is then unknown */
    bool connection_refused;
    const char *header; /* value of the header that the request wanted; "" when there was none */
};

/* status: 0 when a complete response arrived (whatever its HTTP status); OTR_UNREACHABLE (no connection), OTR_TIMEOUT,
 * OTR_PROTO (response cut short or malformed), OTR_TOOBIG, OTR_CANCELED, OTR_NOMEM. response is never NULL. */
typedef void (*http_done_cb)(struct http_request *req, int status, const struct http_response *response,
                             const struct otr_errmsg *msg);
/* A piece of a streamed body. Returning non-zero ends the transfer with OTR_CANCELED. */
typedef int (*http_data_cb)(struct http_request *req, const char *data, size_t bytes);

/* Caller-owned; the client's from start until `done`. Strings and body are copied by start, but for `body` when
 * body_borrowed is set: then it must live until `done`. */
struct http_request {
    const char *method; /* "GET", "POST", "PUT", "DELETE" */
    const char *url;
    const char *const *headers; /* "Name: value", NULL-terminated; NULL: none */
    const void *body;
    size_t body_bytes;
    bool body_borrowed;
    uint32_t timeout_ms;       /* whole transfer; 0: none (streams) */
    size_t response_bytes_max; /* 0: 64 MiB */
    unsigned lane;
    const char *header_wanted; /* name of a header of the response, static; NULL: none. Values are cut at 63 bytes */
    http_data_cb on_data;      /* NULL: the body is collected */
    void *data;                /* the caller's */
    void *internal;            /* the client's */
};

int http_client_new(struct http_client **client, uv_loop_t *loop, const struct http_client_config *config,
                    struct otr_errmsg *msg);
/* 0, or OTR_NOMEM / OTR_INVALID and `done` never fires. */
int http_client_start(struct http_client *client, struct http_request *req, http_done_cb done);
/* `done` fires soon with OTR_CANCELED, unless it is already on its way. */
void http_client_cancel(struct http_client *client, struct http_request *req);
typedef void (*http_client_close_cb)(void *data);
/* Cancels everything, then frees the client and calls cb. */
void http_client_close(struct http_client *client, http_client_close_cb cb, void *data);

#endif
