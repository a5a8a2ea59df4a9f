/* io/tun → packet/gso → packet/ip → policy (bucket, classify, queue) → proto seal → transport. */
#include <string.h>

#include "base/bytes.h"
#include "base/log.h"
#include "engine/mtu.h"
#include "engine/limit.h"
#include "engine/wg.h"
#include "packet/checksum.h"
#include "packet/gso.h"
#include "packet/icmp.h"

enum {
    SUPER_PLAIN_MAX = SV_FRAME_MAX_PLAIN - SV_FRAME_SUPER_PREFIX,
    /* So long without a word from the peer its link may be dead; no retransmission comes sooner. */
    SILENT_MS = 100,
};

static size_t segments_of(const struct sv_buf *buf, const struct sv_ip *ip)
{
    return buf->kind ? sv_gso_segments(sv_buf_len(buf), ip, buf->kind, buf->segment_size) : 1;
}

/* ---- sealed bytes ---- */

void sv_outbound_send(struct sv_conn *conn)
{
    struct sv_buf *tx = conn->tx;

    if (!tx) {
        return;
    }
    conn->tx = NULL;
    if (conn->link && sv_buf_len(tx)) {
        conn->link->ops->send(conn->link, tx->data, sv_buf_len(tx));
    }
    sv_buf_put(tx);
}

bool sv_outbound_room(struct sv_conn *conn, size_t n)
{
    if (conn->tx && sv_buf_tailroom(conn->tx) < n) {
        sv_outbound_send(conn);
    }
    if (!conn->tx) {
        conn->tx = sv_buf_get(&conn->worker->pool, SV_BUF_LARGE);
    }
    return conn->tx != NULL;
}

/* A frame too long to share a message is sealed where it lies and sent from there. */
static bool seal_in_place(struct sv_conn *conn, struct sv_buf *buf, uint8_t type)
{
    uint8_t *plain = buf->data;
    uint8_t *frame = plain - SV_FRAME_HEADER;
    size_t n;

    sv_outbound_send(conn);
    n = sv_session_seal(&conn->session, conn->worker->loop.now, type, frame, plain, sv_buf_len(buf));
    return n && conn->link->ops->send(conn->link, frame, n) == 0;
}

static bool seal_behind(struct sv_conn *conn, struct sv_buf *buf, uint8_t type)
{
    size_t n;

    if (!sv_outbound_room(conn, sv_buf_len(buf) + SV_FRAME_OVERHEAD)) {
        return false;
    }
    n = sv_session_seal(&conn->session, conn->worker->loop.now, type, conn->tx->end, buf->data,
                        sv_buf_len(buf));
    conn->tx->end += n;
    if (sv_buf_len(conn->tx) >= SV_TX_FILL || !(conn->session.peer_capabilities & SV_CAP_BATCH)) {
        sv_outbound_send(conn);
    }
    return n != 0;
}

/* The packet's bytes are used up afterwards; the buffer stays the caller's. */
static void send_frame(struct sv_conn *conn, struct sv_buf *buf, size_t segments)
{
    size_t len = sv_buf_len(buf);
    uint8_t type = SV_FRAME_IP_PACKET;
    bool sent;

    if (buf->kind) {
        uint8_t *prefix = sv_buf_push(buf, SV_FRAME_SUPER_PREFIX);

        prefix[0] = buf->kind;
        sv_store16be(prefix + 1, buf->segment_size);
        type = SV_FRAME_IP_SUPER_PACKET;
    }
    sent = len >= SV_TX_FILL ? seal_in_place(conn, buf, type) : seal_behind(conn, buf, type);
    if (sent) {
        sv_worker_mark_dirty(conn); /* what the link took may still wait for its flush */
        sv_count(&conn->traffic.packets_out, segments);
        sv_count(&conn->traffic.bytes_out, len);
    }
}

void sv_outbound_frame(struct sv_conn *conn, const uint8_t *packet, size_t len)
{
    struct sv_buf *buf = sv_buf_get(&conn->worker->pool, len);

    if (!buf) {
        sv_count_drop(&conn->traffic, SV_DROP_NORMAL, len);
        return;
    }
    memcpy(buf->data, packet, len);
    buf->end = buf->data + len;
    send_frame(conn, buf, 1);
    sv_buf_put(buf);
}

/* ---- queueing ---- */

static struct sv_limiter *limiter_of(const struct sv_conn *conn)
{
    return conn->client ? sv_hub_limiter(conn->client) : NULL;
}

struct sv_buf *sv_outbound_keep(struct sv_worker *worker, struct sv_buf **slot)
{
    struct sv_buf *buf = *slot, *copy;

    if (sv_buf_len(buf) > SV_BUF_SMALL) {
        *slot = NULL;
        return buf;
    }
    copy = sv_buf_get(&worker->pool, SV_BUF_SMALL);
    if (copy) {
        memcpy(copy->data, buf->data, sv_buf_len(buf));
        copy->end = copy->data + sv_buf_len(buf);
        copy->kind = buf->kind;
        copy->segment_size = buf->segment_size;
    }
    return copy;
}

static enum sv_verdict why_full(const struct sv_conn *conn, enum sv_class klass)
{
    return limiter_of(conn) && !conn->link->blocked && !conn->link->datagrams_blocked ? SV_DROP_RATE
                                                                                      : SV_DROP_HIGH + klass;
}

static void enqueue(struct sv_conn *conn, struct sv_buf **slot, enum sv_class klass, uint32_t flow,
                    const struct sv_limiter *limiter)
{
    struct sv_queue *queue = sv_queue_make(&conn->queue, limiter);
    size_t len = sv_buf_len(*slot);
    struct sv_buf *buf = queue ? sv_outbound_keep(conn->worker, slot) : NULL;

    if (!buf) {
        sv_count_drop(&conn->traffic, why_full(conn, klass), len);
        return;
    }
    klass = sv_queue_class(queue, flow, klass);
    buf->tag = flow;
    if (sv_queue_push(queue, conn->worker->loop.now, buf, klass)) {
        sv_count_drop(&conn->traffic, why_full(conn, klass), len);
    }
}

/* ---- stream or datagrams ---- */

static size_t unit_of(const struct sv_buf *buf, const struct sv_ip *ip)
{
    return buf->kind ? sv_gso_unit(buf->data, ip, buf->kind, buf->segment_size) : sv_buf_len(buf);
}

static bool is_blocked(const struct sv_conn *conn, bool datagrams)
{
    return datagrams ? sv_cut_blocked(conn) : conn->link->blocked;
}

/* As one frame: what the peer can take, and protocol.md allows. */
static bool takes_super(const struct sv_conn *conn, const struct sv_buf *buf, size_t segments)
{
    bool taken = buf->kind == 3 ? conn->super_udp : conn->super_tcp;

    return taken && buf->segment_size >= SV_SUPER_SEGMENT_MIN && segments <= SV_SUPER_SEGMENTS_MAX &&
           sv_buf_len(buf) <= SUPER_PLAIN_MAX;
}

/* Meant for datagrams, which it is too long for now. */
static void send_apart(struct sv_conn *conn, const struct sv_buf *buf, const struct sv_ip *ip)
{
    struct sv_buf *segment = sv_buf_get(&conn->worker->pool, SV_BUF_LARGE);
    struct sv_gso it;
    size_t n;

    if (!segment || sv_gso_init(&it, buf->data, sv_buf_len(buf), ip, buf->kind, buf->segment_size)) {
        sv_count_drop(&conn->traffic, SV_DROP_MALFORMED, sv_buf_len(buf));
    } else {
        while ((n = sv_gso_next(&it, segment->data))) {
            segment->end = segment->data + n;
            send_frame(conn, segment, 1);
            sv_buf_reset(segment);
        }
    }
    sv_buf_put(segment);
}

/* *slot may be taken. */
static void transmit(struct sv_conn *conn, struct sv_buf **slot, const struct sv_ip *ip, size_t segments,
                     bool datagrams)
{
    if (datagrams) {
        sv_cut_send(conn, slot, ip);
    } else if ((*slot)->kind && !takes_super(conn, *slot, segments)) {
        send_apart(conn, *slot, ip);
    } else {
        send_frame(conn, *slot, segments);
    }
}

static bool must_wait(const struct sv_conn *conn, bool datagrams)
{
    return is_blocked(conn, datagrams) || (conn->queue && sv_queue_packets(conn->queue)) ||
           !sv_session_can_send(&conn->session);
}

/* On a slow path a whole super-packet would keep what is urgent waiting. */
static bool takes_long(const struct sv_link *link, size_t len)
{
    return link->window && link->window < len;
}

static bool super_fits(const struct sv_conn *conn, const struct sv_buf *buf, size_t segments)
{
    return takes_super(conn, buf, segments) && !takes_long(conn->link, sv_buf_len(buf));
}

static void forward(struct sv_conn *conn, struct sv_buf **slot, const struct sv_ip *ip, enum sv_class klass,
                    uint32_t flow, bool datagrams)
{
    struct sv_limiter *limiter = limiter_of(conn);
    size_t len = sv_buf_len(*slot);

    if (must_wait(conn, datagrams) ||
        (limiter && !sv_bucket_take(&limiter->down, conn->worker->loop.now, (uint32_t)len))) {
        enqueue(conn, slot, klass, flow, limiter);
        sv_worker_mark_dirty(conn);
    } else {
        transmit(conn, slot, ip, segments_of(*slot, ip), datagrams);
    }
}

static void split(struct sv_conn *conn, struct sv_buf *super, const struct sv_ip *ip, enum sv_class klass,
                  uint32_t flow, bool datagrams)
{
    struct sv_gso it;
    struct sv_buf *segment = sv_buf_get(&conn->worker->pool, SV_BUF_LARGE);
    size_t n;

    if (!segment || sv_gso_init(&it, super->data, sv_buf_len(super), ip, super->kind, super->segment_size)) {
        sv_count_drop(&conn->traffic, SV_DROP_MALFORMED, sv_buf_len(super));
        sv_buf_put(segment);
        return;
    }
    while (segment && (n = sv_gso_next(&it, segment->data))) {
        segment->end = segment->data + n;
        forward(conn, &segment, ip, klass, flow, datagrams);
        if (!segment) {
            segment = sv_buf_get(&conn->worker->pool, SV_BUF_LARGE);
        } else {
            sv_buf_reset(segment);
        }
    }
    sv_buf_put(segment);
}

/* ---- one packet ---- */

/* The client hears it from its gateway. The kernel of the hub takes nothing in that claims to come from itself: there it is the client who answers. */
static const uint8_t *who_answers(const struct sv_conn *conn, const struct sv_ip *ip)
{
    if (conn->worker->engine->server) {
        return ip->dst;
    }
    return ip->version == 4 ? conn->gateway4 : conn->gateway6;
}

static void answer_too_big(struct sv_conn *conn, const struct sv_buf *buf, const struct sv_ip *ip)
{
    uint8_t answer[SV_ICMP_MAX];
    struct sv_vnet plain = {0};
    struct iovec iov[2];
    size_t n = sv_icmp_too_big(answer, buf->data, ip, who_answers(conn, ip),
                               (uint16_t)sv_mtu_limit(conn->link, conn->mtu));

    sv_count_drop(&conn->traffic, SV_DROP_TOO_BIG, sv_buf_len(buf));
    if (n) {
        iov[1] = (struct iovec){.iov_base = answer, .iov_len = n};
        if (sv_tun_write(conn->worker->tun_queue, &plain, iov, 2) == 0) {
            sv_count(&conn->traffic.too_big_sent, 1);
        }
    }
}

/* Fragments may be made of IPv4 without DF, by whoever carries it on; everything else must fit. */
static bool too_big(const struct sv_conn *conn, const struct sv_buf *buf, const struct sv_ip *ip)
{
    size_t limit = sv_cut_settling(conn) ? conn->mtu : sv_mtu_limit(conn->link, conn->mtu);

    return unit_of(buf, ip) > limit && (ip->version == 6 || ip->df);
}

/* A packet that its sender would send again, if the link should prove dead. */
static void keep(struct sv_worker *worker, struct sv_keep *to, const struct sv_buf *buf,
                 const struct sv_ip *ip, uint32_t flow)
{
    if (ip->proto == IPPROTO_TCP && !buf->kind && sv_buf_len(buf) <= SV_BUF_SMALL) {
        sv_keep_note(to, worker->loop.now, flow, buf->data, sv_buf_len(buf));
    }
}

void sv_outbound_packet(struct sv_conn *conn, struct sv_buf **slot, const struct sv_ip *ip)
{
    struct sv_buf *buf = *slot;
    struct sv_limiter *limiter = limiter_of(conn);
    enum sv_class klass;
    uint32_t flow;
    bool datagrams, whole;

    if (!conn->link || conn->closing) {
        sv_count_drop(&conn->traffic, SV_DROP_NO_ROUTE, sv_buf_len(buf));
        return;
    }
    if (too_big(conn, buf, ip)) {
        answer_too_big(conn, buf, ip);
        return;
    }
    klass = sv_classify(conn->worker->classifier, conn->worker->loop.now, ip, &flow);
    if (conn->worker->loop.now > conn->session.last_received + SILENT_MS * SV_NS_PER_MS) {
        keep(conn->worker, &conn->keep, buf, ip, flow);
    }
    datagrams = sv_cut_takes(conn, flow, unit_of(buf, ip));
    whole = !buf->kind || ((datagrams || super_fits(conn, buf, segments_of(buf, ip))) &&
                           !(limiter && limiter->bytes_per_sec));
    if (whole) {
        forward(conn, slot, ip, klass, flow, datagrams);
    } else {
        split(conn, buf, ip, klass, flow, datagrams);
    }
}

static void drain_one(struct sv_conn *conn, struct sv_buf *buf)
{
    struct sv_ip ip = {0};
    bool datagrams = false;
    size_t segments = 1;

    if ((buf->kind || conn->cut) && sv_ip_parse(&ip, buf->data, sv_buf_len(buf)) == 0) {
        segments = segments_of(buf, &ip);
        datagrams = sv_cut_takes(conn, buf->tag, unit_of(buf, &ip));
    }
    transmit(conn, &buf, &ip, segments, datagrams);
    sv_buf_put(buf);
}

/* The queue has one order: when either way is blocked it waits, whichever its first packet would take. */
static bool may_drain(const struct sv_conn *conn)
{
    return !conn->closing && !conn->link->blocked && !sv_cut_blocked(conn) &&
           sv_session_can_send(&conn->session);
}

size_t sv_outbound_drain(struct sv_conn *conn)
{
    struct sv_limiter *limiter = limiter_of(conn);
    uint64_t again = SV_NEVER;
    struct sv_buf *buf;
    size_t sent = 0;

    if (!sv_session_can_send(&conn->session)) {
        return 0;
    }
    sv_cut_resume(conn);
    if (!conn->queue || !sv_queue_packets(conn->queue)) {
        return 0;
    }
    conn->share += sv_turn_share(conn->client ? sv_hub_priority(conn->client) : 0);
    while (conn->share > 0 && may_drain(conn) &&
           (buf = sv_queue_next(conn->queue, limiter, limiter ? &limiter->down : NULL, conn->worker->loop.now,
                                &again))) {
        sent += sv_buf_len(buf);
        conn->share -= (int64_t)sv_buf_len(buf);
        drain_one(conn, buf);
    }
    sv_queue_count_expired(conn->queue, &conn->traffic);
    if (conn->share <= 0 && may_drain(conn) && sv_queue_packets(conn->queue)) {
        sv_worker_mark_dirty(conn);
    } else {
        conn->share = 0;
        sv_conn_drain_at(conn, again);
    }
    return sent;
}

/* ---- from the TUN ---- */

static void stray(struct sv_worker *worker, size_t target, struct sv_buf **slot)
{
    struct sv_buf *buf = sv_outbound_keep(worker, slot);

    if (!buf) {
        sv_count(&worker->traffic.drops[SV_DROP_NORMAL], 1);
        return;
    }
    buf->next = NULL;
    *worker->strays_last[target] = buf;
    worker->strays_last[target] = &buf->next;
}

static struct sv_conn *find_conn(struct sv_engine *engine, const struct sv_ip *ip)
{
    if (engine->hub) {
        return sv_hub_route(engine, ip->dst);
    }
    return engine->dialer ? sv_dialer_active(engine) : NULL;
}

static void to_nobody(struct sv_worker *worker, const struct sv_buf *buf, const struct sv_ip *ip)
{
    uint32_t flow;

    if (worker->wg && !worker->engine->hub) {
        sv_wg_unreachable(worker, buf->data, ip);
    } else {
        if (worker->engine->dialer) {
            sv_classify(worker->classifier, worker->loop.now, ip, &flow);
            keep(worker, sv_dialer_keep(worker->engine), buf, ip, flow);
        }
        sv_count_drop(&worker->traffic, SV_DROP_NO_ROUTE, sv_buf_len(buf));
    }
}

/* To the connection that the packet's destination belongs to, on whatever worker it lives; or to its WireGuard peer. */
void sv_outbound_route(struct sv_worker *worker, struct sv_buf **slot, const struct sv_ip *ip)
{
    struct sv_conn *conn = find_conn(worker->engine, ip);
    struct sv_wg_member *member = worker->wg ? sv_wg_route(worker->engine->wg, ip->dst, conn) : NULL;

    if (member) {
        sv_wg_outbound(worker, member, slot, ip);
    } else if (!conn) {
        to_nobody(worker, *slot, ip);
    } else if (conn->worker != worker) {
        stray(worker, conn->worker->index, slot);
    } else {
        sv_outbound_packet(conn, slot, ip);
    }
}

static void tun_packet(struct sv_worker *worker, const struct sv_vnet *vnet)
{
    struct sv_buf *buf = worker->rx;
    struct sv_ip ip;

    if (sv_vnet_classify(vnet, buf->data, sv_buf_len(buf), &buf->kind, &buf->segment_size) ||
        sv_ip_parse(&ip, buf->data, sv_buf_len(buf))) {
        sv_count_drop(&worker->traffic, SV_DROP_MALFORMED, sv_buf_len(buf));
        return;
    }
    if (!buf->kind && (vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)) {
        sv_checksum_complete(buf->data, sv_buf_len(buf), vnet->csum_start, vnet->csum_offset);
    }
    sv_outbound_route(worker, &worker->rx, &ip);
}

/* Somebody deleted the device: its descriptor would be ready for ever. */
static void tun_lost(struct sv_worker *worker)
{
    sv_log(SV_LOG_ERROR, "the interface %s is gone: no packet can pass until a restart",
           worker->engine->tun.name);
    sv_watch_set(worker->tun_watch, 0);
}

static int read_tun(struct sv_worker *worker, struct sv_vnet *vnet, size_t *len)
{
    uint8_t *dst = worker->rx->data;

    return worker->engine->tun.plain
               ? sv_tun_read_plain(worker->tun_queue, vnet, dst, SV_FRAME_MAX_PAYLOAD, len)
               : sv_tun_read(worker->tun_queue, vnet, dst, SV_FRAME_MAX_PAYLOAD, len);
}

void sv_outbound_tun_ready(struct sv_worker *worker)
{
    struct sv_vnet vnet;
    size_t len;
    int error;

    for (int i = 0; i < SV_TUN_BATCH; i++) {
        if (!worker->rx) {
            worker->rx = sv_buf_get(&worker->pool, SV_BUF_LARGE);
            if (!worker->rx) {
                return;
            }
        }
        sv_buf_reset(worker->rx);
        error = read_tun(worker, &vnet, &len);
        if (error) {
            if (error != SV_E_AGAIN) {
                tun_lost(worker);
            }
            return;
        }
        worker->rx->end = worker->rx->data + len;
        tun_packet(worker, &vnet);
    }
}

/* ---- between workers ---- */

void sv_outbound_push_strays(struct sv_worker *worker)
{
    for (size_t i = 0; i < worker->engine->worker_count; i++) {
        struct sv_buf *buf = worker->strays[i], *next;

        if (!buf) {
            continue;
        }
        worker->strays[i] = NULL;
        worker->strays_last[i] = &worker->strays[i];
        if (sv_ring_push(&worker->engine->workers[i].packets, buf)) {
            continue;
        }
        for (; buf; buf = next) {
            next = buf->next;
            sv_count_drop(&worker->traffic, SV_DROP_NORMAL, sv_buf_len(buf));
            sv_buf_put(buf);
        }
    }
}

/* A stray is not sent on a second time: its connection may have moved meanwhile, and chasing it could go on for ever. */
static void stray_arrived(struct sv_worker *worker, struct sv_buf **slot)
{
    struct sv_buf *buf = *slot;
    struct sv_conn *conn;
    struct sv_ip ip;

    if (sv_ip_parse(&ip, buf->data, sv_buf_len(buf))) {
        return;
    }
    conn = sv_hub_route(worker->engine, ip.dst);
    if (!conn || conn->worker != worker) {
        sv_count_drop(&worker->traffic, SV_DROP_NO_ROUTE, sv_buf_len(buf));
        return;
    }
    sv_outbound_packet(conn, slot, &ip);
}

/* Buffers of another worker's pool are copied when they must wait here, so that each queue holds buffers of its own worker only. */
static struct sv_buf *adopt(struct sv_worker *worker, struct sv_buf *foreign)
{
    struct sv_buf *own = sv_buf_get(&worker->pool,
                                    sv_buf_len(foreign) > SV_BUF_SMALL ? SV_BUF_LARGE : SV_BUF_SMALL);

    if (own) {
        memcpy(own->data, foreign->data, sv_buf_len(foreign));
        own->end = own->data + sv_buf_len(foreign);
        own->kind = foreign->kind;
        own->segment_size = foreign->segment_size;
    }
    sv_buf_put_remote(foreign);
    return own;
}

void sv_outbound_strays(struct sv_worker *worker)
{
    struct sv_buf *chain;

    while ((chain = sv_ring_pop(&worker->packets))) {
        while (chain) {
            struct sv_buf *foreign = chain, *own;

            chain = chain->next;
            own = adopt(worker, foreign);
            if (own) {
                stray_arrived(worker, &own);
            }
            sv_buf_put(own);
        }
    }
}
