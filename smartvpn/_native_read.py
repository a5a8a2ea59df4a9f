"""C's structs as attrs objects; everything is copied."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from smartvpn._core import ffi
from smartvpn._native_types import (
    ClientCounters,
    Counters,
    EventKind,
    NativeEvent,
    Session,
    TunnelSettings,
    WgPeer,
)
from smartvpn.config import RateLimit
from smartvpn.keys import encode_key
from smartvpn.types import ClientTotals, ConnectionQuality, DropCounters, LinkHealth, MtuInfo, TunnelState

TRANSPORTS = {1: "websocket", 2: "quic", 3: "wireguard"}


def text(pointer: Any) -> str:
    """Of a C string."""
    return str(ffi.string(pointer).decode("utf-8", "replace"))


def _when(seconds: float) -> datetime | None:
    return _since(seconds) if seconds else None


def _since(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def event(info: Any) -> NativeEvent:
    """Of a `sv_event`."""
    return NativeEvent(
        kind=EventKind(info.type),
        client_id=text(info.client_id),
        session_id=bytes(ffi.buffer(info.session_id)).hex(),
        state=list(TunnelState)[info.state],
        code=info.code,
        status=info.error,
        reason=text(info.reason),
        count=info.count,
    )


def _by_name(struct: Any) -> dict[str, int]:
    return {name: getattr(struct, name) for name, _ in ffi.typeof(struct).fields}


def counters(sums: Any) -> Counters:
    """Of a `sv_statistics`."""
    return Counters(
        bytes_sent=sums.bytes_sent,
        bytes_received=sums.bytes_received,
        packets_sent=sums.packets_sent,
        packets_received=sums.packets_received,
        keepalives_sent=sums.keepalives_sent,
        keepalives_received=sums.keepalives_received,
        uptime_seconds=sums.uptime_secs,
        active_sessions=sums.active_sessions,
        total_sessions=sums.total_sessions,
        handshakes=sums.handshakes,
        bad_handshakes=sums.bad_handshakes,
        cookies_sent=sums.cookies_sent,
        half_open=sums.half_open,
        icmp_too_big_sent=sums.icmp_too_big_sent,
        drops=_by_name(sums.drops),
        quic_rejects=_by_name(sums.quic_rejects),
    )


def totals(info: Any) -> ClientTotals:
    """Of a `sv_client_totals`."""
    return ClientTotals(
        bytes_sent=info.bytes_sent,
        bytes_received=info.bytes_received,
        packets_sent=info.packets_sent,
        packets_received=info.packets_received,
        keepalives_received=info.keepalives_received,
        packets_dropped=info.packets_dropped,
        bytes_dropped=info.bytes_dropped,
        drops=drops(info.drops),
    )


def drops(info: Any) -> DropCounters:
    """Of a client's dropped packets by cause."""
    return DropCounters(
        high=info.high, normal=info.normal, low=info.low, acl=info.acl, rate_limit=info.rate_limit
    )


def rate_limit(info: Any) -> RateLimit | None:
    """Of a struct with the limit in force; None is unlimited."""
    return RateLimit.of(info.bytes_per_sec, info.burst_bytes or None) if info.bytes_per_sec else None


def quality(info: Any) -> ConnectionQuality | None:
    """Of a `sv_quality_info`; None before the first measurement."""
    if not info.known:
        return None
    return ConnectionQuality(
        srtt_ms=info.srtt_ms,
        jitter_ms=info.jitter_ms,
        min_rtt_ms=info.min_rtt_ms,
        max_rtt_ms=info.max_rtt_ms,
        loss_ratio=info.loss_ratio,
        consecutive_timeouts=info.consecutive_timeouts,
        link_health=list(LinkHealth)[info.health],
        current_keepalive_interval_secs=info.keepalive_interval_secs,
    )


def mtu(info: Any) -> MtuInfo:
    """Of a `sv_mtu_info`."""
    return MtuInfo(
        tun_mtu=info.tun_mtu,
        effective_mtu=info.effective_mtu,
        link_mtu=info.link_mtu,
        overhead_bytes=info.overhead_bytes,
        oversized_packets_dropped=info.oversized_packets_dropped,
        icmp_too_big_sent=info.icmp_too_big_sent,
    )


def session(info: Any) -> Session:
    """Of a `sv_session_info`."""
    return Session(
        client_id=text(info.client_id),
        session_id=bytes(ffi.buffer(info.session_id)).hex(),
        public_key=encode_key(bytes(ffi.buffer(info.public_key))),
        assigned_ip=text(info.assigned_ip),
        assigned_ip6=text(info.assigned_ip6) or None,
        remote_addr=text(info.remote_addr),
        transport=TRANSPORTS[info.transport],
        connected_since=_since(info.connected_since),
        last_keepalive_at=_when(info.last_keepalive),
        bytes_sent=info.bytes_sent,
        bytes_received=info.bytes_received,
        keepalives_received=info.keepalives_received,
        packets_dropped=info.packets_dropped,
        bytes_dropped=info.bytes_dropped,
        rate_limit=rate_limit(info),
        drops=drops(info.drops),
        quality=quality(info.quality),
    )


def client_counters(info: Any) -> ClientCounters:
    """Of a `sv_client_totals`, with whose they are."""
    return ClientCounters(
        client_id=text(info.client_id),
        totals=totals(info),
        rate_limit=rate_limit(info),
    )


def wg_peer(info: Any, ips: Any) -> WgPeer:
    """Of a `sv_wg_peer_info`, whose allowed IPs lie among `ips`."""
    mine = range(info.first_allowed_ip, info.first_allowed_ip + info.allowed_ip_count)
    return WgPeer(
        public_key=encode_key(bytes(ffi.buffer(info.public_key))),
        client_id=text(info.client_id),
        endpoint=text(info.endpoint) or None,
        persistent_keepalive=info.persistent_keepalive,
        allowed_ips=tuple(text(ips[index]) for index in mine),
        bytes_sent=info.bytes_sent,
        bytes_received=info.bytes_received,
        packets_sent=info.packets_sent,
        packets_received=info.packets_received,
        last_handshake=_when(info.last_handshake),
    )


def tunnel_settings(info: Any) -> TunnelSettings:
    """Of a `sv_client_settings`."""
    return TunnelSettings(
        address=text(info.address),
        address6=text(info.address6) or None,
        gateway=text(info.gateway) or None,
        gateway6=text(info.gateway6) or None,
        server_addr=text(info.server_addr),
        mtu=info.mtu,
        dns=tuple(text(info.dns[index]) for index in range(info.dns_count)),
        routes=tuple(text(info.routes[index]) for index in range(info.route_count)),
        connected_since=_since(info.connected_since),
        handshake_ms=info.handshake_ms,
        transport=TRANSPORTS[info.transport],
    )
