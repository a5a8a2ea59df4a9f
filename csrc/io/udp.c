#include "io/udp.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#define UDP_GRO 104
#endif

/* ---- endpoints ---- */

bool sv_endpoint_same(const struct sv_endpoint *a, const struct sv_endpoint *b)
{
    if (a->to.any.sa_family != b->to.any.sa_family) {
        return false;
    }
    if (a->to.any.sa_family == AF_INET) {
        return a->to.in4.sin_port == b->to.in4.sin_port &&
               a->to.in4.sin_addr.s_addr == b->to.in4.sin_addr.s_addr;
    }
    return a->to.in6.sin6_port == b->to.in6.sin6_port && a->to.in6.sin6_scope_id == b->to.in6.sin6_scope_id &&
           memcmp(&a->to.in6.sin6_addr, &b->to.in6.sin6_addr, sizeof a->to.in6.sin6_addr) == 0;
}

bool sv_endpoint_identical(const struct sv_endpoint *a, const struct sv_endpoint *b)
{
    return sv_endpoint_same(a, b) && a->interface == b->interface &&
           memcmp(&a->from, &b->from, sizeof a->from) == 0;
}

void sv_endpoint_forget_source(struct sv_endpoint *endpoint)
{
    memset(&endpoint->from, 0, sizeof endpoint->from);
    endpoint->interface = 0;
}

size_t sv_endpoint_id(const struct sv_endpoint *endpoint, uint8_t id[SV_ENDPOINT_ID])
{
    if (endpoint->to.any.sa_family == AF_INET) {
        memcpy(id, &endpoint->to.in4.sin_port, 2);
        memcpy(id + 2, &endpoint->to.in4.sin_addr, 4);
        return 6;
    }
    memcpy(id, &endpoint->to.in6.sin6_port, 2);
    memcpy(id + 2, &endpoint->to.in6.sin6_addr, 16);
    return 18;
}

static bool has_source(const struct sv_endpoint *endpoint)
{
    static const uint8_t zeros[sizeof endpoint->from];

    return memcmp(&endpoint->from, zeros, sizeof zeros) != 0;
}

/* ---- sockets ---- */

static void set_int(int fd, int level, int option, int value)
{
    setsockopt(fd, level, option, &value, sizeof value);
}

/* What fails here costs speed, or the choice of the local address, and nothing else. */
static void tune(int fd, bool v6)
{
    set_int(fd, SOL_SOCKET, SO_RCVBUF, SV_UDP_BUFFER);
    set_int(fd, SOL_SOCKET, SO_SNDBUF, SV_UDP_BUFFER);
    set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, SV_UDP_BUFFER);
    set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, SV_UDP_BUFFER);
    set_int(fd, SOL_UDP, UDP_GRO, 1);
    if (v6) {
        set_int(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
        set_int(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT);
    } else {
        set_int(fd, IPPROTO_IP, IP_PKTINFO, 1);
        set_int(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT);
    }
}

static int fail(int fd, const char *what, uint16_t port)
{
    int code = errno;

    if (fd >= 0) {
        close(fd);
    }
    return sv_fail(code == EADDRINUSE                ? SV_E_IN_USE
                   : code == EPERM || code == EACCES ? SV_E_PERMISSION
                                                     : SV_E_SYSTEM,
                   "%s UDP port %u: %s", what, port, strerror(code));
}

union address {
    struct sockaddr any;
    struct sockaddr_in in4;
    struct sockaddr_in6 in6;
};

/* *out stays -1 where the machine has no such addresses. The address gets its port. */
static int open_one(int *out, union address *addr, enum sv_udp_share share, uint32_t mark)
{
    bool v6 = addr->any.sa_family == AF_INET6;
    socklen_t len = v6 ? sizeof addr->in6 : sizeof addr->in4;
    uint16_t port = ntohs(v6 ? addr->in6.sin6_port : addr->in4.sin_port);
    int fd = socket(addr->any.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        return errno == EAFNOSUPPORT ? 0 : fail(fd, "cannot open", port);
    }
    if (v6) {
        set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    }
    set_int(fd, SOL_SOCKET, SO_REUSEPORT, share == SV_UDP_JOIN);
    if (mark && setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark)) {
        return fail(fd, "cannot set the mark of", port);
    }
    tune(fd, v6);
    if (bind(fd, &addr->any, len) || getsockname(fd, &addr->any, &len)) {
        return errno == EADDRNOTAVAIL && v6 && IN6_IS_ADDR_UNSPECIFIED(&addr->in6.sin6_addr)
                   ? (close(fd), 0)
                   : fail(fd, "cannot bind", port);
    }
    set_int(fd, SOL_SOCKET, SO_REUSEPORT, share != SV_UDP_ALONE);
    *out = fd;
    return 0;
}

static int open_any(int *out, sa_family_t family, uint16_t *port, enum sv_udp_share share, uint32_t mark)
{
    union address addr = {.any.sa_family = family};
    uint16_t *at = family == AF_INET ? &addr.in4.sin_port : &addr.in6.sin6_port;
    int error;

    *at = htons(*port);
    error = open_one(out, &addr, share, mark);
    *port = ntohs(*at);
    return error;
}

static bool takes_segments(int fd)
{
    int value = 0;
    socklen_t len = sizeof value;

    return fd >= 0 && getsockopt(fd, SOL_UDP, UDP_SEGMENT, &value, &len) == 0;
}

enum { TRIES_FOR_BOTH = 100 };

int sv_udp_open(struct sv_udp *udp, uint16_t *port, enum sv_udp_share share, uint32_t mark)
{
    uint16_t wanted = *port;
    int status = 0;

    for (int i = 0; i < TRIES_FOR_BOTH; i++) {
        *udp = (struct sv_udp){.fd4 = -1, .fd6 = -1};
        *port = wanted;
        status = open_any(&udp->fd4, AF_INET, port, share, mark);
        if (status == 0) {
            status = open_any(&udp->fd6, AF_INET6, port, share, mark);
        }
        if (status == 0) {
            break;
        }
        sv_udp_close(udp);
        if (wanted != 0 || status != SV_E_IN_USE) {
            return status; /* else: the port chosen for one family was taken in the other */
        }
    }
    if (status == 0 && udp->fd4 < 0 && udp->fd6 < 0) {
        return sv_fail(SV_E_UNSUPPORTED, "there is neither IPv4 nor IPv6 here");
    }
    udp->port = *port;
    udp->segments = takes_segments(udp->fd4 >= 0 ? udp->fd4 : udp->fd6);
    return status;
}

static bool is_all_addresses(const union address *addr)
{
    return addr->any.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&addr->in6.sin6_addr);
}

int sv_udp_open_at(struct sv_udp *udp, const struct sockaddr_storage *at, enum sv_udp_share share)
{
    union address addr;
    uint16_t port;
    int *fd, error;

    memcpy(&addr, at, sizeof addr);
    if (is_all_addresses(&addr)) {
        port = ntohs(addr.in6.sin6_port);
        return sv_udp_open(udp, &port, share, 0);
    }
    *udp = (struct sv_udp){.fd4 = -1, .fd6 = -1};
    fd = addr.any.sa_family == AF_INET ? &udp->fd4 : &udp->fd6;
    error = open_one(fd, &addr, share, 0);
    if (!error && *fd < 0) {
        error = sv_fail(SV_E_UNSUPPORTED, "there are no addresses of this family here");
    }
    udp->port = ntohs(addr.any.sa_family == AF_INET ? addr.in4.sin_port : addr.in6.sin6_port);
    udp->segments = takes_segments(*fd);
    return error;
}

void sv_udp_keep_whole(struct sv_udp *udp)
{
    set_int(udp->fd4, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
    set_int(udp->fd6, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
}

int sv_udp_steer(const struct sv_udp *udp)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),   BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x80, 2, 0),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 1),   BPF_STMT(BPF_RET | BPF_A, 0),
        BPF_STMT(BPF_RET | BPF_K, (uint32_t)-1),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    const int fds[2] = {udp->fd4, udp->fd6};

    for (size_t i = 0; i < 2; i++) {
        if (fds[i] >= 0 &&
            setsockopt(fds[i], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program)) {
            return sv_fail(SV_E_SYSTEM, "cannot steer datagrams of UDP port %u: %s", udp->port,
                           strerror(errno));
        }
    }
    return 0;
}

void sv_udp_close(struct sv_udp *udp)
{
    if (udp->fd4 >= 0) {
        close(udp->fd4);
    }
    if (udp->fd6 >= 0) {
        close(udp->fd6);
    }
    udp->fd4 = udp->fd6 = -1;
}

int sv_udp_set_mark(struct sv_udp *udp, uint32_t mark)
{
    const int fds[2] = {udp->fd4, udp->fd6};

    for (size_t i = 0; i < 2; i++) {
        if (fds[i] >= 0 && setsockopt(fds[i], SOL_SOCKET, SO_MARK, &mark, sizeof mark)) {
            return sv_fail(errno == EPERM ? SV_E_PERMISSION : SV_E_SYSTEM, "cannot set the mark: %s",
                           strerror(errno));
        }
    }
    return 0;
}

/* ---- receiving ---- */

enum { CONTROL = 128 };

struct sv_udp_batch {
    struct mmsghdr messages[SV_UDP_BATCH];
    struct iovec iov[SV_UDP_BATCH];
    struct sv_endpoint from[SV_UDP_BATCH];
    _Alignas(struct cmsghdr) uint8_t control[SV_UDP_BATCH][CONTROL];
    uint8_t *bytes;
};

struct sv_udp_batch *sv_udp_batch_new(void)
{
    struct sv_udp_batch *batch = calloc(1, sizeof *batch);

    if (!batch || !(batch->bytes = malloc((size_t)SV_UDP_BATCH * SV_UDP_RECEIVE + SV_UDP_BEHIND))) {
        free(batch);
        return NULL;
    }
    for (size_t i = 0; i < SV_UDP_BATCH; i++) {
        batch->iov[i] = (struct iovec){batch->bytes + i * SV_UDP_RECEIVE, SV_UDP_RECEIVE};
    }
    return batch;
}

void sv_udp_batch_free(struct sv_udp_batch *batch)
{
    if (batch) {
        free(batch->bytes);
        free(batch);
    }
}

/* The kernel writes lengths into the headers, so they are made anew for each call. */
static void prepare(struct sv_udp_batch *batch)
{
    for (size_t i = 0; i < SV_UDP_BATCH; i++) {
        batch->messages[i].msg_hdr = (struct msghdr){
            .msg_name = &batch->from[i].to,
            .msg_namelen = sizeof batch->from[i].to,
            .msg_iov = &batch->iov[i],
            .msg_iovlen = 1,
            .msg_control = batch->control[i],
            .msg_controllen = CONTROL,
        };
    }
}

/* The local address goes to the endpoint. The size of merged datagrams, or 0. */
static size_t read_control(struct msghdr *message, struct sv_endpoint *from)
{
    size_t segment = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            int value;

            memcpy(&value, CMSG_DATA(c), sizeof value);
            segment = value > 0 ? (size_t)value : 0;
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;

            memcpy(&info, CMSG_DATA(c), sizeof info);
            from->from.in4 = info.ipi_spec_dst;
            from->interface = (uint32_t)info.ipi_ifindex;
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;

            memcpy(&info, CMSG_DATA(c), sizeof info);
            from->from.in6 = info.ipi6_addr;
            from->interface = info.ipi6_ifindex;
        }
    }
    return segment;
}

int sv_udp_receive(int fd, struct sv_udp_batch *batch, sv_udp_receiver receiver, void *ctx)
{
    int count;

    prepare(batch);
    count = recvmmsg(fd, batch->messages, SV_UDP_BATCH, MSG_DONTWAIT, NULL);
    if (count < 0) {
        /* An ICMP error of an earlier send is told here too; it is nobody's fault and says nothing that a timer would not. */
        return errno == EBADF || errno == ENOTSOCK ? SV_E_SYSTEM : 0;
    }
    for (int i = 0; i < count; i++) {
        struct sv_endpoint *from = &batch->from[i];
        size_t len = batch->messages[i].msg_len, segment;

        memset(&from->from, 0, sizeof from->from);
        from->interface = 0;
        segment = read_control(&batch->messages[i].msg_hdr, from);
        if (!(batch->messages[i].msg_hdr.msg_flags & MSG_TRUNC)) {
            receiver(ctx, from, batch->iov[i].iov_base, len, segment && segment < len ? segment : len);
        }
    }
    return count;
}

/* ---- sending ---- */

static void put_control(struct msghdr *message, struct cmsghdr **at, int level, int type, const void *value,
                        size_t len)
{
    struct cmsghdr *c = *at;

    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(len);
    memcpy(CMSG_DATA(c), value, len);
    message->msg_controllen += CMSG_SPACE(len);
    *at = (struct cmsghdr *)(void *)((uint8_t *)c + CMSG_SPACE(len));
}

static void put_source(struct msghdr *message, struct cmsghdr **at, const struct sv_endpoint *to)
{
    if (to->to.any.sa_family == AF_INET) {
        struct in_pktinfo info = {.ipi_ifindex = (int)to->interface, .ipi_spec_dst = to->from.in4};

        put_control(message, at, IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
    } else {
        struct in6_pktinfo info = {.ipi6_ifindex = to->interface, .ipi6_addr = to->from.in6};

        put_control(message, at, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info);
    }
}

/* 0 or errno. */
static int send_once(int fd, const struct sv_endpoint *to, const uint8_t *bytes, size_t len, size_t segment)
{
    _Alignas(struct cmsghdr) uint8_t control[CONTROL] = {0};
    struct cmsghdr *at = (struct cmsghdr *)(void *)control;
    struct iovec iov = {(void *)(uintptr_t)bytes, len};
    struct msghdr message = {
        .msg_name = (void *)(uintptr_t)&to->to,
        .msg_namelen = to->to.any.sa_family == AF_INET ? sizeof to->to.in4 : sizeof to->to.in6,
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control,
    };

    if (has_source(to)) {
        put_source(&message, &at, to);
    }
    if (len > segment) {
        uint16_t size = (uint16_t)segment;

        put_control(&message, &at, SOL_UDP, UDP_SEGMENT, &size, sizeof size);
    }
    if (message.msg_controllen == 0) {
        message.msg_control = NULL;
    }
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? errno : 0;
}

/* When the local address has gone, or its interface, the kernel chooses anew. */
static int send_from_somewhere(const struct sv_udp *udp, int fd, struct sv_endpoint *to, const uint8_t *bytes,
                               size_t len, size_t segment)
{
    int code = send_once(fd, to, bytes, len, segment);

    if ((code == EINVAL || code == ENETUNREACH || code == EADDRNOTAVAIL || code == ENODEV ||
         code == EHOSTUNREACH) &&
        has_source(to) && !udp->keeps_source) {
        sv_endpoint_forget_source(to);
        code = send_once(fd, to, bytes, len, segment);
    }
    return code;
}

static int to_status(int code)
{
    switch (code) {
    case 0:
        return 0;
    case EAGAIN:
    case ENOBUFS:
        return SV_E_AGAIN;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case EADDRNOTAVAIL:
    case ENETDOWN:
        return SV_E_UNREACHABLE;
    default:
        return SV_E_SYSTEM;
    }
}

static int send_singly(const struct sv_udp *udp, int fd, struct sv_endpoint *to, const uint8_t *bytes,
                       size_t len, size_t segment)
{
    int code = 0;

    while (len && code != EAGAIN) {
        size_t n = len < segment ? len : segment;
        int one = send_from_somewhere(udp, fd, to, bytes, n, n);

        code = one ? one : code;
        bytes += n;
        len -= n;
    }
    return to_status(code);
}

size_t sv_udp_most(const struct sv_endpoint *to, size_t segment)
{
    size_t bytes = to->to.any.sa_family == AF_INET ? SV_UDP_PAYLOAD_MAX : SV_UDP_PAYLOAD_MAX6;
    size_t count = bytes / segment;

    return (count < SV_UDP_SEGMENTS_MAX ? count : SV_UDP_SEGMENTS_MAX) * segment;
}

int sv_udp_send(struct sv_udp *udp, struct sv_endpoint *to, const uint8_t *bytes, size_t len, size_t segment)
{
    int fd = to->to.any.sa_family == AF_INET ? udp->fd4 : udp->fd6;
    int status = 0;

    if (fd < 0) {
        return SV_E_UNREACHABLE;
    }
    if (!udp->segments || segment == 0 || segment >= len) {
        return send_singly(udp, fd, to, bytes, len, segment ? segment : len);
    }
    while (len) {
        size_t room = sv_udp_most(to, segment), n = len < room ? len : room;
        int code = room ? send_from_somewhere(udp, fd, to, bytes, n, segment) : EMSGSIZE;

        if (code == EIO || code == EMSGSIZE || (code == EINVAL && n > segment)) {
            /* A device without checksums, or a path with a smaller MTU: what is true of one send is so of the next. */
            udp->segments = code != EIO && udp->segments;
            return send_singly(udp, fd, to, bytes, len, segment);
        }
        status = code ? to_status(code) : status;
        bytes += n;
        len -= n;
    }
    return status;
}
