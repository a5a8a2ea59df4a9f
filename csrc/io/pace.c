/* Apart from socket.c: the kernel's own header, which knows the delivery rate, does not go together with the C library's. */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>

#include "io/socket.h"

/* What the connection delivers in PACE_MS; 0: not known, or only that it delivers at least `before` (it had nothing more to send). */
static size_t delivers(int fd, size_t before)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    uint64_t bytes;

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) ||
        len < offsetof(struct tcp_info, tcpi_delivery_rate) + sizeof info.tcpi_delivery_rate) {
        return 0;
    }
    bytes = info.tcpi_delivery_rate * SV_TCP_PACE_MS / 1000;
    return info.tcpi_delivery_rate_app_limited && bytes < before ? 0 : (size_t)bytes;
}

size_t sv_tcp_pace(int fd, size_t before)
{
    size_t bytes = delivers(fd, before);
    int lowat;

    if (!bytes) {
        return before;
    }
    bytes = bytes < SV_TCP_UNSENT_LEAST  ? SV_TCP_UNSENT_LEAST
            : bytes > SV_TCP_UNSENT_MOST ? SV_TCP_UNSENT_MOST
                                         : bytes;
    if (bytes > before ? bytes - before <= before / 8 : before - bytes <= before / 8) {
        return before;
    }
    lowat = (int)bytes;
    return setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof lowat) ? before : bytes;
}
