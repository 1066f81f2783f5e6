#include "tests/unit/api/client.h"

#include "sidecar/io/clock.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

SSL_CTX *client_tls;

void client_open(struct client *c, uv_loop_t *loop, uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    *c = (struct client){.loop = loop, .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    assert(c->fd >= 0);
    assert(connect(c->fd, (struct sockaddr *)&to, sizeof to) == 0); /* The backlog takes it. */
    assert(fcntl(c->fd, F_SETFL, O_NONBLOCK) == 0);
    if (client_tls != NULL) {
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)); /* Two flights follow each other. */
        c->ssl = SSL_new(client_tls);
        SSL_set_fd(c->ssl, c->fd);
        SSL_set_connect_state(c->ssl);
        SSL_set_mode(c->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    }
}

/* As send and recv: -1 with errno. */
static ssize_t tls_result(struct client *c, int rv)
{
    int error = rv > 0 ? 0 : SSL_get_error(c->ssl, rv);

    if (rv > 0) {
        return rv;
    }
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        errno = EAGAIN;
        return -1;
    }
    if (error != SSL_ERROR_ZERO_RETURN && c->tls_wrong[0] == '\0') {
        ERR_error_string_n(ERR_peek_error(), c->tls_wrong, sizeof c->tls_wrong);
    }
    ERR_clear_error();
    errno = EPIPE;
    return error == SSL_ERROR_ZERO_RETURN ? 0 : -1;
}

static ssize_t send_some(struct client *c, const char *bytes, size_t count)
{
    if (c->ssl == NULL) {
        return send(c->fd, bytes, count, MSG_NOSIGNAL);
    }
    ERR_clear_error();
    return tls_result(c, SSL_write(c->ssl, bytes, (int)count));
}

static ssize_t receive_some(struct client *c, char *bytes, size_t count)
{
    if (c->ssl == NULL) {
        return recv(c->fd, bytes, count, 0);
    }
    ERR_clear_error();
    return tls_result(c, SSL_read(c->ssl, bytes, (int)count));
}

void client_close(struct client *c)
{
    if (c->fd >= 0) {
        close(c->fd);
    }
    SSL_free(c->ssl);
    free(c->in);
    *c = (struct client){.fd = -1};
}

static void turn(struct client *c, short events)
{
    struct pollfd p = {.fd = c->fd, .events = events};

    uv_run(c->loop, UV_RUN_NOWAIT);
    poll(&p, 1, 1);
}

void client_send(struct client *c, const char *bytes, size_t count)
{
    uint64_t end_ms = clock_now_ms() + 20000;

    while (count > 0) {
        ssize_t n = send_some(c, bytes, count);

        if (n < 0 && errno != EAGAIN) {
            return; /* The server has had enough; the test sees its answer. */
        }
        if (n > 0) {
            bytes += n;
            count -= (size_t)n;
        }
        assert(clock_now_ms() < end_ms);
        uv_run(c->loop, UV_RUN_NOWAIT);
        if (n < 0) {
            turn(c, c->ssl != NULL && SSL_want_read(c->ssl) ? POLLIN : POLLOUT);
        }
    }
}

void client_puts(struct client *c, const char *text)
{
    client_send(c, text, strlen(text));
}

void client_end(struct client *c)
{
    if (c->ssl != NULL) {
        SSL_shutdown(c->ssl);
    }
    shutdown(c->fd, SHUT_WR);
}

static void receive(struct client *c)
{
    for (;;) {
        char bytes[65536];
        ssize_t n = receive_some(c, bytes, sizeof bytes);

        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            c->eof = true;
        }
        if (n <= 0) {
            return;
        }
        if (c->in_bytes + (size_t)n >= c->in_room) { /* Doubled: a long answer is not copied once for each piece. */
            c->in_room = 2 * (c->in_bytes + (size_t)n) + 1;
            c->in = realloc(c->in, c->in_room);
        }
        memcpy(c->in + c->in_bytes, bytes, (size_t)n);
        c->in_bytes += (size_t)n;
        c->in[c->in_bytes] = '\0';
    }
}

const char *answer_header(const struct answer *a, const char *name)
{
    static char value[4096];
    size_t bytes = strlen(name);

    for (const char *line = strstr(a->head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, bytes) == 0 && line[bytes] == ':') {
            const char *from = line + bytes + 1;
            while (*from == ' ') {
                from++;
            }
            snprintf(value, sizeof value, "%.*s", (int)strcspn(from, "\r"), from);
            return value;
        }
    }
    return NULL;
}

/* One answer out of c->in. */
static bool take(struct client *c, struct answer *a, bool head_only)
{
    char *end = c->in != NULL ? strstr(c->in, "\r\n\r\n") : NULL;
    size_t head;
    const char *length;

    if (end == NULL) {
        return false;
    }
    head = (size_t)(end - c->in) + 4;
    assert(head < sizeof a->head);
    memcpy(a->head, c->in, head);
    a->head[head] = '\0';
    a->status = atoi(a->head + 9);
    length = answer_header(a, "Content-Length");
    a->body_bytes = head_only || length == NULL || a->status == 100 ? 0 : (size_t)atoll(length);
    if (c->in_bytes < head + a->body_bytes) {
        return false;
    }
    a->body = malloc(a->body_bytes + 1);
    memcpy(a->body, c->in + head, a->body_bytes);
    a->body[a->body_bytes] = '\0';
    c->in_bytes -= head + a->body_bytes;
    memmove(c->in, c->in + head + a->body_bytes, c->in_bytes);
    c->in[c->in_bytes] = '\0';
    return true;
}

static bool wait_answer(struct client *c, struct answer *a, unsigned timeout_ms, bool head_only)
{
    uint64_t end_ms = clock_now_ms() + timeout_ms;

    for (;;) {
        receive(c);
        if (take(c, a, head_only)) {
            return true;
        }
        if (c->eof || clock_now_ms() > end_ms) {
            return false;
        }
        turn(c, POLLIN);
    }
}

bool client_answer(struct client *c, struct answer *a, unsigned timeout_ms)
{
    return wait_answer(c, a, timeout_ms, false);
}

bool client_head_answer(struct client *c, struct answer *a, unsigned timeout_ms)
{
    return wait_answer(c, a, timeout_ms, true);
}

bool client_ended(struct client *c, unsigned timeout_ms)
{
    uint64_t end_ms = clock_now_ms() + timeout_ms;

    while (!c->eof && clock_now_ms() < end_ms) {
        turn(c, POLLIN);
        receive(c);
    }
    return c->eof;
}

void answer_free(struct answer *a)
{
    free(a->body);
    a->body = NULL;
}

void run_for(uv_loop_t *loop, unsigned ms)
{
    uint64_t end_ms = clock_now_ms() + ms;

    while (clock_now_ms() < end_ms) {
        uv_run(loop, UV_RUN_NOWAIT);
        poll(NULL, 0, 1);
    }
}
