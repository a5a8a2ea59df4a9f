"""Which routes a client needs: into the tunnel, and for the hub's own address around it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from smartvpn._address import IpAddress, IpNetwork
from smartvpn.network._links import PROTOCOL, Hop, Route, main_routes, netlink

_UNICAST = 1
_LAST_RESORT = 2**32 - 1


def tunnel_networks(routes: Iterable[IpNetwork]) -> list[IpNetwork]:
    """The networks to route; a default route as two halves, which win over it without replacing it."""
    networks: dict[IpNetwork, None] = {}
    for network in routes:
        parts = network.subnets() if network.prefixlen == 0 else [network]
        networks |= dict.fromkeys(parts)
    return list(networks)


def tunnel_routes(networks: Sequence[IpNetwork], own: Sequence[IpNetwork], index: int) -> list[Route]:
    """Routes into the tunnel; the networks in `own` have one already, with the interface's address."""
    return [Route(str(network), index) for network in networks if network not in own]


def server_routes(servers: Sequence[IpAddress], networks: Sequence[IpNetwork], tunnel: int) -> list[Route]:
    """What keeps packets to the hub's addresses out of the tunnel that they carry."""
    return [route for server in dict.fromkeys(servers) for route in _around(server, networks, tunnel)]


def _around(server: IpAddress, networks: Sequence[IpNetwork], tunnel: int) -> list[Route]:
    """The ways to one of them.

    The first way is the one that they had before. While there is none, the second refuses them: in
    the tunnel they would be wrapped into themselves without end. It comes second, so that whoever
    waits for a way around never finds an address refused that has one.
    """
    if server.is_loopback or server.is_link_local:
        return []
    if not any(server in network for network in networks):
        return []
    network = str(ipaddress.ip_network(server))
    hop = way_without_us(server, tunnel)
    around = [Route(network, hop.index, hop.gateway, hop.source, hop.onlink)] if hop else []
    return [*around, Route(network, metric=_LAST_RESORT)]


def way_without_us(server: IpAddress, tunnel: int) -> Hop | None:
    """What the main table says when the tunnel and all routes of ours are left aside."""
    with netlink("read the routes") as ipr:
        routes = list(main_routes(ipr, server.version))
    fitting = [
        route
        for route in routes
        if server in route["dst"]
        and route["proto"] != PROTOCOL
        and route["index"] != tunnel
        and (route["hops"] or route["type"] != _UNICAST)
    ]
    if not fitting:
        return None
    best = min(fitting, key=lambda route: (-route["dst"].prefixlen, route["metric"]))
    hops: list[Hop] = best["hops"]
    return hops[0] if best["type"] == _UNICAST else None
