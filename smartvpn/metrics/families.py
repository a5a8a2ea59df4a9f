"""Telemetry as Prometheus metric families: every name and help text of `/metrics`, once."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from smartvpn._native import Counters, Session, WgPeer, aead_name
from smartvpn._version import __version__
from smartvpn.hub import HubTelemetry
from smartvpn.metrics.ledger import OTHER, Account, Ledger, Reading
from smartvpn.tunnel import TunnelTelemetry
from smartvpn.types import ConnectionQuality, LinkHealth

_SECOND_MS = 1000


def session_reading(session: Session) -> Reading:
    """What a session counts; drops are packets by cause."""
    counts = {
        "sent": session.bytes_sent,
        "received": session.bytes_received,
        "keepalives": session.keepalives_received,
        "dropped_bytes": session.bytes_dropped,
        "drop_high": session.drops.high,
        "drop_normal": session.drops.normal,
        "drop_low": session.drops.low,
        "drop_acl": session.drops.acl,
        "drop_rate_limit": session.drops.rate_limit,
    }
    return Reading(session.client_id, session.session_id, counts)


def peer_reading(peer: WgPeer) -> Reading:
    """What a WireGuard peer that is no client counts."""
    counts = {
        "sent": peer.bytes_sent,
        "received": peer.bytes_received,
        "packets_sent": peer.packets_sent,
        "packets_received": peer.packets_received,
    }
    return Reading(peer.public_key, peer.public_key, counts)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"smartvpn_{name}", text, value=value)


def _directions(name: str, text: str, sent: int, received: int) -> Metric:
    family = CounterMetricFamily(f"smartvpn_{name}", text, labels=["direction"])
    family.add_metric(["sent"], sent)
    family.add_metric(["received"], received)
    return family


def _causes(name: str, text: str, counts: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"smartvpn_{name}", text, labels=["cause"])
    for cause, count in counts.items():
        family.add_metric([cause], count)
    return family


def _common(counters: Counters) -> Iterator[Metric]:
    """What hub and tunnel both count."""
    yield _gauge("uptime_seconds", "Seconds since the hub or tunnel was started.", counters.uptime_seconds)
    yield _directions(
        "bytes", "Bytes of IP packets in the tunnel.", counters.bytes_sent, counters.bytes_received
    )
    yield _directions(
        "packets", "IP packets in the tunnel.", counters.packets_sent, counters.packets_received
    )
    yield _directions(
        "keepalives", "Keepalives on native links.", counters.keepalives_sent, counters.keepalives_received
    )
    yield _causes("drops", "Dropped packets by cause.", counters.drops)
    yield CounterMetricFamily(
        "smartvpn_icmp_too_big_sent", "ICMP too-big answers to oversized packets.", counters.icmp_too_big_sent
    )


def _build(mode: str, running: bool) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "smartvpn_build",
        "Version, mode, ciphers.",
        {"version": __version__, "mode": mode, "aead": aead_name()},
    )
    yield _gauge("running", "1 while the hub is started or the tunnel exists.", int(running))


class HubFamilies(Collector):
    """One moment of a hub."""

    def __init__(self, seen: HubTelemetry | None, clients: Ledger, peers: Ledger) -> None:
        self._seen, self._clients, self._peers = seen, clients, peers

    def collect(self) -> Iterator[Metric]:
        """prometheus_client: all families."""
        yield from _build("server", self._seen is not None)
        if self._seen is None:
            return
        yield from _common(self._seen.counters)
        yield from self._hub(self._seen)
        yield from _client_counters(self._clients)
        yield from _client_gauges(self._seen.sessions, self._clients)
        yield from _peers(self._seen.peers, self._peers)

    def _hub(self, seen: HubTelemetry) -> Iterator[Metric]:
        counters = seen.counters
        shakes = CounterMetricFamily(
            "smartvpn_handshakes",
            "First messages: opened, bad or over the limits, or answered by a cookie (WireGuard under load).",
            labels=["outcome"],
        )
        shakes.add_metric(["opened"], counters.handshakes)
        shakes.add_metric(["bad"], counters.bad_handshakes)
        shakes.add_metric(["cookie"], counters.cookies_sent)
        yield shakes
        yield _causes(
            "quic_rejects",
            "Datagrams at QUIC's port that are no connection's; connections whose peer broke the rules.",
            counters.quic_rejects,
        )
        yield _gauge("half_open_links", "Links whose session is not live yet.", counters.half_open)
        yield CounterMetricFamily(
            "smartvpn_sessions_started", "Sessions that went live.", counters.total_sessions
        )
        registered = GaugeMetricFamily(
            "smartvpn_registered_clients", "Entries of the registry.", labels=["enabled"]
        )
        registered.add_metric(["true"], seen.enabled)
        registered.add_metric(["false"], seen.registered - seen.enabled)
        yield registered
        yield _sessions(seen.sessions)
        yield _gauge("clients_folded", f"Connected clients inside client={OTHER!r}.", self._clients.folded)


def _sessions(sessions: list[Session]) -> Metric:
    family = GaugeMetricFamily(
        "smartvpn_sessions", "Live sessions by transport and link health.", labels=["transport", "health"]
    )
    counts: dict[tuple[str, str], int] = {}
    for session in sessions:
        health = "unknown" if session.quality is None else session.quality.link_health.value
        counts[session.transport, health] = counts.get((session.transport, health), 0) + 1
    for (transport, health), count in sorted(counts.items()):
        family.add_metric([transport, health], count)
    return family


def _accounts(ledger: Ledger) -> Iterator[tuple[str, Account]]:
    yield from ledger.accounts.items()
    if ledger.other.live or ledger.other.totals:
        yield OTHER, ledger.other


def _client_counters(ledger: Ledger) -> Iterator[Metric]:
    traffic = CounterMetricFamily(
        "smartvpn_client_bytes", "Bytes of a client's IP packets.", labels=["client", "direction"]
    )
    drops = CounterMetricFamily(
        "smartvpn_client_drops", "A client's dropped packets by cause.", labels=["client", "cause"]
    )
    dropped = CounterMetricFamily(
        "smartvpn_client_dropped_bytes", "Bytes of a client's dropped packets.", labels=["client"]
    )
    keepalives = CounterMetricFamily(
        "smartvpn_client_keepalives", "Keepalives from a client.", labels=["client"]
    )
    live = GaugeMetricFamily("smartvpn_client_sessions", "Live sessions of a client.", labels=["client"])
    for client, account in _accounts(ledger):
        totals = account.totals
        for direction in ("sent", "received"):
            traffic.add_metric([client, direction], totals.get(direction, 0))
        for cause in ("high", "normal", "low", "acl", "rate_limit"):
            drops.add_metric([client, cause], totals.get(f"drop_{cause}", 0))
        dropped.add_metric([client], totals.get("dropped_bytes", 0))
        keepalives.add_metric([client], totals.get("keepalives", 0))
        live.add_metric([client], account.live)
    return iter((traffic, drops, dropped, keepalives, live))


_GAUGES = {
    "rtt_seconds": "Smoothed round trip in seconds.",
    "rtt_min_seconds": "Shortest round trip in seconds.",
    "rtt_max_seconds": "Longest round trip in seconds.",
    "jitter_seconds": "Jitter in seconds.",
    "loss_ratio": "Lost keepalives of the last 50, 0 to 1.",
    "consecutive_timeouts": "Keepalives in a row that were not answered.",
    "link_health": "0 healthy, 1 degraded, 2 critical.",
    "keepalive_interval_seconds": "Pause between keepalives now.",
}


def _quality_values(quality: ConnectionQuality) -> dict[str, float]:
    return {
        "rtt_seconds": quality.srtt_ms / _SECOND_MS,
        "rtt_min_seconds": quality.min_rtt_ms / _SECOND_MS,
        "rtt_max_seconds": quality.max_rtt_ms / _SECOND_MS,
        "jitter_seconds": quality.jitter_ms / _SECOND_MS,
        "loss_ratio": quality.loss_ratio,
        "consecutive_timeouts": quality.consecutive_timeouts,
        "link_health": list(LinkHealth).index(quality.link_health),
        "keepalive_interval_seconds": quality.current_keepalive_interval_secs,
    }


def _client_gauges(sessions: list[Session], ledger: Ledger) -> Iterator[Metric]:
    """Link quality cannot be summed: only of clients with an account, each by its busiest session."""
    busiest: dict[str, Session] = {}
    for session in sorted(sessions, key=lambda item: item.bytes_sent + item.bytes_received):
        if session.client_id in ledger.accounts:
            busiest[session.client_id] = session
    families = {
        name: GaugeMetricFamily(f"smartvpn_client_{name}", text, labels=["client"])
        for name, text in _GAUGES.items()
    }
    limit = GaugeMetricFamily(
        "smartvpn_client_rate_limit_bytes_per_second", "The limit in force; none: absent.", labels=["client"]
    )
    since = GaugeMetricFamily(
        "smartvpn_client_connected_timestamp_seconds", "When the session went live.", labels=["client"]
    )
    for client, session in busiest.items():
        for name, value in {} if session.quality is None else _quality_values(session.quality).items():
            families[name].add_metric([client], value)
        if session.rate_limit is not None:
            limit.add_metric([client], session.rate_limit.bytes_per_sec)
        since.add_metric([client], session.connected_since.timestamp())
    return iter((*families.values(), limit, since))


def _peers(peers: list[WgPeer], ledger: Ledger) -> Iterator[Metric]:
    traffic = CounterMetricFamily(
        "smartvpn_wg_peer_bytes",
        "Bytes of a WireGuard peer that is no client.",
        labels=["public_key", "direction"],
    )
    packets = CounterMetricFamily(
        "smartvpn_wg_peer_packets", "Packets of such a peer.", labels=["public_key", "direction"]
    )
    for key, account in _accounts(ledger):
        for direction in ("sent", "received"):
            traffic.add_metric([key, direction], account.totals.get(direction, 0))
            packets.add_metric([key, direction], account.totals.get(f"packets_{direction}", 0))
    handshake = GaugeMetricFamily(
        "smartvpn_wg_peer_last_handshake_timestamp_seconds",
        "Such a peer's last handshake.",
        labels=["public_key"],
    )
    for peer in peers:
        if peer.public_key in ledger.accounts and peer.last_handshake is not None:
            handshake.add_metric([peer.public_key], peer.last_handshake.timestamp())
    return iter((traffic, packets, handshake))


class TunnelFamilies(Collector):
    """One moment of a client."""

    def __init__(self, seen: TunnelTelemetry | None) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        """prometheus_client: all families."""
        yield from _build("client", self._seen is not None)
        if self._seen is None:
            return
        yield from _common(self._seen.counters)
        yield _gauge("tunnel_connected", "1 while packets can pass.", int(self._seen.connected))
        if self._seen.quality is not None:
            for name, value in _quality_values(self._seen.quality).items():
                yield _gauge(
                    f"tunnel_{name}", _GAUGES[name].replace("of the client's busiest session", "now"), value
                )
        mtu = self._seen.mtu
        if mtu is not None:
            family = GaugeMetricFamily(
                "smartvpn_tunnel_mtu_bytes", "How large a packet may be.", labels=["of"]
            )
            for name in ("tun_mtu", "effective_mtu", "link_mtu", "overhead_bytes"):
                family.add_metric([name.partition("_")[0]], getattr(mtu, name))
            yield family
