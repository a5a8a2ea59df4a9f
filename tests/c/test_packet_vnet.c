/* What the kernel hands over is understood; what a peer sends is believed only as far as the packet itself
 * shows it. */
#include "tests/c/check.h"
#include "tests/c/packet_make.h"

#include <smartvpn/base.h>

#include "packet/vnet.h"

static uint8_t packet[PACKET_ROOM], before[PACKET_ROOM], whole[PACKET_ROOM];
static struct sv_ip ip;
static struct sv_vnet vnet;

static uint8_t kind_of(const struct make *m)
{
    return m->proto == IPPROTO_UDP ? SV_SUPER_UDP : m->version == 4 ? SV_SUPER_TCP4 : SV_SUPER_TCP6;
}

/* A refused packet is as it was. */
static int build(size_t len, uint8_t kind, size_t segment_size)
{
    int status;

    CHECK_EQ(sv_ip_parse(&ip, packet, len), 0);
    memcpy(before, packet, len);
    status = sv_vnet_build(&vnet, packet, len, &ip, kind, (uint16_t)segment_size);
    CHECK(status == 0 || status == SV_E_MALFORMED);
    CHECK(status == 0 || memcmp(before, packet, len) == 0);
    return status;
}

static int build_made(const struct make *m, size_t segment_size)
{
    return build(make_packet(packet, m), kind_of(m), segment_size);
}

static struct make make_of(int variant, size_t payload)
{
    return make_default(variant & 1 ? 4 : 6, variant & 2 ? IPPROTO_TCP : IPPROTO_UDP, payload);
}

static uint8_t gso_type_of(const struct make *m)
{
    return m->proto == IPPROTO_UDP ? VIRTIO_NET_HDR_GSO_UDP_L4
           : m->version == 4       ? VIRTIO_NET_HDR_GSO_TCPV4
                                   : VIRTIO_NET_HDR_GSO_TCPV6;
}

static void check_header(const struct make *m, size_t segment_size)
{
    bool many = m->payload > segment_size;

    CHECK_EQ(vnet.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
    CHECK_EQ(vnet.gso_type, many ? gso_type_of(m) : VIRTIO_NET_HDR_GSO_NONE);
    CHECK_EQ(vnet.gso_size, many ? segment_size : 0);
    CHECK_EQ(vnet.hdr_len, make_ip_header(m) + make_l4_header(m));
    CHECK_EQ(vnet.csum_start, make_ip_header(m));
    CHECK_EQ(vnet.csum_offset, m->proto == IPPROTO_TCP ? 16 : 6);
}

/* As the kernel ends a partial checksum. */
static bool holds_when_completed(size_t len)
{
    size_t start = vnet.csum_start;

    memcpy(whole, packet, len);
    put16(whole + start + vnet.csum_offset, ~naive_sum(whole + start, len - start, 0) & 0xFFFF);
    return naive_valid(whole, len);
}

static void headers_are_built(void)
{
    for (int round = 0; round < 2000; round++) {
        struct make m = make_of(round, 1 + make_below(30000));
        size_t segment_size = 256 + make_below(1300), len;

        m.ip_options = m.version == 4 ? 4 * make_below(11) : 8 * make_below(5);
        m.tcp_options = 4 * make_below(11);
        len = make_packet(packet, &m);
        put16(packet + naive_checksum_at(packet), make_random() & 0xFFFF);
        if (m.version == 4) {
            put16(packet + 10, make_random() & 0xFFFF);
        }
        CHECK_EQ(build(len, kind_of(&m), segment_size), m.payload > 128 * segment_size ? SV_E_MALFORMED : 0);
        if (m.payload <= 128 * segment_size) {
            check_header(&m, segment_size);
            CHECK_EQ(get16(packet + naive_checksum_at(packet)),
                     naive_pseudo(packet, len - make_ip_header(&m)));
            CHECK(holds_when_completed(len));
        }
    }
}

/* Nothing but the checksums is touched. */
static void the_rest_stays(void)
{
    for (int v = 0; v < 4; v++) {
        struct make m = make_of(v, 3000);
        size_t len = make_packet(packet, &m), at = naive_checksum_at(packet);

        CHECK_EQ(build(len, kind_of(&m), 1000), 0);
        put16(before + at, get16(packet + at));
        CHECK_MEM(packet, before, len);
    }
}

static void one_segment_needs_no_gso(void)
{
    for (int v = 0; v < 4; v++) {
        struct make m = make_of(v, 300);

        CHECK_EQ(build_made(&m, 300), 0);
        check_header(&m, 300);
        CHECK_EQ(build_made(&m, 65535), 0);
        CHECK_EQ(build_made(&m, 299), 0);
        check_header(&m, 299);
    }
}

static void cwr_sets_the_ecn_bit(void)
{
    struct make m = make_of(3, 3000);

    m.flags |= CWR;
    CHECK_EQ(build_made(&m, 1000), 0);
    CHECK_EQ(vnet.gso_type, VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN);
    m.version = 6;
    CHECK_EQ(build_made(&m, 1000), 0);
    CHECK_EQ(vnet.gso_type, VIRTIO_NET_HDR_GSO_TCPV6 | VIRTIO_NET_HDR_GSO_ECN);
    CHECK_EQ(build_made(&m, 3000), 0);
    CHECK_EQ(vnet.gso_type, VIRTIO_NET_HDR_GSO_NONE);
}

static void kinds_must_match(void)
{
    for (int v = 0; v < 4; v++) {
        struct make m = make_of(v, 3000);
        size_t len = make_packet(packet, &m);

        for (unsigned kind = 0; kind < 256; kind++) {
            CHECK_EQ(build(len, (uint8_t)kind, 1000), kind == kind_of(&m) ? 0 : SV_E_MALFORMED);
        }
    }
}

static void sizes_have_bounds(void)
{
    struct make m = make_of(3, 128 * 256);

    CHECK_EQ(build_made(&m, 256), 0);
    CHECK_EQ(build_made(&m, 255), SV_E_MALFORMED);
    CHECK_EQ(build_made(&m, 0), SV_E_MALFORMED);
    m.payload++;
    CHECK_EQ(build_made(&m, 256), SV_E_MALFORMED);
    CHECK_EQ(build_made(&m, 257), 0);
    m.payload = 0;
    CHECK_EQ(build_made(&m, 1000), SV_E_MALFORMED);
}

/* sv_gso must be able to split whatever was accepted. */
static void headers_have_a_bound(void)
{
    struct make m = make_of(2, 3000);

    m.ip_options = 192;
    CHECK_EQ(build_made(&m, 1000), 0);
    m.ip_options = 200;
    CHECK_EQ(build_made(&m, 1000), SV_E_MALFORMED);
}

static void only_plain_data_segments(void)
{
    struct make m = make_of(3, 3000);

    for (unsigned flags = 0; flags < 256; flags++) {
        m.flags = (uint8_t)flags;
        CHECK_EQ(build_made(&m, 1000), (flags & ACK) && !(flags & (SYN | RST | URG)) ? 0 : SV_E_MALFORMED);
    }
}

static void fragments_are_refused(void)
{
    for (int v = 1; v < 4; v += 2) {
        struct make m = make_of(v, 3000);
        size_t len = make_packet(packet, &m);

        put16(packet + 6, 0x2000);
        CHECK_EQ(build(len, kind_of(&m), 1000), SV_E_MALFORMED);
        put16(packet + 6, 0x0010);
        CHECK_EQ(build(len, kind_of(&m), 1000), SV_E_MALFORMED);
    }
}

static void other_protocols_are_refused(void)
{
    struct make m = make_default(4, IPPROTO_ICMP, 3000);
    size_t len = make_packet(packet, &m);

    for (uint8_t kind = 0; kind < 5; kind++) {
        CHECK_EQ(build(len, kind, 1000), SV_E_MALFORMED);
    }
}

static void udp_lengths_that_lie(void)
{
    struct make m = make_of(0, 3000);
    size_t len = make_packet(packet, &m);

    put16(packet + 44, 3007);
    CHECK_EQ(build(len, SV_SUPER_UDP, 1000), SV_E_MALFORMED);
    put16(packet + 44, 3009);
    CHECK_EQ(build(len, SV_SUPER_UDP, 1000), SV_E_MALFORMED);
    put16(packet + 44, 3008);
    CHECK_EQ(build(len, SV_SUPER_UDP, 1000), 0);
    CHECK_EQ(sv_vnet_build(&vnet, packet, len - 1, &ip, SV_SUPER_UDP, 1000), SV_E_MALFORMED);
}

static int classify(uint8_t version, unsigned gso_type, uint16_t gso_size, uint8_t *kind,
                    uint16_t *segment_size)
{
    struct sv_vnet from = {.gso_type = (uint8_t)gso_type, .gso_size = gso_size};
    uint8_t first = (uint8_t)(version << 4);

    return sv_vnet_classify(&from, &first, 1, kind, segment_size);
}

static void what_the_kernel_hands_over(void)
{
    static const struct {
        uint8_t gso_type, kind, version; /* 0: either */
    } types[] = {
        {VIRTIO_NET_HDR_GSO_TCPV4, SV_SUPER_TCP4, 4},
        {VIRTIO_NET_HDR_GSO_TCPV6, SV_SUPER_TCP6, 6},
        {VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, SV_SUPER_TCP4, 4},
        {VIRTIO_NET_HDR_GSO_TCPV6 | VIRTIO_NET_HDR_GSO_ECN, SV_SUPER_TCP6, 6},
        {VIRTIO_NET_HDR_GSO_UDP_L4, SV_SUPER_UDP, 0},
    };
    uint16_t segment_size;
    uint8_t kind;

    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        for (uint8_t version = 4; version <= 6; version += 2) {
            bool taken = types[i].version == version || types[i].version == 0;

            CHECK_EQ(classify(version, types[i].gso_type, 1368, &kind, &segment_size),
                     taken ? 0 : SV_E_MALFORMED);
            CHECK(!taken || (kind == types[i].kind && segment_size == 1368));
            CHECK_EQ(classify(version, types[i].gso_type, 0, &kind, &segment_size), SV_E_MALFORMED);
        }
    }
}

static void ordinary_packets(void)
{
    struct sv_vnet from = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .gso_size = 77};
    uint16_t segment_size = 5;
    uint8_t kind = 5, first = 0x40;

    CHECK_EQ(sv_vnet_classify(&from, &first, 1, &kind, &segment_size), 0);
    CHECK_EQ(kind, SV_SUPER_NONE);
    CHECK_EQ(segment_size, 0);
    CHECK_EQ(sv_vnet_classify(&from, &first, 0, &kind, &segment_size), SV_E_MALFORMED);
}

/* UFO and whatever comes later. */
static void kinds_that_were_not_asked_for(void)
{
    uint16_t segment_size;
    uint8_t kind;

    for (unsigned type = 0; type < 256; type++) {
        unsigned plain = type & ~(unsigned)VIRTIO_NET_HDR_GSO_ECN;
        bool known = plain == 0 || plain == 1 || plain == 4 || plain == 5;

        if (!known) {
            CHECK_EQ(classify(4, type, 1000, &kind, &segment_size), SV_E_MALFORMED);
            CHECK_EQ(classify(6, type, 1000, &kind, &segment_size), SV_E_MALFORMED);
        }
    }
}

int main(void)
{
    RUN(headers_are_built);
    RUN(the_rest_stays);
    RUN(one_segment_needs_no_gso);
    RUN(cwr_sets_the_ecn_bit);
    RUN(kinds_must_match);
    RUN(sizes_have_bounds);
    RUN(headers_have_a_bound);
    RUN(only_plain_data_segments);
    RUN(fragments_are_refused);
    RUN(other_protocols_are_refused);
    RUN(udp_lengths_that_lie);
    RUN(what_the_kernel_hands_over);
    RUN(ordinary_packets);
    RUN(kinds_that_were_not_asked_for);
    return CHECK_DONE("packet_vnet");
}
