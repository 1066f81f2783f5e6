#include "sidecar/peer/grpc.h"

#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"

#include <stdio.h>
#include <stdlib.h>

enum { BODY_BYTES_FIRST = 64 << 10 };
static const uint64_t timeout_ms_max = 366ULL * 24 * 3600 * 1000;

#define METHOD_OF(service, name, request_type, reply_type)                                                       \
    {                                                                                                            \
        .path = "/" service "/" name, .request = &request_type##__descriptor, .reply = &reply_type##__descriptor \
    }
#define METHOD(name, request_type, reply_type) \
    METHOD_OF("outrigger.v1.Peer", name, outrigger__v1__##request_type, outrigger__v1__##reply_type)
#define HEALTH(name)                                                                 \
    METHOD_OF("grpc.health.v1.Health", name, grpc__health__v1__health_check_request, \
              grpc__health__v1__health_check_response)
/* v1alpha has the same messages. */
#define REFLECTION(version)                                                           \
    METHOD_OF("grpc.reflection." version ".ServerReflection", "ServerReflectionInfo", \
              grpc__reflection__v1__server_reflection_request, grpc__reflection__v1__server_reflection_response)
const struct grpc_method grpc_methods[GRPC_METHODS] = {
    [PEER_HELLO] = METHOD("Hello", hello_request, hello_reply),
    [PEER_REPLICATE] = METHOD("Replicate", replicate_frame, empty),
    [PEER_BEACON] = METHOD("Beacon", beacon_frame, empty),
    [PEER_SEED] = METHOD("Seed", seed_frame, seed_reply),
    [PEER_FORWARD] = METHOD("Forward", forward_request, forward_reply),
    [PEER_GET] = METHOD("Get", get_request, get_reply),
    [PEER_SEARCH] = METHOD("Search", search_request, search_reply),
    [PEER_COUNT] = METHOD("Count", count_request, count_reply),
    [PEER_HANDOFF] = METHOD("Handoff", handoff_request, handoff_reply),
    [PEER_HEALTH_CHECK] = HEALTH("Check"),
    [PEER_HEALTH_WATCH] = HEALTH("Watch"),
    [PEER_REFLECTION] = REFLECTION("v1"),
    [PEER_REFLECTION_ALPHA] = REFLECTION("v1alpha"),
};

int grpc_method_find(const char *path, size_t bytes)
{
    for (int i = 0; i < GRPC_METHODS; i++) {
        if (strlen(grpc_methods[i].path) == bytes && memcmp(grpc_methods[i].path, path, bytes) == 0) {
            return i;
        }
    }
    return -1;
}

bool grpc_timeout_parse(const char *text, size_t bytes, uint64_t *timeout_ms)
{
    uint64_t value = 0;

    if (bytes < 2 || bytes > 9) { /* one to eight digits and a unit */
        return false;
    }
    for (size_t i = 0; i + 1 < bytes; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    switch (text[bytes - 1]) {
    case 'H':
        value *= 3600000;
        break;
    case 'M':
        value *= 60000;
        break;
    case 'S':
        value *= 1000;
        break;
    case 'm':
        break;
    case 'u':
        value = (value + 999) / 1000;
        break;
    case 'n':
        value = (value + 999999) / 1000000;
        break;
    default:
        return false;
    }
    *timeout_ms = value < timeout_ms_max ? value : timeout_ms_max;
    return true;
}

size_t grpc_timeout_format(char *out, uint32_t timeout_ms)
{
    char text[GRPC_TIMEOUT_TEXT_MAX + 1];
    int length;

    if (timeout_ms <= 99999999) {
        length = snprintf(text, sizeof text, "%um", timeout_ms);
    } else {
        length = snprintf(text, sizeof text, "%uS", timeout_ms / 1000);
    }
    memcpy(out, text, (size_t)length);
    return (size_t)length;
}

size_t grpc_text_encode(char *out, size_t room, const char *text)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t used = 0;

    for (const unsigned char *c = (const unsigned char *)text; *c != '\0' && used + 3 < room; c++) {
        if (*c >= 0x20 && *c <= 0x7E && *c != '%') {
            out[used++] = (char)*c;
        } else {
            out[used++] = '%';
            out[used++] = hex[*c >> 4];
            out[used++] = hex[*c & 15];
        }
    }
    out[used] = '\0';
    return used;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

size_t grpc_text_decode(char *out, size_t room, const char *text, size_t bytes)
{
    size_t used = 0;

    for (size_t i = 0; i < bytes && used + 1 < room; i++) {
        if (text[i] == '%' && i + 2 < bytes && hex_digit(text[i + 1]) >= 0 && hex_digit(text[i + 2]) >= 0) {
            out[used++] = (char)(hex_digit(text[i + 1]) << 4 | hex_digit(text[i + 2]));
            i += 2;
        } else {
            out[used++] = text[i];
        }
    }
    out[used] = '\0';
    return used;
}

static int read_prefix(struct grpc_reader *reader, const uint8_t **data, size_t *bytes)
{
    size_t take = (size_t)GRPC_PREFIX_BYTES - reader->prefix_bytes;

    if (take > *bytes) {
        take = *bytes;
    }
    memcpy(reader->prefix + reader->prefix_bytes, *data, take);
    reader->prefix_bytes = (uint8_t)(reader->prefix_bytes + take);
    *data += take;
    *bytes -= take;
    if (reader->prefix_bytes < GRPC_PREFIX_BYTES) {
        return 0;
    }
    if (reader->prefix[0] > 1) {
        return OTR_PROTO;
    }
    if (reader->prefix[0] == 1) {
        return OTR_UNSUPPORTED;
    }
    reader->length = (size_t)reader->prefix[1] << 24 | (size_t)reader->prefix[2] << 16 |
                     (size_t)reader->prefix[3] << 8 | (size_t)reader->prefix[4];
    return reader->length <= (reader->limit != 0 ? reader->limit : PEER_MESSAGE_MAX) ? 0 : OTR_TOOBIG;
}

/* The announced length is a claim: memory follows what arrives. */
static int body_grow(struct grpc_reader *reader, size_t needed)
{
    size_t capacity = reader->capacity;
    uint8_t *body;

    if (needed <= capacity) {
        return 0;
    }
    capacity = capacity * 2 > needed ? capacity * 2 : needed;
    capacity = capacity > BODY_BYTES_FIRST ? capacity : BODY_BYTES_FIRST;
    capacity = capacity < reader->length ? capacity : reader->length;
    body = realloc(reader->body, capacity);
    if (body == NULL) {
        return OTR_NOMEM;
    }
    reader->body = body;
    reader->capacity = capacity;
    return 0;
}

int grpc_reader_feed(struct grpc_reader *reader, const uint8_t **data, size_t *bytes, const uint8_t **message,
                     size_t *message_bytes)
{
    size_t take;
    int rv;

    *message = NULL;
    *message_bytes = 0;
    if (reader->done) {
        grpc_reader_close(reader);
    }
    if (reader->prefix_bytes < GRPC_PREFIX_BYTES) {
        rv = read_prefix(reader, data, bytes);
        if (rv != 0 || reader->prefix_bytes < GRPC_PREFIX_BYTES) {
            return rv;
        }
        if (*bytes >= reader->length) { /* All here already: no copy. */
            *message = *data;
            *message_bytes = reader->length;
            *data += reader->length;
            *bytes -= reader->length;
            reader->done = true;
            return 0;
        }
    }
    take = reader->length - reader->body_bytes;
    take = take < *bytes ? take : *bytes;
    rv = body_grow(reader, reader->body_bytes + take);
    if (rv != 0) {
        return rv;
    }
    if (take > 0) {
        memcpy(reader->body + reader->body_bytes, *data, take);
    }
    reader->body_bytes += take;
    *data += take;
    *bytes -= take;
    if (reader->body_bytes == reader->length) {
        *message = reader->body;
        *message_bytes = reader->length;
        reader->done = true;
    }
    return 0;
}

bool grpc_reader_partial(const struct grpc_reader *reader)
{
    return !reader->done && reader->prefix_bytes > 0;
}

void grpc_reader_close(struct grpc_reader *reader)
{
    size_t limit = reader->limit;

    free(reader->body);
    memset(reader, 0, sizeof *reader);
    reader->limit = limit;
}
