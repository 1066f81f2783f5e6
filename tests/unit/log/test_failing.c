/* A journal on real files, and every allocation and every call of the system fails once: it says so or is as if nothing
 * had happened, and what was reported as durable is there when it is opened again. */
#include "sidecar/log/file.h"
#include "sidecar/log/flusher.h"
#include "sidecar/log/journal.h"
#include "tests/lib/fail_calls.h"
#include "tests/lib/temp_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

TestSuite(failing, .timeout = 200);

enum { SHARD = 1, EPOCH = 7, BODY_BYTES = 700 };

struct life {
    struct temp_dir dir;
    uint64_t durable; /* as was reported */
    bool failed;      /* a flush did: then nothing is trusted before it is copied anew (PROTOCOL E3) */
};

static void on_durable(void *data, otr_shard shard, uint64_t durable_index, uint64_t metas_durable)
{
    struct life *life = data;

    (void)shard;
    (void)metas_durable;
    life->durable = durable_index > life->durable ? durable_index : life->durable;
}

/* False: the journal is not to be used any more. */
static bool flush(struct journal *j, struct life *life)
{
    for (int i = 0; i < 3; i++) {
        struct journal_batch *b = journal_flush_begin(j);
        struct otr_errmsg msg = {0};
        int rv;

        if (b == NULL) {
            return !journal_failed(j);
        }
        journal_flush_run(b);
        rv = journal_flush_end(j, b, on_durable, life, &msg);
        cr_assert(eq(int, rv != 0, msg.text[0] != '\0'));
        if (rv != 0 && rv != OTR_NOSPACE) {
            cr_assert(journal_failed(j), "%s", msg.text);
            life->failed = true;
            return false;
        }
        if (rv == 0) {
            return true;
        }
    }
    cr_assert(false, "one full disk, and it stays full");
    return false;
}

static bool write_some(struct journal *j, struct life *life, uint64_t first, uint64_t last)
{
    static const uint8_t body[BODY_BYTES];
    struct journal_meta meta = {.log_id = 3, .promised = EPOCH};

    if (journal_meta_write(j, SHARD, &meta) != 0) {
        return true; /* refused, and nothing has changed */
    }
    for (uint64_t i = first; i <= last; i++) {
        struct record_header h = {
            .shard = SHARD, .epoch = EPOCH, .kind = RECORD_PUT, .index = i, .body_bytes = BODY_BYTES};

        if (journal_append(j, &h, body, NULL) != 0) {
            return flush(j, life);
        }
        if (i % 5 == 0 && !flush(j, life)) {
            return false;
        }
    }
    return flush(j, life);
}

static void read_some(struct journal *j, uint64_t first, uint64_t last)
{
    struct journal_reader *r = journal_reader_new(j);
    struct otr_errmsg msg = {0};
    int rv = r == NULL ? OTR_NOMEM : journal_reader_entries(r, SHARD, first, last, 1 << 20);

    rv = rv == 0 ? journal_reader_run(r, &msg) : rv;
    cr_assert(rv != OTR_CORRUPT, "one failed call is no damage: %s", msg.text);
    cr_assert(rv == 0 || fail_calls_name()[0] != '\0');
    if (r != NULL) {
        journal_reader_free(r);
    }
}

static struct journal_config config_of(struct file_system *fs)
{
    return (struct journal_config){.fs = fs, .segment_bytes = 4000, .tail_bytes = 1, .identity = "test/node-1"};
}

/* NULL: it could not be opened, and says why. */
static struct journal *open_at(const char *path, struct file_system **fs)
{
    struct journal_config config;
    struct journal *j = NULL;
    struct otr_errmsg msg = {0};
    int rv = file_posix_new(fs, path, &msg);

    cr_assert(eq(int, rv != 0, msg.text[0] != '\0'), "%s: no words after %s failed", otr_errname(rv),
              fail_calls_name());
    if (rv != 0) {
        return NULL;
    }
    config = config_of(*fs);
    rv = journal_open(&j, &config, NULL, NULL, &msg);
    cr_assert(eq(int, rv != 0, msg.text[0] != '\0'), "%s: no words after %s failed", otr_errname(rv),
              fail_calls_name());
    if (rv != 0) {
        file_posix_free(*fs);
        return NULL;
    }
    return j;
}

static void close_it(struct journal *j, struct file_system *fs)
{
    journal_close(j);
    file_posix_free(fs);
}

static uint64_t last_of(struct journal *j, const struct life *life)
{
    struct journal_shard_state state = {0};

    (void)journal_shard(j, SHARD, &state);
    cr_assert(not(state.damaged && !life->failed), "damaged after %s failed", fail_calls_name());
    return state.last.index;
}

/* Nothing fails any more: all that was reported is there. */
static void check(struct life *life)
{
    struct file_system *fs;
    struct journal *j;

    fail_calls_pause(true);
    j = open_at(life->dir.path, &fs);
    cr_assert(j != NULL);
    cr_assert(ge(u64, last_of(j, life), life->durable), "%llu were durable, %llu are there, after %s failed",
              (unsigned long long)life->durable, (unsigned long long)last_of(j, life), fail_calls_name());
    for (uint64_t i = 1; i <= life->durable; i++) {
        cr_assert(eq(u64, journal_epoch_at(j, SHARD, i), EPOCH));
    }
    if (life->durable > 0) {
        read_some(j, 1, life->durable);
    }
    close_it(j, fs);
    fail_calls_pause(false);
}

static void live(void *data)
{
    struct life life = {.durable = 0};
    struct file_system *fs;
    struct journal *j;

    (void)data;
    temp_dir_init(&life.dir);
    j = open_at(life.dir.path, &fs);
    if (j != NULL) {
        if (write_some(j, &life, 1, 12) && last_of(j, &life) >= 12) {
            read_some(j, 1, 12);
        }
        close_it(j, fs);
        j = open_at(life.dir.path, &fs);
    }
    if (j != NULL) { /* again, behind what is there */
        cr_assert(ge(u64, last_of(j, &life), life.durable));
        write_some(j, &life, last_of(j, &life) + 1, last_of(j, &life) + 7);
        close_it(j, fs);
    }
    check(&life);
    temp_dir_close(&life.dir);
}

Test(failing, a_journal_on_real_files)
{
    cr_assert(gt(uint, fail_each(live, NULL), 60));
}

static void lock_life(void *data)
{
    struct otr_errmsg msg = {0};
    int lock = -1;
    int rv = file_posix_lock(data, &lock, &msg);

    cr_assert(eq(int, rv != 0, msg.text[0] != '\0'), "no words after %s failed", fail_calls_name());
    if (rv == 0) {
        file_posix_unlock(lock);
    }
}

Test(failing, the_lock)
{
    struct temp_dir dir;
    char path[300];

    temp_dir_init(&dir);
    snprintf(path, sizeof path, "%s/lock", dir.path);
    cr_assert(gt(uint, fail_each(lock_life, path), 1));
    temp_dir_close(&dir);
}

static void notify(void *data)
{
    (void)data;
}

static void flusher_life(void *data)
{
    struct flusher *f = NULL;
    struct otr_errmsg msg = {0};
    int rv = flusher_start(&f, notify, NULL, &msg);

    (void)data;
    cr_assert(eq(int, rv != 0, msg.text[0] != '\0'));
    if (rv == 0) {
        cr_assert(zero(ptr, flusher_stop(f)));
    }
}

Test(failing, the_flusher)
{
    cr_assert(eq(uint, fail_each(flusher_life, NULL), 2));
}
