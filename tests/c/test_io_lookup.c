/* Names are looked up beside the loop, which ends without them; hosts and ports in text. */
#include "io/lookup.h"

#include <smartvpn/base.h>
#include <string.h>

#include "base/clock.h"
#include "policy/prefix.h"
#include "tests/c/check.h"

static struct sv_loop loop;
static struct sv_addresses found;
static char why[512];
static int answers;

static void on_found(void *ctx, const struct sv_addresses *addresses, const char *words)
{
    CHECK(ctx == &answers);
    answers++;
    found = *addresses;
    snprintf(why, sizeof why, "%s", words);
}

static void look_up(const char *host)
{
    struct sv_lookup *lookup;

    answers = 0;
    CHECK_EQ(sv_loop_init(&loop, NULL, NULL, NULL), 0);
    CHECK_EQ(sv_lookup_start(&lookup, &loop, host, on_found, &answers), 0);
    while (!answers) {
        uv_run(&loop.uv, UV_RUN_ONCE);
    }
    sv_loop_clear(&loop);
    CHECK_EQ(answers, 1);
}

static bool has(const char *text)
{
    struct sv_address one = {0};

    CHECK_EQ(sv_addr_parse(one.ip, text), 0);
    return sv_addresses_have(&found, &one);
}

static void a_name_is_looked_up(void)
{
    look_up("localhost");
    CHECK(has("127.0.0.1") || has("::1"));
    look_up("192.0.2.7");
    CHECK_EQ(found.count, 1);
    CHECK(has("192.0.2.7"));
}

static void a_name_without_address_is_told_in_words(void)
{
    look_up("no-such-name.invalid");
    CHECK_EQ(found.count, 0);
    CHECK(strncmp(why, "no-such-name.invalid: ", 22) == 0);
}

/* The loop ends at once, however long the resolver takes, and nobody is called. */
static void what_is_dropped_holds_nothing_up(void)
{
    struct sv_lookup *lookup;

    answers = 0;
    CHECK_EQ(sv_loop_init(&loop, NULL, NULL, NULL), 0);
    for (int i = 0; i < 8; i++) {
        CHECK_EQ(sv_lookup_start(&lookup, &loop, "no-such-name.invalid", on_found, &answers), 0);
        sv_lookup_drop(lookup);
    }
    sv_lookup_drop(NULL);
    sv_loop_clear(&loop);
    CHECK_EQ(answers, 0);
}

static void hosts_and_ports(void)
{
    static const char *const wrong[] = {"nowhere",    "",        ":443",    "host:",  "host:0",
                                        "host:65536", "host:4x", "::1:443", "a:b:443"};
    char host[SV_HOST_MAX], port[SV_PORT_MAX];
    struct sv_address address;

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK_EQ(sv_host_split(wrong[i], host, port), SV_E_INVALID);
    }
    CHECK_EQ(sv_host_split("hub.example:443", host, port), 0);
    CHECK_STR(host, "hub.example");
    CHECK_STR(port, "443");
    CHECK_EQ(sv_host_numeric(&address, host), SV_E_INVALID);
    CHECK_EQ(sv_host_split("[2001:db8::1]:65535", host, port), 0);
    CHECK_STR(host, "2001:db8::1");
    CHECK_STR(port, "65535");
    CHECK_EQ(sv_host_numeric(&address, host), 0);
}

static void addresses_are_few_and_none_twice(void)
{
    struct sv_addresses all = {0};
    struct sv_address one = {0};

    for (uint8_t i = 0; i < 20; i++) {
        one.ip[15] = i / 2;
        sv_addresses_add(&all, &one);
    }
    CHECK_EQ(all.count, SV_ADDRESSES_MAX);
    CHECK_EQ(all.list[7].ip[15], 7);
    one.scope = 1;
    CHECK(!sv_addresses_have(&all, &one));
}

int main(void)
{
    RUN(a_name_is_looked_up);
    RUN(a_name_without_address_is_told_in_words);
    RUN(what_is_dropped_holds_nothing_up);
    RUN(hosts_and_ports);
    RUN(addresses_are_few_and_none_twice);
    return CHECK_DONE("io/lookup");
}
