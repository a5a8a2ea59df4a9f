/* The ways to the hub: that they do not lead into the tunnel itself, and whether they have changed with the network. */
#include "engine/dialer_internal.h"

#include <string.h>

#include "policy/prefix.h"

/* ---- around the tunnel ---- */

static bool leads_inside(const struct sv_dialer *dialer, const uint8_t remote[16])
{
    unsigned interface;

    return sv_way_interface(&interface, remote) == 0 && interface == dialer->tun_index;
}

/* Where an interface has lost its address, packets would leave it from the tunnel's, and answers come through the tunnel. */
static bool is_inner(const struct sv_dialer *dialer, const uint8_t source[16])
{
    return memcmp(source, dialer->inner4, 16) == 0 || memcmp(source, dialer->inner6, 16) == 0;
}

/* Packets to there would be wrapped into themselves, or go over the link that is to be replaced. */
bool sv_dial_way_inside(const struct sv_dialer *dialer, const uint8_t remote[16])
{
    uint8_t source[16];

    return leads_inside(dialer, remote) ||
           (sv_source_address(source, remote) == 0 && is_inner(dialer, source));
}

size_t sv_dial_ways_inside(const struct sv_dialer *dialer, struct sv_addresses *addresses)
{
    struct sv_addresses outside = {0};
    size_t all = addresses->count;

    for (size_t i = 0; i < all; i++) {
        if (!sv_dial_way_inside(dialer, addresses->list[i].ip)) {
            sv_addresses_add(&outside, &addresses->list[i]);
        }
    }
    *addresses = outside;
    return all - outside.count;
}

/* ---- what has to stay outside ---- */

static void add(sv_hub_addresses *all, const uint8_t ip[16])
{
    char text[SV_ADDR_TEXT_SIZE];

    sv_addr_format(text, sizeof text, ip);
    for (size_t i = 0; i < all->count; i++) {
        if (strcmp(all->list[i], text) == 0) {
            return;
        }
    }
    if (all->count < SV_HUB_ADDRESSES_MAX) {
        memcpy(all->list[all->count++], text, sizeof text);
    }
}

/* Where the link goes, or the last one went, and where attempts that are under way may go. */
static void collect(const struct sv_dialer *dialer, sv_hub_addresses *all)
{
    *all = (sv_hub_addresses){0};
    if (dialer->ever_connected) {
        add(all, dialer->paths[SV_PATH_HUB].remote);
    }
    for (int way = 0; way < SV_DIAL_WAYS; way++) {
        const struct sv_dial_attempt *attempt = &dialer->attempts[way];

        if (attempt->asking || attempt->opening || attempt->pending) {
            for (size_t i = 0; i < attempt->addresses.count; i++) {
                add(all, attempt->addresses.list[i].ip);
            }
        }
    }
}

void sv_dial_ways_publish(struct sv_dialer *dialer, bool wanted)
{
    sv_event event = {.type = SV_EVENT_ADDRESSES, .code = -1};
    sv_hub_addresses all;
    bool fewer;

    collect(dialer, &all);
    pthread_mutex_lock(&dialer->lock);
    fewer = all.count < dialer->outside.count;
    dialer->outside = all;
    pthread_mutex_unlock(&dialer->lock);
    if (wanted || fewer) {
        sv_event_put(dialer->worker->engine, &event);
    }
}

int sv_client_get_addresses(sv_engine *engine, sv_hub_addresses *addresses)
{
    struct sv_dialer *dialer = engine->dialer;

    if (!dialer) {
        return SV_E_STATE;
    }
    pthread_mutex_lock(&dialer->lock);
    *addresses = dialer->outside;
    pthread_mutex_unlock(&dialer->lock);
    return 0;
}

/* ---- changes of the network ---- */

/* Whether the way has changed and there is one. */
static bool look_at(const struct sv_dialer *dialer, struct sv_dial_path *path)
{
    uint8_t source[16];
    bool had = path->there, reached = sv_source_address(source, path->remote) == 0;

    path->inside = reached && leads_inside(dialer, path->remote);
    path->there = reached && !path->inside && !is_inner(dialer, source);
    if (!path->there || (had && memcmp(source, path->source, 16) == 0)) {
        return false;
    }
    memcpy(path->source, source, 16);
    return true;
}

static struct sv_dial_path *path_to(struct sv_dial_path *paths, size_t count, const uint8_t remote[16])
{
    for (size_t i = 0; i < count; i++) {
        if (memcmp(paths[i].remote, remote, 16) == 0) {
            return &paths[i];
        }
    }
    return NULL;
}

/* An address that is led around the tunnel is no change of the network, and one that was not known before is none either. */
static bool look_at_known(struct sv_dialer *dialer, struct sv_dial_path *at, const uint8_t remote[16])
{
    const struct sv_dial_path *before = path_to(dialer->known, dialer->known_count, remote);
    bool news;

    *at = before ? *before : (struct sv_dial_path){0};
    memcpy(at->remote, remote, 16);
    news = look_at(dialer, at);
    return news && before && !before->inside;
}

bool sv_dial_ways_look(struct sv_dialer *dialer)
{
    struct sv_dial_path known[SV_DIAL_KNOWN_MAX];
    size_t count = 0;
    bool news = false;

    for (int i = 0; i < SV_DIAL_WAYS; i++) {
        struct sv_addresses addresses;

        sv_dial_name_addresses(&dialer->names[i], &addresses);
        for (size_t j = 0; j < addresses.count; j++) {
            if (!path_to(known, count, addresses.list[j].ip)) {
                news |= look_at_known(dialer, &known[count], addresses.list[j].ip);
                count++;
            }
        }
    }
    memcpy(dialer->known, known, count * sizeof *known);
    dialer->known_count = count;
    return news;
}

/* By our address on the way to the hub. Where there is no link, or no way for it any more, by the ways to the hub's other addresses, and to such as
 * stand for any. */
bool sv_dial_ways_changed(struct sv_dialer *dialer)
{
    struct sv_dial_path *paths = dialer->paths;
    bool hub = look_at(dialer, &paths[SV_PATH_HUB]);
    bool any4 = look_at(dialer, &paths[SV_PATH_ANY4]), any6 = look_at(dialer, &paths[SV_PATH_ANY6]);
    bool known = sv_dial_ways_look(dialer);
    bool linked = dialer->active && dialer->active->link && paths[SV_PATH_HUB].there;

    return hub || (!linked && (any4 || any6 || known));
}

/* Addresses for documentation (RFC 5737, RFC 3849): nothing is ever sent there. */
void sv_dial_ways_init(struct sv_dialer *dialer)
{
    sv_addr_parse(dialer->paths[SV_PATH_HUB].remote, "198.51.100.1");
    sv_addr_parse(dialer->paths[SV_PATH_ANY4].remote, "198.51.100.1");
    sv_addr_parse(dialer->paths[SV_PATH_ANY6].remote, "2001:db8::1");
    sv_dial_ways_changed(dialer);
}

void sv_dial_ways_note(struct sv_dialer *dialer, const uint8_t remote[16])
{
    memcpy(dialer->paths[SV_PATH_HUB].remote, remote, 16);
    look_at(dialer, &dialer->paths[SV_PATH_HUB]);
}
