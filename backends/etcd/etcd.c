#include "backends/etcd/etcd.h"

#include "sidecar/io/log.h"
#include "sidecar/io/random.h"

#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* --- endpoints -------------------------------------------------------------------------------------------------- */

unsigned etcd_endpoint_next(const struct etcd *etcd, unsigned endpoint)
{
    return (endpoint + 1) % etcd->endpoints_count;
}

void etcd_endpoint_failed(struct etcd *etcd, unsigned endpoint)
{
    if (etcd->endpoint == endpoint) {
        etcd->endpoint = etcd_endpoint_next(etcd, endpoint);
    }
}

uint32_t etcd_backoff_next(uint32_t *backoff_ms)
{
    uint32_t now_ms = *backoff_ms != 0 ? *backoff_ms : ETCD_BACKOFF_MS_MIN;

    *backoff_ms = now_ms * 2 < ETCD_BACKOFF_MS_MAX ? now_ms * 2 : ETCD_BACKOFF_MS_MAX;
    return now_ms / 2 + (uint32_t)(random_u64() % (now_ms + 1));
}

uint32_t etcd_backoff_round(const struct etcd *etcd, unsigned failures_count, uint32_t *backoff_ms)
{
    uint32_t within_ms = 0;

    return etcd_backoff_next(failures_count % etcd->endpoints_count == 0 ? backoff_ms : &within_ms);
}

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

/* "http://host:port", nothing behind it. What curl refuses otherwise it refuses with each request. */
static int endpoint_check(const char *url, struct otr_errmsg *msg)
{
    const char *host = strncmp(url, "http://", 7) == 0 ? url + 7 : strncmp(url, "https://", 8) == 0 ? url + 8 : NULL;

    if (host == NULL) {
        otr_errmsg_set(msg, "endpoint \"%s\" does not start with http:// or https://", url);
        return OTR_INVALID;
    }
    if (*host == '\0' || strpbrk(host, "/?#@ \t\\\"") != NULL || strlen(url) > ETCD_URL_MAX / 2) {
        otr_errmsg_set(msg, "endpoint \"%.200s\" is not of the form http://host:port", url);
        return OTR_INVALID;
    }
    return 0;
}

static int endpoint_add(struct etcd *etcd, const char *text, size_t bytes, struct otr_errmsg *msg)
{
    char *url;
    int rv;

    while (bytes > 0 && isspace((unsigned char)text[0])) {
        text++;
        bytes--;
    }
    while (bytes > 0 && (isspace((unsigned char)text[bytes - 1]) || text[bytes - 1] == '/')) {
        bytes--;
    }
    if (bytes == 0) {
        return 0; /* "a,,b" and "a," name no endpoint too many. */
    }
    if (etcd->endpoints_count == ETCD_ENDPOINTS_MAX) {
        otr_errmsg_set(msg, "more than %d endpoints", ETCD_ENDPOINTS_MAX);
        return OTR_INVALID;
    }
    url = strndup(text, bytes);
    if (url == NULL) {
        return OTR_NOMEM;
    }
    rv = endpoint_check(url, msg);
    if (rv != 0) {
        free(url);
        return rv;
    }
    etcd->endpoints[etcd->endpoints_count++] = url;
    return 0;
}

static int endpoints_parse(struct etcd *etcd, const char *text, struct otr_errmsg *msg)
{
    size_t bytes;
    int rv;

    while (text != NULL && *text != '\0') {
        bytes = strcspn(text, ",");
        rv = endpoint_add(etcd, text, bytes, msg);
        if (rv != 0) {
            return rv;
        }
        text += bytes + (text[bytes] == ',' ? 1 : 0);
    }
    if (etcd->endpoints_count == 0) {
        otr_errmsg_set(msg, "no endpoint given");
        return OTR_INVALID;
    }
    return 0;
}

/* --- open and close --------------------------------------------------------------------------------------------- */

static void etcd_free(struct etcd *etcd)
{
    etcd_auth_close(etcd);
    for (unsigned i = 0; i < etcd->endpoints_count; i++) {
        free(etcd->endpoints[i]);
    }
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
    rv = endpoints_parse(etcd, config->endpoints, msg);
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
