/* Rekeys by the book and against it, on both sides, with the keys computed by hand. */
#include "tests/c/session_fixture.h"

static struct fixture f;
static struct raw_peer next; /* the raw peer's state under the keys to come */

/* ---- the server under test ---- */

static enum sv_session_event raw_sends_init(void)
{
    uint8_t message[96];
    next = f.peer;
    raw_begin_rekey(&next, true, &client_pair, server_pair.public_key);
    CHECK_EQ(sv_noise_write1(&next.noise, message, NULL, 0), 0);
    return deliver_sealed(&f, SV_FRAME_HANDSHAKE_INIT, message, sizeof message);
}

static void raw_reads_resp(void)
{
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_HANDSHAKE_RESP);
    CHECK_EQ(f.plain_len, 48);
    CHECK_EQ(sv_noise_read2(&next.noise, f.plain + 100, f.plain, 48), 0);
    raw_take_keys(&next);
}

/* What the server sends after its answer is under the new key; what the client sends before SwitchKeys under
 * the old one. */
static void server_rekeys_once(void)
{
    CHECK_EQ(raw_sends_init(), SV_SESSION_NOTHING);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE, "between1", 8), SV_SESSION_NOTHING);
    raw_reads_resp();
    memcpy(f.peer.receive_key, next.receive_key, 32);
    f.peer.receive_counter = 0;
    CHECK_EQ(next_frame(&f), SV_FRAME_KEEPALIVE_ACK);
    CHECK_MEM(f.plain, "between1", 8);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "old key", 7), SV_SESSION_ON_PACKET);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_SWITCH_KEYS, NULL, 0), SV_SESSION_NOTHING);
    memcpy(f.peer.send_key, next.send_key, 32);
    memcpy(f.peer.hash, next.hash, 32);
    f.peer.send_counter = 0;
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "new key", 7), SV_SESSION_ON_PACKET);
    CHECK_MEM(f.out.packet, "new key", 7);
    CHECK(f.s.handshake == NULL);
}

static void a_server_rekeys_again_and_again(void)
{
    server_live(&f);
    for (uint64_t i = 1; i <= 3; i++) {
        server_rekeys_once();
        CHECK_EQ(f.s.counters.rekeys, i);
        CHECK_MEM(f.s.handshake_hash, f.peer.hash, 32);
        CHECK_MEM(f.s.send_key, f.peer.receive_key, 32);
        f.now += 10 * SV_NS_PER_S;
    }
    sv_session_clear(&f.s);
}

static void a_rekey_moves_the_overdue_deadline(void)
{
    struct sv_settings settings = example_settings();
    settings.rekey_secs = 60;
    settings.capabilities &= ~(uint32_t)SV_CAP_DATAGRAM; /* whose old epoch has a deadline too */
    server_live_with(&f, &settings);
    CHECK_EQ(sv_session_deadline(&f.s), START_NS + 120 * SV_NS_PER_S);
    f.now += 100 * SV_NS_PER_S;
    server_rekeys_once();
    CHECK_EQ(sv_session_deadline(&f.s), START_NS + 220 * SV_NS_PER_S);
    sv_session_clear(&f.s);
}

static void the_first_init_may_come_at_once_the_next_after_10_s(void)
{
    server_live(&f);
    server_rekeys_once();
    f.now += 10 * SV_NS_PER_S - 1;
    CHECK_EQ(raw_sends_init(), SV_SESSION_ON_OFFENCE);
    check_disconnect(&f, 11, "rekey too soon");
    sv_session_clear(&f.s);
}

static void a_second_init_before_switch_keys(void)
{
    for (int flushed = 0; flushed < 2; flushed++) {
        server_live(&f);
        CHECK_EQ(raw_sends_init(), SV_SESSION_NOTHING);
        if (flushed) {
            raw_reads_resp();
            memcpy(f.peer.receive_key, next.receive_key, 32);
            f.peer.receive_counter = 0;
        }
        f.now += 20 * SV_NS_PER_S;
        CHECK_EQ(raw_sends_init(), SV_SESSION_ON_OFFENCE);
        check_disconnect(&f, 11, "second rekey before SwitchKeys");
        sv_session_clear(&f.s);
    }
}

static void switch_keys_out_of_state(void)
{
    server_live(&f);
    CHECK_EQ(raw_sends_init(), SV_SESSION_NOTHING);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_SWITCH_KEYS, NULL, 0), SV_SESSION_ON_OFFENCE);
    check_disconnect(&f, 11, "unexpected frame");
    sv_session_clear(&f.s);
    server_live(&f);
    CHECK_EQ(raw_sends_init(), SV_SESSION_NOTHING);
    raw_reads_resp();
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_SWITCH_KEYS, "x", 1), SV_SESSION_ON_OFFENCE);
    sv_session_clear(&f.s);
}

static void expect_failed_init(const uint8_t *message, size_t len)
{
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_HANDSHAKE_INIT, message, len), SV_SESSION_ON_OFFENCE);
    check_disconnect(&f, 11, "rekey failed");
    sv_session_clear(&f.s);
}

static void inits_that_fail(void)
{
    struct raw_keypair stranger = raw_keypair(0x77);
    uint8_t message[128];
    server_live(&f);
    next = f.peer;
    raw_begin_rekey(&next, true, &stranger, server_pair.public_key);
    CHECK_EQ(sv_noise_write1(&next.noise, message, NULL, 0), 0);
    expect_failed_init(message, 96);
    server_live(&f);
    next = f.peer;
    next.hash[3] ^= 1;
    raw_begin_rekey(&next, true, &client_pair, server_pair.public_key);
    CHECK_EQ(sv_noise_write1(&next.noise, message, NULL, 0), 0);
    expect_failed_init(message, 96);
    server_live(&f);
    raw_begin(&next, true, &client_pair, server_pair.public_key, "smartvpn/1", 10);
    CHECK_EQ(sv_noise_write1(&next.noise, message, NULL, 0), 0);
    expect_failed_init(message, 96);
    server_live(&f);
    expect_failed_init(message, 95);
    server_live(&f);
    expect_failed_init(NULL, 0);
}

static void a_payload_in_init_is_ignored(void)
{
    uint8_t message[196], payload[100] = {1, 0, 9};
    server_live(&f);
    next = f.peer;
    raw_begin_rekey(&next, true, &client_pair, server_pair.public_key);
    CHECK_EQ(sv_noise_write1(&next.noise, message, payload, sizeof payload), 0);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_HANDSHAKE_INIT, message, sizeof message), SV_SESSION_NOTHING);
    raw_reads_resp();
    sv_session_clear(&f.s);
}

static void a_server_without_the_capability_takes_no_rekey(void)
{
    struct sv_settings settings = example_settings();
    settings.capabilities &= ~(uint32_t)SV_CAP_REKEY;
    server_live_with(&f, &settings);
    CHECK_EQ(raw_sends_init(), SV_SESSION_ON_OFFENCE);
    check_disconnect(&f, 11, "unexpected frame");
    sv_session_clear(&f.s);
}

static void a_disconnect_during_a_rekey_goes_under_the_old_key(void)
{
    server_live(&f);
    CHECK_EQ(raw_sends_init(), SV_SESSION_NOTHING);
    sv_session_disconnect(&f.s, SV_DISCONNECT_KICKED, NULL);
    check_disconnect(&f, 6, "kicked");
    sv_session_clear(&f.s);
}

/* ---- the client under test ---- */

static void client_live_20_s(void)
{
    struct sv_settings settings = example_settings();
    settings.rekey_secs = 20;
    client_live_with(&f, &settings, 0);
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_KEEPALIVE);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE_ACK, f.plain, 8), SV_SESSION_NOTHING);
}

static void client_asks(void)
{
    f.now = f.s.rekeyed_at + 20 * SV_NS_PER_S;
    CHECK_EQ(sv_session_on_timer(&f.s, f.now), SV_SESSION_NOTHING);
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_HANDSHAKE_INIT);
    CHECK_EQ(f.plain_len, 96);
    next = f.peer;
    raw_begin_rekey(&next, false, &server_pair, NULL);
    CHECK_EQ(sv_noise_read1(&next.noise, f.plain + 200, f.plain, 96), 0);
    CHECK_MEM(next.noise.rs, client_pair.public_key, 32);
    if (!no_more_frames(&f)) {
        CHECK_EQ(next_frame(&f), SV_FRAME_KEEPALIVE);
        CHECK(no_more_frames(&f));
    }
}

static size_t raw_writes_resp(uint8_t message[48])
{
    CHECK_EQ(sv_noise_write2(&next.noise, message, NULL, 0), 0);
    raw_take_keys(&next);
    return 48;
}

static void client_rekeys_once(void)
{
    uint8_t message[48], sealed[64];
    client_asks();
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "old key", 7), SV_SESSION_ON_PACKET);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_HANDSHAKE_RESP, message, raw_writes_resp(message)),
             SV_SESSION_NOTHING);
    memcpy(f.peer.send_key, next.send_key, 32);
    f.peer.send_counter = 0;
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "new key", 7), SV_SESSION_ON_PACKET);
    /* Until SwitchKeys is flushed packets go under the old key, in front of it. */
    f.flushed_len = sv_session_seal(&f.s, f.now, SV_FRAME_IP_PACKET, f.flushed, (const uint8_t *)"early", 5);
    f.at = 0;
    CHECK_EQ(next_frame(&f), SV_FRAME_IP_PACKET);
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_SWITCH_KEYS);
    CHECK_EQ(f.plain_len, 0);
    CHECK(no_more_frames(&f));
    memcpy(f.peer.receive_key, next.receive_key, 32);
    memcpy(f.peer.hash, next.hash, 32);
    f.peer.receive_counter = 0;
    f.flushed_len = sv_session_seal(&f.s, f.now, SV_FRAME_IP_PACKET, sealed, (const uint8_t *)"late", 4);
    memcpy(f.flushed, sealed, f.flushed_len);
    f.at = 0;
    CHECK_EQ(next_frame(&f), SV_FRAME_IP_PACKET);
    CHECK_MEM(f.plain, "late", 4);
    CHECK(f.s.handshake == NULL);
}

static void a_client_rekeys_again_and_again(void)
{
    client_live_20_s();
    for (uint64_t i = 1; i <= 3; i++) {
        client_rekeys_once();
        CHECK_EQ(f.s.counters.rekeys, i);
        CHECK_EQ(f.s.rekeyed_at, f.now);
    }
    sv_session_clear(&f.s);
}

static void answers_that_fail(void)
{
    uint8_t message[64];
    for (size_t i = 0; i < 48; i++) {
        client_live_20_s();
        client_asks();
        raw_writes_resp(message);
        message[i] ^= i == 31 ? 0x40 : 1;
        CHECK_EQ(deliver_sealed(&f, SV_FRAME_HANDSHAKE_RESP, message, 48), SV_SESSION_ON_OFFENCE);
        check_disconnect(&f, 11, "rekey failed");
        sv_session_clear(&f.s);
    }
    client_live_20_s();
    client_asks();
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_HANDSHAKE_RESP, message, 47), SV_SESSION_ON_OFFENCE);
    sv_session_clear(&f.s);
}

static void a_second_answer(void)
{
    uint8_t message[48];
    client_live_20_s();
    client_asks();
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_HANDSHAKE_RESP, message, raw_writes_resp(message)),
             SV_SESSION_NOTHING);
    memcpy(f.peer.send_key, next.send_key, 32);
    f.peer.send_counter = 0;
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_HANDSHAKE_RESP, message, 48), SV_SESSION_ON_OFFENCE);
    check_disconnect(&f, 11, "unexpected frame");
    sv_session_clear(&f.s);
}

static void all(void)
{
    RUN(a_server_rekeys_again_and_again);
    RUN(a_rekey_moves_the_overdue_deadline);
    RUN(the_first_init_may_come_at_once_the_next_after_10_s);
    RUN(a_second_init_before_switch_keys);
    RUN(switch_keys_out_of_state);
    RUN(inits_that_fail);
    RUN(a_payload_in_init_is_ignored);
    RUN(a_server_without_the_capability_takes_no_rekey);
    RUN(a_disconnect_during_a_rekey_goes_under_the_old_key);
    RUN(a_client_rekeys_again_and_again);
    RUN(answers_that_fail);
    RUN(a_second_answer);
}

int main(void)
{
    if (sv_crypto_init() != 0 || sv_aead_init() != 0) {
        return 1;
    }
    make_pairs();
    RUN_WITH_EACH_CIPHER(all);
    return CHECK_DONE("proto_session_rekey");
}
