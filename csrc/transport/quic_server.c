/* A worker's part of the hub's UDP port: which connection a datagram belongs to, and the connections' lifetime. */
#include "transport/quic_server.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "crypto/hash.h"
#include "crypto/keys.h"
#include "io/socket.h"

enum {
    RECEIVES_PER_TURN = 2, /* batches; then what they cause is sent */
    SHORT_MIN = 1 + SV_QUIC_ID,
    LONG = 0x80,
    IDS_ALIVE = 64, /* far above what ngtcp2 keeps of one connection: 8, and those about to retire */
};

/* ---- connection IDs ---- */

static void new_id(struct sv_quic_side *side, ngtcp2_cid *id)
{
    uint8_t bytes[SV_QUIC_ID];

    sv_random(bytes, sizeof bytes);
    bytes[0] = (uint8_t)sv_quic_server_of(side)->worker;
    ngtcp2_cid_init(id, bytes, sizeof bytes);
}

static int add_id(struct sv_quic_conn *conn, const ngtcp2_cid *id)
{
    return sv_map_insert(&sv_quic_server_of(conn->side)->ids, id->data, conn);
}

static void remove_id(struct sv_quic_conn *conn, const ngtcp2_cid *id)
{
    struct sv_quic_server *server = sv_quic_server_of(conn->side);

    if (id->datalen == SV_QUIC_ID && sv_map_get(&server->ids, id->data) == conn) {
        sv_map_remove(&server->ids, id->data);
    }
    server->last = NULL;
}

static void reset_token(struct sv_quic_side *side, const ngtcp2_cid *id, ngtcp2_stateless_reset_token *token)
{
    const struct sv_quic_server *server = sv_quic_server_of(side);

    sv_hash_keyed(token->data, sizeof token->data, server->reset_secret, sizeof server->reset_secret,
                  id->data, id->datalen);
}

/* ---- a connection's stages ---- */

static void no_longer_opening(struct sv_quic_peer *peer)
{
    if (peer->opening) {
        peer->opening = false;
        sv_quic_server_of(peer->conn.side)->opening--;
    }
}

static void on_handshake(struct sv_quic_conn *conn)
{
    no_longer_opening((struct sv_quic_peer *)conn);
    conn->state = SV_QUIC_OPEN;
    sv_quic_conn_learn_path(conn);
    conn->told = true;
    conn->link.sink->on_open(&conn->link);
}

static void remove_first_id(struct sv_quic_peer *peer)
{
    uint8_t key[SV_QUIC_FIRST_ID];

    if (peer->first_id.datalen) {
        sv_quic_first_key(key, peer->first_id.data, peer->first_id.datalen);
        sv_map_remove(&sv_quic_server_of(peer->conn.side)->first_ids, key);
    }
}

static void remove_all_ids(struct sv_quic_conn *conn)
{
    ngtcp2_cid ids[IDS_ALIVE];
    size_t count = ngtcp2_conn_get_scid2(conn->quic, NULL);

    count = count <= IDS_ALIVE ? ngtcp2_conn_get_scid2(conn->quic, ids) : 0;
    for (size_t i = 0; i < count; i++) {
        remove_id(conn, &ids[i]);
    }
}

static void tell_failure(struct sv_quic_server *server, const struct sv_quic_peer *peer)
{
    static struct sv_log_limit limit;
    const struct sv_link *link = &peer->conn.link;
    char remote[64];

    server->counters.failed++;
    sv_log_limited(&limit, server->side.now, SV_LOG_INFO, "no QUIC connection with %s: %s",
                   sv_sockaddr_format(remote, sizeof remote, link->remote, link->remote_port),
                   *peer->conn.why ? peer->conn.why : "it was given up");
}

void sv_quic_peer_free(struct sv_quic_peer *peer)
{
    struct sv_quic_server *server = sv_quic_server_of(peer->conn.side);

    if (peer->opening) {
        tell_failure(server, peer);
    }
    no_longer_opening(peer);
    remove_first_id(peer);
    if (peer->conn.quic) {
        remove_all_ids(&peer->conn);
    }
    *(peer->prev ? &peer->prev->next : &server->peers) = peer->next;
    if (peer->next) {
        peer->next->prev = peer->prev;
    }
    sv_quic_conn_clear(&peer->conn);
    free(peer);
}

static void on_gone(struct sv_quic_conn *conn)
{
    sv_quic_peer_free((struct sv_quic_peer *)conn);
}

/* ---- datagrams in ---- */

/* Where the kernel did not steer (it does so by an index in this very byte), a packet of another worker's is dropped, never answered: the client sends
 * again, and a reset would end a connection that is alive. That is only while sockets join, and after a migration on kernels without BPF. */
static bool is_stray(const struct sv_quic_server *server, const uint8_t *id)
{
    return id[0] != server->worker && id[0] < server->worker_count;
}

static struct sv_quic_conn *find_short(struct sv_quic_server *server, const struct sv_endpoint *from,
                                       const uint8_t *bytes, size_t len)
{
    const uint8_t *id = bytes + 1;

    if (len < SHORT_MIN) {
        server->counters.garbage++;
        return NULL;
    }
    if (server->last && memcmp(server->last_id, id, SV_QUIC_ID) == 0) {
        return server->last;
    }
    server->last = sv_map_get(&server->ids, id);
    memcpy(server->last_id, id, SV_QUIC_ID);
    if (!server->last) {
        if (is_stray(server, id)) {
            server->counters.strays++;
        } else {
            server->counters.unknown++;
            sv_quic_answer_reset(server, from, bytes, len);
        }
    }
    return server->last;
}

static struct sv_quic_conn *find_long(struct sv_quic_server *server, const struct sv_endpoint *from,
                                      const ngtcp2_path *path, const uint8_t *bytes, size_t len)
{
    uint8_t key[SV_QUIC_FIRST_ID];
    struct sv_quic_conn *conn = NULL;
    ngtcp2_version_cid packet;
    int result = ngtcp2_pkt_decode_version_cid(&packet, bytes, len, SV_QUIC_ID);

    if (result == NGTCP2_ERR_VERSION_NEGOTIATION || (!result && packet.version != NGTCP2_PROTO_VER_V1)) {
        server->counters.versions++;
        /* Version 0 is such an answer itself (RFC 9000, section 6.1). */
        if (packet.version && len >= NGTCP2_MAX_UDP_PAYLOAD_SIZE) {
            sv_quic_answer_version(server, from, &packet);
        }
        return NULL;
    }
    if (result || packet.dcidlen > NGTCP2_MAX_CIDLEN) {
        server->counters.garbage++;
        return NULL;
    }
    if (packet.dcidlen == SV_QUIC_ID) {
        conn = sv_map_get(&server->ids, packet.dcid);
    }
    if (!conn) {
        sv_quic_first_key(key, packet.dcid, packet.dcidlen);
        conn = sv_map_get(&server->first_ids, key);
    }
    return conn ? conn : sv_quic_accept(server, from, path, bytes, len);
}

static void on_datagrams(void *ctx, const struct sv_endpoint *from, uint8_t *bytes, size_t len,
                         size_t segment)
{
    struct sv_quic_server *server = ctx;
    ngtcp2_path_storage path;

    if (!len) {
        server->counters.garbage++;
        return;
    }
    sv_quic_side_now(&server->side);
    sv_quic_path_of(&path, from, server->udp.port);
    for (size_t n; len; bytes += n, len -= n) {
        struct sv_quic_conn *conn;

        n = len < segment ? len : segment;
        conn = bytes[0] & LONG ? find_long(server, from, &path.path, bytes, n)
                               : find_short(server, from, bytes, n);
        if (conn) {
            sv_quic_conn_read(conn, &path.path, bytes, n);
        }
    }
}

static void on_socket(struct sv_quic_server *server, struct sv_watch *watch, int fd, int events)
{
    if (events & SV_WRITABLE) {
        sv_watch_set(watch, SV_READABLE);
        if (server->side.tx.stuck) {
            sv_quic_side_writable(&server->side);
        }
    }
    if (events & SV_READABLE) {
        for (unsigned i = 0; i < RECEIVES_PER_TURN; i++) {
            if (sv_udp_receive(fd, server->batch, on_datagrams, server) < SV_UDP_BATCH) {
                break;
            }
        }
        sv_quic_side_work(&server->side);
    }
}

static void on_socket4(void *ctx, int events)
{
    struct sv_quic_server *server = ctx;

    on_socket(server, server->watch4, server->udp.fd4, events);
}

static void on_socket6(void *ctx, int events)
{
    struct sv_quic_server *server = ctx;

    on_socket(server, server->watch6, server->udp.fd6, events);
}

/* ---- datagrams out ---- */

static int send_batch(struct sv_quic_side *side, const ngtcp2_path *path, const uint8_t *bytes, size_t len,
                      size_t segment)
{
    struct sv_endpoint to;

    sv_quic_endpoint_of(&to, path);
    return sv_udp_send(&sv_quic_server_of(side)->udp, &to, bytes, len, segment);
}

static void await_writable(struct sv_quic_side *side, const ngtcp2_path *path)
{
    struct sv_quic_server *server = sv_quic_server_of(side);

    sv_watch_set(path->remote.addr->sa_family == AF_INET ? server->watch4 : server->watch6,
                 SV_READABLE | SV_WRITABLE);
}

static const struct sv_quic_side_ops server_ops = {
    .new_id = new_id,
    .add_id = add_id,
    .remove_id = remove_id,
    .reset_token = reset_token,
    .send = send_batch,
    .await_writable = await_writable,
    .on_handshake = on_handshake,
    .on_gone = on_gone,
};

/* ---- making and ending ---- */

static void derive(uint8_t out[SV_QUIC_SECRET], const uint8_t *secret, const char *what)
{
    sv_hash_keyed(out, SV_QUIC_SECRET, secret, SV_QUIC_SECRET, what, strlen(what));
}

static int open_maps(struct sv_quic_server *server)
{
    uint8_t secret[16];
    int error;

    sv_random(secret, sizeof secret);
    error = sv_map_init(&server->ids, SV_QUIC_ID, NULL, secret);
    return error ? error : sv_map_init(&server->first_ids, SV_QUIC_FIRST_ID, NULL, secret);
}

static int watch(struct sv_quic_server *server, struct sv_watch **out, int fd, void (*on_ready)(void *, int))
{
    if (fd < 0) {
        return 0;
    }
    *out = sv_watch_new(server->side.loop, fd, on_ready, server);
    if (!*out) {
        return SV_E_NOMEM;
    }
    sv_watch_set(*out, SV_READABLE);
    return 0;
}

static int open_sockets(struct sv_quic_server *server, const char *listen_addr)
{
    enum sv_udp_share share = server->worker_count < 2 ? SV_UDP_ALONE
                              : server->worker == 0    ? SV_UDP_FIRST
                                                       : SV_UDP_JOIN;
    struct sockaddr_storage addr;
    socklen_t len;
    int error;

    if (sv_sockaddr_parse(&addr, &len, listen_addr)) {
        return sv_fail(SV_E_INVALID, "quicListenAddr: %s is not host:port", listen_addr ? listen_addr : "");
    }
    error = sv_udp_open_at(&server->udp, &addr, share);
    if (error) {
        return error;
    }
    sv_udp_keep_whole(&server->udp);
    if (share == SV_UDP_JOIN && sv_udp_steer(&server->udp)) {
        sv_log(SV_LOG_WARNING, "QUIC: %s: clients that change their address may have to connect anew",
               sv_error_detail());
    }
    error = watch(server, &server->watch4, server->udp.fd4, on_socket4);
    return error ? error : watch(server, &server->watch6, server->udp.fd6, on_socket6);
}

int sv_quic_server_open(struct sv_quic_server **out, struct sv_loop *loop,
                        const struct sv_quic_server_config *config)
{
    struct sv_quic_server *server = calloc(1, sizeof *server);
    int error;

    *out = NULL;
    if (!server) {
        return SV_E_NOMEM;
    }
    server->udp = (struct sv_udp){.fd4 = -1, .fd6 = -1};
    server->side.server = true;
    server->side.broken = &server->counters.broken;
    server->accepting = true;
    server->worker = config->worker;
    server->worker_count = config->worker_count;
    server->idle_timeout = config->idle_timeout;
    server->admit = config->admit;
    server->sink = config->sink;
    server->owner = config->owner;
    derive(server->token_secret, config->secret, "smartvpn quic token");
    derive(server->reset_secret, config->secret, "smartvpn quic reset");
    server->batch = sv_udp_batch_new();
    error = server->batch ? sv_quic_side_init(&server->side, loop, &server_ops) : SV_E_NOMEM;
    if (!error) {
        error = open_maps(server);
    }
    if (!error) {
        error = sv_quic_tls_init_server(&server->side.tls, config->cert, config->key);
    }
    if (!error) {
        error = open_sockets(server, config->listen_addr);
    }
    if (error) {
        sv_quic_server_close(server);
        return error;
    }
    *out = server;
    return 0;
}

bool sv_quic_available(void)
{
    return true;
}

uint16_t sv_quic_server_port(const struct sv_quic_server *server)
{
    return server->udp.port;
}

size_t sv_quic_server_opening(const struct sv_quic_server *server)
{
    return server->opening;
}

const struct sv_quic_counters *sv_quic_server_counters(const struct sv_quic_server *server)
{
    return &server->counters;
}

void sv_quic_server_stop_accepting(struct sv_quic_server *server)
{
    server->accepting = false;
}

static bool has_last_words(const struct sv_quic_server *server)
{
    for (const struct sv_quic_peer *peer = server->peers; peer; peer = peer->next) {
        if (peer->conn.close_due) {
            return true;
        }
    }
    return false;
}

/* A full socket is waited for, each connection's own second at most. */
static void end_peers(struct sv_quic_server *server)
{
    server->accepting = false;
    for (struct sv_quic_peer *peer = server->peers; peer; peer = peer->next) {
        sv_quic_conn_close(&peer->conn, 0, "");
    }
    while (has_last_words(server)) {
        uv_run(&server->side.loop->uv, UV_RUN_ONCE);
    }
    while (server->peers) {
        sv_quic_conn_finish(&server->peers->conn);
    }
}

void sv_quic_server_close(struct sv_quic_server *server)
{
    if (!server) {
        return;
    }
    end_peers(server);
    if (server->watch4) {
        sv_watch_close(server->watch4);
    }
    if (server->watch6) {
        sv_watch_close(server->watch6);
    }
    sv_udp_close(&server->udp);
    sv_udp_batch_free(server->batch);
    if (server->ids.key_size) {
        sv_map_clear(&server->ids);
    }
    if (server->first_ids.key_size) {
        sv_map_clear(&server->first_ids);
    }
    sv_quic_side_clear(&server->side);
    sv_wipe(server->token_secret, sizeof server->token_secret);
    sv_wipe(server->reset_secret, sizeof server->reset_secret);
    free(server);
}
