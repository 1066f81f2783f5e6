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
    const char *name; /* common name */
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

/* Write PEM files, at one go (by renaming); the key with mode 0600. NULL: not that one. */
void test_cert_write(const struct test_cert *c, const char *cert_path, const char *key_path);
/* Several CAs into one file. */
void test_ca_write(const char *path, const struct test_cert *a, const struct test_cert *b);

/* The public half of one key and the private half of another: somebody who shows a certificate that is not his. */
EVP_PKEY *test_key_forged(EVP_PKEY *shown, EVP_PKEY *held);
/* An OpenSSL context of our own making, that minds nothing: shows `own` (or nothing) and trusts everybody. alpn: as on
 * the wire. */
SSL_CTX *test_ssl_ctx(const struct test_cert *own, const char *alpn);

#endif
