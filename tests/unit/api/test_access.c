/* Who may call what: every cell of role and call, over real sockets, with a fake node behind. */
#include "sidecar/api/rest.h"
#include "tests/lib/temp_dir.h"
#include "tests/unit/api/client.h"
#include "tests/unit/api/fake_node.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

/* --- where connections come from ---------------------------------------------------------------------------------- */

static const char *pretended; /* an address, NULL: the true one */

int __real_uv_tcp_getpeername(const uv_tcp_t *handle, struct sockaddr *name, int *bytes);
int __wrap_uv_tcp_getpeername(const uv_tcp_t *handle, struct sockaddr *name, int *bytes);
int __wrap_uv_tcp_getpeername(const uv_tcp_t *handle, struct sockaddr *name, int *bytes)
{
    if (pretended == NULL) {
        return __real_uv_tcp_getpeername(handle, name, bytes);
    }
    return strchr(pretended, ':') != NULL ? uv_ip6_addr(pretended, 1234, (struct sockaddr_in6 *)name)
                                          : uv_ip4_addr(pretended, 1234, (struct sockaddr_in *)name);
}

/* --- a sidecar's API ---------------------------------------------------------------------------------------------- */

/* In the file by their SHA-256, written by tokens_draw. */
static char tokens[TOKEN_ADMIN + 1][TOKENS_TEXT_BYTES];
static char lines[TOKEN_ADMIN + 1][TOKENS_LINE_BYTES];

static struct {
    uv_loop_t loop;
    struct fake_world *w;
    struct api *api;
    struct client client;
    struct answer answer;
    struct temp_dir dir;
    char path[512];
} f;

static void write_tokens(const char *text)
{
    FILE *file = fopen(f.path, "w");

    fputs(text, file);
    fclose(file);
}

static void write_all_tokens(void)
{
    char text[4 * TOKENS_LINE_BYTES];

    snprintf(text, sizeof text, "%s%s%s", lines[TOKEN_READ], lines[TOKEN_WRITE], lines[TOKEN_ADMIN]);
    write_tokens(text);
}

static void open_api(bool with_tokens, bool metrics_open)
{
    struct api_config config = {.listen_host = "127.0.0.1", .metrics_open = metrics_open};
    struct otr_errmsg msg = {0};

    temp_dir_init(&f.dir);
    snprintf(f.path, sizeof f.path, "%s/tokens", f.dir.path);
    for (enum token_role role = TOKEN_READ; role <= TOKEN_ADMIN; role++) {
        uint8_t bits[TOKENS_RANDOM_BYTES] = {(uint8_t)role};

        tokens_draw(bits, role, token_role_name(role), tokens[role], lines[role]);
    }
    write_all_tokens();
    uv_loop_init(&f.loop);
    f.w = fake_world_new(&f.loop);
    config.node = fake_node(f.w, 1);
    config.tokens_path = with_tokens ? f.path : NULL;
    cr_assert(eq(int, api_new(&f.api, &config, &msg), 0), "%s", msg.text);
    client_open(&f.client, &f.loop, api_port(f.api));
}

static void on_closed(void *data)
{
    *(bool *)data = true;
}

static void close_api(void)
{
    bool closed = false;

    answer_free(&f.answer);
    client_close(&f.client);
    api_close(f.api, on_closed, &closed);
    while (!closed) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    fake_release(f.w, OTR_CANCELED);
    run_for(&f.loop, 5);
    fake_world_free(f.w);
    uv_run(&f.loop, UV_RUN_DEFAULT);
    cr_assert(eq(int, uv_loop_close(&f.loop), 0)); /* Nothing is left open. */
    temp_dir_close(&f.dir);
}

static int ask_with(const char *headers, const char *method, const char *path, const char *body)
{
    char text[HTTP_HEAD_MAX + 4096];

    answer_free(&f.answer);
    snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %zu\r\n\r\n%s", method, path, headers,
             strlen(body), body);
    client_puts(&f.client, text);
    cr_assert(client_answer(&f.client, &f.answer, 20000), "no answer to %s %s", method, path);
    if (strstr(f.answer.head, "Connection: close") != NULL) { /* As after a body that nobody read. */
        client_close(&f.client);
        client_open(&f.client, &f.loop, api_port(f.api));
    }
    return f.answer.status;
}

/* role TOKEN_NONE: without a token; beyond TOKEN_ADMIN: with one that nobody knows. */
static int ask(enum token_role role, const char *method, const char *path, const char *body)
{
    char header[200] = "";

    if (role != TOKEN_NONE) {
        snprintf(header, sizeof header, "Authorization: Bearer %s\r\n",
                 role <= TOKEN_ADMIN ? tokens[role] : "otr_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    }
    return ask_with(header, method, path, body);
}

static bool says(const char *words)
{
    return strstr(f.answer.body, words) != NULL;
}

static bool refused(int status)
{
    return status == 401 || status == 403;
}

/* --- the table ---------------------------------------------------------------------------------------------------- */

/* What docs/security.md promises. A route that is missing here, or stands here and is none, fails the walk. */
static const struct call {
    const char *method, *path; /* as rest_route writes it */
    enum token_role needs;
    bool changes_cluster; /* without tokens: from this host only */
} calls[] = {
    {"GET", "/healthz", TOKEN_NONE, false},
    {"GET", "/readyz", TOKEN_NONE, false},
    {"GET", "/cluster", TOKEN_READ, false},
    {"GET", "/cluster/stats", TOKEN_READ, false},
    {"GET", "/cluster/losses", TOKEN_ADMIN, false},
    {"GET", "/cluster/survivor", TOKEN_ADMIN, false},
    {"POST", "/cluster/shards/*/failover", TOKEN_ADMIN, true},
    {"GET", "/metrics", TOKEN_READ, false},
    {"GET", "/collections", TOKEN_READ, false},
    {"POST", "/collections", TOKEN_WRITE, false},
    {"GET", "/collections/*", TOKEN_READ, false},
    {"DELETE", "/collections/*", TOKEN_ADMIN, false},
    {"PUT", "/collections/*/points", TOKEN_WRITE, false},
    {"POST", "/collections/*/points/search", TOKEN_READ, false},
    {"POST", "/collections/*/points/delete", TOKEN_WRITE, false},
    {"GET", "/collections/*/points/*", TOKEN_READ, false},
    {"DELETE", "/collections/*/points/*", TOKEN_WRITE, false},
};
enum { CALLS_COUNT = sizeof calls / sizeof calls[0] };
#define ROLE_UNKNOWN ((enum token_role)(TOKEN_ADMIN + 1))

static const struct call *find_call(const char *method, const char *path)
{
    for (size_t i = 0; i < CALLS_COUNT; i++) {
        if (strcmp(calls[i].method, method) == 0 && strcmp(calls[i].path, path) == 0) {
            return &calls[i];
        }
    }
    return NULL;
}

/* The path with something in the places of "*". */
static void path_of(const struct call *c, char out[128])
{
    size_t used = 0;

    for (const char *p = c->path; *p != '\0'; p++) {
        out[used++] = *p == '*' ? '1' : *p;
    }
    out[used] = '\0';
}

Test(access, every_route_is_in_the_table)
{
    const char *method;
    char path[128];
    size_t count;

    for (count = 0; rest_route(count, &method, path, sizeof path); count++) {
        const struct call *c = find_call(method, path);

        cr_assert(c != NULL, "%s %s: add it here and to the table in docs/security.md", method, path);
        cr_assert(eq(int, rest_route_role(count), c->needs), "%s %s", method, path);
        cr_assert(eq(int, rest_route_changes_cluster(count), c->changes_cluster), "%s %s", method, path);
    }
    cr_assert(eq(sz, count, CALLS_COUNT));
}

static void check_cell(const struct call *c, enum token_role role)
{
    char path[128];
    int status;
    unsigned writes = fake_writes(f.w);

    path_of(c, path);
    status = ask(role, c->method, path, strcmp(c->method, "GET") == 0 ? "" : "{}");
    if (c->needs == TOKEN_NONE || (role >= c->needs && role <= TOKEN_ADMIN)) {
        cr_assert(not(refused(status)), "%s %s as %d: %d", c->method, c->path, (int)role, status);
        return;
    }
    cr_assert(eq(int, status, role == TOKEN_NONE || role == ROLE_UNKNOWN ? 401 : 403), "%s %s as %d", c->method,
              c->path, (int)role);
    cr_assert(says("\"applied\":false"));
    cr_assert(says(status == 401 ? "\"code\":\"unauthorized\"" : "\"code\":\"forbidden\""));
    cr_assert(strncmp(answer_header(&f.answer, "WWW-Authenticate"), "Bearer realm=\"outrigger\"", 24) == 0);
    cr_assert(eq(uint, fake_writes(f.w), writes));
}

Test(access, every_cell_of_role_and_call, .timeout = 60)
{
    open_api(true, false);
    for (size_t i = 0; i < CALLS_COUNT; i++) {
        for (enum token_role role = TOKEN_NONE; role <= ROLE_UNKNOWN; role++) {
            check_cell(&calls[i], role);
        }
    }
    close_api();
}

/* What a path holds is no business of strangers, not even whether it exists. */
Test(access, paths_that_do_not_exist_need_a_token_too, .timeout = 60)
{
    static const struct {
        const char *method, *path;
        int status;
    } cases[] = {{"GET", "/", 404},         {"GET", "/admin", 404},   {"PATCH", "/cluster", 405},
                 {"PUT", "/healthz", 405},  {"GET", "/%zz", 400},     {"GET", "/collections?x=1", 400},
                 {"GET", "//healthz", 404}, {"GET", "/healthz/", 404}};

    open_api(true, false);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert(eq(int, ask(TOKEN_NONE, cases[i].method, cases[i].path, ""), 401), "%s", cases[i].path);
        cr_assert(eq(int, ask(ROLE_UNKNOWN, cases[i].method, cases[i].path, ""), 401), "%s", cases[i].path);
        ask(TOKEN_READ, cases[i].method, cases[i].path, "");
        cr_assert(f.answer.status >= 400 && !refused(f.answer.status), "%s: %d", cases[i].path, f.answer.status);
    }
    close_api();
}

/* Without tokens everybody may call, but the cluster itself is changed from its own host only. */
Test(access, without_tokens, .timeout = 60)
{
    static const char *const here[] = {NULL, "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"};
    static const char *const elsewhere[] = {"10.0.0.1", "128.0.0.1",       "126.255.255.255", "fe80::1",
                                            "::2",      "::ffff:10.0.0.1", "::127.0.0.1"};

    open_api(false, false);
    for (size_t i = 0; i < CALLS_COUNT; i++) {
        const char *body = strcmp(calls[i].method, "GET") == 0 ? "" : "{}";
        char path[128];

        path_of(&calls[i], path);
        for (size_t h = 0; h < sizeof here / sizeof here[0]; h++) {
            pretended = here[h];
            cr_assert(not(refused(ask(TOKEN_NONE, calls[i].method, path, body))), "%s from here", calls[i].path);
        }
        for (size_t e = 0; e < sizeof elsewhere / sizeof elsewhere[0]; e++) {
            pretended = elsewhere[e];
            ask_with("X-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\n",
                     calls[i].method, path, body);
            cr_assert(eq(int, f.answer.status == 403, calls[i].changes_cluster), "%s from %s", calls[i].path,
                      elsewhere[e]);
            cr_assert(calls[i].changes_cluster ? says("--tokens FILE") : true);
        }
    }
    pretended = NULL;
    close_api();
}

/* With tokens it does not matter where they come from. */
Test(access, loopback_is_no_token, .timeout = 60)
{
    open_api(true, false);
    pretended = "10.0.0.1";
    cr_assert(eq(int, ask(TOKEN_READ, "GET", "/collections", ""), 200));
    pretended = "127.0.0.1";
    cr_assert(eq(int, ask(TOKEN_NONE, "GET", "/collections", ""), 401));
    pretended = NULL;
    close_api();
}

Test(access, metrics_may_be_open, .timeout = 60)
{
    open_api(true, true);
    cr_assert(eq(int, ask(TOKEN_NONE, "GET", "/metrics", ""), 200));
    cr_assert(says("\noutrigger_http_tokens 3\n"));
    cr_assert(eq(int, ask(TOKEN_NONE, "GET", "/cluster", ""), 401));
    cr_assert(eq(int, ask(TOKEN_NONE, "GET", "/metrics", ""), 200));
    cr_assert(says("\noutrigger_http_denied_total 1\n"));
    close_api();
}

/* --- odd headers -------------------------------------------------------------------------------------------------- */

static int ask_header(const char *format, const char *token)
{
    char header[1024];

    snprintf(header, sizeof header, format, token, token);
    return ask_with(header, "GET", "/collections", "");
}

Test(access, odd_authorization_headers, .timeout = 60)
{
    static const struct {
        const char *format;
        int status;
    } cases[] = {
        {"Authorization: Bearer %s\r\n", 200},
        {"authorization:bearer %s\r\n", 200},
        {"AUTHORIZATION: BEARER   %s \r\n", 200},
        {"Authorization: Bearer %s\r\nAuthorization: Bearer %s\r\n", 400},
        {"Authorization: Bearer %s\r\nauthorization: Basic eDp5\r\n", 400},
        {"Authorization: Basic eDp5\r\nAuthorization: Bearer %s\r\n", 400},
        {"Authorization: Bearer %s\r\nAuthorization:\r\n", 400},
        {"Authorization : Bearer %s\r\n", 400},
        {"X: y\r\n Authorization: Bearer %s\r\n", 400},
        {"Authorization: Bearer\r\n %s\r\n", 400},
        {"Authorization: Bearer %s, Bearer %s\r\n", 401},
        {"Authorization: Bearer %s %s\r\n", 401},
        {"Authorization: Bearer %s=\r\n", 401},
        {"Authorization: Bearer x%s\r\n", 401},
        {"Authorization: Bearer\t%s\r\n", 401},
        {"Authorization: Basic %s\r\n", 401},
        {"Authorization: %s\r\n", 401},
        {"Authorization:\r\n", 401},
        {"X-Authorization: Bearer %s\r\n", 401},
        {"Proxy-Authorization: Bearer %s\r\n", 401},
        {"Cookie: Authorization=Bearer %s\r\n", 401},
        {"Authorization\r\n: Bearer %s\r\n", 400},
    };

    open_api(true, false);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert(eq(int, ask_header(cases[i].format, tokens[TOKEN_READ]), cases[i].status), "%s", cases[i].format);
        cr_assert(strstr(f.answer.body, tokens[TOKEN_READ]) == NULL);
    }
    close_api();
}

Test(access, a_huge_token_is_only_unknown, .timeout = 60)
{
    char header[HTTP_HEAD_MAX];
    size_t bytes = HTTP_HEAD_MAX - 512;

    open_api(true, false);
    memset(header, 'a', sizeof header);
    memcpy(header, "Authorization: Bearer ", 22);
    memcpy(header + bytes, "\r\n", 3);
    cr_assert(eq(int, ask_with(header, "GET", "/collections", ""), 401));
    memset(header + 22, 'a', sizeof header - 22);
    memcpy(header + HTTP_HEAD_MAX - 3, "\r\n", 3);
    cr_assert(eq(int, ask_with(header, "GET", "/collections", ""), 431));
    cr_assert(eq(int, ask(TOKEN_READ, "GET", "/collections", ""), 200));
    close_api();
}

Test(access, a_token_in_the_query_is_none, .timeout = 60)
{
    char path[200];

    open_api(true, false);
    snprintf(path, sizeof path, "/collections?access_token=%s", tokens[TOKEN_ADMIN]);
    cr_assert(eq(int, ask(TOKEN_NONE, "GET", path, ""), 401));
    close_api();
}

/* Nobody without a token makes us wait for, or keep, a body: the answer comes before it. */
Test(access, strangers_bodies_are_not_read, .timeout = 60)
{
    open_api(true, false);
    answer_free(&f.answer);
    client_puts(&f.client, "PUT /collections/c/points HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n{");
    cr_assert(client_answer(&f.client, &f.answer, 5000));
    cr_assert(eq(int, f.answer.status, 401));
    cr_assert(eq(str, (char *)answer_header(&f.answer, "Connection"), "close"));
    client_close(&f.client);
    client_open(&f.client, &f.loop, api_port(f.api));

    answer_free(&f.answer); /* Nor do they smuggle the next request in as a body. */
    client_puts(&f.client, "PUT /collections/c/points HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
                           "Expect: 100-continue\r\n\r\n2\r\n{}\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    cr_assert(client_answer(&f.client, &f.answer, 5000));
    cr_assert(eq(int, f.answer.status, 401));
    client_end(&f.client);
    cr_assert(client_ended(&f.client, 5000));
    cr_assert(eq(sz, f.client.in_bytes, 0));
    client_close(&f.client);
    client_open(&f.client, &f.loop, api_port(f.api));

    cr_assert(eq(int, ask(TOKEN_NONE, "GET", "/healthz", "{}"), 200)); /* What is open stays open. */
    cr_assert(eq(int,
                 ask(TOKEN_WRITE, "PUT", "/collections/c/points", "{\"points\":[{\"id\":\"a\",\"vector\":[1,2,3]}]}"),
                 200));
    close_api();
}

/* --- the file changes --------------------------------------------------------------------------------------------- */

/* Turns the loop until the file was read once more, or other tokens are in force. */
static void await(bool (*there)(void))
{
    for (unsigned i = 0; i < 1000 && !there(); i++) {
        run_for(&f.loop, 10);
    }
    cr_assert(there());
}

static uint64_t reloads;

static bool reloaded(void)
{
    return tokens_file_reloads(f.api->tokens) == reloads + 1;
}

static bool complained(void)
{
    return !tokens_file_fresh(f.api->tokens);
}

static bool content(void)
{
    return tokens_file_fresh(f.api->tokens);
}

Test(access, the_file_counts_as_it_is_now, .timeout = 60)
{
    open_api(true, false);
    cr_assert(eq(int, ask(TOKEN_READ, "GET", "/collections", ""), 200));
    cr_assert(eq(int, ask(TOKEN_ADMIN, "GET", "/collections", ""), 200));

    write_tokens(lines[TOKEN_ADMIN]);
    await(reloaded);
    cr_assert(eq(int, ask(TOKEN_READ, "GET", "/collections", ""), 401));
    cr_assert(eq(int, ask(TOKEN_ADMIN, "GET", "/collections", ""), 200));

    reloads++;
    write_all_tokens();
    await(reloaded);
    cr_assert(eq(int, ask(TOKEN_READ, "GET", "/collections", ""), 200));
    close_api();
}

/* Broken, empty, gone, unreadable: what was in force stays, and nobody else gets in. */
Test(access, a_bad_file_changes_nothing, .timeout = 60)
{
    static const char *const bad[] = {"admin otr_plain\n", "", "# all gone\n", "admin sha256:12\n", NULL};

    open_api(true, false);
    write_tokens(lines[TOKEN_WRITE]);
    await(reloaded);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (bad[i] != NULL) {
            write_tokens(bad[i]);
        } else {
            remove(f.path);
        }
        await(complained);
        cr_assert(eq(int, ask(TOKEN_NONE, "GET", "/collections", ""), 401));
        cr_assert(eq(int, ask(TOKEN_READ, "GET", "/collections", ""), 401));
        cr_assert(eq(int, ask(TOKEN_WRITE, "GET", "/metrics", ""), 200));
        cr_assert(says("\noutrigger_http_tokens_file_bad 1\n"));
        write_tokens(lines[TOKEN_WRITE]);
        await(content);
        cr_assert(eq(int, ask(TOKEN_WRITE, "GET", "/metrics", ""), 200));
        cr_assert(says("\noutrigger_http_tokens_file_bad 0\n"));
    }
    close_api();
}

Test(access, a_bad_file_at_the_start_is_no_start, .timeout = 60)
{
    struct api_config config = {.listen_host = "127.0.0.1"};
    struct otr_errmsg msg = {0};
    struct api *api = NULL;

    open_api(true, false);
    write_tokens("read otr_plain\n");
    config.node = fake_node(f.w, 1);
    config.tokens_path = f.path;
    cr_assert(eq(int, api_new(&api, &config, &msg), OTR_INVALID));
    cr_assert(strstr(msg.text, "tokens:1: the second word is no hash") != NULL, "%s", msg.text);
    remove(f.path);
    cr_assert(eq(int, api_new(&api, &config, &msg), OTR_IO));
    write_all_tokens();
    config.listen_port = api_port(f.api); /* Everything else is there: it is put away again. */
    cr_assert(eq(int, api_new(&api, &config, &msg), OTR_INUSE));
    run_for(&f.loop, 5);
    close_api();
}
