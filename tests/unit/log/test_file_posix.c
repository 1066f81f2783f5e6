#include "sidecar/log/file.h"
#include "tests/lib/fail_calls.h"
#include "tests/lib/temp_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void collect_name(const char *name, void *data)
{
    strcat(strcat(data, name), " ");
}

Test(file_posix, files_are_written_read_and_named)
{
    struct otr_errmsg msg = {0};
    struct file_system *fs;
    struct temp_dir dir;
    char names[64] = "";
    char bytes[16];
    uint64_t size;
    struct file *f;
    size_t got;

    temp_dir_init(&dir);
    cr_assert(eq(int, file_posix_new(&fs, dir.path, &msg), 0), "%s", msg.text);
    cr_assert(eq(int, fs->ops->open(fs, "a", FILE_READ, &f, &msg), OTR_NOTFOUND));
    cr_assert(eq(int, fs->ops->open(fs, "a", FILE_CREATE, &f, &msg), 0));
    cr_assert(eq(int, fs->ops->write(f, 3, "hello", 5, &msg), 0));
    cr_assert(eq(int, fs->ops->sync(f, &msg), 0));
    cr_assert(eq(int, fs->ops->size(f, &size, &msg), 0));
    cr_assert(eq(u64, size, 8));
    cr_assert(eq(int, fs->ops->truncate(f, 6, &msg), 0));
    cr_assert(eq(int, fs->ops->read(f, 1, bytes, sizeof bytes, &got, &msg), 0));
    cr_assert(eq(sz, got, 5));
    cr_assert(memcmp(bytes, "\0\0hel", 5) == 0);
    fs->ops->close(f);
    cr_assert(eq(int, fs->ops->open(fs, "a", FILE_CREATE, &f, &msg), OTR_IO)); /* exists */
    cr_assert(eq(int, fs->ops->rename(fs, "a", "b", &msg), 0));
    cr_assert(eq(int, fs->ops->sync_dir(fs, &msg), 0));
    cr_assert(eq(int, fs->ops->list(fs, collect_name, names, &msg), 0));
    cr_assert(eq(str, names, "b "));
    cr_assert(eq(int, fs->ops->open(fs, "b", FILE_READ, &f, &msg), 0));
    cr_assert(eq(int, fs->ops->write(f, 0, "x", 1, &msg), OTR_IO)); /* opened for reading */
    fs->ops->close(f);
    cr_assert(eq(int, fs->ops->remove(fs, "b", &msg), 0));
    cr_assert(eq(int, fs->ops->remove(fs, "b", &msg), OTR_NOTFOUND));
    cr_assert(strstr(msg.text, "b") != NULL, "%s", msg.text);
    file_posix_free(fs);
    temp_dir_close(&dir);
    cr_assert(eq(int, file_posix_new(&fs, dir.path, &msg), OTR_NOTFOUND));
}

/* /dev/full is always full. */
Test(file_posix, a_full_disk_is_told_from_other_errors)
{
    struct otr_errmsg msg;
    struct file_system *fs;
    struct file *f;

    cr_assert(eq(int, file_posix_new(&fs, "/dev", &msg), 0));
    cr_assert(eq(int, fs->ops->open(fs, "full", FILE_READ_WRITE, &f, &msg), 0));
    cr_assert(eq(int, fs->ops->write(f, 0, "x", 1, &msg), OTR_NOSPACE));
    fs->ops->close(f);
    file_posix_free(fs);
}

/* The second process is refused and told who has it; the lock goes with its owner, even by SIGKILL. */
Test(file_posix, one_process_holds_the_lock)
{
    struct otr_errmsg msg = {0};
    struct temp_dir dir;
    char path[300];
    char pid[32];
    int ready[2];
    pid_t child;
    int lock;
    char c;

    temp_dir_init(&dir);
    snprintf(path, sizeof path, "%s/LOCK", dir.path);
    cr_assert(eq(int, pipe(ready), 0));
    child = fork();
    if (child == 0) {
        int rv = file_posix_lock(path, &lock, NULL);
        (void)!write(ready[1], rv == 0 ? "y" : "n", 1);
        pause();
        _exit(0);
    }
    cr_assert(eq(int, (int)read(ready[0], &c, 1), 1));
    cr_assert(eq(chr, c, 'y'));
    cr_assert(eq(int, file_posix_lock(path, &lock, &msg), OTR_INUSE));
    snprintf(pid, sizeof pid, "process %ld", (long)child);
    cr_assert(strstr(msg.text, pid) != NULL, "%s", msg.text);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    cr_assert(eq(int, file_posix_lock(path, &lock, &msg), 0));
    file_posix_unlock(lock);
    cr_assert(eq(int, file_posix_lock(path, &lock, &msg), 0));
    file_posix_unlock(lock);
    temp_dir_close(&dir);
    cr_assert(eq(int, file_posix_lock(path, &lock, &msg), OTR_NOTFOUND)); /* no such directory */
}

/* --- failing calls ------------------------------------------------------------------------------------------------ */

static size_t descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    size_t count = 0;

    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count;
}

struct disk {
    struct temp_dir dir;
    struct file_system *fs;
    struct file *f; /* "a", which holds "0123456789" */
};

static void disk_init(struct disk *d)
{
    temp_dir_init(&d->dir);
    cr_assert(eq(int, file_posix_new(&d->fs, d->dir.path, NULL), 0));
    cr_assert(eq(int, d->fs->ops->open(d->fs, "a", FILE_CREATE, &d->f, NULL), 0));
    cr_assert(eq(int, d->fs->ops->write(d->f, 0, "0123456789", 10, NULL), 0));
}

static void disk_close(struct disk *d)
{
    d->fs->ops->close(d->f);
    file_posix_free(d->fs);
    temp_dir_close(&d->dir);
}

/* Makes the call that `name` stands for, on the disk's file. */
static int make_call(struct disk *d, const char *name, struct otr_errmsg *msg)
{
    const struct file_ops *ops = d->fs->ops;
    struct file_system *fs;
    struct file *f;
    char names[64] = "";
    char bytes[4];
    uint64_t size;
    size_t got;
    int rv;

    if (strcmp(name, "open") == 0) {
        rv = file_posix_new(&fs, d->dir.path, msg);
        if (rv == 0) {
            file_posix_free(fs);
        }
        return rv;
    }
    if (strcmp(name, "openat") == 0) {
        rv = ops->open(d->fs, "a", FILE_READ, &f, msg);
        if (rv == 0) {
            ops->close(f);
        }
        return rv;
    }
    if (strcmp(name, "fdopendir") == 0 || strcmp(name, "readdir") == 0) {
        return ops->list(d->fs, collect_name, names, msg);
    }
    return strcmp(name, "fstat") == 0       ? ops->size(d->f, &size, msg)
           : strcmp(name, "pread") == 0     ? ops->read(d->f, 0, bytes, sizeof bytes, &got, msg)
           : strcmp(name, "pwrite") == 0    ? ops->write(d->f, 0, "01", 2, msg)
           : strcmp(name, "fdatasync") == 0 ? ops->sync(d->f, msg)
           : strcmp(name, "ftruncate") == 0 ? ops->truncate(d->f, 10, msg)
           : strcmp(name, "unlinkat") == 0  ? ops->remove(d->fs, "b", msg)
           : strcmp(name, "renameat") == 0  ? ops->rename(d->fs, "a", "b", msg)
                                            : ops->sync_dir(d->fs, msg);
}

/* What fails is said with the call's name and the system's words; nothing stays open, and the same call then works. */
Test(file_posix, a_failing_call_is_an_error_that_says_what_failed)
{
    static const struct {
        const char *call;
        int err;
        int rv;
        const char *words;
    } cases[] = {
        {"open", EMFILE, OTR_IO, "open directory /"},
        {"openat", EMFILE, OTR_IO, "open a: Too many open files"},
        {"openat", ENOMEM, OTR_NOMEM, "open a: "},
        {"fstat", EIO, OTR_IO, "stat: Input/output error"},
        {"pread", EIO, OTR_IO, "read: Input/output error"},
        {"pwrite", EIO, OTR_IO, "write: Input/output error"},
        {"pwrite", EDQUOT, OTR_NOSPACE, "write: Disk quota exceeded"},
        {"fdatasync", EIO, OTR_IO, "fdatasync: Input/output error"},
        {"fdatasync", ENOSPC, OTR_NOSPACE, "fdatasync: No space left on device"},
        {"ftruncate", EIO, OTR_IO, "truncate: Input/output error"},
        {"fdopendir", ENOMEM, OTR_NOMEM, "list the directory: "},
        {"readdir", EIO, OTR_IO, "list the directory: Input/output error"},
        {"fsync", EIO, OTR_IO, "sync the directory: Input/output error"},
        {"renameat", EIO, OTR_IO, "rename a: Input/output error"},
        {"unlinkat", EIO, OTR_IO, "remove b: Input/output error"},
    };
    struct otr_errmsg msg = {0};
    struct disk d;
    size_t before;

    disk_init(&d);
    before = descriptors();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (strcmp(cases[i].call, "unlinkat") == 0) {
            cr_assert(eq(int, make_call(&d, "renameat", NULL), 0)); /* there is "b" now */
        }
        fail_calls_one(cases[i].call, 1, cases[i].err);
        cr_assert(eq(int, make_call(&d, cases[i].call, &msg), cases[i].rv), "%s", cases[i].words);
        cr_assert(not(fail_calls_pending()), "%s", cases[i].words);
        cr_assert(strstr(msg.text, cases[i].words) == msg.text, "%s", msg.text);
        cr_assert(eq(sz, descriptors(), before), "%s", cases[i].words);
        if (strcmp(cases[i].call, "renameat") != 0) {
            cr_assert(eq(int, make_call(&d, cases[i].call, &msg), 0), "%s: %s", cases[i].words, msg.text);
        }
    }
    disk_close(&d);
}

/* A directory that cannot even be opened for listing. */
Test(file_posix, a_list_that_cannot_begin_is_an_error)
{
    struct otr_errmsg msg = {0};
    char names[64] = "";
    struct disk d;

    disk_init(&d);
    fail_calls_one("openat", 1, ENFILE);
    cr_assert(eq(int, d.fs->ops->list(d.fs, collect_name, names, &msg), OTR_IO));
    cr_assert(eq(str, names, ""));
    disk_close(&d);
}

Test(file_posix, what_was_interrupted_or_done_in_part_is_finished)
{
    static const int how[] = {EINTR, FAIL_CALLS_SHORT};
    char bytes[16];
    struct disk d;
    size_t got;

    disk_init(&d);
    for (size_t i = 0; i < 2; i++) {
        for (unsigned nth = 1; nth <= 2; nth++) {
            /* The second time the order has come to nothing: it stays, and must not disturb what follows. */
            fail_calls_one("pwrite", nth, how[i]);
            cr_assert(eq(int, d.fs->ops->write(d.f, 2, "abcdef", 6, NULL), 0));
            cr_assert(eq(int, fail_calls_pending(), nth == 2));
            fail_calls_one("pread", nth, how[i]);
            cr_assert(eq(int, d.fs->ops->read(d.f, 0, bytes, sizeof bytes, &got, NULL), 0));
            cr_assert(eq(sz, got, 10));
            cr_assert(not(fail_calls_pending()));
            cr_assert(memcmp(bytes, "01abcdef89", 10) == 0);
        }
        cr_assert(eq(int, d.fs->ops->write(d.f, 2, "234567", 6, NULL), 0));
    }
    disk_close(&d);
}

Test(file_posix, without_memory_nothing_is_opened)
{
    struct otr_errmsg msg = {0};
    struct file_system *fs;
    struct file *f;
    struct disk d;
    size_t before;

    disk_init(&d);
    before = descriptors();
    fail_calls_at(FAIL_MEMORY, 1);
    cr_assert(eq(int, file_posix_new(&fs, d.dir.path, &msg), OTR_NOMEM));
    cr_assert(eq(str, msg.text, "out of memory"));
    fail_calls_at(FAIL_MEMORY, 1);
    cr_assert(eq(int, d.fs->ops->open(d.fs, "b", FILE_CREATE, &f, &msg), OTR_NOMEM));
    cr_assert(eq(str, msg.text, "open b: out of memory"));
    cr_assert(eq(int, d.fs->ops->open(d.fs, "b", FILE_READ, &f, &msg), OTR_NOTFOUND)); /* It was not made. */
    cr_assert(eq(sz, descriptors(), before));
    disk_close(&d);
}

/* A lock that could not be taken is held by nobody: the next attempt has it. */
Test(file_posix, a_lock_that_fails_is_not_held)
{
    static const struct {
        const char *call;
        int err;
        int rv;
        const char *words;
    } cases[] = {
        {"open", EACCES, OTR_DENIED, "open the lock /"},
        {"open", EROFS, OTR_DENIED, "open the lock /"},
        {"open", EIO, OTR_IO, "open the lock /"},
        {"flock", ENOLCK, OTR_IO, "lock /"},
        {"ftruncate", ENOSPC, OTR_NOSPACE, "write the lock /"},
    };
    struct otr_errmsg msg = {0};
    struct temp_dir dir;
    char path[300];
    size_t before;
    int lock;

    temp_dir_init(&dir);
    snprintf(path, sizeof path, "%s/LOCK", dir.path);
    before = descriptors();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fail_calls_one(cases[i].call, 1, cases[i].err);
        cr_assert(eq(int, file_posix_lock(path, &lock, &msg), cases[i].rv), "%s", cases[i].words);
        cr_assert(strstr(msg.text, cases[i].words) == msg.text, "%s", msg.text);
        cr_assert(eq(sz, descriptors(), before));
        cr_assert(eq(int, file_posix_lock(path, &lock, &msg), 0), "%s", msg.text);
        file_posix_unlock(lock);
    }
    temp_dir_close(&dir);
}

/* The words are there when the owner's pid cannot be read, too. */
Test(file_posix, an_owner_without_a_pid_is_unknown)
{
    struct otr_errmsg msg = {0};
    struct temp_dir dir;
    char path[300];
    int other;
    int lock;

    temp_dir_init(&dir);
    snprintf(path, sizeof path, "%s/LOCK", dir.path);
    cr_assert(eq(int, file_posix_lock(path, &lock, &msg), 0));
    fail_calls_one("pread", 1, EIO);
    cr_assert(eq(int, file_posix_lock(path, &other, &msg), OTR_INUSE));
    cr_assert(strstr(msg.text, "process (unknown)") != NULL, "%s", msg.text);
    file_posix_unlock(lock);
    temp_dir_close(&dir);
}
