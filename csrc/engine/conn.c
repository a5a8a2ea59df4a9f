/* A connection: what ties a link, its session and its queues together. */
#include "engine/core.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "engine/limit.h"

struct sv_conn *sv_conn_new(struct sv_worker *worker, struct sv_link *link)
{
    struct sv_conn *conn = calloc(1, sizeof *conn);

    if (!conn) {
        return NULL;
    }
    conn->worker = worker;
    conn->link = link;
    conn->drain_at = SV_NEVER;
    sv_frame_reader_init(&conn->reader);
    memcpy(conn->remote, link->remote, sizeof conn->remote);
    conn->remote_port = link->remote_port;
    conn->transport = (uint8_t)link->kind;
    if (link->ops->send_datagram && sv_cut_new(conn)) {
        free(conn);
        return NULL;
    }
    pthread_mutex_lock(&worker->conns_lock);
    conn->next = worker->conns;
    if (conn->next) {
        conn->next->prev = conn;
    }
    worker->conns = conn;
    pthread_mutex_unlock(&worker->conns_lock);
    link->owner = conn;
    link->sink = &sv_conn_sink;
    return conn;
}

static void add_traffic(struct sv_traffic *sum, const struct sv_traffic *part)
{
    sv_counter *to = (sv_counter *)sum;
    const sv_counter *from = (const sv_counter *)part;

    for (size_t i = 0; i < sizeof *sum / sizeof *to; i++) {
        sv_count(&to[i], sv_counted(&from[i]));
    }
}

static void unlink_conn(struct sv_conn *conn)
{
    struct sv_worker *worker = conn->worker;

    pthread_mutex_lock(&worker->conns_lock);
    *(conn->prev ? &conn->prev->next : &worker->conns) = conn->next;
    if (conn->next) {
        conn->next->prev = conn->prev;
    }
    add_traffic(&worker->traffic, &conn->traffic);
    pthread_mutex_unlock(&worker->conns_lock);
    sv_worker_unmark_dirty(conn);
    sv_heap_remove(&worker->deadlines, &conn->deadline);
}

/* Everything that only its worker knows goes at once; the struct itself after a grace period, since other workers may be looking at it. */
static void conn_free(struct sv_conn *conn)
{
    conn->closing = true;
    unlink_conn(conn);
    sv_buf_put(conn->tx);
    sv_cut_free(conn->cut);
    sv_queue_free(conn->queue);
    sv_queue_free(conn->up_queue);
    sv_keep_clear(&conn->keep);
    sv_frame_reader_clear(&conn->reader);
    sv_session_clear(&conn->session);
    if (conn->worker->engine->server) {
        sv_hub_free_later(conn->worker->engine, conn);
    } else {
        free(conn);
    }
}

static void close_link(struct sv_conn *conn, enum sv_link_close how)
{
    if (!conn->closing) {
        conn->closing = true;
        if (conn->link) {
            conn->link->ops->close(conn->link, how);
        }
    }
}

void sv_conn_abort(struct sv_conn *conn)
{
    close_link(conn, SV_CLOSE_SILENT);
}

void sv_conn_end(struct sv_conn *conn)
{
    close_link(conn, SV_CLOSE_GRACEFUL);
}

/* Counters and quality as the session has them, for other threads. */
void sv_conn_publish(struct sv_conn *conn)
{
    const struct sv_session *session = &conn->session;
    const struct sv_quality *quality = &session->quality;
    struct sv_published *to = &conn->published;

    sv_set(&conn->traffic.keepalives_in,
           session->counters.keepalives_received + session->counters.acks_received);
    sv_set(&conn->traffic.keepalives_out, session->counters.keepalives_sent);
    sv_set(&to->last_received, session->last_received);
    sv_set(&to->last_keepalive, session->last_keepalive);
    sv_set(&to->srtt_ns, quality->srtt_ns);
    sv_set(&to->jitter_ns, quality->jitter_ns);
    sv_set(&to->min_rtt_ns, quality->min_rtt_ns);
    sv_set(&to->max_rtt_ns, quality->max_rtt_ns);
    sv_set(&to->loss_ppm, session->server ? session->peer_loss * UINT64_C(1000000) / 65535
                                          : (uint64_t)(sv_quality_loss(quality) * 1e6));
    sv_set(&to->timeouts, quality->timeouts_in_a_row);
    sv_set(&to->health, quality->health);
    sv_set(&to->interval_secs,
           session->server ? session->peer_interval_secs : sv_quality_interval_secs(quality));
    sv_set(&to->measured, quality->srtt_ns != 0);
    if (!conn->worker->engine->server) {
        sv_dialer_publish(conn);
    } else if (conn->link && (conn->remote_port != conn->link->remote_port ||
                              memcmp(conn->remote, conn->link->remote, sizeof conn->remote) != 0)) {
        sv_hub_note_remote(conn);
    }
}

void sv_conn_disconnect(struct sv_conn *conn, unsigned code)
{
    conn->ended_code = (uint8_t)code;
    conn->ended_by_disconnect = true;
    sv_session_disconnect(&conn->session, code, NULL);
    sv_worker_mark_dirty(conn);
}

/* A Disconnect that was sealed is the last word; a session that could not say it ends silently. */
static bool finish_closing(struct sv_conn *conn)
{
    enum sv_session_state state = conn->session.state;

    if (state != SV_SESSION_CLOSING && state != SV_SESSION_CLOSED) {
        return false;
    }
    if (!sv_session_wants_flush(&conn->session)) {
        close_link(conn, SV_CLOSE_GRACEFUL);
    }
    return true;
}

static void flush_session(struct sv_conn *conn)
{
    struct sv_buf *tx;
    size_t n;

    if (!sv_session_wants_flush(&conn->session) || !sv_outbound_room(conn, SV_SESSION_FLUSH_MAX)) {
        return;
    }
    tx = conn->tx;
    n = sv_session_flush(&conn->session, conn->worker->loop.now, tx->end, SV_SESSION_FLUSH_MAX);
    tx->end += n;
}

/* Once a second, and whenever a keepalive brought news. */
static void publish_news(struct sv_conn *conn)
{
    const struct sv_session_counters *counters = &conn->session.counters;
    uint64_t beats = counters->keepalives_sent + counters->keepalives_received + counters->acks_received;
    uint64_t now = conn->worker->loop.now;

    if (beats != conn->published_beats || now - conn->published_at >= SV_NS_PER_S) {
        conn->published_beats = beats;
        conn->published_at = now;
        sv_keep_answered(&conn->keep, conn->session.last_received);
        sv_conn_publish(conn);
        if (!conn->worker->engine->server) {
            sv_dialer_on_beat(conn);
        }
    }
}

/* When a client's link that acknowledges what it gets has not done so for too long, though other things may come from the peer. */
static uint64_t doubt_at(const struct sv_conn *conn)
{
    uint64_t since = conn->link && !conn->worker->engine->server ? conn->link->unacked_since : 0;
    uint64_t patience;

    if (!since || conn->session.suspect) {
        return SV_NEVER;
    }
    patience = sv_session_patience(&conn->session);
    return since + patience + (conn->asked_for == since ? patience / 2 : 0);
}

/* What is lost on its own, or a peer that stands still for a moment, is no dead link: it is asked first. */
static void doubt(struct sv_conn *conn)
{
    if (conn->asked_for != conn->link->unacked_since) {
        conn->asked_for = conn->link->unacked_since;
        sv_session_probe(&conn->session, conn->worker->loop.now);
        sv_worker_mark_dirty(conn);
        return;
    }
    conn->link->unacked_since = conn->worker->loop.now;
    sv_session_doubt(&conn->session);
    sv_dialer_on_suspect(conn);
}

size_t sv_conn_flush(struct sv_conn *conn)
{
    size_t drained;
    bool last_word; /* a Disconnect goes out though the link is blocked */

    if (conn->closing || !conn->link) {
        return 0;
    }
    last_word = conn->session.state == SV_SESSION_CLOSING;
    if (!conn->link->blocked || last_word) {
        flush_session(conn);
    }
    drained = sv_outbound_drain(conn);
    if (!conn->link->blocked || last_word) {
        sv_outbound_send(conn);
    }
    if (conn->link->ops->flush) {
        conn->link->ops->flush(conn->link);
    }
    if (!finish_closing(conn)) {
        publish_news(conn);
        sv_worker_wake_at(conn, sv_session_deadline(&conn->session));
        sv_worker_wake_at(conn, doubt_at(conn));
        sv_worker_wake_at(conn, conn->drain_at);
    }
    return drained;
}

void sv_conn_drain_at(struct sv_conn *conn, uint64_t at)
{
    conn->drain_at = at < conn->drain_at ? at : conn->drain_at;
    sv_worker_wake_at(conn, conn->drain_at);
}

static void on_session_timer(struct sv_conn *conn)
{
    enum sv_session_event event = sv_session_on_timer(&conn->session, conn->worker->loop.now);

    switch (event) {
    case SV_SESSION_ON_DEAD:
        sv_conn_abort(conn);
        break;
    case SV_SESSION_ON_SUSPECT:
        sv_dialer_on_suspect(conn);
        break;
    case SV_SESSION_ON_OFFENCE:
        conn->ended_code = conn->session.disconnect_code;
        conn->ended_by_disconnect = true;
        break;
    default:
        break;
    }
    sv_worker_mark_dirty(conn);
}

void sv_conn_on_deadline(struct sv_conn *conn)
{
    uint64_t now = conn->worker->loop.now;

    if (conn->closing) {
        return;
    }
    if (sv_session_deadline(&conn->session) <= now) {
        on_session_timer(conn);
    }
    if (doubt_at(conn) <= now) {
        doubt(conn);
    }
    if (conn->drain_at <= now) {
        conn->drain_at = SV_NEVER;
        sv_inbound_drain(conn);
        sv_worker_mark_dirty(conn);
    }
    sv_worker_wake_at(conn, sv_session_deadline(&conn->session));
    sv_worker_wake_at(conn, doubt_at(conn));
    sv_worker_wake_at(conn, conn->drain_at);
}

/* Of a connection that the listener took in: the session begins when the link carries frames. */
static void on_accepted(struct sv_link *link)
{
    struct sv_worker *worker = link->owner;
    struct sv_engine *engine = worker->engine;
    struct sv_session_config config = {
        .server = true, .private_key = engine->private_key, .public_key = engine->public_key};
    struct sv_conn *conn;

    sv_loop_wake(&worker->loop);
    conn = worker->stopping ? NULL : sv_conn_new(worker, link);
    if (!conn) {
        link->ops->close(link, SV_CLOSE_SILENT);
        return;
    }
    atomic_fetch_add_explicit(&worker->half_open, 1, memory_order_relaxed);
    conn->half_open = true;
    sv_session_init(&conn->session, &config, link->opened_at);
    sv_worker_wake_at(conn, sv_session_deadline(&conn->session));
}

static void on_bytes(struct sv_link *link, uint8_t *bytes, size_t len)
{
    struct sv_conn *conn = link->owner;

    sv_loop_wake(&conn->worker->loop);
    if (!conn->closing) {
        sv_inbound_bytes(conn, bytes, len);
    }
}

static void on_writable(struct sv_link *link)
{
    struct sv_conn *conn = link->owner;

    sv_loop_wake(&conn->worker->loop);
    sv_worker_mark_dirty(conn);
}

static void on_datagram(struct sv_link *link, uint8_t *bytes, size_t len)
{
    struct sv_conn *conn = link->owner;

    sv_loop_wake(&conn->worker->loop);
    if (!conn->closing) {
        sv_inbound_datagram(conn, bytes, len);
    }
}

static bool on_path(struct sv_link *link, const uint8_t remote[16], uint16_t port)
{
    struct sv_conn *conn = link->owner;

    sv_loop_wake(&conn->worker->loop);
    return !conn->worker->engine->server || sv_hub_admits_path(conn, remote, port);
}

/* What fits is asked of the link for every packet; only those who ask from other threads must be told. */
static void on_path_mtu(struct sv_link *link)
{
    struct sv_conn *conn = link->owner;

    sv_loop_wake(&conn->worker->loop);
    if (!conn->worker->engine->server) {
        sv_dialer_publish(conn);
    }
}

static void on_closed(struct sv_link *link, int error, const char *text)
{
    struct sv_conn *conn = link->owner;

    sv_loop_wake(&conn->worker->loop);
    if (error == SV_E_PROTOCOL) {
        sv_hub_on_fatal(conn, text);
    }
    conn->ended_by_us = conn->closing;
    conn->link = NULL;
    conn->closing = true;
    if (conn->worker->engine->server) {
        sv_hub_on_closed(conn);
    } else {
        sv_dialer_on_closed(conn, error, text);
    }
    conn_free(conn);
}

const struct sv_link_sink sv_conn_sink = {
    .on_bytes = on_bytes,
    .on_writable = on_writable,
    .on_closed = on_closed,
    .on_datagram = on_datagram,
    .on_path = on_path,
    .on_path_mtu = on_path_mtu,
};

static void on_closed_unused(struct sv_link *link, int error, const char *text)
{
    (void)link;
    (void)error;
    (void)text;
}

const struct sv_link_sink sv_accept_sink = {
    .on_open = on_accepted,
    .on_closed = on_closed_unused,
};
