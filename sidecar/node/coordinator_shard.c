/* Transactions on a shard's descriptor and lease, and linearizable reads of them, as the core asks for them. */
#include "sidecar/node/coordinator.h"

#include "sidecar/coord/keys.h"
#include "sidecar/coord/values.h"
#include "sidecar/io/log.h"

#include <stdio.h>
#include <stdlib.h>

/* --- transactions
 * ------------------------------------------------------------------------------------------------------ */

struct shard_txn {
    struct otr_txn_req req;
    struct shard *shard;
    uint64_t txn;
    bool change_descriptor;
    struct descriptor descriptor;
};

static void txn_report(struct shard *s, uint64_t txn, int status, uint64_t revision)
{
    shard_feed(s, &(struct replica_event){
                      .type = REPLICA_EV_TXN_DONE,
                      .txn_done = {.txn = txn, .status = status, .revision = revision},
                  });
}

/* The core knows five outcomes: what was certainly refused for any other reason is as if it had never been sent. */
static int txn_status(int status)
{
    switch (status) {
    case 0:
    case OTR_CONFLICT:
    case OTR_SESSION:
    case OTR_UNREACHABLE:
    case OTR_UNKNOWN:
        return status;
    case OTR_CANCELED:
    case OTR_TIMEOUT:
        return OTR_UNKNOWN;
    default:
        return OTR_UNREACHABLE;
    }
}

static void on_txn(struct otr_txn_req *req, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    struct shard_txn *t = req->data;
    struct shard *s = t->shard;
    struct node *n = s->node;

    if (status != 0 && status != OTR_CONFLICT && !n->closing) {
        log_warn(s->subject, "coordinator: transaction %llu: %s%s%s", (unsigned long long)t->txn, otr_strerror(status),
                 msg != NULL && msg->text[0] != '\0' ? ": " : "", msg != NULL ? msg->text : "");
    }
    if (status == 0 && t->change_descriptor) {
        coordinator_descriptor(n, &t->descriptor, revision);
    }
    txn_report(s, t->txn, txn_status(status), revision);
    free(t);
    node_changed(n);
}

static char *print_lease(struct shard *s, uint64_t epoch)
{
    struct node *n = s->node;
    struct topology_lease lease = {.present = true, .node = n->self, .incarnation = n->incarnation, .epoch = epoch};

    return value_lease_print(n->topology, &lease);
}

void coordinator_txn(struct shard *s, const struct replica_action *a)
{
    struct node *n = s->node;
    char descriptor_key[KEY_MAX];
    char lease_key[KEY_MAX];
    struct otr_compare compares[2];
    struct otr_op ops[2];
    struct otr_txn txn = {.compares = compares, .ops = ops};
    struct shard_txn *t = calloc(1, sizeof *t);
    char *descriptor = NULL;
    char *lease = NULL;
    int rv = OTR_NOMEM;

    if (t == NULL) {
        goto out;
    }
    *t = (struct shard_txn){.req = {.data = t},
                            .shard = s,
                            .txn = a->txn.txn,
                            .change_descriptor = a->txn.change_descriptor,
                            .descriptor = a->txn.descriptor};
    key_shard(descriptor_key, n->cluster, s->id);
    key_lease(lease_key, n->cluster, s->id);
    compares[txn.compares_count++] = (struct otr_compare){
        .type = OTR_COMPARE_UNMODIFIED, .key = descriptor_key, .revision = a->txn.compare_revision};
    if (a->txn.change_descriptor) {
        descriptor = value_descriptor_print(n->topology, &a->txn.descriptor);
        if (descriptor == NULL) {
            goto out;
        }
        ops[txn.ops_count++] = (struct otr_op){
            .type = OTR_OP_PUT, .key = descriptor_key, .value = descriptor, .value_bytes = strlen(descriptor)};
    }
    if (a->txn.lease != REPLICA_LEASE_KEEP) {
        if (!n->coordinator->session_open) {
            rv = OTR_SESSION;
            goto out;
        }
        lease = print_lease(s, a->txn.descriptor.epoch);
        if (lease == NULL) {
            goto out;
        }
        compares[txn.compares_count++] = (struct otr_compare){
            .type = a->txn.lease == REPLICA_LEASE_IF_ABSENT ? OTR_COMPARE_ABSENT : OTR_COMPARE_UNMODIFIED,
            .key = lease_key,
            .revision = a->txn.lease_revision};
        ops[txn.ops_count++] = (struct otr_op){.type = OTR_OP_PUT_BOUND,
                                               .key = lease_key,
                                               .value = lease,
                                               .value_bytes = strlen(lease),
                                               .session = &n->coordinator->session};
    }
    rv = n->backend_ops->txn(n->backend, &t->req, &txn, on_txn);
    if (rv == 0) {
        t = NULL;
    }
out:
    free(descriptor);
    free(lease);
    free(t);
    if (rv != 0) {
        txn_report(s, a->txn.txn, txn_status(rv), 0);
    }
}

/* --- reads
 * ------------------------------------------------------------------------------------------------------------- */

struct shard_read {
    struct otr_get_req descriptor_req, lease_req;
    struct shard *shard;
    uint64_t read;
    uint64_t began_revision;
    unsigned outstanding;
    bool failed;
    bool found;
    struct descriptor descriptor;
    uint64_t revision;
    struct topology_lease lease;
};

static const struct otr_kv *pick(const struct otr_get_result *result, const char *key)
{
    for (size_t i = 0; i < result->kvs_count; i++) {
        if (strcmp(result->kvs[i].key, key) == 0) {
            return &result->kvs[i];
        }
    }
    return NULL;
}

static void read_end(struct shard_read *r)
{
    struct shard *s = r->shard;

    if (--r->outstanding > 0) {
        return;
    }
    if (r->failed) {
        shard_feed(s, &(struct replica_event){.type = REPLICA_EV_READ_FAILED, .read_failed = {.read = r->read}});
    } else {
        if (r->found) {
            coordinator_descriptor(s->node, &r->descriptor, r->revision);
        }
        coordinator_feed_lease(s, &r->lease);
        shard_feed(s, &(struct replica_event){
                          .type = REPLICA_EV_DESCRIPTOR,
                          .descriptor = {.descriptor = r->found ? &r->descriptor : NULL,
                                         .revision = r->revision,
                                         .read = r->read},
                      });
    }
    free(r);
}

/* The key's value out of an answer; NULL: there is none, or the reading has failed. */
static const struct otr_kv *take_value(struct shard_read *r, int status, const struct otr_get_result *result,
                                       const char *key)
{
    r->failed = r->failed || status != 0 || !coordinator_check_answer(r->shard->node, result, r->began_revision);
    return r->failed ? NULL : pick(result, key);
}

static void value_is_bad(struct shard_read *r, const char *key, const struct otr_errmsg *why)
{
    log_error(r->shard->subject, "key %s: %s", key, why->text);
    r->failed = true;
}

static void on_descriptor(struct otr_get_req *req, int status, const struct otr_get_result *result,
                          const struct otr_errmsg *msg)
{
    struct shard_read *r = req->data;
    struct node *n = r->shard->node;
    struct otr_errmsg why = {0};
    const struct otr_kv *kv;
    char key[KEY_MAX];

    (void)msg;
    key_shard(key, n->cluster, r->shard->id);
    kv = take_value(r, status, result, key);
    if (kv != NULL && value_descriptor_parse(n->topology, kv->value, &r->descriptor, &why) == 0) {
        r->found = true;
        r->revision = kv->revision;
    } else if (kv != NULL) {
        value_is_bad(r, key, &why);
    }
    read_end(r);
}

static void on_lease(struct otr_get_req *req, int status, const struct otr_get_result *result,
                     const struct otr_errmsg *msg)
{
    struct shard_read *r = req->data;
    struct node *n = r->shard->node;
    struct otr_errmsg why = {0};
    const struct otr_kv *kv;
    char key[KEY_MAX];

    (void)msg;
    key_lease(key, n->cluster, r->shard->id);
    kv = take_value(r, status, result, key);
    if (kv != NULL && value_lease_parse(n->topology, kv->value, &r->lease, &why) == 0) {
        r->lease.present = true;
        r->lease.revision = kv->revision;
        snprintf(r->lease.session, sizeof r->lease.session, "%s", kv->session);
    } else if (kv != NULL) {
        value_is_bad(r, key, &why);
    }
    read_end(r);
}

void coordinator_read(struct shard *s, uint64_t read)
{
    struct node *n = s->node;
    struct shard_read *r = calloc(1, sizeof *r);
    char key[KEY_MAX];

    if (r != NULL) {
        r->shard = s;
        r->read = read;
        r->began_revision = coordinator_revision(n);
        r->descriptor_req.data = r;
        r->lease_req.data = r;
        r->outstanding = 1; /* held until both are on their way */
        key_shard(key, n->cluster, s->id);
        if (n->backend_ops->get(n->backend, &r->descriptor_req, key, on_descriptor) == 0) {
            r->outstanding++;
        } else {
            r->failed = true;
        }
        key_lease(key, n->cluster, s->id);
        if (n->backend_ops->get(n->backend, &r->lease_req, key, on_lease) == 0) {
            r->outstanding++;
        } else {
            r->failed = true;
        }
        if (r->outstanding > 1) {
            r->outstanding--;
            return;
        }
        free(r);
    }
    shard_feed(s, &(struct replica_event){.type = REPLICA_EV_READ_FAILED, .read_failed = {.read = read}});
}

/* --- showing: linearizable reads without fresh grants (PROTOCOL G2)
 * ------------------------------------------------------- */

struct show {
    coordinator_shown_cb cb;
    void *data;
    struct show *next;
};

static void show_start(struct later *l);

static void show_end(struct shard *s, const struct descriptor *shown)
{
    struct show *flying = s->show_flying;

    s->show_flying = NULL;
    if (s->show_waiting != NULL && !s->show_queued) {
        s->show_queued = true;
        later_run(s->node, &s->show_later, show_start); /* when closing: tells them so */
    }
    while (flying != NULL) {
        struct show *next = flying->next;
        flying->cb(flying->data, shown);
        free(flying);
        flying = next;
    }
}

static void on_shown(struct otr_get_req *req, int status, const struct otr_get_result *result,
                     const struct otr_errmsg *msg)
{
    struct shard *s = req->data;
    struct node *n = s->node;
    struct otr_errmsg why = {0};
    struct descriptor d;
    const struct otr_kv *kv;
    char key[KEY_MAX];

    (void)msg;
    if (status != 0 || !coordinator_check_answer(n, result, s->show_began)) {
        show_end(s, NULL);
        return;
    }
    key_shard(key, n->cluster, s->id);
    kv = pick(result, key);
    if (kv == NULL || value_descriptor_parse(n->topology, kv->value, &d, &why) != 0) {
        show_end(s, NULL);
        return;
    }
    show_end(s, &d);
}

static void show_start(struct later *l)
{
    struct shard *s = (struct shard *)((char *)l - offsetof(struct shard, show_later));
    struct node *n = s->node;
    char key[KEY_MAX];

    s->show_queued = false;
    if (s->show_flying != NULL) {
        return; /* its end starts the next: this read must begin after the requests came */
    }
    s->show_flying = s->show_waiting;
    s->show_waiting = NULL;
    s->show_get.data = s;
    s->show_began = coordinator_revision(n);
    key_shard(key, n->cluster, s->id);
    if (n->closing || n->backend_ops->get(n->backend, &s->show_get, key, on_shown) != 0) {
        show_end(s, NULL);
    }
}

void coordinator_show(struct shard *s, coordinator_shown_cb cb, void *data)
{
    struct show *show = calloc(1, sizeof *show);

    if (show == NULL) {
        node_fatal(s->node, "out of memory");
        return;
    }
    show->cb = cb;
    show->data = data;
    show->next = s->show_waiting;
    s->show_waiting = show;
    if (!s->show_queued) {
        s->show_queued = true;
        later_run(s->node, &s->show_later, show_start);
    }
}
