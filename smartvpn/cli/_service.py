"""`smartvpn service …`: the daemon as a service of systemd or launchd."""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from pathlib import Path

import click

from smartvpn.cli import _dashboard, _process, _systemd
from smartvpn.cli._app import App, AppGroup, pass_app
from smartvpn.cli._errors import ExitCode, Failure
from smartvpn.cli._lifecycle import chosen_path, load
from smartvpn.cli._values import FILE
from smartvpn.commands import Mode
from smartvpn.config import DEFAULT_REGISTRY, ServerConfig
from smartvpn.configfile import AnyConfig
from smartvpn.installer import DASHBOARD_UNIT, ServiceUnit, VpnInstaller

_LAUNCHD_SECS = 60.0
_UNITS = ("server", "client", "dashboard")


@click.group(cls=AppGroup, name="service")
def group() -> None:
    """Run the daemon as a service of the system."""


@group.command()
@click.argument("config", required=False, type=FILE)
@click.option("--print", "only_print", is_flag=True, help="Print the unit and install nothing.")
@click.option("--force", is_flag=True, help="Replace a unit that exists.")
@click.option("--no-start", is_flag=True, help="Install it without starting it.")
@pass_app
def install(app: App, config: Path | None, only_print: bool, force: bool, no_start: bool) -> None:
    """Install the service for a config file. It starts now and at each boot."""
    path = chosen_path(config).absolute()
    mode, loaded = load(path)
    unit = VpnInstaller.generate_service_unit(
        mode.value, str(path), binary_path=str(_program("smartvpn_daemon")), socket_path=app.socket
    )
    if only_print:
        value = {"platform": unit.platform, "path": unit.install_path, "content": unit.content}
        app.show(value, lambda: unit.content.rstrip("\n"))
        return
    _refuse_what_it_cannot_write(unit, loaded)
    _put(app, unit, force=force, start=not no_start)


@group.command()
@_dashboard.options
@click.option("--print", "only_print", is_flag=True, help="Print the unit and install nothing.")
@click.option("--force", is_flag=True, help="Replace a unit that exists.")
@click.option("--no-start", is_flag=True, help="Install it without starting it.")
@pass_app
def dashboard(
    app: App,
    listen: str,
    public_hosts: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    behind_proxy: bool,
    only_print: bool,
    force: bool,
    no_start: bool,
) -> None:
    """Install the dashboard as a service beside the hub's. It starts now and at each boot."""
    _dashboard.refuse_wrong(listen, public_hosts, tls_cert, tls_key, behind_proxy)
    _dashboard.refuse_without_extra()
    unit = VpnInstaller.generate_dashboard_service(
        binary_path=str(_program("smartvpn-dashboard")),
        socket_path=app.socket,
        listen=listen,
        public_hosts=public_hosts,
        tls_cert=None if tls_cert is None else str(tls_cert.absolute()),
        tls_key=None if tls_key is None else str(tls_key.absolute()),
        behind_proxy=behind_proxy,
    )
    if only_print:
        value = {"platform": unit.platform, "path": unit.install_path, "content": unit.content}
        app.show(value, lambda: unit.content.rstrip("\n"))
        return
    _put(app, unit, force=force, start=not no_start)


def _put(app: App, unit: ServiceUnit, *, force: bool, start: bool) -> None:
    """Installed, and said so."""
    place = Path(unit.install_path)
    before = place.read_text() if place.exists() else None
    if before not in (None, unit.content) and not force:
        raise Failure(f"{place} exists", "use --force to replace it", ExitCode.CONFLICT)
    started = start and _managed(unit)
    if started:
        _refuse_one_by_hand(unit, app.socket)
    _install(unit, before, start=started)
    app.say(f"installed {place}{' and started it' if started else ''}", path=str(place), started=started)
    if start and not started:
        app.hint("no service manager runs here: the unit takes effect where one does")


def _refuse_one_by_hand(unit: ServiceUnit, socket_path: str) -> None:
    """A daemon that has the socket already would keep the service from starting."""
    if unit.platform != "linux" or unit.install_path == DASHBOARD_UNIT or _systemd.is_active(_name(unit)):
        return
    if _process.listens(socket_path):
        raise Failure(
            f"a daemon listens on {socket_path} already",
            "end it with `smartvpn down`, or give the service a socket of its own with --socket",
            ExitCode.CONFLICT,
        )


def _refuse_what_it_cannot_write(unit: ServiceUnit, config: AnyConfig) -> None:
    """The hub's own user has one folder; better said now than by a service that does not start."""
    if unit.platform != "linux" or not isinstance(config, ServerConfig) or config.registry == ":memory:":
        return
    folder = Path(DEFAULT_REGISTRY).parent
    if folder not in Path(config.registry).parents:
        raise Failure(
            f"registry: {config.registry} lies outside {folder}, the only folder that the service may write",
            "move the file and its key there, and name it in the config",
            ExitCode.CONFIG,
        )


def _install(unit: ServiceUnit, before: str | None, *, start: bool) -> None:
    """The unit in its place and started, or everything as it was."""
    place = Path(unit.install_path)
    place.write_text(unit.content)
    place.chmod(0o644)
    try:
        if start and unit.platform == "macos":
            _launchctl("load", "-w", unit.install_path)
        elif start:
            _systemd.start_at_each_boot(_name(unit), again=before not in (None, unit.content))
    except BaseException:
        _undo(unit, before, by_systemd=start and unit.platform == "linux")
        raise


def _undo(unit: ServiceUnit, before: str | None, *, by_systemd: bool) -> None:
    place = Path(unit.install_path)
    if by_systemd:
        _systemd.forget(place.name)
    if before is None:
        place.unlink()
    else:
        place.write_text(before)
    if by_systemd:
        with suppress(Failure):
            _systemd.start_at_each_boot(place.name) if before else _systemd.systemctl("daemon-reload")


@group.command()
@click.option("--mode", type=click.Choice(_UNITS), help="Which, where several are installed.")
@pass_app
def remove(app: App, mode: str | None) -> None:
    """Stop the service and remove its unit; config and registry stay."""
    unit = _installed(mode)
    if unit.platform == "macos":
        _launchctl("unload", "-w", unit.install_path)
    elif _managed(unit):
        _systemd.systemctl("disable", "--now", _name(unit))
    Path(unit.install_path).unlink()
    if unit.platform == "linux" and _managed(unit):
        _systemd.systemctl("daemon-reload")
    app.say(f"removed {unit.install_path}", path=unit.install_path, removed=True)


def _installed(mode: str | None) -> ServiceUnit:
    units = [_unit(name) for name in ([mode] if mode else _UNITS)]
    found = [unit for unit in units if Path(unit.install_path).exists()]
    if not found:
        raise Failure("no service is installed", "see `smartvpn service install`", ExitCode.NOT_FOUND)
    if len(found) > 1:
        raise Failure("several services are installed", "name one with --mode", ExitCode.USAGE)
    return found[0]


def _unit(name: str) -> ServiceUnit:
    if name == "dashboard":
        return VpnInstaller.generate_dashboard_service()
    return VpnInstaller.generate_service_unit(Mode(name).value)


def _name(unit: ServiceUnit) -> str:
    return Path(unit.install_path).name


def _managed(unit: ServiceUnit) -> bool:
    return unit.platform == "macos" or _process.systemd_runs()


def _launchctl(*words: str) -> None:
    done = _process.ran(_LAUNCHD_SECS, "launchctl", *words)
    if done.returncode:
        raise Failure(f"launchctl {words[0]}: {done.stderr.strip() or done.returncode}")


def _program(name: str) -> Path:
    """A program that was installed with this command."""
    beside = Path(sys.argv[0]).absolute().with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        found = str(Path(sys.executable).with_name(name))
    if not Path(found).exists():
        raise Failure(f"{name} is not installed", "run: pip install smartvpn", ExitCode.NOT_FOUND)
    return Path(found).absolute()
