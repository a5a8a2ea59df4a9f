/* For test programs only: linked in place of base/clock.c, the monotonic clock runs SPEED times as fast, so that what takes minutes is
 * seen in seconds. Timers follow; the wall clock is true. */
#include "base/clock.h"

#include <time.h>

enum { SPEED = 20 };

static uint64_t read_clock(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * SV_NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t sv_clock_now(void)
{
    return read_clock(CLOCK_MONOTONIC) * SPEED;
}

uint64_t sv_clock_monotonic(uint64_t at)
{
    return at / SPEED + 1;
}

uint64_t sv_clock_wall(void)
{
    return read_clock(CLOCK_REALTIME);
}

uint64_t sv_clock_slept(void)
{
    return 0;
}
