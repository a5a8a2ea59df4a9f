"""The `smartvpn` command on the topology's machines, and what it printed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.netns.topology import HUB_OUTER, Topology

COMMAND = (sys.executable, "-P", "-m", "smartvpn.cli")
TIMEOUT = 90
_SERIAL = itertools.count()


def environment(**more: str) -> dict[str, str]:
    """Ours, and the same module path; no colours are asked for."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **more}


class Done:
    """A command that has ended."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.status, self.out, self.err = process.returncode, process.stdout, process.stderr
        assert "Traceback" not in self.err, self.err
        assert "\x1b" not in self.out + self.err, "colours in a pipe"

    def json(self) -> Any:
        """What it printed, parsed; it must have succeeded."""
        assert self.status == 0, self.err
        return json.loads(self.out)

    def one_line(self) -> str:
        """The error's only line; nothing else may have been printed."""
        assert self.status != 0
        assert self.out == "", self.out
        assert re.fullmatch(r"[^\n]+\n", self.err), self.err
        return self.err


def run(
    *arguments: str | Path,
    prefix: tuple[str, ...] = (),
    command: tuple[str, ...] = COMMAND,
    cwd: Path | None = None,
    **env: str,
) -> Done:
    """The command, on this machine."""
    words = [*prefix, *command, *map(str, arguments)]
    return Done(
        subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            cwd=cwd,
            env=environment(**env),
            check=False,
        )
    )


def on_terminal(words: list[str], typed: str, cwd: Path, env: dict[str, str]) -> tuple[int, str]:
    """The status and the screen of a command at a terminal, whose user types that."""
    ours, its = pty.openpty()
    ends = {"stdin": its, "stdout": its, "stderr": its}
    with subprocess.Popen(
        words, cwd=cwd, env=env | {"TERM": "xterm"}, start_new_session=True, **ends
    ) as process:
        os.close(its)
        os.write(ours, typed.encode())
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal tells that nobody has it open any more
            while more := os.read(ours, 65536):
                shown += more
        os.close(ours)
        return process.wait(TIMEOUT), shown.decode()


@contextmanager
def stock(topology: Topology, text: str, folder: Path) -> Iterator[None]:
    """wg-quick and wireguard-go on the client's machine, with the file as it is but for DNS.

    Setting name servers needs resolvconf, which is not WireGuard's. The interface's name is unique,
    since the sockets of all namespaces lie in one folder.
    """
    path = folder / f"q{os.getpid() % 1000000}x{next(_SERIAL)}.conf"
    path.write_text("".join(line for line in text.splitlines(True) if not line.startswith("DNS")))
    path.chmod(0o600)
    quick = ("env", "WG_QUICK_USERSPACE_IMPLEMENTATION=wireguard-go", "wg-quick")
    topology.run("client", *quick, "up", str(path))
    try:
        yield
    finally:
        topology.run("client", *quick, "down", str(path), check=False)


def installed(folder: Path) -> Path:
    """The two commands as pip would put them on the PATH."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    for name, module in (("smartvpn", "smartvpn.cli"), ("smartvpn_daemon", "smartvpn.daemon")):
        script = tools / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m {module} "$@"\n')
        script.chmod(0o755)
    return tools


class Machine:
    """One of the topology's machines, with a folder and a daemon's socket of its own."""

    def __init__(self, topology: Topology, role: str, folder: Path) -> None:
        self.topology, self.role = topology, role
        self.folder = folder / role
        self.folder.mkdir(parents=True)
        self.socket = self.folder / "s.sock"
        self.config = self.folder / "config.json"
        self.log = self.folder / "daemon.log"
        self.path = f"{installed(self.folder)}:{os.environ['PATH']}"

    def __call__(self, *arguments: str | Path, **env: str) -> Done:
        """The command there."""
        prefix = self.topology.command(self.role, "env", f"STATE_DIRECTORY={self.folder}")
        words = (*arguments, "--socket", self.socket)
        return run(*words, prefix=tuple(prefix), cwd=self.folder, PATH=self.path, **env)

    def types(self, *arguments: str | Path, typed: str = "", **env: str) -> tuple[int, str]:
        """The command at a terminal there; its status, and what is on the screen."""
        prefix = self.topology.command(self.role, "env", f"STATE_DIRECTORY={self.folder}")
        words = [*prefix, *COMMAND, *map(str, arguments), "--socket", str(self.socket)]
        return on_terminal(words, typed, self.folder, environment(PATH=self.path, **env))

    def init(self, *more: str) -> Any:
        """A hub's config that serves WebSocket and WireGuard."""
        words = ["init", "--config", self.config, "--registry", self.folder / "registry.db"]
        words += ["--endpoint", HUB_OUTER, "--subnet", "10.8.0.0/24", "--json", *more]
        return self(*words).json()

    def up(self, config: Path | None = None) -> Done:
        """`smartvpn up`, its log in the folder."""
        done = self("up", config or self.config, "--log", self.log)
        assert done.status == 0, done.err
        return done

    def down(self) -> None:
        """End the daemon, if there is one."""
        self("down")
