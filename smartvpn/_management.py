"""Where a daemon is spoken to: its own stdin and stdout, or a Unix socket that only its owner may use."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import selectors
import signal
import socket
import stat
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from smartvpn._native import Capability, drop_privileges
from smartvpn.errors import ConflictError, PermissionDeniedError

Read: TypeAlias = Callable[[], Awaitable[bytes]]
Write: TypeAlias = Callable[[bytes], Awaitable[None]]

_READ_BYTES = 64 * 1024
_LONGEST_PATH = 107  # unix(7): sun_path with its zero
_PEER_CREDENTIALS = struct.Struct("3i")


# streams


def stream_read(reader: asyncio.StreamReader) -> Read:
    """Reads what has come; nothing at the end."""
    return lambda: reader.read(_READ_BYTES)


def stream_write(writer: asyncio.StreamWriter) -> Write:
    """Writes, and waits until the kernel has all of it: nothing is lost at our end, or heaped up."""
    writer.transport.set_write_buffer_limits(high=0)

    async def write(line: bytes) -> None:
        writer.write(line)
        await writer.drain()

    return write


# stdio


@contextlib.asynccontextmanager
async def open_stdio() -> AsyncIterator[tuple[Read, Write]]:
    """Reading stdin and writing stdout, be they pipes, sockets, terminals or files."""
    with contextlib.ExitStack() as stack:
        yield await _input(stack, 0), await _output(stack, 1)


async def _input(stack: contextlib.ExitStack, fd: int) -> Read:
    if not _is_pollable(fd):
        return lambda: asyncio.to_thread(os.read, fd, _READ_BYTES)
    reader = asyncio.StreamReader()
    pipe = os.fdopen(os.dup(fd), "rb", buffering=0)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    stack.callback(transport.close)
    return stream_read(reader)


async def _output(stack: contextlib.ExitStack, fd: int) -> Write:
    if not _is_pollable(fd):
        return _file_write(stack, fd)
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(os.dup(fd), "wb", buffering=0)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
    stack.callback(transport.close)
    return stream_write(asyncio.StreamWriter(transport, protocol, None, loop))


def _file_write(stack: contextlib.ExitStack, fd: int) -> Write:
    file = stack.enter_context(os.fdopen(os.dup(fd), "wb"))

    async def write(line: bytes) -> None:
        file.write(line)
        file.flush()

    return write


def _is_pollable(fd: int) -> bool:
    """False for files and /dev/null, which are always ready and which epoll(7) refuses."""
    with selectors.DefaultSelector() as selector:
        try:
            selector.register(fd, selectors.EVENT_READ)
        except PermissionError:
            return False
    return True


# the socket


class ManagementSocket:
    """A listening socket, and the file that names it."""

    def __init__(self, listener: socket.socket, path: Path | None = None) -> None:
        listener.setblocking(False)
        self.listener = listener
        self._path = path
        self._identity = None if path is None else _identity(path)
        self._janitor: tuple[int, int] | None = None

    @classmethod
    def bind(cls, path: Path) -> ManagementSocket:
        """Listen on `path`, mode 0600 from the file's first moment; what a dead daemon left is replaced.

        Raises ConflictError when a daemon or something else is there, PermissionDeniedError.
        """
        try:
            with _directory_locked(path.parent) as directory:
                _refuse_what_is_there(path)
                return cls(_listening(path, directory), path)
        except OSError as error:
            kind = PermissionDeniedError if isinstance(error, PermissionError) else ConflictError
            raise kind(f"cannot listen on {path}: {error.strerror or error}") from None

    @classmethod
    def inherited(cls) -> ManagementSocket | None:
        """The socket that a systemd socket unit handed over, if there is one (sd_listen_fds(3))."""
        if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
            return None
        return cls(socket.socket(fileno=3))

    def hand_over(self, user: int, group: int, *, tidy: bool) -> None:
        """Make the file that user's, who this process is to become; before any thread is started.

        The user may not remove it from a folder of root's. With `tidy` a process does that which waits for
        our end, however it comes, with no other right; else the service manager has to.
        """
        if self._path is None:
            return
        with contextlib.suppress(PermissionError):  # a unit without CAP_CHOWN: it stays root's
            os.chown(self._path, user, group, follow_symlinks=False)
        if not tidy:
            return
        reading, writing = os.pipe()
        pid = os.fork()
        if pid:
            os.close(reading)
            self._janitor = pid, writing
            return
        try:
            self._remove_at_end(reading)
        finally:
            os._exit(0)

    def _remove_at_end(self, reading: int) -> None:
        """The other process: nothing of ours is kept open but the pipe, whose end is our end."""
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.dup2(reading, 3)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        for standard in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), standard)
        os.closerange(4, 16)
        drop_privileges(0, 0, [Capability.DAC_OVERRIDE])
        os.read(3, 1)
        self._remove()

    def close(self) -> None:
        """Stop listening and remove the file, unless another daemon's has taken its place."""
        self.listener.close()
        if self._janitor is None:
            self._remove()
            return
        pid, writing = self._janitor
        os.close(writing)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)

    def _remove(self) -> None:
        if self._path is None:
            return
        with contextlib.suppress(OSError), _directory_locked(self._path.parent):
            if _identity(self._path) == self._identity:
                self._path.unlink()


def peer_uid(connection: socket.socket) -> int:
    """The user id of the process that connected."""
    size = _PEER_CREDENTIALS.size
    _, uid, _ = _PEER_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)


def may_command(uid: int) -> bool:
    """Whether it is that of this process, or root's."""
    return uid in (0, os.geteuid())


@contextlib.contextmanager
def _directory_locked(directory: Path) -> Iterator[int]:
    """Of daemons that start at one moment, only one at a time looks and binds. Yields a descriptor."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _refuse_what_is_there(path: Path) -> None:
    """Unless it is nothing, or what a dead daemon left."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConflictError(f"{path} exists and is no socket")
    if _is_live(path):
        raise ConflictError(f"a daemon listens on {path} already")


def _is_live(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a daemon whose backlog is full lives
        return probe.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT)


def _listening(path: Path, directory: int) -> socket.socket:
    """Listens before it has its name: whoever sees the file can connect."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise OSError("AF_UNIX path too long")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unnamed = f"/proc/self/fd/{directory}/.smartvpn-{os.getpid()}"
    before = os.umask(0o177)
    try:
        listener.bind(unnamed)
        listener.listen()
        Path(unnamed).replace(path)
    except BaseException:
        listener.close()
        Path(unnamed).unlink(missing_ok=True)
        raise
    finally:
        os.umask(before)
    return listener


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
