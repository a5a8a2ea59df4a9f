/* WebSocket links (RFC 6455): the server's on libwebsockets, the client's with connect, proxy and TLS by libcurl and framing of our own. */
#ifndef SV_TRANSPORT_WEBSOCKET_H
#define SV_TRANSPORT_WEBSOCKET_H

#include "io/lookup.h"
#include "policy/prefix.h"
#include "transport/transport.h"

struct sv_ws_server;

struct sv_ws_server_config {
    const char *listen_addr;        /* host:port, [v6]:port; port 0 picks one */
    const char *tls_cert, *tls_key; /* PEM text; both NULL: plain ws */
    const struct sv_prefix *trusted_proxies;
    size_t trusted_count;
    bool reuse_port; /* several workers listen on one address */
    /* Asked at accept, with the peer's address (before TLS; with the real one again once a trusted proxy has told it), then at open: false: closed silently. */
    bool (*admit)(void *owner, const uint8_t remote[16]);
    const struct sv_link_sink *sink;
    void *owner; /* link->owner of new links until the sink changes it */
};

/* One per worker, on the worker's own loop and thread. SV_E_IN_USE, SV_E_INVALID (bad certificate, bad address), SV_E_SYSTEM; sv_error_detail has the words. */
int sv_ws_server_open(struct sv_ws_server **server, struct sv_loop *loop,
                      const struct sv_ws_server_config *config);
/* The port that was bound. */
uint16_t sv_ws_server_port(const struct sv_ws_server *server);
/* Connections that are not open yet. On the server's own thread, as what admit asks. */
size_t sv_ws_server_opening(const struct sv_ws_server *server);
/* No new connections from now on; links live on. */
void sv_ws_server_stop_accepting(struct sv_ws_server *server);
/* Closes every link silently (their on_closed come during the call) and frees the server. */
void sv_ws_server_close(struct sv_ws_server *server);

struct sv_ws_client_config {
    const char *url; /* ws://host:port/path or wss://… */
    const struct sv_addresses
        *addresses;           /* of the URL's host, in their order; copied. NULL: it is looked up */
    const uint8_t *cert_hash; /* 32 bytes: SHA-256 of the certificate's DER; NULL: none */
    bool pin_strict;      /* with a cert_hash: nothing but a match will do; else a match or a valid chain */
    uint64_t timeout_ns;  /* for everything until on_open */
    uint16_t max_segment; /* of TCP, bytes, both ways; 0: as the kernel likes */
    const struct sv_link_sink *sink;
    void *owner;
};

/* The host of a URL, without brackets. SV_E_INVALID with words. */
int sv_ws_client_host(char host[SV_HOST_MAX], const char *url);
/* Whether the environment names a proxy: then it is for the proxy to know where the host is. */
bool sv_ws_client_proxied(void);

/* Starts connecting; on_open or on_closed tells the rest. The certificate is judged before the first HTTP byte. */
int sv_ws_client_connect(struct sv_link **link, struct sv_loop *loop,
                         const struct sv_ws_client_config *config);

#endif
