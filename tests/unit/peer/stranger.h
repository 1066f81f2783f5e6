/* A gRPC client that is none of ours, on one connection: any number of calls at once, messages sent when the test says,
 * and nothing read while it says so. The end of a test's process frees what it holds. */
#ifndef TESTS_UNIT_PEER_STRANGER_H
#define TESTS_UNIT_PEER_STRANGER_H

#include "raw.h"

struct stranger {
    int fd;
    bool deaf; /* reads nothing from the socket */
    nghttp2_session *session;
    struct bytes *unsent;
    bool closed; /* by the server */
};

struct stranger_call {
    struct stranger *client;
    int32_t id;
    uint8_t *out; /* not yet sent */
    size_t out_bytes;
    bool out_ends;
    uint8_t *in; /* messages with their prefixes, as they came */
    size_t in_bytes;
    size_t in_next; /* behind what stranger_next has given */
    int status;     /* grpc-status; -1: none yet */
    char text[256];
};

void stranger_open(struct stranger *c, uint16_t port);
void stranger_close(struct stranger *c);
/* Caller-owned, zeroed by this, and to live until the stranger is closed. */
void stranger_start(struct stranger *c, struct stranger_call *call, const char *path);
/* With the prefix; ends: nothing follows. */
void stranger_send(struct stranger_call *call, const void *data, size_t bytes, bool ends);
void stranger_pack(struct stranger_call *call, const ProtobufCMessage *message, bool ends);
void stranger_finish(struct stranger_call *call);
/* One turn of the loop and of the socket. */
void stranger_turn(struct stranger *c);
/* The next message, unpacked; NULL: there is none (yet). */
ProtobufCMessage *stranger_next(struct stranger_call *call, const ProtobufCMessageDescriptor *type);

#define STRANGER_UNTIL(client, condition)                                             \
    do {                                                                              \
        uint64_t until_ = uv_hrtime() + 10000000000ULL;                               \
        while (!(condition)) {                                                        \
            cr_assert(uv_hrtime() < until_, "timed out waiting for: %s", #condition); \
            stranger_turn(client);                                                    \
        }                                                                             \
    } while (0)

#endif
