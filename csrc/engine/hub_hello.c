/* Who may come in: what the hub decides before a handshake, and on message 1. */
#include <string.h>

#include "base/log.h"
#include "crypto/keys.h"
#include "engine/hub.h"

static const uint8_t ABSENT[16];

/* ---- before the handshake ---- */

/* From accept to the first frame under a session's keys, over all transports together. */
static size_t half_open(const struct sv_worker *worker)
{
    size_t count = atomic_load_explicit(&worker->half_open, memory_order_relaxed);

    count += worker->ws ? sv_ws_server_opening(worker->ws) : 0;
    return count + (worker->quic ? sv_quic_server_opening(worker->quic) : 0);
}

bool sv_hub_admit_source(void *ctx, const uint8_t remote[16])
{
    struct sv_worker *worker = ctx;

    (void)remote;
    return half_open(worker) < SV_HALF_OPEN_MAX && !worker->stopping;
}

bool sv_hub_admits_init(struct sv_conn *conn, const uint8_t *frame, size_t len)
{
    struct sv_hub *hub = sv_hub_of(conn);
    uint64_t now = conn->worker->loop.now;
    const uint8_t *ephemeral;
    const char *why = NULL;

    if (!sv_session_peek_ephemeral(frame, len, &ephemeral)) {
        sv_hub_on_fatal(conn, "no handshake");
        return false;
    }
    pthread_mutex_lock(&hub->lock);
    if (!sv_admission_source_passes(&hub->admission, now, conn->link->remote)) {
        why = "too many handshakes from there";
    } else if (!sv_admission_ephemeral_is_new(&hub->admission, now, ephemeral)) {
        why = "a repeated handshake";
    }
    pthread_mutex_unlock(&hub->lock);
    if (why) {
        sv_hub_on_fatal(conn, why);
    }
    return !why;
}

void sv_hub_on_fatal(struct sv_conn *conn, const char *why)
{
    static struct sv_log_limit limit;
    char remote[SV_ADDR_TEXT_SIZE];
    struct sv_hub *hub = sv_hub_of(conn);

    if (!hub) {
        return;
    }
    if (conn->half_open) {
        atomic_fetch_add(&hub->bad_handshakes, 1);
        conn->bad_handshake = true;
    }
    sv_log_limited(&limit, conn->worker->loop.now, SV_LOG_INFO, "connection from %s closed: %s",
                   sv_addr_format(remote, sizeof remote, conn->link->remote), why);
}

/* ---- message 1 ---- */

unsigned sv_client_refusal(const struct sv_client *client, const uint8_t source[16], int64_t wall_secs)
{
    const struct sv_policy *policy = atomic_load(&client->policy);

    if (client->removed) {
        return SV_DISCONNECT_REMOVED;
    }
    if (client->disabled) {
        return SV_DISCONNECT_DISABLED;
    }
    if (client->expires_at && wall_secs >= client->expires_at) {
        return SV_DISCONNECT_EXPIRED;
    }
    return sv_acl_allows(policy->source, source) ? SV_DISCONNECT_NORMAL : SV_DISCONNECT_SOURCE_DENIED;
}

/* The address message 2 offers: nothing is reserved, the claim is made when the session goes live. */
static bool propose_address(struct sv_hub *hub, struct sv_conn *conn, struct sv_client *client)
{
    struct sv_seat *before = sv_seat_resumable(hub, conn, client);

    conn->resumed = before != NULL;
    if (!before) {
        before = sv_seat_same_instance(client, conn);
    }
    if (before) {
        conn->address_index = before->address_index;
        return true;
    }
    if (!sv_seat_index_in_use(client, client->address_index) || client->max_sessions <= 1) {
        conn->address_index = client->address_index;
        return true;
    }
    if (sv_pool_take(hub->pool, &conn->address_index)) {
        return false;
    }
    sv_pool_release(hub->pool, conn->address_index);
    return true;
}

static struct sv_wire_addr wire4(const uint8_t addr[16], uint8_t prefix)
{
    struct sv_wire_addr wire = {.length = 4, .prefix = prefix};

    memcpy(wire.bytes, addr + 12, 4);
    return wire;
}

static struct sv_wire_addr wire6(const uint8_t addr[16], uint8_t prefix)
{
    struct sv_wire_addr wire = {.length = 16, .prefix = prefix};

    memcpy(wire.bytes, addr, 16);
    return wire;
}

static void set_addresses(struct sv_hub *hub, struct sv_conn *conn)
{
    memcpy(conn->gateway4, hub->gateway4, 16);
    memcpy(conn->gateway6, hub->gateway6, 16);
    sv_pool_addr4(hub->pool, conn->address_index, conn->addr4);
    if (!hub->has6 || !sv_pool_addr6(hub->pool, conn->address_index, conn->addr6)) {
        memcpy(conn->addr6, ABSENT, 16);
    }
}

static void accept_hello(struct sv_hub *hub, struct sv_conn *conn)
{
    struct sv_settings *settings = &conn->worker->settings;
    uint32_t capabilities = conn->session.hello.capabilities;

    *settings = hub->settings;
    if (conn->link->kind == SV_TRANSPORT_QUIC) {
        settings->capabilities |= SV_CAP_DATAGRAM;
    }
    set_addresses(hub, conn);
    sv_random(settings->session_id, sizeof settings->session_id);
    settings->address4 = wire4(conn->addr4, hub->subnet4_bits);
    if (hub->has6) {
        settings->address6 = wire6(conn->addr6, hub->subnet6_bits);
    }
    memcpy(conn->session_id, settings->session_id, 16);
    conn->mtu = settings->mtu;
    conn->super_tcp = capabilities & SV_CAP_GSO_TCP;
    conn->super_udp = capabilities & SV_CAP_GSO_UDP;
    sv_session_accept(&conn->session, conn->worker->loop.now, settings, conn->resumed);
}

static void refuse(struct sv_conn *conn, unsigned code)
{
    conn->ended_by_disconnect = true;
    conn->ended_code = (uint8_t)code;
    sv_session_refuse(&conn->session, conn->worker->loop.now, code, NULL);
}

void sv_hub_on_hello(struct sv_conn *conn)
{
    struct sv_hub *hub = sv_hub_of(conn);
    struct sv_client *client;
    unsigned code;

    pthread_mutex_lock(&hub->lock);
    client = sv_map_get(&hub->clients_by_key, conn->session.peer_key);
    if (!client) {
        pthread_mutex_unlock(&hub->lock);
        sv_hub_on_fatal(conn, "an unknown key");
        sv_conn_abort(conn);
        return;
    }
    conn->client = client;
    client->conns++;
    atomic_fetch_add(&hub->handshakes, 1);
    code = sv_client_refusal(client, conn->link->remote, (int64_t)(sv_clock_wall() / SV_NS_PER_S));
    if (!code && !propose_address(hub, conn, client)) {
        code = SV_DISCONNECT_NO_ADDRESS;
    }
    if (code) {
        refuse(conn, code);
    } else {
        accept_hello(hub, conn);
    }
    pthread_mutex_unlock(&hub->lock);
    sv_worker_mark_dirty(conn);
}
