"""`smartvpn logs`."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import click

from smartvpn.cli import _process
from smartvpn.cli._app import App, AppCommand, pass_app
from smartvpn.cli._errors import ExitCode, Failure, one_line
from smartvpn.cli._values import FILE
from smartvpn.commands import Mode
from smartvpn.installer import DASHBOARD_UNIT

_PAUSE_SECS = 0.2


@click.command(cls=AppCommand)
@click.option("-n", "--lines", type=click.IntRange(0), default=50, help="The last so many lines (50).")
@click.option("-f", "--follow", is_flag=True, help="Wait for more, until Ctrl-C.")
@click.option(
    "--mode", type=click.Choice(["server", "client", "dashboard"]), help="Whose log, where there are two."
)
@click.option("--file", type=FILE, help="A log elsewhere.")
@pass_app
def logs(app: App, lines: int, follow: bool, mode: str | None, file: Path | None) -> None:
    """Show the daemon's log, or the dashboard's."""
    if mode == "dashboard":
        _of_dashboard(lines, follow, app.json)
    modes = [Mode(mode)] if mode else list(Mode)
    if file is None and _process.systemd_runs():
        units = [f"smartvpn-{item}.service" for item in modes if _process.unit_path(item).exists()]
        if units:
            _journal(units, lines, follow, app.json)
    path = file or _newest([_process.log_path(item) for item in modes])
    for line in _tail(path, lines, follow):
        click.echo(json.dumps({"line": line}) if app.json else one_line(line))


def _of_dashboard(lines: int, follow: bool, as_json: bool) -> None:
    if not (_process.systemd_runs() and Path(DASHBOARD_UNIT).exists()):
        raise Failure(
            "the dashboard is no service here, so it has no log",
            "see `smartvpn service dashboard`",
            ExitCode.NOT_FOUND,
        )
    _journal([Path(DASHBOARD_UNIT).name], lines, follow, as_json)


def _journal(units: list[str], lines: int, follow: bool, as_json: bool) -> None:
    words = ["journalctl", *(f"--unit={unit}" for unit in units), f"--lines={lines}", "--no-pager"]
    words += (["--follow"] if follow else []) + (["--output=json"] if as_json else [])
    os.execvp(words[0], words)


def _newest(paths: list[Path]) -> Path:
    found = [path for path in paths if path.exists()]
    if not found:
        names = " nor ".join(str(path) for path in paths)
        raise Failure(
            f"there is no log: neither a service nor {names}",
            "start one with `smartvpn up`",
            ExitCode.NOT_FOUND,
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def _tail(path: Path, count: int, follow: bool) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from (line.rstrip("\n") for line in deque(file, maxlen=count))
        while follow:
            if line := file.readline():
                yield line.rstrip("\n")
            else:
                time.sleep(_PAUSE_SECS)
