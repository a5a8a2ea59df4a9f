/* A super-packet's segments are those of a splitter that writes field by field, whatever its headers and
 * sizes. */
#include "tests/c/check.h"
#include "tests/c/packet_make.h"

#include <smartvpn/base.h>

#include "packet/gso.h"

static uint8_t packet[PACKET_ROOM], got[PACKET_ROOM], want[PACKET_ROOM], pristine[PACKET_ROOM];
static struct sv_ip ip;

static uint8_t kind_of(const struct make *m)
{
    return m->proto == IPPROTO_UDP ? SV_SUPER_UDP : m->version == 4 ? SV_SUPER_TCP4 : SV_SUPER_TCP6;
}

static int init(struct sv_gso *it, size_t len, uint8_t kind, size_t segment_size)
{
    CHECK_EQ(sv_ip_parse(&ip, packet, len), 0);
    return sv_gso_init(it, packet, len, &ip, kind, (uint16_t)segment_size);
}

static void check_split(const struct make *m, size_t segment_size)
{
    struct sv_gso it;
    size_t len = make_packet(packet, m), count = naive_count(packet, len, segment_size), n;

    CHECK_EQ(init(&it, len, kind_of(m), segment_size), 0);
    CHECK_EQ(sv_gso_count(&it), count);
    CHECK_EQ(sv_gso_segments(len, &ip, kind_of(m), (uint16_t)segment_size), count);
    for (size_t i = 0; i < count; i++) {
        size_t expected = naive_segment(want, packet, len, segment_size, i);

        n = sv_gso_next(&it, got);
        CHECK_EQ(n, expected);
        CHECK_MEM(got, want, n);
        CHECK(naive_valid(got, n));
        CHECK(i > 0 || n == sv_gso_unit(packet, &ip, kind_of(m), (uint16_t)segment_size));
    }
    CHECK_EQ(sv_gso_next(&it, got), 0);
    CHECK_EQ(sv_gso_next(&it, got), 0);
}

static struct make random_super(void)
{
    struct make m = make_default(make_below(2) ? 4 : 6, make_below(2) ? IPPROTO_TCP : IPPROTO_UDP, 0);

    m.tos = (uint8_t)make_random();
    m.df = make_below(2);
    m.id = (uint16_t)make_random();
    m.flags = (uint8_t)(ACK | (make_random() & (FIN | PSH | ECE | CWR)));
    m.tcp_reserved = (uint8_t)make_below(16);
    m.seq = make_random();
    m.ack = make_random();
    m.window = (uint16_t)make_random();
    m.ip_options = make_below(4) ? 0 : m.version == 4 ? 4 * make_below(11) : 8 * make_below(10);
    m.tcp_options = 4 * make_below(11);
    m.option_fill = (uint8_t)make_random();
    return m;
}

static void any_super_packet(void)
{
    for (int round = 0; round < 1500; round++) {
        struct make m = random_super();

        m.payload = 1 + make_below(round % 10 ? 8000 : 65000);
        check_split(&m, 1 + make_below(1500) + m.payload / 200);
    }
}

/* Around every border of payload and segment size. */
static void every_small_size(void)
{
    for (int v = 0; v < 4; v++) {
        struct make m = make_default(v & 1 ? 4 : 6, v & 2 ? IPPROTO_TCP : IPPROTO_UDP, 0);

        for (m.payload = 1; m.payload < 40; m.payload++) {
            for (size_t segment = 1; segment <= m.payload + 1; segment++) {
                check_split(&m, segment);
            }
        }
    }
}

static void the_longest(void)
{
    for (int v = 0; v < 4; v++) {
        struct make m = make_default(v & 1 ? 4 : 6, v & 2 ? IPPROTO_TCP : IPPROTO_UDP, 0);

        m.payload = 65535 - make_l4_header(&m) - (m.version == 4 ? 20 : 0);
        check_split(&m, 1368);
        check_split(&m, 65535);
        check_split(&m, 257);
    }
}

static void numbers_wrap(void)
{
    struct make m = make_default(4, IPPROTO_TCP, 5000);

    m.seq = UINT32_C(0xFFFFFF00);
    m.id = 0xFFFE;
    check_split(&m, 1000);
}

static uint8_t flags_at(size_t i)
{
    struct sv_gso it;
    const uint8_t *payload;
    size_t len = make_packet(packet, &(struct make){.version = 4,
                                                    .proto = IPPROTO_TCP,
                                                    .flags = ACK | FIN | PSH | CWR | ECE,
                                                    .payload = 3000});

    CHECK_EQ(init(&it, len, SV_SUPER_TCP4, 1000), 0);
    CHECK_EQ(sv_gso_header(&it, i, got, &payload), 1000);
    return got[33];
}

static void flags_are_said_where_they_belong(void)
{
    CHECK_EQ(flags_at(0), ACK | ECE | CWR);
    CHECK_EQ(flags_at(1), ACK | ECE);
    CHECK_EQ(flags_at(2), ACK | ECE | FIN | PSH);
}

/* UDP data whose sum comes to 0: the field must not say "no checksum". */
static void a_udp_sum_of_zero(void)
{
    struct make m = make_default(4, IPPROTO_UDP, 512);
    size_t len = make_packet(packet, &m);
    struct sv_gso it;

    memset(packet + 28, 0, 512);
    naive_segment(want, packet, len, 256, 0);
    put16(packet + 28, get16(want + 26));
    CHECK_EQ(init(&it, len, SV_SUPER_UDP, 256), 0);
    CHECK_EQ(sv_gso_next(&it, got), 284);
    CHECK_EQ(get16(got + 26), 0xFFFF);
    CHECK(naive_valid(got, 284));
}

/* The checksums in the super-packet, partial as the kernel leaves them or wrong, do not matter. */
static void old_sums_do_not_matter(void)
{
    struct make m = make_default(4, IPPROTO_TCP, 3000);
    size_t len = make_packet(packet, &m);
    struct sv_gso it;

    naive_segment(want, packet, len, 1000, 1);
    put16(packet + 10, 0xABCD);
    put16(packet + 36, 0x1234);
    CHECK_EQ(init(&it, len, SV_SUPER_TCP4, 1000), 0);
    sv_gso_next(&it, got);
    CHECK_EQ(sv_gso_next(&it, got), 1040);
    CHECK_MEM(got, want, 1040);
}

/* Each header is written in front of its payload, over the tail of what was sent before it. */
static void in_place(void)
{
    for (int round = 0; round < 500; round++) {
        struct make m = random_super();
        size_t segment = 1 + make_below(1500), len, count;
        const uint8_t *payload;
        struct sv_gso it;

        m.payload = 1 + make_below(8000);
        len = make_packet(packet, &m);
        memcpy(pristine, packet, len);
        CHECK_EQ(init(&it, len, kind_of(&m), segment), 0);
        count = sv_gso_count(&it);
        for (size_t i = 0; i < count; i++) {
            size_t headers = naive_headers(pristine),
                   expected = naive_segment(want, pristine, len, segment, i);
            uint8_t *at = packet + i * segment;

            CHECK_EQ(sv_gso_header(&it, i, at, &payload) + headers, expected);
            CHECK(payload == at + headers);
            CHECK_MEM(at, want, expected);
        }
        CHECK_EQ(sv_gso_header(&it, count, got, &payload), 0);
    }
}

static void in_any_order(void)
{
    struct make m = make_default(6, IPPROTO_TCP, 4500);
    size_t len = make_packet(packet, &m);
    const uint8_t *payload;
    struct sv_gso it;

    CHECK_EQ(init(&it, len, SV_SUPER_TCP6, 1000), 0);
    for (size_t i = sv_gso_count(&it); i-- > 0;) {
        naive_segment(want, packet, len, 1000, i);
        CHECK_EQ(sv_gso_header(&it, i, got, &payload), i == 4 ? 500 : 1000);
        CHECK_MEM(got, want, 60);
        CHECK(payload == packet + 60 + 1000 * i);
    }
}

static void what_is_refused(void)
{
    struct make m = make_default(4, IPPROTO_TCP, 3000);
    size_t len = make_packet(packet, &m);
    struct sv_gso it;

    CHECK_EQ(init(&it, len, SV_SUPER_TCP4, 0), SV_E_MALFORMED);
    CHECK_EQ(init(&it, len, SV_SUPER_NONE, 1000), SV_E_MALFORMED);
    CHECK_EQ(sv_gso_init(&it, packet, len - 1, &ip, SV_SUPER_TCP4, 1000), SV_E_MALFORMED);
    put16(packet + 6, 0x2000);
    CHECK_EQ(init(&it, len, SV_SUPER_TCP4, 1000), SV_E_MALFORMED);
    m.payload = 0;
    CHECK_EQ(init(&it, make_packet(packet, &m), SV_SUPER_TCP4, 1000), SV_E_MALFORMED);
    m = make_default(4, IPPROTO_ICMP, 3000);
    CHECK_EQ(init(&it, make_packet(packet, &m), SV_SUPER_TCP4, 1000), SV_E_MALFORMED);
    m = make_default(6, IPPROTO_TCP, 3000);
    m.ip_options = 200;
    CHECK_EQ(init(&it, make_packet(packet, &m), SV_SUPER_TCP6, 1000), SV_E_MALFORMED);
    m.ip_options = 192;
    CHECK_EQ(init(&it, make_packet(packet, &m), SV_SUPER_TCP6, 1000), 0);
}

static void ordinary_packets_are_one_segment(void)
{
    struct make m = make_default(4, IPPROTO_TCP, 3000);
    size_t len = make_packet(packet, &m);

    CHECK_EQ(sv_ip_parse(&ip, packet, len), 0);
    CHECK_EQ(sv_gso_segments(len, &ip, SV_SUPER_NONE, 0), 1);
    CHECK_EQ(sv_gso_segments(len, &ip, SV_SUPER_TCP4, 0), 1);
    CHECK_EQ(sv_gso_unit(packet, &ip, SV_SUPER_NONE, 0), len);
    CHECK_EQ(sv_gso_unit(packet, &ip, SV_SUPER_TCP4, 2999), len - 1);
    CHECK_EQ(sv_gso_unit(packet, &ip, SV_SUPER_TCP4, 3000), len);
    CHECK_EQ(sv_gso_unit(packet, &ip, SV_SUPER_TCP4, 65535), len);
}

int main(void)
{
    RUN(any_super_packet);
    RUN(every_small_size);
    RUN(the_longest);
    RUN(numbers_wrap);
    RUN(flags_are_said_where_they_belong);
    RUN(a_udp_sum_of_zero);
    RUN(old_sums_do_not_matter);
    RUN(in_place);
    RUN(in_any_order);
    RUN(what_is_refused);
    RUN(ordinary_packets_are_one_segment);
    return CHECK_DONE("packet_gso");
}
