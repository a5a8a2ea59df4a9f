"""A hub without a network around it, for what has to do with its registry only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smartvpn.keys import PrivateKey
from tests.raw import SocketDaemon

_ALONE = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


def lone_daemon(folder: Path, *more: str, prefix: tuple[str, ...] = ()) -> SocketDaemon:
    """A daemon on `folder`/s.sock in a network namespace of its own; `prefix` runs it there."""
    alone = (*_ALONE, *prefix, "env", f"STATE_DIRECTORY={folder}")
    return SocketDaemon(folder / "s.sock", *more, prefix=alone)


def lone_config(folder: Path, **changes: Any) -> dict[str, Any]:
    """A hub on ws://127.0.0.1:7443/ that keeps its registry in the folder."""
    key = PrivateKey.generate()
    config = {
        "listenAddr": "127.0.0.1:7443",
        "privateKey": key.base64,
        "publicKey": key.public_key.base64,
        "subnet": "10.8.0.0/16",
        "registry": str(folder / "registry.db"),
    }
    return config | changes


def public_key() -> str:
    """A fresh key of somebody else."""
    return PrivateKey.generate().public_key.base64
