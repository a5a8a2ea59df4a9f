/* The hub's clients as WireGuard peers, and peers that are no clients. Under the hub's lock the device's is taken, never the other way round. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "crypto/hash.h"
#include "engine/hub.h"
#include "engine/wg_kernel.h"
#include "io/socket.h"
#include "transport/transport.h"

static bool is_none(const uint8_t key[32])
{
    static const uint8_t none[32];

    return memcmp(key, none, sizeof none) == 0;
}

/* ---- clients ---- */

int sv_hub_wg_check(struct sv_hub *hub, const struct sv_client *client, const sv_client_entry *entry)
{
    struct sv_wg *wg = hub->engine->wg;
    struct sv_wg_member *member = wg ? sv_wg_find(wg, entry->wg_public_key) : NULL;

    if (wg && wg->kernel && sv_wg_kernel_holds(entry)) {
        return SV_E_INVALID;
    }
    if (!member || (client && member->client == client)) {
        return 0;
    }
    return member->client ? sv_fail(SV_E_EXISTS, "wgPublicKey: client '%s' has this key", member->client->id)
                          : sv_fail(SV_E_EXISTS, "wgPublicKey: a WireGuard peer has this key");
}

static bool may_come(const struct sv_client *client)
{
    int64_t now = (int64_t)(sv_clock_wall() / SV_NS_PER_S);

    return !client->removed && !client->disabled && !is_none(client->wg_key) &&
           !(client->expires_at && now >= client->expires_at);
}

/* The client's own addresses; how many. */
static size_t addresses_of(struct sv_hub *hub, const struct sv_client *client, struct sv_prefix own[2])
{
    own[0].bits = own[1].bits = 128;
    sv_pool_addr4(hub->pool, client->address_index, own[0].addr);
    return hub->has6 && sv_pool_addr6(hub->pool, client->address_index, own[1].addr) ? 2 : 1;
}

static bool has_exactly(const struct sv_wg_member *member, const struct sv_prefix *own, size_t count)
{
    const struct sv_wg_allowed *allowed = member->allowed;
    size_t i = 0;

    for (; allowed && i < count; allowed = allowed->next, i++) {
        if (allowed->prefix.bits != own[i].bits || memcmp(allowed->prefix.addr, own[i].addr, 16) != 0) {
            return false;
        }
    }
    return !allowed && i == count;
}

/* Addresses that stay are not touched: no packet of theirs is lost. */
static int allow_addresses(struct sv_hub *hub, struct sv_wg_member *member, const struct sv_client *client)
{
    struct sv_prefix own[2];
    size_t count = addresses_of(hub, client, own);
    int error = 0;

    if (has_exactly(member, own, count)) {
        return 0;
    }
    sv_wg_disallow_all(member);
    for (size_t i = 0; i < count && !error; i++) {
        error = sv_wg_allow(member, &own[i]);
    }
    return error;
}

/* Under the device's lock. */
static int join(struct sv_hub *hub, struct sv_client *client)
{
    struct sv_wg *wg = hub->engine->wg;
    struct sv_wg_member *member = client->wg ? client->wg : sv_wg_add(wg, client->wg_key);
    int error;

    if (!member) {
        return SV_E_NOMEM;
    }
    member->client = client;
    client->wg = member;
    if (!sv_wg_source_allowed(member)) {
        sv_wg_forget(member, SV_DISCONNECT_SOURCE_DENIED);
    }
    error = allow_addresses(hub, member, client);
    if (wg->kernel) {
        sv_wg_kernel_put(member, NULL);
    }
    return error;
}

static unsigned leaving_code(const struct sv_client *client)
{
    return client->removed    ? SV_DISCONNECT_REMOVED
           : client->disabled ? SV_DISCONNECT_DISABLED
                              : SV_DISCONNECT_EXPIRED;
}

void sv_hub_wg_remove(struct sv_hub *hub, struct sv_client *client, unsigned code)
{
    struct sv_wg *wg = hub->engine->wg;

    if (!client->wg) {
        return;
    }
    sv_wg_lock(wg);
    sv_wg_forget(client->wg, code);
    sv_hub_keep_traffic(hub, client, &client->wg->traffic);
    sv_wg_remove(wg, client->wg);
    client->wg = NULL;
    sv_wg_unlock(wg);
    atomic_store(&client->on_wg, false);
}

int sv_hub_wg_sync(struct sv_hub *hub, struct sv_client *client, const uint8_t wg_key[32])
{
    struct sv_wg *wg = hub->engine->wg;
    int error;

    if (memcmp(client->wg_key, wg_key, 32) != 0) {
        sv_hub_wg_remove(hub, client, SV_DISCONNECT_KEY_ROTATED);
        memcpy(client->wg_key, wg_key, 32);
    }
    if (!wg) {
        return 0;
    }
    if (!may_come(client)) {
        sv_hub_wg_remove(hub, client, leaving_code(client));
        return 0;
    }
    sv_wg_lock(wg);
    error = join(hub, client);
    sv_wg_unlock(wg);
    return error;
}

bool sv_hub_wg_disconnect(struct sv_hub *hub, struct sv_client *client, const uint8_t *session_id,
                          unsigned code)
{
    struct sv_wg *wg = hub->engine->wg;
    uint8_t own_id[SV_SESSION_ID_SIZE];
    bool found = false;

    if (!client->wg) {
        return false;
    }
    sv_wg_lock(wg);
    sv_wg_session_id(client->wg, own_id);
    if (client->wg->connected && (!session_id || memcmp(session_id, own_id, sizeof own_id) == 0)) {
        found = true;
        sv_wg_forget(client->wg, code);
    }
    sv_wg_unlock(wg);
    return found;
}

static void format_endpoint(char *dst, size_t size, const struct sv_wg_member *member)
{
    const struct sv_wg_path *path = atomic_load(&member->path);
    struct sockaddr_storage addr = {0};
    uint8_t ip[16];
    uint16_t port;

    dst[0] = '\0';
    if (path) {
        memcpy(&addr, &path->to.to, sizeof path->to.to);
        sv_sockaddr_split(&addr, ip, &port);
        sv_sockaddr_format(dst, size, ip, port);
    }
}

/* Monotonic ns to seconds since 1970; 0 stays 0. */
static double to_wall(uint64_t ns)
{
    return ns ? ((double)sv_clock_wall() - (double)(sv_clock_now() - ns)) / 1e9 : 0;
}

bool sv_hub_wg_session(const struct sv_hub *hub, const struct sv_client *client, sv_session_info *info)
{
    const struct sv_wg_member *member = client->wg;
    uint8_t addr[16];

    if (!member->connected) {
        return false;
    }
    memset(info, 0, sizeof *info);
    sv_wg_session_id(member, info->session_id);
    format_endpoint(info->remote_addr, sizeof info->remote_addr, member);
    info->connected_since = (double)member->connected_wall / 1e9;
    info->last_keepalive = to_wall(atomic_load(&member->peer.last_traffic));
    sv_pool_addr4(hub->pool, client->address_index, addr);
    sv_addr_format(info->assigned_ip, sizeof info->assigned_ip, addr);
    if (hub->has6 && sv_pool_addr6(hub->pool, client->address_index, addr)) {
        sv_addr_format(info->assigned_ip6, sizeof info->assigned_ip6, addr);
    }
    info->transport = SV_TRANSPORT_WIREGUARD;
    sv_traffic_fill(info, &member->traffic);
    return true;
}

/* ---- peers that are no clients ---- */

static int check_allowed(struct sv_wg *wg, const struct sv_wg_member *member, const char *text,
                         struct sv_prefix *prefix)
{
    const struct sv_wg_allowed *found;

    if (sv_prefix_parse(prefix, text)) {
        return sv_fail(SV_E_INVALID, "allowedIps: '%.64s' is not a CIDR", text);
    }
    found = sv_trie_find(&wg->allowed, prefix->addr);
    if (found && found->member != member && found->prefix.bits == prefix->bits &&
        memcmp(found->prefix.addr, prefix->addr, 16) == 0) {
        return sv_fail(SV_E_EXISTS, "allowedIps: '%.64s' is another peer's", text);
    }
    return 0;
}

static int check_peer(struct sv_wg *wg, const sv_wg_peer_config *config, struct sv_endpoint *endpoint)
{
    const struct sv_wg_member *member = sv_wg_find(wg, config->public_key);
    const struct sv_wg_self *self = atomic_load(&wg->self);
    struct sv_prefix prefix;
    int error = 0;

    if (member && member->client) {
        return sv_fail(SV_E_EXISTS, "publicKey: client '%s' has this key", member->client->id);
    }
    if (self && memcmp(self->identity.public_key, config->public_key, SV_KEY) == 0) {
        return sv_fail(SV_E_INVALID, "publicKey: is the hub's own");
    }
    if (config->endpoint && sv_wg_parse_endpoint(endpoint, config->endpoint)) {
        return sv_fail(SV_E_INVALID, "endpoint: '%.64s' is not a numeric address and port", config->endpoint);
    }
    for (size_t i = 0; i < config->allowed_ip_count && !error; i++) {
        error = check_allowed(wg, member, config->allowed_ips[i], &prefix);
    }
    return error;
}

static int put_peer(struct sv_wg *wg, const sv_wg_peer_config *config, const struct sv_endpoint *endpoint)
{
    static const uint8_t no_psk[SV_KEY];
    struct sv_wg_member *member = sv_wg_find(wg, config->public_key);
    struct sv_prefix prefix;
    int error = 0;

    member = member ? member : sv_wg_add(wg, config->public_key);
    if (!member) {
        return SV_E_NOMEM;
    }
    sv_wg_disallow_all(member);
    error = sv_wg_set_psk(member, config->preshared_key ? config->preshared_key : no_psk);
    for (size_t i = 0; i < config->allowed_ip_count && !error; i++) {
        sv_prefix_parse(&prefix, config->allowed_ips[i]);
        error = sv_wg_allow(member, &prefix);
    }
    if (config->endpoint && !error) {
        error = sv_wg_set_endpoint(member, endpoint);
    }
    sv_wg_set_persistent(member, config->persistent_keepalive);
    if (wg->kernel) {
        sv_wg_kernel_put(member, config->endpoint ? endpoint : NULL);
    }
    return error;
}

/* Puts the peer, or only says what a put would answer. */
static int offer_peer(sv_engine *engine, const sv_wg_peer_config *config, bool put)
{
    struct sv_wg *wg = engine->wg;
    struct sv_endpoint endpoint = {0};
    int error;

    if (!wg || !engine->hub) {
        return sv_fail(SV_E_STATE, "the hub does not serve WireGuard");
    }
    pthread_mutex_lock(&engine->hub->lock);
    sv_wg_lock(wg);
    error = check_peer(wg, config, &endpoint);
    if (!error && put) {
        error = put_peer(wg, config, &endpoint);
    }
    sv_wg_unlock(wg);
    pthread_mutex_unlock(&engine->hub->lock);
    return error;
}

int sv_hub_put_wg_peer(sv_engine *engine, const sv_wg_peer_config *config)
{
    return offer_peer(engine, config, true);
}

int sv_hub_check_wg_peer(sv_engine *engine, const sv_wg_peer_config *config)
{
    return offer_peer(engine, config, false);
}

int sv_hub_remove_wg_peer(sv_engine *engine, const uint8_t *public_key)
{
    struct sv_wg *wg = engine->wg;
    struct sv_wg_member *member;
    bool is_client;

    if (!wg || !engine->hub) {
        return sv_fail(SV_E_STATE, "the hub does not serve WireGuard");
    }
    sv_wg_lock(wg);
    member = sv_wg_find(wg, public_key);
    is_client = member && member->client;
    if (member && !is_client) {
        sv_wg_remove(wg, member);
    }
    sv_wg_unlock(wg);
    if (!member) {
        return sv_fail(SV_E_NOT_FOUND, "no WireGuard peer has this key");
    }
    return is_client ? sv_fail(SV_E_STATE, "the peer is a client: remove or disable the client") : 0;
}

static void fill_peer(sv_wg_peer_info *info, const struct sv_wg_member *member)
{
    memset(info, 0, sizeof *info);
    memcpy(info->public_key, member->peer.public_key, sizeof info->public_key);
    if (member->client) {
        memcpy(info->client_id, member->client->id, sizeof info->client_id);
    }
    format_endpoint(info->endpoint, sizeof info->endpoint, member);
    info->persistent_keepalive = member->peer.persistent_secs;
    info->bytes_sent = sv_counted(&member->traffic.bytes_out);
    info->bytes_received = sv_counted(&member->traffic.bytes_in);
    info->packets_sent = sv_counted(&member->traffic.packets_out);
    info->packets_received = sv_counted(&member->traffic.packets_in);
    info->last_handshake = (double)member->peer.handshake_unix_ns / 1e9;
}

struct peer_list {
    sv_wg_peer_info *infos;
    size_t cap, count;
    char (*ips)[SV_ADDR_TEXT_SIZE];
    size_t ip_cap, ip_count;
};

static void list_peer(struct peer_list *list, const struct sv_wg_member *member)
{
    size_t first = list->ip_count;

    for (const struct sv_wg_allowed *allowed = member->allowed; allowed; allowed = allowed->next) {
        if (list->ip_count < list->ip_cap) {
            sv_prefix_format(list->ips[list->ip_count], SV_ADDR_TEXT_SIZE, &allowed->prefix);
        }
        list->ip_count++;
    }
    if (list->count < list->cap) {
        fill_peer(&list->infos[list->count], member);
        list->infos[list->count].first_allowed_ip = first;
        list->infos[list->count].allowed_ip_count = list->ip_count - first;
    }
    list->count++;
}

static int list_peers(struct sv_wg *wg, const uint8_t *public_key, struct peer_list *list)
{
    const struct sv_wg_member *member;
    struct sv_wg_walk walk;

    if (public_key) {
        member = sv_wg_find(wg, public_key);
        if (!member) {
            return sv_fail(SV_E_NOT_FOUND, "no WireGuard peer has this key");
        }
        list_peer(list, member);
        return 0;
    }
    sv_wg_begin_walk(wg, &walk);
    while ((member = sv_wg_walk_on(wg, &walk))) {
        list_peer(list, member);
    }
    return 0;
}

int sv_hub_wg_peers(sv_engine *engine, const uint8_t *public_key, sv_wg_peer_info *infos, size_t cap,
                    size_t *count, char (*allowed_ips)[SV_ADDR_TEXT_SIZE], size_t ip_cap, size_t *ip_count)
{
    struct peer_list list = {.infos = infos, .cap = cap, .ips = allowed_ips, .ip_cap = ip_cap};
    struct sv_wg *wg = engine->wg;
    int error;

    if (!wg) {
        return sv_fail(SV_E_STATE, "the hub does not serve WireGuard");
    }
    sv_wg_lock(wg);
    if (wg->kernel) {
        sv_wg_kernel_read(wg, sv_clock_now());
    }
    error = list_peers(wg, public_key, &list);
    sv_wg_unlock(wg);
    *count = list.count;
    *ip_count = list.ip_count;
    return error;
}
