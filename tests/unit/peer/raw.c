#include "raw.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <sys/socket.h>
#include <unistd.h>

void bytes_add(struct bytes *out, const void *data, size_t count)
{
    cr_assert(out->count + count <= sizeof out->data);
    memcpy(out->data + out->count, data, count);
    out->count += count;
}

void raw_preface(struct bytes *out)
{
    bytes_add(out, NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN);
    raw_frame(out, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
}

void raw_frame(struct bytes *out, uint8_t type, uint8_t flags, uint32_t stream, const void *payload, size_t count)
{
    uint8_t header[9] = {
        (uint8_t)(count >> 16),  (uint8_t)(count >> 8),   (uint8_t)count,         type,           flags,
        (uint8_t)(stream >> 24), (uint8_t)(stream >> 16), (uint8_t)(stream >> 8), (uint8_t)stream};

    bytes_add(out, header, sizeof header);
    if (count > 0) {
        bytes_add(out, payload, count);
    }
}

void raw_headers(struct bytes *out, const struct raw_header *headers, bool end)
{
    nghttp2_hd_deflater *deflater;
    nghttp2_nv nv[64];
    size_t count = 0;
    uint8_t block[32 << 10];
    ssize_t length;

    for (; headers[count].name != NULL; count++) {
        nv[count] = (nghttp2_nv){
            .name = (uint8_t *)headers[count].name,
            .namelen = strlen(headers[count].name),
            .value = (uint8_t *)headers[count].value,
            .valuelen = strlen(headers[count].value),
        };
    }
    cr_assert(zero(int, nghttp2_hd_deflate_new(&deflater, 4096)));
    length = nghttp2_hd_deflate_hd(deflater, block, sizeof block, nv, count);
    cr_assert(length > 0);
    nghttp2_hd_deflate_del(deflater);
    raw_frame(out, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | (end ? NGHTTP2_FLAG_END_STREAM : 0), 1, block,
              (size_t)length);
}

void raw_call_headers(struct raw_header out[RAW_HEADERS_MAX], const char *path)
{
    struct raw_header headers[] = {
        {":method", "POST"},
        {":scheme", "http"},
        {":path", path},
        {":authority", "test"},
        {"content-type", "application/grpc"},
        {"te", "trailers"},
        {"outrigger-cluster", "test"},
        {"outrigger-node", "raw"},
        {"outrigger-incarnation", "77"},
        {NULL, NULL},
    };

    memcpy(out, headers, sizeof headers);
}

void raw_message(struct bytes *out, uint8_t flag, const void *data, size_t count, bool end)
{
    uint8_t payload[16 << 10] = {flag, (uint8_t)(count >> 24), (uint8_t)(count >> 16), (uint8_t)(count >> 8),
                                 (uint8_t)count};

    if (count > 0) {
        memcpy(payload + 5, data, count);
    }
    raw_frame(out, NGHTTP2_DATA, end ? NGHTTP2_FLAG_END_STREAM : 0, 1, payload, count + 5);
}

void raw_hello(struct bytes *out)
{
    struct raw_header headers[RAW_HEADERS_MAX];

    raw_preface(out);
    raw_call_headers(headers, "/outrigger.v1.Peer/Hello");
    raw_headers(out, headers, false);
    raw_message(out, 0, NULL, 0, true);
}

int raw_connect(uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    cr_assert(zero(int, connect(fd, (struct sockaddr *)&address, sizeof address)));
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

struct answer {
    int status;
    char text[256];
};

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_bytes,
                     const uint8_t *value, size_t value_bytes, uint8_t flags, void *data)
{
    struct answer *answer = data;

    (void)session;
    (void)frame;
    (void)name_bytes;
    (void)flags;
    if (strcmp((const char *)name, "grpc-status") == 0) {
        answer->status = atoi((const char *)value);
    }
    if (strcmp((const char *)name, "grpc-message") == 0 && value_bytes < sizeof answer->text) {
        memcpy(answer->text, value, value_bytes + 1);
    }
    return 0;
}

/* nghttp2 reads the answer; it must believe that it sent the request of stream 1. */
static nghttp2_session *reader_new(struct answer *answer)
{
    nghttp2_session_callbacks *callbacks;
    nghttp2_session *session;
    nghttp2_nv nv[] = {
        {(uint8_t *)":method", (uint8_t *)"POST", 7, 4, 0},
        {(uint8_t *)":scheme", (uint8_t *)"http", 7, 4, 0},
        {(uint8_t *)":path", (uint8_t *)"/", 5, 1, 0},
        {(uint8_t *)":authority", (uint8_t *)"x", 10, 1, 0},
    };
    const uint8_t *unused;

    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_client_new(&session, callbacks, answer);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, NULL, 0);
    nghttp2_submit_request(session, NULL, nv, 4, NULL, NULL);
    while (nghttp2_session_mem_send(session, &unused) > 0) {
    }
    return session;
}

/* What an SSL says, in a socket's way. The first error is kept as the text of the answer. */
static ssize_t ssl_result(SSL *ssl, int rv, struct answer *answer)
{
    int error = rv > 0 ? SSL_ERROR_NONE : SSL_get_error(ssl, rv);

    if (rv > 0) {
        return rv;
    }
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        errno = EAGAIN;
        return -1;
    }
    if (answer->text[0] == '\0') {
        ERR_error_string_n(ERR_peek_error(), answer->text, sizeof answer->text);
    }
    ERR_clear_error();
    return 0;
}

static ssize_t raw_send(int fd, SSL *ssl, const uint8_t *data, size_t count, struct answer *answer)
{
    return ssl != NULL ? ssl_result(ssl, SSL_write(ssl, data, (int)count), answer)
                       : send(fd, data, count, MSG_NOSIGNAL);
}

static ssize_t raw_receive(int fd, SSL *ssl, uint8_t *data, size_t room, struct answer *answer)
{
    return ssl != NULL ? ssl_result(ssl, SSL_read(ssl, data, (int)room), answer) : recv(fd, data, room, 0);
}

int raw_exchange(uint16_t port, const struct bytes *out, unsigned ms, char *text, size_t text_room)
{
    return raw_exchange_tls(port, NULL, out, ms, text, text_room);
}

int raw_exchange_tls(uint16_t port, SSL *ssl, const struct bytes *out, unsigned ms, char *text, size_t text_room)
{
    uint64_t until = uv_hrtime() + ms * 1000000ULL;
    struct answer answer = {.status = -2};
    nghttp2_session *reader = reader_new(&answer);
    int fd = raw_connect(port);
    size_t sent = 0;
    bool closed = false;

    if (ssl != NULL) {
        SSL_set_fd(ssl, fd);
        SSL_set_connect_state(ssl);
        SSL_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE);
    }
    while (answer.status == -2 && !closed && uv_hrtime() < until) {
        uint8_t buffer[4096];
        ssize_t n;

        if (sent < out->count) {
            n = raw_send(fd, ssl, out->data + sent, out->count - sent, &answer);
            sent += n > 0 ? (size_t)n : 0;
        }
        run_once();
        n = raw_receive(fd, ssl, buffer, sizeof buffer, &answer);
        if (n > 0) {
            nghttp2_session_mem_recv(reader, buffer, (size_t)n);
        }
        closed = n == 0 || (n < 0 && errno != EAGAIN);
    }
    nghttp2_session_del(reader);
    close(fd);
    if (text != NULL) {
        strncpy(text, answer.text, text_room - 1);
        text[text_room - 1] = '\0';
    }
    return answer.status == -2 && closed ? -1 : answer.status;
}
