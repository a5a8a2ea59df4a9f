/* Patterns mean what they say, in both families; compiled lists agree with reading them one by one; some
 * addresses are never reached. */
#include "tests/c/check.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/error.h"
#include "policy/acl.h"
#include "policy/prefix.h"
#include "tests/c/random.h"

enum { ROUNDS = 1500, PATTERNS_MAX = 24, PROBES = 60, TEXT = 100 };

static bool allows(const struct sv_acl *acl, const char *text)
{
    uint8_t addr[16];

    CHECK_EQ(sv_addr_parse(addr, text), 0);
    return sv_acl_allows(acl, addr);
}

static bool never(const char *text)
{
    uint8_t addr[16];

    CHECK_EQ(sv_addr_parse(addr, text), 0);
    return sv_acl_never(addr);
}

static struct sv_acl *list(const char *const *allow, size_t allow_count, const char *const *deny,
                           size_t deny_count)
{
    struct sv_acl *acl = NULL;

    CHECK_EQ(sv_acl_new(&acl, allow, allow_count, deny, deny_count, NULL), 0);
    return acl;
}

/* ---- patterns ---- */

static void every_form_in_both_families(void)
{
    static const struct {
        const char *pattern, *first, *last;
    } cases[] = {
        {"10.8.0.2", "10.8.0.2", "10.8.0.2"},
        {"fd00::1", "fd00::1", "fd00::1"},
        {"10.8.3.7/16", "10.8.0.0", "10.8.255.255"},
        {"10.8.3.7/32", "10.8.3.7", "10.8.3.7"},
        {"0.0.0.0/0", "0.0.0.0", "255.255.255.255"},
        {"10.8.3.7/9", "10.0.0.0", "10.127.255.255"},
        {"fd00::/8", "fd00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
        {"fd00::1/127", "fd00::", "fd00::1"},
        {"::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
        {"192.168.1.*", "192.168.1.0", "192.168.1.255"},
        {"192.*.*.*", "192.0.0.0", "192.255.255.255"},
        {"*.*.*.*", "0.0.0.0", "255.255.255.255"},
        {"fd00::1:*", "fd00::1:0", "fd00::1:ffff"},
        {"fd00::*", "fd00::", "fd00::ffff"},
        {"fd00:1:2:3:*:*:*:*", "fd00:1:2:3::", "fd00:1:2:3:ffff:ffff:ffff:ffff"},
        {"::*:*", "::", "::ffff:ffff"},
        {"*:*:*:*:*:*:*:*", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
        {"1.1.1.1-1.1.1.100", "1.1.1.1", "1.1.1.100"},
        {"1.1.1.1-1.1.1.1", "1.1.1.1", "1.1.1.1"},
        {"9.255.255.250-11.0.0.3", "9.255.255.250", "11.0.0.3"},
        {"0.0.0.0-255.255.255.255", "0.0.0.0", "255.255.255.255"},
        {"fd00::1-fd00::1:1", "fd00::1", "fd00::1:1"},
        {"1::-2:ffff::", "1::", "2:ffff::"},
        {"::ffff:10.0.0.1", "10.0.0.1", "10.0.0.1"},
        {"::ffff:10.0.0.0/104", "10.0.0.0", "10.255.255.255"},
        {"::ffff:a00:*", "10.0.0.0", "10.0.255.255"},
        {"10.0.0.1-::ffff:10.0.0.9", "10.0.0.1", "10.0.0.9"},
        {"ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.254-ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255",
         "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t first[16], last[16], addr[16];

        CHECK_EQ(sv_acl_parse(cases[i].pattern, first, last), 0);
        CHECK_EQ(sv_addr_parse(addr, cases[i].first), 0);
        CHECK_MEM(first, addr, 16);
        CHECK_EQ(sv_addr_parse(addr, cases[i].last), 0);
        CHECK_MEM(last, addr, 16);
    }
}

static const char *const wrong[] = {
    "",
    " ",
    "*",
    "10.*",
    "10.*.0.1",
    "*.0.0.1",
    "10.0.0.1*",
    "10.0.0.*1",
    "10.0.0.**",
    "10.0.0.*.",
    "10..*.*",
    "10.0.*.*.*",
    "*.*.*",
    "*.*.*.*.*",
    "10.0.0.*/24",
    "10.0.0.*-10.0.0.9",
    "10.0.0.1-10.0.0.*",
    "fd00:*",
    "*::",
    "*::*",
    "fd00::*::",
    "fd00::*:1",
    "fd00::*:",
    "fd00:::*",
    "fd00::1*",
    "fd00::*/64",
    "fd00.*",
    "fd00::1.2.3.*",
    "::ffff:10.0.0.*",
    "1:2:3:4:5:6:7:8:*",
    "1:2:3:4:5:6:7:*:*",
    "10.0.0.01",
    "10.0.0.0/",
    "10.0.0.0/33",
    "10.0.0.0/-1",
    "10.0.0.0/255.0.0.0",
    "10.0.0.0/0008",
    "::/129",
    "-",
    "1.1.1.1-",
    "-1.1.1.1",
    "1.1.1.1--1.1.1.2",
    "1.1.1.1-1.1.1.2-1.1.1.3",
    "1.1.1.2-1.1.1.1",
    "fd00::2-fd00::1",
    "1.1.1.1 - 1.1.1.2",
    "1.1.1.1-fd00::1",
    "::1-1.1.1.1",
    "::1-::ffff:1.1.1.1",
    "::ffff:1.1.1.1-::1:0:0:0",
    "1.1.1.0/24-1.1.2.0/24",
    "1.1.1.1-100",
    "fe80::1%eth0",
    "10.0.0.1\n",
    "10.0.0.1,10.0.0.2",
    "!10.0.0.1",
    "host",
    "[fd00::1]",
    "10.0.0.1:53",
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
    "1.1.1.1-0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000001",
    "****************************************************************************************************",
    ":*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*:*",
};

static void wrong_patterns(void)
{
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *lists[2] = {"10.0.0.1", wrong[i]};
        const char *bad = NULL;
        uint8_t first[16], last[16];
        struct sv_acl *acl = (struct sv_acl *)lists;

        CHECK_EQ(sv_acl_parse(wrong[i], first, last), SV_E_INVALID);
        CHECK_EQ(sv_acl_new(&acl, lists, 2, NULL, 0, &bad), SV_E_INVALID);
        CHECK(!acl && bad == wrong[i]);
        bad = NULL;
        CHECK_EQ(sv_acl_new(&acl, lists, 1, lists, 2, &bad), SV_E_INVALID);
        CHECK(!acl && bad == wrong[i]);
        CHECK_EQ(sv_acl_new(&acl, NULL, 0, lists, 2, NULL), SV_E_INVALID);
    }
}

/* ---- lists ---- */

static void empty_lists_allow_all(void)
{
    struct sv_acl *acl = list(NULL, 0, NULL, 0);

    CHECK(!acl);
    CHECK(allows(acl, "10.0.0.1"));
    CHECK(allows(acl, "fd00::1"));
    sv_acl_free(acl);
}

static void an_allow_list_allows_nothing_else(void)
{
    static const char *const allow[] = {"10.0.0.0/8", "fd00::/8"};
    struct sv_acl *acl = list(allow, 2, NULL, 0);

    CHECK(allows(acl, "10.255.255.255"));
    CHECK(!allows(acl, "11.0.0.0"));
    CHECK(!allows(acl, "9.255.255.255"));
    CHECK(allows(acl, "fd00::"));
    CHECK(!allows(acl, "fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
    CHECK(!allows(acl, "fe00::"));
    sv_acl_free(acl);
}

static void deny_overrides_allow(void)
{
    static const char *const narrow[] = {"10.1.0.0/16"}, *const wide[] = {"10.0.0.0/8"};
    struct sv_acl *hole = list(wide, 1, narrow, 1), *closed = list(narrow, 1, wide, 1),
                  *only = list(NULL, 0, wide, 1);

    CHECK(allows(hole, "10.0.255.255"));
    CHECK(!allows(hole, "10.1.0.0"));
    CHECK(!allows(hole, "10.1.255.255"));
    CHECK(allows(hole, "10.2.0.0"));
    CHECK(!allows(hole, "11.0.0.0"));
    CHECK(!allows(closed, "10.1.2.3"));
    CHECK(!allows(closed, "10.2.0.0"));
    CHECK(!allows(only, "10.1.2.3"));
    CHECK(allows(only, "11.1.2.3"));
    CHECK(allows(only, "fd00::1"));
    sv_acl_free(hole);
    sv_acl_free(closed);
    sv_acl_free(only);
}

/* An administrator who allows or blocks "all of IPv6" said nothing about IPv4. */
static void ip6_patterns_hold_no_ip4(void)
{
    static const char *const wide[] = {"::/0",      "::/64", "*:*:*:*:*:*:*:*",
                                       "::-ffff::", "::/80", "0:0:0:0:0:*:*:*"};

    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) {
        const char *const with_ip4[] = {wide[i], "10.0.0.0/8"};
        struct sv_acl *allow = list(with_ip4, 2, NULL, 0), *deny = list(NULL, 0, wide + i, 1);

        CHECK(allows(allow, "10.0.0.1"));
        CHECK(!allows(allow, "11.0.0.1"));
        CHECK(!allows(allow, "0.0.0.0"));
        CHECK(!allows(allow, "255.255.255.255"));
        CHECK(allows(allow, "::fffe:ffff:ffff"));
        CHECK(!allows(deny, "::1:2"));
        CHECK(!allows(deny, "::fffe:ffff:ffff"));
        CHECK(allows(deny, "10.0.0.1"));
        CHECK(allows(deny, "255.255.255.255"));
        sv_acl_free(allow);
        sv_acl_free(deny);
    }
}

static void both_sides_of_the_ip4_addresses(void)
{
    static const char *const around[] = {"::fffe:ffff:fffe-::1:0:0:1"};
    struct sv_acl *acl = list(around, 1, NULL, 0);

    CHECK(!allows(acl, "::fffe:ffff:fffd"));
    CHECK(allows(acl, "::fffe:ffff:fffe"));
    CHECK(allows(acl, "::fffe:ffff:ffff"));
    CHECK(!allows(acl, "0.0.0.0"));
    CHECK(!allows(acl, "255.255.255.255"));
    CHECK(allows(acl, "::1:0:0:0"));
    CHECK(allows(acl, "::1:0:0:1"));
    CHECK(!allows(acl, "::1:0:0:2"));
    sv_acl_free(acl);
}

static void overlapping_patterns_join(void)
{
    static const char *const allow[] = {
        "10.0.0.5-10.0.0.9", "10.0.0.0/29",         "10.0.0.7",    "10.0.0.10-10.0.0.11",
        "10.0.0.0-10.0.0.3", "10.0.0.200-10.0.1.3", "10.0.0.0/29",
    };
    struct sv_acl *acl = list(allow, sizeof allow / sizeof *allow, NULL, 0);

    for (unsigned i = 0; i < 512; i++) {
        char text[TEXT];

        snprintf(text, sizeof text, "10.0.%u.%u", i / 256, i % 256);
        CHECK_EQ(allows(acl, text), i <= 11 || (i >= 200 && i <= 256 + 3));
    }
    CHECK(!allows(acl, "9.255.255.255"));
    sv_acl_free(acl);
}

/* ---- against reading the patterns one by one ---- */

struct pattern {
    char text[TEXT];
    uint8_t first[16], last[16];
    bool is4;
};

static void add_one(uint8_t addr[16], int step)
{
    for (int i = 15; i >= 0; i--) {
        addr[i] = (uint8_t)(addr[i] + step);
        if (addr[i] != (step > 0 ? 0 : 0xFF)) {
            return;
        }
    }
}

/* Few bytes differ, so that ranges overlap, and the two families lie close to each other. */
static void random_addr(uint8_t addr[16], bool is4)
{
    static const uint8_t corners[] = {0, 1, 0x7F, 0x80, 0xFE, 0xFF};

    memset(addr, 0, 16);
    addr[10] = addr[11] = 0xFF;
    for (int i = is4 ? 12 : random_below(2) ? 8 : 0; i < 16; i++) {
        addr[i] = random_below(2) ? corners[random_below(sizeof corners)] : addr[i];
    }
    if (!is4 && sv_addr_is4(addr)) {
        addr[11] = random_below(2) ? 0xFE : 0;
    }
}

static void make_cidr(struct pattern *p)
{
    unsigned bits = p->is4 ? 96 + random_below(33) : random_below(129);
    char text[50];

    snprintf(p->text, TEXT, "%s/%u", sv_addr_format(text, sizeof text, p->first), p->is4 ? bits - 96 : bits);
    for (unsigned i = bits; i < 128; i++) {
        p->first[i / 8] &= (uint8_t)~(0x80 >> i % 8);
        p->last[i / 8] |= (uint8_t)(0x80 >> i % 8);
    }
}

static void make_range(struct pattern *p)
{
    char from[50], to[50];

    random_addr(p->last, p->is4);
    if (memcmp(p->first, p->last, 16) > 0) {
        uint8_t first[16];

        memcpy(first, p->first, 16);
        memcpy(p->first, p->last, 16);
        memcpy(p->last, first, 16);
    }
    snprintf(p->text, TEXT, "%s-%s", sv_addr_format(from, sizeof from, p->first),
             sv_addr_format(to, sizeof to, p->last));
}

/* The text is built group by group, so that no "::" takes the stars' place. */
static void make_wildcard(struct pattern *p)
{
    unsigned groups = p->is4 ? 4 : 8, width = p->is4 ? 1 : 2, stars = 1 + random_below(groups);
    uint8_t *group = p->first + (p->is4 ? 12 : 0);
    size_t n = 0;

    for (unsigned i = 0; i < groups; i++, group += width) {
        unsigned value = p->is4 ? group[0] : sv_load16be(group);
        bool star = i >= groups - stars;

        n += (size_t)snprintf(p->text + n, TEXT - n, star ? "*" : p->is4 ? "%u" : "%x", value);
        n += (size_t)snprintf(p->text + n, TEXT - n, "%s", i + 1 == groups ? "" : p->is4 ? "." : ":");
        if (star) {
            memset(group, 0, width);
            memset(group - p->first + p->last, 0xFF, width);
        }
    }
}

static void make_pattern(struct pattern *p)
{
    p->is4 = random_below(2);
    random_addr(p->first, p->is4);
    memcpy(p->last, p->first, 16);
    switch (random_below(4)) {
    case 0:
        sv_addr_format(p->text, TEXT, p->first);
        break;
    case 1:
        make_cidr(p);
        break;
    case 2:
        make_range(p);
        break;
    default:
        make_wildcard(p);
        break;
    }
}

static bool holds(const struct pattern *p, const uint8_t addr[16])
{
    return p->is4 == sv_addr_is4(addr) && memcmp(p->first, addr, 16) <= 0 && memcmp(addr, p->last, 16) <= 0;
}

static bool any_holds(const struct pattern *patterns, size_t count, const uint8_t addr[16])
{
    for (size_t i = 0; i < count; i++) {
        if (holds(&patterns[i], addr)) {
            return true;
        }
    }
    return false;
}

/* Any address, or one at the edge of a pattern. */
static void probe(uint8_t addr[16], const struct pattern *patterns, size_t count)
{
    random_addr(addr, random_below(2));
    if (count && random_below(4)) {
        const struct pattern *p = &patterns[random_below((uint32_t)count)];

        memcpy(addr, random_below(2) ? p->first : p->last, 16);
        if (random_below(2)) {
            add_one(addr, random_below(2) ? 1 : -1);
        }
    }
}

static void one_round(void)
{
    static struct pattern patterns[PATTERNS_MAX];
    const char *texts[PATTERNS_MAX];
    size_t count = random_below(PATTERNS_MAX + 1), allow = random_below((uint32_t)count + 1);
    struct sv_acl *acl;

    for (size_t i = 0; i < count; i++) {
        uint8_t first[16], last[16];

        make_pattern(&patterns[i]);
        texts[i] = patterns[i].text;
        CHECK_EQ(sv_acl_parse(texts[i], first, last), 0);
        CHECK_MEM(first, patterns[i].first, 16);
        CHECK_MEM(last, patterns[i].last, 16);
    }
    acl = list(texts, allow, texts + allow, count - allow);
    for (int i = 0; i < PROBES; i++) {
        uint8_t addr[16];

        probe(addr, patterns, count);
        CHECK_EQ(sv_acl_allows(acl, addr), (allow == 0 || any_holds(patterns, allow, addr)) &&
                                               !any_holds(patterns + allow, count - allow, addr));
    }
    sv_acl_free(acl);
}

static void agrees_with_reading_one_by_one(void)
{
    for (int i = 0; i < ROUNDS; i++) {
        one_round();
    }
}

/* A usual long list: many single addresses, every second one. */
static void ten_thousand_patterns(void)
{
    enum { MANY = 10000 };
    static char texts[MANY][16];
    static const char *patterns[MANY];
    struct sv_acl *acl;

    for (uint32_t i = 0; i < MANY; i++) {
        uint32_t host = (i * 7919 % MANY) * 2;

        snprintf(texts[i], sizeof texts[i], "10.1.%u.%u", host / 256, host % 256);
        patterns[i] = texts[i];
    }
    acl = list(patterns, MANY, NULL, 0);
    for (uint32_t host = 0; host < 2 * MANY; host++) {
        char text[TEXT];

        snprintf(text, sizeof text, "10.1.%u.%u", host / 256, host % 256);
        CHECK_EQ(allows(acl, text), host % 2 == 0);
    }
    sv_acl_free(acl);
}

/* ---- never ---- */

static void some_addresses_are_never_reached(void)
{
    static const char *const texts[] = {
        "0.0.0.0",
        "0.255.255.255",
        "127.0.0.0",
        "127.0.0.1",
        "127.255.255.255",
        "169.254.0.0",
        "169.254.169.254",
        "169.254.255.255",
        "224.0.0.0",
        "239.255.255.255",
        "240.0.0.0",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::",
        "fe80::1",
        "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "ff00::",
        "ff02::1",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:224.0.0.1",
    };

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        CHECK(never(texts[i]));
    }
}

static void their_neighbours_are_reached(void)
{
    static const char *const texts[] = {
        "1.0.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "168.254.1.1",
        "223.255.255.255",
        "10.0.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "::2",
        "::1:0",
        "fec0::",
        "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "fd00::1",
        "2001:db8::1",
        "1::",
        "1::1",
        "::fffe:7f00:1",
    };

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        CHECK(!never(texts[i]));
    }
}

int main(void)
{
    RUN(every_form_in_both_families);
    RUN(wrong_patterns);
    RUN(empty_lists_allow_all);
    RUN(an_allow_list_allows_nothing_else);
    RUN(deny_overrides_allow);
    RUN(ip6_patterns_hold_no_ip4);
    RUN(both_sides_of_the_ip4_addresses);
    RUN(overlapping_patterns_join);
    RUN(agrees_with_reading_one_by_one);
    RUN(ten_thousand_patterns);
    RUN(some_addresses_are_never_reached);
    RUN(their_neighbours_are_reached);
    return CHECK_DONE("policy_acl");
}
