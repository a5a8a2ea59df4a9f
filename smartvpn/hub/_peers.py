"""WireGuard peers that are no clients, and the routes to their networks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial

from smartvpn._address import IpNetwork, join_host_port, parse_network
from smartvpn._native import NativeServer, WgPeer
from smartvpn.config import ServerConfig, WgPeerConfig
from smartvpn.errors import ConfigError


class Peers:
    """The engine's WireGuard peers; none where the hub does not serve WireGuard."""

    def __init__(self, config: ServerConfig, engine: NativeServer) -> None:
        self._config = config
        self._engine = engine
        self._given: dict[str, tuple[WgPeerConfig, str | None]] = {}  # by key, with their numeric endpoints

    def all(self) -> list[WgPeer]:
        """Every peer, clients included."""
        return self._engine.wg_peers() if self._config.transport_mode.wireguard else []

    async def put(self, peer: WgPeerConfig) -> Callable[[], None]:
        """Add a peer, or change the one with its key. Returns what takes that back."""
        endpoint = None if peer.endpoint is None else await _numeric_endpoint(peer.endpoint)
        before = self._given.get(peer.public_key)
        self._put(peer, endpoint)
        return partial(self.remove, peer.public_key) if before is None else partial(self._put, *before)

    def _put(self, peer: WgPeerConfig, endpoint: str | None) -> None:
        self._engine.put_wg_peer(peer, endpoint)
        self._given[peer.public_key] = peer, endpoint

    def remove(self, public_key: str) -> None:
        """Remove a peer. Raises NotFoundError, and InvalidStateError for a client's key."""
        self._engine.remove_wg_peer(public_key)
        self._given.pop(public_key, None)

    def routes_beyond(self) -> list[str]:
        """What leads to peers that are no clients; a default route stays the host's."""
        own = [parse_network(text) for text in (self._config.subnet, self._config.subnet6) if text]
        beyond: dict[str, None] = {}
        for peer in self.all():
            for network in map(parse_network, peer.allowed_ips):
                inside = any(network.version == item.version and _within(network, item) for item in own)
                if not peer.client_id and network.prefixlen > 0 and not inside:
                    beyond[str(network)] = None
        return list(beyond)


async def _numeric_endpoint(endpoint: str) -> str:
    """Host and port with the host looked up. Raises ConfigError when it has no address."""
    host, _, port = endpoint.rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_DGRAM
        )
    except OSError as error:
        raise ConfigError("endpoint", f"'{host}' has no address: {error.strerror}") from None
    return join_host_port(str(found[0][4][0]), int(port))


def _within(network: IpNetwork, outer: IpNetwork) -> bool:
    return outer.prefixlen <= network.prefixlen and network.network_address in outer
