/* The hosts that the hub is known by. Every attempt asks for their addresses anew, since networks and hubs move; what was found before is kept for when
 * nobody answers, as while the name servers are to be reached through the tunnel alone, which is down. */
#include "engine/dialer_internal.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"

enum {
    SAME_MS = 1000,    /* an answer serves all attempts that begin within that time */
    PATIENCE_MS = 500, /* then what was known before will do */
};

/* ---- lookups under way ---- */

static void begin_lookup(struct sv_dial_name *name);

static void learn(struct sv_dial_name *name, const struct sv_addresses *first,
                  const struct sv_addresses *second)
{
    struct sv_addresses all = *first;

    for (size_t i = 0; second && i < second->count; i++) {
        sv_addresses_add(&all, &second->list[i]);
    }
    name->known = all;
    name->answered = true;
    name->answered_at = sv_clock_now();
    sv_dial_on_learned(name);
}

/* An answer to what was asked in another network, before it was asked for again, is better than none. */
static void on_found(void *ctx, const struct sv_addresses *addresses, const char *why)
{
    struct sv_dial_lookup *slot = ctx;
    struct sv_dial_name *name = slot->name;
    bool late = slot->begun < name->asked_at;

    slot->lookup = NULL;
    if (addresses->count && !late) {
        learn(name, name->answered ? &name->known : addresses, name->answered ? addresses : NULL);
    } else if (addresses->count && !name->known.count) {
        name->known = *addresses;
    } else if (!late) {
        snprintf(name->why, sizeof name->why, "%s", why);
    }
    if (name->again) {
        begin_lookup(name);
    }
    sv_dialer_run(name->dialer);
}

/* Where as many are under way as may be, it is done when one of them has ended. */
static void begin_lookup(struct sv_dial_name *name)
{
    struct sv_loop *loop = &name->dialer->worker->loop;

    name->again = false;
    if (name->dialer->stopped) {
        return;
    }
    for (size_t i = 0; i < SV_DIAL_LOOKUPS; i++) {
        struct sv_dial_lookup *slot = &name->lookups[i];

        if (!slot->lookup) {
            slot->name = name;
            slot->begun = sv_clock_now();
            if (sv_lookup_start(&slot->lookup, loop, name->host, on_found, slot)) {
                snprintf(name->why, sizeof name->why, "%.200s: cannot be looked up now", name->host);
            }
            return;
        }
    }
    name->again = true;
}

static bool is_pending(const struct sv_dial_name *name)
{
    for (size_t i = 0; i < SV_DIAL_LOOKUPS; i++) {
        if (name->lookups[i].lookup && name->lookups[i].begun >= name->asked_at) {
            return true;
        }
    }
    return name->again;
}

/* ---- asking ---- */

void sv_dial_name_init(struct sv_dial_name *name, struct sv_dialer *dialer, const char *host)
{
    struct sv_address numeric;

    name->dialer = dialer;
    snprintf(name->host, sizeof name->host, "%s", host);
    if (sv_host_numeric(&numeric, host) == 0) {
        name->numeric = true;
        sv_addresses_add(&name->known, &numeric);
    }
}

void sv_dial_name_outdate(struct sv_dial_name *name)
{
    name->asked_at = name->answered_at = 0;
}

static void tell_that_it_is_asked(const struct sv_dial_name *name)
{
    sv_event event = {.type = SV_EVENT_LOOKUP, .code = -1};

    snprintf(event.reason, sizeof event.reason, "%s", name->host);
    sv_event_put(name->dialer->worker->engine, &event);
}

void sv_dial_name_ask(struct sv_dial_name *name, uint64_t now)
{
    uint64_t last = name->answered_at > name->asked_at ? name->answered_at : name->asked_at;

    if (name->numeric || (last && now - last < SAME_MS * SV_NS_PER_MS)) {
        return;
    }
    name->asked_at = now;
    name->answered = false;
    name->why[0] = '\0';
    begin_lookup(name);
    tell_that_it_is_asked(name);
}

enum sv_dial_knowledge sv_dial_name_knows(const struct sv_dial_name *name, uint64_t now)
{
    if (name->numeric || name->answered) {
        return SV_DIAL_KNOWS;
    }
    if (is_pending(name) && (!name->known.count || now < name->asked_at + PATIENCE_MS * SV_NS_PER_MS)) {
        return SV_DIAL_ASKS;
    }
    return name->known.count ? SV_DIAL_KNOWS : SV_DIAL_FAILS;
}

uint64_t sv_dial_name_deadline(const struct sv_dial_name *name)
{
    return name->known.count ? name->asked_at + PATIENCE_MS * SV_NS_PER_MS : SV_NEVER;
}

/* In their order, and last the one that worked the last time: name servers of another network may tell anything. */
void sv_dial_name_addresses(const struct sv_dial_name *name, struct sv_addresses *addresses)
{
    *addresses = name->known;
    if (name->has_worked && !sv_addresses_have(addresses, &name->worked)) {
        addresses->count -= addresses->count == SV_ADDRESSES_MAX;
        sv_addresses_add(addresses, &name->worked);
    }
}

void sv_dial_name_worked(struct sv_dial_name *name, const uint8_t ip[16])
{
    struct sv_address address = {0};

    memcpy(address.ip, ip, sizeof address.ip);
    if (sv_addresses_have(&name->known, &address) && !name->numeric) {
        name->worked = address;
        name->has_worked = true;
    }
}

void sv_dial_name_clear(struct sv_dial_name *name)
{
    name->again = false;
    for (size_t i = 0; i < SV_DIAL_LOOKUPS; i++) {
        sv_lookup_drop(name->lookups[i].lookup);
        name->lookups[i].lookup = NULL;
    }
}

/* ---- what the program knows by other means ---- */

static int parse_all(struct sv_addresses *all, const char *const *addresses, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct sv_address one;

        if (sv_host_numeric(&one, addresses[i])) {
            return SV_E_INVALID;
        }
        sv_addresses_add(all, &one);
    }
    return 0;
}

static bool is_called(const struct sv_dial_name *name, const char *host)
{
    return !name->numeric && *name->host && strcasecmp(name->host, host) == 0;
}

int sv_client_offer_addresses(sv_engine *engine, const char *host, const char *const *addresses, size_t count)
{
    struct sv_dialer *dialer = engine->dialer;
    struct sv_addresses all = {0};
    int error = dialer ? parse_all(&all, addresses, count) : SV_E_STATE;

    if (error || !all.count) {
        return error;
    }
    pthread_mutex_lock(&dialer->lock);
    for (int i = 0; i < SV_DIAL_WAYS; i++) {
        if (is_called(&dialer->names[i], host)) {
            dialer->offers[i] = all;
            atomic_store(&dialer->offered, true);
        }
    }
    pthread_mutex_unlock(&dialer->lock);
    sv_worker_poke(dialer->worker);
    return 0;
}

/* What was offered comes first: it was asked of servers that see the hub from outside. */
void sv_dialer_obey(struct sv_engine *engine)
{
    struct sv_dialer *dialer = engine->dialer;
    struct sv_addresses offers[SV_DIAL_WAYS];

    if (!dialer || !atomic_load_explicit(&dialer->offered, memory_order_relaxed)) {
        return;
    }
    pthread_mutex_lock(&dialer->lock);
    atomic_store(&dialer->offered, false);
    memcpy(offers, dialer->offers, sizeof offers);
    memset(dialer->offers, 0, sizeof dialer->offers);
    pthread_mutex_unlock(&dialer->lock);
    for (int i = 0; i < SV_DIAL_WAYS && !dialer->stopped; i++) {
        struct sv_dial_name *name = &dialer->names[i];

        if (offers[i].count) {
            learn(name, &offers[i], name->answered ? &name->known : NULL);
        }
    }
    if (!dialer->stopped) {
        sv_dialer_run(dialer);
    }
}
