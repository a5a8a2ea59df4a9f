/* Answers carry what the sender needs to find its socket, hold their checksums, and are never made where none
 * may be. */
#include "tests/c/check.h"
#include "tests/c/packet_make.h"

#include "packet/icmp.h"

static const uint8_t gateway4[16] = {[10] = 0xFF, [11] = 0xFF, [12] = 10, [13] = 8, [15] = 1};
static const uint8_t gateway6[16] = {[0] = 0xFD, [15] = 1};

static uint8_t packet[PACKET_ROOM], answer[SV_ICMP_MAX];
static struct sv_ip ip;

static const uint8_t *gateway(void)
{
    return ip.version == 4 ? gateway4 : gateway6;
}

static size_t too_big(size_t len, uint16_t mtu)
{
    CHECK_EQ(sv_ip_parse(&ip, packet, len), 0);
    return sv_icmp_too_big(answer, packet, &ip, gateway(), mtu);
}

static bool is_answered(size_t len)
{
    return too_big(len, 1300) > 0;
}

static void check_answer4(size_t n, size_t len, uint8_t code, uint32_t rest)
{
    size_t quote = len < 548 ? len : 548;
    struct sv_ip read;

    CHECK_EQ(n, 28 + quote);
    CHECK_EQ(sv_ip_parse(&read, answer, n), 0);
    CHECK_EQ(read.proto, IPPROTO_ICMP);
    CHECK_EQ(naive_sum(answer, 20, 0), 0xFFFF);
    CHECK_EQ(naive_sum(answer + 20, n - 20, 0), 0xFFFF);
    CHECK_MEM(read.src, gateway4, 16);
    CHECK_MEM(read.dst, ip.src, 16);
    CHECK_EQ(answer[20], 3);
    CHECK_EQ(answer[21], code);
    CHECK_EQ(get32(answer + 24), rest);
    CHECK_MEM(answer + 28, packet, quote);
}

static void check_answer6(size_t n, size_t len, uint8_t type, uint8_t code, uint32_t rest)
{
    size_t quote = len < 1232 ? len : 1232;
    struct sv_ip read;

    CHECK_EQ(n, 48 + quote);
    CHECK_EQ(sv_ip_parse(&read, answer, n), 0);
    CHECK_EQ(read.proto, IPPROTO_ICMPV6);
    CHECK(naive_valid(answer, n));
    CHECK_MEM(read.src, gateway6, 16);
    CHECK_MEM(read.dst, ip.src, 16);
    CHECK_EQ(answer[40], type);
    CHECK_EQ(answer[41], code);
    CHECK_EQ(get32(answer + 44), rest);
    CHECK_MEM(answer + 48, packet, quote);
}

static void every_length(void)
{
    for (size_t payload = 0; payload < 1500; payload++) {
        struct make four = make_default(4, IPPROTO_TCP, payload), six = make_default(6, IPPROTO_UDP, payload);
        size_t len = make_packet(packet, &four);

        check_answer4(too_big(len, 1341), len, 4, 1341);
        len = make_packet(packet, &six);
        check_answer6(too_big(len, 1341), len, 2, 0, 1341);
    }
}

static void super_packets(void)
{
    struct make four = make_default(4, IPPROTO_TCP, 60000), six = make_default(6, IPPROTO_TCP, 60000);
    size_t len = make_packet(packet, &four);

    check_answer4(too_big(len, 65535), len, 4, 65535);
    len = make_packet(packet, &six);
    check_answer6(too_big(len, 1280), len, 2, 0, 1280);
}

static void unreachable(void)
{
    struct make m = make_default(4, IPPROTO_TCP, 10);
    size_t len = make_packet(packet, &m);

    CHECK_EQ(sv_ip_parse(&ip, packet, len), 0);
    check_answer4(sv_icmp_unreachable(answer, packet, &ip, gateway4, SV_UNREACHABLE_HOST), len, 1, 0);
    check_answer4(sv_icmp_unreachable(answer, packet, &ip, gateway4, SV_UNREACHABLE_PROHIBITED), len, 13, 0);
    m.version = 6;
    len = make_packet(packet, &m);
    CHECK_EQ(sv_ip_parse(&ip, packet, len), 0);
    check_answer6(sv_icmp_unreachable(answer, packet, &ip, gateway6, SV_UNREACHABLE_HOST), len, 1, 0, 0);
    check_answer6(sv_icmp_unreachable(answer, packet, &ip, gateway6, SV_UNREACHABLE_PROHIBITED), len, 1, 1,
                  0);
}

static void icmp4_errors_are_not_answered(void)
{
    struct make m = make_default(4, IPPROTO_ICMP, 8);
    size_t len = make_packet(packet, &m);

    for (unsigned type = 0; type < 256; type++) {
        bool error = type == 3 || type == 4 || type == 5 || type == 11 || type == 12;

        packet[20] = (uint8_t)type;
        CHECK_EQ(is_answered(len), !error);
    }
    m.payload = 0;
    CHECK(!is_answered(make_packet(packet, &m)));
}

static void icmp6_errors_are_not_answered(void)
{
    struct make m = make_default(6, IPPROTO_ICMPV6, 8);

    for (size_t options = 0; options <= 8; options += 8) {
        size_t len;

        m.ip_options = options;
        len = make_packet(packet, &m);
        for (unsigned type = 0; type < 256; type++) {
            packet[40 + options] = (uint8_t)type;
            CHECK_EQ(is_answered(len), type >= 128 && type != 137);
        }
    }
}

/* The other family's ICMP is only a protocol number. */
static void icmp_of_the_other_family(void)
{
    struct make m = make_default(4, IPPROTO_ICMPV6, 8);
    size_t len = make_packet(packet, &m);

    packet[20] = 1;
    CHECK(is_answered(len));
}

static void later_fragments_are_not_answered(void)
{
    struct make m = make_default(4, IPPROTO_UDP, 80);
    size_t len = make_packet(packet, &m);

    put16(packet + 6, 0x2000);
    CHECK(is_answered(len));
    put16(packet + 6, 0x2001);
    CHECK(!is_answered(len));
    put16(packet + 6, 0x0001);
    CHECK(!is_answered(len));
}

static void only_single_hosts4(void)
{
    struct make m = make_default(4, IPPROTO_UDP, 80);
    size_t len = make_packet(packet, &m);

    for (size_t at = 12; at <= 16; at += 4) {
        uint8_t own = packet[at];

        for (unsigned first = 0; first < 256; first++) {
            packet[at] = (uint8_t)first;
            CHECK_EQ(is_answered(len), first != 0 && first != 127 && first < 224);
        }
        packet[at] = own;
    }
}

static void only_single_hosts6(void)
{
    struct make m = make_default(6, IPPROTO_UDP, 80);
    size_t len = make_packet(packet, &m);

    for (size_t at = 8; at <= 24; at += 16) {
        uint8_t own[16];

        memcpy(own, packet + at, 16);
        packet[at] = 0xFF;
        CHECK(!is_answered(len));
        memset(packet + at, 0, 16);
        CHECK(!is_answered(len));
        memcpy(packet + at, own, 16);
        CHECK(is_answered(len));
    }
}

static void a_gateway_of_the_packets_family_is_needed(void)
{
    static const uint8_t none[16], none4[16] = {[10] = 0xFF, [11] = 0xFF};
    struct make m = make_default(4, IPPROTO_UDP, 80);

    CHECK(is_answered(make_packet(packet, &m)));
    CHECK_EQ(sv_icmp_too_big(answer, packet, &ip, gateway6, 1300), 0);
    CHECK_EQ(sv_icmp_too_big(answer, packet, &ip, none, 1300), 0);
    CHECK_EQ(sv_icmp_too_big(answer, packet, &ip, none4, 1300), 0);
    m.version = 6;
    CHECK(is_answered(make_packet(packet, &m)));
    CHECK_EQ(sv_icmp_too_big(answer, packet, &ip, gateway4, 1300), 0);
    CHECK_EQ(sv_icmp_too_big(answer, packet, &ip, none, 1300), 0);
}

int main(void)
{
    RUN(every_length);
    RUN(super_packets);
    RUN(unreachable);
    RUN(icmp4_errors_are_not_answered);
    RUN(icmp6_errors_are_not_answered);
    RUN(icmp_of_the_other_family);
    RUN(later_fragments_are_not_answered);
    RUN(only_single_hosts4);
    RUN(only_single_hosts6);
    RUN(a_gateway_of_the_packets_family_is_needed);
    return CHECK_DONE("packet_icmp");
}
