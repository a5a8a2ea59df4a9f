"""The hub: the registry and the engine as one. What each command of server mode means."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from datetime import UTC, datetime

from attrs import evolve

from smartvpn._address import IpNetwork, join_host_port, parse_network
from smartvpn._control import EnginePump, Fanout, to_the_end
from smartvpn._native import (
    Disconnect,
    EventKind,
    NativeEvent,
    NativeServer,
    QuicIdentity,
    Session,
    WgPeer,
    aead_name,
    has_quic,
    pem_text,
)
from smartvpn._quic import certificate_hash, public_quic_endpoint, quic_identity
from smartvpn.commands import (
    ClientIdParams,
    CreateClientParams,
    ExportParams,
    ListRegisteredParams,
    NoParams,
    PeerKeyParams,
    RateLimitParams,
    SessionParams,
    StartParams,
    UpdateClientParams,
)
from smartvpn.config import (
    ClientConfig,
    ClientEntry,
    RateLimit,
    ServerConfig,
    Transport,
    TransportMode,
    WgBackend,
    WgPeerConfig,
)
from smartvpn.errors import (
    AlreadyExistsError,
    ConfigError,
    InvalidStateError,
    NotFoundError,
    SmartVpnError,
)
from smartvpn.events import (
    ClientConnected,
    ClientDisconnected,
    ErrorReported,
    Event,
    EventsLost,
    Started,
    StatusChanged,
    Stopped,
)
from smartvpn.keys import PrivateKey
from smartvpn.network import Network
from smartvpn.registry.sqlite import SqliteRegistry
from smartvpn.types import (
    BundleSecrets,
    ClientInfo,
    ClientKeypairs,
    ClientList,
    ClientTelemetry,
    ConfigBundle,
    ExportedConfig,
    ExportFormat,
    Keypair,
    ListenAddresses,
    RegisteredClients,
    ServerStatistics,
    StartResult,
    Status,
    TunnelState,
    WgPeerInfo,
    WgPeerList,
)
from smartvpn.wgconfig import WgConfigGenerator

log = logging.getLogger(__name__)

_WG_KEY = "wg-private-key"
_WG_KEEPALIVE = 25
_LINK_LOST = "connection lost"


class Hub:
    """Server mode. `start` opens it, `stop` closes it; in between the commands work."""

    def __init__(self, fanout: Fanout, *, tun_name: str | None = None, workers: int = 0) -> None:
        self._fanout = fanout
        self._tun_name = tun_name
        self._workers = workers
        self._running: _Running | None = None
        self._changes = asyncio.Lock()

    def _hub(self) -> _Running:
        if self._running is None:
            raise InvalidStateError("the hub is not started")
        return self._running

    # lifetime

    async def start(self, params: StartParams) -> StartResult:
        """Open registry, device and listeners. What fails leaves nothing behind."""
        async with self._changes:
            if self._running is not None:
                raise InvalidStateError("the hub is started already")
            running = await _Running.open(params.config, self._fanout, self._tun_name, self._workers)
            self._running = running
        self._fanout.publish(Started())
        self._fanout.publish(StatusChanged(status=self._status()))
        return StartResult(quic_cert_hash=running.quic_cert_hash, listen=running.listen_addresses())

    async def stop(self, _: NoParams | None = None) -> None:
        """Close everything. A hub that is not started is none the worse."""
        async with self._changes:
            running, self._running = self._running, None
            if running is None:
                return
            await running.close()
        self._fanout.publish(Stopped())
        self._fanout.publish(StatusChanged(status=self._status()))

    # what is

    def _status(self) -> Status:
        if self._running is None:
            return Status(state=TunnelState.DISCONNECTED)
        running = self._running
        return Status(
            state=TunnelState.CONNECTED,
            assigned_ip=str(running.config.hub_address().ip),
            assigned_ip6=_text(running.config.hub_address6()),
            server_addr=running.listen,
            transport=running.config.transport_mode,
            connected_since=running.since,
        )

    async def get_status(self, _: NoParams) -> Status:
        """Whether the hub runs, and where."""
        return self._status()

    async def get_statistics(self, _: NoParams) -> ServerStatistics:
        """Sums over all clients since the start."""
        sums = self._hub().engine.counters()
        return ServerStatistics(
            bytes_sent=sums.bytes_sent,
            bytes_received=sums.bytes_received,
            packets_sent=sums.packets_sent,
            packets_received=sums.packets_received,
            keepalives_sent=sums.keepalives_sent,
            keepalives_received=sums.keepalives_received,
            uptime_seconds=sums.uptime_seconds,
            active_clients=sums.active_sessions,
            total_connections=sums.total_sessions,
        )

    # the registry

    async def create_client(self, params: CreateClientParams) -> ConfigBundle:
        """A new client: its keys where none were given, an address, and its configs."""
        running = self._hub()
        async with self._changes:
            return await running.create(params)

    async def remove_client(self, params: ClientIdParams) -> None:
        """Forget the client; its sessions end at once."""
        running = self._hub()
        async with self._changes:
            await running.registry.remove(params.client_id)
            running.engine.remove_client(params.client_id)

    async def get_client(self, params: ClientIdParams) -> ClientEntry:
        """The entry."""
        return await self._hub().registry.get(params.client_id)

    async def list_registered_clients(self, params: ListRegisteredParams) -> RegisteredClients:
        """A page of the entries."""
        page = await self._hub().registry.list(
            tag=params.tag, enabled=params.enabled, offset=params.offset, limit=params.limit
        )
        return RegisteredClients(clients=tuple(page), total=page.total)

    async def enable_client(self, params: ClientIdParams) -> None:
        """Let it in again."""
        await self._change(params.client_id, lambda entry: evolve(entry, enabled=True))

    async def disable_client(self, params: ClientIdParams) -> None:
        """End its sessions and refuse the next ones."""
        await self._change(params.client_id, lambda entry: evolve(entry, enabled=False))

    async def update_client(self, params: UpdateClientParams) -> ClientEntry:
        """Change the entry; live sessions go on under the new rules where they may."""
        running = self._hub()
        async with self._changes:
            before = await running.registry.get(params.client_id)
            after = params.update.apply(before)
            entry = await running.replace(before, after)
            if params.update.carries_rate_limit:
                limit = entry.security.rate_limit or running.config.default_rate_limit()
                running.engine.set_rate_limit(entry.client_id, limit)
            return entry

    async def _change(self, client_id: str, change: Callable[[ClientEntry], ClientEntry]) -> ClientEntry:
        running = self._hub()
        async with self._changes:
            before = await running.registry.get(client_id)
            return await running.replace(before, change(before))

    async def rotate_client_key(self, params: ClientIdParams) -> ConfigBundle:
        """Fresh keys and configs; the old session ends."""
        running = self._hub()
        noise, wireguard = Keypair.generate(), Keypair.generate()
        async with self._changes:
            before = await running.registry.get(params.client_id)
            after = evolve(before, public_key=noise.public_key, wg_public_key=wireguard.public_key)
            entry = await running.replace(before, after)
        return await running.bundle(entry, noise.private_key, wireguard.private_key)

    async def export_client_config(self, params: ExportParams) -> ExportedConfig:
        """The client's config without secrets."""
        running = self._hub()
        entry = await running.registry.get(params.client_id)
        if params.format is ExportFormat.WIREGUARD:
            return ExportedConfig(config=await running.wireguard_config(entry, None))
        return ExportedConfig(config=running.client_config(entry, None))

    # live sessions

    async def list_clients(self, _: NoParams) -> ClientList:
        """The live sessions."""
        return ClientList(clients=tuple(_client_info(item) for item in self._hub().engine.sessions()))

    async def disconnect_client(self, params: SessionParams) -> None:
        """End one session of the client, or all; it may come back."""
        running = self._hub()
        await running.registry.get(params.client_id)
        running.engine.disconnect(params.client_id, params.session_id, Disconnect.KICKED)

    async def set_client_rate_limit(self, params: RateLimitParams) -> None:
        """Until a restart, or an update that carries a rate limit."""
        running = self._hub()
        await running.registry.get(params.client_id)
        limit = RateLimit(bytes_per_sec=params.rate_bytes_per_sec, burst_bytes=params.burst_bytes)
        running.engine.set_rate_limit(params.client_id, limit)

    async def remove_client_rate_limit(self, params: ClientIdParams) -> None:
        """Unlimited, until a restart or an update that carries a rate limit."""
        running = self._hub()
        await running.registry.get(params.client_id)
        running.engine.set_rate_limit(params.client_id, None)

    async def get_client_telemetry(self, params: SessionParams) -> ClientTelemetry:
        """Counters and link quality of the client's session, the newest when none is named."""
        running = self._hub()
        await running.registry.get(params.client_id)
        sessions = [
            session
            for session in running.engine.sessions(params.client_id)
            if params.session_id in (None, session.session_id)
        ]
        if not sessions:
            raise NotFoundError(f"client '{params.client_id}' has no such session")
        return _telemetry(sessions[0])

    # keys

    async def generate_keypair(self, _: NoParams) -> Keypair:
        """A fresh Noise pair."""
        return Keypair.generate()

    async def generate_wg_keypair(self, _: NoParams) -> Keypair:
        """A fresh WireGuard pair."""
        return Keypair.generate()

    async def generate_client_keypair(self, _: NoParams) -> ClientKeypairs:
        """Both pairs of a client."""
        return ClientKeypairs(noise=Keypair.generate(), wireguard=Keypair.generate())

    # WireGuard peers

    async def add_wg_peer(self, peer: WgPeerConfig) -> None:
        """Add a peer that is no client, or change the one with this key; until the hub stops."""
        running = self._hub()
        async with self._changes:
            await running.put_wg_peer(peer)
            await running.configure_network()

    async def remove_wg_peer(self, params: PeerKeyParams) -> None:
        """Remove such a peer."""
        running = self._hub()
        async with self._changes:
            running.engine.remove_wg_peer(params.public_key)
            await running.configure_network()

    async def list_wg_peers(self, _: NoParams) -> WgPeerList:
        """All peers, clients included, with live counters."""
        return WgPeerList(peers=tuple(_wg_peer_info(peer) for peer in self._hub().wg_peers()))


class _Running:
    """Everything that exists only while the hub is started."""

    def __init__(
        self,
        config: ServerConfig,
        registry: SqliteRegistry,
        engine: NativeServer,
        fanout: Fanout,
        public: tuple[str, int | None],
        wg_key: PrivateKey,
        quic: QuicIdentity | None,
    ) -> None:
        self.config = config
        self.registry = registry
        self.engine = engine
        self.network = Network(engine.interface)
        self.since = datetime.now(UTC)
        mode = config.transport_mode
        host, _ = config.listen_endpoint() or ("", 0)
        self._websocket = join_host_port(host, engine.port) if mode.websocket else None
        self._wireguard = join_host_port("0.0.0.0", engine.wg_port) if mode.wireguard else None
        quic_host, _ = config.quic_listen_endpoint() or ("", 0)
        self._quic = join_host_port(quic_host, engine.quic_port) if quic else None
        self.listen = self._websocket or self._quic or self._wireguard
        self.public_host = join_host_port(public[0], public[1] or engine.port)
        self.wg_endpoint = join_host_port(public[0], engine.wg_port or config.wg_listen_port)
        self._wg_key = wg_key
        self.quic_endpoint = (
            public_quic_endpoint(config, public, engine.port, engine.quic_port) if quic else None
        )
        self.quic_cert_hash = certificate_hash(quic.certificate) if quic else None
        self.cert_hash = _cert_hash(config)
        self._fanout = fanout
        self._pump: EnginePump | None = None

    @classmethod
    async def open(cls, config: ServerConfig, fanout: Fanout, tun_name: str | None, workers: int) -> _Running:
        _require_buildable(config)
        public = await asyncio.to_thread(_public_host, config)
        registry = await SqliteRegistry.open(config.registry)
        try:
            wg_key = await _wg_key(config, registry)
            serves_quic = config.transport_mode.quic and has_quic()
            quic = await quic_identity(config, registry) if serves_quic else None
            engine = await asyncio.to_thread(
                NativeServer.open,
                config,
                wg_private_key=wg_key.base64 if config.transport_mode.wireguard else None,
                quic=quic,
                tun_name=tun_name,
                workers=workers,
            )
        except BaseException:
            await registry.close()
            raise
        running = cls(config, registry, engine, fanout, public, wg_key, quic)
        try:
            await running._begin()
        except BaseException:
            await running.close()
            raise
        return running

    async def _begin(self) -> None:
        await self._seed()
        async for entry in self.registry.entries():
            self._admit(entry)
        for peer in self.config.wg_peers if self.config.transport_mode.wireguard else ():
            await self.put_wg_peer(peer)
        await self.configure_network()
        self._pump = EnginePump(self.engine, self._on_event)
        log.info("hub on %s, interface %s, %s", self.listen, self.engine.interface, aead_name())
        if self.quic_cert_hash is not None:
            log.info("QUIC cert hash: %s", self.quic_cert_hash)

    def listen_addresses(self) -> ListenAddresses:
        return ListenAddresses(websocket=self._websocket, quic=self._quic, wireguard=self._wireguard)

    async def configure_network(self) -> None:
        """Addresses, routes, forwarding, NAT: what differs from how it is."""
        config = self.config
        await to_the_end(
            self.network.configure_hub,
            address=str(config.hub_address()),
            address6=_text(config.hub_address6()),
            mtu=config.mtu,
            nat=config.enable_nat,
            subnet=config.subnet,
            subnet6=config.subnet6,
            allow_host_access=config.allow_host_access,
            routes=self._routes_beyond(),
        )

    # WireGuard peers

    def wg_peers(self) -> list[WgPeer]:
        return self.engine.wg_peers() if self.config.transport_mode.wireguard else []

    async def put_wg_peer(self, peer: WgPeerConfig) -> None:
        endpoint = None if peer.endpoint is None else await _numeric_endpoint(peer.endpoint)
        self.engine.put_wg_peer(peer, endpoint)

    def _routes_beyond(self) -> list[str]:
        """What leads to peers that are no clients; a default route stays the host's."""
        own = [parse_network(text) for text in (self.config.subnet, self.config.subnet6) if text]
        beyond: dict[str, None] = {}
        for peer in self.wg_peers():
            for network in map(parse_network, peer.allowed_ips):
                inside = any(network.version == item.version and _within(network, item) for item in own)
                if not peer.client_id and network.prefixlen > 0 and not inside:
                    beyond[str(network)] = None
        return list(beyond)

    async def _seed(self) -> None:
        for entry in self.config.clients:
            address6 = self.config.client_address6(entry.assigned_ip)
            try:
                await self.registry.insert(evolve(entry, assigned_ip6=address6))
            except AlreadyExistsError:
                continue

    def _admit(self, entry: ClientEntry) -> None:
        """An entry that this subnet has no place for is told and left out, not lost."""
        try:
            self.engine.put_client(entry, assigned_ip=entry.assigned_ip)
        except SmartVpnError as error:
            log.error("client '%s' of the registry is left out: %s", entry.client_id, error)
            self._fanout.publish(
                ErrorReported(message=f"client '{entry.client_id}' is left out: {error}", code=error.code)
            )

    async def close(self) -> None:
        if self._pump is not None:
            await self._pump.close()
        await asyncio.to_thread(self.network.restore)
        await asyncio.to_thread(self.engine.close)
        await self.registry.close()

    # entries

    async def create(self, params: CreateClientParams) -> ConfigBundle:
        noise = None if params.public_key else Keypair.generate()
        wireguard = None if params.wg_public_key else Keypair.generate()
        public_key = params.public_key or (noise.public_key if noise else "")
        wg_public_key = params.wg_public_key or (wireguard.public_key if wireguard else "")
        if params.expires_at is not None and params.expires_at <= datetime.now(UTC):
            raise ConfigError("expiresAt", "lies in the past")
        await self._refuse_known(params.client_id)
        entry = ClientEntry(
            client_id=params.client_id,
            public_key=public_key,
            wg_public_key=wg_public_key,
            security=params.security,
            priority=params.priority,
            enabled=params.enabled,
            tags=params.tags,
            description=params.description,
            expires_at=params.expires_at,
            assigned_ip=params.assigned_ip or "0.0.0.0",
        )
        address, address6 = self.engine.put_client(entry, assigned_ip=params.assigned_ip)
        entry = evolve(entry, assigned_ip=address, assigned_ip6=address6)
        try:
            await self.registry.insert(entry)
        except BaseException:
            self.engine.remove_client(entry.client_id)
            raise
        return await self.bundle(
            entry,
            noise.private_key if noise else None,
            wireguard.private_key if wireguard else None,
        )

    async def _refuse_known(self, client_id: str) -> None:
        """The engine would take the entry for a change to the old one."""
        try:
            await self.registry.get(client_id)
        except NotFoundError:
            return
        raise AlreadyExistsError(f"client '{client_id}' exists already")

    async def replace(self, before: ClientEntry, after: ClientEntry) -> ClientEntry:
        address, address6 = self.engine.put_client(after, assigned_ip=after.assigned_ip)
        after = evolve(after, assigned_ip=address, assigned_ip6=address6)
        try:
            await self.registry.update(after)
        except BaseException:
            self.engine.put_client(before, assigned_ip=before.assigned_ip)
            raise
        return after

    # configs

    async def bundle(
        self, entry: ClientEntry, noise_private_key: str | None, wg_private_key: str | None
    ) -> ConfigBundle:
        return ConfigBundle(
            entry=entry,
            smartvpn_config=self.client_config(entry, noise_private_key, wg_private_key),
            wireguard_config=await self.wireguard_config(entry, wg_private_key),
            secrets=BundleSecrets(noise_private_key=noise_private_key, wg_private_key=wg_private_key),
        )

    def client_config(
        self, entry: ClientEntry, private_key: str | None, wg_private_key: str | None = None
    ) -> ClientConfig:
        url, transport = self._native_address()
        if url is None:
            return self._wireguard_client_config(entry, wg_private_key)
        elsewhere = transport is Transport.AUTO and self.quic_endpoint not in (None, self.public_host)
        return ClientConfig(
            server_url=url,
            quic_server_url=self.quic_endpoint if elsewhere else None,
            server_public_key=self.config.public_key,
            client_private_key=private_key,
            client_public_key=entry.public_key,
            transport=transport,
            server_cert_hash=self.quic_cert_hash or self.cert_hash,
        )

    def _native_address(self) -> tuple[str | None, Transport]:
        """Where clients connect and by what; None where there is but WireGuard."""
        if not self.config.transport_mode.websocket:
            return self.quic_endpoint, Transport.QUIC
        url = f"{'wss' if self.cert_hash else 'ws'}://{self.public_host}/"
        return url, Transport.AUTO if self.cert_hash or self.quic_endpoint else Transport.WEBSOCKET

    def _wireguard_client_config(self, entry: ClientEntry, private_key: str | None) -> ClientConfig:
        config = self.config
        return ClientConfig(
            server_public_key=self._wg_key.public_key.base64,
            transport=Transport.WIREGUARD,
            dns=config.dns or None,
            mtu=config.mtu,
            wg_private_key=private_key,
            wg_address=entry.assigned_ip,
            wg_address6=entry.assigned_ip6,
            wg_address_prefix=config.hub_address().network.prefixlen,
            wg_persistent_keepalive=_WG_KEEPALIVE,
            wg_endpoint=self.wg_endpoint,
            wg_allowed_ips=config.client_routes(),
        )

    async def wireguard_config(self, entry: ClientEntry, private_key: str | None) -> str:
        config = self.config
        prefix6 = config.hub_address6()
        addresses = [f"{entry.assigned_ip}/{config.hub_address().network.prefixlen}"]
        if entry.assigned_ip6 is not None and prefix6 is not None:
            addresses.append(f"{entry.assigned_ip6}/{prefix6.network.prefixlen}")
        return WgConfigGenerator.generate_client_config(
            private_key,
            addresses,
            config.dns or None,
            config.mtu,
            peer={
                "public_key": self._wg_key.public_key.base64,
                "endpoint": self.wg_endpoint,
                "allowed_ips": config.client_routes(),
                "persistent_keepalive": _WG_KEEPALIVE,
            },
        )

    # events

    def _on_event(self, event: NativeEvent) -> None:
        reported = self._translate(event)
        if reported is not None:
            self._fanout.publish(reported)

    def _translate(self, event: NativeEvent) -> Event | None:
        match event.kind:
            case EventKind.SESSION_STARTED:
                return self._connected(event)
            case EventKind.SESSION_ENDED:
                return ClientDisconnected(
                    client_id=event.client_id,
                    session_id=event.session_id,
                    reason=event.reason or _LINK_LOST,
                )
            case EventKind.LOST:
                return EventsLost(count=event.count)
            case _:
                return ErrorReported(message=event.reason)

    def _connected(self, event: NativeEvent) -> Event | None:
        """The session may have ended before its event was read: then its end is all there is to tell."""
        try:
            sessions = self.engine.sessions(event.client_id)
        except NotFoundError:
            return None
        for session in sessions:
            if session.session_id == event.session_id:
                return ClientConnected(client=_client_info(session))
        return None


def _require_buildable(config: ServerConfig) -> None:
    """Refuse what this build has not; mode `all` does without, and says so."""
    mode = config.transport_mode
    if mode in (TransportMode.QUIC, TransportMode.BOTH) and not has_quic():
        raise ConfigError("transportMode", f"'{mode}' is not in this build")
    if mode.quic and not has_quic():
        log.warning("QUIC is not in this build: the hub serves WebSocket and WireGuard")
    if mode.wireguard and config.wg_backend is WgBackend.KERNEL:
        raise ConfigError("wgBackend", "'kernel' is not in this build")


async def _wg_key(config: ServerConfig, registry: SqliteRegistry) -> PrivateKey:
    """The hub's WireGuard key: of the config, else made once and kept sealed."""
    configured = config.configured_wg_private_key()
    if configured is not None:
        return PrivateKey(configured)
    kept = await registry.get_secret(_WG_KEY)
    if kept is not None:
        return PrivateKey(kept)
    key = PrivateKey.generate()
    await registry.put_secret(_WG_KEY, key.raw)
    return key


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


def _wg_peer_info(peer: WgPeer) -> WgPeerInfo:
    return WgPeerInfo(
        public_key=peer.public_key,
        allowed_ips=peer.allowed_ips,
        endpoint=peer.endpoint,
        persistent_keepalive=peer.persistent_keepalive or None,
        bytes_sent=peer.bytes_sent,
        bytes_received=peer.bytes_received,
        packets_sent=peer.packets_sent,
        packets_received=peer.packets_received,
        last_handshake_time=peer.last_handshake,
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _cert_hash(config: ServerConfig) -> str | None:
    """SHA-256 of the certificate's DER, base64; None without TLS."""
    if config.tls_cert is None:
        return None
    return certificate_hash(pem_text("tlsCert", config.tls_cert))


def _public_host(config: ServerConfig) -> tuple[str, int | None]:
    """The host that client configs name, and its port where that is not the listener's."""
    public = config.public_endpoint()
    return (_outward_address(), None) if public is None else public


def _outward_address() -> str:
    """The address this machine sends from; nothing is sent to find it (192.0.2.1 is for documentation)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            raise ConfigError(
                "serverEndpoint", "is required: this machine has no route from which to tell its address"
            ) from None
        return str(probe.getsockname()[0])


def _client_info(session: Session) -> ClientInfo:
    return ClientInfo(
        client_id=session.client_id,
        session_id=session.session_id,
        assigned_ip=session.assigned_ip,
        assigned_ip6=session.assigned_ip6,
        transport=session.transport,
        remote_addr=session.remote_addr,
        authenticated_key=session.public_key,
        connected_since=session.connected_since,
        bytes_sent=session.bytes_sent,
        bytes_received=session.bytes_received,
        packets_dropped=session.packets_dropped,
        bytes_dropped=session.bytes_dropped,
        last_keepalive_at=session.last_keepalive_at,
        keepalives_received=session.keepalives_received,
        rate_limit_bytes_per_sec=session.rate_limit.bytes_per_sec if session.rate_limit else None,
        burst_bytes=session.rate_limit.burst_bytes if session.rate_limit else None,
    )


def _telemetry(session: Session) -> ClientTelemetry:
    return ClientTelemetry(
        client_id=session.client_id,
        assigned_ip=session.assigned_ip,
        last_keepalive_at=session.last_keepalive_at,
        keepalives_received=session.keepalives_received,
        packets_dropped=session.packets_dropped,
        bytes_dropped=session.bytes_dropped,
        bytes_received=session.bytes_received,
        bytes_sent=session.bytes_sent,
        rate_limit_bytes_per_sec=session.rate_limit.bytes_per_sec if session.rate_limit else None,
        burst_bytes=session.rate_limit.burst_bytes if session.rate_limit else None,
        drops=session.drops,
        quality=session.quality,
    )
