#include "sidecar/api/api.h"

#include "sidecar/api/rest.h"
#include "sidecar/io/clock.h"

#include <stdlib.h>

enum { FINISH_TICK_MS = 5 };

static void on_tick(uv_timer_t *timer)
{
    rest_tick(timer->data);
}

static void api_closed_part(struct api *a)
{
    void (*cb)(void *data) = a->close_cb;
    void *data = a->close_data;

    a->handles_open--;
    if (a->handles_open == 0) {
        free(a);
        cb(data);
    }
}

static void on_timer_closed(uv_handle_t *handle)
{
    api_closed_part(handle->data);
}

static void on_http_closed(void *data)
{
    api_closed_part(data);
}

static void on_tls_closed(void *data)
{
    api_closed_part(data);
}

static void on_tokens_closed(void *data)
{
    api_closed_part(data);
}

static void free_alone(uv_handle_t *handle)
{
    free(handle->data);
}

static void forget(void *data)
{
    (void)data;
}

static int open_tls(struct api *a, const struct api_config *config, struct otr_errmsg *msg)
{
    const struct tls_config tls = {.label = "api",
                                   .ca_file = config->tls_client_ca,
                                   .cert_file = config->tls_cert,
                                   .key_file = config->tls_key,
                                   .alpn = "http/1.1",
                                   .peer_required = config->tls_client_ca != NULL};

    return tls_new(&a->tls, a->loop, &tls, msg);
}

int api_new(struct api **out, const struct api_config *config, struct otr_errmsg *msg)
{
    struct api *a = calloc(1, sizeof *a);
    struct http_server_config http = {0};
    int rv = OTR_NOMEM;

    if (a == NULL) {
        return OTR_NOMEM;
    }
    a->node = config->node;
    a->loop = node_loop(config->node);
    a->request_timeout_ms = config->request_timeout_ms != 0 ? config->request_timeout_ms : REST_TIMEOUT_DEFAULT_MS;
    if (uv_timer_init(a->loop, &a->timer) != 0) {
        free(a);
        return OTR_NOMEM;
    }
    a->timer.data = a;
    a->door = door_new(config->node);
    if (a->door == NULL) {
        goto err_after_timer;
    }
    a->metrics_open = config->metrics_open;
    if (config->tokens_path != NULL) {
        rv = tokens_file_open(&a->tokens, a->loop, config->tokens_path, msg);
        if (rv != 0) {
            goto err_after_door;
        }
    }
    if (config->tls_cert != NULL) {
        rv = open_tls(a, config, msg);
        if (rv != 0) {
            goto err_after_tokens;
        }
    }
    http.tls = a->tls;
    http.loop = a->loop;
    http.host = config->listen_host;
    http.port = config->listen_port;
    http.on_request = rest_on_request;
    http.on_head = rest_on_head;
    http.on_gone = rest_on_gone;
    http.connections_max = config->connections_max;
    rest_admission_init(a, config);
    http.data = a;
    rv = http_server_new(&a->http, &http, msg);
    if (rv != 0) {
        goto err_after_tls;
    }
    uv_timer_start(&a->timer, on_tick, REST_TICK_MS, REST_TICK_MS);
    *out = a;
    return 0;

err_after_tls:
    if (a->tls != NULL) {
        tls_close(a->tls, forget, NULL);
    }
err_after_tokens:
    if (a->tokens != NULL) {
        tokens_file_close(a->tokens, forget, NULL);
    }
err_after_door:
    door_close(a->door);
err_after_timer:
    uv_close((uv_handle_t *)&a->timer, free_alone);
    return rv;
}

uint16_t api_port(const struct api *a)
{
    return http_server_port(a->http);
}

void api_leave(struct api *a)
{
    http_server_leave(a->http);
}

static void on_finish_tick(uv_timer_t *timer)
{
    struct api *a = timer->data;

    rest_tick(a);
    if ((a->requests == NULL && !http_server_busy(a->http)) || clock_now_ms() >= a->finish_ms) {
        api_close(a, a->close_cb, a->close_data);
    }
}

void api_finish(struct api *a, uint32_t timeout_ms, void (*cb)(void *data), void *data)
{
    a->close_cb = cb;
    a->close_data = data;
    a->finish_ms = clock_now_ms() + timeout_ms;
    http_server_retire(a->http);
    uv_timer_start(&a->timer, on_finish_tick, 0, FINISH_TICK_MS);
}

void api_close(struct api *a, void (*cb)(void *data), void *data)
{
    a->close_cb = cb;
    a->close_data = data;
    a->handles_open = 2 + (a->tokens != NULL) + (a->tls != NULL);
    http_server_stop(a->http);
    door_close(a->door); /* Its operations end now, and their requests are answered. */
    rest_cancel_all(a);  /* The others wait for the coordinator or the thread pool. */
    http_server_close(a->http, on_http_closed, a);
    if (a->tokens != NULL) {
        tokens_file_close(a->tokens, on_tokens_closed, a);
    }
    if (a->tls != NULL) {
        tls_close(a->tls, on_tls_closed, a);
    }
    uv_close((uv_handle_t *)&a->timer, on_timer_closed);
}
