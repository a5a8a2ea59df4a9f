"""The `smartvpn` command, whole: its subcommands, and the one place where errors end."""

from __future__ import annotations

import os
import sys

import click

from smartvpn._version import __version__
from smartvpn.cli import _clients, _service
from smartvpn.cli._app import App, AppGroup, pass_app
from smartvpn.cli._completion import completion
from smartvpn.cli._dashboard import dashboard
from smartvpn.cli._doctor import doctor
from smartvpn.cli._errors import ExitCode, Explained, explain
from smartvpn.cli._import import import_
from smartvpn.cli._init import init
from smartvpn.cli._lifecycle import down, run as run_command, up
from smartvpn.cli._logs import logs
from smartvpn.cli._status import status
from smartvpn.cli._top import top


@click.group(cls=AppGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="smartvpn", message="%(prog)s %(version)s")
@pass_app
def main(app: App) -> None:
    """A VPN hub and client: WebSocket, QUIC and WireGuard.

    Exit status: 0 done, 1 failed, 2 wrong arguments, 3 no daemon or hub, 4 not permitted, 5 not
    found, 6 exists or does not fit the state, 7 wrong config, 130 interrupted.
    """


for command in (
    init,
    up,
    down,
    run_command,
    _clients.group,
    status,
    top,
    dashboard,
    doctor,
    logs,
    _service.group,
    import_,
    completion,
):
    main.add_command(command)


def run(arguments: list[str] | None = None) -> int:
    """Run the command. Returns its exit status; errors are one line on stderr."""
    app = App()
    try:
        result = main.main(arguments, prog_name="smartvpn", standalone_mode=False, obj=app)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        _close_stdout()
        return ExitCode.OK
    except Exception as error:
        explained = explain(error)
        _print_error(explained, as_json=app.json or "--json" in (arguments or sys.argv[1:]))
        return explained.status
    return result if isinstance(result, int) else ExitCode.OK


def _print_error(error: Explained, *, as_json: bool) -> None:
    print(error.json() if as_json else error.line(), file=sys.stderr)


def _close_stdout() -> None:
    """Whoever read us is gone: Python's own last flush must not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
