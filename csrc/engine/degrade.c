#include "engine/degrade.h"

#include "base/clock.h"

enum {
    STRIKES = 3,
    LOSS_PERCENT = 15, /* what congestion control causes by itself stays far below */
    LASTING_STRIKES = 10,
    LASTING_PERCENT = 5,
    LEAST_DATAGRAMS = 20,
    LEAST_CHECKS = 10,
    TIMEOUTS = 2,
    LATE_S = 2, /* a look that comes so long after the last one */
    SLOW_TIMES = 8,
    SLOW_LEAST_MS = 500,
};

static uint64_t grown(uint64_t now, uint64_t before)
{
    return now > before ? now - before : 0;
}

/* Of a side, in percent, rounded up; -1: too few datagrams to tell. */
static int loss_of(const struct sv_degrade_sample *before, const struct sv_degrade_sample *now, int side)
{
    uint64_t lost = grown(now->lost[side], before->lost[side]);
    uint64_t all = lost + grown(now->arrived[side], before->arrived[side]);

    return all < LEAST_DATAGRAMS ? -1 : (int)((lost * 100 + all - 1) / all);
}

static int worst_loss(const struct sv_degrade_sample *before, const struct sv_degrade_sample *now)
{
    int ours = loss_of(before, now, 0), theirs = loss_of(before, now, 1);

    return ours > theirs ? ours : theirs;
}

/* Only what was acknowledged meanwhile has measured it. */
static bool is_slow(const struct sv_degrade_sample *before, const struct sv_degrade_sample *now)
{
    return grown(now->arrived[0], before->arrived[0]) && now->srtt_ns > SLOW_LEAST_MS * SV_NS_PER_MS &&
           now->min_rtt_ns && now->srtt_ns > SLOW_TIMES * now->min_rtt_ns;
}

/* One late answer at the beginning is all of the answers there were. */
static bool is_critical(const struct sv_degrade_sample *sample)
{
    return sample->critical && (sample->timeouts >= TIMEOUTS || sample->checks >= LEAST_CHECKS);
}

static void judge(struct sv_degrade *degrade, const struct sv_degrade_sample *sample)
{
    int loss = worst_loss(&degrade->before, sample);

    if (loss > LOSS_PERCENT || is_slow(&degrade->before, sample)) {
        degrade->strikes++;
    } else if (loss >= 0) {
        degrade->strikes = 0;
    }
    if (loss > LASTING_PERCENT) {
        degrade->lossy++;
    } else if (loss >= 0) {
        degrade->lossy = 0;
    }
}

bool sv_degrade_look(struct sv_degrade *degrade, uint64_t now, const struct sv_degrade_sample *sample)
{
    uint64_t since = now - degrade->looked_at;

    if (!degrade->looked_at) {
        degrade->looked_at = now;
        degrade->before = *sample;
        return false;
    }
    if (since < SV_NS_PER_S) {
        return false;
    }
    if (since < LATE_S * SV_NS_PER_S) {
        judge(degrade, sample);
    }
    degrade->looked_at = now;
    degrade->before = *sample;
    return is_critical(sample) || degrade->strikes >= STRIKES || degrade->lossy >= LASTING_STRIKES;
}
