"""WireGuard peers that are no clients, and the routes to their networks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial

from smartvpn._address import IpNetwork, join_host_port, parse_network
from smartvpn._native import NativeServer, WgPeer
from smartvpn.config import ServerConfig, WgPeerConfig
from smartvpn.errors import ConfigError, InvalidStateError


class Peers:
    """The engine's WireGuard peers; none where the hub does not serve WireGuard."""

    def __init__(self, config: ServerConfig, engine: NativeServer) -> None:
        self._config = config
        self._engine = engine
        self._given: dict[str, tuple[WgPeerConfig, str | None]] = {}  # by key, with their numeric endpoints

    def all(self) -> list[WgPeer]:
        """Every peer, clients included."""
        return self._engine.wg_peers() if self._config.transport_mode.wireguard else []

    def others(self) -> list[WgPeer]:
        """Those that are no clients, however many clients there are."""
        return [peer for key in self._given for peer in self._engine.wg_peers(key)]

    def require_wireguard(self) -> None:
        """Raise InvalidStateError where the hub serves no WireGuard."""
        if not self._config.transport_mode.wireguard:
            raise InvalidStateError("the hub does not serve WireGuard")

    def check(self, peer: WgPeerConfig, endpoint: str | None) -> None:
        """Raise what `put` would raise."""
        self._engine.check_wg_peer(peer, endpoint)

    def put(self, peer: WgPeerConfig, endpoint: str | None) -> Callable[[], None]:
        """Add a peer, or change the one with its key. Returns what takes that back."""
        before = self._given.get(peer.public_key)
        self._put(peer, endpoint)
        return partial(self._take_out, peer.public_key) if before is None else partial(self._put, *before)

    def _put(self, peer: WgPeerConfig, endpoint: str | None) -> None:
        self._engine.put_wg_peer(peer, endpoint)
        self._given[peer.public_key] = peer, endpoint

    def require(self, public_key: str) -> None:
        """Raise what `remove` would raise."""
        self.require_wireguard()
        [found] = self._engine.wg_peers(public_key)
        if found.client_id:
            raise InvalidStateError("the peer is a client: remove or disable the client")

    def remove(self, public_key: str) -> Callable[[], None]:
        """Remove a peer. Returns what takes that back, of one that `put` added. Raises as `require` does."""
        before = self._given.get(public_key)
        self._take_out(public_key)
        return (lambda: None) if before is None else partial(self._put, *before)

    def _take_out(self, public_key: str) -> None:
        self._engine.remove_wg_peer(public_key)
        self._given.pop(public_key, None)

    def routes_beyond(self) -> list[str]:
        """What leads to peers that are no clients; a default route stays the host's."""
        own = [parse_network(text) for text in (self._config.subnet, self._config.subnet6) if text]
        beyond: dict[str, None] = {}
        for peer in self.others():
            for network in map(parse_network, peer.allowed_ips):
                inside = any(network.version == item.version and _within(network, item) for item in own)
                if network.prefixlen > 0 and not inside:
                    beyond[str(network)] = None
        return list(beyond)


async def numeric_endpoint(peer: WgPeerConfig) -> str | None:
    """The peer's endpoint with the host looked up. Raises ConfigError when it has no address."""
    if peer.endpoint is None:
        return None
    host, _, port = peer.endpoint.rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_DGRAM
        )
    except OSError as error:
        raise ConfigError("endpoint", f"'{host}' has no address: {error.strerror}") from None
    return join_host_port(str(found[0][4][0]), int(port))


def _within(network: IpNetwork, outer: IpNetwork) -> bool:
    return outer.prefixlen <= network.prefixlen and network.network_address in outer
