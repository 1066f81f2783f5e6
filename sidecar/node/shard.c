/* One replica's shell: events go into the core, the actions that come out are performed in order.
 *
 * Happy path of a write on the primary: node_write -> EV_WRITE -> DO_APPEND (journal's open batch) + DO_SEND_APPEND
 * (bytes to the peers at the same time) -> flush -> EV_LOG_SYNCED, peers' ACKs -> DO_COMMIT (store, engine) +
 * DO_ANSWER.
 *
 * Performing an action may cause another event at once (a link that takes no more, say): such events are queued and
 * stepped after the actions of the present one, so that the order of actions holds. */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"
#include "sidecar/io/random.h"
#include "sidecar/node/recover.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

static const char *role_name(enum replica_role role)
{
    static const char *const names[] = {"?", "idle", "follower", "candidate", "takeover", "primary"};
    return (unsigned)role < sizeof names / sizeof names[0] ? names[role] : "?";
}

uint64_t shard_fresh_log_id(void)
{
    return random_u64();
}

/* --- metas ----------------------------------------------------------------------------------------------------------
 */

static void meta_write(struct shard *s)
{
    int rv = journal_meta_write(s->node->journal, s->id, &s->meta);

    if (rv != 0) {
        node_fatal(s->node, "shard %u: cannot note the replica's state: %s", s->id, otr_strerror(rv));
    }
}

static void take_meta(struct shard *s, const struct replica_meta *meta)
{
    s->meta.log_id = meta->log_id;
    s->meta.promised = meta->promised;
    s->meta.seen_generation = meta->seen_generation;
    s->meta.seen_epoch = meta->seen_epoch;
    s->meta.seen_version = meta->seen_version;
    s->meta.grant_ms_max = meta->grant_ms_max;
}

static void take_progress(struct shard *s, uint64_t now_ms)
{
    const char *data_id = feeder_data_id(s->feeder);

    s->meta.committed_index = s->stored;
    s->meta.applied_index = feeder_applied(s->feeder);
    memset(s->meta.engine_data_id, 0, sizeof s->meta.engine_data_id);
    memcpy(s->meta.engine_data_id, data_id, strnlen(data_id, sizeof s->meta.engine_data_id - 1));
    s->meta_noted_ms = now_ms;
}

void shard_note_progress(struct shard *s, uint64_t now_ms, bool force)
{
    bool moved = s->meta.committed_index != s->stored || s->meta.applied_index != feeder_applied(s->feeder);

    if (!moved || s->meta.log_id == 0 || s->seed_in != NULL ||
        (!force && now_ms - s->meta_noted_ms < NODE_META_EVERY_MS)) {
        return;
    }
    take_progress(s, now_ms);
    meta_write(s);
}

static void do_meta(struct shard *s, const struct replica_action *a)
{
    take_meta(s, &a->meta.meta);
    take_progress(s, clock_now_ms());
    meta_write(s);
    if (s->metas_count == sizeof s->metas / sizeof s->metas[0]) {
        /* The newest covers the older ones: metas become durable in order. */
        s->metas_count--;
    }
    s->metas[s->metas_count].seq = a->meta.seq;
    s->metas[s->metas_count].number = journal_metas_written(s->node->journal, s->id);
    s->metas_count++;
}

void shard_durable(struct shard *s, uint64_t durable_index, uint64_t metas_durable)
{
    uint64_t seq = 0;
    uint32_t done = 0;

    s->metas_durable = metas_durable;
    while (done < s->metas_count && s->metas[done].number <= metas_durable) {
        seq = s->metas[done].seq;
        done++;
    }
    if (done > 0) {
        s->metas_count -= done;
        memmove(s->metas, s->metas + done, s->metas_count * sizeof s->metas[0]);
        shard_feed(s, &(struct replica_event){.type = REPLICA_EV_META_SYNCED, .meta_synced = {.seq = seq}});
    }
    if (s->seed_in != NULL) {
        seed_receive_durable(s, metas_durable);
        return;
    }
    shard_feed(s, &(struct replica_event){.type = REPLICA_EV_LOG_SYNCED, .log_synced = {.index = durable_index}});
}

/* --- actions --------------------------------------------------------------------------------------------------------
 */

static void do_append(struct shard *s, const struct replica_action *a)
{
    struct write *w = a->append.ticket != 0 ? s->current_write : NULL;
    struct record_header h = {
        .body_bytes = w != NULL ? (uint32_t)w->body_bytes : 0,
        .shard = s->id,
        .epoch = a->append.position.epoch,
        .kind = w != NULL ? (uint16_t)w->kind : RECORD_EPOCH,
        .index = a->append.position.index,
        .time_ms = a->append.time_ms,
        .request_id = a->append.request_id,
    };
    int rv = journal_append(s->node->journal, &h, w != NULL ? w->body : NULL, NULL);

    if (rv != 0) {
        node_fatal(s->node, "shard %u: cannot append entry %llu: %s", s->id, (unsigned long long)h.index,
                   otr_strerror(rv));
        return;
    }
    if (w != NULL) {
        write_appended(s, w, a->append.position);
        s->current_write = NULL;
    }
}

static void do_append_raw(struct shard *s, const struct replica_action *a)
{
    const struct incoming *in = s->incoming;
    size_t from;
    size_t to;
    int rv;

    assert(in != NULL && a->append_raw.first > in->msg.append.prev.index);
    from = (size_t)(a->append_raw.first - in->msg.append.prev.index - 1);
    to = (size_t)(a->append_raw.last - in->msg.append.prev.index);
    assert(from < to && to <= in->count);
    rv =
        journal_append_raw(s->node->journal, s->id, in->bytes + in->offsets[from], in->offsets[to] - in->offsets[from]);
    if (rv != 0) {
        node_fatal(s->node, "shard %u: cannot append entries %llu..%llu: %s", s->id,
                   (unsigned long long)a->append_raw.first, (unsigned long long)a->append_raw.last, otr_strerror(rv));
    }
}

static void do_cut(struct shard *s, uint64_t index)
{
    int rv;

    assert(index > s->stored);
    log_info(s->subject, "cut the log from entry %llu on: another primary's entries follow", (unsigned long long)index);
    write_cut(s, index);
    rv = journal_cut(s->node->journal, s->id, index);
    if (rv != 0) {
        node_fatal(s->node, "shard %u: cannot cut the log at entry %llu: %s", s->id, (unsigned long long)index,
                   otr_strerror(rv));
    }
}

/* From standing for election, through the takeover, until it serves; a candidate that loses starts anew. */
static void count_election(struct shard *s, enum replica_role role)
{
    if (role == REPLICA_CANDIDATE && s->role != REPLICA_CANDIDATE) {
        s->candidate_ns = clock_now_ns();
    } else if (role == REPLICA_PRIMARY && s->role != REPLICA_PRIMARY) {
        s->metrics.elections_won_total++;
        if (s->candidate_ns != 0) {
            metrics_observe_since_ns(&s->node->metrics.node.takeover_seconds, s->candidate_ns);
        }
    }
    if (role != REPLICA_CANDIDATE && role != REPLICA_TAKEOVER) {
        s->candidate_ns = 0;
    }
}

static void do_role(struct shard *s, const struct replica_action *a)
{
    bool became_primary = a->role.role == REPLICA_PRIMARY && s->role != REPLICA_PRIMARY;

    count_election(s, a->role.role);
    s->role = a->role.role;
    s->epoch = a->role.epoch;
    snprintf(s->subject, sizeof s->subject, "shard=%u role=%s epoch=%llu", s->id, role_name(s->role),
             (unsigned long long)s->epoch);
    log_info(s->subject, "%s%s%s", a->role.why != NULL ? a->role.why : "role changed",
             a->role.primary != OTR_NODE_NONE ? "; primary " : "",
             a->role.primary != OTR_NODE_NONE ? topology_name(s->node->topology, a->role.primary) : "");
    if (became_primary) {
        collections_check(s);
    }
    held_look(s);
    read_wait_check(s, clock_now_ms()); /* whoever waited for the right to read */
    node_changed(s->node);
}

static void perform(struct shard *s, const struct replica_action *a)
{
    switch (a->type) {
    case REPLICA_DO_APPEND:
        do_append(s, a);
        break;
    case REPLICA_DO_APPEND_RAW:
        do_append_raw(s, a);
        break;
    case REPLICA_DO_CUT:
        do_cut(s, a->cut.index);
        break;
    case REPLICA_DO_META:
        do_meta(s, a);
        break;
    case REPLICA_DO_SEND:
        outbox_send(s, a->send.to, &a->send.msg);
        break;
    case REPLICA_DO_SEND_APPEND:
        outbox_append(s, a);
        break;
    case REPLICA_DO_COMMIT:
        s->commit = a->commit.index;
        apply_advance(s);
        break;
    case REPLICA_DO_ANSWER:
        s->answerable = a->answer.index;
        write_answer(s, clock_now_ms());
        break;
    case REPLICA_DO_REPLY:
        write_replied(s, a, s->current_write);
        s->current_write = NULL;
        break;
    case REPLICA_DO_ABANDON:
        write_abandon(s, a->abandon.index);
        break;
    case REPLICA_DO_TXN:
        coordinator_txn(s, a);
        break;
    case REPLICA_DO_READ:
        coordinator_read(s, a->read.read);
        break;
    case REPLICA_DO_SEED:
        seed_send_start(s, a->seed.to);
        break;
    case REPLICA_DO_SEED_ACCEPT:
        take_meta(s, &a->seed_accept.meta);
        s->meta.committed_index = 0;
        s->meta.applied_index = 0;
        seed_receive_accepted(s, &a->seed_accept.meta);
        break;
    case REPLICA_DO_ROLE:
        do_role(s, a);
        break;
    case REPLICA_DO_ALARM:
        log_error(s->subject, "%s", a->alarm.text);
        break;
    case REPLICA_DO_FATAL:
        node_fatal(s->node, "shard %u: %s", s->id, a->fatal.text);
        break;
    case REPLICA_DO_HANDED:
        handoff_handed(s, a);
        break;
    case REPLICA_DO_FORCED:
        force_forced(s, a);
        break;
    case REPLICA_DO_NOTE_LOSS:
        loss_note(s, a);
        break;
    }
}

/* --- feeding --------------------------------------------------------------------------------------------------------
 */

static void step(struct shard *s, struct replica_event *ev)
{
    int rv;

    ev->now_ms = clock_now_ms(); /* not the loop's cached time: it may be older than a grant (PROTOCOL G3) */
    s->stepping = true;
    rv = replica_step(s->replica, ev, &s->actions);
    if (rv != 0) {
        s->stepping = false;
        node_fatal(s->node, "shard %u: %s", s->id, otr_strerror(rv));
        return;
    }
    for (size_t i = 0; i < s->actions.count && !s->node->dying; i++) {
        perform(s, &s->actions.items[i]);
    }
    s->stepping = false;
    handoff_stepped(s);
}

static void queue(struct shard *s, const struct replica_event *ev)
{
    if (s->queued_count == s->queued_capacity) {
        size_t capacity = s->queued_capacity == 0 ? 16 : s->queued_capacity * 2;
        struct replica_event *grown = realloc(s->queued, capacity * sizeof *grown);
        if (grown == NULL) {
            node_fatal(s->node, "shard %u: out of memory", s->id);
            return;
        }
        s->queued = grown;
        s->queued_capacity = capacity;
    }
    s->queued[s->queued_count++] = *ev;
}

void shard_feed(struct shard *s, struct replica_event *ev)
{
    if (s->node->dying || s->node->closing) {
        return;
    }
    if (s->stepping) {
        assert(ev->type != REPLICA_EV_MSG && ev->type != REPLICA_EV_DESCRIPTOR && ev->type != REPLICA_EV_WRITE);
        queue(s, ev);
        return;
    }
    step(s, ev);
    for (size_t i = 0; i < s->queued_count; i++) {
        struct replica_event next = s->queued[i]; /* the array may move */
        step(s, &next);
    }
    s->queued_count = 0;
}

/* --- making ---------------------------------------------------------------------------------------------------------
 */

static uint32_t or_default(uint32_t value, uint32_t fallback)
{
    return value != 0 ? value : fallback;
}

struct replica_settings shard_settings(const struct shard *s)
{
    const struct topology_config *c = topology_config(s->node->topology);

    return (struct replica_settings){
        .mode = c->mode, .max_lag_entries = c->max_lag_entries, .max_lag_ms = c->max_lag_ms};
}

static void fill_config(const struct shard *s, struct replica_config *out)
{
    const struct topology_config *c = topology_config(s->node->topology);

    *out = (struct replica_config){
        .shard = s->id,
        .self = s->node->self,
        .incarnation = s->node->incarnation,
        .process_start_ms = s->node->started_ms,
        .timings =
            {
                .beacon_ms = or_default(c->beacon_ms, 30),
                .replica_timeout_ms = or_default(c->replica_timeout_ms, 400),
                .suspect_timeout_ms = or_default(c->suspect_timeout_ms, 1000),
                .patience_ms = 50,
                .heartbeat_ms = 100,
                .dedup_window_ms = 600000,
                .dedup_ids_min = 100000,
                .seed_entries = 1000,
            },
        .settings = shard_settings(s),
    };
}

static int restore_epochs(struct shard *s, const struct journal_shard_state *state)
{
    uint64_t last_epoch = 0;
    uint64_t first = state->first.index != 0 ? state->first.index : state->last.index;
    int rv = 0;

    for (uint64_t i = first; i != 0 && i <= state->last.index && rv == 0; i++) {
        uint64_t epoch = journal_epoch_at(s->node->journal, s->id, i);
        if (epoch != last_epoch && epoch != 0) {
            rv = replica_restore_epoch(s->replica, epoch, i);
            last_epoch = epoch;
        }
    }
    return rv;
}

int shard_new(struct node *n, otr_shard id, struct shard **out)
{
    struct journal_shard_state state = {0};
    struct replica_durable durable = {0};
    struct replica_config config;
    struct shard *s = n->shards[id]; /* recovery made the store */
    int rv;

    if (s == NULL) {
        s = calloc(1, sizeof *s);
        if (s == NULL || (s->store = store_new()) == NULL) {
            free(s);
            return OTR_NOMEM;
        }
        s->node = n;
        s->id = id;
        s->pending_tail = &s->pending_head;
        s->pending_uncommitted = &s->pending_head;
    }
    (void)journal_shard(n->journal, id, &state); /* unknown: all zero */
    s->meta = state.meta;
    snprintf(s->subject, sizeof s->subject, "shard=%u", id);
    fill_config(s, &config);
    durable.meta = (struct replica_meta){
        .log_id = state.meta.log_id,
        .promised = state.meta.promised,
        .seen_generation = state.meta.seen_generation,
        .seen_epoch = state.meta.seen_epoch,
        .seen_version = state.meta.seen_version,
        .grant_ms_max = state.meta.grant_ms_max,
    };
    durable.fresh_log_id = shard_fresh_log_id();
    durable.base = state.base;
    durable.last = state.last;
    durable.committed_index = s->stored;
    durable.untrusted = state.damaged || state.seed_unfinished;
    rv = replica_new(&s->replica, &config, &durable);
    if (rv == 0) {
        rv = restore_epochs(s, &state);
    }
    if (rv == 0) {
        rv = recover_requests(s);
    }
    if (rv == 0) {
        s->commit = s->stored;
        s->feeder = feeder_new(s, state.meta.applied_index, state.meta.engine_data_id);
        rv = s->feeder == NULL ? OTR_NOMEM : 0;
    }
    if (rv != 0) {
        n->shards[id] = NULL;
        shard_free(s);
        return rv;
    }
    n->shards[id] = s;
    if (id >= n->shards_top) {
        n->shards_top = id + 1;
    }
    *out = s;
    return 0;
}

void shard_free(struct shard *s)
{
    if (s == NULL) {
        return;
    }
    write_free_all(s);
    held_free(s);
    seed_receive_stop(s);
    digest_forget(s);
    if (s->feeder != NULL) {
        feeder_free(s->feeder);
    }
    replica_free(s->replica);
    store_free(s->store);
    replica_actions_close(&s->actions);
    free(s->queued);
    free(s->recovered);
    free(s);
}
