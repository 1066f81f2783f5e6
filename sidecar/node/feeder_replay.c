/* Replay: everything that the shard's store holds, into the engine, when what the engine has is worthless: it lost its
 * data, the store was replaced, the log no longer holds the entries that the engine lacks, or the engine refused one.
 *
 *   note durably that nothing is applied -> drop every collection of the shard -> the store's live points as of now, by
 * place, in batches -> entries from there
 *
 * Without the note a process that dies after the drops would start again believing that the engine holds what it held.
 * The drops come first because whatever the engine still has may be points that are long deleted, which nobody would
 * erase any more. */
#include "sidecar/node/feeder_internal.h"

#include "sidecar/io/clock.h"
#include "sidecar/io/log.h"

#include <stdio.h>
#include <stdlib.h>

enum { REPLAY_POINTS = OTR_ENGINE_BATCH };

void feeder_replay_forget(struct feeder *f)
{
    store_snapshot_free(f->snapshot);
    f->snapshot = NULL;
    journal_pin_free(f->pin);
    f->pin = NULL;
    free(f->clear);
    f->clear = NULL;
    f->clear_count = 0;
    if (f->replay_reader != NULL) {
        journal_reader_free(f->replay_reader);
        f->replay_reader = NULL;
    }
    f->replaying = false;
    f->carried_valid = false;
}

static void clear_add(struct feeder *f, const char *name)
{
    for (size_t i = 0; i < f->clear_count; i++) {
        if (strcmp(f->clear[i], name) == 0) {
            return;
        }
    }
    snprintf(f->clear[f->clear_count++], sizeof f->clear[0], "%s", name);
}

struct gathering {
    struct feeder *f;
    size_t count;
};

static void count_collection(uint64_t collection, uint64_t count, void *data)
{
    (void)collection, (void)count;
    ((struct gathering *)data)->count++;
}

static void add_collection(uint64_t collection, uint64_t count, void *data)
{
    struct feeder *f = ((struct gathering *)data)->f;
    const char *name = collections_name(f->s->node, collection);

    (void)count;
    if (name != NULL) {
        clear_add(f, name);
    }
}

/* Every collection that this shard's part of the engine may hold: those that exist, and those whose deletion the store
 * has not heard of yet. */
static int clear_gather(struct feeder *f)
{
    const struct topology *t = f->s->node->topology;
    struct gathering g = {.f = f};

    store_collections(f->s->store, count_collection, &g);
    f->clear = calloc(topology_collections_count(t) + g.count + 1, sizeof f->clear[0]);
    f->clear_count = 0;
    f->clear_next = 0;
    if (f->clear == NULL) {
        return OTR_NOMEM;
    }
    for (uint32_t i = 0; i < topology_collections_count(t); i++) {
        clear_add(f, topology_collection_at(t, i)->name);
    }
    store_collections(f->s->store, add_collection, &g);
    return 0;
}

void feeder_replay_start(struct feeder *f)
{
    struct shard *s = f->s;

    feeder_forget_chunk(f);
    feeder_replay_forget(f);
    f->made_count = 0;
    snprintf(f->data_id, sizeof f->data_id, "%s", s->node->engine_status.data_id);
    f->applied = 0;
    f->snapshot = store_snapshot_by_place(s->store, 0);
    f->pin = journal_pin_new(s->node->journal);
    if (f->snapshot == NULL || f->pin == NULL || clear_gather(f) != 0) {
        feeder_replay_forget(f);
        f->data_id[0] = '\0';
        feeder_pause(f, "replay", OTR_NOMEM, NULL);
        return;
    }
    f->replaying = true;
    f->snapshot_next = 0;
    f->snapshot_sent = 0;
    f->replay_points = 0;
    f->snapshot_index = s->stored;
    shard_note_progress(s, clock_now_ms(), true);
    f->clear_after = journal_metas_written(s->node->journal, s->id);
    if (f->snapshot->count > 0) {
        log_info(s->subject, "replaying %zu points into the engine's data %s", f->snapshot->count, f->data_id);
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
    while (reader != NULL && i < f->snapshot->count && points < REPLAY_POINTS &&
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
        feeder_pause(f, "replay", OTR_NOMEM, NULL);
        return;
    }
    f->snapshot_next = i;
    feeder_read_start(f, reader, points);
}

static void replay_feed(struct feeder *f)
{
    uint64_t collection = f->snapshot->collections[f->snapshot_next - f->replay_points];
    enum verdict v = feeder_judge(f, collection);
    size_t count = 0;

    if (v == LATER) {
        return;
    }
    while (f->replay_at < f->replay_points && count < OTR_ENGINE_BATCH && v == FEED) {
        int rv = journal_reader_point_result(f->replay_reader, (int)f->replay_at, &f->batch[count]);
        if (rv != 0) {
            feeder_read_again(f);
            feeder_pause(f, "read the journal", rv, NULL);
            damage_met(f->s, f->replay_log_id, "a point for the engine does not read as it was written");
            return;
        }
        f->replay_at++;
        count++;
    }
    if (v == SKIP) {
        f->replay_at = f->replay_points;
    }
    if (count > 0) {
        feeder_write(f, collection, true, count);
    } else {
        f->snapshot_sent = f->snapshot_next;
    }
}

void feeder_replay(struct feeder *f)
{
    while (f->replaying && !f->calling && f->reading == NULL && f->pause_until_ms == 0) {
        if (f->s->metas_durable < f->clear_after) {
            return; /* the next tick looks again */
        }
        if (f->clear_next < f->clear_count) {
            feeder_drop_name(f, f->clear[f->clear_next]);
            continue;
        }
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
        feeder_replay_forget(f);
        feeder_moved(f);
    }
}

void feeder_replay_written(struct feeder *f)
{
    f->snapshot_sent = f->snapshot_next - (f->replay_points - f->replay_at);
}

void feeder_replay_dropped(struct feeder *f)
{
    if (f->clear_next < f->clear_count) {
        f->clear_next++;
    }
}
