/* QUIC links: one bidirectional stream of frames, and DATAGRAM frames for packets (protocol.md, Transports). Each worker has a server of its own on the
 * shared port; a connection stays on its worker by its connection IDs. */
#ifndef SV_TRANSPORT_QUIC_H
#define SV_TRANSPORT_QUIC_H

#include "io/lookup.h"
#include "transport/transport.h"

enum {
    SV_QUIC_PEM_MAX = 8192,
    SV_QUIC_SECRET = 32,
};

/* false: this build has no QUIC, and opening a server or client is SV_E_UNSUPPORTED with words. */
bool sv_quic_available(void);

/* A new self-signed ECDSA P-256 certificate with its key, as PEM text. SV_E_SYSTEM. */
int sv_quic_make_certificate(char cert[SV_QUIC_PEM_MAX], char key[SV_QUIC_PEM_MAX]);
/* SHA-256 of the DER form of the first certificate in the PEM text. SV_E_MALFORMED. */
int sv_quic_cert_hash(uint8_t hash[32], const char *cert);

struct sv_quic_server_config {
    const char *
        listen_addr; /* host:port; port 0 for the first worker only. The workers open in their order, 0 first: the kernel steers by it */
    const char *cert, *key; /* PEM text */
    uint64_t idle_timeout;  /* ns */
    const uint8_t *secret;  /* SV_QUIC_SECRET bytes that survive restarts: address tokens, stateless resets */
    size_t worker, worker_count;
    /* Whether a new connection may begin; NULL: any. */
    bool (*admit)(void *owner, const uint8_t remote[16]);
    const struct sv_link_sink *sink; /* of new links; on_open may replace it */
    void *owner;
};

struct sv_quic_server;

/* What came to nothing, and why. Any thread may look. */
struct sv_quic_counters {
    _Atomic uint64_t accepted; /* connections begun */
    _Atomic uint64_t failed;   /* of them: ended in their handshake */
    _Atomic uint64_t broken;   /* of them: ended, once open, since the peer broke QUIC's rules */
    _Atomic uint64_t garbage;  /* datagrams that are nothing */
    _Atomic uint64_t versions; /* packets of QUIC that we do not speak, and answers about versions */
    _Atomic uint64_t busy;     /* newcomers above what may be in its handshake at once */
    _Atomic uint64_t retries;  /* newcomers that were asked to prove their address */
    _Atomic uint64_t refused;  /* newcomers that were not admitted, or whose proof was bad */
    _Atomic uint64_t strays;   /* packets of another worker's connections */
    _Atomic uint64_t unknown;  /* packets of connections that are gone, or never were */
};

/* SV_E_IN_USE, SV_E_PERMISSION, SV_E_INVALID (certificate or key), SV_E_UNSUPPORTED with words. */
int sv_quic_server_open(struct sv_quic_server **server, struct sv_loop *loop,
                        const struct sv_quic_server_config *config);
uint16_t sv_quic_server_port(const struct sv_quic_server *server);
/* Connections in their handshake, as what admit asks; on the server's own thread. */
size_t sv_quic_server_opening(const struct sv_quic_server *server);
const struct sv_quic_counters *sv_quic_server_counters(const struct sv_quic_server *server);
void sv_quic_server_stop_accepting(struct sv_quic_server *server);
/* Closes its links (on_closed comes) and frees; the loop turns, a second at most, while their peers cannot be told. NULL is fine. */
void sv_quic_server_close(struct sv_quic_server *server);

struct sv_quic_client_config {
    const char *address;                  /* host:port */
    const struct sv_addresses *addresses; /* of the host, in their order; copied. NULL: the host is numeric */
    const uint8_t *cert_hash; /* SHA-256 of the certificate's DER, 32 bytes; NULL: any certificate */
    uint64_t timeout;         /* ns until on_open, else on_closed with SV_E_TIMEOUT */
    uint64_t idle_timeout;    /* ns; a PING every third of it */
    const struct sv_link_sink *sink;
    void *owner;
};

/* The link is opening: on_open or on_closed comes from the loop. SV_E_INVALID, SV_E_UNSUPPORTED with words. */
int sv_quic_client_connect(struct sv_link **link, struct sv_loop *loop,
                           const struct sv_quic_client_config *config);
/* The machine's addresses or routes have changed: the connection moves to a new socket, and goes on there once the path is validated. */
void sv_quic_client_rebind(struct sv_link *link);

#endif
