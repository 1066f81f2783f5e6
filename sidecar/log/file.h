/* The file seam: every byte that the journal reads or writes goes through it. Real files (file_posix.c) in the daemon,
 * a disk that loses unsynced bytes and fails on demand (tests/lib/fake_disk.c) in tests and in the simulator.
 *
 * Blocking calls; who calls decides on which thread. Different files may be used from different threads at once; one
 * file takes one writer and any number of readers (pread) at once. Return 0 or OTR_IO, OTR_NOSPACE, OTR_NOTFOUND,
 * OTR_NOMEM with words in msg. */
#ifndef OUTRIGGER_LOG_FILE_H
#define OUTRIGGER_LOG_FILE_H

#include "outrigger/err.h"
#include "outrigger/types.h"

struct file; /* an open file, implementation's */

enum file_mode {
    FILE_READ = 1,
    FILE_READ_WRITE,
    FILE_CREATE /* read and write; must not exist; the name is durable after file_sync + dir sync */
};

struct file_system;
struct file_ops {
    int (*open)(struct file_system *fs, const char *name, enum file_mode mode, struct file **f, struct otr_errmsg *msg);
    void (*close)(struct file *f);
    int (*size)(struct file *f, uint64_t *bytes, struct otr_errmsg *msg);
    /* All of it or an error; after an error any part may have been written. */
    int (*write)(struct file *f, uint64_t offset, const void *data, size_t bytes, struct otr_errmsg *msg);
    /* Reads up to bytes; *got < bytes only at the end of the file. */
    int (*read)(struct file *f, uint64_t offset, void *data, size_t bytes, size_t *got, struct otr_errmsg *msg);
    /* fdatasync. After an error nothing written since the last success can be trusted, nor synced again. */
    int (*sync)(struct file *f, struct otr_errmsg *msg);
    int (*truncate)(struct file *f, uint64_t bytes, struct otr_errmsg *msg);
    int (*remove)(struct file_system *fs, const char *name, struct otr_errmsg *msg);
    int (*rename)(struct file_system *fs, const char *from, const char *to, struct otr_errmsg *msg);
    /* Makes creations, renames and removals durable. */
    int (*sync_dir)(struct file_system *fs, struct otr_errmsg *msg);
    /* What is read next of these bytes, which are durable, is to come from the disk itself, not from a cache. A hint;
     * may be NULL. */
    void (*forget)(struct file *f, uint64_t offset, uint64_t bytes);
    /* Calls cb for every file name in the directory, in any order. */
    int (*list)(struct file_system *fs, void (*cb)(const char *name, void *data), void *data, struct otr_errmsg *msg);
};

/* A directory. Every implementation starts with this; likewise struct file. */
struct file_system {
    const struct file_ops *ops;
};
struct file {
    struct file_system *fs;
};

/* The real thing, on directory `path`, which must exist. */
int file_posix_new(struct file_system **fs, const char *path, struct otr_errmsg *msg);
void file_posix_free(struct file_system *fs);

/* Takes the file `path` as this process's lock (PROTOCOL E5: one process per data directory), creating it when missing;
 * the kernel gives it up when the process ends, however it ends. The file holds the owner's pid. OTR_INUSE when another
 * process has it (its pid is in msg), OTR_DENIED, OTR_IO. */
OTR_MUST_CHECK int file_posix_lock(const char *path, int *lock, struct otr_errmsg *msg);
void file_posix_unlock(int lock);

#endif
