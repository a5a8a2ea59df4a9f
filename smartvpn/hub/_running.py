"""A started hub: what exists from `start` to `stop`, and keeps registry and engine as one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, ParamSpec, TypeVar

from attrs import evolve, validate

from smartvpn._address import join_host_port
from smartvpn._caller import caller_uid
from smartvpn._control import EnginePump, Fanout, to_the_end
from smartvpn._json import to_json
from smartvpn._native import (
    Disconnect,
    EventKind,
    NativeEvent,
    NativeServer,
    Session,
    aead_name,
    has_quic,
)
from smartvpn._quic import quic_identity
from smartvpn._wgbackend import open_engine, wanted_backend
from smartvpn.commands import CreateClientParams
from smartvpn.config import ClientEntry, RateLimit, ServerConfig, TransportMode, WgPeerConfig
from smartvpn.errors import AlreadyExistsError, ConfigError, NotFoundError, RegistryError, SmartVpnError
from smartvpn.events import ClientConnected, ClientDisconnected, ErrorReported, Event, EventsLost
from smartvpn.hub._bundles import Bundles, public_host
from smartvpn.hub._left_out import LeftOut
from smartvpn.hub._peers import Peers, numeric_endpoint
from smartvpn.hub._reports import client_info
from smartvpn.hub._traffic import Traffic
from smartvpn.keys import PrivateKey
from smartvpn.network import Network
from smartvpn.registry import DamagedClientError, Origin
from smartvpn.registry.sqlite import SqliteRegistry
from smartvpn.types import ConfigBundle, Keypair, ListenAddresses

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_WG_KEY = "wg-private-key"
_LINK_LOST = "connection lost"
_SEEDS_AT_ONCE = 256
_FEW_PATTERNS = 100


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
        self.left_out = LeftOut(engine)
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
        by = Origin(uid=caller_uid(), action="start")
        try:
            await running._begin(by)
        except SmartVpnError as error:
            await running.note(by, failed=str(error))
            await running.close()
            raise
        except BaseException:
            await running.close()
            raise
        return running

    async def _begin(self, by: Origin) -> None:
        await self._seed(by)
        await self.note(by)
        await self._load()
        for peer in self.config.wg_peers if self.config.transport_mode.wireguard else ():
            self.peers.put(peer, await numeric_endpoint(peer))
        await self.configure_network()
        self._pump = EnginePump(self.engine, self._on_event)
        self.traffic.begin()
        self.engine.begin()
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
        routes = self.peers.routes_beyond()
        await to_the_end(
            self.network.configure_hub,
            address=str(config.hub_address()),
            address6=None if address6 is None else str(address6),
            mtu=config.mtu,
            nat=config.enable_nat,
            subnet=config.subnet,
            subnet6=config.subnet6,
            allow_host_access=config.allow_host_access,
            routes=routes,
            guarded=self._in_kernel,
        )

    # peers that are no clients

    async def put_peer(self, peer: WgPeerConfig, endpoint: str | None, by: Origin) -> None:
        """Add or change a WireGuard peer, with the routes to it; or neither. `endpoint` is numeric."""
        self.peers.check(peer, endpoint)
        told = {name: value for name, value in to_json(peer).items() if name != "presharedKey"}
        await self.note(by, **told)
        await self._routed(self.peers.put(peer, endpoint), by, peer.public_key)

    async def remove_peer(self, public_key: str, by: Origin) -> None:
        """Remove a WireGuard peer and the routes to it; or neither."""
        self.peers.require(public_key)
        await self.note(by, publicKey=public_key)
        await self._routed(self.peers.remove(public_key), by, public_key)

    async def _routed(self, take_back: Callable[[], None], by: Origin, public_key: str) -> None:
        try:
            await self.configure_network()
        except SmartVpnError as error:
            take_back()
            with suppress(SmartVpnError):
                await self.configure_network()
            await self.note(by, publicKey=public_key, failed=str(error))
            raise

    # entries

    async def _seed(self, by: Origin) -> None:
        """The config's entries, many in one write; those that are there stay as they are."""
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
            for damage in portion.damaged:
                self._leave_out(damage.entry, _damaged(damage.reason))
            for entry, error in await to_the_end(self._admit, portion, moved):
                self._leave_out(entry, _fault(entry) or error)
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

    def _leave_out(self, entry: ClientEntry, error: SmartVpnError, *, held: bool = False) -> None:
        """An entry that this hub has no place for is told and left out, not lost."""
        self.left_out.add(entry, error, held=held)
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
        address, address6 = await beside(
            entry.security.pattern_count, self.engine.put_client, entry, assigned_ip=params.assigned_ip
        )
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
            await self.require(client_id)
        except NotFoundError:
            return
        raise AlreadyExistsError(f"client '{client_id}' exists already")

    async def require(self, client_id: str) -> None:
        """Raise NotFoundError where the registry has no such client, damaged or not."""
        with suppress(DamagedClientError):
            await self.registry.get(client_id)

    async def entry(self, client_id: str, replaced: Iterable[str]) -> ClientEntry:
        """The client as it is; damaged, where nothing is wrong with it but what is `replaced` now."""
        try:
            return await self.registry.get(client_id)
        except DamagedClientError as damage:
            if not damage.wrong <= {*replaced, "assigned_ip6"}:
                raise
            return damage.entry

    async def replace(
        self, before: ClientEntry, after: ClientEntry, by: Origin, *, limit_anew: bool = False
    ) -> ClientEntry:
        """The entry changed, in the registry and the engine or in neither. `limit_anew` ends an override.

        First the engine is asked, then the registry writes, then the engine takes what it agreed to:
        neither a refusal nor a full disk leaves anything to be undone, or ends a session.
        """
        if after.assigned_ip != before.assigned_ip:
            return await self._move(after, by, limit_anew)
        if after.client_id in self.left_out:
            return await self._replace_left_out(after, by)
        await beside(after.security.pattern_count, self.engine.check_client, after)
        await self.registry.update(after, by)
        await self._take(after, limit_anew)
        return after

    async def _replace_left_out(self, after: ClientEntry, by: Origin) -> ClientEntry:
        """It comes in, where the change removes what kept it out."""
        welcome = self.left_out.holds(after) and await self._is_agreed_to(after)
        if welcome:
            after = self._addressed(after)
        await self.registry.update(after, by)
        if welcome:
            self.left_out.let_in(after.client_id)
            await self._take(after)
        return after

    async def _is_agreed_to(self, entry: ClientEntry) -> bool:
        try:
            await beside(entry.security.pattern_count, self.engine.check_client, entry)
        except SmartVpnError:
            return False
        return True

    async def _move(self, after: ClientEntry, by: Origin, limit_anew: bool) -> ClientEntry:
        """The new address is held until it is the client's: no session is given it meanwhile."""
        self.engine.hold_address(after.assigned_ip)
        try:
            after = self._addressed(after)
            await beside(after.security.pattern_count, self.engine.check_client, after)
            await self.registry.update(after, by)
        except BaseException:
            self.engine.release_address(after.assigned_ip)
            raise
        self.left_out.forget(after.client_id)
        await self._take(after, limit_anew)
        return after

    async def _take(self, entry: ClientEntry, limit_anew: bool = False) -> None:
        """What the engine agreed to. Where even so it has no memory for it, nobody comes in by old rules."""
        put = partial(self.engine.put_client, entry, assigned_ip=entry.assigned_ip, agreed=True)
        try:
            await beside(entry.security.pattern_count, put, limit_anew=limit_anew)
        except SmartVpnError as error:
            self._leave_out(entry, error, held=True)

    async def remove(self, client_id: str, by: Origin) -> None:
        """The client is gone, its sessions and counters too; also one whose row another program took away."""
        try:
            await self.registry.remove(client_id, by)
        except NotFoundError:
            self.engine.require_client(client_id)
            await self.note(by, client_id)
        if client_id in self.left_out:
            self.left_out.forget(client_id)
        with suppress(NotFoundError):
            self.engine.remove_client(client_id)
        self.traffic.forget(client_id)

    # live sessions

    async def disconnect(self, client_id: str, session_id: str | None, by: Origin) -> None:
        """End one session of the client, or all."""
        self.left_out.refuse(client_id)
        self.engine.require_session(client_id, session_id)
        await self.note(by, client_id, sessionId=session_id)
        with suppress(NotFoundError):  # ended meanwhile
            self.engine.disconnect(client_id, session_id, Disconnect.KICKED)

    async def override_rate_limit(self, client_id: str, limit: RateLimit | None, by: Origin) -> None:
        """The client's limit until a restart, or an update that carries one."""
        self.left_out.refuse(client_id)
        if limit is not None and self._in_kernel:
            raise ConfigError("rateBytesPerSec", "cannot be held while the kernel carries WireGuard")
        await self.note(by, client_id, **({} if limit is None else to_json(limit)))
        self.engine.set_rate_limit(client_id, limit)

    def sessions(self, client_id: str) -> list[Session]:
        """The client's live sessions, the newest first."""
        return [] if client_id in self.left_out else self.engine.sessions(client_id)

    async def note(self, by: Origin, client_id: str | None = None, **detail: Any) -> None:
        """Record a change that is about to be made; a full disk keeps nobody from ending a session."""
        given = {name: value for name, value in detail.items() if value is not None}
        try:
            await self.registry.note(by, client_id, **given)
        except RegistryError as error:
            what = f"'{by.action}' of uid {by.uid}, client {client_id!r}, {given}"
            log.error("not in the audit log: %s: %s", what, error)
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


async def beside(patterns: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns: work on many patterns is done on a thread, and others are served meanwhile."""
    return await to_the_end(work, *args, **kwargs) if patterns > _FEW_PATTERNS else work(*args, **kwargs)


def _damaged(reason: str) -> RegistryError:
    return RegistryError(f"damaged in the registry: {reason}")


def _fault(entry: ClientEntry) -> RegistryError | None:
    """What is wrong with an entry that was read as it stood."""
    try:
        validate(entry)
    except ConfigError as error:
        return _damaged(str(error))
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
