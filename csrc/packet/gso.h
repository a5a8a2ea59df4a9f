/* Super-packet → segments: what a network card's segmentation offload does, in software. */
#ifndef SV_PACKET_GSO_H
#define SV_PACKET_GSO_H

#include "packet/ip.h"
#include "packet/vnet.h"

struct sv_gso {
    const uint8_t *packet;
    const struct sv_ip *ip;
    size_t headers;             /* bytes of IP and TCP or UDP header */
    size_t payload;             /* bytes behind them */
    size_t segment_size;
    size_t done;                /* payload bytes handed out */
    uint16_t index;             /* of the next segment */
    bool tcp;
    uint64_t ip_sum, l4_sum;    /* of what is the same in all segments */
};

/* The packet and its parse stay the caller's and must outlive the iteration. SV_E_MALFORMED: not TCP or UDP, a fragment, or segment size 0. */
int sv_gso_init(struct sv_gso *it, const uint8_t *packet, size_t len, const struct sv_ip *ip, uint8_t kind, uint16_t segment_size);

/* Writes the next segment (headers, payload, complete checksums) to dst, which has room for headers + segment size; its length, or 0 at the end. */
size_t sv_gso_next(struct sv_gso *it, uint8_t *dst);

/* Only its headers; *payload points into the super-packet. For callers that seal without copying. Returns payload bytes, or 0 at the end. */
size_t sv_gso_next_header(struct sv_gso *it, uint8_t *headers, const uint8_t **payload);

/* How many segments a packet of len bytes has; length of its first one. */
size_t sv_gso_segments(size_t len, const struct sv_ip *ip, uint8_t kind, uint16_t segment_size);
size_t sv_gso_unit(const uint8_t *packet, const struct sv_ip *ip, uint8_t kind, uint16_t segment_size);

#endif
