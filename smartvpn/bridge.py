"""Typed requests and events over the JSON-lines protocol, to a daemon of our own or one that runs.

async with VpnBridge("server", {"transport": "stdio"}) as bridge:
    pair = await bridge.request("generateKeypair")
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from attrs import field, frozen

from smartvpn import _fields as check
from smartvpn._fields import camel_case, integer, type_name, valid
from smartvpn._json import from_json
from smartvpn._links import Link, Lost, PipeLink, daemon_command, open_link
from smartvpn._listeners import QUEUE_LIMIT, Callback, Listeners, Subscription, Unsubscribe
from smartvpn.commands import COMMANDS, Command, Mode
from smartvpn.errors import (
    BadRequestError,
    ConfigError,
    InvalidStateError,
    SmartVpnError,
    UnknownMethodError,
    UnreachableError,
    VpnTimeoutError,
)
from smartvpn.events import Event, Exited, Ready, Reconnected
from smartvpn.ipc import (
    PROTOCOL_VERSION,
    Answer,
    AnswerReader,
    Failure,
    LineSplitter,
    LineTooLong,
    Message,
    encode_request,
)

READY_SECS = 30.0
REQUEST_SECS = 60.0

_LOG = logging.getLogger(__name__)


def _path(value: str | os.PathLike[str]) -> str:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


@frozen(kw_only=True)
class StdioTransport:
    """A daemon of our own: `start` spawns it, `stop` ends it."""


@frozen(kw_only=True)
class SocketTransport:
    """A daemon that runs already and lives on, at the Unix socket `socket_path`.

    With `auto_reconnect` a lost connection is tried again up to `max_reconnect_attempts` times,
    after a delay in milliseconds that doubles from the base to the maximum, with jitter.
    """

    socket_path: str = field(converter=_path, validator=valid(check.filled))
    auto_reconnect: bool = field(default=False, validator=valid(check.boolean))
    reconnect_base_delay_ms: int = field(default=100, validator=valid(integer(1)))
    reconnect_max_delay_ms: int = field(default=30_000, validator=valid(integer(1)))
    max_reconnect_attempts: int = field(default=10, validator=valid(integer(0)))

    def delay_secs(self, attempt: int) -> float:
        """The time before that attempt, counted from 0: at least half of it, at random."""
        longest: int = min(self.reconnect_base_delay_ms << min(attempt, 60), self.reconnect_max_delay_ms)
        return random.uniform(0.5, 1.0) * longest / 1000


TransportOptions: TypeAlias = StdioTransport | SocketTransport
AnyTransport: TypeAlias = TransportOptions | Mapping[str, Any]


def read_transport(options: AnyTransport) -> TransportOptions:
    """Transport options out of a mapping such as `{"transport": "socket", "socketPath": "…"}`.

    Its names may be camelCase or snake_case. Raises ConfigError naming the field.
    """
    if isinstance(options, StdioTransport | SocketTransport):
        return options
    if not isinstance(options, Mapping):
        raise ConfigError("transport", f"expected an object, got {type_name(options)}")
    rest = {camel_case(str(name)): value for name, value in options.items()}
    if isinstance(rest.get("socketPath"), os.PathLike):
        rest["socketPath"] = os.fspath(rest["socketPath"])
    kind = rest.pop("transport", None)
    if kind == "stdio":
        return from_json(rest, StdioTransport)
    if kind == "socket":
        return from_json(rest, SocketTransport)
    raise ConfigError("transport", "is not one of stdio, socket")


class _Connection:
    """One link and the requests in flight on it."""

    def __init__(
        self, on_event: Callable[[Event], None], on_lost: Callable[[_Connection, Lost], None]
    ) -> None:
        self._on_event = on_event
        self._on_lost = on_lost
        self._link: Link | None = None
        self._lost: Lost | None = None
        self._lines = LineSplitter()
        self._reader = AnswerReader()
        self._ids = itertools.count(1)
        self._pending: dict[str, asyncio.Future[Any]] = {}
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()

    async def open(self, target: str | Sequence[str], mode: Mode) -> Ready:
        """Open the link and wait for the daemon's first word. A link that fails is closed again."""
        try:
            self._link = await open_link(target, self._receive, self._end)
            ready = await self._greeting(mode)
            if self._lost is not None:
                raise UnreachableError(self._lost.reason)
            return ready
        except BaseException:
            self._ready.cancel()
            await self.close()
            raise

    async def _greeting(self, mode: Mode) -> Ready:
        try:
            async with asyncio.timeout(READY_SECS):
                ready = await self._ready
        except TimeoutError:
            raise UnreachableError(f"the daemon said nothing for {READY_SECS:g} s") from None
        if ready.protocol != PROTOCOL_VERSION:
            raise UnreachableError(f"the daemon speaks protocol {ready.protocol}, not {PROTOCOL_VERSION}")
        if ready.mode != mode:
            raise InvalidStateError(f"the daemon runs in {ready.mode} mode, not in {mode} mode")
        return ready

    async def request(self, command: Command, params: object) -> Any:
        """The answer's JSON. Raises what the daemon answered, or UnreachableError when it is lost."""
        if self._link is None or self._lost is not None:
            raise UnreachableError(self._lost.reason if self._lost else "the daemon is not connected")
        request_id = f"req_{next(self._ids)}"
        answer = self._pending[request_id] = asyncio.get_running_loop().create_future()
        try:
            # A command with a list may have more to tell than one line holds.
            stream = command.bare is not None
            self._link.send(encode_request(request_id, command, params, stream=stream))
            return await answer
        finally:
            del self._pending[request_id]
            _forget(answer)

    @property
    def pid(self) -> int | None:
        """The process at the other end, when it is our child."""
        return self._link.pid if isinstance(self._link, PipeLink) else None

    async def close(self) -> None:
        """Close the link and wait until it is gone."""
        if self._link is not None:
            await self._link.close()

    def _receive(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            if isinstance(line, LineTooLong):
                _LOG.warning("a line of the daemon was too long and is lost")
            else:
                self._receive_line(bytes(line))

    def _receive_line(self, line: bytes) -> None:
        """A line that is no message, such as an event of a newer daemon, harms no other."""
        try:
            messages = self._reader.feed(line + b"\n")
        except (SmartVpnError, TypeError) as error:
            _LOG.warning("a line of the daemon was no message: %s", error)
            return
        for message in messages:
            self._dispatch(message)

    def _dispatch(self, message: Message) -> None:
        if isinstance(message, Answer):
            self._settle(message.id, message.result)
        elif isinstance(message, Failure):
            self._settle(message.id, message.error)
        elif isinstance(message, Ready):
            if not self._ready.done():
                self._ready.set_result(message)
        else:
            self._on_event(message)

    def _settle(self, request_id: str | None, result: object) -> None:
        answer = None if request_id is None else self._pending.get(request_id)
        if answer is None or answer.done():
            _LOG.debug("nobody waits for the answer to %s", request_id)
        elif isinstance(result, SmartVpnError):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    def _end(self, lost: Lost) -> None:
        self._lost = lost
        for waiting in (self._ready, *self._pending.values()):
            if not waiting.done():
                waiting.set_exception(UnreachableError(lost.reason))
        _forget(self._ready)
        self._on_lost(self, lost)


def _forget(future: asyncio.Future[Any]) -> None:
    """Take note of its exception, so that asyncio does not report one that nobody waits for."""
    if future.done() and not future.cancelled():
        future.exception()


class VpnBridge:
    """Requests to a daemon and its events; `VpnServer` and `VpnClient` stand on it.

    `mode` is what the daemon is: "server" or "client". With the transport `stdio` `start` spawns
    a daemon, by `command` where it is given and else on this interpreter, and `stop` ends it. With
    `socket` `start` attaches to a daemon that runs, and `stop` only closes the connection.
    """

    def __init__(
        self,
        mode: Mode | Literal["server", "client"],
        transport: AnyTransport,
        *,
        command: Sequence[str] | None = None,
        request_timeout: float | None = REQUEST_SECS,
    ) -> None:
        self.mode = Mode(mode)
        self.transport = read_transport(transport)
        self.request_timeout = request_timeout
        self.ready: Ready | None = None
        self._command = tuple(command) if command is not None else daemon_command(self.mode)
        self._listeners = Listeners()
        self._connection: _Connection | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self._stopping = False

    @property
    def running(self) -> bool:
        """Whether the daemon is connected."""
        return self._connection is not None and self.ready is not None

    @property
    def pid(self) -> int | None:
        """The process id of a daemon of our own, while it runs."""
        return None if self._connection is None else self._connection.pid

    async def start(self) -> None:
        """Spawn the daemon or attach to it, and wait until it speaks. Does nothing when it is connected.

        Raises UnreachableError when there is no daemon, it cannot be started, or it does not speak
        our protocol; PermissionDeniedError; InvalidStateError when it runs in the other mode.
        """
        async with self._changing:
            await self._end_reconnecting()
            if not self.running:
                await self._connect()

    async def stop(self) -> None:
        """End a daemon of our own, or close the connection to another's. All iterators of events end."""
        async with self._changing:
            self._stopping = True
            try:
                await self._end_reconnecting()
                if self._connection is not None:
                    await self._connection.close()
            finally:
                self._stopping = False
                self._listeners.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def request(
        self, method: str, *params: object, timeout: float | None = None, **named: object
    ) -> Coroutine[Any, Any, Any]:
        """Send a command and return its result, as the control classes do.

        Params go by position in the order of the protocol's reference, or by their Python names.
        `timeout` is in seconds; without it that of the bridge holds. Raises VpnTimeoutError,
        UnreachableError when the daemon is lost before it answers, the error that it answered,
        ConfigError for wrong params, UnknownMethodError, and TypeError for a wrong number of params.
        """
        command = COMMANDS[self.mode].get(method)
        if command is None:
            raise UnknownMethodError(f"there is no method '{method}' in {self.mode} mode")
        seconds = self.request_timeout if timeout is None else timeout
        return self._request(command, command.bind(*params, **named), seconds)

    def events(self, limit: int = QUEUE_LIMIT) -> Subscription:
        """An async iterator over all events from now on; at most `limit` wait for their reader."""
        subscription = Subscription(limit)
        self._listeners.add(subscription)
        return subscription

    def on(self, event_name: str, callback: Callback) -> Unsubscribe:
        """Call `callback(event)` on the loop for each such event, until the returned function is called.

        Raises ConfigError for a name no event has.
        """
        return self._listeners.on(event_name, callback)

    @property
    def listeners(self) -> Listeners:
        """Who listens; for classes that hand events on."""
        return self._listeners

    async def _request(self, command: Command, params: object, seconds: float | None) -> Any:
        if self._connection is None:
            raise self._not_connected()
        try:
            async with asyncio.timeout(seconds):
                answer = await self._connection.request(command, params)
        except VpnTimeoutError:  # is what the daemon answered
            raise
        except TimeoutError:
            raise VpnTimeoutError(f"{command.method}: no answer in {seconds:g} s") from None
        return _result(command, answer)

    def _not_connected(self) -> SmartVpnError:
        if self._reconnecting is not None:
            return UnreachableError("the connection to the daemon is lost and tried again")
        return InvalidStateError("the daemon is not started")

    async def _connect(self) -> None:
        connection = _Connection(self._listeners.publish, self._on_lost)
        target = self.transport.socket_path if isinstance(self.transport, SocketTransport) else self._command
        self.ready = await connection.open(target, self.mode)
        self._connection = connection

    def _on_lost(self, connection: _Connection, lost: Lost) -> None:
        if connection is not self._connection:
            return
        self._connection = self.ready = None
        transport = self.transport
        if isinstance(transport, StdioTransport):
            self._listeners.publish(Exited(code=lost.code, signal=lost.signal))
        elif self._stopping:
            return
        elif transport.auto_reconnect:
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect(transport))
        else:
            self._listeners.publish(Exited())

    async def _reconnect(self, transport: SocketTransport) -> None:
        for attempt in range(transport.max_reconnect_attempts):
            await asyncio.sleep(transport.delay_secs(attempt))
            try:
                await self._connect()
            except SmartVpnError as error:
                _LOG.info("attempt %d to attach to the daemon: %s", attempt + 1, error)
            else:
                self._reconnecting = None
                self._listeners.publish(Reconnected())
                return
        self._reconnecting = None
        self._listeners.publish(Exited())

    async def _end_reconnecting(self) -> None:
        task, self._reconnecting = self._reconnecting, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _result(command: Command, answer: Any) -> Any:
    try:
        return command.python_result(command.read_result(answer))
    except ConfigError as error:
        raise BadRequestError(f"{command.method}: the daemon's answer is wrong: {error}") from None
