/* The backend against a scripted server: what real servers do rarely, late, or in another version only. */
#include "outrigger/backend.h"

#include "tests/lib/http_stub.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEADER "\"header\":{\"cluster_id\":\"17121211910768078140\",\"revision\":\"20\"}"
#define OK     "{" HEADER "}"

struct fixture {
    uv_loop_t loop;
    struct http_stub *stubs[2];
    struct otr_backend *b;
    bool closed;
    void (*serve)(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req);
    char log[4096];        /* paths in the order in which they came, first server in capitals: "R" range, ... */
    char first_body[1024]; /* of a grant */
    char watch_body[1024]; /* of the last watch */
    struct http_stub_conn *watch_conn;
    unsigned grants_count, keepalives_count, ranges_count, txns_count, watches_count;
};

static void note(struct fixture *f, const struct http_stub_request *req)
{
    static const struct {
        const char *path;
        char letter;
    } names[] = {{"/v3/kv/range", 'r'},        {"/v3/kv/txn", 't'},       {"/v3/lease/grant", 'g'},
                 {"/v3/lease/keepalive", 'k'}, {"/v3/lease/revoke", 'x'}, {"/v3/watch", 'w'}};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(req->path, names[i].path) == 0 && strlen(f->log) + 1 < sizeof f->log) {
            f->log[strlen(f->log)] = names[i].letter;
            f->grants_count += names[i].letter == 'g';
            f->keepalives_count += names[i].letter == 'k';
            f->ranges_count += names[i].letter == 'r';
            f->txns_count += names[i].letter == 't';
            f->watches_count += names[i].letter == 'w';
        }
    }
    if (strcmp(req->path, "/v3/lease/grant") == 0 && f->first_body[0] == '\0') {
        snprintf(f->first_body, sizeof f->first_body, "%s", req->body);
    }
    if (strcmp(req->path, "/v3/watch") == 0) {
        snprintf(f->watch_body, sizeof f->watch_body, "%s", req->body);
    }
}

static void on_request(void *data, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    struct fixture *f = data;

    cr_assert(strcmp(req->method, "POST") == 0);
    cr_assert(strstr(req->head, "\r\nGrpc-Metadata-hasleader: true\r\n") != NULL, "on everything");
    note(f, req);
    f->serve(f, conn, req);
}

static void fixture_init(struct fixture *f, void (*serve)(struct fixture *f, struct http_stub_conn *conn,
                                                          const struct http_stub_request *req))
{
    struct otr_backend_config config = {.loop = &f->loop, .request_timeout_ms = 300};
    struct otr_errmsg msg = {0};
    char endpoints[128];

    memset(f, 0, sizeof *f);
    f->serve = serve;
    uv_loop_init(&f->loop);
    f->stubs[0] = http_stub_new(&f->loop, on_request, f);
    f->stubs[1] = http_stub_new(&f->loop, on_request, f);
    snprintf(endpoints, sizeof endpoints, " %s/ ,, %s,", http_stub_url(f->stubs[0]), http_stub_url(f->stubs[1]));
    config.endpoints = endpoints;
    cr_assert(otr_backend_etcd.open(&f->b, &config, &msg) == 0, "%s", msg.text);
}

static void on_closed(struct otr_backend *b)
{
    ((struct fixture *)b->data)->closed = true;
}

static void fixture_close(struct fixture *f)
{
    otr_backend_etcd.close(f->b, on_closed, f);
    while (!f->closed) {
        uv_run(&f->loop, UV_RUN_ONCE);
    }
    http_stub_close(f->stubs[0]);
    http_stub_close(f->stubs[1]);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    cr_assert(uv_loop_close(&f->loop) == 0);
}

#define AWAIT(f, condition)              \
    while (!(condition)) {               \
        uv_run(&(f)->loop, UV_RUN_ONCE); \
    }

static bool is(const struct http_stub_request *req, const char *path)
{
    return strcmp(req->path, path) == 0;
}

TestSuite(etcd, .timeout = 30);

/* --- configuration ---------------------------------------------------------------------------------------------- */

Test(etcd, configuration_is_checked)
{
    static const char *const bad[] = {NULL,          "",         " , ",           "localhost:2379",     "ftp://a:1",
                                      "http://",     "https://", "http://a:1/v3", "http://user:pw@a:1", "http://a:1?x",
                                      "http://a b:1"};
    uv_loop_t loop;
    struct otr_backend *b;

    uv_loop_init(&loop);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct otr_backend_config config = {.loop = &loop, .endpoints = bad[i]};
        struct otr_errmsg msg = {0};

        cr_assert(otr_backend_etcd.open(&b, &config, &msg) == OTR_INVALID, "%s", bad[i]);
        cr_assert(strncmp(msg.text, "etcd: ", 6) == 0 && strlen(msg.text) > 10);
    }
    struct otr_backend_config config;
    struct otr_errmsg msg = {0};

    config = (struct otr_backend_config){.loop = &loop, .endpoints = "https://a:1", .ca_file = "/no/such/file"};
    cr_assert(otr_backend_etcd.open(&b, &config, &msg) == OTR_INVALID);
    cr_assert(strstr(msg.text, "/no/such/file") != NULL);
    cr_assert(uv_loop_close(&loop) == 0);
}

/* --- transactions ----------------------------------------------------------------------------------------------- */

struct outcome {
    unsigned calls_count;
    int status;
    char text[OTR_ERRMSG_MAX];
};

static void on_txn(struct otr_txn_req *req, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    struct outcome *outcome = req->data;

    (void)revision;
    outcome->calls_count++;
    outcome->status = status;
    snprintf(outcome->text, sizeof outcome->text, "%s", msg->text);
}

static const char *answer_body;
static int answer_status;

static void serve_answer(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    (void)f;
    (void)req;
    http_stub_answer(conn, answer_status, answer_body);
}

static void serve_hang_up(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    (void)f;
    (void)req;
    http_stub_hang_up(conn);
}

static int txn_status(void (*serve)(struct fixture *f, struct http_stub_conn *conn,
                                    const struct http_stub_request *req))
{
    static struct fixture f;
    struct otr_op op = {.type = OTR_OP_PUT, .key = "k", .value = "v", .value_bytes = 1};
    struct otr_txn txn = {.ops = &op, .ops_count = 1};
    struct outcome outcome = {0};
    struct otr_txn_req req = {.data = &outcome};

    fixture_init(&f, serve);
    cr_assert(otr_backend_etcd.txn(f.b, &req, &txn, on_txn) == 0);
    AWAIT(&f, outcome.calls_count > 0);
    cr_assert(outcome.calls_count == 1);
    cr_assert(f.txns_count == 1, "never sent twice: %s", f.log);
    cr_assert((outcome.status == 0) == (outcome.text[0] == '\0'));
    fixture_close(&f);
    return outcome.status;
}

/* What each answer means for a transaction; and none is worth a second attempt. */
Test(etcd, txn_answers)
{
    static const struct {
        int http;
        const char *body;
        int status;
    } answers[] = {
        {200, "{" HEADER ",\"succeeded\":true}", 0},
        {200, OK, OTR_CONFLICT},
        {200, "", OTR_UNKNOWN},
        {200, "[]", OTR_UNKNOWN},
        {200, "{\"header\":", OTR_UNKNOWN},
        {404, "{\"error\":\"x\",\"message\":\"x\",\"code\":5}", OTR_SESSION},
        {404, "{\"code\":5, \"message\":\"x\"}", OTR_SESSION},
        {403, "{\"code\":7, \"message\":\"x\"}", OTR_DENIED},
        {401, "{\"error\":\"x\",\"code\":16}", OTR_DENIED},
        {400, "{\"error\":\"duplicate key\",\"code\":3}", OTR_INVALID},
        {429, "{\"error\":\"space\",\"code\":8}", OTR_NOSPACE},
        {503, "{\"error\":\"request timed out\",\"code\":14}", OTR_UNKNOWN},
        {504, "{\"code\":4, \"message\":\"deadline\"}", OTR_UNKNOWN},
        {500, "{\"error\":\"deadline\",\"code\":2}", OTR_UNKNOWN},
        {404, "404 page not found\n", OTR_INVALID},
        {502, "<html>bad gateway</html>", OTR_UNKNOWN},
    };

    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        answer_status = answers[i].http;
        answer_body = answers[i].body;
        int status = txn_status(serve_answer);

        cr_assert(status == answers[i].status, "%s: %s", answers[i].body, otr_errname(status));
    }
}

static void serve_nothing(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    (void)f;
    (void)conn;
    (void)req;
}

Test(etcd, txn_without_answer)
{
    cr_assert(txn_status(serve_hang_up) == OTR_UNKNOWN);
    cr_assert(txn_status(serve_nothing) == OTR_UNKNOWN);
}

/* Where nobody listens nothing is sent: the next endpoint gets it. */
Test(etcd, txn_goes_where_somebody_listens)
{
    struct fixture f;
    struct otr_op op = {.type = OTR_OP_PUT, .key = "k", .value = "v", .value_bytes = 1};
    struct otr_txn txn = {.ops = &op, .ops_count = 1};
    struct outcome outcome = {0};
    struct otr_txn_req req = {.data = &outcome};

    fixture_init(&f, serve_answer);
    answer_status = 200;
    answer_body = "{" HEADER ",\"succeeded\":true}";
    http_stub_close(f.stubs[0]);
    uv_run(&f.loop, UV_RUN_NOWAIT);
    cr_assert(otr_backend_etcd.txn(f.b, &req, &txn, on_txn) == 0);
    AWAIT(&f, outcome.calls_count > 0);
    cr_assert(outcome.status == 0, "%s", outcome.text);
    f.stubs[0] = http_stub_new(&f.loop, on_request, &f);
    fixture_close(&f);
}

/* --- reads ------------------------------------------------------------------------------------------------------ */

static void on_get(struct otr_get_req *req, int status, const struct otr_get_result *result,
                   const struct otr_errmsg *msg)
{
    struct outcome *outcome = req->data;

    (void)msg;
    outcome->calls_count++;
    outcome->status = status;
    snprintf(outcome->text, sizeof outcome->text, "%zu", result != NULL ? result->kvs_count : 99);
}

static int get_status(struct fixture *f)
{
    struct outcome outcome = {0};
    struct otr_get_req req = {.data = &outcome};

    cr_assert(otr_backend_etcd.get(f->b, &req, "a/", on_get) == 0);
    AWAIT(f, outcome.calls_count > 0);
    return outcome.status;
}

static void serve_trouble(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    (void)req;
    switch (f->ranges_count) {
    case 1:
        http_stub_answer(conn, 503, "{\"error\":\"leader changed\",\"code\":14}");
        break;
    case 2:
        http_stub_hang_up(conn);
        break;
    case 3:
        break;
    case 4:
        http_stub_answer(conn, 200, "garbage");
        break;
    case 5:
        http_stub_answer(conn, 502, "<html>");
        break;
    default:
        http_stub_answer(conn, 200, OK);
    }
}

/* A read is repeated, elsewhere, until it works. */
Test(etcd, get_is_repeated)
{
    struct fixture f;

    fixture_init(&f, serve_trouble);
    cr_assert(get_status(&f) == 0);
    cr_assert_str_eq(f.log, "rrrrrr");
    cr_assert(http_stub_requests(f.stubs[0]) == 3 && http_stub_requests(f.stubs[1]) == 3);
    fixture_close(&f);
}

Test(etcd, get_is_denied)
{
    struct fixture f;

    fixture_init(&f, serve_answer);
    answer_status = 403;
    answer_body = "{\"code\":7, \"message\":\"permission denied\"}";
    cr_assert(get_status(&f) == OTR_DENIED);
    answer_status = 400;
    answer_body = "{\"error\":\"user name is empty\",\"code\":3}";
    cr_assert(get_status(&f) == OTR_DENIED);
    cr_assert_str_eq(f.log, "rr");
    fixture_close(&f);
}

static void serve_bad_pages(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    static const char *const bodies[] = {
        "{" HEADER ",\"kvs\":[{\"key\":\"YS9h\",\"mod_revision\":\"3\"}],\"more\":true,\"count\":\"2\"}",
        "{\"error\":\"required revision has been compacted\",\"code\":11}",
        "{" HEADER ",\"kvs\":[{\"key\":\"YS9h\",\"mod_revision\":\"3\"}],\"more\":true,\"count\":\"3\"}",
        "{" HEADER ",\"kvs\":[{\"key\":\"YS8AYg==\",\"mod_revision\":\"3\"}],\"more\":true,\"count\":\"3\"}",
        "{" HEADER ",\"kvs\":[{\"key\":\"YS9j\",\"mod_revision\":\"3\"}],\"count\":\"3\"}",
    };

    if (f->ranges_count == 4 || f->ranges_count == 5) {
        cr_assert(strstr(req->body, "\"revision\":\"20\"") != NULL, "later pages are of the first one's revision");
    } else if (f->ranges_count == 3) {
        cr_assert(strstr(req->body, "\"revision\"") == NULL);
    }
    http_stub_answer(conn, f->ranges_count == 2 ? 400 : 200, bodies[f->ranges_count - 1]);
}

/* Compacted between two pages: from the start. Other people's keys are skipped, and pages go on after them. */
Test(etcd, get_starts_anew_when_compacted)
{
    struct fixture f;
    struct outcome outcome = {0};
    struct otr_get_req req = {.data = &outcome};

    fixture_init(&f, serve_bad_pages);
    cr_assert(otr_backend_etcd.get(f.b, &req, "a/", on_get) == 0);
    AWAIT(&f, outcome.calls_count > 0);
    cr_assert(outcome.status == 0);
    cr_assert_str_eq(outcome.text, "2");
    cr_assert_str_eq(f.log, "rrrrr");
    fixture_close(&f);
}

/* --- sessions --------------------------------------------------------------------------------------------------- */

struct reports {
    struct otr_session s;
    char text[256]; /* "open unreachable ..." */
};

static void on_session(struct otr_session *s, enum otr_session_state state, const struct otr_errmsg *msg)
{
    static const char *const names[] = {"", "open ", "unreachable ", "confirmed ", "lost "};
    struct reports *reports = s->data;

    (void)msg;
    strcat(reports->text, names[state]);
}

static void id_of(const char *body, char *id)
{
    const char *start = strstr(body, "\"ID\":\"");

    cr_assert(start != NULL);
    sscanf(start + 6, "%63[0-9]", id);
}

static void serve_lost_grant(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    char first[64], id[64];

    id_of(f->first_body, first);
    id_of(req->body, id);
    cr_assert_str_eq(first, id, "the same lease all the time");
    if (is(req, "/v3/lease/grant")) {
        if (f->grants_count == 1) {
            http_stub_hang_up(conn);
        } else {
            http_stub_answer(conn, 412, "{\"error\":\"lease already exists\",\"code\":9}");
        }
    } else if (is(req, "/v3/lease/keepalive")) {
        http_stub_answer(conn, 200, "{\"result\":{" HEADER ",\"TTL\":\"7\"}}");
    } else {
        http_stub_answer(conn, 200, OK);
    }
}

/* The answer to the grant is lost, the repetition hears "already exists": that is our own lease. */
Test(etcd, session_grant_with_lost_answer)
{
    struct fixture f;
    struct reports reports = {.s.data = &reports};

    fixture_init(&f, serve_lost_grant);
    cr_assert(otr_backend_etcd.session_open(f.b, &reports.s, 5000, on_session) == 0);
    AWAIT(&f, reports.s.id[0] != '\0');
    cr_assert_str_eq(reports.text, "open ");
    cr_assert(reports.s.ttl_ms == 7000, "the TTL is what the server says");
    cr_assert_str_eq(f.log, "ggk");
    fixture_close(&f);
}

static void serve_collision(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    char first[64], id[64];

    if (is(req, "/v3/lease/grant") && f->grants_count == 1) {
        http_stub_answer(conn, 400, "{\"code\":9, \"message\":\"lease already exists\"}");
        return;
    }
    id_of(f->first_body, first);
    id_of(req->body, id);
    cr_assert_str_neq(first, id, "another id");
    http_stub_answer(conn, 200, "{" HEADER ",\"ID\":\"1\",\"TTL\":\"5\"}");
}

/* "Already exists" to the first grant of an id: somebody else's lease. */
Test(etcd, session_id_of_somebody_else)
{
    struct fixture f;
    struct reports reports = {.s.data = &reports};

    fixture_init(&f, serve_collision);
    cr_assert(otr_backend_etcd.session_open(f.b, &reports.s, 5000, on_session) == 0);
    AWAIT(&f, reports.s.id[0] != '\0');
    cr_assert_str_eq(f.log, "gg");
    fixture_close(&f);
}

static void serve_session(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    if (is(req, "/v3/lease/grant")) {
        http_stub_answer(conn, 200, "{" HEADER ",\"ID\":\"1\",\"TTL\":\"1\"}");
        return;
    }
    switch (f->keepalives_count) {
    case 1: /* garbage of all kinds is no proof of death */
        http_stub_answer(conn, 200, "");
        break;
    case 2:
        http_stub_answer(conn, 200, "{\"result\":{}}");
        break;
    case 3:
        http_stub_answer(conn, 200, "{\"error\":{\"grpc_code\":14,\"message\":\"no leader\"}}");
        break;
    case 4:
        http_stub_answer(conn, 200, "{\"result\":{" HEADER ",\"TTL\":\"1\"}}");
        break;
    case 5: /* the dead lease: 200 and no TTL */
        http_stub_answer(conn, 200, "{\"result\":{" HEADER ",\"ID\":\"1\"}}");
        break;
    }
}

/* Garbage makes it unreachable, a TTL confirms it, an answer without TTL ends it. */
Test(etcd, session_life)
{
    struct fixture f;
    struct reports reports = {.s.data = &reports};

    fixture_init(&f, serve_session);
    cr_assert(otr_backend_etcd.session_open(f.b, &reports.s, 1000, on_session) == 0);
    AWAIT(&f, strstr(reports.text, "lost") != NULL);
    cr_assert_str_eq(reports.text, "open unreachable confirmed lost ");
    cr_assert_str_eq(f.log, "gkkkkk");
    fixture_close(&f);
    cr_assert_str_eq(reports.text, "open unreachable confirmed lost ");
}

struct late {
    uv_timer_t timer;
    struct http_stub_conn *conn;
};
static struct late late;

static void on_late(uv_timer_t *timer)
{
    http_stub_answer(late.conn, 200, "{" HEADER ",\"ID\":\"1\",\"TTL\":\"1\"}");
    uv_close((uv_handle_t *)timer, NULL);
}

static void serve_late_grant(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    if (is(req, "/v3/lease/grant")) {
        late.conn = conn;
        uv_timer_init(&f->loop, &late.timer);
        uv_timer_start(&late.timer, on_late, 1200, 0);
    } else {
        http_stub_answer(conn, 200, "{\"result\":{" HEADER ",\"TTL\":\"1\"}}");
    }
}

/* An answer that is older than the lease it grants confirms nothing: it is asked for again before anybody relies on
 * it. */
Test(etcd, session_late_answer)
{
    struct otr_backend_config config = {.request_timeout_ms = 3000};
    struct otr_errmsg msg = {0};
    struct fixture f;
    struct reports reports = {.s.data = &reports};

    fixture_init(&f, serve_late_grant);
    fixture_close(&f);
    memset(&f, 0, sizeof f);
    f.serve = serve_late_grant;
    uv_loop_init(&f.loop);
    f.stubs[0] = http_stub_new(&f.loop, on_request, &f);
    f.stubs[1] = http_stub_new(&f.loop, on_request, &f);
    config.loop = &f.loop;
    config.endpoints = http_stub_url(f.stubs[0]);
    cr_assert(otr_backend_etcd.open(&f.b, &config, &msg) == 0);
    cr_assert(otr_backend_etcd.session_open(f.b, &reports.s, 1000, on_session) == 0);
    AWAIT(&f, reports.s.id[0] != '\0');
    cr_assert_str_eq(f.log, "gk");
    fixture_close(&f);
}

/* --- watches ---------------------------------------------------------------------------------------------------- */

struct events {
    struct otr_watch w;
    char text[1024];
    int final_status;
};

static void on_watch(struct otr_watch *w, int status, const struct otr_watch_event *event, const struct otr_errmsg *msg)
{
    static const char *const names[] = {"", "+", "-", "resync ", "end ", "silent ", "alive "};
    struct events *events = w->data;

    (void)msg;
    if (status != 0) {
        strcat(events->text, otr_errname(status));
        events->final_status = status;
        return;
    }
    strcat(events->text, names[event->type]);
    if (event->type <= OTR_WATCH_DELETE) {
        snprintf(events->text + strlen(events->text), 64, "%s@%d ", event->kv.key, (int)event->revision);
    }
}

static void chunk(struct http_stub_conn *conn, const char *text)
{
    char head[32];

    snprintf(head, sizeof head, "%zx\r\n", strlen(text));
    http_stub_raw(conn, head, strlen(head));
    http_stub_raw(conn, text, strlen(text));
    http_stub_raw(conn, "\r\n", 2);
}

static void watch_head(struct http_stub_conn *conn)
{
    static const char head[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    http_stub_raw(conn, head, sizeof head - 1);
    chunk(conn, "{\"result\":{" HEADER ",\"created\":true}}\n");
}

#define EVENT(key, rev) \
    "{\"result\":{" HEADER ",\"events\":[{\"kv\":{\"key\":\"" key "\",\"mod_revision\":\"" rev "\"}}]}}\n"

static void watch_run(struct fixture *f, struct events *events, uint64_t revision)
{
    memset(events, 0, sizeof *events);
    events->w.data = events;
    cr_assert(otr_backend_etcd.watch(f->b, &events->w, "a/", revision, on_watch) == 0);
}

static void serve_repeats(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    if (is(req, "/v3/kv/range")) {
        http_stub_answer(conn, 200, OK);
        return;
    }
    watch_head(conn);
    if (f->watches_count == 1) {
        cr_assert(strstr(req->body, "\"start_revision\":\"10\"") != NULL);
        chunk(conn, EVENT("YS8x", "10") EVENT("YS8y", "11"));
        chunk(conn, EVENT("YS8z", "12"));
        http_stub_hang_up(conn);
    } else {
        cr_assert(strstr(req->body, "\"start_revision\":\"12\"") != NULL, "the last one that was delivered");
        chunk(conn, EVENT("YS8z", "12") EVENT("YS80", "13"));
    }
}

/* Events that were delivered before come again after a reconnect, and are dropped. */
Test(etcd, watch_resumes_at_the_last_revision)
{
    struct fixture f;
    struct events events;

    fixture_init(&f, serve_repeats);
    watch_run(&f, &events, 10);
    AWAIT(&f, strstr(events.text, "a/4") != NULL);
    cr_assert_str_eq(events.text, "+a/2@11 +a/3@12 +a/4@13 ");
    fixture_close(&f);
}

static void serve_broken_fragment(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    if (is(req, "/v3/kv/range")) {
        http_stub_answer(conn, 200, OK);
        return;
    }
    watch_head(conn);
    if (f->watches_count == 1) {
        chunk(conn, "{\"result\":{" HEADER ",\"fragment\":true,\"events\":[{\"kv\":{\"key\":\"YS8x\","
                    "\"mod_revision\":\"11\"}}]}}\n");
        http_stub_hang_up(conn);
    } else {
        cr_assert(strstr(req->body, "\"start_revision\":\"10\"") != NULL);
        chunk(conn, "{\"result\":{" HEADER ",\"events\":[{\"kv\":{\"key\":\"YS8x\",\"mod_revision\":\"11\"}},"
                    "{\"kv\":{\"key\":\"YS8y\",\"mod_revision\":\"11\"}}]}}\n");
    }
}

/* A revision that broke off between its fragments is delivered once, whole. */
Test(etcd, watch_broken_between_fragments)
{
    struct fixture f;
    struct events events;

    fixture_init(&f, serve_broken_fragment);
    watch_run(&f, &events, 10);
    AWAIT(&f, strstr(events.text, "a/2") != NULL);
    cr_assert_str_eq(events.text, "+a/1@11 +a/2@11 ");
    fixture_close(&f);
}

static void serve_lagging(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    if (is(req, "/v3/kv/range")) {
        http_stub_answer(conn, 200, "{" HEADER ",\"kvs\":[{\"key\":\"YS8x\",\"mod_revision\":\"15\"}]}");
        return;
    }
    watch_head(conn);
    if (f->watches_count > 1) {
        chunk(conn, EVENT("YS8x", "15"));
    }
}

/* A stream that does not bring what exists is given up, although it looks alive. */
Test(etcd, watch_that_lost_something)
{
    struct fixture f;
    struct events events;

    fixture_init(&f, serve_lagging);
    watch_run(&f, &events, 10);
    AWAIT(&f, strstr(events.text, "a/1") != NULL);
    cr_assert(http_stub_requests(f.stubs[1]) > 0, "elsewhere");
    cr_assert_str_eq(events.text, "+a/1@15 ");
    fixture_close(&f);
}

static void serve_fallen(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    (void)f;
    if (is(req, "/v3/kv/range")) {
        http_stub_answer(conn, 200, "{" HEADER ",\"kvs\":[{\"key\":\"YS8x\",\"mod_revision\":\"15\"}]}");
    } else {
        watch_head(conn);
    }
}

/* The coordinator's revision (20) is below what was seen (500): restored from a backup, so everything anew. */
Test(etcd, watch_when_revision_fell)
{
    struct fixture f;
    struct events events;

    fixture_init(&f, serve_fallen);
    watch_run(&f, &events, 500);
    AWAIT(&f, strstr(events.text, "end") != NULL);
    cr_assert_str_eq(events.text, "resync +a/1@20 end ");
    AWAIT(&f, strstr(f.watch_body, "\"start_revision\":\"20\"") != NULL);
    fixture_close(&f);
}

static struct http_stub_conn *waiting;

/* The first probe is answered by its test, after an event that came meanwhile. */
static void serve_late(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    (void)f;
    if (!is(req, "/v3/kv/range")) {
        watch_head(conn);
        chunk(conn, EVENT("YS8x", "19"));
        waiting = conn;
    } else if (waiting != NULL) {
        chunk(waiting, EVENT("YS8y", "30"));
        waiting = conn;
    } else {
        http_stub_answer(conn, 200, "{\"header\":{\"cluster_id\":\"17121211910768078140\",\"revision\":\"30\"}}");
    }
}

/* An answer older than the newest event, because it was on its way longer, is no coordinator that fell back. */
Test(etcd, watch_overtakes_a_probe)
{
    struct fixture f;
    struct events events;

    fixture_init(&f, serve_late);
    watch_run(&f, &events, 10);
    AWAIT(&f, strstr(events.text, "a/2") != NULL);
    http_stub_answer(waiting, 200, OK);
    waiting = NULL;
    AWAIT(&f, f.ranges_count > 2);
    cr_assert_str_eq(events.text, "+a/1@19 +a/2@30 ");
    fixture_close(&f);
}

static void serve_mute(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    if (is(req, "/v3/kv/range")) {
        http_stub_answer(conn, 200, OK);
    } else if (f->watches_count > 1) {
        watch_head(conn);
        chunk(conn, EVENT("YS8x", "15"));
    }
}

/* A server that takes the watch and never says `created`. */
Test(etcd, watch_that_is_never_created)
{
    struct fixture f;
    struct events events;

    fixture_init(&f, serve_mute);
    watch_run(&f, &events, 10);
    AWAIT(&f, strstr(events.text, "a/1") != NULL);
    cr_assert(f.watches_count == 2);
    fixture_close(&f);
}

static const char *refusal;

static void serve_refusal(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    (void)f;
    if (is(req, "/v3/watch")) {
        http_stub_answer(conn, 200, refusal);
    } else {
        http_stub_answer(conn, 403, "{\"code\":7, \"message\":\"permission denied\"}");
    }
}

Test(etcd, watch_denied)
{
    static const char *const refusals[] = {
        "{\"result\":{" HEADER ",\"created\":true,\"canceled\":true,\"watch_id\":\"-1\",\"cancel_reason\":\"code = "
        "PermissionDenied\"}}\n",
        "{\"error\":{\"code\":7, \"message\":\"permission denied\"}}\n",
        "{\"error\":\"user name is empty\",\"message\":\"user name is empty\",\"code\":3}",
        "{\"result\":{" HEADER ",\"canceled\":true,\"compact_revision\":\"12\"}}\n", /* and then the range is denied */
    };

    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        struct fixture f;
        struct events events;

        refusal = refusals[i];
        fixture_init(&f, serve_refusal);
        watch_run(&f, &events, 10);
        AWAIT(&f, events.final_status != 0);
        cr_assert_str_eq(events.text, "OTR_DENIED");
        fixture_close(&f);
        cr_assert_str_eq(events.text, "OTR_DENIED");
    }
}
