/* Bytes pass http_guard before http-parser sees them, and http-parser gets exactly one message at a time. A body of
 * known length is read by the kernel to its final place: http-parser only confirms it. */
#include "sidecar/api/http_internal.h"
#include "sidecar/io/clock.h"

#include <stdlib.h>
#include <string.h>

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
    struct http_call *call = ((struct http_conn *)parser->data)->call;

    if (call->fields_count == HTTP_FIELDS_MAX) {
        call->too_many_fields = true;
        return 1;
    }
    call->fields[call->fields_count++] = (struct http_field){.name = at, .name_bytes = n};
    return 0;
}

static int on_value(http_parser *parser, const char *at, size_t n)
{
    struct http_call *call = ((struct http_conn *)parser->data)->call;
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
    if (http_body_grow(c->s, x, n, c->guard.has_encoding ? c->s->config.body_max : c->guard.length) != 0) {
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
    http_conn_enter(c, HTTP_CONN_HANDLING);
    c->s->config.on_request(c->s->config.data, x);
}

/* The head is complete in call->head. */
static void head_complete(struct http_conn *c, size_t head_bytes)
{
    const struct http_server_config *config = &c->s->config;
    struct http_call *call = c->call;
    size_t parsed;

    http_parser_init(&c->parser, HTTP_REQUEST);
    c->parser.data = c;
    c->complete = false;
    parsed = http_parser_execute(&c->parser, &parser_settings, call->head, head_bytes);
    if (HTTP_PARSER_ERRNO(&c->parser) != HPE_OK || parsed != head_bytes) {
        enum http_errno err = HTTP_PARSER_ERRNO(&c->parser);

        http_conn_refuse(c,
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
        http_conn_refuse(c, 405, "CONNECT is not offered");
        return;
    }
    if (c->guard.has_length && c->guard.length > config->body_max) {
        http_conn_refuse(c, 413, "the body is larger than the limit of 64 MiB");
        return;
    }
    call->x.fields = call->fields;
    call->x.fields_count = call->fields_count;
    if (!c->complete && config->on_head != NULL && !config->on_head(config->data, &call->x)) {
        c->keep_alive = false; /* What still comes of the body is dropped. */
        c->complete = true;
    }
    if (c->complete) {
        conn_dispatch(c);
        return;
    }
    http_conn_enter(c, HTTP_CONN_BODY);
}

/* "100 Continue" to a client that waits for it before it sends the body. */
static void send_continue(struct http_conn *c)
{
    static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
    uv_buf_t buf = uv_buf_init((char *)(uintptr_t)text, sizeof text - 1);
    int rv;

    rv = c->tls != NULL ? http_tls_continue(c, &buf) : uv_try_write((uv_stream_t *)&c->tcp, &buf, 1) - (int)buf.len;
    if (rv != 0) {
        http_conn_close(c); /* 25 bytes do not fit where nothing else waits: the connection is broken. */
    }
}

static int call_begin(struct http_conn *c, const char *more, size_t more_bytes)
{
    struct http_call *call = calloc(1, sizeof *call);
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
    if (c->head_used == 1 && c->head[0] == '\r' && data[0] == '\n') { /* The same in two pieces. */
        free(c->head);
        c->head = NULL;
        c->head_used = 0;
        http_guard_init(&c->guard);
        return 1;
    }
    if (c->state == HTTP_CONN_IDLE) {
        http_conn_enter(c, HTTP_CONN_HEAD);
        c->head_used = 0;
    }
    if (c->head_used != 0) {
        char *grown = realloc(c->head, c->head_used + taken);
        if (grown == NULL) {
            http_conn_close(c);
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
            http_conn_close(c);
            return n;
        }
        head_complete(c, head_bytes);
        if (c->state == HTTP_CONN_BODY && c->guard.expect_continue && c->guard.version_1_1 && more == n) {
            send_continue(c);
        }
        return more;
    }
    if (rv != HTTP_GUARD_MORE) {
        http_conn_refuse(c, rv, c->guard.why);
        return n;
    }
    if (c->head_used + taken == HTTP_HEAD_MAX) {
        http_conn_refuse(c, 431, "the head is larger than 16 KiB");
        return n;
    }
    if (c->head_used == 0) {
        c->head = malloc(taken);
        if (c->head == NULL) {
            http_conn_close(c);
            return n;
        }
        memcpy(c->head, data, taken);
    }
    c->head_used += taken;
    http_conn_idle(c, false);
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
            http_conn_refuse(c, rv, c->guard.why);
            return n;
        }
    } else if (n > c->guard.length - x->body_bytes) {
        taken = (size_t)(c->guard.length - x->body_bytes);
    }
    parsed = http_parser_execute(&c->parser, &parser_settings, data, taken);
    if (HTTP_PARSER_ERRNO(&c->parser) == HPE_CB_body) {
        http_conn_refuse(c, 503, "too many large bodies at once: try again");
        return n;
    }
    if (HTTP_PARSER_ERRNO(&c->parser) != HPE_OK || parsed != taken ||
        (c->guard.has_encoding && c->complete != (rv == HTTP_GUARD_DONE))) {
        http_conn_refuse(c, 400, "malformed body");
        return n;
    }
    c->moved_ms = clock_now_ms();
    c->moved_bytes += taken;
    if (c->complete) {
        conn_dispatch(c);
    }
    return taken;
}

void http_conn_input(struct http_conn *c, const char *data, size_t n)
{
    c->in_input = true;
    while (n > 0 && c->state <= HTTP_CONN_BODY) {
        size_t taken = c->state == HTTP_CONN_BODY ? body_input(c, data, n) : head_input(c, data, n);
        data += taken;
        n -= taken;
    }
    c->in_input = false;
    if (n > 0 && (c->state == HTTP_CONN_HANDLING || c->state == HTTP_CONN_WRITING) && c->keep_alive) {
        size_t old = c->pending != NULL ? c->pending_bytes : 0;
        char *pending = realloc(c->pending, old + n);

        if (pending == NULL) {
            http_conn_close(c);
            return;
        }
        memcpy(pending + old, data, n);
        c->pending = pending;
        c->pending_bytes = old + n;
        uv_read_stop((uv_stream_t *)&c->tcp); /* Enough for now: the rest waits in the kernel. */
        c->reading = false;
    }
}
