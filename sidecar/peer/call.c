#include "sidecar/peer/call.h"

#include "sidecar/io/log.h"
#include "sidecar/peer/public.h"

#include <inttypes.h>
#include <stdlib.h>

enum { SEED_WINDOW = 4 << 20 };

/* Belongs to its stream until it was handed to on_call or on_seed; from then on to the handler, until answered (or, a
 * Seed, until told that it broke off). A call whose stream is gone is answered into the void. */
struct peer_call {
    struct list node; /* hub->calls */
    struct hub_task task;
    struct peer_hub *hub;  /* NULL: closed */
    struct stream *stream; /* NULL: gone, or answered */
    enum peer_method method;
    struct peer_from from;
    char node_name[HUB_NAME_BYTES];
    void *data;
    ProtobufCMessage *request;
    size_t held_bytes; /* of hub->incoming_bytes */
    uv_timer_t deadline;
    bool deadline_set;
    bool handed_over;
    bool next_wanted; /* Seed */
    bool end_seen;    /* Seed: the frame that ends it was delivered */
    bool disposed;
};

/* --- life --------------------------------------------------------------------------------------------------------- */

static void call_free(struct peer_call *call)
{
    if (call->request != NULL) {
        protobuf_c_message_free_unpacked(call->request, NULL);
    }
    free(call);
}

static void on_deadline_closed(uv_handle_t *handle)
{
    struct peer_call *call = handle->data;
    struct peer_hub *hub = call->hub;

    call->deadline_set = false;
    if (call->disposed) {
        call_free(call);
    }
    hub_handle_closed(hub);
}

static void run_free(struct hub_task *task)
{
    call_free(list_item(task, struct peer_call, task));
}

static void deadline_stop(struct peer_call *call)
{
    if (call->deadline_set && !uv_is_closing((uv_handle_t *)&call->deadline)) {
        uv_close((uv_handle_t *)&call->deadline, on_deadline_closed);
    }
}

/* Frees it at the end of the loop turn: who answers may still look at the request and at `from`. */
static void call_dispose(struct peer_call *call)
{
    call->disposed = true;
    call->stream = NULL;
    if (call->hub == NULL) {
        call_free(call);
        return;
    }
    list_remove(&call->node);
    call->hub->incoming_bytes -= call->held_bytes;
    call->held_bytes = 0;
    hub_task_cancel(&call->task);
    if (call->deadline_set) {
        deadline_stop(call); /* Its callback frees. */
    } else {
        hub_task_init(&call->task, run_free);
        hub_defer(call->hub, &call->task);
    }
}

void call_orphan_all(struct peer_hub *hub)
{
    while (!list_empty(&hub->calls)) {
        struct peer_call *call = list_item(hub->calls.next, struct peer_call, node);

        list_remove(&call->node);
        call->hub = NULL;
    }
}

/* The stream is gone, and nobody will hear an answer. */
static void call_broken_off(struct peer_call *call)
{
    call->stream = NULL;
    if (!call->handed_over) {
        call_dispose(call);
        return;
    }
    if (call->method == PEER_SEED) {
        call->hub->config.handlers.on_seed(call->hub->config.data, call, &call->from, NULL);
        call_dispose(call);
        return;
    }
    deadline_stop(call); /* A unary call: the handler still holds it. */
}

static void call_refuse(struct peer_call *call, int grpc_status, const char *text)
{
    struct stream *s = call->stream;

    stream_end(s, grpc_status, text);
    call_broken_off(call);
}

static void on_deadline(uv_timer_t *timer)
{
    call_refuse(timer->data, GRPC_DEADLINE_EXCEEDED, "the caller's time is over");
}

/* --- answers ------------------------------------------------------------------------------------------------------ */

void peer_call_reply(struct peer_call *call, const ProtobufCMessage *reply)
{
    struct stream *s = call->stream;
    struct message *message;
    int rv;

    if (s != NULL) {
        rv = s->conn->out_bytes < CONN_REPLY_BYTES ? message_pack(&message, reply, SIZE_MAX) : OTR_BUSY;
        if (rv != 0) {
            stream_end(s, GRPC_INTERNAL,
                       rv == OTR_TOOBIG ? "the reply is too large"
                       : rv == OTR_BUSY ? "too many replies wait to be read"
                                        : "out of memory");
        } else {
            stream_respond(s);
            stream_send(s, message);
            stream_end(s, GRPC_OK, NULL);
        }
    }
    call_dispose(call);
}

void peer_call_fail(struct peer_call *call, int grpc_status, const char *message)
{
    if (call->stream != NULL) {
        stream_end(call->stream, grpc_status, message);
    }
    call_dispose(call);
}

void peer_call_set_data(struct peer_call *call, void *data)
{
    call->data = data;
}

void *peer_call_data(const struct peer_call *call)
{
    return call->data;
}

static void hello_answer(struct peer_call *call)
{
    const struct peer_hub *hub = call->hub;
    Outrigger__V1__HelloReply reply = OUTRIGGER__V1__HELLO_REPLY__INIT;

    reply.cluster = (char *)(uintptr_t)hub->cluster;
    reply.node = (char *)(uintptr_t)hub->node;
    reply.incarnation = hub->config.incarnation;
    reply.version = (char *)(uintptr_t)hub->version;
    reply.encodings = hub->config.encodings;
    peer_call_reply(call, &reply.base);
}

/* --- lanes -------------------------------------------------------------------------------------------------------- */

static void lane_message(struct stream *s, const uint8_t *data, size_t bytes)
{
    struct peer_call *call = s->owner;
    const struct peer_handlers *handlers = &call->hub->config.handlers;
    ProtobufCMessage *frame = protobuf_c_message_unpack(grpc_methods[call->method].request, NULL, bytes, data);

    if (frame == NULL) {
        call_refuse(call, GRPC_INVALID_ARGUMENT, "the message cannot be parsed");
        return;
    }
    if (call->hub->closing) {
        ;
    } else if (call->method == PEER_REPLICATE) {
        handlers->on_replicate(call->hub->config.data, &call->from, (Outrigger__V1__ReplicateFrame *)frame);
    } else {
        handlers->on_beacon(call->hub->config.data, &call->from, (Outrigger__V1__BeaconFrame *)frame);
    }
    protobuf_c_message_free_unpacked(frame, NULL);
}

static void lane_finished(struct stream *s)
{
    call_refuse(s->owner, GRPC_OK, NULL);
}

static void call_closed(struct stream *s, bool lost, uint32_t error)
{
    (void)lost;
    (void)error;
    call_broken_off(s->owner);
}

static const struct stream_ops lane_ops = {
    .on_message = lane_message,
    .on_finished = lane_finished,
    .on_closed = call_closed,
};

/* --- unary calls -------------------------------------------------------------------------------------------------- */

static void unary_message(struct stream *s, const uint8_t *data, size_t bytes)
{
    struct peer_call *call = s->owner;

    if (call->request != NULL) {
        call_refuse(call, GRPC_INVALID_ARGUMENT, "more than one message");
        return;
    }
    call->request = protobuf_c_message_unpack(grpc_methods[call->method].request, NULL, bytes, data);
    if (call->request == NULL) {
        call_refuse(call, GRPC_INVALID_ARGUMENT, "the message cannot be parsed");
        return;
    }
    call->held_bytes = bytes;
    call->hub->incoming_bytes += bytes;
}

static void unary_finished(struct stream *s)
{
    struct peer_call *call = s->owner;

    if (call->request == NULL) {
        call_refuse(call, GRPC_INVALID_ARGUMENT, "no message");
        return;
    }
    call->handed_over = true;
    if (call->method == PEER_HELLO) {
        hello_answer(call);
        return;
    }
    if (call->hub->closing) {
        peer_call_fail(call, GRPC_UNAVAILABLE, "closing");
        return;
    }
    call->hub->config.handlers.on_call(call->hub->config.data, call, call->method, &call->from, call->request);
}

static const struct stream_ops unary_ops = {
    .on_message = unary_message,
    .on_finished = unary_finished,
    .on_closed = call_closed,
};

/* --- seeds -------------------------------------------------------------------------------------------------------- */

static void seed_message(struct stream *s, const uint8_t *data, size_t bytes)
{
    struct peer_call *call = s->owner;
    Outrigger__V1__SeedFrame *frame;

    frame = (Outrigger__V1__SeedFrame *)protobuf_c_message_unpack(grpc_methods[PEER_SEED].request, NULL, bytes, data);
    if (frame == NULL) {
        call_refuse(call, GRPC_INVALID_ARGUMENT, "the message cannot be parsed");
        return;
    }
    if (call->hub->closing) {
        call_refuse(call, GRPC_UNAVAILABLE, "closing");
    } else {
        s->paused = true; /* Until peer_call_next. */
        call->handed_over = true;
        call->end_seen = frame->end != NULL;
        call->hub->config.handlers.on_seed(call->hub->config.data, call, &call->from, frame);
    }
    protobuf_c_message_free_unpacked(&frame->base, NULL);
}

static void seed_finished(struct stream *s)
{
    struct peer_call *call = s->owner;

    if (!call->end_seen) {
        call_refuse(call, GRPC_INVALID_ARGUMENT, "the stream ends without its last frame");
    }
}

static const struct stream_ops seed_ops = {
    .on_message = seed_message,
    .on_finished = seed_finished,
    .on_closed = call_closed,
};

static void run_next(struct hub_task *task)
{
    struct peer_call *call = list_item(task, struct peer_call, task);

    if (call->next_wanted && call->stream != NULL) {
        call->next_wanted = false;
        stream_resume(call->stream);
    }
}

void peer_call_next(struct peer_call *call)
{
    if (call->hub != NULL && call->stream != NULL) {
        call->next_wanted = true;
        hub_defer(call->hub, &call->task);
    }
}

/* --- who may call ------------------------------------------------------------------------------------------------- */

/* Under TLS a caller is who its certificate says, whatever its metadata claim. */
static bool caller_is_certified(struct conn *c, const struct stream *s)
{
    const struct tls_name *name;

    if (c->tls == NULL) {
        return true;
    }
    name = tls_session_name(c->tls); /* Of our cluster, as checked in the handshake. */
    if (name != NULL && strcmp(name->name, s->node) == 0) {
        return true;
    }
    c->hub->callers_refused++;
    LOG_LIMITED(LOG_WARN, "peer", "refuse a call from %s: it says it is %s, its certificate says it is %s", c->remote,
                s->node, name != NULL ? name->name : "nobody");
    return false;
}

/* NULL, or why not. PROTOCOL E5: nobody else may use our name; and clusters do not mix. */
static const char *caller_check(struct conn *c, const struct stream *s)
{
    struct peer_hub *hub = c->hub;
    struct peer_from from = {.node = s->node, .incarnation = s->incarnation};

    if (s->cluster[0] == '\0' || s->node[0] == '\0' || s->incarnation == 0) {
        return "metadata outrigger-cluster, outrigger-node and outrigger-incarnation are needed";
    }
    if (!caller_is_certified(c, s)) {
        return "the certificate is of another node than the one that calls";
    }
    if (strcmp(s->cluster, hub->cluster) != 0) {
        LOG_LIMITED(LOG_WARN, "peer", "refuse %s from %s: it is of cluster %s, ours is %s", s->node, c->remote,
                    s->cluster, hub->cluster);
        hub->config.handlers.on_intruder(hub->config.data, &from, s->cluster);
        return "this is another cluster";
    }
    if (strcmp(s->node, hub->node) == 0) {
        if (s->incarnation != hub->config.incarnation) {
            LOG_LIMITED(LOG_ERROR, "peer",
                        "refuse %s from %s: it has our name and incarnation %" PRIu64 ", ours is %" PRIu64, s->node,
                        c->remote, s->incarnation, hub->config.incarnation);
            hub->config.handlers.on_intruder(hub->config.data, &from, s->cluster);
        }
        return "that is my own name";
    }
    return NULL;
}

/* Is it well-formed, and a method that there is? */
static bool call_sound(struct conn *c, struct stream *s)
{
    if (c->hub->closing) {
        stream_reset(s, NGHTTP2_REFUSED_STREAM);
        return false;
    }
    if (!s->is_post || !s->is_grpc) {
        stream_end(s, GRPC_INTERNAL, "not a gRPC request: POST and content-type application/grpc are needed");
        return false;
    }
    if (s->method < 0) {
        stream_end(s, GRPC_UNIMPLEMENTED, "no such method");
        return false;
    }
    if (s->timeout_bad) {
        stream_end(s, GRPC_INTERNAL, "malformed grpc-timeout");
        return false;
    }
    return true;
}

void call_begin(struct conn *c, struct stream *s)
{
    struct peer_call *call;
    const char *why;

    if (!call_sound(c, s)) {
        return;
    }
    if (s->method >= PEER_HEALTH_CHECK) {
        public_begin(c, s);
        return;
    }
    why = caller_check(c, s);
    if (why != NULL) {
        stream_end(s, GRPC_FAILED_PRECONDITION, why);
        return;
    }
    call = calloc(1, sizeof *call);
    if (call == NULL) {
        stream_end(s, GRPC_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    hub_task_init(&call->task, run_next);
    call->hub = c->hub;
    call->stream = s;
    call->method = (enum peer_method)s->method;
    memcpy(call->node_name, s->node, sizeof call->node_name);
    call->from = (struct peer_from){.node = call->node_name, .incarnation = s->incarnation};
    list_push(&c->hub->calls, &call->node);
    s->owner = call;
    if (call->method == PEER_REPLICATE || call->method == PEER_BEACON) {
        s->ops = &lane_ops;
        stream_respond(s);
        return;
    }
    s->accountable = call->method != PEER_HELLO;
    if (call->method == PEER_SEED) {
        s->ops = &seed_ops;
        nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, s->id, SEED_WINDOW);
    } else {
        s->ops = &unary_ops;
    }
    if (s->timeout_ms > 0 && uv_timer_init(c->hub->config.loop, &call->deadline) == 0) {
        hub_handle_opened(c->hub);
        call->deadline_set = true;
        call->deadline.data = call;
        uv_timer_start(&call->deadline, on_deadline, s->timeout_ms, 0);
    }
}
