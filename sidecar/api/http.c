#include "sidecar/api/http_internal.h"
#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"

#include <assert.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BACKLOG = 511,
    SWEEP_MS = 100,
    REFUSED_CONNECTIONS_MAX = 100, /* above connections_max, to be told why */
    UNSENT_BYTES = 128 << 10,      /* that the kernel holds of an answer: it would take megabytes that nobody reads */
};

static void on_sweep_closed(uv_handle_t *handle)
{
    struct http_server *s = handle->data;
    void (*cb)(void *data) = s->close_cb;
    void *data = s->close_data;

    free(s);
    cb(data);
}

static void server_finish(struct http_server *s)
{
    if (s->close_cb != NULL && s->listener_closed && s->conns_count == 0 && !s->sweep_closing) {
        s->sweep_closing = true;
        uv_close((uv_handle_t *)&s->sweep, on_sweep_closed);
    }
}

void http_server_forget(struct http_server *s, struct http_conn *c)
{
    *c->link = c->next;
    if (c->next != NULL) {
        c->next->link = c->link;
    }
    s->conns_count--;
    free(c);
    if (s->conns_count == 0 && !s->accept_missed) {
        uv_timer_stop(&s->sweep);
    }
    server_finish(s);
}

/* Too long at rest, or too slow on average. */
static bool stalled(const struct http_conn *c, uint64_t now_ms)
{
    const struct http_server_config *config = &c->s->config;

    return now_ms - c->moved_ms > config->rest_timeout_ms ||
           now_ms - c->since_ms > config->grace_ms + c->moved_bytes * 1000 / config->rate_bytes;
}

static void sweep_conn(struct http_conn *c, uint64_t now_ms)
{
    const struct http_server *s = c->s;
    uint64_t age_ms = now_ms - c->since_ms;
    size_t queued;

    switch (c->state) {
    case HTTP_CONN_IDLE:
        if (age_ms > s->config.idle_timeout_ms) {
            http_conn_close(c);
        }
        break;
    case HTTP_CONN_HEAD:
        if (age_ms > s->config.head_timeout_ms) {
            http_conn_refuse(c, 408, "the head did not come in time");
        }
        break;
    case HTTP_CONN_BODY:
        if (stalled(c, now_ms)) {
            http_conn_refuse(c, 408, "the body comes too slowly");
        }
        break;
    case HTTP_CONN_WRITING:
        if (c->tls != NULL && http_tls_moved(c) > c->moved_bytes) {
            c->moved_bytes = http_tls_moved(c);
            c->moved_ms = now_ms;
        }
        queued = uv_stream_get_write_queue_size((uv_stream_t *)&c->tcp);
        if (c->tls == NULL && queued + c->moved_bytes < c->out_head.used + c->out_body.used) {
            c->moved_bytes = c->out_head.used + c->out_body.used - queued;
            c->moved_ms = now_ms;
        }
        if (stalled(c, now_ms) || (s->stopped && now_ms - s->closing_since_ms > HTTP_CLOSING_WRITE_MS)) {
            http_conn_close(c);
        }
        break;
    case HTTP_CONN_LINGER:
        if (age_ms > HTTP_LINGER_MS || (s->stopped && now_ms - s->closing_since_ms > HTTP_CLOSING_WRITE_MS)) {
            http_conn_close(c);
        }
        break;
    case HTTP_CONN_HANDLING:
    case HTTP_CONN_CLOSED:
    default:
        break;
    }
}

static void on_connection(uv_stream_t *stream, int status);

static void on_sweep(uv_timer_t *timer)
{
    struct http_server *s = timer->data;
    struct http_conn *next;
    uint64_t now_ms;

    if (s->accept_missed) {
        s->accept_missed = false;
        on_connection((uv_stream_t *)&s->listener, 0);
    }
    now_ms = clock_now_ms(); /* no earlier than any connection's since_ms */
    for (struct http_conn *c = s->conns; c != NULL; c = next) {
        next = c->next; /* Connections are only unlinked by their close callback, later. */
        sweep_conn(c, now_ms);
    }
}

/* There was no memory for a connection: libuv holds it and listens no more until it is accepted. */
static void accept_again(struct http_server *s)
{
    s->accept_missed = true;
    uv_timer_start(&s->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
}

/* Closes the connection that has waited longest for a request, if any waits. */
static void make_room(struct http_server *s)
{
    if (s->idle != NULL) {
        s->metrics.idle_closed_total++;
        http_conn_close(s->idle);
    }
}

static struct http_conn *conn_new(struct http_server *s)
{
    struct http_conn *c = calloc(1, sizeof *c);

    if (c == NULL) {
        return NULL;
    }
    if (s->sockets_count >= s->config.connections_max) {
        make_room(s);
    }
    if (uv_tcp_init(s->config.loop, &c->tcp) != 0) {
        free(c);
        return NULL;
    }
    c->s = s;
    c->tcp.data = c;
    c->next = s->conns;
    c->link = &s->conns;
    if (c->next != NULL) {
        c->next->link = &c->next;
    }
    s->conns = c;
    s->conns_count++;
    s->sockets_count++;
    if (s->conns_count == 1) {
        uv_timer_start(&s->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
    }
    http_guard_init(&c->guard);
    http_conn_enter(
        c, HTTP_CONN_HEAD); /* The first request is due: an idle one is only kept when it was asked something. */
    http_conn_idle(c, true);
    return c;
}

/* rv: of accepting it. */
static void conn_begin(struct http_conn *c, int rv)
{
    static const int unsent = UNSENT_BYTES;
    struct http_server *s = c->s;
    uv_os_fd_t fd;

    if (rv != 0 || s->sockets_count > s->config.connections_max + REFUSED_CONNECTIONS_MAX) {
        http_conn_close(c);
        return;
    }
    s->metrics.connections_total++;
    uv_tcp_nodelay(&c->tcp, 1);
    if (uv_fileno((uv_handle_t *)&c->tcp, &fd) == 0) {
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent,
                         sizeof unsent); /* Without it all works, larger. */
    }
    if (s->sockets_count > s->config.connections_max) {
        http_conn_refuse(c, 503, "too many connections: try again");
        return;
    }
    http_conn_read(c);
}

static void on_connection(uv_stream_t *stream, int status)
{
    struct http_server *s = stream->data;
    struct http_conn *c;

    if (s->retired) {
        return;
    }
    if (status != 0) { /* Without descriptors libuv drops newcomers by one that it keeps for that; if it lost that: */
        LOG_LIMITED(LOG_WARN, "http", "accept: %s", uv_strerror(status));
        make_room(s);
        return;
    }
    c = conn_new(s);
    if (c == NULL) {
        accept_again(s);
        return;
    }
    conn_begin(c, uv_accept(stream, (uv_stream_t *)&c->tcp));
}

/* The kernel has taken connections that the loop has not seen yet: closing the listener would reset them. */
static void accept_waiting(struct http_server *s)
{
    uv_os_fd_t listener;
    struct http_conn *c;
    int fd;

    if (uv_fileno((uv_handle_t *)&s->listener, &listener) != 0) {
        return;
    }
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        c = conn_new(s);
        if (c == NULL) {
            close(fd);
            return;
        }
        conn_begin(c, uv_tcp_open(&c->tcp, fd));
    }
}

/* --- the server --------------------------------------------------------------------------------------------------- */

static void set_defaults(struct http_server_config *c)
{
    struct rlimit files;

    c->connections_max = c->connections_max != 0 ? c->connections_max : 10000;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur / 4 * 3 < c->connections_max) {
        c->connections_max = (uint32_t)(files.rlim_cur / 4 * 3); /* the rest is for files, peers and the engine */
    }
    c->body_max = c->body_max != 0 ? c->body_max : 64 << 20;
    c->bodies_total_max = c->bodies_total_max != 0 ? c->bodies_total_max : 512 << 20;
    c->answers_total_max = c->answers_total_max != 0 ? c->answers_total_max : 256 << 20;
    c->head_timeout_ms = c->head_timeout_ms != 0 ? c->head_timeout_ms : 10000;
    c->idle_timeout_ms = c->idle_timeout_ms != 0 ? c->idle_timeout_ms : 75000;
    c->rest_timeout_ms = c->rest_timeout_ms != 0 ? c->rest_timeout_ms : 10000;
    c->grace_ms = c->grace_ms != 0 ? c->grace_ms : 20000;
    c->rate_bytes = c->rate_bytes != 0 ? c->rate_bytes : 16384;
}

static int parse_address(const char *host, uint16_t port, struct sockaddr_storage *address)
{
    if (uv_ip4_addr(host, port, (struct sockaddr_in *)(void *)address) == 0) {
        return 0;
    }
    return uv_ip6_addr(host, port, (struct sockaddr_in6 *)(void *)address) == 0 ? 0 : OTR_INVALID;
}

static int listen_error(int rv)
{
    return rv == UV_EADDRINUSE ? OTR_INUSE : rv == UV_EACCES ? OTR_DENIED : OTR_INVALID;
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct http_server *s = handle->data;

    s->listener_closed = true;
    server_finish(s);
}

static void close_nothing(void *data)
{
    (void)data;
}

int http_server_new(struct http_server **out, const struct http_server_config *config, struct otr_errmsg *msg)
{
    struct http_server *s = calloc(1, sizeof *s);
    struct sockaddr_storage address = {0};
    int rv;

    if (s == NULL) {
        return OTR_NOMEM;
    }
    signal(SIGPIPE, SIG_IGN); /* libuv writes without MSG_NOSIGNAL: a client that goes away must not end the process. */
    s->config = *config;
    set_defaults(&s->config);
    s->idle_end = &s->idle;
    rv = parse_address(config->host, config->port, &address);
    if (rv != 0) {
        otr_errmsg_set(msg, "listen on %s:%u: no numeric IP address", config->host, config->port);
        free(s);
        return rv;
    }
    rv = uv_tcp_init(config->loop, &s->listener);
    assert(rv == 0); /* Neither opens anything yet. */
    rv = uv_timer_init(config->loop, &s->sweep);
    assert(rv == 0);
    s->listener.data = s;
    s->sweep.data = s;
    rv = uv_tcp_bind(&s->listener, (struct sockaddr *)&address, 0);
    if (rv == 0) {
        rv = uv_listen((uv_stream_t *)&s->listener, BACKLOG, on_connection);
    }
    if (rv != 0) {
        otr_errmsg_set(msg, "listen on %s:%u: %s", config->host, config->port, uv_strerror(rv));
        http_server_close(s, close_nothing, NULL);
        return listen_error(rv);
    }
    *out = s;
    return 0;
}

uint16_t http_server_port(const struct http_server *s)
{
    struct sockaddr_storage address;
    int bytes = sizeof address;

    if (uv_tcp_getsockname(&s->listener, (struct sockaddr *)&address, &bytes) != 0) {
        return 0;
    }
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&address)->sin6_port
                                               : ((struct sockaddr_in *)(void *)&address)->sin_port);
}

uint32_t http_server_connections(const struct http_server *s)
{
    return s->conns_count;
}

const struct http_metrics *http_server_metrics(struct http_server *s)
{
    s->metrics.connections = s->conns_count;
    s->metrics.connections_max = s->config.connections_max;
    s->metrics.body_bytes = s->bodies_total;
    s->metrics.answer_bytes = s->answers_total;
    if (s->config.tls != NULL) {
        struct tls_stats tls = tls_stats(s->config.tls);

        s->metrics.tls_handshakes_total = tls.handshakes;
        s->metrics.tls_handshakes_failed_total = tls.handshakes_failed;
        s->metrics.tls_reloads_total = tls.reloads;
        s->metrics.tls_reloads_failed_total = tls.reloads_failed;
        s->metrics.tls_certificate_expires_time_seconds = tls.expires_s;
    }
    return &s->metrics;
}

void http_server_leave(struct http_server *s)
{
    s->leaving = true;
}

void http_server_retire(struct http_server *s)
{
    struct http_conn *next;
    uint64_t now_ms;

    if (s->retired) {
        return;
    }
    http_server_leave(s);
    accept_waiting(s);
    now_ms = clock_now_ms(); /* no earlier than any connection's since_ms */
    s->retired = true;
    uv_close((uv_handle_t *)&s->listener, on_listener_closed);
    for (struct http_conn *c = s->conns; c != NULL; c = next) {
        next = c->next;
        if (c->state == HTTP_CONN_IDLE && now_ms - c->since_ms >= HTTP_FRESH_MS) {
            http_conn_close(c);
        }
    }
}

bool http_server_busy(const struct http_server *s)
{
    uint64_t now_ms = clock_now_ms();

    for (const struct http_conn *c = s->conns; c != NULL; c = c->next) {
        bool waits = c->state == HTTP_CONN_IDLE || (c->state == HTTP_CONN_HEAD && c->head_used == 0);
        bool ended = c->state == HTTP_CONN_LINGER || c->state == HTTP_CONN_CLOSED;

        if (!ended && (!waits || now_ms - c->since_ms < HTTP_FRESH_MS)) {
            return true;
        }
    }
    return false;
}

void http_server_stop(struct http_server *s)
{
    if (s->stopped) {
        return;
    }
    http_server_retire(s);
    s->stopped = true;
    s->closing_since_ms = clock_now_ms();
    for (struct http_conn *c = s->conns; c != NULL; c = c->next) {
        if (c->state <= HTTP_CONN_BODY) {
            http_conn_close(c);
        }
    }
}

void http_server_close(struct http_server *s, void (*cb)(void *data), void *data)
{
    http_server_stop(s);
    s->close_cb = cb;
    s->close_data = data;
    server_finish(s);
}
