/* Writes that come while nobody leads their shard, but somebody here is about to, or has just ceased to: during a
 * takeover and during a handoff. Refusing them would cost their senders a wait of the length of their patience; held,
 * they go on in the moment in which this replica leads, or are refused as soon as it is clear that another one does.
 * Order is kept. A body is copied, for the caller's is lent only during the call; NODE_HELD_BYTES_MAX bounds them. */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/clock.h"

#include <stdlib.h>

bool held_keep(struct shard *s, struct write *w, uint64_t now_ms)
{
    struct node *n = s->node;
    uint8_t *copy;

    if (w->cb == NULL || n->closing || n->dying || now_ms >= w->started_ns / 1000000 + NODE_HELD_MS) {
        return false;
    }
    if (!w->body_own) {
        if (n->held_bytes + w->body_bytes > NODE_HELD_BYTES_MAX || (copy = malloc(w->body_bytes)) == NULL) {
            return false;
        }
        memcpy(copy, w->body, w->body_bytes);
        w->body = copy;
        w->body_own = true;
        n->held_bytes += w->body_bytes;
    }
    if (s->held.head == NULL) {
        s->held.tail = &s->held.head;
    }
    w->next = NULL;
    *s->held.tail = w;
    s->held.tail = &w->next;
    return true;
}

/* All of them once more, in their order; those that still cannot be taken come back. */
static void again(struct shard *s)
{
    struct write *w = s->held.head;

    s->held.head = NULL;
    while (w != NULL) {
        struct write *next = w->next;
        write_again(s, w);
        w = next;
    }
}

static void on_look(struct later *l)
{
    struct shard *s = (struct shard *)((char *)l - offsetof(struct shard, held.later));

    s->held.queued = false;
    if (!s->node->closing) {
        again(s);
    }
}

void held_look(struct shard *s)
{
    if (s->held.head != NULL && !s->held.queued) {
        s->held.queued = true;
        later_run(s->node, &s->held.later, on_look);
    }
}

void held_tick(struct shard *s, uint64_t now_ms)
{
    struct replica_status status;

    if (s->held.head == NULL) {
        return;
    }
    replica_status(s->replica, now_ms, &status);
    /* Also for the oldest one's patience, and for a handoff that came to nothing. */
    if (!status.handing || now_ms >= s->held.head->started_ns / 1000000 + NODE_HELD_MS) {
        again(s);
    }
}

void held_end(struct shard *s)
{
    struct write *w = s->held.head;

    s->held.head = NULL;
    while (w != NULL) {
        struct write *next = w->next;
        write_refuse(s, w, OTR_UNAVAIL, "the node is stopping");
        w = next;
    }
}

void held_free(struct shard *s)
{
    for (struct write *w = s->held.head, *next; w != NULL; w = next) {
        next = w->next;
        write_drop_body(s, w);
        free(w);
    }
    s->held.head = NULL;
}
