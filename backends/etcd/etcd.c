#include "backends/etcd/etcd.h"

#include "sidecar/io/log.h"
#include "sidecar/io/random.h"

#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void etcd_identity_seen(struct etcd *etcd, uint64_t identity)
{
    if (identity == 0 || identity == etcd->identity) {
        return;
    }
    if (etcd->identity != 0) { /* PROTOCOL D4: readers see it in their results; watches start anew. */
        LOG_LIMITED(LOG_ERROR, "etcd",
                    "cluster id was %" PRIu64 ", now is %" PRIu64 ": restored, replaced, or endpoints of two clusters",
                    etcd->identity, identity);
        etcd_watch_resync_all(etcd);
    }
    etcd->identity = identity;
}

/* --- open and close --------------------------------------------------------------------------------------------- */

static void etcd_free(struct etcd *etcd)
{
    etcd_auth_close(etcd);
    endpoints_close(&etcd->endpoints);
    free(etcd);
}

static int etcd_open(struct otr_backend **backend, const struct otr_backend_config *config, struct otr_errmsg *msg)
{
    struct http_client_config http_config = {
        .ca_file = config->ca_file,
        .cert_file = config->cert_file,
        .key_file = config->key_file,
    };
    struct etcd *etcd;
    int rv;

    etcd = calloc(1, sizeof *etcd);
    if (etcd == NULL) {
        otr_errmsg_set(msg, "etcd: %s", otr_strerror(OTR_NOMEM));
        return OTR_NOMEM;
    }
    rv = endpoints_parse(&etcd->endpoints, config->endpoints, msg);
    rv = rv != 0 ? rv : etcd_auth_init(etcd, config, msg);
    if (rv == 0) {
        rv = http_client_new(&etcd->http, config->loop, &http_config, msg);
    }
    if (rv != 0) {
        etcd_free(etcd);
        otr_errmsg_wrap(msg, "etcd");
        return rv;
    }
    etcd->base.ops = &otr_backend_etcd;
    etcd->loop = config->loop;
    etcd->request_timeout_ms =
        config->request_timeout_ms != 0 ? config->request_timeout_ms : (uint32_t)ETCD_REQUEST_TIMEOUT_MS;
    uv_timer_init(etcd->loop, &etcd->closer);
    etcd->closer.data = etcd;
    etcd->objects_count = 1; /* the closer */
    *backend = &etcd->base;
    return 0;
}

static void on_http_closed(void *data)
{
    struct etcd *etcd = data;

    etcd->close_cb(&etcd->base);
    etcd_free(etcd);
}

void etcd_object_made(struct etcd *etcd)
{
    etcd->objects_count++;
}

void etcd_object_gone(struct etcd *etcd)
{
    assert(etcd->objects_count > 0);
    etcd->objects_count--;
    if (etcd->objects_count == 0) {
        http_client_close(etcd->http, on_http_closed, etcd);
    }
}

static void on_closer_closed(uv_handle_t *handle)
{
    etcd_object_gone(handle->data);
}

static void on_closer(uv_timer_t *timer)
{
    struct etcd *etcd = timer->data;

    etcd_session_drop_all(etcd);
    etcd_watch_cancel_all(etcd);
    etcd_call_cancel_all(etcd);
    uv_close((uv_handle_t *)timer, on_closer_closed);
}

static void etcd_close(struct otr_backend *b, otr_close_cb cb, void *data)
{
    struct etcd *etcd = etcd_of(b);

    assert(!etcd->closing);
    etcd->closing = true;
    etcd->close_cb = cb;
    b->data = data;
    uv_timer_start(&etcd->closer, on_closer, 0, 0);
}

const struct otr_backend_ops otr_backend_etcd = {
    .name = "etcd",
    .open = etcd_open,
    .session_open = etcd_session_open,
    .session_close = etcd_session_close,
    .session_revoke = etcd_session_revoke,
    .get = etcd_get_op,
    .watch = etcd_watch_op,
    .watch_stop = etcd_watch_stop,
    .txn = etcd_txn_op,
    .service_register = etcd_txn_service_register,
    .close = etcd_close,
};
