/* The part of compaction that reads and writes. Any thread, while nobody else touches the job: it works on files and
 * bytes, and knows of shards what the victims' runs and lines say. */
#include "sidecar/log/compactor_internal.h"

#include <assert.h>
#include <stdlib.h>

/* --- the shards of the job ---------------------------------------------------------------------------------------- */

struct compactor_shard *compactor_shard(struct compactor *c, otr_shard shard)
{
    size_t low = 0;
    size_t high = c->shards_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c->shards[middle].line.shard < shard) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low < c->shards_count && c->shards[low].line.shard == shard) {
        return &c->shards[low];
    }
    if (c->shards_count == c->shards_capacity) {
        struct compactor_shard *grown = realloc(c->shards, (c->shards_capacity * 2 + 8) * sizeof *grown);
        if (grown == NULL) {
            return NULL;
        }
        c->shards = grown;
        c->shards_capacity = c->shards_capacity * 2 + 8;
    }
    memmove(c->shards + low + 1, c->shards + low, (c->shards_count - low) * sizeof *c->shards);
    c->shards[low] = (struct compactor_shard){.line = {.shard = shard}};
    c->shards_count++;
    return &c->shards[low];
}

static void note_before(struct compactor_shard *s, uint64_t before)
{
    if (!s->seen || (s->line.cut_only && !s->entries && before < s->line.before)) {
        s->seen = true;
        s->line.before = before;
    }
}

static void note_after(struct compactor_shard *s, struct otr_position after)
{
    s->entries = true;
    s->line.after = after;
}

/* Nothing in front counts any more. */
static void note_reset(struct compactor_shard *s)
{
    s->seen = true;
    s->entries = false;
    s->line.reset = true;
    s->line.before = 0;
    s->line.after = (struct otr_position){0, 0};
    s->in_seed = true;
    s->tombs = false;
}

static bool is_valid(const struct segment *s, const struct record_header *h)
{
    for (size_t i = 0; i < s->runs_count; i++) {
        const struct segment_run *r = &s->runs[i];
        if (r->shard == h->shard && r->epoch == h->epoch && r->first <= h->index && h->index <= r->last) {
            return true;
        }
    }
    return false;
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

static struct compactor_item *item_make(struct compactor_piece *p, const uint8_t *bytes, size_t count)
{
    size_t padded = (count + 7) & ~(size_t)7;

    if (p->capacity - p->used < padded) {
        size_t capacity = p->used + padded > 2 * p->capacity ? p->used + padded : 2 * p->capacity;
        uint8_t *grown = realloc(p->bytes, capacity);
        if (grown == NULL) {
            return NULL;
        }
        p->bytes = grown;
        p->capacity = capacity;
    }
    if (p->count == p->items_capacity) {
        struct compactor_item *grown = realloc(p->items, (p->items_capacity * 2 + 64) * sizeof *grown);
        if (grown == NULL) {
            return NULL;
        }
        p->items = grown;
        p->items_capacity = p->items_capacity * 2 + 64;
    }
    memcpy(p->bytes + p->used, bytes, count);
    p->items[p->count] = (struct compactor_item){.at = p->used, .bytes = (uint32_t)count};
    p->used += padded;
    return &p->items[p->count++];
}

static int read_points(struct compactor *c, const struct record_header *h, const uint8_t *body, journal_place place)
{
    struct body_iter it;
    struct otr_point p;
    int rv = body_iter_init(&it, RECORD_PUT, body, h->body_bytes);

    while (rv == 0 && (rv = body_next(&it, &p)) == 0) {
        struct compactor_item *item = item_make(&c->piece, body + it.offset, it.next - it.offset);
        if (item == NULL) {
            return OTR_NOMEM;
        }
        item->shard = h->shard;
        item->kind = RECORD_KEPT_POINTS;
        item->collection = it.collection;
        item->hash = point_hash(p.id, p.id_bytes);
        item->place = place + (RECORD_HEADER_BYTES + it.offset) / 8;
    }
    return rv == OTR_NOTFOUND ? 0 : rv;
}

static int read_deletes(struct compactor *c, const struct record_header *h, uint16_t kind, const uint8_t *body)
{
    struct compactor_item *item = item_make(&c->piece, body, h->body_bytes);

    if (item == NULL) {
        return OTR_NOMEM;
    }
    item->shard = h->shard;
    item->kind = kind;
    item->keep = true;
    return 0;
}

static int read_entry(struct compactor *c, const struct segment *s, struct compactor_shard *shard,
                      const struct record_header *h, const uint8_t *body, journal_place place)
{
    if (!is_valid(s, h)) {
        return 0;
    }
    note_before(shard, h->index - 1);
    note_after(shard, (struct otr_position){h->epoch, h->index});
    switch (h->kind) {
    case RECORD_PUT:
        return read_points(c, h, body, place);
    case RECORD_DELETE:
        return shard->tombs ? read_deletes(c, h, RECORD_KEPT_DELETES, body) : 0;
    case RECORD_DROP:
        return shard->tombs ? read_deletes(c, h, RECORD_KEPT_DROP, body) : 0;
    default:
        return 0;
    }
}

static int read_record(struct compactor *c, const struct segment *s, const struct record_header *h, const uint8_t *body,
                       journal_place place)
{
    struct compactor_shard *shard;

    if (h->kind == RECORD_BATCH || h->kind == RECORD_SEGMENT || h->kind == RECORD_META || h->kind == RECORD_KEPT_IDS) {
        return 0;
    }
    shard = compactor_shard(c, h->shard);
    if (shard == NULL) {
        return OTR_NOMEM;
    }
    switch (h->kind) {
    case RECORD_CUT:
        if (!shard->seen || (shard->line.cut_only && h->index - 1 < shard->line.before)) {
            shard->line.cut_only = true;
            shard->seen = true;
            shard->line.before = h->index - 1;
        }
        return 0;
    case RECORD_SEED_BEGIN:
        note_reset(shard);
        return 0;
    case RECORD_SEED_POINTS:
    case RECORD_KEPT_POINTS:
    case RECORD_REPAIR_POINTS:
        shard->in_seed = shard->in_seed || h->kind == RECORD_SEED_POINTS;
        return read_points(c, h, body, place);
    case RECORD_SEED_END:
        shard->in_seed = false;
        note_before(shard, 0);
        note_after(shard, (struct otr_position){h->epoch, h->index});
        return 0;
    case RECORD_KEPT_DELETES:
    case RECORD_KEPT_DROP:
        return shard->tombs ? read_deletes(c, h, h->kind, body) : 0;
    default:
        return h->kind < RECORD_LOCAL_FIRST ? read_entry(c, s, shard, h, body, place) : OTR_CORRUPT;
    }
}

/* What a kept file says of its shards comes before what it holds. */
static int read_lines(struct compactor *c, const struct segment *s)
{
    for (uint32_t i = 0; i < s->lines_count; i++) {
        const struct kept_line *line = &s->lines[i];
        struct compactor_shard *shard = compactor_shard(c, line->shard);

        if (shard == NULL) {
            return OTR_NOMEM;
        }
        if (line->cut_only) {
            if (!shard->seen || (shard->line.cut_only && line->before < shard->line.before)) {
                shard->line.cut_only = true;
                shard->seen = true;
                shard->line.before = line->before;
            }
            continue;
        }
        if (line->reset) {
            note_reset(shard);
        }
        note_before(shard, line->before);
        shard->in_seed = line->unfinished;
        if (!line->unfinished) {
            note_after(shard, line->after);
        }
    }
    return 0;
}

static int scan_begin(struct compactor *c, const struct segment *s)
{
    int rv = segment_scan_init(&c->scan, s->file, s->number, &c->msg);

    if (rv != 0) {
        return rv;
    }
    c->scanning = true;
    c->offset = s->kept ? s->records : 0;
    if (c->scan.bytes < s->bytes) {
        return OTR_CORRUPT;
    }
    c->scan.bytes = s->bytes;
    return read_lines(c, s);
}

static void scan_end(struct compactor *c)
{
    segment_scan_close(&c->scan);
    c->scanning = false;
}

/* The next piece of the victims. */
static int read_piece(struct compactor *c)
{
    c->piece.used = 0;
    c->piece.count = 0;
    for (uint64_t got = 0; got < c->config.piece_bytes && c->victim < c->victims_count;) {
        struct segment *s = c->victims[c->victim];
        struct record_header h;
        const uint8_t *record;
        int rv = c->scanning ? 0 : scan_begin(c, s);

        if (rv == 0 && c->offset >= s->bytes) {
            scan_end(c);
            c->victim++;
            continue;
        }
        if (rv == 0) {
            rv = segment_scan_record(&c->scan, c->offset, &h, &record, &c->msg);
        }
        if (rv == 0) {
            rv = read_record(c, s, &h, record + RECORD_HEADER_BYTES, place_make(s->number, c->offset));
        }
        if (rv != 0) {
            if (rv == OTR_CORRUPT) {
                otr_errmsg_set(&c->msg, "segment %u is damaged at %llu", s->number, (unsigned long long)c->offset);
            }
            return rv;
        }
        c->offset += record_bytes(h.body_bytes);
        got += record_bytes(h.body_bytes);
        c->run_bytes += record_bytes(h.body_bytes);
        c->stats.read_bytes_total += record_bytes(h.body_bytes);
    }
    c->read_all = c->victim == c->victims_count;
    return 0;
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

static int out_flush(struct compactor *c)
{
    const struct file_ops *ops = c->made->file->fs->ops;
    int rv = ops->write(c->made->file, c->written, c->out, c->out_used, &c->msg);

    if (rv != 0) {
        return rv;
    }
    c->written += c->out_used;
    c->run_bytes += c->out_used;
    c->stats.copied_bytes_total += c->out_used;
    c->out_used = 0;
    if (c->written - c->synced >= COMPACTOR_SYNC_BYTES) {
        c->synced = c->written;
        rv = ops->sync(c->made->file, &c->msg);
    }
    return rv;
}

/* Room for a record with such a body; its bytes stand at the returned place once it is sealed. */
static uint8_t *out_reserve(struct compactor *c, size_t body_bytes)
{
    size_t bytes = record_bytes(body_bytes);

    if (c->out_capacity - c->out_used < bytes) {
        size_t capacity = c->out_used + bytes > 2 * c->out_capacity ? c->out_used + bytes : 2 * c->out_capacity;
        uint8_t *grown = realloc(c->out, capacity);
        if (grown == NULL) {
            return NULL;
        }
        c->out = grown;
        c->out_capacity = capacity;
    }
    return c->out + c->out_used;
}

static void out_seal(struct compactor *c, uint16_t kind, otr_shard shard, size_t body_bytes)
{
    struct record_header h = {.kind = kind, .shard = shard, .body_bytes = (uint32_t)body_bytes};

    record_seal(c->out + c->out_used, &h);
    c->out_used += record_bytes(body_bytes);
}

static int write_body(struct compactor *c, uint16_t kind, otr_shard shard, const uint8_t *body, size_t bytes)
{
    uint8_t *out = out_reserve(c, bytes);

    if (out == NULL) {
        return OTR_NOMEM;
    }
    memcpy(out + RECORD_HEADER_BYTES, body, bytes);
    out_seal(c, kind, shard, bytes);
    return 0;
}

static int group_of(struct compactor *c, const struct compactor_item *item, uint32_t *group)
{
    struct compactor_group *newest = c->groups_count > 0 ? &c->groups[c->groups_count - 1] : NULL;

    if (newest == NULL || newest->shard != item->shard || newest->collection != item->collection) {
        if (c->groups_count == c->groups_capacity) {
            struct compactor_group *grown = realloc(c->groups, (c->groups_capacity * 2 + 16) * sizeof *grown);
            if (grown == NULL) {
                return OTR_NOMEM;
            }
            c->groups = grown;
            c->groups_capacity = c->groups_capacity * 2 + 16;
        }
        assert(c->groups != NULL);
        c->groups[c->groups_count++] = (struct compactor_group){item->shard, item->collection};
    }
    *group = (uint32_t)(c->groups_count - 1);
    return 0;
}

static int moves_reserve(struct compactor *c, size_t more)
{
    struct compactor_move *grown;
    size_t capacity = c->moves_capacity + c->moves_capacity / 2 + more;

    if (c->moves_capacity - c->moves_count >= more) {
        return 0;
    }
    grown = realloc(c->moves, capacity * sizeof *grown);
    if (grown == NULL) {
        return OTR_NOMEM;
    }
    c->moves = grown;
    c->moves_capacity = capacity;
    return 0;
}

/* The points items[0..count), all of one shard and collection, as one record. */
static int write_points(struct compactor *c, const struct compactor_item *items, size_t count, size_t body_bytes)
{
    uint8_t *out = out_reserve(c, body_bytes);
    uint32_t group;
    uint32_t points = (uint32_t)count;
    size_t at = PUT_HEADER_BYTES;

    if (out == NULL || moves_reserve(c, count) != 0 || group_of(c, items, &group) != 0) {
        return OTR_NOMEM;
    }
    out += RECORD_HEADER_BYTES;
    memset(out, 0, PUT_HEADER_BYTES);
    memcpy(out, &items->collection, sizeof items->collection);
    memcpy(out + sizeof items->collection, &points, sizeof points);
    for (size_t i = 0; i < count; i++) {
        uint64_t offset = c->written + c->out_used + RECORD_HEADER_BYTES + at;
        memcpy(out + at, c->piece.bytes + items[i].at, items[i].bytes);
        c->moves[c->moves_count++] = (struct compactor_move){.hash = items[i].hash,
                                                             .from = items[i].place,
                                                             .to = (uint32_t)(offset / 8),
                                                             .bytes = items[i].bytes,
                                                             .group = group};
        at += items[i].bytes;
    }
    assert(at == body_bytes);
    out_seal(c, RECORD_KEPT_POINTS, items->shard, body_bytes);
    return 0;
}

/* Deletions first: they concern what stands in front of the piece, for what they deleted in it is not kept. Then
 * points, those of a shard and collection together. */
static int compare_items(const void *a, const void *b)
{
    const struct compactor_item *x = a;
    const struct compactor_item *y = b;
    bool x_points = x->kind == RECORD_KEPT_POINTS;
    bool y_points = y->kind == RECORD_KEPT_POINTS;

    if (x_points != y_points) {
        return x_points ? 1 : -1;
    }
    if (x->shard != y->shard) {
        return x->shard < y->shard ? -1 : 1;
    }
    if (x->collection != y->collection) {
        return x->collection < y->collection ? -1 : 1;
    }
    return x->at < y->at ? -1 : x->at > y->at;
}

/* What was judged to be needed of the piece that was read last. */
static int write_piece(struct compactor *c)
{
    struct compactor_item *items = c->piece.items;
    size_t count = 0;
    int rv = 0;

    for (size_t i = 0; i < c->piece.count; i++) {
        if (items[i].keep) {
            items[count++] = items[i];
        }
    }
    if (count == 0) {
        return 0;
    }
    assert(items != NULL);
    qsort(items, count, sizeof *items, compare_items);
    for (size_t i = 0, next; i < count && rv == 0; i = next) {
        size_t bytes = PUT_HEADER_BYTES + items[i].bytes;

        next = i + 1;
        if (items[i].kind != RECORD_KEPT_POINTS) {
            struct compactor_shard *shard = compactor_shard(c, items[i].shard);

            if (shard == NULL) {
                return OTR_NOMEM;
            }
            shard->tombs_bytes += items[i].bytes;
            rv = write_body(c, items[i].kind, items[i].shard, c->piece.bytes + items[i].at, items[i].bytes);
            continue;
        }
        while (next < count && items[next].shard == items[i].shard && items[next].collection == items[i].collection &&
               bytes + items[next].bytes <= COMPACTOR_PIECE_BYTES) {
            bytes += items[next++].bytes;
        }
        rv = write_points(c, items + i, next - i, bytes);
    }
    return rv == 0 ? out_flush(c) : rv;
}

int compactor_copy(struct compactor *c)
{
    int rv = write_piece(c);

    c->piece.used = 0;
    c->piece.count = 0;
    if (rv == 0 && !c->read_all) {
        rv = read_piece(c);
        if (rv == OTR_CORRUPT) {
            c->victims[c->victim]->spoilt = true;
        }
    }
    return rv;
}

int compactor_write_ids(struct compactor *c)
{
    int rv = write_body(c, RECORD_KEPT_IDS, c->ids_of, c->ids, c->ids_bytes);

    return rv == 0 ? out_flush(c) : rv;
}

/* --- the file ----------------------------------------------------------------------------------------------------- */

void compactor_lines_settle(struct compactor *c)
{
    size_t count = 0;

    for (size_t i = 0; i < c->shards_count; i++) {
        struct compactor_shard *s = &c->shards[i];
        s->line.unfinished = s->in_seed;
        s->line.cut_only = s->line.cut_only && !s->entries && !s->in_seed && !s->line.reset;
        s->ids_from = s->line.before;
        if (s->seen || s->in_seed) {
            c->shards[count++] = *s;
        }
    }
    c->shards_count = count;
}

static int write_head(struct compactor *c)
{
    const struct file_ops *ops = c->made->file->fs->ops;
    struct kept_head head = {
        .number = c->made->number,
        .journal_id = c->made->j->id,
        .first = c->made->first,
        .last = c->made->last,
        .previous_bytes = c->made->previous_bytes,
        .batch_first = c->made->batch_first,
        .batch_number = c->made->batch_number,
        .bytes = c->written,
        .records = c->made->records,
        .identity = c->made->j->identity,
        .identity_bytes = (uint32_t)strlen(c->made->j->identity),
        .lines_count = (uint32_t)c->shards_count,
    };
    size_t bytes = kept_head_bytes(head.lines_count, head.identity_bytes);
    uint8_t *out = malloc(bytes);
    int rv;

    assert(bytes <= c->made->records); /* No shard can have come up that the journal did not know. */
    c->made->lines = malloc(c->shards_count * sizeof *c->made->lines + 1);
    if (out == NULL || c->made->lines == NULL) {
        free(out);
        return OTR_NOMEM;
    }
    for (size_t i = 0; i < c->shards_count; i++) {
        c->made->lines[i] = c->shards[i].line;
    }
    c->made->lines_count = head.lines_count;
    c->made->bytes = c->written;
    kept_head_write(out, &head, c->made->lines);
    rv = ops->write(c->made->file, 0, out, bytes, &c->msg);
    free(out);
    return rv;
}

int compactor_finish(struct compactor *c)
{
    const struct file_ops *ops = c->made->file->fs->ops;
    int rv = write_head(c);

    if (rv == 0) { /* The reserve was longer, perhaps; and a file without records must be as long as it says. */
        rv = ops->truncate(c->made->file, c->written, &c->msg);
    }
    if (rv == 0) {
        rv = ops->sync(c->made->file, &c->msg);
    }
    return rv;
}

int compactor_begin(struct compactor *c)
{
    struct file_system *fs = c->made->j->fs;
    char name[KEPT_NAME_BYTES];
    int rv;

    kept_name(name, c->made->number, false);
    /* The head's place is kept free: what it says is known at the end. */
    c->made->records = kept_head_bytes((uint32_t)c->shards_count, (uint32_t)strlen(c->made->j->identity));
    c->written = c->made->records;
    c->from_reserve = c->use_reserve;
    if (c->from_reserve) { /* Written in place: its blocks are ours already, whoever else wants room. */
        rv = fs->ops->rename(fs, JOURNAL_RESERVE_NAME, name, &c->msg);
        if (rv == 0) {
            rv = fs->ops->open(fs, name, FILE_READ_WRITE, &c->made->file, &c->msg);
        }
    } else {
        rv = fs->ops->open(fs, name, FILE_CREATE, &c->made->file, &c->msg);
    }
    if (rv != 0) {
        c->made->file = NULL;
        otr_errmsg_wrap(&c->msg, "begin %s", name);
    }
    return rv;
}
