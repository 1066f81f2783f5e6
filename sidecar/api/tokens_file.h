/* The tokens in force: read from their file at the start, and again within a second of every change.
 *
 * A file that is broken, empty or gone changes nothing: the tokens read before stay in force, one error in the log says
 * why, and once it is well again another line says so. Reading happens on the thread pool. Loop thread only. */
#ifndef OUTRIGGER_API_TOKENS_FILE_H
#define OUTRIGGER_API_TOKENS_FILE_H

#include "sidecar/api/tokens.h"

#include <uv.h>

struct tokens_file;

enum { TOKENS_FILE_INTERVAL_MS = 500 };

/* Reads it, blocking: before anybody is served. `path` is copied. Errors as tokens_read. */
OTR_MUST_CHECK int tokens_file_open(struct tokens_file **out, uv_loop_t *loop, const char *path,
                                    struct otr_errmsg *msg);
/* Until the loop turns. */
const struct tokens *tokens_file_current(const struct tokens_file *f);
/* The file is as it was when the tokens in force were read, as far as known. */
bool tokens_file_fresh(const struct tokens_file *f);
/* Times that other tokens came in force. */
uint64_t tokens_file_reloads(const struct tokens_file *f);
/* Frees it, then cb. */
void tokens_file_close(struct tokens_file *f, void (*cb)(void *data), void *data);

#endif
