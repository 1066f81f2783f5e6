/* Feeder: one shard's committed entries into the engine, in index order, in batches (DESIGN 5: the engine is a view of
 * the log).
 *
 *   WAITING --(engine up, its data known)--> FEEDING   entries applied + 1 .. stored, one engine call at a time
 *      ^  ^---(another data_id)------------> REPLAYING all live points of the store, then FEEDING from there
 *      '-- engine gone, or it refused: again after a pause
 *
 * All engine writes are idempotent, so after any doubt the call is repeated. A collection unknown to the topology is
 * asked of the coordinator before its entries are skipped: the watch may lag behind a peer's. */
#include "sidecar/node/node_internal.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"
#include "sidecar/node/feeder.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    FEEDER_READ_BYTES = 2 << 20,
    FEEDER_REPLAY_POINTS = OTR_ENGINE_BATCH,
    FEEDER_PAUSE_MS = 200,
    FEEDER_COLLECTIONS_MAX = 1024,
};

struct feeder_read {
    struct node_work work;
    struct feeder *feeder; /* NULL: it was freed or reset meanwhile */
    struct journal_reader *reader;
    int status;
    size_t points; /* of a replay batch; 0: entries */
};

struct feeder {
    struct shard *s;
    uint64_t applied;
    char data_id[OTR_ENGINE_ID_MAX];
    struct otr_engine_req req;
    bool calling;
    uint64_t called_ns;
    bool free_when_done;
    struct feeder_read *reading;
    uint64_t pause_until_ms;
    uint64_t behind_since_ms; /* `applied` stood still below the store since then; 0: not behind */

    /* entries being fed: `offset` is the next record's, `it` walks the present one */
    struct journal_bytes chunk;
    size_t offset;
    bool in_record;
    struct record_header h;
    struct body_iter it;
    uint64_t done_index; /* applied becomes this when the call under way succeeds */
    bool carried_valid;  /* a point that did not fit into the last batch */
    struct otr_point carried;

    /* replay */
    bool replaying;
    struct store_snapshot *snapshot;
    size_t snapshot_next, snapshot_sent;
    uint64_t snapshot_index;
    struct journal_reader *replay_reader;
    size_t replay_points, replay_at;

    uint64_t *made; /* collections that exist in the engine as far as we know */
    size_t made_count, made_capacity;
    uint64_t making;
    uint64_t asked_collections; /* number of the collections' full read we wait for; 0: none */
    uint64_t deleted[16];       /* a ring: what such reads did not show, and never will */
    size_t deleted_count;
    struct otr_point batch[OTR_ENGINE_BATCH];
};

static void advance(struct feeder *f);

/* --- small things
 * ----------------------------------------------------------------------------------------------------- */

void feeder_collection_name(char *out, size_t bytes, const char *collection, otr_shard shard)
{
    snprintf(out, bytes, "%s__%u", collection, shard);
}

uint64_t feeder_applied(const struct feeder *f)
{
    return f->replaying ? 0 : f->applied;
}

const char *feeder_data_id(const struct feeder *f)
{
    return f->data_id;
}

uint64_t feeder_behind_ms(const struct feeder *f, uint64_t now_ms)
{
    return f->behind_since_ms == 0 || feeder_applied(f) >= f->s->stored ? 0 : now_ms - f->behind_since_ms;
}

bool feeder_current(const struct feeder *f)
{
    const struct otr_engine_status *e = &f->s->node->engine_status;

    return e->up && !f->replaying && strcmp(e->data_id, f->data_id) == 0;
}

static bool is_made(const struct feeder *f, uint64_t id)
{
    for (size_t i = 0; i < f->made_count; i++) {
        if (f->made[i] == id) {
            return true;
        }
    }
    return false;
}

static void set_made(struct feeder *f, uint64_t id)
{
    if (f->made_count == f->made_capacity) {
        size_t capacity = f->made_capacity == 0 ? 8 : f->made_capacity * 2;
        uint64_t *grown = realloc(f->made, capacity * sizeof *grown);
        if (grown == NULL) {
            return; /* it is made once more: harmless */
        }
        f->made = grown;
        f->made_capacity = capacity;
    }
    f->made[f->made_count++] = id;
}

static void unset_made(struct feeder *f, uint64_t id)
{
    for (size_t i = 0; i < f->made_count; i++) {
        if (f->made[i] == id) {
            f->made[i] = f->made[--f->made_count];
            return;
        }
    }
}

static void forget_chunk(struct feeder *f)
{
    free(f->chunk.data);
    f->chunk = (struct journal_bytes){0};
    f->offset = 0;
    f->in_record = false;
    f->carried_valid = false;
}

static void forget_replay(struct feeder *f)
{
    store_snapshot_free(f->snapshot);
    f->snapshot = NULL;
    if (f->replay_reader != NULL) {
        journal_reader_free(f->replay_reader);
        f->replay_reader = NULL;
    }
    f->replaying = false;
    f->carried_valid = false;
}

static void moved(struct feeder *f)
{
    uint64_t now = clock_now_ms();

    f->behind_since_ms = feeder_applied(f) < f->s->stored ? now : 0;
    write_answer(f->s, now);
    read_wait_check(f->s, now);
}

/* --- engine calls
 * ----------------------------------------------------------------------------------------------------- */

static void pause_feeding(struct feeder *f, const char *what, int status, const struct otr_errmsg *msg)
{
    f->pause_until_ms = clock_now_ms() + FEEDER_PAUSE_MS;
    LOG_LIMITED(status == OTR_INVALID || status == OTR_EXISTS ? LOG_ERROR : LOG_WARN, f->s->subject,
                "engine: %s: %s; trying again after %d ms", what,
                msg != NULL && msg->text[0] != '\0' ? msg->text : otr_strerror(status), FEEDER_PAUSE_MS);
}

/* After any failure what was read is dropped and read again: `applied` says from where. */
static void read_again(struct feeder *f)
{
    forget_chunk(f);
    f->snapshot_next = f->snapshot_sent;
    f->replay_points = 0;
}

static bool call_ended(struct feeder *f, const char *what, int status, const struct otr_errmsg *msg)
{
    struct node_metrics *m = &f->s->node->metrics.node;

    f->calling = false;
    if (f->free_when_done) {
        feeder_free(f);
        return false;
    }
    metrics_observe_since_ns(&m->engine_write_seconds, f->called_ns);
    if (f->s->node->closing) {
        return false;
    }
    if (status != 0) {
        m->engine_errors_total++;
        read_again(f);
        pause_feeding(f, what, status, msg);
        return false;
    }
    return true;
}

static void on_written(struct otr_engine_req *req, int status, const struct otr_errmsg *msg)
{
    struct feeder *f = req->data;

    if (status == OTR_NOTFOUND) {
        f->made_count = 0; /* somebody dropped it behind our back */
    }
    if (!call_ended(f, "write", status, msg)) {
        return;
    }
    if (f->replaying) {
        f->snapshot_sent = f->snapshot_next - (f->replay_points - f->replay_at);
    } else if (f->done_index > f->applied) {
        f->applied = f->done_index;
        moved(f);
    }
    advance(f);
}

static void drop_name(struct feeder *f, const char *collection);

static void on_made(struct otr_engine_req *req, int status, const struct otr_errmsg *msg)
{
    struct feeder *f = req->data;
    const char *name = collections_name(f->s->node, f->making);

    if (status == OTR_EXISTS && name != NULL && !f->free_when_done && !f->s->node->closing) {
        /* A deleted collection of the same name, with another dimension or metric, was left in the engine. */
        f->calling = false;
        drop_name(f, name);
        return;
    }
    if (call_ended(f, "make a collection", status, msg)) {
        set_made(f, f->making);
        advance(f);
    }
}

static void started(struct feeder *f, int rv)
{
    if (rv == 0) {
        f->calling = true;
        f->called_ns = clock_now_ns();
    } else {
        read_again(f);
        pause_feeding(f, "call", rv, NULL);
    }
}

static void make_collection(struct feeder *f, const struct topology_collection *c)
{
    struct node *n = f->s->node;
    char name[OTR_ENGINE_COLLECTION_MAX];

    feeder_collection_name(name, sizeof name, c->name, f->s->id);
    f->making = c->id;
    started(f, n->engine_ops->collection_make(n->engine, &f->req, name, c->dimension, c->metric,
                                              c->options[0] != '\0' ? c->options : NULL, on_made));
}

static void drop_name(struct feeder *f, const char *collection)
{
    struct node *n = f->s->node;
    char name[OTR_ENGINE_COLLECTION_MAX];

    feeder_collection_name(name, sizeof name, collection, f->s->id);
    started(f, n->engine_ops->collection_drop(n->engine, &f->req, name, on_written));
}

static void call_drop(struct feeder *f, uint64_t collection)
{
    const char *name = collections_name(f->s->node, collection);
    const struct topology_collection *now;

    unset_made(f, collection);
    if (name == NULL) {
        return; /* nobody knows any more what it was called; what is left in the engine never passes verification */
    }
    now = topology_collection(f->s->node->topology, name);
    if (now != NULL && now->id != collection && is_made(f, now->id)) {
        return; /* the name is another collection's by now, and its points are already there */
    }
    drop_name(f, name);
}

static void call_write(struct feeder *f, uint64_t collection, bool put, size_t count)
{
    struct node *n = f->s->node;
    const struct topology_collection *c = topology_collection_by_id(n->topology, collection);
    char name[OTR_ENGINE_COLLECTION_MAX];

    assert(c != NULL && count > 0);
    feeder_collection_name(name, sizeof name, c->name, f->s->id);
    started(f, put ? n->engine_ops->upsert(n->engine, &f->req, name, f->batch, count, on_written)
                   : n->engine_ops->erase(n->engine, &f->req, name, f->batch, count, on_written));
}

static bool is_deleted(const struct feeder *f, uint64_t id)
{
    size_t ring = sizeof f->deleted / sizeof f->deleted[0];

    for (size_t i = 0; i < ring && i < f->deleted_count; i++) {
        if (f->deleted[i] == id) {
            return true;
        }
    }
    return false;
}

/* What to do with points of a collection now. */
enum verdict { FEED = 1, SKIP, LATER };

static enum verdict judge(struct feeder *f, uint64_t collection)
{
    struct node *n = f->s->node;
    const struct topology_collection *c = topology_collection_by_id(n->topology, collection);

    if (c == NULL) {
        if (is_deleted(f, collection)) {
            return SKIP;
        }
        if (f->asked_collections == 0) {
            f->asked_collections = collections_ask(n);
        }
        if (!collections_answered(n, f->asked_collections)) {
            return LATER;
        }
        f->asked_collections = 0;
        f->deleted[f->deleted_count++ % (sizeof f->deleted / sizeof f->deleted[0])] = collection;
        return SKIP; /* its DROP entry follows */
    }
    f->asked_collections = 0;
    if (!is_made(f, collection)) {
        make_collection(f, c);
        return LATER;
    }
    return FEED;
}

/* --- entries
 * ---------------------------------------------------------------------------------------------------------- */

static void read_run(struct node_work *w)
{
    struct feeder_read *r = (struct feeder_read *)w;

    r->status = journal_reader_run(r->reader, NULL);
}

static void read_done(struct node_work *w)
{
    struct feeder_read *r = (struct feeder_read *)w;
    struct feeder *f = r->feeder;

    if (f == NULL) {
        journal_reader_free(r->reader);
        free(r);
        return;
    }
    f->reading = NULL;
    if (r->status != 0) {
        journal_reader_free(r->reader);
        read_again(f);
        pause_feeding(f, "read the journal", r->status, NULL);
    } else if (r->points > 0) {
        f->replay_reader = r->reader;
        f->replay_points = r->points;
        f->replay_at = 0;
        advance(f);
    } else {
        const struct journal_bytes *got = journal_reader_result(r->reader);
        forget_chunk(f);
        f->chunk.data = malloc(got->bytes);
        if (f->chunk.data != NULL) {
            memcpy(f->chunk.data, got->data, got->bytes);
            f->chunk.bytes = got->bytes;
            f->chunk.last = got->last;
        }
        journal_reader_free(r->reader);
        advance(f);
    }
    free(r);
}

static void read_start(struct feeder *f, struct journal_reader *reader, size_t points)
{
    struct feeder_read *r = calloc(1, sizeof *r);

    if (r == NULL) {
        journal_reader_free(reader);
        read_again(f);
        pause_feeding(f, "read the journal", OTR_NOMEM, NULL);
        return;
    }
    r->feeder = f;
    r->reader = reader;
    r->points = points;
    f->reading = r;
    node_work_start(f->s->node, &r->work, read_run, read_done);
}

/* The next entries into `chunk`; false when they are being read or there are none. */
static bool fetch(struct feeder *f)
{
    struct shard *s = f->s;
    struct journal_reader *reader;
    int rv;

    if (f->applied >= s->stored) {
        return false;
    }
    forget_chunk(f);
    rv = journal_read(s->node->journal, s->id, f->applied + 1, s->stored, FEEDER_READ_BYTES, &f->chunk);
    if (rv == 0) {
        return true;
    }
    f->chunk = (struct journal_bytes){0};
    if (rv == OTR_GONE) {
        feeder_reset(f); /* the log no longer holds them: all live points instead */
        return false;
    }
    reader = rv == OTR_UNAVAIL ? journal_reader_new(s->node->journal) : NULL;
    if (reader == NULL) {
        pause_feeding(f, "read the journal", rv, NULL);
        return false;
    }
    rv = journal_reader_entries(reader, s->id, f->applied + 1, s->stored, FEEDER_READ_BYTES);
    if (rv != 0) {
        journal_reader_free(reader);
        pause_feeding(f, "read the journal", rv, NULL);
        return false;
    }
    read_start(f, reader, 0);
    return false;
}

/* Opens the record at `offset`; false at the chunk's end. */
static bool open_record(struct feeder *f)
{
    while (!f->in_record) {
        const uint8_t *record = f->chunk.data + f->offset;
        if (f->offset >= f->chunk.bytes) {
            return false;
        }
        if (record_read(record, f->chunk.bytes - f->offset, &f->h) != 0) {
            node_fatal(f->s->node, "shard %u: entry after %llu is damaged", f->s->id,
                       (unsigned long long)f->done_index);
            return false;
        }
        if (f->h.kind == RECORD_EPOCH) {
            f->done_index = f->h.index;
            f->offset += record_bytes(f->h.body_bytes);
            continue;
        }
        if (body_iter_init(&f->it, f->h.kind, record + RECORD_HEADER_BYTES, f->h.body_bytes) != 0) {
            node_fatal(f->s->node, "shard %u: entry %llu has a damaged body", f->s->id, (unsigned long long)f->h.index);
            return false;
        }
        f->in_record = true;
    }
    return true;
}

static void close_record(struct feeder *f)
{
    f->in_record = false;
    f->carried_valid = false;
    f->done_index = f->h.index;
    f->offset += record_bytes(f->h.body_bytes);
}

static bool in_batch(const struct feeder *f, size_t count, const struct otr_point *p)
{
    for (size_t i = 0; i < count; i++) {
        if (f->batch[i].id_bytes == p->id_bytes && memcmp(f->batch[i].id, p->id, p->id_bytes) == 0) {
            return true;
        }
    }
    return false;
}

/* Fills the batch with points of one kind and collection, across entries, no id twice. `done_index` ends at the last
 * entry that is wholly in it. */
static size_t gather(struct feeder *f, uint16_t kind, uint64_t collection)
{
    size_t count = 0;
    size_t bytes = 0;

    while (count < OTR_ENGINE_BATCH && bytes < OTR_ENGINE_BATCH_BYTES && open_record(f) && f->h.kind == kind &&
           f->it.collection == collection) {
        struct otr_point p;
        int rv = 0;

        if (f->carried_valid) {
            p = f->carried;
            f->carried_valid = false;
        } else {
            rv = body_next(&f->it, &p);
        }
        if (rv != 0) {
            close_record(f);
            continue;
        }
        if (in_batch(f, count, &p)) {
            f->carried = p;
            f->carried_valid = true;
            break;
        }
        bytes += (size_t)p.dimension * sizeof(float) + p.id_bytes + p.metadata_bytes;
        f->batch[count++] = p;
    }
    /* An entry whose points are all taken is done, even when the batch is full. */
    if (f->in_record && !f->carried_valid && f->it.left == 0) {
        close_record(f);
    }
    return count;
}

static void feed_entries(struct feeder *f)
{
    f->done_index = f->applied;
    while (!f->calling && f->pause_until_ms == 0) {
        enum verdict v;

        if (!open_record(f)) {
            if (f->done_index > f->applied) {
                f->applied = f->done_index;
                moved(f);
            }
            forget_chunk(f);
            if (!fetch(f)) {
                return;
            }
            f->done_index = f->applied;
            continue;
        }
        if (f->h.kind == RECORD_DROP) {
            uint64_t collection = f->it.collection;
            close_record(f);
            call_drop(f, collection);
            continue;
        }
        v = judge(f, f->it.collection);
        if (v == LATER) {
            return;
        }
        if (v == SKIP) {
            close_record(f);
            continue;
        }
        {
            uint64_t collection = f->it.collection;
            uint16_t kind = f->h.kind;
            size_t count = gather(f, kind, collection);
            if (count > 0) {
                call_write(f, collection, kind == RECORD_PUT, count);
            }
        }
    }
}

/* --- replay
 * ----------------------------------------------------------------------------------------------------------- */

static void replay_start(struct feeder *f)
{
    struct shard *s = f->s;

    forget_chunk(f);
    forget_replay(f);
    f->made_count = 0;
    snprintf(f->data_id, sizeof f->data_id, "%s", s->node->engine_status.data_id);
    f->applied = 0;
    f->snapshot = store_snapshot_by_place(s->store, 0);
    if (f->snapshot == NULL) {
        f->data_id[0] = '\0';
        pause_feeding(f, "replay", OTR_NOMEM, NULL);
        return;
    }
    f->replaying = true;
    f->snapshot_next = 0;
    f->snapshot_sent = 0;
    f->replay_points = 0;
    f->snapshot_index = s->stored;
    if (f->snapshot->count > 0) {
        log_info(s->subject, "engine has other data than before (id %s): replaying %zu points", f->data_id,
                 f->snapshot->count);
    }
}

static void replay_fetch(struct feeder *f)
{
    struct journal_reader *reader = journal_reader_new(f->s->node->journal);
    size_t i = f->snapshot_next;
    size_t points = 0;

    if (f->replay_reader != NULL) {
        journal_reader_free(f->replay_reader);
        f->replay_reader = NULL;
    }
    while (reader != NULL && i < f->snapshot->count && points < FEEDER_REPLAY_POINTS &&
           f->snapshot->collections[i] == f->snapshot->collections[f->snapshot_next]) {
        if (journal_reader_point(reader, f->snapshot->slots[i].place, 0) < 0) {
            break;
        }
        i++;
        points++;
    }
    if (points == 0) {
        if (reader != NULL) {
            journal_reader_free(reader);
        }
        pause_feeding(f, "replay", OTR_NOMEM, NULL);
        return;
    }
    f->snapshot_next = i;
    read_start(f, reader, points);
}

static void replay_feed(struct feeder *f)
{
    uint64_t collection = f->snapshot->collections[f->snapshot_next - f->replay_points];
    enum verdict v = judge(f, collection);
    size_t count = 0;

    if (v == LATER) {
        return;
    }
    while (f->replay_at < f->replay_points && count < OTR_ENGINE_BATCH && v == FEED) {
        int rv = journal_reader_point_result(f->replay_reader, (int)f->replay_at, &f->batch[count]);
        if (rv != 0) {
            node_fatal(f->s->node, "shard %u: a live point is damaged in the journal", f->s->id);
            return;
        }
        f->replay_at++;
        count++;
    }
    if (v == SKIP) {
        f->replay_at = f->replay_points;
    }
    if (count > 0) {
        call_write(f, collection, true, count);
    } else {
        f->snapshot_sent = f->snapshot_next;
    }
}

static void feed_replay(struct feeder *f)
{
    while (f->replaying && !f->calling && f->reading == NULL && f->pause_until_ms == 0) {
        if (f->replay_points > 0 && f->replay_at < f->replay_points) {
            size_t at = f->replay_at;
            replay_feed(f);
            if (!f->calling && f->replay_at == at) {
                return; /* waits for a collection */
            }
            continue;
        }
        if (f->snapshot_next < f->snapshot->count) {
            replay_fetch(f);
            continue;
        }
        f->applied = f->snapshot_index;
        if (f->snapshot->count > 0) {
            log_info(f->s->subject, "engine: replayed %zu points, up to entry %llu", f->snapshot->count,
                     (unsigned long long)f->applied);
        }
        forget_replay(f);
        moved(f);
    }
}

/* --- the way in
 * ------------------------------------------------------------------------------------------------------- */

static void advance(struct feeder *f)
{
    struct node *n = f->s->node;

    if (f->calling || f->reading != NULL || !n->engine_status.up || n->closing || n->dying || f->s->seed_in != NULL ||
        !topology_config(n->topology)->known) {
        return;
    }
    if (f->pause_until_ms != 0) {
        if (clock_now_ms() < f->pause_until_ms) {
            return;
        }
        f->pause_until_ms = 0;
    }
    if (strcmp(f->data_id, n->engine_status.data_id) != 0) {
        replay_start(f);
    }
    if (f->replaying) {
        feed_replay(f);
    }
    if (!f->replaying && !f->calling && f->reading == NULL && f->pause_until_ms == 0) {
        feed_entries(f);
    }
}

void feeder_kick(struct feeder *f)
{
    if (f == NULL) {
        return;
    }
    if (f->behind_since_ms == 0 && feeder_applied(f) < f->s->stored) {
        f->behind_since_ms = clock_now_ms();
    }
    advance(f);
}

void feeder_engine(struct feeder *f)
{
    f->made_count = 0; /* made again on the next write: cheap, and right after any restart */
    advance(f);
}

void feeder_reset(struct feeder *f)
{
    f->data_id[0] = '\0';
    f->applied = 0;
    f->done_index = 0; /* a call under way is for nothing */
    forget_chunk(f);
    if (!f->calling) {
        forget_replay(f);
    }
    if (f->reading != NULL) {
        f->reading->feeder = NULL;
        f->reading = NULL;
    }
}

struct feeder *feeder_new(struct shard *s, uint64_t applied, const char *engine_data_id)
{
    struct feeder *f = calloc(1, sizeof *f);

    if (f == NULL) {
        return NULL;
    }
    f->s = s;
    f->req.data = f;
    f->applied = applied <= s->stored ? applied : s->stored;
    snprintf(f->data_id, sizeof f->data_id, "%s", engine_data_id);
    return f;
}

void feeder_free(struct feeder *f)
{
    if (f->calling) {
        f->free_when_done = true;
        return;
    }
    forget_chunk(f);
    forget_replay(f);
    if (f->reading != NULL) {
        f->reading->feeder = NULL;
    }
    free(f->made);
    free(f);
}
