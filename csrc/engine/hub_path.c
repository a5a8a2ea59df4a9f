/* A link of a client that goes on from another address: the rules about sources are asked again. */
#include <string.h>

#include "engine/hub.h"

/* The address is not proven yet, so nothing is counted against it: anybody may put another's into his packets. Who has not said who he is stays where
 * he is; a client is judged by its rules. */
static bool path_is_refused(const struct sv_conn *conn, const uint8_t remote[16])
{
    int64_t now = (int64_t)(sv_clock_wall() / SV_NS_PER_S);

    return conn->client ? sv_client_refusal(conn->client, remote, now) == SV_DISCONNECT_SOURCE_DENIED
                        : memcmp(conn->link->remote, remote, 16) != 0;
}

static void note_remote(struct sv_conn *conn, const uint8_t remote[16], uint16_t port)
{
    memcpy(conn->remote, remote, 16);
    conn->remote_port = port;
}

bool sv_hub_admits_path(struct sv_conn *conn, const uint8_t remote[16], uint16_t port)
{
    struct sv_hub *hub = sv_hub_of(conn);
    bool refused;

    pthread_mutex_lock(&hub->lock);
    refused = path_is_refused(conn, remote);
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
    struct sv_hub *hub = sv_hub_of(conn);

    pthread_mutex_lock(&hub->lock);
    note_remote(conn, conn->link->remote, conn->link->remote_port);
    pthread_mutex_unlock(&hub->lock);
}
