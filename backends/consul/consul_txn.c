/* Transactions: writes, so each is sent once. Whatever is not a certain answer is OTR_UNKNOWN (PROTOCOL D3).
 *
 * Happy path: the plan (consul_plan.h) goes to /v1/txn and is carried out whole.
 * Refused because keys turn out to be held by others than the plan supposed, which is certain: each of them is read,
 * the plan made anew with what was learnt, and sent again, a few times. A put that compared nothing may find only when
 * it is done that its key was held: then a second transaction detaches it before anything is reported.
 *
 *   SENDING --held by others--> LEARNING --read--> SENDING
 *   SENDING --done, keys left with a session--> SENDING, those puts alone */
#include "backends/consul/consul.h"
#include "backends/consul/consul_plan.h"

#include "sidecar/core/txn_check.h"
#include "sidecar/io/random.h"

#include <stdlib.h>
#include <string.h>

enum { ATTEMPTS_MAX = 6 };

struct consul_txn {
    struct consul *consul;
    struct otr_txn_req *req;
    otr_txn_cb cb;
    struct otr_txn txn; /* a copy; strings are in `memory` */
    struct otr_compare compares[OTR_TXN_MAX];
    struct otr_op ops[OTR_TXN_MAX];
    struct otr_session sessions[OTR_TXN_MAX]; /* their ids */
    char *memory;
    char *holders[OTR_TXN_MAX]; /* "" for none, NULL when unknown */
    bool held[OTR_TXN_MAX];     /* to be learnt */
    struct consul_plan plan;
    unsigned attempts_count;
    bool done_once; /* only puts are left, which detach what is done already */
};

/* --- a copy of the caller's ------------------------------------------------------------------------------------- */

static size_t txn_bytes(const struct otr_txn *txn)
{
    size_t bytes = 1;

    for (size_t i = 0; i < txn->compares_count; i++) {
        const struct otr_compare *c = &txn->compares[i];

        bytes += strlen(c->key) + 1 + (c->type == OTR_COMPARE_SESSION ? strlen(c->session) + 1 : 0);
    }
    for (size_t i = 0; i < txn->ops_count; i++) {
        bytes += strlen(txn->ops[i].key) + 1 + txn->ops[i].value_bytes + 1;
    }
    return bytes;
}

static const char *keep(char **at, const char *bytes, size_t count)
{
    char *kept = *at;

    if (count > 0) {
        memcpy(kept, bytes, count);
    }
    kept[count] = '\0';
    *at += count + 1;
    return kept;
}

static int txn_copy(struct consul_txn *t, const struct otr_txn *txn)
{
    char *at = malloc(txn_bytes(txn));

    if (at == NULL) {
        return OTR_NOMEM;
    }
    t->memory = at;
    t->txn = (struct otr_txn){t->compares, txn->compares_count, t->ops, txn->ops_count};
    for (size_t i = 0; i < txn->compares_count; i++) {
        t->compares[i] = txn->compares[i];
        t->compares[i].key = keep(&at, txn->compares[i].key, strlen(txn->compares[i].key));
        if (t->compares[i].type == OTR_COMPARE_SESSION) {
            t->compares[i].session = keep(&at, txn->compares[i].session, strlen(txn->compares[i].session));
        }
    }
    for (size_t i = 0; i < txn->ops_count; i++) {
        const struct otr_op *op = &txn->ops[i];

        t->ops[i] = *op;
        t->ops[i].key = keep(&at, op->key, strlen(op->key));
        t->ops[i].value_bytes = op->type != OTR_OP_DELETE ? op->value_bytes : 0;
        t->ops[i].value = keep(&at, op->value, t->ops[i].value_bytes);
        if (op->type == OTR_OP_PUT_BOUND) {
            memcpy(t->sessions[i].id, op->session->id, sizeof t->sessions[i].id);
            t->ops[i].session = &t->sessions[i];
        }
    }
    return 0;
}

static void txn_free(struct consul_txn *t)
{
    for (size_t i = 0; i < OTR_TXN_MAX; i++) {
        free(t->holders[i]);
    }
    consul_plan_close(&t->plan);
    free(t->memory);
    free(t);
}

/* --- the end ---------------------------------------------------------------------------------------------------- */

static void txn_finish(struct consul_txn *t, int status, uint64_t revision, struct otr_errmsg *msg)
{
    struct consul *consul = t->consul;

    if (t->done_once && status != 0 && status != OTR_CANCELED) {
        status = OTR_UNKNOWN; /* Written, but maybe still with the session that its key had. */
    }
    if (status == OTR_SESSION) {
        consul_session_check_all(consul);
    }
    if (status != 0) {
        if (msg->text[0] == '\0') {
            otr_errmsg_set(msg, "consul: %s", otr_strerror(status));
        }
        otr_errmsg_wrap(msg, "transaction");
    }
    t->req->internal = NULL;
    t->cb(t->req, status, status == 0 ? revision : 0, msg);
    txn_free(t);
    consul_object_gone(consul);
}

/* The statuses that otr_txn_cb knows, of an answer that is none to the transaction. */
static int failure_status(const struct consul_reply *reply)
{
    if (reply->status == OTR_CANCELED) {
        return OTR_CANCELED;
    }
    if (!reply->certain) {
        return OTR_UNKNOWN;
    }
    switch (reply->status) {
    case OTR_DENIED:
    case OTR_INVALID:
    case OTR_TOOBIG:
    case OTR_NOMEM:
    case OTR_UNREACHABLE:
        return reply->status;
    case OTR_UNAVAIL: /* Too many requests. */
        return OTR_UNREACHABLE;
    default:
        return OTR_INVALID;
    }
}

/* --- attempts --------------------------------------------------------------------------------------------------- */

static void txn_send(struct consul_txn *t, struct otr_errmsg *msg);
static void txn_learn(struct consul_txn *t, struct otr_errmsg *msg);

/* Of a transaction that is done: keys of puts that are still held. Returns whether there are any; then goes on. */
static bool txn_detach(struct consul_txn *t, const char *const *holders, struct otr_errmsg *msg)
{
    size_t kept = 0;
    char *holder;

    for (size_t i = 0; i < t->txn.ops_count; i++) {
        if (holders[i] == NULL) {
            continue;
        }
        holder = strdup(holders[i]);
        if (holder == NULL) {
            t->done_once = true;
            txn_finish(t, OTR_NOMEM, 0, msg);
            return true;
        }
        free(t->holders[kept]);
        t->holders[kept] = holder;
        t->ops[kept++] = t->ops[i];
    }
    if (kept == 0) {
        return false;
    }
    t->done_once = true;
    t->txn.ops_count = kept;
    t->txn.compares_count = 0;
    txn_send(t, msg);
    return true;
}

static void txn_done(void *data, const struct consul_reply *reply)
{
    struct consul_txn *t = data;
    const char *holders[OTR_TXN_MAX];
    const char *what;
    uint64_t revision = 0;
    int status;

    if (reply->status != 0) {
        txn_finish(t, failure_status(reply), 0, reply->msg);
    } else if (reply->http_status == 200) {
        status = consul_plan_result(&t->plan, reply->json, &revision, holders);
        if (status != 0) {
            txn_finish(t, OTR_UNKNOWN, 0, reply->msg);
        } else if (!txn_detach(t, holders, reply->msg)) {
            txn_finish(t, 0, revision, reply->msg);
        }
    } else {
        status = consul_plan_refusal(&t->plan, reply->json, t->held, &what);
        otr_errmsg_set(reply->msg, "consul: %.300s", what);
        if (status == OTR_INUSE) {
            txn_learn(t, reply->msg);
        } else {
            txn_finish(t, status == OTR_PROTO ? OTR_UNKNOWN : status, 0, reply->msg);
        }
    }
}

static int txn_start(struct consul_txn *t)
{
    struct consul_call_spec spec = {
        .method = "PUT",
        .lane = CONSUL_LANE_REQUEST,
        .endpoint = CONSUL_ENDPOINT_ANY,
        .accepted = 409,
        .done = txn_done,
        .data = t,
    };
    struct json_text path = {0};
    int rv;

    if (++t->attempts_count > ATTEMPTS_MAX) {
        return OTR_CONFLICT;
    }
    consul_plan_close(&t->plan);
    rv = consul_plan_make(&t->plan, &t->txn, (const char *const *)t->holders, random_u64() >> (64 - CONSUL_FLAGS_BITS));
    if (rv != 0) {
        return rv;
    }
    json_text_add(&path, t->plan.writes ? "/v1/txn" : "/v1/txn?consistent");
    return consul_call_start(t->consul, &spec, &path, &t->plan.body, NULL);
}

static void txn_send(struct consul_txn *t, struct otr_errmsg *msg)
{
    int rv = txn_start(t);

    if (rv != 0) {
        txn_finish(t, rv, 0, msg);
    }
}

/* --- who holds a key -------------------------------------------------------------------------------------------- */

static size_t next_held(const struct consul_txn *t)
{
    size_t i = 0;

    while (i < t->txn.ops_count && !t->held[i]) {
        i++;
    }
    return i;
}

static void learn_done(void *data, const struct consul_reply *reply)
{
    struct consul_txn *t = data;
    size_t i = next_held(t);
    const char *session = consul_json_text(cJSON_GetArrayItem(reply->json, 0), "Session");

    if (reply->status != 0) {
        txn_finish(t, reply->status == OTR_CANCELED ? OTR_CANCELED : OTR_UNREACHABLE, 0, reply->msg);
        return;
    }
    t->held[i] = false;
    free(t->holders[i]);
    t->holders[i] = strdup(consul_session_id_valid(session) ? session : "");
    if (t->holders[i] == NULL) {
        txn_finish(t, OTR_NOMEM, 0, reply->msg);
        return;
    }
    txn_learn(t, reply->msg);
}

/* One key after the other; then sends again. */
static void txn_learn(struct consul_txn *t, struct otr_errmsg *msg)
{
    struct consul_call_spec spec = {
        .method = "GET",
        .lane = CONSUL_LANE_REQUEST,
        .endpoint = CONSUL_ENDPOINT_ANY,
        .accepted = 404,
        .repeat = true,
        .done = learn_done,
        .data = t,
    };
    struct json_text path = {0};
    size_t i = next_held(t);
    int rv;

    if (i == t->txn.ops_count) {
        msg->text[0] = '\0';
        txn_send(t, msg);
        return;
    }
    json_text_add(&path, "/v1/kv/");
    consul_add_path(&path, t->ops[i].key);
    json_text_add(&path, "?consistent");
    rv = consul_call_start(t->consul, &spec, &path, NULL, NULL);
    if (rv != 0) {
        txn_finish(t, rv, 0, msg);
    }
}

/* --- the vtable's member ---------------------------------------------------------------------------------------- */

/* What is particular about Consul: session ids are UUIDs, and not every key can be one. */
static int particulars_check(const struct otr_txn *txn)
{
    for (size_t i = 0; i < txn->compares_count; i++) {
        const struct otr_compare *c = &txn->compares[i];

        if (!consul_key_valid(c->key) || consul_key_inside(c->key)[0] == '\0' ||
            (c->type == OTR_COMPARE_SESSION && !consul_session_id_valid(c->session))) {
            return OTR_INVALID;
        }
    }
    for (size_t i = 0; i < txn->ops_count; i++) {
        const struct otr_op *op = &txn->ops[i];

        if (!consul_key_valid(op->key) || consul_key_inside(op->key)[0] == '\0') {
            return OTR_INVALID;
        }
        if (op->type == OTR_OP_PUT_BOUND && !consul_session_id_valid(op->session->id)) {
            return OTR_SESSION;
        }
    }
    return 0;
}

int consul_txn_op(struct otr_backend *b, struct otr_txn_req *req, const struct otr_txn *txn, otr_txn_cb cb)
{
    struct consul *consul = consul_of(b);
    struct consul_txn *t;
    int rv = txn_check(txn);

    rv = rv != 0 ? rv : particulars_check(txn);
    if (rv != 0) {
        return rv;
    }
    t = consul->closing ? NULL : calloc(1, sizeof *t);
    if (t == NULL) {
        return consul->closing ? OTR_CANCELED : OTR_NOMEM;
    }
    t->consul = consul;
    t->req = req;
    t->cb = cb;
    rv = txn_copy(t, txn);
    rv = rv != 0 ? rv : txn_start(t);
    if (rv != 0) {
        txn_free(t);
        return rv;
    }
    consul_object_made(consul);
    return 0;
}
