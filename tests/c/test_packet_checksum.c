/* The fast sums equal the plain one at every length and alignment, and find every flipped bit. */
#include "tests/c/check.h"
#include "tests/c/packet_make.h"

#include "packet/checksum.h"

static uint8_t bytes[PACKET_ROOM];

static void fill(size_t len)
{
    for (size_t i = 0; i < len; i++) {
        bytes[i] = (uint8_t)make_random();
    }
}

static void every_length_and_alignment(void)
{
    fill(1024);
    for (size_t at = 0; at < 16; at++) {
        for (size_t len = 0; len < 400; len++) {
            CHECK_EQ(sv_checksum_fold(sv_checksum_add(0, bytes + at, len)), naive_sum(bytes + at, len, 0));
        }
    }
}

/* Sums that carry in every addition. */
static void all_ones(void)
{
    memset(bytes, 0xFF, sizeof bytes);
    for (size_t len = 0; len <= 65535; len += 1 + len / 7) {
        CHECK_EQ(sv_checksum_fold(sv_checksum_add(0xFFFFFFFF, bytes, len)), len % 2 ? 0xFF00 : 0xFFFF);
        CHECK_EQ(sv_checksum_fold(sv_checksum_add(0, bytes, len)), naive_sum(bytes, len, 0));
    }
}

static void all_zeros(void)
{
    memset(bytes, 0, sizeof bytes);
    CHECK_EQ(sv_checksum_fold(sv_checksum_add(0, bytes, 65535)), 0);
}

static void pieces_of_even_length(void)
{
    for (int round = 0; round < 2000; round++) {
        size_t len = make_below(3000), first = make_below((uint32_t)len + 1) & ~1u;

        fill(len);
        CHECK_EQ(
            sv_checksum_fold(sv_checksum_add(sv_checksum_add(0, bytes, first), bytes + first, len - first)),
            naive_sum(bytes, len, 0));
    }
}

static void folds_any_sum(void)
{
    CHECK_EQ(sv_checksum_fold(0), 0);
    CHECK_EQ(sv_checksum_fold(0xFFFF), 0xFFFF);
    CHECK_EQ(sv_checksum_fold(0x10000), 1);
    CHECK_EQ(sv_checksum_fold(UINT64_MAX), 0xFFFF);
    CHECK_EQ(sv_checksum_fold(UINT64_C(0xFFFF0000FFFF0001)), 1);
}

static const struct {
    uint8_t version, proto;
} transports[] = {{4, IPPROTO_TCP}, {4, IPPROTO_UDP}, {6, IPPROTO_TCP}, {6, IPPROTO_UDP}};

static bool is_valid(const uint8_t *packet, size_t len)
{
    struct sv_ip ip;

    return sv_ip_parse(&ip, packet, len) == 0 && sv_checksum_l4_valid(packet, &ip);
}

static void whole_packets_hold(void)
{
    for (size_t t = 0; t < 4; t++) {
        for (size_t payload = 0; payload < 300; payload++) {
            struct make m = make_default(transports[t].version, transports[t].proto, payload);

            CHECK(is_valid(bytes, make_packet(bytes, &m)));
        }
    }
}

/* Only bits behind the IP header, and not UDP's checksum turning into "none". */
static void every_flipped_bit_is_found(void)
{
    for (size_t t = 0; t < 4; t++) {
        struct make m = make_default(transports[t].version, transports[t].proto, 101);
        size_t len = make_packet(bytes, &m);

        for (size_t bit = make_ip_header(&m) * 8; bit < len * 8; bit++) {
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            CHECK(!is_valid(bytes, len));
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        CHECK(is_valid(bytes, len));
    }
}

static void udp_without_checksum(void)
{
    struct make m = make_default(4, IPPROTO_UDP, 40);
    size_t len = make_packet(bytes, &m);

    put16(bytes + 26, 0);
    CHECK(is_valid(bytes, len));
    m.version = 6;
    len = make_packet(bytes, &m);
    put16(bytes + 46, 0);
    CHECK(!is_valid(bytes, len));
}

static void fragments_and_others_never_hold(void)
{
    struct make m = make_default(4, IPPROTO_TCP, 40);
    size_t len = make_packet(bytes, &m);

    put16(bytes + 6, 0x2000);
    CHECK(!is_valid(bytes, len));
    m.proto = IPPROTO_ICMP;
    len = make_packet(bytes, &m);
    CHECK(!is_valid(bytes, len));
}

/* What the kernel hands over with NEEDS_CSUM: the pseudo-header's sum in the field. */
static void partial_sums_are_completed(void)
{
    for (size_t t = 0; t < 4; t++) {
        for (size_t payload = 0; payload < 200; payload++) {
            struct make m = make_default(transports[t].version, transports[t].proto, payload);
            size_t len = make_packet(bytes, &m), l4 = make_ip_header(&m), at = naive_checksum_at(bytes);
            uint16_t right = get16(bytes + at);

            put16(bytes + at, naive_pseudo(bytes, len - l4));
            sv_checksum_complete(bytes, len, (uint16_t)l4, (uint16_t)(at - l4));
            CHECK_EQ(get16(bytes + at), right);
        }
    }
}

static void completing_outside_does_nothing(void)
{
    static uint8_t before[64];

    fill(64);
    memcpy(before, bytes, 64);
    sv_checksum_complete(bytes, 40, 40, 0);
    sv_checksum_complete(bytes, 40, 30, 9);
    sv_checksum_complete(bytes, 40, 65535, 65535);
    sv_checksum_complete(bytes, 0, 0, 0);
    CHECK_MEM(bytes, before, 64);
    sv_checksum_complete(bytes, 40, 30, 8);
    CHECK_MEM(bytes, before, 38);
    CHECK_EQ(get16(bytes + 38), ~naive_sum(before + 30, 10, 0) & 0xFFFF);
}

/* A datagram whose sum is 0 says 0xFFFF: 0 would mean that there is none. */
static void a_sum_of_zero_is_written_as_ones(void)
{
    memset(bytes, 0, 32);
    put16(bytes, 0xFFFF);
    sv_checksum_complete(bytes, 32, 0, 6);
    CHECK_EQ(get16(bytes + 6), 0xFFFF);
}

static void ip4_headers(void)
{
    for (size_t options = 0; options <= 40; options += 4) {
        struct make m = make_default(4, IPPROTO_TCP, 10);

        m.ip_options = options;
        make_packet(bytes, &m);
        CHECK(sv_checksum_ip4_valid(bytes, 20 + options));
        bytes[8]--;
        CHECK(!sv_checksum_ip4_valid(bytes, 20 + options));
        sv_checksum_ip4(bytes, 20 + options);
        CHECK_EQ(naive_sum(bytes, 20 + options, 0), 0xFFFF);
        CHECK(sv_checksum_ip4_valid(bytes, 20 + options));
    }
}

int main(void)
{
    RUN(every_length_and_alignment);
    RUN(all_ones);
    RUN(all_zeros);
    RUN(pieces_of_even_length);
    RUN(folds_any_sum);
    RUN(whole_packets_hold);
    RUN(every_flipped_bit_is_found);
    RUN(udp_without_checksum);
    RUN(fragments_and_others_never_hold);
    RUN(partial_sums_are_completed);
    RUN(completing_outside_does_nothing);
    RUN(a_sum_of_zero_is_written_as_ones);
    RUN(ip4_headers);
    return CHECK_DONE("packet_checksum");
}
