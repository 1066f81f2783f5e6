#include "sidecar/core/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16, BLOCK_BYTES_MIN = 4096, BLOCK_BYTES_MAX = 1 << 20 };

struct arena_block {
    struct arena_block *next;
    size_t bytes; /* of `memory` */
    _Alignas(ALIGN) unsigned char memory[];
};

/* A block of its own goes behind the newest one, whose rest stays in use. */
static void *alloc_alone(struct arena *a, size_t bytes)
{
    struct arena_block *block = malloc(sizeof *block + bytes);

    if (block == NULL) {
        return NULL;
    }
    block->bytes = bytes;
    if (a->blocks == NULL) {
        block->next = NULL;
        a->blocks = block;
        a->left = 0;
    } else {
        block->next = a->blocks->next;
        a->blocks->next = block;
    }
    a->total += bytes;
    return block->memory;
}

void *arena_alloc(struct arena *a, size_t bytes)
{
    struct arena_block *block;
    size_t next_bytes;

    if (bytes > SIZE_MAX / 2) {
        return NULL;
    }
    bytes = (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (bytes <= a->left) {
        void *piece = a->blocks->memory + (a->blocks->bytes - a->left);
        a->left -= bytes;
        return piece;
    }
    if (bytes > BLOCK_BYTES_MAX / 4) {
        return alloc_alone(a, bytes);
    }
    next_bytes = a->total < BLOCK_BYTES_MIN ? BLOCK_BYTES_MIN : a->total < BLOCK_BYTES_MAX ? a->total : BLOCK_BYTES_MAX;
    next_bytes = next_bytes < bytes ? bytes : (next_bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    block = malloc(sizeof *block + next_bytes);
    if (block == NULL) {
        return NULL;
    }
    block->bytes = next_bytes;
    block->next = a->blocks;
    a->blocks = block;
    a->left = next_bytes - bytes;
    a->total += next_bytes;
    return block->memory;
}

void *arena_copy(struct arena *a, const void *from, size_t bytes)
{
    char *copy = arena_alloc(a, bytes + 1);

    if (copy == NULL) {
        return NULL;
    }
    if (bytes != 0) {
        memcpy(copy, from, bytes);
    }
    copy[bytes] = '\0';
    return copy;
}

void arena_close(struct arena *a)
{
    while (a->blocks != NULL) {
        struct arena_block *block = a->blocks;
        a->blocks = block->next;
        free(block);
    }
    *a = (struct arena){0};
}
