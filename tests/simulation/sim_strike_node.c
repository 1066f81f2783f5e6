/* Faults of processes, machines, clocks and disks. */
#include "tests/simulation/sim.h"

#include <stdio.h>

/* --- processes ---------------------------------------------------------------------------------------------------- */

static void start_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = &s->nodes[e->a];

    if (!n->alive) {
        node_start(s, n);
    }
}

static void start_later(struct sim *s, struct sim_node *n)
{
    if (!n->starting) {
        n->starting = true;
        sim_after(s, faults_time(s), 0, start_fire)->a = (uint64_t)n->id;
    }
}

void strike_crash(struct sim *s, int node, bool power)
{
    if (s->nodes[node].alive) {
        node_crash(s, &s->nodes[node], power);
    }
    start_later(s, &s->nodes[node]);
}

void strike_resume(struct sim *s, struct sim_node *n)
{
    struct sim_event *e;

    n->paused_until_us = 0;
    while ((e = n->waiting) != NULL && n->paused_until_us == 0) {
        n->waiting = e->next;
        if (n->waiting == NULL) {
            n->waiting_tail = &n->waiting;
        }
        sim_fire(s, e);
    }
}

static void resume_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = &s->nodes[e->a];

    if (n->alive && n->paused_until_us != 0 && n->paused_until_us <= s->now_us && n->incarnation == e->b) {
        sim_trace(s, "node %d goes on", n->id);
        node_clock_change(s, n);
        strike_resume(s, n);
    }
}

static bool pause(struct sim *s, struct sim_node *n)
{
    uint64_t for_us = faults_time(s);
    struct sim_event *e;

    if (!n->alive || n->paused_until_us != 0) {
        return false;
    }
    sim_trace(s, "node %d is paused for %" PRIu64 " ms", n->id, for_us / SIM_MS);
    node_clock_change(s, n); /* while it stands still its clock may go on at another rate: it jumps when it goes on */
    n->paused_until_us = s->now_us + for_us;
    e = sim_after(s, for_us, 0, resume_fire);
    e->a = (uint64_t)n->id;
    e->b = n->incarnation;
    return true;
}

/* --- disks -------------------------------------------------------------------------------------------------------- */

/* Another member whose log is whole, as far as can be seen. */
static bool another_holds(struct sim *s, uint32_t shard, int node)
{
    const struct descriptor *d = &alter_truth(s, shard)->descriptor;

    for (uint32_t i = 0; i < d->in_sync_count; i++) {
        const struct sim_node *n = &s->nodes[d->in_sync[i].node];

        if (n->id != node && n->alive && !n->flipped && !n->sync_fails && n->shards[shard] != NULL &&
            n->shards[shard]->meta.log_id == d->in_sync[i].log_id) {
            return true;
        }
    }
    return false;
}

/* Faults that destroy logs come seldom enough that the set can recover: otherwise only an operator could help. */
static bool may_lose_log(struct sim *s, int node)
{
    if (s->coord.rolled_back || s->logs_lost >= 3 || (s->logs_lost > 0 && s->now_us < s->log_lost_us + 6000 * SIM_MS)) {
        return false;
    }
    for (uint32_t i = 0; i < s->shards_count; i++) {
        if (descriptor_in_sync(&alter_truth(s, i)->descriptor, (otr_node)node) >= 0 && !another_holds(s, i, node)) {
            return false;
        }
    }
    s->logs_lost++;
    s->log_lost_us = s->now_us;
    return true;
}

static void full_end_fire(struct sim *s, struct sim_event *e)
{
    strike_disk_heal(&s->nodes[e->a]);
    handoff_brief_all(s, &s->nodes[e->a]);
}

void strike_disk_heal(struct sim_node *n)
{
    n->sync_fails = false;
    n->disk_full = false;
    fake_disk_set_capacity(n->disk, UINT64_MAX);
    fake_disk_fail_call(n->disk, 0, 0);
}

static bool fill_disk(struct sim *s, struct sim_node *n)
{
    uint64_t for_us = faults_time(s);

    if (n->disk_full) {
        return false;
    }
    sim_trace(s, "node %d: the disk fills for %" PRIu64 " ms", n->id, for_us / SIM_MS);
    n->disk_full = true;
    fake_disk_set_capacity(n->disk, fake_disk_used(n->disk) + sim_below(s, 3000));
    sim_after(s, for_us, 0, full_end_fire)->a = (uint64_t)n->id;
    handoff_brief_all(s, n);
    return true;
}

static bool fail_call(struct sim *s, struct sim_node *n)
{
    static const unsigned calls[] = {FAKE_DISK_WRITE, FAKE_DISK_TRUNCATE, FAKE_DISK_OPEN, FAKE_DISK_SYNC_DIR};
    unsigned call = calls[sim_below(s, sizeof calls / sizeof calls[0])];

    if (sim_chance(s, 60)) {
        call = FAKE_DISK_READ;
    } else if (!may_lose_log(s, n->id)) {
        return false;
    }
    fake_disk_fail_call(n->disk, call, sim_between(s, 1, 4));
    return true;
}

static void found_fire(struct sim *s, struct sim_event *e)
{
    if (s->faults) {
        sim_trace(s, "node %d: a flipped bit is found", e->node);
        strike_crash(s, e->node, false);
    }
}

/* Where it is known that what stands there was durable: in a sealed segment, or before a later batch. Found by a start,
 * at the latest after a while. */
static bool flip_bit(struct sim *s, struct sim_node *n)
{
    uint32_t segments = 0;
    char name[16];
    uint64_t offset;
    uint8_t byte;
    bool last; /* in the last segment, before a batch that was synced */

    do {
        snprintf(name, sizeof name, "%08u.log", segments + 1);
    } while (fake_disk_exists(n->disk, name) && ++segments > 0);
    last = segments > 0 && n->safe_segment == segments && n->safe_bytes > 0 && (segments < 2 || sim_chance(s, 50));
    if ((segments < 2 && !last) || !may_lose_log(s, n->id)) {
        return false;
    }
    snprintf(name, sizeof name, "%08u.log", last ? segments : (unsigned)sim_between(s, 1, segments - 1));
    offset = sim_below(s, last ? n->safe_bytes : fake_disk_size(n->disk, name));
    byte = (uint8_t)(fake_disk_bytes(n->disk, name)[offset] ^ (1U << sim_below(s, 8)));
    sim_trace(s, "node %d: a bit flips in %s at %" PRIu64, n->id, name, offset);
    fake_disk_poke(n->disk, name, offset, &byte, 1);
    n->flipped = true;
    if (n->alive && sim_chance(s, 50)) {
        sim_after(s, sim_between(s, SIM_MS, 3000 * SIM_MS), n->id, found_fire);
    } else {
        strike_crash(s, n->id, sim_chance(s, 50));
    }
    return true;
}

/* What was not synced is lost with the machine: who went on as if nothing had been has lost something. */
static void machine_fails_fire(struct sim *s, struct sim_event *e)
{
    if (s->faults && s->nodes[e->a].alive) {
        strike_crash(s, (int)e->a, true);
    }
}

void strike_sync_failed(struct sim *s, struct sim_node *n)
{
    if (n->sync_relapse) {
        sim_after(s, sim_below(s, 40 * SIM_MS), 0, machine_fails_fire)->a = (uint64_t)n->id;
    }
    n->sync_relapse = false;
}

static void reach_fire(struct sim *s, struct sim_event *e)
{
    s->nodes[e->a].coord_blocked = false;
}

/* Now and then peers are there before the coordinator is: what does a process know that has only its disk? */
void strike_started(struct sim *s, struct sim_node *n)
{
    if (s->faults && !s->calm && s->now_us > 0 && s->weights[FAULT_COORD_CUT_OFF] != 0 && sim_chance(s, 20)) {
        n->coord_blocked = true;
        sim_after(s, faults_time(s), 0, reach_fire)->a = (uint64_t)n->id;
    }
}

/* Now and then the machine fails as soon as somebody relies on a process that has just started: what that found in the
 * page cache only is lost then. */
void strike_rejoined(struct sim *s, struct sim_node *n)
{
    if (s->faults && s->weights[FAULT_POWER] != 0 && s->now_us - n->started_us < 1500 * SIM_MS && sim_chance(s, 40)) {
        sim_after(s, sim_below(s, 8 * SIM_MS), 0, machine_fails_fire)->a = (uint64_t)n->id;
    }
}

static bool strike_disk(struct sim *s, enum fault f, struct sim_node *n)
{
    switch (f) {
    case FAULT_SYNC_FAILS:
        if (!may_lose_log(s, n->id)) {
            return false;
        }
        n->sync_fails = true;
        n->sync_relapse = sim_chance(s, 50);
        return true;
    case FAULT_CALL_FAILS:
        return fail_call(s, n);
    case FAULT_DISK_FULL:
        return fill_disk(s, n);
    default:
        return flip_bit(s, n);
    }
}

/* --- all of them -------------------------------------------------------------------------------------------------- */

bool strike_node(struct sim *s, enum fault f, int node)
{
    struct sim_node *n = &s->nodes[node];
    uint64_t hits[SIM_ROLES_COUNT];

    if (f == FAULT_HANDOFF || f == FAULT_STOP) {
        return handoff_ask(s, node, f == FAULT_STOP);
    }
    if (!n->alive) {
        return false;
    }
    memcpy(hits, s->counts.hits[f], sizeof hits);
    faults_hit(s, f, node); /* before: in which roles */
    switch (f) {
    case FAULT_KILL:
    case FAULT_KILL_PRIMARY:
        strike_crash(s, node, false);
        return true;
    case FAULT_POWER:
        strike_crash(s, node, true);
        return true;
    case FAULT_RESTART_ALL:
        for (int i = 1; i <= s->nodes_count; i++) {
            strike_crash(s, i, sim_chance(s, 50));
        }
        return true;
    case FAULT_CLOCK:
        node_clock_change(s, n);
        return true;
    case FAULT_ENGINE:
        handoff_engine(s, node, faults_time(s));
        return true;
    case FAULT_WIPE:
        if (may_lose_log(s, node)) {
            strike_crash(s, node, true);
            node_wipe(s, n);
            return true;
        }
        break;
    case FAULT_PAUSE:
        if (pause(s, n)) {
            return true;
        }
        break;
    default:
        if (strike_disk(s, f, n)) {
            return true;
        }
        break;
    }
    memcpy(s->counts.hits[f], hits, sizeof hits); /* it did not strike */
    s->counts.faults--;
    return false;
}
