/* Faults of the coordinator and of the ways to it, and what others change there meanwhile. */
#include "tests/simulation/sim.h"

static void up_fire(struct sim *s, struct sim_event *e)
{
    (void)e;
    if (s->coord.down) {
        coord_set_down(s, false);
    }
}

static void steady_fire(struct sim *s, struct sim_event *e)
{
    (void)e;
    s->coord.flaky = false;
}

static void reach_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = &s->nodes[e->a];

    *(e->b == 0 ? &n->coord_blocked : e->b == 1 ? &n->coord_deaf : &n->coord_reset) = false;
}

static void restore_fire(struct sim *s, struct sim_event *e)
{
    (void)e;
    alter_restore(s);
}

/* way 0: silence; 1: its answers do not arrive; 2: refused */
static bool cut_off(struct sim *s, enum fault f, int node, uint64_t way)
{
    static const char *const what[] = {"is cut off from", "does not hear", "is refused by"};
    struct sim_node *n = &s->nodes[node];
    struct sim_event *e;

    sim_trace(s, "node %d %s the coordinator", node, what[way]);
    faults_hit(s, f, node);
    *(way == 0 ? &n->coord_blocked : way == 1 ? &n->coord_deaf : &n->coord_reset) = true;
    e = sim_after(s, faults_time(s), 0, reach_fire);
    e->a = (uint64_t)node;
    e->b = way;
    return true;
}

static bool strike_way(struct sim *s, enum fault f, int node)
{
    switch (f) {
    case FAULT_COORD_CUT_OFF:
    case FAULT_COORD_CUT_PRIMARY:
        return cut_off(s, f, node, 0);
    case FAULT_COORD_DEAF:
        return cut_off(s, f, node, 1);
    case FAULT_COORD_RESET:
        return cut_off(s, f, node, 2);
    case FAULT_SESSION:
        faults_hit(s, f, node);
        coord_session_kill(s, node);
        return true;
    default: /* FAULT_COMPACT */
        if (!s->nodes[node].alive || !s->nodes[node].watching) {
            return false;
        }
        faults_hit(s, f, node);
        coord_compact(s, &s->nodes[node]);
        return true;
    }
}

bool strike_coord(struct sim *s, enum fault f, int node)
{
    otr_shard shard = (otr_shard)sim_below(s, s->shards_count);

    if (counts_strikes(f) == SIM_STRIKES_NODES) {
        return strike_way(s, f, node);
    }
    switch (f) {
    case FAULT_COORD_DOWN:
        if (s->coord.down) {
            return false;
        }
        coord_set_down(s, true);
        sim_after(s, faults_time(s), 0, up_fire);
        return true;
    case FAULT_COORD_FLAKY:
        sim_trace(s, "coordinator becomes flaky");
        s->coord.flaky = true;
        sim_after(s, faults_time(s), 0, steady_fire);
        return true;
    case FAULT_ROLLBACK:
        if (!alter_roll_back(s)) {
            return false;
        }
        sim_after(s, sim_between(s, 300 * SIM_MS, 4000 * SIM_MS), 0, restore_fire);
        return true;
    case FAULT_MOVE:
        return alter_move(s, shard);
    case FAULT_RESIZE:
        return alter_resize(s, shard);
    case FAULT_SETTINGS:
        return alter_settings(s, shard);
    case FAULT_MODE:
        return mode_strike(s);
    default: /* FAULT_TOUCH */
        alter_touch(s, shard);
        return true;
    }
}
