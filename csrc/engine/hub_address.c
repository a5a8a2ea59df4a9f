/* Whose an address of the subnet is: a client's own, held for one that is not here, or lent to a further session of some client. */
#include "base/error.h"
#include "engine/hub.h"

struct loan {
    uint32_t index;
    struct sv_seat *seat;
};

static bool find_loan(void *ctx, const void *key, void *object)
{
    struct loan *loan = ctx;
    struct sv_seat *seat = object;

    (void)key;
    if (seat->holds_address && seat->address_index == loan->index) {
        loan->seat = seat;
    }
    return !loan->seat;
}

/* The session that has the address on loan ends; it comes back and gets another one. */
static void call_in(struct sv_hub *hub, uint32_t index)
{
    struct loan loan = {.index = index};

    sv_map_each(&hub->seats_by_id, find_loan, &loan);
    if (loan.seat) {
        sv_seat_end(hub, loan.seat, SV_DISCONNECT_KICKED);
    }
}

static int parse(const struct sv_hub *hub, const char *text, uint32_t *index)
{
    uint8_t addr[16];

    if (sv_addr_parse(addr, text) || sv_pool_index(hub->pool, addr, index)) {
        return sv_fail(SV_E_INVALID, "assignedIp: '%.64s' is not a client address of the subnet", text);
    }
    return 0;
}

static int take(struct sv_hub *hub, const char *text, uint32_t index)
{
    int error = sv_pool_take_index(hub->pool, index);

    if (error == SV_E_EXISTS) {
        call_in(hub, index);
        error = sv_pool_take_index(hub->pool, index);
    }
    return error ? sv_fail(error, "assignedIp: '%.64s' is taken", text) : 0;
}

static int take_any(struct sv_hub *hub, uint32_t *index)
{
    int error = sv_pool_take(hub->pool, index);

    return error ? sv_fail(error, "no free address is left in the subnet") : 0;
}

int sv_hub_claim_address(struct sv_hub *hub, const struct sv_client *client, const sv_client_entry *entry,
                         uint32_t *index)
{
    bool named = entry->assigned_ip && *entry->assigned_ip;
    int error;

    if (!named && !client) {
        return take_any(hub, index);
    }
    if (!named) {
        *index = client->address_index;
        return 0;
    }
    error = parse(hub, entry->assigned_ip, index);
    if (error || entry->agreed || (client && *index == client->address_index)) {
        return error;
    }
    return take(hub, entry->assigned_ip, *index);
}

void sv_hub_unclaim_address(struct sv_hub *hub, const struct sv_client *client, const sv_client_entry *entry,
                            uint32_t index)
{
    if (!entry->agreed && !(client && index == client->address_index)) {
        sv_pool_release(hub->pool, index);
    }
}

void sv_hub_keep_address(struct sv_hub *hub, const char *address)
{
    uint32_t index;

    if (address && parse(hub, address, &index) == 0) {
        sv_pool_take_index(hub->pool, index);
    }
}

int sv_hub_hold_address(sv_engine *engine, const char *address)
{
    struct sv_hub *hub = engine->hub;
    uint32_t index;
    int error;

    if (!hub) {
        return SV_E_STATE;
    }
    if (!address || !*address) {
        return sv_fail(SV_E_INVALID, "assignedIp: is missing");
    }
    pthread_mutex_lock(&hub->lock);
    error = parse(hub, address, &index);
    if (!error) {
        error = take(hub, address, index);
    }
    pthread_mutex_unlock(&hub->lock);
    return error;
}

void sv_hub_release_address(sv_engine *engine, const char *address)
{
    struct sv_hub *hub = engine->hub;
    uint32_t index;

    if (!hub) {
        return;
    }
    pthread_mutex_lock(&hub->lock);
    if (parse(hub, address, &index) == 0) {
        sv_pool_release(hub->pool, index);
    }
    pthread_mutex_unlock(&hub->lock);
}
