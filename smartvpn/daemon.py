"""The daemon: the JSON-lines protocol over stdin/stdout or a Unix socket, in server or client mode.

    smartvpn_daemon --management --mode client|server
    smartvpn_daemon --management-socket PATH --mode client|server
    smartvpn_daemon --config PATH --mode client|server     (with or without one of the above)
    smartvpn_daemon --generate-keypair

Exit status: 0 a clean end, 1 what stands on stderr, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import stat
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from smartvpn._control import Fanout
from smartvpn._json import dump
from smartvpn._version import __version__
from smartvpn.commands import CLIENT_COMMANDS, SERVER_COMMANDS, ConnectParams, Mode, StartParams
from smartvpn.configfile import VpnConfig
from smartvpn.errors import ConflictError, SmartVpnError
from smartvpn.events import Event, Ready
from smartvpn.hub import Hub
from smartvpn.ipc import (
    PROTOCOL_VERSION,
    Refusal,
    Request,
    RequestReader,
    encode_error,
    encode_event,
    encode_result,
    encode_stream,
)
from smartvpn.network import Network
from smartvpn.tunnel import Tunnel
from smartvpn.types import Keypair

log = logging.getLogger(__name__)

_READ_BYTES = 64 * 1024
_PEER_CREDENTIALS = struct.Struct("3i")
_REQUESTS_AT_ONCE = 64

Reader = Callable[[], Awaitable[bytes]]


class Daemon:
    """One hub or tunnel, and the connections that command it."""

    def __init__(self, mode: Mode, *, tun_name: str | None = None, workers: int = 0) -> None:
        self.mode = mode
        self.fanout = Fanout()
        self.service: Hub | Tunnel = (
            Hub(self.fanout, tun_name=tun_name, workers=workers)
            if mode is Mode.SERVER
            else Tunnel(self.fanout, tun_name=tun_name)
        )
        self.ended = asyncio.Event()

    async def begin(self, config_path: Path | None) -> None:
        """Put right what a process that died left behind; then start from the file, if there is one."""
        for interface in await asyncio.to_thread(Network.restore_leftovers):
            log.warning("put right what was left of %s", interface)
        if config_path is None:
            return
        if isinstance(self.service, Hub):
            await self.service.start(StartParams(config=VpnConfig.load_from_file(config_path, "server")))
        else:
            config = VpnConfig.load_from_file(config_path, "client")
            await self.service.connect(ConnectParams(config=config))

    async def execute(self, request: Request) -> Any:
        """Run the request's method. Raises what the method raises."""
        names = {
            command.method: command.python_name for command in (SERVER_COMMANDS | CLIENT_COMMANDS).values()
        }
        name = "stop" if request.command.method == "stop" else names[request.command.method]
        return await getattr(self.service, name)(request.params)


class Connection:
    """One connection: lines in, answers and events out, each written whole."""

    def __init__(self, daemon: Daemon, read: Reader, writer: asyncio.StreamWriter) -> None:
        self._daemon = daemon
        self._read = read
        self._writer = writer
        self._requests = RequestReader(daemon.mode)
        self._slots = asyncio.Semaphore(_REQUESTS_AT_ONCE)
        self._writing = asyncio.Lock()

    async def serve(self) -> None:
        """Until the other side ends its input, or is gone."""
        subscriber = self._daemon.fanout.subscribe()
        try:
            await self._event(Ready(version=__version__, mode=self._daemon.mode, protocol=PROTOCOL_VERSION))
            async with asyncio.TaskGroup() as tasks:
                events = tasks.create_task(self._events(subscriber))
                await self._lines(tasks)
                self._daemon.fanout.unsubscribe(subscriber)
                events.cancel()
        except* (ConnectionError, BrokenPipeError):
            pass
        finally:
            self._daemon.fanout.unsubscribe(subscriber)

    async def _events(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            await self._event(event)

    async def _lines(self, tasks: asyncio.TaskGroup) -> None:
        while data := await self._read():
            for item in self._requests.feed(data):
                await self._begin(tasks, item)
        for item in self._requests.finish():
            await self._begin(tasks, item)

    async def _begin(self, tasks: asyncio.TaskGroup, item: Request | Refusal) -> None:
        if isinstance(item, Refusal):
            await self._write(encode_error(item.id, item.error))
            return
        await self._slots.acquire()
        tasks.create_task(self._answer(item))

    async def _answer(self, request: Request) -> None:
        try:
            await self._answer_one(request)
        finally:
            self._slots.release()

    async def _answer_one(self, request: Request) -> None:
        try:
            result = await self._daemon.execute(request)
        except SmartVpnError as error:
            await self._write(encode_error(request.id, error))
        except Exception as error:
            log.exception("%s failed", request.command.method)
            await self._write(encode_error(request.id, error))
        else:
            lines = (
                encode_stream(request.id, result) if request.stream else [encode_result(request.id, result)]
            )
            for line in lines:
                await self._write(line)

    async def _event(self, event: Event) -> None:
        await self._write(encode_event(event))

    async def _write(self, line: bytes) -> None:
        async with self._writing:
            self._writer.write(line)
            await self._writer.drain()


# stdio


async def _pipe_reader(fd: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    pipe = os.fdopen(os.dup(fd), "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


async def _pipe_writer(fd: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(os.dup(fd), "wb", buffering=0)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
    return asyncio.StreamWriter(transport, protocol, None, loop)


async def _serve_stdio(daemon: Daemon) -> None:
    reader, writer = await _pipe_reader(0), await _pipe_writer(1)
    try:
        await Connection(daemon, lambda: reader.read(_READ_BYTES), writer).serve()
    finally:
        daemon.ended.set()
        writer.close()


# the socket


def _is_live(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT, errno.ENOTSOCK)
    return True


def _bind(path: Path) -> socket.socket:
    """The listening socket, mode 0600 from its first moment. Raises ConflictError when a daemon is there."""
    if path.exists() or path.is_symlink():
        if _is_live(path):
            raise ConflictError(f"a daemon listens on {path} already")
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConflictError(f"{path} exists and is no socket")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise ConflictError(f"cannot listen on {path}: {error.strerror}") from None
    finally:
        os.umask(before)
    listener.listen()
    listener.setblocking(False)
    return listener


def _inherited() -> socket.socket | None:
    """The socket that a systemd socket unit handed over, if there is one (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    listener = socket.socket(fileno=3)
    listener.setblocking(False)
    return listener


def _may_command(connection: socket.socket) -> bool:
    """The owner of this process, and root."""
    size = _PEER_CREDENTIALS.size
    _, uid, _ = _PEER_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return uid in (0, os.geteuid())


async def _serve_socket(daemon: Daemon, listener: socket.socket) -> None:
    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if _may_command(writer.get_extra_info("socket")):
                await Connection(daemon, lambda: reader.read(_READ_BYTES), writer).serve()
            else:
                log.warning("a connection of another user was refused")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async with await asyncio.start_unix_server(on_connection, sock=listener) as server:
        await daemon.ended.wait()
        server.close()


# the process


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="smartvpn_daemon", description="smartvpn hub or client daemon")
    parser.add_argument("--management", action="store_true", help="JSON lines on stdin and stdout")
    parser.add_argument("--management-socket", type=Path, metavar="PATH", help="JSON lines on a Unix socket")
    parser.add_argument("--mode", type=Mode, choices=list(Mode), help="what the daemon is")
    parser.add_argument("--config", type=Path, metavar="PATH", help="start from this file")
    parser.add_argument("--generate-keypair", action="store_true", help="print a key pair and end")
    parser.add_argument("--tun-name", metavar="NAME", help="name of the TUN device")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="hub: threads, 0 for one a core")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    parser.add_argument("--version", action="version", version=__version__)
    arguments = parser.parse_args(argv)
    if arguments.generate_keypair:
        return arguments
    if arguments.mode is None:
        parser.error("--mode is required")
    if arguments.management and arguments.management_socket:
        parser.error("--management and --management-socket exclude each other")
    if not (arguments.management or arguments.management_socket or arguments.config):
        parser.error("one of --management, --management-socket, --config is required")
    return arguments


async def _run(arguments: argparse.Namespace, listener: socket.socket | None) -> None:
    daemon = Daemon(arguments.mode, tun_name=arguments.tun_name, workers=arguments.workers)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.ended.set)
    serving = asyncio.create_task(_serve(daemon, arguments, listener))
    try:
        await daemon.begin(arguments.config)
        await daemon.ended.wait()
    finally:
        daemon.ended.set()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await daemon.service.stop()


async def _serve(daemon: Daemon, arguments: argparse.Namespace, listener: socket.socket | None) -> None:
    if arguments.management:
        await _serve_stdio(daemon)
    elif listener is not None:
        await _serve_socket(daemon, listener)


def main(argv: list[str] | None = None) -> int:
    """The program `smartvpn_daemon`. Returns its exit status."""
    arguments = _arguments(argv)
    logging.basicConfig(
        level=arguments.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if arguments.generate_keypair:
        print(dump(Keypair.generate()))
        return 0
    path: Path | None = arguments.management_socket
    try:
        inherited = _inherited() if path is not None else None
        listener = inherited or (_bind(path) if path is not None else None)
    except SmartVpnError as error:
        print(f"smartvpn_daemon: {error}", file=sys.stderr)
        return 1
    try:
        asyncio.run(_run(arguments, listener))
    except SmartVpnError as error:
        print(f"smartvpn_daemon: {error}", file=sys.stderr)
        return 1
    finally:
        if path is not None and inherited is None:
            path.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
