"""The hub: the registry and the engine as one. What each command of server mode means."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from attrs import evolve, frozen

from smartvpn._caller import caller_uid
from smartvpn._control import Fanout, to_the_end
from smartvpn._native import Counters, NativeServer, Session, WgPeer
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
from smartvpn.errors import InvalidStateError, NotFoundError, RegistryError
from smartvpn.events import ErrorReported, Started, StatusChanged, Stopped
from smartvpn.hub._changes import Changes
from smartvpn.hub._peers import Peers, numeric_endpoint
from smartvpn.hub._reports import (
    client_info,
    client_telemetry,
    session_telemetry,
    statistics,
    wg_peer_info,
)
from smartvpn.hub._running import Running, beside, refuse_past
from smartvpn.registry import DamagedClientError, Origin
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

_TOLD = 3


@frozen(kw_only=True)
class HubTelemetry:
    """Everything that is counted, at one moment. `peers` are the WireGuard peers that are no clients."""

    counters: Counters
    sessions: list[Session]
    peers: list[WgPeer]
    registered: int
    enabled: int


class Hub:
    """Server mode. `start` opens it, `stop` closes it; in between the commands work."""

    def __init__(self, fanout: Fanout, *, tun_name: str | None = None, workers: int = 0) -> None:
        self._fanout = fanout
        self._tun_name = tun_name
        self._workers = workers
        self._running: Running | None = None
        self._changes = Changes()

    def _hub(self) -> Running:
        if self._running is None:
            raise InvalidStateError("the hub is not started")
        return self._running

    @asynccontextmanager
    async def _changing(self, thing: str) -> AsyncIterator[Running]:
        async with self._changes.to(thing):
            yield self._hub()

    # lifetime

    async def start(self, params: StartParams) -> StartResult:
        """Open registry, device and listeners. What fails leaves nothing behind."""
        async with self._changes.alone():
            if self._running is not None:
                raise InvalidStateError("the hub is started already")
            running = await Running.open(params.config, self._fanout, self._tun_name, self._workers)
            self._running = running
        self._fanout.publish(Started())
        self._fanout.publish(StatusChanged(status=self._status()))
        return StartResult(quic_cert_hash=running.bundles.quic_cert_hash, listen=running.listen_addresses())

    async def stop(self, _: NoParams | None = None) -> None:
        """Close everything. A hub that is not started is none the worse."""
        async with self._changes.alone():
            running, self._running = self._running, None
            if running is None:
                return
            await running.note(_by("stop"))
            await running.close()
        self._fanout.publish(Stopped())
        self._fanout.publish(StatusChanged(status=self._status()))

    async def settled(self) -> None:
        """Wait for a start or stop that is under way."""
        async with self._changes.alone():
            pass

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
        return statistics(await to_the_end(self._hub().engine.counters))

    async def telemetry(self) -> HubTelemetry | None:
        """All of it in one reading; None while the hub is not started."""
        running = self._running
        if running is None:
            return None
        registered = await running.registry.list(limit=0)
        enabled = await running.registry.list(enabled=True, limit=0)
        if running is not self._running:
            return None
        try:
            counters, sessions, peers = await to_the_end(_look, running)
        except InvalidStateError:  # stopped meanwhile
            return None
        return HubTelemetry(
            counters=counters,
            sessions=sessions,
            peers=peers,
            registered=registered.total,
            enabled=enabled.total,
        )

    # the registry

    async def create_client(self, params: CreateClientParams) -> ConfigBundle:
        """A new client: its keys where none were given, an address, and its configs."""
        async with self._changing(params.client_id) as running:
            return await running.create(params, _by("createClient"))

    async def remove_client(self, params: ClientIdParams) -> None:
        """Forget the client; its sessions end at once."""
        async with self._changing(params.client_id) as running:
            await running.remove(params.client_id, _by("removeClient"))

    async def get_client(self, params: ClientIdParams) -> ClientEntry:
        """The entry."""
        return await self._hub().registry.get(params.client_id)

    async def list_registered_clients(self, params: ListRegisteredParams) -> RegisteredClients:
        """A page of the entries; those that are damaged are counted, and an event says which."""
        page = await self._hub().registry.list(
            tag=params.tag, enabled=params.enabled, offset=params.offset, limit=params.limit
        )
        if page.damaged:
            self._fanout.publish(_not_listed(page.damaged))
        return RegisteredClients(clients=tuple(page), total=page.total)

    async def enable_client(self, params: ClientIdParams) -> None:
        """Let it in again."""
        await self._change(params.client_id, "enableClient", enabled=True)

    async def disable_client(self, params: ClientIdParams) -> None:
        """End its sessions and refuse the next ones."""
        await self._change(params.client_id, "disableClient", enabled=False)

    async def update_client(self, params: UpdateClientParams) -> ClientEntry:
        """Change the entry; live sessions go on under the new rules where they may."""
        async with self._changing(params.client_id) as running:
            before = await running.entry(params.client_id, params.update.replaces)
            refuse_past("update.expiresAt", params.update.expires_at)
            patterns = before.security.pattern_count + params.update.pattern_count
            after = await beside(patterns, params.update.apply, before)
            limit_anew = params.update.carries_rate_limit
            return await running.replace(before, after, _by("updateClient"), limit_anew=limit_anew)

    async def _change(self, client_id: str, action: str, **changes: Any) -> tuple[Running, ClientEntry]:
        async with self._changing(client_id) as running:
            before = await running.entry(client_id, changes)
            return running, await running.replace(before, evolve(before, **changes), _by(action))

    async def rotate_client_key(self, params: ClientIdParams) -> ConfigBundle:
        """Fresh keys and configs; the old session ends."""
        noise, wireguard = Keypair.generate(), Keypair.generate()
        keys = {"public_key": noise.public_key, "wg_public_key": wireguard.public_key}
        running, entry = await self._change(params.client_id, "rotateClientKey", **keys)
        return running.bundles.bundle(entry, noise.private_key, wireguard.private_key)

    async def export_client_config(self, params: ExportParams) -> ExportedConfig:
        """The client's config without secrets."""
        running = self._hub()
        entry = await running.registry.get(params.client_id)
        running.left_out.refuse(params.client_id)
        if params.format is ExportFormat.WIREGUARD:
            return ExportedConfig(config=running.bundles.wireguard_config(entry, None))
        return ExportedConfig(config=running.bundles.client_config(entry, None))

    # live sessions

    async def list_clients(self, _: NoParams) -> ClientList:
        """The live sessions."""
        return await to_the_end(_client_list, self._hub().engine)

    async def disconnect_client(self, params: SessionParams) -> None:
        """End one session of the client, or all; it may come back."""
        async with self._changing(params.client_id) as running:
            await running.require(params.client_id)
            await running.disconnect(params.client_id, params.session_id, _by("disconnectClient"))

    async def set_client_rate_limit(self, params: RateLimitParams) -> None:
        """Until a restart, or an update that carries a rate limit."""
        limit = RateLimit(bytes_per_sec=params.rate_bytes_per_sec, burst_bytes=params.burst_bytes)
        async with self._changing(params.client_id) as running:
            await running.require(params.client_id)
            await running.override_rate_limit(params.client_id, limit, _by("setClientRateLimit"))

    async def remove_client_rate_limit(self, params: ClientIdParams) -> None:
        """Unlimited, until a restart or an update that carries a rate limit."""
        async with self._changing(params.client_id) as running:
            await running.require(params.client_id)
            await running.override_rate_limit(params.client_id, None, _by("removeClientRateLimit"))

    async def get_client_telemetry(self, params: SessionParams) -> ClientTelemetry:
        """Of one session; or of the client, over all it ever had, with the quality of the newest link."""
        running = self._hub()
        entry = await running.registry.get(params.client_id)
        sessions = running.sessions(params.client_id)
        if params.session_id is None:
            counters = await running.traffic.of(params.client_id)
            return client_telemetry(entry, counters, sessions[0] if sessions else None)
        for session in sessions:
            if session.session_id == params.session_id:
                return session_telemetry(session)
        raise NotFoundError(f"client '{params.client_id}' has no such session")

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
        self._hub().peers.require_wireguard()
        endpoint = await numeric_endpoint(peer)
        async with self._changes.alone():  # the engine may have agreed to a client with this key
            await self._hub().put_peer(peer, endpoint, _by("addWgPeer"))

    async def remove_wg_peer(self, params: PeerKeyParams) -> None:
        """Remove such a peer."""
        async with self._changes.alone():
            await self._hub().remove_peer(params.public_key, _by("removeWgPeer"))

    async def list_wg_peers(self, _: NoParams) -> WgPeerList:
        """All peers, clients included, with live counters."""
        return await to_the_end(_peer_list, self._hub().peers)


def _client_list(engine: NativeServer) -> ClientList:
    return ClientList(clients=tuple(client_info(session) for session in engine.sessions()))


def _peer_list(peers: Peers) -> WgPeerList:
    return WgPeerList(peers=tuple(wg_peer_info(peer) for peer in peers.all()))


def _look(running: Running) -> tuple[Counters, list[Session], list[WgPeer]]:
    return running.engine.counters(), running.engine.sessions(), running.peers.others()


def _not_listed(damaged: Sequence[DamagedClientError]) -> ErrorReported:
    """Some of many by name: an event is no list."""
    told = "; ".join(str(error) for error in damaged[:_TOLD])
    more = f"; and {len(damaged) - _TOLD} more" if len(damaged) > _TOLD else ""
    return ErrorReported(message=f"not listed: {told}{more}", code=RegistryError.code)


def _by(action: str) -> Origin:
    return Origin(uid=caller_uid(), action=action)
