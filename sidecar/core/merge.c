#include "sidecar/core/merge.h"

static bool same_id(const struct merge_hit *a, const struct merge_hit *b)
{
    return a->id_bytes == b->id_bytes && memcmp(a->id, b->id, a->id_bytes) == 0;
}

int merge_compare(const struct merge_hit *a, const struct merge_hit *b)
{
    uint32_t common = a->id_bytes < b->id_bytes ? a->id_bytes : b->id_bytes;
    int order;

    if (a->score != b->score) {
        return a->score < b->score ? -1 : 1;
    }
    order = memcmp(a->id, b->id, common);
    if (order != 0) {
        return order < 0 ? -1 : 1;
    }
    return (a->id_bytes > b->id_bytes) - (a->id_bytes < b->id_bytes);
}

/* Number of hits that come before `hit`. */
static uint32_t place_of(const struct merge_top *top, const struct merge_hit *hit)
{
    uint32_t low = 0;
    uint32_t high = top->count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (merge_compare(&top->hits[middle], hit) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Most hits are worse than the k-th and end at the first comparison. For the others the ids are compared one by one:
 * an id that comes twice may have two scores, so its place tells nothing. */
bool merge_top_add(struct merge_top *top, const struct merge_hit *hit, struct merge_hit *dropped)
{
    struct merge_hit out = {.id = NULL};
    uint32_t place;
    uint32_t gone; /* where the hit that makes room stands, or the end */

    if (top->k == 0 || (top->count == top->k && merge_compare(hit, &top->hits[top->count - 1]) >= 0)) {
        return false;
    }
    place = place_of(top, hit);
    for (gone = 0; gone < top->count && !same_id(&top->hits[gone], hit); gone++) {
    }
    if (gone < place || (gone < top->count && merge_compare(&top->hits[gone], hit) == 0)) {
        return false; /* It is there already, with no worse a score. */
    }
    if (gone < top->count) {
        out = top->hits[gone];
    } else if (top->count == top->k) {
        gone = top->count - 1;
        out = top->hits[gone];
    } else {
        top->count++;
    }
    memmove(&top->hits[place + 1], &top->hits[place], (gone - place) * sizeof top->hits[0]);
    top->hits[place] = *hit;
    if (dropped != NULL) {
        *dropped = out;
    }
    return true;
}
