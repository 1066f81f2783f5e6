/* Outgoing Seed streams: a queue that asks for more when it runs low, so that no side holds more than a little. */
#include "sidecar/peer/request.h"

#include <stdlib.h>

enum { WEIGHT_SEED = 8, ROOM_BYTES = 1 << 20 };

struct peer_stream {
    struct list node; /* link->seeds */
    struct hub_task task;
    struct peer_link *link;
    struct stream *stream; /* NULL: gone; then done was called, or a task is about to */
    peer_room_cb room;
    peer_reply_cb done;
    void *data;
    ProtobufCMessage *reply;
    bool room_wanted;
    bool canceled;
};

static void run_free(struct hub_task *task)
{
    struct peer_stream *seed = list_item(task, struct peer_stream, task);

    if (seed->reply != NULL) {
        protobuf_c_message_free_unpacked(seed->reply, NULL);
    }
    free(seed);
}

/* Tells the end. The memory stays to the end of the loop turn: the caller may be about to use it. */
static void seed_complete(struct peer_stream *seed, int status, const struct otr_errmsg *msg)
{
    struct peer_hub *hub = seed->link->hub;

    seed->stream = NULL;
    list_remove(&seed->node);
    hub_task_cancel(&seed->task);
    hub_task_init(&seed->task, run_free);
    hub_defer(hub, &seed->task);
    seed->done(seed->data, status, status == 0 ? seed->reply : NULL, msg);
}

static void on_message(struct stream *s, const uint8_t *data, size_t bytes)
{
    struct peer_stream *seed = s->owner;

    if (seed->reply == NULL) {
        seed->reply = protobuf_c_message_unpack(grpc_methods[PEER_SEED].reply, NULL, bytes, data);
    }
    if (seed->reply == NULL) {
        struct otr_errmsg msg;

        otr_errmsg_set(&msg, "the reply of %s cannot be parsed", seed->link->peer);
        stream_reset(s, NGHTTP2_CANCEL);
        seed_complete(seed, OTR_PROTO, &msg);
    }
}

static void on_finished(struct stream *s)
{
    struct peer_stream *seed = s->owner;
    struct otr_errmsg msg = {0};
    int status;

    if (s->out_last && s->out_bytes == 0) {
        return; /* on_closed follows. */
    }
    /* An answer before our last frame: what is left is not wanted. */
    status = request_outcome(seed->link, s, seed->reply != NULL, false, NGHTTP2_NO_ERROR, &msg);
    stream_reset(s, NGHTTP2_NO_ERROR);
    seed_complete(seed, status, &msg);
}

static void on_written(struct stream *s)
{
    struct peer_stream *seed = s->owner;

    if (seed->room_wanted && s->out_bytes < ROOM_BYTES) {
        hub_defer(seed->link->hub, &seed->task);
    }
}

static void on_closed(struct stream *s, bool lost, uint32_t error)
{
    struct peer_stream *seed = s->owner;
    struct otr_errmsg msg = {0};
    int status = request_outcome(seed->link, s, seed->reply != NULL, lost, error, &msg);

    seed_complete(seed, status, &msg);
}

static const struct stream_ops seed_ops = {
    .on_message = on_message,
    .on_finished = on_finished,
    .on_written = on_written,
    .on_closed = on_closed,
};

static void complete_canceled(struct peer_stream *seed)
{
    struct otr_errmsg msg;

    otr_errmsg_set(&msg, "the seed to %s was canceled", seed->link->peer);
    seed_complete(seed, OTR_CANCELED, &msg);
}

void seed_cancel_all(struct peer_link *link)
{
    while (!list_empty(&link->seeds)) {
        complete_canceled(list_item(link->seeds.next, struct peer_stream, node));
    }
}

static void run(struct hub_task *task)
{
    struct peer_stream *seed = list_item(task, struct peer_stream, task);

    if (seed->canceled) {
        complete_canceled(seed);
        return;
    }
    if (seed->room_wanted && seed->stream != NULL && seed->stream->out_bytes < ROOM_BYTES) {
        seed->room_wanted = false;
        seed->room(seed->data, seed);
    }
}

int peer_seed_open(struct peer_link *link, struct peer_stream **stream, peer_room_cb room, peer_reply_cb done,
                   void *data)
{
    struct stream_request request = {
        .method = PEER_SEED, .authority = link->authority, .parent = lane_parent(link), .weight = WEIGHT_SEED};
    struct peer_stream *seed;
    int rv;

    if (!peer_link_up(link)) {
        return OTR_UNREACHABLE;
    }
    seed = calloc(1, sizeof *seed);
    if (seed == NULL) {
        return OTR_NOMEM;
    }
    seed->link = link;
    seed->room = room;
    seed->done = done;
    seed->data = data;
    seed->room_wanted = true;
    hub_task_init(&seed->task, run);
    rv = stream_open(&seed->stream, link->conn, &request, &seed_ops, seed);
    if (rv != 0) {
        free(seed);
        return rv;
    }
    list_push(&link->seeds, &seed->node);
    hub_defer(link->hub, &seed->task);
    *stream = seed;
    return 0;
}

int peer_seed_send(struct peer_stream *seed, const Outrigger__V1__SeedFrame *frame)
{
    struct message *message;
    int rv;

    if (seed->stream == NULL || seed->canceled || seed->stream->out_last) {
        return OTR_UNREACHABLE;
    }
    if (seed->stream->out_bytes >= ROOM_BYTES) {
        seed->room_wanted = true;
        return OTR_BUSY;
    }
    rv = message_pack(&message, &frame->base, SIZE_MAX);
    if (rv != 0) {
        return rv;
    }
    stream_send(seed->stream, message);
    if (seed->stream->out_bytes >= ROOM_BYTES) {
        seed->room_wanted = true;
    }
    return 0;
}

void peer_seed_finish(struct peer_stream *seed)
{
    if (seed->stream != NULL && !seed->canceled) {
        seed->room_wanted = false;
        stream_finish(seed->stream);
    }
}

void peer_seed_cancel(struct peer_stream *seed)
{
    if (seed->stream != NULL && !seed->canceled) {
        seed->canceled = true;
        stream_reset(seed->stream, NGHTTP2_CANCEL);
        seed->stream = NULL;
        hub_defer(seed->link->hub, &seed->task);
    }
}
