#include "sidecar/cli/certs_make.h"

#include "sidecar/coord/keys.h"

#include <arpa/inet.h>
#include <assert.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>

enum { SERIAL_BITS = 127, HOST_BYTES_MAX = 253, LABEL_BYTES_MAX = 63 };

static_assert(OTR_NAME_MAX <= 64, "X.509 has 64 characters for O and OU");

static const char scheme[] = "outrigger://";

void certs_pair_close(struct certs_pair *pair)
{
    EVP_PKEY_free(pair->key);
    sk_X509_pop_free(pair->chain, X509_free);
    *pair = (struct certs_pair){0};
}

int certs_refused(struct otr_errmsg *msg, const char *what)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = ERR_reason_error_string(code);

    otr_errmsg_set(msg, "%s: %s", what, reason != NULL ? reason : "refused by OpenSSL");
    ERR_clear_error();
    return ERR_GET_REASON(code) == ERR_R_MALLOC_FAILURE ? OTR_NOMEM : OTR_INVALID;
}

/* --- names -------------------------------------------------------------------------------------------------------- */

/* Letters, digits, hyphens and underscores between single dots, the first label possibly a '*'. */
static bool is_host(const char *text, size_t bytes)
{
    size_t label = 0;

    if (bytes == 0 || bytes > HOST_BYTES_MAX) {
        return false;
    }
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        bool wildcard = c == '*' && i == 0 && bytes > 2 && text[1] == '.';

        if (c == '.' ? label == 0 : ++label > LABEL_BYTES_MAX) {
            return false;
        }
        if (c == '.') {
            label = 0;
        } else if (!wildcard && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') &&
                   c != '-' && c != '_') {
            return false;
        }
    }
    return label > 0;
}

/* Go's certificate parser, and with it etcd, refuses the whole certificate when a URI's host ends in a dot or has two
 * in a row. */
static int check_cluster(const char *cluster, struct otr_errmsg *msg)
{
    if (!key_name_valid(cluster) || !is_host(cluster, strlen(cluster))) {
        otr_errmsg_set(msg,
                       "\"%s\" cannot be the cluster of a certificate: it must be a cluster's name that neither ends "
                       "in a dot nor has two in a row",
                       cluster);
        return OTR_INVALID;
    }
    return 0;
}

bool certs_uri(X509 *cert, char out[CERTS_URI_MAX])
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    bool found = false;

    for (int i = 0; !found && i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        const char *text;
        size_t bytes;

        if (name->type != GEN_URI) {
            continue;
        }
        text = (const char *)ASN1_STRING_get0_data(name->d.uniformResourceIdentifier);
        bytes = (size_t)ASN1_STRING_length(name->d.uniformResourceIdentifier);
        found = bytes < CERTS_URI_MAX && bytes > strlen(scheme) && memcmp(text, scheme, strlen(scheme)) == 0 &&
                memchr(text, '\0', bytes) == NULL;
        if (found) {
            memcpy(out, text, bytes);
            out[bytes] = '\0';
        }
    }
    GENERAL_NAMES_free(names);
    return found;
}

bool certs_uri_cluster(const char *uri, char out[OTR_NAME_MAX + 1])
{
    const char *cluster = uri + strlen(scheme);
    size_t bytes = strcspn(cluster, "/");

    if (cluster[bytes] != '/' || bytes > OTR_NAME_MAX) {
        return false;
    }
    memcpy(out, cluster, bytes);
    out[bytes] = '\0';
    return key_name_valid(out);
}

/* --- subject alternative names ------------------------------------------------------------------------------------ */

static bool has_name(const GENERAL_NAMES *names, GENERAL_NAME *name)
{
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        if (GENERAL_NAME_cmp(sk_GENERAL_NAME_value(names, i), name) == 0) {
            return true;
        }
    }
    return false;
}

/* Adds a name of that type with those bytes, unless it is there. */
static int add_name(GENERAL_NAMES *names, int type, const void *bytes, size_t count)
{
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_STRING *value = type == GEN_IPADD ? ASN1_OCTET_STRING_new() : ASN1_IA5STRING_new();

    if (name == NULL || value == NULL || ASN1_STRING_set(value, bytes, (int)count) != 1) {
        goto err;
    }
    GENERAL_NAME_set0_value(name, type, value);
    value = NULL;
    if (has_name(names, name)) {
        GENERAL_NAME_free(name);
        return 0;
    }
    if (sk_GENERAL_NAME_push(names, name) <= 0) {
        goto err;
    }
    return 0;

err:
    ASN1_STRING_free(value);
    GENERAL_NAME_free(name);
    return OTR_NOMEM;
}

static int add_host(GENERAL_NAMES *names, const char *host, size_t bytes, struct otr_errmsg *msg)
{
    char text[HOST_BYTES_MAX + 1];
    unsigned char address[sizeof(struct in6_addr)];

    if (bytes == 0 || bytes > HOST_BYTES_MAX) {
        otr_errmsg_set(msg, "a host needs a name of 1 to %d bytes", HOST_BYTES_MAX);
        return OTR_INVALID;
    }
    memcpy(text, host, bytes);
    text[bytes] = '\0';
    if (inet_pton(AF_INET, text, address) == 1) {
        return add_name(names, GEN_IPADD, address, sizeof(struct in_addr));
    }
    if (inet_pton(AF_INET6, text, address) == 1) {
        return add_name(names, GEN_IPADD, address, sizeof(struct in6_addr));
    }
    /* "10.0.0.300" and "1.2.3.4:7700" would be names that nobody ever asks for. */
    if (!is_host(text, bytes) || strspn(text, "0123456789.") == bytes) {
        otr_errmsg_set(msg, "\"%s\" is neither a host's name nor an IP address (without port)", text);
        return OTR_INVALID;
    }
    return add_name(names, GEN_DNS, text, bytes);
}

static int add_hosts(GENERAL_NAMES *names, const char *hosts, struct otr_errmsg *msg)
{
    int rv = 0;

    while (rv == 0 && hosts != NULL) {
        size_t bytes = strcspn(hosts, ",");

        rv = add_host(names, hosts, bytes, msg);
        hosts = hosts[bytes] == ',' ? hosts + bytes + 1 : NULL;
    }
    return rv;
}

static void print_uri(const struct certs_wish *wish, char out[CERTS_URI_MAX])
{
    static const char *const paths[] = {[CERTS_CA] = "ca", [CERTS_NODE] = "node/", [CERTS_CLIENT] = "client/"};
    int bytes = snprintf(out, CERTS_URI_MAX, "%s%s/%s%s", scheme, wish->cluster, paths[wish->kind],
                         wish->kind == CERTS_CA ? "" : wish->name);

    assert(bytes > 0 && bytes < CERTS_URI_MAX);
}

static int set_names(X509 *cert, const struct certs_wish *wish, struct otr_errmsg *msg)
{
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    char uri[CERTS_URI_MAX];
    int rv;

    if (names == NULL) {
        return OTR_NOMEM;
    }
    print_uri(wish, uri);
    rv = add_name(names, GEN_URI, uri, strlen(uri));
    if (rv == 0 && wish->kind == CERTS_NODE && is_host(wish->name, strlen(wish->name)) &&
        strspn(wish->name, "0123456789.") != strlen(wish->name)) {
        rv = add_name(names, GEN_DNS, wish->name, strlen(wish->name));
    }
    rv = rv != 0 ? rv : add_hosts(names, wish->hosts, msg);
    if (rv == 0 && wish->loopback) {
        rv = add_hosts(names, "localhost,127.0.0.1,::1", msg);
    }
    if (rv == 0 && X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) != 1) {
        rv = certs_refused(msg, "alternative names");
    }
    GENERAL_NAMES_free(names);
    return rv;
}

/* --- the certificate ---------------------------------------------------------------------------------------------- */

static int set_serial(X509 *cert)
{
    BIGNUM *number = BN_new();
    bool ok = number != NULL && BN_rand(number, SERIAL_BITS, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1 &&
              BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert)) != NULL;

    BN_free(number);
    return ok ? 0 : OTR_NOMEM;
}

/* No common name but the authority's: etcd's gateway refuses clients that have one as soon as etcd has users. */
static int set_subject(X509 *cert, const struct certs_wish *wish)
{
    X509_NAME *subject = X509_get_subject_name(cert);
    int nid = wish->kind == CERTS_CA ? NID_commonName : NID_organizationalUnitName;
    const char *name = wish->kind == CERTS_CA ? "Outrigger CA" : wish->name;
    bool ok;

    ok = X509_NAME_add_entry_by_NID(subject, NID_organizationName, MBSTRING_ASC, (const unsigned char *)wish->cluster,
                                    -1, -1, 0) == 1 &&
         X509_NAME_add_entry_by_NID(subject, nid, MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0) == 1;
    return ok ? 0 : OTR_NOMEM;
}

static int set_times(X509 *cert, const struct certs_wish *wish, X509 *issuer, struct otr_errmsg *msg)
{
    time_t now = (time_t)wish->now_s;
    const ASN1_TIME *end = issuer != NULL ? X509_get0_notAfter(issuer) : NULL;

    if (end != NULL && X509_cmp_time(end, &now) < 0) {
        otr_errmsg_set(msg, "the authority's certificate is over; make a new one with 'outrigger certs ca --force'");
        return OTR_INVALID;
    }
    if (X509_time_adj_ex(X509_getm_notBefore(cert), 0, -CERTS_CLOCK_SKEW_S, &now) == NULL ||
        X509_time_adj_ex(X509_getm_notAfter(cert), (int)wish->days, 0, &now) == NULL) {
        return certs_refused(msg, "time of validity");
    }
    /* A certificate that outlives its authority would only fail later, and less clearly. */
    if (end != NULL && ASN1_TIME_compare(X509_get0_notAfter(cert), end) > 0 && X509_set1_notAfter(cert, end) != 1) {
        return OTR_NOMEM;
    }
    return 0;
}

static int add_extension(X509 *cert, X509V3_CTX *context, int nid, const char *value)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, context, nid, value);
    bool ok = extension != NULL && X509_add_ext(cert, extension, -1) == 1;

    X509_EXTENSION_free(extension);
    return ok ? 0 : OTR_INVALID;
}

static int set_uses(X509 *cert, const struct certs_wish *wish, X509 *issuer, struct otr_errmsg *msg)
{
    static const char *const purposes[] = {[CERTS_NODE] = "serverAuth,clientAuth", [CERTS_CLIENT] = "clientAuth"};
    bool is_ca = wish->kind == CERTS_CA;
    X509V3_CTX context;
    int rv;

    X509V3_set_ctx(&context, issuer != NULL ? issuer : cert, cert, NULL, NULL, 0);
    rv = add_extension(cert, &context, NID_basic_constraints,
                       is_ca ? "critical,CA:TRUE,pathlen:0" : "critical,CA:FALSE");
    rv = rv != 0 ? rv
                 : add_extension(cert, &context, NID_key_usage,
                                 is_ca ? "critical,keyCertSign,cRLSign" : "critical,digitalSignature");
    if (rv == 0 && !is_ca) {
        rv = add_extension(cert, &context, NID_ext_key_usage, purposes[wish->kind]);
    }
    rv = rv != 0 ? rv : add_extension(cert, &context, NID_subject_key_identifier, "hash");
    rv = rv != 0 ? rv : add_extension(cert, &context, NID_authority_key_identifier, "keyid:always");
    return rv != 0 ? certs_refused(msg, "extensions") : 0;
}

static int check_authority(const struct certs_pair *ca, struct otr_errmsg *msg)
{
    X509 *cert = sk_X509_value(ca->chain, 0);

    if (X509_check_ca(cert) != 1 || (X509_get_key_usage(cert) & KU_KEY_CERT_SIGN) == 0) {
        otr_errmsg_set(msg, "the authority's certificate may not sign others");
        return OTR_INVALID;
    }
    if (X509_check_private_key(cert, ca->key) != 1) {
        ERR_clear_error();
        otr_errmsg_set(msg, "the authority's key is not that of its certificate");
        return OTR_INVALID;
    }
    return 0;
}

/* The authorities behind a new certificate, without roots: who is to trust it has those. */
static int add_authorities(STACK_OF(X509) * chain, const struct certs_pair *ca)
{
    for (int i = 0; i < sk_X509_num(ca->chain); i++) {
        X509 *cert = sk_X509_value(ca->chain, i);

        if (X509_self_signed(cert, 0) == 1) {
            continue;
        }
        if (X509_up_ref(cert) != 1) {
            return OTR_NOMEM;
        }
        if (sk_X509_push(chain, cert) <= 0) {
            X509_free(cert);
            return OTR_NOMEM;
        }
    }
    return 0;
}

static int fill(X509 *cert, const struct certs_wish *wish, const struct certs_pair *pair, const struct certs_pair *ca,
                struct otr_errmsg *msg)
{
    X509 *issuer = ca != NULL ? sk_X509_value(ca->chain, 0) : NULL;
    EVP_PKEY *signer = ca != NULL ? ca->key : pair->key;
    bool none = EVP_PKEY_is_a(signer, "ED25519") == 1 || EVP_PKEY_is_a(signer, "ED448") == 1;
    int rv;

    if (X509_set_version(cert, X509_VERSION_3) != 1 || X509_set_pubkey(cert, pair->key) != 1 || set_serial(cert) != 0 ||
        set_subject(cert, wish) != 0 ||
        X509_set_issuer_name(cert, X509_get_subject_name(issuer != NULL ? issuer : cert)) != 1) {
        return certs_refused(msg, "certificate");
    }
    rv = set_times(cert, wish, issuer, msg);
    rv = rv != 0 ? rv : set_uses(cert, wish, issuer, msg);
    rv = rv != 0 ? rv : set_names(cert, wish, msg);
    /* Edwards curves bring their own digest; everything else signs SHA-256. */
    if (rv == 0 && X509_sign(cert, signer, none ? NULL : EVP_sha256()) == 0) {
        rv = certs_refused(msg, "signature");
    }
    return rv;
}

int certs_pair_make(struct certs_pair *pair, const struct certs_wish *wish, const struct certs_pair *ca,
                    struct otr_errmsg *msg)
{
    X509 *cert;
    int rv;

    rv = check_cluster(wish->cluster, msg);
    if (rv == 0 && wish->kind != CERTS_CA && !key_name_valid(wish->name)) {
        otr_errmsg_set(msg, "\"%s\" is not a name", wish->name);
        rv = OTR_INVALID;
    }
    rv = rv != 0 || ca == NULL ? rv : check_authority(ca, msg);
    if (rv != 0) {
        return rv;
    }
    pair->key = EVP_EC_gen("P-256");
    pair->chain = sk_X509_new_null();
    cert = X509_new();
    if (pair->key == NULL || pair->chain == NULL || cert == NULL || sk_X509_push(pair->chain, cert) <= 0) {
        X509_free(cert);
        rv = certs_refused(msg, "new key");
        goto err;
    }
    rv = fill(cert, wish, pair, ca, msg);
    rv = rv != 0 || ca == NULL ? rv : add_authorities(pair->chain, ca);
    if (rv != 0) {
        goto err;
    }
    return 0;

err:
    certs_pair_close(pair);
    return rv;
}
