#include "backends/consul/consul.h"

#include "sidecar/io/secret_file.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* --- token ------------------------------------------------------------------------------------------------------ */

/* It goes into a header: nothing that could end the line. */
static int token_check(const char *token, struct otr_errmsg *msg)
{
    for (const char *c = token; *c != '\0'; c++) {
        if (*c <= ' ' || *c > '~') {
            otr_errmsg_set(msg, "the token has characters that no token has");
            return OTR_INVALID;
        }
    }
    if (token[0] == '\0' || strlen(token) >= SECRET_FILE_BYTES_MAX) {
        otr_errmsg_set(msg, "the token is empty or longer than %d bytes", SECRET_FILE_BYTES_MAX - 1);
        return OTR_INVALID;
    }
    return 0;
}

static void token_forget(struct consul *consul)
{
    if (consul->token != NULL) {
        explicit_bzero(consul->token, strlen(consul->token));
        free(consul->token);
        consul->token = NULL;
    }
}

static int token_read(struct consul *consul, struct otr_errmsg *msg)
{
    char text[SECRET_FILE_BYTES_MAX];
    char *token;
    int rv = secret_file_read(consul->token_file, "token", text, msg);

    rv = rv != 0 ? rv : token_check(text, msg);
    if (rv == 0) {
        token = strdup(text);
        rv = token != NULL ? 0 : OTR_NOMEM;
        if (rv == 0) {
            token_forget(consul);
            consul->token = token;
        }
    }
    explicit_bzero(text, sizeof text);
    return rv;
}

static int token_init(struct consul *consul, const struct otr_backend_config *config, struct otr_errmsg *msg)
{
    int rv = 0;

    if (config->user != NULL || config->password != NULL || config->password_file != NULL) {
        otr_errmsg_set(msg, "Consul knows tokens, not users and passwords");
        return OTR_INVALID;
    }
    if (config->token_file != NULL) {
        consul->token_file = strdup(config->token_file);
        rv = consul->token_file != NULL ? token_read(consul, msg) : OTR_NOMEM;
    } else if (config->token != NULL) {
        rv = token_check(config->token, msg);
        consul->token = rv == 0 ? strdup(config->token) : NULL;
        rv = rv == 0 && consul->token == NULL ? OTR_NOMEM : rv;
    }
    if (rv == 0 && consul->token != NULL) {
        endpoints_warn_of_plain_text(&consul->endpoints, "consul", "the token");
    }
    return rv;
}

bool consul_token_renew(struct consul *consul)
{
    struct otr_errmsg msg;
    char *before = consul->token_file != NULL && consul->token != NULL ? strdup(consul->token) : NULL;
    bool other;

    if (before == NULL) {
        return false;
    }
    /* A file that is just being replaced: the token that there is stays. */
    other = token_read(consul, &msg) == 0 && strcmp(before, consul->token) != 0;
    explicit_bzero(before, strlen(before));
    free(before);
    return other;
}

/* --- open and close --------------------------------------------------------------------------------------------- */

static void consul_free(struct consul *consul)
{
    token_forget(consul);
    free(consul->token_file);
    endpoints_close(&consul->endpoints);
    free(consul);
}

static int consul_open(struct otr_backend **backend, const struct otr_backend_config *config, struct otr_errmsg *msg)
{
    struct http_client_config http_config = {
        .ca_file = config->ca_file,
        .cert_file = config->cert_file,
        .key_file = config->key_file,
    };
    struct consul *consul = calloc(1, sizeof *consul);
    int rv;

    if (consul == NULL) {
        otr_errmsg_set(msg, "consul: %s", otr_strerror(OTR_NOMEM));
        return OTR_NOMEM;
    }
    rv = endpoints_parse(&consul->endpoints, config->endpoints, msg);
    rv = rv != 0 ? rv : token_init(consul, config, msg);
    rv = rv != 0 ? rv : http_client_new(&consul->http, config->loop, &http_config, msg);
    if (rv != 0) {
        consul_free(consul);
        otr_errmsg_wrap(msg, "consul");
        return rv;
    }
    consul->base.ops = &otr_backend_consul;
    consul->loop = config->loop;
    consul->request_timeout_ms =
        config->request_timeout_ms != 0 ? config->request_timeout_ms : (uint32_t)CONSUL_REQUEST_TIMEOUT_MS;
    uv_timer_init(consul->loop, &consul->closer);
    consul->closer.data = consul;
    consul->objects_count = 1; /* the closer */
    *backend = &consul->base;
    return 0;
}

static void on_http_closed(void *data)
{
    struct consul *consul = data;

    consul->close_cb(&consul->base);
    consul_free(consul);
}

void consul_object_made(struct consul *consul)
{
    consul->objects_count++;
}

void consul_object_gone(struct consul *consul)
{
    assert(consul->objects_count > 0);
    consul->objects_count--;
    if (consul->objects_count == 0) {
        http_client_close(consul->http, on_http_closed, consul);
    }
}

static void on_closer_closed(uv_handle_t *handle)
{
    consul_object_gone(handle->data);
}

static void on_closer(uv_timer_t *timer)
{
    struct consul *consul = timer->data;

    consul_session_drop_all(consul);
    consul_watch_cancel_all(consul);
    consul_call_cancel_all(consul);
    uv_close((uv_handle_t *)timer, on_closer_closed);
}

static void consul_close(struct otr_backend *b, otr_close_cb cb, void *data)
{
    struct consul *consul = consul_of(b);

    assert(!consul->closing);
    consul->closing = true;
    consul->close_cb = cb;
    b->data = data;
    uv_timer_start(&consul->closer, on_closer, 0, 0);
}

const struct otr_backend_ops otr_backend_consul = {
    .name = "consul",
    .open = consul_open,
    .session_open = consul_session_open,
    .session_close = consul_session_close,
    .session_revoke = consul_session_revoke,
    .get = consul_get_op,
    .watch = consul_watch_op,
    .watch_stop = consul_watch_stop,
    .txn = consul_txn_op,
    .service_register = consul_service_register,
    .close = consul_close,
};
