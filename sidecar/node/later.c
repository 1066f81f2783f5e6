/* Callbacks at the end of the loop turn: what must not be called from inside the call that caused it. An idle handle
 * runs only while something is queued; libuv then does not block in poll. */
#include "sidecar/node/node_internal.h"

static void on_idle(uv_idle_t *idle)
{
    struct node *n = idle->data;
    struct later *l = n->later_head;

    /* Whatever these queue comes in the next turn. */
    n->later_head = NULL;
    n->later_tail = &n->later_head;
    uv_idle_stop(idle);
    while (l != NULL) {
        struct later *next = l->next;
        l->cb(l);
        l = next;
    }
    if (n->closing) {
        node_closing_step(n);
    }
}

void later_start(struct node *n)
{
    n->later_tail = &n->later_head;
    uv_idle_init(n->loop, &n->idle);
    n->idle.data = n;
    n->handles_open++;
}

void later_run(struct node *n, struct later *l, void (*cb)(struct later *l))
{
    l->cb = cb;
    l->next = NULL;
    *n->later_tail = l;
    n->later_tail = &l->next;
    uv_idle_start(&n->idle, on_idle);
}
