/* Unary calls: answers, refusals, time, and what a lost connection means. */
#include "fixture.h"

#include "raw.h"
#include "sidecar/peer/link.h"

#include "grpc/health/v1/health.pb-c.h"

TestSuite(call, .init = loop_begin, .fini = loop_end, .timeout = 60);

/* A call is answered, never from inside the call that made it. */
Test(call, request_and_reply)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct reply reply = {0};

    cr_assert(eq(int, call_forward(link, 1000, 1000, &reply), 0));
    cr_assert(zero(uint, reply.count));
    RUN_UNTIL(reply.count == 1);
    cr_assert(eq(int, reply.status, 0));
    cr_assert(eq(uint, reply.value, 1000));
    node_close(&a);
    node_close(&b);
}

/* The largest body goes both ways; above the limit nothing is sent. */
Test(call, large_bodies)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct reply reply = {0};

    b.reply_bytes = 64 << 20;
    cr_assert(eq(int, call_forward(link, 64 << 20, 10000, &reply), 0));
    RUN_UNTIL(reply.count == 1);
    cr_assert(eq(int, reply.status, 0), "%s", reply.text);
    cr_assert(eq(uint, reply.value, 64 << 20));
    cr_assert(eq(sz, reply.body_bytes, 64 << 20));
    cr_assert(eq(int, call_forward(link, PEER_MESSAGE_MAX, 1000, &reply), OTR_TOOBIG));
    /* A reply that is too large is an error of the called one. */
    b.reply_bytes = PEER_MESSAGE_MAX;
    cr_assert(eq(int, call_forward(link, 1, 10000, &reply), 0));
    RUN_UNTIL(reply.count == 2);
    cr_assert(eq(int, reply.status, OTR_UNKNOWN));
    node_close(&a);
    node_close(&b);
}

/* More calls than the peer takes at once wait their turn. */
Test(call, many_at_once)
{
    enum { CALLS = 6000 };
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct reply *replies = calloc(CALLS, sizeof *replies);

    for (unsigned i = 0; i < CALLS; i++) {
        cr_assert(eq(int, call_forward(link, i % 3000, 20000, &replies[i]), 0));
    }
    RUN_UNTIL(b.calls_count == CALLS && replies[CALLS - 1].count == 1);
    for (unsigned i = 0; i < CALLS; i++) {
        cr_assert(eq(uint, replies[i].count, 1));
        cr_assert(eq(int, replies[i].status, 0));
        cr_assert(eq(uint, replies[i].value, i % 3000));
    }
    free(replies);
    node_close(&a);
    node_close(&b);
}

/* Requests that wait for their answers are bounded in sum: one too many is refused before it is processed. */
Test(call, too_much_unanswered)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct reply replies[5] = {0}, later = {0};
    Outrigger__V1__ForwardReply answer = OUTRIGGER__V1__FORWARD_REPLY__INIT;

    b.hold = true;
    for (unsigned i = 0; i < 4; i++) {
        cr_assert(zero(int, call_forward(link, 60 << 20, 0, &replies[i])));
        RUN_UNTIL(b.calls_count == i + 1);
    }
    cr_assert(zero(int, call_forward(link, 60 << 20, 0, &replies[4])));
    RUN_UNTIL(replies[4].count == 1);
    cr_assert(eq(int, replies[4].status, OTR_UNREACHABLE), "%s", replies[4].text);
    cr_assert(eq(uint, b.calls_count, 4));
    for (unsigned i = 0; i < 4; i++) {
        peer_call_reply(b.held_all[i], &answer.base);
        RUN_UNTIL(replies[i].count == 1);
        cr_assert(zero(int, replies[i].status));
    }
    b.hold = false; /* There is room again. */
    cr_assert(zero(int, call_forward(link, 60 << 20, 0, &later)));
    RUN_UNTIL(later.count == 1);
    cr_assert(zero(int, later.status), "%s", later.text);
    node_close(&a);
    node_close(&b);
}

/* An error status arrives with its words, percent-encoding undone. */
Test(call, refused_by_the_handler)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    Outrigger__V1__CountRequest request = OUTRIGGER__V1__COUNT_REQUEST__INIT;
    struct reply reply = {0};

    cr_assert(zero(int, peer_link_call(link, PEER_COUNT, &request.base, 1000, on_reply, &reply)));
    RUN_UNTIL(reply.count == 1);
    cr_assert(eq(int, reply.status, OTR_PROTO));
    cr_assert(strstr(reply.text, "not today: 100% \xc3\xa4") != NULL, "%s", reply.text);
    node_close(&a);
    node_close(&b);
}

/* No answer in time: the outcome is unknown, and a late answer goes nowhere. */
Test(call, timeout)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct reply reply = {0};
    uint64_t begun_ns = uv_hrtime();
    Outrigger__V1__ForwardReply late = OUTRIGGER__V1__FORWARD_REPLY__INIT;

    b.hold = true;
    cr_assert(zero(int, call_forward(link, 10, 100, &reply)));
    RUN_UNTIL(reply.count == 1);
    cr_assert(eq(int, reply.status, OTR_UNKNOWN));
    cr_assert(ge(u64, uv_hrtime() - begun_ns, 90000000));
    cr_assert(le(u64, uv_hrtime() - begun_ns, 1000000000));
    cr_assert(eq(ptr, peer_call_data(b.held), &b));
    run_for_ms(50);
    peer_call_reply(b.held, &late.base);
    run_for_ms(50);
    cr_assert(eq(uint, reply.count, 1));
    cr_assert(peer_link_up(link));
    node_close(&a);
    node_close(&b);
}

/* Never connected: certainly not processed, and told later, not from inside. */
Test(call, unreachable)
{
    struct node a, b;
    struct peer_link *link;
    struct reply reply = {0};

    node_open(&a, "a", "test", 11, 0);
    node_open(&b, "b", "test", 22, 0);
    link = node_dial(&a, "b", &b);
    cr_assert(zero(int, call_forward(link, 10, 100, &reply)));
    cr_assert(zero(uint, reply.count));
    RUN_UNTIL(reply.count == 1);
    cr_assert(eq(int, reply.status, OTR_UNREACHABLE));
    cr_assert(zero(uint, b.calls_count));
    node_close(&a);
    node_close(&b);
}

/* So many calls of a link wait for answers; one more is told at once that it was not sent. */
Test(call, so_many_at_once_and_no_more)
{
    enum { MOST = 16384 };
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct reply replies[2] = {0};

    link->requests_count += MOST; /* others' */
    cr_assert(zero(int, call_forward(link, 10, 5000, &replies[0])));
    RUN_UNTIL(replies[0].count == 1);
    cr_assert(eq(int, replies[0].status, OTR_UNREACHABLE));
    cr_assert(ne(ptr, strstr(replies[0].text, "too many calls"), NULL), "%s", replies[0].text);
    link->requests_count -= MOST;
    cr_assert(zero(int, call_forward(link, 10, 5000, &replies[1])));
    RUN_UNTIL(replies[1].count == 1);
    cr_assert(zero(int, replies[1].status));
    cr_assert(eq(uint, b.calls_count, 1));
    node_close(&a);
    node_close(&b);
}

/* A reply that is no such message: what was done nobody knows, and the link goes on. */
Test(call, replies_that_are_none)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    Grpc__Health__V1__HealthCheckRequest other = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    struct reply reply = {0};
    struct reply next = {0};
    uint64_t calls;
    uint64_t queued;

    other.service = (char *)(uintptr_t) "where a number should be";
    b.hold = true;
    cr_assert(zero(int, call_forward(link, 10, 5000, &reply)));
    RUN_UNTIL(b.calls_count == 1);
    peer_link_calls(link, &calls, &queued);
    cr_assert(calls == 1 && queued == 0);
    peer_call_reply(b.held, &other.base);
    RUN_UNTIL(reply.count == 1);
    cr_assert(eq(int, reply.status, OTR_PROTO));
    cr_assert(ne(ptr, strstr(reply.text, "cannot be parsed"), NULL), "%s", reply.text);
    b.hold = false;
    cr_assert(zero(int, call_forward(link, 10, 5000, &next)));
    RUN_UNTIL(next.count == 1);
    cr_assert(zero(int, next.status));
    peer_link_calls(link, &calls, &queued);
    cr_assert(zero(u64, calls));
    cr_assert(eq(uint, a.events_count, 1), "the link stayed up");
    node_close(&a);
    node_close(&b);
}

/* The peer goes away with the call in its hands: unknown. */
Test(call, peer_gone_in_the_middle)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct reply reply = {0};
    Outrigger__V1__ForwardReply late = OUTRIGGER__V1__FORWARD_REPLY__INIT;

    b.hold = true;
    cr_assert(zero(int, call_forward(link, 10, 0, &reply)));
    RUN_UNTIL(b.held != NULL);
    node_close(&b);
    RUN_UNTIL(reply.count == 1);
    cr_assert(eq(int, reply.status, OTR_UNKNOWN));
    peer_call_reply(b.held, &late.base); /* The handler's duty, even after its hub is gone. */
    node_close(&a);
}

/* Closing the link ends its calls with OTR_CANCELED, after peer_link_close has returned. */
Test(call, canceled_by_closing_the_link)
{
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct reply reply = {0}, unsent = {0};

    b.hold = true;
    cr_assert(zero(int, call_forward(link, 10, 5000, &reply)));
    RUN_UNTIL(b.held != NULL);
    cr_assert(zero(int, call_forward(link, 10, 5000, &unsent)));
    peer_link_close(link);
    cr_assert(zero(uint, reply.count));
    RUN_UNTIL(reply.count == 1 && unsent.count == 1);
    cr_assert(eq(int, reply.status, OTR_CANCELED));
    cr_assert(eq(int, unsent.status, OTR_CANCELED));
    peer_call_fail(b.held, 14, "too late");
    node_close(&a);
    node_close(&b);
}

/* --- the protocol itself, by hand --------------------------------------------------------------------------------- */

static int exchange(const struct node *b, const struct raw_header *headers, uint8_t flag, char text[200])
{
    struct bytes out = {.count = 0};

    raw_preface(&out);
    raw_headers(&out, headers, false);
    raw_message(&out, flag, NULL, 0, true);
    return raw_exchange(peer_hub_port(b->hub), &out, 5000, text, 200);
}

/* gRPC's refusals: unknown method, compression, missing metadata, another content-type, malformed message. */
Test(call, refusals_of_the_protocol)
{
    struct node b;
    struct raw_header headers[RAW_HEADERS_MAX];
    struct bytes out = {.count = 0};
    char text[200];

    node_open(&b, "b", "test", 22, 0);
    raw_call_headers(headers, "/outrigger.v1.Peer/Hello");
    cr_assert(eq(int, exchange(&b, headers, 0, text), 0));
    cr_assert(eq(int, exchange(&b, headers, 1, text), 12), "%s", text);
    cr_assert(eq(int, exchange(&b, headers, 7, text), 13), "%s", text);
    headers[4].value = "application/grpc+proto";
    cr_assert(eq(int, exchange(&b, headers, 0, text), 0));
    headers[4].value = "application/json";
    cr_assert(eq(int, exchange(&b, headers, 0, text), 13));
    raw_call_headers(headers, "/outrigger.v1.Peer/Nothing");
    cr_assert(eq(int, exchange(&b, headers, 0, text), 12));
    raw_call_headers(headers, "/outrigger.v1.Peer/Hello");
    headers[6] = (struct raw_header){NULL, NULL};
    cr_assert(eq(int, exchange(&b, headers, 0, text), 9));
    cr_assert(strstr(text, "outrigger-cluster") != NULL, "%s", text);
    raw_call_headers(headers, "/outrigger.v1.Peer/Forward");
    raw_preface(&out);
    raw_headers(&out, headers, false);
    raw_message(&out, 0, "\xff\xff\xff", 3, true);
    cr_assert(eq(int, raw_exchange(peer_hub_port(b.hub), &out, 5000, text, sizeof text), 3), "%s", text);
    cr_assert(zero(uint, b.calls_count));
    cr_assert(zero(uint, b.intruders));
    node_close(&b);
}

/* The caller's deadline is honoured by the called one, whose handler may still answer into the void. */
Test(call, deadline_of_the_caller)
{
    struct node b;
    struct raw_header headers[RAW_HEADERS_MAX];
    Outrigger__V1__ForwardReply late = OUTRIGGER__V1__FORWARD_REPLY__INIT;
    char text[200];

    node_open(&b, "b", "test", 22, 0);
    b.hold = true;
    raw_call_headers(headers, "/outrigger.v1.Peer/Forward");
    headers[9] = (struct raw_header){"grpc-timeout", "100m"};
    headers[10] = (struct raw_header){NULL, NULL};
    cr_assert(eq(int, exchange(&b, headers, 0, text), 4), "%s", text);
    cr_assert(eq(uint, b.calls_count, 1));
    peer_call_reply(b.held, &late.base);
    headers[9].value = "100";
    cr_assert(eq(int, exchange(&b, headers, 0, text), 13), "%s", text);
    cr_assert(eq(uint, b.calls_count, 1));
    node_close(&b);
}

/* A message announced as enormous is refused before any memory follows. */
Test(call, enormous_length)
{
    struct node b;
    struct raw_header headers[RAW_HEADERS_MAX];
    struct bytes out = {.count = 0};
    char text[200];

    node_open(&b, "b", "test", 22, 0);
    raw_call_headers(headers, "/outrigger.v1.Peer/Forward");
    raw_preface(&out);
    raw_headers(&out, headers, false);
    raw_frame(&out, NGHTTP2_DATA, 0, 1, "\x00\xff\xff\xff\xff", 5);
    cr_assert(eq(int, raw_exchange(peer_hub_port(b.hub), &out, 5000, text, sizeof text), 8), "%s", text);
    node_close(&b);
}

/* Headers are bounded. */
Test(call, too_many_headers)
{
    struct node b;
    struct raw_header headers[40];
    struct bytes out = {.count = 0};
    char value[600] = {0};
    unsigned count = 9;

    node_open(&b, "b", "test", 22, 0);
    memset(value, 'v', sizeof value - 1);
    raw_call_headers(headers, "/outrigger.v1.Peer/Hello");
    for (; count < 39; count++) {
        headers[count] = (struct raw_header){"x-filler", value};
    }
    headers[count].name = NULL;
    raw_preface(&out);
    raw_headers(&out, headers, false);
    raw_message(&out, 0, NULL, 0, true);
    cr_assert(lt(int, raw_exchange(peer_hub_port(b.hub), &out, 300, NULL, 0), 0));
    node_close(&b);
}
