"""A web page for a hub: `smartvpn-dashboard`, with the extra `smartvpn[dashboard]`.

A process of its own, which commands the hub through its management socket as any other tool does: what
browsers send is read by nobody who moves packets.
"""

from __future__ import annotations

import sys

from smartvpn._extras import how_to_install

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """The program `smartvpn-dashboard`. Returns its exit status."""
    try:
        from smartvpn.dashboard.program import run
    except ModuleNotFoundError as error:
        print(
            f"smartvpn-dashboard: needs {error.name}; run: {how_to_install('dashboard')}",
            file=sys.stderr,
        )
        return 1
    return run(argv)
