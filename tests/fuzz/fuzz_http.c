/* HTTP requests: everything that a connection reads, without the socket. The bytes are fed whole and in pieces (bodies
 * also to where the kernel would read them), with answers at once and later: all must see the same requests. This file
 * plays http_conn.c, which the program therefore does not link.
 *
 * Covers: sidecar/api/http_guard.c sidecar/api/http_request.c sidecar/api/url.c */
#include "sidecar/api/http_internal.h"
#include "sidecar/api/url.h"
#include "tests/fuzz/fuzz.h"

struct client {
    struct http_server server;
    struct http_conn conn;
    struct fuzz_log log;
    bool answers_later;
};

/* --- the connection's other half ---------------------------------------------------------------------------------- */

int uv_try_write(uv_stream_t *stream, const uv_buf_t bufs[], unsigned int count)
{
    (void)stream;
    return count == 1 ? (int)bufs[0].len : UV_EINVAL;
}

int http_tls_continue(struct http_conn *c, const uv_buf_t *buf)
{
    (void)c;
    (void)buf;
    FUZZ_CHECK(false && "there is no TLS here");
    return -1;
}

int uv_read_stop(uv_stream_t *stream)
{
    (void)stream;
    return 0;
}

void http_conn_enter(struct http_conn *c, enum http_conn_state state)
{
    c->state = state;
}

void http_conn_idle(struct http_conn *c, bool idle)
{
    (void)c;
    (void)idle;
}

void http_conn_close(struct http_conn *c)
{
    FUZZ_CHECK(c->state != HTTP_CONN_HANDLING);
    http_call_free(c->s, c->call);
    c->call = NULL;
    c->state = HTTP_CONN_CLOSED;
}

void http_conn_refuse(struct http_conn *c, int status, const char *why)
{
    struct client *client = c->s->config.data;

    FUZZ_CHECK(c->state == HTTP_CONN_HEAD || c->state == HTTP_CONN_BODY);
    FUZZ_CHECK(status >= 400 && status <= 599 && why != NULL && why[0] != '\0');
    fuzz_log_add(&client->log, "refused %d %s\n", status, why);
    http_call_free(c->s, c->call);
    c->call = NULL;
    c->state = HTTP_CONN_LINGER;
}

static void answer(struct http_conn *c)
{
    http_call_free(c->s, c->call);
    c->call = NULL;
    if (!c->keep_alive) {
        c->state = HTTP_CONN_LINGER;
        return;
    }
    http_guard_init(&c->guard);
    c->state = HTTP_CONN_IDLE;
}

/* --- requests ----------------------------------------------------------------------------------------------------- */

static void check_field(const struct http_field *f)
{
    FUZZ_CHECK(f->name_bytes > 0);
    for (size_t i = 0; i < f->name_bytes; i++) {
        FUZZ_CHECK((unsigned char)f->name[i] > 0x20 && f->name[i] != ':' && f->name[i] != 0x7F);
    }
    for (size_t i = 0; i < f->value_bytes; i++) {
        FUZZ_CHECK((unsigned char)f->value[i] >= 0x20 || f->value[i] == '\t');
    }
}

/* One framing, and the body that it announces. */
static void check_framing(const struct http_exchange *x)
{
    bool length_twice, encoding_twice;
    const struct http_field *length = http_field_find(x, "content-length", &length_twice);
    const struct http_field *encoding = http_field_find(x, "transfer-encoding", &encoding_twice);
    uint64_t announced = 0;

    FUZZ_CHECK(!length_twice && !encoding_twice && (length == NULL || encoding == NULL));
    for (size_t i = 0; length != NULL && i < length->value_bytes; i++) {
        announced = announced * 10 + (uint64_t)(length->value[i] - '0');
    }
    FUZZ_CHECK(encoding != NULL || x->body_bytes == announced);
    for (size_t i = 0; x->body != NULL && i < HTTP_BODY_SLACK; i++) {
        FUZZ_CHECK(x->body[x->body_bytes + i] == 0);
    }
}

static void check_target(const struct http_exchange *x)
{
    struct otr_errmsg msg = {0};
    struct url url;

    if (url_parse(&url, x->target, x->target_bytes, &msg) != 0) {
        FUZZ_CHECK(msg.text[0] != '\0');
        return;
    }
    for (size_t i = 0; i < url.segments_count && i < URL_SEGMENTS_MAX; i++) {
        FUZZ_CHECK(url.segments[i].text[url.segments[i].bytes] == '\0');
    }
    for (size_t i = 0; i < url.params_count; i++) {
        FUZZ_CHECK(url.params[i].name.text[url.params[i].name.bytes] == '\0');
        FUZZ_CHECK(url.params[i].value.text[url.params[i].value.bytes] == '\0');
    }
    url_close(&url);
}

static void on_request(void *data, struct http_exchange *x)
{
    struct client *client = data;

    fuzz_log_add(&client->log, "%s %zu fields ", x->method, x->fields_count);
    fuzz_log_raw(&client->log, x->target, x->target_bytes);
    for (size_t i = 0; i < x->fields_count; i++) {
        check_field(&x->fields[i]);
        fuzz_log_raw(&client->log, x->fields[i].name, x->fields[i].name_bytes);
        fuzz_log_raw(&client->log, x->fields[i].value, x->fields[i].value_bytes);
    }
    fuzz_log_add(&client->log, "\nbody of %zu, keep alive %d:", x->body_bytes, client->conn.keep_alive);
    fuzz_log_raw(&client->log, x->body, x->body_bytes);
    check_framing(x);
    check_target(x);
    if (!client->answers_later) {
        answer(&client->conn);
    }
}

/* --- bytes -------------------------------------------------------------------------------------------------------- */

static struct client *client_new(bool answers_later)
{
    struct client *client = calloc(1, sizeof *client);

    FUZZ_CHECK(client != NULL);
    client->answers_later = answers_later;
    client->server.config.on_request = on_request;
    client->server.config.data = client;
    client->server.config.body_max = 4096;
    client->server.config.bodies_total_max = 1 << 20;
    client->conn.s = &client->server;
    http_guard_init(&client->conn.guard);
    return client;
}

static void client_free(struct client *client)
{
    struct http_conn *c = &client->conn;

    http_call_free(c->s, c->call);
    free(c->head);
    free(c->pending);
    FUZZ_CHECK(client->server.bodies_total == 0);
    free(client);
}

/* Answers what waits and feeds what came meanwhile, until nothing waits. */
static void answer_all(struct http_conn *c)
{
    while (c->state == HTTP_CONN_HANDLING) {
        char *pending = c->pending;

        answer(c);
        c->pending = NULL;
        if (pending != NULL && c->state == HTTP_CONN_IDLE) {
            http_conn_input(c, pending, c->pending_bytes);
        }
        free(pending);
    }
}

/* As on_alloc and on_read of http_conn.c: a body of known length goes to its place. Returns how many bytes went. */
static size_t feed(struct http_conn *c, const uint8_t *data, size_t bytes)
{
    struct http_exchange *x = c->call != NULL ? &c->call->x : NULL;
    char *copy;

    if (c->state == HTTP_CONN_BODY && !c->guard.has_encoding && x->body != NULL) {
        size_t room;

        FUZZ_CHECK(http_body_grow(c->s, x, 1, c->guard.length) == 0);
        room = http_body_capacity(x) - x->body_bytes;
        bytes = bytes < room ? bytes : room;
        FUZZ_CHECK(bytes > 0);
        memcpy(x->body + x->body_bytes, data, bytes);
        http_conn_input(c, x->body + x->body_bytes, bytes);
        return bytes;
    }
    copy = fuzz_copy(data, bytes, 0);
    http_conn_input(c, copy, bytes);
    free(copy);
    return bytes;
}

static struct fuzz_log run(const uint8_t *data, size_t bytes, bool whole, bool answers_later)
{
    struct client *client = client_new(answers_later);
    struct http_conn *c = &client->conn;
    uint64_t random = fuzz_seed(data, bytes);
    struct fuzz_log log;
    size_t at = 0;

    while (at < bytes && c->state <= HTTP_CONN_BODY) {
        at += feed(c, data + at, whole ? bytes - at : fuzz_piece(&random, bytes - at));
        answer_all(c);
    }
    FUZZ_CHECK(c->state != HTTP_CONN_CLOSED);
    fuzz_log_add(&client->log, "in the end: %s\n", c->state == HTTP_CONN_LINGER ? "closing" : "open");
    log = client->log;
    client_free(client);
    return log;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct fuzz_log whole = run(data, bytes, true, false);
    struct fuzz_log pieces = run(data, bytes, false, true);

    fuzz_log_same(&whole, &pieces, "the requests depend on how their bytes arrive");
    return 0;
}
