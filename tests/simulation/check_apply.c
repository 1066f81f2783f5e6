/* I5: no entry is applied before it is committed, nor out of order. Committed is what the whole set holds durably: so
 * at the moment the primary commits an entry, every member of the published set that lives must have it on its disk. */
#include "tests/simulation/sim.h"

/* The log of a member that the set counts on; NULL: it is down, or its log is another by now. */
static const struct sim_shard *member_log(const struct sim *s, otr_shard shard, const struct member *m)
{
    const struct sim_node *n = &s->nodes[m->node];
    const struct sim_shard *sh = n->alive ? n->shards[shard] : NULL;

    return sh != NULL && sh->seed_in == 0 && sh->meta.log_id == m->log_id ? sh : NULL;
}

static void check_held(struct sim_shard *sh, const struct sim_entry *e, uint64_t epoch)
{
    struct sim *s = sh->sim;
    const struct sim_coord_shard *truth = alter_truth(s, sh->id);
    const struct descriptor *d = &truth->descriptor;

    if (d->epoch != epoch || d->mode == REPLICA_ASYNC) {
        return; /* its own disk is enough (A7); or it is replaced, and does not know it yet: I2, I3 and I4 tell whether
                   that does harm */
    }
    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        const struct sim_shard *m = member_log(s, sh->id, &d->in_sync[i]);
        const struct sim_entry *its = m == NULL ? NULL : shard_entry(m, e->position.index);

        if (m == NULL || e->position.index <= m->base.index) {
            continue;
        }
        if (its == NULL || e->position.index > m->durable_index || its->hash != e->hash) {
            sim_fail(s,
                     "I5: node %d shard %u commits entry %" PRIu64
                     ", which member %d does not hold (durable there: %" PRIu64 ")",
                     sh->node->id, sh->id, e->position.index, m->node->id, m->durable_index);
            return;
        }
    }
}

bool check_apply(struct sim_shard *sh, uint64_t index, const struct replica_status *status)
{
    struct sim *s = sh->sim;
    const struct sim_entry *e = shard_entry(sh, index);
    const struct sim_dead *dead;
    /* Before the step or after it: a primary may commit and hand over at once, or take over and commit. */
    bool led = sh->role == REPLICA_PRIMARY || sh->role == REPLICA_TAKEOVER;
    bool leads = led || status->role == REPLICA_PRIMARY || status->role == REPLICA_TAKEOVER;

    if (e == NULL || e->position.index != index || index != sh->commit + 1) {
        sim_fail(s, "I5: node %d shard %u applies entry %" PRIu64 " after %" PRIu64 "; its log %s it", sh->node->id,
                 sh->id, index, sh->commit, e == NULL ? "does not hold" : "holds");
        return false;
    }
    if (index > sh->durable_index) {
        sim_fail(s, "I5: node %d shard %u applies entry %" PRIu64 ", of its log only %" PRIu64 " is durable",
                 sh->node->id, sh->id, index, sh->durable_index);
        return false;
    }
    dead = check_dead_find(s, sh->id, e->position);
    if (!leads && check_entry(s, sh->id, index) == NULL && (dead == NULL || !dead->entry.known)) {
        sim_fail(s, "I5: node %d shard %u, which does not lead, applies entry %" PRIu64 ", which no primary committed",
                 sh->node->id, sh->id, index);
        return false;
    }
    if (leads) {
        check_held(sh, e, led ? sh->epoch : status->epoch);
    }
    return !s->failed && check_committed(sh, e);
}
