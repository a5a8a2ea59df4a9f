#include "io/netwatch.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "io/socket.h"
#include "policy/prefix.h"

enum {
    SETTLE_MS = 20,       /* an interface that comes up brings a burst of messages */
    SLEEP_LEAST_MS = 500, /* less is no sleep but the reading of two clocks */
};

struct sv_netwatch {
    struct sv_loop *loop;
    struct sv_watch *netlink_watch, *clock_watch;
    struct sv_timer *settle;
    int netlink, clock;
    unsigned except; /* our own interface */
    bool settling;
    uint64_t slept; /* ns, when last looked */
    void (*on_change)(void *ctx, bool slept);
    void *ctx;
};

/* ---- netlink ---- */

static int open_netlink(void)
{
    const struct sockaddr_nl addr = {
        .nl_family = AF_NETLINK,
        .nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE |
                     RTMGRP_IPV6_ROUTE,
    };
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

    if (fd >= 0 && bind(fd, (const struct sockaddr *)(const void *)&addr, sizeof addr)) {
        close(fd);
        return -1;
    }
    return fd;
}

static void settle_soon(struct sv_netwatch *watch)
{
    if (!watch->settling) {
        watch->settling = true;
        sv_timer_set(watch->settle, sv_clock_now() + SETTLE_MS * SV_NS_PER_MS);
    }
}

/* The interface of a route with one hop; 0: none or several. */
static unsigned route_interface(const struct nlmsghdr *message)
{
    const struct rtattr *attr = RTM_RTA(NLMSG_DATA(message));
    int len = (int)RTM_PAYLOAD(message);

    for (; RTA_OK(attr, len); attr = RTA_NEXT(attr, len)) {
        if (attr->rta_type == RTA_OIF && RTA_PAYLOAD(attr) >= sizeof(unsigned)) {
            return *(const unsigned *)RTA_DATA(attr);
        }
    }
    return 0;
}

static unsigned interface_of(const struct nlmsghdr *message)
{
    switch (message->nlmsg_type) {
    case RTM_NEWLINK:
    case RTM_DELLINK:
        return (unsigned)((const struct ifinfomsg *)NLMSG_DATA(message))->ifi_index;
    case RTM_NEWADDR:
    case RTM_DELADDR:
        return ((const struct ifaddrmsg *)NLMSG_DATA(message))->ifa_index;
    case RTM_NEWROUTE:
    case RTM_DELROUTE:
        return route_interface(message);
    default:
        return 0;
    }
}

static bool concerns(const struct sv_netwatch *watch, const struct nlmsghdr *message, ssize_t len)
{
    int left = (int)len;

    for (; NLMSG_OK(message, left); message = NLMSG_NEXT(message, left)) {
        if (!watch->except || interface_of(message) != watch->except) {
            return true;
        }
    }
    return false;
}

/* What is said matters less than that something was: whoever is told looks for himself. Messages that were lost (ENOBUFS) are news as well. */
static void on_netlink(void *ctx, int events)
{
    struct sv_netwatch *watch = ctx;
    _Alignas(struct nlmsghdr) char bytes[16384];
    bool news = false;

    (void)events;
    for (;;) {
        ssize_t n = recv(watch->netlink, bytes, sizeof bytes, MSG_DONTWAIT);

        if (n <= 0 && errno != ENOBUFS) {
            break;
        }
        news |= n <= 0 || concerns(watch, (const struct nlmsghdr *)(const void *)bytes, n);
    }
    if (news) {
        settle_soon(watch);
    }
}

/* ---- sleep ---- */

/* A timer of the wall clock that is never due, but is cancelled whenever that clock jumps, as it does on waking up (timerfd_create(2)). */
static void arm_clock(struct sv_netwatch *watch)
{
    const struct itimerspec never = {.it_value = {.tv_sec = UINT32_MAX}};

    timerfd_settime(watch->clock, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &never, NULL);
}

static bool has_slept(struct sv_netwatch *watch)
{
    uint64_t slept = sv_clock_slept(), before = watch->slept;

    watch->slept = slept;
    return slept > before + SLEEP_LEAST_MS * SV_NS_PER_MS;
}

static void on_clock(void *ctx, int events)
{
    struct sv_netwatch *watch = ctx;
    uint64_t count;

    (void)events;
    if (read(watch->clock, &count, sizeof count) < 0 && errno == EAGAIN) {
        return;
    }
    arm_clock(watch);
    if (sv_clock_slept() > watch->slept + SLEEP_LEAST_MS * SV_NS_PER_MS) {
        settle_soon(watch);
    }
}

static void on_settled(void *ctx)
{
    struct sv_netwatch *watch = ctx;

    watch->settling = false;
    watch->on_change(watch->ctx, has_slept(watch));
}

/* ---- making ---- */

static bool open_all(struct sv_netwatch *watch)
{
    watch->netlink = open_netlink();
    watch->clock = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    if (watch->netlink < 0 || watch->clock < 0) {
        return false;
    }
    watch->netlink_watch = sv_watch_new(watch->loop, watch->netlink, on_netlink, watch);
    watch->clock_watch = sv_watch_new(watch->loop, watch->clock, on_clock, watch);
    watch->settle = sv_timer_new(watch->loop, on_settled, watch);
    return watch->netlink_watch && watch->clock_watch && watch->settle;
}

struct sv_netwatch *sv_netwatch_new(struct sv_loop *loop, unsigned except,
                                    void (*on_change)(void *ctx, bool slept), void *ctx)
{
    struct sv_netwatch *watch = calloc(1, sizeof *watch);

    if (!watch) {
        return NULL;
    }
    *watch = (struct sv_netwatch){
        .loop = loop, .except = except, .netlink = -1, .clock = -1, .on_change = on_change, .ctx = ctx};
    if (!open_all(watch)) {
        sv_fail(SV_E_SYSTEM, "cannot listen to changes of the network: %s", strerror(errno));
        sv_netwatch_close(watch);
        return NULL;
    }
    watch->slept = sv_clock_slept();
    sv_watch_set(watch->netlink_watch, SV_READABLE);
    sv_watch_set(watch->clock_watch, SV_READABLE);
    arm_clock(watch);
    return watch;
}

static void close_fd(struct sv_watch *watch, int fd)
{
    if (watch) {
        sv_watch_close(watch);
    }
    if (fd >= 0) {
        close(fd);
    }
}

void sv_netwatch_close(struct sv_netwatch *watch)
{
    if (!watch) {
        return;
    }
    close_fd(watch->netlink_watch, watch->netlink);
    close_fd(watch->clock_watch, watch->clock);
    if (watch->settle) {
        sv_timer_close(watch->settle);
    }
    free(watch);
}

/* ---- the way there ---- */

int sv_source_address(uint8_t local[16], const uint8_t remote[16])
{
    char text[64];
    struct sockaddr_storage addr;
    socklen_t len;
    uint16_t port;
    int fd, error = SV_E_UNREACHABLE;

    if (sv_sockaddr_parse(&addr, &len, sv_sockaddr_format(text, sizeof text, remote, 9))) {
        return SV_E_INVALID;
    }
    fd = socket(addr.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return SV_E_SYSTEM;
    }
    if (connect(fd, (struct sockaddr *)&addr, len) == 0) {
        len = sizeof addr;
        if (getsockname(fd, (struct sockaddr *)&addr, &len) == 0) {
            sv_sockaddr_split(&addr, local, &port);
            error = 0;
        }
    }
    close(fd);
    return error;
}

struct route_request {
    struct nlmsghdr header;
    struct rtmsg route;
    struct rtattr destination;
    uint8_t address[16];
};

static void fill_request(struct route_request *request, const uint8_t remote[16])
{
    bool is4 = sv_addr_is4(remote);
    uint8_t size = is4 ? 4 : 16;

    *request = (struct route_request){
        .header = {.nlmsg_type = RTM_GETROUTE, .nlmsg_flags = NLM_F_REQUEST},
        .route = {.rtm_family = is4 ? AF_INET : AF_INET6, .rtm_dst_len = (uint8_t)(8 * size)},
        .destination = {.rta_type = RTA_DST, .rta_len = (unsigned short)RTA_LENGTH(size)},
    };
    request->header.nlmsg_len = (uint32_t)(offsetof(struct route_request, address) + size);
    memcpy(request->address, is4 ? remote + 12 : remote, size);
}

int sv_way_interface(unsigned *interface, const uint8_t remote[16])
{
    _Alignas(struct nlmsghdr) char bytes[4096];
    const struct nlmsghdr *answer = (const struct nlmsghdr *)(const void *)bytes;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    struct route_request request;
    ssize_t n = -1;

    if (fd < 0) {
        return SV_E_SYSTEM;
    }
    fill_request(&request, remote);
    if (send(fd, &request, request.header.nlmsg_len, 0) >= 0) {
        n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT); /* the kernel answers before send returns */
    }
    close(fd);
    if (n < (ssize_t)sizeof *answer || !NLMSG_OK(answer, (int)n)) {
        return SV_E_SYSTEM;
    }
    *interface = answer->nlmsg_type == RTM_NEWROUTE ? route_interface(answer) : 0;
    return *interface ? 0 : SV_E_UNREACHABLE;
}
