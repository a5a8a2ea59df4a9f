#include "engine/wg_kernel.h"

#include <smartvpn/base.h>

#include "base/error.h"

#ifdef SV_HAVE_WG_KERNEL

#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wireguard.h>

#include "base/log.h"

enum { NAMES_MAX = 1000 };

/* ---- the interface ---- */

static int fail(int code, const char *name)
{
    switch (-code) {
    case EOPNOTSUPP:
    case ENOENT:
        return sv_fail(SV_E_UNSUPPORTED, "this kernel has no WireGuard");
    case EPERM:
        return sv_fail(SV_E_PERMISSION, "cannot make the WireGuard interface %s: %s", name, strerror(-code));
    case EEXIST:
        return sv_fail(SV_E_IN_USE, "interface %s is there already", name);
    default:
        return sv_fail(SV_E_SYSTEM, "cannot make the WireGuard interface %s: %s", name, strerror(-code));
    }
}

static bool matches(const char *name, const char *pattern)
{
    const char *percent = strstr(pattern, "%d");
    size_t before = percent ? (size_t)(percent - pattern) : 0;

    return percent ? strncmp(name, pattern, before) == 0 : strcmp(name, pattern) == 0;
}

/* The library frees what it read as it is: our key, and the peers' preshared ones. */
static void free_read(wg_device *device)
{
    wg_peer *peer;

    wg_for_each_peer(device, peer)
    {
        sv_wipe(peer->preshared_key, sizeof peer->preshared_key);
    }
    sv_wipe(device->private_key, sizeof device->private_key);
    wg_free_device(device);
}

static bool has_key(const char *name, const uint8_t private_key[SV_KEY])
{
    wg_device *device = NULL;
    bool same;

    if (wg_get_device(&device, name)) {
        return false;
    }
    same = sv_equal(device->private_key, private_key, SV_KEY);
    free_read(device);
    return same;
}

/* Unlike a TUN device an interface of the kernel's outlives its program when that is killed. */
static void delete_leftovers(const char *pattern, const uint8_t private_key[SV_KEY])
{
    char *names = wg_list_device_names();

    for (const char *name = names; name && *name; name += strlen(name) + 1) {
        if (matches(name, pattern) && has_key(name, private_key)) {
            sv_log(SV_LOG_INFO, "interface %s was left behind: deleted", name);
            wg_del_device(name);
        }
    }
    free(names);
}

int sv_wg_kernel_open(const char *name, const uint8_t private_key[SV_KEY], char *made)
{
    const char *percent = strstr(name, "%d");
    int error = -EEXIST;

    if (strlen(name) >= SV_TUN_NAME) {
        return sv_fail(SV_E_INVALID, "interface name '%.32s' is longer than 15 bytes", name);
    }
    delete_leftovers(name, private_key);
    for (int i = 0; i < NAMES_MAX && error == -EEXIST; i++) {
        if (percent) {
            snprintf(made, SV_TUN_NAME, "%.*s%d", (int)(percent - name), name, i);
        } else {
            snprintf(made, SV_TUN_NAME, "%s", name);
        }
        error = if_nametoindex(made) ? -EEXIST : wg_add_device(made);
        if (!percent) {
            break;
        }
    }
    return error ? fail(error, made) : 0;
}

void sv_wg_kernel_close(const char *name)
{
    wg_del_device(name);
}

static const char *name_of(const struct sv_wg *wg)
{
    return wg->engine->tun.name;
}

static void name_device(wg_device *device, const struct sv_wg *wg)
{
    snprintf(device->name, sizeof device->name, "%s", name_of(wg));
}

int sv_wg_kernel_listen(struct sv_wg *wg, const uint8_t private_key[SV_KEY], uint16_t *port)
{
    wg_device device = {.flags = WGDEVICE_HAS_PRIVATE_KEY | WGDEVICE_HAS_LISTEN_PORT, .listen_port = *port};
    wg_device *now = NULL;
    int error;

    name_device(&device, wg);
    memcpy(device.private_key, private_key, SV_KEY);
    error = wg_set_device(&device);
    sv_wipe(&device, sizeof device);
    if (!error) {
        error = wg_get_device(&now, name_of(wg));
    }
    if (error) {
        return sv_fail(error == -EADDRINUSE ? SV_E_IN_USE : SV_E_SYSTEM, "cannot bind UDP port %u: %s", *port,
                       strerror(-error));
    }
    *port = now->listen_port;
    free_read(now);
    return 0;
}

/* ---- the tables to the interface ---- */

static int put_one(struct sv_wg *wg, wg_peer *peer)
{
    wg_device device = {.first_peer = peer, .last_peer = peer};
    int error;

    name_device(&device, wg);
    error = wg_set_device(&device);
    if (error) {
        sv_log(SV_LOG_ERROR, "%s does not take a peer: %s", name_of(wg), strerror(-error));
    }
    return error;
}

void sv_wg_kernel_remove(struct sv_wg *wg, const uint8_t public_key[SV_KEY])
{
    wg_peer peer = {.flags = WGPEER_HAS_PUBLIC_KEY | WGPEER_REMOVE_ME};

    memcpy(peer.public_key, public_key, SV_KEY);
    put_one(wg, &peer);
}

static void to_allowed(wg_allowedip *to, const struct sv_prefix *prefix)
{
    bool v4 = sv_addr_is4(prefix->addr) && prefix->bits >= 96;

    *to = (wg_allowedip){.family = v4 ? AF_INET : AF_INET6,
                         .cidr = (uint8_t)(v4 ? prefix->bits - 96 : prefix->bits)};
    if (v4) {
        memcpy(&to->ip4, prefix->addr + 12, 4);
    } else {
        memcpy(&to->ip6, prefix->addr, 16);
    }
}

/* The member's prefixes as a list in one piece; NULL: there are none, or no memory. */
static wg_allowedip *list_allowed(const struct sv_wg_member *member, bool *failed)
{
    size_t count = 0, i = 0;
    wg_allowedip *list;

    for (const struct sv_wg_allowed *a = member->allowed; a; a = a->next) {
        count++;
    }
    list = count ? calloc(count, sizeof *list) : NULL;
    *failed = count && !list;
    for (const struct sv_wg_allowed *a = member->allowed; a && list; a = a->next, i++) {
        to_allowed(&list[i], &a->prefix);
        list[i].next_allowedip = i + 1 < count ? &list[i + 1] : NULL;
    }
    return list;
}

static void set_endpoint(wg_peer *peer, const struct sv_endpoint *endpoint)
{
    if (endpoint->to.any.sa_family == AF_INET) {
        peer->endpoint.addr4 = endpoint->to.in4;
    } else {
        peer->endpoint.addr6 = endpoint->to.in6;
    }
}

void sv_wg_kernel_put(struct sv_wg_member *member, const struct sv_endpoint *endpoint)
{
    wg_peer peer = {.flags = WGPEER_HAS_PUBLIC_KEY | WGPEER_HAS_PRESHARED_KEY | WGPEER_REPLACE_ALLOWEDIPS |
                             WGPEER_HAS_PERSISTENT_KEEPALIVE_INTERVAL,
                    .persistent_keepalive_interval = member->peer.persistent_secs};
    bool failed;

    memcpy(peer.public_key, member->peer.public_key, SV_KEY);
    memcpy(peer.preshared_key, sv_wg_psk(&member->peer), SV_KEY);
    peer.first_allowedip = list_allowed(member, &failed);
    for (peer.last_allowedip = peer.first_allowedip;
         peer.last_allowedip && peer.last_allowedip->next_allowedip;
         peer.last_allowedip = peer.last_allowedip->next_allowedip) {
    }
    if (endpoint) {
        set_endpoint(&peer, endpoint);
    }
    member->unsaid = failed || put_one(member->wg, &peer) != 0;
    free(peer.first_allowedip);
    sv_wipe(&peer, sizeof peer);
}

/* ---- the interface to the tables ---- */

static void take_endpoint(struct sv_wg_member *member, const wg_peer *peer)
{
    const struct sv_wg_path *path = atomic_load(&member->path);
    struct sv_endpoint to = {0};

    if (peer->endpoint.addr.sa_family == AF_INET) {
        to.to.in4 = peer->endpoint.addr4;
    } else if (peer->endpoint.addr.sa_family == AF_INET6) {
        to.to.in6 = peer->endpoint.addr6;
    } else {
        return;
    }
    if (!path || !sv_endpoint_same(&path->to, &to)) {
        sv_wg_set_endpoint(member, &to);
    }
}

/* The interface counts anew for a peer that was removed and put back. */
static uint64_t grown(uint64_t *last, uint64_t now)
{
    uint64_t more = now < *last ? now : now - *last;

    *last = now;
    return more;
}

static void take_bytes(struct sv_wg_member *member, const wg_peer *peer, uint64_t now)
{
    uint64_t in = grown(&member->kernel_in, peer->rx_bytes), out = grown(&member->kernel_out, peer->tx_bytes);

    if (!member->heard && in + out) {
        sv_wg_list_heard(member);
    }
    sv_count_shared(&member->traffic.bytes_in, in);
    sv_count_shared(&member->traffic.bytes_out, out);
    if (in) {
        atomic_store_explicit(&member->peer.last_traffic, now, memory_order_relaxed);
    }
}

static void take_handshake(struct sv_wg_member *member, const wg_peer *peer, uint64_t now)
{
    uint64_t at = (uint64_t)peer->last_handshake_time.tv_sec * SV_NS_PER_S +
                  (uint64_t)peer->last_handshake_time.tv_nsec;
    uint64_t wall = sv_clock_wall(), age = at < wall ? wall - at : 0;

    member->peer.handshake_unix_ns = at;
    if (!at) {
        return;
    }
    member->peer.handshake_at = age < now ? now - age : 1;
    if (age < SV_WG_REJECT_AFTER_NS) {
        sv_wg_note_connected(member);
    } else {
        sv_wg_note_age(member, now);
    }
}

static void take(struct sv_wg *wg, const wg_peer *peer, uint64_t now)
{
    struct sv_wg_member *member = sv_wg_find(wg, peer->public_key);

    if (!member) {
        sv_wg_kernel_remove(wg, peer->public_key);
        return;
    }
    member->seen_at = now;
    take_endpoint(member, peer);
    take_bytes(member, peer, now);
    take_handshake(member, peer, now);
}

static void put_what_is_missing(struct sv_wg *wg, uint64_t now)
{
    for (struct sv_wg_member *member = wg->members; member; member = member->next) {
        const struct sv_wg_path *path = atomic_load(&member->path);

        if (member->seen_at != now) {
            sv_wg_kernel_put(member, path ? &path->to : NULL);
        } else if (member->unsaid) {
            sv_wg_kernel_put(member, NULL);
        }
    }
}

void sv_wg_kernel_read(struct sv_wg *wg, uint64_t now)
{
    wg_device *device = NULL;
    const wg_peer *peer;
    int error = wg_get_device(&device, name_of(wg));

    if (error) {
        if (!wg->kernel_lost) {
            sv_log(SV_LOG_ERROR, "%s cannot be read: %s", name_of(wg), strerror(-error));
        }
        wg->kernel_lost = true;
        return;
    }
    wg->kernel_lost = false;
    wg_for_each_peer(device, peer)
    {
        take(wg, peer, now);
    }
    free_read(device);
    put_what_is_missing(wg, now);
}

#else /* the build had no wireguard-tools to take the library from */

int sv_wg_kernel_open(const char *name, const uint8_t private_key[SV_KEY], char *made)
{
    (void)name, (void)private_key, (void)made;
    return sv_fail(SV_E_UNSUPPORTED, "this build has no part for the kernel's WireGuard");
}

void sv_wg_kernel_close(const char *name)
{
    (void)name;
}

int sv_wg_kernel_listen(struct sv_wg *wg, const uint8_t private_key[SV_KEY], uint16_t *port)
{
    (void)wg, (void)private_key, (void)port;
    return SV_E_UNSUPPORTED;
}

void sv_wg_kernel_put(struct sv_wg_member *member, const struct sv_endpoint *endpoint)
{
    (void)member, (void)endpoint;
}

void sv_wg_kernel_remove(struct sv_wg *wg, const uint8_t public_key[SV_KEY])
{
    (void)wg, (void)public_key;
}

void sv_wg_kernel_read(struct sv_wg *wg, uint64_t now)
{
    (void)wg, (void)now;
}

#endif

/* ---- what it cannot do ---- */

int sv_wg_kernel_holds(const sv_client_entry *entry)
{
    const char *rule = entry->source_allow_count        ? "security.ipAllowList"
                       : entry->source_deny_count       ? "security.ipBlockList"
                       : entry->destination_allow_count ? "security.destinationAllowList"
                       : entry->destination_deny_count  ? "security.destinationBlockList"
                       : entry->bytes_per_sec           ? "security.rateLimit"
                                                        : NULL;

    return rule ? sv_fail(
                      SV_E_INVALID,
                      "%s: cannot be held while the kernel carries WireGuard; wgBackend 'userspace' holds it",
                      rule)
                : 0;
}
