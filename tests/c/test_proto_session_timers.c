/* Every deadline of a session, to the nanosecond: one before it nothing happens, at it the right thing does.
 */
#include "tests/c/session_fixture.h"

static struct fixture f;

static uint64_t secs(uint64_t n)
{
    return n * SV_NS_PER_S;
}

/* The deadline is `at`, nothing happens before, and then `event`. */
static void expect_at(uint64_t at, enum sv_session_event event)
{
    CHECK_EQ(sv_session_deadline(&f.s), at);
    CHECK_EQ(sv_session_on_timer(&f.s, at - 1), SV_SESSION_NOTHING);
    f.now = at;
    CHECK_EQ(sv_session_on_timer(&f.s, at), event);
}

static void half_open_servers_end_after_5_s(void)
{
    uint8_t hello[16];
    struct sv_settings settings = example_settings();
    server_new(&f);
    expect_at(START_NS + secs(5), SV_SESSION_ON_DEAD);
    CHECK_EQ(flush(&f), 0);
    sv_session_clear(&f.s);
    server_new(&f);
    f.now += secs(2);
    CHECK_EQ(server_hears_init(&f, SV_FRAME_HANDSHAKE_INIT, hello, make_hello(hello, 0)),
             SV_SESSION_ON_HELLO);
    expect_at(START_NS + secs(5), SV_SESSION_ON_DEAD);
    sv_session_clear(&f.s);
    server_new(&f);
    f.now += secs(4);
    server_accepts(&f, &settings);
    expect_at(START_NS + secs(9), SV_SESSION_ON_DEAD);
    CHECK_EQ(flush(&f), 0);
    sv_session_clear(&f.s);
}

static void a_client_waits_5_s_for_its_answer(void)
{
    client_new(&f);
    f.now += secs(1);
    raw_reads_init(&f, SV_FRAME_HANDSHAKE_INIT);
    expect_at(START_NS + secs(6), SV_SESSION_ON_DEAD);
    CHECK_EQ(flush(&f), 0);
    sv_session_clear(&f.s);
}

static void a_server_hears_nothing_for_180_s(void)
{
    server_live(&f);
    f.now += secs(100);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "x", 1), SV_SESSION_ON_PACKET);
    expect_at(START_NS + secs(280), SV_SESSION_ON_DEAD);
    CHECK_EQ(flush(&f), 0);
    sv_session_clear(&f.s);
}

/* Keeps the session from dying of silence. */
static void hear_until(uint64_t until)
{
    while (f.now + secs(100) < until) {
        f.now += secs(100);
        CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "x", 1), SV_SESSION_ON_PACKET);
        CHECK_EQ(sv_session_on_timer(&f.s, f.now), SV_SESSION_NOTHING);
    }
}

static void a_rekey_overdue_ends_the_session(void)
{
    struct sv_settings settings = example_settings();
    server_live(&f);
    hear_until(START_NS + secs(7200));
    expect_at(START_NS + secs(7200), SV_SESSION_ON_OFFENCE);
    CHECK_EQ(f.s.disconnect_code, 12);
    check_disconnect(&f, 12, "rekey overdue");
    sv_session_clear(&f.s);
    settings.has_rekey = false;
    server_live_with(&f, &settings);
    hear_until(START_NS + secs(7200));
    expect_at(START_NS + secs(7200), SV_SESSION_ON_OFFENCE);
    sv_session_clear(&f.s);
}

static void without_rekey_nothing_is_overdue(void)
{
    struct sv_settings settings = example_settings();
    settings.rekey_secs = 0;
    server_live_with(&f, &settings);
    hear_until(START_NS + secs(20000));
    CHECK_EQ(sv_session_deadline(&f.s), f.now + secs(180));
    sv_session_clear(&f.s);
    settings = example_settings();
    settings.capabilities &= ~(uint32_t)SV_CAP_REKEY;
    server_live_with(&f, &settings);
    hear_until(START_NS + secs(20000));
    CHECK_EQ(sv_session_deadline(&f.s), f.now + secs(180));
    sv_session_clear(&f.s);
}

static void a_shorter_rekey_interval_counts_from_its_frame(void)
{
    struct sv_settings settings = example_settings();
    server_live(&f);
    f.now += secs(150);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "x", 1), SV_SESSION_ON_PACKET);
    settings.rekey_secs = 20;
    sv_session_update_settings(&f.s, &settings, 1 << 8);
    CHECK_EQ(sv_session_deadline(&f.s), f.now + secs(180));
    flush(&f);
    expect_at(START_NS + secs(150 + 40), SV_SESSION_ON_OFFENCE);
    sv_session_clear(&f.s);
}

/* The keepalive that waits goes out; it is left unanswered. */
static void keepalive_goes(void)
{
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_KEEPALIVE);
    CHECK(no_more_frames(&f));
}

static void keepalives_follow_the_interval(void)
{
    client_live(&f);
    for (uint64_t i = 1; i <= 3; i++) {
        expect_at(START_NS + secs(60 * i), SV_SESSION_NOTHING);
        CHECK(sv_session_deadline(&f.s) > f.now);
        keepalive_goes();
        CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE_ACK, f.plain, 8), SV_SESSION_NOTHING);
    }
    CHECK_EQ(f.s.counters.keepalives_sent, 4);
    sv_session_clear(&f.s);
}

static void a_keepalive_that_cannot_be_flushed_is_neither_lost_nor_repeated(void)
{
    client_live(&f);
    expect_at(START_NS + secs(60), SV_SESSION_NOTHING);
    CHECK_EQ(sv_session_deadline(&f.s), START_NS + secs(180));
    f.now += secs(70);
    keepalive_goes();
    CHECK_EQ(f.s.quality.checks, 1);
    CHECK_EQ(sv_session_deadline(&f.s), START_NS + secs(180));
    CHECK_EQ(f.s.next_keepalive, START_NS + secs(190));
    sv_session_clear(&f.s);
}

/* At 20 s, since at 60 s the five timeouts end with the 180 s of silence. */
static void an_idle_dead_path_is_found_by_timeouts(void)
{
    struct sv_settings settings = example_settings();
    settings.keepalive_secs = 20;
    client_live_with(&f, &settings, 0);
    keepalive_goes();
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE_ACK, f.plain, 8), SV_SESSION_NOTHING);
    for (int i = 0; i < 50; i++) {
        sv_quality_on_answer(&f.s.quality, 10 * SV_NS_PER_MS);
    }
    expect_at(START_NS + secs(20), SV_SESSION_NOTHING);
    keepalive_goes();
    expect_at(START_NS + secs(40), SV_SESSION_NOTHING);
    CHECK_EQ(f.s.quality.health, SV_HEALTH_DEGRADED);
    keepalive_goes();
    CHECK_EQ(sv_load16be(f.plain + 18), 20);
    expect_at(START_NS + secs(60), SV_SESSION_NOTHING);
    CHECK_EQ(f.s.quality.health, SV_HEALTH_CRITICAL);
    keepalive_goes();
    CHECK_EQ(sv_load16be(f.plain + 18), 10);
    expect_at(START_NS + secs(70), SV_SESSION_NOTHING);
    keepalive_goes();
    expect_at(START_NS + secs(80), SV_SESSION_NOTHING);
    keepalive_goes();
    expect_at(START_NS + secs(90), SV_SESSION_ON_DEAD);
    CHECK_EQ(flush(&f), 0);
    sv_session_clear(&f.s);
}

static void a_lost_ack_among_traffic_is_no_timeout(void)
{
    client_live(&f);
    expect_at(START_NS + secs(60), SV_SESSION_NOTHING);
    keepalive_goes();
    f.now += secs(1);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "x", 1), SV_SESSION_ON_PACKET);
    expect_at(START_NS + secs(120), SV_SESSION_NOTHING);
    CHECK_EQ(f.s.quality.timeouts_in_a_row, 0);
    CHECK(sv_quality_loss(&f.s.quality) == 0.5);
    sv_session_clear(&f.s);
}

static void death_by_silence_in_a_client(void)
{
    client_live(&f);
    expect_at(START_NS + secs(60), SV_SESSION_NOTHING);
    expect_at(START_NS + secs(180), SV_SESSION_ON_DEAD);
    sv_session_clear(&f.s);
}

static void send_data(void)
{
    uint8_t packet[20] = {0}, sealed[64];
    size_t len = sv_session_seal(&f.s, f.now, SV_FRAME_IP_PACKET, sealed, packet, sizeof packet);
    CHECK_EQ(len, 41);
    f.peer.receive_counter += len > 0;
}

static void unanswered_data_probes_and_then_suspects(void)
{
    client_live(&f);
    f.now += secs(10);
    send_data();
    f.now += 500 * SV_NS_PER_MS;
    send_data();
    expect_at(START_NS + secs(11), SV_SESSION_NOTHING);
    CHECK(!f.s.suspect);
    keepalive_goes();
    expect_at(START_NS + secs(12), SV_SESSION_ON_SUSPECT);
    keepalive_goes();
    /* Told once; then the usual schedule. */
    CHECK(sv_session_deadline(&f.s) > START_NS + secs(12) + secs(1));
    CHECK_EQ(sv_session_on_timer(&f.s, f.now + secs(3)), SV_SESSION_NOTHING);
    sv_session_clear(&f.s);
}

static void anything_received_ends_the_probing(void)
{
    client_live(&f);
    send_data();
    expect_at(START_NS + secs(1), SV_SESSION_NOTHING);
    keepalive_goes();
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE_ACK, f.plain, 8), SV_SESSION_NOTHING);
    send_data();
    expect_at(START_NS + secs(2), SV_SESSION_NOTHING);
    keepalive_goes();
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "x", 1), SV_SESSION_ON_PACKET);
    CHECK_EQ(sv_session_deadline(&f.s), START_NS + secs(2 + 60));
    sv_session_clear(&f.s);
}

static void a_path_that_came_back_can_be_suspected_again(void)
{
    client_live(&f);
    for (int i = 0; i < 2; i++) {
        uint64_t start = f.now;
        send_data();
        expect_at(start + secs(1), SV_SESSION_NOTHING);
        keepalive_goes();
        expect_at(start + secs(2), SV_SESSION_ON_SUSPECT);
        keepalive_goes();
        CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "x", 1), SV_SESSION_ON_PACKET);
        CHECK(!f.s.suspect);
    }
    sv_session_clear(&f.s);
}

/* Else a keepalive that was just sent on schedule would be called lost before its answer can be here. */
static void a_keepalive_under_way_puts_the_probe_off(void)
{
    client_live(&f);
    f.now = START_NS + secs(60) - 200 * SV_NS_PER_MS;
    send_data();
    expect_at(START_NS + secs(60), SV_SESSION_NOTHING);
    keepalive_goes();
    expect_at(START_NS + secs(61), SV_SESSION_NOTHING);
    CHECK_EQ(f.s.probes, 1);
    sv_session_clear(&f.s);
}

static void a_blocked_link_is_suspected_as_well(void)
{
    client_live(&f);
    send_data();
    expect_at(START_NS + secs(1), SV_SESSION_NOTHING);
    expect_at(START_NS + secs(2), SV_SESSION_ON_SUSPECT);
    CHECK(sv_session_deadline(&f.s) > f.now);
    sv_session_clear(&f.s);
}

static void a_long_path_is_given_four_rtts(void)
{
    client_live(&f);
    f.s.quality.srtt_ns = 600 * SV_NS_PER_MS;
    send_data();
    expect_at(START_NS + 2400 * SV_NS_PER_MS, SV_SESSION_NOTHING);
    keepalive_goes();
    expect_at(START_NS + 4800 * SV_NS_PER_MS, SV_SESSION_ON_SUSPECT);
    sv_session_clear(&f.s);
}

static void before_the_first_ack_the_handshake_tells_the_rtt(void)
{
    uint8_t list[SV_SETTINGS_MAX];
    struct sv_settings settings = example_settings();
    client_new(&f);
    raw_reads_init(&f, SV_FRAME_HANDSHAKE_INIT);
    f.now += secs(1);
    size_t len = sv_settings_write(&settings, list, sizeof list);
    CHECK_EQ(raw_answers(&f, SV_FRAME_HANDSHAKE_RESP, list, len), SV_SESSION_ON_LIVE);
    keepalive_goes();
    send_data();
    CHECK_EQ(sv_session_deadline(&f.s), START_NS + secs(1 + 4));
    sv_session_clear(&f.s);
}

static void a_client_rekeys_in_time_and_waits_5_s(void)
{
    struct sv_settings settings = example_settings();
    settings.rekey_secs = 20;
    client_live_with(&f, &settings, 0);
    keepalive_goes();
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE_ACK, f.plain, 8), SV_SESSION_NOTHING);
    expect_at(START_NS + secs(20), SV_SESSION_NOTHING);
    /* The answer's time starts with the flush. */
    f.now += secs(3);
    CHECK_EQ(sv_session_on_timer(&f.s, f.now), SV_SESSION_NOTHING);
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_HANDSHAKE_INIT);
    CHECK(no_more_frames(&f));
    expect_at(START_NS + secs(28), SV_SESSION_ON_DEAD);
    sv_session_clear(&f.s);
}

static void a_client_without_the_capability_never_rekeys(void)
{
    struct sv_settings settings = example_settings();
    settings.rekey_secs = 20;
    settings.capabilities &= ~(uint32_t)SV_CAP_REKEY;
    client_live_with(&f, &settings, 0);
    keepalive_goes();
    CHECK_EQ(sv_session_deadline(&f.s), START_NS + secs(60));
    sv_session_clear(&f.s);
}

static void all(void)
{
    RUN(half_open_servers_end_after_5_s);
    RUN(a_client_waits_5_s_for_its_answer);
    RUN(a_server_hears_nothing_for_180_s);
    RUN(a_rekey_overdue_ends_the_session);
    RUN(without_rekey_nothing_is_overdue);
    RUN(a_shorter_rekey_interval_counts_from_its_frame);
    RUN(keepalives_follow_the_interval);
    RUN(a_keepalive_that_cannot_be_flushed_is_neither_lost_nor_repeated);
    RUN(an_idle_dead_path_is_found_by_timeouts);
    RUN(a_lost_ack_among_traffic_is_no_timeout);
    RUN(death_by_silence_in_a_client);
    RUN(unanswered_data_probes_and_then_suspects);
    RUN(anything_received_ends_the_probing);
    RUN(a_path_that_came_back_can_be_suspected_again);
    RUN(a_keepalive_under_way_puts_the_probe_off);
    RUN(a_blocked_link_is_suspected_as_well);
    RUN(a_long_path_is_given_four_rtts);
    RUN(before_the_first_ack_the_handshake_tells_the_rtt);
    RUN(a_client_rekeys_in_time_and_waits_5_s);
    RUN(a_client_without_the_capability_never_rekeys);
}

int main(void)
{
    if (sv_crypto_init() != 0 || sv_aead_init() != 0) {
        return 1;
    }
    make_pairs();
    RUN_WITH_EACH_CIPHER(all);
    return CHECK_DONE("proto_session_timers");
}
