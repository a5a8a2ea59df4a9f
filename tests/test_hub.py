"""A hub's parts on their own, with stand-ins for engine, registry and network."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from smartvpn._native import ClientCounters
from smartvpn.hub import _traffic
from smartvpn.hub._traffic import Traffic
from smartvpn.types import ClientTotals

# counters


class CountingEngine:
    """Has counted 100 bytes for alice."""

    def totals(self, client_id: str | None = None) -> list[ClientCounters]:
        """The same at every look."""
        return [ClientCounters(client_id="alice", totals=ClientTotals(bytes_sent=100), rate_limit=None)]


class SlowRegistry:
    """Writes at once, as a disk does that answers late: the answer waits for `answers`."""

    def __init__(self) -> None:
        self.written = 0
        self.began, self.answers = asyncio.Event(), asyncio.Event()

    async def add_totals(self, counted: Iterable[tuple[str, ClientTotals]]) -> None:
        """Add."""
        self.written += sum(totals.bytes_sent for _, totals in counted)
        self.began.set()
        await self.answers.wait()


async def test_counters_are_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that stops while its counters are being written does not write them again."""
    monkeypatch.setattr(_traffic, "ROLL_UP_SECS", 0)
    registry: Any = SlowRegistry()
    engine: Any = CountingEngine()
    traffic = Traffic(engine, registry)
    traffic.begin()
    await registry.began.wait()
    closing = asyncio.create_task(traffic.close())
    await asyncio.sleep(0.05)
    registry.answers.set()
    await closing
    assert registry.written == 100
