/* A packet is read as it is or refused: no length, version or header chain that lies is believed. */
#include "tests/c/check.h"
#include "tests/c/packet_make.h"

#include <smartvpn/base.h>

#include "packet/ip.h"

static uint8_t packet[PACKET_ROOM];
static struct sv_ip ip;

/* An own allocation of exactly the length, so that a read behind it shows. */
static int parse(size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);
    int status;

    memcpy(copy, packet, len);
    status = sv_ip_parse(&ip, copy, len);
    free(copy);
    return status;
}

static void check_addresses(const struct make *m)
{
    static const uint8_t four[16] = {[10] = 0xFF, [11] = 0xFF, [12] = 10, [13] = 8};
    static const uint8_t six[16] = {[0] = 0xFD};
    uint8_t src[16], dst[16];

    memcpy(src, m->version == 4 ? four : six, 16);
    memcpy(dst, src, 16);
    src[15] = m->src_host;
    dst[15] = m->dst_host;
    CHECK_MEM(ip.src, src, 16);
    CHECK_MEM(ip.dst, dst, 16);
}

static void check_fields(const struct make *m, size_t len)
{
    bool ports = make_l4_header(m) > 0;

    CHECK_EQ(ip.version, m->version);
    CHECK_EQ(ip.proto, m->proto);
    CHECK_EQ(ip.tos, m->tos);
    CHECK_EQ(ip.df, m->version == 6 || m->df);
    CHECK(!ip.fragment && ip.first_fragment);
    CHECK_EQ(ip.header_len, make_ip_header(m));
    CHECK_EQ(ip.l4_len, make_l4_header(m));
    CHECK_EQ(ip.src_port, ports ? m->src_port : 0);
    CHECK_EQ(ip.dst_port, ports ? m->dst_port : 0);
    CHECK_EQ(ip.len, len);
    check_addresses(m);
}

static const uint8_t protos[] = {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, 99};

static void fields_are_read(void)
{
    for (int round = 0; round < 3000; round++) {
        struct make m = make_default(round & 1 ? 4 : 6, protos[make_below(4)], make_below(1500));
        size_t len;

        m.tos = (uint8_t)make_random();
        m.df = make_below(2);
        m.src_port = (uint16_t)make_random();
        m.dst_port = (uint16_t)make_random();
        m.src_host = (uint8_t)make_random();
        m.dst_host = (uint8_t)make_random();
        m.ip_options = m.version == 4 ? 4 * make_below(11) : 8 * make_below(20);
        m.tcp_options = 4 * make_below(11);
        len = make_packet(packet, &m);
        CHECK_EQ(parse(len), 0);
        check_fields(&m, len);
    }
}

static void the_longest_packets(void)
{
    struct make four = make_default(4, IPPROTO_TCP, 65535 - 40),
                six = make_default(6, IPPROTO_UDP, 65535 - 8);

    CHECK_EQ(parse(make_packet(packet, &four)), 0);
    CHECK_EQ(ip.len, 65535);
    CHECK_EQ(parse(make_packet(packet, &six)), 0);
    CHECK_EQ(ip.len, 65575);
}

/* Cut or lengthened, with the length field telling the old length. */
static void lengths_that_lie(void)
{
    for (int v = 0; v < 4; v++) {
        struct make m = make_default(v & 1 ? 4 : 6, v & 2 ? IPPROTO_TCP : IPPROTO_UDP, 30);
        size_t len = make_packet(packet, &m);

        for (size_t cut = 0; cut < len; cut++) {
            CHECK_EQ(parse(cut), SV_E_MALFORMED);
        }
        CHECK_EQ(parse(len), 0);
        CHECK_EQ(parse(len + 1), SV_E_MALFORMED);
    }
}

static void set_length(size_t len)
{
    if (packet[0] >> 4 == 4) {
        put16(packet + 2, len);
    } else {
        put16(packet + 4, len - 40);
    }
}

/* Cut, with a length field that agrees: then the transport header must still be whole. */
static void headers_that_do_not_fit(void)
{
    for (int v = 0; v < 4; v++) {
        struct make m = make_default(v & 1 ? 4 : 6, v & 2 ? IPPROTO_TCP : IPPROTO_UDP, 30);
        size_t headers, len;

        m.tcp_options = 12;
        len = make_packet(packet, &m);
        headers = make_ip_header(&m) + make_l4_header(&m);
        for (size_t cut = make_ip_header(&m); cut <= len; cut++) {
            set_length(cut);
            CHECK_EQ(parse(cut), cut < headers ? SV_E_MALFORMED : 0);
        }
    }
}

static void versions(void)
{
    struct make m = make_default(4, IPPROTO_TCP, 30);
    size_t len = make_packet(packet, &m);

    for (unsigned version = 0; version < 16; version++) {
        packet[0] = (uint8_t)(version << 4 | 5);
        CHECK_EQ(parse(len), version == 4 ? 0 : SV_E_MALFORMED);
    }
}

static void ip4_header_lengths(void)
{
    struct make m = make_default(4, 99, 30);
    size_t len = make_packet(packet, &m);

    for (unsigned words = 0; words < 16; words++) {
        packet[0] = (uint8_t)(0x40 | words);
        CHECK_EQ(parse(len), words >= 5 && words * 4 <= len ? 0 : SV_E_MALFORMED);
    }
}

static void tcp_header_lengths(void)
{
    struct make m = make_default(6, IPPROTO_TCP, 16);
    size_t len = make_packet(packet, &m);

    for (unsigned words = 0; words < 16; words++) {
        packet[52] = (uint8_t)(words << 4);
        CHECK_EQ(parse(len), words >= 5 && words <= 9 ? 0 : SV_E_MALFORMED);
    }
}

static void ip4_fragments(void)
{
    struct make m = make_default(4, IPPROTO_UDP, 40);
    size_t len = make_packet(packet, &m);

    put16(packet + 6, 0x2000);
    CHECK_EQ(parse(len), 0);
    CHECK(ip.fragment && ip.first_fragment && !ip.df);
    CHECK_EQ(ip.src_port, m.src_port);
    CHECK_EQ(ip.l4_len, 0);
    for (unsigned offset = 1; offset <= 0x1FFF; offset *= 3) {
        put16(packet + 6, offset);
        CHECK_EQ(parse(len), 0);
        CHECK(ip.fragment && !ip.first_fragment);
        CHECK_EQ(ip.src_port | ip.dst_port | ip.l4_len, 0);
    }
}

/* RFC 1858: the ports and flags must be in the first fragment, the options need not be. */
static void tiny_first_fragments(void)
{
    struct make m = make_default(4, IPPROTO_TCP, 8);

    m.tcp_options = 40;
    make_packet(packet, &m);
    put16(packet + 6, 0x2000);
    for (size_t len = 20; len < 88; len++) {
        put16(packet + 2, len);
        CHECK_EQ(parse(len), len < 40 ? SV_E_MALFORMED : 0);
    }
    put16(packet + 6, 0x0001);
    put16(packet + 2, 28);
    CHECK_EQ(parse(28), 0);
}

/* Extension headers in front of UDP, 8 bytes each, of the types given. */
static size_t chain(const uint8_t *types, size_t count)
{
    struct make m = make_default(6, IPPROTO_UDP, 20);
    uint8_t udp[28];
    size_t len = make_packet(packet, &m), at = 40;

    memcpy(udp, packet + 40, 28);
    for (size_t i = 0; i < count; i++, at += 8) {
        packet[i ? at - 8 : 6] = types[i];
        memset(packet + at, 0, 8);
        packet[at] = IPPROTO_UDP;
    }
    memcpy(packet + at, udp, 28);
    len += count * 8;
    set_length(len);
    return len;
}

static const uint8_t extensions[] = {IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_DSTOPTS, IPPROTO_FRAGMENT};

static void extension_headers_are_skipped(void)
{
    for (int round = 0; round < 2000; round++) {
        uint8_t types[10];
        size_t count = make_below(11), len;
        bool fragment = false;

        for (size_t i = 0; i < count; i++) {
            types[i] = extensions[make_below(4)];
            fragment |= types[i] == IPPROTO_FRAGMENT;
        }
        len = chain(types, count);
        CHECK_EQ(parse(len), count <= 8 ? 0 : SV_E_MALFORMED);
        if (count <= 8) {
            CHECK_EQ(ip.proto, IPPROTO_UDP);
            CHECK_EQ(ip.header_len, 40 + 8 * count);
            CHECK_EQ(ip.src_port, 40000);
            CHECK_EQ(ip.fragment, fragment);
            CHECK_EQ(ip.l4_len, fragment ? 0 : 8);
        }
    }
}

static void extension_headers_that_do_not_fit(void)
{
    for (size_t i = 0; i < 4; i++) {
        size_t len = chain(&extensions[i], 1);

        for (size_t cut = 40; cut < 56; cut++) {
            set_length(cut);
            CHECK_EQ(parse(cut), SV_E_MALFORMED);
        }
        set_length(len);
        packet[41] = 255;
        CHECK_EQ(parse(len), extensions[i] == IPPROTO_FRAGMENT ? 0 : SV_E_MALFORMED);
    }
}

/* The longest chain there can be still fits header_len. */
static void long_extension_headers(void)
{
    size_t at = 40, len = 40 + 8 * 2048 + 8;

    memset(packet, 0, len);
    packet[0] = 0x60;
    packet[6] = IPPROTO_DSTOPTS;
    for (int i = 0; i < 8; i++, at += 2048) {
        packet[at] = i == 7 ? IPPROTO_UDP : IPPROTO_DSTOPTS;
        packet[at + 1] = 255;
    }
    set_length(len);
    CHECK_EQ(parse(len), 0);
    CHECK_EQ(ip.header_len, 40 + 8 * 2048);
}

static void ip6_fragments(void)
{
    uint8_t type = IPPROTO_FRAGMENT;
    size_t len = chain(&type, 1);

    put16(packet + 42, 1);
    CHECK_EQ(parse(len), 0);
    CHECK(ip.fragment && ip.first_fragment);
    CHECK_EQ(ip.dst_port, 443);
    packet[40] = IPPROTO_DSTOPTS;
    put16(packet + 42, 8 << 3);
    CHECK_EQ(parse(len), 0);
    CHECK(ip.fragment && !ip.first_fragment);
    CHECK_EQ(ip.proto, IPPROTO_DSTOPTS);
    CHECK_EQ(ip.header_len, 48);
    CHECK_EQ(ip.src_port | ip.dst_port, 0);
}

/* The true destination would be in the routing header, unseen by any ACL. */
static void routing_with_segments_left(void)
{
    uint8_t type = IPPROTO_ROUTING;
    size_t len = chain(&type, 1);

    packet[43] = 1;
    CHECK_EQ(parse(len), SV_E_MALFORMED);
    packet[43] = 0;
    CHECK_EQ(parse(len), 0);
}

/* ::ffff:127.0.0.1 in an IPv6 header would look like an IPv4 packet's address. */
static void mapped_addresses(void)
{
    static const uint8_t mapped[16] = {[10] = 0xFF, [11] = 0xFF, [12] = 127, [15] = 1};
    struct make m = make_default(6, IPPROTO_UDP, 20);
    size_t len = make_packet(packet, &m);

    for (size_t at = 8; at <= 24; at += 16) {
        uint8_t before[16];

        memcpy(before, packet + at, 16);
        memcpy(packet + at, mapped, 16);
        CHECK_EQ(parse(len), SV_E_MALFORMED);
        packet[at] = 1;
        CHECK_EQ(parse(len), 0);
        memcpy(packet + at, before, 16);
    }
}

/* A jumbogram's payload length is 0. */
static void jumbograms(void)
{
    struct make m = make_default(6, IPPROTO_UDP, 20);
    size_t len = make_packet(packet, &m);

    put16(packet + 4, 0);
    CHECK_EQ(parse(len), SV_E_MALFORMED);
}

/* Whatever the bytes say, what is accepted lies inside them. */
static void random_bytes(void)
{
    size_t accepted = 0;

    for (int round = 0; round < 200000; round++) {
        size_t len = 20 + make_below(120);

        for (size_t i = 0; i < len; i++) {
            packet[i] = (uint8_t)make_random();
        }
        packet[0] = (uint8_t)(round & 1 ? 0x45 + make_below(3) : 0x60);
        packet[6] = round & 2 ? extensions[make_below(4)] : packet[6];
        if (len >= 40 || packet[0] != 0x60) {
            set_length(len);
        }
        if (parse(len) == 0) {
            accepted++;
            CHECK(ip.header_len + (size_t)ip.l4_len <= len && ip.len == len && ip.header_len >= 20);
            CHECK(ip.fragment || ip.first_fragment);
        }
    }
    CHECK(accepted > 10000);
}

int main(void)
{
    RUN(fields_are_read);
    RUN(the_longest_packets);
    RUN(lengths_that_lie);
    RUN(headers_that_do_not_fit);
    RUN(versions);
    RUN(ip4_header_lengths);
    RUN(tcp_header_lengths);
    RUN(ip4_fragments);
    RUN(tiny_first_fragments);
    RUN(extension_headers_are_skipped);
    RUN(extension_headers_that_do_not_fit);
    RUN(long_extension_headers);
    RUN(ip6_fragments);
    RUN(routing_with_segments_left);
    RUN(mapped_addresses);
    RUN(jumbograms);
    RUN(random_bytes);
    return CHECK_DONE("packet_ip");
}
