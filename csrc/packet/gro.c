#include "packet/gro.h"

#include <netinet/in.h>
#include <string.h>

#include "base/bytes.h"
#include "packet/checksum.h"
#include "packet/tcp.h"

void sv_gro_init(struct sv_gro *gro, void (*emit)(void *ctx, const struct sv_vnet *, struct iovec *, size_t),
                 void *ctx, bool udp)
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

/* ---- which packets belong together ---- */

static bool same_hosts(const struct sv_ip *a, const struct sv_ip *b)
{
    return a->proto == b->proto && a->version == b->version && memcmp(a->src, b->src, 16) == 0 &&
           memcmp(a->dst, b->dst, 16) == 0;
}

/* Fragments show no ports, or only the first one does: they may be of any flow between their hosts. */
static bool same_flow(const struct sv_ip *a, const struct sv_ip *b)
{
    bool same_ports = a->src_port == b->src_port && a->dst_port == b->dst_port;

    return (same_ports || a->fragment || b->fragment) && same_hosts(a, b);
}

static bool is_plain_data(const uint8_t *tcp)
{
    return (tcp[SV_TCP_FLAGS] & ~SV_TCP_PSH) == SV_TCP_ACK && (tcp[SV_TCP_OFFSET] & 0x0F) == 0;
}

/* May a super-packet begin or go on with this packet, as far as can be told without its checksums? */
static bool is_mergeable(const struct sv_gro *gro, const uint8_t *packet, const struct sv_ip *ip)
{
    const uint8_t *l4 = packet + ip->header_len;

    if (!ip->l4_len || ip->header_len != (ip->version == 4 ? SV_IP4_HEADER : SV_IP6_HEADER) ||
        ip->len == headers_of(ip)) {
        return false;
    }
    return ip->proto == IPPROTO_TCP ? is_plain_data(l4) : gro->udp && sv_load16be(l4 + SV_UDP_CHECKSUM) != 0;
}

/* The kernel trusts a super-packet's checksums, so nothing may become one on trust. */
static bool is_intact(const uint8_t *packet, const struct sv_ip *ip)
{
    return (ip->version == 6 || sv_checksum_ip4_valid(packet, ip->header_len)) &&
           sv_checksum_l4_valid(packet, ip);
}

/* TOS with ECN, TTL, DF of IPv4, whose IDs count up unless DF makes them meaningless (RFC 6864); traffic
 * class, flow label and hop limit of IPv6. */
static bool same_ip_fields(const struct sv_gro_item *item, const uint8_t *packet)
{
    const uint8_t *first = item->packet;

    if (item->ip.version == 6) {
        return memcmp(first, packet, 4) == 0 && first[7] == packet[7];
    }
    return first[1] == packet[1] && first[8] == packet[8] && first[6] == packet[6] &&
           (item->ip.df || sv_load16be(packet + 4) == (uint16_t)(sv_load16be(first + 4) + item->count));
}

/* Acknowledgement, window, urgent pointer and options; the sequence number must be the next. */
static bool same_tcp_fields(const struct sv_gro_item *item, const uint8_t *tcp)
{
    const uint8_t *first = item->packet + item->ip.header_len;

    return sv_load32be(tcp + SV_TCP_SEQ) == item->next_seq &&
           memcmp(first + SV_TCP_ACK_NUMBER, tcp + SV_TCP_ACK_NUMBER, 4) == 0 &&
           memcmp(first + SV_TCP_WINDOW, tcp + SV_TCP_WINDOW, 2) == 0 &&
           memcmp(first + SV_TCP_URGENT, tcp + SV_TCP_URGENT, item->ip.l4_len - (size_t)SV_TCP_URGENT) == 0;
}

/* For a mergeable packet of the item's flow. */
static bool fits(const struct sv_gro_item *item, const uint8_t *packet, const struct sv_ip *ip)
{
    size_t payload = ip->len - headers_of(ip);

    if (!item->open || item->count == SV_GRO_SEGMENTS || payload > item->segment_size ||
        item->bytes + payload > SV_GRO_BYTES || ip->l4_len != item->ip.l4_len ||
        !same_ip_fields(item, packet)) {
        return false;
    }
    return ip->proto == IPPROTO_UDP || same_tcp_fields(item, packet + ip->header_len);
}

static bool both_intact(struct sv_gro_item *item, const uint8_t *packet, const struct sv_ip *ip)
{
    item->verified = item->verified || is_intact(item->packet, &item->ip);
    return item->verified && is_intact(packet, ip);
}

/* ---- items ---- */

/* PSH says that the data ends here for now, and a short segment can only be the last. */
static void append(struct sv_gro_item *item, uint8_t *packet, const struct sv_ip *ip)
{
    size_t headers = headers_of(ip), payload = ip->len - headers;

    item->count++;
    item->iov[item->count] = (struct iovec){packet + headers, payload};
    item->bytes += (uint32_t)payload;
    item->next_seq += (uint32_t)payload;
    item->open = payload == item->segment_size;
    if (ip->proto == IPPROTO_TCP && (packet[ip->header_len + SV_TCP_FLAGS] & SV_TCP_PSH)) {
        item->packet[ip->header_len + SV_TCP_FLAGS] |= SV_TCP_PSH;
        item->open = false;
    }
}

static void begin(struct sv_gro *gro, uint8_t *packet, const struct sv_ip *ip, bool mergeable)
{
    struct sv_gro_item *item;

    if (gro->used == SV_GRO_FLOWS) {
        sv_gro_flush(gro);
    }
    item = &gro->items[gro->used++];
    item->ip = *ip;
    item->packet = packet;
    item->bytes = ip->len;
    item->segment_size = (uint16_t)(ip->len - headers_of(ip));
    item->count = 1;
    item->open = mergeable;
    item->verified = false;
    item->iov[1] = (struct iovec){packet, ip->len};
    if (mergeable && ip->proto == IPPROTO_TCP) {
        item->next_seq = sv_load32be(packet + ip->header_len + SV_TCP_SEQ) + item->segment_size;
        item->open = !(packet[ip->header_len + SV_TCP_FLAGS] & SV_TCP_PSH);
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
    struct sv_gro_item *item = mergeable ? newest(gro, ip) : NULL;

    (void)len;
    if (item && fits(item, packet, ip) && both_intact(item, packet, ip)) {
        append(item, packet, ip);
    } else {
        begin(gro, packet, ip, mergeable);
    }
}

/* ---- the end of a batch ---- */

static void set_lengths(const struct sv_gro_item *item)
{
    uint8_t *packet = item->packet;

    if (item->ip.version == 4) {
        sv_store16be(packet + 2, (uint16_t)item->bytes);
    } else {
        sv_store16be(packet + 4, (uint16_t)(item->bytes - SV_IP6_HEADER));
    }
    if (item->ip.proto == IPPROTO_UDP) {
        sv_store16be(packet + item->ip.header_len + SV_UDP_LENGTH,
                     (uint16_t)(item->bytes - item->ip.header_len));
    }
}

void sv_gro_flush(struct sv_gro *gro)
{
    for (size_t i = 0; i < gro->used; i++) {
        struct sv_gro_item *item = &gro->items[i];
        struct sv_vnet vnet = {0};

        if (item->count > 1) {
            set_lengths(item);
            sv_vnet_offload(&vnet, item->packet, item->bytes, &item->ip, item->segment_size);
        }
        gro->emit(gro->ctx, &vnet, item->iov, item->count + (size_t)1);
    }
    gro->used = 0;
}
