#include "io/socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

enum { LISTEN_BACKLOG = 1024, HOST_MAX = 64 };

static int parse_port(const char *text, uint16_t *port)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (*text < '0' || *text > '9' || *end || value > 65535) {
        return SV_E_INVALID;
    }
    *port = (uint16_t)value;
    return 0;
}

/* host may be in brackets; "" is every address, "localhost" 127.0.0.1. */
static int parse_host(struct sockaddr_storage *addr, socklen_t *len, char *host, uint16_t port)
{
    struct sockaddr_in *in = (struct sockaddr_in *)addr;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)addr;
    size_t n = strlen(host);

    memset(addr, 0, sizeof *addr);
    if (n >= 2 && host[0] == '[' && host[n - 1] == ']') {
        host[n - 1] = '\0';
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        *len = sizeof *in6;
        return inet_pton(AF_INET6, host + 1, &in6->sin6_addr) == 1 ? 0 : SV_E_INVALID;
    }
    if (n == 0) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        *len = sizeof *in6;
        return 0;
    }
    in->sin_family = AF_INET;
    in->sin_port = htons(port);
    *len = sizeof *in;
    return inet_pton(AF_INET, strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, &in->sin_addr) == 1
               ? 0
               : SV_E_INVALID;
}

int sv_sockaddr_parse(struct sockaddr_storage *addr, socklen_t *len, const char *text)
{
    const char *colon = text ? strrchr(text, ':') : NULL;
    char host[HOST_MAX];
    uint16_t port;

    if (!colon || (size_t)(colon - text) >= sizeof host || parse_port(colon + 1, &port)) {
        return SV_E_INVALID;
    }
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';
    return parse_host(addr, len, host, port);
}

void sv_sockaddr_split(const struct sockaddr_storage *addr, uint8_t ip[16], uint16_t *port)
{
    memset(ip, 0, 16);
    if (addr->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)addr;

        ip[10] = ip[11] = 0xFF;
        memcpy(ip + 12, &in->sin_addr, 4);
        *port = ntohs(in->sin_port);
    } else {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)addr;

        memcpy(ip, &in6->sin6_addr, 16);
        *port = ntohs(in6->sin6_port);
    }
}

char *sv_sockaddr_format(char *dst, size_t size, const uint8_t ip[16], uint16_t port)
{
    static const uint8_t mapped[12] = {[10] = 0xFF, [11] = 0xFF};
    char text[INET6_ADDRSTRLEN];

    if (memcmp(ip, mapped, sizeof mapped) == 0) {
        inet_ntop(AF_INET, ip + 12, text, sizeof text);
        snprintf(dst, size, "%s:%u", text, port);
    } else {
        inet_ntop(AF_INET6, ip, text, sizeof text);
        snprintf(dst, size, "[%s]:%u", text, port);
    }
    return dst;
}

static int listen_error(const struct sockaddr_storage *addr)
{
    int code = errno;
    int status = code == EADDRINUSE ? SV_E_IN_USE : code == EACCES ? SV_E_PERMISSION : SV_E_SYSTEM;
    char text[HOST_MAX];
    uint8_t ip[16];
    uint16_t port;

    sv_sockaddr_split(addr, ip, &port);
    return sv_fail(status, "cannot listen on %s: %s", sv_sockaddr_format(text, sizeof text, ip, port),
                   strerror(code));
}

int sv_listen(int *out, const struct sockaddr_storage *addr, socklen_t len, bool reuse_port)
{
    int one = 1, zero = 0;
    int fd = socket(addr->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        return listen_error(addr);
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (addr->ss_family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    }
    if ((reuse_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one)) ||
        bind(fd, (const struct sockaddr *)addr, len) || listen(fd, LISTEN_BACKLOG)) {
        int status = listen_error(addr);

        close(fd);
        return status;
    }
    *out = fd;
    return 0;
}

static bool is_out_of_means(int code)
{
    return code == EMFILE || code == ENFILE || code == ENOBUFS || code == ENOMEM;
}

static bool is_callers_fault(int code)
{
    return code == EBADF || code == ENOTSOCK || code == EINVAL || code == EFAULT || code == EOPNOTSUPP;
}

int sv_accept(int listener, int *fd, struct sockaddr_storage *peer)
{
    for (;;) {
        socklen_t len = sizeof *peer;

        *fd = accept4(listener, (struct sockaddr *)peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (*fd >= 0) {
            return 0;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return SV_E_AGAIN;
        }
        if (is_out_of_means(errno)) {
            return SV_E_FULL;
        }
        if (is_callers_fault(errno)) {
            return SV_E_SYSTEM;
        }
    }
}

void sv_tcp_tune(int fd)
{
    int one = 1, lowat = SV_TCP_UNSENT_MOST;
    unsigned timeout = SV_TCP_SILENCE_MS;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof lowat);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "bbr", 3);
}
