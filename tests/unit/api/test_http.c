/* The server over real sockets, with a small handler: framing, order, time limits, bounds. */
#include "sidecar/api/http.h"
#include "sidecar/io/clock.h"
#include "tests/lib/fail_calls.h"
#include "tests/unit/api/client.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HELD_MAX = 16 };

struct fixture {
    uv_loop_t loop;
    struct http_server *s;
    struct client client;
    struct answer answer;
    unsigned requests;
    bool hold; /* keep requests instead of answering */
    struct http_exchange *held[HELD_MAX];
    unsigned held_count;
    size_t answer_bytes; /* 0: echo */
    struct http_exchange *gone;
};

static struct fixture f;

/* Says what came: "GET /path body" */
static void echo(struct http_exchange *x)
{
    struct text body;

    text_init(&body, 128 << 20);
    if (f.answer_bytes != 0) {
        char *room = text_room(&body, f.answer_bytes);
        memset(room, 'a', f.answer_bytes);
        body.used += f.answer_bytes;
    } else {
        text_printf(&body, "%s %.*s ", x->method, (int)x->target_bytes, x->target);
        text_put(&body, x->body != NULL ? x->body : "", x->body_bytes);
    }
    http_reply(x, 200, "X-Extra: yes\r\n", &body);
}

static void on_request(void *data, struct http_exchange *x)
{
    cr_assert(eq(ptr, data, &f));
    f.requests++;
    if (x->body != NULL) {
        for (int i = 0; i < HTTP_BODY_SLACK; i++) {
            cr_assert(eq(chr, x->body[x->body_bytes + (size_t)i], 0));
        }
    }
    if (f.hold) {
        f.held[f.held_count++] = x;
    } else {
        echo(x);
    }
}

static void on_gone(void *data, struct http_exchange *x)
{
    cr_assert(eq(ptr, data, &f));
    f.gone = x;
}

static void open_server(void)
{
    struct http_server_config config = {.loop = &f.loop,
                                        .host = "127.0.0.1",
                                        .on_request = on_request,
                                        .on_gone = on_gone,
                                        .data = &f,
                                        .connections_max = 4,
                                        .body_max = 1 << 20,
                                        .bodies_total_max = 4 << 20,
                                        .answers_total_max = 40 << 20,
                                        .head_timeout_ms = 400,
                                        .idle_timeout_ms = 600,
                                        .rest_timeout_ms = 400,
                                        .grace_ms = 600,
                                        .rate_bytes = 100000};
    struct otr_errmsg msg = {0};

    uv_loop_init(&f.loop);
    cr_assert(eq(int, http_server_new(&f.s, &config, &msg), 0), "%s", msg.text);
    client_open(&f.client, &f.loop, http_server_port(f.s));
}

static void on_closed(void *data)
{
    *(bool *)data = true;
}

static void close_server(void)
{
    bool closed = false;

    f.hold = false;
    while (f.held_count > 0) {
        echo(f.held[--f.held_count]);
    }
    answer_free(&f.answer);
    client_close(&f.client);
    http_server_close(f.s, on_closed, &closed);
    while (!closed) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    uv_run(&f.loop, UV_RUN_DEFAULT);
    cr_assert(eq(int, uv_loop_close(&f.loop), 0));
}

TestSuite(http, .init = open_server, .fini = close_server, .timeout = 30);

static int answer(struct client *c)
{
    answer_free(&f.answer);
    return client_answer(c, &f.answer, 5000) ? f.answer.status : -1;
}

static void expect_echo(struct client *c, const char *text)
{
    cr_assert(eq(int, answer(c), 200));
    cr_assert(eq(str, f.answer.body, (char *)text));
}

#define HOST " HTTP/1.1\r\nHost: x\r\n"

Test(http, requests_follow_each_other_on_a_connection)
{
    client_puts(&f.client, "GET /a" HOST "\r\n");
    expect_echo(&f.client, "GET /a ");
    cr_assert(eq(str, (char *)answer_header(&f.answer, "X-Extra"), "yes"));
    client_puts(&f.client, "PUT /b" HOST "Content-Length: 5\r\n\r\nhello");
    expect_echo(&f.client, "PUT /b hello");
    client_puts(&f.client, "PUT /c" HOST "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n");
    expect_echo(&f.client, "PUT /c hello");
    client_puts(&f.client, "\r\nPUT /d" HOST "Content-Length: 0\r\n\r\n");
    expect_echo(&f.client, "PUT /d ");
}

Test(http, bytes_may_come_one_by_one)
{
    static const char text[] = "PUT /b" HOST "Content-Length: 5\r\n\r\nhello"
                               "PUT /c" HOST "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";

    for (size_t i = 0; i < sizeof text - 1; i++) {
        client_send(&f.client, text + i, 1);
    }
    expect_echo(&f.client, "PUT /b hello");
    expect_echo(&f.client, "PUT /c hello");
}

/* RFC 9112: one before a request is passed over, whether or not it comes in one piece. */
Test(http, an_empty_line_may_come_in_pieces)
{
    client_puts(&f.client, "GET /a" HOST "\r\n\r");
    expect_echo(&f.client, "GET /a ");
    client_puts(&f.client, "\nGET /b" HOST "\r\n");
    expect_echo(&f.client, "GET /b ");
}

Test(http, pipelined_requests_are_answered_in_order)
{
    f.hold = true;
    client_puts(&f.client, "GET /1" HOST "\r\nPUT /2" HOST "Content-Length: 3\r\n\r\nabcGET /3" HOST "\r\nHEAD /4" HOST
                           "\r\nGET /5" HOST "\r\n");
    run_for(&f.loop, 20);
    cr_assert(eq(uint, f.requests, 1)); /* The second waits for the first. */
    f.hold = false;
    echo(f.held[--f.held_count]);
    expect_echo(&f.client, "GET /1 ");
    expect_echo(&f.client, "PUT /2 abc");
    expect_echo(&f.client, "GET /3 ");
    answer_free(&f.answer);
    cr_assert(client_head_answer(&f.client, &f.answer, 1000));
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Content-Length"), "7"));
    expect_echo(&f.client, "GET /5 ");
}

Test(http, a_connection_is_closed_when_asked)
{
    client_puts(&f.client, "GET /a" HOST "Connection: close\r\n\r\nGET /b" HOST "\r\n");
    expect_echo(&f.client, "GET /a ");
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Connection"), "close"));
    cr_assert(client_ended(&f.client, 1000));
    cr_assert(eq(uint, f.requests, 1));
    client_close(&f.client);
    client_open(&f.client, &f.loop, http_server_port(f.s));
    client_puts(&f.client, "GET /a HTTP/1.0\r\n\r\n");
    expect_echo(&f.client, "GET /a ");
    cr_assert(client_ended(&f.client, 1000));
    client_close(&f.client);
    client_open(&f.client, &f.loop, http_server_port(f.s));
    client_puts(&f.client, "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    expect_echo(&f.client, "GET /a ");
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Connection"), "keep-alive"));
    client_puts(&f.client, "GET /b" HOST "\r\n");
    expect_echo(&f.client, "GET /b ");
}

Test(http, a_client_that_ended_its_side_gets_its_answer)
{
    f.hold = true;
    client_puts(&f.client, "GET /a" HOST "\r\n");
    client_end(&f.client);
    run_for(&f.loop, 20);
    echo(f.held[--f.held_count]);
    expect_echo(&f.client, "GET /a ");
    cr_assert(client_ended(&f.client, 1000));
}

Test(http, a_client_that_went_away_harms_nobody)
{
    f.hold = true;
    client_puts(&f.client, "PUT /a" HOST "Content-Length: 3\r\n\r\nabc");
    run_for(&f.loop, 20);
    setsockopt(f.client.fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger)); /* reset */
    client_close(&f.client);
    run_for(&f.loop, 20);
    cr_assert(eq(uint, http_server_connections(f.s), 1)); /* Its request is still being worked on. */
    echo(f.held[--f.held_count]);
    run_for(&f.loop, 20);
    cr_assert(eq(uint, http_server_connections(f.s), 0));
}

Test(http, expect_100_continue)
{
    client_puts(&f.client, "PUT /a" HOST "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    cr_assert(eq(int, answer(&f.client), 100));
    client_puts(&f.client, "hello");
    expect_echo(&f.client, "PUT /a hello");
    /* A client that does not wait gets no interim answer; one whose body is too large gets only the refusal. */
    client_puts(&f.client, "PUT /b" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi");
    expect_echo(&f.client, "PUT /b hi");
    client_puts(&f.client, "PUT /c" HOST "Expect: 100-continue\r\nContent-Length: 2000000\r\n\r\n");
    cr_assert(eq(int, answer(&f.client), 413));
}

#ifndef WITH_TLS
/* An interim answer that is cut would be taken for the beginning of the real one. */
Test(http, a_100_continue_that_does_not_fit_ends_the_connection)
{
    fail_calls_one("uv_try_write", 1, UV_EAGAIN);
    client_puts(&f.client, "PUT /a" HOST "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    cr_assert(client_ended(&f.client, 5000));
    cr_assert(zero(sz, f.client.in_bytes));
    cr_assert(not(fail_calls_pending()));
    cr_assert(zero(uint, f.requests));
}
#endif

Test(http, errors_are_json_and_close)
{
    static const struct {
        int status;
        const char *request, *code;
    } bad[] = {
        {400, "GET / HTTP/1.1\n\n", "bad_request"},
        {400, "GET /" HOST "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", "bad_request"},
        {400, "PUT /" HOST "Transfer-Encoding: chunked\r\n\r\nzz\r\n", "bad_request"},
        {413, "PUT /" HOST "Content-Length: 1048577\r\n\r\n", "too_large"},
        {413, "PUT /" HOST "Transfer-Encoding: chunked\r\n\r\n100001\r\n", "too_large"},
        {501, "BREW /" HOST "\r\n", "not_implemented"},
        {501, "PUT /" HOST "Transfer-Encoding: gzip\r\n\r\n", "not_implemented"},
        {405, "CONNECT a:1" HOST "\r\n", "method_not_allowed"},
        {505, "GET / HTTP/3.0\r\nHost: x\r\n\r\n", "version_not_supported"},
        {417, "PUT /" HOST "Expect: x\r\nContent-Length: 1\r\n\r\n", "expectation_failed"},
    };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char start[64];
        struct client c;

        client_open(&c, &f.loop, http_server_port(f.s));
        client_puts(&c, bad[i].request);
        cr_assert(eq(int, answer(&c), bad[i].status), "%s", bad[i].request);
        snprintf(start, sizeof start, "{\"error\":{\"code\":\"%s\",\"message\":\"", bad[i].code);
        cr_assert(eq(int, strncmp(f.answer.body, start, strlen(start)), 0), "%s", f.answer.body);
        cr_assert(strstr(f.answer.body, "\"},\"applied\":false}\n") != NULL);
        cr_assert(eq(str, (char *)answer_header(&f.answer, "Connection"), "close"));
        client_end(&c);
        cr_assert(client_ended(&c, 1000));
        client_close(&c);
        run_for(&f.loop, 10);
    }
    cr_assert(eq(uint, f.requests, 0));
}

Test(http, an_upgrade_is_not_taken_up)
{
    client_puts(&f.client, "GET /a" HOST "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\nGET /b" HOST "\r\n");
    expect_echo(&f.client, "GET /a ");
    expect_echo(&f.client, "GET /b ");
}

Test(http, large_heads_are_refused)
{
    char *head = malloc(20000);
    size_t used = (size_t)sprintf(head, "GET /a" HOST "X: ");

    memset(head + used, 'x', 15000);
    strcpy(head + used + 15000, "\r\n\r\n");
    client_puts(&f.client, head);
    expect_echo(&f.client, "GET /a ");
    memset(head + used, 'x', 18000);
    client_send(&f.client, head, used + 18000);
    cr_assert(eq(int, answer(&f.client), 431));
    client_close(&f.client);
    client_open(&f.client, &f.loop, http_server_port(f.s));
    used = (size_t)sprintf(head, "GET /a" HOST);
    for (int i = 0; i < 100; i++) {
        used += (size_t)sprintf(head + used, "X: y\r\n");
    }
    strcpy(head + used, "\r\n");
    client_puts(&f.client, head);
    cr_assert(eq(int, answer(&f.client), 431));
    free(head);
}

Test(http, a_large_body_arrives_whole_and_the_next_request_behind_it)
{
    size_t bytes = 1 << 20;
    char *body = malloc(bytes + 1);
    char head[128];

    for (size_t i = 0; i < bytes; i++) {
        body[i] = (char)('a' + i % 26);
    }
    body[bytes] = '\0';
    for (int chunked = 0; chunked < 2; chunked++) {
        if (chunked) {
            client_puts(&f.client, "PUT /a" HOST "Transfer-Encoding: chunked\r\n\r\n");
            for (size_t at = 0; at < bytes; at += 4096) {
                client_puts(&f.client, "1000\r\n");
                client_send(&f.client, body + at, 4096);
                client_puts(&f.client, "\r\n");
            }
            client_puts(&f.client, "0\r\n\r\n");
        } else {
            snprintf(head, sizeof head, "PUT /a" HOST "Content-Length: %zu\r\n\r\n", bytes);
            client_puts(&f.client, head);
            client_send(&f.client, body, bytes);
        }
        client_puts(&f.client, "GET /b" HOST "\r\n");
        cr_assert(eq(int, answer(&f.client), 200));
        cr_assert(eq(sz, f.answer.body_bytes, bytes + 7));
        cr_assert(eq(int, memcmp(f.answer.body + 7, body, bytes), 0));
        expect_echo(&f.client, "GET /b ");
    }
    free(body);
}

Test(http, all_bodies_together_are_bounded)
{
    struct client c[3];
    char *body = calloc(1, 1 << 20);

    f.hold = true;
    for (int i = 0; i < 3; i++) { /* Three bodies of one MiB fill what large ones may have. */
        client_open(&c[i], &f.loop, http_server_port(f.s));
        client_puts(&c[i], "PUT /a" HOST "Content-Length: 1048576\r\n\r\n");
        client_send(&c[i], body, 1 << 20);
    }
    run_for(&f.loop, 50);
    cr_assert(eq(uint, f.held_count, 3));
    client_puts(&f.client, "PUT /a" HOST "Content-Length: 1048576\r\n\r\n");
    client_send(&f.client, body, 200000);
    cr_assert(eq(int, answer(&f.client), 503));
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Retry-After"), "1"));
    client_close(&f.client);
    f.hold = false;
    run_for(&f.loop, 50); /* Four connections are allowed: the server must have seen this one end. */
    client_open(&f.client, &f.loop, http_server_port(f.s));
    client_puts(&f.client, "PUT /a" HOST "Content-Length: 10\r\n\r\n0123456789"); /* small ones go on */
    expect_echo(&f.client, "PUT /a 0123456789");
    for (int i = 0; i < 3; i++) {
        echo(f.held[--f.held_count]);
        client_close(&c[i]);
    }
    run_for(&f.loop, 50);
    cr_assert(eq(ulong, http_server_metrics(f.s)->body_bytes, 0));
    free(body);
}

Test(http, connections_are_bounded)
{
    struct client c[4];

    f.hold = true;
    for (int i = 0; i < 4; i++) { /* none of the four waits for a request: one is worked on, three are coming */
        struct client *one = i == 0 ? &f.client : &c[i - 1];

        if (i != 0) {
            client_open(one, &f.loop, http_server_port(f.s));
        }
        client_puts(one, i == 0   ? "GET /a" HOST "\r\n"
                         : i == 1 ? "GET /b"
                                  : "PUT /c" HOST "Content-Length: 10\r\n\r\n");
        run_for(&f.loop, 5);
    }
    client_open(&c[3], &f.loop, http_server_port(f.s));
    cr_assert(eq(int, answer(&c[3]), client_tls == NULL ? 503 : -1));
    cr_assert(client_ended(&c[3], 1000));
    client_close(&c[3]);
    f.hold = false;
    echo(f.held[--f.held_count]);
    expect_echo(&f.client, "GET /a ");
    for (int i = 0; i < 3; i++) {
        client_close(&c[i]);
    }
    run_for(&f.loop, 20);
    cr_assert(eq(uint, http_server_connections(f.s), 1));
    cr_assert(eq(ulong, http_server_metrics(f.s)->idle_closed_total, 0));
}

/* The one that waited longest makes room: not one that was asked something lately, not one that is asking. */
Test(http, idle_connections_make_room_for_new_ones)
{
    struct client c[6];

    client_puts(&f.client, "GET /a" HOST "\r\n");
    expect_echo(&f.client, "GET /a ");
    for (int i = 0; i < 3; i++) { /* these never ask anything */
        client_open(&c[i], &f.loop, http_server_port(f.s));
        run_for(&f.loop, 5);
    }
    client_puts(&f.client, "GET /b" HOST "\r\n");
    expect_echo(&f.client, "GET /b "); /* the youngest now */
    client_puts(&c[0], "GET /c HT");   /* is asking */
    run_for(&f.loop, 5);
    for (int i = 3; i < 5; i++) {
        client_open(&c[i], &f.loop, http_server_port(f.s));
        client_puts(&c[i], "GET /d" HOST "\r\n");
        expect_echo(&c[i], "GET /d ");
    }
    cr_assert(client_ended(&c[1], 1000));
    cr_assert(client_ended(&c[2], 1000));
    cr_assert(eq(ulong, http_server_metrics(f.s)->idle_closed_total, 2));
    client_puts(&c[0], "TP/1.1\r\nHost: x\r\n\r\n");
    expect_echo(&c[0], "GET /c ");
    client_puts(&f.client, "GET /e" HOST "\r\n");
    expect_echo(&f.client, "GET /e ");
    cr_assert(eq(uint, http_server_connections(f.s), 4));
    for (int i = 0; i < 5; i++) {
        client_close(&c[i]);
    }
}

/* Nor does the loop spin, as it would if the connection that cannot be taken stayed in the backlog. */
Test(http, without_descriptors_new_connections_are_dropped_and_old_ones_served)
{
    struct client c[3];
    struct rlimit files;
    struct rlimit none;
    int turns = 0;
    int highest = dup(0);

    client_puts(&f.client, "GET /a" HOST "\r\n");
    expect_echo(&f.client, "GET /a ");
    for (int i = 0; i < 3; i++) {
        client_open(&c[i], &f.loop, http_server_port(f.s));
        highest = c[i].fd > highest ? c[i].fd : highest;
    }
    cr_assert(eq(int, getrlimit(RLIMIT_NOFILE, &files), 0));
    none = files;
    none.rlim_cur = (rlim_t)highest + 1;
    for (int fd = 0; fd <= highest; fd++) { /* no gaps */
        if (fcntl(fd, F_GETFD) == -1) {
            (void)dup2(0, fd);
        }
    }
    cr_assert(eq(int, setrlimit(RLIMIT_NOFILE, &none), 0));
    for (uint64_t end_ms = clock_now_ms() + 300; clock_now_ms() < end_ms; turns++) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    cr_assert(lt(int, turns, 50)); /* the server's sweeps alone */
    for (int i = 0; i < 3; i++) {
        cr_assert(client_ended(&c[i], 1000));
    }
    client_puts(&f.client, "GET /b" HOST "\r\n");
    expect_echo(&f.client, "GET /b ");
    cr_assert(eq(int, setrlimit(RLIMIT_NOFILE, &files), 0));
    client_close(&c[0]);
    client_open(&c[0], &f.loop, http_server_port(f.s));
    client_puts(&c[0], "GET /b" HOST "\r\n");
    expect_echo(&c[0], "GET /b ");
    for (int i = 0; i < 3; i++) {
        client_close(&c[i]);
    }
}

/* The answers that nobody reads: the connection that has not moved for longest goes. */
Test(http, unread_answers_are_bounded)
{
    struct client c[2];

    f.answer_bytes = 24 << 20; /* 40 MiB are allowed */
    for (int i = 0; i < 2; i++) {
        client_open(&c[i], &f.loop, http_server_port(f.s));
        client_puts(&c[i], "GET /a" HOST "\r\n");
        run_for(&f.loop, 30);
    }
    cr_assert(eq(ulong, http_server_metrics(f.s)->unread_closed_total, 1));
    cr_assert(eq(uint, http_server_connections(f.s), 2));
    cr_assert(eq(int, answer(&c[1]), 200));
    cr_assert(eq(sz, f.answer.body_bytes, 24 << 20));
    cr_assert(not(client_answer(&c[0], &f.answer, 1000))); /* cut off */
    cr_assert(eq(ulong, http_server_metrics(f.s)->answer_bytes, 0));
    client_close(&c[0]);
    client_close(&c[1]);
}

Test(http, the_handler_hears_that_a_client_is_gone)
{
    f.hold = true;
    client_puts(&f.client, "GET /a" HOST "\r\n");
    run_for(&f.loop, 20);
    client_end(&f.client); /* it may still read */
    run_for(&f.loop, 20);
    cr_assert(zero(ptr, f.gone));
    echo(f.held[--f.held_count]);
    expect_echo(&f.client, "GET /a ");
    client_close(&f.client);
    client_open(&f.client, &f.loop, http_server_port(f.s));
    client_puts(&f.client, "GET /b" HOST "\r\n");
    run_for(&f.loop, 20);
    setsockopt(f.client.fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger)); /* reset */
    client_close(&f.client);
    run_for(&f.loop, 20);
    cr_assert(eq(ptr, f.gone, f.held[0]));
}

/* --- time limits (shortened by open_server)
 * ------------------------------------------------------------------------------ */

Test(http, one_byte_at_a_time_ends_and_disturbs_nobody)
{
    struct client slow;
    uint64_t start_ms = clock_now_ms();

    client_open(&slow, &f.loop, http_server_port(f.s));
    client_puts(&slow, "PUT /slow" HOST "Content-Length: 1000\r\n\r\n");
    while (!client_ended(&slow, 1) && clock_now_ms() - start_ms < 5000) {
        uint64_t asked_ms = clock_now_ms();

        client_puts(&f.client, "GET /b" HOST "\r\n");
        expect_echo(&f.client, "GET /b ");
        cr_assert(lt(u64, clock_now_ms() - asked_ms, 300));
        client_puts(&slow, "x");
        run_for(&f.loop, 20);
        if (slow.in != NULL && strstr(slow.in, "\r\n\r\n") != NULL) {
            break;
        }
    }
    cr_assert(lt(u64, clock_now_ms() - start_ms, 2000)); /* 600 ms and a little; not 1000 bytes times 20 ms */
    cr_assert(eq(int, answer(&slow), 408));
    cr_assert(strstr(f.answer.body, "\"code\":\"timeout\"") != NULL);
    client_close(&slow);
}

Test(http, a_head_has_its_time)
{
    uint64_t start_ms = clock_now_ms();

    client_puts(&f.client, "GET /a HTTP/1.1\r\nHo");
    while (clock_now_ms() - start_ms < 300) {
        client_puts(&f.client, "o");
        run_for(&f.loop, 20);
    }
    cr_assert(eq(int, answer(&f.client), 408));
    cr_assert(lt(u64, clock_now_ms() - start_ms, 1500));
    client_close(&f.client);
    client_open(&f.client, &f.loop, http_server_port(f.s)); /* One that never says anything. */
    cr_assert(eq(int, answer(&f.client), 408));
}

Test(http, a_body_that_rests_ends)
{
    client_puts(&f.client, "PUT /a" HOST "Content-Length: 10\r\n\r\n01234");
    cr_assert(eq(int, answer(&f.client), 408));
    cr_assert(eq(uint, f.requests, 0));
}

Test(http, an_idle_connection_is_closed_in_silence)
{
    client_puts(&f.client, "GET /a" HOST "\r\n");
    expect_echo(&f.client, "GET /a ");
    cr_assert(eq(int, answer(&f.client), -1));
    cr_assert(client_ended(&f.client, 3000));
}

Test(http, a_request_under_way_has_no_time_limit_here)
{
    f.hold = true;
    client_puts(&f.client, "GET /a" HOST "\r\n");
    run_for(&f.loop, 1200);
    echo(f.held[--f.held_count]);
    expect_echo(&f.client, "GET /a ");
}

Test(http, a_client_that_does_not_read_is_dropped_and_not_read_from)
{
    f.answer_bytes = 32 << 20;
    client_puts(&f.client, "GET /a" HOST "\r\nGET /b" HOST "\r\n");
    for (int i = 0; i < 200 && http_server_connections(f.s) > 0; i++) {
        run_for(&f.loop, 20);
    }
    cr_assert(eq(uint, http_server_connections(f.s), 0));
    cr_assert(eq(uint, f.requests, 1));
}

/* The kernel must not hold megabytes for each of them either. */
Test(http, answers_that_nobody_reads_are_not_made_ahead)
{
    f.answer_bytes = 100 << 10;
    setsockopt(f.client.fd, SOL_SOCKET, SO_RCVBUF, &(int){4096}, sizeof(int));
    for (int i = 0; i < 100; i++) {
        client_puts(&f.client, "GET /a" HOST "\r\n");
    }
    run_for(&f.loop, 50);
    cr_assert(ge(uint, f.requests, 2));
    cr_assert(le(uint, f.requests, 6), "%u answers of 100 KiB", f.requests);
}

Test(http, a_large_answer_reaches_a_slow_reader_whole)
{
    f.answer_bytes = 8 << 20;
    client_puts(&f.client, "GET /a" HOST "\r\n");
    cr_assert(eq(int, answer(&f.client), 200));
    cr_assert(eq(sz, f.answer.body_bytes, 8 << 20));
    f.answer_bytes = 0;
    client_puts(&f.client, "GET /b" HOST "\r\n");
    expect_echo(&f.client, "GET /b ");
}

Test(http, closing_waits_for_what_is_under_way_only)
{
    struct client idle;
    struct client half;
    bool closed = false;

    client_open(&idle, &f.loop, http_server_port(f.s));
    client_open(&half, &f.loop, http_server_port(f.s));
    client_puts(&half, "PUT /a" HOST "Content-Length: 10\r\n\r\n01234");
    f.hold = true;
    client_puts(&f.client, "GET /a" HOST "\r\n");
    run_for(&f.loop, 30);
    http_server_close(f.s, on_closed, &closed);
    run_for(&f.loop, 30);
    cr_assert(not(closed));
    cr_assert(client_ended(&idle, 1000));
    cr_assert(client_ended(&half, 1000));
    echo(f.held[--f.held_count]);
    expect_echo(&f.client, "GET /a ");
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Connection"), "close"));
    client_close(&f.client);
    while (!closed) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    client_close(&idle);
    client_close(&half);
    uv_run(&f.loop, UV_RUN_DEFAULT);
    cr_assert(eq(int, uv_loop_close(&f.loop), 0));
    open_server(); /* For the teardown. */
}

#ifndef WITH_TLS
/* --- failing allocations ------------------------------------------------------------------------------------------ */

/* A request in three pieces, and another behind it that waits for its turn. The answers that come are whole and in
 * order, and where one is missing the connection has ended. Returns whether all was well. */
static bool two_requests(void)
{
    static const char *const pieces[] = {"PUT /a HTTP/1.1\r\nHo",
                                         "st: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
                                         "2\r\nde\r\n0\r\n\r\n", "GET /b" HOST "\r\n"};

    f.hold = true;
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        client_puts(&f.client, pieces[i]);
        run_for(&f.loop, 3);
    }
    f.hold = false;
    while (f.held_count > 0) {
        echo(f.held[--f.held_count]);
    }
    for (int i = 0; i < 2; i++) {
        int status = answer(&f.client);

        if (status != 200) {
            cr_assert(status == -1 || status == 500 || status == 503, "%d", status);
            cr_assert(client_ended(&f.client, 5000));
            return false;
        }
        cr_assert(eq(str, f.answer.body, i == 0 ? "PUT /a abcde" : "GET /b "));
    }
    return true;
}

Test(http, without_memory_a_connection_ends_and_the_next_is_served)
{
    unsigned ended = 0;
    bool pending = false;

    for (uint64_t nth = 1; !pending; nth++) {
        bool well;

        fail_calls_at(FAIL_MEMORY, nth);
        well = two_requests();
        pending = fail_calls_pending();
        fail_calls_at(FAIL_MEMORY, 0);
        cr_assert(well || !pending);
        ended += !well;
        client_close(&f.client);
        run_for(&f.loop, 5);
        cr_assert(zero(ulong, http_server_metrics(f.s)->body_bytes), "allocation %u", (unsigned)nth);
        client_open(&f.client, &f.loop, http_server_port(f.s));
        client_puts(&f.client, "GET /next" HOST "\r\n");
        expect_echo(&f.client, "GET /next ");
    }
    cr_assert(ge(uint, ended, 6)); /* heads, calls, bodies, answers, what waits */
}
#endif

Test(http, addresses_that_cannot_be_listened_on)
{
    struct http_server_config config = {.loop = &f.loop, .host = "127.0.0.1", .port = http_server_port(f.s)};
    struct otr_errmsg msg = {0};
    struct http_server *other;

    cr_assert(eq(int, http_server_new(&other, &config, &msg), OTR_INUSE));
    cr_assert(strstr(msg.text, "listen on 127.0.0.1:") != NULL);
    config.host = "not an address";
    cr_assert(eq(int, http_server_new(&other, &config, &msg), OTR_INVALID));
    config.host = "192.0.2.1"; /* not ours */
    cr_assert(eq(int, http_server_new(&other, &config, &msg), OTR_INVALID));
}
