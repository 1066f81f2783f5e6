#include "sidecar/core/replica_internal.h"

/* --- leaving (J3) ------------------------------------------------------------------------------------------------- */

/* A set below min_in_sync accepts no writes. When all members fell silent at once it is likelier that we are the one
 * cut off: the others are given the time to elect one of theirs before we shut them out. */
enum { SET_SILENCE_PATIENT = 3 /* times suspect_timeout */ };

static bool evidently_dead(const struct replica *r, otr_node node, uint64_t for_ms)
{
    const struct replica_link *link = replica_link_find(r, node);

    return link != NULL && link->state == REPLICA_PEER_DEAD && !link->contradicted &&
           r->now_ms - link->since_ms >= for_ms;
}

static bool silent(const struct replica *r, const struct replica_peer *p, uint64_t for_ms)
{
    return r->now_ms - p->heard_ms >= for_ms;
}

/* patient: without it the set would fall below min_in_sync. */
static bool leaves(struct replica *r, const struct member *m, bool patient)
{
    const struct replica_timings *t = &r->config.timings;
    const struct replica_peer *p = replica_peer_find(r, m->node);

    if (m->node == r->config.self || p == NULL) {
        return false;
    }
    if ((p->log_id != 0 && p->log_id != m->log_id) || p->needs_seed) {
        return true; /* what the set counts on no longer exists */
    }
    if (p->leaving != 0 && !(patient && r->leaving)) {
        /* It says so itself, and goes whatever we do. When we go, too, it keeps what little there is of the set: after
         * a stop of everything there shall be more than one log to start from. */
        return true;
    }
    if (!patient && lead_async(r) && lead_lag_ms(r, p) > r->config.settings.max_lag_ms) {
        return true; /* A7: no write is answered before it is gone, or has caught up */
    }
    if (patient) {
        return evidently_dead(r, m->node, t->suspect_timeout_ms) ||
               silent(r, p, SET_SILENCE_PATIENT * (uint64_t)t->suspect_timeout_ms);
    }
    /* One that grants but does not write holds up every commit. */
    return evidently_dead(r, m->node, 0) || silent(r, p, t->replica_timeout_ms) ||
           !descriptor_has_replica(&r->descriptor, m->node) || /* the shard moved away from it */
           (p->acked < r->last.index && r->now_ms - p->progress_ms >= t->suspect_timeout_ms);
}

/* Takes out of d who leaves. */
static bool remove_members(struct replica *r, struct descriptor *d, bool patient)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        if (!leaves(r, &d->in_sync[i], patient)) {
            d->in_sync[kept++] = d->in_sync[i];
        }
    }
    if (kept == d->in_sync_count) {
        return false;
    }
    d->in_sync_count = kept;
    return true;
}

/* --- joining (J2) ------------------------------------------------------------------------------------------------- */

static bool change_names(const struct replica *r, otr_node node)
{
    return r->change.kind == REPLICA_CHANGE_SET && descriptor_in_sync(&r->change.descriptor, node) >= 0;
}

/* One that grants but does not write would hold up every commit as soon as it is counted. */
static bool may_join(const struct replica *r, const struct replica_peer *p)
{
    return p->log_id != 0 && !p->needs_seed && !p->seeding && p->leaving == 0 && replica_connected(r, p->node) &&
           !silent(r, p, r->config.timings.replica_timeout_ms) && r->last.index - p->acked <= REPLICA_JOIN_LAG &&
           (p->acked >= r->last.index || r->now_ms - p->progress_ms < r->config.timings.replica_timeout_ms);
}

/* From here on the replica is counted; published it is when it holds what is committed by now. */
static void update_joining(struct replica *r, struct replica_peer *p)
{
    int at = descriptor_in_sync(&r->descriptor, p->node);

    if (p->joining) {
        if ((at >= 0 && r->descriptor.in_sync[at].log_id == p->log_id) ||
            ((!may_join(r, p) || handoff_frozen(r)) && !change_names(r, p->node))) {
            p->joining = false;
        } else if (r->descriptor.mode == REPLICA_ASYNC && !lead_async(r)) {
            p->join_index = r->committed_index; /* A7: what was committed since without it counts in mode sync */
        }
        return;
    }
    /* J1: not before the epoch-start entry is committed. Nor under a second log id beside the first. */
    if (r->role == REPLICA_PRIMARY && at < 0 && !handoff_frozen(r) && !change_names(r, p->node) && r->reachable &&
        !replica_regressed(r) && descriptor_has_replica(&r->descriptor, p->node) && may_join(r, p)) {
        p->joining = true;
        p->join_index = r->committed_index;
    }
}

static bool add_members(const struct replica *r, struct descriptor *d)
{
    bool added = false;

    for (uint32_t i = 0; i < r->peers_count; i++) {
        const struct replica_peer *p = &r->peers[i];

        if (p->joining && p->acked >= p->join_index && descriptor_in_sync(d, p->node) < 0 &&
            descriptor_in_sync(&r->descriptor, p->node) < 0 && d->in_sync_count < OTR_REPLICAS_MAX) {
            d->in_sync[d->in_sync_count++] = (struct member){.node = p->node, .log_id = p->log_id};
            added = true;
        }
    }
    return added;
}

/* --- after every event -------------------------------------------------------------------------------------------- */

/* To mode sync only when every member holds what was committed without it. Until then, and from then on, nothing is
 * committed any more without all of them (lead_async). */
static bool change_mode(struct replica *r, struct descriptor *d)
{
    enum replica_mode wanted = r->config.settings.mode;

    if (wanted == 0 || wanted == d->mode || r->role != REPLICA_PRIMARY ||
        (wanted == REPLICA_SYNC && lead_held(r, d) < r->committed_index)) {
        return false;
    }
    d->mode = wanted;
    return true;
}

static bool set_wanted(struct replica *r, struct descriptor *d)
{
    bool changed;

    *d = r->descriptor;
    changed = remove_members(r, d, false);
    if (changed && d->in_sync_count < d->min_in_sync) {
        *d = r->descriptor;
        changed = remove_members(r, d, true);
    }
    changed = add_members(r, d) || changed;
    return change_mode(r, d) || changed;
}

void set_progress(struct replica *r, struct replica_actions *out)
{
    struct otr_position position;
    struct descriptor d;

    if (!replica_leads(r)) {
        return;
    }
    for (uint32_t i = 0; i < r->peers_count; i++) {
        update_joining(r, &r->peers[i]);
    }
    if (!change_possible(r)) { /* D2, D4 */
        return;
    }
    assert(r->descriptor.epoch == r->epoch);
    if (set_wanted(r, &d)) {
        d.version++;
        position = replica_position(r, d.mode == REPLICA_ASYNC ? lead_held(r, &d) : r->committed_index);
        if (otr_position_compare(position, d.position) > 0) { /* D1, E4: who takes over may not know as much yet */
            d.position = position;
        }
        change_start(r, REPLICA_CHANGE_SET, &d, out);
        return;
    }
    /* A lost lease is no reason to stop leading: it is taken again, in the same epoch by the same incarnation (E1). */
    if (r->session_open && r->lease.known && !(r->lease.present && r->lease.mine) && !handoff_frozen(r)) {
        change_start(r, REPLICA_CHANGE_LEASE, &r->descriptor, out);
    }
}
