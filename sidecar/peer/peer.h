/* gRPC between sidecars: nghttp2 for the frames, protobuf-c for the messages of outrigger.proto, libuv for the sockets.
 *
 * A hub listens and holds one outgoing link per peer. A link dials for ever: at once when told the address, then after
 * 50 ms doubling to 1 s (a refused connection is tried again after 50 ms, for refusals are evidence). When its
 * connection is up it says Hello; UP is reported when the answer names the expected cluster and node. Two streams
 * (Replicate, Beacon) carry one-way messages to the peer; unary calls and Seed go beside them on the same connection.
 *
 * Bounds: a lane's queue takes PEER_LANE_BYTES; what is more is refused with OTR_BUSY until on_drain. An incoming
 * message is at most PEER_MESSAGE_MAX. An unread stream stops the sender by HTTP/2 flow control. Liveness: HTTP/2 PING
 * every second when nothing else moves; a link without answer for 3 s is DOWN (never REFUSED). Loop thread only.
 *
 * With certificates all connections are mutual TLS. Each side refuses, before any message, a certificate that is not of
 * our CA, out of its dates or for another purpose, and one that does not speak for a node of this cluster
 * (outrigger://CLUSTER/node/NAME): the dialling side wants the very name that it dials, the accepting side refuses
 * calls that claim another name than the certificate's. A refusal is DOWN with words, never REFUSED: it is no evidence
 * that anybody is dead (PROTOCOL V2), for whoever answers there is not shown to be the peer. Callbacks never come from
 * inside the call that caused them. */
#ifndef OUTRIGGER_PEER_PEER_H
#define OUTRIGGER_PEER_PEER_H

#include "outrigger/err.h"
#include "outrigger/types.h"
#include "sidecar/io/tls.h"

#include "outrigger.pb-c.h"

#include <uv.h>

enum {
    PEER_LANE_BYTES = 16 << 20,
    PEER_MESSAGE_MAX = (64 << 20) + (1 << 20),
};

struct peer_hub;
struct peer_link;   /* outgoing, to one peer */
struct peer_call;   /* an incoming unary call or Seed stream, to be answered once */
struct peer_stream; /* an outgoing Seed stream */

enum peer_method {
    PEER_HELLO,
    PEER_REPLICATE,
    PEER_BEACON,
    PEER_SEED,
    PEER_FORWARD,
    PEER_GET,
    PEER_SEARCH,
    PEER_COUNT,
    PEER_HANDOFF,
    /* gRPC's own services, answered by the hub itself to anybody (public.h). */
    PEER_HEALTH_CHECK,
    PEER_HEALTH_WATCH,
    PEER_REFLECTION,
    PEER_REFLECTION_ALPHA,
    PEER_METHODS
};
/* What grpc.health.v1.Health tells apart. */
enum peer_service {
    PEER_SERVICE_NODE, /* "": the whole node */
    PEER_SERVICE_PEER, /* "outrigger.v1.Peer" */
    PEER_SERVICES
};
enum peer_lane { PEER_LANE_REPLICATE, PEER_LANE_BEACON };

enum peer_link_state {
    PEER_LINK_UP = 1,  /* `incarnation` answered Hello */
    PEER_LINK_DOWN,    /* not connected, or nothing heard */
    PEER_LINK_REFUSED, /* after having been UP or at first: the address refuses connections. Reported once per DOWN. */
};

/* Who sent something, as its metadata said. */
struct peer_from {
    const char *node;
    uint64_t incarnation;
};

struct peer_handlers {
    void (*on_link)(void *data, struct peer_link *link, enum peer_link_state state, uint64_t incarnation,
                    const struct otr_errmsg *why);
    /* The lane of an UP link has room again after OTR_BUSY. */
    void (*on_drain)(void *data, struct peer_link *link, enum peer_lane lane);
    void (*on_replicate)(void *data, const struct peer_from *from, const Outrigger__V1__ReplicateFrame *frame);
    void (*on_beacon)(void *data, const struct peer_from *from, const Outrigger__V1__BeaconFrame *frame);
    /* FORWARD, GET, SEARCH, COUNT, HANDOFF: answer with peer_call_reply, now or later. The request is lent until the
     * reply. */
    void (*on_call)(void *data, struct peer_call *call, enum peer_method method, const struct peer_from *from,
                    const ProtobufCMessage *request);
    /* SEED: every frame, in order; the next one comes after peer_call_next. frame NULL: the stream broke off (the call
     * is then gone; no reply). */
    void (*on_seed)(void *data, struct peer_call *call, const struct peer_from *from,
                    const Outrigger__V1__SeedFrame *frame);
    /* Somebody with our own name and another incarnation called (E5), or one of another cluster. */
    void (*on_intruder)(void *data, const struct peer_from *from, const char *cluster);
};

struct peer_config {
    uv_loop_t *loop;
    const char *cluster;
    const char *node;
    const char *version;
    uint64_t incarnation;
    uint32_t encodings;      /* of entries that we understand (compress.h); 0: plain ones only */
    const char *listen_host; /* numeric address */
    uint16_t listen_port;    /* 0: any, see peer_hub_port */
    const char *ca_file;     /* PEM files for mutual TLS (sidecar/io/tls.h); NULL, all three: plain */
    const char *cert_file;
    const char *key_file;
    struct peer_handlers handlers;
    void *data;
};

/* OTR_INUSE, OTR_INVALID with words that name the address or the file. */
int peer_hub_new(struct peer_hub **hub, const struct peer_config *config, struct otr_errmsg *msg);
uint16_t peer_hub_port(const struct peer_hub *hub);
/* False: plain. handshakes_failed includes certificates of one node that were used to speak for another. */
/* Bytes of incoming calls that are half read or not yet answered. */
size_t peer_hub_incoming(const struct peer_hub *hub);
bool peer_hub_tls_stats(const struct peer_hub *hub, struct tls_stats *stats);
/* What health checkers are told: SERVING or NOT_SERVING, which it is at first and while the hub closes. */
void peer_hub_serving(struct peer_hub *hub, enum peer_service service, bool serving);
/* Closes links (their calls end with OTR_CANCELED) and connections, then frees and calls cb. Incoming Seeds break off;
 * other incoming calls must still be answered once, before or after, into the void. */
void peer_hub_close(struct peer_hub *hub, void (*cb)(void *data), void *data);

struct peer_link *peer_link_open(struct peer_hub *hub, const char *node, const char *host, uint16_t port, void *data);
void peer_link_close(struct peer_link *link);
/* Another address is dialled at once; the same one changes nothing. */
int peer_link_address(struct peer_link *link, const char *host, uint16_t port);
void *peer_link_data(const struct peer_link *link);
const char *peer_link_node(const struct peer_link *link);
bool peer_link_up(const struct peer_link *link);
/* Encodings of entries that the peer said it understands; 0 while not UP. */
uint32_t peer_link_encodings(const struct peer_link *link);
/* How fast the link's connection is, so far: bytes given to its socket, and for how long the socket took no more
 * although there were some. Both begin at 0 again with a new connection. */
void peer_link_pace(const struct peer_link *link, uint64_t *sent_bytes, uint64_t *blocked_ns);

/* Packs the frame and queues it; everything queued in one loop turn goes out together. OTR_UNREACHABLE when not UP,
 * OTR_BUSY, OTR_NOMEM. What was queued when a link goes down is lost. */
int peer_link_send(struct peer_link *link, enum peer_lane lane, const ProtobufCMessage *frame);
/* Calls that wait for their answer, and bytes of them that are not yet written. */
void peer_link_calls(const struct peer_link *link, uint64_t *calls, uint64_t *queued_bytes);
size_t peer_link_queued(const struct peer_link *link, enum peer_lane lane);

/* A unary call. Returns 0, and cb comes once, later (also when not UP: OTR_UNREACHABLE); or OTR_NOMEM, OTR_TOOBIG, and
 * cb never comes. timeout_ms 0: none; the peer learns of it as grpc-timeout. status: 0 and the reply (lent);
 * OTR_UNREACHABLE: certainly not processed (never sent); OTR_UNKNOWN: sent, no answer (connection lost, timeout);
 * OTR_CANCELED; OTR_PROTO. */
typedef void (*peer_reply_cb)(void *data, int status, const ProtobufCMessage *reply, const struct otr_errmsg *msg);
int peer_link_call(struct peer_link *link, enum peer_method method, const ProtobufCMessage *request,
                   uint32_t timeout_ms, peer_reply_cb cb, void *data);

/* Answers; the reply is packed at once. The call is gone afterwards. */
void peer_call_reply(struct peer_call *call, const ProtobufCMessage *reply);
/* Answers with a gRPC error status (1..16) instead. */
void peer_call_fail(struct peer_call *call, int grpc_status, const char *message);
void peer_call_next(struct peer_call *call); /* SEED */
void peer_call_set_data(struct peer_call *call, void *data);
void *peer_call_data(const struct peer_call *call);

/* An outgoing Seed stream. OTR_UNREACHABLE when not UP, OTR_NOMEM: neither callback comes. room fires when the queue is
 * below 1 MiB (first: soon after open) and again after each send that filled it. done fires once: SeedReply, or an
 * error as in peer_link_call; the stream is gone afterwards. */
typedef void (*peer_room_cb)(void *data, struct peer_stream *stream);
int peer_seed_open(struct peer_link *link, struct peer_stream **stream, peer_room_cb room, peer_reply_cb done,
                   void *data);
/* OTR_BUSY: wait for room. OTR_UNREACHABLE: over, done comes. OTR_TOOBIG, OTR_NOMEM. */
int peer_seed_send(struct peer_stream *seed, const Outrigger__V1__SeedFrame *frame);
/* No more frames. */
void peer_seed_finish(struct peer_stream *seed);
/* done comes with OTR_CANCELED. */
void peer_seed_cancel(struct peer_stream *seed);

#endif
