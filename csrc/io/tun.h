/* The TUN device: one queue per worker, each packet with the kernel's offload header, so that super-packets of up to 64 KB cross whole. */
#ifndef SV_IO_TUN_H
#define SV_IO_TUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "packet/vnet.h"

enum { SV_TUN_NAME = 16 };

struct sv_tun {
    char name[SV_TUN_NAME];
    unsigned index; /* interface index */
    size_t queue_count;
    int *queues;  /* non-blocking fds */
    bool udp_gso; /* the kernel takes and gives UDP super-packets (USO, Linux 6.2) */
    bool plain;   /* adopted without offload headers: one ordinary packet at a time */
};

/* Creates NAME (a pattern like "svpn%d" lets the kernel choose) with `queues` queues, offloads on, gso_max_size 61000 (see performance.md). The device ends with its
 * fds. SV_E_PERMISSION, SV_E_UNSUPPORTED (no /dev/net/tun), SV_E_IN_USE, SV_E_SYSTEM; sv_error_detail has the words. */
int sv_tun_open(struct sv_tun *tun, const char *name, size_t queues);
/* Takes over one queue that somebody else has made, with or without offload headers. SV_E_INVALID: it is no TUN device. */
int sv_tun_adopt(struct sv_tun *tun, int fd);
/* In the place of a device that the kernel carries packets for: nothing is ever read, and what is written is lost. */
int sv_tun_stand_in(struct sv_tun *tun, const char *name);
void sv_tun_close(struct sv_tun *tun);

/* Sets the MTU and brings the interface up. (Addresses and routes are the caller's.) */
int sv_tun_up(struct sv_tun *tun, unsigned mtu);

/* One packet into dst (cap bytes). 0 with *len, or SV_E_AGAIN, SV_E_SYSTEM. */
int sv_tun_read(int queue, struct sv_vnet *vnet, uint8_t *dst, size_t cap, size_t *len);

/* One packet in pieces; iov[0] is left free for the offload header: the packet is iov[1..count). 0, SV_E_AGAIN, SV_E_SYSTEM. */
int sv_tun_write(int queue, const struct sv_vnet *vnet, struct iovec *iov, size_t count);

/* The same for a plain queue: *vnet says that the packet is an ordinary one; the offload header is left out. */
int sv_tun_read_plain(int queue, struct sv_vnet *vnet, uint8_t *dst, size_t cap, size_t *len);
int sv_tun_write_plain(int queue, struct iovec *iov, size_t count);

#endif
