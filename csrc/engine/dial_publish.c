/* What other threads ask of a client. */
#include <string.h>

#include "engine/dialer_internal.h"
#include "engine/mtu.h"

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

void sv_dial_publish_settings(struct sv_dialer *dialer, struct sv_conn *conn, bool fresh)
{
    const struct sv_settings *from = conn->session.settings;
    struct sv_client_settings *to = &dialer->settings;

    pthread_mutex_lock(&dialer->lock);
    format_wire(to->address, &from->address4, true);
    format_wire(to->address6, &from->address6, true);
    format_wire(to->gateway, &from->gateway4, false);
    format_wire(to->gateway6, &from->gateway6, false);
    sv_addr_format(to->server_addr, sizeof to->server_addr, conn->link->path_remote);
    to->transport = conn->transport;
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
        to->handshake_ms = (double)(sv_clock_now() - dialer->began_at) / 1e6;
        dialer->path_mtu = conn->link->path_mtu;
        dialer->kind = conn->link->kind;
    }
    dialer->remote_is6 = !sv_addr_is4(conn->link->path_remote);
    dialer->has_settings = true;
    pthread_mutex_unlock(&dialer->lock);
}

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

/* ---- state and quality ---- */

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
    struct sv_dialer *dialer = sv_dialer_of(conn);

    if (conn == dialer->active && conn->link) {
        if (conn->link->ops->measure) {
            conn->link->ops->measure(conn->link);
        }
        pthread_mutex_lock(&dialer->lock);
        dialer->quality = conn->published;
        dialer->path_mtu = conn->link->path_mtu;
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
        .link_mtu = dialer->path_mtu ? dialer->path_mtu : SV_LINK_MTU_DEFAULT,
        .overhead_bytes = sv_mtu_overhead(dialer->kind, dialer->remote_is6),
        .oversized_packets_dropped = statistics.drops.too_big,
        .icmp_too_big_sent = statistics.icmp_too_big_sent,
    };
    pthread_mutex_unlock(&dialer->lock);
    info->effective_mtu = info->link_mtu - info->overhead_bytes;
    return 0;
}
