/* Packets made and judged without the code under test: a maker, checksums byte pair by byte pair, and a
 * splitter that does what the kernel does with a super-packet. */
#ifndef SV_TESTS_PACKET_MAKE_H
#define SV_TESTS_PACKET_MAKE_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { PACKET_ROOM = 66 * 1024 };

enum { FIN = 0x01, SYN = 0x02, RST = 0x04, PSH = 0x08, ACK = 0x10, URG = 0x20, ECE = 0x40, CWR = 0x80 };

static uint32_t make_random_state = 1;

static inline uint32_t make_random(void)
{
    make_random_state ^= make_random_state << 13;
    make_random_state ^= make_random_state >> 17;
    make_random_state ^= make_random_state << 5;
    return make_random_state;
}

static inline uint32_t make_below(uint32_t limit)
{
    return make_random() % limit;
}

static inline void put16(uint8_t *p, size_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xFFFF);
}

static inline uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

/* ---- making ---- */

struct make {
    uint8_t version, proto; /* 4 or 6; TCP, UDP or any other */
    uint8_t tos, ttl, flags, tcp_reserved;
    bool df;
    uint16_t id, src_port, dst_port, window, urgent;
    uint32_t seq, ack, flow_label;
    uint8_t src_host, dst_host;
    size_t ip_options;  /* bytes of IPv4 options or of one IPv6 destination options header */
    size_t tcp_options; /* bytes */
    uint8_t option_fill;
    size_t payload;
};

static inline struct make make_default(uint8_t version, uint8_t proto, size_t payload)
{
    return (struct make){
        .version = version,
        .proto = proto,
        .ttl = 64,
        .flags = ACK,
        .df = true,
        .id = 100,
        .src_port = 40000,
        .dst_port = 443,
        .window = 500,
        .seq = 1000000,
        .ack = 77,
        .src_host = 2,
        .dst_host = 9,
        .option_fill = 1,
        .payload = payload,
    };
}

static inline size_t make_ip_header(const struct make *m)
{
    return (m->version == 4 ? 20 : 40) + m->ip_options;
}

static inline size_t make_l4_header(const struct make *m)
{
    return m->proto == IPPROTO_TCP ? 20 + m->tcp_options : m->proto == IPPROTO_UDP ? 8 : 0;
}

static inline uint32_t naive_sum(const uint8_t *bytes, size_t len, uint32_t sum)
{
    for (size_t i = 0; i < len; i++) {
        sum += i & 1 ? bytes[i] : (uint32_t)bytes[i] << 8;
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    return sum;
}

/* Where the payload of IP begins; the tests only make destination options. */
static inline size_t naive_l4_at(const uint8_t *packet)
{
    if (packet[0] >> 4 == 4) {
        return (size_t)(packet[0] & 15) * 4;
    }
    return packet[6] == IPPROTO_DSTOPTS ? 40 + 8 * ((size_t)packet[41] + 1) : 40;
}

static inline uint8_t naive_proto(const uint8_t *packet)
{
    if (packet[0] >> 4 == 4) {
        return packet[9];
    }
    return packet[6] == IPPROTO_DSTOPTS ? packet[40] : packet[6];
}

static inline uint32_t naive_pseudo(const uint8_t *packet, size_t l4_len)
{
    bool four = packet[0] >> 4 == 4;
    uint8_t rest[4];
    uint32_t sum = naive_sum(packet + (four ? 12 : 8), four ? 8 : 32, 0);

    put16(rest, naive_proto(packet));
    put16(rest + 2, l4_len);
    return naive_sum(rest, 4, sum);
}

static inline size_t naive_checksum_at(const uint8_t *packet)
{
    uint8_t proto = naive_proto(packet);

    return naive_l4_at(packet) + (proto == IPPROTO_TCP ? 16 : proto == IPPROTO_UDP ? 6 : 2);
}

/* Writes the IPv4 and TCP, UDP or ICMPv6 checksums. */
static inline void naive_finish(uint8_t *packet, size_t len)
{
    size_t l4 = naive_l4_at(packet), at = naive_checksum_at(packet);
    uint16_t sum;

    if (packet[0] >> 4 == 4) {
        put16(packet + 10, 0);
        put16(packet + 10, ~naive_sum(packet, l4, 0) & 0xFFFF);
    }
    put16(packet + at, 0);
    sum = (uint16_t)~naive_sum(packet + l4, len - l4, naive_pseudo(packet, len - l4));
    put16(packet + at, sum || naive_proto(packet) != IPPROTO_UDP ? sum : 0xFFFF);
}

static inline bool naive_valid(const uint8_t *packet, size_t len)
{
    bool four = packet[0] >> 4 == 4;
    size_t l4 = naive_l4_at(packet), at = naive_checksum_at(packet);

    if ((four ? get16(packet + 2) : get16(packet + 4) + (size_t)40) != len ||
        (four && naive_sum(packet, l4, 0) != 0xFFFF)) {
        return false;
    }
    if (naive_proto(packet) == IPPROTO_UDP &&
        (get16(packet + l4 + 4) != len - l4 || get16(packet + at) == 0)) {
        return false;
    }
    return naive_sum(packet + l4, len - l4, naive_pseudo(packet, len - l4)) == 0xFFFF;
}

static inline void make_ip(uint8_t *p, const struct make *m, size_t len)
{
    size_t header = make_ip_header(m);

    if (m->version == 4) {
        p[0] = (uint8_t)(0x40 | header / 4);
        p[1] = m->tos;
        put16(p + 2, len);
        put16(p + 4, m->id);
        put16(p + 6, m->df ? 0x4000 : 0);
        p[8] = m->ttl;
        p[9] = m->proto;
        put32(p + 12, 0x0A080000u | m->src_host);
        put32(p + 16, 0x0A080000u | m->dst_host);
        memset(p + 20, 1, m->ip_options);
        return;
    }
    put32(p, UINT32_C(0x60000000) | (uint32_t)m->tos << 20 | m->flow_label);
    put16(p + 4, len - 40);
    p[6] = m->ip_options ? IPPROTO_DSTOPTS : m->proto;
    p[7] = m->ttl;
    p[8] = p[24] = 0xFD;
    p[23] = m->src_host;
    p[39] = m->dst_host;
    if (m->ip_options) {
        p[40] = m->proto;
        p[41] = (uint8_t)(m->ip_options / 8 - 1);
    }
}

static inline void make_l4(uint8_t *l4, const struct make *m)
{
    if (make_l4_header(m) == 0) {
        return;
    }
    put16(l4, m->src_port);
    put16(l4 + 2, m->dst_port);
    if (m->proto == IPPROTO_UDP) {
        put16(l4 + 4, 8 + m->payload);
        return;
    }
    put32(l4 + 4, m->seq);
    put32(l4 + 8, m->ack);
    l4[12] = (uint8_t)((20 + m->tcp_options) / 4 << 4 | m->tcp_reserved);
    l4[13] = m->flags;
    put16(l4 + 14, m->window);
    put16(l4 + 18, m->urgent);
    memset(l4 + 20, m->option_fill, m->tcp_options);
}

/* A whole packet with right checksums and random payload; its length. */
static inline size_t make_packet(uint8_t *p, const struct make *m)
{
    size_t headers = make_ip_header(m) + make_l4_header(m), len = headers + m->payload;

    memset(p, 0, headers);
    make_ip(p, m, len);
    make_l4(p + make_ip_header(m), m);
    for (size_t i = headers; i < len; i++) {
        p[i] = (uint8_t)make_random();
    }
    if (make_l4_header(m)) {
        naive_finish(p, len);
    }
    return len;
}

/* ---- splitting ---- */

static inline size_t naive_headers(const uint8_t *packet)
{
    size_t l4 = naive_l4_at(packet);

    return l4 + (naive_proto(packet) == IPPROTO_TCP ? (size_t)(packet[l4 + 12] >> 4) * 4 : 8);
}

/* Segment i of a super-packet into dst, field by field; its length. */
static inline size_t naive_segment(uint8_t *dst, const uint8_t *packet, size_t len, size_t segment_size,
                                   size_t i)
{
    size_t headers = naive_headers(packet), l4 = naive_l4_at(packet), from = headers + i * segment_size;
    size_t n = len - from < segment_size ? len - from : segment_size;

    memcpy(dst, packet, headers);
    memcpy(dst + headers, packet + from, n);
    if (dst[0] >> 4 == 4) {
        put16(dst + 2, headers + n);
        put16(dst + 4, (get16(packet + 4) + i) & 0xFFFF);
    } else {
        put16(dst + 4, headers + n - 40);
    }
    if (naive_proto(packet) == IPPROTO_TCP) {
        put32(dst + l4 + 4, get32(packet + l4 + 4) + (uint32_t)(i * segment_size));
        dst[l4 + 13] = (uint8_t)(packet[l4 + 13] & ~(i ? CWR : 0) & ~(from + n < len ? FIN | PSH : 0));
    } else {
        put16(dst + l4 + 4, 8 + n);
    }
    naive_finish(dst, headers + n);
    return headers + n;
}

static inline size_t naive_count(const uint8_t *packet, size_t len, size_t segment_size)
{
    return (len - naive_headers(packet) + segment_size - 1) / segment_size;
}

#endif
