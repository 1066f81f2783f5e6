/* Lanes: curl's multi handles, driven by libuv. curl asks for a timer (0 ms) and then for sockets; uv_timer and uv_poll
 * drive curl_multi_socket_action; lane_drain picks up what has ended and has `done` called, outside of any call to
 * curl. */
#include "sidecar/io/http_internal.h"

#include <stdlib.h>

struct watched_socket {
    uv_poll_t poll;
    struct http_lane *lane;
    curl_socket_t fd;
    int events; /* that curl waits for */
};

int http_lane_attach(struct http_lane *lane, struct http_transfer *t)
{
    if (curl_multi_add_handle(lane->multi, t->easy) != CURLM_OK) {
        return OTR_NOMEM;
    }
    t->attached = true;
    return 0;
}

static void lane_drain(struct http_lane *lane)
{
    CURLMsg *message;
    struct http_transfer *t;
    char *private;
    CURLcode result;
    int left;

    while ((message = curl_multi_info_read(lane->multi, &left)) != NULL) {
        if (message->msg != CURLMSG_DONE) {
            continue;
        }
        result = message->data.result;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &private);
        t = (struct http_transfer *)(void *)private;
        curl_multi_remove_handle(lane->multi, t->easy);
        t->attached = false;
        http_transfer_finish(t, result);
    }
}

static void lane_act(struct http_lane *lane, curl_socket_t fd, int events)
{
    struct http_transfer *t;
    int running;

    lane->busy = true;
    curl_multi_socket_action(lane->multi, fd, events, &running);
    lane->busy = false;
    while ((t = lane->waiting) != NULL) {
        lane->waiting = t->next_waiting;
        t->failed = http_lane_attach(lane, t);
        if (t->failed != 0) {
            http_client_sweep_soon(lane->client);
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
    struct http_lane *lane = arg;

    (void)multi;
    if (timeout_ms < 0) {
        uv_timer_stop(&lane->timer);
    } else {
        uv_timer_start(&lane->timer, on_timer, (uint64_t)timeout_ms, 0);
    }
    return 0;
}

static void on_socket_closed(uv_handle_t *handle)
{
    struct watched_socket *s = handle->data;
    struct http_client *client = s->lane->client;

    free(s);
    http_client_handle_closed(client);
}

static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    struct http_lane *lane = arg;
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
            http_transfer_fail(easy, OTR_NOMEM); /* Not by -1: curl would fail all transfers of the lane, for ever. */
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
        http_transfer_fail(easy, OTR_NOMEM);
    }
    return 0;
}

struct http_lane *http_lane_get(struct http_client *client, unsigned number)
{
    struct http_lane *lane;

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
    curl_multi_setopt(lane->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)client->connections_max);
    lane->next = client->lanes;
    client->lanes = lane;
    return lane;
}
