#include "tests/simulation/sim.h"

#include <stdio.h>
#include <stdlib.h>

enum { NODE_TICK_US = 10 * SIM_MS };

static uint64_t clock_us(const struct sim *s, const struct sim_node *n)
{
    int64_t passed_us = (int64_t)(s->now_us - n->clock_at_us);

    return n->clock_us +
           (uint64_t)(passed_us + passed_us / 1000000 * n->clock_ppm + passed_us % 1000000 * n->clock_ppm / 1000000);
}

uint64_t node_now_ms(const struct sim *s, const struct sim_node *n)
{
    return clock_us(s, n) / SIM_MS;
}

void node_clock_change(struct sim *s, struct sim_node *n)
{
    int64_t span = s->clock_ppm_max - s->clock_ppm_min;

    n->clock_us = clock_us(s, n);
    n->clock_at_us = s->now_us;
    /* The fastest and the slowest rate are the ones that matter. */
    switch (sim_below(s, 4)) {
    case 0:
        n->clock_ppm = s->clock_ppm_min;
        break;
    case 1:
        n->clock_ppm = s->clock_ppm_max;
        break;
    default:
        n->clock_ppm = s->clock_ppm_min + (int64_t)sim_below(s, (uint64_t)span + 1);
        break;
    }
}

uint64_t node_log_id(struct sim_node *n)
{
    return (uint64_t)n->id * 1000000 + ++n->log_ids;
}

/* --- recovery ----------------------------------------------------------------------------------------------------- */

struct recovery {
    struct sim *sim;
    struct sim_node *node;
};

static struct sim_shard *shard_get(struct sim *s, struct sim_node *n, otr_shard id)
{
    struct sim_shard *sh = n->shards[id];

    if (sh == NULL) {
        sh = sim_alloc(sizeof *sh);
        sh->sim = s;
        sh->node = n;
        sh->id = id;
        n->shards[id] = sh;
    }
    return sh;
}

static void recover_visit(void *data, const struct record_header *h, const uint8_t *body, journal_place place)
{
    struct recovery *r = data;
    struct sim_shard *sh = shard_get(r->sim, r->node, h->shard);

    (void)place;
    switch (h->kind) {
    case RECORD_SEED_BEGIN:
        shard_clear(sh, (struct otr_position){0});
        break;
    case RECORD_SEED_POINTS:
        shard_seed_read(sh, body, h->body_bytes);
        break;
    case RECORD_SEED_END:
        sh->base = (struct otr_position){.epoch = h->epoch, .index = h->index};
        sh->commit = h->index;
        sh->seed_ids_count = h->body_bytes / sizeof *sh->seed_ids;
        free(sh->seed_ids);
        sh->seed_ids = sim_alloc(h->body_bytes);
        memcpy(sh->seed_ids, body, h->body_bytes);
        break;
    case RECORD_CUT:
        while (sh->entries_count > 0 && sh->entries[sh->entries_count - 1].position.index >= h->index) {
            sh->entries_count--;
        }
        break;
    default:
        shard_take_entry(sh, h, body);
        break;
    }
}

static int restore_log(struct sim_shard *sh)
{
    uint64_t epoch = 0;
    int rv = 0;

    for (size_t i = 0; i < sh->seed_ids_count && rv == 0; i++) {
        rv = replica_restore_request(sh->replica, &sh->seed_ids[i].entry, sh->seed_ids[i].outcome, true);
    }
    for (size_t i = 0; i < sh->entries_count && rv == 0; i++) {
        const struct sim_entry *e = &sh->entries[i];

        if (e->position.epoch != epoch) {
            rv = replica_restore_epoch(sh->replica, e->position.epoch, e->position.index);
            epoch = e->position.epoch;
        }
        if (rv == 0 && !otr_request_id_is_none(&e->id)) {
            rv = replica_restore_request(
                sh->replica,
                &(struct replica_entry){.position = e->position, .time_ms = e->time_ms, .request_id = e->id}, 0, false);
        }
    }
    return rv;
}

static void fill_config(struct sim *s, struct sim_node *n, otr_shard id, struct replica_config *config)
{
    (void)s;
    *config = (struct replica_config){
        .shard = id,
        .self = (otr_node)n->id,
        .incarnation = n->incarnation,
        .process_start_ms = n->process_start_ms,
        .timings = {.beacon_ms = 30,
                    .replica_timeout_ms = 400,
                    .suspect_timeout_ms = 1000,
                    .patience_ms = 50,
                    .heartbeat_ms = 100,
                    .dedup_window_ms = SIM_DEDUP_WINDOW_MS,
                    .dedup_ids_min = 10,
                    .seed_entries = 60},
        .settings = n->settings,
    };
}

struct sim_shard *node_shard_make(struct sim *s, struct sim_node *n, otr_shard id)
{
    struct sim_shard *sh = shard_get(s, n, id);
    struct journal_shard_state state = {0};
    struct replica_config config;
    struct replica_durable durable = {0};
    uint64_t last = sh->base.index + sh->entries_count;

    (void)journal_shard(n->journal, id, &state);
    durable.untrusted = state.damaged || state.seed_unfinished;
    if (state.seed_unfinished) {
        sim_reached(s, SIM_SEED_TORN);
    }
    if (state.damaged) {
        sim_reached(s, n->distrusted ? SIM_DISK_DISTRUSTED : SIM_DISK_DAMAGED);
    }
    if (n->appended[id] > last) {
        sim_reached(s, SIM_DISK_LOST_UNSYNCED);
    }
    if (durable.untrusted) {
        shard_clear(sh, (struct otr_position){0});
    } else if (state.last.index != last || state.base.index != sh->base.index) {
        sim_fail(s, "journal: node %d shard %u: it says %" PRIu64 "..%" PRIu64 ", its records %" PRIu64 "..%" PRIu64,
                 n->id, id, state.base.index, state.last.index, sh->base.index, last);
    }
    sh->meta = state.meta;
    sh->durable_index = durable.untrusted ? 0 : state.last.index;
    sh->truly_durable = sh->flush_covers = state.last.index;
    sh->untrusted_log = durable.untrusted ? state.meta.log_id : 0;
    durable.meta = (struct replica_meta){.log_id = state.meta.log_id,
                                         .promised = state.meta.promised,
                                         .seen_generation = state.meta.seen_generation,
                                         .seen_epoch = state.meta.seen_epoch,
                                         .seen_version = state.meta.seen_version,
                                         .grant_ms_max = state.meta.grant_ms_max};
    durable.fresh_log_id = node_log_id(n);
    durable.base = state.base;
    durable.last = state.last;
    durable.committed_index = durable.untrusted ? 0 : state.meta.committed_index;
    fill_config(s, n, id, &config);
    if (replica_new(&sh->replica, &config, &durable) != 0) {
        abort();
    }
    sim_trace(s,
              "node %d shard %u: replica with log %" PRIu64 " ends at %" PRIu64 ".%" PRIu64 ", committed %" PRIu64 "%s",
              n->id, id, state.meta.log_id, state.last.epoch, state.last.index, durable.committed_index,
              durable.untrusted ? ", untrusted" : "");
    if (!durable.untrusted) {
        if (restore_log(sh) != 0) {
            sim_fail(s, "journal: node %d shard %u: the core refuses what the journal recovered", n->id, id);
        }
        check_recovered(sh);
        shard_apply_to(sh, durable.committed_index);
    }
    coord_brief(sh);
    net_brief(s, sh);
    handoff_brief(sh);
    if (journal_failed(n->journal)) {
        shard_step(sh, &(struct replica_event){.type = REPLICA_EV_LOG_FAILED});
    }
    return sh;
}

/* --- a process's life --------------------------------------------------------------------------------------------- */

static void tick_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = &s->nodes[e->node];

    sim_after(s, NODE_TICK_US + sim_below(s, SIM_MS), n->id, tick_fire);
    for (uint32_t i = 0; i < s->shards_count && n->alive; i++) {
        if (n->shards[i] != NULL) {
            shard_step(n->shards[i], &(struct replica_event){.type = REPLICA_EV_TICK});
        }
    }
}

struct made {
    otr_shard ids[SIM_SHARDS_MAX];
    size_t count;
};

static void made_cb(otr_shard shard, void *data)
{
    struct made *m = data;

    m->ids[m->count++] = shard;
}

static void close_all(struct sim *s, struct sim_node *n, uint64_t calls);

static void start_again_fire(struct sim *s, struct sim_event *e)
{
    if (!s->nodes[e->a].alive) {
        node_start(s, &s->nodes[e->a]);
    }
}

/* The program ends with an error, and is started again by whoever looks after it. */
static void start_failed(struct sim *s, struct sim_node *n, int status, const struct otr_errmsg *msg)
{
    n->journal = NULL;
    n->alive = false;
    sim_trace(s, "node %d cannot start: %s: %s", n->id, otr_strerror(status), msg->text);
    if (status != OTR_IO && status != OTR_NOSPACE) {
        sim_fail(s, "journal: node %d cannot start: %s: %s", n->id, otr_strerror(status), msg->text);
    }
    sim_reached(s, SIM_START_FAILED);
    close_all(s, n, 0);
    fake_disk_crash_as(n->disk, FAKE_DISK_KEEP_ALL, &s->rng);
    sim_after(s, sim_between(s, 20 * SIM_MS, 500 * SIM_MS), 0, start_again_fire)->a = (uint64_t)n->id;
}

/* Name and size of the newest segment; 0: there is none. */
static uint64_t last_segment(const struct sim_node *n, char name[16])
{
    uint64_t bytes = 0;
    char next[16];

    for (uint32_t i = 1;; i++) {
        snprintf(next, sizeof next, "%08u.log", i);
        if (!fake_disk_exists(n->disk, next)) {
            return bytes;
        }
        memcpy(name, next, sizeof next);
        bytes = fake_disk_size(n->disk, next);
    }
}

void node_start(struct sim *s, struct sim_node *n)
{
    struct recovery r = {.sim = s, .node = n};
    struct journal_config config = {.segment_bytes = sim_between(s, 4, 64) << 10,
                                    .tail_bytes = sim_between(s, 1, 64) << 10,
                                    .identity = "sim/node"};
    struct otr_errmsg msg = {0};
    struct made made = {0};
    uint64_t last_bytes;
    char last_name[16];
    int rv;

    if (n->id == s->absent) {
        return; /* not yet */
    }
    n->alive = true;
    n->host_down = false;
    n->starting = false;
    n->stopping = false;
    n->incarnation = ++s->incarnations;
    n->started_us = s->now_us;
    n->paused_until_us = 0;
    n->process_start_ms = node_now_ms(s, n);
    n->distrusted = fake_disk_exists(n->disk, "FAILED");
    n->revision = 0;
    n->regressed = false;
    n->flipped = false;
    n->space_waited = false;
    n->safe_bytes = 0;
    n->flush_not_before_us = 0;
    n->fs = sim_disk_new(n->disk);
    config.fs = sim_disk_fs(n->fs);
    last_bytes = last_segment(n, last_name);
    rv = journal_open(&n->journal, &config, recover_visit, &r, &msg);
    if (rv != 0) {
        start_failed(s, n, rv, &msg);
        return;
    }
    if (last_bytes > 0 && (!fake_disk_exists(n->disk, last_name) || fake_disk_size(n->disk, last_name) < last_bytes)) {
        sim_reached(s, SIM_DISK_TORN);
    }
    if (fake_disk_exists(n->disk, "00000002.log")) {
        sim_reached(s, SIM_DISK_SEGMENTS);
    }
    sim_trace(s, "node %d starts as incarnation %" PRIu64, n->id, n->incarnation);
    journal_shards(n->journal, made_cb, &made);
    for (uint32_t i = 0; i < s->shards_count; i++) {
        bool known = false;

        for (size_t k = 0; k < made.count; k++) {
            known = known || made.ids[k] == i;
        }
        if (known) {
            (void)node_shard_make(s, n, i);
        } else if (n->shards[i] != NULL) {
            shard_free(n->shards[i]); /* records without a replica: nothing that counts */
            n->shards[i] = NULL;
        }
    }
    sim_after(s, sim_below(s, NODE_TICK_US), n->id, tick_fire);
    coord_node_started(s, n);
    net_process_started(s, n->id);
    strike_started(s, n);
}

static void ignore_durable(void *data, otr_shard shard, uint64_t durable_index, uint64_t metas_durable)
{
    (void)data;
    (void)shard;
    (void)durable_index;
    (void)metas_durable;
}

/* Closes everything as if the power went after `calls` more changes to the disk. */
static void close_all(struct sim *s, struct sim_node *n, uint64_t calls)
{
    sim_disk_power_cut(n->fs, calls);
    if (n->batch != NULL) {
        journal_flush_run(n->batch);
        (void)journal_flush_end(n->journal, n->batch, ignore_durable, NULL, NULL);
        n->batch = NULL;
    }
    sim_disk_power_cut(n->fs, 0);
    for (uint32_t i = 0; i < SIM_SHARDS_MAX; i++) {
        if (n->shards[i] != NULL) {
            shard_free(n->shards[i]);
            n->shards[i] = NULL;
        }
    }
    if (n->journal != NULL) {
        journal_close(n->journal);
        n->journal = NULL;
    }
    sim_disk_free(n->fs);
    n->fs = NULL;
    while (n->waiting != NULL) {
        struct sim_event *e = n->waiting;

        n->waiting = e->next;
        sim_event_free(s, e);
    }
    n->waiting_tail = &n->waiting;
}

void node_crash(struct sim *s, struct sim_node *n, bool power)
{
    sim_trace(s, "node %d %s", n->id, power ? "loses power" : "is killed");
    s->counts.crashes++;
    n->alive = false;
    n->host_down = power && sim_chance(s, 50);
    for (uint32_t i = 0; i < SIM_SHARDS_MAX; i++) {
        n->appended[i] = n->shards[i] == NULL ? 0 : n->shards[i]->base.index + n->shards[i]->entries_count;
    }
    /* Often a batch is written and not synced: the next process finds it in the page cache. */
    close_all(s, n, sim_chance(s, 50) ? sim_below(s, 6) : sim_chance(s, 50) ? 1 : 0);
    if (power) {
        fake_disk_crash(n->disk, &s->rng);
    } else {
        fake_disk_crash_as(n->disk, FAKE_DISK_KEEP_ALL, &s->rng);
    }
    net_process_died(s, n->id);
}

void node_wipe(struct sim *s, struct sim_node *n)
{
    sim_trace(s, "node %d: the disk is emptied", n->id);
    fake_disk_free(n->disk);
    n->disk = fake_disk_new();
    n->disk_full = false;
    memset(n->appended, 0, sizeof n->appended);
}

void node_free(struct sim *s, struct sim_node *n)
{
    if (n->fs != NULL) {
        close_all(s, n, 0);
    }
    fake_disk_free(n->disk);
}

/* --- flushing ----------------------------------------------------------------------------------------------------- */

struct durable_report {
    size_t count;
    struct {
        otr_shard shard;
        uint64_t durable_index, metas_durable;
    } lines[SIM_SHARDS_MAX];
};

static void note_durable(void *data, otr_shard shard, uint64_t durable_index, uint64_t metas_durable)
{
    struct durable_report *r = data;

    r->lines[r->count].shard = shard;
    r->lines[r->count].durable_index = durable_index;
    r->lines[r->count].metas_durable = metas_durable;
    r->count++;
}

static void again_fire(struct sim *s, struct sim_event *e)
{
    if (!s->nodes[e->a].alive) {
        node_start(s, &s->nodes[e->a]);
    }
}

static void die_fire(struct sim *s, struct sim_event *e)
{
    node_crash(s, &s->nodes[e->node], false);
    sim_after(s, sim_between(s, 20 * SIM_MS, 500 * SIM_MS), 0, again_fire)->a = (uint64_t)e->node;
}

static void flush_failed(struct sim *s, struct sim_node *n)
{
    sim_trace(s, "node %d: the disk fails", n->id);
    for (uint32_t i = 0; i < s->shards_count && n->alive; i++) {
        if (n->shards[i] != NULL) {
            shard_step(n->shards[i], &(struct replica_event){.type = REPLICA_EV_LOG_FAILED});
        }
    }
    sim_after(s, sim_below(s, 300 * SIM_MS), n->id, die_fire); /* E4: only a new start helps */
}

static void flush_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = &s->nodes[e->node];
    struct durable_report report = {0};
    struct journal_batch *batch = n->batch;
    uint64_t before_bytes;
    char segment[16] = "";
    int rv;

    if (n->sync_fails) {
        n->sync_fails = false;
        fake_disk_fail_call(n->disk, FAKE_DISK_SYNC, 1);
        strike_sync_failed(s, n);
    }
    before_bytes = last_segment(n, segment);
    n->batch = NULL;
    journal_flush_run(batch);
    rv = journal_flush_end(n->journal, batch, note_durable, &report, NULL);
    if (rv == OTR_NOSPACE) {
        check_flush_waits(n);
        if (!n->space_waited) {
            sim_trace(s, "node %d: the disk is full", n->id);
        }
        sim_reached(s, SIM_DISK_FULL_WAITS);
        n->flush_not_before_us = s->now_us + 50 * SIM_MS;
        if (!n->space_waited) {
            n->space_waited = true;
            handoff_brief_all(s, n);
        }
        return;
    }
    if (rv != 0) {
        flush_failed(s, n);
        return;
    }
    n->safe_segment = (uint32_t)strtoul(segment, NULL, 10);
    n->safe_bytes = before_bytes;
    check_flush_end(n);
    if (n->space_waited) {
        n->space_waited = false;
        sim_reached(s, SIM_DISK_FULL_GOES_ON);
        handoff_brief_all(s, n);
    }
    for (size_t i = 0; i < report.count && n->alive; i++) {
        if (n->shards[report.lines[i].shard] != NULL) {
            shard_durable(n->shards[report.lines[i].shard], report.lines[i].durable_index,
                          report.lines[i].metas_durable);
        }
    }
}

void node_turn_end(struct sim *s, struct sim_node *n)
{
    uint64_t delay_us = sim_between(s, s->sync_us / 2, s->sync_us * 3 / 2);

    if (n->batch != NULL || n->journal == NULL || journal_failed(n->journal) || s->now_us < n->flush_not_before_us) {
        return;
    }
    n->batch = journal_flush_begin(n->journal);
    if (n->batch == NULL) {
        return;
    }
    check_flush_begin(n);
    if (faults_rate(s, FAULT_SLOW_SYNC, 1000)) {
        faults_hit(s, FAULT_SLOW_SYNC, n->id);
        delay_us += sim_between(s, 0, 800 * SIM_MS);
    }
    sim_after(s, delay_us, n->id, flush_fire);
}
