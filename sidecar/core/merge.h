/* Merging search results by (score, id): the k best of several sorted lists, each id once. Pure; any thread. */
#ifndef OUTRIGGER_CORE_MERGE_H
#define OUTRIGGER_CORE_MERGE_H

#include "outrigger/types.h"

struct merge_hit {
    double score;
    const char *id; /* lent */
    uint32_t id_bytes;
    void *data; /* the caller's */
};

/* By score, then by id as bytes (shorter first when one starts with the other). */
int merge_compare(const struct merge_hit *a, const struct merge_hit *b);

/* Keeps the k best of what is added, in order; the caller owns `hits` with room for k. */
struct merge_top {
    struct merge_hit *hits;
    uint32_t k;
    uint32_t count;
};
/* True when it was taken; then *dropped (if not NULL) is the hit that fell out, or has id NULL. */
bool merge_top_add(struct merge_top *top, const struct merge_hit *hit, struct merge_hit *dropped);

#endif
