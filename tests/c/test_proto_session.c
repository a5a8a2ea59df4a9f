/* The session's frames and its answers to wrong ones, against a peer made by hand from Noise and AEAD alone.
 */
#include "tests/c/session_fixture.h"

#include <stdlib.h>

static struct fixture f;

/* ---- server ---- */

static void server_reads_the_hello(void)
{
    static const uint8_t hello[] = {1, 0, 4, 0, 0, 0, 0x11, 2, 0, 2, 'a', 'b'};
    const uint8_t *e;
    server_new(&f);
    CHECK_EQ(sv_session_max_payload(&f.s), 1024);
    CHECK_EQ(sv_session_deadline(&f.s), START_NS + 5 * SV_NS_PER_S);
    CHECK_EQ(server_hears_init(&f, SV_FRAME_HANDSHAKE_INIT, hello, sizeof hello), SV_SESSION_ON_HELLO);
    CHECK(sv_session_peek_ephemeral(f.frame, 5 + 32, &e));
    CHECK_MEM(e, f.peer.noise.e_public, 32);
    CHECK(!sv_session_peek_ephemeral(f.frame, 5 + 31, &e));
    CHECK(e == NULL);
    f.frame[0] = SV_FRAME_KEEPALIVE;
    CHECK(!sv_session_peek_ephemeral(f.frame, 200, &e));
    CHECK_MEM(f.s.peer_key, client_pair.public_key, 32);
    CHECK_EQ(f.s.peer_capabilities, 0x11);
    CHECK_STR(f.s.hello.software, "ab");
    CHECK(!sv_session_wants_flush(&f.s));
    sv_session_clear(&f.s);
}

static void server_answers_with_settings_and_is_silent_until_live(void)
{
    struct sv_settings settings = example_settings();
    uint8_t list[SV_SETTINGS_MAX], packet[64] = {0}, sealed[128];
    size_t len = sv_settings_write(&settings, list, sizeof list);
    server_new(&f);
    server_accepts(&f, &settings);
    CHECK_EQ(f.plain_len, len);
    CHECK_MEM(f.plain, list, len);
    CHECK(no_more_frames(&f));
    CHECK_EQ(f.s.state, SV_SESSION_WAIT);
    CHECK_EQ(sv_session_max_payload(&f.s), 65535);
    CHECK_MEM(f.s.session_id, settings.session_id, 16);
    CHECK(!sv_session_can_send(&f.s));
    CHECK_EQ(sv_session_seal(&f.s, f.now, SV_FRAME_IP_PACKET, sealed, packet, sizeof packet), 0);
    sv_session_update_settings(&f.s, &settings, 1 << 5);
    CHECK_EQ(flush(&f), 0);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE, "12345678", 8), SV_SESSION_ON_LIVE);
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_SETTINGS);
    CHECK_EQ(next_frame(&f), SV_FRAME_KEEPALIVE_ACK);
    CHECK_EQ(f.plain_len, 8);
    CHECK_MEM(f.plain, "12345678", 8);
    CHECK(no_more_frames(&f));
    sv_session_clear(&f.s);
}

static void server_goes_live_by_a_packet(void)
{
    struct sv_settings settings = example_settings();
    server_new(&f);
    server_accepts(&f, &settings);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "packet", 6), SV_SESSION_ON_PACKET);
    CHECK(f.out.went_live);
    CHECK_EQ(f.out.packet_len, 6);
    CHECK(f.out.packet == f.frame + 5);
    CHECK_MEM(f.out.packet, "packet", 6);
    CHECK_EQ(f.out.kind, 0);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "again", 5), SV_SESSION_ON_PACKET);
    CHECK(!f.out.went_live);
    sv_session_clear(&f.s);
}

static void server_goes_live_by_what_is_skipped_but_not_by_disconnect_or_offence(void)
{
    struct sv_settings settings = example_settings();
    server_new(&f);
    server_accepts(&f, &settings);
    CHECK_EQ(deliver_sealed(&f, 0x90, "?", 1), SV_SESSION_ON_LIVE);
    CHECK(f.out.went_live);
    sv_session_clear(&f.s);
    server_new(&f);
    server_accepts(&f, &settings);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_DISCONNECT, "\x06why", 4), SV_SESSION_ON_DISCONNECT);
    CHECK(!f.out.went_live);
    CHECK_EQ(f.out.code, 6);
    CHECK_EQ(f.out.text_len, 3);
    CHECK_MEM(f.out.text, "why", 3);
    sv_session_clear(&f.s);
    server_new(&f);
    server_accepts(&f, &settings);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_SWITCH_KEYS, NULL, 0), SV_SESSION_ON_OFFENCE);
    CHECK(!f.out.went_live);
    check_disconnect(&f, 11, "unexpected frame");
    sv_session_clear(&f.s);
}

static void expect_fatal(size_t len)
{
    CHECK_EQ(deliver(&f, len), SV_SESSION_ON_FATAL);
    CHECK_EQ(f.s.state, SV_SESSION_CLOSED);
    CHECK_EQ(flush(&f), 0);
    CHECK_EQ(sv_session_deadline(&f.s), SV_NEVER);
    sv_session_clear(&f.s);
}

static void bad_first_messages_close_without_a_byte(void)
{
    uint8_t hello[16], good[256];
    size_t hello_len = make_hello(hello, ALL_CAPS);
    size_t len = raw_init_frame(&f.peer, good, SV_FRAME_HANDSHAKE_INIT, &client_pair, server_pair.public_key,
                                hello, hello_len);
    for (size_t i = 5; i < len; i++) {
        server_new(&f);
        memcpy(f.frame, good, len);
        f.frame[i] ^= i == 5 + 31 ? 0x40 : 1; /* the top bit of e means nothing in X25519 */
        expect_fatal(len);
    }
    for (size_t cut = 0; cut < len; cut++) {
        server_new(&f);
        memcpy(f.frame, good, cut);
        expect_fatal(cut < 5 ? cut : raw_header(f.frame, SV_FRAME_HANDSHAKE_INIT, cut - 5));
    }
    for (unsigned type = 0; type < 256; type++) {
        server_new(&f);
        memcpy(f.frame, good, len);
        f.frame[0] = (uint8_t)type;
        if (type != SV_FRAME_HANDSHAKE_INIT) {
            expect_fatal(len);
        }
    }
    server_new(&f);
    memcpy(f.frame, good, len);
    expect_fatal(len + 1);
}

static void first_message_bounds(void)
{
    static uint8_t hello[1024];
    size_t len = make_hello(hello, 0);
    hello[len] = 0x70;
    sv_store16be(hello + len + 1, (uint16_t)(1024 - 96 - len - 3));
    server_new(&f);
    CHECK_EQ(server_hears_init(&f, SV_FRAME_HANDSHAKE_INIT, hello, 1024 - 96), SV_SESSION_ON_HELLO);
    sv_session_clear(&f.s);
    sv_store16be(hello + len + 1, (uint16_t)(1025 - 96 - len - 3));
    server_new(&f);
    CHECK_EQ(server_hears_init(&f, SV_FRAME_HANDSHAKE_INIT, hello, 1025 - 96), SV_SESSION_ON_FATAL);
    sv_session_clear(&f.s);
    server_new(&f);
    CHECK_EQ(server_hears_init(&f, SV_FRAME_HANDSHAKE_INIT, hello, 3), SV_SESSION_ON_FATAL);
    sv_session_clear(&f.s);
    server_new(&f);
    memset(f.frame, 0, 300);
    expect_fatal(raw_header(f.frame, SV_FRAME_HANDSHAKE_INIT, 200));
}

static void a_frame_between_message_1_and_its_answer_is_fatal(void)
{
    uint8_t hello[16];
    size_t len = make_hello(hello, ALL_CAPS);
    server_new(&f);
    CHECK_EQ(server_hears_init(&f, SV_FRAME_HANDSHAKE_INIT, hello, len), SV_SESSION_ON_HELLO);
    CHECK_EQ(server_hears_init(&f, SV_FRAME_HANDSHAKE_INIT, hello, len), SV_SESSION_ON_FATAL);
    sv_session_clear(&f.s);
}

static size_t hello_with_resume(uint8_t *hello)
{
    size_t len = make_hello(hello, ALL_CAPS);
    memcpy(hello + len, "\x03\x00\x10resume-id-16byte", 19);
    return len + 19;
}

static void server_takes_a_resume(void)
{
    static const uint8_t types[2] = {SV_FRAME_SESSION_RESUME_ERR, SV_FRAME_SESSION_RESUME_OK};
    struct sv_settings settings = example_settings();
    uint8_t hello[64];
    for (int resumed = 0; resumed < 2; resumed++) {
        server_new(&f);
        CHECK_EQ(server_hears_init(&f, SV_FRAME_SESSION_RESUME, hello, hello_with_resume(hello)),
                 SV_SESSION_ON_HELLO);
        CHECK(f.s.hello.has_resume);
        CHECK_MEM(f.s.hello.resume_id, "resume-id-16byte", 16);
        sv_session_accept(&f.s, f.now, &settings, resumed);
        flush(&f);
        raw_reads_answer(&f, types[resumed]);
        CHECK_EQ(f.s.resumed, resumed);
        sv_session_clear(&f.s);
    }
    server_new(&f);
    CHECK_EQ(server_hears_init(&f, SV_FRAME_SESSION_RESUME, hello, make_hello(hello, 1)),
             SV_SESSION_ON_FATAL);
    sv_session_clear(&f.s);
    server_new(&f);
    CHECK_EQ(server_hears_init(&f, SV_FRAME_HANDSHAKE_INIT, hello, hello_with_resume(hello)),
             SV_SESSION_ON_HELLO);
    CHECK(!f.s.hello.has_resume);
    sv_session_accept(&f.s, f.now, &settings, true);
    flush(&f);
    raw_reads_answer(&f, SV_FRAME_HANDSHAKE_RESP);
    CHECK(!f.s.resumed);
    sv_session_clear(&f.s);
}

/* Without settings nothing was agreed on. */
static int next_frame_of_refusal(void)
{
    bool offered = raw_aes;
    raw_aes = false;
    int type = next_frame(&f);
    raw_aes = offered;
    return type;
}

static void server_refuses_with_a_reason(void)
{
    static const uint8_t asked[2] = {SV_FRAME_HANDSHAKE_INIT, SV_FRAME_SESSION_RESUME};
    static const uint8_t answered[2] = {SV_FRAME_HANDSHAKE_RESP, SV_FRAME_SESSION_RESUME_ERR};
    uint8_t hello[64];
    for (int i = 0; i < 2; i++) {
        server_new(&f);
        CHECK_EQ(server_hears_init(&f, asked[i], hello, hello_with_resume(hello)), SV_SESSION_ON_HELLO);
        sv_session_refuse(&f.s, f.now, SV_DISCONNECT_EXPIRED, NULL);
        CHECK_EQ(f.s.state, SV_SESSION_CLOSING);
        flush(&f);
        raw_reads_answer(&f, answered[i]);
        CHECK_EQ(f.plain_len, 0);
        CHECK_EQ(next_frame_of_refusal(), SV_FRAME_DISCONNECT);
        CHECK_EQ(f.plain_len, 8);
        CHECK_MEM(f.plain,
                  "\x03"
                  "expired",
                  8);
        CHECK(no_more_frames(&f));
        CHECK_EQ(f.s.state, SV_SESSION_CLOSED);
        sv_session_clear(&f.s);
    }
}

static void whatever_does_not_open_is_fatal(void)
{
    uint8_t good[64];
    server_live(&f);
    size_t len = raw_seal(&f.peer, good, SV_FRAME_IP_PACKET, "0123456789", 10);
    sv_session_clear(&f.s);
    for (size_t i = 0; i < len; i++) {
        server_live(&f);
        len = raw_seal(&f.peer, f.frame, SV_FRAME_IP_PACKET, "0123456789", 10);
        f.frame[i] ^= 0x81;
        expect_fatal(len);
    }
    for (size_t payload = 0; payload < 16; payload++) {
        server_live(&f);
        memset(f.frame, 0, 32);
        expect_fatal(raw_header(f.frame, SV_FRAME_IP_PACKET, payload));
    }
}

static void replayed_and_reordered_frames_are_fatal(void)
{
    uint8_t first[64];
    server_live(&f);
    size_t len = raw_seal(&f.peer, first, SV_FRAME_IP_PACKET, "one", 3);
    memcpy(f.frame, first, len);
    CHECK_EQ(deliver(&f, len), SV_SESSION_ON_PACKET);
    memcpy(f.frame, first, len);
    expect_fatal(len);
    server_live(&f);
    f.peer.send_counter++;
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "two", 3), SV_SESSION_ON_FATAL);
    sv_session_clear(&f.s);
}

static void unknown_types(void)
{
    for (unsigned type = 0x80; type <= 0xff; type++) {
        server_live(&f);
        CHECK_EQ(deliver_sealed(&f, (uint8_t)type, "x", 1), SV_SESSION_NOTHING);
        CHECK_EQ(f.s.counters.unknown_frames, 1);
        CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "x", 1), SV_SESSION_ON_PACKET);
        sv_session_clear(&f.s);
    }
}

static bool known_from_client(unsigned type)
{
    static const uint8_t known[] = {SV_FRAME_HANDSHAKE_INIT, SV_FRAME_IP_PACKET,  SV_FRAME_IP_SUPER_PACKET,
                                    SV_FRAME_KEEPALIVE,      SV_FRAME_DISCONNECT, SV_FRAME_KEEPALIVE_ACK};
    return memchr(known, (int)type, sizeof known) != NULL;
}

static void offences_get_disconnect_11(void)
{
    for (unsigned type = 0; type < 0x80; type++) {
        if (known_from_client(type)) {
            continue;
        }
        server_live(&f);
        CHECK_EQ(deliver_sealed(&f, (uint8_t)type, NULL, 0), SV_SESSION_ON_OFFENCE);
        CHECK_EQ(f.out.code, 11);
        CHECK_EQ(f.s.state, SV_SESSION_CLOSING);
        CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "x", 1), SV_SESSION_NOTHING);
        check_disconnect(&f, 11, "unexpected frame");
        CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "x", 1), SV_SESSION_NOTHING);
        sv_session_clear(&f.s);
    }
}

static void keepalives_at_the_server(void)
{
    uint8_t plain[40] = "stamp-8b\x00\x00\x4e\x20\x00\x00\x03\xe8\x80\x00\x00\x1e";
    server_live(&f);
    for (size_t len = 8; len < 20; len++) {
        CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE, plain, len), SV_SESSION_NOTHING);
        flush(&f);
        CHECK_EQ(next_frame(&f), SV_FRAME_KEEPALIVE_ACK);
        CHECK_EQ(f.plain_len, 8);
        CHECK_MEM(f.plain, "stamp-8b", 8);
        CHECK_EQ(f.s.quality.srtt_ns, 0);
        CHECK_EQ(f.s.peer_interval_secs, 0);
    }
    for (size_t len = 20; len < 40; len += 19) {
        CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE, plain, len), SV_SESSION_NOTHING);
        flush(&f);
        CHECK_EQ(next_frame(&f), SV_FRAME_KEEPALIVE_ACK);
        CHECK_EQ(f.s.quality.srtt_ns, 20000 * SV_NS_PER_US);
        CHECK_EQ(f.s.quality.jitter_ns, 1000 * SV_NS_PER_US);
        CHECK_EQ(f.s.peer_loss, 0x8000);
        CHECK_EQ(f.s.peer_interval_secs, 30);
    }
    CHECK_EQ(f.s.counters.keepalives_received, 15);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE_ACK, "", 0), SV_SESSION_NOTHING);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE, plain, 7), SV_SESSION_ON_OFFENCE);
    check_disconnect(&f, 11, "short keepalive");
    sv_session_clear(&f.s);
}

static void acks_that_wait_are_bounded(void)
{
    server_live(&f);
    for (uint8_t i = 0; i < 10; i++) {
        uint8_t stamp[8] = {i};
        CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE, stamp, 8), SV_SESSION_NOTHING);
    }
    CHECK_EQ(sv_session_flush(&f.s, f.now, f.flushed, 28), 0);
    CHECK_EQ(sv_session_flush(&f.s, f.now, f.flushed, 2 * 29 + 28), 2 * 29);
    CHECK_EQ(flush(&f), 2 * 29);
    f.peer.receive_counter += 2;
    for (uint8_t i = 2; i < 4; i++) {
        CHECK_EQ(next_frame(&f), SV_FRAME_KEEPALIVE_ACK);
        CHECK_EQ(f.plain[0], i);
    }
    sv_session_clear(&f.s);
}

static void super_packets(void)
{
    static const uint8_t lies[][5] = {
        {0, 1, 0, 'x'}, {4, 1, 0, 'x'}, {255, 1, 0, 'x'}, {1, 0, 255, 'x'}, {3, 0, 0, 'x'}};
    server_live(&f);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_SUPER_PACKET, lies[i], 4), SV_SESSION_ON_MALFORMED);
    }
    for (size_t len = 0; len < 4; len++) {
        CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_SUPER_PACKET, "\x01\x01\x00", len), SV_SESSION_ON_MALFORMED);
    }
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, NULL, 0), SV_SESSION_ON_MALFORMED);
    CHECK_EQ(f.s.counters.malformed_packets, 5 + 4 + 1);
    for (uint8_t kind = 1; kind <= 3; kind++) {
        uint8_t plain[] = {kind, 5, 0x50, 'i', 'p'};
        CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_SUPER_PACKET, plain, 5), SV_SESSION_ON_PACKET);
        CHECK_EQ(f.out.kind, kind);
        CHECK_EQ(f.out.segment_size, 0x550);
        CHECK_EQ(f.out.packet_len, 2);
        CHECK_MEM(f.out.packet, "ip", 2);
    }
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_SUPER_PACKET, "\x01\x01\x00z", 4), SV_SESSION_ON_PACKET);
    CHECK_EQ(f.out.segment_size, 256);
    sv_session_clear(&f.s);
}

static void disconnects_received(void)
{
    uint8_t plain[400];
    memset(plain, 'd', sizeof plain);
    server_live(&f);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_DISCONNECT, NULL, 0), SV_SESSION_ON_DISCONNECT);
    CHECK_EQ(f.out.code, 0);
    CHECK_EQ(f.out.text_len, 0);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "x", 1), SV_SESSION_NOTHING);
    CHECK_EQ(flush(&f), 0);
    sv_session_clear(&f.s);
    server_live(&f);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_DISCONNECT, plain, sizeof plain), SV_SESSION_ON_DISCONNECT);
    CHECK_EQ(f.out.code, 'd');
    CHECK_EQ(f.out.text_len, 255);
    sv_session_clear(&f.s);
}

static void the_owner_disconnects(void)
{
    char text[401];
    memset(text, 't', 400);
    text[400] = '\0';
    server_live(&f);
    sv_session_disconnect(&f.s, SV_DISCONNECT_KICKED, text);
    memset(text, '?', 400);
    CHECK_EQ(sv_session_flush(&f.s, f.now, f.flushed, 100), 0);
    memset(text, 't', 255);
    text[255] = '\0';
    CHECK(sv_session_wants_flush(&f.s));
    CHECK(!sv_session_can_send(&f.s));
    sv_session_disconnect(&f.s, SV_DISCONNECT_NORMAL, "later");
    check_disconnect(&f, 6, text);
    sv_session_clear(&f.s);
    server_new(&f);
    sv_session_disconnect(&f.s, SV_DISCONNECT_SHUTTING_DOWN, NULL);
    CHECK_EQ(f.s.state, SV_SESSION_CLOSED);
    CHECK_EQ(flush(&f), 0);
    sv_session_clear(&f.s);
    struct sv_settings settings = example_settings();
    server_new(&f);
    server_accepts(&f, &settings);
    sv_session_disconnect(&f.s, SV_DISCONNECT_SHUTTING_DOWN, NULL);
    check_disconnect(&f, 7, "server shutting down");
    sv_session_clear(&f.s);
}

static void settings_frames_join_and_carry_what_changed(void)
{
    struct sv_settings settings = example_settings();
    static const uint8_t want[] = {0x15, 0, 2, 5, 0, 0x16, 0, 4, 9, 9, 9, 9, 0x17, 0, 0};
    server_live(&f);
    settings.mtu = 1280;
    sv_session_update_settings(&f.s, &settings, 1 << 5);
    settings.has_keepalive = false;
    settings.dns[0] = (struct sv_wire_addr){.length = 4, .bytes = {9, 9, 9, 9}};
    settings.dns_count = 1;
    sv_session_update_settings(&f.s, &settings, 1 << 6 | 1 << 7);
    flush(&f);
    CHECK_EQ(next_frame(&f), SV_FRAME_SETTINGS);
    CHECK_EQ(f.plain_len, sizeof want);
    CHECK_MEM(f.plain, want, sizeof want);
    CHECK(no_more_frames(&f));
    CHECK(f.s.settings == NULL);
    sv_session_clear(&f.s);
}

/* ---- both ---- */

static void packets_are_sealed_in_place_and_apart(void)
{
    uint8_t buffer[100], apart[100];
    server_live(&f);
    for (size_t len = 0; len <= 60; len += 20) {
        memset(buffer, 0, sizeof buffer);
        memset(buffer + 5, 'p', len);
        CHECK_EQ(sv_session_seal(&f.s, f.now, SV_FRAME_IP_PACKET, buffer, buffer + 5, len), len + 21);
        memcpy(f.flushed, buffer, len + 21);
        memset(buffer, 'p', len);
        CHECK_EQ(sv_session_seal(&f.s, f.now, SV_FRAME_IP_SUPER_PACKET, apart, buffer, len), len + 21);
        memcpy(f.flushed + len + 21, apart, len + 21);
        f.flushed_len = 2 * (len + 21);
        f.at = 0;
        CHECK_EQ(next_frame(&f), SV_FRAME_IP_PACKET);
        CHECK_EQ(f.plain_len, len);
        CHECK_MEM(f.plain, buffer, len);
        CHECK_EQ(next_frame(&f), SV_FRAME_IP_SUPER_PACKET);
        CHECK_MEM(f.plain, buffer, len);
    }
    sv_session_clear(&f.s);
}

static void the_longest_plaintext(void)
{
    uint8_t *plain = calloc(1, 65520), *dst = malloc(65541);
    server_live(&f);
    CHECK_EQ(sv_session_seal(&f.s, f.now, SV_FRAME_IP_PACKET, dst, plain, 65520), 0);
    CHECK_EQ(sv_session_seal(&f.s, f.now, SV_FRAME_IP_PACKET, dst, plain, 65519), 65540);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, plain, 65519), SV_SESSION_ON_PACKET);
    CHECK_EQ(f.out.packet_len, 65519);
    free(plain);
    free(dst);
    sv_session_clear(&f.s);
}

static void counters_end_below_2_64_minus_3(void)
{
    uint8_t packet[64] = {0};
    server_live(&f);
    f.s.send_counter = f.peer.receive_counter = UINT64_MAX - 3;
    f.flushed_len = sv_session_seal(&f.s, f.now, SV_FRAME_IP_PACKET, f.flushed, packet, 4);
    f.at = 0;
    CHECK_EQ(next_frame(&f), SV_FRAME_IP_PACKET);
    CHECK_EQ(sv_session_seal(&f.s, f.now, SV_FRAME_IP_PACKET, f.flushed, packet, 4), 0);
    CHECK_EQ(f.s.state, SV_SESSION_LIVE);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE, "12345678", 8), SV_SESSION_NOTHING);
    CHECK_EQ(flush(&f), 0);
    CHECK_EQ(f.s.state, SV_SESSION_CLOSED);
    CHECK_EQ(sv_session_deadline(&f.s), 0);
    CHECK_EQ(sv_session_on_timer(&f.s, f.now), SV_SESSION_ON_DEAD);
    CHECK_EQ(sv_session_deadline(&f.s), SV_NEVER);
    sv_session_clear(&f.s);
    server_live(&f);
    f.s.receive_counter = f.peer.send_counter = UINT64_MAX - 3;
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "x", 1), SV_SESSION_ON_PACKET);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_IP_PACKET, "x", 1), SV_SESSION_ON_FATAL);
    sv_session_clear(&f.s);
}

static void disconnect_codes(void)
{
    static const unsigned final[] = {1, 2, 3, 4, 5, 8, 9};
    for (unsigned code = 0, i = 0; code < 300; code++) {
        bool is_final = i < 7 && final[i] == code;
        i += is_final;
        CHECK_EQ(sv_disconnect_final(code), is_final);
    }
    CHECK_STR(sv_disconnect_text(12), "rekey overdue");
    CHECK_STR(sv_disconnect_text(16), "unknown reason");
}

static void an_idle_session_is_small_and_wiped(void)
{
    static const struct sv_session zero = {.state = SV_SESSION_CLOSED};
    CHECK(sizeof f.s <= 1024);
    server_live(&f);
    CHECK(f.s.handshake == NULL && f.s.settings == NULL && f.s.datagrams == NULL);
    sv_session_clear(&f.s);
    CHECK_MEM(&f.s, &zero, sizeof zero);
}

/* One side alone offers AES-GCM. */
static void without_agreement_it_is_chacha(void)
{
    struct sv_settings settings = example_settings();
    uint8_t hello[16];
    settings.capabilities |= SV_CAP_AES_GCM;
    server_live_with(&f, &settings);
    CHECK(f.s.aead == sv_aead);
    sv_session_clear(&f.s);
    server_new(&f);
    CHECK_EQ(
        server_hears_init(&f, SV_FRAME_HANDSHAKE_INIT, hello, make_hello(hello, ALL_CAPS | SV_CAP_AES_GCM)),
        SV_SESSION_ON_HELLO);
    settings = example_settings();
    sv_session_accept(&f.s, f.now, &settings, false);
    flush(&f);
    raw_reads_answer(&f, SV_FRAME_HANDSHAKE_RESP);
    CHECK_EQ(deliver_sealed(&f, SV_FRAME_KEEPALIVE, "ABCDEFGH", 8), SV_SESSION_ON_LIVE);
    CHECK(f.s.aead == sv_aead);
    sv_session_clear(&f.s);
}

static void all(void)
{
    RUN(server_reads_the_hello);
    RUN(server_answers_with_settings_and_is_silent_until_live);
    RUN(server_goes_live_by_a_packet);
    RUN(server_goes_live_by_what_is_skipped_but_not_by_disconnect_or_offence);
    RUN(bad_first_messages_close_without_a_byte);
    RUN(first_message_bounds);
    RUN(a_frame_between_message_1_and_its_answer_is_fatal);
    RUN(server_takes_a_resume);
    RUN(server_refuses_with_a_reason);
    RUN(whatever_does_not_open_is_fatal);
    RUN(replayed_and_reordered_frames_are_fatal);
    RUN(unknown_types);
    RUN(offences_get_disconnect_11);
    RUN(keepalives_at_the_server);
    RUN(acks_that_wait_are_bounded);
    RUN(super_packets);
    RUN(disconnects_received);
    RUN(the_owner_disconnects);
    RUN(settings_frames_join_and_carry_what_changed);
    RUN(packets_are_sealed_in_place_and_apart);
    RUN(the_longest_plaintext);
    RUN(counters_end_below_2_64_minus_3);
    RUN(disconnect_codes);
    RUN(an_idle_session_is_small_and_wiped);
}

int main(void)
{
    if (sv_crypto_init() != 0 || sv_aead_init() != 0) {
        return 1;
    }
    make_pairs();
    RUN_WITH_EACH_CIPHER(all);
    RUN(without_agreement_it_is_chacha);
    return CHECK_DONE("proto_session");
}
