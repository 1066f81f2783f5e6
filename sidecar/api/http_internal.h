/* What the files of the HTTP server share. Nobody else includes it.
 *
 *   http.c           the server: listening, accepting, time limits
 *   http_conn.c      a connection: states, sockets, answers
 *   http_request.c   bytes to requests: http_guard, http-parser
 *   http_exchange.c  a request's memory
 *   http_tls.c       TLS between socket and requests
 *
 * A connection's life:
 *
 *            first byte        head complete         body complete
 *   IDLE ----------------> HEAD ------------> BODY ----------------> HANDLING --http_reply--> WRITING --+
 *    ^                      '--------- (no body) --------------------^                                  |
 *    '----------------------------------- kept alive ---------------------------------------------------+
 *                                                                    LINGER <---- to be closed ---------'
 *
 * LINGER: our side is shut down, what still comes is read and dropped until the client ends too (2 s at most); a reset
 * would take an answer away from a client that is still sending its body. A CLOSED one waits for its handle's close
 * callback and for the answer to what it was handling. */
#ifndef OUTRIGGER_API_HTTP_INTERNAL_H
#define OUTRIGGER_API_HTTP_INTERNAL_H

#include "sidecar/api/http.h"
#include "sidecar/api/http_guard.h"

#include <http_parser.h>

enum {
    HTTP_SCRATCH_BYTES = 64 << 10,
    HTTP_LINGER_MS = 2000,
    HTTP_CLOSING_WRITE_MS = 1000,
    HTTP_FRESH_MS = 100, /* who has just connected, or was just answered, may have its request on the way */
};

enum http_conn_state {
    HTTP_CONN_IDLE,
    HTTP_CONN_HEAD,
    HTTP_CONN_BODY,
    HTTP_CONN_HANDLING,
    HTTP_CONN_WRITING,
    HTTP_CONN_LINGER,
    HTTP_CONN_CLOSED
};

struct http_server {
    struct http_server_config config;
    uv_tcp_t listener;
    uv_timer_t sweep;
    struct http_conn *conns;
    uint32_t conns_count;
    uint32_t sockets_count;             /* of them, those that still have their socket */
    struct http_conn *idle, **idle_end; /* those that wait for a request's first byte, the longest first */
    uint64_t bodies_total;
    uint64_t answers_total;
    struct http_metrics metrics;
    uint64_t closing_since_ms;
    bool leaving; /* every answer ends its connection */
    bool retired; /* no new connections */
    bool stopped;
    bool accept_missed;
    bool listener_closed;
    bool sweep_closing;
    void (*close_cb)(void *data);
    void *close_data;
    char scratch[HTTP_SCRATCH_BYTES]; /* read into while a connection holds no buffer; used up before the next read */
};

struct http_call {
    struct http_exchange x;
    struct http_conn *conn;
    struct http_field fields[HTTP_FIELDS_MAX];
    size_t fields_count;
    bool too_many_fields;
    char *head; /* what fields and target point into */
};

struct http_conn {
    uv_tcp_t tcp;
    struct http_server *s;
    struct http_conn *next, **link;
    struct http_conn *idle_next, **idle_link; /* idle_link NULL: not on the list */
    enum http_conn_state state;
    bool reading;
    bool in_input;   /* http_conn_input is on the stack */
    bool eof;        /* the client ended its side */
    bool keep_alive; /* as the client wishes */
    bool no_body;    /* HEAD */
    bool complete;   /* http-parser saw the end of the message */
    bool handle_closed;
    uint64_t since_ms; /* begin of the state */
    uint64_t moved_ms; /* last byte */
    uint64_t moved_bytes;
    struct http_guard guard;
    http_parser parser;
    struct http_call *call;
    char *head; /* unfinished */
    size_t head_used;
    char *pending; /* came while a request was under way */
    size_t pending_bytes;
    uv_write_t write;
    struct text out_head, out_body;
    size_t out_counted; /* of answers_total */
    /* Of a server with TLS. */
    struct tls_session *tls; /* from the first byte on */
    bool tls_writing;        /* `write` is under way with what the session lent */
    bool plain;              /* spoke no TLS, and is told so */
    size_t tls_at;           /* so much of the answer is encrypted */
    size_t tls_lent;         /* bytes that `write` has */
    uint64_t tls_sent;       /* ciphertext that the kernel has, of this answer */
};

/* --- http_exchange.c --- */

size_t http_body_capacity(const struct http_exchange *x); /* 0 without a body */
/* Room for `more` bytes; OTR_BUSY when all bodies together would be too large. Doubles, so that a large length that is
 * only announced takes no memory. `limit`: the body's length if known, else the most it may have. */
OTR_MUST_CHECK int http_body_grow(struct http_server *s, struct http_exchange *x, size_t more, uint64_t limit);
void http_call_free(struct http_server *s, struct http_call *call);

/* --- http_conn.c --- */

void http_conn_enter(struct http_conn *c, enum http_conn_state state);
/* Waits for the first byte of a request, or does no longer. */
void http_conn_idle(struct http_conn *c, bool idle);
void http_conn_close(struct http_conn *c);
void http_conn_read(struct http_conn *c);
/* The answer is with the kernel. */
void http_conn_written(struct http_conn *c);
/* Takes over `body`. */
void http_conn_answer(struct http_conn *c, int status, const char *headers, struct text *body);
/* Ends our side, drops what still comes, closes. */
void http_conn_linger(struct http_conn *c);
/* The client ended its side. */
void http_conn_eof(struct http_conn *c);
void http_conn_peer_text(const struct http_conn *c, char out[HTTP_PEER_BYTES]);
/* Answers what is no acceptable request, then closes. */
void http_conn_refuse(struct http_conn *c, int status, const char *why);

/* --- http_tls.c --- */

/* Bytes from the socket. */
void http_tls_input(struct http_conn *c, const char *data, size_t n);
/* Sends out_head and out_body, then http_conn_written. */
void http_tls_answer(struct http_conn *c);
/* Goes on with what there is to send. */
void http_tls_pump(struct http_conn *c);
/* How much of the answer has gone. */
uint64_t http_tls_moved(const struct http_conn *c);
/* Sends some bytes before the answer; 0, or it cannot. */
int http_tls_continue(struct http_conn *c, const uv_buf_t *buf);
/* Nothing more is sent. */
void http_tls_end(struct http_conn *c);

/* --- http_request.c --- */

/* Everything that comes goes through here: several requests may lie in one read, or one in many. */
void http_conn_input(struct http_conn *c, const char *data, size_t n);

/* --- http.c --- */

/* The connection's memory is gone: it no longer counts. */
void http_server_forget(struct http_server *s, struct http_conn *c);

#endif
