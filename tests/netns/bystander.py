"""A hub under attack, and an honest client of it that must not notice."""

from __future__ import annotations

import asyncio
import re
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.netns.hub import Hub, hub_at
from tests.netns.topology import Topology
from tests.netns.tunnel import GATEWAY, client_on, eventually, sessions_of

MIB = 1 << 20
MOST_GROWTH = 64 * MIB
INTERVAL = 0.05


class Pinger:
    """A ping through the tunnel that never pauses; the replies it got, in order."""

    def __init__(self, process: Process) -> None:
        self.replies: list[int] = []
        self._process = process
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, machine: Topology) -> Pinger:
        """Ping the hub's gateway address from the machine `client`."""
        command = machine.command("client", "ping", "-n", "-i", str(INTERVAL), GATEWAY)
        return cls(await asyncio.create_subprocess_exec(*command, stdout=PIPE))

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            found = re.search(rb"icmp_seq=(\d+) ttl", line)
            if found:
                self.replies.append(int(found[1]))

    async def more(self, count: int) -> None:
        """Wait for that many further replies."""
        wanted = len(self.replies) + count

        async def there() -> bool:
            return len(self.replies) >= wanted

        await eventually(there)

    async def stop(self) -> None:
        """End the ping."""
        self._process.terminate()
        await self._process.wait()
        await self._reading


@asynccontextmanager
async def attacked(machine: Topology, *options: str, **changes: Any) -> AsyncIterator[Hub]:
    """A hub with a bystander, a real client that pings all the time.

    At the end the bystander has lost no ping and kept its session, and the hub lives and has not grown.
    """
    async with hub_at(machine, *options, **changes) as hub:
        bundle = await hub.server.create_client("bystander")
        async with client_on(machine, bundle.smartvpn_config) as client:
            await client.connect()
            await sessions_of(hub.server)
            before, memory = await _session_of(hub), hub.memory
            pinger = await Pinger.start(machine)
            try:
                await pinger.more(2)
                yield hub
                await pinger.more(5)
            finally:
                await pinger.stop()
            assert pinger.replies == list(range(1, len(pinger.replies) + 1))
            assert await _session_of(hub) == before
            assert hub.memory - memory < MOST_GROWTH


async def _session_of(hub: Hub) -> str:
    [session] = [info for info in await hub.server.list_clients() if info.client_id == "bystander"]
    return session.session_id
