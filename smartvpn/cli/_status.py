"""`smartvpn status`."""

from __future__ import annotations

from typing import Any

import click
from rich.console import RenderableType

from smartvpn._json import to_json
from smartvpn.blocking import VpnClient, VpnServer
from smartvpn.cli._app import App, AppCommand, facts, pass_app
from smartvpn.cli._values import bytes_text, since_text
from smartvpn.errors import InvalidStateError
from smartvpn.types import MtuInfo, Statistics, Status, TunnelState


@click.command(cls=AppCommand)
@pass_app
def status(app: App) -> None:
    """Show how the hub, or the tunnel, is."""
    with app.daemon() as remote:
        value, picture = _hub(remote) if isinstance(remote, VpnServer) else _tunnel(remote)
    app.show(value, lambda: picture)


def _hub(server: VpnServer) -> tuple[dict[str, Any], RenderableType]:
    state = server.get_status()
    value: dict[str, Any] = {"mode": "server", "status": to_json(state)}
    up = state.state is TunnelState.CONNECTED
    rows: dict[str, object] = {"hub": "up" if up else "not started", **_where(state)}
    if up:
        sums = server.get_statistics()
        total = server.list_registered_clients(limit=1).total
        value |= {"statistics": to_json(sums), "registeredClients": total}
        rows |= {"clients": f"{sums.active_clients} connected of {total}", **_traffic(sums)}
    return value, facts(rows)


def _tunnel(client: VpnClient) -> tuple[dict[str, Any], RenderableType]:
    state = client.get_status()
    value: dict[str, Any] = {"mode": "client", "status": to_json(state)}
    rows: dict[str, object] = {"tunnel": state.state, **_where(state)}
    try:
        sums, mtu = client.get_statistics(), client.get_mtu_info()
    except InvalidStateError:
        return value, facts(rows)
    value |= {"statistics": to_json(sums), "mtu": to_json(mtu)}
    return value, facts(rows | _traffic(sums) | _link(sums, mtu))


def _where(state: Status) -> dict[str, object]:
    return {
        "server": state.server_addr,
        "transport": state.transport,
        "address": state.assigned_ip,
        "address 6": state.assigned_ip6,
        "for": since_text(state.connected_since),
        "last error": state.last_error,
    }


def _traffic(sums: Statistics) -> dict[str, object]:
    return {
        "received": f"{bytes_text(sums.bytes_received)} in {sums.packets_received} packets",
        "sent": f"{bytes_text(sums.bytes_sent)} in {sums.packets_sent} packets",
    }


def _link(sums: Statistics, mtu: MtuInfo) -> dict[str, object]:
    quality = sums.quality
    link = (
        None
        if quality is None
        else f"{quality.link_health}, {quality.srtt_ms:.1f} ms, {quality.loss_ratio:.1%} lost"
    )
    return {"link": link, "mtu": f"{mtu.tun_mtu}, of which {mtu.effective_mtu} pass uncut"}
