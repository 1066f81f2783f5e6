#include "tests/simulation/sim.h"

#include <stdlib.h>

struct sim_disk {
    struct file_system base;
    struct file_system *inner;
    bool cut;
    uint64_t calls_left;
};

struct sim_file {
    struct file base;
    struct file *inner; /* NULL: opened after the power was gone */
};

static struct sim_disk *disk_of(struct file_system *fs)
{
    return (struct sim_disk *)fs;
}

/* Whether a change still reaches the disk. What a dying process is told does not matter: nobody will look at it. */
static bool passes(struct file_system *fs)
{
    struct sim_disk *d = disk_of(fs);

    if (!d->cut) {
        return true;
    }
    if (d->calls_left == 0) {
        return false;
    }
    d->calls_left--;
    return true;
}

static int disk_open(struct file_system *fs, const char *name, enum file_mode mode, struct file **out,
                     struct otr_errmsg *msg)
{
    struct file_system *inner = disk_of(fs)->inner;
    struct sim_file *f = sim_alloc(sizeof *f);
    int rv = 0;

    f->base.fs = fs;
    if (mode != FILE_CREATE || passes(fs)) {
        rv = inner->ops->open(inner, name, mode, &f->inner, msg);
    }
    if (rv != 0) {
        free(f);
        return rv;
    }
    *out = &f->base;
    return 0;
}

static struct file *inner_of(struct file *f)
{
    return ((struct sim_file *)f)->inner;
}

static void disk_close(struct file *f)
{
    if (inner_of(f) != NULL) {
        inner_of(f)->fs->ops->close(inner_of(f));
    }
    free(f);
}

static int disk_size(struct file *f, uint64_t *bytes, struct otr_errmsg *msg)
{
    *bytes = 0;
    return inner_of(f) == NULL ? 0 : inner_of(f)->fs->ops->size(inner_of(f), bytes, msg);
}

static int disk_write(struct file *f, uint64_t offset, const void *data, size_t bytes, struct otr_errmsg *msg)
{
    return passes(f->fs) && inner_of(f) != NULL ? inner_of(f)->fs->ops->write(inner_of(f), offset, data, bytes, msg)
                                                : 0;
}

static int disk_read(struct file *f, uint64_t offset, void *data, size_t bytes, size_t *got, struct otr_errmsg *msg)
{
    *got = 0;
    return inner_of(f) == NULL ? 0 : inner_of(f)->fs->ops->read(inner_of(f), offset, data, bytes, got, msg);
}

static int disk_sync(struct file *f, struct otr_errmsg *msg)
{
    return passes(f->fs) && inner_of(f) != NULL ? inner_of(f)->fs->ops->sync(inner_of(f), msg) : 0;
}

static int disk_truncate(struct file *f, uint64_t bytes, struct otr_errmsg *msg)
{
    return passes(f->fs) && inner_of(f) != NULL ? inner_of(f)->fs->ops->truncate(inner_of(f), bytes, msg) : 0;
}

static int disk_remove(struct file_system *fs, const char *name, struct otr_errmsg *msg)
{
    return passes(fs) ? disk_of(fs)->inner->ops->remove(disk_of(fs)->inner, name, msg) : 0;
}

static int disk_rename(struct file_system *fs, const char *from, const char *to, struct otr_errmsg *msg)
{
    return passes(fs) ? disk_of(fs)->inner->ops->rename(disk_of(fs)->inner, from, to, msg) : 0;
}

static int disk_sync_dir(struct file_system *fs, struct otr_errmsg *msg)
{
    return passes(fs) ? disk_of(fs)->inner->ops->sync_dir(disk_of(fs)->inner, msg) : 0;
}

static int disk_list(struct file_system *fs, void (*cb)(const char *name, void *data), void *data,
                     struct otr_errmsg *msg)
{
    return disk_of(fs)->inner->ops->list(disk_of(fs)->inner, cb, data, msg);
}

static const struct file_ops ops = {
    .open = disk_open,
    .close = disk_close,
    .size = disk_size,
    .write = disk_write,
    .read = disk_read,
    .sync = disk_sync,
    .truncate = disk_truncate,
    .remove = disk_remove,
    .rename = disk_rename,
    .sync_dir = disk_sync_dir,
    .list = disk_list,
};

struct sim_disk *sim_disk_new(struct fake_disk *disk)
{
    struct sim_disk *d = sim_alloc(sizeof *d);

    d->base.ops = &ops;
    d->inner = fake_disk_fs(disk);
    return d;
}

void sim_disk_free(struct sim_disk *d)
{
    free(d);
}

struct file_system *sim_disk_fs(struct sim_disk *d)
{
    return &d->base;
}

void sim_disk_power_cut(struct sim_disk *d, uint64_t calls)
{
    d->cut = true;
    d->calls_left = calls;
}
