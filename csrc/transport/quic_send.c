/* Packets out. They gather in one buffer and leave in one system call (UDP_SEGMENT) as long as they are of one connection, one path and one size; the
 * pacer is told once for each burst. */
#include <string.h>

#include "base/error.h"
#include "transport/quic_conn.h"

enum {
    PIECES = 4,
    BURST_MIN = 10 * SV_QUIC_PAYLOAD_MAX,
    NEAR_BYTES_PER_US = 1250,
    NEAR_LEAST = 500 * NEAR_BYTES_PER_US, /* the window of no round trip at all */
    NEAR_TIGHT = 32 * 1024,               /* the least bound of one that loses what it is given */
    NEAR_JUDGED = 32,                     /* datagrams that tell something about it */
    WRITES_PER_TURN = 512,                /* packets of one connection; the rest goes out in the next turn */
};

static const ngtcp2_duration NEAR_RTT = 2 * NGTCP2_MILLISECONDS;
static const ngtcp2_duration NOT_NEAR_RTT = 8 * NGTCP2_MILLISECONDS;
static const ngtcp2_duration NEAR_QUEUE = 500 * NGTCP2_MICROSECONDS;

static struct sv_quic_tx *tx_of(struct sv_quic_conn *conn)
{
    return &conn->side->tx;
}

/* ---- the batch ---- */

static void empty(struct sv_quic_tx *tx)
{
    tx->len = tx->count = 0;
    tx->full = false;
}

/* A batch that the socket has no room for stays; what is lost otherwise is lost as on the network. */
static void send_batch(struct sv_quic_side *side)
{
    struct sv_quic_tx *tx = &side->tx;

    if (tx->len) {
        tx->stuck = side->ops->send(side, &tx->path.path, tx->bytes, tx->len, tx->segment) == SV_E_AGAIN;
        if (tx->stuck) {
            side->ops->await_writable(side, &tx->path.path);
            return;
        }
    }
    empty(tx);
}

static size_t most(const struct sv_quic_tx *tx)
{
    return tx->path.path.remote.addr->sa_family == AF_INET ? SV_UDP_PAYLOAD_MAX : SV_UDP_PAYLOAD_MAX6;
}

/* The packet of n bytes behind the batch becomes part of it; or the batch leaves first, and the packet begins the next. */
static void take(struct sv_quic_side *side, size_t n)
{
    struct sv_quic_tx *tx = &side->tx;

    tx->begun = false;
    if (tx->count && (n > tx->segment || !ngtcp2_path_eq(&tx->path.path, &tx->next.path))) {
        size_t before = tx->len;

        send_batch(side);
        if (tx->stuck) {
            return; /* the new one is lost, as on the network */
        }
        memmove(tx->bytes, tx->bytes + before, n);
    }
    if (!tx->count) {
        tx->segment = n;
        ngtcp2_path_copy(&tx->path.path, &tx->next.path);
    }
    tx->len += n;
    tx->count++;
    tx->full = n < tx->segment || tx->count == SV_UDP_SEGMENTS_MAX || tx->len + tx->segment > most(tx);
    if (tx->full) {
        send_batch(side);
    }
}

/* What is less than an initial window may go out at once (RFC 9002, 7.7), so that a packet now and then never waits for the pacer. */
static bool is_burst(const struct sv_quic_conn *conn)
{
    return conn->burst >= BURST_MIN && conn->burst >= ngtcp2_conn_get_send_quantum2(conn->quic);
}

/* A path of less than 2 ms has no queue that a window would overrun, waking for the pacer costs a round trip there, and BBR takes its own pace for the
 * path's when the flows inside begin, and stays at it for seconds. Decided at the first burst, for good: the pacer counts all it was not told of. */
static bool is_paced(struct sv_quic_conn *conn)
{
    if (conn->pacing == SV_QUIC_PACING_UNDECIDED) {
        ngtcp2_conn_info info;

        ngtcp2_conn_get_conn_info2(conn->quic, &info);
        conn->pacing = info.min_rtt < NEAR_RTT ? SV_QUIC_PACING_OFF : SV_QUIC_PACING_ON;
    }
    return conn->pacing == SV_QUIC_PACING_ON;
}

/* What a path may deliver in its round trip and half a millisecond more, at 10 Gbit/s. A path that has become far is not bounded by what it was. */
static uint64_t near_window(const ngtcp2_conn_info *info)
{
    ngtcp2_duration near = info->min_rtt == UINT64_MAX ? 0 : info->min_rtt;
    ngtcp2_duration rtt = info->smoothed_rtt > NOT_NEAR_RTT && info->smoothed_rtt > near ? info->smoothed_rtt
                                                                                         : near;

    return (rtt + NEAR_QUEUE) * NEAR_BYTES_PER_US / NGTCP2_MICROSECONDS;
}

/* It loses an eighth of what it is given: it is given what it has delivered of that; and an eighth more after each round trip in which it lost next to
 * nothing. What is lost in the round trip after was under way already. */
static void judge_near(struct sv_quic_conn *conn, uint64_t now)
{
    struct sv_quic_near *near = &conn->near;
    uint64_t lost = conn->link.datagrams_lost - near->lost;
    uint64_t all = conn->link.datagrams_acked - near->acked + lost;
    ngtcp2_conn_info info;

    if (now < near->judge_at || all < NEAR_JUDGED) {
        return;
    }
    ngtcp2_conn_get_conn_info2(conn->quic, &info);
    if (lost > all / 8 && !near->spared) {
        near->bound = conn->datagrams_in_flight / all * (all - lost);
        near->bound = near->bound > NEAR_TIGHT ? near->bound : NEAR_TIGHT;
    } else if (near->bound && lost <= all / 64) {
        near->bound += near->bound / 8;
        near->bound = near->bound < near_window(&info) ? near->bound : 0;
    }
    near->spared = lost > all / 8 && !near->spared;
    near->lost = conn->link.datagrams_lost;
    near->acked = conn->link.datagrams_acked;
    near->judge_at = now + (info.smoothed_rtt > NEAR_RTT ? info.smoothed_rtt : NEAR_RTT);
}

/* Where nothing paces, and the flows inside are what bounds the speed, BBR's window grows without end: then all they have in flight stands in the
 * receiver's socket, in front of every small packet; or is lost on a path that is near but slow, whatever it is, since BBR learns nothing from that where it
 * is not what bounds. So what is in flight ends here, and the rest waits in the link's queues, by class. */
static bool has_near_room(struct sv_quic_conn *conn)
{
    ngtcp2_conn_info info;
    uint64_t window;

    if (conn->pacing != SV_QUIC_PACING_OFF) {
        return true;
    }
    judge_near(conn, conn->side->loop->now);
    if (conn->near.bound && conn->datagrams_in_flight >= conn->near.bound) {
        return false;
    }
    if (conn->datagrams_in_flight < NEAR_LEAST) {
        return true;
    }
    ngtcp2_conn_get_conn_info2(conn->quic, &info);
    window = near_window(&info);
    return conn->datagrams_in_flight < window || info.bytes_in_flight < window;
}

static void took(struct sv_quic_conn *conn, size_t n)
{
    conn->burst += n;
    take(conn->side, n);
    if (is_burst(conn) && is_paced(conn)) {
        ngtcp2_conn_update_pkt_tx_time(conn->quic, tx_of(conn)->now);
        conn->burst = 0;
    }
}

/* Closes the packet that was begun. */
static void finish_packet(struct sv_quic_conn *conn)
{
    struct sv_quic_tx *tx = tx_of(conn);
    ngtcp2_ssize n;

    if (!tx->begun) {
        return;
    }
    tx->begun = false;
    n = ngtcp2_conn_writev_stream(conn->quic, &tx->next.path, &tx->info, tx->bytes + tx->len,
                                  sv_quic_hole_payload(&conn->hole), NULL, NGTCP2_WRITE_STREAM_FLAG_NONE, -1,
                                  NULL, 0, tx->now);
    if (n > 0) {
        took(conn, (size_t)n);
    } else if (n < 0) {
        sv_quic_conn_fail_by(conn, (int)n);
    }
}

static void end_burst(struct sv_quic_side *side)
{
    struct sv_quic_tx *tx = &side->tx;
    struct sv_quic_conn *owner = tx->owner;

    if (owner) {
        finish_packet(owner);
        if (!tx->stuck) {
            send_batch(side);
        }
        tx->owner = NULL;
    }
}

/* The connection may write behind the batch. false: the socket is full. A burst ends with its turn at the latest. */
static bool begin(struct sv_quic_conn *conn)
{
    struct sv_quic_tx *tx = tx_of(conn);

    if (tx->owner != conn || tx->turn != conn->side->loop->now) {
        end_burst(conn->side);
        if (!tx->stuck) {
            tx->owner = conn;
            tx->turn = conn->side->loop->now;
            tx->now = sv_quic_side_now(conn->side);
        }
    }
    return !tx->stuck;
}

void sv_quic_settle(struct sv_quic_conn *conn)
{
    if (tx_of(conn)->owner == conn) {
        end_burst(conn->side);
    }
}

void sv_quic_send_forget(struct sv_quic_conn *conn)
{
    struct sv_quic_tx *tx = tx_of(conn);

    if (tx->owner == conn) {
        tx->owner = NULL;
        tx->begun = false;
        if (!tx->stuck) {
            empty(tx);
        }
    }
}

/* ---- the stream ---- */

/* What the next packet may carry of it; *stream is -1 when nothing. */
static size_t stream_pieces(struct sv_quic_conn *conn, ngtcp2_vec *pieces, size_t *len, int64_t *stream,
                            uint32_t *flags)
{
    size_t count = sv_quic_backlog_unsent(&conn->backlog, pieces, PIECES, len);
    bool last = conn->fin_wanted && !conn->fin_sent && *len == conn->backlog.unsent;

    *flags = last ? NGTCP2_WRITE_STREAM_FLAG_FIN : NGTCP2_WRITE_STREAM_FLAG_NONE;
    *stream = conn->stream >= 0 && !conn->stream_blocked && (count || last) ? conn->stream : -1;
    return *stream >= 0 ? count : 0;
}

static void stream_went(struct sv_quic_conn *conn, size_t went, size_t len, uint32_t flags)
{
    if (!sv_quic_backlog_owed(&conn->backlog)) {
        sv_quic_hole_on_stream(&conn->hole, conn->side->now);
    }
    sv_quic_backlog_sent(&conn->backlog, went);
    if ((flags & NGTCP2_WRITE_STREAM_FLAG_FIN) && went == len) {
        conn->fin_sent = true;
    }
}

/* false: nothing more can be written now. */
static bool write_packet(struct sv_quic_conn *conn)
{
    struct sv_quic_tx *tx = tx_of(conn);
    ngtcp2_vec pieces[PIECES];
    ngtcp2_ssize n, went = -1;
    size_t len;
    int64_t stream;
    uint32_t flags;
    size_t count = stream_pieces(conn, pieces, &len, &stream, &flags);

    n = ngtcp2_conn_writev_stream(conn->quic, &tx->next.path, &tx->info, tx->bytes + tx->len,
                                  sv_quic_hole_payload(&conn->hole), &went, flags, stream, pieces, count,
                                  tx->now);
    if (went >= 0) {
        stream_went(conn, (size_t)went, len, flags);
    }
    if (n == NGTCP2_ERR_STREAM_DATA_BLOCKED || n == NGTCP2_ERR_STREAM_SHUT_WR ||
        n == NGTCP2_ERR_STREAM_NOT_FOUND) {
        conn->stream_blocked = true; /* other frames may still go */
        return true;
    }
    if (n < 0) {
        sv_quic_conn_fail_by(conn, (int)n);
    } else if (n > 0) {
        took(conn, (size_t)n);
    }
    return n > 0;
}

static bool can_write(const struct sv_quic_conn *conn)
{
    return conn->quic && conn->state != SV_QUIC_CLOSED && !conn->inside;
}

void sv_quic_write(struct sv_quic_conn *conn)
{
    unsigned writes = 0;

    if (!can_write(conn)) {
        return;
    }
    if (begin(conn)) {
        finish_packet(conn);
        while (can_write(conn) && !tx_of(conn)->stuck && writes < WRITES_PER_TURN && write_packet(conn)) {
            writes++;
        }
    }
    if (can_write(conn) && (tx_of(conn)->stuck || writes == WRITES_PER_TURN)) {
        sv_quic_conn_queue(conn); /* goes on in the next turn, or when the socket has room */
    }
}

/* ---- datagrams ---- */

int sv_quic_write_datagram(struct sv_quic_conn *conn, const uint8_t *bytes, size_t len)
{
    struct sv_quic_tx *tx = tx_of(conn);
    ngtcp2_vec piece = {.base = (uint8_t *)(uintptr_t)bytes, .len = len};
    ngtcp2_ssize n = 1;
    int accepted = 0;

    if (!has_near_room(conn)) {
        conn->near_full = true;
        return SV_E_AGAIN;
    }
    /* A packet that has no room for it is closed, and it goes into the next. */
    while (!accepted && n > 0) {
        if (!can_write(conn) || !begin(conn)) {
            return conn->state == SV_QUIC_CLOSED ? SV_E_CLOSED : SV_E_AGAIN;
        }
        n = ngtcp2_conn_writev_datagram(conn->quic, &tx->next.path, &tx->info, tx->bytes + tx->len,
                                        sv_quic_hole_payload(&conn->hole), &accepted,
                                        NGTCP2_WRITE_DATAGRAM_FLAG_MORE, len, &piece, 1, tx->now);
        tx->begun = n == NGTCP2_ERR_WRITE_MORE;
        if (n > 0) {
            took(conn, (size_t)n);
        }
    }
    if (n < 0 && n != NGTCP2_ERR_WRITE_MORE) {
        sv_quic_conn_fail_by(conn, (int)n);
        return SV_E_CLOSED;
    }
    conn->datagrams_in_flight += accepted ? len : 0;
    return accepted ? 0 : SV_E_AGAIN;
}

/* ---- the end ---- */

/* ngtcp2 writes it once: nothing that waits may keep it from the socket afterwards. */
static bool begin_alone(struct sv_quic_conn *conn)
{
    struct sv_quic_tx *tx = tx_of(conn);

    if (!begin(conn)) {
        return false;
    }
    tx->begun = false;
    send_batch(conn->side);
    if (tx->stuck) {
        tx->owner = NULL;
    }
    return !tx->stuck;
}

bool sv_quic_write_close(struct sv_quic_conn *conn, const ngtcp2_ccerr *ccerr)
{
    struct sv_quic_tx *tx = tx_of(conn);
    ngtcp2_ssize n;

    if (!begin_alone(conn)) {
        return false;
    }
    n = ngtcp2_conn_write_connection_close(conn->quic, &tx->next.path, &tx->info, tx->bytes + tx->len,
                                           sv_quic_hole_payload(&conn->hole), ccerr, tx->now);
    if (n > 0) {
        take(conn->side, (size_t)n);
    }
    if (!tx->stuck) {
        send_batch(conn->side);
    }
    tx->owner = NULL;
    return !tx->stuck;
}
