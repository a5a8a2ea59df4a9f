#include "engine/mtu.h"

#include <smartvpn/engine.h>

#include "proto/frame.h"
#include "proto/session.h"

enum {
    IP4 = 20,
    IP6 = 40,
    TCP_WITH_TIMESTAMPS = 32,
    WEBSOCKET = 6,
    UDP = 8,
    QUIC =
        32, /* short header with an 8-byte connection ID, DATAGRAM frame, tag: what a transport's datagram_max leaves out */
    WIREGUARD = 32,
};

uint32_t sv_mtu_overhead(int transport, bool outer_ip6)
{
    uint32_t ip = outer_ip6 ? IP6 : IP4;

    switch (transport) {
    case SV_TRANSPORT_QUIC:
        return ip + UDP + QUIC + SV_DATAGRAM_OVERHEAD;
    case SV_TRANSPORT_WIREGUARD:
        return ip + UDP + WIREGUARD;
    default:
        return ip + TCP_WITH_TIMESTAMPS + WEBSOCKET + SV_FRAME_OVERHEAD;
    }
}

uint32_t sv_mtu_datagram(const struct sv_link *link)
{
    return link->datagram_max > SV_DATAGRAM_OVERHEAD ? link->datagram_max - SV_DATAGRAM_OVERHEAD : 0;
}

uint32_t sv_mtu_limit(const struct sv_link *link, uint16_t tunnel_mtu)
{
    uint32_t datagram = sv_mtu_datagram(link);
    uint32_t limit = datagram > SV_MTU_LEAST ? datagram : SV_MTU_LEAST;

    return datagram && limit < tunnel_mtu ? limit : tunnel_mtu;
}
