/* A disk in memory behind the file seam (sidecar/log/file.h) that behaves as badly as real ones do, on demand and
 * deterministically: what was not synced is lost or torn in a crash, names whose directory was not synced go back to
 * what they were, any call can be made to fail, and the disk can be full.
 *
 * What it models:
 * - Writes and truncations go to a page cache; only sync makes them durable. In a crash the unsynced ones of each file
 *   survive as `enum fake_disk_loss` says.
 * - A failed sync loses the unsynced changes for good, while reads go on to show them until the next crash: what Linux
 *   does, and why a second sync must never be believed.
 * - A failed write leaves the first half of its bytes; a write on a full disk leaves what fitted.
 * - Creations, renames and removals become durable, in their order, with sync_dir; a crash keeps a prefix of the
 * others.
 * - Reads are never short but at the end of the file.
 *
 * No threads, no clock; the same calls and the same rng give the same bytes. Out of memory aborts. */
#ifndef OUTRIGGER_TESTS_LIB_FAKE_DISK_H
#define OUTRIGGER_TESTS_LIB_FAKE_DISK_H

#include "sidecar/log/file.h"

struct fake_disk;

struct fake_disk *fake_disk_new(void);
/* Open files must have been closed (asserted: a file left open is a leak of the code under test). */
void fake_disk_free(struct fake_disk *d);
/* Lent: lives as long as the disk. */
struct file_system *fake_disk_fs(struct fake_disk *d);

/* What becomes of the changes to a file that were not synced. */
enum fake_disk_loss {
    FAKE_DISK_LOSE_ALL = 1, /* none survives */
    FAKE_DISK_KEEP_ALL,     /* all survive: the process died, the machine did not */
    FAKE_DISK_PREFIX,       /* the first few survive, the next one up to some byte */
    FAKE_DISK_SECTORS,      /* any subset of the 512-byte sectors survives, in any order */
    FAKE_DISK_GARBAGE, /* as PREFIX, but the file has its full length, with garbage or zeros where bytes are missing */
};

/* The machine stops and starts again. *rng is the state of a random generator (any value), which moves on; the first
 * form picks the loss by it, per file. Files open at the time of the crash answer every call but close with OTR_IO.
 * Failures asked for and not yet met are forgotten. */
void fake_disk_crash(struct fake_disk *d, uint64_t *rng);
void fake_disk_crash_as(struct fake_disk *d, enum fake_disk_loss loss, uint64_t *rng);

/* Kinds of calls, to be or-ed. */
enum fake_disk_call {
    FAKE_DISK_OPEN = 1 << 0,
    FAKE_DISK_SIZE = 1 << 1,
    FAKE_DISK_WRITE = 1 << 2,
    FAKE_DISK_READ = 1 << 3,
    FAKE_DISK_SYNC = 1 << 4,
    FAKE_DISK_TRUNCATE = 1 << 5,
    FAKE_DISK_REMOVE = 1 << 6,
    FAKE_DISK_RENAME = 1 << 7,
    FAKE_DISK_SYNC_DIR = 1 << 8,
    FAKE_DISK_LIST = 1 << 9,
    FAKE_DISK_ANY = (1 << 10) - 1,
};

/* The nth call from now (1 is the next) of one of these kinds fails once with OTR_IO. 0: none. One such order is kept;
 * the next replaces it. */
void fake_disk_fail_call(struct fake_disk *d, unsigned calls, uint64_t nth);
/* From now on calls neither fail nor count for that, or do so again: for what a test looks at on the way. */
void fake_disk_fail_pause(struct fake_disk *d, bool pause);
/* True while an order of fake_disk_fail_call has not been met: ends loops over n. */
bool fake_disk_fail_pending(const struct fake_disk *d);
/* Bytes that all files together may take; UINT64_MAX (the default): no limit. */
void fake_disk_set_capacity(struct fake_disk *d, uint64_t bytes);

/* --- looking and damaging, behind the back of the code under test; names must exist ---------------------------------
 */

/* Bytes that all files take now. */
uint64_t fake_disk_used(const struct fake_disk *d);
/* Calls of these kinds so far, failed ones included. */
uint64_t fake_disk_calls(const struct fake_disk *d, unsigned calls);
size_t fake_disk_open_files(const struct fake_disk *d);
bool fake_disk_exists(const struct fake_disk *d, const char *name);
uint64_t fake_disk_size(const struct fake_disk *d, const char *name);
/* The file's bytes as reads show them; lent until the next change. */
const uint8_t *fake_disk_bytes(const struct fake_disk *d, const char *name);
/* Replace bytes within the file, or cut it, durably at once. */
void fake_disk_poke(struct fake_disk *d, const char *name, uint64_t offset, const void *data, size_t bytes);
void fake_disk_cut(struct fake_disk *d, const char *name, uint64_t bytes);
/* A disk with the same durable and visible state: as many crashes of one history as a test likes. */
struct fake_disk *fake_disk_clone(const struct fake_disk *d);

/* The generator behind `rng` (splitmix64), for tests that want the same one. */
uint64_t fake_disk_random(uint64_t *rng);

#endif
