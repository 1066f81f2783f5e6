/* What the replica knows of the coordinator: the descriptor, the lease, the session. A newer descriptor decides whom to
 * follow, ends a reign, or begins one. */
#include "sidecar/core/replica_internal.h"

/* --- the descriptor ----------------------------------------------------------------------------------------------- */

static void peer_keep(struct replica *r, struct replica_peer *kept, uint32_t *count, otr_node node)
{
    const struct replica_peer *old;

    if (node == r->config.self || node == OTR_NODE_NONE) {
        return;
    }
    for (uint32_t i = 0; i < *count; i++) {
        if (kept[i].node == node) {
            return;
        }
    }
    old = replica_peer_find(r, node);
    kept[*count] = old != NULL ? *old
                               : (struct replica_peer){.node = node,
                                                       .next = r->last.index + 1,
                                                       .probing = true,
                                                       .heard_ms = r->now_ms,
                                                       .progress_ms = r->now_ms};
    (*count)++;
}

static void peers_rebuild(struct replica *r)
{
    struct replica_peer kept[REPLICA_PEERS_MAX];
    uint32_t count = 0;

    for (uint32_t i = 0; i < r->descriptor.replicas_count; i++) {
        peer_keep(r, kept, &count, r->descriptor.replicas[i]);
    }
    for (uint32_t i = 0; i < r->descriptor.in_sync_count; i++) {
        peer_keep(r, kept, &count, r->descriptor.in_sync[i].node);
    }
    memcpy(r->peers, kept, count * sizeof kept[0]);
    r->peers_count = count;
}

static void note_seen(struct replica *r, const struct descriptor *d)
{
    if (d->generation != r->meta.seen_generation || d->epoch != r->meta.seen_epoch ||
        d->version != r->meta.seen_version) {
        r->meta.seen_generation = d->generation;
        r->meta.seen_epoch = d->epoch;
        r->meta.seen_version = d->version;
        replica_meta_changed(r, false);
    }
    if (d->grant_ms > r->meta.grant_ms_max) { /* G4 */
        r->meta.grant_ms_max = d->grant_ms;
        replica_meta_changed(r, true);
    }
}

/* Whether the coordinator shows the past (D4). A watch that lags behind a read is no such thing: it shows an older
 * revision too. */
static bool shown_regressed(struct replica *r, const struct descriptor *d, uint64_t revision,
                            struct replica_actions *out)
{
    struct descriptor seen = {
        .generation = r->meta.seen_generation, .epoch = r->meta.seen_epoch, .version = r->meta.seen_version};

    if (d != NULL && descriptor_compare(d, &seen) >= 0) {
        if (r->regressed_descriptor) {
            r->regressed_descriptor = false;
            r->alarm = NULL; /* should it happen again, it is to be said again */
        }
        return false;
    }
    if (d == NULL && r->meta.log_id == 0 && seen.generation == 0 && seen.epoch == 0 && seen.version == 0) {
        return true; /* nothing yet, and nothing lost */
    }
    if (!r->descriptor_known || revision > r->descriptor_revision || (d == NULL && revision == 0)) {
        r->regressed_descriptor = true;
        replica_alarm(r, out,
                      d == NULL ? "the coordinator no longer knows this shard: restore it, or bootstrap from survivors"
                                : "the coordinator shows an older state than this replica has seen: nobody stands, no "
                                  "set changes; restore it, or bootstrap from survivors");
    }
    return true;
}

static bool victory(const struct replica *r, const struct descriptor *d)
{
    int at = descriptor_in_sync(d, r->config.self);

    /* E1: only this incarnation, only once; a late-applied victory counts. Never on a log that is no longer the one
     * that was elected (E3). */
    return d->epoch > r->meta.promised && d->epoch > r->abdicated_epoch && d->primary == r->config.self &&
           d->incarnation == r->config.incarnation && !r->failed && !r->untrusted && !r->seeding && at >= 0 &&
           d->in_sync[at].log_id == r->meta.log_id;
}

/* As a non-leader: whom to follow. */
static void follow_descriptor(struct replica *r, const struct descriptor *d, bool settled)
{
    bool named = descriptor_has_replica(d, r->config.self) || descriptor_in_sync(d, r->config.self) >= 0;

    if (r->role == REPLICA_CANDIDATE && settled) {
        /* V4: whoever changed the descriptor, our transaction has certainly failed. */
        replica_become(r, REPLICA_FOLLOWER, "another change came first");
    }
    if (d->epoch > r->meta.promised) {
        replica_promise(r, d->epoch);
    }
    if (d->epoch == r->meta.promised && r->leader.epoch < d->epoch) {
        replica_set_leader(r, d->primary, d->incarnation, d->epoch);
    }
    if (named && r->role == REPLICA_IDLE) {
        replica_become(r, REPLICA_FOLLOWER, "the descriptor names this node");
    } else if (!named && r->role == REPLICA_FOLLOWER) {
        replica_become(r, REPLICA_IDLE, "the descriptor does not name this node");
    }
}

/* Set up anew from survivors (D4): revisions count from the start, and nothing that was on its way to the old one can
 * come true in the new one. */
static void another_coordinator(struct replica *r)
{
    r->descriptor_revision = 0;
    r->lease = (struct replica_lease){.known = false};
    if (r->role == REPLICA_CANDIDATE) {
        replica_become(r, REPLICA_FOLLOWER, "the coordinator was set up anew");
    }
    r->change.kind = REPLICA_CHANGE_NONE;
    change_want_read(r);
}

void view_shown(struct replica *r, const struct descriptor *d, uint64_t revision, struct replica_actions *out)
{
    bool settled;

    if (shown_regressed(r, d, revision, out)) {
        return;
    }
    if (r->descriptor_known && d->generation > r->descriptor.generation) {
        another_coordinator(r);
    }
    if (r->descriptor_known && revision < r->descriptor_revision) {
        return;
    }
    settled = change_settle(r, revision);
    if (!r->descriptor_known || descriptor_compare(d, &r->descriptor) != 0) {
        r->descriptor_seen_ms = r->now_ms;
    }
    r->descriptor = *d;
    r->descriptor_revision = revision;
    r->descriptor_known = true;
    peers_rebuild(r);
    note_seen(r, d);
    if (replica_leads(r) && d->epoch > r->epoch) {
        replica_abdicate(r, out, "a higher epoch is published");
    }
    if (replica_leads(r)) {
        return;
    }
    if (victory(r, d)) {
        elect_takeover(r, out);
    } else {
        follow_descriptor(r, d, settled);
    }
}

/* --- lease and session -------------------------------------------------------------------------------------------- */

void view_on_lease(struct replica *r, const struct replica_event *ev)
{
    /* A watch may lag behind a read. Absence may come without a revision; acting on a wrong one ends in a conflict. */
    if (r->lease.known && ev->lease.revision < r->lease.revision && (ev->lease.present || ev->lease.revision != 0)) {
        return;
    }
    r->lease = (struct replica_lease){.known = true,
                                      .present = ev->lease.present,
                                      .mine = ev->lease.present && ev->lease.mine,
                                      .node = ev->lease.node,
                                      .incarnation = ev->lease.incarnation,
                                      .epoch = ev->lease.epoch,
                                      .revision = ev->lease.revision};
}

void view_on_coordinator(struct replica *r, const struct replica_event *ev, struct replica_actions *out)
{
    if (!ev->coordinator.session_open || !r->session_open) {
        r->lease.mine = false; /* bound to another session, if it is there at all */
    }
    r->session_open = ev->coordinator.session_open;
    r->reachable = ev->coordinator.reachable;
    if (r->session_open && r->reachable) {
        r->coordinator_lost_ms = 0;
    } else if (r->coordinator_lost_ms == 0) {
        r->coordinator_lost_ms = r->now_ms;
    }
    r->regressed_coordinator = ev->coordinator.regressed;
    if (ev->coordinator.regressed) {
        replica_alarm(r, out,
                      "the coordinator is not the one it was, or went back in time: nobody stands, no set changes; "
                      "restore it, or bootstrap from survivors");
    }
}
