/* Questions to a replica, and the outcomes that it is told so as to answer them; nothing here decides anything. */
#include "sidecar/core/replica_internal.h"

void replica_outcome(struct replica *r, uint64_t index, uint32_t outcome)
{
    dedup_outcome(&r->dedup, index, outcome);
}

bool replica_knows(const struct replica *r, const struct otr_request_id *id)
{
    return dedup_find(&r->dedup, id) != NULL;
}

void replica_requests(const struct replica *r, void (*cb)(const struct replica_entry *e, uint32_t outcome, void *data),
                      void *data)
{
    for (size_t i = 0; i < r->dedup.count; i++) {
        const struct dedup_entry *d = dedup_at(&r->dedup, i);

        if (d->position.index <= r->committed_index) {
            cb(&(struct replica_entry){.position = d->position, .time_ms = d->time_ms, .request_id = d->request_id},
               d->outcome, data);
        }
    }
}

void replica_requests_between(const struct replica *r, uint64_t after, uint64_t upto, size_t max,
                              void (*cb)(const struct replica_entry *e, uint32_t outcome, void *data), void *data)
{
    size_t low = 0;
    size_t high = r->dedup.count;

    while (low < high) { /* low: the first behind `after` */
        size_t middle = low + (high - low) / 2;
        if (dedup_at(&r->dedup, middle)->position.index <= after) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    for (size_t i = low; i < r->dedup.count && max > 0; i++, max--) {
        const struct dedup_entry *d = dedup_at(&r->dedup, i);

        if (d->position.index > upto || d->position.index > r->committed_index) {
            return;
        }
        cb(&(struct replica_entry){.position = d->position, .time_ms = d->time_ms, .request_id = d->request_id},
           d->outcome, data);
    }
}

uint64_t replica_last_index(const struct replica *r)
{
    return r->last.index;
}

void replica_status(const struct replica *r, uint64_t now_ms, struct replica_status *status)
{
    int at = r->descriptor_known ? descriptor_in_sync(&r->descriptor, r->config.self) : -1;

    *status = (struct replica_status){
        .role = r->role,
        .in_sync = at >= 0 && r->descriptor.in_sync[at].log_id == r->meta.log_id && r->meta.log_id != 0,
        .eligible = r->descriptor_known && elect_eligible(r),
        .known_index = force_known(r),
        .kept_index = force_kept(r),
        .writable =
            r->role == REPLICA_PRIMARY && lead_members_min(r) >= r->descriptor.min_in_sync && !handoff_frozen(r),
        .handing = r->handoff.phase != HANDOFF_NONE,
        .damaged = r->damaged,
        .seeding = r->seeding,
        .trusted = !r->untrusted,
        .leaving = r->leaving,
        .epoch = replica_leads(r) ? r->epoch : r->leader.epoch,
        .promised = r->meta.promised,
        .log_id = r->meta.log_id,
        .primary = r->leader.node,
        .last = r->last,
        .durable_index = r->durable_index,
        .committed_index = r->committed_index,
        .answered_index = r->answered_index,
        .fresh_ms = r->role == REPLICA_PRIMARY ? lead_fresh_ms(r, now_ms) : r->fresh_ms,
        .descriptor = r->descriptor_known ? &r->descriptor : NULL,
        .descriptor_revision = r->descriptor_revision,
        .peers_count = 0,
    };
    if (replica_leads(r)) {
        status->primary = r->config.self;
    } else if (r->leader.node == r->config.self) {
        status->primary = OTR_NODE_NONE;
    }
    for (uint32_t i = 0; i < r->peers_count && status->peers_count < OTR_REPLICAS_MAX; i++) {
        const struct replica_peer *p = &r->peers[i];

        status->peers[status->peers_count].node = p->node;
        status->peers[status->peers_count].acked_index = p->acked;
        status->peers[status->peers_count].counted = replica_leads(r) && lead_counted(r, p);
        status->peers[status->peers_count].seeding = p->seeding;
        status->peers_count++;
    }
}
