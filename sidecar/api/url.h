/* The target of a request: path segments and query parameters, percent-decoded. Segments are cut at "/" before they are
 * decoded, so an id may hold one as %2F; "." and ".." mean nothing. Pure; any thread. */
#ifndef OUTRIGGER_API_URL_H
#define OUTRIGGER_API_URL_H

#include "outrigger/err.h"

#include <stddef.h>

enum { URL_SEGMENTS_MAX = 6, URL_PARAMS_MAX = 8 };

struct url_text {
    const char *text; /* NUL-terminated; may hold further NULs (%00) */
    size_t bytes;
};

struct url {
    struct url_text segments[URL_SEGMENTS_MAX];
    size_t segments_count; /* URL_SEGMENTS_MAX + 1: more than there is room for */
    struct {
        struct url_text name, value;
    } params[URL_PARAMS_MAX];
    size_t params_count;
    char *memory;
};

/* OTR_INVALID with words, OTR_NOMEM. */
OTR_MUST_CHECK int url_parse(struct url *u, const char *target, size_t bytes, struct otr_errmsg *msg);
void url_close(struct url *u);

#endif
