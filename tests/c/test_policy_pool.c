/* Addresses are given out once, lowest first, in both families alike; the network, the hub and the broadcast address
 * never. */
#include "tests/c/check.h"

#include <smartvpn/base.h>

#include "policy/pool.h"
#include "tests/c/random.h"

static struct sv_pool *pool_of(const char *subnet, const char *subnet6)
{
    struct sv_prefix four, six;
    struct sv_pool *pool = NULL;

    CHECK_EQ(sv_prefix_parse(&four, subnet), 0);
    if (subnet6) {
        CHECK_EQ(sv_prefix_parse(&six, subnet6), 0);
    }
    CHECK_EQ(sv_pool_new(&pool, &four, subnet6 ? &six : NULL), 0);
    return pool;
}

static int refuse(const char *subnet, const char *subnet6)
{
    struct sv_prefix four, six;
    struct sv_pool *pool;

    CHECK_EQ(sv_prefix_parse(&four, subnet), 0);
    CHECK_EQ(sv_prefix_parse(&six, subnet6 ? subnet6 : "::/0"), 0);
    return sv_pool_new(&pool, &four, subnet6 ? &six : NULL);
}

static uint32_t take(struct sv_pool *pool)
{
    uint32_t index = 0;

    CHECK_EQ(sv_pool_take(pool, &index), 0);
    return index;
}

static void check_text(const uint8_t addr[16], const char *expected)
{
    char text[64];

    CHECK_STR(sv_addr_format(text, sizeof text, addr), expected);
}

static int index_of(const struct sv_pool *pool, const char *text, uint32_t *index)
{
    uint8_t addr[16];

    CHECK_EQ(sv_addr_parse(addr, text), 0);
    return sv_pool_index(pool, addr, index);
}

static void the_lowest_free_comes_first(void)
{
    struct sv_pool *pool = pool_of("10.8.0.0/24", NULL);

    CHECK_EQ(sv_pool_available(pool), 253);
    CHECK_EQ(take(pool), 2);
    CHECK_EQ(take(pool), 3);
    CHECK_EQ(take(pool), 4);
    sv_pool_release(pool, 3);
    sv_pool_release(pool, 2);
    CHECK_EQ(take(pool), 2);
    CHECK_EQ(take(pool), 3);
    CHECK_EQ(take(pool), 5);
    CHECK_EQ(sv_pool_available(pool), 249);
    sv_pool_free(pool);
}

static void a_full_pool_says_so_and_goes_on_after_a_release(void)
{
    struct sv_pool *pool = pool_of("10.8.0.0/29", NULL);
    uint32_t index = 99;

    for (uint32_t i = 2; i <= 6; i++) {
        CHECK_EQ(take(pool), i);
    }
    CHECK_EQ(sv_pool_take(pool, &index), SV_E_FULL);
    CHECK_EQ(sv_pool_available(pool), 0);
    sv_pool_release(pool, 4);
    CHECK_EQ(take(pool), 4);
    CHECK_EQ(sv_pool_take(pool, &index), SV_E_FULL);
    sv_pool_free(pool);
}

static void one_index_is_given_once(void)
{
    struct sv_pool *pool = pool_of("10.8.0.0/24", NULL);

    CHECK_EQ(sv_pool_take_index(pool, 2), 0);
    CHECK_EQ(sv_pool_take_index(pool, 2), SV_E_EXISTS);
    CHECK_EQ(sv_pool_take_index(pool, 254), 0);
    CHECK_EQ(take(pool), 3);
    sv_pool_free(pool);
}

static void network_hub_and_broadcast_are_never_given(void)
{
    static const uint32_t wrong[] = {0, 1, 255, 256, UINT32_MAX};
    struct sv_pool *pool = pool_of("10.8.0.0/24", NULL);

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        CHECK_EQ(sv_pool_take_index(pool, wrong[i]), SV_E_INVALID);
        sv_pool_release(pool, wrong[i]);
    }
    CHECK_EQ(sv_pool_available(pool), 253);
    sv_pool_free(pool);
}

static void releasing_twice_counts_once(void)
{
    struct sv_pool *pool = pool_of("10.8.0.0/24", NULL);

    take(pool);
    sv_pool_release(pool, 2);
    sv_pool_release(pool, 2);
    sv_pool_release(pool, 77);
    CHECK_EQ(sv_pool_available(pool), 253);
    sv_pool_free(pool);
}

static void both_families_have_the_same_index(void)
{
    struct sv_pool *pool = pool_of("10.8.0.0/16", "fd00:8::/64");
    uint8_t addr[16];
    uint32_t index;

    sv_pool_addr4(pool, 0x1234, addr);
    check_text(addr, "10.8.18.52");
    CHECK(sv_pool_addr6(pool, 0x1234, addr));
    check_text(addr, "fd00:8::1234");
    CHECK_EQ(index_of(pool, "10.8.18.52", &index), 0);
    CHECK_EQ(index, 0x1234);
    CHECK_EQ(index_of(pool, "fd00:8::1234", &index), 0);
    CHECK_EQ(index, 0x1234);
    sv_pool_free(pool);
}

static void addresses_outside_have_no_index(void)
{
    static const char *const outside[] = {"10.8.0.0",   "10.8.0.1",  "10.8.0.255",    "10.8.1.2",
                                          "10.7.255.2", "fd00:8::1", "fd00:8:0:1::2", "fd00:8::1:0:0",
                                          "fd00::2",    "::"};
    struct sv_pool *pool = pool_of("10.8.0.0/24", "fd00:8::/64"), *four = pool_of("10.8.0.0/24", NULL);
    uint8_t addr[16];
    uint32_t index;

    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
        CHECK_EQ(index_of(pool, outside[i], &index), SV_E_INVALID);
    }
    CHECK_EQ(index_of(four, "fd00:8::2", &index), SV_E_INVALID);
    CHECK(!sv_pool_addr6(four, 2, addr));
    sv_pool_free(pool);
    sv_pool_free(four);
}

/* A /126 of IPv6 has room for a /30 of IPv4, a /127 has not. */
static void subnets_that_do_not_fit_are_refused(void)
{
    CHECK_EQ(refuse("10.8.0.0/31", NULL), SV_E_INVALID);
    CHECK_EQ(refuse("10.8.0.1/32", NULL), SV_E_INVALID);
    CHECK_EQ(refuse("fd00:8::/64", NULL), SV_E_INVALID);
    CHECK_EQ(refuse("::/0", NULL), SV_E_INVALID);
    CHECK_EQ(refuse("10.8.0.0/24", "fd00:8::/121"), SV_E_INVALID);
    sv_pool_free(pool_of("10.8.0.0/30", "fd00:8::/126"));
    CHECK_EQ(refuse("10.8.0.0/30", "fd00:8::/127"), SV_E_INVALID);
}

static void the_smallest_has_one_host(void)
{
    struct sv_pool *pool = pool_of("10.8.0.0/30", NULL);
    uint32_t index;

    CHECK_EQ(sv_pool_available(pool), 1);
    CHECK_EQ(take(pool), 2);
    CHECK_EQ(sv_pool_take(pool, &index), SV_E_FULL);
    sv_pool_free(pool);
}

static void a_whole_ipv4_internet_is_bounded(void)
{
    struct sv_pool *pool = pool_of("0.0.0.0/0", NULL);

    CHECK_EQ(sv_pool_available(pool), (1 << 24) - 2);
    CHECK_EQ(sv_pool_take_index(pool, (1 << 24) - 1), 0);
    CHECK_EQ(sv_pool_take_index(pool, 1 << 24), SV_E_INVALID);
    sv_pool_free(pool);
}

/* Against a plain list: never one twice, never a gap below. */
static void it_agrees_with_a_list(void)
{
    struct sv_pool *pool = pool_of("10.8.0.0/22", NULL);
    bool taken[1024] = {false};
    size_t count = 0;

    for (size_t i = 0; i < 200000; i++) {
        uint32_t index = 2, lowest = 2;

        if (random_below(100) < 51) {
            while (lowest < 1023 && taken[lowest]) {
                lowest++;
            }
            if (sv_pool_take(pool, &index) == 0) {
                CHECK_EQ(index, lowest);
                taken[index] = true;
                count++;
            } else {
                CHECK_EQ(count, 1021);
            }
        } else {
            index = 2 + random_below(1021);
            sv_pool_release(pool, index);
            count -= taken[index];
            taken[index] = false;
        }
        CHECK_EQ(sv_pool_available(pool), 1021 - count);
    }
    sv_pool_free(pool);
}

int main(void)
{
    RUN(the_lowest_free_comes_first);
    RUN(a_full_pool_says_so_and_goes_on_after_a_release);
    RUN(one_index_is_given_once);
    RUN(network_hub_and_broadcast_are_never_given);
    RUN(releasing_twice_counts_once);
    RUN(both_families_have_the_same_index);
    RUN(addresses_outside_have_no_index);
    RUN(subnets_that_do_not_fit_are_refused);
    RUN(the_smallest_has_one_host);
    RUN(a_whole_ipv4_internet_is_bounded);
    RUN(it_agrees_with_a_list);
    return CHECK_DONE("policy/pool");
}
