/* Answers into the TUN: packet too big (RFC 1191, RFC 4443) and unreachable (RFC 792, RFC 4443). */
#ifndef SV_PACKET_ICMP_H
#define SV_PACKET_ICMP_H

#include "packet/ip.h"

enum { SV_ICMP_MAX = 1280 };

enum sv_unreachable { SV_UNREACHABLE_HOST, SV_UNREACHABLE_PROHIBITED };

/* Length of the answer in dst (SV_ICMP_MAX bytes), from `source` (16-byte form) to the packet's sender; mtu
 * counts the IP header. 0: none may be sent (answers to ICMP errors, later fragments, what comes from or goes
 * to no single host, RFC 1122 section 3.2.2; or source is of another family). A super-packet may be answered
 * as it is: the quoted part is the same in its first segment, but for lengths and checksums. */
size_t sv_icmp_too_big(uint8_t dst[SV_ICMP_MAX], const uint8_t *packet, const struct sv_ip *ip,
                       const uint8_t source[16], uint16_t mtu);
size_t sv_icmp_unreachable(uint8_t dst[SV_ICMP_MAX], const uint8_t *packet, const struct sv_ip *ip,
                           const uint8_t source[16], enum sv_unreachable why);

#endif
