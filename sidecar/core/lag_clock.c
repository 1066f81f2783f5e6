#include "sidecar/core/lag_clock.h"

#include <string.h>

/* Forgets the moment whose absence does least harm: the gap it leaves, measured by its age. */
static void thin(struct lag_clock *c, uint64_t now_ms)
{
    uint32_t least = 1;
    double harm = 0;

    for (uint32_t i = 1; i + 1 < c->count; i++) {
        double gap = (double)(c->samples[i + 1].ms - c->samples[i - 1].ms);
        double h = gap / (double)(now_ms - c->samples[i].ms + 1);

        if (i == 1 || h < harm) {
            least = i;
            harm = h;
        }
    }
    c->count--;
    memmove(&c->samples[least], &c->samples[least + 1], (c->count - least) * sizeof c->samples[0]);
}

void lag_clock_note(struct lag_clock *c, uint64_t now_ms, uint64_t last_index)
{
    while (c->count > 0 && c->samples[c->count - 1].index > last_index) {
        c->count--; /* cut off */
    }
    if (c->count == 0 || c->samples[c->count - 1].index < last_index) {
        if (c->count == LAG_SAMPLES) {
            thin(c, now_ms);
        }
        c->samples[c->count++].index = last_index;
    }
    c->samples[c->count - 1].ms = now_ms;
}

uint64_t lag_clock_age(const struct lag_clock *c, uint64_t now_ms, uint64_t index)
{
    uint32_t i = c->count;

    if (c->count == 0 || index >= c->samples[c->count - 1].index) {
        return 0;
    }
    while (i > 1 && c->samples[i - 1].index > index) {
        i--;
    }
    return now_ms - c->samples[i - 1].ms;
}
