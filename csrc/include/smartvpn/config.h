/* What a hub, its clients' entries and a client are made from. Strings are UTF-8 and copied; NULL where optional means absent. */
#ifndef SMARTVPN_CONFIG_H
#define SMARTVPN_CONFIG_H

#include <smartvpn/base.h>
#include <smartvpn/keys.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A hub. Zero a field for its default. */
typedef struct sv_server_config {
    const char *listen_addr; /* host:port of the WebSocket listener; port 0 picks one; NULL: none */
    const char *
        quic_listen_addr; /* the same of QUIC, UDP; port 0 takes that of the WebSocket listener, if there is one */
    const char *quic_cert, *quic_key; /* PEM text */
    uint32_t quic_idle_timeout_secs;  /* 0: 30 */
    const uint8_t
        *quic_secret; /* 32 bytes, the same at every start: address tokens and resets; NULL: made anew */
    uint8_t private_key[SV_KEY_SIZE]; /* Noise static key */
    bool wireguard;                   /* serve WireGuard as well */
    uint16_t wg_listen_port;          /* its UDP port; 0 picks one */
    uint8_t wg_private_key[SV_KEY_SIZE];
    bool
        wg_kernel; /* the kernel carries WireGuard's packets; not together with listen_addr, limits or access lists */
    const char *subnet;             /* IPv4 CIDR; the hub takes its first address */
    const char *subnet6;            /* optional IPv6 CIDR with at least as many host bits */
    const char *tls_cert, *tls_key; /* PEM text, both or none */
    const char *const *dns;         /* addresses pushed to clients */
    size_t dns_count;
    const char *const *routes; /* CIDRs that clients send into the tunnel; none: only the subnet */
    size_t route_count;
    const char *const *trusted_proxies; /* CIDRs whose PROXY header or X-Forwarded-For is believed */
    size_t trusted_proxy_count;
    uint16_t mtu;                   /* of the tunnel, bytes; 0: 1420 */
    uint16_t keepalive_secs;        /* greatest interval; 0: 60 */
    uint32_t rekey_secs;            /* SV_REKEY_NEVER for never; 0: 3600; else at least 20 */
    uint32_t resume_lifetime_secs;  /* SV_RESUME_NEVER: sessions end with their link; 0: 300 */
    uint64_t default_bytes_per_sec; /* rate limit of clients without their own; 0: none */
    uint64_t default_burst_bytes;   /* 0: max(rate / 10, 16 KB) */
    bool deny_host_access; /* clients reach nothing on the hub itself but ICMP and DNS on the gateway */
    uint16_t workers;      /* threads; 0: one per core */
    const char *tun_name;  /* interface name or pattern; NULL: "svpn%d" */
    bool begin_later;      /* nothing is served before sv_server_begin, so that the clients are known then */
} sv_server_config;

#define SV_REKEY_NEVER UINT32_MAX
#define SV_RESUME_NEVER UINT32_MAX

/* One client the hub accepts. */
typedef struct sv_client_entry {
    const char *client_id;              /* 1 to 128 bytes */
    uint8_t public_key[SV_KEY_SIZE];    /* Noise static key */
    uint8_t wg_public_key[SV_KEY_SIZE]; /* WireGuard static key; all zeros: none */
    const char *assigned_ip;            /* IPv4 of the subnet; NULL: the lowest free one */
    bool agreed, limit_anew;            /* see sv_hub_put_client */
    bool disabled;
    int64_t expires_at;                  /* seconds since 1970 UTC; 0: never */
    uint32_t max_connections;            /* 0: 1 */
    int priority;                        /* lower means a greater share of a worker's turn; usual 100 */
    uint64_t bytes_per_sec, burst_bytes; /* 0: the hub's default */
    const char *const *source_allow;     /* patterns: address, CIDR, 192.168.1.*, first-last */
    size_t source_allow_count;
    const char *const *source_deny;
    size_t source_deny_count;
    const char *const *destination_allow;
    size_t destination_allow_count;
    const char *const *destination_deny;
    size_t destination_deny_count;
} sv_client_entry;

/* What a client connects by. AUTO: QUIC, and WebSocket 300 ms later; the first that completes its handshake carries the tunnel, and another one takes
 * over when that becomes bad. Without an address for one of them, or without QUIC in the build, it is the other one alone. */
typedef enum sv_client_transport {
    SV_CLIENT_AUTO = 0,
    SV_CLIENT_WEBSOCKET = 1,
    SV_CLIENT_QUIC = 2,
} sv_client_transport;

/* A client. */
typedef struct sv_client_config {
    sv_client_transport transport;
    const char *server_url; /* ws://host[:port]/path or wss://…; NULL: no WebSocket */
    const char *quic_addr;  /* host:port, UDP; NULL: no QUIC */
    bool
        websocket_first; /* AUTO: WebSocket is what worked at this hub the last time, and need not wait for QUIC */
    uint8_t server_key[SV_KEY_SIZE];  /* the hub's Noise static key */
    uint8_t private_key[SV_KEY_SIZE]; /* own Noise static key */
    uint8_t instance[16];             /* random, the same at every start of this installation */
    const uint8_t *
        cert_hash; /* SHA-256 of the TLS certificate's DER, 32 bytes; NULL: a valid chain, over QUIC any certificate */
    bool cert_hash_strict;         /* false: over WebSocket a valid chain does as well as a match */
    uint16_t mtu;                  /* 0: what the hub says */
    uint16_t keepalive_secs;       /* greatest interval; 0: what the hub says */
    const char *tun_name;          /* NULL: "svpn%d" */
    uint32_t handshake_timeout_ms; /* for one attempt, from connect to live; 0: 10,000 */
} sv_client_config;

#ifdef __cplusplus
}
#endif
#endif
