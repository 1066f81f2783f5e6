#include "sidecar/peer/stream.h"

#include "sidecar/peer/conn.h"

#include <assert.h>
#include <stdlib.h>

/* --- life --------------------------------------------------------------------------------------------------------- */

struct stream *stream_new(struct conn *conn, int32_t id)
{
    struct stream *s = calloc(1, sizeof *s);

    if (s == NULL) {
        return NULL;
    }
    s->conn = conn;
    s->id = id;
    s->out_end = &s->out_first;
    s->method = -1;
    s->grpc_status = -1;
    list_push(&conn->streams, &s->sibling);
    conn->streams_count++;
    return s;
}

static void queue_drop(struct stream *s)
{
    while (s->out_first != NULL) {
        struct message *next = s->out_first->next;

        message_release(s->out_first);
        s->out_first = next;
    }
    s->out_end = &s->out_first;
    s->out_offset = 0;
    s->conn->out_bytes -= s->out_bytes;
    s->out_bytes = 0;
}

/* Keeps the hub's sum of half-read messages right. */
static void account(struct stream *s)
{
    size_t bytes = s->reader.capacity + s->backlog_capacity;

    s->conn->hub->incoming_bytes += bytes - s->accounted_bytes;
    s->accounted_bytes = bytes;
}

static void backlog_drop(struct stream *s)
{
    free(s->backlog);
    s->backlog = NULL;
    s->backlog_from = s->backlog_to = s->backlog_capacity = 0;
}

static void input_drop(struct stream *s)
{
    grpc_reader_close(&s->reader);
    backlog_drop(s);
    account(s);
}

void stream_detach(struct stream *s)
{
    s->ops = NULL;
    s->owner = NULL;
}

void stream_close(struct stream *s, bool lost, uint32_t error)
{
    const struct stream_ops *ops = s->ops;

    list_remove(&s->sibling);
    s->conn->streams_count--;
    queue_drop(s);
    if (ops != NULL) {
        s->ops = NULL;
        ops->on_closed(s, lost, error);
    }
    input_drop(s);
    free(s->end_text);
    free(s);
}

void stream_reset(struct stream *s, uint32_t error)
{
    stream_detach(s);
    queue_drop(s);
    if (!s->conn->ending && nghttp2_submit_rst_stream(s->conn->session, NGHTTP2_FLAG_NONE, s->id, error) != 0) {
        conn_fail(s->conn, "out of memory");
    }
    conn_touch(s->conn);
}

/* --- headers ------------------------------------------------------------------------------------------------------ */

static bool name_is(const uint8_t *name, size_t bytes, const char *text)
{
    return strlen(text) == bytes && memcmp(name, text, bytes) == 0;
}

static void copy_name(char out[HUB_NAME_BYTES], const uint8_t *value, size_t bytes)
{
    if (bytes < HUB_NAME_BYTES && memchr(value, '\0', bytes) == NULL) {
        memcpy(out, value, bytes);
        out[bytes] = '\0';
    }
}

/* 0 when it is no decimal number of 64 bits. */
static uint64_t parse_u64(const uint8_t *value, size_t bytes)
{
    uint64_t number = 0;

    if (bytes == 0 || bytes > 20) {
        return 0;
    }
    for (size_t i = 0; i < bytes; i++) {
        uint64_t digit = (uint64_t)value[i] - '0';

        if (digit > 9 || number > (UINT64_MAX - digit) / 10) {
            return 0;
        }
        number = number * 10 + digit;
    }
    return number;
}

static void request_header(struct stream *s, const uint8_t *name, size_t name_bytes, const uint8_t *value, size_t bytes)
{
    if (name_is(name, name_bytes, ":method")) {
        s->is_post = name_is(value, bytes, "POST");
    } else if (name_is(name, name_bytes, ":path")) {
        s->method = grpc_method_find((const char *)value, bytes);
    } else if (name_is(name, name_bytes, "content-type")) {
        /* application/grpc, application/grpc+proto, application/grpc;... */
        s->is_grpc = bytes >= 16 && memcmp(value, "application/grpc", 16) == 0 &&
                     (bytes == 16 || value[16] == '+' || value[16] == ';');
    } else if (name_is(name, name_bytes, "grpc-timeout")) {
        s->timeout_bad = !grpc_timeout_parse((const char *)value, bytes, &s->timeout_ms);
        s->timeout_ms = s->timeout_ms > 0 ? s->timeout_ms : 1;
    } else if (name_is(name, name_bytes, "outrigger-cluster")) {
        copy_name(s->cluster, value, bytes);
    } else if (name_is(name, name_bytes, "outrigger-node")) {
        copy_name(s->node, value, bytes);
    } else if (name_is(name, name_bytes, "outrigger-incarnation")) {
        s->incarnation = parse_u64(value, bytes);
    }
}

static void response_header(struct stream *s, const uint8_t *name, size_t name_bytes, const uint8_t *value,
                            size_t bytes)
{
    if (name_is(name, name_bytes, ":status")) {
        s->http_status = (int)(parse_u64(value, bytes) % 1000);
    } else if (name_is(name, name_bytes, "content-type")) {
        s->is_grpc = bytes >= 16 && memcmp(value, "application/grpc", 16) == 0;
    } else if (name_is(name, name_bytes, "grpc-status")) {
        s->grpc_status = bytes > 0 && bytes <= 2 && value[0] >= '0' && value[0] <= '9' ? (int)parse_u64(value, bytes)
                                                                                       : (int)GRPC_UNKNOWN;
    } else if (name_is(name, name_bytes, "grpc-message")) {
        grpc_text_decode(s->grpc_text, sizeof s->grpc_text, (const char *)value, bytes);
    }
}

bool stream_header(struct stream *s, const uint8_t *name, size_t name_bytes, const uint8_t *value, size_t value_bytes)
{
    s->header_bytes += name_bytes + value_bytes + 32; /* as HTTP/2 counts them */
    if (s->header_bytes > STREAM_HEADER_BYTES_MAX) {
        return false;
    }
    if (s->conn->server) {
        request_header(s, name, name_bytes, value, value_bytes);
    } else {
        response_header(s, name, name_bytes, value, value_bytes);
    }
    return true;
}

/* --- receiving ---------------------------------------------------------------------------------------------------- */

/* The window of the stream opens again only for bytes that were used; what waits in the backlog stops the sender. */
static void consume(struct stream *s, size_t bytes)
{
    if (bytes > 0 && nghttp2_session_consume_stream(s->conn->session, s->id, bytes) != 0) {
        conn_fail(s->conn, "out of memory");
    }
    conn_touch(s->conn);
}

static void refuse_input(struct stream *s, int error)
{
    static const char *const texts[] = {
        [OTR_UNSUPPORTED] = "compressed messages are not supported",
        [OTR_TOOBIG] = "message larger than the limit",
        [OTR_PROTO] = "not a gRPC message",
        [OTR_NOMEM] = "out of memory",
    };
    const struct stream_ops *ops = s->ops;

    s->ops = NULL;
    ops->on_closed(s, false, NGHTTP2_INTERNAL_ERROR);
    if (s->conn->server) {
        stream_end(s,
                   error == OTR_UNSUPPORTED                    ? GRPC_UNIMPLEMENTED
                   : error == OTR_TOOBIG || error == OTR_NOMEM ? GRPC_RESOURCE_EXHAUSTED
                                                               : GRPC_INTERNAL,
                   texts[error]);
    } else {
        stream_reset(s, NGHTTP2_INTERNAL_ERROR);
    }
}

/* Feeds the reader until it wants more, somebody pauses or nobody listens. Returns the bytes used. */
static size_t deliver(struct stream *s, const uint8_t *data, size_t bytes)
{
    const uint8_t *at = data;
    size_t left = bytes;

    while (left > 0 && s->ops != NULL && !s->paused) {
        const uint8_t *message;
        size_t message_bytes;
        int rv = grpc_reader_feed(&s->reader, &at, &left, &message, &message_bytes);

        if (rv != 0) {
            refuse_input(s, rv);
            break;
        }
        if (message != NULL) {
            s->ops->on_message(s, message, message_bytes);
            grpc_reader_close(&s->reader); /* Its owner has unpacked it; two copies would be one too many. */
        }
    }
    if (s->ops == NULL) {
        grpc_reader_close(&s->reader);
        return bytes;
    }
    return bytes - left;
}

static void finish_if_drained(struct stream *s)
{
    if (!s->remote_ended || s->finished || s->paused || s->backlog != NULL || s->ops == NULL) {
        return;
    }
    s->finished = true;
    if (grpc_reader_partial(&s->reader)) {
        refuse_input(s, OTR_PROTO);
        return;
    }
    s->ops->on_finished(s);
}

static bool backlog_add(struct stream *s, const uint8_t *data, size_t bytes)
{
    size_t held = s->backlog_to - s->backlog_from;

    if (bytes == 0) {
        return true;
    }
    if (s->backlog_to + bytes > s->backlog_capacity) {
        size_t capacity = (held + bytes) * 2; /* So that moving costs as much as adding, in sum. */
        uint8_t *backlog = malloc(capacity);

        if (backlog == NULL) {
            return false;
        }
        if (held > 0) {
            memcpy(backlog, s->backlog + s->backlog_from, held);
        }
        free(s->backlog);
        s->backlog = backlog;
        s->backlog_capacity = capacity;
        s->backlog_from = 0;
        s->backlog_to = held;
    }
    memcpy(s->backlog + s->backlog_to, data, bytes);
    s->backlog_to += bytes;
    return true;
}

void stream_receive(struct stream *s, const uint8_t *data, size_t bytes)
{
    size_t used;

    /* The window of the connection is not what bounds memory: one paused stream must not stop the others. */
    if (nghttp2_session_consume_connection(s->conn->session, bytes) != 0) {
        conn_fail(s->conn, "out of memory");
    }
    used = s->backlog == NULL ? deliver(s, data, bytes) : 0;
    if (!backlog_add(s, data + used, bytes - used)) {
        refuse_input(s, OTR_NOMEM);
        used = bytes;
    }
    account(s);
    consume(s, used);
    if (s->accountable && s->ops != NULL && s->accounted_bytes > 0 &&
        s->conn->hub->incoming_bytes > HUB_INCOMING_BYTES) {
        const struct stream_ops *ops = s->ops;

        s->ops = NULL;
        ops->on_closed(s, false, NGHTTP2_REFUSED_STREAM);
        input_drop(s);
        stream_reset(s, NGHTTP2_REFUSED_STREAM); /* Tells the caller that nothing was processed. */
    }
}

void stream_remote_ended(struct stream *s)
{
    s->remote_ended = true;
    finish_if_drained(s);
}

void stream_resume(struct stream *s)
{
    size_t used;

    s->paused = false;
    used = deliver(s, s->backlog + s->backlog_from, s->backlog_to - s->backlog_from);
    s->backlog_from += used;
    if (s->backlog_from == s->backlog_to) {
        backlog_drop(s);
    }
    account(s);
    if (!s->conn->ending) {
        consume(s, used);
    }
    finish_if_drained(s);
}

/* --- sending ------------------------------------------------------------------------------------------------------ */

#define NV(name_text, value_text, value_length)                                                     \
    {                                                                                               \
        .name = (uint8_t *)(uintptr_t)(name_text), .value = (uint8_t *)(uintptr_t)(value_text),     \
        .namelen = sizeof(name_text) - 1, .valuelen = (value_length), .flags = NGHTTP2_NV_FLAG_NONE \
    }

static int submit_end(struct stream *s)
{
    char status[8];
    char text[STREAM_TEXT_MAX * 3];
    size_t text_bytes = grpc_text_encode(text, sizeof text, s->end_text != NULL ? s->end_text : "");
    size_t status_bytes = s->end_status < 10 ? 1 : 2;
    nghttp2_nv nv[] = {
        NV(":status", "200", 3),
        NV("content-type", "application/grpc", 16),
        NV("grpc-status", status, status_bytes),
        NV("grpc-message", text, text_bytes),
    };
    size_t count = text_bytes > 0 ? 4 : 3;

    status[0] = (char)('0' + (s->end_status < 10 ? s->end_status : s->end_status / 10));
    status[1] = (char)('0' + s->end_status % 10);
    if (s->responded) {
        return nghttp2_submit_trailer(s->conn->session, s->id, nv + 2, count - 2);
    }
    s->responded = true;
    return nghttp2_submit_response(s->conn->session, s->id, nv, count, NULL);
}

static ssize_t on_read_queue(nghttp2_session *session, int32_t id, uint8_t *buffer, size_t length, uint32_t *flags,
                             nghttp2_data_source *source, void *data)
{
    struct stream *s = source->ptr;
    size_t take = s->out_bytes < length ? s->out_bytes : length;

    (void)session;
    (void)id;
    (void)buffer;
    (void)data;
    if (take == 0 && !s->out_last) {
        s->out_idle = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (s->out_last && take == s->out_bytes) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (s->conn->server) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            if (submit_end(s) != 0) {
                return NGHTTP2_ERR_CALLBACK_FAILURE;
            }
        }
    }
    return (ssize_t)take;
}

int stream_open(struct stream **stream, struct conn *conn, const struct stream_request *request,
                const struct stream_ops *ops, void *owner)
{
    const struct peer_hub *hub = conn->hub;
    const char *path = grpc_methods[request->method].path;
    char timeout[GRPC_TIMEOUT_TEXT_MAX];
    size_t timeout_bytes = grpc_timeout_format(timeout, request->timeout_ms);
    nghttp2_nv nv[] = {
        NV(":method", "POST", 4),
        NV(":scheme", "http", 4),
        NV(":path", path, strlen(path)),
        NV(":authority", request->authority, strlen(request->authority)),
        NV("content-type", "application/grpc", 16),
        NV("te", "trailers", 8),
        NV("outrigger-cluster", hub->cluster, strlen(hub->cluster)),
        NV("outrigger-node", hub->node, strlen(hub->node)),
        NV("outrigger-incarnation", hub->incarnation_text, strlen(hub->incarnation_text)),
        NV("grpc-timeout", timeout, timeout_bytes),
    };
    size_t count = sizeof nv / sizeof nv[0] - (request->timeout_ms == 0 ? 1 : 0);
    nghttp2_priority_spec priority;
    nghttp2_data_provider provider = {.read_callback = on_read_queue};
    struct stream *s;

    if (conn->ending || conn->failed || !conn->started) {
        return OTR_UNREACHABLE;
    }
    s = stream_new(conn, 0);
    if (s == NULL) {
        return OTR_NOMEM;
    }
    nghttp2_priority_spec_init(&priority, request->parent, request->weight, 0);
    provider.source.ptr = s;
    s->id = nghttp2_submit_request(conn->session, &priority, nv, count, &provider, s);
    if (s->id < 0) {
        int rv = s->id == NGHTTP2_ERR_NOMEM ? OTR_NOMEM : OTR_UNREACHABLE;

        conn_fail(conn, "open a stream: %s", nghttp2_strerror(s->id));
        stream_close(s, true, 0);
        return rv;
    }
    s->ops = ops;
    s->owner = owner;
    conn_touch(conn);
    *stream = s;
    return 0;
}

/* Something was added behind what nghttp2 has seen. */
static void wake(struct stream *s)
{
    if (s->out_idle && !s->conn->ending) {
        s->out_idle = false;
        if (nghttp2_session_resume_data(s->conn->session, s->id) == NGHTTP2_ERR_NOMEM) {
            conn_fail(s->conn, "out of memory");
        }
    }
    conn_touch(s->conn);
}

void stream_send(struct stream *s, struct message *message)
{
    assert(!s->out_last);
    message->next = NULL;
    *s->out_end = message;
    s->out_end = &message->next;
    s->out_bytes += message->bytes;
    s->conn->out_bytes += message->bytes;
    wake(s);
}

void stream_finish(struct stream *s)
{
    s->out_last = true;
    wake(s);
}

void stream_respond(struct stream *s)
{
    nghttp2_nv nv[] = {NV(":status", "200", 3), NV("content-type", "application/grpc", 16)};
    nghttp2_data_provider provider = {.source.ptr = s, .read_callback = on_read_queue};

    if (s->responded || s->conn->ending) {
        return;
    }
    s->responded = true;
    if (nghttp2_submit_response(s->conn->session, s->id, nv, 2, &provider) == NGHTTP2_ERR_NOMEM) {
        conn_fail(s->conn, "out of memory");
    }
    conn_touch(s->conn);
}

void stream_end(struct stream *s, int grpc_status, const char *text)
{
    stream_detach(s);
    if (s->conn->ending) {
        return;
    }
    s->end_status = grpc_status;
    free(s->end_text);
    s->end_text = text != NULL && text[0] != '\0' ? strndup(text, STREAM_TEXT_MAX - 1) : NULL;
    s->out_last = true;
    if (!s->responded) {
        if (submit_end(s) == NGHTTP2_ERR_NOMEM) {
            conn_fail(s->conn, "out of memory");
        }
    }
    wake(s);
}
