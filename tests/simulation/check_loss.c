/* A7, V7: what an epoch that began without acknowledged entries gave up: an election in mode async, or one that an
 * operator forced.
 *
 * When such an epoch is taken over, its leader's log is the shard's history from then on; of what others had committed
 * and it lacks (dead entries, from here on) everything else that the checkers know is forgotten. Then
 *
 *   - no such epoch begins unless the descriptor says so, and none in mode sync unless an operator asked for it;
 *   - in mode async nobody acknowledges an entry that is dead once the epoch without it serves: of two primaries only
 *     one is believed;
 *   - a member of the set lacks at most max_lag of what is acknowledged;
 *   - a replica that gives up dead entries which were acknowledged has noted them before, durably;
 *   - nothing is noted that the shard still has. */
#include "tests/simulation/sim.h"

#include <stdlib.h>

enum { LOSS_AGE_SLACK_MS = 60 }; /* the lag is looked at every tick, and clocks run at different rates */

/* --- dead or alive ------------------------------------------------------------------------------------------------ */

static bool alive_in(const struct sim *s, otr_shard shard, const struct sim_reign_log *log, struct otr_position at)
{
    if (at.index <= log->base) {
        const struct sim_committed *c =
            at.index < s->check.shards[shard].committed_capacity ? &s->check.shards[shard].committed[at.index] : NULL;

        return c == NULL || !c->known || at.epoch == 0 || c->epoch == at.epoch;
    }
    return at.index <= log->base + log->count && log->epochs[at.index - log->base - 1] == at.epoch;
}

bool check_dead(const struct sim *s, otr_shard shard, struct otr_position at)
{
    size_t count = s->check.shards[shard].lossy_count;
    const struct sim_reign_log *last = count == 0 ? NULL : &s->check.shards[shard].lossy[count - 1];

    return last != NULL && at.epoch < last->epoch && !alive_in(s, shard, last, at);
}

struct otr_position check_position(const struct sim_shard *sh, uint64_t index)
{
    const struct sim_entry *e = shard_entry(sh, index);

    if (e != NULL) {
        return e->position;
    }
    return index == sh->base.index ? sh->base : (struct otr_position){.index = index};
}

struct sim_dead *check_dead_find(struct sim *s, otr_shard shard, struct otr_position at)
{
    for (size_t i = s->check.shards[shard].dead_count; i > 0; i--) {
        struct sim_dead *d = &s->check.shards[shard].dead[i - 1];

        if (d->position.index == at.index && d->position.epoch == at.epoch) {
            return d;
        }
    }
    return NULL;
}

static void dead_add(struct sim *s, otr_shard shard, const struct sim_dead *dead)
{
    struct sim_dead *old = check_dead_find(s, shard, dead->position);

    s->check.shards[shard].key_lost[dead->entry.key] |= dead->entry.value != 0;
    if (old != NULL && !old->entry.known) {
        old->entry = dead->entry;
        old->acked = dead->acked;
        return;
    }
    s->check.shards[shard].dead = sim_grow(s->check.shards[shard].dead, &s->check.shards[shard].dead_capacity,
                                           s->check.shards[shard].dead_count, sizeof *s->check.shards[shard].dead);
    s->check.shards[shard].dead[s->check.shards[shard].dead_count++] = *dead;
}

/* A leader that was replaced commits on; whoever follows it, too. */
void check_dead_committed(struct sim_shard *sh, const struct sim_entry *e)
{
    struct sim *s = sh->sim;
    const struct sim_dead *dead = check_dead_find(s, sh->id, e->position);

    if (dead == NULL || !dead->entry.known) {
        dead_add(s, sh->id,
                 &(struct sim_dead){.position = e->position,
                                    .entry = {.epoch = e->position.epoch,
                                              .hash = e->hash,
                                              .id = e->id,
                                              .key = e->key,
                                              .value = e->value,
                                              .known = true}});
    } else if (dead->entry.hash != e->hash) {
        sim_fail(s, "I3: node %d shard %u commits another entry %" PRIu64 " of epoch %" PRIu64 " than others did",
                 sh->node->id, sh->id, e->position.index, e->position.epoch);
    }
}

/* --- an epoch begins ---------------------------------------------------------------------------------------------- */

/* Published; who leads it may never learn of that. */
void check_lossy_published(struct sim *s, otr_shard shard, const struct descriptor *before, const struct descriptor *d)
{
    int before_at = descriptor_in_sync(before, d->primary);
    int at = descriptor_in_sync(d, d->primary);
    /* Under another log id a node is not the member that it was. */
    bool forced = before_at < 0 || at < 0 || d->in_sync[at].log_id != before->in_sync[before_at].log_id;

    if (d->epoch == before->epoch || before->epoch == 0) {
        return;
    }
    if (forced) { /* nobody asks for that here */
        sim_fail(s, "V7: shard %u: node %u is elected for epoch %" PRIu64 " and was not in sync", shard, d->primary,
                 d->epoch);
    }
    if (before->mode != REPLICA_ASYNC) {
        return;
    }
    if (descriptor_lossy_epoch(d) != d->epoch) {
        sim_fail(s, "A7: shard %u: epoch %" PRIu64 " may begin without acknowledged entries, and does not say so",
                 shard, d->epoch);
    }
    s->check.shards[shard].flags = sim_grow(s->check.shards[shard].flags, &s->check.shards[shard].flags_capacity,
                                            s->check.shards[shard].flags_count, sizeof *s->check.shards[shard].flags);
    s->check.shards[shard].flags[s->check.shards[shard].flags_count++] = d->epoch;
    sim_reached(s, SIM_LOSSY_PUBLISHED);
}

/* It, or one that nobody ever took over before it, may have begun without acknowledged entries. */
static bool lossy(const struct sim *s, otr_shard shard, uint64_t epoch)
{
    uint64_t earlier = 0;

    for (size_t i = 0; i < s->check.shards[shard].reigns_count; i++) {
        uint64_t e = s->check.shards[shard].reigns[i].epoch;

        earlier = e < epoch && e > earlier ? e : earlier;
    }
    for (size_t i = 0; i < s->check.shards[shard].flags_count; i++) {
        uint64_t e = s->check.shards[shard].flags[i];

        if (e > earlier && e <= epoch) {
            return true;
        }
    }
    return false;
}

static struct sim_reign_log *take_log(struct sim_shard *sh)
{
    struct sim *s = sh->sim;
    struct sim_reign_log *log;

    s->check.shards[sh->id].lossy =
        sim_grow(s->check.shards[sh->id].lossy, &s->check.shards[sh->id].lossy_capacity,
                 s->check.shards[sh->id].lossy_count, sizeof *s->check.shards[sh->id].lossy);
    log = &s->check.shards[sh->id].lossy[s->check.shards[sh->id].lossy_count++];
    *log = (struct sim_reign_log){.epoch = sh->epoch,
                                  .base = sh->base.index,
                                  .count = sh->entries_count,
                                  .epochs = sim_alloc(sh->entries_count * sizeof *log->epochs)};
    for (size_t i = 0; i < sh->entries_count; i++) {
        log->epochs[i] = sh->entries[i].position.epoch;
    }
    return log;
}

/* Readers know no more of a key than what is left of it. */
static void lower_floors(struct sim *s, otr_shard shard)
{
    for (uint32_t k = 0; k < SIM_KEYS; k++) {
        uint64_t *floor = &s->check.shards[shard].floor[k];
        const struct sim_committed *c;

        while (*floor > 0 && ((c = check_entry(s, shard, *floor)) == NULL || c->key != k || c->value == 0)) {
            --*floor;
        }
        for (uint32_t i = 0; i < s->clients_count; i++) {
            struct sim_client *client = &s->clients[i];

            if (client->shard == shard && client->key == k && client->floor > *floor) {
                client->floor = *floor;
            }
        }
    }
}

static uint64_t bury(struct sim *s, otr_shard shard, const struct sim_reign_log *log)
{
    uint64_t first = 0;

    for (uint64_t i = 1; i < s->check.shards[shard].committed_capacity; i++) {
        struct sim_committed *c = &s->check.shards[shard].committed[i];

        if (!c->known || alive_in(s, shard, log, (struct otr_position){.epoch = c->epoch, .index = i})) {
            continue;
        }
        first = first == 0 ? i : first;
        dead_add(s, shard,
                 &(struct sim_dead){.position = {.epoch = c->epoch, .index = i},
                                    .entry = *c,
                                    .acked = i <= s->check.shards[shard].acked});
        check_effect_undone(s, &c->id, i);
        *c = (struct sim_committed){0};
    }
    return first;
}

/* What an epoch in between gave up, and this one has after all: in mode async the longest log need not win. */
static void revive(struct sim_shard *sh)
{
    struct sim *s = sh->sim;
    struct sim_dead *best;

    for (uint64_t i = 1; i <= sh->commit && i < s->check.shards[sh->id].committed_capacity; i++) {
        best = NULL;
        for (size_t k = 0; k < s->check.shards[sh->id].dead_count; k++) {
            struct sim_dead *dead = &s->check.shards[sh->id].dead[k];
            bool ours = i > sh->base.index ? dead->position.epoch == check_position(sh, i).epoch
                                           : dead->position.epoch <= sh->base.epoch;

            if (dead->entry.known && dead->position.index == i && ours &&
                (best == NULL || best->position.epoch <= dead->position.epoch)) {
                best = dead;
            }
        }
        if (best != NULL && !s->check.shards[sh->id].committed[i].known) {
            s->check.shards[sh->id].committed[i] = best->entry;
            s->check.shards[sh->id].committed[i].outcome_known = false;
        }
    }
}

/* sh has just taken over and its log ends with the epoch-start entry. */
void check_loss_taken_over(struct sim_shard *sh)
{
    struct sim *s = sh->sim;
    size_t count = s->check.shards[sh->id].lossy_count;
    uint64_t acked = s->check.shards[sh->id].acked;
    uint64_t first;

    if (!lossy(s, sh->id, sh->epoch) || (count > 0 && s->check.shards[sh->id].lossy[count - 1].epoch > sh->epoch)) {
        return;
    }
    first = bury(s, sh->id, take_log(sh));
    revive(sh);
    if (first == 0) {
        sim_reached(s, SIM_LOSSY_LOST_NOTHING);
        return;
    }
    for (uint64_t i = first; i < s->check.shards[sh->id].digests_capacity; i++) {
        s->check.shards[sh->id].digests[i] = 0;
    }
    lower_floors(s, sh->id);
    if (acked >= first) {
        sim_reached(s, SIM_LOSSY_LOST_ACKED);
        s->check.shards[sh->id].acked = first - 1;
        sim_trace(s, "shard %u: epoch %" PRIu64 " begins without acknowledged entries %" PRIu64 " to %" PRIu64, sh->id,
                  sh->epoch, first, acked);
    }
}

/* --- answers in mode async ---------------------------------------------------------------------------------------- */

bool check_acked_dead(struct sim_shard *sh, struct otr_position at)
{
    struct sim *s = sh->sim;
    struct sim_dead *dead;

    if (!check_dead(s, sh->id, at)) {
        return false;
    }
    if (s->check.shards[sh->id].serving_epoch > sh->epoch) {
        sim_fail(s,
                 "A7: node %d shard %u acknowledges entry %" PRIu64 " in epoch %" PRIu64 " although epoch %" PRIu64
                 " serves without it",
                 sh->node->id, sh->id, at.index, sh->epoch, s->check.shards[sh->id].serving_epoch);
    }
    dead = check_dead_find(s, sh->id, at);
    if (dead == NULL || !dead->entry.known) {
        sim_fail(s, "A7: node %d shard %u acknowledges entry %" PRIu64 ", and never committed it", sh->node->id, sh->id,
                 at.index);
    } else {
        dead->acked = true;
    }
    return true;
}

static bool holds(const struct sim_shard *m, const struct sim_entry *e)
{
    const struct sim_entry *its = shard_entry(m, e->position.index);

    return e->position.index <= m->base.index ||
           (its != NULL && its->hash == e->hash && e->position.index <= m->durable_index);
}

/* Nobody in the set lacks more than the bounds say, of what is acknowledged up to `index`. */
void check_lag(struct sim_shard *sh, uint64_t index)
{
    struct sim *s = sh->sim;
    const struct descriptor *d = &alter_truth(s, sh->id)->descriptor;
    const struct replica_settings *settings = &sh->node->settings;

    if (d->mode != REPLICA_ASYNC || d->epoch != sh->epoch) {
        return;
    }
    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        const struct sim_node *n = &s->nodes[d->in_sync[i].node];
        const struct sim_shard *m = n->alive ? n->shards[sh->id] : NULL;
        uint64_t first = index;

        if (m == NULL || m == sh || m->seed_in != 0 || m->meta.log_id != d->in_sync[i].log_id) {
            continue;
        }
        while (first > sh->base.index && !holds(m, shard_entry(sh, first))) {
            first--; /* ... so that everything behind it is lacking */
        }
        if (index - first > settings->max_lag_entries) {
            sim_fail(s,
                     "A7: node %d shard %u acknowledges entry %" PRIu64 ", member %d holds %" PRIu64
                     ", max_lag is %" PRIu64,
                     sh->node->id, sh->id, index, n->id, first, settings->max_lag_entries);
        } else if (index > first) {
            const struct sim_entry *e = shard_entry(sh, first + 1);
            uint64_t now_ms = SIM_WALL_CLOCK_MS + s->now_us / SIM_MS;

            sim_reached(s, SIM_ASYNC_ANSWERED_ALONE);
            if (e->kind == RECORD_PUT && e->position.epoch == sh->epoch &&
                now_ms > e->time_ms + settings->max_lag_ms + settings->max_lag_ms / 15 + LOSS_AGE_SLACK_MS) {
                sim_fail(s,
                         "A7: node %d shard %u acknowledges entry %" PRIu64 ", member %d lacks one that is %" PRIu64
                         " ms old, max_lag is %u ms",
                         sh->node->id, sh->id, index, n->id, now_ms - e->time_ms, settings->max_lag_ms);
            }
        }
    }
}

/* --- giving up ---------------------------------------------------------------------------------------------------- */

/* Entries first..last of the log are noted now; `epoch`: the one that began without them. */
void check_noting(struct sim_shard *sh, uint64_t first, uint64_t last, uint64_t epoch)
{
    struct sim *s = sh->sim;
    size_t count = s->check.shards[sh->id].lossy_count;

    /* Who is seeded has not compared logs: he names more than is lost when a later epoch had some of it after all. */
    if (sh->stepping != REPLICA_EV_MSG) {
        return;
    }
    for (uint64_t i = first; i <= last; i++) {
        struct otr_position at = check_position(sh, i);
        const struct sim_committed *c = check_entry(s, sh->id, i);

        if (count > 0 && epoch >= s->check.shards[sh->id].lossy[count - 1].epoch && c != NULL && c->epoch == at.epoch) {
            sim_fail(s,
                     "A7: node %d shard %u reports entry %" PRIu64 " of epoch %" PRIu64 " lost to epoch %" PRIu64
                     ", which has it",
                     sh->node->id, sh->id, i, at.epoch, epoch);
            return;
        }
    }
}

void check_noted(struct sim_shard *sh, uint64_t first, uint64_t last)
{
    for (uint64_t i = first; i <= last; i++) {
        struct otr_position at = check_position(sh, i);

        if (check_dead_find(sh->sim, sh->id, at) == NULL) {
            dead_add(sh->sim, sh->id, &(struct sim_dead){.position = at}); /* its leader may yet commit it */
        }
        check_dead_find(sh->sim, sh->id, at)->noted |= 1U << sh->node->id;
    }
}

/* Entries of the log from `first` on are given up, because others say so. */
void check_given_up(struct sim_shard *sh, uint64_t first)
{
    struct sim *s = sh->sim;

    for (uint64_t i = first > sh->base.index ? first : sh->base.index + 1; i <= sh->base.index + sh->entries_count;
         i++) {
        const struct sim_dead *dead = check_dead_find(s, sh->id, check_position(sh, i));

        if (dead != NULL && dead->acked && check_dead(s, sh->id, dead->position) &&
            (dead->noted & 1U << sh->node->id) == 0) {
            sim_fail(s,
                     "A7: node %d shard %u gives up acknowledged entry %" PRIu64 " of epoch %" PRIu64
                     " and has not reported it",
                     sh->node->id, sh->id, i, dead->position.epoch);
            return;
        }
    }
}

void check_loss_free(struct sim *s)
{
    for (uint32_t i = 0; i < SIM_SHARDS_MAX; i++) {
        for (size_t k = 0; k < s->check.shards[i].lossy_count; k++) {
            free(s->check.shards[i].lossy[k].epochs);
        }
        free(s->check.shards[i].lossy);
        free(s->check.shards[i].flags);
        free(s->check.shards[i].dead);
    }
}
