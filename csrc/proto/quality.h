/* Link quality and the adaptive keepalive (product.md, "Data plane"): smoothed RTT, jitter, loss over the last 50, health with hysteresis. */
#ifndef SV_PROTO_QUALITY_H
#define SV_PROTO_QUALITY_H

#include <stdbool.h>
#include <stdint.h>

enum sv_health { SV_HEALTH_HEALTHY, SV_HEALTH_DEGRADED, SV_HEALTH_CRITICAL };

enum { SV_QUALITY_WINDOW = 50, SV_QUALITY_DEGRADED_SECS = 30, SV_QUALITY_CRITICAL_SECS = 10 };

struct sv_quality {
    uint64_t srtt_ns, jitter_ns; /* RFC 6298 smoothing; jitter is the smoothed mean deviation, at first 0 */
    uint64_t min_rtt_ns, max_rtt_ns; /* UINT64_MAX / 0 before the first answer */
    uint64_t window;                 /* the last 50 checks, bit 0 newest, 1 = lost */
    uint8_t checks;                  /* how many of them are there, at most 50 */
    uint8_t good_in_a_row, timeouts_in_a_row;
    uint8_t critical_timeouts; /* those in a row that found the health critical already */
    enum sv_health health;
    uint16_t healthy_secs; /* the interval while healthy */
};

void sv_quality_init(struct sv_quality *quality, uint16_t healthy_secs);
void sv_quality_on_answer(struct sv_quality *quality, uint64_t rtt_ns);
/* A check whose answer never came; `silent`: nothing at all arrived meanwhile (only then it counts as a timeout, else just as a loss). */
void sv_quality_on_loss(struct sv_quality *quality, bool silent);

/* 0..1. */
double sv_quality_loss(const struct sv_quality *quality);
/* min of the health's interval and healthy_secs. */
uint16_t sv_quality_interval_secs(const struct sv_quality *quality);
/* 3 timeouts in a row while critical. */
bool sv_quality_dead(const struct sv_quality *quality);

#endif
