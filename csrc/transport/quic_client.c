/* The client's QUIC link: its attempts at a server's addresses, and its stages. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "crypto/keys.h"
#include "transport/quic_addresses.h"
#include "transport/quic_sockets.h"

struct quic_client {
    struct sv_quic_conn conn; /* first: the sink's handle */
    struct sv_quic_side side;
    struct sv_quic_addresses addresses;
    struct sv_quic_sockets sockets;
    struct sv_timer *next_address;
    bool begun; /* with the first of them */
    uint8_t pin[32];
    uint64_t idle_timeout;
    uint64_t narrow_again_at; /* ns: sooner no other path is tried for its MTU */
};

static const uint64_t NARROW_AGAIN_AFTER = 60 * SV_NS_PER_S;

static struct quic_client *client_of(struct sv_quic_side *side)
{
    return SV_CONTAINER_OF(side, struct quic_client, side);
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
        UINT64_MAX; /* the link's own limit holds for all addresses and the handshake together */
    sv_quic_params(&params, false, client->idle_timeout);
    fill_id(&theirs);
    fill_id(&ours);
    sv_quic_sockets_path(&path, &client->sockets);
    return ngtcp2_conn_client_new(&conn->quic, &theirs, &ours, &path.path, NGTCP2_PROTO_VER_V1,
                                  &sv_quic_callbacks_client, &settings, &params, NULL, conn)
               ? SV_E_NOMEM
               : sv_quic_conn_start(conn, client->addresses.host);
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

static int try_address(struct quic_client *client, const struct sockaddr_storage *address)
{
    int error;

    drop_attempt(&client->conn);
    error = sv_quic_sockets_aim(&client->sockets, address);
    return error ? error : make_quic(client);
}

/* The address whose turn it is, or the next that a socket can be opened for. The only one left has all the time there is. */
static void attempt(struct quic_client *client)
{
    struct sv_quic_addresses *addresses = &client->addresses;
    const struct sockaddr_storage *address;
    int error = SV_E_UNREACHABLE;

    while (error && (address = sv_quic_addresses_now(addresses))) {
        error = try_address(client, address);
        if (error) {
            sv_quic_addresses_forget(addresses);
        }
    }
    if (error) {
        drop_attempt(&client->conn);
        sv_quic_conn_end(&client->conn, error, "the server cannot be reached over UDP from here");
        return;
    }
    sv_timer_set(client->next_address,
                 addresses->count > 1 ? sv_clock_now() + addresses->patience : SV_NEVER);
    sv_quic_conn_queue(&client->conn);
}

static void on_next_address(void *ctx)
{
    struct quic_client *client = ctx;

    if (client->conn.state != SV_QUIC_OPENING || client->sockets.heard) {
        return;
    }
    sv_quic_side_now(&client->side);
    if (client->begun) {
        sv_quic_addresses_pass(&client->addresses);
    }
    client->begun = true;
    attempt(client);
    sv_quic_side_work(&client->side);
}

/* ---- what the connection needs of its side ---- */

static int send_batch(struct sv_quic_side *side, const ngtcp2_path *path, const uint8_t *bytes, size_t len,
                      size_t segment)
{
    return sv_quic_sockets_send(&client_of(side)->sockets, path, bytes, len, segment);
}

static void await_writable(struct sv_quic_side *side, const ngtcp2_path *path)
{
    sv_quic_sockets_await_writable(&client_of(side)->sockets, path);
}

static void on_path_validated(struct sv_quic_conn *conn, const ngtcp2_path *path, bool good)
{
    sv_quic_sockets_on_validated(&((struct quic_client *)conn)->sockets, path, good);
}

/* The MTU of a path is looked for once: it is looked for anew on another, and by the server, too. Where that has just been found to be no better, small
 * packets do. */
static void on_narrow(struct sv_quic_conn *conn)
{
    struct quic_client *client = (struct quic_client *)conn;

    if (conn->side->now >= client->narrow_again_at) {
        client->narrow_again_at = conn->side->now + NARROW_AGAIN_AFTER;
        client->sockets.rebind_waiting = true;
    }
}

static void on_worked(struct sv_quic_conn *conn)
{
    struct quic_client *client = (struct quic_client *)conn;

    if (conn->state == SV_QUIC_OPENING && client->sockets.unreachable) {
        sv_quic_addresses_forget(&client->addresses);
        attempt(client);
    } else if (conn->state == SV_QUIC_OPEN && client->sockets.rebind_waiting) {
        sv_quic_sockets_move(&client->sockets);
    }
}

void sv_quic_client_rebind(struct sv_link *link)
{
    struct quic_client *client = (struct quic_client *)(void *)link;

    client->sockets.rebind_waiting = true;
    link->unacked_since = 0; /* the new path has its time, too */
    if (client->conn.state == SV_QUIC_OPEN && !client->conn.inside) {
        sv_quic_sockets_move(&client->sockets);
        sv_quic_side_work(&client->side);
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
    sv_quic_conn_clear(&client->conn);
    sv_quic_sockets_clear(&client->sockets);
    if (client->next_address) {
        sv_timer_close(client->next_address);
    }
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
    .on_narrow = on_narrow,
    .on_gone = on_gone,
    .on_worked = on_worked,
};

/* ---- making ---- */

static int make_parts(struct quic_client *client, struct sv_loop *loop,
                      const struct sv_quic_client_config *config)
{
    int error = sv_quic_side_init(&client->side, loop, &client_ops);

    sv_quic_conn_init(&client->conn, &client->side, config->sink, config->owner);
    client->next_address = sv_timer_new(loop, on_next_address, client);
    error = sv_quic_sockets_init(&client->sockets, &client->conn) || !client->next_address ? SV_E_NOMEM
                                                                                           : error;
    return error ? error : sv_quic_tls_init_client(&client->side.tls);
}

int sv_quic_client_connect(struct sv_link **link, struct sv_loop *loop,
                           const struct sv_quic_client_config *config)
{
    struct quic_client *client = calloc(1, sizeof *client);
    struct sv_quic_conn *conn = client ? &client->conn : NULL;
    int error;

    if (!client) {
        return SV_E_NOMEM;
    }
    error = make_parts(client, loop, config);
    client->idle_timeout = config->idle_timeout;
    conn->told = true;
    conn->give_up_at = conn->link.opened_at + config->timeout;
    if (config->cert_hash) {
        memcpy(client->pin, config->cert_hash, sizeof client->pin);
        conn->pin = client->pin;
    }
    if (!error) {
        error = sv_quic_addresses_init(&client->addresses, config->address, config->addresses);
    }
    if (error) {
        free_client(client);
        return error;
    }
    sv_timer_set(client->next_address, 0);
    sv_quic_conn_arm(conn);
    *link = &conn->link;
    return 0;
}
