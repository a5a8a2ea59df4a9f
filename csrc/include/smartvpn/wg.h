/* A WireGuard device in user space: an interface whose packets go to WireGuard peers. */
#ifndef SMARTVPN_WG_H
#define SMARTVPN_WG_H

#include <smartvpn/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Zero a field for its default. */
typedef struct sv_wg_config {
    const char *tun_name; /* interface name or pattern; NULL: "wg%d" */
    bool has_tun_fd;      /* tun_fd is a TUN device that is there already; it is taken over */
    int tun_fd;
    bool serve;      /* the standard configuration socket, /var/run/wireguard/NAME.sock */
    bool has_socket; /* socket_fd is that socket, listening already; it is taken over */
    int socket_fd;
    uint16_t workers; /* threads; 0: one per core */
    uint16_t mtu;     /* the interface is brought up with it; 0: it stays down until somebody does */
    bool follow;      /* SV_EVENT_NETWORK and SV_EVENT_LOOKUP are wanted */
} sv_wg_config;

/* Makes the device, down and without a key or peers; it follows its interface up and down, and into another network namespace, while its UDP
 * sockets stay where they were made. SV_EVENT_GONE tells that the interface, or the socket, was removed. After sleep keys are made anew with all
 * peers that had some. sv_engine_close ends it.
 * SV_E_PERMISSION, SV_E_UNSUPPORTED (no /dev/net/tun), SV_E_IN_USE, SV_E_NOMEM, SV_E_SYSTEM; sv_error_detail() has the words. */
SV_API int sv_wg_open(sv_engine **engine, const sv_wg_config *config);

/* Begins a handshake with every peer whose endpoint is known, whether or not there is anything to send. Without a hub SV_EVENT_STATE tells of each
 * peer's first handshake (SV_CLIENT_CONNECTED), and when the last is 180 s old (SV_CLIENT_RECONNECTING). */
SV_API int sv_wg_connect(sv_engine *engine);

/* The cross-platform configuration interface (wireguard.com/xplatform): the lines that follow "set=1", and those that answer "get=1" without the
 * last, "errno=0". 0 or a negative errno: EINVAL (a line is wrong; nothing was changed), EADDRINUSE (listen_port is taken; nothing was changed), EPERM,
 * ENOMEM, EIO. What sv_wg_get gives has the private key in it: sv_wg_text_free wipes it. */
SV_API int sv_wg_set(sv_engine *engine, const char *text, size_t len);
SV_API int sv_wg_get(sv_engine *engine, char **text, size_t *len);
SV_API void sv_wg_text_free(char *text, size_t len);

#ifdef __cplusplus
}
#endif
#endif
