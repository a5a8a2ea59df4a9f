#include "packet/gso.h"

#include <netinet/in.h>
#include <smartvpn/base.h>
#include <string.h>

#include "base/bytes.h"
#include "packet/checksum.h"
#include "packet/tcp.h"

size_t sv_gso_segments(size_t len, const struct sv_ip *ip, uint8_t kind, uint16_t segment_size)
{
    size_t headers = (size_t)ip->header_len + ip->l4_len;

    if (kind == SV_SUPER_NONE || !segment_size || len <= headers) {
        return 1;
    }
    return (len - headers + segment_size - 1) / segment_size;
}

size_t sv_gso_unit(const uint8_t *packet, const struct sv_ip *ip, uint8_t kind, uint16_t segment_size)
{
    size_t longest = (size_t)ip->header_len + ip->l4_len + segment_size;

    (void)packet;
    return kind == SV_SUPER_NONE || ip->len < longest ? ip->len : longest;
}

/* Takes out of the template what differs between segments, and remembers where it starts. */
static void blank_ip4(struct sv_gso *it)
{
    it->id = sv_load16be(it->header + 4);
    sv_store32be(it->header + 2, 0); /* total length, ID */
    sv_store16be(it->header + 10, 0);
    it->ip_sum = sv_checksum_fold(sv_checksum_add(0, it->header, it->l4));
}

static void blank_tcp(struct sv_gso *it, uint8_t *tcp)
{
    it->seq = sv_load32be(tcp + SV_TCP_SEQ);
    it->flags = tcp[SV_TCP_FLAGS];
    sv_store32be(tcp + SV_TCP_SEQ, 0);
    tcp[SV_TCP_FLAGS] = 0;
    sv_store16be(tcp + SV_TCP_CHECKSUM, 0);
}

static void make_template(struct sv_gso *it, const uint8_t *packet, const struct sv_ip *ip)
{
    uint8_t *l4 = it->header + it->l4;

    memcpy(it->header, packet, it->headers);
    if (it->ip4) {
        blank_ip4(it);
    }
    if (it->tcp) {
        blank_tcp(it, l4);
    } else {
        sv_store32be(l4 + SV_UDP_LENGTH, 0); /* length, checksum */
    }
    it->l4_sum = sv_checksum_fold(sv_checksum_add(sv_checksum_pseudo(ip, ip->proto, 0), l4, ip->l4_len));
}

int sv_gso_init(struct sv_gso *it, const uint8_t *packet, size_t len, const struct sv_ip *ip, uint8_t kind,
                uint16_t segment_size)
{
    size_t headers = (size_t)ip->header_len + ip->l4_len;

    if (!ip->l4_len || kind == SV_SUPER_NONE || !segment_size || len != ip->len || len <= headers ||
        headers > SV_GSO_HEADERS_MAX) {
        return SV_E_MALFORMED;
    }
    it->payload = packet + headers;
    it->payload_len = len - headers;
    it->headers = (uint16_t)headers;
    it->l4 = ip->header_len;
    it->segment_size = segment_size;
    it->count = (uint16_t)sv_gso_segments(len, ip, kind, segment_size);
    it->next = 0;
    it->ip4 = ip->version == 4;
    it->tcp = ip->proto == IPPROTO_TCP;
    make_template(it, packet, ip);
    return 0;
}

size_t sv_gso_count(const struct sv_gso *it)
{
    return it->count;
}

static void write_ip(const struct sv_gso *it, size_t i, uint8_t *ip, size_t len)
{
    uint16_t id = (uint16_t)(it->id + i);

    if (!it->ip4) {
        sv_store16be(ip + 4, (uint16_t)(len - SV_IP6_HEADER));
        return;
    }
    sv_store16be(ip + 2, (uint16_t)len);
    sv_store16be(ip + 4, id);
    sv_store16be(ip + 10, (uint16_t)~sv_checksum_fold((uint64_t)it->ip_sum + len + id));
}

/* The end of the data is the end of the last segment; that the window was reduced is said once (RFC 3168,
 * section 6.1.2). */
static uint8_t flags_of(const struct sv_gso *it, size_t i)
{
    unsigned flags = it->flags;

    if (i + 1 < it->count) {
        flags &= ~(SV_TCP_FIN | SV_TCP_PSH);
    }
    if (i > 0) {
        flags &= ~SV_TCP_CWR;
    }
    return (uint8_t)flags;
}

static void write_tcp(const struct sv_gso *it, size_t i, uint8_t *tcp, uint64_t sum)
{
    uint32_t seq = it->seq + (uint32_t)(i * it->segment_size);
    uint8_t flags = flags_of(it, i);

    sv_store32be(tcp + SV_TCP_SEQ, seq);
    tcp[SV_TCP_FLAGS] = flags;
    sv_store16be(tcp + SV_TCP_CHECKSUM, (uint16_t)~sv_checksum_fold(sum + seq + flags));
}

/* Its length is in the pseudo-header and in its own; a sum of 0 would say that there is none. */
static void write_udp(uint8_t *udp, size_t l4_len, uint64_t sum)
{
    uint16_t checksum = (uint16_t)~sv_checksum_fold(sum + l4_len);

    sv_store16be(udp + SV_UDP_LENGTH, (uint16_t)l4_len);
    sv_store16be(udp + SV_UDP_CHECKSUM, checksum ? checksum : 0xFFFF);
}

size_t sv_gso_header(const struct sv_gso *it, size_t i, uint8_t *dst, const uint8_t **payload)
{
    size_t begin = i * it->segment_size, n = it->segment_size, l4_len;
    uint64_t sum;

    if (i >= it->count) {
        return 0;
    }
    if (i + 1 == it->count) {
        n = it->payload_len - begin;
    }
    *payload = it->payload + begin;
    l4_len = it->headers - it->l4 + n;
    sum = sv_checksum_add((uint64_t)it->l4_sum + l4_len, *payload, n);
    memcpy(dst, it->header, it->headers);
    write_ip(it, i, dst, it->headers + n);
    if (it->tcp) {
        write_tcp(it, i, dst + it->l4, sum);
    } else {
        write_udp(dst + it->l4, l4_len, sum);
    }
    return n;
}

size_t sv_gso_next(struct sv_gso *it, uint8_t *dst)
{
    const uint8_t *payload;
    size_t n = sv_gso_header(it, it->next, dst, &payload);

    if (!n) {
        return 0;
    }
    memcpy(dst + it->headers, payload, n);
    it->next++;
    return it->headers + n;
}
