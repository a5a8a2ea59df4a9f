/* The client's side of a session: what it says, what it believes, and what it does with a server that is
 * wrong. */
#include "tests/c/session_fixture.h"

static struct fixture f;

static size_t settings_list(uint8_t *list)
{
    struct sv_settings settings = example_settings();
    return sv_settings_write(&settings, list, SV_SETTINGS_MAX);
}

static void client_says_hello(void)
{
    const uint8_t want[] = {1, 0, 4, 0, 0, 0, raw_aes ? 0x7f : 0x3f};
    client_new(&f);
    CHECK(sv_session_wants_flush(&f.s));
    CHECK_EQ(sv_session_max_payload(&f.s), 65535);
    CHECK_EQ(sv_session_flush(&f.s, f.now, f.flushed, 50), 0);
    raw_reads_init(&f, SV_FRAME_HANDSHAKE_INIT);
    CHECK_MEM(f.peer.noise.rs, client_pair.public_key, 32);
    CHECK_EQ(f.plain_len, sizeof want);
    CHECK_MEM(f.plain, want, sizeof want);
    CHECK_EQ(f.s.state, SV_SESSION_WAIT);
    sv_session_clear(&f.s);
}

static void client_asks_to_resume(void)
{
    static const uint8_t answers[2] = {SV_FRAME_SESSION_RESUME_ERR, SV_FRAME_SESSION_RESUME_OK};
    struct sv_hello hello = {.capabilities = 1, .has_resume = true, .resume_id = "0123456789abcde"};
    uint8_t list[SV_SETTINGS_MAX];
    for (int ok = 0; ok < 2; ok++) {
        client_new_with(&f, &hello, 0);
        raw_reads_init(&f, SV_FRAME_SESSION_RESUME);
        CHECK_EQ(f.plain_len, 7 + 3 + 16);
        CHECK_MEM(f.plain + 7,
                  "\x03\x00\x10"
                  "0123456789abcde",
                  19);
        CHECK_EQ(raw_answers(&f, answers[ok], list, settings_list(list)), SV_SESSION_ON_LIVE);
        CHECK_EQ(f.s.resumed, ok);
        sv_session_clear(&f.s);
    }
}

static void client_goes_live_and_says_so_first(void)
{
    uint8_t list[SV_SETTINGS_MAX], sealed[64];
    client_new(&f);
    raw_reads_init(&f, SV_FRAME_HANDSHAKE_INIT);
    f.now += 30 * SV_NS_PER_MS;
    CHECK_EQ(raw_answers(&f, SV_FRAME_HANDSHAKE_RESP, list, settings_list(list)), SV_SESSION_ON_LIVE);
    CHECK(f.out.went_live);
    CHECK_EQ(f.s.settings->mtu, 1420);
    CHECK_EQ(f.s.session_id[0], 7);
    CHECK_EQ(f.s.handshake_rtt, 30 * SV_NS_PER_MS);
    CHECK(!sv_session_can_send(&f.s));
    CHECK_EQ(sv_session_seal(&f.s, f.now, SV_FRAME_IP_PACKET, sealed, list, 8), 0);
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_KEEPALIVE);
    CHECK_EQ(f.plain_len, 20);
    CHECK(sv_session_can_send(&f.s));
    CHECK_EQ(sv_session_seal(&f.s, f.now, SV_FRAME_IP_PACKET, sealed, list, 8), 29);
    sv_session_clear(&f.s);
}

static void the_wrong_answer_is_fatal(void)
{
    uint8_t list[SV_SETTINGS_MAX];
    size_t len = settings_list(list);
    for (unsigned type = 0; type < 256; type++) {
        if (type != SV_FRAME_HANDSHAKE_RESP) {
            client_new(&f);
            raw_reads_init(&f, SV_FRAME_HANDSHAKE_INIT);
            CHECK_EQ(raw_answers(&f, (uint8_t)type, list, len), SV_SESSION_ON_FATAL);
            CHECK_EQ(flush(&f), 0);
            sv_session_clear(&f.s);
        }
    }
    client_new_with(&f, &(struct sv_hello){.has_resume = true}, 0);
    raw_reads_init(&f, SV_FRAME_SESSION_RESUME);
    CHECK_EQ(raw_answers(&f, SV_FRAME_HANDSHAKE_RESP, list, len), SV_SESSION_ON_FATAL);
    sv_session_clear(&f.s);
    client_new(&f);
    raw_reads_init(&f, SV_FRAME_HANDSHAKE_INIT);
    CHECK_EQ(raw_answers(&f, SV_FRAME_HANDSHAKE_RESP, list, len - 1), SV_SESSION_ON_FATAL);
    sv_session_clear(&f.s);
    client_new(&f);
    CHECK_EQ(deliver(&f, raw_header(f.frame, SV_FRAME_HANDSHAKE_RESP, 60)), SV_SESSION_ON_FATAL);
    sv_session_clear(&f.s);
}

static void a_changed_answer_is_fatal(void)
{
    uint8_t list[SV_SETTINGS_MAX];
    size_t payload = settings_list(list);
    for (size_t i = 5; i < 5 + 48 + payload; i++) {
        client_new(&f);
        raw_reads_init(&f, SV_FRAME_HANDSHAKE_INIT);
        CHECK_EQ(sv_noise_write2(&f.peer.noise, f.frame + 5, list, payload), 0);
        size_t len = raw_header(f.frame, SV_FRAME_HANDSHAKE_RESP, payload + 48);
        f.frame[i] ^= 1;
        CHECK_EQ(deliver(&f, len), SV_SESSION_ON_FATAL);
        sv_session_clear(&f.s);
    }
    for (size_t len = 0; len < 48; len++) {
        client_new(&f);
        raw_reads_init(&f, SV_FRAME_HANDSHAKE_INIT);
        CHECK_EQ(deliver(&f, raw_header(f.frame, SV_FRAME_HANDSHAKE_RESP, len)), SV_SESSION_ON_FATAL);
        sv_session_clear(&f.s);
    }
}

static void a_refused_client_hears_why(void)
{
    bool offered = raw_aes;
    client_new(&f);
    raw_reads_init(&f, SV_FRAME_HANDSHAKE_INIT);
    CHECK_EQ(raw_answers(&f, SV_FRAME_HANDSHAKE_RESP, NULL, 0), SV_SESSION_NOTHING);
    CHECK(!sv_session_wants_flush(&f.s));
    raw_aes = false; /* without settings nothing was agreed on */
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_DISCONNECT, "\x02gone", 5), SV_SESSION_ON_DISCONNECT);
    raw_aes = offered;
    CHECK_EQ(f.out.code, 2);
    CHECK_MEM(f.out.text, "gone", 4);
    sv_session_clear(&f.s);
    client_new(&f);
    raw_reads_init(&f, SV_FRAME_HANDSHAKE_INIT);
    CHECK_EQ(raw_answers(&f, SV_FRAME_HANDSHAKE_RESP, NULL, 0), SV_SESSION_NOTHING);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "x", 1), SV_SESSION_ON_FATAL);
    sv_session_clear(&f.s);
    client_new(&f);
    raw_reads_init(&f, SV_FRAME_HANDSHAKE_INIT);
    CHECK_EQ(raw_answers(&f, SV_FRAME_HANDSHAKE_RESP, NULL, 0), SV_SESSION_NOTHING);
    CHECK_EQ(sv_session_on_timer(&f.s, sv_session_deadline(&f.s)), SV_SESSION_ON_DEAD);
    sv_session_clear(&f.s);
}

static void a_client_that_gives_up_early_closes_without_a_frame(void)
{
    client_new(&f);
    sv_session_disconnect(&f.s, SV_DISCONNECT_NORMAL, NULL);
    CHECK_EQ(flush(&f), 0);
    CHECK_EQ(f.s.state, SV_SESSION_CLOSED);
    sv_session_clear(&f.s);
    client_live(&f);
    sv_session_disconnect(&f.s, SV_DISCONNECT_NORMAL, NULL);
    check_disconnect(&f, 0, "normal");
    sv_session_clear(&f.s);
}

static bool known_from_server(unsigned type)
{
    static const uint8_t known[] = {SV_FRAME_SETTINGS, SV_FRAME_IP_PACKET, SV_FRAME_IP_SUPER_PACKET,
                                    SV_FRAME_KEEPALIVE_ACK, SV_FRAME_DISCONNECT};
    return memchr(known, (int)type, sizeof known) != NULL;
}

static void offences_get_disconnect_11(void)
{
    for (unsigned type = 0; type < 0x80; type++) {
        if (!known_from_server(type)) {
            client_live(&f);
            CHECK_EQ(deliver_sealed(&f, (uint8_t)type, "12345678", 8), SV_SESSION_ON_OFFENCE);
            CHECK_EQ(f.out.code, 11);
            check_disconnect(&f, 11, "unexpected frame");
            sv_session_clear(&f.s);
        }
    }
    client_live(&f);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_SETTINGS, "\x15\x00\x01\x05", 4), SV_SESSION_ON_OFFENCE);
    check_disconnect(&f, 11, "malformed settings");
    sv_session_clear(&f.s);
    client_live(&f);
    CHECK_EQ(deliver_sealed(&f, 0x80, "x", 1), SV_SESSION_NOTHING);
    CHECK_EQ(f.s.state, SV_SESSION_LIVE);
    sv_session_clear(&f.s);
}

static void settings_change(void)
{
    client_live(&f);
    CHECK_EQ(sv_session_deadline(&f.s), START_NS + 60 * SV_NS_PER_S);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_SETTINGS, "\x15\x00\x02\x05\x00\x17\x00\x02\x00\x14", 10),
             SV_SESSION_ON_SETTINGS);
    CHECK_EQ(f.s.settings->mtu, 1280);
    CHECK_EQ(sv_session_deadline(&f.s), START_NS + 20 * SV_NS_PER_S);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_SETTINGS, "\x18\x00\x04\x00\x00\x00\x14\x17\x00\x00", 10),
             SV_SESSION_ON_SETTINGS);
    CHECK_EQ(f.s.rekey_secs, 20);
    CHECK_EQ(f.s.quality.healthy_secs, 60);
    sv_session_clear(&f.s);
}

static void packets_from_the_server(void)
{
    client_live(&f);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "abc", 3), SV_SESSION_ON_PACKET);
    CHECK_MEM(f.out.packet, "abc", 3);
    CHECK(!f.out.went_live);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_SUPER_PACKET, "\x03\x04\x00z", 4), SV_SESSION_ON_PACKET);
    CHECK_EQ(f.out.segment_size, 1024);
    sv_session_clear(&f.s);
}

static void the_smaller_bound_of_the_interval_holds(void)
{
    static const struct {
        uint16_t server, client, want;
    } cases[] = {{60, 0, 60}, {25, 0, 25}, {25, 40, 25}, {45, 15, 15}, {0, 0, 60}, {600, 0, 60}, {0, 12, 12}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sv_settings settings = example_settings();
        settings.keepalive_secs = cases[i].server;
        client_live_with(&f, &settings, cases[i].client);
        flush(&f);
        CHECK_EQ(f.s.quality.healthy_secs, cases[i].want);
        CHECK_EQ(sv_session_deadline(&f.s), START_NS + cases[i].want * SV_NS_PER_S);
        sv_session_clear(&f.s);
    }
}

/* One asked for keepalive, `delay` later its ack. */
static void exchange(uint64_t delay)
{
    f.now = sv_session_deadline(&f.s);
    CHECK_EQ(sv_session_on_timer(&f.s, f.now), SV_SESSION_NOTHING);
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_KEEPALIVE);
    f.now += delay;
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE_ACK, f.plain, 8), SV_SESSION_NOTHING);
}

static void acks_measure_the_path(void)
{
    client_live(&f);
    CHECK_EQ(f.s.counters.acks_received, 1);
    exchange(80 * SV_NS_PER_MS);
    CHECK_EQ(f.s.quality.max_rtt_ns, 80 * SV_NS_PER_MS);
    CHECK_EQ(f.s.quality.checks, 2);
    exchange(80 * SV_NS_PER_MS);
    f.now = sv_session_deadline(&f.s);
    CHECK_EQ(sv_session_on_timer(&f.s, f.now), SV_SESSION_NOTHING);
    uint64_t srtt = f.s.quality.srtt_ns, jitter = f.s.quality.jitter_ns;
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_KEEPALIVE);
    CHECK_EQ(sv_load32be(f.plain + 8), srtt / 1000);
    CHECK_EQ(sv_load32be(f.plain + 12), jitter / 1000);
    CHECK_EQ(sv_load16be(f.plain + 16), 0);
    CHECK_EQ(sv_load16be(f.plain + 18), 60);
    sv_session_clear(&f.s);
}

static void only_asked_for_acks_count(void)
{
    uint8_t ack[8];
    client_live(&f);
    memcpy(ack, f.plain, 8);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE_ACK, ack, 8), SV_SESSION_NOTHING);
    f.now = sv_session_deadline(&f.s);
    CHECK_EQ(sv_session_on_timer(&f.s, f.now), SV_SESSION_NOTHING);
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_KEEPALIVE);
    CHECK(memcmp(f.plain, ack, 8) != 0);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE_ACK, ack, 8), SV_SESSION_NOTHING);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE_ACK, f.plain, 7), SV_SESSION_NOTHING);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE_ACK, NULL, 0), SV_SESSION_NOTHING);
    CHECK_EQ(f.s.counters.acks_received, 1);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE_ACK, f.plain, 20), SV_SESSION_NOTHING);
    CHECK_EQ(f.s.counters.acks_received, 2);
    sv_session_clear(&f.s);
}

/* One side alone offers AES-GCM. */
static void without_agreement_it_is_chacha(void)
{
    struct sv_settings settings = example_settings();
    uint8_t list[SV_SETTINGS_MAX];
    settings.capabilities |= SV_CAP_AES_GCM;
    client_live_with(&f, &settings, 0);
    CHECK(f.s.aead == sv_aead);
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_KEEPALIVE);
    sv_session_clear(&f.s);
    client_new_with(&f, &(struct sv_hello){.capabilities = ALL_CAPS | SV_CAP_AES_GCM}, 0);
    raw_reads_init(&f, SV_FRAME_HANDSHAKE_INIT);
    CHECK_EQ(raw_answers(&f, SV_FRAME_HANDSHAKE_RESP, list, settings_list(list)), SV_SESSION_ON_LIVE);
    CHECK(f.s.aead == sv_aead);
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_KEEPALIVE);
    sv_session_clear(&f.s);
}

static void all(void)
{
    RUN(client_says_hello);
    RUN(client_asks_to_resume);
    RUN(client_goes_live_and_says_so_first);
    RUN(the_wrong_answer_is_fatal);
    RUN(a_changed_answer_is_fatal);
    RUN(a_refused_client_hears_why);
    RUN(a_client_that_gives_up_early_closes_without_a_frame);
    RUN(offences_get_disconnect_11);
    RUN(settings_change);
    RUN(packets_from_the_server);
    RUN(the_smaller_bound_of_the_interval_holds);
    RUN(acks_measure_the_path);
    RUN(only_asked_for_acks_count);
}

int main(void)
{
    if (sv_crypto_init() != 0 || sv_aead_init() != 0) {
        return 1;
    }
    make_pairs();
    RUN_WITH_EACH_CIPHER(all);
    RUN(without_agreement_it_is_chacha);
    return CHECK_DONE("proto_session_client");
}
