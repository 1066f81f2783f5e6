#include "sidecar/node/door_internal.h"

#include "sidecar/io/clock.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

enum { SHARES = 256 };

struct door {
    struct node *node;
    uv_timer_t timer;
    struct door_op *ops;
    struct node_wait wait;
    bool waiting; /* `wait` is with the node */
    size_t room_bytes, room_bytes_max;
    /* Operations under way by shard; shards of one place share a fate. */
    struct under_way {
        uint32_t count;
        uint64_t bytes;
    } under_way[NODE_OPS][SHARES];
};

/* --- operations --------------------------------------------------------------------------------------------------- */

static void op_unlink(struct door_op *op)
{
    *op->link = op->next;
    if (op->next != NULL) {
        op->next->link = op->link;
    }
    op->door = NULL;
}

static void op_free(struct door_op *op)
{
    struct arena arena = op->arena; /* `op` itself may lie in there */

    op->kind->free(op);
    arena_close(&arena);
}

bool door_op_share(struct door_op *op, const struct door_share *shares, size_t count)
{
    struct under_way *under_way = op->door->under_way[op->kind->operation];

    for (size_t i = 0; op->ticket != NULL && op->ticket->room != NULL && i < count; i++) {
        const struct under_way *u = &under_way[shares[i].shard % SHARES];

        if (!admission_share(op->ticket->room, u->count, u->bytes)) {
            return false;
        }
    }
    for (size_t i = 0; i < count; i++) {
        under_way[shares[i].shard % SHARES].count++;
        under_way[shares[i].shard % SHARES].bytes += shares[i].bytes;
    }
    op->shares = shares;
    op->shares_count = count;
    return true;
}

static void share_end(struct door_op *op)
{
    for (size_t i = 0; i < op->shares_count; i++) {
        struct under_way *u = &op->door->under_way[op->kind->operation][op->shares[i].shard % SHARES];

        u->count--;
        u->bytes -= op->shares[i].bytes;
    }
}

static void op_finish(struct door_op *op, int status)
{
    struct door *d = op->door;

    assert(!op->ended);
    op->ended = true;
    share_end(op);
    d->room_bytes -= op->room_bytes;
    if (op->ticket != NULL) {
        op->ticket->op = NULL;
    }
    op_unlink(op);
    if (d->ops == NULL) {
        uv_timer_stop(&d->timer);
    }
    op->kind->finish(op, status);
    if (op->attempts_open == 0) {
        op_free(op);
    }
}

void door_op_settle(struct door_op *op)
{
    if (op->starting) {
        op->settled = true;
        uv_timer_start(&op->door->timer, op->door->timer.timer_cb, 0, DOOR_TICK_MS);
        return;
    }
    op_finish(op, 0);
}

void door_cancel(struct door_ticket *ticket)
{
    if (ticket->op != NULL) {
        ticket->op->deadline_ms = 0; /* The next tick ends it. */
    }
}

bool door_op_returned(struct door_op *op)
{
    assert(op->attempts_open > 0);
    op->attempts_open--;
    if (!op->ended) {
        return true;
    }
    if (op->attempts_open == 0) {
        op_free(op);
    }
    return false;
}

void door_op_wait(struct door_op *op, uint64_t now_ms)
{
    uint64_t retry_ms = now_ms + op->backoff_ms;

    if (op->retry_ms == 0 || retry_ms < op->retry_ms) {
        op->retry_ms = retry_ms;
    }
}

uint32_t door_op_left_ms(const struct door_op *op, uint64_t now_ms)
{
    return op->deadline_ms > now_ms ? (uint32_t)(op->deadline_ms - now_ms) : 1;
}

static void op_look(struct door_op *op, uint64_t now_ms)
{
    op->retry_ms = 0;
    op->starting = true; /* What a look resolves at once is answered from the timer: the list is being walked. */
    op->kind->look(op, now_ms);
    op->starting = false;
}

static void on_tick(uv_timer_t *timer)
{
    struct door *d = timer->data;
    uint64_t now_ms = clock_now_ms();
    struct door_op *next;

    for (struct door_op *op = d->ops; op != NULL; op = next) {
        next = op->next;
        if (op->settled) {
            op_finish(op, 0);
        } else if (now_ms >= op->deadline_ms) {
            op_finish(op, OTR_TIMEOUT);
        } else if (op->retry_ms != 0 && now_ms >= op->retry_ms) {
            op->backoff_ms = op->backoff_ms * 2 > DOOR_RETRY_MAX_MS ? DOOR_RETRY_MAX_MS : op->backoff_ms * 2;
            op_look(op, now_ms);
        }
    }
}

static void wait_for_change(struct door *d);

/* Roles, topology or links changed: whoever waits looks again, and so does whoever waits for the wrong node. */
static void on_change(struct node_wait *w)
{
    struct door *d = w->data;
    uint64_t now_ms = clock_now_ms();

    d->waiting = false;
    if (d->ops != NULL) {
        wait_for_change(d);
    }
    for (struct door_op *op = d->ops; op != NULL; op = op->next) {
        if (!op->settled) {
            op->backoff_ms = DOOR_RETRY_MIN_MS;
            op_look(op, now_ms);
        }
    }
}

static void wait_for_change(struct door *d)
{
    if (!d->waiting) {
        d->waiting = true;
        d->wait.cb = on_change;
        d->wait.data = d;
        node_wait_change(d->node, &d->wait);
    }
}

void door_op_start(struct door *d, struct door_op *op, const struct door_op_kind *kind, uint32_t timeout_ms)
{
    uint64_t now_ms = clock_now_ms();

    op->door = d;
    op->node = d->node;
    op->kind = kind;
    op->started_ms = now_ms;
    op->deadline_ms = now_ms + timeout_ms;
    if (op->ticket != NULL) {
        op->ticket->op = op;
    }
    op->backoff_ms = DOOR_RETRY_MIN_MS;
    op->next = d->ops;
    op->link = &d->ops;
    if (op->next != NULL) {
        op->next->link = &op->next;
    } else {
        uv_timer_start(&d->timer, on_tick, DOOR_TICK_MS, DOOR_TICK_MS);
    }
    d->ops = op;
    wait_for_change(d);
    op_look(op, now_ms);
}

/* --- the door ----------------------------------------------------------------------------------------------------- */

struct door *door_new(struct node *n)
{
    struct door *d = calloc(1, sizeof *d);

    if (d == NULL) {
        return NULL;
    }
    d->node = n;
    d->room_bytes_max = DOOR_ROOM_BYTES_MAX;
    if (uv_timer_init(node_loop(n), &d->timer) != 0) {
        free(d);
        return NULL;
    }
    d->timer.data = d;
    return d;
}

struct node *door_node(const struct door *d)
{
    return d->node;
}

static void on_timer_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void door_close(struct door *d)
{
    while (d->ops != NULL) {
        op_finish(d->ops, OTR_CANCELED);
    }
    if (d->waiting) {
        node_wait_cancel(&d->wait);
    }
    uv_close((uv_handle_t *)&d->timer, on_timer_closed);
}

/* --- room for answers --------------------------------------------------------------------------------------------- */

int door_op_take_room(struct door_op *op, size_t bytes)
{
    struct door *d = op->door;

    if (bytes > d->room_bytes_max || op->room_bytes > d->room_bytes_max - bytes) {
        return OTR_TOOBIG;
    }
    if (d->room_bytes + bytes > d->room_bytes_max) {
        return OTR_BUSY;
    }
    d->room_bytes += bytes;
    op->room_bytes += bytes;
    return 0;
}

void door_room_limit(struct door *d, size_t bytes)
{
    d->room_bytes_max = bytes;
}

/* --- whom to ask -------------------------------------------------------------------------------------------------- */

/* When there is no room to note another one, all count as tried: the round ends, and the next one begins from the
 * start. Otherwise one that cannot be noted and fails at once would be asked for ever. */
static bool was_tried(const struct door_tried *tried, otr_node node)
{
    for (uint32_t i = 0; i < tried->count; i++) {
        if (tried->nodes[i] == node) {
            return true;
        }
    }
    return tried->count == DOOR_TRIED_MAX;
}

void door_tried_add(struct door_tried *tried, otr_node node)
{
    if (!was_tried(tried, node)) {
        tried->nodes[tried->count++] = node;
    }
}

bool door_open_has(const struct door_open *open, otr_node node)
{
    for (uint32_t i = 0; i < open->count; i++) {
        if (open->nodes[i] == node) {
            return true;
        }
    }
    return false;
}

void door_open_add(struct door_open *open, otr_node node)
{
    assert(open->count < DOOR_OPEN_MAX);
    open->nodes[open->count++] = node;
}

void door_open_remove(struct door_open *open, otr_node node)
{
    for (uint32_t i = 0; i < open->count; i++) {
        if (open->nodes[i] == node) {
            open->nodes[i] = open->nodes[--open->count];
            return;
        }
    }
    assert(false); /* Every answer belongs to a question. */
}

static bool own_replica_serves(struct node *n, otr_shard shard)
{
    struct replica_status status;

    return node_shard_status(n, shard, &status) && (status.in_sync || status.role == REPLICA_PRIMARY);
}

static bool connected(struct node *n, otr_node node)
{
    struct peer_link *link = node_link(n, node);

    return link != NULL && peer_link_up(link);
}

otr_node door_read_target(struct node *n, otr_shard shard, enum node_consistency c, bool primary_first,
                          const struct door_tried *tried)
{
    otr_node self = node_self(n);
    otr_node primary = node_primary(n, shard);
    const struct topology_shard *known = topology_shard(node_topology(n), shard);
    bool own = c != NODE_LINEARIZABLE && !was_tried(tried, self) && own_replica_serves(n, shard);

    if (own && !primary_first) {
        return self;
    }
    if (primary != OTR_NODE_NONE && !was_tried(tried, primary)) {
        return primary;
    }
    if (own) {
        return self;
    }
    if (c == NODE_LINEARIZABLE || known == NULL || !known->known) {
        return OTR_NODE_NONE;
    }
    /* A learner may lack anything, so only members of the in-sync set are asked. */
    for (uint32_t i = 0; i < known->descriptor.in_sync_count; i++) {
        otr_node other = known->descriptor.in_sync[i].node;

        if (other != self && !was_tried(tried, other) && connected(n, other)) {
            return other;
        }
    }
    return OTR_NODE_NONE;
}

int door_shards(struct node *n, struct arena *arena, otr_shard **shards, size_t *count)
{
    struct topology *t = node_topology(n);
    uint32_t end = topology_shards_count(t);
    otr_shard *list = arena_alloc(arena, ((size_t)end + 1) * sizeof *list);
    uint64_t covered = 0;

    if (list == NULL) {
        return OTR_NOMEM;
    }
    *count = 0;
    for (otr_shard shard = 0; shard < end; shard++) {
        const struct topology_shard *known = topology_shard(t, shard);

        if (known != NULL && known->known) {
            covered += (uint64_t)known->descriptor.hash_last - known->descriptor.hash_first + 1;
            list[(*count)++] = shard;
        }
    }
    *shards = list;
    return covered == (uint64_t)UINT32_MAX + 1 ? 0 : OTR_UNAVAIL;
}

/* --- messages ----------------------------------------------------------------------------------------------------- */

int door_wire_status(uint32_t status)
{
    return status < OTR_ERR_MAX_ ? (int)status : OTR_PROTO;
}

struct otr_position door_after(const struct door_positions *after, otr_shard shard)
{
    struct otr_position newest = {0, 0};

    for (size_t i = 0; after != NULL && i < after->count; i++) {
        if (after->items[i].shard == shard && otr_position_compare(after->items[i].position, newest) > 0) {
            newest = after->items[i].position;
        }
    }
    return newest;
}

bool door_wire_vector(const ProtobufCBinaryData *bytes, const float **vector, uint32_t *dimension)
{
    const float *floats = (const float *)(const void *)bytes->data; /* protobuf-c's malloc aligns it */
    size_t count = bytes->len / sizeof *floats;

    if (bytes->len % sizeof *floats != 0 || count > OTR_DIMENSION_MAX) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(floats[i])) {
            return false;
        }
    }
    *vector = count != 0 ? floats : NULL;
    *dimension = (uint32_t)count;
    return true;
}
