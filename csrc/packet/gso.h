/* Super-packet → segments: what a network card's segmentation offload does, in software. */
#ifndef SV_PACKET_GSO_H
#define SV_PACKET_GSO_H

#include "packet/ip.h"
#include "packet/vnet.h"

/* IP, extension and TCP or UDP headers of a super-packet: all of IPv4 and TCP (120), and extensions as far as
 * anybody uses them. */
enum { SV_GSO_HEADERS_MAX = 256 };

/* Everything the headers need is copied at init, so that they may be written over the packet's own bytes. */
struct sv_gso {
    const uint8_t *payload; /* of the super-packet */
    size_t payload_len;
    uint32_t seq;         /* TCP: of the first segment */
    uint16_t id;          /* IPv4: of the first segment */
    uint16_t headers, l4; /* bytes of all headers; where TCP or UDP begins in them */
    uint16_t segment_size;
    uint16_t count, next; /* segments: in all, the one sv_gso_next is at */
    uint8_t flags;        /* TCP */
    bool ip4, tcp;
    uint16_t ip_sum, l4_sum;            /* of header[], l4_sum with the pseudo-header */
    uint8_t header[SV_GSO_HEADERS_MAX]; /* what all segments share; 0 where they differ */
};

/* The packet stays the caller's and must outlive the iteration; the parse need not. Its own checksums and
 * lengths of UDP do not matter. SV_E_MALFORMED: not a whole TCP segment or UDP datagram with payload, no
 * kind, segment size 0, or more than SV_GSO_HEADERS_MAX of headers. */
int sv_gso_init(struct sv_gso *it, const uint8_t *packet, size_t len, const struct sv_ip *ip, uint8_t kind,
                uint16_t segment_size);

/* How many segments there are. */
size_t sv_gso_count(const struct sv_gso *it);

/* Writes the headers of segment i, complete with checksums, to dst (it->headers bytes); *payload points at
 * its payload in the super-packet. Payload bytes, or 0 from sv_gso_count on. dst may be the it->headers bytes
 * in front of that payload once the segments before it are done with: then the segment lies there as one
 * piece. */
size_t sv_gso_header(const struct sv_gso *it, size_t i, uint8_t *dst, const uint8_t **payload);

/* Writes the next segment (headers, payload) to dst, which has room for headers + segment size; its length,
 * or 0 at the end. */
size_t sv_gso_next(struct sv_gso *it, uint8_t *dst);

/* How many segments a packet of len bytes makes; bytes of the longest. 1 and len for an ordinary packet. */
size_t sv_gso_segments(size_t len, const struct sv_ip *ip, uint8_t kind, uint16_t segment_size);
size_t sv_gso_unit(const uint8_t *packet, const struct sv_ip *ip, uint8_t kind, uint16_t segment_size);

#endif
