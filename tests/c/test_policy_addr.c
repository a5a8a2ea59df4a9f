/* Addresses and prefixes: text to 16 bytes and back, masks, and which addresses a prefix covers. */
#include "tests/c/check.h"

#include <arpa/inet.h>

#include "base/error.h"
#include "policy/prefix.h"
#include "tests/c/random.h"

enum { STEPS = 20000, TEXT = 64 };

static const uint8_t mapped_bytes[12] = {[10] = 0xFF, [11] = 0xFF};

static void addresses_of_both_families(void)
{
    static const uint8_t ip4[16] = {[10] = 0xFF, [11] = 0xFF, [12] = 10, 8, 0, 2};
    static const uint8_t ip6[16] = {0xFD, [15] = 1};
    uint8_t addr[16];
    char text[TEXT];

    CHECK_EQ(sv_addr_parse(addr, "10.8.0.2"), 0);
    CHECK_MEM(addr, ip4, 16);
    CHECK(sv_addr_is4(addr));
    CHECK_STR(sv_addr_format(text, sizeof text, addr), "10.8.0.2");
    CHECK_EQ(sv_addr_parse(addr, "fd00::1"), 0);
    CHECK_MEM(addr, ip6, 16);
    CHECK(!sv_addr_is4(addr));
    CHECK_STR(sv_addr_format(text, sizeof text, addr), "fd00::1");
}

/* A dual-stack socket reports IPv4 peers in this form. */
static void mapped_addresses_are_ip4(void)
{
    uint8_t plain[16], mapped[16];
    struct sv_prefix prefix;
    char text[TEXT];

    CHECK_EQ(sv_addr_parse(plain, "192.0.2.7"), 0);
    CHECK_EQ(sv_addr_parse(mapped, "::ffff:192.0.2.7"), 0);
    CHECK_MEM(mapped, plain, 16);
    CHECK_EQ(sv_addr_parse(mapped, "0:0:0:0:0:FFFF:c000:207"), 0);
    CHECK_MEM(mapped, plain, 16);
    CHECK_EQ(sv_prefix_parse(&prefix, "::ffff:192.0.2.7/120"), 0);
    CHECK_STR(sv_prefix_format(text, sizeof text, &prefix), "192.0.2.0/24");
}

static void neighbours_of_the_mapped_block_are_ip6(void)
{
    static const char *const texts[] = {"::fffe:192.0.2.7", "::192.0.2.7", "::1:0:0:0", "::ffff",
                                        "1::ffff:1.2.3.4"};
    uint8_t addr[16];

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        CHECK_EQ(sv_addr_parse(addr, texts[i]), 0);
        CHECK(!sv_addr_is4(addr));
    }
}

static void wrong_addresses(void)
{
    static const char *const texts[] = {
        "",
        " ",
        "1",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.256",
        "01.2.3.4",
        "1.2.3.4 ",
        " 1.2.3.4",
        "1.2.3.0x4",
        "1.2.3.-4",
        "1.2.3.4/8",
        "::1/8",
        ":",
        ":::",
        "1::2::3",
        "fe80::1%1",
        "[::1]",
        "12345::",
        "g::",
        "1:2:3:4:5:6",
        "::1.2.3",
        "1.2.3.4:5",
        "1.2.3.4\n",
        "1.2.3.٤",
        "1:",
        "1:2:3:4:5:6:7:8:9",
        "::1.2.3.4:5",
    };
    uint8_t addr[16];

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        CHECK_EQ(sv_addr_parse(addr, texts[i]), SV_E_INVALID);
    }
}

/* Half of them IPv4. */
static void random_addr(uint8_t addr[16])
{
    random_bytes(addr, 16);
    if (random_below(2)) {
        memcpy(addr, mapped_bytes, sizeof mapped_bytes);
    }
}

static void what_is_printed_reads_back(void)
{
    for (int i = 0; i < STEPS; i++) {
        struct sv_prefix prefix, again;
        uint8_t parsed[16];
        char text[50];

        random_addr(prefix.addr);
        CHECK_EQ(sv_addr_parse(parsed, sv_addr_format(text, sizeof text, prefix.addr)), 0);
        CHECK_MEM(parsed, prefix.addr, 16);
        prefix.bits = (uint8_t)random_below(129);
        sv_addr_mask(prefix.addr, prefix.bits);
        CHECK_EQ(sv_prefix_parse(&again, sv_prefix_format(text, sizeof text, &prefix)), 0);
        CHECK_EQ(again.bits, prefix.bits);
        CHECK_MEM(again.addr, prefix.addr, 16);
    }
}

static void prefixes_lose_their_host_bits(void)
{
    static const struct {
        const char *text, *printed;
    } cases[] = {
        {"10.8.3.7/16", "10.8.0.0/16"},
        {"10.8.3.7", "10.8.3.7/32"},
        {"10.8.3.7/32", "10.8.3.7/32"},
        {"255.255.255.255/1", "128.0.0.0/1"},
        {"1.2.3.4/0", "0.0.0.0/0"},
        {"10.255.255.255/9", "10.128.0.0/9"},
        {"fd00::1:2/112", "fd00::1:0/112"},
        {"fd00::1", "fd00::1/128"},
        {"ffff::/1", "8000::/1"},
        {"fd00::1/0", "::/0"},
        {"fd00::ffff/127", "fd00::fffe/127"},
        {"::ffff:1.2.3.4/95", "::fffe:0:0/95"},
        {"1.2.3.4/08", "1.0.0.0/8"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sv_prefix prefix;
        char text[50];

        CHECK_EQ(sv_prefix_parse(&prefix, cases[i].text), 0);
        CHECK_STR(sv_prefix_format(text, sizeof text, &prefix), cases[i].printed);
    }
}

static void wrong_prefixes(void)
{
    static const char *const texts[] = {
        "",
        "/",
        "/8",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
        "::/129",
        "::/",
        "::/1x",
        "10.0.0.0/ 8",
        "10.0.0.0/8 ",
        "10.0.0.0//8",
        "10.0.0.0/8/8",
        "10.0.0/8",
        "::/0x10",
        "::%1/64",
        "fd00::g/8",
        "::/256",
        "10.0.0.0/256",
        "::/18446744073709551617",
        "10.0.0.0/0008",
        "1.1.1.1/255.0.0.0",
        "1111111111111111111111111111111111111111111111111111111111111111111111/8",
    };
    struct sv_prefix prefix;

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        CHECK_EQ(sv_prefix_parse(&prefix, texts[i]), SV_E_INVALID);
    }
}

static unsigned bit_of(const uint8_t addr[16], unsigned bit)
{
    return addr[bit / 8] >> (7 - bit % 8) & 1;
}

/* Bit by bit, and never across the families. */
static bool covers_by_the_book(const struct sv_prefix *prefix, const uint8_t addr[16])
{
    for (unsigned i = 0; i < prefix->bits; i++) {
        if (bit_of(prefix->addr, i) != bit_of(addr, i)) {
            return false;
        }
    }
    return prefix->bits >= 96 || memcmp(addr, mapped_bytes, 12) != 0;
}

static void covering_agrees_with_its_definition(void)
{
    for (int i = 0; i < STEPS; i++) {
        struct sv_prefix prefix;
        uint8_t addr[16];
        unsigned flipped = random_below(129);

        random_addr(prefix.addr);
        memcpy(addr, prefix.addr, 16);
        prefix.bits = (uint8_t)random_below(129);
        sv_addr_mask(prefix.addr, prefix.bits);
        if (flipped < 128) {
            addr[flipped / 8] ^= (uint8_t)(0x80 >> flipped % 8);
        }
        CHECK_EQ(sv_prefix_contains(&prefix, addr), covers_by_the_book(&prefix, addr));
    }
}

/* "Everything of IPv6" trusts, routes and allows nothing of IPv4. */
static void ip6_prefixes_cover_no_ip4(void)
{
    static const char *const wide[] = {"::/0", "::/1", "::/64", "::/80", "::fffe:0:0/95"};
    struct sv_prefix prefix;
    uint8_t ip4[16], ip6[16];

    CHECK_EQ(sv_addr_parse(ip4, "10.0.0.1"), 0);
    CHECK_EQ(sv_addr_parse(ip6, "::fffe:1:1"), 0);
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) {
        CHECK_EQ(sv_prefix_parse(&prefix, wide[i]), 0);
        CHECK(!sv_prefix_contains(&prefix, ip4));
        CHECK(sv_prefix_contains(&prefix, ip6));
    }
    CHECK_EQ(sv_prefix_parse(&prefix, "0.0.0.0/0"), 0);
    CHECK(sv_prefix_contains(&prefix, ip4));
    CHECK(!sv_prefix_contains(&prefix, ip6));
}

static void agreement_at_every_length(void)
{
    uint8_t a[16], b[16];

    random_bytes(a, sizeof a);
    for (unsigned differing = 0; differing < 128; differing++) {
        memcpy(b, a, sizeof b);
        b[differing / 8] ^= (uint8_t)(0x80 >> differing % 8);
        for (unsigned bits = 0; bits <= 128; bits++) {
            CHECK_EQ(sv_addr_agree(a, b, bits), bits <= differing);
            CHECK(sv_addr_agree(a, a, bits));
        }
    }
}

int main(void)
{
    RUN(addresses_of_both_families);
    RUN(mapped_addresses_are_ip4);
    RUN(neighbours_of_the_mapped_block_are_ip6);
    RUN(wrong_addresses);
    RUN(what_is_printed_reads_back);
    RUN(prefixes_lose_their_host_bits);
    RUN(wrong_prefixes);
    RUN(covering_agrees_with_its_definition);
    RUN(ip6_prefixes_cover_no_ip4);
    RUN(agreement_at_every_length);
    return CHECK_DONE("policy_addr");
}
