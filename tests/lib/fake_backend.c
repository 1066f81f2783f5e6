#include "tests/lib/fake_backend.h"

#include "sidecar/core/txn_check.h"
#include "sidecar/io/clock.h"
#include "sidecar/io/random.h"
#include "tests/lib/fake_store.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum kind { KIND_GET = 1, KIND_TXN, KIND_SERVICE, KIND_REVOKE, KIND_CLOSE_SESSION };

struct request {
    struct request *next;
    struct fake *b;
    enum kind kind;
    void *req; /* the caller's struct */
    void *cb;
    char *prefix;        /* KIND_GET */
    struct otr_txn *txn; /* KIND_TXN, KIND_SERVICE */
    uint64_t session;    /* the other two */
    uint64_t sent_ms;
    bool taken; /* sent, and nobody answered */
    int status; /* when it is over */
    uint64_t revision;
};

/* Transactions that nobody waits for any more. */
struct pending {
    struct otr_txn *list[256];
    unsigned count;
};

struct session {
    struct session *next;
    struct fake *b;
    struct otr_session *s; /* NULL: dropped, freed at the end of the tick */
    otr_session_cb cb;
    uint64_t id; /* 0 before OPEN */
    uint32_t ttl_ms;
    uint64_t confirmed_ms;
    bool unreachable;
};

struct watch {
    struct watch *next;
    struct fake *b;
    struct otr_watch *w; /* NULL: stopped, freed at the end of the tick */
    otr_watch_cb cb;
    char *prefix;
    uint64_t revision;
    uint64_t identity;
    uint64_t confirmed_ms;
    bool resync;
    bool silent;
};

struct fake {
    struct otr_backend base;
    struct fake *next;
    struct fake_coordinator *c;
    uint32_t timeout_ms;
    enum fake_link link;
    bool closing;
    bool ending; /* was closing when this tick began: all that it had outstanding ends in this tick */
    otr_close_cb close_cb;
};

struct fake_coordinator {
    uv_timer_t timer;
    struct fake_store store;
    char endpoint[40];
    enum fake_reach reach;
    enum fake_outcome next_txn;
    struct fake *backends;
    struct request *requests; /* in order */
    struct session *sessions;
    struct watch *watches;
    struct pending late;   /* FAKE_OUTCOME_LATE */
    struct pending frozen; /* taken while frozen, given up by their callers */
    bool replace;
};

/* --- helpers ---------------------------------------------------------------------------------------------------- */

static void *must_alloc(size_t bytes)
{
    void *memory = calloc(1, bytes);

    if (memory == NULL) {
        abort();
    }
    return memory;
}

static struct fake *fake_of(struct otr_backend *b)
{
    return (struct fake *)(void *)b;
}

static bool reaches(const struct fake *b)
{
    return b->c->reach == FAKE_REACHABLE && b->link == FAKE_LINK_WHOLE;
}

static void on_tick(uv_timer_t *timer);

static void tick_soon(struct fake_coordinator *c)
{
    uv_timer_start(&c->timer, on_tick, 0, FAKE_TICK_MS);
}

static const struct otr_errmsg *words(int status)
{
    static struct otr_errmsg msg;

    otr_errmsg_set(&msg, "fake: %s", otr_strerror(status));
    return &msg;
}

static void pending_add(struct pending *pending, struct otr_txn *txn)
{
    assert(pending->count < sizeof pending->list / sizeof pending->list[0]);
    pending->list[pending->count++] = txn;
}

/* Carries them out, or forgets them when store is NULL. Returns how many took effect. */
static unsigned pending_end(struct pending *pending, struct fake_store *store)
{
    unsigned applied_count = 0;

    for (unsigned i = 0; i < pending->count; i++) {
        applied_count += store != NULL && fake_store_txn(store, pending->list[i]) == 0;
        fake_txn_free(pending->list[i]);
    }
    pending->count = 0;
    return applied_count;
}

/* --- requests --------------------------------------------------------------------------------------------------- */

static void request_free(struct request *r)
{
    if (r->txn != NULL) {
        fake_txn_free(r->txn);
    }
    free(r->prefix);
    free(r);
}

static void get_answer(struct request *r)
{
    struct fake_store *store = &r->b->c->store;
    struct otr_kv *kvs = must_alloc((store->keys_count + 1) * sizeof *kvs);
    char(*sessions)[OTR_SESSION_ID_MAX] = must_alloc((store->keys_count + 1) * sizeof *sessions);
    struct otr_get_result result = {.kvs = kvs, .revision = store->revision, .identity = store->identity};

    for (size_t i = 0; i < store->keys_count; i++) {
        const struct fake_change *change = &store->history[store->keys[i]];

        if (strncmp(change->key, r->prefix, strlen(r->prefix)) == 0) {
            kvs[result.kvs_count] = fake_change_kv(change, sessions[result.kvs_count]);
            result.kvs_count++;
        }
    }
    ((otr_get_cb)r->cb)(r->req, 0, &result, words(0));
    free(kvs);
    free(sessions);
}

static void request_answer(struct request *r)
{
    int status = r->status;

    switch (r->kind) {
    case KIND_GET:
        /* A read has no outcome that could be unknown. */
        status = status == OTR_UNKNOWN ? OTR_TIMEOUT : status;
        if (status == 0) {
            get_answer(r);
        } else {
            ((otr_get_cb)r->cb)(r->req, status, NULL, words(status));
        }
        break;
    case KIND_TXN:
        ((otr_txn_cb)r->cb)(r->req, status, status == 0 ? r->revision : 0, words(status));
        break;
    case KIND_SERVICE:
    case KIND_REVOKE:
    case KIND_CLOSE_SESSION:
        ((otr_simple_cb)r->cb)(r->req, status, words(status));
        break;
    }
}

static int txn_carry_out(struct request *r)
{
    struct fake_coordinator *c = r->b->c;
    enum fake_outcome outcome = c->next_txn;

    c->next_txn = FAKE_OUTCOME_NORMAL;
    switch (outcome) {
    case FAKE_OUTCOME_NORMAL:
        return fake_store_txn(&c->store, r->txn);
    case FAKE_OUTCOME_LOST:
        break;
    case FAKE_OUTCOME_APPLIED:
        fake_store_txn(&c->store, r->txn);
        break;
    case FAKE_OUTCOME_LATE:
        pending_add(&c->late, r->txn);
        r->txn = NULL;
        break;
    }
    return OTR_UNKNOWN;
}

static int request_carry_out(struct request *r)
{
    struct fake_store *store = &r->b->c->store;

    switch (r->kind) {
    case KIND_GET:
        return 0;
    case KIND_TXN:
        return txn_carry_out(r);
    case KIND_SERVICE:
        return fake_store_txn(store, r->txn);
    case KIND_REVOKE:
        return fake_store_session_end(store, r->session) ? 0 : OTR_NOTFOUND;
    case KIND_CLOSE_SESSION:
        fake_store_session_end(store, r->session);
        return 0;
    }
    return OTR_INVALID;
}

/* True when the request is over. */
static bool request_step(struct request *r, uint64_t now_ms)
{
    struct fake_coordinator *c = r->b->c;

    if (r->b->closing) {
        r->status = OTR_CANCELED;
    } else if (reaches(r->b)) {
        r->status = request_carry_out(r);
        r->revision = c->store.revision;
    } else if (c->reach == FAKE_REACHABLE && r->b->link != FAKE_LINK_REFUSED) {
        if (r->b->link == FAKE_LINK_NO_ANSWERS && !r->taken) {
            request_carry_out(r);
        }
        r->taken = true;
        r->status = OTR_UNKNOWN;
        return now_ms - r->sent_ms >= r->b->timeout_ms;
    } else if (c->reach == FAKE_FROZEN && r->b->link == FAKE_LINK_WHOLE) {
        r->taken = true;
        r->status = OTR_UNKNOWN;
        if (now_ms - r->sent_ms < r->b->timeout_ms) {
            return false;
        }
        if (r->txn != NULL) {
            pending_add(&c->frozen, r->txn);
            r->txn = NULL;
        }
    } else {
        r->status = r->taken ? OTR_UNKNOWN : OTR_UNREACHABLE;
    }
    return true;
}

/* Carries out what can be, and only then tells: a callback may make new requests. */
static void requests_step(struct fake_coordinator *c, uint64_t now_ms)
{
    struct request **place = &c->requests;
    struct request *over = NULL, **over_end = &over;
    struct request *r;

    while ((r = *place) != NULL) {
        if (!request_step(r, now_ms)) {
            place = &r->next;
            continue;
        }
        *place = r->next;
        r->next = NULL;
        *over_end = r;
        over_end = &r->next;
    }
    while ((r = over) != NULL) {
        over = r->next;
        request_answer(r);
        request_free(r);
    }
}

static void request_add(struct otr_backend *b, struct request *like, void *req, void *cb)
{
    struct fake_coordinator *c = fake_of(b)->c;
    struct request *r = must_alloc(sizeof *r);
    struct request **end = &c->requests;

    *r = *like;
    r->b = fake_of(b);
    r->req = req;
    r->cb = cb;
    r->sent_ms = clock_now_ms();
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = r;
    tick_soon(c);
}

static int op_get(struct otr_backend *b, struct otr_get_req *req, const char *prefix, otr_get_cb cb)
{
    if (fake_of(b)->closing) {
        return OTR_CANCELED;
    }
    request_add(b, &(struct request){.kind = KIND_GET, .prefix = strdup(prefix)}, req, (void *)cb);
    return 0;
}

static int op_txn(struct otr_backend *b, struct otr_txn_req *req, const struct otr_txn *txn, otr_txn_cb cb)
{
    int rv = txn_check(txn);

    if (rv != 0 || fake_of(b)->closing) {
        return rv != 0 ? rv : OTR_CANCELED;
    }
    request_add(b, &(struct request){.kind = KIND_TXN, .txn = fake_txn_copy(txn)}, req, (void *)cb);
    return 0;
}

/* --- sessions --------------------------------------------------------------------------------------------------- */

static void session_report(struct session *session, enum otr_session_state state, int status)
{
    session->cb(session->s, state, words(status));
}

static void session_confirm(struct session *session, uint64_t now_ms)
{
    bool unreachable = session->unreachable;

    session->confirmed_ms = now_ms;
    session->unreachable = false;
    if (session->id == 0) {
        session->id = fake_store_session_open(&session->b->c->store, session->ttl_ms, now_ms);
        snprintf(session->s->id, sizeof session->s->id, "%" PRIu64, session->id);
        session->s->ttl_ms = session->ttl_ms;
        session_report(session, OTR_SESSION_OPEN, 0);
    } else if (unreachable) {
        session_report(session, OTR_SESSION_CONFIRMED, 0);
    }
}

static void session_step(struct session *session, uint64_t now_ms)
{
    struct otr_session *s = session->s;

    if (session->b->closing) {
        session->s = NULL;
    } else if (!reaches(session->b)) {
        if (session->b->link == FAKE_LINK_NO_ANSWERS && session->b->c->reach == FAKE_REACHABLE) {
            fake_store_session_keep(&session->b->c->store, session->id, now_ms);
        }
        if (!session->unreachable && (session->id == 0 || now_ms - session->confirmed_ms >= session->ttl_ms / 3)) {
            session->unreachable = true;
            session_report(session, OTR_SESSION_UNREACHABLE, OTR_UNREACHABLE);
        }
    } else if (session->id == 0 || fake_store_session_keep(&session->b->c->store, session->id, now_ms)) {
        session_confirm(session, now_ms);
    } else {
        session->s = NULL;
        s->internal = NULL;
        session->cb(s, OTR_SESSION_LOST, words(OTR_SESSION));
    }
}

static int op_session_open(struct otr_backend *b, struct otr_session *s, uint32_t ttl_ms, otr_session_cb cb)
{
    struct fake *fake = fake_of(b);
    struct session *session;

    if (fake->closing) {
        return OTR_CANCELED;
    }
    session = must_alloc(sizeof *session);
    *session = (struct session){.next = fake->c->sessions, .b = fake, .s = s, .cb = cb, .ttl_ms = ttl_ms};
    fake->c->sessions = session;
    s->id[0] = '\0';
    s->ttl_ms = 0;
    s->internal = session;
    tick_soon(fake->c);
    return 0;
}

static int op_session_close(struct otr_backend *b, struct otr_session *s, struct otr_simple_req *req, otr_simple_cb cb)
{
    struct session *session = s->internal;

    if (fake_of(b)->closing) {
        return OTR_CANCELED;
    }
    request_add(b, &(struct request){.kind = KIND_CLOSE_SESSION, .session = session != NULL ? session->id : 0}, req,
                (void *)cb);
    if (session != NULL) {
        session->s = NULL;
        s->internal = NULL;
    }
    return 0;
}

static int op_session_revoke(struct otr_backend *b, const char *id, struct otr_simple_req *req, otr_simple_cb cb)
{
    uint64_t session = strtoull(id, NULL, 10);

    if (fake_of(b)->closing) {
        return OTR_CANCELED;
    }
    if (session == 0) {
        return OTR_INVALID;
    }
    request_add(b, &(struct request){.kind = KIND_REVOKE, .session = session}, req, (void *)cb);
    return 0;
}

static int op_service_register(struct otr_backend *b, struct otr_session *s, const struct otr_service *service,
                               enum otr_health health, struct otr_simple_req *req, otr_simple_cb cb)
{
    static const char *const healths[] = {"", "passing", "warning", "critical"};
    char value[512];
    struct otr_op op = {.type = OTR_OP_PUT_BOUND, .key = service->key, .value = value, .session = s};
    struct otr_txn txn = {.ops = &op, .ops_count = 1};
    int rv;

    snprintf(value, sizeof value, "{\"id\":\"%s\",\"health\":\"%s\"}", service->id, healths[health]);
    op.value_bytes = strlen(value);
    rv = txn_check(&txn);
    if (rv != 0 || fake_of(b)->closing) {
        return rv != 0 ? rv : OTR_CANCELED;
    }
    request_add(b, &(struct request){.kind = KIND_SERVICE, .txn = fake_txn_copy(&txn)}, req, (void *)cb);
    return 0;
}

/* --- watches ---------------------------------------------------------------------------------------------------- */

/* False when the callback stopped the watch. */
static bool deliver(struct watch *watch, enum otr_watch_event_type type, const struct otr_kv *kv, uint64_t revision)
{
    static const struct otr_kv none = {.key = "", .value = "", .session = ""};

    watch->cb(watch->w, 0, &(struct otr_watch_event){.type = type, .kv = kv != NULL ? *kv : none, .revision = revision},
              words(type == OTR_WATCH_SILENT ? OTR_UNREACHABLE : 0));
    return watch->w != NULL;
}

static bool deliver_change(struct watch *watch, const struct fake_change *change, uint64_t revision)
{
    char session[OTR_SESSION_ID_MAX];
    struct otr_kv kv = fake_change_kv(change, session);

    if (strncmp(change->key, watch->prefix, strlen(watch->prefix)) != 0) {
        return true;
    }
    return deliver(watch, change->deleted ? OTR_WATCH_DELETE : OTR_WATCH_PUT, &kv, revision);
}

static bool watch_resync(struct watch *watch, const struct fake_store *store)
{
    /* A callback may change the store: what exists now is what is delivered. */
    size_t count = store->keys_count;
    struct fake_change *changes = must_alloc((count + 1) * sizeof *changes);
    uint64_t revision = store->revision;
    bool going;

    for (size_t i = 0; i < count; i++) {
        changes[i] = store->history[store->keys[i]];
    }
    watch->resync = false;
    watch->revision = revision;
    watch->identity = store->identity;
    going = deliver(watch, OTR_WATCH_RESYNC, NULL, revision);
    for (size_t i = 0; going && i < count; i++) {
        going = deliver_change(watch, &changes[i], revision);
    }
    going = going && deliver(watch, OTR_WATCH_RESYNC_END, NULL, revision);
    free(changes);
    return going;
}

static size_t history_after(const struct fake_store *store, uint64_t revision)
{
    size_t i = store->history_count;

    while (i > 0 && store->history[i - 1].revision > revision) {
        i--;
    }
    return i;
}

static void watch_catch_up(struct watch *watch, const struct fake_store *store, uint64_t now_ms)
{
    uint64_t revision = store->revision;

    watch->confirmed_ms = now_ms;
    if (watch->resync || watch->revision < store->compacted || watch->revision > revision ||
        (watch->identity != 0 && watch->identity != store->identity)) {
        if (!watch_resync(watch, store)) {
            return;
        }
    }
    watch->identity = store->identity;
    for (size_t i = history_after(store, watch->revision); i < store->history_count; i++) {
        struct fake_change change = store->history[i];

        if (change.revision > revision) {
            break;
        }
        if (!deliver_change(watch, &change, change.revision)) {
            return;
        }
    }
    watch->revision = watch->revision > revision ? watch->revision : revision;
    if (watch->silent) {
        watch->silent = false;
        deliver(watch, OTR_WATCH_ALIVE, NULL, watch->revision);
    }
}

static void watch_step(struct watch *watch, uint64_t now_ms)
{
    struct otr_watch *w = watch->w;

    if (watch->b->closing) {
        watch->w = NULL;
        w->internal = NULL;
        watch->cb(w, OTR_CANCELED, NULL, words(OTR_CANCELED));
    } else if (reaches(watch->b)) {
        watch_catch_up(watch, &watch->b->c->store, now_ms);
    } else if (!watch->silent && now_ms - watch->confirmed_ms >= FAKE_SILENT_MS) {
        watch->silent = true;
        deliver(watch, OTR_WATCH_SILENT, NULL, watch->revision);
    }
}

static int op_watch(struct otr_backend *b, struct otr_watch *w, const char *prefix, uint64_t revision, otr_watch_cb cb)
{
    struct fake *fake = fake_of(b);
    struct watch *watch;

    if (fake->closing) {
        return OTR_CANCELED;
    }
    watch = must_alloc(sizeof *watch);
    *watch = (struct watch){.next = fake->c->watches,
                            .b = fake,
                            .w = w,
                            .cb = cb,
                            .prefix = strdup(prefix),
                            .revision = revision,
                            .confirmed_ms = clock_now_ms()};
    fake->c->watches = watch;
    w->internal = watch;
    tick_soon(fake->c);
    return 0;
}

static void op_watch_stop(struct otr_backend *b, struct otr_watch *w)
{
    struct watch *watch = w->internal;

    (void)b;
    if (watch != NULL) {
        watch->w = NULL;
        w->internal = NULL;
    }
}

/* --- the loop --------------------------------------------------------------------------------------------------- */

static void sweep(struct fake_coordinator *c)
{
    struct session **session = &c->sessions;
    struct watch **watch = &c->watches;
    struct fake **backend = &c->backends;
    void *dead;

    while (*session != NULL) {
        dead = *session;
        if ((*session)->s != NULL) {
            session = &(*session)->next;
        } else {
            *session = (*session)->next;
            free(dead);
        }
    }
    while (*watch != NULL) {
        dead = *watch;
        if ((*watch)->w != NULL) {
            watch = &(*watch)->next;
        } else {
            *watch = (*watch)->next;
            free(((struct watch *)dead)->prefix);
            free(dead);
        }
    }
    while (*backend != NULL) {
        struct fake *fake = *backend;

        if (!fake->ending) {
            backend = &fake->next;
        } else {
            *backend = fake->next;
            fake->close_cb(&fake->base);
            free(fake);
        }
    }
}

static void replace(struct fake_coordinator *c)
{
    uint64_t session_last = c->store.session_last;

    c->replace = false;
    pending_end(&c->late, NULL);
    pending_end(&c->frozen, NULL);
    fake_store_close(&c->store);
    fake_store_init(&c->store, random_u64());
    c->store.session_last = session_last; /* No id ever names two sessions. */
}

static void on_tick(uv_timer_t *timer)
{
    struct fake_coordinator *c = timer->data;
    uint64_t now_ms = clock_now_ms();

    if (c->replace) {
        replace(c);
    }
    if (c->reach == FAKE_REACHABLE) {
        fake_store_expire(&c->store, now_ms);
    }
    for (struct fake *fake = c->backends; fake != NULL; fake = fake->next) {
        fake->ending = fake->closing;
    }
    requests_step(c, now_ms);
    for (struct session *session = c->sessions; session != NULL; session = session->next) {
        if (session->s != NULL) {
            session_step(session, now_ms);
        }
    }
    for (struct watch *watch = c->watches; watch != NULL; watch = watch->next) {
        if (watch->w != NULL) {
            watch_step(watch, now_ms);
        }
    }
    sweep(c);
}

static int op_open(struct otr_backend **backend, const struct otr_backend_config *config, struct otr_errmsg *msg)
{
    struct fake *fake;
    void *c = NULL;

    if (config->endpoints == NULL || sscanf(config->endpoints, "fake:%p", &c) != 1) {
        otr_errmsg_set(msg, "fake: endpoint is not that of a fake_coordinator");
        return OTR_INVALID;
    }
    fake = must_alloc(sizeof *fake);
    fake->base.ops = &otr_backend_fake;
    fake->c = c;
    fake->timeout_ms = config->request_timeout_ms != 0 ? config->request_timeout_ms : FAKE_TIMEOUT_MS;
    fake->next = fake->c->backends;
    fake->c->backends = fake;
    *backend = &fake->base;
    return 0;
}

static void op_close(struct otr_backend *b, otr_close_cb cb, void *data)
{
    fake_of(b)->closing = true;
    fake_of(b)->close_cb = cb;
    b->data = data;
    tick_soon(fake_of(b)->c);
}

const struct otr_backend_ops otr_backend_fake = {
    .name = "fake",
    .open = op_open,
    .session_open = op_session_open,
    .session_close = op_session_close,
    .session_revoke = op_session_revoke,
    .get = op_get,
    .watch = op_watch,
    .watch_stop = op_watch_stop,
    .txn = op_txn,
    .service_register = op_service_register,
    .close = op_close,
};

/* --- the coordinator -------------------------------------------------------------------------------------------- */

struct fake_coordinator *fake_coordinator_new(struct uv_loop_s *loop)
{
    struct fake_coordinator *c = must_alloc(sizeof *c);

    c->reach = FAKE_REACHABLE;
    fake_store_init(&c->store, random_u64());
    snprintf(c->endpoint, sizeof c->endpoint, "fake:%p", (void *)c);
    uv_timer_init(loop, &c->timer);
    c->timer.data = c;
    uv_timer_start(&c->timer, on_tick, FAKE_TICK_MS, FAKE_TICK_MS);
    return c;
}

static void on_coordinator_closed(uv_handle_t *handle)
{
    struct fake_coordinator *c = handle->data;

    pending_end(&c->late, NULL);
    pending_end(&c->frozen, NULL);
    fake_store_close(&c->store);
    free(c);
}

void fake_coordinator_close(struct fake_coordinator *c)
{
    assert(c->backends == NULL);
    uv_close((uv_handle_t *)&c->timer, on_coordinator_closed);
}

const char *fake_coordinator_endpoint(const struct fake_coordinator *c)
{
    return c->endpoint;
}

void fake_set_reach(struct fake_coordinator *c, enum fake_reach reach)
{
    if (reach != FAKE_FROZEN) {
        pending_end(&c->frozen, reach == FAKE_REACHABLE ? &c->store : NULL);
    }
    if (c->reach != FAKE_REACHABLE && reach == FAKE_REACHABLE) {
        fake_store_sessions_renew(&c->store, clock_now_ms());
    }
    c->reach = reach;
}

void fake_set_link(struct otr_backend *b, enum fake_link link)
{
    fake_of(b)->link = link;
}

void fake_next_txn(struct fake_coordinator *c, enum fake_outcome outcome)
{
    c->next_txn = outcome;
}

unsigned fake_release_late(struct fake_coordinator *c)
{
    return pending_end(&c->late, &c->store);
}

bool fake_session_lose(struct fake_coordinator *c, const char *id)
{
    return fake_store_session_end(&c->store, strtoull(id, NULL, 10));
}

void fake_force_resync(struct fake_coordinator *c)
{
    for (struct watch *watch = c->watches; watch != NULL; watch = watch->next) {
        watch->resync = true;
    }
}

void fake_compact(struct fake_coordinator *c)
{
    c->store.compacted = c->store.revision;
}

void fake_replace(struct fake_coordinator *c)
{
    c->replace = true;
}
