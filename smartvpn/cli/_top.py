"""`smartvpn top`: who is connected, and how fast, as it changes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence

import click
from attrs import frozen
from rich.live import Live
from rich.table import Table

from smartvpn.blocking import VpnClient, VpnServer
from smartvpn.cli._app import App, AppCommand, add_row, listing, pass_app
from smartvpn.cli._values import rate_text, since_text
from smartvpn.errors import InvalidStateError, NotFoundError
from smartvpn.types import ClientInfo, ConnectionQuality


@frozen(kw_only=True)
class Row:
    """One session in one moment; rates are bytes a second."""

    client: str
    address: str
    transport: str
    received_rate: float
    sent_rate: float
    rtt_ms: float | None
    loss: float | None
    health: str | None
    drops: int
    since: str | None

    def json(self) -> dict[str, object]:
        """For programs."""
        return {
            "client": self.client,
            "address": self.address,
            "transport": self.transport,
            "receivedBytesPerSec": round(self.received_rate, 1),
            "sentBytesPerSec": round(self.sent_rate, 1),
            "rttMs": self.rtt_ms,
            "lossRatio": self.loss,
            "linkHealth": self.health,
            "packetsDropped": self.drops,
        }


class Rates:
    """What grew since the last look, each second."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, int, int]] = {}

    def of(self, key: str, received: int, sent: int, now: float) -> tuple[float, float]:
        """Received and sent bytes a second; 0 at the first look."""
        then, received_then, sent_then = self._before.get(key, (now, received, sent))
        self._before[key] = now, received, sent
        seconds = now - then
        if seconds <= 0:
            return 0.0, 0.0
        return max(0, received - received_then) / seconds, max(0, sent - sent_then) / seconds

    def forget_all_but(self, keys: set[str]) -> None:
        """Sessions that ended are not kept."""
        self._before = {key: value for key, value in self._before.items() if key in keys}


class HubRows:
    """The busiest sessions of a hub."""

    whom = "CLIENT"

    def __init__(self, server: VpnServer, most: int) -> None:
        self._server, self._most, self._rates = server, most, Rates()

    def now(self) -> list[Row]:
        """One look."""
        moment = time.monotonic()
        sessions = self._server.list_clients()
        rates = {
            session.session_id: self._rates.of(
                session.session_id, session.bytes_received, session.bytes_sent, moment
            )
            for session in sessions
        }
        self._rates.forget_all_but(set(rates))
        sessions.sort(key=lambda session: (-sum(rates[session.session_id]), session.client_id))
        return [self._row(session, *rates[session.session_id]) for session in sessions[: self._most]]

    def _row(self, session: ClientInfo, received: float, sent: float) -> Row:
        quality, drops = self._link(session)
        return Row(
            client=session.client_id,
            address=session.assigned_ip,
            transport=session.transport,
            received_rate=received,
            sent_rate=sent,
            rtt_ms=quality.srtt_ms if quality else None,
            loss=quality.loss_ratio if quality else None,
            health=quality.link_health if quality else None,
            drops=drops,
            since=since_text(session.connected_since),
        )

    def _link(self, session: ClientInfo) -> tuple[ConnectionQuality | None, int]:
        try:
            telemetry = self._server.get_client_telemetry(session.client_id, session.session_id)
        except NotFoundError:  # it has ended since
            return None, session.packets_dropped
        return telemetry.quality, telemetry.packets_dropped


class TunnelRows:
    """A client's one tunnel."""

    whom = "HUB"

    def __init__(self, client: VpnClient) -> None:
        self._client, self._rates = client, Rates()

    def now(self) -> list[Row]:
        """One look; nothing while there is no tunnel."""
        status = self._client.get_status()
        try:
            sums = self._client.get_statistics()
            dropped = self._client.get_mtu_info().oversized_packets_dropped
        except InvalidStateError:
            return []
        received, sent = self._rates.of("", sums.bytes_received, sums.bytes_sent, time.monotonic())
        quality = sums.quality
        return [
            Row(
                client=status.server_addr or "-",
                address=status.assigned_ip or "-",
                transport=status.transport or "-",
                received_rate=received,
                sent_rate=sent,
                rtt_ms=quality.srtt_ms if quality else None,
                loss=quality.loss_ratio if quality else None,
                health=quality.link_health if quality else None,
                drops=dropped,
                since=since_text(status.connected_since),
            )
        ]


def _table(whom: str, rows: Sequence[Row]) -> Table:
    table = listing(whom, "ADDRESS", "VIA", "IN", "OUT", "RTT", "LOSS", "LINK", "DROPS", "FOR")
    for row in rows:
        add_row(
            table,
            row.client,
            row.address,
            row.transport,
            rate_text(row.received_rate),
            rate_text(row.sent_rate),
            None if row.rtt_ms is None else f"{row.rtt_ms:.1f} ms",
            None if row.loss is None else f"{row.loss:.1%}",
            row.health,
            row.drops,
            row.since,
        )
    return table


@click.command(cls=AppCommand)
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=1.0, help="Seconds between looks (1).")
@click.option("--count", type=click.IntRange(1), help="End after so many looks.")
@click.option("--rows", type=click.IntRange(1, 1000), default=40, help="Show the busiest so many (40).")
@pass_app
def top(app: App, interval: float, count: int | None, rows: int) -> None:
    """Watch clients, rates, round trips, loss and drops."""
    with app.daemon() as remote:
        source = HubRows(remote, rows) if isinstance(remote, VpnServer) else TunnelRows(remote)
        looks = _looks(source, interval, count)
        if app.json:
            for look in looks:
                click.echo(json.dumps([row.json() for row in look]))
        elif sys.stdout.isatty():
            _live(app, source.whom, looks)
        else:
            for look in looks:
                app.console().print(_table(source.whom, look), soft_wrap=True)


def _looks(source: HubRows | TunnelRows, interval: float, count: int | None) -> Iterator[list[Row]]:
    done = 0
    while True:
        yield source.now()
        done += 1
        if count is not None and done >= count:
            return
        time.sleep(interval)


def _live(app: App, whom: str, looks: Iterator[list[Row]]) -> None:
    with Live(console=app.console(), auto_refresh=False, screen=True) as live:
        for look in looks:
            live.update(_table(whom, look), refresh=True)
