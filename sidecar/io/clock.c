#include "sidecar/io/clock.h"

#include <assert.h>
#include <time.h>

static uint64_t read_ns(clockid_t clock)
{
    struct timespec now;
    int rv = clock_gettime(clock, &now);

    assert(rv == 0); /* These clocks exist on every kernel that runs us. */
    (void)rv;
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t clock_now_ns(void)
{
    return read_ns(CLOCK_BOOTTIME);
}

uint64_t clock_now_ms(void)
{
    return clock_now_ns() / 1000000;
}

uint64_t clock_wall_ms(void)
{
    return read_ns(CLOCK_REALTIME) / 1000000;
}

uint64_t clock_thread_cpu_ns(void)
{
    return read_ns(CLOCK_THREAD_CPUTIME_ID);
}
