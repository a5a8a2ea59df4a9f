/* Answers to "how is it going": sums of what workers counted, and lists of sessions. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "engine/dialer.h"
#include "engine/hub.h"
#include "engine/wg.h"
#include "io/socket.h"

static void add_drops(sv_drops *drops, const struct sv_traffic *traffic)
{
    drops->malformed += sv_counted(&traffic->drops[SV_DROP_MALFORMED]);
    drops->source += sv_counted(&traffic->drops[SV_DROP_SOURCE]);
    drops->acl += sv_counted(&traffic->drops[SV_DROP_ACL]);
    drops->rate_limit += sv_counted(&traffic->drops[SV_DROP_RATE]);
    drops->high += sv_counted(&traffic->drops[SV_DROP_HIGH]);
    drops->normal += sv_counted(&traffic->drops[SV_DROP_NORMAL]);
    drops->low += sv_counted(&traffic->drops[SV_DROP_LOW]);
    drops->no_route += sv_counted(&traffic->drops[SV_DROP_NO_ROUTE]);
    drops->too_big += sv_counted(&traffic->drops[SV_DROP_TOO_BIG]);
    drops->tun += sv_counted(&traffic->drops[SV_DROP_TUN]);
}

static void add_traffic(sv_statistics *sum, const struct sv_traffic *traffic)
{
    sum->bytes_sent += sv_counted(&traffic->bytes_out);
    sum->bytes_received += sv_counted(&traffic->bytes_in);
    sum->packets_sent += sv_counted(&traffic->packets_out);
    sum->packets_received += sv_counted(&traffic->packets_in);
    sum->keepalives_sent += sv_counted(&traffic->keepalives_out);
    sum->keepalives_received += sv_counted(&traffic->keepalives_in);
    sum->icmp_too_big_sent += sv_counted(&traffic->too_big_sent);
    add_drops(&sum->drops, traffic);
}

/* Each worker keeps the sums of its closed connections; those of live ones are added here. */
static void add_live(struct sv_engine *engine, sv_statistics *sum)
{
    for (size_t i = 0; i < engine->worker_count; i++) {
        struct sv_worker *worker = &engine->workers[i];

        add_traffic(sum, &worker->traffic);
        pthread_mutex_lock(&worker->conns_lock);
        for (const struct sv_conn *conn = worker->conns; conn; conn = conn->next) {
            add_traffic(sum, &conn->traffic);
        }
        pthread_mutex_unlock(&worker->conns_lock);
    }
    if (engine->wg) {
        sv_wg_lock(engine->wg);
        sum->handshakes += sv_counted(&engine->wg->handshakes);
        sum->bad_handshakes += sv_counted(&engine->wg->bad_handshakes);
        sum->cookies_sent += sv_counted(&engine->wg->cookies_sent);
        sum->drops.malformed += atomic_load_explicit(&engine->wg->strangers, memory_order_relaxed);
        add_traffic(sum, &engine->wg->gone);
        for (const struct sv_wg_member *member = engine->wg->heard; member; member = member->heard_next) {
            add_traffic(sum, &member->traffic);
        }
        sv_wg_unlock(engine->wg);
    }
}

static void add_quic(sv_statistics *sum, const struct sv_quic_counters *counters)
{
    sv_quic_rejects *rejects = &sum->quic_rejects;

    sum->bad_handshakes += counters->failed + counters->refused; /* did not get as far as message 1 */
    rejects->garbage += counters->garbage;
    rejects->version += counters->versions;
    rejects->busy += counters->busy;
    rejects->retry += counters->retries;
    rejects->refused += counters->refused;
    rejects->stray += counters->strays;
    rejects->unknown += counters->unknown;
    rejects->broken += counters->broken;
}

void sv_engine_statistics(sv_engine *engine, sv_statistics *statistics)
{
    struct sv_hub *hub = engine->hub;

    memset(statistics, 0, sizeof *statistics);
    add_live(engine, statistics);
    statistics->uptime_secs = (sv_clock_now() - engine->opened_at) / SV_NS_PER_S;
    if (hub) {
        statistics->active_sessions = atomic_load(&hub->active);
        statistics->total_sessions = atomic_load(&hub->sessions_total);
        statistics->handshakes += atomic_load(&hub->handshakes);
        statistics->bad_handshakes += atomic_load(&hub->bad_handshakes);
    }
    for (size_t i = 0; i < engine->worker_count; i++) {
        statistics->half_open += atomic_load(&engine->workers[i].half_open);
        if (engine->workers[i].quic) {
            add_quic(statistics, sv_quic_server_counters(engine->workers[i].quic));
        }
    }
}

void sv_quality_fill(sv_quality_info *info, const struct sv_published *from)
{
    uint64_t min = sv_counted(&from->min_rtt_ns);

    *info = (sv_quality_info){
        .srtt_ms = (double)sv_counted(&from->srtt_ns) / 1e6,
        .jitter_ms = (double)sv_counted(&from->jitter_ns) / 1e6,
        .min_rtt_ms = min == UINT64_MAX ? 0 : (double)min / 1e6,
        .max_rtt_ms = (double)sv_counted(&from->max_rtt_ns) / 1e6,
        .loss_ratio = (double)sv_counted(&from->loss_ppm) / 1e6,
        .consecutive_timeouts = (uint32_t)sv_counted(&from->timeouts),
        .health = (int)sv_counted(&from->health),
        .keepalive_interval_secs = (uint32_t)sv_counted(&from->interval_secs),
        .known = sv_counted(&from->measured) != 0,
    };
}

/* Monotonic ns to seconds since 1970; 0 stays 0. */
static double to_wall(uint64_t ns)
{
    return ns ? ((double)sv_clock_wall() - (double)(sv_clock_now() - ns)) / 1e9 : 0;
}

static void fill_rules(sv_session_info *info, const struct sv_client *client)
{
    const struct sv_limiter *limiter = atomic_load(&client->limiter);

    memcpy(info->client_id, client->id, sizeof info->client_id);
    memcpy(info->public_key, client->key, sizeof info->public_key);
    info->bytes_per_sec = limiter ? limiter->bytes_per_sec : 0;
    info->burst_bytes = limiter ? limiter->burst_bytes : 0;
}

void sv_traffic_fill(sv_session_info *info, const struct sv_traffic *traffic)
{
    info->bytes_sent = sv_counted(&traffic->bytes_out);
    info->bytes_received = sv_counted(&traffic->bytes_in);
    info->packets_sent = sv_counted(&traffic->packets_out);
    info->packets_received = sv_counted(&traffic->packets_in);
    info->keepalives_received = sv_counted(&traffic->keepalives_in);
    info->bytes_dropped = sv_counted(&traffic->bytes_dropped);
    for (size_t i = SV_DROP_MALFORMED; i < SV_VERDICT_COUNT; i++) {
        info->packets_dropped += sv_counted(&traffic->drops[i]);
    }
    add_drops(&info->drops, traffic);
}

static void fill_session(const struct sv_hub *hub, sv_session_info *info, const struct sv_seat *seat)
{
    const struct sv_conn *conn = seat->conn;

    memset(info, 0, sizeof *info);
    fill_rules(info, seat->client);
    memcpy(info->session_id, seat->session_id, sizeof info->session_id);
    memcpy(info->software, seat->software, sizeof info->software);
    sv_addr_format(info->assigned_ip, sizeof info->assigned_ip, conn->addr4);
    if (hub->has6) {
        sv_addr_format(info->assigned_ip6, sizeof info->assigned_ip6, conn->addr6);
    }
    sv_sockaddr_format(info->remote_addr, sizeof info->remote_addr, conn->remote, conn->remote_port);
    info->transport = conn->transport;
    info->connected_since = (double)seat->started_wall / 1e9;
    info->last_keepalive = to_wall(sv_counted(&conn->published.last_keepalive));
    sv_traffic_fill(info, &conn->traffic);
    sv_quality_fill(&info->quality, &conn->published);
}

struct listing {
    const struct sv_hub *hub;
    sv_session_info *infos;
    size_t cap, count;
};

static bool list_seat(void *ctx, const void *key, void *object)
{
    struct listing *listing = ctx;
    const struct sv_seat *seat = object;

    (void)key;
    if (seat->conn && listing->count < listing->cap) {
        fill_session(listing->hub, &listing->infos[listing->count], seat);
    }
    listing->count += seat->conn != NULL;
    return true;
}

static void list_wg(struct listing *listing, const struct sv_client *client)
{
    sv_session_info info;

    if (sv_hub_wg_session(listing->hub, client, &info)) {
        fill_rules(&info, client);
        if (listing->count < listing->cap) {
            listing->infos[listing->count] = info;
        }
        listing->count++;
    }
}

static void list_client(struct listing *listing, const struct sv_client *client)
{
    for (struct sv_seat *seat = client->seats; seat; seat = seat->next) {
        list_seat(listing, NULL, seat);
    }
    if (client->wg) {
        sv_wg_lock(listing->hub->engine->wg);
        list_wg(listing, client);
        sv_wg_unlock(listing->hub->engine->wg);
    }
}

/* Of many clients only those that are there are looked at. */
static void list_all(struct listing *listing)
{
    struct sv_wg *wg = listing->hub->engine->wg;

    sv_map_each(&listing->hub->seats_by_id, list_seat, listing);
    if (wg) {
        sv_wg_lock(wg);
        for (const struct sv_wg_member *member = wg->heard; member && member->connected;
             member = member->heard_next) {
            list_wg(listing, member->client);
        }
        sv_wg_unlock(wg);
    }
}

int sv_hub_sessions(sv_engine *engine, const char *client_id, sv_session_info *infos, size_t cap,
                    size_t *count)
{
    struct sv_hub *hub = engine->hub;
    struct listing listing = {hub, infos, cap, 0};
    struct sv_client *client;
    int error = 0;

    if (!hub) {
        return SV_E_STATE;
    }
    pthread_mutex_lock(&hub->lock);
    if (client_id) {
        client = sv_hub_find_client(hub, client_id);
        error = client ? 0 : sv_fail(SV_E_NOT_FOUND, "client '%.128s' does not exist", client_id);
        if (client) {
            list_client(&listing, client);
        }
    } else {
        list_all(&listing);
    }
    pthread_mutex_unlock(&hub->lock);
    *count = listing.count;
    return error;
}
