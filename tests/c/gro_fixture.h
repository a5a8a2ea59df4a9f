/* Batches through sv_gro, with the kernel on the other side: what is written is split again and compared with
 * what came in. */
#ifndef SV_TESTS_GRO_FIXTURE_H
#define SV_TESTS_GRO_FIXTURE_H

#include "tests/c/check.h"
#include "tests/c/packet_make.h"

#include <smartvpn/base.h>

#include "packet/gro.h"

enum { BATCH = 400, ROOM = 1600 };

struct packet {
    uint8_t bytes[ROOM];
    size_t len;
};

/* in[] is as it was made: sent[] is given away and may be rewritten. */
static struct packet in[BATCH], sent[BATCH], out[BATCH];
static size_t in_count, out_count, writes;
static struct sv_vnet last_vnet;
static size_t last_len, last_pieces;
static struct sv_gro gro;
static uint8_t super[PACKET_ROOM];

/* ---- the kernel's side ---- */

static inline size_t gather(const struct iovec *iov, size_t count)
{
    size_t len = 0;

    for (size_t i = 1; i < count; i++) {
        CHECK(len + iov[i].iov_len <= sizeof super);
        memcpy(super + len, iov[i].iov_base, iov[i].iov_len);
        len += iov[i].iov_len;
    }
    return len;
}

static inline void deliver(const uint8_t *bytes, size_t len)
{
    CHECK(out_count < BATCH && len <= ROOM);
    if (out_count < BATCH && len <= ROOM) {
        memcpy(out[out_count].bytes, bytes, len);
        out[out_count++].len = len;
    }
}

static inline void check_vnet(const struct sv_vnet *vnet, size_t len)
{
    size_t l4 = naive_l4_at(super);
    bool udp = naive_proto(super) == IPPROTO_UDP;

    CHECK_EQ(vnet->flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
    CHECK_EQ(vnet->gso_type, udp                  ? VIRTIO_NET_HDR_GSO_UDP_L4
                             : super[0] >> 4 == 4 ? VIRTIO_NET_HDR_GSO_TCPV4
                                                  : VIRTIO_NET_HDR_GSO_TCPV6);
    CHECK_EQ(vnet->hdr_len, naive_headers(super));
    CHECK_EQ(vnet->csum_start, l4);
    CHECK_EQ(l4 + vnet->csum_offset, naive_checksum_at(super));
    CHECK_EQ(get16(super + naive_checksum_at(super)), naive_pseudo(super, len - l4));
    CHECK(len <= 65535 && naive_count(super, len, vnet->gso_size) <= SV_GRO_SEGMENTS);
    CHECK_EQ(super[0] >> 4 == 4 ? get16(super + 2) : get16(super + 4) + 40, len);
    CHECK(super[0] >> 4 == 6 || naive_sum(super, 20, 0) == 0xFFFF);
    CHECK(!udp || get16(super + l4 + 4) == len - l4);
}

static inline void receive(void *ctx, const struct sv_vnet *vnet, struct iovec *iov, size_t count)
{
    static const struct sv_vnet zero;
    static uint8_t segment[PACKET_ROOM];
    size_t len = gather(iov, count);

    CHECK(ctx == &gro);
    iov[0] = (struct iovec){&last_vnet, sizeof last_vnet};
    writes++;
    last_vnet = *vnet;
    last_len = len;
    last_pieces = count - 1;
    if (vnet->gso_type == VIRTIO_NET_HDR_GSO_NONE) {
        CHECK_MEM(vnet, &zero, sizeof zero);
        CHECK_EQ(count, 2);
        deliver(super, len);
        return;
    }
    check_vnet(vnet, len);
    CHECK_EQ(naive_count(super, len, vnet->gso_size), count - 1);
    for (size_t i = 0; i < count - 1; i++) {
        deliver(segment, naive_segment(segment, super, len, vnet->gso_size, i));
    }
}

/* ---- batches ---- */

static inline void start(void)
{
    in_count = out_count = writes = 0;
    sv_gro_init(&gro, receive, &gro, true);
}

static inline void give(void)
{
    struct sv_ip ip;

    sent[in_count] = in[in_count];
    CHECK_EQ(sv_ip_parse(&ip, sent[in_count].bytes, sent[in_count].len), 0);
    sv_gro_add(&gro, sent[in_count].bytes, sent[in_count].len, &ip);
    in_count++;
}

static inline void add(const struct make *m)
{
    in[in_count].len = make_packet(in[in_count].bytes, m);
    give();
}

/* IPv4 IDs mean nothing with DF, and the splitter numbers them anew. */
static inline void forget_id(struct packet *p)
{
    if (p->bytes[0] >> 4 == 4 && (p->bytes[6] & 0x40)) {
        put16(p->bytes + 4, 0);
        put16(p->bytes + 10, 0);
    }
}

static inline bool same_packet(const struct packet *a, const struct packet *b)
{
    struct packet x = *a, y = *b;

    forget_id(&x);
    forget_id(&y);
    return x.len == y.len && memcmp(x.bytes, y.bytes, x.len) == 0;
}

/* The tests' flows have destinations of their own. */
static inline unsigned flow_of(const struct packet *p)
{
    return p->bytes[0] >> 4 == 4 ? p->bytes[19] : 256u + p->bytes[39];
}

static inline size_t next_of_flow(const struct packet *list, size_t count, size_t from, unsigned flow)
{
    while (from < count && flow_of(&list[from]) != flow) {
        from++;
    }
    return from;
}

static inline void check_same_in_each_flow(void)
{
    CHECK_EQ(out_count, in_count);
    for (unsigned flow = 0; flow < 512; flow++) {
        size_t i = next_of_flow(in, in_count, 0, flow), o = next_of_flow(out, out_count, 0, flow);

        while (i < in_count && o < out_count) {
            CHECK(same_packet(&in[i], &out[o]));
            i = next_of_flow(in, in_count, i + 1, flow);
            o = next_of_flow(out, out_count, o + 1, flow);
        }
        CHECK(i == in_count && o == out_count);
    }
}

static inline void finish(size_t expected_writes)
{
    sv_gro_flush(&gro);
    check_same_in_each_flow();
    CHECK_EQ(writes, expected_writes);
}

/* The next packet of a flow. */
static inline void advance(struct make *m)
{
    m->seq += (uint32_t)m->payload;
    m->id++;
}

static inline struct make make_of(int variant, size_t payload)
{
    struct make m = make_default(variant & 1 ? 4 : 6, variant & 2 ? IPPROTO_TCP : IPPROTO_UDP, payload);

    m.tcp_options = 12;
    return m;
}

/* ---- oddities ---- */

enum change {
    NOTHING,
    ADDRESS,
    SOURCE,
    PORT,
    SOURCE_PORT,
    TOS,
    ECN,
    TTL,
    OPTIONS,
    EMPTY,
    /* IPv4 only */
    DONT_FRAGMENT,
    /* IPv6 only */
    LABEL,
    /* TCP only */
    SEQUENCE_GAP,
    SEQUENCE_AGAIN,
    ACKNOWLEDGEMENT,
    WINDOW,
    URGENT,
    TCP_OPTIONS,
    TCP_OPTION_BYTES,
    RESERVED,
    CHANGES
};

static inline void change(struct make *m, enum change what)
{
    switch (what) {
    case ADDRESS:
        m->dst_host++;
        break;
    case SOURCE:
        m->src_host++;
        break;
    case PORT:
        m->dst_port++;
        break;
    case SOURCE_PORT:
        m->src_port++;
        break;
    case TOS:
        m->tos ^= 0x40;
        break;
    case ECN:
        m->tos ^= 0x03;
        break;
    case TTL:
        m->ttl--;
        break;
    case OPTIONS:
        m->ip_options = 8;
        break;
    case EMPTY:
        m->payload = 0;
        break;
    case DONT_FRAGMENT:
        m->df = !m->df;
        break;
    case LABEL:
        m->flow_label++;
        break;
    case SEQUENCE_GAP:
        m->seq++;
        break;
    case SEQUENCE_AGAIN:
        m->seq -= (uint32_t)m->payload;
        break;
    case ACKNOWLEDGEMENT:
        m->ack++;
        break;
    case WINDOW:
        m->window++;
        break;
    case URGENT:
        m->urgent++;
        break;
    case TCP_OPTIONS:
        m->tcp_options += 4;
        break;
    case TCP_OPTION_BYTES:
        m->option_fill++;
        break;
    case RESERVED:
        m->tcp_reserved = 1;
        break;
    default:
        break;
    }
}

static inline void break_byte(size_t at)
{
    in[in_count].bytes[at] ^= 0x10;
    give();
}

static inline void add_fragment(const struct make *m, unsigned field)
{
    in[in_count].len = make_packet(in[in_count].bytes, m);
    put16(in[in_count].bytes + 6, field);
    put16(in[in_count].bytes + 10, 0);
    put16(in[in_count].bytes + 10, ~naive_sum(in[in_count].bytes, 20, 0) & 0xFFFF);
    give();
}

#endif
