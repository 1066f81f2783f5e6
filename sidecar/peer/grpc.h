/* gRPC's own formats, without sockets: the methods of our .proto files, message framing, timeouts, status texts.
 *
 * On the wire a call is one HTTP/2 stream: POST /outrigger.v1.Peer/<Method>, content-type application/grpc, te
 * trailers, grpc-timeout, and our metadata outrigger-cluster, outrigger-node, outrigger-incarnation (decimal). Each
 * message has a prefix of 5 bytes: a flag (1: compressed, which we refuse) and the length, big-endian. The answer ends
 * with the trailers grpc-status and grpc-message (percent-encoded), which come alone where there is nothing else to
 * say. */
#ifndef OUTRIGGER_PEER_GRPC_H
#define OUTRIGGER_PEER_GRPC_H

#include "sidecar/peer/peer.h"

enum { GRPC_PREFIX_BYTES = 5, GRPC_TIMEOUT_TEXT_MAX = 10, GRPC_METHODS = PEER_METHODS };

enum grpc_status {
    GRPC_OK = 0,
    GRPC_CANCELLED = 1,
    GRPC_UNKNOWN = 2,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_DEADLINE_EXCEEDED = 4,
    GRPC_NOT_FOUND = 5,
    GRPC_PERMISSION_DENIED = 7,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_FAILED_PRECONDITION = 9,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
    GRPC_UNAUTHENTICATED = 16,
};

struct grpc_method {
    const char *path;
    const ProtobufCMessageDescriptor *request; /* of a frame, where frames are streamed */
    const ProtobufCMessageDescriptor *reply;
};
extern const struct grpc_method grpc_methods[GRPC_METHODS]; /* by enum peer_method */

/* -1: no such method. */
int grpc_method_find(const char *path, size_t bytes);

/* "250m" and so on; false when malformed. More than a year is cut to a year. */
bool grpc_timeout_parse(const char *text, size_t bytes, uint64_t *timeout_ms);
/* Returns the length; `out` holds GRPC_TIMEOUT_TEXT_MAX bytes, not terminated. */
size_t grpc_timeout_format(char *out, uint32_t timeout_ms);

/* grpc-message: everything but printable ASCII, and '%', becomes %XX. Both cut what does not fit and terminate. */
size_t grpc_text_encode(char *out, size_t room, const char *text);
size_t grpc_text_decode(char *out, size_t room, const char *text, size_t bytes);

/* Takes a stream of bytes apart into messages. {0} is a new reader. */
struct grpc_reader {
    uint8_t prefix[GRPC_PREFIX_BYTES];
    uint8_t prefix_bytes;
    bool done; /* the message was handed out; the next feed starts a new one */
    size_t length;
    size_t body_bytes;
    size_t limit;    /* for `length`, below PEER_MESSAGE_MAX; 0: none. Set by the owner */
    size_t capacity; /* of body; grows with what really came, whatever length is announced */
    uint8_t *body;
};

/* Takes bytes from the front of (*data, *bytes) up to the end of one message. When one is complete, *message is set
 * (lent until the next call with this reader or, where it lies in *data, as long as that); else *message is NULL and
 * all is taken. OTR_UNSUPPORTED: compressed; OTR_PROTO: not a gRPC message; OTR_TOOBIG: above PEER_MESSAGE_MAX or the
 * limit; OTR_NOMEM. */
int grpc_reader_feed(struct grpc_reader *reader, const uint8_t **data, size_t *bytes, const uint8_t **message,
                     size_t *message_bytes);
/* In the middle of a message? */
bool grpc_reader_partial(const struct grpc_reader *reader);
void grpc_reader_close(struct grpc_reader *reader);

#endif
