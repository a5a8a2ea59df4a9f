/* What the packet path needs to know of an IP packet: read once, strictly, without a copy. */
#ifndef SV_PACKET_IP_H
#define SV_PACKET_IP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SV_IP4_HEADER = 20, SV_IP6_HEADER = 40, SV_TCP_HEADER = 20, SV_UDP_HEADER = 8 };

struct sv_ip {
    uint8_t version;             /* 4 or 6 */
    uint8_t proto;               /* of the payload; IPv6 extension headers are skipped */
    uint8_t tos;                 /* or traffic class: DSCP and ECN */
    bool df;                     /* IPv4's; true for IPv6 */
    bool fragment;               /* any fragment */
    bool first_fragment;         /* its offset is 0: the ports can be read */
    uint16_t header_len;         /* bytes up to the payload */
    uint16_t l4_len;             /* bytes of a whole TCP or UDP header, else 0; 0 for fragments */
    uint16_t src_port, dst_port; /* 0 where there are none */
    uint32_t len;                /* bytes of the whole packet */
    uint8_t src[16], dst[16];    /* IPv4 as ::ffff:a.b.c.d */
};

/* SV_E_MALFORMED: not exactly one IP packet of len bytes; a TCP or UDP header that does not fit in it (a
 * first fragment must show its ports and flags); jumbograms; and what hides the true addresses: IPv4-mapped
 * ones in an IPv6 header, routing headers with segments left. *ip is undefined then. */
int sv_ip_parse(struct sv_ip *ip, const uint8_t *packet, size_t len);

#endif
