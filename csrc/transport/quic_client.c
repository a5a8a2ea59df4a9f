/* The client's QUIC link: a name becomes addresses, which are tried in turn; sockets come and go with the machine's networks. */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "crypto/keys.h"
#include "io/netwatch.h"
#include "io/socket.h"
#include "transport/quic_conn.h"

enum {
    HOST_MAX = 256,
    PORT_MAX = 6,
    ADDRESSES_MAX = 8,
    SOCKETS = 3, /* in use, being tried, and the one before, which packets may still come to */
    RECEIVES_PER_TURN = 2,
    NONE = -1,
};

/* What an address has to answer in before the next one is tried (RFC 8305); twice that in each round, for paths that take longer. */
static const uint64_t STAGGER = 250 * SV_NS_PER_MS;

struct client_socket {
    struct quic_client *client;
    struct sv_udp udp;
    struct sv_watch *watch; /* NULL: not open */
    int fd;
    uint8_t source[16]; /* our address on the way to the server when it was opened */
};

/* Outlives the client when that ends first. */
struct lookup {
    uv_getaddrinfo_t request;
    struct quic_client *client;
};

struct quic_client {
    struct sv_quic_conn conn; /* first: the sink's handle */
    struct sv_quic_side side;
    char host[HOST_MAX], port[PORT_MAX];
    uint8_t pin[32];
    uint64_t idle_timeout;
    struct lookup *lookup; /* under way */
    struct sockaddr_storage addresses[ADDRESSES_MAX];
    size_t address_count, address; /* the one that is being tried */
    uint64_t stagger;
    struct sv_timer *next_address;
    struct sv_endpoint server;
    struct client_socket sockets[SOCKETS];
    int current, trying;
    bool unreachable;    /* the network refused to send to the address */
    bool heard;          /* the address has answered: it is the one */
    bool rebind_waiting; /* until the connection can */
    struct sv_udp_batch *batch;
};

static struct quic_client *client_of(struct sv_quic_side *side)
{
    return SV_CONTAINER_OF(side, struct quic_client, side);
}

/* ---- sockets ---- */

/* A batch that waits for the socket is lost with it, as on the network; it would keep all others waiting. */
static void lose_batch(struct client_socket *at)
{
    struct sv_quic_tx *tx = &at->client->side.tx;

    if (tx->stuck && sv_quic_local_port(&tx->path.path) == at->udp.port) {
        tx->stuck = tx->full = false;
        tx->len = tx->count = 0;
    }
}

static void close_socket(struct client_socket *at)
{
    if (at->watch) {
        lose_batch(at);
        sv_watch_close(at->watch);
        at->watch = NULL;
        sv_udp_close(&at->udp);
    }
}

static struct client_socket *socket_of(struct quic_client *client, const ngtcp2_path *path)
{
    uint16_t port = sv_quic_local_port(path);

    for (size_t i = 0; i < SOCKETS; i++) {
        if (client->sockets[i].watch && client->sockets[i].udp.port == port) {
            return &client->sockets[i];
        }
    }
    return NULL;
}

/* A socket keeps the address that it began with: packets that left it from another one would look to the server like a move of their own, before and
 * beside the one that is to come. */
static void path_of(ngtcp2_path_storage *path, const struct client_socket *at)
{
    struct sv_endpoint server = at->client->server;

    if (server.to.any.sa_family == AF_INET) {
        memcpy(&server.from.in4, at->source + 12, sizeof server.from.in4);
    } else {
        memcpy(&server.from.in6, at->source, sizeof server.from.in6);
    }
    sv_quic_path_of(path, &server, at->udp.port);
}

static void on_datagrams(void *ctx, const struct sv_endpoint *from, uint8_t *bytes, size_t len,
                         size_t segment)
{
    struct client_socket *at = ctx;
    struct quic_client *client = at->client;
    ngtcp2_path_storage path;

    if (!sv_endpoint_same(from, &client->server) || !client->conn.quic) {
        return;
    }
    client->heard = true;
    sv_quic_side_now(&client->side);
    path_of(&path, at);
    for (size_t n; len; bytes += n, len -= n) {
        n = len < segment ? len : segment;
        sv_quic_conn_read(&client->conn, &path.path, bytes, n);
    }
}

static void on_socket(void *ctx, int events)
{
    struct client_socket *at = ctx;
    struct quic_client *client = at->client;

    if (events & SV_WRITABLE) {
        sv_watch_set(at->watch, SV_READABLE);
        if (client->side.tx.stuck) {
            sv_quic_side_writable(&client->side);
        }
    }
    if (!(events & SV_READABLE) || !at->watch) {
        return; /* the writing may have closed it */
    }
    for (unsigned i = 0; i < RECEIVES_PER_TURN; i++) {
        if (sv_udp_receive(at->fd, client->batch, on_datagrams, at) < SV_UDP_BATCH) {
            break;
        }
    }
    sv_quic_side_work(&client->side);
}

static int find_source(const struct quic_client *client, uint8_t source[16])
{
    struct sockaddr_storage addr = {0};
    uint8_t server[16];
    uint16_t port;

    memcpy(&addr, &client->server.to, sizeof client->server.to);
    sv_sockaddr_split(&addr, server, &port);
    return sv_source_address(source, server);
}

static int open_socket(struct quic_client *client, int index)
{
    struct client_socket *at = &client->sockets[index];
    uint16_t port = 0;
    int error;

    close_socket(at);
    error = find_source(client, at->source);
    if (error) {
        return error;
    }
    error = sv_udp_open(&at->udp, &port, SV_UDP_ALONE, 0);
    if (error) {
        return error;
    }
    sv_udp_keep_whole(&at->udp);
    at->udp.keeps_source = true;
    at->client = client;
    at->fd = client->server.to.any.sa_family == AF_INET ? at->udp.fd4 : at->udp.fd6;
    at->watch = at->fd < 0 ? NULL : sv_watch_new(client->side.loop, at->fd, on_socket, at);
    if (!at->watch) {
        sv_udp_close(&at->udp);
        return at->fd < 0 ? SV_E_UNREACHABLE : SV_E_NOMEM;
    }
    sv_watch_set(at->watch, SV_READABLE);
    return 0;
}

static int send_batch(struct sv_quic_side *side, const ngtcp2_path *path, const uint8_t *bytes, size_t len,
                      size_t segment)
{
    struct quic_client *client = client_of(side);
    struct client_socket *at = socket_of(client, path);
    struct sv_endpoint to;
    int error;

    if (!at) {
        return SV_E_UNREACHABLE;
    }
    sv_quic_endpoint_of(&to, path);
    error = sv_udp_send(&at->udp, &to, bytes, len, segment);
    client->unreachable |= error == SV_E_UNREACHABLE;
    return error;
}

static void await_writable(struct sv_quic_side *side, const ngtcp2_path *path)
{
    struct client_socket *at = socket_of(client_of(side), path);

    if (at) {
        sv_watch_set(at->watch, SV_READABLE | SV_WRITABLE);
    }
}

/* ---- attempts ---- */

static void fill_id(ngtcp2_cid *id)
{
    uint8_t bytes[SV_QUIC_ID];

    sv_random(bytes, sizeof bytes);
    ngtcp2_cid_init(id, bytes, sizeof bytes);
}

static int make_quic(struct quic_client *client)
{
    struct sv_quic_conn *conn = &client->conn;
    ngtcp2_path_storage path;
    ngtcp2_transport_params params;
    ngtcp2_settings settings;
    ngtcp2_cid theirs, ours;

    sv_quic_settings(&settings, sv_quic_side_now(conn->side));
    settings.handshake_timeout =
        UINT64_MAX; /* the link's own limit holds for names, addresses and handshake together */
    sv_quic_params(&params, false, client->idle_timeout);
    fill_id(&theirs);
    fill_id(&ours);
    path_of(&path, &client->sockets[client->current]);
    return ngtcp2_conn_client_new(&conn->quic, &theirs, &ours, &path.path, NGTCP2_PROTO_VER_V1,
                                  &sv_quic_callbacks_client, &settings, &params, NULL, conn)
               ? SV_E_NOMEM
               : sv_quic_conn_start(conn, client->host);
}

static void drop_attempt(struct sv_quic_conn *conn)
{
    sv_quic_send_forget(conn);
    if (conn->quic) {
        ngtcp2_conn_del(conn->quic);
        conn->quic = NULL;
    }
    if (conn->session) {
        gnutls_deinit(conn->session);
        conn->session = NULL;
    }
}

/* After the last address comes the first again. */
static void come_round(struct quic_client *client)
{
    if (client->address >= client->address_count) {
        client->address = 0;
        client->stagger *= 2;
    }
}

static void forget_address(struct quic_client *client)
{
    size_t after = --client->address_count - client->address;
    struct sockaddr_storage *gone = &client->addresses[client->address];

    memmove(gone, gone + 1, after * sizeof *gone);
    come_round(client);
}

static int try_address(struct quic_client *client)
{
    int error;

    drop_attempt(&client->conn);
    client->unreachable = client->heard = false;
    client->server = (struct sv_endpoint){0};
    memcpy(&client->server.to, &client->addresses[client->address], sizeof client->server.to);
    error = open_socket(client, client->current);
    return error ? error : make_quic(client);
}

/* The address whose turn it is, or the next that a socket can be opened for. The only one left has all the time there is. */
static void attempt(struct quic_client *client)
{
    struct sv_quic_conn *conn = &client->conn;
    int error = SV_E_UNREACHABLE;

    while (error && client->address_count) {
        error = try_address(client);
        if (error) {
            forget_address(client);
        }
    }
    if (error) {
        drop_attempt(conn);
        sv_quic_conn_end(conn, error, "the server cannot be reached over UDP from here");
        return;
    }
    sv_timer_set(client->next_address,
                 client->address_count > 1 ? sv_clock_now() + client->stagger : SV_NEVER);
    sv_quic_conn_queue(conn);
}

static void on_silence(void *ctx)
{
    struct quic_client *client = ctx;

    if (client->conn.state == SV_QUIC_OPENING && !client->heard) {
        sv_quic_side_now(&client->side);
        client->address++;
        come_round(client);
        attempt(client);
        sv_quic_side_work(&client->side);
    }
}

/* ---- names ---- */

static void keep_addresses(struct quic_client *client, const struct addrinfo *list)
{
    for (; list && client->address_count < ADDRESSES_MAX; list = list->ai_next) {
        memcpy(&client->addresses[client->address_count++], list->ai_addr, list->ai_addrlen);
    }
}

static void on_looked_up(uv_getaddrinfo_t *request, int status, struct addrinfo *list)
{
    struct lookup *lookup = SV_CONTAINER_OF(request, struct lookup, request);
    struct quic_client *client = lookup->client;
    char why[SV_QUIC_WHY];

    if (client) {
        sv_loop_wake(client->side.loop);
        client->lookup = NULL;
        if (client->conn.state == SV_QUIC_CLOSED) {
            /* it has ended meanwhile */
        } else if (status) {
            snprintf(why, sizeof why, "%.100s: %s", client->host, uv_strerror(status));
            sv_quic_conn_end(&client->conn, SV_E_UNREACHABLE, why);
        } else {
            keep_addresses(client, list);
            attempt(client);
            sv_quic_side_work(&client->side);
        }
    }
    uv_freeaddrinfo(list);
    free(lookup);
}

static int look_up(struct quic_client *client)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM};
    struct lookup *lookup = calloc(1, sizeof *lookup);

    if (!lookup) {
        return SV_E_NOMEM;
    }
    lookup->client = client;
    if (uv_getaddrinfo(&client->side.loop->uv, &lookup->request, on_looked_up, client->host, client->port,
                       &hints)) {
        free(lookup);
        return SV_E_SYSTEM;
    }
    client->lookup = lookup;
    return 0;
}

/* "name:port", "1.2.3.4:port", "[v6]:port" */
static int split_address(struct quic_client *client, const char *text)
{
    const char *colon = text ? strrchr(text, ':') : NULL;
    size_t host = colon ? (size_t)(colon - text) : 0;
    unsigned long port = colon && colon[1] >= '0' && colon[1] <= '9' ? strtoul(colon + 1, NULL, 10) : 0;
    bool bracket = host >= 2 && text[0] == '[' && text[host - 1] == ']';

    if (!host || host >= HOST_MAX || !port || port > 65535 || strlen(colon + 1) >= PORT_MAX ||
        strspn(colon + 1, "0123456789") != strlen(colon + 1) || (!bracket && memchr(text, ':', host))) {
        return sv_fail(SV_E_INVALID, "serverUrl: %s is not host:port", text ? text : "");
    }
    memcpy(client->host, text + bracket, host - 2 * bracket);
    strcpy(client->port, colon + 1);
    return 0;
}

/* ---- moving to another socket ---- */

static int free_slot(const struct quic_client *client)
{
    for (int i = 0; i < SOCKETS; i++) {
        if (i != client->current && (i == client->trying || !client->sockets[i].watch)) {
            return i;
        }
    }
    return client->current == 0 ? 1 : 0;
}

static void rebind(struct quic_client *client)
{
    struct sv_quic_conn *conn = &client->conn;
    int slot = free_slot(client), result;
    ngtcp2_path_storage path;

    sv_quic_settle(conn);
    if (open_socket(client, slot)) {
        return; /* no network now; the next change asks again */
    }
    path_of(&path, &client->sockets[slot]);
    result = ngtcp2_conn_initiate_migration(conn->quic, &path.path, sv_quic_side_now(&client->side));
    if (result) {
        close_socket(&client->sockets[slot]);
        client->trying = NONE;
        client->rebind_waiting = result == NGTCP2_ERR_INVALID_STATE || result == NGTCP2_ERR_CONN_ID_BLOCKED;
        return;
    }
    client->trying = slot;
    client->rebind_waiting = false;
    sv_quic_conn_queue(conn);
}

void sv_quic_client_rebind(struct sv_link *link)
{
    struct quic_client *client = (struct quic_client *)(void *)link;

    client->rebind_waiting = true;
    link->unacked_since = 0; /* the new path has its time, too */
    if (client->conn.state == SV_QUIC_OPEN && !client->conn.inside) {
        rebind(client);
        sv_quic_side_work(&client->side);
    }
}

static void on_path_validated(struct sv_quic_conn *conn, const ngtcp2_path *path, bool good)
{
    struct quic_client *client = (struct quic_client *)conn;
    struct client_socket *at = socket_of(client, path);

    if (!at || client->trying == NONE || at != &client->sockets[client->trying]) {
        return;
    }
    if (good) {
        client->current = client->trying;
    }
    client->trying = NONE;
}

static void on_worked(struct sv_quic_conn *conn)
{
    struct quic_client *client = (struct quic_client *)conn;

    if (conn->state == SV_QUIC_OPENING && client->unreachable) {
        forget_address(client);
        attempt(client);
    } else if (conn->state == SV_QUIC_OPEN && client->rebind_waiting) {
        rebind(client);
    }
}

/* ---- stages ---- */

static void refuse(struct sv_quic_conn *conn, const char *why)
{
    conn->fault = SV_E_REFUSED;
    conn->fault_why = why;
}

static void keep_alive(struct quic_client *client)
{
    uint64_t theirs = ngtcp2_conn_get_remote_transport_params2(client->conn.quic)->max_idle_timeout;
    uint64_t idle = theirs && theirs < client->idle_timeout ? theirs : client->idle_timeout;

    ngtcp2_conn_set_keep_alive_timeout(client->conn.quic, idle / 3);
}

static void on_handshake(struct sv_quic_conn *conn)
{
    if (!sv_quic_tls_agreed(conn->session)) {
        refuse(conn, "the server does not speak smartvpn over QUIC (ALPN)");
        return;
    }
    if (ngtcp2_conn_open_bidi_stream(conn->quic, &conn->stream, NULL)) {
        conn->stream = -1;
        refuse(conn, "the server allows no stream");
        return;
    }
    keep_alive((struct quic_client *)conn);
    conn->give_up_at = SV_NEVER;
    conn->state = SV_QUIC_OPEN;
    sv_quic_conn_learn_path(conn);
    conn->link.sink->on_open(&conn->link);
}

static void free_client(struct quic_client *client)
{
    if (client->lookup) {
        client->lookup->client = NULL;
        uv_cancel((uv_req_t *)&client->lookup->request);
    }
    sv_quic_conn_clear(&client->conn);
    for (size_t i = 0; i < SOCKETS; i++) {
        close_socket(&client->sockets[i]);
    }
    if (client->next_address) {
        sv_timer_close(client->next_address);
    }
    sv_udp_batch_free(client->batch);
    sv_quic_side_clear(&client->side);
    free(client);
}

static void on_gone(struct sv_quic_conn *conn)
{
    free_client((struct quic_client *)conn);
}

static void new_id(struct sv_quic_side *side, ngtcp2_cid *id)
{
    (void)side;
    fill_id(id);
}

/* A client has one connection, which everything on its sockets is for. */
static int add_id(struct sv_quic_conn *conn, const ngtcp2_cid *id)
{
    (void)conn;
    (void)id;
    return 0;
}

static void remove_id(struct sv_quic_conn *conn, const ngtcp2_cid *id)
{
    (void)conn;
    (void)id;
}

static void reset_token(struct sv_quic_side *side, const ngtcp2_cid *id, ngtcp2_stateless_reset_token *token)
{
    (void)side;
    (void)id;
    sv_random(token->data, sizeof token->data);
}

static const struct sv_quic_side_ops client_ops = {
    .new_id = new_id,
    .add_id = add_id,
    .remove_id = remove_id,
    .reset_token = reset_token,
    .send = send_batch,
    .await_writable = await_writable,
    .on_handshake = on_handshake,
    .on_path_validated = on_path_validated,
    .on_gone = on_gone,
    .on_worked = on_worked,
};

/* ---- making ---- */

int sv_quic_client_connect(struct sv_link **link, struct sv_loop *loop,
                           const struct sv_quic_client_config *config)
{
    struct quic_client *client = calloc(1, sizeof *client);
    struct sv_quic_conn *conn = client ? &client->conn : NULL;
    int error;

    if (!client) {
        return SV_E_NOMEM;
    }
    client->trying = NONE;
    client->idle_timeout = config->idle_timeout;
    error = sv_quic_side_init(&client->side, loop, &client_ops);
    sv_quic_conn_init(conn, &client->side, config->sink, config->owner);
    conn->told = true;
    conn->give_up_at = conn->link.opened_at + config->timeout;
    if (config->cert_hash) {
        memcpy(client->pin, config->cert_hash, sizeof client->pin);
        conn->pin = client->pin;
    }
    client->stagger = STAGGER;
    client->next_address = sv_timer_new(loop, on_silence, client);
    client->batch = sv_udp_batch_new();
    if (!error) {
        error = client->batch && client->next_address ? sv_quic_tls_init_client(&client->side.tls)
                                                      : SV_E_NOMEM;
    }
    if (!error) {
        error = split_address(client, config->address);
    }
    if (!error) {
        error = look_up(client);
    }
    if (error) {
        free_client(client);
        return error;
    }
    sv_quic_conn_arm(conn);
    *link = &conn->link;
    return 0;
}
