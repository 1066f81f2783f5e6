/* Ages of what is lacking: exact when recent, never too low, never too high by more than half. */
#include "sidecar/core/lag_clock.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

Test(lag_clock, nothing_lacks_at_the_end_or_beyond)
{
    struct lag_clock c = {0};

    cr_assert(eq(u64, lag_clock_age(&c, 1000, 0), 0));
    lag_clock_note(&c, 1000, 7);
    cr_assert(eq(u64, lag_clock_age(&c, 9000, 7), 0));
    cr_assert(eq(u64, lag_clock_age(&c, 9000, 8), 0));
}

Test(lag_clock, what_was_there_at_first_counts_from_then)
{
    struct lag_clock c = {0};

    lag_clock_note(&c, 1000, 7);
    cr_assert(eq(u64, lag_clock_age(&c, 1400, 0), 400));
}

/* After a rest, the age of the first new entry is not that of the rest. */
Test(lag_clock, a_rest_makes_nobody_late)
{
    struct lag_clock c = {0};

    for (uint64_t ms = 0; ms <= 3600000; ms += 10) {
        lag_clock_note(&c, ms, 5);
    }
    lag_clock_note(&c, 3600010, 6);
    cr_assert(eq(u64, lag_clock_age(&c, 3600010, 5), 10));
    lag_clock_note(&c, 3600510, 6);
    cr_assert(eq(u64, lag_clock_age(&c, 3600510, 5), 510));
}

Test(lag_clock, a_shorter_log_forgets_its_end)
{
    struct lag_clock c = {0};

    lag_clock_note(&c, 100, 5);
    lag_clock_note(&c, 200, 9);
    lag_clock_note(&c, 300, 7); /* cut to 5, then 6 and 7 were appended */
    cr_assert(eq(u64, lag_clock_age(&c, 400, 7), 0));
    cr_assert(eq(u64, lag_clock_age(&c, 400, 5), 300));
}

/* One entry a millisecond for a day: entry i is written at i. */
Test(lag_clock, a_day_of_writing)
{
    struct lag_clock c = {0};
    uint64_t now = 0;

    for (now = 10; now <= 86400000; now += 10) {
        lag_clock_note(&c, now, now);
    }
    now -= 10;
    for (uint64_t age = 1; age < now; age += age / 7 + 1) {
        uint64_t said = lag_clock_age(&c, now, now - age);

        cr_assert(ge(u64, said, age), "age %lu, said %lu", (unsigned long)age, (unsigned long)said);
        cr_assert(le(u64, said, age + age / 2 + 10), "age %lu, said %lu", (unsigned long)age, (unsigned long)said);
    }
}
