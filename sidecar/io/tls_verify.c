#include "sidecar/io/tls_internal.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const char name_scheme[] = "outrigger://";

/* --- reading a certificate ---------------------------------------------------------------------------------------- */

static void name_words(X509_NAME *name, char out[TLS_SUBJECT_BYTES])
{
    BIO *bio = BIO_new(BIO_s_mem());
    int bytes = -1;

    out[0] = '\0';
    /* RFC 2253 escapes control characters: what a stranger put there cannot forge log lines. */
    if (bio != NULL && X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253) >= 0) {
        bytes = BIO_read(bio, out, TLS_SUBJECT_BYTES - 1);
    }
    out[bytes > 0 ? bytes : 0] = '\0';
    BIO_free(bio);
}

void tls_subject(X509 *cert, char out[TLS_SUBJECT_BYTES])
{
    name_words(X509_get_subject_name(cert), out);
    if (out[0] == '\0') {
        snprintf(out, TLS_SUBJECT_BYTES, "without a subject");
    }
}

void tls_time_words(const ASN1_TIME *at, char out[TLS_TIME_BYTES])
{
    struct tm tm;

    if (ASN1_TIME_to_tm(at, &tm) != 1 || strftime(out, TLS_TIME_BYTES, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0) {
        snprintf(out, TLS_TIME_BYTES, "an unreadable time");
    }
}

uint64_t tls_time_s(const ASN1_TIME *at)
{
    struct tm tm;
    time_t seconds = ASN1_TIME_to_tm(at, &tm) == 1 ? timegm(&tm) : 0;

    return seconds > 0 ? (uint64_t)seconds : 0;
}

void tls_dates_check(X509 *cert, struct otr_errmsg *why)
{
    char at[TLS_TIME_BYTES];

    why->text[0] = '\0';
    if (X509_cmp_current_time(X509_get0_notBefore(cert)) >= 0) {
        tls_time_words(X509_get0_notBefore(cert), at);
        otr_errmsg_set(why, "it is not valid before %s", at);
    } else if (X509_cmp_current_time(X509_get0_notAfter(cert)) <= 0) {
        tls_time_words(X509_get0_notAfter(cert), at);
        otr_errmsg_set(why, "it expired on %s", at);
    }
}

/* Copies text up to `end` (exclusive); false when empty, too long or not of a name's characters. */
static bool take_name(char out[OTR_NAME_MAX + 1], const char *from, const char *end)
{
    size_t bytes = (size_t)(end - from);

    if (bytes == 0 || bytes > OTR_NAME_MAX) {
        return false;
    }
    for (size_t i = 0; i < bytes; i++) {
        char c = from[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
              c == '-')) {
            return false;
        }
    }
    memcpy(out, from, bytes);
    out[bytes] = '\0';
    return true;
}

/* `uri` need not end in NUL. */
static bool parse_name(const char *uri, size_t bytes, struct tls_name *name)
{
    const char *end = uri + bytes;
    const char *at = uri + strlen(name_scheme);
    const char *slash = memchr(at, '/', (size_t)(end - at));

    if (slash == NULL || !take_name(name->cluster, at, slash)) {
        return false;
    }
    at = slash + 1;
    if (end - at > 5 && memcmp(at, "node/", 5) == 0) {
        name->kind = TLS_KIND_NODE;
        return take_name(name->name, at + 5, end);
    }
    if (end - at > 7 && memcmp(at, "client/", 7) == 0) {
        name->kind = TLS_KIND_CLIENT;
        return take_name(name->name, at + 7, end);
    }
    return false;
}

bool tls_name_of(X509 *cert, struct tls_name *name, struct otr_errmsg *why)
{
    GENERAL_NAMES *all = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    int count = 0;
    bool legal = false;

    for (int i = 0; i < sk_GENERAL_NAME_num(all); i++) {
        const GENERAL_NAME *g = sk_GENERAL_NAME_value(all, i);
        const ASN1_IA5STRING *uri = g->d.uniformResourceIdentifier;

        if (g->type == GEN_URI && uri->length >= (int)sizeof name_scheme - 1 &&
            memcmp(uri->data, name_scheme, sizeof name_scheme - 1) == 0) {
            count++;
            legal = parse_name((const char *)uri->data, (size_t)uri->length, name);
        }
    }
    GENERAL_NAMES_free(all);
    if (count == 1 && legal) {
        return true;
    }
    memset(name, 0, sizeof *name);
    otr_errmsg_set(why, count == 0   ? "it has no name of the form outrigger://CLUSTER/node/NAME"
                        : count == 1 ? "its outrigger:// name is malformed"
                                     : "it has more than one outrigger:// name");
    return false;
}

/* --- judging it --------------------------------------------------------------------------------------------------- */

static const char *const kinds[] = {[TLS_KIND_ANY] = "anybody", [TLS_KIND_NODE] = "node", [TLS_KIND_CLIENT] = "client"};

static bool name_fits(const struct tls_name *name, const struct tls_name *expect, struct otr_errmsg *why)
{
    if (expect->cluster[0] != '\0' && strcmp(name->cluster, expect->cluster) != 0) {
        otr_errmsg_set(why, "it is of cluster %s, expected %s", name->cluster, expect->cluster);
        return false;
    }
    if (expect->kind != TLS_KIND_ANY && name->kind != expect->kind) {
        otr_errmsg_set(why, "it is of a %s (%s), expected a %s", kinds[name->kind], name->name, kinds[expect->kind]);
        return false;
    }
    if (expect->name[0] != '\0' && strcmp(name->name, expect->name) != 0) {
        otr_errmsg_set(why, "its name is %s, expected %s", name->name, expect->name);
        return false;
    }
    return true;
}

/* OpenSSL lets certificates without the extension pass for any purpose. */
static bool usage_fits(X509 *cert, enum tls_role is, struct otr_errmsg *why)
{
    uint32_t usage = X509_get_extended_key_usage(cert);
    uint32_t needed = is == TLS_SERVER ? XKU_SSL_SERVER : XKU_SSL_CLIENT;

    if (usage == UINT32_MAX || (usage & needed) == 0) {
        otr_errmsg_set(why, "its extended key usage lacks %s", is == TLS_SERVER ? "serverAuth" : "clientAuth");
        return false;
    }
    return true;
}

static void chain_words(int error, X509 *cert, enum tls_role is, struct otr_errmsg *why)
{
    char issuer[TLS_SUBJECT_BYTES];

    switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
    case X509_V_ERR_CERT_NOT_YET_VALID:
        tls_dates_check(cert, why);
        return;
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        name_words(X509_get_issuer_name(cert), issuer);
        otr_errmsg_set(why, "it is signed by an unknown CA (%s)", issuer);
        return;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
        otr_errmsg_set(why, "it is signed by itself, not by our CA");
        return;
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
        otr_errmsg_set(why, "its signature is not that of our CA");
        return;
    case X509_V_ERR_INVALID_PURPOSE:
        otr_errmsg_set(why, "it may not be used for this: its (extended) key usage lacks what a TLS %s needs",
                       is == TLS_SERVER ? "server" : "client");
        return;
    case X509_V_ERR_EE_KEY_TOO_SMALL:
    case X509_V_ERR_CA_KEY_TOO_SMALL:
        otr_errmsg_set(why, "its key is too short");
        return;
    case X509_V_ERR_CA_MD_TOO_WEAK:
        otr_errmsg_set(why, "it is signed with a weak hash");
        return;
    default:
        otr_errmsg_set(why, "%s", X509_verify_cert_error_string(error));
        return;
    }
}

int tls_verify_step(int ok, X509_STORE_CTX *store, const struct tls_name *expect, enum tls_role peer_is,
                    struct otr_errmsg *why)
{
    X509 *cert = X509_STORE_CTX_get_current_cert(store);
    int depth = X509_STORE_CTX_get_error_depth(store);
    struct otr_errmsg wrong = {0};
    char subject[TLS_SUBJECT_BYTES];
    struct tls_name name;

    if (cert == NULL) {
        otr_errmsg_set(why, "the certificate: %s", X509_verify_cert_error_string(X509_STORE_CTX_get_error(store)));
        return 0;
    }
    if (!ok) {
        chain_words(X509_STORE_CTX_get_error(store), cert, peer_is, &wrong);
    } else if (depth != 0 || expect == NULL ||
               (tls_name_of(cert, &name, &wrong) && name_fits(&name, expect, &wrong) &&
                usage_fits(cert, peer_is, &wrong))) {
        return 1;
    } else {
        /* Of those that become the alert bad_certificate, which says so to the other side. */
        X509_STORE_CTX_set_error(store, X509_V_ERR_HOSTNAME_MISMATCH);
    }
    tls_subject(cert, subject);
    otr_errmsg_set(why, "certificate %s%s: %s", depth > 0 ? "in the chain, " : "", subject, wrong.text);
    return 0;
}

/* --- our own ------------------------------------------------------------------------------------------------------ */

struct self_check {
    const struct tls_name *self;
    struct otr_errmsg *why;
};

static int on_self_step(int ok, X509_STORE_CTX *store)
{
    const struct self_check *check = X509_STORE_CTX_get_app_data(store);
    int error = X509_STORE_CTX_get_error(store);

    if (!ok && X509_STORE_CTX_get_error_depth(store) == 0 &&
        (error == X509_V_ERR_CERT_HAS_EXPIRED || error == X509_V_ERR_CERT_NOT_YET_VALID)) {
        return 1; /* tls_dates_check has said so. */
    }
    return tls_verify_step(ok, store, check->self, TLS_SERVER, check->why) == 1 &&
           (!ok || X509_STORE_CTX_get_error_depth(store) != 0 ||
            tls_verify_step(ok, store, check->self, TLS_CLIENT, check->why) == 1);
}

int tls_verify_self(SSL_CTX *ctx, const struct tls_name *self, struct otr_errmsg *msg)
{
    struct self_check check = {.self = self, .why = msg};
    X509_STORE_CTX *store = X509_STORE_CTX_new();
    STACK_OF(X509) *chain = NULL;
    int rv = OTR_NOMEM;

    SSL_CTX_get0_chain_certs(ctx, &chain);
    if (store != NULL &&
        X509_STORE_CTX_init(store, SSL_CTX_get_cert_store(ctx), SSL_CTX_get0_certificate(ctx), chain) == 1) {
        X509_VERIFY_PARAM_set_auth_level(X509_STORE_CTX_get0_param(store), SSL_CTX_get_security_level(ctx));
        X509_STORE_CTX_set_app_data(store, &check);
        X509_STORE_CTX_set_verify_cb(store, on_self_step);
        rv = X509_verify_cert(store) == 1 ? 0 : OTR_INVALID;
    }
    X509_STORE_CTX_free(store);
    ERR_clear_error();
    return rv;
}

/* --- OpenSSL's errors --------------------------------------------------------------------------------------------- */

/* What the other side has against us, by its alert. */
static int alert_words(int alert, struct otr_errmsg *msg)
{
    const char *text = SSL_alert_desc_string_long(alert);

    switch (alert) {
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_REVOKED:
    case SSL_AD_CERTIFICATE_EXPIRED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_UNKNOWN_CA:
    case SSL_AD_ACCESS_DENIED:
        otr_errmsg_set(msg, "the other side refuses our certificate (%s); its log says why", text);
        return OTR_DENIED;
    case SSL_AD_CERTIFICATE_REQUIRED:
        otr_errmsg_set(msg, "the other side wants a certificate from us");
        return OTR_DENIED;
    default:
        otr_errmsg_set(msg, "the other side ended the handshake or connection with the TLS alert \"%s\"", text);
        return OTR_PROTO;
    }
}

int tls_error_words(struct otr_errmsg *msg)
{
    unsigned long error = ERR_peek_error();
    int reason = ERR_GET_REASON(error);
    char text[160];
    int rv = OTR_PROTO;

    if (ERR_GET_LIB(error) == ERR_LIB_SSL && reason > SSL_AD_REASON_OFFSET) {
        rv = alert_words(reason - SSL_AD_REASON_OFFSET, msg);
    } else if (ERR_GET_LIB(error) == ERR_LIB_SSL && reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
        otr_errmsg_set(msg, "the other side showed no certificate");
        rv = OTR_DENIED;
    } else if (ERR_GET_LIB(error) == ERR_LIB_SSL && reason == SSL_R_BAD_SIGNATURE) {
        otr_errmsg_set(msg, "the other side does not hold the key of the certificate that it shows");
        rv = OTR_DENIED;
    } else if (reason == ERR_R_MALLOC_FAILURE) {
        otr_errmsg_set(msg, "out of memory");
        rv = OTR_NOMEM;
    } else if (error == 0) {
        otr_errmsg_set(msg, "TLS failed without a reason");
    } else {
        const char *reason_text = ERR_reason_error_string(error);

        ERR_error_string_n(error, text, sizeof text);
        otr_errmsg_set(msg, "TLS: %s", reason_text != NULL ? reason_text : text);
    }
    ERR_clear_error();
    return rv;
}
