/* A QUIC link: frames both ways with back-pressure, datagrams, the two ends of a link, what the owner is told. */
#include <smartvpn/base.h>

#include "tests/c/quic_fixture.h"

static void a_link_opens_and_knows_its_peer(void)
{
    static const uint8_t loopback[16] = {[10] = 0xFF, [11] = 0xFF, [12] = 127, [15] = 1};

    quic_open_pair();
    CHECK_MEM(quic.accepted.remote, loopback, 16);
    CHECK_MEM(quic.dialed.remote, loopback, 16);
    CHECK_EQ(quic.dialed.link->remote_port, sv_quic_server_port(quic.server));
    CHECK_EQ(quic.dialed.link->kind, SV_TRANSPORT_QUIC);
    CHECK(quic.dialed.link->encrypted);
    CHECK(quic.dialed.link->datagram_max >= 1200 - 32);
    CHECK_EQ(quic.admit_asked, 1);
    quic_close_all();
}

static void small_frames_arrive_in_order_both_ways(void)
{
    quic_open_pair();
    for (unsigned i = 0; i < 100; i++) {
        uint8_t byte = (uint8_t)i;

        CHECK_EQ(quic_send(&quic.dialed, &byte, 1), 0);
    }
    QUIC_WAIT(quic.accepted.received_len == 100);
    for (unsigned i = 0; i < 100; i++) {
        CHECK_EQ(quic.accepted.received[i], i);
    }
    CHECK_EQ(quic_send(&quic.accepted, "answer", 6), 0);
    QUIC_WAIT(quic.dialed.received_len == 6);
    CHECK_MEM(quic.dialed.received, "answer", 6);
    quic_close_all();
}

/* One side sends more than any window, waiting when it is told to. */
static void push(struct quic_end *from, struct quic_end *to, size_t total)
{
    static uint8_t bytes[40000];
    size_t sent = 0, wrong = 0;
    unsigned waits = 0;

    while (sent < total) {
        size_t n = sizeof bytes < total - sent ? sizeof bytes : total - sent;

        for (size_t i = 0; i < n; i++) {
            bytes[i] = (uint8_t)((sent + i) * 31 >> 3);
        }
        CHECK_EQ(quic_send(from, bytes, n), 0);
        sent += n;
        if (from->link->blocked) {
            unsigned before = from->writable;

            waits++;
            QUIC_WAIT(from->writable > before);
            CHECK(!from->link->blocked);
        }
    }
    QUIC_WAIT(to->received_len == total);
    for (size_t i = 0; i < total; i++) {
        wrong += to->received[i] != (uint8_t)(i * 31 >> 3);
    }
    CHECK_EQ(wrong, 0);
    CHECK(waits > 0);
}

static void much_is_pushed_with_back_pressure(void)
{
    quic_open_pair();
    push(&quic.dialed, &quic.accepted, QUIC_RECEIVED_MAX);
    push(&quic.accepted, &quic.dialed, QUIC_RECEIVED_MAX);
    quic_close_all();
}

static void datagrams_arrive_whole(void)
{
    uint8_t bytes[2048];

    quic_open_pair();
    QUIC_WAIT(quic.dialed.link->datagram_max == 1472 - 32);
    QUIC_WAIT(quic.accepted.link->datagram_max == 1472 - 32);
    CHECK_EQ(quic.dialed.link->path_mtu, 1500);
    CHECK(quic.dialed.mtu_changes > 0);
    for (size_t len = 1; len <= quic.dialed.link->datagram_max; len += 97) {
        size_t before = quic.accepted.datagrams, back = quic.dialed.datagrams;

        memset(bytes, (int)len, len);
        CHECK_EQ(quic_send_datagram(&quic.dialed, bytes, len), 0);
        QUIC_WAIT(quic.accepted.datagrams == before + 1);
        CHECK_EQ(quic.accepted.last_len, len);
        CHECK_MEM(quic.accepted.last, bytes, len);
        CHECK_EQ(quic_send_datagram(&quic.accepted, bytes, len), 0);
        QUIC_WAIT(quic.dialed.datagrams == back + 1);
        CHECK_EQ(quic.dialed.last_len, len);
    }
    CHECK_EQ(quic_send_datagram(&quic.dialed, bytes, quic.dialed.link->datagram_max), 0);
    CHECK_EQ(quic_send_datagram(&quic.dialed, bytes, quic.dialed.link->datagram_max + 1u), SV_E_INVALID);
    CHECK_EQ(quic_send_datagram(&quic.dialed, bytes, 0), SV_E_INVALID);
    quic_close_all();
}

static void a_full_window_is_told_and_ends(void)
{
    uint8_t bytes[1200] = {1};
    size_t taken = 0;
    int error = 0;

    quic_open_pair();
    for (unsigned i = 0; i < 100000 && !error; i++) {
        error = quic.dialed.link->ops->send_datagram(quic.dialed.link, bytes, 1000);
        taken += !error;
    }
    CHECK_EQ(error, SV_E_AGAIN);
    CHECK(quic.dialed.link->datagrams_blocked);
    error = quic_send_datagram(&quic.dialed, bytes, 1000);
    CHECK_EQ(error, 0);
    QUIC_WAIT(quic.accepted.datagrams == taken + 1);
    quic_close_all();
}

static void small_datagrams_share_packets_with_frames(void)
{
    quic_open_pair();
    for (unsigned i = 0; i < 30; i++) {
        CHECK_EQ(quic.dialed.link->ops->send_datagram(quic.dialed.link, (const uint8_t *)"small", 5), 0);
    }
    CHECK_EQ(quic_send(&quic.dialed, "frame", 5), 0);
    QUIC_WAIT(quic.accepted.datagrams == 30 && quic.accepted.received_len == 5);
    quic_close_all();
}

static void a_silent_close_is_told_to_the_other(void)
{
    quic_open_pair();
    quic.accepted.link->ops->close(quic.accepted.link, SV_CLOSE_SILENT);
    CHECK(!quic.accepted.closed);
    QUIC_WAIT(quic.accepted.closed);
    CHECK_EQ(quic.accepted.error, 0);
    QUIC_WAIT(quic.dialed.closed);
    CHECK_EQ(quic.dialed.error, 0);
    CHECK_STR(quic.dialed.why, "the other side closed the connection");
    quic_close_all();
}

/* What was sent arrives before the end. */
static void a_graceful_close_brings_everything(void)
{
    static uint8_t bytes[100000];

    quic_open_pair();
    CHECK_EQ(quic_send(&quic.dialed, bytes, sizeof bytes), 0);
    quic.dialed.link->ops->close(quic.dialed.link, SV_CLOSE_GRACEFUL);
    CHECK_EQ(quic.dialed.link->ops->send(quic.dialed.link, bytes, 1), SV_E_CLOSED);
    CHECK_EQ(quic.dialed.link->ops->send_datagram(quic.dialed.link, bytes, 1), SV_E_CLOSED);
    QUIC_WAIT(quic.accepted.closed);
    CHECK_EQ(quic.accepted.received_len, sizeof bytes);
    CHECK_EQ(quic.accepted.error, 0);
    QUIC_WAIT(quic.dialed.closed);
    CHECK_EQ(quic.dialed.error, 0);
    quic_close_all();
}

static void a_sink_may_close_while_it_reads(void)
{
    for (unsigned how = 0; how < 2; how++) {
        quic_open_pair();
        quic.accepted.close_on_bytes = true;
        quic.accepted.close_how = how ? SV_CLOSE_GRACEFUL : SV_CLOSE_SILENT;
        CHECK_EQ(quic_send(&quic.dialed, "x", 1), 0);
        QUIC_WAIT(quic.accepted.closed);
        QUIC_WAIT(quic.dialed.closed);
        CHECK_EQ(quic.dialed.error, 0);
        quic_close_all();
    }
}

static void a_server_that_goes_tells_its_links(void)
{
    quic_open_pair();
    sv_quic_server_close(quic.server);
    quic.server = NULL;
    CHECK(quic.accepted.closed);
    QUIC_WAIT(quic.dialed.closed);
    CHECK_EQ(quic.dialed.error, 0);
    quic_close_all();
}

int main(void)
{
    RUN(a_link_opens_and_knows_its_peer);
    RUN(small_frames_arrive_in_order_both_ways);
    RUN(much_is_pushed_with_back_pressure);
    RUN(datagrams_arrive_whole);
    RUN(a_full_window_is_told_and_ends);
    RUN(small_datagrams_share_packets_with_frames);
    RUN(a_silent_close_is_told_to_the_other);
    RUN(a_graceful_close_brings_everything);
    RUN(a_sink_may_close_while_it_reads);
    RUN(a_server_that_goes_tells_its_links);
    return CHECK_DONE("test_transport_quic_link");
}
