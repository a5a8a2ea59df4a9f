"""What all commands share: the options --json and --socket, printing, and the way to the daemon."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from attrs import mutable
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from smartvpn._json import to_json
from smartvpn.blocking import VpnClient, VpnServer
from smartvpn.cli._errors import ExitCode, Failure, one_line
from smartvpn.commands import Mode
from smartvpn.errors import InvalidStateError, PermissionDeniedError, UnreachableError
from smartvpn.installer import SOCKET_PATH

Remote = VpnServer | VpnClient
F = TypeVar("F", bound=Callable[..., Any])

_WIDTH_OF_PIPES = 500
_SECONDS = 60.0


@mutable
class App:
    """One run of the command."""

    json: bool = False
    socket: str = SOCKET_PATH

    def console(self) -> Console:
        """Standard output; without colours, and with room for whole lines, where it is no terminal."""
        width = None if sys.stdout.isatty() else _WIDTH_OF_PIPES
        return Console(width=width, markup=False, highlight=False, emoji=False)

    def show(self, value: object, picture: Callable[[], RenderableType]) -> None:
        """The value as JSON, or its picture for people."""
        if self.json:
            click.echo(json.dumps(to_json(value), indent=2))
        else:
            self.console().print(picture(), soft_wrap=not sys.stdout.isatty())

    def say(self, text: str, **facts: object) -> None:
        """A line that something is done; as JSON its facts."""
        self.show(facts, lambda: Text(one_line(text)))

    def hint(self, text: str) -> None:
        """A remark beside the result, for people only."""
        if not self.json:
            click.echo(f"smartvpn: {one_line(text)}", err=True)

    @contextmanager
    def hub(self, seconds: float = _SECONDS) -> Iterator[VpnServer]:
        """The daemon, which must be a hub's."""
        with attached(VpnServer(self._way(), request_timeout=seconds), self.socket) as server:
            yield server

    @contextmanager
    def tunnel(self, seconds: float = _SECONDS) -> Iterator[VpnClient]:
        """The daemon, which must be a client's."""
        with attached(VpnClient(self._way(), request_timeout=seconds), self.socket) as client:
            yield client

    @contextmanager
    def daemon(self) -> Iterator[Remote]:
        """The daemon, whatever it is."""
        with self.hub() if self.mode() is Mode.SERVER else self.tunnel() as remote:
            yield remote

    def mode(self) -> Mode:
        """What the daemon is."""
        try:
            with attached(VpnServer(self._way()), self.socket, any_mode=True):
                return Mode.SERVER
        except InvalidStateError:
            return Mode.CLIENT

    def _way(self) -> dict[str, str]:
        return {"transport": "socket", "socketPath": self.socket}


R = TypeVar("R", VpnServer, VpnClient)


@contextmanager
def attached(remote: R, path: str, *, any_mode: bool = False) -> Iterator[R]:
    """The daemon, attached; what keeps us from it in words."""
    try:
        remote.__enter__()
    except PermissionDeniedError as error:
        raise Failure(str(error), "run it as root (sudo)", ExitCode.PERMISSION) from None
    except InvalidStateError as error:
        if any_mode:
            raise
        raise Failure(str(error), "name the other daemon's socket with --socket", ExitCode.CONFLICT) from None
    except UnreachableError as error:
        raise _not_there(error, path) from None
    try:
        yield remote
    finally:
        remote.stop()


def _not_there(error: UnreachableError, path: str) -> Failure:
    if "closed the connection" in str(error):
        return Failure(
            f"the daemon on {path} refuses this user", "run it as root (sudo)", ExitCode.PERMISSION
        )
    fix = "start it with `smartvpn up`, or name its socket with --socket"
    return Failure(str(error), fix, ExitCode.UNREACHABLE)


# commands


def _set_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(App).json = True


def _set_socket(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.ensure_object(App).socket = value


def _common() -> list[click.Parameter]:
    return [
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_set_json,
            help="Print JSON.",
            is_eager=True,
        ),
        click.Option(
            ["--socket"],
            metavar="PATH",
            expose_value=False,
            callback=_set_socket,
            envvar="SMARTVPN_SOCKET",
            help=f"The daemon's socket (SMARTVPN_SOCKET; {SOCKET_PATH}).",
        ),
    ]


class AppCommand(click.Command):
    """A command that knows --json and --socket."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params.extend(_common())


class AppGroup(click.Group):
    """A group of them; the options may stand before the command's name too."""

    command_class = AppCommand
    group_class = type

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("no_args_is_help", False)
        super().__init__(*arguments, **options)
        self.params.extend(_common())


pass_app = click.make_pass_decorator(App, ensure=True)


def facts(rows: dict[str, object]) -> Table:
    """Names and values below each other; what is None is left out."""
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        if value is not None:
            table.add_row(Text(name, style="dim"), Text(one_line(str(value))))
    return table


def listing(*columns: str, texts: tuple[str, ...] = ()) -> Table:
    """A table with those columns; those of `texts` go on below where a terminal is too narrow."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, no_wrap=name not in texts, overflow="fold")
    return table


def add_row(table: Table, *cells: object) -> None:
    """A row of texts, none of which can steer the terminal."""
    table.add_row(*(Text("-" if cell is None else one_line(str(cell))) for cell in cells))
