/* A hub's address as ws:// or wss:// URL, and what libcurl is told of it. */
#ifndef SV_TRANSPORT_WS_URL_H
#define SV_TRANSPORT_WS_URL_H

#include "io/lookup.h"

enum {
    SV_WS_PATH_MAX = 1024,
    SV_WS_RESOLVED_MAX = SV_HOST_MAX + 16 + SV_ADDRESSES_MAX * 50,
};

struct sv_ws_url {
    bool secure;
    char host[SV_HOST_MAX]; /* without brackets */
    char port[SV_PORT_MAX];
    char authority[SV_HOST_MAX + SV_PORT_MAX + 3]; /* as in the Host header */
    char path[SV_WS_PATH_MAX];                     /* with the query */
    char http[SV_HOST_MAX + SV_PORT_MAX + 16];     /* http(s)://host:port/ */
};

/* SV_E_INVALID with words. */
int sv_ws_url_split(struct sv_ws_url *url, const char *text);
/* An entry of CURLOPT_RESOLVE. false: the host is no name, or none of the addresses can be written there. */
bool sv_ws_url_resolve(char entry[SV_WS_RESOLVED_MAX], const struct sv_ws_url *url,
                       const struct sv_addresses *addresses);

#endif
