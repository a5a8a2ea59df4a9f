/* What ngtcp2 calls while it reads a packet. The owner hears of bytes at once; what needs writing waits until the packet has been read. */
#include <ngtcp2/ngtcp2_crypto.h>
#include <string.h>

#include "base/clock.h"
#include "crypto/keys.h"
#include "io/socket.h"
#include "transport/quic_conn.h"

static const uint64_t ALLOWED_FOR = SV_NS_PER_S;

/* ---- identifiers and randomness ---- */

static void on_random(uint8_t *dest, size_t len, const ngtcp2_rand_ctx *ctx)
{
    (void)ctx;
    sv_random(dest, len);
}

static int on_new_id(ngtcp2_conn *quic, ngtcp2_cid *id, ngtcp2_stateless_reset_token *token, size_t len,
                     void *user)
{
    struct sv_quic_conn *conn = user;

    (void)quic;
    (void)len;
    conn->side->ops->new_id(conn->side, id);
    conn->side->ops->reset_token(conn->side, id, token);
    return conn->side->ops->add_id(conn, id) ? NGTCP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_remove_id(ngtcp2_conn *quic, const ngtcp2_cid *id, void *user)
{
    struct sv_quic_conn *conn = user;

    (void)quic;
    conn->side->ops->remove_id(conn, id);
    return 0;
}

/* ---- opening ---- */

static int on_handshake_completed(ngtcp2_conn *quic, void *user)
{
    struct sv_quic_conn *conn = user;

    (void)quic;
    if (conn->state == SV_QUIC_OPENING) {
        conn->side->ops->on_handshake(conn);
    }
    return 0;
}

static int on_stream_open(ngtcp2_conn *quic, int64_t stream, void *user)
{
    struct sv_quic_conn *conn = user;

    (void)quic;
    conn->stream = stream;
    return 0;
}

/* ---- paths ---- */

/* A packet from elsewhere has proved to be the peer's, since its frames are read. */
bool sv_quic_allows_path(struct sv_quic_conn *conn)
{
    const struct sockaddr *addr;
    struct sockaddr_storage remote = {0};
    struct sv_endpoint candidate = {0};
    uint8_t ip[16];
    uint16_t port;

    if (!conn->coming_from || conn->path_refused || !conn->told) {
        return !conn->path_refused;
    }
    addr = conn->coming_from->remote.addr;
    memcpy(&remote, addr, conn->coming_from->remote.addrlen);
    memcpy(&candidate.to, addr, conn->coming_from->remote.addrlen);
    conn->coming_from = NULL;
    if (sv_endpoint_same(&candidate, &conn->allowed) && conn->side->now < conn->allowed_until) {
        return true;
    }
    sv_sockaddr_split(&remote, ip, &port);
    conn->path_refused = conn->link.sink->on_path && !conn->link.sink->on_path(&conn->link, ip, port);
    if (!conn->path_refused) {
        conn->allowed = candidate;
        conn->allowed_until = conn->side->now + ALLOWED_FOR;
    }
    return !conn->path_refused;
}

static int on_path_begins(ngtcp2_conn *quic, uint32_t flags, const ngtcp2_path *path,
                          const ngtcp2_path *fallback, void *user)
{
    (void)quic;
    (void)flags;
    (void)path;
    (void)fallback;
    sv_quic_allows_path(user);
    return 0;
}

static int on_path_validation(ngtcp2_conn *quic, uint32_t flags, const ngtcp2_path *path,
                              const ngtcp2_path *fallback, ngtcp2_path_validation_result result, void *user)
{
    struct sv_quic_conn *conn = user;

    (void)quic;
    (void)flags;
    (void)fallback;
    if (result == NGTCP2_PATH_VALIDATION_RESULT_SUCCESS) {
        sv_quic_hole_forget(&conn->hole, conn->side->now);
    }
    if (conn->side->ops->on_path_validated && result != NGTCP2_PATH_VALIDATION_RESULT_ABORTED) {
        conn->side->ops->on_path_validated(conn, path, result == NGTCP2_PATH_VALIDATION_RESULT_SUCCESS);
    }
    return 0;
}

/* ---- bytes in ---- */

static bool takes_bytes(struct sv_quic_conn *conn)
{
    return sv_quic_allows_path(conn) && conn->told && !conn->close_wanted &&
           (conn->state == SV_QUIC_OPEN || conn->state == SV_QUIC_ENDING);
}

/* The bytes are ngtcp2's own memory and nobody reads them afterwards, so the sink may write on them. */
static int on_stream_data(ngtcp2_conn *quic, uint32_t flags, int64_t stream, uint64_t offset,
                          const uint8_t *bytes, size_t len, void *user, void *stream_user)
{
    struct sv_quic_conn *conn = user;

    (void)offset;
    (void)stream_user;
    if (stream != conn->stream) {
        return 0;
    }
    if (len && takes_bytes(conn)) {
        conn->link.sink->on_bytes(&conn->link, (uint8_t *)(uintptr_t)bytes, len);
    }
    conn->fin_received |= (flags & NGTCP2_STREAM_DATA_FLAG_FIN) != 0;
    ngtcp2_conn_extend_max_offset(quic, len);
    return ngtcp2_conn_extend_max_stream_offset(quic, stream, len) ? NGTCP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_datagram(ngtcp2_conn *quic, uint32_t flags, const uint8_t *bytes, size_t len, void *user)
{
    /* Stands for one of no bytes, which the owner counts like any other that does not open. */
    static uint8_t none[1];
    struct sv_quic_conn *conn = user;

    (void)quic;
    (void)flags;
    if (takes_bytes(conn) && conn->link.sink->on_datagram) {
        conn->link.sink->on_datagram(&conn->link, len ? (uint8_t *)(uintptr_t)bytes : none, len);
    }
    return 0;
}

/* A datagram's id is its length. One that was taken for lost may be acknowledged after all, and leave twice. */
static void leave_flight(struct sv_quic_conn *conn, uint64_t id)
{
    conn->datagrams_in_flight -= id < conn->datagrams_in_flight ? id : conn->datagrams_in_flight;
}

static void narrow(struct sv_quic_conn *conn)
{
    if (conn->side->ops->on_narrow) {
        conn->side->ops->on_narrow(conn);
    }
}

static int on_datagram_acked(ngtcp2_conn *quic, uint64_t id, void *user)
{
    struct sv_quic_conn *conn = user;
    size_t owed = sv_quic_backlog_owed(&conn->backlog);
    uint64_t now = conn->side->now;

    leave_flight(conn, id);
    sv_quic_hole_on_acked(&conn->hole, now, (size_t)id);
    if (owed && sv_quic_hole_on_owed(&conn->hole, now, owed, ngtcp2_conn_get_pto2(quic))) {
        narrow(conn);
    }
    conn->link.datagrams_acked++;
    conn->link.unacked_since = 0;
    return 0;
}

static int on_datagram_lost(ngtcp2_conn *quic, uint64_t id, void *user)
{
    struct sv_quic_conn *conn = user;

    leave_flight(conn, id);
    if (sv_quic_hole_on_lost(&conn->hole, conn->side->now, (size_t)id, ngtcp2_conn_get_pto2(quic))) {
        narrow(conn);
    }
    conn->link.datagrams_lost++;
    /* Lost is what something later was acknowledged before (RFC 9002, section 6.1): the path lives. */
    conn->link.unacked_since = 0;
    return 0;
}

static int on_acked(ngtcp2_conn *quic, int64_t stream, uint64_t offset, uint64_t len, void *user,
                    void *stream_user)
{
    struct sv_quic_conn *conn = user;

    (void)quic;
    (void)offset;
    (void)stream_user;
    if (stream == conn->stream) {
        sv_quic_backlog_acked(&conn->backlog, &conn->side->blocks, (size_t)len);
        conn->progress_at = conn->side->now;
        sv_quic_hole_on_stream(&conn->hole, conn->side->now);
        conn->link.unacked_since = 0;
    }
    return 0;
}

/* ---- ends ---- */

static int on_stream_ended(struct sv_quic_conn *conn, int64_t stream)
{
    conn->fin_received |= stream == conn->stream;
    return 0;
}

static int on_stream_reset(ngtcp2_conn *quic, int64_t stream, uint64_t final_size, uint64_t code, void *user,
                           void *stream_user)
{
    (void)quic;
    (void)final_size;
    (void)code;
    (void)stream_user;
    return on_stream_ended(user, stream);
}

static int on_stop_sending(ngtcp2_conn *quic, int64_t stream, uint64_t code, void *user, void *stream_user)
{
    (void)quic;
    (void)code;
    (void)stream_user;
    return on_stream_ended(user, stream);
}

/* Both ways have ended: ngtcp2 lets go of the bytes. */
static int on_stream_close(ngtcp2_conn *quic, uint32_t flags, int64_t stream, uint64_t code, void *user,
                           void *stream_user)
{
    struct sv_quic_conn *conn = user;

    (void)quic;
    (void)flags;
    (void)code;
    (void)stream_user;
    if (stream == conn->stream) {
        sv_quic_backlog_clear(&conn->backlog, &conn->side->blocks);
        conn->stream = -1;
        conn->fin_received = true;
    }
    return 0;
}

static int on_stateless_reset(ngtcp2_conn *quic, const ngtcp2_pkt_stateless_reset2 *reset, void *user)
{
    struct sv_quic_conn *conn = user;

    (void)quic;
    (void)reset;
    conn->was_reset = true;
    return 0;
}

#define COMMON                                                                                               \
    .recv_crypto_data = ngtcp2_crypto_recv_crypto_data_cb, .encrypt = ngtcp2_crypto_encrypt_cb,              \
    .decrypt = ngtcp2_crypto_decrypt_cb, .hp_mask = ngtcp2_crypto_hp_mask_cb,                                \
    .update_key = ngtcp2_crypto_update_key_cb,                                                               \
    .delete_crypto_aead_ctx = ngtcp2_crypto_delete_crypto_aead_ctx_cb,                                       \
    .delete_crypto_cipher_ctx = ngtcp2_crypto_delete_crypto_cipher_ctx_cb,                                   \
    .get_path_challenge_data2 = ngtcp2_crypto_get_path_challenge_data2_cb,                                   \
    .version_negotiation = ngtcp2_crypto_version_negotiation_cb, .rand = on_random,                          \
    .get_new_connection_id2 = on_new_id, .remove_connection_id = on_remove_id,                               \
    .handshake_completed = on_handshake_completed, .begin_path_validation = on_path_begins,                  \
    .path_validation = on_path_validation, .recv_stream_data = on_stream_data, .recv_datagram = on_datagram, \
    .ack_datagram = on_datagram_acked, .lost_datagram = on_datagram_lost,                                    \
    .acked_stream_data_offset = on_acked, .stream_reset = on_stream_reset,                                   \
    .recv_stop_sending = on_stop_sending, .stream_close = on_stream_close,                                   \
    .recv_stateless_reset2 = on_stateless_reset

const ngtcp2_callbacks sv_quic_callbacks_server = {
    COMMON,
    .recv_client_initial = ngtcp2_crypto_recv_client_initial_cb,
    .stream_open = on_stream_open,
};

const ngtcp2_callbacks sv_quic_callbacks_client = {
    COMMON,
    .client_initial = ngtcp2_crypto_client_initial_cb,
    .recv_retry = ngtcp2_crypto_recv_retry_cb,
};
