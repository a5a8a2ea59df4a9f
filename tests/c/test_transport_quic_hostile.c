/* What a QUIC server refuses and what it survives: pins, strangers, garbage, floods of handshakes. */
#include <arpa/inet.h>
#include <smartvpn/base.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/c/quic_fixture.h"
#include "tests/c/random.h"

enum { INITIALS = 3000, GARBAGE = 20000, DATAGRAM = 2048 };

static void a_wrong_pin_is_refused_in_words(void)
{
    uint8_t wrong[32];

    quic_open_loop();
    CHECK_EQ(quic_open_server_at("127.0.0.1:0"), 0);
    memcpy(wrong, quic.hash, sizeof wrong);
    wrong[31] ^= 1;
    quic_dial(wrong);
    QUIC_WAIT(quic.dialed.closed);
    CHECK_EQ(quic.dialed.error, SV_E_AUTH);
    CHECK_STR(quic.dialed.why, "the server's certificate does not match serverCertHash");
    CHECK(!quic.dialed.opened);
    CHECK(!quic.accepted.opened);
    QUIC_WAIT(sv_quic_server_counters(quic.server)->failed == 1);
    quic_close_all();
}

static void without_a_pin_any_certificate_will_do(void)
{
    quic_open_loop();
    CHECK_EQ(quic_open_server_at("127.0.0.1:0"), 0);
    quic_dial(NULL);
    QUIC_WAIT(quic.dialed.opened);
    quic_close_all();
}

static void a_bad_certificate_or_address_is_named(void)
{
    struct sv_quic_client_config config = {.address = "nowhere", .sink = &quic_dial_sink};
    static const char *const addresses[] = {"nowhere",    "",        ":443",    "host:",   "host:0",
                                            "host:65536", "host:4x", "::1:443", "a:b:443", "hub.example:443"};
    char cert[SV_QUIC_PEM_MAX], key[SV_QUIC_PEM_MAX], other[SV_QUIC_PEM_MAX];

    quic_open_loop();
    memcpy(cert, quic.cert, sizeof cert);
    quic.cert[40] ^= 1;
    CHECK_EQ(quic_open_server_at("127.0.0.1:0"), SV_E_INVALID);
    CHECK(strncmp(sv_error_detail(), "tlsCert: ", 9) == 0);
    memcpy(quic.cert, cert, sizeof cert);
    CHECK_EQ(sv_quic_make_certificate(cert, key), 0);
    memcpy(other, quic.key, sizeof other);
    memcpy(quic.key, key, sizeof key);
    CHECK_EQ(quic_open_server_at("127.0.0.1:0"), SV_E_INVALID);
    CHECK(strncmp(sv_error_detail(), "tlsKey: ", 8) == 0);
    quic.key[0] = '\0';
    CHECK_EQ(quic_open_server_at("127.0.0.1:0"), SV_E_INVALID);
    CHECK(strncmp(sv_error_detail(), "tlsKey: ", 8) == 0);
    memcpy(quic.key, other, sizeof other);
    CHECK_EQ(quic_open_server_at("example:x"), SV_E_INVALID);
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
        config.address = addresses[i];
        CHECK_EQ(sv_quic_client_connect(&quic.dialed.link, &quic.loop, &config), SV_E_INVALID);
    }
    quic.dialed.link = NULL;
    CHECK_EQ(quic_open_server_at("127.0.0.1:0"), 0);
    quic_close_all();
}

static void who_is_not_admitted_is_told(void)
{
    quic_open_loop();
    CHECK_EQ(quic_open_server_at("127.0.0.1:0"), 0);
    quic.admit_all = false;
    quic_dial(quic.hash);
    QUIC_WAIT(quic.dialed.closed);
    CHECK_EQ(quic.dialed.error, SV_E_REFUSED);
    CHECK_STR(quic.dialed.why, "the other side refused the connection");
    CHECK_EQ(sv_quic_server_counters(quic.server)->refused, 1);
    quic_close_all();
}

static void a_server_that_stops_accepting_keeps_its_links(void)
{
    struct quic_end second = {0};
    char text[64];

    quic_open_pair();
    sv_quic_server_stop_accepting(quic.server);
    snprintf(text, sizeof text, "127.0.0.1:%u", sv_quic_server_port(quic.server));
    quic_dial_to(&second, text, quic.hash);
    QUIC_WAIT(second.closed);
    CHECK_EQ(second.error, SV_E_REFUSED);
    free(second.received);
    CHECK_EQ(quic_send(&quic.dialed, "still", 5), 0);
    QUIC_WAIT(quic.accepted.received_len == 5);
    quic_close_all();
}

static void nobody_there_is_a_timeout(void)
{
    quic_open_loop();
    quic.timeout = SV_NS_PER_S / 2;
    quic_dial_to(&quic.dialed, "127.0.0.1:1", quic.hash);
    QUIC_WAIT(quic.dialed.closed);
    CHECK_EQ(quic.dialed.error, SV_E_TIMEOUT);
    CHECK_STR(quic.dialed.why, "no connection in time");
    quic_close_all();
}

/* ---- strangers' datagrams ---- */

static int stranger(uint16_t port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);

    addr.sin_port = htons(port);
    CHECK_EQ(port ? connect(fd, (struct sockaddr *)&addr, sizeof addr)
                  : bind(fd, (struct sockaddr *)&addr, sizeof addr),
             0);
    return fd;
}

/* First datagrams of clients, as they came to a socket that never answers. */
static struct {
    uint8_t bytes[DATAGRAM];
    size_t len;
} initials[INITIALS];

static void collect_initials(void)
{
    struct sockaddr_in addr;
    socklen_t len = sizeof addr;
    int fd = stranger(0);
    char text[64];

    CHECK_EQ(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    snprintf(text, sizeof text, "127.0.0.1:%u", ntohs(addr.sin_port));
    for (size_t i = 0; i < INITIALS; i++) {
        ssize_t n = -1;

        quic_dial_to(&quic.dialed, text, NULL);
        QUIC_WAIT((n = recv(fd, initials[i].bytes, DATAGRAM, 0)) > 0);
        initials[i].len = n > 0 ? (size_t)n : 0;
        quic.dialed.link->ops->close(quic.dialed.link, SV_CLOSE_SILENT);
        QUIC_WAIT(quic.dialed.closed);
        while (recv(fd, text + sizeof text, 0, 0) >= 0) {
        }
    }
    close(fd);
}

/* Thousands of handshakes that nobody goes on with: from some number on newcomers must prove their address, which honest ones do; the dead are gone after 5 s. */
static void half_open_handshakes_do_not_keep_others_out(void)
{
    int fd;

    quic_open_loop();
    collect_initials();
    CHECK_EQ(quic_open_server_at("127.0.0.1:0"), 0);
    fd = stranger(sv_quic_server_port(quic.server));
    for (size_t i = 0; i < INITIALS; i++) {
        CHECK_EQ(send(fd, initials[i].bytes, initials[i].len, 0), initials[i].len);
        QUIC_WAIT(sv_quic_server_counters(quic.server)->accepted +
                      sv_quic_server_counters(quic.server)->retries ==
                  i + 1);
    }
    QUIC_WAIT(sv_quic_server_counters(quic.server)->accepted +
                  sv_quic_server_counters(quic.server)->retries ==
              INITIALS);
    CHECK_EQ(sv_quic_server_counters(quic.server)->accepted, 128);
    quic_dial(quic.hash);
    QUIC_WAIT(quic.dialed.opened);
    CHECK(sv_quic_server_counters(quic.server)->retries > INITIALS - 128);
    quic.dialed.link->ops->close(quic.dialed.link, SV_CLOSE_SILENT);
    QUIC_WAIT(quic.dialed.closed);
    QUIC_WAIT(sv_quic_server_counters(quic.server)->failed == 128);
    close(fd);
    {
        uint64_t retries = sv_quic_server_counters(quic.server)->retries;

        quic_dial(quic.hash);
        QUIC_WAIT(quic.dialed.opened);
        CHECK_EQ(sv_quic_server_counters(quic.server)->retries, retries);
    }
    quic_close_all();
}

static size_t mangle(uint8_t *bytes)
{
    size_t which = random_below(INITIALS), len = initials[which].len;

    switch (random_below(6)) {
    case 0: /* noise of any length, none included */
        len = random_below(1500);
        random_bytes(bytes, len);
        return len;
    case 1: /* noise that begins as a long packet of version 1 does */
        len = 7 + random_below(1400);
        random_bytes(bytes, len);
        bytes[0] = (uint8_t)(0xC0 | (bytes[0] & 0x3F));
        memcpy(bytes + 1, (const uint8_t[]){0, 0, 0, 1}, 4);
        return len;
    case 2: /* another version */
        memcpy(bytes, initials[which].bytes, len);
        random_bytes(bytes + 1, 4);
        return len;
    case 3: /* cut */
        memcpy(bytes, initials[which].bytes, len);
        return 1 + random_below((unsigned)len - 1);
    case 4: /* a short packet of nobody's connection */
        len = 1 + random_below(200);
        random_bytes(bytes, len);
        bytes[0] = (uint8_t)(0x40 | (bytes[0] & 0x3F));
        return len;
    default: /* flipped bits */
        memcpy(bytes, initials[which].bytes, len);
        for (unsigned i = 0; i < 3; i++) {
            bytes[random_below((unsigned)len)] ^= (uint8_t)(1 << random_below(8));
        }
        return len;
    }
}

static void an_answer_about_versions_is_not_answered(void)
{
    uint8_t bytes[1300] = {0xC0, 0, 0, 0, 0, 8, [14] = 8};
    int fd;

    quic_open_pair();
    fd = stranger(sv_quic_server_port(quic.server));
    CHECK_EQ(send(fd, bytes, sizeof bytes, 0), sizeof bytes);
    QUIC_WAIT(sv_quic_server_counters(quic.server)->versions == 1);
    CHECK(recv(fd, bytes, sizeof bytes, 0) < 0);
    bytes[1] = 0x1A;
    CHECK_EQ(send(fd, bytes, sizeof bytes, 0), sizeof bytes);
    QUIC_WAIT(sv_quic_server_counters(quic.server)->versions == 2);
    CHECK(recv(fd, bytes, sizeof bytes, 0) > 0);
    CHECK_EQ(sv_quic_server_counters(quic.server)->garbage, 0);
    close(fd);
    quic_close_all();
}

static void datagrams_of_no_bytes_are_garbage(void)
{
    int fd;

    quic_open_pair();
    fd = stranger(sv_quic_server_port(quic.server));
    for (unsigned i = 1; i <= 1000; i++) {
        CHECK_EQ(send(fd, "", 0, 0), 0);
        QUIC_WAIT(i % 100 || sv_quic_server_counters(quic.server)->garbage == i);
    }
    CHECK_EQ(quic_send(&quic.dialed, "alive", 5), 0);
    QUIC_WAIT(quic.accepted.received_len == 5);
    close(fd);
    quic_close_all();
}

/* A server that speaks other versions alone, by its answer to the first packet. */
static void a_server_of_another_version_is_named(void)
{
    uint8_t first[DATAGRAM], reply[64] = {0xC0};
    struct sockaddr_in addr;
    socklen_t len = sizeof addr;
    int fd = stranger(0);
    char text[64];
    ssize_t n = -1;

    quic_open_loop();
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    snprintf(text, sizeof text, "127.0.0.1:%u", ntohs(addr.sin_port));
    quic_dial_to(&quic.dialed, text, NULL);
    QUIC_WAIT((n = recvfrom(fd, first, sizeof first, 0, (struct sockaddr *)&addr, &len)) > 0);
    memcpy(reply + 5, first + 14, 9); /* the IDs, swapped: each is 8 bytes long */
    memcpy(reply + 14, first + 5, 9);
    memcpy(reply + 23, (const uint8_t[]){0x1A, 0x2A, 0x3A, 0x4A}, 4);
    CHECK_EQ(sendto(fd, reply, 27, 0, (struct sockaddr *)&addr, len), 27);
    QUIC_WAIT(quic.dialed.closed);
    CHECK_EQ(quic.dialed.error, SV_E_UNSUPPORTED);
    CHECK_STR(quic.dialed.why, "the server does not speak QUIC version 1");
    close(fd);
    quic_close_all();
}

static void garbage_harms_nobody(void)
{
    static uint8_t bytes[DATAGRAM];
    const struct sv_quic_counters *counters;
    uint8_t answer[DATAGRAM];
    size_t sent = 0, back = 0;
    ssize_t n;
    int fd;

    quic_open_pair();
    counters = sv_quic_server_counters(quic.server);
    fd = stranger(sv_quic_server_port(quic.server));
    for (size_t i = 0; i < GARBAGE; i++) {
        size_t len = mangle(bytes);

        sent += send(fd, bytes, len, 0) == (ssize_t)len ? len : 0;
        if (i % 50 == 0) {
            uv_run(&quic.loop.uv, UV_RUN_NOWAIT);
            while ((n = recv(fd, answer, sizeof answer, 0)) >= 0) {
                back += (size_t)n;
            }
        }
    }
    CHECK_EQ(quic_send(&quic.dialed, "alive", 5), 0);
    QUIC_WAIT(quic.accepted.received_len == 5);
    CHECK(!quic.dialed.closed);
    CHECK(counters->garbage > 0 && counters->versions > 0 && counters->unknown > 0);
    CHECK(back < 3 * sent);
    close(fd);
    quic_close_all();
}

int main(void)
{
    RUN(a_wrong_pin_is_refused_in_words);
    RUN(without_a_pin_any_certificate_will_do);
    RUN(a_bad_certificate_or_address_is_named);
    RUN(who_is_not_admitted_is_told);
    RUN(a_server_that_stops_accepting_keeps_its_links);
    RUN(nobody_there_is_a_timeout);
    RUN(half_open_handshakes_do_not_keep_others_out);
    RUN(an_answer_about_versions_is_not_answered);
    RUN(datagrams_of_no_bytes_are_garbage);
    RUN(a_server_of_another_version_is_named);
    RUN(garbage_harms_nobody);
    return CHECK_DONE("test_transport_quic_hostile");
}
