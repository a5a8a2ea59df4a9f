/* What the hub decides about sessions: message 1, going live, the end of a connection, resuming. */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "crypto/keys.h"
#include "engine/hub.h"

static const uint8_t ABSENT[16];

static struct sv_hub *hub_of(const struct sv_conn *conn)
{
    return conn->worker->engine->hub;
}

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
    struct sv_hub *hub = hub_of(conn);
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
    struct sv_hub *hub = hub_of(conn);

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

static struct sv_seat *resumable_seat(struct sv_hub *hub, const struct sv_conn *conn,
                                      const struct sv_client *client)
{
    struct sv_seat *seat = conn->session.hello.has_resume
                               ? sv_map_get(&hub->seats_by_id, conn->session.hello.resume_id)
                               : NULL;

    return seat && seat->client == client ? seat : NULL;
}

static struct sv_seat *same_instance(const struct sv_client *client, const struct sv_conn *conn)
{
    if (!conn->session.hello.has_instance) {
        return NULL;
    }
    for (struct sv_seat *seat = client->seats; seat; seat = seat->next) {
        if (memcmp(seat->instance, conn->session.hello.instance, 16) == 0) {
            return seat;
        }
    }
    return NULL;
}

static bool index_in_use(const struct sv_client *client, uint32_t index)
{
    for (const struct sv_seat *seat = client->seats; seat; seat = seat->next) {
        if (seat->address_index == index && seat->conn) {
            return true;
        }
    }
    return false;
}

/* The address message 2 offers: nothing is reserved, the claim is made when the session goes live. */
static bool propose_address(struct sv_hub *hub, struct sv_conn *conn, struct sv_client *client)
{
    struct sv_seat *before = resumable_seat(hub, conn, client);

    conn->resumed = before != NULL;
    if (!before) {
        before = same_instance(client, conn);
    }
    if (before) {
        conn->address_index = before->address_index;
        return true;
    }
    if (!index_in_use(client, client->address_index) || client->max_sessions <= 1) {
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
    struct sv_hub *hub = hub_of(conn);
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

/* ---- going live ---- */

/* Of all live seats the one to give way, when there are as many as may be: the only one, or one silent for two keepalive intervals. */
static struct sv_seat *seat_to_replace(struct sv_hub *hub, const struct sv_client *client, uint64_t now)
{
    uint64_t silence = 2 * hub->settings.keepalive_secs * SV_NS_PER_S;
    struct sv_seat *longest = NULL;
    uint64_t heard = UINT64_MAX;

    for (struct sv_seat *seat = client->seats; seat; seat = seat->next) {
        uint64_t last = seat->conn ? sv_counted(&seat->conn->published.last_received) : UINT64_MAX;

        if (seat->conn && last < heard) {
            heard = last;
            longest = seat;
        }
    }
    if (longest && client->max_sessions > 1 && now - heard < silence) {
        return NULL;
    }
    return longest;
}

static void limit_spare_seats(struct sv_hub *hub, struct sv_client *client)
{
    size_t spare = 0;

    for (struct sv_seat *seat = client->seats, *next; seat; seat = next) {
        next = seat->next;
        if (!seat->conn && ++spare > SV_HUB_SPARE_SEATS) {
            sv_seat_free(hub, seat);
        }
    }
}

/* A session without a link yields its address. */
static void evict_waiting(struct sv_hub *hub, struct sv_client *client, uint32_t index)
{
    for (struct sv_seat *seat = client->seats, *next; seat; seat = next) {
        next = seat->next;
        if (!seat->conn && seat->address_index == index) {
            sv_seat_free(hub, seat);
        }
    }
}

static bool claim_address(struct sv_hub *hub, struct sv_conn *conn, struct sv_client *client, bool *holds)
{
    *holds = false;
    evict_waiting(hub, client, conn->address_index);
    if (index_in_use(client, conn->address_index)) {
        return false;
    }
    if (conn->address_index == client->address_index) {
        return true;
    }
    *holds = sv_pool_take_index(hub->pool, conn->address_index) == 0;
    return *holds;
}

static int add_routes(struct sv_hub *hub, struct sv_conn *conn)
{
    void *old;
    int error = sv_map_set(&hub->routes, conn->addr4, conn, &old);

    if (!error && hub->has6) {
        error = sv_map_set(&hub->routes, conn->addr6, conn, &old);
    }
    return error;
}

static void remove_route(struct sv_hub *hub, const uint8_t addr[16], const struct sv_conn *conn)
{
    if (sv_map_get(&hub->routes, addr) == conn) {
        sv_map_remove(&hub->routes, addr);
    }
}

static void remove_routes(struct sv_hub *hub, struct sv_conn *conn)
{
    remove_route(hub, conn->addr4, conn);
    if (hub->has6) {
        remove_route(hub, conn->addr6, conn);
    }
}

static void announce(struct sv_hub *hub, const struct sv_seat *seat, sv_event_type type, int code)
{
    sv_event event = {.type = type, .code = code};

    memcpy(event.client_id, seat->client->id, sizeof event.client_id);
    memcpy(event.session_id, seat->session_id, sizeof event.session_id);
    if (code >= 0) {
        strncpy(event.reason, sv_disconnect_text((unsigned)code), sizeof event.reason - 1);
    }
    sv_event_put(hub->engine, &event);
}

/* The seat's connection ends with the code and the seat has it no more. */
static void detach(struct sv_hub *hub, struct sv_seat *seat, unsigned code)
{
    struct sv_conn *conn = seat->conn;

    remove_routes(hub, conn);
    seat->client->live--;
    atomic_fetch_sub(&hub->active, 1);
    announce(hub, seat, SV_EVENT_SESSION_ENDED, (int)code);
    conn->seat = NULL;
    seat->conn = NULL;
    sv_worker_kick(conn, (uint8_t)code);
}

static struct sv_seat *new_seat(struct sv_hub *hub, struct sv_conn *conn, bool holds)
{
    struct sv_client *client = conn->client;
    struct sv_seat *seat = calloc(1, sizeof *seat);

    if (!seat || sv_map_insert(&hub->seats_by_id, conn->session_id, seat)) {
        free(seat);
        return NULL;
    }
    memcpy(seat->session_id, conn->session_id, 16);
    if (conn->session.hello.has_instance) {
        memcpy(seat->instance, conn->session.hello.instance, 16);
    } else {
        sv_random(seat->instance, 16);
    }
    sv_log_escape(seat->software, sizeof seat->software, conn->session.hello.software,
                  strlen(conn->session.hello.software));
    seat->client = client;
    seat->address_index = conn->address_index;
    seat->holds_address = holds;
    seat->started_wall = sv_clock_wall();
    seat->next = client->seats;
    if (seat->next) {
        seat->next->prev = seat;
    }
    client->seats = seat;
    return seat;
}

/* Ends what this session takes the place of: the session it resumes, the older one of its instance, or one too many. 0 or a Disconnect code. */
static unsigned make_way(struct sv_hub *hub, struct sv_conn *conn)
{
    struct sv_client *client = conn->client;
    struct sv_seat *before = conn->resumed ? resumable_seat(hub, conn, client) : NULL;

    if (!before) {
        before = same_instance(client, conn);
    }
    if (!before && client->live >= client->max_sessions) {
        before = seat_to_replace(hub, client, conn->worker->loop.now);
        if (!before) {
            return SV_DISCONNECT_TOO_MANY;
        }
    }
    if (before) {
        sv_keep_move(&conn->keep, &before->keep);
        sv_seat_end(hub, before, SV_DISCONNECT_SUPERSEDED);
    }
    return 0;
}

static unsigned seat_conn(struct sv_hub *hub, struct sv_conn *conn)
{
    struct sv_client *client = conn->client;
    unsigned code = sv_client_refusal(client, conn->link->remote, (int64_t)(sv_clock_wall() / SV_NS_PER_S));
    bool holds = false;

    if (!code && memcmp(client->key, conn->session.peer_key, sizeof client->key) != 0) {
        code = SV_DISCONNECT_KEY_ROTATED;
    }
    if (!code) {
        code = make_way(hub, conn);
    }
    if (code) {
        return code;
    }
    if (!claim_address(hub, conn, client, &holds)) {
        return SV_DISCONNECT_NO_ADDRESS;
    }
    conn->seat = new_seat(hub, conn, holds);
    if (!conn->seat) {
        if (holds) {
            sv_pool_release(hub->pool, conn->address_index);
        }
        return SV_DISCONNECT_INTERNAL;
    }
    conn->seat->conn = conn;
    if (add_routes(hub, conn)) {
        conn->seat->conn = NULL;
        remove_routes(hub, conn);
        sv_seat_free(hub, conn->seat);
        conn->seat = NULL;
        return SV_DISCONNECT_INTERNAL;
    }
    limit_spare_seats(hub, client);
    return 0;
}

static void no_longer_half_open(struct sv_conn *conn)
{
    if (conn->half_open) {
        conn->half_open = false;
        atomic_fetch_sub_explicit(&conn->worker->half_open, 1, memory_order_relaxed);
    }
}

bool sv_hub_on_live(struct sv_conn *conn)
{
    struct sv_hub *hub = hub_of(conn);
    unsigned code;

    no_longer_half_open(conn);
    sv_conn_publish(conn);
    pthread_mutex_lock(&hub->lock);
    code = seat_conn(hub, conn);
    if (!code) {
        conn->client->live++;
        sv_hub_list_untold(hub, conn->client);
        atomic_fetch_add(&hub->active, 1);
        atomic_fetch_add(&hub->sessions_total, 1);
        announce(hub, conn->seat, SV_EVENT_SESSION_STARTED, -1);
    }
    pthread_mutex_unlock(&hub->lock);
    if (code) {
        sv_conn_disconnect(conn, code);
    } else {
        sv_keep_resend(&conn->keep, conn->worker, 0);
    }
    return code == 0;
}

/* ---- the end ---- */

void sv_seat_free(struct sv_hub *hub, struct sv_seat *seat)
{
    struct sv_client *client = seat->client;

    sv_heap_remove(&hub->deadlines, &seat->gone);
    sv_map_remove(&hub->seats_by_id, seat->session_id);
    if (seat->holds_address) {
        sv_pool_release(hub->pool, seat->address_index);
    }
    *(seat->prev ? &seat->prev->next : &client->seats) = seat->next;
    if (seat->next) {
        seat->next->prev = seat->prev;
    }
    sv_keep_clear(&seat->keep);
    free(seat);
}

void sv_seat_end(struct sv_hub *hub, struct sv_seat *seat, unsigned code)
{
    if (seat->conn) {
        detach(hub, seat, code);
    }
    sv_seat_free(hub, seat);
}

/* The link is gone. Without a Disconnect the seat waits to be resumed. */
static void lose_link(struct sv_hub *hub, struct sv_conn *conn)
{
    struct sv_seat *seat = conn->seat;

    remove_routes(hub, conn);
    sv_keep_answered(&conn->keep, conn->session.last_received);
    sv_keep_move(&seat->keep, &conn->keep);
    seat->conn = NULL;
    seat->client->live--;
    atomic_fetch_sub(&hub->active, 1);
    announce(hub, seat, SV_EVENT_SESSION_ENDED, conn->ended_by_disconnect ? conn->ended_code : -1);
    if (conn->ended_by_disconnect ||
        sv_heap_set(&hub->deadlines, &seat->gone, conn->worker->loop.now + hub->resume_lifetime)) {
        sv_seat_free(hub, seat);
    } else {
        limit_spare_seats(hub, seat->client);
    }
    pthread_cond_signal(&hub->changed);
}

void sv_hub_on_closed(struct sv_conn *conn)
{
    struct sv_hub *hub = hub_of(conn);

    if (conn->half_open && !conn->client && !conn->bad_handshake) {
        atomic_fetch_add(&hub->bad_handshakes, 1);
    }
    no_longer_half_open(conn);
    if (!conn->client) {
        return;
    }
    pthread_mutex_lock(&hub->lock);
    if (conn->seat) {
        lose_link(hub, conn);
        conn->seat = NULL;
    }
    sv_hub_keep_traffic(hub, conn->client, &conn->traffic);
    conn->client->conns--;
    sv_client_free_if_unused(hub, conn->client);
    conn->client = NULL;
    pthread_mutex_unlock(&hub->lock);
}

/* The lock is waited for once: whoever took the place may still be on the way to its routes. */
void sv_hub_pass_on(struct sv_conn *conn)
{
    struct sv_hub *hub = hub_of(conn);

    if (conn->keep.slots) {
        pthread_mutex_lock(&hub->lock);
        pthread_mutex_unlock(&hub->lock);
        sv_keep_resend(&conn->keep, conn->worker, conn->session.last_received);
    }
}

void sv_hub_free_later(struct sv_engine *engine, struct sv_conn *conn)
{
    struct sv_hub *hub = engine->hub;

    pthread_mutex_lock(&hub->lock);
    sv_rcu_defer(&engine->rcu, &conn->rcu, sv_rcu_free);
    pthread_mutex_unlock(&hub->lock);
}

/* ---- on the packet path ---- */

struct sv_conn *sv_hub_route(struct sv_engine *engine, const uint8_t dst[16])
{
    return sv_map_get(&engine->hub->routes, dst);
}

struct sv_limiter *sv_hub_limiter(const struct sv_client *client)
{
    return atomic_load_explicit(&client->limiter, memory_order_acquire);
}

int sv_hub_priority(const struct sv_client *client)
{
    return atomic_load_explicit(&client->policy, memory_order_acquire)->priority;
}

static bool is_gateway(const struct sv_hub *hub, const uint8_t addr[16])
{
    return memcmp(addr, hub->gateway4, 16) == 0 || (hub->has6 && memcmp(addr, hub->gateway6, 16) == 0);
}

/* DNS is a datagram or a TCP connection, whole or its first fragment: a later fragment says no port. */
static bool may_reach_host(const struct sv_ip *ip)
{
    return ip->proto == IPPROTO_ICMP || ip->proto == IPPROTO_ICMPV6 || ip->dst_port == 53;
}

enum sv_verdict sv_hub_check_destination(const struct sv_hub *hub, const struct sv_client *client,
                                         const struct sv_ip *ip)
{
    if (hub->deny_host_access && is_gateway(hub, ip->dst) && !may_reach_host(ip)) {
        return SV_DROP_ACL;
    }
    if (!client) {
        return sv_acl_never(ip->dst) ? SV_DROP_ACL : SV_PASS;
    }
    return sv_policy_check_destination(atomic_load_explicit(&client->policy, memory_order_acquire), ip->dst);
}
