/* When QUIC is bad enough to be left. */
#include "engine/degrade.h"

#include "base/clock.h"
#include "tests/c/check.h"

static struct sv_degrade degrade;
static struct sv_degrade_sample sample;
static uint64_t now;

static void begin(void)
{
    degrade = (struct sv_degrade){0};
    sample = (struct sv_degrade_sample){.srtt_ns = 20 * SV_NS_PER_MS, .min_rtt_ns = 20 * SV_NS_PER_MS};
    now = 50 * SV_NS_PER_S;
    CHECK(!sv_degrade_look(&degrade, now, &sample));
}

/* A second in which so many datagrams of a side arrived and were lost. */
static bool second(int side, uint64_t arrived, uint64_t lost)
{
    now += SV_NS_PER_S;
    sample.arrived[side] += arrived;
    sample.lost[side] += lost;
    return sv_degrade_look(&degrade, now, &sample);
}

/* One or five percent are what paths and congestion do; a fifth lost for three seconds in a row, on either side, is not. */
static void loss(void)
{
    for (int side = 0; side < 2; side++) {
        begin();
        for (int i = 0; i < 60; i++) {
            CHECK(!second(side, 990, 10));
            CHECK(!second(side, 950, 50));
        }
        CHECK(!second(side, 800, 200));
        CHECK(!second(side, 800, 200));
        CHECK(second(side, 800, 200));
    }
}

/* What lasts needs less: a network that throttles UDP leaves a sender that adapts with a tenth lost, on and on. */
static void loss_that_lasts(void)
{
    for (int side = 0; side < 2; side++) {
        begin();
        for (int i = 0; i < 9; i++) {
            CHECK(!second(side, 900, 100));
        }
        CHECK(!second(side, 960, 40));
        for (int i = 0; i < 9; i++) {
            CHECK(!second(side, 900, 100));
            CHECK(!second(side, 5, 1));
        }
        CHECK(second(side, 900, 100));
    }
}

/* A good second between starts the count anew; a few packets tell nothing, either way. */
static void what_counts(void)
{
    begin();
    CHECK(!second(0, 800, 200));
    CHECK(!second(0, 800, 200));
    CHECK(!second(0, 1000, 0));
    CHECK(!second(0, 800, 200));
    CHECK(!second(0, 10, 0));
    CHECK(!second(0, 0, 10));
    CHECK(!second(0, 800, 200));
    CHECK(second(0, 800, 200));
}

/* Asked more often than once a second it says no more than then. */
static void once_a_second(void)
{
    begin();
    for (int i = 0; i < 29; i++) {
        now += SV_NS_PER_S / 10;
        sample.lost[0] += 100;
        CHECK(!sv_degrade_look(&degrade, now, &sample));
    }
}

/* A path that answers eight times as late as it could, and half a second, for three seconds in which it answers. */
static void late_answers(void)
{
    begin();
    sample.srtt_ns = 800 * SV_NS_PER_MS;
    CHECK(!second(0, 5, 0));
    CHECK(!second(0, 5, 0));
    CHECK(second(0, 5, 0));
    begin();
    sample.srtt_ns = sample.min_rtt_ns = 700 * SV_NS_PER_MS;
    for (int i = 0; i < 10; i++) {
        CHECK(!second(0, 5, 0));
    }
}

/* One late answer is one, however long it stays the last. */
static void an_answer_counts_once(void)
{
    begin();
    sample.srtt_ns = 800 * SV_NS_PER_MS;
    CHECK(!second(0, 1, 0));
    for (int i = 0; i < 30; i++) {
        CHECK(!second(0, 0, 0));
    }
}

/* What the keepalive calls critical is: by two timeouts in a row, or by a share of enough checks. One of a few that was late is not yet a share. */
static void critical_by_the_keepalive(void)
{
    begin();
    sample.critical = true;
    sample.checks = sample.timeouts = 1;
    CHECK(!second(0, 0, 0));
    sample.timeouts = 2;
    CHECK(second(0, 0, 0));
    sample.timeouts = 0;
    sample.checks = 9;
    CHECK(!second(0, 0, 0));
    sample.checks = 10;
    CHECK(second(0, 0, 0));
    sample.critical = false;
    CHECK(!second(0, 0, 0));
}

/* A machine that does not come to look in time does not know what the path is to blame for. */
static void late_looks_tell_nothing(void)
{
    begin();
    for (int i = 0; i < 20; i++) {
        now += 2 * SV_NS_PER_S;
        CHECK(!second(0, 500, 500));
    }
}

int main(void)
{
    RUN(loss);
    RUN(loss_that_lasts);
    RUN(what_counts);
    RUN(once_a_second);
    RUN(late_answers);
    RUN(an_answer_counts_once);
    RUN(critical_by_the_keepalive);
    RUN(late_looks_tell_nothing);
    return CHECK_DONE("engine/degrade");
}
