#include "sidecar/io/clock.h"

#include <criterion/criterion.h>
#include <time.h>

Test(clock, boottime_goes_forward_in_its_units)
{
    struct timespec now;
    uint64_t before_ms, after_ms;

    before_ms = clock_now_ms();
    clock_gettime(CLOCK_BOOTTIME, &now);
    after_ms = clock_now_ms();
    cr_assert(before_ms <= (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000);
    cr_assert(after_ms >= (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000);
    cr_assert(clock_now_ns() / 1000000 >= after_ms);
    cr_assert(clock_now_ns() / 1000000 < after_ms + 1000);
}

Test(clock, wall_is_since_1970)
{
    uint64_t seconds = (uint64_t)time(NULL);

    cr_assert(clock_wall_ms() / 1000 >= seconds && clock_wall_ms() / 1000 <= seconds + 2);
}
