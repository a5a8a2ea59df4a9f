"""What a daemon that died left behind: when it is put right, and what its successor takes over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from smartvpn._control import to_the_end
from smartvpn.errors import SmartVpnError
from smartvpn.hub import Hub
from smartvpn.network import Network

log = logging.getLogger(__name__)

HEIR_SECS = 5.0
"""So long NAT and forwarding of a dead hub wait for the start of the next one."""


@asynccontextmanager
async def leftovers_put_right(heir: Hub | None) -> AsyncIterator[None]:
    """Put right what processes that died left behind; who may not do that may still do other things.

    NAT and forwarding wait for the start of `heir`, which replaces them: in a gap between the two the host
    would take packets of translated connections for its own, and reset those. If it does not start soon,
    or not at all, they are put right too.
    """
    found = await _restore(keep_flows=heir is not None)
    for interface in found:
        log.warning("put right what was left of %s", interface)
    if not found or heir is None:
        yield
        return
    waiting = asyncio.create_task(_restore_later(heir))
    try:
        yield
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await _restore()


async def _restore_later(heir: Hub) -> None:
    await asyncio.sleep(HEIR_SECS)
    await heir.settled()  # of many clients a start takes long
    await _restore()


async def _restore(*, keep_flows: bool = False) -> list[str]:
    try:
        return await to_the_end(Network.restore_leftovers, keep_flows=keep_flows)
    except SmartVpnError as error:
        log.warning("cannot look for what a dead process left behind: %s", error)
        return []
