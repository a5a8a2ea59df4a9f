"""What users configure: frozen classes that cannot hold a wrong value.

Python names are snake_case, JSON names the same in camelCase. Every wrong field raises
ConfigError with its JSON path. Secrets never appear in `repr()`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum

from attrs import Factory, evolve, field, frozen

from smartvpn import _fields as check
from smartvpn._address import (
    ServerUrl,
    parse_endpoint,
    parse_listen,
    parse_public_host,
    parse_server_url,
)
from smartvpn._fields import each, integer, optional, valid
from smartvpn.errors import ConfigError
from smartvpn.keys import PrivateKey

MIN_MTU = 576
MIN_MTU_IPV6 = 1280
MAX_MTU = 65000
MIN_BURST_BYTES = 16_000
MIN_REKEY_SECS = 20
DEFAULT_PRIORITY = 100
DEFAULT_REGISTRY = "/var/lib/smartvpn/registry.db"

_MTU = integer(MIN_MTU, MAX_MTU)
_SECONDS = integer(1, check.UINT16_MAX)
_BYTES = integer(1)
_PATTERNS = each(check.pattern, check.MAX_PATTERNS)


class TransportMode(StrEnum):
    """What a hub listens on; `both` is WebSocket and QUIC, `all` adds WireGuard."""

    WEBSOCKET = "websocket"
    QUIC = "quic"
    BOTH = "both"
    WIREGUARD = "wireguard"
    ALL = "all"

    @property
    def websocket(self) -> bool:
        """Whether WebSocket is served."""
        return self in (TransportMode.WEBSOCKET, TransportMode.BOTH, TransportMode.ALL)

    @property
    def quic(self) -> bool:
        """Whether QUIC is served."""
        return self in (TransportMode.QUIC, TransportMode.BOTH, TransportMode.ALL)

    @property
    def wireguard(self) -> bool:
        """Whether WireGuard is served."""
        return self in (TransportMode.WIREGUARD, TransportMode.ALL)


class Transport(StrEnum):
    """What a client connects with; `auto` tries QUIC, then WebSocket."""

    AUTO = "auto"
    WEBSOCKET = "websocket"
    QUIC = "quic"
    WIREGUARD = "wireguard"


class WgBackend(StrEnum):
    """Who carries a hub's WireGuard: this library, or the kernel where it can."""

    AUTO = "auto"
    KERNEL = "kernel"
    USERSPACE = "userspace"


def _transport_mode(value: str) -> TransportMode:
    return check.choice(TransportMode, value)


def _wg_backend(value: str) -> WgBackend:
    return check.choice(WgBackend, value)


def _transport(value: str) -> Transport:
    return check.choice(Transport, value)


def _matching_keys(private_key: str | None, public_key: str | None, name: str) -> None:
    if private_key is None or public_key is None:
        return
    if PrivateKey(private_key).public_key.base64 != public_key:
        raise ConfigError(name, "does not belong to the private key")


def _required(config: object, reason: str, *names: str) -> None:
    for name in names:
        if getattr(config, name) is None:
            raise ConfigError(check.camel_case(name), reason)


@frozen(kw_only=True)
class RateLimit:
    """A token bucket, for each direction of a client on its own."""

    bytes_per_sec: int = field(validator=valid(_BYTES))
    burst_bytes: int = field(validator=valid(_BYTES))

    @classmethod
    def of(cls, bytes_per_sec: int, burst_bytes: int | None = None) -> RateLimit:
        """A limit whose burst, when left out, is a tenth of a second's bytes, 16 KB at least."""
        burst = max(bytes_per_sec // 10, MIN_BURST_BYTES) if burst_bytes is None else burst_bytes
        return cls(bytes_per_sec=bytes_per_sec, burst_bytes=burst)


@frozen(kw_only=True)
class ClientSecurity:
    """Where a client may connect from, where its packets may go, and how much.

    Patterns are addresses, CIDRs, wildcards `192.168.1.*` and ranges `1.1.1.1-1.1.1.100`. Deny
    overrides allow; an empty allow list allows all.
    """

    ip_allow_list: tuple[str, ...] = field(default=(), converter=check.strings, validator=_PATTERNS)
    ip_block_list: tuple[str, ...] = field(default=(), converter=check.strings, validator=_PATTERNS)
    destination_allow_list: tuple[str, ...] = field(default=(), converter=check.strings, validator=_PATTERNS)
    destination_block_list: tuple[str, ...] = field(default=(), converter=check.strings, validator=_PATTERNS)
    max_connections: int = field(default=1, validator=valid(integer(1, check.UINT16_MAX)))
    rate_limit: RateLimit | None = field(default=None, validator=optional(check.instance(RateLimit)))

    @property
    def pattern_count(self) -> int:
        """How long its lists are together."""
        sources = len(self.ip_allow_list) + len(self.ip_block_list)
        return sources + len(self.destination_allow_list) + len(self.destination_block_list)


@frozen(kw_only=True)
class ClientEntry:
    """A client as the registry holds it; public halves of keys only."""

    client_id: str = field(validator=valid(check.client_id))
    public_key: str = field(validator=valid(check.public_key))
    wg_public_key: str = field(validator=valid(check.public_key))
    security: ClientSecurity = field(
        default=Factory(ClientSecurity), validator=valid(check.instance(ClientSecurity))
    )
    priority: int = field(default=DEFAULT_PRIORITY, validator=valid(integer(0, check.UINT16_MAX)))
    enabled: bool = field(default=True, validator=valid(check.boolean))
    tags: tuple[str, ...] = field(default=(), converter=check.strings, validator=each(check.name))
    description: str | None = field(default=None, validator=optional(check.text))
    expires_at: datetime | None = field(default=None, converter=check.utc, validator=optional(check.moment))
    assigned_ip: str = field(validator=valid(check.ipv4))
    assigned_ip6: str | None = field(
        default=None, converter=check.canonical_address, validator=optional(check.ipv6)
    )

    def expired(self, now: datetime) -> bool:
        """Whether its time is over at `now`, a time with a zone."""
        return self.expires_at is not None and self.expires_at <= now


@frozen(kw_only=True)
class WgPeerConfig:
    """A WireGuard peer that is no client of the registry, such as a router."""

    public_key: str = field(validator=valid(check.public_key))
    preshared_key: str | None = field(default=None, repr=False, validator=optional(check.key))
    allowed_ips: tuple[str, ...] = field(converter=check.strings, validator=each(check.address_or_network))
    endpoint: str | None = field(default=None, validator=optional(check.endpoint))
    persistent_keepalive: int | None = field(default=None, validator=optional(integer(0, check.UINT16_MAX)))


def _rekey_secs(value: object) -> None:
    integer(0, check.UINT32_MAX)(value)
    if isinstance(value, int) and 0 < value < MIN_REKEY_SECS:
        raise ValueError(f"{value} is neither 0 (never) nor at least {MIN_REKEY_SECS}")


@frozen(kw_only=True)
class ServerConfig:
    """A hub. Seconds are whole seconds, rates are bytes a second, keys are base64.

    `listen_addr` may be absent in mode `wireguard` only. Without `tls_cert` and `tls_key` (PEM
    text or path) WebSocket is plain, for use behind a proxy.
    """

    listen_addr: str | None = field(default=None, validator=optional(check.listen))
    private_key: str = field(repr=False, validator=valid(check.key))
    public_key: str = field(validator=valid(check.public_key))
    subnet: str = field(validator=valid(check.subnet))
    subnet6: str | None = field(default=None, validator=optional(check.subnet6))
    tls_cert: str | None = field(default=None, repr=False, validator=optional(check.filled))
    tls_key: str | None = field(default=None, repr=False, validator=optional(check.filled))
    dns: tuple[str, ...] = field(default=(), converter=check.strings, validator=each(check.address))
    mtu: int = field(default=1420, validator=valid(_MTU))
    keepalive_interval_secs: int = field(default=60, validator=valid(_SECONDS))
    enable_nat: bool = field(default=False, validator=valid(check.boolean))
    transport_mode: TransportMode = field(
        default=TransportMode.WEBSOCKET,
        converter=_transport_mode,
        validator=valid(check.member(TransportMode)),
    )
    quic_listen_addr: str | None = field(default=None, validator=optional(check.listen))
    quic_idle_timeout_secs: int = field(default=30, validator=valid(_SECONDS))
    default_rate_limit_bytes_per_sec: int | None = field(default=None, validator=optional(_BYTES))
    default_burst_bytes: int | None = field(default=None, validator=optional(_BYTES))
    wg_listen_port: int = field(default=51820, validator=valid(integer(0, check.UINT16_MAX)))
    wg_private_key: str | None = field(default=None, repr=False, validator=optional(check.key))
    wg_peers: tuple[WgPeerConfig, ...] = field(
        default=(), converter=check.items, validator=each(check.instance(WgPeerConfig))
    )
    wg_backend: WgBackend = field(
        default=WgBackend.USERSPACE,
        converter=_wg_backend,
        validator=valid(check.member(WgBackend)),
    )
    clients: tuple[ClientEntry, ...] = field(
        default=(), converter=check.items, validator=each(check.instance(ClientEntry))
    )
    registry: str = field(default=DEFAULT_REGISTRY, validator=valid(check.filled))
    server_endpoint: str | None = field(default=None, validator=optional(check.public_host))
    trusted_proxies: tuple[str, ...] = field(
        default=(), converter=check.strings, validator=each(check.address_or_network)
    )
    routes: tuple[str, ...] | None = field(
        default=None, converter=check.optional_strings, validator=each(check.network)
    )
    rekey_secs: int = field(default=3600, validator=valid(_rekey_secs))
    resume_lifetime_secs: int = field(default=300, validator=valid(integer(0, check.UINT32_MAX)))
    allow_host_access: bool = field(default=True, validator=valid(check.boolean))

    def __attrs_post_init__(self) -> None:
        _check_server(self)

    def hub_address(self) -> ipaddress.IPv4Interface:
        """The hub's own address, the subnet's first, with the subnet's prefix length."""
        network = ipaddress.IPv4Network(self.subnet)
        return ipaddress.IPv4Interface((network.network_address + 1, network.prefixlen))

    def hub_address6(self) -> ipaddress.IPv6Interface | None:
        """The hub's own IPv6 address, or None without `subnet6`."""
        if self.subnet6 is None:
            return None
        network = ipaddress.IPv6Network(self.subnet6)
        return ipaddress.IPv6Interface((network.network_address + 1, network.prefixlen))

    def client_address6(self, assigned_ip: str) -> str | None:
        """The IPv6 address that goes with `assigned_ip`: the same place in `subnet6`, or None."""
        address, subnet = ipaddress.IPv4Address(assigned_ip), ipaddress.IPv4Network(self.subnet)
        if self.subnet6 is None or address not in subnet:
            return None
        place = int(address) - int(subnet[0])
        return str(ipaddress.IPv6Network(self.subnet6)[place])

    def listen_endpoint(self) -> tuple[str, int] | None:
        """Host and port of `listen_addr`, the host without brackets; None when absent."""
        return None if self.listen_addr is None else parse_listen(self.listen_addr)

    def quic_listen_endpoint(self) -> tuple[str, int] | None:
        """Host and port that QUIC listens on: `quic_listen_addr`, else `listen_addr`."""
        return (
            self.listen_endpoint() if self.quic_listen_addr is None else parse_listen(self.quic_listen_addr)
        )

    def public_endpoint(self) -> tuple[str, int | None] | None:
        """The host, and port if it was given, that client configs name.

        `server_endpoint`, else the host of `listen_addr`; None when that is a wildcard or absent,
        and the outward address must be found out.
        """
        if self.server_endpoint is not None:
            return parse_public_host(self.server_endpoint)
        listen = self.listen_endpoint()
        if listen is None or listen[0] in ("0.0.0.0", "::"):
            return None
        return listen[0], None

    def client_routes(self) -> tuple[str, ...]:
        """What clients send into the tunnel: `routes`, else everything with NAT, else the subnets."""
        if self.routes is not None:
            return self.routes
        if self.enable_nat:
            return ("0.0.0.0/0",) if self.subnet6 is None else ("0.0.0.0/0", "::/0")
        return (self.subnet,) if self.subnet6 is None else (self.subnet, self.subnet6)

    def default_rate_limit(self) -> RateLimit | None:
        """The limit of a client that has none of its own; None is unlimited."""
        if self.default_rate_limit_bytes_per_sec is None:
            return None
        return RateLimit.of(self.default_rate_limit_bytes_per_sec, self.default_burst_bytes)

    def configured_wg_private_key(self) -> str | None:
        """The hub's WireGuard key where the config has one; None when it is to be made and kept."""
        if self.wg_private_key is None and self.transport_mode is TransportMode.WIREGUARD:
            return self.private_key
        return self.wg_private_key


def _check_server(config: ServerConfig) -> None:
    if config.transport_mode is not TransportMode.WIREGUARD:
        _required(config, "is required in every mode but wireguard", "listen_addr")
    _matching_keys(config.private_key, config.public_key, "publicKey")
    if config.tls_cert is not None:
        _required(config, "is required together with tlsCert", "tls_key")
    if config.tls_key is not None:
        _required(config, "is required together with tlsKey", "tls_cert")
    _check_subnet6(config)
    _check_clients(config)
    _unique(config.wg_peers, "wgPeers", "public_key")


def _check_subnet6(config: ServerConfig) -> None:
    if config.subnet6 is None:
        return
    host_bits = 32 - ipaddress.IPv4Network(config.subnet).prefixlen
    host_bits6 = 128 - ipaddress.IPv6Network(config.subnet6).prefixlen
    if host_bits6 < host_bits:
        raise ConfigError("subnet6", f"has {host_bits6} host bits, fewer than the {host_bits} of subnet")
    if config.mtu < MIN_MTU_IPV6:
        raise ConfigError("mtu", f"{config.mtu} is below {MIN_MTU_IPV6}, which IPv6 (subnet6) needs")


def _check_clients(config: ServerConfig) -> None:
    network, hub = ipaddress.IPv4Network(config.subnet), config.hub_address().ip
    taken = (network.network_address, network.broadcast_address, hub)
    for index, client in enumerate(config.clients):
        address = ipaddress.IPv4Address(client.assigned_ip)
        if address not in network or address in taken:
            raise ConfigError(f"clients[{index}].assignedIp", f"{address} is no client address of {network}")
        _check_client6(config, client, f"clients[{index}].assignedIp6")
    for name in ("client_id", "public_key", "wg_public_key", "assigned_ip"):
        _unique(config.clients, "clients", name)


def _check_client6(config: ServerConfig, client: ClientEntry, path: str) -> None:
    if client.assigned_ip6 is None:
        return
    expected = config.client_address6(client.assigned_ip)
    if expected is None:
        raise ConfigError(path, "needs subnet6")
    if ipaddress.IPv6Address(client.assigned_ip6) != ipaddress.IPv6Address(expected):
        raise ConfigError(path, f"expected {expected}, which goes with {client.assigned_ip}")


def _unique(items: Iterable[object], path: str, name: str) -> None:
    seen: dict[object, int] = {}
    for index, item in enumerate(items):
        earlier = seen.setdefault(getattr(item, name), index)
        if earlier != index:
            raise ConfigError(
                f"{path}[{index}].{check.camel_case(name)}", f"is that of {path}[{earlier}] too"
            )


@frozen(kw_only=True)
class ClientConfig:
    """A client's side of the tunnel.

    A config without its secrets is a valid value (the hub exports such ones); `require_secrets`
    tells what is missing before a connection. None means: take what the hub says.
    """

    server_url: str | None = field(default=None, validator=optional(check.server_url))
    quic_server_url: str | None = field(default=None, validator=optional(check.endpoint))
    server_public_key: str = field(validator=valid(check.public_key))
    client_private_key: str | None = field(default=None, repr=False, validator=optional(check.key))
    client_public_key: str | None = field(default=None, validator=optional(check.public_key))
    transport: Transport = field(
        default=Transport.AUTO,
        converter=_transport,
        validator=valid(check.member(Transport)),
    )
    server_cert_hash: str | None = field(default=None, validator=optional(check.cert_hash))
    dns: tuple[str, ...] | None = field(
        default=None, converter=check.optional_strings, validator=each(check.address)
    )
    mtu: int | None = field(default=None, validator=optional(_MTU))
    keepalive_interval_secs: int | None = field(default=None, validator=optional(_SECONDS))
    routes: tuple[str, ...] | None = field(
        default=None, converter=check.optional_strings, validator=each(check.network)
    )
    wg_private_key: str | None = field(default=None, repr=False, validator=optional(check.key))
    wg_address: str | None = field(default=None, validator=optional(check.ipv4))
    wg_address6: str | None = field(default=None, validator=optional(check.ipv6))
    wg_address_prefix: int = field(default=24, validator=valid(integer(0, 32)))
    wg_preshared_key: str | None = field(default=None, repr=False, validator=optional(check.key))
    wg_persistent_keepalive: int | None = field(
        default=None, validator=optional(integer(0, check.UINT16_MAX))
    )
    wg_endpoint: str | None = field(default=None, validator=optional(check.endpoint))
    wg_allowed_ips: tuple[str, ...] | None = field(
        default=None, converter=check.optional_strings, validator=each(check.address_or_network)
    )

    def __attrs_post_init__(self) -> None:
        if self.transport is Transport.WIREGUARD:
            _required(self, "is required with transport wireguard", "wg_address", "wg_endpoint")
        else:
            _required(self, f"is required with transport {self.transport}", "server_url")
        _matching_keys(self.client_private_key, self.client_public_key, "clientPublicKey")

    def require_secrets(self) -> None:
        """Raise ConfigError for a key that connecting needs and the config leaves out."""
        if self.transport is Transport.WIREGUARD:
            _required(self, "is required with transport wireguard", "wg_private_key")
        else:
            names = "client_private_key", "client_public_key"
            _required(self, f"is required with transport {self.transport}", *names)

    def without_secrets(self) -> ClientConfig:
        """The same config without private and preshared keys."""
        return evolve(self, client_private_key=None, wg_private_key=None, wg_preshared_key=None)

    def url(self) -> ServerUrl:
        """`server_url` in parts. Raises ConfigError when there is none."""
        _required(self, "is required", "server_url")
        return parse_server_url(str(self.server_url))

    def websocket_url(self) -> ServerUrl:
        """Where WebSocket connects: the URL, or `wss` at a bare host and port."""
        url = self.url()
        return evolve(url, scheme="wss") if url.scheme == "quic" else url

    def quic_endpoint(self) -> tuple[str, int]:
        """Host and port where QUIC connects: `quic_server_url`, else those of the URL."""
        if self.quic_server_url is not None:
            return parse_endpoint(self.quic_server_url)
        url = self.url()
        return url.host, url.port
