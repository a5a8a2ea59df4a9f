/* Packets of any bytes through everything that reads them: what is accepted can be split, the segments are
 * whole and hold their checksums, and merging loses, adds and reorders nothing.
 *
 * Input: a mode byte, then for super-packets kind:1 segment size:2 zeros to append:2 and the packet; for
 * batches packets as repairs:1 length:1 bytes. */
#include <netinet/in.h>
#include <smartvpn/base.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "packet/checksum.h"
#include "packet/gro.h"
#include "packet/gso.h"
#include "packet/icmp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROOM = 66 * 1024, BATCH = 300 };
enum { MODE_BATCH = 1, MODE_REPAIR = 2, MODE_UDP = 4 };
enum { REPAIR_LENGTH = 1, REPAIR_SUMS = 2 };

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

/* ---- repairs: without them hardly any input would get past the first check ---- */

static void repair_length(uint8_t *packet, size_t len)
{
    if (len >= SV_IP4_HEADER && packet[0] >> 4 == 4) {
        sv_store16be(packet + 2, (uint16_t)len);
    } else if (len >= SV_IP6_HEADER) {
        sv_store16be(packet + 4, (uint16_t)(len - SV_IP6_HEADER));
    }
}

static void repair_sums(uint8_t *packet, size_t len)
{
    struct sv_ip ip;
    struct sv_vnet vnet;

    if (sv_ip_parse(&ip, packet, len) == 0 && ip.l4_len) {
        if (ip.proto == IPPROTO_UDP) {
            sv_store16be(packet + ip.header_len + 4, (uint16_t)(len - ip.header_len));
        }
        sv_vnet_offload(&vnet, packet, len, &ip, UINT16_MAX);
        sv_checksum_complete(packet, len, vnet.csum_start, vnet.csum_offset);
        require(sv_checksum_l4_valid(packet, &ip) ||
                (ip.proto == IPPROTO_UDP && len - ip.header_len > 0xFFFF));
    }
}

/* ---- super-packets ---- */

static void require_segment(const struct sv_ip *super, uint8_t *segment, size_t len)
{
    struct sv_ip ip;

    require(sv_ip_parse(&ip, segment, len) == 0);
    require(ip.header_len == super->header_len && ip.l4_len == super->l4_len && ip.proto == super->proto);
    require(memcmp(ip.src, super->src, 16) == 0 && memcmp(ip.dst, super->dst, 16) == 0);
    require(ip.version == 6 || sv_checksum_ip4_valid(segment, ip.header_len));
    require(sv_checksum_l4_valid(segment, &ip));
}

static void split(const uint8_t *packet, const struct sv_ip *ip, uint8_t kind, uint16_t segment_size)
{
    size_t headers = (size_t)ip->header_len + ip->l4_len, at = headers, segments = 0, n;
    uint8_t *segment = malloc(headers + segment_size);
    struct sv_gso it;

    require(sv_gso_init(&it, packet, ip->len, ip, kind, segment_size) == 0);
    while ((n = sv_gso_next(&it, segment))) {
        require(n > headers && n <= sv_gso_unit(packet, ip, kind, segment_size));
        require(at + n - headers <= ip->len && memcmp(packet + at, segment + headers, n - headers) == 0);
        require_segment(ip, segment, n);
        at += n - headers;
        segments++;
    }
    require(at == ip->len && segments == sv_gso_count(&it));
    require(segments == sv_gso_segments(ip->len, ip, kind, segment_size));
    free(segment);
}

static void require_offload(const struct sv_vnet *vnet, size_t len)
{
    require(vnet->flags == VIRTIO_NET_HDR_F_NEEDS_CSUM && vnet->hdr_len < len);
    require((size_t)vnet->csum_start + vnet->csum_offset + 2 <= vnet->hdr_len);
    require((vnet->gso_type == VIRTIO_NET_HDR_GSO_NONE) == (vnet->gso_size == 0));
    require(!vnet->gso_size || len - vnet->hdr_len > vnet->gso_size);
}

static void answer(const uint8_t *packet, const struct sv_ip *ip)
{
    static const uint8_t gateway[2][16] = {{[10] = 0xFF, [11] = 0xFF, [12] = 10}, {[0] = 0xFD}};
    uint8_t dst[SV_ICMP_MAX], again[SV_ICMP_MAX];
    struct sv_ip read;

    for (int v = 0; v < 2; v++) {
        size_t n = sv_icmp_too_big(dst, packet, ip, gateway[v], 1400);

        require(n == sv_icmp_unreachable(again, packet, ip, gateway[v], SV_UNREACHABLE_HOST));
        require(n == 0 ||
                (n <= SV_ICMP_MAX && sv_ip_parse(&read, dst, n) == 0 && memcmp(read.dst, ip->src, 16) == 0));
        require(n == 0 || sv_icmp_too_big(again, dst, &read, ip->src, 1400) == 0);
    }
}

static void fuzz_super(const uint8_t *data, size_t size, bool repair)
{
    size_t extra, len;
    uint16_t segment_size;
    uint8_t *packet;
    struct sv_vnet vnet;
    struct sv_ip ip;

    if (size < 5 || size > 4096) {
        return;
    }
    segment_size = sv_load16be(data + 1);
    extra = sv_load16be(data + 3);
    len = size - 5 + extra < ROOM ? size - 5 + extra : size - 5;
    packet = calloc(1, len ? len : 1);
    memcpy(packet, data + 5, size - 5);
    if (repair) {
        repair_length(packet, len);
        repair_sums(packet, len);
    }
    if (sv_ip_parse(&ip, packet, len) == 0) {
        require(ip.header_len + (size_t)ip.l4_len <= len && ip.len == len);
        answer(packet, &ip);
        if (sv_vnet_build(&vnet, packet, len, &ip, data[0], segment_size) == 0) {
            require_offload(&vnet, len);
            require(sv_gso_segments(len, &ip, data[0], segment_size) <= SV_SUPER_SEGMENTS_MAX);
            split(packet, &ip, data[0], segment_size);
        }
    }
    free(packet);
}

/* ---- batches ---- */

struct batch {
    struct {
        uint8_t *sent, *copy;
        size_t len, headers;
        bool seen;
    } packets[BATCH];
    size_t count, received;
};

/* The piece is a packet that was sent or its payload, comes once, and only headers were rewritten. */
static void mark_seen(struct batch *batch, const uint8_t *piece, size_t len)
{
    for (size_t i = 0; i < batch->count; i++) {
        size_t from = (size_t)(piece - batch->packets[i].sent);
        size_t headers = from ? 0 : batch->packets[i].headers;

        if (piece >= batch->packets[i].sent &&
            piece + len == batch->packets[i].sent + batch->packets[i].len) {
            require(!batch->packets[i].seen && (from == 0 || from == batch->packets[i].headers));
            require(memcmp(piece + headers, batch->packets[i].copy + from + headers, len - headers) == 0);
            batch->packets[i].seen = true;
            return;
        }
    }
    abort();
}

static void receive(void *ctx, const struct sv_vnet *vnet, struct iovec *iov, size_t count)
{
    static uint8_t super[ROOM];
    struct batch *batch = ctx;
    size_t len = 0;
    struct sv_ip ip;

    for (size_t i = 1; i < count; i++) {
        require(len + iov[i].iov_len <= sizeof super);
        memcpy(super + len, iov[i].iov_base, iov[i].iov_len);
        len += iov[i].iov_len;
        mark_seen(batch, iov[i].iov_base, iov[i].iov_len);
    }
    batch->received += count - 1;
    require(sv_ip_parse(&ip, super, len) == 0);
    if (count == 2) {
        require(vnet->flags == 0 && vnet->gso_type == VIRTIO_NET_HDR_GSO_NONE);
        return;
    }
    require_offload(vnet, len);
    split(super, &ip,
          ip.proto == IPPROTO_UDP ? SV_SUPER_UDP
          : ip.version == 4       ? SV_SUPER_TCP4
                                  : SV_SUPER_TCP6,
          vnet->gso_size);
}

static void add(struct batch *batch, struct sv_gro *gro, const uint8_t *bytes, size_t len, uint8_t repairs)
{
    uint8_t *packet = malloc(len ? len : 1);
    struct sv_ip ip;

    memcpy(packet, bytes, len);
    if (repairs & REPAIR_LENGTH) {
        repair_length(packet, len);
    }
    if (repairs & REPAIR_SUMS) {
        repair_sums(packet, len);
    }
    if (sv_ip_parse(&ip, packet, len)) {
        free(packet);
        return;
    }
    batch->packets[batch->count].sent = packet;
    batch->packets[batch->count].copy = malloc(len);
    memcpy(batch->packets[batch->count].copy, packet, len);
    batch->packets[batch->count].len = len;
    batch->packets[batch->count].headers = (size_t)ip.header_len + ip.l4_len;
    batch->packets[batch->count++].seen = false;
    sv_gro_add(gro, packet, len, &ip);
}

static void fuzz_batch(const uint8_t *data, size_t size, bool udp)
{
    static struct batch batch;
    static struct sv_gro gro;

    batch.count = batch.received = 0;
    sv_gro_init(&gro, receive, &batch, udp);
    while (size > 2 && batch.count < BATCH) {
        size_t len = data[1] < size - 2 ? data[1] : size - 2;

        add(&batch, &gro, data + 2, len, data[0]);
        data += 2 + len;
        size -= 2 + len;
    }
    sv_gro_flush(&gro);
    require(batch.received == batch.count);
    for (size_t i = 0; i < batch.count; i++) {
        free(batch.packets[i].sent);
        free(batch.packets[i].copy);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    if (data[0] & MODE_BATCH) {
        fuzz_batch(data + 1, size - 1, data[0] & MODE_UDP);
    } else {
        fuzz_super(data + 1, size - 1, data[0] & MODE_REPAIR);
    }
    return 0;
}
