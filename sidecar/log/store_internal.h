/* What store.c, store_snapshot.c and their tests share. */
#ifndef OUTRIGGER_LOG_STORE_INTERNAL_H
#define OUTRIGGER_LOG_STORE_INTERNAL_H

#include "sidecar/log/store.h"

/* A store with another hash: tests make different ids collide. */
typedef uint64_t (*store_hash_fn)(const char *id, size_t id_bytes);
struct store *store_new_with_hash(store_hash_fn hash);

struct store_table {
    uint64_t collection;
    size_t count;
    size_t capacity;
    struct store_slot *slots; /* place 0: empty */
    uint32_t *marks;          /* per slot, in the same block of memory */
};

struct store {
    store_hash_fn hash;
    uint64_t mark_seed;
    struct store_table *tables; /* ascending by collection; only those with points */
    size_t tables_count;
    size_t tables_capacity;
};

/* A hash's home in a table: homes ascend with hashes. */
static inline size_t store_home(uint64_t hash, size_t capacity)
{
    __extension__ typedef unsigned __int128 wide;

    return (size_t)((wide)hash * capacity >> 64);
}

#endif
