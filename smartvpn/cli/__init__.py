"""The `smartvpn` command: a hub or a client from the command line, over the daemon's socket."""

from __future__ import annotations

import importlib.util
import sys

from smartvpn._extras import how_to_install

_NEEDED = ("click", "rich", "segno")


def main() -> None:
    """The program `smartvpn`."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        what = " and ".join(missing)
        print(f"smartvpn: {what} not installed; run: {how_to_install('cli')}", file=sys.stderr)
        sys.exit(1)
    from smartvpn.cli._commands import run

    sys.exit(run())
