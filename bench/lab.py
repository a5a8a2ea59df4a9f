"""Namespaces joined by veth, and the processes in them; all of it is gone when the lab closes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

HUB_OUTER = "10.201.0.1"
CLIENT_OUTER = "10.201.0.2"
OUTER_MTU = 1500
_PREFIX = "svbench"
_GRACE_SECONDS = 5.0


class LabError(Exception):
    """Something of the set-up failed; the text says what, with the failed command's own words."""


def run(*argv: str, timeout: float = 60) -> str:
    """The output of a command. Raises LabError with its stderr when it fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(argv)}: no end after {timeout:g} s") from None
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 10) -> None:
    """Polls until `condition` holds. Raises LabError naming `what` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise LabError(f"{what}: not within {timeout:g} s")
        time.sleep(0.02)


class Namespace:
    """A network namespace with its loopback up."""

    def __init__(self, name: str) -> None:
        self.name = name
        run("ip", "netns", "add", name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments: str) -> None:
        """`ip` inside."""
        run("ip", "-n", self.name, *arguments)

    def command(self, *argv: str | Path) -> list[str]:
        """The command line that runs `argv` inside. `ip` becomes the command, so the pid is the command's."""
        return ["ip", "netns", "exec", self.name, *map(str, argv)]

    def run(self, *argv: str | Path, timeout: float = 60) -> str:
        """The output of a command inside."""
        return run(*self.command(*argv), timeout=timeout)

    def listens(self, port: int) -> bool:
        """Whether a TCP socket listens on `port`."""
        return bool(self.run("ss", "-Hltn", "sport", "=", f":{port}").strip())

    def delete(self) -> None:
        """Ends the namespace; devices in it go with it."""
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, check=False)


class Lab:
    """`hub` and `client` joined by veth, `crowd` for itself, a folder, and what is started through it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._logs: dict[int, Path] = {}

    def __enter__(self) -> Lab:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self) -> None:
        _delete_orphans()
        folder = tempfile.TemporaryDirectory(prefix=f"{_PREFIX}-{os.getpid()}-")
        self.folder = Path(self._stack.enter_context(folder))
        self.hub, self.client, self.crowd = (self._namespace(name) for name in ("hub", "client", "crowd"))
        self.hub.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.client.name)
        for end, address in ((self.hub, HUB_OUTER), (self.client, CLIENT_OUTER)):
            end.ip("address", "add", f"{address}/24", "dev", "eth0")
            end.ip("link", "set", "eth0", "mtu", str(OUTER_MTU), "up")

    def _namespace(self, role: str) -> Namespace:
        namespace = Namespace(f"{_PREFIX}-{os.getpid()}-{role}")
        self._stack.callback(namespace.delete)
        return namespace

    def spawn(
        self, where: Namespace, *argv: str | Path, stdin: int = subprocess.DEVNULL, stdout: int | None = None
    ) -> subprocess.Popen[str]:
        """Starts a process, which does not outlive this one.

        Without `stdout` what it says goes to its log, as its stderr always does.
        """
        path = self.folder / f"{len(self._logs)}.log"
        with path.open("w") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *where.command(*argv)],
                stdin=stdin,
                stdout=log if stdout is None else stdout,
                stderr=log,
                text=True,
                bufsize=1,
            )
        self._logs[process.pid] = path
        self._stack.callback(stop, process)
        return process

    def log_of(self, process: subprocess.Popen[str]) -> str:
        """The last lines of what a process wrote to its log."""
        return "\n".join(self._logs[process.pid].read_text(errors="replace").splitlines()[-10:])

    def check_alive(self, processes: Iterable[subprocess.Popen[str]]) -> None:
        """Raises LabError with the log of the first that has ended."""
        for process in processes:
            if process.poll() is not None:
                raise LabError(f"{process.args!r} ended with {process.returncode}: {self.log_of(process)}")


def stop(process: subprocess.Popen[str]) -> None:
    """Ends a process, kindly first, and closes our ends of its pipes."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        _close(pipe)


def _close(pipe: IO[str] | None) -> None:
    if pipe is not None:
        with suppress(BrokenPipeError):
            pipe.close()


def _delete_orphans() -> None:
    """Removes what runs that were killed left behind."""
    for line in run("ip", "netns", "list").splitlines():
        if _orphaned(line):
            run("ip", "netns", "delete", line.split()[0])
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}-*"):
        if _orphaned(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _orphaned(name: str) -> bool:
    match = re.match(rf"{_PREFIX}-(\d+)-", name)
    return match is not None and not Path(f"/proc/{match[1]}").exists()
