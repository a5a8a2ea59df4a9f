/* A running hub or client: threads, TUN device, links and sessions.
 *
 * Calls are safe from any thread, return soon (microseconds; open and close may take longer) and never call back.
 * What happens later comes as events.
 */
#ifndef SMARTVPN_ENGINE_H
#define SMARTVPN_ENGINE_H

#include <smartvpn/config.h>
#include <smartvpn/event.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sv_engine sv_engine;

/* Makes the TUN device (addresses and routes are the caller's to set), opens the listeners and starts the workers.
 * On failure *engine is NULL and sv_error_detail() has the words. */
SV_API int sv_server_open(sv_engine **engine, const sv_server_config *config);
/* Starts the workers of a server that was opened with `begin_later`, once; what came meanwhile has waited in the kernel. SV_E_STATE: it is no server. */
SV_API int sv_server_begin(sv_engine *engine);

/* Makes the TUN device and begins to connect; SV_EVENT_STATE tells how it goes. Until close it comes back after every loss. */
SV_API int sv_client_open(sv_engine **engine, const sv_client_config *config);

/* Ends sessions with a Disconnect (waits up to a second for it to go out), threads and device; frees everything. close(NULL) is fine. */
SV_API void sv_engine_close(sv_engine *engine);

/* Readable when events wait. */
SV_API int sv_engine_event_fd(const sv_engine *engine);
/* true: the oldest event is in *event. Clears the readiness of the fd when none is left. */
SV_API bool sv_engine_next_event(sv_engine *engine, sv_event *event);

SV_API const char *sv_engine_tun_name(const sv_engine *engine);
/* The WebSocket port that was bound; 0 for a client. */
SV_API uint16_t sv_engine_port(const sv_engine *engine);
/* The UDP port of a hub's QUIC; 0: none. */
SV_API uint16_t sv_engine_quic_port(const sv_engine *engine);
/* Whether this build has QUIC. */
SV_API bool sv_engine_has_quic(void);
/* Bytes that a transport (as in sv_session_info) adds to a packet, outer IP header included. */
SV_API uint32_t sv_mtu_overhead(int transport, bool outer_ip6);

#define SV_PEM_SIZE 8192

/* A new self-signed ECDSA P-256 certificate for QUIC, and its key: PEM text, SV_PEM_SIZE bytes each. SV_E_UNSUPPORTED without QUIC. */
SV_API int sv_make_certificate(char *cert, char *key);

/* The UDP port of a hub's WireGuard; 0: none. */
SV_API uint16_t sv_engine_wg_port(const sv_engine *engine);
/* Name of the AEAD implementation in use. */
SV_API const char *sv_engine_aead(void);

/* Log lines: level 0 error … 3 debug. fn may be called from any thread; NULL goes back to stderr. */
SV_API void sv_engine_set_log(void (*fn)(void *ctx, int level, const char *line), void *ctx,
                              int most_verbose);

typedef struct sv_quality_info {
    double srtt_ms, jitter_ms, min_rtt_ms, max_rtt_ms;
    double loss_ratio; /* 0…1, over the last 50 keepalives */
    uint32_t consecutive_timeouts;
    int health; /* 0 healthy, 1 degraded, 2 critical */
    uint32_t keepalive_interval_secs;
    bool known; /* false until the first measurement */
} sv_quality_info;

/* Drops by cause, in packets. */
typedef struct sv_drops {
    uint64_t malformed, source, acl, rate_limit, high, normal, low, no_route, too_big, tun;
} sv_drops;

/* Datagrams at a hub's QUIC port that are no connection's: nothing at all; of another version; newcomers above what may be in its handshake at once, asked
 * to prove their address first, not admitted; of another worker's connection; of one that is not known (any more). And connections that were open and ended
 * for what their peer sent. */
typedef struct sv_quic_rejects {
    uint64_t garbage, version, busy, retry, refused, stray, unknown, broken;
} sv_quic_rejects;

typedef struct sv_statistics {
    uint64_t bytes_sent, bytes_received;     /* IP bytes through the tunnel; sent: towards the peer(s) */
    uint64_t packets_sent, packets_received; /* a super-packet counts as its segments */
    uint64_t keepalives_sent, keepalives_received;
    uint64_t uptime_secs;
    uint64_t active_sessions, total_sessions;
    /* Message 1 that opened / did not, was over the limits, or did not come after QUIC's own handshake. */
    uint64_t handshakes, bad_handshakes;
    uint64_t cookies_sent; /* WireGuard: answers to handshakes that came while there were too many */
    uint64_t half_open;
    uint64_t icmp_too_big_sent;
    sv_drops drops;
    sv_quic_rejects quic_rejects;
} sv_statistics;

SV_API void sv_engine_statistics(sv_engine *engine, sv_statistics *statistics);

/* ---- hub ---- */

/* Adds the client or replaces the entry with this client_id; live sessions keep running under the new rules where they still may (disabled, expired, source
 * rules, another key end them). `assigned_ip` of the result is written to addr (SV_ADDR_TEXT_SIZE each; "" without IPv6). SV_E_EXISTS: another client has
 * this key or address. SV_E_FULL: no address left. SV_E_INVALID: detail names the pattern or field. Nothing changes on failure; but where memory ends in the
 * middle of it (SV_E_NOMEM) the client may be there no more.
 * An entry that is `agreed` was checked and stored: its assigned_ip is the client's own or held (sv_hub_hold_address), and becomes the client's without being
 * free for a moment. Where it cannot be put even so, nobody comes in by what was before: the client is taken out, and the address is held.
 * With `limit_anew` what sv_hub_set_rate_limit said ends also where the entry's limit is as it was. */
SV_API int sv_hub_put_client(sv_engine *engine, const sv_client_entry *entry, char *addr4, char *addr6);
/* What a put of the entry would answer, its address apart; changes nothing. A caller that stores entries asks this first, stores, and then puts. */
SV_API int sv_hub_check_client(sv_engine *engine, const sv_client_entry *entry);

/* Takes an address of the subnet that no client has out of what is given to clients: no put gets it until it is released, but one that is `agreed`.
 * A further session of a client that had it ends. SV_E_EXISTS: it is taken. SV_E_INVALID: it is no client address of the subnet. */
SV_API int sv_hub_hold_address(sv_engine *engine, const char *address);
/* Of an address that is held, and of no other. */
SV_API void sv_hub_release_address(sv_engine *engine, const char *address);

/* Ends its sessions with the Disconnect code and forgets it. SV_E_NOT_FOUND. */
SV_API int sv_hub_remove_client(sv_engine *engine, const char *client_id, unsigned code);

/* Ends one session (session_id) or all (NULL) of the client. SV_E_NOT_FOUND: no such client, or no such session. */
SV_API int sv_hub_disconnect(sv_engine *engine, const char *client_id, const uint8_t *session_id,
                             unsigned code);

/* ---- WireGuard peers that are no clients, such as routers ---- */

typedef struct sv_wg_peer_config {
    uint8_t public_key[SV_KEY_SIZE];
    const uint8_t *preshared_key;   /* 32 bytes, or NULL */
    const char *const *allowed_ips; /* CIDRs */
    size_t allowed_ip_count;
    const char *endpoint;          /* numeric "1.2.3.4:5", "[::1]:5"; NULL: whoever comes with the key */
    uint16_t persistent_keepalive; /* seconds; 0: none */
} sv_wg_peer_config;

/* Adds the peer, or replaces the one with this key, without disturbing any other. SV_E_STATE: the hub serves no WireGuard. SV_E_EXISTS: the key is a
 * client's, or an allowed IP another peer's. SV_E_INVALID: detail names the field. */
SV_API int sv_hub_put_wg_peer(sv_engine *engine, const sv_wg_peer_config *peer);
/* What a put of the peer would answer; changes nothing. */
SV_API int sv_hub_check_wg_peer(sv_engine *engine, const sv_wg_peer_config *peer);
/* SV_E_NOT_FOUND. */
SV_API int sv_hub_remove_wg_peer(sv_engine *engine, const uint8_t *public_key);

typedef struct sv_wg_peer_info {
    uint8_t public_key[SV_KEY_SIZE];
    char client_id[SV_CLIENT_ID_SIZE]; /* "": no client */
    char endpoint[SV_ADDR_TEXT_SIZE];  /* "": not known */
    uint16_t persistent_keepalive;
    uint64_t bytes_sent, bytes_received, packets_sent, packets_received; /* IP packets; sent: to the peer */
    double last_handshake;                     /* seconds since 1970 UTC; 0: none yet */
    size_t first_allowed_ip, allowed_ip_count; /* in the second list */
} sv_wg_peer_info;

/* The peer with this key, or with NULL all peers, clients as well: fills up to cap infos, and up to ip_cap allowed IPs as text; *count and *ip_count say how
 * many there are. Of all, some may be of a moment before the others. SV_E_NOT_FOUND. */
SV_API int sv_hub_wg_peers(sv_engine *engine, const uint8_t *public_key, sv_wg_peer_info *infos, size_t cap,
                           size_t *count, char (*allowed_ips)[SV_ADDR_TEXT_SIZE], size_t ip_cap,
                           size_t *ip_count);

/* ---- limits ---- */

/* At run time, until the next put that changes the limit; rate 0 is unlimited. */
SV_API int sv_hub_set_rate_limit(sv_engine *engine, const char *client_id, uint64_t bytes_per_sec,
                                 uint64_t burst_bytes);

typedef struct sv_session_info {
    char client_id[SV_CLIENT_ID_SIZE];
    uint8_t session_id[SV_SESSION_ID_SIZE];
    uint8_t public_key[SV_KEY_SIZE];
    char assigned_ip[SV_ADDR_TEXT_SIZE], assigned_ip6[SV_ADDR_TEXT_SIZE];
    char remote_addr[SV_ADDR_TEXT_SIZE];
    char software[65];                      /* printable */
    int transport;                          /* 1 websocket, 2 quic, 3 wireguard */
    double connected_since, last_keepalive; /* seconds since 1970 UTC; 0: none yet */
    uint64_t bytes_sent, bytes_received, packets_sent, packets_received; /* sent: to the client */
    uint64_t keepalives_received;
    uint64_t bytes_per_sec, burst_bytes; /* limit in force; 0: none */
    uint64_t packets_dropped, bytes_dropped;
    sv_drops drops;
    sv_quality_info quality;
} sv_session_info;

/* The live sessions, of one client or of all (client_id NULL): fills up to cap entries and says through *count how many there are. */
SV_API int sv_hub_sessions(sv_engine *engine, const char *client_id, sv_session_info *infos, size_t cap,
                           size_t *count);

/* What was counted for a client since the hub was opened, over all its sessions. */
typedef struct sv_client_totals {
    char client_id[SV_CLIENT_ID_SIZE];
    uint64_t bytes_sent, bytes_received, packets_sent, packets_received; /* sent: to the client */
    uint64_t keepalives_received;
    uint64_t packets_dropped, bytes_dropped;
    sv_drops drops;
    uint64_t bytes_per_sec, burst_bytes; /* limit in force; 0: none */
} sv_client_totals;

/* Of one client; or, with client_id NULL, of all that are connected or had a connection closed since the last such call that had room for all. Fills up to
 * cap and says through *count how many there are. SV_E_NOT_FOUND. */
SV_API int sv_hub_totals(sv_engine *engine, const char *client_id, sv_client_totals *totals, size_t cap,
                         size_t *count);

/* ---- client ---- */

typedef struct sv_client_settings {
    char address[SV_ADDR_TEXT_SIZE], address6[SV_ADDR_TEXT_SIZE]; /* with prefix length; "" when absent */
    char gateway[SV_ADDR_TEXT_SIZE], gateway6[SV_ADDR_TEXT_SIZE];
    char server_addr[SV_ADDR_TEXT_SIZE]; /* the socket's other end: keep its route outside the tunnel */
    int transport;                       /* 1 websocket, 2 quic: what carries the session now */
    uint16_t mtu;
    char dns[8][SV_ADDR_TEXT_SIZE];
    size_t dns_count;
    char routes[256][SV_ADDR_TEXT_SIZE];
    size_t route_count;
    double connected_since; /* seconds since 1970 UTC */
    double handshake_ms;    /* from the start of the first attempt to the settings */
} sv_client_settings;

/* SV_E_STATE before the first settings. */
SV_API int sv_client_get_settings(sv_engine *engine, sv_client_settings *settings);
SV_API sv_client_state sv_client_get_state(sv_engine *engine);
SV_API int sv_client_get_quality(sv_engine *engine, sv_quality_info *quality);

#define SV_HUB_ADDRESSES_MAX 24

typedef struct sv_hub_addresses {
    char list[SV_HUB_ADDRESSES_MAX][SV_ADDR_TEXT_SIZE];
    size_t count;
} sv_hub_addresses;

/* Where links to the hub go, or are about to go: none is opened to an address whose route leads into the tunnel. After SV_EVENT_ADDRESSES some of
 * them want a route around it, within a second, or others have no use for theirs any more. */
SV_API int sv_client_get_addresses(sv_engine *engine, sv_hub_addresses *addresses);

/* Numeric addresses of a host, in the order in which they are to be tried, by whatever the program asked for them. Where the tunnel's own name servers
 * were set for the machine, the system's resolver finds no hub while the tunnel is down: whoever set them asks those from before, outside of the tunnel, on
 * each SV_EVENT_LOOKUP. What was known before is tried meanwhile. SV_E_INVALID. */
SV_API int sv_client_offer_addresses(sv_engine *engine, const char *host, const char *const *addresses,
                                     size_t count);

typedef struct sv_mtu_info {
    uint32_t tun_mtu, effective_mtu, link_mtu, overhead_bytes;
    uint64_t oversized_packets_dropped, icmp_too_big_sent;
} sv_mtu_info;

SV_API int sv_client_get_mtu(sv_engine *engine, sv_mtu_info *info);

#ifdef __cplusplus
}
#endif
#endif
