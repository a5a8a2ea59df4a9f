/* Packets for the tests of csrc/packet, and a checksum reference that shares nothing with the code under test. */
#ifndef SV_TESTS_PACKET_BUILDER_H
#define SV_TESTS_PACKET_BUILDER_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { FIN = 0x01, SYN = 0x02, RST = 0x04, PSH = 0x08, ACK = 0x10, URG = 0x20, ECE = 0x40, CWR = 0x80 };

/* What a packet is made of; 0 means the usual. */
struct shape {
    int version;    /* 4 or 6 */
    int proto;      /* IPPROTO_TCP or IPPROTO_UDP */
    size_t payload; /* bytes; their values follow from seq */
    uint32_t seq, ack;
    uint8_t flags; /* TCP; 0: ACK */
    uint16_t window, urgent, id, sport, dport;
    uint8_t tos, ttl, host; /* host: last byte of the source address */
    bool df;
    size_t ip_options;  /* IPv4 options or IPv6 destination options: bytes, of 4 or 8 a piece */
    size_t tcp_options; /* bytes, of 4 a piece */
    uint8_t option;     /* their value */
    uint32_t flow_label;
};

static inline void put16(uint8_t *at, unsigned v)
{
    at[0] = (uint8_t)(v >> 8);
    at[1] = (uint8_t)v;
}

static inline void put32(uint8_t *at, uint32_t v)
{
    put16(at, v >> 16);
    put16(at + 2, v & 0xFFFF);
}

static inline unsigned get16(const uint8_t *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

static inline uint32_t get32(const uint8_t *at)
{
    return (uint32_t)get16(at) << 16 | get16(at + 2);
}

/* RFC 1071 as its first page says it: 16-bit words, each carry added at once; an odd last byte is a word's high half. */
static inline unsigned naive_sum(unsigned sum, const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        sum += i % 2 ? bytes[i] : (unsigned)bytes[i] << 8;
        sum = sum > 0xFFFF ? sum - 0xFFFF : sum;
    }
    return sum;
}

/* Over the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1), written out, then packet[at..len). */
static inline unsigned naive_l4_sum(const uint8_t *packet, size_t len, size_t at, uint8_t proto)
{
    uint8_t pseudo[40] = {0};

    if (packet[0] >> 4 == 4) {
        memcpy(pseudo, packet + 12, 8);
        pseudo[9] = proto;
        put16(pseudo + 10, (unsigned)(len - at));
        return naive_sum(naive_sum(0, pseudo, 12), packet + at, len - at);
    }
    memcpy(pseudo, packet + 8, 32);
    put32(pseudo + 32, (uint32_t)(len - at));
    pseudo[39] = proto;
    return naive_sum(naive_sum(0, pseudo, 40), packet + at, len - at);
}

/* Both checksums of a whole packet; UDP's must be there. */
static inline bool sums_are_right(const uint8_t *packet, size_t len, size_t at, uint8_t proto)
{
    if (packet[0] >> 4 == 4 && naive_sum(0, packet, (size_t)(packet[0] & 15) * 4) != 0xFFFF) {
        return false;
    }
    if (proto == IPPROTO_UDP && get16(packet + at + 6) == 0) {
        return false;
    }
    return naive_l4_sum(packet, len, at, proto) == 0xFFFF;
}

static inline size_t ip_header_of(const struct shape *s)
{
    return (s->version == 4 ? 20 : 40) + s->ip_options;
}

static inline size_t l4_header_of(const struct shape *s)
{
    return s->proto == IPPROTO_TCP ? 20 + s->tcp_options : 8;
}

static inline size_t length_of(const struct shape *s)
{
    return ip_header_of(s) + l4_header_of(s) + s->payload;
}

static inline uint8_t payload_byte(uint32_t position)
{
    return (uint8_t)((position * 2654435761u) >> 13);
}

static inline void build_ip4(uint8_t *p, const struct shape *s)
{
    size_t header = ip_header_of(s);

    p[0] = (uint8_t)(0x40 | header / 4);
    p[1] = s->tos;
    put16(p + 2, (unsigned)length_of(s));
    put16(p + 4, s->id);
    p[6] = s->df ? 0x40 : 0;
    p[8] = s->ttl ? s->ttl : 64;
    p[9] = (uint8_t)s->proto;
    memcpy(p + 12, (uint8_t[]){10, 8, 0, s->host ? s->host : 2}, 4);
    memcpy(p + 16, (uint8_t[]){192, 0, 2, 7}, 4);
    memset(p + 20, 1, s->ip_options);
    put16(p + 10, ~naive_sum(0, p, header) & 0xFFFF);
}

static inline void build_ip6(uint8_t *p, const struct shape *s)
{
    put32(p, 6u << 28 | (uint32_t)s->tos << 20 | s->flow_label);
    put16(p + 4, (unsigned)(length_of(s) - 40));
    p[6] = (uint8_t)(s->ip_options ? IPPROTO_DSTOPTS : s->proto);
    p[7] = s->ttl ? s->ttl : 64;
    p[8] = 0xFD;
    p[23] = s->host ? s->host : 2;
    p[24] = 0x20;
    p[25] = 1;
    p[39] = 7;
    if (s->ip_options) {
        p[40] = (uint8_t)s->proto;
        p[41] = (uint8_t)(s->ip_options / 8 - 1);
        p[42] = 1; /* PadN */
        p[43] = (uint8_t)(s->ip_options - 4);
    }
}

static inline void build_l4(uint8_t *p, const struct shape *s)
{
    put16(p, s->sport ? s->sport : 40000);
    put16(p + 2, s->dport ? s->dport : 5201);
    if (s->proto == IPPROTO_UDP) {
        put16(p + 4, (unsigned)(8 + s->payload));
        return;
    }
    put32(p + 4, s->seq);
    put32(p + 8, s->ack);
    p[12] = (uint8_t)((20 + s->tcp_options) / 4 << 4);
    p[13] = s->flags ? s->flags : ACK;
    put16(p + 14, s->window ? s->window : 501);
    put16(p + 18, s->urgent);
    memset(p + 20, s->option ? s->option : 1, s->tcp_options);
}

/* Writes TCP's or UDP's checksum anew, as a sender would. */
static inline void seal_l4(uint8_t *packet, size_t len, size_t at, uint8_t proto)
{
    uint8_t *field = packet + at + (proto == IPPROTO_TCP ? 16 : 6);
    unsigned sum;

    put16(field, 0);
    sum = ~naive_l4_sum(packet, len, at, proto) & 0xFFFF;
    put16(field, sum ? sum : 0xFFFF);
}

/* A packet with complete checksums; its length. */
static inline size_t build_packet(uint8_t *dst, const struct shape *s)
{
    size_t at = ip_header_of(s), headers = at + l4_header_of(s), len = length_of(s);

    memset(dst, 0, headers);
    if (s->version == 4) {
        build_ip4(dst, s);
    } else {
        build_ip6(dst, s);
    }
    build_l4(dst + at, s);
    for (size_t i = 0; i < s->payload; i++) {
        dst[headers + i] = payload_byte(s->seq + (uint32_t)i);
    }
    seal_l4(dst, len, at, (uint8_t)s->proto);
    return len;
}

/* A repeatable stream of numbers (xorshift64*). */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

#endif
