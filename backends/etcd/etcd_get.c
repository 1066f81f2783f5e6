/* Reads of a whole prefix, page by page, all pages at the revision of the first. When that revision is compacted
 * meanwhile, or a page turns out larger than the HTTP client takes, the read starts anew, in the second case with
 * smaller pages. */
#include "backends/etcd/etcd.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE_KEYS = 500, RESTARTS_MAX = 8 };

struct etcd_get {
    struct etcd *etcd;
    char *prefix;
    etcd_get_done_cb done;
    void *data;
    struct etcd_call *call;
    struct kv_list kvs;
    struct json_text last; /* key of the pages so far, also when it is none of ours */
    uint64_t revision;     /* 0 before the first page */
    unsigned page_keys;
    unsigned restarts_count;
    bool canceled;
};

static void get_finish(struct etcd_get *get, int status, struct otr_errmsg *msg)
{
    struct etcd *etcd = get->etcd;
    struct otr_get_result result = {
        .kvs = get->kvs.list,
        .kvs_count = get->kvs.count,
        .revision = get->revision,
        .identity = etcd->identity,
    };

    if (status != 0) {
        otr_errmsg_wrap(msg, "read %s", get->prefix);
    }
    get->done(get->data, status, status == 0 ? &result : NULL, msg);
    kv_list_close(&get->kvs);
    json_text_close(&get->last);
    free(get->prefix);
    free(get);
    etcd_object_gone(etcd);
}

/* The statuses that otr_get_cb knows. */
static int get_status(const struct etcd_reply *reply)
{
    switch (reply->status) {
    case OTR_CANCELED:
    case OTR_TIMEOUT:
    case OTR_DENIED:
    case OTR_NOMEM:
        return reply->status;
    case OTR_INVALID: /* A range that etcd finds fault with: authentication is on, and we did not say who we are. */
        return OTR_DENIED;
    default:
        return OTR_UNREACHABLE;
    }
}

static int page_read(struct etcd_get *get, const struct etcd_reply *reply)
{
    const cJSON *kvs = cJSON_GetObjectItemCaseSensitive(reply->json, "kvs");
    const cJSON *item;
    int rv;

    if (get->revision == 0) {
        get->revision = etcd_json_u64(reply->header, "revision");
    }
    if (get->revision == 0) {
        return OTR_PROTO;
    }
    cJSON_ArrayForEach(item, kvs)
    {
        struct otr_kv kv = {0};

        if (!etcd_key_decode(item, &get->last)) {
            return OTR_PROTO;
        }
        rv = etcd_kv_decode(item, &kv);
        if (rv == OTR_UNSUPPORTED) {
            continue;
        }
        if (rv == 0) {
            rv = kv_list_add(&get->kvs, &kv);
        }
        if (rv != 0) {
            kv_close(&kv);
            return rv;
        }
    }
    return 0;
}

static int page_ask(struct etcd_get *get);

static int get_restart(struct etcd_get *get)
{
    get->restarts_count++;
    get->revision = 0;
    get->last.bytes = 0;
    kv_list_close(&get->kvs);
    return page_ask(get);
}

static void page_done(void *data, const struct etcd_reply *reply)
{
    struct etcd_get *get = data;
    bool more = reply->status == 0 && etcd_json_true(reply->json, "more");
    int rv = reply->status;

    get->call = NULL;
    if (get->canceled) {
        rv = OTR_CANCELED;
    } else if (rv == 0) {
        rv = page_read(get, reply);
        if (rv == OTR_PROTO) {
            otr_errmsg_set(reply->msg, "etcd: unusable answer to a range");
            rv = OTR_UNREACHABLE;
        } else if (rv == 0 && more && get->last.bytes > 0) {
            rv = page_ask(get);
            if (rv == 0) {
                return;
            }
        }
    } else if (get->restarts_count < RESTARTS_MAX && (rv == OTR_GONE || (rv == OTR_TOOBIG && get->page_keys > 1))) {
        get->page_keys = rv == OTR_TOOBIG ? (get->page_keys + 3) / 4 : get->page_keys;
        rv = get_restart(get);
        if (rv == 0) {
            return;
        }
    } else {
        rv = get_status(reply);
    }
    get_finish(get, rv, reply->msg);
}

static int page_ask(struct etcd_get *get)
{
    struct etcd_call_spec spec = {
        .path = "/v3/kv/range",
        .lane = ETCD_LANE_REQUEST,
        .endpoint = ETCD_ENDPOINT_ANY,
        .repeat = true,
        .done = page_done,
        .data = get,
    };
    struct json_text body = {0};

    json_text_add(&body, "{");
    etcd_add_range(&body, get->prefix, &get->last);
    json_text_add(&body, ",\"limit\":\"%u\"", get->page_keys);
    if (get->revision != 0) {
        json_text_add(&body, ",\"revision\":\"%" PRIu64 "\"", get->revision);
    }
    json_text_add(&body, "}");
    return etcd_call_start(get->etcd, &spec, &body, &get->call);
}

int etcd_get_start(struct etcd *etcd, const char *prefix, etcd_get_done_cb done, void *data, struct etcd_get **get)
{
    struct etcd_get *g = etcd->closing ? NULL : calloc(1, sizeof *g);
    int rv;

    if (g == NULL) {
        return etcd->closing ? OTR_CANCELED : OTR_NOMEM;
    }
    g->etcd = etcd;
    g->done = done;
    g->data = data;
    g->page_keys = PAGE_KEYS;
    g->prefix = strdup(prefix);
    rv = g->prefix != NULL ? page_ask(g) : OTR_NOMEM;
    if (rv != 0) {
        free(g->prefix);
        free(g);
        return rv;
    }
    etcd_object_made(etcd);
    if (get != NULL) {
        *get = g;
    }
    return 0;
}

void etcd_get_cancel(struct etcd_get *get)
{
    get->canceled = true;
    if (get->call != NULL) {
        etcd_call_cancel(get->call);
    }
}

/* --- get -------------------------------------------------------------------------------------------------------- */

static void get_op_done(void *data, int status, const struct otr_get_result *result, struct otr_errmsg *msg)
{
    struct otr_get_req *req = data;
    otr_get_cb cb = (otr_get_cb)req->internal;

    req->internal = NULL;
    cb(req, status, result, msg);
}

int etcd_get_op(struct otr_backend *b, struct otr_get_req *req, const char *prefix, otr_get_cb cb)
{
    req->internal = (void *)cb;
    return etcd_get_start(etcd_of(b), prefix, get_op_done, req, NULL);
}
