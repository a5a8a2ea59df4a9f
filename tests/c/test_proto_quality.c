/* Health goes down at once and up by good checks in a row, at product.md's thresholds; intervals and death
 * follow it. */
#include "tests/c/check.h"

#include "base/clock.h"
#include "proto/quality.h"

enum { MS = 1000000 };

static void answers(struct sv_quality *q, int count, uint64_t ms)
{
    for (int i = 0; i < count; i++) {
        sv_quality_on_answer(q, ms * MS);
    }
}

static void losses(struct sv_quality *q, int count, bool silent)
{
    for (int i = 0; i < count; i++) {
        sv_quality_on_loss(q, silent);
    }
}

static void smoothing(void)
{
    struct sv_quality q;
    sv_quality_init(&q, 60);
    CHECK_EQ(q.health, SV_HEALTH_HEALTHY);
    CHECK(q.min_rtt_ns == UINT64_MAX && q.max_rtt_ns == 0);
    sv_quality_on_answer(&q, 80 * MS);
    CHECK_EQ(q.srtt_ns, 80 * MS);
    CHECK_EQ(q.jitter_ns, 0);
    sv_quality_on_answer(&q, 160 * MS);
    /* srtt 7/8 * 80 + 1/8 * 160, jitter 3/4 * 0 + 1/4 * 80 */
    CHECK_EQ(q.srtt_ns, 90 * MS);
    CHECK_EQ(q.jitter_ns, 20 * MS);
    sv_quality_on_answer(&q, 50 * MS);
    CHECK_EQ(q.srtt_ns, 85 * MS);
    CHECK_EQ(q.jitter_ns, 25 * MS);
    CHECK_EQ(q.min_rtt_ns, 50 * MS);
    CHECK_EQ(q.max_rtt_ns, 160 * MS);
}

static void a_long_steady_path_is_healthy(void)
{
    struct sv_quality q;
    sv_quality_init(&q, 60);
    answers(&q, 60, 600);
    CHECK_EQ(q.health, SV_HEALTH_HEALTHY);
    CHECK_EQ(q.checks, 50);
}

static void loss_is_over_the_last_50(void)
{
    struct sv_quality q;
    sv_quality_init(&q, 60);
    CHECK(sv_quality_loss(&q) == 0.0);
    answers(&q, 3, 10);
    losses(&q, 1, false);
    CHECK(sv_quality_loss(&q) == 0.25);
    answers(&q, 46, 10);
    CHECK(sv_quality_loss(&q) == 0.02);
    answers(&q, 3, 10);
    CHECK(sv_quality_loss(&q) == 0.02);
    answers(&q, 1, 10);
    CHECK(sv_quality_loss(&q) == 0.0);
}

static void loss_thresholds(void)
{
    struct sv_quality q;
    sv_quality_init(&q, 60);
    answers(&q, 50, 10);
    losses(&q, 2, false);
    CHECK_EQ(q.health, SV_HEALTH_HEALTHY); /* 4 % */
    losses(&q, 1, false);
    CHECK_EQ(q.health, SV_HEALTH_DEGRADED); /* 6 % */
    losses(&q, 7, false);
    CHECK_EQ(q.health, SV_HEALTH_DEGRADED); /* 20 % */
    losses(&q, 1, false);
    CHECK_EQ(q.health, SV_HEALTH_CRITICAL); /* 22 % */
    CHECK_EQ(q.timeouts_in_a_row, 0);
}

static void timeouts(void)
{
    struct sv_quality q;
    sv_quality_init(&q, 60);
    answers(&q, 50, 10);
    losses(&q, 1, true);
    CHECK_EQ(q.health, SV_HEALTH_DEGRADED);
    answers(&q, 1, 10);
    losses(&q, 1, true);
    CHECK_EQ(q.health, SV_HEALTH_DEGRADED);
    losses(&q, 1, true);
    CHECK_EQ(q.health, SV_HEALTH_CRITICAL);
}

static void jitter_thresholds(void)
{
    struct sv_quality q;
    sv_quality_init(&q, 60);
    answers(&q, 1, 10);
    sv_quality_on_answer(&q, (10 + 200) * MS);
    CHECK_EQ(q.jitter_ns, 50 * MS);
    CHECK_EQ(q.health, SV_HEALTH_HEALTHY);
    sv_quality_on_answer(&q, (10 + 400) * MS);
    CHECK(q.jitter_ns > 50 * MS);
    CHECK_EQ(q.health, SV_HEALTH_DEGRADED);
    /* Between the bounds it stays; below 30 ms three in a row bring it back. */
    int between = 0, good = 0;
    while (q.health == SV_HEALTH_DEGRADED && between + good < 100) {
        sv_quality_on_answer(&q, q.srtt_ns);
        q.jitter_ns >= 30 * MS ? between++ : good++;
    }
    CHECK(between > 0);
    CHECK_EQ(good, 3);
    CHECK_EQ(q.health, SV_HEALTH_HEALTHY);
}

static void two_good_leave_critical_three_reach_healthy(void)
{
    struct sv_quality q;
    sv_quality_init(&q, 60);
    answers(&q, 50, 10);
    losses(&q, 2, true);
    CHECK_EQ(q.health, SV_HEALTH_CRITICAL);
    answers(&q, 1, 10);
    CHECK_EQ(q.health, SV_HEALTH_CRITICAL);
    losses(&q, 1, false);
    answers(&q, 1, 10);
    CHECK_EQ(q.health, SV_HEALTH_CRITICAL);
    answers(&q, 1, 10);
    CHECK_EQ(q.health, SV_HEALTH_DEGRADED);
    /* The losses must leave the window first: 2 % is not below 2 %. */
    answers(&q, 48, 10);
    CHECK_EQ(q.health, SV_HEALTH_DEGRADED);
    CHECK(sv_quality_loss(&q) == 0.0);
    answers(&q, 1, 10);
    CHECK_EQ(q.health, SV_HEALTH_DEGRADED);
    answers(&q, 1, 10);
    CHECK_EQ(q.health, SV_HEALTH_HEALTHY);
}

static void a_bad_check_breaks_the_row(void)
{
    struct sv_quality q;
    sv_quality_init(&q, 60);
    answers(&q, 50, 10);
    q.health = SV_HEALTH_DEGRADED;
    answers(&q, 2, 10);
    losses(&q, 1, true);
    answers(&q, 50, 10);
    /* The loss left the window with the 50th answer: one good check so far. */
    CHECK_EQ(q.good_in_a_row, 1);
    answers(&q, 2, 10);
    CHECK_EQ(q.health, SV_HEALTH_HEALTHY);
}

static void intervals(void)
{
    struct sv_quality q;
    static const uint16_t healthy[] = {60, 20, 5}, degraded[] = {30, 20, 5}, critical[] = {10, 10, 5};
    for (int i = 0; i < 3; i++) {
        sv_quality_init(&q, healthy[i]);
        CHECK_EQ(sv_quality_interval_secs(&q), healthy[i]);
        q.health = SV_HEALTH_DEGRADED;
        CHECK_EQ(sv_quality_interval_secs(&q), degraded[i]);
        q.health = SV_HEALTH_CRITICAL;
        CHECK_EQ(sv_quality_interval_secs(&q), critical[i]);
    }
}

static void death_is_three_timeouts_in_critical(void)
{
    struct sv_quality q;
    sv_quality_init(&q, 60);
    answers(&q, 50, 10);
    losses(&q, 4, true);
    CHECK_EQ(q.health, SV_HEALTH_CRITICAL);
    CHECK(!sv_quality_dead(&q));
    losses(&q, 1, true);
    CHECK(sv_quality_dead(&q));
    CHECK_EQ(q.timeouts_in_a_row, 5);

    sv_quality_init(&q, 60);
    answers(&q, 50, 10);
    losses(&q, 4, true);
    losses(&q, 1, false);
    losses(&q, 2, true);
    CHECK(!sv_quality_dead(&q));
    losses(&q, 1, true);
    CHECK(sv_quality_dead(&q));
}

int main(void)
{
    RUN(smoothing);
    RUN(a_long_steady_path_is_healthy);
    RUN(loss_is_over_the_last_50);
    RUN(loss_thresholds);
    RUN(timeouts);
    RUN(jitter_thresholds);
    RUN(two_good_leave_critical_three_reach_healthy);
    RUN(a_bad_check_breaks_the_row);
    RUN(intervals);
    RUN(death_is_three_timeouts_in_critical);
    return CHECK_DONE("proto_quality");
}
