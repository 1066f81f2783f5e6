/* Text: a growing buffer of bytes for answers, with a limit from birth. Errors stick: after the first one nothing more
 * is added and text_failed tells; so a writer checks once, at the end. */
#ifndef OUTRIGGER_API_TEXT_H
#define OUTRIGGER_API_TEXT_H

#include <stdbool.h>
#include <stddef.h>

struct text {
    char *bytes; /* malloc'd; NULL while empty */
    size_t used;
    size_t capacity;
    size_t limit;
    int failed; /* 0, OTR_NOMEM, OTR_TOOBIG */
};

void text_init(struct text *t, size_t limit);
void text_close(struct text *t);
/* Room for `bytes` more, or NULL; the caller writes there and adds to `used`. */
char *text_room(struct text *t, size_t bytes);
void text_put(struct text *t, const void *bytes, size_t count);
void text_puts(struct text *t, const char *string);
void text_printf(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
