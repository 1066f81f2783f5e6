/* An HTTP server for tests of HTTP clients, on the test's own loop: each request goes to a callback, which answers
 * with a proper response, with any bytes, or by hanging up, at once or later, or never. */
#ifndef OUTRIGGER_TESTS_HTTP_STUB_H
#define OUTRIGGER_TESTS_HTTP_STUB_H

#include <stddef.h>
#include <uv.h>

struct http_stub;
struct http_stub_conn;

struct http_stub_request {
    const char *method;
    const char *path;
    const char *head; /* the whole head, NUL-terminated */
    const char *body; /* NUL-terminated */
    size_t body_bytes;
    unsigned number; /* of all requests, from 1 */
};
typedef void (*http_stub_cb)(void *data, struct http_stub_conn *conn, const struct http_stub_request *req);

struct http_stub *http_stub_new(uv_loop_t *loop, http_stub_cb cb, void *data);
const char *http_stub_url(const struct http_stub *stub);      /* "http://127.0.0.1:port" */
unsigned http_stub_connections(const struct http_stub *stub); /* accepted so far */
unsigned http_stub_requests(const struct http_stub *stub);
/* Stops listening and hangs up; the memory is freed by the loop. */
void http_stub_close(struct http_stub *stub);

/* A complete answer; the connection stays open. */
void http_stub_answer(struct http_stub_conn *conn, int status, const char *body);
void http_stub_raw(struct http_stub_conn *conn, const char *bytes, size_t count);
void http_stub_hang_up(struct http_stub_conn *conn);
void http_stub_reset(struct http_stub_conn *conn); /* with a TCP reset */

#endif
