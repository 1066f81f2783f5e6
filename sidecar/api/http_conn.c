#include "sidecar/api/http_internal.h"
#include "sidecar/io/clock.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    int status;
    const char *code;
} codes[] = {{400, "bad_request"},        {408, "timeout"},     {405, "method_not_allowed"},   {413, "too_large"},
             {417, "expectation_failed"}, {429, "busy"},        {431, "headers_too_large"},    {500, "internal"},
             {501, "not_implemented"},    {503, "unavailable"}, {505, "version_not_supported"}};

/* When neither the socket nor the request's handler needs it any more. */
static void conn_release(struct http_conn *c)
{
    struct http_server *s = c->s;

    if (!c->handle_closed || c->call != NULL) {
        return;
    }
    http_server_forget(s, c);
}

static void on_conn_closed(uv_handle_t *handle)
{
    struct http_conn *c = handle->data;

    c->handle_closed = true;
    text_close(&c->out_head);
    text_close(&c->out_body);
    tls_session_free(c->tls);
    conn_release(c);
}

void http_conn_idle(struct http_conn *c, bool idle)
{
    struct http_server *s = c->s;

    if (c->idle_link != NULL) {
        *c->idle_link = c->idle_next;
        if (c->idle_next != NULL) {
            c->idle_next->idle_link = c->idle_link;
        } else {
            s->idle_end = c->idle_link;
        }
        c->idle_link = NULL;
    }
    if (idle) {
        c->idle_next = NULL;
        c->idle_link = s->idle_end;
        *s->idle_end = c;
        s->idle_end = &c->idle_next;
    }
}

static void answer_counted(struct http_conn *c, size_t bytes)
{
    c->s->answers_total += bytes - c->out_counted;
    c->out_counted = bytes;
}

void http_conn_close(struct http_conn *c)
{
    bool handling;

    if (c->state == HTTP_CONN_CLOSED) {
        return;
    }
    handling = c->state == HTTP_CONN_HANDLING;
    if (!handling) {
        http_call_free(c->s, c->call); /* unfinished */
        c->call = NULL;
    }
    http_tls_end(c);
    c->state = HTTP_CONN_CLOSED;
    http_conn_idle(c, false);
    answer_counted(c, 0);
    c->s->sockets_count--;
    free(c->head);
    free(c->pending);
    c->head = NULL;
    c->pending = NULL;
    uv_close((uv_handle_t *)&c->tcp, on_conn_closed);
    if (handling && c->s->config.on_gone != NULL) {
        c->s->config.on_gone(c->s->config.data, &c->call->x);
    }
}

void http_conn_enter(struct http_conn *c, enum http_conn_state state)
{
    c->state = state;
    http_conn_idle(c, state == HTTP_CONN_IDLE);
    c->since_ms = clock_now_ms();
    c->moved_ms = c->since_ms;
    c->moved_bytes = 0;
}

/* --- answers ------------------------------------------------------------------------------------------------------ */

static void on_shutdown(uv_shutdown_t *req, int status)
{
    (void)status;
    free(req);
}

void http_conn_linger(struct http_conn *c)
{
    uv_shutdown_t *req;

    if (c->eof) {
        http_conn_close(c);
        return;
    }
    http_tls_end(c);
    req = malloc(sizeof *req);
    if (req == NULL || uv_shutdown(req, (uv_stream_t *)&c->tcp, on_shutdown) != 0) {
        free(req);
        http_conn_close(c);
        return;
    }
    free(c->pending);
    c->pending = NULL;
    http_conn_enter(c, HTTP_CONN_LINGER);
    http_conn_read(c);
}

/* The answer is out. */
void http_conn_written(struct http_conn *c)
{
    char *pending = c->pending;

    answer_counted(c, 0);
    text_close(&c->out_head);
    text_close(&c->out_body);
    if (!c->keep_alive || c->s->leaving) {
        http_conn_linger(c);
        return;
    }
    http_guard_init(&c->guard);
    http_conn_enter(c, HTTP_CONN_IDLE);
    if (c->in_input) {
        return; /* http_conn_input goes on with the next request by itself. */
    }
    if (pending != NULL) {
        c->pending = NULL;
        http_conn_input(c, pending, c->pending_bytes);
        free(pending);
    }
    if (c->state <= HTTP_CONN_BODY && c->eof) {
        http_conn_close(c);
    } else if (c->state <= HTTP_CONN_BODY) {
        http_conn_read(c);
    }
}

static void on_written(uv_write_t *req, int status)
{
    struct http_conn *c = req->data;

    if (c->state == HTTP_CONN_CLOSED) {
        return;
    }
    if (status != 0) {
        http_conn_close(c);
        return;
    }
    http_conn_written(c);
}

/* Too many answers wait to be read: the one that has not moved for longest goes, maybe this one. */
static void bound_answers(struct http_server *s)
{
    while (s->answers_total > s->config.answers_total_max) {
        struct http_conn *slowest = NULL;

        for (struct http_conn *c = s->conns; c != NULL; c = c->next) {
            if (c->out_counted != 0 && (slowest == NULL || c->moved_ms < slowest->moved_ms)) {
                slowest = c;
            }
        }
        assert(slowest != NULL);
        s->metrics.unread_closed_total++;
        http_conn_close(slowest);
    }
}

/* Sends out_head and out_body: at once as far as the socket takes it, the rest by uv_write. */
static void send_plain(struct http_conn *c)
{
    uv_buf_t bufs[2] = {uv_buf_init(c->out_head.bytes, (unsigned)c->out_head.used),
                        uv_buf_init(c->out_body.bytes, (unsigned)c->out_body.used)};
    unsigned count = c->out_body.used != 0 ? 2 : 1;
    unsigned first = 0;
    size_t sent;
    int rv;

    rv = uv_try_write((uv_stream_t *)&c->tcp, bufs, count);
    if (rv < 0 && rv != UV_EAGAIN) {
        http_conn_close(c);
        return;
    }
    sent = rv > 0 ? (size_t)rv : 0;
    while (first < count && sent >= bufs[first].len) {
        sent -= bufs[first].len;
        first++;
    }
    if (first == count) {
        http_conn_written(c);
        return;
    }
    bufs[first].base += sent;
    bufs[first].len -= sent;
    c->write.data = c;
    if (uv_write(&c->write, (uv_stream_t *)&c->tcp, bufs + first, count - first, on_written) != 0) {
        http_conn_close(c);
    }
}

static void conn_write(struct http_conn *c)
{
    struct http_server *s = c->s;

    http_conn_enter(c, HTTP_CONN_WRITING);
    answer_counted(c, c->out_head.used + c->out_body.used);
    if (s->config.tls != NULL && !c->plain) {
        http_tls_answer(c);
    } else {
        send_plain(c);
    }
    bound_answers(s); /* Those that went out at once no longer count. */
}

void http_conn_answer(struct http_conn *c, int status, const char *headers, struct text *body)
{
    bool bodiless = status == 204 || status == 304;

    c->out_body = (struct text){0};
    if (body != NULL) {
        c->out_body = *body;
        *body = (struct text){0};
    }
    text_init(&c->out_head, 1 << 20);
    text_printf(&c->out_head, "HTTP/1.1 %d %s\r\n", status, http_status_str((enum http_status)status));
    if (!bodiless && (headers == NULL || strncmp(headers, "Content-Type:", strlen("Content-Type:")) != 0)) {
        text_puts(&c->out_head, "Content-Type: application/json\r\n");
    }
    if (!bodiless) {
        text_printf(&c->out_head, "Content-Length: %zu\r\n", c->out_body.used);
    }
    if (!c->keep_alive || c->s->leaving) {
        text_puts(&c->out_head, "Connection: close\r\n");
    } else if (!c->guard.version_1_1) {
        text_puts(&c->out_head, "Connection: keep-alive\r\n");
    }
    text_puts(&c->out_head, headers != NULL ? headers : "");
    text_puts(&c->out_head, "\r\n");
    if (bodiless || c->no_body) {
        text_close(&c->out_body);
    }
    if (c->out_head.failed != 0 || c->out_body.failed != 0) {
        http_conn_enter(c, HTTP_CONN_WRITING); /* no request is being handled any more */
        http_conn_close(c);
        return;
    }
    c->s->metrics.sent_bytes_total += c->out_head.used + c->out_body.used;
    conn_write(c);
}

void http_conn_refuse(struct http_conn *c, int status, const char *why)
{
    struct text body;
    const char *code = "error";

    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        code = codes[i].status == status ? codes[i].code : code;
    }
    http_call_free(c->s, c->call);
    c->call = NULL;
    free(c->head);
    c->head = NULL;
    c->keep_alive = false;
    c->s->metrics.refused_total++;
    text_init(&body, 4096);
    http_error_text(&body, code, why, "false", NULL);
    http_conn_answer(c, status, status == 429 || status == 503 ? "Retry-After: 1\r\n" : NULL, &body);
}

void http_reply(struct http_exchange *x, int status, const char *headers, struct text *body)
{
    struct http_call *call = (struct http_call *)(void *)((char *)x - offsetof(struct http_call, x));
    struct http_conn *c = call->conn;
    struct text own;

    c->call = NULL;
    http_call_free(c->s, call);
    if (c->state == HTTP_CONN_CLOSED) {
        if (body != NULL) {
            text_close(body);
        }
        conn_release(c);
        return;
    }
    assert(c->state == HTTP_CONN_HANDLING);
    if (body != NULL && body->failed != 0) {
        bool large = body->failed == OTR_TOOBIG;

        text_close(body);
        text_init(&own, 4096);
        http_error_text(&own, large ? "too_large" : "internal",
                        large ? "the answer is larger than 64 MiB: ask for less" : "out of memory", "\"unknown\"",
                        NULL);
        http_conn_answer(c, large ? 413 : 500, NULL, &own);
        return;
    }
    http_conn_answer(c, status, headers, body);
}

/* --- sockets ------------------------------------------------------------------------------------------------------ */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct http_conn *c = handle->data;

    (void)suggested;
    *buf = uv_buf_init(c->s->scratch, HTTP_SCRATCH_BYTES);
    if (c->state == HTTP_CONN_BODY && !c->guard.has_encoding && c->call->x.body != NULL && c->tls == NULL) {
        struct http_exchange *x = &c->call->x;

        if (http_body_grow(c->s, x, 1, c->guard.length) != 0) {
            return; /* on_body tries again and refuses. */
        }
        *buf = uv_buf_init(x->body + x->body_bytes, (unsigned)(http_body_capacity(x) - x->body_bytes));
    }
}

void http_conn_eof(struct http_conn *c)
{
    c->eof = true;
    uv_read_stop((uv_stream_t *)&c->tcp);
    c->reading = false;
    if ((c->state == HTTP_CONN_HEAD && c->head_used != 0) || c->state == HTTP_CONN_BODY) {
        http_conn_refuse(c, 400,
                         c->state == HTTP_CONN_HEAD ? "the connection ended inside a head"
                                                    : "the connection ended inside a body");
    } else if (c->state == HTTP_CONN_IDLE || c->state == HTTP_CONN_HEAD || c->state == HTTP_CONN_LINGER) {
        http_conn_close(c);
    }
    /* HANDLING, WRITING: a client may end its side and still wait for the answer. */
}

static void on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    struct http_conn *c = stream->data;

    if (c->state == HTTP_CONN_CLOSED || nread == 0) {
        return;
    }
    if (nread == UV_EOF) {
        http_conn_eof(c);
    } else if (nread < 0) {
        http_conn_close(c);
    } else if (c->state != HTTP_CONN_LINGER) {
        c->s->metrics.received_bytes_total += (uint64_t)nread;
        if (c->s->config.tls != NULL) {
            http_tls_input(c, buf->base, (size_t)nread);
        } else {
            http_conn_input(c, buf->base, (size_t)nread);
        }
    }
}

void http_conn_read(struct http_conn *c)
{
    if (c->reading) {
        return;
    }
    if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0) {
        http_conn_close(c);
        return;
    }
    c->reading = true;
}
