/* Sessions as the hub sees them: going live, taking the place of another, the end of a connection. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "crypto/keys.h"
#include "engine/hub.h"

/* ---- of a client ---- */

struct sv_seat *sv_seat_resumable(struct sv_hub *hub, const struct sv_conn *conn,
                                  const struct sv_client *client)
{
    struct sv_seat *seat = conn->session.hello.has_resume
                               ? sv_map_get(&hub->seats_by_id, conn->session.hello.resume_id)
                               : NULL;

    return seat && seat->client == client ? seat : NULL;
}

struct sv_seat *sv_seat_same_instance(const struct sv_client *client, const struct sv_conn *conn)
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

bool sv_seat_index_in_use(const struct sv_client *client, uint32_t index)
{
    for (const struct sv_seat *seat = client->seats; seat; seat = seat->next) {
        if (seat->address_index == index && seat->conn) {
            return true;
        }
    }
    return false;
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
    if (sv_seat_index_in_use(client, conn->address_index)) {
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
    struct sv_seat *before = conn->resumed ? sv_seat_resumable(hub, conn, client) : NULL;

    if (!before) {
        before = sv_seat_same_instance(client, conn);
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
    struct sv_hub *hub = sv_hub_of(conn);
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
    struct sv_hub *hub = sv_hub_of(conn);

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
    struct sv_hub *hub = sv_hub_of(conn);

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
