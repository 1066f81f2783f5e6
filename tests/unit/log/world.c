#include "tests/unit/log/world.h"

#include "sidecar/log/journal_format.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

/* --- the compactor's questions ------------------------------------------------------------------------------------ */

static struct store *store_of(void *data, otr_shard shard)
{
    return ((struct world *)data)->shards[shard].store;
}

static uint64_t keep(void *data, otr_shard shard)
{
    return ((struct world *)data)->shards[shard].stored;
}

static uint64_t window_start(const struct world_shard *s, uint64_t last)
{
    uint64_t start = last > WORLD_WINDOW ? last - WORLD_WINDOW : 0;

    return start > s->h.base_index ? start : s->h.base_index;
}

int world_ids(void *data, otr_shard shard, uint64_t *from, uint64_t to, uint8_t **bytes, size_t *count)
{
    const struct world_shard *s = &((struct world *)data)->shards[shard];
    uint64_t start = window_start(s, s->stored);
    uint64_t first = *from > start ? *from : start;
    uint64_t last = to < first + 5 ? to : first + 5; /* a few at a time */
    uint64_t *out;

    *bytes = NULL;
    if (first >= to) {
        *from = to;
        return 0;
    }
    out = malloc((last - first) * sizeof *out);
    if (out == NULL) {
        return OTR_NOMEM;
    }
    for (uint64_t i = first + 1; i <= last; i++) {
        out[i - first - 1] = i;
    }
    *bytes = (uint8_t *)out;
    *count = (last - first) * sizeof *out;
    *from = last;
    return 0;
}

/* --- recovery ----------------------------------------------------------------------------------------------------- */

static bool same_id(void *data, journal_place place, const char *id, size_t id_bytes)
{
    (void)data, (void)place, (void)id, (void)id_bytes;
    return true;
}

static void ids_add(struct world_shard *s, uint64_t index)
{
    cr_assert(s->ids_count == 0 || s->ids[s->ids_count - 1] < index, "id %llu after %llu", (unsigned long long)index,
              (unsigned long long)s->ids[s->ids_count - 1]);
    s->ids[s->ids_count++] = index;
}

static void visit(void *data, const struct record_header *h, const uint8_t *body, journal_place place)
{
    struct world *w = data;
    struct world_shard *s = &w->shards[h->shard];
    struct record_header as = *h;
    uint64_t index;

    cr_assert(h->shard < WORLD_SHARDS);
    switch (h->kind) {
    case RECORD_SEED_BEGIN:
        store_clear(s->store);
        s->stored = 0;
        s->ids_count = 0;
        break;
    case RECORD_SEED_POINTS:
    case RECORD_KEPT_POINTS:
        cr_assert(zero(int, store_apply_seed(s->store, body, h->body_bytes, place, same_id, s)));
        break;
    case RECORD_KEPT_DELETES:
    case RECORD_KEPT_DROP:
        as.kind = h->kind == RECORD_KEPT_DROP ? RECORD_DROP : RECORD_DELETE;
        cr_assert(zero(int, store_apply(s->store, &as, body, place, same_id, s, NULL)));
        break;
    case RECORD_KEPT_IDS:
        for (size_t at = 0; at < h->body_bytes; at += sizeof index) {
            memcpy(&index, body + at, sizeof index);
            ids_add(s, index);
        }
        break;
    case RECORD_SEED_END:
    case RECORD_KEPT_HEAD:
        s->stored = h->index;
        break;
    case RECORD_CUT:
        while (s->ids_count > 0 && s->ids[s->ids_count - 1] >= h->index) {
            s->ids_count--;
        }
        break;
    default:
        ids_add(s, h->index);
        break;
    }
}

static void settled(void *data, const struct record_header *h, const uint8_t *body, journal_place place)
{
    struct world_shard *s = &((struct world *)data)->shards[h->shard];

    if (h->index <= s->stored) {
        return;
    }
    cr_assert(eq(u64, h->index, s->stored + 1));
    cr_assert(zero(int, store_apply(s->store, h, body, place, same_id, s, NULL)));
    s->stored = h->index;
}

void world_apply(struct world *w, otr_shard shard, uint64_t index)
{
    struct world_shard *s = &w->shards[shard];

    while (s->stored < index) {
        struct journal_reader *r = journal_reader_new(w->j);
        const struct journal_bytes *got;

        cr_assert(zero(int, journal_reader_entries(r, shard, s->stored + 1, index, 1 << 20)));
        if (journal_reader_run(r, &w->msg) != 0) { /* it is applied later */
            cr_assert(w->failed, "%s", w->msg.text);
            journal_reader_free(r);
            return;
        }
        got = journal_reader_result(r);
        for (size_t at = 0; at < got->bytes;) {
            struct record_header h;
            cr_assert(zero(int, record_read(got->data + at, got->bytes - at, &h)));
            settled(w, &h, got->data + at + RECORD_HEADER_BYTES, journal_place_of(w->j, shard, h.index));
            at += record_bytes(h.body_bytes);
        }
        journal_reader_free(r);
    }
}

int world_open(struct world *w)
{
    int rv;

    for (otr_shard i = 0; i < WORLD_SHARDS; i++) {
        struct world_shard *s = &w->shards[i];
        store_free(s->store);
        s->store = store_new();
        s->stored = 0;
        s->ids_count = 0;
    }
    w->config.fs = fake_disk_fs(w->disk);
    w->j = NULL;
    rv = journal_open(&w->j, &w->config, visit, w, &w->msg);
    if (rv == 0) {
        w->compaction.j = w->j;
        cr_assert(zero(int, compactor_new(&w->c, &w->compaction)));
    }
    return rv;
}

void world_close(struct world *w)
{
    compactor_free(w->c);
    w->c = NULL;
    if (w->j != NULL) {
        journal_close(w->j);
    }
    w->j = NULL;
}

/* --- the model ---------------------------------------------------------------------------------------------------- */

static void state_at(const struct world_history *h, uint64_t index, struct world_state *out)
{
    *out = h->base;
    for (uint64_t i = h->base_index + 1; i <= index; i++) {
        const struct world_op *op = &h->ops[i - h->base_index - 1];
        if (op->kind == RECORD_PUT) {
            out->values[op->collection][op->id] = op->value;
        } else if (op->kind == RECORD_DELETE) {
            out->values[op->collection][op->id] = 0;
        } else {
            memset(out->values[op->collection], 0, sizeof out->values[0]);
        }
    }
}

bool world_same_log(const struct world_history *h, const struct journal_shard_state *state)
{
    uint64_t epoch = h->base_epoch;

    if (state->last.index < h->base_index || state->last.index > h->last) {
        return false;
    }
    if (state->last.index > h->base_index) {
        epoch = h->ops[state->last.index - h->base_index - 1].epoch;
    }
    return state->last.epoch == epoch;
}

static uint32_t find_value(struct world *w, otr_shard shard, uint64_t collection, const char *id)
{
    struct journal_reader *r = journal_reader_new(w->j);
    journal_place places[4];
    size_t count = store_find(w->shards[shard].store, collection, id, strlen(id), places, 4);
    uint32_t value = 0;

    cr_assert(le(sz, count, 1));
    if (count == 1) {
        struct otr_point p;
        int number = journal_reader_point(r, places[0], 0);
        cr_assert(zero(int, journal_reader_run(r, &w->msg)), "%s", w->msg.text);
        cr_assert(zero(int, journal_reader_point_result(r, number, &p)), "shard %u: %s cannot be read", shard, id);
        cr_assert(p.id_bytes == strlen(id) && memcmp(p.id, id, p.id_bytes) == 0);
        value = (uint32_t)p.vector[0];
    }
    journal_reader_free(r);
    return value;
}

void world_check(struct world *w, otr_shard shard)
{
    struct world_shard *s = &w->shards[shard];
    struct world_state want;
    uint64_t count = 0;

    state_at(&s->h, s->stored, &want);
    fake_disk_fail_pause(w->disk, true);
    for (uint64_t c = 0; c < WORLD_COLLECTIONS; c++) {
        for (unsigned i = 0; i < WORLD_IDS; i++) {
            char id[16];
            snprintf(id, sizeof id, "id-%u", i);
            cr_assert(eq(u32, find_value(w, shard, c + 1, id), want.values[c][i]), "shard %u collection %llu %s", shard,
                      (unsigned long long)c, id);
            count += want.values[c][i] != 0;
        }
    }
    fake_disk_fail_pause(w->disk, false);
    cr_assert(eq(u64, store_count_all(s->store), count));
}

static void check_ids(const struct world_shard *s)
{
    uint64_t from = window_start(s, s->h.last);
    size_t at = s->ids_count;

    for (uint64_t i = s->h.last; i > from; i--) {
        cr_assert(at > 0 && s->ids[at - 1] == i, "the id of entry %llu of %llu is forgotten", (unsigned long long)i,
                  (unsigned long long)s->h.last);
        at--;
    }
}

void world_recovered(struct world *w)
{
    for (otr_shard i = 0; i < WORLD_SHARDS; i++) {
        struct world_shard *s = &w->shards[i];
        struct journal_shard_state state;

        (void)journal_shard(w->j, i, &state);
        cr_assert(w->failed || !state.damaged);
        if (state.seed_unfinished) {
            cr_assert(s->before != NULL, "a complete seed came back unfinished");
            world_seed(w, i);
            continue;
        }
        if (!world_same_log(&s->h, &state)) {
            cr_assert(s->before != NULL && world_same_log(s->before, &state), "shard %u shows entry %llu of epoch %llu",
                      i, (unsigned long long)state.last.index, (unsigned long long)state.last.epoch);
            s->h = *s->before;
        }
        cr_assert(ge(u64, state.last.index, s->acked), "shard %u: entry %llu was acknowledged", i,
                  (unsigned long long)s->acked);
        s->h.last = state.last.index;
        world_apply(w, i, state.last.index);
        world_apply(w, i, state.last.index); /* one call fails at most */
        cr_assert(eq(u64, s->stored, state.last.index));
        s->acked = state.last.index;
        free(s->before);
        s->before = NULL;
        world_check(w, i);
        check_ids(s);
    }
}

void world_reopen(struct world *w)
{
    cr_assert(zero(int, world_open(w)), "%s", w->msg.text);
    world_recovered(w);
}

static void init(struct world *w, uint64_t rng)
{
    *w = (struct world){.disk = fake_disk_new(), .rng = rng, .now_ms = 1000};
    w->config = (struct journal_config){
        .segment_bytes = 3000, .tail_bytes = 16384, .identity = "test/node-1", .journal_id = 77, .settled = settled};
    w->compaction = (struct compactor_config){.live_percent = 70,
                                              .bytes_max = 6000,
                                              .piece_bytes = 500,
                                              .store = store_of,
                                              .keep = keep,
                                              .ids = world_ids,
                                              .data = w};
    world_reopen(w);
}

void world_free(struct world *w)
{
    world_close(w);
    for (otr_shard i = 0; i < WORLD_SHARDS; i++) {
        store_free(w->shards[i].store);
        free(w->shards[i].before);
    }
    fake_disk_free(w->disk);
    free(w);
}

struct world *world_new(uint64_t rng)
{
    struct world *w = malloc(sizeof *w);

    init(w, rng);
    return w;
}

/* --- what happens ------------------------------------------------------------------------------------------------- */

int world_flush(struct world *w)
{
    struct journal_batch *b = journal_flush_begin(w->j);
    int rv;

    if (b == NULL) {
        return journal_failed(w->j) ? OTR_IO : 0;
    }
    journal_flush_run(b);
    rv = journal_flush_end(w->j, b, NULL, NULL, &w->msg);
    for (otr_shard i = 0; i < WORLD_SHARDS && rv == 0; i++) {
        struct journal_shard_state state;
        struct world_shard *s = &w->shards[i];
        (void)journal_shard(w->j, i, &state);
        s->acked = state.durable_index;
        free(s->before);
        s->before = NULL;
        if (!w->held) {
            world_apply(w, i, state.durable_index);
        }
    }
    return rv;
}

static size_t body_of(const struct world_op *op, uint8_t *body)
{
    float vector[2] = {(float)op->value, 0};
    char metadata[200] = {0};
    char id[16];
    struct otr_point p = {.id = id,
                          .id_bytes = (uint32_t)snprintf(id, sizeof id, "id-%u", op->id),
                          .dimension = 2,
                          .vector = vector,
                          .metadata = metadata,
                          .metadata_bytes = op->value % 190};
    uint64_t collection = op->collection + 1U;

    if (op->kind == RECORD_PUT) {
        put_body_write(body, collection, &p, 1);
        return put_body_bytes(&p, 1);
    }
    if (op->kind == RECORD_DELETE) {
        delete_body_write(body, collection, &p, 1);
        return delete_body_bytes(&p, 1);
    }
    memcpy(body, &collection, sizeof collection);
    return sizeof collection;
}

int world_append(struct world *w, otr_shard shard, uint16_t kind, unsigned collection, unsigned id)
{
    struct world_history *h = &w->shards[shard].h;
    struct journal_shard_state state;
    uint8_t body[1024];
    struct world_op op = {.kind = kind, .collection = (uint8_t)collection, .id = (uint8_t)id, .value = ++w->value};
    struct record_header r = {.shard = shard, .kind = kind, .index = h->last + 1};
    int rv;

    (void)journal_shard(w->j, shard, &state);
    op.epoch = state.last.epoch + (state.last.epoch == 0 || fake_disk_random(&w->rng) % 40 == 0);
    op.epoch = op.epoch > w->epoch ? op.epoch : w->epoch;
    r.epoch = op.epoch;
    r.body_bytes = (uint32_t)body_of(&op, body);
    cr_assert(lt(u64, h->last - h->base_index, WORLD_OPS_MAX));
    rv = journal_append(w->j, &r, body, NULL);
    if (rv == 0) {
        h->ops[h->last - h->base_index] = op;
        h->last++;
    }
    return rv;
}

static void remember(struct world_shard *s)
{
    if (s->before == NULL) { /* of several changes that are not durable, any number may be lost: one at a time */
        s->before = malloc(sizeof *s->before);
        *s->before = s->h;
    }
}

void world_cut(struct world *w, otr_shard shard)
{
    struct world_shard *s = &w->shards[shard];
    struct journal_shard_state state;
    uint64_t index = s->stored + 1;

    if (s->before != NULL || s->h.last <= s->stored + 1) {
        return;
    }
    index += fake_disk_random(&w->rng) % (s->h.last - s->stored);
    (void)journal_shard(w->j, shard, &state);
    remember(s);
    if (journal_cut(w->j, shard, index) == 0) {
        uint64_t epoch = state.last.epoch + 1;
        s->h.last = index - 1;
        s->acked = s->acked < index ? s->acked : index - 1;
        struct world_op op = {.kind = RECORD_PUT, .id = 1, .value = ++w->value, .epoch = epoch};
        struct record_header r = {.shard = shard, .kind = RECORD_PUT, .index = index, .epoch = epoch};
        uint8_t body[1024];
        r.body_bytes = (uint32_t)body_of(&op, body);
        if (journal_append(w->j, &r, body, NULL) == 0) {
            s->h.ops[index - s->h.base_index - 1] = op;
            s->h.last = index;
        }
    }
}

void world_seed(struct world *w, otr_shard shard)
{
    struct world_shard *s = &w->shards[shard];
    struct journal_meta meta = {.log_id = ++w->value};
    struct world_state state;
    struct otr_position base = {3, s->h.last + 7};

    if (s->before != NULL) {
        free(s->before); /* It was cut off: whatever it was, this seed replaces it. */
        s->before = NULL;
    }
    state_at(&s->h, s->stored > s->h.last ? s->h.last : s->stored, &state);
    remember(s);
    base.epoch = s->h.last > s->h.base_index ? s->h.ops[s->h.last - s->h.base_index - 1].epoch + 1 : 3;
    if (journal_seed_begin(w->j, shard, &meta) != 0) {
        return;
    }
    store_clear(s->store);
    for (uint8_t c = 0; c < WORLD_COLLECTIONS; c++) {
        for (uint8_t i = 0; i < WORLD_IDS; i++) {
            struct world_op op = {.kind = RECORD_PUT, .collection = c, .id = i, .value = state.values[c][i]};
            uint8_t body[1024];
            journal_place place;
            size_t bytes;

            op.value = i % 2 == 0 ? op.value : ++w->value;
            state.values[c][i] = op.value;
            bytes = body_of(&op, body);
            if (op.value != 0) {
                if (journal_seed_points(w->j, shard, body, bytes, &place) != 0) {
                    return;
                }
                cr_assert(zero(int, store_apply_seed(s->store, body, bytes, place, same_id, s)));
            }
        }
        if (fake_disk_random(&w->rng) % 4 == 0) {
            (void)world_flush(w);
            if (s->before == NULL) {
                remember(s);
            }
        }
    }
    if (journal_seed_end(w->j, shard, base, NULL, 0) == 0) {
        s->h.base = state;
        s->h.base_index = base.index;
        s->h.base_epoch = base.epoch;
        s->h.last = base.index;
        s->stored = base.index;
        s->acked = 0;
    }
}

unsigned world_compact(struct world *w, unsigned steps)
{
    unsigned done = 0;

    for (unsigned idle = 0; idle < 4 && done < steps;) {
        w->now_ms += 1100;
        if (!compactor_turn(w->c, w->now_ms, false)) {
            idle++;
            continue;
        }
        idle = 0;
        done++;
        compactor_run(w->c);
        (void)compactor_ran(w->c, w->now_ms, &w->msg);
    }
    return done;
}

void world_work(struct world *w, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        otr_shard shard = (otr_shard)(fake_disk_random(&w->rng) % WORLD_SHARDS);
        uint64_t dice = fake_disk_random(&w->rng) % 100;
        unsigned id = (unsigned)(fake_disk_random(&w->rng) % WORLD_IDS);
        unsigned collection = fake_disk_random(&w->rng) % 4 == 0;

        (void)world_append(w, shard, dice < 70 ? RECORD_PUT : dice < 98 ? RECORD_DELETE : RECORD_DROP, collection, id);
        if (fake_disk_random(&w->rng) % 4 == 0) {
            (void)world_flush(w);
        }
    }
}

uint64_t world_used(const struct world *w)
{
    return fake_disk_used(w->disk);
}

void world_crash(struct world *w, enum fake_disk_loss loss)
{
    fake_disk_crash_as(w->disk, loss, &w->rng);
    world_close(w);
}
