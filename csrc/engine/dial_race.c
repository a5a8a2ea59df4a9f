/* The dialer's attempts: a link is opened, the session begun on it, and the first one that is answered carries the tunnel. */
#include "engine/dialer_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "crypto/aead.h"
#include "crypto/keys.h"
#include "transport/quic.h"

enum {
    QUIC_IDLE_SECS = 30,
    WAYS_MS = 1000,         /* for a way around the tunnel to be made */
    LOOK_AGAIN_MS = 10,     /* meanwhile */
    CLAMPED_SEGMENT = 1180, /* fits a path of 1280 bytes with IPv6 and TCP's options */
};

static const char *const names[SV_DIAL_WAYS] = {"QUIC", "WebSocket"};

static const struct sv_link_sink dial_sink;

static enum sv_dial_way way_of(const struct sv_dial_attempt *attempt)
{
    return (enum sv_dial_way)(attempt - attempt->dialer->attempts);
}

struct sv_dial_attempt *sv_dial_attempt_of(struct sv_dialer *dialer, const struct sv_conn *conn)
{
    for (int way = 0; way < SV_DIAL_WAYS; way++) {
        if (dialer->attempts[way].pending == conn) {
            return &dialer->attempts[way];
        }
    }
    return NULL;
}

static bool is_under_way(const struct sv_dial_attempt *attempt)
{
    return attempt->asking || attempt->opening || attempt->pending;
}

/* ---- beginning and giving up ---- */

static int open_websocket(struct sv_dialer *dialer, struct sv_dial_attempt *attempt)
{
    struct sv_ws_client_config config = {
        .url = dialer->url,
        .addresses = attempt->addresses.count ? &attempt->addresses : NULL,
        .cert_hash = dialer->has_cert_hash ? dialer->cert_hash : NULL,
        .pin_strict = dialer->cert_hash_strict,
        .timeout_ns = dialer->handshake_timeout,
        .max_segment = dialer->clamped ? CLAMPED_SEGMENT : 0,
        .sink = &dial_sink,
        .owner = attempt,
    };

    return sv_ws_client_connect(&attempt->opening, &dialer->worker->loop, &config);
}

static int open_quic(struct sv_dialer *dialer, struct sv_dial_attempt *attempt)
{
    struct sv_quic_client_config config = {
        .address = dialer->quic_address,
        .addresses = &attempt->addresses,
        .cert_hash = dialer->has_cert_hash ? dialer->cert_hash : NULL,
        .timeout = dialer->handshake_timeout,
        .idle_timeout = QUIC_IDLE_SECS * SV_NS_PER_S,
        .sink = &dial_sink,
        .owner = attempt,
    };

    return sv_quic_client_connect(&attempt->opening, &dialer->worker->loop, &config);
}

void sv_dial_start(struct sv_dialer *dialer, enum sv_dial_way way)
{
    struct sv_dial_attempt *attempt = &dialer->attempts[way];

    attempt->started = sv_clock_now();
    attempt->error = 0;
    attempt->asking = true;
    attempt->ways_until = SV_NEVER;
    attempt->addresses.count = 0;
    if (!is_under_way(&dialer->attempts[!way])) {
        dialer->began_at = attempt->started;
    }
    sv_dial_name_ask(attempt->name, attempt->started);
}

static void open_link(struct sv_dial_attempt *attempt)
{
    struct sv_dialer *dialer = attempt->dialer;

    attempt->asking = false;
    if (way_of(attempt) == SV_DIAL_QUIC ? open_quic(dialer, attempt) : open_websocket(dialer, attempt)) {
        attempt->opening = NULL;
        sv_dial_on_failed(attempt, SV_E_INVALID, sv_error_detail());
    }
}

void sv_dial_abandon(struct sv_dial_attempt *attempt)
{
    if (attempt->asking) {
        attempt->asking = false;
        sv_dial_on_failed(attempt, SV_E_TIMEOUT, "the name servers do not answer in time");
    }
    if (attempt->opening) {
        attempt->opening->ops->close(attempt->opening, SV_CLOSE_SILENT);
    }
    if (attempt->pending) {
        sv_conn_abort(attempt->pending);
    }
}

/* ---- where to ---- */

/* Ways that lead into the tunnel are told, and get a moment to be led around it. */
static uint64_t go_by_ways(struct sv_dial_attempt *attempt, uint64_t now)
{
    struct sv_dialer *dialer = attempt->dialer;
    struct sv_addresses outside;
    size_t inside;

    sv_dial_name_addresses(attempt->name, &attempt->addresses);
    outside = attempt->addresses;
    inside = sv_dial_ways_inside(dialer, &outside);
    if (inside && attempt->ways_until == SV_NEVER) {
        attempt->ways_until = now + WAYS_MS * SV_NS_PER_MS;
        sv_dial_ways_publish(dialer, true);
    }
    if (inside && now < attempt->ways_until) {
        return now + LOOK_AGAIN_MS * SV_NS_PER_MS;
    }
    attempt->addresses = outside;
    if (outside.count) {
        open_link(attempt);
    } else {
        attempt->asking = false;
        sv_dial_on_failed(attempt, SV_E_UNREACHABLE, "all ways to the hub lead into the tunnel itself");
    }
    return SV_NEVER;
}

/* A proxy knows by itself where the hub is; what is known here is for a hub that the environment excepts from it. */
static bool is_proxied(const struct sv_dial_attempt *attempt)
{
    return way_of(attempt) == SV_DIAL_WEBSOCKET && sv_ws_client_proxied();
}

static uint64_t go_on(struct sv_dial_attempt *attempt, uint64_t now)
{
    if (!attempt->asking) {
        return SV_NEVER;
    }
    if (is_proxied(attempt)) {
        sv_dial_name_addresses(attempt->name, &attempt->addresses);
        open_link(attempt);
        return SV_NEVER;
    }
    switch (sv_dial_name_knows(attempt->name, now)) {
    case SV_DIAL_KNOWS:
        return go_by_ways(attempt, now);
    case SV_DIAL_ASKS:
        return sv_dial_name_deadline(attempt->name);
    default:
        attempt->asking = false;
        sv_dial_on_failed(attempt, SV_E_UNREACHABLE, attempt->name->why);
        return SV_NEVER;
    }
}

uint64_t sv_dial_go_on(struct sv_dialer *dialer)
{
    uint64_t now = sv_clock_now(), at = SV_NEVER;

    for (int way = 0; way < SV_DIAL_WAYS; way++) {
        uint64_t next = go_on(&dialer->attempts[way], now);

        at = next < at ? next : at;
    }
    sv_dial_ways_publish(dialer, false);
    return at;
}

void sv_dial_on_learned(const struct sv_dial_name *name)
{
    struct sv_dialer *dialer = name->dialer;

    for (int way = 0; way < SV_DIAL_WAYS; way++) {
        struct sv_dial_attempt *attempt = &dialer->attempts[way];
        bool lacks = false;

        for (size_t i = 0; i < name->known.count; i++) {
            lacks |= !sv_addresses_have(&attempt->addresses, &name->known.list[i]);
        }
        if (attempt->name == name && attempt->opening && lacks && !is_proxied(attempt)) {
            sv_dial_plan_anew(&dialer->plan, (enum sv_dial_way)way, sv_clock_now());
        }
    }
}

/* ---- all of a race have failed ---- */

/* What says most: a refusal, else what WebSocket met, which others have fewer reasons to block. */
static const struct sv_dial_attempt *telling(const struct sv_dialer *dialer)
{
    const struct sv_dial_attempt *quic = &dialer->attempts[SV_DIAL_QUIC];
    const struct sv_dial_attempt *websocket = &dialer->attempts[SV_DIAL_WEBSOCKET];

    return !websocket->error || (quic->error == SV_E_AUTH && websocket->error != SV_E_AUTH) ? quic
                                                                                            : websocket;
}

static void tell_failure(struct sv_dialer *dialer)
{
    const struct sv_dial_attempt *most = telling(dialer);
    const struct sv_dial_attempt *other = &dialer->attempts[!way_of(most)];
    char reason[SV_REASON_SIZE];

    if (other->error && strcmp(other->why, most->why) != 0) {
        snprintf(reason, sizeof reason, "%.150s (%s: %.80s)", most->why, names[way_of(other)], other->why);
    } else {
        snprintf(reason, sizeof reason, "%s", most->why);
    }
    sv_dialer_tell_loss(dialer, most->error, reason);
}

void sv_dial_on_failed(struct sv_dial_attempt *attempt, int error, const char *why)
{
    struct sv_dialer *dialer = attempt->dialer;
    enum sv_dial_way way = way_of(attempt);
    bool unwanted = dialer->plan.tries[way].unwanted || dialer->plan.tries[way].stale;
    uint32_t random;

    attempt->error = error ? error : *why ? SV_E_CLOSED : SV_E_TIMEOUT;
    snprintf(attempt->why, sizeof attempt->why, "%s", *why ? why : "no answer in time");
    sv_random(&random, sizeof random);
    if (!dialer->stopped && !unwanted) {
        sv_log(SV_LOG_INFO, "no session over %s: %s", names[way], attempt->why);
    }
    if (sv_dial_plan_failed(&dialer->plan, way, sv_clock_now(), random) && !dialer->active) {
        tell_failure(dialer);
    }
    if (!dialer->stopped) {
        sv_timer_set(dialer->timer, 0);
    }
}

/* ---- the link opens ---- */

static void fill_hello(const struct sv_dialer *dialer, const struct sv_link *link, struct sv_hello *hello)
{
    *hello = (struct sv_hello){
        .capabilities = SV_CAP_BATCH | SV_CAP_GSO_TCP | SV_CAP_RESUME | SV_CAP_REKEY,
        .has_resume = dialer->has_resume,
        .has_instance = true,
    };
    if (dialer->worker->engine->tun.udp_gso) {
        hello->capabilities |= SV_CAP_GSO_UDP;
    }
    if (sv_aead_prefers_aes()) {
        hello->capabilities |= SV_CAP_AES_GCM;
    }
    if (link->kind == SV_TRANSPORT_QUIC) {
        hello->capabilities |= SV_CAP_DATAGRAM;
    }
    memcpy(hello->instance, dialer->instance, 16);
    memcpy(hello->resume_id, dialer->resume_id, 16);
    snprintf(hello->software, sizeof hello->software, "smartvpn %s", sv_version());
}

/* A link through the tunnel would end with the one that it is to replace. */
static bool may_carry(const struct sv_dialer *dialer, const struct sv_link *link)
{
    return !dialer->stopped && !sv_dial_way_inside(dialer, link->path_remote);
}

static void on_open(struct sv_link *link)
{
    struct sv_dial_attempt *attempt = link->owner;
    struct sv_dialer *dialer = attempt->dialer;
    struct sv_worker *worker = dialer->worker;
    struct sv_session_config config = {
        .private_key = dialer->private_key,
        .public_key = worker->engine->public_key,
        .server_key = dialer->server_key,
        .keepalive_secs = dialer->keepalive_secs,
    };
    struct sv_conn *conn;

    sv_loop_wake(&worker->loop);
    conn = may_carry(dialer, link) ? sv_conn_new(worker, link) : NULL;
    if (!conn) {
        link->ops->close(link, SV_CLOSE_SILENT);
        return;
    }
    attempt->opening = NULL;
    attempt->pending = conn;
    fill_hello(dialer, link, &config.hello);
    sv_session_init(&conn->session, &config, worker->loop.now);
    if (!dialer->active) {
        sv_dialer_set_state(dialer, SV_CLIENT_HANDSHAKING, -1, 0, "");
    }
    sv_conn_flush(conn);
}

static void on_closed_early(struct sv_link *link, int error, const char *text)
{
    struct sv_dial_attempt *attempt = link->owner;

    attempt->opening = NULL;
    sv_dial_on_failed(attempt, error, text);
}

static const struct sv_link_sink dial_sink = {.on_open = on_open, .on_closed = on_closed_early};

/* ---- the session is there ---- */

/* What could not be sent yet goes by the new link: it is what inner connections wait for. */
static void hand_queue_over(struct sv_conn *from, struct sv_conn *to)
{
    if (!to->queue) {
        to->queue = from->queue;
        from->queue = NULL;
        sv_worker_mark_dirty(to);
    }
}

/* The new connection is live: what was before ends without a word, since the hub has moved the session already. */
static void become_active(struct sv_dialer *dialer, struct sv_conn *conn, struct sv_dial_attempt *attempt)
{
    struct sv_conn *before = dialer->active;

    if (before) {
        sv_log(SV_LOG_INFO, "the session goes on over %s", names[way_of(attempt)]);
        dialer->moved_at = sv_clock_now();
    }
    attempt->pending = NULL;
    dialer->active = conn;
    memset(&dialer->degrade, 0, sizeof dialer->degrade);
    dialer->has_resume = conn->session.peer_capabilities & SV_CAP_RESUME;
    memcpy(dialer->resume_id, conn->session.session_id, 16);
    sv_dial_plan_won(&dialer->plan, way_of(attempt), sv_clock_now());
    sv_dial_ways_note(dialer, conn->link->path_remote);
    sv_dial_name_worked(attempt->name, conn->link->path_remote);
    if (before && before != conn) {
        hand_queue_over(before, conn);
        sv_keep_resend(&before->keep, conn->worker, before->session.last_received);
        sv_conn_abort(before);
    }
    sv_keep_resend(&dialer->keep, conn->worker, 0);
    sv_dialer_run(dialer);
}

static void wire_to_addr(uint8_t addr[16], const struct sv_wire_addr *wire)
{
    memset(addr, 0, 16);
    if (wire->length == 4) {
        addr[10] = addr[11] = 0xFF;
        memcpy(addr + 12, wire->bytes, 4);
    } else {
        memcpy(addr, wire->bytes, wire->length);
    }
}

static uint16_t smaller_mtu(const struct sv_dialer *dialer, uint16_t offered)
{
    return dialer->mtu && dialer->mtu < offered ? dialer->mtu : offered;
}

void sv_dialer_on_settings(struct sv_conn *conn, bool first)
{
    struct sv_dialer *dialer = sv_dialer_of(conn);
    struct sv_dial_attempt *attempt = sv_dial_attempt_of(dialer, conn);
    const struct sv_settings *settings = conn->session.settings;
    sv_event event = {.type = SV_EVENT_SETTINGS, .code = -1};

    if (first && (!attempt || dialer->stopped)) {
        sv_conn_abort(conn);
        return;
    }
    conn->mtu = smaller_mtu(dialer, settings->mtu);
    wire_to_addr(conn->gateway4, &settings->gateway4);
    wire_to_addr(conn->gateway6, &settings->gateway6);
    conn->super_tcp = conn->session.peer_capabilities & SV_CAP_GSO_TCP;
    conn->super_udp = conn->session.peer_capabilities & SV_CAP_GSO_UDP;
    wire_to_addr(conn->addr4, &settings->address4);
    wire_to_addr(conn->addr6, &settings->address6);
    memcpy(dialer->inner4, conn->addr4, 16);
    memcpy(dialer->inner6, conn->addr6, 16);
    sv_dial_publish_settings(dialer, conn, first);
    sv_event_put(conn->worker->engine, &event);
    if (first) {
        become_active(dialer, conn, attempt);
        dialer->ever_connected = true;
        sv_dialer_set_state(dialer, SV_CLIENT_CONNECTED, -1, 0, "");
    }
}
