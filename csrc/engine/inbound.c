/* transport → proto open → policy (source, acl, bucket) → another client, or packet/gro → io/tun. */
#include <netinet/in.h>
#include <string.h>

#include "base/log.h"
#include "engine/hub.h"
#include "engine/limit.h"
#include "engine/wg.h"
#include "packet/checksum.h"
#include "packet/gso.h"

/* ---- to the TUN ---- */

void sv_inbound_write_tun(void *ctx, const struct sv_vnet *vnet, struct iovec *iov, size_t count)
{
    struct sv_worker *worker = ctx;

    int error = worker->engine->tun.plain ? sv_tun_write_plain(worker->tun_queue, iov, count)
                                          : sv_tun_write(worker->tun_queue, vnet, iov, count);

    if (error) {
        sv_count(&worker->traffic.drops[SV_DROP_TUN], 1);
    }
}

void sv_inbound_to_tun(struct sv_worker *worker, uint8_t *packet, size_t len, const struct sv_ip *ip,
                       const struct sv_vnet *super)
{
    struct iovec iov[2] = {[1] = {.iov_base = packet, .iov_len = len}};

    if (super || worker->engine->tun.plain) {
        sv_gro_flush(worker->gro);
        sv_inbound_write_tun(worker, super, iov, 2);
    } else {
        sv_gro_add(worker->gro, packet, len, ip);
    }
}

/* ---- to another client ---- */

static void to_client(struct sv_worker *worker, const uint8_t *packet, size_t len, uint8_t kind,
                      uint16_t segment_size, const struct sv_ip *ip)
{
    struct sv_buf *buf = sv_buf_get(&worker->pool,
                                    len > SV_BUF_SMALL - SV_FRAME_OVERHEAD ? SV_BUF_LARGE : SV_BUF_SMALL);

    if (!buf) {
        sv_count(&worker->traffic.drops[SV_DROP_NORMAL], 1);
        return;
    }
    memcpy(buf->data, packet, len);
    buf->end = buf->data + len;
    buf->kind = kind;
    buf->segment_size = segment_size;
    sv_outbound_route(worker, &buf, ip);
    sv_buf_put(buf);
}

/* ---- one packet ---- */

struct arrival {
    uint8_t *packet;
    size_t len;
    uint8_t kind;
    uint16_t segment_size;
    struct sv_ip ip;
    struct sv_vnet vnet;
};

/* The kernel's offload header is made here, from the packet itself; a super-packet of one segment is an ordinary packet. */
static bool prepare_super(struct arrival *a)
{
    if (sv_vnet_build(&a->vnet, a->packet, a->len, &a->ip, a->kind, a->segment_size)) {
        return false;
    }
    if (a->vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE) {
        sv_checksum_complete(a->packet, a->len, a->vnet.csum_start, a->vnet.csum_offset);
        a->kind = 0;
    }
    return true;
}

void sv_inbound_forward(struct sv_worker *worker, uint8_t *packet, size_t len, uint8_t kind,
                        uint16_t segment_size, const struct sv_ip *ip, const struct sv_vnet *super)
{
    struct sv_engine *engine = worker->engine;

    if (!engine->hub) {
        sv_inbound_to_tun(worker, packet, len, ip, super);
    } else if (worker->wg && !kind && sv_wg_pass_on(worker, packet, len, ip)) {
        return;
    } else if (sv_hub_route(engine, ip->dst) || (worker->wg && sv_wg_has(engine->wg, ip->dst))) {
        to_client(worker, packet, len, kind, segment_size, ip);
    } else {
        sv_inbound_to_tun(worker, packet, len, ip, super);
    }
}

static void deliver(struct sv_conn *conn, struct arrival *a)
{
    sv_count(&conn->traffic.packets_in,
             a->kind ? sv_gso_segments(a->len, &a->ip, a->kind, a->segment_size) : 1);
    sv_count(&conn->traffic.bytes_in, a->len);
    sv_inbound_forward(conn->worker, a->packet, a->len, a->kind, a->segment_size, &a->ip,
                       a->kind ? &a->vnet : NULL);
}

static enum sv_verdict judge(const struct sv_conn *conn, const struct arrival *a)
{
    static const uint8_t absent[16];
    const uint8_t *own = a->ip.version == 4 ? conn->addr4 : conn->addr6;
    size_t unit = a->kind ? sv_gso_unit(a->packet, &a->ip, a->kind, a->segment_size) : a->len;

    if (memcmp(a->ip.src, own, 16) != 0 || memcmp(own, absent, 16) == 0) {
        return SV_DROP_SOURCE;
    }
    if (unit > conn->mtu) {
        return SV_DROP_TOO_BIG;
    }
    return sv_hub_check_destination(conn->worker->engine->hub, conn->client, &a->ip);
}

/* ---- the limiter in the peer's direction ---- */

static void keep_up(struct sv_conn *conn, struct sv_buf **slot, const struct sv_ip *ip,
                    struct sv_limiter *limiter)
{
    struct sv_queue *queue = sv_queue_make(&conn->up_queue, limiter);
    size_t len = sv_buf_len(*slot);
    uint64_t now = conn->worker->loop.now;
    uint32_t flow;
    enum sv_class klass = sv_classify(conn->worker->classifier, now, ip, &flow);
    struct sv_buf *kept = queue ? sv_outbound_keep(conn->worker, slot) : NULL;

    if (kept) {
        kept->tag = flow;
    }
    if (!kept || sv_queue_push(queue, now, kept, klass)) {
        sv_count_drop(&conn->traffic, SV_DROP_RATE, len);
    }
}

static bool passes_up(struct sv_conn *conn, struct sv_limiter *limiter, size_t len)
{
    return !(conn->up_queue && sv_queue_packets(conn->up_queue)) &&
           sv_bucket_take(&limiter->up, conn->worker->loop.now, (uint32_t)len);
}

static void limit_segment(struct sv_conn *conn, struct sv_buf **slot, struct sv_limiter *limiter)
{
    struct arrival a = {.packet = (*slot)->data, .len = sv_buf_len(*slot)};

    if (sv_ip_parse(&a.ip, a.packet, a.len)) {
        sv_count_drop(&conn->traffic, SV_DROP_MALFORMED, a.len);
    } else if (passes_up(conn, limiter, a.len)) {
        deliver(conn, &a);
        sv_gro_flush(conn->worker->gro);
    } else {
        keep_up(conn, slot, &a.ip, limiter);
    }
}

/* Under a limit a super-packet is judged segment by segment. */
static void limit_super(struct sv_conn *conn, struct arrival *a, struct sv_limiter *limiter)
{
    struct sv_gso it;
    struct sv_buf *segment = NULL;

    if (sv_gso_init(&it, a->packet, a->len, &a->ip, a->kind, a->segment_size)) {
        sv_count_drop(&conn->traffic, SV_DROP_MALFORMED, a->len);
        return;
    }
    for (;;) {
        size_t n;

        if (!segment && !(segment = sv_buf_get(&conn->worker->pool, SV_BUF_LARGE))) {
            break;
        }
        sv_buf_reset(segment);
        n = sv_gso_next(&it, segment->data);
        if (!n) {
            break;
        }
        segment->end = segment->data + n;
        limit_segment(conn, &segment, limiter);
    }
    sv_buf_put(segment);
}

static void limit(struct sv_conn *conn, struct arrival *a, struct sv_limiter *limiter)
{
    if (passes_up(conn, limiter, a->len)) {
        deliver(conn, a);
    } else if (a->kind) {
        limit_super(conn, a, limiter);
    } else {
        struct sv_buf *buf = sv_buf_get(&conn->worker->pool, SV_BUF_LARGE);

        if (!buf) {
            sv_count_drop(&conn->traffic, SV_DROP_RATE, a->len);
            return;
        }
        memcpy(buf->data, a->packet, a->len);
        buf->end = buf->data + a->len;
        keep_up(conn, &buf, &a->ip, limiter);
        sv_buf_put(buf);
    }
    if (conn->up_queue && sv_queue_packets(conn->up_queue)) {
        sv_inbound_drain(conn);
    }
}

void sv_inbound_drain(struct sv_conn *conn)
{
    struct sv_limiter *limiter = conn->client ? sv_hub_limiter(conn->client) : NULL;
    uint64_t again = SV_NEVER;
    struct sv_buf *buf;

    if (!conn->up_queue) {
        return;
    }
    while ((buf = sv_queue_next(conn->up_queue, limiter, limiter ? &limiter->up : NULL,
                                conn->worker->loop.now, &again))) {
        struct arrival a = {.packet = buf->data, .len = sv_buf_len(buf)};

        if (sv_ip_parse(&a.ip, a.packet, a.len) == 0) {
            deliver(conn, &a);
            sv_gro_flush(conn->worker->gro);
        }
        sv_buf_put(buf);
    }
    sv_queue_count_expired(conn->up_queue, &conn->traffic);
    sv_conn_drain_at(conn, again);
}

/* ---- frames ---- */

static void on_packet(struct sv_conn *conn, const struct sv_received *received)
{
    struct arrival a = {
        .packet = received->packet,
        .len = received->packet_len,
        .kind = received->kind,
        .segment_size = received->segment_size,
    };
    struct sv_limiter *limiter;
    enum sv_verdict verdict;

    if (sv_ip_parse(&a.ip, a.packet, a.len) || (a.kind && !prepare_super(&a))) {
        sv_count_drop(&conn->traffic, SV_DROP_MALFORMED, a.len);
        return;
    }
    if (!conn->worker->engine->server) {
        deliver(conn, &a);
        return;
    }
    if (atomic_load_explicit(&conn->client->on_wg, memory_order_relaxed)) {
        atomic_store_explicit(&conn->client->on_wg, false, memory_order_relaxed);
    }
    verdict = judge(conn, &a);
    if (verdict != SV_PASS) {
        sv_count_drop(&conn->traffic, verdict, a.len);
        return;
    }
    limiter = sv_hub_limiter(conn->client);
    if (limiter && limiter->bytes_per_sec) {
        limit(conn, &a, limiter);
    } else {
        deliver(conn, &a);
    }
}

static void on_peer_disconnect(struct sv_conn *conn, const struct sv_received *received)
{
    conn->ended_code = received->code;
    conn->ended_by_disconnect = true;
    if (!conn->worker->engine->server) {
        char text[SV_REASON_SIZE];

        sv_dialer_on_disconnect(conn, received->code,
                                sv_log_escape(text, sizeof text, received->text, received->text_len));
    }
    sv_conn_end(conn);
}

static void on_event(struct sv_conn *conn, const struct sv_received *received)
{
    bool server = conn->worker->engine->server;

    switch (received->event) {
    case SV_SESSION_ON_HELLO:
        sv_hub_on_hello(conn);
        break;
    case SV_SESSION_ON_LIVE:
        if (!server) {
            sv_dialer_on_settings(conn, true);
        }
        break;
    case SV_SESSION_ON_SETTINGS:
        sv_dialer_on_settings(conn, false);
        break;
    case SV_SESSION_ON_PACKET:
        on_packet(conn, received);
        break;
    case SV_SESSION_ON_MALFORMED:
        sv_count_drop(&conn->traffic, SV_DROP_MALFORMED, received->packet_len);
        break;
    case SV_SESSION_ON_DISCONNECT:
        on_peer_disconnect(conn, received);
        break;
    case SV_SESSION_ON_OFFENCE:
        conn->ended_code = conn->session.disconnect_code;
        conn->ended_by_disconnect = true;
        break;
    case SV_SESSION_ON_FATAL:
        sv_hub_on_fatal(conn, "a message that does not open");
        sv_conn_abort(conn);
        break;
    default:
        break;
    }
}

/* Packets of datagrams lie here until the turn's end, so that those of a flow can be merged. */
static uint8_t *gather(struct sv_worker *worker, size_t len)
{
    if (worker->gathered && sv_buf_tailroom(worker->gathered) < len) {
        sv_inbound_flush(worker);
    }
    if (!worker->gathered) {
        worker->gathered = sv_buf_get(&worker->pool, SV_BUF_LARGE);
    }
    return worker->gathered && sv_buf_tailroom(worker->gathered) >= len ? worker->gathered->end : NULL;
}

void sv_inbound_flush(struct sv_worker *worker)
{
    sv_gro_flush(worker->gro);
    if (worker->gathered) {
        sv_buf_reset(worker->gathered);
    }
}

void sv_inbound_datagram(struct sv_conn *conn, uint8_t *bytes, size_t len)
{
    struct sv_worker *worker = conn->worker;
    struct sv_received received;
    uint8_t *dst = gather(worker, len);

    if (!dst || sv_session_open_datagram_to(&conn->session, worker->loop.now, bytes, len, dst, &received)) {
        sv_count_drop(&conn->traffic, SV_DROP_REPLAY, len);
        return;
    }
    worker->gathered->end += len;
    sv_worker_mark_dirty(conn);
    if (received.went_live && !sv_hub_on_live(conn)) {
        return;
    }
    on_event(conn, &received);
}

static void on_frame(struct sv_conn *conn, uint8_t *frame, size_t len)
{
    struct sv_received received;
    struct sv_worker *worker = conn->worker;

    if (worker->engine->server && conn->session.state == SV_SESSION_START &&
        !sv_hub_admits_init(conn, frame, len)) {
        sv_conn_abort(conn);
        return;
    }
    sv_session_receive(&conn->session, worker->loop.now, frame, len, &received);
    if (received.went_live && worker->engine->server && !sv_hub_on_live(conn)) {
        return;
    }
    on_event(conn, &received);
}

/* SV_E_CLOSED once a frame has ended the connection. */
static int next_frame(struct sv_conn *conn, uint8_t **bytes, size_t *len, uint8_t **frame, size_t *frame_len)
{
    if (conn->closing) {
        return SV_E_CLOSED;
    }
    conn->reader.max_payload = sv_session_max_payload(&conn->session);
    return sv_frame_next(&conn->reader, bytes, len, frame, frame_len);
}

void sv_inbound_bytes(struct sv_conn *conn, uint8_t *bytes, size_t len)
{
    struct sv_gro *gro = conn->worker->gro;
    uint8_t *frame;
    size_t frame_len;
    int error;

    while (!(error = next_frame(conn, &bytes, &len, &frame, &frame_len))) {
        bool in_store = frame == conn->reader.store;

        on_frame(conn, frame, frame_len);
        if (in_store) {
            sv_gro_flush(gro); /* the next frame may take its place */
        }
    }
    sv_gro_flush(gro);
    if (error != SV_E_AGAIN && error != SV_E_CLOSED) {
        sv_hub_on_fatal(conn, "a frame of a length that cannot be");
        sv_conn_abort(conn);
    }
    if (!conn->closing) {
        sv_worker_mark_dirty(conn);
    }
}
