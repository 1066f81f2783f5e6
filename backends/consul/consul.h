/* What the files of this backend share. Loop thread only.
 *
 *   consul.c          open, close, the vtable, the token
 *   consul_call.c     one request and its repetitions at other agents
 *   consul_get.c      reads of a whole prefix, with the identity of the coordinator
 *   consul_txn.c      transactions
 *   consul_session.c  sessions and what keeps them alive; consul_session_end.c: their ends
 *   consul_service.c  the service that a session's check belongs to, as others find it
 *   consul_watch.c    watches: blocking queries, resync; consul_watch_checks.c: probes, and whether what is missing is
 * gone consul_plan.c     a transaction in Consul's verbs (pure) consul_diff.c     two states of a prefix make events
 * (pure) consul_codec.c    keys, numbers, key-values (pure) */
#ifndef OUTRIGGER_BACKENDS_CONSUL_H
#define OUTRIGGER_BACKENDS_CONSUL_H

#include "outrigger/backend.h"

#include "backends/consul/consul_codec.h"
#include "backends/consul/consul_diff.h"
#include "sidecar/io/endpoints.h"
#include "sidecar/io/http_client.h"

#include <uv.h>

enum {
    CONSUL_REQUEST_TIMEOUT_MS = 3000, /* one attempt */
    CONSUL_BUDGET_MS = 6000, /* all attempts of what may be repeated: outlasts a change of Consul's leader, if it is
                              * set up with raft_multiplier 1 */
    CONSUL_CLOSE_MS = 1000,  /* the end of a session: all attempts together */
    CONSUL_FLAGS_BITS = 52,  /* of a number that Consul's JSON keeps exactly */
};

/* The random name of this coordinator, made by whoever finds that it has none (PROTOCOL D4): Consul has none to show.
 */
#define CONSUL_IDENTITY_KEY "outrigger-identity"

/* Requests of different lanes share no connection, so that a stuck one delays none of another kind. */
enum consul_lane { CONSUL_LANE_REQUEST = 1, CONSUL_LANE_SESSION, CONSUL_LANE_WATCH };

struct consul_call;
struct consul_get;
struct consul_session;
struct consul_txn;
struct consul_watch;

/* The answer of a read while its callback runs: a watch that begins in it begins with this. */
struct consul_lent {
    const char *prefix; /* NULL: nothing is lent */
    const struct otr_get_result *result;
    uint64_t index;
};

struct consul {
    struct otr_backend base; /* first: the vtable's handle */
    uv_loop_t *loop;
    struct http_client *http;
    struct endpoints endpoints;
    uint32_t request_timeout_ms;
    char *token;      /* NULL: none */
    char *token_file; /* NULL: the token is what it is */
    struct consul_call *calls;
    struct consul_session *sessions;
    struct consul_watch *watches;
    struct consul_lent lent;
    size_t objects_count; /* of the lists, and of gets and transactions: the backend outlives them */
    uv_timer_t closer;
    bool closing;
    otr_close_cb close_cb;
};

static inline struct consul *consul_of(struct otr_backend *b)
{
    return (struct consul *)(void *)b;
}

/* Every object counts itself while it lives, so that close knows when it is done. */
void consul_object_made(struct consul *consul);
void consul_object_gone(struct consul *consul);

/* Reads the token's file again. True when there is another token now. */
bool consul_token_renew(struct consul *consul);

/* --- consul_call.c: one request --------------------------------------------------------------------------------- */

struct consul_reply {
    int status;             /* 0: HTTP 200, or what the spec accepts. Else the code of the last attempt */
    long http_status;       /* 0: none */
    bool certain;           /* when status is not 0: Consul did certainly nothing, whatever the earlier attempts */
    bool sent_before;       /* an earlier attempt was sent and its outcome is unknown */
    bool token_unknown;     /* DENIED for who we are, not for what we want */
    const cJSON *json;      /* NULL unless status is 0 and the body is JSON */
    const char *body;       /* NUL-terminated, never NULL */
    uint64_t index;         /* of X-Consul-Index, 0: none */
    uint64_t sent_ms;       /* clock_now_ms() just before the last attempt */
    unsigned endpoint;      /* of the last attempt */
    struct otr_errmsg *msg; /* never NULL */
};
typedef void (*consul_call_cb)(void *data, const struct consul_reply *reply);

enum { CONSUL_ENDPOINT_ANY = -1 };

struct consul_call_spec {
    const char *method; /* static. NULL: sends nothing and succeeds in the next turn of the loop */
    enum consul_lane lane;
    int endpoint;        /* the only one to ask, or CONSUL_ENDPOINT_ANY */
    uint32_t timeout_ms; /* of one attempt; 0: the backend's */
    uint32_t budget_ms;  /* of all attempts; 0: CONSUL_BUDGET_MS */
    long accepted;       /* a second HTTP status that is an answer, 0: none */
    bool repeat;         /* may be sent again after an unknown outcome; otherwise only while nothing has left */
    consul_call_cb done;
    void *data;
};

/* Takes over *path ("/v1/...?...") and *body in every case. `done` comes later, once. On success *call (may be NULL) is
 * valid until `done`. Errors: OTR_NOMEM, OTR_CANCELED (closing). */
int consul_call_start(struct consul *consul, const struct consul_call_spec *spec, struct json_text *path,
                      struct json_text *body, struct consul_call **call);
/* `done` comes later with OTR_CANCELED. */
void consul_call_cancel(struct consul_call *call);
void consul_call_cancel_all(struct consul *consul);

/* --- consul_get.c: a prefix ------------------------------------------------------------------------------------- */

/* status as in otr_get_cb, and NOMEM. The list is the callee's to take; `result` shows the same. */
struct consul_got {
    int status;
    struct otr_get_result result;
    struct kv_list *kvs;
    uint64_t index;     /* where a blocking query goes on */
    uint64_t sent_ms;   /* the answer is newer than this */
    bool token_unknown; /* DENIED may be mended by another token */
    struct otr_errmsg *msg;
};
typedef void (*consul_get_done_cb)(void *data, const struct consul_got *got);
/* endpoint: the only one to ask, or CONSUL_ENDPOINT_ANY. */
int consul_get_start(struct consul *consul, const char *prefix, int endpoint, consul_get_done_cb done, void *data,
                     struct consul_get **get);
/* `done` comes later with OTR_CANCELED. */
void consul_get_cancel(struct consul_get *get);

/* --- consul_service.c ------------------------------------------------------------------------------------------- */

/* What an agent knows of a session. Strings are owned. */
struct consul_service {
    char id[48];      /* also the prefix of its checks' ids */
    char *definition; /* further fields of the registration, ",\"Port\":..."; NULL: not registered as a service yet */
    uint32_t ttl_ms;
};
/* The body of /v1/agent/service/register. */
void consul_service_add(struct json_text *body, const struct consul_service *service);
/* The path of a call about its check, or about the service itself: "/v1/agent/check/pass/", ":alive". */
void consul_service_add_path(struct json_text *path, const char *call, const struct consul_service *service,
                             const char *check);
/* Tells the agent to forget it; nobody waits for that. */
void consul_service_forget(struct consul *consul, const struct consul_service *service, unsigned endpoint);

/* --- members of the vtable -------------------------------------------------------------------------------------- */

int consul_get_op(struct otr_backend *b, struct otr_get_req *req, const char *prefix, otr_get_cb cb);
int consul_txn_op(struct otr_backend *b, struct otr_txn_req *req, const struct otr_txn *txn, otr_txn_cb cb);
int consul_service_register(struct otr_backend *b, struct otr_session *s, const struct otr_service *service,
                            enum otr_health health, struct otr_simple_req *req, otr_simple_cb cb);
int consul_session_open(struct otr_backend *b, struct otr_session *s, uint32_t ttl_ms, otr_session_cb cb);
int consul_session_close(struct otr_backend *b, struct otr_session *s, struct otr_simple_req *req, otr_simple_cb cb);
int consul_session_revoke(struct otr_backend *b, const char *id, struct otr_simple_req *req, otr_simple_cb cb);
int consul_watch_op(struct otr_backend *b, struct otr_watch *w, const char *prefix, uint64_t revision, otr_watch_cb cb);
void consul_watch_stop(struct otr_backend *b, struct otr_watch *w);

/* A bound write said that its session is gone: asks at once instead of at the next renewal. */
void consul_session_check_all(struct consul *consul);
/* The agent that a session is at, and its registration there; NULL when it has ended. */
struct consul_service *consul_session_registration(struct otr_session *s, unsigned *endpoint);
/* Keeps it alive no longer; no more reports. */
void consul_session_drop(struct otr_session *s);
/* For close: sessions end without a report, watches with OTR_CANCELED. */
void consul_session_drop_all(struct consul *consul);
void consul_watch_cancel_all(struct consul *consul);

#endif
