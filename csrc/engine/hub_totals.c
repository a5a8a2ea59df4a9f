/* What was counted for each client since the hub was opened, over all its sessions: of those that ended it is kept with the client. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "engine/hub.h"
#include "engine/wg.h"

static void add(struct sv_traffic *sum, const struct sv_traffic *part)
{
    sv_counter *to = (sv_counter *)sum;
    const sv_counter *from = (const sv_counter *)part;

    for (size_t i = 0; i < sizeof *sum / sizeof *to; i++) {
        sv_count(&to[i], sv_counted(&from[i]));
    }
}

void sv_hub_list_untold(struct sv_hub *hub, struct sv_client *client)
{
    if (client->untold || client->removed) {
        return;
    }
    client->untold = true;
    client->untold_prev = NULL;
    client->untold_next = hub->untold;
    if (hub->untold) {
        hub->untold->untold_prev = client;
    }
    hub->untold = client;
}

void sv_hub_unlist_untold(struct sv_hub *hub, struct sv_client *client)
{
    if (!client->untold) {
        return;
    }
    client->untold = false;
    *(client->untold_prev ? &client->untold_prev->untold_next : &hub->untold) = client->untold_next;
    if (client->untold_next) {
        client->untold_next->untold_prev = client->untold_prev;
    }
}

void sv_hub_keep_traffic(struct sv_hub *hub, struct sv_client *client, const struct sv_traffic *traffic)
{
    if (!client->ended) {
        client->ended = calloc(1, sizeof *client->ended);
    }
    if (!client->ended) {
        sv_log(SV_LOG_ERROR, "out of memory: what a session of client '%s' counted is lost", client->id);
        return;
    }
    add(client->ended, traffic);
    sv_hub_list_untold(hub, client);
}

/* Changes whenever its WireGuard peer counts something. */
static uint64_t wg_activity(const struct sv_client *client)
{
    const struct sv_traffic *traffic = client->wg ? &client->wg->traffic : NULL;

    return traffic ? sv_counted(&traffic->packets_in) + sv_counted(&traffic->packets_out) +
                         sv_counted(&traffic->bytes_dropped)
                   : 0;
}

static void fill(sv_client_totals *totals, const struct sv_client *client)
{
    const struct sv_limiter *limiter = atomic_load(&client->limiter);
    struct sv_traffic sum = {0};
    sv_session_info info = {0};

    if (client->ended) {
        add(&sum, client->ended);
    }
    for (const struct sv_seat *seat = client->seats; seat; seat = seat->next) {
        if (seat->conn) {
            add(&sum, &seat->conn->traffic);
        }
    }
    if (client->wg) {
        add(&sum, &client->wg->traffic);
    }
    sv_traffic_fill(&info, &sum);
    memcpy(totals->client_id, client->id, sizeof totals->client_id);
    totals->bytes_sent = info.bytes_sent;
    totals->bytes_received = info.bytes_received;
    totals->packets_sent = info.packets_sent;
    totals->packets_received = info.packets_received;
    totals->keepalives_received = info.keepalives_received;
    totals->packets_dropped = info.packets_dropped;
    totals->bytes_dropped = info.bytes_dropped;
    totals->drops = info.drops;
    totals->bytes_per_sec = limiter ? limiter->bytes_per_sec : 0;
    totals->burst_bytes = limiter ? limiter->burst_bytes : 0;
}

struct listing {
    sv_client_totals *totals;
    size_t cap, count;
};

static void list(struct listing *listing, const struct sv_client *client)
{
    if (listing->count < listing->cap) {
        fill(&listing->totals[listing->count], client);
    }
    listing->count++;
}

static bool is_news(const struct sv_wg_member *member)
{
    return member->client && !member->client->untold &&
           wg_activity(member->client) != member->client->wg_told;
}

/* Of many clients only those that were there are looked at. */
static void list_counted(struct sv_hub *hub, struct listing *listing)
{
    struct sv_wg *wg = hub->engine->wg;

    for (const struct sv_client *client = hub->untold; client; client = client->untold_next) {
        list(listing, client);
    }
    if (wg) {
        sv_wg_lock(wg);
        for (const struct sv_wg_member *member = wg->heard; member; member = member->heard_next) {
            if (is_news(member)) {
                list(listing, member->client);
            }
        }
        sv_wg_unlock(wg);
    }
}

static void all_told(struct sv_hub *hub)
{
    struct sv_wg *wg = hub->engine->wg;

    for (struct sv_client *client = hub->untold, *next; client; client = next) {
        next = client->untold_next;
        if (!client->live) {
            sv_hub_unlist_untold(hub, client);
        }
    }
    if (wg) {
        sv_wg_lock(wg);
        for (const struct sv_wg_member *member = wg->heard; member; member = member->heard_next) {
            if (member->client) {
                member->client->wg_told = wg_activity(member->client);
            }
        }
        sv_wg_unlock(wg);
    }
}

int sv_hub_totals(sv_engine *engine, const char *client_id, sv_client_totals *totals, size_t cap,
                  size_t *count)
{
    struct sv_hub *hub = engine->hub;
    struct listing listing = {totals, cap, 0};
    struct sv_client *client = NULL;
    int error = 0;

    if (!hub) {
        return SV_E_STATE;
    }
    pthread_mutex_lock(&hub->lock);
    if (client_id) {
        client = sv_hub_find_client(hub, client_id);
        error = client ? 0 : sv_fail(SV_E_NOT_FOUND, "client '%.128s' does not exist", client_id);
        if (client && cap > 0) {
            fill(totals, client);
        }
        listing.count = client ? 1 : 0;
    } else {
        list_counted(hub, &listing);
        if (listing.count <= cap) {
            all_told(hub);
        }
    }
    pthread_mutex_unlock(&hub->lock);
    *count = listing.count;
    return error;
}
