"""`smartvpn up`, `down`, `run`: a hub or a client from its config file."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from smartvpn._json import parse, to_json
from smartvpn.cli import _process, _systemd
from smartvpn.cli._app import App, AppCommand, pass_app
from smartvpn.cli._errors import ExitCode, Failure
from smartvpn.cli._values import FILE
from smartvpn.commands import Mode
from smartvpn.config import ClientConfig, ServerConfig
from smartvpn.configfile import CLIENT_PATH, SERVER_PATH, AnyConfig, VpnConfig
from smartvpn.errors import ConfigError, ConflictError
from smartvpn.types import TunnelState

_CONFIG = click.argument("config", required=False, type=FILE)


def chosen_path(config: Path | None) -> Path:
    """The file that is named, else the one at its usual place."""
    if config is not None:
        return config
    found = [path for path in (SERVER_PATH, CLIENT_PATH) if path.exists()]
    if not found:
        raise Failure(
            f"neither {SERVER_PATH} nor {CLIENT_PATH} exists",
            "make a hub with `smartvpn init`, or name a config file",
            ExitCode.NOT_FOUND,
        )
    if len(found) > 1:
        raise Failure(f"{SERVER_PATH} and {CLIENT_PATH} both exist", "name one of them", ExitCode.USAGE)
    return found[0]


def load(path: Path) -> tuple[Mode, AnyConfig]:
    """What the file is a config of. Raises Failure that names file and field."""
    try:
        data = parse(path.read_bytes())
    except ValueError as error:
        raise Failure(f"{path} is not JSON: {error}", "correct it", ExitCode.CONFIG) from None
    mode = Mode.SERVER if isinstance(data, Mapping) and "subnet" in data else Mode.CLIENT
    try:
        if mode is Mode.SERVER:
            return mode, VpnConfig.validate_server_config(data)
        return mode, VpnConfig.validate_client_config(data)
    except ConfigError as error:
        raise Failure(f"{path}: {error}", "correct it", ExitCode.CONFIG) from None


def up_words(path: Path) -> str:
    """What starts the config: it need not be named at its usual place."""
    usual = path in (SERVER_PATH, CLIENT_PATH)
    return "smartvpn up" if usual else f"smartvpn up {shlex.quote(str(path))}"


@click.command(cls=AppCommand)
@_CONFIG
@click.option(
    "--log", type=FILE, help=f"The daemon's log ({_process.LOG_FOLDER}/smartvpn-server.log or -client.log)."
)
@pass_app
def up(app: App, config: Path | None, log: Path | None) -> None:
    """Start a hub, or connect a client, in the background."""
    path = chosen_path(config)
    mode, loaded = load(path)
    if config is None and _process.systemd_runs() and _process.unit_path(mode).exists():
        _systemd.systemctl("start", f"smartvpn-{mode}.service")
        app.say(f"started smartvpn-{mode}", mode=mode, service=True)
        return
    if _process.listens(app.socket):
        _begin(app, mode, loaded)
        return
    process = _process.start(mode, app.socket, log or _process.log_path(mode))
    try:
        _begin(app, mode, loaded)
    except BaseException:
        _process.end(process)
        raise


def _begin(app: App, mode: Mode, config: AnyConfig) -> None:
    """Hand the config to the daemon, unless it is up already."""
    try:
        if isinstance(config, ServerConfig):
            _begin_hub(app, config)
        else:
            _begin_tunnel(app, config)
    except ConfigError as error:
        raise Failure(str(error), "correct the config", ExitCode.CONFIG) from None
    except ConflictError as error:
        who = "`ss -tulpn` shows by whom; " if "already in use" in str(error) else ""
        raise Failure(str(error), f"{who}end that, or change the config", ExitCode.CONFLICT) from None


def _begin_hub(app: App, config: ServerConfig) -> None:
    with app.hub() as server:
        status = server.get_status()
        if status.state is TunnelState.CONNECTED:
            app.say(f"the hub is up already on {status.server_addr}", mode="server", already=True)
            return
        result = server.start(config)
        listen = to_json(result.listen) if result else {}
    where = ", ".join(f"{name} {address}" for name, address in listen.items())
    app.say(f"the hub is up: {where}", mode="server", already=False, listen=listen)


def _begin_tunnel(app: App, config: ClientConfig) -> None:
    with app.tunnel() as client:
        status = client.get_status()
        if status.state not in (TunnelState.DISCONNECTED, TunnelState.ERROR):
            app.say(f"the tunnel is {status.state} already", mode="client", already=True)
            return
        result = client.connect(config)
    app.say(
        f"connected over {result.transport} as {result.assigned_ip}",
        mode="client",
        already=False,
        **to_json(result),
    )


@click.command(cls=AppCommand)
@pass_app
def down(app: App) -> None:
    """End the hub or the tunnel, and its daemon. What it changed on the system is put back."""
    pid = _process.end_listener(app.socket)
    app.say("down", pid=pid, down=True)


@click.command(cls=AppCommand)
@_CONFIG
@click.option("--user", metavar="NAME", help="The daemon becomes this user after its start.")
@pass_app
def run(app: App, config: Path | None, user: str | None) -> None:
    """Run a hub or a client in the foreground, until Ctrl-C."""
    path = chosen_path(config)
    mode, _ = load(path)
    words = [*_process.daemon_words(mode, app.socket), "--config", str(path)]
    if user is not None:
        words += ["--user", user]
    sys.stdout.flush()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    os.execve(words[0], words, environment)
