#include "engine/dialer_internal.h"

#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/log.h"
#include "crypto/keys.h"
#include "transport/quic.h"

enum { HANDSHAKE_TIMEOUT_MS = 10000, MOVE_SECS = 10, GONE_MS = 500 };

/* ---- state, for people ---- */

void sv_dialer_set_state(struct sv_dialer *dialer, sv_client_state state, int code, int error,
                         const char *reason)
{
    sv_event event = {.type = SV_EVENT_STATE, .state = state, .code = code, .error = error};

    pthread_mutex_lock(&dialer->lock);
    dialer->state = state;
    pthread_mutex_unlock(&dialer->lock);
    snprintf(event.reason, sizeof event.reason, "%s", reason ? reason : "");
    sv_event_put(dialer->worker->engine, &event);
}

/* What the hub said at a session's end explains its link's end better than the socket does. */
void sv_dialer_tell_loss(struct sv_dialer *dialer, int error, const char *reason)
{
    int code = dialer->ended_code;

    dialer->ended_code = -1;
    sv_dialer_set_state(dialer, dialer->ever_connected ? SV_CLIENT_RECONNECTING : SV_CLIENT_CONNECTING, code,
                        error, code < 0 ? reason : dialer->ended_reason);
}

/* ---- the plan's steps ---- */

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void leave_if_gone(struct sv_dialer *dialer, uint64_t now)
{
    if (now >= dialer->gone_at) {
        dialer->gone_at = SV_NEVER;
        if (dialer->active) {
            sv_log(SV_LOG_INFO, "there is no way for this link any more: opening another one");
            sv_dial_plan_move(&dialer->plan, now);
        }
    }
}

void sv_dialer_run(struct sv_dialer *dialer)
{
    enum sv_dial_act act;
    enum sv_dial_way way;
    uint64_t at;

    leave_if_gone(dialer, sv_clock_now());
    if (dialer->active && !dialer->active->session.suspect) {
        sv_dial_plan_calm(&dialer->plan);
    }
    while ((act = sv_dial_plan_next(&dialer->plan, sv_clock_now(), &way)) != SV_DIAL_NOTHING) {
        if (act == SV_DIAL_START) {
            sv_dial_start(dialer, way);
        } else {
            sv_dial_abandon(&dialer->attempts[way]);
        }
    }
    at = sooner(sv_dial_go_on(dialer), dialer->gone_at);
    if (dialer->timer) {
        sv_timer_set(dialer->timer, sooner(at, sv_dial_plan_deadline(&dialer->plan)));
    }
}

static void on_timer(void *ctx)
{
    sv_dialer_run(ctx);
}

/* ---- the network ---- */

/* QUIC moves to a new socket and goes on when the hub has seen the new path; a WebSocket link is bound to its addresses, so another is opened. */
static void move_to_new_network(struct sv_dialer *dialer)
{
    uint64_t now = sv_clock_now();

    sv_log(SV_LOG_INFO, "the network has changed");
    dialer->clamped = false;
    for (int i = 0; i < SV_DIAL_WAYS; i++) {
        sv_dial_name_outdate(&dialer->names[i]);
    }
    sv_dial_plan_network(&dialer->plan, now);
    if (dialer->active && dialer->active->transport == SV_TRANSPORT_QUIC && dialer->active->link) {
        sv_quic_client_rebind(dialer->active->link);
        sv_session_probe(&dialer->active->session, now);
        sv_worker_mark_dirty(dialer->active);
    } else if (dialer->active) {
        sv_dial_plan_move(&dialer->plan, now);
    }
}

/* A link whose way is gone is as good as dead, but for a moment in which addresses are exchanged. */
static void look_for_a_way(struct sv_dialer *dialer, uint64_t now)
{
    bool gone = dialer->active && dialer->active->link && !dialer->paths[SV_PATH_HUB].there;

    if (!gone) {
        dialer->gone_at = SV_NEVER;
    } else if (dialer->gone_at == SV_NEVER) {
        dialer->gone_at = now + GONE_MS * SV_NS_PER_MS;
    }
}

static void on_network(void *ctx, bool slept)
{
    struct sv_dialer *dialer = ctx;
    sv_event event = {.type = SV_EVENT_NETWORK, .code = -1, .count = slept};

    if (dialer->stopped) {
        return;
    }
    sv_event_put(dialer->worker->engine, &event);
    if (sv_dial_ways_changed(dialer) || slept) {
        move_to_new_network(dialer);
    }
    look_for_a_way(dialer, sv_clock_now());
    sv_dialer_run(dialer); /* an attempt may have waited for the way */
}

/* ---- trouble ---- */

/* The path looks dead: another link is opened and the session resumed there, while this one may still prove alive. */
void sv_dialer_on_suspect(struct sv_conn *conn)
{
    struct sv_dialer *dialer = sv_dialer_of(conn);

    if (conn == dialer->active && !dialer->stopped) {
        sv_log(SV_LOG_INFO, "nothing comes back on this path: opening another link");
        dialer->clamped |= conn->transport == SV_TRANSPORT_WEBSOCKET;
        sv_dial_plan_connect(&dialer->plan, sv_clock_now());
        sv_dialer_run(dialer);
    }
}

static void measure(struct sv_dialer *dialer, const struct sv_conn *conn)
{
    const struct sv_session *session = &conn->session;
    const struct sv_link *link = conn->link;
    const struct sv_degrade_sample sample = {
        .arrived = {link->datagrams_acked, session->counters.datagrams_received},
        .lost = {link->datagrams_lost, sv_session_datagrams_missing(session)},
        .srtt_ns = link->srtt_ns,
        .min_rtt_ns = link->min_rtt_ns,
        .critical = session->quality.health == SV_HEALTH_CRITICAL,
        .checks = session->quality.checks,
        .timeouts = session->quality.timeouts_in_a_row,
    };
    uint64_t now = conn->worker->loop.now;

    if (sv_degrade_look(&dialer->degrade, now, &sample) && sv_dial_plan_degraded(&dialer->plan, now)) {
        sv_log(SV_LOG_INFO, "QUIC has become bad on this path: opening a WebSocket link");
        sv_dialer_run(dialer);
    }
}

void sv_dialer_on_beat(struct sv_conn *conn)
{
    struct sv_dialer *dialer = sv_dialer_of(conn);

    if (conn == dialer->active && conn->link && conn->transport == SV_TRANSPORT_QUIC && !dialer->stopped) {
        measure(dialer, conn);
    }
}

/* Two links of ours may reach the hub in another order than they were opened in: then it is no other instance that took our place. */
static bool ends_for_good(const struct sv_dialer *dialer, unsigned code)
{
    bool moved = dialer->moved_at && sv_clock_now() - dialer->moved_at < MOVE_SECS * SV_NS_PER_S;

    return sv_disconnect_final(code) && !(code == SV_DISCONNECT_SUPERSEDED && moved);
}

static void abandon_all(struct sv_dialer *dialer)
{
    for (int way = 0; way < SV_DIAL_WAYS; way++) {
        sv_dial_abandon(&dialer->attempts[way]);
        sv_dial_name_clear(&dialer->names[way]);
    }
}

void sv_dialer_on_disconnect(struct sv_conn *conn, unsigned code, const char *text)
{
    struct sv_dialer *dialer = sv_dialer_of(conn);
    char *reason = dialer->ended_reason;

    if (conn != dialer->active && !sv_dial_attempt_of(dialer, conn)) {
        return;
    }
    if (!*text || strcmp(text, sv_disconnect_text(code)) == 0) {
        snprintf(reason, SV_REASON_SIZE, "%s", sv_disconnect_text(code));
    } else {
        snprintf(reason, SV_REASON_SIZE, "%s: %.200s", sv_disconnect_text(code), text);
    }
    dialer->ended_code = (int)code;
    dialer->has_resume = false;
    if (ends_for_good(dialer, code)) {
        sv_dialer_stop(dialer);
        sv_dialer_set_state(dialer, SV_CLIENT_ERROR, (int)code, SV_E_REFUSED, reason);
    } else {
        sv_log(SV_LOG_INFO, "the hub ended the session: %s", reason);
    }
}

/* A hub answers what it cannot open, and keys that it does not know, by closing the connection, all in one way. */
static void on_handshake_cut(struct sv_dial_attempt *attempt, const struct sv_conn *conn, int error,
                             const char *text)
{
    if (conn->ended_by_disconnect) {
        sv_dial_on_failed(attempt, SV_E_REFUSED, attempt->dialer->ended_reason);
    } else if (conn->ended_by_us) {
        sv_dial_on_failed(attempt, SV_E_TIMEOUT, "the hub did not answer the handshake in time");
    } else if (error && error != SV_E_CLOSED) {
        sv_dial_on_failed(attempt, error, text);
    } else {
        sv_dial_on_failed(attempt, SV_E_AUTH,
                          "the hub closed the connection without an answer: it does not know this client's "
                          "key, or serverPublicKey is not its own");
    }
}

static void on_active_lost(struct sv_dialer *dialer, struct sv_conn *conn, int error, const char *text)
{
    uint32_t random;

    dialer->active = NULL;
    sv_keep_answered(&conn->keep, conn->session.last_received);
    sv_keep_move(&dialer->keep, &conn->keep);
    if (dialer->stopped) {
        return;
    }
    sv_random(&random, sizeof random);
    sv_log(SV_LOG_INFO, "%s", *text ? text : "the link was lost");
    sv_dial_plan_lost(&dialer->plan, sv_clock_now(), random);
    sv_dialer_tell_loss(dialer, error ? error : SV_E_CLOSED, text);
    sv_dialer_run(dialer);
}

void sv_dialer_on_closed(struct sv_conn *conn, int error, const char *text)
{
    struct sv_dialer *dialer = sv_dialer_of(conn);
    struct sv_dial_attempt *attempt = sv_dial_attempt_of(dialer, conn);

    if (attempt) {
        attempt->pending = NULL;
        on_handshake_cut(attempt, conn, error, text);
    } else if (conn == dialer->active) {
        on_active_lost(dialer, conn, error, text);
    }
}

struct sv_conn *sv_dialer_active(struct sv_engine *engine)
{
    return engine->dialer->active;
}

struct sv_keep *sv_dialer_keep(struct sv_engine *engine)
{
    return &engine->dialer->keep;
}

/* ---- lifetime ---- */

static int copy_text(char **to, const char *from)
{
    *to = from ? strdup(from) : NULL;
    return from && !*to ? SV_E_NOMEM : 0;
}

/* Both ways share a name where it is the same one. */
static int learn_names(struct sv_dialer *dialer)
{
    char host[SV_DIAL_WAYS][SV_HOST_MAX] = {"", ""}, port[SV_PORT_MAX];
    const char *quic = host[SV_DIAL_QUIC], *websocket = host[SV_DIAL_WEBSOCKET];
    struct sv_dial_name *names = dialer->names;
    bool same;

    if (dialer->quic_address && sv_host_split(dialer->quic_address, host[SV_DIAL_QUIC], port)) {
        return sv_fail(SV_E_INVALID, "quicServerUrl: %s is not host:port", dialer->quic_address);
    }
    if (dialer->url && sv_ws_client_host(host[SV_DIAL_WEBSOCKET], dialer->url)) {
        return SV_E_INVALID;
    }
    same = strcasecmp(quic, websocket) == 0 || !dialer->url;
    sv_dial_name_init(&names[SV_DIAL_QUIC], dialer, quic);
    if (!same) {
        sv_dial_name_init(&names[SV_DIAL_WEBSOCKET], dialer, websocket);
    }
    dialer->attempts[SV_DIAL_QUIC].name = &names[SV_DIAL_QUIC];
    dialer->attempts[SV_DIAL_WEBSOCKET].name = &names[same ? SV_DIAL_QUIC : SV_DIAL_WEBSOCKET];
    return 0;
}

static int copy_texts(struct sv_dialer *dialer, const char *url, const char *quic_address)
{
    return copy_text(&dialer->url, url) || copy_text(&dialer->quic_address, quic_address)
               ? SV_E_NOMEM
               : learn_names(dialer);
}

static int copy_config(struct sv_dialer *dialer, const sv_client_config *config)
{
    bool quic = config->transport != SV_CLIENT_WEBSOCKET && config->quic_addr && sv_quic_available();
    bool websocket = config->transport != SV_CLIENT_QUIC && config->server_url;

    if (!quic && !websocket) {
        return config->transport == SV_CLIENT_QUIC && !sv_quic_available()
                   ? sv_fail(SV_E_UNSUPPORTED, "QUIC is not in this build")
                   : sv_fail(SV_E_INVALID, "serverUrl: is required");
    }
    memcpy(dialer->server_key, config->server_key, 32);
    memcpy(dialer->private_key, config->private_key, 32);
    memcpy(dialer->instance, config->instance, 16);
    dialer->has_cert_hash = config->cert_hash != NULL;
    if (config->cert_hash) {
        memcpy(dialer->cert_hash, config->cert_hash, 32);
    }
    dialer->cert_hash_strict = config->cert_hash_strict;
    dialer->mtu = config->mtu;
    dialer->keepalive_secs = config->keepalive_secs;
    dialer->handshake_timeout =
        (config->handshake_timeout_ms ? config->handshake_timeout_ms : HANDSHAKE_TIMEOUT_MS) * SV_NS_PER_MS;
    sv_dial_plan_init(&dialer->plan, quic, websocket, dialer->handshake_timeout, config->websocket_first);
    if (quic && !dialer->has_cert_hash) {
        sv_log(SV_LOG_WARNING,
               "no serverCertHash: any QUIC certificate is taken, the hub is known by serverPublicKey alone");
    }
    return copy_texts(dialer, websocket ? config->server_url : NULL, quic ? config->quic_addr : NULL);
}

int sv_dialer_new(struct sv_dialer **out, struct sv_worker *worker, const sv_client_config *config)
{
    struct sv_dialer *dialer = calloc(1, sizeof *dialer);

    if (!dialer) {
        return SV_E_NOMEM;
    }
    *out = dialer;
    dialer->worker = worker;
    dialer->ended_code = -1;
    dialer->gone_at = SV_NEVER;
    dialer->tun_index = if_nametoindex(worker->engine->tun.name);
    dialer->attempts[SV_DIAL_QUIC].dialer = dialer->attempts[SV_DIAL_WEBSOCKET].dialer = dialer;
    pthread_mutex_init(&dialer->lock, NULL);
    dialer->timer = sv_timer_new(&worker->loop, on_timer, dialer);
    if (!dialer->timer) {
        return SV_E_NOMEM;
    }
    dialer->netwatch = sv_netwatch_new(&worker->loop, dialer->tun_index, on_network, dialer);
    if (!dialer->netwatch) {
        return SV_E_SYSTEM;
    }
    sv_dial_ways_init(dialer);
    return copy_config(dialer, config);
}

void sv_dialer_begin(struct sv_dialer *dialer)
{
    sv_dialer_set_state(dialer, SV_CLIENT_CONNECTING, -1, 0, "");
    sv_dial_plan_connect(&dialer->plan, sv_clock_now());
    sv_timer_set(dialer->timer, 0);
}

void sv_dialer_stop(struct sv_dialer *dialer)
{
    dialer->stopped = true;
    sv_dial_plan_stop(&dialer->plan);
    abandon_all(dialer);
    if (dialer->timer) {
        sv_timer_set(dialer->timer, SV_NEVER);
    }
}

void sv_dialer_close(struct sv_dialer *dialer)
{
    sv_dialer_stop(dialer);
    sv_netwatch_close(dialer->netwatch);
    dialer->netwatch = NULL;
    if (dialer->timer) {
        sv_timer_close(dialer->timer);
        dialer->timer = NULL;
    }
}

void sv_dialer_free(struct sv_dialer *dialer)
{
    if (!dialer) {
        return;
    }
    sv_keep_clear(&dialer->keep);
    free(dialer->url);
    free(dialer->quic_address);
    pthread_mutex_destroy(&dialer->lock);
    sv_wipe(dialer, sizeof *dialer);
    free(dialer);
}
