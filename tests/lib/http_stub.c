#include "tests/lib/http_stub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct http_stub_conn {
    uv_tcp_t tcp;
    struct http_stub_conn *next;
    struct http_stub *stub;
    char *bytes; /* of requests that are not complete yet */
    size_t bytes_count;
};

struct http_stub {
    uv_tcp_t tcp;
    http_stub_cb cb;
    void *data;
    char url[40];
    struct http_stub_conn *conns;
    unsigned conns_count;
    unsigned requests_count;
};

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)handle;
    *buf = uv_buf_init(malloc(suggested), (unsigned)suggested);
}

static void on_conn_closed(uv_handle_t *handle)
{
    struct http_stub_conn *conn = handle->data;

    free(conn->bytes);
    free(conn);
}

static void conn_forget(struct http_stub_conn *conn)
{
    struct http_stub_conn **place = &conn->stub->conns;

    while (*place != conn) {
        place = &(*place)->next;
    }
    *place = conn->next;
}

void http_stub_hang_up(struct http_stub_conn *conn)
{
    if (!uv_is_closing((uv_handle_t *)&conn->tcp)) {
        conn_forget(conn);
        uv_close((uv_handle_t *)&conn->tcp, on_conn_closed);
    }
}

void http_stub_reset(struct http_stub_conn *conn)
{
    if (!uv_is_closing((uv_handle_t *)&conn->tcp)) {
        conn_forget(conn);
        uv_tcp_close_reset(&conn->tcp, on_conn_closed);
    }
}

struct write {
    uv_write_t req;
    char *bytes;
};

static void on_written(uv_write_t *req, int status)
{
    struct write *write = req->data;

    (void)status;
    free(write->bytes);
    free(write);
}

void http_stub_raw(struct http_stub_conn *conn, const char *bytes, size_t count)
{
    struct write *write = malloc(sizeof *write);
    uv_buf_t buf;

    write->req.data = write;
    write->bytes = malloc(count);
    memcpy(write->bytes, bytes, count);
    buf = uv_buf_init(write->bytes, (unsigned)count);
    if (uv_write(&write->req, (uv_stream_t *)&conn->tcp, &buf, 1, on_written) != 0) {
        on_written(&write->req, -1);
    }
}

void http_stub_answer(struct http_stub_conn *conn, int status, const char *body)
{
    char head[128];
    int bytes = snprintf(head, sizeof head, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n\r\n", status, strlen(body));

    http_stub_raw(conn, head, (size_t)bytes);
    http_stub_raw(conn, body, strlen(body));
}

/* Hands the first complete request to the callback; false when there is none. */
static int conn_serve(struct http_stub_conn *conn)
{
    struct http_stub_request req = {0};
    char *end = conn->bytes != NULL ? strstr(conn->bytes, "\r\n\r\n") : NULL;
    const char *length;
    char method[16], path[256];
    char *head, *body;
    size_t head_bytes;

    if (end == NULL) {
        return 0;
    }
    head_bytes = (size_t)(end + 4 - conn->bytes);
    head = strndup(conn->bytes, head_bytes);
    length = strcasestr(head, "\r\ncontent-length:");
    req.body_bytes = length != NULL ? strtoul(length + 17, NULL, 10) : 0;
    if (conn->bytes_count < head_bytes + req.body_bytes) {
        free(head);
        return 0;
    }
    body = strndup(conn->bytes + head_bytes, req.body_bytes);
    conn->bytes_count -= head_bytes + req.body_bytes;
    memmove(conn->bytes, conn->bytes + head_bytes + req.body_bytes, conn->bytes_count + 1);
    sscanf(head, "%15s %255s", method, path);
    req.method = method;
    req.path = path;
    req.head = head;
    req.body = body;
    req.number = ++conn->stub->requests_count;
    conn->stub->cb(conn->stub->data, conn, &req);
    free(head);
    free(body);
    return !uv_is_closing((uv_handle_t *)&conn->tcp);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buf)
{
    struct http_stub_conn *conn = stream->data;

    if (count < 0) {
        free(buf->base);
        http_stub_hang_up(conn);
        return;
    }
    conn->bytes = realloc(conn->bytes, conn->bytes_count + (size_t)count + 1);
    memcpy(conn->bytes + conn->bytes_count, buf->base, (size_t)count);
    conn->bytes_count += (size_t)count;
    conn->bytes[conn->bytes_count] = '\0';
    free(buf->base);
    while (conn_serve(conn)) {
    }
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct http_stub *stub = listener->data;
    struct http_stub_conn *conn = calloc(1, sizeof *conn);

    if (status != 0) {
        abort();
    }
    conn->stub = stub;
    conn->next = stub->conns;
    stub->conns = conn;
    stub->conns_count++;
    uv_tcp_init(listener->loop, &conn->tcp);
    conn->tcp.data = conn;
    uv_accept(listener, (uv_stream_t *)&conn->tcp);
    uv_tcp_nodelay(&conn->tcp, 1); /* Head and body are two writes. */
    uv_read_start((uv_stream_t *)&conn->tcp, on_alloc, on_read);
}

struct http_stub *http_stub_new(uv_loop_t *loop, http_stub_cb cb, void *data)
{
    struct http_stub *stub = calloc(1, sizeof *stub);
    struct sockaddr_in address;
    int bytes = sizeof address;

    stub->cb = cb;
    stub->data = data;
    stub->tcp.data = stub;
    uv_ip4_addr("127.0.0.1", 0, &address);
    if (uv_tcp_init(loop, &stub->tcp) != 0 || uv_tcp_bind(&stub->tcp, (struct sockaddr *)&address, 0) != 0 ||
        uv_listen((uv_stream_t *)&stub->tcp, 128, on_connection) != 0 ||
        uv_tcp_getsockname(&stub->tcp, (struct sockaddr *)&address, &bytes) != 0) {
        abort();
    }
    snprintf(stub->url, sizeof stub->url, "http://127.0.0.1:%u", ntohs(address.sin_port));
    return stub;
}

const char *http_stub_url(const struct http_stub *stub)
{
    return stub->url;
}

unsigned http_stub_connections(const struct http_stub *stub)
{
    return stub->conns_count;
}

unsigned http_stub_requests(const struct http_stub *stub)
{
    return stub->requests_count;
}

static void on_stub_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void http_stub_close(struct http_stub *stub)
{
    while (stub->conns != NULL) {
        http_stub_hang_up(stub->conns);
    }
    uv_close((uv_handle_t *)&stub->tcp, on_stub_closed);
}
