/* Flusher: the thread that writes and syncs the journal's batches, one at a time (DESIGN 5). A thread of its own,
 * because an fdatasync may take long, and a pool shared with others would make it wait for them.
 *
 * Happy path, on the loop thread: journal_flush_begin() -> flusher_submit(); the thread runs journal_flush_run() and
 * calls `notify` (on the thread: it only wakes the loop up) -> flusher_collect() -> journal_flush_end(). */
#ifndef OUTRIGGER_LOG_FLUSHER_H
#define OUTRIGGER_LOG_FLUSHER_H

#include "sidecar/log/journal.h"

struct flusher;

/* OTR_NOMEM, or OTR_UNAVAIL when the system has no thread to give. `data` is handed to notify. */
OTR_MUST_CHECK int flusher_start(struct flusher **f, void (*notify)(void *data), void *data, struct otr_errmsg *msg);
/* Hands over a batch; asserts that the one before was collected. */
void flusher_submit(struct flusher *f, struct journal_batch *batch);
/* The batch that is done; NULL when none is. Never blocks. */
struct journal_batch *flusher_collect(struct flusher *f);
/* How long the batch collected last took to be written and synced. */
uint64_t flusher_took_ns(struct flusher *f);
/* Ends the thread, after the batch that it has (blocking), and frees. Returns the batch that was done and not
 * collected, which still wants its journal_flush_end(); NULL when there is none. `notify` is not called any more once
 * this returns. */
struct journal_batch *flusher_stop(struct flusher *f);

#endif
