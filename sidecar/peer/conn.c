#include "sidecar/peer/conn.h"

#include "sidecar/peer/conn_session.h"
#include "sidecar/peer/conn_write.h"

#include <assert.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    HEADER_LIST_BYTES = STREAM_HEADER_BYTES_MAX,
    LINGER_MS = 1000,
    TLS_ALERT = 21, /* content types: the first byte of what speaks TLS */
    TLS_HANDSHAKE = 22,
};

/* --- the end ------------------------------------------------------------------------------------------------------ */

static void on_socket_closed(uv_handle_t *handle)
{
    struct conn *c = handle->data;
    struct peer_hub *hub = c->hub;

    conn_write_release(c);
    tls_session_free(c->tls);
    free(c->arena);
    free(c);
    hub_handle_closed(hub);
}

static void conn_end(struct conn *c)
{
    const struct conn_ops *ops = c->ops;

    assert(c->depth == 0);
    if (c->ending) {
        return;
    }
    c->ending = true;
    list_remove(&c->flush_node);
    hub_task_cancel(&c->fail_task);
    if (ops != NULL) {
        ops->on_ending(c);
    }
    while (!list_empty(&c->streams)) {
        stream_close(list_item(c->streams.next, struct stream, sibling), true, 0);
    }
    if (c->session != NULL) {
        nghttp2_session_del(c->session);
        c->session = NULL;
    }
    list_remove(&c->node);
    uv_close((uv_handle_t *)&c->tcp, on_socket_closed);
    if (c->ops != NULL) {
        c->ops->on_end(c, c->uv_status, &c->why);
    }
}

static void run_fail(struct hub_task *task)
{
    conn_end(list_item(task, struct conn, fail_task));
}

void conn_fail(struct conn *c, const char *format, ...)
{
    va_list args;

    if (c->failed || c->ending) {
        return;
    }
    c->failed = true;
    va_start(args, format);
    vsnprintf(c->why.text, sizeof c->why.text, format, args);
    va_end(args);
    hub_defer(c->hub, &c->fail_task);
}

void conn_close(struct conn *c)
{
    c->ops = NULL;
    conn_end(c);
}

/* --- asking for work -----------------------------------------------------------------------------------------------
 */

void conn_touch(struct conn *c)
{
    if (!c->ending) {
        hub_flush_later(c->hub, &c->flush_node);
    }
}

void conn_goodbye(struct conn *c)
{
    if (c->started && !c->ending && !c->failed) {
        nghttp2_session_terminate_session(c->session, NGHTTP2_NO_ERROR);
        conn_flush(c);
        conn_write_goodbye(c);
    }
}

void conn_ping(struct conn *c)
{
    c->pinged_ms = uv_now(c->hub->config.loop);
    if (nghttp2_submit_ping(c->session, NGHTTP2_FLAG_NONE, NULL) != 0) {
        conn_fail(c, "out of memory");
    }
    conn_touch(c);
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    const struct conn *c = handle->data;

    /* One buffer for all: what is read is used up before the next read. */
    (void)suggested;
    *buf = uv_buf_init((char *)c->hub->read_buffer, HUB_READ_BYTES);
}

static void receive(struct conn *c, const uint8_t *bytes, size_t count)
{
    ssize_t used;

    c->depth++;
    used = nghttp2_session_mem_recv(c->session, bytes, count);
    c->depth--;
    if (used < 0) {
        struct otr_errmsg detail = c->why;

        conn_fail(c, "%s%s%s", nghttp2_strerror((int)used), detail.text[0] != '\0' ? ": " : "", detail.text);
    }
}

/* HTTP/2 begins with "PRI" or with a frame's length below 64 KiB. */
static void receive_plain(struct conn *c, const uint8_t *bytes, size_t count)
{
    if (!c->heard && (bytes[0] == TLS_ALERT || bytes[0] == TLS_HANDSHAKE)) {
        c->mismatch = true;
        conn_fail(c, "the other side speaks TLS and this node does not: it needs --peer-ca, --peer-cert, --peer-key");
        return;
    }
    receive(c, bytes, count);
}

static bool on_decrypted(void *data, const uint8_t *bytes, size_t count)
{
    struct conn *c = data;

    receive(c, bytes, count);
    return !c->failed;
}

static void receive_tls(struct conn *c, const uint8_t *bytes, size_t count)
{
    struct otr_errmsg msg;
    bool handshaking = !tls_session_ready(c->tls);
    int rv = tls_session_feed(c->tls, bytes, count, on_decrypted, c, &msg);

    if (rv != 0) {
        bool plain = !c->heard && bytes[0] != TLS_HANDSHAKE && bytes[0] != TLS_ALERT;

        c->mismatch = handshaking || rv == OTR_DENIED;
        conn_fail(c, "TLS: %s%s", msg.text, plain ? ": does it lack --peer-ca, --peer-cert, --peer-key?" : "");
    } else if (tls_session_ended(c->tls)) {
        c->uv_status = UV_EOF;
        conn_fail(c, "the peer closed the connection");
    }
}

static void end_of_file(struct conn *c)
{
    struct otr_errmsg msg;

    if (c->tls != NULL && tls_session_eof(c->tls, &msg) != 0) {
        conn_fail(c, "%s", msg.text); /* A killed process does that, too. */
    } else {
        conn_fail(c, "the peer closed the connection");
    }
}

/* TLS failed: says why. After a handshake a server waits for the other side to read that. */
static bool linger(struct conn *c)
{
    uv_os_fd_t fd;

    if (!conn_write_alert(c) || !c->server || !c->mismatch || uv_fileno((uv_handle_t *)&c->tcp, &fd) != 0 ||
        shutdown(fd, SHUT_WR) != 0) {
        return false;
    }
    hub_task_cancel(&c->fail_task);
    list_remove(&c->flush_node);
    c->lingers_ms = uv_now(c->hub->config.loop);
    return true;
}

bool conn_lingers(struct conn *c, uint64_t now_ms)
{
    if (c->lingers_ms == 0) {
        return false;
    }
    if (now_ms - c->lingers_ms >= LINGER_MS) {
        hub_defer(c->hub, &c->fail_task);
    }
    return true;
}

static void on_read(uv_stream_t *tcp, ssize_t bytes, const uv_buf_t *buf)
{
    struct conn *c = tcp->data;

    if (c->lingers_ms != 0) {
        if (bytes < 0) {
            conn_end(c);
        }
        return;
    }
    if (bytes > 0) {
        c->heard_ms = uv_now(c->hub->config.loop);
        if (c->tls != NULL) {
            receive_tls(c, (const uint8_t *)buf->base, (size_t)bytes);
        } else {
            receive_plain(c, (const uint8_t *)buf->base, (size_t)bytes);
        }
        c->heard = true;
        conn_touch(c);
    } else if (bytes < 0) {
        c->uv_status = (int)bytes;
        if (bytes == UV_EOF) {
            end_of_file(c);
        } else {
            conn_fail(c, "%s", uv_strerror((int)bytes));
        }
    }
    if (c->failed && !linger(c)) {
        conn_end(c); /* At once, not at the end of the turn: this is how a dead peer shows itself. */
    }
}

/* --- set-up ------------------------------------------------------------------------------------------------------- */

static int session_start(struct conn *c)
{
    nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, CONN_STREAM_WINDOW},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, CONN_FRAME_BYTES},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HEADER_LIST_BYTES},
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, c->server ? CONN_STREAMS_MAX : 0},
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
    };
    int rv = conn_session_new(c);

    if (rv != 0) {
        return rv;
    }
    rv = nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, c->server ? 4 : 5);
    if (rv != 0) {
        return rv;
    }
    rv = nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, CONN_WINDOW);
    if (rv != 0) {
        return rv;
    }
    c->started = true;
    return 0;
}

static int tls_start(struct conn *c)
{
    struct tls_name expect = {.kind = TLS_KIND_NODE};
    struct otr_errmsg msg;

    if (c->hub->tls == NULL) {
        return 0;
    }
    memcpy(expect.cluster, c->hub->cluster, sizeof expect.cluster);
    if (!c->server) {
        snprintf(expect.name, sizeof expect.name, "%s", c->node_expected);
    }
    return tls_session_new(&c->tls, c->hub->tls, c->server ? TLS_SERVER : TLS_CLIENT, &expect, &msg);
}

/* The socket is connected: name it, tune it, begin to talk. UV_* */
static int conn_start(struct conn *c)
{
    struct sockaddr_storage address = {0};
    int length = sizeof address;
    int unsent = CONN_UNSENT_BYTES;
    uv_os_fd_t fd;
    int rv;

    if (uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&address, &length) == 0) {
        uv_ip_name((struct sockaddr *)&address, c->remote, sizeof c->remote);
    }
    rv = uv_tcp_nodelay(&c->tcp, 1);
    if (rv != 0) {
        return rv;
    }
    if (uv_fileno((uv_handle_t *)&c->tcp, &fd) == 0) {
        /* Best effort: without it a beacon may wait behind what the kernel has buffered. */
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
    }
    c->arena = malloc(CONN_ARENA_BYTES);
    if (c->arena == NULL || tls_start(c) != 0 || session_start(c) != 0) {
        return UV_ENOMEM;
    }
    c->heard_ms = uv_now(c->hub->config.loop);
    c->pinged_ms = c->heard_ms;
    conn_touch(c);
    return uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
}

static struct conn *conn_new(struct peer_hub *hub, bool server, const struct conn_ops *ops, void *owner)
{
    struct conn *c = calloc(1, sizeof *c);

    if (c == NULL || uv_tcp_init(hub->config.loop, &c->tcp) != 0) {
        free(c);
        return NULL;
    }
    hub_handle_opened(hub);
    c->tcp.data = c;
    c->hub = hub;
    c->ops = ops;
    c->owner = owner;
    c->server = server;
    c->opened_ms = c->heard_ms = c->busy_ms = uv_now(hub->config.loop);
    strcpy(c->remote, "?");
    list_init(&c->node);
    list_init(&c->streams);
    list_init(&c->flush_node);
    hub_task_init(&c->fail_task, run_fail);
    return c;
}

/* With no listener at all on a port of the ephemeral range, a dial on one machine may meet itself. */
static bool connected_to_itself(const struct conn *c)
{
    struct sockaddr_storage here = {0};
    struct sockaddr_storage there = {0};
    int here_length = sizeof here;
    int there_length = sizeof there;

    return uv_tcp_getsockname(&c->tcp, (struct sockaddr *)&here, &here_length) == 0 &&
           uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&there, &there_length) == 0 && here_length == there_length &&
           memcmp(&here, &there, (size_t)here_length) == 0;
}

static void on_connect(uv_connect_t *connect, int status)
{
    struct conn *c = connect->data;

    if (c->ending) {
        return;
    }
    if (status == 0 && connected_to_itself(c)) {
        status = UV_ECONNREFUSED;
    }
    if (status == 0) {
        status = conn_start(c);
    }
    if (status != 0) {
        c->uv_status = status;
        conn_fail(c, "%s", uv_strerror(status));
        conn_end(c);
        return;
    }
    c->ops->on_connected(c);
}

int conn_connect(struct conn **conn, struct peer_hub *hub, const struct sockaddr *address, const char *node,
                 const struct conn_ops *ops, void *owner)
{
    struct conn *c = conn_new(hub, false, ops, owner);
    int rv;

    if (c == NULL) {
        return UV_ENOMEM;
    }
    c->connect.data = c;
    c->node_expected = node;
    rv = uv_tcp_connect(&c->connect, &c->tcp, address, on_connect);
    if (rv != 0) {
        conn_close(c);
        return rv;
    }
    *conn = c;
    return 0;
}

int conn_accept(struct conn **conn, struct peer_hub *hub, const struct conn_ops *ops)
{
    struct conn *c = conn_new(hub, true, ops, NULL);
    int rv;

    if (c == NULL) {
        return UV_ENOMEM;
    }
    rv = uv_accept((uv_stream_t *)&hub->listener, (uv_stream_t *)&c->tcp);
    if (rv == 0) {
        rv = conn_start(c);
    }
    if (rv != 0) {
        conn_close(c);
        return rv;
    }
    *conn = c;
    return 0;
}
