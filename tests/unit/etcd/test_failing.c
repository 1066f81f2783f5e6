/* Every allocation (those of JSON included) and every other call fails once: each request is called back once, the
 * session and the watch go on, nothing is left over, and "not done" is only said of what was not. */
#include "outrigger/backend.h"

#include "tests/lib/fail_calls.h"
#include "tests/lib/http_stub.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADER "\"header\":{\"cluster_id\":\"7\",\"revision\":\"21\"}"
/* Keys "k/a" and "k/b" with the values "1" and "2". */
#define KV_A "{\"key\":\"ay9h\",\"create_revision\":\"3\",\"mod_revision\":\"3\",\"version\":\"1\",\"value\":\"MQ==\"}"
#define KV_B                                                                                                    \
    "{\"key\":\"ay9i\",\"create_revision\":\"4\",\"mod_revision\":\"21\",\"version\":\"1\",\"value\":\"Mg==\"," \
    "\"lease\":\"5\"}"

TestSuite(failing, .timeout = 200);

struct world {
    uv_loop_t loop;
    struct http_stub *stub;
    struct otr_backend *b;
    bool closed;
    unsigned txns; /* that the server has done */
    unsigned events;
    bool open, lost, revoked;
};

static void serve(void *data, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    static const struct {
        const char *path, *answer;
    } answers[] = {
        {"/v3/kv/txn", "{" HEADER ",\"succeeded\":true}"},
        {"/v3/kv/range", "{" HEADER ",\"kvs\":[" KV_A "," KV_B "],\"count\":\"2\"}"},
        {"/v3/lease/grant", "{" HEADER ",\"ID\":\"5\",\"TTL\":\"1\"}"},
        {"/v3/lease/keepalive", "{\"result\":{" HEADER ",\"ID\":\"5\",\"TTL\":\"1\"}}"},
        {"/v3/lease/revoke", "{" HEADER "}"},
        {"/v3/auth/authenticate", "{" HEADER ",\"token\":\"t\"}"},
        {"/v3/lease/timetolive", "{" HEADER ",\"ID\":\"5\",\"TTL\":\"1\",\"grantedTTL\":\"1\"}"},
    };
    static const char watching[] =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"result\":{" HEADER ",\"created\":true}}\n";
    static const char event[] = "{\"result\":{" HEADER ",\"events\":[{\"kv\":" KV_B "}]}}\n";
    struct world *w = data;

    if (strcmp(req->path, "/v3/watch") == 0) {
        http_stub_raw(conn, watching, sizeof watching - 1);
        if (strstr(req->body, "\"start_revision\":\"20\"") != NULL) { /* not again to who has seen it */
            http_stub_raw(conn, event, sizeof event - 1);
        }
        return;
    }
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        if (strcmp(req->path, answers[i].path) == 0) {
            w->txns += strcmp(req->path, "/v3/kv/txn") == 0;
            w->revoked = w->revoked || strcmp(req->path, "/v3/lease/revoke") == 0;
            http_stub_answer(conn, 200, answers[i].answer);
            return;
        }
    }
    http_stub_answer(conn, 404, "{\"code\":5, \"message\":\"nothing here\"}");
}

#define AWAIT(w, condition)                                                                               \
    do {                                                                                                  \
        uint64_t until_ = uv_hrtime() + 10000000000ULL;                                                   \
        while (!(condition)) {                                                                            \
            cr_assert(uv_hrtime() < until_, "%s: never, after %s failed", #condition, fail_calls_name()); \
            turn(w);                                                                                      \
        }                                                                                                 \
    } while (0)

static void on_wake(uv_timer_t *timer)
{
    (void)timer;
}

/* A turn of the loop, of 20 ms at most. */
static void turn(struct world *w)
{
    uv_timer_t timer;

    uv_timer_init(&w->loop, &timer);
    uv_timer_start(&timer, on_wake, 20, 0);
    uv_run(&w->loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&timer, NULL);
    uv_run(&w->loop, UV_RUN_NOWAIT);
}

struct outcome {
    unsigned count;
    int status;
    size_t kvs;
};

static void on_get(struct otr_get_req *req, int status, const struct otr_get_result *result,
                   const struct otr_errmsg *msg)
{
    struct outcome *o = req->data;

    cr_assert(eq(int, status != 0, msg->text[0] != '\0'));
    o->count++;
    o->status = status;
    o->kvs = status == 0 ? result->kvs_count : 0;
}

static void on_txn(struct otr_txn_req *req, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    struct outcome *o = req->data;

    (void)revision;
    cr_assert(eq(int, status != 0, msg->text[0] != '\0'));
    o->count++;
    o->status = status;
}

static void on_simple(struct otr_simple_req *req, int status, const struct otr_errmsg *msg)
{
    struct outcome *o = req->data;

    (void)msg;
    o->count++;
    o->status = status;
}

static void on_session(struct otr_session *session, enum otr_session_state state, const struct otr_errmsg *msg)
{
    struct world *w = session->data;

    (void)msg;
    w->open = w->open || state == OTR_SESSION_OPEN;
    w->lost = w->lost || state == OTR_SESSION_LOST;
}

static void on_watch(struct otr_watch *watch, int status, const struct otr_watch_event *event,
                     const struct otr_errmsg *msg)
{
    struct world *w = watch->data;

    (void)msg;
    cr_assert(status == 0 || status == OTR_CANCELED, "%s", otr_errname(status));
    w->events += status == 0 && event->type == OTR_WATCH_PUT && strcmp(event->kv.key, "k/b") == 0;
}

static void on_closed(struct otr_backend *b)
{
    ((struct world *)b->data)->closed = true;
}

static void ask(struct world *w)
{
    struct otr_op op = {.type = OTR_OP_PUT, .key = "k/a", .value = "v", .value_bytes = 1};
    struct otr_compare compare = {.type = OTR_COMPARE_ABSENT, .key = "k/a"};
    struct otr_txn txn = {.compares = &compare, .compares_count = 1, .ops = &op, .ops_count = 1};
    struct outcome got = {0};
    struct outcome done = {0};
    struct otr_get_req get = {.data = &got};
    struct otr_txn_req put = {.data = &done};
    int rv = w->b->ops->get(w->b, &get, "k/", on_get);

    cr_assert(rv == 0 || rv == OTR_NOMEM, "%s", otr_errname(rv));
    if (rv == 0) {
        AWAIT(w, got.count > 0);
        cr_assert(got.status != 0 || got.kvs == 2);
        cr_assert(got.status == 0 || fail_calls_name()[0] != '\0');
    }
    rv = w->b->ops->txn(w->b, &put, &txn, on_txn);
    cr_assert(rv == 0 || rv == OTR_NOMEM, "%s", otr_errname(rv));
    if (rv == 0) {
        AWAIT(w, done.count > 0);
        cr_assert(done.status != 0 || w->txns == 1);
        cr_assert(le(uint, w->txns, 1), "sent twice");
        cr_assert(not(w->txns == 1 && done.status != 0 && done.status != OTR_UNKNOWN),
                  "done, and told %s after %s failed", otr_errname(done.status), fail_calls_name());
    }
}

/* Session and watch have no end of their own: whatever fails, they get there. */
static void stay(struct world *w)
{
    struct otr_session session = {.data = w};
    struct otr_watch watch = {.data = w};
    struct outcome ended = {0};
    struct otr_simple_req req = {.data = &ended};
    int opened = w->b->ops->session_open(w->b, &session, 1000, on_session);
    int watched = w->b->ops->watch(w->b, &watch, "k/", 20, on_watch);

    if (opened == 0) {
        AWAIT(w, w->open);
        cr_assert(not(w->lost));
    }
    if (watched == 0) {
        AWAIT(w, w->events > 0);
        w->b->ops->watch_stop(w->b, &watch);
        cr_assert(eq(uint, w->events, 1));
    }
    if (opened == 0 && w->b->ops->session_close(w->b, &session, &req, on_simple) == 0) {
        AWAIT(w, ended.count > 0);
        cr_assert(not(ended.status == 0 && !w->revoked));
    }
}

struct plan {
    void (*use)(struct world *w);
    const char *password_file; /* NULL: no user */
};

static void life(void *data)
{
    const struct plan *plan = data;
    struct otr_backend_config config = {.request_timeout_ms = 300};
    struct otr_errmsg msg = {0};
    struct world w = {0};
    int rv;

    uv_loop_init(&w.loop);
    w.stub = http_stub_new(&w.loop, serve, &w);
    config.loop = &w.loop;
    config.endpoints = http_stub_url(w.stub);
    config.user = plan->password_file != NULL ? "u" : NULL;
    config.password_file = plan->password_file;
    rv = otr_backend_etcd.open(&w.b, &config, &msg);
    cr_assert(rv == 0 || (fail_calls_name()[0] != '\0' && msg.text[0] != '\0'), "%s %s", otr_errname(rv), msg.text);
    if (rv == 0) {
        plan->use(&w);
        otr_backend_etcd.close(w.b, on_closed, &w);
        AWAIT(&w, w.closed);
    }
    http_stub_close(w.stub);
    uv_run(&w.loop, UV_RUN_DEFAULT);
    cr_assert(eq(int, uv_loop_close(&w.loop), 0), "something is left on the loop after %s failed", fail_calls_name());
}

Test(failing, get_and_txn)
{
    cr_assert(gt(uint, fail_each(life, &(struct plan){.use = ask}), 60));
}

Test(failing, session_and_watch)
{
    cr_assert(gt(uint, fail_each(life, &(struct plan){.use = stay}), 60));
}

Test(failing, with_a_password)
{
    char path[] = "/tmp/outrigger-pw-XXXXXX";
    int fd = mkstemp(path);

    cr_assert(fd >= 0 && write(fd, "secret\n", 7) == 7 && close(fd) == 0);
    cr_assert(gt(uint, fail_each(life, &(struct plan){.use = ask, .password_file = path}), 60));
    unlink(path);
}
