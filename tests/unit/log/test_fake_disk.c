/* The fake disk itself: tests that rest on it are worth what it is. */
#include "tests/lib/fake_disk.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

struct rig {
    struct fake_disk *disk;
    struct file_system *fs;
    struct file *f;
    uint64_t rng;
};

/* A file "a" whose name and first four bytes are durable. */
static void rig_init(struct rig *r)
{
    *r = (struct rig){.disk = fake_disk_new()};
    r->fs = fake_disk_fs(r->disk);
    cr_assert(eq(int, r->fs->ops->open(r->fs, "a", FILE_CREATE, &r->f, NULL), 0));
    cr_assert(eq(int, r->fs->ops->write(r->f, 0, "safe", 4, NULL), 0));
    cr_assert(eq(int, r->fs->ops->sync(r->f, NULL), 0));
    cr_assert(eq(int, r->fs->ops->sync_dir(r->fs, NULL), 0));
}

static void rig_close(struct rig *r)
{
    r->fs->ops->close(r->f);
    fake_disk_free(r->disk);
}

static void assert_content(const struct rig *r, const char *content)
{
    cr_assert(eq(u64, fake_disk_size(r->disk, "a"), strlen(content)));
    cr_assert(memcmp(fake_disk_bytes(r->disk, "a"), content, strlen(content)) == 0);
}

Test(fake_disk, what_was_not_synced_is_lost)
{
    struct rig r;

    rig_init(&r);
    cr_assert(eq(int, r.fs->ops->write(r.f, 4, "gone", 4, NULL), 0));
    cr_assert(eq(int, r.fs->ops->write(r.f, 0, "X", 1, NULL), 0));
    assert_content(&r, "Xafegone");
    fake_disk_crash_as(r.disk, FAKE_DISK_LOSE_ALL, &r.rng);
    assert_content(&r, "safe");
    cr_assert(eq(int, r.fs->ops->write(r.f, 0, "X", 1, NULL), OTR_IO)); /* opened before the crash */
    rig_close(&r);
}

/* The page cache shows what a failed sync lost; a second sync says all is well, and it is not. */
Test(fake_disk, a_failed_sync_loses_what_it_should_have_written)
{
    struct rig r;

    rig_init(&r);
    cr_assert(eq(int, r.fs->ops->write(r.f, 4, "gone", 4, NULL), 0));
    fake_disk_fail_call(r.disk, FAKE_DISK_SYNC, 1);
    cr_assert(eq(int, r.fs->ops->sync(r.f, NULL), OTR_IO));
    cr_assert(eq(int, r.fs->ops->sync(r.f, NULL), 0));
    assert_content(&r, "safegone");
    fake_disk_crash_as(r.disk, FAKE_DISK_KEEP_ALL, &r.rng);
    assert_content(&r, "safegone");
    fake_disk_crash_as(r.disk, FAKE_DISK_LOSE_ALL, &r.rng);
    assert_content(&r, "safe");
    rig_close(&r);
}

Test(fake_disk, names_are_lost_with_an_unsynced_directory)
{
    struct file *f;
    struct rig r;

    rig_init(&r);
    cr_assert(eq(int, r.fs->ops->open(r.fs, "b", FILE_CREATE, &f, NULL), 0));
    cr_assert(eq(int, r.fs->ops->sync(f, NULL), 0));
    r.fs->ops->close(f);
    cr_assert(eq(int, r.fs->ops->remove(r.fs, "a", NULL), 0));
    cr_assert(fake_disk_exists(r.disk, "b") && !fake_disk_exists(r.disk, "a"));
    fake_disk_crash_as(r.disk, FAKE_DISK_LOSE_ALL, &r.rng);
    cr_assert(not(fake_disk_exists(r.disk, "b")));
    cr_assert(fake_disk_exists(r.disk, "a"));
    cr_assert(eq(int, r.fs->ops->rename(r.fs, "a", "c", NULL), 0));
    cr_assert(eq(int, r.fs->ops->sync_dir(r.fs, NULL), 0));
    fake_disk_crash_as(r.disk, FAKE_DISK_LOSE_ALL, &r.rng);
    cr_assert(not(fake_disk_exists(r.disk, "a")));
    cr_assert(fake_disk_exists(r.disk, "c"));
    rig_close(&r);
}

/* Every way of losing is met, the durable bytes survive all of them, and one seed gives one outcome. */
Test(fake_disk, crashes_tear_only_what_was_not_synced)
{
    unsigned all = 0;
    unsigned none = 0;
    unsigned torn = 0;

    for (uint64_t seed = 1; seed <= 400; seed++) {
        struct fake_disk *twin;
        uint64_t rng = seed;
        struct rig r;
        size_t bytes;
        rig_init(&r);
        cr_assert(eq(int, r.fs->ops->write(r.f, 4, "0123456789", 10, NULL), 0));
        cr_assert(eq(int, r.fs->ops->write(r.f, 14, "abcdefghij", 10, NULL), 0));
        twin = fake_disk_clone(r.disk);
        r.rng = seed;
        fake_disk_crash(r.disk, &r.rng);
        fake_disk_crash(twin, &rng);
        bytes = fake_disk_size(r.disk, "a");
        cr_assert(eq(sz, fake_disk_size(twin, "a"), bytes));
        cr_assert(memcmp(fake_disk_bytes(r.disk, "a"), fake_disk_bytes(twin, "a"), bytes) == 0);
        cr_assert(memcmp(fake_disk_bytes(r.disk, "a"), "safe", 4) == 0);
        none += bytes == 4;
        all += bytes == 24 && memcmp(fake_disk_bytes(r.disk, "a"), "safe0123456789abcdefghij", 24) == 0;
        torn += bytes > 4 && memcmp(fake_disk_bytes(r.disk, "a"), "safe0123456789abcdefghij", bytes) != 0;
        fake_disk_free(twin);
        rig_close(&r);
    }
    cr_assert(gt(u32, all, 50));
    cr_assert(gt(u32, none, 50));
    cr_assert(gt(u32, torn, 20));
}

Test(fake_disk, a_full_disk_takes_what_fits)
{
    struct rig r;

    rig_init(&r);
    fake_disk_set_capacity(r.disk, 6);
    cr_assert(eq(int, r.fs->ops->write(r.f, 0, "SAFE", 4, NULL), 0)); /* no more than before */
    cr_assert(eq(int, r.fs->ops->write(r.f, 4, "four", 4, NULL), OTR_NOSPACE));
    assert_content(&r, "SAFEfo");
    cr_assert(eq(int, r.fs->ops->truncate(r.f, 4, NULL), 0));
    cr_assert(eq(int, r.fs->ops->write(r.f, 4, "12", 2, NULL), 0));
    rig_close(&r);
}
