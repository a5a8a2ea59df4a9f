"""The ways to a daemon: the pipes of a child process, or a Unix socket. Bytes only."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from attrs import frozen

from smartvpn.errors import PermissionDeniedError, SmartVpnError, UnreachableError

CLOSE_SECS = 10.0  # for a daemon to end after its input has ended: tunnels and rules are taken down
TERMINATE_SECS = 5.0
LINGER_SECS = 1.0
MAX_LOG_LINE = 8192

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_LOG = logging.getLogger(__name__)
_DAEMON_LOG = logging.getLogger("smartvpn.daemon")


@frozen
class Lost:
    """How a link ended: in words, and for a child process its status or signal."""

    reason: str
    code: int | None = None
    signal: int | None = None


OnData = Callable[[bytes], None]
OnLost = Callable[[Lost], None]


class Link(Protocol):
    """A connection to a daemon. `on_lost` is called once, when no more data will come."""

    def send(self, data: bytes) -> None:
        """Queue bytes for the daemon; they are lost when the link is."""

    async def close(self) -> None:
        """End the link and wait until it is gone. Cancelled, it ends what it can at once."""


class SocketLink(asyncio.Protocol):
    """A connection to the Unix socket of a daemon that lives on."""

    def __init__(self, on_data: OnData, on_lost: OnLost) -> None:
        self._on_data = on_data
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._gone = asyncio.Event()

    @classmethod
    async def open(cls, path: str, on_data: OnData, on_lost: OnLost) -> SocketLink:
        """Attach to `path`. Raises UnreachableError, PermissionDeniedError."""
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.create_unix_connection(lambda: cls(on_data, on_lost), path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise UnreachableError(f"no daemon listens on {path}") from None
        except PermissionError:
            raise PermissionDeniedError(f"no permission to connect to {path}") from None
        except OSError as error:
            raise UnreachableError(f"{path}: {error.strerror or error}") from None
        return link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the socket is connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes."""
        self._on_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio: the socket is closed."""
        self._gone.set()
        self._on_lost(Lost("the daemon closed the connection" if error is None else str(error)))

    def send(self, data: bytes) -> None:
        """Queue bytes for the daemon."""
        if self._transport is not None:
            self._transport.write(data)

    async def close(self) -> None:
        """Close the socket; what was not written yet is not waited for."""
        if self._transport is not None:
            self._transport.abort()
            await self._gone.wait()


class PipeLink(asyncio.SubprocessProtocol):
    """A daemon of our own, which lives as long as its standard input is open."""

    def __init__(self, on_data: OnData, on_lost: OnLost) -> None:
        self._on_data = on_data
        self._on_lost = on_lost
        self._log = _LogLines()
        self._transport: asyncio.SubprocessTransport | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()

    @classmethod
    async def open(cls, command: Sequence[str], on_data: OnData, on_lost: OnLost) -> PipeLink:
        """Start the program, in a session of its own: Ctrl-C is for the caller, who stops it in order.

        Raises UnreachableError when it cannot be started.
        """
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.subprocess_exec(
                lambda: cls(on_data, on_lost), *command, env=_environment(), start_new_session=True
            )
        except OSError as error:
            raise UnreachableError(f"{command[0]} cannot be started: {error.strerror or error}") from None
        return link

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return None if self._transport is None else self._transport.get_pid()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the child runs."""
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """asyncio: bytes of stdout or stderr."""
        if fd == _STDOUT:
            self._on_data(data)
        else:
            self._log.feed(data)

    def pipe_connection_lost(self, fd: int, error: Exception | None) -> None:
        """asyncio: a pipe has ended. A daemon that cannot answer any more is ended, if it does not end."""
        if fd != _STDERR and self._linger is None and not self._closing:
            self._end_soon()

    def process_exited(self) -> None:
        """asyncio: the child has ended. A grandchild may hold the pipes open: do not wait for it."""
        self._end_soon()

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio: the child has ended and its pipes are read."""
        if self._linger is not None:
            self._linger.cancel()
        self._log.finish()
        self._gone.set()
        self._on_lost(self._describe_end())
        self._require_transport().close()

    def send(self, data: bytes) -> None:
        """Queue bytes for the daemon."""
        if (stdin := self._stdin()) is not None:
            stdin.write(data)

    async def close(self) -> None:
        """End the daemon: close its input, then SIGTERM, then SIGKILL."""
        self._closing = True
        try:
            if (stdin := self._stdin()) is not None:
                stdin.close()
            for seconds, end in ((CLOSE_SECS, signal.SIGTERM), (TERMINATE_SECS, signal.SIGKILL)):
                if await self._gone_within(seconds):
                    return
                self._kill(end)
            await self._gone.wait()
        except asyncio.CancelledError:
            self._kill(signal.SIGKILL)
            raise

    _closing = False

    async def _gone_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        except TimeoutError:
            return False
        return True

    def _stdin(self) -> asyncio.WriteTransport | None:
        pipe = None if self._transport is None else self._transport.get_pipe_transport(_STDIN)
        return cast("asyncio.WriteTransport | None", pipe)

    def _require_transport(self) -> asyncio.SubprocessTransport:
        if self._transport is None:
            raise UnreachableError("the daemon was not started")
        return self._transport

    def _kill(self, number: signal.Signals) -> None:
        if self._transport is not None and self._transport.get_returncode() is None:
            _LOG.warning("the daemon (pid %d) does not end: %s", self._transport.get_pid(), number.name)
            self._transport.send_signal(number)

    def _end_soon(self) -> None:
        if self._linger is None:
            loop = asyncio.get_running_loop()
            self._linger = loop.call_later(LINGER_SECS, self._require_transport().close)

    def _describe_end(self) -> Lost:
        status = self._require_transport().get_returncode()
        if status is None:
            return Lost("the daemon's pipes are closed")
        words = f": {self._log.last}" if self._log.last and status else ""
        if status < 0:
            return Lost(f"the daemon was ended by {_signal_name(-status)}{words}", signal=-status)
        return Lost(f"the daemon ended with status {status}{words}", code=status)


class _LogLines:
    """A daemon's stderr, line by line into the log; a line without end is cut."""

    def __init__(self) -> None:
        self._rest = b""
        self.last = ""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._write(line)
        if len(self._rest) > MAX_LOG_LINE:
            self.finish()

    def finish(self) -> None:
        rest, self._rest = self._rest, b""
        self._write(rest)

    def _write(self, line: bytes) -> None:
        text = line[:MAX_LOG_LINE].decode("utf-8", "backslashreplace").strip()
        if text:
            self.last = text
            _DAEMON_LOG.info("%s", text)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _environment() -> dict[str, str]:
    """Ours, and the same module path, so that the child is the same smartvpn."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100
    return {**os.environ, "PYTHONPATH": path}


def daemon_command(mode: str) -> tuple[str, ...]:
    """The command line of a daemon on this interpreter that speaks over its pipes."""
    return (sys.executable, "-P", "-m", "smartvpn.daemon", "--management", "--mode", mode)


async def open_link(target: str | Sequence[str], on_data: OnData, on_lost: OnLost) -> Link:
    """A link to the socket at a path, or to a program by its command line. Raises SmartVpnError."""
    if isinstance(target, str):
        return await SocketLink.open(target, on_data, on_lost)
    if not target:
        raise SmartVpnError("the daemon's command line is empty")
    return await PipeLink.open(target, on_data, on_lost)
