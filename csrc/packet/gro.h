/* Segments → super-packets: what arrived in one batch is merged per flow and written to the TUN in as few
 * writes as possible.
 *
 * Packets are pointed to, not copied: they must stay where they are until the flush. Within a flow the order
 * never changes.
 */
#ifndef SV_PACKET_GRO_H
#define SV_PACKET_GRO_H

#include <sys/uio.h>

#include "packet/ip.h"
#include "packet/vnet.h"

enum {
    SV_GRO_FLOWS = 16,
    SV_GRO_SEGMENTS = 64, /* of one super-packet */
    SV_GRO_BYTES = 65535,
};

/* An ordinary packet, or a super-packet in the making. iov[0] is left free for the offload header. */
struct sv_gro_item {
    struct sv_ip ip;       /* of its first packet */
    uint8_t *packet;       /* the first packet: its headers become the super-packet's */
    uint32_t next_seq;     /* TCP */
    uint32_t bytes;        /* of the whole so far */
    uint16_t segment_size; /* payload of all but the last */
    uint16_t count;        /* segments */
    bool open;             /* more may be merged */
    bool verified;         /* the first packet's checksums: only looked at when a second one comes */
    struct iovec iov[SV_GRO_SEGMENTS + 1];
};

struct sv_gro {
    /* iov[0] is the callee's to fill with the offload header; the packet is iov[1..count). The bytes are the
     * callee's as well. */
    void (*emit)(void *ctx, const struct sv_vnet *vnet, struct iovec *iov, size_t count);
    void *ctx;
    bool udp; /* UDP may be merged as well: the TUN takes UDP super-packets */
    size_t used;
    struct sv_gro_item items[SV_GRO_FLOWS];
};

void sv_gro_init(struct sv_gro *gro, void (*emit)(void *ctx, const struct sv_vnet *, struct iovec *, size_t),
                 void *ctx, bool udp);

/* Takes one packet in; a full table is flushed first. The headers of a flow's first packet may be rewritten.
 */
void sv_gro_add(struct sv_gro *gro, uint8_t *packet, size_t len, const struct sv_ip *ip);

/* Emits everything, in the order in which the items began. */
void sv_gro_flush(struct sv_gro *gro);

#endif
