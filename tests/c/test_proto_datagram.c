/* Datagrams: the wire's bytes computed by hand, epochs over rekeys, and what is dropped without an end. */
#include "tests/c/session_fixture.h"

static struct fixture f;

/* ENCRYPT(k, 2^64-2, "", 32 zeros), the first 32 bytes. */
static void datagram_key(uint8_t key[32], const uint8_t k[32])
{
    static const uint8_t zeros[32];
    uint8_t sealed[48], nonce[12];
    raw_nonce(nonce, UINT64_MAX - 1);
    CHECK_EQ(raw_aead()->seal(k, nonce, NULL, 0, sealed, zeros, 32), 0);
    memcpy(key, sealed, 32);
}

static size_t make_datagram(uint8_t *dst, const uint8_t k[32], uint8_t epoch, uint64_t counter,
                            const char *text)
{
    uint8_t key[32], nonce[12];
    datagram_key(key, k);
    dst[0] = 0x10;
    dst[1] = epoch;
    sv_store64le(dst + 2, counter);
    raw_nonce(nonce, counter);
    CHECK_EQ(raw_aead()->seal(key, nonce, dst, 10, dst + 10, (const uint8_t *)text, strlen(text)), 0);
    return 26 + strlen(text);
}

static int hear(const uint8_t k[32], uint8_t epoch, uint64_t counter, const char *text)
{
    size_t len = make_datagram(f.frame, k, epoch, counter, text);
    return sv_session_open_datagram(&f.s, f.now, f.frame, len, &f.out);
}

/* The session's next datagram must be exactly this. */
static void expect_sent(const uint8_t k[32], uint8_t epoch, uint64_t counter)
{
    uint8_t want[64], sent[64], in_place[64];
    size_t len = make_datagram(want, k, epoch, counter, "payload");
    memcpy(in_place + 10, "payload", 7);
    CHECK_EQ(sv_session_seal_datagram(&f.s, f.now, sent, in_place + 10, 7), len);
    CHECK_MEM(sent, want, len);
    make_datagram(want, k, epoch, counter + 1, "payload");
    CHECK_EQ(sv_session_seal_datagram(&f.s, f.now, in_place, in_place + 10, 7), len);
    CHECK_MEM(in_place, want, len);
}

static void bytes_of_both_directions(void)
{
    server_live(&f);
    CHECK(f.s.datagrams == NULL);
    expect_sent(f.peer.receive_key, 0, 0);
    expect_sent(f.peer.receive_key, 0, 2);
    CHECK_EQ(hear(f.peer.send_key, 0, 0, "hello"), 0);
    CHECK_EQ(f.out.event, SV_SESSION_ON_PACKET);
    CHECK_EQ(f.out.packet_len, 5);
    CHECK_MEM(f.out.packet, "hello", 5);
    CHECK(f.out.packet == f.frame + 10);
    sv_session_clear(&f.s);
    client_live(&f);
    CHECK_EQ(hear(f.peer.send_key, 0, 5, "hello"), 0);
    expect_sent(f.peer.receive_key, 0, 0);
    sv_session_clear(&f.s);
}

static void a_datagram_makes_the_server_live(void)
{
    struct sv_settings settings = example_settings();
    server_new(&f);
    CHECK_EQ(sv_session_open_datagram(&f.s, f.now, f.frame, 40, &f.out), SV_E_STATE);
    server_accepts(&f, &settings);
    CHECK_EQ(hear(f.peer.send_key, 0, 1, "x"), 0);
    CHECK(f.out.went_live);
    CHECK_EQ(f.out.event, SV_SESSION_ON_PACKET);
    CHECK_EQ(f.s.state, SV_SESSION_LIVE);
    CHECK_EQ(hear(f.peer.send_key, 0, 2, ""), 0);
    CHECK_EQ(f.out.event, SV_SESSION_ON_MALFORMED);
    CHECK_EQ(f.s.counters.malformed_packets, 1);
    sv_session_clear(&f.s);
    server_new(&f);
    server_accepts(&f, &settings);
    CHECK_EQ(hear(f.peer.send_key, 0, 1, ""), 0);
    CHECK_EQ(f.out.event, SV_SESSION_ON_MALFORMED);
    CHECK(f.out.went_live);
    sv_session_clear(&f.s);
}

static void what_fails_is_dropped_and_ends_nothing(void)
{
    uint64_t heard = 0;
    server_live(&f);
    size_t len = make_datagram(f.frame, f.peer.send_key, 0, 7, "abcd");
    for (size_t i = 0; i < len; i++) {
        make_datagram(f.frame, f.peer.send_key, 0, 7, "abcd");
        f.frame[i] ^= 0x10;
        heard += sv_session_open_datagram(&f.s, f.now, f.frame, len, &f.out) == 0;
    }
    for (size_t cut = 0; cut < len; cut++) {
        make_datagram(f.frame, f.peer.send_key, 0, 7, "abcd");
        heard += sv_session_open_datagram(&f.s, f.now, f.frame, cut, &f.out) == 0;
    }
    CHECK_EQ(heard, 0);
    CHECK_EQ(f.s.counters.datagrams_dropped, 2 * len);
    CHECK_EQ(f.s.state, SV_SESSION_LIVE);
    /* The window did not move: the changed counters above were far ahead of it. */
    CHECK_EQ(hear(f.peer.send_key, 0, 7, "abcd"), 0);
    CHECK_EQ(hear(f.peer.send_key, 0, UINT64_MAX - 2, "abcd"), SV_E_REPLAY);
    sv_session_clear(&f.s);
}

static void each_counter_passes_once_within_8192(void)
{
    server_live(&f);
    CHECK_EQ(hear(f.peer.send_key, 0, 10000, "x"), 0);
    CHECK_EQ(hear(f.peer.send_key, 0, 10000, "x"), SV_E_REPLAY);
    CHECK_EQ(hear(f.peer.send_key, 0, 10000 - 8191, "x"), 0);
    CHECK_EQ(hear(f.peer.send_key, 0, 10000 - 8191, "x"), SV_E_REPLAY);
    CHECK_EQ(hear(f.peer.send_key, 0, 10000 - 8192, "x"), SV_E_REPLAY);
    CHECK_EQ(hear(f.peer.send_key, 0, 9999, "x"), 0);
    sv_session_clear(&f.s);
}

static void without_the_capability_there_are_none(void)
{
    struct sv_settings settings = example_settings();
    uint8_t dst[64];
    settings.capabilities &= ~(uint32_t)SV_CAP_DATAGRAM;
    server_live_with(&f, &settings);
    CHECK_EQ(sv_session_seal_datagram(&f.s, f.now, dst, (const uint8_t *)"x", 1), 0);
    CHECK_EQ(hear(f.peer.send_key, 0, 0, "x"), SV_E_STATE);
    CHECK(f.s.datagrams == NULL);
    sv_session_clear(&f.s);
}

/* ---- epochs ---- */

static struct raw_peer next;

/* Up to the answer: `next` has the new keys, SwitchKeys is due. */
static void server_answers_rekey(void)
{
    uint8_t message[96];
    next = f.peer;
    raw_begin_rekey(&next, true, &client_pair, server_pair.public_key);
    CHECK_EQ(sv_noise_write1(&next.noise, message, NULL, 0), 0);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_HANDSHAKE_INIT, message, 96), SV_SESSION_NOTHING);
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_HANDSHAKE_RESP);
    CHECK_EQ(sv_noise_read2(&next.noise, f.plain + 100, f.plain, 48), 0);
    raw_take_keys(&next);
}

static void the_server_changes_at_switch_keys(void)
{
    server_live(&f);
    expect_sent(f.peer.receive_key, 0, 0);
    server_answers_rekey();
    expect_sent(f.peer.receive_key, 0, 2);
    CHECK_EQ(hear(f.peer.send_key, 0, 0, "x"), 0);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_SWITCH_KEYS, NULL, 0), SV_SESSION_NOTHING);
    expect_sent(next.receive_key, 1, 0);
    CHECK_EQ(hear(next.send_key, 1, 0, "x"), 0);
    uint64_t switched = f.now;
    CHECK_EQ(sv_session_deadline(&f.s), switched + 30 * SV_NS_PER_S);
    f.now += 30 * SV_NS_PER_S - 1;
    CHECK_EQ(hear(f.peer.send_key, 0, 1, "late"), 0);
    CHECK_EQ(hear(f.peer.send_key, 0, 1, "late"), SV_E_REPLAY);
    f.now++;
    CHECK_EQ(hear(f.peer.send_key, 0, 2, "late"), SV_E_STATE);
    CHECK(sv_session_deadline(&f.s) > f.now);
    sv_session_clear(&f.s);
}

static void the_server_changes_at_a_new_datagram(void)
{
    server_live(&f);
    server_answers_rekey();
    expect_sent(f.peer.receive_key, 0, 0);
    CHECK_EQ(hear(f.peer.receive_key, 1, 0, "forged"), SV_E_AUTH);
    expect_sent(f.peer.receive_key, 0, 2);
    CHECK_EQ(hear(next.send_key, 1, 3, "new"), 0);
    expect_sent(next.receive_key, 1, 0);
    /* The stream is still under the old key, and SwitchKeys changes the epoch no second time. */
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "stream", 6), SV_SESSION_ON_PACKET);
    f.now += 5 * SV_NS_PER_S;
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_SWITCH_KEYS, NULL, 0), SV_SESSION_NOTHING);
    expect_sent(next.receive_key, 1, 2);
    CHECK_EQ(hear(next.send_key, 1, 3, "again"), SV_E_REPLAY);
    CHECK_EQ(sv_session_deadline(&f.s), f.now + 25 * SV_NS_PER_S);
    sv_session_clear(&f.s);
}

static void epochs_wrap_and_only_one_old_one_lives(void)
{
    struct raw_peer first;
    server_live(&f);
    first = f.peer;
    for (unsigned i = 1; i <= 257; i++) {
        f.now += 10 * SV_NS_PER_S;
        server_answers_rekey();
        CHECK_EQ(deliver_sealed(&f, SV_FRAME_SWITCH_KEYS, NULL, 0), SV_SESSION_NOTHING);
        f.peer = next;
        if (i == 2) {
            CHECK_EQ(hear(first.send_key, 0, 0, "x"), SV_E_STATE);
        }
    }
    expect_sent(f.peer.receive_key, 1, 0);
    CHECK_EQ(hear(f.peer.send_key, 1, 0, "x"), 0);
    sv_session_clear(&f.s);
}

static void the_client_changes_with_its_switch_keys(void)
{
    uint8_t message[48];
    struct sv_settings settings = example_settings();
    settings.rekey_secs = 20;
    client_live_with(&f, &settings, 0);
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_KEEPALIVE);
    f.now += 20 * SV_NS_PER_S;
    CHECK_EQ(sv_session_on_timer(&f.s, f.now), SV_SESSION_NOTHING);
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_HANDSHAKE_INIT);
    next = f.peer;
    raw_begin_rekey(&next, false, &server_pair, NULL);
    CHECK_EQ(sv_noise_read1(&next.noise, f.plain + 200, f.plain, 96), 0);
    CHECK_EQ(sv_noise_write2(&next.noise, message, NULL, 0), 0);
    raw_take_keys(&next);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_HANDSHAKE_RESP, message, 48), SV_SESSION_NOTHING);
    expect_sent(f.peer.receive_key, 0, 0);
    CHECK_EQ(hear(next.send_key, 1, 0, "too early"), SV_E_STATE);
    flush(&f);
    expect_sent(next.receive_key, 1, 0);
    CHECK_EQ(hear(next.send_key, 1, 0, "x"), 0);
    CHECK_EQ(hear(f.peer.send_key, 0, 0, "x"), 0);
    f.now += 30 * SV_NS_PER_S;
    CHECK_EQ(hear(f.peer.send_key, 0, 1, "x"), SV_E_STATE);
    sv_session_clear(&f.s);
}

static void all(void)
{
    RUN(bytes_of_both_directions);
    RUN(a_datagram_makes_the_server_live);
    RUN(what_fails_is_dropped_and_ends_nothing);
    RUN(each_counter_passes_once_within_8192);
    RUN(without_the_capability_there_are_none);
    RUN(the_server_changes_at_switch_keys);
    RUN(the_server_changes_at_a_new_datagram);
    RUN(epochs_wrap_and_only_one_old_one_lives);
    RUN(the_client_changes_with_its_switch_keys);
}

int main(void)
{
    if (sv_crypto_init() != 0 || sv_aead_init() != 0) {
        return 1;
    }
    make_pairs();
    RUN_WITH_EACH_CIPHER(all);
    return CHECK_DONE("proto_datagram");
}
