"""Engine events → asyncio, and what is reported → everybody who listens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from smartvpn._listeners import Subscription
from smartvpn._native import NativeClient, NativeEvent, NativeServer, NativeWireGuard
from smartvpn.events import Event

P = ParamSpec("P")
T = TypeVar("T")

_EVENTS_A_TURN = 64


async def to_the_end(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `asyncio.to_thread`, but a cancellation waits for the thread: an undo must not overtake it."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


class Fanout:
    """Hands each event to every subscriber."""

    def __init__(self) -> None:
        self._subscribers: set[Subscription] = set()

    def subscribe(self) -> Subscription:
        """A new subscriber; give it back with `unsubscribe`."""
        subscriber = Subscription()
        self._subscribers.add(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscription) -> None:
        """No more events; its iteration ends."""
        self._subscribers.discard(subscriber)
        subscriber.close()

    def publish(self, event: Event) -> None:
        """To all; never waits for a slow one."""
        for subscriber in self._subscribers:
            subscriber.put(event)


class EnginePump:
    """Drains an engine's events on the loop for as long as the engine lives."""

    def __init__(
        self, engine: NativeServer | NativeClient | NativeWireGuard, handle: Callable[[NativeEvent], None]
    ) -> None:
        self._engine = engine
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._fd = engine.event_fd
        self._loop.add_reader(self._fd, self._drain)

    def _drain(self) -> bool:
        """Some events, so that others get their turn: the descriptor stays readable. False: that was all."""
        for _ in range(_EVENTS_A_TURN):
            if self._fd < 0 or (event := self._engine.next_event()) is None:
                return False
            self._handle(event)
        return True

    def _detach(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._fd = -1

    async def close(self) -> None:
        """Hand on what is left, then end the engine, off the loop."""
        more = self._drain()
        while more:
            await asyncio.sleep(0)
            more = self._drain()
        self._detach()
        await asyncio.to_thread(self._engine.close)
