/* Appending: see journal.c. Every append first makes all the room it needs and only then changes anything. */
#include "sidecar/log/journal_internal.h"

#include <assert.h>
#include <stdlib.h>

/* --- batches ------------------------------------------------------------------------------------------------------ */

void journal_batch_free(struct journal_batch *b)
{
    if (b == NULL) {
        return;
    }
    if (b->segment != NULL) { /* Never became one of the journal's. */
        b->segment->file = b->file;
        journal_segment_release(b->segment);
    }
    free(b->pieces);
    free(b->shards);
    free(b);
}

static int batch_reserve(struct journal_batch *b)
{
    if (b->pieces_count == b->pieces_capacity) {
        struct batch_piece *grown = realloc(b->pieces, (b->pieces_capacity * 2 + 2) * sizeof *grown);
        if (grown == NULL) {
            return OTR_NOMEM;
        }
        b->pieces = grown;
        b->pieces_capacity = b->pieces_capacity * 2 + 2;
    }
    if (b->shards_count == b->shards_capacity) {
        struct batch_shard *grown = realloc(b->shards, (b->shards_capacity * 2 + 2) * sizeof *grown);
        if (grown == NULL) {
            return OTR_NOMEM;
        }
        b->shards = grown;
        b->shards_capacity = b->shards_capacity * 2 + 2;
    }
    return 0;
}

/* The bytes at `data`, reserved in the tail before, are now part of the open batch. */
static void batch_commit(struct journal *j, struct journal_batch *b, uint8_t *data, size_t bytes)
{
    struct batch_piece *last = b->pieces_count == 0 ? NULL : &b->pieces[b->pieces_count - 1];

    tail_commit(&j->tail, bytes);
    if (last != NULL && last->data + last->bytes == data) {
        last->bytes += bytes;
    } else {
        assert(b->pieces != NULL && b->pieces_count < b->pieces_capacity);
        b->pieces[b->pieces_count++] = (struct batch_piece){.data = data, .bytes = bytes};
    }
    b->bytes += bytes;
    j->end_offset += bytes;
    j->pending_bytes += bytes;
}

static bool needs_cut_in_head(const struct journal_shard *s)
{
    return s->damaged && !s->log.seed_unfinished;
}

static void meta_record_write(uint8_t *out, const struct journal_shard *s)
{
    struct record_header h = {.kind = RECORD_META, .shard = s->id, .body_bytes = META_BODY_BYTES};

    meta_write(out + RECORD_HEADER_BYTES, &s->meta, s->damaged);
    record_seal(out, &h);
}

static void cut_record_write(uint8_t *out, const struct journal_shard *s, uint64_t index)
{
    struct record_header h = {.kind = RECORD_CUT, .shard = s->id, .index = index};

    record_seal(out, &h);
}

/* The first bytes of a segment: SEGMENT, room for BATCH, then what journal.c says about every shard. */
static void segment_start_write(struct journal *j, struct journal_batch *b, const struct segment_head *head,
                                uint8_t *out)
{
    uint8_t *at = out + segment_head_bytes(head);

    segment_head_write(out, head);
    b->head = at;
    at += BATCH_BYTES;
    for (size_t i = 0; i < OTR_SHARDS_MAX; i++) {
        const struct journal_shard *s = j->shards[i];
        if (s == NULL) {
            continue;
        }
        meta_record_write(at, s);
        at += META_BYTES;
        b->shards_mask |= 1ULL << s->id % 64;
        if (needs_cut_in_head(s)) {
            cut_record_write(at, s, shard_log_last(&s->log).index + 1);
            at += RECORD_HEADER_BYTES;
        }
    }
}

static size_t segment_start_bytes(const struct journal *j, const struct segment_head *head)
{
    size_t bytes = segment_head_bytes(head) + BATCH_BYTES;

    for (size_t i = 0; i < OTR_SHARDS_MAX; i++) {
        if (j->shards[i] != NULL) {
            bytes += META_BYTES + (needs_cut_in_head(j->shards[i]) ? (size_t)RECORD_HEADER_BYTES : 0);
        }
    }
    return bytes;
}

/* A batch that begins the segment behind the last one. */
static int batch_open_segment(struct journal *j, struct journal_batch *b)
{
    struct segment_head head = {
        .number = j->end_segment + 1,
        .journal_id = j->id,
        .previous_bytes = j->end_offset,
        .damages = j->damages,
        .damages_count = j->damages_count,
        .identity = j->identity,
        .identity_bytes = (uint32_t)strlen(j->identity),
    };
    size_t bytes = segment_start_bytes(j, &head);
    uint8_t *out;

    if (head.number > SEGMENT_NUMBER_MAX) {
        return OTR_NOSPACE;
    }
    b->segment = journal_segment_new(j, head.number);
    if (b->segment == NULL || journal_segments_reserve(j) != 0) {
        return OTR_NOMEM;
    }
    b->segment->previous_bytes = head.previous_bytes;
    out = tail_reserve(&j->tail, head.number, 0, bytes);
    if (out == NULL) {
        return OTR_NOMEM;
    }
    segment_start_write(j, b, &head, out);
    b->begins_segment = true;
    b->segment_number = head.number;
    b->offset = 0;
    b->head_offset = (uint64_t)(b->head - out);
    j->begin_segment = false;
    j->end_segment = head.number;
    j->end_offset = 0;
    batch_commit(j, b, out, bytes);
    return 0;
}

static int batch_open_here(struct journal *j, struct journal_batch *b)
{
    b->head = tail_reserve(&j->tail, j->end_segment, j->end_offset, BATCH_BYTES);
    if (b->head == NULL) {
        return OTR_NOMEM;
    }
    b->segment_number = j->end_segment;
    b->offset = j->end_offset;
    b->head_offset = j->end_offset;
    batch_commit(j, b, b->head, BATCH_BYTES);
    return 0;
}

int journal_batch_open(struct journal *j)
{
    struct journal_batch *b;
    int rv;

    if (j->open != NULL) {
        return 0;
    }
    b = calloc(1, sizeof *b);
    if (b == NULL) {
        return OTR_NOMEM;
    }
    b->fs = j->fs;
    rv = batch_reserve(b);
    if (rv != 0) {
        goto err;
    }
    if (j->end_segment == 0 || j->begin_segment || j->end_offset >= j->segment_bytes) {
        rv = batch_open_segment(j, b);
    } else {
        rv = batch_open_here(j, b);
    }
    if (rv != 0) {
        goto err;
    }
    b->number = ++j->batch_number;
    j->open = b;
    return 0;

err:
    journal_batch_free(b);
    return rv;
}

/* --- records ------------------------------------------------------------------------------------------------------ */

/* Room for `bytes` of shard s in the open batch. `bounded`: refuse when too much is pending already. */
static int reserve(struct journal *j, size_t bytes, bool bounded, uint8_t **out)
{
    size_t bytes_max = j->no_space ? PENDING_BYTES_MAX_NO_SPACE : PENDING_BYTES_MAX;
    int rv;

    if (j->failed) {
        return OTR_IO;
    }
    if (bounded && j->pending_bytes > 0 && (bytes > bytes_max || j->pending_bytes > bytes_max - bytes)) {
        return j->no_space ? OTR_NOSPACE : OTR_BUSY;
    }
    rv = journal_batch_open(j);
    if (rv != 0) {
        return rv;
    }
    rv = batch_reserve(j->open);
    if (rv != 0) {
        return rv;
    }
    *out = tail_reserve(&j->tail, j->end_segment, j->end_offset, bytes);
    return *out == NULL ? OTR_NOMEM : 0;
}

static journal_place end_place(const struct journal *j)
{
    return place_make(j->end_segment, j->end_offset);
}

/* What was written at `out` is appended, for shard s. Returns the shard's line in the open batch. */
static struct batch_shard *commit(struct journal *j, struct journal_shard *s, uint8_t *out, size_t bytes)
{
    struct journal_batch *b = j->open;

    batch_commit(j, b, out, bytes);
    b->worth_writing = true;
    b->shards_mask |= 1ULL << s->id % 64;
    if (s->slot_batch != b->number) {
        assert(b->shards_count < b->shards_capacity);
        s->slot_batch = b->number;
        s->slot = b->shards_count++;
        b->shards[s->slot] = (struct batch_shard){.shard = s};
    }
    return &b->shards[s->slot];
}

/* The shard's entries from `index` on are gone: no batch that is under way may make them durable any more. */
static void durable_limit(struct journal *j, struct journal_shard *s, uint64_t index)
{
    struct journal_batch *batches[] = {j->flushing, j->open};

    for (size_t n = 0; n < 2; n++) {
        for (size_t i = 0; batches[n] != NULL && i < batches[n]->shards_count; i++) {
            struct batch_shard *line = &batches[n]->shards[i];
            if (line->shard == s && line->index_last >= index) {
                line->index_last = index - 1;
            }
        }
    }
    if (s->durable_index >= index) {
        s->durable_index = index - 1;
    }
}

/* A local record with this header (its kind, index and epoch) and body. */
static int append_local(struct journal *j, struct journal_shard *s, struct record_header *h, const uint8_t *body,
                        struct batch_shard **line)
{
    size_t bytes = record_bytes(h->body_bytes);
    bool bounded = h->kind == RECORD_SEED_POINTS; /* The others are small and must get through. */
    uint8_t *out;
    int rv;

    h->shard = s->id;
    rv = reserve(j, bytes, bounded, &out);
    if (rv != 0) {
        return rv;
    }
    if (h->body_bytes > 0) {
        memcpy(out + RECORD_HEADER_BYTES, body, h->body_bytes);
    }
    record_seal(out, h);
    *line = commit(j, s, out, bytes);
    return 0;
}

int journal_append(struct journal *j, struct record_header *h, const uint8_t *body, journal_place *place)
{
    struct journal_shard *s = journal_shard_make(j, h->shard);
    size_t bytes = record_bytes(h->body_bytes);
    uint8_t *out;
    int rv;

    assert(h->kind < RECORD_LOCAL_FIRST && h->body_bytes <= OTR_BODY_MAX);
    if (s == NULL) {
        return OTR_NOMEM;
    }
    assert(shard_log_follows(&s->log, (struct otr_position){h->epoch, h->index}));
    rv = shard_log_reserve(&s->log, 1, 1);
    if (rv != 0) {
        return rv;
    }
    rv = reserve(j, bytes, h->kind != RECORD_EPOCH, &out); /* small, and a new primary cannot do without */
    if (rv != 0) {
        return rv;
    }
    if (place != NULL) {
        *place = end_place(j);
    }
    shard_log_add(&s->log, (struct otr_position){h->epoch, h->index}, end_place(j));
    if (h->body_bytes > 0) {
        memcpy(out + RECORD_HEADER_BYTES, body, h->body_bytes);
    }
    record_seal(out, h);
    commit(j, s, out, bytes)->index_last = h->index;
    return 0;
}

/* Counts the records and the epochs they begin; OTR_CORRUPT unless they are whole entries of the shard that follow each
 * other and its log. */
static int raw_check(const struct journal_shard *s, const uint8_t *records, size_t bytes, size_t *count, size_t *epochs)
{
    struct otr_position last = shard_log_last(&s->log);
    struct record_header h;

    *count = 0;
    *epochs = 1; /* The first one may begin an epoch of a log that has none. */
    if (s->log.seed_unfinished) {
        return OTR_CORRUPT;
    }
    for (size_t at = 0; at < bytes; at += record_bytes(h.body_bytes)) {
        if (bytes - at < RECORD_HEADER_BYTES || record_header_read(records + at, &h) != 0 ||
            bytes - at < record_bytes(h.body_bytes) || h.kind >= RECORD_LOCAL_FIRST || h.shard != s->id ||
            h.index != last.index + 1 || h.epoch < last.epoch || h.epoch == 0) {
            return OTR_CORRUPT;
        }
        *epochs += h.epoch != last.epoch;
        last = (struct otr_position){h.epoch, h.index};
        *count += 1;
    }
    return 0;
}

int journal_append_raw(struct journal *j, otr_shard shard, const uint8_t *records, size_t bytes)
{
    struct journal_shard *s = journal_shard_make(j, shard);
    struct record_header h = {0};
    size_t epochs;
    size_t count;
    uint8_t *out;
    int rv;

    if (s == NULL) {
        return OTR_NOMEM;
    }
    rv = raw_check(s, records, bytes, &count, &epochs);
    if (rv != 0 || count == 0) {
        return rv;
    }
    rv = shard_log_reserve(&s->log, count, epochs);
    if (rv != 0) {
        return rv;
    }
    rv = reserve(j, bytes, true, &out);
    if (rv != 0) {
        return rv;
    }
    memcpy(out, records, bytes);
    for (size_t at = 0; at < bytes; at += record_bytes(h.body_bytes)) {
        rv = record_header_read(out + at, &h);
        assert(rv == 0);
        shard_log_add(&s->log, (struct otr_position){h.epoch, h.index}, place_make(j->end_segment, j->end_offset + at));
    }
    commit(j, s, out, bytes)->index_last = h.index;
    return 0;
}

int journal_cut(struct journal *j, otr_shard shard, uint64_t index)
{
    struct journal_shard *s = journal_shard_get(j, shard);
    struct record_header h = {.kind = RECORD_CUT, .index = index};
    struct batch_shard *line;
    int rv;

    if (s == NULL || index > shard_log_last(&s->log).index) {
        return 0; /* Nothing to cut. */
    }
    assert(index > s->log.base.index);
    rv = append_local(j, s, &h, NULL, &line);
    if (rv != 0) {
        return rv;
    }
    shard_log_cut(&s->log, index);
    durable_limit(j, s, index);
    return 0;
}

int journal_meta_write(struct journal *j, otr_shard shard, const struct journal_meta *meta)
{
    struct journal_shard *s = journal_shard_make(j, shard);
    struct record_header h = {.kind = RECORD_META, .body_bytes = META_BODY_BYTES};
    uint8_t body[META_BODY_BYTES];
    struct batch_shard *line;
    bool damaged;
    int rv;

    if (s == NULL) {
        return OTR_NOMEM;
    }
    damaged = s->damaged && meta->log_id == s->meta.log_id; /* A new log id promises nothing about what was lost. */
    meta_write(body, meta, damaged);
    rv = append_local(j, s, &h, body, &line);
    if (rv != 0) {
        return rv;
    }
    s->meta = *meta;
    s->damaged = damaged;
    s->metas_written++;
    line->metas++;
    return 0;
}

int journal_seed_begin(struct journal *j, otr_shard shard, const struct journal_meta *meta)
{
    struct journal_shard *s = journal_shard_make(j, shard);
    struct record_header h = {.kind = RECORD_SEED_BEGIN, .body_bytes = META_BODY_BYTES};
    uint8_t body[META_BODY_BYTES];
    struct batch_shard *line;
    int rv;

    if (s == NULL) {
        return OTR_NOMEM;
    }
    meta_write(body, meta, false);
    rv = append_local(j, s, &h, body, &line);
    if (rv != 0) {
        return rv;
    }
    s->since = place_make(j->end_segment, j->end_offset - record_bytes(h.body_bytes));
    shard_log_seed_begin(&s->log);
    durable_limit(j, s, 1);
    s->meta = *meta;
    s->damaged = false;
    s->metas_written++;
    line->metas++;
    return 0;
}

int journal_seed_points(struct journal *j, otr_shard shard, const uint8_t *put_body, size_t bytes, journal_place *place)
{
    struct journal_shard *s = journal_shard_get(j, shard);
    struct record_header h = {.kind = RECORD_SEED_POINTS, .body_bytes = (uint32_t)bytes};
    struct batch_shard *line;
    int rv;

    assert(s != NULL && s->log.seed_unfinished && bytes <= OTR_BODY_MAX);
    rv = append_local(j, s, &h, put_body, &line);
    if (rv == 0 && place != NULL) {
        *place = place_make(j->end_segment, j->end_offset - record_bytes(bytes));
    }
    return rv;
}

int journal_seed_end(struct journal *j, otr_shard shard, struct otr_position base, const uint8_t *request_ids,
                     size_t bytes)
{
    struct journal_shard *s = journal_shard_get(j, shard);
    struct record_header h = {
        .kind = RECORD_SEED_END, .epoch = base.epoch, .index = base.index, .body_bytes = (uint32_t)bytes};
    struct batch_shard *line;
    int rv;

    assert(s != NULL && s->log.seed_unfinished && bytes <= OTR_BODY_MAX);
    rv = append_local(j, s, &h, request_ids, &line);
    if (rv != 0) {
        return rv;
    }
    shard_log_seed_end(&s->log, base);
    line->index_last = base.index;
    s->metas_written++; /* So that the end of a seed of an empty log, too, can be seen to be durable. */
    line->metas++;
    return 0;
}

int journal_repair_points(struct journal *j, otr_shard shard, uint64_t index, uint32_t range, bool more,
                          const uint8_t *put_body, size_t bytes, journal_place *place)
{
    struct journal_shard *s = journal_shard_get(j, shard);
    struct record_header h = {
        .kind = RECORD_REPAIR_POINTS, .body_bytes = (uint32_t)bytes, .index = index, .epoch = range, .time_ms = more};
    struct batch_shard *line;
    int rv;

    assert(s != NULL && !s->log.seed_unfinished && bytes <= OTR_BODY_MAX);
    rv = append_local(j, s, &h, put_body, &line);
    if (rv == 0) {
        *place = place_make(j->end_segment, j->end_offset - record_bytes(bytes));
    }
    return rv;
}
