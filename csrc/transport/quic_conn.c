#include "transport/quic_conn.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "crypto/keys.h"
#include "io/socket.h"

enum {
    STREAM_WINDOW = 64 * 1024, /* what a stranger can make us keep; it grows with what is read */
    STREAM_WINDOW_MAX = 8 << 20,
    UNSENT_LOW = SV_LINK_CREDIT / 2,
    UNACKED_MAX = 16 << 20, /* bytes of one link, whatever window its peer offers */
    WRITE_AT_ONCE = 32 * 1024,
    DATAGRAM_FRAME_MAX = 65535,
    FRAME_HEADER = 3, /* of a datagram */
    IDS_MAX = 8,
};

static const uint64_t CLOSE_WITHIN = SV_NS_PER_S;
static const uint64_t STALLED_AFTER = 30 * SV_NS_PER_S; /* as TCP's user timeout */
/* Probes of the path's MTU in the order of trial: Ethernet by IPv4 and IPv6, then what tunnels and mobile networks leave. */
static const uint16_t probes[] = {1472, 1452, 1400, 1340, 1252};
static const uint32_t versions[] = {NGTCP2_PROTO_VER_V1};

static struct sv_quic_conn *conn_of(struct sv_link *link)
{
    return (struct sv_quic_conn *)link;
}

/* ---- time ---- */

uint64_t sv_quic_side_now(struct sv_quic_side *side)
{
    uint64_t now = sv_clock_now();

    side->now = now > side->now ? now : side->now;
    return side->now;
}

/* A deadline that moves away leaves the timer as it is: it finds nothing due then, which is cheaper than a system call each time. */
static void arm(struct sv_quic_side *side)
{
    uint64_t next = sv_heap_next(&side->deadlines);

    if (next < side->armed_at) {
        side->armed_at = next;
        sv_timer_set(side->timer, next);
    }
}

/* A peer that is alive and yet takes nothing of the stream: it offers no window, or acknowledges all but that. */
static uint64_t stalled_at(const struct sv_quic_conn *conn)
{
    return conn->backlog.held ? conn->progress_at + STALLED_AFTER : SV_NEVER;
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Nothing of ngtcp2's can be done in time while the socket is full: it is looked at when there is room. The link's own limits hold. */
void sv_quic_conn_arm(struct sv_quic_conn *conn)
{
    uint64_t at = sooner(conn->give_up_at, stalled_at(conn));

    if (conn->state == SV_QUIC_CLOSED) {
        at = conn->close_due ? conn->give_up_at : 0;
    } else if (conn->quic && !conn->side->tx.stuck) {
        at = sooner(at, ngtcp2_conn_get_expiry2(conn->quic));
    }
    if (conn->quic && conn->side->tx.stuck) {
        sv_quic_conn_queue(conn);
    }
    sv_heap_set(&conn->side->deadlines, &conn->deadline, at);
    arm(conn->side);
}

/* ---- operations ---- */

static void note_sent(struct sv_quic_conn *conn)
{
    if (!conn->link.unacked_since) {
        conn->link.unacked_since = conn->side->loop->now;
    }
}

static int op_send(struct sv_link *link, uint8_t *bytes, size_t len)
{
    struct sv_quic_conn *conn = conn_of(link);

    if (conn->state != SV_QUIC_OPEN || conn->close_wanted) {
        return SV_E_CLOSED;
    }
    if (!conn->backlog.held) {
        conn->progress_at = conn->side->loop->now;
    }
    note_sent(conn);
    if (sv_quic_backlog_append(&conn->backlog, &conn->side->blocks, bytes, len)) {
        sv_quic_conn_end(conn, SV_E_NOMEM, "out of memory");
        return SV_E_CLOSED;
    }
    if (conn->backlog.unsent >= WRITE_AT_ONCE) {
        sv_quic_write(conn);
    }
    link->blocked |= conn->backlog.unsent >= SV_LINK_CREDIT || conn->backlog.held >= UNACKED_MAX;
    return conn->state == SV_QUIC_OPEN ? 0 : SV_E_CLOSED;
}

static int op_send_datagram(struct sv_link *link, const uint8_t *bytes, size_t len)
{
    struct sv_quic_conn *conn = conn_of(link);
    int error;

    if (conn->state != SV_QUIC_OPEN || conn->close_wanted) {
        return SV_E_CLOSED;
    }
    if (len > link->datagram_max || !len) {
        return SV_E_INVALID;
    }
    error = sv_quic_write_datagram(conn, bytes, len);
    if (!error) {
        note_sent(conn);
    } else if (error == SV_E_AGAIN) {
        link->datagrams_blocked = true;
        if (conn->inside || conn->side->tx.stuck) {
            sv_quic_conn_queue(conn);
        }
    }
    return error;
}

static bool has_stream_bytes(const struct sv_quic_conn *conn)
{
    return conn->backlog.unsent || conn->fin_wanted != conn->fin_sent;
}

static void op_flush(struct sv_link *link)
{
    struct sv_quic_conn *conn = conn_of(link);

    if (conn->state == SV_QUIC_CLOSED || conn->inside || !conn->quic) {
        return;
    }
    if (has_stream_bytes(conn)) {
        conn->stream_blocked = false;
        sv_quic_write(conn);
    }
    sv_quic_settle(conn);
    sv_quic_conn_arm(conn);
}

static void begin_ending(struct sv_quic_conn *conn)
{
    conn->state = SV_QUIC_ENDING;
    conn->fin_wanted = true;
    conn->give_up_at = sv_quic_side_now(conn->side) + CLOSE_WITHIN;
    sv_quic_conn_queue(conn);
    sv_quic_conn_arm(conn);
}

static void op_close(struct sv_link *link, enum sv_link_close how)
{
    struct sv_quic_conn *conn = conn_of(link);

    if (conn->state == SV_QUIC_CLOSED || (conn->close_wanted && conn->inside)) {
        return;
    }
    if (conn->inside) {
        conn->close_wanted = true;
        conn->close_how = how;
    } else if (conn->state == SV_QUIC_OPEN && how == SV_CLOSE_GRACEFUL) {
        begin_ending(conn);
        op_flush(link);
    } else if (conn->state != SV_QUIC_ENDING || how == SV_CLOSE_SILENT) {
        sv_quic_conn_close(conn, 0, "");
    }
}

static void op_measure(struct sv_link *link)
{
    const struct sv_quic_conn *conn = conn_of(link);
    ngtcp2_conn_info info;

    if (conn->state == SV_QUIC_OPEN) {
        ngtcp2_conn_get_conn_info2(conn->quic, &info);
        link->srtt_ns = info.smoothed_rtt;
        link->min_rtt_ns = info.min_rtt == UINT64_MAX ? 0 : info.min_rtt;
    }
}

static const struct sv_link_ops ops = {
    .send = op_send,
    .close = op_close,
    .send_datagram = op_send_datagram,
    .flush = op_flush,
    .measure = op_measure,
};

/* ---- after reading ---- */

static void learn_remote(struct sv_quic_conn *conn)
{
    const ngtcp2_addr *remote = &ngtcp2_conn_get_path2(conn->quic)->remote;
    struct sockaddr_storage addr = {0};

    memcpy(&addr, remote->addr, remote->addrlen);
    sv_sockaddr_split(&addr, conn->link.remote, &conn->link.remote_port);
    memcpy(conn->link.path_remote, conn->link.remote, 16);
}

/* 0: the peer takes no datagrams. */
static size_t datagram_max(const struct sv_quic_conn *conn, size_t payload)
{
    const ngtcp2_transport_params *theirs = ngtcp2_conn_get_remote_transport_params2(conn->quic);
    uint64_t frame = theirs ? theirs->max_datagram_frame_size : 0;
    size_t fits = payload - SV_QUIC_OVERHEAD;

    if (frame <= FRAME_HEADER) {
        return 0;
    }
    return frame - FRAME_HEADER < fits ? (size_t)frame - FRAME_HEADER : fits;
}

void sv_quic_conn_learn_path(struct sv_quic_conn *conn)
{
    bool v4 = ngtcp2_conn_get_path2(conn->quic)->remote.addr->sa_family == AF_INET;
    size_t known = ngtcp2_conn_get_path_max_tx_udp_payload_size2(conn->quic);
    size_t most_now = sv_quic_hole_payload(&conn->hole), payload = known < most_now ? known : most_now;
    uint16_t path_mtu = (uint16_t)(payload + (v4 ? 28 : 48));
    uint16_t most = (uint16_t)datagram_max(conn, payload);

    learn_remote(conn);
    if (path_mtu == conn->link.path_mtu && most == conn->link.datagram_max) {
        return;
    }
    if (path_mtu < conn->link.path_mtu) {
        conn->link.path_since = conn->side->now; /* a new one, whose MTU is looked for anew */
    }
    conn->link.path_mtu = path_mtu;
    conn->link.datagram_max = most;
    if (conn->state == SV_QUIC_OPEN && conn->link.sink->on_path_mtu) {
        conn->link.sink->on_path_mtu(&conn->link);
    }
}

/* Whether a packet is the peer's shows only by its having been counted. */
static uint64_t packets_taken(const struct sv_quic_conn *conn)
{
    ngtcp2_conn_info info;

    ngtcp2_conn_get_conn_info2(conn->quic, &info);
    return info.pkt_recv;
}

static void obey_close(struct sv_quic_conn *conn)
{
    conn->close_wanted = false;
    op_close(&conn->link, conn->close_how);
}

static void after_reading(struct sv_quic_conn *conn, int result)
{
    if (result) {
        sv_quic_conn_fail_by(conn, result);
    } else if (conn->fault) {
        sv_quic_conn_close(conn, conn->fault, conn->fault_why);
    } else if (conn->path_refused) {
        sv_quic_conn_close(conn, SV_E_REFUSED, "its new address is not allowed");
    } else if (conn->fin_received) {
        sv_quic_conn_close(conn, 0, "the other side closed the connection");
    } else if (conn->close_wanted) {
        obey_close(conn);
    }
}

static int read_from_elsewhere(struct sv_quic_conn *conn, const ngtcp2_path *path, const uint8_t *bytes,
                               size_t len)
{
    uint64_t before = packets_taken(conn);
    int result;

    conn->coming_from = path;
    result = ngtcp2_conn_read_pkt(conn->quic, path, NULL, bytes, len, conn->side->now);
    if (packets_taken(conn) != before) {
        sv_quic_allows_path(conn);
    }
    conn->coming_from = NULL;
    return result;
}

void sv_quic_conn_read(struct sv_quic_conn *conn, const ngtcp2_path *path, const uint8_t *bytes, size_t len)
{
    bool elsewhere;
    int result;

    if (conn->state == SV_QUIC_CLOSED) {
        return;
    }
    sv_quic_settle(conn);
    elsewhere = conn->side->server && !ngtcp2_path_eq(path, ngtcp2_conn_get_path2(conn->quic));
    conn->inside = true;
    result = elsewhere ? read_from_elsewhere(conn, path, bytes, len)
                       : ngtcp2_conn_read_pkt(conn->quic, path, NULL, bytes, len, conn->side->now);
    conn->inside = false;
    after_reading(conn, result);
    if (conn->state != SV_QUIC_CLOSED) {
        sv_quic_conn_queue(conn);
    }
}

/* ---- turns of work ---- */

void sv_quic_conn_queue(struct sv_quic_conn *conn)
{
    if (!conn->queued) {
        conn->queued = true;
        conn->next_work = conn->side->work;
        conn->side->work = conn;
    }
}

/* Whether a datagram goes out now only trying tells; the try also acknowledges what came. */
static void tell_writable(struct sv_quic_conn *conn)
{
    struct sv_link *link = &conn->link;
    bool tell = link->datagrams_blocked;

    conn->near_full = false;
    link->datagrams_blocked = false;
    if (link->blocked && conn->backlog.unsent <= UNSENT_LOW && conn->backlog.held < UNACKED_MAX) {
        link->blocked = false;
        tell = true;
    }
    if (tell && conn->state == SV_QUIC_OPEN) {
        link->sink->on_writable(link);
    }
}

/* Stream bytes and datagrams that both wait for the window get it by turns. ngtcp2 takes a write without either for a sign that the application has no
 * more to send, and BBR would stop looking for more bandwidth: so there is none while datagrams wait. */
static void write_all(struct sv_quic_conn *conn)
{
    conn->stream_blocked = false;
    conn->datagrams_first = conn->link.datagrams_blocked && !conn->datagrams_first;
    if (has_stream_bytes(conn) && !conn->datagrams_first) {
        sv_quic_write(conn);
    }
    if (conn->state == SV_QUIC_OPEN) {
        tell_writable(conn);
    }
    if (!conn->link.datagrams_blocked || conn->near_full || has_stream_bytes(conn)) {
        sv_quic_write(conn);
    }
}

static void work_one(struct sv_quic_conn *conn)
{
    if (conn->close_due) {
        sv_quic_conn_say_last_word(conn);
        return;
    }
    if (conn->state == SV_QUIC_CLOSED || !conn->quic) {
        return;
    }
    if (conn->side->tx.stuck) {
        sv_quic_conn_arm(conn);
        return;
    }
    sv_quic_conn_learn_path(conn);
    write_all(conn);
    if (conn->state != SV_QUIC_CLOSED) {
        sv_quic_settle(conn);
        sv_quic_conn_arm(conn);
        if (conn->side->ops->on_worked) {
            conn->side->ops->on_worked(conn);
        }
    }
}

void sv_quic_side_work(struct sv_quic_side *side)
{
    struct sv_quic_conn *list = side->work;

    side->work = NULL;
    while (list) {
        struct sv_quic_conn *conn = list;

        list = conn->next_work;
        conn->queued = false;
        work_one(conn);
    }
    if (side->work && !side->tx.stuck) {
        side->armed_at = 0; /* what was queued while we worked waits for the next turn */
        sv_timer_set(side->timer, 0);
    }
}

void sv_quic_side_writable(struct sv_quic_side *side)
{
    struct sv_quic_tx *tx = &side->tx;
    int error = side->ops->send(side, &tx->path.path, tx->bytes, tx->len, tx->segment);

    if (error == SV_E_AGAIN) {
        side->ops->await_writable(side, &tx->path.path);
        return;
    }
    tx->stuck = false;
    tx->len = tx->count = 0;
    tx->full = false;
    sv_quic_side_work(side);
}

static void on_time(struct sv_quic_conn *conn)
{
    int result = 0;

    if (conn->give_up_at <= conn->side->now) {
        sv_quic_conn_close(conn, conn->state == SV_QUIC_OPENING ? SV_E_TIMEOUT : 0,
                           conn->state == SV_QUIC_OPENING ? "no connection in time" : "");
        return;
    }
    if (stalled_at(conn) <= conn->side->now) {
        sv_quic_conn_close(conn, SV_E_TIMEOUT, "the other side took nothing for 30 s");
        return;
    }
    if (conn->quic) {
        sv_quic_settle(conn);
        conn->inside = true;
        result = ngtcp2_conn_handle_expiry(conn->quic, conn->side->now);
        conn->inside = false;
    }
    after_reading(conn, result);
    sv_quic_conn_queue(conn);
}

static void on_timer(void *ctx)
{
    struct sv_quic_side *side = ctx;
    uint64_t now = sv_quic_side_now(side);
    struct sv_deadline *due;

    side->armed_at = SV_NEVER;
    while ((due = sv_heap_pop(&side->deadlines, now))) {
        struct sv_quic_conn *conn = SV_CONTAINER_OF(due, struct sv_quic_conn, deadline);

        if (conn->state != SV_QUIC_CLOSED) {
            on_time(conn);
        } else if (side->server) {
            sv_quic_conn_finish(conn);
        } else {
            sv_quic_conn_finish(conn); /* the side is gone with it */
            return;
        }
    }
    sv_quic_side_work(side);
    arm(side);
}

/* ---- making and freeing ---- */

int sv_quic_side_init(struct sv_quic_side *side, struct sv_loop *loop,
                      const struct sv_quic_side_ops *side_ops)
{
    side->ops = side_ops;
    side->loop = loop;
    side->armed_at = SV_NEVER;
    sv_heap_init(&side->deadlines);
    ngtcp2_path_storage_zero(&side->tx.path);
    ngtcp2_path_storage_zero(&side->tx.next);
    side->timer = sv_timer_new(loop, on_timer, side);
    side->tx.bytes = malloc(SV_UDP_PAYLOAD_MAX + SV_QUIC_PAYLOAD_MAX);
    return side->timer && side->tx.bytes ? 0 : SV_E_NOMEM;
}

void sv_quic_side_clear(struct sv_quic_side *side)
{
    if (side->timer) {
        sv_timer_close(side->timer);
    }
    sv_heap_clear(&side->deadlines);
    sv_quic_blocks_clear(&side->blocks);
    sv_quic_tls_clear(&side->tls);
    free(side->tx.bytes);
}

void sv_quic_settings(ngtcp2_settings *settings, uint64_t now)
{
    ngtcp2_settings_default(settings);
    settings->cc_algo = NGTCP2_CC_ALGO_BBR;
    settings->initial_ts = now;
    settings->max_tx_udp_payload_size = SV_QUIC_PAYLOAD_MAX;
    settings->pmtud_probes = probes;
    settings->pmtud_probeslen = sizeof probes / sizeof *probes;
    settings->max_window = settings->max_stream_window = STREAM_WINDOW_MAX;
    settings->preferred_versions = settings->available_versions = versions;
    settings->preferred_versionslen = settings->available_versionslen = 1;
}

void sv_quic_params(ngtcp2_transport_params *params, bool server, uint64_t idle_timeout)
{
    ngtcp2_transport_params_default(params);
    params->initial_max_data = STREAM_WINDOW;
    params->initial_max_stream_data_bidi_local = server ? 0 : STREAM_WINDOW;
    params->initial_max_stream_data_bidi_remote = server ? STREAM_WINDOW : 0;
    params->initial_max_streams_bidi = server;
    params->max_idle_timeout = idle_timeout;
    params->max_datagram_frame_size = DATAGRAM_FRAME_MAX;
    params->active_connection_id_limit = IDS_MAX;
}

static ngtcp2_conn *get_quic(ngtcp2_crypto_conn_ref *ref)
{
    return ((struct sv_quic_conn *)ref->user_data)->quic;
}

void sv_quic_conn_init(struct sv_quic_conn *conn, struct sv_quic_side *side, const struct sv_link_sink *sink,
                       void *owner)
{
    *conn = (struct sv_quic_conn){
        .link = {.ops = &ops,
                 .sink = sink,
                 .owner = owner,
                 .kind = SV_TRANSPORT_QUIC,
                 .encrypted = true,
                 .opened_at = sv_quic_side_now(side),
                 .path_since = side->now},
        .side = side,
        .give_up_at = SV_NEVER,
        .stream = -1,
    };
    conn->ref = (ngtcp2_crypto_conn_ref){.get_conn = get_quic, .user_data = conn};
}

int sv_quic_conn_start(struct sv_quic_conn *conn, const char *host)
{
    int error = sv_quic_tls_open(&conn->session, &conn->side->tls, &conn->ref, conn->side->server, host);

    if (!error) {
        ngtcp2_conn_set_tls_native_handle(conn->quic, conn->session);
        learn_remote(conn);
    }
    return error;
}

void sv_quic_conn_clear(struct sv_quic_conn *conn)
{
    struct sv_quic_conn **at = &conn->side->work;

    sv_quic_send_forget(conn);
    while (conn->queued && *at) {
        if (*at == conn) {
            *at = conn->next_work;
            break;
        }
        at = &(*at)->next_work;
    }
    sv_heap_remove(&conn->side->deadlines, &conn->deadline);
    if (conn->quic) {
        ngtcp2_conn_del(conn->quic);
    }
    if (conn->session) {
        gnutls_deinit(conn->session);
    }
    sv_quic_backlog_clear(&conn->backlog, &conn->side->blocks);
}
