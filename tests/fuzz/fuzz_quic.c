/* A QUIC server, over real sockets, against datagrams of strangers and against a peer with keys that puts any frames into its packets, any number of
 * packets, in any order with datagrams that are none.
 *
 * Input: actions kind:1 length:2 (little-endian) bytes. kind & 1: the frames of a packet under the connection's keys; else a datagram as it is.
 * kind & 2: from another address than the last. kind & 4: the server's owner answers what it gets. The first byte of all says whether a connection is
 * opened at all (odd) or strangers speak alone (even). */
#include <arpa/inet.h>
#include <smartvpn/base.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "crypto/keys.h"
#include "transport/quic_conn.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ACTIONS_MAX = 64, TURNS_MAX = 400, PAYLOAD = 1300, SOCKETS = 2 };

static struct sv_loop loop;
static struct sv_quic_server *server;
static char cert[SV_QUIC_PEM_MAX], key[SV_QUIC_PEM_MAX];
static struct sv_link *accepted;
static bool answers;
static unsigned closed;

/* The peer with keys. */
static struct sv_quic_side side;
static struct sv_quic_conn conn;
static ngtcp2_callbacks callbacks;
static int fds[SOCKETS], from;
static struct sockaddr_in server_addr;
static const uint8_t *frames; /* what the next packet holds instead of its own */
static size_t frames_len;

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

/* ---- the server's owner: writes on what it gets, answers, closes ---- */

static void answer(struct sv_link *link, uint8_t *bytes, size_t len)
{
    static uint8_t frame[SV_LINK_HEADROOM + 65536];
    uint8_t first = bytes[0];

    memset(bytes, 0xAA, len);
    if (answers && len <= 65536) {
        link->ops->send(link, frame + SV_LINK_HEADROOM, len);
        link->ops->send_datagram(link, frame, len % 1500);
    }
    if (first == 'C') {
        link->ops->close(link, len & 1 ? SV_CLOSE_SILENT : SV_CLOSE_GRACEFUL);
    }
}

static void on_accepted(struct sv_link *link)
{
    accepted = link;
}

static void on_writable(struct sv_link *link)
{
    static const uint8_t bytes[100];

    while (link->ops->send_datagram(link, bytes, sizeof bytes) == 0 && answers) {
    }
}

static void on_closed(struct sv_link *link, int error, const char *text)
{
    (void)error;
    require(text != NULL);
    closed++;
    if (accepted == link) {
        accepted = NULL;
    }
}

static bool on_path(struct sv_link *link, const uint8_t remote[16], uint16_t port)
{
    (void)link;
    (void)remote;
    return port % 5 != 0;
}

static const struct sv_link_sink sink = {
    .on_open = on_accepted,
    .on_bytes = answer,
    .on_datagram = answer,
    .on_writable = on_writable,
    .on_closed = on_closed,
    .on_path = on_path,
};

/* ---- the peer ---- */

static int encrypt(uint8_t *dest, const ngtcp2_crypto_aead *aead, const ngtcp2_crypto_aead_ctx *ctx,
                   const uint8_t *plain, size_t len, const uint8_t *nonce, size_t nonce_len,
                   const uint8_t *aad, size_t aad_len)
{
    static uint8_t replaced[2048];

    if (frames && len >= frames_len && len <= sizeof replaced) {
        memset(replaced, 0, len); /* PADDING */
        memcpy(replaced, frames, frames_len);
        plain = replaced;
    }
    return ngtcp2_crypto_encrypt_cb(dest, aead, ctx, plain, len, nonce, nonce_len, aad, aad_len);
}

static void new_id(struct sv_quic_side *any, ngtcp2_cid *id)
{
    static uint8_t bytes[SV_QUIC_ID];

    (void)any;
    bytes[3]++;
    ngtcp2_cid_init(id, bytes, sizeof bytes);
}

static int add_id(struct sv_quic_conn *any, const ngtcp2_cid *id)
{
    (void)any;
    (void)id;
    return 0;
}

static void remove_id(struct sv_quic_conn *any, const ngtcp2_cid *id)
{
    (void)any;
    (void)id;
}

static void reset_token(struct sv_quic_side *any, const ngtcp2_cid *id, ngtcp2_stateless_reset_token *token)
{
    (void)any;
    (void)id;
    memset(token, 1, sizeof *token);
}

static int send_batch(struct sv_quic_side *any, const ngtcp2_path *path, const uint8_t *bytes, size_t len,
                      size_t segment)
{
    (void)any;
    (void)path;
    for (size_t n; len; bytes += n, len -= n) {
        n = len < segment ? len : segment;
        send(fds[from], bytes, n, MSG_DONTWAIT);
    }
    return 0;
}

static void on_handshake(struct sv_quic_conn *any)
{
    require(ngtcp2_conn_open_bidi_stream(any->quic, &any->stream, NULL) == 0);
    any->state = SV_QUIC_OPEN;
}

static void on_gone(struct sv_quic_conn *any)
{
    (void)any;
}

static const struct sv_quic_side_ops peer_ops = {
    .new_id = new_id,
    .add_id = add_id,
    .remove_id = remove_id,
    .reset_token = reset_token,
    .send = send_batch,
    .on_handshake = on_handshake,
    .on_gone = on_gone,
};

static void path_of(ngtcp2_path_storage *path)
{
    struct sv_endpoint endpoint = {0};

    endpoint.to.in4 = server_addr;
    sv_quic_path_of(path, &endpoint, 1);
}

static void turn(void)
{
    uint8_t bytes[2048];
    ngtcp2_path_storage path;
    ssize_t n;

    uv_run(&loop.uv, UV_RUN_NOWAIT);
    for (int i = 0; i < SOCKETS; i++) {
        while ((n = recv(fds[i], bytes, sizeof bytes, MSG_DONTWAIT)) >= 0) {
            if (n > 0 && conn.quic) {
                path_of(&path);
                sv_quic_side_now(&side);
                sv_quic_conn_read(&conn, &path.path, bytes, (size_t)n);
            }
        }
    }
    if (conn.quic) {
        sv_quic_side_work(&side);
    }
}

static void open_conn(void)
{
    ngtcp2_transport_params params;
    ngtcp2_settings settings;
    ngtcp2_path_storage path;
    ngtcp2_cid ours, theirs;

    callbacks = sv_quic_callbacks_client;
    callbacks.encrypt = encrypt;
    require(sv_quic_side_init(&side, &loop, &peer_ops) == 0 && sv_quic_tls_init_client(&side.tls) == 0);
    sv_quic_conn_init(&conn, &side, &sink, NULL);
    sv_quic_settings(&settings, sv_quic_side_now(&side));
    sv_quic_params(&params, false, 30 * SV_NS_PER_S);
    new_id(&side, &ours);
    new_id(&side, &theirs);
    path_of(&path);
    require(ngtcp2_conn_client_new(&conn.quic, &theirs, &ours, &path.path, NGTCP2_PROTO_VER_V1, &callbacks,
                                   &settings, &params, NULL, &conn) == 0 &&
            sv_quic_conn_start(&conn, NULL) == 0);
    sv_quic_conn_queue(&conn);
    for (unsigned i = 0; i < TURNS_MAX && !accepted; i++) {
        turn();
    }
    require(accepted != NULL);
}

static void send_frames(const uint8_t *bytes, size_t len)
{
    static uint8_t cover[PAYLOAD], packet[2048];
    ngtcp2_vec piece = {.base = cover, .len = len > 1 ? len : 1};
    ngtcp2_path_storage path;
    ngtcp2_ssize n;
    int taken;

    if (conn.state == SV_QUIC_CLOSED) {
        return;
    }
    ngtcp2_path_storage_zero(&path);
    frames = bytes;
    frames_len = len;
    n = ngtcp2_conn_writev_datagram(conn.quic, &path.path, NULL, packet, sizeof packet, &taken,
                                    NGTCP2_WRITE_DATAGRAM_FLAG_NONE, 0, &piece, 1, sv_quic_side_now(&side));
    frames = NULL;
    if (n > 0) {
        send(fds[from], packet, (size_t)n, MSG_DONTWAIT);
    }
}

/* ---- one input ---- */

static void open_all(bool with_conn)
{
    static const uint8_t secret[SV_QUIC_SECRET] = {1};
    struct sv_quic_server_config config = {
        .listen_addr = "127.0.0.1:0",
        .cert = cert,
        .key = key,
        .idle_timeout = 30 * SV_NS_PER_S,
        .secret = secret,
        .worker_count = 2,
        .sink = &sink,
    };

    if (!cert[0]) {
        require(sv_crypto_init() == 0 && sv_quic_make_certificate(cert, key) == 0);
        require(sv_loop_init(&loop, NULL, NULL, NULL) == 0);
    }
    require(sv_quic_server_open(&server, &loop, &config) == 0);
    server_addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    server_addr.sin_port = htons(sv_quic_server_port(server));
    for (int i = 0; i < SOCKETS; i++) {
        fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
        require(connect(fds[i], (struct sockaddr *)&server_addr, sizeof server_addr) == 0);
    }
    from = 0;
    answers = false;
    if (with_conn) {
        open_conn();
    }
}

static void close_all(void)
{
    if (conn.quic) {
        sv_quic_conn_clear(&conn);
        sv_quic_side_clear(&side);
        memset(&conn, 0, sizeof conn);
        memset(&side, 0, sizeof side);
    }
    sv_quic_server_close(server);
    require(accepted == NULL);
    for (int i = 0; i < SOCKETS; i++) {
        close(fds[i]);
    }
    uv_run(&loop.uv, UV_RUN_NOWAIT);
}

static void act(uint8_t kind, const uint8_t *bytes, size_t len)
{
    from ^= (kind & 2) != 0;
    answers = kind & 4;
    if (!(kind & 1)) {
        send(fds[from], bytes, len, MSG_DONTWAIT);
    } else if (conn.quic) {
        send_frames(bytes, len < PAYLOAD - 200 ? len : PAYLOAD - 200);
    }
    turn();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) {
        return 0;
    }
    open_all(data[0] & 1);
    data++;
    size--;
    for (unsigned i = 0; i < ACTIONS_MAX && size >= 3; i++) {
        size_t len = (size_t)(data[1] | data[2] << 8);

        len = len < size - 3 ? len : size - 3;
        act(data[0], data + 3, len);
        data += 3 + len;
        size -= 3 + len;
    }
    turn();
    close_all();
    return 0;
}
