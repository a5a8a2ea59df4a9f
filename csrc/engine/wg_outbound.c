/* io/tun → packet/gso → allowed IPs → proto seal → io/udp. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "engine/hub.h"
#include "engine/wg.h"
#include "packet/gso.h"
#include "packet/icmp.h"

/* ---- what is collected for one send ---- */

void sv_wg_flush(struct sv_worker *worker)
{
    struct sv_wg_worker *part = worker->wg;
    struct sv_wg_member *to = part->to;
    struct sv_endpoint used = part->endpoint;

    if (!part->out_len) {
        return;
    }
    sv_udp_send(&part->udp, &part->endpoint, part->out, part->out_len, part->out_segment);
    if (!sv_endpoint_identical(&part->endpoint, &used)) {
        sv_wg_on_roam(to, &part->endpoint); /* the local address has gone */
    }
    atomic_fetch_add_explicit(&to->bytes_out, part->out_len, memory_order_relaxed);
    sv_count_shared(&to->traffic.packets_out, part->out_packets);
    sv_count_shared(&to->traffic.bytes_out, part->out_bytes);
    part->out_len = part->out_packets = part->out_bytes = 0;
    part->to = NULL;
    if (sv_wg_wants_keys_on_send(part->with, worker->loop.now)) {
        sv_wg_want_handshake(worker, to);
    }
}

static void begin(struct sv_wg_worker *part, struct sv_wg_member *member, struct sv_wg_keypair *keypair,
                  const struct sv_wg_path *path, size_t size)
{
    part->to = member;
    part->with = keypair;
    part->endpoint = path->to;
    part->out_segment = size;
    part->out_room = sv_udp_most(&part->endpoint, size);
    part->out_ended = false;
}

/* Room for a message of that size to the member: behind what is there, or alone after that was sent. All messages of a send are of one
 * size, but for the last. */
static uint8_t *reserve(struct sv_worker *worker, struct sv_wg_member *member, struct sv_wg_keypair *keypair,
                        const struct sv_wg_path *path, size_t size)
{
    struct sv_wg_worker *part = worker->wg;
    uint8_t *at;

    if (part->out_len && (part->to != member || part->with != keypair || part->out_ended ||
                          size > part->out_segment || part->out_len + size > part->out_room)) {
        sv_wg_flush(worker);
    }
    if (!part->out_len) {
        begin(part, member, keypair, path, size);
    }
    at = part->out + part->out_len;
    part->out_len += size;
    part->out_ended = size < part->out_segment;
    return at;
}

/* ---- sealing ---- */

/* The len bytes at plain, and up to 15 behind them that are zeros for the time being: they may be the next segment's. */
static void seal(struct sv_wg_keypair *keypair, struct sv_aead_batch *batch, uint64_t counter, uint8_t *dst,
                 uint8_t *plain, size_t len, size_t padded)
{
    uint8_t kept[SV_WG_PADDING];
    size_t padding = padded - len;

    memcpy(kept, plain + len, padding);
    memset(plain + len, 0, padding);
    sv_wg_seal_data(keypair, batch, counter, dst, plain, padded);
    memcpy(plain + len, kept, padding);
}

struct way {
    struct sv_wg_member *member;
    struct sv_wg_keypair *keypair;
    const struct sv_wg_path *path;
    size_t mtu;
};

static void send_one(struct sv_worker *worker, const struct way *way, uint8_t *packet, size_t len)
{
    size_t padded = sv_wg_padded(len, way->mtu);
    uint64_t counter = sv_wg_take_counters(way->keypair, 1);

    if (counter < SV_WG_REJECT_AFTER_MESSAGES && padded + SV_WG_DATA_OVERHEAD <= SV_UDP_PAYLOAD_MAX6) {
        uint8_t *dst = reserve(worker, way->member, way->keypair, way->path, padded + SV_WG_DATA_OVERHEAD);

        seal(way->keypair, NULL, counter, dst, packet, len, padded);
        worker->wg->out_packets += len != 0;
        worker->wg->out_bytes += len;
    }
}

/* Each segment's headers are written in front of its payload, over the end of the segment before, which has been sealed by then. */
static void send_super(struct sv_worker *worker, const struct way *way, uint8_t *packet, size_t len,
                       const struct sv_ip *ip, uint8_t kind, uint16_t segment_size)
{
    struct sv_gso it;
    size_t count;
    uint64_t counter;

    if (sv_gso_init(&it, packet, len, ip, kind, segment_size)) {
        sv_count(&worker->traffic.drops[SV_DROP_MALFORMED], 1);
        return;
    }
    count = sv_gso_count(&it);
    counter = sv_wg_take_counters(way->keypair, count);
    if (counter + count > SV_WG_REJECT_AFTER_MESSAGES) {
        return;
    }
    sv_wg_flush(worker);
    sv_aead_batch_begin(worker->wg->aead, way->keypair->send_key, counter, count,
                        sv_wg_padded(it.headers + segment_size, way->mtu));
    for (size_t i = 0; i < count; i++) {
        uint8_t *segment = packet + i * segment_size, *dst;
        const uint8_t *payload;
        size_t size = it.headers + sv_gso_header(&it, i, segment, &payload);
        size_t padded = sv_wg_padded(size, way->mtu);

        dst = reserve(worker, way->member, way->keypair, way->path, padded + SV_WG_DATA_OVERHEAD);
        seal(way->keypair, worker->wg->aead, counter + i, dst, segment, size, padded);
        worker->wg->out_packets++;
        worker->wg->out_bytes += size;
    }
    sv_aead_batch_end(worker->wg->aead);
    /* The far side merges what arrives together: the next super-packet's first segment must not ride along. */
    sv_wg_flush(worker);
}

static void transmit(struct sv_worker *worker, const struct way *way, uint8_t *packet, size_t len,
                     const struct sv_ip *ip, uint8_t kind, uint16_t segment_size)
{
    if (kind) {
        send_super(worker, way, packet, len, ip, kind, segment_size);
    } else {
        send_one(worker, way, packet, len);
    }
    sv_wg_note_sent(&way->member->peer, worker->loop.now, true);
}

/* ---- one packet ---- */

/* The answer comes from the address that cannot be reached: the kernel takes none from an address of its own. */
void sv_wg_unreachable(struct sv_worker *worker, const uint8_t *packet, const struct sv_ip *ip)
{
    uint8_t answer[SV_ICMP_MAX];
    struct sv_vnet plain = {0};
    struct iovec iov[2];
    size_t n = sv_icmp_unreachable(answer, packet, ip, ip->dst, SV_UNREACHABLE_HOST);

    sv_count(&worker->traffic.drops[SV_DROP_NO_ROUTE], 1);
    sv_count(&worker->traffic.bytes_dropped, ip->len);
    if (n) {
        iov[1] = (struct iovec){.iov_base = answer, .iov_len = n};
        sv_inbound_write_tun(worker, &plain, iov, 2);
    }
}

static struct way way_to(struct sv_wg *wg, struct sv_wg_member *member, uint64_t now)
{
    return (struct way){
        .member = member,
        .keypair = sv_wg_sending(&member->peer, now),
        .path = atomic_load_explicit(&member->path, memory_order_acquire),
        .mtu = atomic_load_explicit(&wg->mtu, memory_order_relaxed),
    };
}

struct sv_wg_member *sv_wg_route(const struct sv_wg *wg, const uint8_t dst[16], const struct sv_conn *conn)
{
    const struct sv_wg_allowed *allowed = sv_trie_find(&wg->allowed, dst);
    struct sv_wg_member *member = allowed ? allowed->member : NULL;

    if (!member || !conn) {
        return member;
    }
    return member->client && member->client == conn->client &&
                   atomic_load_explicit(&member->client->on_wg, memory_order_relaxed)
               ? member
               : NULL;
}

bool sv_wg_has(const struct sv_wg *wg, const uint8_t dst[16])
{
    return sv_trie_find(&wg->allowed, dst) != NULL;
}

void sv_wg_transmit(struct sv_worker *worker, struct sv_wg_member *member, struct sv_buf *buf,
                    const struct sv_ip *ip)
{
    struct way way = way_to(worker->engine->wg, member, worker->loop.now);

    if (!way.path) {
        sv_wg_unreachable(worker, buf->data, ip);
    } else if (!way.keypair) {
        sv_wg_stage(worker, member, buf);
    } else {
        transmit(worker, &way, buf->data, sv_buf_len(buf), ip, buf->kind, buf->segment_size);
    }
}

static struct sv_limiter *limiter_of(const struct sv_wg_member *member)
{
    struct sv_limiter *limiter = member->client ? sv_hub_limiter(member->client) : NULL;

    return limiter && limiter->bytes_per_sec ? limiter : NULL;
}

void sv_wg_outbound(struct sv_worker *worker, struct sv_wg_member *member, struct sv_buf **slot,
                    const struct sv_ip *ip)
{
    struct sv_limiter *limiter = limiter_of(member);

    if (limiter) {
        sv_wg_limit_down(worker, member, limiter, slot, ip);
    } else {
        sv_wg_transmit(worker, member, *slot, ip);
    }
}

bool sv_wg_pass_on(struct sv_worker *worker, uint8_t *packet, size_t len, const struct sv_ip *ip)
{
    struct sv_wg_member *member = sv_wg_route(worker->engine->wg, ip->dst,
                                              sv_hub_route(worker->engine, ip->dst));
    struct way way;

    if (!member || limiter_of(member)) {
        return false;
    }
    way = way_to(worker->engine->wg, member, worker->loop.now);
    if (!way.path || !way.keypair) {
        return false;
    }
    transmit(worker, &way, packet, len, ip, 0, 0);
    return true;
}

void sv_wg_send_keepalive(struct sv_worker *worker, struct sv_wg_member *member)
{
    struct way way = way_to(worker->engine->wg, member, worker->loop.now);
    uint8_t nothing[1] = {0};

    if (way.keypair && way.path) {
        send_one(worker, &way, nothing, 0);
        sv_wg_note_sent(&member->peer, worker->loop.now, false);
    }
}

void sv_wg_send_staged(struct sv_worker *worker, struct sv_wg_member *member, struct sv_wg_staged *staged,
                       bool confirm)
{
    struct way way = way_to(worker->engine->wg, member, worker->loop.now);
    struct sv_wg_staged *next;
    struct sv_ip ip;

    if (!staged && confirm) {
        sv_wg_send_keepalive(worker, member);
    }
    for (; staged; staged = next) {
        next = staged->next;
        if (way.keypair && way.path && sv_ip_parse(&ip, staged->packet, staged->len) == 0) {
            transmit(worker, &way, staged->packet, staged->len, &ip, staged->kind, staged->segment_size);
        }
        free(staged);
    }
}
