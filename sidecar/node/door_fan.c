/* What asks every shard: search and count. Parts that go to the same peer travel in one message. All shards answer, or
 * it is an error: a page that lacks a shard would be wrong without looking so.
 *
 * Merging: each shard's hits come sorted by (score, id), and an id lives in one shard only; so the page is the head of
 * a k-way merge. */
#include "sidecar/node/door_internal.h"

#include "sidecar/core/merge.h"
#include "sidecar/io/clock.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

struct part {
    otr_shard shard;
    bool resolved;
    bool failed; /* in the newest attempt */
    struct door_open open;
    uint64_t asked_ms; /* 0: the newest attempt failed */
    struct door_tried tried;
    otr_node target; /* of the look under way */
    struct node_hit *hits;
    size_t hits_count;
    size_t next; /* while merging */
};

struct fan_op {
    struct door_op op;
    bool counting;
    struct door_search s; /* for a count only `collection` and `consistency` */
    door_search_cb search_cb;
    door_count_cb count_cb;
    void *data;
    struct part *parts; /* NULL: shards not known yet */
    size_t parts_count;
    size_t parts_left;
    uint64_t count;
    int status; /* of the newest failure */
    struct otr_errmsg msg;
};

struct attempt {
    struct fan_op *op;
    struct part **parts;
    size_t parts_count;
    otr_node target;
};

/* --- results ------------------------------------------------------------------------------------------------------ */

static void fan_look(struct door_op *op, uint64_t now_ms);

static void part_failed(struct fan_op *o, struct part *part, int status, const char *message)
{
    uint64_t now_ms = clock_now_ms();

    o->status = status;
    otr_errmsg_set(&o->msg, "shard %u: %s", part->shard,
                   message != NULL && message[0] != '\0' ? message : otr_strerror(status));
    if (status == OTR_INVALID || status == OTR_TOOBIG ||
        (status == OTR_NOTFOUND && now_ms - o->op.started_ms >= DOOR_NOTFOUND_MS)) {
        o->op.deadline_ms = now_ms; /* No other replica will say anything else. */
    }
    /* Whoever could answer has too much to do: asking again makes it more. */
    if (status == OTR_BUSY && part->open.count == 0 &&
        door_read_target(o->op.node, part->shard, o->s.consistency, o->counting, &part->tried) == OTR_NODE_NONE) {
        o->op.deadline_ms = now_ms;
    }
    part->failed = true;
    part->asked_ms = 0;
    door_op_wait(&o->op, now_ms);
}

/* Whether one of the attempt's parts failed and can go elsewhere at once. */
static void fan_advance(struct fan_op *o, const struct attempt *a)
{
    bool again = false;

    if (o->parts_left == 0) {
        door_op_settle(&o->op);
        return;
    }
    for (size_t i = 0; i < a->parts_count && !again; i++) {
        struct part *part = a->parts[i];

        again = part->failed && !part->resolved && part->open.count == 0 &&
                door_read_target(o->op.node, part->shard, o->s.consistency, o->counting, &part->tried) != OTR_NODE_NONE;
    }
    if (again && clock_now_ms() < o->op.deadline_ms) {
        fan_look(&o->op, clock_now_ms());
        if (o->parts_left == 0) {
            door_op_settle(&o->op); /* Counted here. */
        }
    }
}

static int copy_hit(struct arena *arena, struct node_hit *to, const struct node_hit *from)
{
    *to = *from;
    to->point.id = arena_copy(arena, from->point.id, from->point.id_bytes);
    if (to->point.id == NULL) {
        return OTR_NOMEM;
    }
    if (from->point.metadata_bytes != 0) {
        to->point.metadata = arena_copy(arena, from->point.metadata, from->point.metadata_bytes);
        if (to->point.metadata == NULL) {
            return OTR_NOMEM;
        }
    }
    if (from->point.vector != NULL) {
        size_t bytes = from->point.dimension * sizeof *from->point.vector;
        float *vector = arena_alloc(arena, bytes);

        if (vector == NULL) {
            return OTR_NOMEM;
        }
        memcpy(vector, from->point.vector, bytes);
        to->point.vector = vector;
    }
    return 0;
}

static size_t hits_bytes(const struct node_hit *hits, size_t count)
{
    size_t bytes = (count + 1) * sizeof *hits;

    for (size_t i = 0; i < count; i++) {
        const struct otr_point *p = &hits[i].point;

        bytes += p->id_bytes + p->metadata_bytes + (p->vector != NULL ? p->dimension * sizeof *p->vector : 0);
    }
    return bytes;
}

static struct merge_hit as_merge_hit(const struct node_hit *h)
{
    return (struct merge_hit){.score = h->score, .id = h->point.id, .id_bytes = h->point.id_bytes};
}

/* Takes a shard's hits over (copied); OTR_PROTO when they are not in order, OTR_BUSY or OTR_TOOBIG when they are too
 * much. */
static int take_hits(struct fan_op *o, struct part *part, const struct node_hit *hits, size_t count)
{
    struct node_hit *copies;
    int rv;

    count = count > o->s.k ? o->s.k : count;
    rv = door_op_take_room(&o->op, hits_bytes(hits, count));
    if (rv != 0) {
        return rv;
    }
    copies = arena_alloc(&o->op.arena, (count + 1) * sizeof *copies);
    if (copies == NULL) {
        return OTR_NOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        struct merge_hit now = as_merge_hit(&hits[i]);

        if (i > 0) {
            struct merge_hit before = as_merge_hit(&hits[i - 1]);
            if (merge_compare(&before, &now) >= 0) {
                return OTR_PROTO;
            }
        }
        if (copy_hit(&o->op.arena, &copies[i], &hits[i]) != 0) {
            return OTR_NOMEM;
        }
    }
    part->hits = copies;
    part->hits_count = count;
    part->resolved = true;
    o->parts_left--;
    return 0;
}

/* --- local -------------------------------------------------------------------------------------------------------- */

static void local_done(void *data, int status, const struct node_hit *hits, size_t count, const struct otr_errmsg *msg)
{
    struct attempt *a = data;
    struct fan_op *o = a->op;
    struct part *part = a->parts[0];

    if (!door_op_returned(&o->op)) {
        return;
    }
    door_open_remove(&part->open, a->target);
    if (!part->resolved) {
        if (status == 0) {
            status = take_hits(o, part, hits, count);
            msg = NULL;
        }
        if (status != 0) {
            part_failed(o, part, status, msg != NULL ? msg->text : NULL);
        }
    }
    fan_advance(o, a);
}

static int search_local(struct fan_op *o, struct attempt *a, uint32_t timeout_ms)
{
    struct node_search search = {
        .shard = a->parts[0]->shard,
        .collection = o->s.collection,
        .vector = o->s.vector,
        .dimension = o->s.dimension,
        .k = o->s.k,
        .with_threshold = o->s.with_threshold,
        .threshold = o->s.threshold,
        .filter = o->s.filter,
        .with_vector = o->s.with_vector,
        .consistency = o->s.consistency,
        .after = door_after(o->s.after, a->parts[0]->shard),
        .timeout_ms = timeout_ms,
    };

    return node_search(o->op.node, &search, local_done, a);
}

/* --- remote ------------------------------------------------------------------------------------------------------- */

static int read_hits(struct fan_op *o, struct part *part, const Outrigger__V1__SearchReply__Shard *reply)
{
    struct node_hit *hits = calloc(reply->n_hits + 1, sizeof *hits);
    int rv = hits == NULL ? OTR_NOMEM : 0;

    for (size_t i = 0; i < reply->n_hits && rv == 0; i++) {
        const Outrigger__V1__SearchReply__Hit *h = reply->hits[i];
        size_t id_bytes = strlen(h->id);
        struct otr_point *p = &hits[i].point;

        if (id_bytes == 0 || id_bytes > OTR_POINT_ID_MAX || h->metadata.len > OTR_METADATA_MAX || isnan(h->score) ||
            !door_wire_vector(&h->vector, &p->vector, &p->dimension)) {
            rv = OTR_PROTO;
            break;
        }
        hits[i].score = h->score;
        p->id = h->id;
        p->id_bytes = (uint32_t)id_bytes;
        p->metadata = h->metadata.len != 0 ? (const char *)h->metadata.data : NULL;
        p->metadata_bytes = (uint32_t)h->metadata.len;
    }
    if (rv == 0) {
        rv = take_hits(o, part, hits, reply->n_hits);
    }
    free(hits);
    return rv;
}

static void take_shard_reply(struct fan_op *o, struct part *part, const Outrigger__V1__SearchReply *reply)
{
    for (size_t i = 0; i < reply->n_shards; i++) {
        const Outrigger__V1__SearchReply__Shard *shard = reply->shards[i];

        if (shard->shard == part->shard) {
            int rv = shard->status != 0 ? door_wire_status(shard->status) : read_hits(o, part, shard);

            if (rv != 0) {
                part_failed(o, part, rv, shard->status != 0 ? shard->message : NULL);
            }
            return;
        }
    }
    part_failed(o, part, OTR_PROTO, "missing in the peer's answer");
}

/* Takes the attempt off its parts; false when the operation is over. */
static bool remote_returned(struct attempt *a)
{
    if (!door_op_returned(&a->op->op)) {
        return false;
    }
    for (size_t i = 0; i < a->parts_count; i++) {
        door_open_remove(&a->parts[i]->open, a->target);
    }
    return true;
}

static void search_done(void *data, int status, const ProtobufCMessage *message, const struct otr_errmsg *msg)
{
    struct attempt *a = data;

    if (!remote_returned(a)) {
        return;
    }
    for (size_t i = 0; i < a->parts_count; i++) {
        if (a->parts[i]->resolved) {
            continue;
        }
        if (status != 0) {
            part_failed(a->op, a->parts[i], status, msg != NULL ? msg->text : NULL);
        } else {
            take_shard_reply(a->op, a->parts[i], (const Outrigger__V1__SearchReply *)(const void *)message);
        }
    }
    fan_advance(a->op, a);
}

static void count_done(void *data, int status, const ProtobufCMessage *message, const struct otr_errmsg *msg)
{
    const Outrigger__V1__CountReply *reply = (const Outrigger__V1__CountReply *)(const void *)message;
    struct attempt *a = data;
    const char *words = msg != NULL ? msg->text : NULL;

    if (!remote_returned(a)) {
        return;
    }
    if (status == 0 && reply->status != 0) {
        status = door_wire_status(reply->status);
        words = reply->message;
    }
    for (size_t i = 0; i < a->parts_count; i++) {
        if (status != 0) {
            part_failed(a->op, a->parts[i], status, words);
        } else {
            a->parts[i]->resolved = true; /* The sum is the group's: parts of a count are never asked twice at once. */
            a->op->parts_left--;
        }
    }
    a->op->count += status == 0 ? reply->count : 0;
    fan_advance(a->op, a);
}

static int search_remote(struct fan_op *o, struct attempt *a, struct peer_link *link, uint32_t *shards,
                         uint32_t timeout_ms)
{
    Outrigger__V1__SearchRequest request = OUTRIGGER__V1__SEARCH_REQUEST__INIT;
    Outrigger__V1__ShardPosition *after = calloc(a->parts_count, sizeof *after);
    Outrigger__V1__ShardPosition **afters = calloc(a->parts_count, sizeof(void *));
    Outrigger__V1__Position *positions = calloc(a->parts_count, sizeof *positions);
    int rv = OTR_NOMEM;

    if (after == NULL || afters == NULL || positions == NULL) {
        goto out;
    }
    for (size_t i = 0; i < a->parts_count; i++) {
        struct otr_position p = door_after(o->s.after, a->parts[i]->shard);

        if (p.index != 0) {
            size_t n = request.n_after++;
            outrigger__v1__shard_position__init(&after[n]);
            outrigger__v1__position__init(&positions[n]);
            positions[n].epoch = p.epoch;
            positions[n].index = p.index;
            after[n].shard = a->parts[i]->shard;
            after[n].position = &positions[n];
            afters[n] = &after[n];
        }
    }
    request.after = afters;
    request.n_shards = a->parts_count;
    request.shards = shards;
    request.collection = o->s.collection;
    request.vector.data = (uint8_t *)(uintptr_t)o->s.vector;
    request.vector.len = o->s.dimension * sizeof *o->s.vector;
    request.k = o->s.k;
    request.with_threshold = o->s.with_threshold;
    request.threshold = o->s.threshold;
    request.filter.data = (uint8_t *)(uintptr_t)o->s.filter;
    request.filter.len = o->s.filter != NULL ? strlen(o->s.filter) : 0;
    request.with_vector = o->s.with_vector;
    request.consistency = (Outrigger__V1__Consistency)o->s.consistency;
    request.timeout_ms = timeout_ms;
    rv = peer_link_call(link, PEER_SEARCH, &request.base, timeout_ms, search_done, a);
out:
    free(after);
    free(afters);
    free(positions);
    return rv;
}

static int ask_remote(struct fan_op *o, struct attempt *a, otr_node target, uint32_t timeout_ms)
{
    struct peer_link *link = node_link(o->op.node, target);
    Outrigger__V1__CountRequest request = OUTRIGGER__V1__COUNT_REQUEST__INIT;
    uint32_t *shards;
    int rv;

    if (link == NULL || !peer_link_up(link)) {
        return OTR_UNREACHABLE;
    }
    assert(a->parts_count > 0);
    shards = calloc(a->parts_count, sizeof *shards);
    if (shards == NULL) {
        return OTR_NOMEM;
    }
    for (size_t i = 0; i < a->parts_count; i++) {
        shards[i] = a->parts[i]->shard;
    }
    if (o->counting) {
        request.collection = o->s.collection;
        request.n_shards = a->parts_count;
        request.shards = shards;
        rv = peer_link_call(link, PEER_COUNT, &request.base, timeout_ms, count_done, a);
    } else {
        rv = search_remote(o, a, link, shards, timeout_ms);
    }
    free(shards);
    return rv;
}

/* --- the operation ------------------------------------------------------------------------------------------------ */

static void count_local(struct fan_op *o, struct part *part)
{
    uint64_t count;

    if (node_count(o->op.node, part->shard, o->s.collection, &count)) {
        o->count += count;
        part->resolved = true;
        o->parts_left--;
    } else {
        part_failed(o, part, OTR_NOTPRIMARY, NULL);
    }
}

/* Asks `target` for the parts from parts[first] on that want it. */
static void ask(struct fan_op *o, size_t first, otr_node target, uint64_t now_ms)
{
    bool local = target == node_self(o->op.node);
    struct attempt *a = arena_alloc(&o->op.arena, sizeof *a);
    size_t room = local ? 1 : o->parts_count - first;
    int rv = OTR_NOMEM;

    if (a != NULL) {
        *a = (struct attempt){
            .op = o, .parts = arena_alloc(&o->op.arena, room * sizeof(struct part *)), .target = target};
    }
    if (a == NULL || a->parts == NULL) {
        o->parts[first].target = OTR_NODE_NONE;
        part_failed(o, &o->parts[first], OTR_NOMEM, NULL);
        return;
    }
    for (size_t i = first; i < o->parts_count && a->parts_count < room; i++) {
        struct part *part = &o->parts[i];

        if (part->target == target) {
            part->target = OTR_NODE_NONE;
            part->failed = false;
            part->asked_ms = now_ms;
            door_tried_add(&part->tried, target);
            a->parts[a->parts_count++] = part;
        }
    }
    rv = local ? search_local(o, a, door_op_left_ms(&o->op, now_ms))
               : ask_remote(o, a, target, door_op_left_ms(&o->op, now_ms));
    o->op.attempts_open += rv == 0;
    for (size_t i = 0; i < a->parts_count; i++) {
        if (rv == 0) {
            door_open_add(&a->parts[i]->open, target);
        } else {
            part_failed(o, a->parts[i], rv, NULL);
        }
    }
}

/* Whom to ask for the part now, OTR_NODE_NONE: nobody. As in door_get.c; but a count is never asked twice at once, for
 * its sum must not be taken twice. */
static otr_node next_target(struct fan_op *o, struct part *part, uint64_t now_ms)
{
    otr_node primary = node_primary(o->op.node, part->shard);
    otr_node target;

    if (part->resolved || part->open.count == DOOR_OPEN_MAX || (part->open.count != 0 && o->counting)) {
        return OTR_NODE_NONE;
    }
    if (part->open.count != 0 && o->s.consistency == NODE_LINEARIZABLE) {
        return door_open_has(&part->open, primary) ? OTR_NODE_NONE : primary;
    }
    if (part->open.count != 0 && now_ms < part->asked_ms + DOOR_HEDGE_MS) {
        return OTR_NODE_NONE;
    }
    target = door_read_target(o->op.node, part->shard, o->s.consistency, o->counting, &part->tried);
    if (target == OTR_NODE_NONE && part->open.count == 0) {
        part->tried.count = 0; /* From the start again. */
        target = door_read_target(o->op.node, part->shard, o->s.consistency, o->counting, &part->tried);
        if (target == OTR_NODE_NONE) {
            part_failed(o, part, OTR_UNAVAIL, "no replica can be asked now");
        }
    }
    return target;
}

static int make_parts(struct fan_op *o)
{
    otr_shard *shards;
    size_t count;
    int rv = door_shards(o->op.node, &o->op.arena, &shards, &count);

    if (rv != 0) {
        return rv;
    }
    o->parts = arena_alloc(&o->op.arena, count * sizeof *o->parts);
    if (o->parts == NULL) {
        return OTR_NOMEM;
    }
    memset(o->parts, 0, count * sizeof *o->parts);
    for (size_t i = 0; i < count; i++) {
        o->parts[i].shard = shards[i];
    }
    o->parts_count = count;
    o->parts_left = count;
    return 0;
}

static void fan_look(struct door_op *op, uint64_t now_ms)
{
    struct fan_op *o = (struct fan_op *)op;

    if (o->parts == NULL && make_parts(o) != 0) {
        o->status = OTR_UNAVAIL;
        otr_errmsg_set(&o->msg, "the cluster's shards are not all known here yet");
        door_op_wait(op, now_ms);
        return;
    }
    door_op_wait(op, now_ms); /* For what hangs; a look without anything to do is cheap. */
    for (size_t i = 0; i < o->parts_count; i++) {
        o->parts[i].target = next_target(o, &o->parts[i], now_ms);
    }
    for (size_t i = 0; i < o->parts_count; i++) {
        otr_node target = o->parts[i].target;

        if (target == OTR_NODE_NONE) {
            continue;
        }
        if (o->counting && target == node_self(op->node)) {
            o->parts[i].target = OTR_NODE_NONE;
            door_tried_add(&o->parts[i].tried, target);
            count_local(o, &o->parts[i]);
        } else {
            ask(o, i, target, now_ms);
        }
    }
    if (o->parts_left == 0 && op->starting) {
        door_op_settle(op);
    }
}

/* --- merging ------------------------------------------------------------------------------------------------------ */

static bool part_before(const struct part *a, const struct part *b)
{
    struct merge_hit x = as_merge_hit(&a->hits[a->next]);
    struct merge_hit y = as_merge_hit(&b->hits[b->next]);

    return merge_compare(&x, &y) < 0;
}

static void sift_down(struct part **heap, size_t count, size_t at)
{
    for (;;) {
        size_t best = at;
        struct part *moved;

        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < count; child++) {
            best = part_before(heap[child], heap[best]) ? child : best;
        }
        if (best == at) {
            return;
        }
        moved = heap[at];
        heap[at] = heap[best];
        heap[best] = moved;
        at = best;
    }
}

/* The k best of all parts, in order; NULL: out of memory. */
static struct node_hit *merge(struct fan_op *o, size_t *count)
{
    struct node_hit *page = arena_alloc(&o->op.arena, ((size_t)o->s.k + 1) * sizeof *page);
    struct part **heap = arena_alloc(&o->op.arena, (o->parts_count + 1) * sizeof(struct part *));
    size_t left = 0;

    *count = 0;
    if (page == NULL || heap == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < o->parts_count; i++) {
        if (o->parts[i].hits_count != 0) {
            heap[left++] = &o->parts[i];
        }
    }
    for (size_t i = left / 2; i-- > 0;) {
        sift_down(heap, left, i);
    }
    while (left > 0 && *count < o->s.k) {
        page[(*count)++] = heap[0]->hits[heap[0]->next++];
        if (heap[0]->next == heap[0]->hits_count) {
            heap[0] = heap[--left];
        }
        sift_down(heap, left, 0);
    }
    return page;
}

static void fan_finish(struct door_op *op, int status)
{
    struct fan_op *o = (struct fan_op *)op;
    struct node_hit *page = NULL;
    size_t count = 0;

    if (o->parts == NULL || o->parts_left > 0) {
        if (status != OTR_CANCELED) {
            status = o->status != 0 && o->status != OTR_UNREACHABLE ? o->status : OTR_TIMEOUT;
        }
        if (o->msg.text[0] == '\0') {
            otr_errmsg_set(&o->msg, "not every shard answered in time");
        }
    } else {
        status = 0;
        page = o->counting ? NULL : merge(o, &count);
        if (page == NULL && !o->counting) {
            status = OTR_NOMEM;
        }
    }
    if (o->counting) {
        o->count_cb(o->data, status, o->count, &o->msg);
    } else {
        o->search_cb(o->data, status, page, count, &o->msg);
    }
}

static void fan_free(struct door_op *op)
{
    free(op);
}

static const struct door_op_kind fan_kind = {.look = fan_look, .finish = fan_finish, .free = fan_free};

/* Copies what attempts that outlive the operation still look at. */
static int keep_inputs(struct fan_op *o)
{
    size_t bytes = o->s.dimension * sizeof *o->s.vector;
    float *vector = arena_alloc(&o->op.arena, bytes);

    if (vector == NULL) {
        return OTR_NOMEM;
    }
    memcpy(vector, o->s.vector, bytes);
    o->s.vector = vector;
    if (o->s.filter != NULL) {
        o->s.filter = arena_copy(&o->op.arena, o->s.filter, strlen(o->s.filter));
        if (o->s.filter == NULL) {
            return OTR_NOMEM;
        }
    }
    return 0;
}

int door_search(struct door *d, const struct door_search *s, door_search_cb cb, void *data)
{
    struct fan_op *o;

    if (s->k == 0 || s->dimension == 0 || s->dimension > OTR_DIMENSION_MAX) {
        return OTR_INVALID;
    }
    o = calloc(1, sizeof *o);
    if (o == NULL) {
        return OTR_NOMEM;
    }
    o->s = *s;
    o->search_cb = cb;
    o->data = data;
    if (keep_inputs(o) != 0) {
        arena_close(&o->op.arena);
        free(o);
        return OTR_NOMEM;
    }
    o->op.ticket = s->ticket;
    door_op_start(d, &o->op, &fan_kind, s->timeout_ms);
    return 0;
}

int door_count(struct door *d, uint64_t collection, uint32_t timeout_ms, door_count_cb cb, void *data)
{
    struct fan_op *o = calloc(1, sizeof *o);

    if (o == NULL) {
        return OTR_NOMEM;
    }
    o->counting = true;
    o->s.collection = collection;
    o->s.consistency = NODE_EVENTUAL;
    o->count_cb = cb;
    o->data = data;
    door_op_start(d, &o->op, &fan_kind, timeout_ms);
    return 0;
}
