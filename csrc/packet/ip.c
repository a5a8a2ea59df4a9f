#include "packet/ip.h"

#include <netinet/in.h>
#include <smartvpn/base.h>
#include <string.h>

#include "base/bytes.h"

enum { EXTENSIONS_MAX = 8, IP4_DF = 0x4000, IP4_OFFSET = 0x1FFF, IP4_FRAGMENT = 0x3FFF, IP6_OFFSET = 0xFFF8 };

/* Of a fragment only the fixed header must be there: options may come in the next one. */
static int parse_tcp(struct sv_ip *ip, const uint8_t *l4, size_t len)
{
    size_t header;

    if (len < SV_TCP_HEADER) {
        return SV_E_MALFORMED;
    }
    header = (size_t)(l4[12] >> 4) * 4;
    if (header < SV_TCP_HEADER || (header > len && !ip->fragment)) {
        return SV_E_MALFORMED;
    }
    ip->l4_len = ip->fragment ? 0 : (uint16_t)header;
    return 0;
}

static int parse_udp(struct sv_ip *ip, size_t len)
{
    if (len < SV_UDP_HEADER) {
        return SV_E_MALFORMED;
    }
    ip->l4_len = ip->fragment ? 0 : SV_UDP_HEADER;
    return 0;
}

static int parse_l4(struct sv_ip *ip, const uint8_t *packet)
{
    const uint8_t *l4 = packet + ip->header_len;
    bool has_ports = (ip->proto == IPPROTO_TCP || ip->proto == IPPROTO_UDP) &&
                     (!ip->fragment || ip->first_fragment);
    int error;

    if (!has_ports) {
        ip->l4_len = ip->src_port = ip->dst_port = 0;
        return 0;
    }
    error = ip->proto == IPPROTO_TCP ? parse_tcp(ip, l4, ip->len - ip->header_len)
                                     : parse_udp(ip, ip->len - ip->header_len);
    if (!error) {
        ip->src_port = sv_load16be(l4);
        ip->dst_port = sv_load16be(l4 + 2);
    }
    return error;
}

static void store_mapped(uint8_t addr[16], const uint8_t *ip4)
{
    memset(addr, 0, 8);
    sv_store32be(addr + 8, 0xFFFF);
    memcpy(addr + 12, ip4, 4);
}

static int parse4(struct sv_ip *ip, const uint8_t *packet, size_t len)
{
    uint16_t fragment;

    if (len < SV_IP4_HEADER) {
        return SV_E_MALFORMED;
    }
    ip->header_len = (uint16_t)((packet[0] & 0x0F) * 4);
    if (ip->header_len < SV_IP4_HEADER || ip->header_len > len || sv_load16be(packet + 2) != len) {
        return SV_E_MALFORMED;
    }
    fragment = sv_load16be(packet + 6);
    ip->version = 4;
    ip->tos = packet[1];
    ip->df = fragment & IP4_DF;
    ip->fragment = fragment & IP4_FRAGMENT;
    ip->first_fragment = !(fragment & IP4_OFFSET);
    ip->proto = packet[9];
    ip->len = (uint32_t)len;
    store_mapped(ip->src, packet + 12);
    store_mapped(ip->dst, packet + 16);
    return parse_l4(ip, packet);
}

static bool is_extension(uint8_t next)
{
    return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS ||
           next == IPPROTO_FRAGMENT;
}

/* One extension header of which 8 bytes are there; its length. */
static size_t read_extension(struct sv_ip *ip, const uint8_t *header)
{
    if (ip->proto == IPPROTO_FRAGMENT) {
        ip->fragment = true;
        ip->first_fragment = !(sv_load16be(header + 2) & IP6_OFFSET);
        return 8;
    }
    return 8 * (header[1] + (size_t)1);
}

/* Behind the header of a later fragment comes the middle of something. */
static int skip_extensions(struct sv_ip *ip, const uint8_t *packet)
{
    size_t at = SV_IP6_HEADER;

    for (int i = 0; is_extension(ip->proto) && ip->first_fragment; i++) {
        const uint8_t *header = packet + at;

        if (i == EXTENSIONS_MAX || at + 8 > ip->len || (ip->proto == IPPROTO_ROUTING && header[3])) {
            return SV_E_MALFORMED;
        }
        at += read_extension(ip, header);
        if (at > ip->len) {
            return SV_E_MALFORMED;
        }
        ip->proto = header[0];
    }
    ip->header_len = (uint16_t)at;
    return 0;
}

static bool is_mapped(const uint8_t addr[16])
{
    return sv_load64be(addr) == 0 && sv_load32be(addr + 8) == 0xFFFF;
}

static int parse6(struct sv_ip *ip, const uint8_t *packet, size_t len)
{
    if (len < SV_IP6_HEADER || sv_load16be(packet + 4) != len - SV_IP6_HEADER || is_mapped(packet + 8) ||
        is_mapped(packet + 24)) {
        return SV_E_MALFORMED;
    }
    ip->version = 6;
    ip->tos = (uint8_t)(packet[0] << 4 | packet[1] >> 4);
    ip->df = true;
    ip->fragment = false;
    ip->first_fragment = true;
    ip->proto = packet[6];
    ip->len = (uint32_t)len;
    memcpy(ip->src, packet + 8, 16);
    memcpy(ip->dst, packet + 24, 16);
    return skip_extensions(ip, packet) ? SV_E_MALFORMED : parse_l4(ip, packet);
}

int sv_ip_parse(struct sv_ip *ip, const uint8_t *packet, size_t len)
{
    if (len == 0) {
        return SV_E_MALFORMED;
    }
    switch (packet[0] >> 4) {
    case 4:
        return parse4(ip, packet, len);
    case 6:
        return parse6(ip, packet, len);
    default:
        return SV_E_MALFORMED;
    }
}
