/* What others do to the coordinator's state: descriptors that name other replicas or settings, and an operator who
 * restores a backup, so that it shows the past (PROTOCOL D4), until the mistake is noticed and undone.
 *
 * A coordinator that goes back is either seen to (its revision falls), or pretends to go on (etcd's --bump-revision):
 * then only what replicas have seen tells the past from the present. It is rolled back only while everybody has seen
 * the present: who has not cannot know, and no rule promises anything then. */
#include "tests/simulation/sim.h"

const struct sim_coord_shard *alter_truth(const struct sim *s, otr_shard shard)
{
    return s->coord.past[shard] ? &s->coord.truth.shards[shard] : &s->coord.shards[shard];
}

static bool may_alter(const struct sim *s, otr_shard shard)
{
    return s->coord.shards[shard].exists && !s->coord.rolled_back;
}

void alter_touch(struct sim *s, otr_shard shard)
{
    struct descriptor d = s->coord.shards[shard].descriptor;

    if (may_alter(s, shard)) {
        d.version++;
        coord_put(s, shard, &d);
    }
}

bool alter_move(struct sim *s, otr_shard shard)
{
    struct descriptor d = s->coord.shards[shard].descriptor;
    uint32_t from = (uint32_t)sim_below(s, d.replicas_count);
    otr_node to = (otr_node)sim_between(s, 1, (uint64_t)s->nodes_count);

    if (!may_alter(s, shard) || descriptor_has_replica(&d, to)) {
        return false;
    }
    sim_trace(s, "coordinator: shard %u: node %u is to be a replica instead of node %u", shard, to, d.replicas[from]);
    d.replicas[from] = to;
    d.version++;
    coord_put(s, shard, &d);
    return true;
}

bool alter_resize(struct sim *s, otr_shard shard)
{
    struct descriptor d = s->coord.shards[shard].descriptor;
    otr_node node = (otr_node)sim_between(s, 1, (uint64_t)s->nodes_count);

    if (!may_alter(s, shard)) {
        return false;
    }
    if (!descriptor_has_replica(&d, node)) {
        sim_trace(s, "coordinator: shard %u: node %u is to be a replica, too", shard, node);
        d.replicas[d.replicas_count++] = node;
        sim_reached(s, SIM_REPLICA_ADDED);
    } else if (d.replicas_count > 2 && d.replicas_count > d.min_in_sync) {
        uint32_t kept = 0;

        sim_trace(s, "coordinator: shard %u: node %u is to be no replica any more", shard, node);
        for (uint32_t i = 0; i < d.replicas_count; i++) {
            if (d.replicas[i] != node) {
                d.replicas[kept++] = d.replicas[i];
            }
        }
        d.replicas_count = kept;
        sim_reached(s, SIM_REPLICA_DROPPED);
    } else {
        return false;
    }
    d.version++;
    coord_put(s, shard, &d);
    return true;
}

bool alter_settings(struct sim *s, otr_shard shard)
{
    struct descriptor d = s->coord.shards[shard].descriptor;

    bool longer = false;

    if (!may_alter(s, shard)) {
        return false;
    }
    if (sim_chance(s, 40)) {
        d.min_in_sync = (uint32_t)sim_between(s, 1, d.replicas_count > 3 ? 3 : 2);
    } else {
        uint32_t grant_ms = (uint32_t)sim_between(s, 60, 400);

        sim_reached(s, grant_ms > d.grant_ms ? SIM_GRANT_MS_RAISED : SIM_GRANT_MS_LOWERED);
        longer = grant_ms > d.grant_ms;
        d.grant_ms = grant_ms;
    }
    sim_trace(s, "coordinator: shard %u: min_in_sync %u, grant_ms %u", shard, d.min_in_sync, d.grant_ms);
    d.version++;
    coord_put(s, shard, &d);
    s->coord.min_revision[shard] = s->coord.revision;
    faults_ambush_settings(s, shard, longer);
    return true;
}

/* --- the past ----------------------------------------------------------------------------------------------------- */

static void backup_fire(struct sim *s, struct sim_event *e)
{
    (void)e;
    if (!s->faults) {
        return;
    }
    sim_after(s, sim_between(s, 200 * SIM_MS, 3000 * SIM_MS), 0, backup_fire);
    if (!s->coord.rolled_back) {
        s->coord.backup.revision = s->coord.revision;
        memcpy(s->coord.backup.shards, s->coord.shards, sizeof s->coord.shards);
    }
}

void alter_start(struct sim *s)
{
    if (s->weights[FAULT_ROLLBACK] != 0) {
        sim_after(s, 1000 * SIM_MS, 0, backup_fire);
    }
}

static bool replica_knows_present(const struct sim_shard *sh)
{
    const struct descriptor *d = &sh->sim->coord.shards[sh->id].descriptor;

    return sh->metas_count == 0 && sh->meta.seen_generation == d->generation && sh->meta.seen_epoch == d->epoch &&
           sh->meta.seen_version == d->version;
}

static bool all_know_present(const struct sim *s)
{
    for (int i = 1; i <= s->nodes_count; i++) {
        const struct sim_node *n = &s->nodes[i];

        if (!n->alive || n->paused_until_us > s->now_us || !n->watching || n->regressed ||
            n->watch_cursor < s->coord.history_count) {
            return false;
        }
        for (uint32_t k = 0; k < s->shards_count; k++) {
            if (n->shards[k] != NULL && !replica_knows_present(n->shards[k])) {
                return false;
            }
        }
    }
    return true;
}

static bool differs(const struct sim *s, uint32_t shard)
{
    const struct sim_coord_shard *then = &s->coord.backup.shards[shard];

    /* Of a shard that nobody had ever led anybody might become the first primary: not a mistake to be survived. */
    return then->exists && then->descriptor.epoch > 0 &&
           descriptor_compare(&then->descriptor, &s->coord.shards[shard].descriptor) != 0;
}

/* The lease as it was, unless its session has ended since. */
static struct sim_lease lease_then(const struct sim *s, const struct sim_lease *l, uint64_t revision)
{
    bool alive = l->present && s->coord.sessions[l->session - 1].alive;
    struct sim_lease none = {.revision = revision};
    struct sim_lease kept = *l;

    kept.revision = revision;
    return alive ? kept : none;
}

static void show_past(struct sim *s, uint32_t shard, bool pretends)
{
    struct sim_coord_shard *c = &s->coord.shards[shard];
    const struct sim_coord_shard *then = &s->coord.backup.shards[shard];

    s->coord.past[shard] = true;
    s->coord.truth.shards[shard] = *c;
    c->descriptor = then->descriptor;
    c->revision = pretends ? ++s->coord.revision : then->revision;
    c->lease = lease_then(s, &then->lease, pretends ? ++s->coord.revision : then->lease.revision);
    sim_trace(s, "coordinator: shard %u: back at epoch %" PRIu64 " version %" PRIu64 ", at %" PRIu64, shard,
              c->descriptor.epoch, c->descriptor.version, c->revision);
}

static void all_watch_anew(struct sim *s)
{
    for (int i = 1; i <= s->nodes_count; i++) {
        if (s->nodes[i].alive && s->nodes[i].watching) {
            coord_watch_anew(s, &s->nodes[i]);
        }
    }
}

bool alter_roll_back(struct sim *s)
{
    bool pretends = sim_chance(s, 50), any = false, all = true;

    if (s->coord.rolled_back || s->coord.down || s->coord.backup.revision == 0 || !all_know_present(s)) {
        return false;
    }
    for (uint32_t i = 0; i < s->shards_count; i++) {
        any = any || differs(s, i);
        all = all && (differs(s, i) ||
                      descriptor_compare(&s->coord.backup.shards[i].descriptor, &s->coord.shards[i].descriptor) == 0);
    }
    if (!any || !all) {
        return false;
    }
    sim_trace(s, "coordinator: restored from a backup%s", pretends ? ", and its revision goes on" : "");
    s->coord.rolled_back = true;
    s->coord.restored++;
    s->coord.truth.revision = s->coord.revision;
    for (uint32_t i = 0; i < s->shards_count; i++) {
        if (differs(s, i)) {
            show_past(s, i, pretends);
        }
    }
    if (!pretends) {
        s->coord.revision = s->coord.backup.revision;
    }
    all_watch_anew(s);
    return true;
}

static void restart_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = &s->nodes[e->a];

    if (n->alive && n->incarnation == e->b) {
        node_crash(s, n, false);
        n->host_down = false;
        node_start(s, n);
    }
}

void alter_restore(struct sim *s)
{
    if (!s->coord.rolled_back) {
        return;
    }
    s->coord.rolled_back = false;
    s->coord.restored++;
    if (s->coord.revision < s->coord.truth.revision) {
        s->coord.revision = s->coord.truth.revision;
    }
    s->coord.revision += 10;
    sim_trace(s, "coordinator: the present is back, at %" PRIu64, s->coord.revision);
    for (uint32_t i = 0; i < s->shards_count; i++) {
        if (s->coord.past[i]) {
            const struct sim_coord_shard *truth = &s->coord.truth.shards[i];

            s->coord.past[i] = false;
            s->coord.shards[i].descriptor = truth->descriptor;
            s->coord.shards[i].revision = ++s->coord.revision;
            s->coord.shards[i].lease = lease_then(s, &truth->lease, ++s->coord.revision);
        }
    }
    all_watch_anew(s);
    /* Processes that have noticed trust it no more: the operator starts them again. */
    for (int i = 1; i <= s->nodes_count; i++) {
        struct sim_event *e;

        if (s->nodes[i].alive && s->nodes[i].regressed) {
            e = sim_after(s, sim_below(s, 1000 * SIM_MS), 0, restart_fire);
            e->a = (uint64_t)i;
            e->b = s->nodes[i].incarnation;
            sim_reached(s, SIM_PAST_OVER);
        }
    }
}
