"""Three hosts in network namespaces: client - hub - internet, joined by veth pairs."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ROLES = ("hub", "client", "internet")

HUB_OUTER, HUB_OUTER6 = "10.99.0.1", "fd99::1"
CLIENT_OUTER, CLIENT_OUTER6 = "10.99.0.2", "fd99::2"
HUB_INTERNET, HUB_INTERNET6 = "10.99.1.1", "fd99:1::1"
INTERNET, INTERNET6 = "10.99.1.2", "fd99:1::2"

_serial = itertools.count()


class Topology:
    """The three namespaces, named uniquely; use it as a context manager.

    client `outer` 10.99.0.2, fd99::2 - hub `outer` 10.99.0.1, fd99::1
    hub `internet` 10.99.1.1, fd99:1::1 - internet `outer` 10.99.1.2, fd99:1::2

    The client's default routes lead to the hub's outer addresses; the internet knows no way to
    anything but its own network. Each namespace has a resolv.conf of its own.
    """

    def __init__(self, prefix: str = "svtest") -> None:
        name = f"{prefix}-{os.getpid()}-{next(_serial)}"
        self.names = {role: f"{name}-{role}" for role in ROLES}
        self._state = Path(tempfile.gettempdir()) / name
        self._started: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Topology:
        atexit.register(self.close)
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self) -> None:
        for role, name in self.names.items():
            self.resolv_conf(role).parent.mkdir(parents=True)
            self.state_dir(role).mkdir(parents=True)
            self.resolv_conf(role).write_text(f"search {role}.example\nnameserver 192.0.2.53\n")
            _ip("netns", "add", name)
            self.run(role, "ip", "link", "set", "lo", "up")
        self._join(("client", "outer"), ("hub", "outer"))
        self._join(("hub", "internet"), ("internet", "outer"))
        self._address("client", "outer", CLIENT_OUTER, CLIENT_OUTER6)
        self._address("hub", "outer", HUB_OUTER, HUB_OUTER6)
        self._address("hub", "internet", HUB_INTERNET, HUB_INTERNET6)
        self._address("internet", "outer", INTERNET, INTERNET6)
        self.run("client", "ip", "route", "add", "default", "via", HUB_OUTER)
        self.run("client", "ip", "-6", "route", "add", "default", "via", HUB_OUTER6)

    def _join(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        (role, device), (far_role, far_device) = one, other
        far = ("peer", "name", far_device, "netns", self.names[far_role])
        self.run(role, "ip", "link", "add", device, "type", "veth", *far)

    def _address(self, role: str, device: str, address: str, address6: str) -> None:
        self.run(role, "ip", "address", "add", f"{address}/24", "dev", device)
        self.run(role, "ip", "address", "add", f"{address6}/64", "dev", device, "nodad")
        self.run(role, "ip", "link", "set", device, "up")

    def resolv_conf(self, role: str) -> Path:
        """The file that programs in the namespace see as /etc/resolv.conf."""
        return Path("/etc/netns") / self.names[role] / "resolv.conf"

    def state_dir(self, role: str) -> Path:
        """Where a machine keeps what it has to keep."""
        return self._state / role

    def command(self, role: str, *cmd: str) -> list[str]:
        """`cmd` as run in a namespace."""
        return ["ip", "netns", "exec", self.names[role], *cmd]

    def run(
        self, role: str, *cmd: str, check: bool = True, timeout: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Raises AssertionError with its output if it fails and `check`."""
        result = subprocess.run(
            self.command(role, *cmd), capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and result.returncode:
            raise AssertionError(
                f"{role}: {' '.join(cmd)}: status {result.returncode}\n{result.stdout}{result.stderr}"
            )
        return result

    def popen(self, role: str, *cmd: str, **options: Any) -> subprocess.Popen[Any]:
        """Start a command in the background; it is killed at the end."""
        process = subprocess.Popen(self.command(role, *cmd), start_new_session=True, **options)
        self._started.append(process)
        return process

    def close(self) -> None:
        """Kill what was started and remove the namespaces; a second call does nothing."""
        atexit.unregister(self.close)
        while self._started:
            _end(self._started.pop())
        for name in self.names.values():
            if (Path("/run/netns") / name).exists():
                _ip("netns", "delete", name)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)
        shutil.rmtree(self._state, ignore_errors=True)


def _end(process: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its session, children included
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=30)
