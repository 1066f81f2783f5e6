#include "sidecar/core/replica.h"

static int compare_u64(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b;
}

int descriptor_compare(const struct descriptor *a, const struct descriptor *b)
{
    int order = compare_u64(a->generation, b->generation);

    if (order == 0) {
        order = compare_u64(a->epoch, b->epoch);
    }
    return order != 0 ? order : compare_u64(a->version, b->version);
}

int descriptor_in_sync(const struct descriptor *d, otr_node node)
{
    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        if (d->in_sync[i].node == node) {
            return (int)i;
        }
    }
    return -1;
}

uint64_t descriptor_kept(struct otr_position position, struct otr_position last, uint64_t committed)
{
    return last.epoch >= position.epoch ? last.index : committed;
}

bool descriptor_has_replica(const struct descriptor *d, otr_node node)
{
    for (uint32_t i = 0; i < d->replicas_count; i++) {
        if (d->replicas[i] == node) {
            return true;
        }
    }
    return false;
}
