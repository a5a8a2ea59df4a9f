#include "packet/ip.h"

#include <netinet/in.h>
#include <smartvpn/base.h>
#include <string.h>

#include "base/bytes.h"

enum { EXTENSIONS_MAX = 8 };

static const uint8_t MAPPED[12] = { [10] = 0xFF, [11] = 0xFF };

static int parse_ports(struct sv_ip *ip, const uint8_t *l4, size_t len)
{
    if (ip->proto == IPPROTO_TCP) {
        if (len < SV_TCP_HEADER) {
            return SV_E_MALFORMED;
        }
        ip->l4_len = (uint16_t)((l4[12] >> 4) * 4);
        if (ip->l4_len < SV_TCP_HEADER || ip->l4_len > len) {
            return SV_E_MALFORMED;
        }
    } else if (ip->proto == IPPROTO_UDP) {
        if (len < SV_UDP_HEADER) {
            return SV_E_MALFORMED;
        }
        ip->l4_len = SV_UDP_HEADER;
    } else {
        return 0;
    }
    ip->src_port = sv_load16be(l4);
    ip->dst_port = sv_load16be(l4 + 2);
    return 0;
}

/* A first fragment may be cut before its ports end: then it has none. */
static int parse_l4(struct sv_ip *ip, const uint8_t *packet)
{
    int error;

    ip->l4_len = ip->src_port = ip->dst_port = 0;
    if (ip->fragment && !ip->first_fragment) {
        return 0;
    }
    error = parse_ports(ip, packet + ip->header_len, ip->len - ip->header_len);
    if (error && ip->fragment) {
        ip->l4_len = ip->src_port = ip->dst_port = 0;
        return 0;
    }
    return error;
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
    ip->df = fragment & 0x4000;
    ip->fragment = fragment & 0x3FFF;
    ip->first_fragment = !(fragment & 0x1FFF);
    ip->proto = packet[9];
    memcpy(ip->src, MAPPED, 12);
    memcpy(ip->src + 12, packet + 12, 4);
    memcpy(ip->dst, MAPPED, 12);
    memcpy(ip->dst + 12, packet + 16, 4);
    return 0;
}

static bool is_extension(uint8_t next)
{
    return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS || next == IPPROTO_FRAGMENT;
}

static int skip_extensions(struct sv_ip *ip, const uint8_t *packet, size_t len)
{
    size_t at = SV_IP6_HEADER;

    for (int i = 0; is_extension(ip->proto); i++) {
        size_t size = 8;

        if (i == EXTENSIONS_MAX || at + size > len) {
            return SV_E_MALFORMED;
        }
        if (ip->proto == IPPROTO_FRAGMENT) {
            uint16_t offset = sv_load16be(packet + at + 2);

            ip->fragment = true;
            ip->first_fragment = !(offset & 0xFFF8);
        } else {
            size = 8 * (packet[at + 1] + (size_t)1);
        }
        if (at + size > len) {
            return SV_E_MALFORMED;
        }
        ip->proto = packet[at];
        at += size;
        if (ip->fragment && !ip->first_fragment) {
            break;
        }
    }
    ip->header_len = (uint16_t)at;
    return 0;
}

static int parse6(struct sv_ip *ip, const uint8_t *packet, size_t len)
{
    if (len < SV_IP6_HEADER || sv_load16be(packet + 4) != len - SV_IP6_HEADER) {
        return SV_E_MALFORMED;
    }
    ip->version = 6;
    ip->tos = (uint8_t)(packet[0] << 4 | packet[1] >> 4);
    ip->df = true;
    ip->fragment = false;
    ip->first_fragment = true;
    ip->proto = packet[6];
    memcpy(ip->src, packet + 8, 16);
    memcpy(ip->dst, packet + 24, 16);
    return skip_extensions(ip, packet, len);
}

int sv_ip_parse(struct sv_ip *ip, const uint8_t *packet, size_t len)
{
    int error = SV_E_MALFORMED;

    if (len > 0 && packet[0] >> 4 == 4) {
        error = parse4(ip, packet, len);
    } else if (len > 0 && packet[0] >> 4 == 6) {
        error = parse6(ip, packet, len);
    }
    if (error) {
        return error;
    }
    ip->len = (uint32_t)len;
    return parse_l4(ip, packet);
}
