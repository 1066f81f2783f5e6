/* A lane is one curl multi handle with its own connection cache, so that lanes share nothing; it is made when first
 * used. A transfer is one request under way.
 *
 * Happy path: start makes the easy handle and adds it to its lane's multi handle. curl asks for a timer (0 ms) and
 * then for sockets; uv_timer and uv_poll drive curl_multi_socket_action; lane_drain picks up what has ended and calls
 * `done`, outside of any call to curl.
 *
 * curl forbids calls on a multi handle from inside its own callbacks, and on_data runs in one. Hence a start from
 * there waits on the lane's list until curl has returned, and cancel and close only leave a mark, which `sweep` (a
 * timer of 0 ms) acts on in the next turn of the loop.
 *
 * TLS files: curl reads them anew for each connection, once it is kept from remembering: CAs for a day, and sessions,
 * whose resumption would show the server the old certificate. Kept connections older than a change of the files are
 * left by CURLOPT_MAXLIFETIME_CONN, which counts whole seconds.
 *
 * Repeats: on a kept connection that turns out dead curl repeats a request by itself, POST included, although the
 * first copy may have been carried out. on_request_begins stops that as soon as a byte of the first copy has left. */
#include "sidecar/io/http_client.h"

#include "sidecar/io/clock.h"

#include <curl/curl.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    TLS_FILES = 3,
    TLS_CHECK_MS = 1000,
    CONNECT_TIMEOUT_MS = 500,
    RESPONSE_BYTES_MAX = 64 << 20,
    RESPONSE_BYTES_FIRST = 1024,
    METHOD_BYTES = 16,
};

struct lane {
    struct http_client *client;
    struct lane *next;
    unsigned number;
    CURLM *multi;
    uv_timer_t timer;
    bool busy;                /* curl is working and may be in one of our callbacks */
    struct transfer *waiting; /* started meanwhile, by next_waiting */
};

struct transfer {
    struct transfer *prev, *next; /* in client->transfers */
    struct transfer *next_waiting;
    struct http_request *req;
    http_done_cb done;
    struct lane *lane;
    char method[METHOD_BYTES];
    char *url;
    CURL *easy;
    struct curl_slist *headers;
    bool attached; /* in the multi handle */
    bool canceled;
    bool begun;      /* curl was about to write the request, or has done so */
    bool head_whole; /* the empty line behind the response's headers came */
    int failed;      /* why one of our callbacks ended the transfer, or 0 */
    char *body;
    size_t body_bytes;
    size_t body_room;
    char error[CURL_ERROR_SIZE];
};

struct watched_socket {
    uv_poll_t poll;
    struct lane *lane;
    curl_socket_t fd;
    int events; /* that curl waits for */
};

struct http_client {
    uv_loop_t *loop;
    char *ca_file;
    char *cert_file;
    char *key_file;
    struct stat tls_files[TLS_FILES]; /* as last seen */
    uint64_t tls_checked_ms;
    uint64_t tls_changed_ms; /* 0: never */
    uint32_t connect_timeout_ms;
    struct lane *lanes;
    struct transfer *transfers;
    uv_timer_t sweeper;
    size_t handles_count; /* uv handles that are not closed yet */
    bool closing;
    http_client_close_cb close_cb;
    void *close_data;
};

static void sweep_soon(struct http_client *client);

/* --- one transfer ----------------------------------------------------------------------------------------------- */

static void transfer_free(struct transfer *t)
{
    curl_easy_cleanup(t->easy);
    curl_slist_free_all(t->headers);
    free(t->url);
    free(t->body);
    free(t);
}

/* The code for a curl result. `sent` tells a time-out while connecting from one while waiting. */
static int code_of(CURLcode result, bool sent)
{
    switch (result) {
    case CURLE_OK:
        return 0;
    case CURLE_OPERATION_TIMEDOUT:
        return sent ? OTR_TIMEOUT : OTR_UNREACHABLE;
    case CURLE_OUT_OF_MEMORY:
        return OTR_NOMEM;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CLIENTCERT:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_ABORTED_BY_CALLBACK: /* on_request_begins: the connection died under the first copy. */
        return OTR_UNREACHABLE;
    default:
        return OTR_PROTO;
    }
}

static bool transfer_sent(const struct transfer *t)
{
    long request_bytes = 0;

    if (!t->begun) {
        return false;
    }
    /* Under TLS bytes may have left although the write has not returned: there only `begun` is certain. */
    curl_easy_getinfo(t->easy, CURLINFO_REQUEST_SIZE, &request_bytes);
    return request_bytes > 0 || strncmp(t->url, "http:", 5) != 0;
}

/* With TLS 1.3 a server refuses a client's certificate only after the client has sent its request; often the reset that
 * follows is all that arrives. */
static const char *tls_hint(const struct transfer *t, CURLcode result, long http_status)
{
    bool broken = result == CURLE_SEND_ERROR || result == CURLE_RECV_ERROR || result == CURLE_GOT_NOTHING ||
                  result == CURLE_ABORTED_BY_CALLBACK;
    long connects = 0;

    curl_easy_getinfo(t->easy, CURLINFO_NUM_CONNECTS, &connects);
    return broken && connects > 0 && http_status == 0 && strncmp(t->url, "https:", 6) == 0
               ? " (TLS: the server may have refused our certificate, or the lack of one)"
               : "";
}

/* From inside a callback of curl: the sweep ends it. */
static void transfer_fail(CURL *easy, int rv)
{
    char *private = NULL;
    struct transfer *t;

    if (curl_easy_getinfo(easy, CURLINFO_PRIVATE, &private) == CURLE_OK && private != NULL) {
        t = (struct transfer *)(void *)private;
        t->failed = t->failed != 0 ? t->failed : rv;
        sweep_soon(t->lane->client);
    }
}

/* Ends a transfer that no multi handle holds any more. The request is the caller's again in `done`. */
static void transfer_finish(struct transfer *t, CURLcode result)
{
    struct http_client *client = t->lane->client;
    struct http_request *req = t->req;
    struct http_response response = {.body = t->body != NULL ? t->body : "", .body_bytes = t->body_bytes};
    struct otr_errmsg msg = {0};
    long os_errno = 0;
    int status;

    /* curl takes headers that a closed connection cut off for all there are, and a missing body for an empty one. */
    if (result == CURLE_OK && !t->head_whole) {
        result = CURLE_PARTIAL_FILE;
    }
    response.sent = transfer_sent(t);
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &response.status);
    curl_easy_getinfo(t->easy, CURLINFO_OS_ERRNO, &os_errno);
    response.connection_refused = result == CURLE_COULDNT_CONNECT && os_errno == ECONNREFUSED;
    status = t->canceled ? OTR_CANCELED : t->failed != 0 ? t->failed : code_of(result, response.sent);
    if (t->canceled || t->failed != 0) {
        otr_errmsg_set(&msg, "%s %s: %s", t->method, t->url, otr_strerror(status));
    } else if (status != 0) {
        otr_errmsg_set(&msg, "%s %s: %s%s", t->method, t->url,
                       result == CURLE_ABORTED_BY_CALLBACK ? "connection lost before an answer"
                       : t->error[0] != '\0'               ? t->error
                                                           : curl_easy_strerror(result),
                       tls_hint(t, result, response.status));
    }
    if (t->prev != NULL) {
        t->prev->next = t->next;
    } else {
        client->transfers = t->next;
    }
    if (t->next != NULL) {
        t->next->prev = t->prev;
    }
    req->internal = NULL;
    t->done(req, status, &response, &msg);
    transfer_free(t);
}

static int body_append(struct transfer *t, const char *data, size_t bytes)
{
    size_t limit = t->req->response_bytes_max != 0 ? t->req->response_bytes_max : RESPONSE_BYTES_MAX;
    size_t room = t->body_room != 0 ? t->body_room : RESPONSE_BYTES_FIRST;
    char *grown;

    if (bytes > limit || t->body_bytes > limit - bytes) {
        return OTR_TOOBIG;
    }
    while (room < t->body_bytes + bytes + 1) {
        room *= 2;
    }
    if (room != t->body_room) {
        grown = realloc(t->body, room);
        if (grown == NULL) {
            return OTR_NOMEM;
        }
        t->body = grown;
        t->body_room = room;
    }
    memcpy(t->body + t->body_bytes, data, bytes);
    t->body_bytes += bytes;
    t->body[t->body_bytes] = '\0';
    return 0;
}

static size_t on_header(char *line, size_t size, size_t count, void *arg)
{
    struct transfer *t = arg;
    size_t bytes = size * count;

    if (bytes > 0 && (line[0] == '\r' || line[0] == '\n')) {
        t->head_whole = true;
    } else if (bytes > 4 && memcmp(line, "HTTP", 4) == 0) {
        t->head_whole = false; /* what ended was an interim response (1xx) */
    }
    return bytes;
}

static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
    struct transfer *t = arg;
    size_t bytes = size * count;

    if (t->canceled) {
        return CURL_WRITEFUNC_ERROR;
    }
    if (t->req->on_data == NULL) {
        t->failed = body_append(t, data, bytes);
    } else if (t->req->on_data(t->req, data, bytes) != 0) {
        t->failed = OTR_CANCELED;
    }
    return t->failed == 0 ? bytes : CURL_WRITEFUNC_ERROR;
}

/* Called before each time that curl writes the request, repeats included. */
static int on_request_begins(void *arg, char *remote_ip, char *local_ip, int remote_port, int local_port)
{
    struct transfer *t = arg;

    (void)remote_ip;
    (void)local_ip;
    (void)remote_port;
    (void)local_port;
    if (t->begun && transfer_sent(t) && strcmp(t->method, "GET") != 0) {
        return CURL_PREREQFUNC_ABORT;
    }
    t->begun = true;
    return CURL_PREREQFUNC_OK;
}

static int set_headers(struct transfer *t)
{
    static const char *const none[] = {NULL};
    const char *const *given = t->req->headers != NULL ? t->req->headers : none;
    struct curl_slist *longer = curl_slist_append(NULL, "Expect:"); /* No wait for "100 Continue". */

    while (longer != NULL) {
        t->headers = longer;
        if (*given == NULL) {
            return curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers) == CURLE_OK ? 0 : OTR_NOMEM;
        }
        longer = curl_slist_append(t->headers, *given++);
    }
    return OTR_NOMEM;
}

static int set_method_and_body(struct transfer *t)
{
    const struct http_request *req = t->req;
    const char *body = req->body != NULL ? req->body : "";
    bool with_body = req->body_bytes > 0 || strcmp(req->method, "POST") == 0 || strcmp(req->method, "PUT") == 0;
    CURLcode rv = CURLE_OK;

    if (with_body) {
        rv = curl_easy_setopt(t->easy, CURLOPT_POST, 1L);
        if (rv == CURLE_OK) {
            rv = curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)req->body_bytes);
        }
        if (rv == CURLE_OK) {
            rv = curl_easy_setopt(t->easy, req->body_borrowed ? CURLOPT_POSTFIELDS : CURLOPT_COPYPOSTFIELDS, body);
        }
    }
    if (rv == CURLE_OK && strcmp(req->method, with_body ? "POST" : "GET") != 0) {
        rv = curl_easy_setopt(t->easy, CURLOPT_CUSTOMREQUEST, req->method);
    }
    return rv == CURLE_OK ? 0 : OTR_NOMEM;
}

/* --- TLS -------------------------------------------------------------------------------------------------------- */

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static void tls_check(struct http_client *client)
{
    const char *const paths[TLS_FILES] = {client->ca_file, client->cert_file, client->key_file};
    uint64_t now_ms = clock_now_ms();
    struct stat st;

    if (client->tls_checked_ms != 0 && now_ms - client->tls_checked_ms < TLS_CHECK_MS) {
        return;
    }
    for (size_t i = 0; i < TLS_FILES; i++) {
        if (paths[i] == NULL || stat(paths[i], &st) != 0) {
            continue; /* A file that is just being replaced: what is there counts when it is there. */
        }
        if (client->tls_checked_ms != 0 && !same_file(&client->tls_files[i], &st)) {
            client->tls_changed_ms = now_ms;
        }
        client->tls_files[i] = st;
    }
    client->tls_checked_ms = now_ms;
}

static int set_tls(CURL *e, const struct http_client *client)
{
    uint64_t age_s = client->tls_changed_ms != 0 ? (clock_now_ms() - client->tls_changed_ms) / 1000 : 0;
    bool ok = true;

    if (client->tls_changed_ms != 0 && age_s == 0) {
        ok = curl_easy_setopt(e, CURLOPT_FRESH_CONNECT, 1L) == CURLE_OK;
    } else if (client->tls_changed_ms != 0) {
        ok = curl_easy_setopt(e, CURLOPT_MAXLIFETIME_CONN, (long)age_s) == CURLE_OK;
    }
    ok = ok && curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_SSL_SESSIONID_CACHE, 0L) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_CA_CACHE_TIMEOUT, client->ca_file != NULL ? 0L : 86400L) == CURLE_OK;
    /* NULL leaves curl's default. */
    ok = ok && (client->ca_file == NULL || curl_easy_setopt(e, CURLOPT_CAINFO, client->ca_file) == CURLE_OK);
    ok = ok && (client->cert_file == NULL || curl_easy_setopt(e, CURLOPT_SSLCERT, client->cert_file) == CURLE_OK);
    ok = ok && (client->key_file == NULL || curl_easy_setopt(e, CURLOPT_SSLKEY, client->key_file) == CURLE_OK);
    return ok ? 0 : OTR_NOMEM;
}

static int set_options(struct transfer *t, const struct http_client *client)
{
    const struct http_request *req = t->req;
    CURL *e = t->easy;
    bool ok = curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK;

    ok = ok && curl_easy_setopt(e, CURLOPT_URL, req->url) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_PRIVATE, t) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_ERRORBUFFER, t->error) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_NOPROXY, "*") == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_TCP_NODELAY, 1L) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L) == CURLE_OK;
    /* One request a connection at a time: a stalled answer holds up nothing else. */
    ok = ok && curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)client->connect_timeout_ms) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)req->timeout_ms) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_HEADERDATA, t) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_WRITEDATA, t) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_PREREQFUNCTION, on_request_begins) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_PREREQDATA, t) == CURLE_OK;
    if (ok && strncmp(req->url, "https:", 6) == 0) {
        return set_tls(e, client);
    }
    return ok ? 0 : OTR_NOMEM;
}

/* --- lanes ------------------------------------------------------------------------------------------------------ */

static int lane_attach(struct lane *lane, struct transfer *t)
{
    if (curl_multi_add_handle(lane->multi, t->easy) != CURLM_OK) {
        return OTR_NOMEM;
    }
    t->attached = true;
    return 0;
}

static void lane_drain(struct lane *lane)
{
    CURLMsg *message;
    struct transfer *t;
    char *private;
    CURLcode result;
    int left;

    while ((message = curl_multi_info_read(lane->multi, &left)) != NULL) {
        if (message->msg != CURLMSG_DONE) {
            continue;
        }
        result = message->data.result;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &private);
        t = (struct transfer *)(void *)private;
        curl_multi_remove_handle(lane->multi, t->easy);
        t->attached = false;
        transfer_finish(t, result);
    }
}

static void lane_act(struct lane *lane, curl_socket_t fd, int events)
{
    struct transfer *t;
    int running;

    lane->busy = true;
    curl_multi_socket_action(lane->multi, fd, events, &running);
    lane->busy = false;
    while ((t = lane->waiting) != NULL) {
        lane->waiting = t->next_waiting;
        t->failed = lane_attach(lane, t);
        if (t->failed != 0) {
            sweep_soon(lane->client);
        }
    }
    lane_drain(lane);
}

static void on_timer(uv_timer_t *timer)
{
    lane_act(timer->data, CURL_SOCKET_TIMEOUT, 0);
}

static void on_socket(uv_poll_t *poll, int status, int events)
{
    struct watched_socket *s = poll->data;
    int flags = 0;

    /* A connection that was reset may hold what the server said before: the alert that tells why it did not like our
     * certificate. curl reads to the end and finds the error by itself; CURL_CSELECT_ERR would say nothing. */
    events |= status < 0 ? s->events : 0;
    flags |= (events & UV_READABLE) != 0 ? CURL_CSELECT_IN : 0;
    flags |= (events & UV_WRITABLE) != 0 ? CURL_CSELECT_OUT : 0;
    lane_act(s->lane, s->fd, flags);
    if (status < 0 && !uv_is_closing((uv_handle_t *)poll)) {
        uv_poll_start(poll, s->events, on_socket); /* libuv has stopped it. `s` lives until its handle is closed. */
    }
}

static int on_curl_timer(CURLM *multi, long timeout_ms, void *arg)
{
    struct lane *lane = arg;

    (void)multi;
    if (timeout_ms < 0) {
        uv_timer_stop(&lane->timer);
    } else {
        uv_timer_start(&lane->timer, on_timer, (uint64_t)timeout_ms, 0);
    }
    return 0;
}

static void client_handle_closed(struct http_client *client);

static void on_socket_closed(uv_handle_t *handle)
{
    struct watched_socket *s = handle->data;
    struct http_client *client = s->lane->client;

    free(s);
    client_handle_closed(client);
}

static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    struct lane *lane = arg;
    struct watched_socket *s = socket_arg;
    int events = 0;

    if (what == CURL_POLL_REMOVE) {
        if (s != NULL) {
            curl_multi_assign(lane->multi, fd, NULL);
            uv_close((uv_handle_t *)&s->poll, on_socket_closed);
        }
        return 0;
    }
    if (s == NULL) {
        s = calloc(1, sizeof *s);
        if (s == NULL || uv_poll_init_socket(lane->client->loop, &s->poll, fd) != 0) {
            free(s);
            transfer_fail(easy, OTR_NOMEM); /* Not by -1: curl would fail all transfers of the lane, for ever. */
            return 0;
        }
        s->poll.data = s;
        s->lane = lane;
        s->fd = fd;
        lane->client->handles_count++;
        curl_multi_assign(lane->multi, fd, s);
    }
    events |= (what & CURL_POLL_IN) != 0 ? UV_READABLE : 0;
    events |= (what & CURL_POLL_OUT) != 0 ? UV_WRITABLE : 0;
    s->events = events;
    if (uv_poll_start(&s->poll, events, on_socket) != 0) {
        transfer_fail(easy, OTR_NOMEM);
    }
    return 0;
}

static struct lane *lane_get(struct http_client *client, unsigned number)
{
    struct lane *lane;

    for (lane = client->lanes; lane != NULL; lane = lane->next) {
        if (lane->number == number) {
            return lane;
        }
    }
    lane = calloc(1, sizeof *lane);
    if (lane == NULL) {
        return NULL;
    }
    lane->multi = curl_multi_init();
    if (lane->multi == NULL) {
        free(lane);
        return NULL;
    }
    lane->client = client;
    lane->number = number;
    uv_timer_init(client->loop, &lane->timer);
    lane->timer.data = lane;
    client->handles_count++;
    curl_multi_setopt(lane->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
    curl_multi_setopt(lane->multi, CURLMOPT_SOCKETDATA, lane);
    curl_multi_setopt(lane->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
    curl_multi_setopt(lane->multi, CURLMOPT_TIMERDATA, lane);
    lane->next = client->lanes;
    client->lanes = lane;
    return lane;
}

/* --- the client ------------------------------------------------------------------------------------------------- */

static void client_free(struct http_client *client)
{
    struct lane *next;

    for (struct lane *lane = client->lanes; lane != NULL; lane = next) {
        next = lane->next;
        free(lane);
    }
    free(client->ca_file);
    free(client->cert_file);
    free(client->key_file);
    free(client);
    curl_global_cleanup();
}

static void client_handle_closed(struct http_client *client)
{
    http_client_close_cb cb = client->close_cb;
    void *data = client->close_data;

    client->handles_count--;
    if (client->handles_count == 0) { /* The sweeper is among them: this happens only while closing. */
        client_free(client);
        if (cb != NULL) {
            cb(data);
        }
    }
}

static void on_lane_timer_closed(uv_handle_t *handle)
{
    client_handle_closed(((struct lane *)handle->data)->client);
}

static void on_sweeper_closed(uv_handle_t *handle)
{
    client_handle_closed(handle->data);
}

static void client_close_handles(struct http_client *client)
{
    for (struct lane *lane = client->lanes; lane != NULL; lane = lane->next) {
        curl_multi_cleanup(lane->multi);
        uv_close((uv_handle_t *)&lane->timer, on_lane_timer_closed);
    }
    uv_close((uv_handle_t *)&client->sweeper, on_sweeper_closed);
}

/* A transfer that must end now; `done` may have changed the list, so look again from its start. */
static struct transfer *next_to_end(const struct http_client *client)
{
    struct transfer *t;

    for (t = client->transfers; t != NULL; t = t->next) {
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): what has ended is no longer in the list. */
        if (t->canceled || client->closing || t->failed != 0) {
            return t;
        }
    }
    return NULL;
}

static void sweep(uv_timer_t *timer)
{
    struct http_client *client = timer->data;
    struct transfer *t;

    while ((t = next_to_end(client)) != NULL) {
        if (t->attached) {
            curl_multi_remove_handle(t->lane->multi, t->easy);
            t->attached = false;
        }
        t->canceled = t->failed == 0 || t->canceled;
        transfer_finish(t, CURLE_OK);
    }
    if (client->closing) {
        client_close_handles(client);
    }
}

static void sweep_soon(struct http_client *client)
{
    uv_timer_start(&client->sweeper, sweep, 0, 0);
}

static int copy_file_name(char **copy, const char *path, const char *what, struct otr_errmsg *msg)
{
    if (path == NULL) {
        return 0;
    }
    /* curl would tell only with the first request. */
    if (access(path, R_OK) != 0) {
        otr_errmsg_set(msg, "cannot read the %s %s: %s", what, path, strerror(errno));
        return OTR_INVALID;
    }
    *copy = strdup(path);
    return *copy != NULL ? 0 : OTR_NOMEM;
}

int http_client_new(struct http_client **client, uv_loop_t *loop, const struct http_client_config *config,
                    struct otr_errmsg *msg)
{
    struct http_client *c;
    int rv;

    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        otr_errmsg_set(msg, "libcurl cannot be initialised");
        return OTR_NOMEM;
    }
    c = calloc(1, sizeof *c);
    if (c == NULL) {
        curl_global_cleanup();
        otr_errmsg_set(msg, "%s", otr_strerror(OTR_NOMEM));
        return OTR_NOMEM;
    }
    /* OpenSSL writes without MSG_NOSIGNAL: a server that hangs up must not end the process. */
    signal(SIGPIPE, SIG_IGN);
    c->loop = loop;
    c->connect_timeout_ms = config->connect_timeout_ms != 0 ? config->connect_timeout_ms : CONNECT_TIMEOUT_MS;
    rv = copy_file_name(&c->ca_file, config->ca_file, "CA file", msg);
    if (rv == 0) {
        rv = copy_file_name(&c->cert_file, config->cert_file, "certificate", msg);
    }
    if (rv == 0) {
        rv = copy_file_name(&c->key_file, config->key_file, "private key", msg);
    }
    if (rv != 0) {
        client_free(c);
        return rv;
    }
    uv_timer_init(loop, &c->sweeper);
    c->sweeper.data = c;
    c->handles_count = 1;
    *client = c;
    return 0;
}

int http_client_start(struct http_client *client, struct http_request *req, http_done_cb done)
{
    struct transfer *t;
    int rv;

    if (client->closing) {
        return OTR_CANCELED;
    }
    if ((strncmp(req->url, "http://", 7) != 0 && strncmp(req->url, "https://", 8) != 0) ||
        strlen(req->method) >= METHOD_BYTES) {
        return OTR_INVALID;
    }
    t = calloc(1, sizeof *t);
    if (t == NULL) {
        return OTR_NOMEM;
    }
    t->req = req;
    t->done = done;
    strcpy(t->method, req->method);
    t->url = strdup(req->url);
    t->lane = lane_get(client, req->lane);
    t->easy = curl_easy_init();
    rv = t->url != NULL && t->lane != NULL && t->easy != NULL ? 0 : OTR_NOMEM;
    tls_check(client);
    rv = rv != 0 ? rv : set_options(t, client);
    rv = rv != 0 ? rv : set_headers(t);
    rv = rv != 0 ? rv : set_method_and_body(t);
    if (rv == 0 && !t->lane->busy) {
        rv = lane_attach(t->lane, t);
    } else if (rv == 0) {
        t->next_waiting = t->lane->waiting;
        t->lane->waiting = t;
    }
    if (rv != 0) {
        transfer_free(t);
        return rv;
    }
    t->next = client->transfers;
    if (t->next != NULL) {
        t->next->prev = t;
    }
    client->transfers = t;
    req->internal = t;
    return 0;
}

void http_client_cancel(struct http_client *client, struct http_request *req)
{
    struct transfer *t = req->internal;

    if (t != NULL) {
        t->canceled = true;
        sweep_soon(client);
    }
}

void http_client_close(struct http_client *client, http_client_close_cb cb, void *data)
{
    client->closing = true;
    client->close_cb = cb;
    client->close_data = data;
    sweep_soon(client);
}
