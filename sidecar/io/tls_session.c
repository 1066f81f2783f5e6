/* One connection's TLS: an SSL object whose two BIOs are our buffers.
 *
 * Reading: `in` points at what was fed; OpenSSL takes all of it, keeps at most a part of a record, and decrypts into a
 * buffer on the stack, which goes to the caller. Writing: records are appended to `out`; tls_session_out swaps `out`
 * with `lent`, so that what is being written stays in place while more comes. Failures: the first error is final, for
 * an alert may have been sent; `why` has what the verification found, which OpenSSL's own error only calls
 * "certificate verify failed". */
#include "sidecar/io/tls_internal.h"

#include "sidecar/io/log.h"

#include <assert.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    RECORD_BYTES = 16 << 10,
    RECORD_OVERHEAD = 64,        /* at most, of a record's header and tag */
    OUT_BYTES_KEPT = 16 << 10,   /* of an idle session's buffers */
    OUT_SLACK_BYTES = 128 << 10, /* beyond TLS_OUT_BYTES_MAX: alerts, handshakes, answers to key updates */
    CONTENT_ALERT = 21,
    CONTENT_HANDSHAKE = 22,
};

struct out {
    uint8_t *data;
    size_t bytes;
    size_t room;
};

struct tls_session {
    struct tls *tls;
    SSL *ssl;
    enum tls_role role;
    bool expecting;
    struct tls_name expect;

    bool heard; /* the first byte came */
    bool ready;
    bool ended; /* by the other side */
    bool closed;
    bool failed;
    bool verified;
    bool named;
    bool is_lent;
    struct tls_name name;
    struct otr_errmsg why; /* what verifying found */
    char about[96];

    const uint8_t *in;
    size_t in_bytes;
    struct out out;
    struct out lent;
};

/* --- the BIO ------------------------------------------------------------------------------------------------------ */

static BIO_METHOD *bio_method;
static uv_once_t bio_once = UV_ONCE_INIT;

static int on_bio_read(BIO *bio, char *to, int room)
{
    struct tls_session *s = BIO_get_data(bio);
    size_t take = room > 0 ? (size_t)room : 0;

    BIO_clear_retry_flags(bio);
    take = take < s->in_bytes ? take : s->in_bytes;
    if (take == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    memcpy(to, s->in, take);
    s->in += take;
    s->in_bytes -= take;
    return (int)take;
}

static bool out_reserve(struct out *out, size_t more)
{
    size_t room = out->room > 0 ? out->room : 4096;
    uint8_t *data;

    if (out->bytes + more <= out->room) {
        return true;
    }
    while (room < out->bytes + more) {
        room *= 2;
    }
    data = realloc(out->data, room);
    if (data == NULL) {
        return false;
    }
    out->data = data;
    out->room = room;
    return true;
}

static int on_bio_write(BIO *bio, const char *from, int count)
{
    struct tls_session *s = BIO_get_data(bio);

    BIO_clear_retry_flags(bio);
    if (count <= 0) {
        return 0;
    }
    if (s->out.bytes + (size_t)count > TLS_OUT_BYTES_MAX + OUT_SLACK_BYTES || !out_reserve(&s->out, (size_t)count)) {
        ERR_raise(ERR_LIB_USER, ERR_R_MALLOC_FAILURE);
        return -1;
    }
    memcpy(s->out.data + s->out.bytes, from, (size_t)count);
    s->out.bytes += (size_t)count;
    return count;
}

static long on_bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static void make_bio_method(void)
{
    bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "outrigger buffers");
    if (bio_method != NULL) {
        BIO_meth_set_read(bio_method, on_bio_read);
        BIO_meth_set_write(bio_method, on_bio_write);
        BIO_meth_set_ctrl(bio_method, on_bio_ctrl);
    }
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static int on_verify(int ok, X509_STORE_CTX *store)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls_session *s = SSL_get_app_data(ssl);

    return tls_verify_step(ok, store, s->expecting ? &s->expect : NULL, s->role == TLS_SERVER ? TLS_CLIENT : TLS_SERVER,
                           &s->why);
}

static void set_role(struct tls_session *s)
{
    int verify = SSL_VERIFY_NONE;

    if (s->role == TLS_CLIENT) {
        verify = SSL_VERIFY_PEER;
        SSL_set_connect_state(s->ssl);
    } else {
        if (s->tls->files[TLS_FILE_CA] != NULL) {
            verify = SSL_VERIFY_PEER | (s->tls->peer_required ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0);
        }
        SSL_set_accept_state(s->ssl);
    }
    SSL_set_verify(s->ssl, verify, on_verify);
}

static int handshake(struct tls_session *s, struct otr_errmsg *msg);

int tls_session_new(struct tls_session **session, struct tls *tls, enum tls_role role, const struct tls_name *expect,
                    struct otr_errmsg *msg)
{
    struct tls_session *s = calloc(1, sizeof *s);
    BIO *bio;
    int rv = OTR_NOMEM;

    assert(!tls->closing && (role == TLS_SERVER || tls->files[TLS_FILE_CA] != NULL));
    uv_once(&bio_once, make_bio_method);
    if (s == NULL || bio_method == NULL) {
        goto err;
    }
    s->tls = tls;
    s->role = role;
    if (expect != NULL) {
        s->expecting = true;
        s->expect = *expect;
    }
    s->ssl = SSL_new(tls->ctx);
    bio = BIO_new(bio_method);
    if (s->ssl == NULL || bio == NULL) {
        BIO_free(bio);
        goto err_after_ssl;
    }
    BIO_set_data(bio, s);
    BIO_set_init(bio, 1);
    SSL_set_bio(s->ssl, bio, bio);
    SSL_set_app_data(s->ssl, s);
    set_role(s);
    tls->sessions++;
    if (role == TLS_CLIENT) {
        rv = handshake(s, msg);
        if (rv != 0) {
            tls_session_free(s);
            return rv;
        }
    }
    *session = s;
    return 0;

err_after_ssl:
    SSL_free(s->ssl);
err:
    free(s);
    ERR_clear_error();
    otr_errmsg_set(msg, "out of memory");
    return rv;
}

void tls_session_free(struct tls_session *s)
{
    struct tls *tls;

    if (s == NULL) {
        return;
    }
    tls = s->tls;
    SSL_free(s->ssl);
    free(s->out.data);
    free(s->lent.data);
    free(s);
    tls->sessions--;
    tls_release(tls);
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

static int session_fail(struct tls_session *s, struct otr_errmsg *msg)
{
    int rv = tls_error_words(msg);

    if (s->why.text[0] != '\0') {
        *msg = s->why;
        rv = OTR_DENIED;
    }
    if (!s->ready) {
        s->tls->stats.handshakes_failed++;
    }
    s->failed = true;
    return rv;
}

static int handshake_done(struct tls_session *s, struct otr_errmsg *msg)
{
    const unsigned char *alpn = NULL;
    unsigned alpn_bytes = 0;
    X509 *cert = SSL_get0_peer_certificate(s->ssl);
    struct otr_errmsg unnamed;

    SSL_get0_alpn_selected(s->ssl, &alpn, &alpn_bytes);
    if (s->role == TLS_CLIENT && s->tls->alpn_bytes > 0 && alpn_bytes == 0) {
        otr_errmsg_set(&s->why, "the other side speaks TLS, but none of the protocols that we do (ALPN)");
        return session_fail(s, msg);
    }
    if (cert != NULL && SSL_get_verify_mode(s->ssl) != SSL_VERIFY_NONE) {
        s->verified = true;
        s->named = tls_name_of(cert, &s->name, &unnamed);
    }
    snprintf(s->about, sizeof s->about, "%s, %s%s%.*s", SSL_get_version(s->ssl), SSL_get_cipher_name(s->ssl),
             alpn_bytes > 0 ? ", " : "", (int)alpn_bytes, (const char *)alpn);
    s->ready = true;
    s->tls->stats.handshakes++;
    return 0;
}

static int handshake(struct tls_session *s, struct otr_errmsg *msg)
{
    int rv;

    ERR_clear_error();
    rv = SSL_do_handshake(s->ssl);
    if (rv == 1) {
        return handshake_done(s, msg);
    }
    return SSL_get_error(s->ssl, rv) == SSL_ERROR_WANT_READ ? 0 : session_fail(s, msg);
}

static int deliver(struct tls_session *s, tls_plain_cb cb, void *data, struct otr_errmsg *msg)
{
    uint8_t plain[RECORD_BYTES];

    for (;;) {
        int got;
        int error;

        ERR_clear_error();
        got = SSL_read(s->ssl, plain, sizeof plain);
        if (got > 0) {
            if (!cb(data, plain, (size_t)got)) {
                return 0;
            }
            continue;
        }
        error = SSL_get_error(s->ssl, got);
        if (error == SSL_ERROR_WANT_READ) {
            return 0;
        }
        if (error == SSL_ERROR_ZERO_RETURN) {
            s->ended = true;
            return 0;
        }
        return session_fail(s, msg);
    }
}

/* OpenSSL would say nothing; an alert lets the other side see that it met TLS. */
static int refuse_plain(struct tls_session *s, struct otr_errmsg *msg)
{
    static const uint8_t alert[] = {CONTENT_ALERT, 3, 1, 0, 2, SSL3_AL_FATAL, TLS1_AD_PROTOCOL_VERSION};

    if (out_reserve(&s->out, sizeof alert)) {
        memcpy(s->out.data + s->out.bytes, alert, sizeof alert);
        s->out.bytes += sizeof alert;
    }
    session_fail(s, msg);
    otr_errmsg_set(msg, "the other side speaks no TLS");
    return OTR_PROTO;
}

int tls_session_feed(struct tls_session *s, const void *bytes, size_t count, tls_plain_cb cb, void *data,
                     struct otr_errmsg *msg)
{
    const uint8_t *first = bytes;
    int rv = 0;

    if (s->failed) {
        otr_errmsg_set(msg, "the TLS session has failed");
        return OTR_PROTO;
    }
    if (s->ended || count == 0) {
        return 0;
    }
    if (!s->heard && first[0] != CONTENT_HANDSHAKE && first[0] != CONTENT_ALERT) {
        return refuse_plain(s, msg);
    }
    s->heard = true;
    s->in = bytes;
    s->in_bytes = count;
    if (!s->ready) {
        rv = handshake(s, msg);
    }
    if (rv == 0 && s->ready) {
        rv = deliver(s, cb, data, msg);
    }
    s->in = NULL;
    s->in_bytes = 0;
    return rv;
}

int tls_session_eof(struct tls_session *s, struct otr_errmsg *msg)
{
    if (s->ended) {
        return 0;
    }
    if (s->ready) {
        otr_errmsg_set(msg, "the connection was cut without TLS's close_notify");
    } else {
        otr_errmsg_set(msg, "the other side closed the connection during the TLS handshake");
        s->tls->stats.handshakes_failed += s->heard && !s->failed ? 1 : 0; /* Who said nothing only knocked. */
    }
    s->failed = true;
    return OTR_PROTO;
}

bool tls_session_ready(const struct tls_session *s)
{
    return s->ready && !s->failed && !s->ended && !s->closed;
}

bool tls_session_ended(const struct tls_session *s)
{
    return s->ended;
}

const struct tls_name *tls_session_name(const struct tls_session *s)
{
    return s->named ? &s->name : NULL;
}

bool tls_session_verified(const struct tls_session *s)
{
    return s->verified;
}

const char *tls_session_describe(const struct tls_session *s)
{
    return s->about;
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

static int encrypt(struct tls_session *s, const void *bytes, size_t count, struct otr_errmsg *msg)
{
    int rv;

    ERR_clear_error();
    rv = SSL_write(s->ssl, bytes, (int)count);
    return rv == (int)count ? 0 : session_fail(s, msg);
}

int tls_session_write(struct tls_session *s, const uv_buf_t *bufs, size_t count, struct otr_errmsg *msg)
{
    uint8_t record[RECORD_BYTES];
    size_t filled = 0;
    size_t total = 0;
    int rv = 0;

    if (!s->ready || s->failed || s->closed) {
        otr_errmsg_set(msg, "the TLS session is not open");
        return OTR_UNAVAIL;
    }
    for (size_t i = 0; i < count; i++) {
        total += bufs[i].len;
    }
    total += (total / RECORD_BYTES + 2 * count + 2) * RECORD_OVERHEAD;
    if (total > TLS_OUT_BYTES_MAX || tls_session_waiting(s) > TLS_OUT_BYTES_MAX - total) {
        otr_errmsg_set(msg, "too much waits to be sent");
        return OTR_BUSY;
    }
    if (!out_reserve(&s->out, total)) {
        otr_errmsg_set(msg, "out of memory");
        return OTR_NOMEM;
    }
    for (size_t i = 0; i < count && rv == 0; i++) {
        const char *at = bufs[i].base;
        size_t left = bufs[i].len;

        while (left > 0 && rv == 0) {
            size_t whole = left - left % RECORD_BYTES;
            size_t take = left < RECORD_BYTES - filled ? left : RECORD_BYTES - filled;

            if (filled == 0 && whole > 0) {
                rv = encrypt(s, at, whole, msg); /* Full records go without a copy. */
                take = whole;
            } else {
                memcpy(record + filled, at, take);
                filled += take;
                if (filled == RECORD_BYTES) {
                    rv = encrypt(s, record, filled, msg);
                    filled = 0;
                }
            }
            at += take;
            left -= take;
        }
    }
    return rv == 0 && filled > 0 ? encrypt(s, record, filled, msg) : rv;
}

void tls_session_close(struct tls_session *s)
{
    if (s->ready && !s->failed && !s->closed) {
        ERR_clear_error();
        SSL_shutdown(s->ssl); /* 0: said, and not yet answered. */
        ERR_clear_error();
    }
    s->closed = true;
}

bool tls_session_out(struct tls_session *s, uv_buf_t *out)
{
    struct out next;

    if (s->is_lent || s->out.bytes == 0) {
        return false;
    }
    next = s->lent;
    s->lent = s->out;
    s->out = next;
    s->is_lent = true;
    *out = uv_buf_init((char *)s->lent.data, (unsigned)s->lent.bytes);
    return true;
}

void tls_session_sent(struct tls_session *s)
{
    assert(s->is_lent);
    s->is_lent = false;
    s->lent.bytes = 0;
    if (s->lent.room > OUT_BYTES_KEPT) {
        free(s->lent.data);
        s->lent = (struct out){.data = NULL};
    }
}

size_t tls_session_waiting(const struct tls_session *s)
{
    return s->out.bytes + s->lent.bytes;
}
