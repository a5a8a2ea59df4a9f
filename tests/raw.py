"""Daemons as processes, spoken to in raw JSON lines: nothing of the bridge stands in between."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DAEMON = (sys.executable, "-P", "-m", "smartvpn.daemon")
IMPATIENT = (
    sys.executable,
    "-P",
    "-c",
    "import sys\n"
    "from smartvpn import daemon, tunnel\n"
    "tunnel.HANDSHAKE_SECS, tunnel.CONNECT_SECS = 0.3, 0.5\n"
    "sys.exit(daemon.main())\n",
)
"""a client's daemon that soon gives up a hub which says nothing"""
TIMEOUT = 60.0
ENDINGS = [signal.SIGTERM, signal.SIGINT]
AS_NOBODY = (
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--bounding-set=-all,+dac_read_search",
    "--inh-caps=-all,+dac_read_search",  # the sources may lie where only root looks
    "--ambient-caps=+dac_read_search",
)


class Lines:
    """JSON lines over two file descriptors."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._buffer = b""
        self._ids = itertools.count()
        self.events: list[dict[str, Any]] = []

    def write(self, data: bytes) -> None:
        """All of the bytes."""
        while data:
            data = data[os.write(self._write_fd, data) :]

    def send(self, **message: Any) -> None:
        """One object as a line."""
        self.write(json.dumps(message).encode() + b"\n")

    def line(self) -> bytes | None:
        """The next line, or None at the end. Raises TimeoutError."""
        deadline = time.monotonic() + TIMEOUT
        while b"\n" not in self._buffer:
            if not select.select([self._read_fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("no line came")
            data = os.read(self._read_fd, 1 << 16)
            if not data:
                assert self._buffer == b""
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def receive(self) -> dict[str, Any]:
        """The next object."""
        line = self.line()
        assert line is not None, "the daemon has closed the connection"
        message: dict[str, Any] = json.loads(line)
        return message

    def answer(self) -> dict[str, Any]:
        """The next object that is no event; events are kept in `events`."""
        while "event" in (message := self.receive()):
            self.events.append(message)
        return message

    def event(self, name: str) -> Any:
        """The data of the next event of that name."""
        while True:
            message = self.events.pop(0) if self.events else self.receive()
            if message.get("event") == name:
                return message["data"]

    def ask(self, method: str, params: Any = None) -> dict[str, Any]:
        """A request's answer, of which only the id has been taken out."""
        request_id = f"r{next(self._ids)}"
        self.send(id=request_id, method=method, params=params)
        answer = self.answer()
        assert answer.pop("id") == request_id
        return answer

    def result(self, method: str, params: Any = None) -> Any:
        """The result of a request that succeeds."""
        answer = self.ask(method, params)
        assert answer["success"] is True, answer
        return answer["result"]

    def refusal(self, method: str, params: Any = None) -> tuple[str, str]:
        """Code and text of the error of a request that fails."""
        answer = self.ask(method, params)
        assert answer["success"] is False, answer
        return answer["code"], answer["error"]


class DaemonProcess:
    """A daemon; as a context manager it is ended, and must not have shown a traceback."""

    def __init__(
        self,
        *arguments: str,
        prefix: tuple[str, ...] = (),
        pass_fds: tuple[int, ...] = (),
        program: tuple[str, ...] = DAEMON,
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [*prefix, *program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env=environment(),
            pass_fds=pass_fds,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.lines = Lines(self.stdout.fileno(), self.stdin.fileno())

    @classmethod
    def stdio(cls, mode: str, *more: str, prefix: tuple[str, ...] = ()) -> DaemonProcess:
        """One that speaks over its pipes."""
        return cls("--management", "--mode", mode, *more, prefix=prefix)

    @property
    def errors(self) -> str:
        """What it wrote to stderr so far."""
        return os.pread(self._errors.fileno(), 1 << 24, 0).decode()

    def signal(self, number: int) -> int:
        """Its status after a signal."""
        self.process.send_signal(number)
        return self.status()

    def end(self) -> int:
        """Its status after the end of its input."""
        self.stdin.close()
        return self.status()

    def status(self) -> int:
        """Its exit status, once it has ended."""
        return self.process.wait(TIMEOUT)

    def __enter__(self) -> DaemonProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(TIMEOUT)
        self.process.kill()
        self.process.wait()
        self.stdin.close()
        self.stdout.close()
        errors = self.errors
        self._errors.close()
        assert "Traceback" not in errors, errors


class SocketDaemon(DaemonProcess):
    """One on a Unix socket."""

    def __init__(
        self,
        path: Path,
        *more: str,
        prefix: tuple[str, ...] = (),
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        arguments = ("--management-socket", str(path), "--mode", "server", *more)
        super().__init__(*arguments, prefix=prefix, pass_fds=pass_fds)
        self.path = path

    def connect(self) -> Connection:
        """A new connection, once the daemon listens; its `ready` has been read."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                connection = Connection(self.path)
            except (FileNotFoundError, ConnectionRefusedError):
                assert self.process.poll() is None, self.errors
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                assert connection.receive()["event"] == "ready"
                return connection


class Connection(Lines):
    """A connection to a daemon's socket; a context manager."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.connect(str(path))
        except BaseException:
            self.socket.close()
            raise
        super().__init__(self.socket.fileno(), self.socket.fileno())

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def environment() -> dict[str, str]:
    """Ours, and the same module path."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def run_daemon(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """A daemon that ends by itself; it must not have shown a traceback."""
    done = subprocess.run(
        [*prefix, *DAEMON, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment(),
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done
