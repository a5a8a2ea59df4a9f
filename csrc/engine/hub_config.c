/* The hub's own configuration: texts to addresses, and the settings that all clients share. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "crypto/aead.h"
#include "engine/hub.h"

enum {
    DEFAULT_KEEPALIVE_SECS = 60,
    DEFAULT_REKEY_SECS = 3600,
    LEAST_REKEY_SECS = 20,
    DEFAULT_RESUME_SECS = 300
};

static struct sv_wire_addr to_wire(const uint8_t addr[16], uint8_t bits)
{
    struct sv_wire_addr wire = {0};

    if (sv_addr_is4(addr)) {
        wire.length = 4;
        wire.prefix = bits >= 96 ? (uint8_t)(bits - 96) : 0;
        memcpy(wire.bytes, addr + 12, 4);
    } else {
        wire.length = 16;
        wire.prefix = bits;
        memcpy(wire.bytes, addr, 16);
    }
    return wire;
}

static int read_subnets(struct sv_hub *hub, const sv_server_config *config)
{
    struct sv_prefix subnet, subnet6;
    int error;

    if (!config->subnet || sv_prefix_parse(&subnet, config->subnet) || !sv_addr_is4(subnet.addr)) {
        return sv_fail(SV_E_INVALID, "subnet: must be an IPv4 CIDR");
    }
    hub->has6 = config->subnet6 && *config->subnet6;
    if (hub->has6 && (sv_prefix_parse(&subnet6, config->subnet6) || sv_addr_is4(subnet6.addr))) {
        return sv_fail(SV_E_INVALID, "subnet6: must be an IPv6 CIDR");
    }
    error = sv_pool_new(&hub->pool, &subnet, hub->has6 ? &subnet6 : NULL);
    if (error) {
        return sv_fail(error, "subnet: too small, or subnet6 smaller than subnet");
    }
    hub->subnet4_bits = (uint8_t)(subnet.bits - 96);
    hub->subnet6_bits = hub->has6 ? subnet6.bits : 0;
    sv_pool_addr4(hub->pool, 1, hub->gateway4);
    hub->settings.gateway4 = to_wire(hub->gateway4, 128);
    if (hub->has6) {
        sv_pool_addr6(hub->pool, 1, hub->gateway6);
        hub->settings.gateway6 = to_wire(hub->gateway6, 128);
    }
    return 0;
}

static int read_dns(struct sv_hub *hub, const sv_server_config *config)
{
    struct sv_settings *settings = &hub->settings;

    if (config->dns_count > SV_SETTINGS_DNS_MAX) {
        return sv_fail(SV_E_INVALID, "dns: at most %d servers", SV_SETTINGS_DNS_MAX);
    }
    for (size_t i = 0; i < config->dns_count; i++) {
        uint8_t addr[16];

        if (sv_addr_parse(addr, config->dns[i])) {
            return sv_fail(SV_E_INVALID, "dns[%zu]: not an address", i);
        }
        settings->dns[settings->dns_count++] = to_wire(addr, 128);
    }
    return 0;
}

static int read_routes(struct sv_hub *hub, const sv_server_config *config)
{
    struct sv_settings *settings = &hub->settings;

    if (config->route_count > SV_SETTINGS_ROUTES_MAX) {
        return sv_fail(SV_E_INVALID, "routes: at most %d", SV_SETTINGS_ROUTES_MAX);
    }
    for (size_t i = 0; i < config->route_count; i++) {
        struct sv_prefix prefix;

        if (sv_prefix_parse(&prefix, config->routes[i])) {
            return sv_fail(SV_E_INVALID, "routes[%zu]: not a CIDR", i);
        }
        settings->routes[settings->route_count++] = to_wire(prefix.addr, prefix.bits);
    }
    return 0;
}

static int read_proxies(struct sv_hub *hub, const sv_server_config *config)
{
    hub->proxies = calloc(config->trusted_proxy_count + 1, sizeof *hub->proxies);
    if (!hub->proxies) {
        return SV_E_NOMEM;
    }
    for (size_t i = 0; i < config->trusted_proxy_count; i++) {
        if (sv_prefix_parse(&hub->proxies[i], config->trusted_proxies[i])) {
            return sv_fail(SV_E_INVALID, "trustedProxies[%zu]: not a CIDR", i);
        }
    }
    hub->proxy_count = config->trusted_proxy_count;
    return 0;
}

static int read_times(struct sv_hub *hub, const sv_server_config *config)
{
    struct sv_settings *settings = &hub->settings;
    uint32_t rekey = config->rekey_secs ? config->rekey_secs : DEFAULT_REKEY_SECS;
    uint32_t resume = config->resume_lifetime_secs ? config->resume_lifetime_secs : DEFAULT_RESUME_SECS;

    if (rekey < LEAST_REKEY_SECS) {
        return sv_fail(SV_E_INVALID, "rekeySecs: at least %d", LEAST_REKEY_SECS);
    }
    settings->has_rekey = settings->has_keepalive = settings->has_resume_lifetime = true;
    settings->rekey_secs = rekey == SV_REKEY_NEVER ? 0 : rekey;
    resume = resume == SV_RESUME_NEVER ? 0 : resume;
    settings->resume_lifetime_secs = resume;
    settings->keepalive_secs = config->keepalive_secs ? config->keepalive_secs : DEFAULT_KEEPALIVE_SECS;
    settings->mtu = config->mtu ? config->mtu : SV_DEFAULT_MTU;
    hub->resume_lifetime = resume * SV_NS_PER_S;
    return 0;
}

/* AES-GCM only where keys are renewed: what may be sealed under one key has a bound there (docs/security.md). */
static uint32_t capabilities(const struct sv_hub *hub)
{
    return SV_CAP_BATCH | SV_CAP_GSO_TCP | SV_CAP_RESUME | SV_CAP_REKEY |
           (hub->engine->tun.udp_gso ? SV_CAP_GSO_UDP : 0) |
           (sv_aead_prefers_aes() && hub->settings.rekey_secs > 0 ? SV_CAP_AES_GCM : 0);
}

static int read_config(struct sv_hub *hub, const sv_server_config *config)
{
    int error = read_subnets(hub, config);

    if (!error) {
        error = read_dns(hub, config);
    }
    if (!error) {
        error = read_routes(hub, config);
    }
    if (!error) {
        error = read_proxies(hub, config);
    }
    if (!error) {
        error = read_times(hub, config);
    }
    hub->deny_host_access = config->deny_host_access;
    hub->default_rate = config->default_bytes_per_sec;
    hub->default_burst = config->default_burst_bytes;
    hub->settings.capabilities = capabilities(hub);
    snprintf(hub->settings.software, sizeof hub->settings.software, "smartvpn %s", sv_version());
    return error;
}

static int init_tables(struct sv_hub *hub, struct sv_engine *engine)
{
    int error = sv_map_init(&hub->clients_by_key, 32, &engine->rcu, engine->secret);

    if (!error) {
        error = sv_map_init(&hub->clients_by_id, 32, &engine->rcu, engine->secret);
    }
    if (!error) {
        error = sv_map_init(&hub->seats_by_id, 16, &engine->rcu, engine->secret);
    }
    if (!error) {
        error = sv_map_init(&hub->routes, 16, &engine->rcu, engine->secret);
    }
    return error ? error : sv_admission_init(&hub->admission, engine->secret);
}

int sv_hub_new(struct sv_hub **out, struct sv_engine *engine, const sv_server_config *config)
{
    struct sv_hub *hub = calloc(1, sizeof *hub);
    pthread_condattr_t monotonic;
    int error;

    if (!hub) {
        return SV_E_NOMEM;
    }
    hub->engine = engine;
    pthread_mutex_init(&hub->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&hub->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    sv_heap_init(&hub->deadlines);
    sv_heap_init(&hub->expiries);
    error = init_tables(hub, engine);
    if (!error) {
        error = read_config(hub, config);
    }
    if (error) {
        sv_hub_free(hub);
        return error;
    }
    *out = hub;
    return 0;
}
