/* Recovery of a node from its data directory.
 *
 * One pass over the journal collects the request ids of all entries and rebuilds what seeds and compaction left. Then
 * the entries known to be committed are applied in a second pass: which ones these are is known only at the end, and an
 * entry above may yet be cut, so it must not be in the store (invariant 5). Entries that stand in front of a compacted
 * part of the journal are known to be committed when that is reached, and applied before it is. */
#include "sidecar/node/recover.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"
#include "sidecar/io/random.h"
#include "sidecar/node/seed.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

enum { LOCK_WAIT_MS = 2000, LOCK_POLL_NS = 20000000 };

struct recovery {
    struct node *node;
    int status;
};

static struct shard *shard_of(struct recovery *r, otr_shard id)
{
    struct node *n = r->node;
    struct shard *s = n->shards[id];

    if (s != NULL) {
        return s;
    }
    s = calloc(1, sizeof *s);
    if (s == NULL || (s->store = store_new()) == NULL) {
        free(s);
        r->status = OTR_NOMEM;
        return NULL;
    }
    s->node = n;
    s->id = id;
    s->pending_tail = &s->pending_head;
    s->pending_uncommitted = &s->pending_head;
    snprintf(s->subject, sizeof s->subject, "shard=%u", id);
    n->shards[id] = s;
    if (id >= n->shards_top) {
        n->shards_top = id + 1;
    }
    return s;
}

static void add_id(struct recovery *r, struct shard *s, const struct recovered_id *id)
{
    if (otr_request_id_is_none(&id->entry.request_id)) {
        return;
    }
    if (s->recovered_count == s->recovered_capacity) {
        size_t capacity = s->recovered_capacity == 0 ? 256 : s->recovered_capacity * 2;
        struct recovered_id *grown = realloc(s->recovered, capacity * sizeof *grown);
        if (grown == NULL) {
            r->status = OTR_NOMEM;
            return;
        }
        s->recovered = grown;
        s->recovered_capacity = capacity;
    }
    s->recovered[s->recovered_count++] = *id;
}

static void visit_ids(struct recovery *r, struct shard *s, const struct record_header *h, const uint8_t *body)
{
    for (size_t at = 0; at + sizeof(struct seed_request_id) <= h->body_bytes; at += sizeof(struct seed_request_id)) {
        struct seed_request_id id;
        memcpy(&id, body + at, sizeof id);
        add_id(r, s,
               &(struct recovered_id){
                   .entry = {.position = {id.epoch, id.index}, .time_ms = id.time_ms, .request_id = id.id},
                   .outcome = id.outcome,
                   .has_outcome = true,
               });
    }
}

/* Points and deletions that compaction kept. */
static int visit_kept(struct shard *s, const struct record_header *h, const uint8_t *body, journal_place place)
{
    struct record_header as = *h;

    if (h->kind == RECORD_KEPT_POINTS) {
        return store_apply_seed(s->store, body, h->body_bytes, place, apply_same_id, s);
    }
    as.kind = h->kind == RECORD_KEPT_DROP ? RECORD_DROP : RECORD_DELETE;
    return store_apply(s->store, &as, body, place, apply_same_id, s, NULL);
}

/* An entry that leaves the log, and was committed therefore. */
static void settled(void *data, const struct record_header *h, const uint8_t *body, journal_place place)
{
    struct recovery *r = data;
    struct shard *s = r->status == 0 ? shard_of(r, h->shard) : NULL;
    uint32_t outcome = 0;

    if (s == NULL || h->index <= s->stored) {
        return;
    }
    assert(h->index == s->stored + 1);
    r->status = store_apply(s->store, h, body, place, apply_same_id, s, &outcome);
    s->stored = h->index;
    recover_outcome(s, h->index, outcome);
    r->status = r->status != 0 ? r->status : digest_applied(s);
}

static void visit(void *data, const struct record_header *h, const uint8_t *body, journal_place place)
{
    struct recovery *r = data;
    struct shard *s = r->status == 0 ? shard_of(r, h->shard) : NULL;

    if (s == NULL) {
        return;
    }
    switch (h->kind) {
    case RECORD_SEED_BEGIN:
        digest_forget(s);
        store_clear(s->store);
        s->stored = 0;
        s->recovered_count = 0;
        break;
    case RECORD_SEED_POINTS:
        r->status = store_apply_seed(s->store, body, h->body_bytes, place, apply_same_id, s);
        break;
    case RECORD_REPAIR_POINTS:
        r->status = digest_take_part(s, h->index, (uint32_t)h->epoch, h->time_ms != 0, body, h->body_bytes, place);
        break;
    case RECORD_SEED_END:
        visit_ids(r, s, h, body);
        s->stored = h->index;
        break;
    case RECORD_KEPT_POINTS:
    case RECORD_KEPT_DELETES:
    case RECORD_KEPT_DROP:
        r->status = visit_kept(s, h, body, place);
        break;
    case RECORD_KEPT_IDS:
        visit_ids(r, s, h, body);
        break;
    case RECORD_KEPT_HEAD:
        s->stored = h->index;
        break;
    case RECORD_CUT:
        while (s->recovered_count > 0 && s->recovered[s->recovered_count - 1].entry.position.index >= h->index) {
            s->recovered_count--;
        }
        break;
    default:
        add_id(r, s,
               &(struct recovered_id){
                   .entry = {.position = {h->epoch, h->index}, .time_ms = h->time_ms, .request_id = h->request_id}});
        break;
    }
}

void recover_outcome(struct shard *s, uint64_t index, uint32_t outcome)
{
    size_t low = 0;
    size_t high = s->recovered_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->recovered[middle].entry.position.index < index) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low < s->recovered_count && s->recovered[low].entry.position.index == index) {
        s->recovered[low].outcome = outcome;
        s->recovered[low].has_outcome = true;
    }
}

int recover_requests(struct shard *s)
{
    int rv = 0;

    for (size_t i = 0; i < s->recovered_count && rv == 0; i++) {
        const struct recovered_id *id = &s->recovered[i];
        rv = replica_restore_request(s->replica, &id->entry, id->outcome, id->has_outcome);
    }
    free(s->recovered);
    s->recovered = NULL;
    s->recovered_count = s->recovered_capacity = 0;
    return rv;
}

static int make_dir(const char *path, struct otr_errmsg *msg)
{
    struct stat st;

    if (mkdir(path, 0750) != 0 && errno != EEXIST) {
        otr_errmsg_set(msg, "cannot make the data directory %s: %s", path, strerror(errno));
        return errno == EACCES || errno == EROFS || errno == EPERM ? OTR_DENIED : OTR_IO;
    }
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        otr_errmsg_set(msg, "%s is not a directory", path);
        return OTR_INVALID;
    }
    return 0;
}

static int apply_committed(struct node *n, struct otr_errmsg *msg)
{
    int rv = 0;

    for (otr_shard i = 0; i < n->shards_top && rv == 0; i++) {
        struct shard *s = n->shards[i];
        struct journal_shard_state state;
        if (s == NULL) {
            continue;
        }
        (void)journal_shard(n->journal, i, &state);
        rv = digest_applied(s); /* repairs as of where a seed ended */
        if (rv != 0) {
            break;
        }
        if (!state.seed_unfinished && state.meta.committed_index > s->stored) {
            uint64_t last =
                state.last.index < state.meta.committed_index ? state.last.index : state.meta.committed_index;
            rv = apply_recover(s, last, msg);
        }
    }
    return rv;
}

/* A process that was killed holds its lock until its last thread is gone, which takes a moment while one of them waits
 * for the disk: whoever starts it again at once waits for that. */
static int take_lock(struct node *n, struct otr_errmsg *msg)
{
    const struct timespec pause = {.tv_nsec = LOCK_POLL_NS};
    uint64_t began = clock_now_ms();
    char path[sizeof n->data_dir + 8];
    bool told = false;
    int rv;

    snprintf(path, sizeof path, "%s/LOCK", n->data_dir);
    for (;;) {
        rv = file_posix_lock(path, &n->lock, msg);
        if (rv != OTR_INUSE || clock_now_ms() - began >= LOCK_WAIT_MS) {
            return rv;
        }
        if (!told) {
            log_info("", "%s; waiting a moment for its end", msg->text);
            told = true;
        }
        nanosleep(&pause, NULL);
    }
}

int recover_node(struct node *n, uint64_t segment_bytes, struct otr_errmsg *msg)
{
    struct recovery r = {.node = n};
    char identity[2 * OTR_NAME_MAX + 2];
    struct journal_config config = {.identity = identity, .segment_bytes = segment_bytes, .settled = settled};
    uint64_t began = clock_now_ms();
    int rv = make_dir(n->data_dir, msg);

    if (rv == 0) {
        rv = take_lock(n, msg);
    }
    if (rv == 0) {
        rv = file_posix_new(&n->fs, n->data_dir, msg);
    }
    if (rv != 0) {
        return rv;
    }
    snprintf(identity, sizeof identity, "%s/%s", n->cluster, n->name);
    config.fs = n->fs;
    config.journal_id = random_u64();
    rv = journal_open(&n->journal, &config, visit, &r, msg);
    if (rv == 0) {
        rv = r.status;
    }
    if (rv == 0) {
        rv = apply_committed(n, msg);
    }
    if (rv == 0 && n->shards_top > 0) {
        log_info("", "data directory %s recovered in %llu ms", n->data_dir,
                 (unsigned long long)(clock_now_ms() - began));
    }
    return rv;
}
