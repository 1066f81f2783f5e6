/* Makes keys and X.509 certificates: ECDSA on P-256, signed with SHA-256, random serial numbers, valid from five
 * minutes ago, so that hosts whose clocks differ a little agree that it has begun.
 *
 *   authority  O=<cluster>, CN=Outrigger CA    URI outrigger://<cluster>/ca              signs certificates only
 *   node       O=<cluster>, OU=<node>          URI outrigger://<cluster>/node/<node>     TLS server and client
 *   client     O=<cluster>, OU=<name>          URI outrigger://<cluster>/client/<name>   TLS client
 *
 * The URI is the identity that sidecars check. A node's certificate has its own name, if that can be a host's, and the
 * hosts given as DNS names and IP addresses, for clients that check whom they reached. Nodes and clients have no CN:
 * with one, etcd's JSON gateway refuses a client as soon as etcd has users.
 *
 * Nothing here touches files. One thread at a time. */
#ifndef OUTRIGGER_CLI_CERTS_MAKE_H
#define OUTRIGGER_CLI_CERTS_MAKE_H

#include "outrigger/err.h"
#include "outrigger/types.h"

#include <openssl/evp.h>
#include <openssl/x509.h>

enum { CERTS_URI_MAX = 160, CERTS_CLOCK_SKEW_S = 300 };

enum certs_kind { CERTS_CA = 1, CERTS_NODE, CERTS_CLIENT };

struct certs_wish {
    enum certs_kind kind;
    const char *cluster;
    const char *name;  /* of the node or client; a CA has none */
    const char *hosts; /* "HOST,IP,..." or NULL */
    bool loopback;     /* localhost, 127.0.0.1 and ::1 as well */
    uint32_t days;     /* from now_s; the certificate ends no later than its authority's */
    int64_t now_s;     /* since 1970 */
};

/* A key and its certificate, followed by the authorities between it and the root. Zero-initialise. */
struct certs_pair {
    EVP_PKEY *key;
    STACK_OF(X509) * chain;
};
void certs_pair_close(struct certs_pair *pair);

/* Signed by `ca`; by itself when that is NULL. OTR_INVALID with words when the wish cannot be fulfilled: names that no
 * certificate can carry, an authority that may not sign or is over. */
int certs_pair_make(struct certs_pair *pair, const struct certs_wish *wish, const struct certs_pair *ca,
                    struct otr_errmsg *msg);

/* The first URI of a certificate that begins with "outrigger://"; false when there is none (or it has no end). */
bool certs_uri(X509 *cert, char out[CERTS_URI_MAX]);
/* The cluster that such a URI names. */
bool certs_uri_cluster(const char *uri, char out[OTR_NAME_MAX + 1]);

/* What OpenSSL's last call complained about, behind the given words; its queue of errors is empty afterwards. */
int certs_refused(struct otr_errmsg *msg, const char *what);

#endif
