"""The only user of the C extension: statuses → exceptions, structs ↔ attrs objects, owners for pointers.

Calls return soon, but `open` and `close`, and those that list all sessions, counters or peers of a hub:
they belong on a thread. `close` waits for those that only look.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

from smartvpn import _native_read as read
from smartvpn._address import join_host_port
from smartvpn._core import ffi, lib
from smartvpn._native_types import (
    ClientCounters as ClientCounters,
    Counters as Counters,
    Disconnect as Disconnect,
    EventKind as EventKind,
    NativeEvent as NativeEvent,
    QuicIdentity as QuicIdentity,
    Session as Session,
    TunnelSettings as TunnelSettings,
    WgPeer as WgPeer,
)
from smartvpn.config import (
    ClientConfig,
    ClientEntry,
    RateLimit,
    ServerConfig,
    Transport,
    WgPeerConfig,
)
from smartvpn.errors import (
    ConfigError,
    ConflictError,
    InvalidStateError,
    NativeError,
    NotFoundError,
    PermissionDeniedError,
    PoolExhaustedError,
    SmartVpnError,
    UnauthorizedError,
    UnreachableError,
    VpnTimeoutError,
)
from smartvpn.keys import decode_key, encode_key
from smartvpn.types import ConnectionQuality, MtuInfo, TunnelState

TRANSPORTS = {1: "websocket", 2: "quic", 3: "wireguard"}
_SESSIONS_AT_ONCE = 256
_SESSIONS_OF_ONE = 4
_CLIENT_TRANSPORTS = {
    Transport.AUTO: lib.SV_CLIENT_AUTO,
    Transport.WEBSOCKET: lib.SV_CLIENT_WEBSOCKET,
    Transport.QUIC: lib.SV_CLIENT_QUIC,
}


class Capability(IntEnum):
    """Rights of a process, capabilities(7)."""

    DAC_OVERRIDE = lib.SV_CAP_DAC_OVERRIDE
    NET_BIND_SERVICE = lib.SV_CAP_NET_BIND_SERVICE
    NET_ADMIN = lib.SV_CAP_NET_ADMIN


_EXCEPTIONS: dict[int, type[SmartVpnError]] = {
    lib.SV_E_NOT_FOUND: NotFoundError,
    lib.SV_E_EXISTS: ConflictError,
    lib.SV_E_FULL: PoolExhaustedError,
    lib.SV_E_STATE: InvalidStateError,
    lib.SV_E_PERMISSION: PermissionDeniedError,
    lib.SV_E_IN_USE: ConflictError,
    lib.SV_E_TIMEOUT: VpnTimeoutError,
    lib.SV_E_REFUSED: UnauthorizedError,
    lib.SV_E_AUTH: UnauthorizedError,
    lib.SV_E_UNREACHABLE: UnreachableError,
    lib.SV_E_CLOSED: UnreachableError,
}


def _text(pointer: Any) -> str:
    return str(ffi.string(pointer).decode("utf-8", "replace"))


def error_of(status: int, words: str = "") -> SmartVpnError:
    """The exception for a status of C; `words` say more than the status does."""
    text = _text(lib.sv_strerror(status))
    if status == lib.SV_E_INVALID and ": " in words:
        field, _, reason = words.partition(": ")
        return ConfigError(field, reason)
    kind = _EXCEPTIONS.get(status)
    message = words or text
    return NativeError(status, message) if kind is None else kind(message)


def _check(status: int) -> None:
    if status != 0:
        raise error_of(status, _text(lib.sv_error_detail()))


def _check_open(status: int, wg_kernel: bool) -> None:
    if wg_kernel and status == lib.SV_E_UNSUPPORTED:
        raise ConfigError("wgBackend", f"'kernel' cannot be: {_text(lib.sv_error_detail())}")
    _check(status)


def drop_privileges(user: int, group: int, keep: Iterable[Capability]) -> None:
    """Become user and group, unless the user is 0, and keep of all capabilities only those; for good.

    Before any thread is started. Raises PermissionDeniedError.
    """
    _check(lib.sv_process_drop_privileges(user, group, sum(1 << capability for capability in set(keep))))


def aead_name() -> str:
    """The ciphers that are offered on this machine, and which library does them."""
    return _text(lib.sv_engine_aead())


def has_quic() -> bool:
    """Whether this build has QUIC."""
    return bool(lib.sv_engine_has_quic())


def make_certificate() -> tuple[str, str]:
    """A new self-signed certificate and its key, PEM texts. Raises NativeError without QUIC."""
    certificate, key = ffi.new("char[]", lib.SV_PEM_SIZE), ffi.new("char[]", lib.SV_PEM_SIZE)
    _check(lib.sv_make_certificate(certificate, key))
    texts = _text(certificate), _text(key)
    ffi.memmove(key, bytes(lib.SV_PEM_SIZE), lib.SV_PEM_SIZE)
    return texts


def _when(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


class _Strings:
    """C strings and arrays of them, alive as long as this object."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def one(self, text: str | None) -> Any:
        if text is None:
            return ffi.NULL
        buffer = ffi.new("char[]", text.encode())
        self._kept.append(buffer)
        return buffer

    def many(self, texts: Iterable[str]) -> tuple[Any, int]:
        pointers = [self.one(text) for text in texts]
        array = ffi.new("char *[]", pointers)
        self._kept.append(array)
        return ffi.cast("const char *const *", array), len(pointers)


def _put_key(target: Any, key: str) -> None:
    ffi.memmove(target, decode_key(key), 32)


def _wipe(struct: Any) -> None:
    ffi.memmove(struct, bytes(ffi.sizeof(struct[0])), ffi.sizeof(struct[0]))


def pem_text(field: str, value: str) -> str:
    """PEM text as it is, or what stands in the file of that name. Raises ConfigError naming the field."""
    if "-----BEGIN" in value:
        return value
    try:
        return Path(value).read_text("ascii")
    except OSError as error:
        raise ConfigError(field, f"cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(field, "is not a file of PEM text") from None


class _Engine:
    """Owner of a running engine; `close` may be called again and again."""

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer
        self._looking = threading.Lock()  # held while another thread than the owner's is in C

    @property
    def _handle(self) -> Any:
        if self._pointer is None:
            raise InvalidStateError("the engine is closed")
        return self._pointer

    @property
    def event_fd(self) -> int:
        """Readable when events wait."""
        return int(lib.sv_engine_event_fd(self._handle))

    @property
    def interface(self) -> str:
        """Name of the TUN device."""
        return _text(lib.sv_engine_tun_name(self._handle))

    def next_event(self) -> NativeEvent | None:
        """The oldest event, or None."""
        event = ffi.new("sv_event *")
        if self._pointer is None or not lib.sv_engine_next_event(self._pointer, event):
            return None
        return NativeEvent(
            kind=EventKind(event.type),
            client_id=_text(event.client_id),
            session_id=bytes(ffi.buffer(event.session_id)).hex(),
            state=list(TunnelState)[event.state],
            code=event.code,
            status=event.error,
            reason=_text(event.reason),
            count=event.count,
        )

    def counters(self) -> Counters:
        """Sums since the start."""
        sums = ffi.new("sv_statistics *")
        with self._looking:
            lib.sv_engine_statistics(self._handle, sums)
        return read.counters(sums, [name for name, _ in ffi.typeof("sv_drops").fields])

    def close(self) -> None:
        """End sessions, threads and the device; takes up to a second."""
        with self._looking:
            pointer, self._pointer = self._pointer, None
        if pointer is not None:
            lib.sv_engine_close(pointer)


class NativeServer(_Engine):
    """A hub's engine."""

    @classmethod
    def open(
        cls,
        config: ServerConfig,
        *,
        wg_private_key: str | None = None,
        quic: QuicIdentity | None = None,
        wg_kernel: bool = False,
        tun_name: str | None = None,
        workers: int = 0,
    ) -> Self:
        """Make the device and open the listeners: QUIC's and WireGuard's where there are keys for them.

        With `wg_kernel` the kernel carries WireGuard's packets; ConfigError naming `wgBackend` where it
        cannot. Raises SmartVpnError with words.
        """
        strings = _Strings()
        c = ffi.new("sv_server_config *")
        _put_key(c.private_key, config.private_key)
        c.listen_addr = strings.one(config.listen_addr if config.transport_mode.websocket else None)
        if wg_private_key is not None:
            c.wireguard, c.wg_kernel = True, wg_kernel
            c.wg_listen_port = config.wg_listen_port
            _put_key(c.wg_private_key, wg_private_key)
        secret = ffi.NULL
        if quic is not None:
            c.quic_listen_addr = strings.one(config.quic_listen_addr or config.listen_addr)
            c.quic_cert, c.quic_key = strings.one(quic.certificate), strings.one(quic.key)
            c.quic_idle_timeout_secs = config.quic_idle_timeout_secs
            c.quic_secret = secret = ffi.new("uint8_t[32]", quic.secret)
        c.subnet = strings.one(config.subnet)
        c.subnet6 = strings.one(config.subnet6)
        c.tls_cert = strings.one(None if config.tls_cert is None else pem_text("tlsCert", config.tls_cert))
        c.tls_key = strings.one(None if config.tls_key is None else pem_text("tlsKey", config.tls_key))
        c.dns, c.dns_count = strings.many(config.dns)
        c.routes, c.route_count = strings.many(config.client_routes())
        c.trusted_proxies, c.trusted_proxy_count = strings.many(config.trusted_proxies)
        c.mtu = config.mtu
        c.keepalive_secs = config.keepalive_interval_secs
        c.rekey_secs = config.rekey_secs or lib.SV_REKEY_NEVER
        c.resume_lifetime_secs = config.resume_lifetime_secs or lib.SV_RESUME_NEVER
        limit = config.default_rate_limit()
        if limit is not None:
            c.default_bytes_per_sec, c.default_burst_bytes = limit.bytes_per_sec, limit.burst_bytes
        c.deny_host_access = not config.allow_host_access
        c.workers = workers
        c.tun_name = strings.one(tun_name)
        out = ffi.new("sv_engine **")
        try:
            _check_open(lib.sv_server_open(out, c), wg_kernel)
        finally:
            _wipe(c)
            if secret != ffi.NULL:
                ffi.memmove(secret, bytes(32), 32)
        return cls(out[0])

    @property
    def port(self) -> int:
        """The WebSocket port that was bound."""
        return int(lib.sv_engine_port(self._handle))

    @property
    def quic_port(self) -> int:
        """The UDP port of QUIC; 0 without it."""
        return int(lib.sv_engine_quic_port(self._handle))

    @property
    def wg_port(self) -> int:
        """The UDP port of WireGuard; 0 without it."""
        return int(lib.sv_engine_wg_port(self._handle))

    def put_wg_peer(self, peer: WgPeerConfig, endpoint: str | None) -> None:
        """Add or replace a WireGuard peer that is no client; `endpoint` is numeric.

        Raises InvalidStateError without WireGuard, ConflictError for another's key or networks.
        """
        self._offer_wg_peer(lib.sv_hub_put_wg_peer, peer, endpoint)

    def check_wg_peer(self, peer: WgPeerConfig, endpoint: str | None) -> None:
        """Raise what `put_wg_peer` would raise; changes nothing."""
        self._offer_wg_peer(lib.sv_hub_check_wg_peer, peer, endpoint)

    def _offer_wg_peer(self, offer: Any, peer: WgPeerConfig, endpoint: str | None) -> None:
        strings = _Strings()
        c = ffi.new("sv_wg_peer_config *")
        _put_key(c.public_key, peer.public_key)
        psk = (
            ffi.NULL if peer.preshared_key is None else ffi.new("uint8_t[32]", decode_key(peer.preshared_key))
        )
        c.preshared_key = psk
        c.allowed_ips, c.allowed_ip_count = strings.many(peer.allowed_ips)
        c.endpoint = strings.one(endpoint)
        c.persistent_keepalive = peer.persistent_keepalive or 0
        try:
            _check(offer(self._handle, c))
        finally:
            if psk != ffi.NULL:
                ffi.memmove(psk, bytes(32), 32)

    def remove_wg_peer(self, public_key: str) -> None:
        """Raises NotFoundError, and InvalidStateError for a client's key."""
        _check(lib.sv_hub_remove_wg_peer(self._handle, decode_key(public_key)))

    def wg_peers(self, public_key: str | None = None) -> list[WgPeer]:
        """The WireGuard peer with this key, or all, clients included.

        Raises InvalidStateError without WireGuard, NotFoundError.
        """
        wanted = ffi.NULL if public_key is None else ffi.new("uint8_t[32]", decode_key(public_key))
        count, ip_count = ffi.new("size_t *"), ffi.new("size_t *")
        capacity, ip_capacity = _SESSIONS_AT_ONCE, 4 * _SESSIONS_AT_ONCE
        while True:
            infos = ffi.new("sv_wg_peer_info[]", capacity)
            ips = ffi.new("char[][64]", ip_capacity)
            with self._looking:
                status = lib.sv_hub_wg_peers(
                    self._handle, wanted, infos, capacity, count, ips, ip_capacity, ip_count
                )
            _check(status)
            if count[0] <= capacity and ip_count[0] <= ip_capacity:
                return [_wg_peer(infos[index], ips) for index in range(count[0])]
            capacity = count[0] + _SESSIONS_AT_ONCE
            ip_capacity = ip_count[0] + _SESSIONS_AT_ONCE

    def put_client(
        self, entry: ClientEntry, *, assigned_ip: str | None, agreed: bool = False
    ) -> tuple[str, str | None]:
        """Add the client or replace its entry; its address and IPv6 address come back.

        `agreed`: it was checked and written, its address is its own or held. Where it cannot be put even so,
        the client is taken out, and the address is held.
        Raises ConflictError for a key or address of another, PoolExhaustedError, ConfigError.
        """
        strings = _Strings()
        c = _client_entry(entry, strings)
        c.assigned_ip, c.agreed = strings.one(assigned_ip), agreed
        addr4, addr6 = ffi.new("char[64]"), ffi.new("char[64]")
        _check(lib.sv_hub_put_client(self._handle, c, addr4, addr6))
        return _text(addr4), _text(addr6) or None

    def check_client(self, entry: ClientEntry) -> None:
        """Raise what `put_client` would raise, its address apart; changes nothing."""
        strings = _Strings()
        _check(lib.sv_hub_check_client(self._handle, _client_entry(entry, strings)))

    def hold_address(self, assigned_ip: str) -> None:
        """Keep a free address from being given to a client. Raises ConflictError, ConfigError."""
        _check(lib.sv_hub_hold_address(self._handle, assigned_ip.encode()))

    def release_address(self, assigned_ip: str) -> None:
        """Give back an address that is held."""
        lib.sv_hub_release_address(self._handle, assigned_ip.encode())

    def remove_client(self, client_id: str, code: Disconnect = Disconnect.REMOVED) -> None:
        """End its sessions and forget it. Raises NotFoundError."""
        _check(lib.sv_hub_remove_client(self._handle, client_id.encode(), code))

    def disconnect(self, client_id: str, session_id: str | None, code: Disconnect) -> None:
        """End one session, or all. Raises NotFoundError."""
        raw = ffi.NULL if session_id is None else _session_bytes(session_id)
        _check(lib.sv_hub_disconnect(self._handle, client_id.encode(), raw, code))

    def set_rate_limit(self, client_id: str, limit: RateLimit | None) -> None:
        """At run time; None is unlimited. Raises NotFoundError."""
        rate, burst = (0, 0) if limit is None else (limit.bytes_per_sec, limit.burst_bytes)
        _check(lib.sv_hub_set_rate_limit(self._handle, client_id.encode(), rate, burst))

    def totals(self, client_id: str | None = None) -> list[ClientCounters]:
        """Counters since `open`: of one client, or of all that may have counted since the last such call.

        Raises NotFoundError.
        """
        wanted = ffi.NULL if client_id is None else ffi.new("char[]", client_id.encode())
        count = ffi.new("size_t *")
        capacity = _SESSIONS_AT_ONCE if client_id is None else 1
        while True:
            infos = ffi.new("sv_client_totals[]", capacity)
            with self._looking:
                status = lib.sv_hub_totals(self._handle, wanted, infos, capacity, count)
            _check(status)
            if count[0] <= capacity:
                return [_counters(infos[index]) for index in range(count[0])]
            capacity = count[0] + _SESSIONS_AT_ONCE

    def sessions(self, client_id: str | None = None) -> list[Session]:
        """The live sessions, of one client or of all. Raises NotFoundError."""
        wanted = ffi.NULL if client_id is None else ffi.new("char[]", client_id.encode())
        count = ffi.new("size_t *")
        capacity = _SESSIONS_AT_ONCE if client_id is None else _SESSIONS_OF_ONE
        while True:
            infos = ffi.new("sv_session_info[]", capacity)
            with self._looking:
                status = lib.sv_hub_sessions(self._handle, wanted, infos, capacity, count)
            _check(status)
            if count[0] <= capacity:
                return [_session(infos[index]) for index in range(count[0])]
            capacity = count[0] + _SESSIONS_AT_ONCE

    def require_client(self, client_id: str) -> None:
        """Raises NotFoundError."""
        self.totals(client_id)

    def require_session(self, client_id: str, session_id: str | None) -> None:
        """Raise what `disconnect` would raise; changes nothing."""
        wanted = None if session_id is None else _session_bytes(session_id).hex()
        if not any(wanted in (None, session.session_id) for session in self.sessions(client_id)):
            raise NotFoundError(f"client '{client_id}' has no such session")


def _client_entry(entry: ClientEntry, strings: _Strings) -> Any:
    """A `sv_client_entry` without an address, alive as long as `strings`."""
    c = ffi.new("sv_client_entry *")
    c.client_id = strings.one(entry.client_id)
    _put_key(c.public_key, entry.public_key)
    _put_key(c.wg_public_key, entry.wg_public_key)
    c.disabled = not entry.enabled
    c.expires_at = 0 if entry.expires_at is None else max(1, int(entry.expires_at.timestamp()))
    c.max_connections = entry.security.max_connections
    c.priority = entry.priority
    limit = entry.security.rate_limit
    if limit is not None:
        c.bytes_per_sec, c.burst_bytes = limit.bytes_per_sec, limit.burst_bytes
    security = entry.security
    c.source_allow, c.source_allow_count = strings.many(security.ip_allow_list)
    c.source_deny, c.source_deny_count = strings.many(security.ip_block_list)
    c.destination_allow, c.destination_allow_count = strings.many(security.destination_allow_list)
    c.destination_deny, c.destination_deny_count = strings.many(security.destination_block_list)
    return c


def _session_bytes(session_id: str) -> bytes:
    try:
        raw = bytes.fromhex(session_id)
    except ValueError:
        raw = b""
    if len(raw) != 16:
        raise ConfigError("sessionId", "is no session id")
    return raw


def _wg_peer(info: Any, ips: Any) -> WgPeer:
    mine = range(info.first_allowed_ip, info.first_allowed_ip + info.allowed_ip_count)
    return WgPeer(
        public_key=encode_key(bytes(ffi.buffer(info.public_key))),
        client_id=_text(info.client_id),
        endpoint=_text(info.endpoint) or None,
        persistent_keepalive=info.persistent_keepalive,
        allowed_ips=tuple(_text(ips[index]) for index in mine),
        bytes_sent=info.bytes_sent,
        bytes_received=info.bytes_received,
        packets_sent=info.packets_sent,
        packets_received=info.packets_received,
        last_handshake=_when(info.last_handshake),
    )


def _counters(info: Any) -> ClientCounters:
    return ClientCounters(
        client_id=_text(info.client_id),
        totals=read.totals(info),
        rate_limit=read.rate_limit(info),
    )


def _session(info: Any) -> Session:
    since = _when(info.connected_since)
    assert since is not None
    return Session(
        client_id=_text(info.client_id),
        session_id=bytes(ffi.buffer(info.session_id)).hex(),
        public_key=encode_key(bytes(ffi.buffer(info.public_key))),
        assigned_ip=_text(info.assigned_ip),
        assigned_ip6=_text(info.assigned_ip6) or None,
        remote_addr=_text(info.remote_addr),
        transport=TRANSPORTS[info.transport],
        connected_since=since,
        last_keepalive_at=_when(info.last_keepalive),
        bytes_sent=info.bytes_sent,
        bytes_received=info.bytes_received,
        keepalives_received=info.keepalives_received,
        packets_dropped=info.packets_dropped,
        bytes_dropped=info.bytes_dropped,
        rate_limit=read.rate_limit(info),
        drops=read.drops(info.drops),
        quality=read.quality(info.quality),
    )


class NativeClient(_Engine):
    """A client's engine."""

    @classmethod
    def open(
        cls,
        config: ClientConfig,
        *,
        instance: bytes,
        websocket_first: bool = False,
        tun_name: str | None = None,
    ) -> Self:
        """Make the device and begin to connect; events tell the rest. Raises SmartVpnError with words."""
        strings = _Strings()
        c = ffi.new("sv_client_config *")
        c.transport = _CLIENT_TRANSPORTS[config.transport]
        if config.transport is not Transport.QUIC:
            url = config.websocket_url()
            c.server_url = strings.one(f"{url.scheme}://{url.authority}{url.path}")
        if config.transport is not Transport.WEBSOCKET:
            c.quic_addr = strings.one(join_host_port(*config.quic_endpoint()))
        c.websocket_first = websocket_first
        _put_key(c.server_key, config.server_public_key)
        _put_key(c.private_key, str(config.client_private_key))
        ffi.memmove(c.instance, instance, 16)
        pin = None if config.server_cert_hash is None else decode_key(config.server_cert_hash)
        pinned = ffi.NULL if pin is None else ffi.new("uint8_t[32]", pin)
        c.cert_hash = pinned
        c.cert_hash_strict = config.transport is not Transport.AUTO
        c.mtu = config.mtu or 0
        c.keepalive_secs = config.keepalive_interval_secs or 0
        c.tun_name = strings.one(tun_name)
        out = ffi.new("sv_engine **")
        try:
            _check(lib.sv_client_open(out, c))
        finally:
            _wipe(c)
        return cls(out[0])

    @property
    def state(self) -> TunnelState:
        """How far the tunnel is."""
        return list(TunnelState)[int(lib.sv_client_get_state(self._handle))]

    def settings(self) -> TunnelSettings:
        """What the hub gave. Raises InvalidStateError before it did."""
        s = ffi.new("sv_client_settings *")
        _check(lib.sv_client_get_settings(self._handle, s))
        since = _when(s.connected_since)
        assert since is not None
        return TunnelSettings(
            address=_text(s.address),
            address6=_text(s.address6) or None,
            gateway=_text(s.gateway) or None,
            gateway6=_text(s.gateway6) or None,
            server_addr=_text(s.server_addr),
            mtu=s.mtu,
            dns=tuple(_text(s.dns[index]) for index in range(s.dns_count)),
            routes=tuple(_text(s.routes[index]) for index in range(s.route_count)),
            connected_since=since,
            handshake_ms=s.handshake_ms,
            transport=TRANSPORTS[s.transport],
        )

    def quality(self) -> ConnectionQuality | None:
        """The link's measurements; None before the first."""
        info = ffi.new("sv_quality_info *")
        _check(lib.sv_client_get_quality(self._handle, info))
        return read.quality(info)

    def mtu(self) -> MtuInfo:
        """How large a packet may be, and why."""
        info = ffi.new("sv_mtu_info *")
        _check(lib.sv_client_get_mtu(self._handle, info))
        return read.mtu(info)


class NativeWireGuard(_Engine):
    """A WireGuard device."""

    @classmethod
    def open(cls, *, mtu: int, tun_name: str | None = None) -> Self:
        """Make the device and bring it up; it has no key and no peer yet. Raises SmartVpnError with words."""
        strings = _Strings()
        c = ffi.new("sv_wg_config *")
        c.tun_name = strings.one(tun_name or "svpn%d")
        c.mtu = mtu
        c.workers = 1
        out = ffi.new("sv_engine **")
        _check(lib.sv_wg_open(out, c))
        return cls(out[0])

    def set(self, text: str) -> None:
        """Lines of the cross-platform configuration interface. Raises NativeError."""
        status = lib.sv_wg_set(self._handle, text.encode(), len(text))
        if status:
            raise NativeError(status, f"the WireGuard device refuses its settings: {os.strerror(-status)}")

    def connect(self) -> None:
        """Begin a handshake with the peer."""
        _check(lib.sv_wg_connect(self._handle))
