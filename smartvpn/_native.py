"""The only way to the C extension: engines, and what else the library does.

Its parts, which nobody else uses: `_native_write` makes C's structs of ours, `_native_read` ours of C's,
`_native_status` exceptions of statuses. Calls return soon, but `open` and `close`, and those that list all
sessions, counters or peers of a hub: they belong on a thread. `close` waits for those that only look.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, Self

from smartvpn import _native_read as read, _native_write as write
from smartvpn._core import ffi, lib
from smartvpn._native_status import check, check_open, error_of as error_of
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
from smartvpn._native_write import pem_text as pem_text
from smartvpn.config import ClientConfig, ClientEntry, RateLimit, ServerConfig, WgPeerConfig
from smartvpn.errors import InvalidStateError, NativeError, NotFoundError
from smartvpn.keys import decode_key
from smartvpn.types import ConnectionQuality, MtuInfo, TunnelState

_SESSIONS_AT_ONCE = 256
_SESSIONS_OF_ONE = 4


class Capability(IntEnum):
    """Rights of a process, capabilities(7)."""

    DAC_OVERRIDE = lib.SV_CAP_DAC_OVERRIDE
    NET_BIND_SERVICE = lib.SV_CAP_NET_BIND_SERVICE
    NET_ADMIN = lib.SV_CAP_NET_ADMIN


def drop_privileges(user: int, group: int, keep: Iterable[Capability]) -> None:
    """Become user and group, unless the user is 0, and keep of all capabilities only those; for good.

    Before any thread is started. Raises PermissionDeniedError.
    """
    check(lib.sv_process_drop_privileges(user, group, sum(1 << capability for capability in set(keep))))


def aead_name() -> str:
    """The ciphers that are offered on this machine, and which library does them."""
    return read.text(lib.sv_engine_aead())


def has_quic() -> bool:
    """Whether this build has QUIC."""
    return bool(lib.sv_engine_has_quic())


def overhead_bytes(transport: str, outer_ip_version: int) -> int:
    """What `websocket`, `quic` or `wireguard` adds to a packet, the outer IP header included."""
    [number] = [number for number, name in read.TRANSPORTS.items() if name == transport]
    return int(lib.sv_mtu_overhead(number, outer_ip_version == 6))


def make_certificate() -> tuple[str, str]:
    """A new self-signed certificate and its key, PEM texts. Raises NativeError without QUIC."""
    certificate, key = ffi.new("char[]", lib.SV_PEM_SIZE), ffi.new("char[]", lib.SV_PEM_SIZE)
    check(lib.sv_make_certificate(certificate, key))
    texts = read.text(certificate), read.text(key)
    write.wipe(key)
    return texts


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
        return read.text(lib.sv_engine_tun_name(self._handle))

    def next_event(self) -> NativeEvent | None:
        """The oldest event, or None."""
        event = ffi.new("sv_event *")
        if self._pointer is None or not lib.sv_engine_next_event(self._pointer, event):
            return None
        return read.event(event)

    def counters(self) -> Counters:
        """Sums since the start."""
        sums = ffi.new("sv_statistics *")
        with self._looking:
            lib.sv_engine_statistics(self._handle, sums)
        return read.counters(sums)

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

        Who comes is served from `begin` on, and waits until then.
        With `wg_kernel` the kernel carries WireGuard's packets; ConfigError naming `wgBackend` where it
        cannot. Raises SmartVpnError with words.
        """
        out = ffi.new("sv_engine **")
        with write.Memory() as memory:
            c = write.server_config(
                memory, config, wg_private_key=wg_private_key, quic=quic, wg_kernel=wg_kernel
            )
            c.workers, c.tun_name, c.begin_later = workers, memory.text(tun_name), True
            check_open(lib.sv_server_open(out, c), wg_kernel)
        return cls(out[0])

    def begin(self) -> None:
        """Serve, now that the clients are known."""
        check(lib.sv_server_begin(self._handle))

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
        with write.Memory() as memory:
            check(lib.sv_hub_put_wg_peer(self._handle, write.wg_peer_config(memory, peer, endpoint)))

    def check_wg_peer(self, peer: WgPeerConfig, endpoint: str | None) -> None:
        """Raise what `put_wg_peer` would raise; changes nothing."""
        with write.Memory() as memory:
            check(lib.sv_hub_check_wg_peer(self._handle, write.wg_peer_config(memory, peer, endpoint)))

    def remove_wg_peer(self, public_key: str) -> None:
        """Raises NotFoundError, and InvalidStateError for a client's key."""
        check(lib.sv_hub_remove_wg_peer(self._handle, decode_key(public_key)))

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
            check(status)
            if count[0] <= capacity and ip_count[0] <= ip_capacity:
                return [read.wg_peer(infos[index], ips) for index in range(count[0])]
            capacity = count[0] + _SESSIONS_AT_ONCE
            ip_capacity = ip_count[0] + _SESSIONS_AT_ONCE

    def put_client(
        self, entry: ClientEntry, *, assigned_ip: str | None, agreed: bool = False, limit_anew: bool = False
    ) -> tuple[str, str | None]:
        """Add the client or replace its entry; its address and IPv6 address come back.

        `agreed`: it was checked and written, its address is its own or held. Where it cannot be put even so,
        the client is taken out, and the address is held. `limit_anew`: what `set_rate_limit` said ends.
        Raises ConflictError for a key or address of another, PoolExhaustedError, ConfigError.
        """
        memory = write.Memory()
        c = write.client_entry(memory, entry)
        c.assigned_ip, c.agreed, c.limit_anew = memory.text(assigned_ip), agreed, limit_anew
        addr4, addr6 = ffi.new("char[64]"), ffi.new("char[64]")
        check(lib.sv_hub_put_client(self._handle, c, addr4, addr6))
        return read.text(addr4), read.text(addr6) or None

    def check_client(self, entry: ClientEntry) -> None:
        """Raise what `put_client` would raise, its address apart; changes nothing."""
        memory = write.Memory()
        check(lib.sv_hub_check_client(self._handle, write.client_entry(memory, entry)))

    def hold_address(self, assigned_ip: str) -> None:
        """Keep a free address from being given to a client. Raises ConflictError, ConfigError."""
        check(lib.sv_hub_hold_address(self._handle, assigned_ip.encode()))

    def release_address(self, assigned_ip: str) -> None:
        """Give back an address that is held."""
        lib.sv_hub_release_address(self._handle, assigned_ip.encode())

    def remove_client(self, client_id: str, code: Disconnect = Disconnect.REMOVED) -> None:
        """End its sessions and forget it. Raises NotFoundError."""
        check(lib.sv_hub_remove_client(self._handle, client_id.encode(), code))

    def disconnect(self, client_id: str, session_id: str | None, code: Disconnect) -> None:
        """End one session, or all. Raises NotFoundError."""
        raw = ffi.NULL if session_id is None else write.session_id(session_id)
        check(lib.sv_hub_disconnect(self._handle, client_id.encode(), raw, code))

    def set_rate_limit(self, client_id: str, limit: RateLimit | None) -> None:
        """At run time; None is unlimited. Raises NotFoundError."""
        rate, burst = (0, 0) if limit is None else (limit.bytes_per_sec, limit.burst_bytes)
        check(lib.sv_hub_set_rate_limit(self._handle, client_id.encode(), rate, burst))

    def totals(self, client_id: str | None = None) -> list[ClientCounters]:
        """Counters since `open`: of one client, or of all that may have counted since the last such call.

        Raises NotFoundError.
        """
        infos, count = self._listed(lib.sv_hub_totals, "sv_client_totals", client_id, of_one=1)
        return [read.client_counters(infos[index]) for index in range(count)]

    def sessions(self, client_id: str | None = None) -> list[Session]:
        """The live sessions, of one client or of all. Raises NotFoundError."""
        infos, count = self._listed(
            lib.sv_hub_sessions, "sv_session_info", client_id, of_one=_SESSIONS_OF_ONE
        )
        return [read.session(infos[index]) for index in range(count)]

    def _listed(self, listing: Any, struct: str, client_id: str | None, *, of_one: int) -> tuple[Any, int]:
        """C's structs, of one client or of all; asked again with more room where it was not enough."""
        wanted = ffi.NULL if client_id is None else ffi.new("char[]", client_id.encode())
        count = ffi.new("size_t *")
        capacity = _SESSIONS_AT_ONCE if client_id is None else of_one
        while True:
            infos = ffi.new(f"{struct}[]", capacity)
            with self._looking:
                status = listing(self._handle, wanted, infos, capacity, count)
            check(status)
            if count[0] <= capacity:
                return infos, count[0]
            capacity = count[0] + _SESSIONS_AT_ONCE

    def require_client(self, client_id: str) -> None:
        """Raises NotFoundError."""
        self.totals(client_id)

    def require_session(self, client_id: str, session_id: str | None) -> None:
        """Raise what `disconnect` would raise; changes nothing."""
        wanted = None if session_id is None else write.session_id(session_id).hex()
        if not any(wanted in (None, session.session_id) for session in self.sessions(client_id)):
            raise NotFoundError(f"client '{client_id}' has no such session")


class NativeClient(_Engine):
    """A client's engine."""

    @classmethod
    def open(
        cls,
        config: ClientConfig,
        *,
        instance: bytes,
        websocket_first: bool = False,
        handshake_secs: float = 0,
        tun_name: str | None = None,
    ) -> Self:
        """Make the device and begin to connect; events tell the rest. Raises SmartVpnError with words.

        An attempt is given up after `handshake_secs`; 0 is 10 s.
        """
        out = ffi.new("sv_engine **")
        with write.Memory() as memory:
            c = write.client_config(memory, config, instance=instance, websocket_first=websocket_first)
            c.tun_name = memory.text(tun_name)
            c.handshake_timeout_ms = round(handshake_secs * 1000)
            check(lib.sv_client_open(out, c))
        return cls(out[0])

    @property
    def state(self) -> TunnelState:
        """How far the tunnel is."""
        return list(TunnelState)[int(lib.sv_client_get_state(self._handle))]

    def settings(self) -> TunnelSettings:
        """What the hub gave. Raises InvalidStateError before it did."""
        info = ffi.new("sv_client_settings *")
        check(lib.sv_client_get_settings(self._handle, info))
        return read.tunnel_settings(info)

    def addresses(self) -> list[str]:
        """Where links to the hub go or may go: they have to stay outside of the tunnel."""
        info = ffi.new("sv_hub_addresses *")
        check(lib.sv_client_get_addresses(self._handle, info))
        return [read.text(info.list[index]) for index in range(info.count)]

    def offer(self, host: str, addresses: Iterable[str]) -> None:
        """Numeric addresses of a host that the engine looks up, in the order to try. Raises ConfigError."""
        memory = write.Memory()
        c, count = memory.texts(list(addresses))
        check(lib.sv_client_offer_addresses(self._handle, host.encode(), c, count))

    def quality(self) -> ConnectionQuality | None:
        """The link's measurements; None before the first."""
        info = ffi.new("sv_quality_info *")
        check(lib.sv_client_get_quality(self._handle, info))
        return read.quality(info)

    def mtu(self) -> MtuInfo:
        """How large a packet may be, and why."""
        info = ffi.new("sv_mtu_info *")
        check(lib.sv_client_get_mtu(self._handle, info))
        return read.mtu(info)


class NativeWireGuard(_Engine):
    """A WireGuard device."""

    @classmethod
    def open(cls, *, mtu: int, tun_name: str | None = None) -> Self:
        """Make the device and bring it up; it has no key and no peer yet. Raises SmartVpnError with words."""
        memory = write.Memory()
        c = ffi.new("sv_wg_config *")
        c.tun_name = memory.text(tun_name or "svpn%d")
        c.mtu = mtu
        c.workers = 1
        c.follow = True
        out = ffi.new("sv_engine **")
        check(lib.sv_wg_open(out, c))
        return cls(out[0])

    def set(self, text: str) -> None:
        """Lines of the cross-platform configuration interface. Raises NativeError."""
        status = lib.sv_wg_set(self._handle, text.encode(), len(text))
        if status:
            raise NativeError(status, f"the WireGuard device refuses its settings: {os.strerror(-status)}")

    def connect(self) -> None:
        """Begin a handshake with the peer."""
        check(lib.sv_wg_connect(self._handle))
