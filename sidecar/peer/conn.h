/* One HTTP/2 connection: an nghttp2 session on a uv_tcp, either role, with TLS between the two or not.
 *
 * Happy path: connect (or accept), exchange SETTINGS, then streams. Reading feeds nghttp2, which calls the streams.
 * Writing happens once a loop turn: frames are gathered into one batch of at most CONN_BATCH_BYTES, written, and only
 * then is nghttp2 asked for more; so an urgent frame waits for one batch at most, never for a queue of MiBs. nghttp2
 * picks among streams by the priority tree (a lane of beacons is the parent of all others). Failures: whatever goes
 * wrong ends the whole connection, by conn_fail; streams are closed, then the owner hears on_end. Memory is freed when
 * libuv has closed the socket.
 *
 * With TLS the frames that wait are gathered once the handshake is complete, and a batch is encrypted as a whole before
 * it is written; its messages are let go then. A server that refuses a client's certificate lingers for a second after
 * the alert: were the socket closed while bytes of the client are unread, the kernel would take the alert back. */
#ifndef OUTRIGGER_PEER_CONN_H
#define OUTRIGGER_PEER_CONN_H

#include "sidecar/peer/hub.h"
#include "sidecar/peer/stream.h"

#include <nghttp2/nghttp2.h>

enum {
    CONN_BATCH_BYTES = 256 << 10, /* gathered for one write */
    CONN_ARENA_BYTES = 192 << 10, /* of them: frame headers, control frames and small messages, copied */
    CONN_BATCH_BUFS = 512,
    CONN_UNSENT_BYTES = 128 << 10, /* what the kernel may hold that is not on the wire yet (TCP_NOTSENT_LOWAT) */
    CONN_FRAME_BYTES = 64 << 10,   /* SETTINGS_MAX_FRAME_SIZE */
    CONN_STREAM_WINDOW = 16 << 20,
    CONN_WINDOW = 32 << 20,
    CONN_STREAMS_MAX = 2048,      /* at once, of the client */
    CONN_REPLY_BYTES = 256 << 20, /* of answers that the client does not read */
};

struct conn;
struct conn_ops {
    void (*on_connected)(struct conn *c); /* client */
    /* Server: a request's headers are complete. Sets s->ops, or answers and leaves them NULL. */
    void (*on_stream)(struct conn *c, struct stream *s);
    /* The connection is over; its streams are closed next. */
    void (*on_ending)(struct conn *c);
    /* After that. The connection must not be used any more. uv_status: why connecting failed, or 0. */
    void (*on_end)(struct conn *c, int uv_status, const struct otr_errmsg *why);
};

struct conn {
    struct peer_hub *hub;
    struct list node;           /* hub->incoming; the owner of a client's keeps it elsewhere */
    const struct conn_ops *ops; /* NULL: nobody listens any more */
    void *owner;
    bool server;
    bool started;
    bool ending; /* streams are being closed, or were */
    bool failed; /* conn_fail was called */
    int uv_status;
    struct otr_errmsg why;
    char remote[64]; /* address in words */
    uint64_t opened_ms;
    uint64_t heard_ms; /* when bytes came last (uv_now) */
    uint64_t pinged_ms;
    uint64_t busy_ms; /* server: when it last had a stream */
    bool heard;       /* the first bytes came */
    bool greeted;     /* the peer's SETTINGS came */

    struct tls_session *tls;   /* NULL: plain */
    const char *node_expected; /* client, TLS: the certificate must be this node's. The owner's */
    bool mismatch;             /* one side refuses the other's certificate, or only one speaks TLS */
    uint64_t lingers_ms;       /* since when; 0: not */

    uv_tcp_t tcp;
    uv_connect_t connect;
    nghttp2_session *session;
    unsigned depth; /* calls into nghttp2 on the stack */
    struct list streams;
    unsigned streams_count;
    size_t out_bytes; /* queued in all streams */
    struct list flush_node;
    struct hub_task fail_task;

    /* The batch: one at a time. */
    bool writing;
    uint64_t writing_ns;    /* uv_hrtime() when it began: the socket took no more */
    uint64_t written_bytes; /* given to the socket so far */
    uint64_t blocked_ns;    /* spent `writing` so far, but for the one under way */
    uv_write_t write;
    uint8_t *arena;
    size_t arena_bytes;
    size_t batch_bytes;
    unsigned bufs_count;
    unsigned refs_count;
    uv_buf_t bufs[CONN_BATCH_BUFS];
    struct message *refs[CONN_BATCH_BUFS];
};

/* Dials the node of that name, which the owner keeps. On failure (UV_*) there is no connection; else on_connected (the
 * socket is connected; TLS comes after it) or on_end comes, later. */
int conn_connect(struct conn **conn, struct peer_hub *hub, const struct sockaddr *address, const char *node,
                 const struct conn_ops *ops, void *owner);
/* Takes a waiting connection from the listener. UV_*. */
int conn_accept(struct conn **conn, struct peer_hub *hub, const struct conn_ops *ops);
/* Ends it at the end of the loop turn, or at the end of the read that found out; from anywhere. The first reason
 * counts. */
void conn_fail(struct conn *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Ends it now, without on_ending and on_end; the streams still hear on_closed. Not from within nghttp2. */
void conn_close(struct conn *c);
/* Says GOAWAY and writes what can be written at once. */
void conn_goodbye(struct conn *c);
void conn_ping(struct conn *c);
/* It only waits for the other side to read an alert; ended when that takes too long. For hub.c. */
bool conn_lingers(struct conn *c, uint64_t now_ms);
/* Writes. For hub.c. */
void conn_flush(struct conn *c);
/* Something was submitted. */
void conn_touch(struct conn *c);

#endif
