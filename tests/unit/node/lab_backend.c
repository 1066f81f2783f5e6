#include "lab_backend.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

struct get {
    struct otr_get_req inner;
    struct otr_get_req *req;
    otr_get_cb cb;
    char prefix[256];
    struct get *next;
    int status; /* while held, with a copy of the answer */
    struct otr_get_result result;
    struct otr_kv *kvs;
};

struct txn {
    struct otr_txn_req inner;
    struct otr_txn_req *req;
    otr_txn_cb cb;
    struct txn *next;
    int status;
    uint64_t revision;
};

enum { UNDER_WAY_MAX = 1024 };

static const void *under_way[UNDER_WAY_MAX];
static char hold[256];
static bool holding_gets, holding_txns;
static unsigned refuse;
static struct get *gets;
static struct txn *txns;
static struct otr_backend *opened[8];
static unsigned opened_count;

static void begins(const void *req)
{
    const void **slot = NULL;

    for (size_t i = 0; i < UNDER_WAY_MAX; i++) {
        cr_assert(under_way[i] != req, "a request that is under way is used again");
        slot = slot == NULL && under_way[i] == NULL ? &under_way[i] : slot;
    }
    cr_assert(slot != NULL);
    *slot = req;
}

static void ends(const void *req)
{
    for (size_t i = 0; i < UNDER_WAY_MAX; i++) {
        under_way[i] = under_way[i] == req ? NULL : under_way[i];
    }
}

/* --- reads
 * -------------------------------------------------------------------------------------------------------------- */

static void get_keep(struct get *g, int status, const struct otr_get_result *result)
{
    g->status = status;
    if (status == 0) {
        g->result = *result;
        g->kvs = calloc(result->kvs_count + 1, sizeof *g->kvs);
        for (size_t i = 0; i < result->kvs_count; i++) {
            g->kvs[i] = result->kvs[i];
            g->kvs[i].key = strdup(result->kvs[i].key);
            g->kvs[i].value = strdup(result->kvs[i].value);
            g->kvs[i].session = strdup(result->kvs[i].session);
        }
        g->result.kvs = g->kvs;
    }
    g->next = gets;
    gets = g;
}

static void on_get(struct otr_get_req *inner, int status, const struct otr_get_result *result,
                   const struct otr_errmsg *msg)
{
    struct get *g = inner->data;

    if (holding_gets && status != OTR_CANCELED && strcmp(g->prefix, hold) == 0) {
        get_keep(g, status, result);
        return;
    }
    ends(g->req);
    g->cb(g->req, status, result, msg);
    free(g);
}

static int op_get(struct otr_backend *b, struct otr_get_req *req, const char *prefix, otr_get_cb cb)
{
    struct get *g;
    int rv;

    if (refuse > 0) {
        refuse--;
        return OTR_NOMEM;
    }
    begins(req);
    g = calloc(1, sizeof *g);
    g->inner.data = g;
    g->req = req;
    g->cb = cb;
    snprintf(g->prefix, sizeof g->prefix, "%s", prefix);
    rv = otr_backend_fake.get(b, &g->inner, prefix, on_get);
    if (rv != 0) {
        ends(req);
        free(g);
    }
    return rv;
}

void lab_hold_gets(const char *prefix)
{
    holding_gets = prefix != NULL;
    snprintf(hold, sizeof hold, "%s", prefix != NULL ? prefix : "");
}

unsigned lab_held_gets(void)
{
    unsigned count = 0;

    for (const struct get *g = gets; g != NULL; g = g->next) {
        count++;
    }
    return count;
}

void lab_release_gets(void)
{
    static const struct otr_errmsg none;

    holding_gets = false;
    while (gets != NULL) {
        struct get *g = gets;
        gets = g->next;
        ends(g->req);
        g->cb(g->req, g->status, g->status == 0 ? &g->result : NULL, &none);
        for (size_t i = 0; i < g->result.kvs_count; i++) {
            free((char *)g->kvs[i].key);
            free((char *)g->kvs[i].value);
            free((char *)g->kvs[i].session);
        }
        free(g->kvs);
        free(g);
    }
}

void lab_refuse_gets(unsigned count)
{
    refuse = count;
}

/* --- transactions
 * -------------------------------------------------------------------------------------------------------------- */

static void on_txn(struct otr_txn_req *inner, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    struct txn *t = inner->data;

    if (holding_txns && status != OTR_CANCELED) {
        t->status = status;
        t->revision = revision;
        t->next = txns;
        txns = t;
        return;
    }
    ends(t->req);
    t->cb(t->req, status, revision, msg);
    free(t);
}

static int op_txn(struct otr_backend *b, struct otr_txn_req *req, const struct otr_txn *txn, otr_txn_cb cb)
{
    struct txn *t = calloc(1, sizeof *t);
    int rv;

    begins(req);
    t->inner.data = t;
    t->req = req;
    t->cb = cb;
    rv = otr_backend_fake.txn(b, &t->inner, txn, on_txn);
    if (rv != 0) {
        ends(req);
        free(t);
    }
    return rv;
}

void lab_hold_txns(bool on)
{
    holding_txns = on;
}

unsigned lab_held_txns(void)
{
    unsigned count = 0;

    for (const struct txn *t = txns; t != NULL; t = t->next) {
        count++;
    }
    return count;
}

void lab_release_txns(void)
{
    static const struct otr_errmsg none;

    holding_txns = false;
    while (txns != NULL) {
        struct txn *t = txns;
        txns = t->next;
        ends(t->req);
        t->cb(t->req, t->status, t->revision, &none);
        free(t);
    }
}

/* --- the rest as it is
 * -------------------------------------------------------------------------------------------------------------- */

static int op_open(struct otr_backend **b, const struct otr_backend_config *config, struct otr_errmsg *msg)
{
    int rv = otr_backend_fake.open(b, config, msg);

    if (rv == 0) {
        (*b)->ops = &lab_backend_ops;
        if (opened_count < sizeof opened / sizeof opened[0]) {
            opened[opened_count++] = *b;
        }
    }
    return rv;
}

void lab_link(unsigned i, enum fake_link link)
{
    cr_assert(i < opened_count);
    fake_set_link(opened[i], link);
}

static int op_session_open(struct otr_backend *b, struct otr_session *s, uint32_t ttl_ms, otr_session_cb cb)
{
    return otr_backend_fake.session_open(b, s, ttl_ms, cb);
}

static int op_session_close(struct otr_backend *b, struct otr_session *s, struct otr_simple_req *req, otr_simple_cb cb)
{
    return otr_backend_fake.session_close(b, s, req, cb);
}

static int op_session_revoke(struct otr_backend *b, const char *id, struct otr_simple_req *req, otr_simple_cb cb)
{
    return otr_backend_fake.session_revoke(b, id, req, cb);
}

static int op_watch(struct otr_backend *b, struct otr_watch *w, const char *prefix, uint64_t revision, otr_watch_cb cb)
{
    return otr_backend_fake.watch(b, w, prefix, revision, cb);
}

static void op_watch_stop(struct otr_backend *b, struct otr_watch *w)
{
    otr_backend_fake.watch_stop(b, w);
}

static int op_service_register(struct otr_backend *b, struct otr_session *s, const struct otr_service *service,
                               enum otr_health health, struct otr_simple_req *req, otr_simple_cb cb)
{
    return otr_backend_fake.service_register(b, s, service, health, req, cb);
}

static void op_close(struct otr_backend *b, otr_close_cb cb, void *data)
{
    otr_backend_fake.close(b, cb, data);
}

const struct otr_backend_ops lab_backend_ops = {
    .name = "lab",
    .open = op_open,
    .session_open = op_session_open,
    .session_close = op_session_close,
    .session_revoke = op_session_revoke,
    .get = op_get,
    .watch = op_watch,
    .watch_stop = op_watch_stop,
    .txn = op_txn,
    .service_register = op_service_register,
    .close = op_close,
};
