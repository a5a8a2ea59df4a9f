#include "proto/quality.h"

#include <string.h>

#include "base/clock.h"

enum {
    GOOD_TO_HEALTHY = 3,
    GOOD_TO_DEGRADED = 2,
    TIMEOUTS_TO_CRITICAL = 2,
    TIMEOUTS_TO_DEAD = 3,
};

static const uint64_t jitter_healthy_ns = 30 * SV_NS_PER_MS;
static const uint64_t jitter_degraded_ns = 50 * SV_NS_PER_MS;
static const uint64_t window_mask = (UINT64_C(1) << SV_QUALITY_WINDOW) - 1;

void sv_quality_init(struct sv_quality *quality, uint16_t healthy_secs)
{
    memset(quality, 0, sizeof *quality);
    quality->min_rtt_ns = UINT64_MAX;
    quality->healthy_secs = healthy_secs;
}

static unsigned lost(const struct sv_quality *quality)
{
    return (unsigned)__builtin_popcountll(quality->window);
}

double sv_quality_loss(const struct sv_quality *quality)
{
    return quality->checks > 0 ? (double)lost(quality) / quality->checks : 0.0;
}

/* In integers, so that a loss of exactly 20 % is not above 20 %. */
static bool loss_above(const struct sv_quality *quality, unsigned percent)
{
    return lost(quality) * 100 > percent * quality->checks;
}

static bool loss_below(const struct sv_quality *quality, unsigned percent)
{
    return lost(quality) * 100 < percent * quality->checks;
}

static void note_check(struct sv_quality *quality, bool was_lost)
{
    quality->window = (quality->window << 1 | was_lost) & window_mask;
    if (quality->checks < SV_QUALITY_WINDOW) {
        quality->checks++;
    }
}

static void go_to(struct sv_quality *quality, enum sv_health health)
{
    if (quality->health != health) {
        quality->health = health;
        quality->good_in_a_row = 0;
        quality->critical_timeouts = 0;
    }
}

/* Down at once. */
static bool went_down(struct sv_quality *quality)
{
    if (loss_above(quality, 20) || quality->timeouts_in_a_row >= TIMEOUTS_TO_CRITICAL) {
        go_to(quality, SV_HEALTH_CRITICAL);
        quality->good_in_a_row = 0;
        return true;
    }
    if (quality->health == SV_HEALTH_HEALTHY && (quality->jitter_ns > jitter_degraded_ns ||
                                                 loss_above(quality, 5) || quality->timeouts_in_a_row > 0)) {
        go_to(quality, SV_HEALTH_DEGRADED);
        return true;
    }
    return false;
}

/* Good out of critical is an answer while nothing says critical; good towards healthy is one within healthy's
 * bounds. */
static void go_up(struct sv_quality *quality, bool answered)
{
    bool leaving_critical = quality->health == SV_HEALTH_CRITICAL;
    bool good = answered &&
                (leaving_critical || (quality->jitter_ns < jitter_healthy_ns && loss_below(quality, 2)));
    quality->good_in_a_row = good ? (uint8_t)(quality->good_in_a_row + 1) : 0;
    if (leaving_critical && quality->good_in_a_row >= GOOD_TO_DEGRADED) {
        go_to(quality, SV_HEALTH_DEGRADED);
    } else if (quality->health == SV_HEALTH_DEGRADED && quality->good_in_a_row >= GOOD_TO_HEALTHY) {
        go_to(quality, SV_HEALTH_HEALTHY);
    }
}

static void judge(struct sv_quality *quality, bool answered)
{
    if (!went_down(quality) && quality->health != SV_HEALTH_HEALTHY) {
        go_up(quality, answered);
    }
}

/* RFC 6298's gains; but its first deviation, half the RTT, is a guess for a retransmission timer and would
 * call every long path bad. */
static void smooth(struct sv_quality *quality, uint64_t rtt_ns)
{
    if (quality->min_rtt_ns == UINT64_MAX) {
        quality->srtt_ns = rtt_ns;
        return;
    }
    uint64_t srtt = quality->srtt_ns;
    uint64_t deviation = rtt_ns > srtt ? rtt_ns - srtt : srtt - rtt_ns;
    quality->jitter_ns = quality->jitter_ns - quality->jitter_ns / 4 + deviation / 4;
    quality->srtt_ns = srtt - srtt / 8 + rtt_ns / 8;
}

void sv_quality_on_answer(struct sv_quality *quality, uint64_t rtt_ns)
{
    smooth(quality, rtt_ns);
    quality->min_rtt_ns = rtt_ns < quality->min_rtt_ns ? rtt_ns : quality->min_rtt_ns;
    quality->max_rtt_ns = rtt_ns > quality->max_rtt_ns ? rtt_ns : quality->max_rtt_ns;
    quality->timeouts_in_a_row = quality->critical_timeouts = 0;
    note_check(quality, false);
    judge(quality, true);
}

static uint8_t count_up(uint8_t n)
{
    return n < UINT8_MAX ? (uint8_t)(n + 1) : n;
}

void sv_quality_on_loss(struct sv_quality *quality, bool silent)
{
    note_check(quality, true);
    if (silent) {
        quality->timeouts_in_a_row = count_up(quality->timeouts_in_a_row);
        quality->critical_timeouts = quality->health == SV_HEALTH_CRITICAL
                                         ? count_up(quality->critical_timeouts)
                                         : 0;
    } else {
        quality->timeouts_in_a_row = quality->critical_timeouts = 0;
    }
    judge(quality, false);
}

uint16_t sv_quality_interval_secs(const struct sv_quality *quality)
{
    static const uint16_t limit[] = {
        [SV_HEALTH_HEALTHY] = UINT16_MAX,
        [SV_HEALTH_DEGRADED] = SV_QUALITY_DEGRADED_SECS,
        [SV_HEALTH_CRITICAL] = SV_QUALITY_CRITICAL_SECS,
    };
    uint16_t most = limit[quality->health];
    return quality->healthy_secs < most ? quality->healthy_secs : most;
}

bool sv_quality_dead(const struct sv_quality *quality)
{
    return quality->critical_timeouts >= TIMEOUTS_TO_DEAD;
}
