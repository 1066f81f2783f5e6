/* TLS between peers: who is let in, who is not, and what is said about it. Strangers are plain OpenSSL, which shows
 * what a hub would not. */
#include "raw.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static void begin(void)
{
    loop_begin();
    secure_begin();
}

TestSuite(tls, .init = begin, .fini = loop_end, .timeout = 60);

static struct tls_stats stats_of(const struct node *n)
{
    struct tls_stats stats = {0};

    cr_assert(peer_hub_tls_stats(n->hub, &stats));
    return stats;
}

/* --- the accepting side ------------------------------------------------------------------------------------------- */

/* Says Hello (with so many bytes more) as node `name` with that certificate: the status, or -1 and OpenSSL's reason. */
static int hello_as(const struct node *to, const struct test_cert *cert, const char *name, bool much, char text[256])
{
    SSL_CTX *ctx = test_ssl_ctx(cert, "\2h2");
    SSL *ssl = SSL_new(ctx);
    struct raw_header headers[RAW_HEADERS_MAX];
    static struct bytes out;
    int status;

    out.count = 0;
    raw_preface(&out);
    raw_call_headers(headers, "/outrigger.v1.Peer/Hello");
    for (size_t i = 0; headers[i].name != NULL; i++) {
        if (strcmp(headers[i].name, "outrigger-node") == 0) {
            headers[i].value = name;
        }
    }
    raw_headers(&out, headers, false);
    raw_message(&out, 0, NULL, 0, true);
    for (unsigned i = 0; much && i < 1000; i++) {
        raw_frame(&out, NGHTTP2_PING, 0, 0, "12345678", 8);
    }
    status = raw_exchange_tls(peer_hub_port(to->hub), ssl, &out, 5000, text, 256);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    return status;
}

/* Every kind of wrong certificate is refused before anything is answered, and its owner is told by an alert. */
Test(tls, wrong_certificates_of_callers)
{
    struct test_cert good = test_node_cert(&ca, "test", "b");
    struct node n;
    char text[256];

    node_open(&n, "n", "test", 11, 0);
    for (int kind = 0; kind < TEST_BAD_KINDS; kind++) {
        const char *words;
        struct test_cert bad = test_bad_cert((enum test_bad_kind)kind, &ca, false, &words);

        cr_assert(eq(int, hello_as(&n, &bad, "b", kind % 2 == 0, text), -1), "kind %d (%s) got in", kind, words);
        cr_assert(strstr(text, "alert") != NULL, "kind %d (%s): %s", kind, words, text);
        test_cert_free(&bad);
    }
    cr_assert(eq(int, hello_as(&n, NULL, "b", true, text), -1), "no certificate at all got in");
    cr_assert(strstr(text, "certificate required") != NULL, "%s", text);
    cr_assert(zero(u64, stats_of(&n).handshakes));
    cr_assert(eq(u64, stats_of(&n).handshakes_failed, TEST_BAD_KINDS + 1));
    cr_assert(eq(int, hello_as(&n, &good, "b", true, text), 0), "%s", text);
    cr_assert(zero(uint, n.calls_count));
    cr_assert(zero(uint, n.intruders));
    test_cert_free(&good);
    node_close(&n);
}

/* A refused caller that goes on writing can still read why: were the socket closed at once, the kernel would reset it.
 */
Test(tls, a_refused_caller_can_read_why)
{
    const char *words;
    struct test_cert bad = test_bad_cert(TEST_BAD_EXPIRED, &ca, false, &words);
    SSL_CTX *ctx = test_ssl_ctx(&bad, "\2h2");
    SSL *ssl = SSL_new(ctx);
    char block[5000] = "";
    char text[256];
    struct node n;
    unsigned written = 0;
    int fd;

    node_open(&n, "n", "test", 11, 0);
    fd = raw_connect(peer_hub_port(n.hub));
    SSL_set_fd(ssl, fd);
    SSL_set_connect_state(ssl);
    RUN_UNTIL(SSL_do_handshake(ssl) == 1);
    RUN_UNTIL(stats_of(&n).handshakes_failed == 1);
    for (; written < 10 && SSL_write(ssl, block, sizeof block) == sizeof block; written++) {
        run_once();
    }
    cr_assert(eq(uint, written, 10));
    ERR_clear_error();
    cr_assert(le(int, SSL_read(ssl, block, sizeof block), 0));
    ERR_error_string_n(ERR_get_error(), text, sizeof text);
    cr_assert(strstr(text, "alert certificate expired") != NULL, "%s", text);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    close(fd);
    test_cert_free(&bad);
    node_close(&n);
}

/* Who begins a handshake and does not go on is let go, and was never spoken to. */
Test(tls, a_handshake_that_never_ends)
{
    static const uint8_t begun[] = {22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3};
    struct bytes out = {.count = 0};
    struct node n;
    uint64_t begun_ns = uv_hrtime();

    bytes_add(&out, begun, sizeof begun);
    node_open(&n, "n", "test", 11, 0);
    cr_assert(eq(int, raw_exchange(peer_hub_port(n.hub), &out, 9000, NULL, 0), -1));
    cr_assert(ge(u64, uv_hrtime() - begun_ns, 4000000000));
    node_close(&n);
}

/* Who has a good certificate speaks for the node in it and for no other, whatever the metadata claim. */
Test(tls, a_node_cannot_speak_for_another)
{
    struct test_cert c = test_node_cert(&ca, "test", "c");
    struct node n;
    char text[256];

    node_open(&n, "n", "test", 11, 0);
    cr_assert(eq(int, hello_as(&n, &c, "b", false, text), 9));
    cr_assert(strstr(text, "the certificate is of another node") != NULL, "%s", text);
    cr_assert(eq(int, hello_as(&n, &c, "n", false, text), 9)); /* Nor pass for an intruder with our own name. */
    cr_assert(zero(uint, n.intruders));
    cr_assert(eq(u64, stats_of(&n).handshakes_failed, 2));
    cr_assert(eq(int, hello_as(&n, &c, "c", false, text), 0), "%s", text);
    test_cert_free(&c);
    node_close(&n);
}

/* --- the dialling side -------------------------------------------------------------------------------------------- */

struct stranger {
    int listening;
    uint16_t port;
    int fd;
    SSL_CTX *ctx;
    SSL *ssl;
    char got[64];
    size_t got_bytes;
    char error[256];
};

static void stranger_open(struct stranger *x, const struct test_cert *cert)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;

    memset(x, 0, sizeof *x);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    x->fd = -1;
    x->listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    cr_assert(zero(int, bind(x->listening, (struct sockaddr *)&address, sizeof address)));
    cr_assert(zero(int, listen(x->listening, 8)));
    getsockname(x->listening, (struct sockaddr *)&address, &length);
    x->port = ntohs(address.sin_port);
    x->ctx = cert != NULL ? test_ssl_ctx(cert, NULL) : NULL;
}

static void stranger_close(struct stranger *x)
{
    SSL_free(x->ssl);
    SSL_CTX_free(x->ctx);
    close(x->fd);
    close(x->listening);
}

static void stranger_step(struct stranger *x)
{
    int rv;

    if (x->fd < 0) {
        x->fd = accept4(x->listening, NULL, NULL, SOCK_NONBLOCK);
        if (x->fd >= 0) {
            x->ssl = SSL_new(x->ctx);
            SSL_set_fd(x->ssl, x->fd);
            SSL_set_accept_state(x->ssl);
        }
        return;
    }
    ERR_clear_error();
    rv = SSL_read(x->ssl, x->got + x->got_bytes, (int)(sizeof x->got - x->got_bytes));
    if (rv > 0) {
        x->got_bytes += (size_t)rv;
    } else if (SSL_get_error(x->ssl, rv) == SSL_ERROR_SSL && x->error[0] == '\0') {
        ERR_error_string_n(ERR_get_error(), x->error, sizeof x->error);
    }
}

/* Whoever answers with a wrong certificate hears nothing of us, and learns why. The link is DOWN with the reason: never
 * UP, and never REFUSED, for that would be evidence that the peer is dead (PROTOCOL V2). */
Test(tls, wrong_certificates_of_who_answers)
{
    struct node a;

    node_open(&a, "a", "test", 11, 0);
    for (int kind = 0; kind < TEST_BAD_KINDS; kind++) {
        const char *words;
        struct test_cert bad = test_bad_cert((enum test_bad_kind)kind, &ca, true, &words);
        struct stranger x;
        struct peer_link *link;

        stranger_open(&x, &bad);
        a.events_count = 0;
        link = peer_link_open(a.hub, "b", "127.0.0.1", x.port, &a);
        RUN_UNTIL((stranger_step(&x), a.events_count > 0 && x.error[0] != '\0'));
        cr_assert(eq(uint, a.events_count, 1), "kind %d", kind);
        cr_assert(eq(int, a.events[0].state, PEER_LINK_DOWN), "kind %d", kind);
        cr_assert(zero(u64, a.events[0].incarnation));
        cr_assert(strstr(a.events[0].why, words) != NULL, "kind %d: %s", kind, a.events[0].why);
        cr_assert(zero(sz, x.got_bytes), "kind %d heard from us", kind);
        cr_assert(strstr(x.error, "alert") != NULL, "kind %d: %s", kind, x.error);
        peer_link_close(link);
        stranger_close(&x);
        test_cert_free(&bad);
    }
    cr_assert(zero(u64, stats_of(&a).handshakes));
    node_close(&a);
}

/* The same with a good certificate of another node; and one with the right name is spoken to. */
Test(tls, the_dialled_name_and_no_other)
{
    static const char *const names[] = {"c", "b"};
    struct node a;

    node_open(&a, "a", "test", 11, 0);
    for (unsigned i = 0; i < 2; i++) {
        struct test_cert cert = test_node_cert(&ca, "test", names[i]);
        struct stranger x;
        struct peer_link *link;

        stranger_open(&x, &cert);
        a.events_count = 0;
        link = peer_link_open(a.hub, "b", "127.0.0.1", x.port, &a);
        if (i == 0) {
            RUN_UNTIL((stranger_step(&x), a.events_count > 0));
            cr_assert(eq(int, a.events[0].state, PEER_LINK_DOWN));
            cr_assert(strstr(a.events[0].why, "its name is c, expected b") != NULL, "%s", a.events[0].why);
            cr_assert(zero(sz, x.got_bytes));
        } else {
            RUN_UNTIL((stranger_step(&x), x.got_bytes > 24));
            cr_assert(zero(int, memcmp(x.got, "PRI * HTTP/2.0", 14)));
        }
        peer_link_close(link);
        stranger_close(&x);
        test_cert_free(&cert);
    }
    node_close(&a);
}

/* --- two hubs ----------------------------------------------------------------------------------------------------- */

static struct peer_link *dial_from(struct node *from, const char *name, const struct node *to)
{
    struct peer_link *link = node_dial(from, name, to);

    RUN_UNTIL(from->events_count > 0);
    return link;
}

/* UP says by which protocol. */
Test(tls, up_says_how)
{
    struct node a, b;

    pair_open(&a, &b);
    cr_assert(strstr(last_event(&a)->why, "TLSv1.3") != NULL, "%s", last_event(&a)->why);
    cr_assert(eq(u64, stats_of(&a).handshakes, 1));
    cr_assert(eq(u64, stats_of(&b).handshakes, 1));
    cr_assert(gt(u64, stats_of(&b).expires_s, (uint64_t)time(NULL)));
    node_close(&a);
    node_close(&b);
}

/* A node without TLS and one with it do not meet, and both directions say what is the matter, soon. */
Test(tls, plain_meets_tls)
{
    struct node plain, safe;
    uint64_t begun_ns = uv_hrtime();

    node_open(&safe, "safe", "test", 11, 0);
    secure = false;
    node_open(&plain, "plain", "test", 22, 0);
    secure = true;
    dial_from(&plain, "safe", &safe);
    cr_assert(eq(int, plain.events[0].state, PEER_LINK_DOWN));
    cr_assert(strstr(plain.events[0].why, "the other side speaks TLS and this node does not") != NULL, "%s",
              plain.events[0].why);
    dial_from(&safe, "plain", &plain);
    cr_assert(eq(int, safe.events[0].state, PEER_LINK_DOWN));
    cr_assert(strstr(safe.events[0].why, "speaks no TLS: does it lack --peer-ca") != NULL, "%s", safe.events[0].why);
    cr_assert(le(u64, uv_hrtime() - begun_ns, 2000000000));
    cr_assert(not(peer_hub_tls_stats(plain.hub, &(struct tls_stats){0})));
    node_close(&plain);
    node_close(&safe);
}

static void replace_files(const char *node, const struct test_cert *authority)
{
    char paths[3][300];
    struct test_cert cert = test_node_cert(authority, "test", node);

    snprintf(paths[0], sizeof paths[0], "%s/%s-ca.pem", dir.path, node);
    snprintf(paths[1], sizeof paths[1], "%s/%s.pem", dir.path, node);
    snprintf(paths[2], sizeof paths[2], "%s/%s.key", dir.path, node);
    test_ca_write(paths[0], authority, NULL);
    test_cert_write(&cert, paths[1], paths[2]);
    test_cert_free(&cert);
}

/* A new CA: links that are up stay up; whom only the old CA vouches for is refused from then on, in words on both
 * sides, and no refusal is evidence that anybody is dead. */
Test(tls, replaced_ca)
{
    struct test_cert ca2 = test_ca("the next CA");
    struct node a, b;
    struct peer_link *link = pair_open(&a, &b);
    struct peer_link *second;
    struct node c;

    replace_files("b", &ca2);
    RUN_UNTIL(stats_of(&b).reloads == 1);
    cr_assert(peer_link_up(link));
    cr_assert(zero(int, send_append(link, 0, 100000)));
    RUN_UNTIL(b.replicate_count == 1);
    cr_assert(eq(uint, a.events_count, 1));
    node_open(&c, "c", "test", 33, 0);
    second = dial_from(&c, "b", &b);
    cr_assert(eq(int, c.events[0].state, PEER_LINK_DOWN));
    cr_assert(strstr(c.events[0].why, "unknown CA (CN=the next CA)") != NULL, "%s", c.events[0].why);
    cr_assert(not(peer_link_up(second)));
    dial_from(&b, "c", &c);
    cr_assert(eq(int, b.events[0].state, PEER_LINK_DOWN));
    cr_assert(strstr(b.events[0].why, "unknown CA (CN=the CA)") != NULL, "%s", b.events[0].why);
    replace_files("c", &ca2);
    RUN_UNTIL(peer_link_up(second)); /* No restart. */
    test_cert_free(&ca2);
    node_close(&a);
    node_close(&b);
    node_close(&c);
}

/* Wrong or missing files end the start, with words that name them. */
Test(tls, files_that_cannot_be_used)
{
    struct peer_config config = {
        .loop = loop,
        .cluster = "test",
        .node = "n",
        .incarnation = 1,
        .listen_host = "127.0.0.1",
        .ca_file = "/no/such/ca.pem",
    };
    struct peer_hub *hub;
    struct otr_errmsg msg = {0};

    cr_assert(eq(int, peer_hub_new(&hub, &config, &msg), OTR_INVALID));
    cr_assert(strstr(msg.text, "all three") != NULL, "%s", msg.text);
    config.cert_file = config.key_file = "/no/such/cert.pem";
    cr_assert(eq(int, peer_hub_new(&hub, &config, &msg), OTR_INVALID));
    cr_assert(strstr(msg.text, "TLS between peers: /no/such/ca.pem: No such file") != NULL, "%s", msg.text);
}
