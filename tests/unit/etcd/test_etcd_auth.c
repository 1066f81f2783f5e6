/* User and password against a scripted server: which requests carry a token, and what becomes of those refused. */
#include "outrigger/backend.h"

#include "tests/lib/http_stub.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADER  "\"header\":{\"cluster_id\":\"7\",\"revision\":\"20\"}"
#define REFUSED "{\"code\":16, \"message\":\"etcdserver: invalid auth token\"}"

struct fixture {
    uv_loop_t loop;
    struct http_stub *stub;
    struct otr_backend *b;
    bool closed;
    char password[32];    /* that the server takes */
    char file[32];        /* with the password that the backend sends */
    char token[16];       /* that the server takes; "": it asks for none */
    bool switched_off;    /* authentication, as a login is told */
    bool watch_forbidden; /* whatever the token */
    bool login_silent;    /* logins get no answer */
    const char *refusal;  /* of requests without that token */
    int refusal_status;
    char log[256]; /* "l" login, "t" transaction, ...; in capitals when refused */
    unsigned logins_count;
};

static bool has_token(const struct fixture *f, const struct http_stub_request *req)
{
    char line[64];

    snprintf(line, sizeof line, "\r\nAuthorization: %s\r\n", f->token);
    return f->token[0] == '\0' ? strstr(req->head, "\r\nAuthorization:") == NULL : strstr(req->head, line) != NULL;
}

static void serve_login(struct fixture *f, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    char wanted[96], answer[96];

    cr_assert(strstr(req->head, "\r\nAuthorization:") == NULL);
    f->logins_count++;
    snprintf(wanted, sizeof wanted, "{\"name\":\"u \\\"x\\\"\",\"password\":\"%s\"}", f->password);
    if (f->login_silent) {
        return;
    }
    if (f->switched_off) {
        f->token[0] = '\0';
        http_stub_answer(conn, 400, "{\"code\":9, \"message\":\"authentication is not enabled\"}");
    } else if (strcmp(req->body, wanted) != 0) {
        http_stub_answer(conn, 400, "{\"code\":3, \"message\":\"authentication failed\"}");
    } else {
        snprintf(f->token, sizeof f->token, "tok.%u", f->logins_count);
        snprintf(answer, sizeof answer, "{" HEADER ",\"token\":\"%s\"}", f->token);
        http_stub_answer(conn, 200, answer);
    }
}

static void on_request(void *data, struct http_stub_conn *conn, const struct http_stub_request *req)
{
    static const struct {
        const char *path, *answer;
        char letter;
    } paths[] = {
        {"/v3/auth/authenticate", NULL, 'l'},
        {"/v3/kv/txn", "{" HEADER ",\"succeeded\":true}", 't'},
        {"/v3/kv/range", "{" HEADER "}", 'r'},
        {"/v3/lease/grant", "{" HEADER ",\"TTL\":\"1\"}", 'g'},
        {"/v3/lease/keepalive", "{\"result\":{" HEADER ",\"TTL\":\"1\"}}", 'k'},
        {"/v3/lease/revoke", "{" HEADER "}", 'x'},
        {"/v3/watch", "{\"result\":{" HEADER ",\"created\":true}}\n", 'w'},
    };
    struct fixture *f = data;
    size_t i = 0;
    bool fine = has_token(f, req);

    while (strcmp(req->path, paths[i].path) != 0) {
        i++;
    }
    fine = fine && !(f->watch_forbidden && paths[i].letter == 'w');
    cr_assert(strlen(f->log) + 1 < sizeof f->log);
    f->log[strlen(f->log)] = fine || paths[i].letter == 'l' ? paths[i].letter : (char)(paths[i].letter - 'a' + 'A');
    if (paths[i].letter == 'l') {
        serve_login(f, conn, req);
    } else if (fine || paths[i].letter == 'k') { /* As etcd: keep-alives need no token. */
        http_stub_answer(conn, 200, paths[i].answer);
    } else {
        http_stub_answer(conn, f->refusal_status, f->refusal);
    }
}

static void password_write(struct fixture *f, const char *password)
{
    FILE *file = fopen(f->file, "we");

    cr_assert(file != NULL && fprintf(file, "%s\n", password) > 0 && fclose(file) == 0);
}

static void fixture_init(struct fixture *f)
{
    struct otr_backend_config config = {.loop = &f->loop, .request_timeout_ms = 300, .user = "u \"x\""};
    struct otr_errmsg msg = {0};
    int fd;

    *f = (struct fixture){.password = "secret",
                          .token = "none",
                          .file = "/tmp/outrigger-pw-XXXXXX",
                          .refusal = REFUSED,
                          .refusal_status = 401};
    fd = mkstemp(f->file);
    cr_assert(fd >= 0 && close(fd) == 0);
    password_write(f, "secret");
    uv_loop_init(&f->loop);
    f->stub = http_stub_new(&f->loop, on_request, f);
    config.endpoints = http_stub_url(f->stub);
    config.password_file = f->file;
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
    http_stub_close(f->stub);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    cr_assert(uv_loop_close(&f->loop) == 0);
    unlink(f->file);
}

struct outcome {
    bool done;
    int status;
    char text[OTR_ERRMSG_MAX];
};

static void on_txn(struct otr_txn_req *req, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    struct outcome *outcome = req->data;

    (void)revision;
    outcome->done = true;
    outcome->status = status;
    snprintf(outcome->text, sizeof outcome->text, "%s", msg->text);
}

static struct outcome txn(struct fixture *f)
{
    struct otr_op op = {.type = OTR_OP_PUT, .key = "k", .value = "v", .value_bytes = 1};
    struct otr_txn t = {.ops = &op, .ops_count = 1};
    struct outcome outcome = {0};
    struct otr_txn_req req = {.data = &outcome};

    cr_assert(otr_backend_etcd.txn(f->b, &req, &t, on_txn) == 0);
    while (!outcome.done) {
        uv_run(&f->loop, UV_RUN_ONCE);
    }
    cr_assert(strstr(outcome.text, "secret") == NULL && strstr(outcome.text, "tok.") == NULL, "%s", outcome.text);
    return outcome;
}

TestSuite(etcd_auth, .timeout = 30);

Test(etcd_auth, settings_are_checked)
{
    static const struct otr_backend_config bad[] = {
        {.user = "u"},
        {.password = "p"},
        {.password_file = "/dev/null"},
        {.user = "u", .password_file = "/no/such/file"},
        {.user = "u", .password_file = "/dev/null"},
        {.user = "u", .password_file = "/dev/zero"},
        {.user = "u", .password_file = "/tmp"},
    };
    uv_loop_t loop;
    struct otr_backend *b;

    uv_loop_init(&loop);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct otr_backend_config config = bad[i];
        struct otr_errmsg msg = {0};

        config.loop = &loop;
        config.endpoints = "http://127.0.0.1:1";
        cr_assert(otr_backend_etcd.open(&b, &config, &msg) == OTR_INVALID, "%zu", i);
        cr_assert(strncmp(msg.text, "etcd: ", 6) == 0 && strlen(msg.text) > 10);
    }
    cr_assert(uv_loop_close(&loop) == 0);
}

/* One login before the first request, its token on all that follow. */
Test(etcd_auth, one_login_for_all)
{
    struct fixture f;

    fixture_init(&f);
    cr_assert(txn(&f).status == 0);
    cr_assert(txn(&f).status == 0);
    cr_assert_str_eq(f.log, "ltt");
    fixture_close(&f);
}

/* An expired token, or a restarted member: refused, which certainly did nothing, and sent again with another. */
Test(etcd_auth, another_token_when_one_ends)
{
    static const struct {
        int status;
        const char *body;
    } refusals[] = {
        {401, REFUSED},
        {400, "{\"code\":3, \"message\":\"etcdserver: revision of auth store is old\"}"},
        {400, "{\"error\":\"etcdserver: user name is empty\",\"code\":3}"},
    };
    struct fixture f;

    fixture_init(&f);
    cr_assert(txn(&f).status == 0);
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        f.refusal_status = refusals[i].status;
        f.refusal = refusals[i].body;
        strcpy(f.token, "other");
        memset(f.log, 0, sizeof f.log);
        cr_assert(txn(&f).status == 0);
        cr_assert_str_eq(f.log, "Tlt");
    }
    fixture_close(&f);
}

/* What is refused with the new token too is denied; it is not tried for ever. */
Test(etcd_auth, refused_twice)
{
    struct fixture f;
    struct outcome outcome;

    fixture_init(&f);
    f.refusal_status = 503; /* An answer that decides nothing is not asked again: once is enough. */
    f.refusal = "{\"code\":14, \"message\":\"request timed out\"}";
    strcpy(f.token, "other");
    f.switched_off = true; /* The login gives no token, the server wants one. */
    outcome = txn(&f);
    cr_assert(outcome.status == 0, "%s", outcome.text);
    strcpy(f.token, "other");
    cr_assert(txn(&f).status == OTR_UNKNOWN);
    f.refusal_status = 401;
    f.refusal = REFUSED;
    f.switched_off = false;
    strcpy(f.password, "changed");
    outcome = txn(&f);
    cr_assert(outcome.status == OTR_DENIED, "%s", otr_errname(outcome.status));
    cr_assert(strstr(outcome.text, "log in as u \"x\"") != NULL, "%s", outcome.text);
    cr_assert(strstr(outcome.text, "authentication failed") != NULL, "%s", outcome.text);
    cr_assert_str_eq(f.log, "ltTTl");
    fixture_close(&f);
}

/* A refused password is not tried again at once; the file is read anew when it is. */
Test(etcd_auth, password_changes)
{
    struct fixture f;

    fixture_init(&f);
    password_write(&f, "wrong");
    cr_assert(txn(&f).status == OTR_DENIED);
    cr_assert(txn(&f).status == OTR_DENIED);
    cr_assert_str_eq(f.log, "l", "the second within the pause asks nobody");
    password_write(&f, "secret");
    while (txn(&f).status == OTR_DENIED) {
        usleep(50000);
    }
    cr_assert_str_eq(f.log, "llt");
    unlink(f.file);
    strcpy(f.token, "other");
    cr_assert(txn(&f).status == OTR_DENIED, "the file is gone");
    cr_assert_str_eq(f.log, "lltT");
    password_write(&f, "secret");
    while (txn(&f).status == OTR_DENIED) {
        usleep(50000);
    }
    fixture_close(&f);
}

/* Without an answer to the login nothing was sent. */
Test(etcd_auth, login_without_answer)
{
    struct fixture f;
    struct outcome outcome;

    fixture_init(&f);
    f.login_silent = true;
    outcome = txn(&f);
    cr_assert(outcome.status == OTR_UNREACHABLE, "%s: %s", otr_errname(outcome.status), outcome.text);
    cr_assert_str_eq(f.log, "l");
    f.login_silent = false;
    cr_assert(txn(&f).status == 0);
    fixture_close(&f);
}

struct reports {
    unsigned opens, unreachables, confirmed, lost;
    char text[OTR_ERRMSG_MAX];
};

static void on_session(struct otr_session *session, enum otr_session_state state, const struct otr_errmsg *msg)
{
    struct reports *r = session->data;

    r->opens += state == OTR_SESSION_OPEN;
    r->unreachables += state == OTR_SESSION_UNREACHABLE;
    r->confirmed += state == OTR_SESSION_CONFIRMED;
    r->lost += state == OTR_SESSION_LOST;
    snprintf(r->text, sizeof r->text, "%s", msg->text);
}

/* A session opens only with a password that is taken, and says why not; once open it does not depend on it. */
Test(etcd_auth, session_and_password)
{
    struct fixture f;
    struct reports r = {0};
    struct otr_session session = {.data = &r};
    unsigned keepalives = 0;

    fixture_init(&f);
    password_write(&f, "wrong");
    cr_assert(otr_backend_etcd.session_open(f.b, &session, 1000, on_session) == 0);
    while (r.unreachables == 0) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    cr_assert(strstr(r.text, "authentication failed") != NULL, "%s", r.text);
    password_write(&f, "secret");
    while (r.opens == 0) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    cr_assert_str_eq(f.log, "llg");
    strcpy(f.token, "other");
    strcpy(f.password, "changed");
    while (keepalives < 4) {
        uv_run(&f.loop, UV_RUN_ONCE);
        keepalives = 0;
        for (const char *c = f.log; *c != '\0'; c++) {
            keepalives += *c == 'K';
        }
    }
    cr_assert(r.unreachables == 1 && r.lost == 0);
    fixture_close(&f);
}

struct seen {
    unsigned silent, final;
    int status;
};

static void on_watch(struct otr_watch *watch, int status, const struct otr_watch_event *event,
                     const struct otr_errmsg *msg)
{
    struct seen *seen = watch->data;

    (void)msg;
    seen->final += status != 0;
    seen->status = status;
    seen->silent += status == 0 && event->type == OTR_WATCH_SILENT;
}

static unsigned count(const struct fixture *f, char letter)
{
    unsigned found = 0;

    for (const char *c = f->log; *c != '\0'; c++) {
        found += *c == letter;
    }
    return found;
}

#define CANCELED(reason)                                                                                             \
    "{\"result\":{" HEADER ",\"watch_id\":\"-1\",\"created\":true,\"canceled\":true,\"cancel_reason\":\"rpc error: " \
    "code = " reason "\"}}\n"

/* A watch whose token is refused gets another, whatever etcd's version calls it. */
Test(etcd_auth, watch_gets_another_token)
{
    static const char *const refusals[] = {
        CANCELED("Unauthenticated desc = etcdserver: invalid auth token"),
        CANCELED("InvalidArgument desc = etcdserver: user name is empty"),
        CANCELED("PermissionDenied desc = etcdserver: permission denied"),
        "{\"error\":{\"grpc_code\":16,\"http_code\":401,\"message\":\"etcdserver: invalid auth token\"}}",
    };

    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        struct fixture f;
        struct seen seen = {0};
        struct otr_watch watch = {.data = &seen};

        fixture_init(&f);
        cr_assert(txn(&f).status == 0);
        strcpy(f.token, "other");
        f.refusal_status = 200;
        f.refusal = refusals[i];
        cr_assert(otr_backend_etcd.watch(f.b, &watch, "a/", 20, on_watch) == 0);
        while (count(&f, 'w') == 0) {
            uv_run(&f.loop, UV_RUN_ONCE);
        }
        cr_assert(strncmp(f.log, "ltWlw", 5) == 0, "%s", f.log);
        cr_assert(seen.final == 0);
        fixture_close(&f);
    }
}

/* "Permission denied" with a fresh token is the last word; a refused password is not. */
Test(etcd_auth, watch_denied)
{
    struct fixture f;
    struct seen seen = {0};
    struct otr_watch watch = {.data = &seen};

    fixture_init(&f);
    cr_assert(txn(&f).status == 0);
    strcpy(f.token, "other");
    strcpy(f.password, "changed");
    f.refusal_status = 200;
    f.refusal = CANCELED("Unauthenticated desc = etcdserver: invalid auth token");
    cr_assert(otr_backend_etcd.watch(f.b, &watch, "a/", 20, on_watch) == 0);
    while (count(&f, 'l') < 3) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    cr_assert(seen.final == 0);
    password_write(&f, "changed");
    while (count(&f, 'w') == 0) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    otr_backend_etcd.watch_stop(f.b, &watch);
    memset(f.log, 0, sizeof f.log);
    f.watch_forbidden = true;
    f.refusal = CANCELED("PermissionDenied desc = etcdserver: permission denied");
    cr_assert(otr_backend_etcd.watch(f.b, &watch, "a/", 20, on_watch) == 0);
    while (seen.final == 0) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    cr_assert(seen.status == OTR_DENIED);
    cr_assert_str_eq(f.log, "WlW", "the first time it may be the token");
    fixture_close(&f);
}
