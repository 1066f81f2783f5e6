/* I6: a request id takes effect at most once, its outcome is the same for whoever asks, and a request that was refused
 * for good (Q3: all attempts said so) takes no effect at all. */
#include "tests/simulation/sim.h"

static size_t effect_of(struct sim *s, uint64_t number)
{
    size_t old = s->check.effects_capacity;

    while (number >= s->check.effects_capacity) {
        s->check.effects =
            sim_grow(s->check.effects, &s->check.effects_capacity, s->check.effects_capacity, sizeof *s->check.effects);
    }
    if (s->check.effects_capacity > old) {
        memset(&s->check.effects[old], 0, (s->check.effects_capacity - old) * sizeof *s->check.effects);
    }
    return number;
}

void check_effect(struct sim_shard *sh, const struct sim_entry *e)
{
    struct sim *s = sh->sim;
    uint64_t number = clients_request_number(&e->id);
    size_t at;

    if (number == 0) {
        return;
    }
    at = effect_of(s, number);
    if (s->check.effects[at].index != 0 && s->check.effects[at].index != e->position.index) {
        sim_fail(s, "I6: request %" PRIu64 " took effect in shard %u as entry %" PRIu64 " and as entry %" PRIu64,
                 number, sh->id, s->check.effects[at].index, e->position.index);
    }
    if (s->check.effects[at].refused) {
        sim_fail(s, "I6: request %" PRIu64 " takes effect in shard %u as entry %" PRIu64 " although it was refused",
                 number, sh->id, e->position.index);
    }
    s->check.effects[at].shard = sh->id;
    s->check.effects[at].index = e->position.index;
}

/* The entry was lost (A7, V7): the request may take effect once more. */
void check_effect_undone(struct sim *s, const struct otr_request_id *id, uint64_t index)
{
    uint64_t number = clients_request_number(id);

    if (number != 0 && s->check.effects[effect_of(s, number)].index == index) {
        s->check.effects[number].index = 0;
    }
}

void check_refused(struct sim *s, const struct otr_request_id *id)
{
    size_t at = effect_of(s, clients_request_number(id));

    if (s->check.effects[at].index != 0) {
        sim_fail(s, "I6: request %" PRIu64 " was refused although it took effect as entry %" PRIu64,
                 clients_request_number(id), s->check.effects[at].index);
    }
    s->check.effects[at].refused = true;
}

void check_outcome(struct sim_shard *sh, struct otr_position at, uint32_t outcome, const char *where)
{
    uint64_t index = at.index;
    struct sim_committed *c = check_entry(sh->sim, sh->id, index);

    if (check_dead(sh->sim, sh->id, at)) {
        return;
    }
    if (c == NULL) {
        sim_fail(sh->sim, "I6: node %d shard %u: entry %" PRIu64 " %s, and nobody committed it", sh->node->id, sh->id,
                 index, where);
        return;
    }
    if (c->outcome_known && c->outcome != outcome) {
        sim_fail(sh->sim, "I6: node %d shard %u: outcome of entry %" PRIu64 " %s is %u, elsewhere it was %u",
                 sh->node->id, sh->id, index, where, outcome, c->outcome);
    }
    c->outcome = outcome;
    c->outcome_known = true;
}
