#include "tests/simulation/sim_counts.h"

#include <inttypes.h>
#include <stdio.h>

static const struct {
    const char *name, *text;
    int strikes;
} faults[] = {
#define X(name, strikes, text) {#name, text, SIM_STRIKES_##strikes},
    SIM_FAULTS(X)
#undef X
};
static const struct {
    const char *name, *text;
} situations[] = {
#define X(name, text) {#name, text},
    SIM_SITUATIONS(X)
#undef X
};
static const char *const roles[] = {
#define X(name, text) text,
    SIM_ROLES(X)
#undef X
};

const char *counts_fault_name(enum fault f)
{
    return faults[f].name;
}

int counts_strikes(enum fault f)
{
    return faults[f].strikes;
}

void counts_add(struct sim_counts *to, const struct sim_counts *from)
{
    const uint64_t *in = (const uint64_t *)from;
    uint64_t *out = (uint64_t *)to;
    uint64_t hash = to->hash ^ from->hash;

    for (size_t i = 0; i < sizeof *to / sizeof *out; i++) {
        out[i] += in[i];
    }
    to->hash = hash;
}

void counts_print(const struct sim_counts *c)
{
    printf("%-18s", "fault");
    for (int r = 0; r < SIM_ROLES_COUNT; r++) {
        printf(" %10s", roles[r]);
    }
    printf("\n");
    for (int f = 0; f < FAULTS_COUNT; f++) {
        printf("%-18s", faults[f].name);
        for (int r = 0; r < SIM_ROLES_COUNT; r++) {
            printf(" %10" PRIu64, c->hits[f][r]);
        }
        printf("  %s\n", faults[f].text);
    }
    printf("\n%-26s %10s\n", "situation", "times");
    for (int i = 0; i < SIM_SITUATIONS_COUNT; i++) {
        printf("%-26s %10" PRIu64 "  %s\n", situations[i].name, c->situations[i], situations[i].text);
    }
}

static bool may_strike(int strikes, int role)
{
    switch (strikes) {
    case SIM_STRIKES_NODES:
        return role <= SIM_ROLE_LEARNER;
    case SIM_STRIKES_COORDINATOR:
        return role == SIM_ROLE_COORDINATOR;
    default:
        return role == SIM_ROLE_CLIENT;
    }
}

bool counts_complete(const struct sim_counts *c)
{
    bool complete = true;

    for (int f = 0; f < FAULTS_COUNT; f++) {
        for (int r = 0; r < SIM_ROLES_COUNT; r++) {
            if (may_strike(faults[f].strikes, r) && c->hits[f][r] == 0) {
                printf("never: %s strikes a %s\n", faults[f].name, roles[r]);
                complete = false;
            }
        }
    }
    for (int i = 0; i < SIM_SITUATIONS_COUNT; i++) {
        if (c->situations[i] == 0) {
            printf("never: %s (%s)\n", situations[i].name, situations[i].text);
            complete = false;
        }
    }
    return complete;
}
