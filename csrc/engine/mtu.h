/* What each transport adds to an inner packet (sv_mtu_overhead), and what a path leaves for it: the one place where these numbers are. */
#ifndef SV_ENGINE_MTU_H
#define SV_ENGINE_MTU_H

#include <stdbool.h>
#include <stdint.h>

#include "transport/transport.h"

enum {
    SV_LINK_MTU_DEFAULT = 1500, /* of a path that is not known */
    SV_MTU_LEAST = 1280,        /* IPv6 demands it of every link (RFC 8200, section 5) */
};

/* The longest inner packet that goes as one datagram; 0: the link takes none. */
uint32_t sv_mtu_datagram(const struct sv_link *link);
/* Packets with DF, and IPv6, above this are answered. */
uint32_t sv_mtu_limit(const struct sv_link *link, uint16_t tunnel_mtu);

#endif
