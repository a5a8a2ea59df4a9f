"""What may happen at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import define, field


@define
class _Turn:
    lock: asyncio.Lock = field(factory=asyncio.Lock)
    users: int = 0


class Changes:
    """Changes to one thing come one after the other, to different things side by side.

    Side by side they wait for the disk together. Starting and stopping the hub happen alone.
    """

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}
        self._gate = asyncio.Lock()
        self._under_way = 0
        self._none_under_way = asyncio.Event()
        self._none_under_way.set()

    @asynccontextmanager
    async def to(self, thing: str) -> AsyncIterator[None]:
        """Change `thing`."""
        async with self._gate:
            self._enter()
        try:
            async with self._turn(thing):
                yield
        finally:
            self._leave()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Change everything, once what is under way has ended."""
        async with self._gate:
            await self._none_under_way.wait()
            yield

    def _enter(self) -> None:
        self._under_way += 1
        self._none_under_way.clear()

    def _leave(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._none_under_way.set()

    @asynccontextmanager
    async def _turn(self, thing: str) -> AsyncIterator[None]:
        turn = self._turns.setdefault(thing, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[thing]
