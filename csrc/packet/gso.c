#include "packet/gso.h"

#include <netinet/in.h>
#include <smartvpn/base.h>
#include <string.h>

#include "base/bytes.h"
#include "packet/checksum.h"

enum { TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_CWR = 0x80 };

size_t sv_gso_segments(size_t len, const struct sv_ip *ip, uint8_t kind, uint16_t segment_size)
{
    size_t payload = len - ip->header_len - ip->l4_len;

    (void)kind;
    return segment_size && payload ? (payload + segment_size - 1) / segment_size : 1;
}

size_t sv_gso_unit(const uint8_t *packet, const struct sv_ip *ip, uint8_t kind, uint16_t segment_size)
{
    size_t headers = (size_t)ip->header_len + ip->l4_len;

    (void)packet;
    (void)kind;
    return ip->len - headers < segment_size ? ip->len : headers + segment_size;
}

/* Checksum fields and everything that differs between segments are taken as 0: they are added for each. */
static void sum_constants(struct sv_gso *it)
{
    uint8_t headers[SV_IP4_HEADER + 40 + 60];
    uint8_t *l4 = headers + it->ip->header_len;

    memcpy(headers, it->packet, it->headers);
    if (it->ip->version == 4) {
        memset(headers + 2, 0, 4);          /* total length, ID */
        memset(headers + 10, 0, 2);
        it->ip_sum = sv_checksum_add(0, headers, it->ip->header_len);
    }
    if (it->tcp) {
        memset(l4 + 4, 0, 4);               /* sequence number */
        l4[13] = 0;
        memset(l4 + 16, 0, 2);
    } else {
        memset(l4 + 4, 0, 4);               /* length, checksum */
    }
    it->l4_sum = sv_checksum_add(sv_checksum_pseudo(it->ip, it->ip->proto, 0), l4, it->ip->l4_len);
}

int sv_gso_init(struct sv_gso *it, const uint8_t *packet, size_t len, const struct sv_ip *ip, uint8_t kind, uint16_t segment_size)
{
    size_t headers = (size_t)ip->header_len + ip->l4_len;

    (void)kind;
    if (!ip->l4_len || ip->fragment || !segment_size || len != ip->len || headers > SV_IP4_HEADER + 40 + 60) {
        return SV_E_MALFORMED;
    }
    *it = (struct sv_gso){
        .packet = packet,
        .ip = ip,
        .headers = headers,
        .payload = len - headers,
        .segment_size = segment_size,
        .tcp = ip->proto == IPPROTO_TCP,
    };
    sum_constants(it);
    return 0;
}

static void write_ip(const struct sv_gso *it, uint8_t *ip, size_t len)
{
    if (it->ip->version == 4) {
        uint16_t id = (uint16_t)(sv_load16be(it->packet + 4) + it->index);

        sv_store16be(ip + 2, (uint16_t)len);
        sv_store16be(ip + 4, id);
        sv_store16be(ip + 10, (uint16_t)~sv_checksum_fold(it->ip_sum + len + id));
    } else {
        sv_store16be(ip + 4, (uint16_t)(len - SV_IP6_HEADER));
    }
}

static void write_tcp(const struct sv_gso *it, uint8_t *tcp, bool last, uint64_t payload_sum, size_t l4_len)
{
    uint32_t seq = sv_load32be(it->packet + it->ip->header_len + 4) + (uint32_t)it->done;
    uint8_t flags = it->packet[it->ip->header_len + 13];
    uint64_t sum;

    flags = last ? flags : flags & (uint8_t)~(TCP_FIN | TCP_PSH);
    flags = it->index ? flags & (uint8_t)~TCP_CWR : flags;
    sv_store32be(tcp + 4, seq);
    tcp[13] = flags;
    sum = it->l4_sum + l4_len + (seq >> 16) + (seq & 0xFFFF) + flags + payload_sum;
    sv_store16be(tcp + 16, (uint16_t)~sv_checksum_fold(sum));
}

static void write_udp(const struct sv_gso *it, uint8_t *udp, uint64_t payload_sum, size_t l4_len)
{
    uint16_t sum = (uint16_t)~sv_checksum_fold(it->l4_sum + 2 * l4_len + payload_sum);

    sv_store16be(udp + 4, (uint16_t)l4_len);
    sv_store16be(udp + 6, sum ? sum : 0xFFFF);
}

size_t sv_gso_next_header(struct sv_gso *it, uint8_t *headers, const uint8_t **payload)
{
    size_t left = it->payload - it->done;
    size_t n = left < it->segment_size ? left : it->segment_size;
    size_t l4_len = it->ip->l4_len + n;
    uint64_t payload_sum;

    if (!left && (it->index || it->payload)) {
        return 0;
    }
    *payload = it->packet + it->headers + it->done;
    payload_sum = sv_checksum_add(0, *payload, n);
    memcpy(headers, it->packet, it->headers);
    write_ip(it, headers, it->headers + n);
    if (it->tcp) {
        write_tcp(it, headers + it->ip->header_len, n == left, payload_sum, l4_len);
    } else {
        write_udp(it, headers + it->ip->header_len, payload_sum, l4_len);
    }
    it->done += n;
    it->index++;
    return n;
}

size_t sv_gso_next(struct sv_gso *it, uint8_t *dst)
{
    const uint8_t *payload;
    size_t n = sv_gso_next_header(it, dst, &payload);

    if (!n) {
        return 0;
    }
    memcpy(dst + it->headers, payload, n);
    return it->headers + n;
}
