/* Transactions and service entries: writes, so they are sent once. Whatever is not a certain answer is OTR_UNKNOWN
 * (PROTOCOL D3): etcd was seen to apply a put 14 s after it had answered "request timed out". */
#include "backends/etcd/etcd.h"

#include "sidecar/core/txn_check.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct write {
    struct etcd *etcd;
    struct otr_txn_req *txn_req;
    otr_txn_cb txn_cb;
    struct otr_simple_req *simple_req;
    otr_simple_cb simple_cb;
};

/* The statuses that otr_txn_cb knows. */
static int write_status(const struct etcd_reply *reply)
{
    switch (reply->status) {
    case OTR_NOTFOUND: /* Of all that a write names only a lease can be missing. */
        return OTR_SESSION;
    case OTR_DENIED:
    case OTR_INVALID:
    case OTR_NOSPACE:
        return reply->status;
    default:
        return reply->status == OTR_UNREACHABLE || reply->status == OTR_NOMEM ? reply->status : OTR_INVALID;
    }
}

static void write_done(void *data, const struct etcd_reply *reply)
{
    struct write *write = data;
    int status = 0;
    uint64_t revision = 0;

    if (reply->status == OTR_CANCELED) {
        status = OTR_CANCELED;
    } else if (reply->status != 0) {
        status = reply->certain ? write_status(reply) : OTR_UNKNOWN;
        otr_errmsg_wrap(reply->msg, "transaction");
    } else if (!etcd_json_true(reply->json, "succeeded")) {
        status = OTR_CONFLICT;
        otr_errmsg_set(reply->msg, "etcd: transaction: %s", otr_strerror(OTR_CONFLICT));
    } else {
        revision = etcd_json_u64(reply->header, "revision");
    }
    if (status == OTR_SESSION) {
        etcd_session_check_all(write->etcd);
    }
    if (write->txn_cb != NULL) {
        write->txn_req->internal = NULL;
        write->txn_cb(write->txn_req, status, revision, reply->msg);
    } else {
        write->simple_req->internal = NULL;
        write->simple_cb(write->simple_req, status, reply->msg);
    }
    free(write);
}

static int write_start(struct etcd *etcd, const struct write *like, struct json_text *body)
{
    struct etcd_call_spec spec = {
        .path = "/v3/kv/txn",
        .lane = ETCD_LANE_REQUEST,
        .endpoint = ETCD_ENDPOINT_ANY,
        .done = write_done,
    };
    struct write *write = malloc(sizeof *write);
    int rv;

    if (write == NULL) {
        json_text_close(body);
        return OTR_NOMEM;
    }
    *write = *like;
    write->etcd = etcd;
    spec.data = write;
    rv = etcd_call_start(etcd, &spec, body, NULL);
    if (rv != 0) {
        free(write);
    }
    return rv;
}

/* --- transactions ----------------------------------------------------------------------------------------------- */

/* What is particular about etcd: session ids are lease ids. */
static int ids_check(const struct otr_txn *txn)
{
    for (size_t i = 0; i < txn->compares_count; i++) {
        if (txn->compares[i].type == OTR_COMPARE_SESSION && etcd_lease_parse(txn->compares[i].session) == 0) {
            return OTR_INVALID;
        }
    }
    for (size_t i = 0; i < txn->ops_count; i++) {
        if (txn->ops[i].type == OTR_OP_PUT_BOUND && etcd_lease_parse(txn->ops[i].session->id) == 0) {
            return OTR_SESSION;
        }
    }
    return 0;
}

static void add_key(struct json_text *body, const char *key)
{
    json_text_add(body, "\"key\":\"");
    json_text_add_base64(body, key, strlen(key));
    json_text_add(body, "\"");
}

static void add_compare(struct json_text *body, const struct otr_compare *compare)
{
    json_text_add(body, "{");
    add_key(body, compare->key);
    switch (compare->type) {
    case OTR_COMPARE_ABSENT:
        json_text_add(body, ",\"target\":\"CREATE\",\"result\":\"EQUAL\",\"create_revision\":\"0\"}");
        break;
    case OTR_COMPARE_UNMODIFIED:
        json_text_add(body, ",\"target\":\"MOD\",\"result\":\"EQUAL\",\"mod_revision\":\"%" PRIu64 "\"}",
                      compare->revision);
        break;
    case OTR_COMPARE_SESSION:
        json_text_add(body, ",\"target\":\"LEASE\",\"result\":\"EQUAL\",\"lease\":\"%" PRIu64 "\"}",
                      etcd_lease_parse(compare->session));
        break;
    }
}

/* lease 0: durable. A put without lease detaches the key from the one it had, which is what OTR_OP_PUT means. */
static void add_put(struct json_text *body, const char *key, const void *value, size_t value_bytes, uint64_t lease)
{
    json_text_add(body, "{\"request_put\":{");
    add_key(body, key);
    json_text_add(body, ",\"value\":\"");
    if (value_bytes > 0) {
        json_text_add_base64(body, value, value_bytes);
    }
    json_text_add(body, "\"");
    if (lease != 0) {
        json_text_add(body, ",\"lease\":\"%" PRIu64 "\"", lease);
    }
    json_text_add(body, "}}");
}

static void add_op(struct json_text *body, const struct otr_op *op)
{
    switch (op->type) {
    case OTR_OP_PUT:
        add_put(body, op->key, op->value, op->value_bytes, 0);
        break;
    case OTR_OP_PUT_BOUND:
        add_put(body, op->key, op->value, op->value_bytes, etcd_lease_parse(op->session->id));
        break;
    case OTR_OP_DELETE:
        json_text_add(body, "{\"request_delete_range\":{");
        add_key(body, op->key);
        json_text_add(body, "}}");
        break;
    }
}

int etcd_txn_op(struct otr_backend *b, struct otr_txn_req *req, const struct otr_txn *txn, otr_txn_cb cb)
{
    struct json_text body = {0};
    int rv = txn_check(txn);

    rv = rv != 0 ? rv : ids_check(txn);
    if (rv != 0) {
        return rv;
    }
    json_text_add(&body, "{\"compare\":[");
    for (size_t i = 0; i < txn->compares_count; i++) {
        json_text_add(&body, "%s", i > 0 ? "," : "");
        add_compare(&body, &txn->compares[i]);
    }
    json_text_add(&body, "],\"success\":[");
    for (size_t i = 0; i < txn->ops_count; i++) {
        json_text_add(&body, "%s", i > 0 ? "," : "");
        add_op(&body, &txn->ops[i]);
    }
    json_text_add(&body, "]}");
    return write_start(etcd_of(b), &(struct write){.txn_req = req, .txn_cb = cb}, &body);
}

/* --- services --------------------------------------------------------------------------------------------------- */

/* What the Consul catalog would hold, as JSON text that the caller frees with cJSON_free; NULL: out of memory. */
static char *service_text(const struct otr_service *service, enum otr_health health)
{
    static const char *const healths[] = {
        [OTR_HEALTH_PASSING] = "passing",
        [OTR_HEALTH_WARNING] = "warning",
        [OTR_HEALTH_CRITICAL] = "critical",
    };
    cJSON *json = cJSON_CreateObject();
    cJSON *tags = cJSON_CreateArray();
    bool ok = tags != NULL;
    char *text;

    ok = ok && cJSON_AddStringToObject(json, "id", service->id) != NULL;
    ok = ok && cJSON_AddStringToObject(json, "name", service->name) != NULL;
    ok = ok && cJSON_AddStringToObject(json, "address", service->address) != NULL;
    ok = ok && cJSON_AddNumberToObject(json, "port", service->port) != NULL;
    for (size_t i = 0; ok && i < service->tags_count; i++) {
        ok = cJSON_AddItemToArray(tags, cJSON_CreateString(service->tags[i])) != 0;
    }
    if (ok && cJSON_AddItemToObject(json, "tags", tags) != 0) {
        tags = NULL;
    }
    ok = ok && tags == NULL && cJSON_AddStringToObject(json, "health", healths[health]) != NULL;
    text = ok ? cJSON_PrintUnformatted(json) : NULL;
    cJSON_Delete(tags);
    cJSON_Delete(json);
    return text;
}

int etcd_txn_service_register(struct otr_backend *b, struct otr_session *s, const struct otr_service *service,
                              enum otr_health health, struct otr_simple_req *req, otr_simple_cb cb)
{
    uint64_t lease = etcd_lease_parse(s->id);
    struct json_text body = {0};
    char *text;

    if (service->key == NULL || service->key[0] == '\0' || health < OTR_HEALTH_PASSING ||
        health > OTR_HEALTH_CRITICAL) {
        return OTR_INVALID;
    }
    if (lease == 0) {
        return OTR_SESSION;
    }
    text = service_text(service, health);
    if (text == NULL) {
        return OTR_NOMEM;
    }
    json_text_add(&body, "{\"success\":[");
    add_put(&body, service->key, text, strlen(text), lease);
    json_text_add(&body, "]}");
    cJSON_free(text);
    return write_start(etcd_of(b), &(struct write){.simple_req = req, .simple_cb = cb}, &body);
}
