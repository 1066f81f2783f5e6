#include "sidecar/log/file.h"
#include "tests/lib/temp_dir.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
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
