/* Every allocation and every other call fails once: what was begun ends all the same, and nothing is left over. */
#include "sidecar/io/http_client.h"
#include "sidecar/io/metrics.h"
#include "tests/lib/fail_calls.h"
#include "tests/lib/http_stub.h"
#include "tls_lab.h"

#include <stdio.h>
#include <string.h>

TestSuite(failing, .timeout = 120);

/* --- HTTP client -------------------------------------------------------------------------------------------------- */

struct exchange {
    struct http_request req;
    bool started, done;
    int status;
    size_t streamed;
};

static void serve(void *data, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    static char large[20000];

    (void)data;
    memset(large, 'x', sizeof large - 1);
    http_stub_answer(conn, 200, strcmp(req->path, "/large") == 0 ? large : "fine");
}

static void on_done(struct http_request *req, int status, const struct http_response *response,
                    const struct otr_errmsg *msg)
{
    struct exchange *e = req->data;

    cr_assert(not(e->done), "called back twice");
    cr_assert(eq(int, status == 0, msg->text[0] == '\0'));
    cr_assert(status != 0 || response->status == 200);
    e->done = true;
    e->status = status;
}

static int on_data(struct http_request *req, const char *data, size_t bytes)
{
    struct exchange *e = req->data;

    (void)data;
    e->streamed += bytes;
    return 0;
}

static void request(struct http_client *client, uv_loop_t *loop, const struct http_stub *stub, const char *path,
                    struct exchange *e)
{
    static const char *const headers[] = {"Content-Type: application/json", "X-A: 1", NULL};
    uint64_t until = uv_hrtime() + 10000000000ULL;
    char url[100];
    int rv;

    snprintf(url, sizeof url, "%s%s", http_stub_url(stub), path);
    e->req.url = url;
    e->req.headers = headers;
    e->req.timeout_ms = 5000;
    e->req.data = e;
    rv = http_client_start(client, &e->req, on_done);
    cr_assert(rv == 0 || rv == OTR_NOMEM);
    while (rv == 0 && !e->done) {
        cr_assert(lt(u64, uv_hrtime(), until), "no end after %s failed", fail_calls_name());
        uv_run(loop, UV_RUN_ONCE);
    }
    cr_assert(e->status == 0 || e->status == OTR_NOMEM || e->status == OTR_UNREACHABLE, "%s", otr_strerror(e->status));
}

static void set_true(void *data)
{
    *(bool *)data = true;
}

static void client_life(void *data)
{
    struct exchange get = {.req = {.method = "GET"}};
    struct exchange post = {.req = {.method = "POST", .body = "{}", .body_bytes = 2, .lane = 1}};
    struct exchange stream = {.req = {.method = "GET", .on_data = on_data}};
    struct exchange again = {.req = {.method = "PUT", .body = "x", .body_bytes = 1}};
    struct http_client_config config = {0};
    struct http_client *client;
    struct otr_errmsg msg = {0};
    struct http_stub *stub;
    bool closed = false;
    uv_loop_t loop;
    int rv;

    (void)data;
    uv_loop_init(&loop);
    stub = http_stub_new(&loop, serve, NULL);
    rv = http_client_new(&client, &loop, &config, &msg);
    if (rv == 0) {
        request(client, &loop, stub, "/a", &get);
        request(client, &loop, stub, "/large", &post);
        request(client, &loop, stub, "/large", &stream);
        request(client, &loop, stub, "/b", &again);
        /* One failure harms one request. */
        cr_assert(le(int,
                     (!get.done || get.status != 0) + (!post.done || post.status != 0) +
                         (!stream.done || stream.status != 0) + (!again.done || again.status != 0),
                     1),
                  "after %s failed", fail_calls_name());
        http_client_close(client, set_true, &closed);
    } else {
        cr_assert(eq(int, rv, OTR_NOMEM));
        closed = true;
    }
    http_stub_close(stub);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert(closed);
    cr_assert(eq(int, uv_loop_close(&loop), 0), "something is left on the loop after %s failed", fail_calls_name());
}

Test(failing, http_client)
{
    cr_assert(gt(uint, fail_each(client_life, NULL), 30));
}

/* --- TLS ---------------------------------------------------------------------------------------------------------- */

/* The files are there already. True: it was opened. */
static bool identity_load(struct identity *i, const char *name)
{
    struct otr_errmsg msg = {0};
    int rv;

    identity_paths(i, name);
    rv = identity_try(i, NULL, &msg);
    cr_assert(eq(int, rv != 0, msg.text[0] != '\0'), "an error without words after %s failed", fail_calls_name());
    return rv == 0;
}

static void talk(struct identity *a, struct identity *b)
{
    struct end client = {0};
    struct end server = {0};
    uv_buf_t buf = uv_buf_init("hello", 5);
    struct otr_errmsg msg = {0};
    int rv = tls_session_new(&client.s, a->tls, TLS_CLIENT, &any_node_of_test, &msg);

    if (rv == 0) {
        rv = tls_session_new(&server.s, b->tls, TLS_SERVER, &any_node_of_test, &msg);
    }
    if (rv == 0) {
        pump(&client, &server, SIZE_MAX / 2);
        rv = client.rv != 0 ? client.rv : server.rv;
    }
    if (rv == 0) {
        cr_assert(tls_session_ready(client.s) && tls_session_ready(server.s));
        rv = tls_session_write(client.s, &buf, 1, &msg);
        pump(&client, &server, SIZE_MAX / 2);
        rv = rv != 0 ? rv : client.rv != 0 ? client.rv : server.rv;
    }
    if (rv == 0) {
        cr_assert(end_has(&server, "hello"));
        tls_session_close(client.s);
        pump(&client, &server, SIZE_MAX / 2);
    }
    cr_assert(rv == 0 || fail_calls_name()[0] != '\0', "%s %s %s", otr_strerror(rv), client.msg.text, server.msg.text);
    end_close(&client);
    end_close(&server);
}

static void tls_life(void *data)
{
    struct identity a, b;

    (void)data;
    if (identity_load(&a, "a")) {
        if (identity_load(&b, "b")) {
            talk(&a, &b);
            identity_close(&b);
        }
        identity_close(&a);
    }
    uv_run(tls_lab_loop, UV_RUN_NOWAIT);
}

Test(failing, tls, .init = tls_lab_begin, .fini = tls_lab_finish)
{
    struct identity a, b;

    node_identity(&a, "a");
    node_identity(&b, "b");
    identity_close(&a);
    identity_close(&b);
    cr_assert(gt(uint, fail_each(tls_life, NULL), 10));
}
