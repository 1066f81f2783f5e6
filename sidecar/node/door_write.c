/* Writes. Points are grouped by shard, each group's record body is built once, and each shard's part goes to whoever is
 * primary, with the same request id however often: so a repeated attempt takes effect once (PROTOCOL I6, Q2).
 *
 * What an attempt's end means for its part:
 *   committed                               resolved, applied
 *   refused for now (not primary, ...)      again after a change or a little later; nothing happened
 *   refused for good (invalid, disk full)   resolved
 *   refused as too much                     resolved, unless something of the write has happened
 *   unknown                                 again; from now on "not applied" can no longer be promised (PROTOCOL Q3)
 * At the deadline a part whose attempts all were refused is not applied; any other one is unknown. */
#include "sidecar/node/door_internal.h"

#include "sidecar/io/clock.h"

#include <stdio.h>
#include <stdlib.h>

struct part {
    struct door_write_part result;
    uint8_t *body;
    size_t body_bytes;
    bool resolved;
    bool uncertain;
    struct door_open open;
    int refused; /* for good; decides when no attempt is open any more */
};

struct write_op {
    struct door_op op;
    struct door_write w;
    door_write_cb cb;
    void *data;
    struct part *parts; /* NULL: not routed yet */
    size_t parts_count;
    size_t parts_left;
    uint32_t *part_of_point;
    uint32_t attempts;
};

struct attempt {
    struct write_op *op;
    struct part *part;
    otr_node target;
};

/* --- grouping ----------------------------------------------------------------------------------------------------- */

static int compare_shards(const void *a, const void *b)
{
    const otr_shard *x = a;
    const otr_shard *y = b;

    return *x < *y ? -1 : *x > *y;
}

/* The shard of every point; OTR_UNAVAIL while the topology does not say. */
static int route(struct write_op *o, otr_shard *shard_of_point)
{
    struct topology *t = node_topology(o->op.node);

    for (size_t i = 0; i < o->w.points_count; i++) {
        uint64_t hash = point_hash(o->w.points[i].id, o->w.points[i].id_bytes);

        if (!topology_route(t, hash, &shard_of_point[i])) {
            return OTR_UNAVAIL;
        }
    }
    return 0;
}

static size_t body_bytes(const struct write_op *o, const struct otr_point *points, size_t count)
{
    return o->w.kind == RECORD_PUT ? put_body_bytes(points, count) : delete_body_bytes(points, count);
}

/* Builds the part's body from its points, gathered. */
static int build_body(struct write_op *o, struct part *part, const struct otr_point *points, size_t count)
{
    part->body_bytes = body_bytes(o, points, count);
    if (part->body_bytes > OTR_BODY_MAX) {
        return OTR_TOOBIG;
    }
    part->body = arena_alloc(&o->op.arena, part->body_bytes);
    if (part->body == NULL) {
        return OTR_NOMEM;
    }
    if (o->w.kind == RECORD_PUT) {
        put_body_write(part->body, o->w.collection, points, count);
    } else {
        delete_body_write(part->body, o->w.collection, points, count);
    }
    return 0;
}

/* The distinct shards, ascending, become the parts. */
static int make_parts(struct write_op *o, const otr_shard *shard_of_point)
{
    size_t count = o->w.points_count;
    otr_shard *sorted = malloc(count * sizeof *sorted);

    if (sorted == NULL) {
        return OTR_NOMEM;
    }
    memcpy(sorted, shard_of_point, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare_shards);
    o->parts_count = 0;
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || sorted[i] != sorted[i - 1]) {
            sorted[o->parts_count++] = sorted[i];
        }
    }
    o->parts = arena_alloc(&o->op.arena, o->parts_count * sizeof *o->parts);
    if (o->parts == NULL) {
        free(sorted);
        return OTR_NOMEM;
    }
    memset(o->parts, 0, o->parts_count * sizeof *o->parts);
    for (size_t i = 0; i < o->parts_count; i++) {
        o->parts[i].result.shard = sorted[i];
    }
    for (size_t i = 0; i < count; i++) {
        const otr_shard *at = bsearch(&shard_of_point[i], sorted, o->parts_count, sizeof *sorted, compare_shards);
        o->part_of_point[i] = (uint32_t)(at - sorted);
    }
    free(sorted);
    return 0;
}

/* Points in order of their parts (within a part in the client's order), then one body a part. */
static int gather(struct write_op *o)
{
    size_t count = o->w.points_count;
    struct otr_point *points = malloc(count * sizeof *points);
    size_t *starts = calloc(o->parts_count + 1, sizeof *starts);
    int rv = points == NULL || starts == NULL ? OTR_NOMEM : 0;

    if (rv == 0) {
        for (size_t i = 0; i < count; i++) {
            starts[o->part_of_point[i] + 1]++;
        }
        for (size_t i = 0; i < o->parts_count; i++) {
            starts[i + 1] += starts[i];
        }
        for (size_t i = 0; i < count; i++) {
            points[starts[o->part_of_point[i]]++] = o->w.points[i];
        }
    }
    /* starts[i] has moved to the end of part i. */
    for (size_t i = 0, from = 0; i < o->parts_count && rv == 0; from = starts[i], i++) {
        rv = build_body(o, &o->parts[i], points + from, starts[i] - from);
    }
    free(points);
    free(starts);
    return rv;
}

static int split(struct write_op *o)
{
    otr_shard *shard_of_point = malloc(o->w.points_count * sizeof *shard_of_point);
    int rv = shard_of_point == NULL ? OTR_NOMEM : route(o, shard_of_point);

    if (rv == 0) {
        rv = make_parts(o, shard_of_point);
    }
    if (rv == 0) {
        rv = gather(o);
    }
    free(shard_of_point);
    if (rv != 0) {
        o->parts = NULL; /* What was built stays in the arena; the deadline is near enough. */
    } else {
        o->parts_left = o->parts_count;
    }
    return rv;
}

/* --- attempts ----------------------------------------------------------------------------------------------------- */

static void resolve(struct write_op *o, struct part *part, int status, enum door_applied applied)
{
    part->resolved = true;
    part->result.status = status;
    part->result.applied = applied;
    o->parts_left--;
}

/* Neither happened nor will happen, but may work later or elsewhere. */
static bool refused_for_now(int status)
{
    return status == OTR_NOTPRIMARY || status == OTR_UNAVAIL || status == OTR_FEW || status == OTR_FENCED ||
           status == OTR_BUSY || status == OTR_UNREACHABLE || status == OTR_NOMEM;
}

static bool refused_for_good(const struct write_op *o, int status, uint64_t now_ms)
{
    return status == OTR_INVALID || status == OTR_NOSPACE || status == OTR_TOOBIG ||
           (status == OTR_NOTFOUND && now_ms - o->op.started_ms >= DOOR_NOTFOUND_MS);
}

/* An attempt (already taken off part->open) failed. */
static void part_failed(struct write_op *o, struct part *part, int status, const char *message, uint64_t now_ms)
{
    part->result.status = status;
    snprintf(part->result.message, sizeof part->result.message, "%s",
             message != NULL && message[0] != '\0' ? message : otr_strerror(status));
    if (refused_for_good(o, status, now_ms)) {
        part->refused = status;
    } else if (!refused_for_now(status) && status != OTR_NOTFOUND) {
        part->uncertain = true;
    }
    if (part->refused != 0 && part->open.count == 0) {
        resolve(o, part, part->refused, part->uncertain ? DOOR_APPLIED_UNKNOWN : DOOR_NOT_APPLIED);
    } else {
        door_op_wait(&o->op, now_ms);
    }
}

static void part_committed(struct write_op *o, struct part *part, struct otr_position position, uint32_t outcome,
                           bool pending)
{
    part->result.position = position;
    part->result.outcome = outcome;
    part->result.pending = pending;
    resolve(o, part, 0, DOOR_APPLIED);
}

/* A primary has too much to do, and certainly nothing of the whole write has happened or is under way. Then it is said
 * at once: trying again inside would only add to the load. A write of which something has happened goes on. */
static bool refused_busy(const struct write_op *o)
{
    bool busy = false;

    for (size_t i = 0; i < o->parts_count; i++) {
        const struct part *part = &o->parts[i];

        if (part->open.count > 0 || part->uncertain || (part->resolved && part->result.applied != DOOR_NOT_APPLIED)) {
            return false;
        }
        busy = busy || part->result.status == OTR_BUSY;
    }
    return busy;
}

/* After an attempt's end. */
static void advance(struct write_op *o)
{
    if (o->parts_left > 0 && refused_busy(o)) {
        for (size_t i = 0; i < o->parts_count; i++) {
            if (!o->parts[i].resolved) {
                resolve(o, &o->parts[i], OTR_BUSY, DOOR_NOT_APPLIED);
            }
        }
    }
    if (o->parts_left == 0) {
        door_op_settle(&o->op);
    }
}

/* True when the attempt's end still matters. */
static bool attempt_returned(struct attempt *a)
{
    if (!door_op_returned(&a->op->op)) {
        return false;
    }
    door_open_remove(&a->part->open, a->target);
    return !a->part->resolved;
}

static void write_done(void *data, const struct node_write_result *result)
{
    struct attempt *a = data;
    struct write_op *o = a->op;

    if (!attempt_returned(a)) {
        return;
    }
    if (result->status == 0) {
        part_committed(o, a->part, result->position, result->outcome, result->applied_pending);
    } else {
        part_failed(o, a->part, result->status, result->message, clock_now_ms());
    }
    advance(o);
}

static void forward_done(void *data, int status, const ProtobufCMessage *message, const struct otr_errmsg *msg)
{
    const Outrigger__V1__ForwardReply *reply = (const Outrigger__V1__ForwardReply *)(const void *)message;
    struct attempt *a = data;
    struct write_op *o = a->op;

    if (!attempt_returned(a)) {
        return;
    }
    if (status == 0 && reply->status == 0 && reply->position == NULL) {
        status = OTR_PROTO;
    }
    if (status != 0) {
        part_failed(o, a->part, status, msg != NULL ? msg->text : NULL, clock_now_ms());
    } else if (reply->status != 0) {
        part_failed(o, a->part, door_wire_status(reply->status), reply->message, clock_now_ms());
    } else {
        part_committed(o, a->part, (struct otr_position){reply->position->epoch, reply->position->index},
                       reply->outcome, reply->applied_pending);
    }
    advance(o);
}

static int forward(struct write_op *o, struct attempt *a, otr_node target, uint64_t now_ms)
{
    struct peer_link *link = node_link(o->op.node, target);
    Outrigger__V1__ForwardRequest request = OUTRIGGER__V1__FORWARD_REQUEST__INIT;

    if (link == NULL || !peer_link_up(link)) {
        return OTR_UNREACHABLE;
    }
    request.shard = a->part->result.shard;
    request.request_id.data = o->w.request_id.bytes;
    request.request_id.len = sizeof o->w.request_id.bytes;
    request.kind = o->w.kind;
    request.body.data = a->part->body;
    request.body.len = a->part->body_bytes;
    request.timeout_ms = door_op_left_ms(&o->op, now_ms);
    return peer_link_call(link, PEER_FORWARD, &request.base, request.timeout_ms, forward_done, a);
}

static void attempt_start(struct write_op *o, struct part *part, otr_node target, uint64_t now_ms)
{
    struct attempt *a = arena_alloc(&o->op.arena, sizeof *a);
    int rv = OTR_NOMEM;

    o->attempts += target != OTR_NODE_NONE;
    if (a != NULL) {
        *a = (struct attempt){.op = o, .part = part, .target = target};
        if (target == OTR_NODE_NONE) {
            rv = OTR_UNAVAIL;
        } else if (target == node_self(o->op.node)) {
            rv = node_write(o->op.node, part->result.shard, &o->w.request_id, o->w.kind, part->body, part->body_bytes,
                            write_done, a);
        } else {
            rv = forward(o, a, target, now_ms);
        }
    }
    if (rv == 0) {
        door_open_add(&part->open, target);
        o->op.attempts_open++;
    } else {
        /* Not started, so nothing can come of it, whatever the reason. */
        if (!refused_for_now(rv) && !refused_for_good(o, rv, now_ms) && rv != OTR_NOTFOUND) {
            rv = OTR_UNAVAIL;
        }
        part_failed(o, part, rv, target == OTR_NODE_NONE ? "the shard has no primary now" : NULL, now_ms);
    }
}

/* --- the operation ------------------------------------------------------------------------------------------------ */

/* False: some shard has too much under way already. Nothing was tried yet. */
static bool share(struct write_op *o)
{
    struct door_share *shares = arena_alloc(&o->op.arena, o->parts_count * sizeof *shares);
    uint64_t room_bytes = o->op.ticket != NULL ? o->op.ticket->room_bytes : 0;
    uint64_t bytes = 0;

    for (size_t i = 0; i < o->parts_count; i++) {
        bytes += o->parts[i].body_bytes;
    }
    for (size_t i = 0; shares != NULL && i < o->parts_count; i++) {
        /* In the bytes of the caller's room, where text may take more than what it says. */
        shares[i] = (struct door_share){o->parts[i].result.shard, room_bytes * o->parts[i].body_bytes / bytes};
    }
    if (shares != NULL && door_op_share(&o->op, shares, o->parts_count)) {
        return true;
    }
    for (size_t i = 0; i < o->parts_count; i++) {
        snprintf(o->parts[i].result.message, sizeof o->parts[i].result.message,
                 "a shard has too much under way already: try again");
        resolve(o, &o->parts[i], OTR_BUSY, DOOR_NOT_APPLIED);
    }
    return false;
}

static void write_look(struct door_op *op, uint64_t now_ms)
{
    struct write_op *o = (struct write_op *)op;

    if (o->parts == NULL) {
        int rv = split(o);

        if (rv != 0) {
            door_op_wait(op, now_ms);
            return;
        }
        if (!share(o)) {
            door_op_settle(op);
            return;
        }
    }
    for (size_t i = 0; i < o->parts_count; i++) {
        struct part *part = &o->parts[i];
        otr_node primary;

        if (part->resolved) {
            continue;
        }
        door_op_wait(op, now_ms); /* News of a change may come late; a look costs nothing. */
        /* While an attempt is under way another one makes sense only with another primary: the one asked may never
         * answer (frozen, cut off), and the request id makes the second harmless. */
        primary = node_primary(op->node, part->result.shard);
        if (part->open.count == 0 || (primary != OTR_NODE_NONE && !door_open_has(&part->open, primary) &&
                                      part->open.count < DOOR_OPEN_MAX && part->refused == 0)) {
            attempt_start(o, part, primary, now_ms);
        }
    }
    if (o->parts_left == 0) {
        door_op_settle(op);
    }
}

/* Which of several parts' failures the whole answer shows. */
static int weight(int status)
{
    switch (status) {
    case 0:
        return 0;
    case OTR_UNKNOWN:
        return 4;
    case OTR_NOSPACE:
        return 3;
    case OTR_INVALID:
    case OTR_TOOBIG:
    case OTR_NOTFOUND:
        return 2;
    default:
        return 1;
    }
}

/* The deadline: what is not resolved is certain only if every attempt was refused (PROTOCOL Q3). */
static void give_up(struct write_op *o, struct part *part, int status)
{
    if (part->uncertain || part->open.count > 0) {
        if (part->result.message[0] == '\0') {
            snprintf(part->result.message, sizeof part->result.message, "no answer from the shard's primary in time");
        }
        resolve(o, part, OTR_UNKNOWN, DOOR_APPLIED_UNKNOWN);
    } else {
        resolve(o, part, part->result.status != 0 ? part->result.status : status, DOOR_NOT_APPLIED);
    }
}

static void write_finish(struct door_op *op, int status)
{
    struct write_op *o = (struct write_op *)op;
    struct door_write_part *parts = arena_alloc(&op->arena, (o->parts_count + 1) * sizeof *parts);
    struct door_write_part nowhere = {
        .status = status, .applied = DOOR_NOT_APPLIED, .message = "the cluster's shards are not known here yet"};
    struct door_write_result result = {.part_of_point = o->part_of_point};

    if (o->parts == NULL || parts == NULL) {
        /* Nothing was tried; or no memory to tell what was. */
        nowhere.applied = o->parts == NULL ? DOOR_NOT_APPLIED : DOOR_APPLIED_UNKNOWN;
        nowhere.status = o->parts == NULL ? (status == OTR_TIMEOUT ? OTR_UNAVAIL : status) : OTR_UNKNOWN;
        memset(o->part_of_point, 0, o->w.points_count * sizeof *o->part_of_point);
        result.status = nowhere.status;
        result.parts = &nowhere;
        result.parts_count = 1;
        o->cb(o->data, &result);
        return;
    }
    for (size_t i = 0; i < o->parts_count; i++) {
        if (!o->parts[i].resolved) {
            give_up(o, &o->parts[i], status);
        }
        parts[i] = o->parts[i].result;
        if (weight(parts[i].status) > weight(result.status)) {
            result.status = parts[i].status;
        }
    }
    result.parts = parts;
    result.parts_count = o->parts_count;
    result.retries = o->attempts > o->parts_count ? o->attempts - (uint32_t)o->parts_count : 0;
    o->cb(o->data, &result);
}

static void write_free(struct door_op *op)
{
    free(op);
}

static const struct door_op_kind write_kind = {
    .look = write_look, .finish = write_finish, .free = write_free, .operation = NODE_OP_WRITE};

int door_write(struct door *d, const struct door_write *w, door_write_cb cb, void *data)
{
    struct write_op *o;

    if (w->points_count == 0 || w->points_count > UINT32_MAX || (w->kind != RECORD_PUT && w->kind != RECORD_DELETE) ||
        otr_request_id_is_none(&w->request_id)) {
        return OTR_INVALID;
    }
    o = calloc(1, sizeof *o);
    if (o == NULL) {
        return OTR_NOMEM;
    }
    o->part_of_point = arena_alloc(&o->op.arena, w->points_count * sizeof *o->part_of_point);
    if (o->part_of_point == NULL) {
        free(o);
        return OTR_NOMEM;
    }
    memset(o->part_of_point, 0, w->points_count * sizeof *o->part_of_point);
    o->w = *w;
    o->cb = cb;
    o->data = data;
    if (body_bytes(o, w->points, w->points_count) > OTR_BODY_MAX) {
        /* A larger body than one record could still fit shard by shard; whether it does must not depend on hashes. */
        arena_close(&o->op.arena);
        free(o);
        return OTR_TOOBIG;
    }
    o->op.ticket = w->ticket;
    door_op_start(d, &o->op, &write_kind, w->timeout_ms);
    return 0;
}
