/* How old is what somebody lacks? A log's end is noted as time passes; later, whoever has everything up to some index
 * is told when that was the end, so that nothing he lacks is older. Pure; no clock of its own.
 *
 * Of the past, LAG_SAMPLES moments are kept, dense near the present and sparser with age: an answer is never too low,
 * and too high by half at most. A log that grows for a day needs no more of them than one that grows for a minute. */
#ifndef OUTRIGGER_CORE_LAG_CLOCK_H
#define OUTRIGGER_CORE_LAG_CLOCK_H

#include <stdint.h>

enum { LAG_SAMPLES = 64 };

struct lag_clock { /* zeroed is new */
    struct lag_sample {
        uint64_t index;
        uint64_t ms; /* the last moment noted at which the log ended there */
    } samples[LAG_SAMPLES];
    uint32_t count;
};

/* The log ends at last_index now. It may have become shorter. */
void lag_clock_note(struct lag_clock *c, uint64_t now_ms, uint64_t last_index);
/* Age of the oldest entry above `index`, ms; 0: there is none. What was there before the first note counts from it. */
uint64_t lag_clock_age(const struct lag_clock *c, uint64_t now_ms, uint64_t index);

#endif
