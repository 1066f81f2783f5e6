/* Compaction on a disk that loses what was not synced, beside a model: per shard the list of its entries. Whatever is
 * compacted, and wherever it is interrupted, the recovered store must be what the entries up to some index make of it,
 * and that index is at least what was acknowledged. */
#include "sidecar/log/compactor.h"
#include "sidecar/log/journal_format.h"
#include "sidecar/log/journal_internal.h"
#include "tests/lib/fail_calls.h"
#include "tests/lib/fake_disk.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

enum { SHARDS = 3, IDS = 24, COLLECTIONS = 2, OPS_MAX = 3000, WINDOW = 12 };

struct op {
    uint64_t epoch;
    uint16_t kind;
    uint8_t collection;
    uint8_t id;
    uint32_t value;
};

struct state {
    uint32_t values[COLLECTIONS][IDS]; /* 0: no such point */
};

struct history {
    struct state base; /* the seed that the log began with */
    uint64_t base_index;
    uint64_t base_epoch;
    struct op ops[OPS_MAX]; /* [i] has index base_index + 1 + i */
    uint64_t last;
};

struct shard {
    struct history h;
    struct history *before; /* what recovery may show as well: the last change of history is not durable yet */
    struct store *store;
    uint64_t stored;
    uint64_t acked;
    uint64_t ids[OPS_MAX]; /* recovered request ids: indexes, ascending */
    size_t ids_count;
};

struct world {
    struct fake_disk *disk;
    struct journal_config config;
    struct compactor_config compaction;
    struct journal *j;
    struct compactor *c;
    struct shard shards[SHARDS];
    uint64_t now_ms;
    uint64_t rng;
    uint32_t value;
    uint64_t epoch; /* of new entries, at least */
    bool held;      /* nothing is committed */
    bool failed;    /* a call failed on purpose */
    struct otr_errmsg msg;
};

/* --- the compactor's questions ------------------------------------------------------------------------------------ */

static struct store *store_of(void *data, otr_shard shard)
{
    return ((struct world *)data)->shards[shard].store;
}

static uint64_t keep(void *data, otr_shard shard)
{
    return ((struct world *)data)->shards[shard].stored;
}

static uint64_t window_start(const struct shard *s, uint64_t last)
{
    uint64_t start = last > WINDOW ? last - WINDOW : 0;

    return start > s->h.base_index ? start : s->h.base_index;
}

static int ids(void *data, otr_shard shard, uint64_t *from, uint64_t to, uint8_t **bytes, size_t *count)
{
    const struct shard *s = &((struct world *)data)->shards[shard];
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

static void ids_add(struct shard *s, uint64_t index)
{
    cr_assert(s->ids_count == 0 || s->ids[s->ids_count - 1] < index, "id %llu after %llu", (unsigned long long)index,
              (unsigned long long)s->ids[s->ids_count - 1]);
    s->ids[s->ids_count++] = index;
}

static void visit(void *data, const struct record_header *h, const uint8_t *body, journal_place place)
{
    struct world *w = data;
    struct shard *s = &w->shards[h->shard];
    struct record_header as = *h;
    uint64_t index;

    cr_assert(h->shard < SHARDS);
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
    struct shard *s = &((struct world *)data)->shards[h->shard];

    if (h->index <= s->stored) {
        return;
    }
    cr_assert(eq(u64, h->index, s->stored + 1));
    cr_assert(zero(int, store_apply(s->store, h, body, place, same_id, s, NULL)));
    s->stored = h->index;
}

/* Entries up to `index` are committed. */
static void apply(struct world *w, otr_shard shard, uint64_t index)
{
    struct shard *s = &w->shards[shard];

    while (s->stored < index) {
        struct journal_reader *r = journal_reader_new(w->j);
        const struct journal_bytes *got;

        cr_assert(zero(int, journal_reader_entries(r, shard, s->stored + 1, index, 1 << 20)));
        cr_assert(zero(int, journal_reader_run(r, &w->msg)), "%s", w->msg.text);
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

static int open_world(struct world *w)
{
    int rv;

    for (otr_shard i = 0; i < SHARDS; i++) {
        struct shard *s = &w->shards[i];
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

static void close_world(struct world *w)
{
    compactor_free(w->c);
    w->c = NULL;
    if (w->j != NULL) {
        journal_close(w->j);
    }
    w->j = NULL;
}

/* --- the model ---------------------------------------------------------------------------------------------------- */

static void state_at(const struct history *h, uint64_t index, struct state *out)
{
    *out = h->base;
    for (uint64_t i = h->base_index + 1; i <= index; i++) {
        const struct op *op = &h->ops[i - h->base_index - 1];
        if (op->kind == RECORD_PUT) {
            out->values[op->collection][op->id] = op->value;
        } else if (op->kind == RECORD_DELETE) {
            out->values[op->collection][op->id] = 0;
        } else {
            memset(out->values[op->collection], 0, sizeof out->values[0]);
        }
    }
}

static bool same_log(const struct history *h, const struct journal_shard_state *state)
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

static void check_shard(struct world *w, otr_shard shard)
{
    struct shard *s = &w->shards[shard];
    struct state want;
    uint64_t count = 0;

    state_at(&s->h, s->stored, &want);
    for (uint64_t c = 0; c < COLLECTIONS; c++) {
        for (unsigned i = 0; i < IDS; i++) {
            char id[16];
            snprintf(id, sizeof id, "id-%u", i);
            cr_assert(eq(u32, find_value(w, shard, c + 1, id), want.values[c][i]), "shard %u collection %llu %s", shard,
                      (unsigned long long)c, id);
            count += want.values[c][i] != 0;
        }
    }
    cr_assert(eq(u64, store_count_all(s->store), count));
}

static void check_ids(const struct shard *s)
{
    uint64_t from = window_start(s, s->h.last);
    size_t at = s->ids_count;

    for (uint64_t i = s->h.last; i > from; i--) {
        cr_assert(at > 0 && s->ids[at - 1] == i, "the id of entry %llu of %llu is forgotten", (unsigned long long)i,
                  (unsigned long long)s->h.last);
        at--;
    }
}

static void seed(struct world *w, otr_shard shard);

/* Opens, and checks everything against the model. */
static void reopen(struct world *w)
{
    cr_assert(zero(int, open_world(w)), "%s", w->msg.text);
    for (otr_shard i = 0; i < SHARDS; i++) {
        struct shard *s = &w->shards[i];
        struct journal_shard_state state;

        (void)journal_shard(w->j, i, &state);
        cr_assert(w->failed || !state.damaged);
        if (state.seed_unfinished) {
            cr_assert(s->before != NULL, "a complete seed came back unfinished");
            seed(w, i);
            continue;
        }
        if (!same_log(&s->h, &state)) {
            cr_assert(s->before != NULL && same_log(s->before, &state), "shard %u shows entry %llu of epoch %llu", i,
                      (unsigned long long)state.last.index, (unsigned long long)state.last.epoch);
            s->h = *s->before;
        }
        cr_assert(ge(u64, state.last.index, s->acked), "shard %u: entry %llu was acknowledged", i,
                  (unsigned long long)s->acked);
        s->h.last = state.last.index;
        apply(w, i, state.last.index);
        s->acked = state.last.index;
        free(s->before);
        s->before = NULL;
        check_shard(w, i);
        check_ids(s);
    }
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
                                              .ids = ids,
                                              .data = w};
    reopen(w);
}

static void finish(struct world *w)
{
    close_world(w);
    for (otr_shard i = 0; i < SHARDS; i++) {
        store_free(w->shards[i].store);
        free(w->shards[i].before);
    }
    fake_disk_free(w->disk);
    free(w);
}

static struct world *new_world(uint64_t rng)
{
    struct world *w = malloc(sizeof *w);

    init(w, rng);
    return w;
}

/* --- what happens ------------------------------------------------------------------------------------------------- */

static int flush(struct world *w)
{
    struct journal_batch *b = journal_flush_begin(w->j);
    int rv;

    if (b == NULL) {
        return journal_failed(w->j) ? OTR_IO : 0;
    }
    journal_flush_run(b);
    rv = journal_flush_end(w->j, b, NULL, NULL, &w->msg);
    for (otr_shard i = 0; i < SHARDS && rv == 0; i++) {
        struct journal_shard_state state;
        struct shard *s = &w->shards[i];
        (void)journal_shard(w->j, i, &state);
        s->acked = state.durable_index;
        free(s->before);
        s->before = NULL;
        if (!w->held) {
            apply(w, i, state.durable_index);
        }
    }
    return rv;
}

static size_t body_of(const struct op *op, uint8_t *body)
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

static int append(struct world *w, otr_shard shard, uint16_t kind, unsigned collection, unsigned id)
{
    struct history *h = &w->shards[shard].h;
    struct journal_shard_state state;
    uint8_t body[1024];
    struct op op = {.kind = kind, .collection = (uint8_t)collection, .id = (uint8_t)id, .value = ++w->value};
    struct record_header r = {.shard = shard, .kind = kind, .index = h->last + 1};
    int rv;

    (void)journal_shard(w->j, shard, &state);
    op.epoch = state.last.epoch + (state.last.epoch == 0 || fake_disk_random(&w->rng) % 40 == 0);
    op.epoch = op.epoch > w->epoch ? op.epoch : w->epoch;
    r.epoch = op.epoch;
    r.body_bytes = (uint32_t)body_of(&op, body);
    cr_assert(lt(u64, h->last - h->base_index, OPS_MAX));
    rv = journal_append(w->j, &r, body, NULL);
    if (rv == 0) {
        h->ops[h->last - h->base_index] = op;
        h->last++;
    }
    return rv;
}

static void remember(struct shard *s)
{
    if (s->before == NULL) { /* of several changes that are not durable, any number may be lost: one at a time */
        s->before = malloc(sizeof *s->before);
        *s->before = s->h;
    }
}

/* Entries that were never committed go, others take their place. */
static void cut(struct world *w, otr_shard shard)
{
    struct shard *s = &w->shards[shard];
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
        struct op op = {.kind = RECORD_PUT, .id = 1, .value = ++w->value, .epoch = epoch};
        struct record_header r = {.shard = shard, .kind = RECORD_PUT, .index = index, .epoch = epoch};
        uint8_t body[1024];
        r.body_bytes = (uint32_t)body_of(&op, body);
        if (journal_append(w->j, &r, body, NULL) == 0) {
            s->h.ops[index - s->h.base_index - 1] = op;
            s->h.last = index;
        }
    }
}

/* The shard is seeded with what it is now, and half of it changed, as of a later index. */
static void seed(struct world *w, otr_shard shard)
{
    struct shard *s = &w->shards[shard];
    struct journal_meta meta = {.log_id = ++w->value};
    struct state state;
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
    for (uint8_t c = 0; c < COLLECTIONS; c++) {
        for (uint8_t i = 0; i < IDS; i++) {
            struct op op = {.kind = RECORD_PUT, .collection = c, .id = i, .value = state.values[c][i]};
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
            (void)flush(w);
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

/* Compacts as long as there is something to do, at most `steps` pieces; returns how many it were. */
static unsigned compact(struct world *w, unsigned steps)
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

static void work(struct world *w, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        otr_shard shard = (otr_shard)(fake_disk_random(&w->rng) % SHARDS);
        uint64_t dice = fake_disk_random(&w->rng) % 100;
        unsigned id = (unsigned)(fake_disk_random(&w->rng) % IDS);
        unsigned collection = fake_disk_random(&w->rng) % 4 == 0;

        (void)append(w, shard, dice < 70 ? RECORD_PUT : dice < 98 ? RECORD_DELETE : RECORD_DROP, collection, id);
        if (fake_disk_random(&w->rng) % 4 == 0) {
            (void)flush(w);
        }
    }
}

static uint64_t used(const struct world *w)
{
    return fake_disk_used(w->disk);
}

static void crash(struct world *w, enum fake_disk_loss loss)
{
    fake_disk_crash_as(w->disk, loss, &w->rng);
    close_world(w);
}

/* --- tests -------------------------------------------------------------------------------------------------------- */

Test(compactor, overwriting_the_same_points_takes_bounded_space)
{
    struct world *w = new_world(1);
    struct compactor_stats stats;
    uint64_t most = 0;

    for (int round = 0; round < 12; round++) {
        work(w, 200);
        cr_assert(zero(int, flush(w)));
        compact(w, 1000);
        most = used(w) > most ? used(w) : most;
        for (otr_shard i = 0; i < SHARDS; i++) {
            check_shard(w, i);
        }
    }
    compactor_stats(w->c, &stats);
    cr_assert(zero(u64, stats.failed_total + stats.halted));
    cr_assert(gt(u64, stats.segments_total, 30));
    cr_assert(lt(u64, most, 60000)); /* of more than 400,000 that were appended */
    crash(w, FAKE_DISK_LOSE_ALL);
    reopen(w);
    finish(w);
}

/* Anything, in any order, with crashes. */
Test(compactor, a_random_life_loses_nothing, .timeout = 300)
{
    for (uint64_t seed_number = 1; seed_number <= 60; seed_number++) {
        struct world *w = new_world(seed_number);

        for (int round = 0; round < 12; round++) {
            for (int i = 0; i < 30; i++) {
                uint64_t dice = fake_disk_random(&w->rng) % 100;
                otr_shard shard = (otr_shard)(fake_disk_random(&w->rng) % SHARDS);

                if (dice < 60) {
                    work(w, 8);
                } else if (dice < 85) {
                    compact(w, 1 + (unsigned)(fake_disk_random(&w->rng) % 12));
                } else if (dice < 89) {
                    w->held = !w->held;
                } else if (dice < 96) {
                    cut(w, shard);
                } else if (dice < 97 && flush(w) == 0) {
                    seed(w, shard);
                } else {
                    (void)flush(w);
                }
            }
            w->held = false;
            fake_disk_crash(w->disk, &w->rng);
            close_world(w);
            reopen(w);
        }
        finish(w);
    }
}

/* After every single step of a compaction the machine may stop, in any way. */
Test(compactor, a_crash_at_any_step_loses_nothing, .timeout = 300)
{
    static const enum fake_disk_loss losses[] = {FAKE_DISK_LOSE_ALL, FAKE_DISK_KEEP_ALL, FAKE_DISK_PREFIX,
                                                 FAKE_DISK_SECTORS, FAKE_DISK_GARBAGE};

    for (unsigned mode = 0; mode < sizeof losses / sizeof losses[0]; mode++) {
        unsigned done = 1;
        for (unsigned steps = 1; done > 0; steps++) {
            struct world *w = new_world(5);
            unsigned limit = steps;

            work(w, 300);
            cr_assert(zero(int, flush(w)));
            done = compact(w, limit) == limit;
            crash(w, losses[mode]);
            reopen(w);
            compact(w, 3);
            work(w, 20);
            compact(w, 1000);
            crash(w, losses[mode]);
            reopen(w);
            finish(w);
            cr_assert(lt(u32, steps, 2000));
        }
    }
}

/* Every call to the disk fails once: an attempt comes to nothing, or the journal says that it failed. */
Test(compactor, any_call_may_fail, .timeout = 300)
{
    static const enum fake_disk_loss losses[] = {FAKE_DISK_LOSE_ALL, FAKE_DISK_KEEP_ALL, FAKE_DISK_GARBAGE};

    for (unsigned mode = 0; mode < 3; mode++) {
        bool met = true;
        for (uint64_t n = 1; met; n++) {
            struct world *w = new_world(9);

            w->failed = true;
            w->compaction.reserve_bytes = 1;
            work(w, 200);
            cr_assert(zero(int, flush(w)));
            fake_disk_fail_call(w->disk, FAKE_DISK_ANY, n);
            compact(w, 1000);
            work(w, 30);
            w->now_ms += 10000;
            compact(w, 1000);
            met = !fake_disk_fail_pending(w->disk);
            crash(w, losses[mode]);
            while (open_world(w) != 0) {
                close_world(w);
            }
            close_world(w);
            reopen(w);
            finish(w);
            cr_assert(lt(u64, n, 3000));
        }
    }
}

/* ... and while recovery clears up what a crash left of a compaction. */
Test(compactor, recovery_may_fail_too, .timeout = 300)
{
    bool met = true;

    for (uint64_t n = 1; met; n++) {
        struct world *w = new_world(11);

        work(w, 200);
        cr_assert(zero(int, flush(w)));
        compact(w, 1000);
        work(w, 200);
        cr_assert(zero(int, flush(w)));
        compact(w, 19);
        crash(w, FAKE_DISK_KEEP_ALL);
        fake_disk_fail_call(w->disk, FAKE_DISK_ANY, n);
        if (open_world(w) != 0) {
            cr_assert(w->j == NULL);
        } else {
            close_world(w);
        }
        met = !fake_disk_fail_pending(w->disk);
        fake_disk_crash_as(w->disk, FAKE_DISK_LOSE_ALL, &w->rng);
        reopen(w);
        finish(w);
        cr_assert(lt(u64, n, 2000));
    }
}

/* What a replica that lags asks for: by log as long as retention keeps it, then it is told that it is gone. */
Test(compactor, entries_leave_the_log_in_their_order_and_not_before_their_time)
{
    struct world *w = new_world(3);
    struct journal_shard_state state;
    struct journal_bytes bytes;

    close_world(w);
    w->compaction.retain_bytes = 1 << 20;
    reopen(w);
    for (int i = 0; i < 200; i++) {
        append(w, 1, RECORD_PUT, 0, 1);
    }
    cr_assert(zero(int, flush(w)));
    compact(w, 1000);
    (void)journal_shard(w->j, 1, &state);
    cr_assert(eq(u64, state.first.index, 1));
    close_world(w);

    w->compaction.retain_bytes = 0;
    w->compaction.retain_ms = 60000;
    reopen(w);
    append(w, 1, RECORD_PUT, 0, 2); /* its segment is begun now */
    cr_assert(zero(int, flush(w)));
    compact(w, 1000);
    (void)journal_shard(w->j, 1, &state);
    cr_assert(eq(u64, state.first.index, 1));
    w->now_ms += 61000;
    w->held = true;
    for (int i = 0; i < 40; i++) {
        append(w, 1, RECORD_PUT, 0, 3); /* not committed: stay, whatever retention says */
        flush(w);
    }
    w->now_ms += 61000;
    compact(w, 1000);
    (void)journal_shard(w->j, 1, &state);
    cr_assert(gt(u64, state.base.index, 0));
    cr_assert(le(u64, state.base.index, w->shards[1].stored));
    cr_assert(eq(int, journal_read(w->j, 1, state.base.index, state.last.index, 100, &bytes), OTR_GONE));
    cr_assert(eq(u64, journal_epoch_at(w->j, 1, state.base.index), state.base.epoch));
    apply(w, 1, state.last.index);
    check_shard(w, 1);
    crash(w, FAKE_DISK_LOSE_ALL);
    reopen(w);
    finish(w);
}

/* A snapshot's places are good as long as its pin lives, and the files go when nobody needs them any more. */
Test(compactor, what_is_pinned_can_be_read)
{
    struct world *w = new_world(4);
    struct store_snapshot *snap;
    struct journal_reader *r;
    struct journal_pin *pin;
    struct otr_point p;
    uint64_t pinned;

    work(w, 300);
    cr_assert(zero(int, flush(w)));
    snap = store_snapshot_by_place(w->shards[1].store, 0);
    pin = journal_pin_new(w->j);
    compact(w, 1000);
    work(w, 300);
    cr_assert(zero(int, flush(w)));
    compact(w, 1000);
    r = journal_reader_new(w->j);
    for (size_t i = 0; i < snap->count; i++) {
        cr_assert(eq(int, journal_reader_point(r, snap->slots[i].place, 0), (int)i));
    }
    cr_assert(zero(int, journal_reader_run(r, &w->msg)), "%s", w->msg.text);
    for (size_t i = 0; i < snap->count; i++) {
        cr_assert(zero(int, journal_reader_point_result(r, (int)i, &p)));
    }
    pinned = used(w);
    journal_pin_free(pin);
    compact(w, 1000);
    cr_assert(lt(u64, used(w), pinned));
    pinned = used(w); /* the reader holds some */
    journal_reader_free(r);
    compact(w, 1000);
    cr_assert(lt(u64, used(w), pinned));
    cr_assert(lt(u64, used(w), 30000));
    store_snapshot_free(snap);
    finish(w);
}

/* Points that were moved are older than any entry, wherever their new file stands. */
Test(compactor, moved_points_are_not_taken_for_new_ones)
{
    struct world *w = new_world(4);
    struct store_snapshot *snap;

    for (unsigned i = 0; i < IDS; i++) {
        append(w, 1, RECORD_PUT, 0, i);
    }
    for (int i = 0; i < 200; i++) {
        append(w, 1, RECORD_PUT, 0, 5);
        flush(w);
    }
    compact(w, 1000);
    append(w, 1, RECORD_PUT, 0, 7);
    append(w, 1, RECORD_PUT, 0, 8);
    cr_assert(zero(int, flush(w)));
    snap = store_snapshot_since(w->shards[1].store, 1, journal_place_of(w->j, 1, w->shards[1].h.last - 1));
    cr_assert(eq(sz, snap->count, 2));
    store_snapshot_free(snap);
    snap = store_snapshot_by_place(w->shards[1].store, 1);
    cr_assert(eq(sz, snap->count, IDS));
    cr_assert(ge(u32, place_segment(snap->slots[IDS - 1].place), KEPT_NUMBER_FIRST)); /* some were moved */
    store_snapshot_free(snap);
    finish(w);
}

/* On a full disk compaction makes room out of its reserve. */
Test(compactor, a_full_disk_gets_room_again)
{
    struct world *w = new_world(8);
    struct compactor_stats stats;
    int rv;

    close_world(w);
    w->compaction.reserve_bytes = 1 << 20;
    reopen(w);
    work(w, 100);
    cr_assert(zero(int, flush(w)));
    compact(w, 1000);
    cr_assert(fake_disk_exists(w->disk, "RESERVE"));
    work(w, 400);
    cr_assert(zero(int, flush(w)));
    fake_disk_set_capacity(w->disk, used(w) + 100);
    (void)append(w, 1, RECORD_PUT, 0, 1);
    cr_assert(eq(int, flush(w), OTR_NOSPACE));
    for (int i = 0; i < 2000; i++) {
        w->now_ms += 1100;
        if (compactor_turn(w->c, w->now_ms, true)) {
            compactor_run(w->c);
            rv = compactor_ran(w->c, w->now_ms, &w->msg);
            cr_assert(zero(int, rv), "%s", w->msg.text);
        }
    }
    compactor_stats(w->c, &stats);
    cr_assert(gt(u64, stats.segments_total, 0));
    cr_assert(zero(int, flush(w)), "%s", w->msg.text);
    work(w, 50);
    cr_assert(zero(int, flush(w)));
    crash(w, FAKE_DISK_LOSE_ALL);
    reopen(w);
    finish(w);
}

/* Deletions of points that are no longer anywhere are no longer kept. */
Test(compactor, deletions_do_not_pile_up)
{
    struct world *w = new_world(6);

    close_world(w);
    w->compaction.bytes_max = 1 << 20;
    reopen(w);
    for (unsigned i = 0; i < IDS; i++) {
        append(w, 1, RECORD_PUT, 0, i); /* live for ever */
    }
    for (int i = 0; i < 1200; i++) {
        append(w, 1, RECORD_PUT, 1, (unsigned)i % IDS);
        append(w, 1, RECORD_DELETE, 1, (unsigned)i % IDS);
        if (i % 50 == 0) {
            flush(w);
            compact(w, 100);
        }
    }
    cr_assert(zero(int, flush(w)));
    compact(w, 1000);
    cr_assert(lt(u64, used(w), 40000));
    crash(w, FAKE_DISK_LOSE_ALL);
    reopen(w);
    finish(w);
}

/* Entries that were cut, over more than one segment: the first of them go with a segment that has left, and those that
 * stand in the next one follow nothing. */
Test(compactor, the_rest_of_what_was_cut_is_passed_over)
{
    struct world *w = new_world(7);
    struct shard *s = &w->shards[1];
    struct journal_shard_state state;

    for (unsigned i = 0; i < 5; i++) {
        append(w, 1, RECORD_PUT, 0, i);
    }
    cr_assert(zero(int, flush(w)));
    w->held = true;
    for (unsigned i = 0; i < 80; i++) { /* will be cut: several segments */
        append(w, 1, RECORD_PUT, 0, i % IDS);
        cr_assert(zero(int, flush(w)));
    }
    (void)journal_shard(w->j, 1, &state);
    cr_assert(zero(int, journal_cut(w->j, 1, 6)));
    s->h.last = 5;
    s->acked = 5;
    cr_assert(zero(int, flush(w)));
    w->epoch = state.last.epoch + 1; /* another primary's */
    append(w, 1, RECORD_PUT, 0, 9);
    w->held = false;
    cr_assert(zero(int, flush(w)));
    for (uint64_t bytes = used(w); bytes > 2000; bytes -= 2000) { /* they leave one after the other */
        w->compaction.retain_bytes = bytes - 2000;
        close_world(w);
        reopen(w);
        compact(w, 1000);
        crash(w, FAKE_DISK_LOSE_ALL);
        reopen(w);
        check_shard(w, 1);
    }
    finish(w);
}

/* Bits that flip in a file that compaction wrote: the shards that it holds something of are damaged, scrubbing says so
 * while the journal is open, and so does the next start, once and for all. */
static void note_damage(void *data, otr_shard shard, journal_place place)
{
    (void)place;
    *(uint64_t *)data |= 1ULL << shard;
}

Test(compactor, a_damaged_file_of_its_own_is_found)
{
    for (uint64_t at = 0; at < 2; at++) {
        struct world *w = new_world(21);
        struct journal_shard_state state;
        struct journal_scrub *scrub;
        uint64_t damaged = 0;
        char name[KEPT_NAME_BYTES];
        uint32_t number = KEPT_NUMBER_MAX;

        work(w, 300);
        cr_assert(zero(int, flush(w)));
        compact(w, 1000);
        for (uint32_t i = KEPT_NUMBER_FIRST; i < KEPT_NUMBER_FIRST + 200; i++) {
            kept_name(name, i, true);
            number = fake_disk_exists(w->disk, name) && fake_disk_size(w->disk, name) > 1000 ? i : number;
        }
        cr_assert(ne(u32, number, KEPT_NUMBER_MAX));
        kept_name(name, number, true);
        fake_disk_poke(w->disk, name, at == 0 ? fake_disk_size(w->disk, name) - 200 : 70, "damage", 6);
        scrub = journal_scrub_new(w->j);
        for (int i = 0; i < 200; i++) {
            if (journal_scrub_begin(scrub, 500)) {
                journal_scrub_run(scrub);
                (void)journal_scrub_end(scrub, note_damage, &damaged);
            }
        }
        journal_scrub_free(scrub);
        cr_assert(ne(u64, damaged, 0));
        crash(w, FAKE_DISK_KEEP_ALL);
        for (int starts = 0; starts < 2; starts++) {
            cr_assert(zero(int, open_world(w)), "%s", w->msg.text);
            (void)journal_shard(w->j, 1, &state);
            cr_assert(eq(int, state.damaged, 1));
            cr_assert(eq(u32, compact(w, 10), 0)); /* nothing is touched before it has been seeded */
            crash(w, FAKE_DISK_LOSE_ALL);
        }
        finish(w);
    }
}

/* --- pace --------------------------------------------------------------------------------------------------------- */

static uint64_t reserve_bytes(const struct world *w)
{
    const char *name = fake_disk_exists(w->disk, JOURNAL_RESERVE_NAME) ? JOURNAL_RESERVE_NAME : JOURNAL_RESERVE_PART;

    return fake_disk_exists(w->disk, name) ? fake_disk_size(w->disk, name) : 0;
}

/* So many turns, 100 ms apart. */
static void turns(struct world *w, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        w->now_ms += 100;
        if (compactor_turn(w->c, w->now_ms, false)) {
            compactor_run(w->c);
            (void)compactor_ran(w->c, w->now_ms, &w->msg);
        }
    }
}

/* What the disk is to be spared is: here by the reserve, which is the largest single thing that is written. One that
 * was not finished is begun anew, and one that could not be written is tried again later. */
Test(compactor, the_reserve_is_written_at_the_pace_that_was_asked_for)
{
    struct world *w = new_world(21);
    uint64_t before;

    work(w, 300);
    cr_assert(zero(int, flush(w)));
    compact(w, 1000);
    close_world(w);
    w->compaction.bytes_per_s = 1 << 20;
    w->compaction.reserve_bytes = 16 << 20;
    reopen(w);
    turns(w, 50);
    before = reserve_bytes(w);
    cr_assert(gt(u64, before, 0));
    turns(w, 50); /* 5 s at 1 MiB/s, give or take what may be saved up */
    cr_assert(ge(u64, reserve_bytes(w), before + (4 << 20)), "%llu", (unsigned long long)(reserve_bytes(w) - before));
    cr_assert(le(u64, reserve_bytes(w), before + (6 << 20)), "%llu", (unsigned long long)(reserve_bytes(w) - before));
    cr_assert(not(fake_disk_exists(w->disk, JOURNAL_RESERVE_NAME)));
    close_world(w); /* ... nor is it when the process ends before it is whole */
    reopen(w);
    cr_assert(not(w->j->reserve));
    turns(w, 20);
    fake_disk_fail_call(w->disk, FAKE_DISK_WRITE, 2);
    turns(w, 40);
    cr_assert(not(fake_disk_fail_pending(w->disk)));
    cr_assert(zero(u64, reserve_bytes(w))); /* Half a reserve is none. */
    turns(w, 300);
    cr_assert(eq(u64, reserve_bytes(w), 16 << 20));
    cr_assert(fake_disk_exists(w->disk, JOURNAL_RESERVE_NAME));
    turns(w, 50); /* and that is all */
    cr_assert(eq(u64, reserve_bytes(w), 16 << 20));
    crash(w, FAKE_DISK_LOSE_ALL);
    cr_assert(zero(sz, fake_disk_open_files(w->disk)));
    reopen(w);
    cr_assert(eq(u64, reserve_bytes(w), 16 << 20));
    finish(w);
}

static unsigned busy_left;

static int ids_later(void *data, otr_shard shard, uint64_t *from, uint64_t to, uint8_t **bytes, size_t *count)
{
    if (busy_left > 0) {
        busy_left--;
        return OTR_BUSY;
    }
    return ids(data, shard, from, to, bytes, count);
}

/* Request ids that are not known yet are waited for: nothing is replaced before, no error is told, and then it is done.
 */
Test(compactor, request_ids_that_are_not_known_yet_are_waited_for)
{
    struct world *w = new_world(22);
    struct compactor_stats stats;

    close_world(w);
    w->compaction.ids = ids_later;
    reopen(w);
    busy_left = 2;
    work(w, 300);
    cr_assert(zero(int, flush(w)));
    for (unsigned i = 0; i < 2000 && busy_left > 0; i++) {
        w->now_ms += 100;
        if (compactor_turn(w->c, w->now_ms, false)) {
            compactor_run(w->c);
            cr_assert(zero(int, compactor_ran(w->c, w->now_ms, &w->msg)), "%s", w->msg.text);
        }
        compactor_stats(w->c, &stats);
        cr_assert(zero(u64, stats.segments_total));
    }
    cr_assert(zero(u32, busy_left));
    turns(w, 3000);
    compactor_stats(w->c, &stats);
    cr_assert(gt(u64, stats.segments_total, 0));
    cr_assert(eq(u64, stats.failed_total, 2));
    crash(w, FAKE_DISK_LOSE_ALL);
    reopen(w);
    finish(w);
}

/* --- damage ------------------------------------------------------------------------------------------------------- */

static void flip(struct world *w, const char *name, uint64_t offset)
{
    uint8_t byte = fake_disk_bytes(w->disk, name)[offset] ^ (uint8_t)(1 << offset % 8);

    fake_disk_poke(w->disk, name, offset, &byte, 1);
}

struct largest {
    const struct fake_disk *disk;
    char *name;
};

static void find_kept(const char *name, void *data)
{
    struct largest *l = data;
    bool finished;

    if (kept_number_of(name, &finished) != 0 && finished &&
        (l->name[0] == '\0' || fake_disk_size(l->disk, name) > fake_disk_size(l->disk, l->name))) {
        snprintf(l->name, KEPT_NAME_BYTES, "%s", name);
    }
}

/* A life with files that compaction made; the name of the largest of them. */
static struct world *kept_world(char name[KEPT_NAME_BYTES])
{
    struct world *w = new_world(13);
    struct largest largest = {.disk = w->disk, .name = name};

    for (int i = 0; i < 3; i++) {
        work(w, 150);
        cr_assert(zero(int, flush(w)));
        compact(w, 1000);
    }
    work(w, 40);
    cr_assert(zero(int, flush(w)));
    name[0] = '\0';
    cr_assert(zero(int, w->config.fs->ops->list(w->config.fs, find_kept, &largest, &w->msg)));
    cr_assert(gt(u64, fake_disk_size(w->disk, name), 2000));
    return w;
}

/* One bit of a file that compaction made is wrong when it is read again: the journal refuses to open, or says which
 * shards have lost something. Those that it calls sound are what they were. */
Test(compactor, damage_in_what_was_kept_is_told, .timeout = 300)
{
    char name[KEPT_NAME_BYTES];
    struct world *w = kept_world(name);
    struct fake_disk *sound;

    crash(w, FAKE_DISK_KEEP_ALL);
    sound = w->disk;
    for (uint64_t offset = 0; offset < fake_disk_size(sound, name); offset += 7) {
        unsigned damaged = 0;
        int rv;

        w->disk = fake_disk_clone(sound);
        flip(w, name, offset);
        w->msg.text[0] = '\0';
        rv = open_world(w);
        cr_assert(rv == 0 || w->msg.text[0] != '\0', "offset %llu", (unsigned long long)offset);
        for (otr_shard i = 0; rv == 0 && i < SHARDS; i++) {
            struct journal_shard_state state;

            (void)journal_shard(w->j, i, &state);
            damaged += state.damaged;
            if (!state.damaged) {
                cr_assert(same_log(&w->shards[i].h, &state), "offset %llu: shard %u", (unsigned long long)offset, i);
                apply(w, i, state.last.index);
                check_shard(w, i);
            }
        }
        cr_assert(rv != 0 || damaged > 0, "offset %llu of %s: nobody noticed", (unsigned long long)offset, name);
        close_world(w);
        fake_disk_free(w->disk);
    }
    w->disk = sound;
    reopen(w);
    finish(w);
}

static size_t kept_body_of(const uint8_t *record)
{
    struct record_header h;

    cr_assert(zero(int, record_header_read(record, &h)));
    return h.body_bytes;
}

/* A sound file that goes on behind entries which do not stand before it: its shards are told to be damaged. */
Test(compactor, a_file_that_goes_on_behind_what_is_not_there)
{
    char name[KEPT_NAME_BYTES];
    struct world *w = kept_world(name);
    struct kept_head head;
    struct kept_line lines[SHARDS];
    uint8_t record[4096];
    const uint8_t *bytes;
    unsigned claims = 0;

    crash(w, FAKE_DISK_KEEP_ALL);
    bytes = fake_disk_bytes(w->disk, name);
    cr_assert(zero(int, kept_head_read(bytes + RECORD_HEADER_BYTES, kept_body_of(bytes), &head)));
    cr_assert(le(u32, head.lines_count, SHARDS));
    for (uint32_t i = 0; i < head.lines_count; i++) {
        kept_line_read(bytes + RECORD_HEADER_BYTES, i, &lines[i]);
        if (!lines[i].reset && !lines[i].cut_only) {
            lines[i].before += 100000;
            claims++;
        }
    }
    cr_assert(gt(u32, claims, 0));
    kept_head_write(record, &head, lines);
    fake_disk_poke(w->disk, name, 0, record, kept_head_bytes(head.lines_count, head.identity_bytes));
    cr_assert(zero(int, open_world(w)));
    for (uint32_t i = 0; i < head.lines_count; i++) {
        struct journal_shard_state state;

        (void)journal_shard(w->j, lines[i].shard, &state);
        cr_assert(eq(int, state.damaged, lines[i].before >= 100000 && !lines[i].reset), "shard %u", lines[i].shard);
    }
    finish(w);
}

struct names {
    char list[200][KEPT_NAME_BYTES];
    size_t count;
};

static void add_name(const char *name, void *data)
{
    struct names *names = data;

    cr_assert(lt(sz, names->count, 200));
    snprintf(names->list[names->count++], KEPT_NAME_BYTES, "%s", name);
}

/* A whole file is gone. What was in the last segment could as well never have been written; all others are missed. */
Test(compactor, a_file_that_is_gone_is_missed)
{
    static struct names names;
    char largest[KEPT_NAME_BYTES];
    struct world *w = kept_world(largest);
    struct fake_disk *sound;
    uint32_t newest = 0;

    crash(w, FAKE_DISK_KEEP_ALL);
    sound = w->disk;
    cr_assert(zero(int, w->config.fs->ops->list(w->config.fs, add_name, &names, &w->msg)));
    for (size_t i = 0; i < names.count; i++) {
        uint32_t number = segment_number_of(names.list[i]);
        newest = number > newest ? number : newest;
    }
    cr_assert(gt(sz, names.count, 4));
    for (size_t k = 0; k < names.count; k++) {
        unsigned damaged = 0;
        int rv;

        w->disk = fake_disk_clone(sound);
        w->config.fs = fake_disk_fs(w->disk);
        cr_assert(zero(int, w->config.fs->ops->remove(w->config.fs, names.list[k], &w->msg)));
        rv = open_world(w);
        for (otr_shard i = 0; rv == 0 && i < SHARDS; i++) {
            struct journal_shard_state state;

            (void)journal_shard(w->j, i, &state);
            damaged += state.damaged;
            if (!state.damaged) {
                cr_assert(same_log(&w->shards[i].h, &state), "without %s: shard %u", names.list[k], i);
                apply(w, i, state.last.index);
                check_shard(w, i);
            }
        }
        cr_assert(rv != 0 || damaged > 0 || segment_number_of(names.list[k]) == newest, "%s is not missed",
                  names.list[k]);
        close_world(w);
        fake_disk_free(w->disk);
    }
    w->disk = sound;
    reopen(w);
    finish(w);
}

struct told {
    uint32_t segment;
    unsigned count;
};

static void on_damage(void *data, otr_shard shard, journal_place place)
{
    struct told *told = data;

    cr_assert(lt(u32, shard, SHARDS));
    told->segment = place_segment(place);
    told->count++;
}

static unsigned scrub(struct world *w)
{
    struct journal_scrub *s = journal_scrub_new(w->j);
    struct told told = {0};

    while (journal_scrub_begin(s, 700)) {
        journal_scrub_run(s);
        cr_assert(gt(u64, journal_scrub_end(s, on_damage, &told), 0));
    }
    journal_scrub_free(s);
    return told.count;
}

/* The same bit is found while the journal is in use, before anybody needs what it spoilt. */
Test(compactor, damage_in_what_was_kept_is_found_by_the_scrub, .timeout = 300)
{
    char name[KEPT_NAME_BYTES];
    struct world *w = kept_world(name);
    uint64_t bytes = fake_disk_size(w->disk, name);

    cr_assert(zero(u32, scrub(w)));
    for (uint64_t offset = 0; offset < bytes; offset += 13) {
        flip(w, name, offset);
        cr_assert(gt(u32, scrub(w), 0), "offset %llu of %llu", (unsigned long long)offset, (unsigned long long)bytes);
        flip(w, name, offset);
        cr_assert(zero(u32, scrub(w)), "offset %llu of %llu", (unsigned long long)offset, (unsigned long long)bytes);
    }
    fake_disk_cut(w->disk, name, bytes - 8); /* ... and a file that has lost its end */
    cr_assert(gt(u32, scrub(w), 0));
    finish(w);
}

/* --- memory ------------------------------------------------------------------------------------------------------- */

/* Every allocation fails once, in a compaction and in the recovery behind it: an attempt comes to nothing, is made
 * again later, and nothing is lost. */
static void without_memory(void *data)
{
    struct otr_errmsg msg = {0};
    struct world *w;
    int rv;

    (void)data;
    fail_calls_pause(true);
    w = new_world(17);
    work(w, 200);
    cr_assert(zero(int, flush(w)));
    fail_calls_pause(false);
    for (unsigned i = 0; i < 150; i++) {
        w->now_ms += 600;
        if (compactor_turn(w->c, w->now_ms, false)) {
            compactor_run(w->c);
            msg.text[0] = '\0';
            rv = compactor_ran(w->c, w->now_ms, &msg);
            cr_assert(rv == 0 || msg.text[0] != '\0', "no words after %s failed", fail_calls_name());
        }
    }
    fail_calls_pause(true);
    crash(w, FAKE_DISK_LOSE_ALL);
    fail_calls_pause(false);
    rv = journal_open(&w->j, &w->config, NULL, NULL, &w->msg);
    cr_assert(rv == 0 || rv == OTR_NOMEM, "%s: %s", otr_errname(rv), w->msg.text);
    fail_calls_pause(true);
    if (rv == 0) {
        journal_close(w->j);
    }
    w->j = NULL;
    reopen(w);
    finish(w);
    fail_calls_pause(false);
}

Test(compactor, any_allocation_may_fail, .timeout = 300)
{
    cr_assert(gt(u32, fail_each(without_memory, NULL), 20));
}
