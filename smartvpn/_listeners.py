"""Events on their way to the callers: callbacks, and queues that a slow reader cannot fill up."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias
from weakref import WeakSet

from smartvpn.errors import ConfigError
from smartvpn.events import EVENTS, Event, EventsLost

QUEUE_LIMIT = 1024

Callback: TypeAlias = Callable[[Any], object]
Unsubscribe: TypeAlias = Callable[[], None]

_LOG = logging.getLogger(__name__)


class Mailbox:
    """A bounded queue of events: the oldest make room, and their count is told in their place."""

    def __init__(self, limit: int = QUEUE_LIMIT) -> None:
        self._limit = limit
        self._events: deque[Event] = deque()
        self._lost = 0

    def put(self, event: Event) -> None:
        """Queue the event."""
        if len(self._events) >= self._limit:
            self._events.popleft()
            self._lost += 1
        self._events.append(event)

    def take(self) -> Event | None:
        """The next event, or None when there is none."""
        if self._lost:
            lost, self._lost = self._lost, 0
            return EventsLost(count=lost)
        return self._events.popleft() if self._events else None


class Listener(Protocol):
    """Who gets every event."""

    def put(self, event: Event) -> None:
        """Take the event; never waits."""

    def close(self) -> None:
        """No more events will come."""


class Subscription:
    """An async iterator over the events since it was made; it ends when the bridge is stopped.

    At most `limit` events wait for their reader. When more come the oldest are lost, and an
    EventsLost with their count comes first. One task reads a subscription at a time.
    """

    def __init__(self, limit: int = QUEUE_LIMIT) -> None:
        self._mailbox = Mailbox(limit)
        self._wakeup = asyncio.Event()
        self._closed = False

    def put(self, event: Event) -> None:
        """Queue the event."""
        if not self._closed:
            self._mailbox.put(event)
            self._wakeup.set()

    def close(self) -> None:
        """End the iteration once the queue is empty."""
        self._closed = True
        self._wakeup.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        while True:
            event = self._mailbox.take()
            if event is not None:
                return event
            if self._closed:
                raise StopAsyncIteration
            self._wakeup.clear()
            await self._wakeup.wait()


class Listeners:
    """Hands every event to all who listen, in the order in which they came."""

    def __init__(self) -> None:
        # Weak, so that an iterator that was left by `break` takes its queue along.
        self._queues: WeakSet[Listener] = WeakSet()
        self._callbacks: dict[str, list[Callback]] = {}

    def add(self, listener: Listener) -> None:
        """Hand it every event, for as long as somebody else holds it."""
        self._queues.add(listener)

    def on(self, name: str, callback: Callback) -> Unsubscribe:
        """Call `callback(event)` for each event of that name, until the returned function is called.

        Raises ConfigError for a name no event has, TypeError for a coroutine function.
        """
        if name not in EVENTS:
            raise ConfigError("event", f"is not one of {', '.join(EVENTS)}")
        if inspect.iscoroutinefunction(callback):
            raise TypeError("a callback is a plain function; coroutines read `events()`")
        callbacks = self._callbacks.setdefault(name, [])
        callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in callbacks:
                callbacks.remove(callback)

        return unsubscribe

    def publish(self, event: Event) -> None:
        """To all; a callback that fails is logged and stops nobody else."""
        for listener in list(self._queues):
            listener.put(event)
        for callback in tuple(self._callbacks.get(event.name, ())):
            try:
                callback(event)
            except Exception:
                _LOG.exception("a callback for '%s' failed", event.name)

    def close(self) -> None:
        """Let every iterator end; callbacks stay for the next start."""
        for listener in list(self._queues):
            self._queues.discard(listener)
            listener.close()
