/* The Internet checksum (RFC 1071) and the pseudo-headers of TCP, UDP and ICMPv6. */
#ifndef SV_PACKET_CHECKSUM_H
#define SV_PACKET_CHECKSUM_H

#include "packet/ip.h"

/* Adds bytes to a running sum; only the last piece may have odd length. */
uint64_t sv_checksum_add(uint64_t sum, const uint8_t *bytes, size_t len);

/* Folded to 16 bits, as a number to be stored big-endian; not inverted. */
uint16_t sv_checksum_fold(uint64_t sum);

/* Sum of the pseudo-header for l4_len bytes of payload between the addresses of this packet. */
uint64_t sv_checksum_pseudo(const struct sv_ip *ip, uint8_t proto, uint32_t l4_len);

/* Ends a checksum that the kernel left partial: sums packet[start..len) into the field at start + offset. Out
 * of range: nothing. */
void sv_checksum_complete(uint8_t *packet, size_t len, uint16_t start, uint16_t offset);

/* Whether a whole TCP segment's or UDP datagram's checksum (and the datagram's length) holds; IPv4 UDP
 * without one passes. False for fragments and other protocols. */
bool sv_checksum_l4_valid(const uint8_t *packet, const struct sv_ip *ip);

/* The IPv4 header's checksum: made anew; whether it holds. */
void sv_checksum_ip4(uint8_t *packet, size_t header_len);
bool sv_checksum_ip4_valid(const uint8_t *packet, size_t header_len);

#endif
