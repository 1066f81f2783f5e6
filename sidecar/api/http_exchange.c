#include "sidecar/api/http_internal.h"
#include "sidecar/api/json_print.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { BODY_BYTES_MIN = 16 << 10 };

/* Stands before every body's first byte. */
struct body_head {
    _Alignas(16) size_t capacity; /* without the slack */
};

static struct body_head *body_head(char *body)
{
    return (struct body_head *)(void *)(body - sizeof(struct body_head));
}

void http_body_detach(struct http_server *s, char *body)
{
    if (body != NULL) {
        s->bodies_total -= body_head(body)->capacity;
    }
}

void http_body_free(struct http_server *s, char *body)
{
    if (s != NULL) {
        http_body_detach(s, body);
    }
    if (body != NULL) {
        free(body_head(body));
    }
}

/* Room for `bytes` in all; OTR_BUSY when all bodies together would be too large. */
static int body_reserve(struct http_server *s, struct http_exchange *x, size_t bytes)
{
    size_t capacity = x->body != NULL ? body_head(x->body)->capacity : 0;
    struct body_head *head;

    if (bytes <= capacity) {
        return 0;
    }
    /* A few large bodies that come slowly must not keep everybody else's small ones out. */
    if (s->bodies_total - capacity + bytes >
        s->config.bodies_total_max - (bytes > HTTP_LARGE_BYTES ? s->config.bodies_total_max / 4 : 0)) {
        return OTR_BUSY;
    }
    head = realloc(x->body != NULL ? body_head(x->body) : NULL, sizeof *head + bytes + HTTP_BODY_SLACK);
    if (head == NULL) {
        return OTR_NOMEM;
    }
    head->capacity = bytes;
    s->bodies_total += bytes - capacity;
    x->body = (char *)(head + 1);
    /* cppcheck-suppress memleak ; body_head() finds it again */
    return 0;
}

size_t http_body_capacity(const struct http_exchange *x)
{
    return x->body != NULL ? body_head(x->body)->capacity : 0;
}

int http_body_grow(struct http_server *s, struct http_exchange *x, size_t more, uint64_t limit)
{
    size_t wanted = x->body != NULL ? http_body_capacity(x) * 2 : BODY_BYTES_MIN;

    if (x->body != NULL && x->body_bytes + more <= http_body_capacity(x)) {
        return 0;
    }
    wanted = wanted < x->body_bytes + more ? x->body_bytes + more : wanted;
    wanted = wanted > limit ? (size_t)limit : wanted;
    return body_reserve(s, x, wanted);
}

char *http_body_take(struct http_exchange *x)
{
    char *body = x->body;

    x->body = NULL;
    x->body_bytes = 0;
    return body;
}

void http_call_free(struct http_server *s, struct http_call *call)
{
    if (call != NULL) {
        http_body_free(s, call->x.body);
        free(call->head);
        free(call);
    }
}

void http_error_text(struct text *t, const char *code, const char *message, const char *applied, const char *more)
{
    text_puts(t, "{\"error\":{\"code\":");
    json_print_string(t, code, strlen(code));
    text_puts(t, ",\"message\":");
    json_print_string(t, message, strlen(message));
    text_puts(t, "},\"applied\":");
    text_puts(t, applied);
    if (more != NULL) {
        text_puts(t, more);
    }
    text_puts(t, "}\n");
}

static bool conn_address(const struct http_conn *c, struct sockaddr_storage *address)
{
    int bytes = sizeof *address;

    return uv_tcp_getpeername(&c->tcp, (struct sockaddr *)address, &bytes) == 0;
}

void http_conn_peer_text(const struct http_conn *c, char out[HTTP_PEER_BYTES])
{
    struct sockaddr_storage address = {0};

    if (!conn_address(c, &address) || uv_ip_name((struct sockaddr *)&address, out, HTTP_PEER_BYTES) != 0) {
        snprintf(out, HTTP_PEER_BYTES, "?");
    }
}

static const struct http_conn *conn_of(const struct http_exchange *x)
{
    return ((const struct http_call *)(const void *)((const char *)x - offsetof(struct http_call, x)))->conn;
}

bool http_peer_is_loopback(const struct http_exchange *x)
{
    struct sockaddr_storage address = {0};
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)(const void *)&address;
    const struct sockaddr_in *four = (const struct sockaddr_in *)(const void *)&address;

    if (!conn_address(conn_of(x), &address)) {
        return false;
    }
    if (address.ss_family == AF_INET6) {
        return IN6_IS_ADDR_LOOPBACK(&six->sin6_addr) ||
               (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr) && six->sin6_addr.s6_addr[12] == 127);
    }
    return address.ss_family == AF_INET && ntohl(four->sin_addr.s_addr) >> 24 == 127;
}

void http_peer_text(const struct http_exchange *x, char out[HTTP_PEER_BYTES])
{
    http_conn_peer_text(conn_of(x), out);
}

const struct http_field *http_field_find(const struct http_exchange *x, const char *name, bool *twice)
{
    const struct http_field *found = NULL;
    size_t bytes = strlen(name);

    if (twice != NULL) {
        *twice = false;
    }
    for (size_t i = 0; i < x->fields_count; i++) {
        if (x->fields[i].name_bytes == bytes && strncasecmp(x->fields[i].name, name, bytes) == 0) {
            if (found != NULL && twice != NULL) {
                *twice = true;
            }
            found = found == NULL ? &x->fields[i] : found;
        }
    }
    return found;
}
