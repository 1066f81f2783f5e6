/* What tls.c (identities), tls_session.c (sessions) and tls_verify.c (certificates, and what is wrong with them)
 * share. */
#ifndef OUTRIGGER_IO_TLS_INTERNAL_H
#define OUTRIGGER_IO_TLS_INTERNAL_H

#include "sidecar/io/tls.h"

#include <openssl/ssl.h>

enum { TLS_ALPN_BYTES_MAX = 64, TLS_SUBJECT_BYTES = 96, TLS_TIME_BYTES = 32 };

enum tls_file_kind { TLS_FILE_CA, TLS_FILE_CERT, TLS_FILE_KEY, TLS_FILES };

/* What tells one content of a file from the next. */
struct tls_file_mark {
    int error; /* errno of stat, or 0 */
    uint64_t device, inode, size;
    int64_t modified_ns, changed_ns;
};
struct tls_marks {
    struct tls_file_mark file[TLS_FILES];
};

/* Files, loaded. */
struct tls_material {
    SSL_CTX *ctx;
    uint64_t expires_s;
    uint64_t lifetime_s;
    char until[TLS_TIME_BYTES];
    char subject[TLS_SUBJECT_BYTES];
    struct otr_errmsg dates; /* why the certificate is not valid now; empty: it is */
    bool key_exposed;        /* readable by others than its owner */
};

struct tls {
    uv_loop_t *loop;
    char subject[24]; /* for log lines */
    char *files[TLS_FILES];
    unsigned char alpn[TLS_ALPN_BYTES_MAX]; /* as on the wire: length, name, ... */
    unsigned alpn_bytes;
    bool peer_required;
    bool self_checked;
    struct tls_name self;
    uint32_t check_ms;

    SSL_CTX *ctx; /* in force */
    struct tls_stats stats;
    uint64_t sessions;
    uint64_t lifetime_s;
    bool said_soon, said_invalid; /* of its end */

    /* Looking at the files. `seen` and `tried` belong to the worker while `busy`. */
    uv_timer_t timer;
    uv_work_t work;
    bool busy;
    struct tls_marks seen;  /* at the last look */
    struct tls_marks tried; /* loaded, or found unfit */
    bool loaded;            /* the work's result: `next`, or why not */
    bool attempted;
    struct tls_material next;
    struct otr_errmsg why;

    bool closing;
    bool closed;
    void (*close_cb)(void *data);
    void *close_data;
};

/* Frees an identity that is closed and has no sessions. */
void tls_release(struct tls *tls);

/* --- tls_verify.c ------------------------------------------------------------------------------------------------- */

/* In place of OpenSSL's judgement of one certificate in a chain, as its verify callback: the first thing wrong is put
 * into words in *why. `expect`: NULL, or what the other side's own certificate must be. `peer_is`: its role. */
int tls_verify_step(int ok, X509_STORE_CTX *store, const struct tls_name *expect, enum tls_role peer_is,
                    struct otr_errmsg *why);
/* Checks our own certificate as the others will. */
int tls_verify_self(SSL_CTX *ctx, const struct tls_name *self, struct otr_errmsg *msg);
/* Empty when valid now. */
void tls_dates_check(X509 *cert, struct otr_errmsg *why);
/* Seconds since 1970; 0: unreadable. */
uint64_t tls_time_s(const ASN1_TIME *at);
void tls_time_words(const ASN1_TIME *at, char out[TLS_TIME_BYTES]);
void tls_subject(X509 *cert, char out[TLS_SUBJECT_BYTES]);
/* False: it speaks for nobody, and *why says why. */
bool tls_name_of(X509 *cert, struct tls_name *name, struct otr_errmsg *why);
/* Words for what OpenSSL's error queue holds, which is emptied. Returns OTR_DENIED, OTR_PROTO or OTR_NOMEM. */
int tls_error_words(struct otr_errmsg *msg);

#endif
