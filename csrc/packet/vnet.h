/* The offload header in front of each packet of a TUN queue (struct virtio_net_hdr), and what it means for a
 * frame. */
#ifndef SV_PACKET_VNET_H
#define SV_PACKET_VNET_H

#include <linux/virtio_net.h>

#include "packet/ip.h"

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

/* Of a super-packet, as the wire has it; 0: an ordinary packet. */
enum sv_super_kind { SV_SUPER_NONE = 0, SV_SUPER_TCP4 = 1, SV_SUPER_TCP6 = 2, SV_SUPER_UDP = 3 };

/* On the wire: bytes of a segment, segments of a packet. */
enum { SV_SUPER_SEGMENT_MIN = 256, SV_SUPER_SEGMENTS_MAX = 128 };

/* In the machine's byte order, as the kernel has it by default. */
struct sv_vnet {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset;
};

_Static_assert(sizeof(struct sv_vnet) == 10, "the kernel's layout");

/* What the kernel handed over: an ordinary packet, or a super-packet of some kind and segment size.
 * SV_E_MALFORMED for kinds that were not asked for, or that are not the packet's IP version. */
int sv_vnet_classify(const struct sv_vnet *vnet, const uint8_t *packet, size_t len, uint8_t *kind,
                     uint16_t *segment_size);

/* The header for a super-packet that came over the network: everything is checked and made anew from the
 * packet itself (IPv4 and pseudo-header sums are written). A packet of one segment gets no gso_type, only its
 * partial checksum. SV_E_MALFORMED: kind, sizes or flags lie; then the packet is unchanged. */
int sv_vnet_build(struct sv_vnet *vnet, uint8_t *packet, size_t len, const struct sv_ip *ip, uint8_t kind,
                  uint16_t segment_size);

/* The same without the checks, for packets made here: whole TCP or UDP, len bytes in all, whose length fields
 * are right already; the bytes behind the headers need not follow them. */
void sv_vnet_offload(struct sv_vnet *vnet, uint8_t *packet, size_t len, const struct sv_ip *ip,
                     uint16_t segment_size);

#endif
