#include "io/iface.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

#ifndef TUNGETDEVNETNS
#define TUNGETDEVNETNS _IO('T', 227)
#endif

struct sv_iface {
    struct sv_loop *loop;
    struct sv_watch *watch;
    struct sv_iface_state state;
    int tun_fd, netlink;
    ino_t space; /* the namespace that netlink listens in; 0: not known */
    void (*on_change)(void *ctx, const struct sv_iface_state *state);
    void *ctx;
};

static void on_netlink(void *ctx, int events);

/* ---- where it is ---- */

/* Link changes of the calling thread's namespace. */
static int open_netlink(void)
{
    const struct sockaddr_nl addr = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

    if (fd >= 0 && bind(fd, (const struct sockaddr *)(const void *)&addr, sizeof addr)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* A socket stays in the namespace that it was opened in, so the thread needs to be there for that moment only. */
static int open_netlink_in(int space)
{
    int own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), fd = -1;

    if (own >= 0 && setns(space, CLONE_NEWNET) == 0) {
        fd = open_netlink();
        if (setns(own, CLONE_NEWNET)) {
            abort(); /* the thread cannot go on in a foreign namespace */
        }
    }
    if (own >= 0) {
        close(own);
    }
    return fd;
}

static void listen_in(struct sv_iface *iface, int netlink)
{
    if (iface->watch) {
        sv_watch_close(iface->watch);
        close(iface->netlink);
    }
    iface->netlink = netlink;
    iface->watch = sv_watch_new(iface->loop, netlink, on_netlink, iface);
    if (iface->watch) {
        sv_watch_set(iface->watch, SV_READABLE);
    }
}

/* Listens where the interface is. What follows in it is true then or is told later. */
static void follow(struct sv_iface *iface)
{
    int space = ioctl(iface->tun_fd, TUNGETDEVNETNS), netlink;
    struct stat info;

    if (space < 0) {
        return;
    }
    if (fstat(space, &info) == 0 && info.st_ino != iface->space) {
        netlink = open_netlink_in(space);
        if (netlink >= 0) {
            iface->space = info.st_ino;
            listen_in(iface, netlink);
        }
    }
    close(space);
}

/* ---- how it is ---- */

static struct sv_iface_state look(struct sv_iface *iface)
{
    struct sv_iface_state state = {.up = true, .mtu = iface->state.mtu};
    struct ifreq request = {0};

    if (ioctl(iface->tun_fd, TUNGETIFF, &request)) {
        return (struct sv_iface_state){.gone = errno == EBADFD, .mtu = state.mtu};
    }
    if (ioctl(iface->netlink, SIOCGIFFLAGS, &request) == 0) {
        state.up = request.ifr_flags & IFF_UP;
    }
    if (ioctl(iface->netlink, SIOCGIFMTU, &request) == 0) {
        state.mtu = (unsigned)request.ifr_mtu;
    }
    return state;
}

static void update(struct sv_iface *iface, bool always)
{
    struct sv_iface_state state;

    follow(iface);
    state = look(iface);
    if (iface->state.gone || (!always && state.gone == iface->state.gone && state.up == iface->state.up &&
                              state.mtu == iface->state.mtu)) {
        return;
    }
    iface->state = state;
    iface->on_change(iface->ctx, &state);
}

/* What is said matters less than that something was: one look tells all. */
static void on_netlink(void *ctx, int events)
{
    struct sv_iface *iface = ctx;
    char drain[8192];

    (void)events;
    while (recv(iface->netlink, drain, sizeof drain, MSG_DONTWAIT) > 0 || errno == ENOBUFS) {
        errno = 0;
    }
    update(iface, false);
}

struct sv_iface *sv_iface_watch(struct sv_loop *loop, int tun_fd,
                                void (*on_change)(void *, const struct sv_iface_state *), void *ctx)
{
    struct sv_iface *iface = calloc(1, sizeof *iface);
    int netlink;

    if (!iface) {
        return NULL;
    }
    *iface = (struct sv_iface){
        .loop = loop, .tun_fd = tun_fd, .netlink = -1, .on_change = on_change, .ctx = ctx};
    netlink = open_netlink();
    if (netlink < 0) {
        sv_fail(SV_E_SYSTEM, "cannot listen to netlink: %s", strerror(errno));
        free(iface);
        return NULL;
    }
    listen_in(iface, netlink);
    update(iface, true);
    return iface;
}

void sv_iface_close(struct sv_iface *iface)
{
    if (iface->watch) {
        sv_watch_close(iface->watch);
    }
    close(iface->netlink);
    free(iface);
}
