/* What has made ngtcp2 abort since 0.12.1, or read and write where it must not, sent to our server and to our client (docs/security.md has the list).
 * Each test is named after the fix or report, by its number at github.com/ngtcp2/ngtcp2. Afterwards another link of the same process is as it was,
 * and new ones are taken in. An assertion ends the whole program. */
#include <smartvpn/base.h>

#ifdef SV_HAVE_QUIC

#include "tests/c/quic_fixture.h"
#include "tests/c/quic_forger.h"
#include "tests/c/random.h"
#include "tests/c/tls_certificate.h"

enum frame_type {
    PING = 0x01,
    ACK = 0x02,
    ACK_ECN = 0x03,
    RESET_STREAM = 0x04,
    STOP_SENDING = 0x05,
    CRYPTO = 0x06,
    NEW_TOKEN = 0x07,
    STREAM_OFFSET_LENGTH = 0x0E,
    STREAM_FIN = 0x01, /* added */
    MAX_DATA = 0x10,
    MAX_STREAM_DATA = 0x11,
    NEW_CONNECTION_ID = 0x18,
    RETIRE_CONNECTION_ID = 0x19,
    PATH_CHALLENGE = 0x1A,
    CONNECTION_CLOSE = 0x1C,
    HANDSHAKE_DONE = 0x1E,
    DATAGRAM = 0x30,
    DATAGRAM_LENGTH = 0x31,
};

enum { PUSHED = 1000000 };

static const uint64_t MOVE_EVERY = 300 * SV_NS_PER_MS;
static const uint64_t VARINT_MAX = (UINT64_C(1) << 62) - 1;

/* ---- frames ---- */

static struct {
    uint8_t bytes[FORGER_FRAMES];
    size_t len;
} packet;

static void put_byte(uint8_t byte)
{
    forger_require(packet.len < sizeof packet.bytes);
    packet.bytes[packet.len++] = byte;
}

static void put(uint64_t value)
{
    unsigned size = value < 64 ? 0 : value < 16384 ? 1 : value < 1 << 30 ? 2 : 3;

    for (int i = (1 << size) - 1; i >= 0; i--) {
        put_byte((uint8_t)(value >> 8 * i | (i == (1 << size) - 1 ? size << 6 : 0)));
    }
}

static void put_new_id(uint64_t number, uint64_t retire, uint8_t id)
{
    put(NEW_CONNECTION_ID);
    put(number);
    put(retire);
    put_byte(8);
    for (unsigned i = 0; i < 8; i++) {
        put_byte((uint8_t)(id + (i == 7 ? number >> 8 : 0)));
    }
    for (unsigned i = 0; i < 16; i++) {
        put_byte(id);
    }
}

static void put_ack(uint64_t largest, uint64_t first, uint64_t ranges)
{
    put(largest);
    put(0);
    put(ranges);
    put(first);
}

static void put_stream(bool fin, uint64_t offset, uint64_t len)
{
    put(STREAM_OFFSET_LENGTH + (fin ? STREAM_FIN : 0));
    put(0);
    put(offset);
    put(len);
    for (uint64_t i = 0; i < len; i++) {
        put_byte('x');
    }
}

static void send_packet(void)
{
    forger_send(packet.bytes, packet.len);
    packet.len = 0;
}

/* ---- what is to survive ---- */

static struct quic_end *victim; /* our end of the link with the forger */
static struct quic_end bystander;

#define FORGER_WAIT(condition)                                           \
    do {                                                                 \
        uint64_t until_ = sv_clock_now() + 20 * SV_NS_PER_S;             \
        while (!(condition) && sv_clock_now() < until_) {                \
            forger_turn();                                               \
        }                                                                \
        check_note((condition) ? 1 : 0, __FILE__, __LINE__, #condition); \
    } while (0)

static void dial_server(struct quic_end *end)
{
    char text[64];

    snprintf(text, sizeof text, "127.0.0.1:%u", sv_quic_server_port(quic.server));
    quic_dial_to(end, text, quic.hash);
    QUIC_WAIT(end->opened);
}

static void open_bystander(void)
{
    quic_open_loop();
    CHECK_EQ(quic_open_server_at("127.0.0.1:0"), 0);
    dial_server(&bystander);
    QUIC_WAIT(quic.accepted.opened);
}

/* The forger is a client of our server. */
static void attack_server(void)
{
    unsigned before;
    size_t received;

    open_bystander();
    before = quic.accepted_count;
    quic.accepted.closed = false;
    victim = &quic.accepted;
    forger_aim(&quic.loop, sv_quic_server_port(quic.server));
    forger_dial();
    FORGER_WAIT(forger_is_open() && quic.accepted_count > before);
    received = quic.accepted.received_len;
    put_stream(false, 0, 1); /* the stream is the client's to open */
    send_packet();
    FORGER_WAIT(quic.accepted.received_len == received + 1);
}

/* The forger is a server to our client. */
static void attack_client(void)
{
    char text[64];

    open_bystander();
    snprintf(text, sizeof text, "127.0.0.1:%u", forger_listen(&quic.loop, quic.cert, quic.key));
    quic_dial_to(&quic.dialed, text, quic.hash);
    victim = &quic.dialed;
    FORGER_WAIT(forger_is_open() && quic.dialed.opened);
    CHECK_EQ(quic_send(&quic.dialed, "begun", 5), 0); /* now the stream is there */
    FORGER_WAIT(forger.conn.stream == 0 || forger.conn.fin_received);
}

/* The bystander's link was not touched, and newcomers come in. */
static void others_live(void)
{
    size_t before = quic.accepted.received_len;
    struct quic_end newcomer = {0};

    CHECK(!bystander.closed);
    CHECK_EQ(quic_send(&bystander, "alive", 5), 0);
    QUIC_WAIT(quic.accepted.received_len >= before + 5);
    dial_server(&newcomer);
    newcomer.link->ops->close(newcomer.link, SV_CLOSE_SILENT);
    QUIC_WAIT(newcomer.closed);
    free(newcomer.received);
}

static void end_attack(void)
{
    others_live();
    forger_close();
    bystander.link->ops->close(bystander.link, SV_CLOSE_SILENT);
    QUIC_WAIT(bystander.closed);
    free(bystander.received);
    bystander.received = NULL;
    quic_close_all();
}

static void settle(void)
{
    for (unsigned i = 0; i < 20; i++) {
        forger_turn();
    }
}

static void expect_refused(void)
{
    FORGER_WAIT(victim->closed);
    CHECK_EQ(victim->error, SV_E_PROTOCOL);
    CHECK(strncmp(victim->why, "QUIC: ", 6) == 0);
}

/* ngtcp2 leaves numbers out, and who acknowledges one of those is refused; else the link lives. */
static void expect_either(void)
{
    settle();
    if (victim->closed) {
        expect_refused();
    }
}

/* All that was sent has been read, and the link is open still. */
static void expect_alive(void)
{
    uint8_t byte = 0;

    settle();
    CHECK(!victim->closed);
    if (victim->link) {
        int error = victim->link->ops->send_datagram(victim->link, &byte, 1);

        CHECK(!error || error == SV_E_AGAIN);
        victim->link->ops->flush(victim->link);
    }
    settle();
    CHECK(!victim->closed);
}

/* Every attack goes against both sides. */
#define BOTH(what)       \
    do {                 \
        attack_server(); \
        what();          \
        end_attack();    \
        attack_client(); \
        what();          \
        end_attack();    \
    } while (0)

/* ---- connection IDs: 1155 (the check for duplicates fails), 321 (a move while packets are out) ---- */

static void send_one_id_twice(void)
{
    put_new_id(20, 18, 7);
    put_new_id(21, 18, 7);
    send_packet();
    expect_refused();
}

static void send_one_number_twice(void)
{
    put_new_id(20, 18, 7);
    send_packet();
    settle();
    put_new_id(20, 18, 8);
    send_packet();
    expect_refused();
}

static void retire_all_again_and_again(void)
{
    for (uint64_t i = 100; i < 164; i++) {
        put_new_id(i, i, (uint8_t)i);
        send_packet();
        settle();
    }
    expect_refused();
    CHECK_STR(victim->why, "QUIC: ERR_CONNECTION_ID_LIMIT");
}

static void retire_far_ahead(void)
{
    put_new_id(50000, 50000, 9);
    send_packet();
    settle();
    for (uint64_t i = 1000; i < 1200 && !victim->closed; i++) {
        put_new_id(i, 0, (uint8_t)i);
        if (i % 10 == 9) {
            send_packet();
            forger_turn();
        }
    }
    expect_refused();
}

static void retire_what_was_not_given(void)
{
    put(RETIRE_CONNECTION_ID);
    put(VARINT_MAX);
    send_packet();
    expect_refused();
}

static void fix_1155_connection_ids_given_twice(void)
{
    BOTH(send_one_id_twice);
    BOTH(send_one_number_twice);
    BOTH(retire_all_again_and_again);
    BOTH(retire_far_ahead);
    BOTH(retire_what_was_not_given);
}

/* From another address with each packet, with fresh connection IDs and without. */
static void fix_1060_moves_with_every_packet(void)
{
    attack_server();
    for (uint64_t i = 100; i < 300; i++) {
        forger.from ^= 1;
        put_new_id(i, i % 3 ? 0 : i - 1, (uint8_t)i);
        put(PATH_CHALLENGE);
        put(VARINT_MAX);
        send_packet();
        forger_turn();
    }
    end_attack();
}

/* ---- acknowledgements: 1440 (conn_recv_ack asserts that an error is fatal), 770 (times of packets), 605 (ECN's state) ---- */

static void acknowledge_the_future(void)
{
    put(ACK);
    put_ack(1 << 29, 0, 0);
    send_packet();
    expect_refused();
}

static void acknowledge_below_zero(void)
{
    put(ACK);
    put_ack(1, 2, 0);
    send_packet();
    expect_refused();
}

static void acknowledge_everything_again_and_again(void)
{
    for (uint64_t i = 0; i < 200; i++) {
        put(ACK);
        put_ack(i / 4, i / 4, 0);
        put(PING);
        send_packet();
        forger_turn();
    }
    expect_either();
}

/* Every second packet is acknowledged, the others never: losses, then their late acknowledgement. */
static void acknowledge_every_second(void)
{
    for (uint64_t i = 8; i < 200; i++) {
        put(ACK);
        put_ack(i / 4 & ~1u, 0, i / 8 > 60 ? 60 : i / 8);
        for (uint64_t j = 0; j < (i / 8 > 60 ? 60 : i / 8); j++) {
            put(0);
            put(0);
        }
        put(PING);
        send_packet();
        forger_turn();
    }
    put(ACK);
    put_ack(40, 40, 0);
    send_packet();
    expect_either();
}

static void acknowledge_with_falling_counts(void)
{
    for (uint64_t i = 0; i < 50; i++) {
        put(ACK_ECN);
        put_ack(i / 8, i / 8, 0);
        put(i % 2 ? 0 : VARINT_MAX);
        put(i % 3 ? 0 : VARINT_MAX);
        put(50 - i);
        put(PING);
        send_packet();
        forger_turn();
    }
    expect_either();
}

static void fix_1440_acknowledgements_of_anything(void)
{
    BOTH(acknowledge_the_future);
    BOTH(acknowledge_below_zero);
    BOTH(acknowledge_everything_again_and_again);
    BOTH(acknowledge_every_second);
}

static void fix_605_counts_of_ecn_that_fall(void)
{
    BOTH(acknowledge_with_falling_counts);
}

/* ---- offsets: 1461 (ranges at the end of what there can be) ---- */

static void send_a_stream_past_all(void)
{
    put_stream(true, VARINT_MAX, 1);
    send_packet();
    expect_refused();
}

static void send_a_stream_to_the_last_offset(void)
{
    put_stream(true, VARINT_MAX, 0);
    send_packet();
    expect_refused();
}

static void send_handshake_bytes_past_all(void)
{
    put(CRYPTO);
    put(VARINT_MAX);
    put(1);
    put_byte(0);
    send_packet();
    expect_refused();
}

static void send_handshake_bytes_far_away(void)
{
    put(CRYPTO);
    put(VARINT_MAX - 1);
    put(1);
    put_byte(0);
    send_packet();
    expect_refused();
}

static void end_the_stream_before_its_end(void)
{
    put_stream(false, 5, 100);
    put(RESET_STREAM);
    put(0);
    put(0);
    put(50);
    send_packet();
    expect_refused();
}

static void fix_1461_offsets_at_the_end_of_all(void)
{
    BOTH(send_a_stream_past_all);
    BOTH(send_a_stream_to_the_last_offset);
    BOTH(send_handshake_bytes_past_all);
    BOTH(send_handshake_bytes_far_away);
    BOTH(end_the_stream_before_its_end);
}

/* ---- nothing, many times: 1548 (frames of no bytes that overlap), 1566 (a datagram of none) ---- */

static void send_pieces_of_nothing(void)
{
    for (uint64_t i = 0; i < 100; i++) {
        put_stream(false, i * 37 % 1000, 0);
        put_stream(false, 0, 0);
        put_stream(false, 60000, 0);
        put_stream(false, 500, i % 7);
        put(CRYPTO);
        put(i);
        put(0);
        send_packet();
        forger_turn();
    }
    expect_alive();
}

/* The end is sent three times, before what it ends. */
static void send_the_end_first(void)
{
    for (unsigned i = 0; i < 3; i++) {
        put_stream(true, 3000, 0);
        send_packet();
    }
    for (uint64_t offset = 3000; offset > 0; offset -= 500) {
        put_stream(false, offset - 500, 1);
        put_stream(false, offset - 500, 0);
        put_stream(offset == 3000, offset - 500, 500);
        send_packet();
    }
    FORGER_WAIT(victim->closed);
    CHECK_EQ(victim->error, 0);
    CHECK_STR(victim->why, "the other side closed the connection");
}

static bool loses_two_of_three(void)
{
    return random_below(3) != 0;
}

/* Our last stream frame has no bytes: it is sent again and again, beside frames that are. */
static void lose_the_last_frame(void)
{
    static const uint8_t bytes[30000];

    CHECK_EQ(quic_send(victim, bytes, sizeof bytes), 0);
    forger_turn();
    forger.loses = loses_two_of_three;
    victim->link->ops->close(victim->link, SV_CLOSE_GRACEFUL);
    FORGER_WAIT(victim->closed);
}

static void fix_1548_pieces_of_nothing(void)
{
    BOTH(send_pieces_of_nothing);
    BOTH(send_the_end_first);
    BOTH(lose_the_last_frame);
}

static void send_empty_datagrams(void)
{
    uint8_t none = 0;

    for (unsigned i = 0; i < 50; i++) {
        put(DATAGRAM_LENGTH);
        put(0);
        send_packet();
        forger_turn();
    }
    put(DATAGRAM_LENGTH);
    put(2);
    put_byte('o');
    put_byte('k');
    send_packet();
    FORGER_WAIT(victim->last_len == 2);
    CHECK_EQ(victim->datagrams, 51); /* the owner counts the empty ones */
    CHECK_EQ(victim->link->ops->send_datagram(victim->link, &none, 0), SV_E_INVALID);
    expect_alive();
}

static void fix_1566_datagrams_of_nothing(void)
{
    BOTH(send_empty_datagrams);
}

/* ---- a packet that is begun: 929, 934, 707, 606 (PPE_PENDING stays set when the stream is blocked) ---- */

static void open_the_window_by_bytes(void)
{
    static const uint8_t bytes[3000];

    for (size_t i = 1; i < 400 && victim->link; i++) {
        victim->link->ops->send_datagram(victim->link, bytes, 1 + i % 900);
        if (i % 40 == 1) {
            CHECK_EQ(quic_send(victim, bytes, sizeof bytes), 0);
        }
        victim->link->ops->send_datagram(victim->link, bytes, 1);
        if (i % 3) {
            sv_quic_settle(&forger.conn);
            ngtcp2_conn_extend_max_offset(forger.conn.quic, i % 4);
            ngtcp2_conn_extend_max_stream_offset(forger.conn.quic, forger.conn.stream, i % 5);
            sv_quic_conn_queue(&forger.conn);
        }
        put(PING);
        send_packet();
        forger_turn();
        victim->link->ops->send_datagram(victim->link, bytes, 900);
    }
    expect_alive();
}

static void fix_929_a_packet_begun_while_the_stream_is_blocked(void)
{
    forger.windowless = true;
    attack_server();
    open_the_window_by_bytes();
    end_attack();
    forger.windowless = true;
    attack_client();
    open_the_window_by_bytes();
    end_attack();
}

/* ---- a full packet: 961, 953 (assertions of NOBUF) ---- */

/* Gaps in the numbers, so that acknowledgements are long; challenges; beside data of the victim's own. */
static void ask_for_everything_at_once(void)
{
    static const uint8_t bytes[8000];

    for (uint64_t i = 0; i < 300; i++) {
        forger.holds = i % 2;
        for (unsigned j = 0; j < 6; j++) {
            put(PATH_CHALLENGE);
            put(VARINT_MAX - i * 8 - j);
        }
        put(MAX_STREAM_DATA);
        put(0);
        put(1 << 20);
        put(PING);
        send_packet();
        forger.holds = false;
        if (victim->link && !victim->link->blocked) {
            quic_send(victim, bytes, sizeof bytes);
            victim->link->ops->send_datagram(victim->link, bytes, victim->link->datagram_max);
            victim->link->ops->send_datagram(victim->link, bytes, i % victim->link->datagram_max + 1);
        }
        if (i % 4 == 3) {
            forger_turn();
        }
    }
    expect_alive();
}

static void fix_961_packets_with_no_room_left(void)
{
    BOTH(ask_for_everything_at_once);
}

/* ---- losses: 646, 647, 321 (BBR's sums when packets are lost, found again, or out when the path changes) ---- */

static bool loses_one_in_eight(void)
{
    return random_below(8) == 0;
}

static void push_over_a_bad_path(void)
{
    static const uint8_t bytes[40000];
    uint64_t began = sv_clock_now(), moves = 0;
    size_t pushed = 0;

    forger.loses = loses_one_in_eight;
    while (victim->link && pushed < PUSHED && sv_clock_now() < began + 60 * SV_NS_PER_S) {
        if (!victim->link->blocked) {
            pushed += sizeof bytes;
            quic_send(victim, bytes, sizeof bytes);
        }
        victim->link->ops->send_datagram(victim->link, bytes, 1000);
        victim->link->ops->flush(victim->link);
        if (!forger.server && (sv_clock_now() - began) / MOVE_EVERY > moves) {
            moves++;
            forger.from ^= 1;
        }
        forger_turn();
    }
    CHECK(pushed >= PUSHED);
    forger.loses = NULL;
    settle();
    CHECK(!victim->closed);
}

static void fix_647_losses_and_moves(void)
{
    BOTH(push_over_a_bad_path);
}

/* ---- the handshake: 1151, 1154 (a close when the handshake has just been confirmed), 1746, 901, 904, 911 (0-RTT) ---- */

static void fix_1154_a_close_at_the_handshakes_end(void)
{
    for (int how = SV_CLOSE_SILENT; how <= SV_CLOSE_GRACEFUL; how++) {
        open_bystander();
        quic.close_accepted = true;
        quic.close_how = how;
        quic.accepted.closed = false;
        forger_aim(&quic.loop, sv_quic_server_port(quic.server));
        forger_dial();
        FORGER_WAIT(quic.accepted.closed);
        quic.close_accepted = false;
        end_attack();
    }
}

/* The server goes while its connections are at each of the first turns of their handshakes. */
static void fix_1154_a_server_that_goes_meanwhile(void)
{
    for (unsigned turns = 0; turns < 8; turns++) {
        quic_open_loop();
        CHECK_EQ(quic_open_server_at("127.0.0.1:0"), 0);
        forger_aim(&quic.loop, sv_quic_server_port(quic.server));
        forger_dial();
        for (unsigned i = 0; i < turns; i++) {
            forger_turn();
        }
        sv_quic_server_close(quic.server);
        quic.server = NULL;
        settle();
        forger_close();
        quic_close_all();
    }
}

/* ---- 1193: a close for which a server has next to no bytes left, since its client has not proved its address ---- */

/* As long as it takes for the server's first words to come near to what it may say. */
static void take_certificate(size_t len)
{
    enum { NAME = 200 };
    static struct tls_certificate made;
    static char names[8192];
    size_t at = 0;

    for (size_t n; len; len -= n) {
        n = len < 2 * NAME ? len : NAME;
        at += (size_t)snprintf(names + at, sizeof names - at, "%sDNS:%0*zu", at ? "," : "", (int)n, len);
    }
    tls_certificate_make(&made, names);
    memcpy(quic.cert, made.cert, sizeof quic.cert);
    memcpy(quic.key, made.key, sizeof quic.key);
}

static size_t heard(void)
{
    uint8_t bytes[2048];
    size_t sum = 0;
    ssize_t n;

    while ((n = recv(forger.fds[0], bytes, sizeof bytes, MSG_DONTWAIT)) > 0) {
        sum += (size_t)n;
    }
    return sum;
}

/* The server's turns until it has nothing more to say. */
static size_t hear_all(void)
{
    size_t sum = 0, more;

    do {
        for (unsigned i = 0; i < 4; i++) {
            uv_run(&quic.loop.uv, UV_RUN_NOWAIT);
        }
        more = heard();
        sum += more;
    } while (more);
    return sum;
}

/* Bytes of the server's close; *left is what it might have said. */
static size_t hear_close(size_t *left)
{
    uint8_t first[SV_QUIC_PAYLOAD_MAX];
    ngtcp2_path_storage path;
    ngtcp2_ssize n;

    quic_open_loop();
    CHECK_EQ(quic_open_server_at("127.0.0.1:0"), 0);
    forger_aim(&quic.loop, sv_quic_server_port(quic.server));
    forger_dial();
    ngtcp2_path_storage_zero(&path);
    n = ngtcp2_conn_write_pkt(forger.conn.quic, &path.path, NULL, first, sizeof first,
                              sv_quic_side_now(&forger.side));
    forger_require(n > 0);
    forger_put(first, (size_t)n);
    QUIC_WAIT(sv_quic_server_counters(quic.server)->accepted == 1);
    *left = 3 * (size_t)n - hear_all();
    sv_quic_server_close(quic.server);
    quic.server = NULL;
    n = (ngtcp2_ssize)heard();
    forger_close();
    quic_close_all();
    return (size_t)n;
}

/* A close is up to three packets, and each of them may be the one that there is no room for. */
static void fix_1193_a_close_with_next_to_no_credit(void)
{
    enum { SHORTEST = 2000, LONGEST = 4000, NEAR = 160, FAR_STEP = 20, NEAR_STEP = 2 };
    size_t none = 0, cut = 0, whole = 0, most = 0, left = SIZE_MAX;

    for (size_t len = SHORTEST; left && len<LONGEST; len += left> NEAR ? FAR_STEP : NEAR_STEP) {
        size_t said;

        take_certificate(len);
        said = hear_close(&left);
        CHECK(said <= left);
        most = said > most ? said : most;
        none += !said;
        whole += said == most;
        cut += said && said < most;
    }
    CHECK(!left && none && cut && whole);
    quic.cert[0] = 0;
}

typedef void (*first_frames)(void);

static void first_far_away(void)
{
    put(CRYPTO);
    put(VARINT_MAX - 2);
    put(2);
    put(0);
    put(0);
}

static void first_of_nothing(void)
{
    for (unsigned i = 0; i < 100; i++) {
        put(CRYPTO);
        put(i % 10 * 100);
        put(0);
    }
}

static void first_in_crumbs(void)
{
    for (unsigned i = 100; i > 0; i--) {
        put(CRYPTO);
        put(3 * i);
        put(1);
        put_byte(1);
    }
}

static void first_acknowledges(void)
{
    put(ACK);
    put_ack(1000, 1000, 0);
}

static void first_is_a_ping(void)
{
    put(PING);
}

static void first_is_forbidden(void)
{
    put_stream(true, 0, 10);
    put(HANDSHAKE_DONE);
}

static void first_is_a_close(void)
{
    put(CONNECTION_CLOSE);
    put(0);
    put(0);
    put(0);
}

static void first_is_no_message(void)
{
    put(CRYPTO);
    put(0);
    put(200);
    for (unsigned i = 0; i < 200; i++) {
        put_byte((uint8_t)random_number());
    }
}

static void fix_1746_first_packets_of_anything(void)
{
    static const first_frames firsts[] = {first_far_away,     first_of_nothing,   first_in_crumbs,
                                          first_acknowledges, first_is_a_ping,    first_is_forbidden,
                                          first_is_a_close,   first_is_no_message};

    for (size_t i = 0; i < sizeof firsts / sizeof *firsts; i++) {
        open_bystander();
        forger_aim(&quic.loop, sv_quic_server_port(quic.server));
        forger_dial();
        firsts[i]();
        forger_send_instead(packet.bytes, packet.len);
        packet.len = 0;
        QUIC_WAIT(sv_quic_server_counters(quic.server)->accepted == 2);
        settle(); /* its own first packet, and what follows, comes behind */
        end_attack();
    }
}

/* 0-RTT packets before the first packet, behind it, and in a connection: we never agree to any. */
static void fix_904_early_data_that_nobody_agreed_to(void)
{
    uint8_t early[1200] = {0xD0, 0, 0, 0, 1, SV_QUIC_ID, 0xF0, 1, 0, 0, 0};

    attack_server();
    for (unsigned i = 0; i < 100; i++) {
        early[5 + SV_QUIC_ID + 1] = (uint8_t)i % 21;
        early[200] = 0x44;
        forger_put(early, 50 + i * 11);
        forger_turn();
    }
    expect_alive();
    end_attack();
}

/* Nobody answers: the first packet is sent again and again, and nothing else. */
static void fix_901_a_server_that_is_silent(void)
{
    uint8_t bytes[2048];
    unsigned heard = 0;
    char text[64];
    uint16_t port;
    ssize_t n;

    open_bystander();
    port = forger_listen(&quic.loop, quic.cert, quic.key);
    snprintf(text, sizeof text, "127.0.0.1:%u", port);
    quic.timeout = 4 * SV_NS_PER_S;
    quic_dial_to(&quic.dialed, text, quic.hash);
    QUIC_WAIT(quic.dialed.closed);
    while ((n = recv(forger.fds[0], bytes, sizeof bytes, MSG_DONTWAIT)) > 0) {
        CHECK_EQ(bytes[0] & 0xF0, 0xC0); /* Initial */
        heard++;
    }
    CHECK(heard > 1);
    CHECK_EQ(quic.dialed.error, SV_E_TIMEOUT);
    end_attack();
}

/* ---- 1070: Retry's keys are made once, whatever comes ---- */

static size_t write_retry(uint8_t *bytes, size_t size, const ngtcp2_pkt_hd *hd, uint8_t id)
{
    const uint8_t token[] = {1, 2, id};
    ngtcp2_cid scid;
    ngtcp2_ssize n;

    ngtcp2_cid_init(&scid, (const uint8_t[]){id, id, id, id, id, id, id, id}, 8);
    n = ngtcp2_crypto_write_retry(bytes, size, hd->version, &hd->scid, &scid, &hd->dcid, token, sizeof token);
    forger_require(n > 0);
    return (size_t)n;
}

static size_t hear_first(uint8_t *bytes, size_t size, ngtcp2_pkt_hd *hd)
{
    socklen_t len = sizeof forger.remote;
    ssize_t n = -1;

    QUIC_WAIT((n = recvfrom(forger.fds[0], bytes, size, MSG_DONTWAIT, (struct sockaddr *)&forger.remote,
                            &len)) > 0);
    forger_require(n > 0 && ngtcp2_accept(hd, bytes, (size_t)n) == 0);
    return (size_t)n;
}

static void fix_1070_two_retries_and_an_answer_about_versions(void)
{
    static const uint32_t versions[] = {0x1A2A3A4A};
    uint8_t first[2048], answer[2048];
    ngtcp2_pkt_hd hd;
    char text[64];
    size_t n;

    open_bystander();
    snprintf(text, sizeof text, "127.0.0.1:%u", forger_listen(&quic.loop, quic.cert, quic.key));
    quic.timeout = 2 * SV_NS_PER_S;
    quic_dial_to(&quic.dialed, text, quic.hash);
    hear_first(first, sizeof first, &hd);
    forger_require(connect(forger.fds[0], (struct sockaddr *)&forger.remote, sizeof forger.remote) == 0);
    n = write_retry(answer, sizeof answer, &hd, 5);
    forger_put(answer, n);
    forger_put(answer, n);
    n = write_retry(answer, sizeof answer, &hd, 6);
    forger_put(answer, n);
    hear_first(first, sizeof first, &hd);
    CHECK_EQ(hd.tokenlen, 3);
    CHECK_EQ(hd.token[2], 5);
    n = write_retry(answer, sizeof answer, &hd, 7);
    forger_put(answer, n);
    n = (size_t)ngtcp2_pkt_write_version_negotiation(answer, sizeof answer, 0, hd.scid.data, hd.scid.datalen,
                                                     hd.dcid.data, hd.dcid.datalen, versions, 1);
    forger_put(answer, n);
    QUIC_WAIT(quic.dialed.closed);
    CHECK(quic.dialed.error != 0 && !quic.dialed.opened);
    end_attack();
}

/* ---- 771, 779: time never goes back for ngtcp2 ---- */

static void fix_771_a_clock_that_stands_behind(void)
{
    uint64_t ahead = sv_clock_now() + 3600 * SV_NS_PER_S;
    struct sv_quic_side side = {.now = ahead};

    CHECK_EQ(sv_quic_side_now(&side), ahead);
    CHECK_EQ(side.now, ahead);
}

int main(void)
{
    RUN(fix_1155_connection_ids_given_twice);
    RUN(fix_1060_moves_with_every_packet);
    RUN(fix_1440_acknowledgements_of_anything);
    RUN(fix_605_counts_of_ecn_that_fall);
    RUN(fix_1461_offsets_at_the_end_of_all);
    RUN(fix_1548_pieces_of_nothing);
    RUN(fix_1566_datagrams_of_nothing);
    RUN(fix_929_a_packet_begun_while_the_stream_is_blocked);
    RUN(fix_961_packets_with_no_room_left);
    RUN(fix_647_losses_and_moves);
    RUN(fix_1154_a_close_at_the_handshakes_end);
    RUN(fix_1154_a_server_that_goes_meanwhile);
    RUN(fix_1193_a_close_with_next_to_no_credit);
    RUN(fix_1746_first_packets_of_anything);
    RUN(fix_904_early_data_that_nobody_agreed_to);
    RUN(fix_901_a_server_that_is_silent);
    RUN(fix_1070_two_retries_and_an_answer_about_versions);
    RUN(fix_771_a_clock_that_stands_behind);
    return CHECK_DONE("test_transport_quic_upstream");
}

#else

#include "tests/c/check.h"
#include "transport/quic.h"

int main(void)
{
    CHECK(!sv_quic_available());
    return CHECK_DONE("test_transport_quic_upstream, without QUIC");
}

#endif
