"""The hub: the registry and the engine as one. What each command of server mode means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from attrs import evolve

from smartvpn._control import Fanout
from smartvpn._native import Disconnect
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
from smartvpn.config import ClientEntry, RateLimit, WgPeerConfig
from smartvpn.errors import InvalidStateError, NotFoundError
from smartvpn.events import Started, StatusChanged, Stopped
from smartvpn.hub._reports import client_info, statistics, telemetry, wg_peer_info
from smartvpn.hub._running import Running
from smartvpn.types import (
    ClientKeypairs,
    ClientList,
    ClientTelemetry,
    ConfigBundle,
    ExportedConfig,
    ExportFormat,
    Keypair,
    RegisteredClients,
    ServerStatistics,
    StartResult,
    Status,
    TunnelState,
    WgPeerList,
)


class Hub:
    """Server mode. `start` opens it, `stop` closes it; in between the commands work."""

    def __init__(self, fanout: Fanout, *, tun_name: str | None = None, workers: int = 0) -> None:
        self._fanout = fanout
        self._tun_name = tun_name
        self._workers = workers
        self._running: Running | None = None
        self._changes = asyncio.Lock()

    def _hub(self) -> Running:
        if self._running is None:
            raise InvalidStateError("the hub is not started")
        return self._running

    # lifetime

    async def start(self, params: StartParams) -> StartResult:
        """Open registry, device and listeners. What fails leaves nothing behind."""
        async with self._changes:
            if self._running is not None:
                raise InvalidStateError("the hub is started already")
            running = await Running.open(params.config, self._fanout, self._tun_name, self._workers)
            self._running = running
        self._fanout.publish(Started())
        self._fanout.publish(StatusChanged(status=self._status()))
        return StartResult(listen=running.listen_addresses())

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
        address6 = running.config.hub_address6()
        return Status(
            state=TunnelState.CONNECTED,
            assigned_ip=str(running.config.hub_address().ip),
            assigned_ip6=None if address6 is None else str(address6),
            server_addr=running.listen,
            transport=running.config.transport_mode,
            connected_since=running.since,
        )

    async def get_status(self, _: NoParams) -> Status:
        """Whether the hub runs, and where."""
        return self._status()

    async def get_statistics(self, _: NoParams) -> ServerStatistics:
        """Sums over all clients since the start."""
        return statistics(self._hub().engine.counters())

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
        return running.bundles.bundle(entry, noise.private_key, wireguard.private_key)

    async def export_client_config(self, params: ExportParams) -> ExportedConfig:
        """The client's config without secrets."""
        running = self._hub()
        entry = await running.registry.get(params.client_id)
        if params.format is ExportFormat.WIREGUARD:
            return ExportedConfig(config=running.bundles.wireguard_config(entry, None))
        return ExportedConfig(config=running.bundles.client_config(entry, None))

    # live sessions

    async def list_clients(self, _: NoParams) -> ClientList:
        """The live sessions."""
        return ClientList(clients=tuple(client_info(item) for item in self._hub().engine.sessions()))

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
        return telemetry(sessions[0])

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
            await running.peers.put(peer)
            await running.configure_network()

    async def remove_wg_peer(self, params: PeerKeyParams) -> None:
        """Remove such a peer."""
        running = self._hub()
        async with self._changes:
            running.peers.remove(params.public_key)
            await running.configure_network()

    async def list_wg_peers(self, _: NoParams) -> WgPeerList:
        """All peers, clients included, with live counters."""
        return WgPeerList(peers=tuple(wg_peer_info(peer) for peer in self._hub().peers.all()))
