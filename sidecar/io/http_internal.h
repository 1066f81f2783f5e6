/* What http_client.c (requests under way, opening and closing), http_transfer.c (one request as curl sees it) and
 * http_lane.c (curl's multi handles on the loop) share. */
#ifndef OUTRIGGER_IO_HTTP_INTERNAL_H
#define OUTRIGGER_IO_HTTP_INTERNAL_H

#include "sidecar/io/http_client.h"

#include <curl/curl.h>
#include <sys/stat.h>

enum { HTTP_TLS_FILES = 3, HTTP_METHOD_BYTES = 16, HTTP_HEADER_BYTES = 64 };

/* One curl multi handle with its own connection cache, so that lanes share nothing; made when first used. */
struct http_lane {
    struct http_client *client;
    struct http_lane *next;
    unsigned number;
    CURLM *multi;
    uv_timer_t timer;
    bool busy;                     /* curl is working and may be in one of our callbacks */
    struct http_transfer *waiting; /* started meanwhile, by next_waiting */
};

/* One request under way. */
struct http_transfer {
    struct http_transfer *prev, *next; /* in client->transfers */
    struct http_transfer *next_waiting;
    struct http_request *req;
    http_done_cb done;
    struct http_lane *lane;
    char method[HTTP_METHOD_BYTES];
    char *url;
    CURL *easy;
    struct curl_slist *headers;
    bool attached; /* in the multi handle */
    bool canceled;
    bool begun;                     /* curl was about to write the request, or has done so */
    bool head_whole;                /* the empty line behind the response's headers came */
    int failed;                     /* why one of our callbacks ended the transfer, or 0 */
    char header[HTTP_HEADER_BYTES]; /* the one that was wanted */
    char *body;
    size_t body_bytes;
    size_t body_room;
    char error[CURL_ERROR_SIZE];
};

struct http_client {
    uv_loop_t *loop;
    char *ca_file;
    char *cert_file;
    char *key_file;
    struct stat tls_files[HTTP_TLS_FILES]; /* as last seen */
    uint64_t tls_checked_ms;
    uint64_t tls_changed_ms; /* 0: never */
    uint32_t connect_timeout_ms;
    uint32_t connections_max;
    struct http_lane *lanes;
    struct http_transfer *transfers;
    uv_timer_t sweeper;
    size_t handles_count; /* uv handles that are not closed yet */
    bool closing;
    http_client_close_cb close_cb;
    void *close_data;
};

/* --- http_client.c ---------------------------------------------------------------------------------------------- */

/* Ends what has failed or is canceled, in the next turn of the loop. */
void http_client_sweep_soon(struct http_client *client);
/* For the callback of each handle counted in handles_count. */
void http_client_handle_closed(struct http_client *client);

/* --- http_transfer.c -------------------------------------------------------------------------------------------- */

/* Tells curl everything about t->req. The easy handle is there. */
int http_transfer_prepare(struct http_transfer *t, struct http_client *client);
/* From inside a callback of curl: the sweep ends it. */
void http_transfer_fail(CURL *easy, int rv);
/* Ends a transfer that no multi handle holds any more, and frees it. The request is the caller's again in `done`. */
void http_transfer_finish(struct http_transfer *t, CURLcode result);
void http_transfer_free(struct http_transfer *t);

/* --- http_lane.c ------------------------------------------------------------------------------------------------ */

/* NULL: out of memory. */
struct http_lane *http_lane_get(struct http_client *client, unsigned number);
/* Not while lane->busy. */
int http_lane_attach(struct http_lane *lane, struct http_transfer *t);

#endif
