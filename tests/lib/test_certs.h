/* Certificates made at test time: CAs, good ones and every kind of bad one. Failures abort. */
#ifndef TESTS_LIB_TEST_CERTS_H
#define TESTS_LIB_TEST_CERTS_H

#include <openssl/ssl.h>

struct test_cert {
    X509 *cert;
    EVP_PKEY *key;
    X509 *above; /* an intermediate that goes into the chain file; or NULL */
};

/* Zero means the usual thing, so that a test names only what is special. */
struct test_cert_spec {
    const char *name; /* common name; "": none */
    const char *uri;  /* subject alternative names; NULL: none */
    const char *uri2;
    const char *dns;
    const char *usage; /* extended key usage: NULL: "serverAuth,clientAuth"; "": none */
    const char *hash;  /* NULL: SHA256 */
    int rsa_bits;      /* 0: a P-256 key */
    long begins_s;     /* from now; 0: an hour ago */
    long ends_s;       /* from now; 0: in a day */
    int ca;
    const struct test_cert *issuer; /* NULL: signed by itself */
    EVP_PKEY *key;                  /* NULL: a new one */
};

struct test_cert test_cert_make(const struct test_cert_spec *spec);
void test_cert_free(struct test_cert *c);
/* A CA called `name`. */
struct test_cert test_ca(const char *name);
/* A good certificate of a node, by the CA. */
struct test_cert test_node_cert(const struct test_cert *ca, const char *cluster, const char *node);

/* Certificates that a node "b" of cluster "test" must not get through with, towards whoever trusts `ca`. */
enum test_bad_kind {
    TEST_BAD_EXPIRED,
    TEST_BAD_NOT_YET,
    TEST_BAD_OTHER_CA,
    TEST_BAD_SELF_SIGNED,
    TEST_BAD_CLUSTER,
    TEST_BAD_NO_NAME,
    TEST_BAD_USAGE, /* fit for the other role only */
    TEST_BAD_NO_USAGE,
    TEST_BAD_CLIENT, /* a client's, called b */
    TEST_BAD_TWO_NAMES,
    TEST_BAD_MALFORMED_NAME,
    TEST_BAD_KEY, /* good, but somebody else's: shown without having its key */
    TEST_BAD_SHORT_KEY,
    TEST_BAD_MD5,
    TEST_BAD_SIGNED_BY_A_NODE,
    TEST_BAD_KINDS,
};
/* `server`: the role in which it will be shown. *words: what a refusal of it must say. */
struct test_cert test_bad_cert(enum test_bad_kind kind, const struct test_cert *ca, int server, const char **words);

/* Write PEM files, at one go (by renaming); the key with mode 0600. NULL: not that one. */
void test_cert_write(const struct test_cert *c, const char *cert_path, const char *key_path);
/* Several CAs into one file. */
void test_ca_write(const char *path, const struct test_cert *a, const struct test_cert *b);

/* The public half of one key and the private half of another: somebody who shows a certificate that is not his. */
EVP_PKEY *test_key_forged(EVP_PKEY *shown, EVP_PKEY *held);
/* An OpenSSL context of our own making, that minds nothing: shows `own` (or nothing), asks for a certificate and trusts
 * everybody. alpn: what a client asks for, as on the wire; a server takes what comes first. */
SSL_CTX *test_ssl_ctx(const struct test_cert *own, const char *alpn);

#endif
