/* What handshakes may cost: cookies are asked for beyond a rate, each source gets its own few, and all of them together a bounded number,
 * whoever sends how many. */
#include "tests/c/check.h"

#include <stdlib.h>

#include "base/clock.h"
#include "engine/wg_load.h"

static const uint64_t START = 3600 * SV_NS_PER_S;
static const uint8_t secret[16] = "sixteen bytes..";

/* 10.x.y.z, or a network's host behind 2001:db8:. */
static const uint8_t *ip4(uint32_t host)
{
    static uint8_t address[16] = {[10] = 0xFF, [11] = 0xFF, [12] = 10};

    address[13] = (uint8_t)(host >> 16);
    address[14] = (uint8_t)(host >> 8);
    address[15] = (uint8_t)host;
    return address;
}

static const uint8_t *ip6(uint8_t network, uint8_t host)
{
    static uint8_t address[16] = {0x20, 0x01, 0x0d, 0xb8};

    address[6] = network;
    address[15] = host;
    return address;
}

typedef bool (*gate)(struct sv_wg_load *load, uint64_t now, const uint8_t source[16]);

/* How many of `tries`, spread over a second, the gate lets pass. */
static unsigned in_a_second(struct sv_wg_load *load, gate pass, uint64_t from, unsigned tries,
                            const uint8_t *source)
{
    unsigned passed = 0;

    for (unsigned i = 0; i < tries; i++) {
        passed += pass(load, from + i * (SV_NS_PER_S / tries), source);
    }
    return passed;
}

static void load_begins_and_ends(void)
{
    struct sv_wg_load load;

    CHECK_EQ(sv_wg_load_init(&load, secret), 0);
    for (unsigned i = 0; i < SV_WG_LOAD_PER_SEC; i++) {
        CHECK(!sv_wg_load_note(&load, START + i));
    }
    CHECK(sv_wg_load_note(&load, START + 1000));
    CHECK(sv_wg_load_note(&load, START + SV_NS_PER_S + 999));
    CHECK(!sv_wg_load_note(&load, START + SV_NS_PER_S + 1000));
    sv_wg_load_clear(&load);
}

/* A rate below the threshold is never load, in whatever seconds it is counted. */
static void few_are_no_load(void)
{
    struct sv_wg_load load;

    CHECK_EQ(sv_wg_load_init(&load, secret), 0);
    for (uint64_t i = 0; i < 10 * SV_WG_LOAD_PER_SEC; i++) {
        CHECK(!sv_wg_load_note(&load, START + i * (SV_NS_PER_S / SV_WG_LOAD_PER_SEC + 1)));
    }
    sv_wg_load_clear(&load);
}

/* 20 at once, then 20 a second; who has used them up has taken nothing from others. */
static void a_source_enters_so_often(void)
{
    struct sv_wg_load load;

    CHECK_EQ(SV_ADMISSION_RATE, 20);
    CHECK_EQ(sv_wg_load_init(&load, secret), 0);
    for (unsigned i = 0; i < 100; i++) {
        CHECK_EQ(sv_wg_load_may_enter(&load, START, ip4(1)), i < 20);
    }
    for (unsigned i = 0; i < 100; i++) {
        CHECK_EQ(sv_wg_load_may_enter(&load, START, ip4(2)), i < 20);
    }
    CHECK(!sv_wg_load_may_enter(&load, START + SV_NS_PER_S / 20 - 1, ip4(1)));
    CHECK(sv_wg_load_may_enter(&load, START + SV_NS_PER_S / 20, ip4(1)));
    CHECK(!sv_wg_load_may_enter(&load, START + SV_NS_PER_S / 20, ip4(1)));
    for (uint64_t second = 2; second < 10; second++) {
        CHECK_EQ(in_a_second(&load, sv_wg_load_may_enter, START + second * SV_NS_PER_S, 1000, ip4(1)),
                 second == 2 ? 20 + 19 : 20);
    }
    sv_wg_load_clear(&load);
}

/* IPv6: whoever has one address has its whole network, of 56 bits. */
static void a_source_is_a_network(void)
{
    struct sv_wg_load load;

    CHECK_EQ(sv_wg_load_init(&load, secret), 0);
    for (uint8_t host = 0; host < 100; host++) {
        CHECK_EQ(sv_wg_load_may_enter(&load, START, ip6(1, host)), host < 20);
    }
    CHECK(sv_wg_load_may_enter(&load, START, ip6(2, 0)));
    sv_wg_load_clear(&load);
}

/* Showing cookies and asking for them are counted apart: who forges another's address takes nothing of what that one has shown. */
static void asking_costs_no_entry(void)
{
    struct sv_wg_load load;

    CHECK_EQ(sv_wg_load_init(&load, secret), 0);
    for (unsigned i = 0; i < 1000; i++) {
        sv_wg_load_may_ask(&load, START, ip4(1));
    }
    for (unsigned i = 0; i < 20; i++) {
        CHECK(sv_wg_load_may_enter(&load, START, ip4(1)));
    }
    sv_wg_load_clear(&load);
}

/* However many sources show their cookies. */
static void all_sources_enter_so_often(void)
{
    struct sv_wg_load load;
    unsigned passed = 0, tries = 200000;

    CHECK_EQ(sv_wg_load_init(&load, secret), 0);
    for (unsigned i = 0; i < tries; i++) {
        passed += sv_wg_load_may_enter(&load, START + i * (SV_NS_PER_S / tries), ip4(i % 50000));
    }
    CHECK(passed >= SV_WG_OPENED_PER_SEC && passed <= SV_WG_OPENED_PER_SEC + SV_WG_OPENED_PER_SEC / 8);
    sv_wg_load_clear(&load);
}

/* One source, however loud: a bounded number of cookies, and others still get theirs at any moment. */
static void a_loud_source_leaves_cookies_to_others(void)
{
    struct sv_wg_load load;
    unsigned passed = 0, tries = 1000000, quiet = 0;

    CHECK_EQ(sv_wg_load_init(&load, secret), 0);
    for (unsigned i = 0; i < tries; i++) {
        uint64_t now = START + i * (SV_NS_PER_S / tries);

        passed += sv_wg_load_may_ask(&load, now, ip4(1));
        if (i % 1000 == 999) {
            CHECK(sv_wg_load_may_ask(&load, now, ip4(2 + i)));
            quiet++;
        }
    }
    CHECK(passed + quiet <= SV_WG_COOKIES_PER_SEC + SV_WG_COOKIES_PER_SEC / 8);
    CHECK(passed + quiet >= SV_WG_COOKIES_PER_SEC);
    sv_wg_load_clear(&load);
}

/* Forged addresses without number get no more. */
static void all_sources_ask_so_often(void)
{
    struct sv_wg_load load;
    unsigned passed = 0, tries = 1000000;

    CHECK_EQ(sv_wg_load_init(&load, secret), 0);
    for (unsigned i = 0; i < tries; i++) {
        passed += sv_wg_load_may_ask(&load, START + i * (SV_NS_PER_S / tries), ip4(i));
    }
    CHECK(passed >= SV_WG_COOKIES_PER_SEC && passed <= SV_WG_COOKIES_PER_SEC + SV_WG_COOKIES_PER_SEC / 8);
    sv_wg_load_clear(&load);
}

int main(void)
{
    RUN(load_begins_and_ends);
    RUN(few_are_no_load);
    RUN(a_source_enters_so_often);
    RUN(a_source_is_a_network);
    RUN(asking_costs_no_entry);
    RUN(all_sources_enter_so_often);
    RUN(a_loud_source_leaves_cookies_to_others);
    RUN(all_sources_ask_so_often);
    return CHECK_DONE("engine_wg_load");
}
