/* What goes wrong, and when. Each seed draws which kinds of faults it has and how often: runs with few kinds find what
 * a mixture of everything hides. Every fault ends by itself; faults_end ends them all. */
#include "tests/simulation/sim.h"

uint64_t faults_time(struct sim *s)
{
    return sim_chance(s, 50) ? sim_between(s, 5 * SIM_MS, 300 * SIM_MS) : sim_between(s, 300 * SIM_MS, 5000 * SIM_MS);
}

bool faults_rate(struct sim *s, enum fault f, uint32_t of)
{
    return s->faults && s->weights[f] != 0 && sim_below(s, of) < s->weights[f];
}

/* --- whom it strikes ---------------------------------------------------------------------------------------------- */

static enum sim_role role_of(const struct sim_shard *sh)
{
    const struct descriptor *d;
    int at;

    switch (sh->role) {
    case REPLICA_PRIMARY:
        return SIM_ROLE_PRIMARY;
    case REPLICA_TAKEOVER:
        return SIM_ROLE_TAKEOVER;
    case REPLICA_CANDIDATE:
        return SIM_ROLE_CANDIDATE;
    default:
        d = &alter_truth(sh->sim, sh->id)->descriptor;
        at = descriptor_in_sync(d, (otr_node)sh->node->id);
        return at >= 0 && d->in_sync[at].log_id == sh->meta.log_id ? SIM_ROLE_MEMBER : SIM_ROLE_LEARNER;
    }
}

void faults_hit_role(struct sim *s, enum fault f, enum sim_role role)
{
    s->counts.hits[f][role]++;
    s->counts.faults += f >= FAULT_FIRST_EVENT;
}

void faults_hit_shard(struct sim *s, enum fault f, const struct sim_shard *sh)
{
    s->counts.hits[f][role_of(sh)]++;
}

void faults_hit(struct sim *s, enum fault f, int node)
{
    s->counts.faults += f >= FAULT_FIRST_EVENT;
    for (uint32_t i = 0; i < s->shards_count; i++) {
        if (s->nodes[node].shards[i] != NULL) {
            faults_hit_shard(s, f, s->nodes[node].shards[i]);
        }
    }
}

static int some_primary(struct sim *s)
{
    otr_shard shard = (otr_shard)sim_below(s, s->shards_count);

    return (int)alter_truth(s, shard)->descriptor.primary;
}

/* Often one whose replica is in a state that does not last, for such are seldom met by chance. */
static int some_node(struct sim *s)
{
    int first = (int)sim_between(s, 1, (uint64_t)s->nodes_count);

    for (int i = 0; i < s->nodes_count && sim_chance(s, 60); i++) {
        int node = (first + i) % s->nodes_count + 1;

        for (uint32_t k = 0; k < s->shards_count; k++) {
            const struct sim_shard *sh = s->nodes[node].shards[k];
            enum sim_role role = sh == NULL ? SIM_ROLE_PRIMARY : role_of(sh);

            if (role != SIM_ROLE_PRIMARY && role != SIM_ROLE_MEMBER) {
                return node;
            }
        }
    }
    return first;
}

/* --- choosing ----------------------------------------------------------------------------------------------------- */

static void strike(struct sim *s, enum fault f, int node)
{
    switch (counts_strikes(f)) {
    case SIM_STRIKES_CLIENTS:
        if (strike_client(s, f)) {
            faults_hit_role(s, f, SIM_ROLE_CLIENT);
        }
        return;
    case SIM_STRIKES_COORDINATOR:
        if (strike_coord(s, f, node)) {
            faults_hit_role(s, f, SIM_ROLE_COORDINATOR);
        }
        return;
    default:
        break;
    }
    switch (f) {
    case FAULT_ONE_WAY:
    case FAULT_PAIR:
    case FAULT_ISOLATE:
    case FAULT_ISOLATE_PRIMARY:
    case FAULT_REFUSE:
    case FAULT_REFUSE_NODE:
    case FAULT_BREAK:
    case FAULT_DELAY:
    case FAULT_COUP:
        (void)strike_net(s, f, node);
        break;
    case FAULT_COORD_CUT_OFF:
    case FAULT_COORD_CUT_PRIMARY:
    case FAULT_COORD_DEAF:
    case FAULT_COORD_RESET:
    case FAULT_SESSION:
    case FAULT_COMPACT:
        (void)strike_coord(s, f, node);
        break;
    default:
        (void)strike_node(s, f, node);
        break;
    }
}

/* By weight; FAULTS_COUNT when this seed has none. */
static enum fault draw(struct sim *s, bool nodes_only)
{
    uint64_t sum = 0, drawn;

    for (int i = FAULT_FIRST_EVENT; i < FAULTS_COUNT; i++) {
        sum += nodes_only && counts_strikes((enum fault)i) != SIM_STRIKES_NODES ? 0 : s->weights[i];
    }
    if (sum == 0) {
        return FAULTS_COUNT;
    }
    drawn = sim_below(s, sum);
    for (int i = FAULT_FIRST_EVENT; i < FAULTS_COUNT; i++) {
        uint64_t weight = nodes_only && counts_strikes((enum fault)i) != SIM_STRIKES_NODES ? 0 : s->weights[i];

        if (drawn < weight) {
            return (enum fault)i;
        }
        drawn -= weight;
    }
    return FAULTS_COUNT;
}

static void choose_fire(struct sim *s, struct sim_event *e)
{
    enum fault f;
    int node;

    (void)e;
    if (!s->faults) {
        return;
    }
    sim_after(s, sim_between(s, SIM_MS, 2 * s->fault_interval_us), 0, choose_fire);
    f = draw(s, false);
    node = some_node(s);
    if (f == FAULT_KILL_PRIMARY || f == FAULT_ISOLATE_PRIMARY || f == FAULT_COORD_CUT_PRIMARY) {
        int primary = some_primary(s);

        node = primary != 0 ? primary : node;
    }
    strike(s, f, node);
}

static void reach_again_fire(struct sim *s, struct sim_event *e)
{
    s->nodes[e->a].coord_blocked = false;
}

static void usurper_fire(struct sim *s, struct sim_event *e)
{
    if (s->faults && s->nodes[e->a].alive) {
        faults_hit(s, FAULT_KILL, (int)e->a);
        strike_crash(s, (int)e->a, false);
    }
}

static void ambush_fire(struct sim *s, struct sim_event *e)
{
    enum fault f = s->faults ? draw(s, true) : FAULTS_COUNT;

    if (f != FAULTS_COUNT) {
        strike(s, f, (int)e->a);
    }
}

static bool ambushes(struct sim *s, uint32_t times)
{
    return s->faults && !s->calm && sim_below(s, 1000) < (uint64_t)s->ambush_permille * times;
}

void faults_ambush(struct sim_shard *sh)
{
    struct sim *s = sh->sim;

    if (sh->role == REPLICA_TAKEOVER && s->faults && s->now_us < s->coup_until_us) {
        s->coup_until_us = 0;
        sim_after(s, sim_below(s, 10 * SIM_MS), 0, usurper_fire)->a = (uint64_t)sh->node->id;
    }
    if (ambushes(s, 1)) {
        sim_after(s, sim_below(s, 8 * SIM_MS), 0, ambush_fire)->a = (uint64_t)sh->node->id;
    }
}

/* The primary must not learn of it, and looks dead: who is elected now, and what do they know? */
void faults_ambush_published(struct sim *s, const struct descriptor *before, const struct descriptor *d)
{
    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        if (descriptor_in_sync(before, d->in_sync[i].node) < 0 && s->nodes[d->in_sync[i].node].alive) {
            strike_rejoined(s, &s->nodes[d->in_sync[i].node]);
        }
    }
    if (d->epoch != before->epoch || d->epoch == 0 || d->in_sync_count == before->in_sync_count ||
        s->weights[FAULT_ISOLATE_PRIMARY] == 0 || !ambushes(s, 2)) {
        return;
    }
    s->nodes[d->primary].coord_blocked = true;
    sim_after(s, faults_time(s), 0, reach_again_fire)->a = d->primary;
    faults_hit(s, FAULT_ISOLATE_PRIMARY, (int)d->primary);
    strike_isolate(s, (int)d->primary, true);
}

void faults_ambush_unknown(struct sim *s, const struct descriptor *d)
{
    if (d->in_sync_count > 0 && ambushes(s, 3)) {
        /* The newest member stands last. */
        uint32_t at = sim_chance(s, 60) ? d->in_sync_count - 1 : (uint32_t)sim_below(s, d->in_sync_count);

        sim_after(s, sim_below(s, 200 * SIM_MS), 0, ambush_fire)->a = d->in_sync[at].node;
    }
}

static void settings_fire(struct sim *s, struct sim_event *e)
{
    if (s->faults) {
        (void)strike_coup(s, (int)sim_between(s, 1, (uint64_t)s->nodes_count), (otr_shard)e->a,
                          sim_chance(s, 80) ? 2 : 0);
    }
}

/* The primary goes by the new setting, its followers by the old one, when it is overthrown. */
void faults_ambush_settings(struct sim *s, otr_shard shard, bool longer_grants)
{
    int primary = (int)s->coord.shards[shard].descriptor.primary;

    if (!longer_grants || primary == 0 || !s->faults || s->calm || !sim_chance(s, 40)) {
        return;
    }
    for (int i = 1; i <= s->nodes_count && sim_chance(s, 70); i++) {
        if (i != primary) {
            s->nodes[i].watch_held_us = s->now_us + 500 * SIM_MS;
        }
    }
    sim_after(s, sim_chance(s, 60) ? sim_between(s, 4 * SIM_MS, 30 * SIM_MS) : sim_below(s, 150 * SIM_MS), 0,
              settings_fire)
        ->a = shard;
}

/* --- beginning and end -------------------------------------------------------------------------------------------- */

/* Nothing that serves data depends on reaching the coordinator (DESIGN 3.3). */
static void calm_down(struct sim *s)
{
    static const enum fault kept[] = {FAULT_COORD_DOWN,        FAULT_COORD_FLAKY, FAULT_COORD_CUT_OFF, FAULT_SESSION,
                                      FAULT_COORD_CUT_PRIMARY, FAULT_TOUCH,       FAULT_COMPACT,       FAULT_COORD_DEAF,
                                      FAULT_COORD_RESET,       FAULT_CLOCK};

    for (int i = 0; i < FAULTS_COUNT; i++) {
        s->weights[i] = i == FAULT_SLOW_WATCH || i == FAULT_DOUBLE_WATCH ? s->weights[i] : 0;
    }
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        s->weights[kept[i]] = (uint32_t)sim_between(s, 1, 10);
    }
}

void faults_start(struct sim *s)
{
    static const uint32_t most[FAULTS_COUNT] = {
        [FAULT_LOSS] = 50,       [FAULT_DOUBLE] = 50,       [FAULT_SLOW_SYNC] = 30,
        [FAULT_SLOW_WATCH] = 60, [FAULT_DOUBLE_WATCH] = 40, [FAULT_RESTART_ALL] = 3};
    uint32_t percent = (uint32_t)sim_between(s, 10, 80); /* of the kinds happen in this run */
    uint32_t kinds = 0;

    s->calm = sim_chance(s, 5);
    for (int i = 0; i < FAULTS_COUNT; i++) {
        if (i == FAULT_MODE) {
            continue; /* sim_mode.c */
        }
        s->weights[i] = sim_chance(s, percent) ? (uint32_t)sim_between(s, 1, most[i] != 0 ? most[i] : 10) : 0;
        kinds += i >= FAULT_FIRST_EVENT && s->weights[i] != 0;
    }
    if (kinds == 0) {
        s->weights[FAULT_KILL] = 1;
    }
    if (s->calm) {
        calm_down(s);
    }
    s->ambush_permille = sim_chance(s, 50) ? 0 : (uint32_t)sim_between(s, 10, 200);
    s->fault_interval_us =
        sim_chance(s, 30) ? sim_between(s, 40 * SIM_MS, 200 * SIM_MS) : sim_between(s, 200 * SIM_MS, 1500 * SIM_MS);
    /* In a calm run everybody is in sync before the first fault. */
    sim_after(s, s->calm ? 2000 * SIM_MS : sim_between(s, 0, 1500 * SIM_MS), 0, choose_fire);
    alter_start(s);
}

void faults_end(struct sim *s)
{
    sim_trace(s, "faults end");
    s->calm = false;
    s->coord.flaky = false;
    if (s->coord.down) {
        coord_set_down(s, false);
    }
    alter_restore(s);
    for (int i = 1; i <= s->nodes_count; i++) {
        struct sim_node *n = &s->nodes[i];

        n->coord_blocked = n->coord_deaf = n->coord_reset = false;
        strike_disk_heal(n);
        handoff_brief_all(s, n);
        if (n->alive && n->paused_until_us != 0) {
            strike_resume(s, n);
        }
        for (int k = 1; k <= s->nodes_count; k++) {
            if (k != i) {
                net_block(s, i, k, false);
                net_refuse(s, i, k, false);
                s->conns[i][k].slow_until_us = 0;
            }
        }
    }
    for (uint32_t i = 0; i < s->clients_count; i++) {
        memset(s->clients[i].no_way_to, 0, sizeof s->clients[i].no_way_to);
        memset(s->clients[i].no_way_from, 0, sizeof s->clients[i].no_way_from);
        memset(s->clients[i].reset, 0, sizeof s->clients[i].reset);
    }
    handoff_heal(s);
    s->absent = sim_chance(s, 25) ? (int)sim_between(s, 1, (uint64_t)s->nodes_count) : 0;
    if (s->absent != 0 && s->nodes[s->absent].alive) {
        node_crash(s, &s->nodes[s->absent], false);
    }
    for (int i = 1; i <= s->nodes_count; i++) {
        if (!s->nodes[i].alive && i != s->absent) {
            node_start(s, &s->nodes[i]);
        }
    }
}
