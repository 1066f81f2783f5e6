/* Flushing: see journal.c. */
#include "sidecar/log/journal_internal.h"

#include <assert.h>

struct journal_batch *journal_flush_begin(struct journal *j)
{
    struct journal_batch *b = j->flushing;
    struct batch_head head;

    if (j->failed || j->flush_running) {
        return NULL;
    }
    if (b != NULL) { /* The disk was full: once more, unchanged. */
        j->flush_running = true;
        return b;
    }
    b = j->open;
    if (b == NULL || !b->worth_writing) {
        return NULL;
    }
    head = (struct batch_head){
        .journal_id = j->id,
        .number = b->number,
        .bytes = b->bytes - (b->head_offset - b->offset),
        .shards = b->shards_mask,
        .durable = place_make(j->durable_segment, j->durable_offset),
    };
    batch_head_write(b->head, &head, place_make(b->segment_number, b->head_offset));
    if (!b->begins_segment) {
        b->file = journal_segment_find(j, b->segment_number)->file;
    }
    j->open = NULL;
    j->flushing = b;
    j->flush_running = true;
    return b;
}

uint64_t journal_batch_bytes(const struct journal_batch *b)
{
    return b->bytes;
}

/* --- the flusher's thread ----------------------------------------------------------------------------------------- */

static int create_segment(struct journal_batch *b)
{
    char name[SEGMENT_NAME_BYTES];
    int rv;

    segment_name(name, b->segment_number);
    rv = b->fs->ops->open(b->fs, name, FILE_CREATE, &b->file, &b->msg);
    if (rv != 0) {
        b->file = NULL;
        otr_errmsg_wrap(&b->msg, "begin segment %s", name);
    }
    return rv;
}

static int write_pieces(struct journal_batch *b)
{
    uint64_t offset = b->offset;

    for (size_t i = 0; i < b->pieces_count; i++) {
        int rv = b->fs->ops->write(b->file, offset, b->pieces[i].data, b->pieces[i].bytes, &b->msg);
        if (rv != 0) {
            otr_errmsg_wrap(&b->msg, "write %zu bytes to segment %u at %llu", b->pieces[i].bytes, b->segment_number,
                            (unsigned long long)offset);
            return rv;
        }
        offset += b->pieces[i].bytes;
    }
    return 0;
}

/* Errors of a sync are OTR_IO whatever they were: even a full disk, found as late as this, has lost what was written.
 */
static int sync_batch(struct journal_batch *b)
{
    if (b->fs->ops->sync(b->file, &b->msg) != 0) {
        otr_errmsg_wrap(&b->msg, "sync segment %u", b->segment_number);
        return OTR_IO;
    }
    if (b->begins_segment && b->fs->ops->sync_dir(b->fs, &b->msg) != 0) {
        otr_errmsg_wrap(&b->msg, "sync the directory after beginning segment %u", b->segment_number);
        return OTR_IO;
    }
    return 0;
}

/* Leaves the marker that makes the next start distrust the journal. Best effort: the disk has just failed, and recovery
 * does not rely on it (it writes again whatever was not known to be durable). */
static void leave_failed_marker(struct file_system *fs)
{
    static const char text[] = "A write or sync of this journal failed. The next start draws new log ids.\n";
    struct file *f;

    if (fs->ops->open(fs, JOURNAL_FAILED_NAME, FILE_CREATE, &f, NULL) != 0) {
        return;
    }
    if (fs->ops->write(f, 0, text, sizeof text - 1, NULL) == 0) {
        (void)fs->ops->sync(f, NULL);
    }
    fs->ops->close(f);
    (void)fs->ops->sync_dir(fs, NULL);
}

void journal_flush_run(struct journal_batch *b)
{
    b->msg = (struct otr_errmsg){0};
    b->status = b->file == NULL ? create_segment(b) : 0;
    if (b->status == 0) {
        b->status = write_pieces(b);
        if (b->status == OTR_NOSPACE && b->fs->ops->truncate(b->file, b->offset, NULL) != 0) {
            b->status = OTR_IO; /* What was written stands in the way of trying again. */
        }
    }
    if (b->status == 0) {
        b->status = sync_batch(b);
    }
    if (b->status != 0 && b->status != OTR_NOSPACE) {
        b->status = b->status == OTR_NOMEM ? OTR_NOMEM : OTR_IO;
        leave_failed_marker(b->fs);
    }
}

/* --- back on the loop thread -------------------------------------------------------------------------------------- */

/* The batch is on disk. */
static void batch_durable(struct journal *j, struct journal_batch *b)
{
    struct segment *segment;

    if (b->begins_segment) {
        b->segment->file = b->file;
        journal_segments_add(j, b->segment);
        b->segment = NULL;
    }
    segment = j->segments.list[j->segments.count - 1];
    assert(segment->number == b->segment_number);
    segment->bytes = b->offset + b->bytes;
    segment->batch_number = b->number;
    j->no_space = false;
    j->pending_bytes -= b->bytes;
    j->durable_segment = b->segment_number;
    j->durable_offset = b->offset + b->bytes;
    for (size_t i = 0; i < b->shards_count; i++) {
        struct batch_shard *line = &b->shards[i];
        if (line->index_last > line->shard->durable_index) {
            line->shard->durable_index = line->index_last;
        }
        line->shard->metas_durable += line->metas;
    }
    tail_evict(&j->tail, j->durable_segment, j->durable_offset);
}

int journal_flush_end(struct journal *j, struct journal_batch *b, journal_durable_cb cb, void *data,
                      struct otr_errmsg *msg)
{
    int rv = b->status;

    assert(b == j->flushing && j->flush_running);
    j->flush_running = false;
    if (rv != 0) {
        otr_errmsg_set(msg, "%s", b->msg.text);
        if (rv == OTR_NOSPACE) {
            j->no_space = true;
            return rv;
        }
        j->failed = true;
        j->flushing = NULL;
        journal_batch_free(b);
        return rv;
    }
    j->flushing = NULL;
    batch_durable(j, b);
    for (size_t i = 0; i < b->shards_count && cb != NULL; i++) {
        const struct journal_shard *s = b->shards[i].shard;
        cb(data, s->id, s->durable_index, s->metas_durable);
    }
    journal_batch_free(b);
    return 0;
}

int journal_flush_now(struct journal *j, struct otr_errmsg *msg)
{
    struct journal_batch *b = journal_flush_begin(j);

    if (b == NULL) {
        return 0;
    }
    journal_flush_run(b);
    return journal_flush_end(j, b, NULL, NULL, msg);
}
