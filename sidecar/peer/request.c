#include "sidecar/peer/request.h"

#include <stdlib.h>

enum {
    WEIGHT_REQUEST = 128,
    QUEUED_BYTES_MAX = 64 << 20, /* of requests of one link that wait for the socket; one larger may be alone */
    REQUESTS_MAX = 16384,
};

struct request {
    struct list node; /* link->requests */
    struct hub_task task;
    struct peer_hub *hub; /* outlives the link, as the timer does */
    struct peer_link *link;
    struct stream *stream; /* NULL: gone */
    enum peer_method method;
    size_t bytes;  /* packed */
    size_t queued; /* of link->request_bytes */
    peer_reply_cb cb;
    void *data;
    ProtobufCMessage *reply;
    uint32_t timeout_ms;
    uv_timer_t timer;
    bool timer_set;
    int failed; /* for run_failed */
    const char *failed_text;
};

static void on_timer_closed(uv_handle_t *handle)
{
    struct request *r = handle->data;
    struct peer_hub *hub = r->hub;

    free(r);
    hub_handle_closed(hub);
}

static void request_free(struct request *r)
{
    list_remove(&r->node);
    hub_task_cancel(&r->task);
    r->link->request_bytes -= r->queued;
    r->link->requests_count--;
    if (r->reply != NULL) {
        protobuf_c_message_free_unpacked(r->reply, NULL);
    }
    if (r->timer_set) {
        uv_close((uv_handle_t *)&r->timer, on_timer_closed);
    } else {
        free(r);
    }
}

static void request_complete(struct request *r, int status, const struct otr_errmsg *msg)
{
    peer_reply_cb cb = r->cb;

    list_remove(&r->node);
    cb(r->data, status, status == 0 ? r->reply : NULL, msg);
    request_free(r);
}

/* An explicit refusal says that nothing was done, but for these: their senders may have begun. */
static int status_from_grpc(int grpc_status)
{
    switch (grpc_status) {
    case GRPC_CANCELLED:
    case GRPC_UNKNOWN:
    case GRPC_DEADLINE_EXCEEDED:
    case GRPC_INTERNAL:
    case GRPC_UNAVAILABLE:
        return OTR_UNKNOWN;
    default:
        return OTR_PROTO;
    }
}

int request_outcome(const struct peer_link *link, const struct stream *s, bool replied, bool lost, uint32_t error,
                    struct otr_errmsg *msg)
{
    if (s->grpc_status == GRPC_OK && replied) {
        return 0;
    }
    if (s->grpc_status > GRPC_OK) {
        otr_errmsg_set(msg, "%s answers gRPC status %d: %s", link->peer, s->grpc_status, s->grpc_text);
        return status_from_grpc(s->grpc_status);
    }
    if (link->close_wanted || link->hub->closing) {
        otr_errmsg_set(msg, "the link to %s was closed", link->peer);
        return OTR_CANCELED;
    }
    if (!s->exposed || (!lost && error == NGHTTP2_REFUSED_STREAM)) {
        otr_errmsg_set(msg, "%s %s", link->peer, lost ? "cannot be reached" : "refuses more calls just now");
        return OTR_UNREACHABLE;
    }
    if (lost) {
        otr_errmsg_set(msg, "connection to %s lost: %s", link->peer, s->conn->why.text);
        return OTR_UNKNOWN;
    }
    if (s->grpc_status == GRPC_OK || error == NGHTTP2_INTERNAL_ERROR || error == NGHTTP2_NO_ERROR) {
        otr_errmsg_set(msg, "malformed answer of %s (HTTP status %d)", link->peer, s->http_status);
        return OTR_PROTO;
    }
    otr_errmsg_set(msg, "%s broke off the call: %s", link->peer, nghttp2_http2_strerror(error));
    return OTR_UNKNOWN;
}

static void on_message(struct stream *s, const uint8_t *data, size_t bytes)
{
    struct request *r = s->owner;

    if (r->reply == NULL) {
        r->reply = protobuf_c_message_unpack(grpc_methods[r->method].reply, NULL, bytes, data);
    }
    if (r->reply == NULL) {
        struct otr_errmsg msg;

        otr_errmsg_set(&msg, "the reply of %s cannot be parsed", r->link->peer);
        stream_reset(s, NGHTTP2_CANCEL);
        request_complete(r, OTR_PROTO, &msg);
    }
}

static void on_finished(struct stream *s)
{
    (void)s; /* on_closed follows, with the status. */
}

static void on_written(struct stream *s)
{
    struct request *r = s->owner;

    r->link->request_bytes -= r->queued - s->out_bytes;
    r->queued = s->out_bytes;
}

static void on_closed(struct stream *s, bool lost, uint32_t error)
{
    struct request *r = s->owner;
    struct otr_errmsg msg = {0};
    int status = request_outcome(r->link, s, r->reply != NULL, lost, error, &msg);

    r->stream = NULL;
    request_complete(r, status, &msg);
}

static const struct stream_ops request_ops = {
    .on_message = on_message,
    .on_finished = on_finished,
    .on_written = on_written,
    .on_closed = on_closed,
};

static void on_timeout(uv_timer_t *timer)
{
    struct request *r = timer->data;
    struct otr_errmsg msg;
    int status = r->stream->exposed ? OTR_UNKNOWN : OTR_UNREACHABLE;

    otr_errmsg_set(&msg, "no answer of %s within %u ms", r->link->peer, r->timeout_ms);
    stream_reset(r->stream, NGHTTP2_CANCEL); /* Before its turn came, it will not be sent at all. */
    request_complete(r, status, &msg);
}

static void run_failed(struct hub_task *task)
{
    struct request *r = list_item(task, struct request, task);
    struct otr_errmsg msg;

    otr_errmsg_set(&msg, "%s %s", r->link->peer, r->failed_text);
    request_complete(r, r->failed, &msg);
}

void request_cancel_all(struct peer_link *link)
{
    while (!list_empty(&link->requests)) {
        struct request *r = list_item(link->requests.next, struct request, node);
        struct otr_errmsg msg;

        otr_errmsg_set(&msg, "the link to %s was closed", link->peer);
        request_complete(r, OTR_CANCELED, &msg);
    }
}

static int request_submit(struct request *r, struct message *message)
{
    struct peer_link *link = r->link;
    struct stream_request request = {
        .method = r->method,
        .authority = link->authority,
        .timeout_ms = r->timeout_ms,
        .parent = lane_parent(link),
        .weight = WEIGHT_REQUEST,
    };
    int rv = stream_open(&r->stream, link->conn, &request, &request_ops, r);

    if (rv != 0) {
        message_release(message);
        return rv;
    }
    r->queued = message->bytes;
    link->request_bytes += r->queued;
    stream_send(r->stream, message);
    stream_finish(r->stream);
    if (r->timeout_ms > 0 && uv_timer_init(link->hub->config.loop, &r->timer) == 0) {
        hub_handle_opened(link->hub);
        r->timer_set = true;
        r->timer.data = r;
        uv_timer_start(&r->timer, on_timeout, r->timeout_ms, 0);
    }
    return 0;
}

static void fail_later(struct request *r, int status, const char *text)
{
    r->failed = status;
    r->failed_text = text;
    hub_defer(r->link->hub, &r->task);
}

int request_start(struct peer_link *link, struct conn *conn, enum peer_method method, const ProtobufCMessage *content,
                  uint32_t timeout_ms, peer_reply_cb cb, void *data)
{
    size_t room = link->request_bytes == 0                 ? SIZE_MAX
                  : link->request_bytes < QUEUED_BYTES_MAX ? QUEUED_BYTES_MAX - link->request_bytes
                                                           : 0;
    struct request *r;
    struct message *message;
    int rv;

    if (conn != NULL) {
        rv = message_pack(&message, content, link->requests_count < REQUESTS_MAX ? room : 0);
        if (rv == OTR_TOOBIG || rv == OTR_NOMEM) {
            return rv;
        }
    } else {
        rv = OTR_UNREACHABLE;
    }
    r = calloc(1, sizeof *r);
    if (r == NULL) {
        if (rv == 0) {
            message_release(message);
        }
        return OTR_NOMEM;
    }
    hub_task_init(&r->task, run_failed);
    r->hub = link->hub;
    r->link = link;
    r->method = method;
    r->timeout_ms = timeout_ms;
    r->cb = cb;
    r->data = data;
    list_push(&link->requests, &r->node);
    link->requests_count++;
    if (rv == 0) {
        rv = request_submit(r, message);
    }
    if (rv != 0) {
        fail_later(r, OTR_UNREACHABLE, rv == OTR_BUSY ? "has too many calls queued" : "is not connected");
    }
    return 0;
}

int peer_link_call(struct peer_link *link, enum peer_method method, const ProtobufCMessage *request,
                   uint32_t timeout_ms, peer_reply_cb cb, void *data)
{
    /* Only Hello goes before UP. */
    return request_start(link, peer_link_up(link) ? link->conn : NULL, method, request, timeout_ms, cb, data);
}

void peer_link_calls(const struct peer_link *link, uint64_t *calls, uint64_t *queued_bytes)
{
    *calls = link->requests_count;
    *queued_bytes = link->request_bytes;
}
