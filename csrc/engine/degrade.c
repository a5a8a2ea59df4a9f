#include "engine/degrade.h"

#include "base/clock.h"

enum {
    STRIKES = 3,
    LOSS_PERCENT = 15, /* what congestion control causes by itself stays far below */
    LEAST_DATAGRAMS = 20,
    SLOW_TIMES = 8,
    SLOW_LEAST_MS = 500,
};

static uint64_t grown(uint64_t now, uint64_t before)
{
    return now > before ? now - before : 0;
}

/* 1: bad, -1: good, 0: too few to tell. */
static int judge_loss(const struct sv_degrade_sample *before, const struct sv_degrade_sample *now, int side)
{
    uint64_t lost = grown(now->lost[side], before->lost[side]);
    uint64_t all = lost + grown(now->arrived[side], before->arrived[side]);

    if (all < LEAST_DATAGRAMS) {
        return 0;
    }
    return lost * 100 > all * LOSS_PERCENT ? 1 : -1;
}

static bool is_slow(const struct sv_degrade_sample *sample)
{
    return sample->srtt_ns > SLOW_LEAST_MS * SV_NS_PER_MS && sample->min_rtt_ns &&
           sample->srtt_ns > SLOW_TIMES * sample->min_rtt_ns;
}

bool sv_degrade_look(struct sv_degrade *degrade, uint64_t now, const struct sv_degrade_sample *sample)
{
    int ours, theirs;

    if (!degrade->looked_at) {
        degrade->looked_at = now;
        degrade->before = *sample;
        return false;
    }
    if (now - degrade->looked_at < SV_NS_PER_S) {
        return false;
    }
    ours = judge_loss(&degrade->before, sample, 0);
    theirs = judge_loss(&degrade->before, sample, 1);
    degrade->looked_at = now;
    degrade->before = *sample;
    if (ours > 0 || theirs > 0 || is_slow(sample)) {
        degrade->strikes++;
    } else if (ours < 0 || theirs < 0) {
        degrade->strikes = 0;
    }
    return sample->critical || degrade->strikes >= STRIKES;
}
