/* Compaction of the node's journal (sidecar/log/compactor.h): when its pieces of work run, what it may take out of the
 * log, and which request ids are to be remembered. */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"
#include "sidecar/log/compactor.h"
#include "sidecar/node/seed.h"

#include <stdlib.h>
#include <sys/statvfs.h>

enum { IDS_AT_ONCE = (1 << 20) / sizeof(struct seed_request_id) };

#define PRESSED_BYTES (256ULL << 20) /* less than one new file may take is free */

struct compaction {
    struct node_work work;
    struct compactor *compactor;
    bool working;
    bool halted_told;
    uint64_t looked_ms; /* at the free space */
    bool scarce;        /* there is little of it */
};

/* --- what the compactor asks -------------------------------------------------------------------------------------- */

static struct store *store_of(void *data, otr_shard shard)
{
    const struct node *n = data;

    return n->shards[shard] != NULL ? n->shards[shard]->store : NULL;
}

/* Committed means acknowledged by every member of the in-sync set (PROTOCOL A3); a primary looks at them all the same.
 */
static uint64_t keep(void *data, otr_shard shard)
{
    const struct node *n = data;
    const struct shard *s = n->shards[shard];
    struct replica_status status;
    uint64_t index;

    if (s == NULL) {
        return UINT64_MAX;
    }
    if (s->replica == NULL) {
        return 0; /* nobody knows yet what it is here for */
    }
    index = s->stored;
    if (s->role == REPLICA_PRIMARY || s->role == REPLICA_TAKEOVER) {
        replica_status(s->replica, clock_now_ms(), &status);
        for (uint32_t i = 0; i < status.peers_count; i++) {
            if (status.peers[i].counted && status.peers[i].acked_index < index) {
                index = status.peers[i].acked_index;
            }
        }
    }
    return index;
}

struct ids {
    struct seed_request_id *list;
    size_t count;
    uint64_t last;
};

static void add_id(const struct replica_entry *e, uint32_t outcome, void *data)
{
    struct ids *ids = data;
    struct seed_request_id id = {.epoch = e->position.epoch,
                                 .index = e->position.index,
                                 .time_ms = e->time_ms,
                                 .id = e->request_id,
                                 .outcome = outcome};

    ids->list[ids->count++] = id;
    ids->last = e->position.index;
}

static int ids_of(void *data, otr_shard shard, uint64_t *from, uint64_t to, uint8_t **bytes, size_t *count)
{
    const struct node *n = data;
    const struct shard *s = n->shards[shard];
    struct ids ids = {.list = NULL};

    *bytes = NULL;
    if (s != NULL && s->replica == NULL) {
        return OTR_BUSY;
    }
    if (s != NULL) {
        ids.list = malloc(IDS_AT_ONCE * sizeof *ids.list);
        if (ids.list == NULL) {
            return OTR_NOMEM;
        }
        replica_requests_between(s->replica, *from, to, IDS_AT_ONCE, add_id, &ids);
    }
    *from = ids.count == IDS_AT_ONCE ? ids.last : to;
    if (ids.count == 0) {
        free(ids.list);
        return 0;
    }
    *bytes = (uint8_t *)ids.list;
    *count = ids.count * sizeof(struct seed_request_id);
    return 0;
}

/* --- when --------------------------------------------------------------------------------------------------------- */

static void run(struct node_work *w)
{
    compactor_run(((struct compaction *)w)->compactor);
}

static void done(struct node_work *w)
{
    struct compaction *c = (struct compaction *)w;
    struct node *n = c->work.node;
    struct otr_errmsg msg = {0};

    c->working = false;
    if (compactor_ran(c->compactor, clock_now_ms(), &msg) != 0) {
        LOG_LIMITED(LOG_WARN, "", "compaction of the journal: %s", msg.text);
    }
    compaction_tick(n, clock_now_ms());
}

/* statvfs asks the kernel's memory, not the disk. */
static void look_at_space(struct node *n, struct compaction *c, uint64_t now_ms)
{
    struct statvfs space;
    bool low;

    if (now_ms - c->looked_ms < NODE_HEALTH_EVERY_MS && c->looked_ms != 0) {
        return;
    }
    c->looked_ms = now_ms;
    n->disk_free_bytes =
        statvfs(n->data_dir, &space) == 0 ? (uint64_t)space.f_bavail * (uint64_t)space.f_frsize : UINT64_MAX;
    c->scarce = n->disk_free_bytes < PRESSED_BYTES;
    low = n->disk_free_bytes < NODE_ROOM_BYTES;
    if (low != n->disk_low) {
        n->disk_low = low;
        handoff_brief_all(n);
    }
}

void compaction_tick(struct node *n, uint64_t now_ms)
{
    struct compaction *c = n->compaction;
    struct compactor_stats stats;

    if (n->closing || n->dying) {
        return;
    }
    look_at_space(n, c, now_ms);
    if (c->working) {
        return;
    }
    if (compactor_turn(c->compactor, now_ms, n->disk_full || c->scarce)) {
        c->working = true;
        node_work_start(n, &c->work, run, done);
        return;
    }
    compactor_stats(c->compactor, &stats);
    if (stats.halted && !c->halted_told) {
        c->halted_told = true;
        log_error("", "compaction of the journal has stopped: nothing is lost, but no disk space is given back before "
                      "this sidecar is started again");
    }
}

void compaction_metrics(struct node *n)
{
    struct node_metrics *m = &n->metrics.node;
    struct compactor_stats stats;

    compactor_stats(n->compaction->compactor, &stats);
    m->journal_compacted_segments_total = stats.segments_total;
    m->journal_compaction_read_bytes_total = stats.read_bytes_total;
    m->journal_compaction_copied_bytes_total = stats.copied_bytes_total;
    m->journal_compaction_failures_total = stats.failed_total;
    m->journal_compaction_seconds_total = stats.busy_ms_total;
    m->journal_old_live_bytes = stats.live_bytes;
    m->journal_old_dead_bytes = stats.dead_bytes;
}

int compaction_start(struct node *n, const struct node_compaction *config)
{
    struct compactor_config c = {
        .j = n->journal,
        .retain_bytes = config->retain_bytes,
        .retain_ms = config->retain_ms,
        .live_percent = config->live_percent != 0 ? config->live_percent : 50,
        .bytes_per_s = config->bytes_per_s,
        .bytes_max = config->segment_bytes,
        .reserve_bytes = NODE_RESERVE_BYTES,
        .store = store_of,
        .keep = keep,
        .ids = ids_of,
        .data = n,
    };

    n->compaction = calloc(1, sizeof *n->compaction);
    return n->compaction == NULL ? OTR_NOMEM : compactor_new(&n->compaction->compactor, &c);
}

void compaction_stop(struct node *n)
{
    if (n->compaction != NULL) {
        compactor_free(n->compaction->compactor);
        free(n->compaction);
        n->compaction = NULL;
    }
}
