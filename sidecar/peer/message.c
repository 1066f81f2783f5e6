#include "sidecar/peer/message.h"

#include <assert.h>
#include <stdlib.h>

int message_pack(struct message **message, const ProtobufCMessage *content, size_t room)
{
    size_t bytes = protobuf_c_message_get_packed_size(content);
    struct message *m;

    if (bytes > PEER_MESSAGE_MAX) {
        return OTR_TOOBIG;
    }
    if (bytes > room) {
        return OTR_BUSY;
    }
    m = malloc(sizeof *m + GRPC_PREFIX_BYTES + bytes);
    if (m == NULL) {
        return OTR_NOMEM;
    }
    m->next = NULL;
    m->refs = 1;
    m->bytes = GRPC_PREFIX_BYTES + bytes;
    m->data[0] = 0;
    for (unsigned i = 0; i < 4; i++) {
        m->data[1 + i] = (uint8_t)(bytes >> (24 - 8 * i));
    }
    protobuf_c_message_pack(content, m->data + GRPC_PREFIX_BYTES);
    *message = m;
    return 0;
}

void message_release(struct message *message)
{
    assert(message->refs > 0);
    if (--message->refs == 0) {
        free(message);
    }
}
