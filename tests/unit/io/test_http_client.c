#include "sidecar/io/http_client.h"

#include "tests/lib/http_stub.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fixture {
    uv_loop_t loop;
    struct http_client *client;
    struct http_stub *stub;
    http_stub_cb serve;          /* what the server does */
    struct http_stub_conn *conn; /* of the last request */
    char head[4096];             /* of the last request */
    char body[4096];
    bool in_call;
    bool closed;
};

struct call {
    struct http_request req;
    struct fixture *f;
    unsigned done_count;
    int status;
    long http_status;
    char body[256];
    char header[80];
    size_t body_bytes;
    bool sent;
    bool refused;
    char text[OTR_ERRMSG_MAX];
    void (*then)(struct call *call); /* from inside done */
    size_t data_bytes;
    unsigned data_count;
    int (*on_data)(struct call *call); /* from inside on_data */
};

static void on_request(void *data, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    struct fixture *f = data;

    f->conn = conn;
    snprintf(f->head, sizeof f->head, "%s", req->head);
    snprintf(f->body, sizeof f->body, "%s", req->body);
    f->serve(f, conn, req);
}

static void serve_ok(void *data, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    (void)data;
    (void)req;
    http_stub_answer(conn, 200, "fine");
}

static void serve_nothing(void *data, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    (void)data;
    (void)conn;
    (void)req;
}

static void serve_hang_up(void *data, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    (void)data;
    (void)req;
    http_stub_hang_up(conn);
}

/* Answers the first request, and hangs up on all others. */
static void serve_once(void *data, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    (req->number == 1 ? serve_ok : serve_hang_up)(data, conn, req);
}

static void fixture_init(struct fixture *f)
{
    struct http_client_config config = {0};
    struct otr_errmsg msg = {0};

    memset(f, 0, sizeof *f);
    f->serve = serve_ok;
    uv_loop_init(&f->loop);
    f->stub = http_stub_new(&f->loop, on_request, f);
    cr_assert(http_client_new(&f->client, &f->loop, &config, &msg) == 0, "%s", msg.text);
}

static void on_client_closed(void *data)
{
    struct fixture *f = data;

    cr_assert(!f->in_call);
    f->closed = true;
}

static void fixture_close(struct fixture *f)
{
    if (f->client != NULL) {
        http_client_close(f->client, on_client_closed, f);
        cr_assert(!f->closed);
    }
    http_stub_close(f->stub);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    cr_assert(f->closed);
    cr_assert(uv_loop_close(&f->loop) == 0, "something is left on the loop");
}

static void done(struct http_request *req, int status, const struct http_response *response,
                 const struct otr_errmsg *msg)
{
    struct call *call = req->data;

    cr_assert(!call->f->in_call, "called back from inside a call");
    cr_assert((status == 0) == (msg->text[0] == '\0'));
    cr_assert(response->body[response->body_bytes] == '\0');
    call->done_count++;
    call->status = status;
    call->http_status = response->status;
    call->body_bytes = response->body_bytes;
    snprintf(call->body, sizeof call->body, "%s", response->body);
    snprintf(call->header, sizeof call->header, "%s", response->header);
    call->sent = response->sent;
    call->refused = response->connection_refused;
    snprintf(call->text, sizeof call->text, "%s", msg->text);
    if (call->then != NULL) {
        call->then(call);
    }
}

static int on_data(struct http_request *req, const char *data, size_t bytes)
{
    struct call *call = req->data;

    (void)data;
    cr_assert(!call->f->in_call);
    call->data_bytes += bytes;
    call->data_count++;
    return call->on_data != NULL ? call->on_data(call) : 0;
}

static int start(struct fixture *f, struct call *call, const char *method)
{
    char url[64], method_copy[16];
    int rv;

    snprintf(url, sizeof url, "%s/path", http_stub_url(f->stub));
    snprintf(method_copy, sizeof method_copy, "%s", method);
    call->f = f;
    call->req.method = method_copy;
    call->req.url = url;
    call->req.data = call;
    call->done_count = 0;
    f->in_call = true;
    rv = http_client_start(f->client, &call->req, done);
    f->in_call = false;
    memset(url, 'x', sizeof url); /* start has copied what it needs. */
    memset(method_copy, 'x', sizeof method_copy);
    return rv;
}

static void await(struct fixture *f, const struct call *call)
{
    while (call->done_count == 0) {
        uv_run(&f->loop, UV_RUN_ONCE);
    }
}

static void perform(struct fixture *f, struct call *call, const char *method)
{
    cr_assert(start(f, call, method) == 0);
    await(f, call);
}

TestSuite(http_client, .timeout = 20);

Test(http_client, method_headers_and_body_arrive)
{
    static const char *const headers[] = {"Content-Type: application/json", "X-A: 1", NULL};
    static char big[100000];
    struct fixture f;
    struct call call = {.req = {.headers = headers, .body = "{}", .body_bytes = 2}};
    struct call bare = {0};
    struct call large = {.req = {.body = big, .body_bytes = sizeof big - 1, .body_borrowed = true}};

    fixture_init(&f);
    perform(&f, &call, "POST");
    cr_assert(call.status == 0 && call.http_status == 200 && call.sent, "%s", call.text);
    cr_assert_str_eq(call.body, "fine");
    cr_assert(strncmp(f.head, "POST /path HTTP/1.1\r\n", 21) == 0);
    cr_assert(strstr(f.head, "\r\nContent-Type: application/json\r\n") && strstr(f.head, "\r\nX-A: 1\r\n"));
    cr_assert_str_eq(f.body, "{}");
    perform(&f, &call, "PUT");
    cr_assert(strncmp(f.head, "PUT /path ", 10) == 0);
    cr_assert_str_eq(f.body, "{}");
    perform(&f, &bare, "GET");
    cr_assert(strncmp(f.head, "GET /path ", 10) == 0 && strcasestr(f.head, "content-length") == NULL);
    perform(&f, &bare, "DELETE");
    cr_assert(strncmp(f.head, "DELETE /path ", 13) == 0);
    perform(&f, &bare, "PUT");
    cr_assert(strcasestr(f.head, "\r\ncontent-length: 0\r\n") != NULL);
    memset(big, 'b', sizeof big - 1);
    perform(&f, &large, "POST");
    cr_assert(large.status == 0);
    cr_assert(strcasestr(f.head, "expect:") == NULL, "no wait for 100 Continue");
    fixture_close(&f);
}

/* Whatever the status: it is an answer. Redirects are not followed. */
Test(http_client, any_status_is_an_answer)
{
    static const char elsewhere[] = "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n";
    struct fixture f;
    struct call call = {0};

    fixture_init(&f);
    f.serve = serve_nothing;
    cr_assert(start(&f, &call, "GET") == 0);
    while (f.conn == NULL) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    http_stub_raw(f.conn, elsewhere, sizeof elsewhere - 1);
    await(&f, &call);
    cr_assert(call.status == 0 && call.http_status == 302);
    cr_assert(http_stub_requests(f.stub) == 1);
    fixture_close(&f);
}

static void serve_with_header(void *data, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\nX-Index-Other: 9\r\nx-INDEX:  17 \r\nContent-Length: 0\r\n\r\n";
    static const char long_one[] = "HTTP/1.1 200 OK\r\nX-Index: 0123456789012345678901234567890123456789"
                                   "012345678901234567890123456789\r\nContent-Length: 0\r\n\r\n";

    (void)data;
    if (req->number == 1) {
        http_stub_raw(conn, answer, sizeof answer - 1);
    } else if (req->number == 2) {
        http_stub_raw(conn, long_one, sizeof long_one - 1);
    } else {
        http_stub_answer(conn, 200, "fine");
    }
}

/* The header that a request wants, whatever its case; a long one is cut. */
Test(http_client, a_header_of_the_response)
{
    struct fixture f;
    struct call call = {.req = {.header_wanted = "X-Index"}};

    fixture_init(&f);
    f.serve = serve_with_header;
    perform(&f, &call, "GET");
    cr_assert_str_eq(call.header, "17");
    perform(&f, &call, "GET");
    cr_assert(strlen(call.header) == 63 && strncmp(call.header, "01234567890", 11) == 0);
    perform(&f, &call, "GET");
    cr_assert_str_eq(call.header, "");
    fixture_close(&f);
}

/* Connections are kept within a lane and not shared between lanes. */
Test(http_client, lanes_have_their_own_connections)
{
    struct fixture f;
    struct call call = {0}, stuck = {.req = {.lane = 2}};

    fixture_init(&f);
    for (int i = 0; i < 10; i++) {
        perform(&f, &call, "POST");
    }
    cr_assert(http_stub_connections(f.stub) == 1);
    call.req.lane = 1;
    perform(&f, &call, "POST");
    cr_assert(http_stub_connections(f.stub) == 2);
    f.serve = serve_nothing;
    cr_assert(start(&f, &stuck, "POST") == 0);
    while (http_stub_requests(f.stub) < 12) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    f.serve = serve_ok;
    perform(&f, &call, "POST");
    cr_assert(call.status == 0 && stuck.done_count == 0);
    cr_assert(http_stub_connections(f.stub) == 3);
    fixture_close(&f);
    cr_assert(stuck.done_count == 1 && stuck.status == OTR_CANCELED);
}

Test(http_client, many_at_once)
{
    static struct call calls[50];
    struct fixture f;

    fixture_init(&f);
    for (int i = 0; i < 50; i++) {
        cr_assert(start(&f, &calls[i], "POST") == 0);
    }
    for (int i = 0; i < 50; i++) {
        await(&f, &calls[i]);
        cr_assert(calls[i].status == 0 && calls[i].done_count == 1);
    }
    fixture_close(&f);
}

/* What finds no connection free waits for one, whatever becomes of those before it: answered, hung up, cancelled, too
 * late. */
Test(http_client, so_many_connections_and_no_more)
{
    enum { CALLS = 20, CONNECTIONS = 3 };
    static struct call calls[CALLS];
    struct http_client_config config = {.connections_max = CONNECTIONS};
    struct otr_errmsg msg = {0};
    struct fixture f;
    unsigned late = 0;

    fixture_init(&f);
    http_client_close(f.client, on_client_closed, &f);
    while (!f.closed) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    f.closed = false;
    cr_assert(http_client_new(&f.client, &f.loop, &config, &msg) == 0);
    for (int i = 0; i < CALLS; i++) {
        cr_assert(start(&f, &calls[i], "POST") == 0);
    }
    for (int i = 0; i < CALLS; i++) {
        await(&f, &calls[i]);
        cr_assert(calls[i].status == 0 && calls[i].done_count == 1);
    }
    cr_assert(http_stub_connections(f.stub) == CONNECTIONS);
    /* Nobody answers: those that have a connection and those that wait end at their time, and two by being cancelled.
     */
    f.serve = serve_nothing;
    memset(calls, 0, sizeof calls);
    for (int i = 0; i < CALLS; i++) {
        calls[i].req.timeout_ms = 200;
        cr_assert(start(&f, &calls[i], "POST") == 0);
    }
    http_client_cancel(f.client, &calls[0].req);
    http_client_cancel(f.client, &calls[CALLS - 1].req);
    for (int i = 0; i < CALLS; i++) {
        await(&f, &calls[i]);
        late += calls[i].status == (calls[i].sent ? OTR_TIMEOUT : OTR_UNREACHABLE);
        cr_assert(calls[i].done_count == 1);
    }
    cr_assert(late == CALLS - 2);
    cr_assert(calls[0].status == OTR_CANCELED && calls[CALLS - 1].status == OTR_CANCELED);
    /* And closing ends those that wait, too. */
    memset(calls, 0, sizeof calls);
    for (int i = 0; i < CALLS; i++) {
        cr_assert(start(&f, &calls[i], "POST") == 0);
    }
    fixture_close(&f);
    for (int i = 0; i < CALLS; i++) {
        cr_assert(calls[i].done_count == 1 && calls[i].status == OTR_CANCELED);
    }
}

/* Nobody listens: certainly nothing was sent. */
Test(http_client, refused)
{
    struct fixture f;
    struct call call = {0};
    char url[64];

    fixture_init(&f);
    snprintf(url, sizeof url, "%s/", http_stub_url(f.stub));
    http_stub_close(f.stub);
    uv_run(&f.loop, UV_RUN_NOWAIT);
    call = (struct call){.f = &f, .req = {.method = "POST", .url = url, .body = "x", .body_bytes = 1, .data = &call}};
    cr_assert(http_client_start(f.client, &call.req, done) == 0);
    await(&f, &call);
    cr_assert(call.status == OTR_UNREACHABLE && call.refused && !call.sent && call.http_status == 0);
    cr_assert(strstr(call.text, url) != NULL, "the message names the address: %s", call.text);
    f.stub = http_stub_new(&f.loop, on_request, &f);
    fixture_close(&f);
}

/* Silence after the request has left: its outcome is unknown. */
Test(http_client, time_out)
{
    struct fixture f;
    struct call call = {.req = {.timeout_ms = 100}};

    fixture_init(&f);
    f.serve = serve_nothing;
    perform(&f, &call, "POST");
    cr_assert(call.status == OTR_TIMEOUT && call.sent && !call.refused);
    fixture_close(&f);
}

Test(http_client, hung_up_before_the_answer)
{
    struct fixture f;
    struct call call = {0};

    fixture_init(&f);
    f.serve = serve_hang_up;
    perform(&f, &call, "POST");
    cr_assert(call.status == OTR_UNREACHABLE && call.sent && !call.refused, "%s", call.text);
    cr_assert(http_stub_requests(f.stub) == 1);
    fixture_close(&f);
}

/* On a kept connection that breaks under it a POST is not repeated: the first copy may have been carried out. */
Test(http_client, post_is_never_sent_twice)
{
    struct fixture f;
    struct call call = {.req = {.body = "{}", .body_bytes = 2}};

    fixture_init(&f);
    f.serve = serve_once;
    perform(&f, &call, "POST");
    cr_assert(call.status == 0);
    perform(&f, &call, "POST");
    cr_assert(call.status == OTR_UNREACHABLE && call.sent, "%s", call.text);
    cr_assert(http_stub_requests(f.stub) == 2);
    call.req.body_bytes = 0;
    perform(&f, &call, "PUT");
    cr_assert(http_stub_requests(f.stub) == 3);
    fixture_close(&f);
}

/* A connection that broke while it was idle harms nobody. */
Test(http_client, stale_connection_is_replaced)
{
    struct fixture f;
    struct call call = {0};

    fixture_init(&f);
    perform(&f, &call, "POST");
    http_stub_hang_up(f.conn);
    for (int i = 0; i < 5; i++) {
        uv_run(&f.loop, UV_RUN_NOWAIT);
    }
    perform(&f, &call, "POST");
    cr_assert(call.status == 0 && http_stub_connections(f.stub) == 2, "%s", call.text);
    fixture_close(&f);
}

static void serve_short(void *data, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    static const char bytes[] = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this";

    (void)data;
    (void)req;
    http_stub_raw(conn, bytes, sizeof bytes - 1);
    http_stub_hang_up(conn);
}

static void serve_garbage(void *data, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    static const char bytes[] = "\x16\x03\x01 no HTTP at all\r\n\r\n";

    (void)data;
    (void)req;
    http_stub_raw(conn, bytes, sizeof bytes - 1);
    http_stub_hang_up(conn);
}

static size_t head_cut;

/* The first head_cut bytes of an answer whose body is empty: nothing but its end is missing. */
static void serve_head(void *data, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    static const char bytes[] = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 0\r\n\r\n";

    (void)data;
    (void)req;
    http_stub_raw(conn, bytes, head_cut < sizeof bytes - 1 ? head_cut : sizeof bytes - 1);
    http_stub_hang_up(conn);
}

Test(http_client, a_head_that_is_cut_off_is_no_answer)
{
    struct fixture f;
    struct call call = {0};

    fixture_init(&f);
    f.serve = serve_head;
    for (head_cut = 1; head_cut < 68; head_cut++) {
        perform(&f, &call, "POST");
        cr_assert(call.status == OTR_PROTO || call.status == OTR_UNREACHABLE, "cut at %zu", head_cut);
    }
    head_cut = SIZE_MAX;
    perform(&f, &call, "POST");
    cr_assert(call.status == 0, "%s", call.text);
    fixture_close(&f);
}

Test(http_client, cut_short_and_garbage)
{
    struct fixture f;
    struct call call = {0};

    fixture_init(&f);
    f.serve = serve_short;
    perform(&f, &call, "POST");
    cr_assert(call.status == OTR_PROTO && call.sent, "%s", call.text);
    f.serve = serve_garbage;
    perform(&f, &call, "POST");
    cr_assert(call.status == OTR_PROTO && call.sent, "%s", call.text);
    fixture_close(&f);
}

static void serve_big(void *data, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    static char body[10001];

    (void)data;
    (void)req;
    memset(body, 'b', sizeof body - 1);
    http_stub_answer(conn, 200, body);
}

Test(http_client, body_has_a_limit)
{
    struct fixture f;
    struct call call = {.req = {.response_bytes_max = 10000}};

    fixture_init(&f);
    f.serve = serve_big;
    perform(&f, &call, "GET");
    cr_assert(call.status == 0 && call.body_bytes == 10000);
    call.req.response_bytes_max = 9999;
    perform(&f, &call, "GET");
    cr_assert(call.status == OTR_TOOBIG, "%s", call.text);
    fixture_close(&f);
}

/* A stream hands over its pieces as they come. */
Test(http_client, streams)
{
    static const char head[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    struct fixture f;
    struct call call = {.req = {.on_data = on_data}};

    fixture_init(&f);
    f.serve = serve_nothing;
    cr_assert(start(&f, &call, "POST") == 0);
    while (f.conn == NULL) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    http_stub_raw(f.conn, head, sizeof head - 1);
    for (unsigned i = 1; i <= 3; i++) {
        http_stub_raw(f.conn, "5\r\nhello\r\n", 10);
        while (call.data_bytes < 5 * i) {
            uv_run(&f.loop, UV_RUN_ONCE);
        }
        cr_assert(call.data_count == i && call.done_count == 0);
    }
    http_stub_raw(f.conn, "0\r\n\r\n", 5);
    await(&f, &call);
    cr_assert(call.status == 0 && call.body_bytes == 0 && call.data_bytes == 15);
    fixture_close(&f);
}

static int data_refuse(struct call *call)
{
    (void)call;
    return 1;
}

static int data_cancel(struct call *call)
{
    http_client_cancel(call->f->client, &call->req);
    http_client_cancel(call->f->client, &call->req);
    return 0;
}

static struct call inner;

static int data_start_another(struct call *call)
{
    if (call->data_count == 1) {
        cr_assert(http_client_start(call->f->client, &inner.req, done) == 0);
    }
    return 0;
}

/* From inside on_data the transfer can be ended, and others of the same lane can be started. */
Test(http_client, calls_from_inside_on_data)
{
    struct fixture f;
    struct call call = {.req = {.on_data = on_data}, .on_data = data_refuse};
    char url[64];

    fixture_init(&f);
    perform(&f, &call, "GET");
    cr_assert(call.status == OTR_CANCELED && call.data_count == 1);
    call.on_data = data_cancel;
    perform(&f, &call, "GET");
    cr_assert(call.status == OTR_CANCELED && call.done_count == 1);
    call.on_data = data_start_another;
    call.data_count = 0;
    snprintf(url, sizeof url, "%s/inner", http_stub_url(f.stub));
    inner = (struct call){.f = &f, .req = {.method = "POST", .url = url, .data = &inner}};
    perform(&f, &call, "GET");
    await(&f, &inner);
    cr_assert(call.status == 0 && inner.status == 0 && inner.done_count == 1, "%s", inner.text);
    fixture_close(&f);
}

Test(http_client, cancel)
{
    struct fixture f;
    struct call call = {0};

    fixture_init(&f);
    f.serve = serve_nothing;
    cr_assert(start(&f, &call, "POST") == 0);
    f.in_call = true;
    http_client_cancel(f.client, &call.req);
    http_client_cancel(f.client, &call.req);
    f.in_call = false;
    await(&f, &call);
    cr_assert(call.status == OTR_CANCELED && !call.sent);
    cr_assert(start(&f, &call, "POST") == 0);
    while (f.conn == NULL) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    http_client_cancel(f.client, &call.req);
    await(&f, &call);
    cr_assert(call.status == OTR_CANCELED && call.sent);
    http_client_cancel(f.client, &call.req); /* Over already: nothing happens. */
    fixture_close(&f);
    cr_assert(call.done_count == 1);
}

static void then_start_again(struct call *call)
{
    static unsigned rounds;

    if (++rounds < 20) {
        cr_assert(start(call->f, call, "POST") == 0);
    }
}

static void then_close(struct call *call)
{
    http_client_close(call->f->client, on_client_closed, call->f);
    cr_assert(start(call->f, &inner, "POST") != 0, "closing takes nothing new");
    call->f->client = NULL;
}

/* In `done` the request is the caller's again: it may start it anew, or close everything. */
Test(http_client, calls_from_inside_done)
{
    struct fixture f;
    struct call call = {.then = then_start_again}, other = {0};

    fixture_init(&f);
    cr_assert(start(&f, &call, "POST") == 0);
    while (http_stub_requests(f.stub) < 20 || call.done_count == 0) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    call.then = then_close;
    cr_assert(start(&f, &call, "POST") == 0);
    cr_assert(start(&f, &other, "POST") == 0);
    fixture_close(&f);
    cr_assert(call.done_count == 1 && other.done_count == 1);
}

Test(http_client, close_cancels_everything)
{
    static struct call calls[20];
    struct fixture f;

    fixture_init(&f);
    f.serve = serve_nothing;
    for (unsigned i = 0; i < 20; i++) {
        calls[i].req.lane = i % 3;
        cr_assert(start(&f, &calls[i], "POST") == 0);
        uv_run(&f.loop, i % 2 == 0 ? UV_RUN_NOWAIT : UV_RUN_ONCE);
    }
    fixture_close(&f);
    for (int i = 0; i < 20; i++) {
        cr_assert(calls[i].done_count == 1 && calls[i].status == OTR_CANCELED);
    }
}

/* The environment's proxies are for others. */
Test(http_client, proxies_are_ignored)
{
    struct fixture f;
    struct call call = {0};

    setenv("http_proxy", "http://127.0.0.1:1", 1);
    setenv("all_proxy", "http://127.0.0.1:1", 1);
    fixture_init(&f);
    perform(&f, &call, "GET");
    cr_assert(call.status == 0, "%s", call.text);
    fixture_close(&f);
}

Test(http_client, bad_input)
{
    struct http_client_config config = {.ca_file = "/nonexistent/ca.pem"};
    struct otr_errmsg msg = {0};
    struct http_client *client;
    struct fixture f;
    struct call call = {.req = {.method = "GET", .url = "ftp://127.0.0.1/"}};

    fixture_init(&f);
    cr_assert(http_client_start(f.client, &call.req, done) == OTR_INVALID);
    call.req.url = "file:///etc/passwd";
    cr_assert(http_client_start(f.client, &call.req, done) == OTR_INVALID);
    call.req.url = "";
    cr_assert(http_client_start(f.client, &call.req, done) == OTR_INVALID);
    cr_assert(http_client_new(&client, &f.loop, &config, &msg) == OTR_INVALID);
    cr_assert(strstr(msg.text, "/nonexistent/ca.pem") != NULL);
    /* TLS with somebody who speaks none. */
    call = (struct call){.f = &f, .req = {.method = "POST", .data = &call, .timeout_ms = 1000}};
    char url[64];
    snprintf(url, sizeof url, "https%s/", http_stub_url(f.stub) + 4);
    call.req.url = url;
    cr_assert(http_client_start(f.client, &call.req, done) == 0);
    await(&f, &call);
    cr_assert(call.status == OTR_UNREACHABLE && !call.sent, "%s", call.text);
    fixture_close(&f);
}
