/* Feeder: one shard's committed entries into the engine, in index order, in batches (DESIGN 5: the engine is a view of
 * the log).
 *
 *   WAITING --(engine up, its data known)--> FEEDING   entries applied + 1 .. stored, one engine call at a time
 *      ^  ^---(another data_id)------------> REPLAYING everything from the log (feeder_replay.c), then FEEDING
 *      |  ^---(it refused an entry)--------> REPLAYING, after a pause
 *      '-- engine gone: again after a pause
 *
 * All engine writes are idempotent, so after any doubt the call is repeated. A collection unknown to the topology is
 * asked of the coordinator before its entries are skipped: the watch may lag behind a peer's. */
#include "sidecar/node/feeder_internal.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"

#include <stdio.h>
#include <stdlib.h>

enum { FEEDER_READ_BYTES = 2 << 20 };

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
    return feeder_applied(f) >= f->s->stored ? 0 : lag_clock_age(&f->s->lag, now_ms, feeder_applied(f));
}

bool feeder_current(const struct feeder *f)
{
    const struct otr_engine_status *e = &f->s->node->engine_status;

    return e->up && !f->replaying && strcmp(e->data_id, f->data_id) == 0;
}

void feeder_forget_chunk(struct feeder *f)
{
    free(f->chunk.data);
    f->chunk = (struct journal_bytes){0};
    f->offset = 0;
    f->in_record = false;
    f->carried_valid = false;
}

void feeder_moved(struct feeder *f)
{
    uint64_t now = clock_now_ms();

    write_answer(f->s, now);
    read_wait_check(f->s, now);
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
        feeder_read_again(f);
        feeder_pause(f, "read the journal", r->status, NULL);
        if (damage_is(f->s, r->status)) {
            damage_met(f->s, r->log_id, "entries for the engine do not read as they were written");
        }
    } else if (r->points > 0) {
        f->replay_reader = r->reader;
        f->replay_points = r->points;
        f->replay_log_id = r->log_id;
        f->replay_at = 0;
        feeder_advance(f);
    } else {
        const struct journal_bytes *got = journal_reader_result(r->reader);
        feeder_forget_chunk(f);
        f->chunk.data = malloc(got->bytes);
        if (f->chunk.data != NULL) {
            memcpy(f->chunk.data, got->data, got->bytes);
            f->chunk.bytes = got->bytes;
            f->chunk.last = got->last;
        }
        journal_reader_free(r->reader);
        feeder_advance(f);
    }
    free(r);
}

void feeder_read_start(struct feeder *f, struct journal_reader *reader, size_t points)
{
    struct feeder_read *r = calloc(1, sizeof *r);

    if (r == NULL) {
        journal_reader_free(reader);
        feeder_read_again(f);
        feeder_pause(f, "read the journal", OTR_NOMEM, NULL);
        return;
    }
    r->feeder = f;
    r->reader = reader;
    r->log_id = f->s->meta.log_id;
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
    feeder_forget_chunk(f);
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
        feeder_pause(f, "read the journal", rv, NULL);
        return false;
    }
    rv = journal_reader_entries(reader, s->id, f->applied + 1, s->stored, FEEDER_READ_BYTES);
    if (rv != 0) {
        journal_reader_free(reader);
        feeder_pause(f, "read the journal", rv, NULL);
        return false;
    }
    feeder_read_start(f, reader, 0);
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
                feeder_moved(f);
            }
            feeder_forget_chunk(f);
            if (!fetch(f)) {
                return;
            }
            f->done_index = f->applied;
            continue;
        }
        if (f->h.kind == RECORD_DROP) {
            uint64_t collection = f->it.collection;
            close_record(f);
            feeder_drop(f, collection);
            continue;
        }
        v = feeder_judge(f, f->it.collection);
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
                feeder_write(f, collection, kind == RECORD_PUT, count);
            }
        }
    }
}

/* --- the way in
 * ------------------------------------------------------------------------------------------------------- */

void feeder_advance(struct feeder *f)
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
        feeder_replay_start(f);
    }
    if (f->replaying) {
        feeder_replay(f);
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
    feeder_advance(f);
}

void feeder_engine(struct feeder *f)
{
    f->made_count = 0; /* made again on the next write: cheap, and right after any restart */
    feeder_advance(f);
}

void feeder_reset(struct feeder *f)
{
    f->data_id[0] = '\0';
    f->applied = 0;
    f->done_index = 0; /* a call under way is for nothing */
    feeder_forget_chunk(f);
    if (!f->calling) {
        feeder_replay_forget(f);
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
    feeder_forget_chunk(f);
    feeder_replay_forget(f);
    if (f->reading != NULL) {
        f->reading->feeder = NULL;
    }
    free(f->made);
    free(f);
}
