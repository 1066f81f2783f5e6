#include "tests/lib/relay.h"
#include "tests/lib/free_port.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 65536, BACKLOG = 128 };

struct pair;

struct end {
    uv_tcp_t tcp;
    struct pair *pair;
    struct end *other;
    bool is_client;
    bool reading;
    bool ended; /* has said all */
};

struct pair {
    struct pair *prev, *next;
    struct relay *relay;
    struct end client, server;
    bool connected;
    unsigned handles_count;
};

struct relay {
    uv_loop_t *loop;
    uv_tcp_t *listener; /* NULL while REFUSED */
    struct sockaddr_in here, there;
    struct pair *pairs;
    enum relay_link link;
    bool closing;
};

static void must(int rv, const char *what)
{
    if (rv != 0) {
        fprintf(stderr, "relay: %s: %s\n", what, uv_strerror(rv));
        abort();
    }
}

/* --- ends ------------------------------------------------------------------------------------------------------- */

static void relay_free_if_unused(struct relay *relay)
{
    if (relay->closing && relay->pairs == NULL && relay->listener == NULL) {
        free(relay);
    }
}

static void on_end_closed(uv_handle_t *handle)
{
    struct pair *pair = ((struct end *)handle->data)->pair;
    struct relay *relay = pair->relay;

    if (--pair->handles_count > 0) {
        return;
    }
    if (pair->prev != NULL) {
        pair->prev->next = pair->next;
    } else {
        relay->pairs = pair->next;
    }
    if (pair->next != NULL) {
        pair->next->prev = pair->prev;
    }
    free(pair);
    relay_free_if_unused(relay);
}

static void end_close(struct end *end, bool reset)
{
    if (uv_is_closing((uv_handle_t *)&end->tcp)) {
        return;
    }
    if (!reset || uv_tcp_close_reset(&end->tcp, on_end_closed) != 0) {
        uv_close((uv_handle_t *)&end->tcp, on_end_closed);
    }
}

static void pair_close(struct pair *pair, bool reset)
{
    end_close(&pair->client, reset);
    end_close(&pair->server, reset);
}

/* --- bytes ------------------------------------------------------------------------------------------------------ */

static void on_alloc(uv_handle_t *handle, size_t wanted, uv_buf_t *buf)
{
    (void)handle;
    (void)wanted;
    buf->base = malloc(CHUNK);
    buf->len = CHUNK;
}

static void on_written(uv_write_t *write, int status)
{
    (void)status;
    free(write->data);
    free(write);
}

static void on_shut_down(uv_shutdown_t *shutdown, int status)
{
    struct end *end = shutdown->data;

    (void)status;
    free(shutdown);
    if (!uv_is_closing((uv_handle_t *)&end->tcp)) {
        pair_close(end->pair, false);
    }
}

static void on_read(uv_stream_t *stream, ssize_t bytes, const uv_buf_t *buf)
{
    struct end *end = stream->data;

    if (bytes > 0) {
        uv_write_t *write = calloc(1, sizeof *write);
        uv_buf_t piece = uv_buf_init(buf->base, (unsigned)bytes);

        write->data = buf->base;
        if (uv_write(write, (uv_stream_t *)&end->other->tcp, &piece, 1, on_written) != 0) {
            on_written(write, 0);
            pair_close(end->pair, false);
        }
        return;
    }
    free(buf->base);
    if (bytes == UV_EOF && !end->ended) { /* What it said before goes first. */
        uv_shutdown_t *shutdown = calloc(1, sizeof *shutdown);

        end->ended = true;
        shutdown->data = end->other;
        if (uv_shutdown(shutdown, (uv_stream_t *)&end->other->tcp, on_shut_down) == 0) {
            return;
        }
        free(shutdown);
    }
    if (bytes < 0) {
        pair_close(end->pair, bytes != UV_EOF);
    }
}

/* Reads, or does not, as the link is now. */
static void end_update(struct end *end)
{
    enum relay_link link = end->pair->relay->link;
    bool wanted = link == RELAY_WHOLE || link == (end->is_client ? RELAY_NO_ANSWERS : RELAY_NO_REQUESTS);

    if (!end->pair->connected || end->ended || wanted == end->reading || uv_is_closing((uv_handle_t *)&end->tcp)) {
        return;
    }
    end->reading = wanted;
    if (wanted) {
        must(uv_read_start((uv_stream_t *)&end->tcp, on_alloc, on_read), "read");
    } else {
        uv_read_stop((uv_stream_t *)&end->tcp);
    }
}

/* --- connections ------------------------------------------------------------------------------------------------ */

static void on_connected(uv_connect_t *connect, int status)
{
    struct pair *pair = connect->data;

    free(connect);
    if (uv_is_closing((uv_handle_t *)&pair->server.tcp)) {
        return;
    }
    if (status != 0) {
        pair_close(pair, true);
        return;
    }
    pair->connected = true;
    end_update(&pair->client);
    end_update(&pair->server);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct relay *relay = listener->data;
    struct pair *pair = calloc(1, sizeof *pair);
    uv_connect_t *connect = calloc(1, sizeof *connect);

    must(status, "listen");
    pair->relay = relay;
    uv_tcp_init(relay->loop, &pair->client.tcp);
    uv_tcp_init(relay->loop, &pair->server.tcp);
    pair->handles_count = 2;
    pair->client.pair = pair->server.pair = pair;
    pair->client.other = &pair->server;
    pair->server.other = &pair->client;
    pair->client.tcp.data = &pair->client;
    pair->server.tcp.data = &pair->server;
    pair->client.is_client = true;
    pair->next = relay->pairs;
    if (pair->next != NULL) {
        pair->next->prev = pair;
    }
    relay->pairs = pair;
    must(uv_accept(listener, (uv_stream_t *)&pair->client.tcp), "accept");
    uv_tcp_nodelay(&pair->client.tcp, 1);
    uv_tcp_nodelay(&pair->server.tcp, 1);
    connect->data = pair;
    must(uv_tcp_connect(connect, &pair->server.tcp, (const struct sockaddr *)&relay->there, on_connected), "connect");
}

static void listener_open(struct relay *relay)
{
    int bytes = sizeof relay->here;

    relay->listener = calloc(1, sizeof *relay->listener);
    relay->listener->data = relay;
    must(uv_tcp_init(relay->loop, relay->listener), "listener");
    must(uv_tcp_bind(relay->listener, (const struct sockaddr *)&relay->here, 0), "bind");
    must(uv_listen((uv_stream_t *)relay->listener, BACKLOG, on_connection), "listen");
    must(uv_tcp_getsockname(relay->listener, (struct sockaddr *)&relay->here, &bytes), "port");
}

static void on_listener_closed(uv_handle_t *handle)
{
    free(handle);
}

static void listener_close(struct relay *relay)
{
    if (relay->listener != NULL) {
        uv_close((uv_handle_t *)relay->listener, on_listener_closed);
        relay->listener = NULL;
    }
}

/* --- the relay -------------------------------------------------------------------------------------------------- */

struct relay *relay_new(uv_loop_t *loop, uint16_t port)
{
    struct relay *relay = calloc(1, sizeof *relay);

    relay->loop = loop;
    relay->link = RELAY_WHOLE;
    must(uv_ip4_addr("127.0.0.1", free_port(), &relay->here), "address");
    must(uv_ip4_addr("127.0.0.1", port, &relay->there), "address");
    listener_open(relay);
    return relay;
}

uint16_t relay_port(const struct relay *relay)
{
    return (uint16_t)(ntohs(relay->here.sin_port));
}

void relay_set(struct relay *relay, enum relay_link link)
{
    relay->link = link;
    if (link == RELAY_REFUSED) {
        listener_close(relay);
    } else if (relay->listener == NULL) {
        listener_open(relay);
    }
    for (struct pair *pair = relay->pairs; pair != NULL; pair = pair->next) {
        if (link == RELAY_REFUSED) {
            pair_close(pair, true);
        } else {
            end_update(&pair->client);
            end_update(&pair->server);
        }
    }
}

void relay_close(struct relay *relay)
{
    relay->closing = true;
    listener_close(relay);
    for (struct pair *pair = relay->pairs; pair != NULL; pair = pair->next) {
        pair_close(pair, false);
    }
    relay_free_if_unused(relay);
}
