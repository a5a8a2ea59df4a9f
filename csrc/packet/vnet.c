#include "packet/vnet.h"

#include <netinet/in.h>
#include <smartvpn/base.h>
#include <string.h>

#include "base/bytes.h"
#include "packet/checksum.h"
#include "packet/gso.h"

enum { TCP_CHECKSUM = 16, UDP_CHECKSUM = 6, TCP_FLAGS = 13 };
enum { TCP_SYN = 0x02, TCP_RST = 0x04, TCP_ACK = 0x10, TCP_URG = 0x20, TCP_CWR = 0x80 };

int sv_vnet_classify(const struct sv_vnet *vnet, const uint8_t *packet, size_t len, uint8_t *kind, uint16_t *segment_size)
{
    (void)packet;
    *segment_size = vnet->gso_size;
    switch (vnet->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
    case VIRTIO_NET_HDR_GSO_NONE:
        *kind = SV_SUPER_NONE;
        *segment_size = 0;
        return len ? 0 : SV_E_MALFORMED;
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
    return vnet->gso_size ? 0 : SV_E_MALFORMED;
}

static bool kind_matches(const struct sv_ip *ip, uint8_t kind)
{
    switch (kind) {
    case SV_SUPER_TCP4:
        return ip->version == 4 && ip->proto == IPPROTO_TCP;
    case SV_SUPER_TCP6:
        return ip->version == 6 && ip->proto == IPPROTO_TCP;
    case SV_SUPER_UDP:
        return ip->proto == IPPROTO_UDP;
    default:
        return false;
    }
}

/* Only plain data segments come in super-packets. */
static bool flags_are_sane(const uint8_t *packet, const struct sv_ip *ip)
{
    uint8_t flags;

    if (ip->proto == IPPROTO_UDP) {
        return sv_load16be(packet + ip->header_len + 4) == ip->len - ip->header_len;
    }
    flags = packet[ip->header_len + TCP_FLAGS];
    return (flags & TCP_ACK) && !(flags & (TCP_SYN | TCP_RST | TCP_URG));
}

static bool is_sane(const uint8_t *packet, const struct sv_ip *ip, uint8_t kind, uint16_t segment_size)
{
    size_t payload = ip->len - ip->header_len - ip->l4_len;

    return kind_matches(ip, kind) && !ip->fragment && segment_size >= SV_SUPER_SEGMENT_MIN && payload > 0 &&
           (payload + segment_size - 1) / segment_size <= SV_SUPER_SEGMENTS_MAX && flags_are_sane(packet, ip);
}

static uint8_t gso_type_of(const uint8_t *packet, const struct sv_ip *ip, uint8_t kind)
{
    bool cwr = kind != SV_SUPER_UDP && (packet[ip->header_len + TCP_FLAGS] & TCP_CWR);
    uint8_t type = kind == SV_SUPER_TCP4   ? VIRTIO_NET_HDR_GSO_TCPV4
                   : kind == SV_SUPER_TCP6 ? VIRTIO_NET_HDR_GSO_TCPV6
                                           : VIRTIO_NET_HDR_GSO_UDP_L4;

    return cwr ? type | VIRTIO_NET_HDR_GSO_ECN : type;
}

int sv_vnet_build(struct sv_vnet *vnet, uint8_t *packet, size_t len, const struct sv_ip *ip, uint8_t kind, uint16_t segment_size)
{
    size_t headers = (size_t)ip->header_len + ip->l4_len;
    uint16_t offset = ip->proto == IPPROTO_TCP ? TCP_CHECKSUM : UDP_CHECKSUM;

    if (!is_sane(packet, ip, kind, segment_size)) {
        return SV_E_MALFORMED;
    }
    if (ip->version == 4) {
        sv_checksum_ip4(packet, ip->header_len);
    }
    sv_store16be(packet + ip->header_len + offset,
                 sv_checksum_fold(sv_checksum_pseudo(ip, ip->proto, ip->len - ip->header_len)));
    *vnet = (struct sv_vnet){
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .hdr_len = (uint16_t)headers,
        .csum_start = ip->header_len,
        .csum_offset = offset,
    };
    if (len - headers > segment_size) {
        vnet->gso_type = gso_type_of(packet, ip, kind);
        vnet->gso_size = segment_size;
    }
    return 0;
}
