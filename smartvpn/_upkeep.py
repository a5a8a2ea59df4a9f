"""What keeps the network around a tunnel right while the tunnel lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator

from smartvpn.errors import SmartVpnError

log = logging.getLogger(__name__)

# Whoever brings a network up writes its name servers some time after its addresses: they are looked at again.
LOOK_AGAIN_SECS = (1.0, 2.0, 7.0, 20.0)


class Upkeep:
    """Applies what has changed, one thing after the other: settings, the network, what sleep has cost.

    `apply(dns_again)` sets everything, with `dns_again` the name servers though they are the same;
    `report` gets None after that, or an error's words. `refresh` sets what depends on the network around.
    """

    def __init__(
        self,
        apply: Callable[[bool], Awaitable[None]],
        refresh: Callable[[], Awaitable[None]],
        report: Callable[[str | None], None],
    ) -> None:
        self._apply = apply
        self._refresh = refresh
        self._report = report
        self._changed = asyncio.Event()
        self._new_settings = self._new_network = self._slept = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From now on; what came before counts."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Nothing is applied any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def on_settings(self) -> None:
        """The hub has sent others."""
        self._new_settings = True
        self._changed.set()

    def on_network(self, slept: bool = False) -> None:
        """Addresses or routes have changed, or the machine has slept."""
        self._new_network = True
        self._slept |= slept
        self._changed.set()

    async def _run(self) -> None:
        looks: Iterator[float] = iter(())
        while True:
            try:
                async with asyncio.timeout(next(looks, None)):
                    await self._changed.wait()
            except TimeoutError:
                self._new_network = True
            else:
                looks = iter(LOOK_AGAIN_SECS) if self._new_network else looks
            self._changed.clear()
            await self._bring_about()

    async def _bring_about(self) -> None:
        all_of_it = self._new_settings or self._slept
        slept, new_network = self._slept, self._new_network
        self._new_settings = self._new_network = self._slept = False
        try:
            if all_of_it:
                await self._apply(slept)
            if new_network:
                await self._refresh()
        except SmartVpnError as error:
            log.error("the tunnel's network cannot be set: %s", error)
            self._report(str(error))
        if all_of_it:
            self._report(None)
