"""What `_native` makes of the C structs: frozen classes."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum

from attrs import field, frozen

from smartvpn.config import RateLimit
from smartvpn.types import ClientTotals, ConnectionQuality, DropCounters, TunnelState


class Disconnect(IntEnum):
    """The wire's Disconnect codes that the hub gives."""

    NORMAL = 0
    DISABLED = 2
    EXPIRED = 3
    REMOVED = 4
    KEY_ROTATED = 5
    KICKED = 6


class EventKind(IntEnum):
    """What an engine tells."""

    SESSION_STARTED = 1
    SESSION_ENDED = 2
    STATE = 3
    SETTINGS = 4
    ERROR = 5
    LOST = 6
    GONE = 7
    NETWORK = 8
    ADDRESSES = 9
    LOOKUP = 10


@frozen(kw_only=True)
class NativeEvent:
    """An event of the engine; `code` is a Disconnect code or -1, `status` an error of C or 0."""

    kind: EventKind
    client_id: str
    session_id: str
    state: TunnelState
    code: int
    status: int
    reason: str
    count: int


@frozen(kw_only=True)
class Counters:
    """Sums over an engine's life; bytes and packets are those inside the tunnel."""

    bytes_sent: int
    bytes_received: int
    packets_sent: int
    packets_received: int
    keepalives_sent: int
    keepalives_received: int
    uptime_seconds: int
    active_sessions: int
    total_sessions: int
    handshakes: int
    bad_handshakes: int
    cookies_sent: int
    half_open: int
    icmp_too_big_sent: int
    drops: dict[str, int]
    quic_rejects: dict[str, int]


@frozen(kw_only=True)
class Session:
    """A live session on the hub."""

    client_id: str
    session_id: str
    public_key: str
    assigned_ip: str
    assigned_ip6: str | None
    remote_addr: str
    transport: str
    connected_since: datetime
    last_keepalive_at: datetime | None
    bytes_sent: int
    bytes_received: int
    keepalives_received: int
    packets_dropped: int
    bytes_dropped: int
    rate_limit: RateLimit | None
    drops: DropCounters
    quality: ConnectionQuality | None


@frozen(kw_only=True)
class ClientCounters:
    """What was counted for a client over all its sessions, and the limit in force."""

    client_id: str
    totals: ClientTotals
    rate_limit: RateLimit | None


@frozen(kw_only=True)
class WgPeer:
    """A WireGuard peer of a hub; `client_id` is empty where it is no client."""

    public_key: str
    client_id: str
    endpoint: str | None
    persistent_keepalive: int
    allowed_ips: tuple[str, ...]
    bytes_sent: int
    bytes_received: int
    packets_sent: int
    packets_received: int
    last_handshake: datetime | None


@frozen(kw_only=True)
class QuicIdentity:
    """What a hub is known by over QUIC: PEM texts, and 32 bytes for its address tokens and resets."""

    certificate: str
    key: str = field(repr=False)
    secret: bytes = field(repr=False)


@frozen(kw_only=True)
class TunnelSettings:
    """What the hub gave a client. Addresses carry their prefix length; times are milliseconds."""

    address: str
    address6: str | None
    gateway: str | None
    gateway6: str | None
    server_addr: str
    mtu: int
    dns: tuple[str, ...]
    routes: tuple[str, ...]
    connected_since: datetime
    handshake_ms: float
    transport: str = "websocket"
