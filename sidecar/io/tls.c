/* Identities: loading the files, and loading them again when they change.
 *
 * Happy path: the timer queues a look; the worker compares what stat says with the last look. Changed: wait for one
 * more look that says the same (whoever writes is then done, most likely with all three files), load, and look once
 * more whether the files stood still meanwhile. Back on the loop the new context takes the place of the old one, which
 * lives on as long as sessions hold it. Failure: one error in the log, and nothing more until the files change again.
 */
#include "sidecar/io/tls_internal.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    CHECK_MS = 1000,
    FILE_BYTES_MAX = 4 << 20,
    HANDSHAKE_BYTES_MAX = 64 << 10, /* of the other side's certificates */
    SECURITY_LEVEL = 2,             /* OpenSSL's: at least 112 bits, so no RSA below 2048, no SHA-1, no MD5 */
};

/* --- the files ---------------------------------------------------------------------------------------------------- */

static struct tls_marks look(const struct tls *tls)
{
    struct tls_marks marks = {0};

    for (int i = 0; i < TLS_FILES; i++) {
        struct tls_file_mark *mark = &marks.file[i];
        struct stat st;

        if (tls->files[i] == NULL) {
            continue;
        }
        if (stat(tls->files[i], &st) != 0) {
            mark->error = errno;
            continue;
        }
        mark->device = st.st_dev;
        mark->inode = st.st_ino;
        mark->size = (uint64_t)st.st_size;
        mark->modified_ns = st.st_mtim.tv_sec * 1000000000LL + st.st_mtim.tv_nsec;
        mark->changed_ns = st.st_ctim.tv_sec * 1000000000LL + st.st_ctim.tv_nsec;
    }
    return marks;
}

/* What opening it later could block on or choke on, and what is said best here. */
static int check_file(const char *path, struct tls_material *out, bool is_key, struct otr_errmsg *msg)
{
    struct stat st;

    if (stat(path, &st) != 0) {
        otr_errmsg_set(msg, "%s: %s", path, strerror(errno));
        return OTR_INVALID;
    }
    if (!S_ISREG(st.st_mode) || st.st_size > FILE_BYTES_MAX) {
        otr_errmsg_set(msg, "%s: not a file of at most %d MiB", path, FILE_BYTES_MAX >> 20);
        return OTR_INVALID;
    }
    if (is_key) {
        out->key_exposed = (st.st_mode & (S_IRWXG | S_IRWXO)) != 0;
    }
    return 0;
}

/* --- loading ------------------------------------------------------------------------------------------------------ */

/* An encrypted key would make OpenSSL ask at the terminal. */
static int on_password(char *buf, int room, int writing, void *data)
{
    (void)buf;
    (void)room;
    (void)writing;
    (void)data;
    return -1;
}

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_bytes, const unsigned char *in,
                   unsigned in_bytes, void *data)
{
    const struct tls *tls = data;
    unsigned char *chosen;

    (void)ssl;
    if (SSL_select_next_proto(&chosen, out_bytes, tls->alpn, tls->alpn_bytes, in, in_bytes) != OPENSSL_NPN_NEGOTIATED) {
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

/* Settings that do not come from files. */
static bool set_policy(SSL_CTX *ctx, struct tls *tls)
{
    SSL_CTX_set_security_level(ctx, SECURITY_LEVEL);
    SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_max_cert_list(ctx, HANDSHAKE_BYTES_MAX);
    SSL_CTX_set_default_passwd_cb(ctx, on_password);
    /* An intermediate in the CA file is trusted as it stands, without the root above it. */
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(ctx), X509_V_FLAG_PARTIAL_CHAIN);
    if (tls->alpn_bytes > 0) {
        if (SSL_CTX_set_alpn_protos(ctx, tls->alpn, tls->alpn_bytes) != 0) {
            return false;
        }
        SSL_CTX_set_alpn_select_cb(ctx, on_alpn, tls);
    }
    return SSL_CTX_set_num_tickets(ctx, 0) == 1 && SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1 &&
           SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) == 1 &&
           SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20") == 1;
}

static int openssl_said(const char *path, const char *what, struct otr_errmsg *msg)
{
    struct otr_errmsg detail;

    tls_error_words(&detail);
    otr_errmsg_set(msg, "%s: %s: %s", path, what, detail.text);
    return OTR_INVALID;
}

static int load_ca(SSL_CTX *ctx, const char *path, struct otr_errmsg *msg)
{
    STACK_OF(X509_NAME) * names;

    if (SSL_CTX_load_verify_file(ctx, path) != 1) {
        return openssl_said(path, "no CA certificates in PEM", msg);
    }
    names = SSL_load_client_CA_file(path);
    if (names == NULL) {
        return openssl_said(path, "no CA certificates in PEM", msg);
    }
    SSL_CTX_set_client_CA_list(ctx, names);
    return 0;
}

static EVP_PKEY *read_key(const char *path, struct otr_errmsg *msg)
{
    BIO *bio = BIO_new_file(path, "r");
    EVP_PKEY *key = bio != NULL ? PEM_read_bio_PrivateKey(bio, NULL, on_password, NULL) : NULL;

    BIO_free(bio);
    if (key == NULL) {
        openssl_said(path, "no key in PEM (it must not be encrypted)", msg);
    }
    return key;
}

static int load_own(SSL_CTX *ctx, const struct tls *tls, struct tls_material *out, struct otr_errmsg *msg)
{
    const char *cert_file = tls->files[TLS_FILE_CERT];
    const char *key_file = tls->files[TLS_FILE_KEY];
    EVP_PKEY *key;
    X509 *cert;
    int rv;

    if (SSL_CTX_use_certificate_chain_file(ctx, cert_file) != 1) {
        return openssl_said(cert_file, "no usable certificate in PEM", msg);
    }
    cert = SSL_CTX_get0_certificate(ctx); /* Of the last kind of key loaded: asked before the key is. */
    key = read_key(key_file, msg);
    if (key == NULL) {
        return OTR_INVALID;
    }
    if (X509_check_private_key(cert, key) != 1) {
        EVP_PKEY_free(key);
        otr_errmsg_set(msg, "%s: not the key of the certificate in %s", key_file, cert_file);
        return OTR_INVALID;
    }
    rv = SSL_CTX_use_PrivateKey(ctx, key);
    EVP_PKEY_free(key);
    if (rv != 1) {
        return openssl_said(key_file, "no usable key", msg);
    }
    out->expires_s = tls_time_s(X509_get0_notAfter(cert));
    out->lifetime_s = out->expires_s - tls_time_s(X509_get0_notBefore(cert));
    tls_time_words(X509_get0_notAfter(cert), out->until);
    tls_subject(cert, out->subject);
    tls_dates_check(cert, &out->dates);
    if (tls->self_checked && tls_verify_self(ctx, &tls->self, msg) != 0) {
        otr_errmsg_wrap(msg, "%s", cert_file);
        return OTR_INVALID;
    }
    return 0;
}

/* Any thread; changes nothing in *tls. */
static int load(struct tls *tls, struct tls_material *out, struct otr_errmsg *msg)
{
    SSL_CTX *ctx;
    int rv = 0;

    memset(out, 0, sizeof *out);
    for (int i = 0; i < TLS_FILES && rv == 0; i++) {
        rv = tls->files[i] == NULL ? 0 : check_file(tls->files[i], out, i == TLS_FILE_KEY, msg);
    }
    if (rv != 0) {
        return rv;
    }
    ERR_clear_error();
    ctx = SSL_CTX_new(TLS_method());
    if (ctx == NULL || !set_policy(ctx, tls)) {
        SSL_CTX_free(ctx);
        tls_error_words(msg);
        return OTR_NOMEM;
    }
    rv = tls->files[TLS_FILE_CA] == NULL ? 0 : load_ca(ctx, tls->files[TLS_FILE_CA], msg);
    rv = rv != 0 ? rv : load_own(ctx, tls, out, msg);
    ERR_clear_error();
    if (rv != 0) {
        SSL_CTX_free(ctx);
        return rv;
    }
    out->ctx = ctx;
    return 0;
}

/* Says once that the certificate in force is near its end, and once that it is past it. Loop thread. */
static void watch_expiry(struct tls *tls)
{
    X509 *cert = SSL_CTX_get0_certificate(tls->ctx);
    uint64_t now_s = clock_wall_ms() / 1000;
    struct otr_errmsg dates;

    tls_dates_check(cert, &dates);
    if (dates.text[0] != '\0') {
        if (!tls->said_invalid) {
            log_error(tls->subject, "the certificate in %s will be refused by everyone: %s", tls->files[TLS_FILE_CERT],
                      dates.text);
        }
        tls->said_invalid = true;
    } else if (!tls->said_soon && tls->stats.expires_s - now_s < tls->lifetime_s / 10) {
        log_warn(tls->subject, "the certificate in %s expires in %" PRIu64 " minutes", tls->files[TLS_FILE_CERT],
                 (tls->stats.expires_s - now_s) / 60);
        tls->said_soon = true;
    }
}

static void put_in_force(struct tls *tls, const struct tls_material *material)
{
    SSL_CTX_free(tls->ctx);
    tls->ctx = material->ctx;
    tls->stats.expires_s = material->expires_s;
    tls->lifetime_s = material->lifetime_s;
    tls->said_soon = tls->said_invalid = false;
    log_info(tls->subject, "certificate %s in force, until %s", material->subject, material->until);
    if (material->key_exposed) {
        log_warn(tls->subject, "the key file %s may be read by others than its owner: chmod 600",
                 tls->files[TLS_FILE_KEY]);
    }
    watch_expiry(tls);
}

/* --- looking ------------------------------------------------------------------------------------------------------ */

static bool same(const struct tls_marks *a, const struct tls_marks *b)
{
    for (int i = 0; i < TLS_FILES; i++) {
        const struct tls_file_mark *x = &a->file[i];
        const struct tls_file_mark *y = &b->file[i];

        if (x->error != y->error || x->device != y->device || x->inode != y->inode || x->size != y->size ||
            x->modified_ns != y->modified_ns || x->changed_ns != y->changed_ns) {
            return false;
        }
    }
    return true;
}

/* In libuv's thread pool. */
static void on_look(uv_work_t *work)
{
    struct tls *tls = work->data;
    struct tls_marks now = look(tls);
    struct tls_marks after;

    tls->attempted = false;
    if (same(&now, &tls->tried) || !same(&now, &tls->seen)) {
        tls->seen = now;
        return;
    }
    tls->loaded = load(tls, &tls->next, &tls->why) == 0;
    after = look(tls);
    if (!same(&now, &after)) { /* Somebody writes. */
        if (tls->loaded) {
            SSL_CTX_free(tls->next.ctx);
        }
        tls->seen = after;
        return;
    }
    if (tls->loaded && tls->next.dates.text[0] != '\0') {
        SSL_CTX_free(tls->next.ctx);
        otr_errmsg_set(&tls->why, "%s: %s", tls->files[TLS_FILE_CERT], tls->next.dates.text);
        tls->loaded = false;
    }
    tls->tried = now;
    tls->attempted = true;
}

static void finish_close(struct tls *tls);

static void on_looked(uv_work_t *work, int status)
{
    struct tls *tls = work->data;

    tls->busy = false;
    if (status == 0 && tls->attempted) {
        tls->attempted = false;
        if (tls->loaded) {
            tls->stats.reloads++;
            put_in_force(tls, &tls->next);
        } else {
            tls->stats.reloads_failed++;
            log_error(tls->subject, "the changed files are refused, the certificate in force stays: %s", tls->why.text);
        }
    }
    if (tls->closing) {
        finish_close(tls);
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct tls *tls = timer->data;

    watch_expiry(tls);
    if (!tls->busy && uv_queue_work(tls->loop, &tls->work, on_look, on_looked) == 0) {
        tls->busy = true;
    }
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static int alpn_encode(struct tls *tls, const char *list)
{
    while (list != NULL && *list != '\0') {
        size_t bytes = strcspn(list, ",");

        if (bytes == 0 || tls->alpn_bytes + 1 + bytes > sizeof tls->alpn) {
            return OTR_INVALID;
        }
        tls->alpn[tls->alpn_bytes++] = (unsigned char)bytes;
        memcpy(tls->alpn + tls->alpn_bytes, list, bytes);
        tls->alpn_bytes += (unsigned)bytes;
        list += bytes + (list[bytes] == ',');
    }
    return 0;
}

static void tls_free(struct tls *tls)
{
    SSL_CTX_free(tls->ctx);
    for (int i = 0; i < TLS_FILES; i++) {
        free(tls->files[i]);
    }
    free(tls);
}

static bool copy_text(char **to, const char *from)
{
    *to = from != NULL ? strdup(from) : NULL;
    return from == NULL || *to != NULL;
}

static int tls_fill(struct tls *tls, const struct tls_config *config, struct otr_errmsg *msg)
{
    snprintf(tls->subject, sizeof tls->subject, "tls=%s", config->label);
    tls->peer_required = config->peer_required;
    tls->check_ms = config->check_ms != 0 ? config->check_ms : CHECK_MS;
    if (config->self != NULL) {
        assert(config->ca_file != NULL);
        tls->self_checked = true;
        tls->self = *config->self;
    }
    if (alpn_encode(tls, config->alpn) != 0) {
        otr_errmsg_set(msg, "malformed list of protocols: %s", config->alpn);
        return OTR_INVALID;
    }
    if (!copy_text(&tls->files[TLS_FILE_CA], config->ca_file) ||
        !copy_text(&tls->files[TLS_FILE_CERT], config->cert_file) ||
        !copy_text(&tls->files[TLS_FILE_KEY], config->key_file)) {
        otr_errmsg_set(msg, "out of memory");
        return OTR_NOMEM;
    }
    return 0;
}

int tls_new(struct tls **out, uv_loop_t *loop, const struct tls_config *config, struct otr_errmsg *msg)
{
    struct tls *tls = calloc(1, sizeof *tls);
    struct tls_material material;
    int rv = OTR_NOMEM;

    assert(config->cert_file != NULL && config->key_file != NULL);
    if (tls == NULL) {
        otr_errmsg_set(msg, "out of memory");
        return rv;
    }
    tls->loop = loop;
    tls->work.data = tls;
    rv = tls_fill(tls, config, msg);
    if (rv != 0) {
        goto err;
    }
    tls->tried = tls->seen = look(tls); /* Before loading: what changes meanwhile is noticed. */
    rv = load(tls, &material, msg);
    if (rv != 0) {
        goto err;
    }
    put_in_force(tls, &material);
    rv = uv_timer_init(loop, &tls->timer);
    assert(rv == 0);
    tls->timer.data = tls;
    uv_timer_start(&tls->timer, on_timer, tls->check_ms, tls->check_ms);
    uv_unref((uv_handle_t *)&tls->timer);
    *out = tls;
    return 0;

err:
    tls_free(tls);
    return rv;
}

void tls_release(struct tls *tls)
{
    if (tls->closed && tls->sessions == 0) {
        tls_free(tls);
    }
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct tls *tls = handle->data;
    void (*cb)(void *data) = tls->close_cb;
    void *data = tls->close_data;

    tls->closed = true;
    tls_release(tls);
    cb(data);
}

static void finish_close(struct tls *tls)
{
    uv_close((uv_handle_t *)&tls->timer, on_timer_closed);
}

void tls_close(struct tls *tls, void (*cb)(void *data), void *data)
{
    tls->closing = true;
    tls->close_cb = cb;
    tls->close_data = data;
    uv_timer_stop(&tls->timer);
    if (!tls->busy) {
        finish_close(tls);
    }
}

struct tls_stats tls_stats(const struct tls *tls)
{
    return tls->stats;
}
