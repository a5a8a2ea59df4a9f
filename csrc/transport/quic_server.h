/* What quic_server.c and quic_accept.c share. */
#ifndef SV_TRANSPORT_QUIC_SERVER_H
#define SV_TRANSPORT_QUIC_SERVER_H

#include <string.h>

#include "base/map.h"
#include "transport/quic_conn.h"

enum {
    SV_QUIC_FIRST_ID = 21, /* key of a connection ID that a client chose: length, then bytes */
};

struct sv_quic_server {
    struct sv_quic_side side; /* first */
    struct sv_udp udp;
    struct sv_udp_batch *batch;
    struct sv_watch *watch4, *watch6;
    struct sv_map ids;       /* our connection IDs → connections */
    struct sv_map first_ids; /* those that clients chose for their first packets */
    uint8_t last_id[SV_QUIC_ID];
    struct sv_quic_conn *last; /* found under last_id; NULL: look */
    struct sv_quic_peer *peers;
    size_t opening; /* connections in their handshake */
    bool accepting;
    size_t worker, worker_count;
    uint64_t idle_timeout;
    bool (*admit)(void *owner, const uint8_t remote[16]);
    const struct sv_link_sink *sink;
    void *owner;
    uint8_t token_secret[SV_QUIC_SECRET], reset_secret[SV_QUIC_SECRET];
    uint64_t answers_until; /* ns, where the second of `answers` ends */
    size_t answers;         /* stateless resets in it */
    struct sv_quic_counters counters;
};

/* A connection of the server. */
struct sv_quic_peer {
    struct sv_quic_conn conn; /* first */
    struct sv_quic_peer *prev, *next;
    ngtcp2_cid first_id; /* of the client's first packets */
    bool opening;
};

static inline struct sv_quic_server *sv_quic_server_of(struct sv_quic_side *side)
{
    return (struct sv_quic_server *)(void *)side;
}

static inline void sv_quic_first_key(uint8_t key[SV_QUIC_FIRST_ID], const uint8_t *id, size_t len)
{
    memset(key, 0, SV_QUIC_FIRST_ID);
    key[0] = (uint8_t)len;
    memcpy(key + 1, id, len);
}

/* A long packet that belongs to no connection: begins one, asks for proof of address, or refuses. The connection to read it, or NULL. */
struct sv_quic_conn *sv_quic_accept(struct sv_quic_server *server, const struct sv_endpoint *from,
                                    const ngtcp2_path *path, const uint8_t *bytes, size_t len);
/* A version that is not ours. */
void sv_quic_answer_version(struct sv_quic_server *server, const struct sv_endpoint *to,
                            const ngtcp2_version_cid *packet);
/* A short packet of a connection that is not known any more. */
void sv_quic_answer_reset(struct sv_quic_server *server, const struct sv_endpoint *to, const uint8_t *bytes,
                          size_t len);
void sv_quic_peer_free(struct sv_quic_peer *peer);

#endif
