#include "tests/conformance/world.h"
#include "tests/lib/relay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- the world -------------------------------------------------------------------------------------------------- */

static void on_tick(uv_timer_t *timer)
{
    (void)timer; /* Wakes AWAIT, so that its deadline is seen. */
}

static void on_backend_closed(struct otr_backend *b)
{
    *(bool *)b->data = true;
}

struct otr_backend *world_open(struct world *w, const char *endpoints)
{
    struct otr_backend_config config = w->access;
    struct otr_errmsg msg = {0};
    struct otr_backend *b = NULL;
    int rv;

    config.loop = &w->loop;
    config.endpoints = endpoints;
    rv = w->ops->open(&b, &config, &msg);
    cr_assert(rv == 0, "open: %s", msg.text);
    if (b == w->closing) {
        w->closing = NULL; /* Another at the same address. */
    }
    return b;
}

void world_close_backend(struct world *w, struct otr_backend *b)
{
    bool closed = false;

    w->in_call = true;
    w->closing = b;
    w->ops->close(b, on_backend_closed, &closed);
    w->in_call = false;
    cr_assert(!closed, "close calls back later");
    AWAIT(w, closed);
}

void world_run(const struct world_driver *driver, void (*body)(struct world *w))
{
    struct world w = {.driver = driver, .ops = driver->ops};

    uv_loop_init(&w.loop);
    uv_timer_init(&w.loop, &w.ticker);
    uv_timer_start(&w.ticker, on_tick, 5, 5);
    driver->init(&w);
    driver->start(&w);
    w.b = world_open(&w, w.endpoints);
    body(&w);
    if (w.far != NULL) {
        world_close_backend(&w, w.far);
    }
    if (w.b != NULL) {
        world_close_backend(&w, w.b);
    }
    driver->close(&w);
    uv_close((uv_handle_t *)&w.ticker, NULL);
    uv_run(&w.loop, UV_RUN_DEFAULT);
    cr_assert(uv_loop_close(&w.loop) == 0, "something is left on the loop");
}

void world_pass(struct world *w, unsigned ms)
{
    uint64_t end = uv_hrtime() + (uint64_t)ms * 1000000;

    while (uv_hrtime() < end) {
        uv_run(&w->loop, UV_RUN_ONCE);
    }
}

void world_relay_link(struct world *w, enum world_link link)
{
    static const enum relay_link links[] = {
        [LINK_WHOLE] = RELAY_WHOLE,           [LINK_REFUSED] = RELAY_REFUSED,
        [LINK_SILENT] = RELAY_SILENT,         [LINK_NO_REQUESTS] = RELAY_NO_REQUESTS,
        [LINK_NO_ANSWERS] = RELAY_NO_ANSWERS,
    };

    relay_set(w->relay, links[link]);
}

const char *world_service_in_key(struct world *w, const char *id)
{
    static const char *const healths[] = {"passing", "warning", "critical"};
    const char *found = "";
    struct get get;

    get_await(w, &get, "services/");
    for (size_t i = 0; i < get.kvs_count; i++) {
        for (size_t j = 0; j < 3 && strstr(get.kvs[i].value, id) != NULL; j++) {
            found = strstr(get.kvs[i].value, healths[j]) != NULL ? healths[j] : found;
        }
    }
    get_close(&get);
    return found;
}

/* Memory that lives until the next call with the same slot. */
static const char *with_prefix(const char *key, unsigned slot)
{
    static char keys[200][80];

    if (key[0] == '\0') {
        return key;
    }
    snprintf(keys[slot], sizeof keys[slot], WORLD_PREFIX "%s", key);
    return keys[slot];
}

static const char *without_prefix(const char *key)
{
    if (key[0] == '\0') {
        return key;
    }
    cr_assert(strncmp(key, WORLD_PREFIX, strlen(WORLD_PREFIX)) == 0, "not ours: %s", key);
    return key + strlen(WORLD_PREFIX);
}

/* --- gets ------------------------------------------------------------------------------------------------------- */

static char *copy_bytes(const char *bytes, size_t count)
{
    char *copy = malloc(count + 1);

    memcpy(copy, bytes, count);
    copy[count] = '\0';
    return copy;
}

static void get_done(struct otr_get_req *req, int status, const struct otr_get_result *result,
                     const struct otr_errmsg *msg)
{
    struct get *get = req->data;
    const char *key;

    cr_assert(!get->w->in_call, "called back from inside a call");
    cr_assert((status == 0) == (result != NULL));
    cr_assert(status == 0 || msg->text[0] != '\0', "an error says what went wrong");
    get->calls_count++;
    cr_assert(get->calls_count == 1, "called back twice");
    get->status = status;
    if (result == NULL) {
        return;
    }
    get->revision = result->revision;
    get->identity = result->identity;
    get->kvs_count = result->kvs_count;
    get->kvs = calloc(result->kvs_count + 1, sizeof *get->kvs);
    for (size_t i = 0; i < result->kvs_count; i++) {
        get->kvs[i] = result->kvs[i];
        key = without_prefix(result->kvs[i].key);
        get->kvs[i].key = copy_bytes(key, strlen(key));
        get->kvs[i].value = copy_bytes(result->kvs[i].value, result->kvs[i].value_bytes);
        get->kvs[i].session = copy_bytes(result->kvs[i].session, strlen(result->kvs[i].session));
    }
}

void get_start(struct world *w, struct get *get, struct otr_backend *b, const char *prefix)
{
    int rv;

    *get = (struct get){.w = w, .req.data = get, .status = -1};
    CALL(w, rv, w->ops->get(b, &get->req, prefix[0] != '\0' ? with_prefix(prefix, 0) : WORLD_PREFIX, get_done));
    cr_assert(rv == 0);
}

void get_await(struct world *w, struct get *get, const char *prefix)
{
    get_start(w, get, w->b, prefix);
    AWAIT(w, get->calls_count > 0);
    cr_assert(get->status == 0, "get %s: %s", prefix, otr_strerror(get->status));
}

void get_close(struct get *get)
{
    for (size_t i = 0; i < get->kvs_count; i++) {
        free((char *)get->kvs[i].key);
        free((char *)get->kvs[i].value);
        free((char *)get->kvs[i].session);
    }
    free(get->kvs);
    get->kvs = NULL;
    get->kvs_count = 0;
}

const char *value_now(struct world *w, const char *key)
{
    static char value[64];
    struct get get;
    const char *found = NULL;

    get_await(w, &get, key);
    for (size_t i = 0; i < get.kvs_count; i++) {
        if (strcmp(get.kvs[i].key, key) == 0) {
            snprintf(value, sizeof value, "%s", get.kvs[i].value);
            found = value;
        }
    }
    get_close(&get);
    return found;
}

uint64_t revision_now(struct world *w)
{
    struct get get;

    get_await(w, &get, "revision/");
    get_close(&get);
    return get.revision;
}

/* --- transactions ----------------------------------------------------------------------------------------------- */

void txn_absent(struct txn *txn, const char *key)
{
    txn->compares[txn->compares_count++] = (struct otr_compare){.type = OTR_COMPARE_ABSENT, .key = key};
}

void txn_unmodified(struct txn *txn, const char *key, uint64_t revision)
{
    txn->compares[txn->compares_count++] =
        (struct otr_compare){.type = OTR_COMPARE_UNMODIFIED, .key = key, .revision = revision};
}

void txn_session(struct txn *txn, const char *key, const char *session)
{
    txn->compares[txn->compares_count++] =
        (struct otr_compare){.type = OTR_COMPARE_SESSION, .key = key, .session = session};
}

void txn_put(struct txn *txn, const char *key, const char *value)
{
    txn->ops[txn->ops_count++] =
        (struct otr_op){.type = OTR_OP_PUT, .key = key, .value = value, .value_bytes = strlen(value)};
}

void txn_put_bound(struct txn *txn, const char *key, const char *value, const struct otr_session *session)
{
    txn->ops[txn->ops_count++] = (struct otr_op){
        .type = OTR_OP_PUT_BOUND, .key = key, .value = value, .value_bytes = strlen(value), .session = session};
}

void txn_delete(struct txn *txn, const char *key)
{
    txn->ops[txn->ops_count++] = (struct otr_op){.type = OTR_OP_DELETE, .key = key};
}

static void txn_done(struct otr_txn_req *req, int status, uint64_t revision, const struct otr_errmsg *msg)
{
    struct txn *txn = req->data;

    cr_assert(!txn->w->in_call, "called back from inside a call");
    cr_assert(status == 0 || msg->text[0] != '\0', "an error says what went wrong");
    txn->calls_count++;
    txn->status = status;
    txn->revision = revision;
    snprintf(txn->text, sizeof txn->text, "%s", msg->text);
}

int txn_start(struct world *w, struct txn *txn, struct otr_backend *b)
{
    struct otr_txn t = {
        .compares = txn->compares,
        .compares_count = txn->compares_count,
        .ops = txn->ops,
        .ops_count = txn->ops_count,
    };
    int rv;

    for (size_t i = 0; i < txn->compares_count; i++) {
        txn->compares[i].key = with_prefix(txn->compares[i].key, (unsigned)i);
    }
    for (size_t i = 0; i < txn->ops_count; i++) {
        txn->ops[i].key = with_prefix(txn->ops[i].key, 100 + (unsigned)i);
    }
    txn->w = w;
    txn->req.data = txn;
    txn->calls_count = 0;
    txn->status = -1;
    CALL(w, rv, w->ops->txn(b, &txn->req, &t, txn_done));
    txn->compares_count = 0;
    txn->ops_count = 0;
    return rv;
}

int txn_await(struct world *w, struct txn *txn)
{
    cr_assert(txn_start(w, txn, w->b) == 0);
    AWAIT(w, txn->calls_count > 0);
    return txn->status;
}

static uint64_t txn_must(struct world *w, struct txn *txn)
{
    cr_assert(txn_await(w, txn) == 0, "txn: %s", txn->text);
    return txn->revision;
}

uint64_t put(struct world *w, const char *key, const char *value)
{
    struct txn txn = {0};

    txn_put(&txn, key, value);
    return txn_must(w, &txn);
}

uint64_t put_bound(struct world *w, const char *key, const char *value, const struct otr_session *session)
{
    struct txn txn = {0};

    txn_put_bound(&txn, key, value, session);
    return txn_must(w, &txn);
}

uint64_t erase(struct world *w, const char *key)
{
    struct txn txn = {0};

    txn_delete(&txn, key);
    return txn_must(w, &txn);
}

/* --- sessions --------------------------------------------------------------------------------------------------- */

static void on_session(struct otr_session *s, enum otr_session_state state, const struct otr_errmsg *msg)
{
    struct session *session = s->data;

    cr_assert(!session->w->in_call, "called back from inside a call");
    cr_assert(session->lost_count == 0, "reported after LOST");
    cr_assert(session->b != session->w->closing, "reported while, or after, the backend was closed");
    session->last = state;
    switch (state) {
    case OTR_SESSION_OPEN:
        session->open_count++;
        cr_assert(s->id[0] != '\0' && s->ttl_ms > 0);
        break;
    case OTR_SESSION_CONFIRMED:
        cr_assert(session->open_count == 1);
        session->confirmed_count++;
        break;
    case OTR_SESSION_UNREACHABLE:
        session->unreachable_count++;
        cr_assert(session->unreachable_count == session->confirmed_count + 1, "UNREACHABLE twice in a row");
        cr_assert(msg->text[0] != '\0', "UNREACHABLE says why");
        snprintf(session->text, sizeof session->text, "%s", msg->text);
        break;
    case OTR_SESSION_LOST:
        session->lost_count++;
        cr_assert(msg->text[0] != '\0', "LOST says why");
        break;
    }
}

void session_start(struct world *w, struct session *session, struct otr_backend *b, unsigned ttl_ms)
{
    int rv;

    *session = (struct session){.w = w, .b = b};
    session->s.data = session;
    CALL(w, rv, w->ops->session_open(b, &session->s, ttl_ms, on_session));
    cr_assert(rv == 0);
}

void session_await(struct world *w, struct session *session, unsigned ttl_ms)
{
    session_start(w, session, w->b, ttl_ms);
    AWAIT(w, session->open_count == 1);
    cr_assert(session->s.ttl_ms >= ttl_ms);
}

void simple_done(struct otr_simple_req *req, int status, const struct otr_errmsg *msg)
{
    struct simple *simple = req->data;

    cr_assert(!simple->w->in_call, "called back from inside a call");
    cr_assert(status == 0 || msg->text[0] != '\0', "an error says what went wrong");
    simple->calls_count++;
    cr_assert(simple->calls_count == 1, "called back twice");
    simple->status = status;
}

int session_end(struct world *w, struct session *session)
{
    struct simple simple = {.w = w, .req.data = &simple};
    int rv;

    CALL(w, rv, w->ops->session_close(w->b, &session->s, &simple.req, simple_done));
    cr_assert(rv == 0);
    AWAIT(w, simple.calls_count > 0);
    return simple.status;
}

int session_revoke(struct world *w, const char *id)
{
    struct simple simple = {.w = w, .req.data = &simple};
    int rv;

    CALL(w, rv, w->ops->session_revoke(w->b, id, &simple.req, simple_done));
    cr_assert(rv == 0);
    AWAIT(w, simple.calls_count > 0);
    return simple.status;
}

/* --- watches ---------------------------------------------------------------------------------------------------- */

static void watch_note(struct watch *watch, const struct otr_watch_event *event)
{
    struct seen *seen;

    if (watch->seen_count == watch->seen_room) {
        watch->seen_room = watch->seen_room != 0 ? watch->seen_room * 2 : 64;
        watch->seen = realloc(watch->seen, watch->seen_room * sizeof *watch->seen);
    }
    seen = &watch->seen[watch->seen_count++];
    seen->type = event->type;
    snprintf(seen->key, sizeof seen->key, "%s", without_prefix(event->kv.key));
    snprintf(seen->value, sizeof seen->value, "%s", event->kv.value);
    seen->revision = event->revision;
    seen->key_revision = event->kv.revision;
}

static void on_watch(struct otr_watch *handle, int status, const struct otr_watch_event *event,
                     const struct otr_errmsg *msg)
{
    struct watch *watch = handle->data;

    cr_assert(!watch->w->in_call, "called back from inside a call");
    cr_assert(watch->final_count == 0, "called after the final call");
    if (status != 0) {
        cr_assert(event == NULL && msg->text[0] != '\0');
        watch->final_count++;
        watch->final_status = status;
        return;
    }
    switch (event->type) {
    case OTR_WATCH_SILENT:
        watch->silent_count++;
        cr_assert(watch->silent_count == watch->alive_count + 1);
        break;
    case OTR_WATCH_ALIVE:
        watch->alive_count++;
        cr_assert(watch->silent_count == watch->alive_count);
        break;
    default:
        watch_note(watch, event);
        watch->resyncs_count += event->type == OTR_WATCH_RESYNC_END;
    }
    if (watch->stop_after != 0 && watch->seen_count == watch->stop_after) {
        watch->w->ops->watch_stop(watch->b, handle);
        watch->final_count++;
    }
}

void watch_start(struct world *w, struct watch *watch, struct otr_backend *b, const char *prefix, uint64_t revision)
{
    size_t stop_after = watch->stop_after;
    int rv;

    *watch = (struct watch){.w = w, .b = b, .watch.data = watch, .stop_after = stop_after};
    prefix = prefix[0] != '\0' ? with_prefix(prefix, 0) : WORLD_PREFIX;
    CALL(w, rv, w->ops->watch(b, &watch->watch, prefix, revision, on_watch));
    cr_assert(rv == 0);
}

void watch_settle(struct world *w)
{
    if (w->driver->states) {
        world_pass(w, 250);
    }
}

void watch_close(struct watch *watch)
{
    if (watch->final_count == 0) {
        watch->w->ops->watch_stop(watch->b, &watch->watch);
    }
    free(watch->seen);
    watch->seen = NULL;
}

static const struct seen *last_word(const struct watch *watch, const char *key)
{
    for (size_t i = watch->seen_count; i > 0; i--) {
        const struct seen *seen = &watch->seen[i - 1];

        if (seen->type == OTR_WATCH_RESYNC || strcmp(seen->key, key) == 0) {
            return seen;
        }
    }
    return NULL;
}

bool watch_holds(const struct watch *watch, const char *key, const char *value)
{
    const struct seen *seen = last_word(watch, key);

    return seen != NULL && seen->type == OTR_WATCH_PUT && (value == NULL || strcmp(seen->value, value) == 0);
}

bool watch_dropped(const struct watch *watch, const char *key)
{
    const struct seen *seen = last_word(watch, key);

    return seen != NULL && seen->type != OTR_WATCH_PUT;
}
