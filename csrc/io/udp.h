/* UDP in batches: a pair of sockets (IPv4, IPv6) per worker, segmentation (UDP_SEGMENT) on sending and merging (UDP_GRO) on receiving, and the local
 * address that a peer spoke to, which answers are sent from. */
#ifndef SV_IO_UDP_H
#define SV_IO_UDP_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum {
    SV_UDP_PAYLOAD_MAX = 65507,  /* of one datagram over IPv4, or of one send of many */
    SV_UDP_PAYLOAD_MAX6 = 65487, /* the kernel counts IPv6's header in */
    SV_UDP_SEGMENTS_MAX = 64,    /* of one send: what kernels before 6.9 take */
    SV_UDP_BATCH = 8,            /* receives per system call */
    SV_UDP_RECEIVE = 64 * 1024,  /* bytes of one receive */
    SV_UDP_BEHIND = 16,          /* bytes that are there behind every receive */
    SV_UDP_BUFFER = 8 << 20,     /* of a socket, each way */
};

/* A peer's address and the local one it is reached from. */
struct sv_endpoint {
    union {
        struct sockaddr any;
        struct sockaddr_in in4;
        struct sockaddr_in6 in6;
    } to;
    union {
        struct in_addr in4;
        struct in6_addr in6;
    } from;             /* all zero: the kernel chooses */
    uint32_t interface; /* of `from`; 0: any */
};

/* The same peer address (not the local one). */
bool sv_endpoint_same(const struct sv_endpoint *a, const struct sv_endpoint *b);
bool sv_endpoint_identical(const struct sv_endpoint *a, const struct sv_endpoint *b);
/* From now on the kernel chooses the local address. */
void sv_endpoint_forget_source(struct sv_endpoint *endpoint);
/* The address and port as bytes that tell sources apart; at most SV_ENDPOINT_ID. */
enum { SV_ENDPOINT_ID = 18 };
size_t sv_endpoint_id(const struct sv_endpoint *endpoint, uint8_t id[SV_ENDPOINT_ID]);

struct sv_udp {
    int fd4, fd6; /* -1: the machine has no such addresses */
    uint16_t port;
    bool segments;     /* UDP_SEGMENT works */
    bool keeps_source; /* never sends from another address than it is told to */
};

/* Sockets that share a port: the first takes it from nobody, and the others join. */
enum sv_udp_share { SV_UDP_ALONE, SV_UDP_FIRST, SV_UDP_JOIN };

/* Binds *port on all addresses (0: the kernel chooses, and *port is what it chose). `mark` is the firewall mark, 0: none.
 * SV_E_IN_USE, SV_E_PERMISSION, SV_E_SYSTEM with words. */
int sv_udp_open(struct sv_udp *udp, uint16_t *port, enum sv_udp_share share, uint32_t mark);
/* The same on one local address, its port too; of its family alone, but the IPv6 wildcard stands for all addresses. udp->port tells a port that was 0. */
int sv_udp_open_at(struct sv_udp *udp, const struct sockaddr_storage *at, enum sv_udp_share share);
/* Datagrams go out whole or not at all, whatever the kernel believes of the path: for those who look for its MTU themselves. */
void sv_udp_keep_whole(struct sv_udp *udp);
/* Which of the sockets that share the port gets a datagram: the one that joined as number `bytes[1]`, counted from 0, when its first byte is under 0x80,
 * as in QUIC's short headers; else, or where there is no such socket, the kernel spreads by addresses. Called on one that joined. */
int sv_udp_steer(const struct sv_udp *udp);
void sv_udp_close(struct sv_udp *udp);
int sv_udp_set_mark(struct sv_udp *udp, uint32_t mark);

/* Datagrams of one size but for the last, as the network's merging left them: `len` bytes in pieces of `segment`. One of no bytes comes alone. */
typedef void (*sv_udp_receiver)(void *ctx, const struct sv_endpoint *from, uint8_t *bytes, size_t len,
                                size_t segment);

/* Room for one call of sv_udp_receive; the bytes stay as they are until the next. */
struct sv_udp_batch;
struct sv_udp_batch *sv_udp_batch_new(void);
void sv_udp_batch_free(struct sv_udp_batch *batch);

/* One batch from the socket to the receiver. How many receives there were; 0: none waited. SV_E_SYSTEM. */
int sv_udp_receive(int fd, struct sv_udp_batch *batch, sv_udp_receiver receiver, void *ctx);

/* The most bytes that one send to the endpoint takes of datagrams of that size. */
size_t sv_udp_most(const struct sv_endpoint *to, size_t segment);

/* `len` bytes in datagrams of `segment` bytes, the last one shorter or not. A local address that is gone is forgotten: *to changes then (not where the
 * socket keeps it). 0, SV_E_AGAIN (the
 * socket is full), SV_E_UNREACHABLE, SV_E_SYSTEM: some or all were not sent. */
int sv_udp_send(struct sv_udp *udp, struct sv_endpoint *to, const uint8_t *bytes, size_t len, size_t segment);

#endif
