"""A process that does what `smartvpn.network` is asked to do, one JSON line after the other.

    {"interface", "call", "arguments", "die_at"?}  →  {"result"} or {"error", "message"}

With `die_at` a child does it, killed with -9 as it has written its journal for the n-th time; the
answer's result tells whether it lived to the end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from smartvpn.errors import SmartVpnError
from smartvpn.network import Network, _journal


def serve(state_dir: Path) -> None:
    """Until the end of input."""
    networks: dict[str, Network] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": _do(networks, state_dir, request)}
        except SmartVpnError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(answer), flush=True)


def _do(networks: dict[str, Network], state_dir: Path, request: dict[str, Any]) -> Any:
    if request["call"] == "restore_leftovers":
        return Network.restore_leftovers(state_dir, **request["arguments"])
    name = request["interface"]
    network = networks.setdefault(name, Network(name, state_dir=state_dir))
    if "die_at" not in request:
        return getattr(network, request["call"])(**request["arguments"])
    child = os.fork()
    if child == 0:
        _kill_at(request["die_at"])
        getattr(network, request["call"])(**request["arguments"])
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _kill_at(count: int) -> None:
    """This process dies when it has written a journal that many times."""
    write = _journal._write
    written = 0

    def write_and_die(path: Path, data: bytes) -> None:
        nonlocal written
        write(path, data)
        written += 1
        if written == count:
            os.kill(os.getpid(), signal.SIGKILL)

    _journal._write = write_and_die


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
