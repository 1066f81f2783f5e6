#include "tests/lib/fake_disk.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum { NAME_MAX_BYTES = 64, SECTOR_BYTES = 512, CALL_KINDS = 10 };

struct buffer {
    uint8_t *data;
    size_t bytes;
    size_t capacity;
};

/* A change to a file that was not synced yet. */
struct change {
    bool truncate; /* to `offset` bytes */
    uint64_t offset;
    size_t bytes;
    uint8_t *data;
};

struct inode {
    unsigned refs; /* names, durable names and handles */
    struct buffer current;
    struct buffer durable;
    struct change *changes; /* durable + changes = current, unless a sync failed */
    size_t changes_count;
};

struct name {
    char name[NAME_MAX_BYTES];
    struct inode *inode;
};

struct names {
    struct name *list;
    size_t count;
};

/* A change to the directory that was not synced yet: `to` now names inode (a creation or a rename), `from` is gone. */
struct dir_change {
    char from[NAME_MAX_BYTES];
    char to[NAME_MAX_BYTES];
    struct inode *inode;
};

struct fake_disk {
    struct file_system fs; /* first: what the code under test sees */
    struct names current;
    struct names durable;
    struct dir_change *dir_changes;
    size_t dir_changes_count;
    uint64_t generation; /* grows with every crash: handles of an older one are dead */
    uint64_t capacity;
    uint64_t used;
    size_t open_files;
    unsigned fail_calls;
    bool fail_paused;
    uint64_t fail_in; /* calls until the one that fails; 0: none */
    uint64_t calls[CALL_KINDS];
};

struct fake_file {
    struct file file;
    struct inode *inode;
    uint64_t generation;
    bool writable;
};

static void *must(void *p)
{
    if (p == NULL) {
        abort();
    }
    return p;
}

uint64_t fake_disk_random(uint64_t *rng)
{
    uint64_t z = *rng += 0x9E3779B97F4A7C15U;

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
}

static uint64_t random_below(uint64_t *rng, uint64_t end)
{
    return fake_disk_random(rng) % end;
}

/* --- buffers and inodes ------------------------------------------------------------------------------------------- */

static void buffer_resize(struct buffer *b, size_t bytes)
{
    if (bytes > b->capacity) {
        b->capacity = bytes < 4096 ? 4096 : bytes + bytes / 2;
        b->data = must(realloc(b->data, b->capacity));
    }
    if (bytes > b->bytes) {
        memset(b->data + b->bytes, 0, bytes - b->bytes);
    }
    b->bytes = bytes;
}

static void buffer_write(struct buffer *b, uint64_t offset, const uint8_t *data, size_t bytes)
{
    if (bytes == 0) {
        return;
    }
    if (offset + bytes > b->bytes) {
        buffer_resize(b, offset + bytes);
    }
    memcpy(b->data + offset, data, bytes);
}

static void buffer_copy(struct buffer *to, const struct buffer *from)
{
    buffer_resize(to, 0);
    buffer_write(to, 0, from->data, from->bytes);
}

static void change_apply(struct buffer *b, const struct change *c, size_t bytes)
{
    if (c->truncate) {
        buffer_resize(b, c->offset);
    } else {
        buffer_write(b, c->offset, c->data, bytes);
    }
}

static void change_add(struct inode *i, const struct change *c)
{
    i->changes = must(realloc(i->changes, (i->changes_count + 1) * sizeof *i->changes));
    i->changes[i->changes_count] = *c;
    if (!c->truncate) {
        i->changes[i->changes_count].data = must(malloc(c->bytes + 1));
        memcpy(i->changes[i->changes_count].data, c->data, c->bytes);
    }
    i->changes_count++;
}

static void changes_clear(struct inode *i)
{
    for (size_t n = 0; n < i->changes_count; n++) {
        free(i->changes[n].data);
    }
    free(i->changes);
    i->changes = NULL;
    i->changes_count = 0;
}

static struct inode *inode_new(void)
{
    return must(calloc(1, sizeof(struct inode)));
}

static struct inode *inode_acquire(struct inode *i)
{
    i->refs++;
    return i;
}

static void inode_release(struct inode *i)
{
    if (--i->refs > 0) {
        return;
    }
    changes_clear(i);
    free(i->current.data);
    free(i->durable.data);
    free(i);
}

/* --- names -------------------------------------------------------------------------------------------------------- */

static struct name *names_find(const struct names *n, const char *name)
{
    for (size_t i = 0; i < n->count; i++) {
        if (strcmp(n->list[i].name, name) == 0) {
            return &n->list[i];
        }
    }
    return NULL;
}

static void names_remove(struct names *n, const char *name)
{
    struct name *found = names_find(n, name);

    if (found != NULL) {
        inode_release(found->inode);
        *found = n->list[--n->count];
    }
}

static void names_set(struct names *n, const char *name, struct inode *inode)
{
    inode_acquire(inode);
    names_remove(n, name);
    n->list = must(realloc(n->list, (n->count + 1) * sizeof *n->list));
    snprintf(n->list[n->count].name, NAME_MAX_BYTES, "%s", name);
    n->list[n->count++].inode = inode;
}

static void names_clear(struct names *n)
{
    for (size_t i = 0; i < n->count; i++) {
        inode_release(n->list[i].inode);
    }
    free(n->list);
    *n = (struct names){0};
}

static void names_copy(struct names *to, const struct names *from)
{
    for (size_t i = 0; i < from->count; i++) {
        names_set(to, from->list[i].name, from->list[i].inode);
    }
}

static void names_apply(struct names *n, const struct dir_change *c)
{
    if (c->inode != NULL) {
        names_set(n, c->to, c->inode);
    }
    names_remove(n, c->from);
}

static void dir_change_add(struct fake_disk *d, const char *from, const char *to, struct inode *inode)
{
    struct dir_change *c;

    d->dir_changes = must(realloc(d->dir_changes, (d->dir_changes_count + 1) * sizeof *d->dir_changes));
    c = &d->dir_changes[d->dir_changes_count++];
    *c = (struct dir_change){.inode = inode};
    snprintf(c->from, sizeof c->from, "%s", from);
    snprintf(c->to, sizeof c->to, "%s", to);
    if (inode != NULL) {
        inode_acquire(inode);
    }
    names_apply(&d->current, c);
}

static void dir_changes_clear(struct fake_disk *d)
{
    for (size_t i = 0; i < d->dir_changes_count; i++) {
        if (d->dir_changes[i].inode != NULL) {
            inode_release(d->dir_changes[i].inode);
        }
    }
    free(d->dir_changes);
    d->dir_changes = NULL;
    d->dir_changes_count = 0;
}

static void count_used(struct fake_disk *d)
{
    d->used = 0;
    for (size_t i = 0; i < d->current.count; i++) {
        d->used += d->current.list[i].inode->current.bytes;
    }
}

/* --- the seam ----------------------------------------------------------------------------------------------------- */

static struct fake_disk *disk_of(struct file_system *fs)
{
    return (struct fake_disk *)fs;
}

/* Counts a call; true when it is the one to fail. */
static bool must_fail(struct fake_disk *d, enum fake_disk_call call, struct otr_errmsg *msg)
{
    for (unsigned k = 0; k < CALL_KINDS; k++) {
        d->calls[k] += call == 1u << k;
    }
    if (d->fail_paused || d->fail_in == 0 || (d->fail_calls & call) == 0 || --d->fail_in > 0) {
        return false;
    }
    otr_errmsg_set(msg, "the fake disk fails this call");
    return true;
}

static bool is_dead(const struct fake_file *f, struct otr_errmsg *msg)
{
    if (f->generation == disk_of(f->file.fs)->generation) {
        return false;
    }
    otr_errmsg_set(msg, "the file was open when the machine stopped");
    return true;
}

static int fake_open(struct file_system *fs, const char *name, enum file_mode mode, struct file **out,
                     struct otr_errmsg *msg)
{
    struct fake_disk *d = disk_of(fs);
    struct name *found = names_find(&d->current, name);
    struct fake_file *f;
    struct inode *inode;

    assert(strlen(name) < NAME_MAX_BYTES && strchr(name, '/') == NULL);
    if (must_fail(d, FAKE_DISK_OPEN, msg)) {
        return OTR_IO;
    }
    if (mode != FILE_CREATE && found == NULL) {
        otr_errmsg_set(msg, "%s: no such file", name);
        return OTR_NOTFOUND;
    }
    if (mode == FILE_CREATE && found != NULL) {
        otr_errmsg_set(msg, "%s: exists", name);
        return OTR_IO;
    }
    if (found != NULL) {
        inode = found->inode;
    } else {
        inode = inode_new();
        dir_change_add(d, "", name, inode);
    }
    f = must(calloc(1, sizeof *f));
    f->file.fs = fs;
    f->inode = inode_acquire(inode);
    f->generation = d->generation;
    f->writable = mode != FILE_READ;
    d->open_files++;
    *out = &f->file;
    return 0;
}

static void fake_close(struct file *file)
{
    struct fake_file *f = (struct fake_file *)file;

    disk_of(file->fs)->open_files--;
    inode_release(f->inode);
    free(f);
}

static int fake_size(struct file *file, uint64_t *bytes, struct otr_errmsg *msg)
{
    struct fake_file *f = (struct fake_file *)file;

    if (must_fail(disk_of(file->fs), FAKE_DISK_SIZE, msg) || is_dead(f, msg)) {
        return OTR_IO;
    }
    *bytes = f->inode->current.bytes;
    return 0;
}

static int fake_write(struct file *file, uint64_t offset, const void *data, size_t bytes, struct otr_errmsg *msg)
{
    struct fake_file *f = (struct fake_file *)file;
    struct fake_disk *d = disk_of(file->fs);
    size_t fits = bytes;
    int rv = 0;

    assert(f->writable);
    if (must_fail(d, FAKE_DISK_WRITE, msg)) {
        fits = bytes / 2;
        rv = OTR_IO;
    }
    if (is_dead(f, msg)) {
        return OTR_IO;
    }
    count_used(d);
    if (offset + fits > f->inode->current.bytes && d->used + (offset + fits - f->inode->current.bytes) > d->capacity) {
        uint64_t room = d->capacity > d->used ? d->capacity - d->used : 0;
        uint64_t end = f->inode->current.bytes + room;
        fits = end > offset ? (size_t)(end - offset) : 0;
        if (rv == 0) {
            otr_errmsg_set(msg, "the fake disk is full");
            rv = OTR_NOSPACE;
        }
    }
    if (fits > 0) {
        struct change c = {.offset = offset, .bytes = fits, .data = (uint8_t *)(uintptr_t)data};
        change_add(f->inode, &c);
        buffer_write(&f->inode->current, offset, data, fits);
    }
    return rv;
}

static int fake_read(struct file *file, uint64_t offset, void *data, size_t bytes, size_t *got, struct otr_errmsg *msg)
{
    struct fake_file *f = (struct fake_file *)file;
    const struct buffer *b = &f->inode->current;

    if (must_fail(disk_of(file->fs), FAKE_DISK_READ, msg) || is_dead(f, msg)) {
        return OTR_IO;
    }
    *got = offset >= b->bytes ? 0 : b->bytes - offset < bytes ? (size_t)(b->bytes - offset) : bytes;
    if (*got > 0) {
        memcpy(data, b->data + offset, *got);
    }
    return 0;
}

static int fake_sync(struct file *file, struct otr_errmsg *msg)
{
    struct fake_file *f = (struct fake_file *)file;
    bool failed = must_fail(disk_of(file->fs), FAKE_DISK_SYNC, msg);

    if (is_dead(f, msg)) {
        return OTR_IO;
    }
    for (size_t i = 0; i < f->inode->changes_count && !failed; i++) {
        change_apply(&f->inode->durable, &f->inode->changes[i], f->inode->changes[i].bytes);
    }
    changes_clear(f->inode);
    return failed ? OTR_IO : 0;
}

static int fake_truncate(struct file *file, uint64_t bytes, struct otr_errmsg *msg)
{
    struct fake_file *f = (struct fake_file *)file;
    struct change c = {.truncate = true, .offset = bytes};

    assert(f->writable);
    if (must_fail(disk_of(file->fs), FAKE_DISK_TRUNCATE, msg) || is_dead(f, msg)) {
        return OTR_IO;
    }
    change_add(f->inode, &c);
    change_apply(&f->inode->current, &c, 0);
    return 0;
}

static int fake_remove(struct file_system *fs, const char *name, struct otr_errmsg *msg)
{
    struct fake_disk *d = disk_of(fs);

    if (must_fail(d, FAKE_DISK_REMOVE, msg)) {
        return OTR_IO;
    }
    if (names_find(&d->current, name) == NULL) {
        otr_errmsg_set(msg, "%s: no such file", name);
        return OTR_NOTFOUND;
    }
    dir_change_add(d, name, "", NULL);
    return 0;
}

static int fake_rename(struct file_system *fs, const char *from, const char *to, struct otr_errmsg *msg)
{
    struct fake_disk *d = disk_of(fs);
    struct name *found = names_find(&d->current, from);

    if (must_fail(d, FAKE_DISK_RENAME, msg)) {
        return OTR_IO;
    }
    if (found == NULL) {
        otr_errmsg_set(msg, "%s: no such file", from);
        return OTR_NOTFOUND;
    }
    dir_change_add(d, from, to, found->inode);
    return 0;
}

static int fake_sync_dir(struct file_system *fs, struct otr_errmsg *msg)
{
    struct fake_disk *d = disk_of(fs);

    if (must_fail(d, FAKE_DISK_SYNC_DIR, msg)) {
        return OTR_IO;
    }
    for (size_t i = 0; i < d->dir_changes_count; i++) {
        names_apply(&d->durable, &d->dir_changes[i]);
    }
    dir_changes_clear(d);
    return 0;
}

static int fake_list(struct file_system *fs, void (*cb)(const char *name, void *data), void *data,
                     struct otr_errmsg *msg)
{
    struct fake_disk *d = disk_of(fs);

    if (must_fail(d, FAKE_DISK_LIST, msg)) {
        return OTR_IO;
    }
    for (size_t i = 0; i < d->current.count; i++) {
        cb(d->current.list[i].name, data);
    }
    return 0;
}

static const struct file_ops fake_ops = {
    .open = fake_open,
    .close = fake_close,
    .size = fake_size,
    .write = fake_write,
    .read = fake_read,
    .sync = fake_sync,
    .truncate = fake_truncate,
    .remove = fake_remove,
    .rename = fake_rename,
    .sync_dir = fake_sync_dir,
    .list = fake_list,
};

/* --- crashes ------------------------------------------------------------------------------------------------------ */

static void keep_prefix(struct inode *i, bool garbage, uint64_t *rng)
{
    size_t whole = random_below(rng, i->changes_count + 1);
    const struct change *torn;
    size_t kept;

    for (size_t n = 0; n < whole; n++) {
        change_apply(&i->durable, &i->changes[n], i->changes[n].bytes);
    }
    if (whole == i->changes_count || i->changes[whole].truncate) {
        return;
    }
    torn = &i->changes[whole];
    kept = random_below(rng, torn->bytes + 1);
    change_apply(&i->durable, torn, kept);
    if (garbage) {
        /* Only where nothing was durable before: a sector that is overwritten is old or new. Half of the time zeros: a
         * file that grew before its bytes came. */
        uint64_t mask = random_below(rng, 2) == 0 ? 0 : 0xFF;
        for (size_t n = kept; n < torn->bytes; n++) {
            uint8_t byte = (uint8_t)(fake_disk_random(rng) & mask);
            if (torn->offset + n >= i->durable.bytes) {
                buffer_write(&i->durable, torn->offset + n, &byte, 1);
            }
        }
    }
}

static void keep_sectors(struct inode *i, uint64_t *rng)
{
    for (size_t n = 0; n < i->changes_count; n++) {
        const struct change *c = &i->changes[n];
        size_t done = 0;

        if (c->truncate) {
            if (random_below(rng, 2) == 0) {
                change_apply(&i->durable, c, 0);
            }
            continue;
        }
        while (done < c->bytes) {
            size_t bytes = SECTOR_BYTES - (size_t)((c->offset + done) % SECTOR_BYTES);
            bytes = bytes < c->bytes - done ? bytes : c->bytes - done;
            if (random_below(rng, 2) == 0) {
                buffer_write(&i->durable, c->offset + done, c->data + done, bytes);
            }
            done += bytes;
        }
    }
}

static void inode_crash(struct inode *i, enum fake_disk_loss loss, uint64_t *rng)
{
    switch (loss) {
    case FAKE_DISK_LOSE_ALL:
        break;
    case FAKE_DISK_KEEP_ALL:
        return;
    case FAKE_DISK_PREFIX:
    case FAKE_DISK_GARBAGE:
        keep_prefix(i, loss == FAKE_DISK_GARBAGE, rng);
        break;
    case FAKE_DISK_SECTORS:
        keep_sectors(i, rng);
        break;
    }
    changes_clear(i);
    buffer_copy(&i->current, &i->durable);
}

/* loss 0: another one for each file. */
static void machine_crash(struct fake_disk *d, enum fake_disk_loss loss, uint64_t *rng)
{
    static const enum fake_disk_loss losses[] = {FAKE_DISK_LOSE_ALL, FAKE_DISK_PREFIX, FAKE_DISK_SECTORS,
                                                 FAKE_DISK_GARBAGE};
    size_t kept = loss == FAKE_DISK_LOSE_ALL ? 0 : random_below(rng, d->dir_changes_count + 1);

    for (size_t i = 0; i < kept; i++) {
        names_apply(&d->durable, &d->dir_changes[i]);
    }
    dir_changes_clear(d);
    names_clear(&d->current);
    names_copy(&d->current, &d->durable);
    for (size_t i = 0; i < d->durable.count; i++) {
        inode_crash(d->durable.list[i].inode, loss != 0 ? loss : losses[random_below(rng, 4)], rng);
    }
}

void fake_disk_crash_as(struct fake_disk *d, enum fake_disk_loss loss, uint64_t *rng)
{
    d->generation++;
    d->fail_in = 0;
    if (loss != FAKE_DISK_KEEP_ALL) {
        machine_crash(d, loss, rng);
    }
}

void fake_disk_crash(struct fake_disk *d, uint64_t *rng)
{
    fake_disk_crash_as(d, random_below(rng, 4) == 0 ? FAKE_DISK_KEEP_ALL : (enum fake_disk_loss)0, rng);
}

/* --- construction, orders, looking -------------------------------------------------------------------------------- */

struct fake_disk *fake_disk_new(void)
{
    struct fake_disk *d = must(calloc(1, sizeof *d));

    d->fs.ops = &fake_ops;
    d->capacity = UINT64_MAX;
    return d;
}

void fake_disk_free(struct fake_disk *d)
{
    if (d == NULL) {
        return;
    }
    assert(d->open_files == 0);
    dir_changes_clear(d);
    names_clear(&d->current);
    names_clear(&d->durable);
    free(d);
}

/* Files whose name is not durable yet are in `current` only, removed ones in `durable` only, renamed ones under two
 * names: what was copied already is found by the pair it makes. */
struct copies {
    const struct inode **from;
    struct inode **to;
    size_t count;
};

static struct inode *inode_clone(struct copies *c, const struct inode *i)
{
    struct inode *copy;

    for (size_t n = 0; n < c->count; n++) {
        if (c->from[n] == i) {
            return c->to[n];
        }
    }
    copy = inode_new();
    buffer_copy(&copy->current, &i->current);
    buffer_copy(&copy->durable, &i->durable);
    for (size_t n = 0; n < i->changes_count; n++) {
        change_add(copy, &i->changes[n]);
    }
    c->from = must(realloc(c->from, (c->count + 1) * sizeof(struct inode *)));
    c->to = must(realloc(c->to, (c->count + 1) * sizeof(struct inode *)));
    c->from[c->count] = i;
    c->to[c->count++] = copy;
    return copy;
}

struct fake_disk *fake_disk_clone(const struct fake_disk *d)
{
    struct fake_disk *copy = fake_disk_new();
    struct copies c = {0};

    copy->capacity = d->capacity;
    for (size_t i = 0; i < d->durable.count; i++) {
        names_set(&copy->durable, d->durable.list[i].name, inode_clone(&c, d->durable.list[i].inode));
    }
    names_copy(&copy->current, &copy->durable);
    for (size_t i = 0; i < d->dir_changes_count; i++) {
        const struct dir_change *dc = &d->dir_changes[i];
        dir_change_add(copy, dc->from, dc->to, dc->inode == NULL ? NULL : inode_clone(&c, dc->inode));
    }
    free(c.from);
    free(c.to);
    return copy;
}

struct file_system *fake_disk_fs(struct fake_disk *d)
{
    return &d->fs;
}

void fake_disk_fail_call(struct fake_disk *d, unsigned calls, uint64_t nth)
{
    d->fail_calls = calls;
    d->fail_in = nth;
}

void fake_disk_fail_pause(struct fake_disk *d, bool pause)
{
    d->fail_paused = pause;
}

bool fake_disk_fail_pending(const struct fake_disk *d)
{
    return d->fail_in != 0;
}

void fake_disk_set_capacity(struct fake_disk *d, uint64_t bytes)
{
    d->capacity = bytes;
}

uint64_t fake_disk_used(const struct fake_disk *d)
{
    uint64_t used = 0;

    for (size_t i = 0; i < d->current.count; i++) {
        used += d->current.list[i].inode->current.bytes;
    }
    return used;
}

uint64_t fake_disk_calls(const struct fake_disk *d, unsigned calls)
{
    uint64_t sum = 0;

    for (unsigned k = 0; k < CALL_KINDS; k++) {
        sum += (calls & 1u << k) != 0 ? d->calls[k] : 0;
    }
    return sum;
}

size_t fake_disk_open_files(const struct fake_disk *d)
{
    return d->open_files;
}

bool fake_disk_exists(const struct fake_disk *d, const char *name)
{
    return names_find(&d->current, name) != NULL;
}

static struct inode *existing(const struct fake_disk *d, const char *name)
{
    const struct name *found = names_find(&d->current, name);

    assert(found != NULL);
    return found->inode;
}

uint64_t fake_disk_size(const struct fake_disk *d, const char *name)
{
    return existing(d, name)->current.bytes;
}

const uint8_t *fake_disk_bytes(const struct fake_disk *d, const char *name)
{
    return existing(d, name)->current.data;
}

void fake_disk_poke(struct fake_disk *d, const char *name, uint64_t offset, const void *data, size_t bytes)
{
    struct inode *i = existing(d, name);

    assert(offset + bytes <= i->current.bytes);
    buffer_write(&i->current, offset, data, bytes);
    if (offset < i->durable.bytes) {
        size_t within = i->durable.bytes - offset < bytes ? (size_t)(i->durable.bytes - offset) : bytes;
        buffer_write(&i->durable, offset, data, within);
    }
}

void fake_disk_cut(struct fake_disk *d, const char *name, uint64_t bytes)
{
    struct inode *i = existing(d, name);

    assert(bytes <= i->current.bytes);
    changes_clear(i);
    buffer_resize(&i->current, bytes);
    buffer_copy(&i->durable, &i->current);
}
