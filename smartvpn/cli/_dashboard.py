"""`smartvpn dashboard`: the hub in a browser, in the foreground or as a service of its own."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from smartvpn._extras import how_to_install
from smartvpn._weblisten import DASHBOARD_LISTEN, dashboard_address, dashboard_host, in_options
from smartvpn.cli._app import App, AppCommand, pass_app
from smartvpn.cli._errors import ExitCode, Failure
from smartvpn.cli._values import FILE
from smartvpn.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

_NEEDED = ("segno", "starlette", "uvicorn")
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


def options(command: F) -> F:
    """Where it is served, and to whom."""
    for option in (
        click.option("--behind-proxy", is_flag=True, help="A proxy in front does https."),
        click.option("--tls-key", type=_FILE, help="And this key."),
        click.option("--tls-cert", type=_FILE, help="Serve https with this chain (PEM)."),
        click.option("--public-host", "public_hosts", multiple=True, help="A name browsers call it by."),
        click.option(
            "--listen",
            default=DASHBOARD_LISTEN,
            help=f"HOST:PORT; beyond this machine https ({DASHBOARD_LISTEN}).",
        ),
    ):
        command = option(command)
    return command


def refuse_wrong(
    listen: str,
    public_hosts: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    behind_proxy: bool,
) -> None:
    """Raise UsageError for options that do not go together."""
    try:
        dashboard_address(listen, tls_cert=tls_cert, tls_key=tls_key, behind_proxy=behind_proxy)
        for name in public_hosts:
            dashboard_host(name)
    except ConfigError as error:
        raise click.UsageError(in_options(error)) from None


def refuse_without_extra() -> None:
    """Raise Failure where its libraries are missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Failure(
            f"the dashboard needs {' and '.join(missing)}",
            f"run: {how_to_install('dashboard')}",
            ExitCode.NOT_FOUND,
        )


@click.command(cls=AppCommand)
@options
@click.option(
    "--token-file",
    type=FILE,
    help="Holds the login token; made if absent.",
)
@pass_app
def dashboard(
    app: App,
    listen: str,
    public_hosts: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    behind_proxy: bool,
    token_file: Path | None,
) -> None:
    """Serve the running hub's dashboard until Ctrl-C. It says where, and which file has the login token."""
    refuse_wrong(listen, public_hosts, tls_cert, tls_key, behind_proxy)
    refuse_without_extra()
    with app.hub():
        pass
    words = [sys.executable, "-P", "-m", "smartvpn.dashboard", "--socket", app.socket, "--listen", listen]
    words += [word for name in public_hosts for word in ("--public-host", name)]
    for option, path in (("--tls-cert", tls_cert), ("--tls-key", tls_key), ("--token-file", token_file)):
        words += [] if path is None else [option, str(path)]
    words += ["--behind-proxy"] if behind_proxy else []
    sys.stdout.flush()
    os.execve(words[0], words, {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
