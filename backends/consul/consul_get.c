/* Reads of a whole prefix, in three steps:
 *
 *   IDENTITY  which coordinator this is: a key of its own, made if it is missing
 *   FLOOR     a key below the prefix that never exists: the answer's index is that of the whole store, which only
 * grows, while the index of a prefix falls when Consul forgets a deletion (after some 15 minutes); and it is refused to
 * who may not read there, while a list without permission looks empty LIST      the prefix itself, consistently
 *
 * The revision of the answer is the larger of the last two: whatever is not in the list is younger than both. */
#include "backends/consul/consul.h"

#include "sidecar/io/random.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum step { IDENTITY = 1, IDENTITY_MAKE, FLOOR, LIST };

struct consul_get {
    struct consul *consul;
    char *prefix;
    int endpoint;
    consul_get_done_cb done;
    void *data;
    enum step step;
    struct consul_call *call;
    struct kv_list kvs;
    uint64_t identity;
    uint64_t floor;
    bool identity_made; /* by us, or so we tried */
    bool canceled;
};

static void get_finish(struct consul_get *get, struct consul_got *got)
{
    struct consul *consul = get->consul;

    got->result.kvs = get->kvs.list;
    got->result.kvs_count = get->kvs.count;
    got->result.identity = get->identity;
    got->kvs = &get->kvs;
    if (got->status != 0) {
        otr_errmsg_wrap(got->msg, "read %s", get->prefix);
    }
    get->done(get->data, got);
    kv_list_close(&get->kvs);
    free(get->prefix);
    free(get);
    consul_object_gone(consul);
}

/* The statuses that otr_get_cb knows. */
static int get_status(const struct consul_reply *reply)
{
    switch (reply->status) {
    case OTR_CANCELED:
    case OTR_TIMEOUT:
    case OTR_DENIED:
    case OTR_NOMEM:
        return reply->status;
    default:
        return OTR_UNREACHABLE;
    }
}

static void step_done(void *data, const struct consul_reply *reply);

static int step_start(struct consul_get *get, enum step step)
{
    struct consul_call_spec spec = {
        .method = step == IDENTITY_MAKE ? "PUT" : "GET",
        .lane = CONSUL_LANE_REQUEST,
        .endpoint = get->endpoint,
        .accepted = step == IDENTITY_MAKE ? 0 : 404,
        .repeat = true,
        .done = step_done,
        .data = get,
    };
    struct json_text path = {0};
    struct json_text body = {0};

    get->step = step;
    json_text_add(&path, "/v1/kv/");
    if (step == IDENTITY || step == IDENTITY_MAKE) {
        json_text_add(&path, step == IDENTITY ? CONSUL_IDENTITY_KEY "?raw&consistent" : CONSUL_IDENTITY_KEY "?cas=0");
    } else {
        consul_add_path(&path, get->prefix);
        json_text_add(&path, step == FLOOR ? "~none?consistent" : "?recurse&consistent");
    }
    if (step == IDENTITY_MAKE) { /* Below 2^63, for whoever prints it signed. */
        json_text_add(&body, "%" PRIu64, random_u64() >> 1 | 1);
    }
    return consul_call_start(get->consul, &spec, &path, &body, &get->call);
}

static int identity_read(struct consul_get *get, const struct consul_reply *reply)
{
    if (get->step == IDENTITY_MAKE) {
        get->identity_made = true;
        return step_start(get, IDENTITY); /* Another may have been quicker. */
    }
    if (reply->http_status == 404) {
        return get->identity_made ? OTR_PROTO : step_start(get, IDENTITY_MAKE);
    }
    if (!json_text_u64(reply->body, &get->identity) || get->identity == 0) {
        otr_errmsg_set(reply->msg, "consul: key %s does not hold a number: remove it", CONSUL_IDENTITY_KEY);
        return OTR_UNREACHABLE;
    }
    return step_start(get, FLOOR);
}

static int list_read(struct consul_get *get, const struct consul_reply *reply)
{
    if (reply->index == 0) {
        return OTR_PROTO;
    }
    return reply->http_status == 404 ? 0 : consul_kvs_decode(reply->json, get->prefix[0] == '/', &get->kvs);
}

/* Goes on with the next step: then 0, and *more. */
static int step_read(struct consul_get *get, const struct consul_reply *reply, bool *more)
{
    *more = get->step != LIST;
    switch (get->step) {
    case IDENTITY:
    case IDENTITY_MAKE:
        return identity_read(get, reply);
    case FLOOR:
        get->floor = reply->index;
        return step_start(get, LIST);
    case LIST:
        break;
    }
    return list_read(get, reply);
}

static void step_done(void *data, const struct consul_reply *reply)
{
    struct consul_get *get = data;
    struct consul_got got = {.status = get->canceled ? OTR_CANCELED : 0, .msg = reply->msg, .sent_ms = reply->sent_ms};
    bool more = false;

    get->call = NULL;
    if (got.status == 0 && reply->status != 0) {
        got.status = get_status(reply);
        got.token_unknown = reply->token_unknown;
        if (got.status == OTR_DENIED && get->step == IDENTITY_MAKE) {
            otr_errmsg_wrap(reply->msg, "make the key " CONSUL_IDENTITY_KEY ", which the first user needs to");
        }
    } else if (got.status == 0) {
        got.status = step_read(get, reply, &more);
        if (got.status == 0 && more) {
            return;
        }
        if (got.status == OTR_PROTO) {
            otr_errmsg_set(reply->msg, "consul: unusable answer to a read");
            got.status = OTR_UNREACHABLE;
        } else if (got.status != 0 && reply->msg->text[0] == '\0') {
            otr_errmsg_set(reply->msg, "consul: %s", otr_strerror(got.status));
        }
    }
    got.index = reply->index;
    got.result.revision = reply->index > get->floor ? reply->index : get->floor;
    get_finish(get, &got);
}

int consul_get_start(struct consul *consul, const char *prefix, int endpoint, consul_get_done_cb done, void *data,
                     struct consul_get **get)
{
    struct consul_get *g = consul->closing ? NULL : calloc(1, sizeof *g);
    int rv;

    if (g == NULL) {
        return consul->closing ? OTR_CANCELED : OTR_NOMEM;
    }
    g->consul = consul;
    g->endpoint = endpoint;
    g->done = done;
    g->data = data;
    g->prefix = strdup(prefix);
    rv = g->prefix != NULL ? step_start(g, IDENTITY) : OTR_NOMEM;
    if (rv != 0) {
        free(g->prefix);
        free(g);
        return rv;
    }
    consul_object_made(consul);
    if (get != NULL) {
        *get = g;
    }
    return 0;
}

void consul_get_cancel(struct consul_get *get)
{
    get->canceled = true;
    if (get->call != NULL) {
        consul_call_cancel(get->call);
    }
}

/* --- get -------------------------------------------------------------------------------------------------------- */

struct get_op {
    struct consul *consul;
    struct otr_get_req *req;
    otr_get_cb cb;
    char prefix[]; /* as it was given */
};

static void get_op_done(void *data, const struct consul_got *got)
{
    struct get_op *op = data;
    struct consul *consul = op->consul;

    op->req->internal = NULL;
    if (got->status == 0) {
        consul->lent = (struct consul_lent){.prefix = op->prefix, .result = &got->result, .index = got->index};
    }
    op->cb(op->req, got->status, got->status == 0 ? &got->result : NULL, got->msg);
    consul->lent = (struct consul_lent){0};
    free(op);
}

int consul_get_op(struct otr_backend *b, struct otr_get_req *req, const char *prefix, otr_get_cb cb)
{
    struct get_op *op;
    int rv;

    if (!consul_key_valid(prefix)) {
        return OTR_INVALID;
    }
    op = malloc(sizeof *op + strlen(prefix) + 1);
    if (op == NULL) {
        return OTR_NOMEM;
    }
    op->consul = consul_of(b);
    op->req = req;
    op->cb = cb;
    strcpy(op->prefix, prefix);
    rv = consul_get_start(op->consul, prefix, CONSUL_ENDPOINT_ANY, get_op_done, op, NULL);
    if (rv != 0) {
        free(op);
    }
    return rv;
}
