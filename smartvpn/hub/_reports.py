"""What the engine measures, in the types of the protocol."""

from __future__ import annotations

from smartvpn._native import ClientCounters, Counters, Session, WgPeer
from smartvpn.config import ClientEntry
from smartvpn.types import ClientInfo, ClientTelemetry, ServerStatistics, WgPeerInfo


def client_info(session: Session) -> ClientInfo:
    """A live session."""
    return ClientInfo(
        client_id=session.client_id,
        session_id=session.session_id,
        assigned_ip=session.assigned_ip,
        assigned_ip6=session.assigned_ip6,
        transport=session.transport,
        remote_addr=session.remote_addr,
        authenticated_key=session.public_key,
        connected_since=session.connected_since,
        bytes_sent=session.bytes_sent,
        bytes_received=session.bytes_received,
        packets_dropped=session.packets_dropped,
        bytes_dropped=session.bytes_dropped,
        last_keepalive_at=session.last_keepalive_at,
        keepalives_received=session.keepalives_received,
        rate_limit_bytes_per_sec=session.rate_limit.bytes_per_sec if session.rate_limit else None,
        burst_bytes=session.rate_limit.burst_bytes if session.rate_limit else None,
    )


def client_telemetry(
    entry: ClientEntry, counters: ClientCounters, session: Session | None
) -> ClientTelemetry:
    """Everything counted for a client; the link's quality is that of `session`, its newest."""
    totals, limit = counters.totals, counters.rate_limit
    return ClientTelemetry(
        client_id=entry.client_id,
        assigned_ip=entry.assigned_ip,
        last_keepalive_at=None if session is None else session.last_keepalive_at,
        keepalives_received=totals.keepalives_received,
        packets_dropped=totals.packets_dropped,
        bytes_dropped=totals.bytes_dropped,
        bytes_received=totals.bytes_received,
        bytes_sent=totals.bytes_sent,
        rate_limit_bytes_per_sec=limit.bytes_per_sec if limit else None,
        burst_bytes=limit.burst_bytes if limit else None,
        drops=totals.drops,
        quality=None if session is None else session.quality,
    )


def session_telemetry(session: Session) -> ClientTelemetry:
    """A session's counters and the quality of its link."""
    return ClientTelemetry(
        client_id=session.client_id,
        assigned_ip=session.assigned_ip,
        last_keepalive_at=session.last_keepalive_at,
        keepalives_received=session.keepalives_received,
        packets_dropped=session.packets_dropped,
        bytes_dropped=session.bytes_dropped,
        bytes_received=session.bytes_received,
        bytes_sent=session.bytes_sent,
        rate_limit_bytes_per_sec=session.rate_limit.bytes_per_sec if session.rate_limit else None,
        burst_bytes=session.rate_limit.burst_bytes if session.rate_limit else None,
        drops=session.drops,
        quality=session.quality,
    )


def wg_peer_info(peer: WgPeer) -> WgPeerInfo:
    """A WireGuard peer and its counters."""
    return WgPeerInfo(
        public_key=peer.public_key,
        allowed_ips=peer.allowed_ips,
        endpoint=peer.endpoint,
        persistent_keepalive=peer.persistent_keepalive or None,
        bytes_sent=peer.bytes_sent,
        bytes_received=peer.bytes_received,
        packets_sent=peer.packets_sent,
        packets_received=peer.packets_received,
        last_handshake_time=peer.last_handshake,
    )


def statistics(sums: Counters) -> ServerStatistics:
    """The sums over all clients since the start."""
    return ServerStatistics(
        bytes_sent=sums.bytes_sent,
        bytes_received=sums.bytes_received,
        packets_sent=sums.packets_sent,
        packets_received=sums.packets_received,
        keepalives_sent=sums.keepalives_sent,
        keepalives_received=sums.keepalives_received,
        uptime_seconds=sums.uptime_seconds,
        active_clients=sums.active_sessions,
        total_connections=sums.total_sessions,
    )
