/* What the files of this backend share. Loop thread only.
 *
 *   etcd.c          open, close, endpoints, the vtable
 *   etcd_call.c     one request and its repetitions at other endpoints
 *   etcd_auth.c     user and password: tokens
 *   etcd_get.c      reads of a whole prefix, page by page
 *   etcd_txn.c      transactions, service entries
 *   etcd_session.c  leases and their keep-alives
 *   etcd_watch.c    watches: stream, probe, resync
 *   etcd_codec.c    JSON, base64, error codes */
#ifndef OUTRIGGER_BACKENDS_ETCD_H
#define OUTRIGGER_BACKENDS_ETCD_H

#include "outrigger/backend.h"

#include "backends/etcd/etcd_codec.h"
#include "sidecar/io/endpoints.h"
#include "sidecar/io/http_client.h"

#include <uv.h>

enum {
    ETCD_REQUEST_TIMEOUT_MS = 2000, /* one attempt */
    ETCD_BUDGET_MS = 5000,          /* all attempts of what may be repeated: outlasts a change of etcd's leader */
    ETCD_CLOSE_MS = 1000,           /* the end of a session: all attempts together */
    ETCD_LOGIN_PAUSE_MS = 1000,     /* between one that was refused and the next, at one endpoint */
    ETCD_TOKEN_BYTES_MAX = 4096,    /* simple ones have some twenty bytes, JWTs some hundred */
};

/* Requests of different lanes share no connection, so that a stuck one delays none of another kind. */
enum etcd_lane { ETCD_LANE_REQUEST = 1, ETCD_LANE_SESSION, ETCD_LANE_WATCH };

struct etcd_call;
struct etcd_session;
struct etcd_watch;
struct etcd_login;
struct etcd_auth_wait;

/* One for each endpoint: etcd's simple tokens are known, and renewed by use, at one member only. */
struct etcd_token {
    char *text;               /* NULL: none; "": the member does not ask who we are */
    uint64_t number;          /* of all that we got; tells a token from its successor */
    struct etcd_login *login; /* under way, or NULL */
    struct etcd_auth_wait *waits;
    uint64_t refused_ms; /* when the last login was refused, 0: it was not */
    struct otr_errmsg refusal;
};

struct etcd {
    struct otr_backend base; /* first: the vtable's handle */
    uv_loop_t *loop;
    struct http_client *http;
    struct endpoints endpoints;
    uint32_t request_timeout_ms;
    uint64_t identity; /* cluster_id of the last answer; 0 before the first */
    char *user;        /* NULL: nobody asks who we are */
    char *password;
    char *password_file;
    struct etcd_token tokens[ENDPOINTS_MAX];
    uint64_t tokens_count; /* ever got */
    uint64_t waits_count;  /* ever begun */
    struct etcd_call *calls;
    struct etcd_session *sessions;
    struct etcd_watch *watches;
    size_t objects_count; /* of the three lists, and of gets: the backend outlives them */
    uv_timer_t closer;
    bool closing;
    otr_close_cb close_cb;
};

static inline struct etcd *etcd_of(struct otr_backend *b)
{
    return (struct etcd *)(void *)b;
}

/* Every object counts itself while it lives, so that close knows when it is done. */
void etcd_object_made(struct etcd *etcd);
void etcd_object_gone(struct etcd *etcd);

/* Remembers the cluster's identity; when it is another one than before, every watch starts anew. */
void etcd_identity_seen(struct etcd *etcd, uint64_t identity);

/* --- etcd_call.c: one request ----------------------------------------------------------------------------------- */

struct etcd_reply {
    int status;             /* 0: JSON without error. Else the code of the last attempt */
    int code;               /* gRPC's, or ETCD_CODE_NONE */
    bool certain;           /* when status is not 0: etcd did certainly nothing, whatever the earlier attempts */
    bool sent_before;       /* an earlier attempt was sent and its outcome is unknown */
    const cJSON *json;      /* NULL unless status is 0 */
    const cJSON *header;    /* of json, or NULL */
    uint64_t sent_ms;       /* clock_now_ms() just before the last attempt */
    struct otr_errmsg *msg; /* never NULL */
};
typedef void (*etcd_call_cb)(void *data, const struct etcd_reply *reply);

enum { ETCD_ENDPOINT_ANY = -1 };

/* What a request does about who we are, when there is a user. */
enum etcd_token_use {
    ETCD_TOKEN_REQUIRED = 0, /* waits for a token */
    ETCD_TOKEN_OPTIONAL,     /* takes what there is and asks for one only when refused: keep-alives need none, and must
                              * not end because a password is being changed */
    ETCD_TOKEN_NONE,         /* for the login itself */
};

struct etcd_call_spec {
    const char *path; /* "/v3/kv/range"; static. NULL: sends nothing and succeeds in the next turn of the loop */
    enum etcd_lane lane;
    int endpoint;        /* the only one to ask, or ETCD_ENDPOINT_ANY */
    uint32_t timeout_ms; /* of one attempt; 0: the backend's */
    uint32_t budget_ms;  /* of all attempts; 0: ETCD_BUDGET_MS */
    bool repeat;         /* may be sent again after an unknown outcome; otherwise only while nothing has left */
    enum etcd_token_use token;
    etcd_call_cb done;
    void *data;
};

/* Takes over *body in every case. `done` comes later, once. On success *call is valid until `done`. Errors: OTR_NOMEM,
 * OTR_CANCELED (closing). */
int etcd_call_start(struct etcd *etcd, const struct etcd_call_spec *spec, struct json_text *body,
                    struct etcd_call **call);
/* `done` comes later with OTR_CANCELED. */
void etcd_call_cancel(struct etcd_call *call);
void etcd_call_cancel_all(struct etcd *etcd);

/* The url (at most ETCD_URL_MAX bytes) and the headers of any request; timeout_ms 0: none. */
enum { ETCD_URL_MAX = 512 };
struct etcd_headers {
    char timeout[40];
    char authorization[ETCD_TOKEN_BYTES_MAX + 24];
    const char *list[5];
};
int etcd_url(const struct etcd *etcd, unsigned endpoint, const char *path, char *url);
/* token NULL or "": none. */
void etcd_headers_init(struct etcd_headers *headers, uint32_t timeout_ms, const char *token);

/* --- etcd_auth.c: who we are ------------------------------------------------------------------------------------ */

/* Caller-owned; the module's from start until the callback or stop. */
struct etcd_auth_wait {
    struct etcd_auth_wait *prev, *next;
    struct etcd_token *token; /* whose list it is in, or NULL */
    uint64_t number;
    /* 0: there is a token. OTR_DENIED: user or password are wrong; OTR_UNREACHABLE, OTR_CANCELED. msg is never NULL. */
    void (*done)(void *data, int status, struct otr_errmsg *msg);
    void *data;
};

/* Checks and copies user, password and file. OTR_INVALID with words, OTR_NOMEM. */
int etcd_auth_init(struct etcd *etcd, const struct otr_backend_config *config, struct otr_errmsg *msg);
void etcd_auth_close(struct etcd *etcd);
/* True when a request must wait before it can be sent to this endpoint. */
static inline bool etcd_auth_missing(const struct etcd *etcd, unsigned endpoint)
{
    return etcd->user != NULL && etcd->tokens[endpoint].text == NULL;
}
/* Logs in at the endpoint, or joins a login that is under way; `done` comes later. OTR_NOMEM, OTR_CANCELED. */
int etcd_auth_wait_start(struct etcd *etcd, unsigned endpoint, struct etcd_auth_wait *wait);
void etcd_auth_wait_stop(struct etcd_auth_wait *wait);
/* The endpoint refused this token: the next request gets another one. */
void etcd_auth_refused(struct etcd *etcd, unsigned endpoint, uint64_t number);
/* Codes by which etcd may say that it wants another token. Of those of an invalid argument only the texts tell "no
 * user" and "revision of auth store is old" from other complaints, hence a new token is tried on all of them, once. */
bool etcd_auth_is_refusal(int code);

/* --- etcd_get.c: a prefix --------------------------------------------------------------------------------------- */

struct etcd_get;
/* status as in otr_get_cb. The result is lent. */
typedef void (*etcd_get_done_cb)(void *data, int status, const struct otr_get_result *result, struct otr_errmsg *msg);
int etcd_get_start(struct etcd *etcd, const char *prefix, etcd_get_done_cb done, void *data, struct etcd_get **get);
/* `done` comes later with OTR_CANCELED. */
void etcd_get_cancel(struct etcd_get *get);

/* --- members of the vtable -------------------------------------------------------------------------------------- */

int etcd_get_op(struct otr_backend *b, struct otr_get_req *req, const char *prefix, otr_get_cb cb);
int etcd_txn_op(struct otr_backend *b, struct otr_txn_req *req, const struct otr_txn *txn, otr_txn_cb cb);
int etcd_txn_service_register(struct otr_backend *b, struct otr_session *s, const struct otr_service *service,
                              enum otr_health health, struct otr_simple_req *req, otr_simple_cb cb);
int etcd_session_open(struct otr_backend *b, struct otr_session *s, uint32_t ttl_ms, otr_session_cb cb);
int etcd_session_close(struct otr_backend *b, struct otr_session *s, struct otr_simple_req *req, otr_simple_cb cb);
int etcd_session_revoke(struct otr_backend *b, const char *id, struct otr_simple_req *req, otr_simple_cb cb);
int etcd_watch_op(struct otr_backend *b, struct otr_watch *w, const char *prefix, uint64_t revision, otr_watch_cb cb);
void etcd_watch_stop(struct otr_backend *b, struct otr_watch *w);

/* A bound write said that its lease is gone: asks at once instead of at the next keep-alive. */
void etcd_session_check_all(struct etcd *etcd);
/* For close: sessions end without a report, watches with OTR_CANCELED. */
void etcd_session_drop_all(struct etcd *etcd);
void etcd_watch_cancel_all(struct etcd *etcd);
/* The cluster is another one: what is known of it is worth nothing. */
void etcd_watch_resync_all(struct etcd *etcd);

#endif
