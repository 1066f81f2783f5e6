/* What store.c, store_snapshot.c and their tests share. */
#ifndef OUTRIGGER_LOG_STORE_INTERNAL_H
#define OUTRIGGER_LOG_STORE_INTERNAL_H

#include "sidecar/log/store.h"

/* A store with another hash: tests make different ids collide. */
typedef uint64_t (*store_hash_fn)(const char *id, size_t id_bytes);
struct store *store_new_with_hash(store_hash_fn hash);

/* Counts by segment, ascending. */
struct store_counts {
    struct store_usage *list;
    size_t count;
    size_t capacity;
};
/* The segment's line, made when it is missing; NULL: out of memory. */
struct store_usage *store_counts_make(struct store_counts *c, uint32_t segment);
struct store_usage *store_counts_get(const struct store_counts *c, uint32_t segment);

struct store_table {
    struct store_counts live; /* `live` of the collection's points only */
    uint64_t collection;
    size_t count;
    size_t capacity;
    struct store_slot *slots; /* place 0: empty */
    uint32_t *marks;          /* per slot, in the same block of memory */
    uint32_t *sums;           /* per slot, likewise: the checksum of the point's content */
};

struct store {
    store_hash_fn hash;
    uint64_t mark_seed;
    struct store_table *tables; /* ascending by collection; only those with points */
    size_t tables_count;
    size_t tables_capacity;
    uint64_t digests[STORE_RANGES];
    struct store_counts usage; /* all but `live` */
};

/* A hash's home in a table: homes ascend with hashes. */
static inline size_t store_home(uint64_t hash, size_t capacity)
{
    __extension__ typedef unsigned __int128 wide;

    return (size_t)((wide)hash * capacity >> 64);
}

/* --- store.c, for store_digest.c --- */

/* The slot behind `i`, around the table's end. */
static inline size_t store_next_slot(const struct store_table *t, size_t i)
{
    return i + 1 == t->capacity ? 0 : i + 1;
}
/* NULL when the collection has no points. */
struct store_table *store_table_get(const struct store *s, uint64_t collection);
/* With room for `more` points; NULL: out of memory, nothing has changed. May move the tables. */
struct store_table *store_table_make(struct store *s, uint64_t collection, size_t more);
/* Puts in a slot for which there is room, and a line of its segment in t->live; takes one out. The digests follow. */
void store_table_insert(struct store *s, struct store_table *t, struct store_slot slot, uint32_t mark, uint32_t sum);
void store_table_remove(struct store *s, struct store_table *t, size_t hole);
/* After removals: a table without points goes away. */
void store_table_settle(struct store *s, struct store_table *t);

/* --- store_usage.c --- */

/* Points of `from` are about to be put in: what it counts is counted here from now on, and there are lines for all of
 * them in the tables, which must have been made. OTR_NOMEM. */
OTR_MUST_CHECK int store_usage_merge(struct store *s, const struct store *from);

/* --- store_digest.c --- */

/* A point version comes into a range's digest, or leaves it. */
void store_digest_add(struct store *s, uint64_t collection, uint64_t hash, uint32_t sum);
void store_digest_take(struct store *s, uint64_t collection, uint64_t hash, uint32_t sum);

#endif
