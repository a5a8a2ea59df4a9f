/* A path that swallows large packets one way: when that is believed, by a clock of the test's own, and what a link does then. */
#include <smartvpn/base.h>

#include "tests/c/check.h"

#ifdef SV_HAVE_QUIC

#include "base/clock.h"
#include "tests/c/quic_fixture.h"
#include "tests/c/random.h"
#include "transport/quic_conn.h"

#define S SV_NS_PER_S

enum { SMALL = SV_QUIC_HOLE_SMALL, LARGE, LARGER = 1440, SMALL_PACKET = 1200, ROW = 3 };

static const uint64_t APART = S / 4;

static struct sv_quic_hole hole;
static uint64_t now;

static void begin(void)
{
    hole = (struct sv_quic_hole){0};
    now = 1000 * S;
}

/* `count` losses, each long after the one before. */
static bool lost(size_t len, unsigned count)
{
    bool verdict = false;

    for (unsigned i = 0; i < count; i++) {
        now += APART;
        verdict = sv_quic_hole_on_lost(&hole, now, len, S / 100);
    }
    return verdict;
}

static void acked(size_t len)
{
    sv_quic_hole_on_acked(&hole, now, len);
}

static void large_ones_that_are_lost_in_a_row(void)
{
    begin();
    CHECK(!lost(LARGE, ROW - 1));
    CHECK_EQ(sv_quic_hole_payload(&hole), SV_QUIC_PAYLOAD_MAX);
    CHECK(lost(LARGE, 1));
    CHECK_EQ(sv_quic_hole_payload(&hole), SMALL_PACKET);
    CHECK(!lost(LARGE, 10)); /* it is told once */
}

static void many_at_once_are_one_loss(void)
{
    begin();
    for (unsigned i = 0; i < 1000; i++) {
        CHECK(!sv_quic_hole_on_lost(&hole, now, LARGE, S));
        now += S / 500;
    }
    CHECK_EQ(hole.lost, 2);
    CHECK(sv_quic_hole_on_lost(&hole, now, LARGE, S));
}

static void a_row_takes_its_time(void)
{
    begin();
    for (unsigned i = 0; i < 50; i++) {
        CHECK(!sv_quic_hole_on_lost(&hole, now, LARGE, 0));
        now += S / 100;
    }
    CHECK(sv_quic_hole_on_lost(&hole, now, LARGE, 0));
}

static void one_that_arrives_disproves_it(void)
{
    begin();
    for (unsigned i = 0; i < 50; i++) {
        CHECK(!lost(LARGE, ROW - 1));
        acked(LARGE);
    }
    CHECK(!lost(LARGER, ROW - 1));
    acked(LARGE); /* the way takes that much, and no more */
    CHECK(!lost(LARGER, ROW + 1));
    CHECK(lost(LARGER, 1));
}

static void what_was_lost_before_one_that_arrived_tells_nothing(void)
{
    begin();
    now += APART;
    acked(LARGE);
    CHECK(!sv_quic_hole_on_lost(&hole, now, LARGE, 0));
    CHECK_EQ(hole.lost, 0);
}

static void small_ones_prove_nothing(void)
{
    begin();
    CHECK(!lost(SMALL, 50));
    CHECK(!lost(LARGE, ROW - 1));
    acked(SMALL);
    CHECK(lost(LARGE, 1));
}

/* One datagram after the other, so that nothing between them disproves a thing. */
static void much_loss_is_no_hole(void)
{
    unsigned verdicts = 0;

    begin();
    for (unsigned i = 0; i < 100000; i++) {
        now += APART;
        if (random_below(10) < 3) {
            verdicts += sv_quic_hole_on_lost(&hole, now, LARGE, 0);
        } else {
            acked(LARGE);
        }
    }
    CHECK(verdicts <= 2);
}

static void a_stream_that_is_not_acknowledged(void)
{
    begin();
    sv_quic_hole_on_stream(&hole, now);
    now += S - 1;
    CHECK(!sv_quic_hole_on_owed(&hole, now, LARGE, S / 100));
    now++;
    CHECK(!sv_quic_hole_on_owed(&hole, now, LARGE, S)); /* it was not sent again often enough */
    CHECK(!sv_quic_hole_on_owed(&hole, now, SMALL, S / 100));
    CHECK(sv_quic_hole_on_owed(&hole, now, LARGE, S / 100));
    CHECK(!sv_quic_hole_on_owed(&hole, now, LARGE, S / 100));
    CHECK_EQ(sv_quic_hole_payload(&hole), SMALL_PACKET);
    acked(LARGER);
    CHECK_EQ(sv_quic_hole_payload(&hole), SMALL_PACKET);
}

static void a_verdict_ends(void)
{
    begin();
    CHECK(lost(LARGE, ROW));
    acked(LARGE); /* late, but it arrived */
    CHECK_EQ(sv_quic_hole_payload(&hole), SV_QUIC_PAYLOAD_MAX);
    CHECK(lost(LARGER, 3 * ROW));
    now += 600 * S - 1;
    acked(LARGE);
    CHECK_EQ(sv_quic_hole_payload(&hole), SMALL_PACKET);
    now++;
    acked(SMALL);
    CHECK_EQ(sv_quic_hole_payload(&hole), SV_QUIC_PAYLOAD_MAX);
    CHECK(lost(LARGE, ROW));
    sv_quic_hole_forget(&hole, now);
    CHECK_EQ(sv_quic_hole_payload(&hole), SV_QUIC_PAYLOAD_MAX);
}

/* ---- links ---- */

/* A way from one end to the other that swallows packets. */
static struct way {
    struct sv_quic_side_ops ops;
    const struct sv_quic_side_ops *real;
    size_t most; /* bytes of a packet */
    unsigned percent;
} way;

static int way_send(struct sv_quic_side *side, const ngtcp2_path *path, const uint8_t *bytes, size_t len,
                    size_t segment)
{
    for (size_t n; len; bytes += n, len -= n) {
        n = len < segment ? len : segment;
        if (n <= way.most && random_below(100) >= way.percent) {
            way.real->send(side, path, bytes, n, n);
        }
    }
    return 0;
}

static struct sv_quic_conn *conn_of(const struct quic_end *end)
{
    return (struct sv_quic_conn *)(void *)end->link;
}

static void spoil_way(const struct quic_end *from, size_t most, unsigned percent)
{
    struct sv_quic_side *side = conn_of(from)->side;

    way = (struct way){.ops = *side->ops, .real = side->ops, .most = most, .percent = percent};
    way.ops.send = way_send;
    side->ops = &way.ops;
}

static void open_wide_pair(void)
{
    quic_open_pair();
    QUIC_WAIT(quic.dialed.link->datagram_max == LARGER);
    QUIC_WAIT(quic.accepted.link->datagram_max == LARGER);
}

/* A small datagram, and the largest that there may be, which may change while it waits for the window. */
static void send_both(struct quic_end *from)
{
    static const uint8_t bytes[LARGER];
    size_t most;
    int error;

    CHECK_EQ(quic_send_datagram(from, bytes, 100), 0);
    most = from->link->datagram_max;
    error = quic_send_datagram(from, bytes, most);
    CHECK(!error || (error == SV_E_INVALID && from->link->datagram_max < most));
}

/* Whether one arrives that is as large as the path takes, and larger than `least`. */
static bool large_ones_arrive(struct quic_end *from, struct quic_end *to, size_t least)
{
    for (unsigned i = 0; i < 1000; i++) {
        send_both(from);
        quic_turn(S / 50);
        if (to->last_len > least) {
            return true;
        }
    }
    return false;
}

static void a_hole_on_the_way_down(void)
{
    open_wide_pair();
    spoil_way(&quic.accepted, 1300, 0);
    quic.dialed.last_len = 0;
    CHECK(large_ones_arrive(&quic.accepted, &quic.dialed, 1000));
    CHECK_EQ(quic.accepted.link->datagram_max, SMALL);
    CHECK_EQ(quic.accepted.link->path_mtu, SMALL_PACKET + 28);
    CHECK_EQ(quic.dialed.link->path_mtu, 1500);
    quic_close_all();
}

static void a_hole_on_the_way_up(void)
{
    open_wide_pair();
    spoil_way(&quic.dialed, 1400, 0);
    quic.accepted.last_len = 0;
    CHECK(large_ones_arrive(&quic.dialed, &quic.accepted, 1000));
    QUIC_WAIT(quic.dialed.link->datagram_max == 1400 - SV_QUIC_OVERHEAD);
    CHECK(quic.accepted.paths_asked > 0);
    QUIC_WAIT(quic.accepted.link->datagram_max == LARGER);
    quic_close_all();
}

static void a_hole_that_stays_is_escaped_from_once(void)
{
    open_wide_pair();
    spoil_way(&quic.dialed, 1400, 0);
    quic.accepted.last_len = 0;
    CHECK(large_ones_arrive(&quic.dialed, &quic.accepted, 1000));
    QUIC_WAIT(quic.dialed.link->datagram_max == 1400 - SV_QUIC_OVERHEAD);
    way.most = 1300;
    quic.accepted.last_len = 0;
    CHECK(large_ones_arrive(&quic.dialed, &quic.accepted, 1000));
    CHECK_EQ(quic.dialed.link->datagram_max, SMALL);
    CHECK_EQ(quic.accepted.paths_asked, 1);
    quic_close_all();
}

/* Frames fill packets; of what is acknowledged meanwhile nothing is large. */
static void frames_cross_a_hole(struct quic_end *from, struct quic_end *to)
{
    static const uint8_t bytes[8000]; /* the window stays open */

    open_wide_pair();
    CHECK_EQ(quic_send(&quic.dialed, bytes, 1), 0); /* the server knows the stream by that */
    QUIC_WAIT(quic.accepted.received_len == 1);
    quic.accepted.received_len = 0;
    spoil_way(from, 1300, 0);
    CHECK_EQ(quic_send(from, bytes, sizeof bytes), 0);
    for (unsigned i = 0; i < 1000 && to->received_len < sizeof bytes; i++) {
        CHECK_EQ(quic_send_datagram(from, bytes, 100), 0);
        quic_turn(S / 50);
    }
    CHECK_EQ(to->received_len, sizeof bytes);
    CHECK(!from->closed);
    quic_close_all();
}

static void frames_cross_a_hole_up(void)
{
    frames_cross_a_hole(&quic.dialed, &quic.accepted);
}

static void frames_cross_a_hole_down(void)
{
    frames_cross_a_hole(&quic.accepted, &quic.dialed);
}

/* Enough at once for one of them to arrive, however seldom a busy machine comes to it. */
static void send_many(struct quic_end *from)
{
    for (unsigned i = 0; i < 8; i++) {
        send_both(from);
        CHECK_EQ(from->link->datagram_max, LARGER);
    }
    quic_turn(S / 50);
}

static void a_link_that_loses_much_keeps_its_size(void)
{
    static const uint8_t bytes[20000];

    open_wide_pair();
    CHECK_EQ(quic_send(&quic.dialed, bytes, 1), 0);
    QUIC_WAIT(quic.accepted.received_len == 1);
    spoil_way(&quic.accepted, LARGER + SV_QUIC_OVERHEAD, 30);
    for (unsigned i = 0; i < 50; i++) {
        send_many(&quic.accepted);
    }
    way.percent = 10;
    for (unsigned i = 0; i < 50; i++) {
        CHECK_EQ(quic_send(&quic.accepted, bytes, sizeof bytes), 0);
        send_many(&quic.accepted);
    }
    QUIC_WAIT(quic.dialed.received_len == 50 * sizeof bytes);
    quic_close_all();
}

/* Sealed before the verdict, and sent between it and the turn in which the owner is told: it is refused, and the link lives. */
static void one_that_has_become_too_long_is_refused(void)
{
    static const uint8_t bytes[LARGER];
    struct sv_quic_conn *conn;
    size_t before;

    open_wide_pair();
    conn = conn_of(&quic.accepted);
    conn->hole = (struct sv_quic_hole){.until = SV_NEVER, .least = LARGER};
    CHECK_EQ(conn->link.ops->send_datagram(&conn->link, bytes, LARGER), SV_E_AGAIN);
    CHECK(conn->link.datagrams_blocked);
    sv_quic_conn_queue(conn);
    before = quic.accepted.writable;
    CHECK_EQ(quic_send_datagram(&quic.dialed, bytes, 1), 0);
    QUIC_WAIT(quic.accepted.writable > before);
    CHECK_EQ(conn->link.ops->send_datagram(&conn->link, bytes, LARGER), SV_E_INVALID);
    before = quic.dialed.datagrams;
    CHECK_EQ(quic_send_datagram(&quic.accepted, bytes, conn->link.datagram_max), 0);
    QUIC_WAIT(quic.dialed.datagrams == before + 1);
    CHECK_EQ(quic.dialed.last_len, SMALL);
    quic_close_all();
}

int main(void)
{
    RUN(large_ones_that_are_lost_in_a_row);
    RUN(many_at_once_are_one_loss);
    RUN(a_row_takes_its_time);
    RUN(one_that_arrives_disproves_it);
    RUN(what_was_lost_before_one_that_arrived_tells_nothing);
    RUN(small_ones_prove_nothing);
    RUN(much_loss_is_no_hole);
    RUN(a_stream_that_is_not_acknowledged);
    RUN(a_verdict_ends);
    RUN(a_hole_on_the_way_down);
    RUN(a_hole_on_the_way_up);
    RUN(a_hole_that_stays_is_escaped_from_once);
    RUN(frames_cross_a_hole_up);
    RUN(frames_cross_a_hole_down);
    RUN(a_link_that_loses_much_keeps_its_size);
    RUN(one_that_has_become_too_long_is_refused);
    return CHECK_DONE("test_transport_quic_hole");
}

#else

#include "transport/quic.h"

int main(void)
{
    CHECK(!sv_quic_available());
    return CHECK_DONE("test_transport_quic_hole, without QUIC");
}

#endif
