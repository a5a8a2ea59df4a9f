"""What was counted for each client: by the engine since the start, in the registry for ever.

Once a minute, and when the hub stops, what is new goes to the registry, in one write for all
clients. A process that is killed loses what it counted since.
"""

from __future__ import annotations

import asyncio
import logging

from smartvpn._native import ClientCounters, NativeServer
from smartvpn.errors import NotFoundError, RegistryError
from smartvpn.registry import Registry
from smartvpn.types import ClientTotals

log = logging.getLogger(__name__)

ROLL_UP_SECS = 60.0
_CLIENTS_A_TURN = 32


class Traffic:
    """The counters of one started hub's clients."""

    def __init__(self, engine: NativeServer, registry: Registry) -> None:
        self._engine = engine
        self._registry = registry
        self._rolling = asyncio.Lock()
        self._told: dict[str, ClientTotals] = {}  # the engine's counters as they were last taken
        self._pending: dict[str, ClientTotals] = {}  # taken, but not written yet
        self._gone: set[str] = set()  # removed since the counters under way were read
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Roll up every minute from now on."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Roll up once more; the engine must still be open. What cannot be written is told in the log."""
        if self._task is None:
            return
        async with self._rolling:  # a write under way ends first, or it would be made twice
            self._task.cancel()
        await asyncio.wait([self._task])
        await self._try()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(ROLL_UP_SECS)
            await self._try()

    async def _try(self) -> None:
        try:
            await self.roll_up()
        except RegistryError as error:
            log.error("traffic counters are not written yet: %s", error)

    async def roll_up(self) -> None:
        """Write what is new. Raises RegistryError; the next time it is tried again."""
        async with self._rolling:
            self._gone.clear()
            for place, counters in enumerate(await asyncio.to_thread(self._engine.totals)):
                if counters.client_id not in self._gone:
                    self._take(counters)
                if place % _CLIENTS_A_TURN == _CLIENTS_A_TURN - 1:
                    await asyncio.sleep(0)
            if self._pending:
                await self._registry.add_totals(tuple(self._pending.items()))
                self._pending.clear()

    def _take(self, counters: ClientCounters) -> None:
        client_id, nothing = counters.client_id, ClientTotals()
        new = counters.totals.above(self._told.get(client_id, nothing))
        if new != nothing:
            self._pending[client_id] = self._pending.get(client_id, nothing) + new
            self._told[client_id] = self._told.get(client_id, nothing) + new

    def forget(self, client_id: str) -> None:
        """The client was removed from the engine: another of its name starts at 0."""
        self._gone.add(client_id)
        self._told.pop(client_id, None)
        self._pending.pop(client_id, None)

    async def of(self, client_id: str) -> ClientCounters:
        """Everything counted for the client so far, and the limit in force. Raises NotFoundError."""
        async with self._rolling:
            kept = await self._registry.totals(client_id)
            live = self._live(client_id)
            nothing = ClientTotals()
            new = live.totals.above(self._told.get(client_id, nothing))
            sum_ = kept + self._pending.get(client_id, nothing) + new
        return ClientCounters(client_id=client_id, totals=sum_, rate_limit=live.rate_limit)

    def _live(self, client_id: str) -> ClientCounters:
        try:
            (counters,) = self._engine.totals(client_id)
        except NotFoundError:  # left out at the start
            return ClientCounters(client_id=client_id, totals=ClientTotals(), rate_limit=None)
        return counters
