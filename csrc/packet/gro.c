#include "packet/gro.h"

#include <netinet/in.h>
#include <string.h>

#include "base/bytes.h"
#include "packet/checksum.h"

enum { TCP_PSH = 0x08, TCP_ACK = 0x10, TCP_FLAGS_AT = 13 };

void sv_gro_init(struct sv_gro *gro, void (*emit)(void *ctx, const struct sv_vnet *, struct iovec *, size_t), void *ctx, bool udp)
{
    gro->emit = emit;
    gro->ctx = ctx;
    gro->udp = udp;
    gro->used = 0;
}

static size_t headers_of(const struct sv_ip *ip)
{
    return (size_t)ip->header_len + ip->l4_len;
}

static bool same_flow(const struct sv_ip *a, const struct sv_ip *b)
{
    return a->src_port == b->src_port && a->dst_port == b->dst_port && a->proto == b->proto && a->version == b->version &&
           memcmp(a->src, b->src, 16) == 0 && memcmp(a->dst, b->dst, 16) == 0;
}

/* May a super-packet begin with, or go on with, this packet? */
static bool is_mergeable(const struct sv_gro *gro, const uint8_t *packet, const struct sv_ip *ip)
{
    size_t plain = ip->version == 4 ? SV_IP4_HEADER : SV_IP6_HEADER;
    size_t payload;

    if (ip->fragment || ip->header_len != plain || !ip->l4_len) {
        return false;
    }
    payload = ip->len - headers_of(ip);
    if (payload < SV_SUPER_SEGMENT_MIN && ip->proto == IPPROTO_TCP) {
        return false;
    }
    if (payload == 0 || (ip->proto == IPPROTO_UDP && !gro->udp)) {
        return false;
    }
    if (ip->proto == IPPROTO_TCP && (packet[ip->header_len + TCP_FLAGS_AT] & ~TCP_PSH) != TCP_ACK) {
        return false;
    }
    return sv_checksum_l4_valid(packet, ip) &&
           !(ip->proto == IPPROTO_UDP && sv_load16be(packet + ip->header_len + 6) == 0);
}

/* TOS with ECN, TTL and DF of IPv4; traffic class, flow label and hop limit of IPv6. */
static bool same_ip_fields(const uint8_t *a, const uint8_t *b, uint8_t version)
{
    if (version == 4) {
        return a[1] == b[1] && a[8] == b[8] && (a[6] & 0x40) == (b[6] & 0x40);
    }
    return memcmp(a, b, 4) == 0 && a[7] == b[7];
}

/* Acknowledgement, header length, window and options; the sequence number must be the next. */
static bool same_tcp_fields(const struct sv_gro_item *item, const uint8_t *tcp)
{
    const uint8_t *first = item->packet + item->ip.header_len;

    return sv_load32be(tcp + 4) == item->next_seq && memcmp(first + 8, tcp + 8, 4) == 0 && first[12] == tcp[12] &&
           memcmp(first + 14, tcp + 14, 2) == 0 && memcmp(first + 18, tcp + 18, item->ip.l4_len - 18u) == 0;
}

static bool fits(const struct sv_gro_item *item, const uint8_t *packet, const struct sv_ip *ip)
{
    size_t payload = ip->len - headers_of(ip);

    if (!item->open || item->count == SV_GRO_SEGMENTS || payload > item->segment_size ||
        item->bytes + payload > SV_GRO_BYTES || ip->l4_len != item->ip.l4_len ||
        !same_ip_fields(item->packet, packet, ip->version)) {
        return false;
    }
    return ip->proto == IPPROTO_UDP || same_tcp_fields(item, packet + ip->header_len);
}

static void append(struct sv_gro_item *item, uint8_t *packet, const struct sv_ip *ip)
{
    size_t headers = headers_of(ip), payload = ip->len - headers;
    uint8_t *flags = item->packet + item->ip.header_len + TCP_FLAGS_AT;

    item->count++;
    item->iov[item->count] = (struct iovec){ packet + headers, payload };
    item->bytes += (uint32_t)payload;
    item->next_seq += (uint32_t)payload;
    if (payload < item->segment_size) {
        item->open = false;
    }
    if (ip->proto == IPPROTO_TCP && (packet[ip->header_len + TCP_FLAGS_AT] & TCP_PSH)) {
        *flags |= TCP_PSH;
        item->open = false;
    }
}

static void begin(struct sv_gro *gro, uint8_t *packet, size_t len, const struct sv_ip *ip, bool mergeable)
{
    struct sv_gro_item *item;

    if (gro->used == SV_GRO_FLOWS) {
        sv_gro_flush(gro);
    }
    item = &gro->items[gro->used++];
    item->ip = *ip;
    item->packet = packet;
    item->bytes = (uint32_t)len;
    item->count = 1;
    item->iov[1] = (struct iovec){ packet, len };
    item->open = mergeable;
    item->segment_size = 0;
    if (mergeable) {
        item->segment_size = (uint16_t)(len - headers_of(ip));
        if (ip->proto == IPPROTO_TCP) {
            item->next_seq = sv_load32be(packet + ip->header_len + 4) + item->segment_size;
            item->open = !(packet[ip->header_len + TCP_FLAGS_AT] & TCP_PSH);
        }
    }
}

/* The flow's newest item: what is behind it must not be overtaken. */
static struct sv_gro_item *newest(struct sv_gro *gro, const struct sv_ip *ip)
{
    for (size_t i = gro->used; i-- > 0;) {
        if (same_flow(&gro->items[i].ip, ip)) {
            return &gro->items[i];
        }
    }
    return NULL;
}

void sv_gro_add(struct sv_gro *gro, uint8_t *packet, size_t len, const struct sv_ip *ip)
{
    bool mergeable = is_mergeable(gro, packet, ip);
    struct sv_gro_item *item = newest(gro, ip);

    if (item && mergeable && fits(item, packet, ip)) {
        append(item, packet, ip);
        return;
    }
    if (item) {
        item->open = false;
    }
    begin(gro, packet, len, ip, mergeable);
}

static uint8_t kind_of(const struct sv_ip *ip)
{
    return ip->proto == IPPROTO_UDP ? SV_SUPER_UDP : ip->version == 4 ? SV_SUPER_TCP4 : SV_SUPER_TCP6;
}

static void set_lengths(const struct sv_gro_item *item)
{
    uint8_t *packet = item->packet;

    if (item->ip.version == 4) {
        sv_store16be(packet + 2, (uint16_t)item->bytes);
    } else {
        sv_store16be(packet + 4, (uint16_t)(item->bytes - SV_IP6_HEADER));
    }
    if (item->ip.proto == IPPROTO_UDP) {
        sv_store16be(packet + item->ip.header_len + 4, (uint16_t)(item->bytes - item->ip.header_len));
    }
}

/* The header that the kernel trusts: every packet's own checksum was verified before it was merged. */
static void build(const struct sv_gro_item *item, struct sv_vnet *vnet)
{
    const struct sv_ip *ip = &item->ip;
    uint8_t kind = kind_of(ip);
    uint16_t offset = kind == SV_SUPER_UDP ? 6 : 16;

    set_lengths(item);
    if (ip->version == 4) {
        sv_checksum_ip4(item->packet, ip->header_len);
    }
    sv_store16be(item->packet + ip->header_len + offset,
                 sv_checksum_fold(sv_checksum_pseudo(ip, ip->proto, item->bytes - ip->header_len)));
    *vnet = (struct sv_vnet){
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .gso_type = kind == SV_SUPER_TCP4   ? VIRTIO_NET_HDR_GSO_TCPV4
                    : kind == SV_SUPER_TCP6 ? VIRTIO_NET_HDR_GSO_TCPV6
                                            : VIRTIO_NET_HDR_GSO_UDP_L4,
        .hdr_len = (uint16_t)headers_of(ip),
        .gso_size = item->segment_size,
        .csum_start = ip->header_len,
        .csum_offset = offset,
    };
}

void sv_gro_flush(struct sv_gro *gro)
{
    for (size_t i = 0; i < gro->used; i++) {
        struct sv_gro_item *item = &gro->items[i];
        struct sv_vnet vnet = { 0 };

        if (item->count > 1) {
            build(item, &vnet);
        }
        gro->emit(gro->ctx, &vnet, item->iov, item->count + (size_t)1);
    }
    gro->used = 0;
}
