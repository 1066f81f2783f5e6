/* Error codes and messages, shared by every room.
 *
 * Functions return 0 or one of these codes. Errors of libraries (UV_*, CURLE_*, NGHTTP2_*, errno) become ours where
 * they enter, with their text kept in a struct otr_errmsg beside the code. Each layer that passes an error on prefixes
 * a few words: "open shard 7: open segment 0003.log: record at 8192: checksum mismatch".
 */
#ifndef OUTRIGGER_ERR_H
#define OUTRIGGER_ERR_H

#include <stddef.h>

#define OTR_MUST_CHECK __attribute__((warn_unused_result))

/* clang-format off */
#define OTR_ERR_MAP(X)                                                        \
    X(OTR_NOMEM, "out of memory")                                             \
    X(OTR_INVALID, "invalid argument")                                        \
    X(OTR_NOTFOUND, "not found")                                              \
    X(OTR_EXISTS, "already exists")                                           \
    X(OTR_TOOBIG, "larger than the limit")                                    \
    X(OTR_IO, "input/output error")                                           \
    X(OTR_NOSPACE, "no space left on the disk")                               \
    X(OTR_CORRUPT, "stored data is damaged")                                  \
    X(OTR_INUSE, "in use by another process")                                 \
    X(OTR_DENIED, "permission denied")                                        \
    X(OTR_PROTO, "malformed message")                                         \
    X(OTR_TIMEOUT, "timed out")                                               \
    X(OTR_UNREACHABLE, "cannot be reached")                                   \
    X(OTR_UNKNOWN, "outcome unknown: it may still take effect")               \
    X(OTR_CONFLICT, "a compare failed: somebody else changed it")             \
    X(OTR_SESSION, "the session is gone")                                     \
    X(OTR_CANCELED, "shut down before completion")                            \
    X(OTR_FENCED, "a newer epoch exists")                                     \
    X(OTR_NOTPRIMARY, "this node is not the primary")                         \
    X(OTR_UNAVAIL, "not available now: try again")                            \
    X(OTR_FEW, "fewer in-sync replicas than min_in_sync")                     \
    X(OTR_GONE, "history gone")                                               \
    X(OTR_BUSY, "too much work queued")                                       \
    X(OTR_UNSUPPORTED, "not supported")
/* clang-format on */

enum otr_err {
    OTR_OK = 0,
#define X(code, text) code,
    OTR_ERR_MAP(X)
#undef X
        OTR_ERR_MAX_
};

/* Text of a code, never NULL. Any thread. */
const char *otr_strerror(int err);

/* Name of a code ("OTR_NOMEM"), for logs and tests; never NULL. Any thread. */
const char *otr_errname(int err);

enum { OTR_ERRMSG_MAX = 512 };

/* What went wrong, in words, outermost layer first. Caller-owned memory; {0} is empty. Too long texts are cut at the
 * end, on a character boundary. Every function takes NULL and then does nothing. */
struct otr_errmsg {
    char text[OTR_ERRMSG_MAX];
};

/* Replaces the text. */
void otr_errmsg_set(struct otr_errmsg *msg, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "<words>: " before the text. */
void otr_errmsg_wrap(struct otr_errmsg *msg, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
