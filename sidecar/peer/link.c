/* Dialling one peer for ever, and knowing whether it lives.
 *
 *              dial                 connected            it is who we want
 *   IDLE ---> RESOLVING ---> CONNECTING -----------> HELLO -----------------> UP
 *    |            |               |                    |                      |
 *    |            +------------> BACKOFF <-------------+    connection ended: dial at once
 *    |                            |  ^                                        |
 *    +---- numeric address        |  +----------------------------------------+
 *                                 +---> RESOLVING or CONNECTING
 *
 * When an UP connection ends, the address that worked is dialled in the same loop turn: a dead process's kernel refuses
 * at once, and the refusal is evidence of death (PROTOCOL V2). Silence never is. */
#include "sidecar/peer/link.h"

#include "sidecar/io/log.h"
#include "sidecar/peer/request.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    CONNECT_TIMEOUT_MS = 500,
    HELLO_TIMEOUT_MS = 3000,
    BACKOFF_MS_MIN = 50,
    BACKOFF_MS_LOST = 1, /* first, after an UP link was lost; see on_end */
    BACKOFF_MS_MAX = 1000,
    REJECTED_MS = 2000,   /* somebody else lives there: no hurry */
    REFUSALS_QUICK = 100, /* so many are tried again after BACKOFF_MS_MIN, then slower */
    TICK_MS = 250,
    PING_MS = 1000,
    SILENCE_MS = 3000,
    STALL_MS = 1000, /* a tick so late: it was us who stood still */
};

#define TO(state) (1U << (state))
struct link_state_rule {
    const char *name;
    unsigned allowed;
};
static const struct link_state_rule link_states[] = {
    [LINK_IDLE] = {"idle", TO(LINK_RESOLVING) | TO(LINK_CONNECTING) | TO(LINK_BACKOFF) | TO(LINK_CLOSING)},
    [LINK_RESOLVING] = {"resolving", TO(LINK_CONNECTING) | TO(LINK_BACKOFF) | TO(LINK_CLOSING)},
    [LINK_CONNECTING] = {"connecting", TO(LINK_HELLO) | TO(LINK_BACKOFF) | TO(LINK_CLOSING)},
    [LINK_HELLO] = {"hello", TO(LINK_UP) | TO(LINK_BACKOFF) | TO(LINK_CLOSING)},
    [LINK_UP] = {"up", TO(LINK_BACKOFF) | TO(LINK_CLOSING)},
    [LINK_BACKOFF] = {"backoff", TO(LINK_RESOLVING) | TO(LINK_CONNECTING) | TO(LINK_CLOSING)},
    [LINK_CLOSING] = {"closing", 0},
};

static void link_move(struct peer_link *link, enum link_state to)
{
    log_debug(link->subject, "%s -> %s", link_states[link->state].name, link_states[to].name);
    assert((link_states[link->state].allowed & TO(to)) != 0);
    link->state = to;
}

static bool link_ending(const struct peer_link *link)
{
    return link->close_wanted || link->hub->closing;
}

/* --- reports ------------------------------------------------------------------------------------------------------ */

static void report(struct peer_link *link, enum peer_link_state state, const struct otr_errmsg *why)
{
    static const char *const words[] = {
        [PEER_LINK_UP] = "up", [PEER_LINK_DOWN] = "down", [PEER_LINK_REFUSED] = "refused"};
    struct peer_hub *hub = link->hub;

    link->reported = state;
    snprintf(link->reported_why, sizeof link->reported_why, "%.*s", (int)sizeof link->reported_why - 1, why->text);
    if (link_ending(link)) {
        return;
    }
    log_info(link->subject, "%s: %s", words[state], why->text);
    hub->config.handlers.on_link(hub->config.data, link, state, link->incarnation, why);
}

/* DOWN once, and once more when the reason is another kind; REFUSED once per DOWN. */
static void report_failure(struct peer_link *link, bool refused, bool rejected, const struct otr_errmsg *why)
{
    if (refused) {
        if (link->reported != PEER_LINK_REFUSED) {
            report(link, PEER_LINK_REFUSED, why);
        }
        /* NOLINTNEXTLINE(bugprone-branch-clone): another state, or another reason for it. */
    } else if (link->reported != PEER_LINK_DOWN && link->reported != PEER_LINK_REFUSED) {
        report(link, PEER_LINK_DOWN, why);
    } else if (rejected && strncmp(link->reported_why, why->text, sizeof link->reported_why - 1) != 0) {
        report(link, PEER_LINK_DOWN, why);
    }
}

/* --- dialling ----------------------------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *timer);
static void connect_next(struct peer_link *link);

static void timer_start(struct peer_link *link, uint32_t ms)
{
    uv_timer_start(&link->timer, on_timer, ms, 0);
}

static void drop_conn(struct peer_link *link)
{
    struct conn *c = link->conn;

    if (c != NULL) {
        link->conn = NULL;
        conn_close(c);
    }
}

/* This attempt is over; another follows. */
static void dial_failed(struct peer_link *link, bool refused, bool rejected, const struct otr_errmsg *why)
{
    uint32_t delay_ms = link->backoff_ms;

    link_move(link, LINK_BACKOFF);
    drop_conn(link);
    link->refusals = refused ? link->refusals + 1 : 0;
    if (refused && link->refusals <= REFUSALS_QUICK) {
        delay_ms = BACKOFF_MS_MIN;
    } else if (rejected) {
        delay_ms = REJECTED_MS;
    } else {
        link->backoff_ms = delay_ms * 2 < BACKOFF_MS_MAX ? delay_ms * 2 : BACKOFF_MS_MAX;
    }
    timer_start(link, delay_ms);
    report_failure(link, refused, rejected, why);
}

static void dial_failed_text(struct peer_link *link, const char *text)
{
    struct otr_errmsg why;

    otr_errmsg_set(&why, "%s:%u: %s", link->host, link->port, text);
    dial_failed(link, false, false, &why);
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
    struct peer_link *link = request->data;
    struct peer_hub *hub = link->hub;

    link->resolving = false;
    link->handles--;
    if (link->state == LINK_CLOSING) {
        if (link->handles == 0) {
            free(link);
        }
    } else if (link->state == LINK_RESOLVING) {
        link->addresses_count = 0;
        for (struct addrinfo *a = found; a != NULL && link->addresses_count < LINK_ADDRESSES_MAX; a = a->ai_next) {
            memcpy(&link->addresses[link->addresses_count++], a->ai_addr, a->ai_addrlen);
        }
        if (status != 0 || link->addresses_count == 0) {
            dial_failed_text(link, status != 0 ? uv_strerror(status) : "the name has no address");
        } else {
            connect_next(link);
        }
    }
    uv_freeaddrinfo(found);
    hub_handle_closed(hub);
}

static void resolve(struct peer_link *link)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC};
    char port[8];
    int rv;

    if (link->state != LINK_RESOLVING) {
        link_move(link, LINK_RESOLVING);
    }
    if (link->resolving) { /* Of the address before; its answer is not ours. */
        link_move(link, LINK_BACKOFF);
        timer_start(link, BACKOFF_MS_MIN);
        return;
    }
    snprintf(port, sizeof port, "%u", link->port);
    link->resolver.data = link;
    rv = uv_getaddrinfo(link->hub->config.loop, &link->resolver, on_resolved, link->host, port, &hints);
    if (rv != 0) {
        dial_failed_text(link, uv_strerror(rv));
        return;
    }
    link->resolving = true;
    link->handles++;
    hub_handle_opened(link->hub);
}

static bool numeric_address(struct peer_link *link)
{
    if (uv_ip4_addr(link->host, link->port, (struct sockaddr_in *)&link->addresses[0]) == 0 ||
        uv_ip6_addr(link->host, link->port, (struct sockaddr_in6 *)&link->addresses[0]) == 0) {
        link->addresses_count = 1;
        return true;
    }
    return false;
}

static void dial(struct peer_link *link)
{
    link->address_next = 0;
    link->addresses_refused = 0;
    if (numeric_address(link)) {
        connect_next(link);
    } else {
        resolve(link);
    }
}

/* Whom we dialled spoke last from this address: no need to ask for the name again. */
static void dial_same(struct peer_link *link)
{
    link->addresses[0] = link->addresses[link->address_next - 1];
    link->addresses_count = 1;
    link->address_next = 0;
    link->addresses_refused = 0;
    connect_next(link);
}

/* --- the connection ----------------------------------------------------------------------------------------------- */

static void reject(struct peer_link *link, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void reject(struct peer_link *link, const char *format, ...)
{
    struct otr_errmsg why;
    va_list args;

    va_start(args, format);
    vsnprintf(why.text, sizeof why.text, format, args);
    va_end(args);
    link->rejected = true;
    conn_fail(link->conn, "%s", why.text);
}

static void on_hello(void *data, int status, const ProtobufCMessage *message, const struct otr_errmsg *msg)
{
    const Outrigger__V1__HelloReply *reply = (const Outrigger__V1__HelloReply *)message;
    struct peer_link *link = data;
    struct otr_errmsg why;

    if (link->state != LINK_HELLO || link_ending(link) || link->conn == NULL || link->conn->ending) {
        return; /* The connection's end tells the story. */
    }
    if (status != 0) {
        reject(link, "Hello: %s", msg->text);
        return;
    }
    if (strcmp(reply->cluster, link->hub->cluster) != 0) {
        reject(link, "cluster %.63s answers, ours is %s", reply->cluster, link->hub->cluster);
        return;
    }
    if (strcmp(reply->node, link->peer) != 0) {
        reject(link, "node %.63s answers instead of %s", reply->node, link->peer);
        return;
    }
    if (reply->incarnation == 0) {
        reject(link, "Hello without incarnation");
        return;
    }
    link_move(link, LINK_UP);
    if (lane_open_all(link) != 0) {
        conn_fail(link->conn, "the lanes cannot be opened");
        return;
    }
    link->incarnation = reply->incarnation;
    link->encodings = reply->encodings;
    link->backoff_ms = BACKOFF_MS_MIN;
    link->refusals = 0;
    link->ticked_ms = uv_now(link->hub->config.loop);
    timer_start(link, TICK_MS);
    otr_errmsg_set(&why, "%s, incarnation %016" PRIx64 ", version %.64s, %s", link->conn->remote, link->incarnation,
                   reply->version, link->conn->tls != NULL ? tls_session_describe(link->conn->tls) : "plain");
    report(link, PEER_LINK_UP, &why);
}

static void on_connected(struct conn *c)
{
    struct peer_link *link = c->owner;
    Outrigger__V1__HelloRequest hello = OUTRIGGER__V1__HELLO_REQUEST__INIT;

    hello.cluster = link->hub->cluster;
    hello.node = link->hub->node;
    hello.incarnation = link->hub->config.incarnation;
    hello.version = link->hub->version;
    hello.encodings = link->hub->config.encodings;
    link->rejected = false;
    link_move(link, LINK_HELLO);
    timer_start(link, HELLO_TIMEOUT_MS);
    if (request_start(link, c, PEER_HELLO, &hello.base, HELLO_TIMEOUT_MS * 2, on_hello, link) != 0) {
        conn_fail(c, "out of memory");
    }
}

static void on_ending(struct conn *c)
{
    struct peer_link *link = c->owner;

    /* Not UP any more before anybody hears of it through a failed call. */
    link->was_up = link->state == LINK_UP;
    if (link->was_up) {
        link_move(link, LINK_BACKOFF);
        uv_timer_stop(&link->timer);
    }
}

static void on_end(struct conn *c, int uv_status, const struct otr_errmsg *msg)
{
    struct peer_link *link = c->owner;
    struct otr_errmsg why = *msg;

    link->conn = NULL;
    otr_errmsg_wrap(&why, "%s:%u", link->host, link->port);
    if (link_ending(link)) {
        return; /* The shutdown is on its way. */
    }
    if (link->was_up) {
        /* A dying process may close its connections a moment before its listening socket. Then the dial is accepted and
         * reset, and it is the next one that is refused: so that one comes soon, too. */
        link->backoff_ms = BACKOFF_MS_LOST;
        link->was_up = false;
        report(link, PEER_LINK_DOWN, &why);
        dial_same(link);
    } else if (link->state == LINK_CONNECTING) {
        link->addresses_refused += uv_status == UV_ECONNREFUSED ? 1 : 0;
        if (link->address_next < link->addresses_count) {
            connect_next(link);
        } else {
            /* A name with several addresses is refused only when all of them refuse. */
            dial_failed(link, link->addresses_refused == link->addresses_count, false, &why);
        }
    } else {
        dial_failed(link, false, link->rejected || c->mismatch, &why);
    }
}

static const struct conn_ops link_conn_ops = {
    .on_connected = on_connected,
    .on_ending = on_ending,
    .on_end = on_end,
};

static void connect_next(struct peer_link *link)
{
    const struct sockaddr *address = (const struct sockaddr *)&link->addresses[link->address_next++];
    int rv;

    if (link->state != LINK_CONNECTING) {
        link_move(link, LINK_CONNECTING);
    }
    rv = conn_connect(&link->conn, link->hub, address, link->peer, &link_conn_ops, link);
    if (rv == 0) {
        timer_start(link, CONNECT_TIMEOUT_MS);
    } else if (link->address_next < link->addresses_count) {
        connect_next(link);
    } else {
        dial_failed_text(link, uv_strerror(rv));
    }
}

/* --- time --------------------------------------------------------------------------------------------------------- */

/* Every TICK_MS while UP. */
static void check_liveness(struct peer_link *link)
{
    struct conn *c = link->conn;
    uint64_t now_ms = uv_now(link->hub->config.loop);

    if (now_ms - link->ticked_ms > STALL_MS) {
        c->heard_ms = now_ms; /* It was we who did not listen. */
    }
    link->ticked_ms = now_ms;
    timer_start(link, TICK_MS);
    if (now_ms - c->heard_ms >= SILENCE_MS) {
        conn_fail(c, "nothing heard for %" PRIu64 " ms", now_ms - c->heard_ms);
    } else if (now_ms - c->heard_ms >= PING_MS && now_ms - c->pinged_ms >= PING_MS) {
        conn_ping(c);
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct peer_link *link = timer->data;

    if (link_ending(link)) {
        return;
    }
    switch (link->state) {
    case LINK_CONNECTING:
        drop_conn(link);
        if (link->address_next < link->addresses_count) {
            connect_next(link);
        } else {
            dial_failed_text(link, "no connection within 500 ms");
        }
        break;
    case LINK_HELLO:
        dial_failed_text(link, link->conn != NULL && link->conn->tls != NULL && !tls_session_ready(link->conn->tls)
                                   ? "the TLS handshake is not done within 3 s"
                                   : "no answer to Hello within 3 s");
        break;
    case LINK_UP:
        check_liveness(link);
        break;
    case LINK_BACKOFF:
        dial(link);
        break;
    default:
        break;
    }
}

/* --- open and close ----------------------------------------------------------------------------------------------- */

static void on_timer_closed(uv_handle_t *handle)
{
    struct peer_link *link = handle->data;
    struct peer_hub *hub = link->hub;

    link->handles--;
    if (link->handles == 0) {
        free(link);
    }
    hub_handle_closed(hub);
}

void link_shutdown(struct peer_link *link)
{
    link->close_wanted = true;
    link_move(link, LINK_CLOSING);
    hub_task_cancel(&link->task);
    if (link->conn != NULL) {
        conn_goodbye(link->conn);
    }
    drop_conn(link);
    request_cancel_all(link);
    seed_cancel_all(link);
    list_remove(&link->node);
    if (link->resolving) {
        uv_cancel((uv_req_t *)&link->resolver); /* Its callback comes in any case. */
    }
    uv_close((uv_handle_t *)&link->timer, on_timer_closed);
}

/* The end of the loop turn in which something was asked for. */
static void run(struct hub_task *task)
{
    struct peer_link *link = list_item(task, struct peer_link, task);

    if (link->close_wanted) {
        link_shutdown(link);
        return;
    }
    if (link->dial_wanted) {
        bool was_up = link->state == LINK_UP;

        link->dial_wanted = false;
        link->backoff_ms = BACKOFF_MS_MIN;
        link->refusals = 0;
        if (link->state != LINK_IDLE && link->state != LINK_BACKOFF) {
            link_move(link, LINK_BACKOFF);
        }
        drop_conn(link);
        if (was_up) {
            struct otr_errmsg why;

            otr_errmsg_set(&why, "its address is now %s:%u", link->host, link->port);
            report(link, PEER_LINK_DOWN, &why);
        }
        dial(link);
    }
    lane_run_drain(link);
}

static int set_address(struct peer_link *link, const char *host, uint16_t port)
{
    bool v6 = strchr(host, ':') != NULL;

    if (host[0] == '\0' || strlen(host) >= sizeof link->host) {
        return OTR_INVALID;
    }
    memcpy(link->host, host, strlen(host) + 1);
    link->port = port;
    snprintf(link->authority, sizeof link->authority, v6 ? "[%s]:%u" : "%s:%u", link->host, port);
    return 0;
}

struct peer_link *peer_link_open(struct peer_hub *hub, const char *node, const char *host, uint16_t port, void *data)
{
    struct peer_link *link;

    if (strlen(node) >= sizeof link->peer || hub->closing) {
        return NULL;
    }
    link = calloc(1, sizeof *link);
    if (link == NULL) {
        return NULL;
    }
    if (set_address(link, host, port) != 0 || uv_timer_init(hub->config.loop, &link->timer) != 0) {
        free(link);
        return NULL;
    }
    link->timer.data = link;
    link->handles = 1;
    hub_handle_opened(hub);
    link->hub = hub;
    link->data = data;
    memcpy(link->peer, node, strlen(node) + 1);
    snprintf(link->subject, sizeof link->subject, "peer=%s", link->peer);
    link->backoff_ms = BACKOFF_MS_MIN;
    list_init(&link->requests);
    list_init(&link->seeds);
    hub_task_init(&link->task, run);
    list_push(&hub->links, &link->node);
    link->dial_wanted = true;
    hub_defer(hub, &link->task);
    return link;
}

void peer_link_close(struct peer_link *link)
{
    link->close_wanted = true;
    hub_defer(link->hub, &link->task);
}

int peer_link_address(struct peer_link *link, const char *host, uint16_t port)
{
    int rv;

    if (strcmp(link->host, host) == 0 && link->port == port) {
        return 0;
    }
    rv = set_address(link, host, port);
    if (rv == 0) {
        link->dial_wanted = true;
        hub_defer(link->hub, &link->task);
    }
    return rv;
}

void *peer_link_data(const struct peer_link *link)
{
    return link->data;
}

const char *peer_link_node(const struct peer_link *link)
{
    return link->peer;
}

bool peer_link_up(const struct peer_link *link)
{
    return link->state == LINK_UP && !link_ending(link);
}

uint32_t peer_link_encodings(const struct peer_link *link)
{
    return peer_link_up(link) ? link->encodings : 0;
}

void peer_link_pace(const struct peer_link *link, uint64_t *sent_bytes, uint64_t *blocked_ns)
{
    const struct conn *c = link->conn;

    *sent_bytes = c != NULL ? c->written_bytes : 0;
    *blocked_ns = c != NULL ? c->blocked_ns + (c->writing ? uv_hrtime() - c->writing_ns : 0) : 0;
}
