/* A peer of ours with keys that puts any frames into its packets: a client to our server, or a server to our client. It loses what it is told to lose,
 * and speaks from two addresses as a client. There is one at a time. A fault in it, not in what it is pointed at, aborts. */
#ifndef SV_TESTS_QUIC_FORGER_H
#define SV_TESTS_QUIC_FORGER_H

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/quic_conn.h"

enum { FORGER_SOCKETS = 2, FORGER_FRAMES = 1100, FORGER_IDLE_SECS = 30 };

static struct forger {
    struct sv_quic_side side;
    struct sv_quic_conn conn; /* quic is NULL: there is none yet */
    ngtcp2_callbacks callbacks;
    int fds[FORGER_SOCKETS];
    unsigned from; /* of the sockets */
    bool server;
    struct sockaddr_in remote;
    const uint8_t *frames; /* what the next packet holds instead of its own */
    size_t frames_len;
    bool holds;          /* nothing leaves it */
    bool (*loses)(void); /* asked for each datagram, either way; NULL: none */
    bool windowless;     /* lets nothing be sent on its stream, set before it opens */
} forger;

static inline void forger_require(bool holds)
{
    if (!holds) {
        abort();
    }
}

static inline int forger_encrypt(uint8_t *dest, const ngtcp2_crypto_aead *aead,
                                 const ngtcp2_crypto_aead_ctx *ctx, const uint8_t *plain, size_t len,
                                 const uint8_t *nonce, size_t nonce_len, const uint8_t *aad, size_t aad_len)
{
    static uint8_t replaced[2048];

    if (forger.frames && len >= forger.frames_len && len <= sizeof replaced) {
        memset(replaced, 0, len); /* PADDING */
        memcpy(replaced, forger.frames, forger.frames_len);
        plain = replaced;
    }
    return ngtcp2_crypto_encrypt_cb(dest, aead, ctx, plain, len, nonce, nonce_len, aad, aad_len);
}

/* ---- a side of its own ---- */

static inline void forger_new_id(struct sv_quic_side *side, ngtcp2_cid *id)
{
    static uint32_t count;
    uint8_t bytes[SV_QUIC_ID] = {0xF0};

    (void)side;
    count++;
    memcpy(bytes + 1, &count, sizeof count);
    ngtcp2_cid_init(id, bytes, sizeof bytes);
}

static inline int forger_add_id(struct sv_quic_conn *conn, const ngtcp2_cid *id)
{
    (void)conn;
    (void)id;
    return 0;
}

static inline void forger_remove_id(struct sv_quic_conn *conn, const ngtcp2_cid *id)
{
    (void)conn;
    (void)id;
}

static inline void forger_reset_token(struct sv_quic_side *side, const ngtcp2_cid *id,
                                      ngtcp2_stateless_reset_token *token)
{
    (void)side;
    (void)id;
    memset(token, 1, sizeof *token);
}

static inline void forger_put(const uint8_t *bytes, size_t len)
{
    if (!forger.holds && !(forger.loses && forger.loses())) {
        send(forger.fds[forger.from], bytes, len, MSG_DONTWAIT);
    }
}

static inline int forger_send_batch(struct sv_quic_side *side, const ngtcp2_path *path, const uint8_t *bytes,
                                    size_t len, size_t segment)
{
    (void)side;
    (void)path;
    for (size_t n; len; bytes += n, len -= n) {
        n = len < segment ? len : segment;
        forger_put(bytes, n);
    }
    return 0;
}

static inline void forger_on_handshake(struct sv_quic_conn *conn)
{
    conn->state = SV_QUIC_OPEN;
    if (!forger.server) {
        forger_require(ngtcp2_conn_open_bidi_stream(conn->quic, &conn->stream, NULL) == 0);
    }
}

static inline void forger_on_gone(struct sv_quic_conn *conn)
{
    (void)conn;
}

static inline void forger_on_writable(struct sv_link *link)
{
    (void)link;
}

static const struct sv_quic_side_ops forger_ops = {
    .new_id = forger_new_id,
    .add_id = forger_add_id,
    .remove_id = forger_remove_id,
    .reset_token = forger_reset_token,
    .send = forger_send_batch,
    .on_handshake = forger_on_handshake,
    .on_gone = forger_on_gone,
};
static const struct sv_link_sink forger_sink = {.on_writable = forger_on_writable};

/* ngtcp2 is told of one path, whichever socket is used: it is the other side that finds out about moves. */
static inline void forger_path(ngtcp2_path_storage *path)
{
    struct sv_endpoint endpoint = {0};

    endpoint.to.in4 = forger.remote;
    sv_quic_path_of(path, &endpoint, 1);
}

static inline void forger_begin(struct sv_loop *loop, bool server)
{
    forger_require(sv_quic_side_init(&forger.side, loop, &forger_ops) == 0);
    forger.side.server = forger.server = server;
    forger.callbacks = server ? sv_quic_callbacks_server : sv_quic_callbacks_client;
    forger.callbacks.encrypt = forger_encrypt;
    sv_quic_conn_init(&forger.conn, &forger.side, &forger_sink, NULL);
    forger.remote = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int i = 0; i < FORGER_SOCKETS; i++) {
        forger.fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
        forger_require(forger.fds[i] >= 0);
    }
}

static inline void forger_params(ngtcp2_transport_params *params, bool server)
{
    sv_quic_params(params, server, FORGER_IDLE_SECS * SV_NS_PER_S);
    if (forger.windowless) {
        params->initial_max_data = 0;
        params->initial_max_stream_data_bidi_local = params->initial_max_stream_data_bidi_remote = 0;
    }
}

/* Its sockets are for the server on this port of 127.0.0.1; there is no connection yet. */
static inline void forger_aim(struct sv_loop *loop, uint16_t port)
{
    forger_begin(loop, false);
    forger.remote.sin_port = htons(port);
    for (int i = 0; i < FORGER_SOCKETS; i++) {
        forger_require(connect(forger.fds[i], (struct sockaddr *)&forger.remote, sizeof forger.remote) == 0);
    }
}

/* A client of that server; its first packet goes out with the next turn. */
static inline void forger_dial(void)
{
    ngtcp2_transport_params params;
    ngtcp2_settings settings;
    ngtcp2_path_storage path;
    ngtcp2_cid ours, theirs;

    forger_require(sv_quic_tls_init_client(&forger.side.tls) == 0);
    sv_quic_settings(&settings, sv_quic_side_now(&forger.side));
    forger_params(&params, false);
    forger_new_id(&forger.side, &ours);
    forger_new_id(&forger.side, &theirs);
    forger_path(&path);
    forger_require(ngtcp2_conn_client_new(&forger.conn.quic, &theirs, &ours, &path.path, NGTCP2_PROTO_VER_V1,
                                          &forger.callbacks, &settings, &params, NULL, &forger.conn) == 0 &&
                   sv_quic_conn_start(&forger.conn, NULL) == 0);
    sv_quic_conn_queue(&forger.conn);
}

/* A server for one client of 127.0.0.1. Its port. */
static inline uint16_t forger_listen(struct sv_loop *loop, const char *cert, const char *key)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;

    forger_begin(loop, true);
    forger_require(sv_quic_tls_init_server(&forger.side.tls, cert, key) == 0 &&
                   bind(forger.fds[0], (struct sockaddr *)&at, sizeof at) == 0 &&
                   getsockname(forger.fds[0], (struct sockaddr *)&at, &len) == 0);
    return ntohs(at.sin_port);
}

static inline void forger_accept(const uint8_t *bytes, size_t len)
{
    ngtcp2_transport_params params;
    ngtcp2_settings settings;
    ngtcp2_path_storage path;
    ngtcp2_pkt_hd hd;
    ngtcp2_cid ours;

    forger_require(ngtcp2_accept(&hd, bytes, len) == 0 &&
                   connect(forger.fds[0], (struct sockaddr *)&forger.remote, sizeof forger.remote) == 0);
    sv_quic_settings(&settings, sv_quic_side_now(&forger.side));
    forger_params(&params, true);
    params.original_dcid = hd.dcid;
    params.original_dcid_present = 1;
    forger_new_id(&forger.side, &ours);
    forger_path(&path);
    forger_require(ngtcp2_conn_server_new(&forger.conn.quic, &hd.scid, &ours, &path.path, hd.version,
                                          &forger.callbacks, &settings, &params, NULL, &forger.conn) == 0 &&
                   sv_quic_conn_start(&forger.conn, NULL) == 0);
}

static inline void forger_receive(const uint8_t *bytes, size_t len)
{
    ngtcp2_path_storage path;

    if (!len || (!forger.conn.quic && !forger.server) || (forger.loses && forger.loses())) {
        return;
    }
    if (!forger.conn.quic) {
        forger_accept(bytes, len);
    }
    forger_path(&path);
    sv_quic_side_now(&forger.side);
    sv_quic_conn_read(&forger.conn, &path.path, bytes, len);
}

/* The loop's turn, and its own. */
static inline void forger_turn(void)
{
    uint8_t bytes[2048];
    struct sockaddr_in remote;
    socklen_t size = sizeof remote;
    ssize_t n;

    uv_run(&forger.side.loop->uv, UV_RUN_NOWAIT);
    for (int i = 0; i < FORGER_SOCKETS; i++) {
        while ((n = recvfrom(forger.fds[i], bytes, sizeof bytes, MSG_DONTWAIT, (struct sockaddr *)&remote,
                             &size)) >= 0) {
            forger.remote = forger.server ? remote : forger.remote;
            forger_receive(bytes, (size_t)n);
        }
    }
    if (forger.conn.quic) {
        sv_quic_side_work(&forger.side);
    }
}

static inline bool forger_is_open(void)
{
    return forger.conn.quic && forger.conn.state == SV_QUIC_OPEN;
}

/* A packet of the highest keys with these frames, at most FORGER_FRAMES bytes. */
static inline void forger_send(const uint8_t *frames, size_t len)
{
    static uint8_t cover[FORGER_FRAMES], packet[2048];
    ngtcp2_vec piece = {.base = cover, .len = len > 1 ? len : 1};
    ngtcp2_path_storage path;
    ngtcp2_ssize n;
    int taken;

    if (!forger_is_open()) {
        return;
    }
    ngtcp2_path_storage_zero(&path);
    sv_quic_settle(&forger.conn);
    forger.frames = frames;
    forger.frames_len = len;
    n = ngtcp2_conn_writev_datagram(forger.conn.quic, &path.path, NULL, packet, sizeof packet, &taken,
                                    NGTCP2_WRITE_DATAGRAM_FLAG_NONE, 0, &piece, 1,
                                    sv_quic_side_now(&forger.side));
    forger.frames = NULL;
    if (n > 0) {
        forger_put(packet, (size_t)n);
    }
}

/* The packet that it would write next, with these frames instead of its own: a client's first is its Initial. */
static inline void forger_send_instead(const uint8_t *frames, size_t len)
{
    static uint8_t packet[2048];
    ngtcp2_path_storage path;
    ngtcp2_ssize n;

    ngtcp2_path_storage_zero(&path);
    forger.frames = frames;
    forger.frames_len = len;
    n = ngtcp2_conn_write_pkt(forger.conn.quic, &path.path, NULL, packet, SV_QUIC_PAYLOAD_MAX,
                              sv_quic_side_now(&forger.side));
    forger.frames = NULL;
    if (n > 0) {
        forger_put(packet, (size_t)n);
    }
}

static inline void forger_close(void)
{
    sv_quic_conn_clear(&forger.conn);
    sv_quic_side_clear(&forger.side);
    for (int i = 0; i < FORGER_SOCKETS; i++) {
        close(forger.fds[i]);
    }
    memset(&forger, 0, sizeof forger);
}

#endif
