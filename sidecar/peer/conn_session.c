#include "sidecar/peer/conn_session.h"

#include "sidecar/io/log.h"
#include "sidecar/peer/conn_write.h"

#include <stdio.h>

static ssize_t on_frame_length(nghttp2_session *session, uint8_t type, int32_t id, int32_t session_window,
                               int32_t stream_window, uint32_t frame_bytes_max, void *data)
{
    int32_t length = session_window < stream_window ? session_window : stream_window;

    (void)session;
    (void)type;
    (void)id;
    (void)data;
    length = length < (int32_t)frame_bytes_max ? length : (int32_t)frame_bytes_max;
    return length < CONN_FRAME_BYTES ? length : CONN_FRAME_BYTES;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
    struct conn *c = data;
    struct stream *s;

    if (!c->server || frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) {
        return 0;
    }
    s = stream_new(c, frame->hd.stream_id);
    if (s == NULL) {
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, s);
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_bytes,
                     const uint8_t *value, size_t value_bytes, uint8_t flags, void *data)
{
    struct stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

    (void)flags;
    (void)data;
    if (s == NULL) {
        return 0;
    }
    return stream_header(s, name, name_bytes, value, value_bytes) ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes, size_t length,
                         void *data)
{
    struct stream *s = nghttp2_session_get_stream_user_data(session, id);

    (void)flags;
    (void)data;
    if (s != NULL) {
        stream_receive(s, bytes, length);
    } else if (nghttp2_session_consume(session, id, length) == NGHTTP2_ERR_NOMEM) {
        return NGHTTP2_ERR_NOMEM;
    }
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
    struct conn *c = data;
    struct stream *s = NULL;

    switch (frame->hd.type) {
    case NGHTTP2_SETTINGS:
        c->greeted = true;
        return 0;
    case NGHTTP2_GOAWAY:
        if (!c->server) {
            conn_fail(c, "the peer closes the connection (%s)", nghttp2_http2_strerror(frame->goaway.error_code));
        } else if (frame->goaway.error_code == NGHTTP2_NO_ERROR) {
            c->uv_status = UV_EOF; /* It ends when its last call does, and that is no failure. */
        }
        return 0;
    case NGHTTP2_HEADERS:
    case NGHTTP2_DATA:
        s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        break;
    default:
        break;
    }
    if (s == NULL) {
        return 0;
    }
    if (c->server && frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        c->ops->on_stream(c, s);
    }
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
        stream_remote_ended(s);
    }
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t error, void *data)
{
    struct stream *s = nghttp2_session_get_stream_user_data(session, id);
    struct conn *c = data;

    if (s != NULL) {
        nghttp2_session_set_stream_user_data(session, id, NULL);
        stream_close(s, false, error);
    }
    if (c->streams_count == 0) {
        c->busy_ms = uv_now(c->hub->config.loop);
    }
    return 0;
}

static int on_before_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
    struct conn *c = data;
    struct stream *s;

    if (!c->server && frame->hd.type == NGHTTP2_HEADERS) {
        s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        if (s != NULL) {
            s->exposed = true;
        }
    }
    return 0;
}

static int on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
    const struct conn *c = data;

    /* An answer before the request's end: whatever else comes of it is not wanted (RFC 9113, 8.1). */
    if (c->server && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0 && frame->hd.type == NGHTTP2_HEADERS &&
        nghttp2_session_get_stream_remote_close(session, frame->hd.stream_id) == 0) {
        return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    }
    return 0;
}

static int on_error(nghttp2_session *session, int code, const char *text, size_t bytes, void *data)
{
    struct conn *c = data;

    (void)session;
    (void)code;
    if (c->why.text[0] == '\0') {
        snprintf(c->why.text, sizeof c->why.text, "%.*s", (int)(bytes < 300 ? bytes : 300), text);
    }
    return 0;
}

static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int error, void *data)
{
    struct conn *c = data;

    (void)session;
    LOG_LIMITED(LOG_WARN, "peer", "%s sent an invalid frame of type %u: %s", c->remote, frame->hd.type,
                nghttp2_strerror(error));
    return 0;
}

int conn_session_new(struct conn *c)
{
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    int rv = nghttp2_session_callbacks_new(&callbacks);

    if (rv != 0) {
        return rv;
    }
    rv = nghttp2_option_new(&option);
    if (rv != 0) {
        nghttp2_session_callbacks_del(callbacks);
        return rv;
    }
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, conn_write_data);
    nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, on_frame_length);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_before_frame_send_callback(callbacks, on_before_frame_send);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_sent);
    nghttp2_session_callbacks_set_error_callback2(callbacks, on_error);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid_frame);
    rv = c->server ? nghttp2_session_server_new2(&c->session, callbacks, c, option)
                   : nghttp2_session_client_new2(&c->session, callbacks, c, option);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    return rv;
}
