/* TLS without sockets: identities that reload themselves, and sessions between buffers (OpenSSL 3).
 *
 * `struct tls` is an identity: CA file, certificate chain, key. Its files are looked at about once a second, in libuv's
 * thread pool. Once changed and then left alone for one look, they are loaded: new sessions use them, existing ones go
 * on as they are. Files that cannot be used (half written, key of another certificate, expired) are refused with an
 * error in the log, once per change, and what was in force stays in force.
 *
 * `struct tls_session` is one connection: ciphertext goes in by tls_session_feed, which hands out plaintext; plaintext
 * goes in by tls_session_write; ciphertext comes out by tls_session_out, after every other call. Sketch of a server:
 *
 *     on connection:  tls_session_new(&s, tls, TLS_SERVER, NULL, &msg)
 *     on read:        rv = tls_session_feed(s, bytes, count, on_plain, c, &msg);  send_out();  if (rv != 0) close
 *     on EOF:         rv = tls_session_eof(s, &msg)          a cut without close_notify is no end
 *     to write:       tls_session_write(s, bufs, n, &msg);  send_out();
 *     send_out():     if (tls_session_out(s, &buf)) uv_write(buf), and when written tls_session_sent(s), send_out()
 *     to end:         tls_session_close(s);  send_out();  close the socket when it is written
 *
 * TLS 1.2 with forward secrecy at least, 1.3 by default; no compression, renegotiation, early data or resumption (which
 * would let a session outlive the CA that vouched for it). Certificates of the other side are checked for chain, dates,
 * strength and purpose, and for their name when one is expected. A session holds some 10 KiB when idle, at most a
 * record (17 KiB) of what came and TLS_OUT_BYTES_MAX of what goes, and a handshake of at most 64 KiB.
 * Loop thread only. */
#ifndef OUTRIGGER_IO_TLS_H
#define OUTRIGGER_IO_TLS_H

#include "outrigger/err.h"
#include "outrigger/types.h"

#include <uv.h>

enum {
    TLS_WRITE_BYTES_MAX = 512 << 10, /* of plaintext that tls_session_write always takes when nothing waits */
    TLS_OUT_BYTES_MAX = 1 << 20,     /* of ciphertext that waits to be sent */
};

struct tls;
struct tls_session;

enum tls_role { TLS_SERVER = 1, TLS_CLIENT };

/* Who a certificate speaks for: its one subject alternative name of the form outrigger://CLUSTER/node/NAME or
 * outrigger://CLUSTER/client/NAME. A certificate with several of them speaks for nobody. */
enum tls_kind { TLS_KIND_ANY = 0, TLS_KIND_NODE, TLS_KIND_CLIENT };
struct tls_name {
    char cluster[OTR_NAME_MAX + 1];
    enum tls_kind kind;
    char name[OTR_NAME_MAX + 1];
};

/* --- identities --------------------------------------------------------------------------------------------------- */

/* Strings are copied. */
struct tls_config {
    const char *label;     /* for log lines and messages: "peer" */
    const char *ca_file;   /* PEM, whom certificates of the other side must come from; NULL: none is asked for */
    const char *cert_file; /* PEM, own certificate first, then its intermediates */
    const char *key_file;  /* PEM, not encrypted */
    const char *alpn;      /* "h2", or several in order of preference: "h2,http/1.1"; NULL: none */
    bool peer_required;    /* server: the other side must show a certificate (a client always asks for one) */
    /* NULL, or whom our own certificate must speak for, in both roles and by our own CA: what the others would refuse
     * is then refused here, with words. */
    const struct tls_name *self;
    uint32_t check_ms; /* how often to look at the files; 0: 1000 */
};

struct tls_stats {
    uint64_t reloads;
    uint64_t reloads_failed;
    uint64_t handshakes; /* completed */
    uint64_t handshakes_failed;
    uint64_t expires_s; /* the own certificate's end, seconds since 1970 */
};

/* Loads the files (blocking: it is for the start). A certificate out of its dates is loaded with an error in the log,
 * for its successor will be picked up. OTR_INVALID, OTR_NOMEM with words that name the file. */
int tls_new(struct tls **out, uv_loop_t *loop, const struct tls_config *config, struct otr_errmsg *msg);
/* Stops looking, then calls cb (not NULL). Sessions may outlive it; new ones may not be made. */
void tls_close(struct tls *tls, void (*cb)(void *data), void *data);
struct tls_stats tls_stats(const struct tls *tls);

/* --- sessions ----------------------------------------------------------------------------------------------------- */

/* A client has something to send at once. `expect`, which is copied: NULL, or whom the other side's certificate (if it
 * shows one) must speak for; empty strings and TLS_KIND_ANY stand for any. It must then have the extended key usage of
 * its role, too. A client needs an identity with a CA. OTR_NOMEM. */
int tls_session_new(struct tls_session **session, struct tls *tls, enum tls_role role, const struct tls_name *expect,
                    struct otr_errmsg *msg);
void tls_session_free(struct tls_session *s);

/* A piece of plaintext, lent. False: no more of them (the rest of what was fed is dropped). Must not free the session.
 */
typedef bool (*tls_plain_cb)(void *data, const uint8_t *bytes, size_t count);
/* Takes all the ciphertext. OTR_DENIED: the other side's certificate is refused, or it refuses ours; OTR_PROTO: it
 * broke the protocol or speaks no TLS; OTR_NOMEM. After an error an alert may wait to be sent, and the session is over.
 * Bytes after close_notify are dropped. */
int tls_session_feed(struct tls_session *s, const void *bytes, size_t count, tls_plain_cb cb, void *data,
                     struct otr_errmsg *msg);
/* The socket's end came: 0 after close_notify, else OTR_PROTO: what came may be less than what was sent. */
int tls_session_eof(struct tls_session *s, struct otr_errmsg *msg);

/* The handshake is complete, the other side is who it should be, and nothing has ended. */
bool tls_session_ready(const struct tls_session *s);
/* The other side said close_notify. */
bool tls_session_ended(const struct tls_session *s);

/* Encrypts all of it, or nothing: OTR_UNAVAIL (not ready, or closed), OTR_BUSY (more than TLS_OUT_BYTES_MAX would wait:
 * send first), OTR_NOMEM. Small buffers are packed into full records. */
int tls_session_write(struct tls_session *s, const uv_buf_t *bufs, size_t count, struct otr_errmsg *msg);
/* Nothing is written after it: adds close_notify. */
void tls_session_close(struct tls_session *s);

/* Lends all ciphertext that waits; it stays in place until tls_session_sent, whatever happens meanwhile (but for
 * tls_session_free). False: nothing waits, or some is lent already. */
bool tls_session_out(struct tls_session *s, uv_buf_t *out);
void tls_session_sent(struct tls_session *s);
/* Ciphertext that waits or is lent. */
size_t tls_session_waiting(const struct tls_session *s);

/* Whom the other side's verified certificate speaks for; NULL: it showed none, or one that speaks for nobody. */
const struct tls_name *tls_session_name(const struct tls_session *s);
/* It showed a certificate, and that was verified. */
bool tls_session_verified(const struct tls_session *s);
/* "TLSv1.3, TLS_AES_256_GCM_SHA384, h2". */
const char *tls_session_describe(const struct tls_session *s);

#endif
