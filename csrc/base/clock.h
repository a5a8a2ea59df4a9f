/* The only reader of clocks. Everything below io takes the time as an argument. */
#ifndef SV_BASE_CLOCK_H
#define SV_BASE_CLOCK_H

#include <stdint.h>

#define SV_NS_PER_US UINT64_C(1000)
#define SV_NS_PER_MS UINT64_C(1000000)
#define SV_NS_PER_S UINT64_C(1000000000)
#define SV_NEVER UINT64_MAX

/* Nanoseconds since an unspecified start; stands still while the machine sleeps. */
uint64_t sv_clock_now(void);

/* The same moment on CLOCK_MONOTONIC, for the kernel's timers. */
uint64_t sv_clock_monotonic(uint64_t at);

/* How long the machine has slept since it was started, ns. */
uint64_t sv_clock_slept(void);

/* Nanoseconds since 1970-01-01 UTC. */
uint64_t sv_clock_wall(void);

#endif
