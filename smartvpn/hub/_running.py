"""A started hub: what exists from `start` to `stop`, and keeps registry and engine as one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from typing import Any

from attrs import evolve

from smartvpn._address import join_host_port
from smartvpn._caller import caller_uid
from smartvpn._control import EnginePump, Fanout, to_the_end
from smartvpn._native import EventKind, NativeEvent, NativeServer, Session, aead_name, has_quic
from smartvpn._quic import quic_identity
from smartvpn._wgbackend import open_engine, wanted_backend
from smartvpn.commands import CreateClientParams
from smartvpn.config import ClientEntry, ServerConfig, TransportMode, WgPeerConfig
from smartvpn.errors import AlreadyExistsError, ConfigError, NotFoundError, RegistryError, SmartVpnError
from smartvpn.events import ClientConnected, ClientDisconnected, ErrorReported, Event, EventsLost
from smartvpn.hub._bundles import Bundles, public_host
from smartvpn.hub._peers import Peers
from smartvpn.hub._reports import client_info
from smartvpn.hub._traffic import Traffic
from smartvpn.keys import PrivateKey
from smartvpn.network import Network
from smartvpn.registry import Origin
from smartvpn.registry.sqlite import SqliteRegistry
from smartvpn.types import ConfigBundle, Keypair, ListenAddresses

log = logging.getLogger(__name__)

_WG_KEY = "wg-private-key"
_LINK_LOST = "connection lost"
_SEEDS_AT_ONCE = 256


class Running:
    """A started hub; `open` makes it, `close` gives everything back."""

    def __init__(
        self,
        config: ServerConfig,
        registry: SqliteRegistry,
        engine: NativeServer,
        fanout: Fanout,
        bundles: Bundles,
    ) -> None:
        self.config = config
        self.registry = registry
        self.engine = engine
        self.bundles = bundles
        self.peers = Peers(config, engine)
        self.network = Network(engine.interface)
        self.since = datetime.now(UTC)
        mode = config.transport_mode
        host, _ = config.listen_endpoint() or ("", 0)
        self._websocket = join_host_port(host, engine.port) if mode.websocket else None
        self._wireguard = join_host_port("0.0.0.0", engine.wg_port) if mode.wireguard else None
        quic_host, _ = config.quic_listen_endpoint() or ("", 0)
        self._quic = join_host_port(quic_host, engine.quic_port) if bundles.quic_cert_hash else None
        self.listen = self._websocket or self._quic or self._wireguard
        self.traffic = Traffic(engine, registry)
        self._fanout = fanout
        self._left_out: set[str] = set()
        self._in_kernel = False  # WireGuard's packets do not pass through this process
        self._pump: EnginePump | None = None

    @classmethod
    async def open(cls, config: ServerConfig, fanout: Fanout, tun_name: str | None, workers: int) -> Running:
        """Registry, device, listeners, network. What fails leaves nothing behind."""
        _require_buildable(config)
        public = await asyncio.to_thread(public_host, config)
        registry = await SqliteRegistry.open(config.registry)
        try:
            wg_key = await _wg_key(config, registry)
            backend = await wanted_backend(config, registry)
            wg_private_key = wg_key.base64 if config.transport_mode.wireguard else None
            serves_quic = config.transport_mode.quic and has_quic()
            quic = await quic_identity(config, registry) if serves_quic else None
            engine, in_kernel = await asyncio.to_thread(
                open_engine, config, backend, wg_private_key, tun_name, workers, quic
            )
        except BaseException:
            await registry.close()
            raise
        try:
            running = cls(config, registry, engine, fanout, Bundles(config, engine, public, wg_key, quic))
        except BaseException:
            await asyncio.to_thread(engine.close)
            await registry.close()
            raise
        running._in_kernel = in_kernel
        try:
            await running._begin()
        except BaseException:
            await running.close()
            raise
        return running

    async def _begin(self) -> None:
        await self._seed()
        await self._load()
        for peer in self.config.wg_peers if self.config.transport_mode.wireguard else ():
            await self.peers.put(peer)
        await self.configure_network()
        self._pump = EnginePump(self.engine, self._on_event)
        self.traffic.begin()
        log.info("hub on %s, interface %s, %s", self.listen, self.engine.interface, aead_name())
        if self.bundles.quic_cert_hash is not None:
            log.info("QUIC cert hash: %s", self.bundles.quic_cert_hash)

    async def close(self) -> None:
        """End sessions, put the network back, close the registry; one that fails keeps no other open."""
        async with AsyncExitStack() as last_first:
            last_first.push_async_callback(self.registry.close)
            last_first.push_async_callback(asyncio.to_thread, self.engine.close)
            last_first.push_async_callback(asyncio.to_thread, self.network.restore)
            if self._pump is not None:
                last_first.push_async_callback(self._pump.close)
            last_first.push_async_callback(self.traffic.close)

    def listen_addresses(self) -> ListenAddresses:
        """Where each transport listens."""
        return ListenAddresses(websocket=self._websocket, quic=self._quic, wireguard=self._wireguard)

    async def configure_network(self) -> None:
        """Addresses, routes, forwarding, NAT: what differs from how it is."""
        config = self.config
        address6 = config.hub_address6()
        await to_the_end(
            self.network.configure_hub,
            address=str(config.hub_address()),
            address6=None if address6 is None else str(address6),
            mtu=config.mtu,
            nat=config.enable_nat,
            subnet=config.subnet,
            subnet6=config.subnet6,
            allow_host_access=config.allow_host_access,
            routes=self.peers.routes_beyond(),
            guarded=self._in_kernel,
        )

    async def put_peer(self, peer: WgPeerConfig) -> None:
        """Add or change a WireGuard peer, with the routes to it; or neither."""
        take_back = await self.peers.put(peer)
        try:
            await self.configure_network()
        except SmartVpnError:
            take_back()
            with suppress(SmartVpnError):
                await self.configure_network()
            raise

    # entries

    async def _seed(self) -> None:
        """The config's entries, many in one write; those that are there stay as they are."""
        by = Origin(uid=caller_uid(), action="start")
        for first in range(0, len(self.config.clients), _SEEDS_AT_ONCE):
            seeds = self.config.clients[first : first + _SEEDS_AT_ONCE]
            done = (self.registry.insert(self._addressed(seed), by) for seed in seeds)
            for outcome in await asyncio.gather(*done, return_exceptions=True):
                if outcome is not None and not isinstance(outcome, AlreadyExistsError):
                    raise outcome

    def _addressed(self, entry: ClientEntry) -> ClientEntry:
        return evolve(entry, assigned_ip6=self.config.client_address6(entry.assigned_ip))

    async def _load(self) -> None:
        """Give the engine every entry, on a thread: there may be very many."""
        moved: dict[str, str | None] = {}
        async for portion in self.registry.portions():
            for entry, error in await to_the_end(self._admit, portion, moved):
                self._leave_out(entry, error)
        if moved:
            await self.registry.readdress(moved)

    def _admit(
        self, entries: Iterable[ClientEntry], moved: dict[str, str | None]
    ) -> list[tuple[ClientEntry, SmartVpnError]]:
        """Returns those that the engine refuses; in `moved`, IPv6 addresses that are not as they were."""
        refused: list[tuple[ClientEntry, SmartVpnError]] = []
        for entry in entries:
            address6 = None
            try:
                _, address6 = self.engine.put_client(entry, assigned_ip=entry.assigned_ip)
            except SmartVpnError as error:
                refused.append((entry, error))
            if address6 != entry.assigned_ip6:
                moved[entry.client_id] = address6
        return refused

    def _leave_out(self, entry: ClientEntry, error: SmartVpnError) -> None:
        """An entry that this subnet has no place for is told and left out, not lost."""
        self._left_out.add(entry.client_id)
        message = f"client '{entry.client_id}' is left out: {error}"
        log.error("%s", message)
        self._fanout.publish(ErrorReported(message=message, code=error.code))

    async def create(self, params: CreateClientParams, by: Origin) -> ConfigBundle:
        """A new client, in the registry and the engine or in neither."""
        self._check_new(params)
        await self._refuse_known(params.client_id)
        noise = None if params.public_key else Keypair.generate()
        wireguard = None if params.wg_public_key else Keypair.generate()
        entry = ClientEntry(
            client_id=params.client_id,
            public_key=params.public_key or (noise.public_key if noise else ""),
            wg_public_key=params.wg_public_key or (wireguard.public_key if wireguard else ""),
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
            await self.registry.insert(entry, by)
        except BaseException:
            self.engine.remove_client(entry.client_id)
            raise
        return self.bundles.bundle(
            entry,
            noise.private_key if noise else None,
            wireguard.private_key if wireguard else None,
        )

    def _check_new(self, params: CreateClientParams) -> None:
        refuse_past("expiresAt", params.expires_at)
        if params.public_key == self.config.public_key:
            raise ConfigError("publicKey", "is the hub's own")
        if params.wg_public_key == self.bundles.wg_public_key:
            raise ConfigError("wgPublicKey", "is the hub's own")

    async def _refuse_known(self, client_id: str) -> None:
        """The engine would take the entry for a change to the old one."""
        try:
            await self.registry.get(client_id)
        except NotFoundError:
            return
        raise AlreadyExistsError(f"client '{client_id}' exists already")

    async def replace(self, before: ClientEntry, after: ClientEntry, by: Origin) -> ClientEntry:
        """The entry changed, in the registry and the engine or in neither.

        First in the registry: a session that a change ends cannot be brought back when the disk is
        full. An address is first asked of the engine, which alone knows all that are taken.
        """
        if after.assigned_ip != before.assigned_ip:
            return await self._move(before, after, by)
        await self.registry.update(after, by)
        if after.client_id in self._left_out:
            return after
        try:
            self.engine.put_client(after, assigned_ip=after.assigned_ip)
        except SmartVpnError:
            await self.registry.update(before, by)
            raise
        return after

    async def _move(self, before: ClientEntry, after: ClientEntry, by: Origin) -> ClientEntry:
        _, address6 = self.engine.put_client(after, assigned_ip=after.assigned_ip)
        after = evolve(after, assigned_ip6=address6)
        try:
            await self.registry.update(after, by)
        except BaseException:
            if before.client_id in self._left_out:
                self.engine.remove_client(before.client_id)
            else:
                self.engine.put_client(before, assigned_ip=before.assigned_ip)
            raise
        self._left_out.discard(after.client_id)
        return after

    async def remove(self, client_id: str, by: Origin) -> None:
        """The client is gone, its sessions and counters too."""
        await self.registry.remove(client_id, by)
        if client_id in self._left_out:
            self._left_out.discard(client_id)
        else:
            self.engine.remove_client(client_id)
        self.traffic.forget(client_id)

    def end_rate_limit_override(self, entry: ClientEntry) -> None:
        """The limit is the entry's again, or the default."""
        if entry.client_id not in self._left_out:
            limit = entry.security.rate_limit or self.config.default_rate_limit()
            self.engine.set_rate_limit(entry.client_id, limit)

    def sessions(self, client_id: str) -> list[Session]:
        """The client's live sessions, the newest first."""
        return [] if client_id in self._left_out else self.engine.sessions(client_id)

    async def note(self, by: Origin, client_id: str | None = None, **detail: Any) -> None:
        """Audit what has happened already; a full disk keeps nobody from ending a session."""
        try:
            given = {name: value for name, value in detail.items() if value is not None}
            await self.registry.note(by, client_id, **given)
        except RegistryError as error:
            log.error("'%s' of uid %d is not in the audit log: %s", by.action, by.uid, error)
            self._fanout.publish(ErrorReported(message=f"the audit log: {error}", code=error.code))

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
                return ClientConnected(client=client_info(session))
        return None


def refuse_past(field: str, moment: object) -> None:
    """Raise ConfigError for a time that is over, if it is one."""
    if isinstance(moment, datetime) and moment <= datetime.now(UTC):
        raise ConfigError(field, "lies in the past")


def _require_buildable(config: ServerConfig) -> None:
    """Refuse what this build has not; mode `all` does without, and says so."""
    mode = config.transport_mode
    if mode in (TransportMode.QUIC, TransportMode.BOTH) and not has_quic():
        raise ConfigError("transportMode", f"'{mode}' is not in this build")
    if mode.quic and not has_quic():
        log.warning("QUIC is not in this build: the hub serves WebSocket and WireGuard")


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
