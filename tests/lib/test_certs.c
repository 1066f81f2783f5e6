#include "tests/lib/test_certs.h"

#include <assert.h>
#include <openssl/core_names.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MUST(condition)                                                            \
    do {                                                                           \
        if (!(condition)) {                                                        \
            fprintf(stderr, "test_certs.c:%d: %s failed\n", __LINE__, #condition); \
            abort();                                                               \
        }                                                                          \
    } while (0)

static void add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509_EXTENSION *extension;

    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    MUST(extension != NULL);
    MUST(X509_add_ext(cert, extension, -1) == 1);
    X509_EXTENSION_free(extension);
}

static void add_names(X509 *cert, X509 *issuer, const struct test_cert_spec *spec)
{
    char names[600] = "";

    if (spec->uri != NULL) {
        snprintf(names + strlen(names), sizeof names - strlen(names), ",URI:%s", spec->uri);
    }
    if (spec->uri2 != NULL) {
        snprintf(names + strlen(names), sizeof names - strlen(names), ",URI:%s", spec->uri2);
    }
    if (spec->dns != NULL) {
        snprintf(names + strlen(names), sizeof names - strlen(names), ",DNS:%s", spec->dns);
    }
    if (names[0] != '\0') {
        add_extension(cert, issuer, NID_subject_alt_name, names + 1);
    }
}

struct test_cert test_cert_make(const struct test_cert_spec *spec)
{
    static long serial = 1;
    const char *usage = spec->usage != NULL ? spec->usage : "serverAuth,clientAuth";
    struct test_cert c = {.cert = X509_new()};
    X509 *issuer = spec->issuer != NULL ? spec->issuer->cert : c.cert;
    X509_NAME *name = X509_get_subject_name(c.cert);

    if (spec->key != NULL) {
        c.key = spec->key;
        EVP_PKEY_up_ref(c.key);
    } else {
        c.key = spec->rsa_bits > 0 ? EVP_RSA_gen((unsigned)spec->rsa_bits) : EVP_EC_gen("P-256");
    }
    MUST(c.key != NULL);
    X509_set_version(c.cert, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(c.cert), serial++);
    X509_gmtime_adj(X509_getm_notBefore(c.cert), spec->begins_s != 0 ? spec->begins_s : -3600);
    X509_gmtime_adj(X509_getm_notAfter(c.cert), spec->ends_s != 0 ? spec->ends_s : 86400);
    X509_set_pubkey(c.cert, c.key);
    if (spec->name[0] != '\0') {
        X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)spec->name, -1, -1, 0);
    }
    X509_set_issuer_name(c.cert, X509_get_subject_name(issuer));
    add_extension(c.cert, issuer, NID_basic_constraints, spec->ca ? "critical,CA:TRUE" : "critical,CA:FALSE");
    add_extension(c.cert, issuer, NID_key_usage,
                  spec->ca ? "critical,keyCertSign,cRLSign" : "critical,digitalSignature");
    add_extension(c.cert, issuer, NID_subject_key_identifier, "hash");
    if (spec->issuer != NULL) {
        add_extension(c.cert, issuer, NID_authority_key_identifier, "keyid:always");
    }
    if (!spec->ca && usage[0] != '\0') {
        add_extension(c.cert, issuer, NID_ext_key_usage, usage);
    }
    add_names(c.cert, issuer, spec);
    MUST(X509_sign(c.cert, spec->issuer != NULL ? spec->issuer->key : c.key,
                   EVP_get_digestbyname(spec->hash != NULL ? spec->hash : "SHA256")) > 0);
    return c;
}

void test_cert_free(struct test_cert *c)
{
    X509_free(c->cert);
    EVP_PKEY_free(c->key);
    X509_free(c->above);
    memset(c, 0, sizeof *c);
}

struct test_cert test_ca(const char *name)
{
    return test_cert_make(&(struct test_cert_spec){.name = name, .ca = 1});
}

struct test_cert test_node_cert(const struct test_cert *ca, const char *cluster, const char *node)
{
    char uri[200];

    snprintf(uri, sizeof uri, "outrigger://%s/node/%s", cluster, node);
    return test_cert_make(&(struct test_cert_spec){.name = node, .uri = uri, .issuer = ca});
}

struct test_cert test_bad_cert(enum test_bad_kind kind, const struct test_cert *ca, int server, const char **words)
{
    static const char *const all_words[TEST_BAD_KINDS] = {
        [TEST_BAD_EXPIRED] = "it expired on 20",
        [TEST_BAD_NOT_YET] = "it is not valid before 20",
        [TEST_BAD_OTHER_CA] = "it is signed by an unknown CA (CN=somebody's CA)",
        [TEST_BAD_SELF_SIGNED] = "it is signed by itself",
        [TEST_BAD_CLUSTER] = "it is of cluster other, expected test",
        [TEST_BAD_NO_NAME] = "it has no name of the form outrigger://",
        [TEST_BAD_USAGE] = "key usage lacks",
        [TEST_BAD_NO_USAGE] = "its extended key usage lacks",
        [TEST_BAD_CLIENT] = "it is of a client (b), expected a node",
        [TEST_BAD_TWO_NAMES] = "it has more than one outrigger:// name",
        [TEST_BAD_MALFORMED_NAME] = "its outrigger:// name is malformed",
        [TEST_BAD_KEY] = "does not hold the key of the certificate",
        [TEST_BAD_SHORT_KEY] = "its key is too short",
        [TEST_BAD_MD5] = "it is signed with a weak hash",
        [TEST_BAD_SIGNED_BY_A_NODE] = "invalid CA certificate",
    };
    struct test_cert_spec spec = {.name = "b", .uri = "outrigger://test/node/b", .issuer = ca};
    struct test_cert above = {.cert = NULL};
    struct test_cert made;

    switch (kind) {
    case TEST_BAD_EXPIRED:
        spec.ends_s = -60;
        break;
    case TEST_BAD_NOT_YET:
        spec.begins_s = 3600;
        break;
    case TEST_BAD_OTHER_CA:
        above = test_ca("somebody's CA");
        spec.issuer = &above;
        break;
    case TEST_BAD_SELF_SIGNED:
        spec.issuer = NULL;
        break;
    case TEST_BAD_CLUSTER:
        spec.uri = "outrigger://other/node/b";
        break;
    case TEST_BAD_NO_NAME:
        spec.uri = "https://test/node/b";
        spec.dns = "b";
        break;
    case TEST_BAD_USAGE:
        spec.usage = server ? "clientAuth" : "serverAuth";
        break;
    case TEST_BAD_NO_USAGE:
        spec.usage = "";
        break;
    case TEST_BAD_CLIENT:
        spec.uri = "outrigger://test/client/b";
        break;
    case TEST_BAD_TWO_NAMES:
        spec.uri2 = "outrigger://test/node/c";
        break;
    case TEST_BAD_MALFORMED_NAME:
        spec.uri = "outrigger://test/node/b/c";
        break;
    case TEST_BAD_SHORT_KEY:
        spec.rsa_bits = 1024;
        break;
    case TEST_BAD_MD5:
        /* There is no elliptic signature with MD5: an intermediate signs. */
        above = test_cert_make(&(struct test_cert_spec){.name = "between", .ca = 1, .issuer = ca, .rsa_bits = 2048});
        spec.issuer = &above;
        spec.hash = "MD5";
        break;
    case TEST_BAD_SIGNED_BY_A_NODE:
        above = test_node_cert(ca, "test", "a");
        spec.issuer = &above;
        break;
    default:
        break;
    }
    *words = all_words[kind];
    made = test_cert_make(&spec);
    if (kind == TEST_BAD_KEY) {
        EVP_PKEY *own = EVP_EC_gen("P-256");
        EVP_PKEY *shown = made.key;

        made.key = test_key_forged(shown, own);
        EVP_PKEY_free(own);
        EVP_PKEY_free(shown);
    }
    if (kind == TEST_BAD_SIGNED_BY_A_NODE || kind == TEST_BAD_MD5) {
        X509_up_ref(above.cert);
        made.above = above.cert;
    }
    test_cert_free(&above);
    return made;
}

static FILE *open_aside(const char *path, char aside[4096], mode_t mode)
{
    FILE *f;

    snprintf(aside, 4096, "%s.new", path);
    f = fopen(aside, "w");
    MUST(f != NULL);
    MUST(chmod(aside, mode) == 0);
    return f;
}

static void put_in_place(FILE *f, const char *aside, const char *path)
{
    MUST(fclose(f) == 0);
    MUST(rename(aside, path) == 0);
}

void test_cert_write(const struct test_cert *c, const char *cert_path, const char *key_path)
{
    char aside[4096];
    FILE *f;

    if (cert_path != NULL) {
        f = open_aside(cert_path, aside, 0644);
        MUST(PEM_write_X509(f, c->cert) == 1);
        MUST(c->above == NULL || PEM_write_X509(f, c->above) == 1);
        put_in_place(f, aside, cert_path);
    }
    if (key_path != NULL) {
        f = open_aside(key_path, aside, 0600);
        MUST(PEM_write_PrivateKey(f, c->key, NULL, NULL, 0, NULL, NULL) == 1);
        put_in_place(f, aside, key_path);
    }
}

void test_ca_write(const char *path, const struct test_cert *a, const struct test_cert *b)
{
    char aside[4096];
    FILE *f = open_aside(path, aside, 0644);

    MUST(PEM_write_X509(f, a->cert) == 1);
    MUST(b == NULL || PEM_write_X509(f, b->cert) == 1);
    put_in_place(f, aside, path);
}

EVP_PKEY *test_key_forged(EVP_PKEY *shown, EVP_PKEY *held)
{
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
    OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    unsigned char public[200];
    size_t public_bytes = 0;
    BIGNUM *private = NULL;
    EVP_PKEY *forged = NULL;
    OSSL_PARAM *params;

    MUST(EVP_PKEY_get_octet_string_param(shown, OSSL_PKEY_PARAM_PUB_KEY, public, sizeof public, &public_bytes) == 1);
    MUST(EVP_PKEY_get_bn_param(held, OSSL_PKEY_PARAM_PRIV_KEY, &private) == 1);
    OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, "P-256", 0);
    OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, public, public_bytes);
    OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_PRIV_KEY, private);
    params = OSSL_PARAM_BLD_to_param(build);
    MUST(EVP_PKEY_fromdata_init(ctx) == 1);
    MUST(EVP_PKEY_fromdata(ctx, &forged, EVP_PKEY_KEYPAIR, params) == 1);
    OSSL_PARAM_free(params);
    OSSL_PARAM_BLD_free(build);
    BN_clear_free(private);
    EVP_PKEY_CTX_free(ctx);
    return forged;
}

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_bytes, const unsigned char *in,
                   unsigned in_bytes, void *data)
{
    (void)ssl;
    (void)data;
    MUST(in_bytes > in[0]);
    *out = in + 1;
    *out_bytes = in[0];
    return SSL_TLSEXT_ERR_OK;
}

static int on_verify(int ok, X509_STORE_CTX *store)
{
    (void)ok;
    (void)store;
    return 1;
}

SSL_CTX *test_ssl_ctx(const struct test_cert *own, const char *alpn)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_method());

    MUST(ctx != NULL);
    SSL_CTX_set_security_level(ctx, 0);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, on_verify);
    SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
    if (alpn != NULL) {
        MUST(SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)alpn, (unsigned)strlen(alpn)) == 0);
    }
    if (own != NULL) {
        MUST(SSL_CTX_use_certificate(ctx, own->cert) == 1);
        MUST(SSL_CTX_use_PrivateKey(ctx, own->key) == 1);
        MUST(own->above == NULL || SSL_CTX_add1_chain_cert(ctx, own->above) == 1);
    }
    return ctx;
}
