"""What commands answer with: frozen classes, field for field the types of the JSON protocol.

Times are `datetime` in UTC, counters integers, `…_ms` milliseconds with a fraction,
`loss_ratio` 0 to 1. A field that is None was left out of the JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any, Final, TypeAlias, TypeVar

from attrs import Attribute, AttrsInstance, evolve, field, fields_dict, frozen

from smartvpn import _fields as check
from smartvpn._fields import optional, valid
from smartvpn.config import ClientConfig, ClientEntry, ClientSecurity, RateLimit, Transport
from smartvpn.errors import ConfigError
from smartvpn.keys import NOBODYS_KEY, PrivateKey


class Unset(Enum):
    """The type of UNSET: a field of an update that is to be kept as it is."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET


class TunnelState(StrEnum):
    """How far a tunnel is."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    HANDSHAKING = "handshaking"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    ERROR = "error"


class LinkHealth(StrEnum):
    """The keepalive's verdict on a link."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    CRITICAL = "critical"


class ExportFormat(StrEnum):
    """The two forms of a client's config."""

    SMARTVPN = "smartvpn"
    WIREGUARD = "wireguard"


def _tunnel_state(value: str) -> TunnelState:
    return check.choice(TunnelState, value)


def _link_health(value: str) -> LinkHealth:
    return check.choice(LinkHealth, value)


def _transport(value: str) -> Transport:
    return check.choice(Transport, value)


@frozen(kw_only=True)
class Keypair:
    """An X25519 key pair in base64."""

    public_key: str = field(validator=valid(check.public_key))
    private_key: str = field(repr=False, validator=valid(check.key))

    @classmethod
    def generate(cls) -> Keypair:
        """A fresh pair."""
        private = PrivateKey.generate()
        return cls(public_key=private.public_key.base64, private_key=private.base64)


@frozen(kw_only=True)
class ClientKeypairs:
    """A client's two pairs."""

    noise: Keypair
    wireguard: Keypair


@frozen(kw_only=True)
class BundleSecrets:
    """Private keys, shown once; None for a key that came from outside."""

    noise_private_key: str | None = field(default=None, repr=False, validator=optional(check.key))
    wg_private_key: str | None = field(default=None, repr=False, validator=optional(check.key))


@frozen(kw_only=True)
class ConfigBundle:
    """All that a new client needs; the WireGuard text holds a secret too."""

    entry: ClientEntry
    smartvpn_config: ClientConfig
    wireguard_config: str = field(repr=False)
    secrets: BundleSecrets


@frozen(kw_only=True)
class Status:
    """The state of a hub or a tunnel."""

    state: TunnelState = field(converter=_tunnel_state, validator=valid(check.member(TunnelState)))
    assigned_ip: str | None = None
    assigned_ip6: str | None = None
    server_addr: str | None = None
    transport: str | None = None
    connected_since: datetime | None = field(default=None, converter=check.utc)
    last_error: str | None = None


@frozen(kw_only=True)
class ConnectionQuality:
    """The smoothed measurements of a link."""

    srtt_ms: float
    jitter_ms: float
    min_rtt_ms: float
    max_rtt_ms: float
    loss_ratio: float
    consecutive_timeouts: int
    link_health: LinkHealth = field(converter=_link_health, validator=valid(check.member(LinkHealth)))
    current_keepalive_interval_secs: int


@frozen(kw_only=True)
class Statistics:
    """Counters since the start."""

    bytes_sent: int
    bytes_received: int
    packets_sent: int
    packets_received: int
    keepalives_sent: int
    keepalives_received: int
    uptime_seconds: int
    quality: ConnectionQuality | None = None


@frozen(kw_only=True)
class ServerStatistics(Statistics):
    """Counters of a hub: all its clients together."""

    active_clients: int
    total_connections: int


@frozen(kw_only=True)
class MtuInfo:
    """How large a packet may be, and why. `effective_mtu` = `link_mtu` - `overhead_bytes`."""

    tun_mtu: int
    effective_mtu: int
    link_mtu: int
    overhead_bytes: int
    oversized_packets_dropped: int
    icmp_too_big_sent: int


@frozen(kw_only=True)
class ClientInfo:
    """A live session on the hub."""

    client_id: str
    session_id: str
    assigned_ip: str
    assigned_ip6: str | None = None
    transport: str
    remote_addr: str
    authenticated_key: str
    connected_since: datetime = field(converter=check.utc)
    bytes_sent: int
    bytes_received: int
    packets_dropped: int
    bytes_dropped: int
    last_keepalive_at: datetime | None = field(default=None, converter=check.utc)
    keepalives_received: int
    rate_limit_bytes_per_sec: int | None = None
    burst_bytes: int | None = None


@frozen(kw_only=True)
class DropCounters:
    """Dropped packets by cause: the three queues, the ACL, the rate limit."""

    high: int = 0
    normal: int = 0
    low: int = 0
    acl: int = 0
    rate_limit: int = 0


@frozen(kw_only=True)
class ClientTelemetry:
    """A client's counters and the quality of its link."""

    client_id: str
    assigned_ip: str
    last_keepalive_at: datetime | None = field(default=None, converter=check.utc)
    keepalives_received: int
    packets_dropped: int
    bytes_dropped: int
    bytes_received: int
    bytes_sent: int
    rate_limit_bytes_per_sec: int | None = None
    burst_bytes: int | None = None
    drops: DropCounters
    quality: ConnectionQuality | None = None


@frozen(kw_only=True)
class ClientTotals:
    """What was counted for a client over all its sessions. Bytes and packets are those inside the tunnel."""

    bytes_sent: int = 0
    bytes_received: int = 0
    packets_sent: int = 0
    packets_received: int = 0
    keepalives_received: int = 0
    packets_dropped: int = 0
    bytes_dropped: int = 0
    drops: DropCounters = field(factory=DropCounters)

    def __add__(self, other: ClientTotals) -> ClientTotals:
        return _combined(self, other, int.__add__)

    def above(self, other: ClientTotals) -> ClientTotals:
        """By how much each counter is greater than that of `other`; 0 where it is not."""
        return _combined(self, other, lambda mine, theirs: max(0, mine - theirs))


N = TypeVar("N", ClientTotals, DropCounters)


def _combined(one: N, two: N, combine: Callable[[int, int], int]) -> N:
    values: dict[str, Any] = {}
    for name in fields_dict(type(one)):
        mine, theirs = getattr(one, name), getattr(two, name)
        values[name] = combine(mine, theirs) if isinstance(mine, int) else _combined(mine, theirs, combine)
    return type(one)(**values)


@frozen(kw_only=True)
class WgPeerInfo:
    """A WireGuard peer and its live counters."""

    public_key: str
    allowed_ips: tuple[str, ...] = field(converter=check.strings)
    endpoint: str | None = None
    persistent_keepalive: int | None = None
    bytes_sent: int
    bytes_received: int
    packets_sent: int
    packets_received: int
    last_handshake_time: datetime | None = field(default=None, converter=check.utc)


@frozen(kw_only=True)
class ListenAddresses:
    """Where a hub listens, `host:port` for each transport it serves."""

    websocket: str | None = None
    quic: str | None = None
    wireguard: str | None = None


@frozen(kw_only=True)
class StartResult:
    """What a hub is reachable by once it runs."""

    quic_cert_hash: str | None = None
    listen: ListenAddresses


@frozen(kw_only=True)
class ConnectResult:
    """What a client got from the hub. `transport` is the one that carries it."""

    assigned_ip: str
    assigned_ip6: str | None = None
    transport: Transport = field(converter=_transport, validator=valid(check.member(Transport)))
    mtu: int


class EntryPage(list[ClientEntry]):
    """A page of entries, and how many there are in all."""

    def __init__(self, entries: Iterable[ClientEntry], total: int) -> None:
        super().__init__(entries)
        self.total = total


@frozen(kw_only=True)
class RegisteredClients:
    """A page of the registry."""

    clients: tuple[ClientEntry, ...] = field(converter=check.items)
    total: int

    @property
    def page(self) -> EntryPage:
        """The entries as a list that knows the total."""
        return EntryPage(self.clients, self.total)


@frozen(kw_only=True)
class ClientList:
    """The live sessions."""

    clients: tuple[ClientInfo, ...] = field(converter=check.items)

    @property
    def sessions(self) -> list[ClientInfo]:
        """The same as a list."""
        return list(self.clients)


@frozen(kw_only=True)
class WgPeerList:
    """The WireGuard peers."""

    peers: tuple[WgPeerInfo, ...] = field(converter=check.items)

    @property
    def items(self) -> list[WgPeerInfo]:
        """The same as a list."""
        return list(self.peers)


@frozen(kw_only=True)
class ExportedConfig:
    """A client's config without secrets: an object, or WireGuard text."""

    config: ClientConfig | str


# updates: a missing field is kept, None resets it to its default

Strings: TypeAlias = tuple[str, ...] | Unset | None


def _strings(values: Iterable[str] | Unset | None) -> Strings:
    return values if isinstance(values, Unset | None) else check.strings(values)


def _given(update: AttrsInstance) -> dict[str, Any]:
    values = {name: getattr(update, name) for name in fields_dict(type(update))}
    return {name: value for name, value in values.items() if value is not UNSET}


@frozen(kw_only=True)
class SecurityUpdate:
    """A change to ClientSecurity."""

    ip_allow_list: Strings = field(default=UNSET, converter=_strings)
    ip_block_list: Strings = field(default=UNSET, converter=_strings)
    destination_allow_list: Strings = field(default=UNSET, converter=_strings)
    destination_block_list: Strings = field(default=UNSET, converter=_strings)
    max_connections: int | Unset | None = UNSET
    rate_limit: RateLimit | Unset | None = UNSET

    def __attrs_post_init__(self) -> None:
        self.apply(ClientSecurity())

    @classmethod
    def of(cls, security: ClientSecurity) -> SecurityUpdate:
        """The change that leaves exactly `security`."""
        return cls(**{name: getattr(security, name) for name in fields_dict(ClientSecurity)})

    @property
    def pattern_count(self) -> int:
        """How long its lists are together."""
        return sum(len(value) for value in _given(self).values() if isinstance(value, tuple))

    @property
    def is_whole(self) -> bool:
        """Whether nothing is kept."""
        return len(_given(self)) == len(fields_dict(SecurityUpdate))

    def apply(self, security: ClientSecurity) -> ClientSecurity:
        """`security` with the change made."""
        defaults = ClientSecurity()
        changes = {k: getattr(defaults, k) if v is None else v for k, v in _given(self).items()}
        return evolve(security, **changes)


def _security_update(_: object, __: object, value: object) -> None:
    if not isinstance(value, SecurityUpdate | Unset | None):
        raise ConfigError("security", f"expected SecurityUpdate, got {check.type_name(value)}")


def _tags(_: object, __: object, value: object) -> None:
    if isinstance(value, tuple) and len(value) > check.MAX_TAGS:
        raise ConfigError("tags", f"has {len(value)} items, more than {check.MAX_TAGS}")


def _description(instance: object, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, Unset | None):
        valid(check.description)(instance, attribute, value)


@frozen(kw_only=True)
class ClientUpdate:
    """A change to a ClientEntry. `security` changes only those of its fields that are given."""

    security: SecurityUpdate | Unset | None = field(default=UNSET, validator=_security_update)
    priority: int | Unset | None = UNSET
    enabled: bool | Unset | None = UNSET
    tags: Strings = field(default=UNSET, converter=_strings, validator=_tags)
    description: str | Unset | None = field(default=UNSET, validator=_description)
    expires_at: datetime | Unset | None = UNSET
    assigned_ip: str | Unset = UNSET

    def __attrs_post_init__(self) -> None:
        self.apply(_BLANK)

    def apply(self, entry: ClientEntry) -> ClientEntry:
        """`entry` with the change made; another `assigned_ip` clears `assigned_ip6`, which goes with it."""
        changes = {k: getattr(_BLANK, k) if v is None else v for k, v in _given(self).items()}
        if isinstance(self.security, SecurityUpdate):
            changes["security"] = self.security.apply(entry.security)
        if changes.get("assigned_ip", entry.assigned_ip) != entry.assigned_ip:
            changes["assigned_ip6"] = None
        return evolve(entry, **changes)

    @property
    def replaces(self) -> frozenset[str]:
        """The fields of which nothing is kept."""
        kept = (
            {"security"}
            if isinstance(self.security, SecurityUpdate) and not self.security.is_whole
            else set()
        )
        return frozenset(_given(self)) - kept

    @property
    def pattern_count(self) -> int:
        """How long its lists of patterns are together."""
        return self.security.pattern_count if isinstance(self.security, SecurityUpdate) else 0

    @property
    def carries_rate_limit(self) -> bool:
        """Whether it names the rate limit, which ends an override made at run time."""
        if isinstance(self.security, SecurityUpdate):
            return self.security.rate_limit is not UNSET
        return self.security is None


# Holds every default, and stands in for the entry when an update is checked on its own.
_BLANK = ClientEntry(client_id="-", public_key=NOBODYS_KEY, wg_public_key=NOBODYS_KEY, assigned_ip="0.0.0.0")
