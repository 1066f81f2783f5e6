/* Requests under way, opening and closing. A lane is one curl multi handle with its own connection cache
 * (http_lane.c), a transfer one request under way (http_transfer.c).
 *
 * Happy path: start makes the easy handle and adds it to its lane's multi handle; when it has ended, `done` is called
 * outside of any call to curl.
 *
 * curl forbids calls on a multi handle from inside its own callbacks, and on_data runs in one. Hence a start from
 * there waits on the lane's list until curl has returned, and cancel and close only leave a mark, which `sweep` (a
 * timer of 0 ms) acts on in the next turn of the loop. */
#include "sidecar/io/http_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CONNECT_TIMEOUT_MS = 500 };

static void client_free(struct http_client *client)
{
    struct http_lane *next;

    for (struct http_lane *lane = client->lanes; lane != NULL; lane = next) {
        next = lane->next;
        free(lane);
    }
    free(client->ca_file);
    free(client->cert_file);
    free(client->key_file);
    free(client);
    curl_global_cleanup();
}

void http_client_handle_closed(struct http_client *client)
{
    http_client_close_cb cb = client->close_cb;
    void *data = client->close_data;

    client->handles_count--;
    if (client->handles_count == 0) { /* The sweeper is among them: this happens only while closing. */
        client_free(client);
        if (cb != NULL) {
            cb(data);
        }
    }
}

static void on_lane_timer_closed(uv_handle_t *handle)
{
    http_client_handle_closed(((struct http_lane *)handle->data)->client);
}

static void on_sweeper_closed(uv_handle_t *handle)
{
    http_client_handle_closed(handle->data);
}

static void client_close_handles(struct http_client *client)
{
    for (struct http_lane *lane = client->lanes; lane != NULL; lane = lane->next) {
        curl_multi_cleanup(lane->multi);
        uv_close((uv_handle_t *)&lane->timer, on_lane_timer_closed);
    }
    uv_close((uv_handle_t *)&client->sweeper, on_sweeper_closed);
}

/* A transfer that must end now; `done` may have changed the list, so look again from its start. */
static struct http_transfer *next_to_end(const struct http_client *client)
{
    struct http_transfer *t;

    for (t = client->transfers; t != NULL; t = t->next) {
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): what has ended is no longer in the list. */
        if (t->canceled || client->closing || t->failed != 0) {
            return t;
        }
    }
    return NULL;
}

static void sweep(uv_timer_t *timer)
{
    struct http_client *client = timer->data;
    struct http_transfer *t;

    while ((t = next_to_end(client)) != NULL) {
        if (t->attached) {
            curl_multi_remove_handle(t->lane->multi, t->easy);
            t->attached = false;
        }
        t->canceled = t->failed == 0 || t->canceled;
        http_transfer_finish(t, CURLE_OK);
    }
    if (client->closing) {
        client_close_handles(client);
    }
}

void http_client_sweep_soon(struct http_client *client)
{
    uv_timer_start(&client->sweeper, sweep, 0, 0);
}

static int copy_file_name(char **copy, const char *path, const char *what, struct otr_errmsg *msg)
{
    if (path == NULL) {
        return 0;
    }
    /* curl would tell only with the first request. */
    if (access(path, R_OK) != 0) {
        otr_errmsg_set(msg, "cannot read the %s %s: %s", what, path, strerror(errno));
        return OTR_INVALID;
    }
    *copy = strdup(path);
    return *copy != NULL ? 0 : OTR_NOMEM;
}

int http_client_new(struct http_client **client, uv_loop_t *loop, const struct http_client_config *config,
                    struct otr_errmsg *msg)
{
    struct http_client *c;
    int rv;

    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        otr_errmsg_set(msg, "libcurl cannot be initialised");
        return OTR_NOMEM;
    }
    c = calloc(1, sizeof *c);
    if (c == NULL) {
        curl_global_cleanup();
        otr_errmsg_set(msg, "%s", otr_strerror(OTR_NOMEM));
        return OTR_NOMEM;
    }
    /* OpenSSL writes without MSG_NOSIGNAL: a server that hangs up must not end the process. */
    signal(SIGPIPE, SIG_IGN);
    c->loop = loop;
    c->connect_timeout_ms = config->connect_timeout_ms != 0 ? config->connect_timeout_ms : CONNECT_TIMEOUT_MS;
    c->connections_max = config->connections_max;
    rv = copy_file_name(&c->ca_file, config->ca_file, "CA file", msg);
    if (rv == 0) {
        rv = copy_file_name(&c->cert_file, config->cert_file, "certificate", msg);
    }
    if (rv == 0) {
        rv = copy_file_name(&c->key_file, config->key_file, "private key", msg);
    }
    if (rv != 0) {
        client_free(c);
        return rv;
    }
    uv_timer_init(loop, &c->sweeper);
    c->sweeper.data = c;
    c->handles_count = 1;
    *client = c;
    return 0;
}

int http_client_start(struct http_client *client, struct http_request *req, http_done_cb done)
{
    struct http_transfer *t;
    int rv;

    if (client->closing) {
        return OTR_CANCELED;
    }
    if ((strncmp(req->url, "http://", 7) != 0 && strncmp(req->url, "https://", 8) != 0) ||
        strlen(req->method) >= HTTP_METHOD_BYTES) {
        return OTR_INVALID;
    }
    t = calloc(1, sizeof *t);
    if (t == NULL) {
        return OTR_NOMEM;
    }
    t->req = req;
    t->done = done;
    strcpy(t->method, req->method);
    t->url = strdup(req->url);
    t->lane = http_lane_get(client, req->lane);
    t->easy = curl_easy_init();
    rv = t->url != NULL && t->lane != NULL && t->easy != NULL ? 0 : OTR_NOMEM;
    rv = rv != 0 ? rv : http_transfer_prepare(t, client);
    if (rv == 0 && !t->lane->busy) {
        rv = http_lane_attach(t->lane, t);
    } else if (rv == 0) {
        t->next_waiting = t->lane->waiting;
        t->lane->waiting = t;
    }
    if (rv != 0) {
        http_transfer_free(t);
        return rv;
    }
    t->next = client->transfers;
    if (t->next != NULL) {
        t->next->prev = t;
    }
    client->transfers = t;
    req->internal = t;
    return 0;
}

void http_client_cancel(struct http_client *client, struct http_request *req)
{
    struct http_transfer *t = req->internal;

    if (t != NULL) {
        t->canceled = true;
        http_client_sweep_soon(client);
    }
}

void http_client_close(struct http_client *client, http_client_close_cb cb, void *data)
{
    client->closing = true;
    client->close_cb = cb;
    client->close_data = data;
    http_client_sweep_soon(client);
}
