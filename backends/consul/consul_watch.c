/* Watches: Consul has no history, only blocking queries, which answer with the whole prefix when its index moves. The
 * difference between what it holds and what was delivered last makes the events (consul_diff.h), so that nothing is
 * lost or said twice across connections and agents; what came and went between two answers is not seen.
 *
 * Happy path: a read (consul_get.c) gives state and index, then one blocking query follows the other. The first state:
 * that of the read in whose callback the watch was begun, or nothing for a watch from revision 0 or 1, or what is read
 * when the prefix has not changed since the revision asked for. Else history is gone: resync.
 *
 * Silence proves nothing: a blocking query goes on when Consul has lost its leader. Hence the probe every
 * CONSUL_PROBE_MS, a consistent listing of the names directly below the prefix through the same agent: it finds out
 * that the agent is dead or cut off, and by its index that the query has missed something.
 *
 * An answer with fewer keys is believed only when Consul says of the missing ones that they do not exist (VERIFYING):
 * to a token that has lost its permission a list looks empty, and that must not look as if everybody had died.
 *
 * Failures: query or probes fail, or lag: read anew through the next agent, after a pause. When the identity is another
 * one, or a key is older than it was (restored from a backup, PROTOCOL D4): resync.
 *
 *   READING --read--> QUERYING <--answer, another query--> QUERYING
 *   READING, QUERYING --keys are missing--> VERIFYING --they are gone--> QUERYING
 *   any --failure--> BREAKING --no call is left--> PAUSED --pause over--> READING
 *   QUERYING --answered too quickly--> RESTING --pause over--> QUERYING */
#include "backends/consul/consul_watch.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    WAIT_S = 10,          /* of a blocking query: what an abandoned one keeps its connection's slot for */
    WAIT_SLACK_MS = 4000, /* Consul adds up to a sixteenth */
    QUERY_MS_MIN = 10,    /* from one query to the next */
    SILENT_MS = 4000,     /* not confirmed for so long: reported as SILENT */
};

static void watch_read(struct consul_watch *watch);

/* --- memory ----------------------------------------------------------------------------------------------------- */

void consul_watch_release(struct consul_watch *watch)
{
    struct consul *consul = watch->consul;

    assert(watch->refs > 0);
    watch->refs--;
    if (watch->refs == 0) {
        consul_state_close(&watch->before);
        kv_list_close(&watch->now);
        free(watch->prefix);
        free(watch);
        consul_object_gone(consul);
    }
}

static void on_watch_timer_closed(uv_handle_t *handle)
{
    consul_watch_release(handle->data);
}

static void calls_stop(struct consul_watch *watch)
{
    uv_timer_stop(&watch->timer);
    uv_timer_stop(&watch->probe_timer);
    if (watch->probe != NULL) {
        consul_call_cancel(watch->probe);
    }
    if (watch->call != NULL) {
        consul_call_cancel(watch->call);
    }
    if (watch->get != NULL) {
        consul_get_cancel(watch->get);
    }
}

/* The struct otr_watch is the caller's from here on. */
static void watch_drop(struct consul_watch *watch)
{
    watch->stopped = true;
    watch->w->internal = NULL;
    if (watch->prev != NULL) {
        watch->prev->next = watch->next;
    } else {
        watch->consul->watches = watch->next;
    }
    if (watch->next != NULL) {
        watch->next->prev = watch->prev;
    }
    calls_stop(watch);
    uv_close((uv_handle_t *)&watch->timer, on_watch_timer_closed);
    uv_close((uv_handle_t *)&watch->probe_timer, on_watch_timer_closed);
}

static void watch_final(struct consul_watch *watch, int status, const struct otr_errmsg *msg)
{
    struct otr_watch *w = watch->w;
    otr_watch_cb cb = watch->cb;

    watch_drop(watch);
    cb(w, status, NULL, msg);
}

/* --- reports ---------------------------------------------------------------------------------------------------- */

/* False when the callback stopped the watch: then touch nothing but what the caller's own reference keeps. */
static bool deliver(struct consul_watch *watch, const struct otr_watch_event *event)
{
    watch->cb(watch->w, 0, event, &watch->why);
    return !watch->stopped;
}

static bool deliver_state(struct consul_watch *watch, enum otr_watch_event_type type)
{
    return deliver(watch, &(struct otr_watch_event){
                              .type = type,
                              .kv = {.key = "", .value = "", .session = ""},
                              .revision = watch->revision,
                          });
}

void consul_watch_report_silence(struct consul_watch *watch)
{
    if (!watch->silent && clock_now_ms() - watch->confirmed_ms >= SILENT_MS) {
        watch->silent = true;
        deliver_state(watch, OTR_WATCH_SILENT);
    }
}

void consul_watch_confirmed(struct consul_watch *watch, uint64_t sent_ms)
{
    watch->confirmed_ms = sent_ms;
    watch->failures_count = 0;
    watch->backoff_ms = 0;
    watch->why.text[0] = '\0';
    if (watch->silent) {
        watch->silent = false;
        deliver_state(watch, OTR_WATCH_ALIVE);
    }
}

/* --- failures --------------------------------------------------------------------------------------------------- */

static void on_watch_timer(uv_timer_t *timer)
{
    struct consul_watch *watch = timer->data;

    if (watch->state == WATCH_RESTING) {
        consul_watch_query(watch);
    } else if (watch->state == WATCH_PAUSED) {
        watch_read(watch);
    }
}

/* Once nothing of the failed attempt is left. */
static void watch_retry(struct consul_watch *watch)
{
    if (watch->call != NULL || watch->probe != NULL || watch->get != NULL) {
        watch->state = WATCH_BREAKING;
        return;
    }
    watch->endpoint = endpoints_next(&watch->consul->endpoints, watch->endpoint);
    watch->state = WATCH_PAUSED;
    uv_timer_start(&watch->timer, on_watch_timer,
                   endpoints_backoff_round(&watch->consul->endpoints, ++watch->failures_count, &watch->backoff_ms), 0);
    consul_watch_report_silence(watch);
}

/* Ends what is under way for watch->why. */
void consul_watch_break(struct consul_watch *watch)
{
    calls_stop(watch);
    watch_retry(watch);
}

/* The end of a call, whichever: true when its answer is still wanted. */
bool consul_watch_call_wanted(struct consul_watch *watch)
{
    if (!watch->stopped && watch->state == WATCH_BREAKING) {
        watch_retry(watch);
        return false;
    }
    return !watch->stopped;
}

void consul_watch_failed(struct consul_watch *watch, int status, bool token_unknown, const struct otr_errmsg *msg)
{
    watch->why = *msg;
    if (status == OTR_DENIED && !token_unknown) {
        watch_final(watch, OTR_DENIED, msg);
    } else {
        consul_watch_break(watch);
    }
}

static void watch_out_of_memory(struct consul_watch *watch)
{
    otr_errmsg_set(&watch->why, "consul: watch: %s", otr_strerror(OTR_NOMEM));
    consul_watch_break(watch);
}

/* --- delivering ------------------------------------------------------------------------------------------------- */

static bool deliver_resync(struct consul_watch *watch)
{
    watch->based = true;
    if (!deliver_state(watch, OTR_WATCH_RESYNC)) {
        return false;
    }
    for (size_t i = 0; i < watch->now.count; i++) {
        struct otr_watch_event put = {.type = OTR_WATCH_PUT, .kv = watch->now.list[i], .revision = watch->revision};

        if (!deliver(watch, &put)) {
            return false;
        }
    }
    return deliver_state(watch, OTR_WATCH_RESYNC_END);
}

/* What is in watch->now has been delivered, or is to be taken for it. */
static bool now_is_before(struct consul_watch *watch)
{
    int rv = consul_state_set(&watch->before, watch->now.list, watch->now.count);

    kv_list_close(&watch->now);
    if (rv != 0) { /* What was delivered is not known any more: the next answer decides, as at the beginning. */
        watch->based = false;
        watch_out_of_memory(watch);
        return false;
    }
    watch->index = watch->now_index;
    return true;
}

/* Delivers watch->now; then queries on. Deletions in it are certain. */
void consul_watch_take(struct consul_watch *watch, bool resync)
{
    struct consul_changes changes = {0};
    uint64_t revision = watch->now_index > watch->revision ? watch->now_index : watch->revision;
    bool goes_on = true;

    if (!resync && consul_diff(&watch->before, &watch->now, revision, &changes) != 0) {
        kv_list_close(&watch->now);
        watch_out_of_memory(watch);
        return;
    }
    if (resync || changes.regressed) {
        watch->revision = watch->now_index;
        goes_on = deliver_resync(watch);
    }
    for (size_t i = 0; goes_on && !resync && !changes.regressed && i < changes.count; i++) {
        goes_on = deliver(watch, &changes.events[i]);
    }
    if (goes_on) {
        watch->revision = resync || changes.regressed ? watch->now_index : revision;
        if (now_is_before(watch)) {
            consul_watch_query(watch);
        }
    }
    consul_changes_close(&changes);
}

/* watch->now and now_index are a new answer. */
static void watch_look(struct consul_watch *watch)
{
    struct consul_changes changes;
    int rv = consul_diff(&watch->before, &watch->now, watch->now_index, &changes);

    if (rv == 0 && changes.deleted_count > 0 && !changes.regressed) {
        rv = consul_watch_verify(watch, &changes);
    } else if (rv == 0) {
        consul_watch_take(watch, false);
    }
    consul_changes_close(&changes);
    if (rv != 0) {
        kv_list_close(&watch->now);
        watch_out_of_memory(watch);
    }
}

/* --- queries ---------------------------------------------------------------------------------------------------- */

static void query_done(void *data, const struct consul_reply *reply)
{
    struct consul_watch *watch = data;
    int rv;

    watch->call = NULL;
    if (consul_watch_call_wanted(watch)) {
        rv = reply->status == 0 && reply->index == 0 ? OTR_PROTO : 0;
        kv_list_close(&watch->now);
        if (reply->status == 0 && rv == 0 && reply->http_status == 200) {
            rv = consul_kvs_decode(reply->json, watch->prefix[0] == '/', &watch->now);
        }
        if (reply->status != 0) {
            consul_watch_failed(watch, reply->status, reply->token_unknown, reply->msg);
        } else if (rv != 0) {
            otr_errmsg_set(&watch->why, "consul: watch: unusable answer: %s", otr_strerror(rv));
            consul_watch_break(watch);
        } else {
            watch->now_index = reply->index; /* Smaller than before when Consul has forgotten a deletion. */
            watch_look(watch);
        }
    }
    consul_watch_release(watch);
}

void consul_watch_query(struct consul_watch *watch)
{
    struct consul_call_spec spec = {
        .method = "GET",
        .lane = CONSUL_LANE_WATCH,
        .endpoint = (int)watch->endpoint,
        .timeout_ms = WAIT_S * 1000 + WAIT_S * 1000 / 16 + WAIT_SLACK_MS,
        .accepted = 404,
        .done = query_done,
        .data = watch,
    };
    struct json_text path = {0};
    uint64_t now_ms = clock_now_ms();

    if (now_ms - watch->queried_ms < QUERY_MS_MIN) {
        watch->state = WATCH_RESTING;
        uv_timer_start(&watch->timer, on_watch_timer, QUERY_MS_MIN - (now_ms - watch->queried_ms), 0);
        return;
    }
    watch->queried_ms = now_ms;
    watch->state = WATCH_QUERYING;
    json_text_add(&path, "/v1/kv/");
    consul_add_path(&path, watch->prefix);
    json_text_add(&path, "?recurse&consistent&index=%" PRIu64 "&wait=%ds", watch->index, WAIT_S);
    if (consul_call_start(watch->consul, &spec, &path, NULL, &watch->call) != 0) {
        watch_out_of_memory(watch);
        return;
    }
    watch->refs++;
}

/* --- reading ---------------------------------------------------------------------------------------------------- */

/* What the first answer means for a watch that only knows a revision. */
static void watch_begin(struct consul_watch *watch)
{
    if (watch->revision <= 1) { /* From the very beginning, when there was nothing. */
        watch->based = true;
        consul_watch_take(watch, false);
    } else if (watch->now_index <= watch->revision) { /* Nothing happened since. */
        watch->based = true;
        if (now_is_before(watch)) {
            consul_watch_query(watch);
        }
    } else {
        consul_watch_take(watch, true);
    }
}

static void read_done(void *data, const struct consul_got *got)
{
    struct consul_watch *watch = data;
    bool other;

    watch->get = NULL;
    if (consul_watch_call_wanted(watch)) {
        if (got->status != 0) {
            consul_watch_failed(watch, got->status, got->token_unknown, got->msg);
        } else {
            other = watch->identity != 0 && watch->identity != got->result.identity;
            watch->identity = got->result.identity;
            watch->now_index = got->index;
            watch->now = *got->kvs;
            *got->kvs = (struct kv_list){0};
            watch->queried_ms = 0;
            watch->probe_misses = 0;
            watch->behind_index = 0;
            uv_timer_start(&watch->probe_timer, consul_watch_on_probe_timer, CONSUL_PROBE_MS, CONSUL_PROBE_MS);
            consul_watch_confirmed(watch, got->sent_ms);
            if (watch->stopped) {
                /* By its own callback. */
            } else if (other) {
                log_error("consul", "watch %s: another coordinator than before: resync", watch->prefix);
                consul_watch_take(watch, true);
            } else if (watch->based) {
                watch_look(watch);
            } else {
                watch_begin(watch);
            }
        }
    }
    consul_watch_release(watch);
}

static void watch_read(struct consul_watch *watch)
{
    int rv = consul_get_start(watch->consul, watch->prefix, (int)watch->endpoint, read_done, watch, &watch->get);

    watch->state = WATCH_READING;
    if (rv == 0) {
        watch->refs++;
    } else if (rv != OTR_CANCELED) {
        watch_out_of_memory(watch);
    }
}

/* --- the vtable's members --------------------------------------------------------------------------------------- */

/* Begun in the callback of the read that it goes on from: nothing is missed and nothing has to be read again. */
static int watch_base(struct consul_watch *watch)
{
    const struct consul_lent *lent = &watch->consul->lent;
    int rv;

    if (lent->prefix == NULL || strcmp(lent->prefix, watch->prefix) != 0 || lent->result->revision != watch->revision) {
        return 0;
    }
    rv = consul_state_set(&watch->before, lent->result->kvs, lent->result->kvs_count);
    watch->based = rv == 0;
    watch->identity = lent->result->identity;
    watch->index = lent->index;
    return rv;
}

int consul_watch_op(struct otr_backend *b, struct otr_watch *w, const char *prefix, uint64_t revision, otr_watch_cb cb)
{
    struct consul *consul = consul_of(b);
    struct consul_watch *watch;

    if (!consul_key_valid(prefix)) {
        return OTR_INVALID;
    }
    watch = consul->closing ? NULL : calloc(1, sizeof *watch);
    if (watch == NULL) {
        return consul->closing ? OTR_CANCELED : OTR_NOMEM;
    }
    watch->consul = consul;
    watch->w = w;
    watch->cb = cb;
    watch->revision = revision;
    watch->endpoint = consul->endpoints.now;
    watch->prefix = strdup(prefix);
    if (watch->prefix == NULL || watch_base(watch) != 0) {
        free(watch->prefix);
        free(watch);
        return OTR_NOMEM;
    }
    watch->confirmed_ms = clock_now_ms();
    watch->refs = 2;
    uv_timer_init(consul->loop, &watch->timer);
    uv_timer_init(consul->loop, &watch->probe_timer);
    watch->timer.data = watch;
    watch->probe_timer.data = watch;
    watch->next = consul->watches;
    if (watch->next != NULL) {
        watch->next->prev = watch;
    }
    consul->watches = watch;
    consul_object_made(consul);
    w->internal = watch;
    watch->state = watch->based ? WATCH_RESTING : WATCH_PAUSED;
    uv_timer_start(&watch->timer, on_watch_timer, 0, 0);
    if (watch->based) {
        uv_timer_start(&watch->probe_timer, consul_watch_on_probe_timer, 0, CONSUL_PROBE_MS);
    }
    return 0;
}

void consul_watch_stop(struct otr_backend *b, struct otr_watch *w)
{
    (void)b;
    if (w->internal != NULL) {
        watch_drop(w->internal);
    }
}

void consul_watch_cancel_all(struct consul *consul)
{
    struct otr_errmsg msg = {0};

    otr_errmsg_set(&msg, "consul: watch: %s", otr_strerror(OTR_CANCELED));
    while (consul->watches != NULL) {
        watch_final(consul->watches, OTR_CANCELED, &msg);
    }
}
