/* Packets that belong to no connection: new ones, and those that get an answer without a state. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "crypto/keys.h"
#include "io/socket.h"
#include "transport/quic_server.h"

enum {
    OPENING_MAX = 1024,      /* connections in their handshake; more are dropped */
    PROVE_ABOVE = 128,       /* of them: from there on a newcomer shows first that its address is its own */
    RESET_BYTES = 43,        /* as long as a small packet looks */
    RESETS_PER_SECOND = 256, /* answers to what may be forged */
    ANSWER_MAX = 1200,
};

static const uint64_t OPEN_WITHIN = 5 * SV_NS_PER_S;
static const uint64_t TOKEN_LIVES = 10 * SV_NS_PER_S;
static const uint32_t versions[] = {NGTCP2_PROTO_VER_V1};

/* ---- answers without a state ---- */

static void answer(struct sv_quic_server *server, const struct sv_endpoint *to, const uint8_t *bytes,
                   ngtcp2_ssize len)
{
    struct sv_endpoint endpoint = *to;

    if (len > 0) {
        sv_udp_send(&server->udp, &endpoint, bytes, (size_t)len, (size_t)len);
    }
}

void sv_quic_answer_version(struct sv_quic_server *server, const struct sv_endpoint *to,
                            const ngtcp2_version_cid *packet)
{
    uint8_t bytes[ANSWER_MAX], random;

    sv_random(&random, 1);
    answer(server, to, bytes,
           ngtcp2_pkt_write_version_negotiation(bytes, sizeof bytes, random, packet->scid, packet->scidlen,
                                                packet->dcid, packet->dcidlen, versions, 1));
}

static bool may_answer(struct sv_quic_server *server)
{
    if (server->side.now >= server->answers_until) {
        server->answers_until = server->side.now + SV_NS_PER_S;
        server->answers = 0;
    }
    return server->answers++ < RESETS_PER_SECOND;
}

/* Always shorter than what it answers, so that two that answer each other come to an end. */
void sv_quic_answer_reset(struct sv_quic_server *server, const struct sv_endpoint *to, const uint8_t *bytes,
                          size_t len)
{
    uint8_t packet[RESET_BYTES], random[RESET_BYTES];
    size_t size = len - 1 < RESET_BYTES ? len - 1 : RESET_BYTES;
    ngtcp2_stateless_reset_token token;
    ngtcp2_cid id;

    if (size < NGTCP2_STATELESS_RESET_TOKENLEN + NGTCP2_MIN_STATELESS_RESET_RANDLEN || !may_answer(server)) {
        return;
    }
    ngtcp2_cid_init(&id, bytes + 1, SV_QUIC_ID);
    server->side.ops->reset_token(&server->side, &id, &token);
    sv_random(random, sizeof random);
    answer(server, to, packet,
           ngtcp2_pkt_write_stateless_reset2(packet, size, &token, random,
                                             size - NGTCP2_STATELESS_RESET_TOKENLEN));
}

static void refuse(struct sv_quic_server *server, const struct sv_endpoint *to, const ngtcp2_pkt_hd *hd,
                   uint64_t code)
{
    uint8_t bytes[ANSWER_MAX];

    server->counters.refused++;
    answer(server, to, bytes,
           ngtcp2_crypto_write_connection_close(bytes, sizeof bytes, hd->version, &hd->scid, &hd->dcid, code,
                                                NULL, 0));
}

static void demand_proof(struct sv_quic_server *server, const struct sv_endpoint *to, const ngtcp2_path *path,
                         const ngtcp2_pkt_hd *hd)
{
    uint8_t bytes[ANSWER_MAX], token[NGTCP2_CRYPTO_MAX_RETRY_TOKENLEN2];
    ngtcp2_ssize len;
    ngtcp2_cid id;

    server->counters.retries++;
    server->side.ops->new_id(&server->side, &id);
    len = ngtcp2_crypto_generate_retry_token2(token, server->token_secret, sizeof server->token_secret,
                                              hd->version, path->remote.addr, path->remote.addrlen, &id,
                                              &hd->dcid, server->side.now);
    if (len > 0) {
        answer(server, to, bytes,
               ngtcp2_crypto_write_retry(bytes, sizeof bytes, hd->version, &hd->scid, &id, &hd->dcid, token,
                                         (size_t)len));
    }
}

/* ---- a new connection ---- */

static bool is_proof(const ngtcp2_pkt_hd *hd)
{
    return hd->tokenlen && hd->token[0] == NGTCP2_CRYPTO_TOKEN_MAGIC_RETRY2;
}

static bool proof_holds(const struct sv_quic_server *server, const ngtcp2_path *path, const ngtcp2_pkt_hd *hd,
                        ngtcp2_cid *original)
{
    return ngtcp2_crypto_verify_retry_token2(original, hd->token, hd->tokenlen, server->token_secret,
                                             sizeof server->token_secret, hd->version, path->remote.addr,
                                             path->remote.addrlen, &hd->dcid, TOKEN_LIVES,
                                             server->side.now) == 0;
}

static int make_quic(struct sv_quic_peer *peer, const ngtcp2_path *path, const ngtcp2_pkt_hd *hd,
                     const ngtcp2_cid *original)
{
    struct sv_quic_conn *conn = &peer->conn;
    struct sv_quic_server *server = sv_quic_server_of(conn->side);
    ngtcp2_stateless_reset_token token;
    ngtcp2_transport_params params;
    ngtcp2_settings settings;
    ngtcp2_cid id;

    sv_quic_settings(&settings, conn->side->now);
    settings.handshake_timeout = OPEN_WITHIN;
    sv_quic_params(&params, true, server->idle_timeout);
    params.original_dcid = original ? *original : hd->dcid;
    params.original_dcid_present = 1;
    if (original) {
        params.retry_scid = hd->dcid;
        params.retry_scid_present = 1;
        settings.token = hd->token;
        settings.tokenlen = hd->tokenlen;
        settings.token_type = NGTCP2_TOKEN_TYPE_RETRY;
    }
    conn->side->ops->new_id(conn->side, &id);
    conn->side->ops->reset_token(conn->side, &id, &token);
    memcpy(params.stateless_reset_token, token.data, sizeof params.stateless_reset_token);
    params.stateless_reset_token_present = 1;
    return ngtcp2_conn_server_new(&conn->quic, &hd->scid, &id, path, hd->version, &sv_quic_callbacks_server,
                                  &settings, &params, NULL, conn) ||
           conn->side->ops->add_id(conn, &id) || sv_quic_conn_start(conn, NULL);
}

/* The client's own choice stands for it until it uses ours. */
static int add_first_id(struct sv_quic_peer *peer, const ngtcp2_cid *id)
{
    uint8_t key[SV_QUIC_FIRST_ID];
    struct sv_quic_server *server = sv_quic_server_of(peer->conn.side);
    int error;

    sv_quic_first_key(key, id->data, id->datalen);
    error = sv_map_insert(&server->first_ids, key, &peer->conn);
    if (!error) {
        peer->first_id = *id;
    }
    return error;
}

static void link_in(struct sv_quic_server *server, struct sv_quic_peer *peer)
{
    peer->next = server->peers;
    if (peer->next) {
        peer->next->prev = peer;
    }
    server->peers = peer;
    peer->opening = true;
    server->opening++;
}

static struct sv_quic_conn *begin(struct sv_quic_server *server, const ngtcp2_path *path,
                                  const ngtcp2_pkt_hd *hd, const ngtcp2_cid *original)
{
    struct sv_quic_peer *peer = calloc(1, sizeof *peer);

    if (!peer) {
        return NULL;
    }
    sv_quic_conn_init(&peer->conn, &server->side, server->sink, server->owner);
    link_in(server, peer);
    if (make_quic(peer, path, hd, original) || add_first_id(peer, &hd->dcid)) {
        sv_quic_peer_free(peer);
        return NULL;
    }
    server->counters.accepted++;
    return &peer->conn;
}

struct sv_quic_conn *sv_quic_accept(struct sv_quic_server *server, const struct sv_endpoint *from,
                                    const ngtcp2_path *path, const uint8_t *bytes, size_t len)
{
    struct sockaddr_storage addr = {0};
    ngtcp2_cid original;
    ngtcp2_pkt_hd hd;
    uint8_t ip[16];
    uint16_t port;
    bool proven;

    if (ngtcp2_accept(&hd, bytes, len)) {
        server->counters.garbage++;
        return NULL;
    }
    proven = is_proof(&hd);
    if (proven && !proof_holds(server, path, &hd, &original)) {
        refuse(server, from, &hd, NGTCP2_INVALID_TOKEN);
        return NULL;
    }
    if (!proven && server->opening >= PROVE_ABOVE) {
        demand_proof(server, from, path, &hd);
        return NULL;
    }
    memcpy(&addr, path->remote.addr, path->remote.addrlen);
    sv_sockaddr_split(&addr, ip, &port);
    if (!server->accepting || (server->admit && !server->admit(server->owner, ip))) {
        refuse(server, from, &hd, NGTCP2_CONNECTION_REFUSED);
        return NULL;
    }
    if (server->opening >= OPENING_MAX) {
        server->counters.busy++;
        return NULL;
    }
    return begin(server, path, &hd, proven ? &original : NULL);
}
