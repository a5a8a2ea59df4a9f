#include "base/clock.h"

#include <time.h>

static uint64_t read_clock(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * SV_NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t sv_clock_now(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t sv_clock_monotonic(uint64_t at)
{
    return at;
}

/* The two clocks differ by nothing but sleep; read one after the other they may seem to by a moment. */
uint64_t sv_clock_slept(void)
{
    uint64_t awake = read_clock(CLOCK_MONOTONIC), all = read_clock(CLOCK_BOOTTIME);

    return all > awake ? all - awake : 0;
}

uint64_t sv_clock_wall(void)
{
    return read_clock(CLOCK_REALTIME);
}
