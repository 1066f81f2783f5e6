#include "sidecar/api/text.h"

#include "outrigger/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CAPACITY_MIN = 256 };

void text_init(struct text *t, size_t limit)
{
    *t = (struct text){.limit = limit};
}

void text_close(struct text *t)
{
    free(t->bytes);
    *t = (struct text){.limit = t->limit};
}

char *text_room(struct text *t, size_t bytes)
{
    size_t capacity = t->capacity;
    char *grown;

    if (t->failed != 0) {
        return NULL;
    }
    if (bytes <= capacity - t->used) {
        return t->bytes + t->used;
    }
    if (bytes > t->limit - t->used) {
        t->failed = OTR_TOOBIG;
        return NULL;
    }
    capacity = capacity == 0 ? CAPACITY_MIN : capacity;
    while (capacity - t->used < bytes) {
        capacity = capacity > t->limit / 2 ? t->limit : capacity * 2;
    }
    grown = realloc(t->bytes, capacity);
    if (grown == NULL) {
        t->failed = OTR_NOMEM;
        return NULL;
    }
    t->bytes = grown;
    t->capacity = capacity;
    return t->bytes + t->used;
}

void text_put(struct text *t, const void *bytes, size_t count)
{
    char *room = text_room(t, count);

    if (room != NULL && count != 0) {
        memcpy(room, bytes, count);
        t->used += count;
    }
}

void text_puts(struct text *t, const char *string)
{
    text_put(t, string, strlen(string));
}

void text_printf(struct text *t, const char *format, ...)
{
    va_list args;
    int wanted;
    char *room;

    va_start(args, format);
    wanted = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (wanted < 0) {
        t->failed = t->failed != 0 ? t->failed : OTR_NOMEM;
        return;
    }
    room = text_room(t, (size_t)wanted + 1); /* vsnprintf writes a NUL behind. */
    if (room == NULL) {
        return;
    }
    va_start(args, format);
    vsnprintf(room, (size_t)wanted + 1, format, args);
    va_end(args);
    t->used += (size_t)wanted;
}
