/* Commands and the servers that they reach: whoever shows a wrong certificate gets no request, and so no token. */
#include "sidecar/cli/fetch.h"
#include "tests/lib/temp_dir.h"
#include "tests/lib/test_certs.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOKEN "otr_secret-of-an-operator"

/* --- a server that takes one connection --------------------------------------------------------------------------- */

struct server {
    SSL_CTX *ctx;
    int listener;
    uint16_t port;
    pthread_t thread;
    char request[4096]; /* what it was sent under TLS; read it after server_end */
};

static void *serve(void *data)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    struct server *s = data;
    int fd = accept(s->listener, NULL, NULL);
    SSL *ssl = SSL_new(s->ctx);
    int n;

    SSL_set_fd(ssl, fd);
    if (SSL_accept(ssl) == 1 && (n = SSL_read(ssl, s->request, sizeof s->request - 1)) > 0) {
        s->request[n] = '\0';
        SSL_write(ssl, answer, sizeof answer - 1);
        SSL_shutdown(ssl);
    }
    SSL_free(ssl);
    close(fd);
    return NULL;
}

static void server_start(struct server *s, const struct test_cert *cert, int version_max)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof at;

    *s = (struct server){.ctx = test_ssl_ctx(cert, NULL), .listener = socket(AF_INET, SOCK_STREAM, 0)};
    SSL_CTX_set_alpn_select_cb(s->ctx, NULL, NULL); /* HTTP/1.1 */
    SSL_CTX_set_verify(s->ctx, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_max_proto_version(s->ctx, version_max);
    cr_assert(eq(int, bind(s->listener, (struct sockaddr *)&at, sizeof at), 0));
    cr_assert(eq(int, listen(s->listener, 1), 0));
    getsockname(s->listener, (struct sockaddr *)&at, &bytes);
    s->port = ntohs(at.sin_port);
    cr_assert(eq(int, pthread_create(&s->thread, NULL, serve, s), 0));
}

static void server_end(struct server *s)
{
    pthread_join(s->thread, NULL);
    SSL_CTX_free(s->ctx);
    close(s->listener);
}

/* --- a command ---------------------------------------------------------------------------------------------------- */

static struct temp_dir dir;
static struct test_cert ca;
static char ca_path[300], token_path[300];

static void set_up(void)
{
    FILE *file;

    temp_dir_init(&dir);
    ca = test_ca("the CA");
    snprintf(ca_path, sizeof ca_path, "%s/ca.crt", dir.path);
    snprintf(token_path, sizeof token_path, "%s/token", dir.path);
    test_ca_write(ca_path, &ca, NULL);
    umask(077);
    file = fopen(token_path, "w");
    fputs(TOKEN "\n", file);
    fclose(file);
}

static void tear_down(void)
{
    test_cert_free(&ca);
    temp_dir_close(&dir);
}

TestSuite(fetch_tls, .init = set_up, .fini = tear_down, .timeout = 60);

/* Asks a server that shows `cert`; what it saw is in *s, what a user would see in *answer. */
static void ask(struct server *s, struct fetch *answer, const struct test_cert *cert, const char *host, int version_max)
{
    struct credentials_settings credentials = {.ca = ca_path, .token_file = token_path};
    struct otr_errmsg msg = {.text = ""};
    struct fetch_client client;
    struct loop loop;

    server_start(s, cert, version_max);
    cr_assert(eq(int, loop_init(&loop, &msg), 0));
    cr_assert(eq(int, fetch_open(&client, &loop, &credentials, &msg), 0), "%s", msg.text);
    *answer = (struct fetch){.method = NULL};
    snprintf(answer->url, sizeof answer->url, "https://%s:%u/cluster", host, s->port);
    fetch_all(&client, answer, 1, 10000);
    fetch_close(&client);
    loop_close(&loop);
    server_end(s);
}

Test(fetch_tls, the_right_server_gets_the_token)
{
    struct test_cert good = test_cert_make(
        &(struct test_cert_spec){.name = "", .uri = "outrigger://c/node/a", .dns = "localhost", .issuer = &ca});
    struct fetch answer;
    struct server s;

    ask(&s, &answer, &good, "localhost", 0);
    cr_assert(eq(int, answer.status, 0), "%s", answer.msg.text);
    cr_assert(eq(long, answer.http_status, 200));
    cr_assert(strstr(s.request, "GET /cluster HTTP/1.1\r\n") != NULL);
    cr_assert(strstr(s.request, "Authorization: Bearer " TOKEN "\r\n") != NULL);
    fetch_clear(&answer, 1);
    test_cert_free(&good);
}

/* spec->issuer NULL: the CA. */
static void expect_refusal(const char *kind, struct test_cert_spec spec, const char *host, const char *words)
{
    struct test_cert cert;
    struct fetch answer;
    struct server s;

    spec.issuer = spec.issuer != NULL ? spec.issuer : &ca;
    cert = test_cert_make(&spec);
    if (spec.issuer != &ca) {
        X509_up_ref(spec.issuer->cert);
        cert.above = spec.issuer->cert;
    }
    ask(&s, &answer, &cert, host, 0);
    cr_assert(ne(int, answer.status, 0), "%s", kind);
    cr_assert(strstr(answer.msg.text, words) != NULL, "%s: %s", kind, answer.msg.text);
    cr_assert(strstr(answer.msg.text, TOKEN) == NULL);
    cr_assert(eq(str, s.request, ""), "%s: the server was sent a request", kind);
    fetch_clear(&answer, 1);
    test_cert_free(&cert);
}

Test(fetch_tls, wrong_certificates_of_servers)
{
    struct test_cert stranger = test_ca("somebody's CA");
    struct test_cert node = test_node_cert(&ca, "c", "a");
    struct test_cert between =
        test_cert_make(&(struct test_cert_spec){.name = "between", .ca = 1, .issuer = &ca, .rsa_bits = 2048});
    const struct {
        const char *kind;
        struct test_cert_spec spec;
        const char *host; /* NULL: localhost */
        const char *words;
    } cases[] = {
        {"expired", {.dns = "localhost", .ends_s = -60}, NULL, "expired"},
        {"not yet valid", {.dns = "localhost", .begins_s = 3600}, NULL, "not yet valid"},
        {"of another authority", {.dns = "localhost", .issuer = &stranger}, NULL, "self-signed certificate in"},
        {"of another host", {.dns = "example.org"}, NULL, "localhost"},
        {"of a host below", {.dns = "a.localhost"}, NULL, "localhost"},
        {"of no host, but a node's", {.uri = "outrigger://c/node/localhost"}, NULL, "localhost"},
        {"for a name where an address is wanted", {.dns = "localhost"}, "127.0.0.1", "127.0.0.1"},
        {"a client's", {.dns = "localhost", .usage = "clientAuth"}, NULL, "unsuitable certificate purpose"},
        {"with a short key", {.dns = "localhost", .rsa_bits = 1024}, NULL, "key too weak"},
        {"with a weak hash",
         {.dns = "localhost", .issuer = &between, .hash = "MD5"},
         NULL,
         "digest algorithm too weak"},
        {"with an old hash",
         {.dns = "localhost", .issuer = &between, .hash = "SHA1"},
         NULL,
         "digest algorithm too weak"},
        {"signed by a node", {.dns = "localhost", .issuer = &node}, NULL, "invalid CA certificate"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct test_cert_spec spec = cases[i].spec;

        spec.name = "";
        expect_refusal(cases[i].kind, spec, cases[i].host != NULL ? cases[i].host : "localhost", cases[i].words);
    }
    test_cert_free(&between);
    test_cert_free(&node);
    test_cert_free(&stranger);
}

Test(fetch_tls, signed_by_itself)
{
    struct test_cert cert = test_cert_make(&(struct test_cert_spec){.name = "", .dns = "localhost"});
    struct fetch answer;
    struct server s;

    ask(&s, &answer, &cert, "localhost", 0);
    cr_assert(strstr(answer.msg.text, "self-signed certificate") != NULL, "%s", answer.msg.text);
    cr_assert(eq(str, s.request, ""));
    fetch_clear(&answer, 1);
    test_cert_free(&cert);
}

/* The right certificate, shown by somebody who does not have its key; and under a version that is too old. */
Test(fetch_tls, somebody_elses_certificate_and_an_old_version)
{
    struct test_cert good = test_cert_make(&(struct test_cert_spec){.name = "", .dns = "localhost", .issuer = &ca});
    struct test_cert forged = {.cert = good.cert};
    EVP_PKEY *own = EVP_EC_gen("P-256");
    struct fetch answer;
    struct server s;

    forged.key = test_key_forged(good.key, own);
    ask(&s, &answer, &forged, "localhost", 0);
    cr_assert(strstr(answer.msg.text, "bad signature") != NULL, "%s", answer.msg.text);
    cr_assert(eq(str, s.request, ""));
    fetch_clear(&answer, 1);
    ask(&s, &answer, &good, "localhost", TLS1_1_VERSION);
    cr_assert(strstr(answer.msg.text, "version") != NULL, "%s", answer.msg.text);
    cr_assert(eq(str, s.request, ""));
    fetch_clear(&answer, 1);
    EVP_PKEY_free(forged.key);
    EVP_PKEY_free(own);
    test_cert_free(&good);
}
