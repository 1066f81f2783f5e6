/* One request as curl sees it: its options, what curl calls back, and what a result of curl means.
 *
 * TLS files: curl reads them anew for each connection, once it is kept from remembering: CAs for a day, and sessions,
 * whose resumption would show the server the old certificate. Kept connections older than a change of the files are
 * left by CURLOPT_MAXLIFETIME_CONN, which counts whole seconds.
 *
 * Repeats: on a kept connection that turns out dead curl repeats a request by itself, POST included, although the
 * first copy may have been carried out. on_request_begins stops that as soon as a byte of the first copy has left. */
#include "sidecar/io/http_internal.h"

#include "sidecar/io/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { TLS_CHECK_MS = 1000, RESPONSE_BYTES_MAX = 64 << 20, RESPONSE_BYTES_FIRST = 1024 };

/* --- its end ---------------------------------------------------------------------------------------------------- */

void http_transfer_free(struct http_transfer *t)
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

static bool transfer_sent(const struct http_transfer *t)
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
static const char *tls_hint(const struct http_transfer *t, CURLcode result, long http_status)
{
    bool broken = result == CURLE_SEND_ERROR || result == CURLE_RECV_ERROR || result == CURLE_GOT_NOTHING ||
                  result == CURLE_ABORTED_BY_CALLBACK;
    long connects = 0;

    curl_easy_getinfo(t->easy, CURLINFO_NUM_CONNECTS, &connects);
    return broken && connects > 0 && http_status == 0 && strncmp(t->url, "https:", 6) == 0
               ? " (TLS: the server may have refused our certificate, or the lack of one)"
               : "";
}

void http_transfer_fail(CURL *easy, int rv)
{
    char *private = NULL;
    struct http_transfer *t;

    if (curl_easy_getinfo(easy, CURLINFO_PRIVATE, &private) == CURLE_OK && private != NULL) {
        t = (struct http_transfer *)(void *)private;
        t->failed = t->failed != 0 ? t->failed : rv;
        http_client_sweep_soon(t->lane->client);
    }
}

void http_transfer_finish(struct http_transfer *t, CURLcode result)
{
    struct http_client *client = t->lane->client;
    struct http_request *req = t->req;
    struct http_response response = {
        .body = t->body != NULL ? t->body : "", .body_bytes = t->body_bytes, .header = t->header};
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
    http_transfer_free(t);
}

static int body_append(struct http_transfer *t, const char *data, size_t bytes)
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

/* `line` is "Name: value" and its end. */
static void header_keep(struct http_transfer *t, const char *line, size_t bytes)
{
    size_t name_bytes = strlen(t->req->header_wanted);
    size_t used = 0;

    if (bytes <= name_bytes || line[name_bytes] != ':' || strncasecmp(line, t->req->header_wanted, name_bytes) != 0) {
        return;
    }
    for (size_t i = name_bytes + 1; i < bytes && used + 1 < sizeof t->header; i++) {
        if (line[i] != ' ' && line[i] != '\r' && line[i] != '\n') {
            t->header[used++] = line[i];
        }
    }
    t->header[used] = '\0';
}

static size_t on_header(char *line, size_t size, size_t count, void *arg)
{
    struct http_transfer *t = arg;
    size_t bytes = size * count;

    if (bytes > 0 && (line[0] == '\r' || line[0] == '\n')) {
        t->head_whole = true;
    } else if (bytes > 4 && memcmp(line, "HTTP", 4) == 0) {
        t->head_whole = false; /* what ended was an interim response (1xx) */
    } else if (t->req->header_wanted != NULL) {
        header_keep(t, line, bytes);
    }
    return bytes;
}

static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
    struct http_transfer *t = arg;
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
    struct http_transfer *t = arg;

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

static int set_headers(struct http_transfer *t)
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

static int set_method_and_body(struct http_transfer *t)
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
    const char *const paths[HTTP_TLS_FILES] = {client->ca_file, client->cert_file, client->key_file};
    uint64_t now_ms = clock_now_ms();
    struct stat st;

    if (client->tls_checked_ms != 0 && now_ms - client->tls_checked_ms < TLS_CHECK_MS) {
        return;
    }
    for (size_t i = 0; i < HTTP_TLS_FILES; i++) {
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

static int set_options(struct http_transfer *t, const struct http_client *client)
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

int http_transfer_prepare(struct http_transfer *t, struct http_client *client)
{
    int rv;

    tls_check(client);
    rv = set_options(t, client);
    rv = rv != 0 ? rv : set_headers(t);
    return rv != 0 ? rv : set_method_and_body(t);
}
