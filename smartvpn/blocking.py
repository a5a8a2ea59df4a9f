"""The same classes for plain scripts: each method waits for its answer.

    from smartvpn.blocking import VpnServer

    with VpnServer({"transport": "stdio"}, config) as server:
        bundle = server.create_client("alice")

All objects share one event loop on a thread of its own. Methods may be called from any thread; Ctrl-C
interrupts the call that waits. Callbacks given to `on` run on the loop's thread and must not call
these methods.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Self, TypeVar

from smartvpn import bridge, client, server
from smartvpn._listeners import QUEUE_LIMIT, Callback, Subscription, Unsubscribe
from smartvpn.bridge import REQUEST_SECS, AnyTransport
from smartvpn.commands import Mode
from smartvpn.config import ClientConfig, ServerConfig
from smartvpn.events import Event

__all__ = ["VpnBridge", "VpnClient", "VpnServer"]

T = TypeVar("T")
P = ParamSpec("P")
Inner = TypeVar("Inner")
A = TypeVar("A", bridge.VpnBridge, server.VpnServer, client.VpnClient)


class _LoopThread:
    """An event loop that runs on a thread, from its first use to the interpreter's end."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="smartvpn", daemon=True)
                self._thread.start()
                atexit.register(self._end)
            return self._loop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it on the loop and wait. An interrupted wait cancels it."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("a callback on the loop's thread cannot wait for the loop")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _end(self) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


_LOOP = _LoopThread()


def _waiting(
    method: Callable[Concatenate[Inner, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], T]:
    """The method as a plain call, with the same arguments and docstring."""

    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return _LOOP.run(method(self._inner, *args, **kwargs))

    call.__name__ = method.__name__
    call.__qualname__ = method.__qualname__
    call.__doc__ = method.__doc__
    return call


class _Blocking(Generic[A]):
    """What the three classes share: one object of the asyncio class, and its lifetime."""

    _inner: A

    @property
    def running(self) -> bool:
        """Whether the daemon is connected."""
        return self._inner.running

    def events(self, limit: int = QUEUE_LIMIT, timeout: float | None = None) -> Iterator[Event]:
        """An iterator over all events from now on; at most `limit` wait for their reader.

        It ends when the object is stopped, or when no event has come for `timeout` seconds.
        """
        inner = self._inner

        async def subscribe() -> Subscription:
            return inner.events(limit)

        subscription = _LOOP.run(subscribe())
        return self._each(subscription, timeout)

    def _each(self, subscription: Subscription, timeout: float | None) -> Iterator[Event]:
        async def next_event() -> Event | None:
            try:
                async with asyncio.timeout(timeout):
                    return await anext(subscription, None)
            except TimeoutError:
                return None

        while (event := _LOOP.run(next_event())) is not None:
            yield event

    def on(self, event_name: str, callback: Callback) -> Unsubscribe:
        """Call `callback(event)` on the loop's thread for each such event, until the result is called.

        Raises ConfigError for a name no event has.
        """
        inner = self._inner

        async def register() -> Unsubscribe:
            return inner.on(event_name, callback)

        return _LOOP.run(register())

    def __enter__(self) -> Self:
        _LOOP.run(self._inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _LOOP.run(self._inner.__aexit__(kind, error, trace))


class VpnBridge(_Blocking[bridge.VpnBridge]):
    """Requests to a daemon and its events."""

    def __init__(
        self,
        mode: Mode | Literal["server", "client"],
        transport: AnyTransport,
        *,
        command: Sequence[str] | None = None,
        request_timeout: float | None = REQUEST_SECS,
    ) -> None:
        self._inner = bridge.VpnBridge(mode, transport, command=command, request_timeout=request_timeout)

    start = _waiting(bridge.VpnBridge.start)
    stop = _waiting(bridge.VpnBridge.stop)

    def request(self, method: str, *params: object, timeout: float | None = None, **named: object) -> Any:
        """Send a command and return its result, as `smartvpn.VpnBridge.request` does."""
        return _LOOP.run(self._inner.request(method, *params, timeout=timeout, **named))


class VpnServer(_Blocking[server.VpnServer]):
    """A hub in a daemon: one method for each command of server mode."""

    def __init__(
        self,
        transport: AnyTransport,
        config: ServerConfig | server.Json | None = None,
        *,
        command: Sequence[str] | None = None,
        request_timeout: float | None = REQUEST_SECS,
    ) -> None:
        self._inner = server.VpnServer(transport, config, command=command, request_timeout=request_timeout)

    start = _waiting(server.VpnServer.start)
    stop_server = _waiting(server.VpnServer.stop_server)
    stop = _waiting(server.VpnServer.stop)
    get_status = _waiting(server.VpnServer.get_status)
    get_statistics = _waiting(server.VpnServer.get_statistics)
    create_client = _waiting(server.VpnServer.create_client)
    remove_client = _waiting(server.VpnServer.remove_client)
    get_client = _waiting(server.VpnServer.get_client)
    enable_client = _waiting(server.VpnServer.enable_client)
    disable_client = _waiting(server.VpnServer.disable_client)
    list_registered_clients = _waiting(server.VpnServer.list_registered_clients)
    update_client = _waiting(server.VpnServer.update_client)
    rotate_client_key = _waiting(server.VpnServer.rotate_client_key)
    export_client_config = _waiting(server.VpnServer.export_client_config)
    list_clients = _waiting(server.VpnServer.list_clients)
    disconnect_client = _waiting(server.VpnServer.disconnect_client)
    set_client_rate_limit = _waiting(server.VpnServer.set_client_rate_limit)
    remove_client_rate_limit = _waiting(server.VpnServer.remove_client_rate_limit)
    get_client_telemetry = _waiting(server.VpnServer.get_client_telemetry)
    generate_keypair = _waiting(server.VpnServer.generate_keypair)
    generate_wg_keypair = _waiting(server.VpnServer.generate_wg_keypair)
    generate_client_keypair = _waiting(server.VpnServer.generate_client_keypair)
    add_wg_peer = _waiting(server.VpnServer.add_wg_peer)
    remove_wg_peer = _waiting(server.VpnServer.remove_wg_peer)
    list_wg_peers = _waiting(server.VpnServer.list_wg_peers)


class VpnClient(_Blocking[client.VpnClient]):
    """A tunnel to a hub: one method for each command of client mode."""

    def __init__(
        self,
        transport: AnyTransport,
        config: ClientConfig | client.Json | None = None,
        *,
        command: Sequence[str] | None = None,
        request_timeout: float | None = REQUEST_SECS,
    ) -> None:
        self._inner = client.VpnClient(transport, config, command=command, request_timeout=request_timeout)

    start = _waiting(client.VpnClient.start)
    stop = _waiting(client.VpnClient.stop)
    connect = _waiting(client.VpnClient.connect)
    disconnect = _waiting(client.VpnClient.disconnect)
    get_status = _waiting(client.VpnClient.get_status)
    get_statistics = _waiting(client.VpnClient.get_statistics)
    get_connection_quality = _waiting(client.VpnClient.get_connection_quality)
    get_mtu_info = _waiting(client.VpnClient.get_mtu_info)
    generate_keypair = _waiting(client.VpnClient.generate_keypair)
