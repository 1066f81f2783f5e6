#include "tests/unit/log/lab.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

static void apply(struct lab_shard *shards, const struct lab_op *op)
{
    struct lab_shard *s = &shards[op->shard];

    switch (op->kind) {
    case LAB_ENTRY:
        cr_assert(s->count < LAB_ENTRIES_MAX);
        s->entries[s->count++] = (struct lab_entry){op->position.epoch, op->position.index, op->checksum, 0};
        break;
    case LAB_CUT:
        while (s->count > 0 && s->entries[s->count - 1].index >= op->position.index) {
            s->count--;
        }
        break;
    case LAB_META:
        s->log_id = op->log_id;
        s->promised = op->promised;
        break;
    case LAB_SEED_BEGIN:
        s->count = 0;
        s->base = (struct otr_position){0, 0};
        s->seed_unfinished = true;
        s->seed_sum = 0;
        s->log_id = op->log_id;
        s->promised = op->promised;
        break;
    case LAB_SEED_POINTS:
        s->seed_sum = s->seed_sum * 31 + op->checksum;
        break;
    case LAB_SEED_END:
        s->base = op->position;
        s->seed_unfinished = false;
        s->seed_sum = s->seed_sum * 31 + op->checksum;
        break;
    }
}

static void visit(void *data, const struct record_header *h, const uint8_t *body, journal_place place)
{
    static const enum lab_op_kind kinds[] = {[RECORD_CUT] = LAB_CUT,
                                             [RECORD_SEED_BEGIN] = LAB_SEED_BEGIN,
                                             [RECORD_SEED_POINTS] = LAB_SEED_POINTS,
                                             [RECORD_SEED_END] = LAB_SEED_END};
    struct lab *l = data;
    struct lab_op op = {.kind = h->kind < RECORD_LOCAL_FIRST ? LAB_ENTRY : kinds[h->kind],
                        .shard = h->shard,
                        .position = {h->epoch, h->index}};

    cr_assert(h->shard < LAB_SHARDS);
    op.checksum = op.kind == LAB_ENTRY ? h->checksum : point_hash((const char *)body, h->body_bytes);
    apply(l->recovered, &op);
    if (op.kind == LAB_ENTRY) {
        l->recovered[h->shard].entries[l->recovered[h->shard].count - 1].place = place;
    }
}

void lab_init(struct lab *l, uint64_t segment_bytes)
{
    *l = (struct lab){.disk = fake_disk_new(), .rng = 1};
    l->config = (struct journal_config){.fs = fake_disk_fs(l->disk),
                                        .segment_bytes = segment_bytes,
                                        .tail_bytes = 16384,
                                        .identity = "test/node-1",
                                        .journal_id = 77};
    l->recovered = calloc(LAB_SHARDS, sizeof *l->recovered);
    cr_assert(eq(int, lab_open(l), 0), "%s", l->msg.text);
}

void lab_close(struct lab *l)
{
    if (l->j != NULL) {
        journal_close(l->j);
    }
    fake_disk_free(l->disk);
    free(l->ops);
    free(l->recovered);
}

int lab_open(struct lab *l)
{
    int rv;

    memset(l->recovered, 0, LAB_SHARDS * sizeof *l->recovered);
    l->j = NULL;
    l->config.fs = fake_disk_fs(l->disk);
    l->msg = (struct otr_errmsg){0};
    rv = journal_open(&l->j, &l->config, visit, l, &l->msg);
    for (otr_shard i = 0; rv == 0 && i < LAB_SHARDS; i++) {
        l->recovered[i].log_id = lab_state(l, i).meta.log_id;
        l->recovered[i].promised = lab_state(l, i).meta.promised;
    }
    return rv;
}

struct journal_shard_state lab_state(const struct lab *l, otr_shard shard)
{
    struct journal_shard_state state;

    (void)journal_shard(l->j, shard, &state);
    return state;
}

static void model(const struct lab *l, size_t count, struct lab_shard *shards)
{
    memset(shards, 0, LAB_SHARDS * sizeof *shards);
    for (size_t i = 0; i < count; i++) {
        apply(shards, &l->ops[i]);
    }
}

static bool same(const struct lab_shard *a, const struct lab_shard *b)
{
    if (a->count != b->count || otr_position_compare(a->base, b->base) != 0 ||
        a->seed_unfinished != b->seed_unfinished || a->seed_sum != b->seed_sum || a->log_id != b->log_id ||
        a->promised != b->promised) {
        return false;
    }
    for (size_t i = 0; i < a->count; i++) {
        if (a->entries[i].epoch != b->entries[i].epoch || a->entries[i].index != b->entries[i].index ||
            a->entries[i].checksum != b->entries[i].checksum) {
            return false;
        }
    }
    return true;
}

bool lab_matches(const struct lab *l, otr_shard shard, size_t count)
{
    struct lab_shard *shards = malloc(LAB_SHARDS * sizeof *shards);
    bool matches;

    model(l, count, shards);
    matches = same(&shards[shard], &l->recovered[shard]);
    free(shards);
    return matches;
}

/* journal_shard() must agree with the visits. */
static void check_state(const struct lab *l, otr_shard shard)
{
    struct journal_shard_state state = lab_state(l, shard);
    const struct lab_shard *r = &l->recovered[shard];

    cr_assert(l->maybe_damaged || !state.damaged);
    cr_assert(eq(int, state.seed_unfinished, r->seed_unfinished));
    cr_assert(eq(u64, state.base.index, r->base.index));
    cr_assert(eq(u64, state.last.index, r->count == 0 ? r->base.index : r->entries[r->count - 1].index));
    cr_assert(eq(u64, state.last.epoch, r->count == 0 ? r->base.epoch : r->entries[r->count - 1].epoch));
    cr_assert(eq(u64, state.first.index, r->count == 0 ? 0 : r->entries[0].index));
    cr_assert(eq(u64, state.first.epoch, r->count == 0 ? 0 : r->entries[0].epoch));
    cr_assert(eq(u64, state.durable_index, state.last.index));
    for (size_t i = 0; i < r->count; i++) {
        cr_assert(eq(u64, journal_epoch_at(l->j, shard, r->entries[i].index), r->entries[i].epoch));
    }
    cr_assert(eq(u64, journal_epoch_at(l->j, shard, state.last.index + 1), 0));
}

void lab_reopen(struct lab *l)
{
    struct lab_shard *shards = malloc(LAB_SHARDS * sizeof *shards);
    size_t count;

    cr_assert(eq(int, lab_open(l), 0), "%s", l->msg.text);
    for (count = l->count + 1; count-- > l->acked;) {
        bool all = true;
        model(l, count, shards);
        for (otr_shard i = 0; i < LAB_SHARDS; i++) {
            all = all && same(&shards[i], &l->recovered[i]);
        }
        if (all) {
            break;
        }
        cr_assert(count > l->acked, "recovery shows no prefix of %zu operations with the %zu acknowledged ones",
                  l->count, l->acked);
    }
    free(shards);
    l->count = count;
    l->acked = count;
    for (otr_shard i = 0; i < LAB_SHARDS; i++) {
        check_state(l, i);
    }
}

void lab_crash(struct lab *l, enum fake_disk_loss loss)
{
    fake_disk_crash_as(l->disk, loss, &l->rng);
    journal_close(l->j);
    l->j = NULL;
}

void lab_kill(struct lab *l)
{
    lab_crash(l, FAKE_DISK_KEEP_ALL);
}

static int note(struct lab *l, int rv, struct lab_op op)
{
    if (rv == 0) {
        if (l->count == l->capacity) {
            l->capacity = 2 * l->capacity + 64;
            l->ops = realloc(l->ops, l->capacity * sizeof *l->ops);
        }
        l->ops[l->count++] = op;
    }
    return rv;
}

/* A PUT of one point. Returns its bytes in `body`, which has room for 1024 more than the metadata. */
static size_t make_body(uint64_t number, size_t metadata_bytes, uint8_t *body)
{
    float vector[4] = {(float)number, 1, 2, 3};
    char id[32];
    char *metadata = calloc(1, metadata_bytes + 1);
    struct otr_point p = {
        .id = id, .dimension = 4, .vector = vector, .metadata = metadata, .metadata_bytes = (uint32_t)metadata_bytes};

    p.id_bytes = (uint32_t)snprintf(id, sizeof id, "point-%llu", (unsigned long long)number);
    memset(metadata, 'm', metadata_bytes);
    put_body_write(body, 9, &p, 1);
    free(metadata);
    return put_body_bytes(&p, 1);
}

int lab_append(struct lab *l, otr_shard shard, uint64_t epoch, size_t metadata_bytes)
{
    uint8_t *body = malloc(metadata_bytes + 1024);
    struct record_header h = {.shard = shard,
                              .epoch = epoch,
                              .kind = RECORD_PUT,
                              .time_ms = 5,
                              .index = lab_state(l, shard).last.index + 1,
                              .request_id = {{(uint8_t)l->count, 1}}};
    int rv;

    h.body_bytes = (uint32_t)make_body(l->count, metadata_bytes, body);
    rv = journal_append(l->j, &h, body, NULL);
    free(body);
    return note(
        l, rv,
        (struct lab_op){.kind = LAB_ENTRY, .shard = shard, .position = {epoch, h.index}, .checksum = h.checksum});
}

int lab_append_raw(struct lab *l, otr_shard shard, uint64_t epoch, size_t entries)
{
    uint64_t index = lab_state(l, shard).last.index;
    uint8_t *records = malloc(entries * 1024);
    uint64_t checksums[64];
    size_t bytes = 0;
    int rv;

    cr_assert(entries <= 64);
    for (size_t i = 0; i < entries; i++) {
        struct record_header h = {.shard = shard, .epoch = epoch, .kind = RECORD_PUT, .index = index + 1 + i};
        h.body_bytes = (uint32_t)make_body(l->count + i, 3 * i, records + bytes + RECORD_HEADER_BYTES);
        record_seal(records + bytes, &h);
        bytes += record_bytes(h.body_bytes);
        checksums[i] = h.checksum;
    }
    rv = journal_append_raw(l->j, shard, records, bytes);
    for (size_t i = 0; i < entries; i++) {
        note(l, rv,
             (struct lab_op){
                 .kind = LAB_ENTRY, .shard = shard, .position = {epoch, index + 1 + i}, .checksum = checksums[i]});
    }
    free(records);
    return rv;
}

int lab_cut(struct lab *l, otr_shard shard, uint64_t index)
{
    return note(l, journal_cut(l->j, shard, index),
                (struct lab_op){.kind = LAB_CUT, .shard = shard, .position = {0, index}});
}

int lab_meta(struct lab *l, otr_shard shard, uint64_t log_id, uint64_t promised)
{
    struct journal_meta meta = {.log_id = log_id, .promised = promised};

    return note(l, journal_meta_write(l->j, shard, &meta),
                (struct lab_op){.kind = LAB_META, .shard = shard, .log_id = log_id, .promised = promised});
}

int lab_seed_begin(struct lab *l, otr_shard shard, uint64_t log_id)
{
    struct journal_meta meta = {.log_id = log_id, .promised = 3};

    return note(l, journal_seed_begin(l->j, shard, &meta),
                (struct lab_op){.kind = LAB_SEED_BEGIN, .shard = shard, .log_id = log_id, .promised = 3});
}

int lab_seed_points(struct lab *l, otr_shard shard)
{
    uint8_t body[1200];
    size_t bytes = make_body(l->count, 100, body);

    return note(l, journal_seed_points(l->j, shard, body, bytes, NULL),
                (struct lab_op){.kind = LAB_SEED_POINTS, .shard = shard, .checksum = point_hash((char *)body, bytes)});
}

int lab_seed_end(struct lab *l, otr_shard shard, struct otr_position base)
{
    static const uint8_t request_ids[] = "sixteen bytes and more";

    return note(l, journal_seed_end(l->j, shard, base, request_ids, sizeof request_ids),
                (struct lab_op){.kind = LAB_SEED_END,
                                .shard = shard,
                                .position = base,
                                .checksum = point_hash((const char *)request_ids, sizeof request_ids)});
}

int lab_flush(struct lab *l)
{
    size_t count = l->count;
    struct journal_batch *b = journal_flush_begin(l->j);
    int rv;

    if (b == NULL) {
        return journal_failed(l->j) ? OTR_IO : 0;
    }
    journal_flush_run(b);
    rv = journal_flush_end(l->j, b, NULL, NULL, &l->msg);
    if (rv == 0) {
        l->acked = count;
    }
    return rv;
}

int lab_step(struct lab *l)
{
    uint64_t dice = fake_disk_random(&l->rng);
    otr_shard shard = (otr_shard)(dice >> 8) % LAB_SHARDS;
    struct journal_shard_state s = lab_state(l, shard);
    uint64_t epoch = s.last.epoch + (dice >> 16) % 8 / 7 + (s.last.epoch == 0);

    if (s.seed_unfinished) {
        return dice % 4 == 0 ? lab_seed_end(l, shard, (struct otr_position){5, 100}) : lab_seed_points(l, shard);
    }
    switch (dice % 16) {
    case 0:
        return lab_meta(l, shard, s.meta.log_id + dice % 3 + 1, s.meta.promised + 1);
    case 1:
        return s.last.index > s.base.index + 2 ? lab_cut(l, shard, s.last.index - (dice >> 32) % 2) : 0;
    case 2:
        return (dice >> 40) % 4 == 0 ? lab_seed_begin(l, shard, dice >> 50) : 0;
    case 3:
    case 4:
        return lab_append_raw(l, shard, epoch, 1 + (dice >> 33) % 7);
    default:
        return lab_append(l, shard, epoch, (dice >> 35) % 3 * 300);
    }
}

/* Checks the bytes of the entries from index on; returns the index behind them. */
static uint64_t check_bytes(const struct lab_shard *s, uint64_t index, const struct journal_bytes *bytes)
{
    for (size_t at = 0; at < bytes->bytes; index++) {
        struct record_header h;
        cr_assert(eq(int, record_read(bytes->data + at, bytes->bytes - at, &h), 0));
        cr_assert(eq(u64, h.index, index));
        cr_assert(eq(u64, h.checksum, s->entries[index - s->base.index - 1].checksum));
        at += record_bytes(h.body_bytes);
    }
    cr_assert(eq(u64, bytes->last, index - 1));
    return index;
}

void lab_read_all(struct lab *l, otr_shard shard)
{
    struct lab_shard *shards = malloc(LAB_SHARDS * sizeof *shards);
    struct journal_shard_state state = lab_state(l, shard);
    uint64_t index = state.base.index + 1;

    model(l, l->count, shards);
    while (index <= state.last.index) {
        struct journal_bytes bytes;
        int rv = journal_read(l->j, shard, index, state.last.index, 2000, &bytes);
        if (rv == 0) {
            index = check_bytes(&shards[shard], index, &bytes);
            free(bytes.data);
        } else {
            struct journal_reader *r = journal_reader_new(l->j);
            cr_assert(eq(int, rv, OTR_UNAVAIL));
            cr_assert(eq(int, journal_reader_entries(r, shard, index, state.last.index, 2000), 0));
            cr_assert(not(journal_reader_in_memory(r)));
            cr_assert(eq(int, journal_reader_run(r, &l->msg), 0), "%s", l->msg.text);
            index = check_bytes(&shards[shard], index, journal_reader_result(r));
            journal_reader_free(r);
        }
    }
    free(shards);
}

unsigned lab_last_segment(const struct lab *l, char name[16])
{
    char next[16];

    for (unsigned n = 1;; n++) {
        snprintf(next, sizeof next, "%08u.log", n);
        if (!fake_disk_exists(l->disk, next)) {
            return n - 1;
        }
        memcpy(name, next, sizeof next);
    }
}

void lab_extend(struct lab *l, const char *name, const void *data, size_t bytes)
{
    struct file_system *fs = fake_disk_fs(l->disk);
    struct file *f;

    cr_assert(eq(int, fs->ops->open(fs, name, FILE_READ_WRITE, &f, NULL), 0));
    cr_assert(eq(int, fs->ops->write(f, fake_disk_size(l->disk, name), data, bytes, NULL), 0));
    cr_assert(eq(int, fs->ops->sync(f, NULL), 0));
    fs->ops->close(f);
}
