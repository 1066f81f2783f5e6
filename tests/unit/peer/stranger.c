#include "stranger.h"

#include "sidecar/peer/grpc.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

static struct stranger_call *call_of(nghttp2_session *session, int32_t id)
{
    return nghttp2_session_get_stream_user_data(session, id);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_bytes,
                     const uint8_t *value, size_t value_bytes, uint8_t flags, void *data)
{
    struct stranger_call *call = call_of(session, frame->hd.stream_id);

    (void)name_bytes;
    (void)flags;
    (void)data;
    if (call != NULL && strcmp((const char *)name, "grpc-status") == 0) {
        call->status = atoi((const char *)value);
    }
    if (call != NULL && strcmp((const char *)name, "grpc-message") == 0 && value_bytes < sizeof call->text) {
        memcpy(call->text, value, value_bytes + 1);
    }
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes, size_t count, void *data)
{
    struct stranger_call *call = call_of(session, id);

    (void)flags;
    (void)data;
    call->in = realloc(call->in, call->in_bytes + count);
    memcpy(call->in + call->in_bytes, bytes, count);
    call->in_bytes += count;
    return 0;
}

static ssize_t on_read(nghttp2_session *session, int32_t id, uint8_t *buffer, size_t room, uint32_t *flags,
                       nghttp2_data_source *source, void *data)
{
    struct stranger_call *call = source->ptr;
    size_t take = call->out_bytes < room ? call->out_bytes : room;

    (void)session;
    (void)id;
    (void)data;
    if (take == 0 && !call->out_ends) {
        return NGHTTP2_ERR_DEFERRED;
    }
    if (take > 0) {
        memcpy(buffer, call->out, take);
        memmove(call->out, call->out + take, call->out_bytes - take);
        call->out_bytes -= take;
    }
    *flags |= call->out_ends && call->out_bytes == 0 ? NGHTTP2_DATA_FLAG_EOF : 0;
    return (ssize_t)take;
}

void stranger_open(struct stranger *c, uint16_t port)
{
    nghttp2_session_callbacks *callbacks;

    *c = (struct stranger){.fd = raw_connect(port), .unsent = calloc(1, sizeof *c->unsent)};
    cr_assert(zero(int, nghttp2_session_callbacks_new(&callbacks)));
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    cr_assert(zero(int, nghttp2_session_client_new(&c->session, callbacks, c)));
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, NULL, 0);
}

void stranger_close(struct stranger *c)
{
    nghttp2_session_del(c->session);
    close(c->fd);
    free(c->unsent);
}

void stranger_start(struct stranger *c, struct stranger_call *call, const char *path)
{
    nghttp2_nv nv[] = {
        {(uint8_t *)":method", (uint8_t *)"POST", 7, 4, 0},
        {(uint8_t *)":scheme", (uint8_t *)"http", 7, 4, 0},
        {(uint8_t *)":path", (uint8_t *)path, 5, strlen(path), 0},
        {(uint8_t *)":authority", (uint8_t *)"x", 10, 1, 0},
        {(uint8_t *)"content-type", (uint8_t *)"application/grpc", 12, 16, 0},
        {(uint8_t *)"te", (uint8_t *)"trailers", 2, 8, 0},
    };
    nghttp2_data_provider provider = {.source.ptr = call, .read_callback = on_read};

    *call = (struct stranger_call){.client = c, .status = -1};
    call->id = nghttp2_submit_request(c->session, NULL, nv, sizeof nv / sizeof nv[0], &provider, call);
    cr_assert(gt(int, call->id, 0));
}

void stranger_send(struct stranger_call *call, const void *data, size_t bytes, bool ends)
{
    const uint8_t prefix[GRPC_PREFIX_BYTES] = {0, (uint8_t)(bytes >> 24), (uint8_t)(bytes >> 16), (uint8_t)(bytes >> 8),
                                               (uint8_t)bytes};

    call->out = realloc(call->out, call->out_bytes + sizeof prefix + bytes);
    memcpy(call->out + call->out_bytes, prefix, sizeof prefix);
    if (bytes > 0) {
        memcpy(call->out + call->out_bytes + sizeof prefix, data, bytes);
    }
    call->out_bytes += sizeof prefix + bytes;
    call->out_ends = ends;
    nghttp2_session_resume_data(call->client->session, call->id);
}

void stranger_pack(struct stranger_call *call, const ProtobufCMessage *message, bool ends)
{
    uint8_t packed[4096];
    size_t bytes = protobuf_c_message_get_packed_size(message);

    cr_assert(le(sz, bytes, sizeof packed));
    protobuf_c_message_pack(message, packed);
    stranger_send(call, packed, bytes, ends);
}

void stranger_finish(struct stranger_call *call)
{
    call->out_ends = true;
    nghttp2_session_resume_data(call->client->session, call->id);
}

static void write_some(struct stranger *c)
{
    struct bytes *unsent = c->unsent;
    const uint8_t *data;
    ssize_t n;

    /* A piece of nghttp2's is at most a frame; half the room stays for it. */
    while (unsent->count < sizeof unsent->data / 2 && (n = nghttp2_session_mem_send(c->session, &data)) > 0) {
        bytes_add(unsent, data, (size_t)n);
    }
    n = unsent->count > 0 ? send(c->fd, unsent->data, unsent->count, MSG_NOSIGNAL) : 0;
    if (n > 0) {
        memmove(unsent->data, unsent->data + n, unsent->count - (size_t)n);
        unsent->count -= (size_t)n;
    }
}

void stranger_turn(struct stranger *c)
{
    uint8_t buffer[16384];
    ssize_t n;

    write_some(c);
    run_once();
    n = c->deaf || c->closed ? -1 : recv(c->fd, buffer, sizeof buffer, 0);
    if (n > 0) {
        cr_assert(eq(long, nghttp2_session_mem_recv(c->session, buffer, (size_t)n), n));
    }
    c->closed = c->closed || n == 0;
}

ProtobufCMessage *stranger_next(struct stranger_call *call, const ProtobufCMessageDescriptor *type)
{
    const uint8_t *at = call->in + call->in_next;
    size_t left = call->in_bytes - call->in_next;
    size_t bytes;
    ProtobufCMessage *message;

    if (left < GRPC_PREFIX_BYTES) {
        return NULL;
    }
    bytes = (size_t)at[1] << 24 | (size_t)at[2] << 16 | (size_t)at[3] << 8 | at[4];
    if (left < GRPC_PREFIX_BYTES + bytes) {
        return NULL;
    }
    cr_assert(at[0] == 0); /* plain */
    call->in_next += GRPC_PREFIX_BYTES + bytes;
    message = protobuf_c_message_unpack(type, NULL, bytes, at + GRPC_PREFIX_BYTES);
    cr_assert(message != NULL);
    return message;
}
