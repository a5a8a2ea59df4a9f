/* What a hub says of a client that comes by WireGuard: connected while its last handshake is younger than 180 s. */
#include <string.h>

#include "crypto/hash.h"
#include "engine/hub.h"
#include "engine/wg_kernel.h"

/* WireGuard has no session ids: the key's hash is the client's one session there. */
void sv_wg_session_id(const struct sv_wg_member *member, uint8_t id[SV_SESSION_ID_SIZE])
{
    uint8_t hash[SV_HASH];

    sv_hash(hash, &(struct sv_piece){member->peer.public_key, SV_KEY}, 1);
    memcpy(id, hash, SV_SESSION_ID_SIZE);
}

static void announce(struct sv_wg_member *member, sv_event_type type, int code)
{
    sv_event event = {.type = type, .code = code};

    if (member->client) {
        memcpy(event.client_id, member->client->id, sizeof event.client_id);
    }
    sv_wg_session_id(member, event.session_id);
    if (code >= 0) {
        strncpy(event.reason, sv_disconnect_text((unsigned)code), sizeof event.reason - 1);
    }
    event.state = member->connected ? SV_CLIENT_CONNECTED : SV_CLIENT_RECONNECTING;
    sv_event_put(member->wg->engine, &event);
}

/* On a hub only of clients; on a device alone of all peers. */
static bool is_told(const struct sv_wg_member *member)
{
    return member->client || !member->wg->engine->hub;
}

void sv_wg_note_connected(struct sv_wg_member *member)
{
    struct sv_hub *hub = member->wg->engine->hub;

    if (member->connected || !is_told(member)) {
        return;
    }
    member->connected = true;
    member->connected_wall = sv_clock_wall();
    sv_wg_list_heard(member);
    if (hub) {
        atomic_fetch_add(&hub->active, 1);
        atomic_fetch_add(&hub->sessions_total, 1);
    }
    announce(member, hub ? SV_EVENT_SESSION_STARTED : SV_EVENT_STATE, -1);
}

static void end(struct sv_wg_member *member, int code)
{
    struct sv_hub *hub = member->wg->engine->hub;

    if (!member->connected) {
        return;
    }
    member->connected = false;
    sv_wg_list_heard(member);
    if (hub) {
        atomic_fetch_sub(&hub->active, 1);
    }
    announce(member, hub ? SV_EVENT_SESSION_ENDED : SV_EVENT_STATE, code);
}

void sv_wg_note_age(struct sv_wg_member *member, uint64_t now)
{
    if (member->connected && now - member->peer.handshake_at >= SV_WG_REJECT_AFTER_NS) {
        end(member, -1);
    }
}

void sv_wg_forget(struct sv_wg_member *member, unsigned code)
{
    end(member, (int)code);
    sv_wg_forget_keys(member);
    if (member->wg->kernel) {
        sv_wg_kernel_remove(member->wg, member->peer.public_key);
        sv_wg_kernel_put(member, NULL);
    }
    sv_wg_schedule(member, sv_clock_now());
}

bool sv_wg_source_allows(const struct sv_wg_member *member, const struct sv_endpoint *from)
{
    static const uint8_t mapped[12] = {[10] = 0xFF, [11] = 0xFF};
    const struct sv_policy *policy;
    uint8_t source[16];

    if (!member->client) {
        return true;
    }
    if (from->to.any.sa_family == AF_INET) {
        memcpy(source, mapped, sizeof mapped);
        memcpy(source + 12, &from->to.in4.sin_addr, 4);
    } else {
        memcpy(source, &from->to.in6.sin6_addr, 16);
    }
    policy = atomic_load_explicit(&member->client->policy, memory_order_acquire);
    return sv_acl_allows(policy->source, source);
}

bool sv_wg_source_allowed(const struct sv_wg_member *member)
{
    const struct sv_wg_path *path = atomic_load_explicit(&member->path, memory_order_acquire);

    return !path || sv_wg_source_allows(member, &path->to);
}
