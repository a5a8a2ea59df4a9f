#include "transport/quic_sockets.h"

#include <smartvpn/base.h>
#include <string.h>

#include "io/netwatch.h"
#include "io/socket.h"

enum { RECEIVES_PER_TURN = 2 };

/* ---- opening and closing ---- */

/* A batch that waits for the socket is lost with it, as on the network; it would keep all others waiting. */
static void lose_batch(struct sv_quic_socket *at)
{
    struct sv_quic_tx *tx = &at->all->conn->side->tx;

    if (tx->stuck && sv_quic_local_port(&tx->path.path) == at->udp.port) {
        tx->stuck = tx->full = false;
        tx->len = tx->count = 0;
    }
}

static void close_socket(struct sv_quic_socket *at)
{
    if (at->watch) {
        lose_batch(at);
        sv_watch_close(at->watch);
        at->watch = NULL;
        sv_udp_close(&at->udp);
    }
}

static struct sv_quic_socket *socket_of(struct sv_quic_sockets *sockets, const ngtcp2_path *path)
{
    uint16_t port = sv_quic_local_port(path);

    for (size_t i = 0; i < SV_QUIC_SOCKETS; i++) {
        if (sockets->list[i].watch && sockets->list[i].udp.port == port) {
            return &sockets->list[i];
        }
    }
    return NULL;
}

static int find_source(const struct sv_quic_sockets *sockets, uint8_t source[16])
{
    struct sockaddr_storage addr = {0};
    uint8_t server[16];
    uint16_t port;

    memcpy(&addr, &sockets->server.to, sizeof sockets->server.to);
    sv_sockaddr_split(&addr, server, &port);
    return sv_source_address(source, server);
}

static void on_socket(void *ctx, int events);

static int open_socket(struct sv_quic_sockets *sockets, int index)
{
    struct sv_quic_socket *at = &sockets->list[index];
    uint16_t port = 0;
    int error;

    close_socket(at);
    error = find_source(sockets, at->source);
    if (error) {
        return error;
    }
    error = sv_udp_open(&at->udp, &port, SV_UDP_ALONE, 0);
    if (error) {
        return error;
    }
    sv_udp_keep_whole(&at->udp);
    at->udp.keeps_source = true;
    at->all = sockets;
    at->fd = sockets->server.to.any.sa_family == AF_INET ? at->udp.fd4 : at->udp.fd6;
    at->watch = at->fd < 0 ? NULL : sv_watch_new(sockets->conn->side->loop, at->fd, on_socket, at);
    if (!at->watch) {
        sv_udp_close(&at->udp);
        return at->fd < 0 ? SV_E_UNREACHABLE : SV_E_NOMEM;
    }
    sv_watch_set(at->watch, SV_READABLE);
    return 0;
}

int sv_quic_sockets_aim(struct sv_quic_sockets *sockets, const struct sockaddr_storage *server)
{
    sockets->unreachable = sockets->heard = false;
    sockets->server = (struct sv_endpoint){0};
    memcpy(&sockets->server.to, server, sizeof sockets->server.to);
    return open_socket(sockets, sockets->current);
}

int sv_quic_sockets_init(struct sv_quic_sockets *sockets, struct sv_quic_conn *conn)
{
    sockets->conn = conn;
    sockets->trying = SV_QUIC_NO_SOCKET;
    sockets->batch = sv_udp_batch_new();
    return sockets->batch ? 0 : SV_E_NOMEM;
}

void sv_quic_sockets_clear(struct sv_quic_sockets *sockets)
{
    for (size_t i = 0; i < SV_QUIC_SOCKETS; i++) {
        close_socket(&sockets->list[i]);
    }
    sv_udp_batch_free(sockets->batch);
}

/* ---- datagrams in and out ---- */

/* A socket keeps the address that it began with: packets that left it from another one would look to the server like a move of their own, before and
 * beside the one that is to come. */
static void path_of(ngtcp2_path_storage *path, const struct sv_quic_socket *at)
{
    struct sv_endpoint server = at->all->server;

    if (server.to.any.sa_family == AF_INET) {
        memcpy(&server.from.in4, at->source + 12, sizeof server.from.in4);
    } else {
        memcpy(&server.from.in6, at->source, sizeof server.from.in6);
    }
    sv_quic_path_of(path, &server, at->udp.port);
}

void sv_quic_sockets_path(ngtcp2_path_storage *path, const struct sv_quic_sockets *sockets)
{
    path_of(path, &sockets->list[sockets->current]);
}

static void on_datagrams(void *ctx, const struct sv_endpoint *from, uint8_t *bytes, size_t len,
                         size_t segment)
{
    struct sv_quic_socket *at = ctx;
    struct sv_quic_conn *conn = at->all->conn;
    ngtcp2_path_storage path;

    if (!len || !sv_endpoint_same(from, &at->all->server) || !conn->quic) {
        return;
    }
    at->all->heard = true;
    sv_quic_side_now(conn->side);
    path_of(&path, at);
    for (size_t n; len; bytes += n, len -= n) {
        n = len < segment ? len : segment;
        sv_quic_conn_read(conn, &path.path, bytes, n);
    }
}

static void on_socket(void *ctx, int events)
{
    struct sv_quic_socket *at = ctx;
    struct sv_quic_side *side = at->all->conn->side;

    if (events & SV_WRITABLE) {
        sv_watch_set(at->watch, SV_READABLE);
        if (side->tx.stuck) {
            sv_quic_side_writable(side);
        }
    }
    if (!(events & SV_READABLE) || !at->watch) {
        return; /* the writing may have closed it */
    }
    for (unsigned i = 0; i < RECEIVES_PER_TURN; i++) {
        if (sv_udp_receive(at->fd, at->all->batch, on_datagrams, at) < SV_UDP_BATCH) {
            break;
        }
    }
    sv_quic_side_work(side);
}

int sv_quic_sockets_send(struct sv_quic_sockets *sockets, const ngtcp2_path *path, const uint8_t *bytes,
                         size_t len, size_t segment)
{
    struct sv_quic_socket *at = socket_of(sockets, path);
    struct sv_endpoint to;
    int error;

    if (!at) {
        return SV_E_UNREACHABLE;
    }
    sv_quic_endpoint_of(&to, path);
    error = sv_udp_send(&at->udp, &to, bytes, len, segment);
    sockets->unreachable |= error == SV_E_UNREACHABLE;
    return error;
}

void sv_quic_sockets_await_writable(struct sv_quic_sockets *sockets, const ngtcp2_path *path)
{
    struct sv_quic_socket *at = socket_of(sockets, path);

    if (at) {
        sv_watch_set(at->watch, SV_READABLE | SV_WRITABLE);
    }
}

/* ---- moving to another socket ---- */

static int free_slot(const struct sv_quic_sockets *sockets)
{
    for (int i = 0; i < SV_QUIC_SOCKETS; i++) {
        if (i != sockets->current && (i == sockets->trying || !sockets->list[i].watch)) {
            return i;
        }
    }
    return sockets->current == 0 ? 1 : 0;
}

void sv_quic_sockets_move(struct sv_quic_sockets *sockets)
{
    struct sv_quic_conn *conn = sockets->conn;
    int slot = free_slot(sockets), result;
    ngtcp2_path_storage path;

    sv_quic_settle(conn);
    if (open_socket(sockets, slot)) {
        return; /* no network now; the next change asks again */
    }
    path_of(&path, &sockets->list[slot]);
    result = ngtcp2_conn_initiate_migration(conn->quic, &path.path, sv_quic_side_now(conn->side));
    if (result) {
        close_socket(&sockets->list[slot]);
        sockets->trying = SV_QUIC_NO_SOCKET;
        sockets->rebind_waiting = result == NGTCP2_ERR_INVALID_STATE || result == NGTCP2_ERR_CONN_ID_BLOCKED;
        return;
    }
    sockets->trying = slot;
    sockets->rebind_waiting = false;
    sv_quic_conn_queue(conn);
}

void sv_quic_sockets_on_validated(struct sv_quic_sockets *sockets, const ngtcp2_path *path, bool good)
{
    struct sv_quic_socket *at = socket_of(sockets, path);

    if (!at || sockets->trying == SV_QUIC_NO_SOCKET || at != &sockets->list[sockets->trying]) {
        return;
    }
    if (good) {
        sockets->current = sockets->trying;
    }
    sockets->trying = SV_QUIC_NO_SOCKET;
}
