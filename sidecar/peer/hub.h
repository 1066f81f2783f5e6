/* What the files of this room share about the hub: its lists, work put off to the end of the loop turn, and the count
 * of libuv handles whose memory is ours.
 *
 * A loop turn: timers and sockets run callbacks, which submit frames and defer tasks; then, in libuv's check and
 * prepare phases, the hub runs the tasks and writes each touched connection once. So what is queued in a turn goes out
 * together, and no user callback runs inside the call that caused it. */
#ifndef OUTRIGGER_PEER_HUB_H
#define OUTRIGGER_PEER_HUB_H

#include "sidecar/peer/list.h"
#include "sidecar/peer/peer.h"

enum {
    HUB_CONNECTIONS_MAX = 2048,     /* incoming */
    HUB_INCOMING_BYTES = 256 << 20, /* calls under way: half-read messages and requests not yet answered */
    HUB_READ_BYTES = 64 << 10,      /* one read of a socket */
    HUB_NAME_BYTES = OTR_NAME_MAX + 1,
};

struct hub_task {
    struct list node;
    void (*run)(struct hub_task *task);
};

struct peer_hub {
    struct peer_config config; /* strings point below */
    char cluster[HUB_NAME_BYTES];
    char node[HUB_NAME_BYTES];
    char version[128];
    char incarnation_text[24]; /* decimal, for the metadata */
    uint16_t port;

    struct tls *tls;          /* NULL: plain */
    uint64_t callers_refused; /* that claimed another name than their certificate's */

    uv_tcp_t listener;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle; /* active while work is put off: the loop must not sleep */
    uv_timer_t tick;
    uint64_t ticked_ms;

    struct list links;
    struct list incoming; /* accepted connections */
    unsigned incoming_count;
    bool accept_missed; /* libuv holds a connection and listens no more until it is accepted */
    struct list calls;  /* incoming calls not yet answered */
    struct list tasks;
    struct list flushes;   /* connections with something to write */
    struct list watchers;  /* of our health (public.c) */
    unsigned public_count; /* calls of public.c under way */
    bool serving[PEER_SERVICES];
    size_t incoming_bytes;
    unsigned handles; /* open libuv handles and requests */
    uint8_t *read_buffer;

    bool closing;
    struct hub_task close_task;
    void (*close_cb)(void *data);
    void *close_data;
};

static inline void hub_task_init(struct hub_task *task, void (*run)(struct hub_task *task))
{
    list_init(&task->node);
    task->run = run;
}

/* Runs the task once, soon. Again while it waits: no effect. */
void hub_defer(struct peer_hub *hub, struct hub_task *task);
static inline void hub_task_cancel(struct hub_task *task)
{
    list_remove(&task->node);
}

/* Puts a connection on `flushes`. */
void hub_flush_later(struct peer_hub *hub, struct list *node);

void hub_handle_opened(struct peer_hub *hub);
/* In the handle's close callback, as the last thing: may free the hub. */
void hub_handle_closed(struct peer_hub *hub);

#endif
