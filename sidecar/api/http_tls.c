/* TLS between the socket and the requests. What is read goes through the connection's session to http_conn_input; an
 * answer is encrypted piece by piece, the next piece when the last one is with the kernel, so that a client that reads
 * slowly makes us hold its answer once and not twice.
 *
 * A session is made at the first byte: who only connects costs a socket. Who speaks HTTP instead is told so in plain
 * text, which his program shows him. Handshakes count as part of the first request's head, and so does their time. */
#include "sidecar/api/http_internal.h"
#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"

#include <string.h>

enum {
    PIECE_BYTES = 64 << 10, /* of plaintext */
    FIRST_BYTE_TLS = 0x16,  /* a record with a handshake in it */
};

/* --- writing ------------------------------------------------------------------------------------------------------ */

static void on_written(uv_write_t *req, int status)
{
    struct http_conn *c = req->data;

    c->tls_writing = false;
    if (c->state == HTTP_CONN_CLOSED) {
        return;
    }
    c->tls_sent += c->tls_lent;
    c->tls_lent = 0;
    tls_session_sent(c->tls);
    if (status != 0) {
        http_conn_close(c);
        return;
    }
    http_tls_pump(c);
}

/* What waits goes to the kernel: at once as far as it takes it, the rest by uv_write. 0, or a libuv error. */
static int send_out(struct http_conn *c)
{
    uv_buf_t buf;
    int rv;

    while (tls_session_out(c->tls, &buf)) {
        rv = uv_try_write((uv_stream_t *)&c->tcp, &buf, 1);
        if (rv < 0 && rv != UV_EAGAIN) {
            return rv;
        }
        rv = rv > 0 ? rv : 0;
        c->tls_sent += (uint64_t)rv;
        if ((size_t)rv == buf.len) {
            tls_session_sent(c->tls);
            continue;
        }
        buf.base += rv;
        buf.len -= (size_t)rv;
        c->tls_lent = buf.len;
        c->write.data = c;
        rv = uv_write(&c->write, (uv_stream_t *)&c->tcp, &buf, 1, on_written);
        c->tls_writing = rv == 0;
        return rv;
    }
    return 0;
}

/* The answer's bytes from `at` on, at most a piece, as one or two buffers. */
static unsigned next_piece(const struct http_conn *c, size_t at, uv_buf_t bufs[2], size_t *bytes)
{
    const struct text *parts[2] = {&c->out_head, &c->out_body};
    unsigned count = 0;

    *bytes = 0;
    for (unsigned i = 0; i < 2; i++) {
        size_t used = parts[i]->used;

        if (at >= used) {
            at -= used;
            continue;
        }
        used = used - at < PIECE_BYTES - *bytes ? used - at : PIECE_BYTES - *bytes;
        if (used != 0) {
            bufs[count++] = uv_buf_init(parts[i]->bytes + at, (unsigned)used);
            *bytes += used;
        }
        at = 0;
    }
    return count;
}

void http_tls_pump(struct http_conn *c)
{
    struct otr_errmsg msg = {0};
    uv_buf_t bufs[2];
    unsigned count;
    size_t bytes;

    while (!c->tls_writing) {
        if (send_out(c) != 0) {
            http_conn_close(c);
            return;
        }
        if (c->tls_writing || c->state != HTTP_CONN_WRITING) {
            return;
        }
        count = next_piece(c, c->tls_at, bufs, &bytes);
        if (count == 0) {
            http_conn_written(c);
            return;
        }
        if (tls_session_write(c->tls, bufs, count, &msg) != 0) {
            http_conn_close(c);
            return;
        }
        c->tls_at += bytes;
    }
}

void http_tls_answer(struct http_conn *c)
{
    if (c->tls == NULL) {
        http_conn_close(c); /* There is no way yet to tell it anything. During a handshake the pump finds the same. */
        return;
    }
    c->tls_at = 0;
    c->tls_sent = 0;
    http_tls_pump(c);
}

uint64_t http_tls_moved(const struct http_conn *c)
{
    size_t queued = uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp);

    return c->tls_sent + (c->tls_lent > queued ? c->tls_lent - queued : 0);
}

int http_tls_continue(struct http_conn *c, const uv_buf_t *buf)
{
    struct otr_errmsg msg = {0};
    int rv = tls_session_write(c->tls, buf, 1, &msg);

    return rv != 0 ? rv : c->tls_writing ? 0 : send_out(c);
}

void http_tls_end(struct http_conn *c)
{
    if (c->tls != NULL) {
        tls_session_close(c->tls);
        if (!c->tls_writing) {
            (void)send_out(c); /* An end without close_notify is rude, no more: lengths say what an answer is. */
        }
    }
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

/* What came first is no TLS. */
static void refuse_plain(struct http_conn *c, char first)
{
    struct text body;

    if (first < 'A' || first > 'Z') {
        char from[HTTP_PEER_BYTES];

        http_conn_peer_text(c, from);
        LOG_LIMITED(LOG_WARN, "", "api: %s speaks neither TLS nor HTTP: closed", from);
        c->s->metrics.refused_total++;
        http_conn_close(c);
        return;
    }
    c->plain = true;
    c->keep_alive = false;
    c->s->metrics.refused_total++;
    text_init(&body, 4096);
    text_puts(&body, "This port speaks HTTPS only: use https:// in the address.\n");
    http_conn_answer(c, 400, "Content-Type: text/plain; charset=utf-8\r\n", &body);
}

static bool on_plain(void *data, const uint8_t *bytes, size_t count)
{
    struct http_conn *c = data;

    if (c->state < HTTP_CONN_LINGER) {
        http_conn_input(c, (const char *)bytes, count);
    }
    return c->state < HTTP_CONN_LINGER;
}

static void fail(struct http_conn *c, const struct otr_errmsg *msg)
{
    char from[HTTP_PEER_BYTES];

    http_conn_peer_text(c, from);
    LOG_LIMITED(LOG_WARN, "", "api: TLS with %s: %s", from, msg->text);
    if (!c->tls_writing && send_out(c) == 0) { /* The alert, which tells the other side why. */
        http_conn_linger(c);
    } else {
        http_conn_close(c);
    }
}

void http_tls_input(struct http_conn *c, const char *data, size_t n)
{
    struct otr_errmsg msg = {0};

    if (c->plain) {
        return;
    }
    if (c->tls == NULL && data[0] != FIRST_BYTE_TLS) {
        refuse_plain(c, data[0]);
        return;
    }
    if (c->tls == NULL && tls_session_new(&c->tls, c->s->config.tls, TLS_SERVER, NULL, &msg) != 0) {
        http_conn_close(c);
        return;
    }
    if (tls_session_feed(c->tls, data, n, on_plain, c, &msg) != 0) {
        if (c->state != HTTP_CONN_CLOSED && c->state != HTTP_CONN_HANDLING) {
            fail(c, &msg);
        } else if (c->state == HTTP_CONN_HANDLING) {
            http_conn_close(c);
        }
        return;
    }
    if (c->state == HTTP_CONN_CLOSED) {
        return;
    }
    http_tls_pump(c); /* The handshake's part, if there is one. */
    if (c->state != HTTP_CONN_CLOSED && c->state != HTTP_CONN_LINGER && tls_session_ended(c->tls)) {
        http_conn_eof(c);
    }
}
