/* Wrong certificates, other people's OpenSSL, and the files at the start. */
#include "sidecar/io/tls_internal.h"
#include "tls_lab.h"

#include <openssl/err.h>
#include <sys/stat.h>
#include <unistd.h>

TestSuite(tls_certs, .init = tls_lab_begin, .fini = tls_lab_finish, .timeout = 60);

/* --- wrong certificates ------------------------------------------------------------------------------------------- */

/* Plain OpenSSL, which shows what we would not, and believes everybody. */
struct stranger {
    SSL_CTX *ctx;
    SSL *ssl;
    char error[256];
};

static void stranger_open(struct stranger *x, const struct test_cert *own, bool server)
{
    memset(x, 0, sizeof *x);
    x->ctx = test_ssl_ctx(own, server ? NULL : "\2h2");
    x->ssl = SSL_new(x->ctx);
    SSL_set_bio(x->ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    if (server) {
        SSL_set_accept_state(x->ssl);
    } else {
        SSL_set_connect_state(x->ssl);
    }
}

static void stranger_close(struct stranger *x)
{
    SSL_free(x->ssl);
    SSL_CTX_free(x->ctx);
}

static void stranger_step(struct stranger *x)
{
    char plain[100];
    int rv;

    ERR_clear_error();
    rv = SSL_read(x->ssl, plain, sizeof plain);
    if (rv <= 0 && SSL_get_error(x->ssl, rv) == SSL_ERROR_SSL && x->error[0] == '\0') {
        ERR_error_string_n(ERR_get_error(), x->error, sizeof x->error);
    }
}

/* Runs the handshake between a session of ours and the stranger. */
static void meet(struct end *e, struct stranger *x)
{
    for (unsigned i = 0; i < 6; i++) {
        uv_buf_t buf;
        char bytes[20000];
        int count;

        if (tls_session_out(e->s, &buf)) {
            BIO_write(SSL_get_rbio(x->ssl), buf.base, (int)buf.len);
            tls_session_sent(e->s);
        }
        stranger_step(x);
        while ((count = BIO_read(SSL_get_wbio(x->ssl), bytes, sizeof bytes)) > 0) {
            end_feed(e, bytes, (size_t)count);
        }
    }
}

/* In both roles every kind is refused, with words that name what is wrong; the other side gets an alert; and a good
 * certificate shown in the same way gets through. */
Test(tls_certs, wrong_certificates_are_refused)
{
    static const struct tls_name expect = {.cluster = "test", .kind = TLS_KIND_NODE, .name = "b"};
    struct test_cert good = test_node_cert(&ca, "test", "b");
    struct identity a;

    node_identity(&a, "a");
    for (int kind = 0; kind <= TEST_BAD_KINDS; kind++) {
        for (int server = 0; server < 2; server++) {
            const char *words = NULL;
            struct test_cert bad = {.cert = NULL};
            struct stranger x;
            struct end e;

            if (kind < TEST_BAD_KINDS) {
                bad = test_bad_cert((enum test_bad_kind)kind, &ca, server, &words);
            }
            stranger_open(&x, kind < TEST_BAD_KINDS ? &bad : &good, server);
            end_open(&e, &a, server ? TLS_CLIENT : TLS_SERVER, &expect);
            meet(&e, &x);
            if (kind < TEST_BAD_KINDS) {
                cr_assert(eq(int, e.rv, OTR_DENIED), "kind %d, server %d: %s", kind, server, e.msg.text);
                cr_assert(strstr(e.msg.text, words) != NULL, "kind %d, server %d: %s", kind, server, e.msg.text);
                cr_assert(not(tls_session_ready(e.s)));
                cr_assert(tls_session_name(e.s) == NULL);
                cr_assert(strstr(x.error, "alert") != NULL, "kind %d, server %d: %s", kind, server, x.error);
            } else {
                cr_assert(tls_session_ready(e.s), "server %d: %s", server, e.msg.text);
                cr_assert(eq(str, x.error, ""));
            }
            end_close(&e);
            stranger_close(&x);
            test_cert_free(&bad);
        }
    }
    cr_assert(eq(u64, tls_stats(a.tls).handshakes, 2));
    cr_assert(eq(u64, tls_stats(a.tls).handshakes_failed, 2 * TEST_BAD_KINDS));
    test_cert_free(&good);
    identity_close(&a);
}

/* Without any, and with a good one of another name. */
Test(tls_certs, no_certificate_and_another_name)
{
    static const struct tls_name expect = {.cluster = "test", .kind = TLS_KIND_NODE, .name = "b"};
    struct test_cert other = test_node_cert(&ca, "test", "c");
    struct identity a;
    struct stranger x;
    struct end e;

    node_identity(&a, "a");
    stranger_open(&x, NULL, false);
    end_open(&e, &a, TLS_SERVER, NULL);
    meet(&e, &x);
    cr_assert(eq(int, e.rv, OTR_DENIED));
    cr_assert(strstr(e.msg.text, "showed no certificate") != NULL, "%s", e.msg.text);
    end_close(&e);
    stranger_close(&x);
    for (int server = 0; server < 2; server++) {
        stranger_open(&x, &other, server);
        end_open(&e, &a, server ? TLS_CLIENT : TLS_SERVER, &expect);
        meet(&e, &x);
        cr_assert(eq(int, e.rv, OTR_DENIED));
        cr_assert(strstr(e.msg.text, "its name is c, expected b") != NULL, "%s", e.msg.text);
        end_close(&e);
        stranger_close(&x);
    }
    test_cert_free(&other);
    identity_close(&a);
}

/* What the other side has against our certificate is said as far as the alert tells. */
Test(tls_certs, our_certificate_is_refused)
{
    struct test_cert foreign = test_node_cert(&ca2, "test", "a");
    struct identity a, b;
    struct end client, server;

    node_identity(&b, "b");
    identity_open(&a, "a", &foreign);
    end_open(&client, &a, TLS_CLIENT, NULL);
    end_open(&server, &b, TLS_SERVER, NULL);
    pump(&client, &server, 65536);
    cr_assert(eq(int, client.rv, OTR_DENIED));
    cr_assert(strstr(client.msg.text, "the other side refuses our certificate (unknown CA)") != NULL, "%s",
              client.msg.text);
    test_cert_free(&foreign);
    end_close(&client);
    end_close(&server);
    identity_close(&a);
    identity_close(&b);
}

/* Once the CA has been replaced, whom only the old one vouches for stays out: nothing is resumed. */
Test(tls_certs, the_old_ca_counts_no_more_after_a_reload)
{
    struct pair p;
    struct end client, server;
    struct test_cert renewed = test_node_cert(&ca2, "test", "b");

    pair_open(&p);
    test_ca_write(p.b.ca, &ca2, NULL);
    test_cert_write(&renewed, p.b.cert, p.b.key);
    run_until_stats(&p.b, 1, 0);
    end_open(&client, &p.a, TLS_CLIENT, NULL);
    end_open(&server, &p.b, TLS_SERVER, NULL);
    pump(&client, &server, 65536);
    cr_assert(eq(int, client.rv, OTR_DENIED));
    cr_assert(strstr(client.msg.text, "unknown CA (CN=another CA)") != NULL, "%s", client.msg.text);
    end_close(&client);
    end_close(&server);
    test_ca_write(p.a.ca, &ca, &ca2); /* Now we trust it, and it not us. */
    run_until_stats(&p.a, 1, 0);
    end_open(&client, &p.a, TLS_CLIENT, NULL);
    end_open(&server, &p.b, TLS_SERVER, NULL);
    pump(&client, &server, 65536);
    cr_assert(eq(int, server.rv, OTR_DENIED));
    cr_assert(strstr(server.msg.text, "unknown CA (CN=the CA)") != NULL, "%s", server.msg.text);
    end_close(&client);
    end_close(&server);
    test_cert_free(&renewed);
    pair_close(&p);
}

/* Old versions and ciphers without forward secrecy are not spoken. */
Test(tls_certs, old_protocols_are_refused)
{
    struct test_cert good = test_node_cert(&ca, "test", "b");
    struct identity a;

    node_identity(&a, "a");
    for (int i = 0; i < 3; i++) {
        struct stranger x;
        struct end e;

        stranger_open(&x, &good, false);
        SSL_set_max_proto_version(x.ssl, i == 0 ? TLS1_1_VERSION : TLS1_2_VERSION);
        SSL_set_cipher_list(x.ssl, i == 1 ? "AES128-GCM-SHA256" : "DEFAULT");
        end_open(&e, &a, TLS_SERVER, NULL);
        meet(&e, &x);
        cr_assert(eq(int, e.rv, i == 2 ? 0 : OTR_PROTO), "%d: %s", i, e.msg.text);
        cr_assert(eq(int, tls_session_ready(e.s), i == 2));
        end_close(&e);
        stranger_close(&x);
    }
    test_cert_free(&good);
    identity_close(&a);
}

/* A client that asks for a protocol that we do not speak is told so. */
Test(tls_certs, another_application_protocol)
{
    struct test_cert good = test_node_cert(&ca, "test", "b");
    struct identity a;
    struct stranger x;
    struct end e;

    node_identity(&a, "a");
    stranger_open(&x, &good, false);
    SSL_set_alpn_protos(x.ssl, (const unsigned char *)"\3xyz", 4);
    end_open(&e, &a, TLS_SERVER, NULL);
    meet(&e, &x);
    cr_assert(eq(int, e.rv, OTR_PROTO));
    cr_assert(strstr(x.error, "no application protocol") != NULL, "%s", x.error);
    end_close(&e);
    stranger_close(&x);
    stranger_open(&x, &good, true); /* A server without ALPN. */
    end_open(&e, &a, TLS_CLIENT, NULL);
    SSL_CTX_set_alpn_select_cb(x.ctx, NULL, NULL);
    meet(&e, &x);
    cr_assert(eq(int, e.rv, OTR_DENIED));
    cr_assert(strstr(e.msg.text, "(ALPN)") != NULL, "%s", e.msg.text);
    end_close(&e);
    stranger_close(&x);
    test_cert_free(&good);
    identity_close(&a);
}

/* --- files at the start ------------------------------------------------------------------------------------------- */

/* What the others would refuse is refused here, in words that name the file. */
Test(tls_certs, own_files_are_checked)
{
    static const struct tls_name self = {.cluster = "test", .kind = TLS_KIND_NODE, .name = "b"};
    struct test_cert good = test_node_cert(&ca, "test", "b");
    struct test_cert other = test_node_cert(&ca, "test", "c");
    struct otr_errmsg msg = {0};
    struct identity i;

    for (int kind = 0; kind < TEST_BAD_KINDS; kind++) {
        const char *words;
        struct test_cert bad = test_bad_cert((enum test_bad_kind)kind, &ca, true, &words);

        identity_paths(&i, "self");
        test_ca_write(i.ca, &ca, NULL);
        if (kind == TEST_BAD_KEY) {
            test_cert_write(&good, i.cert, NULL);
            test_cert_write(&other, NULL, i.key);
            words = "not the key of the certificate in";
        } else {
            test_cert_write(&bad, i.cert, i.key);
        }
        if (kind == TEST_BAD_EXPIRED || kind == TEST_BAD_NOT_YET) {
            /* Its successor will be picked up. */
            cr_assert(zero(int, identity_try(&i, &self, &msg)), "%s", msg.text);
            identity_close(&i);
        } else {
            cr_assert(eq(int, identity_try(&i, &self, &msg), OTR_INVALID), "kind %d", kind);
            cr_assert(strstr(msg.text, words) != NULL || kind == TEST_BAD_SHORT_KEY || kind == TEST_BAD_MD5,
                      "kind %d: %s", kind, msg.text);
            cr_assert(strstr(msg.text, dir.path) != NULL, "kind %d: %s", kind, msg.text);
        }
        test_cert_free(&bad);
    }
    test_cert_write(&other, i.cert, i.key);
    cr_assert(eq(int, identity_try(&i, &self, &msg), OTR_INVALID));
    cr_assert(strstr(msg.text, "its name is c, expected b") != NULL, "%s", msg.text);
    test_cert_write(&good, i.cert, i.key);
    cr_assert(zero(int, identity_try(&i, &self, &msg)), "%s", msg.text);
    identity_close(&i);
    unlink(i.ca);
    cr_assert(eq(int, identity_try(&i, &self, &msg), OTR_INVALID));
    cr_assert(strstr(msg.text, "self-ca.pem: No such file") != NULL, "%s", msg.text);
    cr_assert(zero(int, mkdir(i.ca, 0700)));
    cr_assert(eq(int, identity_try(&i, &self, &msg), OTR_INVALID));
    cr_assert(strstr(msg.text, "self-ca.pem: not a file") != NULL, "%s", msg.text);
    rmdir(i.ca);
    test_cert_free(&good);
    test_cert_free(&other);
}

/* An RSA certificate with the key of an elliptic curve: not even of a kind. */
Test(tls_certs, key_of_another_kind)
{
    struct test_cert rsa = test_cert_make(&(struct test_cert_spec){.name = "b", .issuer = &ca, .rsa_bits = 2048});
    struct test_cert good = test_node_cert(&ca, "test", "b");
    struct otr_errmsg msg = {0};
    struct identity i;

    identity_paths(&i, "b");
    test_ca_write(i.ca, &ca, NULL);
    test_cert_write(&rsa, i.cert, NULL);
    test_cert_write(&good, NULL, i.key);
    cr_assert(eq(int, identity_try(&i, NULL, &msg), OTR_INVALID));
    cr_assert(strstr(msg.text, "not the key of the certificate") != NULL, "%s", msg.text);
    test_cert_free(&rsa);
    test_cert_free(&good);
}

/* The chain file's intermediates are sent along, and an intermediate as CA is trusted without its root. */
Test(tls_certs, intermediates)
{
    struct test_cert between = test_cert_make(&(struct test_cert_spec){.name = "between", .ca = 1, .issuer = &ca});
    struct test_cert cert = test_node_cert(&between, "test", "a");
    struct identity a, b;

    X509_up_ref(between.cert);
    cert.above = between.cert;
    identity_open(&a, "a", &cert);
    node_identity(&b, "b");
    for (int i = 0; i < 2; i++) {
        struct end client, server;

        end_open(&client, &a, TLS_CLIENT, NULL);
        end_open(&server, &b, TLS_SERVER, &any_node_of_test);
        pump(&client, &server, 65536);
        if (i == 0) {
            cr_assert(tls_session_ready(server.s), "%s", server.msg.text);
            test_ca_write(b.ca, &between, NULL);
            run_until_stats(&b, 1, 0);
        } else {
            cr_assert(tls_session_verified(server.s), "%s", server.msg.text);
        }
        end_close(&client);
        end_close(&server);
    }
    test_cert_free(&between);
    test_cert_free(&cert);
    identity_close(&a);
    identity_close(&b);
}

/* --- names -------------------------------------------------------------------------------------------------------- */

/* The name in a certificate is taken apart to the last byte: what is not exactly a name is none. */
Test(tls_certs, names_are_exact)
{
    static const char *const malformed[] = {
        "outrigger://",
        "outrigger://c",
        "outrigger://c/",
        "outrigger:///node/n",
        "outrigger://c/node",
        "outrigger://c/node/",
        "outrigger://c/client/",
        "outrigger://c/nodes/n",
        "outrigger://c/node/a/",
        "outrigger://c/node/a b",
        "outrigger://c d/node/a",
        "outrigger://c/node/a%2F",
        "outrigger://c/Node/a",
        "outrigger://c//node/a",
        "outrigger://c@d/node/a",
        /* 64 bytes: one too many */
        "outrigger://c/node/0123456789012345678901234567890123456789012345678901234567890123",
    };
    static const char *const none[] = {"outrigger:/c/node/a", "OUTRIGGER://c/node/a", "xoutrigger://c/node/a", NULL};
    struct otr_errmsg why = {0};
    struct test_cert cert;
    struct tls_name name;

    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
        cert = test_cert_make(&(struct test_cert_spec){.name = "x", .uri = malformed[i], .issuer = &ca});
        cr_assert(not(tls_name_of(cert.cert, &name, &why)), "%s", malformed[i]);
        cr_assert(eq(str, why.text, "its outrigger:// name is malformed"), "%s: %s", malformed[i], why.text);
        cr_assert(eq(str, name.cluster, ""), "%s", malformed[i]); /* Nothing is left of what was read so far. */
        cr_assert(eq(int, name.kind, TLS_KIND_ANY));
        test_cert_free(&cert);
    }
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        cert = test_cert_make(&(struct test_cert_spec){.name = "x", .uri = none[i], .issuer = &ca});
        cr_assert(not(tls_name_of(cert.cert, &name, &why)));
        cr_assert(eq(str, why.text, "it has no name of the form outrigger://CLUSTER/node/NAME"), "%s", why.text);
        test_cert_free(&cert);
    }
    cert = test_cert_make(&(struct test_cert_spec){
        .name = "x", .uri = "outrigger://a.b-c_1/client/Z.9", .dns = "outrigger.example", .issuer = &ca});
    cr_assert(tls_name_of(cert.cert, &name, &why), "%s", why.text);
    cr_assert(eq(str, name.cluster, "a.b-c_1"));
    cr_assert(eq(int, name.kind, TLS_KIND_CLIENT));
    cr_assert(eq(str, name.name, "Z.9"));
    test_cert_free(&cert);
}

/* What stands in logs about a certificate is one line, whatever its maker wrote there. */
Test(tls_certs, subjects_are_words_for_logs)
{
    struct test_cert cert;
    char subject[TLS_SUBJECT_BYTES];

    cert = test_cert_make(&(struct test_cert_spec){.name = "", .issuer = &ca});
    tls_subject(cert.cert, subject);
    cr_assert(eq(str, subject, "without a subject"));
    test_cert_free(&cert);
    cert = test_cert_make(&(struct test_cert_spec){.name = "a\nERROR b", .issuer = &ca});
    tls_subject(cert.cert, subject);
    cr_assert(zero(ptr, strchr(subject, '\n')), "%s", subject);
    cr_assert(strstr(subject, "ERROR b") != NULL, "%s", subject);
    test_cert_free(&cert);
}

Test(tls_certs, times_that_nobody_can_read_are_called_so)
{
    ASN1_TIME *time = ASN1_TIME_new();
    char words[TLS_TIME_BYTES];

    cr_assert(eq(int, ASN1_STRING_set(time, "99xx", 4), 1));
    tls_time_words(time, words);
    cr_assert(eq(str, words, "an unreadable time"));
    cr_assert(zero(u64, tls_time_s(time)));
    cr_assert(eq(int, ASN1_TIME_set_string(time, "20300102030405Z"), 1));
    tls_time_words(time, words);
    cr_assert(eq(str, words, "2030-01-02T03:04:05Z"));
    cr_assert(eq(u64, tls_time_s(time), 1893553445));
    ASN1_TIME_free(time);
}

/* A good certificate of which somebody has changed one bit of the signature. */
Test(tls_certs, a_forged_signature_is_refused)
{
    static const struct tls_name expect = {.cluster = "test", .kind = TLS_KIND_NODE, .name = "b"};
    struct test_cert cert = test_node_cert(&ca, "test", "b");
    unsigned char *der = NULL;
    int bytes = i2d_X509(cert.cert, &der);
    const unsigned char *at = der;
    struct identity a;
    struct stranger x;
    struct end e;

    der[bytes - 1] ^= 1;
    X509_free(cert.cert);
    cert.cert = d2i_X509(NULL, &at, bytes);
    cr_assert(ne(ptr, cert.cert, NULL));
    OPENSSL_free(der);
    node_identity(&a, "a");
    stranger_open(&x, &cert, true);
    end_open(&e, &a, TLS_CLIENT, &expect);
    meet(&e, &x);
    cr_assert(eq(int, e.rv, OTR_DENIED), "%s", e.msg.text);
    cr_assert(strstr(e.msg.text, "its signature is not that of our CA") != NULL, "%s", e.msg.text);
    cr_assert(not(tls_session_ready(e.s)));
    end_close(&e);
    stranger_close(&x);
    test_cert_free(&cert);
    identity_close(&a);
}

/* A server may answer a hello with an alert and nothing else. */
Test(tls_certs, alerts_are_told_in_words)
{
    static const struct {
        uint8_t alert;
        int rv;
        const char *words;
    } cases[] = {
        {SSL_AD_HANDSHAKE_FAILURE, OTR_PROTO, "with the TLS alert \"handshake failure\""},
        {SSL_AD_INTERNAL_ERROR, OTR_PROTO, "with the TLS alert \"internal error\""},
        {SSL_AD_CERTIFICATE_REQUIRED, OTR_DENIED, "wants a certificate from us"},
        {SSL_AD_UNKNOWN_CA, OTR_DENIED, "refuses our certificate (unknown CA)"},
        {SSL_AD_ACCESS_DENIED, OTR_DENIED, "refuses our certificate (access denied)"},
    };
    struct identity a;

    node_identity(&a, "a");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const uint8_t record[] = {21 /* alert */, 3, 3, 0, 2, 2 /* fatal */, cases[i].alert};
        struct end e;

        end_open(&e, &a, TLS_CLIENT, NULL);
        end_feed(&e, record, sizeof record);
        cr_assert(eq(int, e.rv, cases[i].rv), "%s: %s", cases[i].words, e.msg.text);
        cr_assert(strstr(e.msg.text, cases[i].words) != NULL, "%s", e.msg.text);
        end_close(&e);
    }
    identity_close(&a);
}
