/* Where a coordinator can be reached: several URLs, one of which requests go to now, and the pauses between attempts.
 * Loop thread only. */
#ifndef OUTRIGGER_IO_ENDPOINTS_H
#define OUTRIGGER_IO_ENDPOINTS_H

#include "outrigger/err.h"

#include <stdint.h>

enum { ENDPOINTS_MAX = 16, ENDPOINTS_URL_MAX = 256, ENDPOINTS_BACKOFF_MS_MIN = 50, ENDPOINTS_BACKOFF_MS_MAX = 2000 };

struct endpoints {
    char *urls[ENDPOINTS_MAX]; /* "http://host:port" */
    unsigned count;
    unsigned now; /* where requests go */
};

/* "URL,URL,...". OTR_INVALID with words: none, too many, not of that form; OTR_NOMEM. What it holds is to be closed in
 * every case. */
OTR_MUST_CHECK int endpoints_parse(struct endpoints *e, const char *text, struct otr_errmsg *msg);
void endpoints_close(struct endpoints *e);

unsigned endpoints_next(const struct endpoints *e, unsigned endpoint);
/* Requests go elsewhere from now on, if they went there. */
void endpoints_failed(struct endpoints *e, unsigned endpoint);

/* The delay to wait now, +-50 %, and doubles *backoff_ms for the next time. 0 stands for the smallest. */
uint32_t endpoints_backoff_next(uint32_t *backoff_ms);
/* The delay after the failures_count-th attempt in a row, each at the next endpoint: short within a round of all of
 * them, for one may be well while the others are not, and growing from round to round. */
uint32_t endpoints_backoff_round(const struct endpoints *e, unsigned failures_count, uint32_t *backoff_ms);

/* Complains about every endpoint that is not this host's and would get `secret` ("the password") unencrypted. */
void endpoints_warn_of_plain_text(const struct endpoints *e, const char *backend, const char *secret);

#endif
