#include "sidecar/log/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct posix_system {
    struct file_system fs;
    int dir;
};

struct posix_file {
    struct file file;
    int fd;
};

/* errno as one of ours, with the system's words. */
static int fail(struct otr_errmsg *msg, const char *what, const char *name)
{
    int err = errno;
    char text[128];

    otr_errmsg_set(msg, "%s%s%s: %s", what, *name != '\0' ? " " : "", name, strerror_r(err, text, sizeof text));
    switch (err) {
    case ENOSPC:
    case EDQUOT:
        return OTR_NOSPACE;
    case ENOENT:
        return OTR_NOTFOUND;
    case ENOMEM:
        return OTR_NOMEM;
    default:
        return OTR_IO;
    }
}

static int dir_of(struct file_system *fs)
{
    return ((struct posix_system *)fs)->dir;
}

static int fd_of(struct file *f)
{
    return ((struct posix_file *)f)->fd;
}

static int posix_open(struct file_system *fs, const char *name, enum file_mode mode, struct file **out,
                      struct otr_errmsg *msg)
{
    static const int flags[] = {
        [FILE_READ] = O_RDONLY, [FILE_READ_WRITE] = O_RDWR, [FILE_CREATE] = O_RDWR | O_CREAT | O_EXCL};
    struct posix_file *f = calloc(1, sizeof *f);

    if (f == NULL) {
        otr_errmsg_set(msg, "open %s: out of memory", name);
        return OTR_NOMEM;
    }
    f->file.fs = fs;
    f->fd = openat(dir_of(fs), name, flags[mode] | O_CLOEXEC, 0600);
    if (f->fd < 0) {
        int rv = fail(msg, "open", name);
        free(f);
        return rv;
    }
    *out = &f->file;
    return 0;
}

static void posix_close(struct file *f)
{
    close(fd_of(f)); /* Whatever mattered was synced. */
    free(f);
}

static int posix_size(struct file *f, uint64_t *bytes, struct otr_errmsg *msg)
{
    struct stat st;

    if (fstat(fd_of(f), &st) != 0) {
        return fail(msg, "stat", "");
    }
    *bytes = (uint64_t)st.st_size;
    return 0;
}

static int posix_write(struct file *f, uint64_t offset, const void *data, size_t bytes, struct otr_errmsg *msg)
{
    const uint8_t *at = data;

    while (bytes > 0) {
        ssize_t n = pwrite(fd_of(f), at, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return fail(msg, "write", "");
        }
        at += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return 0;
}

static int posix_read(struct file *f, uint64_t offset, void *data, size_t bytes, size_t *got, struct otr_errmsg *msg)
{
    *got = 0;
    while (*got < bytes) {
        ssize_t n = pread(fd_of(f), (uint8_t *)data + *got, bytes - *got, (off_t)(offset + *got));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return fail(msg, "read", "");
        }
        if (n == 0) {
            break;
        }
        *got += (size_t)n;
    }
    return 0;
}

static int posix_sync(struct file *f, struct otr_errmsg *msg)
{
    return fdatasync(fd_of(f)) != 0 ? fail(msg, "fdatasync", "") : 0;
}

static int posix_truncate(struct file *f, uint64_t bytes, struct otr_errmsg *msg)
{
    return ftruncate(fd_of(f), (off_t)bytes) != 0 ? fail(msg, "truncate", "") : 0;
}

static int posix_remove(struct file_system *fs, const char *name, struct otr_errmsg *msg)
{
    return unlinkat(dir_of(fs), name, 0) != 0 ? fail(msg, "remove", name) : 0;
}

static int posix_rename(struct file_system *fs, const char *from, const char *to, struct otr_errmsg *msg)
{
    return renameat(dir_of(fs), from, dir_of(fs), to) != 0 ? fail(msg, "rename", from) : 0;
}

static int posix_sync_dir(struct file_system *fs, struct otr_errmsg *msg)
{
    return fsync(dir_of(fs)) != 0 ? fail(msg, "sync the directory", "") : 0;
}

static int posix_list(struct file_system *fs, void (*cb)(const char *name, void *data), void *data,
                      struct otr_errmsg *msg)
{
    int fd = openat(dir_of(fs), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const struct dirent *entry;
    DIR *dir;
    int rv = 0;

    if (fd < 0) {
        return fail(msg, "list the directory", "");
    }
    dir = fdopendir(fd);
    if (dir == NULL) {
        rv = fail(msg, "list the directory", "");
        close(fd);
        return rv;
    }
    for (errno = 0; (entry = readdir(dir)) != NULL; errno = 0) {
        if (entry->d_name[0] != '.') {
            cb(entry->d_name, data);
        }
    }
    if (errno != 0) {
        rv = fail(msg, "list the directory", "");
    }
    closedir(dir);
    return rv;
}

static void posix_forget(struct file *f, uint64_t offset, uint64_t bytes)
{
    (void)posix_fadvise(fd_of(f), (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
}

static const struct file_ops posix_ops = {
    .open = posix_open,
    .close = posix_close,
    .size = posix_size,
    .write = posix_write,
    .read = posix_read,
    .sync = posix_sync,
    .truncate = posix_truncate,
    .remove = posix_remove,
    .rename = posix_rename,
    .sync_dir = posix_sync_dir,
    .forget = posix_forget,
    .list = posix_list,
};

int file_posix_new(struct file_system **fs, const char *path, struct otr_errmsg *msg)
{
    struct posix_system *p = calloc(1, sizeof *p);

    if (p == NULL) {
        otr_errmsg_set(msg, "out of memory");
        return OTR_NOMEM;
    }
    p->fs.ops = &posix_ops;
    p->dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->dir < 0) {
        int rv = fail(msg, "open directory", path);
        free(p);
        return rv;
    }
    *fs = &p->fs;
    return 0;
}

void file_posix_free(struct file_system *fs)
{
    if (fs != NULL) {
        close(dir_of(fs));
        free(fs);
    }
}

/* --- the lock of a data directory --------------------------------------------------------------------------------- */

/* Names the owner in the message, as far as its pid can be read. */
static int in_use(int fd, const char *path, struct otr_errmsg *msg)
{
    char pid[24] = "";
    ssize_t n = pread(fd, pid, sizeof pid - 1, 0);

    pid[n > 0 ? n : 0] = '\0';
    pid[strspn(pid, "0123456789")] = '\0';
    otr_errmsg_set(msg, "%s is locked by process %s: one process at a time may use a data directory", path,
                   pid[0] != '\0' ? pid : "(unknown)");
    return OTR_INUSE;
}

int file_posix_lock(const char *path, int *lock, struct otr_errmsg *msg)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int rv;

    if (fd < 0) {
        bool denied = errno == EACCES || errno == EPERM || errno == EROFS;
        rv = fail(msg, "open the lock", path);
        return denied ? OTR_DENIED : rv;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        rv = errno == EWOULDBLOCK ? in_use(fd, path, msg) : fail(msg, "lock", path);
        close(fd);
        return rv;
    }
    /* The pid is only for people: the lock holds whatever the file says. */
    if (ftruncate(fd, 0) != 0 || dprintf(fd, "%ld\n", (long)getpid()) < 0) {
        rv = fail(msg, "write the lock", path);
        close(fd);
        return rv;
    }
    *lock = fd;
    return 0;
}

void file_posix_unlock(int lock)
{
    close(lock); /* The file stays: removing it would let two processes lock two files of one name. */
}
