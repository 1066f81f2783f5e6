/* Mode async (DESIGN 4.2): which seeds have it, settings that reach one node after the other, and what a replica notes
 * before it gives up entries that may have been acknowledged.
 *
 * Which seeds those are is a matter of their number, not of chance: the others run as if the mode did not exist. */
#include "tests/simulation/sim.h"

#include <stdlib.h>

enum {
    MODE_SEEDS = 5,              /* one of so many runs in mode async, or changes between the modes */
    MODE_SLOW_US = 800 * SIM_MS, /* so late a node learns of a setting at most, while it reaches the coordinator */
    MODE_RETRY_US = 100 * SIM_MS,
    MODE_NOTE_US = 60 * SIM_MS, /* so long it takes at most to note what is lost */
};

static void draw_lag(struct sim *s)
{
    s->settings.max_lag_entries = sim_chance(s, 30) ? sim_between(s, 0, 3) : sim_between(s, 4, 40);
    s->settings.max_lag_ms = (uint32_t)(sim_chance(s, 30) ? sim_between(s, 20, 100) : sim_between(s, 100, 1000));
}

void mode_start(struct sim *s)
{
    if (s->seed % MODE_SEEDS != 0) {
        return;
    }
    s->modes = true;
    s->settings.mode = sim_chance(s, 80) ? REPLICA_ASYNC : REPLICA_SYNC;
    draw_lag(s);
    for (int i = 1; i <= s->nodes_count; i++) {
        s->nodes[i].settings = s->settings;
    }
    s->weights[FAULT_MODE] = sim_chance(s, 60) ? (uint32_t)sim_between(s, 1, 10) : 0;
}

/* --- settings ----------------------------------------------------------------------------------------------------- */

static void settings_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = &s->nodes[e->a];
    bool cut_off = s->coord.down || n->coord_blocked || n->coord_deaf || n->coord_reset;

    if (e->b != s->settings_number) {
        return; /* newer ones are on their way */
    }
    if (n->paused_until_us > s->now_us || (n->alive && cut_off)) {
        struct sim_event *again = sim_after(s, MODE_RETRY_US, 0, settings_fire);

        again->a = e->a;
        again->b = e->b;
        return;
    }
    n->settings = s->settings; /* a process that starts later finds them */
    for (uint32_t i = 0; i < s->shards_count && n->alive; i++) {
        if (n->shards[i] != NULL) {
            shard_step(n->shards[i], &(struct replica_event){.type = REPLICA_EV_SETTINGS, .settings = n->settings});
        }
    }
}

bool mode_strike(struct sim *s)
{
    if (!s->modes) {
        return false;
    }
    if (sim_chance(s, 70)) {
        s->settings.mode = s->settings.mode == REPLICA_ASYNC ? REPLICA_SYNC : REPLICA_ASYNC;
    } else {
        draw_lag(s);
    }
    sim_trace(s, "settings: mode %s, max_lag %" PRIu64 " entries, %u ms",
              s->settings.mode == REPLICA_ASYNC ? "async" : "sync", s->settings.max_lag_entries,
              s->settings.max_lag_ms);
    s->settings_number++;
    for (int i = 1; i <= s->nodes_count; i++) {
        struct sim_event *e =
            sim_after(s, sim_below(s, sim_chance(s, 50) ? MODE_SLOW_US : 20 * SIM_MS), 0, settings_fire);

        e->a = (uint64_t)i;
        e->b = s->settings_number;
    }
    return true;
}

/* --- notes -------------------------------------------------------------------------------------------------------- */

static void noted_fire(struct sim *s, struct sim_event *e)
{
    struct sim_shard *sh = s->nodes[e->node].shards[e->c];
    bool ok = !s->faults || !sim_chance(s, 10);

    if (sh == NULL) {
        return;
    }
    sim_reached(s, ok ? SIM_LOSS_NOTED : SIM_LOSS_NOT_NOTED);
    sim_trace(s, "node %d shard %u: entries %" PRIu64 " to %" PRIu64 " are %s", e->node, sh->id, e->a, e->b,
              ok ? "noted as lost" : "not noted: the disk does not let it");
    if (ok) {
        check_noted(sh, e->a, e->b);
    }
    shard_step(sh, &(struct replica_event){.type = REPLICA_EV_LOSS_NOTED, .loss_noted = {.first = e->a, .ok = ok}});
}

void mode_note_loss(struct sim_shard *sh, const struct replica_action *a)
{
    struct sim_event *e = sim_after(sh->sim, sim_below(sh->sim, MODE_NOTE_US), sh->node->id, noted_fire);

    check_noting(sh, a->note_loss.first, a->note_loss.last, a->note_loss.epoch);
    e->a = a->note_loss.first;
    e->b = a->note_loss.last;
    e->c = sh->id;
}
