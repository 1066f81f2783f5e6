/* One HTTP/2 stream: a queue of outgoing messages, a reader of incoming ones, and the headers that gRPC cares about.
 * Both roles; what a stream means (a call, a lane, a seed) is its owner's business.
 *
 * The connection owns streams: one lives until nghttp2 has closed it or the connection ended, then on_closed is the
 * last that its owner hears. An owner who loses interest first detaches (stream_reset, or stream_detach after the last
 * trailers) and hears nothing more. */
#ifndef OUTRIGGER_PEER_STREAM_H
#define OUTRIGGER_PEER_STREAM_H

#include "sidecar/peer/grpc.h"
#include "sidecar/peer/hub.h"
#include "sidecar/peer/message.h"

enum { STREAM_TEXT_MAX = 256, STREAM_HEADER_BYTES_MAX = 16 << 10 };

struct conn;
struct stream;

struct stream_ops {
    /* A message, lent. May pause the stream, reset it or answer. */
    void (*on_message)(struct stream *s, const uint8_t *data, size_t bytes);
    /* The other side sends no more messages, and all were delivered. */
    void (*on_finished)(struct stream *s);
    /* Bytes of the queue went to the socket. Within nghttp2: only defer work here. */
    void (*on_written)(struct stream *s);
    /* Gone; never after detaching. lost: the connection ended; else error is HTTP/2's code. */
    void (*on_closed)(struct stream *s, bool lost, uint32_t error);
};

struct stream {
    struct list sibling; /* conn->streams */
    struct conn *conn;
    int32_t id;
    const struct stream_ops *ops; /* NULL: detached */
    void *owner;

    struct message *out_first;
    struct message **out_end;
    size_t out_offset; /* of out_first */
    size_t out_bytes;  /* queued, prefixes included */
    bool out_idle;     /* nghttp2 waits for stream_send */
    bool out_last;     /* nothing follows the queue */
    bool exposed;      /* request: its headers were handed to the socket. The peer may have seen it */
    bool responded;    /* response: headers submitted */
    int end_status;    /* response: grpc-status that ends the queue */
    char *end_text;

    struct grpc_reader reader;
    uint8_t *backlog; /* received while paused: bytes backlog_from..backlog_to */
    size_t backlog_from;
    size_t backlog_to;
    size_t backlog_capacity;
    size_t accounted_bytes; /* of hub->incoming_bytes */
    bool accountable;       /* may be refused when too much is under way */
    bool paused;
    bool remote_ended;
    bool finished;

    /* Headers. Request: */
    size_t header_bytes;
    int method; /* enum peer_method, or -1 */
    bool is_post;
    bool is_grpc; /* content-type */
    bool timeout_bad;
    uint64_t timeout_ms; /* 0: none */
    char cluster[HUB_NAME_BYTES];
    char node[HUB_NAME_BYTES];
    uint64_t incarnation; /* 0: missing or malformed */
    /* Response: */
    int http_status;
    int grpc_status; /* -1: none yet */
    char grpc_text[STREAM_TEXT_MAX];
};

/* For conn.c: a stream that nghttp2 knows by its user data. NULL: no memory. */
struct stream *stream_new(struct conn *conn, int32_t id);
/* Ends it: on_closed, then free. */
void stream_close(struct stream *s, bool lost, uint32_t error);
/* Returns false when the headers are too many. */
bool stream_header(struct stream *s, const uint8_t *name, size_t name_bytes, const uint8_t *value, size_t value_bytes);
void stream_receive(struct stream *s, const uint8_t *data, size_t bytes);
void stream_remote_ended(struct stream *s);

struct stream_request {
    enum peer_method method;
    const char *authority;
    uint32_t timeout_ms; /* 0: none */
    int32_t parent;      /* served only when that stream has nothing to send; 0: none */
    int32_t weight;
};
/* Client. OTR_NOMEM, OTR_UNREACHABLE (no more stream ids, or the connection is ending). */
int stream_open(struct stream **stream, struct conn *conn, const struct stream_request *request,
                const struct stream_ops *ops, void *owner);
/* Takes over the message, on failure too. */
void stream_send(struct stream *s, struct message *message);
/* Client: no more messages. */
void stream_finish(struct stream *s);
/* Server: response headers, now. */
void stream_respond(struct stream *s);
/* Server: after the queue, this status. The owner is detached. */
void stream_end(struct stream *s, int grpc_status, const char *text);
/* RST_STREAM; detaches, and drops the queue. */
void stream_reset(struct stream *s, uint32_t error);
void stream_detach(struct stream *s);
/* Delivers what came while paused, and goes on. Not from within on_message. */
void stream_resume(struct stream *s);

#endif
