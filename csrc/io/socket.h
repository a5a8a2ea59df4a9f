/* TCP sockets: addresses in text, listeners, accept and the options that matter. */
#ifndef SV_IO_SOCKET_H
#define SV_IO_SOCKET_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* "host:port", "[v6]:port", ":port" (all addresses); numeric hosts and localhost only, nothing is looked up. SV_E_INVALID. */
int sv_sockaddr_parse(struct sockaddr_storage *addr, socklen_t *len, const char *text);
/* Into 16-byte form and port. */
void sv_sockaddr_split(const struct sockaddr_storage *addr, uint8_t ip[16], uint16_t *port);
/* dst at least 64 bytes: "1.2.3.4:5", "[::1]:5". */
char *sv_sockaddr_format(char *dst, size_t size, const uint8_t ip[16], uint16_t port);

/* Non-blocking TCP listener; dual-stack for v6 any. SV_E_IN_USE, SV_E_PERMISSION, SV_E_SYSTEM. */
int sv_listen(int *fd, const struct sockaddr_storage *addr, socklen_t len, bool reuse_port);
/* SV_E_AGAIN when none waits, SV_E_FULL when the process or the system is out of files or memory (errno says which),
 * SV_E_SYSTEM; what Linux reports of a single connection that failed meanwhile is passed over. */
int sv_accept(int listener, int *fd, struct sockaddr_storage *peer);

enum {
    SV_TCP_UNSENT_MOST = 128 * 1024, /* bytes in the socket that have not left: TCP_NOTSENT_LOWAT */
    SV_TCP_UNSENT_LEAST = 16 * 1024,
    SV_TCP_PACE_MS = 3,        /* a slow path gets what it delivers in this time */
    SV_TCP_SILENCE_MS = 30000, /* without an acknowledgement, then a connection ends: TCP_USER_TIMEOUT */
};

/* TCP_NODELAY, TCP_NOTSENT_LOWAT 128 KB, BBR where the kernel has it (quietly not where it has not), TCP_USER_TIMEOUT. */
void sv_tcp_tune(int fd);
/* Fits TCP_NOTSENT_LOWAT to what the path delivers, so that what is urgent finds a short queue in the socket: the bytes it is now; `before`
 * is what it was. */
size_t sv_tcp_pace(int fd, size_t before);

#endif
