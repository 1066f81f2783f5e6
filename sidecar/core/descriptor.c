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

uint64_t descriptor_lossy_epoch(const struct descriptor *d)
{
    return d->lossy_count > 0 ? d->lossy[d->lossy_count - 1].epoch : 0;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void descriptor_mark_lossy(struct descriptor *d, uint64_t epoch, struct otr_position ended)
{
    if (d->lossy_count == DESCRIPTOR_LOSSY_MAX) {
        d->lossy[1].ended.index = min_u64(d->lossy[0].ended.index, d->lossy[1].ended.index);
        d->lossy[1].ended.epoch = min_u64(d->lossy[0].ended.epoch, d->lossy[1].ended.epoch);
        d->lossy_count--;
        memmove(&d->lossy[0], &d->lossy[1], d->lossy_count * sizeof d->lossy[0]);
    }
    d->lossy[d->lossy_count++] = (struct descriptor_lossy){.epoch = epoch, .ended = ended};
}

/* Two logs are the same up to where the shorter ends, or to where one has entries of a later epoch than the last of the
 * other's: an epoch has one leader, and whoever took an entry of it had all that came before it (A1). */
uint64_t descriptor_lost_from(const struct descriptor *d, const struct epochs *epochs, struct otr_position last)
{
    uint64_t from = UINT64_MAX;

    for (uint32_t i = 0; i < d->lossy_count; i++) {
        uint64_t kept = epochs_floor(epochs, d->lossy[i].ended, last.index);

        if (d->lossy[i].epoch > last.epoch && kept < last.index) {
            from = min_u64(from, kept + 1);
        }
    }
    return from;
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
