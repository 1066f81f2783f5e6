/* A connection's life:
 *
 *            first byte        head complete         body complete
 *   IDLE ----------------> HEAD ------------> BODY ----------------> HANDLING --http_reply--> WRITING --+
 *    ^                      '--------- (no body) --------------------^                                  |
 *    '----------------------------------- kept alive ---------------------------------------------------+
 *                                                                    LINGER <---- to be closed ---------'
 *
 * LINGER: our side is shut down, what still comes is read and dropped until the client ends too (2 s at most); a reset
 * would take an answer away from a client that is still sending its body.
 *
 * Bytes pass http_guard before http-parser sees them, and http-parser gets exactly one message at a time. A body of
 * known length is read by the kernel to its final place: http-parser only confirms it. */
#include "sidecar/api/http.h"

#include "sidecar/api/http_guard.h"
#include "sidecar/api/json_print.h"
#include "sidecar/io/clock.h"

#include <assert.h>
#include <http_parser.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    SCRATCH_BYTES = 64 << 10,
    BODY_BYTES_MIN = 16 << 10,
    BACKLOG = 511,
    SWEEP_MS = 100,
    LINGER_MS = 2000,
    CLOSING_WRITE_MS = 1000,
    REFUSED_CONNECTIONS_MAX = 100, /* above connections_max, to be told why */
};

enum conn_state { CONN_IDLE, CONN_HEAD, CONN_BODY, CONN_HANDLING, CONN_WRITING, CONN_LINGER, CONN_CLOSED };

struct http_server {
    struct http_server_config config;
    uv_tcp_t listener;
    uv_timer_t sweep;
    struct http_conn *conns;
    uint32_t conns_count;
    uint64_t bodies_total;
    uint64_t closing_since_ms;
    bool stopped;
    bool listener_closed;
    bool sweep_closing;
    void (*close_cb)(void *data);
    void *close_data;
    char scratch[SCRATCH_BYTES]; /* read into while a connection holds no buffer; used up before the next read */
};

/* Stands before every body's first byte. */
struct body_head {
    _Alignas(16) size_t capacity; /* without the slack */
};

struct call {
    struct http_exchange x;
    struct http_conn *conn;
    struct http_field fields[HTTP_FIELDS_MAX];
    size_t fields_count;
    bool too_many_fields;
    char *head; /* what fields and target point into */
};

struct http_conn {
    uv_tcp_t tcp;
    struct http_server *s;
    struct http_conn *next, **link;
    enum conn_state state;
    bool reading;
    bool in_input;   /* conn_input is on the stack */
    bool eof;        /* the client ended its side */
    bool keep_alive; /* as the client wishes */
    bool no_body;    /* HEAD */
    bool complete;   /* http-parser saw the end of the message */
    bool handle_closed;
    uint64_t since_ms; /* begin of the state */
    uint64_t moved_ms; /* last byte */
    uint64_t moved_bytes;
    struct http_guard guard;
    http_parser parser;
    struct call *call;
    char *head; /* unfinished */
    size_t head_used;
    char *pending; /* came while a request was under way */
    size_t pending_bytes;
    uv_write_t write;
    struct text out_head, out_body;
};

static const struct {
    int status;
    const char *code;
} codes[] = {{400, "bad_request"},        {408, "timeout"},
             {405, "method_not_allowed"}, {413, "too_large"},
             {417, "expectation_failed"}, {431, "headers_too_large"},
             {500, "internal"},           {501, "not_implemented"},
             {503, "unavailable"},        {505, "version_not_supported"}};

static void conn_input(struct http_conn *c, const char *data, size_t n);
static void conn_read(struct http_conn *c);

/* --- bodies ------------------------------------------------------------------------------------------------------- */

static struct body_head *body_head(char *body)
{
    return (struct body_head *)(void *)(body - sizeof(struct body_head));
}

void http_body_detach(struct http_server *s, char *body)
{
    if (body != NULL) {
        s->bodies_total -= body_head(body)->capacity;
    }
}

void http_body_free(struct http_server *s, char *body)
{
    if (s != NULL) {
        http_body_detach(s, body);
    }
    if (body != NULL) {
        free(body_head(body));
    }
}

/* Room for `bytes` in all; OTR_BUSY when all bodies together would be too large. */
static int body_reserve(struct http_server *s, struct http_exchange *x, size_t bytes)
{
    size_t capacity = x->body != NULL ? body_head(x->body)->capacity : 0;
    struct body_head *head;

    if (bytes <= capacity) {
        return 0;
    }
    if (s->bodies_total - capacity + bytes > s->config.bodies_total_max) {
        return OTR_BUSY;
    }
    head = realloc(x->body != NULL ? body_head(x->body) : NULL, sizeof *head + bytes + HTTP_BODY_SLACK);
    if (head == NULL) {
        return OTR_NOMEM;
    }
    head->capacity = bytes;
    s->bodies_total += bytes - capacity;
    x->body = (char *)(head + 1);
    return 0;
}

/* Doubles, so that a large length that is only announced takes no memory. `limit`: the body's length if known. */
static int body_grow(struct http_server *s, struct http_exchange *x, size_t more, uint64_t limit)
{
    size_t wanted = x->body != NULL ? body_head(x->body)->capacity * 2 : BODY_BYTES_MIN;

    if (x->body != NULL && x->body_bytes + more <= body_head(x->body)->capacity) {
        return 0;
    }
    wanted = wanted < x->body_bytes + more ? x->body_bytes + more : wanted;
    wanted = wanted > limit ? (size_t)limit : wanted;
    return body_reserve(s, x, wanted);
}

char *http_body_take(struct http_exchange *x)
{
    char *body = x->body;

    x->body = NULL;
    x->body_bytes = 0;
    return body;
}

/* --- closing ------------------------------------------------------------------------------------------------------ */

static void call_free(struct http_server *s, struct call *call)
{
    if (call != NULL) {
        http_body_free(s, call->x.body);
        free(call->head);
        free(call);
    }
}

static void on_sweep_closed(uv_handle_t *handle)
{
    struct http_server *s = handle->data;
    void (*cb)(void *data) = s->close_cb;
    void *data = s->close_data;

    free(s);
    cb(data);
}

static void server_finish(struct http_server *s)
{
    if (s->close_cb != NULL && s->listener_closed && s->conns_count == 0 && !s->sweep_closing) {
        s->sweep_closing = true;
        uv_close((uv_handle_t *)&s->sweep, on_sweep_closed);
    }
}

/* When neither the socket nor the request's handler needs it any more. */
static void conn_release(struct http_conn *c)
{
    struct http_server *s = c->s;

    if (!c->handle_closed || c->call != NULL) {
        return;
    }
    *c->link = c->next;
    if (c->next != NULL) {
        c->next->link = c->link;
    }
    s->conns_count--;
    free(c);
    if (s->conns_count == 0) {
        uv_timer_stop(&s->sweep);
    }
    server_finish(s);
}

static void on_conn_closed(uv_handle_t *handle)
{
    struct http_conn *c = handle->data;

    c->handle_closed = true;
    text_close(&c->out_head);
    text_close(&c->out_body);
    conn_release(c);
}

static void conn_close(struct http_conn *c)
{
    if (c->state == CONN_CLOSED) {
        return;
    }
    if (c->state != CONN_HANDLING) {
        call_free(c->s, c->call); /* unfinished */
        c->call = NULL;
    }
    c->state = CONN_CLOSED;
    free(c->head);
    free(c->pending);
    c->head = NULL;
    c->pending = NULL;
    uv_close((uv_handle_t *)&c->tcp, on_conn_closed);
}

static void conn_enter(struct http_conn *c, enum conn_state state)
{
    c->state = state;
    c->since_ms = clock_now_ms();
    c->moved_ms = c->since_ms;
    c->moved_bytes = 0;
}

/* --- answers ------------------------------------------------------------------------------------------------------ */

void http_error_text(struct text *t, const char *code, const char *message, const char *applied, const char *more)
{
    text_puts(t, "{\"error\":{\"code\":");
    json_print_string(t, code, strlen(code));
    text_puts(t, ",\"message\":");
    json_print_string(t, message, strlen(message));
    text_puts(t, "},\"applied\":");
    text_puts(t, applied);
    if (more != NULL) {
        text_puts(t, more);
    }
    text_puts(t, "}\n");
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    (void)status;
    free(req);
}

static void conn_linger(struct http_conn *c)
{
    uv_shutdown_t *req;

    if (c->eof) {
        conn_close(c);
        return;
    }
    req = malloc(sizeof *req);
    if (req == NULL || uv_shutdown(req, (uv_stream_t *)&c->tcp, on_shutdown) != 0) {
        free(req);
        conn_close(c);
        return;
    }
    free(c->pending);
    c->pending = NULL;
    conn_enter(c, CONN_LINGER);
    conn_read(c);
}

/* The answer is out. */
static void conn_next(struct http_conn *c)
{
    char *pending = c->pending;

    text_close(&c->out_head);
    text_close(&c->out_body);
    if (!c->keep_alive || c->s->stopped) {
        conn_linger(c);
        return;
    }
    http_guard_init(&c->guard);
    conn_enter(c, CONN_IDLE);
    if (c->in_input) {
        return; /* conn_input goes on with the next request by itself. */
    }
    if (pending != NULL) {
        c->pending = NULL;
        conn_input(c, pending, c->pending_bytes);
        free(pending);
    }
    if (c->state <= CONN_BODY && c->eof) {
        conn_close(c);
    } else if (c->state <= CONN_BODY) {
        conn_read(c);
    }
}

static void on_written(uv_write_t *req, int status)
{
    struct http_conn *c = req->data;

    if (c->state == CONN_CLOSED) {
        return;
    }
    if (status != 0) {
        conn_close(c);
        return;
    }
    conn_next(c);
}

/* Sends out_head and out_body: at once as far as the socket takes it, the rest by uv_write. */
static void conn_write(struct http_conn *c)
{
    uv_buf_t bufs[2] = {uv_buf_init(c->out_head.bytes, (unsigned)c->out_head.used),
                        uv_buf_init(c->out_body.bytes, (unsigned)c->out_body.used)};
    unsigned count = c->out_body.used != 0 ? 2 : 1;
    unsigned first = 0;
    size_t sent;
    int rv;

    conn_enter(c, CONN_WRITING);
    rv = uv_try_write((uv_stream_t *)&c->tcp, bufs, count);
    if (rv < 0 && rv != UV_EAGAIN) {
        conn_close(c);
        return;
    }
    sent = rv > 0 ? (size_t)rv : 0;
    while (first < count && sent >= bufs[first].len) {
        sent -= bufs[first].len;
        first++;
    }
    if (first == count) {
        conn_next(c);
        return;
    }
    bufs[first].base += sent;
    bufs[first].len -= sent;
    c->write.data = c;
    if (uv_write(&c->write, (uv_stream_t *)&c->tcp, bufs + first, count - first, on_written) != 0) {
        conn_close(c);
    }
}

static void conn_answer(struct http_conn *c, int status, const char *headers, struct text *body)
{
    bool bodiless = status == 204 || status == 304;

    c->out_body = (struct text){0};
    if (body != NULL) {
        c->out_body = *body;
        *body = (struct text){0};
    }
    text_init(&c->out_head, 1 << 20);
    text_printf(&c->out_head, "HTTP/1.1 %d %s\r\n", status, http_status_str((enum http_status)status));
    if (!bodiless) {
        text_printf(&c->out_head, "Content-Type: application/json\r\nContent-Length: %zu\r\n", c->out_body.used);
    }
    if (!c->keep_alive || c->s->stopped) {
        text_puts(&c->out_head, "Connection: close\r\n");
    } else if (!c->guard.version_1_1) {
        text_puts(&c->out_head, "Connection: keep-alive\r\n");
    }
    text_puts(&c->out_head, headers != NULL ? headers : "");
    text_puts(&c->out_head, "\r\n");
    if (bodiless || c->no_body) {
        text_close(&c->out_body);
    }
    if (c->out_head.failed != 0) {
        conn_close(c);
        return;
    }
    conn_write(c);
}

/* Answers what is no acceptable request, then closes. */
static void conn_refuse(struct http_conn *c, int status, const char *why)
{
    struct text body;
    const char *code = "error";

    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        code = codes[i].status == status ? codes[i].code : code;
    }
    call_free(c->s, c->call);
    c->call = NULL;
    free(c->head);
    c->head = NULL;
    c->keep_alive = false;
    text_init(&body, 4096);
    http_error_text(&body, code, why, "false", NULL);
    conn_answer(c, status, NULL, &body);
}

void http_reply(struct http_exchange *x, int status, const char *headers, struct text *body)
{
    struct call *call = (struct call *)(void *)((char *)x - offsetof(struct call, x));
    struct http_conn *c = call->conn;
    struct text own;

    c->call = NULL;
    call_free(c->s, call);
    if (c->state == CONN_CLOSED) {
        if (body != NULL) {
            text_close(body);
        }
        conn_release(c);
        return;
    }
    assert(c->state == CONN_HANDLING);
    if (body != NULL && body->failed != 0) {
        bool large = body->failed == OTR_TOOBIG;

        text_close(body);
        text_init(&own, 4096);
        http_error_text(&own, large ? "too_large" : "internal",
                        large ? "the answer is larger than 64 MiB: ask for less" : "out of memory", "\"unknown\"",
                        NULL);
        conn_answer(c, large ? 413 : 500, NULL, &own);
        return;
    }
    conn_answer(c, status, headers, body);
}

const struct http_field *http_field_find(const struct http_exchange *x, const char *name, bool *twice)
{
    const struct http_field *found = NULL;
    size_t bytes = strlen(name);

    if (twice != NULL) {
        *twice = false;
    }
    for (size_t i = 0; i < x->fields_count; i++) {
        if (x->fields[i].name_bytes == bytes && strncasecmp(x->fields[i].name, name, bytes) == 0) {
            if (found != NULL && twice != NULL) {
                *twice = true;
            }
            found = found == NULL ? &x->fields[i] : found;
        }
    }
    return found;
}

/* --- http-parser's callbacks -------------------------------------------------------------------------------------- */

static int on_url(http_parser *parser, const char *at, size_t n)
{
    struct http_conn *c = parser->data;

    c->call->x.target = at; /* One piece: the head is parsed as a whole. */
    c->call->x.target_bytes = n;
    return 0;
}

static int on_field(http_parser *parser, const char *at, size_t n)
{
    struct call *call = ((struct http_conn *)parser->data)->call;

    if (call->fields_count == HTTP_FIELDS_MAX) {
        call->too_many_fields = true;
        return 1;
    }
    call->fields[call->fields_count++] = (struct http_field){.name = at, .name_bytes = n};
    return 0;
}

static int on_value(http_parser *parser, const char *at, size_t n)
{
    struct call *call = ((struct http_conn *)parser->data)->call;
    struct http_field *field = &call->fields[call->fields_count - 1];

    while (n > 0 && (at[n - 1] == ' ' || at[n - 1] == '\t')) {
        n--;
    }
    field->value = at;
    field->value_bytes = n;
    return 0;
}

static int on_headers_complete(http_parser *parser)
{
    parser->upgrade = 0; /* Offers to speak something else are not taken up. */
    return 0;
}

static int on_body(http_parser *parser, const char *at, size_t n)
{
    struct http_conn *c = parser->data;
    struct http_exchange *x = &c->call->x;

    if (x->body != NULL && at == x->body + x->body_bytes) {
        x->body_bytes += n; /* Read to its place already. */
        return 0;
    }
    if (body_grow(c->s, x, n, c->guard.has_encoding ? c->s->config.body_max : c->guard.length) != 0) {
        return 1;
    }
    memcpy(x->body + x->body_bytes, at, n);
    x->body_bytes += n;
    return 0;
}

static int on_message_complete(http_parser *parser)
{
    ((struct http_conn *)parser->data)->complete = true;
    return 0;
}

static const http_parser_settings parser_settings = {
    .on_url = on_url,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

/* --- requests ----------------------------------------------------------------------------------------------------- */

static void conn_dispatch(struct http_conn *c)
{
    struct http_exchange *x = &c->call->x;

    if (x->body != NULL) {
        memset(x->body + x->body_bytes, 0, HTTP_BODY_SLACK);
    }
    x->fields = c->call->fields;
    x->fields_count = c->call->fields_count;
    conn_enter(c, CONN_HANDLING);
    c->s->config.on_request(c->s->config.data, x);
}

/* The head is complete in call->head. */
static void head_complete(struct http_conn *c, size_t head_bytes)
{
    const struct http_server_config *config = &c->s->config;
    struct call *call = c->call;
    size_t parsed;

    http_parser_init(&c->parser, HTTP_REQUEST);
    c->parser.data = c;
    c->complete = false;
    parsed = http_parser_execute(&c->parser, &parser_settings, call->head, head_bytes);
    if (HTTP_PARSER_ERRNO(&c->parser) != HPE_OK || parsed != head_bytes) {
        enum http_errno err = HTTP_PARSER_ERRNO(&c->parser);

        conn_refuse(c,
                    call->too_many_fields       ? 431
                    : err == HPE_INVALID_METHOD ? 501
                                                : 400,
                    call->too_many_fields ? "more than 100 header lines" : http_errno_description(err));
        return;
    }
    c->keep_alive = http_should_keep_alive(&c->parser) != 0;
    c->no_body = c->parser.method == HTTP_HEAD;
    call->x.method = c->no_body ? "GET" : http_method_str((enum http_method)c->parser.method);
    if (c->parser.method == HTTP_CONNECT) {
        conn_refuse(c, 405, "CONNECT is not offered");
        return;
    }
    if (c->guard.has_length && c->guard.length > config->body_max) {
        conn_refuse(c, 413, "the body is larger than the limit of 64 MiB");
        return;
    }
    if (c->complete) {
        conn_dispatch(c);
        return;
    }
    conn_enter(c, CONN_BODY);
}

/* "100 Continue" to a client that waits for it before it sends the body. */
static void send_continue(struct http_conn *c)
{
    static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
    uv_buf_t buf = uv_buf_init((char *)(uintptr_t)text, sizeof text - 1);
    int rv;

    rv = uv_try_write((uv_stream_t *)&c->tcp, &buf, 1);
    if (rv != (int)buf.len) {
        conn_close(c); /* 25 bytes do not fit where nothing else waits: the connection is broken. */
    }
}

static int call_begin(struct http_conn *c, const char *more, size_t more_bytes)
{
    struct call *call = calloc(1, sizeof *call);
    char *head;

    if (call == NULL) {
        return OTR_NOMEM;
    }
    head = realloc(c->head, c->head_used + more_bytes);
    if (head == NULL) {
        free(call);
        return OTR_NOMEM;
    }
    memcpy(head + c->head_used, more, more_bytes);
    call->head = head;
    call->conn = c;
    c->head = NULL;
    c->head_used = 0;
    c->call = call;
    return 0;
}

/* Takes bytes of a head, returns how many belonged to it. */
static size_t head_input(struct http_conn *c, const char *data, size_t n)
{
    size_t room = HTTP_HEAD_MAX - c->head_used;
    size_t taken = n < room ? n : room;
    const char *head = data;
    size_t head_bytes = 0;
    int rv;

    if (c->head_used == 0 && n >= 2 && data[0] == '\r' && data[1] == '\n') {
        return 2; /* RFC 9112: an empty line before a request is passed over. */
    }
    if (c->state == CONN_IDLE) {
        conn_enter(c, CONN_HEAD);
        c->head_used = 0;
    }
    if (c->head_used != 0) {
        char *grown = realloc(c->head, c->head_used + taken);
        if (grown == NULL) {
            conn_close(c);
            return n;
        }
        memcpy(grown + c->head_used, data, taken);
        c->head = grown;
        head = grown;
    }
    rv = http_guard_head(&c->guard, head, c->head_used + taken, &head_bytes);
    if (rv == HTTP_GUARD_DONE) {
        size_t more = head_bytes - c->head_used;

        if (call_begin(c, data, more) != 0) {
            conn_close(c);
            return n;
        }
        head_complete(c, head_bytes);
        if (c->state == CONN_BODY && c->guard.expect_continue && c->guard.version_1_1 && more == n) {
            send_continue(c);
        }
        return more;
    }
    if (rv != HTTP_GUARD_MORE) {
        conn_refuse(c, rv, c->guard.why);
        return n;
    }
    if (c->head_used + taken == HTTP_HEAD_MAX) {
        conn_refuse(c, 431, "the head is larger than 16 KiB");
        return n;
    }
    if (c->head_used == 0) {
        c->head = malloc(taken);
        if (c->head == NULL) {
            conn_close(c);
            return n;
        }
        memcpy(c->head, data, taken);
    }
    c->head_used += taken;
    return taken;
}

/* Takes bytes of a body, returns how many belonged to it. */
static size_t body_input(struct http_conn *c, const char *data, size_t n)
{
    struct http_exchange *x = &c->call->x;
    size_t taken = n;
    int rv = HTTP_GUARD_MORE;
    size_t parsed;

    if (c->guard.has_encoding) {
        rv = http_guard_chunks(&c->guard, data, n, c->s->config.body_max, &taken);
        if (rv >= 400) {
            conn_refuse(c, rv, c->guard.why);
            return n;
        }
    } else if (n > c->guard.length - x->body_bytes) {
        taken = (size_t)(c->guard.length - x->body_bytes);
    }
    parsed = http_parser_execute(&c->parser, &parser_settings, data, taken);
    if (HTTP_PARSER_ERRNO(&c->parser) == HPE_CB_body) {
        conn_refuse(c, 503, "too many large bodies at once: try again");
        return n;
    }
    if (HTTP_PARSER_ERRNO(&c->parser) != HPE_OK || parsed != taken ||
        (c->guard.has_encoding && c->complete != (rv == HTTP_GUARD_DONE))) {
        conn_refuse(c, 400, "malformed body");
        return n;
    }
    c->moved_ms = clock_now_ms();
    c->moved_bytes += taken;
    if (c->complete) {
        conn_dispatch(c);
    }
    return taken;
}

/* Everything that comes goes through here: several requests may lie in one read, or one in many. */
static void conn_input(struct http_conn *c, const char *data, size_t n)
{
    c->in_input = true;
    while (n > 0 && c->state <= CONN_BODY) {
        size_t taken = c->state == CONN_BODY ? body_input(c, data, n) : head_input(c, data, n);
        data += taken;
        n -= taken;
    }
    c->in_input = false;
    if (n > 0 && (c->state == CONN_HANDLING || c->state == CONN_WRITING) && c->keep_alive) {
        size_t old = c->pending != NULL ? c->pending_bytes : 0;
        char *pending = realloc(c->pending, old + n);

        if (pending == NULL) {
            conn_close(c);
            return;
        }
        memcpy(pending + old, data, n);
        c->pending = pending;
        c->pending_bytes = old + n;
        uv_read_stop((uv_stream_t *)&c->tcp); /* Enough for now: the rest waits in the kernel. */
        c->reading = false;
    }
}

/* --- sockets ------------------------------------------------------------------------------------------------------ */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct http_conn *c = handle->data;

    (void)suggested;
    *buf = uv_buf_init(c->s->scratch, SCRATCH_BYTES);
    if (c->state == CONN_BODY && !c->guard.has_encoding && c->call->x.body != NULL) {
        struct http_exchange *x = &c->call->x;

        if (body_grow(c->s, x, 1, c->guard.length) != 0) {
            return; /* on_body tries again and refuses. */
        }
        *buf = uv_buf_init(x->body + x->body_bytes, (unsigned)(body_head(x->body)->capacity - x->body_bytes));
    }
}

static void conn_eof(struct http_conn *c)
{
    c->eof = true;
    uv_read_stop((uv_stream_t *)&c->tcp);
    c->reading = false;
    if ((c->state == CONN_HEAD && c->head_used != 0) || c->state == CONN_BODY) {
        conn_refuse(c, 400,
                    c->state == CONN_HEAD ? "the connection ended inside a head"
                                          : "the connection ended inside a body");
    } else if (c->state == CONN_IDLE || c->state == CONN_HEAD || c->state == CONN_LINGER) {
        conn_close(c);
    }
    /* HANDLING, WRITING: a client may end its side and still wait for the answer. */
}

static void on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    struct http_conn *c = stream->data;

    if (c->state == CONN_CLOSED || nread == 0) {
        return;
    }
    if (nread == UV_EOF) {
        conn_eof(c);
    } else if (nread < 0) {
        conn_close(c);
    } else if (c->state != CONN_LINGER) {
        conn_input(c, buf->base, (size_t)nread);
    }
}

static void conn_read(struct http_conn *c)
{
    if (c->reading) {
        return;
    }
    if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0) {
        conn_close(c);
        return;
    }
    c->reading = true;
}

/* Too long at rest, or too slow on average. */
static bool stalled(const struct http_conn *c, uint64_t now_ms)
{
    const struct http_server_config *config = &c->s->config;

    return now_ms - c->moved_ms > config->rest_timeout_ms ||
           now_ms - c->since_ms > config->grace_ms + c->moved_bytes * 1000 / config->rate_bytes;
}

static void sweep_conn(struct http_conn *c, uint64_t now_ms)
{
    const struct http_server *s = c->s;
    uint64_t age_ms = now_ms - c->since_ms;
    size_t queued;

    switch (c->state) {
    case CONN_IDLE:
        if (age_ms > s->config.idle_timeout_ms) {
            conn_close(c);
        }
        break;
    case CONN_HEAD:
        if (age_ms > s->config.head_timeout_ms) {
            conn_refuse(c, 408, "the head did not come in time");
        }
        break;
    case CONN_BODY:
        if (stalled(c, now_ms)) {
            conn_refuse(c, 408, "the body comes too slowly");
        }
        break;
    case CONN_WRITING:
        queued = uv_stream_get_write_queue_size((uv_stream_t *)&c->tcp);
        if (queued + c->moved_bytes < c->out_head.used + c->out_body.used) {
            c->moved_bytes = c->out_head.used + c->out_body.used - queued;
            c->moved_ms = now_ms;
        }
        if (stalled(c, now_ms) || (s->stopped && now_ms - s->closing_since_ms > CLOSING_WRITE_MS)) {
            conn_close(c);
        }
        break;
    case CONN_LINGER:
        if (age_ms > LINGER_MS || (s->stopped && now_ms - s->closing_since_ms > CLOSING_WRITE_MS)) {
            conn_close(c);
        }
        break;
    case CONN_HANDLING:
    case CONN_CLOSED:
    default:
        break;
    }
}

static void on_sweep(uv_timer_t *timer)
{
    struct http_server *s = timer->data;
    uint64_t now_ms = clock_now_ms();
    struct http_conn *next;

    for (struct http_conn *c = s->conns; c != NULL; c = next) {
        next = c->next; /* Connections are only unlinked by their close callback, later. */
        sweep_conn(c, now_ms);
    }
}

static void on_connection(uv_stream_t *stream, int status)
{
    struct http_server *s = stream->data;
    struct http_conn *c;

    if (status != 0 || s->stopped) {
        return;
    }
    c = calloc(1, sizeof *c);
    if (c == NULL) {
        return; /* It stays in the backlog. */
    }
    if (uv_tcp_init(s->config.loop, &c->tcp) != 0) {
        free(c);
        return;
    }
    c->s = s;
    c->tcp.data = c;
    c->next = s->conns;
    c->link = &s->conns;
    if (c->next != NULL) {
        c->next->link = &c->next;
    }
    s->conns = c;
    s->conns_count++;
    if (s->conns_count == 1) {
        uv_timer_start(&s->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
    }
    http_guard_init(&c->guard);
    conn_enter(c, CONN_HEAD); /* The first request is due: an idle one is only kept when it was asked something. */
    if (uv_accept(stream, (uv_stream_t *)&c->tcp) != 0 ||
        s->conns_count > s->config.connections_max + REFUSED_CONNECTIONS_MAX) {
        conn_close(c);
        return;
    }
    uv_tcp_nodelay(&c->tcp, 1);
    if (s->conns_count > s->config.connections_max) {
        conn_refuse(c, 503, "too many connections: try again");
        return;
    }
    conn_read(c);
}

/* --- the server --------------------------------------------------------------------------------------------------- */

static void set_defaults(struct http_server_config *c)
{
    c->connections_max = c->connections_max != 0 ? c->connections_max : 10000;
    c->body_max = c->body_max != 0 ? c->body_max : 64 << 20;
    c->bodies_total_max = c->bodies_total_max != 0 ? c->bodies_total_max : 512 << 20;
    c->head_timeout_ms = c->head_timeout_ms != 0 ? c->head_timeout_ms : 10000;
    c->idle_timeout_ms = c->idle_timeout_ms != 0 ? c->idle_timeout_ms : 75000;
    c->rest_timeout_ms = c->rest_timeout_ms != 0 ? c->rest_timeout_ms : 10000;
    c->grace_ms = c->grace_ms != 0 ? c->grace_ms : 20000;
    c->rate_bytes = c->rate_bytes != 0 ? c->rate_bytes : 16384;
}

static int parse_address(const char *host, uint16_t port, struct sockaddr_storage *address)
{
    if (uv_ip4_addr(host, port, (struct sockaddr_in *)(void *)address) == 0) {
        return 0;
    }
    return uv_ip6_addr(host, port, (struct sockaddr_in6 *)(void *)address) == 0 ? 0 : OTR_INVALID;
}

static int listen_error(int rv)
{
    return rv == UV_EADDRINUSE ? OTR_INUSE : rv == UV_EACCES ? OTR_DENIED : OTR_INVALID;
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct http_server *s = handle->data;

    s->listener_closed = true;
    server_finish(s);
}

static void close_nothing(void *data)
{
    (void)data;
}

int http_server_new(struct http_server **out, const struct http_server_config *config, struct otr_errmsg *msg)
{
    struct http_server *s = calloc(1, sizeof *s);
    struct sockaddr_storage address = {0};
    int rv;

    if (s == NULL) {
        return OTR_NOMEM;
    }
    signal(SIGPIPE, SIG_IGN); /* libuv writes without MSG_NOSIGNAL: a client that goes away must not end the process. */
    s->config = *config;
    set_defaults(&s->config);
    rv = parse_address(config->host, config->port, &address);
    if (rv != 0) {
        otr_errmsg_set(msg, "listen on %s:%u: no numeric IP address", config->host, config->port);
        free(s);
        return rv;
    }
    rv = uv_tcp_init(config->loop, &s->listener);
    assert(rv == 0); /* Neither opens anything yet. */
    rv = uv_timer_init(config->loop, &s->sweep);
    assert(rv == 0);
    s->listener.data = s;
    s->sweep.data = s;
    rv = uv_tcp_bind(&s->listener, (struct sockaddr *)&address, 0);
    if (rv == 0) {
        rv = uv_listen((uv_stream_t *)&s->listener, BACKLOG, on_connection);
    }
    if (rv != 0) {
        otr_errmsg_set(msg, "listen on %s:%u: %s", config->host, config->port, uv_strerror(rv));
        http_server_close(s, close_nothing, NULL);
        return listen_error(rv);
    }
    *out = s;
    return 0;
}

uint16_t http_server_port(const struct http_server *s)
{
    struct sockaddr_storage address;
    int bytes = sizeof address;

    if (uv_tcp_getsockname(&s->listener, (struct sockaddr *)&address, &bytes) != 0) {
        return 0;
    }
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&address)->sin6_port
                                               : ((struct sockaddr_in *)(void *)&address)->sin_port);
}

uint32_t http_server_connections(const struct http_server *s)
{
    return s->conns_count;
}

void http_server_stop(struct http_server *s)
{
    if (s->stopped) {
        return;
    }
    s->stopped = true;
    s->closing_since_ms = clock_now_ms();
    uv_close((uv_handle_t *)&s->listener, on_listener_closed);
    for (struct http_conn *c = s->conns; c != NULL; c = c->next) {
        if (c->state <= CONN_BODY) {
            conn_close(c);
        }
    }
}

void http_server_close(struct http_server *s, void (*cb)(void *data), void *data)
{
    http_server_stop(s);
    s->close_cb = cb;
    s->close_data = data;
    server_finish(s);
}
