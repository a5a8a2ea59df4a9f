"""`smartvpn doctor`: what a tunnel needs, looked at, with what to do where it is missing."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import RenderableType
from rich.text import Text

from smartvpn._address import parse_endpoint
from smartvpn.cli import _checks, _process
from smartvpn.cli._app import App, AppCommand, listing, pass_app
from smartvpn.cli._checks import Check, Verdict
from smartvpn.cli._errors import ExitCode, Failure, explain, one_line
from smartvpn.cli._lifecycle import load
from smartvpn.cli._values import FILE
from smartvpn.config import ClientConfig, ServerConfig, Transport
from smartvpn.configfile import CLIENT_PATH, SERVER_PATH, AnyConfig

_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@click.command(cls=AppCommand)
@click.argument("config", required=False, type=FILE)
@click.option("--target", metavar="HOST:PORT", help="Look at the way to this hub.")
@pass_app
def doctor(app: App, config: Path | None, target: str | None) -> int:
    """Check what a hub or a client needs, and say what to do. Ends with 1 where something is missing."""
    place = _target(target)
    checks = _machine()
    loaded = _config(config, checks)
    checks += _checks.forwarding(loaded) if isinstance(loaded, ServerConfig) else []
    checks.append(_daemon(app))
    if place is not None:
        checks += _way(*place)
    elif isinstance(loaded, ClientConfig):
        checks += _way_of(loaded)
    value = [
        {"check": item.name, "verdict": item.verdict.value, "detail": item.detail}
        | ({} if item.fix is None else {"fix": item.fix})
        for item in checks
    ]
    app.show(value, lambda: _picture(checks))
    return ExitCode.FAILED if any(item.verdict is Verdict.FAIL for item in checks) else ExitCode.OK


def _target(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    try:
        return parse_endpoint(text)
    except ValueError as error:
        raise click.UsageError(f"--target: {error}") from None


def _machine() -> list[Check]:
    makers = {
        "platform": _checks.platform,
        "tun": _checks.tun,
        "nftables": _checks.nftables,
        "route": _checks.default_route,
        "clock": _checks.clock,
    }
    return [_checks.guarded(make, name) for name, make in makers.items()]


def _config(path: Path | None, checks: list[Check]) -> AnyConfig | None:
    """The config, where there is one; its faults are a check like any other."""
    found = path or next((item for item in (SERVER_PATH, CLIENT_PATH) if item.exists()), None)
    if found is None:
        fix = "make a hub's with `smartvpn init`, or name a client's"
        checks.append(Check("config", Verdict.WARN, "there is none", fix))
        return None
    try:
        _, loaded = load(found)
    except (Failure, PermissionError) as error:
        told = explain(error)
        checks.append(Check("config", Verdict.FAIL, told.cause, told.fix))
        return None
    checks.append(_checks.guarded(lambda: _checks.files(found), "config"))
    return loaded


def _daemon(app: App) -> Check:
    if not _process.listens(app.socket):
        return Check("daemon", Verdict.WARN, f"none on {app.socket}", "start it with `smartvpn up`")
    try:
        return Check("daemon", Verdict.OK, f"{app.mode()} on {app.socket}")
    except Failure as error:
        return Check("daemon", Verdict.FAIL, error.cause, error.fix)


def _way_of(config: ClientConfig) -> list[Check]:
    if config.transport is Transport.WIREGUARD:
        host, port = parse_endpoint(str(config.wg_endpoint))
        return [_checks.mtu_path(host, ["wireguard"], config.mtu), _checks.udp(host, port)]
    ways: dict[str, list[str]] = {}
    checks = []
    if config.transport in (Transport.AUTO, Transport.WEBSOCKET):
        url = config.websocket_url()
        ways.setdefault(url.host, []).append("websocket")
        checks.append(_checks.tcp(url.host, url.port))
        if not url.tls and (beside := _checks.clock_beside(url.host, url.port)) is not None:
            checks.append(beside)
    if config.transport in (Transport.AUTO, Transport.QUIC):
        host, port = config.quic_endpoint()
        ways.setdefault(host, []).append("quic")
        checks.append(_checks.udp(host, port))
    return [_checks.mtu_path(host, over, config.mtu) for host, over in ways.items()] + checks


def _way(host: str, port: int) -> list[Check]:
    return [_checks.mtu_path(host), _checks.tcp(host, port), _checks.udp(host, port)]


def _picture(checks: list[Check]) -> RenderableType:
    table = listing("CHECK", "", "FOUND", "WHAT TO DO", texts=("FOUND", "WHAT TO DO"))
    for item in checks:
        verdict = Text(item.verdict.value, style=_STYLES[item.verdict])
        table.add_row(Text(item.name), verdict, Text(one_line(item.detail)), Text(one_line(item.fix or "")))
    return table
