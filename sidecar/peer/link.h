/* The outgoing side to one peer, as the files of this room see it. */
#ifndef OUTRIGGER_PEER_LINK_H
#define OUTRIGGER_PEER_LINK_H

#include "sidecar/peer/conn.h"

enum { LINK_ADDRESSES_MAX = 8, LINK_LANES = PEER_LANE_BEACON + 1 };

enum link_state {
    LINK_IDLE = 0,   /* before the first dial */
    LINK_RESOLVING,  /* the host's name */
    LINK_CONNECTING, /* TCP */
    LINK_HELLO,      /* asking who answers */
    LINK_UP,
    LINK_BACKOFF, /* until the next dial */
    LINK_CLOSING,
};

struct lane {
    struct stream *stream; /* NULL while not UP */
    bool busy;             /* OTR_BUSY was returned; on_drain is owed */
    size_t drain_bytes;    /* once so few are queued: what was refused then fits */
};

struct peer_link {
    struct list node; /* hub->links */
    struct peer_hub *hub;
    struct hub_task task;
    void *data;
    char peer[HUB_NAME_BYTES];
    char subject[HUB_NAME_BYTES + 8]; /* for log lines */
    char host[256];
    uint16_t port;
    char authority[272];

    enum link_state state;
    struct conn *conn;
    uv_timer_t timer; /* connect, Hello, backoff, or the liveness tick of an UP link */
    uint64_t ticked_ms;
    unsigned handles; /* timer and resolver: what the memory must outlive */

    uv_getaddrinfo_t resolver;
    bool resolving;
    struct sockaddr_storage addresses[LINK_ADDRESSES_MAX];
    unsigned addresses_count;
    unsigned address_next;
    unsigned addresses_refused; /* in this round */

    uint32_t backoff_ms;
    unsigned refusals; /* in a row */

    enum peer_link_state reported; /* 0: nothing yet */
    char reported_why[128];
    uint64_t incarnation; /* that answered last */
    uint32_t encodings;   /* that it understands */

    bool close_wanted;
    bool dial_wanted; /* another address */
    bool rejected;    /* Hello was answered, but not by whom we want */
    bool was_up;      /* while the connection ends: it carried an UP link */

    struct lane lanes[LINK_LANES];
    struct list requests;
    unsigned requests_count;
    struct list seeds;
    size_t request_bytes; /* of calls not yet handed to the socket */
};

/* Ends calls with OTR_CANCELED and frees the link when libuv is through with it. Not from within a call of the user's.
 */
void link_shutdown(struct peer_link *link);
/* Opens the lanes of an UP link. 0 or OTR_*. */
int lane_open_all(struct peer_link *link);
void lane_run_drain(struct peer_link *link);
/* Ends seeds whose cancellation was not told yet. */
void seed_cancel_all(struct peer_link *link);
/* The stream that calls of this link depend on. */
int32_t lane_parent(const struct peer_link *link);

#endif
