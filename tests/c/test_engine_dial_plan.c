/* What a client tries when, by a clock of the test's own: the race, the pauses, the ways to WebSocket and back. */
#include "engine/dial_plan.h"

#include "base/clock.h"
#include "tests/c/check.h"

#define MS SV_NS_PER_MS
#define S SV_NS_PER_S

static struct sv_dial_plan plan;
static uint64_t now;

static void begin(bool quic, bool websocket, bool websocket_first)
{
    now = 1000 * S;
    sv_dial_plan_init(&plan, quic, websocket, 10 * S, websocket_first);
    sv_dial_plan_connect(&plan, now);
}

/* What is due at this moment, one step. */
static enum sv_dial_act step(enum sv_dial_way *way)
{
    return sv_dial_plan_next(&plan, now, way);
}

static void expect(enum sv_dial_act act, enum sv_dial_way way)
{
    enum sv_dial_way got = SV_DIAL_NONE;

    CHECK_EQ(step(&got), act);
    if (act != SV_DIAL_NOTHING) {
        CHECK_EQ(got, way);
    }
}

static void expect_nothing(void)
{
    expect(SV_DIAL_NOTHING, SV_DIAL_NONE);
}

/* Lets the time pass until something is due, which must be after that long. */
static void pass(uint64_t ns)
{
    CHECK_EQ(sv_dial_plan_deadline(&plan), now + ns);
    now += ns;
}

static void connect_by(enum sv_dial_way way)
{
    enum sv_dial_way got;

    while (step(&got) != SV_DIAL_NOTHING) {
    }
    if (!plan.tries[way].running) {
        now += 300 * MS;
        while (step(&got) != SV_DIAL_NOTHING) {
        }
    }
    sv_dial_plan_won(&plan, way, now);
}

/* QUIC begins at once, WebSocket 300 ms later; QUIC that wins ends WebSocket's attempt, and nothing more is due. */
static void quic_wins(void)
{
    begin(true, true, false);
    expect(SV_DIAL_START, SV_DIAL_QUIC);
    expect_nothing();
    pass(300 * MS);
    expect(SV_DIAL_START, SV_DIAL_WEBSOCKET);
    expect_nothing();
    now += 10 * MS;
    sv_dial_plan_won(&plan, SV_DIAL_QUIC, now);
    expect(SV_DIAL_ABANDON, SV_DIAL_WEBSOCKET);
    CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_WEBSOCKET, now, 0));
    expect_nothing();
    CHECK_EQ(sv_dial_plan_deadline(&plan), SV_NEVER);
}

/* QUIC that wins within 300 ms is alone: WebSocket is never opened. */
static void quic_wins_alone(void)
{
    begin(true, true, false);
    expect(SV_DIAL_START, SV_DIAL_QUIC);
    now += 20 * MS;
    sv_dial_plan_won(&plan, SV_DIAL_QUIC, now);
    now += 10 * S;
    expect_nothing();
}

/* QUIC that fails at once makes WebSocket begin at once. */
static void quic_fails_early(void)
{
    begin(true, true, false);
    expect(SV_DIAL_START, SV_DIAL_QUIC);
    now += 5 * MS;
    CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_QUIC, now, 0));
    expect(SV_DIAL_START, SV_DIAL_WEBSOCKET);
}

/* Where UDP is blocked WebSocket carries after 300 ms; QUIC is given up after 3 s, and tried again after 10 s, 20 s, … an hour. */
static void quic_is_blocked(void)
{
    uint64_t pauses[] = {10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600};

    begin(true, true, false);
    connect_by(SV_DIAL_WEBSOCKET);
    CHECK_EQ(now, 1000 * S + 300 * MS);
    pass(2700 * MS);
    for (size_t i = 0; i < sizeof pauses / sizeof *pauses; i++) {
        expect(SV_DIAL_ABANDON, SV_DIAL_QUIC);
        expect_nothing();
        CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_QUIC, now, 0));
        expect_nothing();
        pass(pauses[i] * S);
        expect(SV_DIAL_START, SV_DIAL_QUIC);
        pass(3 * S);
    }
}

/* WebSocket won, and QUIC completes within its three seconds all the same: it takes over. */
static void quic_comes_late(void)
{
    begin(true, true, false);
    connect_by(SV_DIAL_WEBSOCKET);
    now += S;
    sv_dial_plan_won(&plan, SV_DIAL_QUIC, now);
    CHECK_EQ(plan.carrier, SV_DIAL_QUIC);
    expect_nothing();
    CHECK_EQ(sv_dial_plan_deadline(&plan), SV_NEVER);
}

/* What worked the last time need not wait: both begin at once. */
static void websocket_is_known_to_work(void)
{
    begin(true, true, true);
    expect(SV_DIAL_START, SV_DIAL_QUIC);
    expect(SV_DIAL_START, SV_DIAL_WEBSOCKET);
}

/* After a failure of QUIC a lost link is replaced by WebSocket alone and at once, until QUIC's pause is over. */
static void quic_is_left_aside(void)
{
    begin(true, true, false);
    connect_by(SV_DIAL_WEBSOCKET);
    now += 3 * S;
    CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_QUIC, now, 0));
    now += S;
    CHECK(sv_dial_plan_lost(&plan, now, 0));
    pass(50 * MS);
    expect(SV_DIAL_START, SV_DIAL_WEBSOCKET);
    expect_nothing();
}

/* When nothing works, QUIC is tried in every race; pauses double from 100 ms to 30 s, each between its half and its whole. */
static void nothing_works(void)
{
    uint64_t whole = 100;

    begin(true, true, false);
    for (int i = 0; i < 12; i++) {
        expect(SV_DIAL_START, SV_DIAL_QUIC);
        CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_QUIC, now, 0));
        expect(SV_DIAL_START, SV_DIAL_WEBSOCKET);
        CHECK(sv_dial_plan_failed(&plan, SV_DIAL_WEBSOCKET, now, i % 2 ? (uint32_t)whole / 2 : 0));
        expect_nothing();
        pass((i % 2 ? whole : whole / 2) * MS);
        whole = whole * 2 < 30000 ? whole * 2 : 30000;
    }
}

/* QUIC that carries and becomes bad: WebSocket is opened beside it, takes over, and QUIC is tried again after a pause that grows. */
static void quic_degrades(void)
{
    begin(true, true, false);
    connect_by(SV_DIAL_QUIC);
    for (uint64_t pause = 60; pause <= 240; pause *= 2) {
        now += 5 * S;
        CHECK(sv_dial_plan_degraded(&plan, now));
        CHECK(!sv_dial_plan_degraded(&plan, now));
        expect(SV_DIAL_START, SV_DIAL_WEBSOCKET);
        expect_nothing();
        sv_dial_plan_won(&plan, SV_DIAL_WEBSOCKET, now);
        expect_nothing();
        pass(pause * S);
        expect(SV_DIAL_START, SV_DIAL_QUIC);
        sv_dial_plan_won(&plan, SV_DIAL_QUIC, now);
    }
    now += 600 * S;
    CHECK(sv_dial_plan_degraded(&plan, now));
    expect(SV_DIAL_START, SV_DIAL_WEBSOCKET);
    sv_dial_plan_won(&plan, SV_DIAL_WEBSOCKET, now);
    pass(60 * S);
}

/* One that was bad is left aside for a minute at least, also after a short pause for a failure; one that has carried for ten minutes begins anew. */
static void pauses_by_what_went_wrong(void)
{
    begin(true, true, false);
    connect_by(SV_DIAL_WEBSOCKET);
    pass(2700 * MS);
    expect(SV_DIAL_ABANDON, SV_DIAL_QUIC);
    CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_QUIC, now, 0));
    pass(10 * S);
    expect(SV_DIAL_START, SV_DIAL_QUIC);
    sv_dial_plan_won(&plan, SV_DIAL_QUIC, now);
    now += 5 * S;
    CHECK(sv_dial_plan_degraded(&plan, now));
    expect(SV_DIAL_START, SV_DIAL_WEBSOCKET);
    sv_dial_plan_won(&plan, SV_DIAL_WEBSOCKET, now);
    pass(60 * S);
    expect(SV_DIAL_START, SV_DIAL_QUIC);
    sv_dial_plan_won(&plan, SV_DIAL_QUIC, now);
    now += 600 * S;
    CHECK(sv_dial_plan_lost(&plan, now, 0));
    pass(50 * MS);
    connect_by(SV_DIAL_WEBSOCKET);
    CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_QUIC, now, 0));
    pass(10 * S);
}

/* WebSocket that cannot be had is no reason to ask for it all the time; QUIC goes on. */
static void no_websocket_to_turn_to(void)
{
    begin(true, true, false);
    connect_by(SV_DIAL_QUIC);
    CHECK(sv_dial_plan_degraded(&plan, now));
    expect(SV_DIAL_START, SV_DIAL_WEBSOCKET);
    CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_WEBSOCKET, now, 0));
    CHECK_EQ(plan.carrier, SV_DIAL_QUIC);
    now += 59 * S;
    CHECK(!sv_dial_plan_degraded(&plan, now));
    now += S;
    CHECK(sv_dial_plan_degraded(&plan, now));
}

/* A suspect QUIC link: both ways at once, WebSocket does not wait. A suspect link whose replacement fails is tried again, a calm one not. */
static void suspicion(void)
{
    begin(true, true, false);
    connect_by(SV_DIAL_QUIC);
    now += 5 * S;
    sv_dial_plan_connect(&plan, now);
    expect(SV_DIAL_START, SV_DIAL_QUIC);
    expect(SV_DIAL_START, SV_DIAL_WEBSOCKET);
    CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_QUIC, now, 0));
    CHECK(sv_dial_plan_failed(&plan, SV_DIAL_WEBSOCKET, now, 0));
    pass(50 * MS);
    expect(SV_DIAL_START, SV_DIAL_QUIC);
    expect(SV_DIAL_START, SV_DIAL_WEBSOCKET);
    sv_dial_plan_calm(&plan);
    CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_QUIC, now, 0));
    CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_WEBSOCKET, now, 0));
    expect_nothing();
}

/* Another network: what was learned of the old one does not count, and nobody waits. */
static void another_network(void)
{
    begin(true, true, false);
    for (int i = 0; i < 8; i++) {
        enum sv_dial_way way;

        now = sv_dial_plan_deadline(&plan) > now ? sv_dial_plan_deadline(&plan) : now;
        while (step(&way) == SV_DIAL_START) {
            sv_dial_plan_failed(&plan, way, now, 0);
        }
    }
    CHECK(sv_dial_plan_deadline(&plan) > now + S);
    sv_dial_plan_network(&plan, now);
    CHECK_EQ(sv_dial_plan_deadline(&plan), now);
    expect(SV_DIAL_START, SV_DIAL_QUIC);
    expect_nothing();
}

/* An attempt that was under way in the old network begins anew in the new one, and is not held against QUIC. */
static void an_attempt_from_another_network(void)
{
    begin(true, true, false);
    connect_by(SV_DIAL_WEBSOCKET);
    now += S;
    sv_dial_plan_network(&plan, now);
    sv_dial_plan_connect(&plan, now);
    expect(SV_DIAL_ABANDON, SV_DIAL_QUIC);
    CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_QUIC, now, 0));
    expect(SV_DIAL_START, SV_DIAL_QUIC);
    CHECK_EQ(plan.quic_from, 0);
    expect_nothing();
    now += 300 * MS;
    expect(SV_DIAL_START, SV_DIAL_WEBSOCKET);
    sv_dial_plan_won(&plan, SV_DIAL_QUIC, now);
    expect(SV_DIAL_ABANDON, SV_DIAL_WEBSOCKET);
}

/* One way alone: its attempt has the whole timeout, and a lost link comes back by it. */
static void one_way_alone(void)
{
    for (enum sv_dial_way way = SV_DIAL_QUIC; way < SV_DIAL_WAYS; way++) {
        begin(way == SV_DIAL_QUIC, way == SV_DIAL_WEBSOCKET, false);
        expect(SV_DIAL_START, way);
        expect_nothing();
        pass(10 * S);
        expect(SV_DIAL_ABANDON, way);
        expect_nothing();
        CHECK(sv_dial_plan_failed(&plan, way, now, 0));
        pass(50 * MS);
        expect(SV_DIAL_START, way);
        sv_dial_plan_won(&plan, way, now);
        CHECK(!sv_dial_plan_degraded(&plan, now + S));
        now += 5 * S;
        CHECK(sv_dial_plan_lost(&plan, now, 0));
        pass(50 * MS);
        expect(SV_DIAL_START, way);
    }
}

/* The link is lost while QUIC is tried beside it: WebSocket joins in at once. */
static void lost_while_quic_is_tried(void)
{
    begin(true, true, false);
    connect_by(SV_DIAL_WEBSOCKET);
    now += S;
    CHECK(!sv_dial_plan_lost(&plan, now, 0));
    CHECK_EQ(plan.tries[SV_DIAL_WEBSOCKET].start_at, now + 300 * MS);
}

/* A session that ends within five seconds is a failure like any other: pauses go on growing, until one has lasted. */
static void sessions_that_end_at_once(void)
{
    uint64_t whole = 100;

    begin(false, true, false);
    for (int i = 0; i < 12; i++) {
        expect(SV_DIAL_START, SV_DIAL_WEBSOCKET);
        sv_dial_plan_won(&plan, SV_DIAL_WEBSOCKET, now);
        now += 4 * S;
        CHECK(sv_dial_plan_lost(&plan, now, 0));
        pass(whole / 2 * MS);
        whole = whole * 2 < 30000 ? whole * 2 : 30000;
    }
    expect(SV_DIAL_START, SV_DIAL_WEBSOCKET);
    sv_dial_plan_won(&plan, SV_DIAL_WEBSOCKET, now);
    now += 5 * S;
    CHECK(sv_dial_plan_lost(&plan, now, 0));
    pass(50 * MS);
}

/* WebSocket carries and the network changes: another link is wanted until there is one, however well the old one seems; QUIC that fails
 * meanwhile is tried again later. */
static void moving_with_websocket(void)
{
    begin(true, true, false);
    connect_by(SV_DIAL_WEBSOCKET);
    now += 3 * S;
    expect(SV_DIAL_ABANDON, SV_DIAL_QUIC);
    CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_QUIC, now, 0));
    now += 10 * S;
    for (int i = 0; i < 2; i++) {
        sv_dial_plan_network(&plan, now);
        sv_dial_plan_move(&plan, now);
        sv_dial_plan_calm(&plan);
        expect(SV_DIAL_START, SV_DIAL_QUIC);
        now += 300 * MS;
        expect(SV_DIAL_START, SV_DIAL_WEBSOCKET);
        CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_QUIC, now, 0));
        CHECK(sv_dial_plan_failed(&plan, SV_DIAL_WEBSOCKET, now, 0));
        sv_dial_plan_calm(&plan);
        expect_nothing();
        pass(50 * MS);
        expect(SV_DIAL_START, SV_DIAL_QUIC);
        expect(SV_DIAL_START, SV_DIAL_WEBSOCKET);
        sv_dial_plan_won(&plan, SV_DIAL_WEBSOCKET, now);
        CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_QUIC, now, 0));
        expect_nothing();
        pass(10 * S);
        expect(SV_DIAL_START, SV_DIAL_QUIC);
        CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_QUIC, now, 0));
    }
}

/* A stopped plan starts nothing, whatever is reported. */
static void stopped(void)
{
    begin(true, true, false);
    expect(SV_DIAL_START, SV_DIAL_QUIC);
    sv_dial_plan_stop(&plan);
    CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_QUIC, now, 0));
    sv_dial_plan_connect(&plan, now);
    sv_dial_plan_network(&plan, now);
    CHECK(!sv_dial_plan_lost(&plan, now, 0));
    now += 3600 * S;
    expect_nothing();
}

/* An attempt that learns of other addresses begins anew, without a pause and without being held against its way; one that has won does not. */
static void an_attempt_begins_anew(void)
{
    begin(true, true, false);
    expect(SV_DIAL_START, SV_DIAL_QUIC);
    now += 100 * MS;
    sv_dial_plan_anew(&plan, SV_DIAL_QUIC, now);
    sv_dial_plan_anew(&plan, SV_DIAL_WEBSOCKET, now);
    expect(SV_DIAL_ABANDON, SV_DIAL_QUIC);
    CHECK(!sv_dial_plan_failed(&plan, SV_DIAL_QUIC, now, 0));
    expect(SV_DIAL_START, SV_DIAL_QUIC);
    expect_nothing();
    CHECK_EQ(plan.quic_pause, 0);
    sv_dial_plan_won(&plan, SV_DIAL_QUIC, now);
    sv_dial_plan_anew(&plan, SV_DIAL_QUIC, now);
    expect_nothing();
}

int main(void)
{
    RUN(quic_wins);
    RUN(quic_wins_alone);
    RUN(quic_fails_early);
    RUN(quic_is_blocked);
    RUN(quic_comes_late);
    RUN(websocket_is_known_to_work);
    RUN(quic_is_left_aside);
    RUN(nothing_works);
    RUN(quic_degrades);
    RUN(pauses_by_what_went_wrong);
    RUN(no_websocket_to_turn_to);
    RUN(suspicion);
    RUN(another_network);
    RUN(an_attempt_from_another_network);
    RUN(one_way_alone);
    RUN(lost_while_quic_is_tried);
    RUN(sessions_that_end_at_once);
    RUN(moving_with_websocket);
    RUN(stopped);
    RUN(an_attempt_begins_anew);
    return CHECK_DONE("engine/dial_plan");
}
