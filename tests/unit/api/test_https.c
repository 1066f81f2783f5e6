/* The clients' port with TLS, where it differs from one without: who speaks none, wrong certificates, slow handshakes,
 * memory, certificates that change. What is the same is in test_http_tls.c. */
#include "sidecar/api/http.h"
#include "sidecar/io/clock.h"
#include "tests/lib/temp_dir.h"
#include "tests/lib/test_certs.h"
#include "tests/unit/api/client.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <malloc.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static struct {
    uv_loop_t loop;
    struct tls *tls;
    struct http_server *s;
    struct client client;
    struct answer answer;
    struct temp_dir dir;
    struct test_cert ca, cert;
    char cert_path[300], key_path[300], ca_path[300];
} f;

static void on_request(void *data, struct http_exchange *x)
{
    struct text body;

    (void)data;
    text_init(&body, 1 << 20);
    text_puts(&body, "hello");
    http_reply(x, 200, NULL, &body);
}

static struct test_cert server_cert(const char *name)
{
    return test_cert_make(&(struct test_cert_spec){.name = name, .issuer = &f.ca, .dns = "localhost"});
}

static void open_server(bool clients_need_one)
{
    struct tls_config tls = {.label = "api", .alpn = "http/1.1", .check_ms = 20, .peer_required = clients_need_one};
    struct http_server_config config = {
        .loop = &f.loop, .host = "127.0.0.1", .on_request = on_request, .head_timeout_ms = 300};
    struct otr_errmsg msg = {0};

    uv_loop_init(&f.loop);
    temp_dir_init(&f.dir);
    snprintf(f.cert_path, sizeof f.cert_path, "%s/cert", f.dir.path);
    snprintf(f.key_path, sizeof f.key_path, "%s/key", f.dir.path);
    snprintf(f.ca_path, sizeof f.ca_path, "%s/ca", f.dir.path);
    f.ca = test_ca("ca");
    f.cert = server_cert("first");
    test_cert_write(&f.cert, f.cert_path, f.key_path);
    test_cert_write(&f.ca, f.ca_path, NULL);
    tls.cert_file = f.cert_path;
    tls.key_file = f.key_path;
    tls.ca_file = clients_need_one ? f.ca_path : NULL;
    cr_assert(eq(int, tls_new(&f.tls, &f.loop, &tls, &msg), 0), "%s", msg.text);
    config.tls = f.tls;
    cr_assert(eq(int, http_server_new(&f.s, &config, &msg), 0), "%s", msg.text);
}

static void nothing(void *data)
{
    (void)data;
}

static void on_closed(void *data)
{
    *(bool *)data = true;
}

static void close_server(void)
{
    bool closed = false;

    answer_free(&f.answer);
    http_server_close(f.s, on_closed, &closed);
    while (!closed) {
        uv_run(&f.loop, UV_RUN_ONCE);
    }
    tls_close(f.tls, nothing, NULL);
    uv_run(&f.loop, UV_RUN_DEFAULT);
    cr_assert(eq(int, uv_loop_close(&f.loop), 0));
    test_cert_free(&f.cert);
    test_cert_free(&f.ca);
    temp_dir_close(&f.dir);
}

/* Opens a connection that shows this certificate, and asks; the status, or -1. */
static int ask(struct client *c, SSL_CTX *ctx, const char *text)
{
    client_tls = ctx;
    client_open(c, &f.loop, http_server_port(f.s));
    client_puts(c, text);
    answer_free(&f.answer);
    return client_answer(c, &f.answer, 3000) ? f.answer.status : -1;
}

#define GET "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

/* --- who speaks no TLS -------------------------------------------------------------------------------------------- */

Test(https, plain_http_is_told_what_is_wrong, .timeout = 30)
{
    static const char *const heads[] = {GET, "POST /collections HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{",
                                        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "G"};

    open_server(false);
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        cr_assert(eq(int, ask(&f.client, NULL, heads[i]), 400), "%s", heads[i]);
        cr_assert(strstr(f.answer.body, "https://") != NULL, "%s", f.answer.body);
        cr_assert(strncmp(answer_header(&f.answer, "Content-Type"), "text/plain", 10) == 0);
        client_end(&f.client);
        cr_assert(client_ended(&f.client, 3000));
        client_close(&f.client);
    }
    close_server();
}

Test(https, anything_else_is_closed, .timeout = 30)
{
    static const char *const noise[] = {"\x01", "\x80\x2e\x01\x03\x01", "hello\n", "\x15\x03\x01", "\n", " GET"};
    SSL_CTX *ctx = test_ssl_ctx(NULL, NULL);

    open_server(false);
    for (size_t i = 0; i < sizeof noise / sizeof noise[0]; i++) {
        cr_assert(eq(int, ask(&f.client, NULL, noise[i]), -1));
        cr_assert(f.client.eof, "case %zu", i);
        client_close(&f.client);
    }
    cr_assert(eq(int, ask(&f.client, ctx, GET), 200)); /* Nobody else minds. */
    client_close(&f.client);
    SSL_CTX_free(ctx);
    close_server();
}

/* A handshake is part of the head, and so is the time that it takes. */
Test(https, a_slow_handshake_ends, .timeout = 30)
{
    uint64_t start_ms = clock_now_ms();
    static const char hello[] = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

    open_server(false);
    client_tls = NULL;
    client_open(&f.client, &f.loop, http_server_port(f.s));
    for (size_t i = 0; i < sizeof hello - 1; i++) {
        client_send(&f.client, hello + i, 1);
        run_for(&f.loop, 5);
    }
    cr_assert(client_ended(&f.client, 3000));
    cr_assert(zero(sz, f.client.in_bytes));
    cr_assert(lt(u64, clock_now_ms() - start_ms, 2500));
    client_close(&f.client);
    run_for(&f.loop, 5);
    cr_assert(zero(uint, http_server_connections(f.s)));
    close_server();
}

/* Garbage inside an established session: over, and nobody else minds. */
Test(https, a_broken_record_ends_the_connection, .timeout = 30)
{
    SSL_CTX *ctx = test_ssl_ctx(NULL, NULL);
    struct client other;

    open_server(false);
    cr_assert(eq(int, ask(&other, ctx, GET), 200));
    cr_assert(eq(int, ask(&f.client, ctx, GET), 200));
    cr_assert(eq(sz, (size_t)send(f.client.fd, "\x17\x03\x03\x00 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 37, 0), 37));
    cr_assert(client_ended(&f.client, 3000));
    client_puts(&other, GET);
    answer_free(&f.answer);
    cr_assert(client_answer(&other, &f.answer, 3000));
    client_close(&other);
    client_close(&f.client);
    SSL_CTX_free(ctx);
    close_server();
}

/* --- client certificates ------------------------------------------------------------------------------------------ */

struct wrong {
    const char *what;
    struct test_cert_spec spec;
    bool other_ca, none;
};

static int ask_as(const struct test_cert *cert)
{
    SSL_CTX *ctx = test_ssl_ctx(cert, NULL);
    int status = ask(&f.client, ctx, GET);

    client_close(&f.client);
    SSL_CTX_free(ctx);
    return status;
}

Test(https, clients_need_a_certificate_where_a_ca_is_given, .timeout = 60)
{
    static const struct wrong wrongs[] = {
        {.what = "none", .none = true},
        {.what = "of another CA", .other_ca = true},
        {.what = "expired", .spec = {.begins_s = -7200, .ends_s = -3600}},
        {.what = "not yet valid", .spec = {.begins_s = 3600, .ends_s = 7200}},
        {.what = "for servers only", .spec = {.usage = "serverAuth"}},
        {.what = "of an RSA key of 1024 bits", .spec = {.rsa_bits = 1024}},
        {.what = "signed with SHA-1", .spec = {.hash = "SHA1"}},
    };
    struct test_cert other = test_ca("ca"); /* the same name, another key */
    struct test_cert self;
    struct test_cert good;

    open_server(true);
    for (size_t i = 0; i < sizeof wrongs / sizeof wrongs[0]; i++) {
        struct test_cert_spec spec = wrongs[i].spec;
        struct test_cert cert;

        spec.name = "client";
        spec.issuer = wrongs[i].other_ca ? &other : &f.ca;
        cert = test_cert_make(&spec);
        cr_assert(eq(int, ask_as(wrongs[i].none ? NULL : &cert), -1), "%s", wrongs[i].what);
        test_cert_free(&cert);
    }
    self = test_cert_make(&(struct test_cert_spec){.name = "client"});
    cr_assert(eq(int, ask_as(&self), -1), "signed by itself");
    good = test_cert_make(&(struct test_cert_spec){.name = "client", .issuer = &f.ca, .usage = "clientAuth"});
    cr_assert(eq(int, ask_as(&good), 200));
    cr_assert(eq(u64, http_server_metrics(f.s)->tls_handshakes_failed_total, 8));
    test_cert_free(&self);
    test_cert_free(&good);
    test_cert_free(&other);
    close_server();
}

Test(https, old_protocols_are_not_spoken, .timeout = 30)
{
    SSL_CTX *ctx = test_ssl_ctx(NULL, NULL);

    open_server(false);
    SSL_CTX_set_security_level(ctx, 0);
    SSL_CTX_set_min_proto_version(ctx, TLS1_VERSION);
    SSL_CTX_set_max_proto_version(ctx, TLS1_1_VERSION);
    cr_assert(eq(int, ask(&f.client, ctx, GET), -1));
    client_close(&f.client);
    SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
    cr_assert(eq(int, ask(&f.client, ctx, GET), 200));
    client_close(&f.client);
    SSL_CTX_free(ctx);
    close_server();
}

/* --- certificates change ------------------------------------------------------------------------------------------ */

static void shown(struct client *c, char out[64])
{
    X509 *cert = SSL_get_peer_certificate(c->ssl);

    X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, out, 64);
    X509_free(cert);
}

Test(https, a_new_certificate_counts_for_new_connections, .timeout = 30)
{
    SSL_CTX *ctx = test_ssl_ctx(NULL, NULL);
    struct test_cert second;
    struct client old;
    char name[64];
    FILE *file;

    open_server(false);
    second = server_cert("second");
    cr_assert(eq(int, ask(&old, ctx, GET), 200));
    shown(&old, name);
    cr_assert(eq(str, name, "first"));
    test_cert_write(&second, f.cert_path, f.key_path);
    for (int i = 0; i < 500 && http_server_metrics(f.s)->tls_reloads_total == 0; i++) {
        run_for(&f.loop, 10);
    }
    cr_assert(eq(int, ask(&f.client, ctx, GET), 200));
    shown(&f.client, name);
    cr_assert(eq(str, name, "second"));
    client_close(&f.client);
    client_puts(&old, GET); /* Those that were there go on. */
    answer_free(&f.answer);
    cr_assert(client_answer(&old, &f.answer, 3000));
    client_close(&old);

    file = fopen(f.cert_path, "w");
    fputs("-----BEGIN CERTIFICATE-----\n", file);
    fclose(file);
    for (int i = 0; i < 500 && http_server_metrics(f.s)->tls_reloads_failed_total == 0; i++) {
        run_for(&f.loop, 10);
    }
    cr_assert(eq(u64, http_server_metrics(f.s)->tls_reloads_failed_total, 1));
    cr_assert(eq(int, ask(&f.client, ctx, GET), 200));
    shown(&f.client, name);
    cr_assert(eq(str, name, "second"));
    client_close(&f.client);
    test_cert_free(&second);
    SSL_CTX_free(ctx);
    close_server();
}

/* --- memory ------------------------------------------------------------------------------------------------------- */

/* What an idle connection costs the server; the clients' half lives in this process, too, and is counted with it. */
Test(https, idle_connections_stay_small, .timeout = 60)
{
    enum { COUNT = 100, BYTES_MAX = 100 << 10 };
    static struct client clients[COUNT];
    SSL_CTX *ctx = test_ssl_ctx(NULL, NULL);
    size_t before;
    size_t after;

    open_server(false);
    cr_assert(eq(int, ask(&f.client, ctx, GET), 200));
    before = mallinfo2().uordblks;
    for (int i = 0; i < COUNT; i++) {
        cr_assert(eq(int, ask(&clients[i], ctx, GET), 200));
    }
    after = mallinfo2().uordblks;
    cr_assert(lt(sz, (after - before) / COUNT, BYTES_MAX));
    for (int i = 0; i < COUNT; i++) {
        client_close(&clients[i]);
    }
    client_close(&f.client);
    SSL_CTX_free(ctx);
    close_server();
}
