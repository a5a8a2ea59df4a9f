"""The numbers of C's structs as attrs objects; what holds pointers and bytes is `_native`'s own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from smartvpn._native_types import Counters
from smartvpn.config import RateLimit
from smartvpn.types import ClientTotals, ConnectionQuality, DropCounters, LinkHealth, MtuInfo


def counters(sums: Any, causes: Iterable[str], quic_causes: Iterable[str]) -> Counters:
    """Of a `sv_statistics`, whose drops have these causes, and what QUIC's port rejects those."""
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
        drops={cause: getattr(sums.drops, cause) for cause in causes},
        quic_rejects={cause: getattr(sums.quic_rejects, cause) for cause in quic_causes},
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
