/* Coordination backend: what Outrigger needs of etcd, Consul or whatever the user already runs (DESIGN 3.1).
 *
 * Contract for every asynchronous member: it returns 0, and `cb` fires exactly once (watch callbacks: once per change
 * until watch_stop), on the loop thread, later, never from inside the call; or it returns non-zero, `cb` never fires
 * and `req` is the caller's again. A request struct is the backend's until its callback runs; inside the callback it
 * is the caller's again and may be reused or freed. Everything a callback points at is lent for the callback's time.
 * All members are called on the loop thread only. Keys and values passed in are copied before the call returns.
 *
 * An error is not a refusal: OTR_UNKNOWN says that a change may have been made, or may be made tens of seconds later.
 * OTR_CONFLICT and the codes that come with "nothing was done" below are certain.
 *
 * A backend knows keys, values, sessions and services. It never names a shard.
 *
 * Coordinators differ in what they remember. One with a history (etcd) tells every change. One that shows states
 * (Consul) tells the difference between two looks: of several changes of a key that follow each other closely only the
 * last is told, a key that came and went between two looks not at all, and a deletion's revision may be that of a later
 * change below the same prefix. It is told all the same that a key was deleted and made again, and nothing is told
 * twice. Portable keys are printable UTF-8 without "//", "." or ".." between slashes; others may be OTR_INVALID.
 */
#ifndef OUTRIGGER_BACKEND_H
#define OUTRIGGER_BACKEND_H

#include "outrigger/err.h"
#include "outrigger/types.h"

struct uv_loop_s;
struct otr_backend;
struct otr_session;

enum {
    OTR_SESSION_ID_MAX = 64,   /* bytes of a session's id with its NUL: etcd's lease id in decimal, Consul's UUID */
    OTR_TXN_MAX = 64,          /* compares plus operations of a portable transaction */
    OTR_TXN_BYTES_MAX = 380000 /* keys plus values of a portable transaction */
};

struct otr_backend_config {
    struct uv_loop_s *loop;
    const char *endpoints; /* "URL,URL,..."; tried in turn */
    const char *user;      /* NULL: none. Otherwise a password, or a file with one */
    const char *password;
    const char *password_file; /* first line; read anew each time that the coordinator asks who we are */
    const char *token;         /* instead of a user, where the coordinator knows tokens; NULL: none */
    const char *token_file;    /* first line; read anew each time that the coordinator refuses the one we have */
    /* Files are read anew when they have changed, by the connections made from then on. */
    const char *ca_file; /* NULL: plain HTTP or the system's CAs */
    const char *cert_file;
    const char *key_file;        /* NULL: in cert_file */
    uint32_t request_timeout_ms; /* 0: the backend's own default (etcd 2000, Consul 3000) */
};

/* One key as the coordinator holds it. `key` and `value` are NUL-terminated, value_bytes does not count the NUL. */
struct otr_kv {
    const char *key;
    const char *value;
    size_t value_bytes;
    uint64_t revision;        /* of its last change */
    uint64_t create_revision; /* changes when a key is deleted and made again */
    const char *session;      /* id of the session that it is bound to, "" when durable */
};

/* --- reading ------------------------------------------------------------------------------------------------------ */

/* Linearizable: reflects every change that was complete when the call was made. Sorted by key. */
struct otr_get_req {
    void *data;     /* the caller's */
    void *internal; /* the backend's */
};
struct otr_get_result {
    const struct otr_kv *kvs;
    size_t kvs_count;
    uint64_t revision; /* of the whole answer: a watch from here misses nothing */
    uint64_t identity; /* of the coordinator cluster: another one means restored or replaced (PROTOCOL D4) */
};
/* status: 0, OTR_UNREACHABLE, OTR_TIMEOUT, OTR_DENIED, OTR_CANCELED. result is NULL unless 0. */
typedef void (*otr_get_cb)(struct otr_get_req *req, int status, const struct otr_get_result *result,
                           const struct otr_errmsg *msg);

/* --- watching ----------------------------------------------------------------------------------------------------- */

enum otr_watch_event_type {
    OTR_WATCH_PUT = 1, /* kv is complete */
    OTR_WATCH_DELETE,  /* kv has key and revision of the deletion; value is "" */
    OTR_WATCH_RESYNC,  /* history is gone: the next events, up to RESYNC_END, are PUTs of everything that exists now.
                        * What  is not named between the two no longer exists. */
    OTR_WATCH_RESYNC_END,
    OTR_WATCH_SILENT, /* could not be confirmed for some seconds; goes on by itself. For logs and metrics. */
    OTR_WATCH_ALIVE,  /* confirmed again after SILENT */
};
struct otr_watch_event {
    enum otr_watch_event_type type;
    struct otr_kv kv;
    uint64_t revision; /* everything up to and including this revision has been delivered after this event, unless the
                        * next event has the same one */
};
struct otr_watch {
    void *data;
    void *internal;
};
/* Events come in the order of their revisions, each once, whatever happens to connections. An event with status != 0
 * (event is NULL) is final: OTR_DENIED (no permission for the prefix), OTR_CANCELED (by close); the watch is then
 * stopped and the caller's. A password that is refused is not final, it may be just being changed: SILENT says so. */
typedef void (*otr_watch_cb)(struct otr_watch *watch, int status, const struct otr_watch_event *event,
                             const struct otr_errmsg *msg);

/* --- sessions ----------------------------------------------------------------------------------------------------- */

enum otr_session_state {
    OTR_SESSION_OPEN = 1,    /* first report: the id is known, keys may be bound to it */
    OTR_SESSION_UNREACHABLE, /* cannot be confirmed just now; may come back as CONFIRMED or end as LOST */
    OTR_SESSION_CONFIRMED,   /* reachable again, still the same session */
    OTR_SESSION_LOST,        /* confirmed dead, once; the struct is the caller's again, a new session may be opened */
};
/* Keeps itself alive from session_open until LOST, session_close or close. While the coordinator is away at opening
 * time it keeps trying, reporting UNREACHABLE once with a reason. */
struct otr_session {
    char id[OTR_SESSION_ID_MAX]; /* "" before OPEN */
    uint32_t ttl_ms;             /* as granted, may be more than asked for */
    void *data;
    void *internal;
};
typedef void (*otr_session_cb)(struct otr_session *session, enum otr_session_state state, const struct otr_errmsg *msg);

struct otr_simple_req {
    void *data;
    void *internal;
};
/* status: 0, OTR_NOTFOUND, OTR_UNKNOWN, OTR_UNREACHABLE (nothing was sent), OTR_DENIED, OTR_CANCELED. */
typedef void (*otr_simple_cb)(struct otr_simple_req *req, int status, const struct otr_errmsg *msg);

/* --- transactions ------------------------------------------------------------------------------------------------- */

enum otr_compare_type {
    OTR_COMPARE_ABSENT = 1, /* key does not exist */
    OTR_COMPARE_UNMODIFIED, /* key's revision is `revision` */
    OTR_COMPARE_SESSION,    /* key is bound to `session` */
};
struct otr_compare {
    enum otr_compare_type type;
    const char *key;
    uint64_t revision;
    const char *session;
};
enum otr_op_type {
    OTR_OP_PUT = 1,   /* durable, whatever the key was bound to before */
    OTR_OP_PUT_BOUND, /* bound to `session`, which is mine */
    OTR_OP_DELETE,    /* no error when absent */
};
struct otr_op {
    enum otr_op_type type;
    const char *key;
    const char *value;
    size_t value_bytes;
    const struct otr_session *session;
};
struct otr_txn {
    const struct otr_compare *compares;
    size_t compares_count;
    const struct otr_op *ops;
    size_t ops_count; /* a key at most once */
};
struct otr_txn_req {
    void *data;
    void *internal;
};
/* status: 0 (all done, `revision` is that of every changed key; 0 if it only deletes, OTR_TXN_MAX keys at once, and the
 * coordinator does not tell); OTR_CONFLICT (a compare failed; nothing was done);
 * OTR_SESSION (my session is dead; nothing was done; the session is looked after at once: LOST follows); OTR_DENIED,
 * OTR_INVALID, OTR_TOOBIG, OTR_NOSPACE (nothing was done); OTR_UNREACHABLE (never sent; nothing was done); OTR_UNKNOWN
 * (sent, no certain answer); OTR_CANCELED (as UNKNOWN). The backend never repeats a transaction by itself unless it was
 * certainly refused, for who we are. */
typedef void (*otr_txn_cb)(struct otr_txn_req *req, int status, uint64_t revision, const struct otr_errmsg *msg);

/* --- services ----------------------------------------------------------------------------------------------------- */

enum otr_health { OTR_HEALTH_PASSING = 1, OTR_HEALTH_WARNING, OTR_HEALTH_CRITICAL };
struct otr_service {
    const char *id;      /* the node's name */
    const char *name;    /* "outrigger" */
    const char *address; /* host as others reach it */
    uint16_t port;
    const char *const *tags;
    size_t tags_count;
    const char *key; /* etcd: the key that holds this entry as JSON, bound to the session. Consul: ignored */
};

typedef void (*otr_close_cb)(struct otr_backend *backend);

struct otr_backend_ops {
    const char *name; /* "etcd", "consul", "fake" */
    /* Checks the configuration (OTR_INVALID with a message) and connects lazily: unreachable endpoints are no error
     * here. On success *backend is the backend's until close's callback. */
    int (*open)(struct otr_backend **backend, const struct otr_backend_config *config, struct otr_errmsg *msg);
    int (*session_open)(struct otr_backend *b, struct otr_session *s, uint32_t ttl_ms, otr_session_cb cb);
    /* Ends my session and with it its keys; no further reports after `cb`. status 0 also when it was already gone.
     * `cb` comes within about a second: a coordinator that has not answered by then (OTR_UNKNOWN, OTR_UNREACHABLE)
     * ends the session with its TTL. */
    int (*session_close)(struct otr_backend *b, struct otr_session *s, struct otr_simple_req *req, otr_simple_cb cb);
    /* Ends another's session. */
    int (*session_revoke)(struct otr_backend *b, const char *id, struct otr_simple_req *req, otr_simple_cb cb);
    /* All keys that start with prefix (a full key is its own prefix: filter). */
    int (*get)(struct otr_backend *b, struct otr_get_req *req, const char *prefix, otr_get_cb cb);
    /* Changes below prefix after `revision`. */
    int (*watch)(struct otr_backend *b, struct otr_watch *w, const char *prefix, uint64_t revision, otr_watch_cb cb);
    /* No callback after this returns; the struct is the caller's. */
    void (*watch_stop)(struct otr_backend *b, struct otr_watch *w);
    int (*txn)(struct otr_backend *b, struct otr_txn_req *req, const struct otr_txn *txn, otr_txn_cb cb);
    int (*service_register)(struct otr_backend *b, struct otr_session *s, const struct otr_service *service,
                            enum otr_health health, struct otr_simple_req *req, otr_simple_cb cb);
    /* First completes what is outstanding with OTR_CANCELED (sessions: without a report; they are not revoked), then
     * frees the backend and calls cb, later. */
    void (*close)(struct otr_backend *b, otr_close_cb cb, void *data);
};

/* Every implementation starts with this. */
struct otr_backend {
    const struct otr_backend_ops *ops;
    void *data; /* the argument of close, for its callback */
};

extern const struct otr_backend_ops otr_backend_etcd;
extern const struct otr_backend_ops otr_backend_consul;

/* The one table of backends: name to implementation, NULL when unknown. In sidecar/cli/backends.c. */
const struct otr_backend_ops *otr_backend_find(const char *name);

#endif
