/* The other end of the door: calls of peers, answered out of this node's own shards. Peers are of the cluster, but what
 * they send is checked all the same: a bug there must not become a wrong record here. */
#include "sidecar/core/arena.h"
#include "sidecar/node/door_internal.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_RESOURCE_EXHAUSTED = 8,
    SEARCH_K_MAX = 10000,
    GET_IDS_MAX = 1000,
    TIMEOUT_MS_DEFAULT = 10000,
    REPLY_BYTES_MAX = 60 << 20, /* of hits; leaves room below PEER_MESSAGE_MAX for what surrounds them */
};

/* --- forward ------------------------------------------------------------------------------------------------------ */

static void reply_forward(struct peer_call *call, const struct node_write_result *r)
{
    Outrigger__V1__ForwardReply reply = OUTRIGGER__V1__FORWARD_REPLY__INIT;
    Outrigger__V1__Position position = OUTRIGGER__V1__POSITION__INIT;

    position.epoch = r->position.epoch;
    position.index = r->position.index;
    reply.status = (uint32_t)r->status;
    reply.position = &position;
    reply.outcome = r->outcome;
    reply.applied_pending = r->applied_pending;
    reply.message = (char *)(uintptr_t)(r->message != NULL ? r->message : "");
    peer_call_reply(call, &reply.base);
}

static void forward_failed(struct peer_call *call, int status, const char *message)
{
    reply_forward(call, &(struct node_write_result){.status = status, .message = message});
}

static void forward_done(void *data, const struct node_write_result *result)
{
    reply_forward(data, result);
}

/* A whole record's body, all its points of that shard. */
static int check_body(struct node *n, const Outrigger__V1__ForwardRequest *request, const char **why)
{
    struct body_iter it;
    struct otr_point p;
    uint32_t count = 0;
    int rv;

    *why = "malformed body";
    if (request->body.len > OTR_BODY_MAX || (request->kind != RECORD_PUT && request->kind != RECORD_DELETE) ||
        body_iter_init(&it, (uint16_t)request->kind, request->body.data, request->body.len) != 0) {
        return OTR_INVALID;
    }
    while ((rv = body_next(&it, &p)) == 0) {
        otr_shard shard;

        if (!topology_route(node_topology(n), point_hash(p.id, p.id_bytes), &shard)) {
            *why = "the cluster's shards are not known here yet";
            return OTR_UNAVAIL;
        }
        if (shard != request->shard) {
            *why = "a point of another shard";
            return OTR_INVALID;
        }
        count++;
    }
    return rv == OTR_NOTFOUND && count > 0 ? 0 : OTR_INVALID;
}

static void on_forward(struct node *n, struct peer_call *call, const Outrigger__V1__ForwardRequest *request)
{
    struct otr_request_id id;
    const char *why = "no request id";
    int rv;

    if (request->request_id.len != sizeof id.bytes) {
        forward_failed(call, OTR_INVALID, "a request id has 16 bytes");
        return;
    }
    memcpy(id.bytes, request->request_id.data, sizeof id.bytes);
    rv = otr_request_id_is_none(&id) ? OTR_INVALID : check_body(n, request, &why);
    if (rv != 0) {
        forward_failed(call, rv, why);
        return;
    }
    rv = node_write(n, request->shard, &id, (enum record_kind)request->kind, request->body.data, request->body.len,
                    forward_done, call);
    if (rv != 0) {
        forward_failed(call, rv, otr_strerror(rv));
    }
}

/* --- get ---------------------------------------------------------------------------------------------------------- */

static void fill_point(Outrigger__V1__Point *out, const struct otr_point *p, char *id)
{
    outrigger__v1__point__init(out);
    memcpy(id, p->id, p->id_bytes);
    id[p->id_bytes] = '\0';
    out->id = id;
    out->vector.data = (uint8_t *)(uintptr_t)p->vector;
    out->vector.len = p->dimension * sizeof *p->vector;
    out->metadata.data = (uint8_t *)(uintptr_t)p->metadata;
    out->metadata.len = p->metadata_bytes;
}

static void reply_get(struct peer_call *call, int status, const struct otr_point *points, size_t count,
                      const char *message)
{
    Outrigger__V1__GetReply reply = OUTRIGGER__V1__GET_REPLY__INIT;
    Outrigger__V1__Point *list = calloc(count + 1, sizeof *list);
    Outrigger__V1__Point **pointers = calloc(count + 1, sizeof(void *));
    char *ids = malloc(count * (OTR_POINT_ID_MAX + 1) + 1);

    if (list == NULL || pointers == NULL || ids == NULL) {
        peer_call_fail(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
    } else {
        for (size_t i = 0; i < count; i++) {
            fill_point(&list[i], &points[i], ids + i * (OTR_POINT_ID_MAX + 1));
            pointers[i] = &list[i];
        }
        reply.status = (uint32_t)status;
        reply.n_points = count;
        reply.points = pointers;
        reply.message = (char *)(uintptr_t)message;
        peer_call_reply(call, &reply.base);
    }
    free(list);
    free(pointers);
    free(ids);
}

struct get_call {
    struct peer_call *call;
    struct otr_point *ids;
};

/* Whoever names no time, as a client that knows only the .proto may, has not run out of it. */
static uint32_t timeout_of(uint32_t timeout_ms)
{
    return timeout_ms > 0 ? timeout_ms : TIMEOUT_MS_DEFAULT;
}

static void get_done(void *data, int status, const struct otr_point *points, size_t count, const struct otr_errmsg *msg)
{
    struct get_call *g = data;

    reply_get(g->call, status, points, status == 0 ? count : 0, status != 0 && msg != NULL ? msg->text : "");
    free(g->ids);
    free(g);
}

static void on_get(struct node *n, struct peer_call *call, const Outrigger__V1__GetRequest *request)
{
    struct get_call *g = calloc(1, sizeof *g);
    struct node_get get = {.shard = request->shard,
                           .collection = request->collection,
                           .ids_count = request->n_ids,
                           .timeout_ms = timeout_of(request->timeout_ms)};
    int rv = OTR_NOMEM;

    if (request->n_ids > GET_IDS_MAX) {
        free(g);
        reply_get(call, OTR_INVALID, NULL, 0, "too many ids");
        return;
    }
    if (g == NULL) {
        reply_get(call, rv, NULL, 0, otr_strerror(rv));
        return;
    }
    g->call = call;
    g->ids = calloc(request->n_ids + 1, sizeof *g->ids);
    if (g->ids != NULL) {
        rv = request->n_after > 1 || request->consistency > OUTRIGGER__V1__CONSISTENCY__LINEARIZABLE ? OTR_INVALID : 0;
    }
    for (size_t i = 0; i < request->n_ids && rv == 0; i++) {
        size_t bytes = strlen(request->ids[i]);

        g->ids[i] = (struct otr_point){.id = request->ids[i], .id_bytes = (uint32_t)bytes};
        rv = bytes == 0 || bytes > OTR_POINT_ID_MAX ? OTR_INVALID : 0;
    }
    if (rv == 0) {
        get.ids = g->ids;
        get.consistency = (enum node_consistency)request->consistency;
        if (request->n_after == 1) {
            get.after = (struct otr_position){request->after[0]->epoch, request->after[0]->index};
        }
        rv = node_get(n, &get, get_done, g);
    }
    if (rv != 0) {
        reply_get(call, rv, NULL, 0, otr_strerror(rv));
        free(g->ids);
        free(g);
    }
}

/* --- search ------------------------------------------------------------------------------------------------------- */

struct search_call {
    struct peer_call *call;
    struct arena arena;
    char *filter;
    Outrigger__V1__SearchReply__Shard *shards;
    Outrigger__V1__SearchReply__Shard **pointers;
    size_t shards_count;
    size_t left;
    size_t bytes;
    bool starting;
    struct search_part {
        struct search_call *call;
        Outrigger__V1__SearchReply__Shard *shard;
    } * parts;
};

static void search_free(struct search_call *s)
{
    struct arena arena = s->arena;

    free(s);
    arena_close(&arena);
}

static void search_reply(struct search_call *s)
{
    Outrigger__V1__SearchReply reply = OUTRIGGER__V1__SEARCH_REPLY__INIT;

    reply.n_shards = s->shards_count;
    reply.shards = s->pointers;
    peer_call_reply(s->call, &reply.base);
    search_free(s);
}

static void shard_failed(struct search_part *part, int status, const char *message)
{
    part->shard->status = (uint32_t)status;
    part->shard->n_hits = 0;
    part->shard->message = arena_copy(&part->call->arena, message, strlen(message));
    if (part->shard->message == NULL) {
        part->shard->message = (char *)(uintptr_t)protobuf_c_empty_string;
    }
}

/* A copy of the hit: the node's is lent for its callback only. */
static Outrigger__V1__SearchReply__Hit *copy_hit(struct search_call *s, const struct node_hit *h)
{
    Outrigger__V1__SearchReply__Hit *out = arena_alloc(&s->arena, sizeof *out);

    if (out == NULL) {
        return NULL;
    }
    outrigger__v1__search_reply__hit__init(out);
    out->score = h->score;
    out->id = arena_copy(&s->arena, h->point.id, h->point.id_bytes);
    out->metadata.data = arena_copy(&s->arena, h->point.metadata, h->point.metadata_bytes);
    out->metadata.len = h->point.metadata_bytes;
    if (h->point.vector != NULL) {
        out->vector.len = h->point.dimension * sizeof *h->point.vector;
        out->vector.data = arena_copy(&s->arena, h->point.vector, out->vector.len);
    }
    s->bytes += sizeof *out + h->point.id_bytes + out->metadata.len + out->vector.len;
    return out->id == NULL || out->metadata.data == NULL || (out->vector.len != 0 && out->vector.data == NULL) ? NULL
                                                                                                               : out;
}

static int copy_hits(struct search_part *part, const struct node_hit *hits, size_t count)
{
    part->shard->hits = arena_alloc(&part->call->arena, (count + 1) * sizeof(void *));
    if (part->shard->hits == NULL) {
        return OTR_NOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        part->shard->hits[i] = copy_hit(part->call, &hits[i]);
        if (part->shard->hits[i] == NULL) {
            return OTR_NOMEM;
        }
        if (part->call->bytes > REPLY_BYTES_MAX) {
            return OTR_TOOBIG;
        }
        part->shard->n_hits = i + 1;
    }
    return 0;
}

static void search_done(void *data, int status, const struct node_hit *hits, size_t count, const struct otr_errmsg *msg)
{
    struct search_part *part = data;
    const char *message = msg != NULL && msg->text[0] != '\0' ? msg->text : otr_strerror(status);

    if (status == 0) {
        status = copy_hits(part, hits, count);
        message = otr_strerror(status);
    }
    if (status != 0) {
        shard_failed(part, status, message);
    }
    part->call->left--;
    if (part->call->left == 0 && !part->call->starting) {
        search_reply(part->call);
    }
}

static struct otr_position after_of(const Outrigger__V1__SearchRequest *request, otr_shard shard)
{
    for (size_t i = 0; i < request->n_after; i++) {
        if (request->after[i]->shard == shard && request->after[i]->position != NULL) {
            return (struct otr_position){request->after[i]->position->epoch, request->after[i]->position->index};
        }
    }
    return (struct otr_position){0, 0};
}

static void search_shards(struct node *n, struct search_call *s, const Outrigger__V1__SearchRequest *request,
                          struct node_search *search)
{
    s->starting = true;
    s->left = s->shards_count;
    for (size_t i = 0; i < s->shards_count; i++) {
        int rv;

        search->shard = request->shards[i];
        search->after = after_of(request, search->shard);
        rv = node_search(n, search, search_done, &s->parts[i]);
        if (rv != 0) {
            shard_failed(&s->parts[i], rv, otr_strerror(rv));
            s->left--;
        }
    }
    s->starting = false;
    if (s->left == 0) {
        search_reply(s);
    }
}

static struct search_call *search_new(struct peer_call *call, const Outrigger__V1__SearchRequest *request)
{
    struct search_call *s = calloc(1, sizeof *s);
    size_t count = request->n_shards;

    if (s == NULL) {
        return NULL;
    }
    s->call = call;
    s->shards_count = count;
    s->shards = arena_alloc(&s->arena, count * sizeof *s->shards);
    s->pointers = arena_alloc(&s->arena, count * sizeof(void *));
    s->parts = arena_alloc(&s->arena, count * sizeof *s->parts);
    s->filter = arena_copy(&s->arena, request->filter.data, request->filter.len);
    if (s->shards == NULL || s->pointers == NULL || s->parts == NULL || s->filter == NULL) {
        search_free(s);
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        outrigger__v1__search_reply__shard__init(&s->shards[i]);
        s->shards[i].shard = request->shards[i];
        s->pointers[i] = &s->shards[i];
        s->parts[i] = (struct search_part){.call = s, .shard = &s->shards[i]};
    }
    return s;
}

static void on_search(struct node *n, struct peer_call *call, const Outrigger__V1__SearchRequest *request)
{
    struct node_search search = {
        .collection = request->collection,
        .k = request->k,
        .with_threshold = request->with_threshold,
        .threshold = request->threshold,
        .with_vector = request->with_vector,
        .timeout_ms = timeout_of(request->timeout_ms),
    };
    struct search_call *s;

    if (request->n_shards == 0 || request->n_shards > OTR_SHARDS_MAX || request->k == 0 || request->k > SEARCH_K_MAX ||
        request->filter.len > OTR_METADATA_MAX || request->consistency > OUTRIGGER__V1__CONSISTENCY__LINEARIZABLE ||
        (request->filter.len != 0 && memchr(request->filter.data, 0, request->filter.len) != NULL) ||
        !door_wire_vector(&request->vector, &search.vector, &search.dimension) || search.dimension == 0) {
        peer_call_fail(call, GRPC_INVALID_ARGUMENT, "malformed search");
        return;
    }
    s = search_new(call, request);
    if (s == NULL) {
        peer_call_fail(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    search.consistency = (enum node_consistency)request->consistency;
    search.filter = request->filter.len != 0 ? s->filter : NULL;
    search_shards(n, s, request, &search);
}

/* --- count -------------------------------------------------------------------------------------------------------- */

static void on_count(struct node *n, struct peer_call *call, const Outrigger__V1__CountRequest *request)
{
    Outrigger__V1__CountReply reply = OUTRIGGER__V1__COUNT_REPLY__INIT;

    if (request->n_shards > OTR_SHARDS_MAX) {
        peer_call_fail(call, GRPC_INVALID_ARGUMENT, "malformed count");
        return;
    }
    for (size_t i = 0; i < request->n_shards; i++) {
        uint64_t count;

        if (!node_count(n, request->shards[i], request->collection, &count)) {
            reply.status = OTR_NOTPRIMARY;
            reply.message = (char *)(uintptr_t) "no replica of the shard here";
            break;
        }
        reply.count += count;
    }
    peer_call_reply(call, &reply.base);
}

/* --- handoff ------------------------------------------------------------------------------------------------------ */

struct handoff_call {
    struct peer_call *call;
    struct node *node;
};

static void reply_handoff(struct node *n, struct peer_call *call, const struct node_handoff_result *r)
{
    Outrigger__V1__HandoffReply reply = OUTRIGGER__V1__HANDOFF_REPLY__INIT;

    reply.status = (uint32_t)r->status;
    if (r->to != OTR_NODE_NONE) {
        reply.to = (char *)(uintptr_t)topology_name(node_topology(n), r->to);
    }
    reply.epoch = r->epoch;
    reply.pause_us = r->pause_us < UINT32_MAX ? (uint32_t)r->pause_us : UINT32_MAX;
    reply.message = (char *)(uintptr_t)r->message;
    peer_call_reply(call, &reply.base);
}

static void handoff_done(void *data, const struct node_handoff_result *result)
{
    struct handoff_call *h = data;

    reply_handoff(h->node, h->call, result);
    free(h);
}

static void on_handoff(struct node *n, struct peer_call *call, const Outrigger__V1__HandoffRequest *request)
{
    struct handoff_call *h = malloc(sizeof *h);
    struct node_handoff_result refused = {.status = OTR_NOMEM};
    struct otr_errmsg msg = {0};
    otr_node to = OTR_NODE_NONE;

    if (h != NULL) {
        *h = (struct handoff_call){.call = call, .node = n};
        refused.status = strlen(request->to) <= OTR_NAME_MAX ? 0 : OTR_INVALID;
    }
    if (refused.status == 0 && request->to[0] != '\0') {
        to = topology_intern(node_topology(n), request->to);
        refused.status = to != OTR_NODE_NONE ? 0 : OTR_INVALID;
    }
    if (refused.status == 0) {
        refused.status = node_handoff(n, request->shard, to, request->timeout_ms, handoff_done, h, &msg);
    }
    if (refused.status != 0) {
        snprintf(refused.message, sizeof refused.message, "%.*s", (int)sizeof refused.message - 1, msg.text);
        refused.to = to;
        reply_handoff(n, call, &refused);
        free(h);
    }
}

void door_on_call(struct node *n, struct peer_call *call, enum peer_method method, const struct peer_from *from,
                  const ProtobufCMessage *request)
{
    const void *message = request;

    (void)from;
    switch (method) {
    case PEER_FORWARD:
        on_forward(n, call, message);
        return;
    case PEER_GET:
        on_get(n, call, message);
        return;
    case PEER_SEARCH:
        on_search(n, call, message);
        return;
    case PEER_COUNT:
        on_count(n, call, message);
        return;
    case PEER_HANDOFF:
        on_handoff(n, call, message);
        return;
    case PEER_HELLO:
    case PEER_REPLICATE:
    case PEER_BEACON:
    case PEER_SEED:
    default:
        peer_call_fail(call, GRPC_INVALID_ARGUMENT, "not a call for the door");
    }
}
