#include "sidecar/peer/conn_write.h"

#include <assert.h>

enum {
    CONTROL_BYTES_MAX = 20 << 10, /* room for one control frame, as nghttp2 hands it out */
    COPY_BYTES_MAX = 2 << 10,     /* smaller pieces of messages are copied: cheaper than a buffer of their own */
    FLUSH_BYTES_MAX = 4 << 20,    /* in one go, then other connections have their turn */
    FRAME_BUFS_MAX = 2 * (CONN_FRAME_BYTES / COPY_BYTES_MAX) + 4,
};

void conn_write_release(struct conn *c)
{
    for (unsigned i = 0; i < c->refs_count; i++) {
        message_release(c->refs[i]);
    }
    c->refs_count = 0;
    c->bufs_count = 0;
    c->arena_bytes = 0;
    c->batch_bytes = 0;
}

/* Appends a copy. The caller has checked that the arena has room. */
static void batch_copy(struct conn *c, const uint8_t *data, size_t bytes)
{
    uint8_t *at = c->arena + c->arena_bytes;
    uv_buf_t *last = c->bufs_count > 0 ? &c->bufs[c->bufs_count - 1] : NULL;

    assert(c->arena_bytes + bytes <= CONN_ARENA_BYTES);
    memcpy(at, data, bytes);
    c->arena_bytes += bytes;
    c->batch_bytes += bytes;
    if (last != NULL && (uint8_t *)last->base + last->len == at) {
        last->len += bytes;
        return;
    }
    assert(c->bufs_count < CONN_BATCH_BUFS);
    c->bufs[c->bufs_count++] = uv_buf_init((char *)at, (unsigned)bytes);
}

static void batch_refer(struct conn *c, struct message *m, size_t offset, size_t bytes)
{
    assert(c->bufs_count < CONN_BATCH_BUFS);
    m->refs++;
    c->refs[c->refs_count++] = m;
    c->bufs[c->bufs_count++] = uv_buf_init((char *)m->data + offset, (unsigned)bytes);
    c->batch_bytes += bytes;
}

/* For whatever nghttp2 hands out next, a DATA frame or a control frame. A DATA frame is never put off once nghttp2 has
 * made it: its stream might be reset, and its queue dropped, meanwhile. */
static bool batch_has_room(const struct conn *c)
{
    return c->batch_bytes < CONN_BATCH_BYTES && c->bufs_count + FRAME_BUFS_MAX <= CONN_BATCH_BUFS &&
           c->arena_bytes + CONN_FRAME_BYTES + CONTROL_BYTES_MAX <= CONN_ARENA_BYTES;
}

int conn_write_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *header, size_t length,
                    nghttp2_data_source *source, void *data)
{
    struct conn *c = data;
    struct stream *s = source->ptr;

    (void)session;
    assert(frame->data.padlen == 0); /* We ask for none. */
    assert(batch_has_room(c) && length <= s->out_bytes);
    batch_copy(c, header, 9);
    s->out_bytes -= length;
    c->out_bytes -= length;
    while (length > 0) {
        struct message *m = s->out_first;
        size_t take;

        assert(m != NULL); /* out_bytes is the sum of what the messages still hold. */
        take = m->bytes - s->out_offset;
        take = take < length ? take : length;
        if (take <= COPY_BYTES_MAX) {
            batch_copy(c, m->data + s->out_offset, take);
        } else {
            batch_refer(c, m, s->out_offset, take);
        }
        s->out_offset += take;
        length -= take;
        if (s->out_offset == m->bytes) {
            s->out_first = m->next;
            if (s->out_first == NULL) {
                s->out_end = &s->out_first;
            }
            s->out_offset = 0;
            message_release(m);
        }
    }
    if (s->ops != NULL && s->ops->on_written != NULL) {
        s->ops->on_written(s);
    }
    return batch_has_room(c) ? 0 : NGHTTP2_ERR_PAUSE;
}

static void gather(struct conn *c)
{
    while (batch_has_room(c)) {
        const uint8_t *data;
        ssize_t bytes;

        c->depth++;
        bytes = nghttp2_session_mem_send(c->session, &data);
        c->depth--;
        if (bytes < 0) {
            conn_fail(c, "%s", nghttp2_strerror((int)bytes));
            return;
        }
        if (bytes == 0) {
            return;
        }
        if ((size_t)bytes > CONN_ARENA_BYTES - c->arena_bytes) {
            conn_fail(c, "control frame of %zd bytes", bytes);
            return;
        }
        batch_copy(c, data, (size_t)bytes);
    }
}

/* Whatever was being written is. */
static void write_done(struct conn *c)
{
    if (c->tls != NULL) {
        tls_session_sent(c->tls);
    } else {
        conn_write_release(c);
    }
}

static void on_written(uv_write_t *write, int status)
{
    struct conn *c = write->data;

    c->writing = false;
    c->blocked_ns += uv_hrtime() - c->writing_ns;
    write_done(c);
    if (c->ending) {
        return;
    }
    if (status != 0) {
        conn_fail(c, "write: %s", uv_strerror(status));
        return;
    }
    conn_touch(c);
}

/* Writes what the socket takes at once; the rest becomes the one write that is under way. */
static bool socket_write(struct conn *c, uv_buf_t *bufs, unsigned count)
{
    int rv;

    for (unsigned i = 0; i < count; i++) {
        c->written_bytes += bufs[i].len;
    }
    rv = uv_try_write((uv_stream_t *)&c->tcp, bufs, count);

    if (rv < 0 && rv != UV_EAGAIN) {
        conn_fail(c, "write: %s", uv_strerror(rv));
        return false;
    }
    if (rv > 0) {
        size_t written = (size_t)rv;

        while (count > 0 && written >= bufs->len) {
            written -= bufs->len;
            bufs++;
            count--;
        }
        if (count > 0) {
            bufs->base += written;
            bufs->len -= written;
        }
    }
    if (count == 0) {
        write_done(c);
        return true;
    }
    c->write.data = c;
    rv = uv_write(&c->write, (uv_stream_t *)&c->tcp, bufs, count, on_written);
    if (rv != 0) {
        conn_fail(c, "write: %s", uv_strerror(rv));
        return false;
    }
    c->writing = true;
    c->writing_ns = uv_hrtime();
    return false;
}

/* Writes what TLS has to send. True: all of it, and the socket may take more. */
static bool tls_flush(struct conn *c)
{
    uv_buf_t buf;

    while (!c->writing && tls_session_out(c->tls, &buf)) {
        if (!socket_write(c, &buf, 1)) {
            return false;
        }
    }
    return !c->writing;
}

static bool batch_write(struct conn *c)
{
    struct otr_errmsg msg;
    int rv;

    if (c->tls == NULL) {
        return socket_write(c, c->bufs, c->bufs_count);
    }
    rv = tls_session_write(c->tls, c->bufs, c->bufs_count, &msg);
    conn_write_release(c);
    if (rv != 0) {
        conn_fail(c, "TLS: %s", msg.text);
        return false;
    }
    return tls_flush(c);
}

/* Only what the socket takes at once: the connection ends in any case. */
static bool write_last(struct conn *c)
{
    uv_buf_t buf;
    int rv;

    if (c->writing || !tls_session_out(c->tls, &buf)) {
        return false;
    }
    rv = uv_try_write((uv_stream_t *)&c->tcp, &buf, 1);
    tls_session_sent(c->tls);
    return rv == (int)buf.len;
}

bool conn_write_alert(struct conn *c)
{
    return c->tls != NULL && write_last(c);
}

void conn_write_goodbye(struct conn *c)
{
    if (c->tls != NULL && !c->failed) {
        tls_session_close(c->tls);
        write_last(c);
    }
}

void conn_flush(struct conn *c)
{
    size_t total = 0;

    if (!c->started || c->ending) {
        return;
    }
    if (c->tls != NULL && (!tls_flush(c) || !tls_session_ready(c->tls))) {
        return; /* The handshake first. */
    }
    while (!c->writing && !c->failed) {
        size_t bytes;

        gather(c);
        bytes = c->batch_bytes;
        total += bytes;
        if (bytes == 0 || !batch_write(c)) {
            break;
        }
        if (total >= FLUSH_BYTES_MAX) {
            conn_touch(c);
            break;
        }
    }
    if (!c->writing && !nghttp2_session_want_read(c->session) && !nghttp2_session_want_write(c->session)) {
        struct otr_errmsg detail = c->why; /* nghttp2 has said GOAWAY, and before that why. */

        conn_fail(c, "HTTP/2 error%s%s", detail.text[0] != '\0' ? ": " : "", detail.text);
    }
}
