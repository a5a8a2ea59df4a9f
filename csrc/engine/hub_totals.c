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

void sv_hub_keep_traffic(struct sv_client *client, const struct sv_traffic *traffic)
{
    if (!client->ended) {
        client->ended = calloc(1, sizeof *client->ended);
    }
    if (!client->ended) {
        sv_log(SV_LOG_ERROR, "out of memory: what a session of client '%s' counted is lost", client->id);
        return;
    }
    add(client->ended, traffic);
    client->counted = true;
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

static bool list_counted(void *ctx, const void *key, void *object)
{
    struct listing *listing = ctx;
    struct sv_client *client = object;

    (void)key;
    if (client->counted || client->live || wg_activity(client) != client->wg_told) {
        if (listing->count < listing->cap) {
            fill(&listing->totals[listing->count], client);
        }
        listing->count++;
    }
    return true;
}

static bool all_told(void *ctx, const void *key, void *object)
{
    struct sv_client *client = object;

    (void)ctx;
    (void)key;
    client->counted = false;
    client->wg_told = wg_activity(client);
    return true;
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
        sv_map_each(&hub->clients_by_id, list_counted, &listing);
        if (listing.count <= cap) {
            sv_map_each(&hub->clients_by_id, all_told, NULL);
        }
    }
    pthread_mutex_unlock(&hub->lock);
    *count = listing.count;
    return error;
}
