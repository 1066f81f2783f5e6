/* Every allocation fails once: the call says so, nothing has changed, and the same call succeeds afterwards. */
#include "sidecar/log/journal.h"
#include "tests/lib/fail_calls.h"
#include "tests/lib/temp_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

static struct journal_shard_state state_of(const struct journal *j)
{
    struct journal_shard_state state;

    (void)journal_shard(j, 1, &state);
    return state;
}

static bool same_state(const struct journal_shard_state *a, const struct journal_shard_state *b)
{
    return memcmp(&a->meta, &b->meta, sizeof a->meta) == 0 && otr_position_compare(a->first, b->first) == 0 &&
           otr_position_compare(a->last, b->last) == 0 && otr_position_compare(a->base, b->base) == 0 &&
           a->durable_index == b->durable_index && a->seed_unfinished == b->seed_unfinished && a->damaged == b->damaged;
}

/* Calls `call` until it does not run out of memory, which it may do once; the shard's state is then as it was before.
 */
#define TWICE(j, call)                                      \
    do {                                                    \
        struct journal_shard_state before = state_of(j);    \
        int rv_ = (call);                                   \
        if (rv_ == OTR_NOMEM) {                             \
            struct journal_shard_state after = state_of(j); \
            cr_assert(same_state(&before, &after));         \
            rv_ = (call);                                   \
        }                                                   \
        cr_assert(eq(int, rv_, 0));                         \
    } while (0)

static void append(struct journal *j, uint64_t index, uint64_t epoch)
{
    static const uint8_t body[600];
    struct record_header h = {
        .shard = 1, .epoch = epoch, .kind = RECORD_PUT, .index = index, .body_bytes = (uint32_t)(index % 3 * 300)};

    TWICE(j, journal_append(j, &h, body, NULL));
}

static void append_raw(struct journal *j, uint64_t index, uint64_t epoch)
{
    uint8_t records[3 * RECORD_HEADER_BYTES];

    for (size_t i = 0; i < 3; i++) {
        struct record_header h = {.shard = 1, .epoch = epoch, .kind = RECORD_EPOCH, .index = index + i};
        record_seal(records + i * RECORD_HEADER_BYTES, &h);
    }
    TWICE(j, journal_append_raw(j, 1, records, sizeof records));
}

static void flush(struct journal *j)
{
    struct journal_batch *b = journal_flush_begin(j);

    cr_assert(b != NULL);
    journal_flush_run(b);
    cr_assert(eq(int, journal_flush_end(j, b, NULL, NULL, NULL), 0));
}

/* Reads the entries [first, last], trying again once when memory runs out. */
static void read_entries(struct journal *j, uint64_t first, uint64_t last, int tries)
{
    struct journal_reader *r = journal_reader_new(j);
    int rv = r == NULL ? OTR_NOMEM : journal_reader_entries(r, 1, first, last, 1 << 20);

    if (rv == 0 && journal_reader_point(r, 1ULL << 40 | 50, 0) < 0) {
        rv = OTR_NOMEM;
    }
    if (rv == 0) {
        rv = journal_reader_run(r, NULL);
    }
    if (rv == 0) {
        cr_assert(eq(u64, journal_reader_result(r)->last, last));
    }
    journal_reader_free(r);
    if (rv != 0) {
        cr_assert(eq(int, rv, OTR_NOMEM));
        cr_assert(gt(int, tries, 0));
        read_entries(j, first, last, tries - 1);
    }
}

static struct journal *open_twice(const struct journal_config *config)
{
    struct otr_errmsg msg = {0};
    struct journal *j = NULL;
    int rv = journal_open(&j, config, NULL, NULL, &msg);

    if (rv == OTR_NOMEM) {
        cr_assert(j == NULL);
        cr_assert(strstr(msg.text, "out of memory") != NULL, "%s", msg.text);
        rv = journal_open(&j, config, NULL, NULL, &msg);
    }
    cr_assert(eq(int, rv, 0), "%s", msg.text);
    return j;
}

/* A short life; segments of 4000 bytes. Flushing allocates only where it opens a file: there it is an I/O error like
 * any other, tested elsewhere, so the allocation that fails is held back meanwhile. */
static void live(const struct journal_config *config)
{
    struct journal_meta meta = {.log_id = 4, .promised = 1};
    struct journal *j = open_twice(config);

    for (uint64_t i = 1; i <= 30; i++) {
        append(j, i, 1 + i / 4);
        if (i % 10 == 0) {
            fail_calls_pause(true);
            flush(j);
            fail_calls_pause(false);
        }
    }
    append_raw(j, 31, 9);
    TWICE(j, journal_meta_write(j, 1, &meta));
    TWICE(j, journal_cut(j, 1, 33));
    fail_calls_pause(true);
    flush(j);
    fail_calls_pause(false);
    read_entries(j, 1, 10, 1);
    read_entries(j, 32, 32, 1);
    journal_close(j);

    j = open_twice(config);
    cr_assert(eq(u64, state_of(j).last.index, 32));
    cr_assert(not(state_of(j).damaged));
    meta.log_id = 5;
    TWICE(j, journal_seed_begin(j, 1, &meta));
    TWICE(j, journal_seed_end(j, 1, ((struct otr_position){20, 100}), NULL, 0));
    append(j, 101, 20);
    fail_calls_pause(true);
    flush(j);
    fail_calls_pause(false);
    cr_assert(eq(u64, state_of(j).durable_index, 101));
    journal_close(j);
}

Test(journal_nomem, any_allocation_may_fail)
{
    bool met = true;

    for (uint64_t n = 1; met; n++) {
        struct journal_config config = {.segment_bytes = 4000, .tail_bytes = 1, .identity = "test/node-1"};
        struct temp_dir dir;

        temp_dir_init(&dir);
        cr_assert(eq(int, file_posix_new(&config.fs, dir.path, NULL), 0));
        fail_calls_at(FAIL_MEMORY, n);
        live(&config);
        met = !fail_calls_pending();
        fail_calls_at(FAIL_MEMORY, 0);
        file_posix_free(config.fs);
        temp_dir_close(&dir);
        cr_assert(lt(u64, n, 2000));
    }
}
