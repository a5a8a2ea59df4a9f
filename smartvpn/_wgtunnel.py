"""A client's tunnel over WireGuard: a device with one peer, the hub."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from smartvpn._address import join_host_port, parse_endpoint
from smartvpn._control import EnginePump, to_the_end
from smartvpn._native import EventKind, NativeEvent, NativeWireGuard, TunnelSettings, overhead_bytes
from smartvpn._upkeep import Upkeep
from smartvpn._wgfollow import HubFollower, look_up
from smartvpn.config import ClientConfig, Transport
from smartvpn.errors import VpnTimeoutError
from smartvpn.keys import decode_key
from smartvpn.network import Network
from smartvpn.types import ConnectionQuality, ConnectResult, MtuInfo, TunnelState

log = logging.getLogger(__name__)

_DEFAULT_MTU = 1420
_ETHERNET = 1500
_IP_MTU, _IPV6_MTU = 14, 24  # linux/in.h, linux/in6.h


class WireGuardTunnel:
    """Everything that exists only while there is a tunnel."""

    transport = Transport.WIREGUARD

    def __init__(
        self,
        config: ClientConfig,
        engine: NativeWireGuard,
        endpoint: str,
        addresses: Sequence[str],
        report: Callable[[str | None], None],
    ) -> None:
        self.engine = engine
        self.network = Network(engine.interface)
        self.state = TunnelState.HANDSHAKING
        self.settings: TunnelSettings | None = None
        self._config = config
        self._endpoint = addresses[0], parse_endpoint(endpoint)[1]
        self._report = report
        self._began = asyncio.get_running_loop().time()
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        inner = (config.wg_address, config.wg_address6)
        self._follower = HubFollower(endpoint, addresses, inner, self.network, self._go_to)
        self._upkeep = Upkeep(self._apply_anew, self._refresh, report)
        self._pump = EnginePump(engine, self._on_event)

    @property
    def server(self) -> str:
        """Where the hub is."""
        return join_host_port(*self._endpoint)

    @classmethod
    async def open(
        cls, config: ClientConfig, tun_name: str | None, report: Callable[[str | None], None]
    ) -> WireGuardTunnel:
        """Look the hub up and make the device. Raises UnreachableError for a name without an address."""
        endpoint = str(config.wg_endpoint)
        addresses = await look_up(endpoint)
        engine = await asyncio.to_thread(
            NativeWireGuard.open, mtu=config.mtu or _DEFAULT_MTU, tun_name=tun_name
        )
        try:
            engine.set(_settings_text(config, join_host_port(addresses[0], parse_endpoint(endpoint)[1])))
        except BaseException:
            await asyncio.to_thread(engine.close)
            raise
        return cls(config, engine, endpoint, addresses, report)

    async def up(self, seconds: float) -> ConnectResult:
        """Shake hands, then set addresses, routes and DNS. Raises VpnTimeoutError after `seconds`."""
        self.engine.connect()
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._first)
        except TimeoutError:
            raise VpnTimeoutError(f"{self.server} does not answer: wrong keys, or no way to it") from None
        elapsed = (asyncio.get_running_loop().time() - self._began) * 1000
        self.settings = self._tunnel_settings(elapsed)
        log.info("WireGuard with %s: handshake took %.1f ms", self.server, elapsed)
        await self._configure(self.settings)
        self._upkeep.start()
        self._report(None)
        return ConnectResult(
            assigned_ip=str(self._config.wg_address),
            assigned_ip6=self._config.wg_address6,
            transport=Transport.WIREGUARD,
            mtu=self.settings.mtu,
        )

    def _tunnel_settings(self, handshake_ms: float) -> TunnelSettings:
        config = self._config
        address = ipaddress.ip_interface(f"{config.wg_address}/{config.wg_address_prefix}")
        allowed = (str(address.network),) if config.wg_allowed_ips is None else config.wg_allowed_ips
        return TunnelSettings(
            address=str(address),
            address6=f"{config.wg_address6}/128" if config.wg_address6 else None,
            gateway=None,
            gateway6=None,
            server_addr=self.server,
            mtu=config.mtu or _DEFAULT_MTU,
            dns=config.dns or (),
            routes=allowed if config.routes is None else config.routes,
            connected_since=datetime.now(UTC),
            handshake_ms=handshake_ms,
        )

    async def _apply_anew(self, dns_again: bool) -> None:
        if self.settings is not None:
            await self._configure(self.settings, dns_again=dns_again)

    async def _refresh(self) -> None:
        await to_the_end(self.network.refresh, self._follower.addresses)

    async def _configure(self, settings: TunnelSettings, *, dns_again: bool = False) -> None:
        families = {4} | ({6} if settings.address6 else set())
        routes = [str(network) for network in map(ipaddress.ip_network, settings.routes)]
        await to_the_end(
            self.network.configure_client,
            address=settings.address,
            address6=settings.address6,
            mtu=settings.mtu,
            routes=[route for route in routes if ipaddress.ip_network(route).version in families],
            dns=list(settings.dns),
            server_addresses=self._follower.addresses,
            dns_again=dns_again,
        )

    async def close(self) -> None:
        """Give everything back."""
        await self._upkeep.stop()
        if not self._first.done():
            self._first.cancel()
        await self._follower.close()
        try:
            await asyncio.to_thread(self.network.restore)
        finally:
            await self._pump.close()

    def quality(self) -> ConnectionQuality | None:
        """None: WireGuard measures nothing."""
        return None

    def mtu(self) -> MtuInfo:
        """What the tunnel has, beside what the way to the hub leaves for it."""
        mtu = self._config.mtu or _DEFAULT_MTU
        overhead = overhead_bytes("wireguard", ipaddress.ip_address(self._endpoint[0]).version)
        link = _path_mtu(self._endpoint)
        return MtuInfo(
            tun_mtu=mtu,
            effective_mtu=link - overhead,
            link_mtu=link,
            overhead_bytes=overhead,
            oversized_packets_dropped=0,
            icmp_too_big_sent=0,
        )

    def _go_to(self, address: str) -> None:
        """The hub is there: what waits is sent, and the hub learns from where."""
        self._endpoint = address, self._endpoint[1]
        key = _hex(self._config.server_public_key)
        self.engine.set(f"public_key={key}\nupdate_only=true\nendpoint={self.server}\n")
        self.engine.connect()

    def _on_event(self, event: NativeEvent) -> None:
        if event.kind is EventKind.NETWORK:
            self._upkeep.on_network(slept=event.count > 0)
            self._follower.on_network()
        elif event.kind is EventKind.LOOKUP:
            self._follower.on_silence()
        elif event.kind is EventKind.STATE:
            self._on_state(event)

    def _on_state(self, event: NativeEvent) -> None:
        self.state = event.state
        if not self._first.done():
            if event.state is TunnelState.CONNECTED:
                self._first.set_result(None)
        elif self.settings is not None:
            self._report(None if event.state is TunnelState.CONNECTED else "no handshake for 180 s")


def _path_mtu(endpoint: tuple[str, int]) -> int:
    """What the kernel knows of the way; nothing is sent."""
    v6 = ":" in endpoint[0]
    family = socket.AF_INET6 if v6 else socket.AF_INET
    option = (socket.IPPROTO_IPV6, _IPV6_MTU) if v6 else (socket.IPPROTO_IP, _IP_MTU)
    with socket.socket(family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(endpoint)
        return int(probe.getsockopt(*option))
    return _ETHERNET


def _hex(key: str) -> str:
    return decode_key(key).hex()


def _settings_text(config: ClientConfig, server: str) -> str:
    """The lines of the device's configuration interface."""
    address = ipaddress.ip_interface(f"{config.wg_address}/{config.wg_address_prefix}")
    allowed = (str(address.network),) if config.wg_allowed_ips is None else config.wg_allowed_ips
    lines = [
        f"private_key={_hex(str(config.wg_private_key))}",
        f"public_key={_hex(config.server_public_key)}",
        f"endpoint={server}",
        *(f"allowed_ip={network}" for network in allowed),
    ]
    if config.wg_preshared_key is not None:
        lines.append(f"preshared_key={_hex(config.wg_preshared_key)}")
    if config.wg_persistent_keepalive:
        lines.append(f"persistent_keepalive_interval={config.wg_persistent_keepalive}")
    return "\n".join(lines) + "\n"
