/* One TUN interface as its network namespace sees it: up or down, its MTU, gone; wherever it is moved. */
#ifndef SV_IO_IFACE_H
#define SV_IO_IFACE_H

#include <stdbool.h>

#include "io/loop.h"

struct sv_iface_state {
    bool gone; /* deleted: nothing else counts, and nothing more is told */
    bool up;
    unsigned mtu;
};

struct sv_iface;

/* Tells how it is at once, and each change from then on; tun_fd (one of its queues) must outlive the watch. NULL: no memory, or no netlink
 * (sv_error_detail). Where the interface's namespace cannot be entered, it counts as up. */
struct sv_iface *sv_iface_watch(struct sv_loop *loop, int tun_fd,
                                void (*on_change)(void *ctx, const struct sv_iface_state *state), void *ctx);
void sv_iface_close(struct sv_iface *iface);

#endif
