/* A link of a client that goes on from another address: the rules about sources are asked again. */
#include <string.h>

#include "engine/hub.h"

static struct sv_hub *hub_of(const struct sv_conn *conn)
{
    return conn->worker->engine->hub;
}

/* A path that is not live yet counts like a handshake, a live session's is judged by its client's rules. */
static bool path_is_refused(struct sv_hub *hub, struct sv_conn *conn, const uint8_t remote[16])
{
    int64_t now = (int64_t)(sv_clock_wall() / SV_NS_PER_S);

    return !sv_admission_source_passes(&hub->admission, conn->worker->loop.now, remote) ||
           (conn->client && sv_client_refusal(conn->client, remote, now) == SV_DISCONNECT_SOURCE_DENIED);
}

static void note_remote(struct sv_conn *conn, const uint8_t remote[16], uint16_t port)
{
    memcpy(conn->remote, remote, 16);
    conn->remote_port = port;
}

bool sv_hub_admits_path(struct sv_conn *conn, const uint8_t remote[16], uint16_t port)
{
    struct sv_hub *hub = hub_of(conn);
    bool refused;

    pthread_mutex_lock(&hub->lock);
    refused = path_is_refused(hub, conn, remote);
    if (!refused) {
        note_remote(conn, remote, port);
    }
    pthread_mutex_unlock(&hub->lock);
    if (refused) {
        sv_hub_on_fatal(conn, "its new address may not come in");
    }
    return !refused;
}

void sv_hub_note_remote(struct sv_conn *conn)
{
    struct sv_hub *hub = hub_of(conn);

    pthread_mutex_lock(&hub->lock);
    note_remote(conn, conn->link->remote, conn->link->remote_port);
    pthread_mutex_unlock(&hub->lock);
}
