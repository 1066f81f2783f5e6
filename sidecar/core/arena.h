/* Arena: memory that is given back all at once. Blocks grow from 4 KiB to 1 MiB; larger pieces get a block of their
 * own. Pieces are aligned to 16, never moved, not zeroed. Zero-initialise, end with arena_close. Not thread-safe. */
#ifndef OUTRIGGER_CORE_ARENA_H
#define OUTRIGGER_CORE_ARENA_H

#include <stddef.h>

struct arena_block;

struct arena {
    struct arena_block *blocks;
    size_t left;  /* bytes free at the end of the newest block */
    size_t total; /* bytes taken from the heap */
};

/* NULL: out of memory. */
void *arena_alloc(struct arena *a, size_t bytes);
/* A copy of `bytes` bytes with a NUL behind; NULL: out of memory. */
void *arena_copy(struct arena *a, const void *from, size_t bytes);
void arena_close(struct arena *a);

#endif
