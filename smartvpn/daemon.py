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
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve

from smartvpn._caller import calling_as
from smartvpn._control import Fanout
from smartvpn._extras import how_to_install
from smartvpn._json import dump
from smartvpn._leftovers import leftovers_put_right
from smartvpn._management import (
    ManagementSocket,
    Read,
    Write,
    may_command,
    open_stdio,
    peer_uid,
    stream_read,
    stream_write,
)
from smartvpn._native import pem_text
from smartvpn._notify import Notifier
from smartvpn._privileges import Account, give_up
from smartvpn._version import __version__
from smartvpn.commands import ConnectParams, Mode, StartParams
from smartvpn.config import ClientConfig, ServerConfig
from smartvpn.configfile import AnyConfig, VpnConfig
from smartvpn.errors import ConfigError, InvalidStateError, SmartVpnError, UnreachableError, VpnTimeoutError
from smartvpn.events import Event, Ready
from smartvpn.hub import Hub
from smartvpn.ipc import (
    PROTOCOL_VERSION,
    Line,
    Refusal,
    Request,
    RequestReader,
    encode_error,
    encode_event,
    encode_long_result,
    encode_stream,
    is_long,
    takes_long,
)
from smartvpn.network import Network
from smartvpn.tunnel import Tunnel
from smartvpn.types import Keypair

log = logging.getLogger(__name__)

_REQUESTS_AT_ONCE = 64
_METRICS_ADDRESS = "127.0.0.1:9586"
_METRICS_CLIENTS = 100
_MOST_FILES = 1 << 19
_SWITCH_SECS = 0.001
_FIRST_PAUSE_SECS = 1
_LONGEST_PAUSE_SECS = 30


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
        self._commands: set[asyncio.Task[Any]] = set()

    async def begin(self, config: AnyConfig | None) -> None:
        """Start with the config, if there is one. Raises SmartVpnError."""
        if isinstance(config, ServerConfig) and isinstance(self.service, Hub):
            await self.service.start(StartParams(config=config))
        elif isinstance(config, ClientConfig) and isinstance(self.service, Tunnel):
            await _connect_when_possible(self.service, ConnectParams(config=config))

    async def execute(self, request: Request) -> Any:
        """Run the request's method. Raises what the method raises.

        A command runs to its end even when its connection is gone: nobody asked for half of it.
        """
        task = asyncio.create_task(self._method(request)(request.params))
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)
        return await asyncio.shield(task)

    def _method(self, request: Request) -> Any:
        name = "stop" if request.command.method == "stop" else request.command.python_name
        return getattr(self.service, name)

    async def close(self) -> None:
        """End what still runs, and give everything back."""
        for task in self._commands:
            task.cancel()
        await asyncio.gather(*self._commands, return_exceptions=True)
        await self.service.stop()


async def _connect_when_possible(tunnel: Tunnel, params: ConnectParams) -> None:
    """Connect, however long that takes: at boot the network, or the hub, may come later than we do.

    A command that connects meanwhile has done it. Raises SmartVpnError where time would not help.
    """
    pause = _FIRST_PAUSE_SECS
    while True:
        try:
            await tunnel.connect(params)
        except (UnreachableError, VpnTimeoutError) as error:
            log.warning("%s: next attempt in %d s", error, pause)
        except InvalidStateError:
            return
        else:
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECS)


class Connection:
    """One connection: lines in, answers and events out, each written whole."""

    def __init__(self, daemon: Daemon, read: Read, write: Write) -> None:
        self._daemon = daemon
        self._read = read
        self._write_part = write
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
        except* ConnectionError:
            pass
        finally:
            self._daemon.fanout.unsubscribe(subscriber)

    async def _events(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            await self._event(event)

    async def _lines(self, tasks: asyncio.TaskGroup) -> None:
        while data := await self._read():
            for line in self._requests.cut(data):
                await self._begin(tasks, await self._understood(line))
        for line in self._requests.last():
            await self._begin(tasks, await self._understood(line))

    async def _understood(self, line: Line) -> Request | Refusal:
        if takes_long(line):
            return await asyncio.to_thread(self._requests.read, line)
        return self._requests.read(line)

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
            async for line in _answer_lines(request, result):
                await self._write(*line)

    async def _event(self, event: Event) -> None:
        await self._write(encode_event(event))

    async def _write(self, *parts: bytes) -> None:
        """One line."""
        async with self._writing:
            for part in parts:
                await self._write_part(part)


async def _answer_lines(request: Request, result: Any) -> AsyncIterator[Sequence[bytes]]:
    """The answer, line by line; a long one is made on a thread, so that others are served meanwhile."""
    if not is_long(result):
        for line in _encoded(request, result):
            yield line
        return
    lines = _encoded(request, result)
    while line := await asyncio.to_thread(next, lines, ()):
        yield line


def _encoded(request: Request, result: Any) -> Iterator[Sequence[bytes]]:
    if request.stream:
        yield from ([line] for line in encode_stream(request.id, result))
    else:
        yield encode_long_result(request.id, result)


async def _serve_stdio(daemon: Daemon) -> None:
    async with open_stdio() as (read, write):
        await Connection(daemon, read, write).serve()


async def _serve_socket(daemon: Daemon, management: ManagementSocket) -> None:
    connections: set[asyncio.Task[None]] = set()

    def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_serve_connection(daemon, reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_unix_server(on_connection, sock=management.listener)
    try:
        await daemon.ended.wait()
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _serve_connection(
    daemon: Daemon, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        uid = peer_uid(writer.get_extra_info("socket"))
        if may_command(uid):
            with calling_as(uid):
                await Connection(daemon, stream_read(reader), stream_write(writer)).serve()
        else:
            log.warning("a connection of another user was refused: uid %d", uid)
    finally:
        writer.close()


# the process


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("expected a number, 0 or more")
    return int(text)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="smartvpn_daemon", description="smartvpn hub or client daemon")
    parser.add_argument("--management", action="store_true", help="JSON lines on stdin and stdout")
    parser.add_argument("--management-socket", type=Path, metavar="PATH", help="JSON lines on a Unix socket")
    parser.add_argument("--mode", type=Mode, choices=list(Mode), help="what the daemon is")
    parser.add_argument("--config", type=Path, metavar="PATH", help="start from this file")
    parser.add_argument("--user", metavar="NAME", help="be this user once socket and config are there")
    parser.add_argument("--generate-keypair", action="store_true", help="print a key pair and end")
    parser.add_argument("--tun-name", metavar="NAME", help="name of the TUN device")
    parser.add_argument(
        "--workers", type=_count, default=0, metavar="N", help="hub: threads, 0 for one a core"
    )
    parser.add_argument(
        "--metrics",
        nargs="?",
        const=_METRICS_ADDRESS,
        metavar="HOST:PORT",
        help=f"serve Prometheus metrics, on {_METRICS_ADDRESS} if nothing is said",
    )
    parser.add_argument(
        "--metrics-clients",
        type=_count,
        default=_METRICS_CLIENTS,
        metavar="N",
        help="clients with series of their own",
    )
    parser.add_argument(
        "--metrics-host", action="append", default=[], metavar="NAME", help="a name Prometheus may call it by"
    )
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


async def _run(
    arguments: argparse.Namespace, management: ManagementSocket | None, config: AnyConfig | None
) -> None:
    notifier = Notifier.from_environment()
    daemon = Daemon(arguments.mode, tun_name=arguments.tun_name, workers=arguments.workers)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.ended.set)
    async with leftovers_put_right(daemon.service if isinstance(daemon.service, Hub) else None):
        try:
            async with _metrics(daemon, arguments), asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(_serve(daemon, arguments, management))
                beginning = tasks.create_task(_begin(daemon, config, notifier))
                watching = tasks.create_task(notifier.watch())
                await daemon.ended.wait()
                for task in (serving, beginning, watching):
                    task.cancel()
        finally:
            notifier.stopping()
            await daemon.close()


@contextlib.asynccontextmanager
async def _metrics(daemon: Daemon, arguments: argparse.Namespace) -> AsyncIterator[None]:
    """The metrics endpoint, where it is wanted; its library is an extra."""
    if arguments.metrics is None:
        yield
        return
    try:
        from smartvpn.metrics import MetricsEndpoint
    except ModuleNotFoundError as error:
        fix = how_to_install("metrics")
        raise InvalidStateError(f"--metrics needs {error.name}: {fix}") from None
    endpoint = MetricsEndpoint(daemon.service, arguments.metrics_clients, arguments.metrics_host)
    await endpoint.start(arguments.metrics)
    try:
        yield
    finally:
        await endpoint.close()


async def _begin(daemon: Daemon, config: AnyConfig | None, notifier: Notifier) -> None:
    """A hub is ready when it listens; a client's daemon at once, since its hub may come later."""
    if daemon.mode is Mode.CLIENT:
        notifier.ready()
    await daemon.begin(config)
    if daemon.mode is Mode.SERVER:
        notifier.ready()


async def _serve(daemon: Daemon, arguments: argparse.Namespace, management: ManagementSocket | None) -> None:
    if arguments.management:
        await _serve_stdio(daemon)
        daemon.ended.set()
    elif management is not None:
        await _serve_socket(daemon, management)


def _management_socket(path: Path | None) -> ManagementSocket | None:
    if path is None:
        return None
    return ManagementSocket.inherited() or ManagementSocket.bind(path)


def _serve_until_ended(arguments: argparse.Namespace) -> None:
    account = None if arguments.user is None else Account.named(arguments.user)
    management = _management_socket(arguments.management_socket)
    try:
        config = _config(arguments)
        Network.look_around()
        if management is not None and account is not None and account.user not in (0, os.geteuid()):
            management.hand_over(account.user, account.group, tidy="NOTIFY_SOCKET" not in os.environ)
        give_up(account)
        asyncio.run(_run(arguments, management, config))
    finally:
        if management is not None:
            management.close()


def _config(arguments: argparse.Namespace) -> AnyConfig | None:
    """The file's config, checked. Raises ConfigError with the file's name, OSError."""
    if arguments.config is None:
        return None
    try:
        return _read_config(arguments)
    except ConfigError as error:
        if not error.field:  # it is no JSON, and says so by its name
            raise
        raise ConfigError("", f"{arguments.config}: {error}") from None


def _read_config(arguments: argparse.Namespace) -> AnyConfig:
    """With the text of the certificates it names: soon we may be another user."""
    if arguments.mode is Mode.CLIENT:
        return VpnConfig.load_from_file(arguments.config, "client")
    config = VpnConfig.load_from_file(arguments.config, "server")
    if config.tls_cert is None or config.tls_key is None:
        return config
    cert, key = pem_text("tlsCert", config.tls_cert), pem_text("tlsKey", config.tls_key)
    return evolve(config, tls_cert=cert, tls_key=key)


def _allow_files() -> None:
    """Two files a client: the soft limit of most systems, 1024, would end at some 500 clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _keep_the_loop_free() -> None:
    """Threads that make long answers give way soon, and modules are no garbage: to look takes 15 ms."""
    sys.setswitchinterval(_SWITCH_SECS)
    gc.collect()
    gc.freeze()


def main(argv: list[str] | None = None) -> int:
    """The program `smartvpn_daemon`. Returns its exit status."""
    arguments = _arguments(argv)
    logging.basicConfig(
        level=arguments.log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if arguments.generate_keypair:
        print(dump(Keypair.generate()))
        return 0
    _allow_files()
    _keep_the_loop_free()
    status = 0
    try:
        _serve_until_ended(arguments)
    except* (SmartVpnError, OSError) as group:
        for error in _leaves(group):
            print(f"smartvpn_daemon: {_in_words(error)}", file=sys.stderr)
        status = 1
    return status


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
