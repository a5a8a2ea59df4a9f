#include "io/tun.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif
#ifndef IFLA_GSO_IPV4_MAX_SIZE
#define IFLA_GSO_IPV4_MAX_SIZE 63
#endif

enum {
    VNET_HEADER = 10,
    GSO_MAX_SIZE = 61000, /* a super-packet, its frame and its tag fit into 65,535 bytes */
    OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN,
};

static int open_error(const char *what)
{
    int code = errno;
    int status = code == EPERM || code == EACCES    ? SV_E_PERMISSION
                 : code == ENOENT || code == ENODEV ? SV_E_UNSUPPORTED
                 : code == EBUSY                    ? SV_E_IN_USE
                                                    : SV_E_SYSTEM;

    return sv_fail(status, "%s: %s", what, strerror(code));
}

/* The first queue fixes the name, the others join it. */
static int open_queue(struct sv_tun *tun, const char *name, bool many, int *out)
{
    struct ifreq request = {0};
    int header = VNET_HEADER;
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0) {
        return open_error("cannot open /dev/net/tun");
    }
    *out = fd;
    request.ifr_flags = (short)(IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | (many ? IFF_MULTI_QUEUE : 0));
    memcpy(request.ifr_name, name, strnlen(name, sizeof request.ifr_name - 1));
    if (ioctl(fd, TUNSETIFF, &request)) {
        return open_error("cannot make the TUN device");
    }
    if (ioctl(fd, TUNSETVNETHDRSZ, &header)) {
        return open_error("TUN device without offload header");
    }
    memcpy(tun->name, request.ifr_name, sizeof tun->name);
    return 0;
}

static int set_offloads(struct sv_tun *tun)
{
    tun->udp_gso = true;
    for (size_t i = 0; i < tun->queue_count; i++) {
        if (ioctl(tun->queues[i], TUNSETOFFLOAD, OFFLOADS | TUN_F_USO4 | TUN_F_USO6)) {
            tun->udp_gso = false;
        }
    }
    for (size_t i = 0; !tun->udp_gso && i < tun->queue_count; i++) {
        if (ioctl(tun->queues[i], TUNSETOFFLOAD, OFFLOADS)) {
            return open_error("TUN device without offloads");
        }
    }
    return 0;
}

struct link_request {
    struct nlmsghdr header;
    struct ifinfomsg info;
    struct {
        struct rtattr attr;
        uint32_t value;
    } gso_max, gso_ipv4_max;
};

/* Kernels that do not know an attribute ignore it; a refusal costs speed only. */
static void set_gso_max(const struct sv_tun *tun)
{
    struct link_request request = {
        .header = {.nlmsg_len = sizeof request,
                   .nlmsg_type = RTM_NEWLINK,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
        .info = {.ifi_family = AF_UNSPEC, .ifi_index = (int)tun->index},
        .gso_max = {{sizeof request.gso_max, IFLA_GSO_MAX_SIZE}, GSO_MAX_SIZE},
        .gso_ipv4_max = {{sizeof request.gso_ipv4_max, IFLA_GSO_IPV4_MAX_SIZE}, GSO_MAX_SIZE},
    };
    struct {
        struct nlmsghdr header;
        struct nlmsgerr error;
        char rest[512];
    } answer;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

    if (fd < 0) {
        return;
    }
    if (send(fd, &request, sizeof request, 0) == sizeof request && recv(fd, &answer, sizeof answer, 0) > 0 &&
        answer.header.nlmsg_type == NLMSG_ERROR && answer.error.error) {
        sv_log(SV_LOG_DEBUG, "gso_max_size of %s stays as it is: %s", tun->name,
               strerror(-answer.error.error));
    }
    close(fd);
}

int sv_tun_open(struct sv_tun *tun, const char *name, size_t queues)
{
    int error = 0;

    *tun = (struct sv_tun){0};
    if (strlen(name) >= SV_TUN_NAME) {
        return sv_fail(SV_E_INVALID, "interface name '%.32s' is longer than 15 bytes", name);
    }
    tun->queues = calloc(queues, sizeof *tun->queues);
    if (!tun->queues) {
        return SV_E_NOMEM;
    }
    for (size_t i = 0; i < queues && !error; i++) {
        tun->queues[i] = -1;
        tun->queue_count = i + 1;
        error = open_queue(tun, i ? tun->name : name, queues > 1, &tun->queues[i]);
    }
    if (!error) {
        error = set_offloads(tun);
    }
    if (error) {
        sv_tun_close(tun);
        return error;
    }
    tun->index = if_nametoindex(tun->name);
    set_gso_max(tun);
    return 0;
}

int sv_tun_adopt(struct sv_tun *tun, int fd)
{
    struct ifreq request = {0};
    int header = VNET_HEADER, flags = fcntl(fd, F_GETFL);

    *tun = (struct sv_tun){0};
    if (flags < 0 || ioctl(fd, TUNGETIFF, &request) || !(request.ifr_flags & IFF_TUN) ||
        !(request.ifr_flags & IFF_NO_PI)) {
        return sv_fail(SV_E_INVALID, "descriptor %d is no TUN device without packet information", fd);
    }
    tun->queues = calloc(1, sizeof *tun->queues);
    if (!tun->queues) {
        return SV_E_NOMEM;
    }
    tun->queues[0] = fd;
    tun->queue_count = 1;
    tun->plain = !(request.ifr_flags & IFF_VNET_HDR);
    memcpy(tun->name, request.ifr_name, sizeof tun->name);
    tun->index = if_nametoindex(tun->name);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) || (!tun->plain && ioctl(fd, TUNSETVNETHDRSZ, &header))) {
        return open_error("cannot set up the TUN device");
    }
    return tun->plain ? 0 : set_offloads(tun);
}

int sv_tun_stand_in(struct sv_tun *tun, const char *name)
{
    *tun = (struct sv_tun){.plain = true};
    tun->queues = calloc(1, sizeof *tun->queues);
    if (!tun->queues) {
        return SV_E_NOMEM;
    }
    tun->queue_count = 1;
    tun->queues[0] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    memcpy(tun->name, name, strnlen(name, sizeof tun->name - 1));
    tun->index = if_nametoindex(name);
    return tun->queues[0] < 0 ? open_error("cannot make an eventfd") : 0;
}

void sv_tun_close(struct sv_tun *tun)
{
    for (size_t i = 0; i < tun->queue_count; i++) {
        if (tun->queues[i] >= 0) {
            close(tun->queues[i]);
        }
    }
    free(tun->queues);
    *tun = (struct sv_tun){0};
}

static int set_mtu_and_flags(int fd, struct ifreq *request, unsigned mtu)
{
    request->ifr_mtu = (int)mtu;
    if (ioctl(fd, SIOCSIFMTU, request)) {
        return open_error("cannot set the MTU");
    }
    if (ioctl(fd, SIOCGIFFLAGS, request)) {
        return open_error("cannot read the interface's flags");
    }
    request->ifr_flags |= IFF_UP;
    return ioctl(fd, SIOCSIFFLAGS, request) ? open_error("cannot bring the interface up") : 0;
}

int sv_tun_up(struct sv_tun *tun, unsigned mtu)
{
    struct ifreq request = {0};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int error;

    if (fd < 0) {
        return open_error("cannot open a socket");
    }
    memcpy(request.ifr_name, tun->name, sizeof request.ifr_name);
    error = set_mtu_and_flags(fd, &request, mtu);
    close(fd);
    return error;
}

int sv_tun_read(int queue, struct sv_vnet *vnet, uint8_t *dst, size_t cap, size_t *len)
{
    struct iovec iov[2] = {{vnet, VNET_HEADER}, {dst, cap}};
    ssize_t n = readv(queue, iov, 2);

    if (n < VNET_HEADER) {
        return n < 0 && errno != EAGAIN && errno != EINTR ? SV_E_SYSTEM : SV_E_AGAIN;
    }
    *len = (size_t)n - VNET_HEADER;
    return 0;
}

int sv_tun_write(int queue, const struct sv_vnet *vnet, struct iovec *iov, size_t count)
{
    iov[0] = (struct iovec){(void *)vnet, VNET_HEADER};
    if (writev(queue, iov, (int)count) < 0) {
        return errno == EAGAIN ? SV_E_AGAIN : SV_E_SYSTEM;
    }
    return 0;
}

int sv_tun_read_plain(int queue, struct sv_vnet *vnet, uint8_t *dst, size_t cap, size_t *len)
{
    ssize_t n = read(queue, dst, cap);

    if (n <= 0) {
        return n < 0 && errno != EAGAIN && errno != EINTR ? SV_E_SYSTEM : SV_E_AGAIN;
    }
    *vnet = (struct sv_vnet){0};
    *len = (size_t)n;
    return 0;
}

int sv_tun_write_plain(int queue, struct iovec *iov, size_t count)
{
    if (writev(queue, iov + 1, (int)count - 1) < 0) {
        return errno == EAGAIN ? SV_E_AGAIN : SV_E_SYSTEM;
    }
    return 0;
}
