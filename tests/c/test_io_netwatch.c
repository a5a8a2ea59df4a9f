/* Changes of addresses, routes and interfaces are noticed, in a network namespace of the test's own. */
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "io/netwatch.h"
#include "policy/prefix.h"
#include "tests/c/check.h"
#include <smartvpn/base.h>

enum { WAIT_MS = 5000, QUIET_MS = 300 };

static struct sv_loop loop;
static struct sv_timer *patience;
static int changes;

static void on_change(void *ctx, bool slept)
{
    (void)ctx;
    CHECK(!slept);
    changes++;
    sv_loop_stop(&loop);
}

static void on_patience(void *ctx)
{
    (void)ctx;
    sv_loop_stop(&loop);
}

/* What is told within that time, up to one change. */
static int told_within(uint64_t ms)
{
    changes = 0;
    sv_timer_set(patience, sv_clock_now() + ms * SV_NS_PER_MS);
    sv_loop_run(&loop);
    return changes;
}

static void ip(const char *what)
{
    char command[256];

    snprintf(command, sizeof command, "ip %s", what);
    CHECK_EQ(system(command), 0);
}

static void every_change_is_told(void)
{
    const char *const steps[] = {
        "link add one type veth peer name two",    "link set one up",
        "address add 192.0.2.1/24 dev one",        "link set two up",
        "route add 198.51.100.0/24 via 192.0.2.9", "route del 198.51.100.0/24",
        "address del 192.0.2.1/24 dev one",        "link del one",
    };
    struct sv_netwatch *watch = sv_netwatch_new(&loop, 0, on_change, NULL);

    CHECK(watch != NULL);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        ip(steps[i]);
        CHECK_EQ(told_within(WAIT_MS), 1);
        while (told_within(QUIET_MS)) {
        }
    }
    sv_netwatch_close(watch);
}

static void a_burst_is_one_change(void)
{
    struct sv_netwatch *watch = sv_netwatch_new(&loop, 0, on_change, NULL);

    ip("link add one type veth peer name two");
    while (told_within(QUIET_MS)) {
    }
    ip("address add 192.0.2.1/32 dev one");
    ip("address add 192.0.2.2/32 dev one");
    ip("address add 192.0.2.3/32 dev one");
    CHECK_EQ(told_within(WAIT_MS), 1);
    CHECK_EQ(told_within(QUIET_MS), 0);
    sv_netwatch_close(watch);
    ip("link del one");
}

static void the_excepted_interface_is_silent(void)
{
    struct sv_netwatch *watch;

    ip("link add one type veth peer name two");
    ip("link set two up");
    watch = sv_netwatch_new(&loop, if_nametoindex("one"), on_change, NULL);
    while (told_within(QUIET_MS)) {
    }
    ip("address add 192.0.2.1/24 dev one");
    ip("link set one mtu 1400");
    CHECK_EQ(told_within(QUIET_MS), 0);
    ip("address add 203.0.113.1/24 dev two");
    CHECK_EQ(told_within(WAIT_MS), 1);
    sv_netwatch_close(watch);
    ip("link del one");
}

static void the_source_follows_the_routes(void)
{
    uint8_t remote[16], local[16], expected[16];

    CHECK_EQ(sv_addr_parse(remote, "198.51.100.7"), 0);
    CHECK_EQ(sv_source_address(local, remote), SV_E_UNREACHABLE);
    ip("link add one type veth peer name two");
    ip("link set one up");
    ip("link set two up");
    ip("address add 192.0.2.1/24 dev one");
    ip("route add 198.51.100.0/24 via 192.0.2.9");
    CHECK_EQ(sv_addr_parse(expected, "192.0.2.1"), 0);
    CHECK_EQ(sv_source_address(local, remote), 0);
    CHECK_MEM(local, expected, 16);
    ip("link del one");
    CHECK_EQ(sv_source_address(local, remote), SV_E_UNREACHABLE);
}

static void the_way_is_an_interface(void)
{
    uint8_t remote[2][16];
    unsigned through, lo = if_nametoindex("lo");

    CHECK_EQ(sv_addr_parse(remote[0], "198.51.100.7"), 0);
    CHECK_EQ(sv_addr_parse(remote[1], "2001:db8::7"), 0);
    ip("link set lo up");
    ip("link add one type veth peer name two");
    ip("link set one up");
    ip("link set two up");
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(sv_way_interface(&through, remote[i]), SV_E_UNREACHABLE);
    }
    ip("address add 192.0.2.1/24 dev one");
    ip("route add 198.51.100.0/24 via 192.0.2.9");
    ip("-6 address add fd97::1/64 dev two nodad");
    ip("-6 route add 2001:db8::/64 via fd97::9");
    CHECK_EQ(sv_way_interface(&through, remote[0]), 0);
    CHECK_EQ(through, if_nametoindex("one"));
    CHECK_EQ(sv_way_interface(&through, remote[1]), 0);
    CHECK_EQ(through, if_nametoindex("two"));
    ip("route add unreachable 198.51.100.7");
    ip("-6 route add unreachable 2001:db8::7");
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(sv_way_interface(&through, remote[i]), SV_E_UNREACHABLE);
    }
    CHECK_EQ(sv_addr_parse(remote[0], "192.0.2.1"), 0);
    CHECK_EQ(sv_way_interface(&through, remote[0]), 0);
    CHECK_EQ(through, lo);
    ip("link del one");
}

int main(void)
{
    if (unshare(CLONE_NEWNET)) {
        printf("io/netwatch: skipped, no namespace: %s\n", strerror(errno));
        return 0;
    }
    CHECK_EQ(sv_loop_init(&loop, NULL, NULL, NULL), 0);
    patience = sv_timer_new(&loop, on_patience, NULL);
    RUN(every_change_is_told);
    RUN(a_burst_is_one_change);
    RUN(the_excepted_interface_is_silent);
    RUN(the_source_follows_the_routes);
    RUN(the_way_is_an_interface);
    sv_timer_close(patience);
    sv_loop_clear(&loop);
    return CHECK_DONE("io/netwatch");
}
