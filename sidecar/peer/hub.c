#include "sidecar/peer/hub.h"

#include "sidecar/io/log.h"
#include "sidecar/peer/call.h"
#include "sidecar/peer/link.h"
#include "sidecar/peer/public.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    TICK_MS = 1000,
    STALL_MS = 2500,         /* a tick so late: it was us who stood still */
    GREETING_MS = 5000,      /* for the client's preface and SETTINGS */
    PING_MS = 5000,          /* of silence on an incoming connection */
    SILENCE_MS = 15000,      /* until it is closed */
    IDLE_MS = 5 * 60 * 1000, /* without any stream */
    BACKLOG = 512,
};

/* --- work at the end of a loop turn ------------------------------------------------------------------------------- */

static void on_idle(uv_idle_t *idle)
{
    (void)idle; /* Being active is all it does: the loop does not sleep. */
}

static void wake(struct peer_hub *hub)
{
    if (!uv_is_active((uv_handle_t *)&hub->idle) && !uv_is_closing((uv_handle_t *)&hub->idle)) {
        uv_idle_start(&hub->idle, on_idle);
    }
}

void hub_defer(struct peer_hub *hub, struct hub_task *task)
{
    if (list_empty(&task->node)) {
        list_push(&hub->tasks, &task->node);
        wake(hub);
    }
}

void hub_flush_later(struct peer_hub *hub, struct list *node)
{
    if (list_empty(node)) {
        list_push(&hub->flushes, node);
        wake(hub);
    }
}

static void run_tasks(struct peer_hub *hub)
{
    struct list tasks;

    list_take(&tasks, &hub->tasks);
    while (!list_empty(&tasks)) {
        struct hub_task *task = list_item(tasks.next, struct hub_task, node);

        list_remove(&task->node);
        task->run(task);
    }
}

static void run(struct peer_hub *hub)
{
    struct list flushes;

    if (list_empty(&hub->tasks) && list_empty(&hub->flushes)) {
        uv_idle_stop(&hub->idle);
        return;
    }
    run_tasks(hub);
    list_take(&flushes, &hub->flushes);
    while (!list_empty(&flushes)) {
        struct conn *c = list_item(flushes.next, struct conn, flush_node);

        list_remove(&c->flush_node);
        conn_flush(c);
    }
    if (list_empty(&hub->tasks) && list_empty(&hub->flushes)) {
        uv_idle_stop(&hub->idle);
    }
}

/* After the timers, before the loop waits. */
static void on_prepare(uv_prepare_t *prepare)
{
    run(prepare->data);
}

/* After the sockets. */
static void on_check(uv_check_t *check)
{
    run(check->data);
}

/* --- incoming connections ----------------------------------------------------------------------------------------- */

static void incoming_ending(struct conn *c)
{
    c->hub->incoming_count--;
}

static void incoming_end(struct conn *c, int uv_status, const struct otr_errmsg *why)
{
    if (uv_status == UV_EOF || uv_status == UV_ECONNRESET) {
        log_debug("peer", "%s: %s", c->remote, why->text);
    } else {
        LOG_LIMITED(LOG_WARN, "peer", "close the connection from %s: %s", c->remote, why->text);
    }
}

static const struct conn_ops incoming_ops = {
    .on_stream = call_begin,
    .on_ending = incoming_ending,
    .on_end = incoming_end,
};

static void on_connection(uv_stream_t *listener, int status)
{
    struct peer_hub *hub = listener->data;
    struct conn *c;
    int rv = status;

    if (rv == 0) {
        rv = conn_accept(&c, hub, &incoming_ops);
    }
    if (rv == UV_EAGAIN) {
        return; /* Nobody waits after all. */
    }
    if (rv != 0) {
        LOG_LIMITED(LOG_WARN, "peer", "accept: %s", uv_strerror(rv));
        hub->accept_missed = true;
        return;
    }
    if (hub->incoming_count >= HUB_CONNECTIONS_MAX) {
        LOG_LIMITED(LOG_WARN, "peer", "refuse a connection from %s: there are %u already", c->remote,
                    hub->incoming_count);
        conn_close(c);
        return;
    }
    hub->incoming_count++;
    list_push(&hub->incoming, &c->node);
}

static void check_incoming(struct conn *c, uint64_t now_ms)
{
    if (conn_lingers(c, now_ms)) {
        return;
    }
    if (!c->greeted && now_ms - c->opened_ms >= GREETING_MS) {
        conn_fail(c, "no %s greeting within %d ms", c->tls != NULL && !tls_session_ready(c->tls) ? "TLS" : "HTTP/2",
                  GREETING_MS);
    } else if (now_ms - c->heard_ms >= SILENCE_MS) {
        conn_fail(c, "nothing heard for %" PRIu64 " ms", now_ms - c->heard_ms);
    } else if (c->streams_count == 0 && now_ms - c->busy_ms >= IDLE_MS) {
        conn_fail(c, "no call for %" PRIu64 " ms", now_ms - c->busy_ms);
    } else if (now_ms - c->heard_ms >= PING_MS && now_ms - c->pinged_ms >= PING_MS) {
        conn_ping(c);
    }
}

static void on_tick(uv_timer_t *tick)
{
    struct peer_hub *hub = tick->data;
    uint64_t now_ms = uv_now(hub->config.loop);
    bool stalled = now_ms - hub->ticked_ms > STALL_MS;

    hub->ticked_ms = now_ms;
    for (struct list *n = hub->incoming.next; n != &hub->incoming; n = n->next) {
        struct conn *c = list_item(n, struct conn, node);

        if (stalled) {
            c->heard_ms = now_ms;
        }
        check_incoming(c, now_ms);
    }
    if (hub->accept_missed) {
        hub->accept_missed = false;
        on_connection((uv_stream_t *)&hub->listener, 0);
    }
}

/* --- open --------------------------------------------------------------------------------------------------------- */

/* A listening socket without libuv, so that a failure leaves nothing for the loop to close. */
static int listen_socket(const struct peer_config *config, int *fd, uint16_t *port, struct otr_errmsg *msg)
{
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;
    int one = 1;
    int rv;

    if (uv_ip4_addr(config->listen_host, config->listen_port, (struct sockaddr_in *)&address) != 0 &&
        uv_ip6_addr(config->listen_host, config->listen_port, (struct sockaddr_in6 *)&address) != 0) {
        otr_errmsg_set(msg, "listen for peers on %s:%u: not a numeric address", config->listen_host,
                       config->listen_port);
        return OTR_INVALID;
    }
    *fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*fd < 0) {
        goto err;
    }
    if (setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(*fd, (struct sockaddr *)&address,
             address.ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)) != 0 ||
        listen(*fd, BACKLOG) != 0 || getsockname(*fd, (struct sockaddr *)&address, &length) != 0) {
        goto err_after_socket;
    }
    *port = ntohs(address.ss_family == AF_INET ? ((struct sockaddr_in *)&address)->sin_port
                                               : ((struct sockaddr_in6 *)&address)->sin6_port);
    return 0;

err_after_socket:
    rv = errno;
    close(*fd);
    errno = rv;
err:
    rv = errno == EADDRINUSE ? OTR_INUSE : errno == EACCES ? OTR_DENIED : OTR_INVALID;
    otr_errmsg_set(msg, "listen for peers on %s:%u: %s", config->listen_host, config->listen_port, strerror(errno));
    return rv;
}

static int check_config(const struct peer_config *config, struct otr_errmsg *msg)
{
    size_t cluster_bytes = strlen(config->cluster);
    size_t node_bytes = strlen(config->node);

    if (cluster_bytes == 0 || cluster_bytes > OTR_NAME_MAX || node_bytes == 0 || node_bytes > OTR_NAME_MAX ||
        config->incarnation == 0) {
        otr_errmsg_set(msg, "cluster and node need names of 1 to %d bytes, and an incarnation", OTR_NAME_MAX);
        return OTR_INVALID;
    }
    return 0;
}

static void hub_fill(struct peer_hub *hub, const struct peer_config *config)
{
    hub->config = *config;
    snprintf(hub->cluster, sizeof hub->cluster, "%s", config->cluster);
    snprintf(hub->node, sizeof hub->node, "%s", config->node);
    snprintf(hub->version, sizeof hub->version, "%s", config->version != NULL ? config->version : "");
    snprintf(hub->incarnation_text, sizeof hub->incarnation_text, "%" PRIu64, config->incarnation);
    hub->config.cluster = hub->cluster;
    hub->config.node = hub->node;
    hub->config.version = hub->version;
    hub->config.listen_host = NULL; /* The caller's. */
    hub->config.ca_file = hub->config.cert_file = hub->config.key_file = NULL;
    list_init(&hub->links);
    list_init(&hub->incoming);
    list_init(&hub->calls);
    list_init(&hub->watchers);
    list_init(&hub->tasks);
    list_init(&hub->flushes);
    list_init(&hub->close_task.node);
}

/* Handles that never fail to start; unref'd, but for the listener: they shall not keep a loop alive. */
static void hub_start(struct peer_hub *hub, int fd)
{
    uv_loop_t *loop = hub->config.loop;
    int rv = uv_tcp_init(loop, &hub->listener);

    assert(rv == 0); /* It opens nothing yet. */
    rv = uv_tcp_open(&hub->listener, fd);
    assert(rv == 0); /* A fresh socket of ours. */
    uv_prepare_init(loop, &hub->prepare);
    uv_check_init(loop, &hub->check);
    uv_idle_init(loop, &hub->idle);
    uv_timer_init(loop, &hub->tick);
    hub->handles += 5;
    hub->listener.data = hub->prepare.data = hub->check.data = hub->idle.data = hub->tick.data = hub;
    uv_prepare_start(&hub->prepare, on_prepare);
    uv_check_start(&hub->check, on_check);
    hub->ticked_ms = uv_now(loop);
    uv_timer_start(&hub->tick, on_tick, TICK_MS, TICK_MS);
    uv_unref((uv_handle_t *)&hub->prepare);
    uv_unref((uv_handle_t *)&hub->check);
    uv_unref((uv_handle_t *)&hub->tick);
    rv = uv_listen((uv_stream_t *)&hub->listener, BACKLOG, on_connection);
    assert(rv == 0); /* It listens already. */
}

static int hub_open_tls(struct peer_hub *hub, const struct peer_config *config, struct otr_errmsg *msg)
{
    struct tls_name self = {.kind = TLS_KIND_NODE};
    const struct tls_config tls = {
        .label = "peer",
        .ca_file = config->ca_file,
        .cert_file = config->cert_file,
        .key_file = config->key_file,
        .alpn = "h2",
        .peer_required = true,
        .self = &self,
    };
    int rv;

    if (config->ca_file == NULL && config->cert_file == NULL && config->key_file == NULL) {
        return 0;
    }
    if (config->ca_file == NULL || config->cert_file == NULL || config->key_file == NULL) {
        otr_errmsg_set(msg, "TLS between peers needs all three: CA, certificate and key");
        return OTR_INVALID;
    }
    memcpy(self.cluster, hub->cluster, sizeof self.cluster);
    memcpy(self.name, hub->node, sizeof self.name);
    rv = tls_new(&hub->tls, config->loop, &tls, msg);
    if (rv != 0) {
        otr_errmsg_wrap(msg, "TLS between peers");
        return rv;
    }
    hub_handle_opened(hub);
    return 0;
}

int peer_hub_new(struct peer_hub **hub, const struct peer_config *config, struct otr_errmsg *msg)
{
    struct peer_hub *h;
    int fd;
    int rv;

    rv = check_config(config, msg);
    if (rv != 0) {
        return rv;
    }
    h = calloc(1, sizeof *h);
    if (h != NULL) {
        h->read_buffer = malloc(HUB_READ_BYTES);
    }
    if (h == NULL || h->read_buffer == NULL) {
        otr_errmsg_set(msg, "out of memory");
        rv = OTR_NOMEM;
        goto err;
    }
    signal(SIGPIPE, SIG_IGN); /* libuv writes without MSG_NOSIGNAL: a peer that goes away must not end the process. */
    hub_fill(h, config);
    rv = listen_socket(config, &fd, &h->port, msg);
    if (rv != 0) {
        goto err;
    }
    rv = hub_open_tls(h, config, msg);
    if (rv != 0) {
        goto err_after_socket;
    }
    hub_start(h, fd);
    *hub = h;
    return 0;

err_after_socket:
    close(fd);
err:
    if (h != NULL) {
        free(h->read_buffer);
    }
    free(h);
    return rv;
}

uint16_t peer_hub_port(const struct peer_hub *hub)
{
    return hub->port;
}

size_t peer_hub_incoming(const struct peer_hub *hub)
{
    return hub->incoming_bytes;
}

bool peer_hub_tls_stats(const struct peer_hub *hub, struct tls_stats *stats)
{
    if (hub->tls == NULL) {
        return false;
    }
    *stats = tls_stats(hub->tls);
    stats->handshakes_failed += hub->callers_refused;
    return true;
}

/* --- close -------------------------------------------------------------------------------------------------------- */

void hub_handle_opened(struct peer_hub *hub)
{
    hub->handles++;
}

void hub_handle_closed(struct peer_hub *hub)
{
    void (*cb)(void *data) = hub->close_cb;
    void *data = hub->close_data;

    assert(hub->handles > 0);
    if (--hub->handles > 0) {
        return;
    }
    assert(hub->closing && list_empty(&hub->links) && list_empty(&hub->incoming));
    run_tasks(hub); /* What is left only frees memory. */
    call_orphan_all(hub);
    free(hub->read_buffer);
    free(hub);
    if (cb != NULL) {
        cb(data);
    }
}

static void on_own_handle_closed(uv_handle_t *handle)
{
    hub_handle_closed(handle->data);
}

static void on_tls_closed(void *data)
{
    hub_handle_closed(data);
}

static void run_close(struct hub_task *task)
{
    struct peer_hub *hub = list_item(task, struct peer_hub, close_task);

    while (!list_empty(&hub->links)) {
        link_shutdown(list_item(hub->links.next, struct peer_link, node));
    }
    public_close(hub);
    while (!list_empty(&hub->incoming)) {
        struct conn *c = list_item(hub->incoming.next, struct conn, node);

        conn_flush(c); /* What watchers of our health are told: behind a GOAWAY nothing more goes out. */
        conn_goodbye(c);
        conn_close(c);
    }
    if (hub->tls != NULL) {
        tls_close(hub->tls, on_tls_closed, hub);
    }
    uv_close((uv_handle_t *)&hub->listener, on_own_handle_closed);
    uv_close((uv_handle_t *)&hub->prepare, on_own_handle_closed);
    uv_close((uv_handle_t *)&hub->check, on_own_handle_closed);
    uv_close((uv_handle_t *)&hub->idle, on_own_handle_closed);
    uv_close((uv_handle_t *)&hub->tick, on_own_handle_closed);
}

void peer_hub_serving(struct peer_hub *hub, enum peer_service service, bool serving)
{
    if (hub->serving[service] != serving && !hub->closing) {
        hub->serving[service] = serving;
        public_changed(hub);
    }
}

void peer_hub_close(struct peer_hub *hub, void (*cb)(void *data), void *data)
{
    for (unsigned i = 0; i < PEER_SERVICES; i++) {
        peer_hub_serving(hub, (enum peer_service)i, false);
    }
    hub->closing = true;
    hub->close_cb = cb;
    hub->close_data = data;
    hub_task_init(&hub->close_task, run_close);
    hub_defer(hub, &hub->close_task);
}
