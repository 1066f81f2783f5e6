/* An outgoing message, packed once with its gRPC prefix and shared, until written, by a stream's queue and the writes
 * on their way. Loop thread only. */
#ifndef OUTRIGGER_PEER_MESSAGE_H
#define OUTRIGGER_PEER_MESSAGE_H

#include "sidecar/peer/grpc.h"

struct message {
    struct message *next; /* in a stream's queue */
    uint32_t refs;
    size_t bytes; /* prefix included */
    uint8_t data[];
};

/* One reference is the caller's. OTR_TOOBIG above PEER_MESSAGE_MAX, OTR_BUSY above `room`, OTR_NOMEM. */
int message_pack(struct message **message, const ProtobufCMessage *content, size_t room);
void message_release(struct message *message);

#endif
