/* Lanes: the two streams of one-way messages of an UP link. Beacon is the parent of every other stream in HTTP/2's
 * priority tree: nghttp2 sends of the children only while the parent has nothing to send. */
#include "sidecar/peer/link.h"

#include <assert.h>

enum { WEIGHT_LANE = 128, DRAIN_BYTES = PEER_LANE_BYTES / 2 };

static const enum peer_method lane_methods[LINK_LANES] = {
    [PEER_LANE_REPLICATE] = PEER_REPLICATE,
    [PEER_LANE_BEACON] = PEER_BEACON,
};

static struct lane *lane_of(struct peer_link *link, const struct stream *s)
{
    for (unsigned i = 0; i < LINK_LANES; i++) {
        if (link->lanes[i].stream == s) {
            return &link->lanes[i];
        }
    }
    assert(false && "a lane's stream belongs to a lane");
    return NULL;
}

static void lane_message(struct stream *s, const uint8_t *data, size_t bytes)
{
    /* Empty: reserved for later versions. */
    (void)s;
    (void)data;
    (void)bytes;
}

static void lane_finished(struct stream *s)
{
    (void)s; /* on_closed follows. */
}

static void lane_written(struct stream *s)
{
    struct peer_link *link = s->owner;

    if (lane_of(link, s)->busy && s->out_bytes <= lane_of(link, s)->drain_bytes) {
        hub_defer(link->hub, &link->task);
    }
}

static void lane_closed(struct stream *s, bool lost, uint32_t error)
{
    struct peer_link *link = s->owner;
    struct lane *lane = lane_of(link, s);

    lane->stream = NULL;
    lane->busy = false;
    if (!lost && link->conn != NULL) {
        /* A link without its lanes is of no use: dial anew. */
        conn_fail(link->conn, "the peer ended a lane (grpc-status %d %s, HTTP/2 error %u)", s->grpc_status,
                  s->grpc_text, error);
    }
}

static const struct stream_ops lane_ops = {
    .on_message = lane_message,
    .on_finished = lane_finished,
    .on_written = lane_written,
    .on_closed = lane_closed,
};

int lane_open_all(struct peer_link *link)
{
    struct stream_request beacon = {
        .method = PEER_BEACON, .authority = link->authority, .parent = 0, .weight = NGHTTP2_MAX_WEIGHT};
    struct stream_request replicate = {.method = PEER_REPLICATE, .authority = link->authority, .weight = WEIGHT_LANE};
    int rv;

    rv = stream_open(&link->lanes[PEER_LANE_BEACON].stream, link->conn, &beacon, &lane_ops, link);
    if (rv != 0) {
        return rv;
    }
    replicate.parent = link->lanes[PEER_LANE_BEACON].stream->id;
    return stream_open(&link->lanes[PEER_LANE_REPLICATE].stream, link->conn, &replicate, &lane_ops, link);
}

int32_t lane_parent(const struct peer_link *link)
{
    return link->lanes[PEER_LANE_BEACON].stream != NULL ? link->lanes[PEER_LANE_BEACON].stream->id : 0;
}

void lane_run_drain(struct peer_link *link)
{
    for (unsigned i = 0; i < LINK_LANES; i++) {
        struct lane *lane = &link->lanes[i];

        if (lane->busy && lane->stream != NULL && lane->stream->out_bytes <= lane->drain_bytes && peer_link_up(link)) {
            lane->busy = false;
            link->hub->config.handlers.on_drain(link->hub->config.data, link, (enum peer_lane)i);
        }
    }
}

int peer_link_send(struct peer_link *link, enum peer_lane lane, const ProtobufCMessage *frame)
{
    struct stream *s = link->lanes[lane].stream;
    struct message *message;
    size_t room;
    int rv;

    assert(frame->descriptor == grpc_methods[lane_methods[lane]].request);
    if (!peer_link_up(link) || s == NULL) {
        return OTR_UNREACHABLE;
    }
    /* One message larger than the bound may be alone in the queue; else it could never be sent. */
    room = s->out_bytes == 0 ? SIZE_MAX : s->out_bytes < PEER_LANE_BYTES ? PEER_LANE_BYTES - s->out_bytes : 0;
    rv = message_pack(&message, frame, room);
    if (rv == OTR_BUSY) {
        size_t bytes = protobuf_c_message_get_packed_size(frame);
        size_t fits = bytes < PEER_LANE_BYTES ? PEER_LANE_BYTES - bytes : 0;

        link->lanes[lane].busy = true;
        link->lanes[lane].drain_bytes = fits < DRAIN_BYTES ? fits : DRAIN_BYTES;
    }
    if (rv != 0) {
        return rv;
    }
    stream_send(s, message);
    return 0;
}

size_t peer_link_queued(const struct peer_link *link, enum peer_lane lane)
{
    const struct stream *s = link->lanes[lane].stream;

    return s != NULL ? s->out_bytes : 0;
}
