#include "engine/dialer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "crypto/aead.h"
#include "crypto/keys.h"

enum {
    BACKOFF_FIRST_MS = 100,
    BACKOFF_MAX_MS = 30000,
    HANDSHAKE_TIMEOUT_MS = 10000,
    LINK_MTU = 1500,
    OVERHEAD_WS4 = 79, /* IP 20, TCP with timestamps 32, WebSocket 6, frame 5, tag 16 */
    OVERHEAD_WS6 = 99,
};

struct sv_dialer {
    struct sv_worker *worker;
    /* The configuration, copied. */
    char *url;
    uint8_t server_key[32], private_key[32], instance[16], cert_hash[32];
    bool has_cert_hash, cert_hash_strict;
    uint16_t mtu, keepalive_secs;
    uint64_t handshake_timeout;
    /* The worker's own. */
    struct sv_link *opening; /* a link on its way, no connection yet */
    struct sv_conn *pending; /* handshake under way */
    struct sv_conn *active;  /* live: the TUN's packets go here */
    struct sv_timer *timer;  /* next attempt, or the end of this one's patience */
    uint64_t attempt_started;
    uint32_t backoff_ms;
    bool stopped, ever_connected, has_resume;
    int ended_code; /* of the Disconnect that ended the last session; -1: none came */
    char ended_reason[SV_REASON_SIZE];
    uint8_t resume_id[16];
    /* What other threads ask. */
    pthread_mutex_t lock;
    sv_client_state state;
    bool has_settings;
    struct sv_client_settings settings;
    struct sv_published quality;
    bool remote_is6; /* the outer path's address family */
};

static const struct sv_link_sink dial_sink;

static struct sv_dialer *dialer_of(const struct sv_conn *conn)
{
    return conn->worker->engine->dialer;
}

/* ---- state, for people ---- */

static void set_state(struct sv_dialer *dialer, sv_client_state state, int code, int error,
                      const char *reason)
{
    sv_event event = {.type = SV_EVENT_STATE, .state = state, .code = code, .error = error};

    pthread_mutex_lock(&dialer->lock);
    dialer->state = state;
    pthread_mutex_unlock(&dialer->lock);
    snprintf(event.reason, sizeof event.reason, "%s", reason ? reason : "");
    sv_event_put(dialer->worker->engine, &event);
}

/* ---- attempts ---- */

static void retry(struct sv_dialer *dialer, int error, const char *reason);

static void begin_attempt(struct sv_dialer *dialer)
{
    struct sv_ws_client_config config = {
        .url = dialer->url,
        .cert_hash = dialer->has_cert_hash ? dialer->cert_hash : NULL,
        .pin_strict = dialer->cert_hash_strict,
        .timeout_ns = dialer->handshake_timeout,
        .sink = &dial_sink,
        .owner = dialer,
    };

    dialer->attempt_started = sv_clock_now();
    sv_timer_set(dialer->timer, dialer->attempt_started + dialer->handshake_timeout);
    if (sv_ws_client_connect(&dialer->opening, &dialer->worker->loop, &config)) {
        dialer->opening = NULL;
        retry(dialer, SV_E_INVALID, sv_error_detail());
    }
}

/* 100 ms, doubled up to 30 s, each time somewhere between the half and the whole. */
static uint64_t next_backoff(struct sv_dialer *dialer)
{
    uint32_t random;

    dialer->backoff_ms = dialer->backoff_ms ? dialer->backoff_ms * 2 : BACKOFF_FIRST_MS;
    if (dialer->backoff_ms > BACKOFF_MAX_MS) {
        dialer->backoff_ms = BACKOFF_MAX_MS;
    }
    sv_random(&random, sizeof random);
    return (dialer->backoff_ms / 2 + random % (dialer->backoff_ms / 2 + 1)) * SV_NS_PER_MS;
}

static bool busy(const struct sv_dialer *dialer)
{
    return dialer->opening || dialer->pending;
}

/* What the hub said at a session's end explains its link's end better than the socket does. */
static void tell_loss(struct sv_dialer *dialer, int error, const char *reason)
{
    int code = dialer->ended_code;

    dialer->ended_code = -1;
    set_state(dialer, dialer->ever_connected ? SV_CLIENT_RECONNECTING : SV_CLIENT_CONNECTING, code, error,
              code < 0 ? reason : dialer->ended_reason);
}

static void retry(struct sv_dialer *dialer, int error, const char *reason)
{
    if (dialer->stopped) {
        return;
    }
    uint64_t pause = next_backoff(dialer);

    sv_log(SV_LOG_INFO, "%s: next attempt in %" PRIu64 " ms", *reason ? reason : "the link was lost",
           pause / SV_NS_PER_MS);
    if (!dialer->active) {
        tell_loss(dialer, error, reason);
    }
    sv_timer_set(dialer->timer, sv_clock_now() + pause);
}

static void give_up_attempt(struct sv_dialer *dialer)
{
    if (dialer->opening) {
        dialer->opening->ops->close(dialer->opening, SV_CLOSE_SILENT);
    }
    if (dialer->pending) {
        sv_conn_abort(dialer->pending);
    }
}

static void on_timer(void *ctx)
{
    struct sv_dialer *dialer = ctx;

    if (dialer->stopped) {
        return;
    }
    if (busy(dialer)) {
        give_up_attempt(dialer);
    } else {
        begin_attempt(dialer);
    }
}

/* ---- the link opens ---- */

static void fill_hello(const struct sv_dialer *dialer, struct sv_hello *hello)
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
    memcpy(hello->instance, dialer->instance, 16);
    memcpy(hello->resume_id, dialer->resume_id, 16);
    snprintf(hello->software, sizeof hello->software, "smartvpn %s", sv_version());
}

static void on_open(struct sv_link *link)
{
    struct sv_dialer *dialer = link->owner;
    struct sv_worker *worker = dialer->worker;
    struct sv_session_config config = {
        .private_key = dialer->private_key,
        .public_key = worker->engine->public_key,
        .server_key = dialer->server_key,
        .keepalive_secs = dialer->keepalive_secs,
    };
    struct sv_conn *conn = dialer->stopped ? NULL : sv_conn_new(worker, link);

    if (!conn) {
        link->ops->close(link, SV_CLOSE_SILENT);
        return;
    }
    dialer->opening = NULL;
    dialer->pending = conn;
    fill_hello(dialer, &config.hello);
    sv_session_init(&conn->session, &config, worker->loop.now);
    if (!dialer->active) {
        set_state(dialer, SV_CLIENT_HANDSHAKING, -1, 0, "");
    }
    sv_conn_flush(conn);
}

static void on_closed_early(struct sv_link *link, int error, const char *text)
{
    struct sv_dialer *dialer = link->owner;

    dialer->opening = NULL;
    retry(dialer, error ? error : SV_E_CLOSED, text);
}

static const struct sv_link_sink dial_sink = {.on_open = on_open, .on_closed = on_closed_early};

/* ---- settings ---- */

static void format_wire(char *dst, const struct sv_wire_addr *wire, bool prefix)
{
    uint8_t addr[16] = {[10] = 0xFF, [11] = 0xFF};
    size_t n;

    dst[0] = '\0';
    if (!wire->length) {
        return;
    }
    memcpy(wire->length == 4 ? addr + 12 : addr, wire->bytes, wire->length);
    sv_addr_format(dst, SV_ADDR_TEXT_SIZE, addr);
    n = strlen(dst);
    if (prefix) {
        snprintf(dst + n, SV_ADDR_TEXT_SIZE - n, "/%u", wire->prefix);
    }
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

static void publish_settings(struct sv_dialer *dialer, struct sv_conn *conn, bool fresh)
{
    const struct sv_settings *from = conn->session.settings;
    struct sv_client_settings *to = &dialer->settings;

    pthread_mutex_lock(&dialer->lock);
    format_wire(to->address, &from->address4, true);
    format_wire(to->address6, &from->address6, true);
    format_wire(to->gateway, &from->gateway4, false);
    format_wire(to->gateway6, &from->gateway6, false);
    sv_addr_format(to->server_addr, sizeof to->server_addr, conn->link->path_remote);
    to->mtu = conn->mtu;
    to->dns_count = from->dns_count;
    for (size_t i = 0; i < from->dns_count; i++) {
        format_wire(to->dns[i], &from->dns[i], false);
    }
    to->route_count = from->route_count;
    for (size_t i = 0; i < from->route_count; i++) {
        format_wire(to->routes[i], &from->routes[i], true);
    }
    if (fresh) {
        to->connected_since = (double)sv_clock_wall() / 1e9;
        to->handshake_ms = (double)(sv_clock_now() - dialer->attempt_started) / 1e6;
    }
    dialer->remote_is6 = !sv_addr_is4(conn->link->path_remote);
    dialer->has_settings = true;
    pthread_mutex_unlock(&dialer->lock);
}

/* The new connection is live: what was before ends without a word, since the hub has moved the session already. */
static void become_active(struct sv_dialer *dialer, struct sv_conn *conn)
{
    struct sv_conn *before = dialer->active;

    dialer->pending = NULL;
    dialer->active = conn;
    dialer->backoff_ms = 0;
    dialer->has_resume = conn->session.peer_capabilities & SV_CAP_RESUME;
    memcpy(dialer->resume_id, conn->session.session_id, 16);
    sv_timer_set(dialer->timer, SV_NEVER);
    if (before && before != conn) {
        sv_conn_abort(before);
    }
}

void sv_dialer_on_settings(struct sv_conn *conn, bool first)
{
    struct sv_dialer *dialer = dialer_of(conn);
    const struct sv_settings *settings = conn->session.settings;
    sv_event event = {.type = SV_EVENT_SETTINGS, .code = -1};

    conn->mtu = smaller_mtu(dialer, settings->mtu);
    wire_to_addr(conn->gateway4, &settings->gateway4);
    wire_to_addr(conn->gateway6, &settings->gateway6);
    conn->super_tcp = conn->session.peer_capabilities & SV_CAP_GSO_TCP;
    conn->super_udp = conn->session.peer_capabilities & SV_CAP_GSO_UDP;
    wire_to_addr(conn->addr4, &settings->address4);
    wire_to_addr(conn->addr6, &settings->address6);
    publish_settings(dialer, conn, first);
    sv_event_put(conn->worker->engine, &event);
    if (first) {
        become_active(dialer, conn);
        dialer->ever_connected = true;
        set_state(dialer, SV_CLIENT_CONNECTED, -1, 0, "");
    }
}

/* ---- trouble ---- */

/* The path looks dead: another link is opened and the session resumed there, while this one may still prove alive. */
void sv_dialer_on_suspect(struct sv_conn *conn)
{
    struct sv_dialer *dialer = dialer_of(conn);

    if (conn == dialer->active && !busy(dialer) && !dialer->stopped) {
        sv_log(SV_LOG_INFO, "nothing comes back on this path: opening another link");
        begin_attempt(dialer);
    }
}

void sv_dialer_on_disconnect(struct sv_conn *conn, unsigned code, const char *text)
{
    struct sv_dialer *dialer = dialer_of(conn);
    char *reason = dialer->ended_reason;

    if (conn != dialer->active && conn != dialer->pending) {
        return;
    }
    if (!*text || strcmp(text, sv_disconnect_text(code)) == 0) {
        snprintf(reason, SV_REASON_SIZE, "%s", sv_disconnect_text(code));
    } else {
        snprintf(reason, SV_REASON_SIZE, "%s: %.200s", sv_disconnect_text(code), text);
    }
    dialer->ended_code = (int)code;
    dialer->has_resume = false;
    if (sv_disconnect_final(code)) {
        dialer->stopped = true;
        sv_timer_set(dialer->timer, SV_NEVER);
        set_state(dialer, SV_CLIENT_ERROR, (int)code, SV_E_REFUSED, reason);
    } else {
        sv_log(SV_LOG_INFO, "the hub ended the session: %s", reason);
    }
}

/* A hub answers what it cannot open, and keys that it does not know, by closing the connection, all in one way. */
static void on_handshake_cut(struct sv_dialer *dialer, int error, const char *text)
{
    if (error && error != SV_E_CLOSED) {
        retry(dialer, error, text);
    } else {
        retry(dialer, SV_E_AUTH,
              "the hub closed the connection without an answer: it does not know this client's key, or "
              "serverPublicKey is not its own");
    }
}

void sv_dialer_on_closed(struct sv_conn *conn, int error, const char *text)
{
    struct sv_dialer *dialer = dialer_of(conn);

    if (conn == dialer->pending) {
        dialer->pending = NULL;
        on_handshake_cut(dialer, error, text);
    } else if (conn == dialer->active) {
        dialer->active = NULL;
        if (!busy(dialer)) {
            retry(dialer, error ? error : SV_E_CLOSED, text);
        } else if (!dialer->stopped) {
            tell_loss(dialer, error, text);
        }
    }
}

struct sv_conn *sv_dialer_active(struct sv_engine *engine)
{
    return engine->dialer->active;
}

/* ---- what other threads ask ---- */

int sv_client_get_settings(sv_engine *engine, sv_client_settings *settings)
{
    struct sv_dialer *dialer = engine->dialer;
    int error = SV_E_STATE;

    if (!dialer) {
        return SV_E_STATE;
    }
    pthread_mutex_lock(&dialer->lock);
    if (dialer->has_settings) {
        *settings = dialer->settings;
        error = 0;
    }
    pthread_mutex_unlock(&dialer->lock);
    return error;
}

sv_client_state sv_client_get_state(sv_engine *engine)
{
    struct sv_dialer *dialer = engine->dialer;
    sv_client_state state;

    if (!dialer) {
        return SV_CLIENT_DISCONNECTED;
    }
    pthread_mutex_lock(&dialer->lock);
    state = dialer->state;
    pthread_mutex_unlock(&dialer->lock);
    return state;
}

void sv_dialer_publish(struct sv_conn *conn)
{
    struct sv_dialer *dialer = dialer_of(conn);

    if (conn == dialer->active) {
        pthread_mutex_lock(&dialer->lock);
        dialer->quality = conn->published;
        pthread_mutex_unlock(&dialer->lock);
    }
}

int sv_client_get_quality(sv_engine *engine, sv_quality_info *quality)
{
    struct sv_dialer *dialer = engine->dialer;

    if (!dialer) {
        return SV_E_STATE;
    }
    pthread_mutex_lock(&dialer->lock);
    sv_quality_fill(quality, &dialer->quality);
    pthread_mutex_unlock(&dialer->lock);
    return 0;
}

int sv_client_get_mtu(sv_engine *engine, sv_mtu_info *info)
{
    struct sv_dialer *dialer = engine->dialer;
    sv_statistics statistics;

    if (!dialer) {
        return SV_E_STATE;
    }
    sv_engine_statistics(engine, &statistics);
    pthread_mutex_lock(&dialer->lock);
    *info = (sv_mtu_info){
        .tun_mtu = dialer->has_settings ? dialer->settings.mtu : SV_DEFAULT_MTU,
        .link_mtu = LINK_MTU,
        .overhead_bytes = dialer->remote_is6 ? OVERHEAD_WS6 : OVERHEAD_WS4,
        .oversized_packets_dropped = statistics.drops.too_big,
        .icmp_too_big_sent = statistics.icmp_too_big_sent,
    };
    pthread_mutex_unlock(&dialer->lock);
    info->effective_mtu = info->link_mtu - info->overhead_bytes;
    return 0;
}

/* ---- lifetime ---- */

static int copy_config(struct sv_dialer *dialer, const sv_client_config *config)
{
    dialer->url = strdup(config->server_url ? config->server_url : "");
    if (!dialer->url) {
        return SV_E_NOMEM;
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
    return 0;
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
    pthread_mutex_init(&dialer->lock, NULL);
    dialer->timer = sv_timer_new(&worker->loop, on_timer, dialer);
    return dialer->timer ? copy_config(dialer, config) : SV_E_NOMEM;
}

void sv_dialer_begin(struct sv_dialer *dialer)
{
    set_state(dialer, SV_CLIENT_CONNECTING, -1, 0, "");
    sv_timer_set(dialer->timer, 0);
}

void sv_dialer_stop(struct sv_dialer *dialer)
{
    dialer->stopped = true;
    give_up_attempt(dialer);
    sv_timer_set(dialer->timer, SV_NEVER);
}

void sv_dialer_close(struct sv_dialer *dialer)
{
    dialer->stopped = true;
    give_up_attempt(dialer);
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
    free(dialer->url);
    pthread_mutex_destroy(&dialer->lock);
    sv_wipe(dialer, sizeof *dialer);
    free(dialer);
}
