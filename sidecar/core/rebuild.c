#include "sidecar/core/rebuild.h"

static const struct rebuild_replica *replica_of(const struct rebuild_replica *replicas, size_t count, otr_node node)
{
    for (size_t i = 0; i < count; i++) {
        if (replicas[i].node == node) {
            return &replicas[i];
        }
    }
    return NULL;
}

static bool same_set(const struct descriptor *a, const struct descriptor *b)
{
    bool same = a->in_sync_count == b->in_sync_count && a->primary == b->primary && a->incarnation == b->incarnation &&
                a->replicas_count == b->replicas_count;

    for (uint32_t i = 0; same && i < a->in_sync_count; i++) {
        int at = descriptor_in_sync(b, a->in_sync[i].node);

        same = at >= 0 && b->in_sync[at].log_id == a->in_sync[i].log_id;
    }
    for (uint32_t i = 0; same && i < a->replicas_count; i++) {
        same = descriptor_has_replica(b, a->replicas[i]);
    }
    return same;
}

/* Whoever is not heard, or has seen a newer descriptor than anybody shows, may know of a set that we do not. */
static int check_replicas(const struct topology *names, const struct descriptor *d,
                          const struct rebuild_replica *replicas, size_t count, struct otr_errmsg *msg)
{
    for (uint32_t i = 0; i < d->replicas_count; i++) {
        if (replica_of(replicas, count, d->replicas[i]) == NULL) {
            otr_errmsg_set(msg, "shard %u: %s has a replica and does not answer: it may know of a later primary",
                           d->shard, topology_name(names, d->replicas[i]));
            return OTR_CONFLICT;
        }
    }
    for (size_t i = 0; i < count; i++) {
        struct descriptor seen = {.generation = replicas[i].seen_generation,
                                  .epoch = replicas[i].seen_epoch,
                                  .version = replicas[i].seen_version};

        if (descriptor_compare(&seen, d) > 0 || (replicas[i].leads && replicas[i].promised > d->epoch)) {
            otr_errmsg_set(msg, "shard %u: %s has seen a newer descriptor than anybody can show", d->shard,
                           topology_name(names, replicas[i].node));
            return OTR_CONFLICT;
        }
    }
    return 0;
}

/* Somebody holds what was committed: otherwise the shard would only seem to be back. */
static int check_members(const struct descriptor *d, const struct rebuild_replica *replicas, size_t count,
                         struct otr_errmsg *msg)
{
    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        const struct rebuild_replica *r = replica_of(replicas, count, d->in_sync[i].node);

        if (r != NULL && r->log_id == d->in_sync[i].log_id && otr_position_compare(r->last, d->position) >= 0) {
            return 0;
        }
    }
    if (d->epoch == 0) {
        return 0;
    }
    otr_errmsg_set(msg, "shard %u: no replica that was in sync is left with a whole log", d->shard);
    return OTR_CONFLICT;
}

int rebuild_descriptor(const struct topology *names, const struct descriptor *shown, size_t shown_count,
                       const struct rebuild_replica *replicas, size_t replicas_count, uint64_t generation,
                       bool accept_loss, struct descriptor *out, struct otr_errmsg *msg)
{
    const struct descriptor *newest = NULL;
    uint64_t promised = 0;
    int rv;

    for (size_t i = 0; i < shown_count; i++) {
        int order = newest == NULL ? 1 : descriptor_compare(&shown[i], newest);

        if (order == 0 && !same_set(&shown[i], newest)) {
            otr_errmsg_set(msg, "shard %u: survivors show two different descriptors of epoch %llu, version %llu",
                           newest->shard, (unsigned long long)newest->epoch, (unsigned long long)newest->version);
            return OTR_CORRUPT;
        }
        newest = order > 0 ? &shown[i] : newest;
    }
    if (newest == NULL) {
        return OTR_NOTFOUND;
    }
    rv = accept_loss ? 0 : check_replicas(names, newest, replicas, replicas_count, msg);
    rv = rv != 0 || accept_loss ? rv : check_members(newest, replicas, replicas_count, msg);
    if (rv != 0) {
        return rv;
    }
    for (size_t i = 0; i < replicas_count; i++) {
        promised = replicas[i].promised > promised ? replicas[i].promised : promised;
    }
    *out = *newest;
    out->generation = generation;
    out->version++;
    if (out->epoch != 0) { /* at 0 nobody led, and whoever is named may */
        out->epoch = (promised > out->epoch ? promised : out->epoch) + 1;
    }
    return 0;
}
