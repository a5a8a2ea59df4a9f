#include "packet/vnet.h"

#include <netinet/in.h>
#include <smartvpn/base.h>

#include "base/bytes.h"
#include "packet/checksum.h"
#include "packet/gso.h"
#include "packet/tcp.h"

/* The version that a kind asks for; 0: either. */
static uint8_t version_of(uint8_t kind)
{
    return kind == SV_SUPER_TCP4 ? 4 : kind == SV_SUPER_TCP6 ? 6 : 0;
}

int sv_vnet_classify(const struct sv_vnet *vnet, const uint8_t *packet, size_t len, uint8_t *kind,
                     uint16_t *segment_size)
{
    *kind = SV_SUPER_NONE;
    *segment_size = 0;
    if (len == 0) {
        return SV_E_MALFORMED;
    }
    switch (vnet->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
    case VIRTIO_NET_HDR_GSO_NONE:
        return 0;
    case VIRTIO_NET_HDR_GSO_TCPV4:
        *kind = SV_SUPER_TCP4;
        break;
    case VIRTIO_NET_HDR_GSO_TCPV6:
        *kind = SV_SUPER_TCP6;
        break;
    case VIRTIO_NET_HDR_GSO_UDP_L4:
        *kind = SV_SUPER_UDP;
        break;
    default:
        return SV_E_MALFORMED;
    }
    *segment_size = vnet->gso_size;
    return *segment_size && (!version_of(*kind) || version_of(*kind) == packet[0] >> 4) ? 0 : SV_E_MALFORMED;
}

static bool kind_matches(const struct sv_ip *ip, uint8_t kind)
{
    if (kind == SV_SUPER_UDP) {
        return ip->proto == IPPROTO_UDP;
    }
    return ip->proto == IPPROTO_TCP && ip->version == version_of(kind);
}

/* Only plain data segments come in super-packets. */
static bool l4_is_sane(const uint8_t *l4, const struct sv_ip *ip)
{
    uint8_t flags;

    if (ip->proto == IPPROTO_UDP) {
        return sv_load16be(l4 + SV_UDP_LENGTH) == ip->len - ip->header_len;
    }
    flags = l4[SV_TCP_FLAGS];
    return (flags & SV_TCP_ACK) && !(flags & (SV_TCP_SYN | SV_TCP_RST | SV_TCP_URG));
}

/* l4_len is 0 for fragments and for what is neither TCP nor UDP. */
static bool is_sane(const uint8_t *packet, const struct sv_ip *ip, uint8_t kind, uint16_t segment_size)
{
    size_t headers = (size_t)ip->header_len + ip->l4_len;

    return ip->l4_len && kind_matches(ip, kind) && segment_size >= SV_SUPER_SEGMENT_MIN &&
           ip->len > headers && headers <= SV_GSO_HEADERS_MAX &&
           sv_gso_segments(ip->len, ip, kind, segment_size) <= SV_SUPER_SEGMENTS_MAX &&
           l4_is_sane(packet + ip->header_len, ip);
}

static uint8_t gso_type_of(const uint8_t *l4, const struct sv_ip *ip)
{
    uint8_t ecn = 0;

    if (ip->proto == IPPROTO_UDP) {
        return VIRTIO_NET_HDR_GSO_UDP_L4;
    }
    if (l4[SV_TCP_FLAGS] & SV_TCP_CWR) {
        ecn = VIRTIO_NET_HDR_GSO_ECN;
    }
    return ecn | (ip->version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6);
}

void sv_vnet_offload(struct sv_vnet *vnet, uint8_t *packet, size_t len, const struct sv_ip *ip,
                     uint16_t segment_size)
{
    size_t headers = (size_t)ip->header_len + ip->l4_len;
    uint16_t checksum = ip->proto == IPPROTO_TCP ? SV_TCP_CHECKSUM : SV_UDP_CHECKSUM;
    uint8_t *l4 = packet + ip->header_len;

    if (ip->version == 4) {
        sv_checksum_ip4(packet, ip->header_len);
    }
    sv_store16be(l4 + checksum,
                 sv_checksum_fold(sv_checksum_pseudo(ip, ip->proto, (uint32_t)(len - ip->header_len))));
    *vnet = (struct sv_vnet){
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .hdr_len = (uint16_t)headers,
        .csum_start = ip->header_len,
        .csum_offset = checksum,
    };
    if (len - headers > segment_size) {
        vnet->gso_type = gso_type_of(l4, ip);
        vnet->gso_size = segment_size;
    }
}

int sv_vnet_build(struct sv_vnet *vnet, uint8_t *packet, size_t len, const struct sv_ip *ip, uint8_t kind,
                  uint16_t segment_size)
{
    if (len != ip->len || !is_sane(packet, ip, kind, segment_size)) {
        return SV_E_MALFORMED;
    }
    sv_vnet_offload(vnet, packet, len, ip, segment_size);
    return 0;
}
