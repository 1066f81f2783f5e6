/* I7: after faults end, every shard that can be is writable in bounded time, and all its replicas are in sync and
 * equal. */
#include "tests/simulation/sim.h"

#include <stdio.h>

/* Every member's log is gone: only an operator can help (V7). The faults see to it that this is rare. */
static bool lost(const struct sim *s, otr_shard shard)
{
    const struct descriptor *d = &s->coord.shards[shard].descriptor;

    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        const struct sim_shard *sh = s->nodes[d->in_sync[i].node].shards[shard];

        if (sh != NULL && sh->meta.log_id == d->in_sync[i].log_id) {
            return false;
        }
    }
    return d->epoch > 0;
}

static bool shard_converged(struct sim *s, otr_shard shard, char *why, size_t why_bytes)
{
    const struct descriptor *d = &s->coord.shards[shard].descriptor;
    const struct sim_shard *primary = d->primary == 0 ? NULL : s->nodes[d->primary].shards[shard];
    struct replica_status status;

    if (primary == NULL || primary->role != REPLICA_PRIMARY) {
        snprintf(why, why_bytes, "shard %u has no primary", shard);
        return false;
    }
    replica_status(primary->replica, node_now_ms(s, primary->node), &status);
    if (s->modes && d->mode != s->settings.mode) {
        snprintf(why, why_bytes, "shard %u is not in the mode that is set", shard);
        return false;
    }
    if (!status.writable || d->in_sync_count != d->replicas_count) {
        snprintf(why, why_bytes, "shard %u: %u of %u replicas are in sync%s", shard, d->in_sync_count,
                 d->replicas_count, status.writable ? "" : ", not writable");
        return false;
    }
    if (!s->coord.shards[shard].lease.present || s->coord.shards[shard].lease.incarnation != d->incarnation) {
        snprintf(why, why_bytes, "shard %u: its primary does not hold the lease", shard);
        return false;
    }
    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        const struct sim_shard *sh = s->nodes[d->in_sync[i].node].shards[shard];

        if (!descriptor_has_replica(d, d->in_sync[i].node)) {
            snprintf(why, why_bytes, "shard %u: node %u is in sync and is to be no replica", shard, d->in_sync[i].node);
            return false;
        }
        if (sh == NULL || sh->commit != status.last.index || sh->base.index + sh->entries_count != sh->commit ||
            memcmp(sh->values, primary->values, sizeof sh->values) != 0) {
            snprintf(why, why_bytes, "shard %u: node %u has committed %" PRIu64 ", the primary's log ends at %" PRIu64,
                     shard, d->in_sync[i].node, sh == NULL ? 0 : sh->commit, status.last.index);
            return false;
        }
    }
    return true;
}

bool check_converged(struct sim *s, char *why, size_t why_bytes)
{
    for (uint32_t i = 0; i < s->shards_count; i++) {
        if (!lost(s, i) && !shard_converged(s, i, why, why_bytes)) {
            return false;
        }
    }
    return true;
}

/* Enough replicas are there to make up a set, and the set that there is has a member among them whose log is whole. */
static bool can_do_without(const struct sim *s, otr_shard shard, int absent)
{
    const struct descriptor *d = &s->coord.shards[shard].descriptor;
    uint32_t there = 0;
    bool member = d->epoch == 0;

    for (uint32_t i = 0; i < d->replicas_count; i++) {
        there += (int)d->replicas[i] != absent;
    }
    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        const struct sim_shard *sh = s->nodes[d->in_sync[i].node].shards[shard];

        member = member || ((int)d->in_sync[i].node != absent && sh != NULL && sh->meta.log_id == d->in_sync[i].log_id);
    }
    return member && there >= d->min_in_sync;
}

bool check_writable_without(struct sim *s, int absent, char *why, size_t why_bytes)
{
    for (uint32_t i = 0; i < s->shards_count; i++) {
        const struct descriptor *d = &s->coord.shards[i].descriptor;
        const struct sim_shard *primary = d->primary == 0 ? NULL : s->nodes[d->primary].shards[i];
        struct replica_status status;

        if (!can_do_without(s, i, absent)) {
            continue;
        }
        if (primary == NULL) {
            snprintf(why, why_bytes, "shard %u has no primary", i);
            return false;
        }
        replica_status(primary->replica, node_now_ms(s, primary->node), &status);
        if (!status.writable || descriptor_in_sync(d, (otr_node)absent) >= 0) {
            snprintf(why, why_bytes, "shard %u is not writable, or counts on it", i);
            return false;
        }
    }
    return true;
}

bool check_any_lost(struct sim *s)
{
    for (uint32_t i = 0; i < s->shards_count; i++) {
        if (lost(s, i)) {
            return true;
        }
    }
    return false;
}

void check_end(struct sim *s)
{
    char why[256] = "a client still waits";

    if (check_any_lost(s)) {
        s->counts.lost_shards++;
        return; /* and its clients may wait for ever */
    }
    if (!check_converged(s, why, sizeof why) || !clients_idle(s)) {
        sim_fail(s, "I7: %s, long after the last fault", why);
    }
}

/* --- quiet -------------------------------------------------------------------------------------------------------- */

/* Beacons and their answers every 30 ms, an empty append and its acknowledgement every 100 ms, for each pair and shard:
 * a good hundred messages a second. */
enum { QUIET_MESSAGES_MAX = 400 };

void check_quiet_begin(struct sim *s)
{
    s->check.quiet_revision = s->coord.revision;
    s->check.quiet_roles = s->roles_told;
    s->check.quiet_messages = s->messages;
    s->check.quiet_us = s->now_us;
}

bool check_quiet_end(struct sim *s, bool must)
{
    uint64_t messages = s->messages - s->check.quiet_messages;
    uint64_t links = (uint64_t)s->shards_count * (uint64_t)(s->nodes_count - 1);
    uint64_t seconds = (s->now_us - s->check.quiet_us) / (1000 * SIM_MS);

    if (s->coord.revision == s->check.quiet_revision && s->roles_told == s->check.quiet_roles &&
        messages <= links * QUIET_MESSAGES_MAX * seconds) {
        return true;
    }
    if (must && s->coord.revision != s->check.quiet_revision) {
        sim_fail(s, "I7: all is well, and still somebody changes the coordinator");
    } else if (must && s->roles_told != s->check.quiet_roles) {
        sim_fail(s, "I7: all is well, and still a role changes");
    } else if (must) {
        sim_fail(s, "I7: all is well, and %" PRIu64 " messages are sent in %" PRIu64 " s", messages, seconds);
    }
    return false;
}
