"""Configs as C's structs, alive as long as the memory they are in; secrets are wiped when it is left."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from smartvpn._address import join_host_port
from smartvpn._core import ffi, lib
from smartvpn._native_types import QuicIdentity
from smartvpn.config import ClientConfig, ClientEntry, ServerConfig, Transport, WgPeerConfig
from smartvpn.errors import ConfigError
from smartvpn.keys import decode_key

_CLIENT_TRANSPORTS = {
    Transport.AUTO: lib.SV_CLIENT_AUTO,
    Transport.WEBSOCKET: lib.SV_CLIENT_WEBSOCKET,
    Transport.QUIC: lib.SV_CLIENT_QUIC,
}


class Memory:
    """C strings, arrays and structs, alive as long as this object; `with` wipes those that hold secrets."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._secret: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for buffer in self._secret:
            wipe(buffer)

    def text(self, text: str | None) -> Any:
        """A string, NULL for None."""
        if text is None:
            return ffi.NULL
        buffer = ffi.new("char[]", text.encode())
        self._kept.append(buffer)
        return buffer

    def texts(self, texts: Iterable[str]) -> tuple[Any, int]:
        """An array of strings, and how many."""
        pointers = [self.text(text) for text in texts]
        array = ffi.new("char *[]", pointers)
        self._kept.append(array)
        return ffi.cast("const char *const *", array), len(pointers)

    def secret_text(self, text: str | None) -> Any:
        """A string that is wiped."""
        return ffi.NULL if text is None else self._wiped(ffi.new("char[]", text.encode()))

    def secret_bytes(self, raw: bytes | None) -> Any:
        """Bytes that are wiped, NULL for None."""
        return ffi.NULL if raw is None else self._wiped(ffi.new("uint8_t[]", raw))

    def secret_struct(self, name: str) -> Any:
        """A pointer to a zeroed struct that is wiped."""
        return self._wiped(ffi.new(f"{name} *"))

    def _wiped(self, buffer: Any) -> Any:
        self._secret.append(buffer)
        return buffer


def wipe(buffer: Any) -> None:
    """Zeroes over an array, or over what a pointer from `ffi.new` shows."""
    memory = ffi.buffer(buffer)
    memory[:] = bytes(len(memory))


def _put_key(target: Any, key: str) -> None:
    ffi.memmove(target, decode_key(key), 32)


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


def server_config(
    memory: Memory,
    config: ServerConfig,
    *,
    wg_private_key: str | None,
    quic: QuicIdentity | None,
    wg_kernel: bool,
) -> Any:
    """A `sv_server_config`, but for what is of this machine: the device's name, the workers."""
    c = memory.secret_struct("sv_server_config")
    _put_key(c.private_key, config.private_key)
    c.listen_addr = memory.text(config.listen_addr if config.transport_mode.websocket else None)
    _tls(memory, c, config)
    _network(memory, c, config)
    _sessions(c, config)
    if wg_private_key is not None:
        c.wireguard, c.wg_kernel = True, wg_kernel
        c.wg_listen_port = config.wg_listen_port
        _put_key(c.wg_private_key, wg_private_key)
    if quic is not None:
        c.quic_listen_addr = memory.text(config.quic_listen_addr or config.listen_addr)
        c.quic_cert, c.quic_key = memory.text(quic.certificate), memory.secret_text(quic.key)
        c.quic_idle_timeout_secs = config.quic_idle_timeout_secs
        c.quic_secret = memory.secret_bytes(quic.secret)
    return c


def _tls(memory: Memory, c: Any, config: ServerConfig) -> None:
    if config.tls_cert is not None:
        c.tls_cert = memory.text(pem_text("tlsCert", config.tls_cert))
    if config.tls_key is not None:
        c.tls_key = memory.secret_text(pem_text("tlsKey", config.tls_key))


def _network(memory: Memory, c: Any, config: ServerConfig) -> None:
    c.subnet, c.subnet6 = memory.text(config.subnet), memory.text(config.subnet6)
    c.dns, c.dns_count = memory.texts(config.dns)
    c.routes, c.route_count = memory.texts(config.client_routes())
    c.trusted_proxies, c.trusted_proxy_count = memory.texts(config.trusted_proxies)
    c.mtu = config.mtu
    c.deny_host_access = not config.allow_host_access


def _sessions(c: Any, config: ServerConfig) -> None:
    c.keepalive_secs = config.keepalive_interval_secs
    c.rekey_secs = config.rekey_secs or lib.SV_REKEY_NEVER
    c.resume_lifetime_secs = config.resume_lifetime_secs or lib.SV_RESUME_NEVER
    limit = config.default_rate_limit()
    if limit is not None:
        c.default_bytes_per_sec, c.default_burst_bytes = limit.bytes_per_sec, limit.burst_bytes


def client_config(memory: Memory, config: ClientConfig, *, instance: bytes, websocket_first: bool) -> Any:
    """A `sv_client_config`, but for the device's name."""
    c = memory.secret_struct("sv_client_config")
    c.transport = _CLIENT_TRANSPORTS[config.transport]
    if config.transport is not Transport.QUIC:
        url = config.websocket_url()
        c.server_url = memory.text(f"{url.scheme}://{url.authority}{url.path}")
    if config.transport is not Transport.WEBSOCKET:
        c.quic_addr = memory.text(join_host_port(*config.quic_endpoint()))
    c.websocket_first = websocket_first
    _put_key(c.server_key, config.server_public_key)
    _put_key(c.private_key, str(config.client_private_key))
    ffi.memmove(c.instance, instance, 16)
    pin = config.server_cert_hash
    c.cert_hash = memory.secret_bytes(None if pin is None else decode_key(pin))
    c.cert_hash_strict = config.transport is not Transport.AUTO
    c.mtu = config.mtu or 0
    c.keepalive_secs = config.keepalive_interval_secs or 0
    return c


def client_entry(memory: Memory, entry: ClientEntry) -> Any:
    """A `sv_client_entry` without an address."""
    c = ffi.new("sv_client_entry *")
    c.client_id = memory.text(entry.client_id)
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
    c.source_allow, c.source_allow_count = memory.texts(security.ip_allow_list)
    c.source_deny, c.source_deny_count = memory.texts(security.ip_block_list)
    c.destination_allow, c.destination_allow_count = memory.texts(security.destination_allow_list)
    c.destination_deny, c.destination_deny_count = memory.texts(security.destination_block_list)
    return c


def wg_peer_config(memory: Memory, peer: WgPeerConfig, endpoint: str | None) -> Any:
    """A `sv_wg_peer_config`; `endpoint` is numeric."""
    c = ffi.new("sv_wg_peer_config *")
    _put_key(c.public_key, peer.public_key)
    psk = peer.preshared_key
    c.preshared_key = memory.secret_bytes(None if psk is None else decode_key(psk))
    c.allowed_ips, c.allowed_ip_count = memory.texts(peer.allowed_ips)
    c.endpoint = memory.text(endpoint)
    c.persistent_keepalive = peer.persistent_keepalive or 0
    return c


def session_id(text: str) -> bytes:
    """16 bytes. Raises ConfigError."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != 16:
        raise ConfigError("sessionId", "is no session id")
    return raw
