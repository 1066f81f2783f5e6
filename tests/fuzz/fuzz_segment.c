/* Journal segments and the files that compaction wrote: recovery over a disk in memory that holds the input. Where a
 * whole SEGMENT or KEPT_HEAD record stands in it, the next file begins, of the number that it says. Recovery must end
 * with a journal, or with words; a second one must find every shard the same; and what is appended then must be there
 * after a crash, behind all that was.
 *
 * Covers: sidecar/log/segment_scan.c sidecar/log/recovery.c sidecar/log/journal_format.c sidecar/log/journal_recover.c
 * sidecar/log/recovery_kept.c sidecar/log/shard_log.c
 */
#include "sidecar/log/journal_format.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/fake_disk.h"

enum { SHARDS = 8 };

/* --- the disk ----------------------------------------------------------------------------------------------------- */

static bool begins_file(const uint8_t *bytes, size_t available, struct record_header *h)
{
    return record_read(bytes, available, h) == 0 && (h->kind == RECORD_SEGMENT || h->kind == RECORD_KEPT_HEAD);
}

static size_t file_end(const uint8_t *data, size_t bytes, size_t from)
{
    struct record_header h;
    size_t at = from + 8;

    while (at < bytes && !begins_file(data + at, bytes - at, &h)) {
        at += 8;
    }
    return at < bytes ? at : bytes;
}

/* The name that its first record says, or else the next that is free. */
static void name_of(struct fake_disk *disk, const uint8_t *data, size_t bytes, char name[SEGMENT_NAME_BYTES])
{
    struct record_header h;
    uint32_t number = 1;

    if (begins_file(data, bytes, &h)) {
        if (h.kind == RECORD_KEPT_HEAD && h.index >= KEPT_NUMBER_FIRST && h.index <= KEPT_NUMBER_MAX) {
            kept_name(name, (uint32_t)h.index, true);
        } else {
            segment_name(name, h.index >= 1 && h.index <= SEGMENT_NUMBER_MAX ? (uint32_t)h.index : number);
        }
        if (!fake_disk_exists(disk, name)) {
            return;
        }
    }
    do {
        segment_name(name, number++);
    } while (fake_disk_exists(disk, name));
}

static void write_file(struct file_system *fs, const char *name, const uint8_t *data, size_t bytes)
{
    struct otr_errmsg msg;
    struct file *f;

    FUZZ_CHECK(fs->ops->open(fs, name, FILE_CREATE, &f, &msg) == 0);
    FUZZ_CHECK(bytes == 0 || fs->ops->write(f, 0, data, bytes, &msg) == 0);
    FUZZ_CHECK(fs->ops->sync(f, &msg) == 0);
    fs->ops->close(f);
    FUZZ_CHECK(fs->ops->sync_dir(fs, &msg) == 0);
}

static struct fake_disk *disk_of(const uint8_t *data, size_t bytes)
{
    struct fake_disk *disk = fake_disk_new();
    char name[SEGMENT_NAME_BYTES];

    for (size_t at = 0, end; at < bytes; at = end) {
        end = file_end(data, bytes, at);
        name_of(disk, data + at, bytes - at, name);
        write_file(fake_disk_fs(disk), name, data + at, end - at);
    }
    return disk;
}

/* --- recovery ----------------------------------------------------------------------------------------------------- */

/* Whose body it is. */
static uint16_t entry_kind(uint16_t kind)
{
    switch (kind) {
    case RECORD_KEPT_POINTS:
    case RECORD_REPAIR_POINTS:
        return RECORD_PUT;
    case RECORD_KEPT_DELETES:
        return RECORD_DELETE;
    case RECORD_KEPT_DROP:
        return RECORD_DROP;
    default:
        return kind;
    }
}

static void visit(void *data, const struct record_header *h, const uint8_t *body, journal_place place)
{
    struct otr_point p;
    struct body_iter it;

    (void)data;
    FUZZ_CHECK(h->shard < OTR_SHARDS_MAX && (place != 0 || body == NULL));
    FUZZ_CHECK(h->kind < RECORD_LOCAL_FIRST || (h->kind >= RECORD_CUT && h->kind <= RECORD_SEED_END) ||
               (h->kind >= RECORD_KEPT_HEAD && h->kind <= RECORD_REPAIR_POINTS));
    if (body == NULL) {
        return;
    }
    /* The store reads what it is told of. */
    if (body_iter_init(&it, entry_kind(h->kind), body, h->body_bytes) == 0) {
        while (body_next(&it, &p) == 0) {
            (void)point_hash(p.id, p.id_bytes);
        }
    }
}

static int open_journal(struct fake_disk *disk, struct journal **j, struct fuzz_log *log)
{
    struct otr_errmsg msg = {0};
    struct journal_config config = {.fs = fake_disk_fs(disk),
                                    .segment_bytes = 4096,
                                    .tail_bytes = 16384,
                                    .identity = "test/node-1",
                                    .journal_id = 77,
                                    .settled = visit};
    int rv = journal_open(j, &config, visit, NULL, &msg);

    FUZZ_CHECK(rv == 0 || msg.text[0] != '\0');
    for (otr_shard i = 0; rv == 0 && i < SHARDS; i++) {
        struct journal_shard_state s;

        (void)journal_shard(*j, i, &s);
        FUZZ_CHECK(s.durable_index == s.last.index);
        fuzz_log_add(log, "shard %u: %llu.%llu to %llu.%llu, base %llu, log %llx, seed %d, damaged %d\n", i,
                     (unsigned long long)s.first.epoch, (unsigned long long)s.first.index,
                     (unsigned long long)s.last.epoch, (unsigned long long)s.last.index,
                     (unsigned long long)s.base.index, (unsigned long long)s.meta.log_id, s.seed_unfinished, s.damaged);
    }
    return rv;
}

static void flush(struct journal *j)
{
    struct journal_batch *batch = journal_flush_begin(j);
    struct otr_errmsg msg = {0};

    FUZZ_CHECK(batch != NULL);
    journal_flush_run(batch);
    FUZZ_CHECK(journal_flush_end(j, batch, NULL, NULL, &msg) == 0);
}

/* Appends an entry to the first shard that may take one; false when there is none or no room. */
static bool append(struct journal *j, struct record_header *h)
{
    for (otr_shard i = 0; i < SHARDS; i++) {
        struct journal_shard_state s;
        journal_place place;

        (void)journal_shard(j, i, &s);
        if (s.damaged || s.seed_unfinished || s.last.index >= UINT64_MAX - 1) {
            continue;
        }
        *h = (struct record_header){.shard = i,
                                    .kind = RECORD_EPOCH,
                                    .epoch = s.last.epoch != 0 ? s.last.epoch : 1,
                                    .index = s.last.index + 1,
                                    .time_ms = 5};
        return journal_append(j, h, NULL, &place) == 0;
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct fake_disk *disk = disk_of(data, bytes);
    struct fuzz_log one = {0}, two = {0}, three = {0};
    struct record_header h;
    struct journal *j;
    uint64_t random = 1;

    if (open_journal(disk, &j, &one) == 0) {
        journal_close(j);
        fake_disk_crash_as(disk, FAKE_DISK_LOSE_ALL, &random);
        FUZZ_CHECK(open_journal(disk, &j, &two) == 0);
        fuzz_log_same(&one, &two, "a second recovery finds something else");
        if (append(j, &h)) {
            struct journal_shard_state s;

            flush(j);
            journal_close(j);
            fake_disk_crash_as(disk, FAKE_DISK_LOSE_ALL, &random);
            FUZZ_CHECK(open_journal(disk, &j, &three) == 0);
            (void)journal_shard(j, h.shard, &s);
            FUZZ_CHECK(s.last.index == h.index && s.last.epoch == h.epoch && !s.damaged);
            free(three.text);
        }
        journal_close(j);
    } else {
        free(one.text);
    }
    fake_disk_free(disk);
    return 0;
}

/* --- mutations that keep places and checksums right -----------------------------------------------------------------
 */

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t bytes_max, unsigned seed)
{
    uint64_t random = seed;
    uint32_t segment = 0;
    size_t start = 0;
    uint8_t *copy;
    struct record_header h;

    bytes = LLVMFuzzerMutate(data, bytes, bytes_max);
    if (seed % 8 == 0) {
        return bytes; /* Damage, now and then. */
    }
    copy = (uint8_t *)fuzz_copy(data, bytes, 0);
    for (size_t at = 0; at + RECORD_HEADER_BYTES <= bytes; at += record_bytes(h.body_bytes)) {
        if (record_header_read(copy + at, &h) != 0 || record_bytes(h.body_bytes) > bytes - at) {
            h.kind = (uint16_t)(fuzz_random(&random) % 2 != 0 ? RECORD_EPOCH : RECORD_META + fuzz_random(&random) % 5);
            h.body_bytes = 0;
        }
        if (h.kind == RECORD_SEGMENT || h.kind == RECORD_KEPT_HEAD) {
            segment = h.kind == RECORD_SEGMENT ? (uint32_t)h.index : 0;
            start = at;
        }
        if (h.kind == RECORD_BATCH && h.body_bytes == BATCH_BODY_BYTES && fuzz_random(&random) % 8 != 0) {
            journal_place place = place_make(segment, at - start);

            memcpy(copy + at + RECORD_HEADER_BYTES + 8, &place, sizeof place);
        }
        record_seal(copy + at, &h);
    }
    memcpy(data, copy, bytes);
    free(copy);
    return bytes;
}
