/* Bytes from anywhere: the connection may go, the process and the other connections stay. */
#include "fixture.h"
#include "raw.h"

#include "sidecar/peer/grpc.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

TestSuite(garbage, .init = loop_begin, .fini = loop_end, .timeout = 120);

static uint64_t seed = 88172645463325252ULL;

static uint32_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 16);
}

/* Writes in pieces, half-closes, reads a little, closes; the hub runs in between. */
static void throw_at(uint16_t port, const uint8_t *data, size_t count)
{
    int fd = raw_connect(port);
    size_t sent = 0;
    uint8_t sink[4096];

    while (sent < count) {
        size_t piece = 1 + next_random() % count;
        ssize_t n;

        piece = piece < count - sent ? piece : count - sent;
        n = send(fd, data + sent, piece, MSG_NOSIGNAL);
        if (n < 0) {
            break;
        }
        sent += (size_t)n;
        uv_run(loop, UV_RUN_NOWAIT);
    }
    if (next_random() % 2 == 0) {
        shutdown(fd, SHUT_WR);
    }
    uv_run(loop, UV_RUN_NOWAIT);
    (void)!recv(fd, sink, sizeof sink, 0);
    close(fd);
    uv_run(loop, UV_RUN_NOWAIT);
}

static void still_serves(struct node *a, struct node *b, struct peer_link *link)
{
    struct reply reply = {0};

    cr_assert(zero(int, call_forward(link, 100, 5000, &reply)));
    RUN_UNTIL(reply.count == 1);
    cr_assert(zero(int, reply.status));
    cr_assert(eq(uint, a->events_count, 1)); /* Its link never wavered. */
    cr_assert(zero(uint, b->intruders));
}

Test(garbage, random_bytes)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);

    for (unsigned round = 0; round < 2000; round++) {
        uint8_t data[600];
        size_t count = 1 + next_random() % sizeof data;
        struct bytes out = {.count = 0};

        for (size_t i = 0; i < count; i++) {
            data[i] = (uint8_t)next_random();
        }
        if (round % 2 == 0) { /* Behind a proper beginning it reaches further. */
            raw_preface(&out);
        }
        bytes_add(&out, data, count);
        throw_at(peer_hub_port(b.hub), out.data, out.count);
    }
    still_serves(&a, &b, link);
    node_close(&a);
    node_close(&b);
}

/* A proper conversation of all methods, with a few bytes changed, lost or doubled. */
Test(garbage, mutated_calls)
{
    static const char *const paths[] = {
        "/outrigger.v1.Peer/Hello",
        "/outrigger.v1.Peer/Replicate",
        "/outrigger.v1.Peer/Beacon",
        "/outrigger.v1.Peer/Seed",
        "/outrigger.v1.Peer/Forward",
        "/outrigger.v1.Peer/Get",
        "/outrigger.v1.Peer/Search",
        "/outrigger.v1.Peer/Count",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    };
    enum { PATHS = sizeof paths / sizeof paths[0] };
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);

    for (unsigned round = 0; round < 8000; round++) {
        struct raw_header headers[RAW_HEADERS_MAX];
        struct bytes out = {.count = 0};
        uint8_t message[64] = {0x0a, 0x04, 0x08, 0x01, 0x10, 0x02, 0x12, 0x00, 0x1a, 0x02, 0x08, 0x01};

        raw_call_headers(headers, paths[round % PATHS]);
        raw_preface(&out);
        raw_headers(&out, headers, false);
        raw_message(&out, 0, message, round % 13, false);
        raw_message(&out, 0, message, sizeof message, true);
        raw_frame(&out, NGHTTP2_RST_STREAM, 0, 1, "\0\0\0\x08", 4);
        for (unsigned changes = next_random() % 6; changes > 0 && out.count > 1; changes--) {
            size_t at = next_random() % out.count;

            switch (next_random() % 4) {
            case 0:
                out.data[at] = (uint8_t)next_random();
                break;
            case 1:
                out.data[at] ^= (uint8_t)(1 << next_random() % 8);
                break;
            case 2:
                memmove(out.data + at, out.data + at + 1, out.count - at - 1);
                out.count--;
                break;
            default:
                out.count = at + 1;
                break;
            }
        }
        throw_at(peer_hub_port(b.hub), out.data, out.count);
    }
    b.intruders = 0; /* A mutated name may well have been one. */
    still_serves(&a, &b, link);
    node_close(&a);
    node_close(&b);
}

/* A server that talks nonsense: the link stays DOWN, or goes there; nothing breaks. */
Test(garbage, a_server_that_talks_nonsense)
{
    struct node a;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    struct peer_link *link = NULL;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    cr_assert(zero(int, bind(listener, (struct sockaddr *)&address, sizeof address)));
    cr_assert(zero(int, listen(listener, 16)));
    getsockname(listener, (struct sockaddr *)&address, &length);
    node_open(&a, "a", "test", 11, 0);
    for (unsigned round = 0; round < 200; round++) {
        uint8_t data[300];
        size_t count = next_random() % sizeof data;
        struct bytes out = {.count = 0};
        int fd;

        if (link != NULL) {
            peer_link_close(link);
        }
        link = peer_link_open(a.hub, "b", "127.0.0.1", ntohs(address.sin_port), NULL);
        while ((fd = accept(listener, NULL, NULL)) < 0) {
            run_once();
        }
        for (size_t i = 0; i < count; i++) {
            data[i] = (uint8_t)next_random();
        }
        if (round % 2 == 0) {
            raw_frame(&out, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
            raw_headers(&out,
                        (struct raw_header[]){{":status", "200"},
                                              {"content-type", "application/grpc"},
                                              {"grpc-status", round % 4 == 0 ? "0" : "x"},
                                              {NULL, NULL}},
                        round % 3 == 0);
        }
        bytes_add(&out, data, count);
        (void)!send(fd, out.data, out.count, MSG_NOSIGNAL);
        run_once();
        run_once();
        close(fd);
        run_once();
    }
    for (unsigned i = 0; i < a.events_count && i < EVENTS_MAX; i++) {
        cr_assert(ne(int, a.events[i].state, PEER_LINK_UP));
    }
    close(listener);
    node_close(&a);
}

/* --- the pure part ------------------------------------------------------------------------------------------------ */

/* Messages come out the same however the bytes are cut. */
Test(garbage, reader_at_every_cut)
{
    uint8_t stream[400];
    size_t count = 0;

    for (unsigned length = 0; length < 20; length++) {
        uint8_t prefix[5] = {0, 0, 0, 0, (uint8_t)length};

        memcpy(stream + count, prefix, 5);
        memset(stream + count + 5, (int)length, length);
        count += 5 + length;
    }
    for (size_t cut = 1; cut <= count; cut++) {
        struct grpc_reader reader = {0};
        unsigned messages = 0;

        for (size_t at = 0; at < count; at += cut) {
            const uint8_t *data = stream + at;
            size_t left = count - at < cut ? count - at : cut;

            while (left > 0) {
                const uint8_t *message;
                size_t bytes;

                cr_assert(zero(int, grpc_reader_feed(&reader, &data, &left, &message, &bytes)));
                if (message != NULL) {
                    cr_assert(eq(sz, bytes, messages));
                    for (size_t i = 0; i < bytes; i++) {
                        cr_assert(eq(uint, message[i], messages));
                    }
                    messages++;
                }
            }
        }
        cr_assert(eq(uint, messages, 20));
        cr_assert(not(grpc_reader_partial(&reader)));
        grpc_reader_close(&reader);
    }
}

/* Timeouts and status texts survive their encoding; malformed ones are refused. */
Test(garbage, timeouts_and_texts)
{
    static const char *const bad[] = {"", "m", "1", "1x", "-1m", "123456789m", " 1m", "1m "};
    char text[40];
    char out[40];
    uint64_t ms = 0;
    size_t bytes;

    cr_assert(grpc_timeout_parse("250m", 4, &ms) && ms == 250);
    cr_assert(grpc_timeout_parse("2S", 2, &ms) && ms == 2000);
    cr_assert(grpc_timeout_parse("1H", 2, &ms) && ms == 3600000);
    cr_assert(grpc_timeout_parse("1n", 2, &ms) && ms == 1);
    cr_assert(grpc_timeout_parse("99999999H", 9, &ms) && ms == 366ULL * 24 * 3600 * 1000);
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert(not(grpc_timeout_parse(bad[i], strlen(bad[i]), &ms)), "%s", bad[i]);
    }
    bytes = grpc_timeout_format(text, UINT32_MAX);
    cr_assert(grpc_timeout_parse(text, bytes, &ms) && ms == 4294967000);
    bytes = grpc_text_encode(text, sizeof text, "50% \n\xc3\xa4");
    cr_assert(eq(str, text, "50%25 %0A%C3%A4"));
    grpc_text_decode(out, sizeof out, text, bytes);
    cr_assert(eq(str, out, "50% \n\xc3\xa4"));
    grpc_text_decode(out, sizeof out, "a%2", 3);
    cr_assert(eq(str, out, "a%2"));
    grpc_text_decode(out, 4, "abcdefgh", 8);
    cr_assert(eq(str, out, "abc"));
}
