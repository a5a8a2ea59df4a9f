"""The tunnel: the engine and the network as one. What each command of client mode means."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from smartvpn import _names
from smartvpn._address import join_host_port
from smartvpn._control import EnginePump, Fanout, to_the_end
from smartvpn._files import write_private
from smartvpn._known import KnownTransports
from smartvpn._native import (
    Counters,
    EventKind,
    NativeClient,
    NativeEvent,
    TunnelSettings,
    error_of,
    has_quic,
)
from smartvpn._upkeep import Upkeep
from smartvpn._wgtunnel import WireGuardTunnel
from smartvpn.commands import ConnectParams, NoParams
from smartvpn.config import ClientConfig, Transport
from smartvpn.errors import (
    ConfigError,
    InvalidStateError,
    SmartVpnError,
    UnauthorizedError,
    UnreachableError,
    VpnTimeoutError,
)
from smartvpn.events import ErrorReported, StatusChanged
from smartvpn.network import Network
from smartvpn.types import (
    ConnectionQuality,
    ConnectResult,
    Keypair,
    MtuInfo,
    Statistics,
    Status,
    TunnelState,
)

log = logging.getLogger(__name__)

CONNECT_SECS = 30.0
HANDSHAKE_SECS = 10.0
STATE_DIRECTORY = "/var/lib/smartvpn"
_LOOKUPS = 4


@frozen(kw_only=True)
class TunnelTelemetry:
    """Everything that is counted and measured, at one moment."""

    connected: bool
    counters: Counters
    quality: ConnectionQuality | None
    mtu: MtuInfo | None


class Tunnel:
    """Client mode. `connect` brings the tunnel up, `disconnect` takes it down; in between it heals itself."""

    def __init__(self, fanout: Fanout, *, tun_name: str | None = None) -> None:
        self._fanout = fanout
        self._tun_name = tun_name
        self._running: _Running | WireGuardTunnel | None = None
        self._last_error: str | None = None
        self._changes = asyncio.Lock()

    # lifetime

    async def connect(self, params: ConnectParams) -> ConnectResult:
        """Bring the tunnel up: device, session, addresses, routes, DNS.

        Raises UnauthorizedError when the hub refuses, UnreachableError when it cannot be reached,
        VpnTimeoutError when it does not answer.
        """
        async with self._changes:
            if self._running is not None:
                raise InvalidStateError("the tunnel is connected already")
            self._last_error = None
            running = await self._open(params.config)
            self._running = running
            try:
                return await running.up(CONNECT_SECS)
            except BaseException as error:
                self._running = None
                self._last_error = str(error)
                await running.close()
                self._publish()
                raise

    async def _open(self, config: ClientConfig) -> _Running | WireGuardTunnel:
        if config.transport is Transport.QUIC and not has_quic():
            raise ConfigError("transport", f"'{config.transport}' is not in this build")
        if config.transport is Transport.WIREGUARD:
            return await WireGuardTunnel.open(config, self._tun_name, self._report)
        instance = await asyncio.to_thread(_instance, _state_directory() / "instance")
        known = KnownTransports(_state_directory() / "transports.json")
        return await _Running.open(config, instance, known, self._tun_name, self._report)

    async def disconnect(self, _: NoParams | None = None) -> None:
        """Take the tunnel down and give everything back. One that is down is none the worse."""
        async with self._changes:
            running, self._running = self._running, None
            if running is None:
                return
            await running.close()
            self._last_error = None
        self._publish()

    async def stop(self) -> None:
        """The same, for the daemon's end."""
        await self.disconnect()

    def _report(self, error: str | None) -> None:
        """A new state, and what went wrong on the way to it; a connected tunnel has no error."""
        connected = self._running is not None and self._running.state is TunnelState.CONNECTED
        self._last_error = None if connected else error or self._last_error
        self._publish()

    def _publish(self) -> None:
        self._fanout.publish(StatusChanged(status=self._status()))
        if self._running is not None and self._running.state is TunnelState.ERROR:
            self._fanout.publish(ErrorReported(message=self._last_error or "the tunnel ended"))

    # what is

    def _status(self) -> Status:
        running = self._running
        if running is None:
            state = TunnelState.ERROR if self._last_error else TunnelState.DISCONNECTED
            return Status(state=state, last_error=self._last_error)
        settings = running.settings
        return Status(
            state=running.state,
            assigned_ip=_without_prefix(settings.address) if settings else None,
            assigned_ip6=_without_prefix(settings.address6) if settings and settings.address6 else None,
            server_addr=running.server,
            transport=running.transport,
            connected_since=settings.connected_since if settings else None,
            last_error=self._last_error,
        )

    def _tunnel(self) -> _Running | WireGuardTunnel:
        if self._running is None:
            raise InvalidStateError("the tunnel is not connected")
        return self._running

    async def get_status(self, _: NoParams) -> Status:
        """How far the tunnel is."""
        return self._status()

    async def get_statistics(self, _: NoParams) -> Statistics:
        """Counters since `connect`."""
        tunnel = self._tunnel()
        sums = tunnel.engine.counters()
        return Statistics(
            bytes_sent=sums.bytes_sent,
            bytes_received=sums.bytes_received,
            packets_sent=sums.packets_sent,
            packets_received=sums.packets_received,
            keepalives_sent=sums.keepalives_sent,
            keepalives_received=sums.keepalives_received,
            uptime_seconds=sums.uptime_seconds,
            quality=tunnel.quality(),
        )

    def telemetry(self) -> TunnelTelemetry | None:
        """All of it in one reading; None without a tunnel."""
        tunnel = self._running
        if tunnel is None:
            return None
        connected = tunnel.state is TunnelState.CONNECTED
        return TunnelTelemetry(
            connected=connected,
            counters=tunnel.engine.counters(),
            quality=tunnel.quality(),
            mtu=tunnel.mtu() if connected else None,
        )

    async def get_connection_quality(self, _: NoParams) -> ConnectionQuality:
        """The link's measurements. Raises InvalidStateError before the first answer."""
        quality = self._tunnel().quality()
        if quality is None:
            raise InvalidStateError("nothing has been measured yet")
        return quality

    async def get_mtu_info(self, _: NoParams) -> MtuInfo:
        """How large a packet may be, and why."""
        return self._tunnel().mtu()

    async def generate_keypair(self, _: NoParams) -> Keypair:
        """A fresh Noise pair."""
        return Keypair.generate()


class _Running:
    """Everything that exists only while there is a tunnel."""

    def __init__(
        self,
        config: ClientConfig,
        engine: NativeClient,
        known: KnownTransports,
        report: Callable[[str | None], None],
    ) -> None:
        self.engine = engine
        self.known = known
        self.config = config
        self.network = Network(engine.interface)
        self.server = _hub_name(config)
        self.state = TunnelState.CONNECTING
        self.settings: TunnelSettings | None = None
        self._report = report
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lookups: set[asyncio.Task[None]] = set()
        self._upkeep = Upkeep(self._apply_anew, self._refresh, report)
        self._pump = EnginePump(engine, self._on_event)

    @classmethod
    async def open(
        cls,
        config: ClientConfig,
        instance: bytes,
        known: KnownTransports,
        tun_name: str | None,
        report: Callable[[str | None], None],
    ) -> _Running:
        last = await asyncio.to_thread(known.get, _hub_name(config))
        engine = await asyncio.to_thread(
            NativeClient.open,
            config,
            instance=instance,
            websocket_first=last == Transport.WEBSOCKET,
            handshake_secs=HANDSHAKE_SECS,
            tun_name=tun_name,
        )
        return cls(config, engine, known, report)

    @property
    def transport(self) -> Transport:
        """What carries the tunnel; before it is up, what was asked for."""
        return self.config.transport if self.settings is None else Transport(self.settings.transport)

    async def up(self, seconds: float) -> ConnectResult:
        """Wait for the session, then set addresses, routes and DNS."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._first)
        except VpnTimeoutError:  # says more
            raise
        except TimeoutError:
            raise VpnTimeoutError(f"{self.server} does not answer") from None
        settings = self.engine.settings()
        log.info("session with %s: handshake took %.1f ms", self.server, settings.handshake_ms)
        await self._apply(settings)
        self._upkeep.start()
        self._report(None)
        return ConnectResult(
            assigned_ip=_without_prefix(settings.address),
            assigned_ip6=_without_prefix(settings.address6) if settings.address6 else None,
            transport=Transport(settings.transport),
            mtu=settings.mtu,
        )

    def quality(self) -> ConnectionQuality | None:
        return self.engine.quality()

    def mtu(self) -> MtuInfo:
        return self.engine.mtu()

    async def close(self) -> None:
        await self._upkeep.stop()
        for task in self._lookups:
            task.cancel()
        await asyncio.gather(*self._lookups, return_exceptions=True)
        if self._first.done():
            self._first.exception()
        else:
            self._first.cancel()
        try:
            await asyncio.to_thread(self.network.restore)
        finally:
            await self._pump.close()

    async def _apply(self, settings: TunnelSettings, *, dns_again: bool = False) -> None:
        self.settings = settings
        config = self.config
        if config.transport is Transport.AUTO:
            await to_the_end(self.known.put, self.server, settings.transport)
        await to_the_end(
            self.network.configure_client,
            address=settings.address,
            address6=settings.address6,
            mtu=settings.mtu,
            routes=list(settings.routes if config.routes is None else config.routes),
            dns=list(settings.dns if config.dns is None else config.dns),
            server_addresses=[settings.server_addr, *self.engine.addresses()],
            dns_again=dns_again,
        )

    async def _apply_anew(self, dns_again: bool) -> None:
        await self._apply(self.engine.settings(), dns_again=dns_again)

    async def _refresh(self) -> None:
        await to_the_end(self.network.refresh, self.engine.addresses())

    async def _look_up_outside(self, host: str) -> None:
        """The tunnel's name servers, where they are this machine's, cannot be asked for the hub itself."""
        try:
            servers = await asyncio.to_thread(self.network.name_servers_outside)
            self.engine.offer(host, await _names.look_up(host, servers))
        except SmartVpnError as error:
            log.debug("%s is not looked up outside of the tunnel: %s", host, error)

    # events

    def _on_event(self, event: NativeEvent) -> None:
        if event.kind is EventKind.SETTINGS:
            self._upkeep.on_settings()
        elif event.kind is EventKind.ADDRESSES:
            self._upkeep.on_network()
        elif event.kind is EventKind.LOOKUP:
            if self.settings is not None and len(self._lookups) < _LOOKUPS:
                task = asyncio.create_task(self._look_up_outside(event.reason))
                self._lookups.add(task)
                task.add_done_callback(self._lookups.discard)
        elif event.kind is EventKind.NETWORK:
            # Sleep may have cost the resolver its servers: they are set anew.
            self._upkeep.on_network(slept=event.count > 0 and self.settings is not None)
        elif event.kind is EventKind.STATE:
            self._on_state(event)

    def _on_state(self, event: NativeEvent) -> None:
        self.state = event.state
        if self._first.done():
            self._report(event.reason or None)
            return
        if event.state is TunnelState.CONNECTED:
            self._first.set_result(None)
        elif event.state is TunnelState.ERROR:
            self._first.set_exception(UnauthorizedError(f"the hub refused this client: {event.reason}"))
        elif event.status:
            self._first.set_exception(_connect_error(self.server, event))
        else:
            self._report(None)


def _connect_error(server: str, event: NativeEvent) -> SmartVpnError:
    """The first attempt failed; a command tells so, instead of trying for ever."""
    error = error_of(event.status, event.reason)
    told = isinstance(error, UnreachableError | VpnTimeoutError)
    return type(error)(f"{server}: {error}") if told else error


def _hub_name(config: ClientConfig) -> str:
    """The hub's host and port, as people know it."""
    if config.transport is Transport.QUIC:
        return join_host_port(*config.quic_endpoint())
    return config.websocket_url().authority


def _without_prefix(address: str) -> str:
    return address.partition("/")[0]


def _state_directory() -> Path:
    """Where things are kept: what systemd names (systemd.exec(5), StateDirectory), else the usual place."""
    return Path(os.environ.get("STATE_DIRECTORY", STATE_DIRECTORY).partition(":")[0])


def _instance(path: Path) -> bytes:
    """The 16 bytes that name this installation to the hub: made once and kept, fresh where that cannot be."""
    try:
        kept = path.read_bytes()
        if len(kept) == 16:
            return kept
    except OSError:
        pass
    fresh = secrets.token_bytes(16)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, fresh)
    except OSError as error:
        log.warning("%s cannot be written (%s): this installation has no lasting name", path, error.strerror)
    return fresh
